"""How many samples each release has by what is published; docs/datasets.md shows the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedCounts:
    """Samples of one split, and of each class by its canonical name where that is published, else empty."""

    samples: int
    classes: Mapping[str, int]


def published_counts(release: str, split: str) -> PublishedCounts | None:
    """The published counts of a split, named as in a manifest's `release` and `files` (`dfew`, `fold1_train`).

    Of a data set whose folds are our own the split `all` has those of all samples. None where nothing is published.
    """
    found = _COUNTS.get(release, {}).get(split)
    if found is None:
        return None
    return PublishedCounts(found, {}) if isinstance(found, int) else PublishedCounts(sum(found.values()), found)


def _classes(names: str, *counts: int) -> dict[str, int]:
    return dict(zip(names.split(), counts, strict=True))


def _folds(*pairs: tuple[int, int]) -> dict[str, int | Mapping[str, int]]:
    both = [((f"fold{k}_train", train), (f"fold{k}_test", test)) for k, (train, test) in enumerate(pairs, start=1)]
    return {key: count for pair in both for key, count in pair}


_DFEW = "happy sad neutral angry surprise disgust fear"
_RAVDESS = "neutral calm happy sad angry fear disgust surprise"
_CREMAD = "neutral angry disgust fear happy sad"

_COUNTS: dict[str, dict[str, int | Mapping[str, int]]] = {
    # The release's own lists.
    "dfew": {
        **_folds((9356, 2341), (9356, 2341), (9357, 2340), (9358, 2339), (9361, 2336)),
        "fold1_train": _classes(_DFEW, 1956, 1515, 2135, 1738, 1175, 116, 721),
        "fold1_test": _classes(_DFEW, 489, 379, 534, 435, 294, 29, 181),
    },
    "mafw": _folds((7333, 1839), (7335, 1837), (7339, 1833), (7340, 1832), (7341, 1831)),
    "rafdb": {
        "train": _classes(_DFEW, 4772, 1982, 2524, 705, 1290, 717, 281),
        "test": _classes(_DFEW, 1185, 478, 680, 162, 329, 160, 74),
    },
    "fer2013": {"train": 28709, "val": 3589, "test": 3589},
    "ferplus": {"train": 25060, "val": 3199, "test": 3153},
    "ferplus_argmax": {"train": 28389, "val": 3553, "test": 3546},
    # From others' lists and papers.
    "ferv39k": {"train": _classes(_DFEW, 5854, 5523, 7790, 5906, 2502, 1833, 1680), "test": 7847},
    "afew": {"train": 773, "val": 383},
    # Folds are ours, so that only all samples together are published.
    "cremad": {"all": _classes(_CREMAD, 1087, 1271, 1271, 1271, 1271, 1271)},
    "ravdess": {"all": _classes(_RAVDESS, 96, 192, 192, 192, 192, 192, 192, 192)},
    "ckplus": {"all": 327},
    "ckplus_sequence": {"all": 327},
}
