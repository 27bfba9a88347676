"""A GPT-2 as people publish it: which of its files are taken, and its configuration, whatever year they are from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.common import files
from stages.lib.common.cli import UserError, printable

if TYPE_CHECKING:
    from transformers import GPT2Config

# Weights come in several forms, often side by side: the first that is there is taken, and no other. Pickles come last,
# as only tensors are read from them.
_WEIGHTS = (
    r"model\.safetensors",
    r"model(\.safetensors\.index\.json|-\d+-of-\d+\.safetensors)",
    r"model\.fp16\.safetensors",
    r"pytorch_model\.bin",
    r"pytorch_model(\.bin\.index\.json|-\d+-of-\d+\.bin)",
)
# So do tokenizers. vocab.txt is BERT's; the model files are sentencepiece's.
_TOKENIZERS = (r"tokenizer\.json", r"vocab\.json|merges\.txt", r"spiece\.model|tokenizer\.model", r"vocab\.txt")
# What says more about either, and what tells that a folder holds no model but an addition to one.
_BESIDES = r"(config|tokenizer_config|special_tokens_map|added_tokens|adapter_config)\.json"
_ARCHITECTURES = ("GPT2LMHeadModel", "GPT2Model", "GPT2DoubleHeadsModel")
_SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
_CLASSIFIER = "it is a classifier, which writes nothing: take the GPT-2 it was made from"
_LARGEST_JSON = 2**24  # bytes; a config.json has some hundred
_POINTER = b"version https://git-lfs"


def wanted_files(names: Iterable[str]) -> list[str]:
    """Of the files of a model, given by name, those that the pipeline reads: one form of each thing."""
    names = sorted(names)

    def first(forms: Iterable[str]) -> list[str]:
        return next((found for form in forms if (found := [one for one in names if re.fullmatch(form, one)])), [])

    return sorted([one for one in names if re.fullmatch(_BESIDES, one)] + first(_WEIGHTS) + first(_TOKENIZERS))


def own_files(folder: Path, name: str) -> list[Path]:
    """The files of the model in `folder` that are read. Raises UserError where one holds no content of its own."""
    found = [folder / one for one in wanted_files(path.name for path in folder.iterdir())]
    for path in found:
        if not path.is_file():
            raise UserError(f"{name}: {path.name} is no ordinary file")
        with open(path, "rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise UserError(
                    f"{name}: {path.name} is a Git LFS pointer, not the file itself: run git lfs pull in its folder"
                )
    return found


def weight_files(folder: Path, name: str) -> list[Path]:
    """The files that hold the weights, in order; none where there are none in a form that is read.

    Where the folder of the model, which the user calls `name`, has an index of them, those that it names: others may be
    left from before. Raises UserError where one of those is not there.
    """
    wanted = wanted_files(path.name for path in folder.iterdir())
    found = [one for one in wanted if one.endswith((".safetensors", ".bin"))]
    index = next((one for one in wanted if one.endswith(".index.json")), None)
    if index and (named := read_json(folder / index, name).get("weight_map")) and isinstance(named, dict):
        if absent := set(map(str, named.values())) - set(found):
            raise UserError(f"{name}: {printable(min(absent))}, which its {index} names, is not there")
        found = sorted(set(named.values()))
    return [folder / one for one in found]


def read_json(path: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of the model that the user calls `name`. Raises UserError."""
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        content = files.read_json(path)
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: its {path.name} cannot be read ({printable(str(error))})") from None
    return content


def read_config(folder: Path, name: str) -> GPT2Config:
    """The configuration of the GPT-2 in `folder`, which the user calls `name`; of the older forms too.

    Only what GPT-2 knows is taken from the file: nothing in it names code, a device or a precision to come. Raises
    UserError when it is no GPT-2 that writes.
    """
    # Only here: they take torch with them, and names of files are chosen without it.
    from huggingface_hub.errors import StrictDataclassError
    from transformers import GPT2Config

    from stages.lib.model.models import quiet

    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{name} holds an adapter (adapter_config.json), not a model: merge it into the model it was trained on "
            "(peft: merge_and_unload), or remove it, and take the result"
        )
    if not (folder / "config.json").exists():
        raise UserError(f"{name} has no config.json: it must be a Hugging Face model folder")
    described = read_json(folder / "config.json", name)
    _refuse_others(described, name)
    try:
        with quiet():  # about ids that are not used
            config = GPT2Config(**_known(described, GPT2Config().to_dict()))
        _check(config)
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        reason = printable(" ".join(str(error).split()))
        raise UserError(f"{name}: its config.json is not that of a GPT-2 ({reason})") from None
    config.architectures = ["GPT2LMHeadModel"]
    return config


def _known(described: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """What a configuration has of that which GPT-2 knows; `usual` is GPT-2's own."""
    # Files of 2019 know the context as n_ctx only.
    described.setdefault("n_positions", described.get("n_ctx", usual["n_positions"]))
    others = {"architectures", "dtype", "_name_or_path", "transformers_version", "id2label", "label2id"}
    known = {key: value for key, value in described.items() if key in usual.keys() - others}
    # Left out, GPT-2's own would be filled in, which may be ordinary words here.
    return {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None} | known


def _check(config: GPT2Config) -> None:
    """Raise ValueError when no model can be of these sizes, or have this activation."""
    from transformers.activations import ACT2FN  # only here, as above

    for key in _SIZES:
        if not getattr(config, key) >= 1:
            raise ValueError(f"{key} is {getattr(config, key)}")
    if config.n_embd % config.n_head:
        raise ValueError(f"n_embd {config.n_embd} is no multiple of n_head {config.n_head}")
    if config.activation_function not in ACT2FN:
        raise ValueError(f"activation_function {config.activation_function} is not known")


def _refuse_others(described: dict[str, Any], name: str) -> None:
    """Raise UserError when a config.json is that of another kind of model."""
    kind = described.get("model_type", "gpt2" if {"n_embd", "n_layer", "n_head"} <= described.keys() else "unknown")
    if kind != "gpt2":
        raise UserError(f"{name} is a model of type {kind}: only GPT-2 models (model_type gpt2) can be tuned here")
    architectures = described.get("architectures") or []
    for architecture in architectures if isinstance(architectures, list) else [architectures]:
        if "Classification" in str(architecture):
            raise UserError(f"{name} is a {architecture}: {_CLASSIFIER}")
        if architecture not in _ARCHITECTURES:
            raise UserError(f"{name} is a {architecture}: only {', '.join(_ARCHITECTURES)} can be tuned here")
    if described.get("quantization_config"):
        raise UserError(f"{name} is quantized (quantization_config): take the model it was made from")
    if described.get("add_cross_attention"):
        raise UserError(f"{name} is the decoder of another model (add_cross_attention): it cannot write by itself")
