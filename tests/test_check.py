"""The data-set doctor on healthy and on damaged data sets."""

import dataclasses
import sys

import pytest
from PIL import Image
from trees import tree

import check
from datasets import Sample, Splits, load_splits


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


NAMES = ("bounding_box_train/0002_c1s1_000451_03.jpg", "bounding_box_train/0002_c3s1_000551_01.jpg",
         "bounding_box_train/0007_c3s3_077419_03.jpg", "query/0001_c1s1_001051_00.jpg",
         "query/0003_c6s1_023021_00.jpg", "bounding_box_test/-1_c3s2_102834_01.jpg",
         "bounding_box_test/0000_c1s6_023071_04.jpg", "bounding_box_test/0001_c1s1_000301_02.jpg",
         "bounding_box_test/0001_c2s1_000301_01.jpg", "bounding_box_test/0003_c3s3_071344_01.jpg",
         "gt_bbox/0001_c1s1_001051_00.jpg")  # fmt: skip


def market(root, pictures=True):
    for name in NAMES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if pictures:
            Image.new("RGB", (32, 64)).save(path)
        else:
            path.touch()
    return root


def examine(*args, **options):
    (report,) = check.examine(*args, progress=False, **options)
    return report


def test_healthy(tmp_path):
    report = examine("market", market(tmp_path / "Market-1501"))
    assert report.usable and report.problems == ()
    text = report.text
    assert f"Market-1501 recognised in {tmp_path / 'Market-1501'}" in text and "!= 12,936 published" in text
    assert "images not used by this split and protocol: 1 in bounding_box_test/, 1 in gt_bbox/" in text
    assert "training: 1 to 2 images per identity, median 2" in text
    assert "training: 1 of 2 identities are in one camera only (pids 7)" in text
    assert "9 images opened: 64 to 64 pixels high; 32 x 64" in text  # 3 to train on, 2 queries, 4 gallery less junk
    assert "WARNING: train images: 3 != 12,936 published" in text
    assert text.splitlines()[-1].startswith("market: usable, ")


@pytest.mark.parametrize("protocol, taken, valid", [
    ("market1501", "0.5 gallery images", "2 of 2"),  # pid 1 in camera 1 of the gallery, for one of two queries
    ("cuhk03", "0.5 gallery images", "2 of 2"),
    ("sysu", "0.0 gallery images", "2 of 2"),  # no query of camera 3
    ("none", "0.0 gallery images", "2 of 2"),
])  # fmt: skip
def test_what_each_protocol_takes_away(tmp_path, protocol, taken, valid):
    (line,) = [line for line in examine("market", market(tmp_path, False), protocol, decode=False).text.splitlines()
               if line.startswith(f"protocol {protocol} (used)")]  # fmt: skip
    assert taken in line and valid in line


def test_sysu_and_none_take_away_what_they_should():
    query = (Sample("a", 1, 3), Sample("b", 1, 6))
    gallery = (Sample("a", 1, 2), Sample("c", 2, 2), Sample("d", 1, 4))
    splits = Splits("own", (), query, gallery)
    assert check._removed(splits, "sysu").startswith("1.0 gallery")  # two images of camera 2 for one of two queries
    assert check._removed(splits, "none").startswith("0.5 gallery")  # image a is its own


def test_queries_without_an_answer(tmp_path):
    market(tmp_path, False)
    (tmp_path / "bounding_box_test/0001_c2s1_000301_01.jpg").unlink()
    report = examine("market", tmp_path, decode=False)
    assert report.usable and any("1 of 2 queries have no match" in line for line in report.warnings)
    (tmp_path / "bounding_box_test/0003_c3s3_071344_01.jpg").unlink()
    report = examine("market", tmp_path, decode=False)
    assert not report.usable and "none of the 2 queries has a match" in report.problems[0]
    assert any("1 query identities are not in the gallery (pids 3)" in line for line in report.warnings)
    assert "cannot be used as asked, 1 error" in report.text
    assert examine("market", tmp_path, decode=False, test=False).usable  # good enough to train on
    assert examine("market", tmp_path, "none", decode=False).usable


def test_halves(tmp_path):
    market(tmp_path, False)
    for path in (tmp_path / "bounding_box_train").iterdir():
        path.unlink()
    (tmp_path / "bounding_box_train").rmdir()
    report = examine("market", tmp_path, decode=False)
    assert not report.usable and "no training images" in report.problems[0]
    assert examine("market", tmp_path, decode=False, train=False).usable
    only_train = Splits("own", (Sample("a", 1, 1), Sample("b", 2, 1)), (), ())
    assert any("no query and no gallery" in problem for problem in check.report(only_train).problems)
    one = dataclasses.replace(only_train, train=only_train.train[:1])
    assert any("at least two are needed" in problem for problem in check.report(one, test=False).problems)


def test_unreadable_images(tmp_path):
    market(tmp_path)
    (tmp_path / "query/0003_c6s1_023021_00.jpg").write_bytes(b"")
    whole = (tmp_path / "bounding_box_train/0007_c3s3_077419_03.jpg").read_bytes()
    (tmp_path / "bounding_box_train/0007_c3s3_077419_03.jpg").write_bytes(whole[: len(whole) // 2])
    report = examine("market", tmp_path)
    assert not report.usable
    (problem,) = report.problems
    assert "2 of 9 images cannot be read" in problem and "0003_c6s1_023021_00.jpg" in problem
    assert "0007_c3s3_077419_03.jpg" in problem and "\n" not in problem
    skipped = examine("market", tmp_path, skip_bad=True)
    assert skipped.usable and any("2 of 9 images cannot be read" in line for line in skipped.warnings)
    assert examine("market", tmp_path, decode=False).usable  # not opened, and it says so
    assert "images were not opened" in examine("market", tmp_path, decode=False).text


def test_overlap(tmp_path):
    tree(tmp_path, "bounding_box_train/0001_c4s1_000451_03.jpg", *NAMES)
    report = examine("market", tmp_path, decode=False)
    assert any("1 identities are in training and test (pids 1)" in line for line in report.warnings)
    splits = load_splits("market", tmp_path)
    apart = check.report(dataclasses.replace(splits, shared_pids=False))
    assert not any("identities are in training and test" in line for line in apart.warnings)
    same_image = check.report(dataclasses.replace(splits, gallery=(*splits.gallery, splits.train[0])))
    assert any("1 images are in training and test" in line for line in same_image.warnings)


def test_files_that_are_gone(tmp_path):
    splits = load_splits("market", market(tmp_path, False))
    (tmp_path / "query/0001_c1s1_001051_00.jpg").unlink()
    report = check.report(splits, tmp_path)
    assert not report.usable and "1 images are listed and not there" in report.problems[0]


def test_layouts_are_recognised(tmp_path):
    market(tmp_path / "Market-1501", False)
    tree(tmp_path, *(f"VIPeR/cam_{view}/{pid:03d}_0.bmp" for view in "ab" for pid in range(4)))
    assert list(check.recognise(tmp_path)) == ["market", "viper"]
    reports = check.examine(None, tmp_path, decode=False, progress=False)
    assert [report.name for report in reports] == ["market", "viper"]
    assert list(check.recognise(tree(tmp_path / "mine", "a/c1_1.jpg", "a/c2_1.jpg", "b/c1_1.jpg", "b/c2_2.jpg"))) == [
        "own"]  # fmt: skip


def test_what_needs_a_package_is_recognised_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    tree(tmp_path, "cuhk03_release/cuhk-03.mat", "cuhk03_new_protocol_config_detected.mat")
    assert "pip install h5py" in examine(None, tmp_path).text


def test_rivals_are_told_apart_by_their_counts(tmp_path, monkeypatch):
    """DukeMTMC-reID and Occluded-DukeMTMC have the same layout and the same names."""
    tree(tmp_path / "data", *(f"bounding_box_train/{pid:04d}_c1_f0046182.jpg" for pid in range(3)),
         "query/0005_c2_f0046985.jpg", "bounding_box_test/0005_c5_f0051781.jpg")  # fmt: skip
    assert set(check.recognise(tmp_path)) == {"duke", "occludedduke"}  # neither fits better
    counts = {"train": (3, 3, 1), "query": (1, 1, 1), "gallery": (1, 1, 1)}
    monkeypatch.setattr("parsers.image.OCCLUDED_DUKE_PUBLISHED", counts)
    assert list(check.recognise(tmp_path)) == ["occludedduke"]


def test_what_cannot_be_read_is_a_report(tmp_path):
    tree(tmp_path, "notes.txt")
    for name, text in (("market", "Looked for"), (None, "was not recognised"), ("markt", "Did you mean 'market'")):
        report = examine(name, tmp_path)
        assert not report.usable and text in report.text
    assert "does not exist" in examine(None, tmp_path / "nowhere").text
    assert "unknown protocol" in examine("market", market(tmp_path / "m", False), "rank", decode=False).text
    assert not examine("cuhk03", tmp_path, options={"labeled": True}).usable


def test_video_and_infrared(tmp_path):
    tracklets = tuple(Sample((f"{tmp_path}/{i}a.jpg", f"{tmp_path}/{i}b.jpg"), i // 2, i % 2) for i in range(4))
    splits = Splits("mars", tracklets, tracklets[:1], tracklets[1:2], infrared=frozenset({1}))
    tree(tmp_path, *(f"{i}{frame}.jpg" for i in range(4) for frame in "ab"))
    report = check.report(splits, tmp_path)
    assert "training: 2 to 2 tracklets per identity" in report.text and "gallery tracklets per query" in report.text
    assert not any("infrared image" in line for line in report.warnings)
    colour = dataclasses.replace(splits, train=tracklets[:3])
    assert any("1 identities have no infrared image and 0 no colour" in w for w in check.report(colour).warnings)
    decoded = check.report(splits, tmp_path, decode=True, progress=False)
    assert "8 of 8 images cannot be read" in decoded.problems[0]  # every frame is looked at
