"""What each tracker is handed: the curves that TensorBoard has, the settings, and nothing of the texts.

The trackers are stand-ins in the form of the real ones, which tests/tracking/test_real_trackers.py takes instead.
"""

import json
import shutil
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
from conftest import ONE_THREAD, SETTINGS, Project
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stages.lib.common import files, params
from stages.lib.common.cli import UserError
from stages.lib.tracking import choice, trackers
from stages.lib.training import board, checkpoints
from stages.lib.training.record import Record

ALL = list(trackers.TRACKERS)
PRIVATE = "Жужелица"


class Store:
    """What a tracker has been handed, by run: (name, step, value) of each point; and all else."""

    def __init__(self):
        self.points, self.handed, self.ended, self.goes_on = {}, [], [], []

    def begin(self, run, *handed):
        self.goes_on.append(run in self.points)
        self.points.setdefault(run, [])
        self.handed += handed

    def add(self, run, values, step):
        self.points[run] += [(name, step, value) for name, value in values.items()]


def wandb(store):
    class Run:
        url = "https://wandb.example.org/run"

        def define_metric(self, name, step_metric=None, *, step_sync=None):
            self.by = step_metric

        def log(self, data, step=None, commit=None):
            if step < self.starting_step:
                return  # as the real one does, with a warning
            at = data[self.by]
            store.add(self.id, {name: value for name, value in data.items() if name != self.by}, at)
            store.last = step

        def finish(self, exit_code=None, quiet=None):
            store.ended.append(exit_code == 0)

    def init(project, id, name, config, resume, dir, settings):
        assert resume == "allow"
        run = Run()
        run.id, run.dir = id or "w1", f"{dir}/wandb/run/files"
        run.starting_step = store.last + 1 if id in store.points else 0
        store.begin(run.id, project, name, config, settings)
        return run

    return {"wandb": SimpleNamespace(init=init, Settings=dict, login=lambda prompt, verify: True)}


def mlflow(store):
    class MlflowClient:
        tracking_uri = "http://mlflow.example.org"

        def get_experiment_by_name(self, name):
            return SimpleNamespace(experiment_id="1") if "experiment" in store.handed else None

        def create_experiment(self, name):
            store.handed.append("experiment")
            return "1"

        def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
            store.begin("m1", run_name)
            return SimpleNamespace(info=SimpleNamespace(run_id="m1"))

        def update_run(self, run_id, status=None, name=None):
            assert status == "RUNNING"
            store.begin(run_id)

        def get_run(self, run_id):
            return SimpleNamespace(
                data=SimpleNamespace(metrics={name: value for name, _, value in store.points[run_id]})
            )

        def get_metric_history(self, run_id, key):
            return [SimpleNamespace(step=step) for name, step, _ in store.points[run_id] if name == key]

        def log_batch(self, run_id, metrics=(), params=(), tags=(), synchronous=None):
            store.handed += params
            for metric in metrics:
                store.add(run_id, {metric.key: metric.value}, metric.step)

        def set_terminated(self, run_id, status=None, end_time=None):
            store.ended.append(status == "FINISHED")

    class Metric(SimpleNamespace):
        def __init__(self, key, value, timestamp, step):
            super().__init__(key=key, value=value, step=step)

    entities = SimpleNamespace(Metric=Metric, Param=lambda key, value: f"{key}={value}")
    return {"mlflow": SimpleNamespace(MlflowClient=MlflowClient, entities=entities), "mlflow.entities": entities}


def trackio(store):
    class Run:
        project, id = "a project", "t1"

        def log(self, metrics, step=None):
            store.add(self.name, metrics, step)

        def finish(self):
            store.ended.append(True)

    def init(project, name, config, resume, embed, auto_log_cpu, auto_log_gpu):
        assert (resume == "allow") == (name in store.points)
        assert (embed, auto_log_cpu, auto_log_gpu) == (False, False, False)
        run = Run()
        run.name = name
        store.begin(name, project, config)
        return run

    class SQLiteStorage:
        @staticmethod
        def get_logs(project, run=None, max_points=None, run_id=None, scalar_only=False):
            return [{"timestamp": "now", "step": step, name: value} for name, step, value in store.points[run]]

    inner = SimpleNamespace(SQLiteStorage=SQLiteStorage)
    return {"trackio": SimpleNamespace(init=init, sqlite_storage=inner), "trackio.sqlite_storage": inner}


def comet_ml(store):
    class Experiment:
        url = "https://comet.example.org/run"

        def get_key(self):
            return "c1"

        def log_parameters(self, parameters):
            store.handed.append(parameters)

        def log_metrics(self, dic, prefix=None, step=None, epoch=None):
            store.add("c1", dic, step)

        def end(self):
            store.ended.append(True)

    def start(project_name, experiment_key, mode, experiment_config):
        assert mode == "get_or_create"
        store.begin(experiment_key or "c1", project_name, experiment_config)
        return Experiment()

    return {"comet_ml": SimpleNamespace(start=start, ExperimentConfig=dict)}


@pytest.fixture(params=[wandb, mlflow, trackio, comet_ml], ids=lambda made: made.__name__)
def stand_in(request, monkeypatch):
    """The name of a tracker, and what its stand-in is handed."""
    store = Store()
    for name, content in request.param(store).items():
        module = ModuleType(name)
        module.__dict__.update(vars(content), __spec__=SimpleNamespace(origin="somewhere"))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org")
    return request.param.__name__, store


def settings(**changes):
    content = params.load(SETTINGS).model_dump(by_alias=True)
    content["train"] |= changes
    content["corpus"]["path"] = f"data/{PRIVATE}.jsonl"
    content["evaluate"]["prompts"] = [PRIVATE]
    content["report"]["title"] = PRIVATE
    return params.Params.model_validate(content)


@pytest.fixture
def show(tmp_path, monkeypatch):
    """A function that opens what shows a run from a step on, with what its record has then."""
    monkeypatch.chdir(tmp_path)
    run = checkpoints.Run("a" * 64)

    def opened(names, step=0):
        record = Record(curve=[training(at) for at in range(1, step + 1)], validation=[validation(0)][: step + 1])
        return board.opened(settings(report_to=names), run, step, record)

    return opened


def training(step):
    return {"step": step, "loss": 5 - step / 7, "learning_rate": 0.1 / step, "gradient_norm": 1.0}


def validation(step):
    return {"step": step, "bits_per_byte": 2 - step / 70, "loss": 4 - step / 7}


def draw(shown, steps):
    for step in steps:
        if step:
            shown.training(training(step), 100.0)
        if step % 4 == 0:
            shown.validation(validation(step))
            shown.samples(step, [PRIVATE])


def drawn_by_tensorboard(folder):
    (run,) = folder.glob("logs/tensorboard/*")
    events = EventAccumulator(str(run)).Reload()
    return [(name, event.step, event.value) for name in events.Tags()["scalars"] for event in events.Scalars(name)]


def test_a_tracker_has_the_very_curves_of_tensorboard_also_after_a_kill(stand_in, show, tmp_path, capsys):
    name, store = stand_in
    shown = show(["tensorboard", name])
    draw(shown, range(8))
    shown.close()
    shown = show(["tensorboard", name], step=5)  # the checkpoint that it goes on from
    shown.training(training(5))
    draw(shown, range(6, 13))
    shown.finished(12, {"best_step": 8, "validation_bits_per_byte": None})
    shown.close()
    (points,) = store.points.values()  # one run
    assert store.goes_on == [False, True]
    assert store.ended[-1]
    curves = [point for point in points if not point[0].startswith("final/")]
    speed = "train/tokens_per_second"  # which TensorBoard has no more where it drew the checkpoint's point again
    without = [point for point in sorted(curves) if point[0] != speed]
    drawn = [point for point in sorted(drawn_by_tensorboard(tmp_path)) if point[0] != speed]
    assert [point[:2] for point in without] == [point[:2] for point in drawn]
    assert [point[2] for point in without] == pytest.approx([point[2] for point in drawn], rel=1e-6)
    assert [step for at, step, _ in curves if at == speed] == list(range(1, 13))
    assert [point for point in points if point not in curves] == [("final/best_step", 12, 8)]
    assert "does not take" not in capsys.readouterr().out


def test_it_is_handed_the_settings_and_no_text_and_no_path(stand_in, show):
    name, store = stand_in
    shown = show(name)
    draw(shown, range(5))
    shown.close()
    handed = json.dumps(store.handed, ensure_ascii=False, default=str)
    assert "train.learning_rate" in handed
    assert "tokenize.max_length" in handed
    assert PRIVATE not in handed + str(store.points)
    assert "model/embedded" not in handed
    assert not {"corpus.path", "base.folder", "corpus.text_field"} & board.disclosed(settings()).keys()


def test_one_that_is_named_in_mid_run_gets_the_curves_from_the_beginning(stand_in, show):
    name, store = stand_in
    draw(show("tensorboard"), range(6))
    shown = show(["tensorboard", name], step=5)
    draw(shown, range(6, 9))
    shown.close()
    (points,) = store.points.values()
    assert [step for curve, step, _ in points if curve == "train/loss"] == list(range(1, 9))


@pytest.mark.parametrize("stand_in", [wandb, mlflow, trackio], indirect=True, ids=lambda made: made.__name__)
def test_a_point_whose_arrival_a_kill_left_unnoted_is_not_sent_again(stand_in, show, tmp_path):
    name, store = stand_in
    shown = show(name)
    draw(shown, range(6))
    shown.close()
    (journal,) = (path for path in tmp_path.rglob(f"*{name}*") if path.is_file() and b'"arrived"' in path.read_bytes())
    lines = journal.read_bytes().splitlines(keepends=True)
    last = max(place for place, line in enumerate(lines) if b'"arrived"' in line)
    journal.write_bytes(b"".join(lines[:last] + lines[last + 1 :]))
    shown = show(name, step=5)
    draw(shown, range(6, 9))
    shown.close()
    (points,) = store.points.values()
    assert [step for curve, step, _ in points if curve == "train/loss"] == list(range(1, 9))
    assert [step for curve, step, _ in points if curve == "validation/loss"] == [0, 4, 8]


@pytest.mark.parametrize("stand_in", [mlflow], indirect=True, ids=lambda made: made.__name__)
def test_a_point_whose_answer_is_lost_on_the_way_is_not_sent_again(stand_in, show, monkeypatch, capsys):
    name, store = stand_in
    client, calls = sys.modules[name].MlflowClient, []
    take = client.log_batch

    def log_batch(*given, **named):
        take(*given, **named)
        calls.append(named)
        if len(calls) % 3 == 0:
            raise TimeoutError("no answer")

    monkeypatch.setattr(client, "log_batch", log_batch)
    shown = show(name)
    draw(shown, range(9))
    shown.finished(8, {"best_step": 8, "validation_bits_per_byte": 1.5})
    delivery = shown._boards[0]._delivery
    while delivery._journal.after(delivery._journal.arrived):
        delivery._news.set()  # as each further point does
        time.sleep(0.01)
    shown.close()
    (points,) = store.points.values()
    assert [step for curve, step, _ in points if curve == "train/loss"] == list(range(1, 9))
    assert [step for curve, step, _ in points if curve == "validation/loss"] == [0, 4, 8]
    assert [curve for curve, *_ in points if curve.startswith("final/")] == [
        "final/best_step",
        "final/validation_bits_per_byte",
    ]
    assert "mlflow does not take the curves (no answer)" in capsys.readouterr().out


def test_without_tensorboard_nothing_is_drawn_there(stand_in, show, tmp_path):
    shown = show(stand_in[0])
    draw(shown, range(3))
    shown.close()
    assert shown.name == ""
    assert not (tmp_path / "logs/tensorboard").exists()


COMET = """
import json, os

ExperimentConfig = dict

class start:
    url = "https://comet.example.org/run"
    get_key = lambda self: "c1"
    log_parameters = lambda self, given: None
    end = lambda self: None

    def __init__(self, project_name, experiment_key, mode, experiment_config):
        self.log_metrics({"experiment": experiment_key}, step=0)

    def log_metrics(self, values, step):
        with open(os.environ["COMET_FILE"], "a") as file:
            file.writelines(json.dumps([name, step, value]) + "\\n" for name, value in values.items())
"""


@pytest.mark.slow
def test_a_reported_run_that_is_killed_leaves_the_model_of_an_unreported_one(project, tmp_path):
    """The stage itself, with a module in the place of Comet's that Python finds in the project's folder."""
    project.set(train__logging_steps="1", train__save_steps="10", train__seed="7", train__toward_base="0.5")
    plain = Project(shutil.copytree(project.folder, tmp_path / "plain", symlinks=True), **ONE_THREAD)
    plain.set(train__report_to="none")
    assert "curves while it runs" not in plain.ok("python", "-m", "stages.train")
    project.path("comet_ml.py").write_text(COMET, encoding="utf-8")
    project.set(train__report_to="[tensorboard, comet_ml]")
    file = tmp_path / "comet.jsonl"
    assert project.run("python", "-m", "stages.train", FAILPOINT="step taken:37", COMET_FILE=str(file)).returncode == -9
    project.ok("python", "-m", "stages.train", COMET_FILE=str(file))
    points = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [value for name, _, value in points if name == "experiment"] == [None, "c1"]
    curve = files.read_tsv(project.path("logs/train_loss.tsv"))
    assert [(step, str(value)) for name, step, value in points if name == "train/loss"] == [
        (int(point["step"]), point["loss"]) for point in curve
    ]
    ends = {name.removeprefix("final/"): value for name, _, value in points if name.startswith("final/")}
    figures = project.json("logs/train.json")  # of the weights that are handed over, halfway back to the base
    assert ends == {name: figures[name] for name in ("best_step", "validation_bits_per_byte")}
    validated = [float(point["bits_per_byte"]) for point in files.read_tsv(project.path("logs/validation.tsv"))]
    assert ends["validation_bits_per_byte"] not in validated
    for output in ("model/finetuned", "logs/train.json", "logs/train_loss.tsv", "logs/validation.tsv"):
        assert files.sha256_of_tree(project.path(output)) == files.sha256_of_tree(plain.path(output)), output


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("none", []),
        ("tensorboard", ["tensorboard"]),
        (["none"], []),
        (["wandb", "mlflow", "wandb"], ["wandb", "mlflow"]),
    ],
)
def test_one_or_several_may_be_named(given, names):
    assert choice.named(settings(report_to=given).train.report_to) == names


@pytest.mark.parametrize("name", ALL)
def test_one_that_is_not_installed_is_refused_with_the_command_that_installs_it(name, tmp_path, monkeypatch):
    (tmp_path / name).mkdir()  # such a folder, as wandb makes one where it runs, is no package
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    command = rf"{name} is not installed: python -m pip install -c tools/trackers_requirements\.txt "
    with pytest.raises(UserError, match=command + choice.PACKAGES[name]):
        choice.require(["tensorboard", name])


def test_what_only_the_user_can_give_is_asked_for_before_the_work(monkeypatch):
    monkeypatch.setattr(choice, "_installed", lambda name: True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(UserError, match="the address of its server, in MLFLOW_TRACKING_URI"):
        choice.require(["mlflow"])
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(login=lambda prompt, verify: False))
    with pytest.raises(UserError, match="wandb has no key: wandb login, or set WANDB_MODE=offline"):
        choice.require(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    choice.require(["wandb", "tensorboard", "none"])


def test_the_pinned_packages_are_those_that_the_line_names():
    lines = (SETTINGS.parent.parent / choice.REQUIREMENTS).read_text(encoding="utf-8").splitlines()
    pinned = [line.split("==")[0] for line in lines if line and not line.startswith("#")]
    assert pinned == list(choice.PACKAGES.values())
    assert choice.PACKAGES.keys() == trackers.TRACKERS.keys()
