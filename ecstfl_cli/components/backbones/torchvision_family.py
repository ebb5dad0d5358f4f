"""`torchvision/NAME`: every image and video classifier of torchvision that ends in one linear layer."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torchvision
from torch import Tensor, nn

from ecstfl_cli.api import Modality
from ecstfl_cli.components.backbones.linear_head import LinearHead
from ecstfl_cli.errors import RegistryError, suggest

# Their last convolution is followed by a ReLU, so features and classifier cannot be told apart.
_WITHOUT_LINEAR_HEAD = ("squeezenet",)
# Auxiliary classifiers are another training protocol; these networks are built without.
_WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")


class TorchvisionBackbone(LinearHead):
    """A torchvision classifier, its trunk under `net.` and its last layer under `head.`.

    `head_key` is that layer's name in torchvision, e.g. `fc`; `adapt_state_dict` translates plain key names.
    """

    def __init__(self, net: nn.Module, modality: Modality, num_classes: int) -> None:
        super().__init__()
        self.modality: Modality = modality
        self.head_key, last = _last_layer(net)
        self.num_features = int(last.weight.shape[1])
        net.set_submodule(self.head_key, nn.Identity())
        self.net = net
        # s3d ends in a 1x1x1 convolution before the mean over space and time: the same linear map after the mean.
        self.head = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features (B, D): what the network's own last layer would see, pooled over space and time."""
        return self.net(x).flatten(1)

    def adapt_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """torchvision's keys (`conv1.weight`, `fc.weight`) as this module's (`net.conv1.weight`, `head.weight`)."""
        adapted = {}
        for key, tensor in state.items():
            if key in (f"{self.head_key}.weight", f"{self.head_key}.bias"):
                leaf = key.rpartition(".")[2]
                adapted[f"head.{leaf}"] = tensor.flatten(1) if leaf == "weight" else tensor
            else:
                adapted[f"net.{key}"] = tensor
        return adapted


def build(name: str, num_classes: int, *, pretrained: bool = False, **args: Any) -> TorchvisionBackbone:
    """`torchvision/<name>`; `args` go to torchvision's builder, `pretrained` takes its default weights.

    Raises RegistryError for a name that torchvision does not have, or whose head cannot be replaced.
    """
    if name not in names():
        known = name.startswith(_WITHOUT_LINEAR_HEAD)
        raise RegistryError(
            f"torchvision/{name} " + ("has no linear classifier" if known else "is not a torchvision classifier"),
            f"{suggest(name, names())}Available: {', '.join(names())}",
        )
    modality: Modality = "video" if name in _video_names() else "img"
    if name in _WITH_AUXILIARY_HEADS:
        args = {"init_weights": False, "aux_logits": pretrained, **args}
    net = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None, **args)
    if name in _WITH_AUXILIARY_HEADS:
        net.aux_logits = False
        for auxiliary in ("aux1", "aux2", "AuxLogits"):
            if hasattr(net, auxiliary):
                setattr(net, auxiliary, None)
    return TorchvisionBackbone(net, modality, num_classes)


@lru_cache
def names() -> list[str]:
    """The members of the family."""
    known = [*torchvision.models.list_models(module=torchvision.models), *_video_names()]
    return [n for n in known if not n.startswith(_WITHOUT_LINEAR_HEAD)]


@lru_cache
def _video_names() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models.video)


def _last_layer(net: nn.Module) -> tuple[str, nn.Linear | nn.Conv3d]:
    layers = [
        (key, module)
        for key, module in net.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv3d)) and not key.startswith(("aux", "AuxLogits"))
    ]
    return layers[-1]
