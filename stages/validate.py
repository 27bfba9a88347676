"""Stage `validate`: the corpus line by line, into documents that are known to be good, each in its split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.lib import cli, corpus, documents, duplicates, files, leakage, lines, memory, parallel, params
from stages.lib.places import Places

OUTPUT = Path("data/validated")
REJECTED = Path("data/rejected.jsonl")
FIGURES = Path("logs/validate.json")
LENGTHS = Path("logs/lengths.tsv")
SHOWN = 20  # problems named one by one
WORST = 10  # leaking documents named one by one


def main() -> None:
    """Write `data/validated/`, `data/rejected.jsonl`, `logs/validate.json` and `logs/lengths.tsv`."""
    settings = params.load()
    path = settings.corpus.path
    with files.new_folder(OUTPUT) as folder, files.new_file(REJECTED) as rejected:
        figures, histogram, places = validated(settings, folder, rejected)
        figures["leakage"] = leaking(folder)
    files.write_tsv(LENGTHS, ["from", "to", "documents"], histogram)
    files.write_json(FIGURES, figures)
    _summary(path, figures, places)


def validated(
    settings: params.Params, folder: Path, rejected_path: Path
) -> tuple[dict[str, Any], list[tuple[int, int, int]], Places]:
    """Fill `folder` and the file of rejected lines; return figures, the histogram of lengths, and where lines stand."""
    memory.keep_freed()
    path, rules = settings.corpus.path, settings.validate_
    total = lines.size(path)
    reader = lines.Reader(path, rules.max_line_bytes)
    parser = documents.Parser(settings.corpus.text_field, rules.max_line_bytes)

    def parse(block: lines.Block) -> tuple[documents.Documents, np.ndarray]:
        found = parser.parse(block)
        return found, duplicates.keys_of(found.texts, found.unusual)

    tally = _Tally(path, reader.places)
    first_lines, description = duplicates.FirstLines(), corpus.Description()
    with (
        corpus.Writer(folder) as writer,
        open(folder / "duplicates.tsv", "w", encoding="utf-8") as duplicates_file,
        open(rejected_path, "w", encoding="utf-8") as rejected,
        # Threads share the work: it is done on whole arrays, for the most part, without Python's lock.
        ThreadPoolExecutor(threads := min(parallel.processors(), 4)) as pool,
        cli.progress("validate", total, "B") as bar,
    ):
        duplicates_file.write("line\tduplicate_of\n")
        for found, keys in parallel.in_order(pool, parse, reader, threads):
            tally.add(found)
            for line, error, content in found.problems:
                text = content.decode("utf-8", errors="backslashreplace")
                place = reader.places.full(line)
                rejected.write(
                    files.to_json_line({"line": line, "place": place, "reason": str(error), "content": text})
                )
            texts, numbers = found.texts, found.lines
            if len(texts):
                firsts = first_lines.add(keys, numbers)
                new = firsts == numbers
                splits = corpus.splits_of(keys, rules.split_seed, rules.validation_fraction, rules.test_fraction)
                if not new.all():
                    for line, first in zip(numbers[~new].tolist(), firsts[~new].tolist(), strict=True):
                        duplicates_file.write(f"{line}\t{first}\n")
                        tally.duplicates += 1
                    texts, numbers, splits = texts.filter(pa.array(new)), numbers[new], splits[new]
                writer.add(texts, numbers, splits)
                description.add(texts, numbers)
            bar.update(reader.position - bar.n)
        if tally.problems and rules.on_error == "fail":
            raise cli.UserError(tally.bad_lines())
    if not writer.documents["train"]:
        raise cli.UserError(tally.nothing_to_train_on(any(writer.documents.values())))
    reader.places.write(folder / "files.tsv")
    del first_lines  # what follows needs memory of its own
    figures = {
        **tally.figures(kept=sum(writer.documents.values())),
        **{
            split: {
                "documents": writer.documents[split],
                "characters": writer.characters[split],
                "bytes": writer.sizes[split],
            }
            for split in corpus.SPLITS
        },
        "lengths": description.lengths(),
        **description.extremes(),
        "scripts": description.scripts(),
    }
    return figures, description.histogram(), reader.places


class _Tally:
    """What became of the lines that are no documents."""

    def __init__(self, path: str, places: Places) -> None:
        self._path = path
        self._places = places
        self.lines = self.blank = self.duplicates = self.windows_line_ends = 0
        self.problems: Counter[str] = Counter()  # by kind
        self._first: list[str] = []

    def add(self, found: documents.Documents) -> None:
        """Take in what a block holds."""
        self.lines += found.count
        self.blank += found.blank
        self.windows_line_ends += found.windows_line_ends
        for line, error, _ in found.problems:
            self.problems[error.kind] += 1
            if len(self._first) < SHOWN:
                self._first.append(f"{self._places.full(line)}: {error}")

    def figures(self, kept: int) -> dict[str, Any]:
        """The sums: lines = kept + duplicates + rejected + blank."""
        return {
            "lines": self.lines,
            "kept": kept,
            "duplicates": self.duplicates,
            "rejected": self.problems.total(),
            "blank": self.blank,
            "rejected_by_kind": dict(sorted(self.problems.items())),
            "windows_line_ends": self.windows_line_ends,
        }

    def bad_lines(self) -> str:
        """The message that ends a run because of bad lines."""
        count = self.problems.total()
        first = (
            f"{count} bad line{'s' * (count > 1)} in {self._path}: mend them, or set validate.on_error: skip in "
            "params.yaml"
        )
        return "\n".join([first, *self._named()])

    def nothing_to_train_on(self, held_out: bool) -> str:
        """The message that ends a run without training documents; `held_out`: there are others."""
        if held_out:
            return (
                f"every document of {self._path} fell into validation or test: add texts, or set "
                "validate.validation_fraction and validate.test_fraction to 0 in params.yaml"
            )
        return "\n".join([f"{self._path} holds no document: put your texts into it", *self._named()])

    def _named(self) -> list[str]:
        more = self.problems.total() - len(self._first)
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.problems.most_common())
        ending = [f"... and {more} more"] * (more > 0) + [f"by kind: {kinds}"] * (self.problems.total() > 1)
        return [*self._first, *(["; ".join(ending)] if ending else [])]


def leaking(folder: Path) -> dict[str, Any]:
    """How many held-out documents have a run of words in common with training documents, and which the worst are."""

    def documents_of(*splits: str) -> Iterator[tuple[int, str]]:
        for split in splits:
            for batch in corpus.read_documents(folder, split):
                yield from zip(batch["line"].to_pylist(), batch["text"].to_pylist(), strict=True)

    found = leakage.measure(documents_of("test", "validation"), (text for _, text in documents_of("train")))
    return {
        "run_of_words": leakage.RUN,
        "examined_documents": found.examined,
        "leaking_documents": len(found.leaks),
        "leaking_share": len(found.leaks) / found.examined if found.examined else None,
        "worst": [{"line": leak.line, "share": leak.share} for leak in found.leaks[:WORST]],
    }


def _summary(path: str, figures: dict, places: Places) -> None:
    counts = ", ".join(f"{figures[name]} {name}" for name in ("kept", "duplicates", "rejected", "blank"))
    cli.say(f"validate: {path}: {figures['lines']} lines: {counts}")
    for kind, count in figures["rejected_by_kind"].items():
        cli.say(f"  rejected: {count} {kind}")
    if 0 < figures["windows_line_ends"] < figures["lines"] - 1:
        cli.say(f"  line ends are mixed, {figures['windows_line_ends']} of them as on Windows: it does no harm")
    for split in corpus.SPLITS:
        cli.say("  {}: {documents} documents, {characters} characters, {bytes} bytes".format(split, **figures[split]))
        if not figures[split]["documents"]:
            cli.say(f"  no document fell into {split}: its figures stay empty. A larger corpus fills it")
    lengths = figures["lengths"]
    cli.say(
        "  a document has {median:.0f} characters (median); one in ten below {tenth:.0f}, one in ten above "
        "{nine_tenths:.0f}".format(**lengths)
    )
    for name in ("shortest", "longest"):
        one = figures[f"{name}_documents"][0]
        cli.say(f"  the {name}: {one['characters']} characters, line {places.short(one['line'])}")
    scripts = ", ".join(f"{share:.1%} {name}" for name, share in figures["scripts"].items())
    cli.say(f"  letters: {scripts or 'none'}")
    leaking = figures["leakage"]
    if leaking["leaking_documents"]:
        worst = ", ".join(places.short(one["line"]) for one in leaking["worst"])
        cli.say(
            f"  leakage: {leaking['leaking_documents']} of {leaking['examined_documents']} held-out documents share a "
            f"run of {leaking['run_of_words']} words with training documents; the worst: line {worst}"
        )


if __name__ == "__main__":
    cli.run(main)
