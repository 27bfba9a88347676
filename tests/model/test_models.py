"""Models: the same function as plain transformers computes, and documents in a row that do not see each other."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import make_base
from safetensors.torch import load_file
from tiny_training import of_rows
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import generate
from stages.lib.bases import conversion
from stages.lib.common import files
from stages.lib.common.cli import UserError
from stages.lib.model import generation, models, scoring
from stages.lib.rows import batches, tokens
from stages.lib.rows.encoder import Encoder

LENGTHS = [7, 20, 3, 15]


@pytest.fixture(scope="module")
def model(tiny_base):
    return models.load(tiny_base)


@pytest.fixture(scope="module")
def row():
    ids = np.random.default_rng(0).integers(0, 320, sum(LENGTHS))
    return {"input_ids": ids, "lengths": np.array(LENGTHS)}


def test_a_model_at_work_computes_what_the_stored_one_does(model, tiny_base, row):
    stored = GPT2LMHeadModel.from_pretrained(tiny_base, attn_implementation="eager").double().eval()
    ids = torch.from_numpy(row["input_ids"])[None]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits.double(), stored(ids).logits, atol=1e-4)
    assert model.config._attn_implementation == "sdpa"
    assert model.config.activation_function == "gelu_pytorch_tanh"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff" * 100])
def test_a_damaged_folder_is_one_line(tiny_base, tmp_path, name, content):
    shutil.copytree(tiny_base, tmp_path / "model")
    path = tmp_path / "model" / name
    path.unlink()
    path.write_bytes(content)
    read = tokens.Tokenizer if name.startswith("tokenizer") else models.load
    with pytest.raises(
        UserError, match=f"{tmp_path}/model(: its tokenizer_config| cannot be read .*: it is damaged)"
    ) as caught:
        read(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_a_folder_of_others_is_told_from_a_damaged_one(tiny_base, tmp_path):
    shutil.copytree(tiny_base, tmp_path / "model")
    path = tmp_path / "model/tokenizer_config.json"
    path.unlink()
    path.write_text('{"model_max_length": 512, "eos_token": "</s>"}')
    with pytest.raises(UserError, match=r"its tokenizer_config\.json names no bos_token"):
        tokens.Tokenizer(tmp_path / "model")


def packed_logits(model, batch, **more):
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False, **more).logits


def alone_logits(model, row):
    parts = np.split(row["input_ids"], np.cumsum(row["lengths"])[:-1])
    with torch.no_grad():
        return torch.cat([model(torch.from_numpy(part)[None]).logits[0] for part in parts])


def test_packed_documents_get_the_logits_they_have_alone(model, row):
    shorter = {"input_ids": row["input_ids"][:10], "lengths": np.array([4, 6])}
    batch = batches.collate([row, shorter])
    packed = packed_logits(model, batch)
    assert torch.allclose(packed[0, : len(row["input_ids"])], alone_logits(model, row), atol=1e-4)
    assert torch.allclose(packed[1, :10], alone_logits(model, shorter), atol=1e-4)


def test_a_batch_is_as_long_as_its_longest_row_filled_up_to_sixteen(row):
    shorter = {"input_ids": row["input_ids"][:10], "lengths": np.array([4, 6])}
    for rows, length in (([shorter], 16), ([row, shorter], -(-len(row["input_ids"]) // 16) * 16)):
        batch = batches.collate(rows)
        assert {tensor.shape for tensor in of_rows(batch).values()} == {(len(rows), length)}
        assert (batch["labels"][-1, 10:] == batches.IGNORE).all()


def test_an_attention_mask_would_let_packed_documents_see_each_other(model, row):
    # Not our code: a fact about transformers 5.18 on which the scorer's lack of a mask rests.
    batch = batches.collate([row])
    masked = packed_logits(model, batch, attention_mask=torch.ones_like(batch["input_ids"]))[0]
    assert not torch.allclose(masked[: len(row["input_ids"])], alone_logits(model, row), atol=1e-2)


def test_the_nats_of_a_packed_batch_are_those_of_the_documents_alone(model, row):
    batch = batches.collate([row])
    with torch.no_grad():
        packed = scoring.next_token_nats(model, **of_rows(batch)).sum()
    alone = 0.0
    for part in np.split(row["input_ids"], np.cumsum(row["lengths"])[:-1]):
        ids = torch.from_numpy(part)
        with torch.no_grad():
            log_probabilities = torch.log_softmax(model(ids[None]).logits[0].double(), -1)
        alone -= log_probabilities[:-1].gather(1, ids[1:, None]).sum().item()
    assert packed.item() == pytest.approx(alone, rel=1e-5)


def normalised(source, tmp_path, name="given"):
    folder = tmp_path / "normalised"
    folder.mkdir()
    conversion.normalise(source, name, folder)
    return folder


def test_the_tokenizer_is_stored_as_it_is(tiny_base, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tiny_base, source)
    path = source / "tokenizer.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    described["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, described["pre_tokenizer"]],
    }
    path.write_text(json.dumps(described), encoding="utf-8")
    folder = normalised(source, tmp_path)
    stored = files.read_json(folder / "tokenizer.json")
    assert {name for name in stored if stored[name] != described[name]} == {"post_processor"}
    ours = tokens.Tokenizer(folder).encode("1234 коты")
    assert AutoTokenizer.from_pretrained(folder)("1234 коты", add_special_tokens=False)["input_ids"] == ours


def test_a_base_stored_in_bfloat16_works_in_float32(tmp_path):
    source = tmp_path / "source"
    make_base(source, dtype="bfloat16")
    assert next(iter(load_file(source / "model.safetensors").values())).dtype == torch.bfloat16
    folder = normalised(source, tmp_path)
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    for name, tensor in load_file(source / "model.safetensors").items():
        assert torch.equal(weights[name], tensor.float())
    assert models.load(folder).dtype == torch.float32


def test_a_normalised_base_is_an_ordinary_hugging_face_folder(tiny_base, tmp_path):
    folder = normalised(tiny_base, tmp_path)
    config = AutoModelForCausalLM.from_pretrained(folder).config
    assert config.activation_function == "gelu_new"
    assert config.resid_pdrop == 0.1
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token_id == config.eos_token_id == config.bos_token_id


def test_auto_tokenizer_opens_a_document_and_takes_nothing_in_it_for_a_boundary(tiny_base, tmp_path):
    folder = normalised(tiny_base, tmp_path)
    text = "до <|endoftext|> и после"
    (ours,) = Encoder(folder).encode([text])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer(text)["input_ids"] == tokenizer([text])["input_ids"][0] == ours[:-1].tolist()
    assert tokenizer.decode(ours, skip_special_tokens=True) == text


def test_the_old_form_of_a_gpt2_tokenizer_is_read_too(tiny_base, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tiny_base, source)
    described = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    (source / "vocab.json").write_text(json.dumps(described["model"]["vocab"]), encoding="utf-8")
    merges = ["#version: 0.2", *(" ".join(pair) for pair in described["model"]["merges"])]
    (source / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    (source / "tokenizer.json").unlink()
    folder = normalised(source, tmp_path)
    text = "Утром над рекой don't"
    expected = AutoTokenizer.from_pretrained(tiny_base)(text, add_special_tokens=False)["input_ids"]
    assert AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"] == expected


def spoil(tiny_base, tmp_path, change):
    source = tmp_path / "source"
    shutil.copytree(tiny_base, source)
    change(source)
    with pytest.raises(UserError) as caught:
        normalised(source, tmp_path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit_config(**changes):
    def change(source):
        path = source / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def test_another_architecture_is_refused(tiny_base, tmp_path):
    assert "only GPT-2" in spoil(tiny_base, tmp_path, edit_config(model_type="llama"))


def test_a_base_without_tokenizer_is_refused(tiny_base, tmp_path):
    assert "needs its tokenizer" in spoil(tiny_base, tmp_path, lambda source: (source / "tokenizer.json").unlink())


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "gpt2", "n_positions": "x"}'])
def test_a_config_that_makes_no_sense_is_refused(tiny_base, tmp_path, content):
    assert "config.json" in spoil(tiny_base, tmp_path, lambda source: (source / "config.json").write_text(content))


def test_a_saved_model_carries_the_configuration_it_came_with(tiny_base, tmp_path):
    base = normalised(tiny_base, tmp_path)
    models.save_tuned(models.load(base, dropout=0.2), base, tmp_path / "tuned")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert (tmp_path / "tuned" / name).read_bytes() == (base / name).read_bytes()


def test_other_tools_write_with_a_tuned_model_as_generate_does(tiny_base, tmp_path, monkeypatch):
    base = normalised(tiny_base, tmp_path)
    models.save_tuned(models.load(base), base, tmp_path / "tuned")
    read = GPT2LMHeadModel.from_pretrained(tmp_path / "tuned").generation_config
    monkeypatch.setattr("sys.argv", ["generate.py", "Кот"])
    defaults = generate.arguments()
    assert read.do_sample is True
    assert (read.temperature, read.top_p) == (defaults.temperature, defaults.top_p)
    assert read.eos_token_id == models.load(base).config.eos_token_id


def test_what_a_base_says_of_generation_changes_nothing_here(tiny_base, tmp_path):
    base = normalised(tiny_base, tmp_path)
    how = generation.Sampling(30, temperature=0)
    tokenizer = tokens.Tokenizer(base)
    before = generation.continue_text(models.load(base), tokenizer, "Кот", how, 0)
    path = base / "generation_config.json"
    files.write_json(path, {"no_repeat_ngram_size": 1, "suppress_tokens": before.ids[:1]})
    assert generation.continue_text(models.load(base), tokenizer, "Кот", how, 0) == before


def test_parameters_count_the_tied_matrix_once():
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    # Embeddings 50*8 + 16*8; block: two norms 4*8, attention 8*24+24 + 8*8+8, MLP 8*32+32 + 32*8+8; last norm 2*8.
    assert models.parameters(models.create(config)) == 528 + 32 + 216 + 72 + 288 + 264 + 16
