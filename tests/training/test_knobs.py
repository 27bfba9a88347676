"""The settings of training: each has its effect, and a run with it goes on from a checkpoint to the same bytes."""

import copy
import math
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from tiny_training import SETTINGS, of_rows, same_weights, train
from torch.nn.functional import cross_entropy, pad
from transformers import GPT2LMHeadModel

from stages import train as train_stage
from stages.lib.common import params
from stages.lib.common.cli import UserError
from stages.lib.model import devices, loss, models, processor, scoring, threads, trainable
from stages.lib.processes.group import ALONE
from stages.lib.rows import batches
from stages.lib.training import checkpoints, environment, plan, trainer


class Killed(Exception):
    pass


class Reached(Exception):
    pass


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": "auto"},
        {"scheduler": "cosine"},
        {"scheduler": "constant"},
        {"warmup_fraction": 0.5},
        {"weight_decay": 1.0},
        {"max_grad_norm": 0.01},
        {"dropout": 0.3},
        {"label_smoothing": 0.2},
        {"gradient_accumulation_steps": 2},
        {"gradient_checkpointing": True, "dropout": 0.3},
        {"seed": 7},
        {"freeze_layers": 1},
        {"lora_rank": 4},
        {"lora_rank": 4, "dropout": 0.3, "keep": "last"},
        {"precision": "bfloat16"},
        {"memory": "small"},
        {"attention": "eager"},
        {"loader_workers": 1},
        pytest.param({"compile": True}, marks=pytest.mark.slow),
    ],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()),
)
def test_a_setting_has_its_effect_and_resumes_exactly(tiny_base, rows, tmp_path, plain, changes):
    changes = {"save_steps": 2, **changes}
    whole = train(tiny_base, rows, tmp_path / "whole", weighing, **changes)
    assert (whole.model.transformer._compiled_call_impl is not None) == ("compile" in changes)
    if not {"attention", "loader_workers", "compile"} & set(changes):
        assert not same_weights(merged(whole), plain.model)

    def dies(point):
        if point["step"] == whole.plan.steps - 3:
            raise Killed

    with pytest.raises(Killed):
        train(tiny_base, rows, tmp_path / "again", weighing, on_point=dies, **changes)
    done = train(tiny_base, rows, tmp_path / "again", weighing, **changes)
    assert done.began_at >= 2
    assert same_weights(done.model, whole.model)
    assert done.record == whole.record


def weighing(model, check):
    """A validation whose result is a matter of the weights alone."""
    nats = sum(parameter.abs().double().sum().item() for parameter in model.parameters())
    return scoring.Total(documents=1, size=1000, tokens=10, nats=nats, end_of_text_nats=0.0)


def merged(done):
    return trainable.whole(copy.deepcopy(done.model))


@pytest.fixture(scope="module")
def plain(tiny_base, rows, tmp_path_factory):
    return train(tiny_base, rows, tmp_path_factory.mktemp("plain") / "run", weighing)


def lengths(values):
    return math.sqrt(sum(value.double().square().sum().item() for value in values))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("logits_at_once", "filled"), [(1, 0), (320 * 7, 0), (2**25, 0), (320 * 7, 50)])
def test_the_chunked_loss_and_its_gradients_are_the_plain_ones(
    tiny_base, rows, monkeypatch, logits_at_once, filled, smoothing
):
    monkeypatch.setattr(loss, "_LOGITS_ON_CPU", logits_at_once)
    monkeypatch.setattr(loss, "_filled", lambda matrix: pad(matrix, (0, 0, 0, filled)))  # as on a card
    batch = batches.collate([rows[index] for index in range(6)])
    ours = models.load(tiny_base)
    summed, nats = loss.summed_nats(ours, **batch, smoothing=smoothing)
    (summed / 100).backward()
    plain = GPT2LMHeadModel.from_pretrained(tiny_base, attn_implementation="eager").double().eval()
    inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
    logits = plain(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1)
    targets = batch["labels"][:, 1:].flatten()
    expected = cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    (expected / 100).backward()
    assert summed.item() == pytest.approx(expected.item(), rel=1e-6)
    assert nats.item() == pytest.approx(cross_entropy(logits, targets, reduction="sum").item(), rel=1e-6)
    assert nats.item() == pytest.approx(scoring.next_token_nats(ours, **of_rows(batch)).double().sum().item(), rel=1e-6)
    truth = dict(plain.named_parameters())
    errors = [parameter.grad.double() - truth[name].grad for name, parameter in ours.named_parameters()]
    assert lengths(errors) < 1e-6 * lengths([parameter.grad for parameter in plain.parameters()])


def test_the_loss_in_bfloat16_is_near_the_plain_one(tiny_base, rows):
    batch = batches.collate([rows[index] for index in range(6)])
    model = models.load(tiny_base)
    exact, _ = loss.summed_nats(model, **batch)
    with torch.autocast("cpu", torch.bfloat16):
        near, _ = loss.summed_nats(model, **batch, dtype=torch.bfloat16)
    assert near.item() != exact.item()
    assert near.item() == pytest.approx(exact.item(), rel=1e-2)


def test_weights_stay_float32_whatever_the_precision(tiny_base, rows, tmp_path):
    done = train(tiny_base, rows, tmp_path, precision="bfloat16")
    assert {parameter.dtype for parameter in done.model.parameters()} == {torch.float32}


def test_frozen_layers_and_embeddings_stay_as_they_are(tiny_base, rows, tmp_path):
    before = models.load(tiny_base).state_dict()
    after = train(tiny_base, rows, tmp_path, freeze_layers=1).model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(("transformer.h.1.", "transformer.ln_f."))}


def test_lora_trains_small_matrices_alone_and_merges_into_an_ordinary_model(tiny_base, rows, tmp_path):
    done = train(tiny_base, rows, tmp_path / "run", weighing, lora_rank=4, save_steps=5)
    blocks = 2 * (32 * 96 + 32 * 32 + 32 * 128 + 128 * 32)
    adapted = 2 * 4 * ((32 + 96) + (32 + 32) + (32 + 128) + (128 + 32))
    assert models.parameters(done.model, trained=True) == adapted < blocks
    assert models.parameters(done.model) == models.parameters(models.load(tiny_base))
    for folder in [*done.run.folder.glob("checkpoint-*"), *done.run.folder.glob("best-*")]:
        with safe_open(next(folder.glob("*.safetensors")), "pt") as weights:
            assert all("lora_" in name for name in weights.keys())  # noqa: SIM118
    batch = batches.collate([rows[0]])
    adapted_nats = scoring.next_token_nats(done.model.eval(), **of_rows(batch))
    ordinary = merged(done)
    assert type(ordinary) is GPT2LMHeadModel
    assert set(ordinary.state_dict()) == set(models.load(tiny_base).state_dict())
    assert torch.allclose(scoring.next_token_nats(ordinary.eval(), **of_rows(batch)), adapted_nats, atol=1e-4)


def test_how_little_lora_trains_is_said_in_digits_enough(tiny_base, capsys):
    settings = params.Train(**SETTINGS | {"lora_rank": 1})
    prepared = SimpleNamespace(
        args=SimpleNamespace(device=torch.device("cpu"), learning_rate=1e-3),
        model=trainable.load(tiny_base, settings, "sdpa", None),
        train_dataset=[],
        group=ALONE,
    )
    some = SimpleNamespace(steps=1, batches=1, logging_steps=100, reasons="", name="")
    train_stage._say_what_is_to_come(settings, prepared, some, some, some, "")
    trained = models.parameters(prepared.model, trained=True)
    assert 0 < trained < 2000
    assert f"(0.00{round(trained / 1000)} M trained)" in capsys.readouterr().out


def test_dropout_of_lora_is_in_what_the_adapters_add(tiny_base):
    """In a model whose own dropout is off, so that all that is dropped is dropped on the way into the adapters."""
    ids = torch.arange(20)[None]
    for dropout in (0.0, 0.5):
        adapted = trainable.attach(models.load(tiny_base), rank=4, alpha=16, dropout=dropout).train()
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:  # it begins as zero, and adds nothing
                    parameter.normal_()
            same = torch.equal(adapted(ids).logits, adapted(ids).logits)
        assert same == (dropout == 0.0)


class Several(trainer.TrainingArguments):
    """What the Trainer is told on a machine with three cards."""

    @property
    def n_gpu(self):
        return self.__dict__.setdefault("_n_gpu", 3) or 3


def test_one_card_alone_is_used_among_several(tiny_base, rows, tmp_path, monkeypatch):
    """Otherwise the Trainer would take a batch for each card, and spread it over them."""

    monkeypatch.setattr(trainer, "TrainingArguments", Several)
    done = train(tiny_base, rows, tmp_path, epochs=1)
    assert done.trainer.args.n_gpu == 1
    assert {len(batch["input_ids"]) for batch in done.batches[:-1]} == {SETTINGS["batch_size"]}


def test_a_run_goes_on_with_the_threads_that_it_began_with(capsys):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert (threads.keep(None), capsys.readouterr().out) == (2, "")
        torch.set_num_threads(1)
        assert threads.keep(2) == torch.get_num_threads() == 2
        assert "2 threads, as the run began with, not 1" in capsys.readouterr().out
    finally:
        torch.set_num_threads(before)


def test_what_a_run_depends_on_is_no_more_of_the_processor_than_changes_bytes(monkeypatch):
    described = {}
    for matters in (False, True):
        monkeypatch.setattr(threads, "matter", lambda *given, matters=matters: matters)
        described[matters] = environment.describe(torch.device("cpu"), "float32")
    assert described[False] | {"processor": processor.kind()} == described[True]
    assert described[False]["processor"] == processor.vendor()
    assert "threads" not in described[True]


def test_an_instruction_set_that_is_kept_from_a_library_is_part_of_what_a_run_depends_on(monkeypatch):
    usual = environment.describe(torch.device("cpu"), "float32")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    limited = environment.describe(torch.device("cpu"), "float32")
    assert limited == usual | {"limits": {"ONEDNN_MAX_CPU_ISA": "AVX2"}}
    for first, own in ((usual, limited), (limited, usual)):
        environment.require(own, own)
        with pytest.raises(UserError, match="another than the first one"):
            environment.require(first, own)


def test_what_auto_comes_to_is_part_of_what_a_run_depends_on(project, monkeypatch):
    """A compiler that is there, a kernel that works: as good as a setting."""
    monkeypatch.chdir(project.folder)
    choose, fingerprints = devices.choose_speed, []

    def run(fingerprint):
        fingerprints.append(fingerprint)
        raise Reached

    monkeypatch.setattr(checkpoints, "Run", run)
    same, *others = {"loader_workers": 2}, {"attention": "eager"}, {"compile": True}, {"precision": "other"}
    for change in ({}, same, *others):
        monkeypatch.setattr(devices, "choose_speed", lambda *given, change=change: replace(choose(*given), **change))
        with pytest.raises(Reached):
            train_stage.main()
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints)) == 1 + len(others)


@pytest.mark.parametrize("wanted", [True, False])
def test_deterministic_kernels_are_used_on_a_card_as_set(project, monkeypatch, wanted):
    def reached(*given):
        raise Reached

    project.set(train__deterministic=str(wanted).lower())
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(devices, "choose", lambda: torch.device("cuda"))
    monkeypatch.setattr(devices, "choose_speed", reached)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        with pytest.raises(Reached):
            train_stage.main()
        assert torch.are_deterministic_algorithms_enabled() == wanted
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if wanted else None)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lora_rank": 4, "freeze_layers": 1}, "exclude each other"),
        ({"attention": "documents", "dropout": 0.1}, "attention: documents has no dropout"),
        ({"lora_rank": -1}, "greater than or equal to 0"),
        ({"lora_alpha": 0.0}, "greater than 0"),
        ({"label_smoothing": 1.0}, "less than 1"),
        ({"precision": "float16"}, "'auto', 'float32' or 'bfloat16'"),
        ({"loader_workers": "some"}, "'auto'"),
        ({"compile": "yes"}, "'auto'"),
    ],
)
def test_a_combination_that_makes_no_sense_is_refused(changes, expected):
    with pytest.raises(ValidationError, match=expected):
        params.Train(**{**SETTINGS, **changes})


def test_with_dropout_or_compiled_attention_goes_over_whole_rows():
    cpu = torch.device("cpu")
    for changes in ({"dropout": 0.1}, {"compile": True}):
        assert devices.choose_speed(params.Train(**{**SETTINGS, **changes}), cpu, 10).attention == "sdpa"
    chosen = devices.choose_speed(params.Train(**{**SETTINGS, "attention": "sdpa"}), cpu, 10)
    assert "attention sdpa (as set)" in chosen.reasons


def test_auto_is_ten_times_higher_with_lora():
    assert plan.learning_rate("auto", 124_439_808, lora=True) == 5e-4


@pytest.mark.parametrize(
    ("kind", "in_hardware", "steps", "expected"),
    [
        ("cpu", True, 5000, ("bfloat16", False, "documents")),
        ("cpu", False, 5000, ("float32", False, "documents")),
        ("cuda", True, 5000, ("bfloat16", True, "sdpa")),
        ("cuda", True, 100, ("bfloat16", False, "sdpa")),
    ],
)
def test_what_auto_chooses_is_said_with_its_reason(monkeypatch, kind, in_hardware, steps, expected):
    monkeypatch.setattr(devices, "computes_in_bfloat16", lambda device: in_hardware)
    monkeypatch.setattr(devices, "works_on", lambda device, width: False)
    monkeypatch.setattr(devices.shutil, "which", lambda name: f"/usr/bin/{name}")
    settings = params.Train(**{**SETTINGS, "precision": "auto"})
    chosen = devices.choose_speed(settings, torch.device(kind), steps)
    assert (chosen.precision, chosen.compile, chosen.attention, chosen.loader_workers) == (*expected, 0)
    assert chosen.reasons.startswith(f"precision {expected[0]} (the hardware ")
    given = params.Train(**{**SETTINGS, "precision": "float32", "compile": True, "loader_workers": 2})
    chosen = devices.choose_speed(given, torch.device(kind), steps)
    assert (chosen.precision, chosen.compile, chosen.loader_workers) == ("float32", True, 2)
    assert chosen.reasons.startswith("precision float32 (as set)")
