"""What the machine refuses (a file, space, memory) is one line that names it, for every command."""

import errno
import os
import subprocess
import sys

import pytest
from conftest import CODE, environment

from stages.lib.common import cli


def fails(tmp_path, body):
    """Run a command whose work is `body`, in an empty folder; return the one line that it must end with."""
    script = f"import os, resource\nfrom stages.lib.common import cli\n\ndef main():\n    {body}\n\ncli.run(main)\n"
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(CODE)),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1, result
    (line,) = result.stderr.splitlines()
    return line


LIMITED = "resource.setrlimit(resource.RLIMIT_{}, ({}, {})); "


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("os.mkdir('a'); open('a', 'w')", "a folder stands where a file belongs: a: move it away"),
        ("os.mkdir('a'); open('b', 'w'); os.replace('b', 'a')", "a folder stands where a file belongs: a: move it"),
        ("open('a', 'w'); os.mkdir('a/b')", "a file stands where a folder belongs: a/b: move it away"),
        ("open('x' * 300)", "the name is too long: xxx"),
        (LIMITED.format("NOFILE", 10, 10) + "[open('a', 'w') for _ in range(20)]", "too many open files: a: raise"),
        (LIMITED.format("FSIZE", 1000, 1000) + "x = open('b', 'wb'); x.write(bytes(2000)); x.flush()",
         "the file gets too large: raise the limit of `ulimit -f`"),
        ("bytes(2**60)", "out of memory: close other programs"),
        ("import numpy; numpy.zeros(2**60, 'u1')", "out of memory: close other programs"),
        ("import pyarrow; pyarrow.allocate_buffer(2**60)", "out of memory: close other programs"),
        ("import torch; torch.empty(2**60, dtype=torch.uint8)", "out of memory: close other programs"),
        (LIMITED.format("FSIZE", 1000, 1000) + "from stages.lib.common import files; files.write_text('c', 'x' * 2000)",
         "the file gets too large: c: raise the limit"),
        ("from stages.lib.common import files; import numpy, safetensors.numpy; " + LIMITED.format("FSIZE", 1000, 1000)
         + "\n    with files.writing('.'): safetensors.numpy.save_file({'x': numpy.zeros(9999)}, 'a')",
         "the file gets too large: .: raise the limit"),
    ],
)  # fmt: skip
def test_what_the_system_refuses_is_one_line(tmp_path, body, expected):
    assert fails(tmp_path, body).startswith(f"error: {expected}")


@pytest.mark.parametrize(
    "number",
    [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENFILE, errno.ESTALE],
)
def test_what_only_some_machines_refuse_is_one_line_with_the_path(number, capsys):
    def main():
        raise OSError(number, os.strerror(number), "data/\x1b]0;x\x07.arrow")

    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    error = capsys.readouterr().err
    assert ended.value.code == 1
    assert "data/\\x1b]0;x\\x07.arrow: " in error
    assert error.count("\n") == 1


def test_a_card_without_memory_is_one_line():
    import torch

    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert "lower train.batch_size, then tokenize.max_length (CUDA out of memory." in cli.refusal(error)


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "x", "y"), RuntimeError("shapes"), OSError("x")])
def test_a_bug_keeps_its_traceback(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        cli.run(main)


def test_an_error_moves_no_cursor_and_is_not_longer_than_anyone_reads(capsys):
    def main():
        raise cli.UserError("first \x1b[2J\u202e line\nsecond " + "x" * 10_000)

    with pytest.raises(SystemExit):
        cli.run(main)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: first \\x1b[2J\\u202e line"
    assert second == "second " + "x" * 1992 + "…"
