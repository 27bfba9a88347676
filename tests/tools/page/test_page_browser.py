"""The page in a real browser, served by the command that users type, in an environment with its packages."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import threading
import urllib.error
import urllib.request
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import servers
from browsing import PHONE, WIDE, Watched
from conftest import HOME, environment

from stages.lib.bases import conversion
from stages.lib.common import cli
from stages.lib.model import generation, models
from stages.lib.rows import packing, tokens
from tools.packages import PAGE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Python as it is after `pip install -r tools/page_requirements.txt`."""
    folder = tmp_path_factory.mktemp("environment") / "page"
    return servers.make_environment(folder, ("-r", str(HOME / PAGE)), inherit=True) / "python"


@pytest.fixture(scope="module")
def finished(reproduced, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "project"
    shutil.copytree(reproduced.folder, folder, symlinks=True)
    return type(reproduced)(folder, **reproduced.env)


@contextmanager
def page_of(project, python, *arguments, **env):
    """The address of the page, and what the command has said; at the end Ctrl-C ends it with 0."""
    command = [str(python), "-m", "tools.page", "--port", "0", *arguments]
    process = subprocess.Popen(
        command,
        cwd=project.folder,
        env=environment(**project.env, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"http://\S+", line):
                break
        else:
            pytest.fail("".join(said))
        rest = threading.Thread(target=lambda: said.extend(process.stdout), daemon=True)
        rest.start()
        yield found[0], said
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        rest.join()
        assert "Traceback" not in "".join(said)
    finally:
        process.kill()
        process.wait()


class Visitor(Watched):
    """Somebody at the page, who turns its knobs and reads it."""

    def __init__(self, browser, address, size=WIDE, scheme="light"):
        super().__init__(browser, size, scheme)
        self.page.goto(address)
        self.page.wait_for_selector("#write")

    def turn(self, **knobs):
        if not self.page.is_visible("#seed textarea"):
            self.page.click("#knobs button")
            self.page.wait_for_selector("#seed textarea")
        for name, value in knobs.items():
            field = "textarea" if name == "seed" else "input[type=number]"
            self.page.fill(f"#{name.replace('_', '-')} {field}", str(value))
            self.page.keyboard.press("Tab")

    def write(self, prompt):
        """Type a prompt, have it continued, and look on; return what was seen of both texts together, as it grew."""
        self.page.fill("#prompt textarea", prompt)
        self.page.evaluate(
            """() => {
                window.seen = []
                window.begun = false
                const note = () => {
                    window.begun ||= document.querySelector('#write').disabled
                    window.seen.push(['tuned', 'base'].map(
                        id => document.querySelector(`#${id} .text`).innerText).join('\\n'))
                }
                window.looker && window.looker.disconnect()
                window.looker = new MutationObserver(note)
                const how = {childList: true, subtree: true, characterData: true, attributes: true}
                window.looker.observe(document.body, how)
            }"""
        )
        self.press_write("window.begun")
        self.wait()
        return self.page.evaluate("window.seen")

    def press_write(self, happens):
        """Press the button until something `happens`, an expression says what; twice at most.

        Once in some twenty runs of all tests nothing came of the first press, and nobody knows why: a second one that
        is needed is told with all that may explain it.
        """
        not_in_time = pytest.importorskip("playwright.sync_api").TimeoutError
        for presses_left in (1, 0):
            self.page.click("#write")
            try:
                return self.page.wait_for_function(happens, timeout=20_000)
            except not_in_time:
                knobs = self.page.eval_on_selector_all("#knobs input, #knobs textarea", "all => all.map(e => e.value)")
                asked = [url for url in self.asked if "/gradio_api/" in url]
                what = f"{self.said()!r}, knobs {knobs}, asked {asked}, complaints {self.complaints}"
                if not presses_left:
                    pytest.fail(f"nothing came of two presses: {what}")
                warnings.warn(f"nothing came of a press: {what}", stacklevel=2)

    def wait(self):
        """Until the texts that are being written are there."""
        self.page.wait_for_function(
            "document.querySelector('#state details') && !document.querySelector('#write').disabled"
        )

    def text(self, name):
        return self.page.text_content(f"#{name} .text")

    def said(self):
        return self.page.inner_text("#state")


@pytest.fixture(scope="module")
def served(finished, python):
    with page_of(finished, python) as (address, said):
        yield address
    assert said == [f"the page is at {address} until Ctrl-C\n"]


def generated(project, command):
    """What the command on the page writes, by the name of the model, as the page shows it."""
    lines = project.ok(*shlex.split(command), "--output", "-").splitlines()
    return {
        one["model"]: cli.harmless(one["prompt"] + one["text"]) + ("" if one["ended"] else "…")
        for one in map(json.loads, lines)
    }


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_both_texts_come_as_they_are_written_and_are_those_of_generate(browser, served, finished, size):
    visitor = Visitor(browser, served, size)
    visitor.turn(temperature=1.25, top_p=0.9, length=60, seed=11)
    seen = visitor.write("Кот <b>смотрел</b>\nна снег,")
    assert len(set(seen)) > 3
    command = visitor.page.text_content("#state code")
    assert "--seed 11 --tokens 60 --temperature 1.25 --top-p 0.9" in command
    assert {name: visitor.text(name) for name in ("base", "tuned")} == generated(finished, command)
    # Nothing but this page was asked for, nothing went wrong, and nothing is wider than the screen.
    assert {url for url in visitor.asked if not url.startswith((served, "data:", "blob:"))} == set()
    assert visitor.complaints == []
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    tops = [visitor.page.locator(f"#{name}").bounding_box()["y"] for name in ("tuned", "base")]
    assert (tops[0] == tops[1]) == (size is WIDE)


def test_without_a_seed_it_is_another_text_each_time_and_the_seed_is_told(browser, served, finished):
    visitor = Visitor(browser, served)
    visitor.turn(length=40)
    texts, seeds = set(), set()
    for _ in range(2):
        visitor.write("Кот")
        texts.add(visitor.text("tuned"))
        seeds.add(visitor.page.text_content("#seed-used"))
    assert len(texts) == len(seeds) == 2
    assert generated(finished, visitor.page.text_content("#state code"))["tuned"] == visitor.text("tuned")


def test_a_text_is_kept_as_generate_writes_it(browser, served, finished):
    visitor = Visitor(browser, served)
    visitor.turn(length=20, seed=5)
    visitor.write("Снег")
    finished.path("logs/kept.jsonl").unlink(missing_ok=True)
    for name in ("tuned", "base"):
        visitor.page.click(f"#keep-{name}")
        visitor.page.wait_for_selector(f"#keep-{name}:disabled")
    assert visitor.said().startswith("kept in logs/kept.jsonl\n")
    lines = finished.ok(
        *("python", "generate.py", "Снег", "--compare", "--seed", "5", "--tokens", "20", "--output", "-")
    ).splitlines()
    assert finished.path("logs/kept.jsonl").read_text(encoding="utf-8").splitlines() == lines[::-1]
    assert "kept.jsonl" not in finished.ok("git", "status", "--porcelain")
    finished.path("logs/kept.jsonl").unlink()
    finished.path("logs/kept.jsonl").mkdir()
    visitor.write("Снег")
    visitor.page.click("#keep-base")
    visitor.page.wait_for_selector("#state .bad")
    assert "error: a folder stands where a file belongs: logs/kept.jsonl" in visitor.said()
    finished.path("logs/kept.jsonl").rmdir()


def test_what_cannot_be_is_one_line_on_the_page(browser, served):
    visitor = Visitor(browser, served)
    visitor.turn(seed="-5")
    visitor.press_write("document.querySelector('#state .bad')")
    assert visitor.said() == "error: -5 is no seed: it is a number from 0 to 4294967295"
    visitor.turn(seed="", length=9)
    visitor.write("Кот ")
    assert "white space at the end of a prompt is written by the model" in visitor.said()
    assert visitor.page.query_selector("#state .bad") is None


@pytest.fixture
def slow(finished, tmp_path):
    """A project whose models take seconds for a text: those that ship."""
    shutil.copytree(finished.folder, tmp_path / "project", symlinks=True)
    project = type(finished)(tmp_path / "project", **finished.env)
    for name in ("base", "finetuned"):
        shutil.rmtree(project.path(f"model/{name}"))
        project.path(f"model/{name}").mkdir()
        conversion.normalise(HOME / "model/embedded", "embedded", project.path(f"model/{name}"))
    return project


def seed_of_a_long_text(project, prompt):
    """A seed with which the tuned model does not end its text by itself before long."""
    folder = project.path("model/finetuned")
    model, tokenizer, how = models.load(folder), tokens.Tokenizer(folder), generation.Sampling(400, temperature=1.5)
    written = ((seed, generation.continue_text(model, tokenizer, prompt, how, seed)) for seed in range(50))
    return next(seed for seed, text in written if not text.ended)


def test_writing_ends_when_told_when_nobody_looks_on_and_with_the_page(browser, slow, python):
    seed = seed_of_a_long_text(slow, "Снег")
    with page_of(slow, python) as (address, said):
        first, second = Visitor(browser, address), Visitor(browser, address)
        for visitor in (first, second):
            visitor.turn(length=512, temperature=1.5, seed=seed)
            visitor.page.fill("#prompt textarea", "Снег")
        first.page.click("#write")
        first.page.wait_for_selector("#tuned .text b")
        second.page.click("#write")
        second.page.wait_for_function(
            "document.querySelector('#state').innerText == 'waits until another text is written…'"
        )
        first.page.click("#stop")
        first.wait()
        assert first.text("tuned").endswith("…")
        assert first.text("base") == ""
        first.page.click("#keep-tuned")
        first.page.wait_for_selector("#keep-tuned:disabled")
        (line,) = map(json.loads, slow.path("logs/kept.jsonl").read_text(encoding="utf-8").splitlines())
        assert f"Снег{cli.harmless(line['text'])}…" == first.text("tuned")
        second.page.wait_for_selector("#tuned .text b")
        first.page.click("#write")
        second.page.close()
        first.page.wait_for_selector("#tuned .text b")
        assert len(said) == 1


@pytest.fixture
def learned_by_heart(finished):
    """How the tuned model goes on with a prompt and a seed that are given here, as a training document."""
    path, folder = finished.path("data/tokens/train.arrow"), finished.path("model/finetuned")
    before = path.read_bytes()
    tokenizer = tokens.Tokenizer(folder)
    how = generation.Sampling(60, temperature=0.8, top_p=0.95)
    written = generation.continue_text(models.load(folder), tokenizer, "Кот", how, 2)
    assert len(written.text) >= 60
    path.unlink()  # a link into DVC's cache, perhaps
    ids = np.array([tokenizer.opening, *written.ids, tokenizer.closing], dtype=np.int32)
    tokens.write_rows(path, packing.pack([packing.Document(1, ids, 1)], 512))
    yield written.text
    path.write_bytes(before)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_stands_in_the_corpus_is_marked_as_in_the_report(browser, served, finished, learned_by_heart, scheme):
    visitor = Visitor(browser, served, scheme=scheme)
    visitor.turn(length=60, seed=2)
    visitor.write("Кот")
    assert visitor.page.text_content("#tuned mark") == cli.harmless(learned_by_heart)
    assert visitor.page.query_selector("#base mark") is None
    report = browser.new_context(color_scheme=scheme).new_page()
    report.goto(finished.path("logs/report.html").as_uri())
    report.evaluate("document.body.innerHTML = '<mark>x</mark>'")
    colours = "(e => [e.backgroundColor, e.color])(getComputedStyle(document.querySelector('mark')))"
    (mark, ink), (expected, _) = visitor.page.evaluate(colours), report.evaluate(colours)
    assert mark == expected
    dark = scheme == "dark"
    assert (sum(map(int, re.findall(r"\d+", ink)[:3])) > 600) == dark


def answer(address, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=20) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_no_other_site_and_no_file_is_reached_by_it(served, finished):
    assert answer(served) == 200
    assert answer(served, Host="evil.example") == 400  # a name that somebody has lead to this machine
    for path in ("params.yaml", finished.path("params.yaml"), finished.path("logs/samples.jsonl")):
        assert answer(f"{served}/gradio_api/file={path}") in (403, 404)
    assert answer(f"{served}/monitoring") in (403, 404, 405)
    with urllib.request.urlopen(f"{served}/gradio_api/info") as described:
        assert json.load(described)["named_endpoints"] == {}


def test_in_russian_and_whatever_the_environment_says_of_gradio(browser, finished, python):
    finished.set(report__language="ru")
    try:
        env = {"GRADIO_SHARE": "True", "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_ANALYTICS_ENABLED": "True"}
        env |= {
            "HTTP_PROXY": "http://127.0.0.1:9",
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "GRADIO_ROOT_PATH": "/elsewhere",
        }
        with page_of(finished, python, **env) as (address, said):
            assert said == [f"страница открыта на {address} до Ctrl-C\n"]
            visitor = Visitor(browser, address)
            visitor.turn(length=9)
            visitor.write("Кот")
            shown = visitor.page.inner_text("body")
            assert visitor.page.evaluate("document.documentElement.lang") == "ru"
            assert visitor.page.inner_text("h1") == "Исходная и дообученная модель"
            words = {visitor.text(name) for name in ("tuned", "base")}
            for text in words:
                shown = shown.replace(text, "")
            assert set(re.findall("[A-Za-z]{2,}", shown)) <= {"top", "seed", "Top"}
            assert visitor.complaints == []
            assert {url for url in visitor.asked if not url.startswith((address, "data:", "blob:"))} == set()
    finally:
        finished.set(report__language="en")


def test_without_a_model_it_says_what_to_do(finished, python):
    folder, aside = finished.path("model/finetuned"), finished.path("model/aside")
    folder.rename(aside)
    try:
        done = subprocess.run(
            [str(python), "-m", "tools.page", "--port", "0"],
            cwd=finished.folder,
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("error: model/finetuned is not there: a run was broken off. dvc repro makes it")
        assert done.stderr.count("\n") == 1
    finally:
        aside.rename(folder)
