"""The command in process: quick, and with the words that a person reads."""

import json
import re

import pytest

from stages.lib.common import cli
from tools.collect import __main__ as command


class Run:
    """What a run wrote and said."""

    def __init__(self, lines, said):
        self.lines, self.said = lines, said
        self.texts = [line["text"] for line in lines]
        self.sources = [line.get("source") for line in lines]

    def counts(self):
        """Each kind of files: found, written, documents, left out; the line itself has to add up."""
        found = {}
        for title, *numbers in re.findall(
            r"^(.+?), \d+ files?: (\d+) \w+ found = (\d+) written, in (\d+) documents?, \+ (\d+) left out$",
            self.said,
            re.MULTILINE,
        ):
            all_of_it, written, documents, left = map(int, numbers)
            assert all_of_it == written + left
            found[title] = (all_of_it, written, documents, left)
        assert sum(documents for _, _, documents, _ in found.values()) == len(self.lines)
        assert sum(left for *_, left in found.values()) == sum(
            map(int, re.findall(r"^  left out: (\d+)", self.kinds(), re.M))
        )
        return found

    def kinds(self):
        """What is said of kinds, without what is said of files."""
        return re.split(r"^\d+ files? found", self.said, flags=re.MULTILINE)[0]

    def left(self):
        """What was left out, by reason."""
        return {
            reason: int(count) for count, reason in re.findall(r"^  left out: (\d+) (.+)$", self.said, re.MULTILINE)
        }


@pytest.fixture
def collect(tmp_path, monkeypatch, capsys):
    """A function that collects what its arguments name, in a fresh folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["collect", *map(str, arguments), "--output", "made.jsonl", "--force"])
        command.main()
        raw = (tmp_path / "made.jsonl").read_bytes().decode("utf-8")
        return Run([json.loads(line) for line in raw.split("\n")[:-1]], capsys.readouterr().out)

    return run


@pytest.fixture
def refused(collect, tmp_path):
    """The one line with which a run ends that makes nothing."""

    def run(*arguments):
        (tmp_path / "made.jsonl").unlink(missing_ok=True)
        with pytest.raises(cli.UserError) as error:
            collect(*arguments)
        assert "\n" not in str(error.value)
        assert [path.name for path in tmp_path.iterdir() if "made.jsonl" in path.name] == []
        return str(error.value)

    return run


@pytest.fixture
def with_pandoc():
    pytest.importorskip("pypandoc", reason="pip install -r tests/requirements.txt")
