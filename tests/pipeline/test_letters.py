"""A path, an address or a name with letters that are not ASCII: what DVC cannot do with them, and the way round it.

DVC writes its settings, and git's for `dvc exp run --temp`, through a library that takes ASCII alone unless it is told
otherwise. Where DVC mends that, the first test here fails, and it and the rows of docs/troubleshooting.md may go.
"""

import pytest
from conftest import HOME, Project

WORDS = "'ascii' codec can't encode characters"
PIPELINE = "stages:\n  copy:\n    cmd: cp params.yaml copied\n    params: [value]\n    outs: [copied]\n"


@pytest.fixture
def repository(tmp_path):
    """A small repository below a path with other letters, with a stage that has run."""
    made = Project(tmp_path / "папка" / "repository")
    made.folder.mkdir(parents=True)
    made.path("dvc.yaml").write_text(PIPELINE)
    made.path("params.yaml").write_text("value: 1\n")
    made.ok("git", "init", "-q")
    made.ok("dvc", "init", "-q")
    made.ok("dvc", "repro", "-q")
    made.commit()
    return made


@pytest.mark.parametrize("name", ["docs/troubleshooting.md", "docs/troubleshooting.ru.md"])
def test_the_page_says_what_to_do(name):
    (row,) = [line for line in (HOME / name).read_text(encoding="utf-8").split("\n") if f"| `{WORDS}` |" in line]
    for way in ("git checkout .dvc/config", "dvc cache dir --local", "git config --global user.name", ".dvc/config"):
        assert f"`{way}`" in row


def test_dvc_cannot_write_such_letters(repository, tmp_path):
    repository.ok("dvc", "remote", "add", "first", "../plain")
    assert WORDS in repository.fails("dvc", "remote", "add", "second", str(tmp_path / "папка/store"))
    assert repository.path(".dvc/config").read_bytes() == b""  # the first is gone as well
    assert WORDS in repository.fails("dvc", "cache", "dir", "--local", str(tmp_path / "папка/cache"))
    assert WORDS in repository.fails("dvc", "exp", "run", "--temp", "-S", "value=2")
    repository.ok("dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    repository.ok("git", "config", "--local", "user.name", "Пётр")
    assert WORDS in repository.fails("dvc", "exp", "run", "--temp", "-S", "value=2")


@pytest.mark.slow
def test_the_way_round(repository, tmp_path):
    address = tmp_path / "папка/store"
    repository.path(".dvc/config").write_text(
        f"[core]\n    remote = store\n['remote \"store\"']\n    url = {address}\n", encoding="utf-8"
    )
    repository.commit()
    assert "1 file pushed" in repository.ok("dvc", "push")
    assert len([path for path in address.rglob("*") if path.is_file()]) == 1

    repository.ok("dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    settings = tmp_path / "gitconfig"
    repository.env["GIT_CONFIG_GLOBAL"] = str(settings)
    repository.ok("git", "config", "--global", "user.name", "Пётр")
    repository.ok("dvc", "exp", "run", "--temp", "-n", "apart", "-S", "value=2")
    repository.ok("dvc", "exp", "run", "--queue", "-n", "queued", "-S", "value=3")
    repository.ok("dvc", "exp", "run", "--run-all")
    for name, content in {"apart": "value: 2\n", "queued": "value: 3\n"}.items():
        repository.ok("dvc", "exp", "apply", name)
        assert repository.path("copied").read_text() == content
