"""DVC's own cache: what is damaged in it, and what DVC does with that."""

import os
from pathlib import Path

import pytest
from conftest import CODE, Project, stored_as

PIPELINE = """
stages:
  copy:
    cmd: cp text copied
    deps: [text]
    outs: [copied]
"""
# Each its own, so that it is one file of the cache.
CONTENT = {"text": b"a text\n", "folder/one": b"one\n", "folder/two": b"two\n"}


@pytest.fixture
def repository(tmp_path):
    """A small repository with a file and a folder in DVC, and a copy that a stage makes of the file."""
    made = Project(tmp_path / "repository", PYTHONPATH=str(CODE))
    for name, content in CONTENT.items():
        made.path(name).parent.mkdir(parents=True, exist_ok=True)
        made.path(name).write_bytes(content)
    made.path("dvc.yaml").write_text(PIPELINE)
    made.ok("git", "init", "-q")
    made.ok("dvc", "init", "-q")
    made.ok("dvc", "add", "-q", "text", "folder")
    made.ok("dvc", "repro", "-q")
    return made


def damage(path: Path) -> None:
    """Change a byte as a failing disk would, behind the back of modes."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(b"A" + path.read_bytes()[1:])
    path.chmod(mode)


def in_cache(project, name):
    return project.path(".dvc/cache") / stored_as(CONTENT[name])


def state(project):
    """The files of the cache, and when they were last written, or given another mode."""
    return {path: path.stat().st_ctime_ns for path in project.path(".dvc/cache").rglob("*") if path.is_file()}


def mend(project):
    return project.ok("python", "-m", "tools.cache", "mend").splitlines()


def test_dvc_hands_out_what_is_damaged_and_calls_it_up_to_date(repository):
    """The trap itself: where DVC mends it, this tool and the words of docs/sharing.md on it may go."""
    damage(in_cache(repository, "text"))
    repository.path("copied").unlink()
    repository.ok("dvc", "checkout", "copied")
    assert repository.path("copied").read_bytes() == b"A text\n"
    assert "up to date" in repository.ok("dvc", "status")


def test_a_whole_cache_is_left_as_it_is(repository):
    before = state(repository)
    assert mend(repository) == ["4 files read: 0 damaged, 0 of them put right from the workspace"]
    assert state(repository) == before


@pytest.mark.parametrize("name", ["text", "folder/two"])
def test_what_the_workspace_has_whole_is_put_right(repository, name):
    damage(in_cache(repository, name))
    assert mend(repository) == ["4 files read: 1 damaged, 1 of them put right from the workspace"]
    assert in_cache(repository, name).read_bytes() == CONTENT[name]
    repository.path(name).unlink()
    repository.ok("dvc", "checkout", name)
    assert repository.path(name).read_bytes() == CONTENT[name]


@pytest.mark.parametrize("links", ["copy", "hardlink", "symlink"])
def test_what_is_lost_goes_with_all_that_came_from_it_and_is_made_again(repository, links):
    repository.ok("dvc", "config", "cache.type", links)
    damage(in_cache(repository, "text"))
    for name in ("text", "copied"):
        repository.path(name).unlink()
    repository.ok("dvc", "checkout")
    said = mend(repository)
    assert said[0] == "4 files read: 1 damaged, 0 of them put right from the workspace"
    assert said[1] == "The others are deleted. Now run dvc pull, or dvc repro where no remote has them."
    assert sorted(said[2].removeprefix("Deleted in the workspace too: ").split(", ")) == ["copied", "text"]
    assert not os.path.lexists(repository.path("text"))
    assert not os.path.lexists(repository.path("copied"))
    repository.path("text").write_bytes(CONTENT["text"])  # as from a backup
    repository.ok("dvc", "add", "text")
    repository.ok("dvc", "repro")
    assert repository.path("copied").read_bytes() == CONTENT["text"]
    assert mend(repository)[0].startswith("4 files read: 0 damaged")


def test_a_file_that_the_user_changed_stays(repository):
    damage(in_cache(repository, "text"))
    repository.path("text").write_bytes(b"mine\n")
    repository.path("copied").unlink()
    mend(repository)
    assert repository.path("text").read_bytes() == b"mine\n"


def test_a_damaged_list_of_a_folder_goes(repository):
    (listing,) = repository.path(".dvc/cache").rglob("*.dir")
    damage(listing)
    assert mend(repository)[0].startswith("4 files read: 1 damaged, 0 of them")
    assert not listing.exists()
    assert repository.path("folder/one").read_bytes() == CONTENT["folder/one"]


def test_outside_a_repository_it_is_one_line(tmp_path):
    error = Project(tmp_path, PYTHONPATH=str(CODE)).fails("python", "-m", "tools.cache", "mend")
    assert error.startswith("error: mend was not done: you are not inside of a DVC repository")
    assert error.count("\n") == 1
