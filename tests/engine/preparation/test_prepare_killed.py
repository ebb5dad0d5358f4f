"""A `prepare` that is killed while it puts its files in place: the next one completes them, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecstfl_cli.api import PathRow, PreparedDataset
from ecstfl_cli.engine.data.manifest import read_manifest_for
from ecstfl_cli.engine.data.samples import fingerprint, load_samples
from ecstfl_cli.engine.preparation.prepare import prepare_dataset
from ecstfl_cli.engine.preparation.reroot_files import reroot_files
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError
from ecstfl_cli.extra_columns import sidecar
from ecstfl_cli.labels import label_map_from
from tests.killing import Killed, kill_at_move

VOTES = (1, 2, 3, 0, 0, 0, 1)


class Release:
    """The clips of a folder in two splits, one of which has a row that is not there; with subjects and votes or not."""

    def __init__(self, label_map: str, *, extra: bool) -> None:
        self.label_map = label_map
        self.extra = extra

    def recognise(self, root: Path) -> bool:
        return root.is_dir()

    def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:  # noqa: ARG002
        about: dict[str, Any] = {"subject": "S1", "soft_label": VOTES} if self.extra else {}
        rows = [PathRow(f"clips/{p.name}", i % 7, **about) for i, p in enumerate(sorted((root / "clips").iterdir()))]
        return PreparedDataset(
            "film", "video", {"train": [*rows[2:], PathRow("gone", 0)], "test": rows[:2]}, self.label_map
        )


def prepare(root: Path, out: Path, release: Release) -> None:
    prepare_dataset(root, dataset=release, out=out, skip_bad=True, reporter=Reporter())


def contents(out: Path) -> dict[str, Any]:
    """Every file that is to be seen, by name; a manifest without its time."""
    found: dict[str, Any] = {}
    for path in out.iterdir():
        if path.suffix == ".json":
            found[path.name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "written_at"}
        elif path.is_file():
            found[path.name] = path.read_bytes()
    return found


def is_consistent(file: Path) -> bool:
    """Whether a path file is as its manifest says; else it must be refused."""
    if not file.is_file():
        return True
    try:
        manifest = read_manifest_for(file)
    except DataError as error:
        assert "did not finish" in str(error)  # noqa: PT017
        assert "Run it again" in str(error.hint)  # noqa: PT017
        return True
    assert manifest is not None
    labels = label_map_from(manifest["label_map"])
    samples = load_samples([file], modality="video", root=None, label_map=labels, reporter=Reporter())
    key = file.stem.rpartition("_")[2]
    return fingerprint(samples) == manifest["fingerprint"][key] and sidecar(file).is_file() == (
        key in manifest["extra"]
    )


FIRST, SECOND = Release("dfew", extra=True), Release("fer2013", extra=False)


@pytest.mark.parametrize(
    ("before", "now"), [(None, FIRST), (FIRST, SECOND), (SECOND, FIRST)], ids=["new", "less", "more"]
)
def test_the_next_prepare_completes_what_a_killed_one_began(
    tiny_clips: Callable, tmp_path: Path, before: Release | None, now: Release
) -> None:
    root = tiny_clips(frames=2).root
    whole = tmp_path / "whole"
    prepare(root, whole, now)
    points = 0
    for number in range(100):
        out = tmp_path / f"out{number}"
        if before:
            prepare(root, out, before)
        out.mkdir(exist_ok=True)
        (out / "mine.txt").write_text("by hand")
        with pytest.MonkeyPatch.context() as patch:
            kill_at_move(number, patch)
            try:
                prepare(root, out, now)
                break
            except Killed:
                points += 1
        assert all(is_consistent(out / f"film_{key}.txt") for key in ("train", "test")), number
        prepare(root, out, now)
        assert contents(out) == {**contents(whole), "mine.txt": b"by hand"}, number
    assert points >= 5


def test_lists_that_were_being_re_rooted_are_completed(tiny_clips: Callable, tmp_path: Path) -> None:
    data = tiny_clips(frames=2)

    def run(out: Path) -> None:
        reroot_files([data.train, data.test], data.root, label_map="dfew", out=out, reporter=Reporter())

    run(tmp_path / "whole")
    points = 0
    for number in range(100):
        out = tmp_path / f"out{number}"
        with pytest.MonkeyPatch.context() as patch:
            kill_at_move(number, patch)
            try:
                run(out)
                break
            except Killed:
                points += 1
        run(out)
        assert contents(out) == contents(tmp_path / "whole"), number
    assert points >= 4


@pytest.mark.parametrize("name", ["film.json", "film_train.extra.csv", "film_test.txt"])
def test_no_file_of_somebody_else_is_overwritten(tiny_clips: Callable, tmp_path: Path, name: str) -> None:
    root, out = tiny_clips(frames=2).root, tmp_path / "out"
    out.mkdir()
    (out / name).write_text("by hand")
    with pytest.raises(DataError, match="would be overwritten"):
        prepare(root, out, FIRST)
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "by hand"


def test_votes_written_by_hand_beside_a_prepared_list_stay(tiny_clips: Callable, tmp_path: Path) -> None:
    root, out = tiny_clips(frames=2).root, tmp_path / "out"
    prepare(root, out, SECOND)
    (out / "film_train.extra.csv").write_text("path,subject\n")
    prepare(root, out, SECOND)
    assert (out / "film_train.extra.csv").read_text() == "path,subject\n"


def test_lists_of_other_options_are_not_mixed_into_one_manifest(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=2, per_class=6)

    class Folds:
        def __init__(self, folds: int) -> None:
            self.folds = folds

        def prepare(self, root: Path, reporter: Reporter) -> PreparedDataset:  # noqa: ARG002
            rows = [PathRow(f"images/{p.name}", 0) for p in sorted((root / "images").iterdir())]
            names = {f"fold{i}_test": rows[i :: self.folds] for i in range(self.folds)}
            return PreparedDataset("folded", "img", names, "dfew")

        recognise = None

    def prepared(folds: int, **more: Any) -> Any:
        options = {"folds": folds}
        return prepare_dataset(
            data.root, dataset=Folds(folds), options=options, out=tmp_path / "out", reporter=Reporter(), **more
        )

    prepared(4)
    there = sorted((tmp_path / "out").iterdir())
    with pytest.raises(DataError, match=r"options \{'folds': 4\}.*folded_fold3_test\.csv"):
        prepared(3)
    assert sorted((tmp_path / "out").iterdir()) == there
    assert len(prepared(3, name="three").manifest["files"]) == 3
    assert len(prepared(4).manifest["files"]) == 4
    # A list of it that is re-rooted knows nothing of options.
    listed = tmp_path / "out" / "folded_fold0_test.csv"
    assert (
        len(reroot_files([listed], data.root, name="folded", out=tmp_path / "out", reporter=Reporter()).rerooted) == 1
    )
