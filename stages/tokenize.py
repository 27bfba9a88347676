"""Stage `tokenize`: validated documents into packed rows of token ids, on disk as Arrow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stages.lib.common import cli, files, parallel, params
from stages.lib.corpus import splits
from stages.lib.rows import encoder, limits, packing, tokens

VALIDATED = Path("data/validated")
BASE = Path("model/base")
OUTPUT = Path("data/tokens")
FIGURES = Path("logs/tokenize.json")
# On every run the fast way is held against the base's own tokenizer on so many documents, the beginning of each.
CHECKED, CHECKED_CHARACTERS = 256, 500
# Below this a vocabulary was made for other languages. A token of one that fits stands for a word or a part of it: some
# 4.5 bytes of English, 6 of Russian, 4 of Chinese, or, at the least, one ideograph (3 bytes). One that does not spells
# letter by letter, at 1 or 2 bytes a letter: GPT-2's own has 1.7 bytes of Russian to a token, and 1.5 of Chinese.
FITTING_BYTES_PER_TOKEN = 2.5
USUAL_BYTES_PER_TOKEN = 5.0
_READ = "read as plain text. Where it is to be the base's own token, as turn marks are: base.special_tokens: keep"
_KEPT = "kept as the base's own token"
# The base's own token of that name is written round every text, and nowhere else.
_AROUND = "read as plain text. Strip it where a text ends or begins, divide the text where it stands in the middle"


def main() -> None:
    """Write `data/tokens/` and `logs/tokenize.json`."""
    settings = params.load()
    files.need(VALIDATED, BASE)
    limits.check(settings, BASE)
    base = _encoder()
    sums, special = Counter[str](), Counter[str]()
    with files.new_folder(OUTPUT) as folder:
        figures = {split: _write(folder, split, base, settings.tokenize, sums, special) for split in splits.SPLITS}
    figures |= {
        "bytes_per_token": sums["bytes"] / sums["text_tokens"],
        "characters_per_token": sums["characters"] / sums["text_tokens"],
        "tokens_per_word": sums["text_tokens"] / sums["words"] if sums["words"] else None,
        "vocabulary_fits": fits(sums["bytes"], sums["text_tokens"]),
        "dropped_tokens": sums["dropped_tokens"],
        "special_tokens_in_texts": dict(sorted(special.items())),
    }
    files.write_json(FIGURES, figures)
    _summary(figures, settings)


def fits(size: int, count: int) -> bool:
    """Whether a vocabulary that spends `count` tokens on `size` bytes of text was made for texts of their language."""
    return size >= FITTING_BYTES_PER_TOKEN * count


def _encoder() -> encoder.Encoder:
    """The base's encoder, tried on documents evenly spaced over the corpus."""
    base = encoder.Encoder(BASE)
    if not base.by_pieces:
        cli.say("tokenize: the base's tokenizer is not of GPT-2's usual kind: it does all the work itself, more slowly")
        return base
    counts = {split: splits.count_documents(VALIDATED, split) for split in splits.SPLITS}
    step = max(1, sum(counts.values()) // CHECKED)
    for split in splits.SPLITS:
        for batch in splits.read_documents(VALIDATED, split):
            beginnings = [text[:CHECKED_CHARACTERS] for text in batch["text"][::step].to_pylist()]
            if not base.check(beginnings):
                cli.say("tokenize: by pieces, some ids differ from the base's own tokenizer's: it does all the work")
                return base
    return base


def _write(
    folder: Path, split: str, base: encoder.Encoder, rules: params.Tokenize, sums: Counter[str], special: Counter[str]
) -> dict[str, int | float | None]:
    """Write the rows of a split and return its figures; what was seen of it goes into `sums` and `special` as well."""
    seen = Counter[str]()
    documents = _documents(split, base, rules, seen, special)
    rows, segments, written = tokens.write_rows(folder / f"{split}.arrow", packing.pack(documents, rules.max_length))
    if seen["documents"] and not rows:
        raise cli.UserError(
            f"params.yaml: tokenize.overlong is drop, and every training document is longer than "
            f"tokenize.max_length, {rules.max_length} tokens: none is left. Set overlong to split, or a larger "
            "max_length"
        )
    sums.update(seen)
    return {
        "documents": seen["documents"],
        "text_tokens": seen["text_tokens"],
        "overlong_documents": seen["overlong"],
        "dropped_documents": seen["dropped"],
        "dropped_tokens": seen["dropped_tokens"],
        # A segment that goes on with a document repeats one token.
        "repeated_tokens": segments - (seen["documents"] - seen["dropped"]),
        "tokens": written,
        "rows": rows,
        "fill": written / (rows * rules.max_length) if rows else None,
    }


def _documents(
    split: str, base: encoder.Encoder, rules: params.Tokenize, seen: Counter[str], special: Counter[str]
) -> Iterator[packing.Document]:
    """Yield the documents of a split as token ids, and count in `seen` and `special` what went by."""
    # What is held out is scored whole, whatever becomes of long documents in training.
    overlong = rules.overlong if split == "train" else "split"
    threads = min(parallel.processors(), 8)
    with (
        cli.progress(f"tokenize {split}", splits.count_documents(VALIDATED, split), " documents") as bar,
        ThreadPoolExecutor(threads) as pool,
    ):
        batches = splits.read_documents(VALIDATED, split)
        for documents, counted, found in parallel.in_order(pool, base.documents, batches, threads):
            seen.update(counted)
            special.update(found)
            for document in documents:
                kept = packing.shorten(document, rules.max_length, overlong)
                if len(document.ids) > rules.max_length:
                    left_out = len(document.ids) - (len(kept.ids) if kept else 0)
                    seen.update(overlong=1, dropped=kept is None, dropped_tokens=left_out)
                if kept:
                    yield kept
            bar.update(len(documents))


def _summary(figures: dict, settings: params.Params) -> None:
    rules = settings.tokenize
    for split in splits.SPLITS:
        counts = figures[split]
        if counts["rows"]:
            rows = f"{counts['rows']} rows of {rules.max_length}"
            cli.say(f"tokenize: {split}: {counts['tokens']} tokens in {rows}, {counts['fill']:.1%} full")
    words = f"{figures['tokens_per_word']:.2f} tokens a word, " if figures["tokens_per_word"] else ""
    cli.say(
        f"  {figures['bytes_per_token']:.2f} bytes and {figures['characters_per_token']:.2f} characters a token, "
        f"{words}{figures['dropped_tokens']} tokens dropped"
    )
    declared = files.read_json(BASE / "tokenizer_config.json")
    around = [declared[f"{mark}_token"] for mark in ("bos", "eos", "pad")]
    for token, count in figures["special_tokens_in_texts"].items():
        kept = settings.base.special_tokens == "keep"
        what = _AROUND if token in around else _KEPT if kept else _READ
        cli.say(f"  {cli.printable(token)} stands in the texts, times: {count}; {what}")
    train = figures["train"]
    if figures["dropped_tokens"]:
        cli.say(
            f"  tokenize.overlong: {rules.overlong}: {train['overlong_documents']} training documents are longer than "
            f"{rules.max_length} tokens: {train['dropped_tokens']} of their tokens were left out, and with them "
            f"{train['dropped_documents']} whole documents"
        )
    if not figures["vocabulary_fits"]:
        size = figures["bytes_per_token"]
        seen = rules.max_length * figures["characters_per_token"]
        cli.say(
            f"  note: {size:.1f} bytes a token: the base model's vocabulary was made for another language. The model "
            f"sees some {seen:.0f} characters at once, and training takes about {USUAL_BYTES_PER_TOKEN / size:.0f} "
            "times as long as with a vocabulary that fits. A base trained on the language of the corpus does better: "
            "for Russian base.hub: ai-forever/rugpt3small_based_on_gpt2, or the embedded model to try things out"
        )


if __name__ == "__main__":
    cli.run(main)
