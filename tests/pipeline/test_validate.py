"""Validation and tokenization as users run them: bad corpora, kills, full disks, and sums that come out."""

import bz2
import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pytest
from bad_input import BAD_LINES
from conftest import OWN_SPLITS, Inside, Project, copy_project, environment, lines_of, many_texts
from pyarrow import parquet

from stages import validate
from stages.lib.common import files
from stages.lib.common.cli import UserError
from stages.lib.corpus import documents, formats, lines, splits
from stages.lib.corpus.places import Places

GOOD = ['{"text": "Первый хороший документ."}', '{"text": "Второй хороший документ."}', '{"text": "Третий."}']
ALL_TO_TRAIN = {"validate__validation_fraction": "0.0", "validate__test_fraction": "0.0"}


def data_project(folder, tiny_base):
    """A project with a tiny base in place, where only the data stages are of interest."""
    made = copy_project(folder)
    for name in ("model/embedded", "model/base"):
        shutil.rmtree(made.path(name), ignore_errors=True)
        shutil.copytree(tiny_base, made.path(name))
    made.set(tokenize__max_length="48", **OWN_SPLITS)
    return made


@pytest.fixture(scope="module")
def shared(tmp_path_factory, tiny_base):
    """For tests that put a corpus of their own in place and look at what a stage says of it."""
    made = data_project(tmp_path_factory.mktemp("shared") / "project", tiny_base)
    made.set(**ALL_TO_TRAIN)
    return Inside(made.folder, **made.env)


@pytest.fixture
def project(tmp_path, tiny_base):
    made = data_project(tmp_path / "project", tiny_base)
    return Inside(made.folder, **made.env)


def write(project, content: bytes, name="data/my_corpus.jsonl"):
    project.path(name).write_bytes(content)


def outputs(project):
    names = ("data/validated", "logs/validate.json", "logs/lengths.tsv", "data/tokens")
    return {name: files.sha256_of_tree(project.path(name)) for name in names if project.path(name).exists()}


# Bad input


@pytest.mark.parametrize(("bad", "kind", "reason"), [case for case in BAD_LINES if len(case[0]) < 9_000])
def test_a_bad_line_stops_the_stage_with_its_number(shared, bad, kind, reason):
    before = outputs(shared)
    write(shared, "\n".join(GOOD[:2]).encode() + b"\n\n" + bad + b"\n" + GOOD[2].encode() + b"\n")
    error = shared.fails("python", "-m", "stages.validate")
    first, named, *rest = error.splitlines()
    assert first.startswith("error: 1 bad line in data/my_corpus.jsonl: mend them, or set validate.on_error: skip")
    assert named.startswith("data/my_corpus.jsonl, line 4: ")
    assert reason in named
    assert rest == []
    assert outputs(shared) == before


WHOLE_FILES = {
    "utf-16": ("\n".join(GOOD).encode("utf-16"), "data/my_corpus.jsonl is UTF-16, not UTF-8: convert it with iconv"),
    "array": (("[" + ",\n".join(GOOD) + "]").encode(), "is one JSON array, not a document a line: python -m"),
    "bom": (b"\xef\xbb\xbf" + GOOD[0].encode() + b"\n", "line 1: starts with a byte order mark (BOM)"),
    "cp1251": ("\n".join(GOOD).encode("cp1251"), "line 1: byte 11 (0xcf) is not UTF-8; it looks like CP1251"),
    "cut off": ("\n".join(GOOD).encode()[:-9], "line 3: not JSON at column 10: the file ends in the middle"),
    "empty": (b"", "data/my_corpus.jsonl holds no document: put your texts into it"),
    "blank": (b"\n\n  \n", "data/my_corpus.jsonl holds no document: put your texts into it"),
    "pretty": (b'{\n  "text": "a"\n}\n', "line 1: not JSON at column 2: a document over several lines: python"),
    "gzip": (
        gzip.compress(GOOD[0].encode()),
        "data/my_corpus.jsonl is packed with gzip: have its name end in .jsonl.gz",
    ),
    "word": (
        b"PK\x03\x04 and so on",
        "data/my_corpus.jsonl is a ZIP archive, as .docx, .xlsx and .epub are: python -m tools.collect data/my_corpus",
    ),
    "wrapper": (
        b'{\n  "version": "1.0",\n  "data": [\n    {\n      "text": "a"\n    }\n  ]\n}\n',
        'is one JSON object with an array "data", not a document a line: python -m tools.collect data/my_corpus',
    ),
    "wrapper in one line": (
        b'{"data": [{"text": "a"}, {"text": "b"}]}\n',
        'line 1: one object with an array of documents, "data": python -m tools.collect FILE --output NEW.jsonl makes',
    ),
    "chat": (
        b'{"messages": [{"role": "user", "content": "a"}], "id": 1}\n' * 50,
        "line 1: the turns of a chat, not one text: python -m tools.collect FILE --output NEW.jsonl makes a corpus of "
        "it; 49 more bad lines",
    ),
    "ShareGPT": (
        b'{"conversations": [{"from": "human", "value": "a"}]}\n' * 500,
        "python -m tools.collect FILE --output NEW.jsonl makes a corpus of it; at least 99 more bad lines",
    ),
    "another field": (b'{"body": "a"}\n' * 500, "(fields: body): rename the one that holds the text, or set"),
    "plain text": ("Глава 1\n\nОднажды утром.\n".encode() * 50, "data/my_corpus.jsonl is plain text, not JSON Lines: "),
    "table": (b'id;text\n1;"a"\n2;"b"\n' * 50, "data/my_corpus.jsonl is a table (CSV), not JSON Lines: python -m"),
    "not UTF-8 everywhere": (
        "\n".join(['{"text": "in English"}', GOOD[0]] * 30).encode("cp1251"),
        "line 2: byte 11 (0xcf) is not UTF-8; it looks like CP1251",
    ),
    "plain text not in UTF-8": (
        "Chapter 1\nОднажды утром.\n".encode("cp1251") * 50,
        "line 2: byte 1 (0xce) is not UTF-8; it looks like CP1251",
    ),
    "old mac": ("\r".join(GOOD).encode(), ": line ends of old Macs: convert them with tr"),
}


@pytest.mark.parametrize("case", WHOLE_FILES)
def test_a_file_that_is_no_json_lines_is_named_for_what_it_is(shared, case):
    content, expected = WHOLE_FILES[case]
    before = outputs(shared)
    write(shared, content)
    error = shared.fails("python", "-m", "stages.validate")
    assert expected in error
    assert len(error.splitlines()) <= (1 if content.count(b"\n") >= 20 else 5)
    assert outputs(shared) == before


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"\x28\xb5\x2f\xfd", "packed with zstd: have its name end in .jsonl.zst"),
        (b"BZh91AY", "packed with bzip2: python -m tools.collect a --output"),
        (b"\xfd7zXZ\0", "packed with xz: python -m tools.collect a --output"),
        (b"%PDF-1.7", "a PDF: take its text out with pdftotext"),
        (b"PAR1", "Parquet: python -m tools.collect a --output"),
        (b"ARROW1\0\0", "an Arrow file: python -m tools.collect a --output"),
        (b"{\\rtf1", "RTF: python -m tools.collect a --output"),
        (b"<!DOCTYPE html>", "a page or book with markup (HTML, FB2, XML), not JSON Lines: python -m tools.collect"),
        ("A cat".encode("utf-16-le"), "UTF-16LE, not UTF-8: convert it with iconv -f UTF-16LE"),
        ("A cat".encode("utf-16-be"), "UTF-16BE, not UTF-8: convert it with iconv -f UTF-16BE"),
    ],
)
def test_what_a_file_is_is_told_from_how_it_begins(start, expected):
    with pytest.raises(UserError) as refused:
        formats.refuse(Path("a"), start)
    assert str(refused.value).startswith(f"a is {expected}")


def in_parquet(**columns):
    made = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), made)
    return made.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (WHOLE_FILES["array"][0], ["Первый хороший документ.", "Второй хороший документ.", "Третий."]),
        (WHOLE_FILES["wrapper"][0], ["a"]),
        (WHOLE_FILES["wrapper in one line"][0], ["a", "b"]),
        (WHOLE_FILES["pretty"][0] * 2, ["a", "a"]),
        (
            b'{"messages": [{"role": "me", "content": "a"}, {"role": "you", "content": "b"}]}\n' * 2,
            2 * ["me: a\nyou: b"],
        ),
        (b'{"turns": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}\n', ["user: a\nassistant: b"]),
        ("Глава\n1\n\nДень.\n".encode(), ["Глава\n1", "День."]),
        ('id,text\n1,"a, ""b""\nc"\n2,ё\n'.encode(), ['a, "b"\nc', "ё"]),
        ("\ufeffid;text\r\n1;a\r\n".encode(), ["a"]),
        (b"text\tid\na\t1\n", ["a"]),
        (in_parquet(text=["Ёж", "\u2028"], id=[1, 2]), ["Ёж"]),
        (bz2.compress("\n".join(GOOD).encode()), ["Первый хороший документ.", "Второй хороший документ.", "Третий."]),
    ],
)
def test_the_command_in_a_message_makes_a_corpus_that_is_taken(shared, tmp_path, content, texts):
    write(shared, content)
    error = shared.fails("python", "-m", "stages.validate")
    (command,) = re.findall(r"(python -m tools\.collect \S+ (?:--\w+ \w+ )?--output) NEW.jsonl", error)
    made = tmp_path / "made.jsonl"
    shared.ok("sh", "-c", f"{command.replace('FILE', 'data/my_corpus.jsonl')} {made} --force")
    assert [json.loads(line)["text"] for line in made.read_text(encoding="utf-8").splitlines()] == texts
    write(shared, made.read_bytes())
    shared.ok("python", "-m", "stages.validate")


def test_after_a_hundred_bad_lines_no_more_are_looked_for(shared):
    content = GOOD[0].encode() + b"\n" + b"{}\n[]\n" * 60
    write(shared, content)
    error = shared.fails("python", "-m", "stages.validate")
    first, *named, last = error.splitlines()
    assert first.startswith("error: at least 100 bad lines in data/my_corpus.jsonl: mend them, or set")
    assert len(named) == 20
    assert last == "... and at least 80 more; by kind: 50 no text field, 50 not an object"
    shared.set(validate__on_error="skip")
    shared.ok("python", "-m", "stages.validate")
    assert shared.json("logs/validate.json")["rejected"] == 120
    shared.set(validate__on_error="fail")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="only Linux tells a process's peak like this")
def test_bad_lines_take_no_memory(shared):
    """Some 85 MB are the libraries. Keeping exceptions took 170 for these lines, and going back 250 for the blanks."""
    blank = b'{"text": "' + b"\xc2\xa0 " * 1_000_000 + b'"}\n' + b"\n" * 1_000_000
    write(shared, GOOD[0].encode() + b"\n" + b"{\n" * 50_000 + blank)
    shared.set(validate__on_error="skip")
    show_peak = "from stages import validate; validate.main(); print(open('/proc/self/status').read())"
    output = shared.ok("python", "-c", show_peak)
    shared.set(validate__on_error="fail")
    assert int(re.search(r"VmHWM:\s*(\d+) kB", output)[1]) < 200_000
    figures = shared.json("logs/validate.json")
    assert (figures["rejected"], figures["blank"]) == (50_001, 1_000_000)


def test_a_line_longer_than_allowed_stops_the_stage(project):
    project.set(validate__max_line_bytes="1000")
    write(project, GOOD[0].encode() + b'\n{"text": "' + b"a" * 5000 + b'"}\n')
    error = project.fails("python", "-m", "stages.validate")
    assert "line 2: has 5012 bytes, but validate.max_line_bytes allows 1000" in error


def test_a_missing_corpus_and_an_empty_folder_are_one_line(project):
    project.path("data/my_corpus.jsonl").unlink()
    assert "data/my_corpus.jsonl is not there" in project.fails("python", "-m", "stages.validate")
    project.path("data/my_corpus.jsonl").mkdir()
    assert "data/my_corpus.jsonl holds no file" in project.fails("python", "-m", "stages.validate")


def test_a_bad_line_in_a_folder_is_named_by_its_file(project):
    project.path("data/texts/more").mkdir(parents=True)
    write(project, "\n".join(GOOD[:2]).encode(), "data/texts/b.jsonl")
    write(project, gzip.compress(GOOD[2].encode() + b"\n{bad}\n"), "data/texts/more/c.jsonl.gz")
    project.set(corpus__path="data/texts", **ALL_TO_TRAIN)
    error = project.fails("python", "-m", "stages.validate")
    assert "error: 1 bad line in data/texts: " in error
    assert "data/texts/more/c.jsonl.gz, line 2: not JSON" in error
    project.set(validate__on_error="skip")
    output = project.ok("python", "-m", "stages.validate")
    assert "the shortest: 7 characters, line data/texts/more/c.jsonl.gz:1" in output
    (rejected,) = project.path("data/validated/rejected.jsonl").read_text("utf-8").splitlines()
    assert {"line": 4, "place": "data/texts/more/c.jsonl.gz, line 2", "content": "{bad}"}.items() <= json.loads(
        rejected
    ).items()
    assert project.json("logs/validate.json")["lines"] == 4


def test_a_damaged_archive_is_one_line(project):
    write(project, gzip.compress("\n".join(GOOD * 999).encode())[:-50], "data/texts.jsonl.gz")
    project.set(corpus__path="data/texts.jsonl.gz")
    assert "data/texts.jsonl.gz cannot be unpacked" in project.fails("python", "-m", "stages.validate")


def test_the_kinds_of_many_problems_are_counted(shared):
    write(shared, b"{}\n" * 30 + b'{"text": 1}\n' * 5 + GOOD[0].encode())
    error = shared.fails("python", "-m", "stages.validate")
    assert "35 bad lines in data/my_corpus.jsonl" in error
    assert error.count("no field") == 20
    assert "... and 15 more; by kind: 30 no text field, 5 not a string" in error
    write(shared, b"{}\n" * 2 + b'{"text": 1}\n' + GOOD[0].encode())
    error = shared.fails("python", "-m", "stages.validate")
    assert error.splitlines()[-1] == "by kind: 2 no text field, 1 not a string"


# What others wrote, on the terminal


def test_nothing_in_a_corpus_moves_the_terminal(shared):
    write(shared, b'{"\\u001b]0;PWNED\\u0007\\u202e\\n": 1, "text\\u200b": 1, "' + b"k" * 100_000 + b'": 1}\n')
    error = shared.fails("python", "-m", "stages.validate")
    assert r"(fields: \x1b]0;PWNED\x07\u202e\n, text\u200b, kkkkkkkkkk" in error
    assert error.replace("\n", "").isprintable()
    assert len(error) < 500


def test_a_million_fields_are_no_long_message(shared):
    write(shared, b"{" + b", ".join(b'"key%d": 1' % number for number in range(100_000)) + b"}\n")
    error = shared.fails("python", "-m", "stages.validate")
    assert "key10, key11 and 99988 more): " in error
    assert len(error) < 500


def test_a_file_may_have_any_name(project):
    folder = project.path("data/texts")
    folder.mkdir()
    name = os.fsdecode(b"a\tb\x1b[31m\xe2\x80\xa8\n\xff.jsonl")
    (folder / name).write_bytes(GOOD[0].encode() + b"\n{bad}\n")
    (folder / "b.jsonl").write_bytes(GOOD[1].encode())
    project.set(corpus__path="data/texts", validate__on_error="skip", **ALL_TO_TRAIN)
    output = project.ok("python", "-m", "stages.validate")
    shown = r"data/texts/a\tb\x1b[31m\u2028\n\udcff.jsonl"
    assert f"characters, line {shown}:1" in output
    assert output.replace("\n", "").isprintable()
    places = Places.read(project.path("data/validated/files.tsv"))
    assert [places.full(line) for line in (1, 2, 3)] == [
        f"{shown}, line 1",
        f"{shown}, line 2",
        "data/texts/b.jsonl, line 1",
    ]
    (rejected,) = files.read_json_lines(project.path("data/validated/rejected.jsonl"))
    assert rejected["place"] == f"{shown}, line 2"


# What is in the texts


def test_marks_of_other_tools_are_counted_and_it_is_said_what_to_do(project):
    project.set(**ALL_TO_TRAIN)
    project.write_corpus(
        ["Один.<|endoftext|>", "Два", "Три<|endoftext|>четыре<|endoftext|>\n---\nПять</s>", "\ufeffШесть"]
    )
    output = project.ok("python", "-m", "stages.validate")
    assert "<|endoftext|>: 3 times in 2 documents, first lines: 1, 3\n" in output
    assert "</s>: once in 1 document, first lines: 3\n" in output
    assert "\\n---\\n: once in 1 document, first lines: 3\n" in output
    (command,) = re.findall(r"(python -m tools\.collect \S+ --mark .+ --output) NEW.jsonl makes a corpus of it", output)
    project.ok("sh", "-c", f"{command} data/divided.jsonl")
    divided = files.read_json_lines(project.path("data/divided.jsonl"))
    assert [one["text"] for one in divided] == ["Один.", "Два", "Три", "четыре", "Пять", "Шесть"]
    assert "a byte order mark (U+FEFF) stands in 1 document, the first on line 4" in output
    figures = project.json("logs/validate.json")
    assert figures["marks"]["<|endoftext|>"] == {"count": 3, "documents": 2, "lines": [1, 3]}
    assert figures["byte_order_marks"] == {"count": 1, "documents": 1, "lines": [4]}
    with pa.memory_map(str(project.path("data/validated/train.arrow"))) as source:
        assert pa.ipc.open_stream(source).read_all()["text"].to_pylist()[-1] == "\ufeffШесть"


def test_a_book_on_a_line_is_to_be_divided(project):
    book = " ".join(many_texts(300))
    project.write_corpus([book])
    project.set(validate__validation_fraction="0.0", validate__test_fraction="0.9999")
    error = project.fails("python", "-m", "stages.validate")
    assert "every document of data/my_corpus.jsonl fell into validation or test: divide your long documents" in error
    project.set(**ALL_TO_TRAIN)
    output = project.ok("python", "-m", "stages.validate")
    assert (
        "no document fell into test: its figures stay empty. To fill it, divide your long documents, at their" in output
    )
    assert project.json("logs/validate.json")["few_long_documents"] is True
    project.write_corpus(many_texts(19))
    output = project.ok("python", "-m", "stages.validate")
    assert "no document fell into test: its figures stay empty. To fill it, add texts" in output
    assert project.json("logs/validate.json")["few_long_documents"] is False


# The corpus changes


@pytest.mark.parametrize("change", ["appended to", "rewritten", "replaced", "joined", "taken away"])
def test_a_corpus_that_changes_while_it_is_read_ends_the_stage(project, monkeypatch, change):
    folder = project.path("data/texts")
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_bytes(lines_of(many_texts(9)))
    project.set(corpus__path="data/texts", **ALL_TO_TRAIN)
    first, measure = folder / "a.jsonl", validate._leaking

    def meanwhile(*made):
        state = first.stat()
        if change == "appended to":
            with open(first, "ab") as file:
                file.write(b"\n")
            os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns))
        elif change == "rewritten":
            os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        elif change == "replaced":
            shutil.copy2(first, folder / ".new")
            (folder / ".new").rename(first)
        elif change == "joined":
            (folder / "c.jsonl").touch()
        else:
            first.unlink()
        return measure(*made)

    before = outputs(project)
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(validate, "_leaking", meanwhile)
    named = "c" if change == "joined" else "a"
    with pytest.raises(UserError, match=rf"data/texts/{named}\.jsonl changed while it was read: wait until"):
        validate.main()
    assert outputs(project) == before
    assert not list(project.path("data").glob(".*.partial"))


# Nothing is lost


def test_skipped_lines_are_kept_with_number_and_reason(project):
    project.set(validate__on_error="skip", **ALL_TO_TRAIN)
    bad = [case for case in BAD_LINES if len(case[0]) < 9_000]
    write(project, b"\n".join([GOOD[0].encode(), *(content for content, _, _ in bad), GOOD[1].encode()]) + b"\n")
    project.ok("python", "-m", "stages.validate")
    figures = project.json("logs/validate.json")
    assert (figures["lines"], figures["kept"], figures["rejected"]) == (len(bad) + 2, 2, len(bad))
    rejected = [
        json.loads(line) for line in project.path("data/validated/rejected.jsonl").read_text("utf-8").splitlines()
    ]
    assert [one["line"] for one in rejected] == list(range(2, len(bad) + 2))
    for one, (content, _, reason) in zip(rejected, bad, strict=True):
        assert reason in one["reason"]
        assert one["content"] == content.decode("utf-8", errors="backslashreplace")
    kinds = [kind for _, kind, _ in bad]
    assert figures["rejected_by_kind"] == {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def test_without_a_bad_line_there_is_no_file_of_rejected_ones(shared):
    """DVC would warn of an empty one."""
    write(shared, "\n".join(GOOD).encode())
    shared.ok("python", "-m", "stages.validate")
    assert not shared.path("data/validated/rejected.jsonl").exists()


def test_every_line_of_a_messy_corpus_is_accounted_for(project):
    project.set(validate__on_error="skip", **ALL_TO_TRAIN)
    texts = [*many_texts(200), "Один\u2028два", "Один  два", "Один\u2028два ", " Один два"]
    lines = [json.dumps({"text": text}, ensure_ascii=bool(index % 2)) for index, text in enumerate(texts)]
    ends = ["\r\n" if index % 3 else "\n" for index in range(len(lines))]
    mess = "".join(line + end for line, end in zip(lines, ends, strict=True)) + "\n{bad}\n" + lines[0]
    write(project, mess.encode())
    output = project.ok("python", "-m", "stages.validate")
    figures = project.json("logs/validate.json")
    assert figures["lines"] == len(texts) + 3
    assert (figures["kept"], figures["duplicates"], figures["rejected"], figures["blank"]) == (201, 4, 1, 1)
    assert figures["lines"] == sum(figures[name] for name in ("kept", "duplicates", "rejected", "blank"))
    assert project.path("data/validated/duplicates.tsv").read_text().splitlines()[1:] == [
        "202\t201",
        "203\t201",
        "204\t201",
        "207\t1",
    ]
    assert f"line ends are mixed, {ends.count(chr(13) + chr(10))} of them as on Windows" in output
    with pa.memory_map(str(project.path("data/validated/train.arrow"))) as source:
        assert pa.ipc.open_stream(source).read_all()["text"].to_pylist() == texts[:201]


def test_processes_that_share_the_work_change_nothing(project, monkeypatch):
    project.set(validate__on_error="skip")
    mess = b"".join(lines_of(many_texts(40)) + b"{bad}\r\n\n" + number * b'{"text": "<s>"}\n' for number in range(9))
    write(project, mess)
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(lines, "_BLOCK", 5000)
    validate.main()
    before = outputs(project)
    monkeypatch.setattr(documents, "_SMALL", 0)
    monkeypatch.setattr(documents.parallel, "processors", lambda: 3)
    validate.main()
    assert outputs(project) == before
    assert project.json("logs/validate.json")["rejected"] == 9


@pytest.mark.parametrize("name", ["data/texts.jsonl.gz", "data/texts.jsonl.zst"])
def test_a_compressed_corpus_gives_what_the_plain_one_gives(project, name):
    plain = "".join(json.dumps({"text": text}) + "\n" for text in many_texts(300)).encode()
    write(project, plain)
    project.ok("python", "-m", "stages.validate")
    before = outputs(project)
    if name.endswith(".gz"):
        write(project, gzip.compress(plain), name)
    else:
        with pa.CompressedOutputStream(pa.OSFile(str(project.path(name)), "wb"), "zstd") as file:
            file.write(plain)
    project.set(corpus__path=name)
    project.ok("python", "-m", "stages.validate")
    after = outputs(project)
    assert after["data/validated"].pop("files.tsv") != before["data/validated"].pop("files.tsv")
    assert after == before


def test_leaking_documents_are_named_by_line(project):
    project.set(validate__validation_fraction="0.2", validate__test_fraction="0.2")
    shared_run = " ".join(f"слово{number}" for number in range(20))
    texts = [f"Случай {number} на реке, и никто не знал о нём" for number in range(80)]
    own = [" ".join(f"дело{index}я{number}" for number in range(20)) for index in range(len(texts))]  # or all are alike
    project.write_corpus(
        [f"{text} {own[index]}" + f" {shared_run}" * (index % 4 == 0) for index, text in enumerate(texts)]
    )
    output = project.ok("python", "-m", "stages.validate")
    leakage = project.json("logs/validate.json")["leakage"]
    held_out = []
    for split in ("validation", "test"):
        with pa.memory_map(str(project.path(f"data/validated/{split}.arrow"))) as source:
            held_out += pa.ipc.open_stream(source).read_all()["line"].to_pylist()
    expected = {line for line in held_out if (line - 1) % 4 == 0}
    assert expected
    assert leakage["leaking_documents"] == len(expected)
    assert set(map(int, leakage["worst"])) <= expected
    assert f"leakage: {len(expected)} of " in output


# Near-duplicates


def edited(text, number):
    """The text once more, with one word changed."""
    words = text.split()
    words[number % len(words)] = f"иначе{number}"
    return " ".join(words)


def with_copies(count=60, every=3):
    """Documents of a hundred words, each followed by edited copies or by none, and the lines of each group."""
    texts, groups = [], []
    for index in range(count):
        original = " ".join(f"слово{index}я{number}" for number in range(100))
        group = [original, *(edited(original, 7 * number) for number in range(index % every))]
        groups.append(list(range(len(texts) + 1, len(texts) + len(group) + 1)))
        texts += group
    return texts, groups


def split_of_lines(project):
    return {
        line: split
        for split in ("train", "validation", "test")
        for batch in splits.read_documents(project.path("data/validated"), split)
        for line in batch["line"].to_pylist()
    }


@pytest.mark.parametrize("how", ["report", "keep", "drop"])
def test_near_duplicates_fall_into_the_split_of_the_first_of_them_or_are_left_out(project, how):
    texts, groups = with_copies()
    project.write_corpus([texts[group[0] - 1] for group in groups])
    project.set(validate__validation_fraction="0.25", validate__test_fraction="0.25", validate__similarity="0.8")
    project.ok("python", "-m", "stages.validate")
    alone = split_of_lines(project)
    project.write_corpus(texts)
    project.set(validate__near_duplicates=how)
    output = project.ok("python", "-m", "stages.validate")
    found = split_of_lines(project)
    for number, group in enumerate(groups, 1):
        assert [found.get(line) for line in group] == [alone[number]] + [
            None if how == "drop" else alone[number] for _ in group[1:]
        ]
    copies = len(texts) - len(groups)
    figures = project.json("logs/validate.json")
    alike = figures["near_duplicates"]
    assert (alike["documents"], alike["left_out"]) == (copies, copies if how == "drop" else 0)
    assert figures["lines"] == figures["kept"] + alike["left_out"] == len(texts)
    assert figures["kept"] == sum(figures[split]["documents"] for split in splits.SPLITS) == len(found)
    assert (f"near-duplicates: {copies} documents" in output) == (how == "report")
    named = files.read_tsv(project.path("data/validated/near_duplicates.tsv"))
    pairs = {(int(row["near_duplicate_of"]), int(row["line"])) for row in named}
    assert pairs == {pair for group in groups for pair in combinations(group, 2)}
    assert len(pairs) == alike["pairs"]
    assert all(0.8 <= float(row["similarity"]) < 1 for row in named)
    assert sorted(path.name for path in project.path("data/validated").iterdir()) == [
        *("duplicates.tsv", "files.tsv", "near_duplicates.tsv", "sources.tsv"),
        *("test.arrow", "train.arrow", "validation.arrow"),
    ]


def test_of_a_chain_of_versions_those_stay_that_are_like_none_that_stays(project):
    """Each has one word more of it changed, so that the last has none in common with the first."""
    words, versions = [f"слово{number}" for number in range(120)], []
    for number in range(40):
        words[3 * number] = f"иначе{number}"
        versions.append(" ".join(words))
    project.write_corpus(versions)
    project.set(validate__near_duplicates="drop", validate__similarity="0.8", **ALL_TO_TRAIN)
    project.ok("python", "-m", "stages.validate")
    kept = [versions[line - 1] for line in split_of_lines(project)]

    def similarity(one, other):
        one, other = ({tuple(text.split()[at : at + 5]) for at in range(116)} for text in (one, other))
        return len(one & other) / len(one | other)

    assert 1 < len(kept) < len(versions)
    assert all(similarity(*pair) < 0.8 for pair in combinations(kept, 2))
    for version in versions:
        assert any(similarity(version, one) >= 0.8 for one in kept)
    assert project.json("logs/validate.json")["near_duplicates"]["left_out"] == len(versions) - len(kept)


def test_a_large_group_of_near_duplicates_is_all_for_training(project):
    """Else one letter in a thousand versions might be all of the test documents, or leave nothing to train on."""
    letter = " ".join(f"слово{number}" for number in range(100))
    others, _ = with_copies(count=30, every=1)
    project.set(validate__validation_fraction="0.3", validate__test_fraction="0.3", validate__similarity="0.8")
    held_out = 0
    for start in range(5):
        versions = [f"{start} {edited(letter, number)}" for number in range(11)]
        project.write_corpus(versions + others)
        project.ok("python", "-m", "stages.validate")
        found = split_of_lines(project)
        assert {found[line] for line in range(1, 12)} == {"train"}
        assert {found[line] for line in range(12, 42)} == {"train", "validation", "test"}
        project.write_corpus(versions[:10] + others)
        project.ok("python", "-m", "stages.validate")
        (split,) = {split_of_lines(project)[line] for line in range(1, 11)}
        held_out += split != "train"
    assert held_out


def test_how_similar_is_for_the_settings_to_say(project):
    texts, _ = with_copies(count=12)
    project.write_corpus(texts)
    # A changed word of a hundred changes five runs of 96, or fewer at the ends.
    project.set(validate__similarity="0.99")
    project.ok("python", "-m", "stages.validate")
    assert project.json("logs/validate.json")["near_duplicates"]["documents"] == 0


# Tokens


def sums_come_out(figures):
    for split in ("train", "validation", "test"):
        counts = figures[split]
        assert counts["tokens"] == (
            counts["text_tokens"] + 2 * counts["documents"] + counts["repeated_tokens"] - counts["dropped_tokens"]
        )
    assert figures["dropped_tokens"] == sum(
        figures[split]["dropped_tokens"] for split in ("train", "validation", "test")
    )


@pytest.mark.parametrize("overlong", ["split", "truncate", "drop"])
def test_what_becomes_of_overlong_documents_is_counted(project, overlong):
    texts = [f"{index} {text[:25]} " * (1 + index % 9) for index, text in enumerate(many_texts(90))]
    project.write_corpus(texts)
    project.set(tokenize__overlong=overlong)
    project.ok("python", "-m", "stages.validate")
    output = project.ok("python", "-m", "stages.tokenize")
    figures = project.json("logs/tokenize.json")
    sums_come_out(figures)
    train = figures["train"]
    assert train["overlong_documents"] > 0
    assert (train["dropped_documents"] > 0) == (overlong == "drop")
    assert (train["dropped_tokens"] > 0) == (overlong != "split")
    assert (f"tokenize.overlong: {overlong}: {train['overlong_documents']} training documents" in output) == (
        overlong != "split"
    )
    if overlong == "drop":
        assert train["dropped_documents"] == train["overlong_documents"]
    else:
        assert (train["repeated_tokens"] > 0) == (overlong == "split")
    # What is held out stays whole.
    assert figures["test"]["dropped_tokens"] == figures["validation"]["dropped_tokens"] == 0
    assert figures["test"]["repeated_tokens"] > 0


def test_a_vocabulary_that_does_not_fit_is_said_in_plain_words(project):
    # The tiny base has hardly more than a token for each byte.
    project.write_corpus(many_texts(60))
    project.ok("python", "-m", "stages.validate")
    output = project.ok("python", "-m", "stages.tokenize")
    assert project.json("logs/tokenize.json")["bytes_per_token"] < 2.5
    assert "the base model's vocabulary was made for another language" in output
    assert "times as long as with a vocabulary that fits" in output


def test_overlong_documents_that_are_all_dropped_are_one_line(shared):
    write(shared, lines_of([text * 20 for text in many_texts(3)]))
    shared.ok("python", "-m", "stages.validate")
    shared.set(tokenize__overlong="drop")
    error = shared.fails("python", "-m", "stages.tokenize")
    shared.set(tokenize__overlong="split")
    assert error.startswith("error: params.yaml: tokenize.overlong is drop, and every training document is longer")
    assert error.count("\n") == 1
    assert not shared.path("data/tokens").exists()


def test_texts_without_a_word_are_tokenized(shared):
    write(shared, lines_of(["…!", "— — —"]))
    shared.ok("python", "-m", "stages.validate")
    shared.ok("python", "-m", "stages.tokenize")
    assert shared.json("logs/tokenize.json")["tokens_per_word"] is None


# Interruption


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_base):
    """A project whose data stages take a while, after them."""
    made = data_project(tmp_path_factory.mktemp("undisturbed") / "project", tiny_base)
    made.write_corpus([f"{text} {number}" for number, text in enumerate(many_texts(60) * 400)])
    made.path("dvc.lock").unlink(missing_ok=True)
    made.commit()
    made.ok("dvc", "repro", "tokenize")
    return made


@pytest.fixture
def larger(undisturbed, tmp_path):
    shutil.copytree(undisturbed.folder, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project", **undisturbed.env)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["validate", "tokenize"])
def test_a_data_stage_killed_at_any_moment_gives_the_same_bytes_again(larger, stage):
    before, lock = outputs(larger), larger.path("dvc.lock").read_bytes()
    drawn = random.Random(stage)
    command = [sys.executable, "-m", "dvc", "repro", "-f", "-s", stage]
    started = time.monotonic()
    larger.ok(*command)
    whole = time.monotonic() - started
    killed = 0
    for _ in range(5):
        running = subprocess.Popen(
            command,
            cwd=larger.folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(drawn.uniform(0.4, 1.0) * whole)
        os.killpg(running.pid, signal.SIGKILL)
        killed += running.wait() == -signal.SIGKILL
        larger.path(".dvc/tmp/rwlock").unlink(missing_ok=True)
        # DVC does not write its lock in one piece. docs/troubleshooting.md says: git checkout dvc.lock.
        larger.path("dvc.lock").write_bytes(lock)
    assert killed
    larger.ok("dvc", "repro", "tokenize")
    assert outputs(larger) == before
    # DVC may have taken the outputs from its cache of runs; a run itself clears away what a killed one left.
    larger.ok("dvc", "repro", "-f", "-s", stage)
    assert outputs(larger) == before
    assert not list(larger.path("data").glob(".*.partial"))


@pytest.mark.parametrize(("stage", "size"), [("validate", "5m"), ("tokenize", "9m")])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(larger, stage, size, tmp_path):
    """In a mount namespace of its own, `data` is a small disk that holds the stage's inputs and little more."""
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    shutil.copy2(larger.path("data/my_corpus.jsonl"), inputs)
    if stage == "tokenize":
        shutil.copytree(larger.path("data/validated"), inputs / "validated")
    before = {name: files.sha256(larger.path(name)) for name in ("logs/validate.json", "logs/tokenize.json")}
    script = (
        f"mount -t tmpfs -o size={size} tmpfs data && cp -r {inputs}/. data && ls -A data > {tmp_path}/before; "
        f"{sys.executable} -m stages.{stage}; status=$?; ls -A data > {tmp_path}/after; exit $status"
    )
    own_namespace = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    error = larger.fails(*own_namespace, "sh", "-c", script)
    assert error.startswith("error: no space left on the disk")
    assert len(error.splitlines()) == 1
    assert (tmp_path / "after").read_text() == (tmp_path / "before").read_text()
    assert {name: files.sha256(larger.path(name)) for name in before} == before
