"""Optimisers, learning-rate schedules and gradient clipping. A schedule is a function of the step: resuming has no
hidden counter.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ecstfl_cli.engine.training.parallel import is_sharded
from ecstfl_cli.engine.training.stages import learning_rate_scales
from ecstfl_cli.errors import RecipeError, suggest
from ecstfl_cli.recipe import OptimizerSection, ScheduleSection

_TIMM = "timm/"
_OWN_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
_TIMM_SCHEDULES = ("constant", "cosine", "multistep", "poly", "rsqrt", "step", "tanh", "wsd")

# --- optimisers -----------------------------------------------------------------------------------------------------


def build_optimizer(
    section: OptimizerSection, network: nn.Module, objective: nn.Module, device: torch.device
) -> torch.optim.Optimizer:
    """The optimiser of a recipe, over what is trainable of a network and of an objective.

    Each group has an `lr_scale`, see `set_learning_rate`: 1 for the objective's parameters, and for the network's what
    `layer_decay` and `lr_factors` make of it. Weight decay falls on every parameter for sgd, as in the reference
    release; for adamw on those with two dimensions or more; for `timm/NAME` as timm has it, on those but not on biases,
    nor on what the network lists as `no_weight_decay`. Build it when the network is sharded, not before.

    Raises RecipeError for a name that timm does not have, for arguments that the optimiser refuses, and for a prefix in
    `lr_factors` that no parameter has.
    """
    groups = _parameter_groups(section, network, objective)
    if section.name.startswith(_TIMM):
        return _timm_optimizer(section, groups)
    kind = _OWN_OPTIMIZERS[section.name]
    options = _optimizer_arguments(section, kind, has_momentum=section.name == "sgd")
    if section.name == "sgd":
        options["momentum"] = section.momentum
    if _can_fuse(section.name, groups, device, options) and not {"fused", "foreach"} & options.keys():
        options["fused"] = True
    with _refused("optimizer.args", section.name, section.args):
        optimizer = kind(groups, lr=section.lr, weight_decay=section.weight_decay, **options)
    optimizer.register_load_state_dict_post_hook(_match_layout)
    if section.name == "sgd" and not options.get("dampening"):
        _begin_momentum(optimizer)
        optimizer.register_load_state_dict_post_hook(_begin_momentum)
    return optimizer


def _parameter_groups(section: OptimizerSection, network: nn.Module, objective: nn.Module) -> list[dict[str, Any]]:
    """Parameters of the same source, `lr_scale` and weight decay, in the order of the modules."""
    scales = learning_rate_scales(network, section.layer_decay, section.lr_factors)
    spared = _not_decayed(network) if section.name.startswith(_TIMM) else set()
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for of_network, module in ((True, network), (False, objective)):
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            is_decayed = section.name == "sgd" or (parameter.ndim > 1 and not (of_network and name in spared))
            key = (of_network, scales[name] if of_network else 1.0, section.weight_decay if is_decayed else 0.0)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, "lr": section.lr * scale, "weight_decay": decay}
        for (_, scale, decay), parameters in groups.items()
    ]


def _not_decayed(network: nn.Module) -> set[str]:
    """Names of the biases with two dimensions or more, and of what a timm network lists, such as its positions."""
    spared = {name for name, _ in network.named_parameters() if name.endswith(".bias")}
    for path, module in network.named_modules():
        if callable(listed := getattr(module, "no_weight_decay", None)):
            spared |= {f"{path}.{name}" if path else name for name in listed()}
    return spared


def _can_fuse(name: str, groups: Iterable[Mapping[str, Any]], device: torch.device, options: Mapping[str, Any]) -> bool:
    """Whether torch can update all parameters in one kernel.

    In CPU memory this takes 0.4 (sgd) and 0.2 (adamw) of the time of torch's loop on r3d_18, with the same result up to
    rounding. Of sharded parameters torch has it for adamw only. With dampening, momentum cannot begin as
    `_begin_momentum` has it.
    """
    sharded = any(is_sharded(parameter) for group in groups for parameter in group["params"])
    return device.type in ("cuda", "cpu") and not (name == "sgd" and (sharded or options.get("dampening")))


@torch.no_grad()
def _begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Let sgd's momentum begin as zeros, which gives what torch does: its first value is the first gradient.

    The fused kernel begins with memory as it finds it, and leaves that as it is where a gradient of fp16 overflows in
    the first step; and it fails where some parameters have a momentum already and others do not.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if group["momentum"] and optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay loaded state out in memory as its parameters: the fused kernels go through both without looking at strides,
    and a run may continue where another layout is faster.
    """
    for parameter, slots in optimizer.state.items():
        for key, value in slots.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                slots[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _optimizer_arguments(section: OptimizerSection, kind: Callable[..., Any], *, has_momentum: bool) -> dict[str, Any]:
    own = {key: f"optimizer.{key}" for key in ("lr", "weight_decay", *(["momentum"] if has_momentum else []))}
    parameters = inspect.signature(kind).parameters
    _check_arguments("optimizer.args", section.args, parameters.keys() - {"params"}, own)
    # YAML has no tuples, which is what betas are.
    return {key: tuple(value) if isinstance(value, list) else value for key, value in section.args.items()}


def _timm_optimizer(section: OptimizerSection, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    import timm.optim

    name = section.name.removeprefix(_TIMM)
    base = name.removeprefix("lookahead_")
    known = [str(listed) for listed in timm.optim.list_optimizers()]
    if base not in known:
        raise RecipeError(
            f"optimizer.name: timm has no optimiser {base!r}",
            f"{suggest(base, known)}Available: {', '.join(known)}; each with lookahead_ before it, too.",
        )
    if timm.optim.get_optimizer_info(base).second_order:
        raise RecipeError(
            f"optimizer.name: {section.name} needs second derivatives, which training does not compute",
            "Choose a first-order optimiser, such as adamw or timm/lamb.",
        )
    with _refused("optimizer.name", section.name, {}):
        kind = timm.optim.get_optimizer_class(base, bind_defaults=False)
    info = timm.optim.get_optimizer_info(base)
    options = _optimizer_arguments(section, kind, has_momentum=info.has_momentum)
    with _refused("optimizer.args", section.name, section.args):
        return timm.optim.create_optimizer_v2(
            groups, name, lr=section.lr, weight_decay=section.weight_decay, momentum=section.momentum, **options
        )


# --- schedules ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """`rate(step)` is the base learning rate of step `step`, counted in batches from the start of the run, from 0.

    It depends on nothing but the step.
    """

    rate: Callable[[int], float]


def build_schedule(
    section: ScheduleSection, optimizer: OptimizerSection, steps_per_epoch: int, epochs: int
) -> Schedule:
    """The schedule of a recipe.

    `step` and `cosine` have a linear warmup; `cosine` falls every step, `step` at epoch ends. `timm/NAME` is stepped
    for every batch; `epochs` is its `num_epochs`, unless `args` say otherwise. `factor` is for its `step` and
    `multistep`, `step_size` for its `step`; in others what timm calls by these names means something else.

    Raises RecipeError for a name that timm does not have, for `plateau`, and for arguments that the schedule refuses.
    """
    if section.name.startswith(_TIMM):
        return Schedule(_timm_rate(section, optimizer.lr, steps_per_epoch, epochs))
    _check_arguments("schedule.args", section.args, (), {}, f"{section.name} takes none; they are for timm/NAME.")
    return Schedule(partial(_own_rate, section, optimizer.lr, steps_per_epoch, epochs))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Every group has the base learning rate times its `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def _own_rate(section: ScheduleSection, base: float, steps_per_epoch: int, epochs: int, step: int) -> float:
    warmup = round(section.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return base * (step + 1) / warmup
    if section.name == "step":
        return base * section.factor ** (step // steps_per_epoch // section.step_size)
    if section.name == "cosine":
        done = (step - warmup) / max(1, epochs * steps_per_epoch - warmup)
        return section.min_lr + (base - section.min_lr) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return base


def _timm_rate(section: ScheduleSection, base: float, steps_per_epoch: int, epochs: int) -> Callable[[int], float]:
    from timm.scheduler import create_scheduler_v2

    name = section.name.removeprefix(_TIMM)
    given, own = _timm_schedule_settings(section, name)
    ours = {"sched": name, "step_on_epochs": False, "updates_per_epoch": steps_per_epoch}
    theirs = inspect.signature(create_scheduler_v2).parameters.keys()
    accepted = theirs - {"optimizer", "patience_epochs", "plateau_mode"} - ours.keys()
    _check_arguments("schedule.args", section.args, accepted, own)
    # A schedule of timm's writes into an optimiser; this one has nothing else to it.
    carrier = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)

    def rate(step: int) -> float:
        scheduler.step_update(step)
        return carrier.param_groups[0]["lr"]

    with _refused("schedule.args", section.name, section.args):
        settings = {"num_epochs": epochs, **given, **section.args, **ours}
        scheduler, length = create_scheduler_v2(carrier, **settings)
        if scheduler is None:
            raise ValueError(f"this version of timm has no schedule {name!r}")
        # Arguments of the wrong kind show only here.
        ends = [rate(step) for step in (0, epochs * steps_per_epoch - 1)]
        if not all(isinstance(end, float) and end >= 0 for end in ends):
            raise ValueError(f"the learning rate would go from {ends[0]} to {ends[1]}")
    if length > epochs and "num_epochs" not in section.args:
        raise RecipeError(
            f"schedule.args: {section.name} with {dict(section.args)} takes {length:g} epochs of {epochs}",
            "Set schedule.args.num_epochs, the epochs of one cycle without what is put before and after it.",
        )
    return rate


def _timm_schedule_settings(section: ScheduleSection, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """timm's arguments that the section's own keys give, and which key gives which.

    `decay_epochs` and `decay_rate` are the length of the last phase for wsd, and the power for poly.
    """
    if name == "plateau":
        raise RecipeError(
            "schedule.name: timm/plateau lowers the learning rate by the metrics of past epochs; here a learning rate "
            "depends on the step alone, so that a run can be continued and repeated",
            "Choose another schedule, such as cosine or timm/multistep.",
        )
    if name not in _TIMM_SCHEDULES:
        raise RecipeError(
            f"schedule.name: timm has no schedule {name!r}",
            f"{suggest(name, _TIMM_SCHEDULES)}Available: {', '.join(_TIMM_SCHEDULES)}",
        )
    given: dict[str, Any] = {"warmup_epochs": section.warmup_epochs, "min_lr": section.min_lr}
    own = {key: f"schedule.{key}" for key in given}
    if name == "step":
        given["decay_epochs"], own["decay_epochs"] = section.step_size, "schedule.step_size"
    if name in ("step", "multistep"):
        given["decay_rate"], own["decay_rate"] = section.factor, "schedule.factor"
    return given, own


# --- arguments ------------------------------------------------------------------------------------------------------


def _check_arguments(
    key: str, args: Mapping[str, Any], accepted: Collection[str], own: Mapping[str, str], none: str = ""
) -> None:
    """Raises RecipeError for arguments that are not `accepted`, or that a key of the recipe (`own`) gives already."""
    allowed = sorted(set(accepted) - own.keys())
    problems = [
        f"{name!r} is given by {own[name]}" if name in own else f"there is no argument {name!r}"
        for name in args
        if name not in allowed
    ]
    if problems:
        near = "".join(suggest(name, allowed) for name in args if name not in allowed and name not in own)
        raise RecipeError(f"{key}: {'; '.join(problems)}", none or f"{near}Accepted: {', '.join(allowed)}")


@contextmanager
def _refused(key: str, name: str, args: Mapping[str, Any]) -> Iterator[None]:
    """A block in which a library refuses arguments in its own way: RecipeError in ours."""
    try:
        yield
    except (TypeError, ValueError, ArithmeticError, AssertionError, RuntimeError, ImportError) as error:
        what = f"does not take {dict(args)}" if args else "cannot be used"
        raise RecipeError(f"{key}: {name} {what}: {error}") from error


# --- clipping -------------------------------------------------------------------------------------------------------


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale the gradients of all parameters together so that their 2-norm is `max_norm` at most.

    Returns the norm before, a scalar on their device; nothing waits for the device. Sharded parameters may be among
    them, and then every process must call it.
    """
    kinds: dict[bool, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            kinds.setdefault(is_sharded(parameter.grad), []).append(parameter)
    if not kinds:
        return torch.zeros(())
    norms = [_total_norm(kind) for kind in kinds.values()]
    total = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    for kind in kinds.values():
        nn.utils.clip_grads_with_norm_(kind, max_norm, total)
    return total


def _total_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    norm: Any = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    return norm.full_tensor() if is_sharded(norm) else norm
