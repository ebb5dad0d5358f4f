"""Cameras: how FFmpeg opens one on this platform."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from ecstfl_cli.errors import DataError


@dataclass(frozen=True)
class CameraInput:
    """What FFmpeg is asked for: an address, a format and options."""

    url: str
    format: str
    options: dict[str, str]


def camera_input(camera: str, platform: str = sys.platform) -> CameraInput:
    """FFmpeg's input for a camera, named by its number from 0, its name, or its device file.

    Video4Linux on Linux, AVFoundation on macOS, DirectShow on Windows. Raises DataError where there is no such camera.
    """
    if platform.startswith("linux"):
        device = f"/dev/video{camera}" if camera.isdigit() else camera
        if not Path(device).exists():
            found = sorted(str(path) for path in Path("/dev").glob("video*"))
            raise DataError(f"there is no camera {camera}: no device {device}; there are: {', '.join(found) or 'none'}")
        return CameraInput(device, "v4l2", {})
    if platform == "darwin":
        # Without a rate that the camera has, AVFoundation refuses; its webcams have 30.
        return CameraInput(camera, "avfoundation", {"framerate": "30"})
    if platform == "win32":
        return CameraInput(f"video={_windows_name(camera)}", "dshow", {})
    raise DataError(f"cameras are not read on {platform}", "Name a stream's address instead.")


def _windows_name(camera: str) -> str:
    """DirectShow knows cameras by name only."""
    if not camera.isdigit():
        return camera
    import av

    listed = getattr(av, "enumerate_input_devices", None)
    if listed is None:
        raise DataError(
            f"camera {camera} has to be named", 'Name it, e.g. --camera "Integrated Camera", or install av 17 or newer.'
        )
    names = [device.description or device.name for device in listed("dshow") if "video" in device.media_types]
    if int(camera) >= len(names):
        raise DataError(f"there is no camera {camera}; there are: {', '.join(names) or 'none'}")
    return names[int(camera)]
