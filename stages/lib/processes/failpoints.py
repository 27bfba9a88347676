"""Places at which a test can have a run killed, to prove that none of them loses anything, or held.

`FAILPOINT=name` in the environment kills the process, as `kill -9` would, when it gets to the place of that name;
`FAILPOINT=name:3` when it gets there for the third time. `HOLDPOINT` has it stand still there, as `kill -STOP` would,
until it is continued. Without these variables a place costs a look at two strings.
"""

from __future__ import annotations

import os
import signal
import time

# Seconds until a signal that came while the process stood still is noted: any of its threads may be the one to get it.
_NOTED = 0.5

# Every place, in the order in which a run comes by.
NAMES = (
    "step taken",
    "best weights written",  # beside their slot
    "best weights in place",
    "checkpoint weights written",
    "checkpoint optimizer written",
    "checkpoint random states written",
    "checkpoint trainer state written",
    "checkpoint record written",
    "checkpoint sealed",
    "older checkpoint deleted",
    "older best weights deleted",
    "output model written",
    "output curves written",
    "output figures written",
    "run finished",
)


class _Point:
    """The place that a variable of the environment names, and the signal that the process sends itself there."""

    def __init__(self, variable: str, number: signal.Signals) -> None:
        self.name, _, times = os.environ.get(variable, "").partition(":")
        self._left, self._number = int(times or 1), number

    def reach(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._number)
            time.sleep(_NOTED)


_points = (_Point("FAILPOINT", signal.SIGKILL), _Point("HOLDPOINT", signal.SIGSTOP))


def reach(name: str) -> None:
    """Die or stand still here, if this is the place and the time."""
    for point in _points:
        if name == point.name:
            point.reach()
