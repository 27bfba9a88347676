"""generate.py, as a user types it."""

import os
import pty
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import TEXTS, copy_project, environment
from transformers import AutoTokenizer, GPT2LMHeadModel

from stages.lib import models, sampling, tokens
from stages.lib.cli import UserError


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_base):
    made = copy_project(tmp_path_factory.mktemp("project"), OMP_NUM_THREADS="1")
    for name in ("base", "finetuned"):
        shutil.rmtree(made.path(f"model/{name}"), ignore_errors=True)
        made.path(f"model/{name}").mkdir(parents=True)
        models.normalise(tiny_base, "tiny", made.path(f"model/{name}"))
    tuned = models.load(made.path("model/finetuned"))
    with torch.no_grad():
        tuned.transformer.wte.weight.mul_(0.5)
    models.save_tuned(tuned, made.path("model/base"), made.path("model/finetuned"))
    return made


def test_the_same_seed_writes_the_same_text(project):
    first = project.ok("python", "generate.py", "Кот", "--seed", "3", "--tokens", "30")
    assert first.startswith("Кот")
    assert len(first) > len("Кот\n")
    assert project.ok("python", "generate.py", "Кот", "--seed", "3", "--tokens", "30") == first
    assert project.ok("python", "generate.py", "Кот", "--seed", "4", "--tokens", "30") != first


def test_without_a_seed_it_says_which_one_writes_the_text_again(project):
    result = project.run("python", "generate.py", "Кот", "--tokens", "20")
    seed = result.stderr.split("--seed ")[1].split()[0]
    assert project.ok("python", "generate.py", "Кот", "--tokens", "20", "--seed", seed) == result.stdout


def test_base_uses_the_model_training_started_from(project):
    greedy = ("python", "generate.py", "Утром", "--seed", "0", "--temperature", "0", "--tokens", "12")
    assert project.ok(*greedy) != project.ok(*greedy, "--base")


def test_the_likeliest_tokens_are_those_transformers_chooses(project):
    folder = project.path("model/base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    ids = torch.tensor([tokenizer("Утром")["input_ids"]])
    expected = []
    for _ in range(12):
        with torch.no_grad():
            expected.append(model(ids).logits[0, -1].argmax().item())
        if expected[-1] == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, torch.tensor([[expected[-1]]])], 1)
    text = tokenizer.decode(expected, skip_special_tokens=True).rstrip(sampling.BROKEN)
    ours = sampling.continue_text(
        models.load(folder), tokens.load_tokenizer(folder), "Утром", sampling.Sampling(12, temperature=0), seed=0
    )
    assert ours.text == text
    assert ours.ended == (expected[-1] == tokenizer.eos_token_id)


def test_the_pieces_make_up_the_text_and_no_character_comes_out_broken(tiny_base):
    model, tokenizer = models.load(tiny_base), tokens.load_tokenizer(tiny_base)
    count = 0
    for seed in range(10):
        pieces = []
        drawn = sampling.Sampling(60, temperature=2.0, top_p=1.0)
        whole = sampling.continue_text(model, tokenizer, "Ёж 🐈", drawn, seed, pieces.append)
        assert pieces.pop(0) == "Ёж 🐈"
        count += len(pieces)
        # A random model's bytes are often no characters at all; they are decoded alike at once and in pieces.
        assert "".join(pieces).rstrip(sampling.BROKEN) == whole.text
    assert count > 50


def test_characters_of_several_tokens_come_whole(tiny_base, monkeypatch):
    model, tokenizer = models.load(tiny_base), tokens.load_tokenizer(tiny_base)
    text = "Ёж и 🐈‍⬛ у реки"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert len(ids) > len(text.split())

    def write_that(prompt_ids, *, streamer, **_):
        streamer.put(prompt_ids[0])
        for token in ids:
            streamer.put(torch.tensor([token]))
        streamer.end()
        return torch.cat([prompt_ids, torch.tensor([ids])], 1)

    monkeypatch.setattr(model, "generate", write_that)
    pieces = []
    sampling.continue_text(model, tokenizer, "", sampling.Sampling(1), 0, pieces.append)
    assert "".join(pieces) == text
    assert pieces[0] == ""  # the prompt
    assert all(sampling.BROKEN not in piece for piece in pieces)


def test_prompts_come_from_a_pipe_too(project):
    output = project.ok("python", "generate.py", "--tokens", "5", "--seed", "1", stdin="Кот\nСнег\n")
    assert output.startswith("Кот")
    assert "\nСнег" in output


def test_on_a_terminal_it_asks_until_an_empty_line(project):
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "generate.py", "--tokens", "5", "--seed", "1"],
        cwd=project.folder,
        env=environment(TERM="dumb"),
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(terminal)
    os.write(controller, "Кот\n\n".encode())
    output, error = process.communicate(timeout=120)
    os.close(controller)
    assert process.returncode == 0, error
    assert "an empty line ends" in output.decode()
    assert "Кот" in output.decode()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--tokens", "0", "x"], "0 is below 1"),
        (["--temperature", "-1", "x"], "-1 is below 0"),
        (["--seed", "99999999999999999999", "x"], "is above 4294967295"),
        (["--top-p", "1.5", "x"], "1.5 is not above 0 and at most 1"),
        (["слово " * 200], "the prompt has"),
    ],
)
def test_a_mistake_is_one_clear_line(project, arguments, expected):
    assert expected in project.fails("python", "generate.py", *arguments).splitlines()[-1]


def test_before_the_first_run_it_says_what_to_do(tmp_path):
    project = copy_project(tmp_path / "project", OMP_NUM_THREADS="1")
    assert "model/finetuned holds no model yet: run dvc repro" in project.fails("python", "generate.py", "Кот")


def test_a_prompt_that_fills_the_context_is_refused(tiny_base):
    with pytest.raises(UserError, match="the model sees 62 at most"):
        sampling.continue_text(
            models.load(tiny_base), tokens.load_tokenizer(tiny_base), TEXTS[0] * 9, sampling.Sampling(5), 0
        )
