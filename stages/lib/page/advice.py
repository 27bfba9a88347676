"""What the figures of a run mean, in plain words, and what to try next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stages.lib.page.language import Words

# From here on the figures speak plainly enough; the tests hold each of them to a run just on either side.
FEW_TEST_DOCUMENTS = 20
FEW_TRAINING_TOKENS = 20_000
LATER_WORSE = 1.01  # the last validation over the best one, in bits per byte
STILL_FALLING = 0.995  # the last validation over the one before it
# Shares of the held-out documents that hold a run of words of a training document; of the lines, or of the documents.
MANY_LEAKS, MANY_DUPLICATES = 0.01, 0.1
MORE_COPIES = 0.1  # share of copies after the beginnings of training documents, over that after held-out ones
MUCH_REPETITION = 0.2  # share of the runs of four tokens that stood earlier in the same sample


@dataclass(frozen=True)
class Finding:
    """One thing to know about a run; where there is a command that helps, with it."""

    text: str
    command: str | None = None


def warnings(facts: dict[str, Any], words: Words) -> list[Finding]:
    """What makes the run's result worse, or less sure, than its figures look; the gravest first.

    `facts` holds the figures of the stages `validate`, `tokenize`, `train` and `evaluate`, the rows of
    `validation.tsv` as `validation`, and `settings`.
    """
    parts = (_about_the_result, _about_training, _about_the_corpus, _about_the_tokens, _about_the_texts)
    return [finding for about in parts for finding in about(facts, words)]


def next_steps(facts: dict[str, Any], words: Words) -> Iterator[Finding]:
    """What is likely to make the model better, or the result surer, from here."""
    validation, (setting, length) = _validation(facts), _length(facts)
    if len(validation) > 1 and validation[-1] < STILL_FALLING * min(validation[:-1]):
        yield Finding(
            words("The validation loss was still falling at the end: train longer."), _experiment(setting, 2 * length)
        )
    if facts["base"]["source"] != "hub":
        yield Finding(
            words("Start from a larger model in the language of your texts; README.md lists some. A GPU helps."),
            _experiment("base.hub", "openai-community/gpt2") if facts["corpus_language"] == "en" else None,
        )
    if facts["evaluate"]["documents"]:
        yield Finding(
            words("To see how much of the difference is chance, train with other seeds and compare."),
            "dvc exp run --queue -S 'train.seed=1,2,3' && dvc exp run --run-all && python -m tools.seeds",
        )


def _about_the_result(facts: dict[str, Any], words: Words) -> Iterator[Finding]:
    compared, documents = (facts["evaluate"][name] for name in ("comparison", "documents"))
    if not documents:
        remedy = (
            words("Divide your long documents, at chapters for example: one piece per line.")
            if facts["validate"]["few_long_documents"]
            else words("Add texts, or raise validate.test_fraction.")
        )
        unknown = words("No document fell into the test split, so whether the model got better is not known.")
        yield Finding(f"{unknown} {remedy}")
        return
    if (compared["low"] or 0) > 0:  # None where one document says nothing of others
        yield Finding(
            words("Tuning made the model worse on texts it had not seen. Lower the learning rate."), _lower_rate(facts)
        )
    elif compared["high"] is not None and compared["high"] >= 0:
        yield Finding(words("The difference from the base model may be chance: its 95%% interval includes 0."))
    if documents < FEW_TEST_DOCUMENTS:
        yield Finding(
            words.plural(
                "Only %(count)s test document: the figures are rough. More texts would make them surer.",
                "Only %(count)s test documents: the figures are rough. More texts would make them surer.",
                documents,
            )
        )


def _about_training(facts: dict[str, Any], words: Words) -> Iterator[Finding]:
    validation, (setting, length) = _validation(facts), _length(facts)
    if not validation:
        yield Finding(
            words(
                "No document fell into the validation split, so the weights of the last step were kept, "
                "even if earlier ones were better."
            )
        )
        return
    before, *after = validation
    if min(after, default=before) >= before:
        if facts["train"]["validation_bits_per_byte"] >= before:  # also on the way back towards the base
            no_better = words("No step beat the base model on the validation documents. Lower the learning rate.")
            yield Finding(no_better, _lower_rate(facts))
        return
    last_is_kept = facts["train"]["best_step"] == facts["train"]["steps"]
    if after[-1] < LATER_WORSE * min(after) or (
        last_is_kept and facts["train"]["validation_bits_per_byte"] <= min(after)
    ):
        return  # gone back towards the base, the last weights do better than those of earlier steps
    if facts["settings"]["train"]["keep"] == "best":
        yield Finding(
            words(
                "Overfitting: after step %(step)s the model got worse on the validation documents. The weights of that "
                "step were kept. A shorter run saves time; more texts help.",
                step=words.number(facts["train"]["best_step"], 0),
            ),
            _experiment(setting, length // 2) if length >= 2 else None,
        )
    else:
        yield Finding(
            words(
                "Overfitting: the model was better on the validation documents earlier than at the end. "
                "train.keep=best keeps the better weights."
            ),
            _experiment("train.keep", "best"),
        )


def _about_the_corpus(facts: dict[str, Any], words: Words) -> Iterator[Finding]:
    validate = facts["validate"]
    if validate["rejected"]:
        yield Finding(
            words.plural(
                "%(count)s line was left out: data/validated/rejected.jsonl has it, with the reason.",
                "%(count)s lines were left out: data/validated/rejected.jsonl has them, each with the reason.",
                validate["rejected"],
            )
        )
    # A rule may well belong into a text.
    if marks := [mark for mark in validate["marks"] if mark.startswith("<")]:
        yield Finding(
            words(
                "The texts contain %(marks)s, which other tools put between texts. Here the model learns them as "
                "ordinary letters, and writes them. Remove them at the start and the end of a text, and divide a text "
                "where they stand inside it; logs/validate.json names the first lines.",
                marks=", ".join(marks),
            )
        )
    if validate["duplicates"] > MANY_DUPLICATES * validate["lines"]:
        yield Finding(
            words(
                "%(share)s of the lines repeat an earlier one and were left out.",
                share=words.percent(validate["duplicates"] / validate["lines"]),
            )
        )
    alike, treated = validate["near_duplicates"]["documents"], facts["settings"]["validate"]["near_duplicates"]
    if alike > MANY_DUPLICATES * validate["kept"] and treated == "report":
        yield Finding(
            words(
                "%(share)s of the documents are nearly the same as an earlier one: the model sees them over and "
                "over, and learns them by heart.",
                share=words.percent(alike / validate["kept"]),
            ),
            _experiment("validate.near_duplicates", "drop"),
        )
    if (validate["leakage"]["leaking_share"] or 0) > MANY_LEAKS:
        yield Finding(
            words(
                "Leakage: %(share)s of the held-out documents share %(run)s words in a row with a training "
                "document, so the figures look better than they are. Take out what many texts share, such as headers "
                "and signatures. Texts that are alike in other ways come into one split with a lower "
                "validate.similarity. logs/validate.json names the worst.",
                share=words.percent(validate["leakage"]["leaking_share"], 1),
                run=validate["leakage"]["run_of_words"],
            ),
            _experiment("validate.similarity", 0.5) if facts["settings"]["validate"]["similarity"] > 0.5 else None,
        )


def _about_the_tokens(facts: dict[str, Any], words: Words) -> Iterator[Finding]:
    if not (tokenize := facts["tokenize"])["vocabulary_fits"]:
        yield Finding(
            words(
                "The base model's vocabulary was made for another language: a token stands for only %(bytes)s bytes of "
                "your texts. A base model in their language learns faster and writes better.",
                bytes=words.number(tokenize["bytes_per_token"], 1),
            )
        )
    if tokenize["train"]["tokens"] < FEW_TRAINING_TOKENS:
        yield Finding(
            words.plural(
                "Little to learn from: %(count)s training token. Start with a few hundred texts of a page each.",
                "Little to learn from: %(count)s training tokens. Start with a few hundred texts of a page each.",
                tokenize["train"]["tokens"],
            )
        )
    if tokenize["dropped_tokens"]:
        yield Finding(
            words.plural(
                "%(count)s token of long documents was left out; with tokenize.overlong=split none is.",
                "%(count)s tokens of long documents were left out; with tokenize.overlong=split none are.",
                tokenize["dropped_tokens"],
            ),
            _experiment("tokenize.overlong", "split"),
        )


def _about_the_texts(facts: dict[str, Any], words: Words) -> Iterator[Finding]:
    texts, copying = (facts["evaluate"]["tuned"][name] for name in ("samples", "copying"))
    if facts["settings"]["evaluate"]["copy_prompts"] and not copying["training"]["prompts"]:
        yield Finding(words("What is learned by heart is not known: the documents are too short to be tried."))
    more = (copying["training"]["share_copied"] or 0) - (copying["held_out"]["share_copied"] or 0)
    if more > MORE_COPIES:
        yield Finding(
            words(
                "Memorised: given the beginning, the model continues %(share)s of the training documents word for "
                "word. A shorter run or more texts help. If the texts are private, do not share the model.",
                share=words.percent(copying["training"]["share_copied"]),
            )
        )
    if texts["copied"]:
        yield Finding(words("Some samples repeat a training text word for word; these parts are highlighted."))
    if texts["ended"] == 0:
        yield Finding(
            words("No sample ended by itself: all were cut off at evaluate.new_tokens. Longer ones may end."),
            _experiment("evaluate.new_tokens", 2 * facts["settings"]["evaluate"]["new_tokens"]),
        )
    if texts["broken"]:
        yield Finding(words("Some samples have bytes that form no character: the model needs more training."))
    if (texts["repetition"] or 0) > MUCH_REPETITION:
        yield Finding(
            words("The samples repeat themselves. A repetition penalty or a higher temperature helps."),
            "python generate.py --repetition-penalty 1.2",
        )


def _validation(facts: dict[str, Any]) -> list[float]:
    """Bits per byte of the validations in order; the first one is the base model's."""
    return [float(row["bits_per_byte"]) for row in facts["validation"]]


def _length(facts: dict[str, Any]) -> tuple[str, float]:
    """The setting that says how long training goes on, and its value."""
    name = "max_steps" if facts["settings"]["train"]["max_steps"] else "epochs"
    return f"train.{name}", facts["settings"]["train"][name]


def _lower_rate(facts: dict[str, Any]) -> str:
    return _experiment("train.learning_rate", f"{facts['train']['learning_rate'] / 3:.2g}")


def _experiment(key: str, value: object) -> str:
    return f"dvc exp run -S {key}={value}"
