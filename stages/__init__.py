"""The stages of the pipeline, each one small script: base, validate, tokenize, train, evaluate, report.

What they import makes some million objects that live as long as the process does. Python would search them for garbage
again and again meanwhile, in a quarter of the time that a stage takes to start: so it waits until they are loaded.
"""

import gc
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_USUAL = gc.get_threshold()
_RARE = (100_000, *_USUAL[1:])

gc.set_threshold(*_RARE)


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
