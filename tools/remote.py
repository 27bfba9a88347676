"""What DVC's remotes need now and then, and its own commands do not do.

    python -m tools.remote push-runs [--remote NAME]
    python -m tools.remote mend [--remote NAME]

push-runs shares every run of this clone, also those with earlier settings, so that nobody has to repeat one: after
`dvc pull --run-cache` in another clone, `dvc repro --pull` finds it. `dvc push --run-cache` alone sends word of the
runs, but not the figures that are in git (logs/*.json, logs/*.tsv), and none of the outputs of earlier ones.

mend finds what is damaged in the remote and takes it out, so that the next `dvc push` brings it whole. A WebDAV server
that goes away in the middle of a push may keep half a file under the name of the whole one. DVC asks a remote for names
only: it would push that file never again, and hand the half to whoever pulls. (By SSH a half stays under a name of its
own, which does no harm and goes too; S3 and folders keep none.) Every file of the remote is read and compared with the
hash in its name. Lists of folders that name a file which is not there go too: while a folder's list is there, DVC takes
all its files for pushed.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from dvc.exceptions import CollectCacheError
from dvc.repo import Repo
from dvc_data.hashfile.db import HashFileDB
from dvc_data.hashfile.hash_info import HASH_DIR_SUFFIX, HashInfo
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError

from stages.lib.common import cli
from stages.lib.common.translation import Parser


def main() -> None:
    """Do to the remote what is asked, and say what was done."""
    parser = Parser(__doc__)
    parser.add_argument("what", choices=("push-runs", "mend"))
    parser.add_argument("--remote", metavar="NAME", help="the remote (default: the one that dvc push takes)")
    args = parser.parse_args()
    try:
        with Repo() as repo, repo.lock:
            said = {"push-runs": push_runs, "mend": mend}[args.what](repo, args.remote)
    except cli.UserError:
        raise
    except Exception as error:
        # Each kind of remote has a library of its own, and each library its own errors of credentials and networks.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise cli.UserError(f"{args.what} was not done to the end: {reason}") from None
    cli.say(said)


def push_runs(repo: Repo, name: str | None) -> str:
    """Push the run-cache, and what it names that this clone still has; return a sentence that counts both."""
    listable(repo, name)
    runs = sorted((path.parent.name, path.name) for path in Path(repo.stage_cache.cache_dir).glob("*/*/*"))
    complete, outputs = 0, set()
    for run in runs:
        with suppress(CollectCacheError):  # the list of a folder is gone, as after dvc gc
            of_run = set().union(*repo.stage_cache.get_used_objs([run]).values())
            if all(repo.cache.local.exists(output.value) for output in of_run):
                complete += 1
                outputs |= of_run
    result = repo.cloud.push(outputs, remote=name)
    if result.failed:
        raise cli.UserError(f"{len(result.failed)} files could not be pushed: repeat the command")
    # Last, so that the remote never names a run whose outputs are still on their way.
    repo.stage_cache.push(name)
    return (
        f"{complete} runs of stages with their outputs are in the remote, {len(result.transferred)} files are new there"
    )


def mend(repo: Repo, name: str | None) -> str:
    """Delete what is damaged from the remote; return a sentence that counts what was found."""
    store = listable(repo, name)
    names = sorted(store.all())
    whole, damaged, incomplete = set(), 0, 0
    with cli.progress("read", len(names), " files") as bar:
        for one in cli.counted(names, bar):
            try:
                store.check(one, check_hash=True)  # which deletes a damaged file by itself
                whole.add(one)
            except ObjectFormatError:
                damaged += 1
    for folder in [HashInfo("md5", one) for one in sorted(whole) if one.endswith(HASH_DIR_SUFFIX)]:
        if any(entry.value not in whole for _, _, entry in Tree.load(store, folder)):
            store.fs.remove(store.oid_to_path(folder.value))
            incomplete += 1
    found = f"{len(names)} files read: {damaged} damaged, {incomplete} lists of folders that lack a file"
    if damaged or incomplete:
        found += (
            f"\nThey are deleted from the remote. Now run {cli.command('dvc push')} in a clone that has the outputs."
        )
    return found


def listable(repo: Repo, name: str | None) -> HashFileDB:
    """The remote's store. Raises UserError for a remote that does not say what it holds, such as a web server."""
    store = repo.cloud.get_remote_odb(name, "push")
    if not store.fs.CAN_TRAVERSE:
        raise cli.UserError(
            f"a remote by {store.fs.protocol} can only be read: do this with the one by which it is written"
        )
    return store


if __name__ == "__main__":
    cli.run(main)
