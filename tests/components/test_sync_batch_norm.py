"""Batch norm over the global batch: several real processes over gloo against one process with the whole batch."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from ecstfl_cli.components.sync_batch_norm import GlobalBatchNorm, convert
from ecstfl_cli.errors import EcstflError
from tests.processes import run_in_processes

CPU = torch.device("cpu")
C = 6
IMAGES = torch.linspace(-1, 2, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
SHARES = {2: (3, 2), 3: (3, 2, 2)}
FORMATS = {2: torch.contiguous_format, 4: torch.channels_last, 5: torch.channels_last_3d}


class Case:
    """A norm, and the shape of one sample behind the channels."""

    def __init__(self, make: Callable[[], nn.Module], *space: int, contiguous: bool = False, empty: bool = False):
        self.make, self.space, self.empty = make, space, empty
        self.layout = torch.contiguous_format if contiguous or len(space) == 1 else FORMATS[2 + len(space)]

    def shares(self, processes: int) -> tuple[int, ...]:
        return (*SHARES[processes][:-1], 0) if self.empty else SHARES[processes]

    def batches(self, processes: int) -> list[tuple[Tensor, Tensor]]:
        """Two whole batches, far from zero mean, and the gradients that arrive at the norm's output."""
        torch.manual_seed(7)
        shape = (sum(self.shares(processes)), C, *self.space)
        return [
            ((torch.randn(shape) * 3 + 20).contiguous(memory_format=self.layout), torch.randn(shape)) for _ in range(2)
        ]

    def norm(self) -> nn.Module:
        torch.manual_seed(11)
        norm = self.make()
        if norm.weight is not None:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        return norm


CASES = {
    "1d": Case(lambda: nn.BatchNorm1d(C)),
    "1d of sequences": Case(lambda: nn.BatchNorm1d(C), 5),
    "2d": Case(lambda: nn.BatchNorm2d(C), 4, 3, contiguous=True),
    "2d channels last": Case(lambda: nn.BatchNorm2d(C), 4, 3),
    "3d": Case(lambda: nn.BatchNorm3d(C), 2, 4, 3, contiguous=True),
    "3d channels last": Case(lambda: nn.BatchNorm3d(C), 2, 4, 3),
    "cumulative average": Case(lambda: nn.BatchNorm2d(C, momentum=None), 4, 3),
    "without running statistics": Case(lambda: nn.BatchNorm2d(C, track_running_stats=False), 4, 3),
    "without weights": Case(lambda: nn.BatchNorm3d(C, affine=False), 2, 4, 3),
    "a process without samples": Case(lambda: nn.BatchNorm2d(C), 4, 3, empty=True),
    "timm norm and activation": Case(lambda: BatchNormAct2d(C, act_layer=nn.PReLU), 4, 3),
}


def _steps(norm: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """What two training steps through a norm give."""
    outputs, gradients = [], []
    for x, arriving in batches:
        x = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = norm(x)
        y.backward(arriving)
        outputs.append(y.detach())
        gradients.append(x.grad)
    return {
        "outputs": outputs,
        "gradients": gradients,
        "parameters": {name: p.grad for name, p in norm.named_parameters()},
        "state": {name: value.clone() for name, value in norm.state_dict().items()},
        "eval output": norm.eval()(batches[0][0]).detach(),
    }


def _network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, C, 3),
        nn.BatchNorm2d(C),
        nn.ReLU(inplace=True),
        nn.Conv2d(C, C, 3, bias=False),
        BatchNormAct2d(C),
        nn.Flatten(),
        nn.Linear(C * 16, 4),
    ).to(memory_format=torch.channels_last)


def _train(network: nn.Module, own: slice, total: int, scale: int) -> None:
    """Two steps on a share of the batch; `scale` undoes DDP's mean over the processes."""
    torch.manual_seed(5)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        images, labels = torch.randn(total, 3, 8, 8), torch.randint(4, (total,))
        loss = functional.cross_entropy(network(images[own]), labels[own], reduction="sum") / total
        optimiser.zero_grad()
        (scale * loss).backward()
        optimiser.step()


def _process(rank: int, processes: int, folder: Path) -> None:
    """One of the processes: every case, DDP, and eval mode in process 0 alone; results go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=processes)
    results: dict[str, Any] = {}
    for name, case in CASES.items():
        shares = case.shares(processes)
        own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
        batches = [(x[own].contiguous(memory_format=case.layout), g[own]) for x, g in case.batches(processes)]
        results[name] = _steps(convert(case.norm(), CPU), batches)
    shares = SHARES[processes]
    own, total = slice(sum(shares[:rank]), sum(shares[: rank + 1])), sum(shares)

    network = convert(_network(), CPU)
    # Buckets of one parameter each: their reductions start all through the backward, among the norms' own.
    wrapped = DistributedDataParallel(network, bucket_cap_mb=1e-6, broadcast_buffers=False)
    _train(wrapped, own, total, processes)
    results["ddp"] = network.state_dict()

    narrow = convert(nn.BatchNorm2d(C), CPU)(CASES["2d"].batches(processes)[0][0][own].bfloat16())
    results["bfloat16"] = narrow.detach()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        convert(nn.BatchNorm1d(C), CPU)(torch.zeros(int(rank == 0), C))
    results["kinds on cuda"] = [type(m).__name__ for m in convert(_network(), torch.device("cuda"))]
    # The last of all: the other processes are gone where process 0 would ask them.
    if rank == 0:
        network = copy.deepcopy(network)
        results["eval"] = network.eval()(IMAGES).detach()
        network.train()
        for norm in (network[1], network[4]):
            norm.eval()
        results["frozen"] = network(IMAGES).detach()
        network(IMAGES).sum().backward()
    torch.save(results, folder / f"{rank}.pt")
    os._exit(0)  # What is left of gloo's threads may abort a process that ends in Python's own way.


@pytest.fixture(scope="module", params=[2, 3], ids=["2 processes", "3 processes"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the processes found."""
    folder = tmp_path_factory.mktemp("processes")
    run_in_processes(_process, (request.param, folder), request.param)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("name", CASES)
def test_processes_with_parts_of_a_batch_normalise_as_one_with_all_of_it(
    name: str, results: list[dict[str, Any]]
) -> None:
    whole = _steps(CASES[name].norm(), CASES[name].batches(len(results)))
    found = [result[name] for result in results]

    for key in ("outputs", "gradients"):
        for step in range(2):
            torch.testing.assert_close(torch.cat([own[key][step] for own in found]), whole[key][step], **TOLERANCE)
    assert found[0]["parameters"].keys() == whole["parameters"].keys()
    for key, gradient in whole["parameters"].items():
        torch.testing.assert_close(sum(own["parameters"][key] for own in found), gradient, **TOLERANCE)
    for own in found:
        assert list(own["state"]) == list(whole["state"])
        torch.testing.assert_close(own["state"], whole["state"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if name != "without running statistics"])
def test_eval_mode_is_plain_batch_norm(name: str, results: list[dict[str, Any]]) -> None:
    whole = _steps(CASES[name].norm(), CASES[name].batches(len(results)))["eval output"]
    torch.testing.assert_close(torch.cat([own[name]["eval output"] for own in results]), whole, **TOLERANCE)


@pytest.mark.parametrize("name", ["2d channels last", "3d channels last", "timm norm and activation"])
def test_channels_last_input_gives_channels_last_output_and_gradient(name: str, results: list[dict[str, Any]]) -> None:
    for result in results:
        for tensor in (*result[name]["outputs"], *result[name]["gradients"]):
            assert tensor.is_contiguous(memory_format=CASES[name].layout)


def test_ddp_trains_to_the_weights_of_one_process(results: list[dict[str, Any]]) -> None:
    network = _network()
    before = copy.deepcopy(network.state_dict())
    total = sum(SHARES[len(results)])
    _train(network, slice(total), total, 1)

    assert not torch.allclose(before["0.weight"], network.state_dict()["0.weight"], atol=1e-3)
    for result in results:
        assert list(result["ddp"]) == list(before)
        torch.testing.assert_close(dict(result["ddp"]), dict(network.state_dict()), **TOLERANCE)


def test_eval_mode_and_frozen_norms_need_no_other_process(results: list[dict[str, Any]]) -> None:
    plain = _network()
    plain.load_state_dict(results[0]["ddp"])
    plain.eval()
    for key in ("eval", "frozen"):
        torch.testing.assert_close(results[0][key], plain(IMAGES), **TOLERANCE)


def test_narrow_input_keeps_its_dtype_and_is_measured_in_float32(results: list[dict[str, Any]]) -> None:
    x = CASES["2d"].batches(len(results))[0][0].bfloat16()
    joined = torch.cat([result["bfloat16"] for result in results])
    assert joined.dtype == torch.bfloat16
    torch.testing.assert_close(joined, nn.BatchNorm2d(C)(x), rtol=1e-2, atol=1e-2)


def test_accelerators_get_torchs_and_timms_own(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["kinds on cuda"][1] == "SyncBatchNorm"
        assert result["kinds on cuda"][4] == "SyncBatchNormAct"


def test_one_process_keeps_its_network() -> None:
    network = _network()
    assert convert(network, CPU) is network
    assert not any(isinstance(module, GlobalBatchNorm) for module in network.modules())


def test_a_batch_norm_with_a_forward_of_its_own_is_refused_by_name() -> None:
    class Doubled(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    network = nn.Sequential(nn.Conv2d(3, C, 1), Doubled(C))
    with pytest.raises(EcstflError, match="1: Doubled") as refusal:
        convert(network, CPU)
    assert "train.sync_batchnorm" in refusal.value.hint
