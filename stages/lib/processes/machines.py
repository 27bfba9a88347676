"""Several machines that train one model: how they meet, and what the others are given.

The first one is where the pipeline runs, with MACHINES=2 in its environment: where a run takes place is no setting of
it. On each of the others `python -m tools.join HOST:PORT` waits for it, in a clone with the same code, is given what
training reads, and starts its share of the processes. They meet at the store that the first one opens, and trust each
other: the port is for a network in which everybody may read the texts and take part.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath

import psutil
from torch import distributed

from stages.lib.common import cli, files
from stages.lib.common.cli import UserError, printable
from stages.lib.processes.group import losses

PORT, LAST_PORT = 29400, 65_535  # the first unless MACHINES_PORT is another
CODE = "stages"
_LOOK_EVERY = 0.2  # seconds
_JOB, _HERE, _HOST, _GO = "job", "machines", "host", "go"  # in the store


@dataclass(frozen=True)
class Job:
    """What a machine that joins needs to know."""

    stage: str
    machines: int
    processes: int  # on all machines together
    port: int  # where the files are
    files: dict[str, str]  # their SHA-256, by their names in the project


def count() -> int:
    """How many machines train together, this one among them, as the environment says."""
    return _from_environment("MACHINES", 1, 10_000)


def port() -> int:
    """Where the first machine waits for the others."""
    return _from_environment("MACHINES_PORT", PORT, LAST_PORT)


def number(text: str, most: int) -> int | None:
    """The whole number from 1 to `most` that a text is, if it is one."""
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text) <= most else None


def _from_environment(name: str, usual: int, most: int) -> int:
    given = os.environ.get(name, str(usual))
    if (found := number(given, most)) is None:
        raise UserError(f"{name} in the environment is {printable(given)}, not a number from 1 to {most}")
    return found


def gather(
    store: distributed.Store, stage: str, processes: int, offered: Mapping[str, Path], check: Callable[[], None]
) -> None:
    """Wait, on the first machine, until all are here and have the files that are `offered`, by name in the project.

    `check` is called while it waits, and may raise.
    """
    wanted = count() - 1
    address = cli.command(f"python -m tools.join {socket.gethostname()}:{port()}")
    cli.say(f"train: waiting for {wanted} more machine{'s' * (wanted > 1)}; there: {address}")
    hashes = {name: files.sha256(path) for name, path in offered.items()}
    with _served(list(offered.values())) as place:
        store.set(_JOB, json.dumps(asdict(Job(stage, wanted + 1, processes, place, hashes))))
        while store.add(_HERE, 0) < wanted:
            check()
            time.sleep(_LOOK_EVERY)
    _talk_over(store.get(_HOST).decode())
    store.set(_GO, "")


@contextmanager
def _served(paths: list[Path]) -> Iterator[int]:
    """Answer requests for /0, /1 and so on with these files while the block lasts; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/")
            if not name.isascii() or not name.isdigit() or int(name) >= len(paths):
                self.send_error(404)
                return
            with open(paths[int(name)], "rb") as file:
                self.send_response(200)
                self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
                self.end_headers()
                shutil.copyfileobj(file, self.wfile, 2**20)

        def log_message(self, *_: object) -> None:
            """Nothing: the terminal is the training's."""

    with ThreadingHTTPServer(("", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


def _talk_over(address: str) -> None:
    """Have gloo and NCCL use the network that has this address of ours, unless the environment names one."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address.partition("%")[0] == address for one in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


class Place:
    """This machine's place among those that train, on any but the first. `host` and `port`: the first one's.

    Raises UserError when the first one does not answer as it should, and Lost when it goes away.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._own, self._theirs = _when_it_is_there(host, port)
        with losses():
            self._store = distributed.TCPStore(host, port, wait_for_workers=False, timeout=timedelta(minutes=1))
            self.job = Job(**json.loads(self._when_set(_JOB)))

    def bring(self, project: Path, folder: Path) -> None:
        """Have in `folder` what training reads: the code and what is the same in `project`, and what is not fetched.

        Raises UserError when the code in `project` is another.
        """
        (folder / CODE).symlink_to(project / CODE)
        lacking = []
        for number, (name, hashed) in enumerate(self.job.files.items()):
            own, place = project / name, folder / name
            same = own.is_file() and files.sha256(own) == hashed
            if PurePosixPath(name).parts[0] == CODE:
                if not same:
                    raise UserError(
                        f"{printable(name)} is another here than on the first machine: bring this clone to the same "
                        "commit, and see that neither has changes of its own"
                    )
                continue
            if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
                raise UserError(f"the first machine names a file outside the project: {printable(name)}")
            place.parent.mkdir(parents=True, exist_ok=True)
            if same:
                place.symlink_to(own)
            else:
                lacking.append((number, place, hashed))
        with cli.progress("fetch", len(lacking), " files") as bar:
            for number, place, hashed in cli.counted(lacking, bar):
                self._fetch(number, place, hashed)

    def _fetch(self, number: int, place: Path, hashed: str) -> None:
        address = f"[{self._host}]" if ":" in self._host else self._host
        try:
            with (
                urllib.request.urlopen(f"http://{address}:{self.job.port}/{number}", timeout=60) as source,
                open(place, "wb") as out,
            ):
                shutil.copyfileobj(source, out, 2**20)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise UserError(f"the first machine went away, or a firewall is between: {printable(str(error))}") from None
        if files.sha256(place) != hashed:
            raise UserError(f"{place.name} did not come as it is on the first machine: try again")

    def take(self) -> range:
        """Wait until all machines are here; the ranks of the processes that are this one's."""
        with losses():
            number = self._store.add(_HERE, 1)
            if number >= self.job.machines:
                raise UserError(f"all {self.job.machines} machines are here already: MACHINES says how many there are")
            self._store.set(_HOST, self._theirs)
            self._when_set(_GO)
        _talk_over(self._own)
        each = self.job.processes // self.job.machines
        return range(number * each, (number + 1) * each)

    def _when_set(self, key: str) -> bytes:
        """What the first machine puts there; the store's own wait would not be ended by Ctrl-C."""
        while not self._store.check([key]):
            time.sleep(_LOOK_EVERY)
        return self._store.get(key)


def _when_it_is_there(host: str, port: int) -> tuple[str, str]:
    """Wait for the first machine: the addresses of this one and of that, as they see each other."""
    told = False
    while True:
        try:
            with closing(socket.create_connection((host, port), timeout=10)) as connection:
                return connection.getsockname()[0], connection.getpeername()[0]
        except socket.gaierror as error:
            raise UserError(f"{printable(host)} is no machine that is known here ({error.strerror})") from None
        except OSError as error:
            if not told:
                cli.say(f"waiting for {host}:{port} ({error.strerror or error})")
            told = True
            time.sleep(10 * _LOOK_EVERY)
