"""Cameras: FFmpeg is asked for what each platform's driver needs."""

from __future__ import annotations

from types import SimpleNamespace

import av
import pytest

from ecstfl_cli.errors import DataError
from ecstfl_cli.media.camera import CameraInput, camera_input


def test_a_number_is_a_device_file_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecstfl_cli.media.camera.Path.exists", lambda self: str(self) in ("/dev/video2", "/dev/cam"))
    assert camera_input("2", "linux") == CameraInput("/dev/video2", "v4l2", {})
    assert camera_input("/dev/cam", "linux").url == "/dev/cam"


def test_macos_opens_numbers_and_names_at_a_rate_that_cameras_have() -> None:
    assert camera_input("0", "darwin") == CameraInput("0", "avfoundation", {"framerate": "30"})


def test_windows_knows_names_so_that_a_number_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [
        SimpleNamespace(name="a", description="Microphone", media_types=["audio"]),
        SimpleNamespace(name="b", description="Integrated Camera", media_types=["video"]),
    ]
    listed = lambda format: devices if format == "dshow" else []  # noqa: E731
    monkeypatch.setattr(av, "enumerate_input_devices", listed, raising=False)
    assert camera_input("0", "win32") == CameraInput("video=Integrated Camera", "dshow", {})
    assert camera_input("Other", "win32").url == "video=Other"
    with pytest.raises(DataError, match="no camera 1; there are: Integrated Camera"):
        camera_input("1", "win32")


def test_a_camera_that_is_not_there_is_said_with_those_that_are() -> None:
    with pytest.raises(DataError, match=r"no camera 97: no device /dev/video97; there are: "):
        camera_input("97", "linux")


def test_this_build_of_ffmpeg_reads_cameras() -> None:
    assert any("v4l2" in name.split(",") or name in ("avfoundation", "dshow") for name in av.formats_available)
