"""Pictures and videos of drawn faces that the face detector finds, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from ecstfl_cli.components.datasets.parametric_actions import sample_actions
from ecstfl_cli.components.datasets.parametric_face import render_clip
from ecstfl_cli.components.datasets.parametric_subject import sample_identity, sample_scene

SIDE = 200


def drawn_scene(subjects: Sequence[int] = (1,), frames: int = 1, expression: str = "happy") -> list[np.ndarray]:
    """Frames (240, 120 + 240 N, 3) in which N people stand side by side before a grey wall."""
    clips = [_clip(subject, frames, expression) for subject in subjects]
    scene = np.full((frames, 240, 120 + 240 * len(clips), 3), 90, np.uint8)
    for place, clip in enumerate(clips):
        left = 80 + 240 * place
        scene[:, 20 : 20 + SIDE, left : left + SIDE] = clip
    return list(scene)


def _clip(subject: int, frames: int, expression: str) -> np.ndarray:
    rng = np.random.default_rng(subject)
    actions = sample_actions(rng, expression, frames)
    drawn = render_clip(sample_identity(np.random.default_rng(subject)), actions, sample_scene(rng, frames), rng)
    return np.stack([np.asarray(Image.fromarray(frame).resize((SIDE, SIDE))) for frame in drawn])


def write_frames(
    path: Path, frames: Sequence[np.ndarray], fps: int = 25, options: Mapping[str, str] | None = None
) -> Path:
    """A video file of the frames; `options` are those of FFmpeg's container."""
    import av

    with av.open(str(path), "w", options=dict(options or {})) as container:
        stream = container.add_stream("mpeg4", rate=Fraction(fps))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
