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
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from synthetic.people import (
    COLOURS,
    HEIGHT,
    SUPER,
    WIDTH,
    Canvas,
    Person,
    Pose,
    draw_person,
    make_person,
    person_of,
    pick,
    random_of,
)
from synthetic.scenes import CAMERA_TABLE, Camera, backdrop_of, draw_bike, fold_bank, shaded, view_of

HOME = Path(__file__).parents[1]  # from where `python -m synthetic.pictures` is found
VERSION = 1  # part of the cache folder's name: raise it whenever a pixel of the default set changes
TRAIN_IDS, TEST_IDS, CAMERAS = 150, 100, 6
DISTRACTORS, JUNK = 120, 60  # gallery images of pid 0 and of pid -1
SUBSETS = ("bounding_box_train", "query", "bounding_box_test")
# (ids, images, cameras) of the default size for any seed, as a parser that drops pid -1 and keeps pid 0 as an id finds
# them, like Market-1501's 751 gallery ids.
COUNTS = {"train": (150, 1650, 6), "query": (100, 500, 6), "gallery": (101, 1220, 6)}


# -------------------------------------------------------------------------------------------------- one picture


def pose_of(rng: np.random.Generator, camera: Camera, person: Person, misalignment: float) -> Pose:
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
    pose = pose_of(rng, camera, person, 1.0 if pid >= 0 else 7.0)
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
        cameras = 1 + random_of(seed, 6, pid).permutation(num_cameras)[: max(2, num_cameras - 1)]
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
    frame = int(random_of(seed, 7, pid, camid).integers(1, 90_000)) + 25 * index
    return f"{pid:04d}_c{camid}s1_{frame:06d}_{1 + index % 9:02d}.jpg".replace("-001", "-1")


def _draw_jobs(root: Path, seed: int, jobs: list[Job], done) -> None:
    for subset, pid, camid, index in jobs:
        picture, quality = draw_image(seed, pid, camid, index)
        picture.save(root / subset / _file_name(seed, pid, camid, index), quality=quality)
        done()


def draw_in_processes(module: str, root: Path, task: dict, num_jobs: int, processes: int, done) -> None:
    """Each process draws a consecutive share of the plan, which keeps most panoramas to one process.

    Plain subprocesses of `module`, which reads `task` and its share: no fork under threads, and the caller's
    main module is not imported once more. Each writes one byte per job into a shared pipe, which ends when the last
    process has ended.
    """
    edges = [num_jobs * i // processes for i in range(processes + 1)]
    reader, writer = os.pipe()
    workers = []
    with tempfile.TemporaryFile() as errors, os.fdopen(reader, "rb", buffering=0) as progress:
        try:
            for first, last in zip(edges, edges[1:], strict=False):
                share = json.dumps({**task, "root": str(root.resolve()), "first": first, "last": last})
                command = [sys.executable, "-m", module, share]
                pipes = {"stdin": subprocess.DEVNULL, "stdout": writer, "stderr": errors}
                workers.append(subprocess.Popen(command, cwd=HOME, **pipes))
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
    """One process of `draw_in_processes`."""
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
            draw_in_processes("synthetic.pictures", root, task, len(jobs), processes, bar.update)
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
