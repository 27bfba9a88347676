"""The proof of reproduction: what it finds, what it lets pass, and what it says it proved."""

import copy
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from conftest import OUTPUTS, SETTINGS, STAGES, Project, hashes, ran
from ruamel.yaml import YAML

from stages.lib.common.cli import UserError
from tools import differences, reproduce

# What counts as a difference


@pytest.fixture
def run(reproduced):
    return differences.read_run(reproduced.folder)


def with_figure(run, path, key, value):
    """The run as it would be had it come to another figure; the names in `key` are joined by dots."""
    content = json.loads(run.files[path])
    *outer, last = key.split(".")
    inner = content
    for name in outer:
        inner = inner[name]
    inner[last] = value
    return with_file(run, path, json.dumps(content).encode())


def with_file(run, path, content):
    stages = copy.deepcopy(run.stages)
    for stage in stages.values():
        for entry in (*stage.get("deps", ()), *stage["outs"]):
            if entry["path"] == path:
                entry["md5"] = hashlib.md5(content).hexdigest()
    return differences.Run(stages, run.files | {path: content})


def with_stage(run, stage, **changes):
    stages = copy.deepcopy(run.stages)
    stages[stage] |= changes
    return replace(run, stages=stages)


def with_output(run, path, md5="0" * 32):
    stages = copy.deepcopy(run.stages)
    for stage in stages.values():
        for entry in (*stage.get("deps", ()), *stage["outs"]):
            if entry["path"] == path or entry["path"].startswith(f"{path}/"):
                entry["md5"] = md5
    return replace(run, stages=stages)


def elsewhere(run):
    """The run as another kind of machine would have made it, had it come to the same weights."""
    return with_figure(run, "logs/train.json", "environment.threads", 64)


def refused(committed, made):
    return [one.what for one in differences.compare(committed, made) if not one.allowed]


def test_a_run_does_not_differ_from_itself(run):
    assert differences.compare(run, copy.deepcopy(run)) == []
    assert set(run.outputs) == set(OUTPUTS) | {"logs/lengths.tsv", "logs/checked"}


@pytest.mark.parametrize("path", OUTPUTS)
def test_any_output_with_other_bytes_is_found(run, path):
    assert path in refused(with_output(run, path), run)


def test_a_lock_of_other_settings_is_found(run):
    params = copy.deepcopy(run.stages["train"]["params"])
    params["params.yaml"]["train"]["epochs"] = 9
    assert refused(with_stage(run, "train", params=params), run) == ["setting train.epochs"]


def test_a_setting_that_was_added_or_removed_is_found(run):
    params = copy.deepcopy(run.stages["train"]["params"])
    del params["params.yaml"]["train"]["epochs"]
    fewer = with_stage(run, "train", params=params)
    assert refused(fewer, run) == refused(run, fewer) == ["setting train.epochs"]


def test_a_lock_of_another_command_is_found(run):
    assert refused(with_stage(run, "train", cmd="true"), run) == ["command"]


def test_a_lock_of_another_source_is_found(run):
    deps = copy.deepcopy(run.stages["train"]["deps"])
    (source,) = [dep for dep in deps if dep["path"] == "stages/train.py"]
    source["md5"] = "0" * 32
    assert refused(with_stage(run, "train", deps=deps), run) == ["input stages/train.py"]


def test_a_lock_whose_stage_read_something_else_than_the_stage_before_wrote_is_found(run):
    deps = copy.deepcopy(run.stages["evaluate"]["deps"])
    (model,) = [dep for dep in deps if dep["path"] == "model/finetuned"]
    model["md5"] = "0" * 32
    assert refused(with_stage(run, "evaluate", deps=deps), run) == ["input model/finetuned"]


def test_a_stage_that_is_no_more_or_is_not_in_the_lock_is_found(run):
    fewer = replace(run, stages={name: stage for name, stage in run.stages.items() if name != "report"})
    assert refused(run, fewer) == refused(fewer, run) == ["stage"]


def test_a_figure_mended_by_hand_is_found(run):
    better = with_figure(run, "logs/evaluate.json", "tuned.bits_per_byte", 0.5)
    committed = replace(run, files=better.files)  # the lock as it was
    assert refused(committed, run) == ["logs/evaluate.json in git", "logs/evaluate.json: tuned.bits_per_byte"]
    assert refused(committed, elsewhere(run)) == [
        "logs/evaluate.json in git",
        "logs/evaluate.json: tuned.bits_per_byte",
    ]


def test_another_kind_of_machine_may_round_differently_but_not_in_the_data(run):
    other = elsewhere(run)
    threads = run.figures("logs/train.json").get("environment.threads", "not known")  # as on this processor
    assert differences.environments_differ(run, other) == [f"threads {threads} -> 64"]
    for path in OUTPUTS:
        of_data = path in ("model/base", "logs/tokenize.json") or path.startswith(("data/", "logs/validate"))
        assert refused(run, with_output(other, path)) == ([path] if of_data else [])


@pytest.mark.parametrize(
    ("path", "key", "factor", "passes"),
    [
        ("logs/evaluate.json", "tuned.bits_per_byte", 1.0049, True),
        ("logs/evaluate.json", "tuned.bits_per_byte", 1.0051, False),
        ("logs/evaluate.json", "tuned.bits_per_byte", 0.9949, False),
        ("logs/evaluate.json", "base.bits_per_byte", 1.000009, True),
        ("logs/evaluate.json", "base.bits_per_byte", 1.000011, False),
        ("logs/evaluate.json", "tuned.samples.distinct_1", 0.5, True),
        ("logs/train.json", "validation_bits_per_byte", 1.0049, True),
        ("logs/train.json", "validation_bits_per_byte", 1.0051, False),
        ("logs/train.json", "steps", 2, False),
        ("logs/train.json", "best_step", 2, True),
        ("logs/validate.json", "kept", 2, False),
    ],
)
def test_figures_of_another_kind_of_machine_agree_within_tolerances(run, path, key, factor, passes):
    value = run.figures(path)[key]
    made = with_figure(elsewhere(run), path, key, value * factor)
    assert (f"{path}: {key}" not in refused(run, made)) == passes
    here = with_figure(run, path, key, value * factor)
    assert f"{path}: {key}" in refused(run, here)  # on the same kind of machine nothing may differ


def test_with_patience_a_run_elsewhere_may_end_at_another_step(run):
    params = copy.deepcopy(run.stages["train"]["params"])
    params["params.yaml"]["train"]["patience"] = 2
    patient = with_stage(run, "train", params=params)
    made = with_figure(elsewhere(patient), "logs/train.json", "steps", 7)
    assert refused(patient, made) == []


def test_a_figure_that_is_none_equals_none_alone(run):
    without = with_figure(run, "logs/evaluate.json", "tuned.bits_per_byte", None)
    assert refused(without, elsewhere(without)) == []
    assert "logs/evaluate.json: tuned.bits_per_byte" in refused(without, elsewhere(run))


def test_figures_that_are_not_in_git_prove_nothing_elsewhere(run):
    files = {path: content for path, content in run.files.items() if path != "logs/evaluate.json"}
    committed = replace(run, files=files)
    assert refused(committed, run) == []
    assert "logs/evaluate.json: tuned.bits_per_byte" in refused(committed, elsewhere(run))


@pytest.mark.parametrize("content", ["", "stages: [\n", "stages: 5\n", "[]\n", "stages:\n  train:\n    outs: 3\n"])
def test_a_broken_lock_is_one_line(tmp_path, content):
    (tmp_path / "dvc.lock").write_text(content)
    with pytest.raises(differences.cli.UserError, match=r"^dvc\.lock cannot be read \([^\n]*$"):
        differences.read_run(tmp_path)


# The command


def test_what_is_committed_comes_out_again(project):
    """With the corpus under DVC, in no remote, so that it can come from this project's cache alone."""
    project.ok("git", "rm", "-q", "--cached", "data/my_corpus.jsonl")
    project.ok("dvc", "add", "-q", "data/my_corpus.jsonl")
    project.commit("the corpus is in DVC")
    before = hashes(project)
    for name in OUTPUTS:
        if not project.ok("git", "ls-files", name):
            path = project.path(name)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    cache = project.path(".dvc/cache/files/md5")
    corpus = YAML().load(project.path("data/my_corpus.jsonl.dvc"))["outs"][0]["md5"]
    for file in cache.rglob("*"):
        if file.is_file() and file.parent.name + file.name != corpus:
            file.unlink()
    with project.path("README.md").open("a") as readme:
        readme.write("not committed\n")
    output = project.ok("python", "-m", "tools.reproduce", "--keep-outputs")
    assert "Not committed, and so not part of this: README.md\n" in output
    assert ran(output) == list(STAGES)
    assert "Reproduced to the byte: all 18 outputs are the committed ones." in output
    project.ok("dvc", "checkout")
    assert hashes(project) == before


@pytest.mark.slow
def test_a_lock_that_was_accepted_without_a_run_is_not_reproduced(project, tmp_path):
    lock = project.path("dvc.lock").read_text(encoding="utf-8")
    old = (
        "  an_old_stage:\n    cmd: python -m stages.old\n    outs:\n    - path: old.json\n      md5: " + "a" * 32 + "\n"
    )
    project.path("dvc.lock").write_text(lock + old, encoding="utf-8")
    project.set(train__epochs="1")
    project.ok("dvc", "commit", "-f", "-q")
    project.commit("accepted")
    assert project.run("dvc", "status", "-q").returncode == 0
    result = project.run("python", "-m", "tools.reproduce", str(tmp_path / "made"))
    assert result.returncode == 1
    table = [line.split() for line in result.stdout.splitlines() if line.endswith("DIFFERS")]
    assert {(row[0], row[1]) for row in table} >= {
        ("train", "model/finetuned"),
        ("train", "logs/train.json:"),
        ("an_old_stage", "stage"),
    }
    assert {row[0] for row in table} == {"train", "evaluate", "report", "an_old_stage"}
    assert "error: not reproduced: " in result.stderr
    assert Project(tmp_path / "made").json("logs/train.json")["steps"] < project.json("logs/train.json")["steps"]


@pytest.mark.slow
def test_without_git_and_on_another_kind_of_machine_the_figures_agree(project):
    """As from a zip archive; and with kernels for a processor of another kind."""
    shutil.rmtree(project.path(".git"))
    project.ok("dvc", "config", "--local", "core.no_scm", "true")
    output = project.ok("python", "-m", "tools.reproduce", "--keep-outputs", ATEN_CPU_CAPABILITY="default")
    assert ran(output) == list(STAGES)
    assert re.search("^This is another kind of machine: .*cpu_capability ", output, re.MULTILINE)
    assert "Reproduced within tolerances: " in output
    assert "in the cache of this project now" not in output
    assert "may differ" in output
    assert "DIFFERS" not in output


@pytest.mark.parametrize(
    ("revision", "told"), [("null", "base.revision is null, the newest"), ("main", "base.revision is main")]
)
def test_a_model_that_may_be_another_tomorrow_is_refused(project, revision, told):
    project.set(base__hub="somebody/some-gpt2", base__revision=revision)
    project.commit("a model of the Hub")
    error = project.fails("python", "-m", "tools.reproduce")
    assert told in error
    assert "set it to the commit of somebody/some-gpt2" in error


def test_a_corpus_that_is_nowhere_is_one_line(project):
    project.ok("git", "rm", "-q", "--cached", "data/my_corpus.jsonl")
    project.ok("dvc", "add", "-q", "data/my_corpus.jsonl")
    project.commit("the corpus is in DVC")
    shutil.rmtree(project.path(".dvc/cache"))
    error = project.fails("python", "-m", "tools.reproduce")
    assert "what data/my_corpus.jsonl.dvc stands for is neither in the cache nor in the remote" in error


def test_a_pipeline_that_fails_is_not_reproduced(project):
    with project.path("data/my_corpus.jsonl").open("a") as corpus:
        corpus.write("no JSON\n")
    project.commit("a bad line")
    error = project.fails("python", "-m", "tools.reproduce")
    assert "line 61: not JSON" in error
    assert "error: not reproduced: the pipeline failed in the copy, see above" in error
    assert "come back with" not in error  # nobody wants them there


@pytest.mark.parametrize(("ends_with", "left"), [(KeyboardInterrupt, False), (UserError, True)])
def test_a_folder_that_was_given_is_empty_after_ctrl_c_and_kept_after_a_failure(tmp_path, ends_with, left):
    given = tmp_path / "given"

    def work():
        with reproduce._emptied_if_interrupted(given) as folder:
            folder.mkdir()
            (folder / "dvc.yaml").touch()
            raise ends_with

    with pytest.raises(ends_with):
        work()
    assert given.exists() == left


def test_a_folder_with_something_in_it_is_left_alone(project, tmp_path):
    assert "is not empty" in project.fails("python", "-m", "tools.reproduce", "data")


def test_before_the_first_commit_there_is_nothing_to_reproduce(project):
    shutil.rmtree(project.path(".git"))
    project.ok("git", "init", "-q")
    assert "nothing is committed yet" in project.fails("python", "-m", "tools.reproduce")


def test_without_a_lock_there_is_nothing_to_compare_with(project):
    project.path("dvc.lock").unlink()
    project.commit("no lock")
    assert "there is no dvc.lock: run dvc repro, then commit it" in project.fails("python", "-m", "tools.reproduce")


# What git and DVC refuse


@pytest.fixture
def home(tmp_path):
    """A repository with a first commit that holds nothing of the project."""
    made = Project(tmp_path / "home")
    made.folder.mkdir()
    made.ok("git", "init", "-q")
    made.commit()
    return made.folder


def test_a_commit_without_the_project_cannot_be_taken(home, tmp_path):
    with pytest.raises(UserError, match="home does not hold this project: commit it first"):
        reproduce.take(home, tmp_path / "copy")


def test_what_git_sets_for_a_hook_does_not_lead_into_the_users_repository(home, tmp_path, monkeypatch):
    """As a hook before a push from a linked worktree has it."""
    branch = (home / ".git/HEAD").read_text()
    monkeypatch.setenv("GIT_DIR", str(home / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(home / ".git/index"))
    with pytest.raises(UserError, match="home does not hold this project: commit it first"):
        reproduce.take(home, tmp_path / "copy")
    assert (home / ".git/HEAD").read_text() == branch
    assert not (home / ".git/shallow").exists()
    assert (tmp_path / "copy/.git/HEAD").exists()


def test_a_repository_that_git_cannot_read_is_named_with_what_git_says(home, tmp_path):
    (home / ".git/config").write_text("[core\n")
    with pytest.raises(UserError, match="git does not read this repository: fatal: bad config line 1"):
        reproduce.take(home, tmp_path / "copy")


def test_a_command_that_fails_is_named_with_its_last_line(home):
    with pytest.raises(UserError, match=r"^git checkout nowhere failed: error: pathspec 'nowhere'"):
        reproduce._must(home, "git", "checkout", "nowhere")


def test_without_git_the_copy_is_not_put_into_the_project_itself(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(UserError, match="copy is inside the project: name a folder outside it"):
        reproduce._copy_without_outputs(tmp_path, tmp_path / "copy")


@pytest.fixture
def failing_dvc(monkeypatch):
    monkeypatch.setattr(
        reproduce,
        "dvc",
        lambda *words, **how: subprocess.CompletedProcess(words, "repro" not in words, "", "ERROR: no\n"),
    )


def test_a_setting_that_dvc_does_not_take_is_one_line(failing_dvc, tmp_path):
    with pytest.raises(UserError, match=r"^DVC does not take cache.dir = .dvc/cache: no$"):
        reproduce._write_config(tmp_path, "cache", with_git=True)


def test_outputs_that_cannot_be_kept_are_one_line(failing_dvc, monkeypatch, tmp_path):
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    shutil.copy(SETTINGS, tmp_path)
    monkeypatch.setattr(reproduce, "take", lambda home, folder: tmp_path)
    monkeypatch.setattr(differences, "read_run", lambda folder: differences.Run({}, {}))
    monkeypatch.setattr("sys.argv", ["reproduce", "--keep-outputs"])
    with pytest.raises(UserError, match="the outputs could not be put into the cache, see above"):
        reproduce.main()


def test_figures_that_are_no_json_are_one_line():
    with pytest.raises(UserError, match=r"^logs/train.json is no JSON \(.*\): bring it back with git checkout logs"):
        differences.Run({}, {"logs/train.json": b"no figures"}).figures("logs/train.json")


def test_a_tracked_file_that_the_cache_has_no_more_is_named(monkeypatch, tmp_path):
    """The cache has what the file beside it stands for here, and not what it stood for in the commit."""
    (tmp_path / "corpus.dvc").touch()
    monkeypatch.setattr(
        reproduce, "dvc", lambda folder, *words, **how: subprocess.CompletedProcess(words, "pull" in words, "", "")
    )
    with pytest.raises(
        UserError, match=r"^what corpus.dvc stands for .*: the committed .dvc file is not the one here$"
    ):
        reproduce._bring_tracked_data(tmp_path, tmp_path)
