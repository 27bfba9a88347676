"""Plain text, folders of it, its encodings, and how long texts are divided."""

import json
import re
import shlex
import subprocess

import pytest
from conftest import CODE, HOME, Project, block_of_the_docs, copy_project

from tools.collect import __main__ as command
from tools.collect import divide

pytest_plugins = ["collecting"]

RUSSIAN = "Утром над рекой стоял туман.\nПаром гудел, как большая корова.\n"


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "UTF-8"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16-LE"),
        ("cp1251", "cp1251"),
        ("koi8-r", "koi8_r"),
        ("cp866", "cp866"),
    ],
)
def test_the_encoding_is_found_out_and_said(collect, tmp_path, encoding, said):
    (tmp_path / "a.txt").write_bytes(RUSSIAN.replace("\n", "\r\n").encode(encoding))
    run = collect("a.txt")
    assert run.lines == [{"text": RUSSIAN.rstrip(), "source": "a.txt"}]
    assert f"  encoding {said}\n" in run.said
    assert collect("a.txt", "--bare").lines == [{"text": RUSSIAN.rstrip()}]


def test_a_few_foreign_letters_far_down_are_seen(collect, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"plain words\n" * 200_000 + "Привет, мир, это письмо\n".encode("cp1251"))
    assert collect("a.txt").texts[0].endswith("Привет, мир, это письмо")
    (tmp_path / "a.txt").write_bytes("Пара слов, déjà vu\n".encode() * 1000 + b"\xff\n")
    run = collect("a.txt")
    assert run.texts[0].startswith("Пара слов, déjà vu")
    assert "UTF-8 with damaged places" in run.said


def test_a_foreign_letter_here_and_there_is_western(collect, tmp_path):
    (tmp_path / "a.txt").write_bytes("señor Müller".encode("cp1252"))
    assert collect("a.txt").texts == ["señor Müller"]


def test_an_encoding_can_be_told(collect, refused, tmp_path):
    (tmp_path / "a.txt").write_bytes("Zażółć gęślą jaźń".encode("cp1250"))
    assert collect("a.txt", "--encoding", "cp1250").texts == ["Zażółć gęślą jaźń"]
    assert (
        refused("a.txt", "--encoding", "klingon") == "--encoding klingon is none that Python knows: try utf-8 or cp1251"
    )


def test_a_folder_is_a_document_a_file_in_the_order_of_their_numbers(collect, tmp_path):
    folder = tmp_path / "texts"
    (folder / "more").mkdir(parents=True)
    for name in ("9.txt", "10.md", "more/1"):
        (folder / name).write_text(f"# {name}\n\nТекст.", encoding="utf-8")
    (folder / "empty.txt").write_text(" \n\n")
    (folder / ".hidden").write_text("hidden")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(100))
    (folder / "loop").symlink_to(folder)
    (folder / "nowhere").symlink_to(tmp_path / "gone")
    run = collect("texts")
    assert run.sources == ["texts/9.txt", "texts/10.md", "texts/more/1"]
    assert run.texts[1] == "# 10.md\n\nТекст."
    assert run.counts() == {"plain text": (4, 3, 3, 1)}
    assert "8 files found = 4 read + 4 left out" in run.said
    assert run.left() == {
        "empty": 1,
        "links to folders": 1,
        "hidden files": 1,
        "links to nowhere and special files": 1,
        "unreadable": 1,
    }
    assert "texts/photo.jpg is no text" in run.said


def test_the_corpus_that_is_made_is_no_source_of_itself(collect, tmp_path):
    (tmp_path / "a.txt").write_text("first")
    assert collect(".").texts == ["first"]
    assert collect(".").texts == ["first"]


def test_what_is_no_text_is_taken_out(collect, tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeff\n  \n  one\x0ctwo\x1b[1m \u00a0\x85three\x07 \n\n".encode())
    run = collect("a.txt")
    assert run.texts == ["  one\ntwo[1m \u00a0\x85three"]
    assert "taken out of 1 documents" in run.said


def test_three_documents_are_shown_as_they_will_be_learned(collect, tmp_path):
    (tmp_path / "texts").mkdir()
    for number in range(30):
        (tmp_path / f"texts/{number}.txt").write_text(f"Text {number}\n" + "word " * 100)
    said = collect("texts").said
    assert said.count("a document, as it will be learned:\n  | Text") == 3
    assert said.count("…\n") == 3


# Divided

BOOK = """\
Книга первая

Глава I. Утро

Первый абзац
в две строки.

Второй абзац.

ГЛАВА ВТОРАЯ

Часть его богатства пропала.
Глава семьи молчал.

III

Конец.
"""
LIB_RU = """\
     Первый абзац, строка которого
переносится на следующую, и ещё
на одну.
     Второй абзац, тоже
из двух строк.
     Третий абзац.
"""


def test_by_chapter(collect, tmp_path):
    (tmp_path / "book.txt").write_text(BOOK, encoding="utf-8")
    run = collect("book.txt", "--by", "chapter")
    assert [text.split("\n")[0] for text in run.texts] == ["Книга первая", "ГЛАВА ВТОРАЯ", "III"]
    assert run.texts[0].startswith("Книга первая\n\nГлава I. Утро\n\nПервый")
    assert run.texts[1].endswith("Часть его богатства пропала.\nГлава семьи молчал.")
    assert run.sources == ["book.txt:1", "book.txt:2", "book.txt:3"]
    assert run.counts() == {"plain text": (1, 1, 3, 0)}


@pytest.mark.parametrize(
    ("line", "is_heading"),
    [
        ("Глава 12", True),
        ("   ГЛАВА ДВАДЦАТЬ ПЕРВАЯ", True),
        ("Chapter IV. The Whale", True),
        ("CHAPTER ONE", True),
        ("Часть вторая", True),
        ("Эпилог", True),
        ("## Раздел", True),
        ("XIV.", True),
        ("Глава семьи молчал.", False),
        ("Часть 2 была лучше первой", False),
        ("Part of it was true.", False),
        ("#хэштег", False),
        ("I said so", False),
        ("12", False),
    ],
)
def test_headings(line, is_heading):
    assert divide.is_heading(line + "\n") is is_heading


def test_by_paragraph(collect, tmp_path):
    (tmp_path / "a.txt").write_text(BOOK, encoding="utf-8")
    assert collect("a.txt", "--by", "paragraph").texts[2:4] == ["Первый абзац\nв две строки.", "Второй абзац."]
    (tmp_path / "a.txt").write_text(LIB_RU * 5, encoding="cp1251")
    texts = collect("a.txt", "--by", "paragraph").texts
    assert len(texts) == 15
    assert texts[1] == "     Второй абзац, тоже\nиз двух строк."
    (tmp_path / "a.txt").write_text("Один.\nДва.\nТри.", encoding="utf-8")
    assert collect("a.txt", "--by", "paragraph").texts == ["Один.", "Два.", "Три."]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_marks_that_an_earlier_tool_wrote_part_documents_and_go(collect, tmp_path, name):
    text = "<|startoftext|>Первый.\n<|endoftext|>\n<|startoftext|>Второй,\n\nдлинный.<|endoftext|> "
    content = json.dumps({"text": text}) + '\n{"text": "Третий."}\n' if name == "a.jsonl" else text
    (tmp_path / name).write_text(content, encoding="utf-8")
    run = collect(name, "--mark", "<|endoftext|>", "--mark", "<|startoftext|>")
    assert run.texts == ["Первый.", "Второй,\n\nдлинный.", "Третий."][: 3 if name == "a.jsonl" else 2]
    ((_, _, documents, left),) = run.counts().values()
    assert (documents, left) == (len(run.texts), 0)


def test_a_text_is_divided_at_marks_before_it_is_divided_otherwise(collect, tmp_path):
    first, second, third = ("Раз. " * 5).strip(), ("Два. " * 15).strip(), ("Три. " * 5).strip()
    text = f"{first}\n\n<s>\n\n{second}\n\n{third}"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n{}\n", encoding="utf-8")
    for name in ("a.txt", "a.jsonl"):
        run = collect(name, "--mark", "<s>", "--by", "size", "--size", "110")
        assert run.texts == [first, f"{second}\n\n{third}"]


def test_a_rule_on_a_line_of_its_own_parts_documents_where_it_is_asked_for(collect, tmp_path):
    (tmp_path / "a.txt").write_text("Один --- два.\n---\nТри.\n----\n", encoding="utf-8")
    assert collect("a.txt", "--mark", r"\n---\n").texts == ["Один --- два.", "Три.\n----"]


def test_a_mark_that_stands_nowhere_is_named(collect, tmp_path):
    for name, text in (("a.txt", "Один.\n---\nДва."), ("b.txt", "Три.")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    run = collect("a.txt", "b.txt", "--mark", r"\n---\n", "--mark", "* * *", "--mark", r"\n...\n")
    assert run.texts == ["Один.", "Два.", "Три."]
    assert [line for line in run.said.splitlines() if "--mark" in line] == [
        "--mark '* * *': stands in no text",
        r"--mark '\n...\n': stands in no text",
    ]


def test_what_is_nothing_but_marks_is_left_out(collect, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "а"}\n{"text": "</s></s> "}\n', encoding="utf-8")
    run = collect("a.jsonl", "--mark", "</s>")
    assert run.texts == ["а"]
    assert run.counts() == {"JSON Lines": (2, 1, 1, 1)}


def test_by_size_cuts_where_sentences_end(collect, tmp_path):
    sentence = "Кот смотрел на снег так, будто платил за него сам. "
    (tmp_path / "a.txt").write_text(sentence * 40 + "\n\nКоротко.\n\nЕщё короче.\n", encoding="utf-8")
    run = collect("a.txt", "--by", "size", "--size", 500)
    assert all(len(text) <= 500 and text.endswith(".") for text in run.texts)
    assert run.texts[-1].endswith("\n\nКоротко.\n\nЕщё короче.")
    words = " ".join(run.texts).split()
    assert words == (sentence * 40 + "Коротко. Ещё короче.").split()


def test_few_long_documents_come_with_advice(collect, tmp_path):
    (tmp_path / "a.txt").write_text(
        "".join(f"Глава {n}\n\n" + "Слово. " * 2000 + "\n\n" for n in range(1, 6)), encoding="utf-8"
    )
    assert "few documents, and long ones: with --by chapter they become more" in collect("a.txt").said
    assert "with --by size they become more" in collect("a.txt", "--by", "chapter").said
    assert "few documents" not in collect("a.txt", "--by", "size").said
    (tmp_path / "b.txt").write_text("\n * * *\n".join("Слово. " * 2000 for _ in range(5)), encoding="utf-8")
    assert "few documents, and long ones: with --mark '* * *' they become more" in collect("b.txt").said
    (tmp_path / "many").mkdir()
    for number in range(30):
        (tmp_path / f"many/{number}.txt").write_text(f"Текст {number}.", encoding="utf-8")
    (tmp_path / "b.txt").rename(tmp_path / "many/b.txt")
    assert "in 1 document lines part the text: --mark '* * *' divides it there" in collect("many").said
    (tmp_path / "many/b.txt").rename(tmp_path / "b.txt")
    divided = collect("b.txt", "--mark", "* * *")
    assert len(divided.texts) == 5
    assert "--mark" not in divided.said


# The command


def test_the_page_about_texts_names_every_option():
    page = (HOME / "docs/corpus.md").read_text(encoding="utf-8")
    options = {option for action in command.arguments()._actions for option in action.option_strings}
    assert [option for option in options - {"-h", "--help"} if f"`{option}" not in page] == []


def test_nothing_is_overwritten_unasked(tmp_path):
    (tmp_path / "a.txt").write_text("new", encoding="utf-8")
    (tmp_path / "made.jsonl").write_text("mine")
    project = Project(tmp_path, PYTHONPATH=str(CODE))
    command = ("python", "-m", "tools.collect", "a.txt", "--output", "made.jsonl")
    assert project.fails(*command) == (
        "error: made.jsonl is there already: --force replaces it, --output FILE writes another\n"
    )
    assert project.path("made.jsonl").read_text() == "mine"
    assert "1 documents, 3 characters, in made.jsonl" in project.ok(*command, "--force")
    assert project.json("made.jsonl") == {"text": "new", "source": "a.txt"}
    done = project.run(*command[:-1], "-")
    assert json.loads(done.stdout) == {"text": "new", "source": "a.txt"}
    assert "plain text, 1 file: 1 file found = 1 written" in done.stderr


def test_what_is_collected_is_a_good_corpus_as_it_is(tmp_path):
    project = copy_project(tmp_path / "project")
    folder = project.path("my-texts")
    folder.mkdir()
    for number in range(60):
        text = f"Текст \x07 номер {number}\r\n\x0b\r\nи ещё\x0c строка\r\n"
        (folder / f"{number}.txt").write_bytes(text.encode("cp1251"))
    records = [{"text": text} for text in ("half \ud83d of a pair", "\x00a\x85b", "\ufeff \u2028", "\x1b\x00")]
    (folder / "a.json").write_text(json.dumps(records))
    said = project.type_in(*block_of_the_docs("./run python -m tools.collect"))
    assert "JSON, 1 file: 4 records found = 2 written, in 2 documents, + 2 left out" in said
    assert "62 lines: 62 kept, 0 duplicates, 0 rejected, 0 blank" in project.ok("python", "-m", "stages.validate")


def test_texts_that_git_would_take_along_are_told(collect, tmp_path):
    """In the project, and not where git ignores them: what enters a commit stays in it."""
    told = "lies in the project, and git add . would take it along: move it to my-texts/"
    for name in ("мои рассказы", "my-texts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("Утро.", encoding="utf-8")
    assert told not in collect("мои рассказы").said  # no git
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text("/my-texts\n")
    assert f"warning: мои рассказы {told}" in collect("мои рассказы").said
    assert told not in collect("my-texts").said


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_mark_with_line_ends_is_found_whatever_they_are(collect, tmp_path, end):
    (tmp_path / "a.txt").write_bytes(end.join(["Первый --- стих", "---", "Второй", "---", "Третий"]).encode())
    assert collect("a.txt", "--mark", r"\n---\n").texts == ["Первый --- стих", "Второй", "Третий"]


def test_the_advice_to_divide_at_dashes_can_be_typed(collect, tmp_path):
    (tmp_path / "a.txt").write_text("\n---\n".join(["Слово - - слово. " * 900] * 5), encoding="utf-8")
    advice = re.search(r"with (--mark=\S+) they become more", collect("a.txt").said)[1]
    assert len(collect("a.txt", *shlex.split(advice)).texts) == 5


def test_a_long_chat_is_not_told_to_be_divided(collect, tmp_path):
    lines = (f"12.03.2024, 18:05 - {who}: {'слово ' * 999}" for who in ("Аня", "Боря") * 9)
    (tmp_path / "chat.txt").write_text("\n".join(lines), encoding="utf-8")
    assert "they become more" not in collect("chat.txt", "--dialogue").said


def test_lines_within_a_paragraph_of_word_stay_lines(collect, tmp_path):
    (tmp_path / "a.txt").write_text("Роза\x0bМимоза", encoding="utf-8")
    assert collect("a.txt").texts == ["Роза\nМимоза"]
