"""Let the model write: continue a prompt in the style of the corpus.

python generate.py "Жил-был однажды"       one continuation, written as it comes
python generate.py "Жил-был" --samples 3   three of them; in a file or a pipe a line with a form feed parts them
python generate.py                         a prompt a line, until an empty line or Ctrl-D
python generate.py "Жил-был" --compare     the model training started from, then the tuned one
python generate.py -- "-- Кто там?"        a prompt that begins with a hyphen
python generate.py --prompts prompts.txt --output texts.jsonl
                                           a prompt a line in, JSON Lines out; - is standard input or output
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import stages
from stages.lib.common import cli, files, params, plain_yaml
from stages.lib.common.translation import Parser, above, translated

if TYPE_CHECKING:  # the libraries behind these take seconds to load, and --help should not wait for them
    from transformers import GPT2LMHeadModel

    from stages.lib.model.generation import Continuation, Sampling

# Anchored to this file, so that the command works from any folder.
HOME = Path(__file__).resolve().parent
FOLDERS = {"base": HOME / "model/base", "tuned": HOME / "model/finetuned"}
TITLES = {"base": "base model", "tuned": "tuned model"}
STANDARD = "-"  # instead of a file's name
PARTING = "\f"  # a line of its own between samples in a file or a pipe: no text of theirs holds it
NEW_TOKENS = 200  # at most, unless others are asked for
TAIL = 30  # characters that show where a prompt was cut
WHITE_SPACE = "(white space at the end of a prompt is written by the model, in one token with what follows it)"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("prompt", nargs="?", help="how the text begins; without it, prompts are asked for")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--base", action="store_true", help="use the model training started from, not the tuned one")
    which.add_argument("--compare", action="store_true", help="use both, with the same random numbers")
    parser.add_argument("--samples", type=above(int, 1), default=1, help="texts for each prompt (default 1)")
    parser.add_argument("--tokens", type=above(int, 1), default=NEW_TOKENS, help="tokens at most (default 200)")
    parser.add_argument(
        "--temperature",
        type=above(float, 0, params.GREATEST_TEMPERATURE),
        default=0.8,
        help="0: always the likeliest token (default 0.8)",
    )
    parser.add_argument("--top-p", type=above(float, 0), default=0.95, help="share of probability kept (default 0.95)")
    parser.add_argument("--top-k", type=above(int, 0), default=0, help="likeliest tokens kept; 0: all (default 0)")
    parser.add_argument(
        "--repetition-penalty", type=above(float, 1, 100), default=1.0, help="above 1: less repetition (default 1)"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be given several times"
    )
    parser.add_argument(
        "--seed", type=above(int, 0, 2**32 - 1), help="the same seed gives the same text; by default a new one"
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
    if "" in (args.prompts, args.output):
        parser.error("argument --prompts, --output: the name of a file is empty")
    if args.prompts and args.prompt is not None:
        parser.error("argument --prompts: not together with a prompt on the command line")
    return args


@dataclass(frozen=True)
class Prompt:
    """How a text is to begin, and the place in a file where that was read.

    `unseen` is how many characters at its beginning the model does not see.
    """

    text: str
    place: str | None = None
    unseen: int = 0

    @property
    def seen(self) -> str:
        """What the model continues."""
        return self.text[self.unseen :]


class Models:
    """The models that write, by their names, and what they take for a prompt; the page of tools.page has them too."""

    def __init__(self, names: Sequence[str]) -> None:
        with stages.loading():
            from stages.lib.model import devices, generation, models
            from stages.lib.rows import tokens

        self._continue_text, self._prompt_ids = generation.continue_text, tokens.prompt_ids
        if "tuned" in names:
            _refuse_if_put_away(FOLDERS["tuned"])
        device = devices.choose()
        self.named: dict[str, GPT2LMHeadModel] = {name: models.load(FOLDERS[name]).to(device) for name in names}
        # One for both: training leaves the tokenizer as it is.
        self.tokenizer = tokens.Tokenizer(FOLDERS[names[0]])
        self.context: int = self.named[names[0]].config.n_positions

    def fit(self, prompt: Prompt, new_tokens: int) -> Prompt:
        """The prompt as a model takes it: of one that fills its context only the end is seen.

        What is left leaves room for `new_tokens`, or for half the context. Raises UserError when the prompt is no text.
        """
        if any("\ud800" <= character <= "\udfff" for character in prompt.text):
            if prompt.place:
                raise cli.UserError(f"{prompt.place}: half a surrogate pair, which is no character: remove it")
            raise cli.UserError("the prompt is not UTF-8: set the terminal's encoding to UTF-8")
        if self._fits(prompt.text, self.context):
            return prompt
        below = self.context - min(new_tokens, self.context // 2) + 1
        places = range(len(prompt.text))
        return replace(
            prompt, unseen=bisect_left(places, True, key=lambda start: self._fits(prompt.text[start:], below))
        )

    def _fits(self, text: str, below: int) -> bool:
        """Whether a prompt and what opens a text have fewer tokens than `below`."""
        try:
            self._prompt_ids(self.tokenizer, text, below)
        except cli.UserError:
            return False
        return True

    def moved(self, prompt: Prompt) -> str:
        """The white space at a prompt's end that goes into the first token written, mostly none."""
        return self._prompt_ids(self.tokenizer, prompt.seen, self.context)[1]

    def continue_text(self, name: str, prompt: Prompt, sampling: Sampling, seed: int, *more: Callable) -> Continuation:
        """What the model of that name makes of a prompt; `more` are the functions that `generation` calls meanwhile."""
        return self._continue_text(self.named[name], self.tokenizer, prompt.seen, sampling, seed, *more)

    def left_out(self, prompt: Prompt) -> str:
        """What is said of a prompt whose beginning no model sees."""
        last = cli.printable(prompt.text[max(0, prompt.unseen - TAIL) : prompt.unseen])
        note = (
            f"the prompt does not fit into the {self.context} tokens that the model sees: its first {prompt.unseen} "
            f"characters are left out, up to …{last}"
        )
        return translated(f"{prompt.place}: {note}" if prompt.place else note)


class Writer:
    """The loaded models, and how they are to write."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.models = Models(("base", "tuned") if args.compare else ("base",) if args.base else ("tuned",))
        from stages.lib.model import generation

        self._settings: Sampling = generation.Sampling(
            *(args.tokens, args.temperature, args.top_p, args.top_k, args.repetition_penalty, tuple(args.stop))
        )
        self._seed, self._samples = args.seed, args.samples
        self._begun = False  # to show texts

    def fit(self, prompt: Prompt) -> Prompt:
        """The prompt as the model takes it; a line says what is left out of it. Raises UserError when it is no text."""
        fitting = self.models.fit(prompt, self._settings.new_tokens)
        if fitting.unseen:
            print(self.models.left_out(fitting), file=sys.stderr)
        return fitting

    def seeds(self) -> list[int]:
        """A seed for each text that is wanted for one prompt."""
        first = secrets.randbelow(2**32) if self._seed is None else self._seed
        return [(first + number) % 2**32 for number in range(self._samples)]

    def show(self, prompt: Prompt) -> None:
        """Write the texts for a prompt to the terminal as they come."""

        terminal, several = sys.stdout.isatty(), self._samples > 1

        def write(piece: str) -> None:
            # A model may write any character; a file or another program gets them as they are, but what parts texts.
            piece = cli.harmless(piece) if terminal else piece.replace(PARTING, "\n") if several else piece
            print(piece, end="", flush=True)

        for number, seed in enumerate(self.seeds(), 1):
            if several and terminal:
                print(translated(f"--- {number} of {self._samples} ---"))
            elif several and self._begun:
                print(PARTING)
            self._begun = True
            for name in self.models.named:
                if len(self.models.named) > 1:
                    write(f"[{translated(TITLES[name])}] ")
                write(prompt.text[: prompt.unseen])
                continued = self.models.continue_text(name, prompt, self._settings, seed, write)
                write("\n" if continued.ended else "…\n")
            if self._seed is None:
                print(translated(f"(--seed {seed} writes this again)"), file=sys.stderr)

    def lines(self, prompt: Prompt) -> Iterator[str]:
        """Yield the texts for a prompt as lines of JSON; `text` is what comes after the prompt."""
        for seed in self.seeds():
            for name in self.models.named:
                continued = self.models.continue_text(name, prompt, self._settings, seed)
                yield line_of(prompt.text, continued, name, seed)


def line_of(prompt: str, continued: Continuation, name: str, seed: int) -> str:
    """A text as a line of JSON: what is given with `--output`, and what the page of tools.page keeps."""
    written = {"text": continued.text, "ended": continued.ended}
    return files.to_json_line({"prompt": prompt, **written, "model": name, "seed": seed})


def main() -> None:
    """Continue the prompt, or the prompts of a file, or those that are typed."""
    args = arguments()
    if args.output not in (None, STANDARD) and (Path(args.output).is_file() or Path(args.output).is_dir()):
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
    if prompts is None:
        _answer(writer)
        return
    prompts = [writer.fit(prompt) for prompt in prompts]
    if any(map(writer.models.moved, prompts)):
        print(translated(WHITE_SPACE), file=sys.stderr)
    if args.output:
        _to_file(writer, prompts, args.output)
    else:
        for prompt in prompts:
            writer.show(prompt)


def _refuse_if_put_away(folder: Path) -> None:
    """Raise UserError when there is no model, but DVC has one of an earlier run: it deletes the last before the next.

    Only its own cache is looked into, not one that is shared with others.
    """
    if folder.exists():
        return
    name = folder.relative_to(HOME).as_posix()
    try:
        locked = plain_yaml.parse((HOME / "dvc.lock").read_bytes())["stages"]["train"]["outs"]
        hashed = next(out["md5"] for out in locked if out["path"] == name)
    except (OSError, plain_yaml.Refused, LookupError, TypeError, StopIteration):
        return
    if (HOME / ".dvc/cache/files/md5" / hashed[:2] / hashed[2:]).exists():
        raise cli.UserError(
            f"{name} is not there: a run was broken off. {cli.command('dvc repro')} makes it, and "
            f"{cli.command(f'dvc checkout {name}')} brings back that of the run before"
        )


def _answer(writer: Writer) -> None:
    """Continue what the user types, until that ends."""
    for typed in _typed():
        try:
            prompt = writer.fit(typed)
            if writer.models.moved(prompt):
                cli.say(WHITE_SPACE)
            writer.show(prompt)
        except cli.UserError as error:
            cli.say(f"error: {error}")


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
            yield Prompt(_prompt_of(line, where) if name.lower().endswith(".jsonl") else line, where)


def _prompt_of(line: str, where: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, TypeError, KeyError, RecursionError):
        prompt = None
    if not isinstance(prompt, str):
        raise cli.UserError(f'{where}: not of the form {{"prompt": "..."}}')
    return prompt


def _to_file(writer: Writer, prompts: list[Prompt], name: str) -> None:
    """Write the texts for the prompts. Raises Stopped after Ctrl-C, with those that are finished in the file."""
    finished, whole = 0, False
    with _output(name) as out, cli.progress("generate", len(prompts), " prompts") as bar:
        with suppress(KeyboardInterrupt):
            for prompt in cli.counted(prompts, bar):
                for line in writer.lines(prompt):
                    out.write(line)
                    out.flush()  # who reads along in a pipe sees each text at once
                    finished += 1
            whole = True
        if not whole and (not finished or name == STANDARD):
            raise KeyboardInterrupt
    if not whole:
        raise cli.Stopped(f"interrupted: {cli.printable(name)} has the first {finished} of the texts", 130)


@contextmanager
def _output(name: str) -> Iterator[TextIO]:
    if name == STANDARD:
        getattr(sys.stdout, "reconfigure", lambda **_: None)(encoding="utf-8")  # as JSON Lines are
        yield sys.stdout
        return
    if Path(name).exists():  # a pipe or a device, as a file was refused
        with open(name, "w", encoding="utf-8") as out:
            yield out
        return
    with files.new_file(name) as partial, open(partial, "w", encoding="utf-8") as out:
        yield out


if __name__ == "__main__":
    cli.run(main)
