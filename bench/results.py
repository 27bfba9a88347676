"""How near the default run comes to the best that a corpus can give, and how far the usual recipe stays behind.

    python -m bench.results --corpus FILE... --documents 50,200,1000    from the embedded base
    ... --base FOLDER                                                   from another base
    ... --trials 60 --jobs 2                                            longer searches, two cases at a time

A case is a corpus of so many documents of a file. Two further sets of its documents are seen by no training: `choosing`
and `telling`. From the same base come `usual`, the lines in one stream and AdamW at 5e-5 falling linearly, three
epochs, as run_clm.py does it; `default`, the stage `train` with the settings of params.yaml; `trained`, the same
without its averaging with the base (`train.toward_base: 0`); and `best`, what does best on `choosing` in a search over
what the stage can be told and more (bench/beyond.py). The search begins with what did best in the other cases of the
folder, changes each setting of the default by itself, which tells what each is worth, and goes on with Optuna (TPE,
Bergstra et al. 2011).

The first table tells bits per byte on `telling`, by the pipeline's own scoring, over three seeds, and how far the
default is behind the best, with the 95 % interval over the documents; the second what each change by itself gains on
`choosing`. Each run is a line of a file in bench/results; the same command goes on where it was, and prints the tables
of what is there; `--trials 0` prints them alone, for cases that have been begun. Needs bench/requirements.txt.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import chdir
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench import measure
from bench.trial import SEEDS, Bench, Case, end_with_parent
from stages.lib.common import cli
from stages.lib.evaluation import comparison
from stages.lib.model.scoring import Score

RESULTS = measure.HOME / "bench/results"
WAYS = {"usual": {}, "trained": {"toward_base": 0.0}, "default": {}}
FROM_ANOTHER = 2  # settings that a search takes over from each other case


def main() -> None:
    """Run what is missing, a case in each of some processes, and print the tables."""
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
        for path in args.corpus or [measure.own_corpus()]
    ]
    if args.trials:
        os.environ["OMP_NUM_THREADS"] = "1"  # the bytes are the same with any number
        with ProcessPoolExecutor(args.jobs, get_context("spawn"), initializer=end_with_parent) as pool:
            for done in as_completed([pool.submit(_complete, case, args.trials) for case in cases]):
                cli.say(f"{done.result()}: all runs are there")
    cases = [case for case in cases if case.runs("search") and case.runs("best", case.best())]
    rows, changes = [_row(case) for case in cases], _changes(cases)
    header = ["corpus, documents", "base", *WAYS, "best", "default - best", "the best settings"]
    title = f"Bits per byte on {args.held_out} held-out documents, mean over seeds {', '.join(map(str, SEEDS))}."
    measure.report(title, header, rows, {"rows": rows, "changes": changes}, args.json)
    cli.say("")
    measure.report(
        f"What a change by itself does to bits per byte of the default, seed {SEEDS[0]}; below 0 is better.",
        ["changed", *(case.name for case in cases)],
        changes,
        {},
        None,
    )


def _row(case: Case) -> list[str]:
    runs = {way: case.runs(way) for way in ("base", *WAYS)} | {"best": case.runs("best", case.best())}
    cells = []
    for told in ([run["telling"] for run in some] for some in runs.values()):
        cells.append(f"{mean(told):.4f}" + (f" ±{stdev(told):.4f}" if len(told) > 1 else ""))
    behind = comparison.compare(_scores(runs["best"]), _scores(runs["default"]), 0)
    if behind is None:
        raise cli.UserError("--held-out: there must be some")
    share = behind.difference / mean(run["telling"] for run in runs["best"])
    cells.append(f"{behind.difference:.4f} ({behind.low:.4f} to {behind.high:.4f}), {share:+.1%}")
    return [case.name, *cells, f"{_shown(case.best())} ({len(case.runs('search'))} tried)"]


def _scores(runs: list[dict[str, Any]]) -> list[Score]:
    """The scores of the documents for telling, means over seeds."""
    nats = [mean(given) for given in zip(*(run["nats"] for run in runs), strict=True)]
    return [Score(line, size, 0, of, 0.0) for line, (size, of) in enumerate(zip(runs[0]["bytes"], nats, strict=True))]


def _shown(settings: dict[str, Any]) -> str:
    shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in settings.items()}
    return " ".join(f"{name}={value}" for name, value in shown.items())


def _changes(cases: list[Case]) -> list[list[str]]:
    """A row for each change of one setting of the default: what it does in each case."""
    table: dict[str, dict[str, str]] = {}
    for case in cases:
        default, *others = case.runs("search")
        for run in others:
            if run["choosing"] is None:
                continue
            changed = {name: value for name, value in run["settings"].items() if value != default["settings"][name]}
            if len(changed) == 1:
                if (rate := changed.get("learning_rate")) is not None:  # the default's differs between bases
                    changed["learning_rate"] = f"x {rate / default['settings']['learning_rate']:.3g}"
                cells = table.setdefault(_shown(changed), {})
                cells[case.name] = f"{run['choosing'] - default['choosing']:+.4f}"
    return [[change, *(cells.get(case.name, "") for case in cases)] for change, cells in table.items()]


def _complete(case: Case, trials: int) -> str:
    """Do the runs that a case lacks; return its name."""
    with tempfile.TemporaryDirectory() as made, chdir(made):
        bench = Bench(case, Path(made))
        if not case.runs("base"):
            bench.run("base", {}, SEEDS[0])
        for way, settings in WAYS.items():
            for seed in SEEDS[len(case.runs(way)) :]:
                bench.run(way, settings, seed)
        _search(case, bench, trials)
        for seed in SEEDS[len(case.runs("best", case.best())) :]:
            bench.run("best", case.best(), seed)
    return case.name


def _search(case: Case, bench: Bench, trials: int) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, study = _space(bench), optuna.create_study()
    default, *changed = _by_themselves(bench)
    first = [default, *_elsewhere(case, bench), *changed]
    for run in case.runs("search"):
        failed = run["choosing"] is None
        state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
        made = optuna.create_trial(params=run["settings"], distributions=space, value=run["choosing"], state=state)
        study.add_trial(made)
    for number in range(len(study.trials), trials):
        study.sampler = optuna.samplers.TPESampler(seed=number, multivariate=True)  # the same wherever it goes on
        tried = [trial.params for trial in study.trials]
        if untried := next((settings for settings in first if settings not in tried), None):
            study.enqueue_trial(untried)
        trial = study.ask(space)
        try:
            study.tell(trial, bench.run("search", trial.params, SEEDS[0])["choosing"])
        except cli.UserError as diverged:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            bench.note({"way": "search", "settings": trial.params, "seed": SEEDS[0], "choosing": None})
            cli.say(f"{case.name}: {trial.params} came to nothing: {str(diverged).splitlines()[-1]}")


def _space(bench: Bench) -> dict[str, Any]:
    """What a search tries."""
    from optuna import distributions as of

    return {
        "learning_rate": of.FloatDistribution(bench.rate / 10, min(bench.rate * 10, 1.0), log=True),
        "epochs": of.IntDistribution(1, 12, log=True),
        "batch_size": of.CategoricalDistribution([1, 2, 4, 8]),
        "scheduler": of.CategoricalDistribution(["cosine", "linear", "constant"]),
        "warmup_fraction": of.FloatDistribution(0.0, 0.3),
        "weight_decay": of.FloatDistribution(1e-3, 1.0, log=True),
        "dropout": of.CategoricalDistribution([0.0, 0.05, 0.1]),
        "freeze_layers": of.IntDistribution(0, bench.layers - 1),
        "lora_rank": of.CategoricalDistribution([0, 8, 64]),
        "keep": of.CategoricalDistribution(["best", "last"]),
        "toward_base": of.CategoricalDistribution(["auto", 0.0]),
        "optimizer": of.CategoricalDistribution(["adamw", "muon"]),
        "layer_decay": of.FloatDistribution(0.5, 1.0),
        "averaged": of.FloatDistribution(0.0, 0.6),
    }


def _elsewhere(case: Case, bench: Bench) -> Iterator[dict[str, Any]]:
    """What did best in the other cases of the folder, the learning rate in proportion to the default's."""
    for raw in sorted(case.raw.parent.glob("*.jsonl")):
        runs = replace(case, raw=raw).runs("search")
        done = sorted((run for run in runs if run["choosing"] is not None), key=lambda run: run["choosing"])
        for run in done[:FROM_ANOTHER] if raw != case.raw else []:
            times = run["settings"]["learning_rate"] / runs[0]["settings"]["learning_rate"]
            frozen = min(run["settings"]["freeze_layers"], bench.layers - 1)
            yield run["settings"] | {"learning_rate": bench.rate * times, "freeze_layers": frozen}


def _by_themselves(bench: Bench) -> list[dict[str, Any]]:
    """The project's settings, as a search has them, and the same with one changed."""
    from bench import beyond

    shipped = bench.shipped() | beyond.NOTHING
    default = {name: shipped[name] for name in _space(bench)}
    changes: dict[str, list[Any]] = {
        "learning_rate": [bench.rate / 3, bench.rate * 3],
        "epochs": [1, 6, 12],
        "batch_size": [1, 4],
        "scheduler": ["linear", "constant"],
        "warmup_fraction": [0.0, 0.2],
        "weight_decay": [0.1],
        "dropout": [0.1],
        "freeze_layers": [bench.layers // 2],
        "lora_rank": [8, 64],
        "keep": ["last"],
        "toward_base": [0.0],
        "optimizer": ["muon"],
        "layer_decay": [0.7],
        "averaged": [0.5],
    }
    return [default, *(default | {name: value} for name, values in changes.items() for value in values)]


if __name__ == "__main__":
    cli.run(main)
