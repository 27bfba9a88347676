"""A published GPT-2 into the form in which the pipeline keeps its base: weights, config and tokenizer held together.

That form is an ordinary Hugging Face folder: config.json, model.safetensors in float32, tokenizer.json and
tokenizer_config.json, and vocab.json and merges.txt where the tokenizer can be written so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from transformers import GPT2Config

from stages.lib.bases import sources, vocabularies, weights
from stages.lib.common import files


@dataclass(frozen=True)
class Facts:
    """What a base is, and what was changed on its way here."""

    layers: int
    width: int
    heads: int
    context: int  # tokens it sees
    vocabulary: int  # tokens it knows
    parameters: int
    opens_a_text: str
    closes_a_text: str
    converted: list[str]


def normalise(
    source: str | Path, name: str, folder: Path, end_of_text: str | None = None, keep_special: bool = False
) -> Facts:
    """Write the GPT-2 in `source`, which the user calls `name`, to `folder` in the pipeline's form.

    `end_of_text` and `keep_special` are the settings `base.end_of_text` and `base.special_tokens`. Raises UserError
    when it is no GPT-2 that can be tuned here, or when its parts do not fit each other.
    """
    source = Path(source)
    sources.own_files(source, name)
    config = sources.read_config(source, name)
    vocabulary = vocabularies.read(source, name, config, end_of_text)
    tensors, converted = weights.read(source, name, config)
    if vocabulary.added:
        row = vocabulary.id(vocabulary.closing)
        weights.add_row(tensors, row)
        config.vocab_size = max(config.vocab_size, row + 1)
    config.bos_token_id = vocabulary.id(vocabulary.opening)
    config.eos_token_id = vocabulary.id(vocabulary.closing)
    config.pad_token_id = vocabulary.id(vocabulary.padding)
    config.tie_word_embeddings = weights.HEAD not in tensors
    if not config.tie_word_embeddings:
        converted.append("an output matrix of its own kept")
    config.dtype = "float32"
    config.save_pretrained(folder)
    with files.writing(folder):
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    vocabularies.store(vocabulary, folder, config.n_positions, keep_special)
    return _facts(config, vocabulary, sum(tensor.numel() for tensor in tensors.values()), converted)


def provenance(source: str | Path, name: str) -> dict[str, str]:
    """The SHA-256 of every file that `normalise` reads, by name."""
    return {path.name: files.sha256(path) for path in sources.own_files(Path(source), name)}


def _facts(config: GPT2Config, vocabulary: vocabularies.Vocabulary, parameters: int, converted: list[str]) -> Facts:
    return Facts(
        layers=config.n_layer,
        width=config.n_embd,
        heads=config.n_head,
        context=config.n_positions,
        vocabulary=config.vocab_size,
        parameters=parameters,
        opens_a_text=vocabulary.opening,
        closes_a_text=vocabulary.closing,
        converted=[*vocabulary.converted, *converted],
    )
