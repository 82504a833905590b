"""What every data set is made of: `Sample`, `Counts`, `Splits`, `Entry`; reading folders; repeated splits kept as JSON.

The parsers (`image.py`, `small.py`, `video.py`, `infrared.py`, `own.py`)
build on this file, and `datasets.py` on them. Rules for every parser:
- `pid` and `camid` are the publisher's own numbers, as they stand in the file name (Market-1501's cameras are 1 to 6).
  They are only ever compared for equality; contiguous training labels are made once, by `datasets.combine`.
- What comes from a folder is sorted by name, so that the order is the same on every machine.
- Hidden files (`._0002_c1s1_000451_03.jpg` of macOS archives) and files that are no images (`Thumbs.db`) are passed
  over. An image whose name cannot be read is an error that names it: a silently smaller gallery is a better result.
- pid -1 is junk and dropped (Market-1501: boxes too poor to be called right or wrong); distractors stay in the gallery.

Sources named in short in the parsers:
    torchreid  github.com/KaiyangZhou/deep-person-reid at f8cd150, torchreid/data/datasets/
    fast-reid  github.com/JDAI-CV/fast-reid at c9bc3ce, fastreid/data/datasets/
    BoT        github.com/michuanhaohao/reid-strong-baseline at 3da7e6f, data/datasets/
    AGW        github.com/mangye16/Cross-Modal-Re-ID-baseline at e817a26
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import math
import os
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from machine import files

DEMONSTRATION = "drawn by this program: a demonstration, not a benchmark"  # note of the built-in sets
SUBSETS = ("train", "query", "gallery")
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
FIRST_FEW = 5  # bad names quoted in an error; the rest is counted


# ============ the types ============


@dataclass(frozen=True, slots=True)
class Sample:
    """One image, or one tracklet when `path` is a tuple of frame paths. `pid`, `camid`: the data set's own numbers.

    `clothes`: the number of what this person wears, among this person's: two people's number 1 are two sets of clothes.
        None where the data set does not say.
    """

    path: str | tuple[str, ...]
    pid: int
    camid: int
    clothes: int | None = None

    @property
    def frames(self) -> tuple[str, ...]:
        """The paths of its images: one, or those of the tracklet."""
        return self.path if isinstance(self.path, tuple) else (self.path,)

    @property
    def labelled(self) -> tuple:
        """(path, pid, camid), and the clothes where they are known: what a digest of a data set is made of."""
        return (self.path, self.pid, self.camid, *(() if self.clothes is None else (self.clothes,)))


class Counts(NamedTuple):
    """Sizes of one subset. Distractors are counted as images, not as an identity; tracklets are counted under `images`.

    None stands for what a publisher does not state (or what differs from split to split).
    """

    ids: int | None
    images: int | None
    cameras: int | None


@dataclass(frozen=True)
class Splits:
    """A data set, ready to train on (`train`) and to measure with (`query`, `gallery`); what is not there is empty.

    `protocol`: the rule of evaluation that fits the data (`none` if there is one camera only).
    `distractor_pid`: gallery pid that stands for "nobody in particular" (Market-1501: 0), or None.
    `published`: what the publisher counts, by subset. `notes`: what a reader of the table has to know.
    `infrared`: the cameras that see infrared light (SYSU-MM01: 3 and 6); empty where all see colours.
    `shared_pids`: whether a pid is the same person in training and test (MSMT17 numbers both from 0: False).
    `multi_query`: for each query all images of its person and camera, if the publisher gives them and they were asked
        for; else empty.
    `left_out`: entries that could not be used and were to be skipped, each with its reason.
    `options`: those of the parser, other than which split or trial, that are not at their defaults.
    `trials`: the galleries of repeated draws (SYSU-MM01: ten), over which a test takes the mean; empty: `gallery` only.
    `also`: further protocols by which the set is reported, measured in the same test (LTCC: whoever changed clothes,
        and everybody).
    """

    name: str
    train: tuple[Sample, ...]
    query: tuple[Sample, ...]
    gallery: tuple[Sample, ...]
    published: Mapping[str, Counts] | None = None
    notes: tuple[str, ...] = ()
    protocol: str = "market1501"
    distractor_pid: int | None = None
    title: str = ""
    infrared: frozenset[int] = frozenset()
    shared_pids: bool = True
    multi_query: tuple[tuple[Sample, ...], ...] = ()
    trials: tuple[tuple[Sample, ...], ...] = ()
    also: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict, compare=False)

    @property
    def is_video(self) -> bool:
        """Whether the samples are tracklets."""
        return any(isinstance(part[0].path, tuple) for part in (self.train, self.query, self.gallery) if part)

    def count(self, subset: str) -> Counts:
        """Identities, images (or tracklets) and cameras found in `train`, `query` or `gallery`."""
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
            for what, found, expected in zip(self._fields(), self.count(subset), published, strict=True):
                if expected is not None and found != expected:
                    lines.append(f"{subset} {what}: {found:,} != {expected:,} published")
        return lines

    def __str__(self) -> str:
        header = ("subset", *self._fields())
        rows = [header] + [(subset, *self._cells(subset)) for subset in SUBSETS]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
        lines = [f"{self.title or self.name}: found" + (" (published)" if self.published else "")]
        lines += [" | ".join(cells).rstrip() for cells in padded]
        lines.insert(2, "-+-".join("-" * width for width in widths))
        if self.is_video:
            frames = {subset: sum(len(s.frames) for s in getattr(self, subset)) for subset in SUBSETS}
            lines.append("note: " + ", ".join(f"{number:,} frames in {subset}" for subset, number in frames.items()))
        distractors = sum(sample.pid == self.distractor_pid for sample in self.gallery)
        if distractors:
            lines.append(
                f"note: {distractors:,} gallery {self._fields()[1]} are distractors (pid {self.distractor_pid}"
                f"), which are {self._fields()[1]} but no identity"
            )
        lines += [f"note: {note}" for note in self.notes]
        if self.differences():
            lines.append(
                "WARNING: counts marked != differ from the publication; results will not compare with published ones"
            )
        return "\n".join(lines)

    def _fields(self) -> tuple[str, str, str]:
        return ("ids", "tracklets" if self.is_video else "images", "cameras")

    def _cells(self, subset: str) -> list[str]:
        found = self.count(subset)
        if not self.published or subset not in self.published:
            return [f"{number:,}" for number in found]
        if not getattr(self, subset):
            return [
                "none" + (f" ({expected:,})" if expected is not None else "") for expected in self.published[subset]
            ]
        return [
            f"{number:,}"
            if expected is None
            else f"{number:,} ({expected:,})"
            if number == expected
            else f"{number:,} != {expected:,} published"
            for number, expected in zip(found, self.published[subset], strict=True)
        ]


@dataclass(frozen=True)
class Entry:
    """One row of `datasets.DATASETS`: everything that the command line and the README say about a data set.

    `parse(root, *, options)` reads it; the options are keyword-only and have defaults, of which flags are made.
    `choices`: the values that an option can have, where they are few.
    `num_splits`, `num_trials`: how often its publisher repeats training and test (option `split`), and the test alone
    (option `trial`): a number, or a function of the options.
    """

    name: str
    title: str
    description: str  # one line for --help
    parse: Callable[..., Splits]
    citation: str = ""
    site: str = ""  # where the publisher offers it; empty: nowhere
    terms: str = ""  # what the publisher asks of its users
    published: Mapping[str, Counts] | None = None  # for the default options
    aliases: tuple[str, ...] = ()  # other people's names, in lower case without punctuation
    needs_path: bool = True
    choices: Mapping[str, Sequence] = field(default_factory=dict)
    num_splits: int | Callable[[Mapping[str, object]], int] = 1
    num_trials: int | Callable[[Mapping[str, object]], int] = 1

    @property
    def offer(self) -> str:
        """Where it can be had and on what terms, as a sentence; empty for what needs no publisher."""
        return f"Offered at {self.site}: {self.terms}." if self.site else self.terms

    @property
    def options(self) -> dict[str, object]:
        """Name and default of each option that `load_splits` accepts for this data set."""
        parameters = inspect.signature(self.parse).parameters.values()
        return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}

    @property
    def layout(self) -> str:
        """What the parser looks for, as its docstring says it under `Folders:`; empty where it does not say it."""
        return " ".join((inspect.getdoc(self.parse) or "").partition("Folders:")[2].split()).rstrip(".")

    def mistake(self) -> str | None:
        """What is wrong with this row, in words; None: nothing."""
        if not isinstance(self.aliases, tuple):
            return f"aliases is {self.aliases!r}, expected a tuple of names"
        spelled = [name for name in (self.name, *self.aliases) if plain(name) != name or not name]
        if spelled:
            return f"name or alias {spelled[0]!r} has to be in lower case letters and digits: {plain(spelled[0])!r}"
        root, *options = inspect.signature(self.parse).parameters.values() or (None,)
        if root is None or root.kind not in (root.POSITIONAL_ONLY, root.POSITIONAL_OR_KEYWORD):
            return f"{self.parse.__name__} has to take the folder as its first argument"
        for option in options:
            if option.kind is not option.KEYWORD_ONLY or not isinstance(option.default, bool | int | float | str):
                return (
                    f"option {option.name} of {self.parse.__name__} has to be keyword-only, with a number, a text or "
                    f"True or False as its default: (root, *, {option.name}=...)"
                )
        strangers = sorted(set(self.choices) - set(self.options))
        return f"choices for {few(strangers)}, which is no option" if strangers else None


# ============ words for messages ============


def plain(name: str) -> str:
    """Lower case without punctuation: `Market-1501-v15.09.15` -> `market1501v150915`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def few(things: Iterable, limit: int = FIRST_FEW) -> str:
    """`1, 2, 3 and 4 more`, sorted."""
    things = sorted(things)
    more = f" and {len(things) - limit:,} more" if len(things) > limit else ""
    return ", ".join(files.printable(str(each)) for each in things[:limit]) + more


def holds(folder: str) -> str:
    """The first entries of a folder, in words."""
    with os.scandir(folder) as entries:
        names = [entry.name + ("/" if entry.is_dir() else "") for entry in entries]
    return f"{folder} holds {few(names, 8)}" if names else f"{folder} is empty"


def missing(entry: Entry, root: str, looked_for: str, parent_fits: bool = False) -> FileNotFoundError:
    """What was looked for, what is there instead, what to do."""
    if not os.path.exists(root):
        parent = os.path.dirname(root)
        while not os.path.isdir(parent) and parent != os.path.dirname(parent):
            parent = os.path.dirname(parent)
        found, advice = f"{root} does not exist" + (f"; {holds(parent)}" if os.path.isdir(parent) else ""), ""
    elif not os.path.isdir(root):
        found, advice = f"{root} is a file", " Give the folder; unpack an archive first."
    else:
        found, advice = holds(root), ""
        if parent_fits:
            advice = f" Give the folder above it, {os.path.dirname(root)}."
        elif re.search(r"\.(zip|tar|tgz|gz|rar|7z)\b", found):
            advice = " Unpack the archive first."
    return FileNotFoundError(
        f"{entry.name}: {entry.title} not found: {found}. Looked for {looked_for}.{advice} {entry.offer}".rstrip()
    )


# ============ reading folders ============


def is_image(name: str) -> bool:
    """Whether a file of this name is an image: by its suffix, in any case, and not hidden (macOS archives: `._a.jpg`).

    The one rule of which files are images. Only files are asked about: folders, pipes and the like are none.
    """
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def list_folder(folder: str) -> tuple[list[str], list[str]]:
    """Names of the images and of the folders in `folder`, each sorted; hidden ones are passed over.

    A link to nothing counts as a file: whoever reads it says that it is not there, instead of a smaller result.
    """
    images, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                folders += [] if entry.name.startswith(".") else [entry.name]
            elif is_image(entry.name) and (entry.is_file() or not os.path.exists(entry.path)):
                images.append(entry.name)
    return sorted(images), sorted(folders)


def images_below(folder: str, limit: float = math.inf) -> list[str]:
    """Paths of the images in `folder` and below it, sorted name by name; links to folders are not followed.

    OSError where there are more than `limit` images and folders.
    """
    found: list[str] = []
    todo, inside = [folder], {folder}  # the last of `todo` is next; `inside`: which of them are folders
    while todo:
        path = todo.pop()
        if path not in inside:
            found.append(path)
            continue
        images, folders = list_folder(path)
        limit -= len(images) + len(folders)
        if limit < 0:
            raise OSError(f"{folder} holds much beside the data set")
        below = [os.path.join(path, name) for name in folders]
        inside.update(each for each in below if not os.path.islink(each))
        todo += sorted((*(os.path.join(path, name) for name in images), *inside.intersection(below)), reverse=True)
    return found


def has_folders(*names: str) -> Callable[[str], bool]:
    """A test for `find_folder`: does a folder hold all these folders?"""
    return lambda folder: all(os.path.isdir(os.path.join(folder, name)) for name in names)


def find_folder(entry: Entry, root: str, fits: Callable[[str], bool], looked_for: str, depth: int = 2) -> str:
    """The folder that `fits`: `root` itself or one up to `depth` levels below.

    Several data sets share one layout, so a folder on whose path stands the data set's name goes before others.
    """
    if not os.path.isdir(root):
        raise missing(entry, root, looked_for)
    if fits(root):
        return root
    found, level = [], [root]
    for _ in range(depth):
        below = [os.path.join(folder, child) for folder in level for child in _subfolders(folder)]
        level = [folder for folder in below if not fits(folder)]
        found += [folder for folder in below if fits(folder)]
    keys = (entry.name, *entry.aliases)
    named = [
        folder
        for folder in found
        if any(plain(part).startswith(keys) for part in os.path.relpath(folder, root).split(os.sep))
    ]
    candidates = named or found
    if not candidates:
        raise missing(entry, root, f"{looked_for}, there and {depth} levels below", fits(os.path.dirname(root)))
    if len(candidates) > 1:
        raise ValueError(
            f"{entry.name}: {len(candidates)} folders below {root} look like {entry.title}: "
            f"{few(candidates)}. Give the path of the one that is meant."
        )
    return candidates[0]


def find_named(entry: Entry, root: str, name: str, wrapper: str = "") -> str:
    """The folder called `name`: `root` itself, or one in or below it. `wrapper`: what usually is around it."""

    def fits(folder: str) -> bool:
        return os.path.basename(folder) == name or has_folders(name)(folder)

    folder = find_folder(entry, root, fits, f"a folder {wrapper}/ with {name}/" if wrapper else f"the folder {name}/")
    return folder if os.path.basename(folder) == name else os.path.join(folder, name)


def _subfolders(folder: str) -> list[str]:
    try:
        return list_folder(folder)[1]
    except PermissionError:  # a search may pass by folders that are nobody's business (lost+found)
        return []


def find_file(folder: str, *names: str, depth: int = 1) -> str | None:
    """The first of `names` that is a file in `folder`, up to `depth` levels below it or one above; None if none is."""
    level, places = [folder], [folder]
    for _ in range(depth):
        level = [os.path.join(each, child) for each in level for child in _subfolders(each)]
        places += level
    for place in (*places, os.path.dirname(folder)):
        for name in names:
            if os.path.isfile(os.path.join(place, name)):
                return os.path.join(place, name)
    return None


def read_folder(
    entry: Entry, folder: str, pattern: re.Pattern, example: str, camid: int | None = None, prefix: str = ""
) -> tuple[tuple[Sample, ...], int]:
    """The images of one folder, sorted by name, and how many junk images (pid -1) were left out.

    `pattern` has two groups, pid and camera, or one if the whole folder is of camera `camid`, or groups of the names
    pid, camid and clothes; `example` is a name that it reads. `prefix`: images whose names begin otherwise are not of
    the data set (masks in PRID450S) and passed over.
    """
    images = [image for image in list_folder(folder)[0] if image.startswith(prefix)]
    samples, num_junk, bad = [], 0, []
    for image in images:
        match = pattern.match(image)
        if match is None:
            bad.append(image)
            continue
        told = match.groupdict() or {"pid": match[1], "camid": None if camid is not None else match[2]}
        if told["pid"] == "-1":
            num_junk += 1
        else:
            camera = int(told["camid"]) if camid is None else camid
            worn = int(told["clothes"]) if "clothes" in told else None
            samples.append(Sample(os.path.join(folder, image), int(told["pid"]), camera, worn))
    if bad:
        raise ValueError(
            f"{entry.name}: {len(bad):,} of {len(images):,} images in {folder} have names that do not "
            f"read like {example}: {few(bad)}. Take them out; images of your own go in by --own_path."
        )
    if not samples:
        raise ValueError(
            f"{entry.name}: no {entry.title} images in {folder} (expected names like {example}); "
            f"{holds(folder)}. Unpack the archive again."
        )
    return tuple(samples), num_junk


def by_subset(name: str, samples: Mapping[str, Iterable[Sample]], notes: Iterable[str] = (), **fields: Any) -> Splits:
    """`Splits` of the samples of each subset, with a note where a half is not there. `fields`: others of `Splits`."""
    train, query, gallery = (tuple(samples.get(subset, ())) for subset in SUBSETS)
    remarks = [*notes]
    if not train:
        remarks.append("no training images: good for testing only")
    if not gallery:
        remarks.append("no query and gallery images: good for training only")
    return Splits(name, train, query, gallery, notes=tuple(remarks), **fields)


class FolderListings:
    """Is a file there? One listing per folder instead of one look-up per file, since network drives are slow.

    Folders and pipes are no files; nor is a link to nothing.
    """

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def has(self, folder: str, name: str) -> bool:
        """Whether `folder` holds a file `name`; False where there is no such folder."""
        if folder not in self._names:
            with os.scandir(folder) if os.path.isdir(folder) else contextlib.nullcontext(()) as entries:
                self._names[folder] = frozenset(entry.name for entry in entries if entry.is_file())
        return name in self._names[folder]


def read_text(entry: Entry, path: str) -> str:
    """A publisher's text file, whole; ValueError that names it where it is no text in UTF-8."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{entry.name}: {path} is no text in UTF-8: {error}. Take it again from the archive."
        ) from None


def read_list(
    entry: Entry, path: str, folders: Sequence[str], pattern: re.Pattern, example: str, camid: int | None = None
) -> tuple[Sample, ...]:
    """The samples of a publisher's list, in its order. Every file is looked up: half an archive is an error.

    folders: where the images may be; the first that holds one counts. pattern: fits a whole line and has the groups
    `path`, `pid` and, unless all are of camera `camid`, `camid`; `example` is a line that it reads.
    """
    listings, samples, lost = FolderListings(), [], []
    lines = read_text(entry, path).split("\n")
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, line in numbered:
        match = pattern.fullmatch(line)
        if match is None:
            raise ValueError(f"{entry.name}: line {number} of {path} does not read like {example!r}: {line!r}")
        places = [os.path.join(folder, *match["path"].split("/")) for folder in folders]
        there = [place for place in places if listings.has(*os.path.split(place))]
        if there:
            samples.append(Sample(there[0], int(match["pid"]), int(match["camid"]) if camid is None else camid))
        else:
            lost.append(match["path"])
    if lost:
        raise FileNotFoundError(
            f"{entry.name}: {len(lost):,} of the {len(numbered):,} images in {path} are not below "
            f"{os.path.commonpath(folders)}: {few(lost)}. Unpack the archive again."
        )
    if not samples:
        raise ValueError(f"{entry.name}: {path} is empty. Unpack the archive again.")
    return tuple(samples)


def read_mat(entry: Entry, path: str, *variables: str) -> list:
    """Variables of a MATLAB file (version 5 to 7) as arrays; ValueError if it is another file."""
    try:
        content = mat_variables(path, *variables)
    except ValueError as error:
        raise ValueError(f"{entry.name}: {error} Take it again from the archive.") from None
    absent_ones = [name for name in variables if name not in content]
    if absent_ones:
        raise ValueError(f"{entry.name}: {path} has no variable {few(absent_ones)}. Take it again from the archive.")
    return [content[name] for name in variables]


def mat_variables(path: str, *names: str) -> dict[str, Any]:
    """The variables of a MATLAB file (version 5 to 7), or those of `names` that it has; ValueError if it is another.

    A process of its own reads it: of a damaged file scipy can end the process (1.17, of an element whose type is no
    number's), and what it raises may be anything.
    """
    script = (
        "import pickle, sys; from scipy.io import loadmat; found = loadmat(sys.argv[1], "
        "variable_names=sys.argv[2:] or None); sys.stdout.buffer.write(pickle.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", script, path, *names], capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1] if said and done.returncode == 1 else f"its reader ended with {done.returncode}"
        raise ValueError(f"{path} cannot be read as a MATLAB file ({reason}).")
    return {name: value for name, value in pickle.loads(done.stdout).items() if not name.startswith("__")}


# ============ repeated splits ============


def cache_folder(entry: Entry, folder: str) -> str:
    """Where results about a read-only data set are kept: below $XDG_CACHE_HOME, or ~/.cache where that is not set."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    key = hashlib.sha256(os.path.realpath(folder).encode()).hexdigest()[:8]
    return os.path.join(cache, "reid_suite", f"{entry.name}-{key}")


def place_for(entry: Entry, folder: str, name: str) -> str:
    """Path of something made from a data set: beside the data, or in the cache if that cannot be written.

    What is already there, in either place, is what is meant.
    """
    beside, cached = os.path.join(folder, name), os.path.join(cache_folder(entry, folder), name)
    if os.path.exists(beside) or (os.access(folder, os.W_OK) and not os.path.exists(cached)):
        return beside
    os.makedirs(os.path.dirname(cached), exist_ok=True)
    return cached


def kept_splits(
    entry: Entry,
    folder: str,
    people: Iterable[int],
    count: int,
    made_from: str,
    make: Callable[[], list[dict[str, list]]],
) -> tuple[list[dict[str, list]], str]:
    """(the `count` splits of a data set, where they are written).

    They are read from `splits_<name>_reid.json` beside the data (or in the cache), where they are written once: read
    from the publisher's file or made here by `make`, as `made_from` says. A split is {"train": [pids], "test": [pids]},
    with more if the data set needs it.

    Raises ValueError if the publisher's file is of other people than those found, and if the kept one is: it would
    move people between training and test.
    """
    people = sorted(set(people))
    path = place_for(entry, folder, f"splits_{entry.name}_reid.json")
    if not os.path.exists(path):
        made = make()
        strangers = {pid for split in made for pid in (*split["train"], *split["test"])} - set(people)
        if len(made) != count or strangers:
            which = (
                f"names {len(strangers):,} people who are not there: {few(strangers)}"
                if strangers
                else f"holds {len(made)} splits, not {count}"
            )
            raise ValueError(
                f"{entry.name}: {made_from} does not fit the images of {folder}: it {which}. Unpack the archive again."
            )
        with files.replace(path, "w", flag=f"--{entry.name}_path") as file:
            json.dump({"data_set": entry.name, "made_from": made_from, "people": people, "splits": made}, file)
    try:
        with open(path, encoding="utf-8") as file:
            kept = json.load(file)
        splits, others = kept["splits"], kept["people"]
        same = kept["data_set"] == entry.name and others == people and len(splits) == count
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{entry.name}: {path} is damaged ({error!r}). Delete it; it is made again.") from None
    if not same:
        raise ValueError(
            f"{entry.name}: {path} holds {len(splits)} splits of {len(others):,} people of "
            f"{kept['data_set']}; {len(people):,} people are here, and they are not the same. If the data "
            "are complete, delete that file: new splits are made, and older results do not compare."
        )
    return splits, f"{kept['made_from']}, kept in {path}"


def random_halves(people: Iterable[int], count: int, num_train: int, seed: int = 0) -> list[dict[str, list[int]]]:
    """`count` random divisions of people: {"train": `num_train` sorted pids, "test": the others}."""
    rng, splits = random.Random(seed), []
    for _ in range(count):
        order = sorted(set(people))
        rng.shuffle(order)
        splits.append({"train": sorted(order[:num_train]), "test": sorted(order[num_train:])})
    return splits


def ask_across(
    entry: Entry, views: Sequence[tuple[Sample, ...]], split: Mapping[str, list], notes: Iterable[str]
) -> Splits:
    """The training people from both views; the test people of the first view ask for those of the second."""
    return Splits(
        entry.name,
        of_people(views[0] + views[1], split["train"]),
        of_people(views[0], split["test"]),
        of_people(views[1], split["test"]),
        entry.published,
        tuple(notes),
    )


def of_people(samples: Iterable[Sample], pids: Iterable[int]) -> tuple[Sample, ...]:
    """The samples that show one of `pids`, in their order."""
    pids = set(pids)
    return tuple(sample for sample in samples if sample.pid in pids)
