"""Clips per second read from frame folders and from packs of them, cold and warm, one process, in turns.

    python benchmarks/packing.py [--clips 150] [--rounds 3]

Clips of 16 distinct 224x224 JPEGs are made in a temporary folder. Cold: the kernel is asked to drop the files' pages
before each round (posix_fadvise); what the disk itself caches stays.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ecstfl_cli.api import FrameSampling, InputSpec
from ecstfl_cli.components.sample_dataset import SampleDataset
from ecstfl_cli.engine.manifest import latest_manifest
from ecstfl_cli.engine.pack import Packing, pack
from ecstfl_cli.engine.prepare import prepare_dataset
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.samples import load_samples
from ecstfl_cli.labels import label_map_from
from ecstfl_cli.media.packed import open_pack

SPEC = InputSpec("video", 112, FrameSampling("uniform", frames=16))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "annotation"
        prepare_dataset(_made(Path(folder) / "clips", options.clips), label_map="dfew", out=out, reporter=Reporter())
        manifest = latest_manifest(out)
        assert manifest is not None
        lists = {"folders": Path(manifest["files"]["train"])}
        for codec in ("jpeg", "raw"):
            done = pack(manifest, Packing(112, codec), out=out / codec, reporter=Reporter())
            lists[f"pack, {codec}"] = out / codec / done.manifest["files"]["train"]
        _print(lists, options.rounds, Path(folder))


def _made(root: Path, clips: int) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for clip in range(clips):
        (root / f"{clip:05d}").mkdir(parents=True)
        for frame in range(16):
            coarse = Image.fromarray(rng.integers(0, 255, (28, 28, 3), dtype=np.uint8))
            coarse.resize((224, 224), Image.Resampling.BICUBIC).save(
                root / f"{clip:05d}" / f"{frame:02d}.jpg", quality=90
            )
        lines.append(f"{clip:05d} 16 {clip % 7}")
    (root / "train.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def _print(lists: dict[str, Path], rounds: int, folder: Path) -> None:
    seconds: dict[tuple[str, bool], list[float]] = {}
    labels = label_map_from("dfew")
    for _ in range(rounds):
        for name, file in lists.items():
            for cold in (True, False):
                samples = load_samples([file], modality="video", root=None, label_map=labels, reporter=Reporter())
                if cold:
                    open_pack.cache_clear()
                    _drop(folder.rglob("*.*"))
                data = SampleDataset(samples, SPEC)
                start = time.perf_counter()
                for i in range(len(data)):
                    data[(0, i)]
                seconds.setdefault((name, cold), []).append((time.perf_counter() - start) / len(data))
    print(f"{'what':<12} {'files':>6} {'MB':>7} {'cold clips/s':>13} {'ratio':>6} {'warm clips/s':>13} {'ratio':>6}")
    for name, file in lists.items():
        place = folder / "clips" if name == "folders" else next(file.parent.glob("*.pack"))
        files = [path for path in place.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files) / 1e6
        cells = []
        for cold in (True, False):
            taken, plain = statistics.median(seconds[name, cold]), statistics.median(seconds["folders", cold])
            cells.append(f"{1 / taken:>13.0f} {plain / taken:>6.2f}")
        print(f"{name:<12} {len(files):>6} {size:>7.1f} {' '.join(cells)}")


def _drop(files: Iterable[Path]) -> None:
    for path in files:
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


if __name__ == "__main__":
    main()
