"""The report's language: messages looked up in a catalogue, numbers written as its readers write them."""

from __future__ import annotations

from pathlib import Path

import yaml

CATALOGUES = Path("stages/lib/page/templates")
ENGLISH = "en"


class Words:
    """English messages in another language. A message may hold `%(name)s` for values; a plain % is written `%%`."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._catalogue: dict[str, str] | None = None
        if language != ENGLISH:
            self._catalogue = yaml.safe_load((CATALOGUES / f"{language}.yaml").read_text(encoding="utf-8"))

    def look_up(self, message: str) -> str:
        """`message` in the language, its values still to be put in. Raises KeyError when the catalogue lacks it."""
        return message if self._catalogue is None else self._catalogue[message]

    def __call__(self, message: str, **values: object) -> str:
        """`message` in the language, with its values."""
        return self.look_up(message) % values

    def number(self, value: float | None, digits: int, sign: bool = False) -> str:
        """`value` with so many decimals, a dash for None; `sign` puts + before what is not negative."""
        if value is None:
            return "–"
        # Without - before what is 0 once rounded; grouped by narrow spaces, as both languages may.
        text = f"{value:{'+' if sign else ''}z,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
        return self.decimal(text.replace("-", "\N{MINUS SIGN}"))

    def decimal(self, text: str) -> str:
        """A number as text, the point turned into what separates decimals in the language."""
        return text if self.language == ENGLISH else text.replace(".", ",")

    def percent(self, value: float | None, digits: int = 0, sign: bool = False) -> str:
        """A share as a percentage."""
        return "–" if value is None else f"{self.number(100 * value, digits, sign)}\N{NO-BREAK SPACE}%"
