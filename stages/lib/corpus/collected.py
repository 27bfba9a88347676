"""The documents of a whole corpus before they are divided: their texts on disk, the rest in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import compress
from pathlib import Path
from types import TracebackType
from typing import TextIO

import numpy as np
import pyarrow as pa

from stages.lib.common import cli, files, params
from stages.lib.corpus import documents, lines, splits
from stages.lib.corpus.places import Places
from stages.lib.corpus.tally import Tally
from stages.lib.overlap.near_duplicates import Bands

ENOUGH = 100  # bad lines: with so many, no more are looked for
_SCHEMA = pa.schema([("text", pa.string())])


class Collected:
    """Takes in documents, in order, and gives them back by their places, counted from 0; used in a `with` block.

    `marks` are those of other tools, by the line of the document they are in. Takes some 65 bytes of memory a document.
    """

    def __init__(self, path: Path, bands: int) -> None:
        """`path` is that of a file to hold the texts, which is removed in the end."""
        self._path, self._bands = path, bands
        self._lines, self._splits, self._signatures = array("q"), array("b"), bytearray()
        self.marks: dict[int, list[str]] = {}

    def __enter__(self) -> Collected:
        self._sink = pa.OSFile(str(self._path), "wb")
        self._writer = pa.ipc.new_stream(self._sink, _SCHEMA)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType) -> None:
        self.complete()
        self._path.unlink()

    def add(self, texts: pa.StringArray, lines: Iterable[int], splits: Iterable[int], signatures: np.ndarray) -> None:
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


def collect(
    settings: params.Params,
    reader: lines.Reader,
    tally: Tally,
    collected: Collected,
    folder: Path,
    rejected: Path,
) -> None:
    """Read the corpus into `collected`, each document once; name the copies in `folder`, and the `rejected` lines."""
    met: dict[bytes, int] = {}
    with (
        open(folder / "duplicates.tsv", "w", encoding="utf-8") as duplicates,
        closing(_blocks(settings, reader, tally, rejected)) as blocks,
    ):
        duplicates.write("line\tduplicate_of\n")
        for found in blocks:
            new = np.array(_are_new(found, met, duplicates, tally), bool)
            own = _splits_of(compress(found.keys, new), settings.validate_)
            collected.add(found.strings().filter(pa.array(new)), compress(found.lines, new), own, found.signatures[new])
            collected.marks |= found.marks
    collected.complete()


def _are_new(found: documents.Documents, met: dict[bytes, int], duplicates: TextIO, tally: Tally) -> list[bool]:
    """Which documents of a block were not met before; of the others it is written down which line they repeat."""
    firsts = documents.first_lines(found, met)
    new = [line == first for line, first in zip(found.lines, firsts, strict=True)]
    for line, first, is_new in zip(found.lines, firsts, new, strict=True):
        if not is_new:
            duplicates.write(f"{line}\t{first}\n")
    tally.duplicates += new.count(False)
    return new


def _splits_of(keys: Iterable[bytes], rules: params.Validate) -> np.ndarray:
    how = rules.split_seed, rules.validation_fraction, rules.test_fraction
    return np.array([splits.split_of(key, *how) for key in keys])


def _blocks(
    settings: params.Params, reader: lines.Reader, tally: Tally, rejected_path: Path
) -> Iterator[documents.Documents]:
    """Yield what each block of lines holds, after its bad lines went to the tally and into the file of rejected ones.

    Raises UserError where bad lines end the run: at the end, so that more of them can be named, or when there are
    enough. From the first one on nothing is yielded, as nothing will be kept.
    """
    path, fail = settings.corpus.path, settings.validate_.on_error == "fail"
    total = lines.size(path)
    rules = documents.Rules(
        field=settings.corpus.text_field,
        max_bytes=settings.validate_.max_line_bytes,
        most=ENOUGH if fail else None,
        bands=Bands.of(settings.validate_.similarity),
    )
    with (
        open(rejected_path, "w", encoding="utf-8") as rejected,
        documents.reading(rules, total) as read,
        cli.progress("validate", total, "B") as bar,
    ):
        for found in read(reader):
            tally.add(found)
            for problem in found.problems(rules):
                tally.reject(problem)
                rejected.write(_rejected(problem, reader.places))
            bar.update(reader.position - bar.n)
            if not fail or not tally.problems:
                yield found
            elif tally.problems.total() >= ENOUGH:
                raise cli.UserError(tally.bad_lines(more=True))
    if fail and tally.problems:
        raise cli.UserError(tally.bad_lines(more=False))


def _rejected(problem: documents.Problem, places: Places) -> str:
    return files.to_json_line(
        {
            "line": problem.line,
            "place": places.full(problem.line),
            "reason": problem.reason,
            "content": problem.content.decode("utf-8", errors="backslashreplace"),
        }
    )
