"""Models in the forms of other programs: GGUF as transformers reads it back, and what stands beside it."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import HOME
from export_forms import ACCEPTED, OF_BYTES, TEXTS, copied, normalised, random_ids, written
from layouts import LAYOUTS
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from stages.lib.common import files
from stages.lib.common.cli import UserError
from stages.lib.model import models
from stages.lib.rows.tokens import Tokenizer
from tools.export import to_gguf
from tools.packages import EXPORT


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(ids).logits


@pytest.fixture
def gguf():
    return pytest.importorskip("gguf", reason="pip install -r tests/requirements.txt")


@pytest.mark.slow
@pytest.mark.parametrize("layout", OF_BYTES, ids=lambda layout: layout.name)
def test_every_base_is_read_back_by_transformers(gguf, layout, tmp_path):
    base = normalised(layout, tmp_path)
    path = written(base, tmp_path / "out")
    # The shape as in the file but for what transformers does not read there.
    config = GPT2Config.from_pretrained(base)
    config.scale_attn_by_inverse_layer_idx, config.scale_attn_weights = False, True
    with models.quiet():
        theirs = GPT2LMHeadModel.from_pretrained(path.parent, gguf_file=path.name, config=config, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ids, own = random_ids(base), Tokenizer(base)
    torch.testing.assert_close(logits(theirs, ids), logits(models.load(base), ids), atol=1e-5, rtol=1e-5)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (own.opening, own.closing)
    for text in TEXTS:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == own.encode(text)


@pytest.mark.slow
@pytest.mark.parametrize("scaled", [True, False])
def test_attention_that_is_not_scaled_or_by_layer_is_in_the_weights(gguf, tiny_base, tmp_path, scaled):
    config = GPT2Config.from_pretrained(tiny_base)
    config.scale_attn_weights, config.scale_attn_by_inverse_layer_idx = scaled, True
    base = copied(tiny_base, tmp_path / "base", config)
    model = GPT2LMHeadModel.from_pretrained(base)
    for block in model.transformer.h:
        torch.nn.init.normal_(block.attn.c_attn.bias)  # fresh ones are zero, whatever they are scaled by
    model.save_pretrained(base)
    path = written(base, tmp_path / "out")
    with models.quiet():
        usual = GPT2Config.from_pretrained(tiny_base)
        theirs = GPT2LMHeadModel.from_pretrained(path.parent, gguf_file=path.name, config=usual, dtype=torch.float32)
    ids = random_ids(base)
    torch.testing.assert_close(logits(theirs, ids), logits(models.load(base), ids), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "wide"), [("f16", True), ("q8_0", True), ("q8_0", False)])
def test_what_is_stored_shorter_is_as_near_as_its_form_allows(gguf, tiny_base, tmp_path, kind, wide):
    base = tiny_base
    if not wide:  # rows of 24, which no block of 32 divides
        config = GPT2Config.from_pretrained(tiny_base)
        config.n_embd = 24
        base = copied(tiny_base, tmp_path / "base", config)
        GPT2LMHeadModel(config).save_pretrained(base)
    reader = gguf.GGUFReader(written(base, tmp_path / "out", kind))
    model = GPT2LMHeadModel.from_pretrained(base)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_qkv.weight"] == kinds["token_embd.weight"] == (kind if wide else "f16").upper()
    assert kinds["position_embd.weight"] == kinds["blk.0.attn_qkv.bias"] == "F32"
    assert "output.weight" not in kinds  # tied
    (stored,) = [tensor for tensor in reader.tensors if tensor.name == "blk.1.ffn_up.weight"]
    found = gguf.dequantize(stored.data, stored.tensor_type)
    exact = model.transformer.h[1].mlp.c_fc.weight.detach().numpy().T
    if kind == "f16" or not wide:
        np.testing.assert_allclose(found, exact, rtol=2**-11, atol=2**-24)
    else:
        blocks = np.abs(exact).reshape(-1, 32).max(axis=1)  # half a step of a block's 127, and float16's own error
        assert (np.abs(found - exact).reshape(-1, 32) <= blocks[:, None] / 127 * 0.51 + blocks[:, None] * 2**-11).all()


@pytest.mark.slow
def test_tokens_are_of_the_kinds_that_llama_cpp_knows(gguf, tmp_path):
    layout = next(layout for layout in LAYOUTS if layout.name == "ai-forever/ruDialoGPT")
    base = normalised(layout, tmp_path)
    settings = files.read_json(base / "tokenizer_config.json")
    found = {}
    for split in (True, False):
        files.write_json(base / "tokenizer_config.json", settings | {"split_special_tokens": split})
        fields = gguf.GGUFReader(written(base, tmp_path / "out")).fields
        types = fields["tokenizer.ggml.token_type"].contents()
        found |= {(token, split): types[id] for token, id in Tokenizer(base).special.items()}
        assert fields["tokenizer.ggml.tokens"].contents()[300] == "@@ПЕРВЫЙ@@"
        assert fields["tokenizer.ggml.add_bos_token"].contents() is True
    control, anywhere = gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED
    assert found["@@ПЕРВЫЙ@@", True] == found["<|endoftext|>", True] == found["<|endoftext|>", False] == control
    assert found["@@ПЕРВЫЙ@@", False] == anywhere  # base.special_tokens: keep


@pytest.mark.slow
def test_the_command_writes_and_says_what_is_next(gguf, inside):
    output = inside.ok("python", "-m", "tools.export", "gguf", "--type", "q8_0")
    assert "build/export/finetuned-q8_0.gguf, 0.1 MiB" in output
    assert "ollama create my-gpt2 -f build/export/finetuned-q8_0.Modelfile" in output
    lines = inside.path("build/export/finetuned-q8_0.Modelfile").read_text(encoding="utf-8").splitlines()
    assert lines == [
        "FROM ./finetuned-q8_0.gguf",
        'TEMPLATE """{{ .Prompt }}"""',
        "PARAMETER num_ctx 64",
        "PARAMETER temperature 0.8",
        "PARAMETER top_p 0.95",
        "PARAMETER top_k 0",
        "PARAMETER min_p 0.0",
        "PARAMETER repeat_penalty 1.0",
        'PARAMETER stop "<|endoftext|>"',
    ]
    assert sorted(path.name for path in inside.path("build/export").iterdir()) == [
        "finetuned-q8_0.Modelfile",
        "finetuned-q8_0.gguf",
    ]


# Without the packages


def test_a_model_that_takes_the_likeliest_token_does_so_in_ollama(tiny_base, tmp_path):
    base = copied(tiny_base, tmp_path / "base", GPT2Config.from_pretrained(tiny_base))
    (base / "generation_config.json").unlink(missing_ok=True)
    assert "\nPARAMETER temperature 0.8\n" in to_gguf.modelfile("a.gguf", base, 64)  # as generate.py writes
    files.write_json(base / "generation_config.json", {"do_sample": False, "temperature": 0.7})
    assert "\nPARAMETER temperature 0\n" in to_gguf.modelfile("a.gguf", base, 64)


def test_the_tests_use_the_packages_that_users_are_told_to_install():
    pins = (HOME / EXPORT).read_text(encoding="utf-8").splitlines()[1:]
    assert pins
    assert set(pins) <= set((HOME / "tests/requirements.txt").read_text(encoding="utf-8").splitlines())


def test_a_missing_package_is_one_line_that_says_how_to_get_it(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"^GGUF takes more packages: python -m pip install -r tools/export_requirem"):
        written(tiny_base, tmp_path)


@pytest.mark.parametrize("name", ["relu", "quick_gelu"])
def test_another_activation_is_refused(tiny_base, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "gguf", ModuleType("gguf"))
    config = GPT2Config.from_pretrained(tiny_base)
    config.activation_function = name
    base = copied(tiny_base, tmp_path / "base", config)
    with pytest.raises(UserError, match=rf"base: llama\.cpp does not compute a GPT-2 with the activation {name}$"):
        written(base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_of_another_kind_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", ModuleType("gguf"))
    (layout,) = [layout for layout in ACCEPTED if layout not in OF_BYTES]
    base = normalised(layout, tmp_path)
    with pytest.raises(UserError, match=r"base: llama\.cpp would cut texts into other tokens"):
        written(base, tmp_path / "out")
    assert not (tmp_path / "out").exists()
