"""Checks of samples against each other: the same sample twice, under two labels, in two splits; and near copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.components.perceptual_hash import near_pairs, standardised
from ecstfl_cli.engine.check.findings import ITEMS, TOLERANCE, Finding, Item, Verdict, item
from ecstfl_cli.engine.check.reading import Readings
from ecstfl_cli.engine.check.target import CheckTarget, Split
from ecstfl_cli.wording import counted

# Correlation of two thumbnails from which they show one picture: recropped or recoloured photographs have 0.9 and more.
_SAME_PICTURE = 0.9
# Share of the key frames of two clips that have to match.
_SAME_CLIP = 0.5
_PAIRS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Likeness:
    """Which samples are alike. `content` (N,) is the first sample with the same pixels; `near` (P, 2) are pairs of
    such first samples that look alike.
    """

    content: NDArray[np.int64]
    near: NDArray[np.int64]


def find_likeness(readings: Readings) -> Likeness:
    """Compare all samples that could be read, by digest and by perceptual hash; see `near_pairs` for the cost."""
    first: dict[bytes, int] = {}
    content = np.arange(len(readings.scans))
    for i, scan in enumerate(readings.scans):
        if scan and scan.digest:
            content[i] = first.setdefault(scan.digest, i)
    owners = [i for i, scan in enumerate(readings.scans) if content[i] == i and scan and len(scan.hashes)]
    if not owners:
        return Likeness(content, np.empty((0, 2), np.int64))
    scans = [scan for i in owners if (scan := readings.scans[i])]
    owner = np.repeat(owners, [len(scan.hashes) for scan in scans])
    hashes = np.concatenate([scan.hashes for scan in scans])
    vectors = standardised(np.concatenate([scan.thumbs for scan in scans]))
    return Likeness(content, _near_samples(hashes, vectors, owner))


def _near_samples(
    hashes: NDArray[np.uint64], vectors: NDArray[np.float16], owner: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Pairs of owners of which half of the key frames, and at least one, show one picture."""
    usable = np.flatnonzero(vectors.any(axis=1))
    pairs = usable[near_pairs(hashes[usable])]
    pairs = pairs[owner[pairs[:, 0]] != owner[pairs[:, 1]]]
    alike = [np.empty(0, bool)]
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        a, b = pairs[start : start + _PAIRS_AT_ONCE].T
        alike.append((vectors[a].astype(np.float32) * vectors[b]).sum(1) >= _SAME_PICTURE)
    pairs = pairs[np.concatenate(alike)]
    if not len(pairs):
        return np.empty((0, 2), np.int64)
    owners, group = np.unique(owner[pairs], axis=0, return_inverse=True)
    frames = np.bincount(owner, minlength=owner.max() + 1)
    group = group.reshape(-1)
    # A still stretch of one clip is like one frame of the other: the fewer distinct frames of the two count.
    matched = np.minimum(*(_distinct(group, pairs[:, side], len(owners)) for side in (0, 1)))
    return owners[matched >= np.maximum(1, _SAME_CLIP * np.minimum(frames[owners[:, 0]], frames[owners[:, 1]]))]


def _distinct(group: NDArray[np.int64], frame: NDArray[np.int64], groups: int) -> NDArray[np.int64]:
    return np.bincount(np.unique(np.stack((group, frame)), axis=1)[0], minlength=groups)


def check_listed_twice(target: CheckTarget) -> Finding:
    """One path twice in a split."""
    items: list[Item] = []
    for split in target.splits:
        seen: dict[int, int] = {}
        for row, sample in enumerate(split.samples.tolist()):
            if (before := seen.setdefault(sample, row)) != row:
                items.append(item(split, row, target.locations[sample], f"is also {split.where(before)}"))
    if not items:
        return Finding("listed twice", "ok", "every row is another sample")
    advice = "They count twice in training and in scores: remove the surplus rows."
    return Finding("listed twice", "note", f"{counted(len(items), 'surplus row')}", items, advice)


def check_copies(target: CheckTarget, likeness: Likeness) -> Finding:
    """Samples of one split with the same pixels under several paths."""
    items: list[Item] = []
    for split in target.splits:
        rows: dict[int, int] = {}
        for row, sample in _distinct_samples(split):
            before = rows.setdefault(int(likeness.content[sample]), row)
            if before != row:
                other = target.locations[split.samples[before]]
                items.append(item(split, row, target.locations[sample], f"same pixels as {other}", same_as=other))
    if not items:
        return Finding("copies", "ok", "no two samples of a split are identical")
    per_split = _per_split(items)
    advice = "They weigh more than others in training, and in scores if they are tested on."
    return Finding("copies", "note", f"surplus identical samples: {per_split}", items, advice)


def check_labels_of_copies(target: CheckTarget, likeness: Likeness) -> Finding:
    """Samples with the same pixels and different labels, in whatever split."""
    labels: dict[int, dict[str, tuple[Split, int]]] = {}
    for split in target.splits:
        for row, sample in enumerate(likeness.content[split.samples].tolist()):
            if split.labels[row]:
                labels.setdefault(sample, {}).setdefault(split.labels[row], (split, row))
    items: list[Item] = []
    one_path = 0
    for found in labels.values():
        if len(found) < 2:
            continue
        (split, row), *others = found.values()
        paths = {target.locations[s.samples[r]] for s, r in found.values()}
        one_path += len(paths) < len(found)
        told = "; ".join(f"{s.labels[r]} at {s.where(r)} {target.locations[s.samples[r]]}" for s, r in others)
        path = target.locations[split.samples[row]]
        items.append(item(split, row, path, f"{split.labels[row]}, but {told}", labels=list(found)))
    if not items:
        return Finding("conflicting labels", "ok", "identical samples have one label")
    share = len(items) / max(1, len(labels))
    verdict: Verdict = "wrong" if one_path or share > TOLERANCE else "note"
    summary = f"{len(items):,} of {counted(len(labels), 'distinct sample')} ({share:.1%}) with two or more labels"
    summary += f", {one_path:,} of them under one path" if one_path else ""
    advice = "At most one label can be right: remove them, or mend the lists."
    return Finding("conflicting labels", verdict, summary, items, advice)


def check_across_splits(target: CheckTarget, likeness: Likeness) -> Finding:
    """Samples of one fold that are in two of its splits, as the same path or the same pixels."""
    items: list[Item] = []
    for left, right in _pairs_of_splits(target):
        rows = {int(content): row for row, content in reversed([*enumerate(likeness.content[left.samples])])}
        for row, sample in _distinct_samples(right):
            before = rows.get(int(likeness.content[sample]))
            if before is None:
                continue
            other = target.locations[left.samples[before]]
            path = target.locations[sample]
            text = f"is in {left.name} too" + (f", as {other}" if other != path else "")
            items.append(item(right, row, path, text, same_as=other, also_in=left.name))
    if not any(True for _ in _pairs_of_splits(target)):
        return Finding("across splits", "skipped", "there is one split only")
    if not items:
        return Finding("across splits", "ok", "no sample is in two splits")
    advice = "A score on samples that were trained on is too high: remove them from the training list."
    return Finding("across splits", "wrong", f"in two splits: {_per_pair(items)}", items, advice)


def check_near(target: CheckTarget, likeness: Likeness) -> list[Finding]:
    """Pairs that look alike without being identical, within a split and across the splits of a fold."""
    first = [_first_rows(split, likeness.content) for split in target.splits]
    return [_near_within(target, likeness, first), _near_across(target, likeness, first)]


def _first_rows(split: Split, content: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each content the first row of a split that has it, -1 where none has."""
    rows = np.full(len(content), -1)
    rows[content[split.samples][::-1]] = np.arange(len(split.samples))[::-1]
    return rows


def _near_within(target: CheckTarget, likeness: Likeness, first: list[NDArray[np.int64]]) -> Finding:
    items: list[Item] = []
    counts: dict[str, int] = {}
    for split, rows in zip(target.splits, first, strict=True):
        pairs = rows[likeness.near]
        pairs = np.sort(pairs[(pairs >= 0).all(axis=1)], axis=1)
        if len(pairs):
            counts[split.name] = len(pairs)
        items += [_near_item(target, split, row, split, other) for other, row in pairs[: ITEMS - len(items)].tolist()]
    if not counts:
        return Finding("near copies", "ok", "no two samples of a split look alike")
    told = ", ".join(f"{n:,} in {name}" for name, n in counts.items())
    advice = "Recropped or re-encoded copies, or shots of one scene: they weigh more than others in training."
    return Finding("near copies", "note", f"pairs that look alike: {told}", items, advice, sum(counts.values()))


def _near_across(target: CheckTarget, likeness: Likeness, first: list[NDArray[np.int64]]) -> Finding:
    items: list[Item] = []
    found = 0
    leaked: dict[str, set[int]] = {}
    rows_of = dict(zip([split.name for split in target.splits], first, strict=True))
    for left, right in _pairs_of_splits(target):
        for order in ([0, 1], [1, 0]):
            one, other = likeness.near[:, order].T
            pairs = np.stack((rows_of[left.name][one], rows_of[right.name][other]), axis=1)
            pairs = pairs[(pairs >= 0).all(axis=1)]
            found += len(pairs)
            leaked.setdefault(right.name, set()).update(pairs[:, 1].tolist())
            items += [
                _near_item(target, right, row, left, before) for before, row in pairs[: ITEMS - len(items)].tolist()
            ]
    if not leaked:
        return Finding("near across splits", "skipped", "there is one split only")
    if not found:
        return Finding("near across splits", "ok", "no two samples of different splits look alike")
    sizes = {split.name: len(split.samples) for split in target.splits}
    shares = {name: len(rows) / sizes[name] for name, rows in leaked.items() if rows}
    told = ", ".join(
        f"{len(leaked[name]):,} of {sizes[name]:,} ({share:.1%}) in {name}" for name, share in shares.items()
    )
    verdict: Verdict = "wrong" if max(shares.values()) > TOLERANCE else "note"
    advice = "Look at them: copies of what was trained on make a score too high; shots of one person do so too."
    return Finding("near across splits", verdict, f"like a sample of another split: {told}", items, advice, found)


def _near_item(target: CheckTarget, split: Split, row: int, other: Split, other_row: int) -> Item:
    path, like = target.locations[split.samples[row]], target.locations[other.samples[other_row]]
    labels = [split.labels[row], other.labels[other_row]]
    differ = f" ({labels[0]} and {labels[1]})" if len(set(labels)) > 1 else ""
    where = f" in {other.name}" if other is not split else ""
    return item(split, row, path, f"looks like {like}{where}{differ}", like=like, also_in=other.name, labels=labels)


def _distinct_samples(split: Split) -> Iterator[tuple[int, int]]:
    """(row, sample) of a split, each sample once."""
    _, rows = np.unique(split.samples, return_index=True)
    for row in np.sort(rows).tolist():
        yield row, int(split.samples[row])


def _pairs_of_splits(target: CheckTarget) -> Iterator[tuple[Split, Split]]:
    for left, right in combinations(target.splits, 2):
        if left.fold == right.fold:
            yield left, right


def _per_split(items: list[Item]) -> str:
    names = dict.fromkeys(found["split"] for found in items)
    return ", ".join(f"{sum(found['split'] == name for found in items):,} in {name}" for name in names)


def _per_pair(items: list[Item]) -> str:
    pairs = dict.fromkeys((found["also_in"], found["split"]) for found in items)
    return ", ".join(
        f"{sum((found['also_in'], found['split']) == pair for found in items):,} of {pair[1]} in {pair[0]}"
        for pair in pairs
    )
