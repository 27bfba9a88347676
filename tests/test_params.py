"""The settings: what is in params.yaml, and what is refused."""

from pathlib import Path

import pytest

from stages.lib import params
from stages.lib.cli import UserError

PATH = Path(__file__).resolve().parent.parent / "params.yaml"
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
            "(its value: [1, 2]): known are base.folder, base.hub, base.revision",
        ),
        (
            "temperature: 0.8",
            "temperature: 1e-40",
            "evaluate.temperature is 1e-40, but must be greater than or equal to",
        ),
        ("temperature: 0.8", "temperature: 1e40", "evaluate.temperature is 1e+40, but must be less than or equal to"),
        ("  epochs: 3 ", "  epochs: five ", "train.epochs is 'five', but must be a valid integer"),
        ("  epochs: 3 ", "  epochs: 2.5 ", "train.epochs is 2.5, but must be a valid integer"),
        ("  epochs: 3 ", "  epochs: true ", "train.epochs is True, but must be a valid integer"),
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
        ("  epochs: 3 ", "  epochs: 3\n  epochs: 4 ", 'line 38: found duplicate key "epochs"'),
        ("train:\n", "training:\n", "training is no known key"),
        ("report:\n", "report: [\n", "params.yaml, line"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(tmp_path, old, new, expected):
    if "line 38" in expected:
        expected = expected.replace("38", str(SHIPPED[: SHIPPED.index(old)].count("\n") + 2))
    with pytest.raises(UserError) as caught:
        load_with(tmp_path, old, new)
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message
    assert "params.yaml" in message


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(UserError, match="run this in the top folder"):
        params.load(tmp_path / "params.yaml")
