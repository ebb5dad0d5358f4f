"""Who a drawn face is and how it is filmed: proportions, colours, pose, light and background, all at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIZE = 112
Array = NDArray[np.float64]
Colour = tuple[float, float, float]
SKINS = ((240, 204, 178), (230, 188, 154), (224, 172, 130), (198, 134, 92), (141, 88, 56), (92, 58, 40))
HAIRS = ((34, 26, 24), (66, 44, 32), (112, 72, 40), (176, 130, 74), (226, 196, 130), (150, 60, 34), (170, 168, 165))
IRISES = ((70, 42, 26), (96, 68, 40), (70, 104, 76), (72, 116, 160), (50, 36, 30))
# Of six hair styles: the two that fall over the shoulders; the last one is bald.
LONG_HAIR = (2, 3)


@dataclass(frozen=True)
class Identity:
    """One subject: proportions in units of half the face's width, colours in RGB 0..255, choices as indices."""

    height: float
    jaw: float
    chin: float
    eye_x: float
    eye_y: float
    eye_width: float
    eye_height: float
    eye_tilt: float
    brow_gap: float
    brow_thickness: float
    brow_tilt: float
    nose_y: float
    nose_width: float
    mouth_y: float
    mouth_width: float
    lip: float
    mouth_rest: float
    age: float
    asymmetry: float
    hair_style: int
    moustache: bool
    stubble: float
    glasses: bool
    skin: Colour
    hair: Colour
    lips: Colour
    iris: Colour
    clothes: Colour


@dataclass(frozen=True)
class Scene:
    """How one clip is filmed. Angles in radians and places in pixels of the final frame, (T,) each.

    `background` is (SIZE, SIZE, 3) uint8, `light` multiplies the frame, (SIZE, SIZE, 3); `noise` is in grey levels.
    """

    roll: Array
    yaw: Array
    pitch: Array
    scale: Array
    x: Array
    y: Array
    gaze: Array
    background: NDArray[np.uint8]
    light: NDArray[np.float32]
    noise: float
    softness: float


def sample_identity(rng: np.random.Generator) -> Identity:
    """A subject at random; colours are drawn independently of the proportions."""

    def normal(mean: float, deviation: float) -> float:
        return float(mean + deviation * np.clip(rng.standard_normal(), -2, 2))

    tone = rng.uniform(0, len(SKINS) - 1.4)
    low = min(int(tone), len(SKINS) - 2)
    skin = np.array(SKINS[low]) + (tone - low) * (np.array(SKINS[low + 1]) - np.array(SKINS[low]))
    red = np.array([0.9, 0.54, 0.54]) * rng.uniform(0.85, 1.05)
    hair_style = int(rng.choice(6, p=(0.2, 0.2, 0.18, 0.18, 0.16, 0.08)))
    bearded = hair_style not in LONG_HAIR and rng.random() < 0.4
    return Identity(
        height=normal(1.0, 0.05),
        jaw=normal(0.82, 0.05),
        chin=normal(0.44, 0.05),
        eye_x=normal(0.43, 0.025),
        eye_y=normal(-0.14, 0.03),
        eye_width=normal(0.4, 0.022),
        eye_height=normal(0.112, 0.01),
        eye_tilt=normal(0.012, 0.015),
        brow_gap=normal(0.275, 0.02),
        brow_thickness=normal(0.05, 0.01),
        brow_tilt=normal(0.02, 0.016),
        nose_y=normal(0.33, 0.04),
        nose_width=normal(0.2, 0.03),
        mouth_y=normal(0.7, 0.035),
        mouth_width=normal(0.37, 0.025),
        lip=normal(0.085, 0.013),
        mouth_rest=normal(0.0, 0.015),
        age=float(rng.uniform(0, 1)),
        asymmetry=normal(0.0, 0.1),
        hair_style=hair_style,
        moustache=bool(bearded and rng.random() < 0.5),
        stubble=float(bearded * rng.uniform(0.4, 1.0)),
        glasses=bool(rng.random() < 0.16),
        skin=_colour(skin),
        hair=_colour(np.array(HAIRS[rng.integers(len(HAIRS))]) * rng.uniform(0.85, 1.1)),
        lips=_colour(skin * red),
        iris=_colour(np.array(IRISES[rng.integers(len(IRISES))])),
        clothes=_colour(rng.uniform(20, 220, 3)),
    )


def sample_scene(rng: np.random.Generator, frames: int) -> Scene:
    """Camera, pose, light and background of a clip at random; the head sways a little all the time."""
    time = np.linspace(0, 1, frames)

    def sway(amount: float) -> Array:
        return amount * np.sin(2 * np.pi * (rng.uniform(0.3, 1.2) * time + rng.random())) * rng.uniform(0.2, 1)

    return Scene(
        roll=np.radians(2.5 * np.clip(rng.standard_normal(), -2, 2) + sway(2)),
        yaw=np.radians(rng.uniform(-11, 11) + sway(4)),
        pitch=np.radians(rng.uniform(-4, 4) + sway(3)),
        scale=rng.uniform(43, 46) * (1 + sway(0.02)),
        x=SIZE / 2 + rng.uniform(-1.5, 1.5) + sway(1),
        y=SIZE / 2 - 7 + rng.uniform(-1.5, 1.5) + sway(1),
        gaze=rng.uniform(-0.035, 0.035) + sway(0.015),
        background=_background(rng),
        light=_light(rng),
        noise=float(rng.uniform(0.8, 3.5)),
        softness=float(max(0.0, rng.uniform(-0.8, 0.5))),
    )


def _colour(values: Array) -> Colour:
    red, green, blue = np.clip(values, 0, 255)
    return float(red), float(green), float(blue)


def _background(rng: np.random.Generator) -> NDArray[np.uint8]:
    """An out-of-focus room: a gradient with blurred blocks of colour."""
    ends = _muted(rng.uniform(30, 225, (2, 3)))
    ramp = np.linspace(0, 1, SIZE)[:, None, None]
    if rng.random() < 0.5:
        ramp = ramp.transpose(1, 0, 2)
    canvas = np.broadcast_to(ends[0] + ramp * (ends[1] - ends[0]), (SIZE, SIZE, 3)).astype(np.uint8)
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 6)):
        left, top, width, height = (int(v) for v in rng.uniform((-20, -20, 10, 10), (100, 100, 70, 70)))
        fill = tuple(int(v) for v in _muted(rng.uniform(10, 245, 3)))
        (draw.rectangle if rng.random() < 0.6 else draw.ellipse)((left, top, left + width, top + height), fill=fill)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.uniform(3, 7)))))


def _muted(colours: Array) -> Array:
    """Half way to grey: rooms are less colourful than random numbers."""
    return 0.5 * colours + 0.5 * colours.mean(axis=-1, keepdims=True)


def _light(rng: np.random.Generator) -> NDArray[np.float32]:
    """Lambert's law on an ellipsoid in the middle of the frame, with ambient light, exposure and a colour cast."""
    down, across = np.mgrid[0:SIZE, 0:SIZE] / (SIZE / 2) - 1
    normal_x, normal_y = across / 0.95, down / 1.15
    normal_z = np.sqrt(np.clip(1.05 - normal_x**2 - normal_y**2, 0.05, None))
    azimuth, elevation = rng.uniform(-1.2, 1.2), rng.uniform(-0.3, 1.0)
    towards = (np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), np.cos(azimuth) * np.cos(elevation))
    length = np.sqrt(normal_x**2 + normal_y**2 + normal_z**2)
    direct = np.clip((normal_x * towards[0] + normal_y * towards[1] + normal_z * towards[2]) / length, 0, None)
    strength = rng.uniform(0.08, 0.38)
    cast = rng.uniform(0.94, 1.06, 3)
    light = (1 - strength + strength * direct / direct.mean())[..., None] * cast * rng.uniform(0.75, 1.0)
    return np.clip(light, 0.15, 1.25).astype(np.float32)
