"""What is refused where no file of the other tests comes by, each with the line that says why."""

import errno
import os
import sys
from types import SimpleNamespace

import pytest
from archives import tarred, zipped

from stages.lib.common.cli import UserError
from tools.collect import pandoc, sources
from tools.collect.account import LONGEST, Account, Tally
from tools.collect.collection import _undamaged
from tools.collect.documents import Document, Unreadable, Wishes

pytest_plugins = ["collecting"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--size", "99"), "--size 99: pieces have at least 100 characters"),
        (("--pause", "-1"), "--pause -1: hours, from 0 on; inf for no pause at all"),
        (("--pause", "nan"), "--pause nan: hours, from 0 on; inf for no pause at all"),
        (("--mark", ""), "--mark is empty: give it what stands between the documents"),
    ],
)
def test_an_option_that_makes_no_sense(refused, tmp_path, options, expected):
    (tmp_path / "a.txt").write_text("Кот.", encoding="utf-8")
    assert refused("a.txt", *options) == expected


def test_a_source_that_is_no_file(refused, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert refused("pipe") == "pipe is neither a file nor a folder"


@pytest.fixture
def few(monkeypatch):
    """Where a source may have one file, and a file of ten bytes be read at once."""
    monkeypatch.setattr(sources, "MANY", 1)
    monkeypatch.setattr(sources.File.whole, "__defaults__", (10,))


def test_a_folder_of_too_many_files(few, refused, tmp_path):
    (tmp_path / "texts").mkdir()
    for name in ("a", "b"):
        (tmp_path / "texts" / name).write_text("Кот.", encoding="utf-8")
    assert refused("texts") == "texts has more than 1 files: name parts of it"


def test_an_archive_of_too_many_files(few, refused, tmp_path):
    (tmp_path / "a.tar").write_bytes(tarred({"a": b"a", "b": b"b"}))
    assert refused("a.tar") == "a.tar has more than 1 files"


def test_a_file_too_large_to_be_read_at_once(few, tmp_path):
    (tmp_path / "a").write_bytes(bytes(11))
    (file,) = sources.files_of(tmp_path / "a", tmp_path)
    with pytest.raises(Unreadable, match=r"^a has more than 0 MiB, too many to be read at once: divide it$"):
        file.whole()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"7z\xbc\xaf\x27\x1c", "a is packed with 7-Zip: unpack it"),
        (b"Rar!", "a is packed with RAR: unpack it"),
        (b'{"about": "", "chats": {"list": []}}', "a looks like Telegram's export, but has no chats: tick them when"),
        (
            b"MIME-Version: 1.0\r\nContent-Type: text/html\r\n\r\n=D0=9F",
            "a is a letter, or a page saved as mail is: save",
        ),
        (b"1\r\n00:00:01,000 --> 00:00:02,500\r\nHello\r\n", "a holds subtitles: save what is said as text, without"),
        (zipped({"mimetype": b"application/vnd.oasis.opendocument.spreadsheet"}), "a is no text of LibreOffice's: a"),
        (zipped({"ppt/presentation.xml": b"<p/>"}), "a is a presentation: save it as text, or as .docx"),
        (bytes(range(128, 256)) * 4, "a is in an encoding that was not found out: --encoding names it"),
    ],
)
def test_a_file_of_which_nothing_can_be_made(refused, tmp_path, content, expected):
    (tmp_path / "a").write_bytes(content)
    assert refused("a").startswith(expected)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "a may not be read by this user"),
        (
            NotImplementedError("no deflate64"),
            r"a is packed in a way that is not known here \(no deflate64\): unpack it",
        ),
    ],
)
def test_a_file_that_cannot_be_opened_is_left_out_among_others(error, expected):
    with pytest.raises(Unreadable, match=f"^{expected}$"), _undamaged("a"):
        raise error


def test_a_workbook_that_is_none(refused, tmp_path, monkeypatch):
    def load_workbook(*given, **how):
        raise KeyError("no sheet")

    monkeypatch.setitem(sys.modules, "openpyxl", SimpleNamespace(load_workbook=load_workbook))
    (tmp_path / "a.xlsx").write_bytes(zipped({"xl/workbook.xml": b""}))
    assert refused("a.xlsx") == "a.xlsx is a damaged workbook: 'no sheet'"


def test_what_asks_for_more_memory_than_there_is():
    with pytest.raises(Unreadable, match=r"^a is damaged, or takes more memory than there is$"), _undamaged("a"):
        raise MemoryError


def test_a_document_too_long_for_a_line():
    tally = Tally("texts", "files")
    assert Account(Wishes()).write(Document("a" * (LONGEST + 1)), tally) is None
    assert tally.left == {"too long for a line of the corpus: --by size divides them": 1}


def test_a_chat_in_which_nobody_writes(refused, tmp_path):
    (tmp_path / "a.json").write_text('{"name": "A", "type": "personal_chat", "id": 1, "messages": []}')
    assert refused("a.json").endswith("in it write nobody")


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("sleep 9", "a was given up: pandoc had not read it after 0.1 seconds"),
        ("echo no book >&2; exit 1", "a is a book that pandoc cannot read: no book"),
        ("exit 251", "a is a book that pandoc cannot read: it needs too much memory"),
    ],
)
def test_what_pandoc_does_not_read(tmp_path, monkeypatch, script, expected):
    stand_in = tmp_path / "pandoc"
    stand_in.write_text(f"#!/bin/sh\n{script}\n")
    stand_in.chmod(0o755)
    monkeypatch.setitem(sys.modules, "pypandoc", SimpleNamespace(get_pandoc_path=lambda: str(stand_in)))
    monkeypatch.setattr(pandoc, "_SECONDS", 0.1 if "sleep" in script else 60)
    with pytest.raises(UserError) as error:
        pandoc.tree(b"", "docx", "a", "a book")
    assert str(error.value) == expected


CHAT = (
    "[01.02.2024, 10:00:00] Анна Петрова: Привет\n[01.02.2024, 10:01:00] Boris: Да\n[01.02.2024, 10:02:00] Boris: Нет\n"
)


def test_all_that_is_in_the_way_of_a_folder_is_said_at_once(collect, tmp_path, monkeypatch):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("Кот.", encoding="utf-8")
    for name in ("мой чат.txt", "чат.txt"):
        (folder / name).write_text(CHAT * 3, encoding="utf-8")
    for name in ("книга 1.fb2", "книга 2.fb2"):
        (folder / name).write_text("<FictionBook><body><p>Жил.</p></body></FictionBook>", encoding="utf-8")
    (folder / "~$письмо.docx").write_bytes(b"\x05Anna")
    monkeypatch.setitem(sys.modules, "pypandoc", None)
    with pytest.raises(UserError) as error:
        collect("texts")
    package, chat = str(error.value).split("\n")
    assert package.startswith('"texts/книга 1.fb2" is an FB2 book, which takes one more package: python -m pip')
    assert chat.startswith('"texts/мой чат.txt" is a chat: --mine NAME')
    assert chat.endswith('in it write Boris (6), "Анна Петрова" (3)')
    for path in folder.glob("*.fb2"):
        path.unlink()
    assert "left out: 1 hidden files" in collect("texts", "--mine", "Анна Петрова").said
