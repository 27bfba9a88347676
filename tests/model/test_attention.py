"""Documents side by side in a row, each of which sees itself alone: against a plain loop over documents in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config

from stages.lib.model import attention, models
from stages.lib.rows import batches

SHAPE = {"n_layer": 2, "n_embd": 48, "n_head": 3, "vocab_size": 101, "n_positions": 64, "initializer_range": 0.3}


def rows_of(several):
    """A batch of rows, each of documents of these lengths, padded to the longest as batches are."""
    drawn = np.random.default_rng(0)
    return batches.collate(
        [{"input_ids": drawn.integers(0, 101, sum(lengths)), "lengths": np.array(lengths)} for lengths in several]
    )


def spans(position_ids):
    """Where each document begins and ends, in each row: from the definition, token by token."""
    for row, positions in enumerate(position_ids.tolist()):
        starts = [place for place, position in enumerate(positions) if position == 0]
        yield from ((row, start, end) for start, end in zip(starts, [*starts[1:], len(positions)], strict=True))


def plain(query, key, value, position_ids, scaling):
    """Softmax attention as the formula has it, document by document, [rows, length, heads, width]."""
    outcome = torch.empty_like(query)
    for row, start, end in spans(position_ids):
        q, k, v = (states[row, :, start:end] for states in (query, key, value))
        scores = q @ k.transpose(1, 2) * scaling
        later = torch.ones(end - start, end - start).triu(1).bool()
        outcome[row, :, start:end] = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
    return outcome.transpose(1, 2)


ROWS = st.lists(st.lists(st.integers(1, 70), min_size=1, max_size=6), min_size=1, max_size=3)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 5e-6), (torch.bfloat16, 1e-2)])
@settings(max_examples=25, deadline=None)
@given(several=ROWS, width=st.sampled_from([5, 16, 64]), at_once=st.sampled_from([1, 5000, 2**20]))
def test_attention_and_its_gradients_are_those_of_each_document_alone(dtype, most, several, width, at_once):
    positions = rows_of(several)["position_ids"]
    drawn = torch.Generator().manual_seed(1)
    shape = (len(positions), 2, positions.shape[1], width)
    query, key, value = (torch.randn(shape, generator=drawn).to(dtype).requires_grad_() for _ in range(3))
    outer = torch.randn(shape, generator=drawn).transpose(1, 2).to(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_SCORES", at_once)
        ours, weights = attention._attend(
            None, query, key, value, None, 0.3, documents=attention.documents_in(positions)
        )
        gradients = torch.autograd.grad(ours, (query, key, value), outer)
    assert weights is None
    assert ours.dtype == dtype
    exact = [states.detach().double().requires_grad_() for states in (query, key, value)]
    truth = plain(*exact, positions, 0.3)
    truths = torch.autograd.grad(truth, exact, outer.double())
    for one, other in zip((ours, *gradients), (truth, *truths), strict=True):
        assert one.shape == other.shape
        assert (one.double() - other).norm() <= most * other.norm() + 1e-6


@settings(max_examples=30, deadline=None)
@given(several=ROWS)
def test_documents_are_found_where_positions_start_again(several):
    batch = rows_of(several)
    found = attention.documents_in(batch["position_ids"])
    assert found.diff().tolist() == [end - start for _, start, end in spans(batch["position_ids"])]
    assert found[0] == 0
    assert found.dtype == torch.int32
    assert torch.equal(found, batch["documents"])


@pytest.mark.parametrize(
    ("positions", "shapes"),
    [([[0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 0, 0]], [(3, 3), (3, 1)]), ([[*range(8)]] * 2, [(2, 8)])],
)
def test_documents_of_one_length_side_by_side_are_computed_at_once(monkeypatch, positions, shapes):
    seen = []

    def attend(query, key, value, **more):
        seen.append((len(query), query.shape[2]))
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, **more)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", attend)
    positions = torch.tensor(positions)
    states = torch.randn(len(positions), 2, positions.shape[1], 4)
    attention._attend(None, states, states, states, None, 0.5, documents=attention.documents_in(positions))
    assert seen == shapes


@pytest.fixture
def model():
    torch.manual_seed(0)
    return models.create(GPT2Config(**SHAPE), attention=attention.DOCUMENTS)


def run(model, batch, **more):
    inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
    return model(**inputs, **{"use_cache": False} | more).logits


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("use_cache", [False, True])
def test_packed_documents_get_the_logits_and_gradients_they_have_alone(model, checkpointing, use_cache):
    batch = rows_of([[7, 20, 3, 15], [4, 6], [40]])
    alone = models.create(GPT2Config(**SHAPE)).double()
    alone.load_state_dict(model.state_dict())
    if checkpointing:
        model.train().gradient_checkpointing_enable()
    logits = run(model, batch, use_cache=use_cache)
    weights = torch.randn_like(logits)
    (logits * weights).sum().backward()
    for row, start, end in spans(batch["position_ids"]):
        truth = alone(batch["input_ids"][row : row + 1, start:end]).logits[0]
        assert torch.allclose(logits[row, start:end].double(), truth, atol=1e-4)
        (truth * weights[row, start:end]).sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() < 1e-5 * theirs.grad.norm(), name


def test_nothing_is_masked_and_only_what_a_document_sees_is_computed(model, monkeypatch):
    sizes = []

    def attend(query, key, value, attn_mask=None, **more):
        assert attn_mask is None
        sizes.append(tuple(query.shape[::2]))
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, **more)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", attend)
    run(model, rows_of([[5, 5, 6], [16]]))
    assert sizes == [(2, 5), (1, 6), (1, 16)] * SHAPE["n_layer"]


def test_a_mask_that_is_given_counts_as_it_does_with_sdpa(model):
    other = models.create(GPT2Config(**SHAPE))
    other.load_state_dict(model.state_dict())
    batch = rows_of([[7, 5]])
    mask = torch.ones_like(batch["input_ids"])
    for left_out in (0, 3):
        mask[:, :left_out] = 0
        given = {"attention_mask": mask}
        assert torch.equal(run(model, batch, **given)[:, 3:], run(other, batch, **given)[:, 3:])


def test_generation_with_a_cache_writes_what_sdpa_does(model):
    other = models.create(GPT2Config(**SHAPE))
    other.load_state_dict(model.state_dict())
    prompt = torch.arange(20).view(2, 10)
    one, two = (
        each.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
        for each in (model, other)
    )
    assert torch.equal(one, two)


def test_a_cached_beginning_is_seen(model):
    ids = torch.arange(24)[None]
    with torch.no_grad():
        whole = model(ids).logits
        first = model(ids[:, :10], use_cache=True)
        rest = model(ids[:, 10:], past_key_values=first.past_key_values, position_ids=torch.arange(10, 24)[None]).logits
    assert torch.allclose(rest, whole[:, 10:], atol=1e-4)
