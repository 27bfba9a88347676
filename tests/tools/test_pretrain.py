"""The tool that makes a base from nothing: what it makes can be tuned, and a kill costs it little."""

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
        (("--evaluate", "empty.jsonl"), "empty.jsonl has no document to measure"),
        (("--corpus", "texts.jsonl:0"), "texts.jsonl:0 is not there"),
    ],
)
def test_what_cannot_be_trained_is_one_line(project, arguments, expected):
    project.path("empty.jsonl").touch()
    command = ("python", "-m", "tools.pretrain", "--corpus", "texts.jsonl", *SMALL, "--output", "made", *arguments)
    assert expected in Inside(project.folder).fails(*command).splitlines()[-1]
    assert not project.path("made").exists()


def test_the_rate_falls_to_zero_where_the_warm_up_is_longer_than_the_run():
    rates = [pretrain.schedule(step, 8, 100) for step in range(9)]
    assert max(rates) == 1
    assert rates[8] == 0
