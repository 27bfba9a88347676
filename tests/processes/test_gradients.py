"""The order in which the gradients of a step are added up: one tree, whoever computed which."""

import numpy as np
import pytest
import torch
from processes.several import run_on

from stages.lib.processes.gradients import GradientSum, passes_missing, share
from stages.lib.processes.group import ALONE, Group

SHAPES = [(3, 5), (7,), (2, 2, 2)]


def gradients(batch):
    """What a backward pass leaves: numbers of very different size, whose sum depends on the order."""
    generator = torch.Generator().manual_seed(batch)
    return [torch.randn(shape, generator=generator) * 10.0 ** ((batch * 5 + n) % 9) for n, shape in enumerate(SHAPES)]


def by_the_tree(batches, present):
    """The sum as the module describes it, by plain recursion; None where no batch of the part is there."""
    if len(batches) % 2 or len(batches) < 3:
        there = [gradients(batch) for batch in batches if batch < present]
        parts = there
    else:
        half = len(batches) // 2
        parts = [by_the_tree(batches[:half], present), by_the_tree(batches[half:], present)]
        parts = [part for part in parts if part is not None]
    if not parts:
        return None
    total = parts[0]
    for part in parts[1:]:
        total = [a + b for a, b in zip(total, part, strict=True)]
    return total


def added_up(group, batches, present, in_order=True):
    """What a process has in `grad` after a step of so many batches of which `present` are there."""
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    summed = GradientSum(parameters, batches, in_order)
    for batch in share(group, batches):
        if batch < present:
            for parameter, gradient in zip(parameters, gradients(batch), strict=True):
                parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad + gradient
            summed.took(batch)
    summed.finish(group)
    return [parameter.grad for parameter in parameters]


def same(some, others):
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


@pytest.mark.parametrize("batches", [1, 2, 3, 4, 6, 7, 8, 12, 16])
def test_one_process_adds_by_the_tree(batches):
    for present in range(1, batches + 1):
        assert same(added_up(ALONE, batches, present), by_the_tree(range(batches), present)), present


def test_another_order_gives_other_bytes():
    """Otherwise the tests here would prove nothing."""
    assert not same(added_up(ALONE, 8, 8, in_order=False), added_up(ALONE, 8, 8))


def test_a_second_step_begins_anew():
    parameter = torch.nn.Parameter(torch.zeros(2))
    summed = GradientSum([parameter], 4, in_order=True)
    for step in (1.0, 2.0):
        parameter.grad = None
        for batch in range(4):
            parameter.grad = torch.full((2,), step) + (0 if parameter.grad is None else parameter.grad)
            summed.took(batch)
        summed.finish(ALONE)
        assert parameter.grad.tolist() == [4 * step] * 2


def test_what_is_not_trained_has_no_gradient():
    frozen, trained = torch.nn.Parameter(torch.zeros(2), requires_grad=False), torch.nn.Parameter(torch.zeros(2))
    summed = GradientSum([frozen, trained], 1, in_order=True)
    trained.grad = torch.ones(2)
    summed.took(0)
    summed.finish(ALONE)
    assert frozen.grad is None
    assert trained.grad.tolist() == [1, 1]


def test_batches_are_shared_alike_or_not_at_all():
    assert [list(share(Group(rank, 2), 6)) for rank in range(2)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="5 batches cannot be shared alike by 2 processes"):
        share(Group(0, 2), 5)


@pytest.mark.parametrize(("batches", "missing"), [(6, [0, 0, 0]), (5, [0, 0, 1]), (3, [0, 1, 2]), (1, [0, 1, 1])])
def test_as_many_passes_are_missing_as_the_first_process_has_more_batches(batches, missing):
    assert [passes_missing(share(Group(rank, 3), 6), batches) for rank in range(3)] == missing


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_have_the_bytes_of_one(size, tmp_path):
    """Each of them, in steps that are full and in those that end an epoch, when some have nothing to add."""
    steps = [(4, 4), (8, 8), (12, 12), (8, 7), (8, 5), (8, 1), (4, 3)]
    for results in run_on(size, "processes.test_gradients:of_steps", steps, tmp_path):
        for (batches, present), found in zip(steps, results, strict=True):
            assert same(found, by_the_tree(range(batches), present)), (batches, present)


def test_three_processes_add_up_all_the_same(tmp_path):
    """In the library's order: the same on each of them, and right."""
    first, *others = run_on(3, "processes.test_gradients:of_steps", [(6, 6)], tmp_path)
    assert all(same(first[0], other[0]) for other in others)
    exact = [sum(gradients(batch)[n].double() for batch in range(6)) for n in range(len(SHAPES))]
    for found, truth in zip(first[0], exact, strict=True):
        np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-5 * truth.abs().max())


def of_steps(group, steps):
    return [added_up(group, batches, present) for batches, present in steps]
