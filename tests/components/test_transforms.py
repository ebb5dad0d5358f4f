"""Crop, resize and flip as uint8; normalisation as float."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ecstfl_cli.api import InputSpec
from ecstfl_cli.components.transforms import Augmentation, Normalise, resize, to_frames


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_evaluation_stretches_to_the_size_as_the_release_does() -> None:
    image = noise(40, 30)
    frames = to_frames([image], InputSpec("img", size=16))
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
    assert frames.dtype == np.uint8
    assert (frames[0] == expected).all()


def test_crop_keeps_the_aspect_and_takes_the_centre() -> None:
    image = Image.new("RGB", (60, 20), "red")
    image.paste((0, 0, 255), (20, 0, 40, 20))
    pixels = np.asarray(resize(image, InputSpec("img", size=8, resize="crop")))
    assert (pixels[:, 1:-1] == (0, 0, 255)).all()
    assert (pixels[..., 2] > 128).all()


def test_pad_keeps_the_whole_picture_between_black_bars() -> None:
    pixels = np.asarray(resize(Image.new("RGB", (64, 32), "white"), InputSpec("img", size=16, resize="pad")))
    assert (pixels[:4] == 0).all()
    assert (pixels[12:] == 0).all()
    assert (pixels[4:12] == 255).all()


def test_one_draw_serves_every_frame_of_a_clip() -> None:
    image = noise(50, 40)
    for seed in range(5):
        frames = to_frames([image, image, image], InputSpec(size=16), Augmentation(), np.random.default_rng(seed))
        assert (frames[0] == frames[1]).all()
        assert (frames[0] == frames[2]).all()


def test_a_frame_of_another_size_gets_the_same_part_of_itself() -> None:
    small = noise(32, 32)
    large = small.resize((64, 64), Image.Resampling.NEAREST)
    augmentation = Augmentation(scale=(0.25, 0.25), ratio=(1.0, 1.0), hflip=0.0)
    frames = to_frames([small, large], InputSpec(size=8), augmentation, np.random.default_rng(3)).astype(int)
    assert abs(frames[0] - frames[1]).mean() < 8


def test_crops_cover_the_stated_area_and_aspect() -> None:
    augmentation = Augmentation(scale=(0.2, 0.5), ratio=(0.75, 4 / 3))
    generator = np.random.default_rng(0)
    for _ in range(300):
        (left, top, right, bottom), _ = augmentation.draw(200, 100, generator)
        assert 0 <= left < right <= 200
        assert 0 <= top < bottom <= 100
        area = (right - left) * (bottom - top) / 20_000
        assert 0.19 < area < 0.51
        assert 0.72 < (right - left) / (bottom - top) < 1.40


def test_flips_come_with_the_stated_probability() -> None:
    generator = np.random.default_rng(0)
    flips = [Augmentation(hflip=0.5).draw(10, 10, generator)[1] for _ in range(1000)]
    assert 430 < sum(flips) < 570
    assert not any(Augmentation(hflip=0.0).draw(10, 10, generator)[1] for _ in range(50))


@pytest.mark.parametrize("shape", [(2, 5, 8, 8, 3), (2, 8, 8, 3)])
def test_normalisation_moves_channels_and_scales(shape: tuple[int, ...]) -> None:
    frames = torch.randint(0, 256, shape, dtype=torch.uint8)
    spec = InputSpec(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    x = Normalise(spec)(frames)
    assert x.shape == (shape[0], 3, *shape[1:-1])
    expected = (frames[..., 1].double() / 255 - 0.4) / 0.3
    torch.testing.assert_close(x[:, 1].double(), expected, atol=1e-5, rtol=1e-5)


def test_the_release_has_values_in_zero_to_one() -> None:
    frames = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    torch.testing.assert_close(Normalise(InputSpec())(frames).flatten(), torch.tensor([0.0, 0.2, 1.0]))
