"""AFEW, clips of films, and SFEW, frames of them, in seven expressions; the test labels are not public."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from ecstfl_cli.api import PathRow, PreparedDataset, Reporter
from ecstfl_cli.components.datasets.class_folders import class_rows, strays_note
from ecstfl_cli.components.datasets.reading import below, first_existing, require_choice, required
from ecstfl_cli.components.label_maps import afew, sfew

_FACES = "AlignedFaces_LBPTOP_Points"
_FILM = re.compile(r"(.+?)_\d{6,}_\d{6,}$")


class AFEWDataset:
    """`{Train,Val}_AFEW/<emotion>/` with videos, and aligned faces in `AlignedFaces_LBPTOP_Points[_Val]/Faces/<id>/`.

    `clips` takes the aligned `faces` or the `videos`; `auto` the faces where they are unpacked.
    """

    def __init__(self, *, clips: str = "auto") -> None:
        require_choice("clips", clips, ("auto", "faces", "videos"))
        self.clips = clips

    def recognise(self, root: Path) -> bool:
        """Whether both folders of videos are there."""
        return all(first_existing(root, folder) for folder in ("Train_AFEW", "Val_AFEW"))

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """Train and val; the emotions are those of the videos. Raises DataError where a folder is missing."""
        videos = {"train": required(root, "videos", "Train_AFEW"), "val": required(root, "videos", "Val_AFEW")}
        faces = {split: self._faces(root, videos[split], "_Val" * (split == "val")) for split in videos}
        use_faces = self.clips == "faces" or (self.clips == "auto" and any(faces.values()))
        splits = {}
        for split, folder in videos.items():
            rows = class_rows(folder, root, afew, "videos")
            if use_faces:
                place = faces[split] or required(root, "aligned faces", *_face_folders("_Val" * (split == "val")))
                rows = [PathRow(f"{below(place, root)}/{PurePath(row.path).stem}", row.label) for row in rows]
            splits[split] = rows
        strays_note([*videos.values()], afew, reporter)
        reporter.note(
            "assumed, the layout being known from others' code: a clip's emotion is the folder of its video"
            + ("; its frames are the aligned faces of the same name" if use_faces else "")
        )
        return PreparedDataset("afew", "video", splits, "afew", "AFEW 7 (Dhall et al., IEEE MultiMedia 2012)")

    def _faces(self, root: Path, videos: Path, suffix: str) -> Path | None:
        return first_existing(root, *_face_folders(suffix), *_face_folders(suffix, f"{videos.name}/"))


def _face_folders(suffix: str, prefix: str = "") -> tuple[str, ...]:
    names = (f"{_FACES}{suffix}/Faces", f"{_FACES}{suffix}/{_FACES}{suffix}/Faces")
    return tuple(f"{prefix}{name}" for name in (*names, *((f"{_FACES}/Faces",) if prefix else ())))


class SFEWDataset:
    """`Train_Aligned_Faces/<emotion>/*.png` and `Val_Aligned_Faces[_new]/<emotion>/`."""

    def recognise(self, root: Path) -> bool:
        """Whether the aligned faces of train are there."""
        return first_existing(root, "Train_Aligned_Faces") is not None

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """Train and val. The film is in a file's name, `Film_000519240_00000005.png`, and kept as the subject."""
        val = ("Val_Aligned_Faces_new", "Val_Aligned_Faces")
        folders = {
            "train": required(root, "aligned faces", "Train_Aligned_Faces"),
            "val": required(root, "aligned faces of val", *val, *(f"{name}/{name}" for name in val)),
        }
        splits = {split: _with_films(class_rows(folder, root, sfew, "images")) for split, folder in folders.items()}
        strays_note([*folders.values()], sfew, reporter)
        unnamed = sum(row.subject is None for rows in splits.values() for row in rows)
        reporter.note(
            "assumed, the layout being known from others' code: a folder's name is its emotion, and what stands before "
            "the two numbers of a file's name is the film" + (f"; {unnamed} files do not name one" if unnamed else "")
        )
        return PreparedDataset("sfew", "img", splits, "sfew", "SFEW 2 (Dhall et al., ICCV workshops 2011)")


def _with_films(rows: list[PathRow]) -> list[PathRow]:
    films = [_FILM.fullmatch(PurePath(row.path).stem) for row in rows]
    return [
        PathRow(row.path, row.label, subject=film.group(1) if film else None)
        for row, film in zip(rows, films, strict=True)
    ]
