"""How every command of the project meets its user: errors in one line, progress on a terminal only.

A user's mistake (a bad line, a misspelled key, a full disk) never shows a traceback: it prints one line that says
what is wrong, where, and what to do, and exits with 1. A traceback is left to what is really a bug of ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

SECONDS_A_LINE = 60  # between two lines of progress, at least

# DVC deletes the outputs of a stage before it runs. What the last commit says of them is in git and in DVC's cache.
RESTORE = "The outputs of the last committed run come back with: git checkout logs && dvc checkout"
DATA_STAGES = ("base", "validate", "tokenize")


class UserError(Exception):
    """A mistake the user can mend. Its text is the line they read: what, where, what to do."""


class Stopped(Exception):
    """Work that was asked to stop and has reached a safe place. Its text says how to go on."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def say(message: str) -> None:
    """Print one line about what was done or which way was chosen, at once even into a pipe.

    A line that nobody can read any more, because the terminal or the reader of the pipe went away, ends no work.
    """
    try:
        with tqdm.external_write_mode():  # above a progress bar
            print(message, flush=True)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        _stop_printing()


def run(main: Callable[[], None]) -> None:
    """Run a command's `main` and turn a user's mistake into one line and a non-zero exit status.

    Exits with 1 after a mistake or a full disk, with 128 and the signal's number after Ctrl-C or another signal.
    """
    try:
        main()
    except UserError as error:
        _fail(str(error), 1)
    except Stopped as stopped:
        _fail(str(stopped), stopped.status)
    except BrokenPipeError:
        _stop_printing()  # who read our output went away (`| head`): nothing is wrong
    except KeyboardInterrupt:
        _fail("interrupted: the same command starts it again", 130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        _fail(f"no space left on the disk{where}: free some space and run the same command again", 1)


def _stop_printing() -> None:
    """Send what is printed from now on nowhere: Python would otherwise fail once more while it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, status: int) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    if os.environ.get("DVC_STAGE", "").rpartition(":")[2] in DATA_STAGES:
        print(RESTORE, file=sys.stderr, flush=True)
    sys.exit(status)


class Lines:
    """Progress where there is no terminal: a line on standard error, at most one every `SECONDS_A_LINE`."""

    def __init__(self, label: str, total: int | None, unit: str, initial: int = 0) -> None:
        self._label, self._total, self._unit, self._initial = label, total, unit, initial
        self.n = initial  # tqdm's name for what is done
        self._told = self._began = time.monotonic()

    def update(self, more: int = 1) -> None:
        """Count `more` as done, and say how far the work is when it is time to."""
        self.n += more
        now = time.monotonic()
        if now - self._told < SECONDS_A_LINE:
            return
        self._told = now
        line = tqdm.format_meter(
            self.n,
            self._total,
            now - self._began,
            unit=self._unit,
            unit_scale=self._unit == "B",
            initial=self._initial,
            bar_format="{n_fmt}/{total_fmt}{unit}, {rate_noinv_fmt}, {remaining} left"
            if self._total
            else "{n_fmt}{unit}, {rate_noinv_fmt}",
        )
        with contextlib.suppress(OSError):  # nobody reads it any more
            print(f"{self._label}: {' '.join(line.split())}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is left to be tidied up."""

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


Bar = tqdm | Lines


def progress(label: str, total: int | None, unit: str, initial: int = 0) -> Bar:
    """A bar with rate and, where `total` is known, the time left; lines where standard error is no terminal.

    `initial` is what was done before. Both are context managers, and moved on by `update`.
    """
    if not sys.stderr.isatty():
        return Lines(label, total, unit, initial)
    return tqdm(desc=label, total=total, unit=unit, unit_scale=unit == "B", initial=initial, leave=False)


def counted(items: Iterable[T], bar: Bar) -> Iterator[T]:
    """Yield `items`, each moving the bar on by one."""
    for item in items:
        yield item
        bar.update()
