"""Which trackers `train.report_to` names, and whether they can be used: asked before anything else is done."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence

from stages.lib.common.cli import UserError, command

REQUIREMENTS = "tools/trackers_requirements.txt"
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny", "trackio": "trackio", "comet_ml": "comet_ml"}  # of the modules


def named(report_to: str | Sequence[str]) -> list[str]:
    """Those that `train.report_to` names, TensorBoard among them, each once."""
    names = [report_to] if isinstance(report_to, str) else report_to
    return [name for name in dict.fromkeys(names) if name != "none"]


def require(names: Sequence[str]) -> None:
    """Raise UserError where one of these is not installed, or lacks what only its user can give."""
    for name in names:
        if name not in PACKAGES:
            continue
        if not _installed(name):
            install = command(f"python -m pip install -c {REQUIREMENTS} {PACKAGES[name]}")
            raise UserError(f"train.report_to: {name} is not installed: {install}")
        if name == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
            raise UserError("train.report_to: mlflow needs the address of its server, in MLFLOW_TRACKING_URI")
        if name == "wandb" and online() and not importlib.import_module(name).login(prompt=False, verify=False):
            # The library itself would ask for it, at a terminal that nobody may be looking at.
            raise UserError(f"train.report_to: wandb has no key: {command('wandb login')}, or set WANDB_MODE=offline")


def online() -> bool:
    """Whether wandb sends what it is handed, and does not keep it for later."""
    return os.environ.get("WANDB_MODE", "online") == "online"


def _installed(name: str) -> bool:
    """Whether there is such a module; a folder of that name, as wandb itself makes one, is none."""
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None
