"""What training says that it will take, beside what it takes: time, memory and disk.

    python -m bench.forecast               GPT-2's shape with 124 M random weights, and the embedded model
    python -m bench.forecast --steps 40    longer runs: so many steps of the large model, ten times that of the small

Each line is a whole run of the stage `train`: memory is the most that its process held, disk the most that was there
of its checkpoints, best weights and model, the latter twice, as DVC keeps a copy. Time counts from the moment at which
the stage says how long it has to go, to its last validation, that of averaged weights. Needs bench/requirements.txt for
GPT-2's vocabulary.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import measure
from stages.lib.common import cli, files

LARGE, SMALL = None, measure.HOME / "model/embedded"
DOCUMENTS = 60  # of the corpus, so that validations stay short beside the steps
RUNS: list[tuple[str, Path | None, int, dict[str, Any]]] = [
    ("GPT-2", LARGE, 512, {}),
    ("GPT-2", LARGE, 512, {"batch_size": 1}),
    ("GPT-2", LARGE, 512, {"batch_size": 1, "memory": "small"}),
    ("GPT-2", LARGE, 512, {"batch_size": 4, "gradient_checkpointing": True}),
    ("GPT-2", LARGE, 512, {"precision": "float32"}),
    ("GPT-2", LARGE, 512, {"lora_rank": 8}),
    ("GPT-2", LARGE, 512, {"lora_rank": 8, "gradient_checkpointing": True}),
    ("GPT-2", LARGE, 512, {"freeze_layers": 6}),
    ("GPT-2", LARGE, 256, {"batch_size": 4}),
    ("GPT-2", LARGE, 1024, {"batch_size": 1}),
    ("embedded", SMALL, 512, {}),
    ("embedded", SMALL, 512, {"batch_size": 8, "precision": "float32"}),
    ("embedded", SMALL, 256, {"batch_size": 16}),
]
SAID = re.compile(r"takes at most ([\d.]+) GB of memory and ([\d.]+) GB of disk")
LEFT = re.compile(r"about ([\d:]+) to go")


@dataclass
class Outcome:
    """Of a run: what it said, and what it took. Sizes in bytes, times in seconds; no `left` where it said none."""

    memory: float
    disk: float
    left: float | None
    took_memory: int
    took_disk: int
    took: float


def main() -> None:
    """Print the table."""
    parser = measure.arguments(__doc__, repeated=False)
    parser.add_argument("--steps", type=int, default=14, help="steps of a run of the large model (default 14)")
    args = parser.parse_args()
    rows, figures = [], []
    for name, base, length, changes in RUNS:
        with measure.workspace() as folder:
            measure.write_corpus(folder, args.corpus or [measure.own_corpus()], args.megabytes)
            steps = args.steps * (1 if base is LARGE else 10)
            shutil.copy(measure.HOME / "dvc.yaml", folder)
            train = changes | {"max_steps": steps, "eval_steps": max(1, steps // 2)}
            ours = {"tokenize": {"max_length": length}, "corpus": {"limit": DOCUMENTS}, "train": train}
            measure.change_settings(folder, ours)
            measure.run(folder, "bench.training", "base", *([str(base)] if base else []))
            for stage in ("validate", "tokenize"):
                measure.run(folder, f"stages.{stage}")
            one = _train(folder)
        said = ", ".join(f"{key}: {value}" for key, value in changes.items())
        figures.append({"base": name, "length": length, **changes, **vars(one)})
        rows.append([name, length, said, *_compared(one)])
        cli.say(" | ".join(map(str, rows[-1])))
    header = ["base", "tokens a row", "settings", "s said", "took", "", "GB said", "took", "", "disk", "took", ""]
    measure.report("What training says that it will take.", header, rows, {"runs": figures}, args.json)


def _train(folder: Path) -> Outcome:
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.train"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(measure.HOME)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    over = threading.Event()
    watcher = ThreadPoolExecutor(1).submit(
        _most, [folder / f"model/{name}" for name in ("checkpoints", "finetuned")], over
    )
    lines, since, until = [], None, time.monotonic()
    for line in process.stdout:
        lines.append(line)
        if LEFT.search(line):
            since = time.monotonic()
        if ": validation " in line or "towards the base" in line:
            until = time.monotonic()
    _, status, used = os.wait4(process.pid, 0)
    over.set()
    text = "".join(lines)
    if status:
        raise cli.UserError(f"stages.train failed:\n{text}")
    memory, disk = (float(number) * 1e9 for number in SAID.search(text).groups())
    left, (model,) = LEFT.search(text), (folder / "model/finetuned").glob("*.safetensors")
    return Outcome(
        memory,
        disk,
        _seconds(left[1]) if left else None,
        used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        watcher.result() + model.stat().st_size,
        until - since if since else 0.0,
    )


def _most(folders: list[Path], over: threading.Event) -> int:
    """The most bytes that were in the folders, until it is over."""
    most, last = 0, False
    while not last:
        last = over.wait(0.05)
        most = max(most, sum(map(files.size_of_tree, folders)))
    return most


def _seconds(clock: str) -> float:
    """Of 1:02:03 or 02:03."""
    total = 0.0
    for part in clock.split(":"):
        total = 60 * total + float(part)
    return total


def _compared(one: Outcome) -> list[str]:
    cells = [f"{one.left or 0:.0f}", f"{one.took:.0f}", _off(one.left, one.took)]
    for said, took in ((one.memory, one.took_memory), (one.disk, one.took_disk)):
        cells += [f"{said / 1e9:.2f}", f"{took / 1e9:.2f}", _off(said, took)]
    return cells


def _off(said: float | None, took: float) -> str:
    return f"{said / took - 1:+.0%}" if said and took else "-"


if __name__ == "__main__":
    cli.run(main)
