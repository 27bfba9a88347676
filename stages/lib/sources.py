"""Which files of a model's folder or repository the pipeline reads."""

from __future__ import annotations

from fnmatch import fnmatchcase

# Weights by these names only: pickles can run code when they are read.
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def wanted_files(names: list[str]) -> list[str]:
    """Those of a repository's files that the pipeline reads, in the order given."""
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in FILES)]
