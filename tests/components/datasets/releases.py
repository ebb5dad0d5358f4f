"""Every release in miniature, laid out and spelt as the publisher, or the code of others, has it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

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


def text(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _encoded(suffix: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (90, 60, 30)).save(out, suffix)
    return out.getvalue()


_JPEG, _PNG = _encoded("JPEG"), _encoded("PNG")


def image(path: Path) -> None:
    text(path, _PNG if path.suffix == ".png" else _JPEG)


def frames(folder: Path, n: int = 2, name: str = "{}.jpg") -> None:
    for i in range(1, n + 1):
        image(folder / name.format(i))


def video(path: Path) -> None:
    text(path, b"not decoded by prepare")


# --- DFEW ------------------------------------------------------------------------------------------------------------

FOLDS = [f"fold{k}_{split}" for k in range(1, 6) for split in ("train", "test")]
# Clip, label from 1, votes from happy to fear.
_DFEW = [(1, 1, (9, 0, 1, 0, 0, 0, 0)), (12, 4, (0, 1, 0, 8, 1, 0, 0)), (345, 7, (0, 0, 0, 0, 2, 0, 8))]


def sheet(path: Path) -> None:
    import openpyxl

    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    table = book.active
    assert table is not None
    classes = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
    table.append([*(f"{i}{name}" for i, name in enumerate(classes, start=1)), "order", "label"])
    for clip, label, votes in _DFEW:
        table.append([*votes, clip, label])
    table.append([2, 2, 2, 2, 2, 0, 0, 999, 0])
    book.save(path)


def dfew(root: Path, spelling: str = "single-labeled") -> None:
    for fold in range(1, 6):
        rotated = _DFEW[fold % 3 :] + _DFEW[: fold % 3]
        for split, rows in (("train", rotated[:2]), ("test", rotated[2:])):
            lines = "".join(f"{clip},{label}\r\n" for clip, label, _ in rows)
            path = root / f"EmoLabel_DataSplit/{split}({spelling})/set_{fold}.csv"
            text(path, "\ufeffvideo_name,label\r\n" + lines)
    for clip, _, _ in _DFEW:
        frames(root / f"Clip/clip_224x224/{clip:05d}", 3, f"{clip:05d}_{{:05d}}.jpg")
        frames(root / f"Clip/clip_224x224_16f/{clip:05d}", 2, f"{clip:05d}_{{:05d}}.jpg")
        video(root / f"Clip/original/{clip:05d}.mp4")
    sheet(root / "EmoLabel_DataSplit/annotation.xlsx")


def dfew_older(root: Path) -> None:
    for fold in range(1, 6):
        text(root / f"label/single_trainset_{fold}.csv", "video_name,label\n00001,1\n00012,4\n")
        text(root / f"label/single_testset_{fold}.csv", "video_name,label\n00345,7\n")
    for clip, _, _ in _DFEW:
        frames(root / f"data/{clip:05d}", 3, f"{clip:05d}_{{:05d}}.jpg")


def _dfew_rows(pattern: str) -> dict[str, list[Expected]]:
    one, two, three = (
        (pattern.format(clip), name, "") for (clip, _, _), name in zip(_DFEW, ("happy", "angry", "fear"), strict=True)
    )
    return {"fold1_train": [two, three], "fold1_test": [one], "fold3_train": [one, two], "fold3_test": [three]}


# --- FERV39k, MAFW ---------------------------------------------------------------------------------------------------


def ferv39k(root: Path) -> None:
    text(root / "4_setups/All_scenes/train_All.csv", "Action/Sad/0010 Sad\r\nDaily Life/Happy/0002 Happy\r\n")
    text(root / "4_setups/All_scenes/test_All.csv", "Action/Angry/0007 Angry\n")
    for clip in ("Action/Sad/0010", "Daily Life/Happy/0002", "Action/Angry/0007"):
        frames(root / "2_ClipsforFaceCrop" / clip, 11, "{}.jpg")


def mafw(root: Path) -> None:
    for fold in range(1, 6):
        text(root / f"single/no_caption/set_{fold}/train.txt", "03747.mp4 anger\n00002.mp4 happiness\n")
        text(root / f"single/no_caption/set_{fold}/test.txt", "00003.mp4 helplessness\n")
        captions = "00004.mp4\tanger_disgust\t一个男人\tA man\n00002.mp4\thappiness\t笑\tHe laughs\n"
        text(root / f"compound/with_caption/set_{fold}/train.txt", captions.encode("gb18030"))
        more = "00003.mp4\tdisgust,anger\t她\tShe\n03747.mp4\tsurprise fear\t他\tHe\n"
        text(root / f"compound/with_caption/set_{fold}/test.txt", more.encode("gb18030"))
    for clip in ("03747", "00002", "00003", "00004"):
        frames(root / "data/frames" / clip, 3, "{}.png")
        video(root / f"data/clips/{clip}.mp4")


_MAFW = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
_MAFW += ["contempt", "anxiety", "helplessness", "disappointment"]
_MAFW_SINGLE = {
    "fold1_train": [("data/{}/03747{}", "angry", ""), ("data/{}/00002{}", "happy", "")],
    "fold5_test": [("data/{}/00003{}", "helplessness", "")],
}


def _mafw_rows(folder: str, suffix: str) -> dict[str, list[Expected]]:
    return {split: [(p.format(folder, suffix), n, s) for p, n, s in rows] for split, rows in _MAFW_SINGLE.items()}


# --- folders named like classes --------------------------------------------------------------------------------------


def afew(root: Path, faces: bool = True) -> None:
    for split, clip, emotion in (("Train", "000046280", "Angry"), ("Train", "1", "Happy"), ("Val", "2", "Anger")):
        video(root / f"{split}_AFEW/{emotion}/{clip}.avi")
        if faces:
            suffix = "_Val" if split == "Val" else ""
            frames(root / f"AlignedFaces_LBPTOP_Points{suffix}/Faces/{clip}", 10, "{}.jpg")
    frames(root / "Train_AFEW/__MACOSX", 1)
    frames(root / "Train_AFEW/Readme pictures", 1)


def sfew(root: Path) -> None:
    image(root / "Train_Aligned_Faces/Anger/Airheads_000519240_00000005.png")
    image(root / "Train_Aligned_Faces/Angry/Pretty_In_Pink_000519240_00000005.png")
    image(root / "Val_Aligned_Faces_new/Surprise/unnamed.png")


_EMOTIONS = ("Anger", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")


def caer(root: Path) -> None:
    for split in ("train", "validation", "test"):
        for emotion in _EMOTIONS:
            for number in (10, 2):
                video(root / f"{split}/{emotion}/{number:04d}.avi")


def caer_s(root: Path) -> None:
    for split, angry in (("train", "Angry"), ("test", "Anger")):
        for emotion in (angry, *_EMOTIONS[1:]):
            image(root / f"{split}/{emotion}/0001.png")


def _class_rows(split: str, names: Iterable[str], anger: str = "Anger") -> list[Expected]:
    folders = {emotion.lower(): emotion for emotion in _EMOTIONS} | {"angry": anger}
    classes = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    return [(f"{split}/{folders[name]}/{file}", name, "") for name in classes for file in names]


def class_folders(root: Path) -> None:
    for split in ("Training", "Test"):
        image(root / split / "Happiness" / "10.jpg")
        image(root / split / "Happiness" / "9.jpg")
        image(root / split / "sad" / "a.png")


def clip_folders(root: Path) -> None:
    for emotion in ("happy", "fear"):
        frames(root / emotion / "clip 2", 3)
        frames(root / emotion / "clip 10", 12)


# --- stills ----------------------------------------------------------------------------------------------------------


def rafdb(root: Path) -> None:
    lines = "train_00001.jpg 5\ntrain_00002.jpg 1\ntest_0001.jpg 7\n"
    text(root / "EmoLabel/list_patition_label.txt", lines)
    for name in ("train_00001", "train_00002", "test_0001"):
        image(root / f"Image/aligned/{name}_aligned.jpg")
        image(root / f"Image/original/{name}.jpg")


_AFFECTNET = [("459/a.jpg", 1), ("459/b.jpg", 7), ("9/c.JPG", 6), ("9/d.jpg", 8), ("9/e.jpg", 10)]


def affectnet(root: Path) -> None:
    header = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"
    rows = [f"{path},134,134,899,899,181.6;530.9,{code},0.78,-0.02\n" for path, code in _AFFECTNET]
    text(root / "Manually_Annotated_file_lists/training.csv", header + "".join(rows[:3]))
    text(root / "Manually_Annotated_file_lists/validation.csv", "".join([rows[3], rows[0], rows[4]]))
    for path, _ in _AFFECTNET:
        image(root / "Manually_Annotated_Images" / path)


def affectnet_npy(root: Path) -> None:
    for split, codes in (("train", ("1", "7", "0")), ("val", (6, 5))):
        for number, code in enumerate(codes, start=9):
            image(root / f"{split}_set/images/{number}.jpg")
            folder = root / f"{split}_set/annotations"
            folder.mkdir(exist_ok=True)
            np.save(folder / f"{number}_exp.npy", np.array(code))
            np.save(folder / f"{number}_val.npy", np.array("0.5"))


# Emotion, usage, and the value of the first pixel.
FER2013 = [(0, "Training"), (3, "Training"), (6, "PublicTest"), (4, "PrivateTest"), (2, "Training"), (1, "Training")]


def fer2013(root: Path) -> None:
    rows = [
        f"{emotion},{' '.join(map(str, [i, 255, *[7] * (48 * 48 - 2)]))},{usage}"
        for i, (emotion, usage) in enumerate(FER2013)
    ]
    text(root / "fer2013.csv", "\n".join(["emotion,pixels,Usage", *rows]) + "\n")


# Votes for neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF.
VOTES = [
    (4, 0, 0, 1, 3, 2, 0, 0, 0, 0),  # 9 votes of two and more: none has more than half
    (0, 6, 4, 0, 0, 0, 0, 0, 0, 0),  # happy
    (0, 0, 1, 1, 4, 3, 1, 0, 0, 0),  # angry: 4 of the 7 that are not single
    (0, 0, 0, 0, 0, 0, 0, 8, 2, 0),  # contempt
    (0, 0, 0, 0, 0, 0, 0, 0, 2, 8),  # no face
    (1, 1, 1, 1, 1, 1, 1, 1, 1, 1),  # nothing remains; of all the first wins
]


def ferplus(root: Path) -> None:
    fer2013(root)
    header = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    rows = [
        ",".join([usage, "" if votes[-1] > 5 else f"fer{i:07d}.png", *map(str, votes)])
        for i, ((_, usage), votes) in enumerate(zip(FER2013, VOTES, strict=True))
    ]
    text(root / "fer2013new.csv", "\n".join([header, *rows]) + "\n")


def fer_image(i: int) -> str:
    """Written below `--out`, not below the data root."""
    return f"OUT/fer2013_images/fer{i:07d}.png"


# --- actors and subjects ---------------------------------------------------------------------------------------------


def cremad(root: Path) -> None:
    for actor in range(1001, 1006):
        video(root / f"VideoFlash/{actor}_IEO_HAP_LO.flv")
        video(root / f"VideoFlash/{actor}_DFA_NEU_XX.flv")
        text(root / f"AudioWAV/{actor}_IEO_HAP_LO.wav", "sound")


def ravdess(root: Path) -> None:
    for actor in range(1, 7):
        folder = root / "Video_Speech" / f"Actor_{actor:02d}"
        for modality in ("01", "02", "03"):
            suffix = "wav" if modality == "03" else "mp4"
            video(folder / f"{modality}-01-06-01-02-01-{actor:02d}.{suffix}")
        video(folder / f"01-01-02-01-01-01-{actor:02d}.mp4")
        video(folder / f"02-02-03-01-02-01-{actor:02d}.mp4")


def ckplus(root: Path) -> None:
    for subject in ("S005", "S010", "S011"):
        for sequence in ("001", "002"):
            frames(root / f"cohn-kanade-images/{subject}/{sequence}", 11, f"{subject}_{sequence}_{{:08d}}.png")
            (root / f"Emotion/{subject}/{sequence}").mkdir(parents=True)
        text(root / f"Emotion/{subject}/001/{subject}_001_00000011_emotion.txt", "   3.0000000e+00\n")


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
