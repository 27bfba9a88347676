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
from stages.lib.common import files

pytestmark = pytest.mark.usefixtures("at_home")


def test_the_documents_that_gained_most_and_least(reproduced, monkeypatch):
    rows = files.read_tsv(reproduced.path("logs/documents.tsv"))
    gains = {int(row["line"]): float(row["tuned"]) - float(row["base"]) for row in rows}
    found = report._extremes({"documents": rows})
    count = min(10, len(rows) // 2)
    assert [row["line"] for row in found["most"]] == sorted(gains, key=lambda line: (gains[line], line))[:count]
    assert [row["line"] for row in found["least"]] == sorted(gains, key=lambda line: (-gains[line], -line))[:count]
    assert not {row["line"] for row in found["most"]} & {row["line"] for row in found["least"]}


def test_a_text_is_cut_where_copies_begin_and_end():
    pieces = list(report._pieces("abcdefgh", [[0, 2], [5, 8]]))
    assert pieces == [("", False), ("ab", True), ("cde", False), ("fgh", True), ("", False)]
    assert list(report._pieces("abc", [])) == [("abc", False)]


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
    names = "GPT fine tuned data corpus jsonl model embedded README logs validate json train seed"
    assert english <= set(names.split())


def test_line_ends_of_every_kind_stay_in_the_samples(project):
    """Ordinary web texts hold U+2028 and U+0085, and so do the openings of documents in the samples."""
    odd = "Жил\u2028был\u2029один\x85кот\x1c\x0c."
    samples = files.read_json_lines(project.path("logs/samples.jsonl"))
    samples[0]["prompt"] = samples[0]["base"]["text"] = odd
    project.path("logs/samples.jsonl").write_text("".join(map(files.to_json_line, samples)), encoding="utf-8")
    project.ok("python", "-m", "stages.report")
    page = project.path("logs/report.html").read_bytes().decode("utf-8")
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


def test_what_a_model_learned_by_heart_is_marked_in_its_samples(project):
    project.set(
        train__epochs="30",
        train__learning_rate="1e-2",
        train__keep="last",
        evaluate__new_tokens="40",
        evaluate__temperature="0.01",
    )
    settings = project.path("params.yaml")
    settings.write_text(settings.read_text(encoding="utf-8").replace('"Жил-был"', '"The kettle"'), encoding="utf-8")
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
    assert "! Memorised: given their beginnings, the model goes on word for word" in output
