"""Frames per second from a video file to its rows, and face crops per second, beside the `fer` package.

    python benchmarks/video.py VIDEO                                       ecstfl alone
    python benchmarks/video.py VIDEO --fer-python FERVENV/bin/python       and fer, in its own Python, on the same file
    python benchmarks/video.py VIDEO --faces val.csv --label-map fer2013   crops and accuracy on a path file of faces
    python benchmarks/video.py VIDEO --only crops --calibrate train.csv    crops with the model in int8, too
    python benchmarks/video.py VIDEO --minutes 60                          memory over an hour, made by repeating VIDEO

`--only memory` (or `video`, `crops`) leaves the rest out.

Both have their default settings and take turns, each in a process of its own; opening the models does not count. fer
reads each frame with OpenCV, finds faces with its Haar cascade and sees them one by one; ecstfl is `Recogniser`.
Without `--faces` the crops are the faces of the video.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _timing import Running, Turns, Variant, machine, take_turns, timed

from ecstfl_cli import Recogniser

# Crops that are recognised in a turn; fewer are repeated.
CROPS = 3500


# --- ecstfl ----------------------------------------------------------------------------------------------------------


def ours_on_video(model: str | None, video: str) -> Running:
    """Seconds for a video, and how many frames and faces it had."""
    recogniser = Recogniser(model)

    def run() -> dict[str, int]:
        frames = faces = 0
        for seen in recogniser.see(video):
            frames += 1
            faces += len(seen.results)
        return {"frames": frames, "faces": faces}

    while True:
        yield timed(run)


def ours_on_crops(model: str | None, crops: Path) -> Running:
    """Seconds for the crops, and the names of their likeliest classes."""
    recogniser = Recogniser(model, batch_size=64)
    pictures = np.repeat(np.load(crops)[..., None], 3, axis=-1)

    def run() -> list[str]:
        return [recogniser.labels.names[i] for i in recogniser.probs(pictures).argmax(axis=1)]

    while True:
        yield timed(run)


def exported(model: str | None, folder: Path, samples: Path | None = None) -> str:
    """The model as ONNX, in int8 where a path file of samples is given."""
    from ecstfl_cli.engine.reporter import Reporter
    from ecstfl_cli.engine.weights.export import export

    source = Recogniser(model).model.source
    how: dict[str, Any] = {"format": "onnx_int8", "samples": [samples]} if samples else {}
    return str(export(source, out=folder, reporter=Reporter(), **how).path)


# --- fer -------------------------------------------------------------------------------------------------------------


def fer(python: str, kind: str, path: str) -> Running:
    """Seconds and value of each of fer's turns; see _fer_loop.py. Its peak memory is put in with the value."""
    loop = Path(__file__).with_name("_fer_loop.py")
    # Its arithmetic is on the CPU; without this TensorFlow logs its search for GPUs.
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        [python, "-W", "ignore", str(loop)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=quiet,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while True:
            process.stdin.write(json.dumps({kind: path}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"fer ended; run {python} {loop} to see why")
            answer = json.loads(line)
            yield answer["seconds"], (answer["value"], answer["memory"])


# --- data ------------------------------------------------------------------------------------------------------------


def faces_of_list(path_file: Path, label_map: str) -> tuple[np.ndarray, list[str]]:
    """Grey pictures (N, H, W) of a path file of faces that are all of one size, and the names of their classes."""
    from ecstfl_cli.engine.data.samples import load_samples
    from ecstfl_cli.engine.reporter import Reporter
    from ecstfl_cli.labels import label_map_from
    from ecstfl_cli.media.decode import read_image

    labels = label_map_from(label_map)
    samples = load_samples([path_file], modality="img", root=None, label_map=labels, reporter=Reporter())
    grey = [read_image(sample.source).mean(axis=-1).round().astype(np.uint8) for sample in samples]
    return np.stack(grey), [labels.names[sample.label] for sample in samples]


def faces_of_video(model: str | None, video: str) -> np.ndarray:
    """Grey crops (N, H, W) of the faces of a video, repeated until there are enough."""
    from ecstfl_cli.media.faces.cropping import crop_faces

    recogniser = Recogniser(model)
    # A result has the box that a crop needs, and no landmarks.
    crops = [
        crop_faces(seen.frame.pixels, [_Box(result.box) for result in seen.results], recogniser.crop)
        for seen in recogniser.see(video)
        if seen.results
    ]
    if not crops:
        raise SystemExit(f"{video} shows no face; name faces with --faces")
    grey = np.concatenate(crops).mean(axis=-1).round().astype(np.uint8)
    return np.resize(grey, (CROPS, *grey.shape[1:]))


class _Box:
    landmarks = None

    def __init__(self, box: tuple[float, float, float, float]) -> None:
        self.box = box


def repeated(video: str, minutes: float, path: Path) -> Path:
    """A file that plays `video` over and over for so many minutes; its packets are copied as they are."""
    import av

    with av.open(video) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        packets = [packet for packet in source.demux(stream) if packet.dts is not None]
        assert stream.time_base is not None
        first = min(packet.dts for packet in packets)
        length = max(packet.dts + (packet.duration or 1) for packet in packets) - first
        out = target.add_stream_from_template(stream)
        for turn in range(max(1, round(minutes * 60 / float(length * stream.time_base)))):
            source.seek(0)
            for packet in source.demux(stream):
                if packet.dts is not None and packet.pts is not None:
                    packet.dts += turn * length - first
                    packet.pts += turn * length - first
                    packet.stream = out
                    target.mux(packet)
    return path


# --- memory ----------------------------------------------------------------------------------------------------------


def memory_over(model: str | None, video: str, report: Any) -> None:
    """Sends (seconds of video, memory in GB) after each minute of it, and at its end."""
    recogniser = Recogniser(model)
    due, at = 60.0, 0.0
    for seen in recogniser.see(video):
        at = seen.frame.time
        if at >= due:
            report.send((at, _resident()))
            due += 60
    report.send((at, _resident()))
    report.close()


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def memory_by_minute(model: str | None, video: str) -> Iterator[tuple[float, float]]:
    """What `memory_over` sends, of a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=memory_over, args=(model, video, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            yield ours.recv()
    except EOFError:
        process.join()


# --- the tables ------------------------------------------------------------------------------------------------------


def show(title: str, turns: dict[str, Turns], count: dict[str, int], notes: dict[str, str]) -> None:
    """A line a variant: its rate, how many times fer's that is, its memory, and a note."""
    print(f"\n{title}")
    theirs = turns.get("fer")
    for name, turn in turns.items():
        ratio = f"{turn.ratio(theirs):6.2f} x fer" if theirs and name != "fer" else ""
        memory = turn.values[-1][1] if name == "fer" else turn.memory
        print(f"  {name:14s} {count[name] / turn.median:8.1f}/s {ratio:13s} {memory:.2f} GB  {notes[name]}")


def compare_videos(args: argparse.Namespace) -> None:
    """End to end on the video."""
    variants: dict[str, Variant] = {"ecstfl": partial(ours_on_video, args.model, args.video)}
    if args.fer_python:
        variants["fer"] = partial(fer, args.fer_python, "video", args.video)
    turns = take_turns(variants, args.rounds)
    found = {"ecstfl": turns["ecstfl"].values[-1]}
    if "fer" in turns:
        found["fer"] = turns["fer"].values[-1][0]
    notes = {name: f"{value['frames']} frames, {value['faces']} faces" for name, value in found.items()}
    show("frames, end to end", turns, {name: value["frames"] for name, value in found.items()}, notes)


def compare_crops(args: argparse.Namespace, scratch: Path) -> None:
    """Recognition alone, and accuracy where the crops have labels."""
    names: list[str] = []
    if args.faces:
        crops, names = faces_of_list(args.faces, args.label_map)
    else:
        crops = faces_of_video(args.model, args.video)
    file = scratch / "crops.npy"
    np.save(file, crops)
    variants: dict[str, Variant] = {
        "ecstfl": partial(ours_on_crops, args.model, file),
        "ecstfl, ONNX": partial(ours_on_crops, exported(args.model, scratch), file),
    }
    if args.calibrate:
        variants["ecstfl, int8"] = partial(ours_on_crops, exported(args.model, scratch, args.calibrate), file)
    if args.fer_python:
        variants["fer"] = partial(fer, args.fer_python, "crops", str(file))
    turns = take_turns(variants, args.rounds)
    notes = dict.fromkeys(turns, "")
    if names:
        for name, turn in turns.items():
            predicted = turn.values[-1][0] if name == "fer" else turn.values[-1]
            notes[name] = f"WAR {100 * np.mean([p == n for p, n in zip(predicted, names, strict=True)]):.1f}%"
    title = f"{len(crops)} face crops {crops.shape[1]}x{crops.shape[2]}, recognition alone"
    show(title, turns, dict.fromkeys(turns, len(crops)), notes)


def show_memory(args: argparse.Namespace, scratch: Path) -> None:
    """Memory over a long video."""
    long = repeated(args.video, args.minutes, scratch / f"long{Path(args.video).suffix}")
    print(f"\nmemory over {args.minutes:g} minutes of video")
    started = time.perf_counter()
    shown, at = 0.0, 0.0
    for at, memory in memory_by_minute(args.model, str(long)):
        # Ten lines or so, and the first minute, in which buffers fill.
        if not shown or at - shown >= 6 * args.minutes:
            print(f"  after {at:7.1f} s  {memory:.3f} GB", flush=True)
            shown = at
    print(f"  at the end       {memory:.3f} GB")
    seconds = time.perf_counter() - started
    print(f"  {at / seconds:.1f} times as fast as it plays, opening the model included")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("--model", help="a checkpoint; the one that ships")
    parser.add_argument("--fer-python", help="the Python of an environment with the package fer")
    parser.add_argument("--faces", type=Path, help="a .csv path file of faces with labels")
    parser.add_argument("--label-map", default="dfew", help="that of its labels")
    parser.add_argument("--calibrate", type=Path, help="a path file of the training list: int8 is measured, too")
    parser.add_argument("--minutes", type=float, help="show memory over so many minutes of video")
    parser.add_argument("--only", choices=("video", "crops", "memory"), help="one of the tables")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each that count")
    args = parser.parse_args()
    print(f"{machine()}, median of {args.rounds} rounds")
    with tempfile.TemporaryDirectory() as scratch:
        if args.only in (None, "video"):
            compare_videos(args)
        if args.only in (None, "crops"):
            compare_crops(args, Path(scratch))
        if args.minutes and args.only in (None, "memory"):
            show_memory(args, Path(scratch))


if __name__ == "__main__":
    main()
