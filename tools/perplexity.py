"""The perplexity of one long text, in windows that do not overlap: the figure that papers give for WikiText-2.

    python -m tools.perplexity wikitext-2.txt
    python -m tools.perplexity wikitext-2.txt --model model/finetuned --window 512

The text is read as it stands, without `<|endoftext|>`; each window of tokens is scored by itself, its first token only
as context. For GPT-2 with 124 M parameters (base.hub: openai-community/gpt2) and the raw test part of WikiText-2, its
pieces joined by two line ends, windows of 1024 tokens give 29.94. To compare with other texts or models, the pipeline's
own evaluation is the better way: document by document, and in bits per byte.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import GPT2LMHeadModel

from stages.lib.common import cli
from stages.lib.common.translation import Parser
from stages.lib.model import devices, models, scoring
from stages.lib.rows import tokens

HOME = Path(__file__).resolve().parent.parent


def main() -> None:
    """Print tokens, nats a token and perplexity."""
    parser = Parser(__doc__)
    parser.add_argument("text", type=Path, help="a UTF-8 text file")
    parser.add_argument("--model", type=Path, default=HOME / "model/base", help="by default model/base")
    parser.add_argument("--window", type=int, help="tokens in a window; by default as many as the model sees")
    args = parser.parse_args()
    try:
        text = args.text.read_bytes().decode("utf-8")
    except OSError as error:
        raise cli.UserError(f"{args.text} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise cli.UserError(f"{args.text} is not UTF-8 from byte {error.start} on: convert it first") from None
    model = models.load(args.model).to(devices.choose())
    context = model.config.n_positions
    window = args.window or context
    if not 2 <= window <= context:
        raise cli.UserError(f"--window {window}: the model sees from 2 to {context} tokens")
    ids = tokens.Tokenizer(args.model).encode(text)
    if len(ids) < 2:
        raise cli.UserError(f"{args.text} has {len(ids)} tokens: there is nothing to predict")
    scored = [nats for piece in tqdm(list(_windows(ids, window)), disable=None) for nats in score(model, piece)]
    cli.say(f"{len(ids)} tokens in windows of {window}, {len(scored)} of them predicted")
    mean = math.fsum(scored) / len(scored)
    cli.say(f"{mean:.4f} nats a token, perplexity {math.exp(mean):.2f}")


def _windows(ids: list[int], length: int) -> Iterator[list[int]]:
    return (ids[start : start + length] for start in range(0, len(ids), length))


@torch.no_grad()
def score(model: GPT2LMHeadModel, ids: list[int]) -> list[float]:
    """The negative log-likelihood in nats of every token but the first, given those before it."""
    row = torch.tensor([ids], device=model.device)
    positions = torch.arange(len(ids), device=model.device)[None]
    return scoring.next_token_nats(model, row, positions, row)[0].tolist()


if __name__ == "__main__":
    cli.run(main)
