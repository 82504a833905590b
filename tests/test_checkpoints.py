"""Checkpoints: atomic writing, and the import of each foreign format from files made here."""

import builtins
import copy
import errno
import json
import os
import pickle
import re
import resource
import signal
import struct
import subprocess
import sys
import textwrap
from collections import Counter, OrderedDict
from functools import partial

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import architectures
import checkpoints
import cli
import main as suite
import models
import recipes
from machine import version
from weights import formats, importing, reading, recognising


class Block(nn.Module):
    def __init__(self, width, ibn=False):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        if ibn:
            halves = {"IN": nn.InstanceNorm2d(width // 2, affine=True), "BN": nn.BatchNorm2d(width // 2)}
            self.bn1 = nn.ModuleDict(halves)


class Backbone(nn.Module):
    """The names of a torchvision ResNet, `blocks` blocks in each layer."""

    def __init__(self, blocks=1, width=4, ibn=False, num_classes=0):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(2)
        for i in range(1, 5):
            setattr(self, f"layer{i}", nn.Sequential(*(Block(width, ibn) for _ in range(blocks))))
        if num_classes:
            self.fc = nn.Linear(width, num_classes)


class Net(nn.Module):
    """The names of our BagOfTricks: base, bottleneck, classifier."""

    def __init__(self, num_pids=5, blocks=1, width=4, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.base = Backbone(blocks, width)
        self.bottleneck = nn.BatchNorm1d(width)
        self.classifier = nn.Linear(width, num_pids, bias=False)
        for buffer in self.buffers():  # running statistics that differ from those of a new network
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)


def backbone_of(state):
    return {key[len("base.") :]: value for key, value in state.items() if key.startswith("base.")}


def assert_equal_states(model, other, but=()):
    theirs = other.state_dict()
    for key, value in model.state_dict().items():
        assert key.startswith(tuple(but)) or torch.equal(value, theirs[key]), key


# ============ save and load ============


def test_round_trip_of_everything_plain(tmp_path):
    state = {
        "format": checkpoints.FORMAT,
        "epoch": 3,
        "nested": [{"lr": 0.1, "on": True, "none": None}, (1, "two")],
        "optimizer": {"state": {0: {"step": torch.tensor(2.0)}}},
        "model": OrderedDict(a=nn.Parameter(torch.randn(3)), b=torch.arange(4)),
    }
    checkpoints.save(tmp_path / "new_folder" / "last.pt", state)
    back = checkpoints.load(tmp_path / "new_folder" / "last.pt")
    assert back["nested"] == state["nested"] and back["optimizer"]["state"][0]["step"] == 2
    assert torch.equal(back["model"]["a"], state["model"]["a"]) and type(back["model"]["a"]) is torch.Tensor
    assert os.listdir(tmp_path / "new_folder") == ["last.pt"]


@pytest.mark.parametrize(
    "value", [np.float64(1.0), np.zeros(2), {1, 2}, Counter(a=1), torch.device("cpu"), torch.Size([1]), object(), b"x"]
)
def test_save_names_the_key_of_what_is_not_plain(tmp_path, value):
    with pytest.raises(ValueError, match=r"state\['train'\]\[1\]"):
        checkpoints.save(tmp_path / "x.pt", {"train": [1, value]})
    assert not os.listdir(tmp_path)


def test_save_writes_a_view_without_its_storage(tmp_path):
    checkpoints.save(tmp_path / "x.pt", {"view": torch.zeros(1_000_000)[:10]})
    assert (tmp_path / "x.pt").stat().st_size < 10_000


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_at_replace_keeps_the_old_file(tmp_path, monkeypatch):
    checkpoints.save(tmp_path / "last.pt", {"epoch": 1})
    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(RuntimeError, match=r"could not write .*last\.pt: No space left.*bytes free.*free some space"):
        checkpoints.save(tmp_path / "last.pt", {"epoch": 2})
    assert checkpoints.load(tmp_path / "last.pt") == {"epoch": 1} and os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("state", [{"x": torch.zeros(100_000)}, {"x": [torch.zeros(9) for _ in range(500)]}])
def test_full_disk_while_writing_keeps_the_old_file(tmp_path, monkeypatch, state):
    """A file whose write fails after some KB: torch reports it as a RuntimeError about a position, or as OSError."""
    checkpoints.save(tmp_path / "last.pt", {"epoch": 1})
    fdopen = os.fdopen

    class ShortFile:
        def __init__(self, file):
            self.file, self.room = file, 5_000

        def write(self, data):
            self.room -= len(memoryview(data).cast("B"))
            return self.file.write(data) if self.room > 0 else no_space()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

    monkeypatch.setattr(os, "fdopen", lambda *given, **options: ShortFile(fdopen(*given, **options)))
    with pytest.raises(RuntimeError, match="No space left"):
        checkpoints.save(tmp_path / "last.pt", state)
    assert checkpoints.load(tmp_path / "last.pt") == {"epoch": 1} and os.listdir(tmp_path) == ["last.pt"]


def test_a_real_file_size_limit(tmp_path):
    """The system itself refuses the write (EFBIG), as it would a full disk."""
    old_limit, old_handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, old_limit[1]))
    try:
        with pytest.raises(RuntimeError, match="could not write"):
            checkpoints.save(tmp_path / "last.pt", {"x": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert not os.listdir(tmp_path)


def test_interrupt_while_saving_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path / "last.pt", {"epoch": 1})
    assert not os.listdir(tmp_path)


def test_load_tells_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file at .*none\.pt"):
        checkpoints.load(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="is a folder"):
        checkpoints.load(tmp_path)
    (tmp_path / "empty.pt").touch()
    with pytest.raises(ValueError, match="is empty"):
        checkpoints.load(tmp_path / "empty.pt")

    checkpoints.save(tmp_path / "good.pt", {"x": torch.zeros(10_000)})
    good = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "bad.pt").write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match=r"bad\.pt is truncated"):
        checkpoints.load(tmp_path / "bad.pt")
    (tmp_path / "bad.pt").write_bytes(good[:20_000] + bytes([good[20_000] ^ 8]) + good[20_001:])
    with pytest.raises(ValueError, match=r"bad\.pt is truncated, damaged"):  # one bit of one weight
        checkpoints.load(tmp_path / "bad.pt")

    torch.save(Net(), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match="--weights"):
        checkpoints.load(tmp_path / "whole.pt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="expected a dict"):
        checkpoints.load(tmp_path / "list.pt")


# ============ formats ============

LEGACY = {"_use_new_zipfile_serialization": False}


def torchreid(net):
    state = {f"module.{k}": v for k, v in backbone_of(net.state_dict()).items()}
    state |= {"module.classifier.weight": net.classifier.weight.detach()}
    return {"state_dict": state, "epoch": 60, "rank1": np.float64(0.9), "optimizer": {"state": {0: torch.zeros(3)}}}


def bot_nested(net):
    return {"model": net.state_dict(), "optimizer": {"state": {}}}


def fastreid(net, head="heads.weight"):
    state = {f"backbone.{k}": v for k, v in backbone_of(net.state_dict()).items()}
    state |= {f"heads.bottleneck.0.{k}": v for k, v in net.bottleneck.state_dict().items()}
    state |= {head: net.classifier.weight.detach(), "pixel_mean": torch.zeros(1, 3, 1, 1)}
    return {"model": state, "iteration": 7}


def fastreid_old(net):
    return fastreid(net, "heads.classifier.weight")


def fastreid_numpy(net):
    return {"model": {key: value.numpy() for key, value in fastreid(net)["model"].items()}}


def wangguanan(net, relu=()):
    base = net.base
    stem = [base.conv1, base.bn1, *relu, base.maxpool]
    sequence = nn.Sequential(*stem, base.layer1, base.layer2, base.layer3, base.layer4)
    state = {f"resnet_conv.{k}": v for k, v in sequence.state_dict().items()}
    state |= {f"classifier.bn.{k}": v for k, v in net.bottleneck.state_dict().items()}
    return state | {"classifier.classifier.weight": net.classifier.weight.detach()}


def wangguanan_relu(net):
    return wangguanan(net, [nn.ReLU()])


def light_reid(net):
    state = {f"backbone.{k}": v for k, v in backbone_of(net.state_dict()).items()}
    state |= {f"head.bn.{k}": v for k, v in net.bottleneck.state_dict().items()}
    return state | {"head.classifier.weight": net.classifier.weight.detach()}


def boxmot(net):
    return {"ema_state_dict": Net(seed=9).state_dict(), "state_dict": net.state_dict(), "model_name": "tiny"}


def ema_only(net):
    return {"model_ema": net.state_dict(), "epoch": 3}


def aligned(net):
    return {"state_dicts": [net.state_dict(), {"state": {}}], "ep": 3, "scores": None}


def separate(net):
    return {"backbone": backbone_of(net.state_dict()), "bottleneck": net.bottleneck.state_dict()}


def compiled(net):
    return {f"_orig_mod.module.{key}": value for key, value in net.state_dict().items()}


def lightning(net):
    return {"state_dict": {f"model.{key}": value for key, value in net.state_dict().items()}, "hyper_parameters": {}}


def ours(net):
    return {"format": checkpoints.FORMAT, "recipe": "bot", "model": net.state_dict()}


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("make", "name", "absent"),
    [
        (torchreid, "torchreid", ("bottleneck",)),
        (bot_nested, "BoT strong baseline", ()),
        (fastreid, "fast-reid", ()),
        (fastreid_old, "fast-reid", ()),
        (fastreid_numpy, "fast-reid", ()),
        (wangguanan, "wangguanan", ()),
        (wangguanan_relu, "wangguanan (stem with ReLU)", ()),
        (light_reid, "light-reid", ()),
        (boxmot, "BoT strong baseline", ()),
        (ema_only, "BoT strong baseline", ()),
        (aligned, "BoT strong baseline", ()),
        (separate, "unlisted names", ("classifier",)),
        (compiled, "BoT strong baseline", ()),
        (lightning, "BoT strong baseline", ()),
        (ours, "checkpoint of this suite", ()),
    ],
)
def test_each_format_loads_every_tensor(tmp_path, make, name, absent, options):
    source, model = Net(seed=1), Net(seed=2)
    torch.save(make(source), tmp_path / "weights.pth", **options)
    report = importing.import_weights(model, tmp_path / "weights.pth")
    assert_equal_states(model, source, absent)
    assert report.format.split("; ")[0].startswith(name)
    assert {key.split(".")[0] for key in report.missing} == set(absent)
    assert {key for key, _ in report.skipped} <= {"pixel_mean"}
    assert report.complete == ("bottleneck" not in absent)
    assert set(report.loaded) >= {key for key in model.state_dict() if key.startswith("base.")}


def test_other_identities_are_skipped_with_the_reason(tmp_path):
    torch.save(Net(num_pids=7, seed=1).state_dict(), tmp_path / "w.pth")
    model = Net(num_pids=5, seed=2)
    before = model.classifier.weight.clone()
    report = importing.import_weights(model, tmp_path / "w.pth")
    assert report.skipped == [("classifier.weight", "classifier for 7 identities, this model has 5")]
    assert torch.equal(model.classifier.weight, before) and report.missing == ["classifier.weight"] and report.complete
    text = str(report)
    assert "w.pth" in text and "7 identities" in text and "missing  classifier.weight" in text

    del model.classifier  # as a model for tests only
    assert "no such classifier" in importing.import_weights(model, tmp_path / "w.pth").skipped[0][1]


def test_model_without_a_prefix_takes_names_with_one_and_the_reverse(tmp_path):
    net, bare = Net(seed=1), Backbone()
    torch.save({k: v for k, v in net.state_dict().items() if k.startswith("base.")}, tmp_path / "w.pth")
    report = importing.import_weights(bare, tmp_path / "w.pth")
    assert not report.missing and torch.equal(bare.layer4[0].conv1.weight, net.base.layer4[0].conv1.weight)

    imagenet = Backbone(num_classes=1000)
    torch.save(imagenet.state_dict(), tmp_path / "imagenet.pth")
    report = importing.import_weights(net, tmp_path / "imagenet.pth")
    assert torch.equal(net.base.conv1.weight, imagenet.conv1.weight) and not report.complete
    assert [name for name, _ in report.skipped] == ["fc.weight", "fc.bias"] and "1000 classes" in report.skipped[0][1]


def test_counters_of_batchnorm_may_be_absent(tmp_path):
    state = {k: v for k, v in Net(seed=1).state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    report = importing.import_weights(Net(), tmp_path / "old.pth")
    assert report.missing == [] and report.skipped == []


def test_half_precision_and_non_contiguous_tensors(tmp_path):
    source, model = Net(seed=1), Net(seed=2)
    state = {k: v.half() if v.is_floating_point() else v for k, v in source.state_dict().items()}
    state["base.layer1.0.conv1.weight"] = state["base.layer1.0.conv1.weight"].transpose(0, 1).clone().transpose(0, 1)
    state["classifier.weight"] = torch.cat([torch.zeros(2, 4), state["classifier.weight"].float()])[2:]  # an offset
    torch.save(state, tmp_path / "w.pth")
    importing.import_weights(model, tmp_path / "w.pth")
    assert torch.equal(model.base.layer1[0].conv1.weight, source.base.layer1[0].conv1.weight.half().float())
    assert torch.equal(model.classifier.weight, source.classifier.weight.half().float())
    assert model.classifier.weight.dtype == torch.float32


def test_safetensors(tmp_path):
    source, model, path = Net(seed=1), Net(seed=2), tmp_path / "w.safetensors"
    safetensors.torch.save_file(source.state_dict(), path, {"format": "pt"})
    assert importing.import_weights(model, path).format.endswith("safetensors")
    assert_equal_states(model, source)
    good = path.read_bytes()
    (length,) = struct.unpack("<Q", good[:8])
    header, data = json.loads(good[8 : 8 + length]), good[8 + length :]

    def with_header(size=None, **changed) -> bytes:
        text = json.dumps(header | changed).encode()
        return struct.pack("<Q", len(text) if size is None else size) + text + data

    name = "base.conv1.weight"
    damaged = {
        "ends within a tensor": good[:-9],
        "ends within the header": good[: length // 2],
        "header of another size": with_header(size=length - 5),
        "header larger than any memory": with_header(size=2**62),
        "no JSON": good[:8] + b"x" * length + data,
        "another shape than bytes": with_header(**{name: header[name] | {"shape": [9, 9]}}),
        "outside of the file": with_header(**{name: header[name] | {"data_offsets": [0, 2**40]}}),
        "an unknown type": with_header(**{name: header[name] | {"dtype": "F3"}}),
    }
    for what, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"w\.safetensors is truncated, damaged or no weight file") as found:
            importing.import_weights(model, path)
        assert "\n" not in str(found.value), what


def test_plain_pickle_of_arrays(tmp_path):
    """The converted backbones of fast-reid are pickles of numpy arrays, without torch.save."""
    source, model = Net(seed=1), Net(seed=2)
    with open(tmp_path / "w.pkl", "wb") as file:
        pickle.dump({"model": {k: v.numpy() for k, v in source.state_dict().items()}}, file, protocol=2)
    importing.import_weights(model, tmp_path / "w.pkl")
    assert_equal_states(model, source)


def python2(value) -> bytes:
    """A protocol 2 pickle as Python 2 wrote it: str as SHORT_BINSTRING, which Python 3 reads only as latin1."""
    from pickletools import genops

    data, out, last = pickle.dumps(value, 2), b"", None
    for opcode, argument, position in genops(data):
        if last is not None:
            out += data[last:position]
            last = None
        if opcode.name == "BINUNICODE" and len(argument) < 256:
            raw = argument.encode("latin1")
            out += b"U" + bytes([len(raw)]) + raw
        else:
            last = position
    return out + data[last:]


def test_python_2_pickle(tmp_path):
    source, model = Net(seed=1), Net(seed=2)
    state = {key: value.numpy() for key, value in source.state_dict().items()}
    (tmp_path / "w.pth.tar").write_bytes(python2({"state_dict": state, "arch": "r\xe9seau"}))
    assert b"\xe9" in (tmp_path / "w.pth.tar").read_bytes()
    importing.import_weights(model, tmp_path / "w.pth.tar")
    assert_equal_states(model, source)


# ============ opened once ============

OPENED: list[str] = []
sys.addaudithook(lambda event, arguments: OPENED.append(str(arguments[0])) if event == "open" else None)


def own_checkpoint(path, **changed):
    """A checkpoint of this suite at `path`; changed: entries of its own, None for those to leave out."""
    description = {"recipe": "osnet_x0_25", "overrides": {"image_size": [64, 32]}, "num_pids": 5, "trained_on": ["own"]}
    model = recipes.RECIPES["osnet_x0_25"].model(5)
    state = checkpoints.header(description | {"seed": 0, "amp": "none"}, 3) | {"model": model.state_dict()} | changed
    checkpoints.save(path, {name: value for name, value in state.items() if value is not None})
    return model


def loaded(path, *words):
    """What --mode test makes of the weights at `path`."""
    args, recipe = cli.parse(["--mode", "test", "--weights", str(path), *words])
    run = suite.Run(torch.device("cpu"), "none", False, path.parent)
    before, given = copy.copy(run), cli.overrides(args)
    found = suite.load_for_test(args, recipe, given, run, None)
    assert run == before
    return found


@pytest.mark.parametrize("kind", ["ours", "foreign", "safetensors"])
def test_a_weight_file_is_opened_once_and_reading_it_touches_nothing_else(tmp_path, capsys, kind):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    source = own_checkpoint(path)
    if kind == "foreign":
        torch.save({"state_dict": source.state_dict()}, path)
    elif kind == "safetensors":
        safetensors.torch.save_file(source.state_dict(), path)
    OPENED.clear()
    found = loaded(path)
    assert OPENED.count(str(path)) == 1
    assert capsys.readouterr() == ("", "") and str(path) in found.said and "osnet_x0_25" in found.said
    assert (found.epoch, found.trained_on) == ((3, "own") if kind == "ours" else (None, "w"))
    assert not found.model.training
    theirs = source.state_dict()
    for name, value in found.model.state_dict().items():
        assert name.startswith("classifier") or torch.equal(value, theirs[name]), name


def test_what_was_read_is_not_opened_again(tmp_path):
    source, model = Net(seed=1), Net(seed=2)
    torch.save({"model": source.state_dict()}, tmp_path / "w.pth")
    file = reading.read(tmp_path / "w.pth")
    (tmp_path / "w.pth").unlink()
    assert reading.read(file) is file and recognising.num_cameras(file) == 0
    assert recognising.recognise(file) == recognising.recognise_tensors(file.tensors)
    importing.import_weights(model, file)
    assert_equal_states(model, source)


def test_a_checkpoint_of_ours_is_read_as_torch_reads_it(tmp_path):
    nested = {"log": [{"loss": 0.5, "on": True}], "partial": None, "pair": (1, "two"), 3: {"step": torch.tensor(2.0)}}
    own_checkpoint(tmp_path / "w.pt", state=nested)

    def equal(a, b):
        if isinstance(a, dict):
            return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
        if isinstance(a, (list, tuple)):
            return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
        return (
            torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b and type(a) is type(b)
        )

    assert equal(reading.read(tmp_path / "w.pt").ours, checkpoints.load(tmp_path / "w.pt"))


def test_a_checkpoint_of_ours_holds_plain_values_only(tmp_path):
    torch.save({"format": reading.FORMAT, "model": Net().state_dict(), "extra": Counter(a=1)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt.*Counter"):
        reading.read(tmp_path / "w.pt")


def test_a_checkpoint_names_its_version_and_those_from_before_versions_are_read(tmp_path):
    own_checkpoint(tmp_path / "new.pt")
    assert checkpoints.load(tmp_path / "new.pt")["version"] == version.VERSION
    own_checkpoint(tmp_path / "old.pt", version=None)
    assert "version" not in checkpoints.load(tmp_path / "old.pt")
    assert loaded(tmp_path / "old.pt").recipe == loaded(tmp_path / "new.pt").recipe


def test_a_network_that_would_stay_half_drawn_is_refused_with_what_is_missing(tmp_path):
    state = recipes.RECIPES["osnet_x0_25"].model(5).state_dict()
    del state["fc.1.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"w\.pth leaves a part of the network as it was drawn(.|\n)*missing  fc\.1\.weight"
    ):
        loaded(tmp_path / "w.pth", "--recipe", "osnet_x0_25")


# ============ whole pickled modules, never executed ============

BASELINE = """
import torch
from torch import nn

open("imported", "a").write("x")

class Baseline(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Sequential()
        self.base.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.base.bn1 = nn.BatchNorm2d(4)
        for i in range(1, 5):
            block = nn.Sequential()
            block.conv1, block.bn1 = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
            setattr(self.base, f"layer{i}", nn.Sequential(block))
        self.bottleneck = nn.BatchNorm1d(4)
        self.classifier = nn.Linear(4, 5, bias=False)
        self.extra = {"a": object, "f": torch.relu}
        for buffer in self.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)

    def __setstate__(self, state):
        open("executed", "w").write("x")
        super().__setstate__(state)
"""

WRITE = """
import torch
from modeling.baseline import Baseline
net = Baseline()
torch.save(net, "zip.pth")
torch.save(net, "legacy.pth", _use_new_zipfile_serialization=False)
torch.save({"model": net, "epoch": 3}, "nested.pth")
torch.save(net.state_dict(), "state.pth")
"""


@pytest.fixture(scope="module")
def baseline_files(tmp_path_factory):
    """Files of a class that exists only in another process: reid-strong-baseline's ``modeling.baseline.Baseline``."""
    folder = tmp_path_factory.mktemp("baseline")
    (folder / "modeling").mkdir()
    (folder / "modeling" / "__init__.py").touch()
    (folder / "modeling" / "baseline.py").write_text(textwrap.dedent(BASELINE))
    subprocess.run([sys.executable, "-c", textwrap.dedent(WRITE)], cwd=folder, check=True, timeout=120)
    (folder / "imported").unlink()
    return folder


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "nested.pth"])
def test_whole_pickled_baseline(baseline_files, name, monkeypatch):
    monkeypatch.chdir(baseline_files)
    monkeypatch.syspath_prepend(str(baseline_files))  # it could be imported; it must not be
    model, truth = Net(), torch.load("state.pth", weights_only=True)
    report = importing.import_weights(model, name)
    assert "pickled modeling.baseline.Baseline" in report.format and not report.missing and not report.skipped
    assert all(torch.equal(value, truth[key]) for key, value in model.state_dict().items())
    assert "modeling" not in sys.modules and not os.path.exists("imported") and not os.path.exists("executed")


def test_a_module_that_holds_itself(tmp_path):
    source, model = Net(seed=1), Net(seed=2)
    source.base.layer1._modules["me"] = source.base.layer1
    source.base.layer2._modules["root"] = source
    torch.save(source, tmp_path / "w.pth")
    report = importing.import_weights(model, tmp_path / "w.pth")
    assert not report.skipped and not report.missing
    assert torch.equal(model.base.layer2[0].conv1.weight, source.base.layer2[0].conv1.weight)


class Attack:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def attacks(marker):
    command = f"touch {marker}"
    yield Attack(os.system, command)
    yield Attack(eval, f"__import__('os').system({command!r})")
    yield Attack(exec, f"open({str(marker)!r}, 'w').close()")
    yield Attack(subprocess.Popen, ["touch", str(marker)])
    yield Attack(getattr, "text", "upper")
    yield Attack(builtins.__import__, "os")


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("way", ["zip", "legacy", "pickle"])
def test_a_malicious_pickle_runs_nothing(tmp_path, number, way):
    marker = tmp_path / "marker"
    attack = list(attacks(marker))[number]
    source = Net(seed=1)
    for content in (attack, {"model": source.state_dict(), "extra": attack}):
        path = tmp_path / "w.pth"
        if way == "pickle":
            path.write_bytes(pickle.dumps(content if content is attack else {"extra": attack}))
        else:
            torch.save(content, path, **(LEGACY if way == "legacy" else {}))
        if way == "pickle" or content is attack:
            with pytest.raises(ValueError, match=r"w\.pth holds no weights"):
                importing.import_weights(Net(), path)
            with pytest.raises(ValueError, match=r"w\.pth"):
                checkpoints.load(path)
        else:
            model = Net(seed=2)
            importing.import_weights(model, path)
            assert_equal_states(model, source)
    assert not marker.exists()


def test_a_file_cannot_change_what_the_next_one_meets(tmp_path):
    """BUILD can set attributes on what find_class hands out; that must end with the file."""
    raw = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}(X\x0c\x00\x00\x00__defaults__N" + b"ub."
    (tmp_path / "w.pth").write_bytes(raw)
    with pytest.raises(ValueError, match=r"w\.pth"):
        reading.read(tmp_path / "w.pth")
    torch.save(Net().state_dict(), tmp_path / "good.pth")
    assert reading.read(tmp_path / "good.pth").tensors


def test_a_tensor_may_not_reach_outside_of_its_storage(tmp_path):
    class Far:
        def __reduce__(self):
            storage = torch.zeros(4).storage()
            return torch._utils._rebuild_tensor_v2, (storage, 0, (1000,), (1,), False, OrderedDict())

    with pytest.warns(UserWarning, match="TypedStorage"):
        torch.save({"x": Far()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="outside of its storage"):
        reading.read(tmp_path / "w.pth")


# ============ what is refused ============


def test_damaged_and_foreign_files(tmp_path):
    model, path = Net(), tmp_path / "w.pth"
    with pytest.raises(FileNotFoundError, match="no weight file"):
        importing.import_weights(model, tmp_path / "none.pth")
    for options in ({}, LEGACY):
        torch.save(Net(width=16).state_dict(), path, **options)
        good = path.read_bytes()
        for length in (1, 60, len(good) // 2, len(good) - 5):
            path.write_bytes(good[:length])
            with pytest.raises(ValueError, match=r"w\.pth is truncated, damaged"):
                importing.import_weights(model, path)
    for content, words in [
        (b"<!DOCTYPE html><html>Google Drive - Virus scan warning", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"nothing of the kind", "no weight file"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            importing.import_weights(model, path)
    for value in ({"epoch": 3, "model": {}}, [], {"optimizer": {"state": {0: torch.zeros(3)}}}):
        torch.save(value, path)
        with pytest.raises(ValueError, match="holds no weights"):
            importing.import_weights(model, path)


def test_archives_ask_to_be_unpacked(tmp_path):
    import tarfile
    import zipfile

    (tmp_path / "readme").write_text("x")
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.write(tmp_path / "readme", "model/weights.pth")
    with pytest.raises(ValueError, match=r"model/weights\.pth.*unpack"):
        reading.read(tmp_path / "a.pth")
    with tarfile.open(tmp_path / "a.pth.tar", "w") as archive:
        archive.add(tmp_path / "readme")
    with pytest.raises(ValueError, match="tar archive"):
        reading.read(tmp_path / "a.pth.tar")


@pytest.mark.parametrize(
    "other",
    [
        Net(width=8),  # the same names, other widths
        Net(blocks=2),  # holds every tensor of the model and more, as ResNet-101 does of ResNet-50
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 5)),
        nn.ModuleDict({"base": Backbone(ibn=True), "bottleneck": nn.BatchNorm1d(4)}),
        nn.ModuleDict({"bottleneck": nn.BatchNorm1d(4), "classifier": nn.Linear(4, 5, bias=False)}),
    ],
    ids=["wider", "deeper", "unrelated", "ibn", "head only"],
)
def test_another_architecture_is_refused_and_the_model_left_alone(tmp_path, other):
    torch.save(other.state_dict(), tmp_path / "w.pth")
    model = Net(seed=2)
    with pytest.raises(ValueError, match=r"w\.pth is a checkpoint of another architecture.*--recipe and --backbone"):
        importing.import_weights(model, tmp_path / "w.pth")
    assert_equal_states(model, Net(seed=2))


def test_one_other_shape_is_skipped_with_both_shapes(tmp_path):
    state = Net(seed=1, blocks=2).state_dict()
    state["base.conv1.weight"] = torch.zeros(4, 1, 3, 3)
    torch.save(state, tmp_path / "w.pth")
    report = importing.import_weights(Net(blocks=2), tmp_path / "w.pth")
    assert report.skipped == [("base.conv1.weight", "shape (4, 1, 3, 3), this model has (4, 3, 3, 3)")]
    assert report.missing == ["base.conv1.weight"] and not report.complete


def test_non_finite_weights_are_refused(tmp_path):
    state = Net(seed=1).state_dict()
    state["bottleneck.weight"] = torch.full((4,), float("nan"))
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"NaN.*bottleneck\.weight"):
        importing.import_weights(Net(), tmp_path / "w.pth")


# ============ position embeddings ============


class Vit(nn.Module):
    def __init__(self, rows, columns, known_grid=True):
        super().__init__()
        self.base = nn.Module()
        self.base.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.base.pos_embed = nn.Parameter(torch.randn(1, rows * columns + 1, 8))
        self.base.patch_embed = nn.Conv2d(3, 8, 4)
        if known_grid:
            self.base.patch_embed.grid_size = (rows, columns)
        self.base.blocks = nn.Sequential(*(nn.Linear(8, 8) for _ in range(8)))


@pytest.mark.parametrize("known_grid", [True, False])
def test_position_embedding_of_another_grid_is_resized(tmp_path, known_grid):
    source, model = Vit(14, 14), Vit(16, 8, known_grid)
    with torch.no_grad():  # a plane: bicubic interpolation (a = -0.75) nearly keeps it, away from the border
        rows, columns = torch.meshgrid(torch.arange(14.0), torch.arange(14.0), indexing="ij")
        source.base.pos_embed[0, 1:, 0] = ((rows + 0.5) / 14).flatten()
        source.base.pos_embed[0, 1:, 1] = ((columns + 0.5) / 14).flatten()
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    report = importing.import_weights(model, tmp_path / "vit.pth")
    assert report.resized == [("base.pos_embed", "position embedding of 14x14 patches to 16x8")]
    assert "base.pos_embed" in report.loaded and not report.missing and "14x14" in str(report)
    grid = model.base.pos_embed.detach()[0, 1:].reshape(16, 8, 8)
    assert torch.allclose(grid[4:12, 3, 0], (torch.arange(4.0, 12) + 0.5) / 16, atol=5e-3)
    assert torch.allclose(grid[8, 2:6, 1], (torch.arange(2.0, 6) + 0.5) / 8, atol=5e-3)
    assert torch.equal(model.base.pos_embed[0, 0], source.base.pos_embed[0, 0])  # the class token's own


# ============ released layouts of whole methods ============


def randomised(build, num_pids, seed):
    """A network in which no two tensors are equal, on new weights for each seed."""
    torch.manual_seed(seed)
    with torch.device("meta"):
        model = build(num_pids=num_pids)
    model.to_empty(device="cpu")
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
        else:
            value.fill_(seed if name.endswith("num_batches_tracked") else 0)
    return model


def renamed(*rules):
    """our state dict -> theirs: the first rule (pattern, replacement) whose pattern matches; other names stay."""

    def rename(state):
        result = {}
        for name, value in state.items():
            pattern, new = next(((p, r) for p, r in rules if re.search(p, name)), ("^", ""))
            result[re.sub(pattern, new, name)] = value
        assert len(result) == len(state)
        return result

    return rename


ROOT_TRUNK = (r"^base\.", "")
SEQUENTIAL = ((r"^base\.conv1\.", "base.0."), (r"^base\.bn1\.", "base.1."),
              *((rf"^base\.layer{i}\.", f"base.{i + 3}.") for i in (1, 2, 3, 4)))  # fmt: skip
FAST_REID = renamed((r"^base\.", "backbone."), (r"^bottleneck\.", "heads.bottleneck.0."),
                    (r"^global_pool\.", "heads.pool_layer."), (r"^classifier\.", "heads."))  # fmt: skip
MGN_HEADS = ("b1", "b2", "b3", "b21", "b22", "b31", "b32", "b33")  # order of ours; modeling/meta_arch/mgn.py
MGN_NAMES = renamed(*(
    (rf"^heads\.{i}\.{ours}\.", f"{head}_head.{theirs}")
    for i, head in enumerate(MGN_HEADS)
    for ours, theirs in (("global_pool", "pool_layer."), ("reduction", "bottleneck.0."), ("neck", "bottleneck.1."),
                         ("classifier", ""))
))  # fmt: skip


def transreid_names(state):
    """model/make_model.py: the trunk keeps its last block and norm, which b1 and b2 copied, and an ImageNet head."""
    last = 1 + max(int(match[1]) for match in (re.match(r"base\.blocks\.(\d+)\.", name) for name in state) if match)
    kept = {re.sub(r"^b1\.0\.", f"base.blocks.{last}.", name): value + 1 for name, value in state.items()
            if name.startswith("b1.0.")}  # fmt: skip
    kept |= {name.replace("b1.1.", "base.norm."): value + 1 for name, value in state.items() if "b1.1." in name}
    width = state["base.cls_token"].shape[2]
    return state | kept | {"base.fc.weight": torch.ones(1000, width), "base.fc.bias": torch.ones(1000)}


def pyramid_names(state):
    """src/models/pcb_plus_dropout_pyramid.py: a second list of branches, for 1024 channels, that is never called."""
    state = renamed((r"^reduction\.", "pyramid_conv_list0."), (r"^classifier\.", "pyramid_fc_list0."))(state)
    conv, fc = torch.ones(128, 1024, 1, 1), torch.ones(7, 128)
    return state | {"pyramid_conv_list1.0.0.weight": conv, "pyramid_fc_list1.0.weight": fc}


def pcb_rpp_names(state):
    """reid/models/resnet.py, resnet_rpp.py: base is all of torchvision's network, its classifier included."""
    state = {name: value for name, value in state.items() if name != "refined"}
    rename = renamed((r"^reduction\.0\.0\.", "local_conv."), (r"^reduction\.0\.1\.", "feat_bn2d."),
                     (r"^classifier\.(\d)", r"instance\1"), (r"^part_classifier\.", "local_mask."))  # fmt: skip
    return rename(state) | {"base.fc.weight": torch.ones(1000, 512), "base.fc.bias": torch.ones(1000)}


def nested(state):
    return {"state_dict": state, "epoch": 60, "best_top1": 0.9}


def parallel(state):
    return {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 60}


def saved_by_huanghoujing(state):
    return {"state_dicts": [state, {"state": {}, "param_groups": []}], "ep": 60, "scores": 0}


def saved_by_fast_reid(state):
    return {"model": state, "optimizer": {"state": {}}, "iteration": 9}


def bare(state):
    return state


IMAGENET = "ImageNet classifier (1000 classes)"
UNUSED = "not used by the released network either"
R18 = {"backbone": "resnet18"}
TINY_VIT = {"backbone": "test_vit", "image_size": (64, 32)}
VIT_UNUSED = {"base.blocks.5.": UNUSED, "base.norm.": UNUSED, "base.fc.": UNUSED}
LAYOUTS = {  # name -> (network, its released names, container, what else is skipped: name starts with -> reason)
    "torchreid softmax": (partial(models.Softmax, **R18), renamed(ROOT_TRUNK), parallel, {}),
    "torchreid fc512": (partial(models.Softmax, fc_dims=(512,), **R18), renamed(ROOT_TRUNK), nested, {}),
    "torchreid osnet": (
        partial(models.Softmax, backbone="osnet_x0_25", fc_dims=(512,)), renamed(ROOT_TRUNK), parallel, {}
    ),
    "torchreid pcb": (
        partial(models.PCB, **R18), renamed(ROOT_TRUNK, (r"^reduction\.0\.", "conv5.layers.")), parallel, {}
    ),
    "torchreid resnet50mid": (
        partial(models.ResNet50M, backbone="resnet34"), renamed(ROOT_TRUNK), nested, {}
    ),
    "torchreid hacnn": (architectures.HACNN, bare, parallel, {}),
    "torchreid mudeep": (partial(architectures.MuDeep, image_size=(16, 16)), bare, nested, {}),
    "strong baseline": (partial(models.BagOfTricks, **R18), bare, bare, {}),
    "fast-reid bot": (
        partial(models.BagOfTricks, backbone="resnet18_ibn_a", stem_ceil=True), FAST_REID, saved_by_fast_reid, {}
    ),
    "fast-reid sbs": (partial(models.AGW, non_local=(0, 1, 2, 0), **R18), FAST_REID, saved_by_fast_reid, {}),
    "fast-reid mgn": (
        partial(models.MGN, pooling="gem", global_stride=1, **R18), MGN_NAMES, saved_by_fast_reid, {}
    ),
    "mangye16 agw": (partial(models.AGW, non_local=(0, 1, 2, 0), **R18), bare, bare, {}),
    "pcb of syfafterzy": (partial(models.PCB, **R18), pcb_rpp_names, nested, {"base.fc.": IMAGENET}),
    "rpp of syfafterzy": (partial(models.RPP, **R18), pcb_rpp_names, nested, {"base.fc.": IMAGENET}),
    "pcb of huanghoujing": (
        partial(models.PCB, shared_reduction=False, **R18),
        renamed((r"^reduction\.", "local_conv_list."), (r"^classifier\.", "fc_list.")), saved_by_huanghoujing, {},
    ),
    "pyramid": (
        partial(models.Pyramid, **R18), pyramid_names, saved_by_huanghoujing, {"pyramid_conv_list1.": UNUSED,
                                                                              "pyramid_fc_list1.": UNUSED},
    ),
    "aligned": (
        partial(models.AlignedReID, **R18), renamed((r"^classifier\.", "fc.")), saved_by_huanghoujing, {}
    ),
    "aligned++": (partial(models.AlignedReIDPlusPlus, **R18), renamed(*SEQUENTIAL), nested, {}),
    "transreid": (partial(models.TransReID, num_cameras=3, **TINY_VIT), transreid_names, bare, VIT_UNUSED),
    "transreid baseline": (
        partial(models.TransReID, jpm=False, **TINY_VIT),
        lambda state: state | {"base.fc.weight": torch.ones(1000, 64), "base.fc.bias": torch.ones(1000)}, bare,
        {"base.fc.": IMAGENET},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_released_layout_imports_completely(tmp_path, layout):
    build, rename, container, unused = LAYOUTS[layout]
    source, model = randomised(build, 7, seed=1), randomised(build, 5, seed=2)
    theirs = rename(source.state_dict())
    torch.save(container(theirs), tmp_path / "w.pth")
    report = importing.import_weights(model, tmp_path / "w.pth")

    expected, heads = source.state_dict(), 0
    for key, value in model.state_dict().items():
        if formats.CLASSIFIER.search(key):
            heads += 1
        elif key != "refined":
            assert torch.equal(value, expected[key]), key
    assert report.complete and len(report.missing) == heads > 0

    skipped = dict(report.skipped)
    assert len(skipped) == len(report.skipped)
    others = {name: reason for name, reason in skipped.items() if name.startswith(tuple(unused))}
    assert {start for start in unused for name in others if name.startswith(start)} == set(unused)
    assert all(reason == unused[next(s for s in unused if name.startswith(s))] for name, reason in others.items())
    rest = {name: reason for name, reason in skipped.items() if name not in others}
    assert len(rest) == heads
    assert set(rest.values()) == {"classifier for 7 identities, this model has 5"}, rest


def test_released_rpp_refines_its_parts(tmp_path):
    build = partial(models.RPP, **R18)
    torch.save(pcb_rpp_names(randomised(build, 7, seed=1).state_dict()), tmp_path / "w.pth")
    model = randomised(build, 0, seed=2)
    importing.import_weights(model, tmp_path / "w.pth")
    assert bool(model.refined)


def test_fast_reid_agw_has_a_fixed_exponent(tmp_path):
    build = partial(models.AGW, non_local=(0, 1, 2, 0), **R18)
    state = FAST_REID(randomised(build, 7, seed=1).state_dict())
    del state["heads.pool_layer.p"]
    torch.save({"model": state}, tmp_path / "w.pth")
    model = randomised(build, 0, seed=2)
    assert importing.import_weights(model, tmp_path / "w.pth").complete
    assert model.global_pool.p.tolist() == [3.0]


def test_a_plain_trunk_is_dealt_out_to_the_branches(tmp_path):
    """ImageNet weights for MGN and TransReID, whose branches start as copies of the trunk's end."""
    trunk = randomised(partial(models.Softmax, **R18), 1000, seed=1).base
    torch.save(trunk.state_dict() | {"fc.weight": torch.ones(1000, 512)}, tmp_path / "w.pth")
    mgn = randomised(partial(models.MGN, **R18), 5, seed=2)
    report = importing.import_weights(mgn, tmp_path / "w.pth")
    assert torch.equal(mgn.backbone[0].weight, trunk.conv1.weight)
    assert torch.equal(mgn.backbone[6].conv1.weight, trunk.layer3[0].conv1.weight)
    for branch in (mgn.b1, mgn.b2, mgn.b3):
        assert torch.equal(branch[0][0].conv2.weight, trunk.layer3[1].conv2.weight)
        assert torch.equal(branch[1][1].bn2.running_var, trunk.layer4[1].bn2.running_var)
    assert [name for name, _ in report.skipped] == ["fc.weight"]
    assert all(name.startswith("heads.") for name in report.missing)

    vit = randomised(partial(models.TransReID, jpm=False, **TINY_VIT), 0, seed=1)
    state = {name.removeprefix("base."): value for name, value in vit.state_dict().items() if name.startswith("base.")}
    torch.save(state, tmp_path / "vit.pth")
    model = randomised(partial(models.TransReID, **TINY_VIT), 5, seed=2)
    report = importing.import_weights(model, tmp_path / "vit.pth")
    for branch in (model.b1, model.b2):
        assert torch.equal(branch[0].attn.qkv.weight, vit.base.blocks[-1].attn.qkv.weight)
        assert torch.equal(branch[1].weight, vit.base.norm.weight)
    assert not report.skipped and all(name.startswith(("bottleneck", "classifier")) for name in report.missing)


def test_position_embedding_for_overlapping_patches(tmp_path):
    """timm's own `grid_size` is that of the patches before they overlapped."""
    build = partial(models.TransReID, jpm=False, backbone="test_vit", image_size=(96, 32))
    source, model = randomised(partial(build, stride=16), 0, seed=1), randomised(partial(build, stride=12), 0, seed=2)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    report = importing.import_weights(model, tmp_path / "w.pth")
    assert report.resized == [("base.pos_embed", "position embedding of 6x2 patches to 7x2")]
    assert torch.equal(model.base.pos_embed[0, 0], source.base.pos_embed[0, 0])


def test_cameras_of_a_file(tmp_path):
    build = partial(models.TransReID, jpm=False, **TINY_VIT)
    torch.save(randomised(partial(build, num_cameras=6), 7, seed=1).state_dict(), tmp_path / "w.pth")
    assert recognising.num_cameras(tmp_path / "w.pth") == 6
    for cameras, words in ((0, "none"), (3, "3")):
        report = importing.import_weights(randomised(partial(build, num_cameras=cameras), 0, 2), tmp_path / "w.pth")
        assert ("base.sie_embed", f"embeddings of 6 cameras, this model has {words}") in report.skipped
        assert report.complete == (cameras == 0)
    torch.save(Net().state_dict(), tmp_path / "w.pth")
    assert recognising.num_cameras(tmp_path / "w.pth") == 0


# ============ our own checkpoint into a network ============


def test_load_into_says_what_does_not_fit():
    model, state = Net(seed=1), Net(seed=2).state_dict()
    checkpoints.load_into(model, state, "model.pt")
    assert torch.equal(model.base.conv1.weight, state["base.conv1.weight"])

    before = {key: value.clone() for key, value in model.state_dict().items()}
    other = {key: value + 1 for key, value in Net(num_pids=7).state_dict().items()}
    del other["base.conv1.weight"], other["bottleneck.weight"]
    other["fc.weight"] = torch.zeros(3)
    with pytest.raises(ValueError) as error:
        checkpoints.load_into(model, other, "run/model.pt")
    text = str(error.value)
    assert text.startswith("run/model.pt does not fit the network Net")
    assert "2 missing (base.conv1.weight, bottleneck.weight)" in text and "1 unexpected (fc.weight)" in text
    assert "1 of another shape (classifier.weight (7, 4) instead of (5, 4))" in text and "--weights" in text
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    deeper = Net(blocks=3).state_dict()
    with pytest.raises(ValueError, match=r"unexpected \(.*, .*, .* and \d+ more\)"):
        checkpoints.load_into(model, deeper, "model.pt")
    for damaged in (None, {"base": {}}, []):
        with pytest.raises(ValueError, match=r"model\.pt holds no state dict"):
            checkpoints.load_into(model, damaged, "model.pt")


# ============ recognise ============


def resnet_shapes(blocks, third, width=64, ibn=False, groups_width=64):
    """Names and shapes (one element each, expanded) that `recognise` looks at."""
    state = {"conv1.weight": (64, 3, 7, 7), "bn1.weight": (64,)}
    for layer, count in enumerate(blocks, 1):
        for i in range(count):
            state[f"layer{layer}.{i}.conv1.weight"] = (width, 64, 1, 1)
            state[f"layer{layer}.{i}.conv2.weight"] = (width, groups_width, 3, 3)
            if third:
                state[f"layer{layer}.{i}.conv3.weight"] = (256, width, 1, 1)
            state[f"layer{layer}.{i}.bn1.{'IN.' if ibn else ''}weight"] = (32,)
    return state


def osnet_shapes(width, ain=False, ibn=False):
    state = {"conv1.conv.weight": (width, 3, 7, 7), "conv5.conv.weight": (width, width, 1, 1)}
    state["conv2.0.conv2.0.layers.0.conv1.weight" if ain else "conv2.0.conv2a.conv1.weight"] = (4, 4, 1, 1)
    if ain or ibn:
        state["conv2.0.IN.weight"] = (width,)
    return state | {"fc.0.weight": (512, width), "classifier.weight": (751, 512)}


STEM = {"stem_relu": True, "stem_ceil": False}


def softmax(backbone):
    return {"recipe": "softmax", "backbone": backbone}


NECK = {"bottleneck.running_mean": (2048,), "bottleneck.weight": (2048,), "classifier.weight": (751, 2048)}


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (osnet_shapes(16), {"recipe": "osnet_x0_25"}),
        (osnet_shapes(32), {"recipe": "osnet_x0_5"}),
        (osnet_shapes(48), {"recipe": "osnet_x0_75"}),
        (osnet_shapes(64), {"recipe": "osnet_x1_0"}),
        (osnet_shapes(64, ibn=True), {"recipe": "osnet_ibn_x1_0"}),
        (osnet_shapes(64, ain=True), {"recipe": "osnet_ain_x1_0"}),
        (osnet_shapes(16, ain=True), {"recipe": "osnet_ain_x0_25"}),
        (osnet_shapes(64) | NECK, {"recipe": "bot", "backbone": "osnet_x1_0"}),
        (resnet_shapes((2, 2, 2, 2), False), {"recipe": "softmax", "backbone": "resnet18"}),
        (resnet_shapes((3, 4, 6, 3), False) | NECK, {"recipe": "bot", "backbone": "resnet34", **STEM}),
        (resnet_shapes((3, 4, 6, 3), True) | NECK, {"recipe": "bot", "backbone": "resnet50", **STEM}),
        (resnet_shapes((3, 4, 23, 3), True), {"recipe": "softmax", "backbone": "resnet101"}),
        (resnet_shapes((3, 8, 36, 3), True), {"recipe": "softmax", "backbone": "resnet152"}),
        (
            resnet_shapes((3, 4, 6, 3), True, ibn=True) | NECK,
            {"recipe": "bot", "backbone": "resnet50_ibn_a", **STEM},
        ),
        (resnet_shapes((3, 4, 6, 3), True, 128, groups_width=4), {"recipe": "softmax", "backbone": "resnext50_32x4d"}),
        (resnet_shapes((3, 4, 6, 3), True) | {"layer1.2.IN.weight": (256,)}, softmax("resnet50_ibn_b")),
        (resnet_shapes((3, 4, 6, 3), True) | {"layer1.0.se.fc.0.weight": (16, 256)}, None),  # fast-reid's own SE
        (resnet_shapes((1, 1, 1, 1), True), None),
        ({"something.weight": (3, 3)}, None),
    ],
)
def test_recognise(tmp_path, shapes, expected):
    state = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "w.pth")
    assert recognising.recognise(tmp_path / "w.pth") == expected
    bot = {(name if name in NECK else f"base.{name}"): value for name, value in state.items()}
    torch.save(bot, tmp_path / "w.pth")
    if expected and expected["recipe"] == "bot":
        # reid-strong-baseline's own names: its plain ResNets miss the stem's ReLU, its IBN-a does not
        plain = expected["backbone"] in ("resnet34", "resnet50")
        assert recognising.recognise(tmp_path / "w.pth") == expected | ({"stem_relu": False} if plain else {})


@pytest.mark.parametrize(("ibn", "backbone"), [(False, "resnet50"), (True, "resnet50_ibn_a")])
def test_recognise_through_fast_reid_and_wangguanan_names(ibn, backbone):
    shapes = resnet_shapes((3, 4, 6, 3), True, ibn=ibn)
    tensors = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    fast = {f"backbone.{name}": value for name, value in tensors.items()}
    fast |= {"heads.bottleneck.0.running_mean": torch.zeros(2048), "heads.weight": torch.zeros(702, 2048)}
    expected = {"recipe": "bot", "backbone": backbone}
    assert recognising.recognise_tensors(fast) == expected | {"stem_relu": True, "stem_ceil": True}
    index = {"conv1": 0, "bn1": 1, "layer1": 3, "layer2": 4, "layer3": 5, "layer4": 6}
    wang = {f"resnet_conv.{index[name.split('.')[0]]}.{name.split('.', 1)[1]}": v for name, v in tensors.items()}
    wang |= {"classifier.bn.running_mean": torch.zeros(2048)}
    assert recognising.recognise_tensors(wang) == expected | {"stem_relu": False, "stem_ceil": False}


R50 = {"backbone": "resnet50"}
METHOD_FILES = {  # name -> (network at full size, its released names, what is recognised)
    "pcb": (models.PCB, LAYOUTS["torchreid pcb"][1], {"recipe": "pcb"} | R50),
    "pcb of 4": (
        partial(models.PCB, parts=4), LAYOUTS["torchreid pcb"][1], {"recipe": "pcb", "options": {"parts": 4}} | R50
    ),
    "pcb of syfafterzy": (models.PCB, pcb_rpp_names, {"recipe": "pcb"} | R50),
    "pcb, ours": (models.PCB, bare, {"recipe": "pcb"} | R50),
    "rpp": (models.RPP, pcb_rpp_names, {"recipe": "pcb_rpp"} | R50),
    "rpp, ours": (models.RPP, bare, {"recipe": "pcb_rpp"} | R50),
    "pcb of huanghoujing": (
        partial(models.PCB, shared_reduction=False), LAYOUTS["pcb of huanghoujing"][1],
        {"recipe": "pcb_independent"} | R50,
    ),
    "pyramid": (models.Pyramid, pyramid_names, {"recipe": "pyramid", "backbone": "resnet101"}),
    "pyramid, ours": (models.Pyramid, bare, {"recipe": "pyramid", "backbone": "resnet101"}),
    "aligned": (models.AlignedReID, LAYOUTS["aligned"][1], {"recipe": "aligned"} | R50),
    "aligned++": (models.AlignedReIDPlusPlus, LAYOUTS["aligned++"][1], {"recipe": "aligned_pp"} | R50),
    "aligned++, ours": (models.AlignedReIDPlusPlus, bare, {"recipe": "aligned_pp"} | R50),
    "agw": (models.AGW, bare, {"recipe": "agw", "stem_relu": False, "stem_ceil": False} | R50),
    "sbs": (models.AGW, FAST_REID, {"recipe": "sbs", "stem_relu": True, "stem_ceil": True} | R50),
    "agw of fast-reid": (
        models.AGW, lambda state: {k: v for k, v in FAST_REID(state).items() if k != "heads.pool_layer.p"},
        {"recipe": "agw", "stem_relu": True, "stem_ceil": True} | R50,
    ),
    "sbs of resnet101": (
        partial(models.AGW, backbone="resnet101_ibn_a", non_local=(0, 2, 9, 0)), FAST_REID,
        {"recipe": "sbs", "backbone": "resnet101_ibn_a", "stem_relu": True, "stem_ceil": True,
         "options": {"non_local": (0, 2, 9, 0)}},
    ),
    "bot with gem": (
        partial(models.BagOfTricks, pooling="gem"), FAST_REID,
        {"recipe": "bot", "stem_relu": True, "stem_ceil": True, "pooling": "gem"} | R50,
    ),
    "mgn": (
        partial(models.MGN, backbone="resnet50_ibn_a", pooling="gem"), MGN_NAMES,
        {"recipe": "mgn", "backbone": "resnet50_ibn_a", "stem_ceil": True},
    ),
    "mgn, ours": (partial(models.MGN, pooling="gem"), bare, {"recipe": "mgn", "stem_ceil": True} | R50),
    "bot, se": (
        partial(models.BagOfTricks, backbone="se_resnet101"), bare, {"recipe": "bot", "backbone": "se_resnet101"}
    ),
    "transreid": (
        partial(models.TransReID, num_cameras=6), transreid_names,
        {"recipe": "transreid", "backbone": "vit_base_patch16_224"},
    ),
    "transreid, ours": (
        partial(models.TransReID, num_cameras=6), bare, {"recipe": "transreid", "backbone": "vit_base_patch16_224"}
    ),
    "transreid, other options": (
        partial(models.TransReID, stride=16, image_size=(384, 128)), transreid_names,
        {"recipe": "transreid", "backbone": "vit_base_patch16_224", "sie_weight": 0.0, "image_size": (384, 128),
         "options": {"stride": 16, "jpm": True}},
    ),
    "transreid baseline": (
        partial(models.TransReID, stride=16, jpm=False, backbone="deit_small_patch16_224"), bare,
        {"recipe": "transreid_baseline", "backbone": "deit_small_patch16_224"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", METHOD_FILES)
def test_recognise_methods(name):
    build, rename, expected = METHOD_FILES[name]
    with torch.device("meta"):
        state = rename(build(num_pids=7).state_dict())
    hints = recognising.recognise_tensors(state)
    assert hints == expected
    # The hints make a network that the file fits.
    fields = {key: value for key, value in hints.items() if key not in ("recipe", "options")}
    recipe = recipes.RECIPES[hints["recipe"]]
    recipe = recipe.with_(**fields, options=recipe.options | hints.get("options", {}))
    with torch.device("meta"):
        model = recipe.model(7, num_cameras=6)
    target = model.state_dict()
    match = importing.best_match(formats.completed(state, target), target, model.renames)
    lacking = [key for key in target if key not in match.loaded and not formats.CLASSIFIER.search(key)]
    assert lacking == []


@pytest.mark.parametrize("key", architectures.NETWORKS)
def test_torchreid_keys(key):
    """torchreid keeps trunks at the root. What has a recipe is recognised; nothing is taken for another network."""
    with torch.device("meta"):
        model = architectures.NETWORKS[key](num_pids=5, pretrained=False)
    target = model.state_dict()
    source = LAYOUTS["torchreid pcb"][1](target)
    match = importing.best_match(source, target, model.renames)
    assert match.loaded.keys() == target.keys() and not match.refused

    hints = recognising.recognise_tensors(source)
    if key in recipes.RECIPES:
        assert hints is not None and key in (hints["recipe"], hints.get("backbone"))
    elif hints is not None:
        assert key in hints.values() or key.startswith("pcb_p")


def test_every_recipe_that_recognise_names_exists():
    named = {recipe for recipe, _ in recognising.METHODS} | {"softmax"}
    named |= {f"{backbone}_fc512" for backbone in recognising.REDUCED}
    named |= {f"osnet_{kind}{width}" for kind in ("", "ain_") for width in recognising.OSNET_WIDTHS.values()}
    assert named | {"osnet_ibn_x1_0"} <= recipes.RECIPES.keys()
    assert set(recognising.WHOLE_NETWORKS) <= {recipe for recipe, _ in recognising.METHODS}
