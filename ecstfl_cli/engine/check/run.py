"""`ecstfl prepare --check`: every sample of the lists read in full, and a verdict on each thing that may be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecstfl_cli.engine.check import duplicates, files, labels
from ecstfl_cli.engine.check.face_sample import check_faces
from ecstfl_cli.engine.check.findings import Finding
from ecstfl_cli.engine.check.reading import Readings, read_all
from ecstfl_cli.engine.check.report import CheckReport, require_writable
from ecstfl_cli.engine.check.target import CheckTarget, find_target
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.files import sha256

# Frames that a face is looked for on, unless another number is asked for.
FACES = 200


def check(
    given: Sequence[Path], *, out: Path, label_map: str | None = None, faces: int = FACES, reporter: Reporter
) -> CheckReport:
    """Check what `given` names (see `find_target`) and write the report beside its manifest, else into `out`.

    Every frame is decoded; what is read is kept beside the report, so that a repeated or interrupted check reads only
    what is new. `faces` is on how many frames a face is looked for. Raises DataError where there is nothing to check or
    the report cannot be written; what is wrong with the data is in the report.
    """
    target = find_target(given, out=out, label_map=label_map)
    require_writable(target.report)
    readings = read_all(target.locations, target.modality, target.folder, reporter)
    report = CheckReport(target.report, _facts(target, readings), _findings(target, readings, faces, reporter))
    report.write()
    return report


def _findings(target: CheckTarget, readings: Readings, faces: int, reporter: Reporter) -> list[Finding]:
    likeness = duplicates.find_likeness(readings)
    is_video = target.modality == "video"
    return [
        files.check_lists(target),
        files.check_missing(target, readings),
        files.check_unreadable(target, readings),
        *([files.check_frame_counts(target, readings), files.check_short(target, readings)] if is_video else []),
        files.check_formats(target, readings),
        files.check_sizes(target, readings),
        duplicates.check_listed_twice(target),
        duplicates.check_copies(target, likeness),
        duplicates.check_labels_of_copies(target, likeness),
        duplicates.check_across_splits(target, likeness),
        *duplicates.check_near(target, likeness),
        labels.check_subjects(target),
        labels.check_classes(target),
        labels.check_counts(target),
        check_faces(target, readings, faces, reporter),
    ]


def _facts(target: CheckTarget, readings: Readings) -> dict[str, Any]:
    classes = target.label_map.names if target.label_map else ()
    sizes = files.size_histogram(readings).most_common(100)
    return {
        "name": target.name,
        "modality": target.modality,
        "label_map": target.label_map.name if target.label_map else None,
        "num_frames": target.num_frames if target.modality == "video" else 1,
        "files": {split.name: [str(file) for file in split.files] for split in target.splits},
        "sha256": {str(file.resolve()): sha256(file) for split in target.splits for file in split.files},
        "samples": len(target.locations),
        "frames": int(readings.frames().sum()),
        "frames_read": readings.n_read,
        "seconds_reading": round(readings.seconds, 3),
        "counts": {split.name: labels.histogram(split, classes) for split in target.splits},
        "published": {one.split: one.published for one in labels.compare_counts(target)},
        "sizes": {f"{width}x{height}": n for (height, width), n in sizes},
    }
