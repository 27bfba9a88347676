"""What the base model allows: settings held against it, before any work that they would spoil."""

from __future__ import annotations

import reprlib
from pathlib import Path

from stages.lib.common import files
from stages.lib.common.cli import UserError
from stages.lib.common.params import PATH, Base, Params
from stages.lib.rows import tokens


def need_folder(base: Base) -> None:
    """Raise UserError when the base is to come from a folder that is none."""
    if not base.hub and not Path(base.folder).is_dir():
        raise UserError(f"{base.folder} is no folder: mend base.folder in params.yaml, or set base.hub")


def check(settings: Params, base: Path) -> None:
    """Raise UserError when a setting asks for more than the model in the folder `base` has: context or layers."""
    config = files.read_json(base / "config.json")
    context, layers = config["n_positions"], config["n_layer"]
    if settings.tokenize.max_length > context:
        raise UserError(
            f"{PATH}: tokenize.max_length is {settings.tokenize.max_length}, but the base model sees {context} tokens "
            "at most"
        )
    stride = settings.evaluate.stride
    if stride is not None and stride >= context:
        raise UserError(
            f"{PATH}: evaluate.stride is {stride}, but must be below the {context} tokens that the base model sees"
        )
    if settings.train.freeze_layers >= layers:
        raise UserError(
            f"{PATH}: train.freeze_layers is {settings.train.freeze_layers}, but the base model has {layers} layers: "
            "leave one to train"
        )
    tokenizer = tokens.Tokenizer(base)
    for prompt in settings.evaluate.prompts if settings.evaluate.prompts != "auto" else ():
        try:
            tokens.prompt_ids(tokenizer, prompt, context)
        except UserError as error:
            raise UserError(f"{PATH}: evaluate.prompts, {reprlib.repr(prompt)}: {error}") from None
