"""Points on their way to a tracker that may be slow, gone, or have lost some: each arrives once, and nobody waits."""

import subprocess
import sys
import threading
import time

import pytest
from conftest import HOME

from stages.lib.tracking import delivery
from stages.lib.tracking.delivery import Delivery
from stages.lib.tracking.journal import Journal
from stages.lib.tracking.trackers import Begun

PLACES = [(step, kind) for step in range(1, 6) for kind in (0, 1)]
OUT_OF_REACH = ConnectionError("nobody\nlistens there")


class Remembering:
    """A tracker in memory, whose calls raise `error` while there is one."""

    def __init__(self, error=None, arrived=None):
        self.points, self.known, self.ended = [], [], None
        self.error, self.arrived = error, arrived
        self.answers = threading.Event()
        self.answers.set()

    def begin(self, known, name, settings):
        self._answer()
        self.known.append(known)
        return Begun("its id", "https://example.org/run", self.arrived)

    def log(self, place, values):
        self._answer()
        self.points.append((place, values))

    def end(self, finished):
        self.ended = finished

    def _answer(self):
        self.answers.wait()
        if self.error:
            raise self.error


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "trackers/one.jsonl"


def opened(tracker, journal):
    return Delivery("one", tracker, journal, "a run", {})


def put(to, places):
    for place in places:
        to.put(place, {"train/loss": place[0] / 10})


def end(to, finished):
    to.end(finished)
    to.close()


def came(tracker):
    return [place for place, _ in tracker.points]


def until(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_points_arrive_in_their_order_with_their_values(journal, capsys):
    tracker = Remembering()
    to = opened(tracker, journal)
    put(to, PLACES)
    end(to, True)
    assert tracker.points == [(place, {"train/loss": place[0] / 10}) for place in PLACES]
    assert (tracker.known, tracker.ended) == ([None], True)
    assert capsys.readouterr().out == "  one: https://example.org/run\n"


@pytest.mark.parametrize("killed_after", [0, 3, len(PLACES)])
@pytest.mark.parametrize("back_to", [0, 2, 10])
def test_a_run_that_goes_on_sends_no_point_again(journal, killed_after, back_to):
    first, second = Remembering(), Remembering()
    to = opened(first, journal)
    put(to, PLACES[:killed_after])
    end(to, False)
    to = opened(second, journal)
    put(to, PLACES[min(back_to, killed_after) :])
    end(to, True)
    assert came(first) + came(second) == PLACES
    assert (first.ended, second.known, second.ended) == (False, ["its id"], True)


def test_what_a_tracker_has_lost_it_gets_again(journal):
    to = opened(Remembering(), journal)
    put(to, PLACES[:8])
    end(to, False)
    for arrived, expected in (((-1, 0), PLACES), ((2, 0), PLACES[3:])):
        tracker = Remembering(arrived=arrived)
        to = opened(tracker, journal)
        put(to, PLACES[4:])
        end(to, False)
        assert came(tracker) == expected


def test_one_out_of_reach_costs_a_line_and_gets_all_when_it_is_back(journal, capsys):
    tracker = Remembering(OUT_OF_REACH)
    to = opened(tracker, journal)
    put(to, PLACES[:5])
    until(lambda: "does not take" in capsys.readouterr().out)
    put(to, PLACES[5:8])
    tracker.error = None
    put(to, PLACES[8:])
    end(to, True)
    assert came(tracker) == PLACES
    assert "does not take" not in capsys.readouterr().out


def test_what_did_not_arrive_is_said_at_the_end_and_comes_with_the_next_start(journal, capsys):
    to = opened(Remembering(OUT_OF_REACH), journal)
    put(to, PLACES)
    end(to, False)
    out = capsys.readouterr().out
    assert out.count("one does not take the curves (nobody listens there): training goes on") <= 1
    assert out.endswith("train: one did not get 10 points, and gets them when the run goes on\n")
    tracker = Remembering()
    end(opened(tracker, journal), True)
    assert came(tracker) == PLACES


def test_nobody_waits_for_one_that_does_not_answer(journal, monkeypatch, capsys):
    monkeypatch.setattr(delivery, "PATIENCE", {True: 0.2, False: 0.1})
    tracker = Remembering()
    tracker.answers.clear()
    began = time.monotonic()
    to = opened(tracker, journal)
    put(to, PLACES)
    end(to, True)
    assert time.monotonic() - began < 5
    assert capsys.readouterr().out == (
        "train: one did not get 10 points; logs/train_loss.tsv and logs/validation.tsv have them\n"
    )
    tracker.answers.set()


@pytest.mark.parametrize("status", [0, 143])
@pytest.mark.parametrize("answers", [True, False])
def test_a_process_does_not_end_later_for_one_that_does_not_answer(journal, answers, status):
    script = f"""
import atexit, sys, time
from pathlib import Path
from stages.lib.tracking import delivery
from stages.lib.tracking.trackers import Begun

class Tracker:
    def begin(self, *given):
        time.sleep(0 if {answers} else 600)
        return Begun("", "")
    def end(self, finished):
        pass

atexit.register(print, "the library's own end")
delivery.PATIENCE[True] = 0.1 + 60 * {answers}
with delivery.leaving():
    to = delivery.Delivery("one", Tracker(), Path(sys.argv[1]), "", {{}})
    to.end(True)
    to.close()
    if {status}:
        sys.exit({status})
"""
    done = subprocess.run([sys.executable, "-c", script, journal], cwd=HOME, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    assert ("the library's own end" in done.stdout) == answers


def test_a_full_disk_is_no_end_of_the_run(journal, monkeypatch):
    def full(self, line):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "_write", full)
    to = opened(Remembering(), journal)
    put(to, PLACES)
    end(to, True)


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_journal_that_a_kill_cut_short_counts_up_to_its_last_whole_line(journal, cut):
    whole = Journal(journal)
    whole.began("its id")
    for place in PLACES[:3]:
        whole.add(place, {"train/loss": 0.1})
    content = journal.read_bytes()
    journal.write_bytes(content[: len(content) - cut])
    left = Journal(journal)
    assert left.points == whole.points[: content[: len(content) - cut].count(b"\n") - 1]
    left.add((9, 0), {"train/loss": 0.2})
    assert Journal(journal).points == [*left.points]
    assert Journal(journal).newest == (9, 0)
