"""For each kind of change, exactly the stages that it touches run again: `dvc repro` on the pipeline as it ships."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import HOME, ONE_THREAD, STAGES, Project, make_base, many_texts, ran
from imports import imported_modules, is_only_described
from ruamel.yaml import YAML

from stages.lib.common import files

pytestmark = pytest.mark.slow


def stages_that_import(module):
    return tuple(stage for stage in STAGES if module in imported_modules(Path(f"stages/{stage}.py")))


# One for each set of stages.
BY_STAGES = {
    stages_that_import(path.relative_to(HOME)): path.relative_to(HOME)
    for path in sorted((HOME / "stages").rglob("*.py"))
    if not is_only_described(path)
}
# Every fourth of them: that dvc.yaml names all, test_pipeline.py holds.
MODULES = [BY_STAGES[stages] for stages in sorted(BY_STAGES, key=len)[::4]]
TEMPLATES = sorted(path.relative_to(HOME) for path in (HOME / "stages/lib/page/templates").iterdir())


@pytest.fixture(scope="module")
def echoing(reproduced, tmp_path_factory):
    """A reproduced project in which each stage gives the outputs it gave before, at once.

    Which stages run is DVC's decision and no stage's, and a comment changes no output.
    """
    folder = tmp_path_factory.mktemp("echoing")
    shutil.copytree(reproduced.folder, folder / "project", symlinks=True)
    described = YAML(typ="safe", pure=True).load(HOME / "dvc.yaml")["stages"]
    for stage in ("check", *STAGES):
        for kind in ("outs", "metrics", "plots"):
            for entry in described[stage].get(kind, ()):
                name = entry if isinstance(entry, str) else next(iter(entry))
                made, kept = reproduced.path(name), folder / "kept" / stage / name
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(made, kept) if made.is_dir() else shutil.copy(made, kept)
    python = folder / "bin/python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\ncp -r "{folder}/kept/${{2#stages.}}/." .\n')  # of: python -m stages.X
    python.chmod(0o755)
    return Project(folder / "project", PATH=f"{python.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_comment_in_a_module_reruns_the_stages_that_import_it(echoing, module):
    with echoing.path(module).open("a", encoding="utf-8") as source:
        source.write("# a comment\n")
    assert tuple(ran(echoing.ok("dvc", "repro"))) == stages_that_import(module)


@pytest.mark.parametrize("template", TEMPLATES, ids=str)
def test_a_change_in_a_template_reruns_the_report(echoing, template):
    with echoing.path(template).open("a", encoding="utf-8") as source:
        source.write("\n")
    assert ran(echoing.ok("dvc", "repro")) == ["report"]


@pytest.mark.parametrize(
    "name", ["README.md", "generate.py", "tools/seeds.py", "tests/conftest.py", "requirements.txt"]
)
def test_a_change_outside_the_pipeline_reruns_nothing(echoing, name):
    with echoing.path(name).open("a", encoding="utf-8") as file:
        file.write("\n")
    assert ran(echoing.ok("dvc", "repro")) == []


def test_a_file_that_is_touched_but_not_changed_reruns_nothing(echoing):
    for name in ("data/my_corpus.jsonl", "params.yaml", "stages/train.py", "model/embedded/model.safetensors"):
        os.utime(echoing.path(name), (0, 0))
    assert ran(echoing.ok("dvc", "repro")) == []


def test_a_comment_in_the_settings_reruns_nothing(echoing):
    with echoing.path("params.yaml").open("a", encoding="utf-8") as file:
        file.write("# a comment\n")
    assert ran(echoing.ok("dvc", "repro")) == []


@pytest.fixture(scope="module")
def changing(reproduced, tmp_path_factory):
    """A reproduced project that one change after the other is made to, with the stages themselves."""
    folder = tmp_path_factory.mktemp("changing") / "project"
    shutil.copytree(reproduced.folder, folder, symlinks=True)
    return Project(folder, **ONE_THREAD)


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("evaluate__seed", "7", ["evaluate", "report"]),
        ("validate__split_seed", "1", ["validate", "tokenize", "train", "evaluate", "report"]),
    ],
)
def test_a_setting_reruns_its_stage_and_what_that_changes(changing, setting, value, expected):
    changing.set(**{setting: value})
    assert ran(changing.ok("dvc", "repro")) == expected


def test_the_corpus_under_another_name_reruns_no_training(changing):
    shutil.copy(changing.path("data/my_corpus.jsonl"), changing.path("data/other.jsonl"))
    changing.set(corpus__path="data/other.jsonl")
    assert ran(changing.ok("dvc", "repro")) == ["validate", "report"]


def test_a_setting_that_was_there_before_takes_what_it_made_then(changing):
    """From the run-cache: what DVC has seen made from the same inputs, it does not make again."""
    changing.set(corpus__path="data/my_corpus.jsonl", report__title="One more title", train__seed="7")
    assert ran(changing.ok("dvc", "repro")) == ["train", "evaluate", "report"]
    weights = files.sha256(changing.path("model/finetuned/model.safetensors"))
    changing.set(train__seed="8")
    changing.ok("dvc", "repro")
    assert files.sha256(changing.path("model/finetuned/model.safetensors")) != weights
    changing.set(train__seed="7")
    output = changing.ok("dvc", "repro")
    assert ran(output) == []
    assert "Stage 'train' is cached - skipping run, checking out outputs" in output
    assert files.sha256(changing.path("model/finetuned/model.safetensors")) == weights


def test_new_lines_in_the_corpus_rerun_what_reads_them(changing):
    changing.write_corpus([*many_texts(), *(f"Новый текст, которого раньше не было: {n}." for n in range(9))])
    assert ran(changing.ok("dvc", "repro")) == ["validate", "tokenize", "train", "evaluate", "report"]


def test_a_line_that_repeats_another_trains_nothing(changing):
    text = changing.path("data/my_corpus.jsonl").read_text(encoding="utf-8")
    changing.path("data/my_corpus.jsonl").write_text(text + text.splitlines()[0] + "\n", encoding="utf-8")
    assert ran(changing.ok("dvc", "repro")) == ["validate", "report"]


def test_other_weights_with_the_same_vocabulary_tokenize_nothing(changing):
    make_base(changing.path("model/embedded"), seed=1)
    assert ran(changing.ok("dvc", "repro")) == ["base", "train", "evaluate", "report"]
