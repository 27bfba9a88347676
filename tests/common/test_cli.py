"""What the commands print: nothing that others wrote reaches the terminal as more than letters on one line."""

import unicodedata

import pytest
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
