"""How every command of the project meets its user: errors in one line, progress on a terminal only.

A user's mistake (a bad line, a misspelled key, a full disk) never shows a traceback: it prints one line that says
what is wrong, where, and what to do, and exits with 1. A traceback is left to what is really a bug of ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

import stages
from stages.lib.common import parents
from stages.lib.common.parents import command
from stages.lib.common.translation import translated

T = TypeVar("T")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

SECONDS_A_LINE = 60  # between two lines of progress, at least

# DVC deletes the outputs of a stage before it runs. What the last commit says of them is in git and in DVC's cache.
_BACK = command("git checkout dvc.lock logs && dvc checkout")
RESTORE = f"The outputs of the last committed run come back with: {_BACK}"
# What -S changed stays in params.yaml when an experiment fails.
UNDO = (
    f"params.yaml keeps the settings of this experiment: {command('dvc params diff')} shows them, and "
    "git checkout params.yaml takes them back, with all else that was changed there since the last commit"
)
_AGAIN = "and run the same command again"
# Errors of the system that mean no mistake of ours: what to call them, and what the user can do.
_REFUSALS = {
    errno.ENOSPC: ("no space left on the disk", f"free some space {_AGAIN}"),
    errno.EDQUOT: ("your share of the disk is used up", f"free some space {_AGAIN}"),
    errno.EACCES: ("permission denied", f"see that your user may read and write it {_AGAIN}"),
    errno.EPERM: ("the system does not permit that", f"see that your user may read and write it {_AGAIN}"),
    errno.EROFS: ("the file system is read-only", "make it writable, or work in another folder"),
    errno.EFBIG: ("the file gets too large", "raise the limit of `ulimit -f`, or use another disk"),
    errno.EMFILE: ("too many open files", f"raise the limit, for example by `ulimit -n 4096`, {_AGAIN}"),
    errno.ENFILE: ("too many open files on this machine", f"close other programs {_AGAIN}"),
    errno.EISDIR: ("a folder stands where a file belongs", f"move it away {_AGAIN}"),
    errno.ENOTDIR: ("a file stands where a folder belongs", f"move it away {_AGAIN}"),
    errno.ENAMETOOLONG: ("the name is too long", "use a shorter one"),
    errno.EIO: ("the disk failed", "see what the system's log says of it, and use another disk"),
    errno.ESTALE: ("the network's file system lost the file", f"mount it again {_AGAIN}"),
    errno.ENOMEM: ("out of memory", f"close other programs {_AGAIN}"),
}
_REFUSALS[errno.EEXIST] = _REFUSALS[errno.ENOTDIR]  # as Python says where it would make the folder
_LONGEST_LINE = 2000  # characters of an error
_exit: Callable[[int], None] = sys.exit
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
            print(harmless(translated(message)), flush=True)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        stop_printing()


def run(main: Callable[[], None], ends_with_dvc: bool = True) -> None:
    """Run a command's `main` and turn a user's mistake into one line and a non-zero exit status.

    That is 1 after a mistake or a refusal of the machine, 128 and the signal's number after a signal. A stage ends with
    the `dvc` that started it, where `main` does not see to that itself.
    """
    stages.loaded()
    stages.prepare_streams()
    try:
        stages.hear_ctrl_c()
        if ends_with_dvc and "DVC_STAGE" in os.environ:
            parents.end_with_dvc()
        main()
    except UserError as error:
        if in_place := parents.experiment_in_place():
            parents.show_git("params.yaml")
        _fail(str(error), 1, UNDO if in_place else None)
    except Stopped as stopped:
        _fail(str(stopped), stopped.status)
    except BrokenPipeError:
        stop_printing()  # who read our output went away (`| head`): nothing is wrong
    except KeyboardInterrupt:
        _fail("interrupted: the same command starts it again", 130)
    except (OSError, MemoryError, RuntimeError) as error:
        if (message := refusal(error)) is None:
            raise
        _fail(message, 1)


def refusal(error: Exception) -> str | None:
    """What the machine refused (a file, space, memory), in one line that says what to do; None for any other error."""
    # torch has errors of its own for memory, and is not loaded for their sake.
    if isinstance(error, MemoryError) or re.search(r"out of memory|can't allocate memory", str(error)):
        return (
            "out of memory: close other programs; training takes less with a lower train.batch_size, then "
            f"tokenize.max_length ({printable(str(error)) or type(error).__name__})"
        )
    if not isinstance(error, OSError) or error.errno not in _REFUSALS:
        return None
    what, remedy = _REFUSALS[error.errno]
    path = error.filename2 or error.filename
    # A library may put the path into its message instead.
    where = os.fsdecode(path) if isinstance(path, str | bytes) else (error.strerror or "")
    known = where in ("", os.strerror(error.errno))
    return f"{what}{'' if known else f': {printable(where)}'}: {remedy}"


def stop_printing() -> None:
    """Send what is printed from now on nowhere. Python would fail once more at its end where the reader is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def end_at_once() -> None:
    """From now on end this process with its status as soon as an error is shown, without the interpreter's own end.

    In that one, threads of a library that still talk to other processes abort the process (SIGABRT).
    """
    global _exit
    _exit = os._exit
    sys.excepthook = lambda *error: (sys.__excepthook__(*error), sys.stderr.flush(), os._exit(1))


def _fail(message: str, status: int, advice: str | None = None) -> None:
    lines = [printable(line, _LONGEST_LINE) for line in translated(f"error: {message}").split("\n")]
    print(*lines, sep="\n", file=sys.stderr, flush=True)
    if os.environ.get("DVC_STAGE", "").rpartition(":")[2] in DATA_STAGES and parents.last_commit_can_come_back():
        print(translated(RESTORE), file=sys.stderr, flush=True)
    if advice:
        print(translated(advice), file=sys.stderr, flush=True)
    _exit(status)


class Meter(tqdm):
    """Progress on a terminal."""

    @staticmethod
    def format_meter(*given: object, **named: object) -> str:
        """What tqdm shows, the rate in the user's language."""
        return re.sub(r"/s(?=[],]|$)", f" {translated('per second')}", tqdm.format_meter(*given, **named))


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
        line = Meter.format_meter(
            self.n,
            self._total,
            now - self._began,
            unit=self._unit,
            unit_scale=self._unit == "B",
            initial=self._initial,
            bar_format="{n_fmt}/{total_fmt}{unit}, {rate_noinv_fmt}, " + translated("{remaining} left")
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


Bar = Meter | Lines


def progress(label: str, total: int | None, unit: str, initial: int = 0) -> Bar:
    """A bar with rate and, where `total` is known, the time left; lines where standard error is no terminal.

    `initial` is what was done before. Both are context managers, and moved on by `update`.
    """
    label, unit = translated(label), translated(f"5{unit}")[1:]  # the form of the word that goes with many
    if not sys.stderr.isatty():
        return Lines(label, total, unit, initial)
    shape = "{desc}: {n_fmt}{unit} [{elapsed}, {rate_noinv_fmt}]"
    if total:
        shape = "{l_bar}{bar}| {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
    return Meter(None, label, total, False, unit=unit, unit_scale=unit == "B", initial=initial, bar_format=shape)


def counted(items: Iterable[T], bar: Bar) -> Iterator[T]:
    """Yield `items`, each moving the bar on by one."""
    for item in items:
        yield item
        bar.update()
