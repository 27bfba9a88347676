"""What the repository itself promises: pinned versions, files that travel, a default run that works."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from conftest import HOME, SETTINGS, Project, as_shipped, copy_project
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from stages.lib.common import files
from stages.lib.rows import tokens
from stages.lib.rows.encoder import Encoder

# What the committed results come from.
only_as_shipped = pytest.mark.skipif(not as_shipped(), reason="params.yaml is not the one that ships")


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=HOME, capture_output=True, check=True).stdout.decode()
    return [name for name in listed.split("\0") if name]


def pinned():
    lines = (HOME / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def package(line):
    """The normalised name that a requirement begins with; None for a comment."""
    found = re.match(r"[\w.-]+", line)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else None


def test_every_requirement_is_pinned():
    assert [line for line in pinned() if not re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.]+( ; .+)?", line)] == []


def test_the_lock_names_no_cuda_library():
    assert [line for line in pinned() if re.match(r"nvidia|cuda|triton", line)] == []


@pytest.mark.parametrize("name", ["torch", "transformers", "datasets", "dvc", "pytest"])
def test_the_tests_run_on_the_pinned_versions(name):
    assert f"{name}=={version(name).partition('+')[0]}" in [line.split(" ;")[0] for line in pinned()]


def test_everything_imported_is_asked_for_and_locked():
    direct = {package(line) for line in (HOME / "requirements.in").read_text(encoding="utf-8").splitlines()} - {None}
    assert direct <= {package(line) for line in pinned()}
    sources = [name for name in tracked() if name.endswith(".py")]
    ours = {name.removeprefix("tests/").removesuffix(".py").partition("/")[0] for name in sources}
    imported = set()
    for name in sources:
        if not name.startswith("bench/"):
            for node in ast.walk(ast.parse((HOME / name).read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    imported.add(node.module.partition(".")[0])
    providers = packages_distributions()
    for module in imported - ours - sys.stdlib_module_names:
        asked = {package(name) for name in providers[module]} & direct
        assert asked, f"{module} is imported, but requirements.in does not ask for it"


@pytest.mark.parametrize("name", ["data/README.md", "model/embedded/README.md"])
def test_what_a_readme_links_to_is_there(name):
    text = (HOME / name).read_text(encoding="utf-8")
    assert "@@" not in text
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (HOME / name).parent.joinpath(target).exists(), target


def test_the_tests_have_the_settings_as_they_ship():
    """With the comments, where nobody has settings of their own by now."""
    shipped, here = (path.read_text(encoding="utf-8").split() for path in (SETTINGS, HOME / "params.yaml"))
    assert shipped == here or not as_shipped()


@pytest.mark.slow
def test_the_tests_hold_in_a_project_with_settings_of_its_own(tmp_path):
    project = copy_project(tmp_path / "project")
    project.set(
        corpus__path="data/texts",
        base__hub="openai-community/gpt2",
        validate__on_error="skip",
        tokenize__max_length="1024",
        train__epochs="5",
        evaluate__prompts='["Жил-был"]',
        report__language="ru",
    )
    project.commit()
    project.ok("python", "-m", "pytest", "-n0", "tests/common/test_cli.py", "tests/common/test_params.py")


@only_as_shipped
@pytest.mark.parametrize("name", ["README.md", "README.ru.md"])
def test_the_readmes_quote_the_committed_figures(name):
    text = (HOME / name).read_text(encoding="utf-8")
    figures = json.loads((HOME / "logs/evaluate.json").read_text(encoding="utf-8"))
    base, tuned = figures["base"], figures["tuned"]

    def written(number):
        return number.replace(".", ",").replace("-", "−") if ".ru" in name else number

    assert f" {figures['documents']} " in text
    assert written(f"| {base['bits_per_byte']:.4f} | **{tuned['bits_per_byte']:.4f}** |") in text
    assert written(f"| {base['perplexity']:.2f} | {tuned['perplexity']:.2f} |") in text
    prompts = 6  # three of params.yaml and the beginnings of three documents
    ended = [f"{prompts * figures[model]['samples']['ended']:.0f}" for model in ("base", "tuned")]
    assert re.search(rf" {prompts} \| {ended[0]} \| {ended[1]} \|", text)
    compared = [written(f"{figures['comparison'][key]:.3f}") for key in ("difference", "low", "high")]
    assert re.findall(r"[-−]\d[.,]\d{3}", text)[:3] == compared


def test_no_ignore_rule_hides_a_file_that_is_tracked():
    result = subprocess.run(
        ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"], cwd=HOME, capture_output=True, check=True
    )
    assert result.stdout == b""


def test_no_file_names_a_path_of_somebodys_machine():
    private = re.compile(rb"(?<![\w.])/(?:home|Users|root|work)/\w")
    for name in tracked():
        if not name.endswith((".safetensors", ".jsonl")):
            assert not private.search((HOME / name).read_bytes()), name


def test_the_embedded_model_is_small_and_bfloat16():
    folder = HOME / "model/embedded"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 12_000_000
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118


def test_the_embedded_model_loads_with_transformers_and_reads_as_the_pipeline_does():
    folder = HOME / "model/embedded"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert model.config.n_positions == tokenizer.model_max_length >= 512
    boundary = tokens.Tokenizer(folder).closing
    assert model.config.bos_token_id == model.config.eos_token_id == tokenizer.eos_token_id == boundary
    text = "Ёж шёл — и пришёл. <|endoftext|> Nobody minded."
    (ours,) = Encoder(folder).encode([text])
    assert tokenizer(text)["input_ids"] == ours[:-1].tolist()
    assert ours.tolist().count(boundary) == 2


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    """The project as it ships, after `dvc repro`: in the folder that DEFAULT_RUN names, or in a copy of its own."""
    if made := os.environ.get("DEFAULT_RUN"):
        return Project(Path(made))
    project = copy_project(tmp_path_factory.mktemp("default") / "project")
    shutil.rmtree(project.path("model/base"), ignore_errors=True)
    project.commit()
    project.ok("dvc", "repro")
    return project


@only_as_shipped
def test_tuned_beats_base_on_held_out_documents_in_the_default_run():
    figures = files.read_json(HOME / "logs/evaluate.json")
    assert figures["documents"] >= 20
    assert figures["tuned"]["bits_per_byte"] < 0.97 * figures["base"]["bits_per_byte"]
    # A base with fresh weights would have some 3 bits a byte on Russian text; the embedded one has learned Russian.
    assert figures["base"]["bits_per_byte"] < 1.5


@only_as_shipped
def test_the_default_run_uses_the_whole_sample_corpus():
    figures = files.read_json(HOME / "logs/validate.json")
    assert figures["lines"] == figures["kept"] == len((HOME / "data/my_corpus.jsonl").read_bytes().splitlines())
    assert files.read_json(HOME / "logs/tokenize.json")["dropped_tokens"] == 0


@only_as_shipped
def test_the_tuned_model_learned_where_a_text_ends():
    figures = files.read_json(HOME / "logs/evaluate.json")
    assert figures["tuned"]["end_of_text_nats"] < figures["base"]["end_of_text_nats"] / 2


@pytest.mark.slow
@only_as_shipped
def test_the_default_run_is_the_one_committed(default_run):
    """On the kind of machine whose results are in git, the same bytes; on another, the same data."""
    committed, made = (files.read_json(folder / "logs/train.json") for folder in (HOME, default_run.folder))
    same = ["logs/validate.json", "logs/tokenize.json"]
    if committed["environment"] == made["environment"]:
        same += ["dvc.lock", "logs/train.json", "logs/train_loss.tsv", "logs/validation.tsv", "logs/evaluate.json"]
    for name in same:
        assert default_run.path(name).read_bytes() == (HOME / name).read_bytes(), name


@pytest.mark.slow
@only_as_shipped
def test_the_readmes_quote_what_the_models_of_the_default_run_write(default_run):
    committed, made = (files.read_json(folder / "logs/train.json") for folder in (HOME, default_run.folder))
    samples = [json.loads(line) for line in default_run.path("logs/samples.jsonl").read_text("utf-8").splitlines()]
    for name in ("README.md", "README.ru.md"):
        text = (HOME / name).read_text(encoding="utf-8")
        (row,) = [line for line in text.split("\n") if "<br>" in line and line.endswith(" … |")]
        quoted = [cell.strip().removesuffix(" …").replace("<br>", "\n") for cell in row.strip("|").split("|")]
        shown = [[sample[model]["text"].strip() for model in ("base", "tuned")] for sample in samples]
        same = committed["environment"] == made["environment"]  # else other last digits, and other words
        assert not same or any(base.startswith(quoted[0]) and tuned.startswith(quoted[1]) for base, tuned in shown)


def test_the_sample_corpus_repeats_no_phrase():
    documents = [json.loads(line)["text"] for line in (HOME / "data/my_corpus.jsonl").read_text("utf-8").splitlines()]
    runs: dict[tuple, set[int]] = {}
    openings: dict[tuple, set[int]] = {}
    for number, text in enumerate(documents):
        assert 100 <= len(text) <= 600, number
        words = re.findall(r"[\w-]+", text.lower())
        openings.setdefault(tuple(words[:3]), set()).add(number)
        for at in range(len(words) - 5):
            runs.setdefault(tuple(words[at : at + 6]), set()).add(number)
    assert max(map(len, runs.values())) <= 3
    assert max(map(len, openings.values())) <= 4
