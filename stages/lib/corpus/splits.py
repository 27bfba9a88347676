"""Validated documents: which split each falls into, and how they stand on disk.

A document's split follows from a hash of its normalised text alone. So it keeps its split when lines are added,
removed or reordered, and a copy of a training document can never turn up among the held-out ones.

On disk there is one Arrow file a split (columns `text`, `line`, `split`), which is memory-mapped when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SPLITS = ("train", "validation", "test")
SCHEMA = pa.schema([("text", pa.string()), ("line", pa.int64()), ("split", pa.string())])
# A record batch is written when it has reached either, so that what holds one in memory stays small.
BATCH_DOCUMENTS, BATCH_BYTES = 1000, 2**21


def splits_of(keys: np.ndarray, seed: int, validation_fraction: float, test_fraction: float) -> np.ndarray:
    """The splits of documents, as their places in `SPLITS` (int8), from the first halves of their keys (uint64)."""
    positions = (_mixed(keys ^ _mixed(np.array([seed], np.uint64))) >> np.uint64(11)) / 2**53  # in [0, 1)
    held_out = np.where(positions < test_fraction, SPLITS.index("test"), SPLITS.index("validation"))
    train = positions >= test_fraction + validation_fraction
    return np.where(train, SPLITS.index("train"), held_out).astype(np.int8)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """64 bits to 64 in which every one depends on all of theirs: SplitMix64 (Steele et al. 2014)."""
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return numbers ^ numbers >> np.uint64(31)


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

    def figures(self) -> dict[str, dict[str, int]]:
        """Documents, characters and bytes of each split."""
        return {
            split: {
                "documents": self.documents[split],
                "characters": self.characters[split],
                "bytes": self.sizes[split],
            }
            for split in SPLITS
        }

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
