"""Sets seen from drones, sets to train on, P-DukeMTMC: whose images are what, golden layouts."""

import numpy as np
import pytest
from PIL import Image
from trees import error, names, tree

import datasets
import main
from datasets import check_queries, load_splits

AGREID = ("bounding_box_train/P0001T04210A1C0F01.jpg", "bounding_box_train/P0001T04210A1C3F11.jpg",
          "bounding_box_train/P0002T04210A1C3F11.jpg", "query_all_c0/P0006T0214A0C0F1831.jpg",
          "bounding_box_test_all_c3/P0006T0214A0C3F1900.jpg", "bounding_box_test_all_c3/P0006T0215A0C3F1901.jpg",
          "query_all_c3/P0006T0214A0C3F0001.jpg", "bounding_box_test_all_c0/P0006T0214A0C0F1832.jpg",
          "bounding_box_test_all_c0/P0007T0214A0C0F1832.jpg")  # fmt: skip
CARGO = ("train/Cam1/Cam1_day_0_1.jpg", "train/Cam13/Cam13_night_1_7.jpg", "train/Cam2/Cam2_day_0_9.jpg",
         "query/Cam2/Cam2_day_2519_320.jpg", "query/Cam6/Cam6_day_2519_321.jpg",
         "gallery/Cam3/Cam3_night_2519_1.jpg", "gallery/Cam6/Cam6_day_2519_2.jpg", "gallery/Cam7/Cam7_day_2519_3.jpg",
         "gallery/Cam10/Cam10_day_2600_4.jpg")  # fmt: skip
PDUKE = ("train/whole_body_images/0001/0001_1_25.jpg", "train/occluded_body_images/0001/0001_2_26.jpg",
         "train/whole_body_images/0003/0003_1_25.jpg", "test/occluded_body_images/0002/0002_6_01.jpg",
         "test/whole_body_images/0002/0002_6_02.jpg", "test/whole_body_images/0009/0009_5_02.jpg")  # fmt: skip
RANDPERSON = ("randperson_subset/000000_s00_c00_f000264.jpg", "randperson_subset/000000_s01_c01_f001032.jpg",
              "randperson_subset/000017_s10_c02_f000001.jpg")  # fmt: skip
CLONED = ("train/700000_s02_c00_f023389.jpg", "train/700001_s06_c00_f023413.jpg",
          "test/gallery/705228_s06_c02_f005521.jpg", "test/query/705228_s06_c01_f001117.jpg")  # fmt: skip
JUNK = ("train/-1_s02_c00_f000001.jpg", "test/gallery/705228_s12_c01_f000007.jpg")  # junk; the same number elsewhere
SYSU = ("cropped_images/p1_s2_3.jpg", "cropped_images/p1_s7_4.jpg", "cropped_images/p11934_s18111_1.jpg")


def test_agreid(tmp_path):
    root = tree(tmp_path / "AG-ReID", *AGREID)
    splits = load_splits("AG-ReID", tmp_path)
    assert names(splits.train, root) == [
        ("bounding_box_train/P0001T04210A1C0F01.jpg", 1042101, 0),
        ("bounding_box_train/P0001T04210A1C3F11.jpg", 1042101, 3),
        ("bounding_box_train/P0002T04210A1C3F11.jpg", 2042101, 3),
    ]
    assert [(s.pid, s.camid) for s in splits.query] == [(602140, 0)]
    assert [(s.pid, s.camid) for s in splits.gallery] == [(602140, 3), (602150, 3)]
    ground = load_splits("agreid", root, query="ground")
    assert [(s.pid, s.camid) for s in (*ground.query, *ground.gallery)] == [(602140, 3), (602140, 0), (702140, 0)]
    counts = [(s.published["query"].images, s.published["gallery"].images) for s in (splits, ground)]
    assert counts == [(1_701, 3_331), (962, 7_204)] and ground.published["train"].ids == 199
    tree(root, "query_all_c0/P0006_C0.jpg")
    with error(ValueError, "1 images", "P0006T0214A0C0F1831.jpg", "P0006_C0.jpg"):
        load_splits("agreid", root)


def test_cargo(tmp_path):
    root = tree(tmp_path / "CARGO", *CARGO)
    splits = load_splits("cargo", tmp_path)
    assert [(s.pid, s.camid) for s in splits.train] == [(0, 1), (0, 2), (1, 13)]
    assert names(splits.query, root)[0] == ("query/Cam2/Cam2_day_2519_320.jpg", 2519, 2)
    assert [s.camid for s in splits.gallery] == [3, 6, 7, 10]
    valid = {}
    for test in ("all", "aerial", "ground", "cross"):
        found = load_splits("cargo", root, test=test)
        valid[test] = check_queries(found.query, found.gallery)
    assert valid == {"all": (2, 2), "aerial": (1, 1), "ground": (1, 1), "cross": (2, 2)}
    cross, air = (load_splits("cargo", root, test=test) for test in ("cross", "aerial"))
    assert [s.camid for s in (*cross.query, *cross.gallery)] == [1, 2, 1, 2, 2, 2] and cross.train == splits.train
    assert len(air.train) == 3 and [s.camid for s in (*air.query, *air.gallery)] == [2, 3]
    assert (air.published["query"].images, air.published["gallery"].images) == (178, 32_268)
    with error(ValueError, "test is 'air'", "all, ground, aerial, cross"):
        load_splits("cargo", root, test="air")
    tree(root, "query/Cam2/Cam2_2519.jpg")
    with error(ValueError, "Cam2_day_2519_320.jpg", "Cam2_2519.jpg"):
        load_splits("cargo", root)


def test_pduke(tmp_path):
    root = tree(tmp_path / "P-DukeMTMC-reid", *PDUKE)
    splits = load_splits("P-DukeMTMC", tmp_path)
    assert [(s.pid, s.camid) for s in splits.train] == [(1, 1), (1, 2), (3, 2)]
    assert names(splits.query, root) == [("test/occluded_body_images/0002/0002_6_01.jpg", 2, 1)]
    assert [(s.pid, s.camid) for s in splits.gallery] == [(2, 2), (9, 2)]
    assert check_queries(splits.query, splits.gallery).num_valid == 1  # both of one camera of DukeMTMC


def test_randperson(tmp_path):
    tree(tmp_path / "a", *RANDPERSON)
    splits = load_splits("randperson", tmp_path / "a")
    assert [(s.pid, s.camid) for s in splits.train] == [(0, 0), (0, 101), (17, 1002)]
    assert not splits.query and "good for training only" in str(splits) and splits.published["train"].images == 132_145
    turned = tree(tmp_path / "b", "randperson_subset/000000_c01_s03_f001632.jpg")
    assert [(s.pid, s.camid) for s in load_splits("randperson", turned).train] == [(0, 301)]
    tree(tmp_path / "a", "randperson_subset/face.jpg")
    with error(ValueError, "1 images", "face.jpg"):
        load_splits("randperson", tmp_path / "a")


def test_clonedperson(tmp_path):
    root = tree(tmp_path / "clonedperson", *CLONED)
    splits = load_splits("clonedperson", tmp_path)
    assert [(s.pid, s.camid) for s in splits.train] == [(700000, 200), (700001, 600)]
    assert [(s.pid, s.camid) for s in (*splits.query, *splits.gallery)] == [(705228, 601), (705228, 602)]
    tree(root, *JUNK)
    right = []  # of other cameras than the query's own, as the released loader counts and as we do
    for cameras, expected in (("shared", [0, 0, 1, 2, 1]), ("own", [200, 600, 601, 602, 1201])):
        each = load_splits("clonedperson", root, cameras=cameras)
        assert [s.camid for s in (*each.train, *each.query, *each.gallery)] == expected
        right.append([s.camid for s in each.gallery if s.camid != each.query[0].camid])
        assert ("shared by the scenes" in str(each)) == (cameras == "shared")
    assert right == [[2], [602, 1201]]
    (root / "test/query/705228_s06_c01_f001117.jpg").unlink()
    (root / "test/query").rmdir()
    with error(FileNotFoundError, "one is not there"):
        load_splits("clonedperson", root)
    only = load_splits("clonedperson", tree(tmp_path / "train_only", *CLONED[:2]))
    assert only.train and not only.gallery


def test_cuhksysu(tmp_path):
    splits = load_splits("cuhk_sysu", tree(tmp_path / "cuhk_sysu", *SYSU))
    assert [(s.pid, s.camid) for s in splits.train] == [(11934, 0), (1, 0), (1, 0)] and not splits.query  # by name
    assert datasets.combine([splits]).num_pids == 2


@pytest.mark.parametrize(("name", "files", "verdict"), [
    ("agreid", AGREID, "usable"), ("cargo", CARGO, "usable"), ("pduke", PDUKE, "usable"),
    ("randperson", RANDPERSON, "usable for training"), ("clonedperson", CLONED, "usable"),
    ("cuhksysu", SYSU, "usable for training"),
])  # fmt: skip
def test_the_doctor_reads_each_set(tmp_path, capsys, name, files, verdict):
    tree(tmp_path, *files)
    for i, path in enumerate(sorted(tmp_path.rglob("*.jpg"))):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (32, 16, 3), np.uint8)).save(path)
    assert main.main(["--mode", "check", f"--{name}_path", str(tmp_path)]) == 0
    assert f"{name}: {verdict}" in capsys.readouterr().out
