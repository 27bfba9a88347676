"""Models as ONNX in ONNX Runtime: logits, at once and token by token, and the text that is written."""

import sys

import numpy as np
import pytest
import torch
from conftest import HOME
from export_forms import copied
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from stages.lib.bases import conversion
from stages.lib.common.cli import UserError
from stages.lib.model import generation, models
from stages.lib.rows import tokens
from tools.export import to_onnx
from tools.export.__main__ import main

CLOSE = 1e-4  # of logits


class Graph:
    """An exported model at work; `read` takes tokens [texts, new] after those it has read."""

    def __init__(self, runtime, folder):
        self._session = runtime.InferenceSession(folder / "model.onnx")
        self._config = GPT2Config.from_pretrained(folder)
        self._outputs = [one.name for one in self._session.get_outputs()]
        self.before = None

    def read(self, ids):
        if self.before is None:
            shape = (len(ids), self._config.n_head, 0, self._config.n_embd // self._config.n_head)
            names = (f"{layer}.{part}" for layer in range(self._config.n_layer) for part in ("key", "value"))
            self.before = {f"past_key_values.{name}": np.zeros(shape, np.float32) for name in names}
        start = self.before["past_key_values.0.key"].shape[2]
        end = start + ids.shape[1]
        given = {
            "input_ids": ids,
            "attention_mask": np.ones((len(ids), end), np.int64),
            "position_ids": np.tile(np.arange(start, end), (len(ids), 1)),
        }
        found = dict(zip(self._outputs, self._session.run(None, given | self.before), strict=True))
        logits = found.pop("logits")
        self.before = {name.replace("present", "past_key_values"): value for name, value in found.items()}
        return logits


@pytest.fixture(scope="module")
def runtime():
    return pytest.importorskip("onnxruntime", reason="pip install -r tests/requirements.txt")


@pytest.fixture(scope="module")
def embedded(runtime, tmp_path_factory):
    """The model that ships, as the pipeline keeps it, and its export."""
    folder = tmp_path_factory.mktemp("embedded")
    (folder / "base").mkdir()
    conversion.normalise(HOME / "model/embedded", "embedded", folder / "base")
    to_onnx.export(folder / "base", folder)
    return folder / "base", folder / "base-onnx"


def compare(runtime, base, exported):
    """Have both read the same tokens: several texts at once, one token, and a text in pieces."""
    model = models.load(base)
    draw = np.random.default_rng(0)
    for texts, pieces in ((2, [40]), (1, [1]), (1, [17, 1, 1, 5, 1]), (3, [1, 1, 30])):
        ids = draw.integers(0, model.config.vocab_size, (texts, sum(pieces)))
        with torch.no_grad():
            expected = model(torch.from_numpy(ids)).logits.numpy()
        graph = Graph(runtime, exported)
        found = [graph.read(piece) for piece in np.split(ids, np.cumsum(pieces)[:-1], axis=1)]
        np.testing.assert_allclose(np.concatenate(found, axis=1), expected, atol=CLOSE, rtol=0)


@pytest.mark.slow
def test_logits_are_those_of_pytorch_at_once_and_token_by_token(runtime, embedded):
    compare(runtime, *embedded)


@pytest.mark.slow
def test_so_are_those_of_a_model_that_is_otherwise_in_everything(runtime, tiny_base, tmp_path):
    config = GPT2Config.from_pretrained(tiny_base)
    config.activation_function, config.n_inner, config.tie_word_embeddings = "gelu", 80, False
    config.scale_attn_by_inverse_layer_idx, config.use_cache = True, False
    base = copied(tiny_base, tmp_path / "base", config)
    GPT2LMHeadModel(config).save_pretrained(base)
    to_onnx.export(base, tmp_path)
    compare(runtime, base, tmp_path / "base-onnx")


@pytest.mark.slow
def test_the_likeliest_text_is_the_same(runtime, embedded):
    base, exported = embedded
    model, tokenizer = models.load(base), AutoTokenizer.from_pretrained(exported)
    for prompt in ("Жил-был", "— А скажите, пожалуйста, —", "The kettle"):
        graph, written = Graph(runtime, exported), []
        ids = np.array([tokenizer(prompt)["input_ids"]])
        while len(written) < 40:
            written.append(int(graph.read(ids)[0, -1].argmax()))
            ids = np.array([written[-1:]])
        (ours,) = generation.likeliest(
            model, tokenizer.eos_token_id, [tokens.prompt_ids(tokens.Tokenizer(base), prompt, 512)[0]], 40
        )
        assert ours
        assert written[: len(ours)] == ours


@pytest.mark.slow
def test_the_command_writes_a_folder_that_says_all_of_itself(runtime, inside):
    output = inside.ok("python", "-m", "tools.export", "onnx")
    assert output == "export: the model is traced, which takes a minute\nbuild/export/finetuned-onnx, 0.2 MiB\n"
    folder = inside.path("build/export/finetuned-onnx")
    assert {path.name for path in folder.iterdir()} == {"model.onnx", *to_onnx.BESIDE}
    assert b"modeling_gpt2.py" not in (folder / "model.onnx").read_bytes()  # a path of this machine


# Without the packages


@pytest.mark.parametrize("name", ["onnx", "onnxscript"])
def test_a_missing_package_is_one_line_that_says_how_to_get_it(tiny_base, tmp_path, monkeypatch, name):
    for one in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, one, None if one == name else sys)
    with pytest.raises(UserError, match=r"^ONNX takes more packages: python -m pip install -r tools/export_requirem"):
        to_onnx.export(tiny_base, tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_a_type_is_none_of_onnx(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", "onnx", "--type", "f16"])
    with pytest.raises(SystemExit, match="2"):
        main()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith(": error: argument --type: onnx is in float32 always")


def test_before_the_first_run_there_is_nothing_to_export(tmp_path, monkeypatch):
    for name in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, sys)
    with pytest.raises(UserError, match=r"holds no model: there is no model\.safetensors"):
        to_onnx.export(tmp_path / "finetuned", tmp_path)
