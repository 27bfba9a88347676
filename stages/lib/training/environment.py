"""The kind of machine and libraries a run used: what, besides its inputs, decides the bytes of its weights.

Nothing here tells one machine from another of its kind: no host, path, user or time.
"""

from __future__ import annotations

import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

# Libraries whose code takes part in a training step, or in what is stored of it.
LIBRARIES = ("accelerate", "numpy", "peft", "safetensors", "tokenizers", "torch", "transformers")

_CPU_FACTS = ("vendor_id", "cpu family", "model", "stepping", "cache size")


def describe(device: torch.device) -> dict[str, Any]:
    """System, processor, threads, device and library versions, ready for JSON."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def _processor() -> str:
    """Maker, family, model and cache of the processor: matrix libraries choose kernels and block sizes by them."""
    described = Path("/proc/cpuinfo")
    if not described.exists():
        return platform.processor()
    text = described.read_text(encoding="utf-8")
    found = (re.search(rf"^{name}\s*: (.+)$", text, re.MULTILINE) for name in _CPU_FACTS)
    return ", ".join(f"{name} {match[1]}" for name, match in zip(_CPU_FACTS, found, strict=True) if match)
