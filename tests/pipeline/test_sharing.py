"""Caches and their links, what dvc gc frees, where a corpus is kept, a colleague's day, and a newer template.

What a user types is read from the README and docs/, wherever it stands there.
"""

import gzip
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import HOME, ONE_THREAD, Project, block_of_the_docs, hashes, lines_of, many_texts, ran, stored_as

from stages.lib.common.files import sha256_of_tree

pytestmark = pytest.mark.slow

GROUP, USERS = 61000, (61001, 61002)
ELSEWHERE = Path("/dev/shm")  # a file system of its own wherever there is one
MARK = "-".join(("Жужелица", "Xyzzy"))  # put together, so that no file of the project holds it, not even this one


def size_of_cache(project):
    return sum(path.stat().st_size for path in project.path(".dvc/cache/files").rglob("*") if path.is_file())


def assert_whole(cache):
    """Every file of a cache still has the content that its name promises: nothing wrote through a link."""
    files = [path for path in (cache / "files/md5").rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        assert stored_as(path.read_bytes()) == path.relative_to(cache).as_posix().removesuffix(".dir"), path


# --- caches ---


@pytest.fixture(scope="module")
def public():
    """A folder that every user may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="sharing-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def for_all(public):
    """Environment variables by which any user has a Python with the packages of this one; None if there is none."""
    if os.getuid() != 0:
        return None
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        folder = public / Path(python).name
        folder.mkdir(exist_ok=True)
        (folder / "python").unlink(missing_ok=True)
        (folder / "python").symlink_to(python)
        variables = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": sysconfig.get_path("purelib")}
        command = [folder / "python", "-c", "import torch, dvc"]
        with suppress(PermissionError):
            if subprocess.run(command, user=USERS[0], env=os.environ | variables, check=False).returncode == 0:
                return variables
    return None


@pytest.fixture
def users(reproduced, public, for_all):
    """A function that gives the project to a user without root's powers, 0 or 1; both are in one group."""

    def give(number):
        home = Path(tempfile.mkdtemp(dir=public))
        shutil.copytree(reproduced.folder, home / "project", symlinks=True)
        if os.getuid() != 0:
            if number:
                pytest.skip("only root can act as two users")
            return Project(home / "project", **ONE_THREAD)
        if for_all is None:
            pytest.skip("no Python that another user may run")
        for path in (home, *home.rglob("*")):
            os.chown(path, USERS[number], GROUP, follow_symlinks=False)
        given = Project(home / "project", **ONE_THREAD, **for_all, HOME=str(home), LOGNAME=f"user{number}")
        given.python = shutil.which("python", path=for_all["PATH"])
        given.as_user = {"user": USERS[number], "group": GROUP, "extra_groups": [], "umask": 0o022}
        return given

    return give


@pytest.mark.parametrize(("links", "elsewhere"), [("hardlink", False), ("hardlink,symlink", True)])
def test_stages_and_generation_work_on_linked_and_read_only_outputs(links, elsewhere, users):
    project = users(0)
    cache = project.path(".dvc/cache")
    if elsewhere:
        cache = ELSEWHERE / project.folder.parent.name
        if not ELSEWHERE.exists() or ELSEWHERE.stat().st_dev == project.folder.stat().st_dev:
            pytest.skip("one file system only")
    try:
        if elsewhere:
            project.ok("dvc", "cache", "dir", "--local", str(cache))
            project.ok("cp", "-r", ".dvc/cache", str(cache))
        project.ok("dvc", "config", "--local", "cache.type", links)
        project.ok("dvc", "checkout", "--relink")
        weights = project.path("model/finetuned/model.safetensors")
        assert weights.is_symlink() == (elsewhere or links == "symlink")
        assert elsewhere or links == "symlink" or weights.stat().st_nlink == 2
        assert not weights.stat().st_mode & stat.S_IWUSR
        before = hashes(project)

        project.set(train__epochs="1")
        output = project.ok("dvc", "repro", "--force", "--no-run-cache")
        assert len(ran(output)) == 6
        assert hashes(project)["model/finetuned"] != before["model/finetuned"]
        assert project.ok("python", "generate.py", "Кот", "--tokens", "4")
        assert_whole(cache)

        project.ok("git", "checkout", "-q", ".")
        project.ok("dvc", "checkout")
        assert hashes(project) == before
    finally:
        if elsewhere:
            shutil.rmtree(cache, ignore_errors=True)


def test_a_linked_corpus_is_changed_after_unprotect(users):
    project = users(0)
    project.ok("git", "rm", "-q", "--cached", "data/my_corpus.jsonl")
    project.ok("dvc", "config", "--local", "cache.type", "hardlink")
    project.ok("dvc", "add", "data/my_corpus.jsonl")
    append = ("sh", "-c", """echo '{"text": "ещё"}' >> data/my_corpus.jsonl""")
    assert project.run(*append).returncode != 0
    project.ok("dvc", "unprotect", "data/my_corpus.jsonl")
    project.ok(*append)
    assert_whole(project.path(".dvc/cache"))
    project.ok("dvc", "repro", "validate")
    assert project.json("logs/validate.json")["kept"] == len(many_texts()) + 1


def test_two_users_share_a_cache(users, public):
    one, two = users(0), users(1)
    cache = public / "cache"
    cache.mkdir()
    os.chown(cache, 0, GROUP)
    cache.chmod(0o2775)
    for project in (one, two):
        shutil.rmtree(project.path(".dvc/cache"))
        for line in block_of_the_docs("cache.shared group"):
            if "--relink" in line and project is one:
                project.ok("dvc", "commit", "--force")  # what is there is in the shared cache
            project.type_in(line.replace("/mnt/large/dvc-cache", str(cache)))
    results = hashes(one)
    shutil.rmtree(two.path("model/finetuned"))
    two.path("logs/report.html").unlink()
    two.ok("dvc", "checkout")
    assert hashes(two) == results

    two.set(train__epochs="1")
    two.ok("dvc", "repro")
    changed = hashes(two)
    one.set(train__epochs="1")
    assert ran(one.ok("dvc", "repro")) == []  # two has run it
    assert hashes(one) == changed
    one.set(train__epochs="2")
    one.ok("dvc", "repro")
    assert_whole(cache)


# --- disk ---


def weights_in_cache(project):
    """Where the cache keeps the weights that the project has now."""
    weights = project.path("model/finetuned/model.safetensors").read_bytes()
    return project.path(".dvc/cache") / stored_as(weights)


def add_a_file(project, name):
    """Something that this project alone has; return where a cache or a remote keeps it."""
    project.path(name).write_text(f"what {project.folder.name} has\n", encoding="utf-8")
    project.ok("dvc", "add", name)
    project.commit(name)
    return stored_as(project.path(name).read_bytes())


def test_gc_keeps_and_frees_what_the_docs_say(project, tmp_path):
    back, remove, collect = block_of_the_docs("dvc gc --all-branches")
    assert remove == "dvc exp remove lower other"
    older = weights_in_cache(project)
    project.set(train__epochs="1")
    project.ok("dvc", "repro")
    project.commit("one epoch")
    newest, results = weights_in_cache(project), hashes(project)
    project.ok("dvc", "exp", "run", "--name", "other", "-S", "train.epochs=2")
    other = weights_in_cache(project)
    assert len({older, newest, other}) == 3

    project.type_in(back)
    assert hashes(project) == results
    careless = tmp_path / "careless"
    shutil.copytree(project.folder, careless, symlinks=True)

    before = size_of_cache(project)
    project.ok(*shlex.split(collect), "--force")
    assert [path.exists() for path in (older, newest, other)] == [False, True, True]
    assert size_of_cache(project) < before - newest.stat().st_size
    project.ok("dvc", "exp", "remove", "other")
    project.ok(*shlex.split(collect), "--force")
    assert [path.exists() for path in (newest, other)] == [True, False]
    assert ran(project.ok("dvc", "repro")) == []
    assert hashes(project) == results

    Project(careless, **ONE_THREAD).ok("dvc", "gc", "--workspace", "--force")
    left = [careless / path.relative_to(project.folder) for path in (newest, other)]
    assert [path.exists() for path in left] == [True, False]


def test_gc_never_with_cloud_nor_alone_in_a_cache_that_others_share(project, tmp_path):
    (*_, collect) = block_of_the_docs("dvc gc --all-branches")
    store = tmp_path / "store"
    project.ok("dvc", "remote", "add", "--default", "store", str(store))
    project.commit("a remote")
    project.ok("dvc", "push")
    colleague = project.clone(tmp_path / "colleague")
    theirs = add_a_file(colleague, "data/theirs.bin")
    colleague.ok("dvc", "push")
    project.ok(*shlex.split(collect), "--force")
    assert (store / theirs).exists()
    project.ok(*shlex.split(collect), "--cloud", "--force")
    assert not (store / theirs).exists()

    cache = project.path(".dvc/cache")
    colleague.ok("dvc", "cache", "dir", "--local", str(cache))
    shared = add_a_file(colleague, "data/shared.bin")
    project.ok(*shlex.split(collect), "--force", "--projects", str(colleague.folder))
    assert (cache / shared).exists()
    project.ok(*shlex.split(collect), "--force")
    assert not (cache / shared).exists()


# --- your own corpus ---


def documents(project):
    """All texts that validation kept."""
    files = [project.path(f"data/validated/{split}.arrow") for split in ("train", "validation", "test")]
    return sorted(text for name in files for text in pa.ipc.open_stream(name).read_all()["text"].to_pylist())


def own_texts(count=40):
    return [f"{MARK}: {text}" for text in many_texts(count)]


@pytest.fixture
def fresh(project, tmp_path):
    """A clone as a newcomer has it: the sample in git, nothing in the cache."""
    return project.clone(tmp_path / "fresh")


def test_a_small_corpus_in_git(fresh, tmp_path):
    fresh.path("data/my_corpus.jsonl").write_bytes(lines_of(own_texts()))
    fresh.ok("dvc", "repro", "validate")
    fresh.ok("git", "add", "data/my_corpus.jsonl", "dvc.lock", "logs")
    fresh.ok("git", "commit", "-qm", "our texts")
    assert fresh.ok("git", "status", "--short") == ""
    other = fresh.clone(tmp_path / "other")
    other.ok("dvc", "repro", "validate")
    assert other.ok("git", "status", "--short") == ""
    assert documents(other) == sorted(own_texts())


def test_a_large_or_private_corpus_never_enters_git(fresh, tmp_path):
    bad = b'{"text": "' + MARK.encode() + b'"\n'  # no JSON: rejected, and shown in messages and reports
    twice = lines_of([own_texts()[0]])
    fresh.path("data/my_corpus.jsonl").write_bytes(lines_of(own_texts()) + bad + twice)
    fresh.set(validate__on_error="skip")
    fresh.type_in(*block_of_the_docs("dvc add data/my_corpus.jsonl"))
    fresh.ok("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    output = fresh.ok("dvc", "repro")
    assert len(ran(output)) == 6
    assert documents(fresh) == sorted(own_texts())
    assert MARK in fresh.path("data/validated/rejected.jsonl").read_text(encoding="utf-8")
    fresh.commit("our texts")
    fresh.ok("dvc", "exp", "run", "-S", "evaluate.new_tokens=4")
    assert_git_never_saw(fresh, MARK)
    fresh.ok("git", "checkout", "-q", ".")
    fresh.ok("dvc", "checkout")

    fresh.ok("dvc", "push")
    other = fresh.clone(tmp_path / "other")
    other.ok("dvc", "pull")
    assert hashes(other) == hashes(fresh)
    assert other.path("data/my_corpus.jsonl").read_bytes() == fresh.path("data/my_corpus.jsonl").read_bytes()

    # A change of the texts is noticed, and taken over into the .dvc file, by dvc repro alone.
    with other.path("data/my_corpus.jsonl").open("ab") as corpus:
        corpus.write(lines_of([f"{MARK}: и ещё один."]))
    assert "validate" in ran(other.ok("dvc", "repro", "validate"))
    assert sorted(other.ok("git", "diff", "--name-only").split())[:1] == ["data/my_corpus.jsonl.dvc"]
    assert other.run("dvc", "status", "-q", "data/my_corpus.jsonl.dvc", "validate").returncode == 0
    assert len(documents(other)) == len(own_texts()) + 1
    other.commit("one more")
    assert_git_never_saw(other, MARK)


def assert_git_never_saw(project, mark):
    """Neither a tracked file nor any object of the repository, those of experiments among them, holds the mark."""
    tracked = project.ok("git", "ls-files", "-z").split("\0")
    forms = [mark.encode(), json.dumps(mark)[1:-1].encode(), mark.lower().encode()]
    for name in filter(None, tracked):
        assert not any(form in project.path(name).read_bytes() for form in forms), name
    objects = subprocess.run(
        ["git", "cat-file", "--batch", "--batch-all-objects", "--unordered"],
        cwd=project.folder,
        capture_output=True,
        check=True,
    ).stdout
    assert b"dvc.lock" in objects
    assert not any(form in objects for form in forms)


@pytest.mark.parametrize("name", ["texts", "texts.jsonl.zst"])
def test_a_folder_or_a_packed_file_in_dvc(name, fresh, tmp_path):
    texts = own_texts()
    path = fresh.path(f"data/{name}")
    if name == "texts":
        (path / "new").mkdir(parents=True)
        (path / "a.jsonl").write_bytes(lines_of(texts[:10]))
        (path / "b.jsonl.gz").write_bytes(gzip.compress(lines_of(texts[10:30])))
        (path / "new/c.jsonl").write_bytes(lines_of(texts[30:]))
    else:
        path.write_bytes(pa.compress(lines_of(texts), codec="zstd", asbytes=True))
    fresh.set(corpus__path=f"data/{name}")
    fresh.ok("dvc", "add", f"data/{name}")
    fresh.ok("git", "add", f"data/{name}.dvc", "data/.gitignore")
    fresh.ok("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    fresh.ok("dvc", "repro", "validate")
    assert documents(fresh) == sorted(texts)
    fresh.commit("our texts")
    assert_git_never_saw(fresh, MARK)
    fresh.ok("dvc", "push")

    other = fresh.clone(tmp_path / "other")
    other.ok("dvc", "pull", f"data/{name}.dvc")
    assert ran(other.ok("dvc", "repro", "--pull", "validate")) == []
    assert documents(other) == sorted(texts)


# --- together ---


def test_a_colleagues_day(project, tmp_path):
    """Every command is one of docs/sharing.md."""
    day = block_of_the_docs("git switch -c bolder")
    assert [line.split()[:2] for line in day] == [
        ["dvc", "push"],
        ["git", "clone"],
        ["dvc", "pull"],
        ["git", "switch"],
        ["dvc", "exp"],
        ["git", "add"],
        ["dvc", "push"],
        ["git", "fetch"],
        ["git", "switch"],
    ]
    publish, _, pull, branch, run, commit, back, look, rest = day
    project.ok("git", "init", "-q", "--bare", "-b", "main", str(tmp_path / "origin.git"))
    project.ok("git", "remote", "add", "origin", str(tmp_path / "origin.git"))
    project.ok("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    project.commit("where the outputs are kept")
    project.ok("git", "push", "-q", "-u", "origin", "main")
    project.type_in(publish)

    project.ok("git", "clone", "-q", str(tmp_path / "origin.git"), str(tmp_path / "colleague"))
    colleague = Project(tmp_path / "colleague", **ONE_THREAD)
    colleague.type_in(pull)
    assert hashes(colleague) == hashes(project)
    colleague.type_in(branch)
    assert ran(colleague.type_in(run)) == ["train", "evaluate", "report"]
    colleague.type_in(commit)
    assert colleague.ok("git", "status", "--short") == ""
    colleague.type_in(back)

    before = hashes(project)
    difference = project.type_in(look)
    assert str(round(colleague.json("logs/metrics.json")["bits_per_byte"], 5)) in difference
    assert hashes(project) == before
    project.type_in(rest)
    assert hashes(project) == hashes(colleague)
    assert ran(project.ok("dvc", "repro")) == []


def test_the_model_alone(project, tmp_path):
    """Into a folder that is no project of DVC, into one that is, and by the name and version of the artifact."""
    get, take_over = (line.replace("ADDRESS", str(project.folder)) for line in block_of_the_docs("dvc get"))
    project.ok("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    project.commit("where the outputs are kept")
    project.ok("dvc", "push")
    project.ok("git", "tag", "-a", "finetuned@v1.0.0", "-m", "First")
    shutil.rmtree(project.path(".dvc/cache"))
    wanted = sha256_of_tree(project.path("model/finetuned"))

    for name in ("plain", "importing"):
        (tmp_path / name).mkdir()
    plain, importing = (Project(tmp_path / name) for name in ("plain", "importing"))
    plain.type_in(get)
    assert sha256_of_tree(plain.path("my-gpt2")) == wanted
    plain.ok("dvc", "artifacts", "get", str(project.folder), "finetuned", "-o", "by-name")
    assert sha256_of_tree(plain.path("by-name")) == wanted
    importing.type_in("git init -q && dvc init -q", take_over)
    assert sha256_of_tree(importing.path("my-gpt2")) == wanted
    assert importing.path("my-gpt2.dvc").exists()

    # A newer model: the import takes it over when told to, and the tag still names the first.
    project.set(train__epochs="1")
    project.ok("dvc", "repro", "train")
    project.commit("newer")
    project.ok("dvc", "push")
    newer = sha256_of_tree(project.path("model/finetuned"))
    importing.ok("dvc", "update", "my-gpt2.dvc")
    assert sha256_of_tree(importing.path("my-gpt2")) == newer != wanted
    plain.type_in(f"{get.replace('my-gpt2', 'first')} --rev finetuned@v1.0.0")
    assert sha256_of_tree(plain.path("first")) == wanted


def test_the_model_alone_where_there_is_none(project, tmp_path):
    """No remote, nothing pushed, no such model: what DVC says then, docs/troubleshooting.md explains."""
    get = block_of_the_docs("dvc get")[0].replace("ADDRESS", str(project.folder))
    shutil.rmtree(project.path(".dvc/cache"))
    troubleshooting = (HOME / "docs/troubleshooting.md").read_text(encoding="utf-8")
    elsewhere = Project(tmp_path)

    def told(command, words):
        assert words in elsewhere.fails(*shlex.split(command))
        assert f"| `{words}" in troubleshooting

    told(get, "failed to load directory ('model', 'finetuned')")
    project.ok("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    project.commit("where the outputs are kept")
    told(get, "failed to load directory ('model', 'finetuned')")
    told(get.replace("finetuned", "other"), "unexpected error - ['model/")
    assert not (tmp_path / "my-gpt2").exists()


def newer(template):
    """A version of the template with another sample, another default, other code, and the results of all that."""
    template.write_corpus(many_texts(50))
    template.set(evaluate__new_tokens="6")
    with template.path("stages/report.py").open("a", encoding="utf-8") as code:
        code.write("# newer\n")
    template.ok("dvc", "repro")
    template.commit("newer")


def merged(mine, template):
    """What a merge of the template said, typed as docs/updating.md has it; and its lines for what follows."""
    first, merge, *follows = block_of_the_docs("git fetch template")
    mine.type_in(first.replace("ADDRESS", shlex.quote(str(template.folder))))
    fetch, _, rest = merge.partition(" && ")
    mine.type_in(fetch)
    return mine.run(*shlex.split(rest)).stdout, follows


def test_a_newer_version_of_the_template_is_merged(project, tmp_path):
    mine = project.clone(tmp_path / "mine")
    mine.write_corpus(own_texts())
    mine.type_in(*block_of_the_docs("dvc add data/my_corpus.jsonl"))
    mine.set(train__epochs="1")
    mine.ok("dvc", "repro")
    mine.commit("our texts")
    newer(project)

    conflicts, (settle, finish) = merged(mine, project)
    assert "Merge conflict in dvc.lock" in conflicts
    assert "data/my_corpus.jsonl deleted in HEAD" in conflicts
    assert MARK not in mine.path("data/my_corpus.jsonl").read_text(encoding="utf-8")  # git has replaced it
    mine.type_in(settle)
    _, take_back = block_of_the_docs("dvc checkout --force")
    mine.type_in(take_back)
    assert ran(mine.type_in(finish, GIT_EDITOR="true")) == ["evaluate", "report"]
    assert mine.ok("git", "status", "--short") == ""
    assert mine.path("stages/report.py").read_text(encoding="utf-8").endswith("# newer\n")
    settings = mine.path("params.yaml").read_text(encoding="utf-8")
    assert "  epochs: 1\n" in settings
    assert "  new_tokens: 6\n" in settings
    assert documents(mine) == sorted(own_texts())
    assert ran(mine.ok("dvc", "repro")) == []
    assert_git_never_saw(mine, MARK)


def test_a_corpus_in_git_survives_a_newer_sample(project, tmp_path):
    mine = project.clone(tmp_path / "mine")
    mine.write_corpus(own_texts())
    mine.commit("our texts")
    project.write_corpus(many_texts(50))
    project.commit("newer")
    conflicts, _ = merged(mine, project)
    assert "Merge conflict in data/my_corpus.jsonl" in conflicts
    take_back, _ = block_of_the_docs("dvc checkout --force")
    mine.type_in(take_back)
    mine.ok("git", "commit", "-qm", "merged")
    assert mine.path("data/my_corpus.jsonl").read_bytes() == lines_of(own_texts())
