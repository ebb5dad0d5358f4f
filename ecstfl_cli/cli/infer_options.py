"""The options of `ecstfl infer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecstfl_cli.cli.choices import Device, Modality, Precision, option
from ecstfl_cli.media.faces import MOST_BETWEEN

MODEL, LOOKING, OUTPUT, JOB, LISTS = "Model", "Videos and images", "Output", "Computing", "Path files"

Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[VIDEO|IMAGE|DIRECTORY|PATTERN|ADDRESS|PATHFILE|-]...",
        help="What to look at; - reads paths from standard input, one a line. The path file that `ecstfl prepare` "
        "wrote last if not given.",
    ),
]
ModelName = Annotated[
    str | None,
    option(
        "--model",
        "--model-name",
        panel=MODEL,
        help="A checkpoint file, a run folder, an .onnx file, or a name of `ecstfl checkpoints`. If not given, the one "
        "that ships with ecstfl; for path files the newest finished run.",
    ),
]
Type = Annotated[Modality | None, option("--type", panel=MODEL, help="Stills or clips; the model must be for them.")]
BackboneName = Annotated[
    str | None,
    option("--backbone", panel=MODEL, help="Backbone of a foreign checkpoint, where its tensors do not tell."),
]
ModelLabelMap = Annotated[
    str | None,
    option(
        "--model-label-map", panel=MODEL, help="Label map of a foreign checkpoint's outputs, which names no classes."
    ),
]
Flip = Annotated[
    bool,
    option(
        "--flip",
        panel=MODEL,
        help="Look at each face and its mirror image, and take the mean: more accurate, twice the computation.",
    ),
]
Camera = Annotated[str | None, option("--camera", panel=LOOKING, help="A camera by its number, from 0, or its name.")]
Faces = Annotated[
    bool | None,
    option(
        "--faces/--no-faces",
        panel=LOOKING,
        help="Find faces, or take each picture for one. If not given, square pictures of 16 to 128 pixels are faces.",
    ),
]
Every = Annotated[int, option("--every", panel=LOOKING, min=1, help="Look at every Nth frame of videos.")]
Fps = Annotated[
    float | None, option("--fps", panel=LOOKING, help="Look at so many frames a second, whatever a video has.")
]
DetectEvery = Annotated[
    int,
    option(
        "--detect-every",
        panel=LOOKING,
        min=1,
        max=MOST_BETWEEN,
        help="Find faces in every Nth of the frames looked at and interpolate in between; streams: in each.",
    ),
]
Smoothing = Annotated[
    float,
    option(
        "--smoothing",
        panel=LOOKING,
        min=0.0,
        help="Seconds over which a face's probabilities are averaged; 0 leaves them as they are.",
    ),
]
Window = Annotated[float, option("--window", panel=LOOKING, help="Seconds that a model for clips sees.")]
Stride = Annotated[float, option("--stride", panel=LOOKING, help="Seconds from one such window to the next.")]
MinScore = Annotated[
    float | None,
    option("--min-score", panel=LOOKING, min=0.0, max=1.0, help="Leave out faces that the detector is less sure of."),
]
FrameRate = Annotated[
    float | None,
    option(
        "--frame-rate",
        panel=LOOKING,
        help="A folder's images are the frames of a video, so many a second; without it they are stills.",
    ),
]
MaxSeconds = Annotated[
    float | None, option("--max-seconds", panel=LOOKING, help="Look at the first seconds of videos or streams.")
]
Null = Annotated[bool, option("--null", "-0", panel=LOOKING, help="Paths read by - end with NUL characters.")]
Out = Annotated[
    Path | None, option("--out", panel=OUTPUT, help="Folder for the results. A new one under runs/infer if not given.")
]
AsJson = Annotated[
    bool,
    option(
        "--json",
        panel=OUTPUT,
        help="Print the result as JSON, and write predictions.json too; of a camera or stream each row as it comes.",
    ),
]
Parquet = Annotated[bool, option("--parquet", panel=OUTPUT, help="Write predictions.parquet too.")]
Annotate = Annotated[
    bool, option("--annotate", panel=OUTPUT, help="Write copies with boxes, names and bar charts drawn on them.")
]
WithReport = Annotated[bool, option("--report", panel=OUTPUT, help="Write report.html, to look at in a browser.")]
Resume = Annotated[Path | None, option("--resume", panel=JOB, help="Go on with an unfinished result in this folder.")]
Shard = Annotated[
    str | None,
    option("--shard", panel=JOB, metavar="I/N", help="Do part I of N, from 1, with the same --out as the others."),
]
Merge = Annotated[
    Path | None, option("--merge", panel=JOB, help="Put the parts together that shards have left in this folder.")
]
DeviceName = Annotated[Device, option("--device", panel=JOB, help="Where to compute; gpu is CUDA or Apple's.")]
PrecisionName = Annotated[Precision, option("--precision", panel=JOB, help="Number format; auto is fp32 on a CPU.")]
BatchSize = Annotated[
    int | None,
    option("--batch-size", "-b", panel=JOB, min=1, help="Faces or clips computed at a time; 32, for path files 16."),
]
Workers = Annotated[
    int | None,
    option(
        "--workers",
        "-j",
        "--jobs",
        panel=JOB,
        min=0,
        help="Processes that look at files, or read the images of path files. Chosen by the machine if not given.",
    ),
]
LabelMap = Annotated[
    str | None,
    option(
        "--label-map",
        panel=LISTS,
        help="Label map of the path files' labels, where `ecstfl prepare` did not record it.",
    ),
]
DataRoot = Annotated[
    Path | None, option("--data-root", panel=LISTS, help="Folder that relative paths in path files start from.")
]
DropClasses = Annotated[
    bool,
    option("--drop-classes", panel=LISTS, help="Leave samples out whose class the model lacks, instead of stopping."),
]
SkipBad = Annotated[
    bool,
    option(
        "--skip-bad",
        panel=LISTS,
        help="Leave unreadable samples out, into a rejects file, instead of stopping. Videos and images always are.",
    ),
]
