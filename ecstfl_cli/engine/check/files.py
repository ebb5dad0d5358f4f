"""Checks of what is on disk: rows, files, frame counts, lengths, formats and sizes."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.engine.check.findings import Finding, Item, item, items_where
from ecstfl_cli.engine.check.reading import Readings
from ecstfl_cli.engine.check.target import CheckTarget, Split
from ecstfl_cli.wording import counted

_NOUN = {"img": "image", "video": "clip"}
# Faces of fewer pixels hold little expression; longer than this, a picture is hardly a face crop.
_TINY = 24
_LONG = 3.0


def check_lists(target: CheckTarget) -> Finding:
    """Rows that cannot be read, and rows without a label."""
    problems = [(split, problem) for split in target.splits for problem in split.problems]
    total = sum(len(split.samples) + len(split.problems) for split in target.splits)
    if problems:
        items: list[Item] = [
            {
                "split": split.name,
                "where": f"{problem.file}:{problem.line}",
                "path": problem.path,
                "problem": problem.text,
            }
            for split, problem in problems
        ]
        hints = " ".join(dict.fromkeys(problem.hint for _, problem in problems if problem.hint))
        advice = hints or "Mend the rows, or prepare the lists again."
        return Finding("lists", "wrong", f"{len(items):,} of {total:,} rows cannot be read", items, advice)
    unknown = items_where(target, _without_label, lambda _: "has no label")
    if unknown:
        advice = "`finetune` needs labels; `infer` does not."
        return Finding("lists", "note", f"{len(unknown):,} of {total:,} rows have no label", unknown, advice)
    names = ", ".join(f"{split.name} {len(split.samples):,}" for split in target.splits)
    return Finding("lists", "ok", f"{counted(total, 'row')}: {names}")


def _without_label(split: Split) -> NDArray[np.bool_]:
    return np.array([not label for label in split.labels], dtype=bool)


def check_missing(target: CheckTarget, readings: Readings) -> Finding:
    """Samples that are not there, and folders without images."""
    problems = [listing.problem for listing in readings.listings]
    bad = np.array([bool(problem) for problem in problems], dtype=bool)
    items = items_where(target, lambda split: bad[split.samples], problems.__getitem__)
    samples = counted(len(problems), _NOUN[target.modality])
    if not items:
        return Finding("missing", "ok", f"all {samples} are there")
    kinds = Counter(problem for problem in problems if problem).most_common(3)
    told = ", ".join(f"{n:,} {kind}" for kind, n in kinds)
    advice = (
        "If the data lies elsewhere, re-root the lists: `ecstfl prepare --data-root DIR FILES`; else restore it from "
        "the release, or leave it out with --skip-bad."
    )
    return Finding("missing", "wrong", f"{int(bad.sum()):,} of {samples} missing or empty: {told}", items, advice)


def check_unreadable(target: CheckTarget, readings: Readings) -> Finding:
    """Frames that cannot be decoded in full."""
    n_wrong = np.array([scan.n_wrong if scan else 0 for scan in readings.scans])

    def problem_of(sample: int) -> str:
        scan = readings.scans[sample]
        wrong = scan.wrong if scan else []
        more = int(n_wrong[sample]) - len(wrong)
        return "; ".join(wrong) + (f" (and {more:,} more)" if more else "")

    items = items_where(target, lambda split: n_wrong[split.samples] > 0, problem_of)
    frames = counted(int(readings.frames().sum()), "frame")
    if not items:
        return Finding("unreadable", "ok", f"all {frames} can be decoded")
    samples = counted(int((n_wrong > 0).sum()), _NOUN[target.modality])
    summary = f"{int(n_wrong.sum()):,} of {frames} damaged or unreadable, in {samples}"
    advice = "Copy them from the release again; `finetune --skip-bad` leaves out what cannot be read."
    return Finding("unreadable", "wrong", summary, items, advice)


def check_frame_counts(target: CheckTarget, readings: Readings) -> Finding:
    """Clips whose list says another number of frames than the disk. A listed 0 is a count not known."""
    disk = readings.frames()
    items: list[Item] = []
    for split in target.splits:
        listed, there = split.n_frames, disk[split.samples]
        for row in np.flatnonzero((listed > 0) & (there > 0) & (listed != there)).tolist():
            path = target.locations[split.samples[row]]
            items.append(item(split, row, path, f"the list says {listed[row]} frames, on disk are {there[row]}"))
    if not items:
        return Finding("frame counts", "ok", "as listed")
    advice = (
        "`ecstfl prepare --data-root DIR FILES` writes lists with the counts on disk; restore frames that are lost."
    )
    summary = f"{counted(len(items), 'row')} with another number of frames than on disk"
    return Finding("frame counts", "wrong", summary, items, advice)


def check_short(target: CheckTarget, readings: Readings) -> Finding:
    """Clips with fewer frames than one view takes."""
    disk = readings.frames()
    needed = target.num_frames
    is_short = (disk > 0) & (disk < needed)
    items = items_where(target, lambda split: is_short[split.samples], lambda sample: f"{disk[sample]} frames")
    if not items:
        shortest = f", the shortest clip has {disk[disk > 0].min()}" if (disk > 0).any() else ""
        return Finding("short clips", "ok", f"a view takes {needed} frames{shortest}")
    items.sort(key=lambda found: int(found["problem"].split()[0]))
    short = f"{int(is_short.sum()):,} of {int((disk > 0).sum()):,} clips have fewer than the {needed} frames of a view"
    advice = "Their frames are repeated: nothing breaks. A sampling of fewer frames would see each once."
    return Finding("short clips", "note", f"{short}, the shortest {disk[is_short].min()}", items, advice)


def check_formats(target: CheckTarget, readings: Readings) -> Finding:
    """Files of another format than their names say."""
    n_odd = np.array([scan.n_odd if scan else 0 for scan in readings.scans])

    def problem_of(sample: int) -> str:
        scan = readings.scans[sample]
        return "; ".join(scan.odd if scan else [])

    items = items_where(target, lambda split: n_odd[split.samples] > 0, problem_of)
    if not items:
        return Finding("formats", "ok", "files are what their names say")
    advice = "They are read by their content here; other software may go by the name."
    summary = f"{counted(int(n_odd.sum()), 'file')} of another format than named"
    return Finding("formats", "note", summary, items, advice)


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
    is_odd = np.array([bool(problem) for problem in odd], dtype=bool)
    items = items_where(target, lambda split: is_odd[split.samples], odd.__getitem__)
    summary = _sizes_in_words(sizes)
    if not items:
        return Finding("sizes", "ok", summary)
    advice = (
        f"Look at them: below {_TINY} pixels little is seen of a face, and longer than {_LONG:.0f}:1 is hardly a crop."
    )
    summary += f"; {counted(int(is_odd.sum()), _NOUN[target.modality])} of odd size"
    return Finding("sizes", "note", summary, items, advice)


def _sizes_in_words(sizes: Counter[tuple[int, int]]) -> str:
    (height, width), n = sizes.most_common(1)[0]
    if len(sizes) == 1:
        return f"all {width}x{height}"
    low, high = (extreme(sizes, key=lambda size: size[0] * size[1]) for extreme in (min, max))
    share = n / sizes.total()
    return f"{len(sizes):,} sizes from {low[1]}x{low[0]} to {high[1]}x{high[0]}, {share:.0%} are {width}x{height}"


def _odd_size(sizes: dict[tuple[int, int], int]) -> str:
    if len(sizes) > 1:
        return "frames of different sizes: " + ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
    for height, width in sizes:
        if min(height, width) < _TINY or max(height, width) > _LONG * min(height, width):
            return f"{width}x{height} pixels"
    return ""
