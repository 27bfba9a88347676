"""Which documents were met before, in some 17 bytes of memory a document (25 for moments while the table grows).

Documents are told apart by 88 bits of a hash of their normalised text. Two different ones among 100 million would be
taken for one with a probability of 2e-11.

The keys met so far stand in two sorted arrays, a large one and a recent one that is merged into it when it has grown
to an eighth of its size: so a lookup is two binary searches, done for a whole batch at once, and an insertion costs
little however many there are.
"""

from __future__ import annotations

import hashlib
import unicodedata

import numpy as np

_LINE_BITS = 40  # of the second word of an entry; the 24 others belong to the key
_LINES = np.uint64(2**_LINE_BITS - 1)


def document_key(text: str) -> bytes:
    """16 bytes that two documents share when they differ in white space and Unicode composition (NFC) at most."""
    return _hash("".join(unicodedata.normalize("NFC", text).split()).encode("utf-8"))


def key_of_ordinary(text: bytes) -> bytes:
    """The same of a text in UTF-8 without characters that need a second look (`lines.unusual_places`), but faster."""
    return _hash(text.translate(None, b" \t\n\x0b\x0c\r"))


def _hash(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()


class FirstLines:
    """The line on which each document, by its key, was met first."""

    def __init__(self) -> None:
        self._large, self._recent = _Table(), _Table()

    def __len__(self) -> int:
        return len(self._large.heads) + len(self._recent.heads)

    def add(self, keys: list[bytes], lines: list[int]) -> list[int]:
        """For each of these documents, the line of the first one with its key: its own if it is new.

        `keys` are of 16 bytes; `lines` are below 2^40 and rise, also from call to call.
        """
        words = np.frombuffer(b"".join(keys), dtype="<u8").reshape(-1, 2)
        heads, tails = words[:, 0], words[:, 1] & ~_LINES
        firsts = np.array(lines, dtype=np.uint64)
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
        return result.tolist()


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
