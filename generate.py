"""Talk to the model: continue a prompt in the style of the corpus.

python generate.py "Жил-был однажды"     one continuation, written as it comes
python generate.py                       a prompt a line, until an empty line or Ctrl-D
python generate.py --base "Жил-был"      the same with the model training started from
"""

from __future__ import annotations

import argparse
import math
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from stages.lib import cli

# Anchored to this file, so that the command works from any folder.
HOME = Path(__file__).resolve().parent


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", help="how the text begins; without it, prompts are asked for")
    parser.add_argument("--base", action="store_true", help="use the model training started from, not the tuned one")
    parser.add_argument("--tokens", type=_above(int, 1), default=200, help="tokens at most (default 200)")
    parser.add_argument(
        "--temperature", type=_above(float, 0), default=0.8, help="0: always the likeliest token (default 0.8)"
    )
    parser.add_argument("--top-p", type=_above(float, 0), default=0.95, help="share of probability kept (default 0.95)")
    parser.add_argument("--top-k", type=_above(int, 0), default=0, help="likeliest tokens kept; 0: all (default 0)")
    parser.add_argument(
        "--repetition-penalty", type=_above(float, 1), default=1.0, help="above 1: less repetition (default 1)"
    )
    parser.add_argument(
        "--seed", type=_above(int, 0, 2**32 - 1), help="the same seed gives the same text; by default a new one"
    )
    args = parser.parse_args()
    if not 0 < args.top_p <= 1:
        parser.error(f"argument --top-p: {args.top_p} is not above 0 and at most 1")
    return args


def _above(kind: type, least: float, most: float = math.inf) -> Callable[[str], float]:
    """A converter for argparse that takes a number from `least` to `most`."""

    def convert(text: str) -> float:
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text} is above {most}")
        return value

    convert.__name__ = kind.__name__
    return convert


def main() -> None:
    """Write one continuation, or answer prompts until there are no more."""
    args = arguments()
    # Only now: the libraries behind these take seconds to load, and --help should not wait for them.
    from stages.lib import devices, models, sampling, tokens

    folder = HOME / "model" / ("base" if args.base else "finetuned")
    model = models.load(folder).to(devices.choose())
    tokenizer = tokens.load_tokenizer(folder)
    settings = sampling.Sampling(args.tokens, args.temperature, args.top_p, args.top_k, args.repetition_penalty)

    def write(piece: str) -> None:
        print(piece, end="", flush=True)

    def answer(prompt: str) -> None:
        seed = secrets.randbelow(2**32) if args.seed is None else args.seed
        continuation = sampling.continue_text(model, tokenizer, prompt, settings, seed, write)
        write("\n" if continuation.ended else "…\n")
        if args.seed is None:
            print(f"(--seed {seed} writes this again)", file=sys.stderr)

    if args.prompt is not None:
        if any("\ud800" <= character <= "\udfff" for character in args.prompt):
            raise cli.UserError("the prompt is not UTF-8: set the terminal's encoding to UTF-8")
        answer(args.prompt)
        return
    interactive = sys.stdin.isatty()
    if interactive:
        cli.say("Write how a text begins; an empty line ends.")
    while True:
        try:
            prompt = input("> " if interactive else "")
        except EOFError:
            break
        if not prompt:
            break
        try:
            answer(prompt)
        except cli.UserError as error:
            if not interactive:
                raise
            cli.say(f"error: {error}")


if __name__ == "__main__":
    cli.run(main)
