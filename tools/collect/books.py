"""Books and pages into chapters, without notes and boilerplate; pandoc reads them."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import StringIO

from tools.collect import decoding, divide, pandoc
from tools.collect.documents import Document, Found, Left, Note, Wishes, numbered
from tools.collect.sources import WHOLE, File, refuse_bomb

FORMS = {
    "epub": "an EPUB book",
    "fb2": "an FB2 book",
    "docx": "a Word document",
    "odt": "an OpenDocument text",
    "html": "a page of HTML",
    "rtf": "an RTF document",
}
_ZIPPED = {"epub", "docx", "odt"}
_SHORT = 1000  # characters: a title page, and what stands before the first heading, has fewer
_BOILERPLATE = re.compile(
    r"(?:table of )?contents|copyright.*|(?:foot|end)?notes|bibliography|about the (?:author|publisher)|"
    r"содержание|оглавление|примечани[ея].*|сноски|выходные данные|об авторе|от издательства|"
    r"библиография|предметный указатель",
    re.IGNORECASE,
)
# What at a book's beginning or end is that, too, and elsewhere may be what the book is about.
_AT_AN_END = re.compile(r"index|комментарии|литература|аннотация", re.IGNORECASE)
# Of HTML. A form is not among them: some programs that make sites put all of a page into one.
_AROUND = re.compile(
    rb"<(nav|footer|aside|script|style|noscript|select|button|textarea)\b.{0,100000}?</\1\s*>",
    re.DOTALL | re.IGNORECASE,
)
_PROLOGUE = re.compile(r"<\?xml[^>]*\?>")
# RTF: a character by its number and what stands in for it, a font, bytes of the font's code page, or a bound of a
# group, which is no escaped brace.
_RTF = re.compile(rb"(\\u-?\d+ ?)(?:\\'[0-9a-fA-F]{2}|\?)|\\f(\d+)|((?:\\'[0-9a-fA-F]{2})+)|(?:\\[\\{}])|([{}])")
_HIGH = re.compile(rb"[\x80-\xff]")
_UNREAD = rb"\'3f"  # stands in for a numbered character; with a plain ? pandoc loses what follows
_FONT = re.compile(rb"\{\\f(\d+)[^{}]*?\\fcharset(\d+)")
_CHARSETS = {161: "cp1253", 162: "cp1254", 186: "cp1257", 204: "cp1251", 238: "cp1250"}


@dataclass
class Section:
    """What stands below one heading, up to the next; level 0 for what stands before the first."""

    level: int
    heading: str
    blocks: list[pandoc.Node] = field(default_factory=list)

    def text(self) -> str:
        """Without the heading."""
        return pandoc.text(self.blocks)


def read(file: File, wishes: Wishes, form: str) -> Found:
    """The chapters of a book in one of `FORMS`, or all of them as one document."""
    content, said = _content(file, wishes, form)
    if said:
        yield Note(said)
    blocks, title = pandoc.tree(content, form, file.name, FORMS[form])
    chapters: list[str] = []
    found = [one for one in _chapters(list(_sections(blocks, form))) if one.heading or one.blocks]
    for one in found:
        if reason := _no_chapter(one, title, form if len(found) > 1 else "", not chapters, one is found[-1]):
            yield Left(reason)
        else:
            chapters.append(f"{one.heading}\n\n{one.text()}".strip().replace("\u00ad", ""))
    if not found:
        yield Left("pages and books without text")
    if wishes.by == "file" and chapters:
        yield Document("\n\n".join(chapters), "", len(chapters))
    elif wishes.by == "chapter" and len(chapters) == 1:  # whose headings may be none but by what they say
        yield from numbered(divide.pieces(StringIO(chapters[0]), "chapter", wishes.size), Document(""))
    else:
        yield from (Document(chapter, str(number)) for number, chapter in enumerate(chapters, 1))


def _content(file: File, wishes: Wishes, form: str) -> tuple[bytes, str]:
    """What pandoc is given, which knows no encoding but UTF-8, and what is said of the encoding."""
    if form in _ZIPPED:
        with file.anywhere() as stream, zipfile.ZipFile(stream) as archive:
            refuse_bomb(archive, file.name)
        return file.whole(), ""
    if form == "rtf":  # old programs write letters as they are
        return _with_numbers(_HIGH.sub(lambda found: rb"\'%02x" % found[0][0], file.whole())), ""
    encoding = decoding.encoding_of(file, wishes.encoding)
    content = decoding.whole_text(file, encoding, WHOLE)
    if form == "fb2":
        content = _PROLOGUE.sub("", content, count=1)  # it names the encoding that there was
    encoded = content.encode("utf-8", "replace")
    return _AROUND.sub(b"", encoded) if form == "html" else encoded, f"encoding {encoding.said}"


def _with_numbers(content: bytes) -> bytes:
    """RTF whose letters are written by their numbers in Unicode: pandoc knows few of the code pages they may be in."""
    page = re.search(rb"\\ansicpg(\d+)", content)
    usual = f"cp{int(page[1])}" if page else "cp1252"
    codecs = {font: _CHARSETS.get(int(charset), usual) for font, charset in _FONT.findall(content)}
    codec, outer = usual, []  # of the groups around this one
    stand_in = b" " if rb"\uc0" in content else _UNREAD

    def numbers(found: re.Match[bytes]) -> bytes:
        nonlocal codec
        if found[1]:
            return found[0] if stand_in == b" " else found[1].strip() + stand_in
        if found[2]:
            codec = codecs.get(found[2], usual)
            return found[0]
        if found[4] == b"{":
            outer.append(codec)
        elif found[4] and outer:
            codec = outer.pop()
        if not found[3]:
            return found[0]
        letters = bytes.fromhex(found[3].replace(b"\\'", b"").decode("ascii"))
        if not decoding.known(codec):
            return found[0]
        return b"".join(b"\\u%d" % ord(letter) + stand_in for letter in letters.decode(codec, "replace"))

    return _RTF.sub(numbers, content)


def _sections(blocks: Iterable[pandoc.Node], form: str) -> Iterator[Section]:
    section = Section(0, "")
    for block in blocks:
        # FB2's subtitles stand within a chapter.
        if block["t"] == "Header" and not (form == "fb2" and "unnumbered" in block["c"][1][1]):
            yield section
            section = Section(block["c"][0], pandoc.text([block]))
        else:
            section.blocks.append(block)
    yield section


def _chapters(sections: list[Section]) -> Iterator[Section]:
    """The sections, those below the level of chapters put together with what they belong to.

    Chapters are at the level of heading below which most of the text stands: above it are parts, below it sections.
    """
    sizes: Counter[int] = Counter()
    for one in sections:
        sizes[one.level] += len(one.text()) * (one.level > 0)
    level = sizes.most_common(1)[0][0]
    chapter = sections[0]
    for one in sections[1:]:
        if one.level > level and chapter.level:
            chapter.blocks += [pandoc.paragraph(one.heading), *one.blocks]
        else:
            yield chapter
            chapter = one
    yield chapter


def _no_chapter(one: Section, title: str, form: str, first: bool, last: bool) -> str | None:
    """Why a section is no chapter.

    `form` is "" for the only one, which may be anything; `first` is one with no chapter before it, which may be a title
    page.
    """
    text = one.text()
    if not text:
        return "headings without text"
    heading = one.heading.strip(" .:")
    if _BOILERPLATE.fullmatch(heading) or ((first or last) and _AT_AN_END.fullmatch(heading)):
        return "contents, notes and the like"
    titled = title and first and form in ("epub", "fb2") and heading.casefold().endswith(title.casefold())
    before = not one.level and form in ("epub", "fb2", "html")
    if len(text) < _SHORT and (titled or before):
        return "title pages, and what stands before the first heading"
    return None
