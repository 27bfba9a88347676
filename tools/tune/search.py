"""Which trial is next: successive halving within a budget of time.

Trials begin as short runs, of a ninth of their length. The best third of those goes on to a third of the length, and
the best third of those again to the whole. Each run is planned for its own length, warm-up and decay of the learning
rate included, and begins anew. This is the asynchronous form (ASHA, Li et al. 2020), one trial at a time: what is next
follows from the results so far and from nothing else, so that an interrupted search goes on where it was.

Trial 0 has the committed settings, at each length. A length whose steps take less time than a run takes to start is
left out. One run says nothing about chance: so the best trial, once it has had its whole length, and trial 0 have
another seed before the search goes on, and time for that is kept. What was told once stays told, whenever it ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import mean

import numpy as np

from tools.tune.space import Changes

PARTS = (9, 3, 1)  # a run has the whole length of its settings, divided by this
_BEST = 3  # of so many results the best one goes on
_PARENTS = 3  # so many of the best trials are what others begin with
SEEDS = 3  # of the committed settings and of the best, where time is left


@dataclass(frozen=True)
class Job:
    """One run of training: a trial's settings, a part of their length, and how much is added to the seed."""

    number: int
    changes: Changes
    length: float  # of the whole run, where the committed settings have 1
    part: int
    seed: int = 0

    @property
    def called(self) -> str:
        """What its experiment is called."""
        short, again = f"-1of{self.part}" if self.part > 1 else "", f"-again{self.seed}" if self.seed else ""
        return f"tune-{self.number}{short}{again}"

    @property
    def whole(self) -> bool:
        """Whether it has its whole length."""
        return self.part == 1


@dataclass(frozen=True)
class Result:
    """What came of a job."""

    job: Job
    seconds: float  # 0 where a run of the user's own was taken over
    bits: float | None  # validation bits per byte of the weights that were kept; None: it failed


@dataclass
class Search:
    """Results so far, in the order they came. `propose` makes new settings of those of the best trials."""

    propose: Callable[[list[Changes], int], tuple[Changes, float] | None]
    results: list[Result] = field(default_factory=list)

    def next(self, left: float) -> Job | None:
        """The next job, for which `left` seconds are enough by what others took; None when the search is over.

        Trial 0 comes first, however long it takes.
        """
        for part in PARTS:
            if not self._found(0, part):
                return Job(0, {}, 1.0, part)
        best = next((one.job for _, one in self.best()), None)
        telling = self._until_told(best, 2) if best and best.whole else []
        if telling and sum(map(self.seconds, telling)) <= left:
            return telling[0]
        job = self._to_explore()
        if job and self.seconds(job) + self._kept_back() <= left:
            return job
        fitting = (jobs[0] for jobs in self._to_end_with() if jobs and sum(map(self.seconds, jobs)) <= left)
        if ending := next(fitting, None):
            return ending
        # Nothing to end with: the time kept for it may find something, and more time tell whether that is chance.
        found_none = job is not None and not self.best()
        return job if found_none and self.seconds(job) + self.seconds(self._whole(job)) <= left else None

    def needed(self) -> float:
        """How many seconds the first trial after trial 0 takes with all that follows from it."""
        job = self._to_explore()
        return self._kept_back() + (self.seconds(job) if job else 0)

    def has_more(self) -> bool:
        """Whether there is anything that was not tried."""
        return self._to_explore() is not None

    def minutes_to_tell(self, job: Job) -> int | None:
        """How many minutes in all would tell whether a trial is better by more than chance; None where no run would."""
        if not (lacking := self._until_told(job, 2) or self._until_told(job, SEEDS)):
            return None
        seconds = sum(one.seconds for one in self.results) + sum(map(self.seconds, lacking))
        return math.ceil(seconds / 60) + 1

    @property
    def parts(self) -> list[int]:
        """The lengths that trials have: short ones only where their steps take at least as long as the start."""
        long, short = (self._found(0, part) for part in (PARTS[1], PARTS[0]))
        if not long or not short:
            return [1]
        a_whole = (long.seconds - short.seconds) / (1 / PARTS[1] - 1 / PARTS[0])
        start = short.seconds - a_whole / PARTS[0]
        return [part for part in PARTS if part == 1 or a_whole / part >= start]

    def seconds(self, job: Job) -> float:
        """How long a job will take: a start and its steps, by the results so far."""
        timed = [one for one in self.results if one.seconds and one.bits is not None]
        sizes, seconds = np.array([(one.job.length / one.job.part, one.seconds) for one in timed]).T
        slope, start = np.polyfit(sizes, seconds, 1)
        if slope <= 0:
            slope, start = 0.0, max(seconds)
        elif start <= 0:
            slope, start = max(seconds / sizes), 0.0

        def expected(one: Job) -> float:
            return float(start + slope * one.length / one.part)

        # Some settings take longer than others: dropout does.
        own = [one.seconds / expected(one.job) for one in timed if one.job.number == job.number]
        return expected(job) * max([1.0, *own])

    def of(self, number: int) -> list[Result]:
        """The results of a trial at its whole length, one a seed."""
        return [one for one in self.results if one.job.number == number and one.job.whole and one.bits is not None]

    def best(self) -> list[tuple[float, Result]]:
        """Trials that are better than trial 0 at the greatest length that they had, and by how much; the best first.

        By how much is the mean over the seeds that both have had.
        """
        found = {}
        for part in PARTS:  # a greater length takes the place of a smaller one
            for one in self._at(part):
                seeds = [(self._bits(0, part, seed), self._bits(one.job.number, part, seed)) for seed in range(SEEDS)]
                gains = [before - after for before, after in seeds if before is not None and after is not None]
                if one.job.number and gains:
                    found[one.job.number] = (mean(gains), one)
        return sorted(((gain, one) for gain, one in found.values() if gain > 0), key=lambda found: -found[0])

    def _to_explore(self) -> Job | None:
        """A trial that goes on to a greater length, or a new one."""
        for shorter, longer in reversed(list(zip(self.parts, self.parts[1:], strict=False))):
            done = self._at(shorter)
            for one in done[: len(done) // _BEST]:
                if not self._found(one.job.number, longer):
                    return replace(one.job, part=longer)
        number = max(one.job.number for one in self.results) + 1
        parents = [one.job.changes for _, one in self.best()[: _PARENTS - 1]]
        if (proposed := self.propose([*parents, {}], number)) is None:
            return None
        return Job(number, *proposed, self.parts[0])

    def _to_end_with(self) -> list[list[Job]]:
        """Jobs for what time is left: of these groups the first that fits into it as a whole is begun."""
        groups, better = [], [one.job for _, one in self.best()]
        for job in better:
            groups.append(self._until_told(job, 2))
            if job.whole:
                groups.append(self._until_told(job, SEEDS))
                break
        return groups + [[self._whole(job)] for job in better if not job.whole]

    def _kept_back(self) -> float:
        """The time for the end: what the best trial so far, or one like trial 0, still lacks."""
        job = next((one.job for _, one in self.best()), Job(-1, {}, 1.0, PARTS[0]))
        return sum(map(self.seconds, self._until_told(job, 2)))

    def _until_told(self, job: Job, seeds: int) -> list[Job]:
        """What it takes to compare a trial with trial 0 over so many seeds."""
        both = (Job(0, {}, 1.0, 1), self._whole(job))
        jobs = [replace(one, seed=seed) for seed in range(seeds) for one in both]
        return [one for one in jobs if not self._found(one.number, 1, one.seed)]

    def _whole(self, job: Job) -> Job:
        return replace(job, part=1, seed=0)

    def _at(self, part: int) -> list[Result]:
        """Results with the first seed at a length, the best first; without those that failed."""
        found = [one for one in self.results if one.job.part == part and not one.job.seed and one.bits is not None]
        return sorted(found, key=lambda one: one.bits)

    def _bits(self, number: int, part: int, seed: int) -> float | None:
        found = self._found(number, part, seed)
        return found.bits if found else None

    def _found(self, number: int, part: int, seed: int = 0) -> Result | None:
        wanted = (number, part, seed)
        return next((one for one in self.results if (one.job.number, one.job.part, one.job.seed) == wanted), None)
