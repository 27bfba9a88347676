"""How every command of the project meets its user: errors in one line, progress on a terminal only.

A user's mistake (a bad line, a misspelled key, a full disk) never shows a traceback: it prints one line that says
what is wrong, where, and what to do, and exits with 1. A traceback is left to what is really a bug of ours.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

# DVC deletes the outputs of a stage before it runs; what was in them is still in its cache and in git.
RESTORE = "The outputs of the last good run come back with: git checkout logs && dvc checkout"


class UserError(Exception):
    """A mistake the user can mend. Its text is the line they read: what, where, what to do."""


def say(message: str) -> None:
    """Print one line about what was done or which way was chosen, at once even into a pipe."""
    print(message, flush=True)


def run(main: Callable[[], None]) -> None:
    """Run a command's `main` and turn a user's mistake into one line and a non-zero exit status.

    Exits with 1 after a mistake or a full disk, with 130 after Ctrl-C.
    """
    try:
        main()
    except UserError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        _fail(f"no space left on the disk{where}: free some space and run the same command again", 1)


def _fail(message: str, status: int) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    if "DVC_STAGE" in os.environ:
        print(RESTORE, file=sys.stderr, flush=True)
    sys.exit(status)


def progress(items: Iterable[T], label: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Yield `items`, with a bar that shows rate and time left when standard error is a terminal.

    `total` is the number of items, where it is known.
    """
    from tqdm import tqdm

    # disable=None: tqdm stays silent by itself where there is no terminal.
    yield from tqdm(items, desc=label, unit=f" {unit}", total=total, disable=None, leave=False)
