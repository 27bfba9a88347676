"""Bases that nothing should be made of: one line each, nothing run, nothing half-written; and rows that are added."""

import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys

import pytest
import torch
from conftest import HOME, SETTINGS, environment
from layouts import END, Folder, byte_level, openai
from safetensors.torch import load_file, save_file

from stages.lib.bases import conversion, sources, weights
from stages.lib.common.cli import UserError
from stages.lib.model import models
from stages.lib.rows import tokens


@pytest.fixture
def source(tmp_path):
    folder = Folder(tmp_path / "source")
    openai(folder)
    (folder.path / "pytorch_model.bin").unlink()
    return folder


def normalised(folder, end_of_text=None):
    target = folder.path.parent / "made"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    return conversion.normalise(folder.path, "given", target, end_of_text), target


def refused(folder, **how):
    with pytest.raises(UserError) as caught:
        normalised(folder, **how)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def change_json(folder, name, **changes):
    content = json.loads((folder.path / name).read_text(encoding="utf-8"))
    folder.write(name, {key: value for key, value in (content | changes).items() if value is not None})


def change_tensors(folder, change):
    tensors = load_file(folder.path / "model.safetensors")
    change(tensors)
    save_file(tensors, folder.path / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "llama"}, "only GPT-2 models"),
        ({"architectures": ["GPT2ForSequenceClassification"]}, "it is a classifier"),
        ({"architectures": ["JAISLMHeadModel"]}, "JAISLMHeadModel"),
        ({"quantization_config": {"load_in_8bit": True}}, "is quantized"),
        ({"add_cross_attention": True}, "decoder of another model"),
        ({"n_head": 3}, "n_embd 32 is no multiple of n_head 3"),
        ({"n_head": 0}, "n_head is 0"),
        ({"n_layer": 3}, "config.json names 3 layers, its weights have 2"),
        ({"n_layer": 1}, "config.json names 1 layers, its weights have 2"),
        ({"n_layer": 10**9}, "its weights have 2"),
        ({"n_embd": 10**9, "n_head": 10}, "has the shape"),
        ({"vocab_size": 10**9}, "[300, 32], but config.json asks for [1000000000, 32]"),
        ({"vocab_size": 299}, "a token with the id 299, but its model has 299 tokens"),
        ({"n_positions": 128}, "[64, 32], but config.json asks for [128, 32]"),
        ({"n_inner": 64}, "has the shape"),
        ({"n_layer": "two"}, "config.json is not that of a GPT-2"),
        ({"activation_function": "magic"}, "activation_function magic is not known"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(source, changes, expected):
    change_json(source, "config.json", **changes)
    assert expected in refused(source)


def drop_layer(tensors):
    for key in [key for key in tensors if key.startswith("h.1.")]:
        del tensors[key]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda tensors: tensors.pop("ln_f.weight"), "lack transformer.ln_f.weight"),
        (drop_layer, "names 2 layers, its weights have 1"),
        (lambda tensors: tensors.update({"score.weight": torch.zeros(2, 32)}), "classification head"),
        (lambda tensors: tensors.update({"h.0.attn.q_attn.weight": torch.zeros(2)}), "which no GPT-2 has"),
        (lambda tensors: tensors.update({"wte.weight": torch.zeros(300, 32).char()}), "before it was quantized"),
        (lambda tensors: tensors["h.1.mlp.c_fc.bias"].__setitem__(3, torch.nan), "holds what is no number"),
    ],
)
def test_weights_that_do_not_fit_are_refused(source, change, expected):
    change_tensors(source, change)
    assert expected in refused(source)


def test_a_git_lfs_pointer_is_no_model(source):
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        kept = (source.path / name).read_bytes()
        source.write(name, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 548105171\n")
        assert f"{name} is a Git LFS pointer" in refused(source)
        (source.path / name).write_bytes(kept)


def test_an_adapter_is_no_model_with_and_without_weights_beside_it(source):
    source.write("adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "someone/else"})
    assert "holds an adapter" in refused(source)
    (source.path / "model.safetensors").unlink()
    assert "holds an adapter" in refused(source)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_device_behind_a_link_is_not_read(source, name):
    (source.path / name).unlink()
    (source.path / name).symlink_to("/dev/zero")
    assert f"{name} is no ordinary file" in refused(source)


def test_a_header_of_absurd_size_takes_no_memory(source):
    with open(source.path / "model.safetensors", "r+b") as file:
        file.write(struct.pack("<Q", 2**62))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "model.safetensors cannot be read" in refused(source)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "given: its config.json cannot be read (Expecting property name enclosed in double quotes"),
        ("[]", "given: its config.json cannot be read (it holds no object)"),
        (" " * 101, "given: its config.json cannot be read (it has 101 bytes)"),
        (None, "given has no config.json: it must be a Hugging Face model folder"),
    ],
)
def test_a_configuration_that_is_none_is_one_line(source, monkeypatch, content, expected):
    monkeypatch.setattr(sources, "_LARGEST_JSON", 100)
    (source.path / "config.json").unlink()
    if content is not None:
        source.write("config.json", content)
    assert refused(source).startswith(expected)


def test_a_tokenizer_that_merges_by_chance_is_made_to_merge_always(source):
    described = json.loads((source.path / "tokenizer.json").read_text(encoding="utf-8"))
    change_json(source, "tokenizer.json", model=described["model"] | {"dropout": 0.5})
    facts, made = normalised(source)
    assert "dropout of merges switched off" in facts.converted
    assert json.loads((made / "tokenizer.json").read_text(encoding="utf-8"))["model"]["dropout"] is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {}}', '{"version": "1.0", "model": {"type": "BPE"}}'])
def test_a_broken_tokenizer_is_one_line(source, content):
    source.write("tokenizer.json", content)
    assert "its tokenizer cannot be read" in refused(source)


def test_a_folder_without_tokenizer_or_weights_says_which(source):
    (source.path / "model.safetensors").unlink()
    assert "no weights in a form that is read" in refused(source)
    for name in ("tokenizer.json", "vocab.json"):
        (source.path / name).unlink()
    assert "it needs its tokenizer" in refused(source)


@pytest.mark.parametrize(
    ("normalizer", "lost"),
    [
        ("Lowercase", "capital letters"),
        ("NFC", "accents written apart"),
        ("NFKC", "wide"),
    ],
)
def test_a_normalizer_is_refused_by_what_it_loses(source, normalizer, lost):
    change_json(source, "tokenizer.json", normalizer={"type": normalizer})
    message = refused(source)
    assert "its tokenizer would lose" in message
    assert lost in message


def test_a_vocabulary_that_lacks_a_byte_is_refused(source):
    described = source.described(END)
    gone = next(letter for letter in ("ÿ", "þ") if letter in described["model"]["vocab"])
    described["model"]["vocab"]["unused"] = described["model"]["vocab"].pop(gone)
    source.write("tokenizer.json", described)
    assert "1 of 256 bytes" in refused(source)


def test_an_ordinary_word_cannot_end_a_text(source):
    word = next(
        piece for piece in source.tokenizer.get_vocab() if piece.isascii() and len(piece) > 2 and piece.isalpha()
    )
    assert f"{word} is a piece of ordinary text" in refused(source, end_of_text=word)


def test_the_setting_wins_over_the_rule_and_may_name_a_new_token(source):
    facts, made = normalised(source, end_of_text="<|stop|>")
    assert (facts.opens_a_text, facts.closes_a_text) == ("<|stop|>", "<|stop|>")
    embedding = load_file(made / "model.safetensors")[weights.EMBEDDING]
    before = source.truth.transformer.wte.weight
    assert embedding.shape == (301, 32)
    assert torch.equal(embedding[:300], before)
    assert torch.allclose(embedding[300].double(), before.double().mean(0), atol=1e-7)
    assert tokens.Tokenizer(made).closing == 300
    assert models.load(made).config.vocab_size == 301


def test_a_new_token_takes_a_row_that_no_other_has(tmp_path):
    folder = Folder(tmp_path / "source", rows=310, special=())
    openai(folder)
    folder.write("tokenizer.json", folder.described())
    _, made = normalised(folder, end_of_text=END)
    embedding = load_file(made / "model.safetensors")[weights.EMBEDDING]
    assert embedding.shape == (310, 32)
    assert torch.allclose(embedding[300], folder.truth.transformer.wte.weight[:300].mean(0), atol=1e-6)
    assert torch.equal(embedding[301:], folder.truth.transformer.wte.weight[301:])


def test_what_a_base_says_of_generation_is_not_read(source):
    source.write("generation_config.json", "{broken")
    normalised(source)


class Payload:
    """What a pickle may hold besides tensors: a call."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def plain_pickle(path, payload, tensors):
    path.write_bytes(pickle.dumps({**{key: tensor.numpy() for key, tensor in tensors.items()}, "x": payload}))


def torch_archive(path, payload, tensors):
    torch.save({**tensors, "x": payload}, path)


def torch_before_archives(path, payload, tensors):
    torch.save({**tensors, "x": payload}, path, _use_new_zipfile_serialization=False)


def payload_alone(path, payload, tensors):
    path.write_bytes(pickle.dumps(payload))


@pytest.mark.parametrize("write", [plain_pickle, torch_archive, torch_before_archives, payload_alone])
def test_nothing_in_a_pickle_runs(source, tmp_path, write):
    (source.path / "model.safetensors").unlink()
    path, marker = source.path / "pytorch_model.bin", tmp_path / "ran"
    write(path, Payload(marker), source.tensors())
    assert "holds more than tensors" in refused(source)
    assert not marker.exists()
    # The same file does run it where pickles are trusted: so the payload is a real one.
    with open(path, "rb") as file:
        if write in (plain_pickle, payload_alone):
            pickle.load(file)
        else:
            torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_parts_that_are_not_those_of_the_index_are_refused(source, ending):
    (source.path / "model.safetensors").unlink()
    source.shards(ending)
    (index,) = source.path.glob("*.index.json")
    first, second = sorted(source.path.glob("*-of-00002.*"))
    second.rename(second.with_name(second.name.replace("-00002-of", "-00003-of")))
    assert f"{second.name}, which its {index.name} names, is not there" in refused(source)
    index.unlink()
    shutil.copy(first, second)
    assert "stands in two of its files of weights: take away the older ones" in refused(source)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {"a": torch.zeros(2)}},
        [torch.zeros(2)],
        {1: torch.zeros(2)},
        {"wte.weight": torch.eye(2).to_sparse()},
        {"wte.weight": torch.zeros(2, device="meta")},
    ],
)
def test_a_pickle_of_another_form_is_refused(source, content):
    (source.path / "model.safetensors").unlink()
    torch.save(content, source.path / "pytorch_model.bin")
    assert "something else than the tensors of a model" in refused(source)


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_a_pickle_cut_off_is_one_line(source, size):
    (source.path / "model.safetensors").unlink()
    for archive in (True, False):
        source.pickle(archive=archive)
        path = source.path / "pytorch_model.bin"
        path.write_bytes(path.read_bytes()[:size])
        refused(source)


def test_one_form_of_each_thing_is_taken():
    both = ["README.md", "config.json", "flax_model.msgpack", "merges.txt", "model.safetensors", "modeling.py"]
    both += ["pytorch_model.bin", "tf_model.h5", "tokenizer.json", "tokenizer_config.json", "vocab.json"]
    wanted = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sources.wanted_files(both) == wanted
    old = ["config.json", "merges.txt", "pytorch_model.bin", "vocab.json", "rust_model.ot", "training_args.bin"]
    assert sources.wanted_files(old) == ["config.json", "merges.txt", "pytorch_model.bin", "vocab.json"]
    parts = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    assert sources.wanted_files([*parts, "pytorch_model.bin.index.json"]) == sorted(
        [*parts, "pytorch_model.bin.index.json"]
    )
    assert sources.wanted_files(["model.fp16.safetensors", "pytorch_model.bin"]) == ["model.fp16.safetensors"]
    assert sources.wanted_files(["adapter_config.json", "adapter_model.safetensors"]) == ["adapter_config.json"]


def test_the_table_of_tensors_is_that_of_transformers(source):
    own = {key: tuple(tensor.shape) for key, tensor in source.truth.state_dict().items() if key != weights.HEAD}
    assert weights.shapes(source.truth.config) == own


def test_a_stage_that_refuses_leaves_the_earlier_base(source, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(HOME / "stages", project / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (project / "model/base").mkdir(parents=True)
    (project / "model/base/kept").touch()
    settings = SETTINGS.read_text(encoding="utf-8").replace("model/embedded ", "source ")
    (project / "params.yaml").write_text(settings.replace("max_length: 512", "max_length: 32"), encoding="utf-8")
    shutil.copytree(source.path, project / "source")
    change_json(source, "config.json", n_layer=3)
    shutil.copy(source.path / "config.json", project / "source")
    done = subprocess.run(
        [sys.executable, "-m", "stages.base"], cwd=project, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: source: config.json names 3 layers")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in (project / "model").rglob("*")] == ["base", "kept"]


def test_a_tokenizer_of_the_tests_says_what_a_real_one_does():
    # What the layouts rest on: a byte-level BPE whose first tokens no merge makes.
    tokenizer = byte_level(300, ["<s>", END])
    assert (tokenizer.token_to_id("<s>"), tokenizer.token_to_id(END)) == (0, 1)
    assert END in tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", {"<x>": "seven"}),
        ("added_tokens.json", {"<x>": [1]}),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": {}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": "x"}}),
    ],
    ids=str,
)
def test_added_tokens_that_make_no_sense_are_one_line(source, name, content):
    source.write(name, content)
    assert "its tokenizer cannot be read" in refused(source)


@pytest.mark.parametrize("id", [2**40, -1, [0]], ids=str)
def test_ids_in_a_config_that_no_token_has_are_passed_over_without_a_word(source, id, capfd):
    change_json(source, "config.json", eos_token_id=id)
    facts, _ = normalised(source)
    assert facts.closes_a_text == END
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("architectures", [5, "GPT2LMHead", {"a": 1}], ids=str)
def test_architectures_of_another_form_are_refused_as_they_are(source, architectures):
    change_json(source, "config.json", architectures=architectures)
    assert f"given is a {architectures}" in refused(source)
