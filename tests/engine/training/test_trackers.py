"""Each tracker is read back with its own library. Those of wandb and MLflow run where they are installed."""

import json
import os
import shutil
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.training.trackers import open_trackers
from ecstfl_cli.errors import EcstflError

CONFIG = {"name": "demo", "train": {"batch_size": 8, "trackers": ["tensorboard"]}, "data": {"root": Path("faces")}}


@pytest.fixture(autouse=True)
def no_configuration_of_the_user(monkeypatch, tmp_path):
    for variable in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB__DISABLE_STATS", "true")


@pytest.fixture
def picture(tmp_path):
    """`picture(red)` is a PNG of one colour."""

    def make(red: int) -> Path:
        path = tmp_path / "picture.png"
        Image.new("RGB", (6, 4), (red, 0, 0)).save(path)
        return path

    return make


def open_in(folder: Path, *names: str, step: int = 0, reporter: Reporter | None = None):
    folder.mkdir(parents=True, exist_ok=True)
    return open_trackers(names, folder, "demo/now", CONFIG, reporter or Reporter(), step)


# --- all of them ----------------------------------------------------------------------------------------------------


def test_no_trackers_do_nothing(tmp_path):
    trackers = open_in(tmp_path / "run")
    trackers.log_scalars({"train/loss": 1.0}, 1)
    trackers.log_image("val/confusion", tmp_path / "there is none.png", 1)
    trackers.close()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_tracker_that_is_not_known_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(EcstflError, match=r"Did you mean 'tensorboard'.*tensorboard, wandb, mlflow"):
        open_in(tmp_path, "tensorbord")


def test_libraries_that_are_not_installed_are_named_together_with_the_command_that_installs_them(tmp_path, monkeypatch):
    # Runs in ./wandb are no library, though Python imports the folder.
    (tmp_path / "wandb").mkdir()
    monkeypatch.chdir(tmp_path)
    code = """
        import sys
        from importlib.machinery import PathFinder
        class Hide:
            def find_spec(name, path=None, target=None):
                if name == "mlflow":
                    raise ModuleNotFoundError("No module named 'mlflow'")
                if name == "wandb":
                    return PathFinder.find_spec(name, [""])
        sys.meta_path.insert(0, Hide)
        from pathlib import Path
        from ecstfl_cli.engine.reporter import Reporter
        from ecstfl_cli.engine.training.trackers import open_trackers
        open_trackers(["tensorboard", "wandb", "mlflow"], Path("run"), "r", {}, Reporter())
    """
    output = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert "EcstflError" in output.stderr
    assert "pip install wandb mlflow" in output.stderr
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_fails_is_left_out_with_one_warning_and_the_others_go_on(tmp_path, picture):
    reporter = Reporter()
    trackers = open_in(tmp_path, "tensorboard", reporter=reporter)
    trackers.log_scalars({"train/loss": 1.0}, 1)
    trackers.log_image("val/confusion", tmp_path / "there is none.png", 1)
    trackers.log_scalars({"train/loss": 1.0}, 2)
    trackers.log_image("val/confusion", picture(255), 2)
    trackers.close()
    assert len(reporter.warnings) == 1
    assert "tracker tensorboard failed" in reporter.warnings[0]
    assert "there is none.png" in reporter.warnings[0]
    assert steps_of(tmp_path, "train/loss") == [1]


# --- TensorBoard ----------------------------------------------------------------------------------------------------


def events(folder: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    read.Reload()
    return read


def steps_of(folder: Path, name: str) -> list[int]:
    return [event.step for event in events(folder).Scalars(name)]


def test_tensorboard_has_the_values_and_pictures_at_their_steps(tmp_path, picture):
    pytest.importorskip("tensorboard")
    reporter = Reporter()
    trackers = open_in(tmp_path, "tensorboard", reporter=reporter)
    for step in (10, 20):
        trackers.log_scalars({"train/loss": 1 / step, "lr": np.float32(0.5), "val/war": 50}, step)
        trackers.log_image("val/confusion", picture(step), step)
    trackers.close()
    read = events(tmp_path)
    assert [(event.step, event.value) for event in read.Scalars("train/loss")] == [
        (10, pytest.approx(0.1)),
        (20, pytest.approx(0.05)),
    ]
    assert [event.value for event in read.Scalars("lr")] == [0.5, 0.5]
    images = read.Images("val/confusion")
    assert [(image.step, image.width, image.height) for image in images] == [(10, 6, 4), (20, 6, 4)]
    shown = [np.asarray(decoded(image.encoded_image_string))[0, 0].tolist() for image in images]
    assert shown == [[10, 0, 0], [20, 0, 0]]
    assert b'"batch_size": 8' in read.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0]
    assert [str(tmp_path) in note for note in reporter.notes] == [True]


def decoded(encoded: bytes) -> Image.Image:
    import io

    return Image.open(io.BytesIO(encoded))


def test_a_resumed_run_continues_its_curve_without_what_came_after_the_saved_state(tmp_path):
    killed = open_in(tmp_path, "tensorboard")
    for step in range(1, 9):
        killed.log_scalars({"train/loss": 100.0 + step}, step)
    # No close: the process was killed, and in the middle of a record.
    file = next((tmp_path / "tensorboard").iterdir())
    os.truncate(file, file.stat().st_size - 5)
    os.utime(file, (0, 0))
    file.rename(file.with_name(file.name.replace("tfevents.", "tfevents.0")))

    resumed = open_in(tmp_path, "tensorboard", step=5)
    for step in range(6, 11):
        resumed.log_scalars({"train/loss": 200.0 + step}, step)
    resumed.close()
    curve = [(event.step, event.value) for event in events(tmp_path).Scalars("train/loss")]
    assert curve == [(step, (100.0 if step <= 5 else 200.0) + step) for step in range(1, 11)]


def test_a_disk_that_fills_up_costs_the_curves_and_not_the_training(tmp_path):
    pytest.importorskip("tensorboard")
    code = """
        import resource
        from pathlib import Path
        from ecstfl_cli.engine.reporter import Reporter
        from ecstfl_cli.engine.training.trackers import open_trackers
        reporter = Reporter()
        trackers = open_trackers(["tensorboard"], Path("run"), "r", {}, reporter)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        for step in range(100):
            trackers.log_scalars({f"loss/{i}": 1.0 for i in range(20)}, step)
        trackers.close()
        print(len(reporter.warnings), reporter.warnings[0])
    """
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert output.returncode == 0, output.stderr
    assert output.stdout.startswith("1 tracker tensorboard failed")
    assert "File too large" in output.stdout


# --- Weights & Biases -----------------------------------------------------------------------------------------------


def wandb_records(file: Path):
    """The records of a .wandb file: blocks of 32 KiB of LevelDB's log format after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            parsed = Record()
            parsed.ParseFromString(record)
            yield parsed
            record = b""


def wandb_files(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))


def wandb_history(file: Path) -> dict[tuple[int, str], object]:
    """{(step, name): value} of a .wandb file."""
    found = {}
    for record in wandb_records(file):
        if record.WhichOneof("record_type") == "history":
            row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            found |= {(row["_step"], name): value for name, value in row.items()}
    return found


def test_without_a_login_wandb_keeps_an_offline_run_and_a_resumed_one_has_its_id(tmp_path, picture):
    pytest.importorskip("wandb")
    reporter = Reporter()
    trackers = open_in(tmp_path, "wandb", reporter=reporter)
    trackers.log_scalars({"train/loss": 0.5}, 10)
    trackers.log_scalars({"val/war": 40.0}, 10)
    trackers.log_image("val/confusion", picture(10), 10)
    trackers.log_image("val/confusion", picture(20), 20)
    trackers.close(finished=False)
    (file,) = wandb_files(tmp_path)
    history = wandb_history(file)
    assert history[10, "train/loss"] == 0.5
    assert history[10, "val/war"] == 40.0
    shown = [
        np.asarray(Image.open(file.parent / "files" / history[step, "val/confusion/path"]))[0, 0, 0]
        for step in (10, 20)
    ]
    assert shown == [10, 20]
    assert "wandb sync" in reporter.notes[0]

    resumed = open_in(tmp_path, "wandb", step=15)
    resumed.log_scalars({"train/loss": 0.25}, 30)
    resumed.close()
    (other,) = set(wandb_files(tmp_path)) - {file}
    assert wandb_history(other)[30, "train/loss"] == 0.25
    first, second = (
        next(record.run for record in wandb_records(part) if record.WhichOneof("record_type") == "run")
        for part in (file, other)
    )
    assert first.run_id == second.run_id
    assert (first.project, first.display_name) == ("ecstfl", "demo/now")
    codes = [
        record.exit.exit_code
        for part in (file, other)
        for record in wandb_records(part)
        if record.WhichOneof("record_type") == "exit"
    ]
    assert codes == [1, 0]


def test_wandb_online_without_a_login_is_an_error_and_no_prompt(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(EcstflError, match=r"there is no login for .*\n.*wandb login"):
        open_in(tmp_path, "wandb")


def test_a_login_in_the_users_netrc_is_used(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    # Nothing listens there; that it is asked at all is what the login does.
    code = """
        from pathlib import Path
        from ecstfl_cli.engine.reporter import Reporter
        from ecstfl_cli.engine.training.trackers import open_trackers
        open_trackers(["wandb"], Path("."), "r", {}, Reporter())
    """
    for variable, value in {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "2"}.items():
        monkeypatch.setenv(variable, value)

    def attempt() -> str:
        command = [sys.executable, "-c", textwrap.dedent(code)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False).stderr

    assert "cannot be opened" not in attempt()
    (tmp_path / "netrc").write_text("machine 127.0.0.1:9 login user password " + "a" * 40 + "\n")
    assert "tracker wandb cannot be opened" in attempt()


# --- MLflow ---------------------------------------------------------------------------------------------------------


def mlflow_client(folder: Path):
    import mlflow

    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow/mlflow.db")


def mlflow_runs(client) -> list:
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def curve(client, run, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]


def test_mlflow_keeps_one_run_in_the_run_folder_even_when_it_is_resumed_elsewhere(tmp_path, picture):
    pytest.importorskip("mlflow")
    folder = tmp_path / "a folder"
    # In a process of its own: MLflow remembers where it put a run's first picture.
    code = """
        import sys
        from pathlib import Path
        from ecstfl_cli.engine.reporter import Reporter
        from ecstfl_cli.engine.training.trackers import open_trackers
        config = {"train": {"batch_size": 8}, "data": {"root": Path("faces")}}
        trackers = open_trackers(["mlflow"], Path(sys.argv[1]), "demo/now", config, Reporter())
        trackers.log_scalars({"train/loss": 0.5, "val/war": float("nan")}, 10)
        trackers.log_image("val/confusion", Path(sys.argv[2]), 10)
        trackers.close(finished=False)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), folder, picture(10)], check=True, timeout=60)
    (run,) = mlflow_runs(mlflow_client(folder))
    assert (run.info.run_name, run.info.status) == ("demo/now", "KILLED")
    assert run.data.params["train.batch_size"] == "8"
    assert run.data.params["data.root"] == "faces"

    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    resumed = open_in(moved, "mlflow", step=10)
    resumed.log_scalars({"train/loss": 0.25}, 20)
    resumed.log_image("val/confusion", picture(20), 20)
    resumed.close()
    assert not folder.exists()
    client = mlflow_client(moved)
    (run,) = mlflow_runs(client)
    assert run.info.status == "FINISHED"
    assert curve(client, run, "train/loss") == [(10, 0.5), (20, 0.25)]
    images = [item.path for item in client.list_artifacts(run.info.run_id, "images") if item.path.endswith(".png")]
    downloaded = sorted(client.download_artifacts(run.info.run_id, image) for image in images)
    assert [np.asarray(Image.open(image))[0, 0, 0] for image in downloaded] == [10, 20]


def test_mlflow_goes_to_the_users_server_and_a_run_that_it_does_not_know_is_begun_anew(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    import mlflow

    open_in(tmp_path / "run", "mlflow").close()
    uri = f"sqlite:///{tmp_path}/server.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "faces")
    for loss in (0.5, 0.25):
        trackers = open_in(tmp_path / "run", "mlflow", step=int(1 / loss))
        trackers.log_scalars({"train/loss": loss}, int(1 / loss))
        trackers.close()
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("faces").experiment_id])
    assert curve(client, run, "train/loss") == [(2, 0.5), (4, 0.25)]


def test_a_store_that_breaks_in_the_middle_ends_mlflow_and_not_the_others(tmp_path):
    pytest.importorskip("mlflow")
    reporter = Reporter()
    trackers = open_in(tmp_path, "mlflow", "tensorboard", reporter=reporter)
    trackers.log_scalars({"train/loss": 1.0}, 1)
    (tmp_path / "mlflow" / "mlflow.db").write_bytes(b"no database " * 10_000)
    for step in (2, 3):
        trackers.log_scalars({"train/loss": 1.0}, step)
    trackers.close()
    assert [warning.split(" and is left out")[0] for warning in reporter.warnings] == ["tracker mlflow failed"]
    assert steps_of(tmp_path, "train/loss") == [1, 2, 3]


def test_mlflow_that_cannot_be_opened_says_so_before_training(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(EcstflError, match="tracker mlflow cannot be opened"):
        open_in(tmp_path / "run", "tensorboard", "mlflow")
