"""The embedded demo data set: clips of drawn faces in the seven expressions of DFEW, generated on the spot.

On disk it looks like DFEW: `clips/00001/00001_00001.jpg` … under the data root, beside them a stamp, `demo.json`, that
says which generator made them. The expressions are FACS prototypes (see `parametric_actions`); subject, light, pose,
background, timing and noise are drawn independently of the label, and no subject is in both train and test.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ecstfl_cli.api import PathRow, PreparedDataset, Reporter
from ecstfl_cli.components.datasets.parametric_actions import sample_actions
from ecstfl_cli.components.datasets.parametric_face import render_clip
from ecstfl_cli.components.datasets.parametric_subject import SIZE, sample_identity, sample_scene
from ecstfl_cli.components.label_maps import dfew
from ecstfl_cli.errors import DataError

STAMP = "demo.json"
GENERATOR = "ecstfl demo faces"
# Raise it whenever the same seed no longer draws the same files.
VERSION = 1
CLIPS = "clips"
UNFINISHED = "clips.unfinished"
FRAMES = (12, 32)
CLIPS_PER_SUBJECT = 10
JPEG_QUALITY = 90
# Each plan, subject and clip has a generator of its own, so that none depends on what else is drawn, or when.
PLAN_STREAM, SUBJECT_STREAM, CLIP_STREAM = 0, 1, 2
# DFEW's single-labelled clips in per cent, with its rarest classes raised so that a small test split holds some.
SHARES = {"happy": 19, "sad": 16, "neutral": 20, "angry": 16, "surprise": 12, "disgust": 8, "fear": 9}


@dataclass(frozen=True)
class Clip:
    """One clip to draw: its number, and what is known of it before anything is drawn."""

    number: int
    subject: int
    expression: str
    frames: int

    @property
    def folder(self) -> str:
        return f"{self.number:05d}"


class DemoDataset:
    """Generates the clips where they are missing, and reuses them where they are complete.

    `seed`, `train_clips` and `test_clips` decide every byte that is written (by one version of
    numpy and Pillow); the defaults take some 20 s to draw.
    """

    def __init__(self, seed: int = 0, train_clips: int = 420, test_clips: int = 140) -> None:
        self.seed = seed
        self.train_clips = train_clips
        self.test_clips = test_clips

    def recognise(self, root: Path) -> bool:
        """Whether `root` holds the stamp of this generator, of whatever seed or state."""
        return _read_stamp(root).get("generator") == GENERATOR

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:
        """Draw the clips under `root` unless they are there, and return the splits; paths are relative to `root`.

        Only `clips`, `clips.unfinished` and `demo.json` are ever written or removed. Raises DataError where `root`
        holds something else and no stamp, or cannot be written.
        """
        train, test = self.plan()
        try:
            if not self._complete(root, [*train, *test]):
                self._generate(root, [*train, *test], reporter)
        except OSError as error:
            raise DataError(
                f"the demo data cannot be written to {root}: {error}",
                "Name a folder that you may write to, with some 100 MB free: "
                "`ecstfl prepare --dataset demo --data-root DIR`",
            ) from error
        return PreparedDataset(
            name="demo",
            modality="video",
            splits={"train": _rows(train), "test": _rows(test)},
            label_map=dfew.name,
            source=f"{GENERATOR} {VERSION}, seed {self.seed}: drawn faces, FACS prototypes of the seven DFEW classes",
        )

    def plan(self) -> tuple[list[Clip], list[Clip]]:
        """The clips of train and test, in the order of their numbers; subjects are dealt out evenly within a split."""
        splits: list[list[Clip]] = []
        number, first_subject = 1, 1
        for split, count in enumerate((self.train_clips, self.test_clips)):
            rng = np.random.default_rng((self.seed, PLAN_STREAM, split))
            subjects = max(2, round(count / CLIPS_PER_SUBJECT))
            expressions = rng.permutation(_expressions(count))
            frames = rng.triangular(FRAMES[0], FRAMES[0], FRAMES[1] + 1, count)
            splits.append(
                [
                    Clip(number + i, first_subject + i % subjects, str(expressions[i]), int(frames[i]))
                    for i in range(count)
                ]
            )
            number, first_subject = number + count, first_subject + subjects
        return splits[0], splits[1]

    def _stamp(self, complete: bool) -> dict[str, Any]:
        return {
            "generator": GENERATOR,
            "version": VERSION,
            "seed": self.seed,
            "train_clips": self.train_clips,
            "test_clips": self.test_clips,
            "size": SIZE,
            "complete": complete,
        }

    def _complete(self, root: Path, clips: Sequence[Clip]) -> bool:
        if _read_stamp(root) != self._stamp(complete=True):
            return False
        return all(
            (root / CLIPS / c.folder / f"{c.folder}_{t + 1:05d}.jpg").is_file() for c in clips for t in range(c.frames)
        )

    def _generate(self, root: Path, clips: Sequence[Clip], reporter: Reporter) -> None:
        self._refuse_foreign(root)
        root.mkdir(parents=True, exist_ok=True)
        # The stamp comes first: whatever happens from here on, the folder is known as ours and can be redone.
        _write_stamp(root, self._stamp(complete=False))
        unfinished = root / UNFINISHED
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        with reporter.progress("drawing", len(clips)) as advance:
            for clip in clips:
                draw_clip(unfinished / clip.folder, clip, self.seed)
                advance(1)
        if (root / CLIPS).exists():
            shutil.rmtree(root / CLIPS)
        unfinished.replace(root / CLIPS)
        _write_stamp(root, self._stamp(complete=True))

    def _refuse_foreign(self, root: Path) -> None:
        if self.recognise(root) or not root.exists() or (root.is_dir() and not any(root.iterdir())):
            return
        found = (
            f"is not empty and holds no {STAMP} of the demo data set" if root.is_dir() else "is a file, not a folder"
        )
        raise DataError(
            f"{root} {found}; nothing was written",
            "Name a new or an empty folder: `ecstfl prepare --dataset demo --data-root DIR`",
        )


def draw_clip(folder: Path, clip: Clip, seed: int) -> None:
    """Draw one clip's frames into the new `folder`, the same bytes whatever else is drawn."""
    rng = np.random.default_rng((seed, CLIP_STREAM, clip.number))
    identity = sample_identity(np.random.default_rng((seed, SUBJECT_STREAM, clip.subject)))
    actions = sample_actions(rng, clip.expression, clip.frames)
    scene = sample_scene(rng, clip.frames)
    folder.mkdir()
    for t, frame in enumerate(render_clip(identity, actions, scene, rng), start=1):
        Image.fromarray(frame).save(folder / f"{clip.folder}_{t:05d}.jpg", quality=JPEG_QUALITY)


def _expressions(count: int) -> list[str]:
    """`count` class names in DFEW's order by SHARES, the largest remainders rounded up."""
    exact = {name: count * share / sum(SHARES.values()) for name, share in SHARES.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: exact[name] - counts[name], reverse=True)
    for name in by_remainder[: count - sum(counts.values())]:
        counts[name] += 1
    return [name for name in dfew.names for _ in range(counts[name])]


def _rows(clips: Sequence[Clip]) -> list[PathRow]:
    return [PathRow(f"{CLIPS}/{c.folder}", dfew.index(c.expression), c.frames, f"S{c.subject:02d}") for c in clips]


def _read_stamp(root: Path) -> dict[str, Any]:
    """The stamp, or an empty one where there is none that can be read."""
    try:
        stamp = json.loads((root / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _write_stamp(root: Path, stamp: dict[str, Any]) -> None:
    draft = root / f"{STAMP}.unfinished"
    draft.write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
    draft.replace(root / STAMP)
