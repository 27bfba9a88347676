"""The page without Gradio: what is written for it, how it is shown, kept, and served."""

import json
import os
import re
import shlex
import sys
import time

import numpy as np
import pytest
from conftest import HOME, TEXTS, Inside, copy_project

import generate
from stages.lib.common.cli import UserError
from stages.lib.model.generation import Continuation, Sampling
from stages.lib.rows import packing, tokens
from stages.lib.rows.encoder import Encoder
from tools import packages
from tools.page import __main__ as command
from tools.page import kept, looks, server, writing


@pytest.fixture
def models(tiny_base, monkeypatch):
    for name in ("base", "tuned"):
        monkeypatch.setitem(generate.FOLDERS, name, tiny_base)
    return generate.Models(("base", "tuned"))


@pytest.fixture
def training(tiny_base, tmp_path, monkeypatch):
    """A function that puts these texts where the training documents are."""
    monkeypatch.setattr(writing, "TRAINING", tmp_path / "train.arrow")

    def write(texts):
        documents = [packing.Document(line, ids, 1) for line, ids in enumerate(Encoder(tiny_base).encode(texts), 1)]
        tokens.write_rows(tmp_path / "train.arrow", packing.pack(documents, 48))

    write(["Раз."])
    return write


def wish(prompt="Кот", tokens=9, seed=3):
    return writing.Wish(prompt, Sampling(tokens), seed)


def finished(models, *given, **more):
    run = writing.Run(models, wish(*given, **more)).start()
    deadline = time.monotonic() + 60
    while not run.over:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return run


def says(text, ended=True):
    """In place of `continue_text`: this text, a character at a time, whatever the prompt."""

    def continue_text(model, tokenizer, prompt, sampling, seed, write, check):
        write(prompt)
        for character in text:
            check()
            write(character)
        return Continuation(text, tokenizer.encode(text), ended)

    return continue_text


# What is written


def test_both_texts_are_those_of_generate_for_the_same_seed(models, training, capsys, monkeypatch):
    run = finished(models, "Кот ", 12, 7)
    shown = {name: "Кот " + run.texts[name] + ("" if name in run.ended else "…") for name in run.texts}
    monkeypatch.setattr(sys, "argv", shlex.split(run.wish.command.removeprefix("python ")))
    generate.main()
    printed = capsys.readouterr().out
    assert printed == "[base model] {base}\n[tuned model] {tuned}\n".format(**shown)
    assert run.notes == [generate.WHITE_SPACE]


@pytest.mark.parametrize("prompt", ["-x 'y'", "a\nb", "", "--base"])
def test_the_command_that_writes_it_again_gives_back_the_prompt_and_how(monkeypatch, prompt):
    given = writing.Wish(prompt, Sampling(30, temperature=1.25, top_p=0.9), 5)
    monkeypatch.setattr(sys, "argv", shlex.split(given.command.removeprefix("python ")))
    args = generate.arguments()
    assert (args.prompt, args.tokens, args.temperature, args.top_p, args.seed) == (prompt, 30, 1.25, 0.9, 5)
    assert args.compare
    assert writing.Wish("Кот", Sampling(200), 5).command == "python generate.py Кот --compare --seed 5".replace(
        "Кот", shlex.quote("Кот")
    )


def test_a_temperature_without_a_fraction_is_one_as_well(models, training):
    """As a browser sends it."""
    how = [Sampling(9, temperature=heat, top_p=share) for heat, share in ((2, 1), (2.0, 1.0))]
    runs = [writing.Run(models, writing.Wish("Кот", one, 3)).start() for one in how]
    while not all(run.over for run in runs):
        time.sleep(0.01)
    assert runs[0].error is None
    assert runs[0].texts == runs[1].texts


def test_two_runs_at_once_write_what_each_writes_alone(models, training):
    alone = [finished(models, seed=seed).texts for seed in (1, 2)]
    together = [writing.Run(models, wish(seed=seed)).start() for seed in (1, 2)]
    while not all(run.over for run in together):
        time.sleep(0.01)
    assert [run.texts for run in together] == alone


def test_a_run_that_waits_says_so_and_can_be_stopped(models, training):
    with writing._WRITING:
        run = writing.Run(models, wish()).start()
        time.sleep(0.3)
        assert run.waiting
        assert "waits until another text is written" in looks.run_html(run)
        run.stop(10)
        assert run.over
    assert (run.texts, run.error) == ({}, None)


def test_what_was_stopped_stays_as_far_as_it_came(models, training, monkeypatch):
    monkeypatch.setattr(models, "_continue_text", says("ab" * 10**6))
    run = writing.Run(models, wish()).start()
    while len(run.texts.get("tuned", "")) < 10:
        time.sleep(0.01)
    run.stop(10)
    assert run.over
    assert re.fullmatch("(ab)+a?", run.texts["tuned"])
    assert "base" not in run.texts
    assert json.loads(run.line("tuned"))["ended"] is False
    assert "…</p>" in looks.text_html(run, "tuned")


def test_of_a_prompt_that_does_not_fit_it_is_said_what_is_left_out(models, training):
    run = finished(models, TEXTS[0] * 9)
    assert "its first" in run.notes[0]
    assert run.texts.keys() == {"base", "tuned"}


def test_what_goes_wrong_is_one_line(models, training, monkeypatch):
    def fail(error):
        def continue_text(*_):
            raise error

        monkeypatch.setattr(models, "_continue_text", continue_text)
        return finished(models)

    assert fail(UserError("the model is <no> good")).error == "the model is <no> good"
    assert "out of memory" in fail(RuntimeError("CUDA out of memory.")).error
    assert fail(RuntimeError("some\nbug")).error == "RuntimeError: some\\nbug"
    assert fail(ValueError("a bug")).error == "ValueError: a bug"
    run = fail(UserError("the model is <no> good"))
    assert '<p class="bad">error: the model is &lt;no&gt; good</p>' in looks.run_html(run)


# What stands in the corpus


def test_what_stands_in_a_training_document_is_marked_as_in_the_report(models, training, monkeypatch):
    copied = TEXTS[2]
    assert len(copied) >= 50
    training([f"Сначала. {copied} И дальше.", "Раз."])
    text = f"Ой! {copied} <b>Ещё</b>"
    monkeypatch.setattr(models, "_continue_text", says(text))
    run = finished(models, prompt="<i>")
    ((start, end),) = run.copied["tuned"]
    assert copied.strip() in text[start:end]
    html = looks.text_html(run, "tuned")
    marked = re.search("<mark>(.*?)</mark>", html, re.DOTALL)[1]
    assert marked == text[start:end]
    assert "<b>&lt;i&gt;</b>Ой!" in html
    assert "&lt;b&gt;Ещё&lt;/b&gt;" in html


def test_characters_that_no_browser_shows_are_escapes_on_the_page_and_themselves_where_they_are_kept(
    models, training, monkeypatch
):
    monkeypatch.setattr(models, "_continue_text", says("a\0b\r\n\tc"))
    run = finished(models)
    assert "</b>a\\x00b\\r\n\tc</p>" in looks.text_html(run, "base")
    assert json.loads(run.line("base"))["text"] == "a\0b\r\n\tc"


def test_the_colours_are_those_of_the_report():
    template = (HOME / "stages/lib/page/templates/report.html").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{ (--ink: .*?) \}", template)[:2]
    for name, colours in (("mark", looks.MARK), ("dim", looks.DIM)):
        assert [re.search(rf"--{name}: (#\w+)", one)[1] for one in (light, dark)] == list(colours)


def test_without_training_documents_it_is_said_that_nobody_looked(models, training, tmp_path):
    (tmp_path / "train.arrow").unlink()
    run = finished(models)
    assert run.notes[-1].endswith("is not there: nobody looked whether the texts stand in the training documents")
    assert (run.copied, run.error) == ({}, None)


def test_looking_for_copies_can_be_stopped(models, training, monkeypatch):
    def endless(path):
        while True:
            yield [packing.Segment(1, np.array([0, 1, 0]), 1, True)]

    monkeypatch.setattr(tokens, "read_rows", endless)
    run = writing.Run(models, wish()).start()
    while not run.looking:
        time.sleep(0.01)
    assert "looks whether the texts stand in the training documents" in looks.run_html(run)
    run.stop(10)
    assert run.over
    assert run.texts.keys() == {"base", "tuned"}


# What is kept


def test_what_is_kept_is_a_line_as_generate_writes_it(models, training, tmp_path, monkeypatch):
    run = finished(models, "Кот", 9, 4)
    for name in ("tuned", "base"):
        kept.append(tmp_path / "logs/kept.jsonl", run.line(name))
    words = ["generate.py", "Кот", "--tokens", "9", "--seed", "4", "--compare", "--output", str(tmp_path / "texts")]
    monkeypatch.setattr(sys, "argv", words)
    generate.main()
    lines = [(tmp_path / name).read_text(encoding="utf-8").splitlines() for name in ("logs/kept.jsonl", "texts")]
    assert lines[0] == lines[1][::-1]


def test_a_line_after_one_that_was_cut_off_is_whole(tmp_path):
    path = tmp_path / "kept.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a"')
    kept.append(path, '{"б": 2}\n')
    kept.append(path, '{"a": 3}\n')
    assert path.read_text(encoding="utf-8") == '{"a": 1}\n{"a"\n{"б": 2}\n{"a": 3}\n'


def test_on_a_full_disk_the_file_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "kept.jsonl"
    kept.append(path, "one\n")
    write = os.write
    taken = []

    def full(handle, data):
        if taken:
            raise OSError(28, "No space left on device")
        taken.append(write(handle, data[:2]))
        return taken[0]

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        kept.append(path, "two\n")
    assert caught.value.filename == str(path)
    assert path.read_text() == "one\n"


def test_git_does_not_see_what_is_kept(tmp_path):
    project = copy_project(tmp_path / "project")
    project.commit()
    kept.append(project.path(str(command.KEPT)), "{}\n")
    assert project.ok("git", "status", "--porcelain") == ""


# Where it is served


def test_a_port_that_is_taken_is_one_line():
    with server.listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert server.address(taken) == f"http://127.0.0.1:{port}"
        with (
            pytest.raises(UserError, match=rf"^port {port} cannot be had \(Address already in use\): take another"),
            server.listening("127.0.0.1", port),
        ):
            pass


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_one_line(host):
    with pytest.raises(UserError, match=f"^{host} is no address of this machine"), server.listening(host, 0):
        pass


def test_only_what_was_asked_for_is_reached_from_elsewhere():
    for host, expected in (("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)):
        with server.listening(host, 0) as taken:
            assert server.is_reached_from_elsewhere(taken) == expected


def test_by_default_it_is_for_this_machine_alone(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["page"])
    args = command.arguments()
    with server.listening(args.host, 0) as taken:
        assert (taken.getsockname()[0], args.port) == ("127.0.0.1", 7860)


def test_without_gradio_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    project = Inside(copy_project(tmp_path / "project").folder)
    error = project.fails("python", "-m", "tools.page.__main__", "--port", "0")
    assert error == f"error: the page takes more packages: python -m pip install -r {packages.PAGE}\n"


def test_every_package_that_it_takes_is_pinned_and_none_twice():
    def names(path):
        lines = (HOME / path).read_text(encoding="utf-8").splitlines()
        pins = [line for line in lines if line and line[0] != "#"]
        assert all(re.match(r"[\w.-]+(\[[\w,-]+\])?==[\w.]+( ; .+)?( +#.*)?$", pin) for pin in pins)
        return {re.split("[=[]", pin)[0].lower().replace("_", "-") for pin in pins}

    assert "gradio" in names(packages.PAGE)
    assert names(packages.PAGE) & names("requirements.txt") == {"pillow", "tomlkit"}  # of which Gradio takes older ones
