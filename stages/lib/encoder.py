"""Texts to token ids: the ids the base's own tokenizer gives, in a fraction of its time.

A byte-level BPE of GPT-2's kind cuts a text into pieces (a word with the space before it, a number, punctuation, white
space) and turns each piece into tokens without a look at its neighbours. Texts are made of the same pieces over and
over, so each piece goes through the tokenizer's own BPE once and is looked up from then on. Cutting and looking up are
operations on whole arrays of characters, which threads share.

What this rests on is checked: a tokenizer that works otherwise, or that gives other ids on a sample of the corpus, does
all the work itself; so does it for a text with a character that some versions of Unicode do not know, because the
classes of characters by which texts are cut might differ there.

The cost: memory for the pieces met so far, some 150 MB at most. And pieces are told apart by a hash of 64 bits: that
one of a hundred million different pieces is taken for one of a million remembered ones has a probability of 5e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Lock
from unicodedata import category

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex

from stages.lib import files, memory, parallel
from stages.lib.characters import SEPARATOR, Kinds, code_points, joined
from stages.lib.hashing import mixed, segment_hashes
from stages.lib.tokens import Tokenizer

_GROUP = 2**18  # characters that are worked on together, which fit in the processor's cache
_KNOWN_PIECES, _KNOWN_IDS = 2**20, 2**24  # that are remembered at most, before a group
_LETTER, _NUMBER, _SPACE, _OTHER, _END, _UNSURE = range(1, 7)


def _kind(character: str) -> int:
    """The class of a character in the pattern by which GPT-2 cuts texts."""
    if character == SEPARATOR:
        return _END
    if category(character) == "Cn":
        return _UNSURE
    classes = {_LETTER: r"\p{L}", _NUMBER: r"\p{N}", _SPACE: r"\s"}
    return next((kind for kind, pattern in classes.items() if regex.match(pattern, character)), _OTHER)


def cut(points: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Where the pieces of texts begin, the end of each text being a piece of its own (int64, in order).

    `points` are the code points of texts that are `joined`, `kinds` their kinds. The pieces are those of
    GPT-2's pattern: 's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+
    """
    begins = np.ones(len(points), dtype=bool)
    begins[1:] = (kinds[1:] != kinds[:-1]) | (kinds[1:] == _END)
    # White space before something else leaves its last character apart, and a blank goes with what follows it.
    last = np.flatnonzero((kinds[:-1] == _SPACE) & (kinds[1:] != _SPACE) & (kinds[1:] != _END))
    begins[last] = True
    begins[1 + last[points[last] == ord(" ")]] = False
    # An apostrophe that begins a piece takes the letters of a contraction with it.
    apostrophes = np.flatnonzero((points == ord("'")) & begins)
    first, second = points[apostrophes + 1], points[np.minimum(apostrophes + 2, len(points) - 1)]
    one = np.isin(first, [ord(letter) for letter in "stmd"])
    two = np.zeros(len(first), dtype=bool)
    for pair in ("re", "ve", "ll"):
        two |= (first == ord(pair[0])) & (second == ord(pair[1]))
    begins[apostrophes[one | two] + 1] = False
    begins[apostrophes[one] + 2] = True
    begins[apostrophes[two] + 3] = True
    return np.flatnonzero(begins)


class _Pieces:
    """The ids of each piece met so far, in a hash table that is searched for many pieces at once."""

    def __init__(self, ids_of: Callable[[str], list[int]]) -> None:
        self._ids_of = ids_of
        self._lock = Lock()  # several threads look up pieces, and add them
        self._forget()

    def _forget(self) -> None:
        self._hashes = np.empty(0, np.uint64)
        # Piece number n has the ids from starts[n] to starts[n + 1].
        self._starts, self._ids = np.zeros(1, np.int64), np.empty(0, np.int32)
        # Each slot holds the hash of a piece and its number; the hash 0 marks a free one.
        self._slots, self._numbers = np.zeros(2**16, np.uint64), np.zeros(2**16, np.int64)

    def ids(self, hashes: np.ndarray, piece: Callable[[int], str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids (int32) of all pieces in a row, and how many each has; `piece` gives the text of one by its place."""
        with self._lock:
            if len(self._hashes) > _KNOWN_PIECES or len(self._ids) > _KNOWN_IDS:
                self._forget()
            slots = self._find(hashes)
            unknown = np.flatnonzero(self._slots[slots] == 0)
            if len(unknown):
                new, firsts = np.unique(hashes[unknown], return_index=True)
                self._add(new, [self._ids_of(piece(place)) for place in unknown[firsts].tolist()])
                slots = self._find(hashes)
            numbers, starts, known = self._numbers[slots], self._starts, self._ids
        begins, counts = starts[numbers], starts[numbers + 1] - starts[numbers]
        ends = np.cumsum(counts)
        return known[np.repeat(begins - (ends - counts), counts) + np.arange(ends[-1])], counts

    def _find(self, hashes: np.ndarray) -> np.ndarray:
        """The slot of each hash: the one that holds it, or else the free one where a search for it ends."""
        last = np.uint64(len(self._slots) - 1)
        slots = hashes & last
        searching = np.arange(len(hashes))
        while len(searching):
            met = self._slots[slots[searching]]
            searching = searching[(met != hashes[searching]) & (met != 0)]
            slots[searching] = (slots[searching] + np.uint64(1)) & last
        return slots

    def _add(self, hashes: np.ndarray, ids: list[list[int]]) -> None:
        """Remember pieces, each hash being a new one."""
        counts = np.array([len(one) for one in ids])
        self._starts = np.concatenate([self._starts, self._starts[-1] + np.cumsum(counts)])
        self._ids = np.concatenate([self._ids, np.fromiter(chain.from_iterable(ids), np.int32)])
        self._hashes = np.concatenate([self._hashes, hashes])
        missing = np.arange(len(self._hashes) - len(hashes), len(self._hashes))
        if 2 * len(self._hashes) > len(self._slots):
            size = 2 ** (4 * len(self._hashes)).bit_length()
            self._slots, self._numbers = np.zeros(size, np.uint64), np.zeros(size, np.int64)
            missing = np.arange(len(self._hashes))
        while len(missing):
            slots = self._find(self._hashes[missing])
            # Of several that end in one slot one gets it, and the others search again.
            self._slots[slots] = self._hashes[missing]
            placed = self._slots[slots] == self._hashes[missing]
            self._numbers[slots[placed]] = missing[placed]
            missing = missing[~placed]


def byte_letters() -> dict[int, str]:
    """The letter by which GPT-2's vocabulary spells each byte: itself if it is printable, else one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}


class Encoder:
    """Turns texts into ids, as the tokenizer in a model folder does."""

    def __init__(self, folder: str | Path, by_pieces: bool = True) -> None:
        """Read the tokenizer in `folder`; `by_pieces` False leaves all the work to it. Raises UserError."""
        self._tokenizer = Tokenizer(folder)
        self.by_pieces = by_pieces and _works_by_pieces(Path(folder))
        self._kinds, self._pieces = Kinds(_kind), _Pieces(self._ids_of)
        self._letters = byte_letters()

    def _ids_of(self, piece: str) -> list[int]:
        if piece == SEPARATOR:
            # The end of one text and the beginning of the next.
            return [self._tokenizer.closing, self._tokenizer.opening]
        spelled = piece.encode("utf-8").decode("latin-1").translate(self._letters)
        return [token.id for token in self._tokenizer.library.model.tokenize(spelled)]

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Each text as a document (int32): its tokens between the one that opens it and the one that closes it."""
        if not self.by_pieces:
            return self._encode_whole(texts)
        return [ids for group in _groups(texts) for ids in self._encode_by_pieces(group)]

    def _encode_by_pieces(self, texts: list[str]) -> list[np.ndarray]:
        everything = joined(texts)
        points = code_points(everything)
        kinds = self._kinds.of(points)
        begins = cut(points, kinds)
        ends = np.append(begins[1:], len(points))
        hashes = np.maximum(mixed(segment_hashes(points, begins, ends)), 1)
        ids, counts = self._pieces.ids(hashes, lambda place: everything[begins[place] : ends[place]])
        # The end of a text stands for two E, of which the second one opens the next text.
        ids = np.concatenate([np.array([self._tokenizer.opening], np.int32), ids[:-1]])
        encoded = np.split(ids, np.cumsum(counts)[kinds[begins] == _END][:-1])
        for index in np.unique(np.searchsorted(np.flatnonzero(kinds == _END), np.flatnonzero(kinds == _UNSURE))):
            (encoded[index],) = self._encode_whole([texts[index]])
        return encoded

    def _encode_whole(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._tokenizer.document(encoding.ids) for encoding in encodings]

    def check(self, texts: Sequence[str]) -> bool:
        """Whether pieces give these texts the tokenizer's own ids; if not, pieces are not used from now on."""
        same = all(map(np.array_equal, self.encode(texts), self._encode_whole(texts)))
        self.by_pieces = self.by_pieces and same
        return same


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in groups of some `_GROUP` characters."""
    group, size = [], 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= _GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


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


Encode = Callable[[Iterable[pa.RecordBatch]], Iterator[Encoded]]


@contextmanager
def encoding(encoder: Encoder) -> Iterator[Encode]:
    """Give a function that encodes record batches of validated documents, in order; used in a `with` block.

    It works on all processors; what it gives does not depend on how many there are.
    """
    memory.keep_freed()
    threads = min(parallel.processors(), 8)
    with ThreadPoolExecutor(threads) as pool:
        yield lambda batches: parallel.in_order(pool, partial(_encode_batch, encoder), batches, threads)


def _encode_batch(encoder: Encoder, batch: pa.RecordBatch) -> Encoded:
    texts = batch["text"].to_pylist()
    encoded = encoder.encode(texts)
    return Encoded(
        lines=batch["line"].to_numpy(),
        sizes=pc.binary_length(batch["text"]).to_numpy().astype(np.int64),
        ends=np.cumsum([len(ids) for ids in encoded], dtype=np.int64),
        ids=np.concatenate(encoded),
        characters=sum(map(len, texts)),
        words=_count_words(batch["text"]),
    )


def _count_words(texts: pa.StringArray) -> int:
    """How many words, parted by the white space of ASCII, the texts have."""
    ends = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset :][: len(texts) + 1]
    data = np.frombuffer(texts.buffers()[2], np.uint8)[: ends[-1]]
    in_word = (data != 0x20) & (data - np.uint8(0x09) >= 5)
    begins = in_word.copy()
    begins[1:] &= ~in_word[:-1]
    begins[ends[:-1]] = in_word[ends[:-1]]  # no text is empty
    return int(np.count_nonzero(begins[ends[0] :]))
