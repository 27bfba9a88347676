"""One search: its trials in turn, what came of them on the disk, and the time that is left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.lib.common import cli, files, params
from stages.lib.common.cli import UserError
from stages.lib.processes.interruption import Interruption
from tools.tune import space
from tools.tune.search import PARTS, Job, Result, Search
from tools.tune.space import Changes
from tools.tune.workplace import StageFailed, Workplace, last_line


class Run:
    """A search under way; all of it stands in `search.json`, so that it can go on another time."""

    def __init__(
        self, workplace: Workplace, settings: params.Train, names: list[str], seconds: float, interruption: Interruption
    ) -> None:
        self._workplace, self._settings, self._names = workplace, settings, names
        self._seconds, self._interruption = seconds, interruption
        self._file = workplace.folder / "search.json"
        self._rate = 0.0  # the peak learning rate of the committed settings
        self._environment: dict[str, Any] = {}  # of the first run
        self._spent, self._begun = 0.0, 0.0  # by jobs that ended, and by the one that did not
        self._under_way: Job | None = None
        self.search = Search(self._propose)
        if self._file.exists():
            self._read()

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self._seconds - self._spent - self._begun

    def until_over(self) -> None:
        """Run trials until none fits into what is left."""
        if self.search.results:
            cli.say(f"tune: goes on {self._so_far()}, {_clock(self.left)} left")
        while self.left > 0 and (job := self._under_way or self.search.next(self.left)):
            self._interruption.check(self._so_far())
            if not self._finished(job):
                break
        self._require_a_trial()
        if self.left > 0 and self.search.has_more():
            cli.say(f"  {_clock(self.left)} is too little for another run with what follows from it")

    def _finished(self, job: Job) -> bool:
        """Run a job, or go on with it; tell whether it came to its end."""
        committed = self._workplace.committed_figures() if job.whole and not (job.number or job.seed) else None
        if committed and committed["environment"] == self._environment:
            self._succeed(job, committed, weights=False)
            return True
        self._under_way = job
        self._write()
        self._workplace.reset(self._changes_of(job))
        log = self._workplace.folder / f"{job.called}.log"
        try:
            figures = self._workplace.train(job.called, log, self._watch(log))
        except StageFailed as failed:
            self._fail(job, str(failed))
            return True
        finally:
            self._write()
        if figures is None:
            self._interruption.check(self._so_far())
            return False
        self._succeed(job, figures, weights=job.whole)
        return True

    def _watch(self, log: Path) -> Callable[[], bool]:
        """What is asked all the time while a job runs: whether it is to stop. It says now and then how far it is."""
        began, before, told = time.monotonic(), self._begun, time.monotonic()

        def stop() -> bool:
            nonlocal told
            now = time.monotonic()
            self._begun = before + now - began
            if now - told >= cli.SECONDS_A_LINE:
                told = now
                cli.say(f"    {last_line(log)}")
            return bool(self._interruption.reason) or self.left < 0

        return stop

    def _so_far(self) -> str:
        count = len(self.search.results)
        return f"after {count} run{'s' * (count != 1)}"

    def _succeed(self, job: Job, figures: dict[str, Any], weights: bool) -> None:
        if (bits := figures["validation_bits_per_byte"]) is None:
            raise UserError(
                "there are no validation documents to choose by: raise validate.validation_fraction, or use a larger "
                "corpus"
            )
        if not self._rate:
            self._rate, self._environment = figures["learning_rate"], figures["environment"]
        self._workplace.keep(job.called, figures, weights)
        self._take(Result(job, self._begun, bits))  # no seconds where it was the user's own run

    def _fail(self, job: Job, why: str) -> None:
        if job.number == 0:
            raise UserError(f"training fails with the settings as they are: {cli.printable(why)}")
        cli.say(f"  {job.called} failed: {cli.printable(why)}")
        self._take(Result(job, self._begun, None))

    def _take(self, result: Result) -> None:
        """Note what came of a job, and say it."""
        self._spent, self._begun, self._under_way = self._spent + self._begun, 0.0, None
        self.search.results.append(result)
        self._write()
        if result.bits is not None:
            job = result.job
            part = "" if job.whole else f" after 1/{job.part} of its length"
            changed = space.shown(job.changes) or "as they are"
            cli.say(f"  {job.called}: validation {result.bits:.4f}{part}, {_clock(self.left)} left: {changed}")

    def _changes_of(self, job: Job) -> Changes:
        """The settings that a job runs with, its length and seed included."""
        name = space.length_name(self._settings)
        length = job.changes.get(name, space.length(self._settings)) / job.part
        found = dict(job.changes)
        if not job.whole:
            found[name] = max(1, round(length)) if self._settings.max_steps else float(f"{length:.4g}")
        if job.seed:
            found["train.seed"] = self._settings.seed + job.seed
        return found

    def _propose(self, parents: list[Changes], number: int) -> tuple[Changes, float] | None:
        tried = [one.job.changes for one in self.search.results]
        changes = space.propose(parents, tried, self._settings, self._rate, self._names, number)
        if changes is None:
            return None
        long = space.length(self._settings)
        return changes, changes.get(space.length_name(self._settings), long) / long

    def _require_a_trial(self) -> None:
        """Raise UserError where the time was too short to try anything but the settings as they are."""
        if any(one.job.number for one in self.search.results):
            return
        done = {one.job.part for one in self.search.results}
        takes = ""
        if {*PARTS[:2]} <= done:
            takes = f", which takes {math.ceil((self._spent + self.search.needed()) / 60)}"
        raise UserError(
            f"--minutes {self._seconds / 60:g} is too little for one trial{takes}: the same command with more goes on"
        )

    def _read(self) -> None:
        state = files.read_json(self._file)
        self._rate, self._environment = state["rate"], state["environment"]
        self._spent, self._begun = state["spent"], state["begun"]
        self._under_way = Job(**state["under_way"]) if state["under_way"] else None
        self.search.results += [Result(Job(**one["job"]), one["seconds"], one["bits"]) for one in state["results"]]

    def _write(self) -> None:
        files.write_json(
            self._file,
            {
                "rate": self._rate,
                "environment": self._environment,
                "spent": self._spent,
                "begun": self._begun,
                "under_way": asdict(self._under_way) if self._under_way else None,
                "results": [asdict(one) for one in self.search.results],
            },
        )


def _clock(seconds: float) -> str:
    return cli.Meter.format_interval(max(0, seconds))
