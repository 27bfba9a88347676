"""What the commands print: nothing that others wrote reaches the terminal as more than letters on one line."""

import os
import signal
import subprocess
import sys
import unicodedata

import pytest
from conftest import HOME, environment
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.common import cli


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("Жил-был 🐈 «é» 漢", "Жил-был 🐈 «é» 漢"),
        ("\x1b]0;PWNED\x07", r"\x1b]0;PWNED\x07"),
        ("a\nb\r\tc\x85\u2028\u2029d", r"a\nb\r\tc\x85\u2028\u2029d"),
        ("\u202egpj.exe\u2066\u200f", r"\u202egpj.exe\u2066\u200f"),
        ("te\ufeffxt\u200b\xa0", r"te\ufeffxt\u200b\xa0"),
        ("\ud83d and \U000e0041", r"\ud83d and \U000e0041"),
    ],
)
def test_what_others_wrote_is_shown_as_letters_on_one_line(foreign, shown):
    assert cli.printable(foreign) == shown


def test_what_is_long_is_cut_and_says_so():
    assert cli.printable("a" * 200) == "a" * 200
    assert cli.printable("a" * 201) == "a" * 199 + "…"
    assert cli.printable("a" * 9_000_000, limit=5) == "aaaa…"
    assert cli.printable("ab\x1bcd", limit=5) == "ab…"  # no half of an escape


@given(st.text(st.characters()), st.integers(1, 30))
def test_no_text_brings_more_than_its_characters(text, limit):
    shown = cli.printable(text, limit)
    assert len(shown) <= limit
    assert {unicodedata.category(character)[0] for character in shown.replace(" ", "")} <= set("LMNPS")


def test_what_a_message_brings_along_steers_no_terminal(capsys):
    cli.say("one\x1b[2J\ttwo\r\n10\u00a0% \x9b1m\x7f é")
    assert capsys.readouterr().out == "one\\x1b[2J\ttwo\\r\n10\u00a0% \\x9b1m\\x7f é\n"

    def fail():
        raise cli.UserError("\x1b]0;PWNED\x07\nand a second line")

    with pytest.raises(SystemExit):
        cli.run(fail)
    assert capsys.readouterr().err == "error: \\x1b]0;PWNED\\x07\nand a second line\n"


def test_git_sees_what_a_failed_experiment_left_in_params_yaml(tmp_path, monkeypatch):
    def git(*words):
        return subprocess.check_output(["git", *words], cwd=tmp_path, env=environment(), text=True)

    # As DVC leaves it: the same size, within the second that git remembers, in an index that was written later.
    path = tmp_path / "params.yaml"
    git("init", "-q")
    git("config", "core.trustctime", "false")
    for content in ("epochs: 3\n", "epochs: 0\n"):
        path.write_text(content, encoding="utf-8")
        os.utime(path, (1e9, 1e9))
        if content.endswith("3\n"):
            git("add", "params.yaml")
            git("commit", "-qm", "settings")
    assert git("diff") == ""

    def fail():
        raise cli.UserError("train.epochs is 0")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "HEAD")
    with pytest.raises(SystemExit):
        cli.run(fail)
    assert "+epochs: 0" in git("diff")
    git("checkout", "params.yaml")
    assert path.read_text(encoding="utf-8") == "epochs: 3\n"


def test_garbage_is_searched_for_as_usual_when_the_work_begins():
    """And rarely before that: what the libraries make lives as long as the process."""
    script = """
import gc
usual = gc.get_threshold()
import stages
from stages.lib.common import cli
def rare():
    return gc.get_threshold()[0] > 100 * usual[0]
def main():
    assert gc.get_threshold() == usual and gc.get_freeze_count() > 1000
    with stages.loading():
        assert rare()
        kept = [[] for _ in range(5000)]
    assert gc.get_threshold() == usual and gc.get_freeze_count() > 6000
    before = gc.get_freeze_count()
    stages.loaded()
    assert gc.get_freeze_count() == before, "garbage of the work would stay for good"
assert rare()
cli.run(main)
"""
    subprocess.run([sys.executable, "-c", script], cwd=HOME, env=environment(), check=True)


@pytest.mark.parametrize("module", ["stages.evaluate", "tools.pretrain"])
def test_ctrl_c_while_libraries_are_loaded_shows_no_traceback(module):
    """They take seconds, and what is just imported is nothing to the user."""
    command = [sys.executable, "-X", "importtime", "-m", module, "--help"]
    loading = subprocess.Popen(command, cwd=HOME, env=environment(), stderr=subprocess.PIPE, text=True)
    assert any("stages.lib.common.cli" in line for line in loading.stderr)
    loading.send_signal(signal.SIGINT)
    left = loading.stderr.read()
    assert loading.wait() == -signal.SIGINT
    assert "Traceback" not in left
