"""Clips per second of inference on frame folders, from files to probabilities, beside a plain loop.

    python benchmarks/inference.py                      clips of its own making
    python benchmarks/inference.py PATHFILE [SAMPLES]   those of a .txt path file

The loader and the model as `ecstfl infer` runs them, and a plain loop: PIL and float32 in as many workers of torch's
DataLoader, contiguous memory. With motion_grid_cnn (8 frames at 64 px) it is decoding that takes the time, with r3d_18
(16 frames at 112 px) arithmetic. They take turns over the same clips, each in a process of its own.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from _timing import Running, machine, take_turns, timed
from loader import PlainDataset, make_clips, read_list
from torch import Tensor
from torch.utils.data import DataLoader

from ecstfl_cli.api import FrameSampling, InputSpec, ModelSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.engine.data.loader import EvaluationOrder, evaluation_loader, shut_down
from ecstfl_cli.engine.data.samples import Sample
from ecstfl_cli.engine.evaluate import predict
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.runtime import loader_workers
from ecstfl_cli.engine.weights.checkpoint import save_checkpoint
from ecstfl_cli.engine.weights.model_source import open_model
from ecstfl_cli.labels import label_map_from

ROUNDS = 3
BATCH = 16
# Backbone, input, and how often the clips are gone through in a turn.
CASES = (
    ("motion_grid_cnn", InputSpec("video", size=64, sampling=FrameSampling("uniform", frames=8)), 10),
    ("torchvision/r3d_18", InputSpec("video"), 1),
)
WORKERS = loader_workers("auto", torch.device("cpu"))


def engine(checkpoint: Path, samples: Sequence[Sample]) -> Running:
    """Seconds, and the probabilities, as inference has them."""
    reporter = Reporter()
    model = open_model(checkpoint, device="cpu", reporter=reporter)

    def run() -> Tensor:
        loader = evaluation_loader(samples, model.input, EvaluationOrder(len(samples), BATCH), WORKERS)
        try:
            return torch.from_numpy(predict(model.logits, loader, model.device, reporter, "", "clips").probs)
        finally:
            shut_down([loader])

    while True:
        yield timed(run)


def plain(backbone: str, spec: InputSpec, samples: Sequence[Sample]) -> Running:
    """The same of a plain loop."""
    network = network_of(backbone).eval()
    loader: DataLoader = DataLoader(PlainDataset(samples, spec, training=False), BATCH, num_workers=WORKERS)

    @torch.no_grad()
    def run() -> Tensor:
        return torch.cat([network(x.transpose(1, 2).contiguous()).softmax(dim=1) for x, _ in loader])

    while True:
        yield timed(run)


def network_of(backbone: str) -> torch.nn.Module:
    """The network with the weights that both have."""
    torch.manual_seed(0)
    return build_model(ModelSpec(backbone, 7), "video")


def main() -> None:
    """Print a table: clips per second of both, their ratio, their peak memory, and how far their results are apart."""
    labels = label_map_from("dfew")
    with tempfile.TemporaryDirectory() as scratch:
        if len(sys.argv) > 1:
            samples = read_list(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 48)[1]
        else:
            samples = make_clips(Path(scratch))
        print(f"{machine()}, {torch.get_num_threads()} threads and {WORKERS} workers, median of {ROUNDS} rounds")
        print(f"{'clips/s':20s} {'ecstfl':>8s} {'plain':>8s} {'ratio':>6s}   memory GB")
        for backbone, spec, times in CASES:
            file = Path(scratch) / "model.safetensors"
            save_checkpoint(file, network_of(backbone), model=ModelSpec(backbone, 7), input=spec, labels=labels)
            clips = list(samples) * times
            turns = take_turns(
                {"ours": partial(engine, file, clips), "plain": partial(plain, backbone, spec, clips)}, ROUNDS
            )
            ours, theirs = turns["ours"], turns["plain"]
            apart = (ours.values[-1] - theirs.values[-1]).abs().max().item()
            print(
                f"{backbone:20s} {len(clips) / ours.median:8.1f} {len(clips) / theirs.median:8.1f} "
                f"{ours.ratio(theirs):6.2f}   {ours.memory:.2f}, plain {theirs.memory:.2f}; "
                f"probabilities differ by {apart:.0e} at most"
            )


if __name__ == "__main__":
    main()
