"""How fast validation is, against nothing but a json.loads of every line of the same file.

    python -m bench.validate                          the sample corpus, repeated to 20 MB
    python -m bench.validate --corpus FILE [FILE ...] [--megabytes 1000]
    python -m bench.validate --against COMMIT         and against the stage as it was at a commit

Whatever is compared takes turns in one run.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from statistics import median

from bench import measure
from stages import validate
from stages.lib.common import cli, files, params

BARE, WHOLE = "json.loads of every line", "the stage as a whole process"


def main() -> None:
    """Print the table."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--against", metavar="COMMIT", help="measure the stage as it was at this commit as well")
    args = parser.parse_args()
    with measure.workspace() as folder:
        size = measure.write_corpus(folder, args.corpus, args.megabytes)
        codes = {WHOLE: measure.HOME}
        if args.against:
            codes[f"{WHOLE}, at {args.against}"] = measure.at_commit(args.against, folder)
        os.chdir(folder)
        seconds = _in_this_process(params.load(folder / "params.yaml"), args.runs)
        memory = {}
        for name, runs in _whole_processes(folder, codes, args.runs).items():
            seconds[name] = median(run.seconds for run in runs)
            memory[name] = max(run.memory for run in runs)
    rates = {name: size / 1e6 / taken for name, taken in seconds.items()}
    rows = [
        [name, f"{rate:.1f}", f"{rate / rates[BARE]:.2f}", f"{memory[name] / 1e6:.0f}" if name in memory else "-"]
        for name, rate in rates.items()
    ]
    figures = {"bytes": size, "megabytes_per_second": rates, "memory": memory[WHOLE]}
    measure.report(
        f"Validation of {size / 1e6:.0f} MB.", ["what", "MB/s", "ratio", "peak MB"], rows, figures, args.json
    )


def _in_this_process(settings: params.Params, runs: int) -> dict[str, float]:
    """The median time of the parts, in seconds."""

    def clear() -> None:
        """As DVC does before a stage runs."""
        shutil.rmtree("validated", ignore_errors=True)

    path = Path(settings.corpus.path)
    bare, ours = measure.in_turns(runs, lambda: _parse(path), lambda: _validate(settings), before=clear)
    return {BARE: bare, "validation": ours}


def _whole_processes(folder: Path, codes: dict[str, Path], runs: int) -> dict[str, list[measure.Run]]:
    """The stage by each of several codes, in turns."""
    taken: dict[str, list[measure.Run]] = {name: [] for name in codes}
    for _ in range(runs):
        for name, code in codes.items():
            taken[name].append(measure.run(folder, "stages.validate", code=code))
    return taken


def _parse(path: Path) -> None:
    with open(path, "rb") as file:
        for line in file:
            json.loads(line)


def _validate(settings: params.Params) -> None:
    with files.new_folder("validated") as folder:
        validate.validated(settings, folder)


if __name__ == "__main__":
    cli.run(main)
