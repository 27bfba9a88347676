"""Put the tuned model, its card, and how it came about onto the Hugging Face Hub.

    python -m tools.publish OWNER/NAME --dry-run     what would go there, and how large it is
    python -m tools.publish OWNER/NAME               into a repository that only OWNER sees
    python -m tools.publish OWNER/NAME --public --license apache-2.0

All comes in one commit, or nothing does; publishing again adds another commit, which takes away what is not sent again
but keeps it in the history. In `run/` go the settings, the hashes of everything (dvc.lock), where the base is from, and
the figures of the report: no texts. The report itself shows some.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from pathlib import Path

from httpx2 import RequestError, TimeoutException
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo, constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars, get_session, logging

from stages.lib.common import cli, files
from stages.lib.common.translation import Parser
from stages.lib.hub.errors import host
from stages.lib.hub.patience import TIMEOUT, AskedToWait, Silent, patiently, reason
from tools import release

BASE, REPORT, LOCK = Path("model/base/provenance.json"), Path("logs/report.html"), "run/dvc.lock"
FIGURES = ("metrics.json", "evaluate.json", "train.json", "tokenize.json", "validate.json", "curves.svg")
RUN = {
    LOCK: Path("dvc.lock"),
    "run/params.yaml": Path("params.yaml"),
    "run/base.json": BASE,
    **{f"run/{name}": Path("logs", name) for name in FIGURES},
}
_OF_A_MODEL = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|vocab|model\.safetensors\.index)\.json|merges\.txt"
    r"|model(-\d+-of-\d+)?\.safetensors"
)
# As the Hub names them: those under which a changed version may be passed on, some on conditions.
_ALLOWING = re.compile(
    r"mit|isc|zlib|unlicense|wtfpl|cc0-1\.0|apache-2\.0|(bsd|[al]?gpl|mpl|afl|artistic|bsl|ecl|eupl|osl)(-[\w.-]+)?"
    r"|cc-by(-nc)?(-sa)?-[\d.]+|(bigscience-|creativeml-)?openrail(\+\+|-m)?"
)
_NOT_CHANGED = re.compile(r"-nd(-|$)")  # Creative Commons' NoDerivatives
_LICENCE = re.compile(r"[a-z\d][a-z\d.+-]*")
_LOG_IN = f"run {cli.command('hf auth login')}, or set HF_TOKEN, with a token that may write"
_AGAIN = "run the same command again: it goes on where it stopped"
_PATIENCE = 120  # seconds for an answer, and for a piece of a file to be taken


def main() -> None:
    """Show what goes to the Hub, and bring it there."""
    args = arguments()
    files.need(release.MODEL, release.CARD, *RUN.values(), REPORT)
    release.refuse_what_is_out_of_date()
    sent = contents(args)
    sizes = {
        name: content.stat().st_size if isinstance(content, Path) else len(content) for name, content in sent.items()
    }
    for name, size in sizes.items():
        cli.say(f"{size:>14,}  {name}")
    cli.say(f"{len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB, for {args.name}")
    cli.say("run/params.yaml and run/dvc.lock are yours as they are, with the path of your corpus and your prompts")
    refuse_for_its_licence(files.read_json(BASE)["licence"], args.licence_seen)
    if args.dry_run:
        cli.say("Nothing was sent.")
        return
    if not get_token():
        raise cli.UserError(f"the Hub takes models from who is logged in: {_LOG_IN}")
    try:
        send(args.name, sent, args.public)
    except cli.UserError:
        raise
    except Exception as error:
        if line := _explain(error, args.name):
            raise cli.UserError(line) from None
        raise


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("name", metavar="OWNER/NAME", help="the model on the Hub; OWNER is you or your organization")
    parser.add_argument("--dry-run", action="store_true", help="only show what would go there")
    parser.add_argument("--public", action="store_true", help="for everyone to see (default: for OWNER only)")
    parser.add_argument("--license", help="the licence of this model, such as apache-2.0, for the head of its card")
    parser.add_argument("--report", action="store_true", help="with logs/report.html, which shows texts of the corpus")
    parser.add_argument(
        "--licence-seen",
        action="store_true",
        help="the licence of the base is none that is known here, and you have seen that it allows this",
    )
    args = parser.parse_args()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", args.name, re.ASCII):
        parser.error(f"argument OWNER/NAME: {args.name} is not of that form")
    if args.license and not _LICENCE.fullmatch(args.license):
        parser.error(f"argument --license: {args.license} is no name that the Hub has for a licence")
    return args


def contents(args: argparse.Namespace) -> dict[str, Path | bytes]:
    """What goes to the Hub: each file by its name there. Raises UserError for one that belongs to no model."""
    model = sorted(release.MODEL.iterdir())
    for path in model:
        if not _OF_A_MODEL.fullmatch(path.name):
            raise cli.UserError(f"{path} is no file of a model: take it away, it would be published")
    card = release.card(args.name)
    if args.license:
        card = card.replace("---\n", f"---\nlicense: {args.license}\n", 1)
    return {
        "README.md": card.encode(),
        **{path.name: path for path in model},
        **RUN,
        **({"run/report.html": REPORT} if args.report else {}),
    }


def refuse_for_its_licence(licence: str | None, seen: bool) -> None:
    """Raise UserError when the base's licence forbids to pass on what was made of it, or is not known and not seen."""
    if licence and _NOT_CHANGED.search(licence.lower()):
        raise cli.UserError(f"the base model is under {licence}, which forbids to pass on a changed version")
    if seen or (licence and _ALLOWING.fullmatch(licence.lower())):
        return
    states = f"is under {cli.printable(licence)}, which is not known here" if licence else "states no licence"
    raise cli.UserError(
        f"nobody here knows whether what is made of the base model may be passed on: it {states}. Find that out, then "
        "--licence-seen"
    )


def send(name: str, sent: dict[str, Path | bytes], public: bool) -> None:
    """Make the repository where there is none, and one commit in it. Raises UserError, or what huggingface_hub does."""
    logging.set_verbosity_error()
    # Large files by Git LFS, which the Hub takes from every client: hf_xet speaks to servers that no test can imitate.
    constants.HF_HUB_DISABLE_XET = True
    constants.HF_HUB_DISABLE_TELEMETRY = True
    if not sys.stderr.isatty():
        disable_progress_bars()
    get_session().timeout = _PATIENCE  # huggingface_hub would wait for ever
    api = HfApi(endpoint=constants.ENDPOINT)
    there = _existing(api, name)
    if there:
        _refuse_what_is_there(there, name, public)
    else:
        api.create_repo(name, private=not public)
    # Sent as they are: an operation is spent once it was part of a commit.
    operations = [CommitOperationAdd(path, content) for path, content in sent.items()]
    ours = (path for path in _held(there) if path.startswith("run/") or _OF_A_MODEL.fullmatch(path))
    gone = sorted(set(ours) - sent.keys())
    operations += [CommitOperationDelete(path, is_folder=False) for path in gone]
    with warnings.catch_warnings(action="ignore"):  # what the Hub would like to find in the card besides
        made = api.create_commit(name, operations, commit_message="The tuned model, and how it came about")
    cli.say(f"{constants.ENDPOINT}/{name} has it at commit {made.oid}")
    if gone:
        cli.say(f"Of the model before, this is gone, but for the history: {cli.printable(', '.join(gone))}")
    if there and there.private and public:
        cli.say("It is private, as it was: the settings of that page make it public.")


def _held(there: ModelInfo | None) -> set[str]:
    """The files of a repository."""
    return {one.rfilename for one in (there and there.siblings) or ()}


def _existing(api: HfApi, name: str) -> ModelInfo | None:
    """What the Hub says of a model of this name; None when there is none that we may see."""
    try:
        return patiently(lambda _: api.model_info(name, timeout=TIMEOUT), host())
    except RepositoryNotFoundError:
        return None


def _refuse_what_is_there(there: ModelInfo, name: str, public: bool) -> None:
    """Raise UserError where a commit would spoil another's work, or be seen by more people than was asked for."""
    if there.id != name:
        raise cli.UserError(f"{name} is called {there.id} on the Hub now: publish to that")
    held = _held(there) - {".gitattributes"}
    if held and LOCK not in held:
        raise cli.UserError(
            f"{name} is there already and holds something else ({cli.printable(min(held))}): take another name"
        )
    if not there.private and not public:
        raise cli.UserError(f"{name} is public already: --public publishes there, or take another name")


def _explain(error: Exception, name: str) -> str | None:
    """The line for an error met while sending; None for one that is none of the Hub's or the network's."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # in which huggingface_hub wraps what went wrong with one file
    if isinstance(error, HfHubHTTPError):
        return _explain_answer(error, name)
    if isinstance(error, HFValidationError):
        return f"{name} is no name a model of the Hub can have: take another"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids to ask the Hub: unset it"
    if isinstance(error, AskedToWait):
        return f"{host()} asks to wait {error.seconds / 60:.0f} minutes: run the same command again then"
    if isinstance(error, RequestError | Silent):
        why = "no answer" if isinstance(error, TimeoutException | Silent) else reason(error)
        return f"{host()} is not reached ({why}): look to your network, then {_AGAIN}"
    if isinstance(error, ValueError):
        return f"{host()} did not take it: {cli.printable(str(error))}"
    return None


def _explain_answer(error: HfHubHTTPError, name: str) -> str:
    status, whom = error.response.status_code, error.response.url.netloc.decode()
    told = cli.printable(error.server_message or error.response.reason_phrase)
    if status == 401 and whom == host():
        return f"the Hub does not accept your token: {_LOG_IN}"
    if status == 403 and whom == host():
        return f"your token may not write to {name} ({told}): {_LOG_IN} there, or take another OWNER"
    return f"{whom} answered {status} ({told}): {_AGAIN}"


if __name__ == "__main__":
    cli.run(main)
