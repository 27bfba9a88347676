"""The settings: what is in params.yaml, and what is refused."""

import re

import pytest
from bad_input import BOMB
from conftest import HOME
from conftest import SETTINGS as PATH
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.common import params, plain_yaml
from stages.lib.common.cli import UserError

SHIPPED = PATH.read_text(encoding="utf-8")


def load_with(tmp_path, old, new):
    assert SHIPPED.count(old) == 1, f"{old!r} must stand in params.yaml once"
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED.replace(old, new), encoding="utf-8")
    return params.load(path)


def test_the_given_defaults_stand():
    loaded = params.load(PATH)
    train = loaded.train
    assert (train.batch_size, train.epochs, train.save_steps) == (2, 3, 500)
    assert (train.logging_steps, train.save_total_limit, loaded.tokenize.max_length) == (100, 2, 512)


def test_every_setting_has_a_comment():
    bare = [line for line in SHIPPED.splitlines() if line.startswith("  ") and ":" in line and "#" not in line]
    assert bare == []


@pytest.mark.parametrize("written", ["5e-5", "5e-05", "0.00005"])
def test_a_learning_rate_is_a_number_however_dvc_writes_it(tmp_path, written):
    assert load_with(tmp_path, "learning_rate: auto", f"learning_rate: {written}").train.learning_rate == 5e-5


@pytest.mark.parametrize(("other", "name"), [("bf16", "bfloat16"), ("fp32", "float32")])
def test_a_precision_has_a_short_name_too(tmp_path, other, name):
    assert load_with(tmp_path, "precision: auto", f"precision: {other}").train.precision == name


@pytest.mark.parametrize(("written", "expected"), [("3.0", 3), ("0.05", 0.05), ("5", 5)])
def test_epochs_may_be_a_fraction_and_are_one_setting_however_they_are_written(tmp_path, written, expected):
    loaded = load_with(tmp_path, "  epochs: 3 ", f"  epochs: {written} ").train
    dumped = loaded.model_dump()["epochs"]
    assert (dumped, type(dumped)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  epochs: 3 ", "  epocs: 3 ", "train.epocs is no known key (its value: 3): is train.epochs meant?"),
        (
            "  split_seed: 0",
            "  split_sed: 0",
            "validate.split_sed is no known key (its value: 0): is validate.split_seed meant?",
        ),
        ("report:\n", "raport: 5\nreport:\n", "raport is no known key (its value: 5): is report meant?"),
        (
            "  hub: null",
            "  hub: null\n  foo: [1, 2]",
            "(its value: [1, 2]): params.yaml has all there are, docs/settings.md their names elsewhere",
        ),
        (
            "temperature: 0.8",
            "temperature: 1e-40",
            "evaluate.temperature is 1e-40, but must be greater than or equal to",
        ),
        ("temperature: 0.8", "temperature: 1e40", "evaluate.temperature is 1e+40, but must be less than or equal to"),
        ("  epochs: 3 ", "  epochs: five ", "train.epochs is 'five', but must be a valid number"),
        ("  epochs: 3 ", "  epochs: 0 ", "train.epochs is 0, but must be greater than 0"),
        ("  epochs: 3 ", "  epochs: true ", "train.epochs is True, but must be a valid number"),
        ("temperature: 0.8", "temperature: 0,8", "temperature is '0,8', but must be a valid number: write 0.8"),
        ("precision: auto", "precision: fp16", "is 'fp16', but must be 'auto', 'float32' or 'bfloat16'"),
        ("max_steps: null", "max_steps: 12,5", "train.max_steps is '12,5', but must be a valid integer"),
        ("learning_rate: auto", "learning_rate: 0,1", "is '0,1', but must be a valid number or 'auto': write 0.1"),
        ("prompts: auto", "prompts: Once", "evaluate.prompts is 'Once', but must be a valid list or 'auto'"),
        ("compile: auto", "compile: ja", "train.compile is 'ja', but must be a valid boolean or 'auto'"),
        ("language: auto", "language: русский", "but must be a language's code, such as ru or en, or auto"),
        ("max_steps: null", "max_steps: 2.5", "train.max_steps is 2.5, but must be a valid integer"),
        (
            "max_line_bytes: 16777216",
            "max_line_bytes: 9999999999",
            "validate.max_line_bytes is 9999999999, but must be",
        ),
        ("batch_size: 2", "batch_size: -2", "train.batch_size is -2, but must be greater than or equal to 1"),
        (
            "learning_rate: auto",
            "learning_rate: fast",
            "train.learning_rate is 'fast', but must be a valid number or 'auto'",
        ),
        ("learning_rate: auto", "learning_rate: .nan", "train.learning_rate is nan"),
        ("keep: best", "keep: worst", "train.keep is 'worst', but must be 'best' or 'last'"),
        ("test_fraction: 0.1", "test_fraction: 0.95", "must be below 1"),
        ("folder: model/embedded", "folder: /somewhere", "base.folder is '/somewhere'"),
        ("path: data/my_corpus.jsonl", "path: ../texts.jsonl", "corpus.path is '../texts.jsonl'"),
        ("revision: null", "revision: v1", "base revision is of a model of the Hub, but base.hub is null"),
        ("hub: null", "hub: gpt2", "base.hub is 'gpt2', but must be owner/name"),
        ("  epochs: 3 ", "  epochs: 3\n  epochs: 4 ", 'line 39: found duplicate key "epochs"'),
        ("train:\n", "training:\n", "training is no known key"),
        ("report:\n", "report: [\n", "params.yaml, line"),
        (
            "folder: model/embedded",
            "folder: https://huggingface.co/gpt2",
            "base.folder is 'https://huggingface.co/gpt2', ",
        ),
        ("folder: model/embedded", "folder: ~/gpt2", "base.folder is '~/gpt2', but must be a path inside"),
        ("folder: model/embedded", "folder: 'C:\\gpt2'", "but must be a path inside the repository"),
        ("folder: model/embedded", 'folder: "model\\0"', "base.folder is 'model\\x00', but must be one line"),
        ("path: data/my_corpus.jsonl", 'path: "a\\e[2Jb"', "corpus.path is 'a\\x1b[2Jb', but must be one line"),
        ("title: null", 'title: "a\\nb"', "report.title is 'a\\nb', but must be one line"),
        (
            "title: null",
            'title: "\\ud83d\\ude00 me"',
            "but must be one line of text without control characters or half a",
        ),
        ("  epochs: 3 ", '  epochs: !!float "" ', "params.yaml, a value cannot be read"),
        ("  epochs: 3 ", "  epochs: !!bool foo ", "params.yaml, a value cannot be read"),
        ("hub: null", "hub: a/..", "base.hub is 'a/..', but must be owner/name"),
        ("hub: null", "hub: ../a", "base.hub is '../a', but must be owner/name"),
        ("hub: null", "hub: имя/модель", "base.hub is 'имя/модель', but must be owner/name"),
        ("hub: null", "hub: a/b/c", "base.hub is 'a/b/c', but must be owner/name"),
        ("  epochs: 3 ", '  epochs: 3\n  ? "\\e]0;x\\a\u202e"\n  : 1\n', "train.\\x1b]0;x\\x07\\u202e is no known"),
        ("  epochs: 3 ", f"  epochs: {'9' * 5000} ", "params.yaml, line 38: a number of 5000 digits"),
        ("  epochs: 3 ", f"  epochs: 0x{'f' * 5000} ", "params.yaml, line 38: a number of 5002 digits"),
        ("  epochs: 3 ", f"  epochs: {'[' * 50_000} ", "params.yaml, line 38: more than 10 values within each other"),
        ("  epochs: 3 ", "  epochs: &a 3\n  seeds: *a\n", "line 39: an alias (*a): write the value itself"),
        ("  epochs: 3 ", "  epochs: 2024-99-99 ", "params.yaml, a value cannot be read: month must be in 1..12"),
        ("  epochs: 3 ", f"  epochs: {'x' * 5000} ", "but must be a valid number"),
        ("  epochs: 3 ", f"  {'y' * 1000}: 3 ", "is no known key"),
        ("report:\n", "".join(f"k{n}: 1\n" for n in range(2000)) + "report:\n", "and 1995 more"),
        ("corpus:\n", "#" * 2**18 + "\ncorpus:\n", "it has more than 262144 bytes"),
        ("  epochs: 3 ", "  epochs: \x00 ", "unacceptable character #x0000"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(tmp_path, old, new, expected):
    for number in (38, 39):  # the line of train.epochs, or that after it
        at = SHIPPED[: SHIPPED.index(old)].count("\n") + number - 37
        expected = expected.replace(f"line {number}", f"line {at}")
    with pytest.raises(UserError) as caught:
        load_with(tmp_path, old, new)
    message = str(caught.value)
    assert expected in message
    assert ("write" in message) == ("write" in expected)
    assert "\n" not in message
    assert "params.yaml" in message
    assert message.isprintable()
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("train.bf16", "train.precision"),
        ("train.per_device_train_batch_size", "train.batch_size"),
        ("train.max_seq_length", "tokenize.max_length"),
        ("train.model_name_or_path", "base.hub"),
        ("num_train_epochs", "train.epochs"),
        ("seed", "train.seed"),
        ("evaluate.epochs", "train.epochs"),
    ],
)
def test_a_setting_is_found_by_its_name_elsewhere_and_in_another_section(written, meant):
    assert params._likely(tuple(written.split("."))) == f"is {meant} meant?"


def test_the_names_elsewhere_are_those_that_the_page_about_settings_has():
    rows = re.findall(r"^\| (`\w+\.\w+`.*?) \| (.*) \|$", (HOME / "docs/settings.md").read_text(), re.MULTILINE)
    assert len(rows) > 10
    for here, elsewhere in rows:
        settings = re.findall(r"`(\w+\.\w+)", here)
        for name in re.findall(r"`(?:--)?(\w+)", elsewhere):
            assert params._likely((name,)) in [f"is {one} meant?" for one in settings], (here, name)
    known = {f"{at}.{name}" for at, section in params.load(PATH) for name in type(section).model_fields}
    assert {
        name.replace("validate.", "validate_.") for name in plain_yaml.parse(params.ELSEWHERE.read_bytes())
    } <= known


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (SHIPPED.replace("GPT-2, fine-tuned", "Чехов").encode("cp1251"), "it is not UTF-8: save it as UTF-8"),
        (SHIPPED.encode("utf-16"), "params.yaml, line 1: it is not UTF-8"),
        (b"", "params.yaml holds no settings: git checkout"),
        (b"- 1\n", "params.yaml holds no settings"),
        (b"\x00", "unacceptable character"),
        (BOMB.encode(), "params.yaml, line 2: an alias (*a): write the value itself"),
    ],
)
def test_a_file_that_is_none_of_settings_is_one_line(tmp_path, content, expected):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        params.load(path)
    assert expected in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED, encoding="utf-8-sig")
    assert params.load(path) == params.load(PATH)


@given(
    st.integers(0, len(SHIPPED.encode()) - 1), st.binary(max_size=6) | st.text(":[]{}&*!|>'\"%@`#-?,\n\t ", max_size=6)
)
def test_a_file_that_was_scribbled_in_is_read_or_refused_in_one_line(tmp_path_factory, place, scribble):
    path = tmp_path_factory.getbasetemp() / "params.yaml"
    content = SHIPPED.encode()
    path.write_bytes(
        content[:place] + (scribble if isinstance(scribble, bytes) else scribble.encode()) + content[place:]
    )
    try:
        params.load(path)
    except UserError as error:
        assert str(error).isprintable()  # noqa: PT017
        assert len(str(error)) < 1500  # noqa: PT017


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(UserError, match="run this in the top folder"):
        params.load(tmp_path / "params.yaml")
