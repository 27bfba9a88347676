"""Validated documents: which split each falls into, how they stand on disk, and what they are like.

A document's split follows from a hash of its normalised text alone. So it keeps its split when lines are added,
removed or reordered, and a copy of a training document can never turn up among the held-out ones.

On disk there is one Arrow file a split (columns `text`, `line`, `split`), which is memory-mapped when it is read.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex

SPLITS = ("train", "validation", "test")
SCHEMA = pa.schema([("text", pa.string()), ("line", pa.int64()), ("split", pa.string())])
# A record batch is written when it has reached either, so that what holds one in memory stays small.
BATCH_DOCUMENTS, BATCH_BYTES = 1000, 2**21
_SCRIPTS = ("Cyrillic", "Latin", "Greek", "Arabic", "Hebrew", "Devanagari", "Han", "Hiragana", "Katakana", "Hangul")


def splits_of(keys: np.ndarray, seed: int, validation_fraction: float, test_fraction: float) -> np.ndarray:
    """The split of each document, as its place in `SPLITS`, from its key (uint64 [documents, 2]) alone."""
    positions = (_mixed(keys[:, 0] ^ _mixed(np.array([seed], np.uint64))) >> np.uint64(11)) / 2**53  # in [0, 1)
    held_out = positions < test_fraction + validation_fraction
    return np.where(positions < test_fraction, SPLITS.index("test"), np.where(held_out, SPLITS.index("validation"), 0))


def _mixed(words: np.ndarray) -> np.ndarray:
    """Words (uint64) to words in which every bit depends on all of theirs: SplitMix64 (Steele et al. 2014)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


class Writer:
    """Writes validated documents into one Arrow file a split below `folder`; used in a `with` block.

    `documents`, `characters` and `sizes` (UTF-8 bytes) hold the sums of each split.
    """

    def __init__(self, folder: Path) -> None:
        self._open = ExitStack()
        self._writers = {}
        for split in SPLITS:
            sink = self._open.enter_context(pa.OSFile(str(folder / f"{split}.arrow"), "wb"))
            self._writers[split] = self._open.enter_context(pa.ipc.new_stream(sink, SCHEMA))
        self._waiting: dict[str, list[pa.RecordBatch]] = {split: [] for split in SPLITS}
        self._weight = dict.fromkeys(SPLITS, 0.0)  # of what waits, in batches
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

    def add(self, texts: pa.StringArray, lines: np.ndarray, splits: np.ndarray) -> None:
        """Append documents: `lines` are their line numbers in the corpus, from 1, and `splits` places in `SPLITS`."""
        for place, split in enumerate(SPLITS):
            chosen = splits == place
            if not chosen.any():
                continue
            found = texts.filter(pa.array(chosen))
            columns = [found, pa.array(lines[chosen], pa.int64()), pa.repeat(split, len(found))]
            size = pc.sum(pc.binary_length(found)).as_py()
            self._waiting[split].append(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
            self._weight[split] += max(len(found) / BATCH_DOCUMENTS, size / BATCH_BYTES)
            self.documents[split] += len(found)
            self.characters[split] += pc.sum(pc.utf8_length(found)).as_py()
            self.sizes[split] += size
            if self._weight[split] >= 1:
                self._write(split)

    def _write(self, split: str) -> None:
        if waiting := self._waiting[split]:
            self._writers[split].write_batch(pa.concat_batches(waiting) if len(waiting) > 1 else waiting[0])
            waiting.clear()
            self._weight[split] = 0.0


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
        self._characters = np.zeros(2**16, dtype=np.int64)  # how often each unit of UTF-16 is in the sample

    def add(self, texts: pa.StringArray, lines: np.ndarray) -> None:
        """Take in documents, `lines` being their line numbers."""
        lengths = pc.utf8_length(texts).to_numpy()
        self._lengths.frombytes(lengths.astype(np.uint32).tobytes())
        for order, kept in ((1, self._shortest), (-1, self._longest)):
            # Of equally long ones those that come first: the sort is stable, and line numbers rise.
            found = np.argsort(order * lengths, kind="stable")[: self._count]
            kept.extend(zip(lengths[found].tolist(), lines[found].tolist(), strict=True))
            kept.sort(key=lambda one: (order * one[0], one[1]))
            del kept[self._count :]
        self._characters += np.bincount(np.frombuffer(_sample(texts).encode("utf-16-le"), "<u2"), minlength=2**16)

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

    def histogram(self, classes: int = 20) -> list[tuple[int, int, int]]:
        """Documents by length: from so many characters, below so many, documents.

        Each class is wider than the one before by the same factor; of few lengths there are fewer classes.
        """
        lengths = np.frombuffer(self._lengths, dtype=np.uint32)
        edges = np.unique(np.rint(np.geomspace(lengths.min(), int(lengths.max()) + 1, classes + 1)).astype(np.int64))
        counts, _ = np.histogram(lengths, edges)
        return list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))

    def scripts(self) -> dict[str, float]:
        """The share of each script among the letters, the largest first; those below one in ten thousand left out."""
        met = {chr(point): int(self._characters[point]) for point in np.flatnonzero(self._characters)}
        letters = {letter: count for letter, count in met.items() if regex.match(r"\p{L}", letter)}
        counts = Counter()
        for letter, count in letters.items():
            named = (name for name in _SCRIPTS if regex.match(rf"\p{{{name}}}", letter))
            counts[next(named, "other")] += count
        total = counts.total()
        return {name: count / total for name, count in counts.most_common() if count / total >= 1e-4}


def _sample(texts: pa.StringArray) -> str:
    """The first texts, up to some 16 000 bytes and the end of a text."""
    sizes = pc.cumulative_sum(pc.binary_length(texts)).to_numpy()
    return "".join(texts[: int(np.searchsorted(sizes, 2**14)) + 1].to_pylist())
