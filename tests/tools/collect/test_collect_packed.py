"""Archives, and what is odd or hostile: always one clear line, and nothing written where it does not belong."""

import bz2
import gzip
import io
import json
import lzma
import random
import re

import pyarrow as pa
import pytest
from archives import tarred, zipped

from stages.lib.common import cli

pytest_plugins = ["collecting"]

COMPRESS = {
    ".gz": gzip.compress,
    "zst": lambda content: pa.compress(content, "zstd", asbytes=True),
    "bz2": bz2.compress,
    ".xz": lzma.compress,
}
MEMBERS = {
    "texts/2.txt": "Второй. Второй.".encode("cp1251"),
    "texts/1.txt": "Первый".encode(),
    "data.csv": "id;текст\n1;Строка таблицы\n".encode("utf-8-sig"),
    "inner.zip": zipped({"3.txt": "Третий".encode()}),
    "__MACOSX/._1.txt": b"\0\0\0",
}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.zst", "a.tar.bz2", "a.tar.xz", "a.zip.gz"])
def test_archives_of_whatever_is_read(collect, tmp_path, name):
    packed = zipped(MEMBERS) if ".zip" in name else tarred(MEMBERS)
    (tmp_path / name).write_bytes(COMPRESS.get(name[-3:], bytes)(packed))
    run = collect(name)
    assert sorted(run.texts) == sorted(["Первый", "Второй. Второй.", "Строка таблицы", "Третий"])
    assert f"{re.sub('(?<=r).(gz|zst|bz2|xz)$', '', name.removesuffix('.gz'))}/inner.zip/3.txt" in run.sources
    assert run.left() == {"hidden files": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "made.jsonl"])


def test_no_path_of_an_archive_is_written_to(collect, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    names = {"../out.txt": b"one", "/tmp/out.txt": b"two", "link": "../../out.txt", "a\x1b[1m.txt": b"three"}
    (work / "a.tar").write_bytes(tarred(names))
    run = collect("work/a.tar")
    assert sorted(run.texts) == ["one", "three", "two"]
    assert run.left() == {"links and special files": 1}
    assert "a.tar/a\\x1b[1m.txt" in run.sources
    assert [path.name for path in work.iterdir()] == ["a.tar"]
    assert not (tmp_path / "out.txt").exists()


def test_what_is_broken_in_an_archive_or_a_folder_is_left_out_and_named(collect, tmp_path):
    members = {
        "good.txt": b"good",
        "bad.json": b'[{"a": ',
        "bad.gz": gzip.compress(b"text" * 1000)[:-20],
        "book.pdf": b"%PDF-1.7",
    }
    (tmp_path / "a.zip").write_bytes(zipped(members))
    run = collect("a.zip")
    assert run.texts == ["good"]
    assert "4 files found = 1 read + 3 left out" in run.said
    for expected in ("bad.json begins like JSON", "bad is damaged, or cut off", "book.pdf is a PDF"):
        assert f"    a.zip/{expected}" in run.said


def test_what_was_read_before_a_damage_stays_and_is_said(collect, tmp_path):
    table = pa.table({"text": [f"Текст номер {number}." for number in range(3000)]})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/cut.arrow").write_bytes(sink.getvalue()[:-20_000])
    (tmp_path / "texts/good.txt").write_text("Целый.", encoding="utf-8")
    (tmp_path / "texts/bad.json").write_bytes(b'[{"a": ')
    run = collect("texts")
    assert run.counts() == {"Arrow and Parquet": (2000, 2000, 2000, 0), "plain text": (1, 1, 1, 0)}
    assert "3 files found = 2 read + 1 left out" in run.said
    assert (
        "1 file read in part: what comes before the damage is in the corpus\n    texts/cut.arrow is damaged" in run.said
    )


@pytest.mark.parametrize("kind", ["at a header", "in a header", "a damaged header"])
def test_a_tar_that_is_cut_off_or_damaged_between_two_files_is_told(collect, refused, tmp_path, kind):
    """The library takes what is no header for the end of the archive."""
    whole = tarred({f"{number}.txt": f"Текст {number}.".encode() for number in range(5)})
    third = whole.index(b"2.txt")
    damaged = bytearray(whole)
    damaged[third + 100] ^= 1
    cut = {"at a header": whole[:third], "in a header": whole[: third + 200], "a damaged header": bytes(damaged)}[kind]
    (tmp_path / "a.tar").write_bytes(cut)
    assert refused("a.tar") == "a.tar is damaged, or cut off: it has no end"
    (tmp_path / "a.tar").write_bytes(whole)
    assert len(collect("a.tar").texts) == 5


def test_a_long_path_is_what_its_end_says(collect, tmp_path):
    folder = tmp_path / "/".join(["texts", *["a" * 60] * 5])
    folder.mkdir(parents=True)
    (folder / "t.csv").write_text("text,author\nПервый рассказ,А\nВторой рассказ,Б\n", encoding="utf-8")
    run = collect("texts")
    assert run.texts == ["Первый рассказ", "Второй рассказ"]
    assert run.sources[0] == f"{'/'.join(folder.relative_to(tmp_path).parts)}/t.csv:1"


def test_names_may_have_any_digits(collect, tmp_path):
    names = ["2", "10", "1", "①", "1²", "٣", "007"]
    for name in names:
        (tmp_path / "texts" / name).mkdir(parents=True)
        (tmp_path / "texts" / name / "a.txt").write_text(name, encoding="utf-8")
    texts = collect("texts").texts
    assert sorted(texts) == sorted(names)
    assert [name for name in texts if name in ("1", "2", "007", "10")] == ["1", "2", "007", "10"]
    (tmp_path / "a.zip").write_bytes(zipped({f"{'9' * 5000}.txt": b"long"}))
    assert collect("a.zip").texts == ["long"]


def nested(depth):
    content = zipped({"a.txt": b"deep"})
    for _ in range(depth):
        content = zipped({"a.zip": content})
    return content


def with_a_password():
    packed = bytearray(zipped({"a.txt": b"secret"}))
    packed[6] |= 1  # in the header before the file, and in the one at the end
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    return bytes(packed)


# Made when they are asked for: some are large, and archives hold the time at which they were made.
NO_DOCUMENTS = {
    "bomb.zip": (lambda: zipped({"a.txt": bytes(2**27)}), "unpacks to far more than texts do"),
    "bomb.gz": (lambda: gzip.compress(b"a" * 2**27), "unpacks to far more than texts do"),
    "bomb.zst": (lambda: pa.compress(b"a" * 2**27, "zstd", asbytes=True), "unpacks to far more than texts do"),
    "a.zip": (lambda: zipped({"a.txt": b"text"})[:-30], "a.zip is damaged, or cut off"),
    "a.gz": (lambda: gzip.compress(bytes(range(256)) * 100)[:-100], "a is damaged, or cut off"),
    "a.tar": (lambda: tarred({"a.txt": b"a" * 9000})[:5000], "a.tar is damaged, or cut off"),
    "deep.zip": (lambda: nested(5), "no document was found"),
    "locked.zip": (lambda: with_a_password(), "no document was found"),
    "empty.zip": (lambda: zipped({}), "no document was found"),
    "empty.txt": (lambda: b"", "no document was found"),
    "zeros": (lambda: bytes(1000), "zeros is no text, and no kind of file that is known here"),
    "a.pdf": (lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a.pdf is a PDF file: take its text out with pdftotext"),
    "a.doc": (lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "save it as .docx or .xlsx"),
    "a.xml": (lambda: b'<?xml version="1.0"?><rss><channel/></rss>', "is XML of a kind that is not known here"),
}


@pytest.mark.parametrize("name", NO_DOCUMENTS)
def test_what_holds_no_documents_is_one_line(refused, tmp_path, name):
    content, expected = NO_DOCUMENTS[name]
    (tmp_path / name).write_bytes(content())
    assert expected in refused(name)


def test_sources_that_are_not_there(refused, tmp_path):
    assert refused("gone") == "gone cannot be read: No such file or directory"
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    assert refused("one") == "one cannot be read: Too many levels of symbolic links"
    (tmp_path / "folder").mkdir()
    assert refused("folder") == "no document was found in what was given: nothing is written"


def test_a_failure_half_way_leaves_the_old_corpus(collect, refused, tmp_path):
    (tmp_path / "a.txt").write_text("old")
    collect("a.txt")
    before = (tmp_path / "made.jsonl").read_bytes()
    (tmp_path / "b.json").write_text("[[")
    with pytest.raises(Exception, match="begins like JSON"):
        collect("a.txt", "b.json")
    assert (tmp_path / "made.jsonl").read_bytes() == before
    assert json.loads(before)["text"] == "old"


def arrow_stream():
    table = pa.table({"url": ["a", "b"] * 50, "content": ["Первый.", "Второй."] * 50})
    packed = io.BytesIO()
    with pa.ipc.new_stream(packed, table.schema) as writer:
        writer.write_table(table)
    return packed.getvalue()


FILES = {"a.arrow": arrow_stream(), "a.zip": zipped(MEMBERS), "a.tar.gz": gzip.compress(tarred(MEMBERS))}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_gives_documents_or_one_line_and_never_a_traceback(collect, tmp_path, name):
    """Whatever the damage: Arrow, for one, would end the process over some of it."""
    chance = random.Random(0)
    errors = []
    for damage in range(120):
        content = bytearray(FILES[name])
        if damage % 3 == 0:
            del content[chance.randrange(len(content)) :]
        for _ in range(damage % 3 * 3):
            content[chance.randrange(len(content))] = chance.randrange(256)
        (tmp_path / name).write_bytes(content)
        try:
            collect(name)
        except cli.UserError as error:
            errors.append(str(error))
    assert errors
    assert not any("\n" in error for error in errors)


def test_a_link_that_goes_round_is_left_out(collect, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("Кот.", encoding="utf-8")
    (tmp_path / "texts/b").symlink_to("b")
    run = collect("texts")
    assert run.texts == ["Кот."]
    assert run.left()["links to nowhere and special files"] == 1


def test_names_in_an_archive_of_old_windows(collect, tmp_path):
    content = zipped({"Kot.txt": "Кот.".encode()})
    (tmp_path / "a.zip").write_bytes(content.replace(b"Kot.txt", "Кот.txt".encode("cp866")))
    assert collect("a.zip").sources == ["a.zip/Кот.txt"]
