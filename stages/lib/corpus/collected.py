"""The documents of a whole corpus before they are divided: their texts on disk, the rest in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

_SCHEMA = pa.schema([("text", pa.string())])


class Collected:
    """Takes in documents, in order, and gives them back by their places, counted from 0; used in a `with` block.

    Takes some 65 bytes of memory a document.
    """

    def __init__(self, path: Path, bands: int) -> None:
        """`path` is that of a file to hold the texts, which is removed in the end."""
        self._path, self._bands = path, bands
        self._lines, self._splits, self._signatures = array("q"), array("b"), bytearray()

    def __enter__(self) -> Collected:
        self._sink = pa.OSFile(str(self._path), "wb")
        self._writer = pa.ipc.new_stream(self._sink, _SCHEMA)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType) -> None:
        self.complete()
        self._path.unlink()

    def add(self, texts: pa.StringArray, lines: Sequence[int], splits: Sequence[int], signatures: np.ndarray) -> None:
        """Append documents; of each its line, its place in SPLITS, and its signature (uint32 [documents, bands])."""
        self._writer.write_batch(pa.RecordBatch.from_arrays([texts], schema=_SCHEMA))
        self._lines.extend(lines)
        self._splits.extend(splits)
        self._signatures += signatures.tobytes()

    def complete(self) -> None:
        """Say that there are no more."""
        if not self._sink.closed:
            self._writer.close()
            self._sink.close()

    @property
    def lines(self) -> np.ndarray:
        """The lines that the documents stand on (int64)."""
        return np.frombuffer(self._lines, np.int64)

    @property
    def splits(self) -> np.ndarray:
        """The splits that they would fall into by themselves, as places in SPLITS (int8)."""
        return np.frombuffer(self._splits, np.int8)

    def take_signatures(self) -> np.ndarray:
        """The signatures, which are not held any longer."""
        taken, self._signatures = self._signatures, bytearray()
        return np.frombuffer(taken, np.uint32).reshape(-1, self._bands)

    def texts(self) -> pa.ChunkedArray:
        """All texts, memory-mapped; a chunk for each call of `add`."""
        return pa.ipc.open_stream(pa.memory_map(str(self._path))).read_all()["text"]

    def chunks(self) -> Iterator[tuple[slice, pa.StringArray]]:
        """Yield the texts as they were added, and their places."""
        start = 0
        for chunk in self.texts().chunks:
            yield slice(start, start + len(chunk)), chunk
            start += len(chunk)
