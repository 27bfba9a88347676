"""The corpus file: every problem of a line is named, and what is good comes through to the byte."""

import gzip
import json
import random
import string
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib import lines
from stages.lib.cli import UserError

LIMIT = 10_000


# Line, kind of problem, and a part of what is said of it.
BAD_LINES = [
    ('{"text": "Привет всем, кто это читает"}'.encode("cp1251"), "not UTF-8", "byte 11 (0xcf) is not UTF-8"),
    ('{"text": "Привет всем, кто это читает"}'.encode("cp1251"), "not UTF-8", "iconv -f CP1251 -t UTF-8"),
    ('{"text": "Привет всем, кто это читает"}'.encode("koi8-r"), "not UTF-8", "it looks like KOI8-R"),
    ('{"text": "Привет всем, кто это читает"}'.encode("cp866"), "not UTF-8", "it looks like CP866"),
    ('{"text": "déjà vu, señor"}'.encode("cp1252"), "not UTF-8", "find out the file's encoding"),
    (b'\xef\xbb\xbf{"text": "a"}', "byte order mark", "save the file as UTF-8 without BOM"),
    (b'{"text": "a"', "not JSON", "not JSON at column 13"),
    (b'{"text": "a', "not JSON", "a string without its closing quote"),
    (b'{"text": "a\tb"}', "not JSON", "not JSON at column 12: a tab or another control character"),
    (b"{'text': 'a'}", "single quotes", "JSON takes double quotes only"),
    (b'{"text": "a"} tail', "text after the object", "column 15: something follows the object"),
    (b'{"text": "a"}{"text": "b"}', "text after the object", "one object a line"),
    (b'{"text": "a"}\r{"text": "b"}', "not JSON", "line ends of old Macs"),
    (b"{", "not JSON", "a document over several lines"),
    (b"plain words", "not JSON", "not JSON at column 1"),
    (b'{"txt": "a", "id": 1}', "no text field", 'no field "text" (fields: txt, id): rename txt'),
    (b'{"body": "a"}', "no text field", "rename the one that holds the text, or set corpus.text_field"),
    (b"{}", "no text field", 'no field "text" (fields: none)'),
    (b'{"text": null}', "not a string", "is a JSON null"),
    (b'{"text": 3.5}', "not a string", "is a JSON number"),
    (b'{"text": true}', "not a string", "is a JSON boolean"),
    (b'{"text": ["a"]}', "not a string", "is a JSON array"),
    (b'{"text": {"a": 1}}', "not a string", "is a JSON object"),
    (b'{"text": " \\n "}', "empty text", "is empty"),
    (b'{"text": ""}', "empty text", "is empty"),
    (b'["text", "a"]', "not an object", "a JSON array, not an object"),
    (b'"text"', "not an object", "a JSON string, not an object"),
    (b'{"text": "a", "text": "b"}', "field twice", 'the field "text" stands twice'),
    (b'{"id": 1, "text": "a", "id": 2}', "field twice", 'the field "id" stands twice'),
    (b'{"text": "a", "te\\u0078t": "b"}', "field twice", 'the field "text" stands twice'),
    (b'{"text": "a", "score": NaN}', "not JSON", "NaN is not JSON"),
    (b'{"text": "a", "score": -Infinity}', "not JSON", "-Infinity is not JSON"),
    (b'{"text": "a\\u0000b"}', "control character", "U+0000 is a control character, at 2 of the text"),
    (b'{"text": "ab\x7f"}', "control character", "U+007F is a control character, at 3 of the text"),
    (b'{"text": "a\\bb"}', "control character", "U+0008"),
    ('{"text": "a\x93b"}'.encode(), "control character", "U+0093"),
    (b'{"text": "a\\ud83d"}', "lone surrogate", "surrogate pair at character 2"),
    (b"[" * 9_000, "not JSON", "nested too deep"),
    (b'{"text": "a", "n": ' + b"1" * 5000 + b"}", "not JSON", "not JSON that can be read"),
    (b'{"\\ud83d": 1}', "no text field", "(fields: \\ud83d)"),
    (b'{"text": "' + b"a" * LIMIT + b'"}', "line too long", "has 10012 bytes, but validate.max_line_bytes allows"),
]


def line(content, end=b"\n", number=1):
    """A line as the reader gives it."""
    ordinary = not len(lines.unusual_places(np.frombuffer(content, np.uint8))) and decodes(content)
    return lines.Line(number, content, end, len(content) + len(end), ordinary)


def decodes(content):
    try:
        return bool(content.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def record(**fields):
    return json.dumps(fields, ensure_ascii=False).encode()


def parse(content, field="text", end=b"\n"):
    return lines.Parser(field, LIMIT).text(line(content, end))


@pytest.mark.parametrize(
    "text",
    [
        "Просто текст",
        "  spaces stay  \n",
        "tab\tand\r\nline ends",
        "<|endoftext|> is text like any other",
        "\u2028 is no line end, \x85 neither",
        "é composed, e\u0301 not",
        "🐈 beyond the basic plane",
        '"text": "in text"',
        "back\\slash and \\u0041",
    ],
)
@pytest.mark.parametrize("ascii", [True, False])
def test_text_stays_as_it_was_written(text, ascii):
    assert parse(json.dumps({"text": text}, ensure_ascii=ascii).encode()) == text
    assert parse(json.dumps({"id": 1, "text": text, "tags": ["a"]}, ensure_ascii=ascii).encode()) == text


@pytest.mark.parametrize("blank", [b"", b"   ", b"\t"])
def test_a_line_with_nothing_on_it_is_blank(blank):
    assert parse(blank) is None


@pytest.mark.parametrize(("bad", "kind", "reason"), BAD_LINES)
def test_a_bad_line_says_what_is_wrong_with_it(bad, kind, reason):
    with pytest.raises(lines.BadLine) as caught:
        parse(bad)
    assert caught.value.kind == kind
    assert reason in str(caught.value)


@pytest.mark.parametrize("bad", [b'{"text": "a', b'{"text": "a"', b'{"te', b'{"text": '])
def test_a_file_that_breaks_off_is_told_from_a_bad_line(bad):
    with pytest.raises(lines.BadLine) as caught:
        parse(bad, end=b"")
    assert caught.value.kind == "cut off"


def test_another_field_can_hold_the_text():
    assert parse(record(body="here", text=1), field="body") == "here"
    assert parse(record(body="here"), field="body") == "here"
    assert parse(record(**{"текст": "здесь"}), field="текст") == "здесь"
    assert parse(json.dumps({"текст": "здесь"}).encode(), field="текст") == "здесь"


def outcome(parse, content):
    try:
        return parse(line(content))
    except lines.BadLine as problem:
        return problem.kind, str(problem)


def test_the_plain_way_takes_nothing_for_what_it_is_not():
    """Thousands of lines, good ones with a few bytes changed: whatever is cut out plainly, the parser reads as well."""
    drawn = random.Random(0)
    parser, plain = lines.Parser("text", LIMIT), 0
    pieces = [b'"text"', b"text", b'"', b"\\", b"\\u0041", b"\\ud83d", b"\x7f", b"\xc2\x93", b"\xff", b"{", b"}", b":"]
    pieces += [b",", b" ", b"NaN", b"\\b", b"null", "Ё".encode(), b"\xe2\x80\xa8", b"\x00", b"\r", b"[", b"1e400"]
    for _ in range(10_000):
        content = bytearray(record(text="".join(drawn.choices(string.ascii_letters + "ёЖ \n\\\"'", k=8))))
        for _ in range(drawn.randrange(4)):
            at = drawn.randrange(len(content))
            content[at : at + drawn.randrange(3)] = drawn.choice(pieces)
        content = bytes(content).replace(b"\n", b"")
        assert outcome(parser.text, content) == outcome(parser.text_with_care, content), content
        plain += parser.plain(line(content)) is not None
    assert 1000 < plain < 9000


@given(
    st.dictionaries(st.text(max_size=5) | st.just("text"), st.text(max_size=9) | st.integers() | st.none(), max_size=3)
)
def test_any_object_is_read_as_the_parser_reads_it(fields):
    parser = lines.Parser("text", LIMIT)
    for ascii in (True, False):
        content = json.dumps(fields, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
        assert outcome(parser.text, content) == outcome(parser.text_with_care, content)


def test_what_needs_no_second_look_is_its_own_composition_and_no_white_space_beyond_ascii():
    """For every character of Unicode, by itself and after letters that it might combine with."""
    ordinary = []
    for point in [*range(0xD800), *range(0xE000, 0x110000)]:
        if not len(lines.unusual_places(np.frombuffer(chr(point).encode(), np.uint8))):
            ordinary.append(chr(point))
    for character in ordinary:
        assert not character.isspace() or character in " \n\r"
        assert unicodedata.category(character) != "Cc" or character in "\n\r"
        for before in ("", *"aeoAоеиiuΑα<=(漢", "é", "ё"):
            assert unicodedata.is_normalized("NFC", before + character)
    letters = "абвгдеёжзийклмнопрстуфхцчшщъыьэюяabcdefghijklmnopqrstuvwxyzäöüßéèñçїєґўқ"
    assert set(letters + letters.upper() + " .,:;!?—–-…«»„“”’\"'()№€₽%0123456789🐈漢αΩ") <= set(ordinary)


# Files


def read(path, limit=LIMIT):
    return list(lines.Reader(path, limit))


def test_lines_end_as_they_end_in_the_file(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"one\ntwo\r\n\nfour\xe2\x80\xa8\x85\x0bstill four\nfive")
    found = read(path)
    assert [one.content for one in found] == [b"one", b"two", b"", b"four\xe2\x80\xa8\x85\x0bstill four", b"five"]
    assert [one.end for one in found] == [b"\n", b"\r\n", b"\n", b"\n", b""]
    assert sum(one.size for one in found) == path.stat().st_size


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("length", [9, 10, 11, 12, 13, 25, 100])
@pytest.mark.parametrize("block", [5, 8, 1000])
def test_a_line_too_long_is_never_held_whole(tmp_path, monkeypatch, block, length, end):
    monkeypatch.setattr(lines, "_BLOCK", block)
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"{}\n" + b"a" * length + end + (b"next\n{}" if end else b""))
    before, long, *rest = read(path, 10)
    assert before.content == b"{}"
    assert (long.size, long.end) == (length + len(end), end)
    assert len(long.content) <= 13 + block
    assert [(one.number, one.content) for one in rest] == ([(3, b"next"), (4, b"{}")] if end else [])
    if length <= 10:
        assert long.content == b"a" * length
    else:
        with pytest.raises(lines.BadLine, match=f"has {length} bytes"):
            lines.Parser("text", 10).text(long)


@given(st.lists(st.sampled_from([b"a", b"", b"bc\r", "Ё".encode(), b"\xff", b"\x7f", b"0" * 30])), st.integers(2, 9))
def test_lines_are_the_same_whatever_is_read_at_once(parts, block):
    content = b"\n".join(parts)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "corpus.jsonl"
        path.write_bytes(b"{}\n" + content)
        whole = read(path)
        patch.setattr(lines, "_BLOCK", block)
        pieces = read(path)
    expected = content.split(b"\n")
    expected = expected[: len(expected) - (expected[-1] == b"")]
    assert [one.content + one.end.replace(b"\n", b"") for one in whole[1:]] == expected
    assert [one[:4] for one in pieces] == [one[:4] for one in whole]
    assert sum(one.size for one in whole) == 3 + len(content)
    for one in whole:
        if one.ordinary:
            assert b"\x7f" not in one.content
            assert b"\xff" not in one.content


def pack(path, data):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data[:50]) + gzip.compress(data[50:]))
    else:
        with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as file:
            file.write(data)


@pytest.mark.parametrize("name", ["corpus.jsonl.gz", "corpus.jsonl.zst"])
def test_a_compressed_file_has_the_lines_it_had(tmp_path, name):
    plain = tmp_path / "corpus.jsonl"
    plain.write_bytes(b"".join(record(text=f"текст {number}") + b"\n" for number in range(50_000)))
    pack(tmp_path / name, plain.read_bytes())
    assert read(tmp_path / name) == read(plain)


@pytest.mark.parametrize("name", ["corpus.jsonl.gz", "corpus.jsonl.zst"])
def test_a_compressed_file_that_breaks_off_is_one_line(tmp_path, name):
    path = tmp_path / name
    pack(path, b"".join(record(text=f"текст {number}") + b"\n" for number in range(10_000)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(path)
    path.write_bytes(b"not compressed at all\n" * 10)
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(path)


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16LE"), ("utf-16-be", "UTF-16BE")],
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
    with pytest.raises(UserError, match="is one JSON array, not a document a line: jq -c"):
        read(path)


def test_an_empty_file_has_no_lines(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.touch()
    assert read(path) == []


def test_a_folder_or_nothing_at_all_is_one_line(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        lines.size(tmp_path)
    with pytest.raises(UserError, match="is not there"):
        lines.size(tmp_path / "corpus.jsonl")
