"""The tokenizer of a published GPT-2, in any of its forms, into the one form that the pipeline reads.

Which tokens open and close a text follows from one rule, the first of these that holds:

1. `base.end_of_text` in params.yaml names the token that closes a text. Where the vocabulary lacks it, it is added.
2. The vocabulary has `<|endoftext|>`: it closes a text.
3. The tokenizer declares a token that ends a text (or else config.json does), and it is a special one.

It opens a text too, unless the tokenizer declares that very token as the end and another special one as the beginning.
What opens or closes a text must have a row in the model, and must not be what an ordinary text is made of.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as algorithms
from transformers import GPT2Config

from stages.lib import files, sources
from stages.lib.cli import UserError
from stages.lib.models import quiet

END_OF_TEXT = "<|endoftext|>"
_MARKS = ("eos_token", "bos_token", "pad_token", "unk_token")
_CANDIDATES = 8  # tokens that a message names at most
# What a text may hold that not every tokenizer gives back, each with an example.
_LOSSES = {
    "capital letters": "Big Ben",
    "blanks at the beginning": "  a",
    "runs of blanks": "a   b",
    "blanks at the end": "a ",
    "line breaks": "a\n\nb\n",
    "tabs": "a\tb",
    "blanks that do not break": "a\N{NO-BREAK SPACE}b",
    "accents written apart": "e\N{COMBINING ACUTE ACCENT}",
    "wide letters and ligatures": "Ａ ﬁ",
    "Russian letters": "Ёж и й",
    "Chinese characters": "漢字",
    "emoji": "🐈",
    "punctuation": "don't — “12,345.6” ...",
}
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
    tokenizer = _load(folder, name)
    declared = _declared(folder, name, config, tokenizer)
    described, converted = _plain(json.loads(tokenizer.to_str()), config.vocab_size, name)
    tokenizer = Tokenizer.from_str(json.dumps(described))
    tokenizer.encode_special_tokens = True
    _refuse_loss(tokenizer, name)
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    special |= {token for token in declared.values() if tokenizer.token_to_id(token) is not None}
    closing = _closing(tokenizer, name, declared.get("eos_token"), special, end_of_text)
    added = tokenizer.token_to_id(closing) is None
    opening = declared.get("bos_token")
    if closing != declared.get("eos_token") or opening not in special:
        opening = closing
    padding = declared.get("pad_token")
    if padding not in special:
        padding = closing
    kept = {closing, opening, padding} | ({declared["unk_token"]} & special if "unk_token" in declared else set())
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in sorted(kept)])
    for token in (closing, opening):
        if tokenizer.encode(token, add_special_tokens=False).ids == [tokenizer.token_to_id(token)]:
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


def store(vocabulary: Vocabulary, folder: Path, context: int) -> None:
    """Write tokenizer.json and tokenizer_config.json to `folder`, for a model of `context` tokens.

    transformers' `AutoTokenizer` then reads a text as the pipeline does: what opens a text stands before it, and
    nothing in the text turns into a special token. Where GPT-2's own older form can say it, it stands beside them.
    """
    described = json.loads(vocabulary.tokenizer.to_str())
    opening = vocabulary.opening
    first, second = ({"Sequence": {"id": id, "type_id": 0}} for id in "AB")
    opens = {"SpecialToken": {"id": opening, "type_id": 0}}
    described["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [opens, first],
        "pair": [opens, first, second],
        "special_tokens": {opening: {"id": opening, "ids": [vocabulary.id(opening)], "tokens": [opening]}},
    }
    # Without line breaks: indented, a vocabulary takes twice the room.
    files.write_text(folder / "tokenizer.json", files.to_json_line(described))
    files.write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": _CLASS,
            "bos_token": opening,
            "eos_token": vocabulary.closing,
            "unk_token": vocabulary.closing,
            "pad_token": vocabulary.padding,
            "split_special_tokens": True,
            "model_max_length": context,
            # Left alone, transformers before 5.0 adds token_type_ids, and GPT-2 adds a row of its embedding for each.
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
        },
    )
    model = described["model"]
    if model["type"] == "BPE" and all(" " not in part for pair in model["merges"] for part in pair):
        files.write_text(folder / "vocab.json", files.to_json_line(model["vocab"]))
        merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
        files.write_text(folder / "merges.txt", "\n".join(merges) + "\n")


def _load(folder: Path, name: str) -> Tokenizer:
    """The tokenizer as its files have it, the tokens that were added to it included. Raises UserError."""
    known = {path.name for path in sources.own_files(folder, name)}
    try:
        if "tokenizer.json" in known:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        elif {"vocab.json", "merges.txt"} <= known:
            tokenizer = Tokenizer(algorithms.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
        elif known & {"spiece.model", "tokenizer.model", "vocab.txt"}:
            tokenizer = _through_transformers(folder)
        else:
            raise UserError(f"{name} has no tokenizer.json, nor vocab.json and merges.txt: it needs its tokenizer")
    except UserError:
        raise
    except Exception as error:  # the libraries raise nothing narrower
        raise UserError(f"{name}: its tokenizer cannot be read ({str(error).splitlines()[0]})") from None
    for token in _added(folder, name):
        if tokenizer.token_to_id(token.content) is None:
            (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
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
    added = tokenizer.get_added_tokens_decoder()
    for mark in _MARKS[:3]:
        # The ids of config.json are often left over from another model: only a special token is believed.
        token = added.get(getattr(config, f"{mark}_id") or 0)
        if mark not in declared and token is not None and token.special:
            declared[mark] = token.content
    return declared


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
        named = ", ".join(token["content"] for token in beyond[:_CANDIDATES])
        converted.append(f"tokens that the model has no row for left out: {named}")
    described["post_processor"] = None  # the pipeline's own takes its place
    return described, converted


def _steps(pre_tokenizer: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A pre-tokenizer and, of a sequence of them, each."""
    if pre_tokenizer:
        yield pre_tokenizer
        for step in pre_tokenizer.get("pretokenizers", []):
            yield from _steps(step)


def _refuse_loss(tokenizer: Tokenizer, name: str) -> None:
    """Raise UserError, naming what would be lost, when a tokenizer cannot give back every text."""
    probes = _LOSSES | {"special tokens written out": f"a {END_OF_TEXT} b"}
    lost = [what for what, text in probes.items() if back(tokenizer, text) != text]
    if isinstance(tokenizer.decoder, decoders.ByteLevel):
        missing = [one for one in pre_tokenizers.ByteLevel.alphabet() if tokenizer.token_to_id(one) is None]
        lost += [f"{len(missing)} of 256 bytes"] if missing and not lost else []
    if lost:
        raise UserError(
            f"{name}: its tokenizer would lose {', '.join(lost)}: a text could not be learned as it is written. Take a "
            "GPT-2 whose tokenizer works on bytes"
        )


def back(tokenizer: Tokenizer, text: str) -> str:
    """What becomes of a text on its way through token ids and back."""
    return tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)


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
        f"base.end_of_text in params.yaml to "
        + (f"one of {found}, or to" if found else "")
        + f"{' ' if found else ''}a new one such as {END_OF_TEXT}"
    )
