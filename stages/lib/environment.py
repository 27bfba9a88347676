"""The kind of machine and libraries a run used: what, besides its inputs, decides the bytes of its weights.

Nothing here tells one machine from another of its kind: no host, path, user or time.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch

# Libraries whose code takes part in a training step, or in what is stored of it.
LIBRARIES = ("accelerate", "numpy", "safetensors", "tokenizers", "torch", "transformers")


def describe(device: torch.device) -> dict[str, Any]:
    """System, processor features, threads, device and library versions, ready for JSON."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }
