"""pandoc, and the tree of blocks it makes of a book, as plain text."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from tools.collect.documents import Unreadable, package

# A node: its type "t", and its content "c", whose shape depends on the type.
Node = dict[str, Any]
# What the tree may take of memory and time: a book takes a hundredth.
_LIMITS = ("+RTS", "-M4G", "-RTS")
_SECONDS = 600
# The classes of parts that are no text of the book.
_APART = {
    *("footnote", "footnotes", "endnotes", "rearnotes", "toc", "titlepage", "copyright-page", "cover", "index"),
    *("bibliography", "pg-boilerplate", "sidebar", "menu", "navbox", "breadcrumbs"),
}
_MARK = re.compile(r"[\[({]?(?:\d{1,4}|\*{1,3}|[a-z])[\])}]?")  # of a note
_WITHOUT_TEXT = {"Note", "Image", "RawInline", "RawBlock", "Figure"}


def tree(content: bytes, form: str, name: str, what: str) -> tuple[list[Node], str]:
    """The blocks and the title of a book in one of pandoc's forms. Raises Unreadable where pandoc cannot read it.

    Nothing is written to disk, and pandoc reads nothing but the content: what a book refers to stays where it is.
    """
    command = [package("pypandoc", name, what).get_pandoc_path(), *_LIMITS, "--sandbox", "--quiet"]
    try:
        done = subprocess.run(
            [*command, "--from", form, "--to", "json"], input=content, capture_output=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise Unreadable(f"{name} was given up: pandoc had not read it after {_SECONDS} seconds") from None
    if done.returncode:
        reason = " ".join(done.stderr.decode("utf-8", "replace").strip().split("\n")[:2])  # what, and where
        raise Unreadable(f"{name} is {what} that pandoc cannot read: {reason or 'it needs too much memory'}")
    book = json.loads(done.stdout)
    title = book["meta"].get("title", {"t": "MetaInlines", "c": []})
    return list(_flat(book["blocks"])), inline(title["c"]) if title["t"] == "MetaInlines" else ""


def _flat(blocks: Iterable[Node]) -> Iterator[Node]:
    """The blocks without the boxes around them, and without the boxes that are no text of the book."""
    for one in blocks:
        if one["t"] == "Table" and any(map(_is_layout, _cells(one["c"]))):
            yield from _flat(chain.from_iterable(_cells(one["c"])))
        elif one["t"] != "Div":
            yield one
        elif not _APART & set(one["c"][0][1]):
            yield from _flat(one["c"][1])


def _is_layout(cell: list[Node]) -> bool:
    """Whether a cell of a table holds what a page consists of: old ones are laid out by tables."""
    kinds = [one["t"] for one in cell]
    inner = (_is_layout(one["c"][1]) for one in cell if one["t"] == "Div")
    return "Header" in kinds or kinds.count("Para") > 2 or any(inner)


def _cells(table: list[Any]) -> Iterator[list[Node]]:
    """What is in the cells of a table, row by row."""
    yield from (cell[4] for row in _table_rows(table) for cell in row[1])


def inline(nodes: Iterable[Node]) -> str:
    """The text of parts of a paragraph, without notes, their marks and pictures."""
    return "".join(map(_inline, nodes))


def _inline(node: Node) -> str:
    kind, content = node["t"], node.get("c")
    if kind in ("Space", "SoftBreak"):
        return " "
    if kind == "LineBreak":
        return "\n"
    if kind == "Str":
        return content
    if kind in ("Code", "Math"):
        return content[1]
    if kind in _WITHOUT_TEXT:
        return ""
    if kind == "Quoted":
        return f"“{inline(content[1])}”"
    if kind == "Link":
        text = inline(content[1])
        return "" if content[2][0].startswith("#") and _MARK.fullmatch(text.strip()) else text
    # Emph, Strong and the like have a list of parts; Span and Cite have something before it.
    return inline(content[1] if kind in ("Span", "Cite") else content)


def text(blocks: Iterable[Node]) -> str:
    """The text of blocks, an empty line between them."""
    return "\n\n".join(filter(None, map(_block, blocks)))


def paragraph(text: str) -> Node:
    """The text as a block."""
    return {"t": "Para", "c": [{"t": "Str", "c": text}]}


def _block(node: Node) -> str:
    kind, content = node["t"], node.get("c")
    if kind in ("Para", "Plain"):
        return inline(content).strip()
    if kind == "Header":
        return inline(content[2]).strip()
    if kind == "LineBlock":
        return "\n".join(map(inline, content))
    if kind == "CodeBlock":
        return content[1]
    if kind == "HorizontalRule":
        return "* * *"
    if kind == "BlockQuote":
        return text(_flat(content))
    if kind == "BulletList":
        return "\n".join(f"- {_item(one)}" for one in content)
    if kind == "OrderedList":
        return "\n".join(f"{number}. {_item(one)}" for number, one in enumerate(content[1], content[0][0]))
    if kind == "DefinitionList":
        return "\n".join(f"{inline(term)}: {'; '.join(map(_item, meanings))}" for term, meanings in content)
    return _table(content) if kind == "Table" else ""


def _item(blocks: list[Node]) -> str:
    return "\n".join(filter(None, map(_block, _flat(blocks)))).replace("\n", "\n  ")


def _table(content: list[Any]) -> str:
    """A line a row, its cells parted by tabs."""
    rows = _table_rows(content)
    return "\n".join("\t".join(" ".join(_item(cell[4]).split()) for cell in row[1]) for row in rows)


def _table_rows(content: list[Any]) -> list[Any]:
    _, _, _, head, bodies, foot = content
    return [*head[1], *(row for body in bodies for row in (*body[2], *body[3])), *foot[1]]
