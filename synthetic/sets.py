"""The other built-in data sets: moving pedestrians as tracklets, in colour and infrared light, and in other coats.

People, cameras and drawing are those of `synthetic`; what is new here is how frames follow each other, what an
infrared camera sees, and what else somebody wears. As there, nothing is taken from a real person, and every file is a
function of the seed and of its own numbers.

    VIDEO     DukeMTMC-VideoReID's layout: train/, query/, gallery/, each person/tracklet/0001C1F0001X00037.jpg
    INFRARED  SYSU-MM01's layout: cam1/ to cam6/ with person/0001.jpg, and exp/ with the people of each part;
              cameras 3 and 6 see infrared, and camera 3 stands beside camera 2
    CLOTHES   LTCC's layout: train/, query/, test/, each 001_2_c3_000001.jpg (person, clothes, camera, image)
"""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from synthetic import people, pictures, scenes
from synthetic.kind import Kind
from synthetic.people import SUPER, WIDTH
from synthetic.scenes import CAMERA_TABLE, PANORAMA, Camera, View

SHORTEST, LONGEST = 8, 16  # frames of a tracklet
INFRARED_CAMERAS = (3, 6)
ROOMS = {3: 2}  # camera 3 looks at the scene of camera 2


# -------------------------------------------------------------------------------------------------------- tracklets


def plan_video(seed: int, num_train_pids: int, num_test_pids: int, num_cameras: int) -> list[tuple]:
    """(subset, pid, camid): each person walks once through all cameras but one; the first tracklet of a person of the
    test is the query."""
    jobs = []
    for pid in range(1, num_train_pids + num_test_pids + 1):
        cameras = 1 + people.random_of(seed, 8, pid).permutation(num_cameras)[: max(2, num_cameras - 1)]
        for rank, camid in enumerate(int(camera) for camera in cameras):
            subset = "train" if pid <= num_train_pids else "query" if rank == 0 else "gallery"
            jobs.append((subset, pid, camid))
    return sorted(jobs, key=lambda job: job[2])


def tracklet_length(seed: int, pid: int, camid: int) -> int:
    """Frames of a tracklet."""
    return int(people.random_of(seed, 9, pid, camid).integers(SHORTEST, LONGEST + 1))


def draw_tracklet(seed: int, pid: int, camid: int, length: int) -> tuple[list[Image.Image], int]:
    """The frames of a person walking past a camera, 64 x 128 each, and the JPEG quality they are to be stored with.

    One camera, light and direction; the legs go on, the box follows with the jitter of a detector, and the background
    passes by. In every third tracklet something stands before the person for a few frames.
    """
    rng = people.random_of(seed, 10, pid, camid)
    camera, person = CAMERA_TABLE[camid - 1], people.person_of(seed, pid)
    first = pictures.pose_of(rng, camera)
    first = replace(first, swing=float(rng.uniform(0.28, 0.42)))  # whoever moves does not stand
    view = scenes.view_of(rng, first.ground)
    stride = float(rng.uniform(0.7, 1.0))  # radians of the gait per frame
    speed = 5.0 * float(np.sin(first.yaw)) * (-1 if view.mirrored else 1)  # pixels of the panorama per frame
    turn = float(rng.normal(0, 0.02))  # radians per frame
    jitter = _wander(rng, length)
    start, stop = sorted(rng.integers(0, length, 2)) if rng.random() < 1 / 3 else (0, 0)
    canvas_seed, exposure_seed = (int(number) for number in rng.integers(0, 1 << 30, 2))
    frames = []
    for t in range(length):
        dx, dy, scale = jitter[t]
        pose = replace(first, yaw=first.yaw + turn * t, phase=first.phase + stride * t, centre=first.centre + 2 * dx,
                       ground=first.ground + 1.5 * dy, size=first.size * (1 + 0.02 * scale))  # fmt: skip
        pixels = scenes.backdrop_of(seed, camid, _moved(view, speed * t))
        canvas = pictures.canvas_of(people.random_of(canvas_seed), pixels, pose)
        people.draw_person(canvas, person, pose)
        if start <= t < stop:
            pictures.occlude(canvas, people.random_of(canvas_seed, 1), seed, pose)
        noise = people.random_of(exposure_seed, t)
        frames.append(pictures.expose(pictures.developed(canvas), people.random_of(exposure_seed), camera, noise))
    return frames, int(rng.integers(*camera.quality))


def _wander(rng: np.random.Generator, length: int) -> np.ndarray:
    """Three slow random walks of variance about 1: (length, 3)."""
    steps = rng.normal(0, 0.6, (length, 3))
    walk = np.zeros((length, 3))
    for t in range(1, length):
        walk[t] = 0.8 * walk[t - 1] + steps[t]
    return walk


def _moved(view: View, x: float) -> View:
    """The view `x` pixels to the right, as far as the panorama reaches."""
    return replace(view, left=float(np.clip(view.left + x, 0, PANORAMA[1] - WIDTH * SUPER * view.zoom)))


def write_tracklet(folder: Path, seed: int, job: tuple[str, int, int]) -> None:
    """Draws and writes the frames of one tracklet, named as in DukeMTMC-VideoReID; job: subset, pid, camid."""
    subset, pid, camid = job
    frames, quality = draw_tracklet(seed, pid, camid, tracklet_length(seed, pid, camid))
    place = folder / subset / f"{pid:04d}" / f"{camid:04d}"
    place.mkdir(parents=True)
    for number, frame in enumerate(frames, 1):
        frame.save(place / f"{pid:04d}C{camid}F{number:04d}X{30 * pid + number:05d}.jpg", quality=quality)


VIDEO = Kind(
    "synthetic_video",
    1,
    {"num_train_pids": 60, "num_test_pids": 40, "num_cameras": 4},
    plan_video,
    write_tracklet,
    lambda seed, job: (job[0], tracklet_length(seed, job[1], job[2])),
)


# --------------------------------------------------------------------------------------------------------- infrared


def plan_infrared(
    seed: int, num_train_pids: int, num_val_pids: int, num_test_pids: int, per_camera: int
) -> list[tuple]:
    """(pid, camid, index): each person is seen `per_camera` times by each of the six cameras."""
    people = range(1, num_train_pids + num_val_pids + num_test_pids + 1)
    return [(pid, camid, index) for camid in range(1, 7) for pid in people for index in range(per_camera)]


def infrared(pixels: np.ndarray) -> np.ndarray:
    """What a camera with an infrared lamp sees of colours (h, w, 3) in [0, 1].

    Most dyes let infrared through, so cloth that is dark to the eye is bright: shades are turned round and compressed.
    The lamp stands beside the camera, so light falls off towards the edges.
    """
    grey = pixels @ np.array((0.5, 0.35, 0.15), np.float32)  # (h, w)
    height, width = grey.shape
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
    lamp = 1 - 0.25 * (x * x + 0.5 * y * y)
    return np.repeat(((0.82 - 0.62 * grey) * lamp)[..., None], 3, axis=2)


def camera_of(camid: int) -> Camera:
    """Colour cameras are those of `synthetic`; an infrared one has no colours and more noise."""
    camera = CAMERA_TABLE[camid - 1]
    if camid not in INFRARED_CAMERAS:
        return camera
    return replace(camera, cast=(1.0, 1.0, 1.0), saturation=0.0, noise=7.0)


def draw_light(seed: int, pid: int, camid: int, index: int) -> tuple[Image.Image, int]:
    """The picture of one detection by a colour or an infrared camera, 64 x 128, and its JPEG quality."""
    rng = people.random_of(seed, 11, pid, camid, index)
    camera, person = camera_of(camid), people.person_of(seed, pid)
    pose = pictures.pose_of(rng, camera)
    pixels = scenes.backdrop_of(seed, ROOMS.get(camid, camid), scenes.view_of(rng, pose.ground))
    canvas = pictures.canvas_of(rng, pixels, pose)
    people.draw_person(canvas, person, pose)
    if camid in INFRARED_CAMERAS:
        canvas.pixels = infrared(canvas.pixels)
    picture = pictures.expose(pictures.developed(canvas), rng, camera)
    if camid in INFRARED_CAMERAS:
        picture = picture.convert("L").convert("RGB")
    return picture, int(rng.integers(*camera.quality))


def write_light(folder: Path, seed: int, job: tuple[int, int, int]) -> None:
    """Draws and writes one image, named as in SYSU-MM01, colour or infrared by its camera; job: pid, camid, index."""
    pid, camid, index = job
    picture, quality = draw_light(seed, pid, camid, index)
    place = folder / f"cam{camid}" / f"{pid:04d}"
    place.mkdir(parents=True, exist_ok=True)
    picture.save(place / f"{1 + index:04d}.jpg", quality=quality)


def write_people(folder: Path, num_train_pids: int, num_val_pids: int, num_test_pids: int, per_camera: int) -> None:
    """exp/: who is for training, validation and the test."""
    (folder / "exp").mkdir()
    first = 1
    for part, count in (("train", num_train_pids), ("val", num_val_pids), ("test", num_test_pids)):
        people = ",".join(str(pid) for pid in range(first, first + count))
        (folder / "exp" / f"{part}_id.txt").write_text(people + "\n", encoding="utf-8")
        first += count


INFRARED = Kind(
    "synthetic_rgbir",
    1,
    {"num_train_pids": 52, "num_val_pids": 8, "num_test_pids": 30, "per_camera": 4},
    plan_infrared,
    write_light,
    lambda seed, job: (f"cam{job[1]}", 1),
    write_people,
)


# ---------------------------------------------------------------------------------------------------------- clothes


def plan_clothes(seed: int, num_train_pids: int, num_test_pids: int, num_outfits: int, num_cameras: int) -> list[tuple]:
    """(subset, pid, worn, camid, index): each person is seen twice in each of `num_outfits` clothes by all cameras but
    one; of the test, the first of two is the query."""
    jobs = []
    for pid in range(1, num_train_pids + num_test_pids + 1):
        for worn in range(1, num_outfits + 1):
            cameras = 1 + people.random_of(seed, 12, pid, worn).permutation(num_cameras)[: max(2, num_cameras - 1)]
            for camid, index in itertools.product(map(int, cameras), range(2)):
                subset = "train" if pid <= num_train_pids else ("query", "test")[index]
                jobs.append((subset, pid, worn, camid, index))
    return sorted(jobs, key=lambda job: job[3])


def draw_clothes(seed: int, pid: int, worn: int, camid: int, index: int) -> tuple[Image.Image, int]:
    """The picture of one detection of a person in the clothes `worn`, from 1, 64 x 128, and its JPEG quality."""
    rng = people.random_of(seed, 13, pid, worn, camid, index)
    camera = CAMERA_TABLE[camid - 1]
    person = people.dressed_anew(people.person_of(seed, pid), people.random_of(seed, 14, pid, worn))
    pose = pictures.pose_of(rng, camera)
    pixels = scenes.backdrop_of(seed, camid, scenes.view_of(rng, pose.ground))
    canvas = pictures.canvas_of(rng, pixels, pose)
    people.draw_person(canvas, person, pose)
    return pictures.expose(pictures.developed(canvas), rng, camera), int(rng.integers(*camera.quality))


def write_clothes(folder: Path, seed: int, job: tuple[str, int, int, int, int]) -> None:
    """Draws and writes one image, named as in LTCC; job: subset, pid, worn, camid, index."""
    subset, pid, worn, camid, index = job
    picture, quality = draw_clothes(seed, pid, worn, camid, index)
    (folder / subset).mkdir(exist_ok=True)
    picture.save(folder / subset / f"{pid:03d}_{worn}_c{camid}_{1 + index:06d}.jpg", quality=quality)


CLOTHES = Kind(
    "synthetic_clothes",
    1,
    {"num_train_pids": 60, "num_test_pids": 40, "num_outfits": 2, "num_cameras": 4},
    plan_clothes,
    write_clothes,
    lambda seed, job: (job[0], 1),
)
