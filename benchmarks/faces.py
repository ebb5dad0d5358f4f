"""Face detection at several working sizes, and a video followed, against every frame at its full size on its own.

    python benchmarks/faces.py FILE [--frames N] [--threads N]

FILE is a video. Ratios are of one run; the last column is the share of frames in which the main face was found.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import islice

from ecstfl_cli.api import FaceCrop
from ecstfl_cli.media.faces.finding import VIDEO_SIZES, FaceFinder
from ecstfl_cli.media.faces.following import follow_faces
from ecstfl_cli.media.video import read_video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    frames = list(islice(read_video(args.file), args.frames))
    full = max(frames[0].pixels.shape)

    def finder(*sizes: int) -> FaceFinder:
        return FaceFinder(FaceCrop(), "cpu", sizes=sizes, threads=args.threads)

    def one_by_one(size: int) -> Callable[[], int]:
        one = finder(size)
        return lambda: sum(bool(one.find([frame.pixels])[0]) for frame in frames)

    def batched(size: int) -> Callable[[], int]:
        one = finder(size)
        return lambda: sum(map(bool, one.find([frame.pixels for frame in frames])))

    def followed(every: int) -> Callable[[], int]:
        one = finder(*VIDEO_SIZES)
        return lambda: sum(bool(faces) for _, faces in follow_faces(iter(frames), one, detect_every=every))

    ways = {f"full size ({full}), one by one": one_by_one(full)}
    ways |= {f"long side {size}, batched": batched(size) for size in (640, 480, 320, 240, 160) if size <= full}
    ways |= {f"follow_faces, detect_every={every}": followed(every) for every in (1, 2, 5)}
    height, width = frames[0].pixels.shape[:2]
    print(f"{args.file}: {len(frames)} frames of {width}x{height}, threads {args.threads or 'all'}")
    base = None
    for name, way in ways.items():
        seconds, found = _best(way)
        base = base or seconds
        print(
            f"{name:34s} {1e3 * seconds / len(frames):7.1f} ms/frame {base / seconds:6.2f}x  {found / len(frames):4.0%}"
        )


def _best(way: Callable[[], int], times: int = 2) -> tuple[float, int]:
    """Seconds of the faster of `times` runs, the first of which warms up; other programs only make it slower."""
    runs = []
    for _ in range(times):
        start = time.perf_counter()
        found = way()
        runs.append(time.perf_counter() - start)
    return min(runs), found


if __name__ == "__main__":
    main()
