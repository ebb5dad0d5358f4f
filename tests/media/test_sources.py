"""Clips from video files: counted exactly, sampled as if all of it had been decoded."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ecstfl_cli.api import FrameSampling, InputSpec
from ecstfl_cli.components.label_maps import dfew
from ecstfl_cli.components.sample_dataset import SampleDataset
from ecstfl_cli.components.sampling import evaluation_indices
from ecstfl_cli.components.transforms import resize
from ecstfl_cli.engine.check.reading import read_all
from ecstfl_cli.engine.data import samples as samples_module
from ecstfl_cli.engine.data.samples import Sample, check_on_disk
from ecstfl_cli.engine.inference.infer_inputs import Source, gather
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError
from ecstfl_cli.media.sources import FrameFolder, VideoFile, open_clip
from ecstfl_cli.media.video import count_frames, read_video

FRAMES = 30


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(FRAMES):
            pixels = np.kron(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_video_is_sampled_as_if_all_of_it_had_been_decoded(video: Path) -> None:
    spec = InputSpec("video", size=32, sampling=FrameSampling("uniform", frames=6))
    everything = np.stack([frame.pixels for frame in read_video(video)])
    wanted = resize(everything[evaluation_indices(spec.sampling, FRAMES)], 32)
    for n_frames in (None, FRAMES):
        frames = SampleDataset([Sample(video, 0, "a", n_frames)], spec)[(0, 0)].frames
        assert (frames == wanted).all()


def test_frames_are_counted_by_decoding(video: Path) -> None:
    assert len(open_clip(video)) == FRAMES
    found = check_on_disk([str(video)], "video", Reporter())[str(video)]
    assert (found.n_frames, found.problem) == (FRAMES, "")
    assert found.digest


def test_a_video_is_counted_again_only_when_it_has_changed(video: Path, tmp_path: Path, monkeypatch) -> None:
    counted = []
    monkeypatch.setattr(samples_module, "count_frames", lambda path: counted.append(path) or count_frames(path))
    kept, path = tmp_path / "annotation", str(video)
    first = check_on_disk([path], "video", Reporter(), kept)
    assert check_on_disk([path], "video", Reporter(), kept) == first
    assert (first[path].n_frames, counted) == (FRAMES, [path])
    os.utime(video, ns=(0, 0))
    assert check_on_disk([path], "video", Reporter(), kept) == first
    assert counted == [path, path]
    video.write_bytes(b"no video")
    assert check_on_disk([path], "video", Reporter(), kept)[path].problem


def test_a_check_has_counted_for_the_training_too(video: Path, tmp_path: Path, monkeypatch) -> None:
    read_all([str(video)], "video", tmp_path, Reporter())
    monkeypatch.delattr(samples_module, "count_frames")
    assert check_on_disk([str(video)], "video", Reporter(), tmp_path)[str(video)].n_frames == FRAMES


def test_a_second_start_on_prepared_videos_counts_nothing(video: Path, tmp_path: Path, cli, monkeypatch) -> None:
    for i, name in enumerate(("happy", "sad")):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / f"{i}.mp4").write_bytes(video.read_bytes())
    result = cli("prepare", "--data-root", tmp_path / "data", "--label-map", "dfew", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    files = sorted((tmp_path / "annotation").glob("*.txt"))
    source = Source("video", dfew, None, None, False, tmp_path / "rejects.csv", Reporter())
    first = gather(files, source)
    monkeypatch.delattr(samples_module, "count_frames")
    assert [sample.n_frames for sample in first] == [FRAMES, FRAMES]
    assert gather(files, source) == first


def test_without_a_place_to_keep_them_frames_are_counted(video: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert check_on_disk([str(video)], "video", Reporter(), tmp_path / "file")[str(video)].n_frames == FRAMES


def test_a_damaged_video_is_a_problem_of_its_row(video: Path) -> None:
    video.write_bytes(video.read_bytes()[:500])
    found = check_on_disk([str(video)], "video", Reporter())[str(video)]
    assert "clip.mp4" in found.problem


def test_a_frame_beyond_the_end_is_an_error(video: Path) -> None:
    with pytest.raises(DataError, match="has no frame 40"):
        VideoFile(video, 50).read([0, 40])


def test_a_folder_named_like_a_video_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").mkdir()
    (tmp_path / "a.mp4" / "1.png").touch()
    assert open_clip(tmp_path / "a.mp4") == FrameFolder(tmp_path / "a.mp4", "1.png")
