"""The training loop: epochs of steps, validation after each, state saved after each."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from ecstfl_cli.components.frame_model import FrameModel
from ecstfl_cli.engine.evaluate import Predictions, predict
from ecstfl_cli.engine.loader import TrainingOrder, batches
from ecstfl_cli.engine.objective import Objective
from ecstfl_cli.engine.optimisation import learning_rate
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.samples import KIND
from ecstfl_cli.errors import EcstflError
from ecstfl_cli.recipe import Recipe

SYNC_EVERY = 10


class Trainer:
    """Runs single epochs; the workflow around it (resuming, saving, reporting) is `finetune`."""

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        model: FrameModel,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        reporter: Reporter,
    ) -> None:
        self.recipe = recipe
        self.accelerator = accelerator
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.objective = objective.to(accelerator.device)
        self.reporter = reporter
        self.unit = KIND[recipe.input.modality]

    @property
    def network(self) -> torch.nn.Module:
        """The network without preprocessing and without wrappers; what checkpoints hold."""
        return self.accelerator.unwrap_model(self.model).network

    @property
    def stateful(self) -> dict[str, Any]:
        """Everything with a state that a resumed run continues from; fp16 has a loss scaler besides."""
        parts = {"network": self.network, "objective": self.objective, "optimizer": self.optimizer}
        return parts if self.accelerator.scaler is None else {**parts, "scaler": self.accelerator.scaler}

    def train_epoch(self, epoch: int, loader: DataLoader, order: TrainingOrder, steps: int) -> dict[str, Any]:
        """`steps` steps of epoch `epoch` (from 0). Returns the mean losses, the training WAR in percent and the rate.

        Raises EcstflError where the loss becomes infinite or not a number.
        """
        started = time.monotonic()
        order.epoch = epoch
        self.model.train()
        totals, loss, lr = _Totals(), 0.0, 0.0
        title = f"epoch {epoch + 1}/{self.recipe.train.epochs}"
        batch_size = self.recipe.train.batch_size
        with self.reporter.progress(title, steps * batch_size, self.unit) as advance:
            for step, batch in zip(range(steps), batches(loader), strict=False):
                lr = self._set_learning_rate(epoch, step, len(order))
                totals.add(*self._step(batch.to(self.accelerator.device)))
                # Reading a value waits for the device, so it is done now and then only.
                if step % SYNC_EVERY == 0 or step == steps - 1:
                    loss = self._checked_loss(totals, epoch, step)
                advance(batch_size, note=f"loss {loss:.4f}")
        seconds = time.monotonic() - started
        return {
            "lr": lr,
            **totals.means(),
            "train_seconds": seconds,
            "samples_per_second": steps * batch_size / seconds,
        }

    def predict(self, loader: DataLoader, title: str) -> Predictions:
        """Predictions of the present weights, in evaluation mode."""
        self.model.eval()
        return predict(
            lambda frames: self.model(frames)[0],
            loader,
            self.accelerator.device,
            self.reporter,
            title,
            self.unit,
            self.accelerator.autocast,
        )

    def _step(self, batch: Any) -> tuple[Tensor, Tensor, dict[str, Tensor], int]:
        with self.accelerator.autocast():
            logits, features = self.model(batch.frames)
        loss, terms = self.objective(logits.float(), features, batch.target, batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.optimizer.step()
        hits = (logits.detach().argmax(dim=1) == batch.target).sum()
        return loss.detach(), hits, terms, len(batch.clip_ids)

    def _set_learning_rate(self, epoch: int, step: int, steps_per_epoch: int) -> float:
        recipe = self.recipe
        lr = learning_rate(
            recipe.schedule, recipe.optimizer.lr, epoch * steps_per_epoch + step, steps_per_epoch, recipe.train.epochs
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _checked_loss(self, totals: _Totals, epoch: int, step: int) -> float:
        loss = totals.loss_so_far()
        if not math.isfinite(loss):
            raise EcstflError(
                f"the loss is {loss} by step {step + 1} of epoch {epoch + 1}",
                "Try a lower --lr, --precision fp32, a smaller gamma, or a warmup (schedule.warmup_epochs).",
            )
        return loss


class _Totals:
    """Sums over an epoch, kept on the device."""

    def __init__(self) -> None:
        self.loss: Tensor | float = 0.0
        self.hits: Tensor | int = 0
        self.terms: dict[str, Tensor | float] = {}
        self.steps = 0
        self.samples = 0

    def add(self, loss: Tensor, hits: Tensor, terms: dict[str, Tensor], samples: int) -> None:
        self.loss = self.loss + loss
        self.hits = self.hits + hits
        self.terms = {name: self.terms.get(name, 0.0) + value for name, value in terms.items()}
        self.steps += 1
        self.samples += samples

    def loss_so_far(self) -> float:
        return float(self.loss) / max(self.steps, 1)

    def means(self) -> dict[str, float]:
        terms = {f"loss_{name}": float(value) / self.steps for name, value in self.terms.items()}
        return {"train_loss": self.loss_so_far(), "train_war": 100 * float(self.hits) / self.samples, **terms}
