"""The scripts of benchmarks/ that take hours on real data or a GPU, in a form of seconds."""

import argparse
import csv
import dataclasses
import functools
import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

import cli
from config import value_in
from machine import device
from machine.ranges import Number
from networks import backbones

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))  # last: it has files called as some of the suite's
SCRIPTS = ("evaluate", "gpu", "learn", "local_distance", "peers", "reproduce", "rerank", "train")


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


def check_command(words):
    """`words` of main.py are read whole and understood; the recipe that they make."""
    given, row = cli.parse(words)
    flags = cli.overrides(given)
    recipe = cli.customised(row, flags)
    changed = {name for name, value in flags.items() if value and value != value_in(row, name)}
    cli.check_needs(changed, functools.partial(value_in, recipe))
    assert not given.unread
    return recipe


class Parsers(list):
    """Those that a script makes, and what they are asked to read."""

    def __init__(self, monkeypatch):
        def parse_args(parser, argv=None):
            self.append(parser)
            return real(parser, argv)

        real = argparse.ArgumentParser.parse_args
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_mistake_in_a_flag_of_any_script_is_told_before_anything_runs(name, monkeypatch, capsys, tmp_path):
    """Each number out of its range, each path that cannot be, each name that is none: one line that names the flag."""
    parsers = Parsers(monkeypatch)
    module = script(name)
    needed = {"gpu": ["--device", "cpu"], "peers": ["--market_path", str(market(tmp_path / "market"))]}.get(name, [])
    module.arguments(needed)
    (tmp_path / "file").write_text("what,else\n1,2\n")
    wrong = {"market_path": "file", "pretrained": "none/of/it", "output": "file", "csv": "file", "torchreid": "file",
             "fastreid": "file", "cython": "file", "device": "abacus", "recipe": "bottt", "only": "bottt",
             "parts": "bottt", "tables": "bottt"}  # fmt: skip
    free = {"help", "commit", "list", "small", "more", "words", "draw", "child", "job", "folder"}
    monkeypatch.chdir(tmp_path)
    tried = 0
    for action in parsers[0]._actions:
        number, many = isinstance(action.type, Number), action.nargs if isinstance(action.nargs, int) else 1
        if action.dest in free or action.nargs == 0:
            continue
        value = "-1" if number else "bottt" if action.choices else wrong[action.dest]
        words = [*action.option_strings[:1], *[value] * many]
        with pytest.raises(SystemExit) as ended:  # reproduce and learn look at their names only when they begin
            (module.main if action.dest == "only" else module.arguments)(needed + words)
        said = capsys.readouterr().err
        assert ended.value.code == 2 and (action.option_strings or [action.metavar])[0] in said
        assert value in said.replace(str(tmp_path), ""), said
        tried += 1
    assert tried > 1


def test_paths_of_the_scripts_are_looked_at_first(tmp_path, monkeypatch):
    options = script("options")
    (tmp_path / "file").touch()
    for kind in (options.path, options.market, options.weights, options.folder, options.output, options.results):
        with pytest.raises(argparse.ArgumentTypeError):
            kind("")
    for text in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(argparse.ArgumentTypeError, match="file is a file, expected a folder"):
            options.output(str(text))
    assert options.output(str(tmp_path / "new" / "newer")) == tmp_path / "new" / "newer"
    monkeypatch.chdir(tmp_path)
    assert options.weights("file") == tmp_path / "file" and options.weights(".") == tmp_path
    with pytest.raises(argparse.ArgumentTypeError, match="is a folder"):
        options.results(".")
    assert options.path("x") == tmp_path / "x", "the trainings run in the repository's root"
    with monkeypatch.context() as torchrun:
        torchrun.setenv("LOCAL_RANK", "1")
        assert options.device("abacus") == "abacus", "no device is touched before the processes have met"
    assert options.results(str(tmp_path / "file")) and options.results(str(tmp_path / "new.csv"))  # nothing in it yet


def test_a_run_that_fails_says_why_and_a_flag_that_none_takes_ends_the_list(tmp_path, capsys):
    jobs = script("jobs")
    write = "import sys; print('begun'); print('error: no such flag', file=sys.stderr); sys.exit({})"

    def listed(name, code):
        return [jobs.Job(jobs.Experiment(name, f"{i}", ()), i, tmp_path / f"{name}{i}", ["-c", write.format(code)])
                for i in range(2)]  # fmt: skip

    assert not jobs.run_all(listed("data", 1), 1) and not jobs.run_all(listed("flags", 2), 1)
    said = capsys.readouterr().out
    assert said.count("begins    data") == 2 and said.count("begins    flags") == 1
    assert [said.count(f"exit status {code}: error: no such flag") for code in (1, 2)] == [2, 1]
    assert str(tmp_path / "flags0.txt") in said
    (tmp_path / "log").write_text("one\n\n  two \n")
    assert jobs.last_words(tmp_path / "log") == "two"


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
    with pytest.raises(SystemExit, match="is of .* commit 1234567, this is .*give another --output"):
        gpu.main([*words[:-1], "7654321"])


def test_reproduce_runs_what_is_listed_and_writes_its_row_once(tmp_path, monkeypatch, capsys):
    reproduce = script("reproduce")
    each = reproduce.Experiment(
        "own", "a demonstration, short", ("--recipe", "demo", "--p", "2", "--k", "2", "--epochs", "1", "--steps", "2",
        "--image_size", "64", "32"), seeds=(0, 1), published="50.0 / 40.0", source="nobody",
    )  # fmt: skip
    monkeypatch.setattr(reproduce, "experiments", lambda short, image_size: [each])
    torch.save(backbones.create("osnet_x0_25").state_dict(), tmp_path / "start.pth")
    words = ["--market_path", str(market(tmp_path / "market")), "--pretrained", str(tmp_path / "start.pth")]
    words += ["--output", str(tmp_path / "runs"), "--commit", "1234567"]
    for _ in range(2):
        assert reproduce.main(words) == 0, capsys.readouterr().out
    with open(tmp_path / "runs" / "results.csv", newline="") as file:
        row, other = csv.DictReader(file)
    assert (row["data"], row["seed"], row["published"]) == ("market → market", "0", "50.0 / 40.0")
    assert other["seed"] == "1" and "±" in (tmp_path / "runs" / "report_own" / "table.md").read_text()
    assert row["command"].startswith("python main.py --mode train --market_path Market-1501 --pretrained start.pth")
    assert str(tmp_path) not in row["command"] and 0 <= float(row["mAP"]) <= 100
    assert capsys.readouterr().out.count("begins") == 2
    of = f"{device.describe(torch.device('cpu'))}, torch {torch.__version__.partition('+')[0]}, "
    assert re.fullmatch(re.escape(of) + r"\d+ threads?", row["hardware"])
    assert reproduce.main(words[:2]) == 2 and "--pretrained" in capsys.readouterr().err


def test_a_row_names_the_machines_that_trained_it_and_not_the_one_that_writes_it(tmp_path):
    """As run.json holds them, and the commits; a test of the finished run elsewhere is none of them."""
    jobs = script("jobs")
    job = jobs.Job(jobs.Experiment("own", "it", ()), 0, tmp_path, [])
    commands = [("train", "A GPU", 4, "1a"), ("train", "A GPU", 4, "1a"), ("train", "2 cores of B", 1, "2b"),
                ("train", "2 cores of B", 1, ""), ("test", "C", 1, "3c")]  # fmt: skip
    versions = {"torch": "2.14.1+cu130"}
    started = [
        {"command": f"main.py --mode {mode}", "device": name, "threads": count, "commit": commit, "versions": versions}
        for mode, name, count, commit in commands
    ]
    (tmp_path / "run.json").write_text(json.dumps({"started": started}))
    assert job.each("hardware") == ["A GPU, torch 2.14.1, 4 threads", "2 cores of B, torch 2.14.1, 1 thread"]
    assert job.each("commit") == ["1a", "2b"]


@pytest.mark.parametrize("short, size", ((0, (96, 48)), (1, (96, 48)), (3, (96, 48)), (1, (192, 64))))
def test_the_list_of_reproductions_is_a_list_of_commands(tmp_path, short, size):
    reproduce = script("reproduce")
    args = reproduce.arguments(["--output", str(tmp_path)])
    args.market_path, args.pretrained = Path("m"), Path("f.pt")
    jobs = reproduce.jobs_of(reproduce.experiments(short, size), args)
    assert len({job.folder for job in jobs}) == len(jobs) == 18
    for job in jobs:
        recipe, group = check_command(job.command[1:]), job.experiment.group
        own = short and group != "published"
        assert recipe.image_size == size if own else recipe.image_size[0] >= 128
        epochs = {"tricks": 20 * short, "methods": 18 * short} if own else {"published": 90}
        assert recipe.epochs == epochs.get(group, 60)


def test_the_size_of_the_short_form_is_not_taken_for_that_of_the_long_one(capsys):
    with pytest.raises(SystemExit, match="2"):
        script("reproduce").arguments(["--image_size", "192", "64"])
    assert "expected --short" in capsys.readouterr().err


@pytest.mark.parametrize("short", (0, 1, 3))
def test_every_step_of_the_lists_has_its_baseline_before_it(short):
    listed = script("reproduce").experiments(short)
    for number, each in enumerate(listed):
        assert not each.baseline or each.baseline in {e.what for e in listed[:number] if e.group == each.group}
    printed = [each.theirs for each in listed if each.group == "tricks"]
    assert printed[:3] == [("", ""), ("", "87.7 / 74.0"), ("87.7 / 74.0", "88.7 / 75.2")] and len(printed) == 8
    assert all(theirs[0] == before[1] for before, theirs in itertools.pairwise(printed)), "each goes on from the last"


def steps_and_rows():
    """A list of three experiments, two of which are measured, the second twice."""
    gains, jobs = script("gains"), script("jobs")
    names = ("on a <net>, 3 epochs: bare", "on a <net>, 3 epochs: + one", "on a <net>, 3 epochs: + two")
    printed = (("", ""), ("70.0 / 50.0", "71.0 / 54.5"), ("71.0 / 54.5", "72.0 / 54.0"))
    bases = ("", *names[:2])
    listed = [
        jobs.Experiment("own", name, (), (1, 2), baseline=base, theirs=theirs)
        for name, base, theirs in zip(names, bases, printed, strict=True)
    ]
    measured = [(0, "1", 60, 40), (1, "1", 9, 9), (1, "1", 59, 43), (1, "2", 99, 99), (0, "2", 1, 1)]
    rows = [
        {"what": names[number], "seed": seed, "rank1": str(rank1), "mAP": str(mean)}
        for number, seed, rank1, mean in measured
    ]
    return gains, listed, rows


def test_what_a_step_gives_is_its_last_row_less_that_of_its_baseline_with_the_same_seed():
    gains, listed, rows = steps_and_rows()
    assert gains.parts(listed) == ("on a <net>, 3 epochs", ["bare", "+ one", "+ two"])
    bare, one = gains.found(listed, rows)
    assert (bare.over, bare.measured, bare.gained, bare.theirs) == ("", (60, 40), None, None)
    assert (one.measured, one.gained, one.printed, one.theirs) == ((59, 43), (-1, 3), (71, 54.5), (1, 4.5))
    [alone] = gains.found(listed[1:], rows)
    assert alone.gained == (-1, 3), "a baseline need not be in the list that is asked for"
    assert gains.found(listed, []) == []
    assert gains.cells([one]) == [("+ one", "bare", "59.0 / 43.0", "-1.0 / +3.0", "71.0 / 54.5", "+1.0 / +4.5")]
    assert "-1.0 / +3.0" in gains.text([bare, one])


def test_bars_are_as_long_as_what_they_stand_for_and_start_from_zero():
    gains, listed, rows = steps_and_rows()
    rows.append({"what": listed[2].what, "seed": "1", "rank1": "58", "mAP": "41"})
    drawn = ElementTree.fromstring(gains.picture(gains.found(listed, rows), "<net> & more"))
    bars = [
        (each.get("class"), int(each.get("x")), int(each.get("width")))
        for each in drawn.iter("{http://www.w3.org/2000/svg}rect")
        if each.get("height") == str(gains.BAR)
    ]
    zero = int(re.search(r"M(\d+) ", drawn.find("{http://www.w3.org/2000/svg}path").get("d"))[1])
    values = [3.0, 4.5, -2.0, -0.5]  # here and elsewhere, of two steps
    assert [kind for kind, _, _ in bars] == ["here", "there"] * 2
    for (_, left, width), value in zip(bars, values, strict=True):
        assert width == pytest.approx(abs(value) * bars[1][2] / 4.5, abs=1)
        assert left + (width if value < 0 else 0) == zero
        assert 0 <= left and left + width <= gains.WIDTH - gains.NUMBER
    long = gains.Gain("+ two", "what is called by so many words that it needs room", (1, 1), (1, 2), None, None)
    drawn_long = ElementTree.fromstring(gains.picture([long], "long"))
    printed = "printed for ResNet-50"
    own = [dataclasses.replace(gain, theirs=None) for gain in gains.found(listed, rows)]
    assert printed in gains.picture(gains.found(listed, rows), "some") and printed not in gains.picture(own, "none")
    said = [each for each in drawn_long.iter("{http://www.w3.org/2000/svg}text") if "name" in each.get("class", "")]
    assert len(said) == 2 and all(int(each.get("x")) >= 6.5 * len(each.text) for each in said), "cut off on the left"
    words = [each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert words[0] == "<net> & more: points of mAP that each step adds"
    assert words[3:] == ["+ one", "over bare", "+3.0", "+4.5", "+ two", "-2.0", "-0.5"]


def test_the_list_of_methods_is_a_list_of_commands(tmp_path):
    """A start is measured, and its network drawn, with the flags of the training."""
    learn = script("learn")
    lines = [learn.learned(each, tmp_path) for each in learn.METHODS]
    assert len({job.folder for each in lines for job in each.jobs}) == 2 * len(lines)
    rows = set()
    for each in lines:
        recipe = check_command(each.end.command[1:])
        drawn = each.drawn.command
        assert check_command(drawn[drawn.index("--") + 1 :]) == recipe
        cli.parse(each.start.command[1:])
        flags = list(each.end.experiment.flags)
        assert each.start.command[3 : 3 + len(flags)] == each.end.command[3 : 3 + len(flags)] == flags
        assert each.method.gain >= 3 and recipe.pretrained == "none"
        rows.add(recipe.name)
    transformers = {"clip_reid", "solider_swin_tiny", "transreid_ssl_vit_small_ics"}
    assert rows == {"cal", "caj", "clip_reid_rn50", "light_mbn"} | transformers


def test_learn_measures_the_network_that_the_training_starts_from(tmp_path, monkeypatch, capsys):
    """A training whose rate is next to nothing ends with the weights that were drawn for the start."""
    learn = script("learn")
    words = f"--recipe demo --p 2 --k 2 --epochs 1 --steps 1 --image_size 64 32 --market_path {market(tmp_path / 'm')}"
    monkeypatch.setattr(learn, "METHODS", (learn.Method("nothing", f"{words} --lr 1e-12", gain=-100.0),))
    output = ["--output", str(tmp_path / "runs"), "--commit", "1234567"]
    status = learn.main(output)
    said = capsys.readouterr().out
    (line,) = (learn.learned(each, tmp_path / "runs") for each in learn.METHODS)
    assert line.done and status == (0 if line.beats() else 1), said
    start = torch.load(line.drawn.folder / "start.pth", weights_only=True)
    end = torch.load(line.end.folder / "model.pt", weights_only=True)["model"]
    learned = [name for name in start if "running" not in name and "num_batches" not in name]
    assert len(learned) > 100
    assert all(torch.allclose(start[name], end[name], atol=1e-9) for name in learned)
    with open(tmp_path / "runs" / "results.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert re.fullmatch(r"nothing \([\d.]+ / [\d.]+ before\)", row["what"]) and row["git"]

    def tells(at, rank1, mAP):
        at.write_text(
            json.dumps({"market": {"rank1": rank1, "mAP": mAP, "mINP": 0, "measured": {"commit": "", "torch": ""}}})
        )

    for (rank1, mAP), status in {(0.5, 0.44): 0, (0.5, 0.42): 1, (0.4, 0.6): 1}.items():
        tells(line.start.folder / line.start.result, 0.5, 0.4)
        tells(line.end.folder / line.end.result, rank1, mAP)
        monkeypatch.setattr(learn, "METHODS", (learn.Method("nothing", f"{words} --lr 1e-12"),))
        assert learn.main(output) == status
        assert ("NOT beaten" in capsys.readouterr().out) == bool(status)


TORCHREID = """
import os, types, torch
def images(n):
    return {"img": torch.rand(n, 3, 64, 32), "pid": torch.arange(n) % 4}
def manager(root, sources, batch_size_train, batch_size_test, **options):
    assert os.path.isdir(os.path.join(root, sources, "Market-1501-v15.09.15", "query"))
    tests = {sources: {"query": [images(batch_size_test)]}}
    return types.SimpleNamespace(num_train_pids=4, train_loader=[images(batch_size_train)], test_loader=tests)
class Engine:
    def __init__(self, data, model, optimizer, use_gpu):
        self.train_loader, self.model, self.steps = data.train_loader, model, 0
    def forward_backward(self, batch):
        self.steps += len(self.model(batch["img"])) > 0
def network(name, num_classes, **options):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 32, num_classes))
data = types.SimpleNamespace(ImageDataManager=manager)
models = types.SimpleNamespace(build_model=network)
optim = types.SimpleNamespace(build_optimizer=lambda model, optim, lr: None)
engine = types.SimpleNamespace(ImageSoftmaxEngine=Engine)
metrics = types.SimpleNamespace(compute_distance_matrix=lambda x, y, metric: torch.cdist(x, y))
metrics.evaluate_rank = lambda *labels, **options: 0
utils = types.SimpleNamespace(re_ranking=lambda q_g, q_q, g_g: q_g)
"""


@pytest.mark.parametrize("network", ("osnet_x0_25", "resnet50"))
def test_peers_take_turns_at_the_same_work(tmp_path, monkeypatch, capsys, network):
    """Ours and a faked torchreid in this process; the empty folder of another in one of its own, which says what it
    lacks and is left out."""
    peers, real = script("peers"), None
    (tmp_path / "torchreid").mkdir()
    (tmp_path / "torchreid" / "__init__.py").write_text(TORCHREID)
    asked = []

    class Here:
        def __init__(self, name, argv, folder):
            self.name, self.args = name, peers.arguments([*argv, "--folder", str(folder)])
            self.suite = None if name == "fastreid" else peers.SUITES[name](self.args)
            self.process = real(name, argv, folder) if name == "fastreid" else None

        def does(self, work, amount):
            asked.append((self.name, work, amount))
            return self.process.does(work, amount) if self.process else getattr(self.suite, work)(amount) / 2.0

        def end(self):
            if self.process:
                self.process.end()

    real = peers.Child
    monkeypatch.setattr(peers, "Child", Here)
    words = ["--market_path", str(market(tmp_path / "market")), "--torchreid", str(tmp_path), "--fastreid"]
    (tmp_path / "empty").mkdir()
    words += [str(tmp_path / "empty"), "--turns", "2", "--steps", "2", "--images", "2", "--size", "30", "60"]
    words += ["--network", network]
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert peers.main([*words, "--image_size", "64", "32", "--batch_size", "4", "--workers", "0"]) == 1
    lines = capsys.readouterr().out.splitlines()
    for work in peers.WORK:
        assert any(
            re.match(rf"{work} +fastreid +cannot: ModuleNotFoundError: No module named 'fastreid'", x) for x in lines
        )
    told = {tuple(line.split()[:2]): float(line.split()[2]) for line in lines if "cannot" not in line}
    assert told["train", "ours"] == told["train", "bare"] == told["train", "torchreid"] == 4.0
    assert told["extract", "ours"] == 1.0 and told["rerank", "torchreid"] == 15.0
    assert sum("ours 1.00 times as fast (turns: 1.00 1.00)" in line for line in lines) == 4  # bare, and three of theirs
    assert [each[0] for each in asked if each[1] == "evaluate"] == ["ours", "torchreid", "fastreid"] + 2 * [
        "ours",
        "torchreid",
    ]
