"""The documents of a whole corpus before they are divided: their texts on disk, the rest in memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

from stages.lib.common import cli, files, params
from stages.lib.corpus import documents, lines, splits
from stages.lib.corpus.places import Places
from stages.lib.corpus.tally import Tally
from stages.lib.overlap.near_duplicates import Bands

ENOUGH = 100  # bad lines: with so many, no more are looked for
_SCHEMA = pa.schema([("text", pa.string()), ("parts", pa.list_(pa.uint64()))])


class Collected:
    """Takes in documents, in order, and gives back those that are no copies, by their places; used in a `with` block.

    Places are counted from 0. Takes some 90 bytes of memory a document.
    """

    def __init__(self, path: Path, bands: int) -> None:
        """`path` is that of a file to hold the texts, which is removed in the end."""
        self._path, self._bands = path, bands
        self._lines, self._keys, self._signatures, self._marked = array("q"), bytearray(), bytearray(), bytearray()

    def __enter__(self) -> Collected:
        self._sink = pa.OSFile(str(self._path), "wb")
        self._writer = pa.ipc.new_stream(self._sink, _SCHEMA)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType) -> None:
        self._close()
        self._path.unlink()

    def add(self, found: documents.Documents) -> None:
        """Append what a block holds."""
        self._writer.write_batch(pa.RecordBatch.from_arrays([found.strings(), found.parts], schema=_SCHEMA))
        self._lines.extend(found.lines)
        self._keys += found.keys
        self._signatures += found.signatures.tobytes()
        self._marked += found.marked

    def leave_out_copies(self) -> Iterator[tuple[int, int]]:
        """Say that there are no more documents; yield the line of each copy, and that of the first one."""
        self._close()
        firsts = _firsts(np.frombuffer(self._keys, np.uint64).reshape(-1, 2))
        lines = np.frombuffer(self._lines, np.int64)
        self._new = firsts == np.arange(len(firsts))
        copies = ~self._new
        yield from zip(lines[copies].tolist(), lines[firsts[copies]].tolist(), strict=True)
        self._places = np.flatnonzero(self._new)
        self.lines = lines[self._new]  # int64
        self.marked = np.frombuffer(self._marked, bool)[self._new]  # whether marks of other tools stand in them

    def splits(self, rules: params.Validate) -> np.ndarray:
        """The splits that the documents would fall into by themselves, as places in SPLITS (int8)."""
        halves = np.frombuffer(self._keys, np.uint64)[::2][self._new]
        return splits.splits_of(halves, rules.split_seed, rules.validation_fraction, rules.test_fraction)

    def take_signatures(self) -> np.ndarray:
        """The signatures, which are not held any longer: uint32 [documents, bands]."""
        taken, self._signatures = self._signatures, bytearray()
        return np.frombuffer(taken, np.uint32).reshape(-1, self._bands)[self._new]

    def texts(self) -> Callable[[int], str]:
        """What gives the text at a place."""
        texts = self._table()["text"]
        return lambda place: texts[self._places[place]].as_py()

    def chunks(self) -> Iterator[tuple[slice, pa.RecordBatch]]:
        """Yield texts and `parts`, and their places, a block at a time."""
        start = place = 0
        for batch in self._table().to_batches():
            batch = batch.filter(pa.array(self._new[start : (start := start + len(batch))]))
            yield slice(place, place := place + len(batch)), batch

    def _table(self) -> pa.Table:
        return pa.ipc.open_stream(pa.memory_map(str(self._path))).read_all()

    def _close(self) -> None:
        if not self._sink.closed:
            self._writer.close()
            self._sink.close()


def collect(
    settings: params.Params,
    reader: lines.Reader,
    tally: Tally,
    collected: Collected,
    folder: Path,
    rejected: Path,
) -> None:
    """Read the corpus into `collected`, each document once; name the copies in `folder`, and the `rejected` lines."""
    with closing(_blocks(settings, reader, tally, rejected)) as blocks:
        for found in blocks:
            collected.add(found)
    with open(folder / "duplicates.tsv", "w", encoding="utf-8") as duplicates:
        duplicates.write("line\tduplicate_of\n")
        for line, first in collected.leave_out_copies():
            duplicates.write(f"{line}\t{first}\n")
            tally.duplicates += 1


def _firsts(keys: np.ndarray) -> np.ndarray:
    """For each key (uint64 [documents, 2]) the place of the first one like it (int64 [documents])."""
    order = np.lexsort(keys.T)  # of equal ones the first comes first
    ordered = keys[order]
    is_first = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])[: len(keys)]
    firsts = np.empty(len(keys), np.int64)
    firsts[order] = order[is_first][np.cumsum(is_first) - 1]
    return firsts


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
