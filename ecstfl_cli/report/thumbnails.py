"""Small pictures of faces, chosen while frames go by: one for each run of an expression, where it is clearest."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecstfl_cli.media.annotate import AnnotatedFace

SIZE = 112
MARGIN = 0.25
# Seconds: a shorter run is a flicker; a face that was not seen for longer is gone.
FLICKER, GONE = 0.2, 5.0


@dataclass(frozen=True)
class Thumbnail:
    """A face at `time` seconds, showing class `expression` with probability `prob`; `jpeg` is 112 x 112 pixels."""

    time: float
    face: int
    expression: int
    prob: float
    jpeg: bytes


@dataclass
class _Run:
    """A face's present run of one likeliest class, with the best crop so far."""

    start: float
    last: float
    expression: int
    time: float
    prob: float
    crop: Image.Image


@dataclass
class ThumbnailKeeper:
    """Keeps thumbnails of one source in flat memory, however long it is.

    At most `per_face` of a face and `in_all` together: what would be too many goes by the length of its run, the
    shortest first.
    """

    per_face: int = 24
    in_all: int = 240
    _runs: dict[int, _Run] = field(default_factory=dict, init=False, repr=False)
    # (seconds of the run, thumbnail)
    _kept: list[tuple[float, Thumbnail]] = field(default_factory=list, init=False, repr=False)

    def add(self, time: float, image: NDArray[np.uint8], rows: Sequence[AnnotatedFace]) -> None:
        """Look at a frame, (H, W, 3) uint8 RGB, and its faces. Frames come in the order of their times."""
        for row in rows:
            k = int(np.argmax(row.probs))
            prob = float(row.probs[k])
            run = self._runs.get(row.face)
            if run is not None and run.expression != k:
                self._close(row.face, time)
                run = None
            if run is None:
                self._runs[row.face] = _Run(time, time, k, time, prob, _crop(image, row.box))
                continue
            run.last = time
            if prob > run.prob + 0.02:
                run.time, run.prob, run.crop = time, prob, _crop(image, row.box)
        for face in [face for face, run in self._runs.items() if time - run.last > GONE]:
            self._close(face, self._runs[face].last)

    def thumbnails(self) -> list[Thumbnail]:
        """What was kept, by face and time."""
        for face in list(self._runs):
            self._close(face, self._runs[face].last)
        return sorted((thumbnail for _, thumbnail in self._kept), key=lambda kept: (kept.face, kept.time))

    def _close(self, face: int, end: float) -> None:
        run = self._runs.pop(face)
        seconds = end - run.start
        of_face = [kept for kept in self._kept if kept[1].face == face]
        if seconds < FLICKER and of_face:
            return
        kept = seconds, Thumbnail(run.time, face, run.expression, run.prob, _jpeg(run.crop))
        self._kept.append(kept)
        if len(of_face) >= self.per_face:
            self._kept.remove(min([*of_face, kept], key=lambda one: one[0]))
        elif len(self._kept) > self.in_all:
            self._kept.remove(min(self._kept, key=lambda one: one[0]))


def _crop(image: NDArray[np.uint8], box: tuple[float, float, float, float]) -> Image.Image:
    """The square about a box with a margin, moved into the picture."""
    height, width = image.shape[:2]
    left, top, right, bottom = box
    side = min((1 + 2 * MARGIN) * max(right - left, bottom - top), height, width)
    side = max(1, round(side))
    x = round(min(max(0.0, (left + right - side) / 2), width - side))
    y = round(min(max(0.0, (top + bottom - side) / 2), height - side))
    square = Image.fromarray(np.ascontiguousarray(image[y : y + side, x : x + side]))
    return square.resize((SIZE, SIZE), Image.Resampling.BILINEAR, reducing_gap=2.0)


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80, optimize=True)
    return file.getvalue()
