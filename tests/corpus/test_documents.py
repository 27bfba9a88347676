"""A block of lines to its documents: every problem of a line is named, and what is good comes through to the byte."""

import json
import random
import string
import unicodedata

import numpy as np
import pytest
from bad_input import BAD_LINES, LIMIT
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.corpus import documents, lines, records
from stages.lib.corpus.unusual import unusual_places


def record(**fields):
    return json.dumps(fields, ensure_ascii=False).encode()


def parse(content, field="text"):
    return documents.Parser(field, LIMIT).parse(lines.Block(1, content, len(content)))


def text_of(content, field="text", end=b"\n"):
    """The one text in a line, None if it is blank; raises what is wrong with it."""
    found = parse(content + end, field)
    assert found.count == 1
    assert len(found.texts) + len(found.problems) + found.blank == 1
    for problem in found.problems:
        assert problem.content == content
        raise records.BadLine(problem.kind, problem.reason)
    return None if found.blank else found.texts[0].as_py()


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
    assert text_of(json.dumps({"text": text}, ensure_ascii=ascii).encode()) == text
    assert text_of(json.dumps({"text": text}, ensure_ascii=ascii, separators=(",", ":")).encode()) == text
    assert text_of(json.dumps({"id": 1, "text": text, "tags": ["a"]}, ensure_ascii=ascii).encode()) == text


@pytest.mark.parametrize("blank", [b"", b"   ", b"\t"])
def test_a_line_with_nothing_on_it_is_blank(blank):
    assert text_of(blank) is None


@pytest.mark.parametrize(("bad", "kind", "reason"), BAD_LINES)
def test_a_bad_line_says_what_is_wrong_with_it(bad, kind, reason):
    with pytest.raises(records.BadLine) as caught:
        text_of(bad)
    assert caught.value.kind == kind
    assert reason in str(caught.value)


@pytest.mark.parametrize("bad", [b'{"text": "a', b'{"text": "a"', b'{"te', b'{"text": '])
def test_a_file_that_breaks_off_is_told_from_a_bad_line(bad):
    with pytest.raises(records.BadLine) as caught:
        text_of(bad, end=b"")
    assert caught.value.kind == "cut off"


def test_another_field_can_hold_the_text():
    assert text_of(record(body="here", text=1), field="body") == "here"
    assert text_of(record(body="here"), field="body") == "here"
    assert text_of(record(**{"текст": "здесь"}), field="текст") == "здесь"
    assert text_of(json.dumps({"текст": "здесь"}).encode(), field="текст") == "здесь"
    assert text_of(record(**{'a "b" \\n': 'здесь \n "'}), field='a "b" \\n') == 'здесь \n "'


def test_a_line_longer_than_a_block_is_known_by_its_size():
    block = lines.Block(7, b'{"text": "' + b"a" * LIMIT + b"\r\n", 123_456)
    (problem,) = documents.Parser("text", LIMIT).parse(block).problems
    assert (problem.line, problem.kind) == (7, "line too long")
    assert "has 123454 bytes" in problem.reason


def one_by_one(content, field="text"):
    """What a block holds, as the careful parser sees it: (line, text or what is wrong) of all lines but blank ones."""
    found = []
    for number, line in enumerate(content.split(b"\n")[: content.count(b"\n") + (not content.endswith(b"\n"))], 1):
        last = number > content.count(b"\n")
        windows = line.endswith(b"\r") and not last
        end = b"" if last else b"\r\n" if windows else b"\n"
        line = line[:-1] if windows else line
        try:
            text = records.text_of(records.Line(number, line, end, len(line + end)), field, LIMIT)
            if text is not None:
                records.refuse_control_characters(text)
                found.append((number, text))
        except records.BadLine as problem:
            found.append((number, (problem.kind, str(problem), line)))
    return found


def together(content, field="text"):
    found = parse(content, field)
    texts = list(zip(found.lines.tolist(), found.texts.to_pylist(), strict=True))
    assert texts == sorted(texts)
    assert [problem.line for problem in found.problems] == sorted(problem.line for problem in found.problems)
    assert found.count == content.count(b"\n") + (not content.endswith(b"\n"))
    assert found.blank == found.count - len(texts) - len(found.problems)
    assert found.windows_line_ends == content.count(b"\r\n")
    for text, unusual in zip(found.texts.to_pylist(), found.unusual.tolist(), strict=True):
        if not unusual:
            assert unicodedata.is_normalized("NFC", text)
            assert all(character.isascii() for character in text if character.isspace())
    problems = [(line, (*error, cut)) for line, *error, cut in found.problems]
    return sorted([*texts, *problems], key=lambda one: one[0])


def test_what_is_cut_out_of_a_block_is_what_the_parser_reads_line_by_line(monkeypatch):
    """Thousands of lines, good ones with a few bytes changed, in blocks of one to six."""
    drawn = random.Random(0)
    careful = set()

    def text_of(line, *how):
        careful.add((lines_seen, int(line.number)))
        return records.text_of(line, *how)

    monkeypatch.setattr(documents, "text_of", text_of)
    pieces = [b'"text"', b"text", b'"', b"\\", b"\\u0041", b"\\ud83d", b"\x7f", b"\xc2\x93", b"\xff", b"{", b"}", b":"]
    pieces += [b",", b" ", b"NaN", b"\\b", b"null", "Ё".encode(), b"\xe2\x80\xa8", b"\x00", b"\r", b"[", b"1e400"]
    pieces += [b"\xc2\xa0", b"\\n", b"\\/", b"\\t", b"\n", b"\r\n", b"e\xcc\x81", b'"}']
    letters = string.ascii_letters + "ёЖ \n\t/\\\"'\u00a0\u2003"
    lines_seen = 0
    for _ in range(6000):
        content = bytearray()
        for _ in range(drawn.randrange(1, 7)):
            text = "".join(drawn.choices(letters, k=drawn.randrange(1, 9)))
            line = bytearray(json.dumps({"text": text}, ensure_ascii=drawn.random() < 0.1).encode())
            for _ in range(max(0, drawn.randrange(-3, 3))):
                at = drawn.randrange(len(line))
                line[at : at + drawn.randrange(3)] = drawn.choice(pieces)
            content += line + drawn.choice([b"\n", b"\n", b"\r\n"])
        if drawn.random() < 0.2:
            del content[-1:]
        content = bytes(content)
        assert together(content) == one_by_one(content), content
        lines_seen += content.count(b"\n")
    assert 0.2 < len(careful) / lines_seen < 0.8


@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=5) | st.just("text"), st.text(max_size=9) | st.integers() | st.none(), max_size=3
        ),
        min_size=1,
    ),
    st.booleans(),
)
def test_any_objects_are_read_as_the_parser_reads_them(rows, ascii):
    encoded = [json.dumps(row, ensure_ascii=ascii).encode("utf-8", "surrogatepass") for row in rows]
    content = b"\n".join(encoded) + b"\n"
    assert together(content) == one_by_one(content)


@given(st.binary(min_size=1))
def test_any_bytes_are_read_as_the_parser_reads_them(noise):
    content = b'{"text": "a' + noise + b'"}\n{"text": "b"}\n'
    assert together(content) == one_by_one(content)


def test_what_needs_no_second_look_is_its_own_composition_and_no_white_space_beyond_ascii():
    """For every character of Unicode, by itself and after letters that it might combine with."""
    everything = [chr(point) for point in [*range(0xD800), *range(0xE000, 0x110000)]]
    ends = np.cumsum([len(character.encode()) for character in everything])
    places = unusual_places(np.frombuffer("".join(everything).encode(), np.uint8))
    unusual = set(np.searchsorted(ends, places, side="right").tolist())
    ordinary = [character for index, character in enumerate(everything) if index not in unusual]
    for character in ordinary:
        assert not character.isspace() or character in " \n\r"
        assert unicodedata.category(character) != "Cc" or character in "\n\r"
        for before in ("", *"aeoAоеиiuΑα<=(漢", "é", "ё"):
            assert unicodedata.is_normalized("NFC", before + character)
    letters = "абвгдеёжзийклмнопрстуфхцчшщъыьэюяabcdefghijklmnopqrstuvwxyzäöüßéèñçїєґўқ"
    assert set(letters + letters.upper() + " .,:;!?—–-…«»„“”’\"'()№€₽%0123456789🐈漢αΩ") <= set(ordinary)
