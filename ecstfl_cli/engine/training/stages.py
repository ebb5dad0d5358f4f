"""A network's parameters in stages from its input to its head: what is frozen, and how fast each stage learns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ecstfl_cli.components.backbones.temporal import TemporalModel
from ecstfl_cli.errors import RecipeError, suggest

HEAD = "head"
# A network in fewer parts than this is looked into further: its blocks lie in one container.
_ENOUGH = 4
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def stages(network: nn.Module) -> list[list[str]]:
    """Parameter names in groups, from the input to the classifier; every parameter is in exactly one.

    The last stage is the classifier, `head`. A timm network has timm's own stages (`group_matcher`, coarse), others
    those of their module tree: the stem and `layer1` to `layer4` of a residual network, the blocks of a transformer,
    the members of `features`. What has no weights of its own, such as a norm, belongs to the stage before it. A
    temporal head is one stage, after those of its image backbone.
    """
    parts = (
        [("backbone", network.backbone, True), ("temporal", network.temporal, False)]
        if isinstance(network, TemporalModel)
        else [("", network, True)]
    )
    found = [
        unit
        for name, module, divide in parts
        for unit in (_divided(_unit(name, module)) if divide else [_unit(name, module)])
    ]
    names = [name for name, _ in network.named_parameters()]
    head = _matching(HEAD, names)
    # Of a parameter that two modules share, only the first name counts.
    left = set(names) - set(head)
    trunk = [[name for name in unit if name in left] for unit in _joined(found)]
    return [stage for stage in (*trunk, head) if stage]


def freeze(network: nn.Module, frozen: int | Sequence[str]) -> list[str]:
    """Stop the training of the first `frozen` stages, or of the parameters with these name prefixes.

    A prefix ends where a name has a dot: `net.layer1` is not `net.layer10`. Returns the names of what is frozen. Raises
    RecipeError for a prefix that no parameter has, and where nothing would be left to train.
    """
    groups = stages(network)
    names = [name for group in groups for name in group]
    if isinstance(frozen, int):
        asked = f"the first {frozen} stages"
        chosen = [name for group in groups[:frozen] for name in group]
    else:
        asked = ", ".join(frozen)
        check_prefixes("model.freeze", frozen, network)
        matched = {name for prefix in frozen for name in _matching(prefix, names)}
        chosen = [name for name in names if name in matched]
    parameters = dict(network.named_parameters())
    if not any(parameter.requires_grad for name, parameter in parameters.items() if name not in set(chosen)):
        raise RecipeError(
            f"model.freeze: with {asked} frozen, nothing is left to train",
            f"Leave at least one of the {len(groups)} stages: {_overview(groups)}",
        )
    for name in chosen:
        parameters[name].requires_grad_(False)
    return chosen


def hold_frozen_norms(network: nn.Module) -> None:
    """Keep the running statistics of frozen batch norms as they are; call it after each `network.train()`.

    A batch norm is frozen where it has parameters and none of them is trained.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()


def learning_rate_scales(network: nn.Module, layer_decay: float, factors: Mapping[str, float]) -> dict[str, float]:
    """By parameter name, the multiple of the base learning rate that it is trained with.

    It is `layer_decay` to the power of the distance from the head in stages (Bao et al. 2022, BEiT), times the factor
    of the longest of the prefixes that the name has.
    Raises RecipeError for a prefix that no parameter has.
    """
    check_prefixes("optimizer.lr_factors", factors, network)
    groups = stages(network)
    scales = {name: layer_decay ** (len(groups) - 1 - i) for i, group in enumerate(groups) for name in group}
    # The longest prefix comes last and has the last word.
    chosen: dict[str, float] = {}
    for prefix in sorted(factors, key=len):
        chosen |= dict.fromkeys(_matching(prefix, scales), factors[prefix])
    return {name: scale * chosen.get(name, 1.0) for name, scale in scales.items()}


def check_prefixes(key: str, prefixes: Iterable[str], network: nn.Module) -> None:
    """Raises RecipeError, naming the recipe's `key`, for those of the prefixes that no parameter's name has."""
    names = [name for name, _ in network.named_parameters()]
    unknown = [prefix for prefix in prefixes if not _matching(prefix, names)]
    if unknown:
        modules = {name.rsplit(".", depth)[0] for name in names for depth in range(name.count(".") + 1)}
        raise RecipeError(
            f"{key}: no parameter's name starts with " + " or ".join(repr(prefix) for prefix in unknown),
            "".join(suggest(prefix, sorted(modules)) for prefix in unknown)
            + f"The stages, from the input to the head: {_overview(stages(network))}",
        )


def _matching(prefix: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name == prefix or name.startswith(f"{prefix}.")]


def _overview(groups: Sequence[Sequence[str]]) -> str:
    """For each stage, the shortest prefix that its first parameter has and no other stage."""
    shown = []
    for group in groups:
        others = [name for other in groups if other is not group for name in other]
        prefix, shorter = group[0], group[0].rpartition(".")[0]
        while shorter and not _matching(shorter, others):
            prefix, shorter = shorter, shorter.rpartition(".")[0]
        shown.append(prefix)
    return ", ".join(shown)


@dataclass(frozen=True)
class _Unit:
    """Parameters that stay together. `layers` is how many weights it has; `module` is what it could be divided into."""

    names: list[str]
    layers: int
    name: str = ""
    module: nn.Module | None = None


def _unit(name: str, module: nn.Module) -> _Unit:
    found = dict(module.named_parameters(prefix=name))
    return _Unit(list(found), sum(parameter.ndim > 1 for parameter in found.values()), name, module)


def _divided(unit: _Unit) -> list[_Unit]:
    """The parts of a network: its largest part is divided until there are enough, or until it is a block."""
    units = [unit]
    while sum(unit.layers > 0 for unit in units) < _ENOUGH:
        largest = max(range(len(units)), key=lambda i: units[i].layers)
        is_all = units[largest].layers == sum(unit.layers for unit in units)
        module = units[largest].module
        if module is None or not (is_all or _holds_blocks(module)) or not any(module.children()):
            break
        units[largest : largest + 1] = _children(units[largest].name, module)
    return units


def _holds_blocks(module: nn.Module) -> bool:
    """Whether a module is a container, or mainly of containers: a block has most of its layers outside of such."""
    if isinstance(module, _CONTAINERS) or callable(getattr(module, "group_matcher", None)):
        return True
    inside = sum(_unit("", child).layers for child in module.children() if isinstance(child, _CONTAINERS))
    return inside > _unit("", module).layers / 2


def _children(name: str, module: nn.Module) -> list[_Unit]:
    prefix = f"{name}." if name else ""
    if callable(matcher := getattr(module, "group_matcher", None)):
        from timm.models import group_parameters

        parameters = dict(module.named_parameters())
        groups = group_parameters(module, matcher(coarse=True)).values()
        return [_Unit([prefix + n for n in group], sum(parameters[n].ndim > 1 for n in group)) for group in groups]
    # Positions, class tokens: no layer, whatever their shape.
    own = [prefix + key for key, _ in module.named_parameters(recurse=False)]
    children = [_unit(prefix + key, child) for key, child in module.named_children() if prefix + key != HEAD]
    return [unit for unit in (_Unit(own, 0), *children) if unit.names]


def _joined(units: Sequence[_Unit]) -> list[list[str]]:
    """The names of the units; one without layers joins the one before it, or, at the input, the one after it."""
    groups: list[list[str]] = []
    layers = 0
    for unit in units:
        if groups and (unit.layers == 0 or layers == 0):
            groups[-1].extend(unit.names)
            layers += unit.layers
        else:
            groups.append(list(unit.names))
            layers = unit.layers
    return groups
