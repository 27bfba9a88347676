"""Long texts into documents: at their paragraphs, at their chapters, or into pieces of some size."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from tools.collect.decoding import LINE

WAYS = ("file", "chapter", "paragraph", "size")
_LOOKED_AT = 1000  # lines by which it is told how a text parts its paragraphs
# With more lines than this from one empty line to the next, empty lines part more than paragraphs.
_LONG_BLOCK = 20
_NUMBER = r"(?:\d+|[IVXLC]+|(?:[а-яё]+[ ])?[а-яё]+(?:ая|ья|ый|ой|ое|ье|ий)|[a-z]+)"
_HEADING = re.compile(
    rf"""\s{{0,20}}(?:
        \#{{1,3}}\s+\S.{{0,100}}
        | (?i:глава|часть|книга|том|раздел|chapter|part|book|section)\s+(?i:{_NUMBER})
          (?:[.:—–-]?|[.:—–-]?\s+[^а-яёa-z].{{0,80}})
        | (?i:пролог|эпилог|предисловие|послесловие|prologue|epilogue|preface|foreword|afterword)[.:]?
        | (?=[IVXLC])(?:XC|XL|L?X{{0,3}})(?:IX|IV|V?I{{0,3}})\.?
        )\s*""",
    re.VERBOSE,
)
_MARK = re.compile(r"\s*[*=~_#•⁂–—-](?:\s{0,3}[*=~_#•⁂–—-]){2,60}\s*|\s*⁂\s*")
_SENTENCE = re.compile(r"[.!?…][»”\")\]]*\s+")


def is_heading(line: str) -> bool:
    """Whether a line looks like the heading of a chapter."""
    return len(line) < 200 and _HEADING.fullmatch(line) is not None


def headings(text: str) -> int:
    """How many lines look like headings of chapters."""
    return sum(map(is_heading, text.split("\n")))


def commonest_mark(text: str) -> tuple[str, int]:
    """Of what stands alone on lines and has no letters, such as * * *, the commonest, and how often it does."""
    marks = Counter(line.strip() for line in text.split("\n") if _MARK.fullmatch(line))
    return marks.most_common(1)[0] if marks else ("", 0)


def pieces(lines: Iterable[str], by: str, size: int) -> Iterator[str]:
    """The lines of a text, which end with "\\n", as documents: `by` is one of `WAYS`, `size` in characters."""
    if by == "file":
        yield "".join(lines)
    elif by == "chapter":
        yield from _chapters(lines)
    else:
        first, between, rule = _paragraph_rule(iter(lines))
        found = _paragraphs(first, rule)
        yield from found if by == "paragraph" else _packed(found, between, size)


def at_marks(text: str, marks: Sequence[str]) -> list[str]:
    """What stands before, between and after the marks in a text, where that is more than white space."""
    if not marks:
        return [text]
    # A longer one before one that it begins with.
    between = re.split("|".join(map(re.escape, sorted(marks, key=len, reverse=True))), text)
    return [piece.strip() for piece in between if piece.strip()] or [""]


def _chapters(lines: Iterable[str]) -> Iterator[str]:
    """Each with its heading, and with those of the part or book that begins there."""
    piece: list[str] = []
    has_text = False
    for line in lines:
        heading = is_heading(line)
        if heading and has_text:
            yield "".join(piece)
            piece, has_text = [], False
        has_text |= not heading and not line.isspace()
        piece.append(line)
    yield "".join(piece)


def _paragraph_rule(lines: Iterator[str]) -> tuple[Iterator[str], str, str]:
    """The lines again, what stands between paragraphs, and how they are parted: "empty", "indented" or "line"."""
    sample = list(islice(lines, _LOOKED_AT))
    full = [line for line in sample if not line.isspace()]
    blocks = sum(not line.isspace() and before.isspace() for before, line in zip(["\n", *sample], sample, strict=False))
    indented = sum(line[0] in " \t\u3000" for line in full)
    again = chain(sample, lines)
    if blocks > 1 and len(full) < _LONG_BLOCK * blocks:
        return again, "\n\n", "empty"
    if 0.02 * len(full) < indented < 0.6 * len(full):
        return again, "\n", "indented"
    return again, "\n", "line"


def _paragraphs(lines: Iterable[str], rule: str) -> Iterator[str]:
    piece: list[str] = []
    length = 0
    for line in lines:
        begins = rule == "line" or line.isspace() or (rule == "indented" and line[0] in " \t\u3000")
        if piece and (begins or length > LINE):
            yield "".join(piece).rstrip("\n")
            piece, length = [], 0
        if not line.isspace():
            piece.append(line)
            length += len(line)
    if piece:
        yield "".join(piece).rstrip("\n")


def _packed(paragraphs: Iterable[str], between: str, size: int) -> Iterator[str]:
    """As many paragraphs together as `size` holds; a longer one is cut where a sentence ends, or a word."""
    piece = ""
    for paragraph in chain.from_iterable(_cut(paragraph, size) for paragraph in paragraphs):
        if piece and len(piece) + len(between) + len(paragraph) > size:
            yield piece
            piece = ""
        piece = piece + between + paragraph if piece else paragraph
    if piece:
        yield piece


def _cut(paragraph: str, size: int) -> Iterator[str]:
    start = 0
    while len(paragraph) - start > size:
        ends = [found.end() for found in _SENTENCE.finditer(paragraph, start, start + size)]
        at = ends[-1] if ends else paragraph.rfind(" ", start + 1, start + size) + 1 or start + size
        yield paragraph[start:at].rstrip()
        start = at
    if start < len(paragraph):
        yield paragraph[start:]
