"""Image data sets with one published split: Market-1501 and those in its layout, CUHK03, MSMT17, occluded, partial."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from machine import packages
from machine.progress import Progress
from parsers import base
from parsers.base import SUBSETS, Counts, Entry, Sample, Splits

# ============ Market-1501 and those published in its layout ============

MARKET_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
MARKET_LOOKED_FOR = "a folder with bounding_box_train/, or with query/ and bounding_box_test/"
MARKET_NAME = re.compile(r"(-1|\d+)_c(\d+)s\d+_\d+_\d+\.")  # 0002_c1s1_000451_03.jpg, -1_c3s2_102834_01.jpg.jpg
DUKE_NAME = re.compile(r"(\d+)_c(\d+)_f\d+\.")  # 0001_c2_f0046182.jpg
DUKE_LINE = re.compile(r"(?P<path>(?P<pid>\d+)_c(?P<camid>\d+)_f\d+\..*)")
CUHK03_NAME = re.compile(r"(\d+)_c(\d+)_\d+\.")  # 0001_c1_1.png


def _market_layout(folder: str) -> bool:
    there = {subset for subset, each in MARKET_FOLDERS.items() if os.path.isdir(os.path.join(folder, each))}
    return "train" in there or {"query", "gallery"} <= there


def _market_splits(
    entry: Entry, folder: str, pattern: re.Pattern, example: str, notes: Iterable[str] = (), **fields: Any
) -> Splits:
    """Read a folder in Market-1501's layout. `pattern` has two groups, pid and camera; `example` is a name it reads.

    `fields`: further fields of `Splits`.
    """
    places = {subset: os.path.join(folder, name) for subset, name in MARKET_FOLDERS.items()}
    there = [subset for subset, place in places.items() if os.path.isdir(place)]
    if ("query" in there) != ("gallery" in there):
        raise base.missing(entry, folder, "query/ and bounding_box_test/, of which one is not there")
    read = {subset: base.read_folder(entry, places[subset], pattern, example) for subset in there}
    num_junk = sum(junk for _, junk in read.values())
    notes = [*notes, *([f"{num_junk:,} junk images (pid -1) left out"] if num_junk else [])]
    return base.by_subset(entry.name, {subset: samples for subset, (samples, _) in read.items()}, notes, **fields)


MARKET_PUBLISHED = {"train": Counts(751, 12_936, 6), "query": Counts(750, 3_368, 6), "gallery": Counts(750, 15_913, 6)}


def parse_market(root: str, *, distractors: bool = False, multi_query: bool = False) -> Splits:
    """Market-1501. `distractors`: add the 500k distractors to the gallery. `multi_query`: fill `Splits.multi_query`.

    Reference: Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015.
    Published: 751 identities / 12,936 images for training; 750 / 3,368 queries; 19,732 gallery images (readme.txt of
        the archive), of which 3,819 are junk (pid -1, counted here), which leaves the 15,913 that torchreid states,
        with 2,798 distractors (pid 0) among them; 6 cameras; 25,259 images in gt_bbox/ (readme.txt).
    Folders: bounding_box_train/, query/, bounding_box_test/ with `0002_c1s1_000451_03.jpg` (pid, camera and sequence,
        frame, box). The archive has names that end in `.jpg.jpg`, and a `Thumbs.db` in each folder.
        gt_bbox/: boxes drawn by hand, named alike; a query with all of its person's in its camera is a "multi-query".
        images/: what distractors_500k.zip unpacks to; every image of it is pid 0, whatever its name.
    """
    folder = base.find_folder(MARKET, root, _market_layout, MARKET_LOOKED_FOR)
    splits = _market_splits(
        MARKET, folder, MARKET_NAME, "0002_c1s1_000451_03.jpg", published=MARKET_PUBLISHED, distractor_pid=0
    )
    if multi_query:
        splits = dataclasses.replace(splits, multi_query=_market_multi_query(folder, splits.query))
    if not distractors:
        return splits
    more = _market_distractors(root, folder)
    return dataclasses.replace(
        splits,
        gallery=splits.gallery + more,
        published={**MARKET_PUBLISHED, "gallery": Counts(750, None, None)},
        notes=(*splits.notes, f"with {len(more):,} images of distractors_500k in the gallery"),
    )


def _market_distractors(root: str, folder: str) -> tuple[Sample, ...]:
    """Images of the folder images/, in or beside Market-1501, as pid 0; the camera only if the name gives one."""
    for place in dict.fromkeys(os.path.join(each, "images") for each in (folder, os.path.dirname(folder), root)):
        images = base.list_folder(place)[0] if os.path.isdir(place) else []
        if images:
            cameras = [re.search(r"_c(\d+)", image) for image in images]
            return tuple(
                Sample(os.path.join(place, image), 0, int(camera[1]) if camera else 0)
                for image, camera in zip(images, cameras, strict=True)
            )
    looked_for = "images/ with the 500k distractors (distractors_500k.zip of the publisher, unpacked here)"
    raise base.missing(MARKET, folder, f"{looked_for}, since they were asked for")


def _market_multi_query(folder: str, query: Sequence[Sample]) -> tuple[tuple[Sample, ...], ...]:
    """For each query the hand-drawn boxes of its person in its camera, the query among them."""
    if not os.path.isdir(os.path.join(folder, "gt_bbox")):
        raise base.missing(MARKET, folder, "gt_bbox/, the images of the multi-query protocol")
    boxes = defaultdict(list)
    for sample in base.read_folder(MARKET, os.path.join(folder, "gt_bbox"), MARKET_NAME, "0001_c1s1_001051_00.jpg")[0]:
        boxes[sample.pid, sample.camid].append(sample)
    alone = [os.path.basename(q.frames[0]) for q in query if (q.pid, q.camid) not in boxes]
    if alone:
        raise ValueError(
            f"market: gt_bbox/ has no image of the person and camera of {len(alone):,} queries: "
            f"{base.few(alone)}. Unpack the archive again."
        )
    return tuple(tuple(boxes[q.pid, q.camid]) for q in query)


DUKE_PUBLISHED = {"train": Counts(702, 16_522, 8), "query": Counts(702, 2_228, 8), "gallery": Counts(1_110, 17_661, 8)}
DUKE_TERMS = (
    "It was withdrawn by its authors in 2019 because of the privacy of those filmed and is not offered any "
    "more; existing copies are read for comparison with published results."
)


def parse_duke(root: str) -> Splits:
    """DukeMTMC-reID. Withdrawn by its authors in 2019.

    Reference: Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", ECCVW
        2016; Zheng et al., "Unlabeled Samples Generated by GAN Improve the Person Re-identification Baseline in vitro",
        ICCV 2017.
    Published: 702 identities / 16,522 images for training; 702 / 2,228 queries; 17,661 gallery images (torchreid) of
        1,110 identities, the 702 and 408 more that are in one camera only and serve as distractors; 8 cameras.
    Folders: as Market-1501, with `0001_c2_f0046182.jpg` (pid, camera, frame).
    """
    folder = base.find_folder(DUKE, root, _market_layout, MARKET_LOOKED_FOR)
    return _market_splits(DUKE, folder, DUKE_NAME, "0001_c2_f0046182.jpg", published=DUKE_PUBLISHED)


OCCLUDED_DUKE_PUBLISHED = {
    "train": Counts(702, 15_618, 8),
    "query": Counts(519, 2_210, 8),
    "gallery": Counts(1_110, 17_661, 8),
}
OCCLUDED_DUKE_LISTS = {subset: f"{subset}.list" for subset in SUBSETS}


def parse_occluded_duke(root: str) -> Splits:
    """Occluded-DukeMTMC: DukeMTMC-reID divided anew, so that every query is occluded. Withdrawn with DukeMTMC.

    Reference: Miao et al., "Pose-Guided Feature Alignment for Occluded Person Re-Identification", ICCV 2019.
    Published: 702 identities / 15,618 images for training; 519 / 2,210 queries; 1,110 / 17,661 gallery images;
        8 cameras (counted in the lists of github.com/lightas/Occluded-DukeMTMC-Dataset at dcba185).
    Folders: as Market-1501 with DukeMTMC-reID's names, which is what the publisher's script makes; or, without running
        it, his train.list, query.list and gallery.list (one name per line) in a folder with DukeMTMC-reID in or below
        it. As in the script, an image that is not in its own folder is one of bounding_box_test/.
    """
    looked_for = f"{MARKET_LOOKED_FOR}; or for train.list, query.list and gallery.list above the folder DukeMTMC-reID"

    def listed(folder: str) -> bool:
        return all(os.path.isfile(os.path.join(folder, each)) for each in OCCLUDED_DUKE_LISTS.values())

    folder = base.find_folder(OCCLUDED_DUKE, root, lambda folder: listed(folder) or _market_layout(folder), looked_for)
    if _market_layout(folder):
        return _market_splits(
            OCCLUDED_DUKE, folder, DUKE_NAME, "0001_c2_f0046182.jpg", published=OCCLUDED_DUKE_PUBLISHED
        )
    duke = base.find_folder(OCCLUDED_DUKE, folder, _market_layout, f"the images of DukeMTMC-reID: {MARKET_LOOKED_FOR}")

    def listed_samples(subset: str) -> tuple[Sample, ...]:
        places = [os.path.join(duke, MARKET_FOLDERS[each]) for each in (subset, "gallery")]
        path = os.path.join(folder, OCCLUDED_DUKE_LISTS[subset])
        return base.read_list(OCCLUDED_DUKE, path, places, DUKE_LINE, "0001_c2_f0046182.jpg")

    train, query, gallery = (listed_samples(subset) for subset in SUBSETS)
    notes = ("made from the publisher's lists and DukeMTMC-reID",)
    return Splits(OCCLUDED_DUKE.name, train, query, gallery, OCCLUDED_DUKE_PUBLISHED, notes)


PDUKE_FOLDERS = ("occluded_body_images", "whole_body_images")  # cameras 1 and 2 of the parser
PDUKE_NAME = re.compile(r"(\d+)_")


def parse_pduke(root: str) -> Splits:
    """P-DukeMTMC-reID: images of DukeMTMC of occluded people, and whole ones of them. Withdrawn with DukeMTMC.

    Reference: Zhuo et al., "Occluded Person Re-identification", ICME 2018.
    Published: 24,143 images of 1,299 identities in all, each with occluded and whole images (README.md of
        github.com/tinajia2012/ICME2018_Occluded-Person-Reidentification_datasets at 61e54da), not how they are divided.
    Folders: train/ and test/, each with occluded_body_images/ and whole_body_images/, a folder per person in these, and
        names that begin with the pid, `0001_1_25.jpg`. Occluded images ask for whole ones; they count as cameras 1 and
        2, so that every whole image of the person is right (as in BPBReID c0db006,
        torchreid/data/datasets/image/p_dukemtmc_reid.py).
    """
    folder = base.find_folder(
        PDUKE,
        root,
        base.has_folders(*(f"{part}/{name}" for part in ("train", "test") for name in PDUKE_FOLDERS)),
        "a folder with train/ and test/, each with occluded_body_images/ and whole_body_images/",
    )
    parts = {
        (part, name): _pduke_images(os.path.join(folder, part, name), camera)
        for part in ("train", "test")
        for camera, name in enumerate(PDUKE_FOLDERS, 1)
    }
    occluded, whole = PDUKE_FOLDERS
    train = parts["train", occluded] + parts["train", whole]
    return Splits(PDUKE.name, train, parts["test", occluded], parts["test", whole])


def _pduke_images(folder: str, camera: int) -> tuple[Sample, ...]:
    """The images of the folders of people in `folder`, all of one camera."""
    people = [os.path.join(folder, name) for name in base.list_folder(folder)[1]]
    if not people:
        raise base.missing(PDUKE, folder, "a folder per person")
    read = (base.read_folder(PDUKE, person, PDUKE_NAME, "0001_1_25.jpg", camid=camera)[0] for person in people)
    return tuple(sample for samples in read for sample in samples)


def parse_synthetic(root: str | None = None, *, seed: int = 0) -> Splits:
    """The built-in data set: procedural pedestrians, drawn on first use into `root` or the cache; a demonstration.

    Reference: `synthetic/pictures.py`. Published: nothing; its numbers compare with nothing but themselves.
    Folders: as Market-1501, with names like `0002_c1s1_000451_03.jpg`.
    """
    from synthetic import pictures  # draws with Pillow and numpy, which the other parsers do not need

    folder = os.fspath(pictures.PICTURES.ensure(root, seed))
    return _market_splits(
        SYNTHETIC,
        folder,
        MARKET_NAME,
        "0002_c1s1_000451_03.jpg",
        distractor_pid=0,
        notes=(base.DEMONSTRATION,),
    )


# ============ CUHK03 ============

CUHK03_PUBLISHED = {
    "detected": {"train": Counts(767, 7_365, 2), "query": Counts(700, 1_400, 2), "gallery": Counts(700, 5_332, 2)},
    "labeled": {"train": Counts(767, 7_368, 2), "query": Counts(700, 1_400, 2), "gallery": Counts(700, 5_328, 2)},
}
CUHK03_CLASSIC = {  # the number of images differs from split to split
    "train": Counts(1_367, None, 2),
    "query": Counts(100, None, 2),
    "gallery": Counts(100, None, 2),
}
CUHK03_IMAGE = re.compile(r"(\d)_(\d{3})_(\d)_(\d{2})\.png")  # 1_001_2_07.png: camera pair, person, view, image
CUHK03_MAT = "cuhk-03.mat"


def parse_cuhk03(root: str, *, labeled: bool = False, classic: bool = False, split: int = 0) -> Splits:
    """CUHK03, detected boxes or (`labeled`) boxes drawn by hand; new protocol or (`classic`) the first one, `split`
    0 to 19 of 20.

    Reference: Li et al., "DeepReID: Deep Filter Pairing Neural Network for Person Re-identification", CVPR 2014;
        Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017 (new protocol).
    Published: new protocol: 767 identities with 7,365 detected or 7,368 labeled images for training; 700 / 1,400
        queries; 700 / 5,332 detected or 5,328 labeled gallery images (github.com/zhunzhong07/person-re-ranking at
        278f2c7, CUHK03-NP/). Classic: 20 draws of 100 test identities out of 1,467 (843 + 440 + 77 + 58 + 49 of five
        camera pairs), the other 1,367 for training. As torchreid does, all images of the 100 are queries and gallery,
        and protocol `cuhk03` draws one gallery image of each identity.
        Five pairs of cameras filmed; only which of its pair's two views an image is counts as camera: 1 and 2.
    Folders: new protocol: detected/ and labeled/, each as Market-1501, with `0001_c1_1.png` (pid, view, image).
        Either protocol: the release cuhk-03.mat (HDF5), also within cuhk03_release/. Its images are written once to
        images_detected/ or images_labeled/ as `1_001_2_07.png` (pair, person, view, image: torchreid's names), which
        needs h5py. The new protocol also needs cuhk03_new_protocol_config_<version>.mat, from evaluation/data/CUHK03/
        of the repository above; its pids are 1 to 1,467, the classic ones pair and person: 1001 is person 1 of pair 1.
    """
    version = "labeled" if labeled else "detected"
    names = (version, "labelled") if labeled else (version,)

    def new_layout(folder: str) -> bool:
        return os.path.basename(folder).lower().endswith(names) and _market_layout(folder)

    def raw_layout(folder: str) -> bool:
        return _cuhk03_mat(folder) is not None or os.path.isdir(os.path.join(folder, f"images_{version}"))

    looked_for = f"{CUHK03_MAT} of the release or images_{version}/ made from it"
    if classic:
        return _cuhk03_classic(base.find_folder(CUHK03, root, raw_layout, looked_for), version, split)
    try:
        folder = base.find_folder(CUHK03, root, new_layout, looked_for, depth=3)
    except FileNotFoundError:  # the release is the second choice: reading it takes h5py and a minute
        looked_for = f"a folder {version}/ with bounding_box_train/, or query/ and bounding_box_test/; or {looked_for}"
        folder = base.find_folder(CUHK03, root, lambda each: new_layout(each) or raw_layout(each), looked_for, depth=3)
        return _cuhk03_new(folder, version)
    return _market_splits(
        CUHK03,
        folder,
        CUHK03_NAME,
        "0001_c1_1.png",
        published=CUHK03_PUBLISHED[version],
        notes=(f"{version} boxes, new protocol (767/700 identities)",),
    )


def _cuhk03_num_splits(options: Mapping[str, object]) -> int:
    return 20 if options["classic"] else 1


def _cuhk03_mat(folder: str) -> str | None:
    paths = (os.path.join(folder, CUHK03_MAT), os.path.join(folder, "cuhk03_release", CUHK03_MAT))
    return next((path for path in paths if os.path.isfile(path)), None)


def _cuhk03_new(folder: str, version: str) -> Splits:
    """The new protocol from the release: the authors' file says which image is what."""
    config = f"cuhk03_new_protocol_config_{version}.mat"
    path = base.find_file(folder, config)
    if path is None:
        where = "evaluation/data/CUHK03/ of https://github.com/zhunzhong07/person-re-ranking"
        raise base.missing(CUHK03, folder, f"{config} beside the release; it comes from {where}")
    images = _cuhk03_images(folder, version)
    columns = base.read_mat(CUHK03, path, "filelist", "labels", "camId", "train_idx", "query_idx", "gallery_idx")
    files, pids, views, *indices = (column.ravel() for column in columns)
    here = set(base.list_folder(images)[0])
    samples: dict[str, list[Sample]] = {subset: [] for subset in SUBSETS}
    lost = set()
    for subset, index in zip(SUBSETS, indices, strict=True):
        for row in (int(number) - 1 for number in index):  # MATLAB counts from 1
            name = str(files[row][0])
            lost |= {name} - here
            samples[subset].append(Sample(os.path.join(images, name), int(pids[row]), int(views[row])))
    if lost:
        raise FileNotFoundError(
            f"cuhk03: {len(lost):,} images of {path} are not in {images}: {base.few(lost)}. Delete that "
            f"folder; it is made again from {CUHK03_MAT}."
        )
    note = f"{version} boxes, new protocol (767/700 identities), from {CUHK03_MAT}"
    return base.by_subset(CUHK03.name, samples, [note], published=CUHK03_PUBLISHED[version])


def _cuhk03_classic(folder: str, version: str, split: int) -> Splits:
    """One of the 20 draws of 100 people that the release holds."""
    images = _cuhk03_images(folder, version)
    samples, bad = [], []
    for name in base.list_folder(images)[0]:
        match = CUHK03_IMAGE.fullmatch(name)
        if match is None:
            bad.append(name)
        else:
            pair, person, view, _ = map(int, match.groups())
            samples.append(Sample(os.path.join(images, name), 1000 * pair + person, view))
    if bad or not samples:
        raise ValueError(
            f"cuhk03: {len(bad):,} names in {images} do not read like 1_001_2_07.png: {base.few(bad)}. "
            f"{base.holds(images)}. Delete that folder; it is made again from {CUHK03_MAT}."
        )
    people = {sample.pid for sample in samples}

    def publishers() -> list[dict[str, list[int]]]:
        tests = _cuhk03_testsets(folder)
        return [{"train": sorted(people - set(test)), "test": test} for test in tests]

    splits, source = base.kept_splits(CUHK03, folder, people, 20, f"testsets of {CUHK03_MAT}", publishers)
    test = base.of_people(samples, splits[split]["test"])
    return Splits(
        CUHK03.name,
        base.of_people(samples, splits[split]["train"]),
        test,
        test,
        CUHK03_CLASSIC,
        (
            f"{version} boxes, classic protocol (1,367/100 identities)",
            f"split {split} of {len(splits)}: {source}",
            "every test image is query and gallery; one gallery image per identity is drawn by protocol cuhk03",
        ),
        protocol="cuhk03",
    )


def _open_cuhk03(folder: str):
    """The release as an open HDF5 file."""
    path = _cuhk03_mat(folder)
    if path is None:
        raise base.missing(CUHK03, folder, f"{CUHK03_MAT}, the release in one file, which is needed once")
    packages.demand("h5py", f"cuhk03: {path} is an HDF5 file, which")
    import h5py  # needed for this file alone

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"cuhk03: {path} cannot be read as HDF5: {error}. Unpack the archive again.") from None


def _cuhk03_testsets(folder: str) -> list[list[int]]:
    """The pids of each test set. A MATLAB cell of 20 matrices (100, 2) of pair and person is here (1, 20) references
    to transposed ones."""
    with _open_cuhk03(folder) as mat:
        matrices = [mat[reference][()] for reference in mat["testsets"][0]]  # (2, 100) each
    return [sorted(1000 * int(pair) + int(person) for pair, person in matrix.T) for matrix in matrices]


def _cuhk03_images(folder: str, version: str) -> str:
    """The folder of images, written now if they are not there: under another name first, so that it is whole."""
    images = base.place_for(CUHK03, folder, f"images_{version}")
    if os.path.isdir(images):
        return images
    temporary = tempfile.mkdtemp(prefix=f"images_{version}.part-", dir=os.path.dirname(images))
    try:
        with _open_cuhk03(folder) as mat:
            _write_cuhk03_images(mat, version, temporary)
        os.chmod(temporary, 0o755)  # mkdtemp's folders are private
        if not os.path.isdir(images):  # else another process was faster
            os.replace(temporary, images)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return images


def _write_cuhk03_images(mat, version: str, folder: str) -> None:
    """Cell `version` of the release holds five cells (people, 10): images 1 to 5 are of view 1, 6 to 10 of view 2."""
    from PIL import Image

    if version not in mat:
        raise ValueError(f"cuhk03: {mat.filename} has no variable {version}. Unpack the archive again.")
    pairs = [mat[reference] for reference in mat[version][0]]  # (10, people) references each
    total = sum(cells.size for cells in pairs)
    with Progress(total, f"writing CUHK03 {version}") as progress:
        for pair, cells in enumerate(pairs, 1):
            for number, row in enumerate(cells[()], 1):  # (people,)
                for person, reference in enumerate(row, 1):
                    pixels = mat[reference]
                    if pixels.ndim == 3:  # an empty cell is stored as its size, a vector
                        name = f"{pair}_{person:03d}_{1 if number <= 5 else 2}_{number:02d}.png"
                        image = Image.fromarray(pixels[()].T)  # (3, w, h) -> (h, w, 3)
                        image.save(os.path.join(folder, name), compress_level=1)
                    progress.update()


# ============ MSMT17 ============

MSMT17_FOLDERS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
MSMT17_LINE = re.compile(r"(?P<path>(?:.*/)?\d+_\d+_(?P<camid>\d+)_[^/]+)\s+(?P<pid>\d+)")
MSMT17_TRAIN = {False: Counts(1_041, 30_248, 15), True: Counts(1_041, 32_621, 15)}  # by use_val
MSMT17_TEST = {"query": Counts(3_060, 11_659, 15), "gallery": Counts(3_060, 82_161, 15)}


def parse_msmt17(root: str, *, use_val: bool = False) -> Splits:
    """MSMT17, version 1 or 2 (the same images with the faces masked). `use_val`: train on the validation images too.

    Reference: Wei et al., "Person Transfer GAN to Bridge Domain Gap for Person Re-Identification", CVPR 2018.
    Published: 1,041 identities / 32,621 images for training, which the lists divide into 30,248 (list_train) and 2,373
        (list_val) images of the same 1,041 people; 3,060 / 11,659 queries; 3,060 / 82,161 gallery images; 15 cameras.
        Counted in the publisher's lists; torchreid, fast-reid and BoT state the same totals.
        Practice differs: torchreid, fast-reid and BoT train on list_train alone, as the default here does, so that
        their published results compare; CLIP-ReID at 4c0eb20 (datasets/msmt17.py) on all 32,621 (`use_val=True`).
    Folders: train/ and test/ (V1) or mask_train_v2/ and mask_test_v2/ (V2), each with one folder per identity; beside
        them list_train.txt, list_val.txt, list_query.txt and list_gallery.txt with lines
        `0000/0000_000_01_0303morning_0015_0.jpg 0`: path, pid; the camera is the name's third field.
        Training and test number their identities from 0 each: pid 7 of one is not pid 7 of the other.
    """
    looked_for = (
        "list_train.txt, list_val.txt, list_query.txt and list_gallery.txt beside train/ and test/ (V1) "
        "or mask_train_v2/ and mask_test_v2/ (V2)"
    )

    def fits(folder: str) -> bool:
        return any(os.path.isfile(os.path.join(folder, f"list_{part}.txt")) for part in ("train", "query", "gallery"))

    folder = base.find_folder(MSMT17, root, fits, looked_for)
    versions = {
        version: there
        for version, names in MSMT17_FOLDERS.items()
        if any(there := [os.path.isdir(os.path.join(folder, name)) for name in names])
    }
    if len(versions) != 1:
        raise base.missing(MSMT17, folder, f"the image folders of one version: {looked_for}")
    version, (has_train, has_test) = versions.popitem()
    train_folder, test_folder = (os.path.join(folder, name) for name in MSMT17_FOLDERS[version])
    samples = {}
    if has_train:
        samples["train"] = _read_msmt17_list(folder, "train", train_folder)
        samples["train"] += _read_msmt17_list(folder, "val", train_folder) if use_val else ()
    if has_test:
        samples |= {subset: _read_msmt17_list(folder, subset, test_folder) for subset in ("query", "gallery")}
    used = "list_train and list_val (32,621 images)" if use_val else "list_train only (30,248 images)"
    note = f"MSMT17 {version}; training images: {used}"
    published = {"train": MSMT17_TRAIN[use_val], **MSMT17_TEST}
    return base.by_subset(MSMT17.name, samples, [note], shared_pids=False, published=published)


def _read_msmt17_list(folder: str, part: str, image_folder: str) -> tuple[Sample, ...]:
    """The samples of list_<part>.txt, in its order. Every file is looked up: an archive half unpacked is an error."""
    path = os.path.join(folder, f"list_{part}.txt")
    if not os.path.isfile(path):
        advice = " (or load without --msmt17_use_val)" if part == "val" else ""
        raise base.missing(MSMT17, folder, f"list_{part}.txt, which comes in the publisher's archive{advice}")
    return base.read_list(MSMT17, path, [image_folder], MSMT17_LINE, "0000/0000_000_01_0303morning_0015_0.jpg 0")


# ============ for testing only: SenseReID, occluded and partial people ============

SENSEREID_NAME = re.compile(r"(\d+)_(\d+)\.")  # 00000_0.jpg
PID_NAME = re.compile(r"(\d+)(?=[_.])")  # 001_02.jpg, 001.jpg


def parse_sensereid(root: str) -> Splits:
    """SenseReID, for testing only.

    Reference: Zhao et al., "Spindle Net: Person Re-identification with Human Body Region Guided Feature Decomposition
        and Fusion", CVPR 2017.
    Published: 522 identities / 1,040 queries; 1,717 / 3,388 gallery images (torchreid, image/sensereid.py).
    Folders: test_probe/ and test_gallery/ with `<pid>_<camera>.jpg`.
    """
    folder = base.find_folder(
        SENSEREID, root, base.has_folders("test_probe", "test_gallery"), "a folder with test_probe/ and test_gallery/"
    )
    query, gallery = (
        base.read_folder(SENSEREID, os.path.join(folder, each), SENSEREID_NAME, "00000_0.jpg")[0]
        for each in ("test_probe", "test_gallery")
    )
    return Splits(SENSEREID.name, (), query, gallery, SENSEREID.published, ("made for testing only",))


def parse_occluded_reid(root: str) -> Splits:
    """Occluded-REID, for testing only: 5 occluded and 5 whole images of each person.

    Reference: Zhuo et al., "Occluded Person Re-identification", ICME 2018.
    Published: 200 identities / 1,000 occluded queries; 200 / 1,000 whole-body gallery images (fast-reid,
        projects/PartialReID/README.md).
    Folders: occluded_body_images/ and whole_body_images/, with a folder per person (001/001_01.tif) or without; or
        query/ and gallery/ as in fast-reid's archive. The names tell no camera: queries are camera 1, gallery 2.
    """
    return _two_folders(
        OCCLUDED_REID,
        root,
        [("occluded_body_images", "whole_body_images"), ("query", "gallery")],
        without="partial_body_images",
    )


def parse_partial_reid(root: str, *, query: str = "partial") -> Splits:
    """Partial-REID, for testing only. `query`: `partial` (cut by hand to what is visible) or `occluded` (before that).

    Reference: Zheng et al., "Partial Person Re-identification", ICCV 2015.
    Published: 60 identities / 300 queries; 60 / 300 whole-body gallery images (fast-reid,
        projects/PartialReID/README.md).
    Folders: partial_body_images/, occluded_body_images/ and whole_body_images/ with `001_001.jpg` (pid, image).
        The names tell no camera: queries are camera 1, gallery 2.
    """
    return _two_folders(
        PARTIAL_REID, root, [(f"{query}_body_images", "whole_body_images")], beside="partial_body_images"
    )


def parse_partial_ilids(root: str) -> Splits:
    """Partial-iLIDS, for testing only: one partial and one whole image of each person.

    Reference: Zheng, Gong and Xiang, "Person Re-identification by Probabilistic Relative Distance Comparison", CVPR
        2011 (i-LIDS); He et al., "Deep Spatial Feature Reconstruction for Partial Person Re-identification", CVPR 2018.
    Published: 119 identities / 119 queries; 119 / 119 gallery images (fast-reid, projects/PartialReID/README.md).
    Folders: Probe/ and Gallery/ with `001.jpg` (pid); or query/ and gallery/ as in fast-reid's archive.
        The names tell no camera: queries are camera 1, gallery 2.
    """
    return _two_folders(PARTIAL_ILIDS, root, [("Probe", "Gallery"), ("query", "gallery")])


def _two_folders(
    entry: Entry, root: str, choices: list[tuple[str, str]], without: str | None = None, beside: str | None = None
) -> Splits:
    """Query and gallery from the first pair of folders that is there. `without`, `beside`: a folder that a similar data
    set has and this one has not, and the reverse."""

    def fits(folder: str) -> bool:
        there = any(base.has_folders(*names)(folder) for names in choices)
        if without and base.has_folders(without)(folder):
            return False
        return there and (beside is None or base.has_folders(beside)(folder))

    folder = base.find_folder(
        entry, root, fits, "a folder with " + ", or with ".join(f"{q}/ and {g}/" for q, g in choices)
    )
    names = next(names for names in choices if base.has_folders(*names)(folder))
    query, gallery = (_read_people(entry, os.path.join(folder, name), camid) for camid, name in enumerate(names, 1))
    return Splits(
        entry.name,
        (),
        query,
        gallery,
        entry.published,
        ("made for testing only; the names tell no camera: queries are camera 1, gallery images camera 2",),
    )


def _read_people(entry: Entry, folder: str, camid: int) -> tuple[Sample, ...]:
    """Images named by pid, in one folder or in one per person."""
    images, folders = base.list_folder(folder)
    if images or not folders:
        return base.read_folder(entry, folder, PID_NAME, "001_01.jpg", camid)[0]
    parts = [base.read_folder(entry, os.path.join(folder, each), PID_NAME, "001_01.tif", camid)[0] for each in folders]
    return tuple(sample for part in parts for sample in part)


# ============ the rows of the registry ============

CUHK03 = Entry(
    name="cuhk03",
    title="CUHK03",
    description="CUHK03, new protocol (767/700 identities) or classic (1,367/100, 20 splits), detected or labeled",
    citation="Li et al., DeepReID: Deep Filter Pairing Neural Network for Person Re-identification, CVPR 2014; "
    "protocol: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017",
    site="https://github.com/zhunzhong07/person-re-ranking/tree/master/CUHK03-NP (new protocol) and "
    "http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html (release)",
    terms="the images show students of CUHK, whose privacy is to be respected; see the publisher's readme",
    parse=parse_cuhk03,
    published=CUHK03_PUBLISHED["detected"],
    aliases=("cuhk03np",),
    num_splits=_cuhk03_num_splits,
)
DUKE = Entry(
    name="duke",
    title="DukeMTMC-reID",
    description="DukeMTMC-reID (702/702 identities, 8 cameras); withdrawn by its authors",
    citation="Ristani et al., Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking, ECCVW "
    "2016; Zheng et al., Unlabeled Samples Generated by GAN Improve the Person Re-identification Baseline "
    "in vitro, ICCV 2017",
    site="",
    terms=DUKE_TERMS,
    parse=parse_duke,
    published=DUKE_PUBLISHED,
    aliases=("dukemtmc", "dukemtmcreid"),
)
MARKET = Entry(
    name="market",
    title="Market-1501",
    description="Market-1501 (751/750 identities, 6 cameras)",
    citation="Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015",
    site="http://www.liangzheng.org/Project/project_reid.html",
    terms="for research only; not to be passed on or used commercially (readme.txt of the archive)",
    parse=parse_market,
    published=MARKET_PUBLISHED,
    aliases=("market1501",),
)
MSMT17 = Entry(
    name="msmt17",
    title="MSMT17",
    description="MSMT17, V1 or V2 (1,041/3,060 identities, 15 cameras)",
    citation="Wei et al., Person Transfer GAN to Bridge Domain Gap for Person Re-Identification, CVPR 2018",
    site="http://www.pkuvmc.com/publications/msmt17.html",
    terms="on request to its authors",
    parse=parse_msmt17,
    published={"train": MSMT17_TRAIN[False], **MSMT17_TEST},
    aliases=("msmt", "msmt17v1", "msmt17v2"),
)
OCCLUDED_DUKE = Entry(
    name="occludedduke",
    title="Occluded-DukeMTMC",
    description="Occluded-DukeMTMC (702/519 identities, 8 cameras); withdrawn with DukeMTMC",
    citation="Miao et al., Pose-Guided Feature Alignment for Occluded Person Re-Identification, ICCV 2019",
    site="https://github.com/lightas/Occluded-DukeMTMC-Dataset",
    terms="name lists only, since DukeMTMC itself was withdrawn by its authors in 2019 because of the privacy of those "
    "filmed and is not offered any more",
    parse=parse_occluded_duke,
    published=OCCLUDED_DUKE_PUBLISHED,
    aliases=("occduke", "occludeddukemtmc", "occludeddukemtmcreid"),
)
OCCLUDED_REID = Entry(
    name="occludedreid",
    title="Occluded-REID",
    description="Occluded-REID (200 identities), for testing only",
    citation="Zhuo et al., Occluded Person Re-identification, ICME 2018",
    site="https://github.com/tinajia2012/ICME2018_Occluded-Person-Reidentification_datasets",
    terms="for academic or educational use, not commercial use; its authors ask for a signed agreement by e-mail and "
    "for a citation of the paper",
    parse=parse_occluded_reid,
    published={"query": Counts(200, 1_000, 1), "gallery": Counts(200, 1_000, 1)},
    aliases=("occreid",),
)
PARTIAL_ILIDS = Entry(
    name="partialilids",
    title="Partial-iLIDS",
    description="Partial-iLIDS (119 identities), for testing only",
    citation="Zheng, Gong and Xiang, Person Re-identification by Probabilistic Relative Distance Comparison, CVPR "
    "2011; He et al., Deep Spatial Feature Reconstruction for Partial Person Re-identification, CVPR 2018",
    site="https://github.com/JDAI-CV/fast-reid/tree/master/projects/PartialReID",
    terms="a link to an archive, on another server, with Partial-REID and Occluded-REID in it; no terms stated that "
    "we could find; ask the authors before any use beyond research",
    parse=parse_partial_ilids,
    published={"query": Counts(119, 119, 1), "gallery": Counts(119, 119, 1)},
)
PARTIAL_REID = Entry(
    name="partialreid",
    title="Partial-REID",
    description="Partial-REID (60 identities), for testing only",
    citation="Zheng et al., Partial Person Re-identification, ICCV 2015",
    site="https://github.com/JDAI-CV/fast-reid/tree/master/projects/PartialReID",
    terms="a link to an archive, on another server, with Partial-iLIDS and Occluded-REID in it; the address of its "
    "authors' own is http://isee.sysu.edu.cn/files/resource/Partial-REID_Dataset.rar; no terms stated that we "
    "could find; ask the authors before any use beyond research",
    parse=parse_partial_reid,
    published={"query": Counts(60, 300, 1), "gallery": Counts(60, 300, 1)},
    choices={"query": ("partial", "occluded")},
)
PDUKE = Entry(
    name="pduke",
    title="P-DukeMTMC-reID",
    description="P-DukeMTMC-reID (occluded people ask for whole ones); withdrawn with DukeMTMC",
    citation="Zhuo et al., Occluded Person Re-identification, ICME 2018",
    site="",
    terms="DukeMTMC and what was made from it was withdrawn by its authors in 2019 because of the privacy of those "
    "filmed and is not offered any more; existing copies are read for comparison with published results.",
    parse=parse_pduke,
    aliases=("pdukemtmc", "pdukemtmcreid"),
)
SENSEREID = Entry(
    name="sensereid",
    title="SenseReID",
    description="SenseReID (522 of 1,717 identities), for testing only",
    citation="Zhao et al., Spindle Net: Person Re-identification with Human Body Region Guided Feature Decomposition "
    "and Fusion, CVPR 2017",
    site="https://github.com/yokattame/SpindleNet/issues/1",
    terms="a link given by its author, who is to be asked for the set where the link fails; no terms stated that we "
    "could find; ask the authors before any use beyond research",
    parse=parse_sensereid,
    published={"query": Counts(522, 1_040, None), "gallery": Counts(1_717, 3_388, None)},
)
SYNTHETIC = Entry(
    name="synthetic",
    title="built-in demonstration set",
    description="pedestrians drawn by this program, made on first use; a demonstration, not a benchmark",
    parse=parse_synthetic,
    needs_path=False,
)

ENTRIES = (CUHK03, DUKE, MARKET, MSMT17, OCCLUDED_DUKE, OCCLUDED_REID, PARTIAL_ILIDS, PARTIAL_REID, PDUKE, SENSEREID,
           SYNTHETIC)  # fmt: skip
