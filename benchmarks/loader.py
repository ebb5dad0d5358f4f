"""Samples per second of the loader in one process, beside a plain loop of the obvious kind.

    python benchmarks/loader.py PATHFILE [SAMPLES]

A .txt path file is read as the reference release's test clips (16 frames, 112x112), a .csv as stills of 224x224. The
plain loop opens and resizes every frame with PIL, makes it float32 in [0, 1] and stacks the frames.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ecstfl_cli import pathfile
from ecstfl_cli.api import InputSpec
from ecstfl_cli.components.sample_dataset import SampleDataset, collate
from ecstfl_cli.components.sampling import evaluation_indices
from ecstfl_cli.engine.samples import Sample
from ecstfl_cli.media.frames import list_frames


def plain(sample: Sample, spec: InputSpec) -> np.ndarray:
    """One sample as float32, channels first."""
    if spec.modality == "img":
        files = [sample.source]
    else:
        folder = list_frames(sample.source)
        files = [folder[i] for i in evaluation_indices(spec.sampling, len(folder))]
    images = [
        Image.open(file).convert("RGB").resize((spec.size, spec.size), Image.Resampling.BILINEAR) for file in files
    ]
    return np.stack([np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255 for image in images])


def rate(read: Callable[[int], Any], count: int) -> float:
    """Samples per second of reading `count` of them."""
    started = time.perf_counter()
    for i in range(count):
        read(i)
    return count / (time.perf_counter() - started)


def main() -> None:
    """Print both rates and their ratio."""
    listed = pathfile.read(sys.argv[1], root=None, label_map=None, require_labels=False)
    samples = [Sample(Path(row.location), -1, row.path_as_written) for row in listed.rows]
    count = min(int(sys.argv[2]) if len(sys.argv) > 2 else 300, len(samples))
    spec = InputSpec(listed.modality, size=112 if listed.modality == "video" else 224)
    dataset = SampleDataset(samples, spec)
    rate(lambda i: plain(samples[i], spec), count)  # fills the page cache for both
    ours = rate(lambda i: collate([dataset[(0, i)]]), count)
    theirs = rate(lambda i: plain(samples[i], spec), count)
    print(f"{count} {'clips' if listed.modality == 'video' else 'images'} of {listed.path}, one process, warm cache")
    print(f"ecstfl  {ours:8.1f} /s\nplain   {theirs:8.1f} /s\nratio   {ours / theirs:8.2f}")


if __name__ == "__main__":
    main()
