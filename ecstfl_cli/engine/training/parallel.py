"""One network in several processes: DistributedDataParallel or FSDP, and state that neither shows in.

States are those of one process: full tensors, so that a run continues on any number of processes.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ecstfl_cli.engine.training.distributed import Processes
from ecstfl_cli.errors import EcstflError

# Parameters; smaller blocks are sharded with what is around them.
_WORTH_SHARDING = 100_000
# 2.7 and 2.8 add gradients up where they should average them; 2.6 does not run.
FSDP_ON_CPU = (2, 9)


def in_parallel(model: nn.Module, mode: str, processes: Processes, *, same_buffers: bool) -> nn.Module:
    """The model for `ddp` or `fsdp`; as it is in one process. `same_buffers`: they are equal in each by themselves."""
    if processes.count == 1:
        return model
    if mode == "fsdp":
        return _sharded(model, processes)
    devices = [processes.device] if processes.device.type == "cuda" else None
    # torch renamed it, and warns about the old name.
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    sync: Any = {"forward_sync_buffers" if renamed else "broadcast_buffers": not same_buffers}
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True, **sync)


def _sharded(model: nn.Module, processes: Processes) -> nn.Module:
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if processes.device.type == "cpu" and version < FSDP_ON_CPU:
        raise EcstflError(
            f"parallel fsdp on CPUs needs torch 2.9 or newer: with {torch.__version__} its gradients are wrong",
            "Use parallel ddp, or update torch.",
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # Its advice is against changing the features in place, which nobody does.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    for block in list(_blocks(model)):
        fully_shard(block, mesh=mesh)
    # Without resharding, parameters and state would be plain tensors after an evaluation.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    return model


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost members of Sequential and ModuleList that are worth it: the parts that networks call whole."""
    for child in module.children():
        in_row = isinstance(module, (nn.Sequential, nn.ModuleList)) and not isinstance(
            child, (nn.Sequential, nn.ModuleList)
        )
        if in_row and sum(p.numel() for p in child.parameters()) >= _WORTH_SHARDING:
            yield child
        else:
            yield from _blocks(child)


@contextmanager
def gradients_summed(module: nn.Module, last: bool) -> Iterator[None]:
    """Within it, backward passes exchange gradients only where `last`: the others of one update add theirs up first."""
    quiet: AbstractContextManager = nullcontext()
    if isinstance(module, DistributedDataParallel) and not last:
        quiet = module.no_sync()
    elif hasattr(module, "set_requires_gradient_sync"):
        module.set_requires_gradient_sync(last)  # type: ignore[operator]
    with quiet:
        yield


def is_sharded(tensor: object) -> bool:
    """Whether a tensor is a DTensor, whose values lie in several processes."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def full(value: Any) -> Any:
    """A state with every tensor whole. Where tensors are sharded, every process must call it."""
    if is_sharded(value):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: full(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(full(item) for item in value)
    return value


def load_network(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Load whole tensors into a network, sharded or not. Raises RuntimeError where names or shapes differ."""
    own = network.state_dict()
    if any(is_sharded(tensor) for tensor in own.values()):
        state = {name: like(tensor, own[name]) if name in own else tensor for name, tensor in state.items()}
    network.load_state_dict(state)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the whole state of an optimiser whose parameters may be sharded."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = {
        index: {
            key: like(value, parameters[index])
            if isinstance(value, Tensor) and value.shape == parameters[index].shape
            else value
            for key, value in slots.items()
        }
        for index, slots in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": kept})


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, laid out over the processes as `other` is."""
    if not is_sharded(other):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """The values of a tensor that lie in this process, sharing its memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
