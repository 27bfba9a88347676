"""Tables and records: CSV as Excel and others write it, JSON in all its shapes, Parquet and Arrow."""

import csv
import gzip
import json

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

pytest_plugins = ["collecting"]

REVIEWS = [
    ["id", "Отзыв", "Оценка"],
    ["1", "Товар хороший; беру второй раз.\nСоветую, «Ёлка» № 5", "5"],
    ["2", 'Сказали "завтра", а привезли через неделю', "2"],
    ["3", "", "4"],
    ["4", "Обычный чайник, греет быстро и не шумит", "4"],
]
FORM = "Расскажите своими словами и как можно подробнее обо всём что с вами было вчера?"
ANSWER, LAST = '"Привет мир, как дела"', '"Хорошо, спасибо"'
TEXTS = [row[1] for row in REVIEWS[1:] if row[1]]


def write_csv(path, encoding, delimiter, rows=REVIEWS):
    with open(path, "w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


@pytest.mark.parametrize(
    ("name", "encoding", "delimiter", "said"),
    [
        ("Excel.csv", "cp1251", ";", "encoding cp1251, columns parted by semicolons"),
        ("Excel UTF-8.csv", "utf-8-sig", ";", "encoding UTF-8, columns parted by semicolons"),
        ("Unicode text.txt", "utf-16", "\t", "encoding UTF-16, columns parted by tabs"),
        ("pandas.csv", "utf-8", ",", "encoding UTF-8, columns parted by commas"),
        ("table.tsv", "utf-8", "\t", "encoding UTF-8, columns parted by tabs"),
        ("no ending", "utf-8", ",", "encoding UTF-8, columns parted by commas"),
    ],
)
def test_a_table_of_text(collect, tmp_path, name, encoding, delimiter, said):
    write_csv(tmp_path / name, encoding, delimiter)
    run = collect(name)
    assert run.texts == TEXTS
    assert run.sources == [f"{name}:{number}" for number in (1, 2, 4)]
    assert run.counts() == {"tables": (4, 3, 3, 1)}
    assert said in run.said
    assert "a text in column Отзыв" in run.said


def test_rows_that_do_not_fit_are_counted(collect, tmp_path):
    write_csv(tmp_path / "a.csv", "utf-8", ",", [*REVIEWS, *REVIEWS[1:] * 5, ["5", "много", "5", "лишнего"], []])
    run = collect("a.csv")
    assert run.left() == {
        "records without a text in column Отзыв": 6,
        "rows with more or fewer cells than the first": 1,
    }


def test_a_column_without_names_or_neighbours(collect, tmp_path):
    (tmp_path / "a.csv").write_text('text\n"Один, раз\nдва"\nТри\n', encoding="utf-8")
    assert collect("a.csv").texts == ["Один, раз\nдва", "Три"]
    (tmp_path / "a.csv").write_text(
        "1,Первый длинный текст отзыва,5\n2,Второй длинный текст отзыва,3\n", encoding="utf-8"
    )
    assert collect("a.csv").texts == ["Первый длинный текст отзыва", "Второй длинный текст отзыва"]
    assert collect("a.csv", "--column", "3").texts == ["5", "3"]


def test_two_columns_that_could_be_the_text_have_to_be_chosen_from(collect, refused, tmp_path):
    rows = [["вопрос", "ответ"], *[["Почему небо синее сегодня?", "Потому что солнце светит нам"]] * 3]
    write_csv(tmp_path / "a.csv", "utf-8", ";", rows)
    assert refused("a.csv") == (
        "a.csv: the text could be in more than one column: ответ (some 28 characters), вопрос (some 26 characters); "
        "--column names it"
    )
    assert refused("a.csv", "--column", "text") == "a.csv has no column text (its columns: вопрос, ответ)"
    assert collect("a.csv", "--column", "вопрос").texts == ["Почему небо синее сегодня?"] * 3
    run = collect("a.csv", "--template", r"— {вопрос}\n— {ответ}")
    assert run.texts[0] == "— Почему небо синее сегодня?\n— Потому что солнце светит нам"
    assert refused("a.csv", "--template", "{a}") == (
        "a.csv has not all fields of the template (its fields: вопрос, ответ)"
    )


@pytest.mark.parametrize("rest", ["word " * 4_000_000, '3,three\n4,"four, with a comma"\n5,five\n', "3,three\n"])
def test_a_quote_that_is_never_closed_takes_its_row_alone(collect, tmp_path, rest):
    (tmp_path / "a.csv").write_text('id,text\n1,one\n2,"two\n' + rest, encoding="utf-8")
    run = collect("a.csv")
    assert run.texts == ["one", *(word for word in ("three", "four, with a comma", "five") if word in rest)]
    too_long = rest.startswith("word")
    assert run.left()["rows with a quote that is not closed, or closed too early"] == 1 + too_long


def test_quotes_with_a_backslash_before_them_and_tables_that_quote_nothing(collect, tmp_path):
    (tmp_path / "a.csv").write_text('id,text\n1,"He said: \\"yes\\", and left"\n2,no\n', encoding="utf-8")
    assert collect("a.csv").texts == ['He said: "yes", and left', "no"]
    (tmp_path / "a.tsv").write_text('id\ttext\n1\tone\n2\t"two begins\n3\tthree\n', encoding="utf-8")
    assert collect("a.tsv").texts == ["one", '"two begins', "three"]


def test_paragraphs_that_begin_with_a_tab_are_no_table(collect, tmp_path):
    text = "\tУтро выдалось холодным.\n" + "\tИван долго шёл по улице и думал о своём.\n" * 9
    (tmp_path / "a.txt").write_bytes(text.replace("\n", "\r\n").encode("cp1251"))
    assert collect("a.txt").texts == [text.rstrip()]


@pytest.mark.parametrize(
    ("content", "arguments"),
    [
        ("id;Текст;;;\r\n1;Привет мир, как дела;;;\r\n2;Хорошо, спасибо;;;\r\n", ()),
        ("id;text;2024\r\n1;Привет мир, как дела;5\r\n2;Хорошо, спасибо;6\r\n", ()),
        ("sep=;\r\nid;text\r\n1;Привет мир, как дела\r\n2;Хорошо, спасибо\r\n", ()),
        ("Имя;Отзыв;Отзыв\r\nА;Привет мир, как дела;\r\nБ;Хорошо, спасибо;\r\n", ("--column", "Отзыв")),
        ("text\nПривет мир, как дела\nХорошо, спасибо\n", ()),
        ("text\rПривет мир, как дела\rХорошо, спасибо\r", ()),
        ("sep=;\rid;text\r1;Привет мир, как дела\r2;Хорошо, спасибо\r", ()),
        (f"Отметка времени,{FORM}\r\n2024/03/05 3:14:15 PM GMT+3,{ANSWER}\r\n2024/03/06 11:02:00 AM GMT+3,{LAST}", ()),
        (f"Отметка времени,{FORM}\r\n05.03.2024 15:14:15,{ANSWER}\r\n,{LAST}\r\n06.03.2024,\r\n", ()),
        # No names: what stands above times is a time.
        (f"05.03.2024 15:14:15,{ANSWER}\r\n06.03.2024 11:02:00,{LAST}\r\n", ()),
    ],
)
def test_the_row_of_names_is_known(collect, tmp_path, content, arguments):
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    assert collect("a.csv", *arguments).texts == ["Привет мир, как дела", "Хорошо, спасибо"]


def test_texts_that_begin_with_a_date_are_texts(collect, tmp_path):
    """A diary: no more of a cell is a date than a date, a time and a zone."""
    texts = ["05.03.2024 Сегодня мы ездили к бабушке.", "06.03.2024 15:30 Весь день лил дождь, и мы сидели дома."]
    rows = [[str(day), text] for day, text in enumerate(texts)]
    write_csv(tmp_path / "a.csv", "utf-8", ",", [["день", "запись"], *rows])
    assert collect("a.csv").texts == texts


def test_a_plain_text_beside_a_table_lacks_no_column(collect, tmp_path):
    (tmp_path / "a").mkdir()
    notes = "Записки\nСегодня был хороший день, и я гулял.\nЗавтра тоже."
    (tmp_path / "a/notes.txt").write_text(notes, encoding="utf-8")
    (tmp_path / "a/t.csv").write_text("id;body\n1;Привет, мир\n2;Пока\n", encoding="utf-8")
    assert collect("a", "--column", "body").texts == [notes, "Привет, мир", "Пока"]


POEM = """\
Мороз и солнце, день чудесный,
Ещё ты дремлешь, друг прелестный,
Пора, красавица, проснись,
Открой, сомкнуты негой взоры,
"""


@pytest.mark.parametrize("name", ["poem.txt", "poem"])
def test_prose_and_verse_are_no_tables(collect, tmp_path, name):
    (tmp_path / name).write_text(POEM, encoding="utf-8")
    assert collect(name).texts == [POEM.rstrip()]


# Records

PLAIN = [{"text": "Первый."}, {"text": "Второй.\nС новой строки."}]
NAMED = [{"id": n, "title": f"Т{n}", "body": text["text"], "score": 0.5} for n, text in enumerate(PLAIN)]
TEXTS_OF_THEM = [record["text"] for record in PLAIN]
OPENAI = [
    {
        "messages": [
            {"role": "system", "content": "Будь краток."},
            {"role": "user", "content": [{"type": "text", "text": "Кто ты?"}, {"type": "image_url", "image_url": {}}]},
            {"role": "assistant", "content": "Чайник."},
            {"role": "assistant", "content": None, "tool_calls": []},
        ]
    }
]
SHAREGPT = [{"id": "a", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}]
ALPACA = [
    {"instruction": "Переведи.", "input": "cat", "output": "кот"},
    {"instruction": "Назови цвет.", "input": "", "output": "Синий."},
]
COMPLETION = [{"prompt": "Жил-был", "completion": "кот."}]


def lines(records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


@pytest.mark.parametrize(
    ("records", "texts", "said"),
    [
        (PLAIN, TEXTS_OF_THEM, "a text in column text"),
        (NAMED, TEXTS_OF_THEM, "a text in column body"),
        (
            OPENAI,
            ["system: Будь краток.\nuser: Кто ты?\nassistant: Чайник."],
            "turns, each by the template {role}: {content}",
        ),
        (SHAREGPT, ["user: Hi\nassistant: Hello"], "turns, each by the template {role}: {content}"),
        (
            ALPACA,
            ["Переведи.\n\ncat\n\nкот", "Назови цвет.\n\nСиний."],
            r"a text by the template {instruction}\n\n{input}\n\n{output}",
        ),
        (COMPLETION, ["Жил-был\nкот."], r"a text by the template {prompt}\n{completion}"),
    ],
    ids=["text", "another field", "OpenAI", "ShareGPT", "Alpaca", "prompt and completion"],
)
@pytest.mark.parametrize("shape", ["lines", "array", "wrapped", "named"])
def test_records_of_json(collect, tmp_path, records, texts, said, shape):
    content = {
        "lines": lines(records),
        "array": json.dumps(records, ensure_ascii=False, indent=2),
        "wrapped": json.dumps({"version": 1, "result": {"total": len(records), "items": records}}),
        "named": json.dumps({f"r{number}": record for number, record in enumerate(records)} | {"r": records[0]}),
    }[shape]
    (tmp_path / "data").write_text(content, encoding="utf-8")
    run = collect("data")
    assert run.texts == (texts if shape != "named" else [*texts, texts[0]])
    assert said in run.said


def test_a_field_twice_loses_no_text_without_a_word(collect, refused, tmp_path):
    twice = '{"text": "first", "text": "second"}'
    (tmp_path / "a.jsonl").write_text(f'{twice}\n{{"text": "third"}}\n', encoding="utf-8")
    run = collect("a.jsonl")
    assert run.texts == ["third"]
    assert run.left() == {"records with a field twice": 1}
    (tmp_path / "a.json").write_text(f"[\n{twice}\n]", encoding="utf-8")
    assert (
        refused("a.json") == 'a.json is JSON that cannot be read: the field "text" stands twice in one object: keep one'
    )


@pytest.mark.parametrize(
    ("wished", "written"), [("utf-8", "utf-8-sig"), ("UTF8", "utf-8-sig"), ("utf-16-le", "utf-16")]
)
def test_a_mark_at_the_beginning_is_no_text_also_where_the_encoding_is_told(collect, tmp_path, wished, written):
    (tmp_path / "a.csv").write_text("text,n\nПервый,1\n", encoding=written)
    assert collect("a.csv", "--encoding", wished).texts == ["Первый"]
    (tmp_path / "a.jsonl").write_text('{"text": "Первый"}\n{"text": "Второй"}\n', encoding=written)
    assert collect("a.jsonl", "--encoding", wished).texts == ["Первый", "Второй"]


def test_a_text_that_begins_with_very_many_empty_lines(collect, tmp_path):
    (tmp_path / "a.txt").write_text("\n" * 70_000 + "Текст.", encoding="utf-8")
    assert collect("a.txt").texts == ["Текст."]


def test_turns_by_a_template_of_ones_own(collect, tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(SHAREGPT), encoding="utf-8")
    assert collect("a.jsonl", "--template", r"<|{role}|>\n{content}").texts == ["<|user|>\nHi\n<|assistant|>\nHello"]


def test_an_array_of_strings(collect, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(["Один", "Два", "", 3]))
    run = collect("a.json")
    assert run.texts == ["Один", "Два"]
    assert run.left() == {"records without a text in column text": 1, "records that are neither objects nor texts": 1}


def test_bad_lines_are_counted(collect, tmp_path):
    good = lines(PLAIN)
    (tmp_path / "a.jsonl").write_text(
        good + "\n{broken\n[1]\n" + '{"a": "' + "x" * 2**24 + '"}\n' + "[" * 100_000 + "\n" + good
    )
    run = collect("a.jsonl")
    assert run.texts == TEXTS_OF_THEM * 2
    assert run.left() == {
        "empty lines": 1,
        "lines that are no JSON": 2,
        "records that are neither objects nor texts": 1,
        "lines that are too long": 1,
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deep"),
        ('[{"text": "a"},\n{"text": }]', "begins like JSON, but is none at line 2, column 10"),
        ('[{"text": ' + "1" * 5000 + "}]", "is JSON that cannot be read"),
        ("[]", "no document was found"),
        ('{"a": 1}', "a.json has no column of text (its columns: a)"),
    ],
)
def test_json_that_holds_no_documents_is_one_line(refused, tmp_path, content, expected):
    (tmp_path / "a.json").write_text(content)
    assert expected in refused("a.json")


# Arrow


def test_parquet_and_arrow(collect, tmp_path):
    table = pa.table({"url": ["a", "b"], "content": TEXTS_OF_THEM, "image": [b"\xff", b"\xfe"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        run = collect(name)
        assert run.texts == TEXTS_OF_THEM
        assert run.counts() == {"Arrow and Parquet": (2, 2, 2, 0)}


def test_a_folder_that_datasets_saved(collect, tmp_path):
    dataset = datasets.Dataset.from_dict({"text": TEXTS_OF_THEM, "n": [1, 2]})
    datasets.DatasetDict({"train": dataset, "test": dataset.select([0])}).save_to_disk(tmp_path / "saved")
    run = collect("saved")
    assert sorted(run.texts) == sorted([*TEXTS_OF_THEM, TEXTS_OF_THEM[0]])
    assert run.left() == {}


def test_turns_in_parquet(collect, tmp_path):
    parquet.write_table(pa.Table.from_pylist(SHAREGPT), tmp_path / "a.parquet")
    assert collect("a.parquet").texts == ["user: Hi\nassistant: Hello"]


def test_a_cut_off_parquet_is_one_line(refused, tmp_path):
    parquet.write_table(pa.table({"text": TEXTS_OF_THEM}), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-30])
    assert refused("a.parquet").startswith("a.parquet is damaged, or cut off:")


def test_packed_lines_are_read_as_they_are_unpacked(collect, tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(NAMED).encode()))
    (tmp_path / "a.jsonl.zst").write_bytes(pa.compress(lines(NAMED).encode(), "zstd", asbytes=True))
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        run = collect(name)
        assert run.texts == TEXTS_OF_THEM
        assert run.sources == ["a.jsonl:1", "a.jsonl:2"]
