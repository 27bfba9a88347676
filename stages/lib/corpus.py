"""Validated documents: which split each falls into, how they stand on disk, and what they are like.

A document's split follows from a hash of its normalised text alone. So it keeps its split when lines are added,
removed or reordered, and a copy of a training document can never turn up among the held-out ones.

On disk there is one Arrow file a split (columns `text`, `line`, `split`), which is memory-mapped when it is read.
"""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex

SPLITS = ("train", "validation", "test")
SCHEMA = pa.schema([("text", pa.string()), ("line", pa.int64()), ("split", pa.string())])
# A record batch ends at whichever comes first, so that what holds one in memory stays small.
BATCH_DOCUMENTS, BATCH_BYTES = 1000, 2**22
_SCRIPTS = ("Cyrillic", "Latin", "Greek", "Arabic", "Hebrew", "Devanagari", "Han", "Hiragana", "Katakana", "Hangul")


def split_of(key: bytes, seed: int, validation_fraction: float, test_fraction: float) -> str:
    """The split of the document with this key: the same whatever else is in the corpus."""
    digest = hashlib.blake2b(key, digest_size=8, salt=seed.to_bytes(16, "little")).digest()
    position = int.from_bytes(digest, "little") / 2**64  # uniform in [0, 1)
    if position < test_fraction:
        return "test"
    if position < test_fraction + validation_fraction:
        return "validation"
    return "train"


class Writer:
    """Writes validated documents into one Arrow file a split below `folder`; used in a `with` block.

    `documents`, `characters` and `sizes` (UTF-8 bytes) hold the sums of each split, right once the block has ended.
    """

    def __init__(self, folder: Path) -> None:
        self._open = ExitStack()
        self._writers = {}
        for split in SPLITS:
            sink = self._open.enter_context(pa.OSFile(str(folder / f"{split}.arrow"), "wb"))
            self._writers[split] = self._open.enter_context(pa.ipc.new_stream(sink, SCHEMA))
        self._texts: dict[str, list[bytes]] = {split: [] for split in SPLITS}
        self._lines: dict[str, list[int]] = {split: [] for split in SPLITS}
        self._waiting = dict.fromkeys(SPLITS, 0)  # bytes
        self.documents = dict.fromkeys(SPLITS, 0)
        self.characters = dict.fromkeys(SPLITS, 0)
        self.sizes = dict.fromkeys(SPLITS, 0)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._open:
            if kind is None:
                for split in SPLITS:
                    self._write(split)

    def add(self, text: bytes, line: int, split: str) -> None:
        """Append one document, its text in UTF-8, `line` being its line number in the corpus, from 1."""
        self._texts[split].append(text)
        self._lines[split].append(line)
        self._waiting[split] += len(text)
        if len(self._lines[split]) == BATCH_DOCUMENTS or self._waiting[split] >= BATCH_BYTES:
            self._write(split)

    def _write(self, split: str) -> None:
        if not self._lines[split]:
            return
        count = len(self._lines[split])
        texts = as_strings(self._texts[split])
        columns = [texts, pa.array(self._lines[split], pa.int64()), pa.repeat(split, count)]
        self._writers[split].write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
        self.documents[split] += count
        self.characters[split] += pc.sum(pc.utf8_length(texts)).as_py()
        self.sizes[split] += self._waiting[split]
        self._texts[split].clear()
        self._lines[split].clear()
        self._waiting[split] = 0


def as_strings(texts: list[bytes]) -> pa.StringArray:
    """Texts that are known to be UTF-8 as an Arrow array of strings."""
    return pa.array(texts, pa.binary()).view(pa.string())


def count_documents(folder: str | Path, split: str) -> int:
    """How many documents a split has."""
    return sum(batch.num_rows for batch in read_documents(folder, split))


def count_bytes(folder: str | Path, split: str) -> int:
    """How many bytes of UTF-8 the texts of a split have."""
    return sum(pc.sum(pc.binary_length(batch["text"])).as_py() for batch in read_documents(folder, split))


def read_documents(folder: str | Path, split: str) -> Iterator[pa.RecordBatch]:
    """Yield the documents of a split, one record batch at a time, in corpus order (columns of `SCHEMA`)."""
    with pa.memory_map(str(Path(folder) / f"{split}.arrow")) as source, pa.ipc.open_stream(source) as reader:
        yield from reader


class Description:
    """What the documents are like: their lengths, and, by a sample, the scripts they are written in.

    Takes 4 bytes of memory a document.
    """

    def __init__(self, extremes: int = 5) -> None:
        """Of the shortest and the longest documents, `extremes` each are named."""
        self._lengths = array("I")  # characters
        self._count = extremes
        self._shortest: list[tuple[int, int]] = []  # characters and line
        self._longest: list[tuple[int, int]] = []
        self._scripts = np.zeros(len(_SCRIPTS) + 2, dtype=np.int64)
        self._script_of = _script_table()

    def add(self, texts: list[bytes], lines: list[int]) -> None:
        """Take in documents, in UTF-8, `lines` being their line numbers."""
        lengths = pc.utf8_length(as_strings(texts)).to_pylist()
        self._lengths.extend(lengths)
        found = list(zip(lengths, lines, strict=True))
        self._shortest = heapq.nsmallest(self._count, self._shortest + found)
        self._longest = heapq.nsmallest(self._count, self._longest + found, key=lambda one: (-one[0], one[1]))
        points = np.frombuffer(_sample(texts).encode("utf-16-le"), dtype="<u2")
        self._scripts += np.bincount(self._script_of[points], minlength=len(self._scripts))

    def lengths(self) -> dict[str, float]:
        """Mean, extremes and quantiles of the lengths in characters."""
        lengths = np.frombuffer(self._lengths, dtype=np.uint32)
        quantiles = {"tenth": 0.1, "median": 0.5, "nine_tenths": 0.9}
        return {
            "mean": float(lengths.mean(dtype=np.float64)),
            "shortest": int(lengths.min()),
            **{name: float(np.quantile(lengths, share)) for name, share in quantiles.items()},
            "longest": int(lengths.max()),
        }

    def extremes(self) -> dict[str, list[dict[str, int]]]:
        """The shortest and the longest documents, by line and characters."""
        named = {"shortest_documents": self._shortest, "longest_documents": self._longest}
        return {name: [{"line": line, "characters": length} for length, line in found] for name, found in named.items()}

    def histogram(self) -> list[tuple[int, int, int]]:
        """Documents by length: from so many characters, below so many, documents; each class twice as wide."""
        lengths = np.frombuffer(self._lengths, dtype=np.uint32)
        classes = np.bincount(np.frexp(lengths.astype(np.float64))[1])  # 2^(n-1) <= length < 2^n
        first = int(np.flatnonzero(classes)[0])
        return [(2 ** (n - 1), 2**n, int(classes[n])) for n in range(first, len(classes))]

    def scripts(self) -> dict[str, float]:
        """The share of each script among the letters, the largest first; those below one in ten thousand left out."""
        names = [*_SCRIPTS, "other"]
        letters = int(self._scripts[1:].sum())
        shares = {name: int(count) / letters for name, count in zip(names, self._scripts[1:], strict=True) if letters}
        return {name: share for name, share in sorted(shares.items(), key=lambda item: -item[1]) if share >= 1e-4}


def _sample(texts: list[bytes]) -> str:
    """The first texts, up to 65 536 bytes and the end of a text."""
    sizes = np.cumsum([len(text) for text in texts])
    return b"".join(texts[: int(np.searchsorted(sizes, 2**16)) + 1]).decode("utf-8")


def _script_table() -> np.ndarray:
    """For each unit of UTF-16, 0 if it is no letter, else the number of its script."""
    everything = "".join(chr(point) for point in range(0x10000) if not 0xD800 <= point < 0xE000)
    table = np.zeros(0x10000, dtype=np.uint8)
    other = len(_SCRIPTS) + 1
    for number, pattern in enumerate([r"\p{L}", *(rf"[\p{{{name}}}&&\p{{L}}]" for name in _SCRIPTS)]):
        letters = regex.findall(pattern, everything, regex.V1)
        table[[ord(letter) for letter in letters]] = number or other
    return table
