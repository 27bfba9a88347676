"""The benchmarks run, and count what they say they count."""

import json
import random
import statistics
import subprocess
import sys

import pytest
from conftest import CODE, environment, many_texts


def unlike():
    """Documents that are not so much alike that they would all fall into one split."""
    rnd = random.Random(0)
    words = sorted({word for text in many_texts() for word in text.split()})
    return [f"{text} {' '.join(rnd.sample(words, 10))}" for text in many_texts()]


def write_corpus(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


@pytest.fixture
def corpus(tmp_path):
    """Texts of the tests' own: those of the project may be anybody's."""
    path = tmp_path / "corpus.jsonl"
    write_corpus(path, many_texts())
    return str(path)


def bench(*command):
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=CODE, env=environment(), capture_output=True, text=True, check=False
    )


def test_validation_is_measured_against_parsing_alone(tmp_path, corpus):
    given = ("--corpus", corpus, "--megabytes", "1", "--runs", "1")
    result = bench("bench.validate", *given, "--json", str(tmp_path / "figures.json"))
    assert result.returncode == 0, result.stderr
    assert "| json.loads of every line " in result.stdout
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert 1_000_000 <= figures["bytes"] < 2_000_000
    assert all(rate > 0 for rate in figures["megabytes_per_second"].values())
    assert 20_000_000 < figures["memory"] < 2_000_000_000


def test_what_a_benchmark_lacks_is_one_line(corpus):
    """Outside the environment of the benchmarks; inside it, it runs."""
    result = bench("bench.tokenize", "--corpus", corpus, "--megabytes", "1", "--runs", "1", "--engines")
    if result.returncode:
        assert (
            result.stderr == "error: GPT-2's vocabulary is missing: python -m pip install -r bench/requirements.txt\n"
        )
    else:
        assert "| this stage " in result.stdout


@pytest.mark.slow
def test_training_is_measured_against_two_usual_recipes(tmp_path, tiny_base):
    corpus = tmp_path / "corpus.jsonl"
    write_corpus(corpus, unlike())
    given = ("--base", str(tiny_base), "--corpus", str(corpus), "--length", "64", "--runs", "1")
    result = bench("bench.training", *given, "--quality", "--json", str(tmp_path / "figures.json"))
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    recipes = ["padded", "concatenated", "plain loop", "this stage, float32", "this stage"]
    for name in ("tokens_per_second", "operations_per_second", "memory"):
        assert list(figures[name]) == recipes
        assert all(figure > 0 for figure in figures[name].values())
    runs = figures["whole_runs"]
    assert [len(points) for points in runs.values()] == [3, 3, 3]
    assert runs["this stage, float32"][-1]["bits_per_byte"] < runs["concatenated"][-1]["bits_per_byte"]


def test_scoring_is_measured_against_one_by_one(tmp_path, tiny_base, corpus):
    given = ("--base", str(tiny_base), "--corpus", corpus, "--runs", "1", "--documents", "12")
    result = bench("bench.scoring", *given, "--json", str(tmp_path / "figures.json"))
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["documents"] == 12
    assert all(rate > 0 for rate in figures["tokens_per_second"].values())
    assert all(error < 1e-5 for error in figures["relative_error"].values())


def test_generation_is_measured_against_the_pipeline(tmp_path, tiny_base, corpus):
    given = ("--base", str(tiny_base), "--corpus", corpus, "--runs", "1", "--tokens", "8", "--prompts", "2")
    result = bench("bench.generate", *given, "--json", str(tmp_path / "figures.json"))
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["same_texts"] == figures["texts"] == 2
    assert all(rate > 0 for rate in figures["tokens_per_second"].values())


@pytest.mark.slow
def test_the_default_is_held_against_the_usual_recipe_and_a_search(tmp_path, tiny_base):
    pytest.importorskip("optuna", reason="pip install -r tests/requirements.txt")
    corpus = tmp_path / "corpus.jsonl"
    write_corpus(corpus, unlike())
    given = ("--base", str(tiny_base), "--corpus", str(corpus), "--documents", "30", "--held-out", "15")
    given += ("--results", str(tmp_path), "--json", str(tmp_path / "figures.json"))
    result = bench("bench.results", *given, "--trials", "2")
    assert result.returncode == 0, result.stderr
    (raw,) = tmp_path.glob("*-30.jsonl")
    first = [json.loads(line) for line in raw.read_text(encoding="utf-8").splitlines()]
    ways = ["base"] + ["usual"] * 3 + ["trained"] * 3 + ["default"] * 3 + ["search"] * 2 + ["best"] * 3
    assert [one["way"] for one in first] == ways
    best = min(first[10:12], key=lambda one: one["choosing"])
    told = {name: best[name] for name in ("settings", "choosing", "telling")}
    assert {name: first[12][name] for name in told} == told  # the same settings and seed: the same model
    assert first[10]["telling"] == first[7]["telling"]  # a search begins with the settings that ship
    assert len({one["telling"] for one in first[7:10]}) == 3  # seeds tell

    row = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["rows"][0]
    assert row[1] == f"{first[0]['telling']:.4f}"
    assert row[4].startswith(f"{statistics.mean(one['telling'] for one in first[7:10]):.4f} ")

    assert bench("bench.results", *given, "--trials", "3").returncode == 0
    after = [json.loads(line) for line in raw.read_text(encoding="utf-8").splitlines()]
    assert after[: len(first)] == first
    assert [one["way"] for one in after[len(first) :]] in (["search"], ["search"] + ["best"] * 3)
