"""Checkpoints of our own: written in one step, read back whole, and their place in a network."""

import errno
import os
import resource
import signal
import sys
from collections import Counter, OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from nets import Net, assert_equal_states, loaded, own_checkpoint
from torch import nn

import checkpoints
import recipes
from machine import version
from weights import importing, reading, recognising

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


# ============ opened once ============

OPENED: list[str] = []
sys.addaudithook(lambda event, arguments: OPENED.append(str(arguments[0])) if event == "open" else None)


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
    assert (found.epoch, found.trained_on) == ((3, "own") if kind == "ours" else (None, path.name))
    size = "64x32, as in its training" if kind == "ours" else "256x128, the recipe's, for the file does not say which"
    assert f"{path}: images of {size}" in found.said
    assert "images of 160x64, as --image_size says" in loaded(path, "--image_size", "160", "64").said
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


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        *(({name: None}, f"no {name}") for name in ("recipe", "overrides", "num_pids", "trained_on", "seed", "epoch")),
        ({"model": None}, "no model"),
        ({"model": {}}, "no model"),
        ({"model": {"base.conv1.weight": 3}}, "no model"),
        ({"recipe": 7}, "recipe of type int"),
        ({"recipe": "of_the_future"}, "of_the_future"),
        ({"overrides": [1]}, "overrides of type list"),
        ({"overrides": {3: 1}}, "overrides that holds"),
        ({"overrides": {"distilled": 3}}, "distilled"),
        ({"overrides": {"image_size": "large"}}, "image_size"),
        ({"overrides": {"fc_dims": [[512]]}}, "fc_dims"),
        ({"num_pids": "many"}, "num_pids of type str"),
        ({"num_pids": -1}, "num_pids"),
        ({"trained_on": [1]}, "trained_on that holds"),
        ({"trained_on": "own"}, "trained_on of type str"),
        ({"epoch": "last"}, "epoch of type str"),
        ({"cameras": [1]}, "cameras of type list"),
        ({"cameras": {"own": 3}}, "cameras that holds"),
        ({"version": "99.0"}, r"written by version 99\.0.*update"),
        ({"version": 3}, "its version is 3"),
        ({"version": "new"}, "its version is 'new'"),
        ({"format": "reid-suite-2"}, r"format reid-suite-2.*update"),
    ],
)
def test_a_checkpoint_of_ours_that_lacks_or_has_something_unknown(tmp_path, changed, words):
    own_checkpoint(tmp_path / "w.pt", **changed)
    with pytest.raises(ValueError, match=rf"w\.pt.*{words}") as error:
        loaded(tmp_path / "w.pt")
    assert "\n" not in str(error.value)


def test_a_checkpoint_with_a_field_more_is_read(tmp_path):
    own_checkpoint(tmp_path / "w.pt", mood="good", validation_ids=3)
    assert loaded(tmp_path / "w.pt").epoch == 3


def test_a_damaged_checkpoint_of_ours_as_weights_says_so(tmp_path):
    own_checkpoint(tmp_path / "w.pt")
    good = (tmp_path / "w.pt").read_bytes()
    for position in range(100, len(good), len(good) // 40):  # one bit, anywhere
        (tmp_path / "w.pt").write_bytes(good[:position] + bytes([good[position] ^ 8]) + good[position + 1 :])
        try:
            found = loaded(tmp_path / "w.pt")
        except ValueError as error:
            assert "w.pt" in str(error) and "damaged" in str(error) and "\n" not in str(error)
        else:  # a bit between the entries of the archive
            (tmp_path / "w.pt").write_bytes(good)
            assert_equal_states(found.model, loaded(tmp_path / "w.pt").model)
    for length in (10, len(good) // 2, len(good) - 1):
        (tmp_path / "w.pt").write_bytes(good[:length])
        with pytest.raises(ValueError, match=r"w\.pt.*damaged"):
            loaded(tmp_path / "w.pt")


def test_a_network_that_would_stay_half_drawn_is_refused_with_what_is_missing(tmp_path):
    state = recipes.RECIPES["osnet_x0_25"].model(5).state_dict()
    del state["fc.1.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"w\.pth does not fit .*nothing to measure: fc\.1\.weight \(512,\) of this network is missing"
    ):
        loaded(tmp_path / "w.pth", "--recipe", "osnet_x0_25")


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


def test_the_one_whole_checkpoint_stays_until_another_is_written(tmp_path, monkeypatch):
    """A damaged last.pt does not take the place of the previous.pt that was gone on from."""
    state = dict.fromkeys(checkpoints.EVERYTHING, 0) | {"version": checkpoints.VERSION}
    folder = checkpoints.Folder(tmp_path, {})
    for epoch in (1, 2):
        folder.keep(state | {"epoch": epoch})
    (tmp_path / "last.pt").write_bytes(b"PK")
    folder = checkpoints.Folder(tmp_path, {})
    assert folder.earlier()[0]["epoch"] == 1
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", lambda *_: pytest.fail("killed", pytrace=False))
        with pytest.raises(pytest.fail.Exception):
            folder.keep(state | {"epoch": 2})
    assert checkpoints.Folder(tmp_path, {}).earlier()[0]["epoch"] == 1
    for epoch in (2, 3):
        folder.keep(state | {"epoch": epoch})
    assert [checkpoints.load(tmp_path / name)["epoch"] for name in ("last.pt", "previous.pt")] == [3, 2]


def test_a_previous_checkpoint_that_cannot_be_written_is_named(tmp_path):
    folder = checkpoints.Folder(tmp_path, {})
    folder.keep({"epoch": 1})
    (tmp_path / "previous.pt").mkdir()
    with pytest.raises(RuntimeError, match=r"could not write .*previous\.pt: Is a directory.*remove it"):
        folder.keep({"epoch": 2})
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "previous.pt"]
