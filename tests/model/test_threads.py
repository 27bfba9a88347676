"""The number of threads does not change a byte: of losses, gradients, the length of a gradient, and scores."""

import hashlib
import json
import os
import random
import subprocess
import sys

import pytest
import torch
from conftest import HOME, environment
from torch.nn.functional import gelu, layer_norm, silu
from transformers import GPT2Config

from stages.lib.model import models, processor, threads

CPU = torch.device("cpu")
# What one process computes with 1 to 8 threads. No size is a power of two: nothing divides evenly among the threads.
COMPUTE = """
import hashlib, json, sys, types
import torch
from transformers import GPT2Config
from stages.lib.common import params
from stages.lib.model import loss, models, scoring, trainable
from stages.lib.rows.packing import IGNORE, Document

choices = json.loads(sys.argv[1])
dropout, bfloat16 = choices.get("dropout", 0.0), choices.get("bfloat16", False)
torch.manual_seed(0)
shape = {"n_layer": 2, "n_embd": 264, "n_head": 4, "vocab_size": 1003, "n_positions": 400}
attention = choices.get("attention", "sdpa" if dropout else "documents")  # as it is chosen for training
model = models.create(GPT2Config(**shape, initializer_range=0.2), attention)
for module in model.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = dropout
for block in model.transformer.h:
    block.attn.attn_dropout.p = dropout
if rank := choices.get("rank"):
    model = trainable.attach(model, rank, 16, dropout)
    for name, weights in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weights, std=0.1)
if choices.get("checkpointing"):
    model.gradient_checkpointing_enable()
drawn = torch.Generator().manual_seed(1)
ids = torch.randint(0, 1003, (3, 336), generator=drawn)  # as long as batches are
positions = torch.cat([torch.arange(131), torch.arange(205)]).expand_as(ids)
labels = ids.clone()
labels[:, 131] = IGNORE
documents = [Document(line, ids[line, : 97 + 50 * line].numpy(), 100) for line in range(3)]
dtype = torch.bfloat16 if bfloat16 else torch.float32


def computed():
    model.train()
    model.zero_grad()
    torch.manual_seed(2)
    base = model.base_model.model if rank else model
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        for given in zip(ids.split(2), positions.split(2), labels.split(2)):
            summed, nats = loss.summed_nats(base, *given, smoothing=choices.get("smoothing", 0.0), dtype=dtype)
            yield "nats", nats
            (summed / 990).float().backward()
    for name, weights in model.named_parameters():
        if weights.grad is not None:
            yield name, weights.grad
    yield "length", torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        scores = scoring.score_documents(base, documents, batch_tokens=500)
        yield "scores", torch.tensor([score.nats for score in scores])


said = {}
for number in (1, 2, 3, 4, 5, 6, 7, 8):
    torch.set_num_threads(number)
    said[number] = [
        (name, hashlib.sha256(values.detach().numpy().tobytes()).hexdigest()) for name, values in computed()
    ]
print(json.dumps(said))
"""
CHOICES = {
    "float32": {},
    "dropout": {"dropout": 0.1},
    "LoRA": {"rank": 4, "dropout": 0.1},
    "gradient checkpointing": {"checkpointing": True},
    "label smoothing": {"smoothing": 0.1},
    "bfloat16": {"bfloat16": True},
    "LoRA in bfloat16": {"bfloat16": True, "rank": 4, "checkpointing": True},
    "sdpa": {"attention": "sdpa"},
    "dropout in bfloat16": {"bfloat16": True, "dropout": 0.1},
}


def computed_with_each(choices, **env):
    script = [sys.executable, "-c", COMPUTE, json.dumps(choices)]
    done = subprocess.run(script, cwd=HOME, env=environment(**env), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "name",
    [name if name in ("LoRA", "bfloat16") else pytest.param(name, marks=pytest.mark.slow) for name in CHOICES],
)
def test_one_thread_and_eight_compute_the_same_bytes(name):
    choices = CHOICES[name]
    precision = "bfloat16" if "bfloat16" in choices else "float32"
    if threads.matter(CPU, "float32") or (precision == "bfloat16" and not processor.has("avx512_bf16")):
        pytest.skip("on this processor the number of threads matters, and is part of what a run depends on")
    # What AMX computes depends on it, and is recorded. Without AMX, oneDNN's products in bfloat16 do not.
    said = computed_with_each(choices, ONEDNN_MAX_CPU_ISA="AVX512_CORE_BF16")
    differ = {
        name for one in said.values() for (name, here), (_, first) in zip(one, said["1"], strict=True) if here != first
    }
    assert not differ
    assert len(said["1"]) > 10


def test_a_processor_on_which_they_are_skipped_passes_in_ci():
    allowed = (HOME / ".ci/allowed_skips.txt").read_text(encoding="utf-8").splitlines()
    test = f"tests.model.test_threads::{test_one_thread_and_eight_compute_the_same_bytes.__name__}"
    assert {f"{test}[{name}]" for name in CHOICES} <= set(allowed)


@pytest.mark.parametrize("function", [lambda x: gelu(x, approximate="tanh"), gelu, silu])
def test_an_activation_and_its_gradient_are_the_same_for_any_size_and_number_of_threads(function):
    drawn, before = random.Random(0), torch.get_num_threads()
    wrapped = threads._Activation(function)
    sizes = [
        drawn.choice([drawn.randint(1, 60_000), drawn.randint(1, 700_000), 264 * drawn.randint(1, 3000)])
        for _ in range(25)
    ]
    try:
        for size in sizes:
            values = torch.randn(size, generator=torch.Generator().manual_seed(size))
            said = set()
            for number in (1, 2, 3, 5, 6, 7, 8):
                torch.set_num_threads(number)
                given = values.clone().requires_grad_()
                result = wrapped(given)
                (gradient,) = torch.autograd.grad(result, given, torch.full_like(result, 0.7))
                said.add(hashlib.sha256(result.detach().numpy().tobytes() + gradient.numpy().tobytes()).digest())
                torch.testing.assert_close(result, function(values), rtol=1e-6, atol=1e-6)
            assert len(said) == 1, size
    finally:
        torch.set_num_threads(before)


def test_a_layer_norms_gradients_are_those_of_float64():
    torch.manual_seed(0)
    norm = threads._LayerNorm.of(torch.nn.LayerNorm(37, eps=1e-5))
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    hidden, outer = torch.randn(3, 50, 37, requires_grad=True), torch.randn(3, 50, 37)
    norm(hidden).backward(outer)
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, norm.weight, norm.bias)]
    layer_norm(exact[0], (37,), exact[1], exact[2], 1e-5).backward(outer.double())
    for ours, theirs in zip((hidden, norm.weight, norm.bias), exact, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-5)


def test_frozen_layer_norms_ask_for_no_gradient_of_their_own():
    norm = threads._LayerNorm.of(torch.nn.LayerNorm(8)).requires_grad_(False)
    hidden = torch.randn(2, 8, requires_grad=True)
    norm(hidden).sum().backward()
    assert hidden.grad is not None
    assert norm.weight.grad is None


def test_a_model_keeps_its_names_its_weights_and_whether_it_is_training():
    model = models.create(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=11))
    assert not any(module.training for module in model.modules())
    assert {"transformer.h.0.ln_1.weight", "transformer.ln_f.bias"} < set(model.state_dict())
    assert not any("act" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("vendor", "mkl", "capability", "amx", "matters"),
    [
        ("GenuineIntel", True, "AVX512", True, {"bfloat16"}),
        ("GenuineIntel", True, "AVX512", False, set()),
        ("GenuineIntel", True, "AVX2", False, set()),
        ("GenuineIntel", True, "DEFAULT", False, {"float32", "bfloat16"}),
        ("GenuineIntel", False, "AVX512", False, {"float32", "bfloat16"}),
        ("AuthenticAMD", True, "AVX512", False, {"float32", "bfloat16"}),
        ("", False, "DEFAULT", False, {"float32", "bfloat16"}),
    ],
)
def test_where_threads_matter(monkeypatch, vendor, mkl, capability, amx, matters):
    monkeypatch.setattr(processor, "vendor", lambda: vendor)
    monkeypatch.setattr(processor, "has", lambda feature: amx)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert {precision for precision in ("float32", "bfloat16") if threads.matter(CPU, precision)} == matters
    assert not threads.matter(torch.device("cuda"), "bfloat16")
    assert threads.matter(CPU, "float32", "small")
    monkeypatch.setenv("MKL_CBWR", "")  # so that what is made of it is undone
    monkeypatch.delenv("MKL_CBWR")
    models.create(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=11))
    assert os.environ.get("MKL_CBWR") == (None if "float32" in matters else f"{capability},STRICT")
