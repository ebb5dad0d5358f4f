"""Start-up time of the command line beside `import torch`: whole processes that take turns.

    python benchmarks/startup.py [ROUNDS]

`infer` predicts one image or one clip with a small untrained checkpoint, from the command to the printed result. What
torchvision and timm take to be imported is the least that `infer` takes with one of their networks.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from _timing import machine, timed
from loader import make_clips

from ecstfl_cli.api import FrameSampling, InputSpec, ModelSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.engine.weights.checkpoint import save_checkpoint
from ecstfl_cli.labels import label_map_from


def commands(scratch: Path) -> dict[str, list[str]]:
    """What is run, by name: arguments of Python. Makes the checkpoints and the clip that they need."""
    (clip,) = make_clips(scratch, clips=1)
    labels = label_map_from("dfew")

    def infer(backbone: str) -> list[str]:
        video = backbone.startswith("motion")
        spec = InputSpec("video" if video else "img", size=64, sampling=FrameSampling("uniform", frames=8))
        model, file = ModelSpec(backbone, len(labels)), scratch / f"{backbone.replace('/', '_')}.safetensors"
        save_checkpoint(file, build_model(model, spec.modality), model=model, input=spec, labels=labels)
        source = clip.source if video else clip.source / "1.jpg"
        return ["-m", "ecstfl_cli", "infer", str(source), "--model", str(file), "--device", "cpu"]

    return {
        "python -c pass": ["-c", "pass"],
        "ecstfl --help": ["-m", "ecstfl_cli", "--help"],
        "ecstfl plugins": ["-m", "ecstfl_cli", "plugins"],
        "import torch": ["-c", "import torch"],
        "infer, grid_cnn": infer("grid_cnn"),
        "infer, motion_grid_cnn": infer("motion_grid_cnn"),
        "import torchvision": ["-c", "import torchvision"],
        "infer, torchvision/resnet18": infer("torchvision/resnet18"),
        "import timm": ["-c", "import timm"],
        "infer, timm/resnet18": infer("timm/resnet18"),
    }


def main() -> None:
    """Print a table: median seconds, and how much more than `import torch` it is."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as scratch:

        def seconds(arguments: list[str]) -> float:
            def run() -> None:
                subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=scratch)

            return timed(run)[0]

        lines = commands(Path(scratch))
        print(f"{machine()}, median of {rounds} rounds")
        # The first round fills the page cache.
        times = [{name: seconds(line) for name, line in lines.items()} for _ in range(rounds + 1)][1:]
    for name in lines:
        took = median(turn[name] for turn in times)
        beyond = median(turn[name] - turn["import torch"] for turn in times)
        print(f"{name:<28} {took:6.2f} s   {beyond:+6.2f} s beside import torch")


if __name__ == "__main__":
    main()
