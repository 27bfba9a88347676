"""A search with training that is only pretended: its time, its interruptions, and what is said at the end."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tiny_training import SETTINGS

from stages.lib.common import params
from stages.lib.common.cli import Stopped, UserError
from stages.lib.processes.interruption import Interruption
from tools.tune import outcome, run, workplace
from tools.tune.search import PARTS, Job, Result, Search
from tools.tune.workplace import StageFailed

COMMITTED = params.Train(**{**SETTINGS, "scheduler": "cosine"})
START, STEPS = 10.0, 900.0


class Clock:
    """What time it is, where nothing takes any."""

    now = 0.0

    def monotonic(self):
        return self.now


class Pretended:
    """A workplace where training takes as long, and becomes as good, as a formula says."""

    def __init__(self, folder, clock, bits):
        self.folder, self._clock, self._bits = folder, clock, bits
        self.trained, self.kept, self.evaluated, self.now = [], [], [], {}
        self.committed, self.fails, self.dies_at = None, set(), None
        self.left = {}  # seconds that runs were stopped at

    def committed_figures(self):
        return self.committed

    def reset(self, changes):
        self.now = changes

    def train(self, name, log, stop):
        log.write_text("error: the loss is not finite\n")
        self.trained.append((name, self.now))
        steps = START + STEPS * self.now.get("train.epochs", COMMITTED.epochs) / COMMITTED.epochs
        for second in range(int(self.left.pop(name, 0)), int(steps)):
            self._clock.now += 1
            if stop():
                self.left[name] = second
                return None
            if len(self.trained) == self.dies_at and second == 5:
                raise KeyboardInterrupt
        if name in self.fails:
            raise StageFailed(workplace.last_line(log))
        return self.figures(self._bits(self.now))

    def figures(self, bits):
        known = {"learning_rate": 1e-3, "environment": {"device": "cpu"}, "best_step": 3, "tokens": 10}
        return known | {"validation_bits_per_byte": bits}

    def keep(self, name, figures, weights):
        self.kept.append((name, figures["validation_bits_per_byte"], weights))

    def finish(self, name, stop):
        self.evaluated.append((name, self.now))
        bits = 1.3 if name else 1.4
        rows = [{"line": str(line), "bytes": "100", "tokens": "30", "tuned": str(bits)} for line in range(20)]
        return {"bits_per_byte": bits}, rows


def steeper(changes):
    """Bits per byte: a higher learning rate is better, and another seed next to the same."""
    rate = changes.get("train.learning_rate", 1e-3)
    return 1.5 - 0.1 * rate / 1e-3 + 0.0001 * changes.get("train.seed", 0)


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(run, "time", made)
    return made


@pytest.fixture
def place(tmp_path, clock):
    return Pretended(tmp_path, clock, steeper)


def started(place, minutes, names=("train.learning_rate", "train.weight_decay")):
    """A search as the command makes it, and what may stop it."""
    stop = SimpleNamespace(reason=None, check=lambda done: None)

    def check(done):
        if stop.reason:
            raise Stopped(f"stopped {done}", 130)

    stop.check = check
    return run.Run(place, COMMITTED, list(names), minutes * 60, stop), stop


# Its time


def test_a_search_keeps_to_its_minutes_and_tells_of_each_run(place, clock, capsys):
    one, stop = started(place, 120)
    one.until_over()
    assert 90 * 60 < clock.now <= 120 * 60
    said = capsys.readouterr().out
    assert re.search(
        r"  tune-0-1of9: validation 1\.40\d\d after 1/9 of its length, 1:58:\d\d left: as they are\n", said
    )
    assert [name for name, _ in place.trained] == [name for name, _, _ in place.kept]
    assert all(weights == ("1of" not in name) for name, _, weights in place.kept)  # of short runs none
    outcome.conclude(one.search, place, stop)
    assert [name for name, _ in place.evaluated] == [None, "tune-best"]
    best = place.evaluated[1][1]
    assert best["train.learning_rate"] > 2e-3
    said = capsys.readouterr().out
    assert f"train.learning_rate={best['train.learning_rate']}" in said
    assert "bits per byte: 1.4000 as they are, 1.3000 with the best\n  difference -0.1000, 95 % interval" in said
    assert said.endswith("to take it over: dvc exp apply tune-best\n")


def test_a_short_run_is_planned_for_its_own_length(place):
    started(place, 120)[0].until_over()
    for name, settings in place.trained:
        part = int(found[1]) if (found := re.search(r"1of(\d)", name)) else 1
        assert settings.get("train.epochs", COMMITTED.epochs) == pytest.approx(COMMITTED.epochs / part, rel=1e-3)


def test_the_same_command_changes_nothing_and_more_minutes_go_on(place, clock):
    started(place, 90)[0].until_over()
    before, took = list(place.trained), clock.now
    started(place, 90)[0].until_over()
    assert place.trained == before
    started(place, 180)[0].until_over()
    assert place.trained[: len(before)] == before
    assert len({name for name, _ in place.trained}) == len(place.trained) > len(before)
    assert 90 * 60 < clock.now <= 180 * 60 > took


@pytest.mark.parametrize("at", [1, 3, 4, 9])
@pytest.mark.parametrize("how", ["asked", "killed"])
def test_an_interrupted_search_goes_on_with_the_run_that_was_under_way(place, clock, tmp_path, at, how):
    (tmp_path / "whole").mkdir()
    whole = Pretended(tmp_path / "whole", clock, steeper)
    started(whole, 120)[0].until_over()

    clock.now = 0.0
    one, stop = started(place, 120)
    if how == "killed":
        place.dies_at = at
        with pytest.raises(KeyboardInterrupt):
            one.until_over()
        place.dies_at = None
    else:
        train = place.train

        def train_until_asked(name, log, asked):
            if len(place.trained) == at - 1:
                stop.reason = "SIGINT"
            return train(name, log, asked)

        place.train = train_until_asked
        with pytest.raises(Stopped, match=rf"stopped after {at - 1} run"):
            one.until_over()
        place.train = train
    started(place, 120)[0].until_over()
    names = [name for name, _ in place.trained]
    assert names[at - 1] == names[at]
    del place.trained[at]
    assert place.trained == whole.trained


def test_a_run_that_the_end_of_the_time_cuts_short_goes_on_with_more(place, clock):
    with pytest.raises(UserError, match=r"^--minutes 1 is too little for one trial: the same command with more"):
        started(place, 1)[0].until_over()
    with pytest.raises(UserError, match=r"^--minutes 10 is too little for one trial, which takes \d\d:"):
        started(place, 10)[0].until_over()
    assert clock.now == pytest.approx(10 * 60, abs=3)
    started(place, 120)[0].until_over()
    assert clock.now <= 120 * 60
    assert [name for name, _ in place.trained][:5] == ["tune-0-1of9"] * 2 + ["tune-0-1of3"] + ["tune-0"] * 2


def test_too_few_minutes_are_told_with_those_that_are_enough(place):
    with pytest.raises(UserError) as told:
        started(place, 30)[0].until_over()
    minutes = int(re.search(r"^--minutes 30 is too little for one trial, which takes (\d+):", str(told.value))[1])
    place._bits = lambda changes: 1.4 - 0.1 * ("train.learning_rate" in changes or "train.weight_decay" in changes)
    one, _ = started(place, minutes)
    one.until_over()
    (_, best), *_ = one.search.best()
    assert best.job.number == 1
    assert len(one.search.of(1)) == len(one.search.of(0)) == 2


# What there is already


def test_the_committed_run_counts_as_the_first_one_where_it_is_up_to_date(place):
    place.committed = place.figures(1.43)
    one, _ = started(place, 120)
    one.until_over()
    assert "tune-0" not in [name for name, _ in place.trained]
    assert ("tune-0", 1.43, False) in place.kept
    assert one.search.of(0)[0].bits == 1.43


def test_a_committed_run_of_another_machine_is_run_again(place):
    place.committed = place.figures(1.43) | {"environment": {"device": "cuda"}}
    started(place, 120)[0].until_over()
    assert "tune-0" in [name for name, _ in place.trained]


def test_a_trial_that_fails_is_told_and_the_search_goes_on(place, capsys):
    place.fails = {"tune-1-1of9"}
    started(place, 120)[0].until_over()
    assert "  tune-1-1of9 failed: error: the loss is not finite\n" in capsys.readouterr().out
    assert "tune-1-1of3" not in [name for name, _ in place.trained]
    assert len(place.trained) > 10


def test_settings_that_cannot_be_trained_end_the_search(place):
    place.fails = {"tune-0-1of9"}
    with pytest.raises(UserError, match=r"^training fails with the settings as they are: error: the loss is not fin"):
        started(place, 120)[0].until_over()


def test_without_validation_documents_there_is_nothing_to_choose_by(place):
    place._bits = lambda changes: None
    with pytest.raises(UserError, match="no validation documents to choose by"):
        started(place, 120)[0].until_over()


# What is said at the end


def test_a_gain_that_may_be_chance_is_not_taken(tmp_path, clock, capsys):
    place = Pretended(tmp_path, clock, lambda changes: 1.5 - 0.001 * len(changes) + 0.01 * changes.get("train.seed", 0))
    one, stop = started(place, 120)
    one.until_over()
    outcome.conclude(one.search, place, stop)
    said = capsys.readouterr().out
    assert "tune: that may be chance: keep the settings as they are" in said
    assert place.evaluated == []  # nobody looked at test documents
    assert "dvc exp apply" not in said


def test_of_two_that_are_better_the_one_that_is_told_from_chance_is_taken(tmp_path, clock, capsys):
    """The other was found when there was no time left for a second run of it."""
    jobs = [Job(0, {}, 1.0, part) for part in PARTS]
    told, newest = (Job(number, {"train.weight_decay": 0.1 * number}, 1.0, 1) for number in (1, 2))
    jobs += [replace(jobs[-1], seed=1), told, replace(told, seed=1), newest]
    bits = [1.5, 1.5, 1.5, 1.501, 1.4, 1.401, 1.39]
    found = Search(None, [Result(job, 10.0, one) for job, one in zip(jobs, bits, strict=True)])
    outcome.conclude(found, Pretended(tmp_path, clock, None), Interruption())
    said = capsys.readouterr().out
    assert "the best: tune-1: train.weight_decay=0.1" in said
    assert "-0.1000 bits per byte against the settings as they are, standard error 0.0007" in said


def test_what_would_tell_is_said_in_minutes(tmp_path, clock, capsys):
    jobs = [*(Job(0, {}, 1.0, part) for part in PARTS), Job(1, {"train.weight_decay": 0.1}, 1.0, 1)]
    found = Search(None, [Result(job, 60.0, 1.5 - 0.1 * job.number) for job in jobs])
    outcome.conclude(found, Pretended(tmp_path, clock, None), Interruption())
    said = capsys.readouterr().out
    assert "with one seed, which shows no spread" in said
    assert "the same command with --minutes 8 goes on" in said


def test_where_nothing_is_better_the_settings_stay(tmp_path, clock, capsys):
    place = Pretended(tmp_path, clock, lambda changes: 1.5 + 0.1 * len(changes))
    one, stop = started(place, 120)
    one.until_over()
    outcome.conclude(one.search, place, stop)
    assert "no trial is better than the settings as they are: keep these" in capsys.readouterr().out
    assert place.evaluated == []
