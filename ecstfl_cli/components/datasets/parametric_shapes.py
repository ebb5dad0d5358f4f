"""The outlines of a parametric face over time, moved by FACS action units.

Coordinates are in units of half the face's width: x to the right, y down, the origin between the cheekbones. Depth is
an ellipsoid's, so that turning the head shifts the features against each other. T frames, N corners of an outline.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ecstfl_cli.components.datasets.parametric_subject import LONG_HAIR, Array, Colour, Identity, Scene

OVERSAMPLING = 3
NEUTRAL_SHADE = 128
SIDES = (-1, 1)
# Hair styles: how high the hair stands, and the right half of the hairline from the middle to the temple.
HAIRLINES = {
    0: (1.5, (0.0, 0.36, 0.68, 0.9, 0.98), (-0.92, -0.95, -0.88, -0.6, -0.12)),
    1: (1.54, (0.0, 0.3, 0.6, 0.88, 0.99), (-0.78, -0.74, -0.8, -0.66, -0.2)),
    2: (1.52, (0.0, 0.3, 0.66, 0.9, 1.02), (-1.08, -0.98, -0.72, -0.3, 0.4)),
    3: (1.52, (0.0, 0.3, 0.62, 0.88, 1.04), (-0.68, -0.66, -0.64, -0.3, 0.6)),
    4: (1.42, (0.0, 0.28, 0.56, 0.84, 0.97), (-1.0, -1.08, -1.04, -0.74, -0.35)),
}


@dataclass(frozen=True)
class Shape:
    """A filled outline over time, (T, N, 2) in oversampled pixels, in a layer: `colour`, `fine` or `broad` shade.

    `fill` is a colour, or grey levels (T,) of which 128 leaves the skin as it is.
    """

    layer: str
    outline: Array
    fill: Colour | Array


class Face:
    """All shapes of one clip, back to front."""

    def __init__(self, identity: Identity, actions: Mapping[int, Array], scene: Scene) -> None:
        self.who = identity
        self.scene = scene
        self.actions = actions
        self.rest = np.zeros((len(scene.roll), 1))
        self.jaw = 0.17 * self.au(26) + 0.3 * self.au(27)

    def au(self, number: int, side: int = 0) -> Array:
        """Intensity of an action unit, (T, 1), on the left (-1), the right (1) or on average."""
        values = self.actions.get(number)
        return self.rest if values is None else values[:, None] * (1 + side * self.who.asymmetry)

    def shapes(self) -> Iterator[Shape]:
        """Everything there is to draw, in the order of drawing."""
        yield from self.behind()
        yield from self.head()
        yield from self.nose()
        for side in SIDES:
            yield from self.eye(side)
            yield from self.brow(side)
            yield from self.cheek(side)
        yield from self.forehead()
        yield from self.mouth()
        yield from self.hair()
        if self.who.glasses:
            yield from self.spectacles()

    def paint(self, fill: Colour, x: Array, y: Array, z: Array | float | None = None) -> Shape:
        """A shape in one colour, see `project` for its place."""
        return Shape("colour", self.project(x, y, z), fill)

    def shade(self, layer: str, amount: Array | float, x: Array, y: Array) -> Shape:
        """A shape on the face that lightens or darkens the skin by `amount`, see `level`."""
        return Shape(layer, self.project(x, y), self.level(amount))

    def level(self, amount: Array | float) -> Array:
        """Grey levels (T,) that are `amount` lighter (above 0) or darker than the skin."""
        return np.clip(NEUTRAL_SHADE + amount + self.rest, 0, 255)[:, 0]

    def project(self, x: Array, y: Array, z: Array | float | None = None) -> Array:
        """Pixels (T, N, 2) of face coordinates, on the face's surface where no depth is given."""
        x, y = np.broadcast_arrays(x + self.rest, y + self.rest)
        if z is None:
            z = 0.8 * np.sqrt(np.clip(1 - (x / 1.1) ** 2 - (y / 1.5) ** 2, 0, 1))
        yaw, pitch, roll = (angle[:, None] for angle in (self.scene.yaw, self.scene.pitch, self.scene.roll))
        x = x * np.cos(yaw) + z * np.sin(yaw)
        y = y * np.cos(pitch) - z * np.sin(pitch)
        across = self.scene.x[:, None] + self.scene.scale[:, None] * (x * np.cos(roll) - y * np.sin(roll))
        down = self.scene.y[:, None] + self.scene.scale[:, None] * (x * np.sin(roll) + y * np.cos(roll))
        return OVERSAMPLING * np.stack((across, down), axis=-1)

    def outline(self) -> tuple[Array, Array]:
        """The head from the crown over the right ear to the chin and back, (T, N) each."""
        who = self.who
        half_x = np.array([0.0, 0.52, 0.88, 1.0, 0.96, who.jaw, who.chin])
        half_y = np.array([-1.32, -1.22, -0.8, -0.2, 0.35, 0.85, 1.17]) * who.height
        drop = self.jaw * np.array([0, 0, 0, 0, 0.1, 0.55, 0.95])
        right_y = half_y + drop
        chin_y = 1.26 * who.height + self.jaw - 0.03 * self.au(17)
        x = np.concatenate((half_x, [0.0], -half_x[:0:-1])) + self.rest
        y = np.concatenate((right_y, chin_y, right_y[:, :0:-1]), axis=1)
        return _closed_curve(x), _closed_curve(y)

    def behind(self) -> Iterator[Shape]:
        """Long hair, neck, clothes and ears."""
        who = self.who
        if who.hair_style in LONG_HAIR:
            x, y = _mirrored([0, 0.7, 1.12, 1.24, 1.22, 1.15, 0.6], [-1.5, -1.4, -0.95, -0.2, 0.7, 1.5, 1.6])
            yield self.paint(_scaled(who.hair, 0.75), _closed_curve(x), _closed_curve(y) * who.height, -0.35)
        neck_x, neck_y = _mirrored([0, 0.52, 0.55, 0.8], [0.6, 0.7, 1.5, 2.2])
        yield self.paint(_scaled(who.skin, 0.72), neck_x, neck_y, -0.25)
        coat_x, coat_y = _mirrored([0, 0.5, 1.3, 2.2, 2.4, 0], [1.72, 1.55, 1.75, 2.1, 3.2, 3.2])
        yield self.paint(who.clothes, coat_x, coat_y, -0.25)
        for side in SIDES:
            x, y = _ellipse(side * 1.03, 0.02, 0.12, 0.24)
            yield self.paint(_scaled(who.skin, 0.85), x, y, -0.15)

    def head(self) -> Iterator[Shape]:
        x, y = self.outline()
        yield self.paint(self.who.skin, x, y, 0.0)
        # The rim turns away from the viewer, so it is darker than the middle.
        yield Shape("broad", self.project(x, y, 0.0), self.level(-18))
        yield Shape("broad", self.project(0.8 * x, 0.84 * y, 0.0), self.level(3))
        if self.who.stubble:
            half_x, half_y = [0, 0.34, 0.6, 0.9, 0.8, 0.42, 0], [0.5, 0.5, 0.6, 0.3, 0.84, 1.16, 1.24]
            x, y = (_closed_curve(line) for line in _mirrored(half_x, half_y))
            y = y * self.who.height + self.jaw * np.clip(y - 0.4, 0, 1)
            yield Shape("broad", self.project(x, y, 0.0), self.level(-38 * self.who.stubble))

    def hair(self) -> Iterator[Shape]:
        """The hair in front of the forehead, hiding its creases; nothing on a bald head."""
        if self.who.hair_style not in HAIRLINES:
            return
        top, line_x, line_y = HAIRLINES[self.who.hair_style]
        outer_x = [0, 0.62, 1.02, 1.12, 1.04]
        outer_y = [-top, 0.1 - top, -0.95, -0.4, line_y[-1]]
        x, y = (_closed_curve(line) for line in _mirrored([*outer_x, *line_x[::-1]], [*outer_y, *line_y[::-1]]))
        yield self.paint(self.who.hair, x, y * self.who.height, 0.12)
        # One level above neutral, which would not be drawn at all: this hides the creases under the hair.
        yield Shape("fine", self.project(x, y * self.who.height, 0.12), self.level(1))
        streak = np.linspace(-1, 1, 12)
        for lift, amount in ((0.0, 11), (0.1, -8)):
            crown = (lift - top + 0.14 + 0.32 * streak**2) * self.who.height
            across, down = _ribbon(0.8 * streak, crown, 0.035 * (1 - streak**2))
            yield Shape("fine", self.project(across, down, 0.25), self.level(amount))

    def brow(self, side: int) -> Iterator[Shape]:
        """Raised inside (AU1) and outside (AU2), drawn together and down (AU4, AU9)."""
        who = self.who
        raised, arched, lowered = self.au(1, side), self.au(2, side), self.au(4, side)
        crinkled = self.au(9, side) + 0.4 * self.au(6, side)
        u = np.linspace(0, 1, 9)
        inner, outer = 1 - u, np.sin(np.pi * (0.12 + 0.7 * u))
        x = 0.17 + (0.62 + 0.02 * arched) * u - (0.06 * lowered + 0.03 * crinkled) * inner
        y = who.eye_y - who.brow_gap - 0.05 * np.sin(np.pi * u**1.05) + who.brow_tilt * (2 * u - 1)
        y = y - 0.27 * raised * inner**1.3 - 0.23 * arched * outer * u**0.5 - 0.03 * arched
        y = y + lowered * (0.19 * inner + 0.07) + 0.06 * crinkled * inner
        width = who.brow_thickness * (1.05 - 0.75 * u**2)
        yield self.paint(_scaled(who.hair, 0.6), *_ribbon(side * x, y, width))
        socket = y + 0.5 * (who.eye_y - y)
        yield self.shade("broad", -10 - 6 * lowered, *_ribbon(side * x, socket, 0.06 * np.sin(np.pi * u)))

    def eye(self, side: int) -> Iterator[Shape]:
        """Upper lid raised (AU5), lids tight (AU7), narrowed by the cheek (AU6), blinking (AU45)."""
        who = self.who
        wide, tight, cheek = self.au(5, side), self.au(7, side), self.au(6, side)
        squint = np.clip(0.35 * tight + 0.25 * cheek + 0.3 * self.au(9, side) + 0.1 * self.au(4, side), 0, 0.6)
        shut = np.clip(1 - self.au(45), 0.02, 1)
        u = np.linspace(0, 1, 11)
        x = who.eye_x + who.eye_width * (u - 0.5)
        line = who.eye_y - 2 * who.eye_tilt * (u - 0.5) + 0.03 * (0.5 - u)
        sad = self.au(1, side) * (1 - 0.7 * self.au(2, side))
        lift = who.eye_height * (1 + 0.9 * wide) * (1 - squint) * (1 - 0.25 * sad * u**2)
        upper = line - (lift * shut - 0.4 * who.eye_height * (1 - shut)) * np.sin(np.pi * u**0.9) ** 0.75
        sink = 0.55 * who.eye_height * (1 + 0.25 * wide) * (1 - 0.9 * np.clip(tight + 0.7 * cheek, 0, 1))
        lower = line + sink * np.sin(np.pi * u**1.1) ** 0.8
        lower = np.maximum(lower, upper + 0.006)
        yield self.paint((238, 234, 230), side * _joined(x, x), _joined(upper, lower))
        for radius, colour in ((0.09, who.iris), (0.042, (12, 10, 10))):
            yield self.paint(
                colour, *_ellipse(side * who.eye_x + self.scene.gaze[:, None], who.eye_y - 0.012, radius, radius)
            )
        yield self.paint((250, 250, 250), *_ellipse(side * who.eye_x - 0.03, who.eye_y - 0.045, 0.02, 0.02))
        skin = _scaled(who.skin, 0.95)
        bulge = np.sin(np.pi * u) ** 0.6
        yield self.paint(skin, side * _joined(x, x), _joined(np.minimum(line - 0.2 * bulge, upper), upper))
        yield self.paint(skin, side * _joined(x, x), _joined(np.maximum(line + 0.15 * bulge, lower), lower))
        yield self.paint((40, 28, 26), *_ribbon(side * x, upper - 0.008, 0.022 * np.sin(np.pi * (0.08 + 0.87 * u))))
        yield self.paint(_scaled(who.skin, 0.68), *_ribbon(side * x, lower + 0.004, 0.008 * np.sin(np.pi * u)))
        crease = upper - 0.045 - 0.02 * (1 - shut) + 0.02 * wide
        yield self.shade("fine", -40, *_ribbon(side * x, crease, 0.014 * np.sin(np.pi * u)))
        bag = lower + 0.075 - 0.025 * cheek
        deep = -10 * who.age - 8 - 42 * np.clip(cheek + 0.5 * tight + 0.5 * self.au(9, side), 0, 1.2)
        yield self.shade("fine", deep, *_ribbon(side * x, bag, 0.02 * np.sin(np.pi * u)))
        for angle in (-0.1, 0.0, 0.1):
            foot = np.linspace(0.03, 0.16, 4)
            yield self.shade("fine", -46 * cheek, *_ribbon(side * (x[-1] + foot), line[-1] + angle * foot * 8, 0.01))

    def nose(self) -> Iterator[Shape]:
        """Wrinkled beside the bridge (AU9)."""
        who = self.who
        wrinkle = self.au(9)
        tip = who.nose_y - 0.05 * wrinkle - 0.02 * self.au(10)
        wing = who.nose_width * (1 + 0.16 * wrinkle + 0.08 * self.au(12))
        bridge = np.linspace(0, 1, 6)
        for side in SIDES:
            x = side * (0.07 + 0.03 * bridge + (wing - 0.1) * bridge**4)
            yield self.shade("fine", -11 - 14 * wrinkle, *_ribbon(x, (tip + 0.1) * bridge - 0.08, 0.028))
            x, y = _ellipse(side * 0.62 * wing, tip + 0.04, 0.4 * wing, 0.05)
            yield self.shade("fine", -20, x, y + 0.025)
            x, y = _ellipse(side * 0.5 * wing, tip + 0.035, 0.075 * wing / 0.2, 0.028)
            yield self.paint(_scaled(who.skin, 0.46), x, y)
            for step in (0.0, 0.08, 0.16):
                fold = np.linspace(0.015, 0.15, 5)
                drop = step - 0.06 + 0.7 * fold
                yield self.shade("fine", -58 * wrinkle, *_ribbon(side * fold, drop, 0.013))
        x, y = _ellipse(0.0, tip + 0.08, 0.6 * wing, 0.03)
        yield self.shade("fine", -18, x, y)
        x, y = _ellipse(0.0, tip - 0.06, 0.07, 0.07)
        yield self.shade("fine", 16, x, y)
        yield self.shade("broad", 9, *_ribbon(0 * bridge, (tip - 0.05) * bridge - 0.12, 0.05))

    def forehead(self) -> Iterator[Shape]:
        """Creased across by raised brows (AU1, AU2), and between the brows by lowered ones (AU4)."""
        raised, lowered = self.au(1), self.au(4)
        both = np.minimum(raised, self.au(2))
        u = np.linspace(-1, 1, 9)
        for row in (0.0, 0.12, 0.24):
            y = self.who.eye_y - self.who.brow_gap - 0.26 - row + 0.04 * u**2 + 0.05 * (raised - both) * u**2
            strength = -52 * both - 24 * (raised - both) * (row < 0.2) - 7 * self.who.age
            reach = 0.5 * both + 0.3
            yield self.shade("fine", strength, *_ribbon(reach * u, y, 0.02 * (1 - u**4)))
        v = np.linspace(0, 1, 4)
        for side in SIDES:
            x = side * (0.055 + 0.015 * v)
            y = self.who.eye_y - 0.12 - 0.2 * v + 0.04 * lowered
            yield self.shade("fine", -62 * lowered - 4 * self.who.age, *_ribbon(x, y, 0.018))

    def cheek(self, side: int) -> Iterator[Shape]:
        """Raised (AU6), and the nasolabial fold of a smile (AU12) or a sneer (AU9, AU10)."""
        who = self.who
        smile, lift, sneer = self.au(12, side), self.au(6, side), self.au(10, side) + 0.8 * self.au(9, side)
        x, y = _ellipse(side * 0.6, 0.22 - 0.06 * lift - 0.04 * smile, 0.22 + 0.03 * smile, 0.15)
        yield self.shade("broad", 8 + 16 * smile + 10 * lift, x, y)
        v = np.linspace(0, 1, 7)
        out = 0.17 * smile + 0.1 * self.au(20, side) + 0.05 * sneer
        fold_x = who.nose_width + 0.02 + (who.mouth_width - who.nose_width + 0.05 + out) * v**0.8
        fold_y = who.nose_y + (who.mouth_y - who.nose_y - 0.06 * smile - 0.04 * sneer) * v - 0.05 * sneer * (1 - v)
        fold_x = fold_x + 0.05 * smile * np.sin(np.pi * v)
        strength = -8 - 10 * who.age - 44 * np.clip(smile + sneer + 0.3 * self.au(15, side), 0, 1.3)
        yield self.shade("fine", strength, *_ribbon(side * fold_x, fold_y, 0.022 * np.sin(np.pi * (0.15 + 0.75 * v))))

    def mouth(self) -> Iterator[Shape]:
        """Lips raised, stretched, tightened, pressed and parted, jaw dropped (AU10 to AU27)."""
        who = self.who
        u = np.linspace(-1, 1, 15)
        bow = np.clip(1 - u**2, 0, 1)
        pressed = np.clip(0.55 * self.au(23) + 0.75 * self.au(24), 0, 0.85)
        gap = (0.1 * self.au(25) + 0.24 * self.au(26) + 0.4 * self.au(27)) * (1 - pressed)
        sides = [self.lip_corner(side) for side in SIDES]
        x = np.where(u < 0, sides[0][0], sides[1][0]) * np.abs(u) * np.sign(u)
        corner = np.where(u < 0, sides[0][1], sides[1][1])
        middle = who.mouth_y - 0.07 * self.au(17) - 0.02 * self.au(12) - 0.03 * self.au(10)
        line = middle + corner * np.abs(u) ** 1.7
        raised = 0.08 * self.au(10) + 0.05 * self.au(9)
        upper = line - (0.22 * gap + raised * np.minimum(1, 8 * gap)) * bow**0.6
        lower = line + (0.85 * gap + 0.05 * self.au(16)) * bow**0.6
        thin = (1 - pressed) * (1 - 0.3 * self.au(12) - 0.3 * self.au(20) + 0.3 * self.au(18))
        cupid = 1 - 0.22 * np.exp(-((u / 0.16) ** 2))
        top = upper - (who.lip * thin * bow**0.7 + raised * bow**0.35) * cupid
        bottom = lower + (1.25 * who.lip * thin + 0.02 * self.au(17)) * bow**0.8
        yield self.shade("fine", -18, *_ribbon(0.62 * x, bottom + 0.05, 0.025 * bow))
        if who.moustache:
            yield self.paint(_scaled(who.hair, 0.9), *_ribbon(0.95 * x, top - 0.055, 0.05 * bow**0.4 + 0.01))
        yield self.paint((58, 20, 22), _joined(x, x), _joined(upper, lower))
        teeth = np.minimum(0.8 * (lower - upper), 0.09 * bow**0.3)
        yield self.paint((232, 228, 218), 0.86 * _joined(x, x), _joined(upper, upper + teeth))
        tongue = np.clip(gap - 0.12, 0, 0.12) * bow
        yield self.paint((150, 66, 66), 0.7 * _joined(x, x), _joined(lower - tongue, lower))
        yield self.paint(_scaled(who.lips, 0.88), _joined(x, x), _joined(top, upper))
        yield self.paint(who.lips, _joined(x, x), _joined(lower, bottom))
        yield self.paint(_scaled(who.lips, 0.5), *_ribbon(x, np.minimum(lower, upper + 0.012), 0.011))
        yield from self.chin(bottom)

    def lip_corner(self, side: int) -> tuple[Array, Array]:
        """Half the mouth's width and how far its corner lies below its middle, (T, 1) each."""
        smile, stretch, droop = self.au(12, side), self.au(20, side), self.au(15, side)
        narrow = 0.05 * self.au(23) + 0.16 * self.au(18) + 0.03 * self.au(26) + 0.06 * self.au(27)
        width = self.who.mouth_width + 0.16 * smile + 0.2 * stretch + 0.02 * droop - narrow
        drop = self.who.mouth_rest - 0.24 * smile + 0.22 * droop + 0.03 * stretch + 0.05 * self.au(17)
        return width, drop + 0.35 * self.jaw

    def chin(self, lip: Array) -> Iterator[Shape]:
        """Dimpled where the chin is raised (AU17); `lip` is the lower edge of the lower lip, (T, m)."""
        boss = self.au(17)
        below = lip[:, lip.shape[1] // 2 : lip.shape[1] // 2 + 1]
        x, y = _ellipse(0.0, below + 0.16, 0.17, 0.08)
        yield self.shade("broad", 12, x, y)
        for dx, dy in ((-0.09, 0.14), (0.0, 0.11), (0.09, 0.14), (-0.05, 0.2), (0.05, 0.2)):
            x, y = _ellipse(dx, below + dy, 0.032, 0.025)
            yield self.shade("fine", -38 * boss, x, y)
        for side in SIDES:
            width, drop = self.lip_corner(side)
            x, y = _ellipse(side * (width + 0.03), self.who.mouth_y + drop, 0.035, 0.05)
            yield self.shade(
                "fine", -10 - 26 * (self.au(15, side) + 0.6 * self.au(12, side) + 0.5 * self.au(20, side)), x, y
            )

    def spectacles(self) -> Iterator[Shape]:
        turn = np.linspace(0, 2 * np.pi, 25)
        for side in SIDES:
            x = side * (self.who.eye_x + 0.02) + 0.29 * np.cos(turn)
            y = self.who.eye_y + 0.03 + 0.21 * np.sin(turn)
            yield self.paint((34, 30, 32), *_ribbon(x, y, 0.016), 0.85)
            arm, depth = np.linspace(0.74, 1.0, 3), np.linspace(0.7, -0.1, 3)
            yield self.paint(
                (34, 30, 32), *_ribbon(side * arm, self.who.eye_y - 0.02 + 0 * arm, 0.016), _joined(depth, depth)
            )
        bridge = np.linspace(-0.14, 0.14, 5)
        yield self.paint((34, 30, 32), *_ribbon(bridge, self.who.eye_y - 0.02 - 0.02 * np.cos(9 * bridge), 0.016), 0.9)


def _closed_curve(corners: Array) -> Array:
    """One coordinate of a smooth closed curve through `corners`, (T, n) -> (T, 5 n)."""
    return np.asarray(corners) @ _catmull_rom(corners.shape[-1], 5).T


@functools.cache
def _catmull_rom(corners: int, steps: int) -> Array:
    """Weights (steps * corners, corners) of the closed uniform Catmull-Rom spline (Catmull and Rom, 1974)."""
    s = np.arange(steps) / steps
    blend = 0.5 * np.stack(
        (-s + 2 * s**2 - s**3, 2 - 5 * s**2 + 3 * s**3, s + 4 * s**2 - 3 * s**3, s**3 - s**2), axis=1
    )
    weights = np.zeros((corners * steps, corners))
    for corner in range(corners):
        for neighbour in range(4):
            weights[corner * steps : (corner + 1) * steps, (corner + neighbour - 1) % corners] += blend[:, neighbour]
    return weights


def _mirrored(x: Sequence[float], y: Sequence[float]) -> tuple[Array, Array]:
    """A closed outline from its right half, from top to bottom."""
    return np.array([*x, *(-value for value in reversed(x))]), np.array([*y, *reversed(y)])


def _ellipse(x: Array | float, y: Array | float, across: Array | float, down: Array | float) -> tuple[Array, Array]:
    turn = np.linspace(0, 2 * np.pi, 18, endpoint=False)
    return x + across * np.cos(turn), y + down * np.sin(turn)


def _joined(there: Array, back: Array) -> Array:
    """One coordinate of the closed outline that runs along one line and returns along another, (..., 2 m)."""
    there, back = np.broadcast_arrays(there, back)
    return np.concatenate((there, back[..., ::-1]), axis=-1)


def _ribbon(x: Array, y: Array, half_width: Array | float) -> tuple[Array, Array]:
    """The outline of a line of varying width, (..., m) -> (..., 2 m)."""
    x, y = np.broadcast_arrays(x, y)
    along_x, along_y = np.gradient(x, axis=-1), np.gradient(y, axis=-1)
    length = np.hypot(along_x, along_y) + 1e-9
    across_x, across_y = -along_y / length * half_width, along_x / length * half_width
    return _joined(x + across_x, x - across_x), _joined(y + across_y, y - across_y)


def _scaled(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)
