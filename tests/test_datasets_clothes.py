"""People who change their clothes: who wears what, whose images are asked for, the protocols about clothes."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from trees import error, names, tree

import datasets
import evaluate
import main
import protocols
from datasets import Sample, check_queries, load_splits

IN_A = {5: 4, 17: 3, 30: 1}  # person -> images in camera A
PRCC = (
    "rgb/train/001/A_cropped_rgb001.jpg", "rgb/train/001/B_cropped_rgb004.jpg", "rgb/train/001/C_cropped_rgb002.jpg",
    "rgb/train/004/C_cropped_rgb010.jpg", "rgb/val/002/A_cropped_rgb001.jpg",
    *(f"rgb/test/A/{pid:03d}/cropped_rgb{n:03d}.jpg" for pid, count in IN_A.items() for n in range(count)),
    "rgb/test/B/005/cropped_rgb001.jpg", "rgb/test/B/017/cropped_rgb001.jpg", "rgb/test/B/017/cropped_rgb002.jpg",
    "rgb/test/C/005/cropped_rgb001.jpg", "rgb/test/C/030/cropped_rgb007.jpg",
)  # fmt: skip
LTCC = ("train/001_1_c2_000101.png", "train/001_2_c2_000102.png", "train/094_1_c9_015833.png",
        "query/002_1_c1_000001.png", "query/003_1_c4_000002.png", "test/002_1_c3_000003.png",
        "test/002_2_c3_000004.png", "test/003_1_c5_000005.png")  # fmt: skip
VC = ("train/0003-01-01-05.jpg", "train/0003-04-02-01.jpg", "train/0004-04-01-01.jpg",
      "query/0001-02-01-01.jpg", "query/0001-04-03-01.jpg",
      "gallery/0001-03-01-01.jpg", "gallery/0001-01-02-02.jpg")  # fmt: skip
LAST = ("train/000001/000001_0_00_01_1.jpg", "train/000001/000001_0_02_1.jpg", "train/000001/000001_0_00_05_2.jpg",
        "train/000007/000007_0_1.jpg", "val/query/000003_1_1.jpg", "val/gallery/000003/000003_0_2.jpg",
        "test/query/000002_1_1.jpg", "test/gallery/000002/000002_0_2.jpg", "test/gallery/000002/000002_0_3.jpg",
        "test/gallery/000005/000005_0_3.jpg")  # fmt: skip


def worn(samples):
    return [(s.pid, s.camid, s.clothes) for s in samples]


def test_prcc(tmp_path):
    root = tree(tmp_path / "prcc", *PRCC)
    splits = load_splits("prcc", tmp_path)
    assert worn(splits.train) == [(1, 1, 1), (1, 2, 1), (1, 3, 2), (4, 3, 2)]
    assert names(splits.query, root / "rgb/test") == [
        ("B/005/cropped_rgb001.jpg", 5, 2), ("B/017/cropped_rgb001.jpg", 17, 2), ("B/017/cropped_rgb002.jpg", 17, 2),
        ("C/005/cropped_rgb001.jpg", 5, 3), ("C/030/cropped_rgb007.jpg", 30, 3)]  # fmt: skip
    assert [s.clothes for s in splits.query] == [1, 1, 1, 2, 2] and {s.clothes for s in splits.gallery} == {1}
    assert (splits.protocol, splits.also) == ("changed_clothes", ("same_clothes",))
    # those of camera C are asked for under one protocol, those of camera B under the other, and nobody else
    assert check_queries(splits.query, splits.gallery, "changed_clothes") == (5, 2)
    assert check_queries(splits.query, splits.gallery, "same_clothes") == (5, 3)
    assert {s.pid for s in load_splits("prcc", root, use_val=True).train} == {1, 2, 4}
    everything = load_splits("prcc", root, gallery="all")
    assert len(everything.gallery) == 8 and datasets.num_trials("prcc", gallery="all") == 1
    with error(ValueError, "there is no trial 1", "there are 1"):
        load_splits("prcc", root, gallery="all", trial=1)


def test_prcc_draws_one_image_of_each_person_ten_times(tmp_path):
    """As Simple-CCReID f773d01, data/datasets/prcc.py: one generator, seeded with 3, for all ten galleries."""
    tree(tmp_path, *PRCC)
    images = {
        pid: [f"A/{pid:03d}/cropped_rgb{n:03d}.jpg" for n in range(count)] for pid, count in ((5, 4), (17, 3), (30, 1))
    }
    random.seed(3)
    for trial in range(10):
        expected = [random.choice(images[pid]) for pid in images]
        found = load_splits("prcc", tmp_path, trial=trial).gallery
        assert [path for path, *_ in names(found, tmp_path / "rgb/test")] == expected
    assert datasets.num_trials("prcc") == 10


def test_prcc_is_measured_as_if_each_camera_asked_alone(tmp_path):
    """Simple-CCReID f773d01, test.py, test_prcc: the queries of B and of C, each by camera against all of A."""
    splits = load_splits("prcc", tree(tmp_path, *PRCC), gallery="all")
    distances = np.random.default_rng(0).random((len(splits.query), len(splits.gallery)))
    worn = protocols.clothes_of(splits.query, splits.gallery)
    for protocol, camera in (("same_clothes", 2), ("changed_clothes", 3)):
        rows = [i for i, sample in enumerate(splits.query) if sample.camid == camera]
        asking = [splits.query[i] for i in rows]
        alone = evaluate.rank_metrics(distances[rows], *labelled(asking, splits.gallery))
        found = evaluate.rank_metrics(
            distances, *labelled(splits.query, splits.gallery), protocol=protocol, clothes=worn
        )
        assert found.ap.tolist() == alone.ap.tolist() and found.cmc.tolist() == alone.cmc.tolist()


def test_prcc_errors(tmp_path):
    root = tree(tmp_path, *(name for name in PRCC if "/val/" not in name))
    with error(FileNotFoundError, "val/"):
        load_splits("prcc", root, use_val=True)
    tree(root, "rgb/train/001/D_1.jpg")
    with error(ValueError, "1 of 4 images", "A, B or C", "D_1.jpg"):
        load_splits("prcc", root)
    tree(root, "rgb/train/old/A_1.jpg")
    with error(ValueError, "1 folders", "old"):
        load_splits("prcc", root)


def test_ltcc(tmp_path):
    root = tree(tmp_path / "LTCC_ReID", *LTCC)
    splits = load_splits("LTCC-ReID", tmp_path)
    assert worn(splits.train) == [(1, 2, 1), (1, 2, 2), (94, 9, 1)]
    assert names(splits.query, root) == [("query/002_1_c1_000001.png", 2, 1), ("query/003_1_c4_000002.png", 3, 4)]
    assert worn(splits.gallery) == [(2, 3, 1), (2, 3, 2), (3, 5, 1)]
    assert (splits.protocol, splits.also) == ("changed_clothes", ("market1501", "same_clothes"))
    for protocol, valid in (("changed_clothes", 1), ("market1501", 2), ("same_clothes", 2)):
        assert check_queries(splits.query, splits.gallery, protocol).num_valid == valid
    tree(root, "query/002_c1.png")
    with error(ValueError, "094_1_c9_015833.png", "002_c1.png"):
        load_splits("ltcc", root)


def test_vcclothes(tmp_path):
    tree(tmp_path / "VC-Clothes", *VC)
    splits = load_splits("vc_clothes", tmp_path)
    assert worn(splits.train) == [(3, 1, 1), (3, 4, 2), (4, 4, 1)]
    assert worn(splits.query) == [(1, 2, 1), (1, 4, 3)] and worn(splits.gallery) == [(1, 1, 2), (1, 3, 1)]
    assert splits.protocol == "market1501" and splits.also == ("changed_clothes", "same_clothes")
    same, changed = (load_splits("vcclothes", tmp_path, cameras=cameras) for cameras in ("same", "changed"))
    assert [s.camid for s in (*same.query, *same.gallery)] == [2, 3] and same.train == splits.train
    assert [s.camid for s in (*changed.query, *changed.gallery)] == [4, 3] and changed.also == ()


def test_ccvid(tmp_path):
    frames = (("session1/001_01", 2), ("session1/002_12", 1), ("session3/001_02", 3), ("session2/005_07", 1))
    root = tree(tmp_path / "CCVID", *(f"{name}/{n:05d}.jpg" for name, count in frames for n in range(1, count + 1)))
    lines = {"train": "session1/002_12\t002\tu0_l0_s0_c0_a0\n", "query": "session1/001_01 001 u0_l0_s0_c0_a0\n",
             "gallery": "session3/001_02 001 u1_l0_s0_c0_a0\nsession2/005_07 005 u0_l0_s0_c0_a0\n\n"}  # fmt: skip
    for name, text in lines.items():
        (root / f"{name}.txt").write_text(text)
    splits = load_splits("ccvid", tmp_path)
    assert splits.is_video and worn(splits.train) == [(2, 12, 0)] and worn(splits.query) == [(1, 1, 0)]
    assert worn(splits.gallery) == [(1, 14, 1), (5, 7, 0)]  # session 3 counts from 13 on
    assert names(splits.query, root)[0][0] == ("session1/001_01/00001.jpg", "session1/001_01/00002.jpg")
    assert (splits.protocol, splits.also) == ("changed_clothes", ("market1501", "same_clothes"))
    (root / "query.txt").write_text("session1/009_01 009 u0_l0_s0_c0_a0\n")
    with error(FileNotFoundError, "1 tracklets", "session1/009_01"):
        load_splits("ccvid", root)
    (root / "query.txt").write_text("session1/001_01 001\n")
    with error(ValueError, "line 1 of", "query.txt", "session1/001_01 001 u0"):
        load_splits("ccvid", root)
    (root / "query.txt").write_text("\n")
    with error(ValueError, "query.txt is empty"):
        load_splits("ccvid", root)


def test_last(tmp_path):
    root = tree(tmp_path / "last", *LAST)
    splits = load_splits("last", tmp_path)
    assert worn(splits.train) == [(1, 0, 0), (1, 0, 1), (1, 0, 0), (7, 0, 0)]
    assert names(splits.query, root) == [("test/query/000002_1_1.jpg", 2, 0)]
    assert worn(splits.gallery) == [(2, 0, None), (2, 0, None), (5, 0, None)] and splits.protocol == "none"
    assert load_splits("last", root, part="val").gallery[0].pid == 3
    assert "test/query" in splits.query[0].path and splits.published["train"].images == 71_248
    with error(ValueError, "part is 'all'", "test, val"):
        load_splits("last", root, part="all")
    tree(root, "train/000001/noname.jpg")
    with error(ValueError, "1 images", "noname.jpg"):
        load_splits("last", root)


def test_deepchange(tmp_path):
    lists = {"train-set": ["P0003_C02_D0413_01.jpg,5,1", "P0003_C02_D0501_02.jpg,6,1"],
             "test-set-query": ["P0001_C01_D0413_01.jpg,17"],
             "test-set-gallery": ["P0001_C01_D0413_02.jpg,17", "P0001_C01_D0502_03.jpg,18"]}  # fmt: skip
    root = tmp_path / "DeepChangeDataset"
    for name, lines in lists.items():
        tree(root / name, *(line.split(",")[0] for line in lines))
        (root / f"{name}-bbox.txt").write_text("\n".join(lines) + "\n")
    splits = load_splits("DeepChange", tmp_path)
    assert worn(splits.train) == [(3, 5, 0), (3, 6, 1)] and worn(splits.query) == [(1, 17, 0)]
    assert worn(splits.gallery) == [(1, 17, 0), (1, 18, 2)]
    labels = protocols.Labels.of(splits.query, splits.gallery, splits.protocol)
    assert int(labels.num_hits) == 1  # of its camera, but of another tracklet
    with error(FileNotFoundError, "val-set-query/"):
        load_splits("deepchange", root, part="val")
    (root / "train-set/P0003_C02_D0413_01.jpg").unlink()
    with error(FileNotFoundError, "1 of the 2 images", "P0003_C02_D0413_01.jpg"):
        load_splits("deepchange", root)
    (root / "train-set-bbox.txt").write_text("P0003_C02_D0413_01.jpg\n")
    with error(ValueError, "line 1 of", "train-set-bbox.txt"):
        load_splits("deepchange", root)
    (root / "train-set-bbox.txt").unlink()
    with error(FileNotFoundError, "train-set-bbox.txt"):
        load_splits("deepchange", root)


# ---- labels of clothes ----


def test_clothes_are_numbered_once_by_person():
    """As pids are: of several sets those of the first before those of the next, and no two people share any."""
    first = datasets.Splits("a", tuple(Sample(f"{i}.jpg", pid, 1, c) for i, (pid, c) in
                            enumerate([(7, 3), (7, 1), (2, 3), (7, 3)])), (), ())  # fmt: skip
    second = datasets.Splits("b", (Sample("x.jpg", 2, 1, 3), Sample("y.jpg", 2, 1, 0)), (), ())
    data = datasets.combine([first, second])
    assert data.labels == (1, 1, 0, 1, 2, 2) and data.clothes == (2, 1, 0, 2, 4, 3) and data.wearers == (0, 1, 1, 2, 2)
    unknown = datasets.Splits("c", (Sample("z.jpg", 1, 1),), (), ())
    data = datasets.combine([first, unknown])
    assert data.clothes == data.wearers == ()


def test_what_is_worn_is_part_of_a_fingerprint_where_it_is_known():
    from machine import fingerprint

    plain, one, two = Sample("a.jpg", 1, 2), Sample("a.jpg", 1, 2, 0), Sample("a.jpg", 1, 2, 1)
    found = [fingerprint.of_samples([sample.labelled]) for sample in (plain, one, two)]
    assert len({*found}) == 3 and found[0] == fingerprint.of_samples([("a.jpg", 1, 2)])


# ---- protocols ----


def written_out(query, gallery, protocol):
    """{query: (seen, right)} of the protocols about clothes, one image at a time."""
    found = {}
    for i, q in enumerate(query):
        seen, right = set(), set()
        for j, g in enumerate(gallery):
            same = q.pid == g.pid
            alike = q.clothes == g.clothes
            wanted = alike if protocol == "same_clothes" else not alike
            if same and (q.camid == g.camid or not wanted):
                continue
            seen.add(j)
            if same:
                right.add(j)
        found[i] = seen, right
    return found


def labelled(query, gallery):
    return [[getattr(s, field) for s in side] for field in ("pid", "camid") for side in (query, gallery)]


@pytest.mark.parametrize("protocol", ["changed_clothes", "same_clothes"])
def test_protocols_about_clothes_against_one_image_at_a_time(protocol):
    rng = np.random.default_rng(0)

    def drawn(n, what):
        rows = np.stack([rng.integers(0, high, n) for high in (5, 3, 2)], axis=1)
        return [Sample(f"{what}{i}.jpg", *map(int, row)) for i, row in enumerate(rows)]

    query, gallery = drawn(20, "q"), drawn(90, "g")
    labels = protocols.Labels.of(query, gallery, protocol)
    everything = torch.arange(len(gallery)).expand(len(query), -1)
    same, removed = labels.judge(torch.arange(len(query)), everything)
    for i, (seen, right) in written_out(query, gallery, protocol).items():
        assert {*(~removed[i]).nonzero().flatten().tolist()} == seen
        assert {*(same[i] & ~removed[i]).nonzero().flatten().tolist()} == right
        assert int(labels.num_hits[i]) == len(right) and int(labels.num_removed[i]) == len(gallery) - len(seen)
    d = rng.random((20, 90))
    metrics = evaluate.rank_metrics(
        d, *labelled(query, gallery), protocol=protocol, clothes=protocols.clothes_of(query, gallery)
    )
    average = []
    for i, (seen, right) in written_out(query, gallery, protocol).items():
        order = [j for j in np.argsort(d[i]) if j in seen]
        ranks = [rank for rank, j in enumerate(order, 1) if j in right]
        average += [np.mean([(n + 1) / rank for n, rank in enumerate(ranks)])] if ranks else []
    assert metrics.ap.tolist() == pytest.approx(average)
    part = labels.only(torch.arange(0, 90, 3))
    assert part.num_hits.tolist() == protocols.Labels.of(query, gallery[::3], protocol).num_hits.tolist()
    junk = [*gallery[:50], Sample("junk.jpg", -1, 1, 0), *gallery[50:]]
    assert protocols.Labels.of(query, junk, protocol).num_hits.tolist() == labels.num_hits.tolist()


def test_a_protocol_about_clothes_needs_to_know_them(tmp_path):
    query, gallery = [Sample("q.jpg", 1, 1, 1)], [Sample("g.jpg", 1, 2)]
    with error(ValueError, "protocol changed_clothes", "do not say what is worn", "ltcc"):
        check_queries(query, gallery, "changed_clothes")
    assert "changed_clothes" not in protocols.those_for([*query, *gallery])
    with error(ValueError, "none of the 1 queries", "in its clothes", "--protocol market1501"):
        check_queries(query, [Sample("g.jpg", 1, 2, 1)], "changed_clothes")
    with error(ValueError, "clothes of 1 query and 2 gallery"):
        protocols.Labels([1], [1], [1], [2], "same_clothes").wearing(([1], [1, 2]))


def test_queries_that_are_held_out_keep_a_match_in_other_clothes(tmp_path):
    samples = tuple(
        Sample(f"{p}{c}{k}{n}.jpg", p, c, k) for p in range(6) for c in (1, 2) for k in (0, 1) for n in (0, 1)
    )
    splits = datasets.Splits("ltcc", samples, (), (), protocol="changed_clothes")
    rest, validation = datasets.hold_out(splits, 2)
    found = check_queries(validation.query, validation.gallery, "changed_clothes")
    assert found.num_query == found.num_valid == 8  # each camera and each set of clothes of both people
    assert len(rest.train) == 32


# ---- from the command line ----


@pytest.mark.parametrize(("name", "files"), [("prcc", PRCC), ("ltcc", LTCC), ("vcclothes", VC), ("last", LAST)])
def test_the_doctor_reads_each_set(tmp_path, capsys, name, files):
    tree(tmp_path, *files)
    for i, path in enumerate(sorted(tmp_path.rglob("*.*g"))):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (32, 16, 3), np.uint8)).save(path)
    assert main.main(["--mode", "check", f"--{name}_path", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert f"{name}: usable" in told and "sets of clothes" in told
    assert ("protocol changed_clothes" in told) == (name != "last")  # its test does not say what is worn
