"""Small image data sets whose training and test are repeated over random splits: VIPeR, GRID, CUHK01, PRID450S, i-LIDS,
PRID2011 (one image per person and view).

A split is a division of the people. Where the publisher gives the divisions, they are read from his files; else they
are drawn once with seed 0. Either way they are kept as JSON beside the data (`base.kept_splits`) and reused.
"""

from __future__ import annotations

import os
import random
import re
from collections import defaultdict
from collections.abc import Sequence

from parsers import base
from parsers.base import Counts, Entry, Sample, Splits

DRAWN = "drawn at random with seed 0"  # `made_from` of the splits that no publisher gives


# ============ two views of each person ============

VIPER_NAME = re.compile(r"(\d+)_\d+\.")  # 000_45.bmp: person, angle
PRID450S_NAME = re.compile(r"img_(\d+)\.")  # img_001.png
PRID_NAME = re.compile(r"person_(\d+)\.")  # person_0001.png


def parse_viper(root: str, *, split: int = 0) -> Splits:
    """VIPeR. `split` 0 to 19: ten random halves, each asked in both directions (even: camera a asks for b).

    Reference: Gray et al., "Evaluating Appearance Models for Recognition, Reacquisition, and Tracking", PETS 2007.
    Published: 632 people, one image from each of 2 cameras; training and test on random halves of 316 (torchreid,
        image/viper.py, which also counts each half in both directions as two splits; the publisher fixes none).
    Folders: cam_a/ and cam_b/ with `000_45.bmp` (person, viewing angle).
    """
    folder = base.find_folder(VIPER, root, base.has_folders("cam_a", "cam_b"), "a folder VIPeR/ with cam_a/ and cam_b/")
    views = _two_views(VIPER, folder, VIPER_NAME, "000_45.bmp")
    return _halves_both_ways(VIPER, folder, views, split)


def parse_prid450s(root: str, *, split: int = 0) -> Splits:
    """PRID450S. `split` 0 to 9; camera a asks for camera b.

    Reference: Roth et al., "Mahalanobis Distance Learning for Person Re-Identification", in: Person Re-Identification,
        Springer 2014.
    Published: 450 people, one image from each of 2 cameras; random halves of 225. The publisher fixes no halves.
        torchreid 0.5 puts both cameras into query and gallery at once, so its numbers do not compare with others'.
    Folders: cam_a/ and cam_b/ with `img_001.png`; the masks beside them are passed over.
    """
    folder = base.find_folder(PRID450S, root, base.has_folders("cam_a", "cam_b"), "a folder with cam_a/ and cam_b/")
    views = _two_views(PRID450S, folder, PRID450S_NAME, "img_001.png", prefix="img_")
    people = _same_people(PRID450S, folder, views)
    splits, source = base.kept_splits(
        PRID450S, folder, people, 10, DRAWN, lambda: base.random_halves(people, 10, len(people) // 2)
    )
    return base.ask_across(PRID450S, views, splits[split], [f"split {split} of {len(splits)}: {source}"])


def parse_prid(root: str, *, split: int = 0) -> Splits:
    """PRID2011, one image per person and view. `split` 0 to 9: 100 people for training, camera a asks for camera b.

    Reference: Hirzer et al., "Person Re-Identification by Descriptive and Discriminative Classification", SCIA 2011.
    Published: 385 people in view a, 749 in view b; the first 200 are in both, the others complete the gallery
        (publisher's page). Random halves of the 200 (torchreid, image/prid.py); gallery of 100 + 549 people.
    Folders: single_shot/cam_a/ and single_shot/cam_b/ with `person_0001.png`.
    """
    folder = base.find_folder(PRID, root, base.has_folders("single_shot"), "a folder prid_2011/ with single_shot/")
    folder = os.path.join(folder, "single_shot")
    if not base.has_folders("cam_a", "cam_b")(folder):
        raise base.missing(PRID, folder, "cam_a/ and cam_b/")
    views = _two_views(PRID, folder, PRID_NAME, "person_0001.png")
    both = [pid for pid in range(1, 201) if all(pid in {s.pid for s in view} for view in views)]
    if len(both) != 200:
        raise ValueError(
            f"prid: {200 - len(both)} of the people 1 to 200, who are in both views, are not in both "
            f"folders of {folder}: {base.few(set(range(1, 201)) - set(both))}. Unpack the archive again."
        )
    splits, source = base.kept_splits(PRID, folder, both, 10, DRAWN, lambda: base.random_halves(both, 10, 100))
    train, test = splits[split]["train"], splits[split]["test"]
    others = {sample.pid for sample in views[1]} - set(both)
    return Splits(
        PRID.name,
        base.of_people(views[0] + views[1], train),
        base.of_people(views[0], test),
        base.of_people(views[1], {*test, *others}),
        PRID.published,
        (f"split {split} of {len(splits)}: {source}", f"{len(others):,} people of the gallery are in camera b only"),
    )


def _two_views(entry: Entry, folder: str, pattern: re.Pattern, example: str, prefix: str = ""):
    """The images of cam_a/ (camera 1) and cam_b/ (camera 2)."""
    return tuple(
        base.read_folder(entry, os.path.join(folder, view), pattern, example, camid, prefix)[0]
        for camid, view in enumerate(("cam_a", "cam_b"), 1)
    )


def _same_people(entry: Entry, folder: str, views: Sequence[Sequence[Sample]]) -> list[int]:
    """The people, who have to be the same in both views."""
    a, b = ({sample.pid for sample in view} for view in views)
    if a != b:
        raise ValueError(
            f"{entry.name}: {len(a ^ b):,} people of {folder} are in one of cam_a/ and cam_b/ only: "
            f"{base.few(a ^ b)}. Unpack the archive again."
        )
    return sorted(a)


def _halves_both_ways(entry: Entry, folder: str, views: Sequence[tuple[Sample, ...]], split: int) -> Splits:
    """Split 2 n asks half n from view 1 to view 2; split 2 n + 1 the other way round, with the same training."""
    people = _same_people(entry, folder, views)
    halves, source = base.kept_splits(
        entry, folder, people, 10, DRAWN, lambda: base.random_halves(people, 10, len(people) // 2)
    )
    half, turned = divmod(split, 2)
    ways = ("camera a asks for camera b", "camera b asks for camera a")
    note = f"split {split} of {2 * len(halves)}: half {half}, {ways[turned]}; {source}"
    return base.ask_across(entry, views[::-1] if turned else views, halves[half], [note])


# ============ CUHK01 ============

CUHK01_NAME = re.compile(r"(\d{4})(\d{3})\.")  # 0001003.png: person, image


def parse_cuhk01(root: str, *, split: int = 0) -> Splits:
    """CUHK01. `split` 0 to 19: ten random halves, each asked in both directions (even: view 1 asks for view 2).

    Reference: Li et al., "Human Reidentification with Transferred Metric Learning", ACCV 2012.
    Published: 971 people, 2 images from each of 2 views: 3,884; images 1 and 2 are of view 1, images 3 and 4 of view 2
        (torchreid, image/cuhk01.py, whose random halves of 485 and 486 people these are; the publisher fixes none).
    Folders: campus/ with `0001001.png` (four digits person, three digits image).
    """
    campus = base.find_named(CUHK01, root, "campus")
    images = base.read_folder(CUHK01, campus, CUHK01_NAME, "0001001.png")[0]
    views = tuple(tuple(Sample(s.path, s.pid, view) for s in images if (s.camid + 1) // 2 == view) for view in (1, 2))
    return _halves_both_ways(CUHK01, os.path.dirname(campus), views, split)


# ============ GRID ============

GRID_NAME = re.compile(r"(\d+)_(\d+)_")  # 0001_1_25008_201_113_60_155.jpeg: person, camera, frame, box


def parse_grid(root: str, *, split: int = 0) -> Splits:
    """GRID (QMUL underground re-identification). `split` 0 to 9 of the publisher.

    Reference: Loy et al., "Multi-camera Activity Correlation Analysis", CVPR 2009; "Time-delayed Correlation Analysis
        for Multi-camera Activity Understanding", IJCV 2010.
    Published: 250 people with one image in probe/ and one in gallery/, and 775 images of others in gallery/ (pid 0);
        8 cameras; ten splits into 125 and 125 people: variable trainIdxAll, field personIdx (torchreid, image/grid.py).
    Folders: probe/, gallery/ with `0001_1_25008_201_113_60_155.jpeg` (person, camera, frame, box) and
        features_and_partitions.mat.
    """
    folder = base.find_folder(
        GRID,
        root,
        base.has_folders("probe", "gallery"),
        "a folder underground_reid/ with probe/, gallery/ and features_and_partitions.mat",
    )
    probe, gallery = (
        base.read_folder(GRID, os.path.join(folder, each), GRID_NAME, "0001_1_25008_201_113_60_155.jpeg")[0]
        for each in ("probe", "gallery")
    )
    people = {sample.pid for sample in probe}

    def publishers() -> list[dict[str, list[int]]]:
        path = os.path.join(folder, "features_and_partitions.mat")
        if not os.path.isfile(path):
            raise base.missing(GRID, folder, "features_and_partitions.mat, which holds the ten splits")
        (rows,) = base.read_mat(GRID, path, "trainIdxAll")  # (1, 10) cells, each a struct
        trains = [sorted(int(pid) for pid in cell["personIdx"][0, 0].ravel()) for cell in rows.ravel()]
        return [{"train": train, "test": sorted(people - set(train))} for train in trains]

    splits, source = base.kept_splits(
        GRID, folder, people, 10, "trainIdxAll of features_and_partitions.mat", publishers
    )
    train, test = splits[split]["train"], splits[split]["test"]
    return Splits(
        GRID.name,
        base.of_people(probe + gallery, train),
        base.of_people(probe, test),
        base.of_people(gallery, [*test, 0]),
        GRID.published,
        (f"split {split} of {len(splits)}: {source}",),
        distractor_pid=0,
    )


# ============ i-LIDS ============

ILIDS_NAME = re.compile(r"(\d{4})\d{3}\.")  # 0001002.jpg: person, image


def parse_ilids(root: str, *, split: int = 0) -> Splits:
    """QMUL i-LIDS. `split` 0 to 9: 59 people for training; of each of the other 60 one image asks for one other.

    Reference: Zheng et al., "Associating Groups of People", BMVC 2009.
    Published: 119 people, 476 images; which camera took an image is not told. Splits as torchreid draws them
        (image/ilids.py); the publisher fixes none. All images count as camera 1, and protocol `none` leaves out only
        the query image itself (which is not in the gallery).
    Folders: Persons/ with `0001002.jpg` (four digits person, three digits image).
    """
    persons = base.find_named(ILIDS, root, "Persons", "i-LIDS_Pedestrian")
    samples = base.read_folder(ILIDS, persons, ILIDS_NAME, "0001002.jpg", camid=1)[0]
    by_name = {os.path.basename(sample.frames[0]): sample for sample in samples}
    of_person = defaultdict(list)
    for name, sample in by_name.items():
        of_person[sample.pid].append(name)
    alone = [pid for pid, names in of_person.items() if len(names) < 2]
    if alone:
        raise ValueError(
            f"ilids: {len(alone):,} people have one image only: {base.few(alone)}. Unpack the archive again."
        )

    def drawn() -> list[dict[str, list]]:
        splits: list[dict[str, list]] = [{**half} for half in base.random_halves(of_person, 10, len(of_person) // 2)]
        rng = random.Random(0)
        for each in splits:
            pairs = [rng.sample(of_person[pid], 2) for pid in each["test"]]
            each["query"], each["gallery"] = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return splits

    splits, source = base.kept_splits(ILIDS, os.path.dirname(persons), of_person, 10, DRAWN, drawn)
    lost = {name for part in ("query", "gallery") for name in splits[split][part]} - set(by_name)
    if lost:
        raise FileNotFoundError(
            f"ilids: {len(lost):,} images of the kept split are not in {persons}: {base.few(lost)}. "
            "Unpack the archive again."
        )
    query, gallery = (tuple(by_name[name] for name in splits[split][part]) for part in ("query", "gallery"))
    return Splits(
        ILIDS.name,
        base.of_people(samples, splits[split]["train"]),
        query,
        gallery,
        ILIDS.published,
        (
            f"split {split} of {len(splits)}: {source}",
            "the names tell no camera: all images count as camera 1, protocol none",
        ),
        protocol="none",
    )


# ============ the rows of the registry ============

CUHK01 = Entry(
    name="cuhk01",
    title="CUHK01",
    description="CUHK01 (485/486 identities, 2 views, 20 splits)",
    citation="Li et al., Human Reidentification with Transferred Metric Learning, ACCV 2012",
    site="http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html",
    terms="the images show students of CUHK, whose privacy is to be respected",
    parse=parse_cuhk01,
    published={"train": Counts(485, 1_940, 2), "query": Counts(486, 972, 1), "gallery": Counts(486, 972, 1)},
    num_splits=20,
)
GRID = Entry(
    name="grid",
    title="GRID",
    description="GRID (125/125 identities and 775 distractors, 8 cameras, 10 splits)",
    citation="Loy et al., Multi-camera Activity Correlation Analysis, CVPR 2009",
    site="http://personal.ie.cuhk.edu.hk/~ccloy/downloads_qmul_underground_reid.html",
    terms="any report that uses it is to cite Liu et al., Person Re-Identification: What Features Are Important?, "
    "ECCVW 2012, and Loy et al., Time-Delayed Correlation Analysis for Multi-Camera Activity Understanding, "
    "IJCV 2010; no other terms stated (readme of the archive)",
    parse=parse_grid,
    published={"train": Counts(125, 250, None), "query": Counts(125, 125, None), "gallery": Counts(125, 900, None)},
    aliases=("qmulgrid", "undergroundreid"),
    num_splits=10,
)
ILIDS = Entry(
    name="ilids",
    title="i-LIDS",
    description="QMUL i-LIDS (59/60 identities, 10 splits)",
    citation="Zheng et al., Associating Groups of People, BMVC 2009",
    site="http://www.eecs.qmul.ac.uk/~jason/data/i-LIDS_Pedestrian.tgz",
    terms="a link reported dead in 2021; the images are from the UK government's i-LIDS footage; no terms stated that "
    "we could find; ask the authors before any use beyond research",
    parse=parse_ilids,
    published={"train": Counts(59, None, 1), "query": Counts(60, 60, 1), "gallery": Counts(60, 60, 1)},
    aliases=("ilidspedestrian", "qmulilids"),
    num_splits=10,
)
PRID = Entry(
    name="prid",
    title="PRID2011 (single shot)",
    description="PRID2011, one image per person and view (100/100 identities in a gallery of 649, 10 splits)",
    citation="Hirzer et al., Person Re-Identification by Descriptive and Discriminative Classification, SCIA 2011",
    site="https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/prid11/",
    terms="the paper is to be cited; no other terms stated (readme of the archive)",
    parse=parse_prid,
    published={"train": Counts(100, 200, 2), "query": Counts(100, 100, 1), "gallery": Counts(649, 649, 1)},
    aliases=("prid2011singleshot",),
    num_splits=10,
)
PRID450S = Entry(
    name="prid450s",
    title="PRID450S",
    description="PRID450S (225/225 identities, 2 cameras, 10 splits)",
    citation="Roth et al., Mahalanobis Distance Learning for Person Re-Identification, in: Person Re-Identification, "
    "Springer 2014",
    site="https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/prid450s/",
    terms="no terms stated that we could find; ask the authors before any use beyond research",
    parse=parse_prid450s,
    published={"train": Counts(225, 450, 2), "query": Counts(225, 225, 1), "gallery": Counts(225, 225, 1)},
    num_splits=10,
)
VIPER = Entry(
    name="viper",
    title="VIPeR",
    description="VIPeR (316/316 identities, 2 cameras, 20 splits)",
    citation="Gray et al., Evaluating Appearance Models for Recognition, Reacquisition, and Tracking, PETS 2007",
    site="https://vision.soe.ucsc.edu/node/178",
    terms="the paper is to be cited; no other terms stated (readme of the archive)",
    parse=parse_viper,
    published={"train": Counts(316, 632, 2), "query": Counts(316, 316, 1), "gallery": Counts(316, 316, 1)},
    num_splits=20,
)

ENTRIES = (CUHK01, GRID, ILIDS, PRID, PRID450S, VIPER)
