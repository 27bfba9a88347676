"""What DVC's cache needs now and then, and DVC does not do.

    python -m tools.cache mend

DVC takes a file of its cache that is read-only for whole. One that the disk, or an accident, has changed since is
checked out as it is, and called up to date. mend reads every file of the cache and compares it with the hash in its
name. What is damaged is put right from the workspace, where that has it whole, and otherwise deleted, together with
what was checked out from it: then `dvc pull` or `dvc repro` brings it back.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.fs import localfs
from dvc.repo import Repo
from dvc_data.hashfile.hash_info import HASH_DIR_SUFFIX

from stages.lib.common import cli
from stages.lib.common.translation import Parser


def main() -> None:
    """Mend the cache, and say what was found."""
    parser = Parser(__doc__)
    parser.add_argument("what", choices=("mend",))
    parser.parse_args()
    try:
        with Repo() as repo, repo.lock:
            said = mend(repo)
    except DvcException as error:
        raise cli.UserError(f"mend was not done: {' '.join(str(error).split())}") from None
    cli.say(said)


def mend(repo: Repo) -> str:
    """Put right or delete what is damaged in the cache and was checked out from it; return what was found."""
    store = repo.cache.local
    names = sorted(store.all())
    damaged = {}
    with cli.progress("read", len(names), " files") as bar:
        for name in cli.counted(names, bar):
            found = _md5(Path(store.oid_to_path(name)))
            if found != name.removesuffix(HASH_DIR_SUFFIX):
                damaged[name] = found
    restored, deleted = 0, []
    for name, places in _places(repo, damaged).items():
        hashes = {place: _md5(place) for place in places}
        Path(store.oid_to_path(name)).unlink()
        if whole := next((place for place, found in hashes.items() if found == name), None):
            store.add(str(whole), localfs, name)
            restored += 1
        # With links it is the same file. One that is neither was changed by the user, and is no concern of the cache's.
        wrong = [place for place, found in hashes.items() if found == damaged[name]]
        for place in wrong:
            place.unlink()
        deleted += wrong
    said = f"{len(names)} files read: {len(damaged)} damaged, {restored} of them put right from the workspace"
    if len(damaged) > restored:
        pull, repro = cli.command("dvc pull"), cli.command("dvc repro")
        said += f"\nThe others are deleted. Now run {pull}, or {repro} where no remote has them."
    if deleted:
        said += "\nDeleted in the workspace too: " + ", ".join(
            str(place.relative_to(repo.root_dir)) for place in deleted
        )
    return said


def _places(repo: Repo, damaged: dict[str, str]) -> dict[str, list[Path]]:
    """For each of these hashes, the files of the workspace that are to have it."""
    places: dict[str, list[Path]] = defaultdict(list, {name: [] for name in damaged})
    for out in repo.index.outs:
        if not out.use_cache or not out.hash_info:
            continue
        contents = {(): out.hash_info.value}
        if out.hash_info.isdir:
            contents = {key: entry.value for key, _, entry in out.get_obj() or ()}  # None: its list is damaged itself
        for key, value in contents.items():
            place = Path(out.fs_path, *key)
            if value in damaged and place.is_file():
                places[value].append(place)
    return dict(places)


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


if __name__ == "__main__":
    cli.run(main)
