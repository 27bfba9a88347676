"""What the tests share: a tiny GPT-2, a tiny corpus, and copies of the project to run the real commands in."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import runpy

# Before torch is loaded: the tests' models are so small that a second thread only gets in the way.
os.environ["OMP_NUM_THREADS"] = "1"
# Messages name commands as they are, also where `./run` started the tests.
os.environ.pop("STARTED_WITH", None)

import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from stages.lib.common import params, translation
from stages.lib.common.cli import UserError

# The same examples every time, and as long as they take: a slow or busy machine is no failure.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

# A shell that starts them in the background has Ctrl-C ignored, by all that they start, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

HOME = Path(__file__).resolve().parent.parent
# The settings as they ship: the tests hold in a project with settings of its own, too.
SETTINGS = Path(__file__).with_name("params.yaml")
_temporary = tempfile.TemporaryDirectory(prefix="tests-")
# The code with those settings: where commands run that need no project, and whose language the tests' own process has.
CODE = Path(_temporary.name)

TEXTS = [
    "Утром над рекой стоял туман, и паром гудел, как большая корова.",
    "— Дед, а рыба спит?\n— Спит, пока ты её не спросишь.",
    "The kettle sang before anyone had asked it to, and nobody minded.",
    "Кот смотрел на снег так, будто платил за него сам.",
    "Зимой почтальон ходил медленнее, зато письма успевали обдумать.",
]


ONE_THREAD = {"OMP_NUM_THREADS": "1"}
STAGES = ("base", "validate", "tokenize", "train", "evaluate", "report")
OUTPUTS = (
    "model/base",
    "data/validated",
    "logs/validate.json",
    "data/tokens",
    "logs/tokenize.json",
    "model/finetuned",
    "logs/train.json",
    "logs/train_loss.tsv",
    "logs/validation.tsv",
    "logs/evaluate.json",
    "logs/metrics.json",
    "logs/documents.tsv",
    "logs/samples.jsonl",
    "logs/report.html",
    "logs/curves.svg",
    "model/MODEL_CARD.md",
)


def environment(**more: str) -> dict[str, str]:
    """The environment of a command a user types: nothing of the test run's own, no network, no progress bars."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "HF_", "GIT_", "OMP_"))}
    bin_folder = str(Path(sys.executable).parent)
    return kept | {
        "PATH": bin_folder + os.pathsep + kept.get("PATH", ""),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nobody listens there: what asks the Hub unbidden fails
        "GIT_AUTHOR_NAME": "Tester",
        "GIT_AUTHOR_EMAIL": "tester@example.invalid",
        "GIT_COMMITTER_NAME": "Tester",
        "GIT_COMMITTER_EMAIL": "tester@example.invalid",
        **more,
    }


def environment_of_run(folder: Path) -> Path:
    """What `./run` takes, as RUN_VENV, for an environment that it made: it then uses the one of the tests."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/pip").write_text(f"#!/bin/sh\necho pip 26 from {folder}/lib\n")
    (folder / "bin/pip").chmod(0o755)
    shutil.copy2(HOME / "requirements.txt", folder / "installed.txt")
    return folder


class Project:
    """A copy of the project in a folder of its own.

    Its commands run with the environment variables `env` besides, with `python`, and as another user where `as_user`
    says so in the words of subprocess.Popen.
    """

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.env = env
        self.python = sys.executable
        self.as_user: dict[str, int | list[int]] = {}

    def path(self, name: str) -> Path:
        return self.folder / name

    def json(self, name: str):
        return json.loads(self.path(name).read_text(encoding="utf-8"))

    def write_corpus(self, texts: list[str]) -> None:
        self.path("data/my_corpus.jsonl").write_bytes(lines_of(texts))

    def set(self, **changes: str) -> None:
        """Change settings, given as `section__key="value as YAML"`, keeping every other line as it is."""
        path = self.path("params.yaml")
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for name, value in changes.items():
            section, key = name.split("__")
            start = lines.index(f"{section}:\n")
            at = next(i for i in range(start + 1, len(lines)) if lines[i].startswith(f"  {key}:"))
            lines[at] = f"  {key}: {value}\n"
        path.write_text("".join(lines), encoding="utf-8")

    def start(self, *command: str, **env: str) -> subprocess.Popen:
        """Start a command in a process group of its own; its output is one stream of lines."""
        return subprocess.Popen(
            self._words(command),
            cwd=self.folder,
            env=environment(**self.env | env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **self.as_user,
        )

    def run(self, *command: str, stdin: str = "", timeout: float = 600, **env: str) -> subprocess.CompletedProcess:
        """Run a command the way a user does; `python` and `dvc` are those of this environment."""
        return subprocess.run(
            self._words(command),
            cwd=self.folder,
            env=environment(**self.env | env),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **self.as_user,
        )

    def ok(self, *command: str, **more) -> str:
        """Run a command that must succeed; return what it printed on standard output."""
        result = self.run(*command, **more)
        assert result.returncode == 0, f"{' '.join(command)}:\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def type_in(self, *lines: str, **more) -> str:
        """Type lines into a shell, some with commands joined by &&; all must succeed. Return what they printed."""
        commands = (command for line in lines for command in line.split(" && "))
        return "".join(self.ok(*shlex.split(command), **more) for command in commands)

    def fails(self, *command: str, **more) -> str:
        """Run a command that must fail without a traceback; return what it printed on standard error."""
        result = self.run(*command, **more)
        assert result.returncode != 0, f"{' '.join(command)} succeeded:\n{result.stdout}"
        assert "Traceback" not in result.stdout + result.stderr, result.stderr
        return result.stderr

    def _words(self, command: tuple[str, ...]) -> list[str]:
        if command[0] == "./run":  # the environment that it would make is the one of the tests
            command = command[1:] or ("dvc", "repro")
        if command[0] == "python":
            return [self.python, *command[1:]]
        if command[0] == "dvc":
            return [self.python, "-m", "dvc", *command[1:]]
        return list(command)

    def clone(self, folder: Path) -> Project:
        """What somebody else has who clones this project."""
        self.ok("git", "clone", "-q", str(self.folder), str(folder))
        return Project(folder, **ONE_THREAD)

    def commit(self, message: str = "as it is") -> None:
        self.ok("git", "add", "-A")
        self.ok("git", "commit", "-q", "--allow-empty", "-m", message)


class Inside(Project):
    """A project whose Python commands run in the tests' own process, where the libraries are loaded already."""

    def run(self, *command: str, stdin: str = "", **more) -> subprocess.CompletedProcess:
        script = f"{command[2].replace('.', '/')}.py" if command[1] == "-m" else command[1]
        if command[0] != "python" or more or not self.path(script).exists():
            return super().run(*command, stdin=stdin, **more)
        streams = {name: io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for name in ("stdout", "stderr")}
        given = io.TextIOWrapper(io.BytesIO(os.fsencode(stdin)), "utf-8")
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(self.folder):
            words = [script, *command[2 + (command[1] == "-m") :]]
            for name, value in {**streams, "stdin": given, "argv": words}.items():
                patch.setattr(sys, name, value)
            status = self._status(script)
        said = {name: stream.buffer.getvalue().decode("utf-8") for name, stream in streams.items()}
        return subprocess.CompletedProcess(command, status, **said)

    def _status(self, script: str) -> int:
        """What a script exits with."""
        try:
            runpy.run_path(str(self.path(script)), run_name="__main__")
        except SystemExit as ended:
            return ended.code or 0
        return 0


def pytest_configure() -> None:
    """Fill `CODE`, and have this process speak its language."""
    for name in ("bench", "stages", "tools"):
        shutil.copytree(HOME / name, CODE / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("generate.py", "dvc.yaml"):
        shutil.copy2(HOME / name, CODE)
    shutil.copy2(SETTINGS, CODE)
    translation.HOME = CODE


def as_shipped() -> bool:
    """Whether the settings of this project are those that ship, and with them what is committed in logs/."""
    try:
        return params.load(HOME / "params.yaml") == params.load(SETTINGS)
    except UserError:
        return False


def copy_project(folder: Path, **env: str) -> Project:
    """The project's files as git sees them, uncommitted changes included, as a repository of its own.

    Its settings are those that ship.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=HOME,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (HOME / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(HOME / name, folder / name)
    shutil.copy2(SETTINGS, folder / "params.yaml")
    project = Project(folder, **env)
    project.ok("git", "init", "-q", "-b", "main")
    return project


def make_base(folder: Path, texts: list[str] = TEXTS, context: int = 64, dtype: str = "float32", seed: int = 0) -> None:
    """A GPT-2 so small that everything about it is quick: random weights, a vocabulary of its own."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    from stages.lib.bases.vocabularies import END_OF_TEXT
    from tools import pretrain

    class Given(pretrain.Source):
        def texts(self):
            return iter(enumerate(texts, 1))

    tokenizer = pretrain.train_tokenizer([Given(Path("given"), 1)], 320)
    boundary = tokenizer.token_to_id(END_OF_TEXT)
    torch.manual_seed(seed)
    # initializer_range 0.2 instead of 0.02: random weights whose predictions differ from token to token.
    config = GPT2Config(
        vocab_size=320,
        n_positions=context,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.2,
        bos_token_id=boundary,
        eos_token_id=boundary,
    )
    GPT2LMHeadModel(config).to(getattr(torch, dtype)).save_pretrained(folder)
    GPT2TokenizerFast(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT).save_pretrained(folder)


def lines_of(texts: list[str]) -> bytes:
    """A corpus of these texts."""
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until the condition holds; it must within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.5)


def many_texts(count: int = 60) -> list[str]:
    """A corpus of `count` different short documents, many of them much alike: see OWN_SPLITS."""
    return [f"{TEXTS[i % len(TEXTS)]} Случай {i * 7919 % 1000}." for i in range(count)]


@pytest.fixture
def at_home(monkeypatch):
    """In the project's folder, where templates and catalogues are found."""
    monkeypatch.chdir(HOME)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install -r tests/requirements.txt")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as running:
        # No sandbox: in a container, as root, there is none.
        yield running.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_base(folder)
    return folder


@pytest.fixture(scope="session")
def rows(tiny_base, tmp_path_factory):
    """Rows of very different fill, so that a mean of means differs from the truth."""
    from stages.lib.rows import batches, packing, tokens
    from stages.lib.rows.encoder import Encoder

    folder = tmp_path_factory.mktemp("tokens")
    texts = [text[: 10 + 7 * (n % 13)] for n, text in enumerate(many_texts(24))]
    encoded = Encoder(tiny_base).encode(texts)
    documents = [packing.Document(line, ids, 1) for line, ids in enumerate(encoded, 1)]
    tokens.write_rows(folder / "train.arrow", packing.pack(documents, 48))
    return batches.open_rows(folder, "train")


def hashes(project):
    from stages.lib.common import files

    return {name: files.sha256_of_tree(project.path(name)) for name in OUTPUTS}


def stored_as(content: bytes) -> str:
    """Where DVC keeps this content, below a cache or a remote."""
    md5 = hashlib.md5(content).hexdigest()
    return f"files/md5/{md5[:2]}/{md5[2:]}"


# The pages in English; some have a Russian one beside them, named .ru.md.
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (HOME / "docs").glob("*.md") if ".ru" not in path.name)]


def blocks_of(page: str) -> list[list[str]]:
    """A page's blocks of commands, line by line, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", (HOME / page).read_text(encoding="utf-8"), re.DOTALL)
    return [[line for row in block.splitlines() if (line := row.split("#")[0].strip())] for block in blocks]


def block_of_the_docs(words: str) -> list[str]:
    """The one block of commands, on whichever page, with a line that holds these words."""
    blocks = [block for page in PAGES for block in blocks_of(page)]
    (block,) = [block for block in blocks if any(words in line for line in block)]
    return block


def ran(output):
    """The stages that a `dvc` command ran, from what it printed."""
    return [stage for stage in STAGES if f"Running stage '{stage}'" in output]


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory, tiny_base) -> Project:
    """A tiny project after `dvc repro`, committed. Tests copy it before they change anything."""
    made = tiny_project(tmp_path_factory.mktemp("reproduced") / "project", tiny_base)
    made.said = made.run("dvc", "repro")
    assert made.said.returncode == 0, made.said.stderr
    made.commit("results")
    return made


# Documents that are much alike share a split; so each of `many_texts` has its own.
OWN_SPLITS = {"validate__similarity": "1.0"}


def tiny_project(folder, tiny_base):
    made = copy_project(folder, **ONE_THREAD)
    shutil.rmtree(made.path("model/embedded"), ignore_errors=True)
    shutil.copytree(tiny_base, made.path("model/embedded"))
    made.write_corpus(many_texts())
    made.set(tokenize__max_length="48", evaluate__new_tokens="12", train__learning_rate="1e-3", **OWN_SPLITS)
    for old in ("dvc.lock", *(name for name in OUTPUTS if name.startswith("logs/"))):
        made.path(old).unlink(missing_ok=True)
    made.commit("tiny")
    return made


@pytest.fixture
def project(reproduced, tmp_path) -> Project:
    """A copy of the reproduced project that a test may change."""
    shutil.copytree(reproduced.folder, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project", **ONE_THREAD)


@pytest.fixture
def inside(project) -> Inside:
    """The same, its Python commands in the tests' own process."""
    return Inside(project.folder, **project.env)


@pytest.fixture
def proofs(record_property):
    """A function that puts a line into the summary at the end of the test run."""

    def say(line: str) -> None:
        record_property("proof", line)

    return say


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        lines = [line for name, line in report.user_properties if name == "proof"]
        if report.when == "call" and lines:
            terminalreporter.section(report.nodeid.rpartition("::")[2])
            for line in lines:
                terminalreporter.line(line)
