"""What the processor of this machine is, and can do: as far as results depend on it."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path

_DESCRIPTION = Path("/proc/cpuinfo")
# Matrix libraries choose block sizes by the caches, which follow from these: on x86, then on ARM.
_KIND = ("vendor_id", "cpu family", "model", "cache size", "CPU implementer", "CPU variant", "CPU part", "CPU revision")


def vendor() -> str:
    """The maker, by the name that the processor itself gives, as GenuineIntel; empty where that is not known."""
    return _fact("vendor_id") or ""


def has(feature: str) -> bool:
    """Whether the processor has a feature, by Linux's name, as avx512_bf16."""
    return feature in (_fact("flags") or "").split()


def kind() -> str:
    """Maker, family, model and cache of the processor."""
    known = ", ".join(f"{name} {fact}" for name in _KIND if (fact := _fact(name)))
    return known or platform.processor()


def _fact(name: str) -> str | None:
    found = re.search(rf"^{name}\s*: (.+)$", _described(), re.MULTILINE)
    return found[1] if found else None


@cache
def _described() -> str:
    return _DESCRIPTION.read_text(encoding="utf-8") if _DESCRIPTION.exists() else ""
