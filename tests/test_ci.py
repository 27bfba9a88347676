"""What runs for a pull request and on the main branch: the scripts that the workflows call, and the workflows."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HOME, Project, hashes
from ruamel.yaml import YAML

from stages.lib import files
from tools import summary


def test_the_summary_shows_settings_figures_and_curves(project):
    project.set(train__epochs="1")
    figures = project.json("logs/evaluate.json")
    figures["tuned"]["bits_per_byte"] += 1
    files.write_json(project.path("logs/evaluate.json"), figures)
    output = project.ok("python", "-m", "tools.summary", "HEAD")
    assert re.search(r"\| params\.yaml \| train\.epochs +\| 3 +\| 1 +\|", output)
    assert re.search(r"\| logs/evaluate\.json \| tuned\.bits_per_byte \| [\d.]+ +\| [\d.]+ +\| 1\.0 +\|", output)
    drawn = {
        title: [float(value) for value in values.split(", ")]
        for title, values in re.findall(r'title "(.*?)".*?line \[(.*?)\]', output, re.DOTALL)
    }
    for title, path, column in summary.CURVES:
        rows = files.read_tsv(project.path(path))
        expected = [float(row[column]) for row in rows]
        assert drawn[title][0] == pytest.approx(expected[0], abs=1e-4)
        assert drawn[title][-1] == pytest.approx(expected[-1], abs=1e-4)
        assert len(drawn[title]) == min(len(rows), summary.POINTS)
        assert min(expected) - 1e-4 <= min(drawn[title]) <= max(drawn[title]) <= max(expected) + 1e-4


def test_the_points_of_a_chart_lie_on_the_curve(tmp_path):
    """A table whose steps are not evenly spaced, as with `train.eval_steps` and the ends of epochs."""
    steps = [0, 10, 20, 25, 30, 40, 50]
    files.write_tsv(tmp_path / "t.tsv", ["step", "loss"], [(step, 3 * step + 1) for step in steps])
    lines = list(summary.chart("A line", tmp_path / "t.tsv", "loss"))
    values = [float(value) for value in lines[-2].split("[")[1].rstrip("]").split(", ")]
    assert values == pytest.approx([3 * 50 * n / 6 + 1 for n in range(7)], abs=1e-4)
    assert '    x-axis "step" 0 --> 50' in lines


def test_where_nothing_changed_the_summary_says_so(project):
    assert project.ok("python", "-m", "tools.summary").count("No difference.") == 2


def test_a_commit_that_is_not_there_is_one_line(project):
    error = project.fails("python", "-m", "tools.summary", "no-such-branch")
    assert error.startswith("error: dvc params diff failed: ")
    assert "no-such-branch" in error
    assert error.count("\n") == 1


def test_outputs_go_to_the_remote_and_come_from_it(project, tmp_path):
    assert "No remote is configured" in project.ok(".ci/push")
    (tmp_path / "store").mkdir()
    project.ok("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    project.commit("a remote")
    assert "store has all outputs of this commit." in project.ok(".ci/push")
    project.ok("git", "clone", "-q", str(project.folder), str(tmp_path / "clone"))
    other = Project(tmp_path / "clone")
    other.ok("dvc", "pull", "-q")
    assert hashes(other) == hashes(project)


def test_outputs_that_are_nowhere_are_missed(project, tmp_path):
    (tmp_path / "store").mkdir()
    project.ok("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    shutil.rmtree(project.path(".dvc/cache"))
    assert "store does not have all outputs of this commit" in project.fails(".ci/push")


def commands(path):
    """What the steps of a workflow run, a command a line, without the variables before them."""
    described = YAML(typ="safe", pure=True).load(HOME / path)
    if path.startswith(".github"):
        scripts = [step["run"] for job in described["jobs"].values() for step in job["steps"] if "run" in step]
    else:
        scripts = described["check"]["script"]
    lines = [line.strip() for script in scripts for line in script.splitlines()]
    kept = [line for line in lines if not line.startswith(("if ", "else", "fi", "export "))]
    return [[word for word in shlex.split(line) if not word.startswith("PATH=")] for line in kept]


@pytest.mark.parametrize("path", [".github/workflows/ci.yml", ".gitlab-ci.yml"])
def test_the_steps_of_a_workflow_are_scripts_of_the_project(path):
    called = [" ".join(words[:3]) if words[0] == "python" else words[0] for words in commands(path)]
    assert called == [".ci/run", "python -m tools.summary", ".ci/push"]
    for script in (".ci/run", ".ci/push"):
        assert (HOME / script).stat().st_mode & 0o111


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("--builtin-schema", "vendor.github-workflows", ".github/workflows/ci.yml"),
        ("--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci", ".gitlab-ci.yml"),
    ],
)
def test_the_workflows_are_ones_that_github_and_gitlab_take(arguments):
    pytest.importorskip("check_jsonschema", reason="pip install -r tests/requirements.txt")
    subprocess.run([sys.executable, "-m", "check_jsonschema", *arguments], cwd=HOME, check=True)


# What a project that others look into should hold


SECRET = re.compile(r"secret|password|passphrase|token|credential|key|sas|connection_string", re.IGNORECASE)


def secrets(config):
    """The options of a DVC configuration that would give something away."""
    read = configparser.ConfigParser(interpolation=None)
    read.read_string(config)
    return [
        f"{section}.{option}"
        for section in read.sections()
        for option, value in read.items(section)
        if SECRET.search(option) or re.search(r"://[^/\s]*:[^/\s]*@", value)
    ]


def test_the_configuration_in_git_holds_no_secret_and_sends_nothing_home():
    config = (HOME / ".dvc/config").read_text(encoding="utf-8")
    assert secrets(config) == []
    read = configparser.ConfigParser()
    read.read_string(config)
    assert read["core"]["analytics"] == "false"


def test_a_secret_would_be_found():
    config = "[core]\n    remote = s\n['remote \"s\"']\n    url = https://me:pass@host/x\n    access_key_id = A\n"
    assert secrets(config + "    secret_access_key = B\n") == [
        "'remote \"s\"'.url",
        "'remote \"s\"'.access_key_id",
        "'remote \"s\"'.secret_access_key",
    ]


def test_where_secrets_go_git_does_not_look(project):
    project.ok("dvc", "remote", "add", "--local", "s", "s3://bucket/x")
    project.ok("dvc", "remote", "modify", "--local", "s", "secret_access_key", "hidden")
    assert "hidden" in project.path(".dvc/config.local").read_text()
    assert project.ok("git", "status", "--porcelain") == ""


def test_dvc_finds_nothing_to_complain_of(project):
    for command in ("dag", "stage list", "doctor", "data status", "status", "params diff", "metrics diff", "exp show"):
        result = project.run("dvc", *command.split())
        assert (result.returncode, result.stderr) == (0, ""), command
    listed = project.ok("dvc", "stage", "list").splitlines()
    assert [line.split()[0] for line in listed] == ["base", "validate", "tokenize", "train", "evaluate", "report"]
    assert not any("…" in line for line in listed)  # none too long for a terminal
    assert project.ok("dvc", "data", "status") == "No changes.\n"


def test_hooks_bring_the_outputs_of_a_branch(project):
    project.ok("dvc", "install")
    before = hashes(project)
    project.ok("git", "checkout", "-q", "-b", "another")
    project.set(report__title="Another title")
    project.ok("dvc", "repro")
    project.commit("another title")
    after = hashes(project)
    assert after != before
    project.ok("git", "checkout", "-q", "main")
    assert hashes(project) == before
    project.ok("git", "checkout", "-q", "another")
    assert hashes(project) == after


def test_the_pipeline_runs_from_a_subfolder(project):
    project.set(report__title="Another title")
    inside = Project(project.path("stages"), **project.env)
    dvc = str(Path(sys.executable).with_name("dvc"))  # as it is typed; python -m dvc would find stages/tokenize.py
    assert "Running stage '../dvc.yaml:report'" in inside.ok(dvc, "repro", "../dvc.yaml")
    assert "<title>Another title" in project.path("logs/report.html").read_text(encoding="utf-8")
