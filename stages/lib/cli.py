"""How every command of the project meets its user: errors in one line, progress on a terminal only.

A user's mistake (a bad line, a misspelled key, a full disk) never shows a traceback: it prints one line that says
what is wrong, where, and what to do, and exits with 1. A traceback is left to what is really a bug of ours.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

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


def printable(text: str, limit: int = 200) -> str:
    """What others wrote (a field's name, a path, a value) as a message may show it: on one line, and not too long.

    What would move the cursor, break the line, turn the direction of writing or be seen by nobody stands there as an
    escape such as `\\x1b`. What comes after `limit` characters is left out, and `…` says so.
    """
    pieces = [
        piece if piece.isprintable() else piece.encode("unicode_escape").decode("ascii") for piece in text[: limit + 1]
    ]
    if len("".join(pieces)) <= limit:
        return "".join(pieces)
    while len("".join(pieces)) >= limit:
        pieces.pop()
    return "".join(pieces) + "…"


def harmless(text: str) -> str:
    """`text` with all that it has but what steers a terminal: control characters but tab and line end are escapes."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def say(message: str) -> None:
    """Print one line about what was done or which way was chosen, at once even into a pipe.

    A line that nobody can read any more, because the terminal or the reader of the pipe went away, ends no work.
    """
    try:
        with tqdm.external_write_mode():  # above a progress bar
            print(harmless(message), flush=True)
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
    print(f"error: {harmless(message)}", file=sys.stderr, flush=True)
    if os.environ.get("DVC_STAGE", "").rpartition(":")[2] in DATA_STAGES:
        print(RESTORE, file=sys.stderr, flush=True)
    sys.exit(status)


def progress(label: str, total: int | None, unit: str) -> tqdm:
    """A bar with rate and, where `total` is known, the time left; silent where standard error is no terminal."""
    # disable=None: tqdm looks for the terminal by itself.
    return tqdm(desc=label, total=total, unit=unit, unit_scale=unit == "B", disable=None, leave=False)


def counted(items: Iterable[T], bar: tqdm) -> Iterator[T]:
    """Yield `items`, each moving the bar on by one."""
    for item in items:
        yield item
        bar.update()
