"""GPT-2s in the file forms in which people publish them: tiny random weights, real layouts.

A `Layout` is a row of the table `LAYOUTS`: the models that look so, how their folder is made, and what is to come out.
The shapes of the files are facts about the Hub; every number in them is made here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from conftest import TEXTS
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2DoubleHeadsModel, GPT2LMHeadModel

END = "<|endoftext|>"
TRAINED = [*TEXTS, "the cat and the dog, don't they? 12 345", "ещё не вечер — «так» сказал он"]


def byte_level(size: int, special: list[str], texts: list[str] = TRAINED) -> Tokenizer:
    """A byte-level BPE of so many entries at most, the special tokens first, none of them marked as added."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts * 20, trainer)
    return tokenizer


class Folder:
    """A model folder that is being made. `truth` is the model whose weights it holds, however they are stored."""

    def __init__(
        self,
        path: Path,
        rows: int | None = None,
        special: tuple[str, ...] = (END,),
        tokenizer: Tokenizer | None = None,
    ) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.tokenizer = tokenizer or byte_level(300, list(special))
        self.rows = rows or self.tokenizer.get_vocab_size()
        self.settings: dict[str, Any] = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
        self.truth: GPT2LMHeadModel

    def write(self, name: str, content: Any) -> None:
        """Write an object as JSON, or text as it is."""
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        (self.path / name).write_text(text, encoding="utf-8")

    # Weights

    def model(self, kind: type = GPT2LMHeadModel, **settings: Any) -> None:
        """Draw the weights."""
        torch.manual_seed(0)
        self.settings |= settings
        # Ten times GPT-2's: tiny models whose predictions differ from token to token.
        config = GPT2Config(**{"vocab_size": self.rows, "initializer_range": 0.2} | self.settings)
        self.truth = kind(config).eval()

    def config(self, drop: tuple[str, ...] = (), **more: Any) -> None:
        """config.json with the sizes, `more`, and without `drop`."""
        described = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": self.rows}
        described |= {"n_ctx": self.settings["n_positions"]} | self.settings | more
        self.write("config.json", {key: value for key, value in described.items() if key not in drop})

    def tensors(
        self, prefix: bool = True, masks: torch.dtype | None = None, head: bool = False, dtype: Any = torch.float32
    ) -> dict[str, torch.Tensor]:
        """The weights by name: with or without `transformer.`, the masks of old versions, the tied output matrix.

        Stored in another `dtype` they are rounded, and so is the truth.
        """
        self.truth = self.truth.to(dtype).float()
        found = {key: tensor.to(dtype).clone() for key, tensor in self.truth.state_dict().items()}
        if not head and torch.equal(self.truth.lm_head.weight, self.truth.transformer.wte.weight):
            del found["lm_head.weight"]
        if masks:
            n = self.settings["n_positions"]
            for layer in range(self.settings["n_layer"]):
                found[f"transformer.h.{layer}.attn.bias"] = torch.tril(torch.ones(n, n)).view(1, 1, n, n).to(masks)
                found[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
        return found if prefix else {key.removeprefix("transformer."): tensor for key, tensor in found.items()}

    def safetensors(self, name: str = "model.safetensors", **how: Any) -> None:
        """The weights as safetensors."""
        save_file(self.tensors(**how), self.path / name, metadata={"format": "pt"})

    def pickle(self, name: str = "pytorch_model.bin", archive: bool = True, **how: Any) -> None:
        """The weights as torch pickles them; not as an `archive`: as it did before version 1.6."""
        torch.save(self.tensors(**how), self.path / name, _use_new_zipfile_serialization=archive)

    def shards(self, ending: str, **how: Any) -> None:
        """The weights in two files, with the index that says which is where."""
        tensors = self.tensors(**how)
        stem, index = ("model", "safetensors") if ending == "safetensors" else ("pytorch_model", "bin")
        names = sorted(tensors)
        parts = {f"{stem}-{n + 1:05d}-of-00002.{ending}": names[n::2] for n in range(2)}
        for file, keys in parts.items():
            part = {key: tensors[key] for key in keys}
            if ending == "safetensors":
                save_file(part, self.path / file, metadata={"format": "pt"})
            else:
                torch.save(part, self.path / file)
        where = {key: file for file, keys in parts.items() for key in keys}
        self.write(f"{stem}.{index}.index.json", {"metadata": {"total_size": 1}, "weight_map": where})

    # Tokenizers

    def described(self, *added: str) -> dict[str, Any]:
        """tokenizer.json as the library writes it today, with these tokens marked as special ones."""
        found = json.loads(self.tokenizer.to_str())
        found["added_tokens"] = [added_token(self.tokenizer.token_to_id(token), token) for token in added]
        return found

    def of_2020(self, *added: str) -> dict[str, Any]:
        """tokenizer.json as it was written in 2020."""
        found = self.described(*added)
        for token in found["added_tokens"]:
            token["normalized"] = True
        model = found["model"]
        nothing = {"dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": ""}
        merges = [" ".join(pair) for pair in model["merges"]]
        found["model"] = nothing | {"fuse_unk": False, "vocab": model["vocab"], "merges": merges}
        for step in ("pre_tokenizer", "post_processor", "decoder"):
            found[step].pop("use_regex", None)
        return found

    def vocab_and_merges(self) -> None:
        """vocab.json and merges.txt."""
        model = json.loads(self.tokenizer.to_str())["model"]
        self.write("vocab.json", model["vocab"])
        self.write("merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))


def added_token(id: int, content: str, special: bool = True) -> dict[str, Any]:
    """A token in the list `added_tokens` of a tokenizer.json."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return {"id": id, "content": content, **flags}


def token_object(content: str) -> dict[str, Any]:
    """A token as tokenizer_config.json of the years from 2020 to 2023 writes it."""
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return {"__type": "AddedToken", "content": content, **flags}


@dataclass(frozen=True)
class Layout:
    """How some models are published, and what is to become of them.

    `make` fills a folder. Then either the tokens that open and close a text, with what is said of the conversion; or
    `refused`, words of the line that says why not. `end_of_text` is the setting of that name. `plain` is False where
    transformers itself reads the folder otherwise than the model is meant.
    """

    name: str
    make: Callable[[Folder], None]
    opens: str = END
    closes: str = END
    said: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    end_of_text: str | None = None
    plain: bool = True
    folder: dict[str, Any] = field(default_factory=dict)

    def fill(self, path: Path) -> Folder:
        """Make the folder."""
        folder = Folder(path, **self.folder)
        self.make(folder)
        return folder


def openai(folder: Folder, **settings: Any) -> None:
    folder.model(**settings)
    end = folder.tokenizer.token_to_id(END)
    folder.config(
        bos_token_id=end,
        eos_token_id=end,
        task_specific_params={"text-generation": {"do_sample": True, "max_length": 50}},
    )
    folder.safetensors(prefix=False, masks=torch.float32)
    folder.write("pytorch_model.bin", "never read: there are safetensors")
    folder.write("tokenizer.json", folder.of_2020(END))
    folder.write("tokenizer_config.json", {"model_max_length": folder.settings["n_positions"]})
    folder.write("generation_config.json", {"bos_token_id": end, "eos_token_id": end, "_from_model_config": True})
    folder.vocab_and_merges()


def rugpt3_small(folder: Folder, **settings: Any) -> None:
    folder.model(**settings)
    folder.config()
    folder.pickle(archive=False, masks=torch.uint8)
    folder.vocab_and_merges()


def rugpt3_large(folder: Folder) -> None:
    folder.model()
    folder.config(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    folder.pickle(masks=torch.uint8, head=True)
    folder.vocab_and_merges()


def rugpt3_5(folder: Folder) -> None:
    folder.model()
    folder.config(bos_token_id=2, eos_token_id=3, pad_token_id=0)
    folder.shards("bin", dtype=torch.float16)
    folder.vocab_and_merges()
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": END}
    folder.write("special_tokens_map.json", marks)


def rudialogpt(folder: Folder) -> None:
    folder.model()
    folder.config(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    folder.pickle(masks=torch.bool)
    folder.vocab_and_merges()
    folder.write("added_tokens.json", {"@@ПЕРВЫЙ@@": 300, "@@ВТОРОЙ@@": 301})
    described = folder.described("<pad>", "<s>", "</s>", END)
    described["added_tokens"] += [added_token(300, "@@ПЕРВЫЙ@@"), added_token(301, "@@ВТОРОЙ@@")]
    folder.write("tokenizer.json", described)
    folder.write("special_tokens_map.json", {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"})


def dialogpt(folder: Folder) -> None:
    folder.model()
    folder.config(bos_token_id=0, eos_token_id=0, task_specific_params={"conversational": {"max_length": 1000}})
    folder.pickle(masks=torch.uint8, head=True)
    folder.vocab_and_merges()
    marks = {name: token_object(END) for name in ("bos_token", "eos_token", "unk_token")}
    template = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"
    described = {"add_prefix_space": False, "tokenizer_class": "GPT2Tokenizer", "chat_template": template}
    folder.write("tokenizer_config.json", described | marks)


def cerebras(folder: Folder) -> None:
    folder.model(activation_function="gelu", n_inner=96)
    folder.config(bos_token_id=0, eos_token_id=0, scale_attn_weights=True)
    folder.pickle()
    folder.write("tokenizer.json", folder.described(END))
    folder.write("special_tokens_map.json", {"bos_token": END, "eos_token": END, "unk_token": END})
    folder.vocab_and_merges()


def mistral(folder: Folder) -> None:
    folder.model(scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True)
    folder.config(bos_token_id=0, eos_token_id=0)
    folder.pickle(masks=torch.uint8)
    folder.write("tokenizer.json", folder.described(END))


def german_january(folder: Folder) -> None:
    folder.model()
    folder.config(bos_token_id=299, eos_token_id=299)
    folder.pickle()
    folder.vocab_and_merges()


def german_june(folder: Folder) -> None:
    folder.model()
    folder.config(bos_token_id=300, eos_token_id=300)
    folder.pickle()
    described = folder.described()
    described["added_tokens"] = [added_token(300, END)]
    folder.write("tokenizer.json", described)
    folder.write("special_tokens_map.json", {"bos_token": END, "eos_token": END, "unk_token": END})


def european(folder: Folder) -> None:
    folder.model()
    folder.config(bos_token_id=0, eos_token_id=2, pad_token_id=1)
    folder.pickle()
    folder.write("tokenizer.json", folder.described("<s>", "<pad>", "</s>", "<unk>"))
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    folder.write("special_tokens_map.json", marks)


def german_of_2022(folder: Folder) -> None:
    folder.model()
    folder.config(eos_token_id=2, bos_token_id=0)
    folder.safetensors()
    folder.write("tokenizer.json", folder.described("<s>", "<pad>", "</s>", "<unk>", "<mask>"))


def blank_before_every_text(folder: Folder) -> None:
    openai(folder)
    described = folder.described(END)
    described["pre_tokenizer"]["add_prefix_space"] = True
    folder.write("tokenizer.json", described)


def sentencepiece(folder: Folder, normalizer: Any = None, byte_fallback: bool = True) -> None:
    """A tokenizer of sentencepiece's kind, in the form that transformers turns it into."""
    folder.model()
    folder.config(bos_token_id=1, eos_token_id=2)
    folder.safetensors()
    marks = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = sorted({character for text in TRAINED for character in text.replace(" ", "▁")})
    pieces = [(piece, 0.0 if piece in marks else -float(n)) for n, piece in enumerate([*marks, *letters])]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=byte_fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    if normalizer:
        tokenizer.normalizer = normalizer
    folder.tokenizer = tokenizer
    folder.write("tokenizer.json", folder.described("<unk>", "<s>", "</s>"))
    folder.write("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    folder.write("special_tokens_map.json", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def kogpt2(folder: Folder) -> None:
    sentencepiece(folder, normalizers.NFKC(), byte_fallback=False)


def rinna(folder: Folder) -> None:
    folder.model()
    folder.config(bos_token_id=1, eos_token_id=2)
    folder.safetensors()
    folder.write("spiece.model", "no sentencepiece model")
    folder.write("tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>"})


def uer(folder: Folder) -> None:
    folder.model()
    folder.config()
    folder.pickle()
    letters = sorted({character for text in TRAINED for character in text.lower() if not character.isspace()})
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    folder.write("vocab.txt", "\n".join(words) + "\n")
    folder.write("tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})


def resized(folder: Folder) -> None:
    openai(folder)
    described = folder.described(END)
    described["added_tokens"].append(added_token(300, "[PAD]"))
    described["padding"] = {
        "strategy": {"Fixed": 32},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 300,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    described["truncation"] = {"direction": "Right", "max_length": 32, "strategy": "LongestFirst", "stride": 0}
    folder.write("tokenizer.json", described)
    folder.write("special_tokens_map.json", {"eos_token": END, "bos_token": END, "pad_token": "[PAD]"})


def own_head(folder: Folder) -> None:
    openai(folder)
    folder.truth.config.tie_word_embeddings = False
    folder.truth.lm_head.weight = torch.nn.Parameter(torch.randn_like(folder.truth.lm_head.weight))
    folder.config(bos_token_id=0, eos_token_id=0, tie_word_embeddings=False)
    folder.safetensors(head=True)


def sharded(folder: Folder) -> None:
    openai(folder)
    (folder.path / "model.safetensors").unlink()
    folder.shards("safetensors", dtype=torch.bfloat16)


def sharded_again(folder: Folder) -> None:
    """Pushed twice, the first time in three parts, of which one is left."""
    sharded(folder)
    tensors = {key: tensor + 1 for key, tensor in folder.tensors().items()}
    old = dict(list(tensors.items())[::3])
    save_file(old, folder.path / "model-00001-of-00003.safetensors", metadata={"format": "pt"})


def half_only(folder: Folder) -> None:
    openai(folder)
    for name in ("model.safetensors", "pytorch_model.bin"):
        (folder.path / name).unlink()
    folder.safetensors("model.fp16.safetensors", dtype=torch.float16)


def of_2019(folder: Folder) -> None:
    folder.model()
    folder.config(drop=("n_positions", "model_type", "architectures"))
    folder.pickle(archive=False, prefix=False, masks=torch.uint8)
    folder.vocab_and_merges()


def body_only(folder: Folder) -> None:
    openai(folder)
    folder.config(architectures=["GPT2Model"], bos_token_id=0, eos_token_id=0)


def double_heads(folder: Folder) -> None:
    folder.model(GPT2DoubleHeadsModel)
    folder.config(architectures=["GPT2DoubleHeadsModel"], bos_token_id=0, eos_token_id=0)
    folder.safetensors()
    folder.write("tokenizer.json", folder.described(END))


PICKLED, MASKS = "pickled weights", "stored attention masks left out"
BEGIN_END = {"special": ("<s>", "<pad>", "</s>", "<unk>")}
RUSSIAN = {"special": ("<pad>", "<s>", "</s>", END)}

LAYOUTS = [
    Layout("openai-community/gpt2, distilbert/distilgpt2", openai, said=(MASKS,)),
    Layout(
        "ai-forever/rugpt3small_based_on_gpt2",
        rugpt3_small,
        said=(PICKLED, MASKS),
        folder={"rows": 307, "special": ("<pad>", END)},
    ),
    Layout(
        "ai-forever/rugpt3large_based_on_gpt2",
        rugpt3_large,
        opens="<s>",
        closes="</s>",
        said=(PICKLED, MASKS),
        folder={"special": ("<pad>", "<s>", "</s>")},
    ),
    Layout(
        "ai-forever/ruGPT-3.5-13B",
        rugpt3_5,
        said=("pickled weights (2 files)", "weights from float16 to float32"),
        folder={"special": ("<pad>", END, "<s>", "</s>")},
    ),
    Layout("ai-forever/ruDialoGPT", rudialogpt, said=(PICKLED,), folder={"rows": 302} | RUSSIAN),
    Layout("microsoft/DialoGPT", dialogpt, said=(PICKLED, MASKS)),
    Layout("cerebras/Cerebras-GPT", cerebras, said=(PICKLED,)),
    Layout("stanford-crfm, BioMedLM", mistral, said=(PICKLED,)),
    Layout(
        "dbmdz/german-gpt2 of January 2021",
        german_january,
        refused=("no <|endoftext|>", "base.end_of_text", "</s>", "<s>"),
        folder={"special": ("<s>", "<pad>", "</s>", "<unk>", "<mask>")},
    ),
    Layout(
        "dbmdz/german-gpt2 of January 2021",
        german_january,
        opens="</s>",
        closes="</s>",
        end_of_text="</s>",
        folder={"special": ("<s>", "<pad>", "</s>", "<unk>", "<mask>")},
    ),
    Layout(
        "dbmdz/german-gpt2 of June 2021",
        german_june,
        refused=("no <|endoftext|>", "base.end_of_text", "a new one such as <|endoftext|>"),
        folder={"special": ()},
    ),
    Layout(
        "dbmdz/german-gpt2 of June 2021",
        german_june,
        end_of_text=END,
        said=("no row for left out: <|endoftext|>", "<|endoftext|> added to the vocabulary"),
        folder={"special": ()},
        plain=False,
    ),
    Layout(
        "dbmdz/german-gpt2 of 2022",
        german_of_2022,
        opens="<s>",
        closes="</s>",
        folder=BEGIN_END | {"special": ("<s>", "<pad>", "</s>", "<unk>", "<mask>")},
    ),
    Layout("asi/gpt-fr-cased-small, GroNLP/gpt2-small", european, opens="<s>", closes="</s>", folder=BEGIN_END),
    Layout("aubmindlab/aragpt2-base", cerebras, said=(PICKLED,), folder={"special": (END, "<pad>")}),
    Layout("a blank before every text", blank_before_every_text, said=("blank put before every text",), plain=False),
    Layout("sentencepiece that gives back every text", sentencepiece, opens="<s>", closes="</s>", folder={"rows": 400}),
    Layout("skt/kogpt2-base-v2", kogpt2, refused=("its tokenizer would lose", "emoji"), folder={"rows": 400}),
    Layout("rinna/japanese-gpt2", rinna, refused=("its tokenizer cannot be read",)),
    Layout(
        "uer/gpt2-chinese-cluecorpussmall",
        uer,
        refused=("its tokenizer would lose", "capital letters", "line breaks"),
        folder={"rows": 400},
    ),
    Layout("a fine-tune with [PAD]", resized, said=("padding and truncation switched off",), folder={"rows": 301}),
    Layout(
        "a fine-tune with [PAD] and no row for it",
        resized,
        said=("padding and truncation switched off", "no row for left out: [PAD]"),
    ),
    Layout("an output matrix of its own", own_head, said=("an output matrix of its own kept",)),
    Layout("shards in bfloat16", sharded, said=("weights from bfloat16 to float32",)),
    Layout("shards, and one of other weights", sharded_again, said=("weights from bfloat16 to float32",)),
    Layout("model.fp16.safetensors only", half_only, said=("weights from float16 to float32",), plain=False),
    Layout("a config.json of 2019", of_2019, said=(PICKLED, MASKS), plain=False),
    Layout("GPT2Model", body_only),
    Layout("GPT2DoubleHeadsModel", double_heads, said=("the head that chooses between answers left out",)),
]
