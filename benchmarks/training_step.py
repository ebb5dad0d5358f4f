"""The r3d_18 training step on clips of 16x112x112: channels-last, as the engine lays it out, and contiguous.

python benchmarks/training_step.py [BATCH] [STEPS]
"""

from __future__ import annotations

import resource
import statistics
import sys
import time

import torch

from ecstfl_cli.api import InputSpec, LossContext, ModelSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.components.frame_model import FrameModel
from ecstfl_cli.engine.objective import Objective
from ecstfl_cli.engine.runtime import use_channels_last
from ecstfl_cli.recipe import LossSection


def steps(channels_last: bool, batch: int, count: int) -> tuple[list[float], list[float]]:
    """Seconds and losses of `count` SGD steps with EC-STFL at gamma 10, after one that is not counted."""
    torch.manual_seed(0)
    network = build_model(ModelSpec("torchvision/r3d_18", 7), "video")
    if channels_last:
        use_channels_last(network)
    model = FrameModel(network, InputSpec())
    if not channels_last:
        model.normalise.register_forward_hook(lambda _module, _inputs, output: output.contiguous())
    losses = {"cross_entropy": LossSection(), "ec_stfl": LossSection(weight=10.0)}
    objective = Objective(losses, LossContext(7, network.num_features))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    frames = torch.randint(0, 256, (batch, 16, 112, 112, 3), dtype=torch.uint8)
    target = torch.arange(batch) % 7
    seconds, values = [], []
    for _ in range(count + 1):
        started = time.perf_counter()
        logits, features = model(frames)
        loss, _ = objective(logits, features, target, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
        values.append(loss.item())
    return seconds[1:], values


def main() -> None:
    """Print the median step of both layouts, their ratio, and how far the losses are apart."""
    batch, count = ([int(word) for word in sys.argv[1:3]] + [8, 3][len(sys.argv) - 1 :])[:2]
    fast, fast_losses = steps(True, batch, count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    plain, plain_losses = steps(False, batch, count)
    a, b = statistics.median(fast), statistics.median(plain)
    apart = [abs(x - y) for x, y in zip(fast_losses, plain_losses, strict=True)]
    print(f"batch {batch}, {torch.get_num_threads()} threads, median of {count} steps")
    print(f"channels-last  {a:6.2f} s   {batch / a:5.2f} clips/s   peak memory {peak:.2f} GiB")
    print(f"contiguous     {b:6.2f} s   {batch / b:5.2f} clips/s")
    print(f"ratio {b / a:.2f}; losses differ by {apart[0]:.1e} at the first step, {apart[-1]:.1e} at step {count + 1}")


if __name__ == "__main__":
    main()
