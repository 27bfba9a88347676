"""The model that is trained: all of a GPT-2, or some layers of it, or small matrices beside them (LoRA)."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GPT2LMHeadModel

from stages.lib.common import params
from stages.lib.model import models


def load(base: Path, settings: params.Train, attention: str, source: Path | None = None) -> torch.nn.Module:
    """The model to train, with adapters for LoRA: as the base is, or as it was saved to `source` while training."""
    if not settings.lora_rank:
        whole = models.load(source or base, settings.dropout, attention)
        models.freeze(whole, settings.freeze_layers)
        return whole
    from stages.lib.model import adapters  # only here: peft takes a second to load

    torch.manual_seed(settings.seed)
    adapted = adapters.attach(
        models.load(base, settings.dropout, attention), settings.lora_rank, settings.lora_alpha, settings.dropout
    )
    if source:
        adapters.load(adapted, source)
    return adapted.eval()


def whole(model: torch.nn.Module) -> GPT2LMHeadModel:
    """The ordinary GPT-2 that a trained model is, its adapters, if it has any, merged into it."""
    return model if isinstance(model, GPT2LMHeadModel) else model.merge_and_unload()
