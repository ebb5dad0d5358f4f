"""A parametric face on film, rasterised with Pillow.

Shapes are drawn at several times the final size. Soft shadows (folds, wrinkles, the nose) go to two grey layers that
are blurred, finely and broadly, and multiplied with the colours, as is the light.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from ecstfl_cli.components.datasets.parametric_shapes import NEUTRAL_SHADE, OVERSAMPLING, Face, Shape
from ecstfl_cli.components.datasets.parametric_subject import SIZE, Array, Identity, Scene

# Layer, corners of each frame as x0, y0, x1, …, and fill.
_Drawable = tuple[str, list[list[float]], Any]
CANVAS = (SIZE * OVERSAMPLING, SIZE * OVERSAMPLING)


def render_clip(
    identity: Identity, actions: Mapping[int, Array], scene: Scene, rng: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    """The frames of a clip, (SIZE, SIZE, 3) uint8 RGB each.

    `actions` maps an action unit's number to its intensity over time, (T,) in 0 (at rest) .. 1 (FACS level E);
    45 is the blink. `rng` draws the camera's noise.
    """
    shapes = [_drawable(shape) for shape in Face(identity, actions, scene).shapes()]
    backdrop = Image.fromarray(scene.background).resize(CANVAS, Image.Resampling.BILINEAR)
    for t in range(len(scene.roll)):
        colours = _draw_colours(shapes, t, backdrop)
        shade = _draw_shade(shapes, t, "fine", 1, 0.7) * _draw_shade(shapes, t, "broad", 2, 3.0)
        if scene.softness > 0:
            colours = colours.filter(ImageFilter.BoxBlur(scene.softness))
        pixels = np.asarray(colours, np.float32) * (scene.light * shade[..., None])
        grain = rng.standard_normal((SIZE, SIZE, 1), np.float32) * np.float32(scene.noise)
        yield np.clip(pixels + grain, 0, 255).astype(np.uint8)


def _drawable(shape: Shape) -> _Drawable:
    # Pillow takes corners as one flat list; converting all frames at once is what makes the data set quick to draw.
    return shape.layer, shape.outline.reshape(len(shape.outline), -1).tolist(), shape.fill


def _draw_colours(shapes: Sequence[_Drawable], t: int, backdrop: Image.Image) -> Image.Image:
    canvas = backdrop.copy()
    draw = ImageDraw.Draw(canvas)
    for layer, outlines, fill in shapes:
        if layer == "colour":
            red, green, blue = fill
            draw.polygon(outlines[t], fill=(int(red), int(green), int(blue)))
    return canvas.reduce(OVERSAMPLING)


def _draw_shade(shapes: Sequence[_Drawable], t: int, wanted: str, coarser: int, blur: float) -> NDArray[np.float32]:
    """What a shade layer multiplies the colours with, (SIZE, SIZE); blurred at a size `coarser` times smaller."""
    canvas = Image.new("L", CANVAS, NEUTRAL_SHADE)
    draw = ImageDraw.Draw(canvas)
    for layer, outlines, fill in shapes:
        # A crease that does not show must not wipe out the shadow it lies on.
        if layer == wanted and int(fill[t]) != NEUTRAL_SHADE:
            draw.polygon(outlines[t], fill=int(fill[t]))
    small = canvas.reduce(OVERSAMPLING * coarser).filter(ImageFilter.BoxBlur(blur))
    if coarser > 1:
        small = small.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32) / np.float32(NEUTRAL_SHADE)
