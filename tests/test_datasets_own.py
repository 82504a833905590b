"""Images as people have them: layouts of folders, names and tables of other programs, and what would double people."""

import itertools
import os
import random
import shutil

import pytest
from PIL import Image
from trees import error, names, tree

import datasets
import main
from datasets import Counts, load_splits

MARKET_NAMES = [f"{pid:04}_c{camera}s1_{i:06}_00.jpg" for pid in (1, 2, 3, 4) for camera in (1, 2) for i in (1, 2)]


def whole(splits):
    """Everybody: {pid: cameras}, and the number of images."""
    samples = [sample for subset in datasets.SUBSETS for sample in getattr(splits, subset)]
    views = {pid: {s.camid for s in samples if s.pid == pid} for pid in {s.pid for s in samples}}
    return views, len(samples)


def table(root, text, name="list.csv", encoding="utf-8"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text.encode(encoding))
    return root / name


# ---- folders that are not people ----


@pytest.mark.parametrize("called", ["cam{}", "c{}", "Camera_{}", "cam-0{}"])
def test_names_win_over_folders_of_cameras(tmp_path, called):
    tree(tmp_path, *(f"{called.format(name.split('_c')[1][0])}/{name}" for name in MARKET_NAMES))
    assert whole(load_splits("own", tmp_path)) == ({pid: {1, 2} for pid in (1, 2, 3, 4)}, 16)


def test_folders_of_cameras_with_names_of_people(tmp_path):
    """As PRID2011's: the camera stands above, the person in the name."""
    tree(tmp_path, *(f"cam_{c}/person_{pid:04}.png" for c in "ab" for pid in (1, 2, 3)), "cam_b/-1_c2_x.jpg")
    with error(ValueError, "1 entries", "camera 2 in its name and b in its folder's"):
        load_splits("own", tmp_path)
    (tmp_path / "cam_b/-1_c2_x.jpg").unlink()
    splits = load_splits("own", tmp_path)
    assert whole(splits) == ({pid: {1, 2} for pid in (1, 2, 3)}, 6) and splits.protocol == "market1501"
    assert "cameras numbered in sorted order: 1 = a, 2 = b" in splits.notes
    tree(tmp_path, "cam_a/portrait.png")
    with error(ValueError, "1 entries", "portrait.png", "the name gives no person"):
        load_splits("own", tmp_path)


def test_a_folder_is_no_person_where_the_names_say_otherwise(tmp_path):
    tree(tmp_path / "days", *(f"day{i % 2}/{name}" for i, name in enumerate(MARKET_NAMES)))
    with error(ValueError, "different people", "day0/ holds person 1", "rename the images"):
        load_splits("own", tmp_path / "days")
    tree(tmp_path / "part", *(f"{part}/day{i % 2}/{name}" for part in ("train", "query", "gallery")
                              for i, name in enumerate(MARKET_NAMES)))  # fmt: skip
    with error(ValueError, "different people"):
        load_splits("own", tmp_path / "part")
    tree(tmp_path / "deep", *(f"cam{name.split('_c')[1][0]}/day{i % 2}/{name}" for i, name in enumerate(MARKET_NAMES)))
    with error(ValueError, "different people"):
        load_splits("own", tmp_path / "deep")
    tree(tmp_path / "turned", *(f"{part}/p{pid + turn}/{pid}_c{c}.jpg" for c in (1, 2) for pid in (1, 2)
                                for turn, part in enumerate(("query", "gallery"))))  # fmt: skip
    with error(ValueError, "different people", "p2/ holds person 1", "p2/ holds person 2"):
        load_splits("own", tmp_path / "turned")
    tree(tmp_path / "same", *(f"p{int(name[:4])}/{name}" for name in MARKET_NAMES))  # both say the same
    assert whole(load_splits("own", tmp_path / "same")) == ({pid: {1, 2} for pid in range(4)}, 16)


def test_veri_layout(tmp_path):
    """VeRi-776: image_train/, image_query/, image_test/ with 0001_c001_00016450_0.jpg."""
    tree(tmp_path, "image_train/0002_c002_00030600_0.jpg", "image_train/0003_c001_00030600_0.jpg",
         "image_query/0001_c001_00016450_0.jpg", "image_test/0001_c001_00016460_0.jpg",
         "image_test/0001_c004_00016450_0.jpg", "image_test/0005_c004_00016450_0.jpg", "name_query.txt")  # fmt: skip
    splits = load_splits("own", tmp_path)
    assert names(splits.train, tmp_path)[0] == ("image_train/0002_c002_00030600_0.jpg", 2, 2)
    assert [splits.count(subset) for subset in datasets.SUBSETS] == [Counts(2, 2, 2), Counts(1, 1, 1), Counts(2, 3, 2)]


def test_layumis_prepared_folders(tmp_path):
    """prepare.py of layumi/Person_reID_baseline_pytorch at 14044f6: a folder per pid, -1 among them."""
    tree(tmp_path, *(f"{part}/{pid}/{pid}_c{c}s1_000451_0{c}.jpg" for c in (1, 2) for part, pid in (
        ("train", "0002"), ("train_all", "0002"), ("train_all", "0007"), ("query", "0001"), ("multi-query", "0001"),
        ("gallery", "0001"), ("gallery", "0000"), ("gallery", "-1"))), "val/0002/0002_c3s1_000451_09.jpg")  # fmt: skip
    splits = load_splits("own", tmp_path)
    assert {s.pid for s in splits.train} == {2, 7} and {s.pid for s in splits.gallery} == {0, 1}
    assert {(s.pid, s.camid) for s in splits.query} == {(1, 1), (1, 2)}
    assert "2 junk images (pid -1) left out" in splits.notes
    assert any(note.startswith("not read: ") and "train/" in note and "val/" in note for note in splits.notes)


@pytest.mark.parametrize(
    "layout", ["cam{c}/{person}/{i}.jpg", "{person}/cam{c}/{i}.jpg", "{person}/C{c}/x_c{c}_{i}.jpg"]
)
@pytest.mark.parametrize("above", ["", "gallery/"])
def test_camera_and_person_as_two_folders(tmp_path, layout, above):
    grid = itertools.product(("ann", "bob", "eve"), (1, 2), range(2))
    tree(tmp_path, *(above + layout.format(person=person, c=c, i=i) for person, c, i in grid))
    splits = load_splits("own", tmp_path)
    assert whole(splits) == ({pid: {1, 2} for pid in range(3)}, 12)
    assert "people numbered in sorted order: 0 = ann, 1 = bob, 2 = eve" in splits.notes
    assert bool(splits.train) != bool(above)


def test_one_level_off_is_answered_with_it(tmp_path):
    tree(tmp_path, *(f"{day}/{person}/{i}.jpg" for day in ("mon", "tue") for person in "ab" for i in range(2)))
    with error(ValueError, "one level deeper than a folder per person (mon/a)", f"--own_path {tmp_path / 'mon'};"):
        load_splits("own", tmp_path)
    assert load_splits("own", tmp_path / "mon").train
    tree(tmp_path, "wed/loose.jpg")
    with error(ValueError, "hold images (wed)", "others folders of images (a, b)"):
        load_splits("own", tmp_path)


def test_names_with_words(tmp_path):
    tree(tmp_path / "a", *(f"person{p:02}_cam{c:02}_frame{f:03}.jpg" for p in (1, 2) for c in (1, 2) for f in (26, 27)))
    assert whole(load_splits("own", tmp_path / "a")) == ({1: {1, 2}, 2: {1, 2}}, 8)
    tree(tmp_path / "b", *(f"cam{c}_person{p:03}_00317.png" for p in (1, 2) for c in (1, 2)))
    assert whole(load_splits("own", tmp_path / "b")) == ({1: {1, 2}, 2: {1, 2}}, 4)


# ---- tables ----


def rows_of(template, people=(40, 41, 42)):
    return "\n".join(template.format(p=p, c=c) for p in people for c in (1, 2)) + "\n"


@pytest.fixture
def images(tmp_path):
    return tree(tmp_path, *(f"img/{p}_{c}.jpg" for p in (40, 41, 42) for c in (1, 2)))


@pytest.mark.parametrize("header, template, encoding", [
    ("path,pid,camid", "img/{p}_{c}.jpg,{p},{c}", "utf-8"),
    ("path;pid;camid", "img/{p}_{c}.jpg;{p};{c}", "utf-8-sig"),
    ("Path\tPID\tCam ID", "img/{p}_{c}.jpg\t{p}\t{c}", "utf-16"),
    ("image_path|person id|camera", "img/{p}_{c}.jpg|{p}|{c}", "utf-8"),
    (",path,pid,camid", "7,img/{p}_{c}.jpg,{p},{c}", "utf-8"),  # pandas' index
    ("path,pid,camid,,", "img/{p}_{c}.jpg,{p},{c},,", "utf-8"),  # a spreadsheet's empty columns
    ("path,pid,camid", "img\\{p}_{c}.jpg,{p},{c}", "utf-8"),  # a list made on Windows
    ("path,pid,camid", ".\\img\\{p}_{c}.jpg,{p}.0,0{c}", "utf-8"),
    ("camid,filename,label,path", "{c},none.jpg,{p},img/{p}_{c}.jpg", "utf-8"),  # our name goes before another
])  # fmt: skip
def test_tables_as_people_have_them(images, header, template, encoding):
    splits = load_splits("own", table(images, f"{header}\n{rows_of(template)}", encoding=encoding))
    assert whole(splits) == ({p: {1, 2} for p in (40, 41, 42)}, 6) and splits.protocol == "market1501"


def test_other_columns_are_passed_over_and_said(images):
    splits = load_splits("own", table(images, f"path,pid,camid,age,Hat\n{rows_of('img/{p}_{c}.jpg,{p},{c},9,no')}"))
    assert whole(splits)[1] == 6 and "columns of list.csv that are not read: age, hat" in splits.notes


def test_cameras_may_have_names(images):
    text = "path,pid,camid\n" + rows_of("img/{p}_{c}.jpg,{p},door {c}")
    splits = load_splits("own", table(images, text))
    assert whole(splits)[0] == {p: {1, 2} for p in (40, 41, 42)}
    assert "cameras numbered in sorted order: 1 = door 1, 2 = door 2" in splits.notes


def test_one_person_has_one_spelling(images):
    """1, 1.0 and 01, or the two ways to write an accent, are not two people; with a name among them either."""
    text = (
        "path,pid,camid\nimg/40_1.jpg,1,1\nimg/40_2.jpg,1.0,2.0\nimg/41_1.jpg,zo\u00eb,1\nimg/41_2.jpg,zoe\u0308,02\n"
    )
    splits = load_splits("own", table(images, text))
    assert whole(splits) == ({0: {1, 2}, 1: {1, 2}}, 4)
    text = "path,pid,camid\nimg/40_1.jpg,Ann,1\nimg/40_2.jpg,ann,2\nimg/41_1.jpg,bob,1\nimg/41_2.jpg,bob,2\n"
    text += "img/42_1.jpg,eve,1\nimg/42_2.jpg,eve,2\n"
    (note,) = [note for note in load_splits("own", table(images, text)).notes if "capital" in note]
    assert note.endswith("different people: Ann and ann")


def test_a_camera_number_of_any_size(tmp_path):
    big = 10**20
    tree(tmp_path / "a", *(f"{p}_c{big + c}_1.jpg" for p in (1, 2) for c in (0, 1)))
    text = "path,pid,camid\n" + "".join(f"a/{p}_c{big + c}_1.jpg,{p},{big + c}\n" for p in (1, 2) for c in (0, 1))
    for root in (tmp_path / "a", table(tmp_path, text)):
        splits = load_splits("own", root)
        assert whole(splits) == ({1: {1, 2}, 2: {1, 2}}, 4)
        assert datasets.check_queries(splits.query, splits.gallery).num_valid == len(splits.query)


def test_a_number_that_no_integer_holds_is_named(tmp_path):
    tree(tmp_path, f"bounding_box_train/0002_c{10**20}s1_000451_03.jpg", "bounding_box_train/0002_c1s1_000451_03.jpg")
    with error(ValueError, "market: 1 images", "0002_c100000000000000000000s1"):
        load_splits("market", tmp_path)


OML = "label,path,split,is_query,is_gallery"


def test_tables_of_open_metric_learning(images):
    lines = [OML, "40,img/40_1.jpg,train,,", "41,img/41_1.jpg,validation,True,False", "41,img/41_2.jpg,validation,0,1",
             "42,img/42_1.jpg,validation,1.0,TRUE", "42,img/42_2.jpg,validation,1,1"]  # fmt: skip
    splits = load_splits("own", table(images, "\n".join(lines)))
    assert [s.pid for s in splits.train] == [40] and [s.pid for s in splits.query] == [41, 42, 42]
    assert names(splits.gallery, images) == [("img/41_2.jpg", 41, 1), ("img/42_1.jpg", 42, 1), ("img/42_2.jpg", 42, 1)]
    assert splits.protocol == "none" and any("one camera is assumed" in note for note in splits.notes)
    filmed = [line + f",{'sequence' if i == 0 else f's{i % 2}'}" for i, line in enumerate(lines)]
    splits = load_splits("own", table(images, "\n".join(filmed)))
    assert "column sequence is read as the camera" in splits.notes and splits.protocol == "market1501"
    with error(ValueError, "line 2", "neither is true"):
        load_splits("own", table(images, f"{OML}\n40,img/40_1.jpg,validation,0,0\n"))
    with error(ValueError, "line 2", "a box within the image"):
        load_splits("own", table(images, f"{OML},x_1,x_2,y_1,y_2\n40,img/40_1.jpg,validation,1,1,2,9,2,9\n"))
    empty = f"{OML},x_1,x_2,y_1,y_2\n" + rows_of("{p},img/{p}_{c}.jpg,validation,1,1,,,nan,")
    assert len(load_splits("own", table(images, empty)).query) == 6


def test_junk_in_a_table(images):
    text = "path,pid,camid,split\nimg/40_1.jpg,1,1,query\nimg/40_2.jpg,1,2,test\nimg/41_1.jpg,-1,2,test\n"
    splits = load_splits("own", table(images, text))
    assert len(splits.gallery) == 1 and "1 junk images (pid -1) left out" in splits.notes


def test_a_folder_with_one_table_in_it(tmp_path, images):
    list_of = table(images, "file;who;cam\n" + rows_of("img/{p}_{c}.jpg;{p};{c}"))
    with error(ValueError, "line 1", "list.csv has columns file, who, cam", "expected path,pid,camid"):
        load_splits("own", images)  # no silence: the pictures below have no names of their own
    list_of.write_text("file;id;cam\n" + rows_of("img/{p}_{c}.jpg;{p};{c}"))
    inside = load_splits("own", images)
    assert whole(inside)[1] == 6 and "read from list.csv" in inside.notes
    outer = tmp_path.parent / f"{tmp_path.name}-outer"
    outer.mkdir()
    images.rename(outer / "wrapped")
    assert whole(load_splits("own", outer)) == whole(load_splits("own", outer / "wrapped"))


def test_names_that_are_no_text(tmp_path):
    """A line end or bytes that are no UTF-8: read, and shown on one line of any terminal."""
    odd = ["ann\nlee", os.fsdecode(b"\xff\xfe")]
    try:
        tree(tmp_path, *(f"{person}/x_c{c}_\n.jpg" for person in (*odd, "bob") for c in (1, 2)), "bob/\nportrait.jpg")
    except OSError:
        pytest.skip("this file system takes no such names")
    with error(ValueError, "1 entries", "\\nportrait.jpg"):
        load_splits("own", tmp_path)
    with error(ValueError, "no images", "bob\\n holds"):
        load_splits("own", tree(tmp_path / "only", "bob\n/notes.txt"))
    shutil.rmtree(tmp_path / "only")
    splits = load_splits("own", tmp_path, skip_bad=True)
    assert whole(splits)[1] == 6 and len(splits.left_out) == 1
    said = str(splits)
    assert said.encode() and "ann\\nlee" in said and "\\udcff" in said


def test_query_and_gallery_alone(tmp_path, capsys):
    for name in ("query/1_c1.jpg", "query/2_c2.jpg", "gallery/1_c2.jpg", "gallery/2_c1.jpg"):
        tree(tmp_path, name)
        Image.radial_gradient("L").resize((32, 64)).save(tmp_path / name)
    words = ["--mode", "check", "--own_path", str(tmp_path)]
    assert main.main(words) == 0
    assert "own: usable for a test" in capsys.readouterr().out
    assert main.main([*words, "--train_dataset", "own"]) == 1
    assert "no training images" in capsys.readouterr().out


# ---- what chance makes ----

FOLDERS = ("train", "query", "gallery", "test", "cam1", "cam2", "ann", "bob", "-1", "0001", "1.0", "cam_a", "a\nb")
FILES = ("0001_c1_a.jpg", "1_c2.jpg", "-1_c1_1.jpg", "img.jpg", "person1_cam2_f.png", "x_c3_.jpg",
         f"17_c{10**20}_1.jpg", "cam2_person4.tif", "notes.txt", "._0001_c1.jpg", "-3_c1.jpg",
         "\u0663_c\u0663_1.jpg")  # fmt: skip
CELLS = ("1", "1.0", "01", "-1", "-2", "nan", "", "ann", "img.jpg", "..", "~x/y", "\\", "True", "0", "query", "test",
         '"', "\0", "9" * 30, "\u0661", "train")  # fmt: skip
COLUMNS = ("path", "pid", "camid", "split", "is_query", "is_gallery", "label", "x_1", "sequence", "spilt", "", "id")


def random_table(rng):
    columns = [*("path", "pid", "camid")[: rng.choice((0, 3, 3))], *rng.choices(COLUMNS, k=rng.randrange(3))]
    rows = [columns, *([rng.choice(CELLS) for _ in columns] for _ in range(rng.randrange(6)))]
    text = rng.choice(("\n", "\r\n", "\r")).join(map(rng.choice((",", ";", "\t")).join, rows))
    return text.encode(rng.choice(("utf-8", "utf-8-sig", "utf-16", "latin-1")), "replace")


def test_any_folder_and_any_table_is_read_or_refused_in_one_line(tmp_path, long):
    rng, ends = random.Random(0), set()
    for number in range(10_000 if long else 100):
        root = tmp_path / str(number)
        for _ in range(rng.randrange(1, 12)):
            tree(root, "/".join([*rng.choices(FOLDERS, k=rng.randrange(4)), rng.choice(FILES)]))
        if rng.random() < 0.5:
            tree(root, "img.jpg", "list.csv")
            (root / "list.csv").write_bytes(random_table(rng))
        try:
            splits = load_splits("own", root, skip_bad=rng.random() < 0.7)
        except (ValueError, FileNotFoundError) as error:
            assert type(error) in (ValueError, FileNotFoundError) and str(error).isprintable(), str(error)
            ends.add("refused")
        else:
            samples = [sample for subset in datasets.SUBSETS for sample in getattr(splits, subset)]
            assert all(os.path.isfile(s.path) and 0 <= s.pid < 2**63 and 0 <= s.camid < 2**63 for s in samples)
            assert str(splits).replace("\n", "").isprintable()
            ends.add("read")
        shutil.rmtree(root)
    assert ends == {"read", "refused"}
