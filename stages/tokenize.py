"""Stage `tokenize`: validated documents into packed rows of token ids, on disk as Arrow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.lib import cli, corpus, encoder, files, limits, packing, params, tokens

VALIDATED = Path("data/validated")
BASE = Path("model/base")
OUTPUT = Path("data/tokens")
FIGURES = Path("logs/tokenize.json")
# On every run the fast way is held against the base's own tokenizer on so many documents, the beginning of each.
CHECKED, CHECKED_CHARACTERS = 256, 500
# Above this the vocabulary was made for another language: GPT-2's own spends 1.3 tokens on an English word and 6.5 on
# a Russian one.
FITTING_TOKENS_PER_WORD = 3.0
USUAL_TOKENS_PER_WORD = 1.5


def main() -> None:
    """Write `data/tokens/` and `logs/tokenize.json`."""
    settings = params.load()
    rules = settings.tokenize
    files.need(VALIDATED, BASE)
    limits.check(settings, BASE)
    base = _encoder()
    sums = Counter()
    splits = {}
    with files.new_folder(OUTPUT) as folder, encoder.encoding(base) as encode:
        for split in corpus.SPLITS:
            seen = Counter(
                documents=0, text_tokens=0, bytes=0, characters=0, words=0, overlong=0, dropped=0, dropped_tokens=0
            )
            # What is held out is scored whole, whatever becomes of long documents in training.
            overlong = rules.overlong if split == "train" else "split"
            documents = _documents(split, encode, rules.max_length, overlong, seen)
            rows, segments, written = tokens.write_rows(
                folder / f"{split}.arrow", packing.pack(documents, rules.max_length)
            )
            sums.update(seen)
            splits[split] = {
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
    figures = {
        **splits,
        "bytes_per_token": sums["bytes"] / sums["text_tokens"],
        "characters_per_token": sums["characters"] / sums["text_tokens"],
        "tokens_per_word": sums["text_tokens"] / sums["words"],
        "vocabulary_fits": sums["text_tokens"] <= FITTING_TOKENS_PER_WORD * sums["words"],
        "dropped_tokens": sums["dropped_tokens"],
    }
    files.write_json(FIGURES, figures)
    _summary(figures, rules)


def _encoder() -> encoder.Encoder:
    """The base's encoder, tried on documents evenly spaced over the corpus."""
    base = encoder.Encoder(BASE)
    if not base.by_pieces:
        cli.say("tokenize: the base's tokenizer is not of GPT-2's usual kind: it does all the work itself, more slowly")
        return base
    counts = {split: corpus.count_documents(VALIDATED, split) for split in corpus.SPLITS}
    step = max(1, sum(counts.values()) // CHECKED)
    for split in corpus.SPLITS:
        for batch in corpus.read_documents(VALIDATED, split):
            beginnings = [text[:CHECKED_CHARACTERS] for text in batch["text"][::step].to_pylist()]
            if not base.check(beginnings):
                cli.say("tokenize: by pieces, some ids differ from the base's own tokenizer's: it does all the work")
                return base
    return base


def _documents(
    split: str, encode: encoder.Encode, max_length: int, overlong: str, seen: Counter
) -> Iterator[packing.Document]:
    """Yield the documents of a split as token ids, and count in `seen` what went by."""
    with cli.progress(f"tokenize {split}", corpus.count_documents(VALIDATED, split), " documents") as bar:
        for batch in encode(corpus.read_documents(VALIDATED, split)):
            lengths = np.diff(batch.ends, prepend=0)
            seen.update(
                documents=len(lengths),
                text_tokens=int(lengths.sum()) - 2 * len(lengths),
                bytes=int(batch.sizes.sum()),
                characters=batch.characters,
                words=batch.words,
                overlong=int((lengths > max_length).sum()),
            )
            parts = np.split(batch.ids, batch.ends[:-1])
            for line, size, ids in zip(batch.lines.tolist(), batch.sizes.tolist(), parts, strict=True):
                kept = packing.shorten(packing.Document(line, ids, size), max_length, overlong)
                if kept is None:
                    seen.update(dropped=1, dropped_tokens=len(ids))
                else:
                    seen["dropped_tokens"] += len(ids) - len(kept.ids)
                    yield kept
            bar.update(len(lengths))


def _summary(figures: dict, rules: params.Tokenize) -> None:
    for split in corpus.SPLITS:
        counts = figures[split]
        if counts["rows"]:
            rows = f"{counts['rows']} rows of {rules.max_length}"
            cli.say(f"tokenize: {split}: {counts['tokens']} tokens in {rows}, {counts['fill']:.1%} full")
    cli.say(
        f"  {figures['bytes_per_token']:.2f} bytes and {figures['characters_per_token']:.2f} characters a token, "
        f"{figures['tokens_per_word']:.2f} tokens a word, {figures['dropped_tokens']} tokens dropped"
    )
    train = figures["train"]
    if figures["dropped_tokens"]:
        cli.say(
            f"  tokenize.overlong: {rules.overlong}: {train['overlong_documents']} training documents are longer than "
            f"{rules.max_length} tokens: {train['dropped_tokens']} of their tokens were left out, and with them "
            f"{train['dropped_documents']} whole documents"
        )
    if not figures["vocabulary_fits"]:
        per_word = figures["tokens_per_word"]
        times = per_word / USUAL_TOKENS_PER_WORD
        cli.say(
            f"  note: {per_word:.1f} tokens a word: the base model's vocabulary was made for another language. The "
            f"model sees some {rules.max_length / per_word:.0f} words at once, and training takes about {times:.0f} "
            "times as long as with a vocabulary that fits. A base trained on the language of the corpus does better: "
            "for Russian base.hub: ai-forever/rugpt3small_based_on_gpt2, or the embedded model to try things out"
        )


if __name__ == "__main__":
    cli.run(main)
