"""The people of the built-in data sets: what they wear, and how they are drawn."""

from dataclasses import dataclass, replace

import numpy as np

HEIGHT, WIDTH = 128, 64


SUPER = 2  # supersampling of the drawing; edges are anti-aliased by signed distance on top


FAMILY = 4  # identities per family


NUM_CHANGES = 4  # details in which a member departs from its family's wardrobe


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


def random_of(*key: int) -> np.random.Generator:
    """One independent stream per key. Keys may be -1 (junk), which a seed sequence does not take."""
    return np.random.default_rng([part + 2 for part in key])


def pick(rng: np.random.Generator, options):
    """One of `options`, drawn."""
    return options[int(rng.integers(len(options)))]


def _wardrobe(rng: np.random.Generator) -> dict[str, dict]:
    """One draw of everything, grouped by what changes together when a detail changes."""
    top_colour, second_colour = rng.permutation(len(TOP_COLOURS))[:2]
    return {
        "top": {"top": pick(rng, TOPS)},
        "pattern": {"pattern": pick(rng, PATTERNS), "scale": float(pick(rng, (0.7, 1.0, 1.5)))},
        "top_colour": {"top_colour": COLOURS[TOP_COLOURS[top_colour]]},
        "second_colour": {"second_colour": COLOURS[TOP_COLOURS[second_colour]]},
        "legs": {"legs": pick(rng, LEGS)},
        "leg_colour": {"leg_colour": COLOURS[pick(rng, LEG_COLOURS)]},
        "shoes": {"shoe_colour": COLOURS[pick(rng, SHOE_COLOURS)], "sock": pick(rng, (0.0, 0.0, 0.2, 0.6))},
        "hair": {"hair": pick(rng, HAIRS), "hair_colour": pick(rng, HAIR_COLOURS)},
        "hat": {"hat": pick(rng, HATS), "hat_colour": COLOURS[pick(rng, BAG_COLOURS)]},
        "bag": {"bag": pick(rng, BAGS), "bag_colour": COLOURS[pick(rng, BAG_COLOURS)]},
        "skin": {"skin": pick(rng, SKIN_COLOURS)},
    }


COAT = ("top", "pattern", "top_colour", "second_colour")  # groups of a wardrobe


def make_person(seed: int, family: int, member: int) -> Person:
    """The family's wardrobe with `NUM_CHANGES` groups drawn anew for the member, plus its own build and dye lots."""
    wardrobe = _wardrobe(random_of(seed, 1, family))
    rng = random_of(seed, 2, family, member)
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


def dressed_anew(person: Person, rng: np.random.Generator) -> Person:
    """The same person in another coat; legs, shoes and what is carried stay."""
    wardrobe = _wardrobe(rng)
    fields = {name: value for group in COAT for name, value in wardrobe[group].items()}
    colours = {name: np.asarray(v, np.float32) for name, v in fields.items() if isinstance(v, tuple)}
    return replace(person, **fields | colours)


def mixed(a, b, weight: np.ndarray) -> np.ndarray:
    """a where the weight is 0, b where it is 1; a, b (3,) or (h, w, 3), weight (h, w)."""
    a = np.asarray(a, np.float32)
    return a + (np.asarray(b, np.float32) - a) * weight[..., None]


def edge_of(value: np.ndarray, sharpness: float) -> np.ndarray:
    """A soft step from 0 to 1 where the value passes through 0."""
    return np.clip(value * sharpness + 0.5, 0, 1)


def _near(alpha: np.ndarray, centre: float, half: float, softness: float = 0.12) -> np.ndarray:
    """1 where the angle lies within `half` of `centre`."""
    return edge_of(half - np.abs((alpha - centre + np.pi) % (2 * np.pi) - np.pi), 1 / softness)


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
        weight = edge_of(np.sin(2 * np.pi * 5 * scale * t), 2)
    elif person.pattern == "stripes":
        weight = edge_of(np.sin(7 * scale * alpha) - 0.2, 2)
    elif person.pattern == "checks":
        weight = 0.5 * edge_of(np.sin(2 * np.pi * 4 * scale * t), 2) + 0.5 * edge_of(np.sin(6 * scale * alpha), 2)
    elif person.pattern == "block":
        weight = edge_of(t - 0.25 - 0.2 * scale, 20)
    elif person.pattern == "band":
        weight = edge_of(0.09 * scale - np.abs(t - 0.38), 20)
    elif person.pattern == "logo":
        weight = _near(alpha, 0, 0.4 * scale) * edge_of(0.11 * scale - np.abs(t - 0.32), 20)
    elif person.pattern == "back":
        weight = _near(alpha, np.pi, 0.55 * scale) * edge_of(0.16 * scale - np.abs(t - 0.36), 20)
    elif person.pattern == "fade":
        weight = np.clip(1.3 * t - 0.1, 0, 1)
    elif person.pattern == "dots":
        weight = edge_of(np.sin(2 * np.pi * 5 * scale * t) * np.sin(6 * scale * alpha) - 0.35, 3)
    else:
        weight = np.zeros_like(t)
    return mixed(base, second, weight)


def _torso_paint(person: Person):
    """Cloth, neckline, opening of a jacket, and the straps of whatever is carried."""
    inner = person.second_colour if person.pattern in ("plain", "back", "fade") else COLOURS["white"]

    def paint(t, alpha):
        colour = _weave(person, t, alpha)
        if person.top in ("jacket", "coat"):
            colour = mixed(colour, inner, _near(alpha, 0, 0.30 - 0.12 * (person.top == "coat")))
        if person.top == "hoodie":
            pocket = _near(alpha, 0, 0.55, 0.2) * edge_of(0.10 - np.abs(t - 0.72), 16)
            colour = colour * (1 - 0.22 * pocket[..., None])
        deep = 0.07 if person.top in ("tshirt", "vest") else 0.045
        colour = mixed(colour, person.skin, _near(alpha, 0, 0.75, 0.3) * edge_of(deep - t, 40))
        if person.legs in ("trousers", "jeans") and person.top in ("shirt", "tshirt"):
            colour = mixed(colour, (0.14, 0.11, 0.10), edge_of(t - 0.95, 60))  # belt
        strap = np.asarray(person.bag_colour) * 0.8
        if person.bag == "backpack":
            weight = (_near(alpha, 0.62, 0.13, 0.08) + _near(alpha, -0.62, 0.13, 0.08)) * edge_of(0.55 - t, 20)
            colour = mixed(colour, strap, np.clip(weight, 0, 1))
        elif person.bag.startswith("shoulder"):
            side = 1.0 if person.bag.endswith("left") else -1.0
            colour = mixed(colour, strap, edge_of(0.13 - np.abs(side * np.sin(alpha) - (2.0 * t - 0.85)), 12))
        elif person.bag == "pouch":
            colour = mixed(colour, strap, edge_of(0.03 - np.abs(t - 0.84), 40))
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
        cuff = 0.18 * edge_of(0.03 - np.abs(position - stop + 0.03), 40)
        return mixed(cloth * (1 - cuff[..., None]), person.skin, edge_of(position - stop, 30))

    return paint


def _leg_paint(person: Person, start: float, end: float):
    """The leg between fractions `start` and `end` of its length: trousers or shorts, skin, socks."""
    stop = {"shorts": 0.47, "skirt": 0.2, "dress": 0.2}.get(person.legs, 1.1)

    def paint(t, alpha):
        position = start + (end - start) * t
        cloth = np.broadcast_to(np.asarray(person.leg_colour, np.float32), (*t.shape, 3))
        if person.legs == "track":
            side = np.clip(_near(alpha, np.pi / 2, 0.32) + _near(alpha, -np.pi / 2, 0.32), 0, 1)
            cloth = mixed(cloth, person.second_colour, side)
        elif person.legs == "jeans":
            worn = 0.16 * np.exp(-((position - 0.3) ** 2) / 0.03) * np.cos(np.clip(alpha, -1.5, 1.5))
            cloth = cloth * (1 + worn[..., None])
        bare = mixed(person.skin, (0.88, 0.88, 0.86), edge_of(position - (1 - 0.5 * person.sock), 30))
        return mixed(cloth, bare, edge_of(position - stop, 30))

    return paint


def _head_paint(person: Person):
    """Face and hairline. The capsule clamps t in its round ends, so the heights below are stretched over [0, 1]."""
    front = {"bald": -1.0, "crop": 0.16, "bob": 0.30}.get(person.hair, 0.24)
    back = {"bald": -1.0, "crop": 0.55}.get(person.hair, 0.80)
    line = {"cap": 0.36, "beanie": 0.40, "brim": 0.30}.get(person.hat, -1.0)

    def paint(t, alpha):
        t = 0.22 + 0.56 * t  # from the crown at 0 to the chin at 1
        turned = np.clip((1 - np.cos(alpha)) * 0.62, 0, 1) ** 1.5  # 0 at the face, 1 from the ears backwards
        colour = mixed(person.skin, person.hair_colour, edge_of(front + (back - front) * turned - t, 12))
        eyes = (_near(alpha, 0.42, 0.16, 0.15) + _near(alpha, -0.42, 0.16, 0.15)) * edge_of(0.05 - np.abs(t - 0.50), 20)
        mouth = _near(alpha, 0, 0.22, 0.15) * edge_of(0.03 - np.abs(t - 0.80), 20)
        colour = colour * (1 - np.clip(0.62 * eyes + 0.3 * mouth, 0, 1)[..., None])
        return mixed(colour, person.hat_colour, edge_of(line - t, 20)) if line > 0 else colour

    return paint


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
        height = centre + 3.2  # a disc seen from the side: a bar across the screen
        left, right = (-9.0 * bone.cos, height, -9.0 * bone.sin), (9.0 * bone.cos, height, 9.0 * bone.sin)
        add(1.7, left, right, [1.3 * unit] * 2, person.hat_colour, spread=0, relief=0.3)
    elif person.hat == "beanie":
        add(1.7, (0, centre + 5.5, 0), (0, centre + 3.4, 0), [4.6 * unit, 5.9 * unit], person.hat_colour, spread=0)


def _bag(add, bone: Skeleton, person: Person, hip_y: float, shoulder_y: float, hands) -> None:
    unit, colour = bone.unit, np.asarray(person.bag_colour)
    side = 1 if person.bag.endswith("left") else -1

    def paint(t, alpha):  # a lighter flap and a dark seam
        return mixed(colour * (1.12 - 0.2 * t[..., None]), colour * 0.55, edge_of(0.04 - np.abs(t - 0.38), 25))

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
