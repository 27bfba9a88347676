"""The report: what it advises, in both languages, and what it shows."""

import ast
import copy
import html
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import yaml
from conftest import HOME, TEXTS, make_base, ran, tiny_project

from stages import report
from stages.lib.common import files
from stages.lib.page import advice, pictures
from stages.lib.page.language import Words

ENGLISH = Words("en")


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    monkeypatch.chdir(HOME)  # where templates and catalogues are found


# Words


def messages():
    """Every message that can be asked for, from the template and from the code."""
    template = (HOME / "stages/lib/page/templates/report.html").read_text(encoding="utf-8")
    extracted = report.page_environment(ENGLISH).extract_translations(template)
    found = {message if isinstance(message, str) else message[0] for _, _, message in extracted}
    for module in ("stages/report.py", "stages/lib/page/advice.py", "stages/lib/page/pictures.py"):
        for node in ast.walk(ast.parse((HOME / module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "words":
                found.add(ast.literal_eval(node.args[0]))
    return found


def test_the_russian_catalogue_has_every_message_and_no_other():
    catalogue = yaml.safe_load((HOME / "stages/lib/page/templates/ru.yaml").read_text(encoding="utf-8"))
    assert set(catalogue) == messages()
    for english, russian in catalogue.items():
        values = [sorted(re.findall(r"%\(\w+\)s", text)) for text in (english, russian)]
        assert values[0] == values[1], english
        assert not re.search(r"(?<!%)%(?![%(])", english + russian), english
        assert re.search("[а-яё]", russian), english


@pytest.mark.parametrize(
    ("value", "digits", "english", "russian"),
    [
        (1.19371, 4, "1.1937", "1,1937"),
        (26332, 0, "26\u202f332", "26\u202f332"),
        (1234567.891, 1, "1\u202f234\u202f567.9", "1\u202f234\u202f567,9"),
        (-0.1427, 3, "\N{MINUS SIGN}0.143", "\N{MINUS SIGN}0,143"),
        (-0.00001, 2, "0.00", "0,00"),
        (None, 2, "–", "–"),
    ],
)
def test_numbers_are_written_as_the_language_writes_them(value, digits, english, russian):
    assert ENGLISH.number(value, digits) == english
    assert Words("ru").number(value, digits) == russian


# Advice


GOOD = {
    "settings": {
        "train": {"epochs": 3, "keep": "best"},
        "evaluate": {"new_tokens": 200},
        "report": {"corpus_language": "ru"},
    },
    "base": {"source": "hub"},
    "validate": {
        "lines": 500,
        "rejected": 0,
        "duplicates": 0,
        "marks": [],
        "few_long_documents": False,
        "leakage": {"leaking_share": 0.0, "run_of_words": 13},
    },
    "tokenize": {"vocabulary_fits": True, "bytes_per_token": 4.0, "train": {"tokens": 50_000}, "dropped_tokens": 0},
    "train": {"best_step": 156, "learning_rate": 5e-4},
    "validation": [{"bits_per_byte": bits} for bits in ("1.33", "1.21", "1.2001", "1.2000")],
    "evaluate": {
        "documents": 38,
        "comparison": {"difference": -0.14, "low": -0.16, "high": -0.12, "share_better": 1.0},
        "tuned": {
            "samples": {"copied": 0.0, "ended": 0.5, "broken": 0.0, "repetition": 0.01},
            "copying": {"training": {"share_copied": 0.05}, "held_out": {"share_copied": 0.0}},
        },
    },
}


def changed(**changes):
    """The figures of a good run with some of them changed; `a__b=1` is facts["a"]["b"] = 1."""
    facts = copy.deepcopy(GOOD)
    for path, value in changes.items():
        *outer, last = path.split("__")
        place = facts
        for name in outer:
            place = place[name]
        place[last] = value
    return facts


def validations(*bits):
    return [{"bits_per_byte": str(one)} for one in bits]


def test_a_good_run_has_no_warning():
    assert advice.warnings(GOOD, ENGLISH) == []


TROUBLES = [
    ({"evaluate__documents": 0, "evaluate__comparison": None}, "whether the model got better is not known", None),
    ({"evaluate__documents": 19}, "Only 19 test documents", None),
    ({"evaluate__comparison__high": 0.0}, "may be chance: its 95 % interval includes 0", None),
    (
        {"evaluate__comparison__low": 0.01, "evaluate__comparison__high": 0.02},
        "worse on texts it had not seen",
        "train.learning_rate=0.00017",
    ),
    ({"validation": []}, "No document fell into the validation split", None),
    ({"validation": validations(1.3, 1.31, 1.3)}, "never beaten", "train.learning_rate=0.00017"),
    (
        {"validation": validations(1.3, 1.2, 1.212), "train__best_step": 52},
        "Overfitting: after step 52 the validation got worse",
        "train.epochs=1",
    ),
    (
        {"validation": validations(1.3, 1.2, 1.212), "settings__train__keep": "last"},
        "train.keep=best keeps the better weights",
        "train.keep=best",
    ),
    ({"validate__rejected": 3}, "3 lines were left out: data/rejected.jsonl", None),
    (
        {"validate__marks": [{"mark": "<|endoftext|>"}, {"mark": "</s>"}]},
        "The texts hold <|endoftext|>, </s>, with which other tools part texts",
        None,
    ),
    (
        {"evaluate__documents": 0, "validate__few_long_documents": True},
        "whether the model got better is not known. Divide your long documents",
        None,
    ),
    ({"validate__duplicates": 51}, "10\u00a0% of the lines repeat another one", None),
    ({"validate__leakage__leaking_share": 0.011}, "Leakage: 1.1\u00a0% of the held-out documents share 13 words", None),
    (
        {"tokenize__vocabulary_fits": False, "tokenize__bytes_per_token": 1.68},
        "made for another language: a token stands for 1.7 bytes of your texts",
        None,
    ),
    ({"tokenize__train__tokens": 19_999}, "Little to learn from: 19\u202f999 training tokens", None),
    ({"tokenize__dropped_tokens": 7}, "7 tokens of long documents were left out", "tokenize.overlong=split"),
    ({"evaluate__tuned__copying__training__share_copied": 0.2}, "Memorised: given their beginnings", None),
    ({"evaluate__tuned__samples__copied": 0.1}, "repeat a training text word for word", None),
    ({"evaluate__tuned__samples__ended": 0.0}, "No sample ended by itself", "evaluate.new_tokens=400"),
    ({"evaluate__tuned__samples__broken": 0.1}, "bytes that are no characters", None),
    ({"evaluate__tuned__samples__repetition": 0.3}, "repeat themselves", None),
]


@pytest.mark.parametrize(("changes", "text", "command"), TROUBLES)
def test_each_trouble_has_its_warning(changes, text, command):
    (finding,) = advice.warnings(changed(**changes), ENGLISH)
    assert text in finding.text
    assert finding.command == (f"dvc exp run -S {command}" if command else None)


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluate__documents": 20},
        {"evaluate__comparison__high": -0.0001},
        {"validation": validations(1.3, 1.2, 1.2119)},
        {"validate__duplicates": 50},
        {"validate__leakage__leaking_share": 0.01},
        {"validate__leakage__leaking_share": None},  # no held-out documents
        {"tokenize__train__tokens": 20_000},
        {"evaluate__tuned__copying__training__share_copied": 0.1},
        {"evaluate__tuned__copying__training__share_copied": None},
        {"evaluate__tuned__samples__ended": None},  # no samples were asked for
        {"evaluate__tuned__samples__repetition": None},
    ],
)
def test_what_is_just_within_bounds_has_none(changes):
    assert advice.warnings(changed(**changes), ENGLISH) == []


def test_commands_that_are_advised_are_settings_the_schema_takes():
    from ruamel.yaml import YAML

    from stages.lib.common import params

    settings = YAML(typ="safe", pure=True).load(HOME / "params.yaml")
    facts = [changed(**changes) for changes, _, _ in TROUBLES]
    facts += [changed(validation=validations(1.3, 1.2, 1.1)), changed(base__source="folder")]
    for one in facts:
        one["settings"]["report"]["corpus_language"] = "en"
    found = [finding for one in facts for finding in (*advice.warnings(one, ENGLISH), *advice.next_steps(one, ENGLISH))]
    commands = {finding.command for finding in found if finding.command and " -S " in finding.command}
    assert len(commands) >= 8
    for command in commands:
        key, value = re.search(r"-S '?([\w.]+)=([^',\s]+)", command).groups()
        section, name = key.split(".")
        assert name in settings[section], command
        params.Params.model_validate(settings | {section: settings[section] | {name: yaml.safe_load(value)}})


def test_a_validation_that_still_falls_asks_for_more_epochs():
    falling = changed(validation=validations(1.33, 1.21, 1.20))
    assert "dvc exp run -S train.epochs=6" in [step.command for step in advice.next_steps(falling, ENGLISH)]
    flat = changed(validation=validations(1.33, 1.21, 1.206))
    assert "dvc exp run -S train.epochs=6" not in [step.command for step in advice.next_steps(flat, ENGLISH)]


# Pictures


STEPS = [{"step": str(step), "loss": str(5 - step / 100)} for step in range(1, 30)]
POINTS = [
    {"step": str(step), "loss": str(5 - step / 200), "bits_per_byte": str(1.3 - step / 300)} for step in (0, 15, 29)
]
DOCUMENTS = [{"base": str(1 + n / 50), "tuned": str(1.02 + n / 60)} for n in range(20)]
LENGTHS = [{"from": "100", "to": "200", "documents": "3"}, {"from": "200", "to": "5000", "documents": "8"}]


def drawn(words):
    return {
        "loss": pictures.loss(STEPS, POINTS, 15, words),
        "bits": pictures.bits_per_byte(POINTS, 15, words),
        "documents": pictures.documents(DOCUMENTS, words),
        "lengths": pictures.lengths(LENGTHS, words),
        "curves": pictures.curves(STEPS, POINTS, 15, words),
    }


@pytest.mark.parametrize("language", ["en", "ru"])
def test_pictures_are_svg_with_ids_of_their_own_and_the_same_bytes_every_time(language):
    words = Words(language)
    made = drawn(words)
    assert made == drawn(words)
    ids = []
    for svg in made.values():
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        own = [element.get("id") for element in root.iter() if element.get("id")]
        ids += own
        for used in re.findall(r'(?:href="|url\()#([^")]+)', svg):
            assert used in own
    assert len(ids) == len(set(ids))


def test_pictures_of_the_page_take_its_colours_and_the_file_has_its_own():
    made = drawn(ENGLISH)
    assert "currentColor" not in made["curves"]
    assert "fill: #ffffff" in made["curves"]
    for name in ("loss", "bits", "documents", "lengths"):
        assert "currentColor" in made[name]
        assert "#000000" not in made[name]
        assert pictures._INK not in made[name]


def labels(svg):
    """The words and numbers that a picture shows: letters are drawn, and beside each text stands what it says."""
    return re.findall("<!-- (.*?) -->", svg)


def test_numbers_along_the_axes_are_written_as_the_language_writes_them():
    for name in ("loss", "bits", "documents", "curves"):
        english, russian = (labels(drawn(Words(language))[name]) for language in ("en", "ru"))
        points = [text for text in english if re.fullmatch(r"\d+\.\d+", text)]
        assert len(points) > 2
        assert [text for text in russian if re.fullmatch(r"\d+,\d+", text)] == [
            text.replace(".", ",") for text in points
        ]


def test_the_weights_that_were_kept_are_marked_where_they_have_a_point():
    for draw in (pictures.loss, pictures.curves):
        assert "kept: step 15" in labels(draw(STEPS, POINTS, 15, ENGLISH))
        assert "kept: step 16" not in labels(draw(STEPS, POINTS, 16, ENGLISH))


def test_lengths_that_differ_widely_stand_on_a_logarithmic_axis():
    close = [{"from": "100", "to": "200", "documents": "3"}, {"from": "200", "to": "500", "documents": "8"}]
    assert any("10^" in text for text in labels(pictures.lengths(LENGTHS, ENGLISH)))
    assert not any("10^" in text for text in labels(pictures.lengths(close, ENGLISH)))


def test_a_point_stands_where_its_figures_say():
    """The scatter's points, read back from the SVG, lie on a straight line through their figures."""
    root = ElementTree.fromstring(drawn(ENGLISH)["documents"])
    uses = [
        (float(use.get("x")), float(use.get("y")))
        for group in root.iter("{http://www.w3.org/2000/svg}g")
        if group.get("id", "").startswith("documents-line2d")
        for use in group.iter("{http://www.w3.org/2000/svg}use")
    ]
    better = [row for row in DOCUMENTS if float(row["tuned"]) < float(row["base"])]
    worse = [row for row in DOCUMENTS if float(row["tuned"]) >= float(row["base"])]
    points = uses[-len(DOCUMENTS) - 2 :]  # after them come the legend's two
    for (x, y), row in zip(points, better + worse, strict=False):
        across = (x - points[0][0]) / (points[1][0] - points[0][0])
        up = (y - points[0][1]) / (points[1][1] - points[0][1])
        steps = [
            (float(row[name]) - float(better[0][name])) / (float(better[1][name]) - float(better[0][name]))
            for name in ("base", "tuned")
        ]
        assert [across, up] == pytest.approx(steps, abs=1e-3)
    # A bit per byte is as long across as it is up, so that the diagonal is one.
    units = [
        abs(points[1][side] - points[0][side]) / abs(float(better[1][name]) - float(better[0][name]))
        for side, name in enumerate(("base", "tuned"))
    ]
    assert units[0] == pytest.approx(units[1], rel=1e-3)


def test_a_long_run_is_thinned_so_that_the_page_stays_small():
    many = [{"step": str(step), "loss": "4.0"} for step in range(1, 50_001)]
    assert len(pictures.loss(many, POINTS, 15, ENGLISH)) < 150_000
    rows = [{"base": str(1 + n % 97 / 50), "tuned": str(1 + n % 89 / 50)} for n in range(50_000)]
    assert len(pictures.documents(rows, ENGLISH)) < 500_000


# The page


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
