"""Stage `evaluate`: base against tuned model on test documents that neither has trained on, and samples of both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from stages.lib import cli, devices, files, models, params, sampling, scoring, tokens
from stages.lib.packing import Document, documents_of

TEST = Path("data/tokens/test.arrow")
MODELS = {"base": Path("model/base"), "tuned": Path("model/finetuned")}
FIGURES = Path("logs/evaluate.json")
SAMPLES = Path("logs/samples.jsonl")
PROMPT_TOKENS = 12  # of a held-out document, given to the models as its opening


def main() -> None:
    """Write `logs/evaluate.json` and `logs/samples.jsonl`."""
    everything = params.load()
    settings = everything.evaluate
    files.need(TEST, *MODELS.values())
    devices.keep_freed_memory()
    device = devices.choose()
    tokenizer = tokens.load_tokenizer(MODELS["base"])
    loaded = {name: models.load(folder).to(device) for name, folder in MODELS.items()}
    everything.check_context(loaded["base"].config.n_positions)
    count = sum(1 for _ in _test_documents(tokenizer))
    totals = {name: _score(name, model, tokenizer, settings.stride, count) for name, model in loaded.items()}
    test = totals["base"]
    figures = {
        "documents": test.documents,
        "bytes": test.size,
        "tokens": test.tokens,
        **{name: _figures(total) for name, total in totals.items()},
    }
    samples = [
        _sample(loaded, tokenizer, prompt, settings, settings.seed + number)
        for number, prompt in enumerate(_prompts(tokenizer, settings, count))
    ]
    files.write_text(SAMPLES, "".join(map(files.to_json_line, samples)))
    files.write_json(FIGURES, figures)
    _summary(figures)


def _test_documents(tokenizer: Tokenizer) -> Iterator[Document]:
    return documents_of(tokens.read_rows(TEST), tokens.boundary_id(tokenizer))


def _score(name: str, model: GPT2LMHeadModel, tokenizer: Tokenizer, stride: int | None, count: int) -> scoring.Total:
    with cli.progress(f"evaluate {name}", count, " documents") as bar:
        scores = scoring.score_documents(model, _test_documents(tokenizer), stride)
        return scoring.total(cli.counted(scores, bar))


def _figures(total: scoring.Total) -> dict[str, float | None]:
    return {
        "nats": total.nats if total.documents else None,
        "bits_per_byte": total.bits_per_byte,
        "perplexity": total.perplexity,
        "end_of_text_nats": total.end_of_text_nats if total.documents else None,
    }


def _prompts(tokenizer: Tokenizer, settings: params.Evaluate, count: int) -> list[dict[str, Any]]:
    """The prompts of params.yaml, then openings of some of the `count` test documents, with the line of each."""
    prompts: list[dict[str, Any]] = [{"prompt": prompt, "line": None, "original": None} for prompt in settings.prompts]
    wanted = min(settings.held_out_prompts, count)
    places = set(np.linspace(0, count - 1, wanted, dtype=int).tolist()) if wanted else set()
    for place, document in enumerate(_test_documents(tokenizer)):
        if place in places:
            ids = document.ids[1:-1].tolist()
            text = tokenizer.decode(ids, skip_special_tokens=False)
            opening = tokenizer.decode(ids[:PROMPT_TOKENS], skip_special_tokens=False).rstrip(sampling.BROKEN)
            if opening != text:
                opening = opening.rpartition(" ")[0] or opening  # a word cut in half is a prompt nobody writes
            prompts.append({"prompt": opening, "line": document.line, "original": text[len(opening) :]})
    return prompts


def _sample(
    loaded: dict[str, GPT2LMHeadModel],
    tokenizer: Tokenizer,
    prompt: dict[str, Any],
    settings: params.Evaluate,
    seed: int,
) -> dict[str, Any]:
    """The prompt with what each model makes of it, given the same random numbers."""
    drawn = sampling.Sampling(settings.new_tokens, settings.temperature, settings.top_p)
    sample = dict(prompt)
    for name, model in loaded.items():
        continuation = sampling.continue_text(model, tokenizer, prompt["prompt"], drawn, seed)
        sample[name] = {"text": continuation.text, "ended": continuation.ended}
    return sample


def _summary(figures: dict[str, Any]) -> None:
    if not figures["documents"]:
        cli.say("evaluate: no test documents: base and tuned model cannot be compared. A larger corpus has some")
        return
    base, tuned = figures["base"]["bits_per_byte"], figures["tuned"]["bits_per_byte"]
    cli.say(f"evaluate: {figures['documents']} test documents, {figures['bytes']} bytes, {figures['tokens']} tokens")
    cli.say(f"  bits per byte: base {base:.4f}, tuned {tuned:.4f} ({tuned / base - 1:+.1%})")
    perplexity = {name: figures[name]["perplexity"] for name in MODELS}
    cli.say(f"  perplexity a token: base {perplexity['base']:.2f}, tuned {perplexity['tuned']:.2f}")


if __name__ == "__main__":
    cli.run(main)
