"""The pipeline as users run it: the real commands, on a tiny base and a tiny corpus."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
from conftest import HOME, STAGES, hashes, lines_of, many_texts, ran, tiny_project
from imports import imported_modules, whole_rooms
from ruamel.yaml import YAML

from stages.lib.common import files, parents

# What dvc.yaml says


@pytest.mark.parametrize("stage", ["check", *STAGES])
def test_deps_name_exactly_what_the_stage_imports_by_the_room_where_it_is_all_of_it(stage):
    listed = YAML(typ="safe", pure=True).load(HOME / "dvc.yaml")["stages"][stage]["deps"]
    code = {name for name in listed if name.startswith("stages/")}
    imported = imported_modules(Path("stages") / f"{stage}.py")
    assert code == {path.as_posix() for path in whole_rooms(imported)}


@pytest.mark.parametrize("stage", ["check", *STAGES])
def test_a_stage_takes_whole_sections_and_has_a_description(stage):
    described = YAML(typ="safe", pure=True).load(HOME / "dvc.yaml")["stages"][stage]
    assert described["cmd"] == f"python -m stages.{stage}"
    assert described["desc"]
    assert described["params"]
    assert all("." not in name for name in described["params"])


# What a run leaves


def test_every_line_of_the_corpus_is_accounted_for(project):
    project.set(validate__on_error="skip")
    corpus = project.path("data/my_corpus.jsonl")
    lines = corpus.read_text(encoding="utf-8")
    corpus.write_text(lines + "\n" + lines.splitlines()[0] + "\n{bad}\n" + '{"text": 1}\n', encoding="utf-8")
    project.ok("python", "-m", "stages.validate")
    figures = project.json("logs/validate.json")
    assert figures["lines"] == 64
    assert (figures["kept"], figures["blank"], figures["duplicates"], figures["rejected"]) == (60, 1, 1, 2)
    assert sum(figures[split]["documents"] for split in ("train", "validation", "test")) == 60
    texts = many_texts()
    assert sum(figures[split]["characters"] for split in ("train", "validation", "test")) == sum(map(len, texts))
    assert sum(figures[split]["bytes"] for split in ("train", "validation", "test")) == sum(
        len(text.encode()) for text in texts
    )
    rejected = [
        json.loads(line)
        for line in project.path("data/validated/rejected.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [(one["line"], one["content"]) for one in rejected] == [(63, "{bad}"), (64, '{"text": 1}')]
    assert project.path("data/validated/duplicates.tsv").read_text() == "line\tduplicate_of\n62\t1\n"


def test_every_token_is_accounted_for(reproduced):
    figures = reproduced.json("logs/tokenize.json")
    validated = reproduced.json("logs/validate.json")
    assert figures["dropped_tokens"] == 0
    for split in ("train", "validation", "test"):
        counts = figures[split]
        assert counts["documents"] == validated[split]["documents"]
        assert counts["tokens"] == counts["text_tokens"] + 2 * counts["documents"] + counts["repeated_tokens"]
        assert counts["fill"] == counts["tokens"] / (counts["rows"] * 48)
    size = sum(validated[split]["bytes"] for split in ("train", "validation", "test"))
    assert figures["bytes_per_token"] == size / sum(
        figures[split]["text_tokens"] for split in ("train", "validation", "test")
    )
    epochs = 3
    train = figures["train"]
    segments = train["documents"] + train["repeated_tokens"]
    assert reproduced.json("logs/train.json")["tokens"] == epochs * (train["tokens"] - segments)


def test_figures_carry_the_names_that_others_rely_on(reproduced):
    train = reproduced.json("logs/train.json")
    assert {"steps", "best_step", "tokens", "learning_rate", "validation_bits_per_byte", "environment"} <= set(train)
    assert train["validation_bits_per_byte"] == min(
        float(row["bits_per_byte"]) for row in files.read_tsv(reproduced.path("logs/validation.tsv"))[1:]
    )
    evaluation = reproduced.json("logs/evaluate.json")
    assert evaluation["documents"] == reproduced.json("logs/validate.json")["test"]["documents"]
    assert evaluation["bytes"] == reproduced.json("logs/validate.json")["test"]["bytes"]
    assert evaluation["tokens"] == reproduced.json("logs/tokenize.json")["test"]["text_tokens"]
    for name in ("base", "tuned"):
        scored = evaluation[name]
        assert scored["bits_per_byte"] == scored["nats"] / (math.log(2) * evaluation["bytes"])
        assert scored["perplexity"] == math.exp(scored["nats"] / evaluation["tokens"])
        assert scored["end_of_text_nats"] > 0


def test_the_figures_that_experiments_are_compared_by_are_few_and_those_of_the_other_files(reproduced):
    train, evaluation = reproduced.json("logs/train.json"), reproduced.json("logs/evaluate.json")
    base, tuned = evaluation["base"], evaluation["tuned"]
    assert reproduced.json("logs/metrics.json") == {
        "bits_per_byte": tuned["bits_per_byte"],
        "base_bits_per_byte": base["bits_per_byte"],
        "change": pytest.approx((tuned["bits_per_byte"] - base["bits_per_byte"]) / base["bits_per_byte"]),
        "perplexity": tuned["perplexity"],
        "best_step": train["best_step"],
        "tokens": train["tokens"],
        "copied": tuned["copying"]["training"]["share_copied"],
        "lost": evaluation["retention"]["difference"],
    }
    shown = json.loads(reproduced.ok("dvc", "metrics", "show", "--json"))[""]["data"]
    assert list(shown) == ["logs/metrics.json"]


def test_the_curves_have_some_twenty_points_and_end_at_the_last_step(reproduced):
    rows = files.read_tsv(reproduced.path("logs/train_loss.tsv"))
    assert len(rows) >= 20
    assert int(rows[-1]["step"]) == reproduced.json("logs/train.json")["steps"]


def test_tensorboard_shows_curves_and_samples(reproduced):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = reproduced.path("logs/tensorboard").iterdir()
    events = EventAccumulator(str(run)).Reload()
    assert set(events.Tags()["scalars"]) == {
        "train/loss",
        "train/learning_rate",
        "train/gradient_norm",
        "train/tokens_per_second",
        "validation/loss",
        "validation/bits_per_byte",
    }
    drawn = [(event.step, event.value) for event in events.Scalars("train/loss")]
    rows = [(int(row["step"]), float(row["loss"])) for row in files.read_tsv(reproduced.path("logs/train_loss.tsv"))]
    assert [step for step, _ in drawn] == [step for step, _ in rows]
    assert [value for _, value in drawn] == pytest.approx([value for _, value in rows], rel=1e-6)
    assert all(event.value > 0 for event in events.Scalars("train/tokens_per_second"))
    validations = [int(row["step"]) for row in files.read_tsv(reproduced.path("logs/validation.tsv"))]
    for number in (1, 2, 3):
        texts = events.Tensors(f"sample/{number}/text_summary")
        assert [event.step for event in texts] == validations
        assert all(event.tensor_proto.string_val[0].startswith(b"    ") for event in texts)


def test_the_report_shows_the_figures_and_keeps_markup_in_texts_as_text(project):
    samples = project.path("logs/samples.jsonl")
    sample = json.loads(samples.read_text(encoding="utf-8").splitlines()[0])
    sample["tuned"]["text"] = "<script>alert(1)</script>"
    samples.unlink()  # a link into DVC's cache, perhaps
    samples.write_text(json.dumps(sample) + "\n", encoding="utf-8")
    project.ok("python", "-m", "stages.report")
    page = project.path("logs/report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    assert f"{project.json('logs/evaluate.json')['tuned']['bits_per_byte']:.4f}" in page
    # Nothing that a browser would fetch: the namespaces of inline SVG are names, not addresses.
    assert re.findall(r"""(?:src|href|action|data)=["']?(?!data:|#)[^"'>\s]+|url\((?!#)|@import""", page) == []


def test_dvc_plots_shows_each_table_and_picture_once(project):
    """Also where figures name documents with marks in them, and leaks."""
    run = "и лодка и вода и берег и трава и песок и ветер и дождь."
    texts = [f"{text} <|endoftext|> {run}" for text in many_texts()]
    project.write_corpus(texts)
    project.ok("python", "-m", "stages.validate")
    figures = project.json("logs/validate.json")
    assert figures["marks"]
    assert figures["leakage"]["worst"]
    done = project.run("dvc", "plots", "show", "--json")
    assert done.stderr == ""
    shown = {name: plots for name, plots in json.loads(done.stdout)["data"].items() if plots}
    assert sorted(shown) == [
        *("logs/curves.svg", "logs/lengths.tsv", "logs/train_loss.tsv", "logs/validation.tsv"),
        *("test documents", "training loss"),
    ]
    titles = [plot["content"]["title"]["text"] for plots in shown.values() for plot in plots if "content" in plot]
    assert len(set(titles)) == 5
    points = shown["test documents"][0]["content"]["data"]["values"]
    assert len(points) == project.json("logs/evaluate.json")["documents"]
    project.ok("dvc", "plots", "show")
    assert "logs/validate.json" not in project.path("dvc_plots/index.html").read_text(encoding="utf-8")


def test_the_model_card_is_one_the_hub_accepts(reproduced):
    from huggingface_hub import ModelCard

    card = ModelCard.load(reproduced.path("model/MODEL_CARD.md"))
    assert card.data.library_name == "transformers"
    assert (card.data.language, card.data.pipeline_tag, card.data.tags) == ("ru", "text-generation", ["gpt2"])
    value = {result.metric_type: result.metric_value for result in card.data.eval_results}["bits_per_byte"]
    assert value == round(reproduced.json("logs/evaluate.json")["tuned"]["bits_per_byte"], 4)


# Running again, and elsewhere


def test_a_good_run_warns_of_nothing(reproduced):
    assert ran(reproduced.said.stdout) == list(STAGES)
    assert "WARNING" not in reproduced.said.stdout
    assert reproduced.said.stderr == ""


def test_a_second_repro_does_nothing(project):
    before = hashes(project)
    output = project.ok("dvc", "repro")
    assert ran(output) == []
    assert "up to date" in output
    assert hashes(project) == before
    assert project.ok("git", "status", "--porcelain") == ""


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_runs_by_itself_to_the_same_bytes(project, stage):
    before = hashes(project)
    project.ok("python", "-m", f"stages.{stage}")
    assert hashes(project) == before


@pytest.mark.parametrize("stage", ["validate", "tokenize", "report"])
def test_stages_that_need_no_torch_run_without_it(project, stage):
    blocked = f"import sys, runpy; sys.modules['torch'] = None; runpy.run_module('stages.{stage}', run_name='__main__')"
    project.ok("python", "-c", blocked)


def test_an_experiment_reruns_what_its_setting_touches_and_leaves_a_way_back(project):
    before = hashes(project)
    output = project.ok("dvc", "exp", "run", "-S", "train.epochs=1")
    assert ran(output) == ["train", "evaluate", "report"]
    rows = project.json("logs/tokenize.json")["train"]["rows"]
    assert project.json("logs/train.json")["steps"] == math.ceil(rows / 2)
    difference = json.loads(project.ok("dvc", "params", "diff", "--json"))
    assert difference == {"params.yaml": {"train.epochs": {"old": 3, "new": 1, "diff": -2}}}
    metrics = json.loads(project.ok("dvc", "metrics", "diff", "--json"))
    assert list(metrics) == ["logs/metrics.json"]
    assert metrics["logs/metrics.json"]["tokens"]["diff"] < 0
    project.ok("git", "checkout", ".")
    project.ok("dvc", "checkout")
    assert hashes(project) == before
    assert project.ok("git", "status", "--porcelain") == ""


def test_a_learning_rate_given_to_dvc_is_used_as_a_number(project):
    project.ok("dvc", "exp", "run", "-S", "train.learning_rate=5e-5", "train")
    assert project.json("logs/train.json")["learning_rate"] == 5e-5


@pytest.mark.slow
def test_a_trial_takes_a_few_lines_and_a_few_steps(project, inside):
    project.ok("dvc", "exp", "run", "-S", "corpus.limit=20", "-S", "train.max_steps=3", "-S", "train.precision=fp32")
    assert project.json("logs/validate.json")["lines"] == 20
    train = project.json("logs/train.json")
    assert (train["steps"], train["precision"]) == (3, "float32")
    inside.set(train__max_steps="null", train__epochs="0.05")
    inside.ok("python", "-m", "stages.train")
    assert project.json("logs/train.json")["steps"] == math.ceil(
        0.05 * math.ceil(project.json("logs/tokenize.json")["train"]["rows"] / 2)
    )


def test_a_mistake_in_an_experiment_is_one_line(project):
    error = project.fails("dvc", "exp", "run", "-S", "+train.epocs=5")
    (line,) = [line for line in error.splitlines() if line.startswith("error:")]
    assert "train.epocs is no known key (its value: 5): is train.epochs meant?" in line


def test_rows_longer_than_the_base_sees_are_refused_before_any_work(tiny_base, tmp_path):
    project = tiny_project(tmp_path / "project", tiny_base)
    project.set(tokenize__max_length="100000")
    result = project.run("dvc", "repro")
    assert result.returncode != 0
    assert (
        "error: params.yaml: tokenize.max_length is 100000, but the base model sees 64 tokens at most" in result.stderr
    )
    assert ran(result.stdout) == ["base"]  # which alone knows, where no run has taken this base before
    assert not project.path("model/base").exists()


def test_after_a_failed_stage_the_printed_line_brings_the_outputs_back(project):
    before = hashes(project)
    with project.path("data/my_corpus.jsonl").open("a", encoding="utf-8") as corpus:
        corpus.write("{'text': 'single quotes'}\n")
    error = project.fails("dvc", "repro")
    assert "data/my_corpus.jsonl, line 61: not JSON" in error
    (line,) = [line for line in error.splitlines() if "come back with: " in line]
    for command in line.partition("come back with: ")[2].split(" && "):
        project.ok(*command.split())
    assert hashes(project) == before


def test_nothing_is_brought_back_that_is_not_there_or_in_the_place_of_later_results(project, monkeypatch):
    """The line is for the last commit: with its outputs not here, or others made since, it would delete a model."""
    monkeypatch.chdir(project.folder)
    assert parents.last_commit_can_come_back()
    monkeypatch.setenv(parents.IN_A_COPY, "1")
    assert not parents.last_commit_can_come_back()
    monkeypatch.delenv(parents.IN_A_COPY)
    figures = project.path("logs/evaluate.json")
    before = figures.read_bytes()
    figures.unlink()  # as dvc does before a stage runs
    assert parents.last_commit_can_come_back()
    figures.write_bytes(before + b" ")
    assert not parents.last_commit_can_come_back()
    figures.write_bytes(before)
    (model,) = [out for out in lock_of(project)["train"]["outs"] if out["path"] == "model/finetuned"]
    project.path(f".dvc/cache/files/md5/{model['md5'][:2]}/{model['md5'][2:]}").unlink()
    assert not parents.last_commit_can_come_back()


def lock_of(project):
    return YAML(typ="safe", pure=True).load(project.path("dvc.lock"))["stages"]


def test_a_stage_that_fails_by_itself_leaves_the_earlier_outputs(project):
    before = hashes(project)
    project.path("data/my_corpus.jsonl").write_text("nothing good\n", encoding="utf-8")
    assert "is plain text, not JSON Lines" in project.fails("python", "-m", "stages.validate")
    assert hashes(project) == before
    assert not list(project.path("data").glob(".*.partial"))


def test_at_most_twenty_problems_are_shown(project):
    bad = '{"other": 1}\n{"text": 1}\n' * 25
    project.path("data/my_corpus.jsonl").write_bytes(lines_of(many_texts()) + bad.encode())
    error = project.fails("python", "-m", "stages.validate")
    assert "50 bad lines" in error
    assert error.count("no field") + error.count("is a JSON number") == 20
    assert "and 30 more" in error


@pytest.mark.parametrize(
    ("stage", "missing"),
    [
        ("tokenize", "data/validated"),
        ("train", "data/tokens"),
        ("evaluate", "model/finetuned"),
        ("report", "logs/train.json"),
    ],
)
def test_a_stage_whose_input_is_not_made_yet_says_so(inside, stage, missing):
    path = inside.path(missing)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert f"{missing} is not there yet: run dvc repro" in inside.fails("python", "-m", f"stages.{stage}")


def test_a_corpus_that_is_all_held_out_names_the_settings(project):
    project.write_corpus(["Единственный документ, целая книга."])
    project.set(validate__validation_fraction="0.0", validate__test_fraction="0.999999")
    assert "set validate.validation_fraction and" in project.fails("python", "-m", "stages.validate")


def test_a_missing_corpus_is_one_line(project):
    project.path("data/my_corpus.jsonl").unlink()
    assert "data/my_corpus.jsonl is not there" in project.fails("python", "-m", "stages.validate")


def test_a_corpus_too_small_for_held_out_documents_has_empty_figures(project):
    project.write_corpus(["Первый текст о погоде.", "Второй текст о реке."])
    project.set(validate__validation_fraction="0.0", validate__test_fraction="0.0")
    output = project.ok("dvc", "repro")
    assert "no document fell into test" in output
    assert "cannot be compared" in output
    assert project.json("logs/metrics.json")["bits_per_byte"] is None
    assert project.json("logs/metrics.json")["change"] is None
    assert project.json("logs/train.json")["validation_bits_per_byte"] is None
    assert "not known" in project.path("logs/report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_prompts_and_the_cards_language_follow_the_letters_of_the_texts(project):
    project.write_corpus([f"The kettle sang before anyone had asked it to, {number} times." for number in range(60)])
    project.set(train__epochs="1")
    project.ok("dvc", "repro")
    shown = files.read_json_lines(project.path("logs/samples.jsonl"))
    assert [one["prompt"] for one in shown if one["line"] is None] == [
        *("Once upon a time", "In the autumn the town", "“Tell me, please,”")
    ]
    card = project.path("model/MODEL_CARD.md").read_text(encoding="utf-8")
    assert "language: en" in card
    assert '"Once upon a time"' in card
    project.set(evaluate__prompts='["Жил-был"]', report__corpus_language="null")
    assert "evaluate.prompts, 'Жил-был': in Cyrillic letters" in project.ok("dvc", "repro").partition("'base'")[0]
    assert "language: en" not in project.path("model/MODEL_CARD.md").read_text(encoding="utf-8")


def test_the_users_text_stays_out_of_git(project):
    mark = "Тайно" + "пись"  # in two parts, so that this file does not hold it
    marked = [f"{text} {mark}{number}" for number, text in enumerate(many_texts())]
    project.write_corpus(marked)
    project.ok("git", "rm", "-q", "--cached", "data/my_corpus.jsonl")
    project.path("data/.gitignore").write_text("/my_corpus.jsonl\n/validated\n/tokens\n")
    project.ok("dvc", "repro")
    project.commit("private")
    for name in project.ok("git", "ls-files", "-z").split("\0")[:-1]:
        content = project.path(name).read_bytes()
        assert mark.encode() not in content, name
        assert json.dumps(mark)[1:-1].encode() not in content, name


def test_evaluation_says_what_it_does_and_no_more(inside):
    nothing = dict.fromkeys(("evaluate__held_out_prompts", "evaluate__copy_prompts", "evaluate__base_texts"), "0")
    inside.set(evaluate__prompts='["Кот"]', **nothing)
    said = inside.ok("python", "-m", "stages.evaluate")
    assert "has both models continue 1 prompt\n" in said
    assert "beginnings of documents" not in said
    assert "by itself" not in said
