"""A model folder as GGUF, for llama.cpp and what is built on it, with a Modelfile for Ollama beside it.

llama.cpp computes GPT-2 in one way only. What a GPT-2 may have otherwise is written into the weights where that gives
the same logits, and is refused where it does not.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tokenizers
import torch
from torch.nn.functional import gelu
from transformers import GPT2LMHeadModel
from transformers.activations import ACT2FN

from stages.lib.common import cli, files
from stages.lib.model import models
from stages.lib.rows.encoder import tokens_by_rank
from stages.lib.rows.tokens import Tokenizer
from tools.packages import EXPORT, package

TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}  # with GGUF's names for a file of each
_BLOCK = 32  # weights of a row that share a scale in q8_0
# GPT-2 keeps these matrices as [in, out], GGUF as [out, in].
_TURNED = ("c_attn.weight", "c_fc.weight", "c_proj.weight")
# How far another activation may be from llama.cpp's: the exact GELU is 0.0005 from it, all others much more.
_NEAR, _SAME = 1e-3, 1e-6


def export(model_folder: Path, output: Path, kind: str) -> None:
    """Write `output`/NAME-KIND.gguf and NAME-KIND.Modelfile, named after `model_folder`, and say so.

    `kind` is one of `TYPES`. Raises UserError where the package gguf is missing, where there is no model, and where
    llama.cpp could not compute it.
    """
    gguf = package("gguf", "GGUF", EXPORT)
    model, tokenizer = models.load(model_folder), Tokenizer(model_folder)
    distance = _activation_distance(model, model_folder)
    _check_tokenizer(tokenizer, model_folder)
    name = model_folder.resolve().name
    path, recipe = (output / f"{name}-{kind}.{ending}" for ending in ("gguf", "Modelfile"))
    with files.new_file(path) as partial:
        writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.GPT2])
        writer.add_name(name)
        writer.add_file_type(gguf.LlamaFileType[TYPES[kind]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_shape(writer, model)
        _add_vocabulary(writer, tokenizer, model.config.vocab_size, gguf.TokenType)
        _add_weights(writer, model, kind, gguf)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    files.write_text(recipe, modelfile(path.name, model_folder, model.config.n_positions))
    cli.say(f"{cli.printable(str(path))}, {path.stat().st_size / 2**20:.1f} MiB")
    if distance > _SAME:
        cli.say(f"  llama.cpp computes the model's activation in a near form, up to {distance:.4f} off")
    cli.say(f"  for Ollama: {cli.command(f'ollama create my-gpt2 -f {shlex.quote(str(recipe))}')}")


def modelfile(weights: str, folder: Path, context: int) -> str:
    """Ollama's description of a model: the GGUF `weights`, and writing as the model in `folder` is to be written with.

    That is its generation_config.json; where it has none, what generate.py does. `context` counts tokens.
    """
    path = folder / "generation_config.json"
    settings = files.read_json(path) if path.exists() else models.WRITING
    parameters = {
        "num_ctx": context,  # beyond it there are no positions
        "temperature": settings.get("temperature", 1.0) if settings.get("do_sample") else 0,
        "top_p": settings.get("top_p", 1.0),
        "top_k": settings.get("top_k", 0),
        "min_p": settings.get("min_p", 0.0),
        "repeat_penalty": settings.get("repetition_penalty", 1.0),
        "stop": f'"{files.read_json(folder / "tokenizer_config.json")["eos_token"]}"',
    }
    # The prompt as it is: what opens a text is put before it by the vocabulary in the file.
    lines = [f"FROM ./{weights}", 'TEMPLATE """{{ .Prompt }}"""']
    return "\n".join([*lines, *(f"PARAMETER {name} {value}" for name, value in parameters.items())]) + "\n"


def _activation_distance(model: GPT2LMHeadModel, folder: Path) -> float:
    """How far the model's activation is from llama.cpp's, at most. Raises UserError where it is another one."""
    name = model.config.activation_function
    inputs = torch.linspace(-10, 10, 2001)
    distance = (ACT2FN[name](inputs) - gelu(inputs, approximate="tanh")).abs().max().item()
    if distance > _NEAR:
        raise cli.UserError(f"{folder}: llama.cpp does not compute a GPT-2 with the activation {cli.printable(name)}")
    return distance


def _check_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Raise UserError where llama.cpp would not cut texts into the same tokens."""
    # Added tokens are no part of the merging; without them the library says of what kind it is.
    described = json.loads(tokenizer.library.to_str()) | {"added_tokens": [], "post_processor": None}
    if not tokens_by_rank(tokenizers.Tokenizer.from_str(json.dumps(described))):
        raise cli.UserError(
            f"{folder}: llama.cpp would cut texts into other tokens: its vocabulary is not of GPT-2's kind (merges of "
            "bytes). Take another base for it"
        )


def _add_shape(writer: Any, model: GPT2LMHeadModel) -> None:
    config = model.config
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(model.transformer.h[0].mlp.c_fc.nf)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def _add_vocabulary(writer: Any, tokenizer: Tokenizer, rows: int, types: Any) -> None:
    """Write the vocabulary, with `rows` tokens: those that it lacks have a name that no text has."""
    library = tokenizer.library
    texts = {id: token for token, id in library.get_vocab(with_added_tokens=True).items()}
    kinds = dict.fromkeys(texts, types.NORMAL)
    for id, token in library.get_added_tokens_decoder().items():
        kept = not token.special or token.content in tokenizer.kept
        kinds[id] = types.USER_DEFINED if kept else types.CONTROL  # the former are found in every text
    merges = json.loads(library.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([texts.get(id, f"[PAD{id}]") for id in range(rows)])
    writer.add_token_types([kinds.get(id, types.UNUSED) for id in range(rows)])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.opening)
    writer.add_eos_token_id(tokenizer.closing)
    writer.add_add_bos_token(True)  # as every document begins
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def _add_weights(writer: Any, model: GPT2LMHeadModel, kind: str, gguf: ModuleType) -> None:
    for name, weights in _tensors(model, gguf):
        numbers = gguf.GGMLQuantizationType[_stored(name, weights, kind).upper()]
        writer.add_tensor(name, gguf.quants.quantize(weights, numbers), raw_dtype=numbers)


def _tensors(model: GPT2LMHeadModel, gguf: ModuleType) -> Iterator[tuple[str, np.ndarray]]:
    """The weights (float32) as llama.cpp names and turns them; a tied output matrix is not among them.

    Changes the model's own where it scales its attention in another way than llama.cpp.
    """
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, model.config.n_layer)
    for layer, block in enumerate(model.transformer.h):
        _scale_queries(model, layer, block)
    for name, weights in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        weights = weights.T if name.endswith(_TURNED) else weights
        yield names.get_name(name, try_suffixes=(".weight", ".bias")), weights.contiguous().numpy()


def _scale_queries(model: GPT2LMHeadModel, layer: int, block: torch.nn.Module) -> None:
    """Put into the queries of a block by what its attention is scaled otherwise than by 1/sqrt(width of a head)."""
    config, queries = model.config, block.attn.c_attn
    scale = 1.0 if config.scale_attn_weights else (config.n_embd // config.n_head) ** 0.5
    scale /= layer + 1 if config.scale_attn_by_inverse_layer_idx else 1
    with torch.no_grad():
        queries.weight[:, : config.n_embd] *= scale
        queries.bias[: config.n_embd] *= scale


def _stored(name: str, weights: np.ndarray, kind: str) -> str:
    """How weights are stored in a file of a kind, as llama.cpp has them: vectors and positions in float32."""
    if weights.ndim == 1 or name == "position_embd.weight":
        return "f32"
    return "f16" if kind == "q8_0" and weights.shape[1] % _BLOCK else kind
