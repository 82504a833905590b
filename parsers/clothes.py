"""Data sets of people who change their clothes; every sample that can says what is worn (`Sample.clothes`).

How they are read and measured is that of github.com/guxinqian/Simple-CCReID at f773d01 (short: CAL), data/datasets/ and
test.py, with the protocols `changed_clothes` and `same_clothes`. A query that a protocol leaves without a match is
skipped. Counts stand here where their publisher's own page states them.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Iterator, Mapping

from parsers import base
from parsers.base import SUBSETS, Counts, Entry, Sample, Splits

NUMBER = re.compile(r"\d+")


def _people(entry: Entry, folder: str) -> Iterator[tuple[int, str]]:
    """(pid, path) of the folders of people in `folder`, sorted by name; ValueError for one whose name is no number."""
    names = base.list_folder(folder)[1]
    strange = [name for name in names if not NUMBER.fullmatch(name)]
    if strange:
        raise ValueError(
            f"{entry.name}: {len(strange):,} folders in {folder} are not called as people are, like 001: "
            f"{base.few(strange)}. Take them out."
        )
    yield from ((int(name), os.path.join(folder, name)) for name in names)


def _found(entry: Entry, folder: str, samples: Iterable[Sample], expected: str) -> tuple[Sample, ...]:
    """`samples` as a tuple; ValueError if there is none in `folder`."""
    made = tuple(samples)
    if not made:
        raise ValueError(
            f"{entry.name}: no {entry.title} images in {folder} (expected {expected}); {base.holds(folder)}. Unpack "
            "the archive again."
        )
    return made


# ============ PRCC ============

PRCC_CAMERAS = {"A": 1, "B": 2, "C": 3}
PRCC_CLOTHES = {"A": 1, "B": 1, "C": 2}
PRCC_TRIALS = 10


def parse_prcc(root: str, *, gallery: str = "draws", trial: int = 0, use_val: bool = False) -> Splits:
    """PRCC. `gallery`: `draws`, one image of each person, or `all` of camera A; `trial`: which of the draws, 0 to 9;
    `use_val`: train on the validation people too.

    Reference: Yang et al., "Person Re-identification by Contour Sketch under Moderate Clothing Change", TPAMI 2019.
    Published: nothing that we read in a file of its publisher. A person wears the same in cameras A and B, and other
        clothes in C. The test asks with the images of B and C for those of A: `changed_clothes` is the test of C,
        `same_clothes`, measured beside it, that of B. CAL's loader draws ten galleries of one image each with
        `random.seed(3)` and its test never reads them: what it prints is of `gallery=all`. The same draws are made here
        on images sorted by name; there they follow the order of the disk.
    Folders: rgb/train/, rgb/val/ with a folder per person and `A_cropped_rgb001.jpg` (camera); rgb/test/A/, B/ and C/
        with a folder per person.
    """
    folder = base.find_folder(
        PRCC, root, base.has_folders("rgb/train", "rgb/test/A"), "a folder with rgb/train/ and rgb/test/A/, B/ and C/"
    )
    rgb = os.path.join(folder, "rgb")
    lost = [f"test/{camera}/" for camera in PRCC_CAMERAS if not base.has_folders(f"test/{camera}")(rgb)]
    if use_val and not base.has_folders("val")(rgb):
        lost.append("val/")
    if lost:
        raise base.missing(PRCC, rgb, f"{base.few(lost)}, which the set has")
    train = tuple(s for part in ("train", "val")[: 1 + use_val] for s in _prcc_train(os.path.join(rgb, part)))
    test = {camera: _prcc_camera(os.path.join(rgb, "test", camera), camera) for camera in PRCC_CAMERAS}
    note = "gallery: all images of camera A, as CAL tests"
    if gallery == "draws":
        note = f"gallery {trial} of {PRCC_TRIALS}: one image of each person, drawn with seed 3"
    return Splits(
        PRCC.name,
        train,
        query=test["B"] + test["C"],
        gallery=_prcc_draw(test["A"], trial) if gallery == "draws" else test["A"],
        notes=(note, "queries of camera B wear the clothes of the gallery, those of C others"),
        protocol="changed_clothes",
        also=("same_clothes",),
    )


def _prcc_train(folder: str) -> Iterator[Sample]:
    for pid, person in _people(PRCC, folder):
        images = base.list_folder(person)[0]
        strange = [image for image in images if image[0] not in PRCC_CAMERAS]
        if strange:
            raise ValueError(
                f"prcc: {len(strange):,} of {len(images):,} images in {person} do not begin with their camera, A, B or "
                f"C: {base.few(strange)}. Take them out."
            )
        for image in images:
            camera = image[0]
            yield Sample(os.path.join(person, image), pid, PRCC_CAMERAS[camera], PRCC_CLOTHES[camera])


def _prcc_camera(folder: str, camera: str) -> tuple[Sample, ...]:
    """The test images of a camera."""
    samples = (
        Sample(os.path.join(person, image), pid, PRCC_CAMERAS[camera], PRCC_CLOTHES[camera])
        for pid, person in _people(PRCC, folder)
        for image in base.list_folder(person)[0]
    )
    return _found(PRCC, folder, samples, "a folder per person, 005/")


def _prcc_draw(images: Iterable[Sample], trial: int) -> tuple[Sample, ...]:
    """One image of each person: the draw `trial` of a generator that makes one after the other."""
    by_person: dict[int, list[Sample]] = {}
    for sample in images:
        by_person.setdefault(sample.pid, []).append(sample)
    rng = random.Random(3)
    draws = [tuple(rng.choice(each) for each in by_person.values()) for _ in range(trial + 1)]
    return draws[trial]


def _prcc_num_trials(options: Mapping[str, object]) -> int:
    return PRCC_TRIALS if options["gallery"] == "draws" else 1


# ============ LTCC ============

LTCC_FOLDERS = {"train": "train", "query": "query", "gallery": "test"}
LTCC_NAME = re.compile(r"(?P<pid>\d+)_(?P<clothes>\d+)_c(?P<camid>\d+)_")


def parse_ltcc(root: str) -> Splits:
    """LTCC.

    Reference: Qian et al., "Long-Term Cloth-Changing Person Re-identification", arXiv:2005.12633, 2020.
    Published: nothing that we read in a file of its publisher. `changed_clothes` is its cloth-changing test; the
        general one (protocol market1501) and that of the same clothes are measured beside it, as CAL does.
    Folders: train/, query/, test/ with `094_1_c9_015833.png` (pid, clothes of that person, camera, image).
    """
    folder = base.find_folder(
        LTCC, root, base.has_folders(*LTCC_FOLDERS.values()), "a folder with train/, query/, test/"
    )
    return _ltcc_splits(LTCC, folder)


def _ltcc_splits(entry: Entry, folder: str, notes: Iterable[str] = ()) -> Splits:
    """What a folder of LTCC's layout holds."""
    parts = {
        subset: base.read_folder(entry, os.path.join(folder, name), LTCC_NAME, "094_1_c9_015833.png")[0]
        for subset, name in LTCC_FOLDERS.items()
    }
    return base.by_subset(entry.name, parts, notes, protocol="changed_clothes", also=("market1501", "same_clothes"))


# ============ the built-in data set ============


def parse_synthetic_clothes(root: str | None = None, *, seed: int = 0) -> Splits:
    """The built-in people in two sets of clothes: procedural pedestrians, drawn on first use into `root` or the cache.

    Reference: `synthetic/sets.py`. Published: nothing; its numbers compare with nothing but themselves.
    Folders: as LTCC, whose protocols are measured.
    """
    from synthetic import sets  # draws with Pillow and numpy, which the other parsers do not need

    return _ltcc_splits(SYNTHETIC_CLOTHES, os.fspath(sets.CLOTHES.ensure(root, seed)), [base.DEMONSTRATION])


# ============ VC-Clothes ============

VC_NAME = re.compile(r"(?P<pid>\d+)-(?P<camid>\d+)-(?P<clothes>\d+)-\d+\.")
VC_CAMERAS = {"all": (1, 2, 3, 4), "same": (2, 3), "changed": (3, 4)}


def parse_vcclothes(root: str, *, cameras: str = "all") -> Splits:
    """VC-Clothes, drawn by a game. `cameras` of the test: `all`, `same` clothes (2 and 3), `changed` clothes (3 and 4).

    Reference: Wan et al., "When Person Re-identification Meets Changing Clothes", CVPRW 2020.
    Published: nothing that we read in a file of its publisher. All three tests go by camera alone: market1501.
    Folders: train/, query/, gallery/ with `0003-01-01-05.jpg` (pid, camera, clothes of that person, image).
    """
    folder = base.find_folder(VCCLOTHES, root, base.has_folders(*SUBSETS), "a folder with train/, query/ and gallery/")
    parts = {
        subset: base.read_folder(VCCLOTHES, os.path.join(folder, subset), VC_NAME, "0003-01-01-05.jpg")[0]
        for subset in SUBSETS
    }
    seen = VC_CAMERAS[cameras]
    for subset in ("query", "gallery"):
        there = (sample for sample in parts[subset] if sample.camid in seen)
        parts[subset] = _found(VCCLOTHES, os.path.join(folder, subset), there, f"images of cameras {base.few(seen)}")
    also = ("changed_clothes", "same_clothes") if cameras == "all" else ()
    return base.by_subset(VCCLOTHES.name, parts, [f"test cameras {', '.join(map(str, seen))}"], also=also)


# ============ CCVID ============

CCVID_LINE = re.compile(r"(?P<session>session(\d+))/(?P<tracklet>\w+_(?P<camid>\d+))\s+(?P<pid>\d+)\s+(?P<clothes>\S+)")


def parse_ccvid(root: str) -> Splits:
    """CCVID, tracklets of gait sequences.

    Reference: Gu et al., "Clothes-Changing Person Re-identification with RGB Modality Only", CVPR 2022.
    Published: nothing that we read in a file of its publisher. The number behind a tracklet's name is its camera; those
        of session 3 count from 13 on (CAL, data/datasets/ccvid.py). `changed_clothes` is measured, and beside it the
        general test and that of the same clothes.
    Folders: session1/, session2/, session3/ with a folder of frames per tracklet, session1/001_01/00001.jpg;
        train.txt, query.txt and gallery.txt with lines `session1/001_01 001 u0_l0_s0_c0_a0`: tracklet, pid, clothes of
        that person, which are numbered here in the order of these words.
    """

    def fits(folder: str) -> bool:
        return all(os.path.isfile(os.path.join(folder, f"{subset}.txt")) for subset in SUBSETS) and any(
            base.has_folders(f"session{number}")(folder) for number in (1, 2, 3)
        )

    folder = base.find_folder(CCVID, root, fits, "a folder with session1/, train.txt, query.txt and gallery.txt")
    lines = {subset: _ccvid_lines(os.path.join(folder, f"{subset}.txt")) for subset in SUBSETS}
    number = _numbered(match["clothes"] for part in lines.values() for match in part)
    empty: list[str] = []
    parts = {}
    for subset, matches in lines.items():
        samples = []
        for match in matches:
            place = os.path.join(folder, match["session"], match["tracklet"])
            images = base.list_folder(place)[0] if os.path.isdir(place) else []
            empty += [] if images else [f"{match['session']}/{match['tracklet']}"]
            camid = int(match["camid"]) + (12 if match["session"] == "session3" else 0)
            frames = tuple(os.path.join(place, image) for image in images)
            samples.append(Sample(frames, int(match["pid"]), camid, number[match["clothes"]]))
        parts[subset] = tuple(samples)
    if empty:
        raise FileNotFoundError(
            f"ccvid: {len(empty):,} tracklets of the lists have no frames in {folder}: {base.few(empty)}. Unpack the "
            "archive again."
        )
    return base.by_subset(CCVID.name, parts, protocol="changed_clothes", also=("market1501", "same_clothes"))


def _ccvid_lines(path: str) -> list[re.Match]:
    found = []
    for number, line in enumerate(base.read_text(CCVID, path).split("\n"), 1):
        match = CCVID_LINE.fullmatch(line.strip())
        if line.strip() and match is None:
            example = "session1/001_01 001 u0_l0_s0_c0_a0"
            raise ValueError(f"ccvid: line {number} of {path} does not read like {example!r}: {line.strip()!r}")
        found += [match] if match else []
    if not found:
        raise ValueError(f"ccvid: {path} is empty. Unpack the archive again.")
    return found


def _numbered(words: Iterable[str]) -> dict[str, int]:
    """Word -> its place in their order, from 0."""
    return {word: place for place, word in enumerate(sorted({*words}))}


# ============ LaST ============

LAST_NAME = re.compile(r"(?P<pid>\d+)(?:_[^_.]+)*_(?P<clothes>[^_.]+)\.")


def parse_last(root: str, *, part: str = "test") -> Splits:
    """LaST, people in films. `part` to be tested: `test` or `val`.

    Reference: Shu et al., "Large-Scale Spatio-Temporal Person Re-identification: Algorithm and Benchmark", TCSVT 2022.
    Published: 5,000 identities / 71,248 images for training; validation 56 / 21,379; test 5,806 / 135,529, queries and
        gallery together (README.md of github.com/shuxjweb/last at 041dd55). Only training tells clothes apart, and no
        image says which camera took it: every right image counts (protocol none), as in CAL, which counts each image as
        a camera of its own.
    Folders: train/ with a folder per person and names that begin with the pid and end with the clothes,
        `000001_0_00_01_02.jpg`; test/query/ with such images, test/gallery/ with a folder per person; val/ likewise.
    """
    folder = base.find_folder(
        LAST,
        root,
        base.has_folders("train", f"{part}/query", f"{part}/gallery"),
        f"a folder with train/, {part}/query/ and {part}/gallery/",
    )
    query, _ = base.read_folder(LAST, os.path.join(folder, part, "query"), re.compile(r"(\d+)_"), "000001_0_1.jpg", 0)
    return Splits(
        LAST.name,
        _last_people(os.path.join(folder, "train"), worn=True),
        query,
        _last_people(os.path.join(folder, part, "gallery"), worn=False),
        published=LAST.published if part == "test" else None,
        notes=(f"tested on its {part} part",),
        protocol="none",
    )


def _last_people(folder: str, worn: bool) -> tuple[Sample, ...]:
    """The images of a folder of folders; `worn`: with the clothes at the end of their names."""
    images = [(person, image) for _, person in _people(LAST, folder) for image in base.list_folder(person)[0]]
    matches = [LAST_NAME.match(image) for _, image in images]
    bad = [os.path.join(*place) for place, match in zip(images, matches, strict=True) if match is None]
    number = _numbered(match["clothes"] for match in matches if match)
    if bad:
        raise ValueError(
            f"last: {len(bad):,} images below {folder} have names that do not read like 000001_0_00_01_02.jpg: "
            f"{base.few(bad)}. Take them out."
        )
    samples = (
        Sample(os.path.join(*place), int(match["pid"]), 0, number[match["clothes"]] if worn else None)
        for place, match in zip(images, matches, strict=True)
        if match
    )
    return _found(LAST, folder, samples, "a folder per person")


# ============ DeepChange ============

DEEPCHANGE_LINE = re.compile(r"(?P<path>[A-Z](?P<pid>\d+)_[A-Z]\d+_(?P<clothes>[^_.,]+)[^,]*),(?P<tracklet>\d+)(,.*)?")


def parse_deepchange(root: str, *, part: str = "test") -> Splits:
    """DeepChange, a year in one street. `part` to be tested: `test` or `val`.

    Reference: Xu and Zhu, "DeepChange: A Long-Term Person Re-Identification Benchmark with Clothes Change",
        arXiv:2105.14685, 2021.
    Published: 1,121 identities and 178,407 images of 17 cameras in all (README.md of
        github.com/PengBoXiangShang/deepchange at 0d93ff7). A right image may come from the query's own camera, but not
        from its own tracklet: the number of the tracklet stands in the place of the camera, here as in CAL
        (data/datasets/deepchange.py), and the protocol is market1501. So the table counts tracklets as cameras.
    Folders: train-set/, test-set-query/, test-set-gallery/ (and val-set-query/, val-set-gallery/); for each a list,
        train-set-bbox.txt, with lines `P0001_C01_D20_0001.jpg,17`: person, camera, clothes, tracklet. Clothes are
        numbered in the order of their words.
    """
    names = {"train": "train-set", "query": f"{part}-set-query", "gallery": f"{part}-set-gallery"}
    folder = base.find_folder(
        DEEPCHANGE,
        root,
        base.has_folders(*names.values()),
        f"a folder with {', '.join(f'{name}/' for name in names.values())}",
    )
    parts = {subset: _deepchange_list(folder, name) for subset, name in names.items()}
    number = _numbered(worn for samples in parts.values() for _, worn in samples)
    made = {
        subset: tuple(Sample(sample.path, sample.pid, sample.camid, number[worn]) for sample, worn in samples)
        for subset, samples in parts.items()
    }
    return base.by_subset(DEEPCHANGE.name, made, [f"tested on its {part} part; tracklets are counted as cameras"])


def _deepchange_list(folder: str, name: str) -> list[tuple[Sample, str]]:
    """(sample, word for its clothes) of each line of a list."""
    path, listings, found, lost = os.path.join(folder, f"{name}-bbox.txt"), base.FolderListings(), [], []
    if not os.path.isfile(path):
        raise base.missing(DEEPCHANGE, folder, f"{name}-bbox.txt")
    for number, line in enumerate(base.read_text(DEEPCHANGE, path).split("\n"), 1):
        match = DEEPCHANGE_LINE.fullmatch(line.strip())
        if match:
            there = listings.has(os.path.join(folder, name), match["path"])
            lost += [] if there else [match["path"]]
            image = os.path.join(folder, name, match["path"])
            found.append((Sample(image, int(match["pid"]), int(match["tracklet"])), match["clothes"]))
        elif line.strip():
            example = "P0001_C01_D20_0001.jpg,17"
            raise ValueError(f"deepchange: line {number} of {path} does not read like {example!r}: {line.strip()!r}")
    if lost or not found:
        what = f"{len(lost):,} of the {len(found):,} images of {path} are not there: {base.few(lost)}"
        raise FileNotFoundError(f"deepchange: {what if lost else f'{path} is empty'}. Unpack the archive again.")
    return found


# ============ the rows of the registry ============

CCVID = Entry(
    name="ccvid",
    title="CCVID",
    description="CCVID (people who change clothes, 3 sessions, tracklets)",
    citation="Gu et al., Clothes-Changing Person Re-identification with RGB Modality Only, CVPR 2022",
    site="https://github.com/guxinqian/Simple-CCReID",
    terms="a link in the README, which states no terms; ask the authors before any use beyond research",
    parse=parse_ccvid,
)
DEEPCHANGE = Entry(
    name="deepchange",
    title="DeepChange",
    description="DeepChange (1,121 identities over a year, 17 cameras, clothes change)",
    citation="Xu and Zhu, DeepChange: A Long-Term Person Re-Identification Benchmark with Clothes Change, "
    "arXiv:2105.14685, 2021",
    site="https://github.com/PengBoXiangShang/deepchange",
    terms="for non-commercial research only, with a signed agreement; faces are to be covered in what is shown",
    parse=parse_deepchange,
    choices={"part": ("test", "val")},
    aliases=("deepchangedataset",),
)
LAST = Entry(
    name="last",
    title="LaST",
    description="LaST (5,000/5,806 identities in films, clothes change)",
    citation="Shu et al., Large-Scale Spatio-Temporal Person Re-identification: Algorithm and Benchmark, TCSVT 2022",
    site="https://github.com/shuxjweb/last",
    terms="for academic research only",
    parse=parse_last,
    published={
        "train": Counts(5_000, 71_248, None),
        "query": Counts(None, None, None),
        "gallery": Counts(None, None, None),
    },
    choices={"part": ("test", "val")},
)
LTCC = Entry(
    name="ltcc",
    title="LTCC",
    description="LTCC (people who change clothes, 12 cameras)",
    citation="Qian et al., Long-Term Cloth-Changing Person Re-identification, arXiv:2005.12633, 2020",
    site="https://naiq.github.io/LTCC_Perosn_ReID.html",
    terms="no terms that we read; ask the authors before any use beyond research",
    parse=parse_ltcc,
    aliases=("ltccreid",),
)
PRCC = Entry(
    name="prcc",
    title="PRCC",
    description="PRCC (people in two sets of clothes, 3 cameras, 10 gallery draws)",
    citation="Yang et al., Person Re-identification by Contour Sketch under Moderate Clothing Change, TPAMI 2019",
    site="https://drive.google.com/file/d/1yTYawRm4ap3M-j0PjLQJ--xmZHseFDLz/view",
    terms="no terms that we read; ask the authors before any use beyond research",
    parse=parse_prcc,
    choices={"gallery": ("draws", "all")},
    num_trials=_prcc_num_trials,
)
SYNTHETIC_CLOTHES = Entry(
    name="syntheticclothes",
    title="built-in demonstration set, clothes",
    description="pedestrians in two sets of clothes drawn by this program; a demonstration, not a benchmark",
    parse=parse_synthetic_clothes,
    needs_path=False,
)
VCCLOTHES = Entry(
    name="vcclothes",
    title="VC-Clothes",
    description="VC-Clothes (people of a game who change clothes, 4 cameras)",
    citation="Wan et al., When Person Re-identification Meets Changing Clothes, CVPRW 2020",
    site="https://wanfb.github.io/dataset.html",
    terms="no terms that we read; ask the authors before any use beyond research",
    parse=parse_vcclothes,
    choices={"cameras": tuple(VC_CAMERAS)},
)

ENTRIES = (CCVID, DEEPCHANGE, LAST, LTCC, PRCC, SYNTHETIC_CLOTHES, VCCLOTHES)
