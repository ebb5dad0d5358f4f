"""A run may be stopped at any moment, by anything, and continues as if it had not been."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.training.finetune import RunResult, finetune
from ecstfl_cli.engine.training.run_folder import RunFolder
from ecstfl_cli.engine.training.training_state import states
from ecstfl_cli.errors import CheckpointError, EcstflError
from ecstfl_cli.recipe import Recipe
from tests.small_run import At, StopAfter

STEPS_PER_EPOCH = 6


def sections(tiny: Any, output: Path, **train: Any) -> dict[str, Any]:
    """24 samples in batches of 4; with dropout, augmentation, momentum and a moving average there is state to lose."""
    return {
        "name": "tiny",
        "output": str(output),
        "data": {"train": [str(tiny.train)], "test": [str(tiny.test)]},
        "input": {"modality": "img", "size": 32},
        "augment": {"rand_augment": {"ops": 1}, "erasing": 0.5, "mixup": 0.2, "mix_prob": 0.5},
        "model": {"backbone": "grid_cnn", "args": {"width": 4, "dropout": 0.5}},
        "losses": {"cross_entropy": {}, "ec_stfl": {"weight": 1.0}},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "schedule": {"name": "cosine"},
        "train": {"epochs": 3, "batch_size": 4, "workers": 0, "device": "cpu", "ema": 0.9} | train,
    }


@pytest.fixture
def recipe(tiny_images: Callable, tmp_path: Path) -> Callable[..., Recipe]:
    """`recipe(output="runs", save_every=2, …)`: the recipe above with these keys of its train section."""
    data = tiny_images(classes=3, per_class=8)

    def make(output: str = "runs", **train: Any) -> Recipe:
        return Recipe.model_validate(sections(data, tmp_path / output, **train))

    return make


def run(recipe: Recipe, resume: Path | None = None, reporter: Reporter | None = None) -> RunResult:
    return finetune(recipe, reporter=reporter or Reporter(), resume=resume)


def assert_same_run(a: Path, b: Path) -> None:
    """The same weights to the bit, the same curves, the same predictions."""
    for name in ("last", "best"):
        left, right = load_file(a / f"{name}.safetensors"), load_file(b / f"{name}.safetensors")
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name
    tables = [pd.read_csv(folder / "metrics.csv") for folder in (a, b)]
    timed = [column for column in tables[0] if "second" in column]
    pd.testing.assert_frame_equal(*(table.drop(columns=timed) for table in tables), check_exact=True)
    assert (a / "predictions.csv").read_text() == (b / "predictions.csv").read_text()
    assert json.loads((a / "metrics.json").read_text()) == json.loads((b / "metrics.json").read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_finishes_the_step_saves_and_says_how_to_continue(recipe: Callable, number: signal.Signals) -> None:
    reporter = StopAfter(STEPS_PER_EPOCH + 2, number)
    stopped = run(recipe(), reporter=reporter)
    assert stopped.stopped is not None
    assert (stopped.stopped.reason, stopped.stopped.exit_code) == (number.name, 128 + number)
    assert any(f"stopped by {number.name} after epoch 2, step 2" in note for note in reporter.notes)
    assert f"continue with: ecstfl finetune --resume {stopped.folder}" in reporter.notes
    assert next(path.name for path in states(stopped.folder / "state")) == "epoch_00001_step_0000002.pt"
    assert not (stopped.folder / "metrics.json").exists()


@pytest.mark.parametrize("steps", [1, 4, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH + 5])
def test_a_run_stopped_within_an_epoch_ends_as_an_uninterrupted_one(recipe: Callable, steps: int) -> None:
    whole = run(recipe("whole"))
    stopped = run(recipe(), reporter=StopAfter(steps, signal.SIGTERM))
    assert stopped.stopped is not None
    assert_same_run(whole.folder, run(recipe(), resume=stopped.folder).folder)


def test_with_worker_processes_and_accumulation_it_is_the_same(recipe: Callable) -> None:
    options = {"workers": 2, "accumulate": 2}
    whole = run(recipe("whole", accumulate=2))
    stopped = run(recipe(**options), reporter=StopAfter(3, signal.SIGTERM))
    newest = states(stopped.folder / "state")[0]
    assert newest.name == "epoch_00000_step_0000004.pt", "an update is finished before stopping"
    assert_same_run(whole.folder, run(recipe(**options), resume=stopped.folder).folder)


def test_a_stop_during_validation_does_not_lose_the_epoch(recipe: Callable) -> None:
    whole = run(recipe("whole"))
    stopped = run(recipe(), reporter=StopAfter(1, signal.SIGTERM, "validation"))
    assert states(stopped.folder / "state")[0].name == f"epoch_00000_step_{STEPS_PER_EPOCH:07d}.pt"
    assert_same_run(whole.folder, run(recipe(), resume=stopped.folder).folder)


def test_the_time_limit_stops_without_an_error(recipe: Callable) -> None:
    reporter = Reporter()
    stopped = run(recipe(max_minutes=1e-6), reporter=reporter)
    assert stopped.stopped is not None
    assert stopped.stopped.exit_code == 0
    assert any("time limit" in note for note in reporter.notes)
    whole = run(recipe("whole"))
    assert_same_run(whole.folder, run(recipe(), resume=stopped.folder).folder)


def test_states_are_saved_every_so_many_steps_and_the_two_newest_are_kept(recipe: Callable) -> None:
    seen: list[list[str]] = []

    def look() -> None:
        (folder,) = Path(recipe().output, "tiny").iterdir()
        seen.append([path.name for path in states(folder / "state")])

    run(recipe(save_every=2), reporter=At(5, look))
    assert seen == [["epoch_00000_step_0000004.pt", "epoch_00000_step_0000002.pt"]]


def test_states_are_saved_every_so_many_minutes(recipe: Callable) -> None:
    stopped = run(recipe(save_every="0.000001 min"), reporter=StopAfter(3, signal.SIGTERM))
    names = [path.name for path in states(stopped.folder / "state")]
    assert names == ["epoch_00000_step_0000003.pt", "epoch_00000_step_0000002.pt"]


# --- killed ----------------------------------------------------------------------------------------------------------


def start(recipe_file: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "ecstfl_cli", "finetune", *options]
    command += [] if "--resume" in options else [str(recipe_file)]
    # Another number of threads adds up in another order.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


def kill_after_a_state(process: subprocess.Popen, parent: Path, seen: Sequence[Path], delay: float) -> None:
    """SIGKILL, a moment after the run has saved a state that was not there before."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if set(parent.glob("*/state/epoch_*.pt")) - set(seen):
            break
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_run_killed_again_and_again_ends_as_an_uninterrupted_one(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=3, per_class=8)
    values = sections(data, tmp_path / "runs", epochs=12, save_every=1, workers=1)
    recipe_file = tmp_path / "tiny.yaml"
    recipe_file.write_text(yaml.safe_dump(values))
    whole = run(Recipe.model_validate({**values, "output": str(tmp_path / "whole")}))
    moments = random.Random(time.time_ns())
    parent = tmp_path / "runs" / "tiny"
    process, kills = start(recipe_file), 0
    for _ in range(2):
        kill_after_a_state(process, parent, [*parent.glob("*/state/*.pt")], moments.uniform(0, 0.3))
        kills += process.returncode == -signal.SIGKILL
        (folder,) = parent.iterdir()
        process = start(recipe_file, "--resume", str(folder))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert kills, "the run was never caught"
    assert_same_run(whole.folder, folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_every_process_is_one_to_the_run(tiny_images: Callable, tmp_path: Path, number: int) -> None:
    """Ctrl-C and SLURM signal the processes that load samples as well."""
    values = sections(tiny_images(classes=3, per_class=8), tmp_path / "runs", epochs=100, save_every=1, workers=2)
    recipe_file = tmp_path / "tiny.yaml"
    recipe_file.write_text(yaml.safe_dump(values))
    process = start(recipe_file)
    while not list((tmp_path / "runs").rglob("epoch_00001*.pt")) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert f"stopped by {signal.Signals(number).name}" in errors
    assert "Traceback" not in errors


def test_a_full_disk_stops_training_and_leaves_the_last_state_intact(recipe: Callable) -> None:
    whole = run(recipe("whole"))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # Files may grow to 4 KiB, which is what a full disk looks like to a writer.
    full = At(5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1])))
    try:
        with pytest.raises(CheckpointError, match="cannot write into the run folder") as caught:
            run(recipe(save_every=2), reporter=full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    (folder,) = Path(recipe().output, "tiny").iterdir()
    good = states(folder / "state")[0]
    assert good.name == "epoch_00000_step_0000004.pt"
    assert f"The last good state is intact: {good}" in caught.value.hint
    assert not list(folder.rglob("*.part*"))
    assert_same_run(whole.folder, run(recipe(), resume=folder).folder)


# --- damaged ---------------------------------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_state_is_passed_over_for_the_one_before(recipe: Callable) -> None:
    whole = run(recipe("whole"))
    stopped = run(recipe(save_every=2), reporter=StopAfter(STEPS_PER_EPOCH + 4, signal.SIGTERM))
    newest, older = states(stopped.folder / "state")
    cut_short(newest)
    reporter = Reporter()
    resumed = run(recipe(), resume=stopped.folder, reporter=reporter)
    assert any(newest.name in warning and "damaged" in warning for warning in reporter.warnings)
    assert any(older.name in warning and "last good state" in warning for warning in reporter.warnings)
    assert_same_run(whole.folder, resumed.folder)


def test_when_every_state_is_damaged_it_says_what_is_left(recipe: Callable) -> None:
    stopped = run(recipe(), reporter=StopAfter(3, signal.SIGTERM))
    for path in states(stopped.folder / "state"):
        cut_short(path)
    with pytest.raises(CheckpointError, match="every state") as caught:
        run(recipe(), resume=stopped.folder)
    assert "last.safetensors" in caught.value.hint


def test_other_damaged_files_are_written_again(recipe: Callable, cli: Callable) -> None:
    whole = run(recipe("whole", epochs=2))
    # EMA and cosine: the second epoch of this data is the best one, or the first; either is mended.
    stopped = run(recipe(epochs=2), reporter=StopAfter(1, signal.SIGTERM, "validation"))
    first = run(recipe(epochs=2, max_steps=STEPS_PER_EPOCH), resume=stopped.folder)
    for name in ("last.safetensors", "best.safetensors", "metrics.csv", "recipe.yaml"):
        folder = shutil.copytree(first.folder, first.folder.with_name(f"damaged_{name}"))
        cut_short(folder / name)
        result = cli("finetune", "--resume", folder, "--set", "train.max_steps=null")
        assert result.exit_code == 0, (name, result.stderr)
        assert ("recipe.yaml was damaged" in result.stderr) == (name == "recipe.yaml")
        assert_same_run(whole.folder, folder)


def test_a_run_that_goes_on_is_not_finished_until_it_is_again(recipe: Callable) -> None:
    finished = run(recipe(epochs=1))
    assert (finished.folder / "metrics.json").is_file()
    stopped = run(recipe(epochs=2), resume=finished.folder, reporter=StopAfter(2, signal.SIGTERM))
    assert not (stopped.folder / "metrics.json").exists()
    assert json.loads((run(recipe(epochs=2), resume=stopped.folder).folder / "metrics.json").read_text())["epochs"] == 2


def test_an_epoch_that_max_steps_has_cut_is_not_gone_on_with(recipe: Callable) -> None:
    cut = run(recipe(max_steps=STEPS_PER_EPOCH + 2))
    for longer in ({"max_steps": 3 * STEPS_PER_EPOCH}, {}):
        with pytest.raises(EcstflError, match=f"max_steps {STEPS_PER_EPOCH + 2}, within epoch 2"):
            run(recipe(**longer), resume=cut.folder)
    assert run(recipe(max_steps=STEPS_PER_EPOCH + 2), resume=cut.folder).metrics["epochs"] == 2


def test_a_best_checkpoint_that_is_lost_within_an_epoch_is_said(recipe: Callable) -> None:
    stopped = run(recipe(), reporter=StopAfter(STEPS_PER_EPOCH + 2, signal.SIGTERM))
    cut_short(stopped.folder / "best.safetensors")
    reporter = Reporter()
    resumed = run(recipe(), resume=stopped.folder, reporter=reporter)
    assert any("the best epoch is chosen among those from here on" in warning for warning in reporter.warnings)
    assert resumed.metrics["best"]["epoch"] > 1


# --- in use, or changed ----------------------------------------------------------------------------------------------


def test_a_run_folder_in_use_is_refused_and_one_that_was_killed_is_not(recipe: Callable) -> None:
    stopped = run(recipe(), reporter=StopAfter(2, signal.SIGTERM))
    folder = RunFolder(stopped.folder)
    with folder.in_use(), pytest.raises(EcstflError, match=f"in use: process {os.getpid()} on"):
        run(recipe(), resume=stopped.folder)
    folder.write_json(folder.states / "owner.json", {"process": 1, "host": "gone", "since": "yesterday"})
    assert run(recipe(), resume=stopped.folder).stopped is None


@pytest.mark.parametrize("change", [{"batch_size": 6}, {"accumulate": 3}])
def test_within_an_epoch_the_order_of_the_samples_must_stay(recipe: Callable, change: dict[str, int]) -> None:
    stopped = run(recipe(), reporter=StopAfter(2, signal.SIGTERM))
    with pytest.raises(CheckpointError, match=f"another {next(iter(change))} than"):
        run(recipe(**change), resume=stopped.folder)


def test_files_that_break_in_the_middle_lose_nothing(recipe: Callable, tmp_path: Path) -> None:
    whole = run(recipe("whole"))
    sound = {path: path.read_bytes() for path in (tmp_path / "tiny_images" / "images").glob("train_*")}

    def break_all() -> None:
        for path in sound:
            path.write_bytes(b"")

    with pytest.raises(EcstflError, match=r"train_.*jpg"):
        run(recipe(), reporter=At(STEPS_PER_EPOCH + 2, break_all))
    for path, content in sound.items():
        path.write_bytes(content)
    (folder,) = Path(recipe().output, "tiny").iterdir()
    assert states(folder / "state")[0].name == "epoch_00001_step_0000002.pt"
    assert_same_run(whole.folder, run(recipe(), resume=folder).folder)
