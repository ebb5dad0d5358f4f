"""The training loop: epochs of steps, in one process or several, and predictions between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ecstfl_cli.api import Batch
from ecstfl_cli.components.frame_model import FrameModel
from ecstfl_cli.components.mixing import Mix, Mixing
from ecstfl_cli.engine.data.loader import EvaluationOrder, TrainingOrder, batches
from ecstfl_cli.engine.data.samples import KIND
from ecstfl_cli.engine.evaluate import Predictions, merged, predict
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.runtime import keep_depthwise_in_fp32, resolve_parallel, resolve_precision, use_channels_last
from ecstfl_cli.engine.training.anomaly import LayerWatch
from ecstfl_cli.engine.training.averaging import MovingAverage
from ecstfl_cli.engine.training.distillation import Teacher, distilled
from ecstfl_cli.engine.training.distributed import Processes
from ecstfl_cli.engine.training.epoch_log import EpochTotals, RecentLosses
from ecstfl_cli.engine.training.objective import Objective
from ecstfl_cli.engine.training.optimisation import build_optimizer, build_schedule, clip_gradients, set_learning_rate
from ecstfl_cli.engine.training.parallel import full, gradients_summed, in_parallel, load_network, load_optimizer, local
from ecstfl_cli.engine.training.stages import hold_frozen_norms
from ecstfl_cli.engine.training.training_state import Progress
from ecstfl_cli.engine.training.watch import StoppedError, Watch
from ecstfl_cli.errors import EcstflError
from ecstfl_cli.labels import label_map_from
from ecstfl_cli.recipe import Recipe

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Looking at a loss waits for a GPU, so it is done now and then only.
LOOK_EVERY = 10
COMPILED_AFTER = 3


class Trainer:
    """Runs single epochs; the workflow around it (resuming, saving, reporting) is `finetune`."""

    def __init__(
        self,
        recipe: Recipe,
        processes: Processes,
        model: FrameModel,
        objective: Objective,
        order: TrainingOrder,
        reporter: Reporter,
        soft_targets: Tensor | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        train, device = recipe.train, processes.device
        self.recipe, self.processes, self.reporter = recipe, processes, reporter
        self.num_classes, self.num_features = len(label_map_from(recipe.label_map)), int(model.network.num_features)
        self.precision = resolve_precision(train.precision, device)
        parallel = resolve_parallel(train.parallel)
        sharded = parallel == "fsdp" and processes.count > 1
        if sharded and self.precision == "fp16":
            raise EcstflError("precision fp16 does not work with parallel fsdp", "Use bf16 or fp32, or parallel ddp.")
        self.model = model.to(device)
        if not sharded:  # FSDP takes no other memory layout.
            use_channels_last(self.model.network)
        if processes.count > 1 and train.sync_batchnorm:
            from ecstfl_cli.components.sync_batch_norm import convert

            self.model.network = convert(self.model.network, device)
        # Infinite gradients of fp16 are part of how its scale is found.
        self.anomalies = LayerWatch(self.model, self.precision != "fp16") if train.detect_anomaly else None
        self.teacher = None if teacher is None else teacher.to(device)
        if device.type == "cpu" and self.precision == "bf16":
            keep_depthwise_in_fp32(self.network)
        if train.compile:
            self.model.compile()
            if self.teacher is not None:
                for member in self.teacher.models:
                    member.frames.compile()
        self.module = in_parallel(self.model, parallel, processes, same_buffers=train.sync_batchnorm)
        self.objective = objective.to(device)
        # A loss may have parameters of its own, such as class centres.
        self.optimizer = build_optimizer(recipe.optimizer, self.network, self.objective, device)
        self.schedule = build_schedule(recipe.schedule, recipe.optimizer, len(order), train.epochs)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.average = MovingAverage(self.network, train.ema) if train.ema else None
        self.mixing = Mixing(recipe.augment.mixup, recipe.augment.cutmix, recipe.augment.mix_prob)
        self.order = order
        # (N, K), of the samples that `order` counts; small enough to be in every process.
        self.soft_targets = soft_targets
        self.unit = KIND[recipe.input.modality]
        # Whether the last batch was one of an update that is not made yet: this is not a moment to save.
        self.is_within_update = False
        self._first_steps: list[float] = []

    @property
    def network(self) -> nn.Module:
        """The network without preprocessing and without wrappers; what checkpoints hold."""
        return self.model.network

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run continues from, as whole tensors; of sharded networks, every process must call it."""
        state = {
            "network": full(self.network.state_dict()),
            "objective": self.objective.state_dict(),
            "optimizer": full(self.optimizer.state_dict()),
            "optimizer_name": self.recipe.optimizer.name,
            "scaler": self.scaler.state_dict(),
        }
        return state if self.average is None else {**state, "average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`. Raises KeyError, ValueError or RuntimeError where it is of another model."""
        if state["optimizer_name"] != (name := self.recipe.optimizer.name):
            raise ValueError(f"it is of {state['optimizer_name']}, not of {name}")
        if self.average is not None and "average" not in state:
            raise ValueError("it has no average of the weights, which train.ema needs from the start")
        load_network(self.network, state["network"])
        self.objective.load_state_dict(state["objective"])
        own = [dict(group) for group in self.optimizer.param_groups]
        saved = state["optimizer"]
        # Whether all is updated in one kernel is this machine's, and decides where torch puts what it loads.
        groups = [
            {**group, **{key: before[key] for key in ("fused", "foreach") if key in before}}
            for group, before in zip(saved["param_groups"], own, strict=True)
        ]
        load_optimizer(self.optimizer, {**saved, "param_groups": groups})
        # What the recipe says holds, also where it was changed; the rest of a group may be counters.
        for group, before in zip(self.optimizer.param_groups, own, strict=True):
            group |= {
                k: before[k]
                for k in ("lr_scale", "weight_decay", "momentum", *self.recipe.optimizer.args)
                if k in before
            }
        if state["scaler"]:  # Another precision has none.
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def weights(self) -> dict[str, Tensor]:
        """A copy of the network's present weights, whole and on the CPU; see `state_dict`."""
        return {n: full(tensor).detach().to("cpu", copy=True) for n, tensor in self.network.state_dict().items()}

    def averaged(self) -> AbstractContextManager[None]:
        """The network has its averaged weights inside the block, where the recipe asks for an average."""
        return self.average.applied(self.network) if self.average else nullcontext()

    # --- training ----------------------------------------------------------------------------------------------------

    def train_epoch(
        self, progress: Progress, loader: DataLoader, steps: int, watch: Watch, save: Callable[[], None]
    ) -> dict[str, Any]:
        """The rest of an epoch, up to `steps` batches of it. `progress` goes along with every update.

        Returns the mean losses, the training WAR in percent and the rate. `save` is called where the watch says so.
        Raises StoppedError where it says to stop; EcstflError where the loss becomes infinite or not a number.
        """
        self.order.epoch, self.order.start = progress.epoch, progress.step
        self.module.train()
        hold_frozen_norms(self.network)
        samples = loader.dataset.samples  # type: ignore[attr-defined]
        recent = RecentLosses(progress.epoch, lambda step: [samples[i].clip_id for i in self.order.batch(step)])
        totals, first = EpochTotals(progress.totals), progress.step
        started, spent, shown = time.monotonic(), progress.seconds, ""
        title = f"epoch {progress.epoch + 1}/{self.recipe.train.epochs}"
        left = max(0, min(steps * self.order.batch_size, self.order.n) - first * self.order.batch_size)
        with self.reporter.progress(title, left, self.unit) as advance:
            for step, batch in zip(range(first, steps), batches(loader), strict=False):
                begun = time.monotonic()
                updated = self._step(step, steps, batch, totals, recent)
                self._show_compilation(time.monotonic() - begun)
                done = step + 1
                if self.processes.device.type == "cpu" or done % LOOK_EVERY == 0 or done == steps:
                    recent.check()
                    shown = f"loss {totals.loss():.4f}"
                advance(len(self.order.batch(step)), note=shown)
                self.is_within_update = not updated
                if not updated:
                    continue
                stop, due = watch.stop(), watch.save_is_due(done - progress.step) and done < steps
                if stop or due or done == steps:
                    self._share_buffers()
                    recent.check()
                    self._check_weights(step, recent)
                progress.step, progress.totals = done, totals.values
                progress.seconds = spent + time.monotonic() - started
                if stop:
                    raise StoppedError(stop)
                if due:
                    save()
        return {
            "lr": self.schedule.rate(progress.epoch * len(self.order) + steps - 1),
            **totals.means(),
            "train_seconds": progress.seconds,
            "samples_per_second": totals.values["samples"] / max(progress.seconds, 1e-9),
        }

    def _step(self, step: int, steps: int, batch: Batch, totals: EpochTotals, recent: RecentLosses) -> bool:
        """One batch; returns whether it ended with an update, as every `accumulate`-th and the last one do."""
        processes, every = self.processes, self.recipe.train.accumulate
        total = len(self.order.batch(step))
        in_update = min(every, steps - step // every * every)
        ends_update = (step + 1) % every == 0 or step + 1 == steps
        set_learning_rate(self.optimizer, self.schedule.rate(self.order.epoch * len(self.order) + step))
        if self.anomalies:
            self.anomalies.place = recent.place(step)
        batch = batch.to(processes.device)
        batch, mix = self._mixed(batch, step, total)
        with gradients_summed(self.module, last=ends_update):
            with self._autocast():
                logits, features = self.module(batch.frames)
            self._require_shapes(logits, features, len(batch.frames))
            logits, features = processes.gather(logits.float(), total), processes.gather(features, total)
            target = processes.gather(batch.target, total)
            clip_ids = batch.clip_ids if processes.count == 1 else list(recent.clip_ids_of(step))
            soft = None if self.soft_targets is None else self.soft_targets[self.order.batch(step)].to(target.device)
            loss, terms = self.objective(logits, features, target, Batch(batch.frames, target, clip_ids, soft), mix)
            if self.teacher is not None:
                with self._autocast():
                    said = processes.gather(self.teacher(batch.frames), total)
                loss, terms["distillation"] = distilled(loss, logits, said, self.teacher.weight)
            self.scaler.scale(loss / in_update).backward()
        recent.add(step, loss.detach(), terms)
        totals.add(loss.detach(), (logits.detach().argmax(dim=1) == target).sum(), terms, total)
        if ends_update:
            self._update(step, recent)
        return ends_update

    def _require_shapes(self, logits: Tensor, features: Tensor, n: int) -> None:
        """Raise EcstflError where a backbone does not keep its word."""
        for name, found, size in (("logits", logits, self.num_classes), ("features", features, self.num_features)):
            if tuple(found.shape) != (wanted := (n, size)):
                raise EcstflError(
                    f"backbone {self.recipe.model.backbone!r} gives {name} {tuple(found.shape)}, not {wanted}",
                    "`forward_features` gives (B, num_features), `forward_head` (B, num_classes); see docs/plugins.md.",
                )

    def _update(self, step: int, recent: RecentLosses) -> None:
        if self.recipe.optimizer.clip_norm:
            self.scaler.unscale_(self.optimizer)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            norm = clip_gradients(parameters, self.recipe.optimizer.clip_norm)
            if not self.scaler.is_enabled():  # The scaler leaves such an update out and lowers its scale.
                recent.add_norm(step, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.network)

    def _share_buffers(self) -> None:
        """Where batch norms are not synchronised, the main process's statistics count: they are what is saved."""
        if not self.recipe.train.sync_batchnorm:
            self.processes.share_from_main(self.network.buffers())
            if self.average is not None:
                self.processes.share_from_main(self.average.buffers(self.network))

    def _check_weights(self, step: int, recent: RecentLosses) -> None:
        """No state may be saved where an update has spoilt the weights, though the loss before it was finite."""
        weights = [w for w in (local(p.detach()) for p in self.network.parameters()) if w.numel()]
        largest = nn.utils.get_total_norm(weights, float("inf"))
        if any(self.processes.any(not math.isfinite(float(largest)))):
            recent.fail(step, "the update has made weights infinite or not a number")

    def _mixed(self, batch: Batch, step: int, total: int) -> tuple[Batch, Mix | None]:
        """The batch after mixup or CutMix, which pairs samples of all processes."""
        if not self.mixing.is_on:
            return batch, None
        generator = np.random.default_rng((self.recipe.seed, self.order.epoch, step, 0))
        mix = self.mixing.draw(total, batch.frames.shape[-2], generator)
        if mix is None:
            return batch, None
        own = torch.as_tensor(self.processes.share(mix.partner.tolist()), device=batch.frames.device)
        partners = self.processes.gather(batch.frames, total)[own]
        return Batch(mix.frames(batch.frames, partners), batch.target, batch.clip_ids), mix

    def _show_compilation(self, seconds: float) -> None:
        """Say once what compiling costs: how much longer the first step took than a later one."""
        if self.recipe.train.compile and len(self._first_steps) < COMPILED_AFTER:
            self._first_steps.append(seconds)
            if len(self._first_steps) == COMPILED_AFTER:
                cost = self._first_steps[0] - self._first_steps[-1]
                self.reporter.note(f"compiling took {cost:.0f} s; a step takes {self._first_steps[-1]:.2f} s")

    def _autocast(self) -> AbstractContextManager:
        if self.precision not in HALF:
            return nullcontext()
        return torch.autocast(self.processes.device.type, HALF[self.precision])

    # --- predictions -------------------------------------------------------------------------------------------------

    def predict(self, loader: DataLoader, title: str, check: Callable[[], None]) -> Predictions:
        """Predictions of the present weights for every sample once, the same in every process.

        `check` is called after each batch, and may raise.
        """
        self.model.eval()
        if self.anomalies:
            self.anomalies.place = title
        own = predict(
            lambda frames: self.model(frames)[0],
            loader,
            self.processes.device,
            self.reporter,
            title,
            self.unit,
            self._autocast,
            check,
        )
        if told := own.without_numbers():
            self.reporter.warn(f"{title}: the network gives {told}; they count as the first class")
        if self.processes.count == 1:
            return own
        order = loader.batch_sampler
        assert isinstance(order, EvaluationOrder)
        parts = self.processes.gather_objects(own)
        return merged(parts, [order.indices(rank) for rank in range(self.processes.count)], order.n)
