"""Video data sets: each sample is a tracklet, `Sample.path` the tuple of its frames in the order of time."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Sequence

from parsers import base
from parsers.base import SUBSETS, Counts, Entry, Sample, Splits

UNUSABLE, NOT_THERE = "tracklets cannot be used", "frames are listed and not there"

# ============ MARS ============

MARS_INFO = ("train_name.txt", "test_name.txt", "tracks_train_info.mat", "tracks_test_info.mat", "query_IDX.mat")
MARS_PUBLISHED = {"train": Counts(625, 8_298, 6), "query": Counts(626, 1_980, 6)}
MARS_GALLERY = {True: Counts(634, 11_310, 6), False: Counts(620, 9_330, 6)}  # by query_in_gallery


def parse_mars(root: str, *, query_in_gallery: bool = True, skip_bad: bool = False) -> Splits:
    """MARS, the video extension of Market-1501. `skip_bad`: leave out frames that are not there, and say so.

    Reference: Zheng et al., "MARS: A Video Benchmark for Large-Scale Person Re-identification", ECCV 2016.
    Published: 625 identities / 8,298 tracklets / 509,914 frames for training; 12,180 tracklets / 681,089 frames for the
        test, of which 870 are junk (pid -1) and left out, and 3,248 distractors (pid 0), which stay; 626 identities /
        1,980 queries; 6 cameras. Counted in info/ of github.com/liangzheng06/MARS-evaluation at 3a91bbc.
        There (test_mars.m) the queries are in the gallery, 11,310 tracklets: 140 queries have no other match in a
        further camera. torchreid (video/mars.py) takes them out, which leaves 9,330 tracklets and skips those 140:
        `query_in_gallery=False`.
    Folders: bbox_train/, bbox_test/ with a folder per person and `0001C1T0001F001.jpg` (pid, camera, tracklet, frame;
        junk is `00-1...`); info/ of the repository above: train_name.txt and test_name.txt with a frame per line,
        tracks_train_info.mat and tracks_test_info.mat with a row (first line, last line, pid, camera) per tracklet,
        query_IDX.mat with the rows of the queries; lines and rows count from 1.
    """
    folder = base.find_folder(
        MARS,
        root,
        lambda folder: base.has_folders("bbox_train")(folder) or base.has_folders("bbox_test")(folder),
        "a folder with bbox_train/, bbox_test/ and info/",
    )
    info = os.path.join(folder, "info")
    lost = [name for name in MARS_INFO if not os.path.isfile(os.path.join(info, name))]
    if lost:
        where = "info/ of https://github.com/liangzheng06/MARS-evaluation"
        raise base.missing(MARS, folder, f"{base.few(lost)} in {where}")
    samples: dict[str, tuple[Sample, ...]] = {}
    notes: list[str] = []
    gone: list[str] = []
    if base.has_folders("bbox_train")(folder):
        samples["train"] = tuple(_mars_tracklets(folder, "train", gone)[0].values())
    if base.has_folders("bbox_test")(folder):
        asked = {int(row) - 1 for row in base.read_mat(MARS, os.path.join(info, "query_IDX.mat"), "query_IDX")[0].flat}
        tracklets, num_junk = _mars_tracklets(folder, "test", gone)
        samples["query"] = tuple(each for row, each in tracklets.items() if row in asked)
        samples["gallery"] = tuple(each for row, each in tracklets.items() if query_in_gallery or row not in asked)
        place = "in" if query_in_gallery else "not in"
        source = "the publisher's test" if query_in_gallery else "torchreid"
        notes.append(f"{num_junk:,} junk tracklets (pid -1) left out; queries are {place} the gallery, as in {source}")
    samples = {subset: tuple(each for each in part if each.path) for subset, part in samples.items()}
    _settle(MARS, gone, NOT_THERE, skip_bad)
    published = {**MARS_PUBLISHED, "gallery": MARS_GALLERY[query_in_gallery]}
    return _without(base.by_subset(MARS.name, samples, notes, distractor_pid=0, published=published), gone, NOT_THERE)


def _mars_tracklets(folder: str, part: str, gone: list[str]) -> tuple[dict[int, Sample], int]:
    """(the tracklets of info/tracks_<part>_info.mat but for junk, by row; how many were junk).

    Frames that are not there go to `gone` and are left out.
    """
    info = os.path.join(folder, "info")
    (rows,) = base.read_mat(MARS, os.path.join(info, f"tracks_{part}_info.mat"), f"track_{part}_info")
    names = [line.strip() for line in base.read_text(MARS, os.path.join(info, f"{part}_name.txt")).split("\n")]
    listings, tracklets = base.FolderListings(), {}
    for number, (first, last, pid, camid) in enumerate(rows.astype(int).tolist()):
        if pid == -1:
            continue
        frames = names[first - 1 : last]
        begins = f"{pid:04d}C{camid}"
        if not 1 <= first <= last <= len(names) or not all(name.startswith(begins) for name in frames):
            raise ValueError(
                f"mars: row {number + 1} of tracks_{part}_info.mat says that lines {first} to {last} of "
                f"{part}_name.txt ({len(names):,} lines) are pid {pid} in camera {camid}, and they are "
                f"not: {base.few(frames, 3)}. Take both files from one copy of info/."
            )
        person = os.path.join(folder, f"bbox_{part}", begins[:4])
        there = tuple(os.path.join(person, name) for name in frames if listings.has(person, name))
        if len(there) < len(frames):
            gone += [os.path.join(person, name) for name in frames if not listings.has(person, name)]
        tracklets[number] = Sample(there, pid, camid)
    return tracklets, len(rows) - len(tracklets)


def _settle(entry: Entry, bad: Sequence[str], what: str, skip_bad: bool) -> None:
    """Stop at what cannot be used, unless it is to be left out. `what`: a noun, and what is wrong with it."""
    noun, why = what.split(" ", 1)
    if bad and not skip_bad:
        raise ValueError(
            f"{entry.name}: {len(bad):,} {noun} {why}: {base.few(bad)}. Unpack the archive again, or leave them out "
            "with --skip_bad_images."
        )


def _without(splits: Splits, bad: Sequence[str], what: str) -> Splits:
    """`splits`, which say what was left out of them."""
    noun, why = what.split(" ", 1)
    notes = [f"{len(bad):,} {noun} left out, which {why}: {base.few(bad)}"] if bad else []
    return dataclasses.replace(splits, notes=(*splits.notes, *notes), left_out=tuple(bad))


# ============ a folder of frames per tracklet ============


def _read_tracklet(folder: str) -> tuple[str, ...]:
    """Its frames, by name."""
    return tuple(os.path.join(folder, name) for name in base.list_folder(folder)[0])


def _read_views(
    entry: Entry, folders: Sequence[str], pattern: re.Pattern, example: str, skip_bad: bool
) -> tuple[tuple[tuple[Sample, ...], ...], list[str]]:
    """((tracklets of camera 1, of camera 2), what is left out): each folder holds one folder of frames per person."""
    views: list[tuple[Sample, ...]] = []
    bad: list[str] = []
    for camid, folder in enumerate(folders, 1):
        samples = []
        for name in base.list_folder(folder)[1]:
            match, frames = pattern.fullmatch(name), _read_tracklet(os.path.join(folder, name))
            if match is None:
                bad.append(f"{os.path.join(folder, name)}{os.sep} (does not read like {example})")
            elif not frames:
                bad.append(f"{os.path.join(folder, name)}{os.sep} (no frames)")
            else:
                samples.append(Sample(frames, int(match[1]), camid))
        if not samples:
            raise ValueError(
                f"{entry.name}: no {entry.title} tracklets in {folder} (expected folders like {example}); "
                f"{base.holds(folder)}. Unpack the archive again."
            )
        views.append(tuple(samples))
    _settle(entry, bad, UNUSABLE, skip_bad)
    return tuple(views), bad


def _splits_of_mat(entry: Entry, path: str, people: Sequence[int]) -> list[dict[str, list[int]]]:
    """Variable ls_set (10, people) of i-LIDS-VID's archive: each row is an order of the people, counted from 1 in the
    order of their names; the first half is for the test, the rest for training (Wang et al., ECCV 2014)."""
    (orders,) = base.read_mat(entry, path, "ls_set")
    if orders.ndim != 2 or sorted(orders[0].tolist()) != list(range(1, len(people) + 1)):
        raise ValueError(
            f"{entry.name}: {path} divides {orders.shape[-1]:,} people, and {len(people):,} are here. "
            "Unpack the archives again."
        )
    half, orders = len(people) // 2, orders.astype(int).tolist()  # MATLAB's numbers are floats
    return [
        {
            "train": sorted(people[number - 1] for number in order[half:]),
            "test": sorted(people[number - 1] for number in order[:half]),
        }
        for order in orders
    ]


# ============ iLIDS-VID ============


def parse_ilidsvid(root: str, *, split: int = 0, skip_bad: bool = False) -> Splits:
    """iLIDS-VID. `split` 0 to 9 of the publisher; camera 1 asks for camera 2.

    Reference: Wang et al., "Person Re-identification by Video Ranking", ECCV 2014.
    Published: 300 people, one tracklet from each of 2 cameras; ten splits into 150 and 150 people, variable ls_set of
        train_test_splits_ilidsvid.mat, where the first half is for the test (torchreid, video/ilidsvid.py).
    Folders: i-LIDS-VID/sequences/cam1/ and cam2/ with a folder per person, person001/, and
        `cam1_person001_00317.png`; "train-test people splits"/train_test_splits_ilidsvid.mat beside i-LIDS-VID/.
    """
    folder = base.find_folder(
        ILIDSVID,
        root,
        base.has_folders("sequences/cam1", "sequences/cam2"),
        "a folder i-LIDS-VID/ with sequences/cam1/ and sequences/cam2/",
    )
    folders = [os.path.join(folder, "sequences", camera) for camera in ("cam1", "cam2")]
    views, bad = _read_views(ILIDSVID, folders, re.compile(r"person(\d+)"), "person001", skip_bad)
    people = _in_both(views)
    halves = [sample for view in views for sample in view if sample.pid not in people]
    if halves and not skip_bad:
        raise ValueError(
            f"ilidsvid: {len(halves):,} people of {folder} are in one camera only: {base.few(s.pid for s in halves)}. "
            "Unpack the archive again, or leave them out with --skip_bad_images."
        )
    bad += [f"{os.path.dirname(sample.frames[0])}{os.sep} (in one camera only)" for sample in halves]
    name = "train_test_splits_ilidsvid.mat"

    def publishers() -> list[dict[str, list[int]]]:
        path = base.find_file(os.path.dirname(folder), name) or base.find_file(folder, name)
        if path is None:
            raise base.missing(ILIDSVID, os.path.dirname(folder), f"'train-test people splits'/{name}")
        return _splits_of_mat(ILIDSVID, path, people)

    splits, source = base.kept_splits(ILIDSVID, folder, people, 10, f"ls_set of {name}", publishers)
    asked = base.ask_across(ILIDSVID, views, splits[split], [f"split {split} of {len(splits)}: {source}"])
    return _without(asked, bad, UNUSABLE)


def _in_both(views: Sequence[Sequence[Sample]]) -> list[int]:
    return sorted(set.intersection(*({sample.pid for sample in view} for view in views)))


# ============ PRID2011 ============

PRID2011_FRAMES = 27  # at least so many in both views: 178 people


def parse_prid2011(root: str, *, split: int = 0, skip_bad: bool = False) -> Splits:
    """PRID2011, tracklets. `split` 0 to 9; camera a asks for camera b.

    Reference: Hirzer et al., "Person Re-Identification by Descriptive and Discriminative Classification", SCIA 2011;
        the division: Wang et al., "Person Re-identification by Video Ranking", ECCV 2014.
    Published: 200 people in both views, of whom Wang et al. use the 178 with long tracklets, 89 and 89. Those are the
        people with at least 27 frames in both views; at least 21, which is also quoted, would be 183 people
        (github.com/yolomax/person-reid-lib at bc282dd, lib/dataset/prid2011.py, asserts both numbers of the data).
        The ten splits are read from train_test_splits_prid.mat (in the archive of iLIDS-VID; ls_set, (10, 178), orders
        of those people) or from torchreid's splits_prid2011.json, which holds the names; else they are drawn here.
    Folders: multi_shot/cam_a/ and multi_shot/cam_b/ with person_0001/0001.png; one of the files above beside them or
        one or two levels higher.
    """
    folder = base.find_folder(
        PRID2011,
        root,
        base.has_folders("multi_shot/cam_a", "multi_shot/cam_b"),
        "a folder prid_2011/ with multi_shot/cam_a/ and multi_shot/cam_b/",
    )
    folders = [os.path.join(folder, "multi_shot", camera) for camera in ("cam_a", "cam_b")]
    views, bad = _read_views(PRID2011, folders, re.compile(r"person_(\d+)"), "person_0001", skip_bad)
    views = tuple(tuple(s for s in view if s.pid <= 200 and len(s.path) >= PRID2011_FRAMES) for view in views)
    people = _in_both(views)
    if len(people) < 2:
        raise ValueError(
            f"prid2011: {len(people)} people have {PRID2011_FRAMES} frames in both folders of "
            f"{os.path.join(folder, 'multi_shot')}; 178 are expected. Unpack the archive again."
        )
    made_from, make = _prid2011_source(folder, people)
    splits, source = base.kept_splits(PRID2011, folder, people, 10, made_from, make)
    used = f"{len(people):,} people with at least {PRID2011_FRAMES} frames in both cameras"
    asked = base.ask_across(PRID2011, views, splits[split], [f"split {split} of {len(splits)}: {source}", used])
    return _without(asked, bad, UNUSABLE)


def _prid2011_source(folder: str, people: Sequence[int]) -> tuple[str, Callable[[], list[dict[str, list[int]]]]]:
    """(where the splits come from, a function that makes them)."""
    mat, names = (
        base.find_file(folder, name) or base.find_file(os.path.dirname(folder), name)
        for name in ("train_test_splits_prid.mat", "splits_prid2011.json")
    )
    if mat:
        return "ls_set of train_test_splits_prid.mat", lambda: _splits_of_mat(PRID2011, mat, people)
    if names:
        return "torchreid's splits_prid2011.json", lambda: _splits_of_names(names)
    return "drawn at random with seed 0", lambda: base.random_halves(people, 10, len(people) - len(people) // 2)


def _splits_of_names(path: str) -> list[dict[str, list[int]]]:
    """torchreid's file: [{"train": ["person_0004", ...], "test": [...]}, ...]."""
    try:
        return [
            {part: sorted(int(name.removeprefix("person_")) for name in split[part]) for part in ("train", "test")}
            for split in json.loads(base.read_text(PRID2011, path))
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"prid2011: {path} is not torchreid's list of splits: {error!r}. Take it away.") from None


# ============ DukeMTMC-VideoReID ============

DUKE_FRAME = re.compile(r"(\d+)_?C(\d+)_?F(\d+)")  # 0001C6F0099X30823.jpg, also 0001_C6_F0099_X30823.jpg


def parse_dukevid(root: str, *, skip_bad: bool = False) -> Splits:
    """DukeMTMC-VideoReID. Withdrawn with DukeMTMC.

    Reference: Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", ECCVW
        2016; Wu et al., "Exploit the Unknown Gradually: One-Shot Video-Based Person Re-Identification by Stepwise
        Learning", CVPR 2018.
    Published: 702 identities / 2,196 tracklets for training; 702 identities and 408 distractors in 2,636 tracklets for
        the test, one query for each of the 702 (github.com/Yu-Wu/DukeMTMC-VideoReID at 072221e, README).
    Folders: train/, query/, gallery/, each person/tracklet/frame: `0001/0003/0001C6F0099X30823.jpg` (pid, camera, frame
        in the tracklet, frame in the video); later copies write `0001_C6_F0099_X30823.jpg`. Some tracklets begin with
        frame 2 and some leave frames out, as published.
    """
    folder = base.find_folder(
        DUKEVID,
        root,
        _duke_tracklets_here,
        "a folder DukeMTMC-VideoReID/ with train/, or with query/ and gallery/, each person/tracklet/",
    )
    samples, bad = _read_duke_tracklets(folder)
    if bool(samples["query"]) != bool(samples["gallery"]):
        raise base.missing(DUKEVID, folder, "query/ and gallery/, of which one is not there or empty")
    _settle(DUKEVID, bad, UNUSABLE, skip_bad)
    return _without(base.by_subset(DUKEVID.name, samples, published=DUKEVID.published), bad, UNUSABLE)


def _duke_tracklets_here(folder: str) -> bool:
    """train/ or query/ whose first person has a folder with frames of a tracklet in it."""
    for subset in ("train", "query"):
        place = os.path.join(folder, subset)
        for _ in range(2):
            inside = base.list_folder(place)[1] if os.path.isdir(place) else []
            place = os.path.join(place, inside[0]) if inside else ""
        if place and any(DUKE_FRAME.match(name) for name in base.list_folder(place)[0]):
            return True
    return False


def _read_duke_tracklets(folder: str) -> tuple[dict[str, list[Sample]], list[str]]:
    """The tracklets of each subset, and those that cannot be used, with the reason."""
    samples: dict[str, list[Sample]] = {subset: [] for subset in SUBSETS}
    bad: list[str] = []
    tops = {subset: os.path.join(folder, subset) for subset in SUBSETS if base.has_folders(subset)(folder)}
    people = [
        (subset, person, os.path.join(top, person))
        for subset, top in tops.items()
        for person in base.list_folder(top)[1]
    ]
    for subset, person, place in people:
        for name in base.list_folder(place)[1]:
            tracklet = os.path.join(place, name)
            frames = _read_tracklet(tracklet)
            matches = [DUKE_FRAME.match(os.path.basename(frame)) for frame in frames]
            found = {(int(match[1]), int(match[2])) for match in matches if match}
            if not frames:
                bad.append(f"{tracklet}{os.sep} (no frames)")
            elif not all(matches):
                bad.append(f"{tracklet}{os.sep} (frames do not read like 0001C6F0099X30823.jpg)")
            elif len(found) > 1 or {str(pid) for pid, _ in found} != {person.lstrip("0") or "0"}:
                bad.append(f"{tracklet}{os.sep} (frames of several people or cameras)")
            else:
                ((pid, camid),) = found
                samples[subset].append(Sample(frames, pid, camid))
    return samples, bad


# ============ the built-in data set ============


def parse_synthetic_video(root: str | None = None, *, seed: int = 0) -> Splits:
    """The built-in tracklets: procedural pedestrians who walk, drawn on first use into `root` or the cache.

    Reference: `synthetic/sets.py`. Published: nothing; its numbers compare with nothing but themselves.
    Folders: as DukeMTMC-VideoReID.
    """
    from synthetic import sets  # draws with Pillow and numpy, which the other parsers do not need

    samples, bad = _read_duke_tracklets(os.fspath(sets.VIDEO.ensure(root, seed)))
    _settle(SYNTHETIC_VIDEO, bad, UNUSABLE, skip_bad=False)
    return base.by_subset(SYNTHETIC_VIDEO.name, samples, [base.DEMONSTRATION])


# ============ the rows of the registry ============

DUKEVID = Entry(
    name="dukevid",
    title="DukeMTMC-VideoReID",
    description="DukeMTMC-VideoReID (702/702 identities, 8 cameras, tracklets); withdrawn with DukeMTMC",
    citation="Ristani et al., Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking, ECCVW 2016; "
    "Wu et al., Exploit the Unknown Gradually: One-Shot Video-Based Person Re-Identification by Stepwise "
    "Learning, CVPR 2018",
    site="",
    terms="DukeMTMC and what was made from it was withdrawn by its authors in 2019 because of the privacy of those "
    "filmed and is not offered any more; existing copies are read for comparison with published results.",
    parse=parse_dukevid,
    published={"train": Counts(702, 2_196, 8), "query": Counts(702, 702, 8), "gallery": Counts(1_110, None, 8)},
    aliases=("dukemtmcvideoreid", "dukemtmcvidreid", "dukevideo"),
)
ILIDSVID = Entry(
    name="ilidsvid",
    title="iLIDS-VID",
    description="iLIDS-VID (150/150 identities, 2 cameras, tracklets, 10 splits)",
    citation="Wang et al., Person Re-identification by Video Ranking, ECCV 2014",
    site="https://xiatian-zhu.github.io/downloads_qmul_iLIDS-VID_ReID_dataset.html",
    terms="the images are from the UK government's i-LIDS footage; no terms stated that we could find; ask the "
    "authors before any use beyond research",
    parse=parse_ilidsvid,
    published={"train": Counts(150, 300, 2), "query": Counts(150, 150, 1), "gallery": Counts(150, 150, 1)},
    num_splits=10,
)
MARS = Entry(
    name="mars",
    title="MARS",
    description="MARS (625/626 identities, 6 cameras, tracklets)",
    citation="Zheng et al., MARS: A Video Benchmark for Large-Scale Person Re-identification, ECCV 2016",
    site="https://zheng-lab-anu.github.io/Project/project_mars.html",
    terms="the paper is to be cited; no other terms stated; info/ is at "
    "https://github.com/liangzheng06/MARS-evaluation",
    parse=parse_mars,
    published={**MARS_PUBLISHED, "gallery": MARS_GALLERY[True]},
)
PRID2011 = Entry(
    name="prid2011",
    title="PRID2011",
    description="PRID2011 (89/89 identities, 2 cameras, tracklets, 10 splits)",
    citation="Hirzer et al., Person Re-Identification by Descriptive and Discriminative Classification, SCIA 2011",
    site="https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/prid11/",
    terms="the paper is to be cited; no other terms stated (readme of the archive)",
    parse=parse_prid2011,
    published={"train": Counts(89, 178, 2), "query": Counts(89, 89, 1), "gallery": Counts(89, 89, 1)},
    num_splits=10,
)

SYNTHETIC_VIDEO = Entry(
    name="syntheticvideo",
    title="built-in demonstration set, video",
    description="walking pedestrians drawn by this program, made on first use; a demonstration, not a benchmark",
    parse=parse_synthetic_video,
    needs_path=False,
)

ENTRIES = (DUKEVID, ILIDSVID, MARS, PRID2011, SYNTHETIC_VIDEO)
