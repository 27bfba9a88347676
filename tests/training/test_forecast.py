"""What a run takes, said before it: against what PyTorch keeps, counted tensor by tensor, and against a whole run."""

import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_training import SETTINGS, train
from transformers import GPT2Config

from stages.lib.common import files, params
from stages.lib.common.cli import UserError
from stages.lib.model import devices, loss, models, scoring, trainable
from stages.lib.processes import gradients
from stages.lib.rows import batches
from stages.lib.training import checkpoints, forecast, plan

GB = 10**9
GPT2 = {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}


def run_of(
    shape=GPT2, precision="float32", attention="documents", length=512, batches=1, processes=1, checkpoints=9, **changes
):
    speed = devices.Speed(precision, attention, False, 0, "")
    settings = params.Train(**SETTINGS | {"batch_size": 2, "save_steps": 500} | changes)
    course = plan.Plan(10**6, batches * processes, 500, 500 * checkpoints, 100)
    return forecast.Run(GPT2Config(**shape), settings, speed, course, length, torch.device("cpu"), processes)


def kept_by_pytorch(run):
    """Bytes of all that a forward pass leaves for the backward pass, but for the weights themselves."""
    settings, bfloat16 = run.settings, run.speed.precision == "bfloat16"
    model = models.create(GPT2Config(**run.config.to_diff_dict()), run.speed.attention).train()
    if settings.lora_rank:
        model = trainable.attach(model, settings.lora_rank, 16, 0.0)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    lengths = [run.length // 3, run.length - run.length // 3]
    row = {"input_ids": np.zeros(run.length, dtype=np.int64), "lengths": np.array(lengths)}
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
    ):
        dtype = torch.bfloat16 if bfloat16 else torch.float32
        loss.summed_nats(model, **batches.collate([row] * settings.batch_size), dtype=dtype)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)


@pytest.mark.parametrize("other", [{}, {"tie_word_embeddings": False}, {"n_inner": 64}], ids=str)
@pytest.mark.parametrize("changes", [{}, {"lora_rank": 4}, {"freeze_layers": 1}], ids=str)
def test_numbers_are_those_of_the_model(other, changes):
    shape = {"n_layer": 2, "n_embd": 128, "n_head": 2, "vocab_size": 500, "n_positions": 64}
    run = run_of(shape | other, **changes)
    model = models.create(GPT2Config(**shape | other))
    if rank := run.settings.lora_rank:
        model = trainable.attach(model, rank, 16, 0.0)
    models.freeze(model, run.settings.freeze_layers)
    assert run.parameters == models.parameters(model)
    assert run.trained == models.parameters(model, trained=True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention": "sdpa"},
        {"batch_size": 4, "length": 256},
        {"gradient_checkpointing": True},
        {"lora_rank": 4},
        {"attention": "eager"},
    ],
    ids=str,
)
def test_what_a_forward_pass_keeps_is_what_pytorch_keeps(precision, changes):
    shape = {"n_layer": 4, "n_embd": 192, "n_head": 3, "vocab_size": 500, "n_positions": 512}
    run = run_of(shape, precision, **changes)
    ours = run._activations + (0 if run.settings.lora_rank else run._matrix)
    if run.settings.gradient_checkpointing:  # one block is computed again at a time, and PyTorch has not begun
        without = run_of(shape, precision, **changes | {"gradient_checkpointing": False})
        ours -= (
            without._activations - (8 if precision == "float32" else 6) * run.settings.batch_size * run.length * 192
        ) // 4
    assert ours == pytest.approx(kept_by_pytorch(run), rel=0.09 if run.settings.lora_rank else 0.06)


@pytest.mark.parametrize("lora_rank", [0, 8])
@pytest.mark.parametrize("freeze_layers", [0, 1, 2])
def test_the_numbers_that_are_trained_are_those_of_the_model(tiny_base, lora_rank, freeze_layers):
    if lora_rank and freeze_layers:
        return
    config = GPT2Config.from_pretrained(tiny_base)
    settings = params.Train(**SETTINGS | {"lora_rank": lora_rank, "freeze_layers": freeze_layers})
    model = trainable.load(tiny_base, settings, "sdpa")
    run = run_of(config.to_diff_dict(), lora_rank=lora_rank, freeze_layers=freeze_layers)
    assert run.parameters == models.parameters(model)
    assert run.trained == models.parameters(model, trained=True)


def test_gpt2_takes_what_was_measured():
    """Weights, gradients and AdamW's numbers: 16 bytes each of 124 M; with LoRA, only those of its matrices."""
    usual, small = run_of(), run_of(memory="small")
    assert usual.parameters == 124_439_808
    assert usual.memory() == pytest.approx(12 * 124e6 + 0.8e9, rel=0.15)
    # What whole processes took, of which 1.04 GB before their first step.
    assert 1.04e9 + small.memory() == pytest.approx(2.11e9, rel=0.1)
    assert 1.04e9 + run_of(memory="small", batch_size=1).memory() == pytest.approx(1.98e9, rel=0.1)
    checkpointing = run_of(memory="small", batch_size=4, gradient_checkpointing=True)
    assert 1.04e9 + checkpointing.memory() == pytest.approx(1.88e9, rel=0.12)
    assert run_of(lora_rank=8).memory() < run_of(gradient_checkpointing=True).memory() < usual.memory()
    assert run_of(batches=8).memory() > run_of(batches=4).memory() > run_of(batches=2).memory() > usual.memory()
    assert run_of(processes=4, sharding="full").memory() < usual.memory() == run_of(processes=4).memory()


@pytest.mark.parametrize("rows", [2, 3, 6, 10, 13, 16, 24, 48, 1000])
@pytest.mark.parametrize(("taken", "processes"), [(1, 1), (2, 1), (3, 1), (8, 1), (12, 1), (64, 1), (16, 2), (24, 4)])
def test_as_many_gradients_are_held_as_the_batches_of_an_epoch_ask_for(rows, taken, processes):
    """Counted in the sum itself, batch by batch, in the first process: it has the most of a short epoch."""
    weight = torch.nn.Parameter(torch.zeros(1))
    summed = gradients.GradientSum([weight], taken * processes, in_order=True)
    most = 0
    for batch in range(min(taken, math.ceil(rows / 2))):
        before = len(summed._held) + (weight.grad is not None)
        most = max(most, before)
        weight.grad = torch.ones(1)
        summed.took(batch)
    run = run_of(batches=taken, processes=processes, deterministic=True)
    run = replace(run, plan=replace(run.plan, rows=rows))
    assert run._earlier == most


def test_the_disk_is_that_of_checkpoints_best_weights_and_model():
    weights = 4 * 124_439_808
    # A checkpoint has three times the weights. Three of them while one is written, and older best weights ...
    assert run_of().disk() == (3 * 3 * weights, (3 * 3 + 1) * weights)
    assert run_of(checkpoints=3).disk() == (3 * 3 * weights, (2 * 3 + 1 + 2) * weights)
    # ... and in the end two, which have the best weights by a second name, the model and its copy.
    assert run_of(checkpoints=2).disk() == (2 * 3 * weights, (2 * 3 + 2) * weights)
    assert run_of(checkpoints=1).disk() == (3 * weights, (3 + 2) * weights)
    assert run_of(keep="last", save_total_limit=1).disk() == (2 * 3 * weights, 2 * 3 * weights)
    assert run_of(lora_rank=8).disk()[1] < 2.2 * weights


@pytest.mark.parametrize(("best", "saves"), [("first", 5), ("last", 5), ("last", 2), ("first", 3)])
def test_the_disk_of_a_whole_run_is_what_was_said(rows, tmp_path, monkeypatch, best, saves):
    """But for some 100 KB that any checkpoint has beside its tensors."""
    shape = {"n_layer": 1, "n_embd": 256, "n_head": 4, "vocab_size": 20_000, "n_positions": 64}
    models.create(GPT2Config(**shape), "eager").save_pretrained(tmp_path / "base")
    sizes, discard = [], checkpoints.Run.discard_older

    def measured(run, keep):
        sizes.append(files.size_of_tree(run.folder))
        discard(run, keep)

    monkeypatch.setattr(checkpoints.Run, "discard_older", measured)
    found = iter(range(100) if best == "first" else range(100, 0, -1))

    def validate(model, check):
        return scoring.Total(1, 100, 10, float(next(found)), 0.0)

    changes = {"max_steps": saves, "save_steps": 1, "eval_steps": 1, "save_total_limit": 2, "keep": "best"}
    done = train(tmp_path / "base", rows, tmp_path / "run", validate, **changes)
    said = forecast.Run(
        GPT2Config(**shape),
        params.Train(**SETTINGS | changes),
        devices.Speed("float32", "eager", False, 0, ""),
        done.plan,
        48,
        torch.device("cpu"),
    )
    weights = 4 * said.parameters
    taken = max(*sizes, files.size_of_tree(tmp_path / "run") + 2 * weights)
    least, most = said.disk()
    assert least < taken < 1.02 * most
    if best == "first":
        assert taken > most


@pytest.fixture
def machine(monkeypatch):
    """One that has so much to give."""

    def has(memory, disk):
        monkeypatch.setattr(forecast, "_SAVING", -0.08)  # 60 MB in all
        monkeypatch.setattr(forecast, "_held", lambda device: 1 * GB)
        monkeypatch.setattr(forecast, "_free", lambda device: memory)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=disk))

    return has


SMALLER = (
    "train.batch_size: 1, train.gradient_accumulation_steps: 2, train.gradient_checkpointing: true, train.memory: small"
)


@pytest.mark.parametrize(
    ("changes", "memory", "remedy"),
    [
        ({"batch_size": 8}, 3.0, "train.batch_size: 4, train.gradient_accumulation_steps: 2"),
        ({"batch_size": 4}, 1.8, "train.gradient_checkpointing: true"),
        ({"batch_size": 1}, 1.2, "train.memory: small"),
        ({"batch_size": 1}, 0.7, "train.lora_rank: 8"),
        ({"batch_size": 3, "lora_rank": 8}, 0.4, "train.gradient_checkpointing: true"),
        ({"batch_size": 2}, 0.33, f"{SMALLER}, train.lora_rank: 8"),
        ({"batch_size": 1}, 0.01, "a smaller base, or a machine with more"),
        ({"batch_size": 1, "freeze_layers": 2}, 0.1, "a smaller base, or a machine with more"),
    ],
    ids=str,
)
def test_what_does_not_fit_into_memory_is_refused_with_what_does(machine, tmp_path, changes, memory, remedy):
    machine(memory * GB, 100 * GB)
    run = run_of(**changes)
    with pytest.raises(UserError) as refused:
        forecast.require(run, tmp_path)
    needed, there = (1 * GB + run.memory()) / 1e9, 1 + memory
    assert str(refused.value) == (f"training would take {needed:.1f} GB of memory, of {there:.1f} GB: take {remedy}")


def test_what_may_just_fit_is_tried(machine, tmp_path):
    run = run_of()
    machine(0.95 * run.memory(), 100 * GB)
    assert forecast.require(run, tmp_path) == "takes at most 3.1 GB of memory and 5.0 GB of disk"


def test_processes_on_one_machine_share_its_memory(machine, tmp_path, monkeypatch):
    alone, three = run_of(), run_of(processes=3)
    machine(2 * alone.memory(), 100 * GB)
    assert forecast.require(alone, tmp_path).startswith("takes at most 3.1 GB of memory ")
    with pytest.raises(UserError, match=r"training would take 9\.2 GB of memory"):
        forecast.require(three, tmp_path)
    monkeypatch.setenv("MACHINES", "3")
    assert forecast.require(three, tmp_path) == forecast.require(alone, tmp_path)


def test_a_card_holds_its_part_of_the_blocks_and_the_rest_whole(monkeypatch):
    """GPT-2 XL in eight parts: what is in no block, 82 M numbers, has weights, gradients and AdamW's two everywhere."""
    shape = {"n_layer": 48, "n_embd": 1600, "n_head": 25, "vocab_size": 50257, "n_positions": 1024}
    run = run_of(shape, processes=8, sharding="full", batch_size=1, gradient_checkpointing=True)
    run = replace(run, device=torch.device("cuda"))
    monkeypatch.setattr(loss, "parts", lambda tokens, vocabulary, device: 1)
    outside = (50257 + 1024 + 2) * 1600
    kept = 3 * 4 * (outside + (run.parameters - outside) / 8)
    assert kept < run.memory() < kept + 1.5 * GB


def test_of_a_tiny_model_more_is_said_than_nothing(machine, tmp_path):
    tiny = run_of({"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 500, "n_positions": 64}, length=64)
    machine(100 * GB, tiny.disk()[0] - 1)
    with pytest.raises(UserError, match=r"^checkpoints would take 0\.00[1-9] GB of disk, of 0\.00[1-9] GB: "):
        forecast.require(tiny, tmp_path)


def test_a_disk_that_is_too_small_is_refused_and_what_the_run_has_there_is_counted(machine, tmp_path):
    run = run_of()
    machine(100 * GB, run.disk()[0] - 1000)
    with pytest.raises(UserError, match=r"^checkpoints would take 4.5 GB of disk, of 4.5 GB: lower "):
        forecast.require(run, tmp_path)
    forecast.require(run, None)  # a process that writes nothing
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5/model.safetensors").write_bytes(bytes(1000))
    forecast.require(run, tmp_path)


@pytest.mark.parametrize(("most", "used", "left"), [("3000", "1000", [2300]), ("max", "1000", []), (None, None, [])])
def test_a_container_has_what_was_set_for_it(monkeypatch, tmp_path, most, used, left):
    monkeypatch.setattr(forecast, "_CONTAINER", tmp_path)
    stat = "anon 600\nfile 400\ninactive_file 300\nactive_file 100"  # what was read once is given up if need be
    for name, text in (("memory.max", most), ("memory.current", used), ("memory.stat", stat)):
        if text:
            (tmp_path / name).write_text(f"{text}\n")
    assert list(forecast._left_in_container()) == left


def test_how_long_it_takes_is_told_once_by_the_first_steps_but_one():
    pace = plan.Pace(written=10 * 200_000_000)
    pace.validation = 30.0
    said = [pace.left(seconds, 100, lambda: (3, 4)) for seconds in (60.0, 2.0, 2.0, 2.0, 2.0)]
    assert said == [None, None, None, "about 05:30 to go: 2 s a step, 30 s a validation", None]
    going_on = plan.Pace(written=0)
    said = [going_on.left(2.0, 100, lambda: (3, 4)) for _ in range(4)]
    assert said[-1] == "about 03:20 to go, validations left aside: 2 s a step"
    quick = plan.Pace(written=0)
    assert [quick.left(0.01, 100, lambda: (3, 4)) for _ in range(100)] == [None] * 100
