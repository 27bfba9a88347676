"""What a run will take of memory and disk, before its first step, and what would make it fit.

Memory is counted from the shapes: weights, gradients and the optimizer's state; the activations that a backward pass
needs; and the logits, by far the largest thing that comes and goes. What the process holds already, the libraries and
the weights among it, is measured. All sizes in bytes.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from operator import or_
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import GPT2Config

from stages.lib.common import files, params
from stages.lib.common.cli import UserError
from stages.lib.model import devices, loss
from stages.lib.model.attention import DOCUMENTS
from stages.lib.processes import machines
from stages.lib.processes.gradients import part_of
from stages.lib.training.plan import Plan

_NUMBER = 4  # of float32
_ADAMW = 2  # numbers it keeps for each that is trained
# What a block of GPT-2 keeps of a token for the backward pass, in bytes for each unit of its width: the inputs of two
# layer norms in float32; in the precision of the products what these give, query, key and value, what attention gives,
# and, four times as wide, what goes into the activation and out of it. Attention keeps its outcome again, or a mask.
_KEPT = {"float32": 64, "bfloat16": 36}
# Workspaces and gaps in the heap; and, of the weights, what saving them and loading the kept ones takes: as measured.
_BESIDE, _SAVING = 0.1e9, 0.8
_CONTAINER, _LIMIT = Path("/sys/fs/cgroup"), ("memory.max", "memory.current")
CERTAIN = 0.9  # of what is counted: less than that it will not be


@dataclass(frozen=True)
class Run:
    """What decides how much a run takes."""

    config: GPT2Config
    settings: params.Train
    speed: devices.Speed
    plan: Plan
    length: int  # tokens of a row
    device: torch.device
    processes: int = 1

    @property
    def parameters(self) -> int:
        """Numbers in the model, its matrices of LoRA left out."""
        matrices = self.config.vocab_size * (1 if self.config.tie_word_embeddings else 2)
        return self._blocks + (matrices + self.config.n_positions + 2) * self.config.n_embd

    @property
    def trained(self) -> int:
        """Numbers that training changes."""
        if rank := self.settings.lora_rank:
            return rank * (8 * self.config.n_embd + 2 * self._inner) * self.config.n_layer
        if frozen := min(self.settings.freeze_layers, self.config.n_layer):
            return self._blocks * (self.config.n_layer - frozen) // self.config.n_layer + 2 * self.config.n_embd
        return self.parameters

    @property
    def _blocks(self) -> int:
        width, inner = self.config.n_embd, self._inner
        return self.config.n_layer * (4 * width**2 + 2 * width * inner + inner + 9 * width)

    @property
    def _inner(self) -> int:
        """The width of a feed-forward layer."""
        return self.config.n_inner or 4 * self.config.n_embd

    @property
    def _batches(self) -> int:
        """The most of a step that this process computes: an epoch may have fewer than a step takes."""
        return min(self.plan.batches // self.processes, math.ceil(self.plan.rows / self.settings.batch_size))

    def memory(self) -> int:
        """The most that training holds besides the weights and what the process held before."""
        gradients, state = _NUMBER * self.trained * self._share, _NUMBER * self._state * self._share
        matrix = 0 if self.settings.lora_rank or self.settings.freeze_layers else self._matrix
        before = gradients * self._earlier
        forward = before + self._activations + matrix + self._logits
        # The gradients of the embedding and of the output matrix, which are one, come one after the other.
        backward = before + gradients + matrix + self._block * self.settings.gradient_checkpointing
        # Freed memory is kept for what comes later (devices.py), which leaves gaps; with `memory: small` it is not.
        gaps = _SAVING * (self.settings.memory == "usual" and self.device.type == "cpu") * _NUMBER * self.parameters
        return int(state + max(forward, backward, before + gradients + self._step) + _BESIDE + gaps)

    @property
    def _share(self) -> float:
        """What a process keeps of all that is trained: sharded, its part of the blocks, and whatever is in none."""
        in_none = 0 if self.settings.lora_rank or self.settings.freeze_layers else self.trained - self._blocks
        parts = self.processes if self.settings.sharding == "full" else 1
        return (in_none + (self.trained - in_none) / parts) / self.trained

    @property
    def _state(self) -> float:
        """Numbers that the optimizer keeps: of a matrix, with `memory: small`, one a row and one a column."""
        width = self.config.n_embd
        return self.trained * (_ADAMW if self.settings.memory == "usual" else 3 / width)

    @property
    def _step(self) -> float:
        """What a step of the optimizer takes for itself: Adafactor's, some copies of the largest matrix."""
        return 0 if self.settings.memory == "usual" else 3 * min(self._matrix, _NUMBER * self.trained)

    @property
    def _matrix(self) -> int:
        return _NUMBER * self.config.vocab_size * self.config.n_embd

    @property
    def _earlier(self) -> int:
        """Sums of gradients of earlier batches that are held while a batch is computed."""
        ordered = self.settings.deterministic and self.settings.sharding == "none"
        part = part_of(self.plan.batches) if ordered else self._batches
        return max((batch // part).bit_count() + (batch % part > 0) for batch in range(self._batches))

    @property
    def _activations(self) -> int:
        layers = max(0, self.config.n_layer - self.settings.freeze_layers)  # nothing is kept of those below
        tokens = self.settings.batch_size * self.length
        unit = tokens * self.config.n_embd
        beside = (_NUMBER + self._number) * unit  # after the last block
        if self.settings.gradient_checkpointing:  # a block at a time is computed again, from what went into it
            return beside + layers * _NUMBER * unit + self._block
        return beside + layers * self._block

    @property
    def _number(self) -> int:
        """Bytes of one, as it is computed with."""
        return _NUMBER if self.speed.precision == "float32" else _NUMBER // 2

    @property
    def _block(self) -> int:
        """What a block keeps for the backward pass."""
        width, tokens = self.config.n_embd, self.settings.batch_size * self.length
        exact = self.speed.precision == "float32"
        scores = self.config.n_head * self.length * (1 if exact else 3)  # that eager keeps, in float32 as well
        attention = {DOCUMENTS: width, "sdpa": self.length, "eager": scores}[self.speed.attention]
        casts = 0 if exact else 12 * width**2 * self._number  # of its matrices
        return tokens * (_KEPT[self.speed.precision] * width + self._number * attention) + casts

    @property
    def _logits(self) -> int:
        tokens, vocabulary = self.settings.batch_size * self.length, self.config.vocab_size
        some = math.ceil(tokens / loss.parts(tokens, vocabulary, self.device))
        operand = 0 if self.speed.precision == "float32" else self._matrix // 2
        return 2 * _NUMBER * some * vocabulary + operand

    def checkpoint(self) -> int:
        """What a checkpoint takes: the weights and the state of the optimizer."""
        return int(_NUMBER * (self._saved + self._state))

    @property
    def _saved(self) -> int:
        return self.trained if self.settings.lora_rank else self.parameters

    def disk(self) -> tuple[int, int]:
        """What checkpoints, the best weights, and the tuned model with its copy in DVC's cache take: least and most.

        The weights of one of the checkpoints may be the best ones, which takes nothing then, or those of an older one.
        """
        most = self.settings.save_total_limit
        steps = (step for step in range(1, self.plan.steps + 1) if self.plan.saves_after(step, self.settings))
        saves = len(list(islice(steps, most + 2)))
        writing, kept = min(saves, most + 1) * self.checkpoint(), min(saves, most) * self.checkpoint()
        older = _NUMBER * self._saved if self.settings.keep == "best" else 0
        end = kept + older * (saves > most) + 2 * _NUMBER * self.parameters
        return writing, max(writing + older * (saves > most + 1), end)

    def smaller(self) -> Iterator[tuple[str, Run]]:
        """Settings with which it may take less: one change, those first that change the least; then all up to one."""
        rows, steps = self.settings.batch_size, self.settings.gradient_accumulation_steps
        changes: list[dict[str, Any]] = [
            {"batch_size": rows // part, "gradient_accumulation_steps": steps * part}
            for part in (2, 4, 8, 16, 32, 64)
            if rows % part == 0
        ]
        changes.append({"gradient_checkpointing": True})
        if self.settings.sharding == "none":
            changes.append({"memory": "small"})
        if not self.settings.freeze_layers:
            changes.append({"lora_rank": self.settings.lora_rank or 8})
        for made in (*changes, *accumulate(changes, or_)):
            differs = {name: value for name, value in made.items() if getattr(self.settings, name) != value}
            if differs:
                settings = self.settings.model_copy(update=differs)
                plan = replace(self.plan, batches=self.plan.batches * settings.gradient_accumulation_steps // steps)
                said = ", ".join(f"train.{name}: {value}".lower() for name, value in differs.items())
                yield said, replace(self, settings=settings, plan=plan)


def require(run: Run, folder: Path | None) -> str:
    """What the run takes, for a person to read; to be called with the model loaded.

    `folder` is where its checkpoints go; None for a process that writes none. Raises UserError where there
    is not so much memory or disk.
    """
    # Processes on a processor take of the same memory, and a card has one.
    here = max(1, run.processes // machines.count()) if run.device.type == "cpu" else 1
    held, free = here * _held(run.device), _free(run.device)
    needed = here * run.memory()
    if needed * CERTAIN > free:
        fits = (what for what, smaller in run.smaller() if here * smaller.memory() * CERTAIN <= free)
        remedy = next(fits, "a smaller base, or a machine with more")
        raise UserError(
            f"training would take {_gb(held + needed)} GB of memory, of {_gb(held + free)} GB: take {remedy}"
        )
    least, most = run.disk()
    if folder and least > (room := shutil.disk_usage(folder).free + files.size_of_tree(folder)):
        raise UserError(
            f"checkpoints would take {_gb(least)} GB of disk, of {_gb(room)} GB: lower train.save_total_limit, take "
            "train.lora_rank: 8, or free some"
        )
    return f"takes at most {_gb(held + needed)} GB of memory and {_gb(most)} GB of disk"


def _gb(amount: float) -> str:
    return f"{amount / 1e9:.{1 if amount >= 1e8 else 3}f}"  # of a tiny model, more than 0.0


def _held(device: torch.device) -> int:
    """What this process holds: of a card's memory, or of the machine's."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    machine = psutil.virtual_memory().available + psutil.swap_memory().free
    return min([machine, *_left_in_container()])


def _left_in_container() -> Iterator[int]:
    """What a container has left of the memory that was set for it, if any was."""
    with suppress(OSError, ValueError):  # none, or "max"
        most, used = ((_CONTAINER / name).read_text(encoding="ascii").strip() for name in _LIMIT)
        # Pages of files that nobody has read lately count as used, and are given up where memory is asked for.
        described = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text(encoding="ascii").splitlines())
        yield int(most) - int(used) + int(described.get("inactive_file", 0))
