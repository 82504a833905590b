"""Data sets of people seen from drones and from the ground."""

from __future__ import annotations

import os
import re

from parsers import base
from parsers.base import SUBSETS, Counts, Entry, Sample, Splits

# ============ AG-ReID ============

AGREID_NAME = re.compile(r"P(?P<person>\d+)T(?P<time>\d+)A(?P<height>\d+)C(?P<camid>\d+)F\d+\.")
AGREID_TEST = {
    "aerial": ("query_all_c0", "bounding_box_test_all_c3"),
    "ground": ("query_all_c3", "bounding_box_test_all_c0"),
}
AGREID_TRAIN = Counts(199, None, 2)
AGREID_PUBLISHED = {
    "aerial": {"query": Counts(189, 1_701, 1), "gallery": Counts(189, 3_331, 1)},
    "ground": {"query": Counts(189, 962, 1), "gallery": Counts(189, 7_204, 1)},
}


def parse_agreid(root: str, *, query: str = "aerial") -> Splits:
    """AG-ReID. `query`: `aerial` images ask for those of the ground camera, or `ground`.

    Reference: Nguyen et al., "Aerial-Ground Person Re-ID", ICME 2023.
    Published: 199 identities for training, 189 for the test; 1,701 aerial queries for 3,331 ground images, 962 ground
        queries for 7,204 aerial ones (README.md of github.com/huynguyen792/AG-ReID at 0d72a45).
    Folders: bounding_box_train/, query_all_c0/, bounding_box_test_all_c3/ (or query_all_c3/, bounding_box_test_all_c0/)
        with `P0006T0214A0C0F1831.jpg`: person, time, height, camera (0 drone, 3 ground), frame. A pid is person, time
        and height together, as its loader has it (agreidtools/datasets/agreid.py).
    """
    asks, asked = AGREID_TEST[query]
    folder = base.find_folder(
        AGREID,
        root,
        base.has_folders("bounding_box_train", asks, asked),
        f"a folder with bounding_box_train/, {asks}/ and {asked}/",
    )
    names = {"train": "bounding_box_train", "query": asks, "gallery": asked}
    parts = {subset: _agreid_images(os.path.join(folder, name)) for subset, name in names.items()}
    published = {"train": AGREID_TRAIN, **AGREID_PUBLISHED[query]}
    return base.by_subset(AGREID.name, parts, [f"{query} images ask"], published=published)


def _agreid_images(folder: str) -> tuple[Sample, ...]:
    """The images of a folder."""
    samples, bad = [], []
    for image in base.list_folder(folder)[0]:
        match = AGREID_NAME.match(image)
        if match is None:
            bad.append(image)
        else:
            pid = int(match["person"] + match["time"] + match["height"])
            samples.append(Sample(os.path.join(folder, image), pid, int(match["camid"])))
    if bad or not samples:
        found = f"{len(bad):,} images in {folder} are not called like" if bad else f"no images in {folder} like"
        raise ValueError(
            f"agreid: {found} P0006T0214A0C0F1831.jpg: {base.few(bad) or base.holds(folder)}. Unpack it again."
        )
    return tuple(samples)


# ============ CARGO ============

CARGO_NAME = re.compile(r"Cam(?P<camid>\d+)_[a-z]+_(?P<pid>\d+)_\d+\.")
CARGO_AERIAL = 5  # cameras 1 to 5 fly
CARGO_TEST = {
    "all": (Counts(None, 312, None), Counts(None, 50_712, None)),
    "ground": (Counts(60, 134, None), Counts(2_404, 18_444, None)),
    "aerial": (Counts(89, 178, None), Counts(2_447, 32_268, None)),
    "cross": (Counts(None, 312, 2), Counts(None, 50_712, 2)),
}


def parse_cargo(root: str, *, test: str = "all") -> Splits:
    """CARGO, drawn by a game engine. `test`: `all` images, the `ground` or the `aerial` ones alone, or `cross`.

    Reference: Zhang et al., "View-decoupled Transformer for Person Re-identification under Aerial-ground Camera
        Network", CVPR 2024.
    Published: 2,500 identities / 51,451 images for training, 2,500 / 51,024 for the test; of these 134 queries of 60
        identities and 18,444 images of 2,404 from the ground, 178 of 89 and 32,268 of 2,447 from the air; 13 cameras, 1
        to 5 of them aerial (README.md of github.com/LinlyAC/VDT-AGPReID at ad01007). `cross` counts all aerial cameras
        as camera 1 and all others as camera 2, so that only images of the other kind are right. Training is on all
        images, whatever the test; there the loaders of the aerial and of the ground test leave the other half out.
    Folders: train/, query/, gallery/, each with Cam1/ to Cam13/ and `Cam2_day_2519_320.jpg` (camera, time of day, pid,
        image).
    """
    folder = base.find_folder(CARGO, root, base.has_folders(*SUBSETS), "a folder with train/, query/, gallery/")
    parts = {subset: _cargo_images(os.path.join(folder, subset)) for subset in SUBSETS}
    for subset in ("query", "gallery"):
        samples = parts[subset]
        if test in ("aerial", "ground"):
            samples = tuple(s for s in samples if (s.camid <= CARGO_AERIAL) == (test == "aerial"))
        elif test == "cross":
            samples = tuple(Sample(s.path, s.pid, 1 if s.camid <= CARGO_AERIAL else 2) for s in samples)
        if not samples:
            raise ValueError(f"cargo: {os.path.join(folder, subset)} has no images of the test {test} (--cargo_test)")
        parts[subset] = samples
    query, gallery = CARGO_TEST[test]
    published = {"train": Counts(2_500, 51_451, 13), "query": query, "gallery": gallery}
    return base.by_subset(CARGO.name, parts, [f"test: {test}"], published=published)


def _cargo_images(folder: str) -> tuple[Sample, ...]:
    """The images of the folders of all cameras, by camera."""
    names = [name for name in base.list_folder(folder)[1] if re.fullmatch(r"Cam\d+", name)]
    if not names:
        raise ValueError(f"cargo: {folder} has no folders Cam1/ to Cam13/; {base.holds(folder)}. Unpack it again.")
    places = (os.path.join(folder, name) for name in sorted(names, key=lambda name: int(name[3:])))
    read = (base.read_folder(CARGO, place, CARGO_NAME, "Cam2_day_2519_320.jpg")[0] for place in places)
    return tuple(sample for samples in read for sample in samples)


# ============ the rows of the registry ============

AGREID = Entry(
    name="agreid",
    title="AG-ReID",
    description="AG-ReID (199/189 identities, a drone and a ground camera, both directions)",
    citation="Nguyen et al., Aerial-Ground Person Re-ID, ICME 2023",
    site="https://github.com/huynguyen792/AG-ReID",
    terms="a link in the README; no terms that we read; ask the authors before any use beyond research",
    parse=parse_agreid,
    published={"train": AGREID_TRAIN, **AGREID_PUBLISHED["aerial"]},
    choices={"query": tuple(AGREID_TEST)},
)
CARGO = Entry(
    name="cargo",
    title="CARGO",
    description="CARGO (2,500/2,500 identities, 5 aerial and 8 ground cameras, drawn)",
    citation="Zhang et al., View-decoupled Transformer for Person Re-identification under Aerial-ground Camera "
    "Network, CVPR 2024",
    site="https://github.com/LinlyAC/VDT-AGPReID",
    terms="for academic purposes only, not commercial use",
    parse=parse_cargo,
    published={"train": Counts(2_500, 51_451, 13), "query": CARGO_TEST["all"][0], "gallery": CARGO_TEST["all"][1]},
    choices={"test": tuple(CARGO_TEST)},
)

ENTRIES = (AGREID, CARGO)
