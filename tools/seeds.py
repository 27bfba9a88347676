"""How much of the figures is chance: mean and spread over experiments that differ in nothing but the seed.

    dvc exp run --queue -S 'train.seed=1,2,3'
    dvc exp run --run-all
    python -m tools.seeds

takes the experiments of the last commit, that commit's own run among them, and puts those together whose settings,
corpus, base and code are the same. The first group is the one with the committed settings; for every other one the
difference from it stands below, with its standard error: sqrt(s1^2 / n1 + s2^2 / n2), s the standard deviation over n
seeds. A difference of less than some three standard errors may well be chance.

`validate.split_seed=1,2,3` divides the documents otherwise: figures over several divisions, for a corpus with few
documents. Some divisions have harder test documents than others: those runs are compared by pairs with the same seeds,
the standard error being that of the mean of their differences.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from dvc.api import exp_show
from dvc.exceptions import DvcException

from stages.lib.common import cli, params
from stages.lib.common.translation import Parser

METRICS = ("bits_per_byte", "perplexity")
DIVISION = "validate.split_seed"
SEEDS = (DIVISION, "train.seed", "evaluate.seed")
WITHOUT_EFFECT = ("report.",)  # settings that change no figure


@dataclass
class Group:
    """Experiments that differ in nothing but the seed: the values of each metric, by `SEEDS`."""

    settings: dict[str, Any]
    code: Hashable
    runs: dict[tuple[Any, ...], dict[str, float]] = field(default_factory=dict)

    def values(self, metric: str) -> dict[tuple[Any, ...], float]:
        """The metric in each run that has it, by seeds."""
        return {seeds: run[metric] for seeds, run in self.runs.items() if metric in run}

    def seeds(self) -> str:
        """Those of its runs, as people read them: the division's only where there are several."""
        found = {name: sorted({one[place] for one in self.runs}) for place, name in enumerate(SEEDS[:2])}
        shown = [name for name, values in found.items() if name != DIVISION or len(values) > 1]
        return "; ".join(f"{name} {', '.join(f'{value:.10g}' for value in found[name])}" for name in shown)


def main() -> None:
    """Print a line for each group and metric."""
    parser = Parser(__doc__)
    parser.add_argument("--metrics", nargs="+", default=METRICS, metavar="NAME", help="as dvc exp show names them")
    args = parser.parse_args()
    try:
        rows = exp_show()
    except DvcException as error:
        raise cli.UserError(f"DVC cannot show the experiments: {error}") from None
    found = groups(rows, names(params.load().model_dump(by_alias=True)), args.metrics)
    if not any(group.runs for group in found):
        raise cli.UserError(
            f"no finished run has any of {', '.join(args.metrics)}: run {cli.command('dvc repro')}, or see the "
            f"names in {cli.command('dvc exp show')}"
        )
    for line in table(found, args.metrics):
        cli.say(line)
    if all(len(group.runs) < 2 for group in found):
        more = cli.command("dvc exp run --queue -S 'train.seed=1,2,3' && dvc exp run --run-all")
        cli.say(f"One seed each shows no spread: {more}")


def names(settings: dict[str, Any], prefix: str = "") -> list[str]:
    """The settings' names with dots between, as DVC has them."""
    return [
        name
        for key, value in settings.items()
        for name in (names(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"])
    ]


def groups(rows: Iterable[dict[str, Any]], settings: list[str], metrics: Iterable[str]) -> list[Group]:
    """The finished runs of `dvc.api.exp_show()`, put together by settings and code; the committed ones first."""
    found: dict[Hashable, Group] = {}
    counted = [name for name in settings if name not in SEEDS and not name.startswith(WITHOUT_EFFECT)]
    for row in rows:
        if row["rev"] == "workspace":  # not yet a run of its own
            continue
        used = {name: _cell(row, name) for name in counted}
        code = tuple((name, row[name]) for name in sorted(row) if _is_source(name, used["corpus.path"]))
        group = found.setdefault((*used.values(), code), Group(used, code))
        values = {name: float(row[name]) for name in metrics if isinstance(row.get(name), int | float)}
        if values and not any(map(math.isnan, values.values())):
            group.runs[tuple(_cell(row, seed) for seed in SEEDS)] = values
    return list(found.values())


def _cell(row: dict[str, Any], name: str) -> Any:
    # DVC puts the file before a setting's name where a metric has the same one.
    return row.get(name, row.get(f"params.yaml:{name}"))


def _is_source(column: str, corpus: str) -> bool:
    return column == corpus or column.startswith(("stages/", "model/base"))


def table(found: list[Group], metrics: Iterable[str]) -> Iterable[str]:
    """Lines that show, group by group, each metric's mean, spread and, from the second group on, difference."""
    first = found[0]
    for group in found:
        if not group.runs:
            continue
        changed = [
            f"{name}={value:.10g}" if isinstance(value, float) else f"{name}={value}"  # DVC makes floats of all numbers
            for name, value in group.settings.items()
            if value != first.settings[name]
        ]
        if group.code != first.code:
            changed.append("another corpus, base or code")
        yield f"{', '.join(changed) or 'the committed settings'} ({group.seeds()})"
        for metric in metrics:
            if not (by_seeds := group.values(metric)):
                continue
            values = list(by_seeds.values())
            spread = f"±{stdev(values):.4f} from {min(values):.4f} to {max(values):.4f}" if len(values) > 1 else ""
            before = {} if group is first else first.values(metric)
            yield f"  {metric:28}{mean(values):12.4f} {spread} {_difference(by_seeds, before)}".rstrip()


def _difference(after: dict[tuple[Any, ...], float], before: dict[tuple[Any, ...], float]) -> str:
    """How far the mean is from that of the first group; nothing where there is nothing to compare with."""
    error = None
    if len({seeds[0] for seeds in (*after, *before)}) > 1:
        pairs = [after[seeds] - before[seeds] for seeds in after if seeds in before]
        difference = mean(pairs) if pairs else None
        if len(pairs) > 1:
            error = stdev(pairs) / math.sqrt(len(pairs))
    else:
        difference = mean(after.values()) - mean(before.values()) if before else None
        if len(after) > 1 and len(before) > 1:
            error = math.sqrt(sum(stdev(one.values()) ** 2 / len(one) for one in (after, before)))
    if difference is None:
        return ""
    return f" difference {difference:+.4f}" + (f", standard error {error:.4f}" if error is not None else "")


if __name__ == "__main__":
    cli.run(main)
