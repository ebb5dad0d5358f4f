"""Video files as upright frames with their times."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ecstfl_cli.errors import DataError, EcstflError
from ecstfl_cli.media import video
from ecstfl_cli.media.video import probe, read_video


def write_video(path: Path, times: list[float], size: tuple[int, int] = (64, 48)) -> Path:
    """A video whose k-th frame is grey 10 + 6 k, shown at `times[k]` seconds."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(30))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 3000)
        for k, time in enumerate(times):
            pixels = np.full((size[1], size[0], 3), min(255, 10 + 6 * k), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(time * 3000), Fraction(1, 3000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_frames_come_in_order_with_their_times(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [k / 30 for k in range(12)])
    frames = list(read_video(path))
    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.time for frame in frames] == pytest.approx([k / 30 for k in range(12)], abs=1e-3)
    assert all(frame.pixels.shape == (48, 64, 3) and frame.pixels.dtype == np.uint8 for frame in frames)
    greys = [float(frame.pixels.mean()) for frame in frames]
    assert greys == pytest.approx([10 + 6 * k for k in range(12)], abs=4)
    info = probe(path)
    assert (info.width, info.height, info.n_frames) == (64, 48, 12)


def test_every_third_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [k / 30 for k in range(10)])
    assert [frame.index for frame in read_video(path, every=3)] == [0, 3, 6, 9]


@pytest.mark.parametrize(("fps", "taken"), [(30, 30), (10, 10), (15, 15), (1, 1), (100, 30)])
def test_so_many_frames_a_second(tmp_path: Path, fps: float, taken: int) -> None:
    path = write_video(tmp_path / "a.mp4", [k / 30 for k in range(30)])
    assert len(list(read_video(path, fps=fps))) == taken


def test_a_variable_frame_rate_is_thinned_evenly_in_time(tmp_path: Path) -> None:
    times = [k / 60 for k in range(30)] + [0.5 + k / 10 for k in range(5)]
    frames = list(read_video(write_video(tmp_path / "a.mp4", times), fps=10))
    assert len(frames) == 10
    assert [int(frame.time * 10 + 0.01) for frame in frames] == list(range(10))


def test_a_truncated_file_gives_what_can_be_read_or_one_clear_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", [k / 30 for k in range(25)], size=(320, 240))
    cut = tmp_path / "cut.avi"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert len(list(read_video(path))) == 25
    frames, said = read_with_error(cut)
    assert 1 <= frames < 25
    assert "truncated" in said
    for name, content in (("empty.mp4", b""), ("text.mp4", b"no video at all\n" * 50)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            next(iter(read_video(tmp_path / name)))


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_file_that_was_cut_off_before_its_index_is_said_to_be(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"a{suffix}", [k / 30 for k in range(25)], size=(320, 240))
    cut = tmp_path / f"cut{suffix}"
    for end in (path.stat().st_size // 2, 24):
        cut.write_bytes(path.read_bytes()[:end])
        with pytest.raises(DataError, match=rf"cut\{suffix}: it was cut off before its index"):
            next(iter(read_video(cut)))


def read_with_error(path: Path) -> tuple[int, str]:
    """How many frames come, and what is said after them."""
    indices: list[int] = []
    with pytest.raises(DataError) as caught:
        indices.extend(frame.index for frame in read_video(path))
    return len(indices), str(caught.value)


def test_a_file_shorter_than_its_header_tells_is_said_to_be_truncated(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", [k / 30 for k in range(60)], size=(320, 240))
    assert len(list(read_video(path))) == 60
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    count, said = read_with_error(cut)
    assert 1 <= count < 54
    assert "of 2.0 seconds; it is truncated" in said
    assert str(cut) in said


def test_what_begins_late_is_not_truncated_and_a_cut_flv_is(tmp_path: Path) -> None:
    late = write_video(tmp_path / "late.mkv", [10 + k / 30 for k in range(60)])
    assert len(list(read_video(late))) == 60
    import av

    path, cut = tmp_path / "a.flv", tmp_path / "cut.flv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for k in range(60):
            pixels = np.random.default_rng(k).integers(0, 256, (240, 320, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    assert len(list(read_video(path))) == 60
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "of 2.0 seconds; it is truncated" in read_with_error(cut)[1]


def test_a_broken_packet_is_passed_over_and_told_of(tmp_path: Path) -> None:
    import av

    path = write_video(tmp_path / "a.avi", [k / 30 for k in range(20)])
    with av.open(str(path)) as container:
        broken = [packet for packet in container.demux(video=0) if packet.size][10]
        content = bytes(broken)
    data = path.read_bytes()
    assert data.count(content) == 1
    path.write_bytes(data.replace(content, b"\x55" * len(content)))
    count, said = read_with_error(path)
    assert count == 19
    assert "parts could not be decoded (1), 19 frames could" in said


def test_a_missing_file_and_wrong_thinning_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.mp4"):
        next(iter(read_video(tmp_path / "no.mp4")))
    with pytest.raises(EcstflError, match="every"):
        next(iter(read_video(tmp_path / "no.mp4", every=0)))


def test_real_videos_have_the_frames_that_their_readme_counts(real_data) -> None:  # type: ignore[no-untyped-def]
    media = real_data("media")
    for name, count, seconds in (("single_face.mp4", 72, 2.4), ("no_face.mp4", 95, 3.945)):
        frames = [(frame.index, frame.time) for frame in read_video(media / name)]
        assert len(frames) == count
        assert frames[0] == (0, 0.0)
        assert frames[-1][1] < seconds


def corners(path: Path) -> list[list[int]]:
    """Brightness of the first frame's quarters: those above, those below."""
    pixels = next(iter(read_video(path))).pixels
    height, width = pixels.shape[:2]
    rows = (pixels[: height // 2], pixels[height // 2 :])
    return [[round(half.mean() / 80) for half in (row[:, : width // 2], row[:, width // 2 :])] for row in rows]


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), [[0, 1], [2, 3]]),
        ((-1, 0, 0, 1), [[1, 0], [3, 2]]),
        ((1, 0, 0, -1), [[2, 3], [0, 1]]),
        ((-1, 0, 0, -1), [[3, 2], [1, 0]]),
        ((0, 1, 1, 0), [[0, 2], [1, 3]]),
        ((0, 1, -1, 0), [[2, 0], [3, 1]]),
        ((0, -1, 1, 0), [[1, 3], [0, 2]]),
    ],
)
def test_pictures_are_turned_and_mirrored_as_the_display_matrix_says(
    tmp_path: Path, matrix: tuple[int, ...], expected: list[list[int]]
) -> None:
    """The matrix of an MP4's track header is written by hand: a, b and c, d of ISO/IEC 14496-12."""
    path = tmp_path / "a.mp4"
    quarters = np.kron(np.array([[0, 80], [160, 240]], dtype=np.uint8), np.ones((24, 32), dtype=np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.stack([quarters] * 3, -1), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode()])
    content = bytearray(path.read_bytes())
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = content.index(identity, content.index(b"tkhd"))
    a, b, c, d = (n << 16 for n in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    assert corners(path) == expected
    info = probe(path)
    assert (info.width, info.height) == ((48, 64) if matrix[0] == 0 else (64, 48))


@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(2), (128, 48)), (Fraction(1, 2), (64, 96)), (Fraction(1), (64, 48))]
)
def test_pixels_become_square(tmp_path: Path, aspect: Fraction, size: tuple[int, int]) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), dtype=np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode()])
    (frame,) = read_video(path)
    assert frame.pixels.shape == (size[1], size[0], 3)
    assert (probe(path).width, probe(path).height) == size


def test_of_several_tracks_the_one_with_the_largest_pictures_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for width, height in ((32, 16), (64, 48), (48, 48)):
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        for stream in streams:
            pixels = np.zeros((stream.height, stream.width, 3), dtype=np.uint8)
            container.mux([*stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")), *stream.encode()])
    assert next(iter(read_video(path))).pixels.shape == (48, 64, 3)


@pytest.mark.parametrize("name", ["12:30.mp4", "file:a.mp4", "rtsp:x.mp4", "concat:a|b.mp4", "%03d.mp4"])
def test_a_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.mp4", [0.0, 0.1]).rename(tmp_path / name)
    assert len(list(read_video(name))) == 2


def test_how_frames_lie_is_read_once_because_that_keeps_a_frame_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyAV ties a frame whose side data is read into a cycle, which waits for garbage collection with its pixels."""
    read, how_it_lies = [], video._how_it_lies
    monkeypatch.setattr(video, "_how_it_lies", lambda frame: read.append(frame.pts) or how_it_lies(frame))
    assert len(list(read_video(write_video(tmp_path / "a.mp4", [k / 30 for k in range(30)])))) == 30
    assert len(read) == 1


def test_times_rise_where_some_frames_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [0.0, 0.1, 0.2, 0.0, 0.1, 0.9]
    monkeypatch.setattr(video, "_time", lambda _frame, index, _stream: told[index])
    monkeypatch.setattr(video, "_interval", lambda _stream: 0.1)
    times = [frame.time for frame in read_video(write_video(tmp_path / "a.mp4", [k / 10 for k in range(6)]))]
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.9])


@pytest.mark.parametrize(
    ("source", "name"),
    [("RTSP://Host/Path", "rtsp://Host/Path"), ("http://a/b", "http://a/b"), ("a:b.mp4", "file:a:b.mp4")],
)
def test_an_address_begins_in_small_letters_and_a_path_as_a_file(source: str, name: str) -> None:
    assert video.av_name(source) == name
