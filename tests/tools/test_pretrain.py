"""The tool that makes a base from nothing: what it makes can be tuned, and a kill costs it little."""

import re
import signal

import pytest
from conftest import Inside, copy_project, lines_of, many_texts
from transformers import AutoModelForCausalLM, AutoTokenizer

from stages.lib.common import files
from tools import pretrain

SMALL = (
    *("--vocabulary", "300", "--layers", "1", "--width", "32", "--heads", "2", "--context", "64"),
    *("--batch-rows", "2", "--warmup", "5", "--save-seconds", "0"),
)


@pytest.fixture
def project(tmp_path):
    made = copy_project(tmp_path / "project", OMP_NUM_THREADS="1")
    made.path("texts.jsonl").write_bytes(lines_of(many_texts(200)) + b"not json\n")
    return made


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_model(project):
    command = ("python", "-m", "tools.pretrain", "--corpus", "texts.jsonl:3", *SMALL)
    output = project.ok(*command, "--output", "whole")
    assert output.count("left out: texts.jsonl, line 201: not JSON") == 1  # though it is read three times, and more
    killed = project.start(*command, "--output", "killed")
    for line in killed.stdout:
        if line.startswith("step 100/"):
            break
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert "goes on from step" in project.ok(*command, "--output", "killed")
    assert files.sha256_of_tree(project.path("killed")) == files.sha256_of_tree(project.path("whole"))

    model = AutoModelForCausalLM.from_pretrained(project.path("whole"))
    tokenizer = AutoTokenizer.from_pretrained(project.path("whole"))
    assert tokenizer.eos_token == "<|endoftext|>"
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert len(tokenizer) == model.config.vocab_size == 300
    assert model.config.activation_function == "gelu_new"


@pytest.mark.slow
def test_a_stopped_run_has_saved_its_last_step_and_goes_on_from_there(project):
    """Also where the next save was an hour away; and a state that is damaged is named."""
    command = ("python", "-m", "tools.pretrain", "--corpus", "texts.jsonl:3", *SMALL, "--save-seconds", "3600")
    stopped = project.start(*command, "--output", "stopped")
    for line in stopped.stdout:
        if line.startswith("step 100/"):
            stopped.send_signal(signal.SIGINT)
        last = line
    assert stopped.wait() == 130
    step = int(re.search(r"stopped at step (\d+) of \d+ \(SIGINT\): the same command goes on from there", last)[1])
    assert step >= 100
    state = project.path("stopped.work/state.pt")
    whole = state.read_bytes()
    state.write_bytes(whole[:1000])
    assert f"{state.relative_to(project.folder)} holds no state of a training: delete it" in project.fails(
        *command, "--output", "stopped"
    )
    state.write_bytes(whole)
    output = project.ok(*command, "--output", "stopped")
    assert f"goes on from step {step} of" in output
    assert "stopped is a base now: in params.yaml set base.folder: stopped, base.hub: null\n" in output
    assert project.ok(*command, "--output", "whole").endswith("tokenize.max_length: 64 or less; whole.work can go\n")
    assert files.sha256_of_tree(project.path("stopped")) == files.sha256_of_tree(project.path("whole"))


def test_state_of_another_command_is_not_taken_over(project):
    command = ("python", "-m", "tools.pretrain", "--corpus", "texts.jsonl", *SMALL, "--output", "made")
    inside = Inside(project.folder)
    inside.ok(*command)
    assert "belongs to another command" in inside.fails(*command, "--seed", "1")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--warmup", "0"), "0 is below 1"),
        (("--heads", "3"), "argument --heads: 32 is no multiple of 3"),
        (("--vocabulary", "100"), "100 is below 257"),
        (("--batch-rows", "9999"), "rows make no step of 9999: give more texts, or lower --batch-rows"),
        (
            ("--evaluate", "empty.jsonl"),
            "empty.jsonl has no document: files are JSON Lines, as tools.collect makes them",
        ),
        (("--corpus", "texts.jsonl:0"), "texts.jsonl:0 is not there"),
        (("--corpus", "plain.txt"), "plain.txt has no document: files are JSON Lines, as tools.collect makes them"),
        (("--output", "plain.txt"), "argument --output: plain.txt is a file, and no folder"),
        (("--rate", "nan"), "argument --rate: nan is below 1e-06"),
        (("--matrix-rate", "-1"), "argument --matrix-rate: -1 is below 1e-06"),
        (("--seed", "-1"), "argument --seed: -1 is below 0"),
        (("--save-seconds", "-1"), "argument --save-seconds: -1 is below 0"),
    ],
)
def test_what_cannot_be_trained_is_one_line(project, arguments, expected):
    project.path("empty.jsonl").touch()
    project.path("plain.txt").write_text("Просто текст.\n", encoding="utf-8")
    command = ("python", "-m", "tools.pretrain", "--corpus", "texts.jsonl", *SMALL, "--output", "made", *arguments)
    assert expected in Inside(project.folder).fails(*command).splitlines()[-1]
    assert not project.path("made").exists()


def test_the_rate_falls_to_zero_where_the_warm_up_is_longer_than_the_run():
    rates = [pretrain.schedule(step, 8, 100) for step in range(9)]
    assert max(rates) == 1
    assert rates[8] == 0
