"""What the commands say, in the language of the report.

The code makes its messages in English. Where they leave a command they are looked up in a catalogue,
`stages/messages.<language>.yaml`, which has each message with `{}` for what differs from case to case. What stands in
such a hole is looked up likewise, as a message may hold another one. What the catalogue does not know stays as it is,
and so does everything when the catalogue is not there or cannot be read.

A translation may hold, for the first hole (and likewise `{1}`, or `{}` for the next one):
    {0}             what stands there, in the user's language; a single word is a name, and stays
    {0:w}           the same, a single word too
    {0:=}           as it is: what others wrote, such as the names of fields
    {0:,}           a number, with the decimal comma and a real minus
    {0:a|b|c}       the form of a word that goes with the number there: with 1, 2 and 5
    {0:#}           the number there
    {0:!}           the message there, which the catalogue must have
A message matches only where its holes hold the numbers and, for the last, the message that are asked for.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import count
from pathlib import Path
from typing import NoReturn

HOME = Path(__file__).resolve().parents[3]
ENGLISH = "en"
_PART = re.compile(r"\{(\d*)(?::([^{}]+))?\}")
_NUMBER = re.compile(r"[-+]?[\d.]+(?:e[-+]?\d+)?%?|nan|inf")
_BREAKS = ("; ", ": ", ", ", ". ")  # between messages that were put together
_QUOTED = "  | "  # what begins a line of a user's text
_ERROR = "error: {}"
_OF_ARGPARSE = ("usage:", "positional arguments:", "options:")
_LONGEST = 2000  # characters of a line that is looked at


def translated(message: str) -> str:
    """`message`, of one line or several, in the user's language."""
    if (language := chosen_language()) == ENGLISH:
        return message
    translate = _translation(language)
    lines = message.split("\n")
    try:
        return "\n".join(
            line if line.startswith(_QUOTED) or len(line) > _LONGEST else translate(line) for line in lines
        )
    except RecursionError:  # a list of hundreds of parts
        return message


def plural_form(number: int) -> int:
    """Which Russian form of a word goes with a number: 0 as with 1 (and 21), 1 as with 2, 2 as with 5 (and 11)."""
    if number % 10 == 1 and number % 100 != 11:
        return 0
    return 1 if number % 10 in (2, 3, 4) and number % 100 not in (12, 13, 14) else 2


@cache
def chosen_language() -> str:
    """`report.language`, however broken the rest of params.yaml is."""
    try:
        settings = (HOME / "params.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ENGLISH
    _, _, section = f"\n{settings}".partition("\nreport:")
    found = re.search(r"^[ \t]+language:[ \t]*['\"]?(\w+)", re.split(r"\n(?=\w)", section)[0], re.MULTILINE)
    if found and found[1].lower().startswith(("ru", "рус")):  # also as it is not to be written, which is then said
        return "ru"
    return found[1] if found else ENGLISH


@cache
def _translation(language: str) -> Callable[[str], str]:
    """What translates a line."""
    import yaml  # only here: it takes longer to load than most messages to print

    try:
        content = (HOME / f"stages/messages.{language}.yaml").read_text(encoding="utf-8")
        catalogue = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return Catalogue({str(english): str(form) for english, form in catalogue.items()})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError):
        return str


class Catalogue:
    """Translates by templates: each English one with `{}` for its holes, and what is said instead."""

    def __init__(self, forms: dict[str, str]) -> None:
        self._whole = {english: form for english, form in forms.items() if "{}" not in english}
        # The longer what is given of a message, the surer it is that it is meant. What begins every error is no part
        # of what goes wrong, and its translation may begin with another word.
        holed = sorted(
            (english for english in forms if "{}" in english), key=lambda one: (one != _ERROR, -len(one), one)
        )
        self._holed = [(english.split("{}"), forms[english]) for english in holed]
        self._look_up = lru_cache(1024)(self._translate)  # the parts of a message come up again and again

    def __call__(self, text: str) -> str:
        """`text`, or as much of it as is known, in the language."""
        start, inner, end = re.fullmatch(r"([\s,.;]*)(.*?)([\s,;]*)", text, re.DOTALL).groups()
        return f"{start}{self._look_up(inner)}{end}"

    def _translate(self, text: str) -> str:
        if not re.search("[A-Za-z]{2}", text):
            return text
        known = self._known(text)
        return self._by_parts(text) if known is None else known

    def _part(self, text: str) -> str:
        return self(text) if " " in text.strip() else text

    def _known(self, text: str) -> str | None:
        """A message that is in the catalogue, in the language."""
        if text in self._whole:
            return self._whole[text]
        for literals, form in self._holed:
            holes = _holes(literals, text)
            if holes is not None and (filled := self._filled(form, holes)) is not None:
                return filled
        return None

    def _filled(self, form: str, holes: list[str]) -> str | None:
        """The form with what stands in its holes; None where that cannot be there."""
        following, parts, at = count(), [], 0
        for part in _PART.finditer(form):
            place = int(part[1]) if part[1] else next(following)
            shown = self._shown(holes[place], part[2]) if place < len(holes) else None
            if shown is None:
                return None
            parts += [form[at : part.start()], shown]
            at = part.end()
        return "".join([*parts, form[at:]])

    def _shown(self, hole: str, how: str | None) -> str | None:
        match how:
            case None:
                return self._part(hole)
            case "w":
                return self(hole)
            case "=":
                return hole
            case "!":
                return self._known(hole)
            case ",":
                return _with_comma(hole) if _NUMBER.fullmatch(hole) else None
            case "#":
                return hole if hole.isdecimal() else None
        return how.split("|")[plural_form(int(hole))] if hole.isdecimal() else None

    def _by_parts(self, text: str) -> str:
        """A message put together of several: the way of taking it apart that leaves the least in English."""
        ways = [text]
        for between in _BREAKS:
            head, _, tail = text.partition(between)
            if tail:
                ways.append(f"{self._part(head)}{between}{self._part(tail)}")
        if found := re.fullmatch(r"(.+?) \((.+)\)", text):
            ways.append(f"{self._part(found[1])} ({self(found[2])})")
        if found := re.fullmatch(r"(\d+) (.+)", text):
            ways.append(f"{found[1]} {self(found[2])}")
        if found := re.fullmatch(r"([\d.]+%) (.+)", text):
            ways.append(f"{self(found[2])} {_with_comma(found[1])}")
        return min(ways, key=lambda way: len(re.findall("[A-Za-z]", way)))


def _with_comma(number: str) -> str:
    return re.sub("^-", "\N{MINUS SIGN}", number).replace(".", ",").replace("%", "\N{NO-BREAK SPACE}%")


def _holes(literals: list[str], text: str) -> list[str] | None:
    """What stands between the literals, each taken where it comes first; None where the text is another one."""
    first, *inner, last = literals
    if not (text.startswith(first) and text.endswith(last) and len(first) + len(last) <= len(text)):
        return None
    at, end, holes = len(first), len(text) - len(last), []
    for literal in inner:
        found = text.find(literal, at, end)
        if found < 0:
            return None
        holes.append(text[at:found])
        at = found + len(literal)
    return [*holes, text[at:end]]


def above(kind: type, least: float, most: float = math.inf) -> Callable[[str], float]:
    """A converter for argparse that takes a number from `least` to `most`."""

    def convert(text: str) -> float:
        value = kind(text.replace(",", ".") if kind is float else text)  # 0,8 as people write it
        if not value >= least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text} is above {most}")
        return value

    convert.__name__ = kind.__name__
    return convert


def folder(text: str) -> Path:
    """A converter for argparse that takes the name of a folder, which may not be there yet."""
    if (path := Path(text)).exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a file, and no folder")
    return path


def _own_name() -> str | None:
    """How this command is typed, where it was as `python -m MODULE`; Python before 3.14 would show its file."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {module.name.removesuffix('.__main__')}" if module else None


class Parser(argparse.ArgumentParser):
    """A command line, described as its module is, whose help and errors are in the user's language."""

    def __init__(self, description: str) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(_own_name(), description=translated(description), formatter_class=formatter)

    def format_help(self) -> str:
        """What --help prints; argparse's own words too are in the user's language."""
        self.color = False  # Python 3.14 would colour what is looked up
        for action in self._actions:
            action.help = translated(action.help)
        text = super().format_help()
        for words in _OF_ARGPARSE:
            text = text.replace(words, translated(words), 1)
        return text

    def error(self, message: str) -> NoReturn:
        """Print how the command is used and what is wrong, and exit with 2."""
        self.color = False  # Python 3.14 would colour what is looked up
        self.exit(2, f"{translated(self.format_usage())}{self.prog}: {translated(f'error: {message}')}\n")
