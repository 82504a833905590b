"""Small data sets with repeated splits: the rule of each, and that the splits are made once and reused."""

import json
import struct
import sys

import numpy as np
import pytest
from scipy.io import savemat
from trees import error, names, tree

import datasets
from datasets import Counts, check_queries, load_splits
from parsers import base


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def pids(samples):
    return {sample.pid for sample in samples}


VIPER = [f"VIPeR/cam_{view}/{pid:03d}_{angle}.bmp" for view, angle in (("a", 0), ("b", 90)) for pid in range(7)]


def test_viper_by_hand(tmp_path):
    tree(tmp_path, *VIPER, "VIPeR/cam_a/.DS_Store", "VIPeR/README.txt")
    splits = load_splits("viper", tmp_path)
    assert splits.count("train") == Counts(3, 6, 2) and splits.count("query") == Counts(4, 4, 1)
    assert pids(splits.train).isdisjoint(pids(splits.query)) and pids(splits.query) == pids(splits.gallery)
    assert all("cam_a" in s.path and s.camid == 1 for s in splits.query)
    assert all("cam_b" in s.path and s.camid == 2 for s in splits.gallery)
    assert check_queries(splits.query, splits.gallery) == (4, 4)
    turned = load_splits("viper", tmp_path, split=1)  # the same half in the other direction
    assert turned.query == splits.gallery and turned.gallery == splits.query
    assert sorted(s.path for s in turned.train) == sorted(s.path for s in splits.train)
    halves = {frozenset(pids(load_splits("viper", tmp_path, split=split).train)) for split in range(0, 20, 2)}
    assert len(halves) > 5  # ten draws of three people out of seven
    assert datasets.num_splits("viper") == 20
    for split in (20, -1):
        with error(ValueError, f"there is no split {split}", "20, numbered 0 to 19"):
            load_splits("viper", tmp_path, split=split)


def test_views_have_to_agree(tmp_path):
    tree(tmp_path, *VIPER, "VIPeR/cam_a/400_0.bmp")
    with error(ValueError, "1 people", "in one of cam_a/ and cam_b/ only: 400"):
        load_splits("viper", tmp_path)
    with error(FileNotFoundError, "cam_a/ and cam_b/", "https://vision.soe.ucsc.edu"):
        load_splits("viper", tree(tmp_path / "no", "a.jpg"))
    with error(ValueError, "img_001.png", "000_45.bmp"):  # PRID450S has folders of the same names
        load_splits("viper", tree(tmp_path / "450s", "cam_a/img_001.png", "cam_b/img_001.png"))


def test_splits_are_made_once_and_reused(tmp_path, monkeypatch):
    tree(tmp_path, *VIPER)
    first = [load_splits("viper", tmp_path, split=split) for split in range(20)]
    path = tmp_path / "VIPeR" / "splits_viper_reid.json"
    kept = json.loads(path.read_text())
    assert kept["data_set"] == "viper" and kept["made_from"] == "drawn at random with seed 0"
    assert kept["people"] == list(range(7)) and len(kept["splits"]) == 10
    assert kept["splits"][3]["train"] == sorted(pids(first[6].train))
    monkeypatch.setattr(base.random, "Random", None)  # nothing can be drawn any more
    assert [load_splits("viper", tmp_path, split=split) for split in range(20)] == first
    kept["splits"][0] = {"train": [6], "test": [0]}  # what is in the file is what is used
    path.write_text(json.dumps(kept))
    assert pids(load_splits("viper", tmp_path).train) == {6} and pids(load_splits("viper", tmp_path).query) == {0}


def test_splits_do_not_depend_on_the_machine(tmp_path):
    tree(tmp_path / "a", *VIPER)
    tree(tmp_path / "b", *reversed(VIPER))
    a, b = ([names(load_splits("viper", tmp_path / x, split=s).train, tmp_path / x) for s in range(20)] for x in "ab")
    assert a == b


def test_kept_splits_of_other_people_are_refused(tmp_path):
    tree(tmp_path, *VIPER)
    load_splits("viper", tmp_path)
    (tmp_path / "VIPeR/cam_a/006_0.bmp").unlink()
    (tmp_path / "VIPeR/cam_b/006_90.bmp").unlink()
    with error(ValueError, "splits_viper_reid.json holds 10 splits of 7 people", "6 people are here", "delete"):
        load_splits("viper", tmp_path)
    (tmp_path / "VIPeR/splits_viper_reid.json").write_text("{")
    with error(ValueError, "is damaged", "Delete it"):
        load_splits("viper", tmp_path)


def test_read_only_data_keep_their_splits_in_the_cache(tmp_path, monkeypatch):
    tree(tmp_path / "data", *VIPER)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    first = load_splits("viper", tmp_path / "data")
    assert not (tmp_path / "data" / "VIPeR" / "splits_viper_reid.json").exists()
    (kept,) = (tmp_path / "cache" / "reid_suite").glob("viper-*/splits_viper_reid.json")
    assert str(kept) in str(first)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # writable now: still the same file
    assert load_splits("viper", tmp_path / "data") == first
    assert not (tmp_path / "data" / "VIPeR" / "splits_viper_reid.json").exists()


def test_prid450s(tmp_path):
    tree(tmp_path, *(f"cam_{view}/{kind}_{pid:03d}.png" for view in "ab" for kind in ("img", "mask")
                     for pid in (1, 2, 5)))  # fmt: skip
    splits = load_splits("prid450s", tmp_path, split=3)
    assert splits.count("train") == Counts(1, 2, 2) and splits.count("query") == Counts(2, 2, 1)  # without the masks
    assert {s.camid for s in splits.query} == {1} and {s.camid for s in splits.gallery} == {2}
    assert datasets.num_splits("prid450s") == 10


def test_prid_single_shot(tmp_path):
    root = tree(tmp_path / "prid_2011", *(f"single_shot/cam_a/person_{pid:04d}.png" for pid in [*range(1, 203), 385]),
                *(f"single_shot/cam_b/person_{pid:04d}.png" for pid in [*range(1, 202), 300, 749]))  # fmt: skip
    splits = load_splits("prid", tmp_path)
    assert splits.count("train") == Counts(100, 200, 2) and splits.count("query") == Counts(100, 100, 1)
    assert pids(splits.train) | pids(splits.query) == set(range(1, 201))  # 201 is in both folders, but two people
    assert pids(splits.gallery) == pids(splits.query) | {201, 300, 749}  # the others of view b complete the gallery
    assert {s.camid for s in splits.gallery} == {2} and "3 people of the gallery" in str(splits)
    (root / "single_shot/cam_b/person_0007.png").unlink()
    with error(ValueError, "1 of the people 1 to 200", ": 7."):
        load_splits("prid", tmp_path)
    with error(FileNotFoundError, "single_shot/"):
        load_splits("prid", tree(tmp_path / "no", "multi_shot/cam_a/person_0001/0001.png"))


def test_cuhk01(tmp_path):
    tree(tmp_path, *(f"campus/{pid:04d}{image:03d}.png" for pid in range(1, 6) for image in (1, 2, 3, 4)))
    splits = load_splits("cuhk01", tmp_path)
    assert splits.count("train") == Counts(2, 8, 2) and splits.count("query") == Counts(3, 6, 1)
    assert {s.path[-7:] for s in splits.query} == {"001.png", "002.png"}  # view 1
    assert {s.path[-7:] for s in splits.gallery} == {"003.png", "004.png"}  # view 2
    assert load_splits("cuhk01", tmp_path, split=1).query == splits.gallery
    assert load_splits("cuhk01", tmp_path / "campus") == splits and datasets.num_splits("cuhk01") == 20
    with error(FileNotFoundError, "campus/"):
        load_splits("cuhk01", tree(tmp_path / "no", "a.jpg"))


GRID = [f"underground_reid/probe/{pid:04d}_1_25008_201_113_60_155.jpeg" for pid in range(1, 7)] + [
    f"underground_reid/gallery/{pid:04d}_{2 + pid % 2}_25070_148_145_68_174.jpeg" for pid in range(1, 7)] + [
    f"underground_reid/gallery/0000_{camera}_24923_144_93_72_190.jpeg" for camera in (5, 6)]  # fmt: skip


def write_grid(folder, trains):
    """trainIdxAll as the publisher writes it: cells of structs whose third field numbers the people."""
    cells = np.empty((1, len(trains)), object)
    for index, train in enumerate(trains):
        people = np.array(train)
        cells[0, index] = {"probeImIdx": 2 * people, "galleryImIdx": 2 * people - 1, "personIdx": people}
    savemat(folder / "features_and_partitions.mat", {"trainIdxAll": cells, "features": np.zeros((2, 2))})


def test_grid(tmp_path):
    root = tree(tmp_path, *GRID) / "underground_reid"
    with error(FileNotFoundError, "features_and_partitions.mat", "ten splits"):
        load_splits("grid", tmp_path)
    write_grid(root, [[1 + i % 6, 1 + (i + 2) % 6, 1 + (i + 3) % 6] for i in range(10)])
    splits = load_splits("grid", tmp_path, split=1)
    assert pids(splits.train) == {2, 4, 5} and pids(splits.query) == {1, 3, 6}  # as published, not drawn
    assert all(s.camid == 1 for s in splits.query) and len(splits.train) == 6
    assert sorted((s.pid, s.camid) for s in splits.gallery) == [(0, 5), (0, 6), (1, 3), (3, 3), (6, 2)]
    assert splits.count("gallery").ids == 3 and "2 gallery images are distractors" in str(splits)
    assert "trainIdxAll of features_and_partitions.mat" in str(splits)
    (root / "features_and_partitions.mat").unlink()
    assert load_splits("grid", tmp_path, split=1) == splits  # kept as JSON
    assert pids(load_splits("grid", tmp_path, split=9).train) == {4, 6, 1}


def test_grid_partitions_that_do_not_fit(tmp_path):
    root = tree(tmp_path, *GRID) / "underground_reid"
    write_grid(root, [[1, 2, 250]] * 10)
    with error(ValueError, "names 1 people who are not there: 250"):
        load_splits("grid", tmp_path)
    write_grid(root, [[1, 2, 3]] * 9)
    with error(ValueError, "holds 9 splits, not 10"):
        load_splits("grid", tmp_path)
    savemat(root / "features_and_partitions.mat", {"other": np.zeros(2)})
    with error(ValueError, "no variable trainIdxAll"):
        load_splits("grid", tmp_path)
    (root / "features_and_partitions.mat").write_text("not MATLAB")
    with error(ValueError, "cannot be read as a MATLAB file"):
        load_splits("grid", tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_mat_file_that_ends_its_reader_is_a_message(tmp_path):
    """An element of numbers whose type says that it is an array: scipy 1.17 looks up a type that is not there."""
    root = tree(tmp_path, *GRID) / "underground_reid"
    savemat(root / "features_and_partitions.mat", {"trainIdxAll": np.zeros(2)})
    content = (root / "features_and_partitions.mat").read_bytes()
    numbers = struct.pack("<II", 9, 16)  # type and size of two doubles
    assert content.count(numbers) == 1
    (root / "features_and_partitions.mat").write_bytes(content.replace(numbers, struct.pack("<II", 14, 16)))
    with error(ValueError, "cannot be read as a MATLAB file (its reader ended with -"):
        load_splits("grid", tmp_path)


def test_ilids(tmp_path):
    tree(tmp_path, *(f"i-LIDS_Pedestrian/Persons/{pid:04d}{image:03d}.jpg" for pid in range(1, 6)
                     for image in range(1, 3 + pid % 3)))  # fmt: skip
    splits = load_splits("ilids", tmp_path, split=2)
    assert splits.protocol == "none" and len(pids(splits.train)) == 2  # 119 // 2 = 59 of 119
    assert [s.pid for s in splits.query] == [s.pid for s in splits.gallery] and len(splits.query) == 3
    assert not {s.path for s in splits.query} & {s.path for s in splits.gallery}
    assert pids(splits.train).isdisjoint(pids(splits.query))
    assert len(splits.train) == sum(2 + pid % 3 for pid in pids(splits.train))  # all images of those people
    assert {s.camid for s in splits.train + splits.query + splits.gallery} == {1}
    assert check_queries(splits.query, splits.gallery, splits.protocol) == (3, 3)
    assert load_splits("ilids", tmp_path / "i-LIDS_Pedestrian" / "Persons", split=2) == splits
    (tmp_path / "i-LIDS_Pedestrian/Persons/0003002.jpg").unlink()
    with error(ValueError, "1 people have one image only: 3"):
        load_splits("ilids", tmp_path)
