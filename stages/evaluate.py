"""Stage `evaluate`: base against tuned model on test documents that neither has trained on, and samples of both."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from transformers import GPT2LMHeadModel

from stages.lib.common import cli, files, params
from stages.lib.evaluation import comparison, copying, outcome, retention, samples
from stages.lib.model import devices, generation, models, scoring
from stages.lib.processes import launch
from stages.lib.processes.group import Group
from stages.lib.rows import limits, tokens
from stages.lib.rows.packing import Document, documents_of
from stages.lib.rows.word_count import count_words

TRAIN, TEST = Path("data/tokens/train.arrow"), Path("data/tokens/test.arrow")
MODELS = {"base": Path("model/base"), "tuned": Path("model/finetuned")}
TRAINING = Path("logs/train.json")
FIGURES, DOCUMENTS, SAMPLES = Path("logs/evaluate.json"), Path("logs/documents.tsv"), Path("logs/samples.jsonl")
METRICS = Path("logs/metrics.json")


def main() -> None:
    """Write `logs/evaluate.json`, `logs/metrics.json`, `logs/documents.tsv` and `logs/samples.jsonl`."""
    everything = params.load()
    settings = everything.evaluate
    files.need(TRAIN, TEST, TRAINING, *MODELS.values())
    limits.check(everything, MODELS["base"])
    devices.keep_freed_memory()
    launch.take_gpu()
    device = devices.choose()
    size = launch.at_hand(launch.made_for(everything.train.processes, device), device)
    tokenizer = tokens.Tokenizer(MODELS["base"])
    loaded = {name: models.load(folder).to(device) for name, folder in MODELS.items()}
    context = loaded["base"].config.n_positions

    words = [_words(tokenizer, document) for document in _documents(TEST, tokenizer)]
    with launch.together("stages.evaluate", size, device) as group:
        scores = {
            name: _score(name, model, tokenizer, settings.stride, len(words), group) for name, model in loaded.items()
        }
    if not group.first:
        return
    prompts = _prompts(tokenizer, settings, len(words), context)
    drawn = _drawn(loaded, tokenizer, prompts, settings)
    continued = _continued(loaded, tokenizer, settings.copy_prompts, context)

    copies, copied = _copies(tokenizer, drawn, continued)

    figures = _figures_of_documents(scores, words)
    for name in MODELS:
        figures[name] = {
            **outcome.likelihood(scoring.total(scores[name]), sum(words)),
            "samples": samples.figures([one[name] for one in drawn], [one[name] for one in copies]),
            "copying": {split: copied[name, split] for split in ("training", "held_out")},
        }
    figures["retention"] = _retained(loaded, tokenizer, settings)
    compared = comparison.compare(scores["base"], scores["tuned"], settings.seed)
    figures["comparison"] = asdict(compared) if compared else None
    files.write_text(SAMPLES, "".join(map(files.to_json_line, _shown(prompts, drawn, copies))))
    files.write_tsv(DOCUMENTS, ["line", "bytes", "tokens", "words", *MODELS], outcome.table(scores, words))
    files.write_json(FIGURES, figures)
    metrics = outcome.metrics(figures, files.read_json(TRAINING))
    files.write_json(METRICS, metrics)
    _summary(figures, metrics["change"])


def _documents(path: Path, tokenizer: tokens.Tokenizer) -> Iterator[Document]:
    return documents_of(tokens.read_rows(path), tokenizer.closing)


def _words(tokenizer: tokens.Tokenizer, document: Document) -> int:
    """The words of the document's text; at least 1, as perplexity is by word."""
    return max(1, count_words(tokenizer.decode(document.ids[1:-1].tolist())))


def _score(
    name: str, model: GPT2LMHeadModel, tokenizer: tokens.Tokenizer, stride: int | None, count: int, group: Group
) -> list[scoring.Score]:
    cli.say(f"evaluate: scores {MODELS[name]} on {count} test document{'s' * (count != 1)}")
    with cli.progress(f"score {name}", count, " documents") as bar:
        scored = scoring.score_documents(
            model, _documents(TEST, tokenizer), stride, check=lambda: bar.update(0), group=group
        )
        scores = list(cli.counted(scored, bar))
    for score in scores:
        if not math.isfinite(score.nats + score.end_of_text_nats):
            raise cli.UserError(
                f"{MODELS[name]} gives the document of line {score.line} no finite likelihood: its weights are "
                "damaged, or training ran away: lower train.learning_rate in params.yaml"
            )
    return scores


def _prompts(tokenizer: tokens.Tokenizer, settings: params.Evaluate, count: int, context: int) -> list[samples.Prompt]:
    """The prompts of params.yaml, then openings of some of the `count` test documents."""
    given = _given_prompts(tokenizer, settings, context)
    for prompt in given:
        if tokens.prompt_ids(tokenizer, prompt, context)[1]:
            cli.say(
                f"  prompt {reprlib.repr(prompt)}: white space at its end is written by the model, with what follows"
            )
    places = samples.evenly(count, settings.held_out_prompts)
    openings = [
        samples.opening(tokenizer, document, context)
        for place, document in enumerate(_documents(TEST, tokenizer))
        if place in places
    ]
    return [*map(samples.Prompt, given), *openings]


def _given_prompts(tokenizer: tokens.Tokenizer, settings: params.Evaluate, context: int) -> Sequence[str]:
    """The prompts of params.yaml; for `auto` those that go with the texts, where the model sees enough for them."""
    if settings.prompts != "auto":
        return settings.prompts
    usual = samples.USUAL_PROMPTS.get(samples.script_of(_documents(TRAIN, tokenizer), tokenizer), ())
    return [prompt for prompt in usual if len(tokenizer.encode(prompt)) + 2 <= context]


def _drawn(
    loaded: dict[str, GPT2LMHeadModel],
    tokenizer: tokens.Tokenizer,
    prompts: list[samples.Prompt],
    settings: params.Evaluate,
) -> list[dict[str, generation.Continuation]]:
    """What each model makes of each prompt."""
    how = generation.Sampling(settings.new_tokens, settings.temperature, settings.top_p)
    cli.say(f"evaluate: has both models continue {len(prompts)} prompt{'s' * (len(prompts) != 1)}")
    with cli.progress("samples", len(prompts) * len(loaded), " texts") as bar:
        return samples.draw(loaded, tokenizer, prompts, how, settings.seed, bar.update)


def _continued(
    loaded: dict[str, GPT2LMHeadModel], tokenizer: tokens.Tokenizer, count: int, context: int
) -> dict[tuple[str, str], list[list[int]]]:
    """What each model holds for the likeliest after the beginnings of training and of test documents."""
    if context < samples.COPY_CONTEXT:
        cli.say(f"evaluate: a context of {context} tokens is too short to show a copy: not tried")
        count = 0
    beginnings = {
        split: samples.beginnings(_documents(path, tokenizer), count)
        for split, path in (("training", TRAIN), ("held_out", TEST))
    }
    if count:
        counts = ", ".join(f"{split.replace('_', '-')} {len(prompts)}" for split, prompts in beginnings.items())
        cli.say(f"evaluate: has both models go on from the beginnings of documents: {counts}")
    continued = {}
    with cli.progress("beginnings", len(loaded) * sum(map(len, beginnings.values())), " documents") as bar:
        for name, model in loaded.items():
            for split, prompts in beginnings.items():
                written = generation.likeliest(
                    model, tokenizer.closing, prompts, samples.COPY_LENGTH, lambda: bar.update(0)
                )
                continued[name, split] = written
                bar.update(len(prompts))
    return continued


def _retained(
    loaded: dict[str, GPT2LMHeadModel], tokenizer: tokens.Tokenizer, settings: params.Evaluate
) -> dict[str, Any] | None:
    """How both models score what the base writes by itself."""
    if not (count := settings.base_texts):
        return None
    cli.say(f"evaluate: has the base model write {count} text{'s' * (count != 1)} by itself, and both score them")
    with cli.progress("base texts", retention.LENGTH, " tokens") as bar:
        return retention.figures(loaded["base"], loaded["tuned"], tokenizer, count, settings.seed, bar.update)


def _copies(
    tokenizer: tokens.Tokenizer,
    drawn: list[dict[str, generation.Continuation]],
    continued: dict[tuple[str, str], list[list[int]]],
) -> tuple[list[dict[str, list[list[int]]]], dict[tuple[str, str], dict[str, Any]]]:
    """Where copies stand in each sample, and the figures of what was gone on with; one look at the training documents.

    Both have the form of what is given.
    """
    samples_drawn = [text.ids for sample in drawn for text in sample.values()]
    texts = samples_drawn + [ids for one in continued.values() for ids in one]
    cli.say("evaluate: looks whether what the models wrote stands in training documents")
    with cli.progress("copies", None, " documents") as bar:
        documents = cli.counted(_documents(TRAIN, tokenizer), bar)
        found = iter(copying.runs([np.array(ids) for ids in texts], documents))
    parts = [
        {name: samples.copied_parts(tokenizer, text, next(found)) for name, text in sample.items()} for sample in drawn
    ]
    return parts, {key: samples.copy_figures([next(found) for _ in one]) for key, one in continued.items()}


def _figures_of_documents(scores: dict[str, list[scoring.Score]], words: list[int]) -> dict[str, Any]:
    total = scoring.total(scores["base"])
    return {"documents": total.documents, "bytes": total.size, "tokens": total.tokens, "words": sum(words)}


def _shown(
    prompts: list[samples.Prompt],
    drawn: list[dict[str, generation.Continuation]],
    copies: list[dict[str, list[list[int]]]],
) -> Iterator[dict[str, Any]]:
    """The samples as they stand in the file; `copied` is where copies stand in a text, in characters."""
    for prompt, texts, parts in zip(prompts, drawn, copies, strict=True):
        written = {
            name: {"text": text.text, "ended": text.ended, "copied": parts[name]} for name, text in texts.items()
        }
        yield {"prompt": prompt.text, "line": prompt.line, "original": prompt.original, **written}


def _summary(figures: dict[str, Any], change: float | None) -> None:
    if not figures["documents"]:
        cli.say("evaluate: no test documents: base and tuned model cannot be compared")
        return
    base, tuned, compared, count = (figures[name] for name in ("base", "tuned", "comparison", "documents"))
    cli.say(f"evaluate: {count} test document{'s' * (count > 1)}, {figures['bytes']} bytes, {figures['tokens']} tokens")
    cli.say(f"  bits per byte: base {base['bits_per_byte']:.4f}, tuned {tuned['bits_per_byte']:.4f} ({change:+.1%})")
    if compared["low"] is None:
        cli.say("  one document says nothing of others: the difference has no interval")
    else:
        cli.say(f"  95 % interval of the difference: {compared['low']:+.4f} to {compared['high']:+.4f}")


if __name__ == "__main__":
    cli.run(main)
