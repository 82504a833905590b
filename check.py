"""The data-set doctor: is this data set what it should be, and can it be used as asked?

`report(splits)` looks at a data set that was read; `examine(name, root)` reads it first and opens its images; an error
of the reader is a report too. A `Report` has `.text` for the user and `.usable`, False if training or testing as asked
cannot have a result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

import datasets
from datasets import SUBSETS, Sample, Splits
from machine import fingerprint, imagefile
from machine.progress import Progress
from machine.threads import cores
from parsers.base import few, images_below
from protocols import PROTOCOLS, Labels, Protocol, those_for

SMALL_IDENTITY = 4  # images; batches of P x K with K = 4 repeat images of people who have fewer
FLAT = 16  # of 256 levels between the darkest and the brightest pixel of an image that shows next to nothing


@dataclass(frozen=True)
class Report:
    """What was found. `problems` make the set unusable as asked; `warnings` make its results doubtful."""

    name: str
    facts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    use: str = ""  # what alone it was looked at for: " for training", " for a test"

    @property
    def usable(self) -> bool:
        """Whether training or testing may start: no problem was found."""
        return not self.problems

    @property
    def text(self) -> str:
        """The lines to print: facts, WARNING and ERROR lines, the verdict last."""
        lines = [*self.facts, *(f"WARNING: {line}" for line in self.warnings)]
        lines += [f"ERROR: {line}" for line in self.problems]
        remarks = f", {len(self.warnings)} warnings" if self.warnings else ""
        errors = "1 error" if len(self.problems) == 1 else f"{len(self.problems)} errors"
        verdict = f"usable{self.use}" if self.usable else f"cannot be used as asked, {errors}"
        return "\n".join([*lines, f"{self.name}: {verdict}{remarks}"])


class _Findings:
    """Facts, warnings and problems as they are gathered."""

    def __init__(self) -> None:
        self.facts: list[str] = []
        self.warnings: list[str] = []
        self.problems: list[str] = []

    def report(self, name: str, use: str) -> Report:
        """What was gathered so far about the set called `name`."""
        return Report(name, tuple(self.facts), tuple(self.warnings), tuple(self.problems), use)


def examine(
    name: str,
    root: str | os.PathLike | None,
    protocol: str | None = None,
    *,
    options: Mapping[str, object] | None = None,
    train: bool = False,
    test: bool = False,
    skip_bad: bool = False,
    workers: int | None = None,
) -> Report:
    """Read data set `name` from `root`, open every image, and report on training and test.

    options: of the data set's parser. train, test: what it has to be good for; of a set that has one half only, the
        other is not missed unless it was asked for. The others: see `report`.
    Nothing is raised for what is wrong with the data.
    """
    try:
        splits = datasets.load_splits(name, root, **(options or {}))
    except (ValueError, OSError, RuntimeError) as error:
        return Report(name, problems=(str(error),))
    halves = bool(splits.train), bool(splits.query or splits.gallery)
    train, test = train or halves != (False, True), test or halves != (True, False)
    return report(splits, protocol, train=train, test=test, decode=True, skip_bad=skip_bad, workers=workers)


def report(
    splits: Splits,
    protocol: str | None = None,
    *,
    train: bool = True,
    test: bool = True,
    decode: bool = False,
    skip_bad: bool = False,
    workers: int | None = None,
) -> Report:
    """Look at a data set that was read.

    protocol: the rule of evaluation that will be used; None: the data set's own.
    train, test: what it will be used for; a half that is not asked for may be absent.
    decode: open every image (minutes for a large set), in `workers` threads (None: one per core).
    skip_bad: images that are not there or cannot be read will be left out, as in training and test: they are warnings,
        not problems, and people and cameras are those of the images that are left.
    """
    findings = _Findings()
    home = _home(splits)
    findings.facts.append(f"{splits.title or splits.name} recognised in {home}")
    findings.facts.append(str(splits))
    findings.warnings += splits.differences()
    bad = _look_at_files(splits, home, findings, skip_bad)
    if decode:
        bad |= _look_at_images(splits, bad, findings, skip_bad, workers)
    else:
        findings.facts.append("images were not opened")
    if skip_bad and bad:
        splits = _without(splits, bad)
    if train:
        _look_at_training(splits, findings)
    if test:
        _look_at_test(splits, protocol or splits.protocol, findings)
    _look_at_overlap(splits, findings)
    if decode or not splits.published or splits.differences():  # reading every file of a whole one would be felt
        _look_at_copies(splits, PROTOCOLS.get(protocol or splits.protocol), findings)
    return findings.report(splits.name, "" if train == test else " for training" if train else " for a test")


def _home(splits: Splits) -> str:
    """The folder that all its images are in."""
    return os.path.commonpath({os.path.dirname(path) for path in _paths(splits)})


def _paths(splits: Splits) -> list[str]:
    """Every image or frame, once, in the order of training, query, gallery."""
    return list(dict.fromkeys(path for subset in SUBSETS for s in getattr(splits, subset) for path in s.frames))


def _without(splits: Splits, bad: Set[str]) -> Splits:
    """`splits` without the images `bad`: tracklets lose those frames, and go if none is left."""

    def rest(samples: Iterable[Sample]) -> tuple[Sample, ...]:
        kept = []
        for sample in samples:
            frames = tuple(path for path in sample.frames if path not in bad)
            if len(frames) == len(sample.frames):
                kept.append(sample)
            elif frames:
                kept.append(dataclasses.replace(sample, path=frames))
        return tuple(kept)

    return dataclasses.replace(splits, train=rest(splits.train), query=rest(splits.query), gallery=rest(splits.gallery))


# ============ files ============


def _look_at_files(splits: Splits, home: str, findings: _Findings, skip_bad: bool) -> set[str]:
    """Images that are there and not used, and those that are used and not there, which are returned."""
    used = set(_paths(splits))
    there: set[str] = set()
    try:
        there.update(images_below(home, 10 * len(used) + 10_000))
    except OSError as error:  # a folder that may not be opened, is gone, or holds half of the disk
        findings.warnings.append(f"not every folder of the data set could be listed: {error}")
    unused = Counter(os.path.relpath(os.path.dirname(path), home).split(os.sep)[0] for path in there - used)
    if unused:
        findings.facts.append(
            "images not used by this split and protocol: "
            + ", ".join(f"{number:,} in {name}{os.sep}" for name, number in sorted(unused.items())[:8])
            + (f" and more in {len(unused) - 8} folders" if len(unused) > 8 else "")
        )
    gone = {path for path in used - there if not os.path.exists(path)}
    if gone:
        lines = findings.warnings if skip_bad else findings.problems
        advice = "; they are left out" if skip_bad else ""
        lines.append(f"{len(gone):,} images are listed and not there{advice}: {few(gone)}")
    return gone


def _look_at_images(
    splits: Splits, gone: Set[str], findings: _Findings, skip_bad: bool, workers: int | None
) -> set[str]:
    """Open every image but those that are `gone`; returns the ones that cannot be read."""
    paths = [path for path in _paths(splits) if path not in gone]
    sizes: Counter[tuple[int, int]] = Counter()
    remarks: dict[str, list[str]] = defaultdict(list)  # what had to be decided -> of which images
    flat: list[str] = []
    bad: dict[str, str] = {}  # path -> why
    with ThreadPoolExecutor(workers or cores()) as pool:
        results = zip(paths, pool.map(_decode, paths), strict=True)
        for path, result in Progress(len(paths), f"opening {splits.name}").over(results):
            if isinstance(result, str):
                bad[path] = result
            else:
                sizes[result.size] += 1
                for remark in result.remarks:
                    remarks[remark].append(path)
                flat += [path] if result.levels < FLAT else []
    if sizes:
        (common, number), heights = sizes.most_common(1)[0], [height for _, height in sizes]
        findings.facts.append(
            f"{sizes.total():,} images opened: {min(heights)} to {max(heights)} pixels high; "
            f"{common[0]} x {common[1]} (width x height) is the commonest size, {number:,} images"
        )
    findings.facts += [f"{len(those):,} images are {what}: {few(those)}" for what, those in sorted(remarks.items())]
    if flat:
        findings.warnings.append(f"{len(flat):,} images show next to nothing, being of one colour: {few(flat)}")
    if bad:
        lines = findings.warnings if skip_bad else findings.problems
        advice = "they are left out" if skip_bad else "replace them, or leave them out with --skip_bad_images"
        named = few(f"{path} ({why})" for path, why in bad.items())
        lines.append(f"{len(bad):,} of {len(paths):,} images cannot be read; {advice}: {named}")
    return set(bad)


class _Look(NamedTuple):
    """What is kept of an image that was opened: (width, height), what had to be decided to read it, brightest minus
    darkest value of the channel where they are farthest apart."""

    size: tuple[int, int]
    remarks: tuple[str, ...]
    levels: int


def _decode(path: str) -> _Look | str:
    """An image as a network would be given it, or why it cannot be read."""
    try:
        rgb, remarks = imagefile.read(path)
        return _Look(rgb.size, remarks, int(np.ptp(np.asarray(rgb), (0, 1)).max()))
    except Exception as error:  # a damaged file can raise anything, also SyntaxError and struct.error
        return imagefile.reason(error, path)


# ============ people and cameras ============


def _views(samples: Iterable[Sample]) -> dict[int, set[int]]:
    """pid -> cameras."""
    views: dict[int, set[int]] = defaultdict(set)
    for sample in samples:
        views[sample.pid].add(sample.camid)
    return views


def _look_at_training(splits: Splits, findings: _Findings) -> None:
    if not splits.train:
        findings.problems.append("there are no training images: test only, or train on another set")
        return
    views, images = _views(splits.train), Counter(sample.pid for sample in splits.train)
    if len(views) < 2:
        findings.problems.append(f"the training images show {len(views)} identity; at least two are needed")
    what = "tracklets" if splits.is_video else "images"
    counts = sorted(images.values())
    findings.facts.append(
        f"training: {counts[0]:,} to {counts[-1]:,} {what} per identity, median {counts[len(counts) // 2]:,}"
    )
    worn = {(sample.pid, sample.clothes) for sample in splits.train}
    if all(clothes is not None for _, clothes in worn):
        findings.facts.append(f"training: {len(worn):,} sets of clothes, {len(worn) / len(views):.1f} of each identity")
    few_images = [pid for pid, number in images.items() if number < SMALL_IDENTITY]
    if few_images:
        findings.facts.append(
            f"training: {len(few_images):,} identities have fewer than {SMALL_IDENTITY} {what} "
            f"(pids {few(few_images)}); batches repeat them"
        )
    one_camera = [pid for pid, cameras in views.items() if len(cameras) == 1]
    if one_camera:
        findings.facts.append(
            f"training: {len(one_camera):,} of {len(views):,} identities are in one camera only "
            f"(pids {few(one_camera)})"
        )
    if splits.infrared:
        colour_only = [pid for pid, cameras in views.items() if not cameras & splits.infrared]
        infrared_only = [pid for pid, cameras in views.items() if cameras <= splits.infrared]
        if colour_only or infrared_only:
            findings.warnings.append(
                f"training: {len(colour_only):,} identities have no infrared image and "
                f"{len(infrared_only):,} no colour image"
            )


def _look_at_overlap(splits: Splits, findings: _Findings) -> None:
    """People and images that are in training and in the test."""
    test = (*splits.query, *splits.gallery)
    train_pids, test_pids = {s.pid for s in splits.train}, {s.pid for s in test} - {splits.distractor_pid}
    if splits.shared_pids and train_pids & test_pids:
        both = train_pids & test_pids
        findings.warnings.append(
            f"{len(both):,} identities are in training and test (pids {few(both)}): results will be too good"
        )
    images = {path for s in splits.train for path in s.frames} & {path for s in test for path in s.frames}
    if images:
        findings.warnings.append(f"{len(images):,} images are in training and test: {few(images)}")


def _look_at_copies(splits: Splits, protocol: Protocol | None, findings: _Findings) -> None:
    """Files of the same bytes: answers that a query has in its gallery, labels that contradict each other, test images
    that were trained on. Only files of one size are read."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for path in _paths(splits):
        with contextlib.suppress(OSError):
            by_size[os.path.getsize(path)].append(path)
    content: dict[str, object] = {}  # path -> digest, of those that may have a copy
    for size, paths in by_size.items():
        for path in paths if len(paths) > 1 and size > 0 else ():  # an empty file is no image
            with contextlib.suppress(OSError):
                content[path] = fingerprint.of_file(Path(path))
    keys = {subset: [tuple(content.get(f, f) for f in s.frames) for s in getattr(splits, subset)] for subset in SUBSETS}
    gallery: dict[tuple, list[Sample]] = defaultdict(list)
    enough: Counter[tuple] = Counter()
    for key, sample in zip(keys["gallery"], splits.gallery, strict=True):
        enough[key, sample.pid, sample.camid] += 1
        if enough[key, sample.pid, sample.camid] <= 2:  # one of them may be the query itself
            gallery[key].append(sample)
    easy, strange = {}, {}
    for key, q in zip(keys["query"], splits.query, strict=True):
        for g in gallery.get(key, ()):
            if q.pid != g.pid:
                strange[q.frames[0]] = g.frames[0]
            elif protocol and not protocol.removes(q.camid, g.camid, True, q.path == g.path, q.clothes == g.clothes):
                easy[q.frames[0]] = g.frames[0]
    trained = dict(zip(keys["train"], splits.train, strict=True))
    seen = {
        s.frames[0]: trained[key].frames[0]
        for subset in ("query", "gallery")
        for key, s in zip(keys[subset], getattr(splits, subset), strict=True)
        if key in trained and trained[key].path != s.path
    }
    for pairs, what in (
        (easy, "queries have a copy of their own bytes in the gallery: results will be too good"),
        (strange, "queries have a copy of their own bytes in the gallery, as somebody else: one of the two is wrong"),
        (seen, "test images are copies of training images: results will be too good"),
    ):
        if pairs:
            named = few(f"{path} = {copy}" for path, copy in pairs.items())
            findings.warnings.append(f"{len(pairs):,} {what} ({named})")


def _look_at_test(splits: Splits, protocol: str, findings: _Findings) -> None:
    """Whether the queries can be answered, and what each protocol would leave out."""
    if protocol not in PROTOCOLS:
        findings.problems.append(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
        return
    empty = [subset for subset in ("query", "gallery") if not getattr(splits, subset)]
    if empty:
        findings.problems.append(f"there are no {' and no '.join(empty)} images: train only, or test on another set")
        return
    views = _views(splits.gallery)
    strangers = {s.pid for s in splits.query} - set(views)
    if strangers:
        findings.warnings.append(f"{len(strangers):,} query identities are not in the gallery (pids {few(strangers)})")
    one_camera = [
        pid
        for pid, cameras in _views((*splits.query, *splits.gallery)).items()
        if len(cameras) == 1 and pid != splits.distractor_pid
    ]
    if one_camera:
        findings.facts.append(f"test: {len(one_camera):,} identities are in one camera only (pids {few(one_camera)})")
    try:
        for each in those_for((*splits.query, *splits.gallery)):
            findings.facts.append(f"protocol {each}{' (used)' if each == protocol else ''}: {_removed(splits, each)}")
        remark = datasets.matchable(Splits(splits.name, (), splits.query, splits.gallery, protocol=protocol))
        if remark:
            findings.warnings.append(remark.removeprefix(f"{splits.name}: "))
    except ValueError as error:
        findings.problems.append(str(error))


def _removed(splits: Splits, protocol: str) -> str:
    """How many gallery images a protocol takes away from the queries, in words."""
    labels = Labels.of(splits.query, splits.gallery, protocol)
    what = "tracklets" if splits.is_video else "images"
    per_query, rule = float(labels.num_removed.double().mean()), labels.protocol.words
    text = f"{per_query:.1f} gallery {what} per query taken away ({rule})"
    if labels.protocol.cmc == "draws":
        text += f", then one of each of {len(labels.gallery_pids.unique()):,} identities drawn"
    num_valid = int((labels.num_hits > 0).sum())
    return f"{text}, {num_valid:,} of {len(splits.query):,} queries can be answered"
