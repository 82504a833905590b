"""Image data sets with one split: distractors, multi-query, Occluded-Duke's lists, CUHK03's release, test-only sets."""

import sys

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from test_datasets import DUKE, MARKET
from trees import error, names, tree

import datasets
from datasets import Counts, Sample, load_splits
from parsers import image


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


# ---- Market-1501: distractors and multi-query ----


def test_market_distractors(tmp_path):
    tree(tmp_path / "Market-1501", *MARKET)
    plain = load_splits("market", tmp_path)
    with error(FileNotFoundError, "images/ with the 500k distractors"):
        load_splits("market", tmp_path, distractors=True)
    tree(tmp_path / "Market-1501" / "images", "0000_c3s1_000151_01.jpg", "7.jpg", "Thumbs.db")
    splits = load_splits("market", tmp_path, distractors=True)
    assert splits.gallery[:-2] == plain.gallery and splits.train == plain.train
    assert [(s.pid, s.camid) for s in splits.gallery[-2:]] == [(0, 3), (0, 0)]
    assert splits.count("gallery").ids == plain.count("gallery").ids  # distractors are nobody
    assert "2 images of distractors_500k" in str(splits)
    assert not any("gallery images" in each for each in splits.differences())
    assert load_splits("market", tmp_path).gallery == plain.gallery  # only when asked for


def test_market_multi_query(tmp_path):
    tree(tmp_path, *MARKET, "gt_bbox/0001_c1s1_009999_00.jpg", "gt_bbox/0001_c2s1_000301_00.jpg",
         "gt_bbox/1488_c1s1_023021_00.jpg", "gt_bbox/Thumbs.db")  # fmt: skip
    with error(ValueError, "gt_bbox/ has no image", "1488_c6s1_023021_00.jpg.jpg"):  # same person, other camera
        load_splits("market", tmp_path, multi_query=True)
    tree(tmp_path, "gt_bbox/1488_c6s1_023021_00.jpg.jpg")
    splits = load_splits("market", tmp_path, multi_query=True)
    assert [names(group, tmp_path) for group in splits.multi_query] == [
        [("gt_bbox/0001_c1s1_001051_00.jpg", 1, 1), ("gt_bbox/0001_c1s1_009999_00.jpg", 1, 1)],
        [("gt_bbox/1488_c6s1_023021_00.jpg.jpg", 1488, 6)],
    ]
    assert load_splits("market", tmp_path).multi_query == ()
    assert splits.query == load_splits("market", tmp_path).query


# ---- Occluded-DukeMTMC ----


def test_occluded_duke_as_made_by_the_script(tmp_path):
    tree(tmp_path / "Occluded_Duke", *DUKE)
    tree(tmp_path / "DukeMTMC-reID", *DUKE)
    splits = load_splits("occluded_duke", tmp_path)
    assert splits.name == "occludedduke" and "Occluded_Duke" in splits.train[0].path
    assert "DukeMTMC-reID" in load_splits("duke", tmp_path).train[0].path


def test_occluded_duke_from_lists(tmp_path):
    tree(tmp_path / "DukeMTMC-reID", *DUKE)
    lists = {"train": ["0001_c2_f0046182.jpg"], "query": ["0023_c8_f0031504.jpg", "0005_c2_f0046985.jpg"],
             "gallery": ["0002_c1_f0044158.jpg", "0005_c5_f0051781.jpg"]}  # fmt: skip
    for subset, lines in lists.items():
        (tmp_path / f"{subset}.list").write_text("\n".join(lines) + "\n")
    splits = load_splits("occludedduke", tmp_path)
    assert names(splits.train, tmp_path) == [("DukeMTMC-reID/bounding_box_train/0001_c2_f0046182.jpg", 1, 2)]
    assert names(splits.query, tmp_path) == [  # the first was moved from the gallery to the queries
        ("DukeMTMC-reID/bounding_box_test/0023_c8_f0031504.jpg", 23, 8),
        ("DukeMTMC-reID/query/0005_c2_f0046985.jpg", 5, 2),
    ]
    assert names(splits.gallery, tmp_path) == [
        ("DukeMTMC-reID/bounding_box_test/0002_c1_f0044158.jpg", 2, 1),
        ("DukeMTMC-reID/bounding_box_test/0005_c5_f0051781.jpg", 5, 5),
    ]
    (tmp_path / "train.list").write_text("7140_c4_f0175988.jpg\n7140_c4_f0000001.jpg\n")
    with error(FileNotFoundError, "1 of the 2 images", "7140_c4_f0000001.jpg"):
        load_splits("occludedduke", tmp_path)
    with error(FileNotFoundError, "train.list", "withdrawn by its authors"):
        load_splits("occludedduke", tree(tmp_path / "no", "a.jpg"))


# ---- sets for testing only ----


def test_sensereid(tmp_path):
    tree(tmp_path / "SenseReID", "test_probe/00000_0.jpg", "test_probe/00521_1.jpg", "test_gallery/00000_1.jpg",
         "test_gallery/00700_0.jpg")  # fmt: skip
    splits = load_splits("SenseReID", tmp_path)
    assert names(splits.query, tmp_path / "SenseReID") == [
        ("test_probe/00000_0.jpg", 0, 0),
        ("test_probe/00521_1.jpg", 521, 1),
    ]
    assert [(s.pid, s.camid) for s in splits.gallery] == [(0, 1), (700, 0)] and not splits.train
    assert splits.published["gallery"].images == 3388
    with error(FileNotFoundError, "test_probe/ and test_gallery/"):
        load_splits("sensereid", tree(tmp_path / "no", "a.jpg"))


def test_occluded_reid(tmp_path):
    tree(tmp_path / "Occluded_REID", "occluded_body_images/001/001_01.tif", "occluded_body_images/012/012_05.tif",
         "whole_body_images/001/001_01.tif", "whole_body_images/012/012_02.tif")  # fmt: skip
    splits = load_splits("occludedreid", tmp_path)
    assert names(splits.query, tmp_path / "Occluded_REID") == [
        ("occluded_body_images/001/001_01.tif", 1, 1), ("occluded_body_images/012/012_05.tif", 12, 1)]  # fmt: skip
    assert {s.camid for s in splits.gallery} == {2}  # else every match would be taken away
    assert datasets.check_queries(splits.query, splits.gallery) == (2, 2)
    tree(tmp_path / "fast" / "OccludedREID", "query/001_1.jpg", "gallery/001_2.jpg")
    assert [s.camid for s in load_splits("occludedreid", tmp_path / "fast").gallery] == [2]


def test_partial_reid(tmp_path):
    root = tree(tmp_path / "Partial_REID", "partial_body_images/001_001.jpg", "occluded_body_images/001_002.jpg",
                "whole_body_images/001_001.jpg", "whole_body_images/060_005.jpg")  # fmt: skip
    splits = load_splits("partial_reid", tmp_path)
    assert names(splits.query, root) == [("partial_body_images/001_001.jpg", 1, 1)]
    assert names(splits.gallery, root) == [
        ("whole_body_images/001_001.jpg", 1, 2), ("whole_body_images/060_005.jpg", 60, 2)]  # fmt: skip
    assert names(load_splits("partial_reid", tmp_path, query="occluded").query, root) == [
        ("occluded_body_images/001_002.jpg", 1, 1)]  # fmt: skip
    with error(ValueError, "query is 'whole'", "partial, occluded"):
        load_splits("partial_reid", tmp_path, query="whole")
    with error(FileNotFoundError, "Occluded-REID"):  # Partial-REID has folders of the same names
        load_splits("occludedreid", tmp_path)


def test_partial_ilids(tmp_path):
    tree(tmp_path / "Partial_iLIDS", "Probe/001.jpg", "Probe/119.jpg", "Gallery/001.jpg", "Gallery/119.jpg")
    splits = load_splits("Partial-iLIDS", tmp_path)
    assert [(s.pid, s.camid) for s in splits.query + splits.gallery] == [(1, 1), (119, 1), (1, 2), (119, 2)]
    assert "testing only" in str(splits) and splits.protocol == "market1501"


# ---- CUHK03, the release ----

# five camera pairs with these people; images 1 to 5 are of view 1, 6 to 10 of view 2, some cells are empty
RELEASE = {1: 24, 2: 3, 3: 1, 4: 1, 5: 1}


def is_there(version, pair, person, image):
    """Which cells of the made release hold an image: person 2 of pair 1 is never seen in view 2."""
    if (pair, person) == (1, 2) and image > 5:
        return False
    return image in ((1, 2, 6) if version == "detected" else (1, 6, 10))


def pixels(pair, person, image):
    """(h, w, 3), different in every direction."""
    picture = np.zeros((6, 4, 3), np.uint8)
    picture[0, :, 0], picture[:, 0, 1], picture[..., 2] = 10 * pair, person, image
    return picture


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """cuhk03_release/cuhk-03.mat as MATLAB 7.3 writes it: cells are arrays of references, everything is transposed."""
    h5py = pytest.importorskip("h5py")
    folder = tmp_path_factory.mktemp("release") / "cuhk03_release"
    folder.mkdir()
    with h5py.File(folder / "cuhk-03.mat", "w") as mat:
        store = mat.create_group("#refs#")

        def put(value, name):
            return store.create_dataset(name, data=value).ref

        empty = put(np.zeros(2, np.uint64), "empty")  # MATLAB stores an empty cell as its size
        for version in ("detected", "labeled"):
            pairs = mat.create_dataset(version, (1, 5), dtype=h5py.ref_dtype)
            for pair, people in RELEASE.items():
                cells = store.create_dataset(f"{version}{pair}", (10, people), dtype=h5py.ref_dtype)
                for person in range(1, people + 1):
                    for image in range(1, 11):
                        there = is_there(version, pair, person, image)
                        cells[image - 1, person - 1] = (
                            put(pixels(pair, person, image).T, f"{version}_{pair}_{person}_{image}") if there else empty
                        )
                pairs[0, pair - 1] = cells.ref
        tests = mat.create_dataset("testsets", (1, 20), dtype=h5py.ref_dtype)
        for split in range(20):
            rows = np.array([[1, split + 1], [2, split % 3 + 1], [1, 22]], float)  # (pair, person) of three people
            tests[0, split] = put(rows.T, f"testset{split}")
    return folder / "cuhk-03.mat"


@pytest.fixture
def cuhk03(release, tmp_path):
    (tmp_path / "cuhk03" / "cuhk03_release").mkdir(parents=True)
    (tmp_path / "cuhk03" / "cuhk03_release" / "cuhk-03.mat").symlink_to(release)
    return tmp_path / "cuhk03"


def test_cuhk03_classic(cuhk03):
    splits = load_splits("cuhk03", cuhk03, classic=True, split=4)
    assert splits.protocol == "cuhk03" and splits.query == splits.gallery  # all images of the test people
    assert names(splits.query, cuhk03) == [
        (f"images_detected/1_005_{1 if i <= 5 else 2}_{i:02d}.png", 1005, 1 if i <= 5 else 2) for i in (1, 2, 6)
    ] + [(f"images_detected/1_022_{1 if i <= 5 else 2}_{i:02d}.png", 1022, 1 if i <= 5 else 2) for i in (1, 2, 6)] + [
        (f"images_detected/2_002_{1 if i <= 5 else 2}_{i:02d}.png", 2002, 1 if i <= 5 else 2) for i in (1, 2, 6)
    ]
    assert splits.count("train") == Counts(27, 27 * 3 - 1, 2)  # 30 people; one of the 27 has no image in view 2
    assert {s.pid for s in splits.train}.isdisjoint({s.pid for s in splits.query})
    image = np.asarray(Image.open(splits.query[1].path))
    assert np.array_equal(image, pixels(1, 5, 2))  # not transposed
    assert datasets.num_splits("cuhk03", classic=True) == 20 and datasets.num_splits("cuhk03") == 1
    tests = [frozenset(s.pid for s in load_splits("cuhk03", cuhk03, classic=True, split=i).query) for i in range(20)]
    assert len(set(tests)) == 20  # each split is another draw
    with error(ValueError, "there is no split 20", "0 to 19"):
        load_splits("cuhk03", cuhk03, classic=True, split=20)
    with error(ValueError, "there is no split 1", "there are 1"):
        load_splits("cuhk03", cuhk03, split=1)


def test_cuhk03_release_is_read_once(cuhk03, monkeypatch):
    first = load_splits("cuhk03", cuhk03, classic=True, labeled=True)
    assert {s.path[-6:-4] for s in first.train} == {"01", "06", "10"}  # the labeled boxes
    monkeypatch.setitem(sys.modules, "h5py", None)
    (cuhk03 / "cuhk03_release" / "cuhk-03.mat").unlink()
    assert load_splits("cuhk03", cuhk03, classic=True, labeled=True) == first
    with error(FileNotFoundError, "images_detected/", "cuhk-03.mat"):
        load_splits("cuhk03", cuhk03, classic=True)


def test_cuhk03_needs_h5py_and_says_so(cuhk03, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with error(RuntimeError, "cuhk-03.mat", "needs the package h5py (not installed)"):
        load_splits("cuhk03", cuhk03, classic=True)
    assert sorted(path.name for path in cuhk03.iterdir()) == ["cuhk03_release"]  # nothing half made stays behind


def test_cuhk03_damaged_release(tmp_path):
    pytest.importorskip("h5py")
    (tmp_path / "cuhk-03.mat").write_bytes(b"half a download")
    with error(ValueError, "cannot be read as HDF5", "Unpack"):
        load_splits("cuhk03", tmp_path, classic=True)


def write_config(path, lost=0):
    """The authors' division, with pids counted over the pairs; person 2 has the images of view 1 only."""
    rows, pid = [], 0
    for pair, people in RELEASE.items():
        for person in range(1, people + 1):
            pid += 1
            rows += [
                (f"{pair}_{person:03d}_{1 if i <= 5 else 2}_{i:02d}.png", pid, 1 if i <= 5 else 2)
                for i in range(1, 11)
                if is_there("detected", pair, person, i)
            ]
    files = np.empty((len(rows) + lost, 1), object)
    files[:, 0] = [name for name, _, _ in rows] + ["9_999_1_01.png"] * lost
    index = {
        "train": [n for n, r in enumerate(rows) if r[1] <= 20],
        "query": [n for n, r in enumerate(rows) if r[1] > 20 and r[0][-6:-4] in ("01", "06")],
        "gallery": [n for n, r in enumerate(rows) if r[1] > 20 and r[0][-6:-4] == "02"] + [len(rows)] * lost,
    }
    savemat(
        path,
        {
            "filelist": files,
            "labels": np.array([[r[1]] for r in rows] + [[1]] * lost, np.uint16),
            "camId": np.array([[r[2]] for r in rows] + [[1]] * lost, np.uint8),
            **{f"{part}_idx": np.array([[n + 1] for n in each], np.uint16) for part, each in index.items()},
        },
    )


def test_cuhk03_new_protocol_from_the_release(cuhk03):
    with error(FileNotFoundError, "cuhk03_new_protocol_config_detected.mat", "evaluation/data/CUHK03/"):
        load_splits("cuhk03", cuhk03)
    write_config(cuhk03 / "cuhk03_new_protocol_config_detected.mat")
    splits = load_splits("cuhk03", cuhk03)
    assert splits.protocol == "market1501"
    assert splits.count("train") == Counts(20, 59, 2) and splits.count("query") == Counts(10, 20, 2)
    assert names(splits.query[-2:], cuhk03) == [
        ("images_detected/5_001_1_01.png", 30, 1), ("images_detected/5_001_2_06.png", 30, 2)]  # fmt: skip
    assert names(splits.gallery[:1], cuhk03) == [("images_detected/1_021_1_02.png", 21, 1)]
    assert splits.published["train"].images == 7365
    write_config(cuhk03 / "cuhk03_new_protocol_config_detected.mat", lost=1)
    with error(FileNotFoundError, "1 images", "9_999_1_01.png"):
        load_splits("cuhk03", cuhk03)


def test_cuhk03_folders_go_before_the_release(cuhk03, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    tree(cuhk03 / "cuhk03-np" / "detected", "bounding_box_train/0001_c1_1.png")
    assert load_splits("cuhk03", cuhk03).train == (
        Sample(str(cuhk03 / "cuhk03-np" / "detected" / "bounding_box_train" / "0001_c1_1.png"), 1, 1),
    )


def test_cuhk03_read_only_data_go_to_the_cache(cuhk03, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).startswith(str(cuhk03)))
    splits = load_splits("cuhk03", cuhk03, classic=True)
    assert splits.train[0].path.startswith(str(tmp_path / "elsewhere" / "reid_suite" / "cuhk03-"))
    assert sorted(path.name for path in cuhk03.iterdir()) == ["cuhk03_release"]
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert load_splits("cuhk03", cuhk03, classic=True) == splits  # and are found there again


def test_published_numbers_are_the_authors():
    assert image.CUHK03_PUBLISHED["detected"]["gallery"].images == 5332
    assert image.OCCLUDED_DUKE_PUBLISHED["query"] == (519, 2210, 8)
