"""The data-set doctor on healthy and on damaged data sets."""

import dataclasses
import sys

import pytest
from PIL import Image
from trees import names, oddities, tree

import check
import main
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


def look(root, protocol=None, **options):
    """What is said of the Market-1501 in `root` without opening its images."""
    return check.report(load_splits("market", root), protocol, **options)


def test_healthy(tmp_path):
    report = check.examine("market", market(tmp_path / "Market-1501"))
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
    lines = look(market(tmp_path, False), protocol).text.splitlines()
    (line,) = [line for line in lines if line.startswith(f"protocol {protocol} (used)")]
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
    report = look(tmp_path)
    assert report.usable and any("1 of 2 queries have no match" in line for line in report.warnings)
    (tmp_path / "bounding_box_test/0003_c3s3_071344_01.jpg").unlink()
    report = look(tmp_path)
    assert not report.usable and "none of the 2 queries has a match" in report.problems[0]
    assert any("1 query identities are not in the gallery (pids 3)" in line for line in report.warnings)
    assert "cannot be used as asked, 1 error" in report.text
    assert look(tmp_path, test=False).usable  # good enough to train on
    assert look(tmp_path, "none").usable


def test_halves(tmp_path):
    market(tmp_path, False)
    for path in (tmp_path / "bounding_box_train").iterdir():
        path.unlink()
    (tmp_path / "bounding_box_train").rmdir()
    report = look(tmp_path)
    assert not report.usable and "no training images" in report.problems[0]
    assert look(tmp_path, train=False).usable
    only_train = Splits("own", (Sample("a", 1, 1), Sample("b", 2, 1)), (), ())
    assert any("no query and no gallery" in problem for problem in check.report(only_train).problems)
    one = dataclasses.replace(only_train, train=only_train.train[:1])
    assert any("at least two are needed" in problem for problem in check.report(one, test=False).problems)


def test_unreadable_images(tmp_path):
    market(tmp_path)
    (tmp_path / "query/0003_c6s1_023021_00.jpg").write_bytes(b"")
    whole = (tmp_path / "bounding_box_train/0002_c3s1_000551_01.jpg").read_bytes()
    (tmp_path / "bounding_box_train/0002_c3s1_000551_01.jpg").write_bytes(whole[: len(whole) // 2])
    report = check.examine("market", tmp_path)
    assert not report.usable
    (problem,) = report.problems
    assert "2 of 9 images cannot be read" in problem and "0003_c6s1_023021_00.jpg" in problem
    assert "0002_c3s1_000551_01.jpg" in problem and "\n" not in problem
    skipped = check.examine("market", tmp_path, skip_bad=True)
    assert skipped.usable and any("2 of 9 images cannot be read" in line for line in skipped.warnings)
    assert look(tmp_path).usable  # not opened, and it says so
    assert "images were not opened" in look(tmp_path).text


def test_bad_images_are_left_out_before_people_are_counted(tmp_path):
    """`skip_bad` looks at what a training that leaves bad images out would see."""
    market(tmp_path)
    (tmp_path / "query/0003_c6s1_023021_00.jpg").write_bytes(b"")
    (tmp_path / "bounding_box_train/0007_c3s3_077419_03.jpg").write_bytes(b"")
    report = check.examine("market", tmp_path, skip_bad=True)
    assert report.problems == ("the training images show 1 identity; at least two are needed",)
    assert any("1 of 1 queries can be answered" in line for line in report.facts)
    (tmp_path / "query/0001_c1s1_001051_00.jpg").write_bytes(b"")
    assert "no query images" in check.examine("market", tmp_path, skip_bad=True).problems[1]
    tracklet = Sample((str(tmp_path / NAMES[0]), str(tmp_path / "gone.jpg")), 2, 1)
    splits = Splits("mars", (tracklet, dataclasses.replace(tracklet, path=(f"{tmp_path}/gone2.jpg",), pid=1)), (), ())
    report = check.report(splits, test=False, skip_bad=True)
    assert "2 images are listed and not there; they are left out" in report.text and "show 1 identity" in report.text


def test_the_command_line_leaves_out_bad_images(tmp_path, capsys):
    """It looks as the training would look, and advises no flag that was given."""
    market(tmp_path)
    (tmp_path / "bounding_box_test/0000_c1s6_023071_04.jpg").write_bytes(b"")
    words = ["--mode", "check", "--market_path", str(tmp_path)]
    assert main.main(words) == 1 and "leave them out with --skip_bad_images" in capsys.readouterr().out
    assert main.main([*words, "--skip_bad_images"]) == 0
    text = capsys.readouterr().out
    assert "WARNING: 1 of 9 images cannot be read; they are left out" in text and "--skip_bad" not in text


def test_a_parsers_message_is_the_answer(tmp_path, capsys):
    """Our own words, also those from a folder behind the top floor, need no type and no traceback."""
    assert main.main(["--mode", "train", "--market_path", str(tmp_path / "nowhere")]) == 1
    text = capsys.readouterr().err
    assert text.startswith("\nerror: market: Market-1501 not found") and "--debug" not in text


def test_what_is_an_image_is_one_rule(tmp_path):
    """Data sets, the doctor and folders of images see the same files in the same odd folder."""
    real = market(tmp_path, False) / "query" / "deep"
    tree(real, "a.TIF", "b.tiff", "c.webp")
    for folder in (real, tmp_path / "query", tmp_path / "bounding_box_train"):
        oddities(folder)
    (real / "link.jpg").symlink_to(tmp_path / "nothing.jpg")  # missed when it is read, not passed over
    (real / "round").symlink_to(tmp_path / "query")
    below = ["0001_c1s1_001051_00.jpg", "0003_c6s1_023021_00.jpg", "deep/a.TIF", "deep/b.tiff", "deep/c.webp"]
    samples = main.folder_of_images(tmp_path / "query")
    assert [name for name, *_ in names(samples, tmp_path / "query")] == [*below, "deep/link.jpg"]
    splits = load_splits("market", tmp_path)
    assert [name for name, *_ in names(splits.query, tmp_path / "query")] == below[:2] and len(splits.train) == 3
    assert "4 in query/" in look(tmp_path).text
    with pytest.raises(FileNotFoundError, match="holds no image"):
        oddities(tmp_path / "bounding_box_test" / "nothing")
        main.folder_of_images(tmp_path / "bounding_box_test" / "nothing")


def test_overlap(tmp_path):
    tree(tmp_path, "bounding_box_train/0001_c4s1_000451_03.jpg", *NAMES)
    report = look(tmp_path)
    assert any("1 identities are in training and test (pids 1)" in line for line in report.warnings)
    splits = load_splits("market", tmp_path)
    apart = check.report(dataclasses.replace(splits, shared_pids=False))
    assert not any("identities are in training and test" in line for line in apart.warnings)
    same_image = check.report(dataclasses.replace(splits, gallery=(*splits.gallery, splits.train[0])))
    assert any("1 images are in training and test" in line for line in same_image.warnings)


def test_files_that_are_gone(tmp_path):
    splits = load_splits("market", market(tmp_path, False))
    (tmp_path / "query/0001_c1s1_001051_00.jpg").unlink()
    report = check.report(splits)
    assert not report.usable and "1 images are listed and not there" in report.problems[0]


def test_what_needs_a_package_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    tree(tmp_path, "cuhk03_release/cuhk-03.mat", "cuhk03_new_protocol_config_detected.mat")
    assert "needs the package h5py (not installed)" in check.examine("cuhk03", tmp_path).text


def test_what_cannot_be_read_is_a_report(tmp_path):
    tree(tmp_path, "notes.txt")
    for name, text in (("market", "Looked for"), ("markt", "Did you mean 'market'")):
        report = check.examine(name, tmp_path)
        assert not report.usable and text in report.text
    assert "does not exist" in check.examine("market", tmp_path / "nowhere").text
    assert "unknown protocol" in look(market(tmp_path / "m", False), "rank").text
    assert not check.examine("cuhk03", tmp_path, options={"labeled": True}).usable


def test_video_and_infrared(tmp_path):
    tracklets = tuple(Sample((f"{tmp_path}/{i}a.jpg", f"{tmp_path}/{i}b.jpg"), i // 2, i % 2) for i in range(4))
    splits = Splits("mars", tracklets, tracklets[:1], tracklets[1:2], infrared=frozenset({1}))
    tree(tmp_path, *(f"{i}{frame}.jpg" for i in range(4) for frame in "ab"))
    report = check.report(splits)
    assert "training: 2 to 2 tracklets per identity" in report.text and "gallery tracklets per query" in report.text
    assert not any("infrared image" in line for line in report.warnings)
    colour = dataclasses.replace(splits, train=tracklets[:3])
    assert any("1 identities have no infrared image and 0 no colour" in w for w in check.report(colour).warnings)
    decoded = check.report(splits, decode=True)
    assert "8 of 8 images cannot be read" in decoded.problems[0]  # every frame is looked at


def coloured(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 64), colour).save(path)


def test_copies_are_found_by_their_bytes(tmp_path):
    """A query whose bytes stand in its gallery answers itself; files of one size and other bytes are no copies."""
    colours = iter(range(100, 200))
    for name in ("train/5_c1.bmp", "train/6_c1.bmp", "query/1_c1.bmp", "query/2_c1.bmp", "query/3_c1.bmp",
                 "gallery/1_c2.bmp", "gallery/2_c1_x.bmp", "gallery/2_c2.bmp", "gallery/3_c2.bmp"):  # fmt: skip
        coloured(tmp_path / name, (next(colours), 9, 9))
    (tmp_path / "query/0_c1.bmp").touch()  # empty files are no copies of each other
    (tmp_path / "gallery/0_c2.bmp").touch()
    splits = load_splits("own", tmp_path)
    assert check.report(splits).warnings == ()
    for target, source in (("gallery/1_c2", "query/1_c1"), ("gallery/2_c1_x", "query/2_c1"),
                           ("gallery/3_c2", "query/2_c1"), ("gallery/2_c2", "train/5_c1")):  # fmt: skip
        (tmp_path / f"{target}.bmp").write_bytes((tmp_path / f"{source}.bmp").read_bytes())
    query, gallery = tmp_path / "query", tmp_path / "gallery"
    easy, strange, seen = check.report(splits).warnings
    assert easy.startswith("1 queries have a copy") and f"({query}/1_c1.bmp = {gallery}/1_c2.bmp)" in easy
    assert "as somebody else" in strange and f"({query}/2_c1.bmp = {gallery}/3_c2.bmp)" in strange
    assert seen.startswith("1 test images are copies of training") and f"{gallery}/2_c2.bmp = " in seen
    assert "2 queries have a copy" in check.report(splits, "none").warnings[0]  # that keeps the query's own camera
    published = dataclasses.replace(splits, published={"query": (None, None, None)})
    assert not any("copy" in line for line in check.report(published).warnings)
    another = dataclasses.replace(splits, published={"query": (None, 3368, None)})  # in the layout of a published one
    assert any("copy" in line for line in check.report(another).warnings)
    assert any("copy" in line for line in check.report(published, decode=True, skip_bad=True).warnings)


def test_one_image_as_query_and_gallery_is_no_copy(tmp_path):
    coloured(tmp_path / "a.jpg", "red")
    coloured(tmp_path / "b.jpg", "blue")
    both = tuple(Sample(str(tmp_path / f"{name}.jpg"), 1, 1) for name in "ab")
    splits = Splits("own", (), both, both, protocol="none")
    assert check.report(splits, train=False).warnings == ()
    (tmp_path / "c.jpg").symlink_to(tmp_path / "a.jpg")
    other_name = (both[0], dataclasses.replace(both[0], path=str(tmp_path / "c.jpg"), camid=2))
    splits = Splits("own", (), both[:1], other_name)
    assert any("1 queries have a copy" in line for line in check.report(splits, train=False).warnings)


def test_a_test_says_what_makes_its_numbers_too_good(tmp_path, capsys):
    for name in ("query/1_c1.jpg", "gallery/1_c2.jpg", "gallery/2_c2.jpg"):
        coloured(tmp_path / name, "red" if "1_c" in name else "blue")
    words = ["--mode", "test", "--own_path", str(tmp_path), "--weights", str(tmp_path / "nothing.pth")]
    assert main.main(words) == 1  # before the weights are missed
    assert "own: WARNING: 1 queries have a copy of their own bytes" in capsys.readouterr().out


def test_a_data_set_all_over_the_disk_is_not_searched_for(tmp_path, monkeypatch):
    """Images of one list in far folders have the disk itself in common."""
    for i in range(12):
        tree(tmp_path, *(f"elsewhere/{i}/{j}/x.txt" for j in range(4)))
    far = [tmp_path / "a/1.jpg", tmp_path / "b/c/2.jpg"]
    for path, colour in zip(far, ("red", "blue"), strict=True):
        coloured(path, colour)
    splits = Splits("own", (), (Sample(str(far[0]), 1, 1),), (Sample(str(far[1]), 1, 2),))
    assert "holds much beside" not in check.report(splits, train=False).text
    listed = []
    real = check.images_below
    monkeypatch.setattr(check, "images_below", lambda home, limit: listed.append(limit) or real(home, 20))
    report = check.report(splits, train=False)
    assert report.usable and any("holds much beside the data set" in line for line in report.warnings)
    assert listed == [10 * 2 + 10_000]
