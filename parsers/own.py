"""The user's own images: Market-style names, a folder per person, or a CSV file; split here if no split is given."""

from __future__ import annotations

import csv
import difflib
import os
import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from machine.files import printable
from parsers import base
from parsers.base import SUBSETS, Entry, Sample, Splits

OWN_FOLDERS = {  # of Market-1501, layumi's prepare.py, VeRi-776, and what people write
    "train": ("bounding_box_train", "train_all", "train", "image_train"),
    "query": ("query", "image_query"),
    "gallery": ("bounding_box_test", "gallery", "test", "image_test"),
}
# 17_c3_0001.jpg, 0017_c3s1_000451_03.jpg, 17_cam2.png; person01_cam01_frame026.jpg, cam1_person001_00317.png
OWN_NAME = re.compile(r"(-1|\d+)_c(?:am(?:era)?)?[_\-]?(\d+)(?:s\d+)?(?=[_.\-])", re.IGNORECASE)
OWN_PERSON = re.compile(r"(?:^|[^a-z0-9])(?:person|pid|id)[_\-]?(\d+)(?=$|[^a-z0-9])", re.IGNORECASE)
OWN_CAMERA = re.compile(r"(?:^|[^a-z0-9])c(?:am(?:era)?[_\-]?)?(\d+)(?=$|[^a-z0-9]|s\d)", re.IGNORECASE)  # _c3_, cam3
CAMERA_FOLDER = re.compile(r"c(?:am(?:era)?)?[_\- ]?(\d+)|cam(?:era)?[_\- ]([a-z])", re.IGNORECASE)  # cam1, C2, cam_a
OWN_COLUMNS = {  # what a column is called here -> and elsewhere; of several the first that is there is read
    "path": (
        "path",
        "image_path",
        "img_path",
        "file_path",
        "filepath",
        "filename",
        "file_name",
        "file",
        "image",
        "img",
    ),
    "pid": ("pid", "person_id", "person", "identity", "label", "id"),
    "camid": ("camid", "camera_id", "cam_id", "camera", "cam", "sequence"),
    "split": ("split", "subset"),
    "is_query": ("is_query",),  # this and the next: open-metric-learning, docs/source/contents/dataset_format.md
    "is_gallery": ("is_gallery",),
}
OWN_BOXES = {"x_1", "x_2", "y_1", "y_2"}  # of open-metric-learning: the person is a part of the image
OWN_TABLES = (".csv", ".tsv")
TRUE, NOTHING = ("true", "1", "1.0", "yes"), ("", "nan", "NaN", "None", "null", "NULL", "<NA>")
OWN_LOOKED_FOR = (
    "images named <pid>_c<camera>_<anything>.jpg, or a folder per person with that person's images "
    "(either in one place or below train/, query/ and gallery/; cam1/<person>/ and <person>/cam1/ too), or a .csv file "
    "with the columns path,pid,camid[,split]"
)


class _Row(NamedTuple):
    """One image of the user's, before people and cameras have numbers. `camera` None: nothing names one."""

    path: str
    person: str
    camera: str | None


class _Own:
    """What reading the user's images gathers: rows by subset (`all`: not yet split), bad ones, remarks."""

    def __init__(self) -> None:
        self.rows: dict[str, list[_Row]] = defaultdict(list)
        self.bad: list[str] = []
        self.notes: list[str] = []
        self.num_junk = 0
        self.pairs: set[tuple[str, int]] = set()  # a person's folder, and who the name of an image in it says it is

    def add(self, subset: str, path: str, person: str, camera: str | None) -> None:
        """One image, unless it is junk (pid -1) or its person has another negative number."""
        if person == "-1":
            self.num_junk += 1
        elif re.fullmatch(r"-\d+", person):
            self.bad.append(f"{path} (pid {person}; a pid is 0 or more, or -1 for junk)")
        else:
            self.rows[subset].append(_Row(path, person, camera))


def parse_own(root: str, *, seed: int = 0, skip_bad: bool = False) -> Splits:
    """Images of your own, in one of three forms.

    - names that give person and camera, `<pid>_c<camera>_<anything>.jpg` as Market-1501's or
      `person01_cam01_<anything>.jpg`, in one folder or in Market-1501's three (or VeRi-776's, or folders cam1/, cam2/);
    - a folder per person, named as you like (people are numbered in sorted order unless all names are numbers), in one
      place or below train/ (or train_all/), query/ and gallery/ (or test/); the camera is read from a folder cam1/
      above or below the person's, or from the file name (`_c3_`, `cam3`); if nothing names one, there is one camera;
    - a CSV file (commas, semicolons or tabs) with the columns path,pid,camid and, if you like, split (train, query,
      gallery or test), or with open-metric-learning's is_query and is_gallery; paths are relative to the file; persons
      and cameras may be names; other columns are passed over. A folder that holds such a file is read by it.

    Pid -1 is junk, as in Market-1501; pid 0 is a person like any other. Where the file names give other people than the
    folders do, nothing is read. Without a split, half of the people (drawn with `seed`) go to training and half to the
    test, nobody to both; of each person of the test one image per camera becomes a query, as long as a match stays in
    the gallery. A gallery without queries is divided in the same way. `skip_bad`: leave out what cannot be read and say
    so, instead of stopping.
    """
    own = _Own()
    if root.lower().endswith(OWN_TABLES) and os.path.isfile(root):
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
    return base.by_subset("own", samples, own.notes, protocol=protocol, left_out=tuple(own.bad))


# ============ folders ============


def _read_own_folder(root: str, own: _Own) -> None:
    """Recognise what kind of folder it is and read it."""
    images, folders = base.list_folder(root)
    tables = [name for name in sorted(os.listdir(root)) if name.lower().endswith(OWN_TABLES) and name[0] != "."]
    tables = [name for name in tables if os.path.isfile(os.path.join(root, name))]
    lists = [name for name in tables if {"path", "pid"} <= set(_Table.of(os.path.join(root, name)).column)]
    if len(lists) > 1:
        raise ValueError(f"own: {root} holds {len(lists)} lists of images: {base.few(lists)}. Give the path of one.")
    if len(tables) == 1 and not images and len(folders) < 2:
        lists = tables  # if it is none, its columns are what is wrong
    if lists:
        own.notes.append(f"read from {printable(lists[0])}")
        return _read_own_csv(os.path.join(root, lists[0]), own)
    if {name.lower() for name in folders} & {name for names in OWN_FOLDERS.values() for name in names}:
        _read_own_parts(root, images, folders, own)
    elif not images and len(folders) == 1 and _wraps(os.path.join(root, folders[0])):
        _read_own_folder(os.path.join(root, folders[0]), own)  # a wrapper folder around everything
    else:
        _read_own_part(root, "all", own)
    return None


def _wraps(folder: str) -> bool:
    """Whether the only folder of a data set is one around everything, and not a person."""
    names = base.list_folder(folder)[0]
    return all(all(_named(name)) for name in names) or any(
        name.lower().endswith(OWN_TABLES) for name in os.listdir(folder)
    )


def _read_own_parts(root: str, images: Sequence[str], folders: Sequence[str], own: _Own) -> None:
    """A folder for each of training, query and gallery, or for some of them."""
    read = []
    for subset, names in OWN_FOLDERS.items():
        there = [name for name in folders if name.lower() in names]
        if subset == "train" and {name.lower() for name in there} == {"train_all", "train"}:
            there = [name for name in there if name.lower() == "train_all"]  # layumi's: train/ and val/ together
        if len(there) > 1:
            raise ValueError(f"own: {root} has more than one folder for {subset}: {base.few(there)}. Keep one.")
        for name in there:
            _read_own_part(os.path.join(root, name), subset, own)
        read += there
    rest = sorted(set(folders) - set(read))
    if rest or images:
        own.notes.append(f"not read: {base.few([*(f'{name}/' for name in rest), *images])}")


def _read_own_part(folder: str, subset: str, own: _Own) -> None:
    """Images whose names give person and camera, or, if there are none, folders."""
    images, folders = base.list_folder(folder)
    if not images and not folders:
        raise ValueError(f"own: no images in {folder}: {base.holds(folder)}. Looked for {OWN_LOOKED_FOR}.")
    if not images:
        return _read_own_people(folder, folders, subset, own)
    if folders:
        own.notes.append(f"not read: folders beside the images in {os.path.basename(folder)}/: {base.few(folders)}")
    for image in images:
        person, camera = _named(image)
        if person is None or camera is None:
            own.bad.append(f"{os.path.join(folder, image)} (does not read like <pid>_c<camera>_<anything>.jpg)")
        else:
            own.add(subset, os.path.join(folder, image), person, camera)
    return None


def _read_own_people(folder: str, folders: Sequence[str], subset: str, own: _Own) -> None:
    """Images in `folders` of `folder`, each a person or a camera, or in folders of these, which are then the other."""
    shots: list[tuple[tuple[str, ...], str]] = []  # folders below `folder`, name of the image
    for name in folders:
        images, deeper = base.list_folder(os.path.join(folder, name))
        inside: list[tuple[tuple[str, ...], str]] = [((name,), image) for image in images]
        if not images:
            inside = [((name, b), i) for b in deeper for i in base.list_folder(os.path.join(folder, name, b))[0]]
        if not inside:
            own.bad.append(f"{os.path.join(folder, name)}{os.sep} (a person's folder without images)")
        shots += inside
    levels = [{below[-1] for below, _ in shots if len(below) == depth} for depth in (1, 2)]
    if all(levels):
        raise ValueError(
            f"own: some folders of {folder} hold images ({base.few(levels[0])}) and others folders of images "
            f"({base.few(levels[1])}). Bring all images to one level."
        )
    names = [{below[level] for below, _ in shots} for level in range(2 if levels[1] else 1)]
    camera = next((level for level, each in enumerate(names) if each and all(map(CAMERA_FOLDER.fullmatch, each))), None)
    if levels[1] and camera is None:
        below = shots[0][0]
        raise ValueError(
            f"own: the images of {folder} are one level deeper than a folder per person ({os.path.join(*below)}), and "
            "neither level names cameras. Call the folders of one level cam1, cam2, ...; or give one folder of the "
            f"upper level, --own_path {os.path.join(folder, below[0])}; or a .csv file with path,pid,camid."
        )
    people = [[name for level, name in enumerate(below) if level != camera] for below, _ in shots]
    named = [_named(image) for _, image in shots]
    _same_people(folder, people, named, own)
    for (below, image), person, (says, filmed) in zip(shots, people, named, strict=True):
        path = os.path.join(folder, *below, image)
        match = CAMERA_FOLDER.fullmatch(below[camera]) if camera is not None else None
        of_folder = (match[1] or match[2].lower()) if match else None
        if not person and says is None:
            own.bad.append(f"{path} (the folder is a camera's, and the name gives no person, as 17_c3_1.jpg would)")
        elif of_folder and filmed and _label(of_folder) != _label(filmed):
            own.bad.append(f"{path} (camera {filmed} in its name and {of_folder} in its folder's)")
        else:
            own.add(subset, path, person[0] if person else says or "", of_folder or filmed)


def _named(image: str) -> tuple[str | None, str | None]:
    """(person, camera) of a file name, each None if the name does not give it."""
    match = OWN_NAME.match(image)
    if match:
        return match[1], match[2]
    stem = os.path.splitext(image)[0]
    person, camera = OWN_PERSON.search(stem), OWN_CAMERA.search(stem)
    return person and person[1], camera and camera[1]


def _same_people(
    folder: str, people: Sequence[list[str]], named: Sequence[tuple[str | None, str | None]], own: _Own
) -> None:
    """ValueError if every file name gives a person and a camera, and these are not the people of the folders."""
    if not all(people) or not all(all(each) for each in named):
        return
    own.pairs |= {(below[0], int(person or 0)) for below, (person, _) in zip(people, named, strict=True)}
    pairs = own.pairs
    if len(pairs) == len({name for name, _ in pairs}) == len({person for _, person in pairs}):
        return
    raise ValueError(
        f"own: the folders of {folder} and the names of the images in them give different people: "
        f"{base.few(f'{name}{os.sep} holds person {person}' for name, person in pairs)}. If the names are right, put "
        "all images into one folder (or into one for each camera, cam1, cam2, ...); if the folders are, rename the "
        "images: img_17_c3.jpg gives a camera only."
    )


# ============ a CSV file ============


class _Table(NamedTuple):
    """A text file of rows. `column`: where each of OWN_COLUMNS stands; `header`: all names, in lower case."""

    path: str
    encoding: str
    delimiter: str
    header: list[str]
    column: dict[str, int]

    @classmethod
    def of(cls, path: str) -> _Table:
        """The table whose separator finds most columns; without any if it is not text (an editor's lock file, say)."""
        with open(path, "rb") as file:
            start = file.read(2)
        encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"  # both written by Excel
        found = []
        for delimiter in ",;\t|":
            try:
                with open(path, newline="", encoding=encoding) as file:
                    cells = next(csv.reader(file, delimiter=delimiter), [])
            except (UnicodeDecodeError, csv.Error):
                cells = []
            header = [re.sub(r"[\s\-]+", "_", cell.strip().lower()) for cell in cells]
            there = {field: [name for name in names if name in header] for field, names in OWN_COLUMNS.items()}
            column = {field: header.index(names[0]) for field, names in there.items() if names}
            found.append(cls(path, encoding, delimiter, header, column))
        return max(found, key=lambda table: len(table.column))

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line, cells) of each row that is not empty."""
        with open(self.path, newline="", encoding=self.encoding) as file:
            reader = csv.reader(file, delimiter=self.delimiter)
            next(reader, None)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, [cell.strip() for cell in cells]

    def check(self) -> list[str]:
        """The columns that are not read; ValueError where one that has to be there is not, or is there twice."""
        queries, wanted = {"is_query", "is_gallery"}, {"path", "pid", "camid"}
        if queries & set(self.column):  # open-metric-learning: no column has to name the camera
            wanted = {"path", "pid", *queries}
        names = [name for name in self.header if name]
        if not wanted <= set(self.column) or len(names) != len(set(names)):
            raise ValueError(
                f"own: line 1 of {self.path} has columns {printable(', '.join(names)) or 'none'}; expected "
                "path,pid,camid or path,pid,camid,split (commas, semicolons or tabs; UTF-8). If there is one camera, "
                "write 1 for every camid."
            )
        rest = [name for place, name in enumerate(self.header) if name and place not in self.column.values()]
        for name in rest:
            meant = difflib.get_close_matches(name, set(OWN_COLUMNS) - set(self.column), 1, 0.75)
            if meant:
                raise ValueError(f"own: line 1 of {self.path} has a column {printable(name)}: is {meant[0]} meant?")
        return rest


def _read_own_csv(path: str, own: _Own) -> None:
    """Rows of a CSV file; each bad one is remembered with its line and column."""
    table = _Table.of(path)
    rest = table.check()
    if rest:
        own.notes.append(f"columns of {os.path.basename(path)} that are not read: {base.few(rest)}")
    if "camid" in table.column and table.header[table.column["camid"]] == "sequence":
        own.notes.append("column sequence is read as the camera")
    boxes = [place for place, name in enumerate(table.header) if name in OWN_BOXES]
    lines_of: dict[tuple[str, str], int] = {}  # (path, subset) -> line, to find images listed twice
    try:
        for line, cells in table.rows():
            width = len(table.header)
            if len(cells) < width or any(cells[width:]):
                own.bad.append(f"line {line}, {len(cells)} columns where line 1 has {width}")
                continue
            if any(cells[place] not in NOTHING for place in boxes):
                raise ValueError(
                    f"own: line {line} of {path} gives a box within the image (x_1, x_2, y_1, y_2): cut the people "
                    "out, one file each, and leave these columns out."
                )
            row = {field: cells[place] for field, place in table.column.items()}
            problem = _read_own_row(path, line, row, lines_of, own)
            if problem:
                own.bad.append(f"line {line}, {problem}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"own: {path} cannot be read as CSV in UTF-8: {error}. Save it again in that form.") from None


def _read_own_row(path: str, line: int, row: dict[str, str], lines_of: dict, own: _Own) -> str | None:
    """Add one row to `own`, or say which column is wrong."""
    person, camera = _label(row["pid"]), _label(row["camid"]) if "camid" in row else None
    subsets = _subsets(row)
    if isinstance(subsets, str):
        return subsets
    if person in NOTHING:
        return "column pid: empty"
    if re.match(r"-(?!1$)[\d.]+$", person):
        return f"column pid: {person} (a pid is 0 or more, or -1 for junk)"
    if camera is not None and (camera in NOTHING or re.match(r"-[\d.]+$", camera)):
        return f"column camid: {row['camid']!r} is no camera (a number from 0, or a name)"
    image = _file(os.path.dirname(path), row["path"])
    if not os.path.isfile(image):
        return f"column path: no file {image}"
    for subset in subsets:
        if (image, subset) in lines_of:
            return f"column path: {row['path']} is on line {lines_of[image, subset]} already"
        lines_of[image, subset] = line
        own.add(subset, image, person, camera)
    return None


def _subsets(row: Mapping[str, str]) -> list[str] | str:
    """Where a row belongs, or which column is wrong. An image can be query and gallery by is_query and is_gallery."""
    split = row.get("split", "all").lower()
    if "is_query" not in row or split == "train":
        if split not in (*SUBSETS, "test", "all") or ("split" in row and split == "all"):
            return f"column split: {row['split']!r} is not train, query, gallery or test"
        return ["gallery" if split == "test" else split]
    asked = [subset for subset in ("query", "gallery") if row[f"is_{subset}"].lower() in TRUE]
    return asked or "columns is_query and is_gallery: neither is true, and split is not train"


def _label(text: str) -> str:
    """A person or camera as written in a table, one spelling for each: 1, 01 and 1.0 (of pandas) are the same."""
    if re.fullmatch(r"-?\d+(\.0*)?", text, re.ASCII):
        return str(int(text.partition(".")[0]))
    return unicodedata.normalize("NFC", text)


def _file(folder: str, path: str) -> str:
    """The file that a list names, from the list's folder; a list made on Windows parts folders by backslashes."""
    spellings = [os.path.normpath(os.path.join(folder, os.path.expanduser(p))) for p in (path, path.replace("\\", "/"))]
    return next(filter(os.path.isfile, spellings), spellings[0])


# ============ people and cameras ============


def _fill_cameras(own: _Own) -> None:
    """An image without a camera is of one camera if none has one, and a mistake if others have."""
    rows = [row for part in own.rows.values() for row in part]
    without = [row for row in rows if row.camera is None]
    if without and len(without) == len(rows):
        own.notes.append("nothing names a camera (`_c3_` or `cam3`): one camera is assumed")
        for subset, part in own.rows.items():
            own.rows[subset] = [row._replace(camera="1") for row in part]
        return
    own.bad += [f"{row.path} (no camera in its name, while other names have one)" for row in without]
    for subset, part in own.rows.items():
        own.rows[subset] = [row for row in part if row.camera is not None]


def _settle_bad(root: str, own: _Own, skip_bad: bool) -> None:
    """Stop at what could not be read, or note what is left out."""
    if own.num_junk:
        own.notes.append(f"{own.num_junk:,} junk images (pid -1) left out")
    if not own.bad:
        return
    own.bad = [printable(each) for each in own.bad]
    named = "; ".join(own.bad[: base.FIRST_FEW]) + ("; ..." if len(own.bad) > base.FIRST_FEW else "")
    if not skip_bad:
        raise ValueError(
            f"own: {len(own.bad):,} entries of {root} cannot be used: {named}. Correct them, take them "
            f"out, or leave them out with --skip_bad_images. Expected {OWN_LOOKED_FOR}."
        )
    own.notes.append(f"{len(own.bad):,} entries left out: {named}")


def _numbered(labels: Iterable[str | None], first: int) -> tuple[dict[str | None, int], str]:
    """A number for each label: its own if all are numbers (0017 is 17), else in sorted order from `first` on, which is
    said in words."""
    names = sorted({label or "" for label in labels})
    if all(name.isascii() and name.isdecimal() and int(name) < 2**63 for name in names):
        return {name: int(name) for name in names}, ""
    number: dict[str | None, int] = {name: index for index, name in enumerate(names, first)}
    said = ", ".join(f"{index} = {printable(name)}" for index, name in enumerate(names[:3], first))
    return number, f"numbered in sorted order: {said}" + (", ..." if len(names) > 3 else "")


def _number_people(own: _Own) -> dict[str, list[Sample]]:
    """Rows to samples."""
    rows = [row for part in own.rows.values() for row in part]
    people, said = _numbered((row.person for row in rows), 0)
    cameras, also = _numbered((row.camera for row in rows), 1)
    own.notes += [f"{what} {text}" for what, text in (("people", said), ("cameras", also)) if text]
    spelled = defaultdict(list)
    for name in sorted({row.person for row in rows}):
        spelled[name.casefold()].append(name)
    twice = [" and ".join(names) for names in spelled.values() if len(names) > 1]
    if twice:
        own.notes.append(f"names that differ in capital letters only are taken for different people: {base.few(twice)}")
    samples = {
        subset: [Sample(row.path, people[row.person], cameras[row.camera]) for row in part]
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
    """(query, gallery): of each person one image per camera (protocol `none`: one image; those about clothes: one per
    camera and clothes) becomes a query, provided that every query of that person keeps a match in the gallery."""
    from protocols import PROTOCOLS  # here: it imports torch, which reading a folder does not need

    rule = PROTOCOLS[protocol]

    def seen(asking: tuple[int, int], other: tuple[int, int]) -> bool:  # (camera, clothes) each
        return not rule.removes(asking[0], other[0], True, False, asking[1] == other[1])

    by_person: dict[int, dict[tuple[int, int], list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        worn = (sample.clothes or 0) if rule.clothes else 0
        by_person[sample.pid][sample.camid if protocol != "none" else 0, worn].append(sample)
    drawn = set()
    for pid in sorted(by_person):
        left = {view: len(images) for view, images in by_person[pid].items()}  # images that stay in the gallery
        asked: list[tuple[int, int]] = []  # the views from which this person is asked for
        for view in sorted(left):
            left[view] -= 1
            if all(any(n for other, n in left.items() if seen(each, other)) for each in (*asked, view)):
                drawn.add(rng.choice(by_person[pid][view]))
                asked.append(view)
            else:
                left[view] += 1
    return [s for s in samples if s in drawn], [s for s in samples if s not in drawn]


OWN = Entry(
    name="own",
    title="own images",
    description="your own images: Market-style names, a folder per person, or a CSV (path,pid,camid[,split])",
    parse=parse_own,
)

ENTRIES = (OWN,)
