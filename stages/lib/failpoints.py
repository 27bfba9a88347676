"""Places at which a test can have a run killed, to prove that none of them loses anything.

`FAILPOINT=name` in the environment kills the process, as `kill -9` would, when it gets to the place of that name;
`FAILPOINT=name:3` when it gets there for the third time. Without the variable a place costs a look at a string.
"""

from __future__ import annotations

import os
import signal

# Every place, in the order in which a run comes by.
NAMES = (
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

_name, _, _times = os.environ.get("FAILPOINT", "").partition(":")
_left = int(_times or 1)


def reach(name: str) -> None:
    """Die here, if this is the place and the time."""
    global _left
    if name == _name:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
