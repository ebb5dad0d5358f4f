"""Several processes do what one does: the same loss, gradients and updates, every sample once, one writer."""

from __future__ import annotations

import json
import os
import signal
import socket
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

from ecstfl_cli.api import Batch, LossContext
from ecstfl_cli.engine.data.loader import EvaluationOrder, TrainingOrder
from ecstfl_cli.engine.inference.infer import infer
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.training.distributed import Processes, share_sizes
from ecstfl_cli.engine.training.finetune import finetune
from ecstfl_cli.engine.training.objective import Objective
from ecstfl_cli.engine.training.parallel import FSDP_ON_CPU
from ecstfl_cli.engine.training.training_state import states
from ecstfl_cli.recipe import LossSection, Recipe
from tests.processes import run_in_processes
from tests.small_model import save_small_model

# Without kinks: where an activation lies within rounding of a ReLU's, two right gradients differ.
SMOOTH = """
import torch
from torch import nn

class Smooth(nn.Module):
    modality = "img"

    def __init__(self, num_classes, width=4):
        super().__init__()
        self.num_features = width
        self.net = nn.Sequential(*(layer for c in ((3, width), (width, width)) for layer in self.block(*c)))
        self.reset_classifier(num_classes)

    def block(self, before, after):
        return [nn.Conv2d(before, after, 3, 2, bias=False), nn.BatchNorm2d(after), nn.GELU()]

    def forward_features(self, x):
        return self.net(x).mean(dim=(2, 3))

    def forward_head(self, features):
        return self.head(features)

    def reset_classifier(self, num_classes):
        self.head = nn.Linear(self.num_features, num_classes)
"""
# Each update is the gradient itself: no momentum, a constant rate.
BASE: dict[str, Any] = {
    "name": "tiny",
    "input": {"modality": "img", "size": 32},
    "model": {"backbone": "smooth"},
    "losses": {
        "cross_entropy": {"args": {"class_weights": "balanced", "label_smoothing": 0.1}},
        "ec_stfl": {"weight": 10.0},
        "ec_stfl_paper": {"weight": 0.1},
    },
    "optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.0, "weight_decay": 0.0},
    "schedule": {"name": "constant"},
    "train": {"epochs": 2, "batch_size": 7, "drop_last": False, "workers": 0, "device": "cpu"},
}


needs_fsdp = pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < FSDP_ON_CPU, reason="FSDP on CPUs needs torch 2.9"
)


@pytest.fixture(autouse=True)
def smooth_plugin(fake_distribution: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    site = fake_distribution("smooth", {"backbones": {"smooth": "smooth_net:Smooth"}}, {"smooth_net.py": SMOOTH})
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def recipe(tiny_images: Callable, tmp_path: Path) -> Callable[..., Path]:
    """`recipe(output, train={…}, …)` writes BASE with these keys to a file. 18 samples in batches of 7, 7 and 4."""
    data = tiny_images(classes=3, per_class=6)

    def write(output: str, **changes: dict[str, Any]) -> Path:
        values = {**BASE, "output": str(tmp_path / output), "data": {"train": str(data.train), "test": str(data.test)}}
        for key, value in changes.items():
            values[key] = {**values.get(key, {}), **value}
        path = tmp_path / f"{output}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def free_port() -> str:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return str(bound.getsockname()[1])


def train(recipe: Path, *options: str, command: Sequence[str] = (sys.executable, "-m", "ecstfl_cli")) -> Path:
    """Train on the command line and return the run folder."""
    words = [*command, "finetune", str(recipe), "--json", *options]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["folder"])


def train_here(recipe: Path, resume: Path | None = None, **section: Any) -> Path:
    values = yaml.safe_load(recipe.read_text())
    values["train"] |= section
    for key in ("train", "test"):
        values["data"][key] = [values["data"][key]]
    return finetune(Recipe.model_validate(values), resume=resume, reporter=Reporter()).folder


def assert_close(a: Path, b: Path, tolerance: float = 2e-5) -> None:
    """The same updates up to rounding, the same curves, and the same prediction for every sample, once."""
    left, right = load_file(a / "last.safetensors"), load_file(b / "last.safetensors")
    assert left.keys() == right.keys()
    for key in left:
        torch.testing.assert_close(
            left[key], right[key], rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}"
        )
    tables = [pd.read_csv(folder / "metrics.csv") for folder in (a, b)]
    assert tables[0].columns.tolist() == tables[1].columns.tolist()
    for column in tables[0]:
        if "second" not in column:
            assert tables[0][column].tolist() == pytest.approx(tables[1][column].tolist(), rel=1e-4, nan_ok=True), (
                column
            )
    predictions = [pd.read_csv(folder / "predictions.csv") for folder in (a, b)]
    assert predictions[0]["path"].tolist() == predictions[1]["path"].tolist()
    assert len(predictions[0]) == predictions[0]["path"].nunique() == 18
    probs = [column for column in predictions[0] if column.startswith("prob_")]
    assert abs(predictions[0][probs] - predictions[1][probs]).max(axis=None) < 1e-4


def test_several_processes_train_as_one_does(recipe: Callable) -> None:
    """Batch norm, pairwise losses, class weights, and shares of 3+2+2 and 2+1+1 samples."""
    alone = train_here(recipe("alone"))
    together = train(recipe("together"), "--processes", "3")
    assert_close(alone, together)
    assert json.loads((together / "environment.json").read_text())["processes"] == 3


def test_mixup_accumulation_clipping_average_and_a_teacher_are_the_same_too(recipe: Callable, tmp_path: Path) -> None:
    teacher = save_small_model(tmp_path / "teacher.safetensors", "img")
    changes = {
        "distillation": {"teacher": str(teacher), "weight": 0.5},
        "augment": {"mixup": 0.5, "cutmix": 1.0, "mix_prob": 0.7},
        "optimizer": {"momentum": 0.9, "clip_norm": 0.5},
        "train": {"accumulate": 2, "ema": 0.9, "epochs": 2},
    }
    assert_close(train_here(recipe("alone", **changes)), train(recipe("together", **changes), "--processes", "2"))


@needs_fsdp
def test_sharded_weights_train_as_whole_ones_and_continue_from_and_in_one_process(recipe: Callable) -> None:
    wide = {"model": {"args": {"width": 128}}, "optimizer": {"momentum": 0.9}, "train": {"ema": 0.9}}
    alone = train_here(recipe("alone", **wide))
    wide["train"] |= {"parallel": "fsdp"}
    sharded = recipe("sharded", **wide)
    first = train(sharded, "--processes", "2", "--set", "train.max_steps=3")
    assert_close(alone, train_here(sharded, resume=first))
    first = train_here(recipe("first", **wide, schedule={"name": "constant"}), max_steps=3)
    assert_close(alone, train(sharded, "--processes", "2", "--resume", str(first)))


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=needs_fsdp)])
def test_scores_are_those_of_the_weights_that_are_saved(recipe: Callable, tmp_path: Path, parallel: str) -> None:
    """Without synchronised batch norms each process has statistics of its own."""
    own = recipe("own", train={"parallel": parallel, "sync_batchnorm": False, "ema": 0.9})
    run = train(own, "--processes", "2")
    listed = [yaml.safe_load(own.read_text())["data"]["test"]]
    again = infer(
        listed, model=str(run / "best.safetensors"), device="cpu", out=tmp_path / "again", reporter=Reporter()
    )
    tables = [pd.read_csv(folder / "predictions.csv").filter(like="prob_") for folder in (run, again.out)]
    assert abs(tables[0] - tables[1]).max(axis=None) < 1e-5


@pytest.mark.parametrize("name", ["ddp", "accelerate_ddp", pytest.param("accelerate_fsdp", marks=needs_fsdp)])
def test_torchrun_and_accelerate_launch_start_it_as_it_is(recipe: Callable, name: str) -> None:
    """accelerate's --multi_gpu is what starts several processes, with or without GPUs."""
    plain = ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launchers = {
        "ddp": ["torchrun", "--standalone", "--nproc-per-node", "2"],
        "accelerate_ddp": ["accelerate", "launch", "--multi_gpu", *plain, "--main_process_port", free_port()],
        "accelerate_fsdp": ["accelerate", "launch", "--use_fsdp", *plain, "--main_process_port", free_port()],
    }
    program, *options = launchers[name]
    together = train(recipe(name), command=[str(Path(sys.executable).parent / program), *options, "-m", "ecstfl_cli"])
    assert_close(train_here(recipe("alone")), together)
    found = json.loads((together / "environment.json").read_text())
    assert (found["processes"], found["parallel"]) == (2, name.rpartition("_")[2])


def test_it_runs_on_several_machines(recipe: Callable) -> None:
    """Two launchers that know of each other by address, as on two machines."""
    path = recipe("machines")
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--nnodes", "2", "--nproc-per-node", "1"]
    address = ["--master-addr", "127.0.0.1", "--master-port", free_port()]
    words = ["-m", "ecstfl_cli", "finetune", str(path), "--json"]
    launched = [
        subprocess.Popen(
            [*torchrun, "--node-rank", str(rank), *address, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    (out, error), (silent, _) = [process.communicate(timeout=240) for process in launched]
    assert [process.returncode for process in launched] == [0, 0], error
    assert silent == ""
    assert_close(train_here(recipe("alone")), Path(json.loads(out)["folder"]))


def test_a_signal_stops_all_processes_after_the_same_step(recipe: Callable, tmp_path: Path) -> None:
    changes = {"train": {"epochs": 20, "save_every": 1}}
    path, runs = recipe("stopped", **changes), tmp_path / "stopped" / "tiny"
    options = [str(path)]
    for epoch, number in ((1, signal.SIGTERM), (4, signal.SIGUSR1)):
        words = [sys.executable, "-m", "ecstfl_cli", "finetune", *options, "--processes", "2"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 120
        while not list(runs.glob(f"*/state/epoch_{epoch:05d}*.pt")) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + number, errors
        assert errors.count(f"stopped by {number.name}") == 1, errors
        (folder,) = runs.iterdir()
        assert states(folder / "state")
        options = ["--resume", str(folder)]
    again = train_here(path, resume=folder)
    assert_close(train_here(recipe("alone", **changes)), again, 1e-3)


def test_wrong_input_is_told_once(recipe: Callable, tmp_path: Path) -> None:
    def refused(*options: str) -> str:
        words = [sys.executable, "-m", "ecstfl_cli", "finetune", str(recipe("wrong")), "--processes", "2", *options]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1, done.stderr
        assert done.stderr.count("error:") == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert not list((tmp_path / "wrong").glob("*/*"))
        return done.stderr

    assert "cannot be shared by 2 processes" in refused("--batch-size", "1")
    assert "path files not found" in refused("--list-file-train", "nowhere.csv")


# --- the parts --------------------------------------------------------------------------------------------------------


def _gradients(rank: int, count: int, port: str, folder: Path) -> None:
    """Each process: its share of a batch through a linear network, the losses on the whole batch."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with Processes(torch.device("cpu")) as processes:
        torch.save(_results(processes), folder / f"{rank}.pt")
    os._exit(0)  # What is left of gloo's threads may abort a process that ends in Python's own way.


def _results(processes: Processes) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    rank, count, results = processes.rank, processes.count, {}
    for total in (7, count):
        x, target, layer, objective = _problem(total)
        logits, features = layer(torch.stack(list(processes.share(list(x))))).split([3, 4], dim=1)
        whole = processes.gather(target[: len(logits)] * 0 + torch.tensor(processes.share(target.tolist())), total)
        assert whole.tolist() == target.tolist()
        loss, _ = objective(
            processes.gather(logits, total), processes.gather(features, total), whole, Batch(x, whole, [])
        )
        loss.backward()
        # What DistributedDataParallel does.
        torch.distributed.all_reduce(layer.weight.grad)
        results[total] = (loss.detach(), layer.weight.grad / count)
    assert processes.any(rank == count - 1, False) == [True, False]
    assert processes.gather_objects(rank) == list(range(count))
    assert processes.on_main(lambda: f"from {rank}") == "from 0"
    return results


def _problem(total: int) -> tuple[torch.Tensor, torch.Tensor, torch.nn.Linear, Objective]:
    torch.manual_seed(total)
    x, target, layer = torch.randn(total, 5), torch.arange(total) % 3, torch.nn.Linear(5, 7)
    losses = {"cross_entropy": LossSection(), "ec_stfl": LossSection(weight=10.0), "ec_stfl_paper": LossSection()}
    return x, target, layer, Objective(losses, LossContext(3, 4))


@pytest.mark.parametrize("count", [2, 3])
def test_loss_and_gradients_are_those_of_the_whole_batch(tmp_path: Path, count: int) -> None:
    run_in_processes(_gradients, (count, free_port(), tmp_path), count)
    for total in (7, count):
        x, target, layer, objective = _problem(total)
        logits, features = layer(x).split([3, 4], dim=1)
        loss, _ = objective(logits, features, target, Batch(x, target, []))
        loss.backward()
        for rank in range(count):
            found, gradient = torch.load(tmp_path / f"{rank}.pt")[total]
            torch.testing.assert_close(found, loss.detach())
            torch.testing.assert_close(gradient, layer.weight.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("total", "count"), [(7, 2), (7, 3), (3, 3), (32, 5)])
def test_shares_of_a_batch_are_all_of_it(total: int, count: int) -> None:
    sizes = share_sizes(total, count)
    assert sum(sizes) == total
    assert max(sizes) - min(sizes) <= 1
    starts = [sum(sizes[:rank]) for rank in range(count)]
    orders = [
        TrainingOrder(20, total, 0, share=lambda items, s=start, n=size: items[s : s + n])
        for start, size in zip(starts, sizes, strict=True)
    ]
    for step, shares in enumerate(zip(*orders, strict=True)):
        assert [i for share in shares for _, i in share] == orders[0].batch(step)


@pytest.mark.parametrize(("n", "batch", "count"), [(10, 3, 2), (1, 4, 3), (12, 3, 2), (13, 3, 5)])
def test_evaluation_deals_out_every_sample_to_equally_long_orders(n: int, batch: int, count: int) -> None:
    orders = [EvaluationOrder(n, batch, rank, count) for rank in range(count)]
    assert len({len(list(order)) for order in orders}) == 1
    assert {i for order in orders for share in order for _, i in share} == set(range(n))
    assert [i for share in orders[0] for _, i in share] == orders[1].indices(0)
