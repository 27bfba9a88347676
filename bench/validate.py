"""How fast validation is, against nothing but a json.loads of every line of the same file.

    python -m bench.validate                          the sample corpus, repeated to 20 MB
    python -m bench.validate --corpus FILE [FILE ...] [--megabytes 1000]

Baseline and stage take turns in one run. The search for leakage is timed apart.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from bench import measure
from stages import validate
from stages.lib.common import cli, files, params


def main() -> None:
    """Print the table."""
    args = measure.arguments(__doc__).parse_args()
    with measure.workspace() as folder:
        size = measure.write_corpus(folder, args.corpus, args.megabytes)
        os.chdir(folder)
        settings = params.load(folder / "params.yaml")
        path = Path(settings.corpus.path)

        def clear() -> None:
            """As DVC does before a stage runs."""
            shutil.rmtree("validated", ignore_errors=True)

        bare, ours = measure.in_turns(args.runs, lambda: _parse(path), lambda: _validate(settings), before=clear)
        (leakage,) = measure.in_turns(args.runs, lambda: validate.leaking(Path("validated")))
        whole = measure.run(folder, "stages.validate")
    seconds = {"json.loads of every line": bare, "validation without leakage": ours, "leakage": leakage}
    rates = {name: size / 1e6 / taken for name, taken in seconds.items()}
    rows = [[name, f"{rate:.1f}", f"{bare / seconds[name]:.2f}"] for name, rate in rates.items()]
    rows.append(["the stage as a whole process", f"{size / 1e6 / whole.seconds:.1f}", "-"])
    title = f"Validation of {size / 1e6:.0f} MB; peak memory of the stage {whole.memory / 1e6:.0f} MB."
    figures = {"bytes": size, "megabytes_per_second": rates, "memory": whole.memory}
    measure.report(title, ["what", "MB/s", "ratio"], rows, figures, args.json)


def _parse(path: Path) -> None:
    with open(path, "rb") as file:
        for line in file:
            json.loads(line)


def _validate(settings: params.Params) -> None:
    with files.new_folder("validated") as folder, files.new_file("rejected.jsonl") as rejected:
        validate.validated(settings, folder, rejected)


if __name__ == "__main__":
    cli.run(main)
