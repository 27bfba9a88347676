"""The points of a run on their way to one tracker, from a thread that training never waits for.

A tracker that is slow, out of reach or in error costs a run nothing but a line. Each point arrives once, also in a run
that goes on after a kill: that one goes on in the tracker's own run, from where that one is.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.lib.common import cli
from stages.lib.tracking import choice, trackers
from stages.lib.tracking.journal import Journal, Place

_THREAD = "tracker "  # what its name begins with
PATIENCE = {True: 60.0, False: 5.0}  # seconds that the end of a run waits, finished or broken off


class Delivery:
    """What takes the points of a run to a tracker, in order, and remembers in the file `journal` how far it is."""

    def __init__(
        self, name: str, tracker: trackers.Tracker, journal: Path, run: str, settings: Mapping[str, Any]
    ) -> None:
        self._name, self._tracker, self._journal = name, tracker, Journal(journal)
        self._run, self._settings = run, settings
        self._begun, self._told = False, False
        self._finished: bool | None = None  # None: the run goes on
        self._news = threading.Event()
        self._news.set()  # a run without points begins as well
        self._thread = threading.Thread(target=self._work, name=f"{_THREAD}{name}", daemon=True)
        self._thread.start()

    def put(self, place: Place, values: Mapping[str, float]) -> None:
        """Have a point delivered, unless it was put before. Points come in order."""
        if place > self._journal.newest:
            with contextlib.suppress(OSError):  # a full disk is for the checkpoints to speak of
                self._journal.add(place, values)
            self._news.set()

    def end(self, finished: bool) -> None:
        """Let the tracker know that no more points come."""
        self._finished = finished
        self._until = time.monotonic() + PATIENCE[finished]
        self._news.set()

    def close(self) -> None:
        """Wait for what is on its way, but not for long; say so where it did not arrive. After `end`."""
        self._thread.join(max(0, self._until - time.monotonic()))
        count = len(self._journal.after(self._journal.arrived))
        if not count:
            return
        points = f"{count} point{'s' * (count > 1)}"
        if self._finished:
            cli.say(f"train: {self._name} did not get {points}; logs/train_loss.tsv and logs/validation.tsv have them")
        else:
            cli.say(f"train: {self._name} did not get {points}, and gets them when the run goes on")

    def _work(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            finished = self._finished
            try:
                self._deliver()
                if finished is not None:
                    self._tracker.end(finished)
            except Exception as error:  # whatever a library for the network raises
                self._tell(error)
            if finished is not None:
                return

    def _deliver(self) -> None:
        if not self._begun:
            choice.require([self._name])
            found = self._tracker.begin(self._journal.run, self._run, self._settings)
            self._journal.began(found.run)
            self._journal.went(self._journal.arrived if found.arrived is None else found.arrived)
            self._begun = True
            cli.say(f"  {self._name}: {found.where}")
        for place, values in self._journal.after(self._journal.arrived):
            self._tracker.log(place, values)
            self._journal.went(place)
            self._told = False

    def _tell(self, error: Exception) -> None:
        if not self._told and self._finished is None:
            why = cli.printable(" ".join(str(error).split()) or type(error).__name__)
            cli.say(f"  {self._name} does not take the curves ({why}): training goes on, and tries again at each point")
            self._told = True


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """End this process at once after the `with` block, also after sys.exit, where a tracker was waited for in vain.

    At the interpreter's own end its library would begin to wait again, for minutes.
    """
    status: Any = None
    try:
        yield
        status = 0
    except SystemExit as ended:
        status = ended.code
        raise
    finally:
        if status is not None and any(thread.name.startswith(_THREAD) for thread in threading.enumerate()):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
