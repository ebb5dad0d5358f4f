"""What a run evaluates, writes and logs, and what it says of the machine it runs on."""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from ecstfl_cli.engine import runtime
from ecstfl_cli.engine.reporter import Advance, Reporter
from ecstfl_cli.errors import DeviceError, EcstflError
from ecstfl_cli.recipe import Recipe
from tests.small_run import small_recipe, train, weights


def said(lines: list[str], part: str) -> bool:
    return any(part in line for line in lines)


# --- several lists ---------------------------------------------------------------------------------------------------


@pytest.fixture
def lists(tiny_images: Callable, tmp_path: Path) -> Callable[..., Recipe]:
    """`lists("right", "wrong")`: a recipe with these validation lists, of which `wrong` has the classes exchanged, and
    two test lists.
    """
    data = tiny_images(classes=2, per_class=6)
    rows = data.test.read_text().splitlines()
    wrong = data.root / "wrong.csv"
    wrong.write_text("\n".join([rows[0], *(f"{row[:-1]}{1 - int(row[-1])}" for row in rows[1:])]) + "\n")
    files = {"right": [str(data.test)], "wrong": [str(wrong)]}

    def make(*val: str, **changes: Any) -> Recipe:
        named = {"val": {name: files[name] for name in val}, "test": {"one": [str(data.test)], "two": files["wrong"]}}
        options = {"data": named, "optimizer": {"lr": 0.01}, "train": {"epochs": 4}, "label_map": ["happy", "sad"]}
        return small_recipe(data, tmp_path / "-".join(val), **{**options, **changes})

    return make


def test_the_first_of_several_validation_lists_chooses(lists: Callable) -> None:
    chosen = {}
    for names in (("right", "wrong"), ("wrong", "right")):
        result = train(lists(*names))
        table = pd.read_csv(result.folder / "metrics.csv")
        chosen[names[0]] = result.metrics["best"]["epoch"]
        assert result.metrics["selected_by"] == f"war on val_{names[0]}"
        assert chosen[names[0]] == table["epoch"][table[f"val_{names[0]}_war"].idxmax()]
        assert table["val_right_war"].tolist() == pytest.approx((100 - table["val_wrong_war"]).tolist())
    assert chosen["right"] > chosen["wrong"] == 1, "what is better for one is worse for the other"


def test_every_list_has_its_columns_metrics_predictions_and_pictures(lists: Callable) -> None:
    result = train(lists("right", "wrong", train={"epochs": 1}))
    table = pd.read_csv(result.folder / "metrics.csv")
    evaluated = [f"val_{name}_{metric}" for name in ("right", "wrong") for metric in ("war", "uar", "macro_f1")]
    assert table.columns.tolist() == [
        *("epoch", "lr", "train_loss", "train_war", "loss_cross_entropy", "train_seconds", "samples_per_second"),
        *evaluated,
        "seconds",
    ]
    metrics = json.loads((result.folder / "metrics.json").read_text())
    for which in ("last", "best"):
        assert set(metrics[which]) == {"epoch", "val_right", "val_wrong", "test_one", "test_two"}
        assert metrics[which]["test_one"]["war"] == pytest.approx(100 - metrics[which]["test_two"]["war"])
    first = pd.read_csv(result.folder / "predictions.csv")
    second = pd.read_csv(result.folder / "predictions_test_two.csv")
    assert (first["label"] == 1 - second["label"]).all()
    assert (first["predicted"] == second["predicted"]).all()
    for name in ("confusion", "samples"):
        assert {f"{name}.png", f"{name}_test_two.png"} <= {path.name for path in result.folder.iterdir()}


def test_the_table_on_the_command_line_has_every_list(cli: Callable, lists: Callable, tmp_path: Path) -> None:
    recipe = tmp_path / "lists.yaml"
    recipe.write_text(yaml.safe_dump(lists("right", "wrong", train={"epochs": 1}).model_dump()))
    result = cli("finetune", recipe)
    assert result.exit_code == 0, result.stderr
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in result.stdout.splitlines() if "│" in line]
    metrics = json.loads(next(tmp_path.rglob("metrics.json")).read_text())
    names = ("val_right", "val_wrong", "test_one", "test_two")
    figures = [[f"{metrics[w][name][m]:.2f}" for m in ("war", "uar")] for w in ("last", "best") for name in names]
    assert [row[2:] for row in rows] == [[name, *line] for name, line in zip(names * 2, figures, strict=True)]
    assert [row[:2] for row in rows] == [["last", "1"], *[["", ""]] * 3, ["best", "1"], *[["", ""]] * 3]
    assert "best by war on val_right" in result.stdout


# --- stopping early, incomplete batches ------------------------------------------------------------------------------


def test_a_run_stops_when_nothing_gets_better_and_waits_on_when_resumed(lists: Callable) -> None:
    still = {"name": "sgd", "lr": 1e-12}
    reporter = Reporter()
    recipe = lists("right", optimizer=still, train={"epochs": 9, "patience": 2, "ema": 0.5})
    stopped = train(recipe, reporter)
    assert stopped.metrics["epochs"] == 3
    assert stopped.metrics["best"]["epoch"] == 1
    assert stopped.stopped is None
    assert said(reporter.notes, "stopping early: no better epoch than 1 in the last 2")
    resumed = train(
        lists("right", optimizer=still, train={"epochs": 9, "patience": 3, "ema": 0.5}), resume=stopped.folder
    )
    assert resumed.metrics["epochs"] == 4


def test_patience_without_validation_is_said_to_have_no_effect(tiny_images: Callable, tmp_path: Path) -> None:
    reporter = Reporter()
    run = train(small_recipe(tiny_images(classes=2), tmp_path, train={"patience": 1, "epochs": 3}), reporter)
    assert said(reporter.warnings, "patience has no effect")
    assert run.metrics["epochs"] == 3


class Counting(Reporter):
    """Counts the samples of each epoch, and those that were announced."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    @contextmanager
    def progress(self, description: str, total: int, unit: str = "clips") -> Iterator[Advance]:  # noqa: ARG002
        counts: list[int] = []
        yield lambda n, note="": counts.append(n)  # noqa: ARG005
        if description.startswith("epoch"):
            self.seen.append((sum(counts), total))


@pytest.mark.parametrize(("drop_last", "seen"), [(True, 8), (False, 10)])
def test_an_incomplete_last_batch_is_left_out_unless_asked_for(
    tiny_images: Callable, tmp_path: Path, drop_last: bool, seen: int
) -> None:
    data = tiny_images(classes=2, per_class=5)
    reporter = Counting()
    train(small_recipe(data, tmp_path, train={"drop_last": drop_last}), reporter)
    assert reporter.seen == [(seen, seen)] * 2


def test_a_list_shorter_than_a_batch_trains_where_it_is_not_dropped(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=2, per_class=3)
    run = train(small_recipe(data, tmp_path, train={"drop_last": False, "batch_size": 32, "epochs": 1}))
    assert run.metrics["epochs"] == 1


# --- the machine -----------------------------------------------------------------------------------------------------


def environment(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "environment.json").read_text())


@pytest.mark.parametrize(
    ("asked", "launched", "used"),
    [("auto", None, "fp32"), ("auto", "no", "fp32"), ("auto", "bf16", "bf16"), ("fp32", "bf16", "fp32")],
)
def test_auto_is_fp32_on_a_cpu_unless_accelerate_was_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, asked: str, launched: str | None, used: str
) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    assert runtime.resolve_precision(asked, torch.device("cpu")) == used


def test_a_run_in_bf16_trains_says_so_and_warns_where_it_is_slow(
    tiny_images: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_images(classes=2, per_class=4)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    reporter = Reporter()
    once = {"epochs": 1, "max_steps": 1}
    half = train(small_recipe(data, tmp_path, train={**once, "precision": "bf16"}), reporter)
    assert said(reporter.warnings, "no bf16 instructions")
    assert environment(half.folder)["precision"] == "bf16"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    reporter = Reporter()
    whole = train(small_recipe(data, tmp_path, train={**once, "precision": "fp32"}), reporter)
    assert not said(reporter.warnings, "bf16")
    assert not runtime.slow_precision("bf16", torch.device("cpu"))
    losses = [pd.read_csv(run.folder / "metrics.csv")["train_loss"][0] for run in (half, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights(half.folder).values())


def test_depthwise_convolutions_may_stay_in_fp32_under_autocast() -> None:
    depthwise, grouped, pointwise = nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 8, 1)
    network = nn.Sequential(depthwise, grouped, pointwise)
    keys = list(network.state_dict())
    runtime.keep_depthwise_in_fp32(network)
    assert list(network.state_dict()) == keys
    copied = copy.deepcopy(network)
    x = torch.rand(2, 4, 6, 6)
    for layers in (network, copied):
        with torch.autocast("cpu", torch.bfloat16):
            dtypes = [layer(x).dtype for layer in layers]
        assert dtypes == [torch.float32, torch.bfloat16, torch.bfloat16]
    with torch.no_grad():
        copied[0].weight.zero_()
    assert network[0](x).abs().max() > copied[0](x).abs().max()


def test_fp16_on_a_cpu_is_refused_before_anything_is_left(tiny_images: Callable, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="fp16 needs a GPU") as caught:
        train(small_recipe(tiny_images(classes=2), tmp_path, train={"precision": "fp16"}))
    assert "--precision" in caught.value.hint
    assert not list((tmp_path / "small").iterdir())


@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_is_the_same_run_and_says_what_compiling_cost(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=2, per_class=6)
    options = {"model": {"args": {"width": 2, "dropout": 0.0}}}
    plain = train(small_recipe(data, tmp_path / "plain", **options, train={"epochs": 1}))
    reporter = Reporter()
    compiled = train(small_recipe(data, tmp_path / "c", **options, train={"epochs": 1, "compile": True}), reporter)
    assert said(reporter.notes, "compiling took ")
    left, right = weights(plain.folder), weights(compiled.folder)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-3, atol=1e-5)


def test_workers_are_chosen_from_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def workers(cores: int, wanted: int | str, device: str, processes: int = 1) -> int:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)  # noqa: ARG005
        return runtime.loader_workers(wanted, torch.device(device), processes)

    for cores in (1, 2, 4, 8, 64):
        on_cpu, on_gpu = workers(cores, "auto", "cpu"), workers(cores, "auto", "cuda")
        assert 1 <= on_cpu <= max(1, cores // 2), "a CPU that computes is not given to the loader"
        assert on_cpu <= on_gpu <= max(1, cores)
    assert workers(64, "auto", "cuda", processes=8) <= 64 // 8, "processes share the cores"
    assert workers(2, "auto", "cuda", processes=8) == 1
    assert workers(8, 3, "cpu") == 3
    assert workers(8, 0, "cuda") == 0
    assert workers(2, 100, "cpu") == 2, "no more than there are cores"


# --- trackers --------------------------------------------------------------------------------------------------------


def test_curves_and_pictures_are_in_tensorboards_events(lists: Callable) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(lists("right", "wrong", train={"epochs": 2, "trackers": ["tensorboard"]}))
    events = EventAccumulator(str(result.folder / "tensorboard"))
    events.Reload()
    table = pd.read_csv(result.folder / "metrics.csv")
    curves = {
        "train/loss": "train_loss",
        "train/war": "train_war",
        "val_right/war": "val_right_war",
        "val_wrong/macro_f1": "val_wrong_macro_f1",
        "loss/cross_entropy": "loss_cross_entropy",
        "lr": "lr",
        "samples_per_second": "samples_per_second",
    }
    assert set(curves) <= set(events.Tags()["scalars"])
    for curve, column in curves.items():
        points = events.Scalars(curve)
        assert [point.step for point in points] == [1, 2]
        assert [point.value for point in points] == pytest.approx(table[column].tolist(), rel=1e-6)
    assert {"val_right/confusion", "val_right/samples", "test_one/confusion"} <= set(events.Tags()["images"])
    assert not list(result.folder.glob("tracked_*"))


def test_a_tracker_that_is_not_installed_leaves_no_run(
    tiny_images: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(EcstflError, match="wandb") as caught:
        train(small_recipe(tiny_images(classes=2), tmp_path, train={"trackers": ["wandb"]}))
    assert "pip install wandb" in caught.value.hint
    assert not list((tmp_path / "small").iterdir())


# --- what a kill leaves ----------------------------------------------------------------------------------------------


@pytest.fixture
def evaluated(tiny_images: Callable, tmp_path: Path) -> Callable[..., Recipe]:
    """`evaluated(**train)`: a recipe whose test list chooses the best epoch."""
    data = tiny_images(classes=2, per_class=4)
    lists = {"train": [str(data.train)], "test": [str(data.test)]}
    return lambda **train: small_recipe(data, tmp_path / "runs", data=lists, train=train)


def test_predictions_that_a_kill_left_unwritten_are_made_on_resuming(evaluated: Callable) -> None:
    run = train(evaluated(epochs=1, ema=0.9))
    written = (run.folder / "predictions.csv").read_text()
    (run.folder / "predictions.csv").write_text("of an earlier epoch")
    (run.folder / "confusion.png").unlink()
    train(evaluated(epochs=1, ema=0.9), resume=run.folder)
    assert (run.folder / "predictions.csv").read_text() == written
    assert (run.folder / "confusion.png").is_file()


def test_a_finished_run_that_lost_its_best_checkpoint_has_its_last_for_it(evaluated: Callable) -> None:
    still = evaluated(epochs=2, select_by="uar")
    still = still.model_copy(update={"optimizer": still.optimizer.model_copy(update={"lr": 1e-12})})
    run = train(still)
    assert run.metrics["best"]["epoch"] == 1, "nothing gets better"
    (run.folder / "best.safetensors").write_bytes(b"cut short")
    reporter = Reporter()
    mended = train(still, reporter, resume=run.folder)
    assert said(reporter.warnings, "the best epoch is chosen among those from the last one on")
    assert mended.metrics["best"] == mended.metrics["last"]
    for name, tensor in weights(run.folder, "best").items():
        assert torch.equal(tensor, weights(run.folder, "last")[name])


def test_a_run_that_is_resumed_on_another_machine_says_what_is_not_as_it_was(evaluated: Callable) -> None:
    run = train(evaluated(epochs=1))
    reporter = Reporter()
    train(evaluated(epochs=1), reporter, resume=run.folder)
    assert not said(reporter.warnings, "not as before")
    before = environment(run.folder)
    before["threads"] += 3
    (run.folder / "environment.json").write_text(json.dumps(before))
    train(evaluated(epochs=1), reporter, resume=run.folder)
    assert said(reporter.warnings, f"not equal to the bit: threads: {before['threads']} before")
