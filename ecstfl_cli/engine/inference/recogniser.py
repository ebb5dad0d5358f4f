"""Emotions in pictures, videos and streams from Python: decode, find and follow faces, recognise, smooth over time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ecstfl_cli.api import FaceCrop
from ecstfl_cli.components.transforms import resize
from ecstfl_cli.engine.evaluate import NO_NUMBERS_HINT
from ecstfl_cli.engine.inference.defaults import BATCH_SIZE, DETECT_EVERY, SMOOTHING, STRIDE, WINDOW
from ecstfl_cli.engine.inference.face_windows import FaceWindows, look_at_windows
from ecstfl_cli.engine.inference.pictures import in_batches, picture_pixels, read_pictures
from ecstfl_cli.engine.inference.results import FaceResult, Problem, Results
from ecstfl_cli.engine.inference.smoothing import Looked, smoothed
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.model_source import InferenceModel, open_model, shipped_model
from ecstfl_cli.errors import CheckpointError, DataError, EcstflError
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.media.faces import MOST_BETWEEN
from ecstfl_cli.media.faces.cropping import crop_faces
from ecstfl_cli.media.faces.finding import PHOTO_SIZES, VIDEO_SIZES, FaceFinder
from ecstfl_cli.media.faces.following import follow_faces
from ecstfl_cli.media.faces.tracking import TrackedFace
from ecstfl_cli.media.moving import FOLDER_FPS, read_moving
from ecstfl_cli.media.prefetch import prefetched
from ecstfl_cli.media.video import VideoFrame

Pixels = NDArray[np.uint8]
# Square pictures of such sides are taken for faces that somebody cut out: FER2013's have 48 pixels, DFEW's 224. Of
# fewer pixels they are icons, or spacers of web pages.
TINY = range(16, 129)
# Frames that are decoded, searched and recognised at a time; a few megabytes each, so that memory stays flat.
AHEAD = 16
# Seconds between frames that faces are detected in, at most: a track that nothing is seen of for one second is lost.
DETECTED_WITHIN = 0.5


class Seen(NamedTuple):
    """A frame with the results in it. `frame.pixels` are whole and upright.

    `faces` are all that are in the frame, to draw or to count. With a model for stills they are the results; with one
    for clips, whose results lie windows apart, each has its box here and the probs of its window before.
    """

    frame: VideoFrame
    results: list[FaceResult]
    faces: list[FaceResult]


class Recogniser:
    """A trained model that looks at anything.

    >>> recogniser = Recogniser()
    >>> results = recogniser.video("talk.mp4")
    >>> results.to_dataframe()

    `model` is a checkpoint, a run folder, an `.onnx` file or a name of the catalogue; without one the model that ships
    with ecstfl; with `flip` it looks at each face's mirror image too, and takes the mean. `faces`: True finds faces,
    False takes each picture for a face, `auto` does so with square pictures of 16 to 128 pixels. `every` and `fps` thin
    the frames of videos; in between `detect_every`-th ones, or more of them where they lie more than half a second
    apart, faces are interpolated. `smoothing` is the time, in seconds, over which a face's probabilities in a video are
    averaged, see `smoothed`: 0 leaves them as they are. A model for clips sees a window of `window` seconds of each
    face, every `stride` seconds. `threads` are those of face detection. Raises EcstflError where the model cannot be
    opened.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        flip: bool = False,
        faces: bool | Literal["auto"] = "auto",
        every: int = 1,
        fps: float | None = None,
        detect_every: int = DETECT_EVERY,
        smoothing: float = SMOOTHING,
        window: float = WINDOW,
        stride: float = STRIDE,
        batch_size: int = BATCH_SIZE,
        threads: int | None = None,
        min_score: float | None = None,
        model_label_map: LabelMap | None = None,
        backbone: str | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        for name, value in (("every", every), ("detect_every", detect_every), ("batch_size", batch_size)):
            if value < 1:
                raise EcstflError(f"{name} is {value}", "It must be 1 or more.")
        if detect_every > MOST_BETWEEN:
            raise EcstflError(
                f"detect_every is {detect_every}", f"It is {MOST_BETWEEN} or less; thin frames with every."
            )
        if not 0 <= smoothing < inf:
            raise EcstflError(f"smoothing is {smoothing} seconds", "It is a number of seconds, or 0.")
        for name, number in (("window", window), ("stride", stride), ("fps", 1.0 if fps is None else fps)):
            if not 0 < number < inf:
                raise EcstflError(f"{name} is {number}", "It must be a number above 0.")
        if every > 1 and fps is not None:
            raise EcstflError("every and fps both thin frames", "Give one of them.")
        if faces not in (True, False, "auto"):
            raise EcstflError(f"faces is {faces!r}", "It is True, False or 'auto'.")
        if min_score is not None and not 0 <= min_score <= 1:
            raise EcstflError(f"min_score is {min_score}", "It is from 0 to 1.")
        self.model: InferenceModel = open_model(
            model or shipped_model(),
            device=device,
            precision=precision,
            backbone=backbone,
            label_map=model_label_map,
            flip=flip,
            reporter=reporter or Reporter(),
        )
        self.faces = faces
        self.every, self.fps, self.detect_every = every, fps, detect_every
        self.smoothing, self.window, self.stride = smoothing, window, stride
        self.batch_size = batch_size
        crop = self.model.input.face_crop or FaceCrop(size=self.model.input.size)
        self.crop = crop if min_score is None else replace(crop, min_score=min_score)
        # Faces are looked for on the model's GPU where ONNX Runtime has it, too, and else on the CPU.
        gpu = self.model.device
        self._detector_device = "cpu" if gpu.type == "cpu" else f"auto:{gpu.index or 0}"
        self._threads = threads
        self._finders: dict[Sequence[int], FaceFinder] = {}

    @property
    def labels(self) -> LabelMap:
        """Names of the classes, in the order of `probs`."""
        return self.model.labels

    # --- results -----------------------------------------------------------------------------------------------------

    def images(self, images: Iterable[str | Path | Pixels | Any] | str | Path | Pixels | Any) -> Results:
        """Results of image files, arrays (H, W, 3) RGB or (H, W) grey, uint8, or Pillow images, or of a single one.

        The source of a file is its path, that of another picture `image 0` and so on, its place in `images`.
        An image that cannot be read, or without a face, is one of the results' problems; a single one that cannot be
        read raises DataError.
        """
        single = isinstance(images, str | Path | Image.Image | bytes) or (
            isinstance(images, np.ndarray) and images.ndim in (2, 3)
        )
        listed: Iterable[Any] = [images] if single else images  # type: ignore[assignment]
        named = [(str(one) if isinstance(one, str | Path) else f"image {n}", one) for n, one in enumerate(listed)]
        results = Results(labels=self.labels)
        for name, pixels, found in self.see_images(named):
            results += found
            if isinstance(pixels, DataError):
                if len(named) == 1:
                    raise pixels
                results.problems.append(Problem(name, pixels.message))
            elif not found:
                results.problems.append(Problem(name, "no face was found"))
        return results

    def video(self, source: str | Path) -> Results:
        """Results of a video file, an animated image, a folder of frames, or a stream to its end.

        Raises DataError where nothing of it can be read; damage later on is one of the results' problems.
        """
        return self._collected(self.see(source), str(source))

    def frames(self, frames: Iterable[Pixels | Any], fps: float = FOLDER_FPS, source: str = "frames") -> Results:
        """Results of arrays (H, W, 3) uint8 RGB, or Pillow images, that are the frames of one video at `fps`."""
        if not 0 < fps < inf:
            raise EcstflError(f"fps is {fps}", "It must be a number above 0.")
        timed = (VideoFrame(i, i / fps, picture_pixels(f"frame {i}", frame)) for i, frame in enumerate(frames))
        return self._collected(self.see_frames(timed, source), source)

    def stream(self, source: str | Path, **options: Any) -> Iterator[FaceResult]:
        """Results as they come, in flat memory; see `see` for the options."""
        for seen in self.see(source, **options):
            yield from seen.results

    def _collected(self, seen: Iterator[Seen], source: str) -> Results:
        results = Results(labels=self.labels)
        read = 0
        try:
            for one in seen:
                read += 1
                results += one.results
        except DataError as error:
            if not read:
                raise
            results.problems.append(Problem(source, error.message))
        if not results:
            results.problems.append(Problem(source, f"no face was found in {read} frames" if read else "has no frames"))
        return results

    # --- pictures and frames with their results ----------------------------------------------------------------------

    def see(
        self,
        source: str | Path,
        *,
        live: bool = False,
        folder_fps: float = FOLDER_FPS,
        format: str | None = None,
        options: dict[str, str] | None = None,
    ) -> Iterator[Seen]:
        """Each frame of a video, stream, device, animated image or folder of frames with the results in it.

        `live` answers frame by frame instead of in batches. `format` and `options` are FFmpeg's. Closing the iterator
        ends its threads. Raises DataError where the source cannot be read, after the frames that could.
        """
        frames = read_moving(
            source, every=self.every, fps=self.fps, folder_fps=folder_fps, format=format, options=options
        )
        return self.see_frames(frames, str(source), live=live)

    def see_frames(self, frames: Iterable[VideoFrame], source: str, *, live: bool = False) -> Iterator[Seen]:
        """The same for frames that come in playing order; decoding, detection and recognition run at the same time."""
        ahead = 1 if live else AHEAD
        followed = prefetched(self._followed(prefetched(frames, ahead), live), ahead)
        if self.model.input.modality == "video":
            windows = FaceWindows(self.model.input, self.window, self.stride)
            for frame, own, shown in look_at_windows(self._cropped(followed, ahead), windows, self.probs):
                yield Seen(frame, [_result(source, *one) for one in own], [_result(source, *one) for one in shown])
            return
        for frame, faces, probs in smoothed(self._looked(followed, ahead), self.smoothing, live=live):
            found = [_result(source, frame, face, p) for face, p in zip(faces, probs, strict=True)]
            yield Seen(frame, found, found)

    def see_images(
        self, named: Iterable[tuple[str, str | Path | Pixels | Any]]
    ) -> Iterator[tuple[str, Pixels | DataError, list[FaceResult]]]:
        """(name, pixels, results) of each (name, image), in order; a DataError in place of pixels that cannot be read.

        Reading runs ahead in a thread; images are searched and recognised in batches. A model for clips looks at none.
        """
        if self.model.input.modality == "video":
            for name, _ in named:
                yield name, DataError(f"{name} is a still, and the model is for clips", "Name a model for stills."), []
            return
        for batch in prefetched(in_batches(read_pictures(named)), 1):
            pixels = [image for _, image in batch if not isinstance(image, DataError)]
            found = iter(self._faces_in(pixels))
            faces = [[] if isinstance(image, DataError) else next(found) for _, image in batch]
            crops = [
                self._crops(image, of)
                for (_, image), of in zip(batch, faces, strict=True)
                if isinstance(image, np.ndarray)
            ]
            probs = iter(self.probs(np.concatenate(crops)) if crops else ())
            for (name, image), of in zip(batch, faces, strict=True):
                still = VideoFrame(0, 0.0, np.empty((0, 0, 3), np.uint8))
                yield name, image, [_result(name, still, face, next(probs)) for face in of]

    def probs(self, crops: Pixels) -> NDArray[np.float32]:
        """Probs (N, K) of face crops: (N, H, W, 3) uint8 for a model of stills, (N, T, H, W, 3) for one of clips."""
        spec = self.model.input
        crops = np.require(crops, requirements=["C", "W"])
        if crops.ndim == 4 and crops.shape[1:3] != (spec.size, spec.size) and len(crops):
            crops = resize(crops, spec.size, spec.resize)
        out = [np.empty((0, len(self.labels)), np.float32)]
        for start in range(0, len(crops), self.batch_size):
            frames = torch.from_numpy(np.ascontiguousarray(crops[start : start + self.batch_size]))
            with torch.inference_mode(), self.model.autocast():
                logits = self.model.logits(frames.to(self.model.device))
            out.append(logits.float().softmax(dim=-1).cpu().numpy())
        probs = np.concatenate(out)
        if not np.isfinite(probs).all():
            raise CheckpointError(f"{self.model.source} gives no numbers", NO_NUMBERS_HINT)
        return probs

    # --- faces -------------------------------------------------------------------------------------------------------

    def _followed(self, frames: Iterable[VideoFrame], live: bool) -> Iterator[tuple[VideoFrame, list[TrackedFace]]]:
        source: Iterator[VideoFrame] = iter(frames)
        ahead: list[VideoFrame] = []
        try:
            for _ in range(1 if live else 2):
                ahead.append(next(source))
        except StopIteration:
            pass
        except DataError as error:  # It is raised after the frame before it.
            source = _raising(error)
        if not ahead:
            for _ in source:  # Raises what is wrong with the first one.
                pass
            return
        first, rest = ahead[0], chain(ahead, source)
        try:
            if self._is_face(first.pixels):
                for frame in rest:
                    yield frame, [_whole(frame.pixels)]
                return
            every = 1 if live else min(self.detect_every, _within(DETECTED_WITHIN, ahead))
            batch = 1 if live else max(1, AHEAD // every)
            yield from follow_faces(rest, self._finder(VIDEO_SIZES), detect_every=every, batch_size=batch)
        finally:
            close = getattr(frames, "close", None)
            if close:
                close()

    def _faces_in(self, images: Sequence[Pixels]) -> list[list[TrackedFace]]:
        """Faces of stills: by size and place as the detector gives them, numbered from 0."""
        searched = [image for image in images if not self._is_face(image)]
        found = iter(self._finder(PHOTO_SIZES).find(searched) if searched else ())
        return [
            [_whole(image)]
            if self._is_face(image)
            else [TrackedFace(i, face.box, face.score, face.landmarks) for i, face in enumerate(next(found))]
            for image in images
        ]

    def _cropped(
        self, followed: Iterator[tuple[VideoFrame, list[TrackedFace]]], ahead: int
    ) -> Iterator[list[tuple[VideoFrame, list[TrackedFace], Pixels]]]:
        """Lists of frames with the crops of their faces."""
        for batch in _batches(followed, ahead):
            yield [(frame, faces, self._crops(frame.pixels, faces)) for frame, faces in batch]

    def _looked(self, followed: Iterator[tuple[VideoFrame, list[TrackedFace]]], ahead: int) -> Iterator[Looked]:
        """Frames with the probs (N, K) of their N faces, each frame's own."""
        for batch in self._cropped(followed, ahead):
            probs = self.probs(np.concatenate([crops for _, _, crops in batch]))
            ends = np.cumsum([len(crops) for _, _, crops in batch])
            for (frame, faces, _), own in zip(batch, np.split(probs, ends[:-1]), strict=True):
                yield frame, faces, own

    def _is_face(self, pixels: Pixels) -> bool:
        if self.faces == "auto":
            height, width = pixels.shape[:2]
            return height == width and height in TINY
        return not self.faces

    def _finder(self, sizes: Sequence[int]) -> FaceFinder:
        if sizes not in self._finders:
            self._finders[sizes] = FaceFinder(self.crop, self._detector_device, sizes=sizes, threads=self._threads)
        return self._finders[sizes]

    def _crops(self, pixels: Pixels, faces: Sequence[TrackedFace]) -> Pixels:
        """Crops (N, size, size, 3) of the model's size; a picture that is a face is resized as the model's input is."""
        spec = self.model.input
        if not faces:
            return np.empty((0, spec.size, spec.size, 3), np.uint8)
        if isinstance(faces[0], _Whole):
            # torch warns of arrays that may not be written to, which Pillow's are.
            return resize(np.require(pixels[None], requirements=["C", "W"]), spec.size, spec.resize)
        crops = crop_faces(pixels, faces, self.crop)
        return crops if self.crop.size == spec.size else resize(crops, spec.size, spec.resize)


def _within(seconds: float, frames: Sequence[VideoFrame]) -> int:
    """How many frames, as far apart as the first two, lie within some seconds; at least 1."""
    apart = frames[-1].time - frames[0].time
    return max(1, int(seconds / apart)) if apart > 0 else 1


class _Whole(TrackedFace):
    """A picture that is a face."""


def _whole(pixels: Pixels) -> TrackedFace:
    return _Whole(0, (0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0])), 1.0)


def _raising(error: DataError) -> Iterator[VideoFrame]:
    raise error
    yield


def _result(source: str, frame: VideoFrame, face: TrackedFace, probs: NDArray, frames: int = 1) -> FaceResult:
    return FaceResult(source, frame.index, frame.time, face.id, face.box, face.score, tuple(probs.tolist()), frames)


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items; an exception of the iterator is raised after the items before it."""
    batch: list[Any] = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == size:
                full, batch = batch, []
                yield full
    except DataError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
