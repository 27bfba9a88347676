"""GPT-2 models on disk and in memory.

In memory the weights are float32 whatever they were stored in, attention is the fused kernel, dropout is off unless
asked for, and `gelu_new` is replaced by `gelu_pytorch_tanh`, the same function in one operation. None of this is
written back: a saved model carries the configuration it came with.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging
from yaml import YAMLError

from stages.lib import files
from stages.lib.cli import UserError
from stages.lib.sources import FILES
from stages.lib.tokens import BOUNDARY, boundary_id, load_tokenizer

# How other tools write with a tuned model unless they are told otherwise: as generate.py does. Without, they would take
# the likeliest token every time, and go round in circles.
WRITING = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}
_FUSED = {"gelu_new": "gelu_pytorch_tanh"}
# White space, marks of their own, characters of one to four bytes: what a lossy tokenizer would change.
_PROBE = f" a  b\t\n\nЁё й и\u0306 e\u0301 don't 12,345.6\u00a0🐈 {BOUNDARY} "


def load(folder: str | Path, dropout: float = 0.0, attention: str = "sdpa") -> GPT2LMHeadModel:
    """The GPT-2 in `folder`, float32, on the CPU, in evaluation mode.

    `dropout` is the share of units dropped in training mode, everywhere GPT-2 has dropout; `attention` is transformers'
    name of a kernel. Raises UserError when the folder holds no model.
    """
    if not (Path(folder) / "model.safetensors").exists():
        raise UserError(f"{folder} holds no model yet: run dvc repro")
    config = at_work(GPT2Config.from_pretrained(folder), dropout, attention)
    model = _read(folder, config)[0]
    # What the folder says of generation is for other tools: here it would fill in whatever a command leaves open.
    model.generation_config = GenerationConfig(bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id)
    return model.eval()


def create(config: GPT2Config) -> GPT2LMHeadModel:
    """A GPT-2 of this shape with fresh weights, drawn from torch's global generator."""
    return GPT2LMHeadModel(at_work(config)).eval()


def at_work(config: GPT2Config, dropout: float = 0.0, attention: str = "sdpa") -> GPT2Config:
    """Set what differs between a configuration on disk and the same model at work; changes `config` itself."""
    config.activation_function = _FUSED.get(config.activation_function, config.activation_function)
    config.attn_pdrop = config.embd_pdrop = config.resid_pdrop = dropout
    config._attn_implementation = attention
    return config


def _read(folder: str | Path, config: GPT2Config) -> tuple[GPT2LMHeadModel, dict]:
    with quiet():
        return GPT2LMHeadModel.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )


def normalise(source: str | Path, name: str, folder: Path) -> None:
    """Write the GPT-2 in `source` to `folder` in the one form the pipeline reads.

    That is: config.json, generation_config.json, model.safetensors in float32, tokenizer.json and
    tokenizer_config.json, with `<|endoftext|>` as the token that opens and ends a text. `name` is what the user calls
    the model. Raises UserError when it is no GPT-2, has no safetensors, lacks weights, or lacks `<|endoftext|>`.
    """
    source = Path(source)
    config = read_config(source, name)
    if not any(source.glob("model*.safetensors")):
        raise UserError(f"{name} has no model.safetensors: convert its weights first; pickles are never read")
    try:
        model, loading = _read(source, config)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{name}: its weights cannot be read ({error})") from None
    absent = sorted(loading["missing_keys"]) + sorted(str(key) for key in loading["mismatched_keys"])
    if absent:
        raise UserError(f"{name}: its weights do not fit its config.json; missing or of another shape: {absent[0]}")
    boundary = _normalise_tokenizer(source, name, folder, config)
    for settings in (model.config, model.generation_config):
        settings.bos_token_id = settings.eos_token_id = boundary
    save(model, folder)


def read_config(source: Path, name: str) -> GPT2Config:
    """The configuration of the GPT-2 in `source`, which the user calls `name`. Raises UserError when it is no GPT-2."""
    path = source / "config.json"
    if not path.exists():
        raise UserError(f"{name} has no config.json: it must be a Hugging Face model folder")
    try:
        kind = files.read_json(path).get("model_type")
        if kind != "gpt2":
            raise UserError(f"{name} is a model of type {kind}: only GPT-2 models (model_type gpt2) can be tuned here")
        return GPT2Config.from_pretrained(source)
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{name}: its config.json is not that of a GPT-2 ({reason})") from None


def _normalise_tokenizer(source: Path, name: str, folder: Path, config: GPT2Config) -> int:
    """Write tokenizer.json and tokenizer_config.json to `folder`; return the id of `<|endoftext|>`."""
    if (source / "tokenizer.json").exists():
        store_tokenizer(source / "tokenizer.json", folder, config.n_positions)
    elif (source / "vocab.json").exists() and (source / "merges.txt").exists():
        with quiet(), tempfile.TemporaryDirectory() as made:
            path = Path(made) / "tokenizer.json"
            AutoTokenizer.from_pretrained(source).backend_tokenizer.save(str(path))
            store_tokenizer(path, folder, config.n_positions)
    else:
        raise UserError(f"{name} has no tokenizer.json, nor vocab.json and merges.txt: it needs its tokenizer")
    tokenizer = load_tokenizer(folder)
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise UserError(f"{name}: its tokenizer has {tokenizer.get_vocab_size()} tokens, its model {config.vocab_size}")
    missing = [byte for byte in ByteLevel.alphabet() if tokenizer.token_to_id(byte) is None]
    ids = tokenizer.encode(_PROBE, add_special_tokens=False).ids
    if missing or tokenizer.decode(ids, skip_special_tokens=False) != _PROBE:
        raise UserError(f"{name}: its tokenizer cannot give back every text; a GPT-2's works on bytes and can")
    return boundary_id(tokenizer)


def store_tokenizer(path: Path, folder: Path, context: int) -> None:
    """Write the tokenizer.json at `path` to `folder`, with a tokenizer_config.json for a model of `context` tokens.

    transformers' `AutoTokenizer` then reads a text as the pipeline does: a `<|endoftext|>` before it opens the
    document, and nothing in the text turns into another one. Vocabulary and merges are written as they stand in the
    file: what transformers reads and writes again can be another tokenizer. Raises UserError without `<|endoftext|>`.
    """
    boundary = boundary_id(load_tokenizer(path.parent))
    described = files.read_json(path)
    opens = {"SpecialToken": {"id": BOUNDARY, "type_id": 0}}
    first, second = ({"Sequence": {"id": id, "type_id": index}} for index, id in enumerate("AB"))
    described["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [opens, first],
        "pair": [opens, first, second],
        "special_tokens": {BOUNDARY: {"id": BOUNDARY, "ids": [boundary], "tokens": [BOUNDARY]}},
    }
    # Without line breaks: indented, a vocabulary takes twice the room.
    files.write_text(folder / "tokenizer.json", files.to_json_line(described))
    files.write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",  # the one that reads tokenizer.json as it is
            "bos_token": BOUNDARY,
            "eos_token": BOUNDARY,
            "unk_token": BOUNDARY,
            "split_special_tokens": True,
            "model_max_length": context,
            "clean_up_tokenization_spaces": False,
        },
    )


def provenance(source: str | Path) -> dict[str, str]:
    """The SHA-256 of every file that `normalise` reads, by name."""
    found = sorted(path for pattern in FILES for path in Path(source).glob(pattern))
    return {path.name: files.sha256(path) for path in found}


def licence(source: str | Path) -> str | None:
    """The licence that the folder's model card (README.md) states, if any."""
    card = Path(source) / "README.md"
    if not card.exists():
        return None
    try:
        return ModelCard.load(card).data.license
    except (ValueError, YAMLError):
        return None  # a README that is no model card


def freeze(model: GPT2LMHeadModel, layers: int) -> None:
    """Keep the lowest `layers` blocks as they are and, where there are any, the embeddings below them.

    The output matrix is the token embedding, so it stays too. Raises UserError when the model has no more layers.
    """
    blocks = model.transformer.h
    if layers >= len(blocks):
        raise UserError(f"train.freeze_layers is {layers}, but the base has {len(blocks)} layers: leave one to train")
    frozen = [model.transformer.wte, model.transformer.wpe, *blocks[:layers]] if layers else []
    for module in frozen:
        module.requires_grad_(False)


def save(model: GPT2LMHeadModel, folder: str | Path) -> None:
    """Write configuration and weights to `folder`, as safetensors."""
    with quiet(), files.writing(folder):
        model.save_pretrained(folder)


def save_tuned(model: GPT2LMHeadModel, base: str | Path, folder: str | Path) -> None:
    """Write the weights of `model` to `folder` as float32 safetensors, beside configuration and tokenizer of `base`.

    The result is an ordinary Hugging Face folder, the same bytes for the same weights.
    """
    with files.new_folder(folder) as partial:
        save(model, partial)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(Path(base) / name, partial / name)
        generation = files.read_json(Path(base) / "generation_config.json")
        generation.pop("_from_model_config", None)
        files.write_json(partial / "generation_config.json", generation | WRITING)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own progress bars and notices off the terminal."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def parameters(model: torch.nn.Module, trained: bool = False) -> int:
    """How many numbers a model holds, adapters left out; with `trained` how many training changes, those included.

    The tied embedding and output matrix count once.
    """
    if trained:
        return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return sum(parameter.numel() for name, parameter in model.named_parameters() if "lora_" not in name)
