"""Checks of what is on disk: rows, files, frame counts, lengths, formats and sizes."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.engine.check.findings import Finding, counted, item, rows_where
from ecstfl_cli.engine.check.reading import Readings
from ecstfl_cli.engine.check.target import CheckTarget, Split

_NOUN = {"img": "image", "video": "clip"}
# Faces of fewer pixels hold little expression; longer than this, a picture is hardly a face crop.
_TINY = 24
_LONG = 3.0


def check_lists(target: CheckTarget) -> Finding:
    """Rows that cannot be read, and rows without a label."""
    items = [
        {"split": split.name, "where": f"{p.file}:{p.line}", "path": p.path, "problem": p.text, "hint": p.hint}
        for split in target.splits
        for p in split.problems
    ]
    total = sum(len(split.samples) + len(split.problems) for split in target.splits)
    if items:
        hints = dict.fromkeys(str(found["hint"]) for found in items if found["hint"])
        return Finding(
            "lists", "wrong", f"{len(items):,} of {total:,} rows cannot be read", len(items),
            " ".join(hints) or "Mend the rows, or prepare the lists again.", items,
        )  # fmt: skip
    unknown = [item(*found, "has no label") for found in rows_where(target, _without_label)]
    if unknown:
        advice = "`finetune` needs labels; `infer` does not."
        return Finding("lists", "note", f"{len(unknown):,} of {total:,} rows have no label", len(unknown), advice, unknown)
    names = ", ".join(f"{split.name} {len(split.samples):,}" for split in target.splits)
    return Finding("lists", "ok", f"{total:,} rows: {names}")


def _without_label(split: Split) -> NDArray[np.bool_]:
    return np.array([not label for label in split.labels], dtype=bool)


def check_missing(target: CheckTarget, readings: Readings) -> Finding:
    """Samples that are not there, and folders without images."""
    problems = [listing.problem for listing in readings.listings]
    bad = np.array([bool(problem) for problem in problems])
    items = [
        item(split, row, path, problems[split.samples[row]])
        for split, row, path in rows_where(target, lambda split: bad[split.samples])
    ]
    noun = _NOUN[target.modality]
    if not items:
        return Finding("missing", "ok", f"all {counted(len(problems), noun)} are there")
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in Counter(problems[i] for i in np.flatnonzero(bad)).most_common(3))
    return Finding(
        "missing", "wrong", f"{int(bad.sum()):,} of {counted(len(problems), noun)} missing or empty: {kinds}", len(items),
        "If the data lies elsewhere, re-root the lists: `ecstfl prepare --data-root DIR FILES`; else restore it from "
        "the release, or leave it out with --skip-bad.", items,
    )  # fmt: skip


def check_unreadable(target: CheckTarget, readings: Readings) -> Finding:
    """Frames that cannot be decoded in full."""
    n_wrong = np.array([scan.n_wrong if scan else 0 for scan in readings.scans])
    items = []
    for split, row, path in rows_where(target, lambda split: n_wrong[split.samples] > 0):
        scan = readings.scans[split.samples[row]]
        assert scan is not None
        more = f" (and {scan.n_wrong - len(scan.wrong):,} more)" if scan.n_wrong > len(scan.wrong) else ""
        items.append(item(split, row, path, "; ".join(scan.wrong) + more, frames=scan.n_wrong))
    total = readings.n_frames
    if not items:
        return Finding("unreadable", "ok", f"all {counted(total, 'frame')} can be decoded")
    samples = counted(int((n_wrong > 0).sum()), _NOUN[target.modality])
    return Finding(
        "unreadable", "wrong", f"{int(n_wrong.sum()):,} of {counted(total, 'frame')} damaged or unreadable, in {samples}",
        len(items), "Copy them from the release again; `finetune --skip-bad` leaves out what cannot be read.", items,
    )  # fmt: skip


def check_frame_counts(target: CheckTarget, readings: Readings) -> Finding:
    """Clips whose list says another number of frames than the disk. A listed 0 is a count not known."""
    disk = np.array([listing.n_frames for listing in readings.listings])
    items = [
        item(split, row, path, f"list says {split.n_frames[row]} frames, folder has {disk[split.samples[row]]}")
        for split, row, path in rows_where(
            target, lambda split: (split.n_frames > 0) & (disk[split.samples] > 0) & (split.n_frames != disk[split.samples])
        )
    ]
    if not items:
        return Finding("frame counts", "ok", "as listed")
    return Finding(
        "frame counts", "wrong", f"{counted(len(items), 'row')} with another number of frames than on disk", len(items),
        "`ecstfl prepare --data-root DIR FILES` writes lists with the counts on disk. If frames are missing, restore them.",
        items,
    )  # fmt: skip


def check_short(target: CheckTarget, readings: Readings) -> Finding:
    """Clips with fewer frames than one view takes."""
    disk = np.array([listing.n_frames for listing in readings.listings])
    needed = target.num_frames
    items = [
        item(split, row, path, f"{disk[split.samples[row]]} frames", frames=int(disk[split.samples[row]]))
        for split, row, path in rows_where(
            target, lambda split: (disk[split.samples] > 0) & (disk[split.samples] < needed)
        )
    ]
    there = disk[disk > 0]
    if not items:
        shortest = f", the shortest clip has {there.min()}" if len(there) else ""
        return Finding("short clips", "ok", f"a view takes {needed} frames{shortest}")
    items.sort(key=lambda found: found["frames"])
    short = there[there < needed]
    return Finding(
        "short clips", "note",
        f"{len(short):,} of {len(there):,} clips have fewer than the {needed} frames of a view, the shortest {short.min()}",
        len(items), "Their frames are repeated: nothing breaks. A sampling of fewer frames would see them once.", items,
    )  # fmt: skip


def check_formats(target: CheckTarget, readings: Readings) -> Finding:
    """Files of another format than their names say."""
    n_odd = np.array([scan.n_odd if scan else 0 for scan in readings.scans])
    items = []
    for split, row, path in rows_where(target, lambda split: n_odd[split.samples] > 0):
        scan = readings.scans[split.samples[row]]
        assert scan is not None
        items.append(item(split, row, path, "; ".join(scan.odd), frames=scan.n_odd))
    if not items:
        return Finding("formats", "ok", "files are what their names say")
    return Finding(
        "formats", "note", f"{counted(int(n_odd.sum()), 'file')} of another format than named", len(items),
        "Read here by content; other software may go by the name.", items,
    )  # fmt: skip


def size_histogram(readings: Readings) -> Counter[tuple[int, int]]:
    """Frames by (height, width)."""
    total: Counter[tuple[int, int]] = Counter()
    for scan in readings.scans:
        total.update(scan.sizes if scan else {})
    return total


def check_sizes(target: CheckTarget, readings: Readings) -> Finding:
    """Sizes of frames: clips whose frames differ in size, tiny and long pictures."""
    sizes = size_histogram(readings)
    if not sizes:
        return Finding("sizes", "skipped", "no frame could be read")
    odd = [_odd_size(scan.sizes) if scan else "" for scan in readings.scans]
    is_odd = np.array([bool(problem) for problem in odd])
    items = [
        item(split, row, path, odd[split.samples[row]])
        for split, row, path in rows_where(target, lambda split: is_odd[split.samples])
    ]
    (height, width), n = sizes.most_common(1)[0]
    share = n / sizes.total()
    text = f"all {width}x{height}" if len(sizes) == 1 else f"{counted(len(sizes), 'size')}, {share:.0%} {width}x{height}"
    if len(sizes) > 1:
        low, high = min(sizes, key=lambda size: size[0] * size[1]), max(sizes, key=lambda size: size[0] * size[1])
        text += f", from {low[1]}x{low[0]} to {high[1]}x{high[0]}"
    if not items:
        return Finding("sizes", "ok", text)
    return Finding(
        "sizes", "note", f"{text}; {counted(int(is_odd.sum()), _NOUN[target.modality])} with odd sizes", len(items),
        f"Look at them: below {_TINY} pixels little is seen of a face, and longer than {_LONG:.0f}:1 is hardly a crop.",
        items,
    )  # fmt: skip


def _odd_size(sizes: dict[tuple[int, int], int]) -> str:
    if len(sizes) > 1:
        return "frames of different sizes: " + ", ".join(f"{w}x{h}" for h, w in sorted(sizes))
    for height, width in sizes:
        if min(height, width) < _TINY or max(height, width) > _LONG * min(height, width):
            return f"{width}x{height} pixels"
    return ""
