"""What the figures of a run are said to mean: each trouble has its warning, and a good run has none."""

import copy
import re

import pytest
import yaml
from conftest import SETTINGS

from stages.lib.page import advice
from stages.lib.page.language import Words

ENGLISH = Words("en")
pytestmark = pytest.mark.usefixtures("at_home")


GOOD = {
    "settings": {
        "validate": {"near_duplicates": "report", "similarity": 0.8},
        "train": {"epochs": 3, "max_steps": None, "keep": "best"},
        "evaluate": {"new_tokens": 200, "copy_prompts": 20},
    },
    "corpus_language": "ru",
    "base": {"source": "hub"},
    "validate": {
        "lines": 500,
        "kept": 500,
        "near_duplicates": {"documents": 0},
        "rejected": 0,
        "duplicates": 0,
        "marks": {},
        "few_long_documents": False,
        "leakage": {"leaking_share": 0.0, "run_of_words": 13},
    },
    "tokenize": {"vocabulary_fits": True, "bytes_per_token": 4.0, "train": {"tokens": 50_000}, "dropped_tokens": 0},
    "train": {"best_step": 156, "steps": 156, "learning_rate": 5e-4, "validation_bits_per_byte": 1.2},
    "validation": [{"bits_per_byte": bits} for bits in ("1.33", "1.21", "1.2001", "1.2000")],
    "evaluate": {
        "documents": 38,
        "comparison": {"difference": -0.14, "low": -0.16, "high": -0.12, "share_better": 1.0},
        "tuned": {
            "samples": {"copied": 0.0, "ended": 0.5, "broken": 0.0, "repetition": 0.01},
            "copying": {"training": {"prompts": 20, "share_copied": 0.05}, "held_out": {"share_copied": 0.0}},
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
    ({"evaluate__documents": 19}, "Only 19 test documents:", None),
    ({"evaluate__documents": 1}, "Only 1 test document:", None),
    ({"evaluate__comparison__high": 0.0}, "may be chance: its 95% interval includes 0", None),
    (
        {"evaluate__comparison__low": 0.01, "evaluate__comparison__high": 0.02},
        "worse on texts it had not seen",
        "dvc exp run -S train.learning_rate=0.00017",
    ),
    ({"validation": []}, "No document fell into the validation split", None),
    (
        {"validation": validations(1.3, 1.31, 1.3), "train__validation_bits_per_byte": 1.3},
        "No step beat the base model",
        "dvc exp run -S train.learning_rate=0.00017",
    ),
    (
        {"validation": validations(1.3, 1.2, 1.212), "train__best_step": 52},
        "Overfitting: after step 52 the model got worse",
        "dvc exp run -S train.epochs=1",
    ),
    (
        {"validation": validations(1.3, 1.2, 1.212), "train__best_step": 52, "settings__train__max_steps": 60},
        "A shorter run saves time",
        "dvc exp run -S train.max_steps=30",
    ),
    (
        {
            "validation": validations(1.3, 1.2, 1.212),
            "train__validation_bits_per_byte": 1.212,
            "settings__train__keep": "last",
        },
        "train.keep=best keeps the better weights",
        "dvc exp run -S train.keep=best",
    ),
    ({"validate__rejected": 3}, "3 lines were left out: data/validated/rejected.jsonl", None),
    ({"validate__rejected": 1}, "1 line was left out: data/validated/rejected.jsonl", None),
    (
        {"validate__marks": {"<|endoftext|>": {}, "</s>": {}}},
        "The texts contain <|endoftext|>, </s>, which other tools put between texts",
        None,
    ),
    (
        {"evaluate__documents": 0, "validate__few_long_documents": True},
        "whether the model got better is not known. Divide your long documents",
        None,
    ),
    ({"validate__duplicates": 51}, "10% of the lines repeat an earlier one", None),
    (
        {"validate__near_duplicates__documents": 51},
        "10% of the documents are nearly the same as an earlier one",
        "dvc exp run -S validate.near_duplicates=drop",
    ),
    (
        {"validate__leakage__leaking_share": 0.011},
        "Leakage: 1.1% of the held-out documents share 13 words",
        "dvc exp run -S validate.similarity=0.5",
    ),
    (
        {"validate__leakage__leaking_share": 0.011, "settings__validate__similarity": 0.5},
        "Take out what many texts share, such as headers and signatures",
        None,
    ),
    (
        {"tokenize__vocabulary_fits": False, "tokenize__bytes_per_token": 1.68},
        "made for another language: a token stands for only 1.7 bytes of your texts",
        None,
    ),
    ({"tokenize__train__tokens": 19_999}, "Little to learn from: 19,999 training tokens", None),
    (
        {"tokenize__dropped_tokens": 7},
        "7 tokens of long documents were left out",
        "dvc exp run -S tokenize.overlong=split",
    ),
    (
        {"evaluate__tuned__copying__training__share_copied": 0.2},
        "Memorised: given the beginning, the model continues 20% of the training documents",
        None,
    ),
    ({"evaluate__tuned__copying__training__prompts": 0}, "What is learned by heart is not known", None),
    ({"evaluate__tuned__samples__copied": 0.1}, "repeat a training text word for word", None),
    ({"evaluate__tuned__samples__ended": 0.0}, "No sample ended by itself", "dvc exp run -S evaluate.new_tokens=400"),
    ({"evaluate__tuned__samples__broken": 0.1}, "bytes that form no character", None),
    (
        {"evaluate__tuned__samples__repetition": 0.3},
        "repeat themselves",
        "python generate.py --repetition-penalty 1.2",
    ),
]


@pytest.mark.parametrize(("changes", "text", "command"), TROUBLES)
def test_each_trouble_has_its_warning(changes, text, command):
    (finding,) = advice.warnings(changed(**changes), ENGLISH)
    assert text in finding.text
    assert finding.command == command


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluate__documents": 20},
        {"evaluate__comparison__high": -0.0001},
        {"validation": validations(1.3, 1.2, 1.3), "settings__train__keep": "last"},  # but its mean did best
        {"validation": validations(1.3, 1.2, 1.2119)},
        {"validation": validations(1.3, 1.2, 1.3)},  # but the last step did best on its way back to the base
        {"validation": validations(1.3, 1.31, 1.32), "train__validation_bits_per_byte": 1.2999},  # the mean did
        {"validate__duplicates": 50},
        {"validate__near_duplicates__documents": 50},
        {"validate__near_duplicates__documents": 400, "settings__validate__near_duplicates": "keep"},
        {"validate__leakage__leaking_share": 0.01},
        {"validate__leakage__leaking_share": None},  # no held-out documents
        {"tokenize__train__tokens": 20_000},
        {"evaluate__tuned__copying__training__share_copied": 0.1},
        {"evaluate__tuned__copying__training__prompts": 0, "settings__evaluate__copy_prompts": 0},  # nobody asked
        {"evaluate__tuned__samples__ended": None},  # no samples were asked for
        {"evaluate__tuned__samples__repetition": None},
    ],
)
def test_what_is_just_within_bounds_has_none(changes):
    assert advice.warnings(changed(**changes), ENGLISH) == []


def test_commands_that_are_advised_are_settings_the_schema_takes():
    from ruamel.yaml import YAML

    from stages.lib.common import params

    settings = YAML(typ="safe", pure=True).load(SETTINGS)
    facts = [changed(**changes) for changes, _, _ in TROUBLES]
    facts += [changed(validation=validations(1.3, 1.2, 1.1)), changed(base__source="folder")]
    for one in facts:
        one["corpus_language"] = "en"
    found = [finding for one in facts for finding in (*advice.warnings(one, ENGLISH), *advice.next_steps(one, ENGLISH))]
    commands = {finding.command for finding in found if finding.command and " -S " in finding.command}
    assert len(commands) >= 8
    for command in commands:
        key, value = re.search(r"-S '?([\w.]+)=([^',\s]+)", command).groups()
        section, name = key.split(".")
        assert name in settings[section], command
        params.Params.model_validate(settings | {section: settings[section] | {name: yaml.safe_load(value)}})


def test_a_validation_that_still_falls_asks_for_a_longer_run():
    falling = changed(validation=validations(1.33, 1.21, 1.20))
    assert "dvc exp run -S train.epochs=6" in [step.command for step in advice.next_steps(falling, ENGLISH)]
    once = changed(validation=validations(1.33, 1.31), settings__train__epochs=0.3)  # the base's and one more
    assert "dvc exp run -S train.epochs=0.6" in [step.command for step in advice.next_steps(once, ENGLISH)]
    by_steps = changed(validation=validations(1.33, 1.21, 1.20), settings__train__max_steps=20)
    assert "dvc exp run -S train.max_steps=40" in [step.command for step in advice.next_steps(by_steps, ENGLISH)]
    flat = changed(validation=validations(1.33, 1.21, 1.206))
    assert "dvc exp run -S train.epochs=6" not in [step.command for step in advice.next_steps(flat, ENGLISH)]
