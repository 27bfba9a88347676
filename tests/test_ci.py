"""What runs for a pull request and on the main branch: the scripts that the workflows call, and the workflows."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import servers
from conftest import HOME, STAGES, Project, hashes
from ruamel.yaml import YAML

from stages.lib.common import files
from tools import summary


def test_the_summary_shows_settings_figures_and_curves(project):
    project.set(train__epochs="1")
    figures = project.json("logs/metrics.json")
    figures["bits_per_byte"] += 1
    files.write_json(project.path("logs/metrics.json"), figures)
    output = project.ok("python", "-m", "tools.summary", "HEAD")
    assert re.search(r"\| params\.yaml \| train\.epochs +\| 3 +\| 1 +\|", output)
    assert re.search(r"\| logs/metrics\.json \| bits_per_byte \| [\d.]+ +\| [\d.]+ +\| 1\.0 +\|", output)
    drawn = {
        title: [float(value) for value in values.split(", ")]
        for title, values in re.findall(r'title "(.*?)".*?line \[(.*?)\]', output, re.DOTALL)
    }
    for title, path, column in summary.CURVES:
        rows = files.read_tsv(project.path(path))
        expected = [float(row[column]) for row in rows]
        assert drawn[title][0] == pytest.approx(expected[0], abs=1e-4)
        assert drawn[title][-1] == pytest.approx(expected[-1], abs=1e-4)
        assert len(drawn[title]) == min(len(rows), summary.POINTS)
        assert min(expected) - 1e-4 <= min(drawn[title]) <= max(drawn[title]) <= max(expected) + 1e-4


def test_the_points_of_a_chart_lie_on_the_curve(tmp_path):
    """A table whose steps are not evenly spaced, as with `train.eval_steps` and the ends of epochs."""
    steps = [0, 10, 20, 25, 30, 40, 50]
    files.write_tsv(tmp_path / "t.tsv", ["step", "loss"], [(step, 3 * step + 1) for step in steps])
    lines = list(summary.chart("A line", tmp_path / "t.tsv", "loss"))
    values = [float(value) for value in lines[-2].split("[")[1].rstrip("]").split(", ")]
    assert values == pytest.approx([3 * 50 * n / 6 + 1 for n in range(7)], abs=1e-4)
    assert '    x-axis "step" 0 --> 50' in lines


def test_where_nothing_changed_the_summary_says_so(project):
    assert project.ok("python", "-m", "tools.summary").count("No difference.") == 2


def test_a_commit_that_is_not_there_is_one_line(project):
    error = project.fails("python", "-m", "tools.summary", "no-such-branch")
    assert error.startswith("error: dvc params diff failed: ")
    assert "no-such-branch" in error
    assert error.count("\n") == 1


def test_outputs_go_to_the_remote_and_come_from_it(project, tmp_path):
    assert "No remote is configured" in project.ok(".ci/push")
    (tmp_path / "store").mkdir()
    project.ok("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    project.commit("a remote")
    assert "store has all outputs of this commit." in project.ok(".ci/push")
    project.ok("git", "clone", "-q", str(project.folder), str(tmp_path / "clone"))
    other = Project(tmp_path / "clone")
    other.ok("dvc", "pull", "-q")
    assert hashes(other) == hashes(project)


def test_outputs_that_are_nowhere_are_missed(project, tmp_path):
    (tmp_path / "store").mkdir()
    project.ok("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    shutil.rmtree(project.path(".dvc/cache"))
    assert "store does not have all outputs of this commit" in project.fails(".ci/push")


def commands(path):
    """What the steps of a workflow run, a command a line, without the variables before them."""
    described = YAML(typ="safe", pure=True).load(HOME / path)
    if path.startswith(".github"):
        scripts = [step["run"] for job in described["jobs"].values() for step in job["steps"] if "run" in step]
    else:
        scripts = described["check"]["script"]
    lines = [line.strip() for script in scripts for line in script.splitlines()]
    kept = [line for line in lines if not line.startswith(("if ", "else", "fi", "export "))]
    return [[word for word in shlex.split(line) if not word.startswith("PATH=")] for line in kept]


@pytest.mark.parametrize("path", [".github/workflows/ci.yml", ".gitlab-ci.yml"])
def test_the_steps_of_a_workflow_are_scripts_of_the_project(path):
    called = [" ".join(words[:3]) if words[0] == "python" else words[0] for words in commands(path)]
    assert called == [".ci/run", "python -m tools.summary", ".ci/push"]
    for script in (".ci/run", ".ci/push"):
        assert (HOME / script).stat().st_mode & 0o111


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("--builtin-schema", "vendor.github-workflows", ".github/workflows/ci.yml"),
        ("--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci", ".gitlab-ci.yml"),
    ],
)
def test_the_workflows_are_ones_that_github_and_gitlab_take(arguments):
    pytest.importorskip("check_jsonschema", reason="pip install -r tests/requirements.txt")
    subprocess.run([sys.executable, "-m", "check_jsonschema", *arguments], cwd=HOME, check=True)


# Known vulnerabilities

BAD = {"id": "PYSEC-2099-1", "aliases": ["CVE-2099-1"], "fix_versions": ["9.0"]}


@pytest.fixture
def audit(tmp_path):
    """A function that runs the script with a stand-in for pip-audit that prints these and ends with that status."""
    shutil.copytree(HOME / ".ci", tmp_path / ".ci")
    shutil.copy(HOME / "requirements.txt", tmp_path)

    def run(output="", error="", allowed=""):
        stand_in = tmp_path / "pip-audit"
        stand_in.write_text(f"#!{sys.executable}\nimport sys\nsys.stdout.write({output!r})\nsys.exit({error!r})\n")
        stand_in.chmod(0o755)
        with open(tmp_path / ".ci/allowed_vulnerabilities.txt", "a", encoding="utf-8") as file:
            file.write(allowed)
        command = [sys.executable, str(tmp_path / ".ci/audit.py"), str(stand_in)]
        return subprocess.run(command, capture_output=True, text=True)

    return run


def found(*vulnerabilities):
    good = {"name": "dvc", "version": "1.0", "vulns": []}
    return json.dumps({"dependencies": [good, {"name": "jinja2", "version": "3.0", "vulns": list(vulnerabilities)}]})


def test_without_a_known_vulnerability_ci_goes_on(audit):
    done = audit(found())
    assert (done.returncode, done.stdout, done.stderr) == (0, "No known vulnerability.\n", "")


def test_a_known_vulnerability_stops_ci(audit):
    done = audit(found(BAD), "Found 1 known vulnerability")
    assert done.returncode == 1
    assert "jinja2 3.0: PYSEC-2099-1 = CVE-2099-1, mended in 9.0" in done.stderr


@pytest.mark.parametrize("name", ["PYSEC-2099-1", "CVE-2099-1"])
def test_a_vulnerability_that_is_named_with_a_reason_is_let_pass(audit, name):
    done = audit(found(BAD), "Found 1 known vulnerability", f"# Only on Windows.\n{name}\n")
    assert (done.returncode, done.stdout) == (0, "No known vulnerability but 1 allowed ones.\n")


def test_a_reason_must_be_given(audit):
    done = audit(found(BAD), "Found 1 known vulnerability", "PYSEC-2099-1\n")
    assert done.returncode == 1
    assert "names PYSEC-2099-1 without a reason" in done.stderr


def test_what_is_allowed_and_gone_is_said(audit):
    done = audit(found(), allowed="# Only on Windows.\nCVE-2099-7\n")
    assert done.returncode == 0
    assert "names CVE-2099-7, which no pinned version has any more" in done.stdout


def test_what_the_database_does_not_know_is_said(audit):
    skipped = {"name": "torch", "skip_reason": "not found"}
    assert "NOT LOOKED UP: torch: not found" in audit(json.dumps({"dependencies": [skipped]})).stdout


def test_a_database_out_of_reach_is_said_and_not_passed_over(audit):
    done = audit(error="Traceback\nrequests.exceptions.ConnectTimeout: HTTPSConnectionPool(host='x')")
    assert done.returncode == 0
    assert done.stdout.startswith("NOT LOOKED UP: whether the pinned versions have known vulnerabilities")
    assert "No known vulnerability." not in done.stdout


def test_a_lookup_that_fails_for_another_reason_stops_ci(audit):
    done = audit(error="pip-audit: error: unrecognized arguments: --osv-url")
    assert done.returncode == 1
    assert "unrecognized arguments" in done.stderr


class Database(BaseHTTPRequestHandler):
    """Answers as OSV's database does: one package has a vulnerability."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(f"{asked['package']['name']}=={asked['version']}")
        affected = {"package": asked["package"], "versions": [asked["version"]], "ranges": []}
        known = {"id": "PYSEC-2099-1", "aliases": ["CVE-2099-1"], "details": "x", "affected": [affected]}
        body = json.dumps({"vulns": [known]} if asked["package"]["name"] == self.server.bad else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_every_pinned_version_is_looked_up(tmp_path):
    """pip-audit itself, against a database on the loopback address."""
    wanted = (HOME / ".ci/audit_requirements.txt").read_text(encoding="utf-8").splitlines()
    bin_folder = servers.make_environment(tmp_path / "audit", tuple(line for line in wanted if line[0] != "#"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Database)
    server.asked, server.bad = [], None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1/query"
    command = [sys.executable, str(HOME / ".ci/audit.py"), str(bin_folder / "pip-audit")]
    done = subprocess.run([*command, url], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "No known vulnerability.\n", "")
    names = {re.split("[=[]", one)[0] for one in server.asked}
    files = subprocess.run(["git", "ls-files", "*requirements.txt"], cwd=HOME, capture_output=True, text=True).stdout
    for name in set(files.split()) - {".ci/audit_requirements.txt"}:
        lines = (HOME / name).read_text(encoding="utf-8").splitlines()
        pins = {
            line.split("=")[0].lower().replace("_", "-").split("[")[0]
            for line in lines
            if "==" in line and ";" not in line
        }
        assert pins <= names
    server.bad = "jinja2"
    done = subprocess.run([*command, url], capture_output=True, text=True)
    assert done.returncode == 1
    assert "PYSEC-2099-1 = CVE-2099-1" in done.stderr
    server.shutdown()
    server.server_close()
    done = subprocess.run([*command, url], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("NOT LOOKED UP")


# What a project that others look into should hold


SECRET = re.compile(r"secret|password|passphrase|token|credential|key|sas|connection_string", re.IGNORECASE)


def secrets(config):
    """The options of a DVC configuration that would give something away."""
    read = configparser.ConfigParser(interpolation=None)
    read.read_string(config)
    return [
        f"{section}.{option}"
        for section in read.sections()
        for option, value in read.items(section)
        if SECRET.search(option) or re.search(r"://[^/\s]*:[^/\s]*@", value)
    ]


def test_the_configuration_in_git_holds_no_secret_and_sends_nothing_home():
    config = (HOME / ".dvc/config").read_text(encoding="utf-8")
    assert secrets(config) == []
    read = configparser.ConfigParser()
    read.read_string(config)
    assert read["core"]["analytics"] == "false"


def test_a_secret_would_be_found():
    config = "[core]\n    remote = s\n['remote \"s\"']\n    url = https://me:pass@host/x\n    access_key_id = A\n"
    assert secrets(config + "    secret_access_key = B\n") == [
        "'remote \"s\"'.url",
        "'remote \"s\"'.access_key_id",
        "'remote \"s\"'.secret_access_key",
    ]


def test_where_secrets_go_git_does_not_look(project):
    project.ok("dvc", "remote", "add", "--local", "s", "s3://bucket/x")
    project.ok("dvc", "remote", "modify", "--local", "s", "secret_access_key", "hidden")
    assert "hidden" in project.path(".dvc/config.local").read_text()
    assert project.ok("git", "status", "--porcelain") == ""


def test_dvc_finds_nothing_to_complain_of(project):
    for command in ("dag", "stage list", "doctor", "data status", "status", "params diff", "metrics diff", "exp show"):
        result = project.run("dvc", *command.split())
        assert (result.returncode, result.stderr) == (0, ""), command
    listed = project.ok("dvc", "stage", "list").splitlines()
    assert [line.split()[0] for line in listed] == ["check", *STAGES]
    assert not any("…" in line for line in listed)  # none too long for a terminal
    assert project.ok("dvc", "data", "status") == "No changes.\n"


def test_hooks_bring_the_outputs_of_a_branch(project):
    project.ok("dvc", "install")
    before = hashes(project)
    project.ok("git", "checkout", "-q", "-b", "another")
    project.set(report__title="Another title")
    project.ok("dvc", "repro")
    project.commit("another title")
    after = hashes(project)
    assert after != before
    project.ok("git", "checkout", "-q", "main")
    assert hashes(project) == before
    project.ok("git", "checkout", "-q", "another")
    assert hashes(project) == after


def test_the_pipeline_runs_from_a_subfolder(project):
    project.set(report__title="Another title")
    inside = Project(project.path("stages"), **project.env)
    dvc = str(Path(sys.executable).with_name("dvc"))  # as it is typed; python -m dvc would find stages/tokenize.py
    assert "Running stage '../dvc.yaml:report'" in inside.ok(dvc, "repro", "../dvc.yaml")
    assert "<title>Another title" in project.path("logs/report.html").read_text(encoding="utf-8")
