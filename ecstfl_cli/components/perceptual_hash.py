"""Perceptual hashes: which pictures look alike, found without comparing each with each.

The hash is pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010): 64 bits, one for
each of the lowest 8 x 8 frequencies of a grey 32 x 32 copy without the constant row and column, set where it lies above
their median. Pairs within a few bits are found by multi-index hashing (Norouzi et al., "Fast Search in Hamming Space
with Multi-Index Hashing", CVPR 2012).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
# Bits in which the hashes of one picture may differ; whether it is one is for the thumbnails to say.
RADIUS = 7
_BANDS = 4
_BAND_BITS = 64 // _BANDS
_BUCKET = 1024
_AT_ONCE = 1 << 22
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
    middle = _LOW * _LOW // 2
    median = np.sort(low, axis=1)[:, middle - 1 : middle + 1].mean(axis=1, keepdims=True)
    bits = low > median
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


def near_pairs(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Index pairs (P, 2) of hashes that differ in at most `RADIUS` bits, each once, smaller index first.

    Of four bands of 16 bits of two such hashes one differs in at most one bit: each hash is compared with those of the
    same and of the 16 neighbouring buckets of each band, in an even spread of bits a bucket for every 65,536 hashes.
    At most 1024 of a bucket are looked at, so that a million pictures of one scene take no forever.
    """
    found = [np.empty((0, 2), np.int64)]
    for number in range(_BANDS):
        band = _band(hashes, number)
        order = np.lexsort((hashes, band))
        ordered, band = hashes[order], band[order]
        for left, right in _candidates(band):
            near = bit_count(ordered[left] ^ ordered[right]) <= RADIUS
            found.append(np.sort(np.stack((order[left[near]], order[right[near]]), axis=1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _band(hashes: NDArray[np.uint64], number: int) -> NDArray[np.int64]:
    """Every fourth bit: the lowest frequencies, which faces share, are dealt out to all bands."""
    band = np.zeros(len(hashes), dtype=np.int64)
    for bit in range(_BAND_BITS):
        band |= ((hashes >> np.uint64(bit * _BANDS + number)) & np.uint64(1)).astype(np.int64) << bit
    return band


def _candidates(band: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of positions, a few million at a time, whose values in a sorted band differ in one bit or none."""
    ends = np.cumsum(np.bincount(band, minlength=1 << _BAND_BITS))
    starts = ends - np.diff(ends, prepend=0)
    for mask in (0, *(1 << bit for bit in range(_BAND_BITS))):
        at = np.flatnonzero(band & mask == 0) if mask else np.arange(len(band))
        start = starts[band[at] | mask] if mask else at + 1
        count = np.minimum(ends[band[at] | mask] - start, _BUCKET)
        total = np.cumsum(count)
        for low in range(0, int(total[-1]) if len(total) else 0, _AT_ONCE):
            first, last = np.searchsorted(total, (low, low + _AT_ONCE), side="right")
            few = count[first:last]
            within = np.arange(few.sum()) - np.repeat(np.cumsum(few) - few, few)
            yield np.repeat(at[first:last], few), np.repeat(start[first:last], few) + within


def bit_count(values: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The bits that are set in each value."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(values)
    return _BITS[values.view(np.uint8).reshape(-1, 8)].sum(1, dtype=np.uint8)  # numpy before 2.0


_BITS = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)
