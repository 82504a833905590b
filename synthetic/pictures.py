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

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from synthetic.kind import Kind
from synthetic.people import (
    COLOURS,
    HEIGHT,
    SUPER,
    WIDTH,
    Canvas,
    Pose,
    draw_person,
    make_person,
    person_of,
    pick,
    random_of,
)
from synthetic.scenes import CAMERA_TABLE, Camera, backdrop_of, draw_bike, fold_bank, shaded, view_of

VERSION = 1  # part of the cache folder's name: raise it whenever a pixel of the default set changes
SUBSETS = ("bounding_box_train", "query", "bounding_box_test")


# -------------------------------------------------------------------------------------------------- one picture


def pose_of(rng: np.random.Generator, camera: Camera, misalignment: float = 1.0) -> Pose:
    """How somebody stands or walks before a camera; `misalignment`: how badly the detector's box fits, 1 as usual."""
    yaw = np.deg2rad(pick(rng, camera.yaws) + rng.normal(0, 16))
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


def occlude(canvas: Canvas, rng: np.random.Generator, seed: int, pose: Pose) -> None:
    """Something between the camera and the person: another person, a post, a bicycle, a box, a car's bonnet."""
    kind = pick(rng, ("person", "person", "post", "bike", "box", "bonnet"))
    side = pick(rng, (-1, 1))
    if kind == "person":
        yaw = float(rng.uniform(-np.pi, np.pi))
        canvas.yaw = yaw
        nearer = replace(pose, yaw=yaw, phase=float(rng.uniform(0, 6)), centre=pose.centre + side * rng.uniform(19, 30),
                         ground=pose.ground + rng.uniform(1, 9), size=pose.size * rng.uniform(0.98, 1.12))  # fmt: skip
        draw_person(canvas, make_person(seed, 20_000 + int(rng.integers(10_000)), 0), nearer)
        return
    colour = np.asarray(COLOURS[pick(rng, tuple(COLOURS))])
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
        draw_bike(ImageDraw.Draw(picture), x * SUPER, 126 * SUPER, s, shaded(colour, 1.0), (30, 30, 32))
        canvas.pixels[:] = np.asarray(picture, np.float32) / 255


def draw_image(seed: int, pid: int, camid: int, index: int) -> tuple[Image.Image, int]:
    """The picture of one detection, 64 x 128, and the JPEG quality it is to be stored with.

    pid 0 is a distractor (a person seen once), pid -1 a bad detection of somebody from the test set's families.
    """
    rng = random_of(seed, 5, pid, camid, index)
    camera = CAMERA_TABLE[camid - 1]
    if pid > 0:
        person = person_of(seed, pid)
    else:  # relatives of real identities, one per image: confusable, never the same
        person = make_person(seed, int(rng.integers(1, 50)), 100 + int(rng.integers(1 << 30)))
    pose = pose_of(rng, camera, 1.0 if pid >= 0 else 7.0)
    canvas = canvas_of(rng, backdrop_of(seed, camid, view_of(rng, pose.ground)), pose)
    draw_person(canvas, person, pose)
    if rng.random() < 0.25:
        occlude(canvas, rng, seed, pose)
    return expose(developed(canvas), rng, camera), int(rng.integers(*camera.quality))


def canvas_of(rng: np.random.Generator, pixels: np.ndarray, pose: Pose) -> Canvas:
    """The canvas over `pixels`, with the creases and the light that `rng` draws."""
    top, left = rng.integers(0, 512 - HEIGHT * SUPER), rng.integers(0, 512 - WIDTH * SUPER)
    folds = fold_bank()[top : top + HEIGHT * SUPER, left : left + WIDTH * SUPER]
    return Canvas(pixels, folds, float(rng.uniform(-1, 1)), pose.yaw, ambient=float(rng.uniform(0.42, 0.72)))


def developed(canvas: Canvas) -> Image.Image:
    """The canvas as a picture of WIDTH x HEIGHT."""
    return Image.fromarray((np.clip(canvas.pixels, 0, 1) * 255).astype(np.uint8)).reduce(SUPER)


def expose(
    picture: Image.Image, rng: np.random.Generator, camera: Camera, noise: np.random.Generator | None = None
) -> Image.Image:
    """Optics, then sensor: resolution and blur, saturation and cast, exposure, gamma and contrast, noise.

    `noise` draws the noise if it is not to come from `rng`: frames of one tracklet share all but that.
    """
    shrink = camera.shrink * float(rng.uniform(0.85, 1.0))
    small = (max(int(WIDTH * shrink), 8), max(int(HEIGHT * shrink), 16))
    picture = picture.resize(small, Image.Resampling.BILINEAR).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
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


def plan_pictures(
    seed: int, num_train_pids: int, num_test_pids: int, num_cameras: int, num_distractors: int, num_junk: int
) -> list[tuple]:
    """(subset, pid, camid, index): each identity is seen by all cameras but one, by the first of them once more.

    The number of images does not depend on the seed; which camera misses an identity does.
    """
    train, query, gallery = SUBSETS
    jobs: list[tuple] = []
    for pid in range(1, num_train_pids + num_test_pids + 1):
        cameras = 1 + random_of(seed, 6, pid).permutation(num_cameras)[: max(2, num_cameras - 1)]
        for rank, camid in enumerate(int(camera) for camera in cameras):
            if pid <= num_train_pids:
                jobs += [(train, pid, camid, index) for index in range(2 + (rank == 0))]
            else:
                jobs += [(query if index == 0 else gallery, pid, camid, index) for index in range(3 + (rank == 0))]
    for pid, count in ((0, num_distractors), (-1, num_junk)):
        jobs += [(gallery, pid, 1 + index % num_cameras, index) for index in range(count)]
    return sorted(jobs, key=lambda job: job[2])


def file_name(seed: int, pid: int, camid: int, index: int) -> str:
    """Market-1501's name: pid, camera and sequence, frame, number of the detection."""
    frame = int(random_of(seed, 7, pid, camid).integers(1, 90_000)) + 25 * index
    return f"{pid:04d}_c{camid}s1_{frame:06d}_{1 + index % 9:02d}.jpg".replace("-001", "-1")


def write_picture(folder: Path, seed: int, job: tuple[str, int, int, int]) -> None:
    """Draws and writes one image; job: subset, pid, camid, index."""
    subset, *numbers = job
    picture, quality = draw_image(seed, *numbers)
    (folder / subset).mkdir(exist_ok=True)
    picture.save(folder / subset / file_name(seed, *numbers), quality=quality)


PICTURES = Kind(
    "synthetic",
    VERSION,
    {"num_train_pids": 150, "num_test_pids": 100, "num_cameras": 6, "num_distractors": 120, "num_junk": 60},
    plan_pictures,
    write_picture,
    lambda seed, job: (job[0], 1),
    may_be_none=frozenset({"num_distractors", "num_junk"}),
)
make, ensure = PICTURES.make, PICTURES.ensure
