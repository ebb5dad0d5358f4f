"""Batch norm over the global batch: N processes with parts of a batch normalise as one process with all of it.

torch's own SyncBatchNorm refuses tensors in CPU memory; `GlobalBatchNorm` serves these, over gloo. torch.compile leaves
it as it is: traced, every norm would be broken into pieces at its calls to the other processes and compiled anew.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ecstfl_cli.errors import EcstflError, listing


def convert(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with every batch norm over the batch of all processes; parameters, buffers and their names stay.

    Call it in every process, on the same network, before it is wrapped for distributed training. Norms in eval mode
    use their running statistics and do not communicate. With one process the network is returned as it is.
    Raises EcstflError for kinds of batch norm whose behaviour would be lost.
    """
    norms = {path: module for path, module in network.named_modules() if isinstance(module, _BatchNorm)}
    unknown = [f"{path or 'the network'}: {type(m).__name__}" for path, m in norms.items() if not _is_known(m)]
    if unknown:
        raise EcstflError(
            f"These batch norms cannot be computed over the batch of all processes:\n{listing(unknown)}",
            "torch's and timm's BatchNorm layers can. Set train.sync_batchnorm to false, or train with one process.",
        )
    if not norms or not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return network
    if device.type == "cpu":
        return _convert_for_cpu(network)
    # timm's converter knows its own layers besides torch's.
    timm_layers = sys.modules.get("timm.layers")
    converter = timm_layers.convert_sync_batchnorm if timm_layers else nn.SyncBatchNorm.convert_sync_batchnorm
    converted: nn.Module = converter(network)
    return converted


class GlobalBatchNorm(_BatchNorm):
    """Batch norm of input (B, C, ...) whose statistics in training mode are those of all processes' values.

    It equals BatchNorm1d, 2d or 3d on the concatenated batch, running statistics included; the processes may hold
    different B, 0 too. Its backward is that of the sum of the processes' losses, so every process must run backward
    through it. In eval mode, and without a process group, it is the plain batch norm of its own input.
    Raises ValueError where there is one value per channel in all, as torch does.
    """

    def __init__(self, norm: _BatchNorm, processes: _Processes) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, affine=False, track_running_stats=False)
        self.affine, self.track_running_stats = norm.affine, norm.track_running_stats
        # The very same tensors: an optimiser that was built before the conversion keeps working.
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.training = norm.training
        for name, child in norm.named_children():
            self.add_module(name, child)
        self.processes = processes

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        """Normalised x, of the same shape, dtype and memory format."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        self._check_input_dim(x)
        mean, variance, count = self.processes.statistics(x)
        self._track(mean, variance, count)
        normalised: Tensor = _Normalise.apply(
            x, self.weight, self.bias, mean, variance, count, self.eps, self.processes
        )
        return normalised

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {x.dim()}D input)")

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics as torch's batch norm does: the variance unbiased, `momentum` None cumulative."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - share).add_(mean, alpha=share)
        self.running_var.mul_(1 - share).add_(variance, alpha=share * count / (count - 1))


class GlobalBatchNormAct(GlobalBatchNorm):
    """timm's BatchNormAct2d over the global batch: its `drop` and its `act` follow."""

    drop: nn.Module
    act: nn.Module

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        """Normalised and activated x, of the same shape, dtype and memory format."""
        activated: Tensor = self.act(self.drop(super().forward(x)))
        return activated


class _Processes:
    """The processes that share a batch, in a group of their own.

    DDP reduces its gradient buckets when they happen to be full, and gloo matches the calls of a group by their
    order. In a group of their own the norms' calls can meet no others; they come in the order of the graph.
    """

    def __init__(self) -> None:
        # torch's own types disagree on what a group may be.
        self.group: Any = dist.new_group()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Processes:
        # A process group cannot be copied, and a copy of the network (EMA) belongs to the same processes.
        return self

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes, in float64 so that counts of values stay exact."""
        total = values.double()
        dist.all_reduce(total, group=self.group)
        return total

    @torch.no_grad()
    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor, int]:
        """Mean (C,) and biased variance (C,), float32 or wider, and the values per channel of all processes."""
        axes, dtype = _all_but_channels(x), torch.promote_types(x.dtype, torch.float32)
        own_count = x.new_full((1,), x.numel() // x.shape[1], dtype=torch.float64)
        totals = self.sum(torch.cat([x.sum(axes, dtype=dtype).double(), own_count]))
        count = int(totals[-1])
        if count <= 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
        mean = (totals[:-1] / count).to(dtype)
        # Deviations from the mean in a second pass: the mean of squares less the squared mean would cancel.
        squares = (x - _per_channel(mean, x)).square_().sum(axes)
        return mean, (self.sum(squares) / count).to(dtype), count


class _Normalise(torch.autograd.Function):
    """Scale and shift by given statistics; the backward knows that they depend on x in every process.

    Ioffe and Szegedy 2015, section 3, with the means of the gradient taken over all processes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: int,
        eps: float,
        processes: _Processes,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.count, ctx.processes = count, processes
        # FSDP's mixed precision hands over narrow parameters, which batch_norm refuses beside wide statistics.
        weight, bias = (None if p is None else p.to(mean.dtype) for p in (weight, bias))
        return functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_std = ctx.saved_tensors
        axes = _all_but_channels(x)
        deviation = x - _per_channel(mean, x)
        grad_sum = grad.sum(axes, dtype=mean.dtype)
        projection = (grad * deviation).sum(axes)
        grad_x = None
        if ctx.needs_input_grad[0]:
            means = (ctx.processes.sum(torch.stack([grad_sum, projection])) / ctx.count).to(mean.dtype)
            slope = inverse_std if weight is None else inverse_std * weight
            # In the memory of `deviation`, which has the layout of x.
            grad_x = deviation.mul_(_per_channel(-means[1] * inverse_std.square(), x)).add_(grad)
            grad_x = grad_x.sub_(_per_channel(means[0], x)).mul_(_per_channel(slope, x)).to(x.dtype)
        grad_weight = None if weight is None else (projection * inverse_std).to(weight.dtype)
        grad_bias = grad_sum.to(weight.dtype) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias, None, None, None, None, None


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """(C,) shaped to broadcast against x (B, C, ...)."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _is_batch_norm_act(module: nn.Module) -> bool:
    # Where timm was never imported no layer of it can occur, and importing it takes seconds.
    timm_layers = sys.modules.get("timm.layers")
    kind = timm_layers.BatchNormAct2d if timm_layers else None
    return kind is not None and isinstance(module, kind) and type(module).forward is kind.forward


def _is_known(module: nn.Module) -> bool:
    plain = (_BatchNorm.forward, nn.SyncBatchNorm.forward, GlobalBatchNorm.forward, GlobalBatchNormAct.forward)
    return type(module).forward in plain or _is_batch_norm_act(module)


def _convert_for_cpu(network: nn.Module) -> nn.Module:
    processes = _Processes()
    converted: dict[nn.Module, nn.Module] = {}
    # A norm that is used in several places stays one module.
    for path, module in list(network.named_modules(remove_duplicate=False)):
        if not isinstance(module, _BatchNorm) or isinstance(module, GlobalBatchNorm):
            continue
        kind = GlobalBatchNormAct if _is_batch_norm_act(module) else GlobalBatchNorm
        if module not in converted:
            converted[module] = kind(module, processes)
        if not path:
            return converted[module]
        network.set_submodule(path, converted[module])
    return network
