"""A model of the Hugging Face Hub as a local folder: configuration, weights and tokenizer, nothing that can run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, ModelInfo, constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import get_session, logging

from stages.lib.bases.sources import wanted_files
from stages.lib.common import cli
from stages.lib.hub.download import Cache, File
from stages.lib.hub.errors import NotTheHub, explain, host
from stages.lib.hub.patience import TIMEOUT, patiently

_COMMIT = re.compile("[0-9a-f]{40}")
_SHA256 = re.compile("[0-9a-f]{64}")
_PLAIN = re.compile(r"[\w.-]+", re.ASCII)  # the name of a file at the top of a repository
_CARD = "README.md"


@dataclass(frozen=True)
class Download:
    """A model at one commit, under the name that the Hub gives it now."""

    folder: Path
    name: str
    commit: str


def download(name: str, revision: str | None) -> Download:
    """Resolve `revision` (None: the newest) to a commit and fetch the model as it is there.

    A full commit that lies whole in the cache needs no network. Raises UserError, with one line, when the model, the
    revision or the Hub itself cannot be reached.
    """
    logging.set_verbosity_error()
    constants.HF_HUB_DISABLE_TELEMETRY = True  # which asks the Hub for a list that only its statistics need
    try:
        get_session()
    except ValueError as error:
        raise cli.UserError(f"the address of a proxy cannot be used ({error}): mend HTTPS_PROXY") from None
    try:
        return _download(name, revision)
    except cli.UserError:
        raise
    except Exception as error:
        if line := explain(error, name, revision):
            raise cli.UserError(line) from None
        raise


def _download(name: str, revision: str | None) -> Download:
    asked = revision or constants.DEFAULT_REVISION
    cache = Cache(name)
    commit = asked if _COMMIT.fullmatch(asked) else None
    if commit is None and constants.is_offline_mode():
        commit = cache.commit_of(asked)
    listing = cache.listing(commit) if commit else None
    if commit is None or listing is None:
        info = patiently(lambda _: _ask(name, revision), host())
        if info.id != name:
            cli.say(f"{name} is called {info.id} now: set base.hub to that")
        cache, commit = Cache(info.id), info.sha
        listing = _files(info)
        cache.remember(asked, commit, listing)
    # The model card too: the licence stands in it.
    wanted = [*wanted_files([file.name for file in listing if _PLAIN.fullmatch(file.name)]), _CARD]
    cache.bring([file for file in listing if file.name in wanted], commit)
    return Download(cache.snapshot(commit), cache.name, commit)


def _ask(name: str, revision: str | None) -> ModelInfo:
    """What the Hub says of a model: its present name, the commit, the files with their hashes."""
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT)
    except (HFValidationError, UnicodeEncodeError):
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotTheHub("what comes is no description of a model") from None
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(info.id), re.ASCII) or not _COMMIT.fullmatch(str(info.sha)):
        raise NotTheHub("a description of a model without name or commit")
    return info


def _files(info: ModelInfo) -> list[File]:
    """All files of the repository, with their hashes."""
    found = []
    for one in info.siblings or ():
        sha256 = one.lfs.sha256 if one.lfs else None
        # They become names of files: nothing else than a hash may.
        if not _COMMIT.fullmatch(str(one.blob_id)) or not isinstance(one.size, int):
            raise NotTheHub("files without size and hash")
        if sha256 is not None and not _SHA256.fullmatch(str(sha256)):
            raise NotTheHub("files without size and hash")
        found.append(File(one.rfilename, one.size, one.blob_id, sha256))
    return found
