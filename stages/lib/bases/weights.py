"""The weights of a published GPT-2, in any of their forms, as float32 tensors by the names that GPT2LMHeadModel uses.

What stands in the file is held against config.json, tensor by tensor: a file that lacks one, or holds another than the
configuration asks for, is refused. Of a pickle only tensors are built, by torch's restricted loader: none of it runs.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import GPT2Config

from stages.lib.bases import sources
from stages.lib.common.cli import UserError, printable
from stages.lib.model.models import check_finite

EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"
# Causal masks that old versions of transformers stored beside the weights.
_MASKS = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
_CHOICE_HEAD = "multiple_choice_head."  # of GPT2DoubleHeadsModel: it chooses between answers, and writes nothing
_REASON = 120  # characters of what a library says of a file
_LAYER = re.compile(r"transformer\.h\.(\d+)\.")


def read(folder: Path, name: str, config: GPT2Config) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The weights of the model in `folder`, which the user calls `name`, float32 on the CPU; and what was converted.

    `lm_head.weight` is among them only where it differs from the embedding. Raises UserError when they cannot be read
    or are not those that `config` asks for.
    """
    paths = sources.weight_files(folder, name)
    if not paths:
        raise UserError(f"{name} has no weights in a form that is read: model.safetensors, or else pytorch_model.bin")
    found: dict[str, torch.Tensor] = {}
    for path in paths:
        part = _read(path, name)
        if twice := found.keys() & part.keys():
            raise UserError(f"{name}: {min(twice)} stands in two of its files of weights: take away the older ones")
        found |= part
    tensors = {_full_name(key): tensor for key, tensor in found.items()}
    converted = [f"pickled weights ({len(paths)} file{'s' * (len(paths) > 1)}), tensors only"] * _pickled(paths[0])
    kept = {key: tensor for key, tensor in tensors.items() if not _MASKS.fullmatch(key)}
    if len(kept) < len(tensors):
        converted.append("stored attention masks left out")
    if any(key.startswith(_CHOICE_HEAD) for key in kept):
        kept = {key: tensor for key, tensor in kept.items() if not key.startswith(_CHOICE_HEAD)}
        converted.append("the head that chooses between answers left out")
    _compare(kept, name, config)
    if HEAD in kept and torch.equal(kept[HEAD], kept[EMBEDDING]):
        del kept[HEAD]
    stored = {str(tensor.dtype).removeprefix("torch.") for tensor in kept.values()} - {"float32"}
    converted += [f"weights from {', '.join(sorted(stored))} to float32"] if stored else []
    kept = {key: tensor.float().contiguous() for key, tensor in kept.items()}
    check_finite(kept.items(), name)
    return kept, converted


def add_row(tensors: dict[str, torch.Tensor], row: int) -> None:
    """Give the token with the id `row` the mean of the rows before it, in the embedding and in an own output matrix.

    `row` is one that no token had: one of those behind the tokenizer's, or the next that there is. Changes `tensors`.
    """
    for key in {EMBEDDING, HEAD} & tensors.keys():
        matrix = tensors[key]
        mean = matrix[:row].double().mean(dim=0, keepdim=True).float()
        tensors[key] = torch.cat([matrix[:row], mean, matrix[row + 1 :]])


def _pickled(path: Path) -> bool:
    return path.suffix == ".bin"


def _read(path: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors in one file, by the names they have there. Raises UserError."""
    try:
        if not _pickled(path):
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # about the version of the pickle's own language
            # Files from before torch 1.6 are no archives, and cannot be mapped into memory.
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise UserError(
            f"{name}: {path.name} is a pickle that holds more than tensors, so it is not read; nothing in it was run. "
            "Ask its author for model.safetensors"
        ) from None
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError) as error:
        reason = printable(str(error).split("\n")[0], _REASON)
        raise UserError(f"{name}: {path.name} cannot be read ({reason}): it is damaged, get it again") from None
    if not isinstance(found, dict) or not all(
        isinstance(key, str)
        and isinstance(value, torch.Tensor)
        and (value.layout, value.is_meta) == (torch.strided, False)
        for key, value in found.items()
    ):
        raise UserError(f"{name}: {path.name} holds something else than the tensors of a model by their names")
    return found


def _full_name(key: str) -> str:
    """The name in GPT2LMHeadModel of a tensor that may have been stored from a GPT2Model."""
    return f"transformer.{key}" if re.match(r"(h\.\d+|wte|wpe|ln_f)\.", key) else key


def shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """The tensors of a GPT2LMHeadModel of this configuration, by name, without the output matrix."""
    width = config.n_embd
    inner = config.n_inner or 4 * width
    layer: dict[str, tuple[int, ...]] = {}
    for norm in ("ln_1", "ln_2"):
        layer |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for matrix, rows, columns in (
        ("attn.c_attn", width, 3 * width),
        ("attn.c_proj", width, width),
        ("mlp.c_fc", width, inner),
        ("mlp.c_proj", inner, width),
    ):
        layer |= {f"{matrix}.weight": (rows, columns), f"{matrix}.bias": (columns,)}
    around = {
        EMBEDDING: (config.vocab_size, width),
        "transformer.wpe.weight": (config.n_positions, width),
        "transformer.ln_f.weight": (width,),
        "transformer.ln_f.bias": (width,),
    }
    return around | {
        f"transformer.h.{number}.{key}": shape for number in range(config.n_layer) for key, shape in layer.items()
    }


def _compare(tensors: dict[str, torch.Tensor], name: str, config: GPT2Config) -> None:
    """Raise UserError when the tensors are not the ones, and of the shapes, that the configuration asks for."""
    # Before anything of the size that config.json names is made.
    layers = {int(found[1]) for key in tensors if (found := _LAYER.match(key))}
    if len(layers) != config.n_layer:
        raise UserError(f"{name}: config.json names {config.n_layer} layers, its weights have {len(layers)}")
    wanted = shapes(config)
    allowed = wanted | {HEAD: wanted[EMBEDDING]}
    if absent := [key for key in wanted if key not in tensors]:
        raise UserError(f"{name}: its weights lack {absent[0]}")
    for key, tensor in tensors.items():
        if key.startswith("score."):
            raise UserError(f"{name} has a classification head ({key}): take the GPT-2 it was made from")
        if key not in allowed:
            raise UserError(f"{name}: its weights hold {key}, which no GPT-2 has")
        if tuple(tensor.shape) != allowed[key]:
            raise UserError(
                f"{name}: {key} has the shape {list(tensor.shape)}, but config.json asks for {list(allowed[key])}"
            )
        if not tensor.is_floating_point():
            raise UserError(f"{name}: {key} is stored as {tensor.dtype}: take the model from before it was quantized")
