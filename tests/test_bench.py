"""The benchmarks run, and count what they say they count."""

import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest
import torch
from conftest import CODE, environment, many_texts, wait_for
from ruamel.yaml import YAML
from transformers import GPT2Config, GPT2LMHeadModel

from bench import beyond, measure
from stages.lib.common import params


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


def steps_of(optimizer, model, steps=6, after=lambda step: None):
    """Gradients that depend on the step alone, so that optimizers can be compared."""
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        after(step)
        optimizer(step).step()


def beyond_the_stage(model, steps=6, **tried):
    """What a search steps with, and a function of the step that tells it where it is."""
    at = [0]
    decayed = [name for name, parameter in model.named_parameters() if parameter.ndim == 2]
    made = beyond.Optimizer(model, decayed, 0.01, 0.1, lambda: (at[0], steps), **beyond.NOTHING | tried)

    def optimizer(step):
        at[0] = step
        return made

    return optimizer


def small_model():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=3, n_head=2))


def test_what_a_search_steps_with_is_adamw_where_nothing_is_tried():
    ours, plain = small_model(), small_model()
    steps_of(beyond_the_stage(ours), ours)
    matrices = [parameter for parameter in plain.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in plain.parameters() if parameter.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, 0.01)
    steps_of(lambda step: adamw, plain)
    for (name, parameter), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, msg=name)


def test_a_search_gives_the_matrices_of_the_blocks_to_muon_and_the_rest_to_adamw():
    ours, plain = small_model(), small_model()
    steps_of(beyond_the_stage(ours, optimizer="muon"), ours)
    for number, (name, parameter) in enumerate(plain.named_parameters()):
        decay = 0.1 if parameter.ndim == 2 else 0.0
        if ".h." in name and parameter.ndim == 2:
            kind = torch.optim.Muon([parameter], 0.01, decay, adjust_lr_fn="match_rms_adamw")
        else:
            kind = torch.optim.AdamW([parameter], 0.01, weight_decay=decay)
        steps_of(lambda step, kind=kind: kind, plain)
        torch.testing.assert_close(list(ours.parameters())[number], parameter, msg=name)


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (8, 8)])
def test_muon_in_float32_is_pytorchs_but_for_its_digits(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    given = (3.4445, -4.7750, 2.0315), 5, 1e-7
    exact = beyond._orthogonal(matrix.double(), *given)
    torch.testing.assert_close(beyond._orthogonal(matrix, *given).double(), exact, atol=1e-5, rtol=1e-4)
    theirs = torch.optim._muon._zeropower_via_newtonschulz(matrix, *given)
    torch.testing.assert_close(theirs.double(), exact, atol=0.05, rtol=0.05)


def test_a_search_lets_lower_layers_learn_more_slowly():
    model = small_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    steps_of(beyond_the_stage(model, layer_decay=0.5), model, steps=1)
    # AdamW's first step is as long as its rate, and the pull towards zero of a weight of 0.1 a hundredth of that.
    longest = {
        name: float((parameter.detach() - before[name]).abs().max()) for name, parameter in model.named_parameters()
    }
    for name, above in {"ln_f": 0, "h.2.": 0, "h.1.": 1, "h.0.": 2, "wte": 3, "wpe": 3}.items():
        found = [length for of, length in longest.items() if name in of]
        assert found
        assert found == pytest.approx([0.01 * 0.5**above] * len(found), rel=0.03), name


def test_a_search_averages_the_weights_of_the_last_steps():
    ours, plain = small_model(), small_model()
    steps_of(beyond_the_stage(ours, averaged=0.5), ours)
    optimizer, seen = beyond_the_stage(plain), []

    def keep(step):
        seen.append([parameter.detach().double().clone() for parameter in plain.parameters()])

    steps_of(optimizer, plain, after=keep)
    keep(6)
    means = [torch.stack(weights).mean(0) for weights in zip(*seen[4:], strict=True)]  # after steps 4, 5 and 6
    for parameter, mean in zip(ours.parameters(), means, strict=True):
        torch.testing.assert_close(parameter.double(), mean, atol=1e-7, rtol=1e-5)


@pytest.mark.slow
def test_the_default_is_held_against_the_usual_recipe_and_a_search(tmp_path, tiny_base):
    pytest.importorskip("optuna", reason="pip install -r tests/requirements.txt")
    corpus = tmp_path / "corpus.jsonl"
    write_corpus(corpus, unlike())
    given = ("--base", str(tiny_base), "--corpus", str(corpus), "--documents", "30", "--held-out", "15")
    given += ("--results", str(tmp_path / "runs"), "--json", str(tmp_path / "figures.json"))
    result = bench("bench.results", *given, "--trials", "3")
    assert result.returncode == 0, result.stderr
    (raw,) = tmp_path.glob("runs/*-30.jsonl")
    first = [json.loads(line) for line in raw.read_text(encoding="utf-8").splitlines()]
    ways = ["base"] + ["usual"] * 3 + ["trained"] * 3 + ["default"] * 3 + ["search"] * 3 + ["best"] * 3
    assert [one["way"] for one in first] == ways
    assert first[10]["choosing"] == first[7]["choosing"]  # a search begins with the settings that ship
    best = min(first[10:13], key=lambda one: one["choosing"])
    assert first[13]["settings"] == best["settings"]
    assert first[13]["choosing"] == best["choosing"]  # the same settings and seed: the same model
    assert len({one["telling"] for one in first[7:10]}) == 3  # seeds tell
    for one in first[:10]:
        assert one["telling"] == pytest.approx(sum(one["nats"]) / sum(one["bytes"]) / math.log(2), rel=1e-4)

    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert [change for change, _ in figures["changes"]] == ["learning_rate=x 0.333", "learning_rate=x 3"]
    assert float(figures["changes"][0][1]) == pytest.approx(first[11]["choosing"] - first[10]["choosing"], abs=1e-4)
    row = figures["rows"][0]
    assert row[1] == f"{first[0]['telling']:.4f}"
    assert row[4].startswith(f"{statistics.mean(one['telling'] for one in first[7:10]):.4f} ")

    assert bench("bench.results", *given, "--trials", "4").returncode == 0
    after = [json.loads(line) for line in raw.read_text(encoding="utf-8").splitlines()]
    assert after[: len(first)] == first
    assert [one["way"] for one in after[len(first) :]] in (["search"], ["search"] + ["best"] * 3)

    found = min((one for one in after if one["way"] == "search"), key=lambda one: one["choosing"])["settings"]
    assert bench("bench.results", *given, "--documents", "20", "--trials", "3").returncode == 0
    (raw,) = tmp_path.glob("runs/*-20.jsonl")
    searched = [json.loads(line) for line in raw.read_text(encoding="utf-8").splitlines()][10:13]
    assert searched[0]["settings"] == first[10]["settings"]
    assert found in [one["settings"] for one in searched]  # what did best elsewhere is tried first


@pytest.mark.slow
def test_runs_of_a_benchmark_that_is_killed_end_with_it(tmp_path, tiny_base):
    pytest.importorskip("optuna", reason="pip install -r tests/requirements.txt")
    corpus = tmp_path / "corpus.jsonl"
    write_corpus(corpus, unlike())
    command = ("bench.results", "--base", str(tiny_base), "--corpus", str(corpus), "--documents", "30")
    command += ("--held-out", "15", "--results", str(tmp_path / "runs"))
    with open(tmp_path / "said", "w", encoding="utf-8") as said:
        killed = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=CODE,
            env=environment(),
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        wait_for(lambda: any(path.stat().st_size for path in tmp_path.glob("runs/*.jsonl")), 120)
        killed.kill()
        killed.wait()
        wait_for(lambda: not alive(killed.pid), 60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(killed.pid, signal.SIGKILL)


def alive(group):
    """Whether a process of a group runs; those that ended and that nobody asked for do not."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def test_a_search_that_was_broken_off_leaves_the_tables_of_the_rest(tmp_path, tiny_base, corpus):
    """Its best settings have not been run yet; and what came to nothing is no run."""
    lines = [{"way": way, "settings": {}, "seed": 42, "choosing": 1.0} for way in ("search", "search")]
    lines[1] |= {"settings": {"epochs": 9}, "choosing": None}
    told = {"telling": 1.0, "nats": [1.0, 2.0], "bytes": [3, 4]}
    lines += [
        {"way": way, "settings": {}, "seed": 42} | told for way in ("base", "usual", "trained", "default", "best")
    ]
    raw = tmp_path / f"{tiny_base.name}-corpus-30.jsonl"
    raw.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    given = ("--base", str(tiny_base), "--corpus", corpus, "--documents", "30", "--results", str(tmp_path))
    shown = bench("bench.results", *given, "--trials", "0")
    assert "| corpus, 30 " in shown.stdout, shown.stderr
    with open(raw, "a", encoding="utf-8") as file:
        file.write(json.dumps({"way": "search", "settings": {"epochs": 2}, "seed": 42, "choosing": 0.5}) + "\n")
    shown = bench("bench.results", *given, "--trials", "0")
    assert shown.returncode == 0, shown.stderr
    assert "| corpus, 30 " not in shown.stdout


def test_benchmarks_take_the_projects_own_corpus_and_settings(tmp_path):
    """Whatever its path, its field and its length of rows are."""
    (tmp_path / "params.yaml").write_text((CODE / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "ours.jsonl").write_text('{"body": "Кот."}\n', encoding="utf-8")
    changes = {"corpus": {"path": "ours.jsonl", "text_field": "body", "limit": 3}, "tokenize": {"max_length": 64}}
    measure.change_settings(tmp_path, changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "HOME", tmp_path)
        with measure.workspace() as folder:
            measure.write_corpus(folder, None, 1)
            ours = params.load(folder / "params.yaml")
            assert (ours.corpus.path, ours.corpus.limit) == ("data/my_corpus.jsonl", None)
            assert (ours.validate_.similarity, ours.validate_.on_error) == (1.0, "skip")
            first, second, *_ = (folder / ours.corpus.path).read_text(encoding="utf-8").splitlines()
            assert [json.loads(line)["body"] for line in (first, second)] == ["Кот.", "1 Кот."]
            other = tmp_path / "other"
            other.mkdir()
            before = (CODE / "params.yaml").read_text(encoding="utf-8").replace("  text_field: text", "  field: text")
            (other / "params.yaml").write_text(before, encoding="utf-8")
            with measure._settings_of(other, folder):
                theirs = YAML().load(folder / "params.yaml")
                assert theirs["validate"]["similarity"] == 1.0
                assert theirs["corpus"]["path"] == "data/my_corpus.jsonl"
                assert "text_field" not in theirs["corpus"]
            assert params.load(folder / "params.yaml") == ours
