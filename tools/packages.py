"""The packages that the pipeline does without, and some tools do not."""

from __future__ import annotations

import importlib
from types import ModuleType

from stages.lib.common.cli import UserError, command

EXPORT, PAGE = "tools/export_requirements.txt", "tools/page_requirements.txt"


def package(module: str, what: str, requirements: str) -> ModuleType:
    """A module that `what` takes, of those in the file `requirements`. Raises UserError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{what} takes more packages: " + command(f"python -m pip install -r {requirements}")) from None
