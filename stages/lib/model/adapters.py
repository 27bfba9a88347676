"""LoRA: small matrices beside those of the model, trained in their place and added to them in the end.

Hu et al. 2021, https://arxiv.org/abs/2106.09685, as the library peft has it. A checkpoint holds the small matrices
alone.
"""

from __future__ import annotations

from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

_WEIGHTS = "adapter_model.safetensors"
_MATRICES = ["c_attn", "c_proj", "c_fc"]  # of attention and of the feed-forward layers: all that a block has


def attach(model: GPT2LMHeadModel, rank: int, alpha: float, dropout: float) -> PeftModel:
    """Put adapters of `rank` beside every matrix of the blocks of `model`, and leave nothing else to train.

    What they compute is scaled by alpha / rank. They begin as zero; drawn from torch's global generator.
    """
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


def load(model: PeftModel, folder: Path) -> None:
    """Take the adapters that `PeftModel.save_pretrained` wrote to `folder`."""
    set_peft_model_state_dict(model, load_file(folder / _WEIGHTS))
