"""The stages of the pipeline, each one small script: base, validate, tokenize, train, evaluate, report.

What they import makes some million objects that live as long as the process does. Python would search them for garbage
again and again meanwhile, in a quarter of the time that a stage takes to start: so it waits until they are loaded.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_USUAL = gc.get_threshold()
_RARE = (100_000, *_USUAL[1:])

gc.set_threshold(*_RARE)


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
