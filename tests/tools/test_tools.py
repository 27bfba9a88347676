"""The tools beside the pipeline: release, spread over seeds, perplexity of a text."""

import json
import math
import re
from statistics import mean, stdev
from types import SimpleNamespace

import pytest
import torch
from conftest import TEXTS, copy_project
from dvc.exceptions import DvcException
from transformers import AutoTokenizer, GPT2LMHeadModel, pipeline

from stages.lib.common.cli import UserError
from tools import release, remote, seeds

# Release


def test_a_release_is_a_model_with_its_card(project):
    output = project.ok("python", "-m", "tools.release", "build/my-gpt2", "--name", "me/my-gpt2")
    assert "hf upload me/my-gpt2 build/my-gpt2" in output
    folder = project.path("build/my-gpt2")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card == project.path("model/MODEL_CARD.md").read_text(encoding="utf-8").replace(
        "model/finetuned", "me/my-gpt2"
    )
    for file in project.path("model/finetuned").iterdir():
        copied = folder / file.name
        assert copied.read_bytes() == file.read_bytes()
        assert not copied.is_symlink()
        copied.write_bytes(copied.read_bytes())  # the user's own: not read-only as in DVC's cache
    generate = pipeline("text-generation", str(folder))
    assert generate("Кот", max_new_tokens=5, do_sample=False)[0]["generated_text"].startswith("Кот")


def test_what_is_out_of_date_is_not_released(project):
    project.set(train__epochs="2")
    error = project.fails("python", "-m", "tools.release", "build")
    assert "run dvc repro first" in error
    assert not project.path("build").exists()


def test_a_folder_in_use_is_left_alone(project):
    project.path("build").mkdir()
    project.path("build/mine.txt").write_text("mine")
    assert "build is there already" in project.fails("python", "-m", "tools.release", "build")
    assert [file.name for file in project.path("build").iterdir()] == ["mine.txt"]


def test_before_the_first_run_there_is_nothing_to_release(tmp_path):
    project = copy_project(tmp_path / "project")
    assert "is not there yet: run dvc repro" in project.fails("python", "-m", "tools.release", "build")


def test_what_dvc_says_where_it_cannot_tell_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^dvc status failed: ERROR: .*not inside of a DVC repository"):
        release.refuse_what_is_out_of_date()


# Seeds


SETTINGS = ["corpus.path", "validate.split_seed", "train.seed", "train.epochs", "evaluate.seed", "report.title"]


def row(seed, bits, epochs=3.0, rev="abc", title="A", corpus="h1", code="c1", division=0):
    return {
        "validate.split_seed": float(division),
        "rev": rev,
        "corpus.path": "data/my.jsonl",
        "train.seed": float(seed),
        "train.epochs": epochs,
        "evaluate.seed": 0.0,
        "report.title": title,
        "data/my.jsonl": corpus,
        "stages/train.py": code,
        "logs/evaluate.json": f"hash of {bits}",
        "bits_per_byte": bits,
    }


def test_runs_that_differ_in_the_seed_alone_are_one_group():
    rows = [
        row(42, 1.20, rev="workspace"),
        row(42, 1.20),
        row(1, 1.21, title="B"),
        row(2, 1.25),
        row(2, 1.25, rev="again"),  # the same run once more counts once
        row(1, 1.10, epochs=5.0),
        row(1, 1.30, corpus="h2"),
        row(3, float("nan")),  # failed
    ]
    found = seeds.groups(rows, SETTINGS, ["bits_per_byte"])
    values = [list(group.values("bits_per_byte").values()) for group in found]
    assert values == [[1.20, 1.21, 1.25], [1.10], [1.30]]
    lines = list(seeds.table(found, ["bits_per_byte"]))
    assert lines[0] == "the committed settings (train.seed 1, 2, 42)"
    assert re.search(f"{mean(values[0]):.4f} ±{stdev(values[0]):.4f} from 1.2000 to 1.2500$", lines[1])
    assert lines[2] == "train.epochs=5 (train.seed 1)"
    assert lines[3].endswith("1.1000   difference -0.1200")
    assert lines[4] == "another corpus, base or code (train.seed 1)"


def test_seeds_of_many_digits_are_told_apart():
    found = seeds.groups([row(1234567, 1.0), row(1234568, 1.1)], SETTINGS, ["bits_per_byte"])
    assert next(iter(seeds.table(found, ["bits_per_byte"]))) == "the committed settings (train.seed 1234567, 1234568)"


def test_the_difference_comes_with_its_standard_error():
    rows = [row(seed, bits) for seed, bits in ((1, 1.2), (2, 1.4), (3, 1.3))]
    rows += [row(seed, bits, epochs=5.0) for seed, bits in ((1, 1.0), (2, 1.1))]
    *_, last = seeds.table(seeds.groups(rows, SETTINGS, ["bits_per_byte"]), ["bits_per_byte"])
    error = math.sqrt(stdev([1.2, 1.4, 1.3]) ** 2 / 3 + stdev([1.0, 1.1]) ** 2 / 2)
    assert last.endswith(f"difference {1.05 - 1.3:+.4f}, standard error {error:.4f}")


def test_runs_over_several_divisions_are_compared_by_pairs():
    """Divisions are far apart, as some have harder test documents; what the setting does in each is nearly the same."""
    before, after = {1: 1.2, 2: 1.6, 3: 1.4, 4: 1.5}, {1: 1.1, 2: 1.52, 3: 1.31}
    rows = [row(42, bits, division=division) for division, bits in before.items()]
    rows += [row(42, bits, epochs=5.0, division=division) for division, bits in after.items()]
    lines = list(seeds.table(seeds.groups(rows, SETTINGS, ["bits_per_byte"]), ["bits_per_byte"]))
    assert lines[0] == "the committed settings (validate.split_seed 1, 2, 3, 4; train.seed 42)"
    assert lines[2] == "train.epochs=5 (validate.split_seed 1, 2, 3; train.seed 42)"
    error = stdev([-0.1, -0.08, -0.09]) / math.sqrt(3)
    assert lines[3].endswith(f"difference -0.0900, standard error {error:.4f}")

    alone = list(
        seeds.table(
            seeds.groups([rows[0], row(42, 1.0, 5.0, division=9)], SETTINGS, ["bits_per_byte"]), ["bits_per_byte"]
        )
    )
    assert alone[3].split() == ["bits_per_byte", "1.0000"]  # no pair


def test_one_run_shows_no_spread_and_says_what_to_do(project):
    output = project.ok("python", "-m", "tools.seeds")
    figure = project.json("logs/evaluate.json")["tuned"]["bits_per_byte"]
    assert re.search(rf"bits_per_byte +{figure:.4f}\n", output)
    assert "One seed each shows no spread: dvc exp run --queue" in output


def test_a_metric_that_is_not_there_is_one_line(project):
    assert "no finished run has any of nonsense" in project.fails(
        "python", "-m", "tools.seeds", "--metrics", "nonsense"
    )


def test_experiments_that_dvc_cannot_show_are_one_line(monkeypatch):
    def fail():
        raise DvcException("no")

    monkeypatch.setattr(seeds, "exp_show", fail)
    monkeypatch.setattr("sys.argv", ["seeds"])
    with pytest.raises(UserError, match=r"^DVC cannot show the experiments: no$"):
        seeds.main()


@pytest.mark.slow
def test_seeds_of_real_experiments(project):
    project.ok("dvc", "exp", "run", "--queue", "-S", "train.seed=1,2", "-S", "train.epochs=1")
    project.ok("dvc", "exp", "run", "--run-all")
    output = project.ok("python", "-m", "tools.seeds", "--metrics", "bits_per_byte")
    shown = json.loads(project.ok("dvc", "exp", "show", "--json"))
    figures = {}
    for baseline in shown:
        for experiment in baseline.get("experiments") or []:
            data = experiment["revs"][0]["data"]
            seed = data["params"]["params.yaml"]["data"]["train"]["seed"]
            figures[seed] = data["metrics"]["logs/metrics.json"]["data"]["bits_per_byte"]
    assert sorted(figures) == [1, 2]
    assert "train.epochs=1 (train.seed 1, 2)" in output
    assert f"{mean(figures.values()):.4f} ±{stdev(figures.values()):.4f}" in output


# Perplexity


@pytest.mark.parametrize("window", [64, 17])
def test_perplexity_is_that_of_transformers_window_by_window(inside, tiny_base, tmp_path, window):
    text = "\r\n\n".join(TEXTS * 3)
    (tmp_path / "text.txt").write_bytes(text.encode())
    output = inside.ok(
        *("python", "-m", "tools.perplexity", str(tmp_path / "text.txt"), "--window", str(window)),
        *("--model", str(inside.path("model/base"))),
    )
    model = GPT2LMHeadModel.from_pretrained(tiny_base).double().eval()
    ids = AutoTokenizer.from_pretrained(tiny_base)(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    nats, count = 0.0, 0
    for start in range(0, ids.shape[1], window):
        piece = ids[:, start : start + window]
        if piece.shape[1] > 1:
            with torch.no_grad():
                logits = model(piece).logits[0, :-1]
            nats -= torch.log_softmax(logits, -1).gather(1, piece[0, 1:, None]).sum().item()
            count += piece.shape[1] - 1
    assert f"{count} of them predicted" in output
    shown = float(re.search(r"([\d.]+) nats a token", output)[1])
    assert shown == pytest.approx(nats / count, abs=6e-5)
    assert f"perplexity {math.exp(nats / count):.1f}"[:-1] in output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["missing.txt"], "missing.txt cannot be read"),
        (["bad.txt"], "bad.txt is not UTF-8 from byte 2 on"),
        (["short.txt"], "there is nothing to predict"),
        (["good.txt", "--window", "65", "--model", "model/base"], "the model sees from 2 to 64 tokens"),
        (["good.txt", "--model", "nowhere"], "nowhere holds no model: there is no"),
    ],
)
def test_a_mistake_is_one_clear_line(inside, arguments, expected):
    inside.path("bad.txt").write_bytes(b"ab\xff")
    inside.path("short.txt").write_text("a")
    inside.path("good.txt").write_text("abc abc")
    assert expected in inside.fails("python", "-m", "tools.perplexity", *arguments).splitlines()[-1]


# Remotes


def test_outputs_that_the_remote_does_not_take_are_counted(monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "listable", lambda repo, name: None)
    cloud = SimpleNamespace(push=lambda outputs, remote: SimpleNamespace(failed={"a", "b"}))
    repo = SimpleNamespace(stage_cache=SimpleNamespace(cache_dir=tmp_path), cloud=cloud)
    with pytest.raises(UserError, match=r"^2 files could not be pushed: repeat the command$"):
        remote.push_runs(repo, None)
