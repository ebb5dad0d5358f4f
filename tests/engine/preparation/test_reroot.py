"""Re-rooting: rows are found by what exists on disk, whatever prefix they carry, and never by a guess."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ecstfl_cli.engine.preparation.reroot import RerootResult, reroot
from ecstfl_cli.errors import DataError


@pytest.fixture
def release(tmp_path: Path) -> Callable[..., Path]:
    """`release("clips/00001", …)` makes frame folders of two frames, or files where the name has a suffix."""

    def make(*names: str) -> Path:
        root = tmp_path / "release"
        for name in names:
            files = [root / name] if Path(name).suffix else [root / name / "1.jpg", root / name / "2.jpg"]
            for file in files:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(b"image")
        return root

    return make


def clips(root: Path, *paths: str) -> RerootResult:
    return _rerooted(root, "list.txt", [f"{path} 2 3" for path in paths])


def images(root: Path, *paths: str) -> RerootResult:
    return _rerooted(root, "list.csv", ["filePath,expression", *(f"{path},3" for path in paths)])


def _rerooted(root: Path, name: str, lines: Sequence[str]) -> RerootResult:
    path = root.parent / name
    path.write_text("\n".join(lines) + "\n")
    before = path.read_bytes()
    result = reroot(path, root)
    assert path.read_bytes() == before
    return result


def found(result: RerootResult, root: Path) -> list[str | None]:
    return [Path(row.hit.path).relative_to(root).as_posix() if row.hit else None for row in result.rows]


@pytest.mark.parametrize(
    "prefix",
    ["/home/x/DFEW/", "D:\\DFEW\\", "D:\\\\DFEW\\\\", "\\\\server\\share\\", "./data/", "../../data/", "my data/", ""],
)
def test_any_prefix_is_dropped_and_named(release, prefix: str) -> None:
    root = release("clips/00001", "clips/00002")
    separator = "\\" if "\\" in prefix else "/"
    result = clips(root, *(f"{prefix}clips{separator}{name}" for name in ("00001", "00002")))
    assert found(result, root) == ["clips/00001", "clips/00002"]
    assert (result.resolved, result.total) == (2, 2)
    assert result.prefix_note == f"{prefix or '(none)'} -> {root}/"
    assert result.text() == f"{root}/clips/00001 2 3\n{root}/clips/00002 2 3\n"


def test_one_list_may_carry_several_prefixes(release) -> None:
    root = release("clips/00001", "clips/00002", "clips/00003", "clips/00004")
    result = clips(root, "/home/x/clips/00001", r"D:\DFEW\clips\00002", "clips/00003", "somewhere/else/00004")
    assert found(result, root) == ["clips/00001", "clips/00002", "clips/00003", "clips/00004"]
    assert "and 1 more" in result.prefix_note


def test_the_data_root_may_lie_above_or_below_what_the_list_meant(release) -> None:
    root = release("DFEW/clip/00001", "DFEW/clip/00002")
    assert found(clips(root, "clip/00001", "clip/00002"), root) == ["DFEW/clip/00001", "DFEW/clip/00002"]
    below = root / "DFEW" / "clip"
    assert found(clips(below, "/x/clip/00001", "/x/clip/00002"), below) == ["00001", "00002"]


def test_the_longest_remainder_wins(release) -> None:
    root = release("a/clips/00001", "clips/00001", "00001")
    assert found(clips(root, "/x/a/clips/00001"), root) == ["a/clips/00001"]
    assert found(clips(root, "/x/clips/00001"), root) == ["clips/00001"]


def test_of_equal_remainders_the_nearest_to_the_root_wins(release) -> None:
    root = release("clips/00001", "copy/clips/00001")
    assert found(clips(root, "/x/clips/00001"), root) == ["clips/00001"]


def test_a_bare_name_that_lies_in_two_folders_is_not_guessed(release) -> None:
    root = release("train/1.jpg", "test/1.jpg", "train/2.jpg")
    result = images(root, "faces/1.jpg", "faces/2.jpg")
    assert found(result, root) == [None, "train/2.jpg"]
    (problem,) = result.problems()
    assert "ambiguous: 1.jpg lies in" in problem.text
    deeper = release("one/3.jpg", "two/deep/3.jpg")
    assert found(images(deeper, "faces/3.jpg"), deeper) == [None], "at any depth"


def test_a_remainder_of_several_components_that_lies_twice_at_one_depth_is_not_guessed(release) -> None:
    root = release("a/clips/1", "b/clips/1")
    assert found(clips(root, "/x/clips/1"), root) == [None]


def test_a_missing_clip_is_not_replaced_by_its_namesake_elsewhere(release) -> None:
    names = [f"{i:05d}" for i in range(1, 6)]
    root = release(*(f"clip_224/{name}" for name in names[:4]), "other/00005")
    result = clips(root, *(f"/x/clip_224/{name}" for name in names))
    assert found(result, root)[:4] == [f"clip_224/{name}" for name in names[:4]]
    assert found(result, root)[4] is None
    assert "neighbours" in result.problems()[0].text


def test_different_rows_never_become_one_path(release) -> None:
    root = release("0.jpg", "1.jpg")
    result = images(root, "a/0.jpg", "b/0.jpg", "a/1.jpg", "a/1.jpg")
    assert found(result, root) == [None, None, "1.jpg", "1.jpg"], "a row that is listed twice is no conflict"
    kept = release("happy/2.jpg")
    result = images(kept, "happy/2.jpg", "gone/2.jpg")
    assert found(result, kept) == ["happy/2.jpg", None], "the row that keeps more of its path has the better claim"


def test_a_clip_must_be_a_folder_with_frames_and_an_image_a_file(release) -> None:
    root = release("clips/00001", "clips/00002.jpg", "faces/1.jpg", "faces/2.jpg/1.jpg")
    (root / "clips" / "00003").mkdir()
    result = clips(root, "clips/00001", "clips/00002.jpg", "clips/00003")
    assert found(result, root) == ["clips/00001", None, None]
    assert "holds no images" in result.problems()[1].text
    assert found(images(root, "faces/1.jpg", "faces/2.jpg"), root) == ["faces/1.jpg", None]


def test_unresolved_rows_stay_as_they_were_or_are_left_out(release) -> None:
    root = release("clips/00001")
    result = _rerooted(root, "list.txt", [r"D:\clips\00001 2 happy", r"D:\clips\my clip 9 fear", "no/label 7"])
    assert (result.resolved, result.total) == (1, 3)
    assert result.text() == f"{root}/clips/00001 2 happy\nD:\\clips\\my clip 9 fear\nno/label 7\n"
    assert result.text(keep_unresolved=False) == f"{root}/clips/00001 2 happy\n"
    assert [problem.line for problem in result.problems()] == [2, 3]


def test_frame_counts_are_taken_from_disk(release) -> None:
    root = release("clips/00001", "clips/00002", "clips/00003")
    result = _rerooted(root, "list.txt", ["clips/00001 16 0", "clips/00002 2 1", "clips/00003"])
    assert [row.n_frames for row in result.rows] == [2, 2, 2]
    assert result.recounted == 1
    assert result.text() == "".join(f"{root}/clips/0000{i} 2 {label}\n" for i, label in ((1, 0), (2, 1), (3, -1)))


def test_labels_and_further_columns_of_an_image_list_stay_as_written(release) -> None:
    root = release("faces/a, b.jpg", "faces/c.jpg")
    lines = ["age,expression,filePath", '30,Anger,"/x/faces/a, b.jpg"', "41,,faces\\c.jpg", "9,0,gone.jpg"]
    expected = [lines[0], f'30,Anger,"{root}/faces/a, b.jpg"', f"41,,{root}/faces/c.jpg", lines[3]]
    assert _rerooted(root, "list.csv", lines).text().splitlines() == expected


def test_a_folder_of_thousands_of_clips_is_looked_into_but_not_below(release) -> None:
    root = release(*(f"clips/{i:05d}/1.jpg" for i in range(300)))
    assert found(clips(root, "/x/00299"), root) == ["clips/00299"]
    assert found(images(root, "/x/00299/1.jpg"), root) == ["clips/00299/1.jpg"]
    assert found(images(root, "/x/1.jpg"), root) == [None]


def test_a_root_that_is_no_folder_is_an_error(release, tmp_path: Path) -> None:
    root = release("clips/00001")
    assert clips(root, "clips/00001").resolved == 1
    with pytest.raises(DataError, match="not a folder"):
        reroot(tmp_path / "list.txt", tmp_path / "gone")
