"""The report as users open it: what it shows, in both languages, whatever the texts hold."""

import html
import json
import re
import shutil

import numpy as np
import pytest
import yaml
from conftest import TEXTS, make_base, ran, tiny_project

from stages import report
from stages.lib.common import files, params

pytestmark = pytest.mark.usefixtures("at_home")


def test_the_documents_that_gained_most_and_least(reproduced, monkeypatch):
    rows = files.read_tsv(reproduced.path("logs/documents.tsv"))
    gains = {int(row["line"]): float(row["tuned"]) - float(row["base"]) for row in rows}
    found = report._extremes({"documents": rows})
    count = min(report.LISTED, len(rows) // 2)
    assert [row["line"] for row in found["most"]] == sorted(gains, key=lambda line: (gains[line], line))[:count]
    assert [row["line"] for row in found["least"]] == sorted(gains, key=lambda line: (-gains[line], -line))[:count]
    assert not {row["line"] for row in found["most"]} & {row["line"] for row in found["least"]}


HOSTILE = "<script>x</script> [a](b) *c* `d` # e & f: 'g' - \\"


@pytest.mark.parametrize(
    ("text", "markdown", "code"),
    [
        ("GPT-2, fine-tuned", "GPT-2, fine-tuned", "`GPT-2, fine-tuned`"),
        ("<img src=x>", "&lt;img src=x&gt;", "`<img src=x>`"),
        ("[a](b) *c* #", "\\[a\\](b) \\*c\\* \\#", "`[a](b) *c* #`"),
        ("a`b``c", "a\\`b\\`\\`c", "``` a`b``c ```"),
        ("&amp; \\", "&amp;amp; \\\\", "`&amp; \\`"),
    ],
)
def test_what_others_wrote_is_text_in_the_card(text, markdown, code):
    assert report._markdown(text) == markdown
    assert report._code(text) == code


def test_a_hostile_title_and_base_stay_text_on_page_and_card(project):
    written = HOSTILE.replace("'", "''")
    project.set(report__title=f"'{written}'")
    path = project.path("model/base/provenance.json")
    path.chmod(0o644)
    files.write_json(path, project.json("model/base/provenance.json") | {"name": HOSTILE, "source": "hub"})
    project.ok("python", "-m", "stages.report")
    page = project.path("logs/report.html").read_text(encoding="utf-8")
    assert "<script>x" not in page
    card = project.path("model/MODEL_CARD.md").read_text(encoding="utf-8")
    header, _, body = card.removeprefix("---\n").partition("\n---\n")
    described = yaml.safe_load(header)
    assert described["base_model"] == described["model-index"][0]["name"] == HOSTILE
    assert f"# {report._markdown(HOSTILE)}\n" in body
    assert f"fine-tuned from {report._code(HOSTILE)} on " in body


def test_in_russian_everything_is(project):
    project.set(report__language="ru")
    output = project.ok("dvc", "repro")
    assert ran(output) == ["report"]
    assert "бит на байт" in output
    page = project.path("logs/report.html").read_text(encoding="utf-8")
    assert '<html lang="ru">' in page
    figure = project.json("logs/evaluate.json")["tuned"]["bits_per_byte"]
    assert f"{figure:.4f}".replace(".", ",") in page
    visible = re.sub(
        r"<style>.*?</style>|<svg.*?</svg>|<details>.*?</details>|<code>.*?</code>|<[^>]+>", " ", page, flags=re.DOTALL
    )
    texts = project.path("logs/samples.jsonl").read_text(encoding="utf-8")
    english = {word for word in re.findall(r"[A-Za-z]{4,}", visible) if word not in texts}
    names = "GPT fine tuned data corpus jsonl model embedded README logs validate json similarity train seed"
    names += " learning rate lora rank freeze layers"
    assert english <= set(names.split())


def test_the_default_title_is_in_the_language_of_the_report(project):
    for language, title in (("en", "GPT-2, fine-tuned"), ("ru", "Дообученная GPT-2")):
        project.set(report__title="null", report__language=language)
        project.ok("python", "-m", "stages.report")
        assert f"<title>{title}</title>" in project.path("logs/report.html").read_text(encoding="utf-8")
        assert f"\n# {report._markdown(title)}\n" in project.path("model/MODEL_CARD.md").read_text(encoding="utf-8")


def test_samples_stand_above_all_other_sections_with_the_tuned_model_first(reproduced):
    page = reproduced.path("logs/report.html").read_text(encoding="utf-8")
    marks = ['class="tiles"', "<h2 id=", 'class="sample"', "<h3>Tuned model", "<h3>Base model", 'id="training"']
    places = [page.index(mark) for mark in marks]
    assert places == sorted(places)
    assert page[places[1] :].startswith('<h2 id="samples">')
    # Each link of the contents leads somewhere.
    assert {*re.findall('href="#([a-z]+)"', page)} == {*re.findall('<h2 id="([a-z]+)"', page)}


def test_settings_are_yaml_in_the_letters_of_the_user(project):
    project.set(report__title="Ёжик в тумане")
    project.ok("python", "-m", "stages.report")
    page = project.path("logs/report.html").read_text(encoding="utf-8")
    shown = html.unescape(re.search('<pre dir="auto">(.*?)</pre>', page, re.DOTALL)[1])
    assert "title: Ёжик в тумане\n" in shown
    assert yaml.safe_load(shown) == params.load(project.path("params.yaml")).model_dump(by_alias=True)


def test_a_corpus_too_small_for_copies_has_a_sentence_instead_of_an_empty_table(inside):
    path = inside.path("logs/evaluate.json")
    figures = inside.json("logs/evaluate.json")
    none = {"prompts": 0, "longest_run": None, "mean_longest_run": None, "share_copied": None}
    few = {"prompts": 20, "longest_run": 64, "mean_longest_run": 9.5, "share_copied": 0.15}
    for training, shown in ((none, "Not tried: it takes"), (few, "<td>3 of 20</td>")):
        for model in ("base", "tuned"):
            figures[model]["copying"] = {"training": training, "held_out": none}
        files.write_json(path, figures)
        inside.ok("python", "-m", "stages.report")
        page = inside.path("logs/report.html").read_text(encoding="utf-8")
        section = page[page.index('id="copies"') : page.index('id="retention"')]
        assert shown in section
        assert ("<table>" in section) == (training is few)
        assert "test documents</th>" not in section
    inside.set(evaluate__copy_prompts="0")
    inside.ok("python", "-m", "stages.report")
    assert "copies" not in inside.path("logs/report.html").read_text(encoding="utf-8")


def rendered(project):
    output = project.ok("python", "-m", "stages.report")
    card = project.path("model/MODEL_CARD.md").read_text(encoding="utf-8")
    return output, project.path("logs/report.html").read_text(encoding="utf-8"), " ".join(card.split())


def test_one_test_document_has_no_interval(inside):
    figures = inside.json("logs/evaluate.json") | {"documents": 1}
    compared = {"difference": 0.5, "low": None, "high": None, "share_better": 0.0}
    files.write_json(inside.path("logs/evaluate.json"), figures | {"comparison": compared})
    output, page, card = rendered(inside)
    assert "interval" not in output
    assert "One document says nothing of others: there is no interval." in page
    assert "+0.500 bits per byte; how it would be on other documents one cannot tell." in card
    for text in (output, page):
        assert "Tuning made the model worse" not in text
        assert "Only 1 test document" in text


def test_what_was_handed_over_is_told_as_it_is(inside):
    figures = inside.json("logs/train.json")
    inside.set(train__gradient_accumulation_steps="16")
    for share, on_page, in_card in (
        (1.0, "the base model is kept as it is", "all the way back: it is the base as it was"),
        (0.004, "Then 0.4% of the way back", "gone 0.4% of the way back"),
        (0.3, "Then 30% of the way back", "gone 30% of the way back"),
    ):
        files.write_json(inside.path("logs/train.json"), figures | {"toward_base": share})
        _, page, card = rendered(inside)
        assert on_page in page
        assert in_card in card
        assert "in batches of 32 rows" in card
    lines = [row["line"] for row in files.read_tsv(inside.path("logs/documents.tsv"))]
    files.write_tsv(inside.path("data/validated/sources.tsv"), ["line", "source"], [(line, "1984") for line in lines])
    page = rendered(inside)[1]
    assert "1984" in page
    assert "line 1984" not in page
    evaluated = inside.json("logs/evaluate.json")
    files.write_json(inside.path("logs/evaluate.json"), evaluated | {"documents": 0, "comparison": None})
    assert "No documents were held out for a test: nothing was measured." in rendered(inside)[2]


def test_the_page_says_what_is_left_of_the_base_model(inside):
    path = inside.path("logs/evaluate.json")
    figures = files.read_json(path)
    figures["retention"] = {"texts": 21, "bytes": 999, "base": 1.5, "tuned": 2.0, "difference": 0.5}
    figures["retention"] |= {"low": 0.4321, "high": 0.5678}
    for retained, language, shown in (
        (
            figures["retention"],
            "en",
            ("21 texts by itself", "<td>1.5000</td><td>2.0000</td>", "Lost: 0.500", "0.432 to 0.568"),
        ),
        (figures["retention"], "ru", ("21 текст", "Утрачено: 0,500", "от 0,432 до 0,568")),
        (None, "en", ()),
    ):
        files.write_json(path, figures | {"retention": retained})
        inside.set(report__language=language)
        inside.ok("python", "-m", "stages.report")
        page = inside.path("logs/report.html").read_text(encoding="utf-8")
        assert ("retention" in page) == bool(retained)
        assert all(text in page for text in shown)


def test_line_ends_of_every_kind_stay_in_the_samples(inside):
    """Ordinary web texts hold U+2028 and U+0085, and so do the openings of documents in the samples."""
    odd = "Жил\u2028был\u2029один\x85кот\x1c\x0c."
    samples = files.read_json_lines(inside.path("logs/samples.jsonl"))
    samples[0]["prompt"] = samples[0]["base"]["text"] = odd
    inside.path("logs/samples.jsonl").write_text("".join(map(files.to_json_line, samples)), encoding="utf-8")
    inside.ok("python", "-m", "stages.report")
    page = inside.path("logs/report.html").read_bytes().decode("utf-8")
    assert page.count(f"<b><bdi>{odd}</bdi></b>") >= 1
    assert page.count(odd) >= 3


def test_texts_of_the_user_stand_in_their_own_direction(reproduced):
    """Each piece of text that a user or a model wrote has the direction of its own letters, not that of the page."""
    page = reproduced.path("logs/report.html").read_text(encoding="utf-8")
    assert re.search(r"<title>.*</title>", page)
    assert page.count('<h1 dir="auto">') == 1
    samples = re.findall(r'<div class="sample">(.*?)</div>\n</div>', page, re.DOTALL)
    lines = reproduced.path("logs/samples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(samples) == len(lines) > 3
    for shown, line in zip(samples, lines, strict=True):
        sample = json.loads(line)
        # The prompt, then both models' texts, and the original where there is one.
        assert f"<b><bdi>{html.escape(sample['prompt'])}</bdi></b>" in shown
        assert shown.count('<p class="text" dir="auto">') == 2 + (sample["original"] is not None)
        assert shown.count('class="text"') == shown.count('dir="auto"')
    assert '<pre dir="auto">' in page
    assert "<bdi>data/my_corpus.jsonl</bdi>" in page
    assert "<bdi>model/embedded</bdi>" in page


@pytest.mark.slow
def test_what_a_model_learned_by_heart_is_marked_in_its_samples(project):
    project.set(
        train__epochs="30",
        train__learning_rate="1e-2",
        train__keep="last",
        train__toward_base="0",
        evaluate__new_tokens="40",
        evaluate__temperature="0.01",
        evaluate__prompts='["The kettle"]',
    )
    output = project.ok("dvc", "repro")
    assert "! Some samples repeat a training text word for word" in output
    sample = json.loads(project.path("logs/samples.jsonl").read_text(encoding="utf-8").splitlines()[0])
    ((start, end),) = sample["tuned"]["copied"]
    copied = sample["tuned"]["text"][start:end]
    lines = project.path("data/my_corpus.jsonl").read_text(encoding="utf-8").splitlines()
    assert any(copied in json.loads(line)["text"] for line in lines)
    assert sample["base"]["copied"] == []
    assert f"<mark>{copied}</mark>" in project.path("logs/report.html").read_text(encoding="utf-8")
    assert project.json("logs/evaluate.json")["tuned"]["samples"]["copied"] > 0


@pytest.mark.slow
def test_a_corpus_learned_by_heart_is_warned_of(tiny_base, tmp_path):
    """Random words, so that nothing but the training documents themselves can teach how they go on.

    All of them are truncated, and what was left of each was learned by heart.
    """
    project = tiny_project(tmp_path / "project", tiny_base)
    shutil.rmtree(project.path("model/embedded"))
    make_base(project.path("model/embedded"), context=160)
    random, words = np.random.default_rng(0), " ".join(TEXTS).split()
    project.write_corpus([" ".join(random.choice(words, 50)) for _ in range(16)])
    project.set(
        tokenize__max_length="100",
        tokenize__overlong="truncate",
        train__epochs="60",
        train__learning_rate="1e-2",
        train__keep="last",
        train__toward_base="0",
    )
    project.set(validate__test_fraction="0.2", evaluate__held_out_prompts="0", evaluate__new_tokens="2")
    output = project.ok("dvc", "repro")
    figures = project.json("logs/evaluate.json")
    training = project.json("logs/tokenize.json")["train"]
    assert training["overlong_documents"] == training["documents"]
    copying = figures["tuned"]["copying"]
    assert copying["training"]["prompts"] == training["documents"]
    assert copying["held_out"]["prompts"] > 0
    assert copying["training"]["share_copied"] > 0.5
    assert copying["held_out"]["share_copied"] == 0.0
    assert figures["base"]["copying"]["training"]["share_copied"] == 0.0
    assert "! Memorised: given the beginning, the model continues " in output


def test_page_and_card_do_not_depend_on_how_they_were_made_but_what_is_said_does(inside):
    made = [inside.path(name) for name in ("logs/report.html", "model/MODEL_CARD.md")]
    before = [path.read_bytes() for path in made]
    said = inside.ok("python", "-m", "stages.report", STARTED_WITH="./run")
    assert "Generate text: ./run python generate.py" in said
    assert "Curves: ./run tensorboard --logdir logs/tensorboard" in said
    assert [path.read_bytes() for path in made] == before
    page = html.unescape(before[0].decode())
    assert re.search(
        r"<code>dvc exp run .*?</ul>\s*<p class=\"dim\">Commands are typed .* ./run before it", page, re.DOTALL
    )


def test_the_licence_of_the_tuned_model_is_left_to_its_owner(inside):
    path = inside.path("model/base/provenance.json")
    path.chmod(0o644)
    files.write_json(path, inside.json("model/base/provenance.json") | {"licence": "mit"})
    inside.ok("python", "-m", "stages.report")
    card = inside.path("model/MODEL_CARD.md").read_text(encoding="utf-8")
    assert "license" not in yaml.safe_load(card.split("---")[1])
    assert "The base model is under `mit`.\nWhether this model may be shared" in card
