"""Parsers against small trees with real file names of each publisher, counted by hand; every trap and every error."""

import dataclasses
import importlib
import os
import pickle
import random
import subprocess
import sys
import time

import pytest
from PIL import Image
from trees import error, names, oddities, tree

import datasets
import main
import parsers
from datasets import Counts, Sample, Splits, check_queries, load_splits
from parsers import own
from parsers.image import MARKET_PUBLISHED

PARSERS = tuple(parsers.__path__)
MARKET = (
    "bounding_box_train/0002_c1s1_000451_03.jpg", "bounding_box_train/0002_c3s1_000551_01.jpg",
    "bounding_box_train/0007_c3s3_077419_03.jpg", "bounding_box_train/Thumbs.db",
    "bounding_box_train/._0002_c1s1_000451_03.jpg", "bounding_box_train/.DS_Store",
    "query/0001_c1s1_001051_00.jpg", "query/1488_c6s1_023021_00.jpg.jpg", "query/Thumbs.db",
    "bounding_box_test/-1_c3s2_102834_01.jpg", "bounding_box_test/-1_c4s6_022316_11.jpg.jpg",
    "bounding_box_test/0000_c1s6_023071_04.jpg.jpg", "bounding_box_test/0000_c2s1_000126_03.jpg",
    "bounding_box_test/0001_c2s1_000301_01.JPG", "bounding_box_test/1488_c3s3_071344_01.jpg",
    "bounding_box_test/Thumbs.db", "gt_bbox/0001_c1s1_001051_00.jpg", "readme.txt",
)  # fmt: skip
DUKE = (
    "bounding_box_train/0001_c2_f0046182.jpg", "bounding_box_train/7140_c4_f0175988.jpg",
    "query/0005_c2_f0046985.jpg", "query/0023_c4_f0031504.jpg",
    "bounding_box_test/0002_c1_f0044158.jpg", "bounding_box_test/0005_c5_f0051781.jpg",
    "bounding_box_test/0023_c8_f0031504.jpg",
)  # fmt: skip
CUHK03 = (
    "bounding_box_train/0001_c1_1.png", "bounding_box_train/0001_c2_6.png",
    "query/0003_c1_22.png", "query/0003_c2_27.png",
    "bounding_box_test/0003_c1_21.png", "bounding_box_test/0003_c1_23.png", "bounding_box_test/0003_c2_26.png",
)  # fmt: skip


# ---- types, names, options ----


def test_types_are_frozen_and_travel_to_workers():
    sample = Sample("a.jpg", 1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.pid = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        Splits("x", (), (), ()).name = "y"
    assert pickle.loads(pickle.dumps(sample)) == sample
    assert Sample(("a.jpg", "b.jpg"), 1, 2).path == ("a.jpg", "b.jpg")  # a tracklet


ALL = ("agreid", "cargo", "ccvid", "clonedperson", "cuhk01", "cuhk03", "cuhksysu", "deepchange", "duke",
       "dukevid", "grid", "ilids", "ilidsvid", "last", "llcm", "ltcc", "market", "mars", "msmt17", "occludedduke",
       "occludedreid", "own", "partialilids", "partialreid", "pduke", "prcc", "prid", "prid2011", "prid450s",
       "randperson", "regdb", "sensereid", "synthetic", "syntheticclothes", "syntheticrgbir", "syntheticvideo",
       "sysu", "vcclothes", "viper")  # fmt: skip


def test_registry_is_sorted_and_complete():
    assert tuple(datasets.DATASETS) == ALL
    assert list(datasets.DATASETS) == sorted(datasets.DATASETS)
    assert list(datasets.ALIASES) == sorted(datasets.ALIASES)
    for name, entry in datasets.DATASETS.items():
        assert entry.name == name and entry.title and entry.description and callable(entry.parse), name
        if entry.published:
            assert entry.citation and entry.terms, name
            tested = {"query", "gallery"} <= set(entry.published)
            assert tested or "for training only" in entry.description, name
            assert ("for testing only" in entry.description) == ("train" not in entry.published), name
        docstring = entry.parse.__doc__
        assert all(word in docstring for word in ("Reference:", "Published:", "Folders:")) or name == "own", name
    assert set(datasets.ALIASES.values()) <= set(datasets.DATASETS)
    assert not set(datasets.ALIASES) & set(datasets.DATASETS)
    assert datasets.DATASETS["cuhk03"].options == {"labeled": False, "classic": False, "split": 0}
    assert datasets.DATASETS["market"].options == {"distractors": False, "multi_query": False}
    assert datasets.DATASETS["duke"].options == {}


TOY = '''"""A newcomer's data set."""
import os
from parsers.base import Entry, Sample, Splits, list_folder

def parse_toy(root, *, first: int = 0):
    """Folders: photos/ with `7_1.jpg` (pid, camera)."""
    folder = os.path.join(root, "photos")
    names = list_folder(folder)[0] if os.path.isdir(folder) else []
    samples = [Sample(os.path.join(folder, name), int(name[0]), int(name[2])) for name in names]
    train, test = samples[first::2], samples[1::2]
    return Splits("toy", tuple(train), tuple(test[:1]), tuple(test[1:]))

TOY = Entry(name="toy", title="Toy set", description="two people", parse=parse_toy, aliases=("toys",))
ENTRIES = (TOY,)
'''


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """A function that puts a file of this text into parsers/ and registers it."""

    def add(text):
        (tmp_path / "parsers").mkdir(exist_ok=True)
        (tmp_path / "parsers" / "toy.py").write_text(text)
        monkeypatch.setattr(parsers, "__path__", [*PARSERS, str(tmp_path / "parsers")])
        monkeypatch.delitem(sys.modules, "parsers.toy", raising=False)
        importlib.invalidate_caches()
        entries = datasets.find_entries()
        monkeypatch.setattr(datasets, "DATASETS", entries)
        monkeypatch.setattr(datasets, "ALIASES", {a: e.name for e in entries.values() for a in e.aliases})

    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the file changes within one tick of its clock
    yield add
    sys.modules.pop("parsers.toy", None)


def test_a_data_set_is_one_file(tmp_path, newcomer, capsys):
    """A file in parsers/ is all that it takes: a flag, its options, and the doctor's verdict."""
    newcomer(TOY)
    tree(tmp_path / "data" / "photos", "1_1.jpg", "2_1.jpg", "2_2.jpg", "2_3.jpg", "3_1.jpg", "4_4.jpg")
    for image in (tmp_path / "data" / "photos").iterdir():
        Image.new("RGB", (32, 64)).save(image)
    assert list(datasets.DATASETS) == sorted([*ALL, "toy"])
    assert datasets.canonical("Toys") == "toy" and datasets.DATASETS["toy"].options == {"first": 0}
    words = ["--mode", "check", "--toy_path", str(tmp_path / "data")]
    assert main.main(words) == 0
    assert "Toy set recognised in" in capsys.readouterr().out
    assert main.main([*words, "--toy_first", "6"]) == 0  # the option reaches the parser: nobody to train on
    assert "toy: usable for a test" in capsys.readouterr().out


def test_a_parser_that_finds_nothing_recognises_nothing(tmp_path, newcomer, capsys):
    newcomer(TOY)
    with error(FileNotFoundError, "toy: Toy set not found", f"{tmp_path} holds parsers/", "Looked for photos/ with"):
        load_splits("toy", tmp_path)
    assert main.main(["--mode", "check", "--toy_path", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "toy: cannot be used as asked" in text and "recognised" not in text
    newcomer(TOY.replace('"""Folders: photos/ with `7_1.jpg` (pid, camera)."""', ""))
    with error(FileNotFoundError, "Looked for images that parse_toy in parsers.toy can read"):
        load_splits("toy", tmp_path)
    newcomer(TOY.replace("int(name[0])", "{}[name]"))
    tree(tmp_path, "photos/1_1.jpg")
    with error(ValueError, "toy: parse_toy in parsers.toy cannot read what is in", "KeyError: '1_1.jpg'", "--debug"):
        load_splits("toy", tmp_path)
    newcomer(TOY.replace("return Splits(", "print("))
    with error(ValueError, "toy: parse_toy in parsers.toy returned NoneType, expected Splits"):
        load_splits("toy", tmp_path)


@pytest.mark.parametrize("old, new, texts", [
    (', parse=parse_toy', "", ("parsers/toy.py, line 13", "TypeError", "'parse'")),
    ('name="toy"', 'nome="toy"', ("parsers/toy.py, line 13", "'nome'")),
    ("import os", "import os.nothing", ("parsers/toy.py, line 2", "os.nothing")),
    ("def parse_toy(root", "def parse_toy(root:", ("parsers/toy.py", "SyntaxError", "line 5")),
    ('"toy", title', '"market", title', ("parsers/toy.py, row 1 of ENTRIES (market)", "taken by parsers/image.py")),
    ('("toys",)', '("msmt",)', ("row 1 of ENTRIES (toy)", "'msmt' is taken by parsers/image.py")),
    ('("toys",)', '"toys"', ("row 1 of ENTRIES (toy)", "aliases", "tuple")),
    ("(TOY,)", "(TOY, TOY)", ("row 2 of ENTRIES (toy)", "'toy' is taken by parsers/toy.py")),
    ("(TOY,)", "(TOY, 'toy')", ("row 2 of ENTRIES (?)", "str, not an Entry")),
    ('"toy", title', '"Toy-1", title', ("row 1 of ENTRIES (Toy-1)", "'toy1'")),
    ("root, *, first: int = 0", "root, first: int = 0", ("row 1", "option first of parse_toy", "keyword-only")),
    ("first: int = 0", "first", ("row 1", "option first of parse_toy", "default")),
    ("root, *, first: int = 0", "", ("row 1", "parse_toy has to take the folder")),
    ("ENTRIES = (TOY,)", "", ("parsers/toy.py has no ENTRIES",)),
    ("ENTRIES = (TOY,)", "ENTRIES = TOY", ("parsers/toy.py has no ENTRIES", "tuple")),
    ("aliases=", 'choices={"fist": (0, 1)}, aliases=', ("row 1 of ENTRIES (toy)", "fist")),
])  # fmt: skip
def test_a_newcomers_mistake_is_answered_with_file_and_row(newcomer, old, new, texts):
    assert old in TOY
    with error(ValueError, *texts):
        newcomer(TOY.replace(old, new))


def test_reading_the_registry_is_cheap():
    """The command line reads it for every --help: nothing slow may be imported for it."""
    code = (
        "import sys, datasets; print({'h5py', 'scipy', 'timm', 'torch', 'PIL', 'numpy'} & set(sys.modules) or 'none')"
    )
    home = os.path.dirname(datasets.__file__)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=home)
    assert ended.stdout.strip() == "none", ended.stderr


def test_repeated_splits():
    repeated = {name: datasets.num_splits(name) for name in datasets.DATASETS if datasets.num_splits(name) > 1}
    assert repeated == {"cuhk01": 20, "grid": 10, "ilids": 10, "ilidsvid": 10, "prid": 10, "prid2011": 10,
                        "prid450s": 10, "regdb": 10, "viper": 20}  # fmt: skip
    assert all("split" in datasets.DATASETS[name].options for name in (*repeated, "cuhk03"))
    assert datasets.num_splits("cuhk03-np", classic=True) == 20
    assert [name for name in datasets.DATASETS if datasets.num_trials(name) > 1] == [
        "llcm",
        "prcc",
        "syntheticrgbir",
        "sysu",
    ]
    with error(ValueError, "'classic'", "its options: none"):
        datasets.num_splits("duke", classic=True)


@pytest.mark.parametrize("name", [name for name in ALL if name != "own" and not name.startswith("synthetic")])
def test_a_wrong_layout_is_answered_with_both(tmp_path, name):
    """What was found, what was expected, and where the data set comes from."""
    tree(tmp_path, "holiday/beach.jpg", "notes.txt")
    entry = datasets.DATASETS[name]
    with error(FileNotFoundError, f"{name}: {entry.title} not found", f"{tmp_path} holds holiday/, notes.txt",
               "Looked for", entry.offer):  # fmt: skip
        load_splits(name, tmp_path)
    withdrawn = name in ("duke", "dukevid", "occludedduke", "pduke")
    assert ("withdrawn" in entry.offer and "withdrawn" in entry.description) == withdrawn


@pytest.mark.parametrize("given, name", [
    ("market", "market"), ("iLIDS-VID", "ilidsvid"),
    ("SYSU-MM01", "sysu"), ("DukeMTMC-VideoReID", "dukevid"), ("Occluded_Duke", "occludedduke"),
    ("market1501", "market"), ("Market-1501", "market"), ("dukemtmc", "duke"),
    ("DukeMTMC-reID", "duke"), ("dukemtmcreid", "duke"), ("cuhk03_np", "cuhk03"), ("msmt", "msmt17"),
    ("MSMT17_V1", "msmt17"), ("own", "own"), ("synthetic", "synthetic"),
])  # fmt: skip
def test_names_of_others_are_understood(given, name):
    assert datasets.canonical(given) == name


def test_unknown_names_and_options(tmp_path):
    with error(ValueError, "'markt1501'", "'market'", ", ".join(ALL)):
        load_splits("markt1501", tmp_path)
    with error(ValueError, "'imagenet'", "cuhk01, cuhk03"):
        load_splits("imagenet", tmp_path)
    with error(ValueError, "'labelled'", "labeled"):
        load_splits("cuhk03", tmp_path, labelled=True)
    with error(ValueError, "'labeled'", "none"):
        load_splits("duke", tmp_path, labeled=True)
    with error(ValueError, "no path", "Market-1501", "http://www.liangzheng.org"):
        load_splits("market")


# ---- Market-1501 and its layout ----


def test_market_by_hand(tmp_path):
    splits = load_splits("market", tree(tmp_path, *MARKET))
    assert splits.name == "market" and splits.protocol == "market1501"
    assert names(splits.train, tmp_path) == [
        ("bounding_box_train/0002_c1s1_000451_03.jpg", 2, 1),
        ("bounding_box_train/0002_c3s1_000551_01.jpg", 2, 3),
        ("bounding_box_train/0007_c3s3_077419_03.jpg", 7, 3),
    ]
    assert names(splits.query, tmp_path) == [
        ("query/0001_c1s1_001051_00.jpg", 1, 1),
        ("query/1488_c6s1_023021_00.jpg.jpg", 1488, 6),
    ]
    assert names(splits.gallery, tmp_path) == [  # the two junk images are gone, the two distractors stay
        ("bounding_box_test/0000_c1s6_023071_04.jpg.jpg", 0, 1),
        ("bounding_box_test/0000_c2s1_000126_03.jpg", 0, 2),
        ("bounding_box_test/0001_c2s1_000301_01.JPG", 1, 2),
        ("bounding_box_test/1488_c3s3_071344_01.jpg", 1488, 3),
    ]
    assert splits.count("gallery") == Counts(2, 4, 3)  # distractors: images, but no identity
    table = str(splits)
    assert "2 gallery images are distractors (pid 0)" in table
    assert "2 junk images (pid -1) left out" in table
    assert "3 != 12,936 published" in table and "WARNING" in table


@pytest.mark.parametrize("name, files, wrapper", [
    ("market", MARKET, "Market-1501-v15.09.15"), ("market", MARKET, "Market-1501"), ("market", MARKET, "market1501"),
    ("market", MARKET, "market1501/Market-1501-v15.09.15"), ("market", MARKET, "images"), ("duke", DUKE, "."),
    ("duke", DUKE, "DukeMTMC-reID"), ("duke", DUKE, "dukemtmc-reid/DukeMTMC-reID"),
    ("cuhk03", CUHK03, "cuhk03-np/detected"), ("cuhk03", CUHK03, "CUHK03-NP/detected"), ("cuhk03", CUHK03, "detected"),
    ("cuhk03", CUHK03, "cuhk03/cuhk03-np/Detected"),
])  # fmt: skip
def test_wrapper_folders_are_found(tmp_path, name, files, wrapper):
    tree(tmp_path / wrapper, *files)
    tree(tmp_path, "elsewhere/a.jpg", "notes.txt")
    whole, exact = load_splits(name, tmp_path), load_splits(name, tmp_path / wrapper)
    assert whole == exact and whole.train


def test_each_set_is_found_beside_the_others(tmp_path):
    tree(tmp_path / "Market-1501", *MARKET)
    tree(tmp_path / "DukeMTMC-reID", *DUKE)
    tree(tmp_path / "cuhk03-np" / "detected", *CUHK03)
    assert load_splits("market", tmp_path).count("train") == Counts(2, 3, 2)
    assert load_splits("duke", tmp_path).count("train") == Counts(2, 2, 2)
    assert load_splits("cuhk03", tmp_path).count("train") == Counts(1, 2, 2)


def test_two_copies_are_not_chosen_between(tmp_path):
    tree(tmp_path / "Market-1501", *MARKET)
    tree(tmp_path / "market1501-copy", *MARKET)
    with error(ValueError, "2 folders", "Market-1501", "market1501-copy", "Give the path"):
        load_splits("market", tmp_path)


def test_search_is_bounded(tmp_path):
    tree(tmp_path / "a" / "b" / "Market-1501", *MARKET)
    with error(FileNotFoundError, "2 levels below", "a/"):
        load_splits("market", tmp_path)


def test_order_does_not_come_from_the_disk(tmp_path, monkeypatch):
    tree(tmp_path, *MARKET)
    expected = load_splits("market", tmp_path)
    scandir = os.scandir

    class Backwards:
        def __init__(self, folder):
            self.entries = sorted(scandir(folder), key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(os, "scandir", Backwards)
    assert load_splits("market", tmp_path) == expected


def test_home_and_relative_paths(tmp_path, monkeypatch):
    tree(tmp_path / "Market-1501", *MARKET)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path / "Market-1501")
    assert load_splits("market", "~/Market-1501") == load_splits("market", ".") == load_splits("market", "..")


def test_names_of_another_set_are_an_error(tmp_path):
    tree(tmp_path, *DUKE)
    with error(ValueError, "market: 2 of 2 images", "0002_c1s1_000451_03.jpg", "0001_c2_f0046182.jpg", "own"):
        load_splits("market", tmp_path)
    with error(ValueError, "cuhk03", "0001_c1_1.png"):
        load_splits("cuhk03", tree(tmp_path / "x" / "detected", *DUKE))


def test_bad_names_are_counted_and_named(tmp_path):
    tree(tmp_path, *MARKET, *(f"bounding_box_test/IMG_{i}.jpg" for i in range(7)))
    with error(ValueError, "7 of 13 images", "IMG_0.jpg, IMG_1.jpg, IMG_2.jpg, IMG_3.jpg, IMG_4.jpg and 2 more"):
        load_splits("market", tmp_path)


@pytest.mark.parametrize("drop, empty, note", [
    ("bounding_box_train", ("train",), "testing only"),
    (("query", "bounding_box_test"), ("query", "gallery"), "training only"),
])  # fmt: skip
def test_half_a_data_set(tmp_path, drop, empty, note):
    splits = load_splits("market", tree(tmp_path, *(name for name in MARKET if not name.startswith(drop))))
    assert [subset for subset in datasets.SUBSETS if not getattr(splits, subset)] == list(empty)
    assert any(note in each for each in splits.notes)
    assert "none (751)" in str(splits) or "none (3,368)" in str(splits)
    assert not any(line.startswith(empty) for line in splits.differences())


@pytest.mark.parametrize("drop", ["query", "bounding_box_test"])
def test_query_and_gallery_come_together(tmp_path, drop):
    tree(tmp_path, *(name for name in MARKET if not name.startswith(drop)))
    with error(FileNotFoundError, "one is not there", "bounding_box_train/"):
        load_splits("market", tmp_path)


def test_empty_folders(tmp_path):
    tree(tmp_path, *(name for name in MARKET if not name.startswith("bounding_box_train")))
    (tmp_path / "bounding_box_train").mkdir()
    with error(ValueError, "bounding_box_train is empty", "0002_c1s1_000451_03.jpg", "Unpack"):
        load_splits("market", tmp_path)
    tree(tmp_path, "bounding_box_train/Thumbs.db")
    with error(ValueError, "no Market-1501 images", "holds Thumbs.db"):
        load_splits("market", tmp_path)
    tree(tmp_path, "bounding_box_train/-1_c3s2_102834_01.jpg")  # junk alone
    with error(ValueError, "no Market-1501 images"):
        load_splits("market", tmp_path)


def test_missing_folders(tmp_path):
    tree(tmp_path, "photos/a.jpg", "Market-1501-v15.09.15.zip")
    with error(FileNotFoundError, "market", f"{tmp_path} holds Market-1501-v15.09.15.zip, photos/",
               "bounding_box_train/", "Unpack the archive", "http://www.liangzheng.org"):  # fmt: skip
        load_splits("market", tmp_path)
    with error(FileNotFoundError, "deeper does not exist", f"{tmp_path} holds"):
        load_splits("market", tmp_path / "nowhere" / "deeper")
    with error(FileNotFoundError, "is a file", "unpack"):
        load_splits("market", tmp_path / "Market-1501-v15.09.15.zip")
    (tmp_path / "empty").mkdir()
    with error(FileNotFoundError, "empty is empty"):
        load_splits("market", tmp_path / "empty")
    tree(tmp_path / "m", *MARKET)
    with error(FileNotFoundError, f"Give the folder above it, {tmp_path / 'm'}."):
        load_splits("market", tmp_path / "m" / "bounding_box_train")
    with error(FileNotFoundError, "withdrawn by its authors", "privacy"):
        load_splits("duke", tmp_path / "empty")
    with error(FileNotFoundError, "msmt17", "list_train.txt", "mask_train_v2/", "http://www.pkuvmc.com"):
        load_splits("msmt17", tmp_path / "empty")
    with error(FileNotFoundError, "detected/", "zhunzhong07"):
        load_splits("cuhk03", tmp_path / "empty")


def test_duke_by_hand(tmp_path):
    splits = load_splits("duke", tree(tmp_path, *DUKE))
    assert names(splits.gallery, tmp_path) == [
        ("bounding_box_test/0002_c1_f0044158.jpg", 2, 1),
        ("bounding_box_test/0005_c5_f0051781.jpg", 5, 5),
        ("bounding_box_test/0023_c8_f0031504.jpg", 23, 8),
    ]
    assert splits.count("gallery") == Counts(3, 3, 3)  # Duke's distractors are people of their own and are counted
    assert [s.pid for s in splits.train] == [1, 7140] and [s.camid for s in splits.query] == [2, 4]


def test_cuhk03_by_hand(tmp_path):
    root = tmp_path / "cuhk03-np"
    tree(root / "detected", *CUHK03)
    tree(root / "Labeled", *CUHK03, "bounding_box_train/0001_c1_2.png")
    detected, labeled = load_splits("cuhk03", root), load_splits("cuhk03", root, labeled=True)
    assert detected.count("train") == Counts(1, 2, 2) and labeled.count("train") == Counts(1, 3, 2)
    assert names(detected.gallery, root / "detected") == [
        ("bounding_box_test/0003_c1_21.png", 3, 1),
        ("bounding_box_test/0003_c1_23.png", 3, 1),
        ("bounding_box_test/0003_c2_26.png", 3, 2),
    ]
    assert detected.published["gallery"].images == 5332 and labeled.published["gallery"].images == 5328
    assert detected.published["train"].images == 7365 and labeled.published["train"].images == 7368
    assert "detected" in detected.notes[0] and "labeled" in labeled.notes[0]
    assert load_splits("cuhk03", root / "detected") == detected  # the very folder
    with error(FileNotFoundError, "labeled/", "detected holds bounding_box_test/"):
        load_splits("cuhk03", root / "detected", labeled=True)


# ---- the table ----


def counted(prefix, ids, images, cameras, first=1):
    return tuple(Sample(f"{prefix}{i}", first + i % ids, 1 + i % cameras) for i in range(images))


def market_sized(**changes):
    gallery = counted("g", 750, 13_115, 6) + tuple(Sample(f"d{i}", 0, 1) for i in range(2_798))
    parts = {"train": counted("t", 751, 12_936, 6), "query": counted("q", 750, 3_368, 6), "gallery": gallery}
    return Splits("market", **{**parts, **changes}, published=MARKET_PUBLISHED, distractor_pid=0, title="Market-1501")


def test_table_of_a_complete_set():
    splits = market_sized()
    assert splits.differences() == []
    assert "!=" not in str(splits) and "WARNING" not in str(splits)
    lines = str(splits).splitlines()
    assert lines[0] == "Market-1501: found (published)"
    assert [cell.strip() for cell in lines[3].split("|")] == ["train", "751 (751)", "12,936 (12,936)", "6 (6)"]
    assert [cell.strip() for cell in lines[5].split("|")] == ["gallery", "750 (750)", "15,913 (15,913)", "6 (6)"]
    assert "2,798 gallery images are distractors" in lines[6]


def test_table_marks_every_difference():
    splits = market_sized(train=counted("t", 751, 12_935, 6), query=counted("q", 749, 3_368, 5))
    assert splits.differences() == [
        "train images: 12,935 != 12,936 published",
        "query ids: 749 != 750 published",
        "query cameras: 5 != 6 published",
    ]
    assert str(splits).count("!=") == 3 + 1  # three cells and the warning below the table
    assert "12,935 != 12,936 published" in str(splits)


def test_table_without_publication():
    table = str(Splits("mine", (Sample("a", 1, 1),), (), (), notes=("one thing",)))
    assert table.splitlines()[0] == "mine: found" and "note: one thing" in table and "(" not in table
    assert len({line.index("|") for line in table.splitlines() if "|" in line}) == 1


# ---- MSMT17 ----

MSMT17_LISTS = {
    "train": "0000/0000_045_12_0303morning_0006_2.jpg 0\n0000/0000_046_12_0303morning_0006_2_ex.jpg 0\n"
             "0001/0001_010_07_0303morning_0008_2.jpg 1\n",
    "val": "0000/0000_013_04_0303morning_0020_2.jpg 0\n",
    "query": "0000/0000_000_01_0303morning_0015_0.jpg 0\n0002/0002_030_14_0303morning_0245_0.jpg 2\n",
    "gallery": "0002/0002_008_15_0303morning_0019_10.jpg 2\n\n0000/0000_008_11_0303morning_0019_2.jpg 0",
}  # fmt: skip


def msmt17(root, train="train", test="test", lists=("train", "val", "query", "gallery")):
    root.mkdir(parents=True, exist_ok=True)
    for part in lists:
        (root / f"list_{part}.txt").write_text(MSMT17_LISTS[part])
    for part, folder in (("train", train), ("val", train), ("query", test), ("gallery", test)):
        tree(root / folder, *(line.split()[0] for line in MSMT17_LISTS[part].splitlines() if line))
    return root


@pytest.mark.parametrize("wrapper, train, test, version", [
    ("MSMT17_V1", "train", "test", "V1"), ("MSMT17_V2", "mask_train_v2", "mask_test_v2", "V2"),
    ("MSMT17", "train", "test", "V1"), ("msmt17/MSMT17_V2", "mask_train_v2", "mask_test_v2", "V2"),
])  # fmt: skip
def test_msmt17_by_hand(tmp_path, wrapper, train, test, version):
    root = msmt17(tmp_path / wrapper, train, test)
    splits = load_splits("msmt17", tmp_path, use_val=True)
    assert splits == load_splits("msmt17", root, use_val=True)
    assert names(splits.train, root) == [  # in the order of the lists, train before val; the third field is the camera
        (f"{train}/0000/0000_045_12_0303morning_0006_2.jpg", 0, 12),
        (f"{train}/0000/0000_046_12_0303morning_0006_2_ex.jpg", 0, 12),
        (f"{train}/0001/0001_010_07_0303morning_0008_2.jpg", 1, 7),
        (f"{train}/0000/0000_013_04_0303morning_0020_2.jpg", 0, 4),
    ]
    assert [(s.pid, s.camid) for s in splits.query] == [(0, 1), (2, 14)]
    assert [(s.pid, s.camid) for s in splits.gallery] == [(2, 15), (0, 11)]
    assert splits.count("gallery") == Counts(2, 2, 2)  # pid 0 is a person here
    assert not splits.shared_pids  # and another person than pid 0 of training
    assert datasets.combine([splits], use_all=True).num_pids == 4
    assert splits.published["train"] == Counts(1041, 32621, 15)
    assert version in splits.notes[0] and "list_val" in splits.notes[0]


def test_msmt17_without_validation_images(tmp_path):
    splits = load_splits("msmt17", msmt17(tmp_path, lists=("train", "query", "gallery")))
    assert len(splits.train) == 3 and splits.published["train"] == Counts(1041, 30248, 15)
    assert "list_train only" in splits.notes[0]
    with error(FileNotFoundError, "list_val.txt", "without --msmt17_use_val"):
        load_splits("msmt17", tmp_path, use_val=True)


def test_lists_that_are_other_files_are_named(tmp_path):
    root = msmt17(tmp_path)
    (root / "list_query.txt").write_bytes(b"0000/0000_000_01_0303morning_0015_0.jpg \xff\n")
    with error(ValueError, f"msmt17: {root / 'list_query.txt'} is no text in UTF-8"):
        load_splits("msmt17", root)


def test_msmt17_windows_line_ends(tmp_path):
    root = msmt17(tmp_path)
    expected = load_splits("msmt17", root)
    for part, text in MSMT17_LISTS.items():
        (root / f"list_{part}.txt").write_bytes(text.replace("\n", "\r\n").encode())
    assert load_splits("msmt17", root) == expected


def test_msmt17_test_part_alone(tmp_path):
    root = msmt17(tmp_path)
    (root / "train").rename(tmp_path.parent / f"{tmp_path.name}-moved")
    splits = load_splits("msmt17", root)
    assert not splits.train and len(splits.query) == 2 and any("testing only" in note for note in splits.notes)


def test_msmt17_errors(tmp_path):
    root = msmt17(tmp_path)
    (root / "test" / "0002" / "0002_008_15_0303morning_0019_10.jpg").unlink()
    with error(FileNotFoundError, "1 of the 2 images", "list_gallery.txt", "0002/0002_008_15_0303morning_0019_10.jpg"):
        load_splits("msmt17", root)
    (root / "list_query.txt").write_text(MSMT17_LISTS["query"] + "0000/portrait.jpg 0\n")
    with error(ValueError, "line 3", "list_query.txt", "0000/portrait.jpg 0"):
        load_splits("msmt17", root)
    (root / "list_query.txt").write_text("")
    with error(ValueError, "list_query.txt is empty"):
        load_splits("msmt17", root)
    (root / "list_query.txt").unlink()
    with error(FileNotFoundError, "list_query.txt", "publisher"):
        load_splits("msmt17", root)
    (root / "mask_test_v2").mkdir()
    with error(FileNotFoundError, "one version"):
        load_splits("msmt17", root)


# ---- the built-in set ----


def test_synthetic_is_made_by_its_module(tmp_path, monkeypatch):
    asked = []

    def ensure(kind, root=None, seed=0):
        asked.append((kind.name, root, seed))
        return tree(tmp_path, *MARKET)

    monkeypatch.setattr("synthetic.kind.Kind.ensure", ensure)
    splits = load_splits("synthetic", seed=3)
    assert asked == [("synthetic", None, 3)]
    assert splits.count("gallery") == Counts(2, 4, 3) and splits.published is None
    assert "demonstration" in str(splits)


# ---- the user's own images ----

OWN_FLAT = ("17_c1_a.jpg", "17_c2_b.png", "0018_c1s1_000451_03.jpg", "0018_cam2_x.jpg", "19_c1.jpg", "19_c2.jpg",
            "20_c1_a.JPEG", "20_c2_a.webp", "notes.txt", "Thumbs.db", ".hidden_c1.jpg")  # fmt: skip


def test_own_flat_folder(tmp_path):
    splits = load_splits("own", tree(tmp_path, *OWN_FLAT))
    samples = [*splits.train, *splits.query, *splits.gallery]
    assert sorted(names(samples, tmp_path)) == [
        ("0018_c1s1_000451_03.jpg", 18, 1), ("0018_cam2_x.jpg", 18, 2), ("17_c1_a.jpg", 17, 1), ("17_c2_b.png", 17, 2),
        ("19_c1.jpg", 19, 1), ("19_c2.jpg", 19, 2), ("20_c1_a.JPEG", 20, 1), ("20_c2_a.webp", 20, 2),
    ]  # fmt: skip
    assert splits.count("train") == Counts(2, 4, 2) and len(splits.query) == len(splits.gallery) == 2
    assert splits.protocol == "market1501" and splits.published is None
    assert any("seed 0" in note and "2 people for training and 2 others" in note for note in splits.notes)


def test_what_only_looks_like_an_image_is_none(tmp_path):
    """Every way in which images are read passes over the same things; a file that a list names is missed."""
    tree(tmp_path / "flat", *OWN_FLAT)
    tree(tmp_path / "people", *(f"{person}/shot_c{camera}.jpg" for person in "abc" for camera in (1, 2)))
    tree(tmp_path / "video", *(f"{part}/0001/000{n}/0001C{n}F0001X00001.jpg" for n, part in
                               enumerate(("train", "query", "gallery"), 1)))  # fmt: skip
    roots = {"flat": "own", "people": "own", "video": "dukevid"}
    before = {root: load_splits(name, tmp_path / root) for root, name in roots.items()}
    for folder in (tmp_path / "flat", tmp_path / "people" / "a", tmp_path / "video/train/0001/0001"):
        oddities(folder)
        (folder / "table.csv").mkdir()
        if hasattr(os, "mkfifo"):
            os.mkfifo(folder / "list.csv")
    for root, name in roots.items():
        after = load_splits(name, tmp_path / root)
        assert root != "flat" or "not read: folders beside the images in flat/: 0001_c1.jpg, table.csv" in after.notes
        assert dataclasses.replace(after, notes=()) == dataclasses.replace(before[root], notes=())
    root = msmt17(tmp_path / "listed")
    image = min((root / "train").rglob("*_045_*.jpg"))
    image.unlink()
    image.mkdir()
    with error(FileNotFoundError, "1 of the", image.name):
        load_splits("msmt17", root)


def test_own_market_folders(tmp_path):
    splits = load_splits("own", tree(tmp_path, *MARKET))
    assert [len(getattr(splits, subset)) for subset in datasets.SUBSETS] == [3, 2, 4]
    assert splits.count("gallery") == Counts(3, 4, 3)  # pid 0 is a person like any other here
    assert "2 junk images (pid -1) left out" in splits.notes and "not read: gt_bbox/" in splits.notes


def test_own_folder_per_person(tmp_path):
    tree(tmp_path, "bob/x_c1_1.jpg", "bob/x_c2_1.jpg", "alice/cam3.jpg", "alice/IMG-cam_4-0001.jpg",
         "carol/camera2_7.jpg", "carol/c1s1_9.jpg", "README.md")  # fmt: skip
    splits = load_splits("own", tmp_path)
    samples = sorted([*splits.train, *splits.query, *splits.gallery], key=lambda sample: sample.path)
    assert names(samples, tmp_path) == [
        ("alice/IMG-cam_4-0001.jpg", 0, 4), ("alice/cam3.jpg", 0, 3), ("bob/x_c1_1.jpg", 1, 1),
        ("bob/x_c2_1.jpg", 1, 2), ("carol/c1s1_9.jpg", 2, 1), ("carol/camera2_7.jpg", 2, 2),
    ]  # fmt: skip
    assert any("0 = alice, 1 = bob, 2 = carol" in note for note in splits.notes)


@pytest.mark.parametrize("name, camera", [
    ("a_c3_1", 3), ("cam3", 3), ("Cam12-004", 12), ("c1s1_000451", 1), ("x.camera_7.y", 7), ("C2", 2), ("x_cam-5", 5),
    ("abc3_1", None), ("doc4", None), ("c_3", None), ("IMG_0001", None), ("c3x", None),
])  # fmt: skip
def test_cameras_in_file_names(name, camera):
    match = own.OWN_CAMERA.search(name)
    assert (int(match[1]) if match else None) == camera


def test_own_numbered_folders_keep_their_numbers(tmp_path):
    tree(tmp_path, *(f"train/{pid}/c{c}_1.jpg" for pid in ("0007", "12") for c in (1, 2)),
         "query/30/c1_1.jpg", "gallery/30/c2_1.jpg", "gallery/5/c2_1.jpg")  # fmt: skip
    splits = load_splits("own", tmp_path)
    assert [s.pid for s in splits.train] == [7, 7, 12, 12]
    assert [s.pid for s in splits.query] == [30] and [s.pid for s in splits.gallery] == [30, 5]
    assert splits.notes == () and splits.protocol == "market1501"


def test_own_names_mean_one_person_in_every_part(tmp_path):
    tree(tmp_path, "Train/alice/c1_1.jpg", "Train/zoe/c1_1.jpg", "query/bob/c1_1.jpg", "test/bob/c2_1.jpg",
         "test/zoe/c2_1.jpg")  # fmt: skip
    splits = load_splits("own", tmp_path)
    assert [s.pid for s in splits.train] == [0, 2]
    assert [s.pid for s in splits.query] == [1] and [s.pid for s in splits.gallery] == [1, 2]
    assert any("1 pids are in training and test (2)" in note for note in splits.notes)


def test_own_wrapper_folder(tmp_path):
    tree(tmp_path / "people", "a/c1.jpg", "a/c2.jpg", "b/c1.jpg", "b/c2.jpg")
    assert load_splits("own", tmp_path) == load_splits("own", tmp_path / "people")


def test_own_one_camera(tmp_path):
    tree(tmp_path, *(f"{person}/{i}.jpg" for person in "abcd" for i in range(3)))
    splits = load_splits("own", tmp_path)
    assert splits.protocol == "none" and {s.camid for s in splits.train} == {1}
    assert any("one camera is assumed" in note for note in splits.notes)
    assert any("protocol none" in note for note in splits.notes)
    assert len(splits.query) == 2 and len(splits.gallery) == 4 and len(splits.train) == 6
    assert check_queries(splits.query, splits.gallery, splits.protocol) == (2, 2)


def test_own_cameras_that_never_meet(tmp_path):
    tree(tmp_path, "a/c1_1.jpg", "a/c1_2.jpg", "b/c2_1.jpg", "b/c2_2.jpg")
    splits = load_splits("own", tmp_path)
    assert splits.protocol == "none" and any("no person is seen by two" in note for note in splits.notes)
    assert check_queries(splits.query, splits.gallery, "none") == (1, 1)


def test_own_one_camera_with_given_split(tmp_path):
    tree(tmp_path, "train/a/1.jpg", "query/b/1.jpg", "gallery/b/2.jpg")
    splits = load_splits("own", tmp_path)
    assert splits.protocol == "none" and check_queries(splits.query, splits.gallery, "none") == (1, 1)


def test_own_halves(tmp_path):
    tree(tmp_path / "a", "train/1_c1.jpg", "train/1_c2.jpg")
    splits = load_splits("own", tmp_path / "a")
    assert len(splits.train) == 2 and not splits.query and any("training only" in note for note in splits.notes)
    tree(tmp_path / "b", "query/1_c1.jpg", "gallery/1_c2.jpg")
    splits = load_splits("own", tmp_path / "b")
    assert not splits.train and len(splits.gallery) == 1 and any("testing only" in note for note in splits.notes)
    tree(tmp_path / "c", "test/1_c1.jpg", "test/1_c2.jpg", "test/2_c1.jpg")  # queries are drawn
    splits = load_splits("own", tmp_path / "c", seed=4)
    assert [s.pid for s in splits.query] == [1] and sorted(s.pid for s in splits.gallery) == [1, 2]
    assert any("drawn from the gallery" in note and "seed 4" in note for note in splits.notes)
    with error(ValueError, "query images and no gallery"):
        load_splits("own", tree(tmp_path / "d", "query/1_c1.jpg"))
    with error(ValueError, "no queries can be drawn"):
        load_splits("own", tree(tmp_path / "e", "test/1_c1.jpg", "test/2_c1.jpg"))


def test_own_split_is_drawn_by_the_seed_alone(tmp_path):
    files = [f"{pid}_c{c}_{i}.jpg" for pid in range(20) for c in (1, 2, 3) for i in range(2)]
    tree(tmp_path / "a", *files)
    tree(tmp_path / "elsewhere", *reversed(files))

    def parts(folder, **options):
        splits = load_splits("own", tmp_path / folder, **options)
        return [names(getattr(splits, subset), tmp_path / folder) for subset in datasets.SUBSETS]

    assert parts("a") == parts("a", seed=0) == parts("elsewhere")
    trained = [{pid for _, pid, _ in parts("a", seed=seed)[0]} for seed in range(3)]
    assert trained[0] != trained[1] != trained[2]  # the seed draws the people, not only the queries
    train, query, gallery = parts("a")
    assert not {pid for _, pid, _ in train} & {pid for _, pid, _ in query + gallery}
    assert len({pid for _, pid, _ in train}) == len({pid for _, pid, _ in query}) == 10
    assert sorted((pid, camid) for _, pid, camid in query) == sorted({(pid, camid) for _, pid, camid in query})
    assert len(query) == 30 and len(gallery) == 30  # one of two images of each of three cameras of ten people
    assert sorted(f for f, _, _ in train + query + gallery) == sorted(files)  # every image is used once


def has_match(query, gallery, protocol):
    """The rule of each protocol, word for word, image by image."""
    for other in gallery:
        if other.pid != query.pid or other.path == query.path:
            continue
        if protocol == "none":
            return True
        if protocol in ("market1501", "cuhk03") and other.camid != query.camid:
            return True
        if protocol == "sysu" and not (query.camid == 3 and other.camid == 2):
            return True
        if protocol == "llcm" and other.camid % 10 != query.camid % 10:
            return True
    return False


@pytest.mark.parametrize("protocol", ["market1501", "none"])
def test_drawn_queries_always_keep_a_match(protocol):
    for seed in range(300):
        rng = random.Random(seed)
        samples = [Sample(f"{i}", rng.randrange(4), rng.randrange(3)) for i in range(rng.randrange(1, 20))]
        query, gallery = own.draw_queries(samples, protocol, random.Random(seed))
        assert all(has_match(q, gallery, protocol) for q in query)
        assert sorted(s.path for s in query + gallery) == sorted(s.path for s in samples)
        key = (lambda s: s.pid) if protocol == "none" else (lambda s: (s.pid, s.camid))
        assert len({key(q) for q in query}) == len(query)
        for pid in {s.pid for s in samples}:  # nobody who could be asked for is left out
            mine = [s for s in samples if s.pid == pid]
            if any(has_match(s, mine, protocol) for s in mine):
                assert any(q.pid == pid for q in query)


def test_own_too_few_people(tmp_path):
    with error(ValueError, "2 images of 1 people", "at least two people"):
        load_splits("own", tree(tmp_path / "a", "a/c1.jpg", "a/c2.jpg"))
    with error(ValueError, "2 images of 2 people", "two images of one"):
        load_splits("own", tree(tmp_path / "b", "a/c1.jpg", "b/c2.jpg"))


def test_own_bad_names(tmp_path):
    tree(tmp_path, *OWN_FLAT, "portrait.jpg", "0021.jpg", "-2_c1.jpg")  # a pid without a camera is no name either
    with error(ValueError, "3 entries", "portrait.jpg", "0021.jpg", "-2_c1.jpg", "<pid>_c<camera>", "skip_bad"):
        load_splits("own", tmp_path)
    splits = load_splits("own", tmp_path, skip_bad=True)
    assert sum(len(getattr(splits, subset)) for subset in datasets.SUBSETS) == 8
    assert any("3 entries left out" in note and "portrait.jpg" in note for note in splits.notes)
    tree(tmp_path / "many", *(f"IMG_{i}.jpg" for i in range(9)))
    with error(ValueError, "9 entries", "IMG_4.jpg", "; ..."):
        load_splits("own", tmp_path / "many")
    with error(ValueError, "no usable image"):
        load_splits("own", tmp_path / "many", skip_bad=True)


def test_own_bad_folders(tmp_path):
    tree(tmp_path, "a/c1.jpg", "a/c2.jpg", "b/c1.jpg", "b/0002.jpg", "c/note.txt", "-3/c1.jpg")
    with error(ValueError, "3 entries", "-3", "0 or more", "without images", "0002.jpg (no camera"):
        load_splits("own", tmp_path)
    with error(FileNotFoundError, "nowhere does not exist", "path,pid,camid"):
        load_splits("own", tmp_path / "nowhere")
    with error(FileNotFoundError, "is a file"):
        load_splits("own", tmp_path / "c" / "note.txt")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with error(ValueError, "no images", "train is empty"):
        load_splits("own", tmp_path / "empty")
    with error(ValueError, "no images", "holds note.txt"):
        load_splits("own", tmp_path / "c")
    tree(tmp_path / "twice", "query/1_c1.jpg", "gallery/1_c2.jpg", "test/1_c2.jpg")
    with error(ValueError, "more than one folder for gallery", "gallery, test"):
        load_splits("own", tmp_path / "twice")


def table(root, text, encoding="utf-8"):
    (root / "list.csv").write_bytes(text.encode(encoding))
    return root / "list.csv"


def test_own_csv_with_split(tmp_path):
    tree(tmp_path, "img/a1.jpg", "img/a2.jpg", "img/b1.jpg", "img/b2.jpg")
    path = table(tmp_path, "PID,path,camid,split\r\nann,img/a1.jpg,1,train\r\nann, img/a2.jpg ,2,Train\r\n\r\n"
                           '"bob, jr",img/b1.jpg,1,query\r\n"bob, jr",img/b2.jpg,4,test\r\n', "utf-8-sig")  # fmt: skip
    splits = load_splits("own", path)
    assert names(splits.train, tmp_path) == [("img/a1.jpg", 0, 1), ("img/a2.jpg", 0, 2)]
    assert names(splits.query + splits.gallery, tmp_path) == [("img/b1.jpg", 1, 1), ("img/b2.jpg", 1, 4)]
    in_folder = load_splits("own", tmp_path)  # the folder that holds the list
    assert in_folder.train == splits.train and "read from list.csv" in in_folder.notes


def test_own_csv_without_split(tmp_path):
    tree(tmp_path, *(f"{pid}{c}.jpg" for pid in "pqrs" for c in (1, 2)))
    rows = "".join(f"{pid}{c}.jpg,{number},{c}\n" for number, pid in enumerate("pqrs", 40) for c in (1, 2))
    splits = load_splits("own", table(tmp_path, "path,pid,camid\n" + rows))
    assert {s.pid for s in splits.train + splits.query} == {40, 41, 42, 43}
    assert len(splits.train) == 4 and len(splits.query) == len(splits.gallery) == 2


@pytest.mark.parametrize("row, texts", [
    ("a.jpg,1", ("line 3", "2 columns")),
    ("a.jpg,,1", ("line 3", "column pid", "empty")),
    ("a.jpg,-2,1", ("line 3", "column pid", "-2")),
    ("a.jpg,-2.0,1", ("line 3", "column pid", "-2")),
    ("a.jpg,nan,1", ("line 3", "column pid", "empty")),
    ("a.jpg,1,", ("line 3", "column camid", "''")),
    ("a.jpg,1,-2", ("line 3", "column camid", "'-2'")),
    ("c.jpg,1,1", ("line 3", "column path", "no file", "c.jpg")),
    ("b.jpg,2,1", ("line 3", "column path", "b.jpg is on line 2 already")),
])  # fmt: skip
def test_own_csv_bad_rows(tmp_path, row, texts):
    tree(tmp_path, "a.jpg", "b.jpg")
    path = table(tmp_path, f"path,pid,camid\nb.jpg,1,1\n{row}\n")
    with error(ValueError, "1 entries", *texts):
        load_splits("own", path)


def test_own_csv_bad_split_and_header(tmp_path):
    tree(tmp_path, "a.jpg")
    with error(ValueError, "line 2", "column split", "'valid'"):
        load_splits("own", table(tmp_path, "path,pid,camid,split\na.jpg,1,1,valid\n"))
    with error(ValueError, "line 2", "column split", "''"):
        load_splits("own", table(tmp_path, "path,pid,camid,split\na.jpg,1,1,\n"))
    with error(ValueError, "line 1", "column spilt", "is split meant"):
        load_splits("own", table(tmp_path, "path,pid,camid,spilt\na.jpg,1,1,train\n"))
    for text in ("a.jpg,1,1\n", "path,pid\na.jpg,1\n", "path;pid\na.jpg;1\n", "", "path,pid,camid,pid\n"):
        with error(ValueError, "line 1", "expected path,pid,camid"):
            load_splits("own", table(tmp_path, text))
    with error(ValueError, "UTF-8"):
        load_splits("own", table(tmp_path, "path,pid,camid\na.jpg,Zoë,1\n", "latin-1"))
    with error(ValueError, "no usable image"):
        load_splits("own", table(tmp_path, "path,pid,camid\n"))


def test_own_csv_in_a_folder(tmp_path):
    tree(tmp_path, *OWN_FLAT)
    (tmp_path / "colours.csv").write_text("image,red\na,1\n")  # not a list of images
    assert "read from" not in str(load_splits("own", tmp_path))
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("path,pid,camid\n")
    with error(ValueError, "2 lists", "one.csv, two.csv"):
        load_splits("own", tmp_path)


# ---- labels and checks ----


def numbered(data):
    """(path, identity, camera) of each image of a training set, in its numbers."""
    return [(s.path, *numbers) for s, *numbers in zip(data.samples, data.labels, data.cameras, strict=True)]


def test_combine():
    one = Splits("market", (Sample("a", 7, 6), Sample("b", -2, 1)), (), ())
    two = Splits("duke", (Sample("c", 2, 1), Sample("d", 7, 6), Sample("e", 2, 8)), (), (), infrared=frozenset({6, 9}))
    alone = datasets.combine([one])
    assert alone.samples == one.train and numbered(alone) == [("a", 1, 1), ("b", 0, 0)] and alone.num_pids == 2
    both = datasets.combine([one, two])
    assert both.samples == (*one.train, *two.train) and both.num_pids == 4
    assert numbered(both) == [("a", 1, 1), ("b", 0, 0), ("c", 2, 2), ("d", 3, 3), ("e", 2, 4)]
    assert both.infrared == {3} and both.numbering == {"market": [1, 6], "duke": [1, 6, 8]}
    with error(ValueError, "duke has no training images"):
        datasets.combine([one, Splits("duke", (), (), ())])


def test_a_camera_of_a_test_set_has_the_number_it_was_trained_with():
    one = Splits("market", (Sample("a", 7, 6), Sample("b", 2, 1)), (), ())
    two = Splits("duke", (Sample("c", 2, 1), Sample("d", 7, 6), Sample("e", 2, 8)), (), ())
    both = datasets.combine([one, two])
    for splits in (one, two):
        for sample in splits.train:
            label = both.cameras[both.samples.index(sample)]
            assert datasets.camera_label(both.numbering, splits.name, sample.camid) == label
    assert datasets.camera_label(both.numbering, "market", 8) == -1
    assert datasets.camera_label(both.numbering, "msmt17", 1) == -1


def test_combine_all_images():
    """Each image once, no distractors; a pid of the test is the same person in training only where it is."""
    query, gallery = (Sample("q", 2, 1), Sample("c", 9, 3)), (Sample("q", 2, 1), Sample("g", 9, 6), Sample("d", 0, 1))
    shared = Splits("own", (Sample("a", 7, 6), Sample("b", 2, 1)), query, gallery, distractor_pid=0)
    every = datasets.combine([shared], use_all=True)
    assert every.samples == (*shared.train, query[0], query[1], gallery[1])
    assert numbered(every) == [("a", 1, 2), ("b", 0, 0), ("q", 0, 0), ("c", 2, 1), ("g", 2, 2)]
    apart = dataclasses.replace(shared, name="msmt17", shared_pids=False)
    assert numbered(datasets.combine([apart], use_all=True)) == [
        ("a", 1, 2), ("b", 0, 0), ("q", 2, 0), ("c", 3, 1), ("g", 3, 2)]  # fmt: skip
    assert datasets.combine([apart]).samples == apart.train
    both = datasets.combine([shared, apart], use_all=True)
    assert both.labels == (1, 0, 0, 2, 2, 4, 3, 5, 6, 6) and set(both.cameras) == {0, 1, 2, 3, 4, 5}
    test_only = dataclasses.replace(shared, train=())
    assert len(datasets.combine([test_only], use_all=True).samples) == 3
    with error(ValueError, "has no training images"):
        datasets.combine([test_only])


@pytest.mark.parametrize("protocol", ["market1501", "cuhk03", "sysu", "llcm", "none"])
def test_check_queries_against_the_rule_word_for_word(protocol):
    for seed in range(200):
        rng = random.Random(seed)

        def draw(number, rng=rng):
            paths = [rng.randrange(8) for _ in range(number)]
            return [Sample(f"{path}", path % 5, rng.randrange(1, 5)) for path in paths]

        query, gallery = draw(rng.randrange(1, 6)), draw(rng.randrange(1, 6))
        expected = sum(has_match(q, gallery, protocol) for q in query)
        if expected:
            assert check_queries(query, gallery, protocol) == (len(query), expected)
        else:
            with error(ValueError, f"none of the {len(query)} queries"):
                check_queries(query, gallery, protocol)


def test_check_queries_says_why():
    one, same, other = Sample("q", 1, 1), Sample("g", 1, 1), Sample("h", 2, 2)
    with error(ValueError, "2 show a pid that is not in the gallery", "query pids 1", "gallery pids 2"):
        check_queries([one, one], [other])
    with error(
        ValueError, "the query's person in its camera", "query cameras 1", "gallery cameras 1, 2", "--protocol none"
    ):
        check_queries([one], [same, other])
    with error(ValueError, "only image of their pid", "second image"):
        check_queries([one], [one, other], "none")
    with error(ValueError, "image q has one pid among the queries and another in the gallery"):
        check_queries([one], [Sample("q", 2, 1)], "none")
    with error(ValueError, "protocol sysu leaves out"):
        check_queries([Sample("q", 1, 3)], [Sample("g", 1, 2)], "sysu")
    with error(ValueError, "query set is empty"):
        check_queries([], [other])
    with error(ValueError, "gallery set is empty"):
        check_queries([one], [])
    with error(ValueError, "'marketplace'", "market1501"):
        check_queries([one], [same], "marketplace")


def test_matchable():
    query = (Sample("q", 1, 1), Sample("r", 5, 1))
    splits = Splits("own", (), query, (Sample("g", 1, 2),))
    assert "1 of 2 queries have no match" in datasets.matchable(splits)
    assert datasets.matchable(dataclasses.replace(splits, query=query[:1])) is None
    with pytest.raises(ValueError):
        datasets.matchable(dataclasses.replace(splits, query=query[1:]))
    assert datasets.matchable(dataclasses.replace(splits, query=query[:1], protocol="none")) is None


def test_check_queries_at_the_size_of_msmt17():
    query, gallery = counted("q", 3_061, 11_659, 15), counted("g", 3_061, 82_161, 15)
    began = time.process_time()
    for protocol in ("market1501", "none"):
        assert check_queries(query, gallery, protocol).num_valid > 11_000
    assert time.process_time() - began < 5  # a pairwise loop would take minutes


def test_hold_out_parts_people_and_keeps_a_match():
    train = tuple(Sample(f"{pid}_{camid}_{i}", pid, camid) for pid in range(8) for camid in (1, 2) for i in range(3))
    splits = Splits("market", train, (), ())
    rest, validation = datasets.hold_out(splits, 3, seed=1)
    held = {s.pid for s in validation.query}
    assert len(held) == 3 and not held & {s.pid for s in rest.train} and len({s.pid for s in rest.train}) == 5
    assert set(validation.query) | set(validation.gallery) | set(rest.train) == set(train)
    assert datasets.check_queries(validation.query, validation.gallery).num_valid == 6  # one per person and camera
    assert datasets.hold_out(splits, 3, seed=1)[1] == validation != datasets.hold_out(splits, 3, seed=2)[1]
    with error(ValueError, "8 people cannot be held out of 8"):
        datasets.hold_out(splits, 8)


@pytest.mark.parametrize("protocol", ["market1501", "cuhk03", "sysu", "llcm", "none"])
def test_every_query_of_people_held_out_can_be_answered(protocol):
    """By the rule of the protocol itself; under sysu an image of camera 2 is no answer for camera 3."""
    rng = random.Random(0)
    train = [Sample(f"{i}", rng.randrange(12), rng.choice((2, 3, 3, 5))) for i in range(60)]
    for seed in range(20):
        _, held = datasets.hold_out(Splits("market", tuple(train), (), (), protocol=protocol), 6, seed)
        assert held.query
        assert datasets.check_queries(held.query, held.gallery, protocol).num_valid == len(held.query)
