"""Token ids: the tokenizer of the base model, and the rows of tokens on disk.

The tokenizer is that of the `tokenizers` library, the engine under Hugging Face's fast tokenizers, without torch. Text
that looks like a special token stays text, unless `base.special_tokens` keeps it what it is; what opens and closes a
document is always written by the pipeline alone.

Rows stand in one Arrow stream file a split, which `datasets.Dataset.from_file` and `pyarrow` open and memory-map. The
columns of a row: `input_ids`, its tokens; and for each segment in it one entry in `lengths` (tokens), `lines` (the
document's line in the corpus), `sizes` (the document's UTF-8 bytes; 0 when the row holds its continuation) and `lasts`
(whether nothing of the document follows in a later row).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tokenizers

from stages.lib.common import files
from stages.lib.common.cli import UserError
from stages.lib.rows.packing import Document, Row, Segment

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


class Tokenizer:
    """The tokenizer of a model folder in the pipeline's form, with the tokens that open and close a document.

    `opening` and `closing` are their ids, the same one for most models; `library` is the tokenizer itself. `special`
    are the ids of the special tokens by what they are written like, `kept` of those that a text may hold.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read tokenizer.json and tokenizer_config.json. Raises UserError when they are not there, or damaged."""
        vocabulary, config = (Path(folder) / name for name in ("tokenizer.json", "tokenizer_config.json"))
        files.need(vocabulary, config)
        with files.reading(folder):
            declared = dict(files.read_json(config))
            self.library = tokenizers.Tokenizer.from_file(str(vocabulary))
        if absent := {"bos_token", "eos_token"} - declared.keys():
            raise UserError(f"{folder}: its tokenizer_config.json names no {min(absent)}, as the pipeline's models do")
        self.library.encode_special_tokens = True
        self.opening: int = self.library.token_to_id(declared["bos_token"])
        self.closing: int = self.library.token_to_id(declared["eos_token"])
        added = self.library.get_added_tokens_decoder().items()
        self.special = {token.content: id for id, token in added if token.special}
        around = {declared["bos_token"], declared["eos_token"], declared.get("pad_token")}
        keep = not declared.get("split_special_tokens", True)
        self.kept = {token: id for token, id in self.special.items() if keep and token not in around}
        # A longer one before one that it begins with.
        self._cut = re.compile(f"({'|'.join(map(re.escape, sorted(self.kept, key=len, reverse=True)))})")

    def encode(self, text: str) -> list[int]:
        """The tokens of a text alone; nothing in it turns into a special token but those that are kept."""
        ids: list[int] = []
        for part in self.parts(text):
            ids += [self.kept[part]] if part in self.kept else self.library.encode(part, add_special_tokens=False).ids
        return ids

    def parts(self, text: str) -> list[str]:
        """A text cut round the special tokens that are kept; each of those is a part of its own."""
        return [part for part in self._cut.split(text) if part] if self.kept else [text]

    def written_out(self, texts: pa.StringArray) -> Counter[str]:
        """How often each special token stands in texts, as it is written; those that do are named."""
        return +Counter({token: pc.sum(pc.count_substring(texts, token)).as_py() for token in self.special})

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; special ones stand in it as they are written."""
        return self.library.decode(ids, skip_special_tokens=False)

    def document(self, ids: Sequence[int]) -> np.ndarray:
        """The tokens of a text as a document (int32): opened and closed."""
        return np.array([self.opening, *ids, self.closing], dtype=np.int32)


def prompt_ids(tokenizer: Tokenizer, prompt: str, context: int) -> tuple[list[int], str]:
    """What opens a text and the tokens of a prompt, and the character at its end that is not among them, mostly none.

    Texts hold a blank in one token with the word after it. A blank token at the end of a prompt is therefore followed
    by nothing that a model knows: the white space belongs into the first token that is written (`beginning_with`).
    Raises UserError when the prompt leaves no room in a context of so many tokens.
    """
    last = prompt[-1:]
    if not last.isspace() or len(tokenizer.encode(last)) != 1:
        last = ""
    told = prompt.removesuffix(last)
    ids = [tokenizer.opening, *tokenizer.encode(told)]
    if len(ids) >= context:
        raise UserError(f"the prompt has {len(ids) - 1} tokens, the model sees {context - 2} at most")
    return ids, last


def beginning_with(tokenizer: Tokenizer, character: str) -> list[int]:
    """The ids of all tokens whose text begins with `character`, which is a token itself."""
    (id,) = tokenizer.encode(character)
    start = tokenizer.library.id_to_token(id)
    vocabulary = tokenizer.library.get_vocab(with_added_tokens=False)
    return sorted(id for token, id in vocabulary.items() if token.startswith(start))


def write_rows(path: Path, rows: Iterable[Row]) -> tuple[int, int, int]:
    """Write packed rows; return how many rows, segments and tokens went into the file."""
    waiting, totals = iter(rows), Counter[str]()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        while batch := list(islice(waiting, BATCH)):
            columns = {
                "input_ids": [np.concatenate([segment.ids for segment in row]) for row in batch],
                "lengths": [[len(segment.ids) for segment in row] for row in batch],
                "lines": [[segment.line for segment in row] for row in batch],
                "sizes": [[segment.size for segment in row] for row in batch],
                "lasts": [[segment.last for segment in row] for row in batch],
            }
            writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=SCHEMA))
            totals.update(rows=len(batch), segments=sum(map(len, batch)), tokens=sum(map(len, columns["input_ids"])))
    return totals["rows"], totals["segments"], totals["tokens"]


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file that `write_rows` wrote, in order, holding one record batch at a time."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            for index in range(batch.num_rows):
                ids, *rest = (column[index].values for column in batch.columns)
                lengths, lines, sizes, lasts = (column.to_pylist() for column in rest)
                parts = np.split(ids.to_numpy(), np.cumsum(lengths)[:-1])
                yield list(map(Segment, lines, parts, sizes, lasts))


def text_tokens(document: Document) -> int:
    """How many tokens of the document's own text there are, without those that open and close it."""
    return len(document.ids) - 1 - document.whole
