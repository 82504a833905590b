"""Data sets: what an image's file name says about who is in it and which camera took it.

`load_splits(name, root)` returns `Splits`: tuples of `Sample` for training, query and gallery; `print(splits)` compares
what was found with what was published. One parser function per data set and one row in `DATASETS`; nothing else in the
suite knows a data set's name or layout. Nothing is ever downloaded.

Rules for every parser:
- `pid` and `camid` are the publisher's own numbers, as they stand in the file name (Market-1501's cameras are 1 to 6).
  They are only ever compared for equality; contiguous training labels are made once, by `relabel`.
- What comes from a folder is sorted by name, so that the order is the same on every machine.
- Hidden files (`._0002_c1s1_000451_03.jpg` of macOS archives) and files that are no images (`Thumbs.db`) are passed
  over. An image whose name cannot be read is an error that names it: a silently smaller gallery is a better result.
- pid -1 is junk and dropped (Market-1501: boxes too poor to be called right or wrong); distractors stay in the gallery.

Sources named in short below:
    torchreid  github.com/KaiyangZhou/deep-person-reid at f8cd150, torchreid/data/datasets/image/
    fast-reid  github.com/JDAI-CV/fast-reid at c9bc3ce, fastreid/data/datasets/
    BoT        github.com/michuanhaohao/reid-strong-baseline at 3da7e6f, data/datasets/
"""

from __future__ import annotations

import csv
import difflib
import inspect
import os
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

SUBSETS = ("train", "query", "gallery")
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
FIRST_FEW = 5  # bad names quoted in an error; the rest is counted


# ============ the types ============


@dataclass(frozen=True, slots=True)
class Sample:
    """One image, or one tracklet when `path` is a tuple of frame paths. `pid`, `camid`: the data set's own numbers."""

    path: str | tuple[str, ...]
    pid: int
    camid: int


class Counts(NamedTuple):
    """Sizes of one subset. Distractors are counted as images, not as an identity."""

    ids: int
    images: int
    cameras: int


@dataclass(frozen=True)
class Splits:
    """A data set, ready to train on (`train`) and to measure with (`query`, `gallery`); what is not there is empty.

    `protocol`: the rule of evaluation that fits the data (`none` if there is one camera only).
    `distractor_pid`: gallery pid that stands for "nobody in particular" (Market-1501: 0), or None.
    `published`: what the publisher counts, by subset. `notes`: what a reader of the table has to know.
    """

    name: str
    train: tuple[Sample, ...]
    query: tuple[Sample, ...]
    gallery: tuple[Sample, ...]
    published: Mapping[str, Counts] | None = None
    notes: tuple[str, ...] = ()
    protocol: str = "market1501"
    distractor_pid: int | None = None

    def count(self, subset: str) -> Counts:
        """Identities, images and cameras found in `train`, `query` or `gallery`."""
        samples = getattr(self, subset)
        pids = {sample.pid for sample in samples} - {self.distractor_pid}
        return Counts(len(pids), len(samples), len({sample.camid for sample in samples}))

    def differences(self) -> list[str]:
        """One line per count that is not the published one, e.g. `train images: 12,935 != 12,936 published`.

        A subset that is not there at all (a copy for testing only) is not a difference; `notes` says so.
        """
        lines = []
        for subset, published in (self.published or {}).items():
            if not getattr(self, subset):
                continue
            for field, found, expected in zip(Counts._fields, self.count(subset), published, strict=True):
                if found != expected:
                    lines.append(f"{subset} {field}: {found:,} != {expected:,} published")
        return lines

    def __str__(self) -> str:
        header = ("subset", *Counts._fields)
        rows = [header] + [(subset, *self._cells(subset)) for subset in SUBSETS]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
        title = DATASETS[self.name].title if self.name in DATASETS else self.name
        lines = [f"{title}: found (published)" if self.published else f"{title}: found"]
        lines += [" | ".join(cells).rstrip() for cells in padded]
        lines.insert(2, "-+-".join("-" * width for width in widths))
        distractors = sum(sample.pid == self.distractor_pid for sample in self.gallery)
        if distractors:
            lines.append(f"note: {distractors:,} gallery images are distractors (pid {self.distractor_pid}), "
                         "which are images but no identity")
        lines += [f"note: {note}" for note in self.notes]
        if self.differences():
            lines.append("WARNING: counts marked != differ from the publication; "
                         "results will not compare with published ones")
        return "\n".join(lines)

    def _cells(self, subset: str) -> list[str]:
        found = self.count(subset)
        if not self.published or subset not in self.published:
            return [f"{number:,}" for number in found]
        if not getattr(self, subset):
            return [f"none ({expected:,})" for expected in self.published[subset]]
        return [f"{number:,} ({expected:,})" if number == expected else f"{number:,} != {expected:,} published"
                for number, expected in zip(found, self.published[subset], strict=True)]


@dataclass(frozen=True)
class Entry:
    """One row of `DATASETS`: everything that the command line and the README say about a data set."""

    title: str
    description: str  # one line for --help
    citation: str
    site: str  # where the publisher offers it; empty: nowhere
    terms: str  # what the publisher asks of its users
    parse: Callable[..., Splits]
    published: Mapping[str, Counts] | None = None  # for the default options
    needs_path: bool = True

    @property
    def offer(self) -> str:
        """Where it can be had and on what terms, as a sentence; empty for what needs no publisher."""
        return f"Offered at {self.site}: {self.terms}." if self.site else self.terms

    @property
    def options(self) -> dict[str, object]:
        """Name and default of each option that `load_splits` accepts for this data set."""
        parameters = inspect.signature(self.parse).parameters.values()
        return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


# ============ the door ============


def load_splits(name: str, root: str | os.PathLike | None = None, **options) -> Splits:
    """Read data set `name` (a key of `DATASETS` or `ALIASES`) from the folder `root`, with or without its wrapper.

    `options` are the keyword-only arguments of the set's parser (`cuhk03`: labeled; `msmt17`: use_val; `own`: seed,
    skip_bad; `synthetic`: seed).

    Raises ValueError for an unknown name or option, an unreadable file name or list, and an empty folder;
    FileNotFoundError where the data set's folders are not found.
    """
    name = canonical(name)
    entry = DATASETS[name]
    unknown = sorted(set(options) - set(entry.options))
    if unknown:
        known = ", ".join(entry.options) or "none"
        raise ValueError(f"{name}: unknown option {', '.join(map(repr, unknown))}; its options: {known}")
    if root is None and entry.needs_path:
        raise ValueError(f"{name}: no path given for {entry.title}. {entry.offer}".rstrip())
    if root is not None:
        root = os.path.abspath(os.path.expanduser(os.fspath(root)))
    return entry.parse(root, **options)


def canonical(name: str) -> str:
    """Key of `DATASETS` for a name or alias in any spelling (`Market-1501` -> `market`); ValueError if unknown."""
    key = _plain(name)
    key = ALIASES.get(key, key)
    if key in DATASETS:
        return key
    near = difflib.get_close_matches(key, [*DATASETS, *ALIASES], n=1)
    hint = f" Did you mean {ALIASES.get(near[0], near[0])!r}?" if near else ""
    raise ValueError(f"unknown data set {name!r}.{hint} Known: {', '.join(DATASETS)}")


def relabel(samples: Sequence[Sample]) -> tuple[list[int], int]:
    """Contiguous training labels 0..num_pids-1, in the order of the sorted pids: (label of each sample, num_pids)."""
    label = {pid: index for index, pid in enumerate(sorted({sample.pid for sample in samples}))}
    return [label[sample.pid] for sample in samples], len(label)


def combine(parts: Sequence[Splits]) -> tuple[Sample, ...]:
    """The training images of several data sets as one: pids and cameras are numbered anew, so that none coincide.

    The people of the first set come first, each set's in the order of its own numbers. One set alone keeps its numbers.
    Raises ValueError if a set has no training images.
    """
    for splits in parts:
        if not splits.train:
            raise ValueError(f"{splits.name} has no training images: train on another set, or give all of this one")
    if len(parts) == 1:
        return parts[0].train
    samples, num_pids, num_cameras = [], 0, 0
    for splits in parts:
        pids = {pid: num_pids + index for index, pid in enumerate(sorted({s.pid for s in splits.train}))}
        cameras = {camid: num_cameras + index for index, camid in enumerate(sorted({s.camid for s in splits.train}))}
        samples += [Sample(s.path, pids[s.pid], cameras[s.camid]) for s in splits.train]
        num_pids, num_cameras = num_pids + len(pids), num_cameras + len(cameras)
    return tuple(samples)


# ============ will the evaluation find anything? ============


class QueryCheck(NamedTuple):
    """How many queries there are, and how many have at least one right answer in the gallery."""

    num_query: int
    num_valid: int


def check_queries(query: Sequence[Sample], gallery: Sequence[Sample], protocol: str = "market1501") -> QueryCheck:
    """Count the queries that can be answered; dictionaries only, so that MSMT17 takes a fraction of a second.

    protocol `market1501`, `cuhk03`: a match shows the same pid in another camera. `sysu`: the same pid, except in
    camera 2 for queries from camera 3 (the two stand at one place). `none`: the same pid in any other image.

    Raises ValueError if there is no query, no gallery, or not one query with a match, and says which rule removed them.
    """
    if protocol not in ("market1501", "cuhk03", "sysu", "none"):
        raise ValueError(f"unknown protocol {protocol!r}; known: cuhk03, market1501, none, sysu")
    for samples, subset in ((query, "query"), (gallery, "gallery")):
        if not samples:
            raise ValueError(f"the {subset} set is empty: there is nothing to measure")
    seen = defaultdict(lambda: defaultdict(set))  # pid -> camid -> paths in the gallery
    for sample in gallery:
        seen[sample.pid][sample.camid].add(sample.path)
    num_strangers = sum(sample.pid not in seen for sample in query)
    num_valid = sum(sample.pid in seen and _has_match(sample, seen[sample.pid], protocol) for sample in query)
    if not num_valid:
        raise ValueError(_no_match(query, gallery, protocol, num_strangers))
    return QueryCheck(len(query), num_valid)


def _has_match(sample: Sample, cameras: Mapping[int, set], protocol: str) -> bool:
    if protocol == "none":
        return any(paths - {sample.path} for paths in cameras.values())
    if protocol == "sysu":
        return any(not (sample.camid == 3 and camid == 2) for camid in cameras)
    return any(camid != sample.camid for camid in cameras)


def _no_match(query: Sequence[Sample], gallery: Sequence[Sample], protocol: str, num_strangers: int) -> str:
    """The message for a test that cannot have a result: which rule removed the matches, and what to do."""
    reasons, advice = [], []
    if num_strangers:
        reasons.append(f"{num_strangers:,} show a pid that is not in the gallery")
        advice.append(f"check that query and gallery number people alike (query pids {_few({s.pid for s in query})}; "
                      f"gallery pids {_few({s.pid for s in gallery})})")
    if num_strangers < len(query) and protocol == "none":
        reasons.append(f"{len(query) - num_strangers:,} are themselves the only image of their pid in the gallery")
        advice.append("add a second image of these people to the gallery")
    elif num_strangers < len(query):
        reasons.append(f"{len(query) - num_strangers:,} have their pid in the gallery only in images that protocol "
                       f"{protocol} leaves out (same pid, same camera)")
        advice.append("give each image its true camera number, or, if all were taken by one camera, "
                      f"use protocol none (query cameras {_few({s.camid for s in query})}; "
                      f"gallery cameras {_few({s.camid for s in gallery})})")
    return (f"none of the {len(query):,} queries has a match in the gallery ({len(gallery):,} images): "
            f"{'; '.join(reasons)}. To do: {'; '.join(advice)}.")


def matchable(splits: Splits) -> str | None:
    """None if every query can be answered, else one line that says how many cannot; ValueError if none can."""
    num_query, num_valid = check_queries(splits.query, splits.gallery, splits.protocol)
    if num_valid == num_query:
        return None
    return (f"{splits.name}: {num_query - num_valid:,} of {num_query:,} queries have no match in the gallery under "
            f"protocol {splits.protocol}; they are left out of every average")


# ============ reading folders ============


def _plain(name: str) -> str:
    """Lower case without punctuation: `Market-1501-v15.09.15` -> `market1501v150915`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _few(things: Iterable, limit: int = FIRST_FEW) -> str:
    """`1, 2, 3 and 4 more`, sorted."""
    things = sorted(things)
    more = f" and {len(things) - limit:,} more" if len(things) > limit else ""
    return ", ".join(str(each) for each in things[:limit]) + more


def _list(folder: str) -> tuple[list[str], list[str]]:
    """Names of the images and of the folders in `folder`, each sorted; hidden ones are passed over."""
    images, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                images.append(entry.name)
    return sorted(images), sorted(folders)


def _holds(folder: str) -> str:
    """The first entries of a folder, in words, for error messages."""
    with os.scandir(folder) as entries:
        names = [entry.name + ("/" if entry.is_dir() else "") for entry in entries]
    return f"{folder} holds {_few(names, 8)}" if names else f"{folder} is empty"


def _missing(name: str, root: str, looked_for: str, parent_fits: bool = False) -> FileNotFoundError:
    """What was looked for, what is there instead, what to do."""
    if not os.path.exists(root):
        parent = os.path.dirname(root)
        while not os.path.isdir(parent) and parent != os.path.dirname(parent):
            parent = os.path.dirname(parent)
        found, advice = f"{root} does not exist" + (f"; {_holds(parent)}" if os.path.isdir(parent) else ""), ""
    elif not os.path.isdir(root):
        found, advice = f"{root} is a file", " Give the folder; unpack an archive first."
    else:
        found, advice = _holds(root), ""
        if parent_fits:
            advice = f" Give the folder above it, {os.path.dirname(root)}."
        elif re.search(r"\.(zip|tar|tgz|gz|rar|7z)\b", found):
            advice = " Unpack the archive first."
    return FileNotFoundError(f"{name}: {DATASETS[name].title} not found: {found}. Looked for {looked_for}.{advice} "
                             f"{DATASETS[name].offer}".rstrip())


def _find(name: str, root: str, fits: Callable[[str], bool], looked_for: str, depth: int = 2) -> str:
    """The folder that `fits`: `root` itself or one up to `depth` levels below.

    Several data sets share one layout, so a folder on whose path stands the data set's name goes before others.
    """
    if not os.path.isdir(root):
        raise _missing(name, root, looked_for)
    if fits(root):
        return root
    found, level = [], [root]
    for _ in range(depth):
        below = [os.path.join(folder, child) for folder in level for child in _folders(folder)]
        level = [folder for folder in below if not fits(folder)]
        found += [folder for folder in below if fits(folder)]
    keys = (name, *(alias for alias, key in ALIASES.items() if key == name))
    named = [folder for folder in found
             if any(_plain(part).startswith(keys) for part in os.path.relpath(folder, root).split(os.sep))]
    candidates = named or found
    if not candidates:
        raise _missing(name, root, f"{looked_for}, there and {depth} levels below", fits(os.path.dirname(root)))
    if len(candidates) > 1:
        raise ValueError(f"{name}: {len(candidates)} folders below {root} look like {DATASETS[name].title}: "
                         f"{_few(candidates)}. Give the path of the one that is meant.")
    return candidates[0]


def _folders(folder: str) -> list[str]:
    try:
        return _list(folder)[1]
    except PermissionError:  # a search may pass by folders that are nobody's business (lost+found)
        return []


# ============ Market-1501 and those published in its layout ============

MARKET_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
MARKET_LOOKED_FOR = "a folder with bounding_box_train/, or with query/ and bounding_box_test/"
MARKET_NAME = re.compile(r"(-1|\d+)_c(\d+)s\d+_\d+_\d+\.")  # 0002_c1s1_000451_03.jpg, -1_c3s2_102834_01.jpg.jpg
DUKE_NAME = re.compile(r"(\d+)_c(\d+)_f\d+\.")  # 0001_c2_f0046182.jpg
CUHK03_NAME = re.compile(r"(\d+)_c(\d+)_\d+\.")  # 0001_c1_1.png


def _market_layout(folder: str) -> bool:
    there = {subset for subset, each in MARKET_FOLDERS.items() if os.path.isdir(os.path.join(folder, each))}
    return "train" in there or {"query", "gallery"} <= there


def _market_splits(name: str, folder: str, pattern: re.Pattern, example: str, **fields) -> Splits:
    """Read a folder in Market-1501's layout. `pattern` has two groups, pid and camera; `example` is a name it reads."""
    there = [subset for subset in SUBSETS if os.path.isdir(os.path.join(folder, MARKET_FOLDERS[subset]))]
    if ("query" in there) != ("gallery" in there):
        raise _missing(name, folder, "query/ and bounding_box_test/, of which one is not there")
    samples, notes, num_junk = dict.fromkeys(SUBSETS, ()), list(fields.pop("notes", ())), 0
    for subset in there:
        samples[subset], junk = _read_folder(name, os.path.join(folder, MARKET_FOLDERS[subset]), pattern, example)
        num_junk += junk
    if num_junk:
        notes.append(f"{num_junk:,} junk images (pid -1) left out")
    notes += _absent(samples)
    return Splits(name, **samples, notes=tuple(notes), **fields)


def _absent(samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Notes for a data set of which only one half is there."""
    notes = [] if samples["train"] else ["no training images: good for testing only"]
    return notes if samples["gallery"] else [*notes, "no query and gallery images: good for training only"]


def _read_folder(name: str, folder: str, pattern: re.Pattern, example: str) -> tuple[tuple[Sample, ...], int]:
    """The images of one folder, sorted by name, and how many junk images (pid -1) were left out."""
    images, _ = _list(folder)
    samples, num_junk, bad = [], 0, []
    for image in images:
        match = pattern.match(image)
        if match is None:
            bad.append(image)
        elif match[1] == "-1":
            num_junk += 1
        else:
            samples.append(Sample(os.path.join(folder, image), int(match[1]), int(match[2])))
    if bad:
        raise ValueError(f"{name}: {len(bad):,} of {len(images):,} images in {folder} have names that do not read like "
                         f"{example}: {_few(bad)}. Take them out; images of your own go in as data set 'own'.")
    if not samples:
        raise ValueError(f"{name}: no {DATASETS[name].title} images in {folder} (expected names like {example}); "
                         f"{_holds(folder)}. Unpack the archive again.")
    return tuple(samples), num_junk


MARKET_PUBLISHED = {"train": Counts(751, 12_936, 6), "query": Counts(750, 3_368, 6), "gallery": Counts(750, 15_913, 6)}


def parse_market(root: str) -> Splits:
    """Market-1501.

    Reference: Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015.
    Published: 751 identities / 12,936 images for training; 750 / 3,368 queries; 19,732 gallery images (readme.txt of
        the archive), of which 3,819 are junk (pid -1, counted here), which leaves the 15,913 that torchreid states,
        with 2,798 distractors (pid 0) among them; 6 cameras.
    Folders: bounding_box_train/, query/, bounding_box_test/ with `0002_c1s1_000451_03.jpg` (pid, camera and sequence,
        frame, box). The archive has names that end in `.jpg.jpg`, and a `Thumbs.db` in each folder.
    """
    folder = _find("market", root, _market_layout, MARKET_LOOKED_FOR)
    return _market_splits("market", folder, MARKET_NAME, "0002_c1s1_000451_03.jpg",
                          published=MARKET_PUBLISHED, distractor_pid=0)


DUKE_PUBLISHED = {"train": Counts(702, 16_522, 8), "query": Counts(702, 2_228, 8), "gallery": Counts(1_110, 17_661, 8)}


def parse_duke(root: str) -> Splits:
    """DukeMTMC-reID. Withdrawn by its authors in 2019.

    Reference: Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", ECCVW
        2016; Zheng et al., "Unlabeled Samples Generated by GAN Improve the Person Re-identification Baseline in vitro",
        ICCV 2017.
    Published: 702 identities / 16,522 images for training; 702 / 2,228 queries; 17,661 gallery images (torchreid) of
        1,110 identities, the 702 and 408 more that are in one camera only and serve as distractors; 8 cameras.
    Folders: as Market-1501, with `0001_c2_f0046182.jpg` (pid, camera, frame).
    """
    folder = _find("duke", root, _market_layout, MARKET_LOOKED_FOR)
    return _market_splits("duke", folder, DUKE_NAME, "0001_c2_f0046182.jpg", published=DUKE_PUBLISHED)


CUHK03_PUBLISHED = {
    "detected": {"train": Counts(767, 7_365, 2), "query": Counts(700, 1_400, 2), "gallery": Counts(700, 5_332, 2)},
    "labeled": {"train": Counts(767, 7_368, 2), "query": Counts(700, 1_400, 2), "gallery": Counts(700, 5_328, 2)},
}


def parse_cuhk03(root: str, *, labeled: bool = False) -> Splits:
    """CUHK03 in the new protocol of 767/700 identities, as the folders "CUHK03-NP"; `labeled`: boxes drawn by hand.

    Reference: Li et al., "DeepReID: Deep Filter Pairing Neural Network for Person Re-identification", CVPR 2014;
        Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017 (the protocol).
    Published: 767 identities with 7,365 detected or 7,368 labeled images for training; 700 / 1,400 queries; 700 / 5,332
        detected or 5,328 labeled gallery images (github.com/zhunzhong07/person-re-ranking at 278f2c7, CUHK03-NP/).
        Five pairs of cameras filmed; the names keep only which of its pair's two views an image is: cameras 1 and 2.
    Folders: detected/ and labeled/, each as Market-1501, with `0001_c1_1.png` (pid, view, image).
    """
    version = "labeled" if labeled else "detected"
    names = (version, "labelled") if labeled else (version,)
    looked_for = f"a folder {version}/ that holds bounding_box_train/, or query/ and bounding_box_test/"

    def fits(folder: str) -> bool:
        return os.path.basename(folder).lower().endswith(names) and _market_layout(folder)

    folder = _find("cuhk03", root, fits, looked_for, depth=3)
    return _market_splits("cuhk03", folder, CUHK03_NAME, "0001_c1_1.png", published=CUHK03_PUBLISHED[version],
                          notes=(f"{version} boxes, new protocol (767/700 identities)",))


def parse_synthetic(root: str | None = None, *, seed: int = 0) -> Splits:
    """The built-in data set: procedural pedestrians, drawn on first use into `root` or the cache; a demonstration.

    Reference: `synthetic.py`. Published: nothing; its numbers compare with nothing but themselves.
    Folders: as Market-1501, with names like `0002_c1s1_000451_03.jpg`.
    """
    import synthetic  # draws with Pillow and numpy, which the other parsers do not need

    folder = os.fspath(synthetic.ensure(root, seed))
    return _market_splits("synthetic", folder, MARKET_NAME, "0002_c1s1_000451_03.jpg", distractor_pid=0,
                          notes=("drawn by this program: a demonstration, not a benchmark",))


# ============ MSMT17 ============

MSMT17_FOLDERS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
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
    looked_for = ("list_train.txt, list_val.txt, list_query.txt and list_gallery.txt beside train/ and test/ (V1) "
                  "or mask_train_v2/ and mask_test_v2/ (V2)")

    def fits(folder: str) -> bool:
        return any(os.path.isfile(os.path.join(folder, f"list_{part}.txt")) for part in ("train", "query", "gallery"))

    folder = _find("msmt17", root, fits, looked_for)
    versions = {version: there for version, names in MSMT17_FOLDERS.items()
                if any(there := [os.path.isdir(os.path.join(folder, name)) for name in names])}
    if len(versions) != 1:
        raise _missing("msmt17", folder, f"the image folders of one version: {looked_for}")
    version, (has_train, has_test) = versions.popitem()
    train_folder, test_folder = (os.path.join(folder, name) for name in MSMT17_FOLDERS[version])
    samples = dict.fromkeys(SUBSETS, ())
    if has_train:
        for part in ("train", "val") if use_val else ("train",):
            samples["train"] += _read_msmt17_list(folder, part, train_folder)
    if has_test:
        for subset in ("query", "gallery"):
            samples[subset] = _read_msmt17_list(folder, subset, test_folder)
    used = "list_train and list_val (32,621 images)" if use_val else "list_train only (30,248 images)"
    notes = [f"MSMT17 {version}; training images: {used}", *_absent(samples)]
    return Splits("msmt17", **samples, notes=tuple(notes), published={"train": MSMT17_TRAIN[use_val], **MSMT17_TEST})


def _read_msmt17_list(folder: str, part: str, image_folder: str) -> tuple[Sample, ...]:
    """The samples of list_<part>.txt, in its order. Every file is looked up: an archive half unpacked is an error."""
    path = os.path.join(folder, f"list_{part}.txt")
    if not os.path.isfile(path):
        advice = " (or load with use_val=False)" if part == "val" else ""
        raise _missing("msmt17", folder, f"list_{part}.txt, which comes in the publisher's archive{advice}")
    samples, absent, there = [], [], {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            match = re.fullmatch(r"((?:(.*)/)?(\d+_\d+_(\d+)_[^/]+))\s+(\d+)", line.strip())
            if match is None:
                raise ValueError(f"msmt17: line {number} of {path} does not read like "
                                 f"'0000/0000_000_01_0303morning_0015_0.jpg 0': {line.strip()!r}")
            relative, parent, image, camid, pid = match.groups(default="")
            if parent not in there:  # one listing per identity, not one look-up per image: network drives are slow
                inside = os.path.join(image_folder, parent)
                there[parent] = set(os.listdir(inside)) if os.path.isdir(inside) else set()
            if image not in there[parent]:
                absent.append(relative)
            samples.append(Sample(os.path.join(image_folder, relative), int(pid), int(camid)))
    if absent:
        raise FileNotFoundError(f"msmt17: {len(absent):,} of the {len(samples):,} images in {path} are not below "
                                f"{image_folder}: {_few(absent)}. Unpack the archive again.")
    if not samples:
        raise ValueError(f"msmt17: {path} is empty. Unpack the archive again.")
    return tuple(samples)


# ============ the user's own images ============

OWN_FOLDERS = {"train": ("bounding_box_train", "train"), "query": ("query",),
               "gallery": ("bounding_box_test", "gallery", "test")}
OWN_NAME = re.compile(r"(-1|\d+)_c(?:am)?(\d+)(?:s\d+)?(?=[_.\-])", re.IGNORECASE)  # 17_c3_0001.jpg, 0017_c3s1_....png
OWN_CAMERA = re.compile(r"(?:^|[^a-z0-9])c(?:am(?:era)?[_\-]?)?(\d+)(?=$|[^a-z0-9]|s\d)", re.IGNORECASE)  # _c3_, cam3
OWN_COLUMNS = ("path", "pid", "camid", "split")
OWN_LOOKED_FOR = ("images named <pid>_c<camera>_<anything>.jpg, or a folder per person with that person's images "
                  "(either in one place or below train/, query/ and gallery/), or a .csv file with the columns "
                  "path,pid,camid[,split]")


class _Row(NamedTuple):
    """One image of the user's, before people have numbers. `camid` None: the name has no camera."""

    path: str
    person: str
    camid: int | None


class _Own:
    """What reading the user's images gathers: rows by subset (`all`: not yet split), bad ones, remarks."""

    def __init__(self):
        self.rows: dict[str, list[_Row]] = defaultdict(list)
        self.bad: list[str] = []
        self.notes: list[str] = []
        self.num_junk = 0


def parse_own(root: str, *, seed: int = 0, skip_bad: bool = False) -> Splits:
    """Images of your own, in one of three forms.

    - Market-style names, `<pid>_c<camera>_<anything>.jpg`, in one folder or in Market-1501's three;
    - a folder per person, named as you like (people are numbered in sorted order unless all names are numbers), in one
      place or below train/, query/ and gallery/ (or test/); the camera is read from the file name (`_c3_`, `cam3`),
      and if no name has one, there is one camera;
    - a CSV file with the columns path,pid,camid and, if you like, split (train, query, gallery or test); paths are
      relative to the file; a pid may be a name. A folder that holds such a file is read by it.

    In Market-style names pid -1 is junk, as there; pid 0 is a person like any other. Without a split, half of the
    people (drawn with `seed`) go to training and half to the test, nobody to both; of each person of the test one image
    per camera becomes a query, as long as a match stays in the gallery. A gallery without queries is divided in the
    same way. `skip_bad`: leave out what cannot be read and say so, instead of stopping.
    """
    own = _Own()
    if root.lower().endswith(".csv") and os.path.isfile(root):
        _read_own_csv(root, own)
    elif os.path.isdir(root):
        _read_own_folder(root, own)
    else:
        raise _missing("own", root, OWN_LOOKED_FOR)
    _fill_cameras(own)
    _settle_bad(root, own, skip_bad)
    if not any(own.rows.values()):
        raise ValueError(f"own: no usable image in {root}. Looked for {OWN_LOOKED_FOR}.")
    samples = _number_people(own)
    protocol = _own_protocol(samples, own)
    if "all" in samples:
        samples = _split_people(samples.pop("all"), protocol, seed, own)
    elif samples.get("gallery") and not samples.get("query"):
        samples["query"], samples["gallery"] = _draw_queries(samples["gallery"], protocol, random.Random(seed))
        if not samples["query"]:
            raise ValueError(f"own: no queries can be drawn from the gallery of {root}: nobody has two images in it. "
                             "Add images of the same people, or give query images in query/.")
        own.notes.append(f"no queries given: drawn from the gallery, one image per person and camera (seed {seed})")
    elif samples.get("query") and not samples.get("gallery"):
        raise ValueError(f"own: {root} has query images and no gallery. Add gallery/ (or test/): the images to search.")
    samples = {subset: tuple(samples.get(subset, ())) for subset in SUBSETS}
    return Splits("own", **samples, notes=(*own.notes, *_absent(samples)), protocol=protocol)


def _read_own_folder(root: str, own: _Own) -> None:
    """Recognise what kind of folder it is and read it."""
    images, folders = _list(root)
    tables = [name for name in sorted(os.listdir(root)) if name.lower().endswith(".csv") and not name.startswith(".")]
    tables = [name for name in tables if {"path", "pid"} <= set(_csv_header(os.path.join(root, name)))]
    if len(tables) > 1:
        raise ValueError(f"own: {root} holds {len(tables)} lists of images: {_few(tables)}. Give the path of one.")
    if tables:
        own.notes.append(f"read from {tables[0]}")
        return _read_own_csv(os.path.join(root, tables[0]), own)
    parts = {subset: [each for each in folders if each.lower() in names] for subset, names in OWN_FOLDERS.items()}
    if any(parts.values()):
        for subset, names in parts.items():
            if len(names) > 1:
                raise ValueError(f"own: {root} has more than one folder for {subset}: {_few(names)}. Keep one.")
            if names:
                _read_own_part(os.path.join(root, names[0]), subset, own)
        rest = sorted(set(folders) - {name for names in parts.values() for name in names})
        if rest or images:
            own.notes.append(f"not read: {_few([*(f'{name}/' for name in rest), *images])}")
    elif not images and len(folders) == 1 and not _list(os.path.join(root, folders[0]))[0]:
        _read_own_folder(os.path.join(root, folders[0]), own)  # a wrapper folder around everything
    else:
        _read_own_part(root, "all", own)
    return None


def _read_own_part(folder: str, subset: str, own: _Own) -> None:
    """Images with Market-style names, or, if there are none, a folder per person."""
    images, folders = _list(folder)
    if not images and not folders:
        raise ValueError(f"own: no images in {folder}: {_holds(folder)}. Looked for {OWN_LOOKED_FOR}.")
    if images and folders:
        own.notes.append(f"not read: folders beside the images in {os.path.basename(folder)}/: {_few(folders)}")
    for image in images:
        match = OWN_NAME.match(image)
        if match is None:
            own.bad.append(f"{os.path.join(folder, image)} (does not read like <pid>_c<camera>_<anything>.jpg)")
        elif match[1] == "-1":
            own.num_junk += 1
        else:
            own.rows[subset].append(_Row(os.path.join(folder, image), match[1], int(match[2])))
    for person in [] if images else folders:
        inside = os.path.join(folder, person)
        shots, _ = _list(inside)
        if not shots:
            own.bad.append(f"{inside}{os.sep} (a person's folder without images)")
        elif person.startswith("-") and person[1:].isdecimal():
            own.bad.append(f"{inside}{os.sep} (a pid is 0 or more)")
        else:
            for shot in shots:
                camera = OWN_CAMERA.search(os.path.splitext(shot)[0])
                own.rows[subset].append(_Row(os.path.join(inside, shot), person, int(camera[1]) if camera else None))


def _csv_header(path: str) -> list[str]:
    """Column names in lower case; empty if the file is not text (an editor's lock file beside the list, say)."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # -sig: Excel begins files with a byte order mark
            return [column.strip().lower() for column in next(csv.reader(file), [])]
    except (UnicodeDecodeError, csv.Error):
        return []


def _read_own_csv(path: str, own: _Own) -> None:
    """Rows of a CSV file; each bad one is remembered with its line and column."""
    header = _csv_header(path)
    if not {"path", "pid", "camid"} <= set(header) or not set(header) <= set(OWN_COLUMNS) or \
            len(header) != len(set(header)):
        raise ValueError(f"own: line 1 of {path} has columns {', '.join(header) or 'none'}; expected path,pid,camid "
                         "or path,pid,camid,split (commas, UTF-8). If there is one camera, write 1 for every camid.")
    lines_of = {}  # (path, split) -> line, to find images listed twice
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            next(reader)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                problem = _read_own_row(path, reader.line_num, header, [cell.strip() for cell in cells], lines_of, own)
                if problem:
                    own.bad.append(f"line {reader.line_num}, {problem}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"own: {path} cannot be read as CSV in UTF-8: {error}. Save it again in that form.") from None


def _read_own_row(path: str, line: int, header: list[str], cells: list[str], lines_of: dict, own: _Own) -> str | None:
    """Add one row to `own`, or say which column is wrong."""
    if len(cells) != len(header):
        return f"{len(cells)} columns where line 1 has {len(header)}"
    row = dict(zip(header, cells, strict=True))
    image = os.path.join(os.path.dirname(path), os.path.expanduser(row["path"]))
    split = row["split"].lower() if "split" in row else "all"
    if not row["pid"]:
        return "column pid: empty"
    if row["pid"].startswith("-") and row["pid"][1:].isdecimal():
        return f"column pid: {row['pid']} (a pid is 0 or more)"
    if not (row["camid"].isascii() and row["camid"].isdecimal()):
        return f"column camid: {row['camid']!r} is no camera number (0 or more)"
    if "split" in row and split not in (*SUBSETS, "test"):
        return f"column split: {row['split']!r} is not train, query, gallery or test"
    if not os.path.isfile(image):
        return f"column path: no file {image}"
    if (image, split) in lines_of:
        return f"column path: {row['path']} is on line {lines_of[image, split]} already"
    lines_of[image, split] = line
    own.rows["gallery" if split == "test" else split].append(_Row(image, row["pid"], int(row["camid"])))
    return None


def _fill_cameras(own: _Own) -> None:
    """A name without a camera is one camera if no name has one, and a mistake if others have."""
    rows = [row for part in own.rows.values() for row in part]
    without = [row for row in rows if row.camid is None]
    if without and len(without) == len(rows):
        own.notes.append("no camera in the file names (`_c3_` or `cam3`): one camera is assumed")
        for subset, part in own.rows.items():
            own.rows[subset] = [row._replace(camid=1) for row in part]
        return
    own.bad += [f"{row.path} (no camera in its name, while other names have one)" for row in without]
    for subset, part in own.rows.items():
        own.rows[subset] = [row for row in part if row.camid is not None]


def _settle_bad(root: str, own: _Own, skip_bad: bool) -> None:
    """Stop at what could not be read, or note what is left out."""
    if own.num_junk:
        own.notes.append(f"{own.num_junk:,} junk images (pid -1) left out")
    if not own.bad:
        return
    named = "; ".join(own.bad[:FIRST_FEW]) + ("; ..." if len(own.bad) > FIRST_FEW else "")
    if not skip_bad:
        raise ValueError(f"own: {len(own.bad):,} entries of {root} cannot be used: {named}. Correct them, take them "
                         f"out, or load with skip_bad=True. Expected {OWN_LOOKED_FOR}.")
    own.notes.append(f"{len(own.bad):,} entries left out: {named}")


def _number_people(own: _Own) -> dict[str, list[Sample]]:
    """Rows to samples. Names that are all numbers keep them (0017 is 17); others are numbered in sorted order."""
    people = sorted({row.person for part in own.rows.values() for row in part})
    if all(person.isascii() and person.isdecimal() and int(person) < 2**63 for person in people):
        number = {person: int(person) for person in people}
    else:
        number = {person: index for index, person in enumerate(people)}
        first = ", ".join(f"{index} = {person}" for index, person in enumerate(people[:3]))
        own.notes.append(f"people numbered in sorted order: {first}" + (", ..." if len(people) > 3 else ""))
    samples = {subset: [Sample(row.path, number[row.person], row.camid) for row in part]
               for subset, part in own.rows.items()}
    train = {sample.pid for sample in samples.get("train", ())}
    both = train & {sample.pid for subset in ("query", "gallery") for sample in samples.get(subset, ())}
    if both:
        own.notes.append(f"{len(both):,} pids are in training and test ({_few(both)}): if these are the same people, "
                         "the result will be too good")
    return samples


def _own_protocol(samples: Mapping[str, Sequence[Sample]], own: _Own) -> str:
    """`market1501`, unless no one is seen by two cameras, when no match across cameras exists to be asked for."""
    tested = [s for subset, part in samples.items() if subset != "train" for s in part] or samples["train"]
    cameras = defaultdict(set)
    for sample in tested:
        cameras[sample.pid].add(sample.camid)
    num_cameras = len(set().union(*cameras.values()))
    if num_cameras > 1 and (samples.get("query") or any(len(each) > 1 for each in cameras.values())):
        return "market1501"
    reason = "one camera" if num_cameras == 1 else f"{num_cameras} cameras, but no person is seen by two of them"
    own.notes.append(f"{reason}: protocol none (only the query image itself is left out of its gallery), "
                     "so results do not compare with those across cameras")
    return "none"


def _split_people(samples: Sequence[Sample], protocol: str, seed: int, own: _Own) -> dict[str, list[Sample]]:
    """Half of the people to training, half to the test. People who can be matched are halved apart from the others,
    so that a small set does not end with a test that has no answer."""
    images = defaultdict(list)
    for sample in samples:
        images[sample.pid].append(sample)
    views = {pid: images[pid] if protocol == "none" else {s.camid for s in images[pid]} for pid in sorted(images)}
    matched = [pid for pid in views if len(views[pid]) > 1]
    single = [pid for pid in views if len(views[pid]) == 1]
    if len(images) < 2 or not matched:
        raise ValueError(f"own: {len(samples):,} images of {len(images):,} people cannot be split into training and "
                         "test: at least two people are needed, and two images of one of them. Add images, or give the "
                         "split yourself (train/, query/ and gallery/).")
    rng = random.Random(seed)
    rng.shuffle(matched)
    rng.shuffle(single)
    test = set(matched[: (len(matched) + 1) // 2] + single[: len(single) // 2])
    train = [sample for sample in samples if sample.pid not in test]
    query, gallery = _draw_queries([sample for sample in samples if sample.pid in test], protocol, rng)
    own.notes.append(f"no split given: made here with seed {seed}, {len(images) - len(test):,} people for training and "
                     f"{len(test):,} others for the test")
    return {"train": train, "query": query, "gallery": gallery}


def _draw_queries(samples: Sequence[Sample], protocol: str, rng: random.Random) -> tuple[list[Sample], list[Sample]]:
    """(query, gallery): of each person one image per camera (protocol `none`: one image) becomes a query, provided that
    every query of that person keeps a match in the gallery."""
    by_person = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        by_person[sample.pid][sample.camid if protocol != "none" else 0].append(sample)
    drawn = set()
    for pid in sorted(by_person):
        left = {camid: len(images) for camid, images in by_person[pid].items()}  # images that stay in the gallery
        asked = []  # cameras from which this person is asked for
        for camid in sorted(left):
            left[camid] -= 1
            if all(any(n for other, n in left.items() if other != each or protocol == "none")
                   for each in (*asked, camid)):
                drawn.add(rng.choice(by_person[pid][camid]))
                asked.append(camid)
            else:
                left[camid] += 1
    return [s for s in samples if s in drawn], [s for s in samples if s not in drawn]


# ============ the registry ============

DATASETS: dict[str, Entry] = {  # sorted by name
    "cuhk03": Entry(
        title="CUHK03-NP",
        description="CUHK03, new protocol (767/700 identities), detected or labeled boxes",
        citation="Li et al., DeepReID: Deep Filter Pairing Neural Network for Person Re-identification, CVPR 2014; "
                 "protocol: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017",
        site="https://github.com/zhunzhong07/person-re-ranking/tree/master/CUHK03-NP",
        terms="the images show students of CUHK, whose privacy is to be respected; see the publisher's readme",
        parse=parse_cuhk03,
        published=CUHK03_PUBLISHED["detected"],
    ),
    "duke": Entry(
        title="DukeMTMC-reID",
        description="DukeMTMC-reID (702/702 identities, 8 cameras); withdrawn by its authors",
        citation="Ristani et al., Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking, ECCVW "
                 "2016; Zheng et al., Unlabeled Samples Generated by GAN Improve the Person Re-identification Baseline "
                 "in vitro, ICCV 2017",
        site="",
        terms="It was withdrawn by its authors in 2019 because of the privacy of those filmed and is not offered any "
              "more; existing copies are read for comparison with published results.",
        parse=parse_duke,
        published=DUKE_PUBLISHED,
    ),
    "market": Entry(
        title="Market-1501",
        description="Market-1501 (751/750 identities, 6 cameras)",
        citation="Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015",
        site="http://www.liangzheng.org/Project/project_reid.html",
        terms="for research only; not to be passed on or used commercially (readme.txt of the archive)",
        parse=parse_market,
        published=MARKET_PUBLISHED,
    ),
    "msmt17": Entry(
        title="MSMT17",
        description="MSMT17, V1 or V2 (1,041/3,060 identities, 15 cameras)",
        citation="Wei et al., Person Transfer GAN to Bridge Domain Gap for Person Re-Identification, CVPR 2018",
        site="http://www.pkuvmc.com/publications/msmt17.html",
        terms="on request to its authors",
        parse=parse_msmt17,
        published={"train": MSMT17_TRAIN[False], **MSMT17_TEST},
    ),
    "own": Entry(
        title="own images",
        description="your own images: Market-style names, a folder per person, or a CSV (path,pid,camid[,split])",
        citation="",
        site="",
        terms="",
        parse=parse_own,
    ),
    "synthetic": Entry(
        title="built-in demonstration set",
        description="pedestrians drawn by this program, made on first use; a demonstration, not a benchmark",
        citation="",
        site="",
        terms="",
        parse=parse_synthetic,
        needs_path=False,
    ),
}

ALIASES: dict[str, str] = {  # other people's names, in lower case without punctuation -> ours
    "cuhk03np": "cuhk03",
    "dukemtmc": "duke",
    "dukemtmcreid": "duke",
    "market1501": "market",
    "msmt": "msmt17",
    "msmt17v1": "msmt17",
    "msmt17v2": "msmt17",
}
