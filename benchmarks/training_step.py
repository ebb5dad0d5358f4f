"""The training step as the engine does it, beside a plain one: contiguous float32, an optimiser that is not fused.

    python benchmarks/training_step.py                     r3d_18 on the CPU, batch 8
    python benchmarks/training_step.py --device cuda       r3d_18 and resnet18 + gru, batch 32 to 256, bf16 and fp32
    python benchmarks/training_step.py --help

Clips of 16x112x112, cross-entropy and EC-STFL at gamma 10, SGD. Both start from the same weights and see the same
frames: the engine gets them as uint8, the plain loop as float32. Every variant has a process of its own, for its peak
memory, and they take turns. Besides: TFLOP/s, counted as the network's multiplications and additions forwards and
backwards, beside what a large matrix product reaches; the rate of the loader; and what an epoch of DFEW would take.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from _timing import Running, Turns, machine, take_turns, timed
from loader import make_clips, read_list, training_rate
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from ecstfl_cli.api import Batch, LossContext
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.components.frame_model import FrameModel
from ecstfl_cli.engine.data.loader import TrainingOrder
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.runtime import loader_workers
from ecstfl_cli.engine.training.distributed import Processes
from ecstfl_cli.engine.training.objective import Objective
from ecstfl_cli.engine.training.trainer import Trainer
from ecstfl_cli.engine.training.training_state import Progress
from ecstfl_cli.engine.training.watch import Watch
from ecstfl_cli.recipe import Recipe

CLASSES = 7
DFEW_CLIPS = 9356  # in the training list of fold 1
MODELS = {
    "r3d_18": {"backbone": "torchvision/r3d_18"},
    "resnet18+gru": {"backbone": "torchvision/resnet18", "temporal_head": "gru"},
    "motion_grid_cnn": {"backbone": "motion_grid_cnn"},
}


@dataclass(frozen=True)
class Case:
    """One network, its batch, and the device."""

    model: str
    batch: int
    device: str
    size: int
    frames: int
    steps: int

    def recipe(self, precision: str = "fp32", compile: bool = False) -> Recipe:
        """The recipe that the engine trains by."""
        sampling = {"scheme": "segments", "segments": self.frames // 2, "duration": 2}
        train = {"batch_size": self.batch, "device": self.device, "precision": precision, "compile": compile}
        return Recipe.model_validate(
            {
                "name": "benchmark",
                "input": {"modality": "video", "size": self.size, "sampling": sampling},
                "model": MODELS[self.model],
                "losses": {"cross_entropy": {}, "ec_stfl": {"weight": 10.0}},
                "train": train,
            }
        )

    def data(self) -> Batch:
        """Random frames and labels, the same for every variant."""
        shape = (self.batch, self.frames, self.size, self.size, 3)
        frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return Batch(frames, torch.arange(self.batch) % CLASSES, [str(i) for i in range(self.batch)])


def engine(case: Case, precision: str, compile: bool) -> Running:
    """Turns of the engine's own training loop on one batch: seconds a step, and the mean loss since the start."""
    recipe, batch = case.recipe(precision, compile), case.data()
    trainer = trainer_of(recipe, TrainingOrder(1000 * case.batch, case.batch, seed=0))
    progress, watch = Progress(), Watch(trainer.processes)
    loader: Any = _Repeated(batch.pin_memory() if case.device == "cuda" else batch)

    def steps(count: int) -> float:
        row = trainer.train_epoch(progress, loader, progress.step + count, watch, lambda: None)
        return row["train_loss"]

    yield from _turns(case, steps)


def trainer_of(recipe: Recipe, order: TrainingOrder) -> Trainer:
    """The engine's training loop for a recipe."""
    network = network_of(recipe)
    objective = Objective(recipe.losses, LossContext(CLASSES, network.num_features))
    model = FrameModel(network, recipe.input.to_spec())
    return Trainer(recipe, Processes(torch.device(recipe.train.device)), model, objective, order, Reporter())


def network_of(recipe: Recipe) -> Any:
    """The recipe's network with the weights that every variant starts from."""
    torch.manual_seed(0)
    return build_model(recipe.model.to_spec(CLASSES), recipe.input.modality)


class _Repeated:
    """A loader that has its batch already, and gives it for ever."""

    dataset = SimpleNamespace(samples=[])

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch


def plain(case: Case) -> Running:
    """The same turns of a loop of the obvious kind."""
    step, batch = plain_step(case.recipe()), case.data()
    frames = (batch.frames.permute(0, 4, 1, 2, 3).float() / 255).contiguous()
    losses: list[float] = []

    def steps(count: int) -> float:
        losses.extend(step(frames, batch.target) for _ in range(count))
        return sum(losses) / len(losses)

    yield from _turns(case, steps)


def plain_step(recipe: Recipe) -> Callable[[Tensor, Tensor], float]:
    """A plain training step: float32 frames (B, C, [T,] H, W) and labels (B,) to the loss."""
    device = recipe.train.device
    network = network_of(recipe).to(device).train()
    objective = Objective(recipe.losses, LossContext(CLASSES, network.num_features)).to(device)
    section = recipe.optimizer
    optimizer = torch.optim.SGD(
        network.parameters(), lr=section.lr, momentum=section.momentum, weight_decay=section.weight_decay
    )

    def step(frames: Tensor, target: Tensor) -> float:
        frames, target = frames.to(device), target.to(device)
        features = network.forward_features(frames)
        loss, _ = objective(network.forward_head(features), features, target, Batch(frames, target, []))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _turns(case: Case, steps: Callable[[int], float]) -> Running:
    """Seconds a step and the mean loss; `steps` waits for the device at its end."""
    while True:
        if case.device == "cuda":
            # The others may need this one's memory between its turns, and getting it back is no part of a step.
            torch.cuda.empty_cache()
            steps(2)
        seconds, loss = timed(partial(steps, case.steps))
        yield seconds / case.steps, loss


# --- what the figures are held against -------------------------------------------------------------------------------


def flops_a_clip(case: Case) -> float:
    """Floating-point operations of a training step for one clip, two for a multiplication with its addition."""
    network: nn.Module = network_of(case.recipe()).to("meta").train()
    # Two clips: batch norm refuses one value a channel.
    frames = torch.empty(2, 3, case.frames, case.size, case.size, device="meta")
    with FlopCounterMode(display=False) as counter:
        network(frames).sum().backward()
    return counter.get_total_flops() / 2


def matrix_peak(device: str, precision: str, seconds: float = 2.0) -> float:
    """FLOP/s of the product of two large matrices, the best of those that fit into `seconds`.

    By the library that does the convolutions, too: on a CPU oneDNN, as a 1x1 convolution, and not the BLAS that is
    behind `@`; in fp32 on a GPU with TF32, which torch lets convolutions take.
    """
    gpu = device == "cuda"
    side = 8192 if gpu else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    torch.set_float32_matmul_precision("high")

    def product() -> None:
        if gpu:
            a @ b
            torch.cuda.synchronize()
        else:
            functional.conv2d(a[None, :, :, None], b[:, :, None, None])

    times: list[float] = []
    ends = time.monotonic() + seconds
    while len(times) < 3 or time.monotonic() < ends:
        times.append(timed(product)[0])
    return 2 * side**3 / min(times)


# --- tables ----------------------------------------------------------------------------------------------------------


def measure(case: Case, precisions: list[str], compile: bool, rounds: int, peaks: dict[str, float]) -> dict[str, Turns]:
    """Run the variants of one case and print them."""
    variants: dict[str, Any] = {f"ecstfl {p}": partial(engine, case, p, False) for p in precisions}
    if compile:
        variants |= {f"compiled {p}": partial(engine, case, p, True) for p in precisions}
    variants["plain fp32"] = partial(plain, case)
    flops = flops_a_clip(case) * case.batch
    print(f"\n{case.model}, {case.frames}x{case.size}x{case.size}, batch {case.batch}: {flops / 1e9:.0f} GFLOP a step")
    print(
        f"{'':14s} {'s/step':>9s} {'clips/s':>9s} {'TFLOP/s':>9s} {'of peak':>8s} {'memory GB':>10s} {'plain/it':>9s}"
    )
    try:
        turns = take_turns(variants, rounds)
    except torch.OutOfMemoryError:
        print("does not fit into memory")
        return {}
    reference = turns["plain fp32"]
    for name, turn in turns.items():
        rate = flops / turn.median
        print(
            f"{name:14s} {turn.median:9.4f} {case.batch / turn.median:9.2f} {rate / 1e12:9.3f} "
            f"{rate / peaks[name.split()[1]]:8.0%} {turn.memory:10.2f} {turn.ratio(reference):9.2f}"
        )
        if name.startswith("compiled"):
            eager = turns[name.replace("compiled", "ecstfl")]
            print(f"{'':14s} compiling took {turn.first - eager.first:.0f} s; {turn.ratio(eager):.2f} of eager's rate")
    apart = [abs(a - b) for a, b in zip(turns[f"ecstfl {precisions[0]}"].values, reference.values, strict=True)]
    print(
        f"mean loss of {precisions[0]} beside plain's: {apart[0]:.1e} apart after the first turn, "
        f"{apart[-1]:.1e} of {reference.values[-1]:.2f} after the last"
    )
    return turns


def main() -> None:
    """Print a table for each network and batch, the loader's rate, and the projected epochs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="r3d_18, and on a GPU resnet18+gru, too")
    parser.add_argument("--batches", nargs="+", type=int, help="8; on a GPU 32 64 128 256")
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), help="fp32, and on a GPU bf16, too")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each variant that count")
    parser.add_argument("--steps", type=int, help="steps in a turn; 1, and on a GPU 10")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--compile", action="store_true", help="a variant with train.compile, too")
    parser.add_argument("--data", help="path file of the clips for the loader; made if not given")
    args = parser.parse_args()
    gpu = args.device == "cuda"
    models = args.models or (["r3d_18", "resnet18+gru"] if gpu else ["r3d_18"])
    precisions = args.precisions or (["fp32", "bf16"] if gpu else ["fp32"])
    name = torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} threads"
    print(f"{name}, {machine()}, torch {torch.__version__}, median of {args.rounds} rounds")
    peaks = {p: matrix_peak(args.device, p) for p in {"fp32", *precisions}}
    print("matrix product: " + ", ".join(f"{p} {peak / 1e12:.2f} TFLOP/s" for p, peak in sorted(peaks.items())))
    best: dict[str, tuple[float, str]] = {}
    for model in models:
        for batch in args.batches or ([32, 64, 128, 256] if gpu else [8]):
            case = Case(model, batch, args.device, args.size, args.frames, args.steps or (10 if gpu else 1))
            for variant, turn in measure(case, precisions, args.compile, args.rounds, peaks).items():
                if not variant.startswith("plain"):
                    found = (batch / turn.median, f"{variant.removeprefix('ecstfl ')}, batch {batch}")
                    best[model] = max(best.get(model, found), found)
    project(best, args)


def project(best: dict[str, tuple[float, str]], args: argparse.Namespace) -> None:
    """Print the loader's rate, and for each network what an epoch of DFEW fold 1 takes at its best rate."""
    with tempfile.TemporaryDirectory() as scratch:
        samples = read_list(args.data, 1000)[1] if args.data else make_clips(Path(scratch))
        workers = loader_workers("auto", torch.device(args.device))
        spec = Case("r3d_18", 1, args.device, args.size, args.frames, 1).recipe().input.to_spec()
        rate = median(training_rate(samples, spec, workers, batch=32) for _ in range(3))
    print(f"\nloader: {rate:.0f} clips/s with {workers} worker processes")
    for model, (clips, how) in best.items():
        seconds = DFEW_CLIPS / min(clips, rate)
        limit = "the step" if clips < rate else "the loader"
        print(f"{model}: {DFEW_CLIPS} clips in {seconds:.0f} s ({how}; {limit} is what it waits for)")


if __name__ == "__main__":
    main()
