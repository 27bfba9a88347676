"""Search for better settings of training, on your own corpus, within a budget of time.

    python -m tools.tune --minutes 30
    python -m tools.tune --minutes 30 --only train.learning_rate,train.epochs

Trials are experiments of the last commit, which `dvc exp show` lists; your files stay as they are. Trials are compared
by validation alone; test documents are looked at once, at the end. Interrupted, the same command goes on; more minutes
go on as well. docs/experiments.md says how it searches.
"""

from __future__ import annotations

import argparse
import fcntl
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.lib.common import cli, params
from stages.lib.common.cli import UserError
from stages.lib.common.translation import Parser
from stages.lib.processes.interruption import Interruption
from tools.tune import space
from tools.tune.outcome import conclude
from tools.tune.run import Run
from tools.tune.workplace import Workplace

FOLDER = Path(".dvc/tmp/tune")


def main() -> None:
    """Search, and say what was found."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--minutes", type=_minutes, required=True, help="that all trials may take, those before included"
    )
    parser.add_argument("--only", metavar="NAMES", help="settings that may change, with commas between; default: all")
    args = parser.parse_args()
    settings = params.load()
    names = space.only(args.only, settings.train)
    workplace = Workplace(FOLDER)
    with _alone(FOLDER), Interruption() as interruption:
        run = Run(workplace, settings.train, names, args.minutes * 60, interruption)
        workplace.prepare(settings.corpus.path)
        run.until_over()
        conclude(run.search, workplace, interruption)
    workplace.remove()


def _minutes(given: str) -> float:
    try:
        value = float(given.replace(",", "."))  # 7,5 as people write it
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{given} is no number of minutes")
    return value


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the search. Raises UserError where another process is at it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another search is under way here: wait for it, or stop it") from None
        yield


if __name__ == "__main__":
    cli.run(main)
