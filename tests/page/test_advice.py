"""What the figures of a run are said to mean: each trouble has its warning, and a good run has none."""

import copy
import re

import pytest
import yaml
from conftest import HOME

from stages.lib.page import advice
from stages.lib.page.language import Words

ENGLISH = Words("en")
pytestmark = pytest.mark.usefixtures("at_home")


GOOD = {
    "settings": {
        "validate": {"near_duplicates": "report"},
        "train": {"epochs": 3, "keep": "best"},
        "evaluate": {"new_tokens": 200},
        "report": {"corpus_language": "ru"},
    },
    "base": {"source": "hub"},
    "validate": {
        "lines": 500,
        "kept": 500,
        "near_duplicates": {"documents": 0},
        "rejected": 0,
        "duplicates": 0,
        "marks": [],
        "few_long_documents": False,
        "leakage": {"leaking_share": 0.0, "run_of_words": 13},
    },
    "tokenize": {"vocabulary_fits": True, "bytes_per_token": 4.0, "train": {"tokens": 50_000}, "dropped_tokens": 0},
    "train": {"best_step": 156, "learning_rate": 5e-4},
    "validation": [{"bits_per_byte": bits} for bits in ("1.33", "1.21", "1.2001", "1.2000")],
    "evaluate": {
        "documents": 38,
        "comparison": {"difference": -0.14, "low": -0.16, "high": -0.12, "share_better": 1.0},
        "tuned": {
            "samples": {"copied": 0.0, "ended": 0.5, "broken": 0.0, "repetition": 0.01},
            "copying": {"training": {"share_copied": 0.05}, "held_out": {"share_copied": 0.0}},
        },
    },
}


def changed(**changes):
    """The figures of a good run with some of them changed; `a__b=1` is facts["a"]["b"] = 1."""
    facts = copy.deepcopy(GOOD)
    for path, value in changes.items():
        *outer, last = path.split("__")
        place = facts
        for name in outer:
            place = place[name]
        place[last] = value
    return facts


def validations(*bits):
    return [{"bits_per_byte": str(one)} for one in bits]


def test_a_good_run_has_no_warning():
    assert advice.warnings(GOOD, ENGLISH) == []


TROUBLES = [
    ({"evaluate__documents": 0, "evaluate__comparison": None}, "whether the model got better is not known", None),
    ({"evaluate__documents": 19}, "Only 19 test documents", None),
    ({"evaluate__comparison__high": 0.0}, "may be chance: its 95 % interval includes 0", None),
    (
        {"evaluate__comparison__low": 0.01, "evaluate__comparison__high": 0.02},
        "worse on texts it had not seen",
        "train.learning_rate=0.00017",
    ),
    ({"validation": []}, "No document fell into the validation split", None),
    ({"validation": validations(1.3, 1.31, 1.3)}, "never beaten", "train.learning_rate=0.00017"),
    (
        {"validation": validations(1.3, 1.2, 1.212), "train__best_step": 52},
        "Overfitting: after step 52 the validation got worse",
        "train.epochs=1",
    ),
    (
        {"validation": validations(1.3, 1.2, 1.212), "settings__train__keep": "last"},
        "train.keep=best keeps the better weights",
        "train.keep=best",
    ),
    ({"validate__rejected": 3}, "3 lines were left out: data/rejected.jsonl", None),
    (
        {"validate__marks": [{"mark": "<|endoftext|>"}, {"mark": "</s>"}]},
        "The texts hold <|endoftext|>, </s>, with which other tools part texts",
        None,
    ),
    (
        {"evaluate__documents": 0, "validate__few_long_documents": True},
        "whether the model got better is not known. Divide your long documents",
        None,
    ),
    ({"validate__duplicates": 51}, "10\u00a0% of the lines repeat another one", None),
    (
        {"validate__near_duplicates__documents": 51},
        "10\u00a0% of the documents are nearly the same as an earlier one",
        "validate.near_duplicates=drop",
    ),
    ({"validate__leakage__leaking_share": 0.011}, "Leakage: 1.1\u00a0% of the held-out documents share 13 words", None),
    (
        {"tokenize__vocabulary_fits": False, "tokenize__bytes_per_token": 1.68},
        "made for another language: a token stands for 1.7 bytes of your texts",
        None,
    ),
    ({"tokenize__train__tokens": 19_999}, "Little to learn from: 19\u202f999 training tokens", None),
    ({"tokenize__dropped_tokens": 7}, "7 tokens of long documents were left out", "tokenize.overlong=split"),
    ({"evaluate__tuned__copying__training__share_copied": 0.2}, "Memorised: given their beginnings", None),
    ({"evaluate__tuned__samples__copied": 0.1}, "repeat a training text word for word", None),
    ({"evaluate__tuned__samples__ended": 0.0}, "No sample ended by itself", "evaluate.new_tokens=400"),
    ({"evaluate__tuned__samples__broken": 0.1}, "bytes that are no characters", None),
    ({"evaluate__tuned__samples__repetition": 0.3}, "repeat themselves", None),
]


@pytest.mark.parametrize(("changes", "text", "command"), TROUBLES)
def test_each_trouble_has_its_warning(changes, text, command):
    (finding,) = advice.warnings(changed(**changes), ENGLISH)
    assert text in finding.text
    assert finding.command == (f"dvc exp run -S {command}" if command else None)


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluate__documents": 20},
        {"evaluate__comparison__high": -0.0001},
        {"validation": validations(1.3, 1.2, 1.2119)},
        {"validate__duplicates": 50},
        {"validate__near_duplicates__documents": 50},
        {"validate__near_duplicates__documents": 400, "settings__validate__near_duplicates": "keep"},
        {"validate__leakage__leaking_share": 0.01},
        {"validate__leakage__leaking_share": None},  # no held-out documents
        {"tokenize__train__tokens": 20_000},
        {"evaluate__tuned__copying__training__share_copied": 0.1},
        {"evaluate__tuned__copying__training__share_copied": None},
        {"evaluate__tuned__samples__ended": None},  # no samples were asked for
        {"evaluate__tuned__samples__repetition": None},
    ],
)
def test_what_is_just_within_bounds_has_none(changes):
    assert advice.warnings(changed(**changes), ENGLISH) == []


def test_commands_that_are_advised_are_settings_the_schema_takes():
    from ruamel.yaml import YAML

    from stages.lib.common import params

    settings = YAML(typ="safe", pure=True).load(HOME / "params.yaml")
    facts = [changed(**changes) for changes, _, _ in TROUBLES]
    facts += [changed(validation=validations(1.3, 1.2, 1.1)), changed(base__source="folder")]
    for one in facts:
        one["settings"]["report"]["corpus_language"] = "en"
    found = [finding for one in facts for finding in (*advice.warnings(one, ENGLISH), *advice.next_steps(one, ENGLISH))]
    commands = {finding.command for finding in found if finding.command and " -S " in finding.command}
    assert len(commands) >= 8
    for command in commands:
        key, value = re.search(r"-S '?([\w.]+)=([^',\s]+)", command).groups()
        section, name = key.split(".")
        assert name in settings[section], command
        params.Params.model_validate(settings | {section: settings[section] | {name: yaml.safe_load(value)}})


def test_a_validation_that_still_falls_asks_for_more_epochs():
    falling = changed(validation=validations(1.33, 1.21, 1.20))
    assert "dvc exp run -S train.epochs=6" in [step.command for step in advice.next_steps(falling, ENGLISH)]
    flat = changed(validation=validations(1.33, 1.21, 1.206))
    assert "dvc exp run -S train.epochs=6" not in [step.command for step in advice.next_steps(flat, ENGLISH)]
