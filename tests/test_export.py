"""A network as files that need nothing of this suite, compared with it on images."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import filled, own_checkpoint
from torch import nn

import architectures
import export
from embedder import Embedder, images_in
from rebuild import Loaded
from recipes import RECIPES
from test_smoke import run, small_set

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="onnx and onnxruntime are no requirements of the suite")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the weights net.pt and the set `set`."""
    folder = tmp_path_factory.mktemp("export")
    small_set(folder / "set", 2, 6)
    torch.manual_seed(0)
    own_checkpoint(folder / "net.pt", trained_on=["market"])
    return folder


def test_what_is_missing_is_asked_for_in_one_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    words = ("--mode", "export", "--weights", folder / "net.pt", "--output_path", tmp_path / "out")
    assert run(*words) == 1
    assert capsys.readouterr().err.strip().endswith("does without: python -m pip install onnx onnxruntime")
    assert not (tmp_path / "out").exists()
    for more, message in ((("--quantize", "int8"), "such as --market_path"),
                          (("--quantize", "int8", "--format", "torchreid"), "--quantize does nothing"),
                          (("--format", "torchreid", "--gallery_path", folder), "looks at no image")):  # fmt: skip
        assert run(*words, *more) == 1
        assert message in capsys.readouterr().err


@needs_onnx
def test_an_export_gives_the_embeddings_of_the_network_without_the_suite(folder, tmp_path, capsys):
    out = tmp_path / "out"
    words = ("--mode", "export", "--weights", folder / "net.pt", "--market_path", folder / "set", "--output_path", out)
    assert run(*words, "--metric", "cosine", "--quantize", "int8") == 0
    printed = capsys.readouterr().out
    assert printed.count("largest relative difference") == 2 and "int8          market: mAP" in printed
    assert {path.name for path in out.iterdir()} == {
        "model.onnx", "model.pt2", "model_int8.onnx", "card.json", "embed.py"}  # fmt: skip
    paths = images_in(folder / "set" / "query")
    rows = Embedder(folder / "net.pt", metric="cosine")(paths)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    done = subprocess.run([sys.executable, out / "embed.py", *paths], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.abs(np.load(tmp_path / "features.npz")["features"] - rows).max() < 1e-5
    program = torch.export.load(out / "model.pt2").module()
    for count in (1, 3):
        assert program(torch.zeros(count, 64, 32, 3, dtype=torch.uint8)).shape == (count, 512)
    card = json.loads((out / "card.json").read_text())
    told = {name: card[name] for name in ("image_size", "dim", "metric", "trained_on", "threshold")}
    assert told == {"image_size": [64, 32], "dim": 512, "metric": "cosine", "trained_on": "market", "threshold": None}
    assert card["difference"] < export.TOLERANCE and len(card["files"]) == 3
    assert 0 < card["int8"]["market"]["int8"]["mAP"] <= 1


@needs_onnx
def test_a_file_that_differs_is_not_written(folder, tmp_path, monkeypatch, capsys):
    onnx = export.to_onnx
    shifted = lambda network, *rest: (network.mean.add_(0.2), onnx(network, *rest), network.mean.sub_(0.2))  # noqa: E731
    monkeypatch.setattr(export, "to_onnx", shifted)
    words = ("--weights", folder / "net.pt", "--gallery_path", folder / "set" / "query", "--output_path", tmp_path)
    assert run("--mode", "export", *words) == 1
    assert "differs from the network by" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_exported_network_is_the_test_s(folder):
    """Normalisation, flip and unit length inside: without any exporter."""
    paths = images_in(folder / "set" / "query")[:3]
    embedder = Embedder(folder / "net.pt", "cpu", metric="cosine", flip=True)
    network = export.Exported(embedder.model, RECIPES["osnet_x0_25"].with_(metric="cosine"), flip=True).eval()
    pixels = np.stack([export_pixels(path, embedder.image_size) for path in paths])
    with torch.inference_mode():
        found = network(torch.from_numpy(pixels))
    expected = torch.nn.functional.normalize(torch.from_numpy(embedder(paths)), dim=1)
    assert export.relative(found, expected) < 1e-5


SMALL = {
    "osnet_x0_25": {"image_size": (64, 32)},
    "hacnn": {},
    "transreid": {"backbone": "vit_tiny_patch16_224", "image_size": (64, 32)},
    "transreid_baseline": {"backbone": "vit_tiny_patch16_224", "image_size": (64, 32)},
    "pcb": {"backbone": "resnet18", "image_size": (96, 32)},
    "mgn": {"backbone": "resnet18", "image_size": (96, 32)},
    "agw": {"backbone": "resnet18", "image_size": (64, 32)},
}


@pytest.mark.parametrize("name", SMALL)
def test_a_trace_keeps_the_number_of_images_free(name):
    """What ONNX is written from: a batch size that Python computed would be frozen, and shows only at another one."""
    recipe = RECIPES[name].with_(**SMALL[name])
    network = export.Exported(recipe.model(0), recipe, flip=False).eval()
    images = torch.randint(0, 256, (3, *recipe.image_size, 3), dtype=torch.uint8)
    with export.quiet(), torch.inference_mode():
        traced = torch.jit.trace(network, images[:2], check_trace=False)
        for part in (images, images[:1]):
            assert export.relative(traced(part), network(part)) < 1e-5


def export_pixels(path: str, size: tuple[int, int]) -> np.ndarray:
    from loading.store import decode

    return decode(path, size)


@pytest.mark.parametrize("key", ["osnet_x0_25", "resnet18", "pcb_p6"])
def test_torchreid_names(key, tmp_path):
    """The file holds torchreid's names of its network alone, and comes back as the network that it is."""
    make = architectures.NETWORKS[key]
    model = filled(make(num_pids=5))
    name = {"pcb_p6": "pcb", "resnet18": "softmax"}.get(key, key)
    recipe = RECIPES[name].with_(image_size=(96, 32))
    recipe = recipe.with_(backbone="resnet18") if key == "resnet18" else recipe
    lines = export.write_torchreid(Loaded(model, recipe, "market+duke", "", epoch=7), tmp_path)
    path = tmp_path / f"{key}_market1501_dukemtmcreid.pt"
    assert str(path) in lines[0] and f"all {len(model.state_dict())} tensors" in lines[0]
    state = torch.load(path, weights_only=True)
    assert state["epoch"] == 7 and not [name for name in state["state_dict"] if name.startswith("base.")]
    image = torch.rand(1, 3, 96, 32)
    again = Embedder(path, "cpu", image_size=(96, 32))
    with torch.inference_mode():
        assert export.relative(again.model(image).embedding, model(image).embedding) < 1e-5


def test_torchreid_names_from_the_command_line(folder, tmp_path, capsys):
    words = ("--weights", folder / "net.pt", "--format", "torchreid", "--output_path", tmp_path)
    assert run("--mode", "export", *words) == 0
    assert "all 567 tensors of its osnet_x0_25, 5 identities" in capsys.readouterr().out
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 32, 3), dtype=np.uint8)
    rows = [Embedder(path, image_size=(64, 32))(images) for path in (folder / "net.pt", *tmp_path.iterdir())]
    assert len(rows) == 2 and (rows[0] == rows[1]).all()


@pytest.mark.parametrize("recipe", ["bot", "softmax"])
def test_a_network_that_torchreid_lacks_is_refused(recipe, tmp_path):
    more = {"last_stride": 1} if recipe == "softmax" else {}
    row = RECIPES[recipe].with_(backbone="resnet18", image_size=(64, 32))
    model = partial(row.network, backbone="resnet18", num_pids=4, **more)().eval()
    assert isinstance(model, nn.Module)
    with pytest.raises(ValueError, match="torchreid has no network that is recipe"):
        export.write_torchreid(Loaded(model, row, "market", ""), tmp_path)
    assert not list(tmp_path.iterdir())
