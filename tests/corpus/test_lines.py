"""The corpus file: its lines come as they stand there, whatever is read at once, packed or not."""

import errno
import gzip
import json
import os
import re
import socket
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.common.cli import UserError
from stages.lib.corpus import documents, lines
from stages.lib.corpus.places import Places

LIMIT = 10_000


def read(path, limit=LIMIT):
    """The content of the file as it came, after a look at the numbers and sizes of its blocks."""
    number, size, content = 1, 0, b""
    for block in lines.Reader(path, limit):
        assert block.number == number
        assert block.size >= len(block.content)
        assert block.content.endswith(b"\n") or size + block.size == path.stat().st_size
        number += block.content.count(b"\n")
        size += block.size
        content += block.content
    return content


def test_lines_end_as_they_end_in_the_file(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"one\ntwo\r\n\nfour\xe2\x80\xa8\x85\x0bstill four\nfive")
    assert read(path) == path.read_bytes()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("length", [9, 10, 11, 12, 13, 25, 100])
@pytest.mark.parametrize("block", [5, 8, 1000])
def test_a_line_too_long_is_never_held_whole(tmp_path, monkeypatch, block, length, end):
    monkeypatch.setattr(lines, "_BLOCK", block)
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"{}\n" + b"a" * length + end + (b"next\n{}" if end else b""))
    blocks = list(lines.Reader(path, 10))
    assert sum(one.size for one in blocks) == path.stat().st_size
    assert max(len(one.content) for one in blocks) <= 13 + max(block, 2 * block if block < 1000 else 1000)
    rules = documents.Rules("text", 10)
    problems = [problem for one in blocks for problem in documents.read(rules, one).problems(rules)]
    (said,) = [problem.reason for problem in problems if problem.line == 2]
    assert (f"has {length} bytes" in said) == (length > 10)
    after = [(problem.line, problem.content) for problem in problems if problem.line > 2]
    assert after == ([(3, b"next"), (4, b"{}")] if end else [])


@given(st.lists(st.sampled_from([b"a", b"", b"bc\r", "Ё".encode(), b"\xff", b"\x7f", b"0" * 30])), st.integers(2, 9))
def test_lines_are_the_same_whatever_is_read_at_once(parts, block):
    content = b"{}\n" + b"\n".join(parts)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "corpus.jsonl"
        path.write_bytes(content)
        patch.setattr(lines, "_BLOCK", block)
        assert read(path) == content


def pack(path, data):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data[:50]) + gzip.compress(data[50:]))
    else:
        with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as file:
            file.write(data)


@pytest.mark.parametrize("name", ["corpus.jsonl.gz", "corpus.jsonl.zst"])
def test_a_compressed_file_has_the_lines_it_had(tmp_path, name):
    plain = tmp_path / "corpus.jsonl"
    plain.write_bytes(b"".join(json.dumps({"text": f"текст {number}"}).encode() + b"\n" for number in range(50_000)))
    pack(tmp_path / name, plain.read_bytes())
    assert read(tmp_path / name) == read(plain)


@pytest.mark.parametrize("name", ["corpus.jsonl.gz", "corpus.jsonl.zst"])
def test_a_compressed_file_that_breaks_off_is_one_line(tmp_path, name):
    path = tmp_path / name
    pack(path, b"".join(json.dumps({"text": f"текст {number}"}).encode() + b"\n" for number in range(10_000)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(path)
    path.write_bytes(b"not compressed at all\n" * 10)
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be unpacked \(without a byte\): it is damaged, or "):
        read(path)


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16LE"), ("utf-16-be", "UTF-16BE"), ("utf-32", "UTF-32")],
)
def test_utf_16_is_told_from_the_first_bytes(tmp_path, encoding, named):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes('{"text": "Привет"}\n{"text": "Пока"}\n'.encode(encoding))
    with pytest.raises(UserError, match=f"is {named}, not UTF-8: convert it with iconv -f {named} -t UTF-8"):
        read(path)


@pytest.mark.parametrize(
    "content", ['[{"text": "a"}]', '\n  [\n{"text": "a"},\n{"text": "b"}\n]\n', '\ufeff[{"text": 1}]']
)
def test_a_json_array_is_told_from_lines(tmp_path, content):
    path = tmp_path / "corpus.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"is one JSON array, not a document a line: python -m tools\.collect"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.jsonl",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500),
            "a file of an old Word or Excel: save it as .docx",
        ),
        ("a.jsonl", b"SQLite format 3\0" + bytes(500), "an SQLite database: take its texts out as CSV"),
        ("a.jsonl", b"notes.txt" + bytes(248) + b"ustar\00000" + bytes(500), "a tar archive: python -m tools.collect"),
        (
            "a.jsonl.gz",
            gzip.compress(gzip.compress(b'{"text": "a"}\n', mtime=0), mtime=0),
            "packed twice: unpack it once",
        ),
    ],
)
def test_what_is_no_text_is_named_for_what_it_is(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is {said}"):
        read(tmp_path / name)


def test_bytes_without_meaning_are_no_utf_16(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(bytes(1000) + b"\n")
    assert read(tmp_path / "a.jsonl") == bytes(1000) + b"\n"


def test_a_line_of_nothing_but_carriage_returns_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "_BLOCK", 8)
    (tmp_path / "a.jsonl").write_bytes(b"{}\n" + b"\r" * 100 + b"a")
    found = [documents.read(documents.Rules("text", 10), block) for block in lines.Reader(tmp_path / "a.jsonl", 10)]
    assert sum(one.count for one in found) == 2


def test_a_folder_that_cannot_be_looked_into_is_not_left_out(tmp_path, monkeypatch):
    folder_of(tmp_path, a__a_jsonl=b"{}\n", b__b_jsonl=b"{}\n")
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "b":  # as for another user: for root no folder is closed
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="b"):
        lines.size(tmp_path)


def test_an_empty_file_has_no_lines(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.touch()
    assert read(path) == b""


def test_nothing_at_all_is_one_line(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        lines.size(tmp_path / "corpus.jsonl")


# A folder


def folder_of(path, **contents):
    for name, content in contents.items():
        file = path / name.replace("__", "/").replace("_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in lines.COMPRESSED:
            pack(file, content)
        else:
            file.write_bytes(content)
    return path


def test_the_lines_of_a_folder_are_those_of_its_files_in_the_order_of_their_names(tmp_path):
    contents = {
        "b_jsonl": b"3\n\n5",  # no line end at the end
        "a__z_jsonl_gz": b"1\r\n2\n",
        "c_jsonl": b"",
        "d_jsonl_zst": b"6\n",
        "_hidden_jsonl": b"no\n",
        "_git__also_jsonl": b"no\n",
    }
    folder = folder_of(tmp_path, **contents)
    reader = lines.Reader(folder, LIMIT)
    found = [(block.number, block.content) for block in reader]
    assert found == [(1, b"1\r\n2\n"), (3, b"3\n\n"), (5, b"5"), (6, b"6\n")]
    assert [reader.places.full(number) for number in range(1, 7)] == [
        f"{folder}/{place}"
        for place in (
            "a/z.jsonl.gz, line 1",
            "a/z.jsonl.gz, line 2",
            "b.jsonl, line 1",
            "b.jsonl, line 2",
            "b.jsonl, line 3",
            "d.jsonl.zst, line 1",
        )
    ]
    assert reader.position == lines.size(folder)
    reader.places.write(tmp_path / "files.tsv")
    read = Places.read(tmp_path / "files.tsv")
    assert [read.full(number) for number in range(1, 7)] == [reader.places.full(number) for number in range(1, 7)]
    assert read.short(4) == f"{folder}/b.jsonl:2"
    (tmp_path / "sources.tsv").write_text("line\tsource\n4\tписьма/о море.txt:7\n", encoding="utf-8")
    read = Places.read(tmp_path / "files.tsv", tmp_path / "sources.tsv")
    assert (read.short(3), read.short(4)) == (f"{folder}/b.jsonl:1", "письма/о море.txt:7")


def test_one_file_needs_no_name_in_front_of_its_lines(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"1\n2\n")
    reader = lines.Reader(path, LIMIT)
    list(reader)
    assert (reader.places.full(2), reader.places.short(2)) == (f"{path}, line 2", "2")


@given(
    st.lists(st.lists(st.sampled_from([b"a", b"", b"0" * 30]), max_size=4), min_size=1, max_size=5), st.integers(2, 9)
)
def test_every_line_of_every_file_is_counted_once(files, block):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        expected = []
        for number, parts in enumerate(files):
            file = folder / f"{number}.jsonl"
            file.write_bytes(b"\n".join(parts))
            expected += [(f"{file}, line {at}", line) for at, line in enumerate(file.read_bytes().splitlines(), 1)]
        patch.setattr(lines, "_BLOCK", block)
        reader = lines.Reader(folder, 20)
        found = {}
        for one in reader:
            for number, line in enumerate(one.content.splitlines(), one.number):
                found[number] = line
        assert list(found) == list(range(1, len(expected) + 1))
        assert [(reader.places.full(number), line[:20]) for number, line in found.items()] == [
            (place, line[:20]) for place, line in expected
        ]


def test_another_kind_of_file_in_the_folder_is_not_left_out_in_silence(tmp_path):
    folder_of(tmp_path, a_jsonl=b"{}\n", notes_md=b"# Notes\n")
    with pytest.raises(
        UserError, match=r"notes\.md is none of \.jsonl, \.jsonl\.gz, \.jsonl\.zst, and all files of .* are the corpus"
    ):
        lines.size(tmp_path)


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    # By a short name: a socket's path has some hundred bytes at most.
    with socket.socket(socket.AF_UNIX) as made, pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        made.bind(path.name)


def link_to(target):
    def make(path):
        path.symlink_to(target)

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (make_pipe, "is a named pipe, not a file: put the texts themselves there"),
        (make_socket, "is a socket, not a file"),
        (link_to("/dev/null"), "is a device, not a file"),
        (link_to("nowhere"), "is "),
    ],
)
def test_what_is_no_file_is_one_line_and_nothing_waits_for_it(tmp_path, make, said):
    path = tmp_path / "corpus.jsonl"
    make(path)
    with pytest.raises(UserError, match=re.escape(f"{path} {said}")):
        lines.size(path)
    with pytest.raises(UserError, match=re.escape(f"{path} {said}")):
        lines.size(tmp_path)


def test_a_link_to_a_folder_in_the_folder_is_not_left_out_in_silence(tmp_path):
    folder_of(tmp_path, a_jsonl=b"{}\n", _elsewhere__b_jsonl=b"{}\n")
    (tmp_path / "more").symlink_to(tmp_path / ".elsewhere")
    with pytest.raises(UserError, match="more is a link to a folder, not a file"):
        lines.size(tmp_path)


def test_a_folder_with_nothing_in_it_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no file: put your texts there, as"):
        lines.size(tmp_path)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 100])
@pytest.mark.parametrize("block", [4, 9, 1000])
def test_so_many_lines_are_read_as_are_wanted_through_all_files(tmp_path, monkeypatch, count, block):
    monkeypatch.setattr(lines, "_BLOCK", block)
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": 2}\n\n{"a": 4}')
    (tmp_path / "b.jsonl").write_bytes(b'{"b": 1}\n{"b": 2}\n')
    reader = lines.Reader(tmp_path, LIMIT, count)
    found = [line for one in reader for line in one.content.removesuffix(b"\n").split(b"\n")]
    assert found == [b'{"a": 1}', b'{"a": 2}', b"", b'{"a": 4}', b'{"b": 1}', b'{"b": 2}'][:count]
    reader.refuse_changes()


def test_a_line_too_long_is_known_by_its_size_where_it_is_the_last_one_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "_BLOCK", 1000)
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"a\n" + b"b" * 3 * LIMIT + b"\nc\n")
    _, (number, content, size) = lines.Reader(path, LIMIT, 2)
    assert (number, size) == (2, 3 * LIMIT + 1)
    assert len(content) < size
