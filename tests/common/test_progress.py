"""How far long work is: a bar on a terminal, elsewhere a line at most once a minute."""

import io

import pytest

from stages.lib.common import cli


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [1000.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


def test_without_a_terminal_there_is_a_line_at_most_once_a_minute(clock, capsys):
    with cli.progress("score", 600, " documents") as bar:
        told = []
        for _ in range(20):
            clock(7)
            bar.update(10)
            told.append(capsys.readouterr().err)
    # At 63, 126 seconds; that of the last 14 seconds is left to whoever says what came of it.
    assert [(number + 1) * 7 for number, line in enumerate(told) if line] == [63, 126]
    assert told[8] == "score: 90/600 documents, 1.43 documents per second, 05:57 left\n"
    assert told[17] == "score: 180/600 documents, 1.43 documents per second, 04:54 left\n"


def test_work_that_does_not_get_on_says_so_too(clock, capsys):
    bar = cli.progress("samples", 6, " texts")
    for _ in range(6):
        clock(30)
        bar.update(0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("samples: 0/6 texts, ")


def test_the_rate_is_of_what_was_done_since_the_start(clock, capsys):
    bar = cli.progress("train", 300, " steps", initial=200)
    clock(100)
    bar.update(50)
    assert capsys.readouterr().err == "train: 250/300 steps, 0.50 steps per second, 01:40 left\n"
    assert bar.n == 250


def test_without_a_total_no_time_is_left(clock, capsys):
    bar = cli.progress("read", None, "B")
    clock(61)
    bar.update(122_000_000)
    assert capsys.readouterr().err == "read: 122MB, 2.00MB per second\n"


def test_counted_moves_it_on_by_one(clock, capsys):
    with cli.progress("copies", None, " documents") as bar:
        for item in cli.counted(range(3), bar):
            assert bar.n == item
            clock(61)
    assert bar.n == 3
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"copies: {number} documents" for number in (1, 2, 3)
    ]


def test_nobody_who_reads_the_lines_ends_no_work(clock, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Gone())
    bar = cli.progress("score", 9, " documents")
    clock(61)
    bar.update()


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    with cli.progress("score", 9, " documents", initial=4) as bar:
        bar.update()
        assert bar.n == 5
    assert "score: " in shown.getvalue()
    assert "\r" in shown.getvalue()
