"""Experiments as docs/experiments.md tells of them, with the real dvc."""

import json
import re
import shutil
import subprocess
import time

import pytest
from conftest import ONE_THREAD, Project, block_of_the_docs, environment, hashes, ran

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(reproduced, tmp_path_factory):
    """A project in which experiments were run in each of the ways there are, and which is back where it was."""
    folder = tmp_path_factory.mktemp("lab") / "project"
    shutil.copytree(reproduced.folder, folder, symlinks=True)
    project = Project(folder, **ONE_THREAD)
    project.before = hashes(project)
    project.ran = {"fewer": ran(project.ok("dvc", "exp", "run", "-n", "fewer", "-S", "train.epochs=1"))}
    project.figures = {"fewer": project.json("logs/metrics.json")}
    project.ok("git", "checkout", ".")
    project.ok("dvc", "checkout")
    project.ran["apart"] = ran(
        project.ok("dvc", "exp", "run", "--temp", "-n", "apart", "-S", "train.learning_rate=5e-5")
    )
    return project


def shown(project):
    """The experiments as `dvc exp show` has them: name to settings and figures."""
    (workspace, head) = json.loads(project.ok("dvc", "exp", "show", "--json"))
    return {one["name"]: one["revs"][0]["data"] for one in head["experiments"]} | {
        "HEAD": head["data"],
        "workspace": workspace["data"],
    }


def figure(data, name):
    return data["metrics"]["logs/metrics.json"]["data"][name]


def settings(data, section):
    return data["params"]["params.yaml"]["data"][section]


def test_only_the_stages_that_a_setting_touches_run(lab):
    assert lab.ran == {name: ["train", "evaluate", "report"] for name in ("fewer", "apart")}


def test_the_way_back_leads_to_the_last_commit(lab):
    """After an experiment in the workspace and one apart from it."""
    assert hashes(lab) == lab.before
    assert lab.ok("git", "status", "--porcelain") == ""
    assert lab.run("dvc", "status", "-q").returncode == 0
    assert lab.ok("dvc", "data", "status").strip() == "No changes."


def test_the_table_has_each_experiment_with_its_setting_and_figures(lab):
    table = shown(lab)
    assert settings(table["HEAD"], "train")["epochs"] == 3
    assert settings(table["fewer"], "train")["epochs"] == 1
    assert settings(table["apart"], "train")["learning_rate"] == 5e-5
    assert list(table["fewer"]["metrics"]) == ["logs/metrics.json"]
    shown_of_fewer = table["fewer"]["metrics"]["logs/metrics.json"]["data"]
    # DVC leaves out figures that are null.
    assert shown_of_fewer == {name: one for name, one in lab.figures["fewer"].items() if one is not None}
    tokens = {name: figure(data, "tokens") for name, data in table.items()}
    assert tokens["fewer"] * 3 == tokens["apart"] == tokens["HEAD"] == tokens["workspace"]


def test_a_terminal_of_160_columns_shows_names_figures_and_changed_settings(lab):
    header, *rows = lab.ok("dvc", "exp", "show", "--only-changed", "--no-pager", COLUMNS="160").splitlines()[1:]
    assert header.split()[:2] == ["Experiment", "Created"]
    figures = [name for name, one in lab.figures["fewer"].items() if one is not None and name != "base_bits_per_byte"]
    assert header.split()[2:] == [*figures, "train.epochs", "train.learning_rate", "…"]
    assert [name for row in rows for name in re.findall(r"\[(\w+)\]", row)] == ["apart", "fewer"]


def test_two_experiments_are_compared(lab):
    compared = json.loads(lab.ok("dvc", "exp", "diff", "fewer", "apart", "--json"))
    changed = compared["params"]["params.yaml"]
    assert changed["train.epochs"] == {"old": 1, "new": 3, "diff": 2}
    assert changed["train.learning_rate"] == {"old": 0.001, "new": 5e-5, "diff": 5e-5 - 0.001}
    table = shown(lab)
    old, new = (figure(table[name], "bits_per_byte") for name in ("fewer", "apart"))
    assert compared["metrics"]["logs/metrics.json"]["bits_per_byte"] == {
        "old": old,
        "new": new,
        "diff": new - old,
    }


def test_their_curves_stand_side_by_side(lab):
    drawn = json.loads(lab.ok("dvc", "plots", "diff", "--json", "HEAD", "fewer"))["data"]
    points = drawn["logs/validation.tsv"][0]["content"]["data"]["values"]
    assert {point["rev"] for point in points} == {"HEAD", "fewer"}
    assert len([point for point in points if point["rev"] == "HEAD"]) == 4  # before training, and after each epoch
    assert len([point for point in points if point["rev"] == "fewer"]) == 2
    assert {picture["revisions"][0] for picture in drawn["logs/curves.svg"]} == {"HEAD", "fewer"}


def test_an_experiment_is_taken_over(lab):
    lab.ok("dvc", "exp", "apply", "fewer")
    assert lab.json("logs/metrics.json") == lab.figures["fewer"]
    assert lab.run("dvc", "status", "-q").returncode == 0
    changed = json.loads(lab.ok("dvc", "params", "diff", "--json"))
    assert changed == {"params.yaml": {"train.epochs": {"old": 3, "new": 1, "diff": -2}}}
    metrics = json.loads(lab.ok("dvc", "metrics", "diff", "--json"))
    assert metrics["logs/metrics.json"]["tokens"]["old"] == 3 * metrics["logs/metrics.json"]["tokens"]["new"]
    lab.ok("git", "checkout", ".")
    lab.ok("dvc", "checkout")
    assert hashes(lab) == lab.before


def test_an_experiment_becomes_a_branch(lab):
    lab.ok("dvc", "exp", "branch", "apart", "slower")
    assert "learning_rate: 5e-05" in lab.ok("git", "show", "slower:params.yaml")
    lab.ok("git", "checkout", "-q", "slower")
    lab.ok("dvc", "checkout")
    assert lab.json("logs/train.json")["learning_rate"] == 5e-5
    assert lab.run("dvc", "status", "-q").returncode == 0
    lab.ok("git", "checkout", "-q", "main")
    lab.ok("dvc", "checkout")
    assert hashes(lab) == lab.before


def test_a_grid_waits_in_the_queue_and_runs_from_it(lab):
    lab.ok("dvc", "exp", "run", "--queue", "-S", "evaluate.seed=7,8", "-S", "report.title=Of the grid")
    assert lab.ok("dvc", "queue", "status").count("Queued") == 2
    # Not captured: the worker that it starts keeps these streams and goes on after it.
    subprocess.run(
        lab._words(("dvc", "queue", "start")),
        cwd=lab.folder,
        env=environment(**lab.env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    deadline = time.monotonic() + 300
    while (status := lab.ok("dvc", "queue", "status")).count("Success") < 2:
        assert "Failed" not in status
        assert time.monotonic() < deadline, status
        time.sleep(2)
    of_the_grid = [one for one in shown(lab).values() if settings(one, "report")["title"] == "Of the grid"]
    assert {settings(one, "evaluate")["seed"] for one in of_the_grid} == {7, 8}
    assert hashes(lab) == lab.before
    lab.ok("dvc", "queue", "remove", "--all")


def test_an_experiment_is_removed(lab):
    lab.ok("dvc", "exp", "remove", "fewer")
    assert "fewer" not in shown(lab)
    assert "apart" in shown(lab)


def test_a_grid_on_two_machines_comes_together_on_a_third(reproduced, tmp_path):
    """The block of docs/experiments.md: two clones run the first of their values, the first project has it all."""
    *lines, look = block_of_the_docs("dvc exp pull origin")
    shutil.copytree(reproduced.folder, tmp_path / "mine", symlinks=True)
    mine = Project(tmp_path / "mine", **ONE_THREAD)
    mine.ok("git", "init", "-q", "--bare", "-b", "main", str(tmp_path / "origin"))
    mine.ok("git", "remote", "add", "origin", str(tmp_path / "origin"))
    (tmp_path / "store").mkdir()
    mine.ok("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    mine.commit("where it is kept")
    mine.ok("git", "push", "-q", "origin", "main")
    mine.ok("dvc", "push")
    for number, line in enumerate(lines):
        mine.ok("git", "clone", "-q", str(tmp_path / "origin"), str(tmp_path / f"machine-{number}"))
        machine = Project(tmp_path / f"machine-{number}", **ONE_THREAD)
        machine.ok("dvc", "pull")
        said = machine.type_in(re.sub(r",[\d.e-]+", "", line))
        assert ran(said) == ["train", "evaluate", "report"]
        assert "Pushed experiment" in said

    mine.type_in(look)
    before, table = hashes(mine), shown(mine)
    found = {
        settings(one, "train")["learning_rate"]: name
        for name, one in table.items()
        if name not in ("HEAD", "workspace")
    }
    assert sorted(found) == [2e-5, 1e-4]
    assert len({figure(table[name], "bits_per_byte") for name in found.values()}) == 2
    applied = mine.ok("dvc", "exp", "apply", found[1e-4])
    assert ran(applied) == []
    assert mine.json("logs/metrics.json")["bits_per_byte"] == figure(table[found[1e-4]], "bits_per_byte")
    assert hashes(mine)["model/finetuned"] != before["model/finetuned"]
    assert mine.run("dvc", "status", "-q").returncode == 0
