"""The data-set doctor: is this data set what it should be, and can it be used as asked?

`report(splits, root)` looks at a data set that was read; `examine(name, root)` reads it first and turns the reader's
error into a report; `recognise(root)` says which data sets a folder holds. A `Report` has `.text` for the user and
`.usable`, False if training or testing as asked cannot have a result.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import datasets
from datasets import DATASETS, IMAGE_SUFFIXES, SUBSETS, Sample, Splits
from parsers.base import few

PROTOCOLS = ("market1501", "cuhk03", "sysu", "none")
SMALL_IDENTITY = 4  # images; batches of P x K with K = 4 repeat images of people who have fewer


@dataclass(frozen=True)
class Report:
    """What was found. `problems` make the set unusable as asked; `warnings` make its results doubtful."""

    name: str
    facts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

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
        verdict = "usable" if self.usable else f"cannot be used as asked, {errors}"
        return "\n".join([*lines, f"{self.name}: {verdict}{remarks}"])


class _Findings:
    """Facts, warnings and problems as they are gathered."""

    def __init__(self):
        self.facts: list[str] = []
        self.warnings: list[str] = []
        self.problems: list[str] = []

    def report(self, name: str) -> Report:
        """What was gathered so far about the set called `name`."""
        return Report(name, tuple(self.facts), tuple(self.warnings), tuple(self.problems))


def recognise(root: str | os.PathLike) -> dict[str, Splits]:
    """The data sets that `root` holds, by name; of several that read the same files, those whose counts fit best.

    The user's own images are looked for only if nothing else is recognised. Files are read as for use: a data set with
    random splits gets its file of splits. Raises FileNotFoundError if there is no such folder, RuntimeError if a
    package is needed to read what was recognised.
    """
    root = os.path.abspath(os.path.expanduser(os.fspath(root)))
    if not os.path.exists(root):
        raise FileNotFoundError(f"{root} does not exist")
    found = {}
    for name, entry in DATASETS.items():
        if entry.needs_path and name != "own":
            try:
                found[name] = datasets.load_splits(name, root)
            except (ValueError, OSError):
                continue  # another data set's folder, or a damaged one: `examine` by name says what is wrong with it
    rivals = defaultdict(list)
    for name, splits in found.items():
        rivals[_home(splits)].append(name)
    best = {}
    for names in rivals.values():
        fewest = min(len(found[name].differences()) for name in names)
        best.update({name: found[name] for name in names if len(found[name].differences()) == fewest})
    if not best:
        try:
            best["own"] = datasets.load_splits("own", root)
        except (ValueError, OSError):
            return {}
    return {name: best[name] for name in sorted(best)}


def examine(
    name: str | None,
    root: str | os.PathLike | None,
    protocol: str | None = None,
    *,
    options: Mapping[str, object] | None = None,
    train: bool = True,
    test: bool = True,
    decode: bool = True,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> list[Report]:
    """Read data set `name` from `root` and report on it, or on every data set that `root` holds if `name` is None.

    options: of the data set's parser. The others: see `report`. Nothing is raised for what is wrong with the data.
    """
    rest = {"train": train, "test": test, "decode": decode, "skip_bad": skip_bad, "workers": workers,
            "progress": progress}  # fmt: skip
    try:
        if name is not None:
            name = datasets.canonical(name)
            return [report(datasets.load_splits(name, root, **(options or {})), root, protocol, **rest)]
        found = recognise(root)
    except (ValueError, OSError, RuntimeError) as error:
        return [Report(str(name or root), problems=(str(error),))]
    if not found:
        looked_for = ", ".join(entry.title for entry in DATASETS.values() if entry.needs_path)
        return [
            Report(
                str(root),
                problems=(
                    f"{root} was not recognised as any of: {looked_for}. Name the data set to learn what is missing.",
                ),
            )
        ]
    return [report(splits, root, protocol, **rest) for splits in found.values()]


def report(
    splits: Splits,
    root: str | os.PathLike | None = None,
    protocol: str | None = None,
    *,
    train: bool = True,
    test: bool = True,
    decode: bool = False,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Look at a data set that was read.

    protocol: the rule of evaluation that will be used; None: the data set's own.
    train, test: what it will be used for; a half that is not asked for may be absent.
    decode: open every image (minutes for a large set), in `workers` threads (None: one per core) with a progress bar.
    skip_bad: unreadable images will be left out: they are warnings, not problems.
    """
    findings = _Findings()
    home = _home(splits)
    findings.facts.append(f"{splits.title or splits.name} recognised in {home or root}")
    findings.facts.append(str(splits))
    findings.warnings += splits.differences()
    _look_at_files(splits, home, findings)
    if train:
        _look_at_training(splits, findings)
    if test:
        _look_at_test(splits, protocol or splits.protocol, findings)
    _look_at_overlap(splits, findings)
    if decode:
        _look_at_images(splits, findings, skip_bad, workers, progress)
    else:
        findings.facts.append("images were not opened")
    return findings.report(splits.name)


def _home(splits: Splits) -> str:
    """The folder that all its images are in; empty if there are none."""
    folders = {os.path.dirname(path) for subset in SUBSETS for s in getattr(splits, subset) for path in s.frames}
    return os.path.commonpath(folders) if folders else ""


def _paths(splits: Splits) -> list[str]:
    """Every image or frame, once, in the order of training, query, gallery."""
    return list(dict.fromkeys(path for subset in SUBSETS for s in getattr(splits, subset) for path in s.frames))


# ============ files ============


def _look_at_files(splits: Splits, home: str, findings: _Findings) -> None:
    """Images that are there and not used, and those that are used and not there."""
    used = set(_paths(splits))
    unused, there = Counter(), set()
    for folder, folders, files in os.walk(home) if home else ():
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        images = {
            os.path.join(folder, name)
            for name in files
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
        }
        there |= images & used
        extra = len(images - used)
        if extra:
            unused[os.path.relpath(folder, home).split(os.sep)[0]] += extra
    if unused:
        findings.facts.append(
            "images not used by this split and protocol: "
            + ", ".join(f"{number:,} in {name}{os.sep}" for name, number in sorted(unused.items())[:8])
            + (f" and more in {len(unused) - 8} folders" if len(unused) > 8 else "")
        )
    gone = used - there
    if gone:
        findings.problems.append(f"{len(gone):,} images are listed and not there: {few(gone)}")


def _look_at_images(splits: Splits, findings: _Findings, skip_bad: bool, workers: int | None, progress: bool) -> None:
    """Open every image."""
    from tqdm import tqdm

    paths = _paths(splits)
    sizes, bad = Counter(), []
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        results = pool.map(_decode, paths)
        for path, result in tqdm(
            zip(paths, results, strict=True),
            total=len(paths),
            desc=f"opening {splits.name}",
            unit="image",
            disable=not progress or None,
        ):
            if isinstance(result, str):
                bad.append(f"{path} ({result})")
            else:
                sizes[result] += 1
    if sizes:
        (common, number), heights = sizes.most_common(1)[0], [height for _, height in sizes]
        findings.facts.append(
            f"{sum(sizes.values()):,} images opened: {min(heights)} to {max(heights)} pixels high; "
            f"{common[0]} x {common[1]} (width x height) is the commonest size, {number:,} images"
        )
    if bad:
        lines = findings.warnings if skip_bad else findings.problems
        advice = "they are left out" if skip_bad else "replace them, or leave them out with --skip_bad_images"
        lines.append(f"{len(bad):,} of {len(paths):,} images cannot be read; {advice}: {few(bad)}")


def _decode(path: str) -> tuple[int, int] | str:
    """(width, height) of an image, or why it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            return image.size
    except Exception as error:  # a damaged file can raise anything, also SyntaxError and struct.error
        return str(error).replace("\n", " ").replace(f" {path!r}", "") or type(error).__name__


# ============ people and cameras ============


def _views(samples: Iterable[Sample]) -> dict[int, set[int]]:
    """pid -> cameras."""
    views = defaultdict(set)
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
    for each in PROTOCOLS:
        findings.facts.append(f"protocol {each}{' (used)' if each == protocol else ''}: {_removed(splits, each)}")
    try:
        remark = datasets.matchable(Splits(splits.name, (), splits.query, splits.gallery, protocol=protocol))
        if remark:
            findings.warnings.append(remark.removeprefix(f"{splits.name}: "))
    except ValueError as error:
        findings.problems.append(str(error))


def _removed(splits: Splits, protocol: str) -> str:
    """How many gallery images a protocol takes away from the queries, in words."""
    query, gallery = splits.query, splits.gallery
    what = "tracklets" if splits.is_video else "images"
    if protocol == "sysu":
        number = sum(s.camid == 3 for s in query) * sum(s.camid == 2 for s in gallery)
        rule = "of camera 2, for queries of camera 3"
    elif protocol == "none":
        paths = {sample.path for sample in gallery}
        number, rule = sum(sample.path in paths for sample in query), "that are the query itself"
    else:
        there = Counter((s.pid, s.camid) for s in gallery)
        number, rule = sum(there[s.pid, s.camid] for s in query), "of the query's person in its camera"
    text = f"{number / len(query):.1f} gallery {what} per query taken away ({rule})"
    if protocol == "cuhk03":
        text += f", then one of each of {len({s.pid for s in gallery}):,} identities drawn"
    return f"{text}, {_num_valid(query, gallery, protocol):,} of {len(query):,} queries can be answered"


def _num_valid(query: Sequence[Sample], gallery: Sequence[Sample], protocol: str) -> int:
    try:
        return datasets.check_queries(query, gallery, protocol).num_valid
    except ValueError:
        return 0
