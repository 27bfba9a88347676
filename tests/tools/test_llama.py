"""GGUF in llama.cpp itself, built from source: token ids, likelihoods, and what it writes."""

import json
import math
import random
import subprocess
import sys
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import tokenizers
from conftest import HOME, environment
from export_forms import OF_BYTES, TEXTS, normalised, random_ids, written
from servers import make_environment
from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers import models as algorithms
from transformers import GPT2Config, GPT2LMHeadModel

from stages.lib.bases import conversion, vocabularies
from stages.lib.bases.vocabularies import END_OF_TEXT as END
from stages.lib.model import generation, models, scoring
from stages.lib.rows import tokens
from stages.lib.rows.encoder import UNSURE, byte_letters
from stages.lib.rows.packing import Document

pytestmark = pytest.mark.release

LLAMA_CPP = "llama-cpp-python==0.3.36"
STRINGS, SCORED = 100_000, 100
PROMPTS = ["Жил-был", "— А скажите, пожалуйста, —", "The kettle"]

SCRIPT = """
import json, sys
import numpy as np
from llama_cpp import Llama

path, context = sys.argv[1:]
model = Llama(path, n_ctx=int(context), logits_all=True, verbose=False)
asked, found = json.load(sys.stdin), {}
# Nothing in a text turns into a special token, as in training.
found["ids"] = [model.tokenize(text.encode(), add_bos=False, special=False) for text in asked["texts"]]
found["nats"] = []
for ids in asked["documents"]:
    model.reset()
    model.eval(ids)
    logits = model.scores[: len(ids) - 1].astype(np.float64)
    greatest = logits.max(axis=1)
    sums = greatest + np.log(np.exp(logits - greatest[:, None]).sum(axis=1))
    found["nats"].append(float((sums - logits[np.arange(len(logits)), ids[1:]]).sum()))
greedy = {"temperature": 0, "repeat_penalty": 1.0, "max_tokens": 40}
found["written"] = [model(prompt, **greedy)["choices"][0]["text"] for prompt in asked["prompts"]]
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A function that has llama.cpp read texts, score documents (ids) and continue prompts with a GGUF."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMAKE_ARGS", "-DLLAVA_BUILD=OFF")  # no pictures
        bin_folder = make_environment(tmp_path_factory.mktemp("llama.cpp"), (LLAMA_CPP,), inherit=True)

    def run(path, context, texts=(), documents=(), prompts=()):
        asked = {"texts": list(texts), "documents": list(documents), "prompts": list(prompts)}
        done = subprocess.run(
            [bin_folder / "python", "-c", SCRIPT, str(path), str(context)],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            env=environment(),
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """The model that ships, as the pipeline keeps it."""
    folder = tmp_path_factory.mktemp("embedded") / "base"
    folder.mkdir()
    conversion.normalise(HOME / "model/embedded", "embedded", folder)
    return folder


@pytest.fixture(scope="module")
def corpus():
    lines = (HOME / "data/my_corpus.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


@pytest.fixture(scope="module")
def characters():
    """All up to Unicode 15: of those that came with 16 llama.cpp knows no letters and digits."""
    scalars = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) not in ("Co", "Cs")]
    unsure = pc.match_substring_regex(pa.array(scalars), UNSURE).to_pylist()
    return [one for one, found in zip(scalars, unsure, strict=True) if not found]


@pytest.fixture(scope="module")
def strings(corpus, characters):
    """Strings made of words, signs and white space of every kind; the same ones every time."""
    chosen = random.Random(0)
    words = [word for text in corpus for word in text.split(" ")]
    marks = ["'s", "'ll", "'T", "’re", "—", "...", "<|endoftext|>", "</s>", "[PAD]", "🐈‍⬛", "é", "１２", "Ⅷ", "x²"]
    blanks = [
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        "\N{NO-BREAK SPACE}",
        "\u2003",
        "\u3000",
        "\x85",
        "\u2028",
        "\u200b",
    ]

    def part():
        kinds = (words, marks, blanks, characters, "0123456789", "'\"«».,!?-")
        return "".join(chosen.choices(chosen.choice(kinds), k=chosen.randint(1, 3)))

    return ["".join(part() for _ in range(chosen.randint(1, 8))) for _ in range(STRINGS)]


def seam_showing_base(folder):
    """A base whose tokens show between which characters a text is cut.

    A letter, a digit, a full stop and a blank each merge with every byte beside them, unless a cut is between.
    """
    letters, marks = list(byte_letters()), ("a", "1", ".", "Ġ")
    merges = list(dict.fromkeys(pair for mark in marks for one in letters for pair in ((mark, one), (one, mark))))
    names = dict.fromkeys([*letters, *map("".join, merges), END])
    library = tokenizers.Tokenizer(algorithms.BPE({name: id for id, name in enumerate(names)}, merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken(END, normalized=False, special=True)])
    folder.mkdir()
    config = GPT2Config(vocab_size=len(names), n_positions=64, n_embd=32, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    vocabularies.store(vocabularies.usual(library), folder, 64)
    return folder


def same_ids(llama, folder, path, texts):
    """The texts that llama.cpp cuts otherwise than we do."""
    own = tokens.Tokenizer(folder)
    found = llama(path, 64, texts)["ids"]
    return [text for text, ids in zip(texts, found, strict=True) if ids != own.encode(text)]


def nats(llama, folder, path, documents):
    """What documents (ids) cost in all, in nats, as llama.cpp has it and as we do; without what closes them."""
    model = models.load(folder)
    ours = scoring.score_documents(model, [Document(1, np.array(ids, np.int32), 1) for ids in documents])
    theirs = llama(path, model.config.n_positions, documents=[ids[:-1] for ids in documents])["nats"]
    return sum(theirs), sum(score.nats for score in ours)


def test_texts_are_cut_between_the_same_characters(llama, characters, strings, tmp_path):
    folder = seam_showing_base(tmp_path / "base")
    texts = [f"a{one}a 1{one}1.{one}. {one}{one} {one}" for one in characters]
    assert same_ids(llama, folder, written(folder, tmp_path), [*texts, *strings]) == []


def test_token_ids_are_our_own(llama, embedded, corpus, strings, tmp_path, proofs):
    assert same_ids(llama, embedded, written(embedded, tmp_path), [*corpus, *strings]) == []
    proofs(f"llama.cpp: the same token ids for {len(corpus)} documents and {len(strings)} other strings")


@pytest.mark.parametrize(("kind", "most"), [("f32", 0.001), ("f16", 0.001), ("q8_0", 0.005)])
def test_bits_per_byte_are_nearly_our_own(llama, embedded, corpus, tmp_path, proofs, kind, most):
    own = tokens.Tokenizer(embedded)
    documents = [own.document(own.encode(text)).tolist() for text in corpus[:SCORED]]
    theirs, ours = nats(llama, embedded, written(embedded, tmp_path, kind), documents)
    size = sum(len(text.encode()) for text in corpus[:SCORED]) * math.log(2)
    proofs(f"llama.cpp, {kind}: {theirs / size:.5f} bits per byte, here {ours / size:.5f} ({theirs / ours - 1:+.4%})")
    assert theirs == pytest.approx(ours, rel=most)


def test_it_writes_what_we_write(llama, embedded, tmp_path):
    model, own = models.load(embedded), tokens.Tokenizer(embedded)
    how = generation.Sampling(40, temperature=0)
    ours = [generation.continue_text(model, own, prompt, how, 0).text for prompt in PROMPTS]
    assert llama(written(embedded, tmp_path), 512, prompts=PROMPTS)["written"] == ours


@pytest.mark.parametrize("layout", OF_BYTES, ids=lambda layout: layout.name)
def test_every_base_is_read_and_scored_as_here(llama, layout, tmp_path):
    base = normalised(layout, tmp_path)
    path = written(base, tmp_path)
    assert same_ids(llama, base, path, [*TEXTS, "written out: <|endoftext|> <s> </s> <pad> @@ПЕРВЫЙ@@"]) == []
    theirs, ours = nats(llama, base, path, random_ids(base).tolist())
    assert theirs == pytest.approx(ours, rel=1e-3)


def test_turn_marks_that_are_kept_are_found_in_every_text(llama, tmp_path):
    (layout,) = [layout for layout in OF_BYTES if layout.name == "ai-forever/ruDialoGPT"]
    base = normalised(layout, tmp_path, keep_special=True)
    assert same_ids(llama, base, written(base, tmp_path), ["@@ПЕРВЫЙ@@ Кот? @@ВТОРОЙ@@"]) == []
