"""The report's language: messages looked up in a catalogue, numbers written as its readers write them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import yaml

from stages.lib.common.translation import ENGLISH, plural_form

CATALOGUES = Path("stages/lib/page/templates")
_LIKELIEST = {"Cyrillic": "ru", "Latin": "en"}
_THOUSANDS = {ENGLISH: ",", "ru": "\N{NARROW NO-BREAK SPACE}"}
_PERCENT = {ENGLISH: "%", "ru": "\N{NO-BREAK SPACE}%"}


class Words:
    """English messages in another language. A message may hold `%(name)s` for values; a plain % is written `%%`."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._catalogue: dict[str, str | list[str]] | None = None
        if language != ENGLISH:
            self._catalogue = yaml.safe_load((CATALOGUES / f"{language}.yaml").read_text(encoding="utf-8"))

    def look_up(self, message: str) -> str:
        """`message` in the language, its values still to be put in. Raises KeyError when the catalogue lacks it."""
        return message if self._catalogue is None else str(self._catalogue[message])

    def __call__(self, message: str, **values: object) -> str:
        """`message` in the language, with its values."""
        return self.look_up(message) % values

    def plural(self, one: str, many: str, count: int, **values: object) -> str:
        """The form of a message that goes with `count`, which it may name as `%(count)s`.

        English has the two forms given. The catalogue has a list under `many`: in Russian for 1, 2 and 5.
        """
        english = one if count == 1 else many
        form = english if self._catalogue is None else self._catalogue[many][plural_form(count)]
        return form % {"count": self.number(count, 0), **values}

    def number(self, value: float | None, digits: int, sign: bool = False) -> str:
        """`value` with so many decimals, a dash for None; `sign` puts + before what is above 0."""
        if value is None:
            return "–"
        # Without a sign before what is 0 once rounded.
        signed = "+" if sign and round(value, digits) > 0 else ""
        return self.decimal(f"{value:{signed}z,.{digits}f}")

    def exact(self, value: float) -> str:
        """`value` with the decimals it has, never as a power of ten."""
        return self.decimal(f"{Decimal(str(value)).normalize():,f}")

    def decimal(self, text: str) -> str:
        """A number as Python writes it, with the language's own signs between thousands and before decimals."""
        signs = {",": _THOUSANDS[self.language], ".": "." if self.language == ENGLISH else ",", "-": "\N{MINUS SIGN}"}
        return text.translate(str.maketrans(signs))

    def percent(self, value: float | None, digits: int = 0, sign: bool = False) -> str:
        """A share as a percentage."""
        return "–" if value is None else self.number(100 * value, digits, sign) + _PERCENT[self.language]


def language_of(scripts: dict[str, float]) -> str | None:
    """The language that texts with these shares of scripts most likely have; None where that is anyone's guess."""
    return next((code for name, code in _LIKELIEST.items() if scripts.get(name, 0) > 0.5), None)
