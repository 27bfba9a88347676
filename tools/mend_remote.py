"""Find what in the remote is damaged, and take it out, so that the next dvc push brings it whole.

    python -m tools.mend_remote [--remote NAME]

A server that goes away in the middle of a push may keep half a file under the name of the whole one (seen with WebDAV;
S3 and folders take a file whole or not at all). DVC asks a remote for names only: it would push that file never again,
and hand the half to whoever pulls. This reads every file of the remote, compares it with the hash in its name, and
deletes those that differ. Lists of folders that name a file which is not there go too: while a folder's list is there,
DVC takes all its files for pushed.

Then run `dvc push` in a clone that has the outputs.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

from dvc.repo import Repo
from dvc_data.hashfile.db import HashFileDB
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError

from stages.lib import cli


class Mended(NamedTuple):
    """How many files were read, the hashes of those that were damaged, and of the folders that lacked a file."""

    read: int
    damaged: list[str]
    incomplete: list[str]


def main() -> None:
    """Mend the remote, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--remote", metavar="NAME", help="the remote (default: the one that dvc push takes)")
    name = parser.parse_args().remote
    try:
        with Repo() as repo:
            mended = mend(repo.cloud.get_remote_odb(name, "push"))
    except cli.UserError:
        raise
    except Exception as error:
        # Each kind of remote has a library of its own, and each library its own errors of credentials and networks.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise cli.UserError(f"the remote could not be read to the end: {reason}") from None
    damaged, incomplete = len(mended.damaged), len(mended.incomplete)
    cli.say(f"{mended.read} files read: {damaged} damaged, {incomplete} lists of folders that lack a file")
    if mended.damaged or mended.incomplete:
        cli.say("They are deleted from the remote. Now run dvc push in a clone that has the outputs.")


def mend(store: HashFileDB) -> Mended:
    """Delete what is damaged from a remote. Raises UserError for one that does not say what it holds."""
    if not store.fs.CAN_TRAVERSE:
        raise cli.UserError(f"a remote by {store.fs.protocol} cannot be listed: mend it where it is written to")
    names = sorted(store.all())
    whole, damaged, incomplete = set(), [], []
    with cli.progress("read", len(names), "file") as bar:
        for name in cli.counted(names, bar):
            try:
                store.check(name, check_hash=True)  # which deletes a damaged file by itself
                whole.add(name)
            except ObjectFormatError:
                damaged.append(name)
    for name in sorted(name for name in whole if HashInfo("md5", name).isdir):
        if any(entry.value not in whole for _, _, entry in Tree.load(store, HashInfo("md5", name))):
            store.fs.remove(store.oid_to_path(name))
            incomplete.append(name)
    return Mended(len(names), damaged, incomplete)


if __name__ == "__main__":
    cli.run(main)
