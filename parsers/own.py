"""The user's own images: Market-style names, a folder per person, or a CSV file; split here if no split is given."""

from __future__ import annotations

import csv
import os
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from parsers import base
from parsers.base import SUBSETS, Entry, Sample, Splits

OWN_FOLDERS = {
    "train": ("bounding_box_train", "train"),
    "query": ("query",),
    "gallery": ("bounding_box_test", "gallery", "test"),
}
OWN_NAME = re.compile(r"(-1|\d+)_c(?:am)?(\d+)(?:s\d+)?(?=[_.\-])", re.IGNORECASE)  # 17_c3_0001.jpg, 0017_c3s1_....png
OWN_CAMERA = re.compile(r"(?:^|[^a-z0-9])c(?:am(?:era)?[_\-]?)?(\d+)(?=$|[^a-z0-9]|s\d)", re.IGNORECASE)  # _c3_, cam3
OWN_COLUMNS = ("path", "pid", "camid", "split")
OWN_LOOKED_FOR = (
    "images named <pid>_c<camera>_<anything>.jpg, or a folder per person with that person's images "
    "(either in one place or below train/, query/ and gallery/), or a .csv file with the columns "
    "path,pid,camid[,split]"
)


class _Row(NamedTuple):
    """One image of the user's, before people have numbers. `camid` None: the name has no camera."""

    path: str
    person: str
    camid: int | None


class _Own:
    """What reading the user's images gathers: rows by subset (`all`: not yet split), bad ones, remarks."""

    def __init__(self) -> None:
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
        raise base.missing(OWN, root, OWN_LOOKED_FOR)
    _fill_cameras(own)
    _settle_bad(root, own, skip_bad)
    if not any(own.rows.values()):
        raise ValueError(f"own: no usable image in {root}. Looked for {OWN_LOOKED_FOR}.")
    samples = _number_people(own)
    protocol = _own_protocol(samples, own)
    if "all" in samples:
        samples = _split_people(samples.pop("all"), protocol, seed, own)
    elif samples.get("gallery") and not samples.get("query"):
        samples["query"], samples["gallery"] = draw_queries(samples["gallery"], protocol, random.Random(seed))
        if not samples["query"]:
            raise ValueError(
                f"own: no queries can be drawn from the gallery of {root}: nobody has two images in it. "
                "Add images of the same people, or give query images in query/."
            )
        own.notes.append(f"no queries given: drawn from the gallery, one image per person and camera (seed {seed})")
    elif samples.get("query") and not samples.get("gallery"):
        raise ValueError(f"own: {root} has query images and no gallery. Add gallery/ (or test/): the images to search.")
    return base.by_subset("own", samples, own.notes, protocol=protocol)


def _read_own_folder(root: str, own: _Own) -> None:
    """Recognise what kind of folder it is and read it."""
    images, folders = base.list_folder(root)
    tables = [name for name in sorted(os.listdir(root)) if name.lower().endswith(".csv") and not name.startswith(".")]
    tables = [name for name in tables if os.path.isfile(os.path.join(root, name))]
    tables = [name for name in tables if {"path", "pid"} <= set(_csv_header(os.path.join(root, name)))]
    if len(tables) > 1:
        raise ValueError(f"own: {root} holds {len(tables)} lists of images: {base.few(tables)}. Give the path of one.")
    if tables:
        own.notes.append(f"read from {tables[0]}")
        return _read_own_csv(os.path.join(root, tables[0]), own)
    parts = {subset: [each for each in folders if each.lower() in names] for subset, names in OWN_FOLDERS.items()}
    if any(parts.values()):
        for subset, names in parts.items():
            if len(names) > 1:
                raise ValueError(f"own: {root} has more than one folder for {subset}: {base.few(names)}. Keep one.")
            if names:
                _read_own_part(os.path.join(root, names[0]), subset, own)
        rest = sorted(set(folders) - {name for names in parts.values() for name in names})
        if rest or images:
            own.notes.append(f"not read: {base.few([*(f'{name}/' for name in rest), *images])}")
    elif not images and len(folders) == 1 and not base.list_folder(os.path.join(root, folders[0]))[0]:
        _read_own_folder(os.path.join(root, folders[0]), own)  # a wrapper folder around everything
    else:
        _read_own_part(root, "all", own)
    return None


def _read_own_part(folder: str, subset: str, own: _Own) -> None:
    """Images with Market-style names, or, if there are none, a folder per person."""
    images, folders = base.list_folder(folder)
    if not images and not folders:
        raise ValueError(f"own: no images in {folder}: {base.holds(folder)}. Looked for {OWN_LOOKED_FOR}.")
    if images and folders:
        own.notes.append(f"not read: folders beside the images in {os.path.basename(folder)}/: {base.few(folders)}")
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
        shots, _ = base.list_folder(inside)
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
    if (
        not {"path", "pid", "camid"} <= set(header)
        or not set(header) <= set(OWN_COLUMNS)
        or len(header) != len(set(header))
    ):
        raise ValueError(
            f"own: line 1 of {path} has columns {', '.join(header) or 'none'}; expected path,pid,camid "
            "or path,pid,camid,split (commas, UTF-8). If there is one camera, write 1 for every camid."
        )
    lines_of: dict[tuple[str, str], int] = {}  # (path, split) -> line, to find images listed twice
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
    named = "; ".join(own.bad[: base.FIRST_FEW]) + ("; ..." if len(own.bad) > base.FIRST_FEW else "")
    if not skip_bad:
        raise ValueError(
            f"own: {len(own.bad):,} entries of {root} cannot be used: {named}. Correct them, take them "
            f"out, or leave them out with --skip_bad_images. Expected {OWN_LOOKED_FOR}."
        )
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
    samples = {
        subset: [Sample(row.path, number[row.person], row.camid or 0) for row in part]
        for subset, part in own.rows.items()
    }
    train = {sample.pid for sample in samples.get("train", ())}
    both = train & {sample.pid for subset in ("query", "gallery") for sample in samples.get(subset, ())}
    if both:
        own.notes.append(
            f"{len(both):,} pids are in training and test ({base.few(both)}): if these are the same people, "
            "the result will be too good"
        )
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
    own.notes.append(
        f"{reason}: protocol none (only the query image itself is left out of its gallery), "
        "so results do not compare with those across cameras"
    )
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
        raise ValueError(
            f"own: {len(samples):,} images of {len(images):,} people cannot be split into training and "
            "test: at least two people are needed, and two images of one of them. Add images, or give the "
            "split yourself (train/, query/ and gallery/)."
        )
    rng = random.Random(seed)
    rng.shuffle(matched)
    rng.shuffle(single)
    test = set(matched[: (len(matched) + 1) // 2] + single[: len(single) // 2])
    train = [sample for sample in samples if sample.pid not in test]
    query, gallery = draw_queries([sample for sample in samples if sample.pid in test], protocol, rng)
    own.notes.append(
        f"no split given: made here with seed {seed}, {len(images) - len(test):,} people for training and "
        f"{len(test):,} others for the test"
    )
    return {"train": train, "query": query, "gallery": gallery}


def draw_queries(samples: Sequence[Sample], protocol: str, rng: random.Random) -> tuple[list[Sample], list[Sample]]:
    """(query, gallery): of each person one image per camera (protocol `none`: one image) becomes a query, provided that
    every query of that person keeps a match in the gallery."""
    from protocols import PROTOCOLS  # here: it imports torch, which reading a folder does not need

    removes = PROTOCOLS[protocol].removes
    by_person: dict[int, dict[int, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        by_person[sample.pid][sample.camid if protocol != "none" else 0].append(sample)
    drawn = set()
    for pid in sorted(by_person):
        left = {camid: len(images) for camid, images in by_person[pid].items()}  # images that stay in the gallery
        asked: list[int] = []  # cameras from which this person is asked for
        for camid in sorted(left):
            left[camid] -= 1
            if all(
                any(n for other, n in left.items() if not removes(each, other, True, False)) for each in (*asked, camid)
            ):
                drawn.add(rng.choice(by_person[pid][camid]))
                asked.append(camid)
            else:
                left[camid] += 1
    return [s for s in samples if s in drawn], [s for s in samples if s not in drawn]


OWN = Entry(
    name="own",
    title="own images",
    description="your own images: Market-style names, a folder per person, or a CSV (path,pid,camid[,split])",
    parse=parse_own,
)

ENTRIES = (OWN,)
