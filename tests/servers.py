"""Servers on the loopback address that answer as the remotes of docs/sharing.md do, and a wire to them that can break.

python tests/servers.py ROOT PORT     an SSH server that gives SFTP below ROOT to USER with PASSWORD
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncssh

USER, PASSWORD, BUCKET = "me", "my password", "my-bucket"
PLUGINS = ("dvc-s3==3.3.0", "dvc-ssh==4.3.0", "dvc-webdav==3.0.1")
SERVERS = ("moto[server]==5.2.5", "wsgidav==4.4.0", "cheroot==11.1.2")


def make_environment(folder: Path, requirements: tuple[str, ...], inherit: bool = False) -> Path:
    """A virtual environment with these packages; return its bin folder.

    With `inherit` it also has those of this environment, which stays as it is.
    """
    venv.create(folder, with_pip=True)
    if inherit:
        inside = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        (inside / "inherited.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    command = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextmanager
def running(command: list, port: int):
    """The server that this command starts, once it listens on `port`; ended with the block."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300  # some load a model first
        while True:
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None, f"{command[0]} has ended"
            assert time.monotonic() < deadline, f"{command[0]} does not listen"
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def s3(bin_folder: Path, root: Path):
    """S3 with one bucket; yield its port."""
    port = free_port()
    with running([bin_folder / "moto_server", "--host", "127.0.0.1", "--port", port], port):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("PUT", f"/{BUCKET}")
        assert connection.getresponse().status == 200
        yield port


@contextmanager
def ssh(bin_folder: Path, root: Path):
    """SFTP below `root`; yield its port."""
    port = free_port()
    with running([sys.executable, __file__, root, port], port):
        yield port


@contextmanager
def webdav(bin_folder: Path, root: Path):
    """WebDAV below `root`; yield its port."""
    port = free_port()
    config = root.with_suffix(".json")
    config.write_text(
        json.dumps(
            {
                "host": "127.0.0.1",
                "port": port,
                "server": "cheroot",
                "provider_mapping": {"/": str(root)},
                "simple_dc": {"user_mapping": {"*": {USER: {"password": PASSWORD}}}},
                "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
            }
        ),
        encoding="utf-8",
    )
    with running([bin_folder / "wsgidav", "--config", config], port):
        yield port


@contextmanager
def web(bin_folder: Path, root: Path):
    """A web server for the files below `root`; yield its port."""
    port = free_port()
    with running([sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1", "--directory", root], port):
        yield port


class Wire:
    """Everything sent to `port` passes here, until as many bytes have passed as `break_after` says."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._open: list[socket.socket] = []
        self._left: int | None = None
        self._listen(0)
        self.port = self._listener.getsockname()[1]

    def break_after(self, count: int) -> None:
        """Once so many more bytes have passed towards the server, nobody is there any more."""
        self._left = count

    def mend(self) -> None:
        """The server is back, at the same address."""
        self._left = None
        self._listen(self.port)

    @property
    def broken(self) -> bool:
        return self._left is not None and self._left <= 0

    def _listen(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                for one in (client, server):  # no waiting for more: every question of a protocol is a small packet
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(2**14):
                if counted and self._left is not None:
                    self._left -= len(data)
                    if self._left <= 0:
                        self._break()
                        return
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _break(self) -> None:
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()


class _Server(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == (USER, PASSWORD)


async def _serve(root: str, port: int) -> None:
    await asyncssh.listen(
        "127.0.0.1",
        port,
        server_factory=_Server,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=root.encode()),
    )
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
