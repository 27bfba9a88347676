"""The stages of the pipeline, each one small script: base, validate, tokenize, train, evaluate, report.

What they import makes some million objects that live as long as the process does. Python would search them for garbage
again and again meanwhile, in a quarter of the time that a stage takes to start: so it waits until they are loaded.
"""

import gc
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_USUAL = gc.get_threshold()
_RARE = (100_000, *_USUAL[1:])

gc.set_threshold(*_RARE)

# sys.argv begins with -m while Python looks for the module of `python -m stages.train`, in this package.
_SPEC = getattr(sys.modules["__main__"], "__spec__", None)
_STARTED = getattr(_SPEC, "name", os.path.basename((sys.argv or [""])[0]))
# While one of the project's commands is loaded Ctrl-C ends it without the traceback of whatever was being imported.
_LOADING = _STARTED in ("-m", "generate.py") or _STARTED.startswith(("tools.", "bench."))
if _LOADING and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def hear_ctrl_c() -> None:
    """From now on raise KeyboardInterrupt at Ctrl-C, as Python does, where this module had put that off."""
    if _LOADING and signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def prepare_streams() -> None:
    """Have standard streams that are there, and take any letter.

    A service may start Python without them: nothing is read then, or seen. What a terminal lacks stands there as an
    escape, as Python has it for standard error.
    """
    for name, mode in (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, mode), "w" if mode else "r", encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def loaded() -> None:
    """Search for garbage as usual from now on, but no more among what is there by now."""
    if gc.get_threshold() == _RARE:
        gc.freeze()
        gc.set_threshold(*_USUAL)


@contextmanager
def loading() -> Iterator[None]:
    """Where libraries are imported after the start: while this lasts garbage is searched for less often."""
    gc.set_threshold(*_RARE)
    yield
    loaded()
