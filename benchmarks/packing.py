"""Clips per second read from frame folders and from packs of them, cold and warm, one process, in turns.

    python benchmarks/packing.py [--clips 150] [--rounds 3] [--webdataset]

Clips of 16 distinct 224x224 JPEGs are made in a temporary folder. Cold: the kernel is asked to drop the files' pages
before each round (posix_fadvise); what the disk itself caches stays. `--webdataset` (pip install webdataset) adds tars
of the same encoded frames, a member a frame and a sample a clip, written and read in their order by that library.
`decoding alone` is JPEG's: the frames of the pack, decoded from memory and made a clip.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from ecstfl_cli.api import FrameSampling, InputSpec
from ecstfl_cli.components.sample_dataset import SampleDataset
from ecstfl_cli.components.transforms import to_frames
from ecstfl_cli.engine.data.manifest import latest_manifest
from ecstfl_cli.engine.data.samples import load_samples
from ecstfl_cli.engine.preparation.pack import Packing, pack
from ecstfl_cli.engine.preparation.prepare import prepare_dataset
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.labels import label_map_from
from ecstfl_cli.media.decode import decode_image
from ecstfl_cli.media.packed import open_pack


@dataclass(frozen=True)
class Variant:
    """Where the files are, None for none, and what reads every clip once."""

    folder: Path | None
    read: Callable[[], None]

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()] if self.folder else []


SPEC = InputSpec("video", 112, FrameSampling("uniform", frames=16))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--webdataset", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "annotation"
        prepare_dataset(_made(Path(folder) / "clips", options.clips), label_map="dfew", out=out, reporter=Reporter())
        manifest = latest_manifest(out)
        assert manifest is not None
        variants = {"folders": Variant(Path(folder) / "clips", _by_index(Path(manifest["files"]["train"])))}
        for codec in ("jpeg", "raw"):
            done = pack(manifest, Packing(112, codec), out=out / codec, reporter=Reporter())
            variants[f"pack, {codec}"] = Variant(done.folder, _by_index(out / codec / done.manifest["files"]["train"]))
            if options.webdataset:
                tar = Path(folder) / "tars" / codec / "clips.tar"
                _write_tar(done.folder, tar)
                variants[f"tar, {codec}"] = Variant(tar.parent, partial(_read_tar, tar, codec))
            if codec == "jpeg":
                variants["decoding alone"] = Variant(None, partial(_decode, list(_clips(done.folder))))
        _print(variants, options.rounds, options.clips)


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


def _by_index(file: Path) -> Callable[[], None]:
    def read() -> None:
        data = SampleDataset(samples, SPEC)
        for i in order:
            data[(0, i)]

    samples = load_samples([file], modality="video", root=None, label_map=label_map_from("dfew"), reporter=Reporter())
    order = np.random.default_rng(1).permutation(len(samples)).tolist()
    return read


def _clips(pack: Path) -> Iterator[tuple[str, list[bytes]]]:
    """The encoded frames of each clip of a pack."""
    found: dict[str, list[bytes]] = {}
    for shard in sorted(pack.glob("*.arrow")):
        table = pa.ipc.open_file(pa.memory_map(str(shard))).read_all()
        for clip, image in zip(table["clip"].to_pylist(), table["image"].to_pylist(), strict=True):
            found.setdefault(clip, []).append(image)
    yield from found.items()


def _write_tar(pack: Path, tar: Path) -> None:
    import webdataset

    tar.parent.mkdir(parents=True)
    with webdataset.TarWriter(str(tar)) as writer:
        for clip, images in _clips(pack):
            writer.write({"__key__": clip, **{f"{i:02d}.bin": image for i, image in enumerate(images)}})


def _read_tar(tar: Path, codec: str) -> None:
    import webdataset

    for sample in webdataset.WebDataset(str(tar), shardshuffle=False):
        images = [sample[name] for name in sorted(sample) if name.endswith(".bin")]
        if codec == "jpeg":
            frames = [decode_image(image, "") for image in images]
        else:
            frames = [np.frombuffer(image, np.uint8).reshape(112, 112, 3) for image in images]
        to_frames(frames, SPEC, None, None)


def _decode(clips: list[tuple[str, list[bytes]]]) -> None:
    for clip, images in clips:
        to_frames([decode_image(image, clip) for image in images], SPEC, None, None)


def _print(variants: dict[str, Variant], rounds: int, clips: int) -> None:
    seconds: dict[tuple[str, bool], list[float]] = {}
    for _ in range(rounds):
        for name, variant in variants.items():
            for cold in (True, False):
                if cold:
                    open_pack.cache_clear()
                    _drop(variant.files())
                start = time.perf_counter()
                variant.read()
                seconds.setdefault((name, cold), []).append((time.perf_counter() - start) / clips)
    print(f"{'what':<15} {'files':>6} {'MB':>7} {'cold clips/s':>13} {'ratio':>6} {'warm clips/s':>13} {'ratio':>6}")
    for name, variant in variants.items():
        size = sum(path.stat().st_size for path in variant.files()) / 1e6
        cells = []
        for cold in (True, False):
            taken, plain = statistics.median(seconds[name, cold]), statistics.median(seconds["folders", cold])
            cells.append(f"{1 / taken:>13.0f} {plain / taken:>6.2f}")
        print(f"{name:<15} {len(variant.files()):>6} {size:>7.1f} {' '.join(cells)}")


def _drop(files: Iterable[Path]) -> None:
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


if __name__ == "__main__":
    main()
