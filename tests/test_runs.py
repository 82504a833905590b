"""A run folder belongs to one experiment, and a file of results to one test: trials of the whole program."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

import checkpoints
import main
import test_smoke
import train
from machine import lock
from recipes import RECIPES
from weights import reading

DEMO = main.RECIPES["demo"]
TINY = ("--recipe", "demo", "--epochs", "2", "--steps", "3", "--p", "4", "--k", "2", "--image_size", "64", "32")
TINY += ("--warmup_epochs", "0", "--num_queries", "0", "--amp", "none", "--pretrained", "none", "--threads", "1")


def run(*words: str | Path) -> int:
    return main.main([str(word) for word in words])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return test_smoke.small_set(tmp_path_factory.mktemp("runs"), num_train_pids=8, num_test_pids=6)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert run("--market_path", data, "--output_path", folder, *TINY) == 0
    return folder


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def mine(data, tmp_path) -> Path:
    """A copy of the data that may be changed."""
    return Path(shutil.copytree(data, tmp_path / "data"))


def results(path: Path) -> dict:
    return json.loads(path.read_text())["market"]


def weights(folder: Path) -> dict:
    return checkpoints.load(folder / "model.pt")["model"]


def images(data: Path, subset: str) -> list[Path]:
    return sorted((data / subset).glob("*.jpg"))


# ---------------------------------------------------------------------------------------------------------------------
# What decides the weights
# ---------------------------------------------------------------------------------------------------------------------


def lose(data: Path) -> tuple:
    images(data, "bounding_box_train")[0].unlink()
    return ()


def relabel(data: Path) -> tuple:
    image = images(data, "bounding_box_train")[0]
    camera = "_c2" if "_c1" in image.name else "_c1"
    image.rename(image.with_name(re.sub(r"_c\d", camera, image.name)))
    return ()


def enlarge(data: Path) -> tuple:
    image = images(data, "bounding_box_train")[0]
    image.write_bytes(image.read_bytes() + b"\0")
    return ()


OTHERS = {
    "an image less": (lose, "market was .* images .*, now"),
    "another label": (relabel, "market was"),
    "another file": (enlarge, "market was"),
    "another rate": (lambda data: ("--lr", "0.0123"), f"lr was {DEMO.lr}, now 0.0123"),
    "another seed": (lambda data: ("--seed", "5"), "seed was 0, now 5"),
    "people held out": (lambda data: ("--validation_ids", "2"), "validation_ids was 0, now 2"),
    "all images": (lambda data: ("--use_all_images",), "use_all_images was False, now True"),
    "smaller parts": (lambda data: ("--accumulate", "2"), "accumulate was 1, now 2"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_decides_the_weights_and_differs_is_refused_and_listed(name, folder, mine, capfd):
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    change, words = OTHERS[name]
    flags = change(mine)
    assert run("--market_path", mine, "--output_path", folder, *TINY, *flags) == 1
    told = capfd.readouterr()
    assert re.search(words, told.err), told.err
    assert "Training images" not in told.out  # nothing was decoded yet
    assert {path: path.read_bytes() for path in before} == before


def test_a_data_set_that_was_moved_is_the_same_and_so_is_a_default_that_is_written_out(folder, mine):
    assert run("--market_path", mine, "--output_path", folder, *TINY, "--lr", DEMO.lr) == 0


def test_a_row_that_was_changed_is_another_run(folder, data, monkeypatch, capfd):
    monkeypatch.setitem(main.RECIPES, "demo", DEMO.with_(weight_decay=0.123))
    assert run("--market_path", data, "--output_path", folder, *TINY) == 1
    assert f"weight_decay was {DEMO.weight_decay}, now 0.123" in capfd.readouterr().err


def test_another_version_of_the_suite_is_another_run(folder, data, monkeypatch, capfd):
    monkeypatch.setattr(checkpoints, "VERSION", "9.9.9")
    assert run("--market_path", data, "--output_path", folder, *TINY) == 1
    assert "now 9.9.9" in capfd.readouterr().err


def test_a_run_of_another_recipe_or_of_a_version_that_kept_less_is_named_in_one_line(folder, data, capfd):
    assert run("--market_path", data, "--output_path", folder, *TINY, "--recipe", "bot", "--backbone", "resnet18") == 1
    told = capfd.readouterr().err.strip()
    assert "recipe was demo, now bot" in told and "resnet18" in told and "\n" not in told
    state = checkpoints.load(folder / "last.pt")
    for name in ("last.pt", "previous.pt"):
        checkpoints.save(folder / name, {key: value for key, value in state.items() if key not in ("settings", "data")})
    assert run("--market_path", data, "--output_path", folder, *TINY) == 1
    assert "settings was not recorded" in capfd.readouterr().err


def test_other_weights_to_start_from_are_another_run(data, tmp_path, finished, capfd):
    start, out = tmp_path / "start.pt", tmp_path / "out"
    flags = ("--market_path", data, "--output_path", out, *TINY, "--pretrained", start)
    shutil.copy(finished / "model.pt", start)
    assert run(*flags) == 0
    state = checkpoints.load(start)
    state["model"] = {
        name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in state["model"].items()
    }
    checkpoints.save(start, state)
    assert run(*flags) == 1 and "pretrained was a file of SHA-256" in capfd.readouterr().err


def test_a_training_normalises_images_as_the_file_it_starts_from_was_trained(data, finished, tmp_path, capfd):
    """A checkpoint of ours trained with other statistics, alone in a folder, as of an unpacked package."""
    state = checkpoints.load(finished / "model.pt")
    half = [0.5, 0.5, 0.5]
    (tmp_path / "package").mkdir()
    checkpoints.save(tmp_path / "package" / "start.pt", state | {"settings": state["settings"] | {"mean": half}})
    flags = ("--market_path", data, *TINY, "--epochs", "1", "--pretrained", tmp_path / "package")
    assert run(*flags, "--output_path", tmp_path / "file") == 0
    assert "images are normalised with mean 0.5 0.5 0.5, std 0.229 0.224 0.225" in capfd.readouterr().out
    assert run(*flags, "--output_path", tmp_path / "flag", "--mean", "0.4", "0.4", "0.4") == 0
    used = [checkpoints.load(tmp_path / name / "model.pt")["overrides"]["mean"] for name in ("file", "flag")]
    assert used == [half, [0.4, 0.4, 0.4]]


def test_a_row_that_starts_from_its_authors_file_asks_for_it_and_keeps_its_normalisation(tmp_path, capsys):
    """TransReID-SSL fine-tunes with 0.5 what DINO pre-trained with ImageNet's statistics."""
    shapes = {"cls_token": (1, 1, 384), "pos_embed": (1, 129, 384)}
    shapes |= {f"blocks.{i}.norm1.weight": (384,) for i in range(12)}
    teacher = {f"backbone.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    torch.save({"teacher": teacher | {"head.mlp.0.weight": torch.zeros(2, 384)}}, tmp_path / "w.pth")
    recipe, given = RECIPES["transreid_ssl_vit_small"], {"pretrained": str(tmp_path / "w.pth")}
    with pytest.raises(FileNotFoundError, match=r"authors' file vit_small_cfs_lup\.pth .*--pretrained FILE"):
        main.as_trained(recipe, {})
    assert main.as_trained(recipe.with_(**given), given) == {} and not capsys.readouterr().out
    other = main.as_trained(RECIPES["transreid_baseline"].with_(**given), given)
    assert other == {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    assert "images are normalised with mean 0.485" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------------
# What decides a result
# ---------------------------------------------------------------------------------------------------------------------

TESTS = (
    ("--rerank", "--rerank_k1", "4", "--rerank_k2", "2"),
    ("--flip_test",),
    ("--protocol", "none"),
    ("--metric", "cosine"),
    ("--details",),
    ("--query_expansion", "2", "1"),
    ("--max_rank", "12"),
)


@pytest.mark.parametrize("flags", TESTS, ids=lambda flags: flags[0][2:])
def test_a_finished_run_answers_the_test_that_is_asked(flags, folder, data, tmp_path):
    """With the numbers that a test of its weights has, and its weights as they were."""
    before, kept = results(folder / "metrics.json"), weights(folder)
    assert run("--market_path", data, "--output_path", folder, *TINY, *flags) == 0
    now = results(folder / "metrics.json")
    assert run("--mode", "test", "--market_path", data, "--weights", folder / "model.pt",
               "--output_path", tmp_path / "t", "--threads", "1", *flags) == 0  # fmt: skip
    fresh = results(tmp_path / "t" / "metrics_model.json")
    same = {key: value for key, value in fresh.items() if key not in ("measured", "images_per_second")}
    assert {key: now[key] for key in same} == same
    assert before["measured"] != now["measured"]
    after = weights(folder)
    assert all(torch.equal(value, after[name]) for name, value in kept.items())


def test_another_gallery_is_measured_anew(folder, mine):
    before = results(folder / "metrics.json")
    images(mine, "bounding_box_test")[-1].unlink()
    assert run("--market_path", mine, "--output_path", folder, *TINY) == 0
    now = results(folder / "metrics.json")
    assert now["num_gallery"] == before["num_gallery"] - 1
    assert now["measured"]["data"] != before["measured"]["data"]


def test_a_finished_run_can_be_lengthened(folder, data, capfd):
    assert run("--market_path", data, "--output_path", folder, *TINY, "--epochs", "3") == 0
    assert len((folder / "log.jsonl").read_text().splitlines()) == 3
    told, measured = capfd.readouterr().out, results(folder / "metrics.json")["measured"]
    assert ("made for 2" in told) == (measured.get("lengthened") == [2])


def test_lengthening_says_what_it_means_for_the_rates(data, tmp_path, capfd):
    words = (
        "--market_path",
        data,
        "--output_path",
        tmp_path,
        *TINY,
        "--schedule",
        "multistep",
        "--milestones",
        "3",
        "--lr",
        "3.5e-4",
    )
    assert run(*words) == 0 == run(*words, "--epochs", "4")
    told = capfd.readouterr().out
    assert (
        "epochs instead of 2: the rates so far are the same, epochs 3 to 4 begin with lr 3.50e-04 and end with 3.50e-05"
        in told
    )
    assert "made for" not in told


def test_a_checkpoint_of_public_code_is_gone_on_with_after_its_epochs(finished, data, tmp_path, capfd):
    """As torchreid keeps it: `epoch` counts those that are done. The rate is that of the epoch."""
    file, out = tmp_path / "model.pth.tar-9", tmp_path / "out"
    torch.save({"state_dict": weights(finished), "epoch": 2, "rank1": 0.5, "optimizer": {"state": {}}}, file)
    words = (
        "--market_path",
        data,
        "--output_path",
        out,
        *TINY,
        "--schedule",
        "multistep",
        "--milestones",
        "3",
        "--lr",
        "3.5e-4",
    )
    assert run(*words, "--resume", file) == 1
    assert "has 2 epochs behind it, and --epochs 2 are no more" in capfd.readouterr().err and not out.exists()
    words = (*words, "--epochs", "4", "--lr", "1e-12", "--resume")
    assert run(*words, file) == 0
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["lr"]) for line in log] == [(3, 1e-12), (4, pytest.approx(1e-13))]
    state, start = checkpoints.load(out / "model.pt"), weights(finished)
    moved = [
        (state["model"][name] - start[name]).abs().max()
        for name in start
        if "running" not in name and "num_" not in name
    ]
    assert state["epoch"] == 4 and max(moved) < 1e-6
    assert "Starting after epoch 2 of 4" in capfd.readouterr().out and (out / "model_4.pt").exists()
    assert run(*words, file) == 0 and "Training images" not in capfd.readouterr().out  # it is done
    torch.save({"state_dict": start}, tmp_path / "plain.pth")
    assert run(*words, tmp_path / "plain.pth") == 1 and "does not say how many epochs" in capfd.readouterr().err


@pytest.mark.parametrize(("name", "keys", "epochs"), [
    ("model.pth.tar-60", {"state_dict": {}, "epoch": 60}, 60),  # torchreid
    ("model_0059.pth", {"model": {}, "epoch": 59}, 60),  # fast-reid
    ("ckpt.pth", {"state_dicts": [], "ep": 300, "scores": 0.0}, 300),  # AlignedReID
    ("resnet50_model_120.pth", {"conv1.weight": 0}, 120),  # reid-strong-baseline
    ("net_last.pth", {"epoch": torch.ones(1)}, None),
    ("osnet_x1_0_market.pth", {}, None),
    ("model.pt", {"format": "reid-suite-1", "model": {}, "epoch": 7}, 7),
])  # fmt: skip
def test_how_many_epochs_a_checkpoint_has_behind_it(name, keys, epochs):
    assert reading.epochs_behind(Path(name), keys) == epochs


def test_two_tests_never_write_one_file(folder, data, tmp_path):
    trained = (folder / "metrics.json").read_bytes()
    other = tmp_path / "other" / "model.pt"
    other.parent.mkdir()
    state = checkpoints.load(folder / "model.pt")
    state["model"] = {
        name: tensor * 0.5 if tensor.is_floating_point() else tensor for name, tensor in state["model"].items()
    }
    checkpoints.save(other, state)
    shutil.copy(other, tmp_path / "model.pth.tar-150")
    test = ("--mode", "test", "--market_path", data, "--output_path", folder, "--threads", "1")
    for flags in ((), ("--weights", other), ("--weights", tmp_path / "model.pth.tar-150"), ("--flip_test",)):
        assert run(*test, *flags) == 0
    found = sorted(path.name for path in folder.glob("metrics*.json"))
    assert {"metrics.json", "metrics_model.json", "metrics_model.pth.tar-150.json"} < set(found) and len(found) == 5
    assert (folder / "metrics.json").read_bytes() == trained
    assert run(*test, "--flip_test") == 0  # the same test is the same file
    assert sorted(path.name for path in folder.glob("metrics*.json")) == found
    measured = [results(path)["measured"] for path in folder.glob("metrics_*.json")]
    assert len({(each["weights_sha256"], each["options"]["flip"], each["weights"]) for each in measured}) == 4


def test_a_test_under_another_recipe_is_refused(folder, data, capfd):
    test = ("--mode", "test", "--market_path", data, "--output_path", folder, "--threads", "1")
    assert run(*test, "--recipe", "pcb") == 1
    assert "is of recipe demo, not of --recipe pcb" in capfd.readouterr().err
    assert run(*test, "--weights", folder / "model.pt", "--resume_test_epoch", "1") == 1
    assert "name two weight files" in capfd.readouterr().err
    assert not list(folder.glob("metrics_*.json"))


def test_any_exception_is_one_line(folder, data, monkeypatch, capfd):
    monkeypatch.setattr(main.tester.Tester, "one", lambda *_, **__: {}["a key\nthat nobody has"])
    assert run("--mode", "test", "--market_path", data, "--output_path", folder, "--threads", "1") == 1
    told = capfd.readouterr().err.strip()
    assert told.startswith("error: KeyError: ") and told.endswith("(--debug shows where it comes from)")
    assert "\n" not in told


def test_lost_files_of_a_finished_run_come_back(folder, data):
    kept = weights(folder)
    (folder / "metrics.json").write_text("{")
    (folder / "log.jsonl").unlink()
    (folder / "model.pt").write_bytes(b"PK")
    assert run("--market_path", data, "--output_path", folder, *TINY) == 0
    assert results(folder / "metrics.json")["num_valid"] > 0 and (folder / "log.jsonl").exists()
    after = weights(folder)
    assert all(torch.equal(value, after[name]) for name, value in kept.items())


# ---------------------------------------------------------------------------------------------------------------------
# Before anything slow
# ---------------------------------------------------------------------------------------------------------------------


def unreadable(path: Path) -> tuple:
    path.write_bytes(path.read_bytes()[:200])
    return ()


LATE = {
    "a query that cannot be read": (lambda d, t: unreadable(images(d, "query")[0]), "cannot be read"),
    "a gallery image": (lambda d, t: unreadable(images(d, "bounding_box_test")[-1]), "cannot be read"),
    "no such weights": (lambda d, t: ("--pretrained", t / "none.pth"), "none.pth"),
    "no such backbone": (lambda d, t: ("--backbone", "resnet19"), "resnet19"),
    "a head that the backbone has not": (lambda d, t: ("--recipe", "pcb", "--backbone", "vit_tiny_patch16_224"), "vit"),
    "too many people": (lambda d, t: ("--p", "99"), "--p"),
    "more than memory holds": (
        lambda d, t: ("--p", "8", "--k", "256", "--image_size", "4096", "4096"),
        "GiB are free: give a smaller --image_size or batch",
    ),
    "parts of a batch": (lambda d, t: ("--accumulate", "5"), "--accumulate"),
    "a file for a folder of the cache": (
        lambda d, t: ("--cache", "disk", "--cache_path", d / "readme.txt" / "x"),
        "a part of its path is a file",
    ),
    "a file for a folder": (lambda d, t: ("--output_path", d / "readme.txt" / "x"), "--output_path"),
}


@pytest.mark.parametrize("name", LATE)
def test_what_would_end_a_run_ends_it_before_images_are_decoded(name, mine, tmp_path, capfd):
    (mine / "readme.txt").write_text("")
    change, words = LATE[name]
    flags = [str(flag) for flag in change(mine, tmp_path)]
    where = () if "--output_path" in flags else ("--output_path", tmp_path / "out")
    assert run("--market_path", mine, *where, *TINY, *flags) == 1
    told = capfd.readouterr()
    assert words in told.err and "Training images" not in told.out
    assert "Traceback" not in told.err and "Error:" not in told.err, told.err


def test_a_second_run_in_one_folder_is_refused_and_touches_nothing(folder, data, capfd):
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != lock.NAME}
    with lock.held(folder):
        assert run("--market_path", data, "--output_path", folder, *TINY, "--flip_test") == 1
    assert f"in use by process {os.getpid()}" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


# ---------------------------------------------------------------------------------------------------------------------
# What a folder says of its run
# ---------------------------------------------------------------------------------------------------------------------


def read_csv(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_says_command_settings_versions_and_data_of_its_run(folder, data):
    first = json.loads((folder / "run.json").read_text())
    assert run("--market_path", data, "--output_path", folder, *TINY, "--epochs", "3", "--logger", "csv") == 0
    told = json.loads((folder / "run.json").read_text())
    assert [each["command"].count("--epochs") for each in told["started"]] == [1, 2]  # both that worked on it
    assert told["started"][0] == first["started"][0] and told["settings"]["epochs"] == 3
    assert first["settings"] | {"epochs": 3} == told["settings"] and told["settings"]["lr"] == DEMO.lr
    versions = told["started"][0]["versions"]
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0] and versions["python"]
    assert told["started"][0]["commit"] == results(folder / "metrics.json")["measured"]["commit"]
    assert re.fullmatch(r"40 images of 8 people \(fingerprint \w{16}\)", told["data"]["market"])
    assert [row["epoch"] for row in read_csv(folder / "log.csv")] == ["1", "2", "3"]
    assert {"log.txt", "log.jsonl", "metrics.json", "queries.csv", "model.pt"} <= {x.name for x in folder.iterdir()}
    assert run("--market_path", data, "--output_path", folder, *TINY, "--resume", "no") == 0
    assert len(json.loads((folder / "run.json").read_text())["started"]) == 1


def test_every_query_has_a_line_whose_mean_is_the_result(folder, data):
    rows = read_csv(folder / "queries.csv")
    found = results(folder / "metrics.json")
    assert len(rows) == found["num_query"] and {row["data"] for row in rows} == {"market"}
    assert [row["query"] for row in rows] == sorted(path.name for path in images(data, "query"))
    for key in ("mAP", "rank1"):
        values = [float(row[key.replace("mAP", "ap")]) for row in rows if row["ap"]]
        assert sum(values) / len(values) == pytest.approx(found[key], abs=1e-9)
    test = ("--mode", "test", "--market_path", data, "--output_path", folder, "--threads", "1", "--rerank")
    assert run(*test, "--rerank_k1", "4", "--rerank_k2", "2") == 0
    again, reranked = read_csv(folder / "queries_model.csv"), results(folder / "metrics_model.json")["reranked"]
    assert [row["ap"] for row in again] == [row["ap"] for row in rows]
    assert sum(float(row["reranked_ap"]) for row in again) / len(again) == pytest.approx(reranked["mAP"], abs=1e-9)
    lost = (folder / "queries.csv").read_bytes()
    (folder / "queries.csv").unlink()
    assert run("--market_path", data, "--output_path", folder, *TINY) == 0
    assert (folder / "queries.csv").read_bytes() == lost


# ---------------------------------------------------------------------------------------------------------------------
# Several seeds
# ---------------------------------------------------------------------------------------------------------------------


def test_seeds_of_one_command_have_a_folder_each_and_a_mean(data, tmp_path, capsys):
    """Each is the run that its seed alone makes, and what is there already is not trained again."""
    words = ("--market_path", data, *TINY, "--epochs", "1", "--rerank", "--rerank_k1", "4")
    assert run(*words, "--output_path", tmp_path / "seed_2", "--seed", "2") == 0
    alone = weights(tmp_path / "seed_2")
    capsys.readouterr()
    assert run(*words, "--output_path", tmp_path, "--seed", "1", "--repeat", "2") == 0
    told = capsys.readouterr().out
    assert told.count("Training images: ") == 1 and "mean ± std over 2 runs" in told and "  re-ranked" in told
    assert all(torch.equal(value, alone[name]) for name, value in weights(tmp_path / "seed_2").items())
    one, two, mean = (results(tmp_path / each / "metrics.json") for each in ("seed_1", "seed_2", ""))
    assert one["mAP"] != two["mAP"] and mean["num_runs"] == 2 and mean["measured"]["runs"] == ["seed_1", "seed_2"]
    for found, first, second in ((mean, one, two), [each["reranked"] for each in (mean, one, two)]):
        assert found["mAP"] == pytest.approx((first["mAP"] + second["mAP"]) / 2)
        assert found["mAP_std"] == pytest.approx(abs(first["mAP"] - second["mAP"]) / 2**0.5)


def test_seeds_have_default_folders_of_their_own(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--market_path", data, *TINY, "--epochs", "1")
    assert run(*words) == 0 == run(*words, "--seed", "1")
    assert sorted(each.name for each in Path("runs").iterdir()) == ["demo_market", "demo_market_seed_1"]
    test = ("--mode", "test", "--recipe", "demo", "--market_path", data, "--threads", "1")
    assert run(*test, "--seed", "1") == 0 == run(*test, "--seed", "7")  # which draws nothing here
    assert {len(list(each.glob("metrics_*.json"))) for each in Path("runs").iterdir()} == {1}


# ---------------------------------------------------------------------------------------------------------------------
# What is told on the way, and what is kept
# ---------------------------------------------------------------------------------------------------------------------


def test_evaluations_begin_late_lines_come_every_few_iterations_and_the_best_on_people_held_out_is_kept(
    data, tmp_path, capsys
):
    words = ("--market_path", data, "--output_path", tmp_path, *TINY, "--epochs", "4", "--eval-every", "1")
    words = (*words, "--start-eval", "2", "--print-freq", "2", "--validation_ids", "3", "--keep_best", "--lr", "0.01")
    assert run(*words) == 0
    told = capsys.readouterr().out
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert ["metrics" in line for line in log] == [False, True, True, True]
    best = max(log[1:], key=lambda line: line["metrics"]["market_val"]["mAP"])["epoch"]
    assert checkpoints.load(tmp_path / "model_best.pt")["epoch"] == best
    assert f"This is epoch {best} of 4, the highest mAP on people held out (market_val)" in told
    assert re.findall(r"^epoch (\d)/4  iteration 2/3  loss \d", told, re.MULTILINE) == list("1234")
    text = (tmp_path / "log.txt").read_text()
    assert text.startswith("\n==== ") and "--keep_best" in text.splitlines()[1]
    assert all(line in text for line in told[told.index("Recipe demo") :].splitlines())
    assert run(*words) == 0 and (tmp_path / "log.txt").read_text().startswith(text)


def test_the_results_of_a_run_that_keeps_the_best_are_of_its_best_epoch(data, tmp_path, capsys, monkeypatch):
    """metrics.json says whose numbers they are, and they are those that a test of the file it names measures."""
    words = ("--market_path", data, "--output_path", tmp_path, *TINY, "--epochs", "3", "--eval-every", "1")
    words = (*words, "--validation_ids", "3", "--keep_best")
    monkeypatch.setattr(train, "best", lambda log, on: log[0])  # whatever this machine's rounding makes of the others
    assert run(*words) == 0
    first = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    numbers = ("mAP", "rank1", "num_valid")
    for again in (("--rerank",), ()):  # another test of a finished run measures the same weights
        (tmp_path / "model_best.pt").unlink()  # which are in model_1.pt too
        assert run(*words, *again) == 0
        found = json.loads((tmp_path / "metrics.json").read_text())["market"]
        assert found["measured"]["epoch"] == 1 and found["measured"]["weights"].endswith("model_best.pt")
        assert found["measured"]["chosen_on"] == ["market_val"] and ("reranked" in found) == bool(again)
        assert [found[key] for key in numbers] == pytest.approx([first[0]["metrics"]["market"][key] for key in numbers])
        assert found["last_epoch"]["epoch"] == 3 and ("reranked" in found["last_epoch"]) == bool(again)
        last = [first[2]["metrics"]["market"][key] for key in numbers]
        assert [found["last_epoch"][key] for key in numbers] == pytest.approx(last)
    test = ("--mode", "test", "--market_path", data, "--weights", tmp_path / "model_best.pt", "--threads", "1")
    assert run(*test, "--output_path", tmp_path / "test") == 0
    tested = json.loads((tmp_path / "test" / "metrics_model_best.json").read_text())["market"]
    assert tested["mAP"] == pytest.approx(found["mAP"])
    assert tested["measured"]["weights_sha256"] == found["measured"]["weights_sha256"]
    for lost in ("model_best.pt", "model_1.pt"):
        (tmp_path / lost).unlink()
    assert run(*words) == 1 and "the weights of epoch 1, the best, are lost" in capsys.readouterr().err


def test_the_search_tries_what_its_flags_say(folder, data):
    words = ("--mode", "test", "--market_path", data, "--output_path", folder, "--threads", "1", "--search_rerank")
    assert run(*words, "--search_k1", "4", "3", "--search_k2", "1", "--search_lambda", "0.3", "0.5") == 0
    tried = {
        (each["k1"], each["k2"], each["lambda_value"]) for each in results(folder / "metrics_model.json")["search"]
    }
    assert tried == {(k1, 1, part) for k1 in (3, 4) for part in (0.3, 0.5)}


def test_either_member_of_a_mutual_pair_and_both_are_tested(data, tmp_path, capsys):
    words = ("--market_path", data, "--output_path", tmp_path, *TINY, "--members", "2", "--reduction", "sum")
    assert run(*words, "--epochs", "1", "--lr", "2e-3", "--optimizer", "rmsprop", "--mutual_kl_weight", "1") == 0
    test = ("--mode", "test", "--market_path", data, "--weights", tmp_path / "model.pt", "--threads", "1")
    found = {}
    for member in ("1", "2", "0"):
        assert run(*test, "--output_path", tmp_path / member, "--test_member", member) == 0
        found[member] = results(tmp_path / member / "metrics_model.json")
        assert found[member]["measured"]["test_member"] == int(member)
    assert found["1"]["mAP"] == results(tmp_path / "metrics.json")["mAP"]
    assert len({each["mAP"] for each in found.values()}) == 3
    assert run(*test, "--output_path", tmp_path, "--test_member", "3") == 1
    assert "--test_member 3 is none of the 2 of --members" in capsys.readouterr().err
