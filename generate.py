"""Let the model write: continue a prompt in the style of the corpus.

python generate.py "Жил-был однажды"       one continuation, written as it comes
python generate.py "Жил-был" --samples 3   three of them
python generate.py                         a prompt a line, until an empty line or Ctrl-D
python generate.py "Жил-был" --compare     the model training started from, then the tuned one
python generate.py --prompts prompts.txt --output texts.jsonl
                                           a prompt a line in, JSON Lines out; - is standard input or output
"""

from __future__ import annotations

import argparse
import json
import math
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from stages.lib.common import cli, files, params

if TYPE_CHECKING:  # the libraries behind these take seconds to load, and --help should not wait for them
    from transformers import GPT2LMHeadModel

    from stages.lib.model.generation import Sampling

# Anchored to this file, so that the command works from any folder.
HOME = Path(__file__).resolve().parent
FOLDERS = {"base": HOME / "model/base", "tuned": HOME / "model/finetuned"}
STANDARD = "-"  # instead of a file's name
WHITE_SPACE = "(white space at the end of a prompt is written by the model, in one token with what follows it)"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", help="how the text begins; without it, prompts are asked for")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--base", action="store_true", help="use the model training started from, not the tuned one")
    which.add_argument("--compare", action="store_true", help="use both, with the same random numbers")
    parser.add_argument("--samples", type=_above(int, 1), default=1, help="texts for each prompt (default 1)")
    parser.add_argument("--tokens", type=_above(int, 1), default=200, help="tokens at most (default 200)")
    parser.add_argument(
        "--temperature",
        type=_above(float, 0, params.GREATEST_TEMPERATURE),
        default=0.8,
        help="0: always the likeliest token (default 0.8)",
    )
    parser.add_argument("--top-p", type=_above(float, 0), default=0.95, help="share of probability kept (default 0.95)")
    parser.add_argument("--top-k", type=_above(int, 0), default=0, help="likeliest tokens kept; 0: all (default 0)")
    parser.add_argument(
        "--repetition-penalty", type=_above(float, 1, 100), default=1.0, help="above 1: less repetition (default 1)"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be given several times"
    )
    parser.add_argument(
        "--seed", type=_above(int, 0, 2**32 - 1), help="the same seed gives the same text; by default a new one"
    )
    parser.add_argument("--prompts", metavar="FILE", help='a prompt a line; in a .jsonl file {"prompt": "..."}')
    parser.add_argument("--output", metavar="FILE", help="write JSON Lines: prompt, text, ended, model and seed")
    args = parser.parse_args()
    if not 0 < args.top_p <= 1:
        parser.error(f"argument --top-p: {args.top_p} is not above 0 and at most 1")
    if 0 < args.temperature < params.LEAST_TEMPERATURE:
        parser.error(f"argument --temperature: {args.temperature} is neither 0 nor {params.LEAST_TEMPERATURE} or above")
    if "" in args.stop:
        parser.error("argument --stop: an empty text would end everything at once")
    if args.prompts and args.prompt is not None:
        parser.error("argument --prompts: not together with a prompt on the command line")
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


@dataclass(frozen=True)
class Prompt:
    """How a text is to begin, and the place in a file where that was read."""

    text: str
    place: str | None = None


class Writer:
    """The loaded models, and how they are to write."""

    def __init__(self, args: argparse.Namespace) -> None:
        from stages.lib.model import devices, generation, models
        from stages.lib.rows import tokens

        self._continue_text, self._prompt_ids = generation.continue_text, tokens.prompt_ids
        names = ("base", "tuned") if args.compare else ("base",) if args.base else ("tuned",)
        device = devices.choose()
        self.models: dict[str, GPT2LMHeadModel] = {name: models.load(FOLDERS[name]).to(device) for name in names}
        # One for both: training leaves the tokenizer as it is.
        self._tokenizer = tokens.Tokenizer(FOLDERS[names[0]])
        self._settings: Sampling = generation.Sampling(
            *(args.tokens, args.temperature, args.top_p, args.top_k, args.repetition_penalty, tuple(args.stop))
        )
        self._seed, self._samples = args.seed, args.samples

    def check(self, prompt: Prompt) -> str:
        """The white space at a prompt's end that goes into the first token written, mostly none.

        Raises UserError when the prompt is no text, or leaves no room for more.
        """
        if any("\ud800" <= character <= "\udfff" for character in prompt.text):
            raise cli.UserError("the prompt is not UTF-8: set the terminal's encoding to UTF-8")
        try:
            context = next(iter(self.models.values())).config.n_positions
            return self._prompt_ids(self._tokenizer, prompt.text, context)[1]
        except cli.UserError as error:
            raise cli.UserError(f"{prompt.place}: {error}" if prompt.place else str(error)) from None

    def seeds(self) -> list[int]:
        """A seed for each text that is wanted for one prompt."""
        first = secrets.randbelow(2**32) if self._seed is None else self._seed
        return [(first + number) % 2**32 for number in range(self._samples)]

    def show(self, prompt: Prompt) -> None:
        """Write the texts for a prompt to the terminal as they come."""

        def write(piece: str) -> None:
            # A model may write any character; a file or another program gets them as they are.
            print(cli.harmless(piece) if sys.stdout.isatty() else piece, end="", flush=True)

        for seed in self.seeds():
            for name, model in self.models.items():
                if len(self.models) > 1:
                    write(f"[{name}] ")
                continued = self._continue_text(model, self._tokenizer, prompt.text, self._settings, seed, write)
                write("\n" if continued.ended else "…\n")
            if self._seed is None:
                print(f"(--seed {seed} writes this again)", file=sys.stderr)

    def lines(self, prompt: Prompt) -> Iterator[str]:
        """Yield the texts for a prompt as lines of JSON; `text` is what comes after the prompt."""
        for seed in self.seeds():
            for name, model in self.models.items():
                continued = self._continue_text(model, self._tokenizer, prompt.text, self._settings, seed)
                yield files.to_json_line(
                    {
                        "prompt": prompt.text,
                        "text": continued.text,
                        "ended": continued.ended,
                        "model": name,
                        "seed": seed,
                    }
                )


def main() -> None:
    """Continue the prompt, or the prompts of a file, or those that are typed."""
    args = arguments()
    if args.output not in (None, STANDARD) and Path(args.output).exists():
        raise cli.UserError(f"{cli.printable(args.output)} is there already: name another file, or remove it")
    if args.prompt is not None:
        prompts = [Prompt(args.prompt)]
    elif args.prompts or args.output or not sys.stdin.isatty():
        prompts = list(_read(args.prompts or STANDARD))
        if not prompts:
            raise cli.UserError(f"{_called(args.prompts or STANDARD)} holds no prompt")
    else:
        prompts = None
    writer = Writer(args)
    if any([writer.check(prompt) for prompt in prompts or []]):
        print(WHITE_SPACE, file=sys.stderr)
    if prompts is None:
        for prompt in _typed():
            try:
                if writer.check(prompt):
                    cli.say(WHITE_SPACE)
                writer.show(prompt)
            except cli.UserError as error:
                cli.say(f"error: {error}")
    elif args.output:
        _to_file(writer, prompts, args.output)
    else:
        for prompt in prompts:
            writer.show(prompt)


def _typed() -> Iterator[Prompt]:
    """What the user types at the terminal, until an empty line or the end."""
    cli.say("Write how a text begins; an empty line ends.")
    while True:
        try:
            text = input("> ")
        except EOFError:
            return
        if not text:
            return
        yield Prompt(text)


def _called(name: str) -> str:
    """What a message calls the source of the prompts."""
    return "standard input" if name == STANDARD else cli.printable(name)


def _read(name: str) -> Iterator[Prompt]:
    """The prompts of a file, or of standard input, a line each; empty lines are none."""
    source = _called(name)
    try:
        text = sys.stdin.buffer.read() if name == STANDARD else Path(name).read_bytes()
        lines = text.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise cli.UserError(f"{source} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise cli.UserError(f"{source}, line {line}: not UTF-8; convert it first") from None
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        if line.strip():
            where = f"{source}, line {number}"
            yield Prompt(_prompt_of(line, where) if name.endswith(".jsonl") else line, where)


def _prompt_of(line: str, where: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, TypeError, KeyError):
        prompt = None
    if not isinstance(prompt, str):
        raise cli.UserError(f'{where}: not of the form {{"prompt": "..."}}')
    return prompt


def _to_file(writer: Writer, prompts: list[Prompt], name: str) -> None:
    with _output(name) as out, cli.progress("generate", len(prompts), " prompts") as bar:
        for prompt in cli.counted(prompts, bar):
            for line in writer.lines(prompt):
                out.write(line)
                out.flush()  # who reads along in a pipe sees each text at once


@contextmanager
def _output(name: str) -> Iterator[TextIO]:
    if name == STANDARD:
        yield sys.stdout
        return
    with files.new_file(name) as partial, open(partial, "w", encoding="utf-8") as out:
        yield out


if __name__ == "__main__":
    cli.run(main)
