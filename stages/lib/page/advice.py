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
MANY_LEAKS = 0.01  # share of the held-out documents that hold a run of words of a training document
MANY_DUPLICATES = 0.1  # share of the lines, or of the documents
MORE_COPIES = 0.1  # share of copies after the beginnings of training documents, over that after held-out ones
MUCH_REPETITION = 0.2  # share of the runs of four tokens that stood earlier in the same sample

OPENAI_GPT2 = "openai-community/gpt2"


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
    return [
        *_about_the_result(facts, words),
        *_about_training(facts, words),
        *_about_the_corpus(facts, words),
        *_about_the_tokens(facts, words),
        *_about_the_texts(facts, words),
    ]


def next_steps(facts: dict[str, Any], words: Words) -> Iterator[Finding]:
    """What is likely to make the model better, or the result surer, from here."""
    settings, validation = facts["settings"], _validation(facts)
    epochs = settings["train"]["epochs"]
    if len(validation) > 2 and validation[-1] < STILL_FALLING * min(validation[:-1]):
        yield Finding(
            words("The validation was still falling at the end: train longer."),
            _experiment("train.epochs", 2 * epochs),
        )
    if facts["base"]["source"] != "hub":
        yield Finding(
            words("Start from a larger model, of the language of your texts; README.md says which. A GPU helps."),
            _experiment("base.hub", OPENAI_GPT2) if settings["report"]["corpus_language"] == "en" else None,
        )
    if facts["evaluate"]["documents"]:
        yield Finding(
            words("See how much of a difference is chance: train with other seeds, then compare."),
            "dvc exp run --queue -S 'train.seed=1,2,3' && dvc exp run --run-all && python -m tools.seeds",
        )


def _about_the_result(facts: dict[str, Any], words: Words) -> Iterator[Finding]:
    evaluation = facts["evaluate"]
    compared, documents = evaluation["comparison"], evaluation["documents"]
    if not documents:
        yield Finding(
            words(
                "No document fell into the test split: whether the model got better is not known. Divide your long "
                "documents, at their chapters for example: each piece on a line of its own."
            )
            if facts["validate"]["few_long_documents"]
            else words(
                "No document fell into the test split: whether the model got better is not known. "
                "A larger corpus, or a larger validate.test_fraction, has some."
            )
        )
        return
    if compared["low"] > 0:
        yield Finding(
            words("Tuning made the model worse on texts it had not seen. Try a lower rate."), _lower_rate(facts)
        )
    elif compared["high"] >= 0:
        yield Finding(words("The difference from the base model may be chance: its 95 %% interval includes 0."))
    if documents < FEW_TEST_DOCUMENTS:
        yield Finding(
            words(
                "Only %(documents)s test documents: the figures on them are rough. More texts would make them surer.",
                documents=documents,
            )
        )


def _about_training(facts: dict[str, Any], words: Words) -> Iterator[Finding]:
    train, settings, validation = facts["train"], facts["settings"]["train"], _validation(facts)
    if not validation:
        yield Finding(
            words(
                "No document fell into the validation split: the weights of the last step were kept, "
                "whether or not earlier ones were better."
            )
        )
        return
    before, *after = validation
    if min(after, default=before) >= before:
        yield Finding(
            words("On the validation documents the base model was never beaten. Try a lower rate."), _lower_rate(facts)
        )
        return
    if after[-1] < LATER_WORSE * min(after):
        return
    if settings["keep"] == "best":
        yield Finding(
            words(
                "Overfitting: after step %(step)s the validation got worse while training went on. The weights of "
                "that step were kept; fewer epochs take less time, more texts help.",
                step=words.number(train["best_step"], 0),
            ),
            _experiment("train.epochs", settings["epochs"] // 2) if settings["epochs"] > 1 else None,
        )
    else:
        yield Finding(
            words(
                "Overfitting: the validation was better earlier than at the end. "
                "train.keep=best keeps the better weights."
            ),
            _experiment("train.keep", "best"),
        )


def _about_the_corpus(facts: dict[str, Any], words: Words) -> Iterator[Finding]:
    validate = facts["validate"]
    if validate["rejected"]:
        yield Finding(
            words(
                "%(lines)s lines were left out: data/rejected.jsonl has them, each with the reason.",
                lines=words.number(validate["rejected"], 0),
            )
        )
    # A rule may well belong into a text.
    if marks := [one["mark"] for one in validate["marks"] if one["mark"].startswith("<")]:
        yield Finding(
            words(
                "The texts hold %(marks)s, with which other tools part texts: here they are learned as letters, and "
                "the model writes them. Strip them where a text ends or begins, divide a text where they stand in its "
                "middle; logs/validate.json names the first lines.",
                marks=", ".join(marks),
            )
        )
    if validate["duplicates"] > MANY_DUPLICATES * validate["lines"]:
        yield Finding(
            words(
                "%(share)s of the lines repeat another one and were left out.",
                share=words.percent(validate["duplicates"] / validate["lines"]),
            )
        )
    alike, treated = validate["near_duplicates"]["documents"], facts["settings"]["validate"]["near_duplicates"]
    if alike > MANY_DUPLICATES * validate["kept"] and treated == "report":
        yield Finding(
            words(
                "%(share)s of the documents are nearly the same as an earlier one: the model sees them again and "
                "again, and learns them by heart.",
                share=words.percent(alike / validate["kept"]),
            ),
            _experiment("validate.near_duplicates", "drop"),
        )
    if (validate["leakage"]["leaking_share"] or 0) > MANY_LEAKS:
        yield Finding(
            words(
                "Leakage: %(share)s of the held-out documents share %(run)s words in a row with a training "
                "document, so the figures on them are too good. logs/validate.json names the worst.",
                share=words.percent(validate["leakage"]["leaking_share"], 1),
                run=validate["leakage"]["run_of_words"],
            )
        )


def _about_the_tokens(facts: dict[str, Any], words: Words) -> Iterator[Finding]:
    tokenize = facts["tokenize"]
    if not tokenize["vocabulary_fits"]:
        yield Finding(
            words(
                "The base model's vocabulary was made for another language: a token stands for %(bytes)s bytes of your "
                "texts. A base of their language learns faster and writes better.",
                bytes=words.number(tokenize["bytes_per_token"], 1),
            )
        )
    if tokenize["train"]["tokens"] < FEW_TRAINING_TOKENS:
        yield Finding(
            words(
                "Little to learn from: %(tokens)s training tokens. Some hundred texts of a page are a beginning.",
                tokens=words.number(tokenize["train"]["tokens"], 0),
            )
        )
    if tokenize["dropped_tokens"]:
        yield Finding(
            words(
                "%(tokens)s tokens of long documents were left out; with tokenize.overlong=split none are.",
                tokens=words.number(tokenize["dropped_tokens"], 0),
            ),
            _experiment("tokenize.overlong", "split"),
        )


def _about_the_texts(facts: dict[str, Any], words: Words) -> Iterator[Finding]:
    tuned = facts["evaluate"]["tuned"]
    texts, copying = tuned["samples"], tuned["copying"]
    more = (copying["training"]["share_copied"] or 0) - (copying["held_out"]["share_copied"] or 0)
    if more > MORE_COPIES:
        yield Finding(
            words(
                "Memorised: given their beginnings, the model goes on word for word with %(share)s of the training "
                "documents. Fewer epochs or more texts help; do not share it if the texts are private.",
                share=words.percent(copying["training"]["share_copied"]),
            )
        )
    if texts["copied"]:
        yield Finding(words("Some samples repeat a training text word for word; it is marked in them."))
    if texts["ended"] == 0:
        yield Finding(
            words("No sample ended by itself: they are cut off at evaluate.new_tokens. Longer samples may end."),
            _experiment("evaluate.new_tokens", 2 * facts["settings"]["evaluate"]["new_tokens"]),
        )
    if texts["broken"]:
        yield Finding(
            words("Some samples hold bytes that are no characters: the model is not trained well enough yet.")
        )
    if (texts["repetition"] or 0) > MUCH_REPETITION:
        yield Finding(
            words("The samples repeat themselves. generate.py --repetition-penalty 1.2 or a higher --temperature help.")
        )


def _validation(facts: dict[str, Any]) -> list[float]:
    """Bits per byte of the validations in order; the first one is the base model's."""
    return [float(row["bits_per_byte"]) for row in facts["validation"]]


def _lower_rate(facts: dict[str, Any]) -> str:
    return _experiment("train.learning_rate", f"{facts['train']['learning_rate'] / 3:.2g}")


def _experiment(key: str, value: object) -> str:
    return f"dvc exp run -S {key}={value}"
