"""Texts to token ids: the ids the base's own tokenizer gives, in a fraction of its time.

A byte-level BPE of GPT-2's kind cuts a text into pieces (a word with the space before it, a number, punctuation, white
space) and merges the bytes of each into tokens. tiktoken does the same with the same vocabulary, faster. Where its ids
could be others, the base's own tokenizer does the work: for all texts when it is of another kind or its vocabulary
does not pass the proof below, and for a text with something in it that the two may not see alike.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tiktoken
import tokenizers

from stages.lib.common.cli import UserError
from stages.lib.rows.packing import Document
from stages.lib.rows.tokens import Tokenizer, text_tokens
from stages.lib.rows.word_count import count_words_of_all

# GPT-2's own, with `++` where one character of another kind ends a piece in any case: that is faster.
PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s+(?!\S)|\s++"
# Characters that some versions of Unicode do not know, and white space so long that tiktoken runs out of stack.
UNSURE = r"[^\p{L}\p{M}\p{N}\p{P}\p{S}\p{Z}\p{Cc}\p{Cf}\p{Co}]|[\p{Z}\t-\r\x{85}]{500}"


class Encoder:
    """Turns texts into ids, as the tokenizer in a model folder does; `by_pieces` says whether tiktoken helps."""

    def __init__(self, folder: str | Path, by_pieces: bool = True) -> None:
        """Read the tokenizer in `folder`; `by_pieces` False leaves all the work to it. Raises UserError."""
        self._tokenizer = Tokenizer(folder)
        self._opening, self._closing = _array([self._tokenizer.opening]), _array([self._tokenizer.closing])
        self._kept = {token: _array([id]) for token, id in self._tokenizer.kept.items()}
        found = tokens_by_rank(self._tokenizer.library) if by_pieces else {}
        self.by_pieces = bool(found)
        if found:
            self._id_of_rank = _array(list(found.values()))
            ranks = {token: rank for rank, token in enumerate(found)}
            # One special token, which is never made: without any, tiktoken looks for an empty one at every character.
            special = {"<|endoftext|>": len(ranks)}
            self._tiktoken = tiktoken.Encoding("base", pat_str=PIECES, mergeable_ranks=ranks, special_tokens=special)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Each text as a document (int32): its tokens between the one that opens it and the one that closes it."""
        parts = [self._tokenizer.parts(text) for text in texts]
        others = [part for text in parts for part in text if part not in self._kept]
        encoded = iter(self._ids_by_pieces(others) if self.by_pieces else self._own_ids(others))
        ids = [[self._kept[part] if part in self._kept else next(encoded) for part in text] for text in parts]
        return [np.concatenate([self._opening, *text, self._closing]) for text in ids]

    def check(self, texts: Sequence[str]) -> bool:
        """Whether pieces give these texts the tokenizer's own ids; if not, pieces are not used from now on."""
        same = all(map(np.array_equal, self._ids_by_pieces(texts), self._own_ids(texts)))
        self.by_pieces = self.by_pieces and same
        return same

    def documents(self, batch: pa.RecordBatch) -> tuple[list[Document], Counter[str], Counter[str]]:
        """The documents of a record batch of validated ones, with what is counted in their texts.

        That is `documents`, `text_tokens`, `bytes` (UTF-8), `characters` and `words`, and how often each special token
        is written out. Raises UserError, naming the line, when a text would not come back from its ids. May be called
        in several threads.
        """
        column, texts, sizes = batch["text"], batch["text"].to_pylist(), pc.binary_length(batch["text"]).to_pylist()
        documents = list(map(Document, batch["line"].to_pylist(), self.encode(texts), sizes))
        if not self.by_pieces:
            self._refuse_loss(texts, documents)
        seen = Counter(
            documents=len(documents),
            text_tokens=sum(map(text_tokens, documents)),
            bytes=sum(sizes),
            characters=sum(map(len, texts)),
            words=count_words_of_all(column),
        )
        return documents, seen, self._tokenizer.written_out(column)

    def _refuse_loss(self, texts: Sequence[str], documents: Sequence[Document]) -> None:
        """Raise UserError when a text does not come back from its document, or ends in its middle.

        A tokenizer that works by pieces is on bytes, and can do neither.
        """
        for text, document in zip(texts, documents, strict=True):
            ids = document.ids[1:-1].tolist()
            if self._tokenizer.decode(ids) != text or self._tokenizer.closing in ids:
                raise UserError(
                    f"line {document.line} of the corpus would not come back from the base's tokenizer as it is "
                    "written: take a GPT-2 whose tokenizer works on bytes"
                )

    def _ids_by_pieces(self, texts: Sequence[str]) -> list[np.ndarray]:
        unsure = pc.match_substring_regex(pa.array(texts, pa.string()), UNSURE).to_pylist()
        return [
            self._own_ids([text])[0]
            if found
            else self._id_of_rank[self._tiktoken.encode_to_numpy(text, disallowed_special=())]
            for text, found in zip(texts, unsure, strict=True)
        ]

    def _own_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [_array(encoding.ids) for encoding in encodings]


def _array(ids: list[int]) -> np.ndarray:
    return np.array(ids, dtype=np.int32)


def tokens_by_rank(tokenizer: tokenizers.Tokenizer) -> dict[bytes, int]:
    """The ids of the tokens that tiktoken is to make, in the order of their ranks: the bytes, then merge by merge.

    tiktoken merges the neighbours that make the token of the lowest rank, the tokenizer those that come first in its
    list of merges. So they differ where two neighbours make a token, but are not its merge. Such never meet if each
    token, tokenized alone, is itself: within it the bytes are merged as in any text up to there, and from there no
    merge would lead to the token. That is tried with all of them. Empty when it fails, and for a tokenizer that is not
    of GPT-2's usual kind.
    """
    described = json.loads(tokenizer.to_str())  # what the library says of it: a file may leave much unsaid
    if not _is_usual(described):
        return {}
    ids, letters = described["model"]["vocab"], byte_letters()
    tokens = [*letters, *(left + right for left, right in described["model"]["merges"])]
    if len(set(tokens)) < len(tokens) or not ids.keys() >= letters.keys() >= set("".join(tokens)):
        return {}
    if any(len(tokenizer.model.tokenize(token)) > 1 for token in tokens):
        return {}
    return {bytes(letters[letter] for letter in token): ids[token] for token in tokens}


def _is_usual(described: dict) -> bool:
    cut, model = described["pre_tokenizer"] or {}, described["model"]
    unusual = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    return (
        described["normalizer"] is None
        and cut.get("type") == "ByteLevel"
        and not cut["add_prefix_space"]
        and cut["use_regex"]
        and model["type"] == "BPE"
        and not any(model[name] for name in unusual)
        and all(token["special"] for token in described["added_tokens"])
    )


def byte_letters() -> dict[str, int]:
    """The byte for which each letter of a vocabulary stands: itself if printable, else those from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}
