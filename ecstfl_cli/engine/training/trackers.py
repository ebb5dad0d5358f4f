"""Experiment trackers: curves and pictures to TensorBoard, Weights & Biases and MLflow, beside the run folder's own.

Built on the three libraries themselves. accelerate's trackers cannot continue a run, have no pictures for MLflow, add a
run of hyperparameters to TensorBoard at every start, and are started differently from version to version.
"""

from __future__ import annotations

import importlib
import json
import netrc
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from types import ModuleType
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import EcstflError, listing, suggest
from ecstfl_cli.files import complete_file

PROJECT = "ecstfl"
LIBRARIES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
# What the user has set stays. Asking for a tracker is no consent to its makers' usage statistics, and a server that
# has gone may hold the training up for two minutes, once, instead of a quarter of an hour or for ever.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_QUIET": "true",
    # Else wandb puts itself between the progress bar and the terminal.
    "WANDB_CONSOLE": "off",
    "WANDB_FINISH_TIMEOUT": "120",
}


@dataclass(frozen=True)
class _Run:
    """What is tracked; `step` is above 0 where it is continued."""

    folder: Path
    name: str
    config: dict[str, Any]
    step: int
    reporter: Reporter


class Tracker(Protocol):
    """One open tracker; may raise anything."""

    def log_scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def log_image(self, name: str, png: Path, step: int) -> None: ...

    def close(self, finished: bool) -> None: ...


class Trackers:
    """Those that are open, as one. One that fails is left out from there on, with a warning; none raises."""

    def __init__(self, opened: Mapping[str, Tracker], reporter: Reporter) -> None:
        self._open = dict(opened)
        self._reporter = reporter

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """A point for each curve, at epoch `step`."""
        self._each(lambda tracker: tracker.log_scalars(values, step))

    def log_image(self, name: str, png: Path, step: int) -> None:
        """The picture as it is now: the file may change afterwards."""
        self._each(lambda tracker: tracker.log_image(name, png, step))

    def close(self, finished: bool = True) -> None:
        """Write everything out. `finished=False` where the run is to be resumed or has failed: its page says so."""
        self._each(lambda tracker: tracker.close(finished))
        self._open.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                call(tracker)
            except Exception as error:
                del self._open[name]
                self._reporter.warn(
                    f"tracker {name} failed and is left out until the run is resumed: {_in_short(error)}. "
                    "The training goes on, and the run folder has the same figures."
                )


def open_trackers(
    names: Sequence[str], folder: Path, run_name: str, config: Mapping[str, Any], reporter: Reporter, step: int = 0
) -> Trackers:
    """Open `names` (tensorboard, wandb, mlflow) for the run in `folder`; no names give trackers that do nothing.

    To be called on the main process only, before training. A folder that was tracked before continues the same runs:
    `step` is the epoch that training continues from, and TensorBoard forgets what came after it. `config` is
    the resolved recipe, shown with the run.

    Raises: EcstflError where a library is not installed, a server does not answer or a login is missing.
    """
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    libraries = _import_all(names)
    run = _Run(folder, run_name, json.loads(json.dumps(config, default=str)), step, reporter)
    opened: dict[str, Tracker] = {}
    for name, library in libraries.items():
        try:
            opened[name] = _OPENERS[name](library, run)
        except Exception as error:
            Trackers(opened, reporter).close(finished=False)
            if isinstance(error, EcstflError):
                raise
            hint = "Mend this and start again, or leave the tracker out of train.trackers."
            raise EcstflError(f"tracker {name} cannot be opened: {_in_short(error)}", hint) from error
    return Trackers(opened, reporter)


def _import_all(names: Sequence[str]) -> dict[str, ModuleType]:
    """The library of each name, once; all that are missing are reported together."""
    libraries, problems = {}, {}
    for name in dict.fromkeys(names):
        if name not in LIBRARIES:
            hint = f"{suggest(name, LIBRARIES)}Trackers are {', '.join(LIBRARIES)}."
            raise EcstflError(f"there is no tracker {name!r}", hint)
        try:
            libraries[name] = importlib.import_module(LIBRARIES[name])
        except ImportError as error:
            problems[name] = _in_short(error)
        else:
            # A folder ./wandb with runs in it can be imported, too.
            if libraries[name].__file__ is None:
                problems[name] = "not installed"
    if problems:
        lines = listing([f"{name}: {problem}" for name, problem in problems.items()])
        raise EcstflError(
            f"the library of {'a tracker' if len(problems) == 1 else 'some trackers'} cannot be imported:\n{lines}",
            f"Install it: pip install {' '.join(problems)}. Or leave it out of train.trackers.",
        )
    return libraries


def _in_short(error: Exception) -> str:
    """The first line of what it says, without a stop at its end."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


class _TensorBoard:
    """Event files in `folder`/tensorboard: TensorBoard shows all files of a folder as one run."""

    def __init__(self, library: Any, run: _Run) -> None:
        # What was written between the last saved state and the kill comes again.
        purge = run.step + 1 if run.step else None
        self._writer = library.SummaryWriter(str(run.folder / "tensorboard"), purge_step=purge)
        indented = json.dumps(run.config, indent=2, ensure_ascii=False).replace("\n", "\n    ")
        self._writer.add_text("recipe", f"    {indented}", run.step)
        self._writer.flush()
        run.reporter.note(f"TensorBoard, run {run.name}: tensorboard --logdir {quote(str(run.folder))}")

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), step)
        self._writer.flush()

    def log_image(self, name: str, png: Path, step: int) -> None:
        with Image.open(png) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self._writer.flush()

    def close(self, finished: bool) -> None:  # noqa: ARG002 (an event file has no such mark)
        self._writer.close()


class _Wandb:
    """A run of wandb.ai or of a server of one's own, or an offline one in `folder`/wandb for `wandb sync`."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        self._log({name: float(value) for name, value in values.items()}, step)

    def log_image(self, name: str, png: Path, step: int) -> None:
        self._log({name: importlib.import_module("wandb").Image(str(png))}, step)

    def _log(self, values: dict[str, Any], step: int) -> None:
        # A resumed run repeats steps that the server has, with the same values; it would warn of each.
        if step >= self._run.step:
            self._run.log(values, step=step)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


def _open_wandb(library: Any, run: _Run) -> Tracker:
    remembered = run.folder / "wandb" / "run_id.txt"
    remembered.parent.mkdir(parents=True, exist_ok=True)
    known = _read(remembered)
    opened = library.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=run.name,
        dir=str(run.folder),
        config=run.config,
        allow_val_change=True,
        mode=_wandb_mode(library.setup().settings),
        id=known,
        resume="allow" if known else None,
        reinit="create_new",
    )
    _write(remembered, opened.id)
    if opened.offline:
        upload = f"wandb sync {quote(opened.settings.sync_dir)}"
        run.reporter.note(f"W&B, run {run.name}: offline; to upload it: {upload}")
    elif opened.url:
        run.reporter.note(f"W&B, run {run.name}: {opened.url}")
    return _Wandb(opened)


def _wandb_mode(settings: Any) -> str | None:
    """None leaves it to the user's configuration; without that and without a login it is `offline`."""
    if _wandb_login(settings):
        return None
    chosen = os.environ.get("WANDB_MODE")
    if chosen in ("online", "run", "shared"):
        raise EcstflError(
            f"tracker wandb: WANDB_MODE is {chosen}, and there is no login for {settings.base_url}",
            "Run `wandb login`, or set WANDB_API_KEY; with WANDB_MODE=offline the run can be uploaded afterwards.",
        )
    return None if chosen or settings.mode != "online" else "offline"


def _wandb_login(settings: Any) -> bool:
    """Whether wandb finds a key where it looks for one; it would ask at the terminal otherwise, and wait."""
    if settings.api_key or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    # wandb reads keys that were stored for its former host for its present one, too.
    hosts = {urlsplit(settings.base_url).netloc, "api.wandb.ai" if "WANDB_BASE_URL" not in os.environ else ""}
    chosen = os.environ.get("NETRC")
    for path in [Path(chosen)] if chosen else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        with suppress(OSError, netrc.NetrcParseError):
            stored = netrc.netrc(str(path))
            return any(stored.authenticators(host) for host in hosts if host)
    return False


class _MLflow:
    """A run of the user's tracking server, or of a store in `folder`/mlflow."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        metric = importlib.import_module("mlflow.entities").Metric
        now = int(time.time() * 1000)
        metrics = [metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def log_image(self, name: str, png: Path, step: int) -> None:
        with Image.open(png) as image:
            self._client.log_image(self._run_id, image.convert("RGB"), key=name, step=step)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """The recipe as parameters `section.key`; a parameter cannot be changed later."""
        param = importlib.import_module("mlflow.entities").Param
        params = [param(name, value) for name, value in _flat(config)]
        # MLflow takes a hundred at a time.
        for start in range(0, len(params), 100):
            self._client.log_batch(self._run_id, params=params[start : start + 100])

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._run_id, "FINISHED" if finished else "KILLED")


def _open_mlflow(library: Any, run: _Run) -> Tracker:
    remembered = run.folder / "mlflow" / "run_id.txt"
    uri = artifacts = None
    if not library.is_tracking_uri_set():
        uri, artifacts = _local_store(run.folder / "mlflow")
    client = library.MlflowClient(tracking_uri=uri)
    known = _read(remembered)
    if known and _exists(library, client, known):
        client.update_run(known, "RUNNING")
        tracker = _MLflow(client, known)
    else:
        run_id = client.create_run(_experiment(library, client, artifacts), run_name=run.name).info.run_id
        _write(remembered, run_id)
        tracker = _MLflow(client, run_id)
        tracker.log_config(run.config)
    where = f"mlflow ui --backend-store-uri {quote(uri)}" if uri else library.get_tracking_uri()
    run.reporter.note(f"MLflow, run {run.name}: {where}")
    return tracker


def _exists(library: Any, client: Any, run_id: str) -> bool:
    """A folder may be resumed with another tracking server, which does not know the run."""
    try:
        client.get_run(run_id)
    except library.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def _local_store(folder: Path) -> tuple[str, str]:
    """(tracking URI, artifact location) of a store in `folder`: SQLite, MLflow's files-only store being closed.

    Its pictures' places are absolute paths: those of a folder that has been moved are put right.
    """
    folder.mkdir(parents=True, exist_ok=True)
    database = folder.resolve() / "mlflow.db"
    artifacts = (folder.resolve() / "artifacts").as_uri()
    if database.exists():
        with closing(sqlite3.connect(database)) as connection, connection:
            query = "SELECT artifact_location FROM experiments WHERE name = ?"
            found = connection.execute(query, (_experiment_name(),)).fetchone()
            if found and found[0] != artifacts:
                for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                    connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (found[0], artifacts))
    return f"sqlite:///{database.as_posix()}", artifacts


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)


def _experiment(library: Any, client: Any, artifacts: str | None) -> str:
    """The id of the experiment, which is made where there is none."""
    name = _experiment_name()
    if (found := client.get_experiment_by_name(name)) is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name, artifact_location=artifacts))
    except library.exceptions.MlflowException:
        # Another run that started at the same moment has made it.
        if (found := client.get_experiment_by_name(name)) is None:
            raise
        return str(found.experiment_id)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8").strip() or None if path.exists() else None


def _write(path: Path, text: str) -> None:
    with complete_file(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


_OPENERS: dict[str, Callable[[Any, _Run], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _open_wandb,
    "mlflow": _open_mlflow,
}
