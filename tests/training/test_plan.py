"""How long a run is, and how fast it learns."""

import pytest
from tiny_training import SETTINGS

from stages.lib.common import params
from stages.lib.training import plan
from stages.lib.training.plan import Plan


@pytest.mark.parametrize(
    ("setting", "steps", "expected"), [(100, 30, 1), (100, 400, 20), (100, 9000, 100), (5, 9000, 5)]
)
def test_a_short_run_still_has_some_twenty_points(setting, steps, expected):
    settings = params.Train(**{**SETTINGS, "epochs": 1, "logging_steps": setting})
    assert Plan.of(settings, rows=steps * 3).logging_steps == expected


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"epochs": 0.05}, 1),
        ({"epochs": 0.5}, 5),
        ({"epochs": 1.25}, 13),
        ({"max_steps": 7}, 7),
        ({"max_steps": 70}, 70),
    ],
)
def test_a_part_of_an_epoch_and_a_number_of_steps_are_lengths_too(changes, steps):
    assert Plan.of(params.Train(**{**SETTINGS, "epochs": 3, "batch_size": 2, **changes}), rows=20).steps == steps


def test_auto_is_the_customary_rate_for_gpt2_and_larger_for_smaller_models():
    assert plan.learning_rate("auto", plan.GPT2_PARAMETERS) == 5e-5
    assert plan.learning_rate("auto", 6_000_000) > 5e-5
    assert plan.learning_rate("auto", 1_500_000_000) < 5e-5
    assert plan.learning_rate(3e-4, 6_000_000) == 3e-4
