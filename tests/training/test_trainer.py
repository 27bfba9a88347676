"""Training: the loss that is logged, the steps that are taken, and when a run ends."""

import itertools
import math

import numpy as np
import pytest
import torch
from tiny_training import of_rows, same_weights, train
from transformers import GPT2LMHeadModel, TrainerCallback

from stages.lib.common.cli import Stopped, UserError
from stages.lib.model import generation, loss, models, scoring
from stages.lib.processes.group import Group
from stages.lib.processes.interruption import Interruption
from stages.lib.rows import batches, tokens
from stages.lib.training.record import Record


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


class Gradients(TrainerCallback):
    """Keeps the gradient of every step."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        self.steps.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 1), (3, 1), (8, 1), (2, 3), (1, 5)])
def test_loss_and_gradient_are_the_plain_float64_ones_of_the_same_documents(
    tiny_base, rows, tmp_path, batch_size, accumulation
):
    gradients = Gradients()
    # A learning rate so small that the weights stay those of the reference, and no clipping.
    done = train(
        tiny_base,
        rows,
        tmp_path,
        callback=gradients,
        batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-12,
        weight_decay=0.0,
        max_grad_norm=0.0,
    )
    reference = GPT2LMHeadModel.from_pretrained(tiny_base, attn_implementation="eager").double().eval()
    per_epoch = math.ceil(len(rows) / batch_size)
    groups = []
    for start in range(0, len(done.batches), per_epoch):
        epoch = done.batches[start : start + per_epoch]
        groups += [epoch[at : at + accumulation] for at in range(0, len(epoch), accumulation)]
    assert len(groups) == len(done.record.curve) == len(gradients.steps) == done.plan.steps
    for point, group, gradient in zip(done.record.curve, groups, gradients.steps, strict=True):
        reference.zero_grad()
        expected = reference_loss(reference, group)
        expected.backward()
        assert point["loss"] == pytest.approx(expected.item(), rel=1e-6)
        truth = {name: parameter.grad for name, parameter in reference.named_parameters()}
        length = math.sqrt(sum(truth[name].square().sum().item() for name in truth))
        error = math.sqrt(sum((gradient[name].double() - truth[name]).square().sum().item() for name in truth))
        assert error < 1e-6 * length
        assert point["gradient_norm"] == pytest.approx(length, rel=1e-6)


def test_a_point_of_the_curve_is_a_total_over_the_steps_since_the_last(tiny_base, rows, tmp_path):
    # Some twenty points over 42 steps make points of two steps each, with batches of different numbers of tokens.
    done = train(tiny_base, rows, tmp_path, epochs=6, logging_steps=100, learning_rate=1e-12, weight_decay=0.0)
    assert done.plan.logging_steps > 1
    model = models.load(tiny_base)
    start, counts = 0, set()
    for point in done.record.curve:
        group = done.batches[start : point["step"]]
        start = point["step"]
        with torch.no_grad():
            nats = sum(scoring.next_token_nats(model, **of_rows(batch)).double().sum().item() for batch in group)
        labels = [int((batch["labels"] != scoring.IGNORE).sum()) for batch in group]
        counts.update(labels)
        assert point["loss"] == pytest.approx(nats / sum(labels), rel=1e-5)
    assert start == done.trainer.state.max_steps
    assert len(counts) > 1
    assert done.record.tokens == 6 * sum(
        int((batches.collate([rows[index]])["labels"] != scoring.IGNORE).sum()) for index in range(len(rows))
    )


def test_weight_decay_spares_biases_and_layer_norms(tiny_base, rows, tmp_path):
    decayed = set(train(tiny_base, rows, tmp_path, epochs=1).trainer.get_decay_parameter_names(models.load(tiny_base)))
    everything = dict(models.load(tiny_base).named_parameters())
    # The output matrix is the input embedding under a second name.
    assert decayed - {"lm_head.weight"} == {name for name, parameter in everything.items() if parameter.ndim == 2}


def plain_rate(scheduler, step, steps, warmup, peak):
    """The rate of a step, the first being step 1: up in `warmup` equal parts, and then down from the peak."""
    if step <= warmup:
        return peak * step / warmup
    gone = (step - 1 - warmup) / (steps - warmup)
    return peak * {"constant": 1.0, "linear": 1 - gone, "cosine": math.cos(math.pi / 2 * gone) ** 2}[scheduler]


class Rates(TrainerCallback):
    """Keeps the rate that the optimizer takes each step with."""

    def __init__(self):
        self.used = {}

    def on_pre_optimizer_step(self, args, state, control, optimizer, **_):
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        self.used[state.global_step + 1] = rate


@pytest.mark.parametrize("scheduler", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(
    ("share", "accumulation", "epochs", "steps", "warmup"),
    [(0.3, 2, 5, 20, 6), (0.0, 1, 2, 14, 0), (0.99, 3, 1, 3, 3)],
)
def test_every_step_has_the_rate_of_the_plain_formula_also_after_a_resume(
    tiny_base, rows, tmp_path, scheduler, share, accumulation, epochs, steps, warmup
):
    settings = {
        "scheduler": scheduler,
        "warmup_fraction": share,
        "gradient_accumulation_steps": accumulation,
        "epochs": epochs,
        "save_steps": 1,
    }
    expected = {step: plain_rate(scheduler, step, steps, warmup, 1e-3) for step in range(1, steps + 1)}
    rates = Rates()

    def dies(point):
        if point["step"] == 2 + warmup // 2:
            raise Killed

    with pytest.raises(Killed):
        train(tiny_base, rows, tmp_path, callback=rates, on_point=dies, **settings)
    assert train(tiny_base, rows, tmp_path, callback=rates, **settings).began_at == 1 + warmup // 2
    assert rates.used == pytest.approx(expected)
    record = Record.read(tmp_path / f"checkpoint-{steps}")
    # The rate that is told is the one the step was taken with.
    assert {point["step"]: point["learning_rate"] for point in record.curve} == pytest.approx(expected)


@pytest.mark.parametrize("scheduler", ["cosine", "linear", "constant"])
def test_a_run_of_one_step_trains(tiny_base, rows, tmp_path, scheduler):
    done = train(tiny_base, rows, tmp_path, epochs=1, batch_size=100, scheduler=scheduler)
    assert done.plan.steps == 1
    assert not same_weights(done.model, models.load(tiny_base))


def judge(*bits_per_byte):
    """A validation with these results, one after the other."""
    results = iter(bits_per_byte)

    def validate(model, check):
        nats = next(results) * math.log(2) * 1000
        return scoring.Total(documents=1, size=1000, tokens=10, nats=nats, end_of_text_nats=0.0)

    return validate


def steps_of(points):
    return [point["step"] for point in points]


def test_validation_runs_at_the_end_of_every_epoch_and_the_best_weights_are_kept(tiny_base, rows, tmp_path):
    # Before training, then after each of four epochs.
    done = train(tiny_base, rows, tmp_path / "whole", judge(5.0, 3.0, 2.0, 2.0, 4.0), epochs=4, save_total_limit=100)
    every = done.plan.steps_per_epoch
    assert steps_of(done.record.validation) == [0, every, 2 * every, 3 * every, 4 * every]
    assert done.record.best_step == 2 * every  # the tie goes to the earlier step
    # The same run cut short after two of its four epochs' steps would be another one (its learning rate falls sooner):
    # the weights of its checkpoint are the ones to compare with.
    best = models.load(done.run.best(2 * every))
    assert same_weights(best, models.load(done.run.folder / f"checkpoint-{2 * every}"))
    assert not same_weights(best, done.model)


def test_validation_runs_every_eval_steps_and_each_has_its_checkpoint(tiny_base, rows, tmp_path):
    done = train(
        tiny_base, rows, tmp_path, judge(*range(90, 10, -1)), eval_steps=2, save_steps=1000, save_total_limit=100
    )
    every = done.plan.steps_per_epoch
    assert every % 2 == 1  # so that the ends of epochs are steps of their own
    expected = sorted({0, *range(0, 2 * every + 1, 2), every, 2 * every})
    assert steps_of(done.record.validation) == expected
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {f"checkpoint-{step}" for step in expected[1:]}


def test_a_run_ends_when_validation_has_not_got_better_for_patience_times(tiny_base, rows, tmp_path):
    done = train(tiny_base, rows, tmp_path, judge(5.0, 3.0, 2.0, 2.5, 2.0, 1.0), epochs=9, patience=2, logging_steps=4)
    every = done.plan.steps_per_epoch
    assert done.trainer.state.global_step == 4 * every
    assert done.record.best_step == 2 * every
    # The curve goes to the end, and every token is counted.
    assert done.record.curve[-1]["step"] == 4 * every
    assert done.record.tokens == sum(int((batch["labels"] != scoring.IGNORE).sum()) for batch in done.batches)


def test_without_patience_a_run_goes_to_its_last_step(tiny_base, rows, tmp_path):
    done = train(tiny_base, rows, tmp_path, judge(*range(10)), epochs=9)
    assert done.trainer.state.global_step == done.plan.steps


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", range(7))
def test_a_run_that_died_in_a_validation_makes_up_for_it_and_ends_the_same(tiny_base, rows, tmp_path, at):
    results = (5.0, 3.0, 2.0, 2.5, 2.2, 2.1, 9.0)
    changes = {"epochs": 9, "patience": 3, "dropout": 0.2, "gradient_accumulation_steps": 2, "save_steps": 3}
    whole = train(tiny_base, rows, tmp_path / "whole", judge(*results), **changes)
    assert len(whole.record.validation) == 6
    calls = []

    def dies(model, check):
        calls.append(model)
        if len(calls) == at + 1:
            raise Killed
        return judge(*results[len(calls) - 1 :])(model, check)

    resumed = tmp_path / "resumed"
    try:
        train(tiny_base, rows, resumed, dies, **changes)
    except Killed:
        done = train(tiny_base, rows, resumed, judge(*results[at:]), **changes)
        assert same_weights(done.model, whole.model)
        assert done.record == whole.record
        assert same_weights(*(models.load(run.best(whole.record.best_step)) for run in (done.run, whole.run)))
    else:
        assert at == 6  # which never came, for want of patience


def test_with_keep_last_there_is_no_slot_for_the_best_weights(tiny_base, rows, tmp_path):
    train(tiny_base, rows, tmp_path, judge(3.0, 2.0, 1.0), keep="last")
    assert not list(tmp_path.glob("best-*"))


def test_validation_loss_counts_what_training_loss_counts(tiny_base, rows, tmp_path):
    def validate(model, check):
        return scoring.Total(documents=10, size=1000, tokens=90, nats=250.0, end_of_text_nats=50.0)

    point = train(tiny_base, rows, tmp_path, validate, epochs=1).record.validation[0]
    assert point["loss"] == pytest.approx(300.0 / 100)
    assert point["bits_per_byte"] == pytest.approx(250.0 / math.log(2) / 1000)


def test_training_on_short_documents_teaches_the_model_to_end_them(tiny_base, rows, tmp_path):
    tokenizer = tokens.Tokenizer(tiny_base)
    wanted = generation.Sampling(new_tokens=60)

    def ended(model):
        model.eval()
        return sum(generation.continue_text(model, tokenizer, "", wanted, seed).ended for seed in range(10))

    assert ended(models.load(tiny_base)) <= 2
    assert ended(train(tiny_base, rows, tmp_path, epochs=60, learning_rate=5e-3).model) >= 9


def test_samples_in_mid_training_leave_mode_and_random_states_as_they_were(tiny_base):
    model, tokenizer = models.load(tiny_base, 0.5).train(), tokens.Tokenizer(tiny_base)
    state = torch.get_rng_state()
    given = model, tokenizer, 3, generation.Sampling(20), lambda: None
    texts = generation.by_itself(*given)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert texts == generation.by_itself(*given)
    assert len({one.text for one in texts}) == 3
    assert generation.by_itself(model, tokenizer, 0, generation.Sampling(20), lambda: None) == []


def breaking_down(monkeypatch, at, change):
    """Have the `at`-th loss of a run changed."""
    true_loss, calls = loss.summed_nats, []

    def summed_nats(*args, **inputs):
        calls.append(args)
        summed, nats = true_loss(*args, **inputs)
        return change(summed, nats) if len(calls) == at else (summed, nats)

    monkeypatch.setattr(loss, "summed_nats", summed_nats)


def test_a_loss_that_is_not_finite_stops_the_run_before_it_spoils_the_weights(tiny_base, rows, tmp_path, monkeypatch):
    breaking_down(monkeypatch, 4, lambda summed, nats: (summed * math.nan, nats * math.nan))
    with pytest.raises(UserError) as error:
        train(tiny_base, rows, tmp_path, save_steps=2, scheduler="constant", warmup_fraction=0.0)
    assert "the loss is not finite at step 4 (learning rate 0.001): lower train.learning_rate" in str(error.value)
    assert str(error.value).endswith(f"the last good checkpoint is {tmp_path / 'checkpoint-2'}")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_gradient_that_is_not_finite_does_so_too(tiny_base, rows, tmp_path, monkeypatch):
    # The square root has no finite slope at 0.
    breaking_down(monkeypatch, 1, lambda summed, nats: (summed + torch.sqrt(summed * 0), nats))
    with pytest.raises(UserError, match=r"the gradient is not finite at step 1 .* checkpoint is the base model"):
        train(tiny_base, rows, tmp_path, save_steps=1)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_validation_that_is_not_finite_stops_the_run(tiny_base, rows, tmp_path):
    with pytest.raises(UserError, match="the validation loss is not finite at step 7"):
        train(tiny_base, rows, tmp_path, judge(1.0, math.nan))
    with pytest.raises(UserError, match="at step 0: the base model's weights are damaged, take another one"):
        train(tiny_base, rows, tmp_path / "bad", judge(math.nan))


def test_dropout_is_only_there_when_asked_for(tiny_base):
    ids = torch.from_numpy(np.arange(20))[None]
    without, with_some = models.load(tiny_base).train(), models.load(tiny_base, 0.5).train()
    assert torch.equal(without(ids).logits, without(ids).logits)
    assert not torch.equal(with_some(ids).logits, with_some(ids).logits)


@pytest.mark.parametrize("moment", ["after the question", "while the checkpoint is written"])
def test_a_process_that_follows_stops_only_where_all_do(tiny_base, rows, tmp_path, moment):
    """Told between the question whether any was and what it does next, it would stop, or write, without the others."""
    interruption = Interruption()

    class ToldInBetween(Group):
        """The second process; what the others say is as it says itself."""

        def any(self, fact):
            self.asked = getattr(self, "asked", 0) + 1
            if moment == "after the question" and self.asked == 3:
                interruption.reason = "SIGTERM"
            return fact

        def told(self, value):
            if moment == "while the checkpoint is written" and getattr(self, "asked", 0) == 5:
                interruption.reason = "SIGTERM"
            return value

    expected = {"after the question": 4, "while the checkpoint is written": 6}[moment]
    with pytest.raises(Stopped, match=f"stopped at step {expected} of"):
        train(tiny_base, rows, tmp_path, group=ToldInBetween(rank=1), interruption=interruption)
