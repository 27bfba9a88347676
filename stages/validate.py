"""Stage `validate`: the corpus line by line, into documents that are known to be good, each in its split."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa

from stages.lib.common import cli, files, params, parents, scripts, versioned
from stages.lib.corpus import documents, lines, splits
from stages.lib.corpus.collected import Collected, collect
from stages.lib.corpus.description import FEW_DOCUMENTS, LONG_DOCUMENT, Description
from stages.lib.corpus.formats import how_to_collect
from stages.lib.corpus.places import Places
from stages.lib.corpus.tally import Tally
from stages.lib.overlap import leakage, near_duplicates
from stages.lib.overlap.near_duplicates import Bands

OUTPUT = Path("data/validated")
FIGURES = Path("logs/validate.json")
CHECKED = Path("logs/checked")
LENGTHS = Path("logs/lengths.tsv")
LARGE_GROUP, LARGE_SHARE = 10, 0.01  # of near-duplicates: more documents than either, the share being of all
WORST = 10  # leaking documents named one by one


def main() -> None:
    """Write `data/validated/`, `logs/validate.json` and `logs/lengths.tsv`."""
    settings = params.load()
    with files.new_folder(OUTPUT) as folder:
        figures, histogram, reader = validated(settings, folder)
        reader.refuse_changes()  # as late as can be: DVC looks at the corpus when the stage has ended
    files.write_tsv(LENGTHS, ["from", "to", "documents"], histogram)
    files.write_json(FIGURES, figures)
    _summary(settings, figures, reader.places)


def validated(settings: params.Params, folder: Path) -> tuple[dict[str, Any], list[tuple[int, int, int]], lines.Reader]:
    """Fill `folder`, also with the lines that were rejected; return figures, a histogram of lengths, what was read."""
    rules = settings.validate_
    reader = lines.Reader(settings.corpus.path, rules.max_line_bytes, settings.corpus.limit)
    tally = Tally(settings.corpus.path, settings.corpus.text_field, reader.places)
    with Collected(folder / "documents.arrow", Bands.of(rules.similarity).count) as collected:
        rejected = folder / "rejected.jsonl"
        collect(settings, reader, tally, collected, folder, rejected)
        if not rejected.stat().st_size:
            rejected.unlink()
        firsts, left_out, alike = _near_duplicates(collected, rules, folder)
        chosen = _splits(collected, firsts, left_out, rules)
        with splits.Writer(folder) as writer:
            description = _divide(collected, chosen, writer)
        leaks = _leaking(collected, chosen, folder)
    reader.places.write(folder / "files.tsv")
    origins = documents.sources(reader.again(), collected.lines[chosen == splits.SPLITS.index("test")])
    files.write_tsv(folder / "sources.tsv", ["line", "source"], origins)  # the report shows some of them
    few_long = _refuse_nothing_to_train_on(settings.corpus.path, writer, tally)
    kept = sum(writer.documents.values())
    figures = (
        tally.figures(kept)
        | {"near_duplicates": alike}
        | writer.figures()
        | {"few_long_documents": few_long}
        | description.figures()
        | {"leakage": leaks}
    )
    return figures, description.histogram(), reader


def _near_duplicates(
    collected: Collected, rules: params.Validate, folder: Path
) -> tuple[np.ndarray, np.ndarray, dict[str, float | int]]:
    """For each document the place of the first one that it is, by way of others even, nearly the same as.

    Further whether it is left out: nearly the same as one before it that stays. And figures. Names all pairs.
    """
    numbers = collected.lines
    count, copies = 0, np.zeros(len(numbers), bool)

    def named(table: TextIO, bar: cli.Bar) -> Iterator[near_duplicates.Pair]:
        nonlocal count
        signed = collected.take_signatures()
        for pair in near_duplicates.pairs(signed, collected.texts(), rules.similarity):
            table.write(f"{numbers[pair.second]}\t{numbers[pair.first]}\t{pair.similarity:.4f}\n")
            count += 1
            copies[pair.second] |= not copies[pair.first]
            bar.update(pair.second - bar.n)
            yield pair

    with (
        open(folder / "near_duplicates.tsv", "w", encoding="utf-8") as table,
        cli.progress("near-duplicates", len(numbers), " documents") as bar,
    ):
        table.write("line\tnear_duplicate_of\tsimilarity\n")
        firsts = np.array(near_duplicates.firsts(len(numbers), named(table, bar)))
    alike = int((firsts != np.arange(len(firsts))).sum())
    left_out = copies & (rules.near_duplicates == "drop")
    figures = {"pairs": count, "documents": alike, "left_out": int(left_out.sum())}
    return firsts, left_out, {"similarity": rules.similarity} | figures


def _splits(collected: Collected, firsts: np.ndarray, left_out: np.ndarray, rules: params.Validate) -> np.ndarray:
    """For each document the split of the first one that it is nearly the same as (a place in SPLITS), -1 for none.

    Of a large group that is training, whatever the first one's would be: held out, it would be all that is measured.
    """
    large = np.bincount(firsts) > max(LARGE_GROUP, LARGE_SHARE * len(firsts))
    own = collected.splits(rules)
    own[: len(large)][large] = splits.SPLITS.index("train")
    return np.where(left_out, -1, own[firsts])


def _divide(collected: Collected, chosen: np.ndarray, writer: splits.Writer) -> Description:
    """Write each document into the split that is chosen for it."""
    description = Description()
    for places, batch in collected.chunks():
        kept = chosen[places] >= 0
        texts, lines_kept = batch["text"].filter(pa.array(kept)), collected.lines[places][kept]
        writer.add(texts, lines_kept, chosen[places][kept])
        description.add(texts, lines_kept.tolist(), collected.marked[places][kept])
    return description


def _refuse_nothing_to_train_on(path: str, writer: splits.Writer, tally: Tally) -> bool:
    """Whether the documents are few and long. Raises UserError when none of them is for training."""
    kept = sum(writer.documents.values())
    few_long = kept < FEW_DOCUMENTS and sum(writer.characters.values()) > LONG_DOCUMENT * kept
    if not writer.documents["train"]:
        raise cli.UserError(tally.nothing_to_train_on(_more_documents(path, few_long) if kept else None))
    return few_long


def _more_documents(path: str, to_divide: bool) -> str:
    """What to do where a split has no document."""
    if to_divide:
        return f"divide your long documents, at their chapters for example: {how_to_collect(path, ' --by chapter')}"
    return "add texts"


def _leaking(collected: Collected, chosen: np.ndarray, folder: Path) -> dict[str, Any]:
    """How many held-out documents have a run of words in common with training documents, and which the worst are."""
    held_out = leakage.HeldOut(
        document
        for split in ("test", "validation")
        for batch in splits.read_documents(folder, split)
        for document in zip(batch["line"].to_pylist(), batch["text"].to_pylist(), strict=True)
    )
    for places, batch in collected.chunks():
        training = batch.filter(pa.array(chosen[places] == splits.SPLITS.index("train")))
        held_out.look_through(training["text"], training["parts"])
    found = held_out.leakage()
    return {
        "run_of_words": leakage.RUN,
        "examined_documents": found.examined,
        "leaking_documents": len(found.leaks),
        "leaking_share": len(found.leaks) / found.examined if found.examined else None,
        "worst": {leak.line: leak.share for leak in found.leaks[:WORST]},
    }


def _summary(settings: params.Params, figures: dict, places: Places) -> None:
    counts = [f"{figures[name]} {name}" for name in ("kept", "duplicates", "rejected", "blank")]
    alike = figures["near_duplicates"]
    if alike["left_out"]:
        counts.append(f"{alike['left_out']} near-duplicates")
    cli.say(f"validate: {cli.printable(settings.corpus.path)}: {figures['lines']} lines: {', '.join(counts)}")
    for kind, count in figures["rejected_by_kind"].items():
        cli.say(f"  rejected: {count} {kind}")
    if 0 < figures["windows_line_ends"] < figures["lines"] - 1:
        cli.say(f"  line ends are mixed, {figures['windows_line_ends']} of them as on Windows: it does no harm")
    for split in splits.SPLITS:
        cli.say("  {}: {documents} documents, {characters} characters, {bytes} bytes".format(split, **figures[split]))
        if not figures[split]["documents"]:
            more = _more_documents(settings.corpus.path, figures["few_long_documents"])
            cli.say(f"  no document fell into {split}: its figures stay empty. To fill it, {more}")
    _summary_of_marks(settings, figures, places)
    lengths = figures["lengths"]
    cli.say(
        "  a document has {median:.0f} characters (median); one in ten below {tenth:.0f}, one in ten above "
        "{nine_tenths:.0f}".format(**lengths)
    )
    for name in ("shortest", "longest"):
        line, characters = next(iter(figures[f"{name}_documents"].items()))
        cli.say(f"  the {name}: {characters} characters, line {places.short(line)}")
    letters = ", ".join(f"{share:.1%} {name}" for name, share in figures["scripts"].items())
    cli.say(f"  letters: {letters or 'none'}")
    _summary_of_prompts(settings, figures["scripts"])
    _summary_of_overlap(settings, figures, places)
    _summary_of_git(settings.corpus.path)


def _summary_of_prompts(settings: params.Params, shares: dict[str, float]) -> None:
    # Where the settings were checked just now, that was said.
    if settings.evaluate.prompts != "auto" and not parents.made_since_dvc_began(CHECKED):
        main = next((name for name, share in shares.items() if share > 0.5), None)
        scripts.name_other_prompts(settings.evaluate.prompts, main)


def _summary_of_git(path: str) -> None:
    if versioned.changed_in_git(path):
        quoted = cli.printable(shlex.quote(path))
        cli.say(
            f"  the next commit or experiment puts {cli.printable(path)} into git, which forgets nothing. To keep it "
            f"out: {cli.command(f'git rm --cached {quoted} && dvc add {quoted}')}"
        )


def _summary_of_overlap(settings: params.Params, figures: dict, places: Places) -> None:
    alike, leaking = figures["near_duplicates"], figures["leakage"]
    if alike["documents"] and settings.validate_.near_duplicates == "report":
        cli.say(
            f"  near-duplicates: {_documents(alike)} with {alike['similarity']:.0%} or more of the runs of words of "
            f"one before: {OUTPUT}/near_duplicates.tsv names them. They stay, in its split; "
            "validate.near_duplicates: drop leaves them out"
        )
    if leaking["leaking_documents"]:
        worst = ", ".join(map(places.short, leaking["worst"]))
        cli.say(
            f"  leakage: {leaking['leaking_documents']} of {leaking['examined_documents']} held-out documents share a "
            f"run of {leaking['run_of_words']} words with training documents; the worst: line {worst}"
        )


def _summary_of_marks(settings: params.Params, figures: dict, places: Places) -> None:
    for mark, one in figures["marks"].items():
        times = "once" if one["count"] == 1 else f"{one['count']} times"
        cli.say(f"  {mark}: {times} in {_documents(one)}, first lines: {', '.join(map(places.short, one['lines']))}")
    if figures["marks"]:
        marks = "".join(f" --mark {shlex.quote(mark)}" for mark in figures["marks"])
        cli.say(
            "  other tools part texts with such marks, here they are learned as letters: "
            f"{how_to_collect(settings.corpus.path, marks)}, divided there"
        )
    if one := figures["byte_order_marks"]:
        cli.say(
            f"  a byte order mark (U+FEFF) stands in {_documents(one)}, the first on line "
            f"{places.short(one['lines'][0])}: it is no text, best remove it; it stays as it is written"
        )


def _documents(found: dict) -> str:
    return f"{found['documents']} document{'s' * (found['documents'] > 1)}"


if __name__ == "__main__":
    cli.run(main)
