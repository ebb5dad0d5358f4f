"""The `fer` package at the same work, in the Python that it is installed in; `video.py` starts and asks it.

A request is a line of JSON on stdin, {"video": path} or {"crops": path of an .npy file, (N, H, W) uint8 grey}; the
answer a line on stdout: seconds, what came out, and the peak memory of this process in GB (10^9 bytes).
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

import cv2
import numpy as np
from fer.fer import FER


def video(detector: Any, path: str) -> dict[str, Any]:
    """Frames of a video one by one through `detect_emotions`, as the package's own Video class does."""
    capture = cv2.VideoCapture(path)
    frames = faces = 0
    while True:
        read, frame = capture.read()
        if not read:
            return {"frames": frames, "faces": faces}
        frames += 1
        faces += len(detector.detect_emotions(frame))


def crops(detector: Any, path: str) -> list[str]:
    """The names of the likeliest classes, prepared as `detect_emotions` prepares its crops, 64 at a time."""
    pictures = np.load(path)
    names = detector._get_labels()
    likeliest: list[str] = []
    for start in range(0, len(pictures), 64):
        batch = np.stack([cv2.resize(picture, (64, 64)) for picture in pictures[start : start + 64]])
        probs = detector._classify_emotions((batch.astype(np.float32) / 255 - 0.5) * 2)
        likeliest += [names[int(i)] for i in probs.argmax(axis=1)]
    return likeliest


def main() -> None:
    """Answer until stdin ends."""
    # TensorFlow prints to stdout, too.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    detector = FER()
    for line in sys.stdin:
        ((kind, path),) = json.loads(line).items()
        started = time.perf_counter()
        value = {"video": video, "crops": crops}[kind](detector, path)
        seconds = time.perf_counter() - started
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        answers.write(json.dumps({"seconds": seconds, "value": value, "memory": memory}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
