"""A run's curves and samples in TensorBoard, read back as TensorBoard reads them."""

import shutil
import subprocess

import pytest
from conftest import SETTINGS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stages.lib.common import params
from stages.lib.training.board import Board, what_differs
from stages.lib.training.record import Record

ONE, OTHER = "a" * 64, "b" * 64


def drawn(parent, name, steps, fingerprint=ONE, start=0):
    board = Board(parent, name, fingerprint, start)
    for step in steps:
        board.training({"step": step, "loss": 5.0 - step, "learning_rate": 0.1, "gradient_norm": 1.0}, 100.0)
    board.samples(steps[-1], ["слово " * 40 + "\n# no heading\n\nконец"])
    board.close()
    return EventAccumulator(str(parent / board.name)).Reload()


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """A repository whose last commit has the settings as they ship."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(SETTINGS, tmp_path)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=T", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], check=True)
    return tmp_path


def settings(**sections):
    content = params.load(SETTINGS).model_dump(by_alias=True)
    for section, values in sections.items():
        content[section] |= values
    return params.Params.model_validate(content)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"train": {"epochs": 5, "learning_rate": 5e-5}}, "epochs=5 learning_rate=5e-05"),
        ({"base": {"hub": "openai-community/gpt2"}, "report": {"language": "ru"}}, "hub=openai-community_gpt2"),
        ({"corpus": {"path": "data/" + "х" * 300}}, "path=data_" + "х" * 35),
        ({"corpus": {"path": "data/" + "文" * 300}}, "path=data_" + "文" * 23),
    ],
    ids=["nothing", "two", "a slash", "long", "longer in bytes"],
)
def test_a_run_is_told_by_the_settings_that_are_not_those_of_the_last_commit(committed, changes, expected):
    assert what_differs(settings(**changes)) == expected


def test_without_git_nothing_differs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert what_differs(settings(train={"epochs": 5})) == ""
    monkeypatch.setenv("PATH", "")  # nor is it installed
    assert what_differs(settings(train={"epochs": 5})) == ""


def test_a_run_that_goes_on_finds_its_folder_by_the_fingerprint(tmp_path):
    for step, differs in ((0, "epochs=5"), (2, "epochs=5 seed=1"), (3, "")):
        Board(tmp_path, "run", ONE, step, differs).close()
    assert [path.name for path in tmp_path.iterdir()] == ["run-aaaaaaaa"]
    assert len(list(tmp_path.glob("*/events*"))) == 3


def steps_of(events):
    return [event.step for event in events.Scalars("train/loss")]


def test_a_fresh_run_draws_over_what_an_earlier_one_of_its_name_left(tmp_path):
    drawn(tmp_path, "run", [1, 2, 3])
    assert steps_of(drawn(tmp_path, "run", [1, 2])) == [1, 2]


def test_runs_of_other_inputs_stand_side_by_side(tmp_path):
    drawn(tmp_path, "run", [1, 2])
    drawn(tmp_path, "run", [1], OTHER)
    assert {path.name for path in tmp_path.iterdir()} == {"run-aaaaaaaa", "run-bbbbbbbb"}


def test_a_run_that_goes_on_under_another_name_draws_its_curve_on(tmp_path):
    drawn(tmp_path, "first", [1, 2, 3, 4])
    events = drawn(tmp_path, "second", [2, 3, 4, 5], start=2)
    assert [path.name for path in tmp_path.iterdir()] == ["second-aaaaaaaa"]
    # Each step is drawn once: what the interrupted run had drawn from there on is forgotten.
    assert steps_of(events) == [1, 2, 3, 4, 5]


def test_a_run_that_had_no_curve_in_tensorboard_is_drawn_from_its_beginning(tmp_path):
    record = Record()
    record.curve = [{"step": step, "loss": 9.0, "learning_rate": 0.1, "gradient_norm": 1.0} for step in (1, 2)]
    record.validation = [{"step": step, "loss": 3.0, "bits_per_byte": 2.0} for step in (0, 2)]
    board = Board(tmp_path, "run", ONE, 2, record=record)
    for step in (2, 3):  # as the run goes on
        board.training({**record.curve[0], "step": step})
    board.close()
    (first,) = tmp_path.glob("*/events*")
    events = EventAccumulator(str(first)).Reload()
    assert steps_of(events) == [1, 2, 3]
    assert [event.step for event in events.Scalars("validation/bits_per_byte")] == [0]
    Board(tmp_path, "run", ONE, 3, record=record).close()
    (second,) = set(tmp_path.glob("*/events*")) - {first}
    assert EventAccumulator(str(second)).Reload().Tags()["scalars"] == []


def test_samples_stay_as_they_are_in_lines_that_fit(tmp_path):
    (event,) = drawn(tmp_path, "run", [1]).Tensors("sample/1/text_summary")
    lines = event.tensor_proto.string_val[0].decode().split("\n")
    assert all(line.startswith("    ") and len(line) <= 4 + 90 for line in lines)
    assert [line[4:] for line in lines[-3:]] == ["# no heading", "", "конец"]
    assert " ".join(line.strip() for line in lines[:-3]) == ("слово " * 40).strip()
