"""The built-in data set: determinism, layout, information about identity, and the cache folder's safety."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthetic import people, pictures, scenes, sets
from synthetic.kind import HOME, Kind

SMALL = {"num_train_pids": 3, "num_test_pids": 3, "num_cameras": 3, "num_distractors": 4, "num_junk": 3}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return pictures.make(tmp_path_factory.mktemp("synthetic") / "set", seed=0, progress=False, **SMALL)


def read_tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.jpg"))}


def parse(root: Path, subset: str) -> list[tuple[int, int, str]]:
    """(pid, camid, name) by the regular expression that every Market-1501 parser uses."""
    names = sorted(os.listdir(root / subset))
    found = [(re.fullmatch(r"(-1|\d{4})_c(\d)s\d_\d{6}_\d{2}\.jpg", name), name) for name in names]
    assert all(match for match, _ in found), names
    return [(int(match[1]), int(match[2]), name) for match, name in found]


def counts(items: list[tuple[int, int, str]]) -> tuple[int, int, int]:
    items = [item for item in items if item[0] != -1]
    return len({pid for pid, _, _ in items}), len(items), len({camid for _, camid, _ in items})


def test_same_seed_same_bytes_whatever_the_processes(small, tmp_path):
    again = pictures.make(tmp_path / "again", seed=0, progress=False, processes=2, **SMALL)
    assert read_tree(again) == read_tree(small)


def test_an_image_does_not_depend_on_the_others(small):
    scenes.panorama.cache_clear()
    pid, camid, index = 2, 3, 1
    name = pictures.file_name(0, pid, camid, index)
    if not (small / "bounding_box_train" / name).exists():  # the camera that misses this identity
        pytest.fail("choose another example")
    picture, _ = pictures.draw_image(0, pid, camid, index)
    stored = np.asarray(Image.open(small / "bounding_box_train" / name), np.float32)
    assert np.abs(stored - np.asarray(picture, np.float32)).mean() < 12  # JPEG loss, far below two images' difference


def test_another_seed_is_another_set(small, tmp_path):
    other = read_tree(pictures.make(tmp_path / "other", seed=1, progress=False, **SMALL))
    first = read_tree(small)
    assert len(other) == len(first)
    assert not set(other.values()) & set(first.values())


def test_layout_is_market(small):
    train, query, gallery = (parse(small, subset) for subset in pictures.SUBSETS)
    assert {pid for pid, *_ in train} == {1, 2, 3}
    assert {pid for pid, *_ in query} == {4, 5, 6}
    assert {pid for pid, *_ in gallery} == {-1, 0, 4, 5, 6}
    per_pid = Counter(pid for pid, *_ in gallery)
    assert per_pid[0] == 4 and per_pid[-1] == 3
    assert max(Counter((pid, camid) for pid, camid, _ in query).values()) == 1
    for pid, camid, _ in query:  # each query has a match in another camera
        assert any(other == pid and seen != camid for other, seen, _ in gallery)
    for path in small.rglob("*.jpg"):
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((64, 128), "RGB")


@pytest.mark.parametrize("seed", [0, 5])
def test_counts_of_the_default_set(seed):
    """(ids, images, cameras) as a parser finds them that drops pid -1 and keeps pid 0 as an id."""
    jobs = pictures.plan_pictures(seed, **pictures.PICTURES.sizes)
    expected = {"train": (150, 1650, 6), "query": (100, 500, 6), "gallery": (101, 1220, 6)}
    for split, subset in zip(("train", "query", "gallery"), pictures.SUBSETS, strict=True):
        items = [(pid, camid, "") for name, pid, camid, _ in jobs if name == subset]
        assert counts(items) == expected[split]
    assert sum(pid == -1 for _, pid, _, _ in jobs) == 60
    names = [(subset, pictures.file_name(seed, pid, camid, index)) for subset, pid, camid, index in jobs]
    assert len(set(names)) == len(names)


def test_images_tell_identities_apart():
    """Mean colours of torso and legs differ more between people than between shots of one, camera held fixed."""

    def colours(pid: int, index: int) -> np.ndarray:
        pixels = np.asarray(pictures.draw_image(0, pid, 1, index)[0], np.float32)
        return np.concatenate([pixels[36:60, 24:40].mean((0, 1)), pixels[70:90, 24:40].mean((0, 1))])

    wardrobe = np.array([[colours(pid, index) for index in range(4)] for pid in range(4, 84, people.FAMILY)])
    within = np.mean([np.linalg.norm(a - b) for person in wardrobe for a in person for b in person])
    across = np.mean(
        [np.linalg.norm(a - b) for i, p in enumerate(wardrobe) for q in wardrobe[:i] for a in p for b in q]
    )
    assert across > 1.5 * within


def test_relatives_share_a_wardrobe():
    def shared(a, b):
        return sum(getattr(a, name) == getattr(b, name) for name in ("top", "pattern", "legs", "hair", "hat", "bag"))

    person = people.person_of
    family = np.mean([shared(person(0, 4 * i), person(0, 4 * i + 1)) for i in range(1, 40)])
    strangers = np.mean([shared(person(0, 4 * i), person(0, 4 * i + 4)) for i in range(1, 40)])
    assert strangers + 1.5 < family < 6


def test_what_is_on_the_back_is_seen_from_the_back():
    """Alpha is the angle around the body: a red print behind is invisible from the front, whatever the pose."""

    def redness(yaw: float) -> float:
        person = replace(
            people.person_of(0, 4), top="tshirt", pattern="back", scale=1.0, hair="crop", bag="none",
            top_colour=np.array([0.9, 0.9, 0.9]), second_colour=np.array([0.9, 0.0, 0.0]),
        )  # fmt: skip
        blank = np.ones((256, 128, 3), np.float32)
        canvas = people.Canvas(blank, np.ones((256, 128), np.float32), 0.0, yaw)
        people.draw_person(canvas, person, people.Pose(yaw, 0.1, 0.0, 0.1, (0.2, 0.2), 32, 121, 112))
        torso = canvas.pixels[80:110, 54:74]
        return float((torso[..., 0] - torso[..., 1]).mean())

    assert redness(0.0) < 0.02
    assert redness(np.pi) > 0.3


def test_ensure_makes_once_and_reuses(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = pictures.ensure(seed=3, progress=False, **SMALL)
    assert root == tmp_path / "reid_suite" / f"synthetic-v{pictures.VERSION}-seed3"
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.jpg")}
    monkeypatch.setattr(Kind, "make", lambda *_, **__: pytest.fail("drawn twice"))
    assert pictures.ensure(seed=3, progress=False, **SMALL) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.jpg")} == before


def test_ensure_survives_interruption(tmp_path, monkeypatch):
    root = tmp_path / "set"
    calls = []

    def interrupted(*key):
        calls.append(key)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return Image.new("RGB", (64, 128)), 90

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pictures, "draw_image", interrupted)
        pictures.ensure(root, progress=False, **SMALL)
    assert not root.exists()
    killed = tmp_path / "set.part-killed"  # a process killed outright cannot clean up
    killed.mkdir()
    os.utime(killed, (time.time() - 7200,) * 2)
    fresh = tmp_path / "set.part-running"
    fresh.mkdir()
    pictures.ensure(root, progress=False, **SMALL)
    assert [len(os.listdir(root / subset)) for subset in pictures.SUBSETS] == [15, 6, 15 + 7]
    assert not killed.exists() and fresh.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "set.part-running"]


def test_ensure_when_another_process_was_faster(tmp_path, monkeypatch):
    root, make = tmp_path / "set", Kind.make

    def slower(kind, temporary, seed, **options):
        make(kind, root, seed, **options)
        return make(kind, temporary, seed, **options)

    monkeypatch.setattr(Kind, "make", slower)
    assert pictures.ensure(root, progress=False, **SMALL) == root
    assert os.listdir(tmp_path) == ["set"]


def test_ensure_leaves_foreign_folders_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RuntimeError, match="Delete that folder"):
        pictures.ensure(tmp_path, progress=False, **SMALL)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_unwritable_cache_is_one_clear_error(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(RuntimeError, match="a part of its path is a file: .*XDG_CACHE_HOME"):
        pictures.ensure(progress=False, **SMALL)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a place where no folder can be made")
def test_a_missing_folder_is_not_answered_with_advice_on_space():
    with pytest.raises(RuntimeError, match="not there and cannot be made: .*--synthetic_path") as refused:
        pictures.ensure("/proc/nowhere/set", progress=False, **SMALL)
    assert "space" not in str(refused.value)


def draw_nothing(folder, seed, job):
    """A `Kind.draw` that fails in whatever process it is called."""
    raise OSError(f"nobody draws job {job}")


def test_failure_of_a_drawing_process_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the processes find this module
    broken = replace(pictures.PICTURES, draw=draw_nothing)
    with pytest.raises(RuntimeError, match="nobody draws job"):
        broken.make(tmp_path / "set", processes=2, progress=False, **SMALL)


@pytest.mark.parametrize(
    "kind", [pictures.PICTURES, sets.VIDEO, sets.INFRARED, sets.CLOTHES], ids=lambda kind: kind.name
)
def test_all_kinds_are_kept_by_one_mechanism(kind, tmp_path, monkeypatch):
    """Made once, whole or not at all, under a name that holds its version; other people's folders stay as they are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sizes = {name: 2 if name in ("num_cameras", "num_train_pids") else 1 for name in kind.sizes}
    root = kind.ensure(seed=2, progress=False, **sizes)
    assert root == tmp_path / "reid_suite" / f"{kind.name}-v1-seed2" and os.listdir(root.parent) == [root.name]
    jobs = kind.plan(2, **sizes)
    assert len(read_tree(root)) == sum(number for _, number in (kind.count(2, job) for job in jobs)) > 0
    monkeypatch.setattr(Kind, "make", lambda *_, **__: pytest.fail("drawn twice"))
    assert kind.ensure(seed=2, progress=False, **sizes) == root
    with pytest.raises(RuntimeError, match="Delete that folder"):
        kind.ensure(root, seed=2, progress=False, **sizes | {"num_test_pids": 2})
    (next(root.rglob("*.jpg"))).unlink()
    with pytest.raises(RuntimeError, match="Delete that folder"):
        kind.ensure(seed=2, progress=False, **sizes)
    for wrong in ({"people": 3}, {"num_test_pids": 0}):
        with pytest.raises(ValueError, match=f"{kind.name} takes"):
            kind.ensure(tmp_path / "new", progress=False, **wrong)


@pytest.mark.parametrize("sizes", [{"num_cameras": 1}, {"num_cameras": 7}, {"num_train_pids": 0}, {"num_junk": -1}])
def test_impossible_sizes(tmp_path, sizes):
    with pytest.raises(ValueError):
        pictures.make(tmp_path / "set", progress=False, **{**SMALL, **sizes})
    assert not (tmp_path / "set").exists()


def test_make_refuses_a_folder_in_use(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="not empty"):
        pictures.make(tmp_path, progress=False, **SMALL)


def test_needs_neither_torch_nor_the_callers_main(tmp_path):
    """A script without a main guard can make the set: the drawing processes do not import it again."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HOME)!r})\nfrom synthetic import pictures\nprint('once')\n"
        f"pictures.make({str(tmp_path / 'set')!r}, processes=2, progress=False, **{SMALL!r})\n"
        "assert 'torch' not in sys.modules\n"
    )
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "once\n"
