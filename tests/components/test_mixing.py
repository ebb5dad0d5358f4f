"""Mixup and CutMix: what becomes of pixels and labels, and of losses that compare samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from ecstfl_cli.api import Batch, LossContext
from ecstfl_cli.components.mixing import Mix, Mixing
from ecstfl_cli.engine.training.objective import Objective
from ecstfl_cli.recipe import LossSection

SIZE = 16


def frames(*shape: int) -> torch.Tensor:
    """Random uint8 frames (*shape, SIZE, SIZE, 3)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (*shape, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)


def draws(mixing: Mixing, count: int = 300, batch: int = 8) -> list[Mix | None]:
    return [mixing.draw(batch, SIZE, np.random.default_rng((0, i))) for i in range(count)]


def mixes(mixing: Mixing, count: int = 300) -> list[Mix]:
    return [mix for mix in draws(mixing, count) if mix is not None]


def area(mix: Mix) -> int:
    assert mix.box is not None
    top, left, bottom, right = mix.box
    return (bottom - top) * (right - left)


@pytest.mark.parametrize("shape", [(4,), (4, 3)], ids=["stills", "clips"])
def test_mixup_is_the_weighted_mean_of_two_samples(shape: tuple[int, ...]) -> None:
    own = frames(*shape)
    partner = torch.tensor([2, 0, 1, 3])
    mixed = Mix(partner, 0.25).frames(own, own[partner])
    torch.testing.assert_close(mixed, 0.25 * own.float() + 0.75 * own[partner].float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(4,), (4, 3)], ids=["stills", "clips"])
def test_cutmix_takes_one_box_from_the_partner_the_same_in_every_frame(shape: tuple[int, ...]) -> None:
    own, partner = frames(*shape), torch.tensor([1, 2, 3, 0])
    before = own.clone()
    mixed = Mix(partner, 0.5, (2, 3, 6, 9)).frames(own, own[partner])
    inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    inside[2:6, 3:9] = True
    assert mixed.dtype == torch.uint8
    assert torch.equal(mixed[..., inside, :], own[partner][..., inside, :])
    assert torch.equal(mixed[..., ~inside, :], own[..., ~inside, :])
    assert torch.equal(own, before), "the batch itself is left as it was"


def test_the_share_of_a_box_that_reaches_beyond_the_picture_is_that_of_what_is_inside() -> None:
    found = mixes(Mixing(cutmix=1.0))
    for mix in found:
        assert mix.box is not None
        top, left, bottom, right = mix.box
        assert 0 <= top <= bottom <= SIZE
        assert 0 <= left <= right <= SIZE
        assert mix.share == pytest.approx(1 - area(mix) / SIZE**2)
        changed = mix.frames(torch.zeros(1, SIZE, SIZE, 3), torch.ones(1, SIZE, SIZE, 3)).mean()
        assert 1 - mix.share == pytest.approx(float(changed), abs=1e-6)
    uncut = [mix for mix in found if mix.box and (mix.box[2] - mix.box[0]) == (mix.box[3] - mix.box[1])]
    assert 0 < len(uncut) < len(found), "some boxes are cut at an edge, some are not"


def test_shares_come_from_a_beta_distribution() -> None:
    shares = np.array([mix.share for mix in mixes(Mixing(mixup=0.2), 2000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(0.25 / (2 * 0.2 + 1), abs=0.02)
    assert np.var([mix.share for mix in mixes(Mixing(mixup=8.0), 2000)]) == pytest.approx(0.25 / 17, abs=0.005)


def test_with_both_each_is_drawn_half_of_the_time() -> None:
    cut = [mix.box is not None for mix in mixes(Mixing(mixup=1.0, cutmix=1.0), 1000)]
    assert 0.45 < np.mean(cut) < 0.55
    assert {mix.box is not None for mix in mixes(Mixing(mixup=1.0))} == {False}
    assert {mix.box is not None for mix in mixes(Mixing(cutmix=1.0))} == {True}


def test_the_stated_part_of_the_batches_is_mixed() -> None:
    mixed = [mix is not None for mix in draws(Mixing(mixup=1.0, prob=0.3), 1000)]
    assert 0.25 < np.mean(mixed) < 0.35
    assert all(mix is None for mix in draws(Mixing(mixup=1.0, prob=0.0), 20))
    assert all(mix is None for mix in draws(Mixing(), 20))
    assert not Mixing(mixup=1.0, prob=0.0).is_on
    assert not Mixing().is_on


def test_every_sample_is_a_partner_once_and_a_lone_one_stays_as_it_is() -> None:
    assert all(sorted(mix.partner.tolist()) == list(range(8)) for mix in mixes(Mixing(mixup=1.0), 20))
    assert Mixing(mixup=1.0).draw(1, SIZE, np.random.default_rng(0)) is None


def test_the_same_generator_gives_the_same_mix() -> None:
    mixing = Mixing(mixup=0.4, cutmix=0.4, prob=0.7)
    for first, second in zip(draws(mixing, 50), draws(mixing, 50), strict=True):
        assert (first is None) == (second is None)
        if first and second:
            assert (first.share, first.box) == (second.share, second.box)
            assert torch.equal(first.partner, second.partner)


# --- labels and losses ------------------------------------------------------------------------------------------------


def objective(**losses: dict[str, Any]) -> Objective:
    sections = {name: LossSection.model_validate(values) for name, values in losses.items()}
    return Objective(sections, LossContext(3, 5, [4, 2, 2]))


def batch_of_six() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Batch]:
    generator = torch.Generator().manual_seed(1)
    logits, features = torch.randn(6, 3, generator=generator), torch.randn(6, 5, generator=generator)
    target = torch.tensor([0, 0, 1, 1, 2, 2])
    return logits, features, target, Batch(frames(6), target, list("abcdef"))


@pytest.mark.parametrize("args", [{}, {"label_smoothing": 0.1}], ids=["plain", "smoothed"])
def test_a_mixed_batch_has_the_cross_entropy_of_the_mixed_labels(args: dict[str, Any]) -> None:
    logits, features, target, batch = batch_of_six()
    mix = Mix(torch.tensor([5, 4, 3, 2, 1, 0]), 0.3)
    loss, terms = objective(cross_entropy={"args": args})(logits, features, target, batch, mix)
    labels = 0.3 * F.one_hot(target, 3) + 0.7 * F.one_hot(target[mix.partner], 3)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels.float(), **args))
    torch.testing.assert_close(terms["cross_entropy"], loss)


def test_pairwise_losses_are_left_out_of_mixed_batches_alone() -> None:
    logits, features, target, batch = batch_of_six()
    both = objective(cross_entropy={}, ec_stfl={"weight": 10.0})
    assert both.pairwise == ["ec_stfl"]
    plain, terms = both(logits, features, target, batch)
    assert set(terms) == {"cross_entropy", "ec_stfl"}
    torch.testing.assert_close(plain, terms["cross_entropy"] + 10 * terms["ec_stfl"])
    mixed, terms = both(logits, features, target, batch, Mix(torch.arange(6), 0.5))
    assert set(terms) == {"cross_entropy"}
    torch.testing.assert_close(mixed, F.cross_entropy(logits, target))
