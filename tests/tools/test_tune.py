"""The command that searches for settings: its mistakes, and a real search from end to end."""

import fcntl
import json
import re
import time

import pytest
from conftest import CODE, copy_project, hashes

from stages.lib.common import params
from tools.tune import workplace

# Mistakes


def test_a_project_without_a_commit_is_one_line(tmp_path):
    project = copy_project(tmp_path / "project")
    assert "a search needs a git repository with a commit" in project.fails(
        "python", "-m", "tools.tune", "--minutes", "1"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--minutes", "0"], "argument --minutes: 0 is no number of minutes"),
        (["--minutes", "half"], "argument --minutes: half is no number of minutes"),
        ([], "the following arguments are required: --minutes"),
        (["--minutes", "1", "--only", "train.seed"], "--only: train.seed is nothing that a search changes"),
    ],
)
def test_a_wrong_argument_is_one_line(inside, arguments, expected):
    assert expected in inside.fails("python", "-m", "tools.tune", *arguments).splitlines()[-1]


@pytest.mark.parametrize("name", ["params.yaml", "stages/train.py", "data/my_corpus.jsonl"])
def test_what_is_not_committed_is_refused(inside, name):
    with open(inside.path(name), "a", encoding="utf-8") as file:
        file.write("\n")
    said = inside.fails("python", "-m", "tools.tune", "--minutes", "1")
    assert f"error: {name} is not as in the last commit, which a search starts from" in said
    assert not inside.path(".dvc/tmp/tune/search.json").exists()


def test_a_corpus_that_dvc_has_otherwise_is_refused(inside):
    inside.ok("git", "rm", "-q", "--cached", "data/my_corpus.jsonl")
    inside.ok("dvc", "add", "-q", "data/my_corpus.jsonl")
    inside.commit("in DVC")
    with open(inside.path("data/my_corpus.jsonl"), "a", encoding="utf-8") as file:
        file.write('{"text": "Ещё один."}\n')
    assert "error: data/my_corpus.jsonl is not as in the last" in inside.fails(
        "python", "-m", "tools.tune", "--minutes", "1"
    )


def test_a_corpus_that_neither_git_nor_dvc_has_is_refused(inside):
    inside.ok("git", "rm", "-q", "--cached", "data/my_corpus.jsonl")
    inside.ok("git", "commit", "-q", "-m", "without texts")
    assert "data/my_corpus.jsonl is neither in DVC nor in git" in inside.fails(
        "python", "-m", "tools.tune", "--minutes", "1"
    )


def test_two_searches_at_once_are_refused(inside):
    inside.path(".dvc/tmp/tune").mkdir(parents=True)
    with open(inside.path(".dvc/tmp/tune/lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another search is under way here" in inside.fails("python", "-m", "tools.tune", "--minutes", "1")


def test_only_the_settings_of_a_trial_change_in_the_file(tmp_path):
    text = (CODE / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    workplace._set(tmp_path / "params.yaml", {"train.epochs": 0.333, "train.learning_rate": 1e-5})
    after = (tmp_path / "params.yaml").read_text(encoding="utf-8").splitlines()
    changed = [new.split("#")[0].strip() for old, new in zip(text.splitlines(), after, strict=True) if old != new]
    assert changed == ["epochs: 0.333", "learning_rate: 1e-05"]
    loaded = params.load(tmp_path / "params.yaml").train
    assert (loaded.epochs, loaded.learning_rate) == (0.333, 1e-5)


# A search with the real commands


def experiments(project):
    """Those of the last commit: name to what its figures are."""
    _, head = json.loads(project.ok("dvc", "exp", "show", "--json"))
    found = {one["name"]: one["revs"][0]["data"]["metrics"] for one in head["experiments"] or []}
    return {name: next(iter(metrics.values()))["data"] for name, metrics in found.items()}


def runs_of(project):
    (state,) = project.path(".dvc/tmp/tune").glob("*/search.json")
    return json.loads(state.read_text(encoding="utf-8"))["results"]


@pytest.mark.slow
def test_a_search_from_a_kill_to_the_settings_that_are_taken_over(project):
    """There are two other schedules, and with so few steps one that does not fall is much better."""
    command = ("python", "-m", "tools.tune", "--minutes", "60", "--only", "train.scheduler")
    before, head = hashes(project), project.ok("git", "rev-parse", "HEAD")
    process = project.start(*command)
    while not list(project.path(".dvc/tmp/tune").glob("*/tune-0-1of3.log")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.2)
    process.kill()  # the process alone: the trainer that it started ends by itself
    process.stdout.read()
    assert len(runs_of(project)) == 1

    output = project.ok(*command, timeout=3600)
    assert "tune: goes on after 1 run, " in output
    assert hashes(project) == before
    assert project.ok("git", "rev-parse", "HEAD") == head
    assert project.ok("git", "status", "--porcelain", "--branch").strip() == "## main"
    assert project.run("dvc", "status", "-q").returncode == 0
    assert not list(project.path(".dvc/tmp/tune").glob("*/copy"))

    found, runs = experiments(project), runs_of(project)
    shown = {name: figures for name, figures in found.items() if name != "tune-best"}
    assert {"tune-0-1of9", "tune-0-1of3", "tune-0", "tune-0-again1"} < shown.keys()
    assert all(list(one) == ["validation_bits_per_byte", "best_step", "tokens"] for one in shown.values())
    assert sorted(one["validation_bits_per_byte"] for one in shown.values()) == sorted(one["bits"] for one in runs)
    committed = json.loads(project.ok("git", "show", "HEAD:logs/train.json"))
    assert found["tune-0"]["validation_bits_per_byte"] == committed["validation_bits_per_byte"]
    whole = [one for one in runs if one["job"]["part"] == 1 and one["job"]["seed"] == 0]
    best = min(whole, key=lambda one: one["bits"])["job"]["changes"]
    assert f": train.scheduler={best['train.scheduler']}\n" in output

    old = project.json("logs/metrics.json")
    project.type_in(output.rstrip().rpartition("to take it over: ")[2])
    new = project.json("logs/metrics.json")
    assert f"bits per byte: {old['bits_per_byte']:.4f} as they are, {new['bits_per_byte']:.4f} with the best" in output
    assert f"difference {new['bits_per_byte'] - old['bits_per_byte']:+.4f}, 95 % interval" in output
    assert params.load(project.path("params.yaml")).train.scheduler == best["train.scheduler"]
    assert project.run("dvc", "status", "-q").returncode == 0
    changed = project.ok("git", "diff", "--", "params.yaml")
    assert len(re.findall(r"^\+ ", changed, re.MULTILINE)) == 1
