"""Images per second of training on stills, from files to updated weights, beside a plain loop.

    python benchmarks/image_training.py                      stills of its own making
    python benchmarks/image_training.py PATHFILE [SAMPLES]   those of a .csv path file

The engine's loader and training loop, with as many workers as it chooses for a CPU; and a plain one: PIL and float32
in as many workers of torch's DataLoader, contiguous memory, an optimiser that is not fused. They take turns epoch by
epoch, each in a process of its own. What it makes itself are 224x224 JPEGs of about 16 KB.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from _timing import Running, machine, take_turns, timed
from loader import PlainDataset, make_clips, read_list, stills_of
from torch.utils.data import DataLoader
from training_step import plain_step, trainer_of

from ecstfl_cli.components.transforms import Augmentation
from ecstfl_cli.engine.data.loader import TrainingOrder, shut_down, training_loader
from ecstfl_cli.engine.data.samples import Sample
from ecstfl_cli.engine.runtime import loader_workers
from ecstfl_cli.engine.training.training_state import Progress
from ecstfl_cli.engine.training.watch import Watch
from ecstfl_cli.recipe import Recipe

ROUNDS = 3
CASES = (("torchvision/resnet18", 112, 32), ("torchvision/resnet18", 48, 64), ("grid_cnn", 48, 64))
WORKERS = loader_workers("auto", torch.device("cpu"))


def recipe_of(backbone: str, size: int, batch: int) -> Recipe:
    """Stills, SGD, cross-entropy and EC-STFL, on the CPU."""
    return Recipe.model_validate(
        {
            "name": "benchmark",
            "input": {"modality": "img", "size": size},
            "model": {"backbone": backbone},
            "losses": {"cross_entropy": {}, "ec_stfl": {"weight": 10.0}},
            "train": {"batch_size": batch, "device": "cpu"},
        }
    )


def engine(recipe: Recipe, samples: Sequence[Sample]) -> Running:
    """Epochs of the engine: seconds and the mean loss."""
    order = TrainingOrder(len(samples), recipe.train.batch_size, seed=0)
    loader = training_loader(samples, recipe.input.to_spec(), order, Augmentation(), WORKERS)
    trainer = trainer_of(recipe, order)
    progress, watch = Progress(), Watch(trainer.processes)
    try:
        while True:
            seconds, row = timed(partial(trainer.train_epoch, progress, loader, len(order), watch, lambda: None))
            progress.finish_epoch({}, {})
            yield seconds, row["train_loss"]
    finally:
        shut_down([loader])


def plain(recipe: Recipe, samples: Sequence[Sample]) -> Running:
    """Epochs of the plain loop."""
    dataset = PlainDataset(samples, recipe.input.to_spec(), training=True)
    loader: DataLoader = DataLoader(
        dataset, recipe.train.batch_size, shuffle=True, num_workers=WORKERS, drop_last=True, persistent_workers=True
    )
    step = plain_step(recipe)

    def epoch() -> list[float]:
        return [step(frames, target) for frames, target in loader]

    while True:
        seconds, losses = timed(epoch)
        yield seconds, sum(losses) / len(losses)


def main() -> None:
    """Print a table: images per second of both, their ratio, and their peak memory."""
    with tempfile.TemporaryDirectory() as scratch:
        if len(sys.argv) > 1:
            samples = read_list(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1000)[1]
        else:
            samples = stills_of(make_clips(Path(scratch)))
        print(f"{machine()}, {torch.get_num_threads()} threads and {WORKERS} workers, median of {ROUNDS} rounds")
        print(f"{'images/s':32s} {'ecstfl':>8s} {'plain':>8s} {'ratio':>6s}   memory GB")
        for backbone, size, batch in CASES:
            recipe = recipe_of(backbone, size, batch)
            variants = {"ours": partial(engine, recipe, samples), "plain": partial(plain, recipe, samples)}
            turns = take_turns(variants, ROUNDS)
            ours, theirs = turns["ours"], turns["plain"]
            rates = [len(samples) // batch * batch / turn.median for turn in (ours, theirs)]
            print(
                f"{f'{backbone} {size} px, batch {batch}':32s} {rates[0]:8.1f} {rates[1]:8.1f} "
                f"{ours.ratio(theirs):6.2f}   {ours.memory:.2f}, plain {theirs.memory:.2f}"
            )


if __name__ == "__main__":
    main()
