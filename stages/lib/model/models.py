"""GPT-2 models on disk and in memory.

In memory the weights are float32 whatever they were stored in, attention is the fused kernel, dropout is off unless
asked for, `gelu_new` is replaced by `gelu_pytorch_tanh`, the same function in one operation, and the number of threads
does not change what is computed. None of this is written back: a saved model carries the configuration it came with.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from stages.lib.common import files
from stages.lib.common.cli import UserError, command, printable
from stages.lib.model import threads
from stages.lib.model.attention import find_documents

# The tokenizer of a model folder: the form that is read, then the older one, which not every tokenizer has.
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
# How other tools write with a tuned model unless they are told otherwise: as generate.py does. Without, they would take
# the likeliest token every time, and go round in circles.
WRITING = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}
_WEIGHTS = "model.safetensors"
_OF_STAGES = (("model", "base"), ("model", "finetuned"))  # folders that the stages make
_FUSED = {"gelu_new": "gelu_pytorch_tanh"}


def load(folder: str | Path, dropout: float = 0.0, attention: str = "sdpa") -> GPT2LMHeadModel:
    """The GPT-2 in `folder`, float32, on the CPU, in evaluation mode.

    `dropout` is the share of units dropped in training mode, everywhere GPT-2 has dropout; `attention` is transformers'
    name of a kernel, or `documents`. Raises UserError when the folder holds no model.
    """
    require(Path(folder))
    with files.reading(folder), quiet():
        config = at_work(GPT2Config.from_pretrained(folder), dropout, attention)
        model = GPT2LMHeadModel.from_pretrained(folder, config=config, dtype=torch.float32, use_safetensors=True)
    check_finite(model.named_parameters(), str(folder))
    # What the folder says of generation is for other tools: here it would fill in whatever a command leaves open.
    model.generation_config = GenerationConfig(bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id)
    return find_documents(threads.share_alike(model)).eval()


def require(folder: Path) -> None:
    """Raise UserError when the folder holds no model."""
    if (folder / _WEIGHTS).exists():
        return
    if folder.parts[-2:] in _OF_STAGES:
        raise UserError(f"{folder} holds no model yet: run {command('dvc repro')}")
    raise UserError(f"{printable(str(folder))} holds no model: there is no {_WEIGHTS}")


def create(config: GPT2Config, attention: str = "sdpa") -> GPT2LMHeadModel:
    """A GPT-2 of this shape with fresh weights, drawn from torch's global generator."""
    return find_documents(threads.share_alike(GPT2LMHeadModel(at_work(config, attention=attention)))).eval()


def at_work(config: GPT2Config, dropout: float = 0.0, attention: str = "sdpa") -> GPT2Config:
    """Set what differs between a configuration on disk and the same model at work; changes `config` itself."""
    config.activation_function = _FUSED.get(config.activation_function, config.activation_function)
    config.attn_pdrop = config.embd_pdrop = config.resid_pdrop = dropout
    # Nothing is padded here, and transformers would warn of inputs that hold this token without a mask.
    config.pad_token_id = None
    config._attn_implementation = attention
    return config


def head_width(folder: str | Path) -> int:
    """The width of an attention head of the GPT-2 in `folder`."""
    config = GPT2Config.from_pretrained(folder)
    return config.n_embd // config.n_head


def check_finite(weights: Iterable[tuple[str, torch.Tensor]], name: str) -> None:
    """Raise UserError when one of these weights, of the model that the user calls `name`, is NaN or infinite."""
    for weight, values in weights:
        if not all(map(torch.isfinite, torch.aminmax(values.detach()))):
            raise UserError(f"{name}: its weights are damaged: {weight} holds what is no number (NaN or infinite)")


def freeze(model: GPT2LMHeadModel, layers: int) -> None:
    """Keep the lowest `layers` blocks as they are and, where there are any, the embeddings below them.

    The output matrix, mostly the token embedding itself, stays too.
    """
    blocks = model.transformer.h[:layers]
    frozen = [model.transformer.wte, model.transformer.wpe, model.lm_head, *blocks] if layers else []
    for module in frozen:
        module.requires_grad_(False)


def save(model: GPT2LMHeadModel, folder: str | Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write configuration and weights to `folder`, as safetensors: those of `model`, or others in their place."""
    with quiet(), files.writing(folder):
        model.save_pretrained(folder, state_dict=weights)


def save_tuned(model: GPT2LMHeadModel, base: str | Path, folder: str | Path) -> None:
    """Write the weights of `model` to `folder` as float32 safetensors, beside configuration and tokenizer of `base`.

    The result is an ordinary Hugging Face folder, the same bytes for the same weights.
    """
    with files.new_folder(folder) as partial:
        save(model, partial)
        for name in ("config.json", *TOKENIZER):
            if (Path(base) / name).exists():
                shutil.copyfile(Path(base) / name, partial / name)
        ids = {name: getattr(model.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        files.write_json(partial / "generation_config.json", ids | WRITING)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own progress bars and notices off the terminal."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def parameters(model: torch.nn.Module, trained: bool = False) -> int:
    """How many numbers a model holds, adapters left out; with `trained` how many training changes, those included.

    The tied embedding and output matrix count once.
    """
    if trained:
        return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return sum(parameter.numel() for name, parameter in model.named_parameters() if "lora_" not in name)
