"""Tracklets: MARS's info files and junk, PRID2011's threshold, iLIDS-VID's orders, frames not there; memory."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.io import savemat
from trees import error, names, tree

import datasets
from datasets import Counts, check_queries, load_splits
from synthetic.kind import Kind


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def pids(samples):
    return {sample.pid for sample in samples}


# ---- MARS ----

# (pid, camera, frames) of each tracklet, in the order of the info files
MARS_TRAIN = [(1, 1, 2), (1, 2, 1), (3, 1, 3)]
MARS_TEST = [(-1, 1, 2), (0, 3, 2), (2, 1, 2), (2, 1, 1), (2, 4, 3), (6, 5, 1), (6, 5, 2), (8, 2, 1)]
MARS_QUERY = [3, 5, 6]  # rows, from 1: (2, cam 1), (2, cam 4), (6, cam 5)


def mars(root, train=MARS_TRAIN, test=MARS_TEST, query=MARS_QUERY, files=True):
    """A tree with the publisher's five info files."""
    (root / "info").mkdir(parents=True, exist_ok=True)
    for part, tracklets in (("train", train), ("test", test)):
        lines, rows = [], []
        for number, (pid, camid, length) in enumerate(tracklets):
            person = f"{pid:04d}" if pid >= 0 else "00-1"
            rows.append((len(lines) + 1, len(lines) + length, pid, camid))
            lines += [f"{person}C{camid}T{number:04d}F{frame:03d}.jpg" for frame in range(1, length + 1)]
        (root / "info" / f"{part}_name.txt").write_text("\n".join(lines) + "\n")
        savemat(root / "info" / f"tracks_{part}_info.mat", {f"track_{part}_info": np.array(rows, np.int32)})
        if files:
            tree(root, *(f"bbox_{part}/{name[:4]}/{name}" for name in lines))
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": np.array([query], np.uint16)})
    return root


def test_mars_by_hand(tmp_path):
    splits = load_splits("mars", mars(tmp_path / "MARS"))
    root = tmp_path / "MARS"
    assert names(splits.train, root) == [
        (("bbox_train/0001/0001C1T0000F001.jpg", "bbox_train/0001/0001C1T0000F002.jpg"), 1, 1),
        (("bbox_train/0001/0001C2T0001F001.jpg",), 1, 2),
        (
            (
                "bbox_train/0003/0003C1T0002F001.jpg",
                "bbox_train/0003/0003C1T0002F002.jpg",
                "bbox_train/0003/0003C1T0002F003.jpg",
            ),
            3,
            1,
        ),
    ]
    assert [(s.pid, s.camid, len(s.path)) for s in splits.query] == [(2, 1, 2), (2, 4, 3), (6, 5, 1)]
    assert [(s.pid, s.camid, len(s.path)) for s in splits.gallery] == MARS_TEST[1:]  # junk is gone, pid 0 stays
    assert splits.is_video and splits.distractor_pid == 0 and splits.count("gallery") == Counts(3, 7, 5)
    table = str(splits)
    assert "tracklets" in table and "1 junk tracklets (pid -1) left out" in table and "6 frames in query" in table
    assert splits.differences()[0] == "train ids: 2 != 625 published"


def test_mars_queries_in_the_gallery_or_not(tmp_path):
    with_queries = load_splits("mars", mars(tmp_path))
    without = load_splits("mars", tmp_path, query_in_gallery=False)
    assert [s for s in with_queries.gallery if s not in without.gallery] == list(with_queries.query)
    # the two queries of pid 2 are each other's only match in a further camera; pid 6 has no second camera at all
    assert check_queries(with_queries.query, with_queries.gallery) == (3, 2)
    assert check_queries(without.query, without.gallery) == (3, 1)
    assert with_queries.published["gallery"].images == 11_310 and without.published["gallery"].images == 9_330


def test_mars_frame_that_is_not_there(tmp_path):
    mars(tmp_path)
    (tmp_path / "bbox_test/0002/0002C4T0004F002.jpg").unlink()
    (tmp_path / "bbox_train/0001/0001C2T0001F001.jpg").unlink()
    (tmp_path / "bbox_test/00-1/00-1C1T0000F001.jpg").unlink()  # junk is not looked for
    with error(ValueError, "2 frames are listed and not there", "0002C4T0004F002.jpg", "0001C2T0001F001.jpg",
               "--skip_bad_images"):  # fmt: skip
        load_splits("mars", tmp_path)
    splits = load_splits("mars", tmp_path, skip_bad=True)
    assert [len(s.path) for s in splits.query] == [2, 2, 1]
    assert [s.pid for s in splits.train] == [1, 3]  # its only frame gone, the tracklet is gone
    assert "2 frames left out, which are listed and not there" in str(splits) and len(splits.left_out) == 2


def test_mars_info_that_does_not_fit(tmp_path):
    mars(tmp_path)
    text = (tmp_path / "info/test_name.txt").read_text()
    (tmp_path / "info/test_name.txt").write_text(text.replace("0002C4T0004F002", "0003C4T0004F002"))
    with error(ValueError, "row 5 of tracks_test_info.mat", "pid 2 in camera 4", "0003C4T0004F002.jpg"):
        load_splits("mars", tmp_path)
    (tmp_path / "info/test_name.txt").write_text(text.replace("0002C4T0004F002", "0002C5T0004F002"))
    with error(ValueError, "row 5", "0002C5T0004F002.jpg"):
        load_splits("mars", tmp_path)
    (tmp_path / "info/test_name.txt").write_text("\n".join(text.splitlines()[:-1]))
    with error(ValueError, "row 8", "13 lines"):
        load_splits("mars", tmp_path)
    (tmp_path / "info/query_IDX.mat").unlink()
    with error(FileNotFoundError, "query_IDX.mat", "liangzheng06/MARS-evaluation"):
        load_splits("mars", tmp_path)
    with error(FileNotFoundError, "bbox_train/, bbox_test/ and info/"):
        load_splits("mars", tree(tmp_path / "no", "a.jpg"))


SIZE = """
import contextlib, json, os, sys
from types import SimpleNamespace
sys.path.insert(0, {repository!r})
import datasets
root = {root!r}
real, real_isdir = os.scandir, os.path.isdir
def scandir(folder):  # the files need not be there: names are made as a disk would list them
    part, person = folder.split(os.sep)[-2:]
    if not part.startswith("bbox_"):
        return real(folder)
    return contextlib.nullcontext(
        SimpleNamespace(name=f"{{person}}C{{t % 6 + 1}}T{{t:05d}}F{{f:03d}}.jpg", is_file=lambda: True)
        for t in range(int(person), {tracklets}, 625) for f in range({frames}))
os.scandir = scandir
os.path.isdir = lambda path: "bbox_train" in path or real_isdir(path)
began = sum(os.times()[:4])  # of the processor, children included: neighbours on a busy machine do not count
splits = datasets.load_splits("mars", root)
seconds = sum(os.times()[:4]) - began
# not ru_maxrss: the child of a large process starts with its parent's
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))  # KiB
print(json.dumps([seconds, peak / 2**20,
                  sum(len(s.path) for s in splits.train)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_mars_at_its_real_size(tmp_path):
    """8,298 tracklets of 62 frames: 514,476 names, MARS has 509,914."""
    tracklets, frames = 8_298, 62
    (tmp_path / "info").mkdir()
    (tmp_path / "bbox_train").mkdir()
    rows = np.array([(t * frames + 1, (t + 1) * frames, t % 625, t % 6 + 1) for t in range(tracklets)])
    savemat(tmp_path / "info/tracks_train_info.mat", {"track_train_info": rows})
    with open(tmp_path / "info/train_name.txt", "w") as file:
        for t in range(tracklets):
            file.writelines(f"{t % 625:04d}C{t % 6 + 1}T{t:05d}F{f:03d}.jpg\n" for f in range(frames))
    tree(tmp_path, "info/test_name.txt", "info/tracks_test_info.mat", "info/query_IDX.mat")
    code = SIZE.format(repository=os.path.dirname(datasets.__file__), root=str(tmp_path), tracklets=tracklets,
                       frames=frames)  # fmt: skip
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, gib, found = json.loads(output)
    assert found == tracklets * frames
    assert seconds < 30 and gib < 1, (seconds, gib)


# ---- i-LIDS-VID ----


def ilidsvid(root, people=(1, 2, 9, 10, 300)):
    tree(root, *(f"i-LIDS-VID/sequences/cam{camera}/person{pid:03d}/cam{camera}_person{pid:03d}_{frame:05d}.png"
                 for camera in (1, 2) for pid in people for frame in (317, 99, 318)),
         *(f"i-LIDS-VID/images/cam1/person{pid:03d}/cam1_person{pid:03d}.png" for pid in people))  # fmt: skip
    return root


def write_orders(path, people, count=10):
    """ls_set: each row is an order of the people by number, from 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"ls_set": np.array([np.roll(np.arange(1, people + 1), shift) for shift in range(count)], float)})


def test_ilidsvid(tmp_path):
    ilidsvid(tmp_path)
    mat = tmp_path / "train-test people splits" / "train_test_splits_ilidsvid.mat"
    with error(FileNotFoundError, "train_test_splits_ilidsvid.mat"):
        load_splits("ilidsvid", tmp_path)
    write_orders(mat, 4)
    with error(ValueError, "divides 4 people, and 5 are here"):
        load_splits("ilidsvid", tmp_path)
    write_orders(mat, 5)
    splits = load_splits("ilidsvid", tmp_path)
    # the order 1 2 3 4 5: the first half, people 1 and 2, is for the test; the others are persons 9, 10 and 300
    assert [s.pid for s in splits.query] == [1, 2] and pids(splits.train) == {9, 10, 300}
    assert [s.pid for s in load_splits("ilidsvid", tmp_path, split=1).query] == [1, 300]  # the order 5 1 2 3 4
    assert [s.camid for s in splits.query] == [1, 1] and [s.camid for s in splits.gallery] == [2, 2]
    (((*frames,), pid, camid),) = names(splits.query[:1], tmp_path / "i-LIDS-VID/sequences/cam1/person001")
    assert frames == [f"cam1_person001_{frame}.png" for frame in ("00099", "00317", "00318")] and (pid, camid) == (1, 1)
    assert splits.count("train") == Counts(3, 6, 2)
    mat.unlink()
    assert load_splits("ilids-vid", tmp_path) == splits
    assert datasets.num_splits("ilidsvid") == 10


def test_ilidsvid_with_holes(tmp_path):
    ilidsvid(tmp_path)
    write_orders(tmp_path / "train_test_splits_ilidsvid.mat", 5)
    (tmp_path / "i-LIDS-VID/sequences/cam1/person301").mkdir()
    with error(ValueError, "1 tracklets cannot be used", "person301", "no frames", "--skip_bad_images"):
        load_splits("ilidsvid", tmp_path)
    splits = load_splits("ilidsvid", tmp_path, skip_bad=True)
    assert "1 tracklets left out" in str(splits) and [what.split("(")[1] for what in splits.left_out] == ["no frames)"]
    tree(tmp_path, "i-LIDS-VID/sequences/cam1/person301/cam1_person301_00001.png")
    with error(ValueError, "1 people", "in one camera only: 301", "--skip_bad_images"):
        load_splits("ilidsvid", tmp_path)
    (left_out,) = load_splits("ilidsvid", tmp_path, skip_bad=True).left_out
    assert left_out.endswith("person301/ (in one camera only)")


# ---- PRID2011 ----


def prid2011(root, lengths):
    """lengths: pid -> (frames in view a, frames in view b)."""
    tree(root, *(f"prid_2011/multi_shot/cam_{view}/person_{pid:04d}/{frame:04d}.png" for pid, both in lengths.items()
                 for view, number in zip("ab", both, strict=True) for frame in range(1, number + 1)))  # fmt: skip
    return root


LENGTHS = {1: (27, 27), 2: (40, 30), 3: (26, 90), 4: (90, 26), 5: (27, 28), 199: (60, 60), 201: (50, 50)}


def test_prid2011_threshold(tmp_path):
    splits = load_splits("prid2011", prid2011(tmp_path, LENGTHS))
    used = pids(splits.train) | pids(splits.query)
    assert used == {1, 2, 5, 199}  # 3 and 4 have 26 frames in one view; 201 is another person in each
    assert splits.count("train") == Counts(2, 4, 2) and splits.count("query") == Counts(2, 2, 1)
    assert {s.camid for s in splits.query} == {1} and {s.camid for s in splits.gallery} == {2}
    assert pids(splits.query) == pids(splits.gallery)
    assert splits.gallery[0].path[0].endswith("0001.png") and len(splits.gallery[0].path) >= 27
    assert "4 people with at least 27 frames" in str(splits) and "drawn at random with seed 0" in str(splits)
    assert datasets.num_splits("prid2011") == 10


def test_prid2011_published_splits(tmp_path):
    prid2011(tmp_path / "mat", LENGTHS)
    write_orders(tmp_path / "mat" / "train_test_splits_prid.mat", 4)
    splits = load_splits("prid2011", tmp_path / "mat")
    assert pids(splits.query) == {1, 2} and pids(splits.train) == {5, 199}  # orders of the people who are long enough
    assert pids(load_splits("prid2011", tmp_path / "mat", split=1).query) == {1, 199}
    prid2011(tmp_path / "json", LENGTHS)
    torchreid = [{"train": ["person_0002", "person_0005"], "test": ["person_0001", "person_0199"]}] * 10
    (tmp_path / "json" / "splits_prid2011.json").write_text(json.dumps(torchreid))
    splits = load_splits("prid2011", tmp_path / "json")
    assert pids(splits.query) == {1, 199} and "splits_prid2011.json" in str(splits)
    torchreid[3] = {"train": ["person_0003"], "test": ["person_0001"]}
    (tmp_path / "json" / "splits_prid2011.json").write_text(json.dumps(torchreid))
    (tmp_path / "json" / "prid_2011" / "splits_prid2011_reid.json").unlink()
    with error(ValueError, "names 1 people who are not there: 3"):
        load_splits("prid2011", tmp_path / "json")
    for text in ("{", "[{}]", '[{"train": [1], "test": []}]', "7", '["\xe9"]'):
        (tmp_path / "json" / "splits_prid2011.json").write_bytes(text.encode("latin-1"))
        with error(ValueError, "prid2011: ", "splits_prid2011.json is no"):
            load_splits("prid2011", tmp_path / "json")


def test_prid2011_layout(tmp_path):
    with error(FileNotFoundError, "multi_shot/cam_a/"):
        load_splits("prid2011", tree(tmp_path, "single_shot/cam_a/person_0001.png"))
    with error(ValueError, "0 people have 27 frames", "178 are expected"):
        load_splits("prid2011", prid2011(tmp_path, {1: (3, 3)}))


# ---- DukeMTMC-VideoReID ----

DUKE = ("train/0001/0003/0001C6F0002X30823.jpg", "train/0001/0003/0001C6F0001X30811.jpg",
        "train/0001/0004/0001_C2_F0001_X00900.jpg", "query/0005/0001/0005C1F0002X00100.jpg",
        "query/0005/0001/0005C1F0004X00124.jpg", "gallery/0005/0002/0005C3F0001X00200.jpg",
        "gallery/7000/0001/7000C8F0001X00300.jpg")  # fmt: skip


def test_dukevid(tmp_path):
    splits = load_splits("DukeMTMC-VideoReID", tree(tmp_path / "DukeMTMC-VideoReID", *DUKE))
    assert names(splits.train, tmp_path / "DukeMTMC-VideoReID") == [
        (("train/0001/0003/0001C6F0001X30811.jpg", "train/0001/0003/0001C6F0002X30823.jpg"), 1, 6),  # in time
        (("train/0001/0004/0001_C2_F0001_X00900.jpg",), 1, 2),
    ]
    assert [(s.pid, s.camid, len(s.path)) for s in splits.query] == [(5, 1, 2)]  # begins with frame 2: as published
    assert [(s.pid, s.camid) for s in splits.gallery] == [(5, 3), (7000, 8)]
    assert load_splits("dukevid", tmp_path) == splits
    with error(FileNotFoundError, "withdrawn by its authors", "train/, or with query/ and gallery/"):
        load_splits("dukevid", tree(tmp_path / "no", "train/a.jpg"))


def test_dukevid_bad_tracklets(tmp_path):
    tree(tmp_path, *DUKE, "train/0001/0003/0001C5F0003X30835.jpg", "gallery/7000/0002/frame.jpg")
    (tmp_path / "query/0005/0009").mkdir()
    with error(ValueError, "3 tracklets", "several people or cameras", "no frames", "do not read like"):
        load_splits("dukevid", tmp_path)
    splits = load_splits("dukevid", tmp_path, skip_bad=True)
    assert [s.camid for s in splits.train] == [2] and "3 tracklets left out" in str(splits)


def test_built_in_video(tmp_path, monkeypatch):
    sizes = {"num_train_pids": 2, "num_test_pids": 2, "num_cameras": 3}
    monkeypatch.setattr(Kind, "ensure", lambda kind, root, seed: kind.make(root, seed, progress=False, **sizes))
    splits = load_splits("synthetic_video", tmp_path / "s", seed=1)
    assert splits.is_video and "demonstration" in str(splits) and all(len(s.path) > 1 for s in splits.train)
    assert splits.count("train")[:2] == (2, 4) and splits.count("query")[:2] == (2, 2)
    assert check_queries(splits.query, splits.gallery) == (2, 2)
