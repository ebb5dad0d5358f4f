"""Perceptual hashes: pairs within a few bits are all found, without comparing each with each."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ecstfl_cli.components import perceptual_hash
from ecstfl_cli.components.perceptual_hash import (
    RADIUS,
    bit_count,
    grey_copy,
    near_pairs,
    phash,
    standardised,
    thumbnails,
)


def flipped(value: int, bits: list[int]) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


def test_every_pair_within_the_radius_is_found_and_no_other() -> None:
    generator = np.random.default_rng(0)
    base = generator.integers(0, 1 << 63, 300, dtype=np.uint64).tolist()
    for i, value in enumerate(base[:150]):
        base.append(flipped(value, generator.permutation(64)[: i % 12].tolist()))
    hashes = np.array(base, dtype=np.uint64)
    distance = bit_count((hashes[:, None] ^ hashes[None, :]).reshape(-1)).reshape(len(hashes), -1)
    expected = np.argwhere(np.triu(distance <= RADIUS, 1))
    assert len(expected) > 90
    assert near_pairs(hashes).tolist() == expected.tolist()


def test_pairs_are_found_in_pieces_too(monkeypatch) -> None:
    hashes = np.random.default_rng(1).integers(0, 40, 200, dtype=np.uint64)
    whole = near_pairs(hashes)
    assert len(whole) == 200 * 199 // 2, "numbers below 40 differ in six bits at most"
    monkeypatch.setattr(perceptual_hash, "_AT_ONCE", 97)
    assert near_pairs(hashes).tolist() == whole.tolist()


def test_no_hash_has_no_pairs() -> None:
    assert near_pairs(np.empty(0, np.uint64)).shape == (0, 2)
    assert near_pairs(np.array([5], np.uint64)).shape == (0, 2)


def test_bits_are_counted_as_python_counts_them() -> None:
    values = np.random.default_rng(2).integers(0, 1 << 63, 50, dtype=np.uint64)
    expected = [value.bit_count() for value in values.tolist()]
    assert bit_count(values).tolist() == expected
    assert perceptual_hash._BITS[values.view(np.uint8).reshape(-1, 8)].sum(1).tolist() == expected


def test_the_hash_is_that_of_the_frequencies_above_their_median() -> None:
    """Against the transform written out."""
    grey = np.random.default_rng(3).integers(0, 256, (2, 32, 32)).astype(np.uint8)
    n = np.arange(32)
    for picture, found in zip(grey, phash(grey).tolist(), strict=True):
        low = [
            [
                (picture * np.cos(np.pi * u * (2 * n[:, None] + 1) / 64) * np.cos(np.pi * v * (2 * n + 1) / 64)).sum()
                for v in range(1, 9)
            ]
            for u in range(1, 9)
        ]
        bits = (np.array(low) > np.median(low)).reshape(-1)
        assert found == int("".join("1" if bit else "0" for bit in bits), 2)


def test_brightness_and_contrast_do_not_matter_and_blank_pictures_are_told() -> None:
    coarse = np.random.default_rng(4).integers(60, 190, (9, 9, 3)).astype(np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((90, 90), Image.Resampling.BICUBIC))
    darker = (picture * 0.6 + 10).astype(np.uint8)
    blank = np.full_like(picture, 120)
    grey = np.stack([grey_copy(pixels) for pixels in (picture, darker, blank)])
    one, other, _ = phash(grey)
    assert bit_count(np.array([one ^ other]))[0] <= 2
    vectors = standardised(thumbnails(grey)).astype(np.float32)
    assert vectors[0] @ vectors[1] > 0.99
    assert not vectors[2].any()
