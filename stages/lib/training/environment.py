"""What decides the bytes of a run's weights: its inputs, and the kind of machine and libraries it used.

Nothing of the latter tells one machine from another of its kind: no host, path, user or time.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

from stages.lib.common import files
from stages.lib.common.cli import UserError, printable
from stages.lib.model import processor, threads

# Variables by which somebody keeps a matrix library from instructions that the processor has.
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
# Libraries whose code takes part in a training step, or in what is stored of it.
LIBRARIES = ("accelerate", "numpy", "peft", "safetensors", "tokenizers", "torch", "transformers")


def describe(device: torch.device, precision: str, memory: str = "usual") -> dict[str, Any]:
    """System, processor, device and library versions, ready for JSON.

    The number of threads is not among them: where it changes bytes, a run goes on with as many as it began with.
    """
    limits = {name: os.environ[name] for name in _LIMITS if name in os.environ}
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        # Where threads do not matter, blocks of a product do not either: its bytes follow from the instructions alone.
        "processor": processor.kind() if threads.matter(device, precision, memory) else processor.vendor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **({"limits": limits} if limits else {}),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def require(first: dict[str, Any], own: dict[str, Any]) -> None:
    """Raise UserError where this process would compute otherwise than the first one, which is described by `first`."""
    for name in first | own:
        if own.get(name) != first.get(name):
            raise UserError(
                f"this machine is another than the first one ({name}: {printable(str(own.get(name)))}, there "
                f"{printable(str(first.get(name)))}): only machines that are alike train together"
            )


def inputs(stage: str) -> Iterator[Path]:
    """The files that a stage depends on, as dvc.yaml has it."""
    pipeline = YAML(typ="safe", pure=True).load(Path("dvc.yaml").read_text(encoding="utf-8"))
    for path in map(Path, pipeline["stages"][stage]["deps"]):
        # Compiled modules come and go, differ from copy to copy, and are nothing to DVC.
        found = (file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix != ".pyc")
        yield from [path] if path.is_file() else found


def fingerprint(stage: str, **facts: Any) -> str:
    """The SHA-256 over the contents of the stage's `deps` in dvc.yaml and over `facts`, in hexadecimal."""
    dependencies = {path.as_posix(): files.sha256(path) for path in inputs(stage)}
    return hashlib.sha256(files.to_json({"deps": dependencies, **facts}).encode()).hexdigest()
