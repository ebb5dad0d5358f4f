"""`timm/NAME`: every image classifier of timm."""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from ecstfl_cli.api import Modality
from ecstfl_cli.components.backbones.linear_head import LinearHead
from ecstfl_cli.errors import RegistryError, suggest


class TimmBackbone(LinearHead):
    """A timm classifier, its trunk under `net.` and its classifier under `head.`."""

    modality: Modality = "img"

    def __init__(self, net: Any, num_classes: int) -> None:
        super().__init__()
        classifier = net.get_classifier()
        if not isinstance(classifier, nn.Linear):
            raise RegistryError(
                f"timm/{net.default_cfg.get('architecture')} ends in {type(classifier).__name__}, not a linear layer",
                "Choose another timm model.",
            )
        self.head_key = next(key for key, module in net.named_modules() if module is classifier)
        self.num_features = classifier.in_features
        net.reset_classifier(0)
        self.net = net
        self.head = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features (B, D) after timm's own pooling and pre-logits layers."""
        return self.net.forward_head(self.net.forward_features(x), pre_logits=True)

    def adapt_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """timm's key names (`conv1.weight`, `fc.weight`) as this module's (`net.conv1.weight`, `head.weight`)."""
        head = {f"{self.head_key}.{leaf}": f"head.{leaf}" for leaf in ("weight", "bias")}
        return {head.get(key, f"net.{key}"): tensor for key, tensor in state.items()}


def build(name: str, num_classes: int, *, pretrained: bool = False, **args: Any) -> TimmBackbone:
    """`timm/<name>`; `args` go to `timm.create_model`, `pretrained` asks timm to download its weights.

    Raises RegistryError for a name that timm does not have.
    """
    if not timm.is_model(name.partition(".")[0]):
        raise RegistryError(
            f"timm/{name} is not a timm model",
            f"{suggest(name, timm.list_models())}`python -c 'import timm; print(timm.list_models())'` lists them.",
        )
    return TimmBackbone(timm.create_model(name, pretrained=pretrained, **args), num_classes)
