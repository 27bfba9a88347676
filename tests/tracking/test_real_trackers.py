"""The trackers themselves, as far as they go without an account: wandb and Comet offline, Trackio, MLflow's own server.

A run is killed, goes on, and ends; then what each of them has is read from its own files, and held against TensorBoard.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import zipfile
from types import SimpleNamespace

import pytest
from conftest import HOME, ONE_THREAD, Project
from servers import free_port, make_environment, running
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stages.lib.tracking import choice, trackers

pytestmark = pytest.mark.release

SERVER = "mlflow==3.17.2"  # of the version of the client that is pinned
SECRET = "Жужелица"
READ_WANDB = """
import json, struct, sys
from wandb.proto import wandb_internal_pb2 as wandb

# The records of LevelDB's log: blocks of 32 KiB, in them parts with a checksum, a length, and which part it is.
content, at, record, rows = open(sys.argv[1], "rb").read(), 7, b"", []
while at + 7 <= len(content):
    if 32768 - at % 32768 < 7:
        at += 32768 - at % 32768
        continue
    _, length, part = struct.unpack("<IHB", content[at : at + 7])
    record, at = record + content[at + 7 : at + 7 + length], at + 7 + length
    if part in (1, 4):
        message, record = wandb.Record.FromString(record), b""
        if message.WhichOneof("record_type") == "history":
            rows.append({item.key or ".".join(item.nested_key): item.value_json for item in message.history.item})
print(json.dumps(rows))
"""
READ_MLFLOW = """
import json, sys
from mlflow import MlflowClient

client = MlflowClient()
(run,) = client.search_runs([client.get_experiment_by_name("gpt2-finetune-custom").experiment_id])
curves = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
points = [(name, point.step, point.value) for name in curves for point in curves[name]]
print(json.dumps({"status": run.info.status, "handed": [run.data.tags, run.data.params], "points": points}))
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The bin folder of an environment with all trackers at their pinned versions."""
    lines = (HOME / choice.REQUIREMENTS).read_text(encoding="utf-8").splitlines()
    pinned = tuple(line for line in lines if line and not line.startswith("#"))
    return make_environment(tmp_path_factory.mktemp("trackers"), pinned, inherit=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of an MLflow server."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    program = make_environment(folder / "venv", (SERVER,)) / "mlflow"
    store = f"sqlite:///{folder}/mlflow.db"
    with running([program, "server", "--host", "127.0.0.1", "--port", port, "--backend-store-uri", store], port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def run(reproduced, own, server, tmp_path_factory):
    """A project after a training that was killed twice, reported to all of them."""
    folder = tmp_path_factory.mktemp("reported")
    shutil.copytree(reproduced.folder, folder / "project", symlinks=True)
    env = {
        "MLFLOW_TRACKING_URI": server,
        "WANDB_MODE": "offline",
        "COMET_START_ONLINE": "false",
        "TRACKIO_DIR": str(folder / "trackio"),
        "HOME": str(folder),
    }
    project = Project(folder / "project", **ONE_THREAD, **env)
    project.python = own / "python"
    project.set(
        train__report_to=f"[tensorboard, {', '.join(trackers.TRACKERS)}]",
        train__logging_steps="1",
        train__save_steps="10",
        train__toward_base="0",  # what is handed over is what was validated in training
        evaluate__prompts=f"[{SECRET}]",
    )
    shutil.rmtree(project.path("logs/tensorboard"), ignore_errors=True)
    project.ok("python", "-m", "stages.check")
    for place in ("step taken:58", "output model written"):
        assert project.run("python", "-m", "stages.train", FAILPOINT=place).returncode == -signal.SIGKILL
    said = project.ok("python", "-m", "stages.train")
    assert "did not get" not in said
    (events,) = project.path("logs/tensorboard").iterdir()
    read = EventAccumulator(str(events)).Reload()
    drawn = [(name, event.step, event.value) for name in read.Tags()["scalars"] for event in read.Scalars(name)]
    return SimpleNamespace(project=project, folder=folder, drawn=drawn)


def read(run, script, *arguments):
    command = [run.project.python, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | run.project.env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def of_wandb(run):
    (file,) = run.project.path("logs/wandb").glob("offline-run-*/*.wandb")
    rows = [{name: json.loads(value) for name, value in row.items()} for row in read(run, READ_WANDB, file)]
    points = [(name, row["train/global_step"], row[name]) for row in rows for name in row if "/" in name]
    rest = b"".join(path.read_bytes() for path in file.parent.rglob("*") if path.is_file() and path.suffix != ".log")
    return [point for point in points if point[0] != "train/global_step"], rest.decode(errors="replace")


def of_mlflow(run):
    found = read(run, READ_MLFLOW)
    assert found["status"] == "FINISHED"
    return found["points"], json.dumps(found["handed"], ensure_ascii=False)


def of_trackio(run):
    with sqlite3.connect(run.folder / "trackio/gpt2-finetune-custom.db") as store:
        rows = store.execute("SELECT run_id, step, metrics FROM metrics").fetchall()
        handed = store.execute("SELECT * FROM configs").fetchall()
    assert len({row[0] for row in rows}) == 1
    return [(name, step, value) for _, step, row in rows for name, value in json.loads(row).items()], str(handed)


def of_comet_ml(run):
    (file,) = run.project.path("logs/comet").glob("*.zip")
    with zipfile.ZipFile(file) as archive:
        content = archive.read("messages.json").decode()
    messages = [json.loads(line)["payload"] for line in content.splitlines()]
    metrics = [message["metric"] for message in messages if "metric" in message]
    return [
        (one["metricName"], one["step"], one["metricValue"]) for one in metrics if "/" in one["metricName"]
    ], content


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_a_killed_run_is_one_run_with_the_curves_of_tensorboard(run, name, proofs):
    points, handed = globals()[f"of_{name}"](run)
    speed, final = "train/tokens_per_second", "final/"
    curves = sorted(tuple(one) for one in points if one[0] != speed and not one[0].startswith(final))
    drawn = sorted(one for one in run.drawn if one[0] != speed)
    assert [one[:2] for one in curves] == [one[:2] for one in drawn]
    assert [one[2] for one in curves] == pytest.approx([one[2] for one in drawn], rel=1e-6)
    figures = run.project.json("logs/train.json")
    ends = {one: value for one, _, value in points if one.startswith(final)}
    assert ends == {f"{final}{one}": figures[one] for one in ("best_step", "validation_bits_per_byte")}
    proofs(f"{name}: {len(curves)} points as in TensorBoard, after two kills")
    assert "train.learning_rate" in handed
    host = os.uname().nodename  # by itself a short one may stand in numbers by chance: as in JSON, and in protobuf
    for private in (SECRET, "my_corpus", "model/embedded", str(run.project.folder), f'"{host}"', chr(len(host)) + host):
        assert private not in handed, private


def test_the_forms_of_the_stand_ins_are_those_of_the_real_ones(own):
    script = """
import inspect, comet_ml, mlflow, trackio, wandb
from mlflow.entities import Metric
from trackio.sqlite_storage import SQLiteStorage
from wandb.sdk.wandb_run import Run

def takes(function, *given, **named):
    inspect.signature(function).bind(*given, **named)

takes(wandb.init, project="", id="", name="", config={}, resume="allow", dir="", settings=None)
takes(wandb.login, prompt=False, verify=False)
takes(Run.define_metric, None, "*", step_metric="", step_sync=True)
takes(Run.log, None, {}, step=1)
takes(trackio.init, project="", name="", config={}, resume="", embed=False, auto_log_cpu=False, auto_log_gpu=False)
takes(SQLiteStorage.get_logs, "", "", run_id="")
takes(Metric, "", 1.0, 1, 1)
takes(comet_ml.start, project_name="", experiment_key="", mode="get_or_create", experiment_config=None)
assert isinstance(Run.starting_step, property)
"""
    done = subprocess.run([own / "python", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
