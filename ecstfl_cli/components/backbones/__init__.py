"""Networks: backbones split at their classifier, and temporal heads that let image backbones serve clips."""

from __future__ import annotations

from typing import Any

from ecstfl_cli import registry
from ecstfl_cli.api import Modality, ModelSpec
from ecstfl_cli.errors import EcstflError, RegistryError


def build_model(spec: ModelSpec, modality: Modality) -> Any:
    """The network of a ModelSpec for stills (`img`) or clips (`video`), with fresh weights.

    Raises RegistryError where the backbone is unknown, refuses its arguments, or does not fit the modality.
    """
    backbone = _construct(spec)
    if spec.temporal_head:
        from ecstfl_cli.components.backbones.temporal import TemporalModel

        if backbone.modality != "img":
            raise RegistryError(
                f"backbone {spec.backbone!r} sees whole clips; a temporal head is for image backbones",
                "Leave model.temporal_head out.",
            )
        return TemporalModel(backbone, spec.num_classes, spec.temporal_head, **spec.temporal_args)
    if backbone.modality != modality:
        raise RegistryError(
            f"backbone {spec.backbone!r} takes {_INPUT[backbone.modality]}, the input is {_INPUT[modality]}",
            "Set model.temporal_head to mean, lstm, gru or transformer to use an image backbone on clips."
            if modality == "video"
            else "Choose an image backbone, e.g. torchvision/resnet18 or timm/convnext_tiny.",
        )
    return backbone


_CONTRACT = ("modality", "num_features", "forward_features", "forward_head", "reset_classifier")
_INPUT = {"img": "stills", "video": "clips"}


def _construct(spec: ModelSpec) -> Any:
    factory = registry.load("backbones", spec.backbone)
    try:
        backbone = factory(spec.num_classes, **spec.args)
        if missing := [name for name in _CONTRACT if not hasattr(backbone, name)]:
            raise RegistryError(
                f"backbone {spec.backbone!r} has no {' and no '.join(missing)}",
                "ecstfl_cli.api.Backbone says what a backbone has; see docs/plugins.md.",
            )
        if backbone.modality not in _INPUT:
            raise RegistryError(
                f"backbone {spec.backbone!r} has the modality {backbone.modality!r}",
                f"It is one of {', '.join(_INPUT)}; see docs/plugins.md.",
            )
        return backbone
    except EcstflError:
        raise
    except TypeError as error:
        raise RegistryError(
            f"backbone {spec.backbone!r} does not take its arguments {dict(spec.args)}: {error}", "See model.args."
        ) from error
