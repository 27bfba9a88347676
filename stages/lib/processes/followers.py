"""The processes that the first one starts: what they are given, and what is said when one of them is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO

from stages.lib.common import cli
from stages.lib.common.cli import UserError

STARTED_BY = "STARTED_BY"  # the first process, in the environment of the others
_LOOK_EVERY = 0.5  # seconds
_GRACE = 1.0  # seconds that processes have to end for the same reason
_AT_LAST = 8.0  # seconds after which a process that hangs in a library is ended


def end_with(starter: int) -> None:
    """From now on end this process, which writes nothing, when the one that started it is gone."""

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(_LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Followers:
    """The processes `ranks` of `size`, each running the module `stage` with so many threads while the `with` block
    lasts: in `folder`, with the words of this process's own command line where they are not in another one.

    A machine has `here` processes; they meet at `address`, a host and a port.

    They have a session of their own: Ctrl-C and a hang-up reach the first process alone, which tells them. When one of
    them ends too early, UserError is raised in the main thread, wherever it is.
    """

    def __init__(
        self,
        stage: str,
        ranks: range,
        size: int,
        here: int,
        address: tuple[str, int],
        threads: int,
        folder: Path | None = None,
    ) -> None:
        self._ranks, self._size, self._here, self._over = ranks, size, here, threading.Event()
        self._command, self._folder = [sys.executable, "-m", stage, *([] if folder else sys.argv[1:])], folder
        self._environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
        self._environment |= {STARTED_BY: str(os.getpid()), "WORLD_SIZE": str(size), "OMP_NUM_THREADS": str(threads)}
        self._environment |= {"MASTER_ADDR": address[0], "MASTER_PORT": str(address[1]), "MACHINES": str(size // here)}
        self._started: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def __enter__(self) -> Followers:
        self._before = signal.signal(signal.SIGUSR2, self._on_loss)
        for rank in self._ranks:
            said = tempfile.TemporaryFile()
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank % self._here)}
            process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment | place,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )
            self._started.append((process, said))
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType) -> None:
        self._over.set()
        for process, said in self._started:
            process.kill()
            process.wait()
            said.close()
        signal.signal(signal.SIGUSR2, self._before)

    def wait(self) -> None:
        """Wait until all have ended as they should; raises UserError where one does not."""
        for process, _ in self._started:
            process.wait()
        self.check()

    def tell(self, number: int) -> None:
        """Pass a signal on."""
        for process, _ in self._started:
            process.send_signal(number)

    def check(self, patiently: bool = False) -> None:
        """Raise UserError if one of them ended as it should not; `patiently`: if one of them is about to."""
        until = time.monotonic() + (_GRACE if patiently else 0)
        while True:
            for rank, (process, said) in zip(self._ranks, self._started, strict=True):
                if process.poll():
                    raise UserError(self._explained(rank, process.returncode, said))
            if time.monotonic() >= until:
                return
            time.sleep(_LOOK_EVERY)

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_EVERY):
            if any(process.poll() for process, _ in self._started):
                if not self._over.wait(_GRACE):
                    os.kill(os.getpid(), signal.SIGUSR2)
                if not self._over.wait(_AT_LAST):  # nothing is lost, and the main thread will not get to say why
                    cli.end_at_once()
                    cli.run(self.check, ends_with_dvc=False)
                return

    def _on_loss(self, number: int, frame: FrameType | None) -> None:
        self.check()

    def _explained(self, rank: int, status: int, file: IO[bytes]) -> str:
        name = f"process {rank + 1} of {self._size}"
        if status < 0:
            how = signal.Signals(-status).name
            return f"{name} was ended by {how}: run the same command again, training goes on from the last checkpoint"
        file.seek(0)
        said = file.read().decode("utf-8", "replace")
        if "Traceback" in said:
            print(said, file=sys.stderr, flush=True)
            return f"{name} failed, see above"
        line = (said.strip().splitlines() or [f"ended with status {status}"])[-1]
        return f"{name}: {line.partition(': ')[2] or line}"
