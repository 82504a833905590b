"""Images in any form to the embeddings of ``--mode test``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import own_checkpoint
from PIL import Image
from test_docs import PREPARED

import details
import embedder
import tester
from embedder import Embedder
from loading.augmentation import normalise
from loading.views import Views
from recipes import RECIPES
from test_smoke import run, small_set

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small_set(tmp_path_factory.mktemp("data") / "synthetic", 2, 6)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "net.pt"
    own_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def embed(weights) -> Embedder:
    return Embedder(weights, "cpu")


def queries(data) -> list[str]:
    return embedder.images_in(data / "query")


def arrays(paths) -> list[np.ndarray]:
    """Crops of different sizes, as a program has them that reads its images itself."""
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


@pytest.mark.parametrize("flip", [False, True])
def test_the_numbers_are_those_of_mode_test_bit_for_bit(weights, data, tmp_path, monkeypatch, flip):
    seen = {}
    labels = tester.Tester.labels
    monkeypatch.setattr(tester.Tester, "labels", lambda self, name, *sides: (
        seen.update(zip(("query", "gallery"), sides, strict=True)), labels(self, name, *sides))[1])  # fmt: skip
    words = (
        "--mode",
        "test",
        "--weights",
        weights,
        "--market_path",
        data,
        "--output_path",
        tmp_path,
        "--device",
        "cpu",
    )
    assert run(*words, "--test_batch", 5, *(["--flip_test"] if flip else [])) == 0
    ours = Embedder(weights, "cpu", batch_size=5, flip=flip)
    for side in seen.values():
        expected = side.embeddings.numpy()
        assert len(expected) > 5
        for images in (side.paths, [Path(path) for path in side.paths], arrays(side.paths)):
            assert (ours(images) == expected).all()
    assert (ours(data / "query") == ours(queries(data))).all()


def test_every_form_of_an_image_gives_the_same_row(embed, data):
    path = queries(data)[0]
    [array] = arrays([path])
    expected = embed(path)
    assert expected.shape == (1, embed.dim) and expected.dtype == np.float32 and np.isfinite(expected).all()
    as_tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for form in (
        [path],
        Image.open(path),
        array,
        array[None],
        as_tensor,
        as_tensor[None],
        as_tensor.float() / 255,
        [as_tensor],
        (each for each in [path]),
    ):
        assert (embed(form) == expected).all()
    for form in (array[..., ::-1], as_tensor.flip(0)):
        assert (embed(form, bgr=True) == expected).all()
        assert not np.allclose(embed(form), expected, rtol=1e-3)
    grey = Image.open(path).convert("L")
    assert (embed(grey) == embed(np.asarray(grey.convert("RGB")))).all()


def test_a_pillow_image_is_read_as_its_file_is(embed, tmp_path, data):
    turned = Image.open(queries(data)[0]).convert("RGBA")
    exif = turned.getexif()
    exif[274] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert (embed(Image.open(tmp_path / "turned.png")) == embed(tmp_path / "turned.png")).all()
    assert not (embed(np.asarray(turned.convert("RGB"))) == embed(tmp_path / "turned.png")).all()


def test_a_tracklet_gets_one_row(embed, data):
    paths = queries(data)[:5]
    frames = arrays(paths)
    rows = embed([paths[:3], paths[3:]])
    assert rows.shape == (2, embed.dim)
    assert np.allclose(rows[0], embed(paths[:3]).mean(0), rtol=1e-5, atol=1e-6)
    assert (embed([frames[:3], tuple(frames[3:])]) == rows).all()
    same = np.stack([frames[0]] * 4)
    assert np.allclose(embed([same]), embed(frames[0]), rtol=1e-5, atol=1e-6)
    assert (embed(same[None]) == embed([same])).all()


WRONG = [
    ([], "the list is empty"),
    (np.zeros((0, 64, 32, 3), np.uint8), "the list is empty"),
    (np.zeros((64, 32, 3)), r"float64 .*\(image \* 255\).round\(\).astype"),
    (np.zeros((64, 32, 3), np.int64), r"image.astype\(np.uint8\)"),
    (np.zeros((3, 64, 32), np.uint8), "channels are first"),
    (np.zeros((2, 3, 64, 32), np.uint8), "channels are first"),
    (np.zeros((64, 32), np.uint8), "it is grey"),
    (np.zeros((64, 32, 1), np.uint8), "it is grey"),
    (np.zeros((64, 32, 4), np.uint8), "fourth channel"),
    ([np.ones((9, 9, 3), np.uint8), np.zeros((0, 9, 3), np.uint8)], "image 1 .* no pixels"),
    (Image.new("RGB", (0, 5)), "no pixels"),
    (torch.zeros(2, 64, 32, 3), "channels are last"),
    (torch.randn(2, 3, 64, 32), "do not normalise it"),
    (torch.full((3, 64, 32), 200.0), "divide it by 255"),
    (torch.full((3, 64, 32), float("nan")), "expected 0 to 1"),
    (torch.zeros(3, 0, 5), "no pixels"),
    (torch.zeros(3, 5, 5).long(), "expected uint8"),
    ("nowhere.jpg", "nowhere.jpg .no such file"),
    (ROOT / "tests" / "nets.py", "cannot be read"),
    (ROOT / "tests", "holds no image"),
    ([ROOT / "tests"], "is the folder"),
    ([None], "the image is a NoneType"),
    (7, "images are a int"),
    ({"a.jpg"}, "images are a set"),
    ([[]], "without frames"),
    ([[["a.jpg"]]], "list in a tracklet"),
    ([np.ones((9, 9, 3), np.uint8), [np.ones((9, 9, 3), np.uint8)]], "some are tracklets"),
]


@pytest.mark.parametrize(("images", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_could_only_give_a_wrong_number_is_one_line(embed, images, message):
    with pytest.raises(ValueError, match=message) as raised:
        embed(images)
    assert "\n" not in str(raised.value)


def test_what_is_said_for_nothing_is_refused(embed, weights, data):
    for images in (queries(data), data / "query", Image.open(queries(data)[0])):
        with pytest.raises(ValueError, match="bgr=True is said of arrays"):
            embed(images, bgr=True)
    with pytest.raises(ValueError, match="treats all alike"):
        embed(queries(data), infrared=True)
    for wrong in ({"device": "abacus"}, {"batch_size": 0}, {"batch_size": 2.5}, {"recipe": "no"}, {"colour": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Embedder(weights, **wrong)
    for file in (ROOT / "README.md", data):
        with pytest.raises(ValueError, match="weight"):
            Embedder(file)


def test_distances_are_those_of_the_metric(embed, weights, data):
    rows = embed(data / "query")
    assert np.allclose(embed.distance(rows, rows[:2]), np.linalg.norm(rows[:, None] - rows[:2], axis=2), atol=1e-3)
    cosine = Embedder(weights, "cpu", metric="cosine")
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.allclose(cosine.distance(rows, torch.from_numpy(rows)), 1 - unit @ unit.T, atol=1e-6)
    for wrong in (rows[0], rows[:, :5], rows[:0], np.full_like(rows, np.nan)):
        with pytest.raises(ValueError, match="a is|a's"):
            embed.distance(wrong, rows)


def test_the_threshold_is_learnt_by_a_test_and_kept_with_the_weights(weights, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(details, "PAIRS_TO_TELL", 10)
    moved = tmp_path / "weights" / "net.pth.tar"
    moved.parent.mkdir()
    moved.write_bytes(weights.read_bytes())
    with pytest.raises(ValueError, match="learn one with: python main.py --mode test .*net.pth.tar --details"):
        _ = Embedder(moved).threshold
    words = ("--mode", "test", "--weights", moved, "--market_path", data, "--details", "--output_path")
    assert run(*words, tmp_path / "expanded", "--query_expansion", 2, 3) == 0
    assert "not kept for embeddings: --query_expansion" in capsys.readouterr().out
    assert run(*words, tmp_path / "plain") == 0
    printed = capsys.readouterr().out
    [metrics] = (tmp_path / "plain").glob("metrics*.json")
    found = json.loads(metrics.read_text())
    learnt = Embedder(moved, "cpu").threshold
    assert learnt == found["market"]["verification"]["eer_threshold"] > 0
    assert f"at most {learnt:.4f}" in printed and "threshold" in printed
    assert Embedder(moved.parent, "cpu").threshold == learnt  # the one weight file in the folder, still
    with pytest.raises(ValueError, match="metric euclidean there, cosine here"):
        _ = Embedder(moved, metric="cosine").threshold
    own_checkpoint(moved, epoch=4)
    with pytest.raises(ValueError, match="other weights"):
        _ = Embedder(moved).threshold


PROGRAM = """
import sys
import datasets.inside
inside = datasets.inside
sys.path.append({root!r})
from embedder import Embedder
from loading.augmentation import normalise
from loading.views import Views
from recipes import RECIPES
import evaluate, models
assert (datasets.mine, evaluate.mine, models.mine) == (1, 2, 3), "ours in the place of theirs"
import datasets.more
embed = Embedder({weights!r}, "cpu")
print(embed({image!r}).sum())
assert datasets.load_dataset() == "theirs" and sys.modules["datasets"] is datasets
assert sys.modules["datasets.inside"] is inside  # real packages import their own modules, before us
"""


def test_it_stands_beside_datasets_evaluate_and_the_models_of_others(embed, weights, data, tmp_path):
    for name, text in (("datasets", "mine = 1\ndef load_dataset(): return 'theirs'"), ("evaluate", "mine = 2")):
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").write_text(text)
    for name in ("inside.py", "more.py"):
        (tmp_path / "site" / "datasets" / name).write_text("")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "models.py").write_text("mine = 3")
    image = queries(data)[0]
    program = tmp_path / "here" / "program.py"
    program.write_text(PROGRAM.format(root=str(ROOT), weights=str(weights), image=image))
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path / "site")}
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(float(embed(image).sum()), rel=1e-5)


def test_every_example_of_the_pages_runs(weights, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    paths = queries(data)
    for path in ("model.pt", "runs/bot_market/model.pt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(weights.read_bytes())
    for name, path in zip(("a.jpg", "b.jpg", "person.jpg"), paths, strict=False):
        (tmp_path / name).write_bytes(Path(path).read_bytes())
    (tmp_path / "photos").mkdir()
    for path in paths[:6]:
        (tmp_path / "photos" / Path(path).name).write_bytes(Path(path).read_bytes())
    frame = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    names: dict = {"SUITE": str(ROOT), "frame": frame}
    pages = [(ROOT / page).read_text("utf-8") for page in PREPARED]
    examples = [block for page in pages for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]
    monkeypatch.setattr(sys, "path", [*sys.path])
    for example in examples:
        exec(compile(example, "an example", "exec"), names)
    assert len(examples) == 5 and names["features"].shape == (2, 512)
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 5 and listed[0].endswith(Path(paths[2]).name)  # person.jpg is one of the photos
    assert np.allclose(np.linalg.norm(names["tracked"], axis=1), 1)
    appearance = names["appearance"]
    outside = appearance.get_features([[10, 5, 30, 60], [-20, -20, -5, -5], [70, 0, 90, 20]], frame)
    assert np.allclose(outside[0], names["tracked"][0], atol=1e-6)
    corners = [frame[:1, :1], frame[:20, 59:60]]  # a vector of length 0 would end boxmot
    assert np.allclose(
        outside, appearance.get_features([[10, 5, 30, 60], [0, 0, 1, 1], [59, 0, 60, 20]], frame), atol=1e-6
    )
    nearest = names["embedder"](corners, bgr=True)
    nearest /= np.linalg.norm(nearest, axis=1, keepdims=True)
    assert np.allclose(outside[1:], nearest, atol=1e-5)
    assert appearance.get_features(np.empty((0, 4)), frame).shape == (0, 512)


def test_infrared_images_go_through_their_own_stem(tmp_path):
    row = RECIPES["agw_rgbir"].with_(backbone="resnet18", image_size=(64, 32))
    model = row.model(3).eval()
    with torch.no_grad():
        for weight in model.base.infrared.parameters():  # at first those of the stem for colour
            weight.mul_(0.5)
    settings = {"recipe": "agw_rgbir", "overrides": {"backbone": "resnet18", "image_size": [64, 32]}, "num_pids": 3}
    own_checkpoint(tmp_path / "net.pt", **settings, model=model.state_dict())
    embed = Embedder(tmp_path / "net.pt", "cpu")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), dtype=np.uint8)
    batch = normalise(torch.from_numpy(images))
    for infrared in (False, True):
        views = Views(torch.zeros(3).long(), torch.full((3,), infrared))
        with torch.inference_mode():
            expected = model(batch, views).embedding.numpy()
        assert np.allclose(embed(images, infrared=infrared), expected, rtol=1e-3, atol=1e-4)
    assert not np.allclose(embed(images), embed(images, infrared=True), rtol=1e-2)
