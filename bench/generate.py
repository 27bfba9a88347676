"""How fast text is written, token by token, against transformers' pipeline.

    python -m bench.generate                             GPT-2's shape with 124 M random weights
    python -m bench.generate --base model/embedded       another base, with its own vocabulary and weights
    ... --tokens 100 --prompts 4

Both take the likeliest token each time, in float32 and with a key-value cache; they take turns, and their texts are
compared. `this project` is what generate.py does. Needs bench/requirements.txt for GPT-2's vocabulary.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch
from transformers import GenerationConfig, pipeline

from bench import measure
from stages.lib.common import cli
from stages.lib.model import devices, generation, models
from stages.lib.rows import tokens

BEGINNING = 40  # characters of a document that are the prompt


def main() -> None:
    """Print the table."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--base", type=Path, help="a base of this repository instead of GPT-2 with random weights")
    parser.add_argument("--tokens", type=int, default=100, help="tokens for each prompt (default 100)")
    parser.add_argument("--prompts", type=int, default=4, help="prompts in a turn (default 4)")
    args = parser.parse_args()
    (source, *_) = args.corpus or [measure.own_corpus()]
    prompts = [text[:BEGINNING] for text in islice(measure.texts(source), args.prompts)]
    devices.keep_freed_memory()
    device = devices.choose()
    with measure.workspace() as folder:
        measure.write_base(folder, args.base)
        base = folder / "model/base"
        model, tokenizer = models.load(base).to(device), tokens.Tokenizer(base)
        with models.quiet():
            usual = pipeline("text-generation", str(base), dtype=torch.float32, device=device)
    settings = generation.Sampling(args.tokens, temperature=0)
    closing = tokenizer.closing
    greedy = GenerationConfig(max_new_tokens=args.tokens, do_sample=False, eos_token_id=closing, pad_token_id=closing)

    def ours() -> list[str]:
        return [prompt + generation.continue_text(model, tokenizer, prompt, settings, 0).text for prompt in prompts]

    def theirs() -> list[str]:
        with models.quiet():
            return [usual(prompt, generation_config=greedy)[0]["generated_text"] for prompt in prompts]

    ways = {"this project": ours, "pipeline": theirs}
    texts = {name: way() for name, way in ways.items()}
    count = sum(len(generation.continue_text(model, tokenizer, prompt, settings, 0).ids) for prompt in prompts)
    seconds = dict(zip(ways, measure.in_turns(args.runs, *ways.values()), strict=True))
    rates = {name: count / taken for name, taken in seconds.items()}
    same = sum(
        theirs.rstrip(generation.BROKEN) == ours
        for ours, theirs in zip(texts["this project"], texts["pipeline"], strict=True)
    )
    rows = [[name, f"{rate:.1f}", f"{rate / rates['pipeline']:.2f}"] for name, rate in rates.items()]
    figures = {"tokens": count, "tokens_per_second": rates, "same_texts": same, "texts": len(prompts)}
    title = f"{len(prompts)} texts of {args.tokens} tokens at most; {same} of {len(prompts)} are the same in both ways."
    measure.report(title, ["way", "tokens/s", "times the pipeline"], rows, figures, args.json)


if __name__ == "__main__":
    cli.run(main)
