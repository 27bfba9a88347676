"""Stage `tokenize`: validated documents into packed rows of token ids, on disk as Arrow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
from tokenizers import Tokenizer

from stages.lib import cli, corpus, files, packing, params, tokens

VALIDATED = Path("data/validated")
BASE = Path("model/base")
OUTPUT = Path("data/tokens")
FIGURES = Path("logs/tokenize.json")
# Above this the vocabulary was made for another language: GPT-2's own spends 1.3 tokens on an English word and 6.5 on
# a Russian one.
FITTING_TOKENS_PER_WORD = 3.0


def main() -> None:
    """Write `data/tokens/` and `logs/tokenize.json`."""
    settings = params.load()
    max_length = settings.tokenize.max_length
    files.need(VALIDATED, BASE)
    tokenizer = tokens.load_tokenizer(BASE)
    settings.check_context(files.read_json(BASE / "config.json")["n_positions"])
    sums = Counter()
    splits = {}
    with files.new_folder(OUTPUT) as folder:
        for split in corpus.SPLITS:
            seen = Counter(documents=0, text_tokens=0, bytes=0, characters=0, words=0)
            with cli.progress(f"tokenize {split}", corpus.count_documents(VALIDATED, split), " documents") as bar:
                documents = cli.counted(_documents(split, tokenizer, seen), bar)
                packed = packing.pack(documents, max_length)
                rows, segments, written = tokens.write_rows(folder / f"{split}.arrow", packed)
            sums.update(seen)
            # A segment that goes on with a document repeats one token; a document has <|endoftext|> at either end.
            repeated = segments - seen["documents"]
            sums["dropped_tokens"] += seen["text_tokens"] + 2 * seen["documents"] + repeated - written
            splits[split] = {
                "documents": seen["documents"],
                "text_tokens": seen["text_tokens"],
                "repeated_tokens": repeated,
                "tokens": written,
                "rows": rows,
                "fill": written / (rows * max_length) if rows else None,
            }
    figures = {
        **splits,
        "bytes_per_token": sums["bytes"] / sums["text_tokens"],
        "characters_per_token": sums["characters"] / sums["text_tokens"],
        "tokens_per_word": sums["text_tokens"] / sums["words"],
        "dropped_tokens": sums["dropped_tokens"],
    }
    files.write_json(FIGURES, figures)
    _summary(figures, max_length)


def _documents(split: str, tokenizer: Tokenizer, seen: Counter) -> Iterator[packing.Document]:
    """Yield the documents of a split as token ids, and count in `seen` what went by."""
    for batch in corpus.read_documents(VALIDATED, split):
        texts = batch["text"].to_pylist()
        sizes = pc.binary_length(batch["text"]).to_pylist()
        lines = batch["line"].to_pylist()
        for text, size, line, ids in zip(texts, sizes, lines, tokens.encode(tokenizer, texts), strict=True):
            document = packing.Document(line, ids, size)
            seen.update(
                documents=1,
                text_tokens=tokens.text_tokens(document),
                bytes=size,
                characters=len(text),
                words=len(text.split()),
            )
            yield document


def _summary(figures: dict, max_length: int) -> None:
    for split in corpus.SPLITS:
        if rows := figures[split]["rows"]:
            fill = f"{figures[split]['fill']:.1%} full"
            cli.say(f"tokenize: {split}: {figures[split]['tokens']} tokens in {rows} rows of {max_length}, {fill}")
    cli.say(
        f"  {figures['bytes_per_token']:.2f} bytes and {figures['characters_per_token']:.2f} characters a token, "
        f"{figures['tokens_per_word']:.2f} tokens a word, {figures['dropped_tokens']} tokens dropped"
    )
    if (per_word := figures["tokens_per_word"]) > FITTING_TOKENS_PER_WORD:
        cli.say(
            f"  note: {per_word:.1f} tokens a word: the base model's vocabulary was made for another language. A row "
            f"holds some {max_length / per_word:.0f} words only, and training takes longer. A base that was trained "
            "on the language of the corpus does better"
        )


if __name__ == "__main__":
    cli.run(main)
