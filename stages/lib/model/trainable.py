"""The model that is trained: all of a GPT-2, or some layers of it, or small matrices beside them (LoRA).

LoRA's are trained in the place of the model's own and added to them in the end: Hu et al. 2021,
https://arxiv.org/abs/2106.09685, as the library peft has it. A checkpoint holds the small matrices alone. peft is
imported where it is used: that takes a second.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from stages.lib.common import params
from stages.lib.model import models

_WEIGHTS = "adapter_model.safetensors"
_MATRICES = ["c_attn", "c_proj", "c_fc"]  # of attention and of the feed-forward layers: all that a block has


def load(base: Path, settings: params.Train, attention: str, source: Path | None = None) -> torch.nn.Module:
    """The model to train, with adapters for LoRA: as the base is, or as it was saved to `source` while training."""
    if not settings.lora_rank:
        whole = models.load(source or base, settings.dropout, attention)
        models.freeze(whole, settings.freeze_layers)
        return whole
    from peft import set_peft_model_state_dict

    torch.manual_seed(settings.seed)
    model = models.load(base, settings.dropout, attention)
    adapted = attach(model, settings.lora_rank, settings.lora_alpha, settings.dropout)
    if source:
        set_peft_model_state_dict(adapted, load_file(source / _WEIGHTS))
    return adapted.eval()


def attach(model: GPT2LMHeadModel, rank: int, alpha: float, dropout: float) -> torch.nn.Module:
    """Put matrices of `rank` beside every matrix of the blocks of `model`, and leave nothing else to train.

    What they compute is scaled by alpha / rank. They begin as zero; drawn from torch's global generator.
    """
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        model,
        LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=_MATRICES,
            fan_in_fan_out=True,  # GPT-2 keeps its matrices transposed
            task_type="CAUSAL_LM",
        ),
    )


def whole(model: torch.nn.Module) -> GPT2LMHeadModel:
    """The ordinary GPT-2 that a trained model is, its adapters, if it has any, merged into it."""
    return model if isinstance(model, GPT2LMHeadModel) else model.merge_and_unload()
