"""Being told to stop: by Ctrl-C, by a signal, or because the `dvc` that started us is gone.

The request is noted and the work goes on to its next safe place, where it asks. A second Ctrl-C or SIGTERM ends the
process at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType

from stages.lib.common import parents
from stages.lib.common.cli import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GONE = "the dvc that started it is gone"


class Interruption:
    """Notes requests to stop while the `with` block runs."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.status = 1
        self._over = threading.Event()
        self._terminals = [stream.fileno() for stream in (sys.stdout, sys.stderr) if stream.isatty()]

    def __enter__(self) -> Interruption:
        # A signal that is ignored (nohup) stays so.
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number, handler in self._before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        if "DVC_STAGE" in os.environ:
            threading.Thread(target=self._watch, args=[parents.chain_to_dvc()], daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType) -> None:
        self._over.set()
        self._restore(*_SIGNALS)

    def check(self, done: str) -> None:
        """Raise Stopped if somebody asked for it; `done` says how far the work has come."""
        if self.reason:
            raise Stopped(f"stopped {done} ({self.reason}): the same command goes on from there", self.status)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            # The terminal is gone, and whoever writes to it fails. The system may say so more than once.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for terminal in self._terminals:
                os.dup2(nowhere, terminal)
            os.close(nowhere)
        else:
            self._restore(signal.SIGINT, signal.SIGTERM)
        # What ends the whole group ends dvc as well, which may be noticed first: the signal's name says more.
        if self.reason in (None, _GONE):
            self.reason, self.status = signal.Signals(number).name, 128 + number

    def _restore(self, *numbers: int) -> None:
        for number in numbers:
            signal.signal(number, self._before[number])

    def _watch(self, chain: parents.Chain) -> None:
        while parents.there(chain):
            if self._over.wait(parents.LOOK_EVERY):
                return
        self.reason = self.reason or _GONE
