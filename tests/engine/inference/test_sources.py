"""What inputs stand for: files, directories, patterns, lists and addresses, in a stable order."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from ecstfl_cli.engine.inference.sources import MediaSource, find_sources, read_list
from ecstfl_cli.errors import DataError
from ecstfl_cli.media.moving import read_moving


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(*inputs: str, **options: object) -> list[tuple[str, str]]:
    return [(source.name, source.kind) for source in find_sources(inputs, **options).sources]  # type: ignore[arg-type]


def test_a_directory_is_searched_in_natural_order_without_what_is_hidden() -> None:
    touch("d/10.jpg", "d/2.JPG", "d/b/x.mp4", "d/b/1.png", "d/a.mkv", "d/.hidden.jpg", "d/.git/x.png", "d/._a.mkv")
    touch("d/notes.md", "d/b/list.csv", "d/b/list2.csv", "d/c")
    result = find_sources(["d"])
    assert [source.name for source in result.sources] == ["d/2.JPG", "d/10.jpg", "d/a.mkv", "d/b/1.png", "d/b/x.mp4"]
    assert result.describe() == "3 images, 2 videos"
    assert result.describe_passed_over() == "4 other files passed over: 2 .csv, 1 without an ending, 1 .md"


def test_links_that_lead_round_in_circles_and_double_names_give_a_file_once() -> None:
    touch("d/a.jpg", "d/sub/b.jpg")
    Path("d/sub/up").symlink_to(Path("d").resolve(), target_is_directory=True)
    Path("d/self").symlink_to("self")
    assert found("d", "d/a.jpg", "./d/sub/../a.jpg") == [("d/a.jpg", "image"), ("d/sub/b.jpg", "image")]


@pytest.mark.parametrize("kept", [["predictions.csv", "summary.json"], ["unfinished/job.json"]])
def test_annotated_copies_of_a_result_are_looked_at_only_where_they_are_named(kept: list[str]) -> None:
    touch("d/a.jpg", "d/out/annotated/a.jpg", *(f"d/out/{name}" for name in kept), "d/annotated/mine.jpg")
    assert found("d") == [("d/a.jpg", "image"), ("d/annotated/mine.jpg", "image")]
    assert found("d/out/annotated") == [("d/out/annotated/a.jpg", "image")]


def test_folders_of_images_are_videos_where_that_is_asked_for() -> None:
    touch("d/clip2/1.jpg", "d/clip2/2.jpg", "d/clip10/1.jpg", "d/clip10/deep/1.jpg", "d/talk.mp4", "d/clip2/x.mp4")
    names = [("d/talk.mp4", "video"), ("d/clip2", "frames"), ("d/clip2/x.mp4", "video"), ("d/clip10", "frames")]
    assert found("d", folders_are_videos=True) == [*names, ("d/clip10/deep", "frames")]


def test_a_directory_named_like_a_video_is_a_directory() -> None:
    touch("clip.mp4/1.jpg")
    assert found("clip.mp4") == [("clip.mp4/1.jpg", "image")]


def test_patterns_that_the_shell_left_alone_are_expanded() -> None:
    touch("c/2.mp4", "c/10.mp4", "c/deep/er/3.mp4", "c/a.txt", "c/[1].jpg")
    assert found("c/*.mp4") == [("c/2.mp4", "video"), ("c/10.mp4", "video")]
    assert [name for name, _ in found("c/**/*.mp4")] == ["c/2.mp4", "c/10.mp4", "c/deep/er/3.mp4"]
    assert found("c/[1].jpg") == [("c/[1].jpg", "image")], "a file of that name comes before a pattern"
    assert [name for name, _ in found("c/*")] == ["c/2.mp4", "c/10.mp4", "c/[1].jpg", "c/deep/er/3.mp4"]


def test_addresses_cameras_pipes_and_images_with_several_frames() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save("still.gif")
    os.mkfifo("pipe")
    addresses = ["rtsp://user:pw@host:554/a?b=c", "http://h/x.mp4"]
    assert found(*addresses) == [(name, "stream") for name in addresses]
    assert found("pipe", camera="0") == [("pipe", "stream"), ("0", "camera")]
    assert found("moving.gif", "still.gif") == [("moving.gif", "video"), ("still.gif", "image")]


def test_a_file_whose_ending_tells_nothing_is_looked_into_where_it_was_named() -> None:
    Image.new("RGB", (8, 8)).save("picture.png")
    Path("picture.png").rename("picture")
    Path("notes.md").write_text("nothing to see")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("moving.gif", "moving.png", "moving.webp"):
        frames[0].save(name, save_all=True, append_images=frames[1:])
    Path("moving.gif").rename("moving")
    Path("moving.png").rename("moving.apng")
    assert found("picture") == [("picture", "image")]
    assert found("moving", "moving.apng", "moving.webp") == [
        ("moving", "video"), ("moving.apng", "video"), ("moving.webp", "video"),
    ]  # fmt: skip
    assert [len(list(read_moving(name))) for name in ("moving", "moving.apng", "moving.webp")] == [2, 2, 2]
    with pytest.raises(DataError, match=r"notes\.md: is neither a picture nor a video"):
        found("notes.md")


def test_all_inputs_that_cannot_be_used_are_named_at_once() -> None:
    touch("talk.mp4", "empty/notes.md")
    with pytest.raises(DataError) as caught:
        find_sources(["tlak.mp4", "empty", "*.avi", "talk.mp4", ""])
    lines = caught.value.message.splitlines()[1:]
    assert [line.strip() for line in lines] == [
        "tlak.mp4: no such file or folder. Did you mean 'talk.mp4'?",
        "*.avi: no file or folder matches",
        ": an empty name",
        "empty: holds neither pictures nor videos (other files: 1)",
    ]


def test_lists_are_lines_or_end_with_nul_and_hold_no_patterns() -> None:
    assert read_list(io.BytesIO(b"a b.jpg\r\n\n c.mp4 \n\xff.jpg"), null=False) == ["a b.jpg", " c.mp4 ", "\udcff.jpg"]
    assert read_list(io.BytesIO(b"a\nb.jpg\0c.mp4\0"), null=True) == ["a\nb.jpg", "c.mp4"]
    touch("a.jpg", "[a].jpg")
    sources = find_sources([], listed=["[a].jpg", "gone.mp4", "gone.jpg"]).sources
    assert sources == [
        MediaSource("[a].jpg", "image"),
        MediaSource("gone.mp4", "video"),
        MediaSource("gone.jpg", "image"),
    ]


def test_a_folder_that_cannot_be_read_is_a_source_whose_reader_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("d/a.jpg", "d/locked/b.jpg")
    scan = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert found("d") == [("d/a.jpg", "image"), ("d/locked", "frames")]


def test_what_two_inputs_name_is_looked_at_once_and_refuses_neither() -> None:
    touch("a/1.jpg", "a/b/2.jpg")
    twice = find_sources(["a/1.jpg", "a/b", "a", "a"])
    assert [source.name for source in twice.sources] == ["a/1.jpg", "a/b/2.jpg"]


def test_a_folder_without_media_is_passed_over_beside_others() -> None:
    touch("talk.mp4", "empty/notes.md", "notes.md")
    both = find_sources(["empty", "notes.md", "talk.mp4"])
    assert [source.name for source in both.sources] == ["talk.mp4"]
    assert both.describe_passed_over() == ("2 other files passed over: 2 .md; empty holds neither pictures nor videos")


def test_files_without_an_ending_in_a_folder_are_looked_into() -> None:
    Image.new("RGB", (8, 8)).save("plain.png")
    Path("folder").mkdir()
    Path("plain.png").rename("folder/picture")
    Path("folder/notes").write_text("nothing to see")
    Path("folder/data.zip").write_bytes(b"PK\3\4")
    assert found("folder") == [("folder/picture", "image")]


def test_frames_that_are_no_animation_are_stills() -> None:
    left, right = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    left.save("both.mpo", save_all=True, append_images=[right])
    left.save("moving.avif", save_all=True, append_images=[right], duration=100)
    assert found("both.mpo", "moving.avif") == [("both.mpo", "image"), ("moving.avif", "video")]


def test_a_zip_file_of_pictures_is_no_video() -> None:
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(picture, "JPEG")
    with zipfile.ZipFile("pictures.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.jpg", picture.getvalue())
    with pytest.raises(DataError, match="is neither a picture nor a video"):
        found("pictures.zip")
