"""Perceptual hashes: which pictures look alike, found without comparing each with each.

The hash is pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010): 64 bits, one for
each of the lowest 8 x 8 frequencies of a grey 32 x 32 copy without the constant row and column, set where it lies above
their median. Pairs within a few bits are found by multi-index hashing (Norouzi et al., "Fast Search in Hamming Space
with Multi-Index Hashing", CVPR 2012): of `RADIUS` + 1 disjoint bands of the bits of two such hashes, one is equal.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
RADIUS = 4
# Members of a bucket that one is compared with: pictures that share a band of bits, of which a blank one has many.
_WINDOW = 2048
_LOW = 8
_SMALL = 16
# Standard deviation, in grey levels of 255, below which a picture is blank and its hash is noise.
_CONTRAST = 4.0


def grey_copy(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The grey (32, 32) copy that is hashed, of an RGB picture (H, W, 3)."""
    grey = Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(grey)


def phash(grey: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """pHash of grey copies (N, 32, 32), as (N,) integers."""
    basis = _cosines()
    low = (basis @ grey.astype(np.float32) @ basis.T).reshape(-1, _LOW * _LOW)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64).reshape(-1)


@cache
def _cosines() -> NDArray[np.float32]:
    """Rows 1 to 8 of the DCT-II of 32 values."""
    k = np.arange(1, _LOW + 1)[:, None]
    return np.cos(np.pi * k * (2 * np.arange(SIDE) + 1) / (2 * SIDE)).astype(np.float32)


def thumbnails(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey copies (N, 32, 32) at half the size, (N, 16, 16): what tells pictures apart whose hashes are near."""
    return grey.reshape(-1, _SMALL, 2, _SMALL, 2).mean((2, 4)).round().astype(np.uint8)


def standardised(thumbs: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Thumbnails as vectors (N, 256) of mean 0 and length 1: their dot product is the correlation; 0 where blank."""
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    is_blank = length < _CONTRAST * np.sqrt(flat.shape[1])
    return np.where(is_blank, 0, flat / np.maximum(length, 1e-6)).astype(np.float16)


def near_pairs(hashes: NDArray[np.uint64], radius: int = RADIUS) -> NDArray[np.int64]:
    """Index pairs (P, 2) of hashes that differ in at most `radius` bits, each once, smaller index first.

    The work grows with the pairs that share a band of 64 / (radius + 1) bits. Where more than 2048 share one, each is
    compared with the next 2048 in the order of their hashes only.
    """
    found = [np.empty((0, 2), np.int64)]
    for low, high in pairwise(np.linspace(0, 64, radius + 2).astype(int).tolist()):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        found += _pairs_in_buckets(hashes, band, radius)
    return np.unique(np.concatenate(found), axis=0)


def _pairs_in_buckets(hashes: NDArray[np.uint64], band: NDArray[np.uint64], radius: int) -> list[NDArray[np.int64]]:
    order = np.lexsort((hashes, band))
    ordered, bucket = hashes[order], band[order]
    found = []
    at = np.arange(len(order))
    for step in range(1, _WINDOW + 1):
        at = at[: np.searchsorted(at, len(order) - step)]
        at = at[bucket[at] == bucket[at + step]]
        if not len(at):
            break
        near = at[bit_count(ordered[at] ^ ordered[at + step]) <= radius]
        found.append(np.sort(np.stack((order[near], order[near + step]), axis=1), axis=1))
    return found


def bit_count(values: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The bits that are set in each value."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(values)
    return _BITS[values.view(np.uint8).reshape(-1, 8)].sum(1, dtype=np.uint8)  # numpy before 2.0


_BITS = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)
