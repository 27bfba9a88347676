"""Token ids: the tokenizer of the base model, and the rows of tokens on disk.

The tokenizer is that of the `tokenizers` library, the engine under Hugging Face's fast tokenizers, without torch. Text
that looks like a special token stays text: only the pipeline itself writes `<|endoftext|>`.

Rows stand in one Arrow stream file a split, which `datasets.Dataset.from_file` and `pyarrow` open and memory-map. The
columns of a row: `input_ids`, its tokens; and for each segment in it one entry in `lengths` (tokens), `lines` (the
document's line in the corpus), `sizes` (the document's UTF-8 bytes; 0 when the row holds its continuation) and `lasts`
(whether nothing of the document follows in a later row).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from stages.lib import files
from stages.lib.cli import UserError
from stages.lib.packing import Document, Row, Segment

BOUNDARY = "<|endoftext|>"  # opens and closes every document
SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("lengths", pa.list_(pa.int32())),
        ("lines", pa.list_(pa.int64())),
        ("sizes", pa.list_(pa.int64())),
        ("lasts", pa.list_(pa.bool_())),
    ]
)
BATCH = 1000  # rows in one Arrow record batch


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a model folder, set so that no text can turn into a special token. Raises UserError."""
    path = Path(folder) / "tokenizer.json"
    files.need(path)
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    boundary_id(tokenizer)
    return tokenizer


def boundary_id(tokenizer: Tokenizer) -> int:
    """The id of `<|endoftext|>`. Raises UserError when the vocabulary has none."""
    found = tokenizer.token_to_id(BOUNDARY)
    if found is None:
        raise UserError(f"the base model's vocabulary has no {BOUNDARY}: choose a GPT-2 model that has it")
    return found


def prompt_ids(tokenizer: Tokenizer, prompt: str, context: int) -> tuple[list[int], str]:
    """`<|endoftext|>` and the tokens of a prompt, and the character at its end that is not among them, mostly none.

    Texts hold a blank in one token with the word after it. A blank token at the end of a prompt is therefore followed
    by nothing that a model knows: the white space belongs into the first token that is written (`beginning_with`).
    Raises UserError when the prompt leaves no room in a context of so many tokens.
    """
    last = prompt[-1:]
    if not last.isspace() or len(tokenizer.encode(last, add_special_tokens=False).ids) != 1:
        last = ""
    told = prompt.removesuffix(last)
    ids = [boundary_id(tokenizer), *tokenizer.encode(told, add_special_tokens=False).ids]
    if len(ids) >= context:
        raise UserError(f"the prompt has {len(ids) - 1} tokens, the model sees {context - 2} at most")
    return ids, last


def beginning_with(tokenizer: Tokenizer, character: str) -> list[int]:
    """The ids of all tokens whose text begins with `character`, which is a token itself."""
    (id,) = tokenizer.encode(character, add_special_tokens=False).ids
    start = tokenizer.id_to_token(id)
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    return sorted(id for token, id in vocabulary.items() if token.startswith(start))


def write_rows(path: Path, rows: Iterable[Row]) -> tuple[int, int, int]:
    """Write packed rows; return how many rows, segments and tokens went into the file."""
    totals = np.zeros(3, dtype=np.int64)
    batch: list[Row] = []
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for row in rows:
            batch.append(row)
            totals += 1, len(row), sum(len(segment.ids) for segment in row)
            if len(batch) == BATCH:
                writer.write_batch(_record_batch(batch))
                batch.clear()
        if batch:
            writer.write_batch(_record_batch(batch))
    count, segments, tokens = totals.tolist()
    return count, segments, tokens


def _record_batch(rows: list[Row]) -> pa.RecordBatch:
    segments = [segment for row in rows for segment in row]
    lengths = np.array([len(segment.ids) for segment in segments], dtype=np.int32)
    ends = np.cumsum([len(row) for row in rows])  # of each row, in segments
    counts = np.concatenate([[0], ends]).astype(np.int32)
    token_ends = np.concatenate([[0], np.cumsum(lengths)[ends - 1]]).astype(np.int32)
    columns = [
        (token_ends, np.concatenate([segment.ids for segment in segments])),
        (counts, lengths),
        (counts, np.array([segment.line for segment in segments], dtype=np.int64)),
        (counts, np.array([segment.size for segment in segments], dtype=np.int64)),
        (counts, np.array([segment.last for segment in segments])),
    ]
    arrays = [pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)) for offsets, values in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file that `write_rows` wrote, in order, holding one record batch at a time."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            for index in range(batch.num_rows):
                columns = (column[index].values.to_numpy(zero_copy_only=False) for column in batch.columns)
                ids, lengths, lines, sizes, lasts = columns
                parts = np.split(ids, np.cumsum(lengths)[:-1])
                segments = zip(lines.tolist(), parts, sizes.tolist(), lasts.tolist(), strict=True)
                yield [Segment(*segment) for segment in segments]


def text_tokens(document: Document) -> int:
    """How many tokens of the document's own text there are, without the `<|endoftext|>` at either end."""
    return len(document.ids) - 1 - document.whole
