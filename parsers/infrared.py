"""RGB-infrared data sets: people seen by cameras for colours and by cameras for infrared light (`Splits.infrared`)."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping, Sequence

from parsers import base
from parsers.base import Counts, Entry, Sample, Splits

# ============ SYSU-MM01 ============

SYSU_INFRARED = (3, 6)
SYSU_GALLERY = {"all": (1, 2, 4, 5), "indoor": (1, 2)}  # by search
SYSU_TRAIN = {True: Counts(395, 34_167, 6), False: Counts(296, 30_213, 6)}  # by use_val
SYSU_QUERY = Counts(96, 3_803, 2)
SYSU_SINGLE_SHOT = {"all": (96, 301, 4), "indoor": (56, 112, 2)}  # ids, images, cameras
SYSU_TRIALS = 10
SYSU_CHOICES = {"search": tuple(SYSU_GALLERY), "shots": (1, 10)}
SYSU_LOOKED_FOR = "a folder SYSU-MM01/ with cam1/ to cam6/ and exp/"


def parse_sysu(root: str, *, search: str = "all", shots: int = 1, trial: int = 0, use_val: bool = True) -> Splits:
    """SYSU-MM01. `search`: `all` or `indoor`; `shots`: gallery images per person and camera, 1 or 10; `trial`: which
    draw of the gallery, 0 to 9; `use_val`: train on the validation people too.

    Reference: Wu et al., "RGB-Infrared Cross-Modality Person Re-Identification", ICCV 2017; IJCV 2020.
    Published: 491 people in 6 cameras, 296 for training, 99 for validation, 96 for the test (README of
        github.com/wuancong/SYSU-MM01 at 0499112). Test, counted in its evaluation/data_split/: 3,803 queries, all
        images of infrared cameras 3 and 6; gallery, drawn ten times from colour cameras 1, 2, 4, 5 (`all`) or 1, 2
        (`indoor`): 301 or 112 images, 1 of each person in each camera, or ten times as many. Training images of the 296
        people: 30,213, counted there too; of the 395 that practice trains on: 22,258 + 11,909.
        Queries of camera 3 do not see gallery images of camera 2, which is in the same room: protocol `sysu`.
    Gallery draws: the publisher's rand_perm_cam.mat if it is in or beside the data: row `trial` of its order of each
        person's images in each camera. Else seeded as in AGW (data_manager.py): `random.seed(trial)`, then one
        `random.choice` per person and camera, which is what most published results used; `shots=10` is drawn alike.
    Folders: cam1/ to cam6/ with a folder per person, 0001/0001.jpg; exp/train_id.txt, val_id.txt and test_id.txt with
        one line `1,2,4,...`, or .mat files of the same names with variable id.
    """
    folder = base.find_folder(SYSU, root, base.has_folders("exp", "cam3", "cam6"), SYSU_LOOKED_FOR)
    ids, images, cameras = SYSU_SINGLE_SHOT[search]
    gallery = Counts(ids, images * shots, cameras)
    published = {"train": SYSU_TRAIN[use_val], "query": SYSU_QUERY, "gallery": gallery}
    return _sysu_splits(SYSU, folder, search, shots, trial, use_val, published)


def _sysu_splits(
    entry: Entry,
    folder: str,
    search: str,
    shots: int,
    trial: int,
    use_val: bool,
    published: Mapping[str, Counts] | None,
    *notes: str,
) -> Splits:
    """Read a folder in SYSU-MM01's layout."""
    cameras = sorted({*SYSU_GALLERY["all"], *SYSU_INFRARED})
    lost = [f"cam{camera}/" for camera in cameras if not base.has_folders(f"cam{camera}")(folder)]
    if lost:
        raise base.missing(entry, folder, f"{SYSU_LOOKED_FOR}, of which {base.few(lost)} are not there")
    test = _sysu_people(folder, "test")
    learned = sorted({*_sysu_people(folder, "train"), *(_sysu_people(folder, "val") if use_val else ())})
    draw, source = _sysu_draw(folder, trial)
    return Splits(
        entry.name,
        train=tuple(s for pid in learned for camera in cameras for s in _sysu_images(folder, camera, pid)),
        query=tuple(s for pid in test for camera in SYSU_INFRARED for s in _sysu_images(folder, camera, pid)),
        gallery=tuple(
            s for pid in test for camera in SYSU_GALLERY[search] for s in draw(_sysu_images(folder, camera, pid), shots)
        ),
        published=published,
        notes=(
            *notes,
            f"{search} search, {shots}-shot; gallery {trial} of {SYSU_TRIALS}: {source}",
            "training people: train and val" if use_val else "training people: train only",
        ),
        protocol="sysu",
        infrared=frozenset(SYSU_INFRARED),
    )


def _sysu_people(folder: str, part: str) -> list[int]:
    """The sorted pids of exp/<part>_id.txt or .mat."""
    text, mat = (os.path.join(folder, "exp", f"{part}_id.{ending}") for ending in ("txt", "mat"))
    if os.path.isfile(text):
        words = base.read_text(SYSU, text).replace(",", " ").split()
        if not words or not all(word.isdecimal() for word in words):
            raise ValueError(f"sysu: {text} does not read like '1,2,4'. Unpack the archive again.")
        return sorted(int(word) for word in words)
    if os.path.isfile(mat):
        return sorted(int(pid) for pid in base.read_mat(SYSU, mat, "id")[0].ravel())
    raise base.missing(SYSU, os.path.join(folder, "exp"), f"{part}_id.txt or {part}_id.mat")


def _sysu_images(folder: str, camera: int, pid: int) -> list[Sample]:
    """The images of a person in a camera, by name; none if that camera did not see that person."""
    person = os.path.join(folder, f"cam{camera}", f"{pid:04d}")
    names = base.list_folder(person)[0] if os.path.isdir(person) else []
    return [Sample(os.path.join(person, name), pid, camera) for name in names]


def _sysu_draw(folder: str, trial: int):
    """(a function that draws up to n of a person's images in a camera, where the draw comes from)."""
    path = base.find_file(folder, "rand_perm_cam.mat")
    if path is None:
        rng = random.Random(trial)  # AGW draws person by person, camera by camera, as the caller here does

        def seeded(images: Sequence[Sample], shots: int) -> list[Sample]:
            if not images or shots == 1:
                return [rng.choice(images)] if images else []
            return rng.sample(images, min(shots, len(images)))

        return seeded, f"drawn with seed {trial}, since there is no rand_perm_cam.mat"
    (cameras,) = base.read_mat(SYSU, path, "rand_perm_cam")  # cell (6, 1) of cells (people, 1) of orders (10, images)

    def published(images: Sequence[Sample], shots: int) -> list[Sample]:
        if not images:
            return []
        people = cameras[images[0].camid - 1, 0]
        orders: Sequence = people[images[0].pid - 1, 0] if images[0].pid <= len(people) else ()
        if len(orders) != SYSU_TRIALS or len(orders[trial]) != len(images):
            expected = len(orders[0]) if len(orders) else 0
            raise ValueError(
                f"sysu: {os.path.dirname(images[0].frames[0])} holds {len(images)} images, and {path} is for "
                f"{expected}. Unpack the archive again."
            )
        return [images[int(number) - 1] for number in orders[trial][:shots]]  # MATLAB counts from 1

    return published, "rand_perm_cam.mat of the publisher"


# ============ RegDB ============

REGDB_CAMERAS = {"visible": 1, "thermal": 2}
REGDB_LINE = re.compile(r"(?P<path>.*\S)\s+(?P<pid>\d+)")


def parse_regdb(root: str, *, split: int = 0, query: str = "visible") -> Splits:
    """RegDB. `split` 0 to 9: the published trials 1 to 10; `query`: `visible` asks for thermal images, or `thermal`.

    Reference: Nguyen et al., "Person Recognition System Based on a Combination of Body Images from Visible Light and
        Thermal Cameras", Sensors 2017; the trials: Ye et al., "Hierarchical Discriminative Learning for Visible Thermal
        Person Re-Identification", AAAI 2018.
    Published: 412 people with 10 visible and 10 thermal images each; ten divisions into 206 and 206 people: 2,060
        images of each light for training and for the test.
    Folders: Visible/ and Thermal/; idx/ with train_visible_1.txt, train_thermal_1.txt, test_visible_1.txt,
        test_thermal_1.txt to ..._10.txt, which have lines `Visible/1/male_back_v_00261_1.bmp 0`: path, number of the
        person within that list, so that pid 7 of training and of the test are two people. Cameras: 1 visible,
        2 thermal.
    """
    folder = base.find_folder(
        REGDB,
        root,
        lambda folder: (
            base.has_folders("idx")(folder)
            and (base.has_folders("Visible")(folder) or base.has_folders("Thermal")(folder))
        ),
        "a folder with Visible/, Thermal/ and idx/",
    )
    parts = {
        (part, light): _read_regdb_list(folder, f"{part}_{light}_{split + 1}.txt", camid)
        for part in ("train", "test")
        for light, camid in REGDB_CAMERAS.items()
    }
    (other,) = set(REGDB_CAMERAS) - {query}
    return Splits(
        REGDB.name,
        parts["train", "visible"] + parts["train", "thermal"],
        parts["test", query],
        parts["test", other],
        REGDB.published,
        (f"split {split} of {REGDB.num_splits} (trial {split + 1}); {query} images ask for {other} ones",),
        infrared=frozenset({REGDB_CAMERAS["thermal"]}),
        shared_pids=False,
    )


def _read_regdb_list(folder: str, name: str, camid: int) -> tuple[Sample, ...]:
    """The samples of idx/<name>."""
    path = os.path.join(folder, "idx", name)
    if not os.path.isfile(path):
        raise base.missing(REGDB, os.path.join(folder, "idx"), name)
    return base.read_list(REGDB, path, [folder], REGDB_LINE, "Visible/1/male_back_v_00261_1.bmp 0", camid)


# ============ LLCM ============

LLCM_INFRARED = 10  # an infrared image of camera n is of camera 10 + n here
LLCM_CAMERAS = {"vis": tuple(range(1, 10)), "nir": tuple(LLCM_INFRARED + n for n in (1, 2, 4, 5, 6, 7, 8, 9))}
LLCM_PARTS = ("idx", "test_vis", "test_nir")


def parse_llcm(root: str, *, query: str = "nir", trial: int = 0) -> Splits:
    """LLCM. `query`: `nir`, infrared images ask for visible ones, or `vis`; `trial`: which draw of the gallery, 0 to 9.

    Reference: Zhang and Wang, "Diverse Embedding Expansion Network and Low-Light Cross-Modality Benchmark for
        Visible-Infrared Person Re-Identification", CVPR 2023.
    Published: 1,064 people in 9 cameras, 713 for training, 351 for the test; in both lights, but for camera 3, which
        has no infrared test images (README.md, AGW/test.py, AGW/data_manager.py of github.com/ZYK100/LLCM at 886e27c).
        Queries are all images of one light; the gallery, drawn ten times, has one image of each person in each camera
        of the other: `random.seed(trial)`, then one `random.choice` per person and camera, as there. Protocol `llcm`.
        For visible queries the released test.py exchanges the sides: its drawn infrared images ask for all visible
        ones. train.py, the paper's words and this parser do not.
    Folders: test_vis/cam1/ to cam9/ and test_nir/cam1/ to cam9/ with a folder per person, 0001/*.jpg; idx/ with
        test_id.txt, one line `1,2,4,...`, and train_vis.txt, train_nir.txt, which have lines `PATH 0`: path below the
        folder, number of the person within training. Cameras: 1 to 9 visible, 11 to 19 infrared; of training images,
        whose lists name none, 1 and 11.
    """
    folder = base.find_folder(LLCM, root, base.has_folders(*LLCM_PARTS), "a folder with idx/, test_vis/ and test_nir/")
    path = os.path.join(folder, "idx", "test_id.txt")
    if not os.path.isfile(path):
        raise base.missing(LLCM, os.path.join(folder, "idx"), "test_id.txt")
    words = base.read_text(LLCM, path).replace(",", " ").split()
    if not words or not all(word.isdecimal() for word in words):
        raise ValueError(f"llcm: {path} does not read like '1,2,4'. Unpack the archive again.")
    people = sorted(int(word) for word in words)
    (other,) = {*LLCM_CAMERAS} - {query}
    rng = random.Random(trial)  # person by person, camera by camera
    asking, asked = (
        [_llcm_images(folder, light, camera, pid) for pid in people for camera in LLCM_CAMERAS[light]]
        for light in (query, other)
    )
    return Splits(
        LLCM.name,
        _read_llcm_list(folder, "train_vis.txt", 1) + _read_llcm_list(folder, "train_nir.txt", 1 + LLCM_INFRARED),
        tuple(sample for images in asking for sample in images),
        tuple(rng.choice(images) for images in asked if images),
        LLCM.published,
        (f"{query} images ask for {other} ones; gallery {trial} of {LLCM.num_trials}, drawn with seed {trial}",),
        protocol="llcm",
        infrared=frozenset({1 + LLCM_INFRARED, *LLCM_CAMERAS["nir"]}),
        shared_pids=False,
    )


def _llcm_images(folder: str, light: str, camera: int, pid: int) -> list[Sample]:
    """The images of a person in a camera, by name; none if that camera did not see that person."""
    person = os.path.join(folder, f"test_{light}", f"cam{camera % LLCM_INFRARED}", f"{pid:04d}")
    names = base.list_folder(person)[0] if os.path.isdir(person) else []
    return [Sample(os.path.join(person, name), pid, camera) for name in names]


def _read_llcm_list(folder: str, name: str, camid: int) -> tuple[Sample, ...]:
    """The samples of idx/<name>."""
    path = os.path.join(folder, "idx", name)
    if not os.path.isfile(path):
        raise base.missing(LLCM, os.path.join(folder, "idx"), name)
    return base.read_list(LLCM, path, [folder], REGDB_LINE, "train_vis/0001/0001_c01.jpg 0", camid)


# ============ the built-in data set ============


def parse_synthetic_rgbir(
    root: str | None = None, *, seed: int = 0, search: str = "all", shots: int = 1, trial: int = 0
) -> Splits:
    """The built-in colour and infrared images: procedural pedestrians, drawn on first use into `root` or the cache.

    Reference: `synthetic/sets.py`. Published: nothing; its numbers compare with nothing but themselves.
    Folders: as SYSU-MM01, whose options `search`, `shots` and `trial` mean the same here.
    """
    from synthetic import sets  # draws with Pillow and numpy, which the other parsers do not need

    folder = os.fspath(sets.INFRARED.ensure(root, seed))
    return _sysu_splits(
        SYNTHETIC_RGBIR,
        folder,
        search,
        shots,
        trial,
        True,
        None,
        base.DEMONSTRATION,
    )


# ============ the rows of the registry ============

LLCM = Entry(
    name="llcm",
    title="LLCM",
    description="LLCM, in low light (713/351 identities, 9 cameras in both lights, 10 gallery draws, both directions)",
    citation="Zhang and Wang, Diverse Embedding Expansion Network and Low-Light Cross-Modality Benchmark for "
    "Visible-Infrared Person Re-Identification, CVPR 2023",
    site="https://github.com/ZYK100/LLCM",
    terms="on request, with a signed agreement",
    parse=parse_llcm,
    published={"train": Counts(713, None, None), "query": Counts(351, None, None), "gallery": Counts(351, None, None)},
    choices={"query": tuple(LLCM_CAMERAS)},
    num_trials=10,
)
REGDB = Entry(
    name="regdb",
    title="RegDB",
    description="RegDB (206/206 identities, visible and thermal images, 10 splits, both directions)",
    citation="Nguyen et al., Person Recognition System Based on a Combination of Body Images from Visible Light and "
    "Thermal Cameras, Sensors 2017",
    site="http://dm.dongguk.edu/link.html",
    terms="on request, with a signed form",
    parse=parse_regdb,
    published={"train": Counts(206, 4_120, 2), "query": Counts(206, 2_060, 1), "gallery": Counts(206, 2_060, 1)},
    choices={"query": tuple(REGDB_CAMERAS)},
    num_splits=10,
)
SYNTHETIC_RGBIR = Entry(
    name="syntheticrgbir",
    title="built-in demonstration set, RGB-infrared",
    description="pedestrians in colour and infrared drawn by this program; a demonstration, not a benchmark",
    parse=parse_synthetic_rgbir,
    needs_path=False,
    choices=SYSU_CHOICES,
    num_trials=SYSU_TRIALS,
)
SYSU = Entry(
    name="sysu",
    title="SYSU-MM01",
    description="SYSU-MM01 (395/96 identities, 4 colour and 2 infrared cameras, 10 gallery draws)",
    citation="Wu et al., RGB-Infrared Cross-Modality Person Re-Identification, ICCV 2017",
    site="https://github.com/wuancong/SYSU-MM01",
    terms="on request, with a signed agreement",
    parse=parse_sysu,
    published={"train": SYSU_TRAIN[True], "query": SYSU_QUERY, "gallery": Counts(*SYSU_SINGLE_SHOT["all"])},
    aliases=("sysumm", "sysumm01"),
    choices=SYSU_CHOICES,
    num_trials=SYSU_TRIALS,
)

ENTRIES = (LLCM, REGDB, SYNTHETIC_RGBIR, SYSU)
