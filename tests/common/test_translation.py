"""The language of the commands: every message has its Russian one, and leaves a command in it."""

import argparse
import errno
import inspect
import json
import os
import re
import shutil
import time
from itertools import count

import pytest
import ruamel.yaml.composer
import ruamel.yaml.constructor
import ruamel.yaml.parser
import ruamel.yaml.scanner
import yaml
from conftest import HOME, Project, copy_project, many_texts
from messages import HOLE, templates
from pydantic_core._pydantic_core import list_all_errors

from stages.lib.bases import lossless
from stages.lib.common import cli, translation
from tools.collect import books

RUSSIAN = yaml.safe_load((HOME / "stages/messages.ru.yaml").read_text(encoding="utf-8"))
TRANSLATE = translation.Catalogue(RUSSIAN)
PART = re.compile(r"\{(\d*)(?::([^{}]+))?\}")

# Messages and parts of them that are the same in both languages: names, commands.
SAME = {
    *("GPT2LMHeadModel", "GPT2Model", "GPT2DoubleHeadsModel", "<|endoftext|>", "bfloat16", "float32", "sdpa", "null"),
    *("UTF-16", "UTF-32", "UTF-16BE", "UTF-16LE", "CP1251", "KOI8-R", "CP866", "Parquet", "RTF", "JSON", "JSON Lines"),
    *("HF_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "jsonl", "jsonl{}"),
    *(
        "chapter",
        "size",
        "paragraph",
        "validate",
        "train",
        "tokenize {}",
        "base.revision is {}",
        *("--by size", "--mark {}", "--mark={}", "--minutes {}"),
        "python generate.py --prompts prompts.txt --output texts.jsonl",
        "python -m tools.collect SOURCE...",
        *("python -m tools.page", "python -m tools.page --port 8000"),
        "http://{}:{}",
    ),
}
# What the code puts together of a number or a name and a word: how `params` explains a mistake, and what is counted.
COMPOSED = {
    *("{} kept", "{} duplicates", "{} rejected", "{} blank", "{} near-duplicates", "training {}", "held-out {}"),
    *(f"{HOLE} {thing}{s}" for thing in ("file", "row", "record", "message", "chapter") for s in ("", "s")),
    *("unreadable", "other", "as set", 'no field "{}" (fields: none): {}, or set corpus.text_field in params.yaml'),
    "{} has all there are, docs/settings.md their names elsewhere",
    *("{} is {}, but must be {}", "{} but must be {}", "{} is missing", "is {} meant?", "write {}"),
    *(
        "{}, a value cannot be read: {}",
        "{} is no known key (its value: {}): {}",
        "{} or '{}'",
        "'{}' or '{}'",
        "'{}', '{}' or '{}'",
    ),
}
COMPOSED |= {*lossless._LOSSES, "special tokens written out", *books.FORMS.values(), "a workbook"}
COMPOSED |= {"UTF-8 with damaged places", "show this help message and exit"}
COMPOSED |= {"precision bfloat16", "precision float32", "compile true"}
COMPOSED |= {"attention documents", "attention sdpa", "attention eager"}
COMPOSED |= {"takes at most {} GB of memory and {} GB of disk", "a smaller base, or a machine with more"}
COMPOSED |= {"compile false", "loader workers {}"}
COMPOSED |= {"the page", "without a byte"}
# Messages of Pythons newer than the oldest that is supported.
NEWER = {"illegal trailing comma before end of object", "illegal trailing comma before end of array"}
# Words of Russian messages that are names: settings, commands, formats, libraries.
NAMES = """
MLflow
Arrow BOM CSV DNS DVC EPUB Excel FB FEFF FILE Face Git HTML Hub Hugging JSON LFS Lines LoRA NAME NEW NaN OLD Office
OpenDocument PDF Parquet Python RAR RTF Telegram VK WhatsApp Windows Word XML ZIP add auth base bfloat bzip chapter
checkout cp diff documents drop dropout dvc evaluate exp false file float git gpt gzip hf iconv install keep lfs login
logs mend null overlong pandoc pdftotext peft pickle pid pip prompt pull push python remaining repro revision rm run
seed show sdpa eager SOURCE ru en auto size skip split status tensorboard text tokenize torchrun tr train true ulimit
validate xz zstd HOST MACHINES OWNER PORT join license licence seen public AdamW full memory sharding small GGUF Ollama
onnx tune stash inf attention tar SQLite LibreOffice
"""


def of_libraries():
    """The words of the libraries that a message may hold."""
    errors = [error["message_template_python"] for error in list_all_errors()]
    modules = (
        argparse,
        json.decoder,
        ruamel.yaml.scanner,
        ruamel.yaml.parser,
        ruamel.yaml.composer,
        ruamel.yaml.constructor,
    )
    numbers = (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.ELOOP)
    return "\n".join([*errors, *map(inspect.getsource, modules), *map(os.strerror, numbers)]).lower()


def longest_words(message):
    """The longest run of letters and blanks in a message, but for what `params` puts before it."""
    return max(re.findall("[a-z' ]+", message.removeprefix("{} is {}, ").lower()), key=len).strip(" '")


def test_every_message_has_its_russian_one_and_every_russian_one_its_message():
    said = templates()
    assert len(said) > 400
    assert {message: said[message] for message in said.keys() - RUSSIAN.keys() - SAME} == {}
    assert SAME - said.keys() == set()
    assert COMPOSED - RUSSIAN.keys() == set()
    words = of_libraries()
    others = RUSSIAN.keys() - said.keys() - COMPOSED - NEWER
    assert [message for message in others if longest_words(message) not in words] == []


def test_a_command_that_a_message_tells_to_run_goes_through_the_function_that_knows_how():
    bare = r"(?<!which )\b(dvc (repro|push|pull|exp|add|checkout|params)|python -m|hf auth)\b"
    assert [message for message in templates().keys() - SAME if re.search(bare, message)] == []


@pytest.mark.parametrize("message", RUSSIAN)
def test_a_russian_message_has_the_holes_of_the_english_one(message):
    holes = message.count(HOLE)
    numbers = count()
    used = {int(part[1]) if part[1] else next(numbers) for part in PART.finditer(RUSSIAN[message])}
    assert used <= set(range(holes))
    # Left out may be the s of an English plural, and the name of a class.
    before = message.split(HOLE)
    left_out = [place for place in set(range(holes)) - used if not before[place][-1:].isalpha()]
    assert left_out == [] or message.startswith("a valid dictionary")


def sample(message):
    """A message with something in its holes, and what it is in Russian."""
    form, numbers = RUSSIAN[message], count()
    kinds = {int(part[1]) if part[1] else next(numbers): part[2] for part in PART.finditer(form)}
    for part in PART.finditer(form):  # a number may be named more than once, as itself and for a word
        if part[1] and part[2]:
            kinds[int(part[1])] = part[2]
    values = []
    for place in range(message.count(HOLE)):
        kind = kinds.get(place) or ""
        values.append({"!": "a PDF", "#": "5", ",": "0.5"}.get(kind) or ("5" if "|" in kind else f"знак{place}"))
    pieces = message.split(HOLE)
    english = "".join(piece + value for piece, value in zip(pieces, [*values, ""], strict=True))
    numbers = count()

    def shown(part):
        value = values[int(part[1]) if part[1] else next(numbers)]
        return {"5": (part[2] or "").split("|")[-1].replace("#", "") or "5", "0.5": "0,5", "a PDF": "PDF"}.get(
            value, value
        )

    return english, PART.sub(shown, form)


@pytest.mark.parametrize("message", RUSSIAN)
def test_a_message_comes_back_in_russian(message):
    english, russian = sample(message)
    assert TRANSLATE(english) == russian
    assert TRANSLATE(f"error: {english}") == f"ошибка: {russian if ' ' in english else english}"
    # Paths, options, commands with an underscore or the like: names.
    rest = re.sub(r"[\w./<>|*'\"=:+-]*[._/<>|=-][\w./<>|*'\"=:+-]*", " ", russian)
    assert set(re.findall("[A-Za-z]{2,}", rest)) <= set(NAMES.split())
    assert re.search("[А-яё]", rest) or english == "a PDF"


@pytest.mark.parametrize(
    ("english", "russian"),
    [
        # Messages within messages, and lists of them.
        ("error: a.jsonl is a PDF: take its text out with pdftotext, and give that to python -m tools.collect",
         "ошибка: a.jsonl — это PDF: извлеките из него текст с помощью pdftotext и отдайте python -m tools.collect"),
        ("error: a.pdf is a PDF file: take its text out with pdftotext, or save it as .docx",
         "ошибка: a.pdf — PDF: извлеките текст с помощью pdftotext или сохраните как .docx"),
        ("error: params.yaml: train.epochs is 0, but must be greater than or equal to 1; report is missing; and 2 more",
         "ошибка: params.yaml: train.epochs: 0, а должно быть не меньше 1; report отсутствует: впишите его; и ещё 2"),
        ("... and at least 3 more; by kind: 3 not JSON, 2 cut off",
         "... и не меньше 3; по видам: 3 не JSON, 2 обрезано"),
        ("error: a/b is not fetched: the name x.y was not found (DNS). Look to your network, and to HTTPS_PROXY, or "
         "use a folder (base.hub: null)",
         "ошибка: a/b не удалось скачать: имя x.y не найдено (DNS). Проверьте сеть, и HTTPS_PROXY или возьмите папку "
         "(base.hub: null)"),
        ("error: params.yaml: evaluate.top_p is '0,8', but must be a valid number: write 0.8",
         "ошибка: params.yaml: evaluate.top_p: '0,8', а должно быть числом: напишите 0.8"),
        # What is named within one.
        ("error: a: its tokenizer would lose tab characters, 3 of 256 bytes: a text could not be learned as it is "
         "written. Take a GPT-2 whose tokenizer works on bytes",
         "ошибка: a: токенизатор потеряет знаки табуляции, 3 из 256 байтов: выучить текст так, как он написан, не "
         "выйдет. Возьмите GPT-2, чей токенизатор работает на байтах"),
        ("error: a.json begins like JSON, but is none at line 1, column 8: expecting value",
         "ошибка: a.json начинается как JSON, но это не JSON: строка 1, столбец 8: здесь должно быть значение"),
        ("  precision float32 (the hardware is no faster in bfloat16), compile false (as set)",
         "  точность float32 (в bfloat16 процессор не быстрее), без torch.compile (как задано)"),
        # What could be read as another one.
        ('error: a.jsonl, line 4: field "text" is empty: remove the line',
         'ошибка: a.jsonl, строка 4: поле "text" пусто: удалите строку'),
        ("error: params.yaml, line 1: it is not UTF-8: save it as UTF-8 in your editor",
         "ошибка: params.yaml, строка 1: не UTF-8; сохраните файл в редакторе как UTF-8"),
        ("error: params.yaml, a value cannot be read: month", "ошибка: params.yaml, значение не читается: month"),
        # Numbers, and the forms of words that go with them.
        ("1 bad line in a: mend them, or set validate.on_error: skip in params.yaml",
         "1 негодная строка в a: исправьте или поставьте в params.yaml validate.on_error: skip"),
        ("22 bad lines in a: mend them, or set validate.on_error: skip in params.yaml",
         "22 негодные строки в a: исправьте или поставьте в params.yaml validate.on_error: skip"),
        ("validate: a: 11 lines: 8 kept, 1 duplicates, 2 rejected, 0 blank",
         "validate: a: 11 строк: принято 8, 1 повтор, отклонено 2, 0 пустых"),
        ("validate: a: 3 lines: 2 kept, 1 duplicates, 0 rejected, 0 blank, 2 near-duplicates",
         "validate: a: 3 строки: принято 2, 1 повтор, отклонено 0, 0 пустых, 2 почти повтора"),
        ("  letters: 95.2% Cyrillic, 4.8% Latin", "  буквы: кириллица 95,2\xa0%, латиница 4,8\xa0%"),
        ("train: 12 s of steps, 3 s of validation, checkpoints and curves",
         "train: шаги — 12 с, проверка, контрольные точки и кривые — 3 с"),
        ("  95 % interval of the difference: -0.1250 to +0.0250",
         "  доверительный интервал разницы (95 %): от −0,1250 до +0,0250"),
        # What others wrote stays: names of fields that are words of messages, too.
        ("error: messages cannot be read: Permission denied", "ошибка: messages не читается: нет доступа"),
        ('no field "text" (fields: files, none): rename files, or set corpus.text_field in params.yaml',
         'нет поля "text" (есть files, none): переименуйте files или укажите его в corpus.text_field в params.yaml'),
        # The command line.
        ("usage: generate.py [-h] [--base | --compare]", "запуск: generate.py [-h] [--base | --compare]"),
        ("error: argument --samples: 0 is below 1", "ошибка: аргумент --samples: 0 меньше 1"),
        ("error: argument what: invalid choice: 'x' (choose from 'push-runs', 'mend')",
         "ошибка: аргумент what: нет такого варианта: 'x' (есть 'push-runs', 'mend')"),
        ("error: argument --temperature: 1e-05 is neither 0 nor 0.001 or above",
         "ошибка: аргумент --temperature: 1e-05, а должно быть 0 или не меньше 0,001"),
        # What is not known stays, in whole or in part.
        ("nothing that anyone says: 5", "nothing that anyone says: 5"),
        ("error: some library's words", "ошибка: some library's words"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_is_put_together_is_translated_part_by_part(english, russian):
    assert TRANSLATE(english) == russian


@pytest.mark.parametrize("line", ["it is: a, b; c. d and (e) " * 70, "a bc, " * 330, "(" * 2000, "{}: " * 500])
def test_a_long_line_takes_no_long_time_and_is_no_error(monkeypatch, line):
    monkeypatch.setattr(translation, "chosen_language", lambda: "ru")
    began = time.monotonic()
    assert translation.translated(line).count("\n") == 0
    assert time.monotonic() - began < 10


def test_a_line_of_the_users_text_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(translation, "chosen_language", lambda: "ru")
    assert translation.translated("nobody\n  | nobody: no connection") == "никто\n  | nobody: no connection"


@pytest.mark.parametrize("content", [None, "", "- a\n- b\n", "a: [", b"\xff", '"error: {}": "{7}"\n"a": null\n'])
def test_without_a_catalogue_everything_is_said_in_english(tmp_path, monkeypatch, content):
    (tmp_path / "stages").mkdir()
    if content is not None:
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "stages/messages.ru.yaml").write_bytes(content)
    monkeypatch.setattr(translation, "HOME", tmp_path)
    monkeypatch.setattr(translation, "chosen_language", lambda: "ru")
    translation._translation.cache_clear()
    try:
        assert translation.translated("error: x is no folder") == "error: x is no folder"
    finally:
        translation._translation.cache_clear()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("report:\n  title: null\n  language: ru  # en or ru\n", "ru"),
        ("corpus:\n  language: ru\nreport:\n  language: en\nother:\n  language: ru\n", "en"),
        ("report:\n  # language: ru\n\n  language: 'ru'\n", "ru"),
        ("corpus: [\nreport:\n  language: ru\n", "ru"),  # broken elsewhere
        ("report:\n  corpus_language: ru\n", "en"),
        ("report:\n  language: русский\n", "ru"),
        ("report:\n  language: Russian\n", "ru"),
        ("report: []\n", "en"),
        ("", "en"),
        (None, "en"),
    ],
)
def test_the_language_is_that_of_the_report_however_broken_the_settings_are(tmp_path, monkeypatch, settings, expected):
    if settings is not None:
        (tmp_path / "params.yaml").write_text(settings)
    monkeypatch.setattr(translation, "HOME", tmp_path)
    assert translation.chosen_language.__wrapped__() == expected


def test_how_far_work_is_is_said_in_russian(monkeypatch, capsys):
    monkeypatch.setattr(translation, "chosen_language", lambda: "ru")
    now = [0.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: now[0])
    for label, total in (("score tuned", 600), ("copies", None)):
        bar = cli.progress(label, total, " documents")
        now[0] += 100
        bar.update(200)
    assert capsys.readouterr().err.splitlines() == [
        "оценка tuned: 200/600 документов, 2.00 документов в секунду, осталось 03:20",
        "поиск копий: 200 документов, 2.00 документов в секунду",
    ]


@pytest.fixture(scope="module")
def russian_project(tmp_path_factory):
    made = copy_project(tmp_path_factory.mktemp("russian") / "project")
    made.set(report__language="ru")
    return made


def test_a_bad_corpus_is_named_in_russian(russian_project):
    russian_project.path("data/my_corpus.jsonl").write_text('{"text": "Раз."}\n{"text": 5}\nx\n', encoding="utf-8")
    assert russian_project.fails("python", "-m", "stages.validate").splitlines() == [
        "ошибка: 2 негодные строки в data/my_corpus.jsonl: исправьте или поставьте в params.yaml validate.on_error: "
        "skip",
        'data/my_corpus.jsonl, строка 2: поле "text": в нём число, а не строка',
        "data/my_corpus.jsonl, строка 3: не JSON, столбец 1: здесь должно быть значение",
        "по видам: 1 не строка, 1 не JSON",
    ]
    russian_project.path("data/my_corpus.jsonl").unlink()
    in_dvc = ("python", "-m", "stages.validate")
    assert "закоммиченного" not in russian_project.fails(*in_dvc, DVC_STAGE="validate")  # there is no cache yet
    russian_project.path(".dvc/config.local").touch()  # which may name one elsewhere
    told = russian_project.fails(*in_dvc, DVC_STAGE="validate")
    assert told.splitlines() == [
        'ошибка: data/my_corpus.jsonl здесь нет: положите туда свои тексты, по {"text": "..."} на строку, в UTF-8',
        "Результаты последнего закоммиченного запуска вернёт: git checkout dvc.lock logs && dvc checkout",
    ]


def test_what_a_stage_did_is_said_in_russian(russian_project):
    russian_project.write_corpus([*many_texts(40), "Раз.", "Раз.", "С меткой <|endoftext|> внутри."])
    said = russian_project.ok("python", "-m", "stages.validate")
    assert "validate: data/my_corpus.jsonl: 43 строки: принято 42, 1 повтор, отклонено 0, 0 пустых" in said
    words = re.sub(r"[\w./<>|'-]*[._/<>|-][\w./<>|'-]*", " ", said)
    assert set(re.findall("[A-Za-z]{2,}", words)) <= {*NAMES.split(), "test", "validation"}


def test_settings_and_command_lines_are_refused_in_russian(russian_project, tmp_path):
    project = Project(tmp_path / "project")
    shutil.copytree(russian_project.folder, project.folder)
    assert project.fails("python", "generate.py", "--prompts", "no.txt") == (
        "ошибка: no.txt не читается: такого файла или папки нет\n"
    )
    usage, *_, error = project.fails("python", "generate.py", "--samples", "few").splitlines()
    assert usage.startswith("запуск: generate.py [-h]")
    assert error == "generate.py: ошибка: аргумент --samples: неверное значение типа int: 'few'"
    assert project.fails("python", "-m", "tools.collect", "no", "--output", "new.jsonl") == (
        "ошибка: no не читается: такого файла или папки нет\n"
    )
    help_of = {
        name: project.ok("python", *name.split(), "--help", COLUMNS="200")
        for name in ("generate.py", "-m tools.collect")
    }
    for name, text in help_of.items():
        words = set(re.findall(r"(?<![\w./<>|{}-])[a-z]{3,}(?![\w./<>|{}-])", text))
        assert words <= {"python", "prompt", "seed", "chapter", "size", "paragraph"}, name
    assert "показать эту справку" in help_of["generate.py"]
    project.set(report__language="русский")
    assert project.fails("python", "-m", "stages.validate") == (
        "ошибка: params.yaml: report.language: 'русский', а должно быть 'en' или 'ru'\n"
    )
    project.set(report__language="ru")
    project.set(train__scheduler="fast")
    assert project.fails("python", "-m", "stages.validate") == (
        "ошибка: params.yaml: train.scheduler: 'fast', а должно быть 'cosine', 'linear' или 'constant'\n"
    )
    project.path("params.yaml").write_text("corpus: [\nreport:\n  language: ru\n", encoding="utf-8")
    assert project.fails("python", "-m", "stages.validate").startswith("ошибка: params.yaml, строка ")
    project.path("params.yaml").write_text("corpus: [\n", encoding="utf-8")
    assert project.fails("python", "-m", "stages.validate").startswith("error: params.yaml, line ")
