"""A model folder as ONNX, by the exporter of transformers: one graph that reads a text and goes on with it.

The graph takes keys and values of the tokens before and gives back those of all, so that each new token costs one step.
Inputs and outputs have the names that optimum and other programs look for.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2LMHeadModel

from stages.lib.common import cli, files
from stages.lib.model import models
from tools.packages import EXPORT, package

BESIDE = ("config.json", "generation_config.json", *models.TOKENIZER)
_BEFORE, _NEW = 2, 3  # tokens of the example by which the graph is found: neither 0 nor 1, which it might keep


def export(model_folder: Path, output: Path) -> None:
    """Write `output`/NAME-onnx/, named after `model_folder`: model.onnx, configuration and tokenizer; and say so.

    Weights above 2 GB stand in a file beside model.onnx. Raises UserError where packages or the model are missing.
    """
    for module in ("onnx", "onnxscript"):
        package(module, "ONNX", EXPORT)
    models.require(model_folder)
    # As it is: the pipeline's own operations, which are there for training, are none that ONNX has.
    with files.reading(model_folder), models.quiet():
        model = GPT2LMHeadModel.from_pretrained(model_folder, dtype=torch.float32, use_safetensors=True).eval()
    model.config.use_cache = True
    cli.say("export: the model is traced, which takes a minute")
    models.check_finite(model.named_parameters(), str(model_folder))
    folder = output / f"{model_folder.resolve().name}-onnx"
    with files.new_folder(folder) as partial, files.writing(partial):
        _graph(model).save(partial / "model.onnx")
        for name in BESIDE:
            if (model_folder / name).exists():
                shutil.copyfile(model_folder / name, partial / name)
    size = sum(path.stat().st_size for path in folder.glob("model.onnx*"))
    cli.say(f"{cli.printable(str(folder))}, {size / 2**20:.1f} MiB")


def _graph(model: GPT2LMHeadModel) -> Any:
    """The model as a torch.onnx.ONNXProgram.

    With L tokens before and T new ones in each of N texts: input_ids and position_ids [N, T], attention_mask [N, L + T]
    and past_key_values.LAYER.key and .value [N, heads, L, width of a head] become logits [N, T, tokens] and
    present.LAYER.key and .value [N, heads, L + T, width of a head].
    """
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter  # takes what may not be installed

    ids = torch.zeros(2, _NEW, dtype=torch.int64)
    with _silence():
        with torch.no_grad():
            before = model(ids[:, :_BEFORE], use_cache=True).past_key_values
        example = {
            "input_ids": ids,
            "attention_mask": torch.ones(2, _BEFORE + _NEW, dtype=torch.int64),
            "position_ids": torch.arange(_BEFORE, _BEFORE + _NEW).repeat(2, 1),
            "past_key_values": before,
        }
        program = OnnxExporter().export(model, example, OnnxConfig(dynamic=True))
    # Where each operation comes from: lines of code, with the paths of this machine.
    package("onnx_ir.passes.common", "ONNX", EXPORT).ClearMetadataAndDocStringPass()(program.model)
    for side, values in (("past_key_values", program.model.graph.inputs), ("present", program.model.graph.outputs)):
        for value in values:
            value.name = re.sub(r".*past_key_values\.layers\.(\d+)\.(key|value)s", rf"{side}.\1.\2", value.name)
    return program


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what torch and transformers say of their own progress and code from the user."""
    with models.quiet(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
