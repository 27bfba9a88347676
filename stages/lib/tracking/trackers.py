"""The trackers of experiments that a run can report to, each behind the same three calls.

What reaches one is what it is handed here. What its library would gather by itself (the command line, the host, the
code, the packages, what the terminal shows) is switched off; wandb's own environment variables switch it on again.
Keys, addresses and names of projects come from the variables that each library reads anyway.
"""

from __future__ import annotations

import importlib
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from stages.lib.common.cli import command
from stages.lib.tracking.choice import online
from stages.lib.tracking.journal import NOWHERE, Place

PROJECT = "gpt2-finetune-custom"  # under which runs stand, where the environment names no other
# Of the points at one step, in their order: what their curves' names begin with.
KINDS = ("train", "validation", "final")
# How the libraries are told not to gather anything by themselves.
_OF_WANDB = {
    "silent": True,
    "init_timeout": 30,  # seconds, after which it is tried again
    "console": "off",
    "save_code": False,
    "disable_git": True,
    "x_disable_meta": True,
    "host": "",  # which stands in the run itself as well
    "x_disable_stats": True,
    "x_save_requirements": False,
}
_OF_COMET = (
    *("log_code", "log_graph", "parse_args", "log_git_metadata", "log_git_patch", "log_env_details"),
    *("auto_output_logging", "auto_param_logging", "auto_metric_logging", "auto_log_co2"),
)


class Begun(NamedTuple):
    """A run that a tracker has begun, or goes on with."""

    run: str  # by what the tracker will know it
    where: str  # where a person finds it
    arrived: Place | None = None  # how far it is; None where it has all that it was ever handed


class Tracker(Protocol):
    """One run in one tracker. Each call may take as long as a network does, and raise whatever its library raises."""

    def begin(self, known: str | None, name: str, settings: Mapping[str, Any]) -> Begun:
        """Begin a run of this name, or go on with the one that is `known`."""

    def log(self, place: Place, values: Mapping[str, float]) -> None:
        """Add a point to each of the curves named."""

    def end(self, finished: bool) -> None:
        """Close the run, and wait until all of it has arrived."""


class Wandb:
    """Weights & Biases. Offline, with WANDB_MODE=offline, it writes to `logs/wandb` what `wandb sync` sends later."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(os.environ.get("WANDB_DIR", folder))

    def begin(self, known: str | None, name: str, settings: Mapping[str, Any]) -> Begun:
        """See Tracker. Offline, a run that goes on is written anew, whole: a kill leaves little of the earlier file."""
        wandb = importlib.import_module("wandb")
        quiet = {one: value for one, value in _OF_WANDB.items() if f"WANDB_{one.upper()}" not in os.environ}
        earlier = [] if online() or not known else [*self._folder.glob(f"wandb/offline-run-*-{known}")]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=known,
            name=os.environ.get("WANDB_NAME", name),
            config=dict(settings),
            resume="allow",
            dir=str(self._folder),
            settings=wandb.Settings(**quiet),
        )
        for folder in earlier:
            shutil.rmtree(folder, ignore_errors=True)
        # As the Trainer has it. The library's own steps count all points, and must rise.
        self._run.define_metric("train/global_step")
        self._run.define_metric("*", step_metric="train/global_step", step_sync=True)
        where = (self._run.url if online() else None) or command(f"wandb sync {Path(self._run.dir).parent}")
        return Begun(self._run.id, where, divmod(self._run.starting_step - 1, len(KINDS)))

    def log(self, place: Place, values: Mapping[str, float]) -> None:
        """See Tracker."""
        self._run.log({**values, "train/global_step": place[0]}, step=place[0] * len(KINDS) + place[1])

    def end(self, finished: bool) -> None:
        """See Tracker."""
        self._run.finish(exit_code=0 if finished else 1)


class Mlflow:
    """MLflow, by its client alone: the server is that of MLFLOW_TRACKING_URI."""

    def __init__(self, folder: Path) -> None:
        self._known: str | None = None
        self._in_doubt = False  # whether the server has taken a point: its answer was lost

    def begin(self, known: str | None, name: str, settings: Mapping[str, Any]) -> Begun:
        """See Tracker."""
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # of minutes otherwise; it is tried again anyway
        self._client = importlib.import_module("mlflow").MlflowClient()
        self._known = known or self._known  # of an attempt that broke off in between
        if self._known:
            self._client.update_run(self._known, status="RUNNING")
        else:
            project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            there = self._client.get_experiment_by_name(project)
            experiment = there.experiment_id if there else self._client.create_experiment(project)
            self._known = self._client.create_run(experiment, run_name=name).info.run_id
        if not known:
            param = importlib.import_module("mlflow.entities").Param
            self._client.log_batch(self._known, params=[param(one, str(value)) for one, value in settings.items()])
        where = f"{self._client.tracking_uri}, run {self._known}"
        return Begun(self._known, where, self._arrived() if known else None)

    def log(self, place: Place, values: Mapping[str, float]) -> None:
        """See Tracker."""
        if not (self._in_doubt and place <= self._arrived()):
            self._in_doubt = True
            metric = importlib.import_module("mlflow.entities").Metric
            now, step = int(time.time() * 1000), place[0]
            points = [metric(name, value, now, step) for name, value in values.items()]
            self._client.log_batch(self._known, metrics=points)
        self._in_doubt = False

    def end(self, finished: bool) -> None:
        """See Tracker."""
        self._client.set_terminated(self._known, "FINISHED" if finished else "KILLED")

    def _arrived(self) -> Place:
        """How far the run has come at the server: a kill may have left unnoted what that one had taken."""
        curves = self._client.get_run(self._known).data.metrics
        points = ((_kind({name: 0}), self._client.get_metric_history(self._known, name)) for name in curves)
        return max(((point.step, kind) for kind, history in points for point in history), default=NOWHERE)


class Trackio:
    """Trackio: on this machine, or in the Space that TRACKIO_SPACE_ID names."""

    def __init__(self, folder: Path) -> None:
        pass

    def begin(self, known: str | None, name: str, settings: Mapping[str, Any]) -> Begun:
        """See Tracker. A run is known by its name: the latest one of that name goes on."""
        trackio = importlib.import_module("trackio")
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self._run = trackio.init(
            project=project,
            name=known or name,
            config=dict(settings),
            resume="allow" if known else "never",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        return Begun(self._run.name, command(f"trackio show --project {project}"), self._arrived() if known else None)

    def log(self, place: Place, values: Mapping[str, float]) -> None:
        """See Tracker."""
        self._run.log(dict(values), step=place[0])

    def end(self, finished: bool) -> None:
        """See Tracker."""
        self._run.finish()

    def _arrived(self) -> Place | None:
        """How far the run has come on this machine: a kill loses what the library was about to write."""
        storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
        if os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL"):
            return None
        rows = storage.get_logs(self._run.project, self._run.name, run_id=self._run.id)
        return max(((row["step"], _kind(row)) for row in rows), default=NOWHERE)


class Comet:
    """Comet. Offline, with COMET_START_ONLINE=false, it writes to `logs/comet` what `comet upload` sends later."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "comet"

    def begin(self, known: str | None, name: str, settings: Mapping[str, Any]) -> Begun:
        """See Tracker. Offline, a run that goes on is written anew, whole: a kill leaves nothing of the file before."""
        comet_ml = importlib.import_module("comet_ml")
        config = comet_ml.ExperimentConfig(
            **dict.fromkeys(_OF_COMET, False),
            name=name,
            display_summary_level=0,
            offline_directory=str(self._folder),
        )
        earlier = [*self._folder.glob(f"{known}*.zip")]
        self._run = comet_ml.start(
            project_name=os.environ.get("COMET_PROJECT_NAME", PROJECT),
            experiment_key=known,
            mode="get_or_create",
            experiment_config=config,
        )
        key, offline = self._run.get_key(), not self._run.url
        if offline or not known:
            self._run.log_parameters(dict(settings))
        for file in earlier if offline else ():
            file.unlink()
        where = command(f"comet upload {self._folder}/{key}*.zip") if offline else self._run.url
        return Begun(key, where, NOWHERE if offline else None)

    def log(self, place: Place, values: Mapping[str, float]) -> None:
        """See Tracker."""
        self._run.log_metrics(dict(values), step=place[0])

    def end(self, finished: bool) -> None:
        """See Tracker."""
        self._run.end()


# By the Trainer's names for them.
TRACKERS = {"wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio, "comet_ml": Comet}


def _kind(values: Mapping[str, Any]) -> int:
    """Which of the points at a step these are."""
    return max(kind for kind, name in enumerate(KINDS) if any(one.startswith(f"{name}/") for one in values))
