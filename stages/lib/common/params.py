"""The settings in params.yaml, read through one typed schema.

The whole file is checked whichever stage reads it, so a mistake anywhere stops the first stage that runs.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from pathlib import Path, PureWindowsPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from stages.lib.common import plain_yaml
from stages.lib.common.cli import UserError, printable

PATH = Path("params.yaml")
ELSEWHERE = Path(__file__).resolve().parents[2] / "elsewhere.yaml"  # what other programs call the settings
SHOWN = 5  # mistakes that are named; how many more there are is said
LEAST_TEMPERATURE, GREATEST_TEMPERATURE = 0.001, 100.0  # beyond: as good as the likeliest token, or any
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _one_line(text: str) -> str:
    if not text.strip() or _CONTROL.search(text):
        raise ValueError("but must be one line of text without control characters or half a surrogate pair")
    return text


def _inside(path: str) -> str:
    if path.startswith(("/", "~")) or PureWindowsPath(path).drive or "://" in path or ".." in Path(path).parts:
        raise ValueError("but must be a path inside the repository, relative to its top")
    return path


def _hub_name(name: str) -> str:  # by the Hub's own rule
    if not re.fullmatch(r"(?!.*(?:--|\.\.))\b[\w.-]+\b/\b[\w.-]+\b", name, re.ASCII) or len(name) > 96:
        raise ValueError("but must be owner/name, such as openai-community/gpt2")
    return name


def _language_code(code: str) -> str:
    if not re.fullmatch("[a-z]{2,3}|auto", code):
        raise ValueError("but must be a language's code, such as ru or en, or auto")
    return code


def _whole(number: float) -> float:  # 3.0 as 3: the same setting however it is written
    return int(number) if number.is_integer() else number


OneLine = Annotated[str, AfterValidator(_one_line)]
Inside = Annotated[OneLine, AfterValidator(_inside)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Epochs = Annotated[float, Field(gt=0), AfterValidator(_whole)]
_LONG = {"bf16": "bfloat16", "fp32": "float32"}  # as Axolotl and others call it, too
Precision = Annotated[Literal["auto", "float32", "bfloat16"], BeforeValidator(lambda one: _LONG.get(str(one), one))]
Share = Annotated[float, Field(ge=0, lt=1)]
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio", "comet_ml", "none"]


class Section(BaseModel):
    """A section of the file: no key but the known ones, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Corpus(Section):
    """Where the user's texts are."""

    path: Inside
    text_field: Annotated[str, Field(min_length=1)]
    limit: Positive | None


class Base(Section):
    """The model to start from."""

    folder: Inside
    hub: Annotated[str, AfterValidator(_hub_name)] | None
    revision: OneLine | None
    end_of_text: OneLine | None
    special_tokens: Literal["text", "keep"]

    @model_validator(mode="after")
    def _revision_of_a_hub_model(self) -> Base:
        if self.revision and not self.hub:
            raise ValueError("revision is of a model of the Hub, but base.hub is null")
        return self


class Validate(Section):
    """How the corpus is checked and divided."""

    on_error: Literal["fail", "skip"]
    near_duplicates: Literal["report", "drop", "keep"]
    similarity: Annotated[float, Field(ge=0.5, le=1)]
    validation_fraction: Share
    test_fraction: Share
    split_seed: Seed
    max_line_bytes: Annotated[int, Field(ge=1, le=2**30)]  # offsets in Arrow's strings have 32 bits

    @model_validator(mode="after")
    def _leave_some_to_train(self) -> Validate:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction must be below 1, to leave something to train on")
        return self


class Tokenize(Section):
    """How documents become rows of tokens."""

    max_length: Annotated[int, Field(ge=8)]
    overlong: Literal["split", "truncate", "drop"]


class Train(Section):
    """How the model is trained."""

    epochs: Epochs
    max_steps: Positive | None
    batch_size: Positive
    gradient_accumulation_steps: Positive
    processes: Positive | Literal["auto"]
    sharding: Literal["none", "full"]
    learning_rate: Annotated[float, Field(gt=0, le=1)] | Literal["auto"]
    scheduler: Literal["cosine", "linear", "constant"]
    warmup_fraction: Share
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(ge=0)]
    dropout: Share
    label_smoothing: Share
    freeze_layers: Annotated[int, Field(ge=0)]
    lora_rank: Annotated[int, Field(ge=0)]
    lora_alpha: Annotated[float, Field(gt=0)]
    eval_steps: Positive | None
    patience: Positive | None
    keep: Literal["best", "last"]
    toward_base: Share | Literal["auto"]
    save_steps: Positive
    save_total_limit: Positive
    logging_steps: Positive
    seed: Seed
    precision: Precision
    attention: Literal["auto", "documents", "sdpa", "eager"]
    compile: bool | Literal["auto"]
    loader_workers: Annotated[int, Field(ge=0)] | Literal["auto"]
    gradient_checkpointing: bool
    memory: Literal["usual", "small"]
    deterministic: bool
    report_to: Tracker | list[Tracker]

    @model_validator(mode="after")
    def _one_way_to_train_less(self) -> Train:
        if self.lora_rank and self.freeze_layers:
            raise ValueError("lora_rank and freeze_layers exclude each other: with LoRA all layers stay as they are")
        if self.memory == "small" and self.sharding == "full":
            raise ValueError("memory: small and sharding: full exclude each other: sharded, AdamW's numbers are few")
        if self.attention == "documents" and self.dropout:
            raise ValueError("attention: documents has no dropout: set attention to auto, or dropout to 0")
        return self


class Evaluate(Section):
    """How base and tuned model are compared."""

    stride: Positive | None
    prompts: list[Annotated[str, Field(min_length=1)]] | Literal["auto"]
    held_out_prompts: Annotated[int, Field(ge=0)]
    new_tokens: Positive
    temperature: Annotated[float, Field(ge=LEAST_TEMPERATURE, le=GREATEST_TEMPERATURE)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    copy_prompts: Annotated[int, Field(ge=0)]
    base_texts: Annotated[int, Field(ge=0)]
    seed: Seed


class Report(Section):
    """What the report says about itself."""

    title: OneLine | None
    language: Literal["en", "ru"]
    corpus_language: Annotated[str, AfterValidator(_language_code)] | None


class Params(Section):
    """The whole file."""

    corpus: Corpus
    base: Base
    validate_: Annotated[Validate, Field(alias="validate")]  # BaseModel has a method `validate`
    tokenize: Tokenize
    train: Train
    evaluate: Evaluate
    report: Report


def load(path: str | Path = PATH) -> Params:
    """Read and check the settings. Raises UserError: one line with the key, what was given and what is allowed."""
    try:
        with open(path, "rb") as file:
            content = plain_yaml.parse(file.read(plain_yaml.LARGEST + 1))
    except FileNotFoundError:
        raise UserError(f"{path} is not there: run this in the top folder of the repository") from None
    except plain_yaml.Refused as refused:
        raise UserError(f"{path}, {refused}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings: git checkout {path} brings them back")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    # A key that may hold one of several types yields an error for each: gather them under the key.
    problems, remedies = {}, {}
    for one in error.errors(include_url=False):
        # Section, name and place in a list; the type in between is pydantic's.
        key = printable(".".join(str(part) for at, part in enumerate(one["loc"]) if at < 2 or isinstance(part, int)))
        shown = printable(reprlib.repr(one["input"]))
        if one["type"] == "extra_forbidden":
            problem = f"is no known key (its value: {shown}): {_likely(one['loc'])}"
        elif one["type"] == "missing":
            problem = "is missing"
        else:
            given = "" if isinstance(one["input"], dict) else f"is {shown}, "
            problem = given + one["msg"].removeprefix("Value error, ").replace("Input should be", "but must be")
            if "float" in one["type"] and re.fullmatch(r"-?\d+,\d+", str(one["input"])):
                remedies[key] = f": write {one['input'].replace(',', '.')}"
        problems.setdefault(key, []).append(problem)
    named = [
        f"{key} {' or '.join([first, *(one.rpartition('must be ')[2] for one in rest)])}{remedies.get(key, '')}"
        for key, (first, *rest) in problems.items()
    ]
    return "; ".join(named[:SHOWN] + ([f"and {len(named) - SHOWN} more"] if len(named) > SHOWN else []))


def _likely(path: tuple[int | str, ...]) -> str:
    """What may have been meant by a key that the schema does not have."""
    *section, key = (printable(str(part)) for part in path)
    fields = {field.alias or name: field.annotation.model_fields for name, field in Params.model_fields.items()}
    known = [*(f"{at}.{name}" for at in fields for name in fields[at]), *fields]
    meant = [full for full in known if key in (full.rpartition(".")[2], *plain_yaml.of_ours(ELSEWHERE).get(full, []))]
    here = {full.rpartition(".")[2]: full for full in known if full.split(".")[:-1] == section}
    meant += [here[name] for name in difflib.get_close_matches(key, here, 1)]
    return f"is {meant[0]} meant?" if meant else f"{PATH} has all there are, docs/settings.md their names elsewhere"
