"""What people look at, in a real browser: the report, TensorBoard, and the page of `dvc plots show`."""

import json
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
from browsing import PHONE, WIDE, Watched
from conftest import environment
from servers import free_port
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = pytest.mark.slow


def luminance(colour):
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(", ")[:3]))


@pytest.fixture(scope="module")
def finished(reproduced, tmp_path_factory):
    """A finished run with HTML in its texts and, in one of them, a copied part."""
    folder = tmp_path_factory.mktemp("browser") / "project"
    shutil.copytree(reproduced.folder, folder, symlinks=True)
    project = type(reproduced)(folder, **reproduced.env)
    samples = project.path("logs/samples.jsonl")
    lines = list(map(json.loads, samples.read_text(encoding="utf-8").splitlines()))
    lines[0]["prompt"] = "<script>document.title = 'taken over'</script>"
    lines[0]["tuned"] |= {"text": "<b id='bold'>Жирный</b> & <img src=x onerror=alert(1)>", "copied": [[0, 22]]}
    samples.unlink()  # a link into DVC's cache, perhaps
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    project.ok("python", "-m", "stages.report")
    return project


def at(figures, path):
    for name in path.split("."):
        figures = figures[name]
    return figures


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_report(browser, finished, size, scheme):
    watched = Watched(browser, size, scheme)
    path = finished.path("logs/report.html")
    page = watched.open(path)
    figures = finished.json("logs/evaluate.json")

    shown = page.evaluate("[...document.querySelectorAll('[data-figure]')].map(e => [e.dataset.figure, e.innerText])")
    assert len(shown) >= 11
    for name, text in shown:
        digits = len(text.partition(".")[2])
        assert float(text.replace("\N{MINUS SIGN}", "-").replace(",", "")) == round(at(figures, name), digits), name
    assert {name for name, _ in shown} >= {"base.bits_per_byte", "tuned.bits_per_byte", "tuned.end_of_text_nats"}

    # Markup in a text stays text.
    assert page.title() == "GPT-2, fine-tuned"
    assert page.query_selector("#bold") is None
    text = page.inner_text("body")
    assert "<script>document.title = 'taken over'</script>" in text
    assert "<b id='bold'>Жирный</b> & <img src=x onerror=alert(1)>" in text
    assert page.inner_text("mark") == "<b id='bold'>Жирный</b"

    # Nothing is asked for but the file itself, and nothing goes wrong.
    assert watched.asked == [path.as_uri()]
    assert watched.complaints == []

    # Nothing is wider than the screen, and the pictures are there, in the colour of the text.
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert page.evaluate("[...document.querySelectorAll('.wide')].every(e => e.scrollWidth <= e.clientWidth)")
    pictures = page.query_selector_all("figure svg")
    assert len(pictures) == 3
    assert all(picture.bounding_box()["width"] > 250 for picture in pictures)
    colours = page.evaluate("(e => [e.backgroundColor, e.color])(getComputedStyle(document.body))")
    paper, ink = map(luminance, colours)
    assert (paper > 700 and ink < 150) if scheme == "light" else (paper < 150 and ink > 600)
    glyph = page.evaluate("getComputedStyle(document.querySelector('figure svg [id*=text_] g')).fill")
    assert glyph == colours[1]


def test_the_report_in_print_is_dark_on_white_even_from_a_dark_screen(browser, finished):
    watched = Watched(browser, scheme="dark")
    page = watched.open(finished.path("logs/report.html"))
    page.emulate_media(media="print", color_scheme="dark")
    paper, ink = page.evaluate("(e => [e.backgroundColor, e.color])(getComputedStyle(document.body))")
    assert (luminance(paper), luminance(ink)) == (3 * 255, 0)
    assert page.pdf()[:5] == b"%PDF-"


def test_cyrillic_letters_are_drawn(browser, finished):
    """A font without them would draw the same box for each."""
    page = Watched(browser).open(finished.path("logs/report.html"))
    widths = page.evaluate(
        """[...'шіЖ'].map(letter => {
            const one = document.createElement('span');
            one.textContent = letter.repeat(20);
            document.body.append(one);
            return one.getBoundingClientRect().width;
        })"""
    )
    assert len(set(widths)) == 3


@contextmanager
def tensorboard(project):
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "logs/tensorboard", "--port", str(port)]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1"], cwd=project.folder, env=environment(), stderr=subprocess.PIPE, text=True
    )
    try:
        assert any("http://127.0.0.1" in line for line in server.stderr), "TensorBoard did not start"
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.communicate()


def written(project):
    """The longest word of the first sample of the last validation."""
    (run,) = project.path("logs/tensorboard").iterdir()
    events = EventAccumulator(str(run)).Reload()
    text = events.Tensors("sample/1/text_summary")[-1].tensor_proto.string_val[0].decode()
    return max(re.findall(r"\w+", text), key=len)


def test_tensorboard_shows_the_curves_and_the_samples(browser, finished):
    watched = Watched(browser)
    page = watched.page
    with tensorboard(finished) as address:
        page.goto(f"{address}/#timeseries")
        tags = ("loss", "learning_rate", "gradient_norm", "tokens_per_second")
        for tag in (*(f"train/{tag}" for tag in tags), "validation/loss", "validation/bits_per_byte"):
            page.fill("input[placeholder*='Filter tags']", tag)  # cards below the window are not drawn
            page.wait_for_selector(f"card-view [title='{tag}']", timeout=30_000)
        # A curve is drawn: a path of several points with some extent.
        page.wait_for_function(
            """[...document.querySelectorAll('card-view svg path, card-view canvas')].some(
                drawn => drawn.getBoundingClientRect().width > 50)"""
        )
        page.goto(f"{address}/#text")
        page.locator("text=sample/1/text_summary").first.wait_for(timeout=30_000)
        page.locator("tf-markdown-view, tf-text-loader").get_by_text(written(finished)).first.wait_for(timeout=30_000)
    assert all(url.startswith((address, "data:", "blob:")) for url in watched.asked)
    assert [one for one in watched.complaints if "Three.js" not in one] == []


def test_the_page_of_dvc_plots_shows_the_curves_without_the_network(browser, finished):
    finished.ok("dvc", "plots", "show", "-o", "plots")
    page = Watched(browser).open(finished.path("plots/index.html"))
    page.wait_for_load_state()
    images = page.evaluate("[...document.images].map(image => [image.src, image.naturalWidth])")
    ((source, width),) = images
    assert source.endswith("logs_curves.svg")
    assert width > 500
