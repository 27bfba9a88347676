"""What the base model allows of the settings, and what goes on below the lengths that are usual."""

import pytest
import torch
from conftest import SETTINGS, make_base, tiny_project
from transformers import GPT2LMHeadModel

from stages.lib.bases import conversion
from stages.lib.common import params
from stages.lib.common.cli import UserError
from stages.lib.model import generation, models
from stages.lib.rows import limits, tokens

WORDS = "Кот смотрел на снег так, будто платил за него сам. " * 9


def settings(**changes):
    """The shipped settings for a model of 64 tokens and 2 layers, some of them changed; `a__b=1` is `a.b: 1`."""
    content = params.load(SETTINGS).model_dump(by_alias=True)
    for name, value in {"tokenize__max_length": 64, **changes}.items():
        section, key = name.split("__")
        content[section][key] = value
    return params.Params.model_validate(content)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokenize__max_length": 65}, "tokenize.max_length is 65, but the base model sees 64 tokens at most"),
        ({"evaluate__stride": 64}, "evaluate.stride is 64, but must be below the 64 tokens that the base model sees"),
        ({"train__freeze_layers": 2}, "train.freeze_layers is 2, but the base model has 2 layers: leave one to train"),
        ({"evaluate__prompts": ["Кот", WORDS]}, r"evaluate.prompts, 'Кот смотрел.*': the prompt has \d+ tokens"),
    ],
)
def test_what_the_base_does_not_allow_is_one_line(tiny_base, changes, expected):
    with pytest.raises(UserError, match=expected) as caught:
        limits.check(settings(**changes), tiny_base)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("changes", [{}, {"evaluate__stride": 63}, {"train__freeze_layers": 1}])
def test_what_is_just_within_is_allowed(tiny_base, changes):
    limits.check(settings(**changes), tiny_base)


def test_a_prompt_may_be_as_long_as_leaves_room_for_one_more_token(tiny_base):
    tokenizer = tokens.Tokenizer(tiny_base)
    model = models.load(tiny_base)
    allowed, refused = "q" * 62, "q" * 63  # a token each: the tiny vocabulary has no word with a q
    limits.check(settings(evaluate__prompts=[allowed]), tiny_base)
    assert len(generation.continue_text(model, tokenizer, allowed, generation.Sampling(5), 1).ids) <= 1
    with pytest.raises(UserError, match="the prompt has 63 tokens, the model sees 62 at most"):
        limits.check(settings(evaluate__prompts=[refused]), tiny_base)


@pytest.mark.slow
def test_a_base_that_sees_eight_tokens_goes_through_the_pipeline(tiny_base, tmp_path):
    project = tiny_project(tmp_path / "project", tiny_base)
    make_base(project.path("model/embedded"), context=8)
    project.set(
        tokenize__max_length="8",
        train__epochs="1",
        evaluate__new_tokens="200",
        evaluate__prompts='["Кот", "Кот ", "\\n"]',
    )
    output = project.ok("dvc", "repro")
    assert "evaluate: a context of 8 tokens is too short to show a copy: not tried" in output
    assert "prompt 'Кот ': white space at its end is written by the model" in output
    figures = project.json("logs/evaluate.json")
    assert figures["documents"] > 0
    assert figures["tuned"]["copying"]["training"] == {
        "prompts": 0,
        "longest_run": None,
        "mean_longest_run": None,
        "share_copied": None,
    }
    assert project.ok("python", "generate.py", "Кот", "--seed", "1").startswith("Кот")


def test_what_the_base_does_not_allow_is_refused_when_it_is_taken(tiny_base, tmp_path):
    project = tiny_project(tmp_path / "project", tiny_base)
    project.set(train__freeze_layers="2")
    assert "train.freeze_layers is 2" in project.fails("python", "-m", "stages.base")
    assert not project.path("model/base").exists()


# Numbers that are none


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tiny_base, tmp_path, bad):
    model = GPT2LMHeadModel.from_pretrained(tiny_base)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[3, 5] = bad
    models.save_tuned(model, normal(tiny_base, tmp_path / "base"), tmp_path / "bad")
    for take in (models.load, lambda folder: conversion.normalise(folder, str(folder), tmp_path / "again")):
        with pytest.raises(UserError, match=r"bad: its weights are damaged: transformer.h.1.mlp.c_fc.weight holds"):
            take(tmp_path / "bad")


def normal(source, folder):
    folder.mkdir()
    conversion.normalise(source, "tiny", folder)
    return folder


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_that_runs_over_is_one_line(tiny_base, temperature):
    model, tokenizer = models.load(tiny_base), tokens.Tokenizer(tiny_base)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(1e38)
    with pytest.raises(UserError, match="the model predicts what is no number"):
        generation.continue_text(model, tokenizer, "Кот", generation.Sampling(5, temperature), 0)


def test_scores_that_are_no_numbers_are_one_line(inside):
    project = inside
    model = GPT2LMHeadModel.from_pretrained(project.path("model/finetuned"))
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(1e38)
    models.save_tuned(model, project.path("model/base"), project.path("model/finetuned"))
    error = project.fails("python", "-m", "stages.evaluate")
    (line,) = [line for line in error.splitlines() if line.startswith("error:")]
    assert "model/finetuned gives the document of line " in line


@pytest.mark.parametrize(
    "chosen",
    [
        {"temperature": params.LEAST_TEMPERATURE},
        {"temperature": params.GREATEST_TEMPERATURE},
        {"top_p": 1e-40},
        {"top_k": 10**9},
        {"repetition_penalty": 100.0},
    ],
    ids=str,
)
def test_settings_at_their_bounds_write(tiny_base, chosen):
    model, tokenizer = models.load(tiny_base), tokens.Tokenizer(tiny_base)
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(1e6)  # logits of a size that no real model has
    written = [
        generation.continue_text(model, tokenizer, "Кот ", generation.Sampling(9, **chosen), 1) for _ in range(2)
    ]
    assert written[0] == written[1]
    assert written[0].ids
