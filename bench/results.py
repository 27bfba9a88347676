"""How near the default run comes to the best that a corpus can give, and how far the usual recipe stays behind.

    python -m bench.results --corpus FILE... --documents 50,200,1000    from the embedded base
    ... --base FOLDER                                                   from another base
    ... --trials 60 --jobs 2                                            longer searches, two cases at a time

A case is a corpus of so many documents of a file. Two further sets of its documents are seen by no training: `choosing`
and `telling`. From the same base come `usual`, the lines in one stream and AdamW at 5e-5 falling linearly, three
epochs, as run_clm.py does it; `default`, the stage `train` with the settings that ship; and `best`, the settings that
do best on `choosing` in a search with Optuna (TPE, Bergstra et al. 2011), over what the stage can be told. The table
tells bits per byte on `telling`, by the pipeline's own scoring, over three seeds. `trained` is the default without its
averaging with the base (`train.toward_base: 0`).

Each run is a line of a file in bench/results; the same command goes on where it was, and prints the table of what is
there. Needs bench/requirements.txt.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import chdir
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench import measure
from stages.lib.common import cli, params

RESULTS = measure.HOME / "bench/results"
SEEDS = (42, 43, 44)
LORA_RATE = 10  # how many times higher the learning rate is with LoRA, as with `auto`
LIKE_OURS = 2  # rows in a batch of the usual recipe


@dataclass(frozen=True)
class Case:
    """A corpus of so many documents of a file, and the file with its runs."""

    source: Path
    documents: int
    held_out: int
    base: Path
    raw: Path

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.source.stem}, {self.documents}"

    def runs(self, way: str, settings: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """The runs of a way so far, in their order; only those with `settings`, where they are given."""
        if not self.raw.exists():
            return []
        lines = (json.loads(line) for line in self.raw.read_text(encoding="utf-8").splitlines())
        return [line for line in lines if line["way"] == way and settings in (None, line["settings"])]

    def best(self) -> dict[str, Any]:
        """The settings that did best on the documents for choosing; a longer search may find others."""
        return min(self.runs("search"), key=lambda run: run["choosing"])["settings"]


def main() -> None:
    """Run what is missing, a case in each of some processes, and print the table."""
    parser = measure.arguments(__doc__, repeated=False)
    parser.add_argument("--base", type=Path, default=measure.HOME / "model/embedded", help="default: the embedded one")
    parser.add_argument("--documents", default="50,200", help="how many, with commas between (default 50,200)")
    parser.add_argument("--held-out", type=int, default=200, help="for choosing, and as many for telling (default 200)")
    parser.add_argument("--trials", type=int, default=60, help="of a search (default 60)")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time, each on one thread (default 1)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the runs are kept (default bench/results)")
    args = parser.parse_args()
    folder, base = args.results.resolve(), args.base.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    cases = [
        Case(path.resolve(), count, args.held_out, base, folder / f"{base.name}-{path.stem}-{count}.jsonl")
        for count in map(int, args.documents.split(","))
        for path in args.corpus or [measure.HOME / "data/my_corpus.jsonl"]
    ]
    os.environ["OMP_NUM_THREADS"] = "1"  # the bytes are the same with any number
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_complete, case, args.trials) for case in cases]):
            cli.say(f"{done.result()}: all runs are there")
    rows = [_row(case) for case in cases]
    header = ["corpus, documents", "base", "usual", "trained", "default", "best", "default / best", "the best settings"]
    title = f"Bits per byte on {args.held_out} held-out documents, mean over seeds {', '.join(map(str, SEEDS))}."
    measure.report(title, header, rows, {"rows": rows}, args.json)


def _row(case: Case) -> list[str]:
    ways = {way: [run["telling"] for run in case.runs(way)] for way in ("base", "usual", "trained", "default")}
    ways["best"] = [run["telling"] for run in case.runs("best", case.best())]
    cells = [f"{mean(bits):.4f}" + (f" ±{stdev(bits):.4f}" if len(bits) > 1 else "") for bits in ways.values()]
    behind = mean(ways["default"]) / mean(ways["best"]) - 1
    shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in case.best().items()}
    settings = " ".join(f"{name}={value}" for name, value in shown.items())
    return [case.name, *cells, f"{behind:+.1%}", f"{settings} ({len(case.runs('search'))} tried)"]


def _complete(case: Case, trials: int) -> str:
    """Do the runs that a case lacks; return its name."""
    with tempfile.TemporaryDirectory() as made, chdir(made):
        bench = _Bench(case, Path(made))
        if not case.runs("base"):
            bench.run("base", {}, SEEDS[0])
        for seed in SEEDS[len(case.runs("usual")) :]:
            bench.run("usual", {}, seed)
        for way, settings in (("trained", {"toward_base": 0.0}), ("default", {})):
            for seed in SEEDS[len(case.runs(way)) :]:
                bench.run(way, settings, seed)
        _search(case, bench, trials)
        for seed in SEEDS[len(case.runs("best", case.best())) :]:
            bench.run("best", case.best(), seed)
    return case.name


def _search(case: Case, bench: _Bench, trials: int) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, study = bench.space(), optuna.create_study()
    for run in case.runs("search"):
        study.add_trial(optuna.create_trial(params=run["settings"], distributions=space, value=run["choosing"]))
    for number in range(len(study.trials), trials):
        study.sampler = optuna.samplers.TPESampler(seed=number, multivariate=True)  # the same wherever it goes on
        if number == 0:
            study.enqueue_trial(bench.default())
        trial = study.ask(space)
        try:
            study.tell(trial, bench.run("search", trial.params, SEEDS[0])["choosing"])
        except cli.UserError as diverged:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            cli.say(f"{case.name}: {trial.params} came to nothing: {str(diverged).splitlines()[-1]}")


class _Bench:
    """A folder in which the runs of one case take place."""

    def __init__(self, case: Case, folder: Path) -> None:
        from transformers import GPT2Config

        from stages.lib.model import models
        from stages.lib.training import plan

        self._case, self._folder = case, folder
        texts = list(_texts(case.source))
        random.Random(0).shuffle(texts)
        choosing, telling, own = (texts[start:] for start in (0, case.held_out, 2 * case.held_out))
        if len(own) < case.documents:
            raise cli.UserError(f"{case.source.name} has {len(own)} documents besides those held out")
        self._held_out = [self._documents(some[: case.held_out]) for some in (choosing, telling)]
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in own[: case.documents])
        (folder / "data").mkdir()
        (folder / "data/my_corpus.jsonl").write_text(lines, encoding="utf-8")
        shutil.copy(measure.HOME / "dvc.yaml", folder)
        self._config = GPT2Config.from_pretrained(case.base)
        self._write_settings({})
        measure.write_base(folder, case.base)
        for stage in ("validate", "tokenize"):
            measure.run(folder, f"stages.{stage}")
        self._rate = plan.learning_rate("auto", models.load(case.base).num_parameters())

    def default(self) -> dict[str, Any]:
        """The settings that ship, as a search has them."""
        settings = params.load(self._folder / "params.yaml").train.model_dump()
        return {name: settings[name] for name in self.space()} | {"learning_rate": self._rate}

    def space(self) -> dict[str, Any]:
        """What a search tries."""
        from optuna import distributions as of

        return {
            "learning_rate": of.FloatDistribution(self._rate / 10, min(self._rate * 10, 1.0), log=True),
            "epochs": of.IntDistribution(1, 12, log=True),
            "gradient_accumulation_steps": of.CategoricalDistribution([1, 2, 4, 8]),
            "scheduler": of.CategoricalDistribution(["cosine", "linear", "constant"]),
            "warmup_fraction": of.FloatDistribution(0.0, 0.3),
            "weight_decay": of.FloatDistribution(1e-3, 1.0, log=True),
            "dropout": of.CategoricalDistribution([0.0, 0.05, 0.1]),
            "freeze_layers": of.IntDistribution(0, self._config.n_layer - 1),
            "lora_rank": of.CategoricalDistribution([0, 8, 64]),
            "toward_base": of.CategoricalDistribution(["auto", 0.0]),
        }

    def _write_settings(self, train: dict[str, Any]) -> None:
        """The settings that ship, but for some of training, and rows that the base can see."""
        shutil.copy(measure.HOME / "params.yaml", self._folder)
        length = params.load(self._folder / "params.yaml").tokenize.max_length
        rows = {"max_length": min(length, self._config.n_positions)}
        measure.change_settings(self._folder, {"tokenize": rows, "train": train})

    def _documents(self, texts: list[str]) -> list[Any]:
        from stages.lib.rows import tokens
        from stages.lib.rows.packing import Document

        tokenizer = tokens.Tokenizer(self._case.base)
        encoded = [(text, tokenizer.document(tokenizer.encode(text))) for text in texts]
        return [Document(number, ids, len(text.encode())) for number, (text, ids) in enumerate(encoded, 1)]

    def run(self, way: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
        """Train, score, and add a line to the case's file; return what it says. Raises UserError when it fails."""
        from stages.lib.model import models, scoring

        began = time.monotonic()
        trained = {"base": lambda: self._case.base, "usual": lambda: self._usual(seed)}
        model = models.load(trained.get(way, lambda: self._stage(settings, seed))())
        seconds = time.monotonic() - began
        choosing, telling = (
            scoring.total(scoring.score_documents(model, documents)).bits_per_byte for documents in self._held_out
        )
        run = {"way": way, "settings": settings, "seed": seed, "choosing": choosing, "telling": telling}
        with open(self._case.raw, "a", encoding="utf-8") as raw:
            raw.write(json.dumps(run | {"seconds": round(seconds, 1)}) + "\n")
        cli.say(f"{self._case.name}: {way} {settings or ''} {choosing:.4f} {telling:.4f}")
        return run

    def _stage(self, changes: dict[str, Any], seed: int) -> Path:
        """The model that the stage `train` makes with some settings."""
        for left in ("model/checkpoints", "model/finetuned", "logs"):
            shutil.rmtree(self._folder / left, ignore_errors=True)
        settings = dict(changes)
        if settings.get("lora_rank"):
            settings |= {"learning_rate": min(1.0, settings["learning_rate"] * LORA_RATE), "freeze_layers": 0}
        self._write_settings(settings | {"seed": seed})
        measure.run(self._folder, "stages.train")
        return self._folder / "model/finetuned"

    def _usual(self, seed: int) -> Path:
        """The model that the usual recipe makes."""
        measure.run(self._folder, "bench.results", "usual", str(seed))
        return self._folder / "usual"


def _texts(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def _usual(seed: str) -> None:
    """Train the usual recipe in this folder, in a process of its own."""
    from bench import training
    from stages.lib.model import models

    trainer = training.concatenated(
        LIKE_OURS, whole=True, learning_rate=5e-5, lr_scheduler_type="linear", warmup_steps=0, seed=int(seed)
    )
    trainer.train()
    shutil.rmtree("usual", ignore_errors=True)
    models.save(trainer.model, Path("usual"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["usual"]:
        cli.run(lambda: _usual(sys.argv[2]))
    else:
        cli.run(main)
