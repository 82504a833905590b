"""SYSU-MM01, RegDB and LLCM: whose images are what, the ten galleries, the two directions."""

import random

import numpy as np
import pytest
from scipy.io import savemat
from trees import error, names, tree

import datasets
from datasets import Counts, Sample, check_queries, load_splits
from synthetic.kind import Kind

# (camera, pid) -> images; person 6 is not in cameras 1 and 2, person 10 not in camera 5
TEST = {(1, 10): 12, (2, 10): 3, (3, 10): 2, (4, 10): 2, (6, 10): 1, (3, 6): 2, (4, 6): 11, (5, 6): 1, (6, 6): 1}
TRAIN = {(1, 1): 2, (3, 1): 1, (6, 2): 1, (4, 2): 1, (5, 4): 1, (6, 4): 2}  # pid 4 is of the validation


def sysu(root, mat=False):
    tree(root, *(f"cam{camera}/{pid:04d}/{n:04d}.jpg" for (camera, pid), count in {**TEST, **TRAIN}.items()
                 for n in range(1, count + 1)), "cam2/0333/0001.jpg")  # fmt: skip
    (root / "exp").mkdir()
    for part, people in (("train", [1, 2]), ("val", [4]), ("test", [10, 6])):
        if mat:
            savemat(root / "exp" / f"{part}_id.mat", {"id": np.array([people], np.uint16)})
        else:
            (root / "exp" / f"{part}_id.txt").write_text(",".join(map(str, people)) + "\n")
    return root


def write_permutations(root, tests=TEST):
    """rand_perm_cam: a cell per camera of cells per person of orders (10, images), counted from 1, empty if unseen."""
    cameras = np.empty((6, 1), object)
    for camera in range(1, 7):
        people = np.empty((10, 1), object)
        for pid in range(1, 11):
            count = tests.get((camera, pid), 0)
            orders = [np.roll(np.arange(count, 0, -1), trial) for trial in range(10)] if count else []
            people[pid - 1, 0] = np.array(orders, np.uint8).reshape(10 if count else 0, count)
        cameras[camera - 1, 0] = people
    savemat(root / "exp" / "rand_perm_cam.mat", {"rand_perm_cam": cameras})


def of(camera, pid, *images):
    return [(f"cam{camera}/{pid:04d}/{n:04d}.jpg", pid, camera) for n in images]


def test_sysu_by_hand(tmp_path):
    root = sysu(tmp_path / "SYSU-MM01")
    write_permutations(root)
    splits = load_splits("sysu", tmp_path)
    assert splits.protocol == "sysu" and splits.infrared == {3, 6}
    assert names(splits.train, root) == [*of(1, 1, 1, 2), *of(3, 1, 1), *of(4, 2, 1), *of(6, 2, 1), *of(5, 4, 1),
                                         *of(6, 4, 1, 2)]  # fmt: skip
    assert names(splits.query, root) == [*of(3, 6, 1, 2), *of(6, 6, 1), *of(3, 10, 1, 2), *of(6, 10, 1)]
    # single shot: the first of each order, which here is the last image
    assert names(splits.gallery, root) == [*of(4, 6, 11), *of(5, 6, 1), *of(1, 10, 12), *of(2, 10, 3), *of(4, 10, 2)]
    assert "rand_perm_cam.mat of the publisher" in str(splits)
    indoor = load_splits("sysu", tmp_path, search="indoor")
    assert names(indoor.gallery, root) == [*of(1, 10, 12), *of(2, 10, 3)] and indoor.query == splits.query
    assert {s.pid for s in load_splits("sysu", tmp_path, use_val=False).train} == {1, 2}
    assert [each.published["train"].images for each in (splits, load_splits("sysu", tmp_path, use_val=False))] == [
        34_167, 30_213]  # fmt: skip


def test_sysu_trials_and_shots(tmp_path):
    root = sysu(tmp_path)
    write_permutations(root)
    third = load_splits("sysu", tmp_path, trial=3)
    assert names(third.gallery, root) == [*of(4, 6, 3), *of(5, 6, 1), *of(1, 10, 3), *of(2, 10, 3), *of(4, 10, 1)]
    multi = load_splits("sysu", tmp_path, shots=10)
    assert len(multi.gallery) == 10 + 1 + 10 + 3 + 2  # ten of each, or as many as there are
    assert names(multi.gallery[:2], root) == of(4, 6, 11, 10)
    assert multi.published["gallery"].images == 3_010 and third.published["gallery"].images == 301
    assert datasets.num_trials("sysu") == 10 and datasets.num_splits("sysu") == 1 and datasets.num_trials("market") == 1
    for options, texts in (({"trial": 10}, ("no trial 10", "0 to 9")), ({"shots": 5}, ("shots is 5", "1, 10")),
                           ({"search": "outdoor"}, ("search is 'outdoor'", "all, indoor"))):  # fmt: skip
        with error(ValueError, *texts):
            load_splits("sysu", tmp_path, **options)


def test_sysu_without_the_publishers_draws(tmp_path):
    """The draw that AGW's data_manager.py makes: seeded with the trial, person by person, camera by camera."""
    root = sysu(tmp_path)
    for trial in range(10):
        rng, expected = random.Random(trial), []
        for pid in (6, 10):
            for camera in (1, 2, 4, 5):
                if (camera, pid) in TEST:
                    expected += of(camera, pid, rng.choice(range(1, TEST[camera, pid] + 1)))
        splits = load_splits("sysu", root, trial=trial)
        assert names(splits.gallery, root) == expected and f"seed {trial}" in str(splits)
    assert len({load_splits("sysu", root, trial=trial).gallery for trial in range(10)}) > 5
    multi = load_splits("sysu", root, shots=10).gallery
    assert len(multi) == len(set(multi)) == 26


def test_sysu_protocol_leaves_out_the_same_room(tmp_path):
    """Camera 3 and camera 2 stand in one room: with only camera 2 in the gallery, its queries have no answer."""
    root = sysu(tmp_path)
    splits = load_splits("sysu", root, search="indoor")
    only_2 = [s for s in splits.gallery if s.camid == 2]
    assert check_queries(splits.query, only_2, "sysu").num_valid == 1  # the query of camera 6
    assert check_queries(splits.query, only_2, "market1501").num_valid == 3


def test_sysu_from_mat_lists(tmp_path):
    assert names(load_splits("sysu", sysu(tmp_path / "a", mat=True)).query, tmp_path / "a") == names(
        load_splits("sysu", sysu(tmp_path / "b")).query, tmp_path / "b")  # fmt: skip


def test_sysu_errors(tmp_path):
    root = sysu(tmp_path)
    write_permutations(root)
    (root / "exp/val_id.txt").rename(root / "val_id.txt")
    with error(FileNotFoundError, "val_id.txt or val_id.mat"):
        load_splits("sysu", root)
    assert load_splits("sysu", root, use_val=False).train  # not needed then
    (root / "val_id.txt").rename(root / "exp/val_id.txt")
    (root / "cam1/0010/0012.jpg").unlink()
    with error(ValueError, "0010 holds 11 images", "is for 12"):
        load_splits("sysu", root)
    (root / "exp/test_id.txt").write_text("six")
    with error(ValueError, "test_id.txt does not read like '1,2,4'"):
        load_splits("sysu", root)
    (root / "exp/test_id.txt").unlink()
    with error(FileNotFoundError, "test_id.txt or test_id.mat"):
        load_splits("sysu", root)
    with error(FileNotFoundError, "cam1/ to cam6/ and exp/", "https://github.com/wuancong/SYSU-MM01"):
        load_splits("sysu", tree(tmp_path / "no", "cam1/0001/0001.jpg"))
    with error(FileNotFoundError, "cam1/, cam2/, cam4/, cam5/ are not there"):
        load_splits("sysu", tree(tmp_path / "half", "cam3/0001/0001.jpg", "cam6/0001/0001.jpg", "exp/available_id.txt"))


# ---- RegDB ----


def regdb(root, trials=(1, 2)):
    for trial in trials:
        for part, people in (("train", (trial, 20)), ("test", (30 + trial, 40))):
            for light, letter in (("Visible", "v"), ("Thermal", "t")):
                lines = [
                    f"{light}/{person}/male_back_{letter}_{n:05d}_{person}.bmp {label}"
                    for label, person in enumerate(people)
                    for n in (261, 300)
                ]
                tree(root, *(line.split(" ")[0] for line in lines))
                (root / "idx").mkdir(exist_ok=True)
                (root / "idx" / f"{part}_{light.lower()}_{trial}.txt").write_text("\n".join(lines) + "\n")
    return root


def test_regdb(tmp_path):
    root = regdb(tmp_path / "RegDB")
    splits = load_splits("regdb", tmp_path)
    assert splits.count("train") == Counts(2, 8, 2) and splits.infrared == {2} and splits.protocol == "market1501"
    assert names(splits.train[:1] + splits.train[-1:], root) == [
        ("Visible/1/male_back_v_00261_1.bmp", 0, 1), ("Thermal/20/male_back_t_00300_20.bmp", 1, 2)]  # fmt: skip
    assert names(splits.query[:1] + splits.gallery[:1], root) == [
        ("Visible/31/male_back_v_00261_31.bmp", 0, 1), ("Thermal/31/male_back_t_00261_31.bmp", 0, 2)]  # fmt: skip
    thermal = load_splits("regdb", tmp_path, query="thermal")
    assert thermal.query == splits.gallery and thermal.gallery == splits.query and thermal.train == splits.train
    assert "/2/" in load_splits("regdb", tmp_path, split=1).train[0].path  # trial 2
    assert not splits.shared_pids  # person 0 of training is another than person 0 of the test
    assert check_queries(splits.query, splits.gallery) == (4, 4) and datasets.num_splits("regdb") == 10


def test_regdb_errors(tmp_path):
    root = regdb(tmp_path)
    with error(FileNotFoundError, "train_visible_10.txt"):
        load_splits("regdb", root, split=9)
    with error(ValueError, "query is 'infrared'", "visible, thermal"):
        load_splits("regdb", root, query="infrared")
    (root / "Thermal/40/male_back_t_00300_40.bmp").unlink()
    with error(FileNotFoundError, "1 of the 4 images", "test_thermal_1.txt", "male_back_t_00300_40.bmp"):
        load_splits("regdb", root)
    (root / "idx/train_visible_1.txt").write_text("Visible/1/a.bmp\n")
    with error(ValueError, "line 1 of", "train_visible_1.txt"):
        load_splits("regdb", root)


# (light, camera, pid) -> images; person 12 is in no infrared camera but 4, whose images are numbered from 1
LLCM_TEST = {("vis", 1, 12): 3, ("vis", 3, 12): 2, ("nir", 4, 12): 2, ("vis", 9, 5): 1, ("vis", 3, 5): 4,
             ("nir", 1, 5): 3, ("nir", 9, 5): 1, ("nir", 3, 5): 2}  # fmt: skip


def llcm(root):
    tree(root, *(f"test_{light}/cam{camera}/{pid:04d}/{n:04d}.jpg" for (light, camera, pid), count in LLCM_TEST.items()
                 for n in range(1, count + 1)), "test_vis/cam2/0333/0001.jpg")  # fmt: skip
    tree(root, "vis/0001/a.jpg", "vis/0002/b.jpg", "nir/0001/c.jpg", "nir/0002/d.jpg")
    (root / "idx").mkdir()
    (root / "idx/test_id.txt").write_text("12,5\n")
    (root / "idx/train_vis.txt").write_text("vis/0001/a.jpg 0\nvis/0002/b.jpg 1\n")
    (root / "idx/train_nir.txt").write_text("nir/0001/c.jpg 0\nnir/0002/d.jpg 1\n")
    return root


def llcm_names(light, *images):
    """(path, pid, camera) of (camera, pid, number) triples."""
    far = 10 if light == "nir" else 0
    return [(f"test_{light}/cam{camera}/{pid:04d}/{n:04d}.jpg", pid, camera + far) for camera, pid, n in images]


def llcm_all(light, cameras):
    """All images of a light, person by person and camera by camera."""
    return llcm_names(light, *((camera, pid, n) for pid in (5, 12) for camera in cameras
                               for n in range(1, LLCM_TEST.get((light, camera, pid), 0) + 1)))  # fmt: skip


def llcm_drawn(light, cameras, trial):
    """AGW/data_manager.py, process_gallery_llcm, written out."""
    random.seed(trial)
    counts = [(camera, pid, LLCM_TEST.get((light, camera, pid), 0)) for pid in (5, 12) for camera in cameras]
    return llcm_names(light, *((c, pid, random.choice(range(1, n + 1))) for c, pid, n in counts if n))


def test_llcm(tmp_path):
    root, every, without_3 = llcm(tmp_path / "LLCM"), range(1, 10), [1, 2, 4, 5, 6, 7, 8, 9]
    drawn = set()
    for trial in range(10):
        splits = load_splits("llcm", tmp_path, trial=trial)
        assert names(splits.query, root) == llcm_all("nir", without_3), "camera 3 has no infrared test images"
        assert names(splits.gallery, root) == llcm_drawn("vis", every, trial)
        drawn.add(splits.gallery)
        back = load_splits("llcm", tmp_path, query="vis", trial=trial)
        assert names(back.query, root) == llcm_all("vis", every)
        assert names(back.gallery, root) == llcm_drawn("nir", without_3, trial)
    assert len(drawn) > 5 and datasets.num_trials("llcm") == 10
    assert splits.protocol == "llcm" and not splits.shared_pids
    assert names(splits.train, root) == [("vis/0001/a.jpg", 0, 1), ("vis/0002/b.jpg", 1, 1), ("nir/0001/c.jpg", 0, 11),
                                         ("nir/0002/d.jpg", 1, 11)]  # fmt: skip
    data = datasets.combine([splits])
    assert {data.cameras[i] for i in (2, 3)} == set(data.infrared) and {
        s.camid for s in splits.query
    } <= splits.infrared
    assert not {s.camid for s in splits.gallery} & splits.infrared


def test_llcm_protocol_leaves_out_the_same_camera_in_the_other_light():
    query = [Sample("q", 5, 11)]
    assert check_queries(query, [Sample("a", 5, 1), Sample("b", 5, 9)], "llcm").num_valid == 1
    assert check_queries(query, [Sample("a", 5, 1), Sample("b", 5, 9)], "market1501").num_valid == 1
    with error(ValueError, "protocol llcm leaves out"):
        check_queries(query, [Sample("a", 5, 1), Sample("b", 6, 9)], "llcm")


def test_llcm_errors(tmp_path):
    root = llcm(tmp_path)
    with error(ValueError, "query", "nir", "vis"):
        load_splits("llcm", root, query="thermal")
    (root / "nir/0002/d.jpg").unlink()
    with error(FileNotFoundError, "llcm: 1 of the 2 images in", "nir/0002/d.jpg"):
        load_splits("llcm", root)
    (root / "idx/test_id.txt").write_text("five\n")
    with error(ValueError, "test_id.txt does not read like '1,2,4'"):
        load_splits("llcm", root)
    (root / "idx/test_id.txt").unlink()
    with error(FileNotFoundError, "test_id.txt"):
        load_splits("llcm", root)


def thermal(data):
    """Camera numbers of the thermal images of a training set."""
    return {camera for s, camera in zip(data.samples, data.cameras, strict=True) if "Thermal" in s.path}


def test_infrared_cameras_of_a_union(tmp_path):
    tree(tmp_path / "m", "bounding_box_train/0002_c1s1_000451_03.jpg", "bounding_box_train/0002_c3s1_000551_01.jpg")
    parts = [load_splits("market", tmp_path / "m"), load_splits("regdb", regdb(tmp_path / "r"))]
    both = datasets.combine(parts)
    assert both.infrared == thermal(both) == {3}  # Market's two cameras are 0 and 1, RegDB's 2 and 3
    assert datasets.combine(parts[1:]).infrared == {1} and datasets.combine(parts[:1]).infrared == frozenset()


@pytest.mark.parametrize("use_all", [False, True])
def test_infrared_cameras_with_all_images(tmp_path, use_all):
    data = datasets.combine([load_splits("regdb", regdb(tmp_path))], use_all)
    assert data.infrared == thermal(data) and data.num_pids == (4 if use_all else 2)


def test_built_in_infrared(tmp_path, monkeypatch):
    sizes = {"num_train_pids": 2, "num_val_pids": 1, "num_test_pids": 2, "per_camera": 2}
    monkeypatch.setattr(Kind, "ensure", lambda kind, root, seed: kind.make(root, seed, progress=False, **sizes))
    splits = load_splits("synthetic_rgbir", tmp_path / "s", seed=1, search="indoor", trial=2)
    assert splits.protocol == "sysu" and splits.infrared == {3, 6} and "demonstration" in str(splits)
    assert len({s.pid for s in splits.train}) == 3 and {s.camid for s in splits.train} == {1, 2, 3, 4, 5, 6}
    assert {s.camid for s in splits.query} == {3, 6} and {s.camid for s in splits.gallery} == {1, 2}
    assert check_queries(splits.query, splits.gallery, "sysu").num_valid == len(splits.query)
