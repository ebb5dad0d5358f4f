"""Every release in miniature, laid out and spelt as the publisher, or the code of others, has it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


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

# Clip, label from 1, votes from happy to fear.
DFEW_CLIPS = [(1, 1, (9, 0, 1, 0, 0, 0, 0)), (12, 4, (0, 1, 0, 8, 1, 0, 0)), (345, 7, (0, 0, 0, 0, 2, 0, 8))]


def sheet(path: Path) -> None:
    import openpyxl

    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    table = book.active
    assert table is not None
    classes = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
    table.append([*(f"{i}{name}" for i, name in enumerate(classes, start=1)), "order", "label"])
    for clip, label, votes in DFEW_CLIPS:
        table.append([*votes, clip, label])
    table.append([2, 2, 2, 2, 2, 0, 0, 999, 0])
    book.save(path)


def dfew(root: Path, spelling: str = "single-labeled") -> None:
    for fold in range(1, 6):
        rotated = DFEW_CLIPS[fold % 3 :] + DFEW_CLIPS[: fold % 3]
        for split, rows in (("train", rotated[:2]), ("test", rotated[2:])):
            lines = "".join(f"{clip},{label}\r\n" for clip, label, _ in rows)
            path = root / f"EmoLabel_DataSplit/{split}({spelling})/set_{fold}.csv"
            text(path, "\ufeffvideo_name,label\r\n" + lines)
    for clip, _, _ in DFEW_CLIPS:
        frames(root / f"Clip/clip_224x224/{clip:05d}", 3, f"{clip:05d}_{{:05d}}.jpg")
        frames(root / f"Clip/clip_224x224_16f/{clip:05d}", 2, f"{clip:05d}_{{:05d}}.jpg")
        video(root / f"Clip/original/{clip:05d}.mp4")
    sheet(root / "EmoLabel_DataSplit/annotation.xlsx")


def dfew_older(root: Path) -> None:
    for fold in range(1, 6):
        text(root / f"label/single_trainset_{fold}.csv", "video_name,label\n00001,1\n00012,4\n")
        text(root / f"label/single_testset_{fold}.csv", "video_name,label\n00345,7\n")
    for clip, _, _ in DFEW_CLIPS:
        frames(root / f"data/{clip:05d}", 3, f"{clip:05d}_{{:05d}}.jpg")


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


EMOTIONS = ("Anger", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")


def caer(root: Path) -> None:
    for split in ("train", "validation", "test"):
        for emotion in EMOTIONS:
            for number in (10, 2):
                video(root / f"{split}/{emotion}/{number:04d}.avi")


def caer_s(root: Path) -> None:
    for split, angry in (("train", "Angry"), ("test", "Anger")):
        for emotion in (angry, *EMOTIONS[1:]):
            image(root / f"{split}/{emotion}/0001.png")


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
