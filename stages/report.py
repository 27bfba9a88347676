"""Stage `report`: everything a person wants to look at, on one page, and the model card; figures in, no computation."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import matplotlib
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from stages.lib import cli, files, params

LOGS = Path("logs")
TEMPLATES = Path("stages/templates")
INPUTS = (
    *("validate.json", "tokenize.json", "train.json", "evaluate.json"),
    *("train_loss.tsv", "validation.tsv", "samples.jsonl"),
)
BASE = Path("model/base/provenance.json")
PAGE = LOGS / "report.html"
CARD = Path("model/MODEL_CARD.md")


def main() -> None:
    """Write `logs/report.html` and `model/MODEL_CARD.md`."""
    settings = params.load()
    files.need(*(LOGS / name for name in INPUTS), BASE)
    facts = {name: files.read_json(LOGS / f"{name}.json") for name in ("validate", "tokenize", "train", "evaluate")}
    facts |= {
        "title": settings.report.title,
        "settings": settings.model_dump(by_alias=True),
        "base": files.read_json(BASE),
        "samples": [json.loads(line) for line in (LOGS / "samples.jsonl").read_text(encoding="utf-8").splitlines()],
        "change": _change(facts["evaluate"]),
    }
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Plain JSON for a Python string in the card; Jinja's own tojson is for HTML.
    environment.filters["tojson_text"] = lambda value: json.dumps(value, ensure_ascii=False)
    curves = _curves(files.read_tsv(LOGS / "train_loss.tsv"), files.read_tsv(LOGS / "validation.tsv"), facts["train"])
    page = environment.get_template("report.html").render(facts, curves=Markup(curves))
    card = environment.get_template("model_card.md").render(facts, header=_card_header(facts))
    files.write_text(CARD, card)
    files.write_text(PAGE, page)
    cli.say(f"report: open {PAGE} in a browser; the model's card is {CARD}")


def _change(evaluation: dict[str, Any]) -> float | None:
    """By which share bits per byte changed from base to tuned; below 0 is better. None without test documents."""
    base, tuned = evaluation["base"]["bits_per_byte"], evaluation["tuned"]["bits_per_byte"]
    return tuned / base - 1 if base else None


def _curves(train: list[dict[str, str]], validation: list[dict[str, str]], figures: dict[str, Any]) -> str:
    """Training and validation loss over the steps as inline SVG, the same bytes for the same figures."""
    # Without these, matplotlib puts random ids and the date into the file.
    matplotlib.rcParams["svg.hashsalt"] = "curves"
    matplotlib.rcParams["font.size"] = 10
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*_points(train, "loss"), color="#4c72b0", label="training")
    if validation:
        axes.plot(*_points(validation, "loss"), color="#dd8452", marker="o", markersize=4, label="validation")
        axes.axvline(figures["best_step"], color="#888888", linestyle=":", label=f"kept: step {figures['best_step']}")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _points(rows: list[dict[str, str]], column: str) -> tuple[list[int], list[float]]:
    return [int(row["step"]) for row in rows], [float(row[column]) for row in rows]


def _card_header(facts: dict[str, Any]) -> str:
    """The model card's metadata as YAML, in the form the Hugging Face Hub reads."""
    base, evaluation = facts["base"], facts["evaluate"]
    results = None
    if evaluation["documents"]:
        results = [
            EvalResult(
                task_type="text-generation",
                dataset_type="jsonl",
                dataset_name="held-out documents of the corpus",
                metric_type=name,
                metric_name=name.replace("_", " "),
                metric_value=round(evaluation["tuned"][name], 4),
            )
            for name in ("bits_per_byte", "perplexity")
        ]
    return ModelCardData(
        model_name=facts["title"],
        base_model=base["name"] if base["source"] == "hub" else None,
        license=base["licence"],
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["gpt2"],
        eval_results=results,
    ).to_yaml()


if __name__ == "__main__":
    cli.run(main)
