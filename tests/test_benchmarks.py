"""The scripts of benchmarks/ that take hours on real data or a GPU, in a form of seconds."""

import csv
import functools
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import cli
from config import value_in
from networks import backbones

ROOT = Path(__file__).parents[1]


def script(name):
    spec = importlib.util.spec_from_file_location(f"tested_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def market(folder):
    """Four people to train on, two others to test, three images of each under two cameras; each in one colour."""
    for subset, pids in (("bounding_box_train", (1, 2, 3, 4)), ("query", (5, 6)), ("bounding_box_test", (5, 6))):
        (folder / subset).mkdir(parents=True)
        for pid in pids:
            for i in range(6):
                path = folder / subset / f"{pid:04d}_c{i % 2 + 1}s1_{i:06d}_{'00' if subset == 'query' else '01'}.jpg"
                Image.new("RGB", (32, 64), (40 * pid, 7 * i + len(subset), 250 - 40 * pid)).save(path)
    return folder


def test_gpu_in_its_small_form(tmp_path, capsys):
    gpu = script("gpu")
    words = ["correct", "speed", "--small", "--device", "cpu", "--output", str(tmp_path), "--commit", "1234567"]
    assert gpu.main(words) == 0, capsys.readouterr().out
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["correct"].keys() == gpu.RIGHT.keys() and found["speed"].keys() == gpu.SPEEDS.keys()
    with open(tmp_path / "results.csv", newline="") as file:
        assert [row["what"] for row in csv.DictReader(file)] == list(gpu.SPEEDS)
    before = capsys.readouterr().out
    gpu.RIGHT = {name: (None, bound) for name, (_, bound) in gpu.RIGHT.items()}  # calling one would be an error
    assert gpu.main(words[:1] + words[2:]) == 0
    assert set(capsys.readouterr().out.splitlines()) <= set(before.splitlines())
    found["correct"]["networks in float32"]["difference"] = 1.0
    (tmp_path / "gpu.json").write_text(json.dumps(found))
    assert gpu.main(words[:1] + words[2:]) == 1
    with pytest.raises(SystemExit, match="is of CPU.*give another --output"):
        gpu.main([*words[:-1], "7654321"])


def test_reproduce_runs_what_is_listed_and_writes_its_row_once(tmp_path, monkeypatch, capsys):
    reproduce = script("reproduce")
    each = reproduce.Experiment(
        "own", "a demonstration, short", ("--recipe", "demo", "--p", "2", "--k", "2", "--epochs", "1", "--steps", "2",
        "--image_size", "64", "32"), published="50.0 / 40.0", source="nobody",
    )  # fmt: skip
    monkeypatch.setattr(reproduce, "EXPERIMENTS", [each])
    torch.save(backbones.create("osnet_x0_25").state_dict(), tmp_path / "start.pth")
    words = ["--market_path", str(market(tmp_path / "market")), "--pretrained", str(tmp_path / "start.pth")]
    words += ["--output", str(tmp_path / "runs"), "--commit", "1234567"]
    for _ in range(2):
        assert reproduce.main(words) == 0, capsys.readouterr().out
    with open(tmp_path / "runs" / "results.csv", newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["data"], row["seed"], row["published"]) == ("market → market", "0", "50.0 / 40.0")
    assert row["command"].startswith("python main.py --mode train --market_path Market-1501 --pretrained start.pth")
    assert str(tmp_path) not in row["command"] and 0 <= float(row["mAP"]) <= 100
    assert capsys.readouterr().out.count("begins") == 1
    assert reproduce.main(words[:2]) == 2 and "--pretrained" in capsys.readouterr().err


def test_the_list_of_reproductions_is_a_list_of_commands(tmp_path):
    reproduce = script("reproduce")
    args = reproduce.arguments(["--market_path", "m", "--pretrained", "f.pt", "--output", str(tmp_path)])
    jobs = reproduce.jobs_of(reproduce.EXPERIMENTS, args)
    assert len({job.folder for job in jobs}) == len(jobs) == 18
    for job in jobs:
        given, row = cli.parse(job.command[1:])
        flags = cli.overrides(given)
        recipe = cli.customised(row, flags)
        changed = {name for name, value in flags.items() if value and value != value_in(row, name)}
        cli.check_needs(changed, functools.partial(value_in, recipe))
        assert not given.unread and recipe.image_size[0] >= 128
