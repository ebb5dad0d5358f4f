"""The loaders of a run: training, validation and test lists, each process with its share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.utils.data import DataLoader

from ecstfl_cli.api import InputSpec
from ecstfl_cli.components.transforms import Augmentation
from ecstfl_cli.engine.data.loader import EvaluationOrder, TrainingOrder, evaluation_loader, shut_down, training_loader
from ecstfl_cli.engine.runtime import loader_workers
from ecstfl_cli.engine.training.distributed import Processes
from ecstfl_cli.engine.training.training_data import TrainingData, soft_targets
from ecstfl_cli.errors import EcstflError
from ecstfl_cli.recipe import Recipe


class TrainingLoaders:
    """The loaders of one run, `val` and `test` by the names of their lists; worker processes live until `close`.

    Raises EcstflError where a batch has fewer samples than there are processes.
    """

    def __init__(self, recipe: Recipe, spec: InputSpec, data: TrainingData, processes: Processes) -> None:
        train, augment = recipe.train, recipe.augment
        augmentation = Augmentation(
            augment.random_resized_crop,
            (augment.scale[0], augment.scale[1]),
            (augment.ratio[0], augment.ratio[1]),
            augment.hflip,
            augment.rand_augment.ops,
            augment.rand_augment.magnitude,
            augment.erasing,
        )
        workers = loader_workers(train.workers, processes.device, processes.on_this_machine)
        self.order = TrainingOrder(
            len(data.train),
            train.batch_size,
            recipe.seed,
            drop_last=train.drop_last,
            share=processes.share,
            parts=list(data.parts.values()),
        )
        _check_shares(self.order, processes.count)
        training_spec = replace(spec, size=augment.size or spec.size)
        drawn = data.drawn()
        self.train = training_loader(drawn, training_spec, self.order, augmentation, workers)
        self.soft_targets = soft_targets(drawn, len(data.class_counts)) if recipe.data.has_soft_targets else None

        def evaluation(samples: Any) -> DataLoader:
            order = EvaluationOrder(
                len(samples), -(-train.batch_size // processes.count), processes.rank, processes.count
            )
            return evaluation_loader(samples, spec, order, workers)

        self.val = {name: evaluation(samples) for name, samples in data.val.items()}
        self.test = {name: evaluation(samples) for name, samples in data.test.items()}

    def close(self) -> None:
        """End the worker processes."""
        shut_down([self.train, *self.val.values(), *self.test.values()])


def _check_shares(order: TrainingOrder, processes: int) -> None:
    """Raise EcstflError where a batch has fewer samples than there are processes."""
    rest = 0 if order.drop_last else order.n % order.batch_size
    if order.batch_size < processes:
        raise EcstflError(
            f"a batch of {order.batch_size} cannot be shared by {processes} processes",
            f"Use --batch-size {processes} or more: it is the batch of all processes together.",
        )
    if 0 < rest < processes:
        raise EcstflError(
            f"the last batch of an epoch has {rest} samples, too few for {processes} processes",
            "Set train.drop_last: true, or another batch size.",
        )
