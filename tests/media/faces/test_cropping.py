"""Crops: the right square, level eyes, the whole reduction filtered, and the edge repeated outside of the picture."""

import numpy as np
import pytest

from ecstfl_cli.api import Face, FaceCrop
from ecstfl_cli.errors import DataError
from ecstfl_cli.media.faces.cropping import crop_faces


def test_a_square_of_the_crops_size_is_cut_without_resampling() -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    face = Face((30, 20, 62, 52), 1.0)
    crop = crop_faces(image, [face], FaceCrop(align="box", margin=0.0, size=32))
    assert np.array_equal(crop[0], image[20:52, 30:62])


def test_the_square_has_the_longer_side_and_grows_by_the_margin_on_each_side() -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    face = Face((40, 30, 56, 50), 1.0)  # 16 x 20 about (48, 40): 20, and with half of it on each side 40
    crop = crop_faces(image, [face], FaceCrop(align="box", margin=0.5, size=40))
    assert np.array_equal(crop[0], image[20:60, 28:68])


def test_outside_of_the_picture_its_edge_is_repeated() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    crop = crop_faces(image, [Face((-10, 30, 30, 70), 1.0)], FaceCrop(align="box", margin=0.0, size=40))[0]
    expected = np.pad(image, ((0, 20), (10, 0), (0, 0)), mode="edge")[30:70, 0:40]
    assert np.array_equal(crop, expected)


@pytest.mark.parametrize("align", ["box", "eyes"])
def test_a_fine_pattern_becomes_its_mean_when_reduced(align: str) -> None:
    image = np.zeros((400, 400, 3), dtype=np.uint8)
    image[::2] = 200
    face = Face((40, 40, 360, 360), 1.0, ((140.0, 170.0), (260.0, 190.0), (200, 220), (160, 280), (240, 290)))
    crop = crop_faces(image, [face], FaceCrop(align=align, margin=-0.1, size=32))[0]  # type: ignore[arg-type]
    assert np.abs(crop.astype(int) - 100).max() <= 3


@pytest.mark.parametrize("degrees", [0, 20, -35, 90])
def test_eyes_are_level_and_at_the_same_place_whatever_the_faces_turn_and_size(degrees: float) -> None:
    turn = np.deg2rad(degrees)
    towards, down = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    middle = np.array([150.0, 140.0])
    eyes = middle - 25 * towards, middle + 25 * towards
    mouth = middle + 45 * down
    y, x = np.mgrid[0:300, 0:300]
    image = np.zeros((300, 300, 3))
    for channel, point in enumerate((*eyes, mouth)):
        image[..., channel] = 255 * np.exp(-((x + 0.5 - point[0]) ** 2 + (y + 0.5 - point[1]) ** 2) / 40)
    face = Face((90, 80, 210, 200), 1.0, (tuple(eyes[0]), tuple(eyes[1]), tuple(middle), tuple(mouth), tuple(mouth)))
    crop = crop_faces(image.round().astype(np.uint8), [face], FaceCrop(align="eyes", margin=0.0, size=96))[0]
    scale = 96 / 120  # the side is 2.4 eye distances, 50 pixels each
    for channel, expected in enumerate([(48 - 25 * scale, 38.4), (48 + 25 * scale, 38.4), (48, 38.4 + 45 * scale)]):
        weight = crop[..., channel].astype(float)
        weight[weight < 40] = 0
        rows, columns = np.mgrid[0:96, 0:96] + 0.5
        found = (weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()
        assert found == pytest.approx(expected, abs=0.25)


def test_no_faces_give_no_crops() -> None:
    assert crop_faces(np.zeros((9, 9, 3), dtype=np.uint8), [], FaceCrop(size=16)).shape == (0, 16, 16, 3)


def test_aligning_by_eyes_without_eyes_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(DataError, match="align: box"):
        crop_faces(np.zeros((9, 9, 3), dtype=np.uint8), [Face((0, 0, 5, 5), 1.0)], FaceCrop(align="eyes"))
