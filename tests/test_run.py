"""./run, with stand-ins for Python and pip where the real ones would take minutes, and once with the real ones."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import HOME, blocks_of, environment, environment_of_run

# As a Python that makes environments whose pip, like the real one, knows its Python and its place by their paths.
PYTHON = """#!/bin/sh
case "$1 $2 $3" in
    "-c import ensurepip, venv ") exit {without_venv} ;;
    "-m venv --clear")
        echo made >> "$LOG"
        rm -rf "$4" && mkdir -p "$4/bin" && touch "$4/pyvenv.cfg"
        printf '#!/bin/sh\\nhere="%s"\\n. {folder}/pip\\n' "$4" > "$4/bin/pip" && chmod +x "$4/bin/pip" ;;
    *) exec {real} "$@" ;;
esac
"""
PIP = """[ -x {folder}/python3 ] && [ -e "$here" ] || exit 127
case "$1" in
    --version) echo "pip 26 from $here/lib/python3.11/site-packages/pip (python 3.11)" ;;
    config) echo "$PIP_CONFIGURED" ;;
    install)
        echo "$@" >> "$LOG"
        echo installing
        case "$*" in *"$FAILING"*) [ -z "$FAILING" ] || exit 1 ;; esac ;;
esac
"""
TOOLS = ("sh", "uname", "dirname", "grep", "sed", "cmp", "cp", "touch", "mkdir", "rm", "chmod")
FROM_PYTORCH = "install --no-deps --retries 0 --timeout 15 --index-url https://download.pytorch.org/whl/cpu torch==2.0"
FROM_REQUIREMENTS = "install -r requirements.txt"


class Machine:
    """A folder with ./run in it, and a PATH with the commands that it needs and no others."""

    def __init__(self, folder: Path) -> None:
        self.home, self.bin = folder / "my model", folder / "bin"
        self.home.mkdir()
        self.bin.mkdir()
        shutil.copy2(HOME / "run", self.home)
        (self.home / "requirements.txt").write_text("numpy==1.0\ntorch==2.0   # via x\n")
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name))
        self.log = folder / "log"
        self.env = {"PATH": str(self.bin), "LOG": str(self.log), "PIP_CONFIGURED": "", "FAILING": ""}

    def program(self, name: str, script: str) -> None:
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def python(self, name: str = "python3", without_venv: bool = False) -> None:
        self.program(name, PYTHON.format(folder=self.bin, real=sys.executable, without_venv=int(without_venv)))
        self.program("pip", PIP.format(folder=self.bin))

    def run(self, *command: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.home / "run", *command], cwd=cwd, env=self.env | env, capture_output=True, text=True, check=False
        )

    def done(self, *command: str, **more) -> list[str]:
        """Run a command that must succeed; return what was made and installed for it."""
        self.log.write_text("")
        result = self.run(*(command or ("true",)), **more)
        assert result.returncode == 0, result.stderr
        return self.log.read_text().splitlines()

    def refused(self, **more) -> str:
        """The one line that is said."""
        result = self.run("true", **more)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1), result.stderr
        return result.stderr.rstrip("\n")


@pytest.fixture
def bare(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def machine(bare):
    bare.python()
    bare.program("nvidia-smi", "#!/bin/sh\n")
    bare.program("true", "#!/bin/sh\n")
    return bare


def test_the_first_command_makes_the_environment_and_the_next_only_runs(machine):
    assert machine.done() == ["made", FROM_REQUIREMENTS]
    assert machine.done() == []


def test_messages_name_commands_as_they_were_started(machine):
    machine.done()
    said = machine.run(sys.executable, "-c", "import os; print(os.environ['STARTED_WITH'])").stdout
    assert said == "./run\n"


def test_a_script_runs_as_python_runs_it_and_an_option_says_how_it_is_used(machine):
    machine.done()
    machine.program("python", '#!/bin/sh\necho "python $*"\n')
    assert machine.run("generate.py", "Жил-был").stdout == "python generate.py Жил-был\n"
    for option in ("--help", "-h"):
        asked = machine.run(option)
        assert (asked.returncode, asked.stdout) == (2, "")
        assert asked.stderr.startswith("./run [COMMAND ...]: runs a command in the environment")


def test_changed_requirements_are_installed(machine):
    machine.done()
    with (machine.home / "requirements.txt").open("a") as file:
        file.write("more==1.0\n")
    assert machine.done() == [FROM_REQUIREMENTS]
    assert machine.done() == []


def test_an_installation_that_broke_off_is_gone_on_with(machine):
    result = machine.run("true", FAILING="-r")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: not everything was installed")
    assert machine.done() == [FROM_REQUIREMENTS]


def test_an_environment_that_was_left_half_made_is_made_anew(machine):
    (machine.home / ".venv").mkdir()
    (machine.home / ".venv/pyvenv.cfg").touch()
    assert machine.done()[0] == "made"


def test_in_a_folder_that_was_moved_or_copied_the_environment_is_made_anew(machine):
    machine.done()
    before = machine.home
    machine.home = machine.home.with_name("copy")
    shutil.copytree(before, machine.home)
    assert machine.done()[0] == "made"
    shutil.rmtree(before)
    assert machine.done() == []


def test_when_its_python_has_gone_the_environment_is_made_anew(machine):
    machine.done()
    (machine.home / ".venv/bin/pip").write_text("#!/no/such/python\n")
    assert machine.done()[0] == "made"


def test_the_environment_may_be_elsewhere(machine, tmp_path):
    assert machine.done(RUN_VENV=str(tmp_path / "elsewhere"))[0] == "made"
    assert machine.done(RUN_VENV=str(tmp_path / "elsewhere")) == []
    assert not (machine.home / ".venv").exists()
    assert machine.done(RUN_VENV="inside")[0] == "made"
    assert machine.done(RUN_VENV="inside") == []


def test_a_folder_that_is_no_environment_is_left_alone(machine, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    said = machine.refused(RUN_VENV=str(tmp_path / "precious"))
    assert said == f"error: {tmp_path}/precious is there, and is no environment: move it away"
    assert (tmp_path / "precious/file").exists()


def test_a_python_that_is_too_old_or_lacks_venv_is_passed_over(machine):
    machine.program("python3", "#!/bin/sh\nexit 1\n")
    machine.python("python3.13", without_venv=True)
    machine.python("python3.12")
    (machine.bin / "pip").write_text(PIP.format(folder=machine.bin).replace("python3 ]", "python3.12 ]"))
    assert machine.done()[0] == "made"


def test_without_venv_the_package_is_named(bare):
    bare.python(without_venv=True)
    wanted = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    assert bare.refused() == (
        f"error: this Python lacks its venv: sudo apt install {wanted}, then the same command again"
    )


def test_without_python_that_is_said(bare):
    assert bare.refused() == ("error: there is no Python from 3.11 to 3.14: install one, then the same command again")


def test_without_a_command_it_is_dvc_repro(machine):
    machine.program("dvc", '#!/bin/sh\necho "dvc $*"\n')
    assert machine.run().stdout == "dvc repro\n"


def test_a_command_has_its_words_its_status_and_the_project_as_its_folder(machine, tmp_path):
    machine.program("say", '#!/bin/sh\nprintf "%s|" "$@" "$PWD"\nexit 7\n')
    for cwd in (machine.home, tmp_path):
        result = machine.run("say", "Жил-был", "a  b", "", cwd=cwd)
        assert (result.returncode, result.stdout) == (7, f"Жил-был|a  b||{machine.home}|")


def test_programs_of_the_environment_come_first(machine):
    machine.done()
    machine.program("dvc", "#!/bin/sh\nexit 1\n")
    (machine.home / ".venv/bin/dvc").write_text('#!/bin/sh\necho "$VIRTUAL_ENV"\n')
    (machine.home / ".venv/bin/dvc").chmod(0o755)
    assert machine.run().stdout == f"{machine.home}/.venv\n"


def test_a_signal_reaches_the_command(machine):
    machine.program("wait", f"#!/bin/sh\nexec {shutil.which('sleep')} 60\n")
    machine.done()
    started = subprocess.Popen([machine.home / "run", "wait"], env=machine.env)
    # The command itself, not a shell that waits for it.
    deadline = time.monotonic() + 60
    while "sleep" not in psutil.Process(started.pid).cmdline()[0]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    assert started.wait() == -signal.SIGTERM


# --- PyTorch without CUDA ---


@pytest.fixture
def cardless(machine):
    (machine.bin / "nvidia-smi").unlink()
    machine.program("uname", "#!/bin/sh\necho Linux\n")
    return machine


def test_on_linux_without_a_card_torch_comes_without_cuda(cardless):
    assert cardless.done() == ["made", FROM_PYTORCH, FROM_REQUIREMENTS]
    assert cardless.done() == []


def test_on_a_mac_it_comes_as_everything_does(cardless):
    cardless.program("uname", "#!/bin/sh\necho Darwin\n")
    assert cardless.done() == ["made", FROM_REQUIREMENTS]


@pytest.mark.parametrize("option", ["global.index-url='x'", ":env:.extra-index-url='x'", "user.find-links='x'"])
def test_who_has_an_index_of_their_own_keeps_to_it(cardless, option):
    assert cardless.done(PIP_CONFIGURED=option) == ["made", FROM_REQUIREMENTS]


def test_out_of_reach_the_larger_build_does(cardless):
    assert cardless.done(FAILING="pytorch.org") == ["made", FROM_PYTORCH, FROM_REQUIREMENTS]
    cardless.program("nvidia-smi", "#!/bin/sh\n")
    assert cardless.done() == []


def test_where_a_card_has_come_the_environment_is_made_anew(cardless):
    cardless.done()
    cardless.program("nvidia-smi", "#!/bin/sh\n")
    assert cardless.done() == ["made", FROM_REQUIREMENTS]
    (cardless.bin / "nvidia-smi").unlink()
    assert cardless.done() == []  # the larger build works there as well


@pytest.mark.slow
def test_a_real_environment_that_is_moved(tmp_path):
    home = tmp_path / "my model"
    home.mkdir()
    shutil.copy2(HOME / "run", home)
    pins = (HOME / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (home / "requirements.txt").write_text(next(line for line in pins if line.startswith("tabulate==")) + "\n")
    env = {name: value for name, value in os.environ.items() if name not in ("RUN_VENV", "VIRTUAL_ENV")}
    env["PIP_FIND_LINKS"] = str(tmp_path)  # a place of its own for packages: PyTorch's is not asked

    def output(folder, *command):
        return subprocess.run([folder / "run", *command], env=env, capture_output=True, text=True, check=True).stdout

    where = ("python", "-c", "import sys, tabulate; print(sys.prefix)")
    assert output(home, *where) == f"{home}/.venv\n"
    moved = home.rename(tmp_path / "moved")
    assert output(moved, *where) == f"{moved}/.venv\n"
    assert "-h" in output(moved, "tabulate", "--help")


@pytest.mark.slow
def test_a_newcomer_pastes_the_first_lines_of_the_readme(project, tmp_path):
    """All of them in order, into a shell in an empty folder, where the environment is there already."""
    made = environment_of_run(tmp_path / "environment")
    clone, first, *_ = blocks_of("README.md")
    assert first[0] == "./run"
    pasted = "\n".join([*clone, *first]).replace("ADDRESS", str(project.folder))
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        ["sh", "-ec", pasted],
        cwd=tmp_path / "empty",
        env=environment(OMP_NUM_THREADS="1", RUN_VENV=str(made)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Running stage 'report'" in done.stdout
    assert done.stdout.count("Жил-был однажды") == 1  # the text begins with it
    assert (tmp_path / "empty/my-model/logs/report.html").exists()
