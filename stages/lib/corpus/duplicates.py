"""Which documents were met before, in some 17 bytes of memory a document (25 for moments while the table grows).

Documents are told apart by 88 bits of a hash of their normalised text. Two different ones among 100 million would be
taken for one with a probability of 2e-11.

The keys met so far stand in two sorted arrays, a large one and a recent one that is merged into it when it has grown
to an eighth of its size: so a lookup is two binary searches, done for a whole batch at once, and an insertion costs
little however many there are.
"""

from __future__ import annotations

import unicodedata
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import pyarrow as pa

from stages.lib.corpus import scan

_LINE_BITS = 40  # of the second word of an entry; the 24 others belong to the key
_LINES = np.uint64(2**_LINE_BITS - 1)


def document_key(text: str) -> bytes:
    """16 bytes that two documents share when they have the same words in Unicode's composition (NFC)."""
    return _hash(" ".join(unicodedata.normalize("NFC", text).split()).encode("utf-8"))


def keys_of(texts: pa.StringArray, unusual: np.ndarray) -> np.ndarray:
    """The key of each text as two words: uint64 [texts, 2].

    `unusual` (bool) tells which texts composition may change, or have white space beyond ASCII. The white space of all
    others is normalised at once, as one array of bytes.
    """
    if not len(texts):
        return np.empty((0, 2), np.uint64)
    ends = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset :][: len(texts) + 1]
    normal = np.frombuffer(texts.buffers()[2], np.uint8).copy()
    normal[scan.places(lambda piece: piece - np.uint8(0x09) < 5, normal)] = 0x20
    superfluous = 1 + scan.places(lambda piece: (piece[1:] == 0x20) & (piece[:-1] == 0x20), normal, overlap=1)
    content = (np.delete(normal, superfluous) if len(superfluous) else normal).tobytes()
    bounds = ends - np.searchsorted(superfluous, ends)
    found = [_hash(content[start:end].strip()) for start, end in pairwise(bounds.tolist())]
    for index in np.flatnonzero(unusual).tolist():
        found[index] = document_key(texts[index].as_py())
    return np.frombuffer(b"".join(found), dtype="<u8").reshape(-1, 2)


def _hash(text: bytes) -> bytes:
    return blake2b(text, digest_size=16).digest()


class FirstLines:
    """The line on which each document, by its key, was met first."""

    def __init__(self) -> None:
        self._large, self._recent = _Table(), _Table()

    def __len__(self) -> int:
        return len(self._large.heads) + len(self._recent.heads)

    def add(self, keys: np.ndarray, lines: np.ndarray) -> np.ndarray:
        """For each of these documents, the line of the first one with its key: its own if it is new.

        `keys` are uint64 [documents, 2]; `lines` are below 2^40 and rise, also from call to call.
        """
        heads, tails = keys[:, 0], keys[:, 1] & ~_LINES
        firsts = lines.astype(np.uint64)
        # Sorted by key and then by line, so that copies within the batch are neighbours, the first one in front.
        order = np.lexsort((firsts, tails, heads))
        heads, tails, firsts = heads[order], tails[order], firsts[order]
        new = np.ones(len(heads), dtype=bool)
        new[1:] = (heads[1:] != heads[:-1]) | (tails[1:] != tails[:-1])
        firsts = firsts[new][np.cumsum(new) - 1]
        for table in (self._large, self._recent):
            table.look_up(heads, tails, firsts, new)
        self._recent.merge(heads[new], tails[new] | firsts[new])
        if len(self._recent.heads) * 8 > len(self._large.heads):
            self._large.merge(self._recent.heads, self._recent.rest)
            self._recent = _Table()
        result = np.empty_like(firsts)
        result[order] = firsts
        return result.astype(np.int64)


class _Table:
    """Keys with their lines, sorted: `heads` are the first 64 bits of the keys, `rest` the next 24 and the line."""

    def __init__(self) -> None:
        self.heads = self.rest = np.empty(0, np.uint64)

    def look_up(self, heads: np.ndarray, tails: np.ndarray, firsts: np.ndarray, new: np.ndarray) -> None:
        """Where a key is known, write the line it was met on into `firsts`, and False into `new`."""
        if not len(self.heads):
            return
        places = np.searchsorted(self.heads, heads)
        met = self.heads[np.minimum(places, len(self.heads) - 1)] == heads
        for index in np.flatnonzero(met):
            # One entry, or, where different keys have the same head, several.
            for place in range(places[index], len(self.heads)):
                if self.heads[place] != heads[index]:
                    break
                if self.rest[place] & ~_LINES == tails[index]:
                    firsts[index] = self.rest[place] & _LINES
                    new[index] = False
                    break

    def merge(self, heads: np.ndarray, rest: np.ndarray) -> None:
        """Take in new entries, sorted by head. One array after the other: only one is there twice at a time."""
        places = np.searchsorted(self.heads, heads)
        self.heads = np.insert(self.heads, places, heads)
        self.rest = np.insert(self.rest, places, rest)
