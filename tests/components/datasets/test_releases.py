"""Every release is recognised by itself, and read to exactly the rows that its publisher means."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecstfl_cli import pathfile, registry
from ecstfl_cli.components.datasets import FALLBACKS
from ecstfl_cli.components.datasets.published_counts import _COUNTS, published_counts
from ecstfl_cli.components.label_maps import dfew as dfew_map
from ecstfl_cli.engine.preparation.plugin_choice import options_of
from ecstfl_cli.extra_columns import read_extra_columns
from ecstfl_cli.labels import LabelMap, label_map_from
from ecstfl_cli.media.frames import frame_names
from tests.components.datasets.layouts import FER2013, dfew, ferplus
from tests.components.datasets.layouts import fer2013 as build_fer2013
from tests.components.datasets.releases import RELEASES, Release, fer_image

EVERY = pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.id)


def prepare_flags(root: Path, options: dict | None = None, *more: str | Path) -> list[str | Path]:
    words = [word for key, value in (options or {}).items() for word in ("--option", f"{key}={value}")]
    return ["prepare", "--data-root", root, "--json", *words, *more]


def rows_of(file: Path, label_map: LabelMap, root: Path) -> list[tuple[str, str, str]]:
    """Path below the data root or `OUT`, class and subject of each row, as its readers see them."""
    read = pathfile.read(file, root=None, label_map=label_map)
    extra = read_extra_columns(file, label_map)
    out = file.parent
    return [
        (
            row.path_as_written.replace(str(root) + os.sep, "").replace(str(out), "OUT"),
            label_map.names[row.label or 0],
            extra.subjects[extra.row[row.path_as_written]] if extra.subjects else "",
        )
        for row in read.rows
    ]


@EVERY
def test_a_release_is_recognised_and_read_to_its_rows(cli, release: Release, tmp_path: Path) -> None:
    root = tmp_path / "data"
    release.build(root)
    result = cli(*prepare_flags(root, dict(release.options)), cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    manifest = json.loads(result.stdout)["manifest"]
    assert manifest["dataset"] == release.dataset
    assert (manifest["name"], manifest["release"]) == (release.release, release.release)
    assert (manifest["label_map"], manifest["input_kind"]) == (release.label_map, release.kind)
    assert manifest["options"] == release.options
    assert set(manifest["files"]) == set(release.splits)
    label_map = label_map_from(manifest["label_map"])
    for split, expected in release.rows.items():
        file = tmp_path / "annotation" / manifest["files"][split]
        assert rows_of(file, label_map, root) == expected, split
        assert manifest["samples"][split] == len(expected)
        counted = {name: n for name, n in manifest["counts"][split].items() if n}
        assert counted == {name: sum(row[1] == name for row in expected) for name in {row[1] for row in expected}}
    for name in manifest["files"].values():
        for row in pathfile.read(tmp_path / "annotation" / name, root=None, label_map=label_map).rows:
            on_disk = len(frame_names(row.source)) if row.source.is_dir() else None
            assert row.source.exists()
            assert row.n_frames == on_disk, "counted on disk, and not at all for images and videos"


@EVERY
def test_no_other_data_set_takes_it_for_its_own(release: Release, tmp_path: Path) -> None:
    release.build(tmp_path)
    fits = [n for n in registry.index("datasets") if registry.load("datasets", n)().recognise(tmp_path)]
    assert [name for name in fits if name not in FALLBACKS] in ([release.dataset], [])
    assert release.dataset in fits


@pytest.mark.parametrize("name", [n for n in registry.index("datasets") if n not in ("demo",)])
def test_every_data_set_says_what_it_misses_in_an_empty_folder(cli, name: str, tmp_path: Path) -> None:
    result = cli("prepare", "--data-root", tmp_path, "--dataset", name, cwd=tmp_path)
    assert result.exit_code == 1
    assert str(tmp_path) in result.stderr
    assert "anted" in result.stderr, "what is wanted"
    assert not (tmp_path / "annotation").exists()


def test_every_data_set_is_tested_here() -> None:
    assert {release.dataset for release in RELEASES} == set(registry.index("datasets")) - {"demo", "path_files"}


# --- votes -----------------------------------------------------------------------------------------------------------


def soft_labels(file: Path, label_map: str) -> dict[str, list[float]]:
    found = read_extra_columns(file, label_map_from(label_map))
    assert found.soft_labels is not None
    return {Path(path).name: np.round(found.soft_labels[i].astype(float), 4).tolist() for path, i in found.row.items()}


def test_votes_of_dfew_are_soft_labels_of_its_clips(cli, tmp_path: Path) -> None:
    dfew(tmp_path / "data")
    assert cli(*prepare_flags(tmp_path / "data"), cwd=tmp_path).exit_code == 0
    assert soft_labels(tmp_path / "annotation" / "dfew_fold1_train.txt", "dfew") == {
        "00012": [0, 0.1, 0, 0.8, 0.1, 0, 0],
        "00345": [0, 0, 0, 0, 0.2, 0, 0.8],
    }


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("majority", {"fer0000001.png": [0, 0.6, 0.4, 0, 0, 0, 0, 0]}),
        (
            "argmax",
            {
                "fer0000000.png": [0.4, 0, 0, 0.1, 0.3, 0.2, 0, 0],
                "fer0000001.png": [0, 0.6, 0.4, 0, 0, 0, 0, 0],
                "fer0000005.png": [0.125] * 8,
            },
        ),
    ],
)
def test_votes_of_ferplus_are_soft_labels_by_the_rule(cli, tmp_path: Path, rule: str, expected: dict) -> None:
    ferplus(tmp_path / "data")
    flags = prepare_flags(tmp_path / "data", {"rule": rule}, "--name", "faces")
    assert cli(*flags, cwd=tmp_path).exit_code == 0
    assert soft_labels(tmp_path / "annotation" / "faces_train.csv", "ferplus") == expected


def test_soft_labels_follow_their_classes_to_another_label_map(cli, tmp_path: Path) -> None:
    dfew(tmp_path / "data")
    assert cli(*prepare_flags(tmp_path / "data", {}, "--label-map", "fer2013"), cwd=tmp_path).exit_code == 0
    assert soft_labels(tmp_path / "annotation" / "dfew_fold1_test.txt", "fer2013") == {
        "00001": [0, 0, 0, 0.9, 0, 0, 0.1]
    }


# --- images out of a table -------------------------------------------------------------------------------------------


def test_pixels_of_a_table_become_the_same_grey_images(cli, tmp_path: Path) -> None:
    build_fer2013(tmp_path / "data")
    result = cli(*prepare_flags(tmp_path / "data", {}, "--images", tmp_path / "pictures"), cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    for i in range(len(FER2013)):
        with Image.open(tmp_path / "pictures" / fer_image(i).removeprefix("OUT/")) as picture:
            assert (picture.mode, picture.size) == ("L", (48, 48))
            assert np.asarray(picture)[0, :3].tolist() == [i, 255, 7]
    listed = (tmp_path / "annotation" / "fer2013_val.csv").read_text().splitlines()[1]
    assert listed == f"{tmp_path}/pictures/fer2013_images/fer0000002.png,6"


# --- published counts ------------------------------------------------------------------------------------------------


def test_published_counts_are_of_known_releases_splits_and_classes() -> None:
    by_name = {release.release: release for release in RELEASES}
    for name, splits in _COUNTS.items():
        release = by_name[name]
        classes = set(label_map_from(release.label_map).names)
        for split in splits:
            published = published_counts(name, split)
            assert published is not None
            assert split == "all" or split in release.splits
            assert not published.classes or set(published.classes) == classes


@pytest.mark.parametrize(
    ("release", "split", "samples"),
    [
        ("dfew", "fold1_train", 9356),
        ("dfew", "fold5_test", 2336),
        ("rafdb", "train", 12271),
        ("ferv39k", "train", 31088),
        ("ravdess", "all", 1440),
        ("cremad", "all", 7442),
    ],
)
def test_published_counts_of_classes_add_up(release: str, split: str, samples: int) -> None:
    published = published_counts(release, split)
    assert published is not None
    assert published.samples == samples


def test_nothing_is_published_of_a_data_set_of_ones_own() -> None:
    assert published_counts("holiday", "train") is None
    assert published_counts("dfew", "fold6_train") is None


# --- the guide -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.index("datasets"))
def test_the_guide_has_every_data_set_with_its_options_and_defaults(name: str) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "datasets.md").read_text(encoding="utf-8")
    (row,) = [line for line in guide.splitlines() if line.startswith(f"| `{name}` ")]
    for option, default in options_of(registry.load("datasets", name)).items():
        assert f"`{option}={default}`" in row


def test_a_data_set_with_folds_is_shown_one_split_a_line(cli, tmp_path: Path) -> None:
    dfew(tmp_path / "data")
    lines = [
        line.split() for line in cli("prepare", "--data-root", tmp_path / "data", cwd=tmp_path).stdout.splitlines()
    ]
    assert ["split", *dfew_map.names, "all"] in lines
    assert ["fold1_train", "0", "0", "0", "1", "0", "0", "1", "2"] in lines
    assert lines[-1] == ["Next:", "ecstfl", "finetune", "recipes/dfew.yaml"]
