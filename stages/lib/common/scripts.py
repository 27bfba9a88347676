"""The script that texts are written in, told from their letters, and prompts that are in another one."""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Sequence

from stages.lib.common import cli

# Those that there are usual prompts for.
_LETTERS = {"Cyrillic": re.compile("[\u0400-\u052f]"), "Latin": re.compile("[A-Za-z\u00c0-\u024f]")}


def main_script(texts: Iterable[str]) -> str | None:
    """The script of more than half of the letters, of those that prompts are there for; None for another one."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts["all"] += sum(map(str.isalpha, text))
        counts.update({name: len(letters.findall(text)) for name, letters in _LETTERS.items()})
    return next((name for name in _LETTERS if 2 * counts[name] > counts["all"]), None)


def name_other_prompts(prompts: Sequence[str], script: str | None) -> None:
    """Say which of the prompts in params.yaml are in another script than the texts, whose main one this is."""
    for prompt in prompts:
        other = main_script([prompt])
        if other and script and other != script:
            cli.say(f"evaluate.prompts, {reprlib.repr(prompt)}: in {other} letters, but the texts are in {script} ones")
