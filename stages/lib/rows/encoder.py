"""Texts to token ids: the ids the base's own tokenizer gives, in a fraction of its time.

A byte-level BPE of GPT-2's kind cuts a text into pieces (a word with the space before it, a number, punctuation, white
space) and turns each piece into tokens without a look at its neighbours. Texts are made of the same pieces over and
over, so each piece goes through the tokenizer's own BPE once and is looked up from then on. So are chunks, the pieces
between white space: there are fewer of them in a text, and they are found faster.

What this rests on is checked: a tokenizer that works otherwise, or that gives other ids on a sample of the corpus, does
all the work itself, as it does for a chunk with a character that some versions of Unicode do not know.

A large corpus is shared among processes, each of which remembers chunks and pieces for itself, in some 150 MB at most.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex
import tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from stages.lib.common import parallel
from stages.lib.common.cli import UserError
from stages.lib.rows.remembered import Remembered
from stages.lib.rows.tokens import Tokenizer
from stages.lib.rows.word_count import count_words

# GPT-2's own. None of its pieces but those of white space has any after its first character, so chunks hold whole ones.
PIECES = regex.compile(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
CHUNKS = re.compile(rf" ?[^{_SPACE}]+|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]+")
_UNSURE = regex.compile(r"\p{Cn}")  # characters that some versions of Unicode do not know
_SPELLING = ByteLevel(add_prefix_space=False, use_regex=False)  # of each byte as the letter vocabularies have for it
_SMALL = 30_000_000  # bytes of text below which further processes cost more time than they save


class Encoder:
    """Turns texts into ids, as the tokenizer in a model folder does."""

    def __init__(self, folder: str | Path, by_pieces: bool = True) -> None:
        """Read the tokenizer in `folder`; `by_pieces` False leaves all the work to it. Raises UserError."""
        self.folder = folder
        self._tokenizer = Tokenizer(folder)
        self._opening, self._closing = _packed([self._tokenizer.opening]), _packed([self._tokenizer.closing])
        self.by_pieces = by_pieces and _works_by_pieces(self._tokenizer.library)
        self._tokenize = self._tokenizer.library.model.tokenize
        self._chunks, self._pieces = Remembered(self._ids_of_chunk), Remembered(self._ids_of_piece)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Each text as a document (int32): its tokens between the one that opens it and the one that closes it."""
        if self._tokenizer.kept:
            encoded = map(self._ids_round_kept, texts)
        else:
            encoded = map(self._ids_by_pieces, texts) if self.by_pieces else self._ids_of_whole(texts)
        return [np.frombuffer(self._opening + ids + self._closing, np.int32) for ids in encoded]

    def check(self, texts: Sequence[str]) -> bool:
        """Whether pieces give these texts the tokenizer's own ids; if not, pieces are not used from now on."""
        same = list(map(self._ids_by_pieces, texts)) == self._ids_of_whole(texts)
        self.by_pieces = self.by_pieces and same
        return same

    def refuse_loss(self, texts: Sequence[str], documents: Sequence[np.ndarray], lines: Sequence[int]) -> None:
        """Raise UserError, naming the line, when a text does not come back from its document, or ends in its middle.

        A tokenizer that works by pieces is on bytes, and can do neither.
        """
        for line, text, document in zip(lines, texts, documents, strict=True):
            ids = document[1:-1].tolist()
            if self._tokenizer.decode(ids) != text or self._tokenizer.closing in ids:
                raise UserError(
                    f"line {line} of the corpus would not come back from the base's tokenizer as it is written: take a "
                    "GPT-2 whose tokenizer works on bytes"
                )

    def written_out(self, texts: pa.StringArray) -> Counter[str]:
        """How often each of the base's special tokens stands in texts, as it is written."""
        return self._tokenizer.written_out(texts)

    def _ids_round_kept(self, text: str) -> bytes:
        """The ids of a text in which special tokens stay what they are."""
        kept = self._tokenizer.kept
        other = self._ids_by_pieces if self.by_pieces else lambda part: self._ids_of_whole([part])[0]
        return b"".join(_packed([kept[part]]) if part in kept else other(part) for part in self._tokenizer.parts(text))

    def _ids_by_pieces(self, text: str) -> bytes:
        return b"".join(map(self._chunks.__getitem__, CHUNKS.findall(text)))

    def _ids_of_chunk(self, chunk: str) -> bytes:
        if _UNSURE.search(chunk):
            return self._ids_of_whole([chunk])[0]
        return b"".join(map(self._pieces.__getitem__, PIECES.findall(chunk)))

    def _ids_of_piece(self, piece: str) -> bytes:
        [(spelled, _)] = _SPELLING.pre_tokenize_str(piece)
        return _packed([token.id for token in self._tokenize(spelled)])

    def _ids_of_whole(self, texts: Sequence[str]) -> list[bytes]:
        encodings = self._tokenizer.library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [_packed(encoding.ids) for encoding in encodings]


def _packed(ids: list[int]) -> bytes:
    """Ids as the bytes of an array (int32): the pieces of a text are joined fastest so."""
    return array("i", ids).tobytes()


def _works_by_pieces(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether the tokenizer is of GPT-2's usual kind, by what the library says of it: a file may leave much unsaid."""
    described = json.loads(tokenizer.to_str())
    cut, model = described["pre_tokenizer"] or {}, described["model"]
    return (
        described["normalizer"] is None
        and cut.get("type") == "ByteLevel"
        and not cut["add_prefix_space"]
        and cut["use_regex"]
        and model["type"] == "BPE"
        and not any(model[name] for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        and all(token["special"] for token in described["added_tokens"])
    )


@dataclass(frozen=True)
class Encoded:
    """The documents of one record batch: `ids` of all of them in a row, each ending before the place in `ends`."""

    lines: np.ndarray  # int64
    sizes: np.ndarray  # UTF-8 bytes, int64
    ends: np.ndarray  # int64
    ids: np.ndarray  # int32
    characters: int
    words: int
    special: Counter[str]  # special tokens that are written out in the texts


Encode = Callable[[Iterable[pa.RecordBatch]], Iterator[Encoded]]


@contextmanager
def encoding(encoder: Encoder, size: int) -> Iterator[Encode]:
    """Give a function that encodes record batches of validated documents, in order; used in a `with` block.

    Where `size`, the bytes of text to come, is worth it, processes share the work. What the function gives does not
    depend on how many there are.
    """
    count = min(parallel.processors(), 8)
    if size < _SMALL or count == 1 or not encoder.by_pieces:
        yield partial(map, partial(_encode_batch, encoder))
        return
    with parallel.processes(count) as pool:
        yield lambda batches: parallel.in_order(pool, partial(_encode_elsewhere, encoder.folder), batches, 2 * count)


@cache
def _encoder_of(folder: str | Path) -> Encoder:
    return Encoder(folder)


def _encode_elsewhere(folder: str | Path, batch: pa.RecordBatch) -> Encoded:
    """What `_encode_batch` gives, in a process that reads the tokenizer once."""
    return _encode_batch(_encoder_of(folder), batch)


def _encode_batch(encoder: Encoder, batch: pa.RecordBatch) -> Encoded:
    texts = batch["text"].to_pylist()
    encoded = encoder.encode(texts)
    if not encoder.by_pieces:
        encoder.refuse_loss(texts, encoded, batch["line"].to_pylist())
    return Encoded(
        lines=batch["line"].to_numpy(),
        sizes=pc.binary_length(batch["text"]).to_numpy().astype(np.int64),
        ends=np.cumsum([len(ids) for ids in encoded], dtype=np.int64),
        ids=np.concatenate(encoded),
        characters=sum(map(len, texts)),
        words=sum(map(count_words, texts)),
        special=encoder.written_out(batch["text"]),
    )
