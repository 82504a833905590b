"""The cameras of the built-in data sets and the places they look at."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from synthetic.people import (
    COLOURS,
    HEIGHT,
    SUPER,
    WIDTH,
    Canvas,
    Pose,
    draw_person,
    edge_of,
    make_person,
    mixed,
    pick,
    random_of,
)


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


PANORAMA = (360, 1500)  # rows, columns: what a camera can see; each shot is a window of it


def _noise(rng: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """Smooth noise in [-1, 1], (height, width), with features of about `cell` pixels."""
    coarse = rng.uniform(-1, 1, (height // cell + 3, width // cell + 3)).astype(np.float32)
    image = Image.fromarray(coarse).resize(
        ((width // cell + 3) * cell, (height // cell + 3) * cell), Image.Resampling.BICUBIC
    )
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
        across, along = (edge_of(0.04 - np.abs((axis / size) % 1 - 0.5), 14) for axis in (x, z))
        chess = ((np.floor(x / size + 0.5) + np.floor(z / size + 0.5)) % 2) * (0.10 if kind != "concrete" else 0.03)
        tone = tone - fade * (0.20 * np.maximum(across, along) + chess)
    elif kind == "paving":
        tone = tone + 0.10 * fade * np.sign(np.sin(x / 7) * np.sin(z / 9 + np.pi * (np.floor(x / 22) % 2)))
    elif kind == "grass":
        tone = tone + 0.16 * fade * _noise(rng, height, width, 4)
    colour = np.asarray(base[kind], np.float32) * tone[..., None] * (0.88 + 0.16 * row / height)[..., None]
    if kind == "grass":  # a path across the lawn
        colour = mixed(colour, (0.68, 0.62, 0.52), edge_of(np.sin(x / 330 + 0.7) - 0.1, 3) * 0.9)
    if kind == "asphalt":  # lane markings
        lane = edge_of(0.035 - np.abs((z / 150) % 1 - 0.5), 25) * (np.sin(x / 26) > -0.2)
        colour = mixed(colour, (0.86, 0.86, 0.82), lane * fade)
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
        colour: np.ndarray = np.asarray((0.46, 0.55, 0.60), np.float32) * reflection[..., None]
        frame = np.maximum(edge_of(2.5 - x % 75, 1), edge_of(2.5 - np.abs(y - 0.35 * height), 1))
        return mixed(colour, (0.25, 0.26, 0.28), frame)
    if kind == "brick":
        course = np.floor(y / 9)
        joint = np.maximum(edge_of(1.2 - y % 9, 1), edge_of(1.2 - (x + 11 * (course % 2)) % 22, 1))
        colour = np.asarray((0.56, 0.34, 0.27), np.float32) * (1 + 2 * grain)[..., None]
        return mixed(colour, (0.66, 0.60, 0.55), 0.6 * joint)
    if kind == "trees":
        cells = ((1.0, 14), (0.8, 45), (0.6, 5))  # weight, size
        leaves = np.asarray(sum(weight * _noise(rng, height, width, cell) for weight, cell in cells))
        colour = np.asarray((0.30, 0.42, 0.22), np.float32) * (1 + 0.45 * leaves)[..., None]
        return mixed(colour, (0.80, 0.88, 0.94), edge_of(leaves - 0.9 + y / height, 2))
    if kind == "city":
        colour = np.broadcast_to(np.asarray((0.78, 0.83, 0.88), np.float32), (height, width, 3)).copy()
        left = 0
        while left < width:
            right = left + int(rng.integers(90, 240))
            tone = rng.uniform(0.35, 0.8, 3) * 0.4 + rng.uniform(0.35, 0.75) * 0.6
            top = int(rng.uniform(0, 0.35) * height)
            windows = (y[top:] % 26 < 15) & ((x[:, left:right] - left) % 20 < 11)
            colour[top:, left:right] = mixed(tone, tone * 0.55, windows.astype(np.float32))[:, : width - left]
            left = right
        return colour * (1 + grain)[..., None]
    if kind == "concrete":
        colour = np.asarray((0.80, 0.79, 0.75), np.float32) * (1 + grain)[..., None]
        window = ((y > 0.15 * height) & (y < 0.62 * height) & (x % 130 > 24) & (x % 130 < 106)).astype(np.float32)
        return mixed(colour, np.asarray((0.36, 0.44, 0.52), np.float32), window * (0.9 - 0.5 * y / height))
    tone = 1 + grain + 0.12 * (x % 160 < 80) - 0.3 * y / height
    colour = np.asarray((0.50, 0.47, 0.43), np.float32) * tone[..., None]
    return mixed(colour, (0.98, 0.95, 0.84), np.exp(-(((x % 240 - 120) / 34) ** 2) - ((y - 12) / 9) ** 2))  # lamps


SCENES = {  # wall, floor, horizon, how many of each object
    "plaza": ("glass", "tiles", 140, {"planter": 5, "walker": 6, "post": 5, "sign": 3}),
    "brick": ("brick", "paving", 160, {"bike": 6, "walker": 3, "sign": 4, "bin": 4}),
    "park": ("trees", "grass", 130, {"trunk": 9, "bench": 4, "walker": 3, "bin": 2}),
    "street": ("city", "asphalt", 135, {"car": 7, "post": 5, "walker": 3, "sign": 3}),
    "campus": ("concrete", "concrete", 150, {"bike": 6, "planter": 5, "walker": 5, "trunk": 3}),
    "hall": ("dim", "dark", 150, {"post": 6, "walker": 4, "bin": 3, "sign": 4}),
}


def shaded(colour, factor: float) -> tuple[int, int, int]:
    """A colour made darker or lighter by `factor`, as 0 to 255."""
    red, green, blue = (int(np.clip(255 * factor * value, 0, 255)) for value in colour)
    return red, green, blue


def _object(draw: ImageDraw.ImageDraw, rng: np.random.Generator, kind: str, x: float, y: float, s: float) -> None:
    """One thing standing on the ground at (x, y), `s` pixels per metre."""
    colour = COLOURS[pick(rng, tuple(COLOURS))]
    light, mid, dark = (shaded(colour, factor) for factor in (1.15, 0.9, 0.6))
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
        draw_bike(draw, x, y, s, dark, (40, 40, 42))
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
            draw.ellipse((px - r, py - r, px + r, py + r), fill=shaded((0.25, 0.45, 0.22), rng.uniform(0.6, 1.3)))
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


def draw_bike(draw: ImageDraw.ImageDraw, x: float, y: float, s: float, frame, tyre) -> None:
    """A bicycle at (x, y) of scale `s`."""
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
    rng = random_of(seed, 3, camid)
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


def view_of(rng: np.random.Generator, ground: float) -> View:
    """A window whose floor lies under the feet, which are at row `ground` of the picture."""
    zoom = float(rng.uniform(0.80, 1.15))
    width, height = WIDTH * SUPER * zoom, HEIGHT * SUPER * zoom
    left = float(rng.uniform(0, PANORAMA[1] - width))
    top = float(np.clip(PANORAMA[0] - rng.uniform(0, 40) - height * ground / HEIGHT, 0, PANORAMA[0] - height))
    return View(left, top, zoom, bool(rng.random() < 0.5))


def backdrop_of(seed: int, camid: int, view: View) -> np.ndarray:
    """What is behind the person: (H * SUPER, W * SUPER, 3) in [0, 1]."""
    width, height = WIDTH * SUPER * view.zoom, HEIGHT * SUPER * view.zoom
    window = (view.left, view.top, view.left + width, view.top + height)
    picture = panorama(seed, camid).resize((WIDTH * SUPER, HEIGHT * SUPER), Image.Resampling.BILINEAR, box=window)
    if view.mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(picture, np.float32) / 255


@lru_cache(maxsize=1)
def fold_bank() -> np.ndarray:
    """Creases of cloth from which each picture cuts a window: steep along x, long along y."""
    rng = random_of(4)
    bank = 0.5 * _noise(rng, 512, 512, 10) + 0.3 * _noise(rng, 512, 512, 5)
    return np.asarray(1 + 0.13 * bank, np.float32)
