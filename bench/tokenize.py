"""How fast tokenization is, from validated text to Arrow files on disk, against `datasets.map` and tiktoken.

    python -m bench.tokenize                          the sample corpus, repeated to 20 MB
    python -m bench.tokenize --corpus FILE [FILE ...] [--megabytes 1000] [--engines]
    python -m bench.tokenize --against COMMIT         the stage as it was then as well

All have GPT-2's own vocabulary and every core; the stage packs its tokens into rows besides. Each run is a process of
its own, timed as a whole, and they take turns. The ids are compared. Needs bench/requirements.txt.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

from bench import measure
from stages.lib.common import cli, parallel
from stages.lib.corpus import splits
from stages.lib.rows import encoder, packing, tokens

BASE, VALIDATED, TOKENS = Path("model/base"), Path("data/validated"), Path("data/tokens")
ENGINES = ("datasets.map", "tiktoken")


def main() -> None:
    """Print the table; with the name of another engine as the only argument, be that engine."""
    if sys.argv[1:2] and sys.argv[1] in ENGINES:
        {"datasets.map": by_datasets, "tiktoken": by_tiktoken}[sys.argv[1]]()
        return
    parser = measure.arguments(__doc__)
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=ENGINES, help="to compare with (default all)")
    parser.add_argument(
        "--against", metavar="COMMIT", help="to compare with the stage as it was at this commit as well"
    )
    args = parser.parse_args()
    with measure.workspace() as folder:
        measure.write_corpus(folder, args.corpus, args.megabytes)
        measure.write_gpt2_tokenizer(folder / BASE)
        measure.run(folder, "stages.validate")
        size = sum(splits.count_bytes(folder / VALIDATED, split) for split in splits.SPLITS)
        ways = {name: partial(measure.run, folder, "bench.tokenize", name) for name in args.engines}
        if args.against:
            code = measure.at_commit(args.against, folder)
            ways[f"the stage at {args.against}"] = partial(measure.run, folder, "stages.tokenize", code=code)
        ways["this stage"] = partial(measure.run, folder, "stages.tokenize")  # the last: its rows are compared
        runs: dict[str, list[measure.Run]] = {name: [] for name in ways}
        for _ in range(args.runs):
            for name, way in ways.items():
                runs[name].append(way())
        os.chdir(folder)
        same = {name: _same_ids(name) for name in args.engines}
    rates = {name: size / 1e6 / median(run.seconds for run in taken) for name, taken in runs.items()}
    memory = {name: max(run.memory for run in taken) for name, taken in runs.items()}
    rows = [
        [name, f"{rate:.2f}", f"{rates['this stage'] / rate:.1f}", f"{memory[name] / 1e6:.0f}", same.get(name, "-")]
        for name, rate in rates.items()
    ]
    header = ["engine", "MB/s", "this stage is faster by", "peak MB", "same ids"]
    figures = {"bytes": size, "megabytes_per_second": rates, "memory": memory, "same_ids": same}
    measure.report(f"Tokenization of {size / 1e6:.0f} MB of text.", header, rows, figures, args.json)


def _texts() -> list[str]:
    return [
        text
        for split in splits.SPLITS
        for batch in splits.read_documents(VALIDATED, split)
        for text in batch["text"].to_pylist()
    ]


def by_datasets() -> None:
    """The usual way: a fast tokenizer of transformers, mapped over batches, a process for each core."""
    from datasets import Dataset, concatenate_datasets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    whole = concatenate_datasets([Dataset.from_file(str(VALIDATED / f"{split}.arrow")) for split in splits.SPLITS])
    whole.map(
        lambda batch: {"input_ids": tokenizer(batch["text"], add_special_tokens=False)["input_ids"]},
        batched=True,
        num_proc=parallel.processors(),
        remove_columns=whole.column_names,
        load_from_cache_file=False,
        cache_file_name=str(Path.cwd() / "datasets.map.arrow"),
    )


def by_tiktoken() -> None:
    """tiktoken with the same vocabulary, a thread for each core."""
    import json

    import tiktoken

    described = json.loads((BASE / "tokenizer.json").read_text(encoding="utf-8"))
    letters = encoder.byte_letters()
    vocabulary = {token: id for token, id in described["model"]["vocab"].items() if token != "<|endoftext|>"}
    ranks = {bytes(letters[letter] for letter in token): id for token, id in vocabulary.items()}
    encoding = tiktoken.Encoding("gpt2", pat_str=encoder.PIECES, mergeable_ranks=ranks, special_tokens={})
    encoded = encoding.encode_ordinary_batch(_texts(), num_threads=parallel.processors())
    table = pa.table({"input_ids": pa.array(encoded, pa.list_(pa.int32()))})
    with pa.OSFile("tiktoken.arrow", "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def _same_ids(name: str) -> bool:
    """Whether another engine's documents are those the stage packed."""
    others = (ids.values.to_numpy() for path in sorted(Path().glob(f"{name}*.arrow")) for ids in _column(path))
    closing = tokens.Tokenizer(BASE).closing
    for split in splits.SPLITS:
        ours = packing.documents_of(tokens.read_rows(TOKENS / f"{split}.arrow"), closing)
        for document in sorted(ours, key=lambda document: document.line):
            if not np.array_equal(document.ids[1:-1], next(others)):
                return False
    return next(others, None) is None


def _column(path: Path) -> pa.ChunkedArray:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_stream(source).read_all()["input_ids"]


if __name__ == "__main__":
    cli.run(main)
