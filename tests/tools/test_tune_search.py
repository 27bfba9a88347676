"""The search for settings without any training: what it tries, what goes on, and when it ends."""

import math
import random
from dataclasses import replace
from statistics import mean, stdev

import pytest
from tiny_training import SETTINGS

from stages.lib.common import params
from stages.lib.common.cli import UserError
from tools.tune import space, verdict
from tools.tune.search import PARTS, Job, Result, Search

COMMITTED = params.Train(**SETTINGS)
START, STEPS = 10.0, 900.0  # seconds of a run's start, and of the steps of the whole length


def seconds(job):
    return START + STEPS * job.length / job.part


def proposals(goodness):
    """What proposes trial after trial, each as good as `goodness` says by its number."""
    return lambda parents, number: ({"train.weight_decay": goodness(number)}, 1.0)


def bits(job):
    """Trials are the better the lower their weight decay, at each length by the same."""
    return 1 + 0.1 * job.part + job.changes.get("train.weight_decay", 0.5) + 0.001 * job.seed


def played(search, budget):
    """Run a search to its end; return the jobs, and the seconds that they took."""
    left, jobs = budget, []
    while job := search.next(left):
        jobs.append(job)
        left -= seconds(job)
        search.results.append(Result(job, seconds(job), bits(job)))
    return jobs, budget - left


def random_goodness(number):
    return random.Random(number).random()


# What is tried


@pytest.mark.parametrize("lora", [0, 8])
@pytest.mark.parametrize("max_steps", [None, 50])
def test_every_proposal_can_be_trained(lora, max_steps):
    settings = params.Train(**{**SETTINGS, "lora_rank": lora, "max_steps": max_steps, "learning_rate": "auto"})
    names, tried, seen = space.only(None, settings), [], set()
    for number in range(1, 200):
        changes = space.propose([{}, *tried[-2:]], tried, settings, 2e-4, names, number)
        assert changes not in tried
        seen |= changes.keys()
        one = settings.model_dump() | {name.removeprefix("train."): value for name, value in changes.items()}
        trained = params.Train(**one)
        assert trained.batch_size <= settings.batch_size  # memory is never exceeded for a trial
        assert 2e-4 / 8 <= (2e-4 if trained.learning_rate == "auto" else trained.learning_rate) <= 2e-4 * 8
        assert (trained.max_steps is None) == (max_steps is None)
        tried.append(changes)
    assert seen == set(names)
    assert ("train.lora_rank" in seen) == bool(lora)
    assert ("train.max_steps" in seen, "train.epochs" in seen) == (bool(max_steps), not max_steps)


def test_a_search_changes_only_what_it_is_told_to():
    names = space.only("train.epochs, train.learning_rate", COMMITTED)
    found = [space.propose([{}], [], COMMITTED, 1e-3, names, number) for number in range(1, 50)]
    assert {name for one in found for name in one} == {"train.epochs", "train.learning_rate"}


def test_the_same_results_lead_to_the_same_proposal():
    one, other = (space.propose([{}], [], COMMITTED, 1e-3, space.only(None, COMMITTED), 5) for _ in range(2))
    assert one == other != space.propose([{}], [], COMMITTED, 1e-3, space.only(None, COMMITTED), 6)


def test_where_all_was_tried_nothing_is_proposed():
    tried = [{"train.scheduler": "cosine"}, {"train.scheduler": "constant"}]
    assert space.propose([{}], tried, COMMITTED, 1e-3, ["train.scheduler"], 3) is None
    assert space.propose([{}], tried[1:], COMMITTED, 1e-3, ["train.scheduler"], 3) == tried[0]


def test_a_setting_that_is_not_searched_is_one_line():
    with pytest.raises(UserError, match=r"^--only: train\.seed is nothing that a search changes: train\.learning_rate"):
        space.only("train.epochs,train.seed", COMMITTED)


# What goes on


def test_the_committed_settings_come_first_at_every_length():
    jobs, _ = played(Search(proposals(random_goodness)), 10 * STEPS)
    assert jobs[:3] == [Job(0, {}, 1.0, part) for part in PARTS]


def test_the_best_third_goes_on_and_no_more():
    search = Search(proposals(random_goodness))
    jobs, _ = played(search, 12 * STEPS)
    for shorter, longer in ((9, 3), (3, 1)):
        for place, job in enumerate(jobs):
            if job.part == longer and job.number and not job.seed and place < len(jobs) - 6:
                before = [one for one in jobs[:place] if one.part == shorter]
                better = [one for one in before if bits(one) < bits(replace(job, part=shorter))]
                assert len(better) < len(before) // 3, f"{job.called} was not among the best third"
    counts = [len({job.number for job in jobs if job.part == part}) for part in PARTS]
    assert counts[0] > 2 * counts[1] > 3 * counts[2] > 6


@pytest.mark.parametrize("budget", [5.0, 6.0, 11.3, 30.0])
def test_a_search_ends_within_its_time_and_uses_it(budget):
    search = Search(proposals(random_goodness))
    jobs, took = played(search, budget * STEPS)
    assert budget * STEPS * 0.75 < took <= budget * STEPS
    best = min((one for one in search.results if one.job.whole), key=lambda one: one.bits)
    assert best.job.number
    assert len(search.of(best.job.number)) == len(search.of(0)) >= 2  # compared over seeds
    assert [job.seed for job in jobs[:3]] == [0, 0, 0]


def test_a_trial_that_is_the_best_is_told_from_chance_before_the_search_goes_on():
    search = Search(proposals(random_goodness))
    jobs, _ = played(search, 20 * STEPS)
    place = next(place for place, job in enumerate(jobs) if job.whole and job.number)
    assert search.results[place].bits < search.results[2].bits
    assert jobs[place + 1 : place + 3] == [replace(jobs[2], seed=1), replace(jobs[place], seed=1)]
    assert jobs[place + 3].part > 1  # and then others are tried


def test_where_runs_take_longer_or_shorter_than_before_the_best_is_told_from_chance_as_well():
    """On a busy machine: of twenty searches one may come to nothing."""
    told = 0
    for seed in range(20):
        draw, search, left = random.Random(seed), Search(proposals(random_goodness)), 8 * STEPS
        while job := search.next(left):
            took = seconds(job) * draw.choice([0.8, 1.0, 1.25])
            left -= took
            if left < 0:  # cut off
                break
            search.results.append(Result(job, took, bits(job)))
        told += any(len(search.of(one.job.number)) >= 2 for _, one in search.best())
    assert told >= 19


def test_trials_are_compared_over_the_seeds_that_both_have_had():
    results = [Result(Job(0, {}, 1.0, part), 10.0, 2.0) for part in PARTS]
    lucky, steady = (Job(number, {"train.weight_decay": 0.1 * number}, 1.0, 1) for number in (1, 2))
    results += [Result(lucky, 10.0, 1.5), Result(steady, 10.0, 1.6)]
    assert [one.job.number for _, one in Search(None, results).best()] == [1, 2]
    results += [Result(Job(0, {}, 1.0, 1, 1), 10.0, 2.0), Result(replace(lucky, seed=1), 10.0, 1.9)]
    assert [(pytest.approx(gain), one.job.number) for gain, one in Search(None, results).best()] == [(0.4, 2), (0.3, 1)]
    assert Search(None, results).minutes_to_tell(steady) == math.ceil((70 + 10) / 60) + 1
    results += [Result(replace(job, seed=seed), 10.0, 1.9) for job in (results[2].job, steady) for seed in (1, 2)]
    assert Search(None, results).minutes_to_tell(steady) is None


def test_the_best_of_many_is_found():
    search = Search(proposals(random_goodness))
    jobs, _ = played(search, 20 * STEPS)
    numbers = {job.number for job in jobs if job.number}
    assert next(one.job.number for _, one in search.best()) == min(numbers, key=random_goodness)


def test_settings_that_are_worse_are_not_run_again():
    """No trial is better than the committed settings: the time for the end is not spent on repeating them."""
    search = Search(proposals(lambda number: 0.5 + number))
    jobs, _ = played(search, 6 * STEPS)
    assert search.best() == []
    assert all(job.seed == 0 for job in jobs)


def test_an_interrupted_search_goes_on_as_the_one_that_was_not():
    whole = Search(proposals(random_goodness))
    jobs, _ = played(whole, 8 * STEPS)
    for cut in (1, 5, len(jobs) - 1):
        first = whole.results[:cut]
        again = Search(proposals(random_goodness), list(first))
        more, _ = played(again, 8 * STEPS - sum(one.seconds for one in first))
        assert [*jobs[:cut], *more] == jobs


def test_a_failed_trial_does_not_go_on():
    search = Search(proposals(random_goodness))
    for _ in range(40):
        job = search.next(1e9)
        search.results.append(Result(job, seconds(job), None if job.number % 2 else bits(job)))
    assert all(one.job.part == PARTS[0] for one in search.results if one.job.number % 2)
    assert any(one.job.whole and one.job.number for one in search.results)


def test_lengths_that_a_start_would_outweigh_are_left_out():
    def parts(steps):
        jobs = [Job(0, {}, 1.0, part) for part in PARTS]
        return Search(None, [Result(job, START + steps / job.part, 1.0) for job in jobs]).parts

    assert parts(9.1 * START) == [9, 3, 1]
    assert parts(8.9 * START) == [3, 1]
    assert parts(2.9 * START) == [1]
    assert parts(-1) == [1]  # measured on a busy machine


def test_what_a_run_takes_is_foretold_by_its_length_and_by_its_own_pace():
    results = [Result(Job(0, {}, 1.0, part), START + STEPS / part, 1.0) for part in PARTS]
    slow = Job(1, {"train.dropout": 0.1}, 2.0, 9)
    results.append(Result(slow, 2 * (START + STEPS * 2 / 9), 1.0))
    search = Search(None, results[:3])
    assert search.seconds(Job(1, {}, 2.0, 3)) == pytest.approx(START + STEPS * 2 / 3)
    search.results.append(results[3])
    expected = Search(None, results[:3]).seconds(Job(1, {}, 2.0, 3))
    assert search.seconds(replace(slow, part=3)) > 1.2 * expected


def test_a_run_that_was_taken_over_tells_nothing_of_the_pace():
    results = [Result(Job(0, {}, 1.0, part), START + STEPS / part, 1.0) for part in PARTS[:2]]
    results.append(Result(Job(0, {}, 1.0, 1), 0.0, 1.0))
    assert Search(None, results).seconds(Job(1, {}, 1.0, 1)) == pytest.approx(START + STEPS)


# Whether it is chance


def test_the_standard_error_is_that_of_a_common_spread():
    before, after = [1.30, 1.34, 1.32], [1.20, 1.24]
    found = verdict.gain(before, after)
    pooled = math.sqrt((2 * stdev(before) ** 2 + 1 * stdev(after) ** 2) / 3)
    assert found.gain == pytest.approx(mean(before) - mean(after))
    assert found.error == pytest.approx(pooled * math.sqrt(1 / 3 + 1 / 2))


@pytest.mark.parametrize(
    ("after", "sure"),
    [([1.20, 1.21], True), ([1.29, 1.30], False), ([1.0], False), ([1.4, 1.41], False)],
)
def test_a_difference_counts_from_three_standard_errors_on(after, sure):
    assert verdict.gain([1.30, 1.31], after).sure == sure


def test_the_difference_on_test_is_that_of_the_totals():
    sizes = [100, 300, 50]
    before, after = [1.5, 1.2, 2.0], [1.4, 1.15, 2.1]

    def table(values):
        rows = zip((3, 8, 9), sizes, values, strict=True)
        return [{"line": str(line), "bytes": str(size), "tokens": "7", "tuned": f"{bits}"} for line, size, bits in rows]

    difference, low, high = verdict.on_test(table(before), table(after))
    expected = sum(size * (b - a) for size, a, b in zip(sizes, before, after, strict=True)) / sum(sizes)
    assert difference == pytest.approx(expected)
    assert low < difference < high
    assert verdict.on_test([], []) is None
