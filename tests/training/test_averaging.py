"""The weights between base and trained model: which validation finds best, and that those are handed over."""

import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages.lib.model import models, scoring
from stages.lib.rows import tokens
from stages.lib.rows.packing import documents_of
from stages.lib.training import averaging


def found(curve):
    """What is found on a curve, and how often that was asked for."""
    asked = []
    share, figure = averaging.best_share(curve(0.0), curve(1.0), lambda share: asked.append(share) or curve(share))
    assert len(asked) <= averaging.LOOKS
    assert figure == curve(share)
    return share, figure, len(asked)


@pytest.mark.parametrize("lowest", [0.0, 0.04, 0.17, 0.5, 0.83, 1.0])
def test_the_lowest_point_of_a_parabola_is_found_at_the_second_look(lowest):
    share, _, looks = found(lambda share: 1 + (share - lowest) ** 2)
    assert share == pytest.approx(lowest, abs=averaging._NEAR)
    assert looks <= 3


def test_curves_that_bend_once_are_found_near_their_lowest_point():
    rnd = random.Random(0)
    for _ in range(300):
        steep, flat, lowest = rnd.uniform(1, 6), rnd.uniform(0.1, 2), rnd.random()

        def curve(share, steep=steep, flat=flat, lowest=lowest):
            return flat * abs(share - lowest) ** 2 + 0.1 * (np.exp(steep * (share - lowest)) - steep * (share - lowest))

        on_a_grid = min(curve(share) for share in np.linspace(0, 1, 201))
        best, figure, _ = found(curve)
        ends = curve(0.0), curve(1.0)
        assert figure - on_a_grid <= max(0.2 * (min(ends) - on_a_grid), 0.01 * (max(ends) - on_a_grid)), (best, lowest)


@pytest.mark.parametrize(("trained", "base", "expected"), [(1.0, 2.0, (0.0, 1.0)), (2.0, 1.0, (1.0, 1.0))])
def test_where_all_between_is_worse_the_better_end_stays(trained, base, expected):
    assert averaging.best_share(trained, base, lambda share: 3.0) == expected
    assert averaging.best_share(trained, base, lambda share: trained + share * (base - trained)) == expected


def test_a_number_is_taken_as_it_is_and_without_validation_nothing_is_asked(capsys):
    def never(step, share):
        raise AssertionError(share)

    assert averaging.choose("auto", {9: None}, None, never) == (9, 0.0, None)
    assert averaging.choose(0, {5: 1.5, 9: 1.6}, 2.0, never) == (5, 0.0, 1.5)
    assert not capsys.readouterr().out
    assert averaging.choose(0.3, {9: None}, None, never) == (9, 0.3, None)
    assert "train: 30% of the way back towards the base, as train.toward_base says\n" in capsys.readouterr().out
    assert averaging.choose(0.3, {5: 1.5, 9: 1.6}, 2.0, lambda step, share: 1.0 + share) == (5, 0.3, 1.3)
    assert "says, validation 1.3000 bits per byte" in capsys.readouterr().out
    assert averaging.choose("auto", {9: 1.0}, 0.5, lambda step, share: 2.0)[1] == 1
    assert "the base is kept as it is" in capsys.readouterr().out


@pytest.mark.parametrize(("gain", "expected"), [(0.3, 9), (0.1, 5)])
def test_the_last_step_is_taken_where_it_does_better_on_the_way_back(gain, expected, capsys):
    """Each curve over the share is a parabola, lowest in the middle; that of the last step begins higher."""
    ends, base = {5: 1.0, 9: 1.1}, 1.2

    def ask(step, share):
        straight = ends[step] + share * (base - ends[step])
        return straight - 4 * share * (1 - share) * (gain if step == 9 else 0.15)

    step, share, bits = averaging.choose("auto", ends, base, ask)
    assert step == expected
    on_a_grid = min(ask(step, one) for one in np.linspace(0, 1, 101) for step in ends)
    assert bits == pytest.approx(ask(step, share)) == pytest.approx(on_a_grid, abs=1e-3)
    assert ("train: from step 9 on, which does better there" in capsys.readouterr().out) == (expected == 9)


def between(base, trained, share):
    """The weights between two files', in float64."""
    before, after = load_file(base), load_file(trained)
    return {name: after[name].double() + share * (before[name].double() - after[name].double()) for name in after}


def validation(project, weights):
    base = project.path("model/base")
    model = models.load(base)
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
    documents = documents_of(
        tokens.read_rows(project.path("data/tokens/validation.arrow")), tokens.Tokenizer(base).closing
    )
    return scoring.total(scoring.score_documents(model, documents)).bits_per_byte


@pytest.mark.parametrize("changes", [{}, {"train__lora_rank": "4"}], ids=["all weights", "LoRA"])
def test_the_model_is_the_one_between_that_validation_likes_best(project, inside, changes):
    rnd = random.Random(0)  # texts of which nothing can be learned but the letters
    project.write_corpus(["".join(rnd.choices("абвгде ", k=80)) for _ in range(24)])
    plain = {"train__epochs": "15", "train__learning_rate": "0.02", "train__keep": "last", "train__toward_base": "0"}
    project.set(**plain | changes)
    for stage in ("validate", "tokenize", "train"):
        inside.ok("python", "-m", f"stages.{stage}")
    before = project.json("logs/train.json")
    assert before["toward_base"] == 0
    model = project.path("model/finetuned/model.safetensors")
    trained = model.rename(project.path("trained.safetensors"))

    project.set(train__toward_base="auto")
    said = inside.ok("python", "-m", "stages.train")
    figures = project.json("logs/train.json")
    share, bits = figures["toward_base"], figures["validation_bits_per_byte"]
    assert 0.1 < share < 1
    assert f"{share:.0%} of the way back towards the base, validation {bits:.4f} bits per byte" in said
    base = project.path("model/base/model.safetensors")
    expected, saved = between(base, trained, share), load_file(model)
    assert all(torch.allclose(saved[name].double(), expected[name], rtol=0, atol=1e-6) for name in expected)
    assert bits == pytest.approx(validation(project, expected), rel=1e-3)
    curve = [validation(project, between(base, trained, one)) for one in np.linspace(0, 1, 11)]
    assert curve[0] == pytest.approx(before["validation_bits_per_byte"], rel=1e-3)
    assert bits < min(curve) + 0.1 * (min(curve[0], curve[-1]) - min(curve)) < min(curve[0], curve[-1])

    project.set(train__toward_base="0.25")
    said = inside.ok("python", "-m", "stages.train")
    expected, saved = between(base, trained, 0.25), load_file(model)
    assert all(torch.allclose(saved[name].double(), expected[name], rtol=0, atol=1e-6) for name in expected)
    quarter = project.json("logs/train.json")
    assert quarter["toward_base"] == 0.25
    bits = quarter["validation_bits_per_byte"]
    way = "25% of the way back towards the base, as train.toward_base says"
    assert f"{way}, validation {bits:.4f} bits per byte" in said
    assert quarter["validation_bits_per_byte"] == pytest.approx(validation(project, expected), rel=1e-3)
