"""What the settings alone give away is said before anything is deleted, and before a text enters a commit."""

import gzip
import re

import pyarrow as pa
import pytest
from conftest import HOME, OUTPUTS, SETTINGS, TEXTS, hashes, lines_of, many_texts, ran

from stages import check
from stages.lib.common import params

MARK = "-".join(("Жужелица", "Xyzzy"))


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("train__epochs", "five", "train.epochs is 'five', but must be a valid number"),
        ("train__batch_size", "-2", "train.batch_size is -2, but must be greater than or equal to 1"),
        ("tokenize__max_length", "100000", "the base model sees 64 tokens at most"),
        ("evaluate__stride", "64", "evaluate.stride is 64, but must be below the 64 tokens"),
        ("train__freeze_layers", "2", "train.freeze_layers is 2, but the base model has 2 layers: leave one to train"),
        ("base__folder", "model/nowhere", "base.folder"),
        ("corpus__path", "data/nowhere.jsonl", "corpus.path"),
        ("report__language", "de", "report.language"),
        ("train__report_to", "wandb", "train.report_to"),
    ],
)
def test_a_setting_that_cannot_be_used_costs_no_output(project, setting, value, expected):
    before = hashes(project)
    project.set(**{setting: value})
    error = project.fails("dvc", "repro")
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert setting.replace("__", ".") in line
    assert expected in line
    assert "come back with" not in error
    assert hashes(project) == before


def test_a_setting_that_can_be_used_runs_the_check_and_its_own_stages_only(project):
    project.set(report__title="Another")
    output = project.ok("dvc", "repro")
    assert "Running stage 'check'" in output
    assert ran(output) == ["report"]


def test_with_another_tracker_training_leaves_the_same_bytes(project):
    weights = project.path("model/finetuned/model.safetensors")
    before = weights.read_bytes()
    project.set(train__report_to="none")
    output = project.ok("dvc", "repro")
    assert "Running stage 'check'" in output
    assert ran(output) == ["train", "report"]
    assert weights.read_bytes() == before
    assert "train.report_to" in project.ok("dvc", "params", "diff")
    assert "is train.epochs meant?" in project.fails("dvc", "exp", "run", "-S", "+train.epocs=5")


def test_a_failed_experiment_says_how_params_yaml_comes_back(project):
    before = project.path("params.yaml").read_text(encoding="utf-8")
    error = project.fails("dvc", "exp", "run", "-S", "train.epochs=five")
    (line,) = [line for line in error.splitlines() if "takes them back" in line]
    assert "dvc params diff" in line
    assert "five" in project.ok("dvc", "params", "diff")
    assert "git checkout params.yaml" in line
    project.ok("git", "checkout", "params.yaml")
    assert project.path("params.yaml").read_text(encoding="utf-8") == before
    assert "takes them back" not in project.fails("dvc", "exp", "run", "--temp", "-S", "train.epochs=five")


# Prompts in another script than the texts

CORPORA = {
    "plain.jsonl": lambda path, content: path.write_bytes(content),
    "packed.jsonl.gz": lambda path, content: path.write_bytes(gzip.compress(content)),
    "packed.jsonl.zst": lambda path, content: path.write_bytes(pa.Codec("zstd").compress(content, asbytes=True)),
    "folder": lambda path, content: (path.mkdir(), (path / "a.jsonl").write_bytes(content)),
}


def settings_for(corpus):
    shipped = params.load(SETTINGS)
    return shipped.model_copy(update={"corpus": shipped.corpus.model_copy(update={"path": str(corpus)})})


@pytest.mark.parametrize("name", CORPORA)
def test_the_first_texts_of_a_corpus_are_those_of_its_good_lines(tmp_path, name):
    CORPORA[name](tmp_path / name, b"\n{bad}\n" + lines_of(TEXTS) + b'{"text": 5}')
    assert list(check.first_texts(settings_for(tmp_path / name))) == TEXTS


@pytest.mark.parametrize("content", [b"", b"%PDF-1.7", "текст".encode("utf-16"), None])
def test_what_is_no_corpus_has_none_and_is_left_to_validation(tmp_path, content):
    if content is not None:
        (tmp_path / "a.jsonl").write_bytes(content)
    assert list(check.first_texts(settings_for(tmp_path / "a.jsonl"))) == []


def test_a_prompt_in_another_script_is_named_before_any_work_and_with_every_new_corpus(project):
    project.set(evaluate__prompts='["Жил-был", "Once"]')
    output = project.ok("dvc", "repro", "check")
    assert "evaluate.prompts, 'Once': in Latin letters, but the texts are in Cyrillic ones\n" in output
    assert project.ok("dvc", "status", "base", "validate").endswith("Data and pipelines are up to date.\n")
    project.write_corpus([TEXTS[2], "A cat looked at the snow as if it had paid for it itself."])
    project.set(validate__validation_fraction="0", validate__test_fraction="0")
    told = "evaluate.prompts, 'Жил-был': in Cyrillic letters, but the texts are in Latin ones\n"
    assert project.ok("dvc", "repro", "validate").count(told) == 1  # not by the check and by the validation
    with project.path("data/my_corpus.jsonl").open("ab") as corpus:
        corpus.write(lines_of(["And one line more."]))
    output = project.ok("dvc", "repro", "validate")
    assert "Stage 'check' didn't change" in output
    assert output.count(told) == 1


# A corpus that neither git nor DVC knows


@pytest.fixture
def own(project):
    """With texts of the user's own in data/, of which nobody was told."""
    project.path("data/own.jsonl").write_bytes(lines_of([f"{text} {MARK}" for text in many_texts()]))
    project.set(corpus__path="data/own.jsonl")
    return project


@pytest.mark.parametrize("how", [(), pytest.param(("--queue",), marks=pytest.mark.slow)], ids=str)
def test_an_experiment_refuses_it_in_one_line_wherever_it_runs(own, how):
    before = hashes(own)
    if how == ("--queue",):
        own.ok("dvc", "exp", "run", *how, "-S", "train.epochs=1", "-n", "waits")
        error = own.run("dvc", "exp", "run", "--run-all").stdout  # follows what the worker logs
    else:
        error = own.fails("dvc", "exp", "run", *how, "-S", "train.epochs=1")
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert "data/own.jsonl is neither in DVC nor in git" in line
    assert hashes(own) == before
    objects = own.ok("git", "rev-list", "--objects", "--all", "--reflog")
    assert "data/own.jsonl" not in objects
    for command in line.partition("know: ")[2].split(" && "):
        own.ok(*command.split())
    assert "validate" in ran(own.ok("dvc", "exp", "run", "-S", "train.epochs=1", "validate"))


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/troubleshooting.md", "docs/troubleshooting.ru.md"])
def test_where_no_setting_changed_dvc_says_it_in_its_own_words(own, page):
    """It skips the stage that would say it, as nothing that stage depends on is another in the copy."""
    own.ok("dvc", "repro", "validate")
    done = own.run("dvc", "exp", "run", "--temp")
    assert "Stage 'check' didn't change, skipping" in done.stdout
    assert re.search(r"No such file or directory: '\S+\.dvc/tmp/exps/\S+data/own.jsonl'", done.stderr)
    (row,) = [line for line in (HOME / page).read_text(encoding="utf-8").split("\n") if "'….dvc/tmp/exps/…'" in line]
    assert row.startswith("| `No such file or directory: ")


def test_a_pipeline_takes_it_and_git_does_not(own):
    assert "validate" in ran(own.ok("dvc", "repro", "validate"))
    own.commit("with git add -A")
    assert "data/own.jsonl" not in own.ok("git", "ls-files")
    assert OUTPUTS[0] not in own.ok("git", "ls-files")
    own.ok("git", "add", "-f", "data/own.jsonl")
    own.ok("dvc", "exp", "run", "--temp", "-S", "train.epochs=1", "validate")


def test_a_folder_of_texts_counts_as_known_only_as_a_whole(project):
    folder = project.path("data/texts")
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_bytes(lines_of(many_texts()))
    project.set(corpus__path="data/texts")
    project.ok("git", "add", "-f", "data/texts/a.jsonl")
    project.commit("one of two")
    assert "data/texts is neither" in project.fails("dvc", "exp", "run", "-S", "train.epochs=1")
    project.ok("git", "add", "-f", "data/texts/b.jsonl")
    assert "Running stage 'check'" in project.ok("dvc", "exp", "run", "-S", "train.epochs=1", "check")


def test_a_corpus_that_a_stage_of_the_users_own_makes_is_known(project):
    pipeline = project.path("dvc.yaml")
    stage = "stages:\n  mine:\n    cmd: cp data/my_corpus.jsonl data/mine.jsonl\n    outs: [data/mine.jsonl]\n"
    pipeline.write_text(pipeline.read_text(encoding="utf-8").replace("stages:\n", stage, 1), encoding="utf-8")
    project.set(corpus__path="data/mine.jsonl")
    project.commit("a stage of mine")
    assert "validate" in ran(project.ok("dvc", "repro", "validate"))
    project.ok("dvc", "exp", "run", "--temp", "-S", "report.title=x", "check")


def test_texts_in_the_place_of_the_sample_are_told_to_enter_git(project):
    told = "puts data/my_corpus.jsonl into git, which forgets nothing"
    assert told not in project.ok("dvc", "repro", "-f", "validate")
    project.path("data/my_corpus.jsonl").write_bytes(lines_of([f"{text} {MARK}" for text in many_texts()]))
    output = project.ok("dvc", "repro", "validate")
    (line,) = [line for line in output.splitlines() if told in line]
    for command in line.partition("out: ")[2].split(" && "):
        project.ok(*command.split())
    assert told not in project.ok("dvc", "repro", "-f", "validate")
    project.commit("as told")
    assert "data/my_corpus.jsonl" not in project.ok("git", "ls-files").splitlines()
