"""On a sample of frames: is there a face to be found?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecstfl_cli.api import FaceCrop
from ecstfl_cli.engine.check.findings import Finding, Item, item
from ecstfl_cli.engine.check.reading import Readings
from ecstfl_cli.engine.check.target import CheckTarget, Split
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError, EcstflError
from ecstfl_cli.media.faces.finding import FaceFinder
from ecstfl_cli.media.sources import is_video_file, open_clip, read_still

# Detectors are trained on faces with something around them, and miss many that fill a small picture: those are shown
# to them at one size on a grey ground, which finds all of FER2013's where 28% are missed as they are.
_CROP = 400
_FACE, _GROUND = 128, 192
_GREY = 128
_BATCH = 16
_SEED = 0
# The share without a face from which it is worth a look.
_NOTED = 0.05


def check_faces(target: CheckTarget, readings: Readings, n: int, reporter: Reporter) -> Finding:
    """Look for a face on the middle frames of `n` samples, drawn with a fixed seed; 0 looks for none.

    Of a video file it is the first frame.
    """
    if not n:
        return Finding("faces", "skipped", "not looked for")
    try:
        finder = FaceFinder(FaceCrop())
    except EcstflError as error:
        return Finding("faces", "skipped", f"no face detector: {error.message}")
    rows = _drawn(target, readings, n)
    without: list[Item] = []
    looked_at = 0
    with reporter.progress("looking for faces", len(rows), "frames") as advance:
        for start in range(0, len(rows), _BATCH):
            some = rows[start : start + _BATCH]
            pictures = [_middle_frame(target.locations[split.samples[row]], target.modality) for split, row in some]
            readable = [(place, picture) for place, picture in zip(some, pictures, strict=True) if picture is not None]
            looked_at += len(readable)
            for ((split, row), _), faces in zip(readable, finder.find([_framed(p) for _, p in readable]), strict=True):
                if not faces:
                    without.append(item(split, row, target.locations[split.samples[row]], "no face was found"))
            advance(len(some))
    return _finding(without, looked_at)


def _finding(without: Sequence[Item], looked_at: int) -> Finding:
    if not looked_at:
        return Finding("faces", "skipped", "no frame could be read")
    share = len(without) / looked_at
    summary = f"{len(without):,} of {looked_at:,} frames of a sample without a face ({share:.1%})"
    if share <= _NOTED:
        return Finding("faces", "ok", summary, [*without])
    advice = (
        "Look at them: the crops may have lost the faces, or these may be drawings, blank frames or other pictures."
    )
    return Finding("faces", "note", summary, [*without], advice)


def _drawn(target: CheckTarget, readings: Readings, n: int) -> list[tuple[Split, int]]:
    """Split and row of `n` samples that can be read, each sample once."""
    readable = {i for i, scan in enumerate(readings.scans) if scan and scan.sizes}
    rows = {int(sample): (split, row) for split in target.splits for row, sample in enumerate(split.samples)}
    samples = np.array([sample for sample in rows if sample in readable], dtype=np.int64)
    chosen = np.random.default_rng(_SEED).permutation(len(samples))[:n]
    return [rows[int(sample)] for sample in np.sort(samples[chosen])]


def _middle_frame(path: str, modality: str) -> NDArray[np.uint8] | None:
    try:
        if modality == "img":
            return read_still(Path(path))
        if is_video_file(path):
            return _first_frame(path)
        clip = open_clip(Path(path))
        return clip.read([len(clip) // 2])[0]
    except (DataError, OSError, IndexError):
        return None


def _first_frame(path: str) -> NDArray[np.uint8] | None:
    """That of a video file: to reach its middle, half of it would have to be decoded."""
    from ecstfl_cli.media.video import read_video

    return next((frame.pixels for frame in read_video(path)), None)


def _framed(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A small picture at one size on a grey ground, a large one as it is."""
    height, width = picture.shape[:2]
    if max(height, width) > _CROP:
        return picture
    scale = _FACE / max(height, width)
    resized = Image.fromarray(picture).resize((max(1, round(width * scale)), max(1, round(height * scale))))
    ground = Image.new("RGB", (_GROUND, _GROUND), (_GREY, _GREY, _GREY))
    ground.paste(resized, ((_GROUND - resized.width) // 2, (_GROUND - resized.height) // 2))
    return np.asarray(ground)
