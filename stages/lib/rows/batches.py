"""Rows of tokens into the tensors a model trains on.

Three tensors of the shape [rows, length]: `input_ids`; `position_ids`, which start again at 0 with every segment and
so keep the documents of a row apart; and `labels`, which are the ids again, but `IGNORE` on the first token of every
segment (context only) and on padding. Padding stands at the end of a row, each pad token a segment of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from stages.lib.rows.packing import IGNORE


def open_rows(folder: str | Path, split: str) -> Dataset:
    """The packed rows of a split, memory-mapped: nothing is read before a row is asked for."""
    return Dataset.from_file(str(Path(folder) / f"{split}.arrow")).with_format("numpy", ["input_ids", "lengths"])


def collate(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Make one batch of rows (each with `input_ids` and `lengths`), padded to the longest of them."""
    shape = len(rows), max(len(row["input_ids"]) for row in rows)
    input_ids = np.zeros(shape, dtype=np.int64)
    position_ids = np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, IGNORE, dtype=np.int64)
    for index, row in enumerate(rows):
        ids, lengths = row["input_ids"], row["lengths"]
        starts = np.cumsum(lengths) - lengths
        end = len(ids)
        input_ids[index, :end] = ids
        position_ids[index, :end] = np.arange(end) - np.repeat(starts, lengths)
        labels[index, :end] = ids
        labels[index, starts] = IGNORE
    batch = {"input_ids": input_ids, "position_ids": position_ids, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in batch.items()}
