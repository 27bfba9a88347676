"""What a card is asked for, without one: stand-ins for the device, and tensors that have a shape and no numbers.

What such a tensor holds cannot be fetched: a forward and a backward pass over it prove that nothing waits for a card.
"""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CODE
from tiny_training import SETTINGS
from transformers import GPT2Config

from stages.lib.common import params
from stages.lib.common.cli import UserError
from stages.lib.model import attention, devices, generation, loss, models, processor
from stages.lib.rows import batches, tokens

CARD, CPU = torch.device("cuda"), torch.device("cpu")
GPT2 = {"n_layer": 2, "n_embd": 128, "n_head": 2, "vocab_size": 50257, "n_positions": 64}


def batch_of(*rows):
    drawn = np.random.default_rng(0)
    return batches.collate(
        [{"input_ids": drawn.integers(0, 101, sum(lengths)), "lengths": np.array(lengths)} for lengths in rows]
    )


def stand_in(query, key, value, begins, begins_again, longest, longest_again, scale=None, window_size=(-1, -1)):
    """torch's kernel for packed rows as its documentation has it: [tokens, heads, width], document by document."""
    assert torch.equal(begins, begins_again)
    assert begins.dtype == torch.int32
    assert (begins[0], begins[-1]) == (0, len(query))
    assert int(begins.diff().max()) <= longest == longest_again
    assert window_size == (-1, 0)
    seen = torch.empty_like(query)
    for start, end in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        q, k, v = (states[start:end].transpose(0, 1) for states in (query, key, value))
        later = torch.ones(end - start, end - start).triu(1).bool()
        seen[start:end] = ((q @ k.mT * scale).masked_fill(later, -torch.inf).softmax(-1) @ v).transpose(0, 1)
    return seen


in_bfloat16 = devices.computes_in_bfloat16


@pytest.fixture(autouse=True)
def modern(monkeypatch):
    monkeypatch.setattr(devices, "computes_in_bfloat16", lambda device: True)


@pytest.fixture
def as_on_a_card(monkeypatch):
    monkeypatch.setattr(attention, "_in_one_kernel", lambda query: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 * 10**9))


def test_a_step_fetches_nothing_from_the_card(as_on_a_card):
    """With the library's own kernel, as far as shapes go."""
    batch = {name: tensor.to("meta") for name, tensor in batch_of([7, 20, 3], [40]).items()}
    with torch.device("meta"):
        model = models.create(GPT2Config(**GPT2), attention.DOCUMENTS).bfloat16()
        summed, nats = loss.summed_nats(model, **batch, dtype=torch.bfloat16)
        (summed / 60).float().backward()
    assert (summed.shape, nats.shape) == ((), ())
    assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())


def test_documents_in_one_kernel_get_the_logits_they_have_alone(as_on_a_card, monkeypatch):
    monkeypatch.setattr(attention, "varlen_attn", stand_in)
    torch.manual_seed(0)
    model = models.create(GPT2Config(**GPT2 | {"vocab_size": 101}, initializer_range=0.3), attention.DOCUMENTS)
    batch = batch_of([7, 20, 3], [40])
    packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    flat, ids = packed.flatten(0, 1), batch["input_ids"].flatten()
    monkeypatch.undo()
    for start, end in zip(batch["documents"][:-1].tolist(), batch["documents"][1:].tolist(), strict=True):
        alone = model(ids[None, start:end], use_cache=False).logits[0]
        assert torch.allclose(flat[start:end], alone, atol=1e-4)


def fails(*given, **more):
    raise NotImplementedError("no kernel image is available for execution on the device")


@pytest.mark.parametrize(
    ("kernel", "works"),
    [(stand_in, True), (fails, False), (lambda query, *given, **more: query, False)],
    ids=["right", "none", "wrong"],
)
def test_the_kernel_for_documents_is_tried_before_it_is_taken(monkeypatch, kernel, works):
    there = iter([False, True])
    monkeypatch.setattr(attention, "_in_one_kernel", lambda query: next(there))
    monkeypatch.setattr(attention, "varlen_attn", kernel)
    assert attention.works_on(CPU, 64) == works


@pytest.mark.parametrize(
    ("changes", "works", "chosen"),
    [
        ({}, True, "documents"),
        ({}, False, "sdpa"),
        ({"precision": "float32"}, True, "sdpa"),
        ({"dropout": 0.1}, True, "sdpa"),
        ({"compile": True}, True, "documents"),
    ],
)
def test_a_card_attends_to_documents_where_its_kernel_works(monkeypatch, changes, works, chosen):
    monkeypatch.setattr(devices, "works_on", lambda device, width: works and width == 40)
    monkeypatch.setattr(devices.shutil, "which", lambda name: f"/usr/bin/{name}")
    settings = params.Train(**{**SETTINGS, "precision": "bfloat16", **changes})
    assert devices.choose_speed(settings, CARD, 10, width=40).attention == chosen


def test_what_needs_a_compiler_is_not_chosen_without_one_and_refused_where_it_was_asked_for(monkeypatch):
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    monkeypatch.setattr(devices, "works_on", lambda device, width: True)
    settings = params.Train(**{**SETTINGS, "precision": "bfloat16"})
    chosen = devices.choose_speed(settings, CARD, 5000)
    assert not chosen.compile
    assert "compile false (a C compiler is missing)" in chosen.reasons
    for device, compilers in ((CPU, "g++, clang++, cl"), (CARD, "cc, gcc, clang")):
        with pytest.raises(UserError, match=r"^train\.compile: true needs a compiler here") as refused:
            devices.choose_speed(settings.model_copy(update={"compile": True}), device, 10)
        assert str(refused.value).endswith(compilers)


@pytest.mark.parametrize(("gigabytes", "logits"), [(8, 35_714_285), (24, 107_142_857), (80, 2**28)])
def test_a_card_makes_as_many_logits_at_once_as_its_memory_bears(monkeypatch, gigabytes, logits):
    memory = SimpleNamespace(total_memory=gigabytes * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    assert devices.at_once(50257, 2**25, CARD) == logits // 50257
    assert devices.at_once(50257, 2**25, CPU) == 2**25 // 50257
    assert devices.at_once(2**26, 2**25, CPU) == 1
    assert 14 * logits <= gigabytes * 10**9 / 16


def test_the_output_matrix_has_columns_for_tensor_cores_on_a_card_alone():
    assert loss._filled(torch.empty(50257, 8, device="meta")).shape == (50304, 8)
    assert loss._filled(torch.empty(50257, 8)).shape == (50257, 8)


def test_float32_is_float32_whatever_the_environment_asks_for():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        devices.choose()
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


def test_samples_in_mid_training_may_take_any_kernel_and_the_steps_after_them_may_not(tiny_base, monkeypatch):
    """On a card drawing a token has no kernel that repeats exactly, and would be refused."""
    allowed, generate = [], generation._generate

    def watched(*given, **more):
        allowed.append(torch.are_deterministic_algorithms_enabled())
        return generate(*given, **more)

    monkeypatch.setattr(generation, "_generate", watched)
    model, tokenizer = models.load(tiny_base), tokens.Tokenizer(tiny_base)
    try:
        torch.use_deterministic_algorithms(True)
        generation.by_itself(model, tokenizer, 2, generation.Sampling(5), lambda: None)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert allowed == [False]


# What Linux says of two ARM processors: Arm's Neoverse N1 (AWS Graviton2) and N2, by the numbers of their manuals.
ARM = """\
processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: {part}
CPU revision\t: 1
"""


def test_processors_of_arm_are_told_apart(monkeypatch):
    kinds = set()
    for part in ("0xd0c", "0xd49"):
        monkeypatch.setattr(processor, "_described", lambda part=part: ARM.format(part=part))
        kinds.add(processor.kind())
    assert kinds == {
        f"CPU implementer 0x41, CPU variant 0x3, CPU part {part}, CPU revision 1" for part in ("0xd0c", "0xd49")
    }


@pytest.mark.parametrize(
    ("vendor", "features", "faster"),
    [
        ("AuthenticAMD", "avx512f avx512_bf16", True),
        ("GenuineIntel", "avx512f avx512_bf16 amx_bf16", True),
        ("GenuineIntel", "avx512f avx512_bf16", False),
        ("GenuineIntel", "avx2", False),
        ("AuthenticAMD", "avx2", False),
    ],
)
def test_processors_that_multiply_faster_in_bfloat16(monkeypatch, vendor, features, faster):
    described = f"vendor_id\t: {vendor}\nflags\t\t: fpu {features} sse\n"
    monkeypatch.setattr(processor, "_described", lambda: described)
    assert in_bfloat16(CPU) == faster


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_memory_is_kept_or_goes_back(tmp_path):
    """Forty blocks are freed, from among small ones that stay; the first one is larger, from which glibc learns."""
    measured = """
import sys
import psutil, torch
from stages.lib.model import devices

getattr(devices, sys.argv[1])()
before = psutil.Process().memory_info().rss
torch.ones(2**22)
blocks = [(torch.ones(2**21), torch.ones(2**10)) for _ in range(40)]
small = [one for _, one in blocks]
del blocks
print(psutil.Process().memory_info().rss - before)
"""
    environment = {**os.environ, "PYTHONPATH": str(CODE)}
    kept, returned = (
        int(subprocess.run([sys.executable, "-c", measured, how], env=environment, stdout=-1, check=True).stdout)
        for how in ("keep_freed_memory", "return_freed_memory")
    )
    assert returned < 20 * 2**20
    assert kept > 300 * 2**20
