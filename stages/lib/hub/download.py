"""One model in Hugging Face's cache: its files fetched, taken up where they broke off, and compared with their hash.

The folder has the layout that huggingface_hub documents, so that what other tools fetched is found here and the other
way round. The fetching is our own, because that of huggingface_hub 2.4 compares no file that comes by plain HTTP with
its hash, and throws away what has come when an encrypted connection breaks. Xet, its other way, is not used.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout
from httpx2 import RemoteProtocolError
from huggingface_hub import constants, hf_hub_url

# Which files a commit has, as huggingface_hub keeps it. Its public function for that leaves the SHA-256 out.
from huggingface_hub._tree_cache import TreeCacheEntry, read_tree_cache, write_tree_cache
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers, get_session, hf_raise_for_status

from stages.lib.common import cli, files
from stages.lib.hub.errors import NotTheHub
from stages.lib.hub.patience import TIMEOUT, Attempt, patiently


@dataclass(frozen=True)
class File:
    """A file of a repository: its `size` in bytes, its Git blob's SHA-1, and its SHA-256 if Git LFS has it."""

    name: str
    size: int
    blob_id: str
    sha256: str | None

    @property
    def hash(self) -> str:
        """The hash of its content, under which the cache keeps it."""
        return self.sha256 or self.blob_id

    def is_at(self, path: Path) -> bool:
        """Whether the file at `path` is this one, byte for byte."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.sha256:
            return files.sha256(path) == self.sha256
        return hashlib.sha1(b"blob %d\0" % self.size + path.read_bytes()).hexdigest() == self.blob_id


class Cache:
    """The folder of the model `name` in the cache."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._locks = Path(constants.HF_HUB_CACHE, ".locks", repo_folder_name(repo_id=name, repo_type="model"))
        self._top = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"))

    def snapshot(self, commit: str) -> Path:
        """The folder of the model's files at this commit."""
        return self._top / "snapshots" / commit

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch or tag named when the Hub was last asked."""
        with suppress(OSError, ValueError):  # none, or a name that no file can have
            found = (self._top / "refs" / revision).read_text(encoding="utf-8").strip()
            return found if re.fullmatch("[0-9a-f]{40}", found) else None
        return None

    def listing(self, commit: str) -> list[File] | None:
        """The repository's files at this commit, if the Hub was asked for them before."""
        known = read_tree_cache(str(self._top), commit)
        if known is None:
            return None
        return [File(name, entry.size, entry.blob_id, entry.lfs_sha256) for name, entry in known.items()]

    def remember(self, revision: str, commit: str, listing: list[File]) -> None:
        """Keep what the Hub said: which commit `revision` names, and which files that has."""
        entries = {
            file.name: TreeCacheEntry(file.size, file.blob_id, file.sha256, file.size if file.sha256 else None)
            for file in listing
        }
        write_tree_cache(str(self._top), commit, entries)
        if revision != commit:
            with suppress(OSError):  # a cache that can only be read
                files.write_text(self._top / "refs" / revision, commit)

    def bring(self, wanted: list[File], commit: str) -> None:
        """Have these files in the snapshot, each the one that the Hub describes; only what is not there is fetched."""
        folder = self.snapshot(commit)
        missing = [file for file in wanted if not file.is_at(folder / file.name)]
        folder.mkdir(parents=True, exist_ok=True)
        if not missing:
            return
        (self._top / "blobs").mkdir(exist_ok=True)
        with Meter(sum(file.size for file in missing)) as meter:
            for file in missing:
                with self._locked(file):
                    blob = self._top / "blobs" / file.hash
                    if not file.is_at(blob):
                        blob.unlink(missing_ok=True)
                        self._fetch(file, commit, blob, meter)
                    _link(blob, folder / file.name)
                meter.file_done(file.size)

    @contextmanager
    def _locked(self, file: File) -> Iterator[None]:
        """Hold the lock by which huggingface_hub too keeps two processes from fetching the same file."""
        self._locks.mkdir(parents=True, exist_ok=True)
        said = False
        while True:
            try:
                with WeakFileLock(self._locks / f"{file.hash}.lock", timeout=1):
                    yield
                return
            except Timeout:
                if not said:
                    cli.say(f"{file.name}: another command is fetching it; waiting for that")
                    said = True

    def _fetch(self, file: File, commit: str, blob: Path, meter: Meter) -> None:
        """Fetch a file under its name in the cache, which it gets when it is whole, and what the Hub describes."""
        partial = blob.with_name(f"{blob.name}.incomplete")
        url = hf_hub_url(self.name, file.name, revision=commit)
        for last in (False, True):
            patiently(
                lambda attempt: _stream(url, file.size, partial, attempt, meter), file.name, lambda: _size(partial)
            )
            if file.is_at(partial):
                os.replace(partial, blob)
                return
            partial.unlink(missing_ok=True)
            if not last:
                cli.say(f"{file.name}: what came does not have the hash that the Hub gives; fetching it anew")
        raise cli.UserError(
            f"{file.name} of {self.name} came twice without the hash that the Hub gives for it: something on the way "
            "changes it. Try another network, proxy or mirror (HF_ENDPOINT)"
        )


def _stream(url: str, size: int, partial: Path, attempt: Attempt, meter: Meter) -> None:
    """Add to `partial` what it lacks of the `size` bytes at `url`."""
    have = _size(partial)
    if have >= size:
        partial.touch()  # a file may be empty
        return
    # Compressed on the way, a part of the file would have other bytes.
    headers = build_hf_headers() | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
        attempt.alive()
        hf_raise_for_status(response)
        left = size - have if response.status_code == 206 else size
        length = None if "Content-Encoding" in response.headers else response.headers.get("Content-Length")
        if length is not None and int(length) != left:
            raise NotTheHub("a file has not the size that the description says")
        with open(partial, "ab" if response.status_code == 206 else "wb") as out:
            for piece in response.iter_bytes():
                attempt.alive()
                out.write(piece)
                meter.reached(out.tell())
                if out.tell() > size:
                    return  # no more of what cannot be the file
            if out.tell() < size:
                raise RemoteProtocolError("the answer ended early", request=response.request)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _link(blob: Path, place: Path) -> None:
    place.unlink(missing_ok=True)
    try:
        place.symlink_to(os.path.relpath(blob, place.parent))
    except OSError:
        os.replace(blob, place)  # a file system without links


class Meter:
    """How many of `total` bytes have come: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._before = 0  # bytes of the files that are done
        self._bar: cli.Bar | None = None

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.close()

    def file_done(self, size: int) -> None:
        """Say that a file of `size` bytes is in its place."""
        self._before += size
        self.reached(0)

    def reached(self, size: int) -> None:
        """Say that `size` bytes of the file under way are there."""
        done = self._before + size
        if self._bar is None:  # what was there when the first piece came tells nothing of the rate
            self._bar = cli.progress("fetch", self._total, "B", initial=done)
        self._bar.update(done - self._bar.n)
