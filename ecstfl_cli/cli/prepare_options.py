"""The options of `ecstfl prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecstfl_cli.cli.choices import FaceAlign, PackCodec, PackResize, option

# Panels of the help, of options that mean something together.
CHECKING, CROPPING, PACKING = "Checking", "Faces", "Packing"

Files = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="FILES",
        help="Path files (.csv of images, .txt of clips) to re-root to the data root. With --check alone: path files, "
        "or the name of a manifest, or a recipe (.yaml), to check as they are.",
    ),
]
DataRoot = Annotated[Path | None, option("--data-root", help="Folder that holds the data set.")]
DatasetName = Annotated[
    str | None,
    option("--dataset", help="Name of the data set, instead of recognising it; `ecstfl plugins` lists them."),
]
DatasetOptions = Annotated[
    list[str] | None,
    option(
        "--option",
        metavar="KEY=VALUE",
        help="An option of the data set, e.g. classes=8 of affectnet; docs/datasets.md lists them. May be repeated.",
    ),
]
LabelMapName = Annotated[
    str | None,
    option("--label-map", help="Label map of the indices where the data set does not say, or to join its labels to."),
]
Name = Annotated[
    str | None, option("--name", help="Name of the path files and the manifest, instead of the data set's.")
]
Out = Annotated[Path, option("--out", help="Folder that the path files are written to.")]
Images = Annotated[
    Path | None,
    option("--images", help="Folder for the images of a data set that keeps them in a table, instead of --out."),
]
SkipBad = Annotated[
    bool, option("--skip-bad", help="Leave rows that are not on disk out, into a rejects file, and exit with 0.")
]
Check = Annotated[
    bool,
    option(
        "--check",
        panel=CHECKING,
        help="Read all of the data and give a verdict; without --data-root of what is there already.",
    ),
]
CheckFaces = Annotated[
    int,
    option(
        "--check-faces", panel=CHECKING, min=0, help="On how many frames --check looks for a face; 0 looks for none."
    ),
]
Faces = Annotated[
    bool,
    option(
        "--faces",
        panel=CROPPING,
        help="Crop the main face of every sample, and list the crops. FILES may then also be videos, images and "
        "folders of them, without --data-root.",
    ),
]
DetectorName = Annotated[
    str, option("--detector", panel=CROPPING, help="What finds faces; `ecstfl plugins` lists them.")
]
MinScore = Annotated[
    float, option("--min-score", panel=CROPPING, min=0, max=1, help="Faces scoring less are left out.")
]
Align = Annotated[
    FaceAlign,
    option("--align", panel=CROPPING, help="Crops upright about the box, or turned and sized so that the eyes fit."),
]
Margin = Annotated[
    float, option("--margin", panel=CROPPING, min=-0.4, max=2, help="Added on each side, of the square's side.")
]
Size = Annotated[
    int, option("--size", panel=CROPPING, min=16, max=4096, help="Height and width of the crops in pixels.")
]
FacesOut = Annotated[
    Path | None, option("--faces-out", panel=CROPPING, help="Folder for the crops, instead of one in --out.")
]
Workers = Annotated[int | None, option("--workers", min=1, help="Processes that crop or pack, instead of one a core.")]
DeviceName = Annotated[
    str, option("--device", panel=CROPPING, help="What the detector runs on: auto, cpu, gpu, cuda, cuda:1.")
]
Pack = Annotated[
    int | None,
    option(
        "--pack",
        panel=PACKING,
        metavar="SIZE",
        min=8,
        max=4096,
        help="Pack what was prepared, or the manifest named by FILES, into a few large files of frames of this size.",
    ),
]
PackCodecName = Annotated[PackCodec, option("--pack-codec", panel=PACKING, help="png and raw are lossless.")]
PackQuality = Annotated[int, option("--pack-quality", panel=PACKING, min=1, max=100, help="Quality of packed JPEGs.")]
PackResizeName = Annotated[
    PackResize,
    option("--pack-resize", panel=PACKING, help="SIZE is the shorter side, never enlarged, or that of both sides."),
]
AsJson = Annotated[bool, option("--json", help="Print the result as JSON.")]
