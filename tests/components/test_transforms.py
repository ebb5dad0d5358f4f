"""Crop, resize, flip and distort as uint8; normalisation as float."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from ecstfl_cli.api import InputSpec
from ecstfl_cli.components.transforms import Augmentation, Normalise, resize, to_frames

BILINEAR = Image.Resampling.BILINEAR


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def scene(width: int, height: int) -> np.ndarray:
    """Smooth colours with edges and some noise."""
    y, x = np.mgrid[:height, :width]
    planes = [128 + 90 * np.sin(x / 9 + k) * np.cos(y / (7 + k)) + 30 * ((x + y) // 16 % 2) for k in range(3)]
    grain = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    return (np.stack(planes, -1) + grain).clip(0, 255).astype(np.uint8)


def pillow(image: np.ndarray, size: int, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    picture = Image.fromarray(image)
    return np.asarray((picture.crop(box) if box else picture).resize((size, size), BILINEAR)).astype(int)


# --- resizing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "size"), [(2, 112), (4, 56), (1, 48)])
@pytest.mark.parametrize("make", [noise, scene])
def test_at_factors_of_two_the_pixels_are_pillows(make: Callable, factor: int, size: int) -> None:
    images = [make(factor * size, factor * size) for _ in range(3)]
    frames = to_frames(images, InputSpec(size=size))
    assert frames.dtype == np.uint8
    assert all((frame == pillow(image, size)).all() for frame, image in zip(frames, images, strict=True))


@pytest.mark.parametrize("size", [16, 112, 224])
@pytest.mark.parametrize("shape", [(48, 48), (350, 350), (640, 427), (61, 500), (3, 2)])
def test_elsewhere_pixels_differ_from_pillows_by_rounding_only(shape: tuple[int, int], size: int) -> None:
    for image in (noise(*shape), scene(*shape)):
        difference = to_frames([image], InputSpec("img", size=size))[0] - pillow(image, size)
        assert np.abs(difference).max() <= 2
        assert (difference != 0).mean() <= 0.25
        assert (np.abs(difference) == 2).mean() <= 1e-3
        assert abs(difference.mean()) <= 0.01


def test_clips_and_lone_frames_are_resized_alike() -> None:
    images = [noise(50, 40, seed) for seed in range(4)]
    clip = to_frames(images, InputSpec(size=24))
    assert all((clip[i] == to_frames([image], InputSpec(size=24))[0]).all() for i, image in enumerate(images))


def test_crop_keeps_the_aspect_and_takes_the_centre() -> None:
    image = scene(65, 20)
    assert np.abs(resize(image[None], 8, "crop")[0] - pillow(image, 8, (22, 0, 42, 20))).max() <= 2


def test_pad_keeps_the_whole_picture_between_black_bars() -> None:
    pixels = resize(np.full((1, 32, 64, 3), 255, dtype=np.uint8), 16, "pad")[0]
    assert (pixels[:4] == 0).all()
    assert (pixels[12:] == 0).all()
    assert (pixels[4:12] == 255).all()


def test_without_random_crops_training_frames_follow_the_resize_policy() -> None:
    spec = InputSpec("img", size=16, resize="pad")
    image = scene(64, 32)
    frames = to_frames([image], spec, Augmentation(False, hflip=0.0), np.random.default_rng(0))
    assert (frames == to_frames([image], spec)).all()


# --- random crops and flips -----------------------------------------------------------------------------------------


def test_a_random_crop_is_cut_out_and_then_resized() -> None:
    image, augmentation = scene(90, 70), Augmentation()
    for seed in range(20):
        box, flip = augmentation.draw(90, 70, np.random.default_rng(seed))
        expected = pillow(image, 32, box)
        frames = to_frames([image], InputSpec("img", size=32), augmentation, np.random.default_rng(seed))
        assert np.abs(frames[0] - (expected[:, ::-1] if flip else expected)).max() <= 2


def test_draws_are_those_of_earlier_versions() -> None:
    box, flip = Augmentation().draw(224, 224, np.random.default_rng((7, 3, 5)))
    assert (box, flip) == ((20, 140, 103, 215), True)


def test_one_draw_serves_every_frame_of_a_clip() -> None:
    image = noise(50, 40)
    for seed in range(5):
        frames = to_frames([image, image, image], InputSpec(size=16), Augmentation(), np.random.default_rng(seed))
        assert (frames[0] == frames[1]).all()
        assert (frames[0] == frames[2]).all()


def test_a_frame_of_another_size_gets_the_same_part_of_itself() -> None:
    small = noise(32, 32)
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    augmentation = Augmentation(scale=(0.25, 0.25), ratio=(1.0, 1.0), hflip=0.0)
    frames = to_frames([small, large], InputSpec(size=8), augmentation, np.random.default_rng(3)).astype(int)
    assert abs(frames[0] - frames[1]).mean() < 8


def test_a_frame_of_a_single_pixel_still_gives_one() -> None:
    augmentation = Augmentation(scale=(0.1, 0.1))
    for seed in range(10):
        frames = to_frames([noise(64, 64), noise(1, 1)], InputSpec(size=8), augmentation, np.random.default_rng(seed))
        assert frames.shape == (2, 8, 8, 3)


def test_crops_cover_the_stated_area_and_aspect() -> None:
    augmentation = Augmentation(scale=(0.2, 0.5), ratio=(0.75, 4 / 3))
    generator = np.random.default_rng(0)
    for _ in range(300):
        box, _ = augmentation.draw(200, 100, generator)
        assert box is not None
        left, top, right, bottom = box
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


# --- RandAugment and erasing ----------------------------------------------------------------------------------------

DISTORTIONS = {
    "RandAugment": {"rand_ops": 2, "rand_magnitude": 15},
    "erasing": {"erasing": 1.0},
    "both": {"rand_ops": 3, "erasing": 0.5},
}
distortions = pytest.mark.parametrize("options", DISTORTIONS.values(), ids=DISTORTIONS.keys())


def distorted(images: list[np.ndarray], seed: int, **options: float) -> np.ndarray:
    augmentation = Augmentation(hflip=0.5, **options)  # type: ignore[arg-type]
    return to_frames(images, InputSpec(size=32), augmentation, np.random.default_rng(seed))


@distortions
def test_equal_frames_of_a_clip_stay_equal(options: dict[str, float]) -> None:
    image = scene(60, 50)
    changed = 0
    for seed in range(25):
        frames = distorted([image] * 4, seed, **options)
        assert frames.shape == (4, 32, 32, 3)
        assert frames.dtype == np.uint8
        assert (frames == frames[0]).all()
        changed += not (frames == distorted([image] * 4, seed)).all()
    assert changed >= 15


@distortions
def test_distortions_depend_on_the_generator_alone(options: dict[str, float]) -> None:
    image = scene(60, 50)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = distorted([image], 0, **options)
    assert (torch.get_rng_state() == before).all()
    torch.manual_seed(2)
    assert (distorted([image], 0, **options) == first).all()
    assert any((distorted([image], seed, **options) != first).any() for seed in range(1, 4))


def test_the_rectangle_has_the_mean_colour_and_lies_in_the_same_place_of_every_frame() -> None:
    spec = InputSpec(size=32, mean=(0.485, 0.456, 0.406))
    augmentation = Augmentation(False, hflip=0.0, erasing=1.0)
    images = [noise(32, 32, seed) for seed in range(3)]
    places = set()
    for seed in range(5):
        frames = to_frames(images, spec, augmentation, np.random.default_rng(seed))
        erased = (frames != np.stack(images)).any(-1).all(0)
        assert (frames[:, erased] == (124, 116, 104)).all()
        assert (frames[:, ~erased] == np.stack(images)[:, ~erased]).mean() > 0.99
        rows, columns = np.nonzero(erased)
        assert 0.02 * 0.8 < (np.ptp(rows) + 1) * (np.ptp(columns) + 1) / 32**2 < 0.33 * 1.2
        places.add((rows.min(), columns.min()))
    assert len(places) > 1


def test_erasing_comes_with_the_stated_probability() -> None:
    image = noise(16, 16)
    augmentation = Augmentation(False, hflip=0.0, erasing=0.3)
    erased = [
        (to_frames([image], InputSpec(size=16), augmentation, np.random.default_rng(seed))[0] != image).any()
        for seed in range(300)
    ]
    assert 0.2 < np.mean(erased) < 0.4


def test_a_greater_magnitude_changes_more() -> None:
    image = scene(32, 32)

    def change(magnitude: int) -> float:
        augmentation = Augmentation(False, hflip=0.0, rand_ops=1, rand_magnitude=magnitude)
        frames = [
            to_frames([image], InputSpec(size=32), augmentation, np.random.default_rng(seed))[0] for seed in range(40)
        ]
        return float(np.mean([np.abs(frame.astype(int) - image).mean() for frame in frames]))

    assert change(30) > 1.5 * change(5)


def test_distortions_leave_crop_and_flip_as_they_were() -> None:
    image = scene(60, 50)
    for seed in range(10):
        mild = distorted([image], seed, erasing=1e-12)
        assert (mild == distorted([image], seed)).all()


def test_the_images_given_are_not_written_to() -> None:
    image = noise(32, 32)
    kept = image.copy()
    for seed in range(5):
        to_frames(
            [image], InputSpec(size=32), Augmentation(False, rand_ops=2, erasing=1.0), np.random.default_rng(seed)
        )
    assert (image == kept).all()


def test_torchvision_is_imported_for_distortions_only() -> None:
    code = (
        "import sys, numpy as np; from ecstfl_cli.api import InputSpec; "
        "from ecstfl_cli.components.transforms import Augmentation, to_frames; "
        "to_frames([np.zeros((9, 9, 3), np.uint8)], InputSpec(), Augmentation(), np.random.default_rng(0)); "
        "assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- normalisation --------------------------------------------------------------------------------------------------


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
