"""A block of lines to its documents: every problem of a line is named, and what is good comes through to the byte."""

import json
import random
import re
import unicodedata
from collections import Counter
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import pytest
from bad_input import BAD_LINES, LIMIT
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.corpus import documents, lines, records


def record(**fields):
    return json.dumps(fields, ensure_ascii=False).encode()


def rules(field="text", most=None):
    return documents.Rules(field, LIMIT, most)


def parse(content, field="text", number=1):
    return documents.read(rules(field), lines.Block(number, content, len(content)))


def text_of(content, field="text", end=b"\n"):
    """The one text in a line, None if it is blank; raises what is wrong with it."""
    found = parse(content + end, field)
    assert found.count == 1
    assert len(found.lines) + len(found.bad_lines) + found.blank == 1
    for problem in found.problems(rules(field)):
        assert problem.content == content
        raise records.BadLine(problem.kind, problem.reason)
    return None if found.blank else found.strings()[0].as_py()


@pytest.mark.parametrize(
    "text",
    [
        "Просто текст",
        "  spaces stay  \n",
        "tab\tand\r\nline ends",
        "<|endoftext|> is text like any other",
        "\u2028 is no line end, \x85 neither, nor \u2029",
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


@pytest.mark.parametrize(
    "bad",
    [
        b'{"text": "a',
        b'{"text": "a"',
        b'{"te',
        b'{"text": ',
        '{"text": "Ё'.encode()[:-1],
        b'{"text": "a\\u04',
        b'{"text": "a\\u',
    ],
)
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
    (problem,) = documents.read(rules(), block).problems(rules())
    assert (problem.line, problem.kind) == (7, "line too long")
    assert "has 123454 bytes" in problem.reason


def test_when_there_are_enough_bad_lines_documents_are_still_told_from_them():
    """What the message says of a file depends on whether it holds any."""
    content = b"plain\n" * 9 + b'{"text": "a\n' + record(text="good") + b"\nplain\n"
    found = documents.read(rules(most=3), lines.Block(1, content, len(content)))
    assert found.bad_lines.tolist() == [1, 2, 3]
    assert (found.lines, found.strings().to_pylist()) == ([11], ["good"])


# Against a strict reader of its own: no code of the room


class Refused(Exception):
    pass


def strict_object(pairs):
    if len({name for name, _ in pairs}) < len(pairs):
        raise Refused("a name twice")
    return dict(pairs)


def strict_constant(name):
    raise Refused(name)


LINES = rb"[^\n]*\n|[^\n]+\Z"
STRICT = json.JSONDecoder(object_pairs_hook=strict_object, parse_constant=strict_constant)


def strictly(line):
    """The text of a line, None where it is blank; raises Refused where it holds none."""
    if not line.strip(b" \t\n\r\x0b\x0c"):
        return None
    try:
        found = STRICT.decode(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(error) from None
    text = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str) or not text.strip() or len(line) > LIMIT:
        raise Refused("no text")
    for character in text:
        kind = unicodedata.category(character)
        if kind == "Cs" or (kind == "Cc" and character not in "\t\n\f\r\x85"):
            raise Refused("no text's character")
    return text


def expected(content):
    """Of all lines: the texts by line, the bad lines by number, how many are blank, and end as on Windows."""
    texts, bad, blank, windows = {}, {}, 0, 0
    for number, line in enumerate(re.findall(LINES, content), 1):
        windows += line.endswith(b"\r\n")
        line = re.sub(rb"\r?\n\Z", b"", line)
        try:
            text = strictly(line)
            blank += text is None
            if text is not None:
                texts[number] = text
        except Refused:
            bad[number] = line
    return texts, bad, blank, windows


def key(text):
    return blake2b(" ".join(unicodedata.normalize("NFC", text).split()).encode(), digest_size=16).digest()


def check(content, cuts=()):
    """What is read of a block, cut at these lines into several, is what the strict reader reads; returns how much."""
    texts, bad, blank, windows = expected(content)
    whole = re.findall(LINES, content)
    bounds = [0, *sorted({cut % (len(whole) + 1) for cut in cuts} - {0, len(whole)}), len(whole)]
    parts = [parse(b"".join(whole[start:end]), number=start + 1) for start, end in pairwise(bounds)]
    found = {line: text for part in parts for line, text in zip(part.lines, part.strings().to_pylist(), strict=True)}
    assert found == texts
    assert b"".join(part.keys for part in parts) == b"".join(map(key, texts.values()))
    problems = [problem for part in parts for problem in part.problems(rules())]
    assert {problem.line: problem.content for problem in problems} == bad
    assert list(found) == sorted(found)
    assert [problem.line for problem in problems] == sorted(problem.line for problem in problems)
    sums = [
        sum(column) for column in zip(*((one.count, one.blank, one.windows_line_ends) for one in parts), strict=True)
    ]
    assert sums == [len(whole), blank, windows]
    return len(texts), len(bad)


PIECES = [
    b'"text"',
    b"text",
    b'"',
    b"\\",
    b"\\u0041",
    b"\\ud83d",
    b"\\ude00",
    b"\x7f",
    b"\xc2\x93",
    b"\xff",
    b"{",
    b"}",
]
PIECES += [b":", b",", b" ", b"NaN", b"\\b", b"null", "Ё".encode(), b"\xe2\x80\xa8", b"\xc2\x85", b"\x00", b"\r", b"["]
PIECES += [b"]", b"1e400", b"-0", b"1" * 5000, b"\xc2\xa0", b"\\n", b"\\/", b"\\t", b"\n", b"\r\n", b"e\xcc\x81", b'"}']
PIECES += [
    b"\xef\xbb\xbf",
    b'{"text": "',
    b'"te\\u0078t": "a"',
    b', "a": {"b": 1, "b": 2}',
    b', "a": {"b": [1, "\\""]}',
]
PIECES += [b"<s>", b"\xed\xa0\xbd", b"\xe2\x80\xa9", b"\t", b'\\"', b"\\\\", b'{"text": "a"}\n']
changes = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2), st.sampled_from(PIECES)), max_size=3)
objects = st.dictionaries(
    st.just("text") | st.text(max_size=3), st.text(max_size=9) | st.integers() | st.none() | st.lists(st.text())
)


@st.composite
def blocks(draw, most):
    """Good lines, some of them with a few bytes changed, and a few more of pieces alone."""
    content = bytearray()
    for _ in range(draw(st.integers(1, most))):
        if draw(st.booleans()):
            line = bytearray(b"".join(draw(st.lists(st.sampled_from(PIECES), max_size=6))))
        else:
            made = {"text": draw(st.text('aё \n"\\é\u00a0<', min_size=1, max_size=8))} | draw(objects)
            line = bytearray(json.dumps(made, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass"))
            for place, size, piece in draw(changes):
                place %= len(line) + 1
                line[place : place + size] = piece
        content += line + draw(st.sampled_from([b"\n", b"\n", b"\r\n"]))
    return bytes(content if draw(st.booleans()) else content[:-1]) or b"\n"


@given(blocks(most=6), st.lists(st.integers(0, 9), max_size=3))
def test_every_line_is_read_as_a_strict_reader_reads_it(content, cuts):
    check(content, cuts)


def changed(drawn):
    """A line with a text and perhaps more fields, with up to three changes."""
    made = {"text": "".join(drawn.choices('aё \n"\\é\u00a0\u2028🐈/', k=drawn.randrange(1, 9)))}
    if drawn.random() < 0.3:
        made = {"id": drawn.randrange(9), **made, "tags": [{"a": 'b:"{'}, None]}
    line = bytearray(json.dumps(made, ensure_ascii=drawn.random() < 0.2).encode())
    for _ in range(max(0, drawn.randrange(-2, 4))):
        at = drawn.randrange(len(line) + 1)
        line[at : at + drawn.randrange(3)] = drawn.choice(PIECES)
    return bytes(line) + drawn.choice([b"\n", b"\n", b"\r\n"])


@pytest.mark.parametrize("count", [5000, pytest.param(150_000, marks=pytest.mark.slow)])
def test_lines_with_changes_are_read_as_a_strict_reader_reads_them(count):
    """Some half of them good, so that neither side is right by refusing all."""
    drawn, sums = random.Random(count), Counter()
    while sums["lines"] < count:
        content = b"".join(changed(drawn) for _ in range(50))
        good, bad = check(content, [drawn.randrange(50) for _ in range(3)])
        sums.update(lines=content.count(b"\n"), good=good, bad=bad)
    assert 0.3 < sums["good"] / sums["lines"] < 0.7
    assert sums["bad"] / sums["lines"] > 0.2


@pytest.mark.slow
@settings(max_examples=5000, deadline=None)
@given(blocks(most=8), st.lists(st.integers(0, 9), max_size=3))
def test_many_more_lines_are_read_as_a_strict_reader_reads_them(content, cuts):
    check(content, cuts)


@given(st.binary(min_size=1))
def test_any_bytes_are_read_as_a_strict_reader_reads_them(noise):
    check(b'{"text": "a' + noise + b'"}\n{"text": "b"}\n')


def test_processes_read_what_one_reads(monkeypatch):
    drawn, made, number = random.Random(0), [], 1
    for _ in range(9):
        content = b"".join(changed(drawn) for _ in range(200))
        made.append(lines.Block(number, content, len(content)))
        number += content.count(b"\n")
    monkeypatch.setattr(documents.parallel, "processors", lambda: 2)
    with documents.reading(rules(), documents._SMALL) as read:
        shared = list(read(made))
    with documents.reading(rules(), 0) as read:
        assert list(read(made)) == shared
    assert len(shared) == 9


def test_where_a_text_is_from_is_found_on_the_lines_that_are_asked_for(tmp_path):
    path = tmp_path / "corpus.jsonl"
    lines_of_it = [
        '{"text": "а", "source": "письма/1.txt"}',
        '{"text": "б", "source": "письма/2.txt:\\n3"}',
        '{"text": "в", "source": 5}',
        '{"text": "г"}',
        '{"source": "not asked for"}',
        "bad",
    ]
    path.write_text("\n".join(lines_of_it), encoding="utf-8")
    found = documents.sources(lines.Reader(path, 1000).again(), np.array([1, 2, 3, 4, 6]))
    assert list(found) == [(1, "письма/1.txt"), (2, r"письма/2.txt:\n3")]
