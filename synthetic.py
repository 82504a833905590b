"""The built-in data set: procedural pedestrians, written as JPEGs in the layout of Market-1501.

Nothing here is taken from a real person or a real data set; it exists so that every mode runs on a fresh machine and so
that a change can be measured without one. A number measured on it says nothing about a real benchmark.

    identity -> Person      what a retrieval model has to recognise: clothes, build, hair, things carried
    camera   -> Camera      what it has to ignore: colour cast, gamma, blur, resolution, viewpoint, background
    image    -> draw_image  what changes from shot to shot: pose, crop, occlusion, light

Identities come in families of `FAMILY` that share a wardrobe and differ in a few details, so that gross colour does not
decide. The figure is a small 3-D skeleton (x to the body's left, y up, z forward; 100 units high) turned by the yaw of
the shot and projected orthographically. Each limb is a tapered capsule whose surface has coordinates (t along it, alpha
around it, alpha = 0 at the front), so a print on the back or a bag on one hip is seen from where it should be seen.

Every image is a function of (seed, pid, camid, index) alone: the order and number of processes do not matter.

Difficulty on seed 0 by the market1501 protocol, rank-1 / mAP in percent, from our runs on two CPU cores: an untrained
network 1.4 / 1.8; HSV histograms of six stripes 0.8 / 1.5; OSNet x0.25 trained for 16 epochs of 40 steps with ID and
triplet loss 57.4 / 43.0, for 32 epochs 75.8 / 59.7.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

VERSION = 1  # part of the cache folder's name: raise it whenever a pixel of the default set changes
HEIGHT, WIDTH = 128, 64
SUPER = 2  # supersampling of the drawing; edges are anti-aliased by signed distance on top
FAMILY = 4  # identities per family
NUM_CHANGES = 4  # details in which a member departs from its family's wardrobe
TRAIN_IDS, TEST_IDS, CAMERAS = 150, 100, 6
DISTRACTORS, JUNK = 120, 60  # gallery images of pid 0 and of pid -1
SUBSETS = ("bounding_box_train", "query", "bounding_box_test")
# (ids, images, cameras) of the default size for any seed, as a parser that drops pid -1 and keeps pid 0 as an id finds
# them, like Market-1501's 751 gallery ids.
COUNTS = {"train": (150, 1650, 6), "query": (100, 500, 6), "gallery": (101, 1220, 6)}


# ---------------------------------------------------------------------------------------------------- identities

COLOURS = {
    "black": (0.11, 0.11, 0.13), "white": (0.88, 0.88, 0.86), "grey": (0.52, 0.53, 0.55), "navy": (0.15, 0.18, 0.31),
    "red": (0.62, 0.16, 0.17), "blue": (0.27, 0.42, 0.64), "green": (0.24, 0.41, 0.30), "yellow": (0.80, 0.66, 0.29),
    "pink": (0.82, 0.58, 0.62), "purple": (0.40, 0.27, 0.46), "khaki": (0.64, 0.57, 0.45), "brown": (0.36, 0.26, 0.20),
    "denim": (0.30, 0.38, 0.51), "teal": (0.20, 0.44, 0.46), "orange": (0.76, 0.43, 0.22),
}  # fmt: skip
TOP_COLOURS = ("black", "white", "grey", "navy", "red", "blue", "green", "yellow", "pink", "purple", "teal", "khaki")
LEG_COLOURS = ("black", "denim", "navy", "grey", "khaki", "brown", "white")
BAG_COLOURS = ("black", "red", "blue", "brown", "green", "orange", "grey")
SHOE_COLOURS = ("black", "white", "brown", "red", "grey", "blue")
HAIR_COLOURS = ((0.08, 0.07, 0.07), (0.20, 0.13, 0.09), (0.38, 0.24, 0.13), (0.70, 0.55, 0.32), (0.55, 0.53, 0.51))
SKIN_COLOURS = ((0.93, 0.76, 0.66), (0.86, 0.67, 0.54), (0.74, 0.54, 0.40), (0.55, 0.38, 0.27), (0.38, 0.26, 0.19))
PATTERNS = ("plain", "plain", "hoops", "stripes", "checks", "block", "band", "logo", "logo", "back", "fade", "dots")
TOPS = ("tshirt", "tshirt", "shirt", "hoodie", "jacket", "coat", "vest")
LEGS = ("trousers", "trousers", "jeans", "track", "shorts", "skirt", "dress")
HAIRS = ("short", "short", "short", "crop", "crop", "bob", "long", "long", "tail", "tail", "bun", "bald")
HATS = ("none", "none", "none", "none", "cap", "beanie", "brim")
BAGS = ("none", "none", "backpack", "backpack", "shoulder_left", "shoulder_right", "tote_left", "tote_right", "pouch")


@dataclass(frozen=True)
class Person:
    """What stays the same over all images of one identity. Colours are RGB in [0, 1]."""

    top: str
    pattern: str
    scale: float  # spatial frequency of the pattern, relative
    top_colour: np.ndarray
    second_colour: np.ndarray
    legs: str
    leg_colour: np.ndarray
    shoe_colour: np.ndarray
    sock: float  # height of the socks, fraction of the shin
    hair: str
    hair_colour: np.ndarray
    hat: str
    hat_colour: np.ndarray
    bag: str
    bag_colour: np.ndarray
    skin: np.ndarray
    height: float  # relative to the average
    girth: float
    shoulders: float
    leg_length: float


def _rng(*key: int) -> np.random.Generator:
    """One independent stream per key. Keys may be -1 (junk), which a seed sequence does not take."""
    return np.random.default_rng([part + 2 for part in key])


def _choose(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def _wardrobe(rng: np.random.Generator) -> dict[str, dict]:
    """One draw of everything, grouped by what changes together when a detail changes."""
    top_colour, second_colour = rng.permutation(len(TOP_COLOURS))[:2]
    return {
        "top": {"top": _choose(rng, TOPS)},
        "pattern": {"pattern": _choose(rng, PATTERNS), "scale": float(_choose(rng, (0.7, 1.0, 1.5)))},
        "top_colour": {"top_colour": COLOURS[TOP_COLOURS[top_colour]]},
        "second_colour": {"second_colour": COLOURS[TOP_COLOURS[second_colour]]},
        "legs": {"legs": _choose(rng, LEGS)},
        "leg_colour": {"leg_colour": COLOURS[_choose(rng, LEG_COLOURS)]},
        "shoes": {"shoe_colour": COLOURS[_choose(rng, SHOE_COLOURS)], "sock": _choose(rng, (0.0, 0.0, 0.2, 0.6))},
        "hair": {"hair": _choose(rng, HAIRS), "hair_colour": _choose(rng, HAIR_COLOURS)},
        "hat": {"hat": _choose(rng, HATS), "hat_colour": COLOURS[_choose(rng, BAG_COLOURS)]},
        "bag": {"bag": _choose(rng, BAGS), "bag_colour": COLOURS[_choose(rng, BAG_COLOURS)]},
        "skin": {"skin": _choose(rng, SKIN_COLOURS)},
    }


def make_person(seed: int, family: int, member: int) -> Person:
    """The family's wardrobe with `NUM_CHANGES` groups drawn anew for the member, plus its own build and dye lots."""
    wardrobe = _wardrobe(_rng(seed, 1, family))
    rng = _rng(seed, 2, family, member)
    other = _wardrobe(rng)
    for group in rng.permutation(len(wardrobe))[:NUM_CHANGES]:
        name = list(wardrobe)[group]
        wardrobe[name] = other[name]
    fields = {name: value for group in wardrobe.values() for name, value in group.items()}
    for name, value in fields.items():
        if isinstance(value, tuple):
            colour = np.array(value) * rng.uniform(0.92, 1.08) + rng.normal(0, 0.015, 3)
            fields[name] = np.clip(colour, 0.04, 0.96).astype(np.float32)
    return Person(
        **fields,
        height=float(rng.uniform(0.91, 1.06)),
        girth=float(rng.uniform(0.88, 1.22)),
        shoulders=float(rng.uniform(0.88, 1.10)),
        leg_length=float(rng.uniform(0.94, 1.05)),
    )


def person_of(seed: int, pid: int) -> Person:
    """The person behind a positive pid."""
    return make_person(seed, pid // FAMILY, pid % FAMILY)


# ------------------------------------------------------------------------------------------------------- cameras


@dataclass(frozen=True)
class Camera:
    """How one camera sees. `cast` multiplies R, G, B; `yaws` are the facings it usually catches, in degrees."""

    scene: str
    cast: tuple[float, float, float]
    saturation: float
    gamma: float
    contrast: float
    blur: float  # radius of a Gaussian, in pixels of the final image
    shrink: float  # the image is scaled down to this fraction and up again
    noise: float  # standard deviation, in grey levels of 255
    quality: tuple[int, int]  # JPEG
    pitch: float  # degrees by which the camera looks down
    yaws: tuple[float, ...]  # 0 front, 90 the body's left side towards the viewer's right, 180 back


CAMERA_TABLE = (
    Camera("plaza", (1.04, 1.00, 0.94), 1.00, 0.95, 1.05, 0.3, 1.00, 3.0, (82, 92), 8, (0, 25, -30, 180)),
    Camera("brick", (0.95, 1.00, 1.06), 0.92, 1.05, 0.97, 0.5, 0.80, 4.0, (70, 85), 12, (180, 150, -155, 90)),
    Camera("park", (0.98, 1.03, 0.97), 1.05, 0.90, 1.05, 0.4, 0.90, 3.0, (75, 90), 6, (90, 75, -90, 110)),
    Camera("street", (1.01, 0.99, 1.00), 0.88, 1.10, 0.94, 0.7, 0.75, 5.0, (60, 80), 14, (-90, -60, 0, 180)),
    Camera("campus", (1.00, 1.01, 1.02), 1.08, 0.88, 1.08, 0.3, 1.00, 2.0, (85, 95), 10, (0, 180, 45, -135)),
    Camera("hall", (1.07, 0.99, 0.89), 0.84, 1.15, 0.96, 0.6, 0.70, 6.0, (55, 75), 16, (20, -20, 160, 200)),
)


# ------------------------------------------------------------------------------------------------------- drawing


def _mix(a, b, weight: np.ndarray) -> np.ndarray:
    """a where the weight is 0, b where it is 1; a, b (3,) or (h, w, 3), weight (h, w)."""
    a = np.asarray(a, np.float32)
    return a + (np.asarray(b, np.float32) - a) * weight[..., None]


def _edge(value: np.ndarray, sharpness: float) -> np.ndarray:
    """A soft step from 0 to 1 where the value passes through 0."""
    return np.clip(value * sharpness + 0.5, 0, 1)


def _near(alpha: np.ndarray, centre: float, half: float, softness: float = 0.12) -> np.ndarray:
    """1 where the angle lies within `half` of `centre`."""
    return _edge(half - np.abs((alpha - centre + np.pi) % (2 * np.pi) - np.pi), 1 / softness)


class Canvas:
    """A float picture in [0, 1] on which shaded, textured limbs are laid, the nearest last.

    Coordinates are pixels of the final 64 x 128 image, whatever the supersampling.
    """

    def __init__(self, pixels: np.ndarray, folds: np.ndarray, light: float, yaw: float, ambient: float = 0.62):
        self.pixels = pixels  # (H * SUPER, W * SUPER, 3)
        self.folds = folds  # (H * SUPER, W * SUPER), around 1: creases of cloth
        self.light, self.yaw, self.ambient = light, yaw, ambient  # light: -1 from the left ... 1 from the right
        height, width = folds.shape
        self.x = ((np.arange(width, dtype=np.float32) + 0.5) / SUPER)[None]
        self.y = ((np.arange(height, dtype=np.float32) + 0.5) / SUPER)[:, None]

    def limb(self, a, b, radii, paint, flat=(False, False), relief: float = 1.0) -> None:
        """A capsule from a to b whose half-width runs through `radii`; a flat end is cut off instead of rounded.

        `paint` is an RGB triple or a function of (t, alpha), each (h, w), that returns (h, w, 3).
        """
        ax, ay, bx, by = (float(value) for value in (*a, *b))  # not numpy's float64, which would widen the arrays
        radii = [float(radius) for radius in radii]
        reach = max(radii) + 1
        height, width = self.folds.shape
        x0, x1 = _span(min(ax, bx) - reach, max(ax, bx) + reach, width)
        y0, y1 = _span(min(ay, by) - reach, max(ay, by) + reach, height)
        if x0 >= x1 or y0 >= y1:
            return
        length = float(np.hypot(bx - ax, by - ay))
        ux, uy = ((bx - ax) / length, (by - ay) / length) if length > 0.1 else (0.0, 1.0)  # a ball hangs down
        length = max(length, 0.1)
        x, y = self.x[:, x0:x1] - ax, self.y[y0:y1] - ay
        along = x * ux + y * uy  # (h, w)
        across = x * uy - y * ux  # (h, w), to the viewer's right when the limb hangs down
        t = np.clip(along / length, 0, 1)
        if len(radii) == 2:
            half = radii[0] + (radii[1] - radii[0]) * t
        else:
            half = np.interp(t, np.linspace(0, 1, len(radii)), radii).astype(np.float32)
        beyond = along - t * length
        cover = np.clip((half - np.sqrt(across * across + beyond * beyond)) * SUPER + 0.5, 0, 1)
        if flat[0]:
            cover *= np.clip(along * SUPER + 0.5, 0, 1)
        if flat[1]:
            cover *= np.clip((length - along) * SUPER + 0.5, 0, 1)
        u = np.clip(across / half, -1, 1)
        facing = np.sqrt(1 - u * u)  # the normal is (u, facing)
        shade = self.ambient + (1.12 - self.ambient) * np.clip(0.85 * facing + 0.45 * self.light * u, 0, 1)
        shade *= 1 + relief * (self.folds[y0:y1, x0:x1] - 1)
        colour = paint(t, np.arcsin(u) - self.yaw) if callable(paint) else np.asarray(paint, np.float32)
        region = self.pixels[y0:y1, x0:x1]
        region += cover[..., None] * (colour * shade[..., None] - region)

    def shadow(self, centre, radius_x: float, radius_y: float, strength: float) -> None:
        """A soft dark ellipse on the floor."""
        height, width = self.folds.shape
        x0, x1 = _span(centre[0] - 2 * radius_x, centre[0] + 2 * radius_x, width)
        y0, y1 = _span(centre[1] - 2 * radius_y, centre[1] + 2 * radius_y, height)
        distance = ((self.x[:, x0:x1] - centre[0]) / radius_x) ** 2 + ((self.y[y0:y1] - centre[1]) / radius_y) ** 2
        self.pixels[y0:y1, x0:x1] *= 1 - (strength * np.exp(-1.5 * distance))[..., None]


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    return max(int(low * SUPER), 0), min(int(high * SUPER) + 1, size)


def _weave(person: Person, t: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The top's cloth at (t, alpha) of the torso: (h, w, 3)."""
    base, second, scale = person.top_colour, person.second_colour, person.scale
    if person.pattern == "hoops":
        weight = _edge(np.sin(2 * np.pi * 5 * scale * t), 2)
    elif person.pattern == "stripes":
        weight = _edge(np.sin(7 * scale * alpha) - 0.2, 2)
    elif person.pattern == "checks":
        weight = 0.5 * _edge(np.sin(2 * np.pi * 4 * scale * t), 2) + 0.5 * _edge(np.sin(6 * scale * alpha), 2)
    elif person.pattern == "block":
        weight = _edge(t - 0.25 - 0.2 * scale, 20)
    elif person.pattern == "band":
        weight = _edge(0.09 * scale - np.abs(t - 0.38), 20)
    elif person.pattern == "logo":
        weight = _near(alpha, 0, 0.4 * scale) * _edge(0.11 * scale - np.abs(t - 0.32), 20)
    elif person.pattern == "back":
        weight = _near(alpha, np.pi, 0.55 * scale) * _edge(0.16 * scale - np.abs(t - 0.36), 20)
    elif person.pattern == "fade":
        weight = np.clip(1.3 * t - 0.1, 0, 1)
    elif person.pattern == "dots":
        weight = _edge(np.sin(2 * np.pi * 5 * scale * t) * np.sin(6 * scale * alpha) - 0.35, 3)
    else:
        weight = np.zeros_like(t)
    return _mix(base, second, weight)


def _torso_paint(person: Person):
    """Cloth, neckline, opening of a jacket, and the straps of whatever is carried."""
    inner = person.second_colour if person.pattern in ("plain", "back", "fade") else COLOURS["white"]

    def paint(t, alpha):
        colour = _weave(person, t, alpha)
        if person.top in ("jacket", "coat"):
            colour = _mix(colour, inner, _near(alpha, 0, 0.30 - 0.12 * (person.top == "coat")))
        if person.top == "hoodie":
            pocket = _near(alpha, 0, 0.55, 0.2) * _edge(0.10 - np.abs(t - 0.72), 16)
            colour = colour * (1 - 0.22 * pocket[..., None])
        deep = 0.07 if person.top in ("tshirt", "vest") else 0.045
        colour = _mix(colour, person.skin, _near(alpha, 0, 0.75, 0.3) * _edge(deep - t, 40))
        if person.legs in ("trousers", "jeans") and person.top in ("shirt", "tshirt"):
            colour = _mix(colour, (0.14, 0.11, 0.10), _edge(t - 0.95, 60))  # belt
        strap = np.asarray(person.bag_colour) * 0.8
        if person.bag == "backpack":
            weight = (_near(alpha, 0.62, 0.13, 0.08) + _near(alpha, -0.62, 0.13, 0.08)) * _edge(0.55 - t, 20)
            colour = _mix(colour, strap, np.clip(weight, 0, 1))
        elif person.bag.startswith("shoulder"):
            side = 1.0 if person.bag.endswith("left") else -1.0
            colour = _mix(colour, strap, _edge(0.13 - np.abs(side * np.sin(alpha) - (2.0 * t - 0.85)), 12))
        elif person.bag == "pouch":
            colour = _mix(colour, strap, _edge(0.03 - np.abs(t - 0.84), 40))
        return colour

    return paint


def _sleeve_paint(person: Person, start: float, end: float):
    """The arm between fractions `start` and `end` of its length: sleeve, then skin."""
    stop = {"tshirt": 0.30, "vest": 0.02}.get(person.top, 0.97)
    plain = replace(person, pattern=person.pattern if person.pattern in ("hoops", "checks", "dots") else "plain")
    if person.pattern == "block" and person.scale < 1:  # raglan: arms in the second colour
        plain = replace(plain, top_colour=person.second_colour)

    def paint(t, alpha):
        position = start + (end - start) * t
        cloth = _weave(plain, position * 1.1, alpha)
        cuff = 0.18 * _edge(0.03 - np.abs(position - stop + 0.03), 40)
        return _mix(cloth * (1 - cuff[..., None]), person.skin, _edge(position - stop, 30))

    return paint


def _leg_paint(person: Person, start: float, end: float):
    """The leg between fractions `start` and `end` of its length: trousers or shorts, skin, socks."""
    stop = {"shorts": 0.47, "skirt": 0.2, "dress": 0.2}.get(person.legs, 1.1)

    def paint(t, alpha):
        position = start + (end - start) * t
        cloth = np.broadcast_to(np.asarray(person.leg_colour, np.float32), (*t.shape, 3))
        if person.legs == "track":
            side = np.clip(_near(alpha, np.pi / 2, 0.32) + _near(alpha, -np.pi / 2, 0.32), 0, 1)
            cloth = _mix(cloth, person.second_colour, side)
        elif person.legs == "jeans":
            worn = 0.16 * np.exp(-((position - 0.3) ** 2) / 0.03) * np.cos(np.clip(alpha, -1.5, 1.5))
            cloth = cloth * (1 + worn[..., None])
        bare = _mix(person.skin, (0.88, 0.88, 0.86), _edge(position - (1 - 0.5 * person.sock), 30))
        return _mix(cloth, bare, _edge(position - stop, 30))

    return paint


def _head_paint(person: Person):
    """Face and hairline. The capsule clamps t in its round ends, so the heights below are stretched over [0, 1]."""
    front = {"bald": -1.0, "crop": 0.16, "bob": 0.30}.get(person.hair, 0.24)
    back = {"bald": -1.0, "crop": 0.55}.get(person.hair, 0.80)
    line = {"cap": 0.36, "beanie": 0.40, "brim": 0.30}.get(person.hat, -1.0)

    def paint(t, alpha):
        t = 0.22 + 0.56 * t  # from the crown at 0 to the chin at 1
        turned = np.clip((1 - np.cos(alpha)) * 0.62, 0, 1) ** 1.5  # 0 at the face, 1 from the ears backwards
        colour = _mix(person.skin, person.hair_colour, _edge(front + (back - front) * turned - t, 12))
        eyes = (_near(alpha, 0.42, 0.16, 0.15) + _near(alpha, -0.42, 0.16, 0.15)) * _edge(0.05 - np.abs(t - 0.50), 20)
        mouth = _near(alpha, 0, 0.22, 0.15) * _edge(0.03 - np.abs(t - 0.80), 20)
        colour = colour * (1 - np.clip(0.62 * eyes + 0.3 * mouth, 0, 1)[..., None])
        return _mix(colour, person.hat_colour, _edge(line - t, 20)) if line > 0 else colour

    return paint


# --------------------------------------------------------------------------------------------------- the figure


@dataclass(frozen=True)
class Pose:
    """One shot of a person. Angles in radians, positions in pixels of the final image."""

    yaw: float
    pitch: float
    phase: float  # of the stride
    swing: float  # amplitude of the stride; near 0 is standing
    arms: tuple[float, float]  # bend of the left and right elbow
    centre: float  # x of the body's axis
    ground: float  # y of the soles
    size: float  # pixels of the average person's height


class Skeleton:
    """Body coordinates -> (x, y) in the image and depth towards the viewer."""

    def __init__(self, pose: Pose, height: float):
        self.pose, self.unit = pose, pose.size * height / 100
        self.cos, self.sin = np.cos(pose.yaw), np.sin(pose.yaw)

    def __call__(self, x: float, y: float, z: float) -> tuple[tuple[float, float], float]:
        depth = z * self.cos - x * self.sin
        right = x * self.cos + z * self.sin
        down = y * np.cos(self.pose.pitch) - depth * np.sin(self.pose.pitch)
        return (self.pose.centre + self.unit * right, self.pose.ground - self.unit * down), depth

    def widths(self, wide, deep) -> list[float]:
        """Half-widths on screen of elliptical sections `wide` (along x) and `deep` (along z)."""
        pairs = zip(wide, deep, strict=True)
        return [self.unit * float(np.hypot(a * self.cos, b * self.sin)) for a, b in pairs]


def draw_person(canvas: Canvas, person: Person, pose: Pose) -> None:
    """Collect the limbs with their depths, then paint from the farthest to the nearest."""
    bone = Skeleton(pose, person.height)
    parts = []  # (depth, a, b, radii, paint, flat, relief)

    def add(bias, start, end, radii, paint, flat=(False, False), relief=1.0, spread=1.0):
        (a, depth_a), (b, depth_b) = bone(*start), bone(*end)
        depth = spread * (depth_a + depth_b) / 2 + bias
        parts.append((depth, a, b, radii, paint, flat, relief))

    hip_y = _legs(add, bone, person, pose)
    shoulder_y = hip_y + 31
    _torso(add, bone, person, hip_y, shoulder_y)
    hands = _arms(add, bone, person, pose, shoulder_y)
    _head(add, bone, person, shoulder_y + 2.5)
    _bag(add, bone, person, hip_y, shoulder_y, hands)
    soles, _ = bone(0, 0, 0)
    canvas.shadow((soles[0] - 5 * canvas.light, soles[1]), 15 * pose.size / 112, 3.2, 0.55)
    for _, a, b, radii, paint, flat, relief in sorted(parts, key=lambda part: part[0]):
        canvas.limb(a, b, radii, paint, flat, relief)


def _legs(add, bone: Skeleton, person: Person, pose: Pose) -> float:
    """Two legs with shoes; the lower ankle stands on the ground. Returns the height of the hips."""
    thigh, shin = 24.5 * person.leg_length, 22.5 * person.leg_length
    girth = bone.unit * (0.4 + 0.6 * person.girth)
    joints = []
    for side in (1, -1):
        hip_angle = pose.swing * side * np.sin(pose.phase)
        bend = 0.08 + 1.5 * pose.swing * max(0.0, side * np.cos(pose.phase))
        knee = (-thigh * np.cos(hip_angle), thigh * np.sin(hip_angle))  # (y, z) relative to the hip
        ankle = (knee[0] - shin * np.cos(hip_angle - bend), knee[1] + shin * np.sin(hip_angle - bend))
        joints.append((side, knee, ankle, hip_angle - bend))
    hip_y = 4.0 - min(ankle[0] for _, _, ankle, _ in joints)
    loose = 1.18 if person.legs in ("track", "trousers") else 1.0
    bare = person.legs in ("shorts", "skirt", "dress")
    for side, knee, ankle, angle in joints:
        hip, mid = (side * 4.6, hip_y, 0), (side * 4.4, hip_y + knee[0], knee[1])
        foot = (side * 4.2, hip_y + ankle[0], ankle[1])
        thigh_radii = [girth * r * (1.0 if bare else loose) for r in (6.3, 4.4)]
        shin_radii = [girth * r * (1.0 if bare else loose) for r in ((3.9, 3.9, 2.3) if bare else (4.3, 3.8, 3.1))]
        heel_y, toe_y = foot[1] - 1.6, foot[1] - 2.0 + 7 * np.sin(min(angle + 0.08, 0.25))
        toe_z = foot[2] + 7.5 * np.cos(angle)
        add(-3, (foot[0], heel_y, foot[2] - 1.2), (foot[0] + side, toe_y, toe_z),
            [2.6 * bone.unit, 2.1 * bone.unit], person.shoe_colour, relief=0.3, spread=0.1)  # fmt: skip
        add(-2.5, mid, foot, shin_radii, _leg_paint(person, 0.5, 1.0), flat=(False, not bare), spread=0.1)
        add(-2, hip, mid, thigh_radii, _leg_paint(person, 0.0, 0.5), spread=0.1)
        if person.legs == "shorts":
            hem = (mid[0], mid[1] + 0.10 * thigh, 0.88 * mid[2])
            add(-1.5, hip, hem, [girth * 6.8, girth * 6.4], person.leg_colour, flat=(False, True), spread=0.1)
    if person.legs in ("skirt", "dress"):
        spread = 1.5 + 5.0 * pose.swing * abs(np.sin(pose.phase))
        wide, deep = (8.4, 9.4, 10.2), (6.6, 7.6 + 0.5 * spread, 8.2 + spread)
        radii = [person.girth**0.5 * r for r in bone.widths(wide, deep)]
        cloth = person.leg_colour if person.legs == "skirt" else person.top_colour
        add(-0.5, (0, hip_y + 3, 0), (0, hip_y - 0.82 * thigh, 0), radii, cloth, flat=(True, True), spread=0)
    return hip_y


def _torso(add, bone: Skeleton, person: Person, hip_y: float, shoulder_y: float) -> None:
    s, g = person.shoulders, person.girth
    wide = (4.0, 9.6 * s, 10.4 * s, 9.9 * g, 9.2 * g, 8.8 * g, 9.0 * g, 9.3 * g)
    deep = (3.2, 5.2, 6.2, 6.4 * g, 6.4 * g, 6.3 * g, 6.5 * g, 6.7 * g)
    bottom = hip_y - {"coat": 13.0, "jacket": 2.0, "hoodie": 2.0}.get(person.top, 0.0)
    puff = 1.08 if person.top in ("jacket", "coat", "hoodie") else 1.0
    radii = [puff * r for r in bone.widths(wide, deep)]
    if person.top not in ("coat", "jacket", "hoodie"):  # seat of the trousers under the shirt
        seat = person.top_colour if person.legs == "dress" else person.leg_colour
        add(-0.2, (0, hip_y + 2, 0), (0, hip_y - 3, 0), [radii[-1], 0.9 * radii[-1]], seat, spread=0)
    add(0.0, (0, shoulder_y + 4, 0), (0, bottom, 0), radii, _torso_paint(person), flat=(True, True), spread=0)
    if person.top == "hoodie":
        hood = np.asarray(person.top_colour) * 0.88
        add(0.5, (0, shoulder_y + 3.5, -4.5), (0, shoulder_y - 2, -6), [5.2 * bone.unit, 4.0 * bone.unit], hood)


def _arms(add, bone: Skeleton, person: Person, pose: Pose, shoulder_y: float) -> list[tuple[float, float, float]]:
    """Two arms swinging against the legs. Returns the hands, left then right."""
    girth = bone.unit * (0.5 + 0.5 * person.girth)
    long = 1.0 if person.top in ("tshirt", "vest") else 1.15
    hands = []
    for side, bend in zip((1, -1), pose.arms, strict=True):
        angle = -0.75 * pose.swing * side * np.sin(pose.phase)
        shoulder = (side * 9.2 * person.shoulders, shoulder_y - 1.2, 0)
        elbow = (shoulder[0] + side * 2.9, shoulder_y - 17 * np.cos(angle), 17 * np.sin(angle))
        lift = angle + bend
        hand = (elbow[0] - side * 1.2, elbow[1] - 15.5 * np.cos(lift), elbow[2] + 15.5 * np.sin(lift))
        upper, lower = _sleeve_paint(person, 0.0, 0.5), _sleeve_paint(person, 0.5, 1.0)
        add(1.0, hand, hand, [2.3 * girth] * 2, person.skin, relief=0.3)
        add(1.1, elbow, hand, [long * 2.9 * girth, long * 2.1 * girth], lower)
        add(1.2, shoulder, elbow, [long * r * girth for r in (2.8, 3.2, 2.8)], upper)
        hands.append(hand)
    return hands


def _head(add, bone: Skeleton, person: Person, neck_y: float) -> None:
    unit, hair = bone.unit, person.hair_colour
    centre = neck_y + 9.5
    add(0.5, (0, neck_y + 4, 0), (0, neck_y - 1, 0), [2.9 * unit, 3.3 * unit], np.asarray(person.skin) * 0.86, spread=0)
    radii = [unit * r for r in (5.0, 5.6, 5.5, 4.0)]
    add(1.5, (0, centre + 2.6, 0.6), (0, centre - 4.4, 1.0), radii, _head_paint(person), spread=0, relief=0.3)
    if person.hair in ("long", "bob"):
        end = neck_y - 9 if person.hair == "long" else neck_y + 1
        add(1.6, (0, centre + 1, -2.6), (0, end, -4.4), [5.9 * unit, 5.2 * unit, 3.8 * unit], hair, relief=2)
        for side in (1, -1):
            add(1.5, (side * 4.6, centre, -0.8), (side * 5.0, end + 2, -0.8), [2.2 * unit, 1.5 * unit], hair, relief=2)
    elif person.hair == "tail":
        add(1.6, (0, centre + 3, -6), (0, neck_y - 4, -8), [2.4 * unit, 2.6 * unit, 1.0 * unit], hair, relief=2)
    elif person.hair == "bun":
        add(1.6, (0, centre + 7, -3.5), (0, centre + 7.4, -4), [3.0 * unit] * 2, hair, relief=2)
    if person.hat == "cap":
        peak = np.asarray(person.hat_colour) * 0.8
        add(1.8, (0, centre + 2.6, 5), (0, centre + 2.0, 10), [3.6 * unit, 2.6 * unit], peak, relief=0.3)
    elif person.hat == "brim":
        side = (9.0 * abs(bone.cos), centre + 3.2)  # a disc seen from the side: a bar across the screen
        start, end = (-9.0 * bone.cos, side[1], -9.0 * bone.sin), (9.0 * bone.cos, side[1], 9.0 * bone.sin)
        add(1.7, start, end, [1.3 * unit] * 2, person.hat_colour, spread=0, relief=0.3)
    elif person.hat == "beanie":
        add(1.7, (0, centre + 5.5, 0), (0, centre + 3.4, 0), [4.6 * unit, 5.9 * unit], person.hat_colour, spread=0)


def _bag(add, bone: Skeleton, person: Person, hip_y: float, shoulder_y: float, hands) -> None:
    unit, colour = bone.unit, np.asarray(person.bag_colour)
    side = 1 if person.bag.endswith("left") else -1

    def paint(t, alpha):  # a lighter flap and a dark seam
        return _mix(colour * (1.12 - 0.2 * t[..., None]), colour * 0.55, _edge(0.04 - np.abs(t - 0.38), 25))

    if person.bag == "backpack":
        radii = bone.widths((6.2, 7.6, 7.4), (3.2, 4.6, 4.8))
        add(0.6, (0, shoulder_y - 1, -8.6), (0, shoulder_y - 20, -9.4), radii, paint, relief=0.6)
    elif person.bag.startswith("shoulder"):
        radii = bone.widths((3.0, 3.4), (6.4, 7.2))
        x = side * (11.5 + 2 * (person.girth - 1))
        add(2.0, (x, hip_y + 4, -1), (x, hip_y - 6, -1), radii, paint, flat=(True, False), relief=0.4)
    elif person.bag.startswith("tote"):
        x, y, z = hands[0 if side == 1 else 1]
        radii = bone.widths((2.4, 2.8), (5.8, 6.6))
        add(0.8, (x, y - 4, z), (x, y - 16, z), radii, paint, flat=(True, True), relief=0.4)
        for offset in (-3, 3):
            add(0.9, (x, y, z), (x, y - 5, z + offset), [0.6 * unit] * 2, colour * 0.7)
    elif person.bag == "pouch":
        add(0.7, (-2.5, hip_y + 4, 6.6), (2.5, hip_y + 3.6, 6.6), [3.0 * unit] * 2, colour, relief=0.4)


# -------------------------------------------------------------------------------------------------- backgrounds

PANORAMA = (360, 1500)  # rows, columns: what a camera can see; each shot is a window of it


def _noise(rng: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """Smooth noise in [-1, 1], (height, width), with features of about `cell` pixels."""
    coarse = rng.uniform(-1, 1, (height // cell + 3, width // cell + 3)).astype(np.float32)
    image = Image.fromarray(coarse).resize(((width // cell + 3) * cell, (height // cell + 3) * cell), Image.BICUBIC)
    return np.asarray(image)[:height, :width]


def _floor(rng: np.random.Generator, kind: str, horizon: int) -> np.ndarray:
    """The ground in perspective, (rows below the horizon, columns, 3)."""
    height, width = PANORAMA[0] - horizon, PANORAMA[1]
    row = np.arange(height, dtype=np.float32)[:, None] + 6
    z = 9000 / row
    x = (np.arange(width, dtype=np.float32)[None] - width / 2) / row * 60
    fade = np.clip(row / 90, 0, 1)
    grain = 0.05 * _noise(rng, height, width, 3) + 0.06 * _noise(rng, height, width, 40)
    base = {"tiles": (0.66, 0.63, 0.60), "paving": (0.56, 0.53, 0.52), "grass": (0.42, 0.52, 0.30),
            "asphalt": (0.40, 0.41, 0.43), "concrete": (0.68, 0.68, 0.66), "dark": (0.34, 0.32, 0.31)}  # fmt: skip
    tone = 1 + grain
    if kind in ("tiles", "dark", "concrete"):
        size = {"tiles": 46.0, "dark": 36.0, "concrete": 110.0}[kind]
        across, along = (_edge(0.04 - np.abs((axis / size) % 1 - 0.5), 14) for axis in (x, z))
        chess = ((np.floor(x / size + 0.5) + np.floor(z / size + 0.5)) % 2) * (0.10 if kind != "concrete" else 0.03)
        tone = tone - fade * (0.20 * np.maximum(across, along) + chess)
    elif kind == "paving":
        tone = tone + 0.10 * fade * np.sign(np.sin(x / 7) * np.sin(z / 9 + np.pi * (np.floor(x / 22) % 2)))
    elif kind == "grass":
        tone = tone + 0.16 * fade * _noise(rng, height, width, 4)
    colour = np.asarray(base[kind], np.float32) * tone[..., None] * (0.88 + 0.16 * row / height)[..., None]
    if kind == "grass":  # a path across the lawn
        colour = _mix(colour, (0.68, 0.62, 0.52), _edge(np.sin(x / 330 + 0.7) - 0.1, 3) * 0.9)
    if kind == "asphalt":  # lane markings
        lane = _edge(0.035 - np.abs((z / 150) % 1 - 0.5), 25) * (np.sin(x / 26) > -0.2)
        colour = _mix(colour, (0.86, 0.86, 0.82), lane * fade)
    return colour


def _wall(rng: np.random.Generator, kind: str, horizon: int) -> np.ndarray:
    """What stands behind the ground, (horizon, columns, 3)."""
    height, width = horizon, PANORAMA[1]
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None]
    grain = 0.05 * _noise(rng, height, width, 4) + 0.09 * _noise(rng, height, width, 70)
    if kind == "glass":
        panes = np.repeat(rng.uniform(0.55, 1.15, width // 75 + 1), 75)[:width][None]
        reflection = panes + grain + 0.25 * _noise(rng, height, width, 50)
        colour = np.asarray((0.46, 0.55, 0.60), np.float32) * reflection[..., None]
        frame = np.maximum(_edge(2.5 - x % 75, 1), _edge(2.5 - np.abs(y - 0.35 * height), 1))
        return _mix(colour, (0.25, 0.26, 0.28), frame)
    if kind == "brick":
        course = np.floor(y / 9)
        joint = np.maximum(_edge(1.2 - y % 9, 1), _edge(1.2 - (x + 11 * (course % 2)) % 22, 1))
        colour = np.asarray((0.56, 0.34, 0.27), np.float32) * (1 + 2 * grain)[..., None]
        return _mix(colour, (0.66, 0.60, 0.55), 0.6 * joint)
    if kind == "trees":
        leaves = sum(weight * _noise(rng, height, width, cell) for weight, cell in ((1.0, 14), (0.8, 45), (0.6, 5)))
        colour = np.asarray((0.30, 0.42, 0.22), np.float32) * (1 + 0.45 * leaves)[..., None]
        return _mix(colour, (0.80, 0.88, 0.94), _edge(leaves - 0.9 + y / height, 2))
    if kind == "city":
        colour = np.broadcast_to(np.asarray((0.78, 0.83, 0.88), np.float32), (height, width, 3)).copy()
        left = 0
        while left < width:
            right = left + int(rng.integers(90, 240))
            tone = rng.uniform(0.35, 0.8, 3) * 0.4 + rng.uniform(0.35, 0.75) * 0.6
            top = int(rng.uniform(0, 0.35) * height)
            panes = (y[top:] % 26 < 15) & ((x[:, left:right] - left) % 20 < 11)
            colour[top:, left:right] = _mix(tone, tone * 0.55, panes.astype(np.float32))[:, : width - left]
            left = right
        return colour * (1 + grain)[..., None]
    if kind == "concrete":
        colour = np.asarray((0.80, 0.79, 0.75), np.float32) * (1 + grain)[..., None]
        window = ((y > 0.15 * height) & (y < 0.62 * height) & (x % 130 > 24) & (x % 130 < 106)).astype(np.float32)
        return _mix(colour, np.asarray((0.36, 0.44, 0.52), np.float32), window * (0.9 - 0.5 * y / height))
    tone = 1 + grain + 0.12 * (x % 160 < 80) - 0.3 * y / height
    colour = np.asarray((0.50, 0.47, 0.43), np.float32) * tone[..., None]
    return _mix(colour, (0.98, 0.95, 0.84), np.exp(-(((x % 240 - 120) / 34) ** 2) - ((y - 12) / 9) ** 2))  # lamps


SCENES = {  # wall, floor, horizon, how many of each object
    "plaza": ("glass", "tiles", 140, {"planter": 5, "walker": 6, "post": 5, "sign": 3}),
    "brick": ("brick", "paving", 160, {"bike": 6, "walker": 3, "sign": 4, "bin": 4}),
    "park": ("trees", "grass", 130, {"trunk": 9, "bench": 4, "walker": 3, "bin": 2}),
    "street": ("city", "asphalt", 135, {"car": 7, "post": 5, "walker": 3, "sign": 3}),
    "campus": ("concrete", "concrete", 150, {"bike": 6, "planter": 5, "walker": 5, "trunk": 3}),
    "hall": ("dim", "dark", 150, {"post": 6, "walker": 4, "bin": 3, "sign": 4}),
}


def _shade(colour, factor: float) -> tuple[int, int, int]:
    return tuple(int(np.clip(255 * factor * value, 0, 255)) for value in colour)


def _object(draw: ImageDraw.ImageDraw, rng: np.random.Generator, kind: str, x: float, y: float, s: float) -> None:
    """One thing standing on the ground at (x, y), `s` pixels per metre."""
    colour = COLOURS[_choose(rng, tuple(COLOURS))]
    light, mid, dark = (_shade(colour, factor) for factor in (1.15, 0.9, 0.6))
    if kind == "car":
        draw.ellipse((x - 2.2 * s, y - 0.2 * s, x + 2.2 * s, y + 0.15 * s), fill=(52, 52, 55))
        draw.rounded_rectangle((x - 2.1 * s, y - 0.95 * s, x + 2.1 * s, y - 0.2 * s), 0.3 * s, fill=mid)
        cabin = ((-1.3, -0.9), (-0.8, -1.5), (0.7, -1.5), (1.35, -0.9))
        draw.polygon([(x + a * s, y + b * s) for a, b in cabin], fill=light)
        glass = ((-1.1, -0.92), (-0.7, -1.4), (0.6, -1.4), (1.1, -0.92))
        draw.polygon([(x + a * s, y + b * s) for a, b in glass], fill=(58, 70, 82))
        for hub in (x - 1.3 * s, x + 1.3 * s):
            draw.ellipse((hub - 0.36 * s, y - 0.6 * s, hub + 0.36 * s, y + 0.1 * s), fill=(28, 28, 30))
            draw.ellipse((hub - 0.17 * s, y - 0.42 * s, hub + 0.17 * s, y - 0.08 * s), fill=(150, 150, 152))
    elif kind == "bike":
        _bike(draw, x, y, s, dark, (40, 40, 42))
    elif kind == "trunk":
        draw.rectangle((x - 0.2 * s, y - 4.5 * s, x + 0.2 * s, y), fill=(92, 72, 54))
        draw.rectangle((x + 0.04 * s, y - 4.5 * s, x + 0.2 * s, y), fill=(66, 52, 40))
        draw.ellipse((x - 0.9 * s, y - 0.12 * s, x + 0.9 * s, y + 0.16 * s), fill=(70, 84, 52))
    elif kind == "bench":
        for level in (0.45, 0.7, 0.9):
            draw.rectangle((x - 0.9 * s, y - level * s, x + 0.9 * s, y - (level - 0.1) * s), fill=(130, 88, 54))
        for leg in (-0.7, 0.7):
            draw.rectangle((x + (leg - 0.05) * s, y - 0.5 * s, x + (leg + 0.05) * s, y), fill=(50, 50, 52))
    elif kind == "planter":
        for _ in range(14):
            px, py, r = x + rng.uniform(-0.6, 0.6) * s, y - rng.uniform(0.5, 1.3) * s, rng.uniform(0.2, 0.4) * s
            draw.ellipse((px - r, py - r, px + r, py + r), fill=_shade((0.25, 0.45, 0.22), rng.uniform(0.6, 1.3)))
        draw.rectangle((x - 0.7 * s, y - 0.55 * s, x + 0.7 * s, y), fill=(140, 132, 124))
        draw.rectangle((x + 0.25 * s, y - 0.55 * s, x + 0.7 * s, y), fill=(112, 106, 100))
    elif kind == "sign":
        draw.rectangle((x - 0.05 * s, y - 2.2 * s, x + 0.05 * s, y), fill=(110, 110, 112))
        draw.rectangle((x - 0.5 * s, y - 2.6 * s, x + 0.5 * s, y - 1.7 * s), fill=mid, outline=(230, 230, 226))
    elif kind == "bin":
        draw.rounded_rectangle((x - 0.3 * s, y - 0.95 * s, x + 0.3 * s, y), 0.08 * s, fill=mid)
        draw.rectangle((x - 0.34 * s, y - 1.05 * s, x + 0.34 * s, y - 0.9 * s), fill=dark)
    else:  # post
        draw.rectangle((x - 0.1 * s, y - 4.0 * s, x + 0.1 * s, y), fill=(128, 128, 130))
        draw.rectangle((x + 0.02 * s, y - 4.0 * s, x + 0.1 * s, y), fill=(88, 88, 92))


def _bike(draw: ImageDraw.ImageDraw, x: float, y: float, s: float, frame, tyre) -> None:
    width = max(int(0.06 * s), 1)
    for wheel in (-0.55, 0.55):
        draw.ellipse((x + (wheel - 0.34) * s, y - 0.68 * s, x + (wheel + 0.34) * s, y), outline=tyre, width=width)
    joints = ((-0.55, -0.34), (-0.2, -0.85), (0.4, -0.85), (0.0, -0.34), (-0.55, -0.34))
    draw.line([(x + a * s, y + b * s) for a, b in joints], fill=frame, width=width)
    draw.line([(x + a * s, y + b * s) for a, b in ((0.55, -0.34), (0.36, -1.05), (0.5, -1.1))], fill=frame, width=width)
    draw.line([(x - 0.3 * s, y - 0.98 * s), (x - 0.05 * s, y - 0.98 * s)], fill=tyre, width=2 * width)


@lru_cache(maxsize=16)
def panorama(seed: int, camid: int) -> Image.Image:
    """All that camera `camid` (from 1) can see without its pedestrians, `PANORAMA` pixels, slightly out of focus."""
    rng = _rng(seed, 3, camid)
    wall, floor, horizon, objects = SCENES[CAMERA_TABLE[camid - 1].scene]
    pixels = np.concatenate([_wall(rng, wall, horizon), _floor(rng, floor, horizon)])
    picture = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    things = [kind for kind, count in objects.items() for _ in range(count)]
    far_to_near = sorted((float(rng.uniform(0.02, 0.30)), i, kind) for i, kind in enumerate(things))
    for near, i, kind in far_to_near:
        x, y = float(rng.uniform(0, PANORAMA[1])), horizon + near * (PANORAMA[0] - horizon)
        if kind == "walker":
            _walker(picture, rng, seed, 1000 * camid + i, x, y, 90 + 240 * near)
        else:
            _object(ImageDraw.Draw(picture), rng, kind, x, y, 42 + 120 * near)
    return picture.filter(ImageFilter.GaussianBlur(1.1))


def _walker(picture: Image.Image, rng, seed: int, member: int, x: float, y: float, size: float) -> None:
    """A passer-by in the background, feet at (x, y), `size` pixels high."""
    half = int(0.4 * size)
    box = (int(x) - half, int(y - 1.1 * size), int(x) + half, int(y) + 12)
    pixels = np.asarray(picture.crop(box), np.float32) / 255
    yaw = float(rng.uniform(-np.pi, np.pi))
    canvas = Canvas(pixels.copy(), np.ones(pixels.shape[:2], np.float32), 0.3, yaw)
    pose = Pose(yaw, 0.15, float(rng.uniform(0, 6)), 0.4, (0.3, 0.3), half / SUPER, 1.1 * size / SUPER, size / SUPER)
    draw_person(canvas, make_person(seed, 10_000 + member, 0), pose)
    picture.paste(Image.fromarray((np.clip(canvas.pixels, 0, 1) * 255).astype(np.uint8)), box[:2])


@dataclass(frozen=True)
class View:
    """A window of a panorama: its corner in pixels of the panorama, its zoom, and whether it is mirrored."""

    left: float
    top: float
    zoom: float
    mirrored: bool


def _view(rng: np.random.Generator, ground: float) -> View:
    """A window whose floor lies under the feet, which are at row `ground` of the picture."""
    zoom = float(rng.uniform(0.80, 1.15))
    width, height = WIDTH * SUPER * zoom, HEIGHT * SUPER * zoom
    left = float(rng.uniform(0, PANORAMA[1] - width))
    top = float(np.clip(PANORAMA[0] - rng.uniform(0, 40) - height * ground / HEIGHT, 0, PANORAMA[0] - height))
    return View(left, top, zoom, bool(rng.random() < 0.5))


def _backdrop(seed: int, camid: int, view: View) -> np.ndarray:
    """What is behind the person: (H * SUPER, W * SUPER, 3) in [0, 1]."""
    width, height = WIDTH * SUPER * view.zoom, HEIGHT * SUPER * view.zoom
    window = (view.left, view.top, view.left + width, view.top + height)
    picture = panorama(seed, camid).resize((WIDTH * SUPER, HEIGHT * SUPER), Image.BILINEAR, box=window)
    if view.mirrored:
        picture = picture.transpose(Image.FLIP_LEFT_RIGHT)
    return np.asarray(picture, np.float32) / 255


# -------------------------------------------------------------------------------------------------- one picture


@lru_cache(maxsize=1)
def _fold_bank() -> np.ndarray:
    """Creases of cloth from which each picture cuts a window: steep along x, long along y."""
    rng = _rng(4)
    bank = 0.5 * _noise(rng, 512, 512, 10) + 0.3 * _noise(rng, 512, 512, 5)
    return np.asarray(1 + 0.13 * bank, np.float32)


def _pose(rng: np.random.Generator, camera: Camera, person: Person, misalignment: float) -> Pose:
    yaw = np.deg2rad(_choose(rng, camera.yaws) + rng.normal(0, 16))
    standing = rng.random() < 0.15
    arms = [0.25 + abs(rng.normal(0, 0.25)) for _ in range(2)]
    if rng.random() < 0.2:  # a hand on the phone or on a strap
        arms[int(rng.integers(2))] = float(rng.uniform(1.6, 2.3))
    return Pose(
        yaw=float(yaw),
        pitch=float(np.deg2rad(camera.pitch + rng.normal(0, 2))),
        phase=float(rng.uniform(0, 2 * np.pi)),
        swing=0.06 if standing else float(rng.uniform(0.22, 0.44)),
        arms=(float(arms[0]), float(arms[1])),
        centre=WIDTH / 2 + float(rng.normal(0, 3.0 * misalignment)),
        ground=121 + float(rng.normal(0, 2.5 * misalignment)),
        size=float(112 * np.clip(rng.normal(1.0, 0.045 * misalignment), 0.55, 1.6)),
    )


def _occlude(canvas: Canvas, rng: np.random.Generator, seed: int, pose: Pose) -> None:
    """Something between the camera and the person: another person, a post, a bicycle, a box, a car's bonnet."""
    kind = _choose(rng, ("person", "person", "post", "bike", "box", "bonnet"))
    side = _choose(rng, (-1, 1))
    if kind == "person":
        yaw = float(rng.uniform(-np.pi, np.pi))
        canvas.yaw = yaw
        nearer = replace(pose, yaw=yaw, phase=float(rng.uniform(0, 6)), centre=pose.centre + side * rng.uniform(19, 30),
                         ground=pose.ground + rng.uniform(1, 9), size=pose.size * rng.uniform(0.98, 1.12))  # fmt: skip
        draw_person(canvas, make_person(seed, 20_000 + int(rng.integers(10_000)), 0), nearer)
        return
    colour = np.asarray(COLOURS[_choose(rng, tuple(COLOURS))])
    x = pose.centre + side * float(rng.uniform(4, 20))
    if kind == "post":
        canvas.limb((x, -4), (x, HEIGHT + 4), [rng.uniform(2, 4)] * 2, (0.45, 0.45, 0.47), relief=0.2)
    elif kind == "box":
        top = float(rng.uniform(88, 104))
        canvas.limb((x, top), (x, HEIGHT + 4), [rng.uniform(9, 16)] * 2, colour, flat=(True, True), relief=0.2)
    elif kind == "bonnet":
        y = float(rng.uniform(124, 132))
        canvas.limb((x - 30, y), (x + 30, y + rng.uniform(-3, 3)), [rng.uniform(14, 20)] * 2, colour, relief=0.2)
    else:
        picture = Image.fromarray((np.clip(canvas.pixels, 0, 1) * 255).astype(np.uint8))
        s = float(rng.uniform(30, 38)) * SUPER
        _bike(ImageDraw.Draw(picture), x * SUPER, 126 * SUPER, s, _shade(colour, 1.0), (30, 30, 32))
        canvas.pixels[:] = np.asarray(picture, np.float32) / 255


def draw_image(seed: int, pid: int, camid: int, index: int) -> tuple[Image.Image, int]:
    """The picture of one detection, 64 x 128, and the JPEG quality it is to be stored with.

    pid 0 is a distractor (a person seen once), pid -1 a bad detection of somebody from the test set's families.
    """
    rng = _rng(seed, 5, pid, camid, index)
    camera = CAMERA_TABLE[camid - 1]
    if pid > 0:
        person = person_of(seed, pid)
    else:  # relatives of real identities, one per image: confusable, never the same
        person = make_person(seed, int(rng.integers(1, 50)), 100 + int(rng.integers(1 << 30)))
    pose = _pose(rng, camera, person, 1.0 if pid >= 0 else 7.0)
    canvas = _canvas(rng, _backdrop(seed, camid, _view(rng, pose.ground)), pose)
    draw_person(canvas, person, pose)
    if rng.random() < 0.25:
        _occlude(canvas, rng, seed, pose)
    return _expose(_developed(canvas), rng, camera), int(rng.integers(*camera.quality))


def _canvas(rng: np.random.Generator, pixels: np.ndarray, pose: Pose) -> Canvas:
    """The canvas over `pixels`, with the creases and the light that `rng` draws."""
    top, left = rng.integers(0, 512 - HEIGHT * SUPER), rng.integers(0, 512 - WIDTH * SUPER)
    folds = _fold_bank()[top : top + HEIGHT * SUPER, left : left + WIDTH * SUPER]
    return Canvas(pixels, folds, float(rng.uniform(-1, 1)), pose.yaw, ambient=float(rng.uniform(0.42, 0.72)))


def _developed(canvas: Canvas) -> Image.Image:
    """The canvas as a picture of WIDTH x HEIGHT."""
    return Image.fromarray((np.clip(canvas.pixels, 0, 1) * 255).astype(np.uint8)).reduce(SUPER)


def _expose(
    picture: Image.Image, rng: np.random.Generator, camera: Camera, noise: np.random.Generator | None = None
) -> Image.Image:
    """Optics, then sensor: resolution and blur, saturation and cast, exposure, gamma and contrast, noise.

    `noise` draws the noise if it is not to come from `rng`: frames of one tracklet share all but that.
    """
    shrink = camera.shrink * float(rng.uniform(0.85, 1.0))
    small = (max(int(WIDTH * shrink), 8), max(int(HEIGHT * shrink), 16))
    picture = picture.resize(small, Image.BILINEAR).resize((WIDTH, HEIGHT), Image.BICUBIC)
    picture = picture.filter(ImageFilter.GaussianBlur(camera.blur * float(rng.uniform(0.6, 1.4))))
    pixels = np.asarray(picture, np.float32) / 255  # (128, 64, 3)
    grey = (pixels[..., :1] + pixels[..., 1:2] + pixels[..., 2:]) / 3
    pixels = grey + (pixels - grey) * (camera.saturation * float(rng.uniform(0.85, 1.1)))
    cast = np.asarray(camera.cast, np.float32) * rng.normal(1, 0.025, 3).astype(np.float32)
    pixels = np.clip(pixels * cast * float(rng.uniform(0.82, 1.12)), 0, 1)
    pixels = pixels ** np.float32(camera.gamma * rng.uniform(0.9, 1.12))
    pixels = 0.5 + (pixels - 0.5) * np.float32(camera.contrast)
    pixels = pixels * 255 + camera.noise * (noise or rng).standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


# --------------------------------------------------------------------------------------------------- the data set

Job = tuple[str, int, int, int]  # subset, pid, camid, index


def _plan(seed: int, num_train_pids: int, num_test_pids: int, num_cameras: int, num_distractors: int, num_junk: int):
    """Every image of the set, by camera: each identity is seen by all cameras but one, by the first of them once more.

    The number of images does not depend on the seed; which camera misses an identity does.
    """
    if num_train_pids < 1 or num_test_pids < 1 or min(num_distractors, num_junk) < 0:
        raise ValueError("the built-in data set needs a training and a test identity at least, and no count below 0")
    if not 2 <= num_cameras <= len(CAMERA_TABLE):
        raise ValueError(f"num_cameras is {num_cameras}, expected 2 to {len(CAMERA_TABLE)}")
    train, query, gallery = SUBSETS
    jobs: list[Job] = []
    for pid in range(1, num_train_pids + num_test_pids + 1):
        cameras = 1 + _rng(seed, 6, pid).permutation(num_cameras)[: max(2, num_cameras - 1)]
        for rank, camid in enumerate(int(camera) for camera in cameras):
            if pid <= num_train_pids:
                jobs += [(train, pid, camid, index) for index in range(2 + (rank == 0))]
            else:
                jobs += [(query if index == 0 else gallery, pid, camid, index) for index in range(3 + (rank == 0))]
    for pid, count in ((0, num_distractors), (-1, num_junk)):
        jobs += [(gallery, pid, 1 + index % num_cameras, index) for index in range(count)]
    return sorted(jobs, key=lambda job: job[2])


def _file_name(seed: int, pid: int, camid: int, index: int) -> str:
    """Market-1501's name: pid, camera and sequence, frame, number of the detection."""
    frame = int(_rng(seed, 7, pid, camid).integers(1, 90_000)) + 25 * index
    return f"{pid:04d}_c{camid}s1_{frame:06d}_{1 + index % 9:02d}.jpg".replace("-001", "-1")


def _draw_jobs(root: Path, seed: int, jobs: list[Job], done) -> None:
    for subset, pid, camid, index in jobs:
        picture, quality = draw_image(seed, pid, camid, index)
        picture.save(root / subset / _file_name(seed, pid, camid, index), quality=quality)
        done()


def _draw_in_processes(script: str, root: Path, task: dict, num_jobs: int, processes: int, done) -> None:
    """Each process draws a consecutive share of the plan, which keeps most panoramas to one process.

    Plain subprocesses of the file `script`, which reads `task` and its share: no fork under threads, and the caller's
    main module is not imported once more. Each writes one byte per job into a shared pipe, which ends when the last
    process has ended.
    """
    edges = [num_jobs * i // processes for i in range(processes + 1)]
    reader, writer = os.pipe()
    workers = []
    with tempfile.TemporaryFile() as errors, os.fdopen(reader, "rb", buffering=0) as progress:
        try:
            for first, last in zip(edges, edges[1:], strict=False):
                share = json.dumps({**task, "root": str(root), "first": first, "last": last})
                command = [sys.executable, str(Path(script).resolve()), share]
                workers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writer, stderr=errors))
            os.close(writer)
            writer = -1
            while count := len(progress.read(256)):
                done(count)
            failed = any([worker.wait() for worker in workers])
        finally:
            if writer >= 0:
                os.close(writer)
            for worker in workers:
                worker.kill()
                worker.wait()
        if failed:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise RuntimeError(f"drawing the built-in data set into {root} failed: {lines[-1]}")


def _work(task: str) -> None:
    """One process of `_draw_in_processes`."""
    task = json.loads(task)
    jobs = _plan(task["seed"], **task["sizes"])[task["first"] : task["last"]]
    _draw_jobs(Path(task["root"]), task["seed"], jobs, lambda: os.write(1, b"."))


def make(
    root,
    seed: int = 0,
    *,
    num_train_pids: int = TRAIN_IDS,
    num_test_pids: int = TEST_IDS,
    num_cameras: int = CAMERAS,
    num_distractors: int = DISTRACTORS,
    num_junk: int = JUNK,
    processes: int | None = None,
    progress: bool = True,
) -> Path:
    """Draws the set into `root`, a new or empty folder, and returns it.

    The folder then holds bounding_box_train, query and bounding_box_test with 64 x 128 JPEGs named as Market-1501's.
    The bytes depend on the seed and the sizes only (and on the versions of Pillow and numpy), not on `processes`:
    None is one per core, at most 4; small sets are drawn in this process.
    Raises ValueError for a folder that is not empty or impossible sizes, OSError or RuntimeError if writing fails.
    """
    root = Path(root)
    if seed < 0:
        raise ValueError(f"the seed of the built-in data set is {seed}, expected 0 or more")
    sizes = {"num_train_pids": num_train_pids, "num_test_pids": num_test_pids, "num_cameras": num_cameras,
             "num_distractors": num_distractors, "num_junk": num_junk}  # fmt: skip
    jobs = _plan(seed, **sizes)
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise ValueError(f"{root} is not empty; name a new folder for the built-in data set")
    for subset in SUBSETS:
        (root / subset).mkdir()
    processes = processes or default_processes(len(jobs))
    with tqdm(total=len(jobs), desc="drawing the built-in data set", unit="image", disable=not progress or None) as bar:
        if processes > 1 and sys.executable:
            task = {"seed": seed, "sizes": sizes}
            _draw_in_processes(__file__, root, task, len(jobs), processes, bar.update)
        else:
            _draw_jobs(root, seed, jobs, bar.update)
    return root


def default_processes(num_images: int) -> int:
    """One per core, at most 4; one for a small set."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores) if num_images > 300 else 1


def cache_folder(seed: int = 0, name: str = f"synthetic-v{VERSION}") -> Path:
    """Where `ensure` keeps the set of a seed: below $XDG_CACHE_HOME, or ~/.cache where that is not set."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "reid_suite" / f"{name}-seed{seed}"


def ensure(root=None, seed: int = 0, *, progress: bool = True, **sizes: int) -> Path:
    """Makes the set once and returns its folder: `root`, or `cache_folder(seed)`. `sizes` are those of `make`.

    It is drawn under a temporary name beside the folder and then renamed, so the folder is whole or absent, also when
    two processes make it at the same time. Raises RuntimeError if the place cannot be written, or if the folder holds
    something else.
    """
    root = cache_folder(seed) if root is None else Path(root)
    expected = {subset: 0 for subset in SUBSETS}
    for subset, *_ in _plan(seed, **{**_default_sizes(), **sizes}):
        expected[subset] += 1
    return make_once(root, expected, lambda folder: make(folder, seed, progress=progress, **sizes))


def make_once(root: Path, expected: dict[str, int], make) -> Path:
    """`root`, after `make(folder)` has put `expected` JPEGs into each folder of it, once; see `ensure`."""
    if _is_whole(root, expected):
        return root
    temporary = None
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
        temporary = Path(tempfile.mkdtemp(prefix=f"{root.name}.part-", dir=root.parent))
        make(temporary)
        temporary.chmod(0o755)  # mkdtemp's folders are private
        if not _is_whole(root, expected):  # else another process was faster
            if root.is_dir():
                root.rmdir()  # empty, as _is_whole made sure
            os.replace(temporary, root)
    except OSError as error:
        if _is_whole(root, expected):  # the other process renamed its own between our look and our rename
            return root
        raise RuntimeError(
            f"cannot write the built-in data set to {root} ({error}). Free some space or choose a writable place: "
            "set XDG_CACHE_HOME to another folder"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return root


def _default_sizes() -> dict[str, int]:
    return {"num_train_pids": TRAIN_IDS, "num_test_pids": TEST_IDS, "num_cameras": CAMERAS,
            "num_distractors": DISTRACTORS, "num_junk": JUNK}  # fmt: skip


def _is_whole(root: Path, expected: dict[str, int]) -> bool:
    """True for a finished set, False for nothing; anything else is not ours to delete and is an error."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    found = {subset: len(list((root / subset).rglob("*.jpg"))) for subset in expected}
    if found != expected:
        raise RuntimeError(
            f"{root} is not the built-in data set as this version makes it: found {found}, expected {expected} JPEGs. "
            "Delete that folder, or name another, and run again"
        )
    return True


def _remove_abandoned(root: Path, age: float = 3600) -> None:
    """Deletes what interrupted attempts left; a younger one may belong to a process that is still drawing."""
    for leftover in root.parent.glob(f"{root.name}.part-*"):
        if time.time() - leftover.stat().st_mtime > age:
            shutil.rmtree(leftover, ignore_errors=True)


if __name__ == "__main__":
    _work(sys.argv[1])
