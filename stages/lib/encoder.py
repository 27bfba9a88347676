"""Texts to token ids: the ids the base's own tokenizer gives, in a fraction of its time.

A byte-level BPE of GPT-2's kind cuts a text into pieces (a word with the space before it, a number, punctuation, white
space) and turns each piece into tokens without a look at its neighbours. Texts are made of the same pieces over and
over, so each piece goes through the tokenizer's own BPE once and is looked up from then on. What this rests on is
checked: a tokenizer that works otherwise, or that gives other ids on a sample of the corpus, does all the work itself;
so does it for a text with a character that some versions of Unicode do not know, because the classes of characters by
which texts are cut might differ there.

The cost is memory for the pieces met so far, some 50 MB in each process at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from unicodedata import category

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex

from stages.lib import files, parallel
from stages.lib.tokens import boundary_id, load_tokenizer

# How GPT-2 cuts a text into pieces.
_PIECES = regex.compile(r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
_KNOWN_PIECES = 2**18
_LONGEST_KNOWN = 64  # characters of a piece that is worth remembering
# Starting processes takes about a second, in which one encodes this many bytes.
_WORTH_A_PROCESS = 2**23


class _Unsure(Exception):
    """A piece holds a character whose class depends on the version of Unicode."""


class _Pieces(dict[str, bytes]):
    """The ids of each piece met so far, as bytes of int32."""

    def __init__(self, model: object) -> None:
        self._model = model
        self._letters = byte_letters()

    def __missing__(self, piece: str) -> bytes:
        if not piece.isascii() and any(category(character) == "Cn" for character in piece):
            raise _Unsure
        spelled = piece.encode("utf-8").decode("latin-1").translate(self._letters)
        ids = np.array([token.id for token in self._model.tokenize(spelled)], dtype=np.int32).tobytes()
        if len(piece) <= _LONGEST_KNOWN:
            if len(self) >= _KNOWN_PIECES:
                self.clear()
            self[piece] = ids
        return ids


def byte_letters() -> dict[int, str]:
    """The letter by which GPT-2's vocabulary spells each byte: itself if it is printable, else one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}


class Encoder:
    """Turns texts into ids, as the tokenizer in a model folder does."""

    def __init__(self, folder: str | Path, by_pieces: bool = True) -> None:
        """Read the tokenizer in `folder`; `by_pieces` False leaves all the work to it. Raises UserError."""
        self._tokenizer = load_tokenizer(folder)
        self._boundary = np.array([boundary_id(self._tokenizer)], dtype=np.int32).tobytes()
        self.by_pieces = by_pieces and _works_by_pieces(Path(folder))
        self._pieces = _Pieces(self._tokenizer.model)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Each text as E d1 ... dn E, int32, where E is `<|endoftext|>`."""
        if not self.by_pieces:
            return self._encode_whole(texts)
        encoded = []
        for text in texts:
            try:
                ids = b"".join(map(self._pieces.__getitem__, _PIECES.findall(text)))
            except _Unsure:
                encoded.extend(self._encode_whole([text]))
            else:
                encoded.append(np.frombuffer(self._boundary + ids + self._boundary, dtype=np.int32))
        return encoded

    def _encode_whole(self, texts: Sequence[str]) -> list[np.ndarray]:
        (boundary,) = np.frombuffer(self._boundary, dtype=np.int32)
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array([boundary, *encoding.ids, boundary], dtype=np.int32) for encoding in encodings]

    def check(self, texts: Sequence[str]) -> bool:
        """Whether pieces give these texts the tokenizer's own ids; if not, pieces are not used from now on."""
        same = all(map(np.array_equal, self.encode(texts), self._encode_whole(texts)))
        self.by_pieces = self.by_pieces and same
        return same


def _works_by_pieces(folder: Path) -> bool:
    described = files.read_json(folder / "tokenizer.json")
    cut, model = described["pre_tokenizer"] or {}, described["model"]
    return (
        described["normalizer"] is None
        and cut.get("type") == "ByteLevel"
        and not cut["add_prefix_space"]
        and cut.get("use_regex", True)
        and model["type"] == "BPE"
        and not any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
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


def encode_batches(folder: Path, batches: Iterable[pa.RecordBatch], by_pieces: bool, size: int) -> Iterator[Encoded]:
    """Encode record batches of validated documents, in order, on as many processors as `size` bytes are worth.

    The result does not depend on how many that are.
    """
    processes = min(parallel.processors(), 16, size // _WORTH_A_PROCESS)
    if processes < 2:
        encoder = Encoder(folder, by_pieces)
        for batch in batches:
            yield _encode_batch(encoder, batch)
        return
    # Spawned, not forked: the parent has threads by now (pyarrow's), and a fork can inherit their locks.
    with ProcessPoolExecutor(processes, get_context("spawn"), _start, (folder, by_pieces)) as pool:
        yield from parallel.in_order(pool, _encode_in_process, batches, 2 * processes)


_encoder: Encoder  # of this worker process


def _start(folder: Path, by_pieces: bool) -> None:
    global _encoder
    _encoder = Encoder(folder, by_pieces)


def _encode_in_process(batch: pa.RecordBatch) -> Encoded:
    return _encode_batch(_encoder, batch)


def _encode_batch(encoder: Encoder, batch: pa.RecordBatch) -> Encoded:
    texts = batch["text"].to_pylist()
    encoded = encoder.encode(texts)
    return Encoded(
        lines=batch["line"].to_numpy(),
        sizes=pc.binary_length(batch["text"]).to_numpy().astype(np.int64),
        ends=np.cumsum([len(ids) for ids in encoded], dtype=np.int64),
        ids=np.concatenate(encoded),
        characters=sum(map(len, texts)),
        words=sum(len(text.split()) for text in texts),
    )
