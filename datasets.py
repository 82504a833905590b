"""Data sets: what an image's file name says about who is in it and which camera took it.

`load_splits(name, root)` returns `Splits`: tuples of `Sample` for training, query and gallery; `print(splits)` compares
what was found with what was published. This file holds the registry `DATASETS` (one row per data set, gathered from the
files of parsers/), the door, the union of training sets, and the check that an evaluation can have a result; nothing
else in the suite knows a data set's name or layout. Nothing is ever downloaded.

    parsers/base.py      Sample, Splits, Entry; reading folders; repeated splits kept as JSON
    parsers/image.py     one published split: Market-1501, DukeMTMC, CUHK03, MSMT17, occluded, partial, SenseReID
    parsers/small.py     repeated random splits: VIPeR, GRID, CUHK01, PRID450S, i-LIDS, PRID2011 (single shot)
    parsers/video.py     tracklets: MARS, iLIDS-VID, PRID2011, DukeMTMC-VideoReID
    parsers/infrared.py  colour and infrared: SYSU-MM01, RegDB, LLCM
    parsers/aerial.py    drones and the ground: AG-ReID, CARGO
    parsers/training.py  to train on: RandPerson, ClonedPerson, CUHK-SYSU
    parsers/clothes.py   people who change their clothes: PRCC, LTCC, CCVID, VC-Clothes, LaST, DeepChange
    parsers/own.py       the user's own images
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import itertools
import os
import pkgutil
import random
import traceback
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import parsers
from machine import fingerprint
from machine.files import printable
from parsers import own
from parsers.base import IMAGE_SUFFIXES, SUBSETS, Counts, Entry, Sample, Splits, few, missing, plain

__all__ = ["ALIASES", "DATASETS", "IMAGE_SUFFIXES", "SUBSETS", "Counts", "Entry", "QueryCheck", "Sample", "Splits",
           "canonical", "check_queries", "combine", "load_splits", "matchable", "num_splits",
           "num_trials", "camera_label", "TrainingSet"]  # fmt: skip

# ============ the registry ============


def find_entries() -> dict[str, Entry]:
    """The rows of ENTRIES in every file of parsers/ but base.py, sorted by name: such a file is all a data set needs.

    Raises ValueError that names the file and the row which cannot be used.
    """
    entries: dict[str, Entry] = {}
    taken: dict[str, str] = {}  # name or alias -> file
    for module in sorted(each.name for each in pkgutil.iter_modules(parsers.__path__)):
        place = f"parsers/{module}.py"
        for number, entry in enumerate(() if module == "base" else _rows(module, place), 1):
            mistake = entry.mistake() if isinstance(entry, Entry) else f"it is {type(entry).__name__}, not an Entry"
            for name in (entry.name, *entry.aliases) if mistake is None else ():
                if name in taken:
                    mistake = mistake or f"the name or alias {name!r} is taken by {taken[name]}"
                taken.setdefault(name, place)
            if mistake:
                raise ValueError(f"{place}, row {number} of ENTRIES ({getattr(entry, 'name', '?')}): {mistake}")
            entries[entry.name] = entry
    return dict(sorted(entries.items()))


def _rows(module: str, place: str) -> Sequence[Entry]:
    """ENTRIES of one file; ValueError where the file cannot be imported, with the line, or has none."""
    try:
        rows = getattr(importlib.import_module(f"parsers.{module}"), "ENTRIES", None)
    except Exception as error:  # whatever somebody's file raises
        lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename.endswith(place)]
        where = f", line {lines[-1]}" if lines else ""
        raise ValueError(f"{place}{where} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(rows, tuple | list):
        raise ValueError(f"{place} has no ENTRIES: end it with ENTRIES = (...,), a tuple of the rows of its data sets")
    return rows


DATASETS: dict[str, Entry] = find_entries()  # sorted by name
ALIASES: dict[str, str] = dict(  # other people's names, in lower case without punctuation -> ours
    sorted((alias, entry.name) for entry in DATASETS.values() for alias in entry.aliases)
)


STANDARD = ("split", "trial", "skip_bad", "multi_query")  # options of several sets, which change no published counts

# ============ the door ============


def load_splits(name: str, root: str | os.PathLike | None = None, **options) -> Splits:
    """Read data set `name` (a key of `DATASETS` or `ALIASES`) from the folder `root`, with or without its wrapper.

    `options` are the keyword-only arguments of the set's parser, which `DATASETS[name].options` lists. Those of several
    sets: `split`, one of `num_splits(name)` divisions into training and test; `trial`, one of `num_trials(name)`
    galleries; `skip_bad`, to leave out what cannot be read and say so.

    Raises ValueError for an unknown name or option, an unreadable file name or list, and an empty folder;
    FileNotFoundError where the data set's folders are not found, or nothing in them; RuntimeError if a package is
    needed to read it.
    """
    entry = DATASETS[canonical(name)]
    for option, count in (("split", num_splits(name, **options)), ("trial", num_trials(name, **options))):
        number = options.get(option, 0)
        if not isinstance(number, int) or not 0 <= number < count:
            raise ValueError(
                f"{entry.name}: there is no {option} {number} (--{entry.name}_{option}); there are {count}, numbered "
                f"0 to {count - 1}"
            )
    if root is None and entry.needs_path:
        raise ValueError(f"{entry.name}: no path given for {entry.title} (--{entry.name}_path). {entry.offer}".rstrip())
    if root is not None:
        root = os.path.abspath(os.path.expanduser(os.fspath(root)))
    parser = f"{entry.parse.__name__} in {entry.parse.__module__}"
    try:
        splits = entry.parse(root, **options)
    except (ValueError, FileNotFoundError) as error:  # a name in it may hold a line end, or bytes that are no text
        if len(error.args) != 1 or printable(str(error)) == str(error):
            raise
        raise type(error)(printable(str(error))) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # of a list that is another file
        raise ValueError(
            f"{entry.name}: {parser} cannot read what is in {root} ({type(error).__name__}: {error}): a list in it is "
            "not what it should be. Unpack the archive again; --debug shows where it stopped."
        ) from error
    if not isinstance(splits, Splits):
        raise ValueError(f"{entry.name}: {parser} returned {type(splits).__name__}, expected Splits")
    if not any((splits.train, splits.query, splits.gallery)):
        if root is None:
            raise ValueError(f"{entry.name}: {parser} found no image")
        raise missing(entry, root, entry.layout or f"images that {parser} can read")
    samples = (*splits.train, *splits.query, *splits.gallery)
    too_large = {os.path.basename(s.frames[0]) for s in samples if max(s.pid, s.camid) >= 2**63}
    if too_large:
        raise ValueError(
            f"{entry.name}: {len(too_large):,} images have a person or camera of 2^63 or more in their names, which no "
            f"integer holds: {few(too_large)}. Take them out."
        )
    kept = {name: value for name, value in options.items() if name not in STANDARD and value != entry.options[name]}
    return dataclasses.replace(splits, title=entry.title, options=kept)


def num_splits(name: str, **options) -> int:
    """How often the publisher repeats training and test with these options: option `split` is 0 .. num_splits - 1."""
    return _number(DATASETS[canonical(name)], "num_splits", options)


def num_trials(name: str, **options) -> int:
    """How many galleries the publisher draws for one trained model with these options: option `trial` is
    0 .. num_trials - 1."""
    return _number(DATASETS[canonical(name)], "num_trials", options)


def _number(entry: Entry, field: str, options: Mapping[str, object]) -> int:
    _check_options(entry, options)
    found = getattr(entry, field)
    return found({**entry.options, **options}) if callable(found) else found


def _check_options(entry: Entry, options: Mapping[str, object]) -> None:
    unknown = sorted(set(options) - set(entry.options))
    if unknown:
        known = ", ".join(entry.options) or "none"
        raise ValueError(f"{entry.name}: unknown option {', '.join(map(repr, unknown))}; its options: {known}")
    for option, choices in entry.choices.items():
        if option in options and options[option] not in choices:
            allowed = ", ".join(map(str, choices))
            raise ValueError(f"{entry.name}: --{entry.name}_{option} is {options[option]!r}; it can be {allowed}")


def canonical(name: str) -> str:
    """Key of `DATASETS` for a name or alias in any spelling (`Market-1501` -> `market`); ValueError if unknown."""
    key = plain(name)
    key = ALIASES.get(key, key)
    if key in DATASETS:
        return key
    near = difflib.get_close_matches(key, [*DATASETS, *ALIASES], n=1)
    hint = f" Did you mean {ALIASES.get(near[0], near[0])!r}?" if near else ""
    raise ValueError(f"unknown data set {name!r}.{hint} Known: {', '.join(DATASETS)}")


# ============ training sets ============


def hold_out(splits: Splits, num_pids: int, seed: int = 0) -> tuple[Splits, Splits]:
    """(`splits` without `num_pids` of its training people, a validation set `<name>_val` of those people).

    The people are drawn from `seed`; of each, one image per camera becomes a query as long as it keeps a match. For
    choosing parameters, such as those of re-ranking, on people who are in neither the training nor the test set.
    """
    pids = sorted({sample.pid for sample in splits.train})
    if not 0 < num_pids < len(pids):
        raise ValueError(
            f"{splits.name}: {num_pids} people cannot be held out of {len(pids)} in the training set (--validation_ids)"
        )
    rng = random.Random(seed)
    held = set(rng.sample(pids, num_pids))
    query, gallery = own.draw_queries([s for s in splits.train if s.pid in held], splits.protocol, rng)
    note = f"{num_pids:,} people of the training set of {splits.name}, held out (seed {seed})"
    validation = Splits(
        f"{splits.name}_val",
        (),
        tuple(query),
        tuple(gallery),
        notes=(note,),
        protocol=splits.protocol,
        title=f"validation part of {splits.name}",
    )
    rest = tuple(sample for sample in splits.train if sample.pid not in held)
    return dataclasses.replace(splits, train=rest, notes=(*splits.notes, note)), validation


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """The N images (or tracklets) of one data set or of several, to train on; labels and cameras are contiguous.

    samples: each with the pid and camid of its own set. labels (N,): identities 0 .. num_pids - 1, those of the first
    set first, each set's in the order of its own numbers. cameras (N,): likewise. infrared: which of these camera
    numbers see infrared. numbering: data set -> its own cameras, in the order of their numbers here. counts: data set
    -> its share of `samples`, in their order. clothes (N,): the clothes worn, 0 .. len(wearers) - 1, numbered like the
    identities: a set's by person, then by the set's own numbers. Empty where a set does not tell clothes apart.
    wearers: of each of the clothes the label of who wears it; no two people share one.
    """

    samples: tuple[Sample, ...]
    labels: tuple[int, ...]
    num_pids: int
    cameras: tuple[int, ...]
    infrared: frozenset[int]
    numbering: dict[str, list[int]]
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    clothes: tuple[int, ...] = ()
    wearers: tuple[int, ...] = ()

    def made_of(self) -> dict[str, str]:
        """Data set -> what of it is trained on, in words that change with any name, label or size of a file."""
        found, rest = {}, iter(self.samples)
        for name, count in self.counts.items():
            part = list(itertools.islice(rest, count))
            digest = fingerprint.of_samples(sample.labelled for sample in part)
            people = len({sample.pid for sample in part})
            found[name] = f"{count:,} images of {people:,} people (fingerprint {digest})"
        return found


def combine(parts: Sequence[Splits], use_all: bool = False) -> TrainingSet:
    """The training images of several data sets as one; no two people and no two cameras of them coincide.

    use_all: train on query and gallery images too (torchreid's `combineall`), each image once and without distractors.
        A pid of the test is the same person in training, or another where the set numbers both anew (`shared_pids`).
        Such a model cannot be tested on these sets.
    Raises ValueError if a set has no training images.
    """
    samples: list[Sample] = []
    labels: list[int] = []
    cameras: list[int] = []
    infrared: set[int] = set()
    numbering: dict[str, list[int]] = {}
    counts: dict[str, int] = {}
    num_pids = num_cameras = 0
    for splits in parts:
        pool = _pool(splits, use_all)
        people = {person: num_pids + i for i, person in enumerate(sorted({person for _, person in pool}))}
        numbering[splits.name] = sorted({sample.camid for sample, _ in pool})
        number = {camid: num_cameras + i for i, camid in enumerate(numbering[splits.name])}
        counts[splits.name] = len(pool)
        samples += [sample for sample, _ in pool]
        labels += [people[person] for _, person in pool]
        cameras += [number[sample.camid] for sample, _ in pool]
        infrared |= {number[camid] for camid in splits.infrared if camid in number}
        num_pids, num_cameras = num_pids + len(people), num_cameras + len(number)
    made = TrainingSet(tuple(samples), tuple(labels), num_pids, tuple(cameras), frozenset(infrared), numbering, counts)
    return made if any(sample.clothes is None for sample in samples) else _with_clothes(made)


def _with_clothes(data: TrainingSet) -> TrainingSet:
    """`data`, of which every sample says what is worn, with labels of the clothes."""
    worn = [(label, sample.clothes) for label, sample in zip(data.labels, data.samples, strict=True)]
    number = {pair: i for i, pair in enumerate(sorted({*worn}))}
    return dataclasses.replace(
        data, clothes=tuple(number[pair] for pair in worn), wearers=tuple(label for label, _ in number)
    )


def camera_label(numbering: Mapping[str, Sequence[int]], name: str, camid: int) -> int:
    """Number of camera `camid` of set `name` in a training set of this `numbering`; -1 if it was not trained on."""
    first = 0
    for known, camids in numbering.items():
        if known == name:
            return first + list(camids).index(camid) if camid in camids else -1
        first += len(camids)
    return -1


def _pool(splits: Splits, use_all: bool) -> list[tuple[Sample, tuple[int, int]]]:
    """(sample, person) of every image to train on; a person is a pid and which numbering it is of."""
    pool = [(sample, (0, sample.pid)) for sample in splits.train]
    if use_all:
        test = dict.fromkeys((*splits.query, *splits.gallery))  # MARS's queries are in the gallery too
        numbering = 0 if splits.shared_pids else 1
        pool += [(s, (numbering, s.pid)) for s in test if s.pid != splits.distractor_pid]
    if not pool:
        raise ValueError(
            f"{splits.name} has no training images: name another set with --train_dataset, or give all of this one"
        )
    return pool


# ============ will the evaluation find anything? ============


class QueryCheck(NamedTuple):
    """How many queries there are, and how many have at least one right answer in the gallery."""

    num_query: int
    num_valid: int


def check_queries(query: Sequence[Sample], gallery: Sequence[Sample], protocol: str = "market1501") -> QueryCheck:
    """Count the queries that can be answered under a protocol of `protocols.PROTOCOLS`, without any distance.

    Raises ValueError if there is no query, no gallery, or not one query with a match, and says which rule removed them.
    """
    from protocols import Labels  # here: it imports torch, and the command line reads this file before it needs that

    labels = Labels.of(query, gallery, protocol)
    labels.need_matches()
    return QueryCheck(len(query), int((labels.num_hits > 0).sum()))


def matchable(splits: Splits) -> str | None:
    """None if every query can be answered, else one line that says how many cannot; ValueError if none can."""
    num_query, num_valid = check_queries(splits.query, splits.gallery, splits.protocol)
    if num_valid == num_query:
        return None
    return (
        f"{splits.name}: {num_query - num_valid:,} of {num_query:,} queries have no match in the gallery under "
        f"protocol {splits.protocol}; they are left out of every average"
    )
