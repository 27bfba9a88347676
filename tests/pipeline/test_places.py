"""The same bytes wherever the project stands, and results of two people that come together."""

import json
import shutil

import pytest
from conftest import ONE_THREAD, STAGES, Project, hashes, ran

pytestmark = pytest.mark.slow


def worktree(source, folder):
    source.ok("git", "worktree", "add", "-q", str(folder / "beside"), "-b", "beside")
    return folder / "beside"


def shallow_clone(source, folder):
    source.ok("git", "clone", "-q", "--depth", "1", source.folder.as_uri(), str(folder / "shallow"))
    return folder / "shallow"


def archive_without_git(source, folder):
    source.ok("git", "archive", "-o", str(folder / "project.zip"), "HEAD")
    shutil.unpack_archive(folder / "project.zip", folder / "unpacked")
    unpacked = Project(folder / "unpacked")
    assert "is not a git repository" in unpacked.fails("dvc", "repro")
    unpacked.ok("dvc", "config", "--local", "core.no_scm", "true")
    return unpacked.folder


def test_the_pipeline_makes_the_same_bytes_without_git(project, tmp_path):
    there = Project(archive_without_git(project, tmp_path), **ONE_THREAD)
    assert ran(there.ok("dvc", "repro")) == list(STAGES)
    assert hashes(there) == hashes(project)
    assert there.path("dvc.lock").read_bytes() == project.path("dvc.lock").read_bytes()


def test_a_worktree_and_a_shallow_clone_prove_their_reproduction(project, tmp_path):
    there = Project(worktree(Project(shallow_clone(project, tmp_path)), tmp_path), **ONE_THREAD)
    assert "Reproduced to the byte: " in there.ok("python", "-m", "tools.reproduce")
    assert there.ok("git", "status", "--porcelain") == ""


def test_a_merge_conflict_in_the_lock_is_settled_by_running(project):
    """As docs/reproduction.md tells: either side of the lock and the figures, then `dvc repro`."""
    project.ok("git", "checkout", "-q", "-b", "another")
    project.set(train__epochs="1")
    project.ok("dvc", "repro")
    project.commit("fewer epochs")
    project.ok("git", "checkout", "-q", "main")
    project.ok("dvc", "checkout")
    project.set(evaluate__seed="7")
    project.ok("dvc", "repro")
    project.commit("another seed")
    assert project.run("git", "merge", "another").returncode != 0
    conflicts = project.ok("git", "diff", "--name-only", "--diff-filter=U").splitlines()
    assert {"dvc.lock", "logs/evaluate.json"} <= set(conflicts)
    assert "params.yaml" not in conflicts
    project.ok("git", "checkout", "--ours", "dvc.lock", "logs")
    project.ok("dvc", "repro")
    project.commit("both")
    assert project.run("dvc", "status", "-q").returncode == 0
    settings = json.loads(project.ok("dvc", "params", "diff", "--json", "HEAD~1"))["params.yaml"]
    assert settings == {"train.epochs": {"old": 3, "new": 1, "diff": -2}}
    assert ran(project.ok("dvc", "repro")) == []
