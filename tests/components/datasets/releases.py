"""What `prepare` must make of every release in `layouts`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.components.datasets.layouts import (
    DFEW_CLIPS,
    EMOTIONS,
    afew,
    affectnet,
    affectnet_npy,
    caer,
    caer_s,
    ckplus,
    class_folders,
    clip_folders,
    cremad,
    dfew,
    dfew_older,
    fer2013,
    ferplus,
    ferv39k,
    mafw,
    rafdb,
    ravdess,
    sfew,
)

FOLDS = [f"fold{k}_{split}" for k in range(1, 6) for split in ("train", "test")]
# Path below the data root, class, subject.
Expected = tuple[str, str, str]


@dataclass(frozen=True)
class Release:
    """A data set: how it lies on disk, the `--option`s, and what `prepare` must make of it.

    `rows` are those of the splits that are named there; `splits` are all that are written.
    """

    dataset: str
    build: Callable[[Path], None]
    release: str
    label_map: str | list[str]
    kind: str
    rows: Mapping[str, list[Expected]]
    splits: Iterable[str]
    options: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return "-".join([self.dataset, *(f"{k}={v}" for k, v in self.options.items())])


def _dfew_rows(pattern: str) -> dict[str, list[Expected]]:
    one, two, three = (
        (pattern.format(clip), name, "")
        for (clip, _, _), name in zip(DFEW_CLIPS, ("happy", "angry", "fear"), strict=True)
    )
    return {"fold1_train": [two, three], "fold1_test": [one], "fold3_train": [one, two], "fold3_test": [three]}


_MAFW = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
_MAFW += ["contempt", "anxiety", "helplessness", "disappointment"]
_MAFW_SINGLE = {
    "fold1_train": [("data/{}/03747{}", "angry", ""), ("data/{}/00002{}", "happy", "")],
    "fold5_test": [("data/{}/00003{}", "helplessness", "")],
}


def _mafw_rows(folder: str, suffix: str) -> dict[str, list[Expected]]:
    return {split: [(p.format(folder, suffix), n, s) for p, n, s in rows] for split, rows in _MAFW_SINGLE.items()}


def _class_rows(split: str, names: Iterable[str], anger: str = "Anger") -> list[Expected]:
    folders = {emotion.lower(): emotion for emotion in EMOTIONS} | {"angry": anger}
    classes = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    return [(f"{split}/{folders[name]}/{file}", name, "") for name in classes for file in names]


def fer_image(i: int) -> str:
    """Written below `--out`, not below the data root."""
    return f"OUT/fer2013_images/fer{i:07d}.png"


RELEASES = [
    Release("dfew", dfew, "dfew", "dfew", "frame folders", _dfew_rows("Clip/clip_224x224/{:05d}"), FOLDS),
    Release(
        "dfew",
        lambda root: dfew(root, "single_labeled"),
        "dfew",
        "dfew",
        "video files",
        _dfew_rows("Clip/original/{:05d}.mp4"),
        FOLDS,
        {"clips": "original"},
    ),
    Release(
        "dfew",
        dfew_older,
        "dfew",
        "dfew",
        "frame folders",
        {"fold2_train": [("data/00001", "happy", ""), ("data/00012", "angry", "")]},
        FOLDS,
    ),
    Release(
        "ferv39k",
        ferv39k,
        "ferv39k",
        "ferv39k",
        "frame folders",
        {
            "train": [
                ("2_ClipsforFaceCrop/Action/Sad/0010", "sad", ""),
                ("2_ClipsforFaceCrop/Daily Life/Happy/0002", "happy", ""),
            ],
            "test": [("2_ClipsforFaceCrop/Action/Angry/0007", "angry", "")],
        },
        ["train", "test"],
    ),
    Release("mafw", mafw, "mafw", "mafw", "frame folders", _mafw_rows("frames", ""), FOLDS),
    Release("mafw", mafw, "mafw", "mafw", "video files", _mafw_rows("clips", ".mp4"), FOLDS, {"clips": "clips"}),
    Release(
        "mafw",
        mafw,
        "mafw_compound",
        [*_MAFW, "angry_disgust", "fear_surprise"],
        "frame folders",
        {
            "fold1_train": [("data/frames/00004", "angry_disgust", ""), ("data/frames/00002", "happy", "")],
            "fold1_test": [("data/frames/00003", "angry_disgust", ""), ("data/frames/03747", "fear_surprise", "")],
        },
        FOLDS,
        {"labels": "compound"},
    ),
    Release(
        "afew",
        afew,
        "afew",
        "afew",
        "frame folders",
        {
            "train": [
                ("AlignedFaces_LBPTOP_Points/Faces/000046280", "angry", ""),
                ("AlignedFaces_LBPTOP_Points/Faces/1", "happy", ""),
            ],
            "val": [("AlignedFaces_LBPTOP_Points_Val/Faces/2", "angry", "")],
        },
        ["train", "val"],
    ),
    Release(
        "afew",
        afew,
        "afew",
        "afew",
        "video files",
        {"val": [("Val_AFEW/Anger/2.avi", "angry", "")]},
        ["train", "val"],
        {"clips": "videos"},
    ),
    Release(
        "sfew",
        sfew,
        "sfew",
        "sfew",
        "images",
        {
            "train": [
                ("Train_Aligned_Faces/Anger/Airheads_000519240_00000005.png", "angry", "Airheads"),
                ("Train_Aligned_Faces/Angry/Pretty_In_Pink_000519240_00000005.png", "angry", "Pretty_In_Pink"),
            ],
            "val": [("Val_Aligned_Faces_new/Surprise/unnamed.png", "surprise", "")],
        },
        ["train", "val"],
    ),
    Release(
        "caer",
        caer,
        "caer",
        "caer",
        "video files",
        {
            "train": _class_rows("train", ("0002.avi", "0010.avi")),
            "val": _class_rows("validation", ("0002.avi", "0010.avi")),
        },
        ["train", "val", "test"],
    ),
    Release(
        "caer_s",
        caer_s,
        "caer_s",
        "caer",
        "images",
        {"train": _class_rows("train", ["0001.png"], "Angry"), "test": _class_rows("test", ["0001.png"])},
        ["train", "test"],
    ),
    Release(
        "class_folders",
        class_folders,
        "data",
        "dfew",
        "images",
        {
            "train": [
                ("Training/Happiness/9.jpg", "happy", ""),
                ("Training/Happiness/10.jpg", "happy", ""),
                ("Training/sad/a.png", "sad", ""),
            ]
        },
        ["train", "test"],
    ),
    Release(
        "class_folders",
        clip_folders,
        "data",
        "dfew",
        "frame folders",
        {
            "train": [(f"{name}/{clip}", name, "") for name in ("fear", "happy") for clip in ("clip 2", "clip 10")],
        },
        ["train"],
    ),
    Release(
        "rafdb",
        rafdb,
        "rafdb",
        "rafdb",
        "images",
        {
            "train": [
                ("Image/aligned/train_00001_aligned.jpg", "sad", ""),
                ("Image/aligned/train_00002_aligned.jpg", "surprise", ""),
            ],
            "test": [("Image/aligned/test_0001_aligned.jpg", "neutral", "")],
        },
        ["train", "test"],
    ),
    Release(
        "rafdb",
        rafdb,
        "rafdb",
        "rafdb",
        "images",
        {"test": [("Image/original/test_0001.jpg", "neutral", "")]},
        ["train", "test"],
        {"images": "original"},
    ),
    Release(
        "affectnet",
        affectnet,
        "affectnet7",
        "affectnet7",
        "images",
        {
            "train": [
                ("Manually_Annotated_Images/459/a.jpg", "happy", ""),
                ("Manually_Annotated_Images/9/c.JPG", "angry", ""),
            ],
            "val": [("Manually_Annotated_Images/459/a.jpg", "happy", "")],
        },
        ["train", "val"],
    ),
    Release(
        "affectnet",
        affectnet,
        "affectnet8",
        "affectnet8",
        "images",
        {
            "train": [
                ("Manually_Annotated_Images/459/a.jpg", "happy", ""),
                ("Manually_Annotated_Images/459/b.jpg", "contempt", ""),
                ("Manually_Annotated_Images/9/c.JPG", "angry", ""),
            ],
        },
        ["train", "val"],
        {"classes": 8},
    ),
    Release(
        "affectnet_npy",
        affectnet_npy,
        "affectnet7",
        "affectnet7",
        "images",
        {
            "train": [("train_set/images/9.jpg", "happy", ""), ("train_set/images/11.jpg", "neutral", "")],
            "val": [("val_set/images/9.jpg", "angry", ""), ("val_set/images/10.jpg", "disgust", "")],
        },
        ["train", "val"],
    ),
    Release(
        "affectnet_npy",
        affectnet_npy,
        "affectnet8",
        "affectnet8",
        "images",
        {
            "train": [
                ("train_set/images/9.jpg", "happy", ""),
                ("train_set/images/10.jpg", "contempt", ""),
                ("train_set/images/11.jpg", "neutral", ""),
            ],
        },
        ["train", "val"],
        {"classes": 8},
    ),
    Release(
        "fer2013",
        fer2013,
        "fer2013",
        "fer2013",
        "images",
        {
            "train": [
                (fer_image(0), "angry", ""),
                (fer_image(1), "happy", ""),
                (fer_image(4), "fear", ""),
                (fer_image(5), "disgust", ""),
            ],
            "val": [(fer_image(2), "neutral", "")],
            "test": [(fer_image(3), "sad", "")],
        },
        ["train", "val", "test"],
    ),
    Release(
        "ferplus",
        ferplus,
        "ferplus",
        "ferplus",
        "images",
        {
            "train": [(fer_image(1), "happy", "")],
            "val": [(fer_image(2), "angry", "")],
            "test": [(fer_image(3), "contempt", "")],
        },
        ["train", "val", "test"],
    ),
    Release(
        "ferplus",
        ferplus,
        "ferplus_argmax",
        "ferplus",
        "images",
        {"train": [(fer_image(0), "neutral", ""), (fer_image(1), "happy", ""), (fer_image(5), "neutral", "")]},
        ["train", "val", "test"],
        {"rule": "argmax"},
    ),
    Release(
        "cremad",
        cremad,
        "cremad",
        "cremad",
        "video files",
        {
            "fold2_test": [
                ("VideoFlash/1002_DFA_NEU_XX.flv", "neutral", "1002"),
                ("VideoFlash/1002_IEO_HAP_LO.flv", "happy", "1002"),
            ]
        },
        FOLDS,
    ),
    Release(
        "ravdess",
        ravdess,
        "ravdess",
        "ravdess",
        "video files",
        {
            "fold5_test": [
                ("Video_Speech/Actor_05/01-01-02-01-01-01-05.mp4", "calm", "05"),
                ("Video_Speech/Actor_05/02-01-06-01-02-01-05.mp4", "fear", "05"),
            ]
        },
        [*FOLDS, "fold6_train", "fold6_test"],
    ),
    Release(
        "ravdess",
        ravdess,
        "ravdess_song",
        "ravdess",
        "video files",
        {"fold2_test": [(f"Video_Speech/Actor_{a}/02-02-03-01-02-01-{a}.mp4", "happy", a) for a in ("02", "05")]},
        FOLDS[:6],
        {"channel": "song", "folds": 3},
    ),
    Release(
        "ckplus",
        ckplus,
        "ckplus",
        "ckplus7",
        "images",
        {"fold2_test": [("cohn-kanade-images/S010/001/S010_001_00000011.png", "disgust", "S010")]},
        FOLDS[:6],
        {"folds": 3},
    ),
    Release(
        "ckplus",
        ckplus,
        "ckplus_sequence",
        "ckplus7",
        "frame folders",
        {"fold3_test": [("cohn-kanade-images/S011/001", "disgust", "S011")]},
        FOLDS[:6],
        {"folds": 3, "frames": "sequence"},
    ),
]
