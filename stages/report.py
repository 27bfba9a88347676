"""Stage `report`: everything a person wants to look at, on one page, and the model card; figures in, no computation."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stages.lib.common import cli, files, params
from stages.lib.common.translation import ENGLISH
from stages.lib.corpus.places import Places
from stages.lib.page import advice, pictures
from stages.lib.page.language import Words, language_of
from stages.lib.page.marking import pieces

LOGS = Path("logs")
TEMPLATES = Path("stages/lib/page/templates")
FIGURES = ("validate", "tokenize", "train", "evaluate", "metrics")
TABLES = ("lengths", "train_loss", "validation", "documents")
SAMPLES = LOGS / "samples.jsonl"
BASE = Path("model/base/provenance.json")
PLACES, SOURCES = Path("data/validated/files.tsv"), Path("data/validated/sources.tsv")
PAGE, CURVES, CARD = LOGS / "report.html", LOGS / "curves.svg", Path("model/MODEL_CARD.md")
LISTED = 5  # documents in each of the lists of the best and the worst changes
TABLE_WIDTH = 26


def main() -> None:
    """Write `logs/report.html`, `logs/curves.svg` and `model/MODEL_CARD.md`, and print the figures that count."""
    settings = params.load()
    figures = {name: LOGS / f"{name}.json" for name in FIGURES}
    tables = {name: LOGS / f"{name}.tsv" for name in TABLES}
    files.need(*figures.values(), *tables.values(), SAMPLES, BASE, PLACES, SOURCES)
    words = Words(settings.report.language)
    facts: dict[str, Any] = {name: files.read_json(path) for name, path in figures.items()}
    facts |= {name: files.read_tsv(path) for name, path in tables.items()}
    facts |= {
        "title": settings.report.title or words("GPT-2, fine-tuned"),
        "settings": settings.model_dump(by_alias=True),
        "base": files.read_json(BASE),
        "samples": files.read_json_lines(SAMPLES),
        "change": facts["metrics"]["change"],
        "place": Places.read(PLACES, SOURCES).short,
    }
    language = settings.report.corpus_language
    facts["corpus_language"] = language_of(facts["validate"]["scripts"]) if language == "auto" else language
    facts |= {"warnings": advice.warnings(facts, words), "next_steps": list(advice.next_steps(facts, words))}
    environment = page_environment(words)
    card = environment.get_template("model_card.md")
    page = environment.get_template("report.html")
    train, validation, best = facts["train_loss"], facts["validation"], facts["train"]["best_step"]
    files.write_text(CURVES, pictures.curves(train, validation, best, words))
    files.write_text(CARD, card.render(facts, header=_card_header(facts), english=Words(ENGLISH)))
    files.write_text(PAGE, page.render(facts, words=words, pictures=_pictures(facts, words), **_extremes(facts)))
    for line in _summary(facts, words):
        cli.say(line)


def page_environment(words: Words) -> Environment:
    """What renders the templates: HTML escaped, messages in the language of `words`."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name.endswith(".html"),
        extensions=["jinja2.ext.i18n"],
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["ext.i18n.trimmed"] = True
    environment.install_gettext_callables(words.look_up, words.plural, newstyle=True)
    environment.globals["plural"] = words.plural
    environment.filters |= {"markdown": _markdown, "code": _code, "pieces": pieces, "yaml": _yaml}
    # Plain JSON for a Python string in the card; Jinja's own tojson is for HTML.
    environment.filters["tojson_text"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment


def _pictures(facts: dict[str, Any], words: Words) -> dict[str, Markup | None]:
    """Inline SVG; None where there is nothing to show."""
    train, validation, best = facts["train_loss"], facts["validation"], facts["train"]["best_step"]
    drawn = {
        "loss": pictures.loss(train, validation, best, words),
        "documents": pictures.documents(facts["documents"], words) if facts["documents"] else None,
        "lengths": pictures.lengths(facts["lengths"], words) if facts["lengths"] else None,
    }
    return {name: Markup(svg) if svg else None for name, svg in drawn.items()}


def _extremes(facts: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    """The test documents for which tuning did most and least; none stands in both lists."""
    rows = [
        {"line": int(row["line"]), "base": float(row["base"]), "tuned": float(row["tuned"])}
        for row in facts["documents"]
    ]
    rows.sort(key=lambda row: (row["tuned"] - row["base"], row["line"]))
    count = min(LISTED, len(rows) // 2)
    return {"most": rows[:count], "least": rows[::-1][:count]}


def _yaml(value: Any) -> str:
    """`value` as YAML, keys in the order given, letters of every language as they are."""
    return yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=math.inf)


def _markdown(text: str) -> str:
    """`text` as Markdown that shows it as it is, neither markup nor HTML."""
    return re.sub(r"[\\`*_\[\]#|~$!]", r"\\\g<0>", html.escape(text, quote=False))


def _code(text: str) -> str:
    """`text` as a code span, which no backtick in it ends."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def _card_header(facts: dict[str, Any]) -> str:
    """The model card's metadata as YAML, in the form the Hugging Face Hub reads.

    It names no licence: that of a tuned model is for its owner to choose.
    """
    base, evaluation = facts["base"], facts["evaluate"]
    results = None
    if evaluation["documents"]:
        results = [
            EvalResult(
                task_type="text-generation",
                dataset_type="jsonl",
                dataset_name="test documents of the corpus",
                metric_type=name,
                metric_name=name.replace("_", " "),
                metric_value=round(evaluation["tuned"][name], 4),
            )
            for name in ("bits_per_byte", "perplexity")
            if evaluation["tuned"][name] is not None
        ]
    return ModelCardData(
        model_name=facts["title"],
        base_model=base["name"] if base["source"] == "hub" else None,
        language=facts["corpus_language"],
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["gpt2"],
        eval_results=results,
    ).to_yaml()


def _summary(facts: dict[str, Any], words: Words) -> Iterator[str]:
    """The figures that count as a table for the terminal, what to know about them, and where to look next."""
    rows = {
        words("bits per byte"): lambda model: words.number(model["bits_per_byte"], 4),
        words("perplexity per token"): lambda model: words.number(model["perplexity"], 2),
        words("samples that end"): lambda model: words.percent(model["samples"]["ended"]),
        words("training texts copied"): lambda model: words.percent(model["copying"]["training"]["share_copied"]),
    }
    yield ""
    yield f"{'':{TABLE_WIDTH}}{words('base'):>14}{words('tuned'):>14}"
    for name, shown in rows.items():
        yield f"{name:{TABLE_WIDTH}}" + "".join(f"{shown(facts['evaluate'][model]):>14}" for model in ("base", "tuned"))
    if (compared := facts["evaluate"]["comparison"]) and compared["low"] is not None:
        documents = facts["evaluate"]["documents"]
        yield words.plural(
            "Change: %(change)s (95%% interval of the difference: %(low)s to %(high)s); "
            "better on %(some)s of %(count)s test document",
            "Change: %(change)s (95%% interval of the difference: %(low)s to %(high)s); "
            "better on %(some)s of %(count)s test documents",
            documents,
            change=words.percent(facts["change"], 1, sign=True),
            low=words.number(compared["low"], 3, sign=True),
            high=words.number(compared["high"], 3, sign=True),
            some=words.number(compared["share_better"] * documents, 0),
        )
    yield ""
    for finding in facts["warnings"]:
        yield f"! {finding.text}{f'  {cli.command(finding.command)}' if finding.command else ''}"
    yield words("Report, to be opened in a browser: %(page)s", page=PAGE)
    yield words("Curves: %(command)s", command=cli.command("tensorboard --logdir logs/tensorboard"))
    yield words("Generate text: %(command)s", command=cli.command("python generate.py"))


if __name__ == "__main__":
    cli.run(main)
