"""The tokenizer of a published model, in any of its forms, if every text comes back from it as it was written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as algorithms

from stages.lib.bases import sources
from stages.lib.common.cli import UserError, printable
from stages.lib.model.models import quiet

_NAMED = 8  # tokens that a message names at most
# What a text may hold that not every tokenizer gives back, each with an example.
_LOSSES = {
    "capital letters": "Big Ben",
    "blanks at the beginning": "  a",
    "runs of blanks": "a   b",
    "blanks at the end": "a ",
    "line breaks": "a\n\nb\n",
    "tab characters": "a\tb",
    "blanks that do not break": "a\N{NO-BREAK SPACE}b",
    "accents written apart": "e\N{COMBINING ACUTE ACCENT}",
    "wide letters and ligatures": "Ａ ﬁ",
    "Russian letters": "Ёж и й",
    "Chinese characters": "漢字",
    "emoji and other pictures": "🐈",
    "punctuation marks": "don't — “12,345.6” ...",
}


def read(folder: Path, name: str, rows: int) -> tuple[Tokenizer, list[str]]:
    """The tokenizer of the model in `folder`, which the user calls `name`, and what was taken out of it.

    Nothing that changes a text, or its tokens from time to time, is left in it; nothing in a text turns into a special
    token. `rows` is how many tokens the model has. Raises UserError when it cannot be read, has more tokens than that,
    or cannot give back every text.
    """
    described, converted = _plain(json.loads(_load(folder, name).to_str()), rows, name)
    tokenizer = Tokenizer.from_str(json.dumps(described))
    tokenizer.encode_special_tokens = True
    _refuse_loss(tokenizer, name)
    return tokenizer, converted


def _load(folder: Path, name: str) -> Tokenizer:
    """The tokenizer as its files have it, the tokens that were added to it included. Raises UserError."""
    known = {path.name for path in sources.own_files(folder, name)}
    try:
        if "tokenizer.json" in known:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        elif {"vocab.json", "merges.txt"} <= known:
            tokenizer = _of_older_form(folder)
        elif known & {"spiece.model", "tokenizer.model", "vocab.txt"}:
            tokenizer = _through_transformers(folder)
        else:
            raise UserError(f"{name} has no tokenizer.json, nor vocab.json and merges.txt: it needs its tokenizer")
        for token in _added(folder, name):
            if tokenizer.token_to_id(token.content) is None:
                (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    except UserError:
        raise
    except Exception as error:  # the libraries raise nothing narrower, and files may hold anything
        raise UserError(f"{name}: its tokenizer cannot be read ({printable(str(error))})") from None
    return tokenizer


def _of_older_form(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer(algorithms.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _through_transformers(folder: Path) -> Tokenizer:
    """A tokenizer that is written down in another form than GPT-2's, as transformers turns it into this library's."""
    from transformers import AutoTokenizer  # only here: it takes torch with it

    with quiet():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False).backend_tokenizer


def _added(folder: Path, name: str) -> Iterator[AddedToken]:
    """The tokens that the files beside a vocabulary add to it, in the order of their ids."""
    found: dict[int, AddedToken] = {}
    if (path := folder / "added_tokens.json").exists():
        for content, id in sources.read_json(path, name).items():
            found[int(id)] = AddedToken(content, normalized=False, special=False)
    if (path := folder / "tokenizer_config.json").exists():
        for id, described in (sources.read_json(path, name).get("added_tokens_decoder") or {}).items():
            found[int(id)] = AddedToken(
                described["content"], normalized=False, special=bool(described.get("special", False))
            )
    yield from (found[id] for id in sorted(found))


def _plain(described: dict[str, Any], rows: int, name: str) -> tuple[dict[str, Any], list[str]]:
    """A tokenizer as JSON without what changes a text or its tokens from time to time; and what was taken out.

    `rows` is how many tokens the model has. Raises UserError when the vocabulary has more.
    """
    converted = []
    if described.get("padding") or described.get("truncation"):
        described["padding"] = described["truncation"] = None
        converted.append("padding and truncation switched off")
    if described["model"].get("dropout"):
        described["model"]["dropout"] = None
        converted.append("dropout of merges switched off")
    for step in _steps(described["pre_tokenizer"]):
        if step.get("type") == "ByteLevel" and step.get("add_prefix_space"):
            step["add_prefix_space"] = False
            converted.append("the blank put before every text switched off")
    vocabulary = described["model"]["vocab"]
    highest = max(vocabulary.values()) if isinstance(vocabulary, dict) else len(vocabulary) - 1
    if highest >= rows:
        raise UserError(f"{name}: its tokenizer has a token with the id {highest}, but its model has {rows} tokens")
    beyond = [token for token in described["added_tokens"] if token["id"] >= rows]
    if beyond:
        described["added_tokens"] = [token for token in described["added_tokens"] if token["id"] < rows]
        named = ", ".join(printable(token["content"]) for token in beyond[:_NAMED])
        converted.append(f"tokens that the model has no row for left out: {named}")
    if described["model"]["type"] == "Unigram":
        _cut_special(described)
    described["post_processor"] = None  # the pipeline's own takes its place
    return described, converted


def _cut_special(described: dict[str, Any]) -> None:
    """Have special tokens that are written out in a text cut in two: a Unigram would find them among its pieces."""
    steps = [
        {
            "type": "Split",
            "pattern": {"Regex": f"{re.escape(token['content'][0])}(?={re.escape(token['content'][1:])})"},
            "behavior": "Isolated",
            "invert": False,
        }
        for token in described["added_tokens"]
        if token["special"] and len(token["content"]) > 1
    ]
    before = [described["pre_tokenizer"]] if described["pre_tokenizer"] else []
    described["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*steps, *before]}


def _steps(pre_tokenizer: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A pre-tokenizer and, of a sequence of them, each."""
    if pre_tokenizer:
        yield pre_tokenizer
        for step in pre_tokenizer.get("pretokenizers", []):
            yield from _steps(step)


def _refuse_loss(tokenizer: Tokenizer, name: str) -> None:
    """Raise UserError, naming what would be lost, when a tokenizer cannot give back every text."""
    probes = _LOSSES | {"special tokens written out": "a <|endoftext|> b"}
    lost = [what for what, text in probes.items() if _back(tokenizer, text) != text]
    if isinstance(tokenizer.decoder, decoders.ByteLevel):
        missing = [one for one in pre_tokenizers.ByteLevel.alphabet() if tokenizer.token_to_id(one) is None]
        lost += [f"{len(missing)} of 256 bytes"] if missing and not lost else []
    if lost:
        raise UserError(
            f"{name}: its tokenizer would lose {', '.join(lost)}: a text could not be learned as it is written. Take a "
            "GPT-2 whose tokenizer works on bytes"
        )


def _back(tokenizer: Tokenizer, text: str) -> str:
    """What becomes of a text on its way through token ids and back."""
    return tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
