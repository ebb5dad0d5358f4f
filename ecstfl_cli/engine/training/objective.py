"""The objective: a weighted sum of losses."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ecstfl_cli import registry
from ecstfl_cli.api import Batch, LossContext
from ecstfl_cli.components.mixing import Mix
from ecstfl_cli.errors import EcstflError, RecipeError
from ecstfl_cli.recipe import LossSection


class Objective(nn.Module):
    """Weighted sum of the recipe's losses; a term of weight 0 is left out, so that gamma = 0 is plain cross-entropy."""

    def __init__(self, losses: Mapping[str, LossSection], context: LossContext) -> None:
        super().__init__()
        self.weights = {name: term.weight for name, term in losses.items() if term.weight > 0}
        self.names = {name: name.replace(":", "_").replace(".", "_") for name in self.weights}
        self.terms = nn.ModuleDict(
            {self.names[name]: _build(name, losses[name].args, context) for name in self.weights}
        )

    @property
    def pairwise(self) -> list[str]:
        """The terms that compare samples of a batch with each other."""
        return [name for name in self.weights if getattr(self._term(name), "pairwise", False)]

    @property
    def soft(self) -> list[str]:
        """The terms that use soft targets where a batch has them."""
        return [name for name in self.weights if getattr(self._term(name), "takes_soft_targets", False)]

    def forward(
        self, logits: Tensor, features: Tensor, target: Tensor, batch: Batch, mix: Mix | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise, and the value of each term before its weight (detached).

        In a mixed batch a term is the mean of its values for both labels, by their shares; pairwise terms are left out,
        because a mixed face has no class that it could be near to.
        """
        skipped = self.pairwise if mix else ()
        values = {
            name: self._value(name, logits, features, target, batch, mix)
            for name in self.weights
            if name not in skipped
        }
        total = sum(self.weights[name] * value for name, value in values.items())
        assert isinstance(total, Tensor)
        return total, {name: value.detach() for name, value in values.items()}

    def _term(self, name: str) -> nn.Module:
        return self.terms[self.names[name]]

    def _value(
        self, name: str, logits: Tensor, features: Tensor, target: Tensor, batch: Batch, mix: Mix | None
    ) -> Tensor:
        own = self._term(name)(logits, features, target, batch)
        if not isinstance(own, Tensor) or own.dim():
            shape = f"tensor {tuple(own.shape)}" if isinstance(own, Tensor) else type(own).__name__
            raise EcstflError(
                f"the loss {name} returned a {shape}",
                "A loss returns the scalar to minimise, a tensor: reduce it, e.g. by .mean(). See docs/plugins.md.",
            )
        # It may well say 0 of a batch without pairs, and features of a frozen network need no gradient.
        if logits.requires_grad and features.requires_grad and not own.requires_grad and own:
            raise EcstflError(
                f"the loss {name} returned a tensor without a gradient, which trains nothing",
                "Compute it from `logits` or `features`, without .detach(), .item() or torch.no_grad().",
            )
        if mix is None:
            return own
        order = mix.partner.to(target.device)
        if batch.soft_target is not None:
            batch = replace(batch, soft_target=batch.soft_target[order])
        return mix.share * own + (1 - mix.share) * self._term(name)(logits, features, target[order], batch)


def _build(name: str, args: Mapping[str, Any], context: LossContext) -> Any:
    factory = registry.load("losses", name)
    try:
        inspect.signature(factory).bind(context, **args)
    except TypeError as error:
        own = list(inspect.signature(factory).parameters)[1:]
        takes = f"It takes: {', '.join(own)}." if own else "It takes none."
        raise RecipeError(f"losses.{name}.args: {error}", takes) from error
    return factory(context, **args)
