"""One picture or video to a crop, or a folder of crops, of its main face; runs in a worker process."""

from __future__ import annotations

import itertools
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecstfl_cli.api import Face, FaceCrop
from ecstfl_cli.errors import DataError
from ecstfl_cli.media.decode import read_image
from ecstfl_cli.media.faces.cropping import crop_faces
from ecstfl_cli.media.faces.finding import PHOTO_SIZES, VIDEO_SIZES, FaceFinder
from ecstfl_cli.media.faces.following import follow_faces
from ecstfl_cli.media.faces.tracking import TrackedFace, prominence
from ecstfl_cli.media.frames import list_frames
from ecstfl_cli.media.video import VideoFrame, read_video

JPEG_QUALITY = 95
# Frames of a folder carry no times: as if there were so many a second.
FOLDER_FPS = 25
# Below the folder of the crops; what is in it is not complete.
PARTIAL = ".partial"

Kind = Literal["video", "frames", "image"]


@dataclass(frozen=True)
class CropJob:
    """A video file, a folder of frames or an image, and what its crop is called below the folder of the crops.

    For clips `target` is a folder of `<name>_00001.jpg` …, for images a file.
    """

    source: str
    target: str
    kind: Kind


@dataclass(frozen=True)
class Cropped:
    """What became of a job. `rows` has one entry a crop, in the order of SEEN; without any, `problem` says why.

    `unreadable` tells pictures that could not be read from those without a face, `note` what is odd about a result.
    `frames` is how many were read, `stamp` size and time of the source when it was.
    """

    source: str
    target: str
    stamp: list[int]
    frames: int = 0
    rows: list[list[float]] = field(default_factory=list)
    problem: str = ""
    unreadable: bool = False
    note: str = ""


SEEN = ("frame", "time", "face", "left", "top", "right", "bottom", "score", "interpolated")


class FaceCropper:
    """Writes the crops of jobs below `folder`. `threads` are those of the detector."""

    def __init__(self, crop: FaceCrop, folder: Path, device: str, threads: int | None) -> None:
        self._crop = crop
        self._folder = folder
        self._videos = FaceFinder(crop, device, sizes=VIDEO_SIZES, threads=threads)
        self._photos = FaceFinder(crop, device, sizes=PHOTO_SIZES, threads=threads)
        self._count = itertools.count()

    def __call__(self, job: CropJob) -> Cropped:
        """Crop one source; its crops appear under their final name when all are written.

        A source that cannot be read, or has no face, is told by the result. Raises DataError where crops cannot be
        written.
        """
        partial = self._folder / PARTIAL / f"{os.getpid()}_{next(self._count)}"
        try:
            return self._image(job, partial) if job.kind == "image" else self._clip(job, partial)
        except OSError as error:
            raise DataError(
                f"cannot write face crops to {self._folder}: {error.strerror or error}",
                "Make room or choose another --faces-out; the same command continues where it stopped.",
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _image(self, job: CropJob, partial: Path) -> Cropped:
        stamp = stamp_of(job)
        try:
            pixels = read_image(Path(job.source))
        except DataError as error:
            return Cropped(job.source, job.target, stamp, problem=_without(job, error), unreadable=True)
        faces = self._photos.find([pixels])[0]
        if not faces:
            return Cropped(job.source, job.target, stamp, 1, problem="no face found")
        height, width = pixels.shape[:2]
        face = max(faces, key=lambda face: prominence(face.box, width, height))
        partial.mkdir(parents=True)
        _save(crop_faces(pixels, [face], self._crop)[0], partial / "crop.jpg")
        _move(partial / "crop.jpg", self._folder / job.target)
        return Cropped(job.source, job.target, stamp, 1, [_row(0, 0.0, 0, face)])

    def _clip(self, job: CropJob, partial: Path) -> Cropped:
        """Every track is cropped as it comes, so that a video is decoded once; that of the main face is kept."""
        stamp, name = stamp_of(job), Path(job.target).name
        rows: dict[int, list[list[float]]] = defaultdict(list)
        weights: dict[int, float] = defaultdict(float)
        count, trouble = 0, ""
        try:
            for frame, faces in follow_faces(_frames(job), self._videos):
                count += 1
                height, width = frame.pixels.shape[:2]
                for face, pixels in zip(faces, crop_faces(frame.pixels, faces, self._crop), strict=True):
                    if face.id not in rows:
                        (partial / str(face.id)).mkdir(parents=True)
                    rows[face.id].append(_row(frame.index, frame.time, face.id, face))
                    weights[face.id] += prominence(face.box, width, height)
                    _save(pixels, partial / str(face.id) / f"{name}_{len(rows[face.id]):05d}.jpg")
        except DataError as error:
            trouble = _without(job, error)
        if not rows:
            why = trouble or f"no face found in {count} frames"
            return Cropped(job.source, job.target, stamp, count, problem=why, unreadable=bool(trouble))
        main = max(weights, key=lambda id: (weights[id], -id))
        _move(partial / str(main), self._folder / job.target)
        note = f"{trouble}; the frames before are kept" if trouble else ""
        return Cropped(job.source, job.target, stamp, count, rows[main], note=note)


def stamp_of(job: CropJob) -> list[int]:
    """Size and time of change of a source, by which a later run knows it again; empty where there is none."""
    try:
        status = os.stat(job.source)  # noqa: PTH116 (a Path each is slow)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _frames(job: CropJob) -> Iterator[VideoFrame]:
    if job.kind == "video":
        yield from read_video(job.source)
        return
    try:
        paths = list_frames(Path(job.source))
    except OSError as error:
        raise DataError(f"cannot read {job.source}: {error.strerror}") from error
    if not paths:
        raise DataError(f"{job.source} holds no images")
    for i, path in enumerate(paths):
        yield VideoFrame(i, i / FOLDER_FPS, read_image(path))


def _without(job: CropJob, error: DataError) -> str:
    """The message without the source's path, which stands beside it in every list of problems."""
    return error.message.replace(f" {job.source}", "").replace(f"{job.source} ", "")


def _row(frame: int, time: float, id: int, face: Face | TrackedFace) -> list[float]:
    points = [coordinate for point in face.landmarks or () for coordinate in point]
    interpolated = getattr(face, "interpolated", False)
    row = [frame, round(time, 4), id, *face.box, round(face.score, 4), int(interpolated), *points]
    return [value if isinstance(value, int) else round(float(value), 4) for value in row]


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    # Colour at full resolution: lips are small and red.
    Image.fromarray(pixels).save(path, "JPEG", quality=JPEG_QUALITY, subsampling=0)


def _move(source: Path, target: Path) -> None:
    """Into place; what an interrupted run or another version of the source has left there is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)
