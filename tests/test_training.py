"""Training: the loss that is logged, the steps that are taken, and what a checkpoint brings back."""

import itertools
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import many_texts
from transformers import GPT2LMHeadModel

from stages.lib import batches, checkpoints, models, packing, params, scoring, tokens, training
from stages.lib.cli import UserError
from stages.lib.encoder import Encoder

SETTINGS = {
    "epochs": 2,
    "batch_size": 3,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-3,
    "scheduler": "linear",
    "warmup_fraction": 0.1,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "dropout": 0.0,
    "keep": "best",
    "save_steps": 5,
    "save_total_limit": 2,
    "logging_steps": 1,
    "seed": 1,
    "deterministic": True,
}


@pytest.fixture(scope="module")
def rows(tiny_base, tmp_path_factory):
    """Rows of very different fill, so that a mean of means differs from the truth."""
    folder = tmp_path_factory.mktemp("tokens")
    texts = [text[: 10 + 7 * (n % 13)] for n, text in enumerate(many_texts(24))]
    encoded = Encoder(tiny_base).encode(texts)
    documents = [packing.Document(line, ids, 1) for line, ids in enumerate(encoded, 1)]
    tokens.write_rows(folder / "train.arrow", packing.pack(documents, 48))
    return batches.open_rows(folder, "train")


def train(tiny_base, rows, folder, validate=lambda: scoring.total([]), **changes):
    """Train the tiny model as the stage does; return model, record and the batches in the order they came."""
    settings = params.Train(**{**SETTINGS, **changes})
    model = models.load(tiny_base, settings.dropout)
    seen = []

    def collate(items):
        seen.append(batches.collate(items))
        return seen[-1]

    per_epoch = math.ceil(len(rows) / settings.batch_size / settings.gradient_accumulation_steps)
    trainer = training.trainer(model, rows, settings, per_epoch * settings.epochs, folder, collate)
    trainer.record = training.Record()
    run = checkpoints.Run("test")
    run.folder = folder
    trainer.add_callback(training.Course(run, trainer.record, validate, settings, per_epoch, folder / "tensorboard"))
    with models.quiet():
        trainer.train()
    return SimpleNamespace(model=model, record=trainer.record, batches=seen, trainer=trainer)


def documents_of_batch(batch):
    """The token ids of each segment of a batch, read off its position ids."""
    for ids, positions, labels in zip(batch["input_ids"], batch["position_ids"], batch["labels"], strict=True):
        starts = [*torch.nonzero(positions == 0).flatten().tolist(), len(ids)]
        for start, end in itertools.pairwise(starts):
            if (labels[start:end] != scoring.IGNORE).any():
                yield ids[start:end]


def reference_loss(model, group):
    """Nats over predicted tokens of some batches: float64, one document at a time, no packing."""
    nats, count = 0.0, 0
    for batch in group:
        for ids in documents_of_batch(batch):
            logits = model(ids[None]).logits[0, :-1]
            nats = nats - torch.log_softmax(logits, -1).gather(1, ids[1:, None]).sum()
            count += len(ids) - 1
    return nats / count


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 1), (3, 1), (2, 3)])
def test_the_logged_loss_is_the_plain_float64_loss_of_the_same_batches(
    tiny_base, rows, tmp_path, batch_size, accumulation
):
    # A learning rate so small that the weights stay those of the reference.
    done = train(
        tiny_base,
        rows,
        tmp_path,
        batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-12,
        weight_decay=0.0,
    )
    reference = GPT2LMHeadModel.from_pretrained(tiny_base, attn_implementation="eager").double().eval()
    per_epoch = math.ceil(len(rows) / batch_size)
    groups = []
    for start in range(0, len(done.batches), per_epoch):
        epoch = done.batches[start : start + per_epoch]
        groups += [epoch[at : at + accumulation] for at in range(0, len(epoch), accumulation)]
    assert len(groups) == len(done.record.curve) == done.trainer.state.max_steps
    for point, group in zip(done.record.curve, groups, strict=True):
        expected = reference_loss(reference, group)
        assert point["loss"] == pytest.approx(expected.item(), rel=1e-5)
        reference.zero_grad()
        expected.backward()
        norm = torch.sqrt(sum(p.grad.square().sum() for p in reference.parameters())).item()
        assert point["gradient_norm"] == pytest.approx(norm, rel=1e-4)


def test_a_point_of_the_curve_is_a_total_over_the_steps_since_the_last(tiny_base, rows, tmp_path):
    # Some twenty points over 42 steps make points of two steps each, with batches of different numbers of tokens.
    done = train(tiny_base, rows, tmp_path, epochs=6, logging_steps=100, learning_rate=1e-12, weight_decay=0.0)
    assert done.trainer.args.logging_steps > 1
    model = models.load(tiny_base)
    start, counts = 0, set()
    for point in done.record.curve:
        group = done.batches[start : point["step"]]
        start = point["step"]
        with torch.no_grad():
            nats = sum(scoring.next_token_nats(model, **batch).double().sum().item() for batch in group)
        labels = [int((batch["labels"] != scoring.IGNORE).sum()) for batch in group]
        counts.update(labels)
        assert point["loss"] == pytest.approx(nats / sum(labels), rel=1e-5)
    assert start == done.trainer.state.max_steps
    assert len(counts) > 1
    assert done.record.tokens == 6 * sum(
        int((batches.collate([rows[index]])["labels"] != scoring.IGNORE).sum()) for index in range(len(rows))
    )


@pytest.mark.parametrize(
    ("setting", "steps", "expected"), [(100, 30, 1), (100, 400, 20), (100, 9000, 100), (5, 9000, 5)]
)
def test_a_short_run_still_has_some_twenty_points(setting, steps, expected):
    assert training.logging_steps(setting, steps) == expected


def test_auto_is_the_customary_rate_for_gpt2_and_larger_for_smaller_models():
    assert training.learning_rate("auto", training.GPT2_PARAMETERS) == 5e-5
    assert training.learning_rate("auto", 6_000_000) > 5e-5
    assert training.learning_rate("auto", 1_500_000_000) < 5e-5
    assert training.learning_rate(3e-4, 6_000_000) == 3e-4


def test_weight_decay_spares_biases_and_layer_norms(tiny_base, rows, tmp_path):
    decayed = set(train(tiny_base, rows, tmp_path, epochs=1).trainer.get_decay_parameter_names(models.load(tiny_base)))
    everything = dict(models.load(tiny_base).named_parameters())
    # The output matrix is the input embedding under a second name.
    assert decayed - {"lm_head.weight"} == {name for name, parameter in everything.items() if parameter.ndim == 2}


def test_validation_runs_at_the_end_of_every_epoch_and_the_best_weights_are_kept(tiny_base, rows, tmp_path):
    results = iter([5.0, 3.0, 2.0, 2.0, 4.0])  # before training, then after each of four epochs

    def validate():
        return scoring.Total(documents=1, size=1000, tokens=10, nats=next(results) * 10, end_of_text_nats=0.0)

    done = train(tiny_base, rows, tmp_path, validate, epochs=4, save_total_limit=100)
    per_epoch = done.trainer.state.max_steps // 4
    assert [point["step"] for point in done.record.validation] == [
        0,
        per_epoch,
        2 * per_epoch,
        3 * per_epoch,
        4 * per_epoch,
    ]
    assert done.record.best_step == 2 * per_epoch  # the tie goes to the earlier step
    # The same run cut short after two of its four epochs' steps would be another one (its learning rate falls sooner):
    # so the weights are compared with those of the checkpoint of that very step.
    assert sorted(path.name for path in tmp_path.glob("best-*")) == [f"best-{2 * per_epoch}"]
    best = models.load(tmp_path / f"best-{2 * per_epoch}").state_dict()
    then = models.load(tmp_path / f"checkpoint-{2 * per_epoch}").state_dict()
    assert all(torch.equal(best[name], tensor) for name, tensor in then.items())
    assert any(not torch.equal(best[name], tensor) for name, tensor in done.model.state_dict().items())


def test_validation_loss_counts_what_training_loss_counts(tiny_base, rows, tmp_path):
    def validate():
        return scoring.Total(documents=10, size=1000, tokens=90, nats=250.0, end_of_text_nats=50.0)

    point = train(tiny_base, rows, tmp_path, validate, epochs=1).record.validation[0]
    assert point["loss"] == pytest.approx(300.0 / 100)
    assert point["bits_per_byte"] == pytest.approx(250.0 / math.log(2) / 1000)


def test_a_loss_that_is_not_finite_stops_the_run(tiny_base, rows, tmp_path, monkeypatch):
    true_nats, calls = scoring.next_token_nats, []

    def nats_that_break_down(*args, **inputs):
        calls.append(args)
        return true_nats(*args, **inputs) * (math.nan if len(calls) == 4 else 1)

    monkeypatch.setattr(scoring, "next_token_nats", nats_that_break_down)
    with pytest.raises(UserError, match="not finite at step 4"):
        train(tiny_base, rows, tmp_path, logging_steps=100, save_steps=4)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_only_the_newest_checkpoints_are_kept_and_all_of_them_count(tiny_base, rows, tmp_path):
    done = train(tiny_base, rows, tmp_path, epochs=5, save_steps=1)
    last = done.trainer.state.max_steps
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == sorted(
        f"checkpoint-{step}" for step in (last - 1, last)
    )
    run = checkpoints.Run("test")
    run.folder = tmp_path
    assert run.latest() == tmp_path / f"checkpoint-{last}"


@pytest.mark.parametrize("harm", ["truncated", "missing", "flipped", "unsealed"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tiny_base, rows, tmp_path, harm, capsys):
    train(tiny_base, rows, tmp_path / "made", save_steps=1)
    names = sorted(path.name for path in next((tmp_path / "made").glob("checkpoint-*")).iterdir())
    assert "optimizer.pt" in names
    assert "record.json" in names
    for name in ["manifest.json"] if harm == "unsealed" else [name for name in names if name != "manifest.json"]:
        run = checkpoints.Run("test")
        run.folder = tmp_path / f"{harm}-{name}"
        shutil.copytree(tmp_path / "made", run.folder)
        newest, before = run._newest_first()
        path = newest / name
        content = path.read_bytes()
        if harm == "truncated":
            path.write_bytes(content[:-1])
        elif harm == "flipped":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        else:
            path.unlink()
        assert run.latest() == before
        assert newest.name in capsys.readouterr().out


def test_a_finished_run_is_not_resumed(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    run = checkpoints.Run("f" * 64)
    with run.started():
        (run.folder / "checkpoint-1").mkdir()
        run.finish()
    with run.started():
        assert run.latest() is None


def test_an_unfinished_run_is_kept_for_later_and_a_finished_one_makes_room(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    unfinished, finished, new = (checkpoints.Run(letter * 64) for letter in "ufn")
    with unfinished.started():
        pass
    with finished.started():
        finished.finish()
    with new.started():
        assert unfinished.folder.exists()
        assert not finished.folder.exists()


def test_a_finished_run_that_is_trained_again_keeps_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    again, new = checkpoints.Run("a" * 64), checkpoints.Run("n" * 64)
    with again.started():
        again.finish()
    with again.started(), new.started():
        assert again.folder.exists()


def test_two_trainers_never_share_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with (
        checkpoints.Run("a" * 64).started(),
        pytest.raises(UserError, match=r"pid \d+"),
        checkpoints.Run("a" * 64).started(),
    ):
        pass


def test_dropout_is_only_there_when_asked_for(tiny_base):
    ids = torch.from_numpy(np.arange(20))[None]
    without, with_some = models.load(tiny_base).train(), models.load(tiny_base, 0.5).train()
    assert torch.equal(without(ids).logits, without(ids).logits)
    assert not torch.equal(with_some(ids).logits, with_some(ids).logits)
