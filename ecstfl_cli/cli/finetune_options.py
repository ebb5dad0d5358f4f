"""The options of `ecstfl finetune`; the reference release's are among them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecstfl_cli.cli.choices import Device, Modality, Precision, Tracker, option

DATA, TRAINING, RUN = "Model and data", "Training", "Run"

RecipeName = Annotated[
    str | None,
    typer.Argument(metavar="RECIPE", help="A recipe file, or a name that `ecstfl recipes` lists."),
]
Settings = Annotated[
    list[str] | None,
    option(
        "--set",
        panel=RUN,
        metavar="KEY.PATH=VALUE",
        help="Set any recipe key, e.g. --set augment.hflip=0. Repeat it for more; the other options come after it.",
    ),
]
Type = Annotated[Modality | None, option("--type", panel=DATA, help="Stills or clips.")]
ModelName = Annotated[
    str | None,
    option(
        "--model-name",
        panel=DATA,
        help="A model of the reference release: resnet18, r3d, their _ECSTFL forms, or released weights such as "
        "r3d_ECSTFL_dfew to start from. With a recipe it replaces the network.",
    ),
]
ListFileTrain = Annotated[
    str | None,
    option("--list-file-train", panel=DATA, help="Path file to train on. Without a recipe: annotation/*_train."),
]
ListFileVal = Annotated[
    str | None,
    option(
        "--list-file-val",
        panel=DATA,
        help="Path file to choose the best epoch on; with a validation split it is tested on after training instead.",
    ),
]
ValSplit = Annotated[
    float | None,
    option("--val-split", panel=DATA, help="Part of the training list to choose the best epoch on, e.g. 0.1."),
]
DataRoot = Annotated[
    str | None, option("--data-root", panel=DATA, help="Folder that relative paths of the path files start from.")
]
LabelMapName = Annotated[
    str | None,
    option(
        "--label-map",
        panel=DATA,
        help="Label map of the model, that is the classes it learns. The path files' own is data.label_map.",
    ),
]
DropClasses = Annotated[
    bool,
    option(
        "--drop-classes",
        panel=DATA,
        help="Leave samples out whose class the model's label map lacks, instead of stopping; how many is said.",
    ),
]
SkipBad = Annotated[
    bool, option("--skip-bad", panel=DATA, help="Leave bad rows out, into a rejects file, instead of stopping.")
]
Gamma = Annotated[
    float | None, option("--gamma", panel=TRAINING, help="Weight of the EC-STFL loss; 0 is plain cross-entropy.")
]
Epochs = Annotated[int | None, option("--epochs", panel=TRAINING, help="Epochs to train.")]
BatchSize = Annotated[int | None, option("--batch-size", "-b", panel=TRAINING, help="Samples in a step.")]
LearningRate = Annotated[
    float | None, option("--lr", "--learning-rate", panel=TRAINING, help="Learning rate at the start.")
]
Momentum = Annotated[float | None, option("--momentum", panel=TRAINING, help="Momentum of SGD.")]
WeightDecay = Annotated[float | None, option("--wd", "--weight-decay", panel=TRAINING, help="Weight decay.")]
StepSize = Annotated[
    int | None,
    option("--scheduler-stepsize", panel=TRAINING, help="Epochs after which the step schedule lowers the rate."),
]
Seed = Annotated[int | None, option("--seed", panel=TRAINING, help="Seed of weights, order, augmentation and split.")]
DeviceName = Annotated[
    Device | None, option("--device", panel=RUN, help="Where to train; gpu means whatever accelerator is here.")
]
PrecisionName = Annotated[Precision | None, option("--precision", panel=RUN, help="Precision of the training step.")]
Compile = Annotated[
    bool, option("--compile", panel=RUN, help="Compile the network with torch.compile; what that costs is shown.")
]
Workers = Annotated[
    int | None,
    option("--workers", "-j", panel=RUN, help="Processes that load samples, for each training process."),
]
ProcessCount = Annotated[
    int | None,
    option("--processes", panel=RUN, min=1, help="Train in so many processes of this machine, one a GPU."),
]
SaveEvery = Annotated[
    str | None,
    option("--save-every", panel=RUN, help="Save the state within epochs, too: every so many steps, or 15min."),
]
MaxMinutes = Annotated[
    float | None,
    option("--max-minutes", panel=RUN, help="Save and stop after so many minutes; --resume continues."),
]
DetectAnomaly = Annotated[
    bool,
    option("--detect-anomaly", panel=RUN, help="Name the layer whose output or gradient is first not finite; slow."),
]
TrackerNames = Annotated[
    list[Tracker] | None,
    option("--trackers", panel=RUN, help="Log curves and pictures there as well. Repeat it for more than one."),
]
Repeat = Annotated[
    Path | None,
    option("--repeat", panel=RUN, metavar="RUN", help="Run folder to train once more; what differs is reported."),
]
Resume = Annotated[
    Path | None,
    option("--resume", panel=RUN, metavar="RUN", help="Run folder to continue; its own recipe is used if none is."),
]
Output = Annotated[str | None, option("--out", "--output", panel=RUN, help="Folder that run folders are made in.")]
AsJson = Annotated[bool, option("--json", panel=RUN, help="Print the result as JSON.")]
