"""Data sets to train on, for tests on others: RandPerson and ClonedPerson, which are drawn, and CUHK-SYSU."""

from __future__ import annotations

import os
import re

from parsers import base
from parsers.base import Counts, Entry, Sample, Splits

# 000000_s00_c00_f000264.jpg: person, scene, camera of that scene, frame; the first README has camera and scene in turn
DRAWN_NAME = re.compile(
    r"(?P<pid>-1|\d+)_(?:s(?P<scene>\d+)_c(?P<camera>\d+)|c(?P<camera_>\d+)_s(?P<scene_>\d+))_f\d+\."
)
DRAWN_EXAMPLE = "000000_s00_c00_f000264.jpg"


def _drawn(entry: Entry, folder: str, shared: bool = False) -> tuple[Sample, ...]:
    """The images of a folder but for junk (pid -1); the camera is 100 x scene + camera, for each scene numbers its own
    from 0. shared: the camera alone."""
    samples, bad = [], []
    for image in base.list_folder(folder)[0]:
        match = DRAWN_NAME.match(image)
        if match is None:
            bad.append(image)
        elif match["pid"] != "-1":
            scene = 0 if shared else int(match["scene"] or match["scene_"])
            camera = 100 * scene + int(match["camera"] or match["camera_"])
            samples.append(Sample(os.path.join(folder, image), int(match["pid"]), camera))
    if bad or not samples:
        found = f"{len(bad):,} images in {folder} are not called like" if bad else f"no images in {folder} like"
        raise ValueError(
            f"{entry.name}: {found} {DRAWN_EXAMPLE}: {base.few(bad) or base.holds(folder)}. Unpack the archive again."
        )
    return tuple(samples)


def _holds_drawn(folder: str) -> bool:
    """Whether the folder's first image is called as those of RandPerson and ClonedPerson are."""
    return any(DRAWN_NAME.match(image) for image in base.list_folder(folder)[0][:1])


def parse_randperson(root: str) -> Splits:
    """RandPerson, the subset of its experiments; people drawn by a program.

    Reference: Wang et al., "Surpassing Real-World Source Training Data: Random 3D Characters for Generalizable Person
        Re-Identification", arXiv:2006.12774, 2020.
    Published: 132,145 images in the subset, of the 8,000 identities of the set (README.md of
        github.com/VideoObjectSearch/RandPerson at 0061e9b). A loader of one of its authors, QAConv a3db278,
        reid/datasets/randperson.py, reads folder and names as we do, and numbers the cameras of the scenes on: the same
        cameras by other numbers.
    Folders: randperson_subset/ with `000000_s00_c00_f000264.jpg` (pid, scene, camera of that scene, frame), or with
        camera and scene in turn, as the first README had them.
    """
    looked_for = f"randperson_subset/, a folder of images like {DRAWN_EXAMPLE}"
    folder = base.find_folder(RANDPERSON, root, _holds_drawn, looked_for)
    train = {"train": _drawn(RANDPERSON, folder)}
    return base.by_subset(RANDPERSON.name, train, published=RANDPERSON.published)


def parse_clonedperson(root: str, *, cameras: str = "own") -> Splits:
    """ClonedPerson, people drawn by a program in the clothes of photographs. `cameras`: `own`, each scene has its own
    cameras; `shared`, those of one number count as one, as in the released loader.

    Reference: Wang et al., "Cloning Outfits from Real-World Images to 3D Characters for Generalizable Person
        Re-Identification", CVPR 2022.
    Published: 5,621 identities and 887,766 images in all (README.md of github.com/Yanan-Wang-cs/ClonedPerson at
        1526402); how many the archive has for training is not said there. Its loader (dataloader/clonedperson.py at
        0eb8d2d, the same file in QAConv a3db278) knows which cameras belong to which scene and then sets the scene to 2
        for every image: a test leaves out the right images of all cameras of the query's number.
    Folders: train/, and where there is a test, test/query/ and test/gallery/, with `700000_s02_c00_f023389.jpg` (pid,
        scene, camera of that scene, frame).
    """

    def fits(folder: str) -> bool:
        return base.has_folders("train")(folder) and _holds_drawn(os.path.join(folder, "train"))

    folder = base.find_folder(
        CLONEDPERSON, root, fits, "a folder clonedperson/ with train/, test/query/, test/gallery/"
    )
    names = {"train": "train", "query": "test/query", "gallery": "test/gallery"}
    there = {subset: name for subset, name in names.items() if base.has_folders(name)(folder)}
    if len(there) == 2:
        raise base.missing(CLONEDPERSON, os.path.join(folder, "test"), "query/ and gallery/, of which one is not there")
    parts = {
        subset: _drawn(CLONEDPERSON, os.path.join(folder, *name.split("/")), cameras == "shared")
        for subset, name in there.items()
    }
    return base.by_subset(CLONEDPERSON.name, parts, ["cameras are shared by the scenes"] if cameras == "shared" else [])


CUHKSYSU_NAME = re.compile(r"p(\d+)_s\d+")


def parse_cuhksysu(root: str) -> Splits:
    """CUHK-SYSU, people cut out of photographs and films; for training, as in domain generalisation.

    Reference: Xiao et al., "Joint Detection and Identification Feature Learning for Person Search", CVPR 2017.
    Published: nothing that we read of the cut-out images. All count as of one camera (fast-reid, cuhk_sysu.py).
    Folders: cropped_images/ with `p1_s2_3.jpg` (pid, photograph, image).
    """
    folder = base.find_named(CUHKSYSU, root, "cropped_images", "cuhk_sysu")
    return base.by_subset(
        CUHKSYSU.name, {"train": base.read_folder(CUHKSYSU, folder, CUHKSYSU_NAME, "p1_s2_3.jpg", camid=0)[0]}
    )


CLONEDPERSON = Entry(
    name="clonedperson",
    title="ClonedPerson",
    description="ClonedPerson (5,621 identities, drawn)",
    citation="Wang et al., Cloning Outfits from Real-World Images to 3D Characters for Generalizable Person "
    "Re-Identification, CVPR 2022",
    site="https://github.com/Yanan-Wang-cs/ClonedPerson",
    terms="a link in the README, which states no terms",
    parse=parse_clonedperson,
    choices={"cameras": ("own", "shared")},
)
CUHKSYSU = Entry(
    name="cuhksysu",
    title="CUHK-SYSU",
    description="CUHK-SYSU (people of photographs and films), for training only",
    citation="Xiao et al., Joint Detection and Identification Feature Learning for Person Search, CVPR 2017",
    site="https://github.com/JDAI-CV/fast-reid/blob/master/fastreid/data/datasets/cuhk_sysu.py",
    terms="the images cut out are read as fast-reid reads them; no terms that we read; ask the authors before any use "
    "beyond research",
    parse=parse_cuhksysu,
)
RANDPERSON = Entry(
    name="randperson",
    title="RandPerson",
    description="RandPerson (8,000 identities, drawn), for training only",
    citation="Wang et al., Surpassing Real-World Source Training Data: Random 3D Characters for Generalizable Person "
    "Re-Identification, arXiv:2006.12774, 2020",
    site="https://github.com/VideoObjectSearch/RandPerson",
    terms="a link in the README, which states no terms",
    parse=parse_randperson,
    published={"train": Counts(None, 132_145, None)},
)

ENTRIES = (CLONEDPERSON, CUHKSYSU, RANDPERSON)
