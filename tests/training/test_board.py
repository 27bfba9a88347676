"""A run's curves and samples in TensorBoard, read back as TensorBoard reads them."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stages.lib.training.board import Board

ONE, OTHER = "a" * 64, "b" * 64


def drawn(parent, name, steps, fingerprint=ONE, start=0):
    board = Board(parent, name, fingerprint, start)
    for step in steps:
        board.training({"step": step, "loss": 5.0 - step, "learning_rate": 0.1, "gradient_norm": 1.0}, 100.0)
    board.samples(steps[-1], ["слово " * 40 + "\n# no heading\n\nконец"])
    board.close()
    return EventAccumulator(str(parent / board.name)).Reload()


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


def test_samples_stay_as_they_are_in_lines_that_fit(tmp_path):
    (event,) = drawn(tmp_path, "run", [1]).Tensors("sample/1/text_summary")
    lines = event.tensor_proto.string_val[0].decode().split("\n")
    assert all(line.startswith("    ") and len(line) <= 4 + 90 for line in lines)
    assert [line[4:] for line in lines[-3:]] == ["# no heading", "", "конец"]
    assert " ".join(line.strip() for line in lines[:-3]) == ("слово " * 40).strip()
