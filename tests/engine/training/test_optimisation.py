"""Learning rates by step and by group, what weight decay falls on, fused updates, clipping, timm by name."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import timm.optim
import timm.scheduler
import torch
from torch import nn

from ecstfl_cli.api import ModelSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.engine.training.optimisation import build_optimizer, build_schedule, clip_gradients, set_learning_rate
from ecstfl_cli.engine.training.parallel import FSDP_ON_CPU
from ecstfl_cli.errors import RecipeError
from ecstfl_cli.recipe import OptimizerSection, ScheduleSection
from tests.processes import run_in_processes

CPU = torch.device("cpu")
needs_fsdp = pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < FSDP_ON_CPU, reason="FSDP on CPUs needs torch 2.9"
)


def rates(steps_per_epoch: int, epochs: int, lr: float = 0.01, **section: Any) -> Callable[[int], float]:
    schedule = build_schedule(ScheduleSection(**section), OptimizerSection(lr=lr), steps_per_epoch, epochs)
    return schedule.rate


def optimizer_for(network: nn.Module, objective: nn.Module | None = None, **section: Any) -> torch.optim.Optimizer:
    return build_optimizer(OptimizerSection(**section), network, objective or nn.Module(), CPU)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3))


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range, layout: Any = None) -> None:
    for step in steps:
        images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        logits = network(images.contiguous(memory_format=layout or torch.contiguous_format))
        nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
        optimizer.zero_grad()


# --- the recipe's own schedules -------------------------------------------------------------------------------------


def test_step_multiplies_every_step_size_epochs_as_the_reference() -> None:
    rate = rates(292, 200, name="step", step_size=50, factor=0.1)
    found = [rate(epoch * 292) for epoch in (0, 49, 50, 99, 100, 150)]
    assert found == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-5])


def test_cosine_warms_up_and_falls_to_its_minimum() -> None:
    rate = rates(10, 20, name="cosine", warmup_epochs=2.0, min_lr=1e-5)
    found = [rate(step) for step in range(200)]
    assert found[0] == pytest.approx(1e-2 / 20)
    assert found[19] == pytest.approx(1e-2)
    assert found[110] == pytest.approx((1e-2 + 1e-5) / 2)
    assert found[199] < 1.2e-5
    assert all(a >= b for a, b in pairwise(found[20:]))


def test_constant_stays_after_its_warmup() -> None:
    rate = rates(10, 5, name="constant", warmup_epochs=0.5)
    assert [rate(step) for step in (0, 4, 5, 49)] == pytest.approx([0.002, 0.01, 0.01, 0.01])


def test_own_schedules_take_no_arguments() -> None:
    with pytest.raises(RecipeError, match=r"schedule.args: there is no argument 'cycle_limit'") as caught:
        rates(10, 5, name="cosine", args={"cycle_limit": 2})
    assert "timm/NAME" in caught.value.hint


# --- timm's schedules -----------------------------------------------------------------------------------------------

TIMM_SCHEDULES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"name": "timm/cosine", "warmup_epochs": 1.5, "min_lr": 1e-4, "args": {"warmup_lr": 1e-3}},
        {"sched": "cosine", "warmup_epochs": 1.5, "min_lr": 1e-4, "warmup_lr": 1e-3},
    ),
    (
        {"name": "timm/cosine", "args": {"num_epochs": 4, "cycle_limit": 2, "cycle_decay": 0.5}},
        {"sched": "cosine", "num_epochs": 4, "cycle_limit": 2, "cycle_decay": 0.5},
    ),
    (
        {"name": "timm/step", "step_size": 3, "factor": 0.5},
        {"sched": "step", "decay_epochs": 3, "decay_rate": 0.5},
    ),
    (
        {"name": "timm/multistep", "factor": 0.2, "args": {"decay_milestones": [2, 6]}},
        {"sched": "multistep", "decay_rate": 0.2, "decay_milestones": [2, 6]},
    ),
    (
        {"name": "timm/poly", "min_lr": 1e-3, "args": {"decay_rate": 0.9}},
        {"sched": "poly", "min_lr": 1e-3, "decay_rate": 0.9},
    ),
    ({"name": "timm/tanh"}, {"sched": "tanh"}),
    ({"name": "timm/cosine", "args": {"noise": [0.2, 0.8]}}, {"sched": "cosine", "noise": [0.2, 0.8]}),
]


@pytest.mark.parametrize(("section", "settings"), TIMM_SCHEDULES)
def test_a_timm_schedule_is_timms_own_whatever_was_asked_before(
    section: dict[str, Any], settings: dict[str, Any]
) -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    settings = {"num_epochs": 8, "step_on_epochs": False, "updates_per_epoch": 5, **settings}
    scheduler, _ = timm.scheduler.create_scheduler_v2(optimizer, **settings)
    expected = []
    for step in range(40):  # timm's training loop does so after the update before, and at the start of a resumed run.
        scheduler.step_update(step)
        expected.append(optimizer.param_groups[0]["lr"])
    rate = rates(5, 8, lr=0.1, **section)
    assert [rate(step) for step in range(40)] == expected
    assert [rate(step) for step in reversed(range(40))] == expected[::-1]
    assert len(set(expected)) > 2


def test_plateau_is_refused_with_the_reason() -> None:
    with pytest.raises(RecipeError, match="depends on the step alone"):
        rates(10, 5, name="timm/plateau")


def test_an_unknown_schedule_gets_near_matches() -> None:
    with pytest.raises(RecipeError, match="timm has no schedule 'multistp'") as caught:
        rates(10, 5, name="timm/multistp")
    assert "Did you mean 'multistep'?" in caught.value.hint


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "timm/cosine", "args": {"cycle_limt": 2}}, "there is no argument 'cycle_limt'"),
        ({"name": "timm/cosine", "args": {"warmup_epochs": 2}}, "'warmup_epochs' is given by schedule.warmup_epochs"),
        ({"name": "timm/step", "args": {"decay_rate": 0.5}}, "'decay_rate' is given by schedule.factor"),
        ({"name": "timm/multistep", "args": {"decay_milestones": 2}}, "does not take {'decay_milestones': 2}"),
        ({"name": "timm/cosine", "args": {"cycle_limit": 2}}, "takes 20 epochs of 10"),
    ],
)
def test_wrong_schedule_arguments_are_refused_before_training(section: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=rf"schedule.args: .*{message}"):
        rates(5, 10, **section)


# --- groups ---------------------------------------------------------------------------------------------------------


def test_adamw_spares_biases_and_norms_and_sgd_decays_all() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    adamw = optimizer_for(network, name="adamw", lr=1e-3, weight_decay=0.05)
    assert [(len(g["params"]), g["weight_decay"]) for g in adamw.param_groups] == [(1, 0.05), (3, 0.0)]
    sgd = optimizer_for(network, weight_decay=1e-4)
    assert [(len(g["params"]), g["weight_decay"], g["momentum"]) for g in sgd.param_groups] == [(4, 1e-4, 0.9)]


def test_timm_optimisers_spare_what_timm_spares() -> None:
    network = build_model(ModelSpec("timm/vit_tiny_patch16_224", 3), "img")
    groups = optimizer_for(network, name="timm/lamb", weight_decay=0.05).param_groups
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    by_timm = timm.optim.param_groups_weight_decay(
        network.net, 0.05, no_weight_decay_list=network.net.no_weight_decay()
    )
    expected = {id(parameter) for group in by_timm if group["weight_decay"] for parameter in group["params"]}
    assert decayed == expected | {id(network.head.weight)}


def test_each_stage_has_half_the_rate_of_the_next_and_the_objective_the_whole() -> None:
    network = build_model(ModelSpec("grid_cnn", 3), "img")
    centres = nn.Module()
    centres.centres = nn.Parameter(torch.zeros(3, 4))
    optimizer = optimizer_for(network, centres, lr=0.01, layer_decay=0.5, lr_factors={"head": 10.0})
    names = {id(p): n for n, p in (*network.named_parameters(), *centres.named_parameters())}
    scales = {names[id(p)]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert [scales[f"net.{i}.0.weight"] for i in range(4)] == [0.0625, 0.125, 0.25, 0.5]
    assert (scales["head.weight"], scales["centres"]) == (10.0, 1.0)
    assert sorted(scales) == sorted(names.values())
    for rate in (0.01, 0.004):
        set_learning_rate(optimizer, rate)
        assert all(group["lr"] == rate * group["lr_scale"] for group in optimizer.param_groups)


def test_frozen_parameters_are_not_in_the_optimiser() -> None:
    network = small_network()
    network[0].requires_grad_(False)
    groups = optimizer_for(network, name="adamw").param_groups
    assert sum(len(group["params"]) for group in groups) == 4


# --- optimisers by name and their arguments -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ({"name": "sgd", "args": {"nesterov": True}}, torch.optim.SGD),
        ({"name": "adamw", "args": {"betas": [0.9, 0.99]}}, torch.optim.AdamW),
        ({"name": "timm/lamb", "args": {"trust_clip": True}}, timm.optim.Lamb),
        ({"name": "timm/sgdw", "momentum": 0.7}, timm.optim.SGDW),
        ({"name": "timm/lookahead_adam"}, timm.optim.Lookahead),
    ],
)
def test_an_optimiser_has_its_arguments_and_trains(section: dict[str, Any], kind: type) -> None:
    network = small_network()
    before = copy.deepcopy(network.state_dict())
    optimizer = optimizer_for(network, lr=0.01, layer_decay=0.5, **section)
    assert type(optimizer) is kind
    for key, value in section.get("args", {}).items():
        assert optimizer.defaults[key] == (tuple(value) if isinstance(value, list) else value)
    assert optimizer.param_groups[0].get("momentum", 0.9) == section.get("momentum", 0.9)
    train(network, optimizer, range(2))
    assert all(not torch.equal(value, before[name]) for name, value in network.named_parameters())


@pytest.mark.parametrize(
    ("section", "message", "hint"),
    [
        ({"name": "timm/lam"}, "optimizer.name: timm has no optimiser 'lam'", "Did you mean 'lamb'"),
        ({"name": "timm/adahessian"}, "second derivatives", "timm/lamb"),
        ({"name": "sgd", "args": {"nestrov": True}}, "optimizer.args: there is no argument 'nestrov'", "'nesterov'"),
        ({"name": "timm/lamb", "args": {"trst_clip": 1}}, "there is no argument 'trst_clip'", "Accepted: always_adapt"),
        ({"name": "adamw", "args": {"lr": 1.0}}, "'lr' is given by optimizer.lr", "Accepted: amsgrad, betas"),
        ({"name": "adamw", "args": {"betas": [0.9, 2.0]}}, "Invalid beta parameter at index 1", ""),
        ({"name": "sgd", "lr_factors": {"hed": 2.0}}, "optimizer.lr_factors: no parameter's name", "stages"),
    ],
)
def test_wrong_names_and_arguments_are_refused(section: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        optimizer_for(small_network(), **section)
    assert hint in caught.value.hint


# --- fused updates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fused_updates_are_those_of_the_plain_loop(name: str, layout: torch.memory_format) -> None:
    trained = []
    for args in ({}, {"foreach": False}):
        network = small_network().to(memory_format=layout)
        optimizer = optimizer_for(network, name=name, weight_decay=0.1, layer_decay=0.5, args=args)
        assert bool(optimizer.defaults["fused"]) == (not args)
        train(network, optimizer, range(5), layout)
        trained.append(network.state_dict())
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-5, atol=1e-6)


def test_a_first_gradient_that_overflows_leaves_nothing_behind() -> None:
    """As fp16's do, until the loss scale is found: the update is left out."""
    trained = []
    for args in ({}, {"fused": False}):
        network = small_network()
        optimizer = optimizer_for(network, name="sgd", args=args)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for step in range(3):
            x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            scaler.scale(network(x).square().sum() * (float("inf") if step == 0 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            if step == 0:
                assert not any(slots["momentum_buffer"].any() for slots in optimizer.state.values())
        trained.append(network.state_dict())
    torch.testing.assert_close(*trained)


def test_a_parameter_may_have_its_first_gradient_later_than_others() -> None:
    """As that of a loss which some batches have no use for."""
    trained = []
    for args in ({}, {"fused": False}):
        network, loss = small_network(), nn.ParameterDict({"a": torch.ones(2), "b": torch.ones(2)})
        optimizer = optimizer_for(network, loss, name="sgd", args=args)
        for step in range(3):
            optimizer.zero_grad()
            (loss["a"].square().sum() + (loss["b"].square().sum() if step else 0)).backward()
            optimizer.step()
        trained.append({name: value.detach() for name, value in loss.items()})
    torch.testing.assert_close(*trained)


@pytest.mark.parametrize("name", ["sgd", "adamw", "timm/lookahead_adam"])
def test_a_loaded_state_continues_bit_for_bit_whatever_its_memory_layout(name: str) -> None:
    def start() -> tuple[nn.Module, torch.optim.Optimizer]:
        network = small_network().to(memory_format=torch.channels_last)
        return network, optimizer_for(network, name=name, layer_decay=0.5)

    whole, optimizer = start()
    train(whole, optimizer, range(8), torch.channels_last)
    first, optimizer = start()
    train(first, optimizer, range(4), torch.channels_last)
    state = copy.deepcopy(optimizer.state_dict())
    for slots in state["state"].values():  # As another device, or FSDP, would have kept it.
        slots |= {key: value.contiguous() for key, value in slots.items() if isinstance(value, torch.Tensor)}
    second, optimizer = start()
    second.load_state_dict(first.state_dict())
    optimizer.load_state_dict(state)
    train(second, optimizer, range(4, 8), torch.channels_last)
    assert all(torch.equal(a, b) for a, b in zip(second.parameters(), whole.parameters(), strict=True))


# --- clipping -------------------------------------------------------------------------------------------------------


def with_gradients(scale: float) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(size)) for size in ((3, 4), (5,), (2, 2, 2))]
    for seed, parameter in enumerate(parameters):
        parameter.grad = scale * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    return [*parameters, nn.Parameter(torch.zeros(7))]  # The last takes no part.


@pytest.mark.parametrize("scale", [10.0, 0.01])
def test_clipping_is_torchs_own(scale: float) -> None:
    ours, theirs = with_gradients(scale), with_gradients(scale)
    norm = clip_gradients((p for p in ours), 1.0)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(theirs, 1.0))
    assert float(norm) == pytest.approx(float(torch.cat([p.grad.flatten() for p in with_gradients(scale)[:3]]).norm()))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours[:3], theirs[:3], strict=True))


def test_without_gradients_the_norm_is_zero() -> None:
    assert float(clip_gradients([nn.Parameter(torch.zeros(3))], 1.0)) == 0.0


def _step_of_shards(rank: int, rendezvous: str, results: str) -> None:
    """Of two processes, one: clipped steps of a sharded network and an objective that is not, each with its half."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    found = {}
    for name in ("sgd", "adamw"):
        network, objective = _network_and_objective()
        fully_shard(network, mesh=mesh)
        norms = _clipped_steps(name, network, objective, slice(2 * rank, 2 * rank + 2))
        found[name] = (norms, [p.full_tensor().detach() for p in network.parameters()])
    if rank == 0:
        torch.save(found, results)
    distributed.barrier()
    os._exit(0)  # What is left of gloo's threads may abort a process that ends in Python's own way.


def _network_and_objective() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    objective = nn.Module()
    objective.scale = nn.Parameter(torch.full((2,), 3.0))
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)), objective


def _clipped_steps(name: str, network: nn.Module, objective: Any, part: slice) -> list[torch.Tensor]:
    optimizer = optimizer_for(network, objective, name=name, lr=0.1, layer_decay=0.5)
    norms = []
    for seed in range(3):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))[part]
        optimizer.zero_grad()
        (network(x) * objective.scale).square().mean().backward()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(objective.scale.grad)
            objective.scale.grad /= 2
        norms.append(clip_gradients((p for group in optimizer.param_groups for p in group["params"]), 0.5))
        optimizer.step()
    return norms


@needs_fsdp
def test_sharded_parameters_are_clipped_and_updated_as_whole_ones(tmp_path: Path) -> None:
    results = tmp_path / "results.pt"
    run_in_processes(_step_of_shards, (str(tmp_path / "rendezvous"), str(results)), 2)
    sharded = torch.load(results)
    for name, (norms, parameters) in sharded.items():
        network, objective = _network_and_objective()
        expected = _clipped_steps(name, network, objective, slice(0, 4))
        torch.testing.assert_close(norms, expected)
        torch.testing.assert_close(parameters, [p.detach() for p in network.parameters()])
        assert float(expected[0]) > 0.5
