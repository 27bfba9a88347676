"""The tokenizer of a published GPT-2, with the tokens that open, close and pad its texts.

Which tokens open and close a text follows from one rule, the first of these that holds:

1. `base.end_of_text` in params.yaml names the token that closes a text. Where the vocabulary lacks it, it is added.
2. The vocabulary has `<|endoftext|>`: it closes a text.
3. The tokenizer declares a token that ends a text (or else config.json does), and it is a special one: marked as such,
   or, in a BPE, one that no merge makes. The ids in a config.json are often left over, and stand for ordinary words.

It opens a text too, unless the tokenizer declares that very token as the end and another special one as the beginning.
What opens or closes a text must have a row in the model, and must not be what an ordinary text is made of.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import GPT2Config

from stages.lib.bases import lossless, sources
from stages.lib.common import files
from stages.lib.common.cli import UserError

END_OF_TEXT = "<|endoftext|>"
_MARKS = ("eos_token", "bos_token", "pad_token", "unk_token")
_CANDIDATES = 8  # tokens that a message names at most
_CLASS = "PreTrainedTokenizerFast"  # of transformers: the one that reads tokenizer.json as it is


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer with the tokens that open, close and pad its texts; `added` where the closing one is new to it."""

    tokenizer: Tokenizer
    opening: str
    closing: str
    padding: str
    added: bool
    converted: list[str]

    def id(self, token: str) -> int:
        """The id of one of its tokens."""
        return self.tokenizer.token_to_id(token)


def read(folder: Path, name: str, config: GPT2Config, end_of_text: str | None = None) -> Vocabulary:
    """The tokenizer of the model in `folder`, which the user calls `name`, and the tokens that open and close a text.

    `end_of_text` is the setting of that name. Raises UserError when there is no tokenizer, when it cannot give back
    every text, when it has tokens that the model lacks, or when no token closes a text.
    """
    tokenizer, converted = lossless.read(folder, name, config.vocab_size)
    special = _special(json.loads(tokenizer.to_str()))
    declared = {mark: token for mark, token in _declared(folder, name, config, tokenizer).items() if token in special}
    closing = _closing(tokenizer, name, declared.get("eos_token"), special, end_of_text)
    added = tokenizer.token_to_id(closing) is None
    # A beginning belongs to the end that it was declared with.
    opening = declared.get("bos_token", closing) if closing == declared.get("eos_token") else closing
    padding = declared.get("pad_token", closing)
    kept = sorted({closing, opening, padding, declared.get("unk_token", closing)})
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in kept])
    for token in (closing, opening):
        if tokenizer.token_to_id(token) in tokenizer.encode(token, add_special_tokens=False).ids:
            raise UserError(
                f"{name}: {token} is a piece of ordinary text in its vocabulary, so it cannot tell where one ends: "
                "name another in base.end_of_text in params.yaml"
            )
    if added:
        converted.append(f"{closing} added to the vocabulary, its row the mean of the others")
    return Vocabulary(tokenizer, opening, closing, padding, added, converted)


def usual(tokenizer: Tokenizer) -> Vocabulary:
    """A tokenizer with `<|endoftext|>` in it, which opens, closes and pads its texts, as GPT-2's own does."""
    return Vocabulary(tokenizer, END_OF_TEXT, END_OF_TEXT, END_OF_TEXT, added=False, converted=[])


def store(vocabulary: Vocabulary, folder: Path, context: int, keep_special: bool = False) -> None:
    """Write tokenizer.json and tokenizer_config.json to `folder`, for a model of `context` tokens.

    transformers' `AutoTokenizer` then reads a text as the pipeline does: what opens a text stands before it, and
    nothing in the text turns into a special token, unless `keep_special`. Where GPT-2's own older form can say it, it
    stands beside them.
    """
    described = json.loads(vocabulary.tokenizer.to_str())
    described["post_processor"] = _opens_texts(vocabulary)
    # Without line breaks: indented, a vocabulary takes twice the room.
    files.write_text(folder / "tokenizer.json", files.to_json_line(described))
    files.write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": _CLASS,
            "bos_token": vocabulary.opening,
            "eos_token": vocabulary.closing,
            "unk_token": vocabulary.closing,
            "pad_token": vocabulary.padding,
            "padding_side": "left",  # so that texts of several lengths are gone on with at once
            "split_special_tokens": not keep_special,
            "model_max_length": context,
            # Left alone, transformers before 5.0 adds token_type_ids, and GPT-2 adds a row of its embedding for each.
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
        },
    )
    _store_older_form(described["model"], folder)


def _opens_texts(vocabulary: Vocabulary) -> dict[str, Any]:
    """The step of a tokenizer.json that puts the opening token before every text."""
    opening = vocabulary.opening
    first, second = ({"Sequence": {"id": id, "type_id": 0}} for id in "AB")
    opens = {"SpecialToken": {"id": opening, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [opens, first],
        "pair": [opens, first, second],
        "special_tokens": {opening: {"id": opening, "ids": [vocabulary.id(opening)], "tokens": [opening]}},
    }


def _store_older_form(model: dict[str, Any], folder: Path) -> None:
    """Write vocab.json and merges.txt, where they can say what the model of a tokenizer.json does."""
    if model["type"] == "BPE" and all(" " not in part for pair in model["merges"] for part in pair):
        files.write_text(folder / "vocab.json", files.to_json_line(model["vocab"]))
        merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
        files.write_text(folder / "merges.txt", "\n".join(merges) + "\n")


def _declared(folder: Path, name: str, config: GPT2Config, tokenizer: Tokenizer) -> dict[str, str]:
    """What the files say of each of `_MARKS`: which token it is. Those that they do not speak of are left out."""
    declared: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / file).exists():
            content = sources.read_json(folder / file, name)
            for mark in _MARKS:
                token = content.get(mark)
                token = token.get("content") if isinstance(token, dict) else token
                if isinstance(token, str):
                    declared[mark] = token
    for mark in _MARKS[:3]:
        id = getattr(config, f"{mark}_id")
        token = tokenizer.id_to_token(id) if isinstance(id, int) and 0 <= id < config.vocab_size else None
        if token is not None:
            declared.setdefault(mark, token)
    return declared


def _special(described: dict[str, Any]) -> set[str]:
    """The tokens of a tokenizer that are no pieces of text: those marked so, and of a BPE those that no merge makes."""
    special = {token["content"] for token in described["added_tokens"] if token["special"]}
    model = described["model"]
    if model["type"] == "BPE":
        made = {"".join(pair) for pair in model["merges"]}
        special |= {token for token in model["vocab"] if token not in made and len(token) > 1}
    return special


def _closing(tokenizer: Tokenizer, name: str, declared: str | None, special: set[str], end_of_text: str | None) -> str:
    """The token that closes a text, by the rule at the top. Raises UserError naming the candidates."""
    if end_of_text is not None:
        return end_of_text
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        return END_OF_TEXT
    if declared in special:
        return declared
    found = ", ".join(sorted(special)[:_CANDIDATES])
    raise UserError(
        f"{name}: its vocabulary has no {END_OF_TEXT}, and no special token is declared to end a text: set "
        f"base.end_of_text in params.yaml to {f'one of {found}, or to a new one' if found else 'a new one'} such as "
        f"{END_OF_TEXT}"
    )
