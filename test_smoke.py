"""The modes end to end on small built-in data; ``python test_smoke.py`` runs the whole suite under pytest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent
if __name__ == "__main__":
    from machine import packages

    packages.check(tests=True)

import pytest  # noqa: E402

TINY = ["--epochs", "3", "--steps", "6", "--p", "4", "--k", "2", "--image_size", "64", "32", "--warmup_epochs", "0"]
TINY += ["--num_queries", "3", "--top_k", "4", "--amp", "none"]


def small_set(folder: Path, num_train_pids: int = 12, num_test_pids: int = 10) -> Path:
    """A small built-in set in `folder`, with 3 cameras."""
    from synthetic import pictures

    sizes = {"num_train_pids": num_train_pids, "num_test_pids": num_test_pids, "num_cameras": 3}
    return pictures.make(folder, **sizes, num_distractors=4, num_junk=4, progress=False)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A small built-in set: 12 + 10 identities, 3 cameras."""
    return small_set(tmp_path_factory.mktemp("data") / "synthetic")


def run(*words) -> int:
    """Exit code of main.py with these words, called in this process."""
    import main

    return main.main([str(word) for word in words])


def train_tiny(data: Path, output: Path, *more) -> int:
    """Exit code of three tiny epochs on `data`, written to `output`; `more` are further words."""
    words = ("--recipe", "demo", "--market_path", data, "--output_path", output, "--lr", "2e-3", *TINY, *more)
    return run("--mode", "train", *words)


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory) -> Path:
    """The output folder of a finished tiny run."""
    output = tmp_path_factory.mktemp("trained")
    assert train_tiny(data, output) == 0
    return output


def weights_of(path: Path) -> dict:
    """The model's state dict in a checkpoint of ours."""
    import torch

    return torch.load(path, weights_only=True)["model"]


def same(a: dict, b: dict) -> bool:
    """Whether two state dicts hold the same names with equal tensors."""
    import torch

    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------------------------------------------------------------
# The three modes
# ---------------------------------------------------------------------------------------------------------------------


def test_train_writes_everything_a_reader_of_the_readme_expects(trained):
    log = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2, 3]
    assert log[-1]["loss"] < log[0]["loss"]
    metrics = json.loads((trained / "metrics.json").read_text())["market"]
    assert {"mAP", "mINP", "rank1", "rank5", "rank10", "num_query", "num_gallery", "num_valid"} <= metrics.keys()
    assert 0 < metrics["mAP"] <= metrics["rank10"] <= 1
    origin = metrics["measured"]
    assert origin["version"] and len(origin["weights_sha256"]) == 64 and origin["protocol"] == "market1501"
    for name in ("model.pt", "last.pt", "model_3.pt"):
        assert (trained / name).stat().st_size > 0
    for name in ("curves.png", "batch.png", "market/index.html", "market/cmc.png"):
        assert (trained / "visualize" / name).stat().st_size > 0
    assert len(list((trained / "visualize" / "market" / "ranks").glob("*.png"))) == 3


def test_test_mode_repeats_the_result_without_model_flags(trained, data, capsys):
    words = ("--market_path", data, "--weights", trained / "model.pt", "--output_path", trained)
    assert run("--mode", "test", *words) == 0
    again = json.loads((trained / "metrics_model.json").read_text())["market"]
    first = json.loads((trained / "metrics.json").read_text())["market"]
    assert again["mAP"] == pytest.approx(first["mAP"], abs=1e-6)
    same = ("weights_sha256", "data", "metric", "options", "version")
    assert all(again["measured"][key] == first["measured"][key] for key in same)
    assert "market2market" in capsys.readouterr().out


def test_rerank_reports_the_same_keys_once_more(trained, data, tmp_path):
    words = ("--market_path", data, "--weights", trained / "model.pt", "--output_path", tmp_path)
    assert run("--mode", "test", *words, "--rerank", "--rerank_k1", 5, "--rerank_k2", 2, "--flip_test") == 0
    metrics = json.loads((tmp_path / "metrics_model.json").read_text())["market"]
    assert {"mAP", "mINP", "rank1", "num_valid"} <= metrics["reranked"].keys()
    assert metrics["reranked"]["mAP"] != metrics["mAP"]
    assert metrics["measured"]["options"]["rerank"]["k1"] == 5 and metrics["measured"]["options"]["flip"] is True


def test_visualize_one_image_against_a_folder(trained, data, tmp_path, capsys):
    image = next((data / "query").iterdir())
    words = ("--weights", trained / "model.pt", "--output_path", tmp_path)
    assert run("--mode", "visualize", "--query_image", image, "--gallery_path", data / "bounding_box_test", *words) == 0
    assert len(list(tmp_path.rglob("*.png"))) == 1


def test_visualize_draws_everything_of_a_run(trained, data, tmp_path):
    words = ("--market_path", data, "--weights", trained / "model.pt", "--output_path", tmp_path)
    assert run("--mode", "visualize", *words, "--num_queries", 2, "--top_k", 4, "--compare", trained) == 0
    for name in ("batch.png", "market/index.html", "market/cmc.png", "market/activation.png"):
        assert (tmp_path / "visualize" / name).stat().st_size > 0
    assert len(list((tmp_path / "visualize" / "market" / "ranks").glob("*.png"))) == 2


def test_curves_and_batch_are_drawn_of_the_networks_own_training_alone(trained, data, tmp_path, capsys):
    import shutil

    import torch

    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("visualize"))
    words = ("--mode", "visualize", "--market_path", data, "--num_queries", 2, "--output_path", tmp_path / "run")
    torch.save(weights_of(trained / "model.pt"), tmp_path / "run" / "foreign.pth")
    assert run(*words, "--weights", tmp_path / "run" / "foreign.pth", "--recipe", "demo", "--image_size", 64, 32) == 0
    drawn = tmp_path / "run" / "visualize"
    assert (drawn / "market" / "index.html").exists() and not list(drawn.glob("*.png"))
    assert run(*words, "--vis", "curves", "--weights", tmp_path / "run" / "foreign.pth", "--recipe", "demo") == 1
    assert "nothing to draw for --vis curves" in capsys.readouterr().err
    elsewhere = (*words[:-1], tmp_path / "elsewhere", "--weights", tmp_path / "run" / "model.pt", "--vis", "curves")
    assert run(*elsewhere) == 0 and (tmp_path / "elsewhere" / "visualize" / "curves.png").exists()
    (tmp_path / "run" / "log.jsonl").write_text('{"epoch": 1, "lr": 0.1}\n{"epo')
    assert run(*elsewhere) == 1
    assert "line 2 of" in (error := capsys.readouterr().err) and "log.jsonl is damaged" in error


def test_extract_writes_one_row_per_image(trained, data, tmp_path):
    import numpy

    words = ("--weights", trained / "model.pt", "--output_path", tmp_path, "--gallery_path", data / "query")
    assert run("--mode", "extract", *words) == 0
    features, paths = numpy.load(tmp_path / "features.npy"), (tmp_path / "paths.txt").read_text().splitlines()
    assert len(features) == len(paths) == len(list((data / "query").iterdir()))


@pytest.fixture
def odd(data, tmp_path) -> tuple[Path, set[str]]:
    """A folder in which every image has another awkward name, beside what is no image; and the paths of the images."""
    import shutil

    folder = tmp_path / "odd"
    (folder / "d.jpg" / "inner").mkdir(parents=True)
    names = [b"new\nline.jpg", b'"quoted".jpg', b"<b>&'x' %41#?.png", "né 世界\u2028.JPG".encode(), b"\xff\xfe.webp"]
    names += [b"d.jpg/inner/a.tif", b"back\\nslash.bmp", b"x" * 240 + b".jpeg"]
    pictures = sorted((data / "query").iterdir())
    for name, picture in zip(names, pictures, strict=False):
        shutil.copy(picture, os.fsencode(folder) + b"/" + name)
    (folder / "._x.jpg").write_bytes(b"of macOS")
    (folder / "notes.txt").write_bytes(b"no image")
    os.mkfifo(folder / "pipe.jpg")
    return folder, {os.path.join(folder, os.fsdecode(name)) for name in names}


@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not have")
def test_extract_pairs_rows_and_lines_whatever_the_names_are(trained, odd, tmp_path):
    import numpy
    import torch

    import main

    folder, expected = odd
    words = ["--weights", str(trained / "model.pt"), "--gallery_path", str(folder), "--output_path", str(tmp_path)]
    assert run("--mode", "extract", *words) == 0
    features = numpy.load(tmp_path / "features.npy")
    lines = (tmp_path / "paths.txt").read_text("utf-8").splitlines()
    paths = [json.loads(line) if line.startswith('"') else line for line in lines]
    assert len(features) == len(paths) and set(paths) == expected
    args, recipe = main.parse(["--mode", "extract", *words])
    loaded = main.load_for_test(args, recipe, {}, main.make_run(args, recipe, []), None)
    for path, row in zip(paths, features, strict=True):  # each image alone
        sample = main.datasets.Sample(path, 0, 0)
        alone = main.make_tester(args, loaded.recipe, main.make_run(args, recipe, []), {}, {})
        expected_row = alone.features(loaded.model, [sample], "one").embeddings[0]
        assert torch.allclose(torch.from_numpy(row), expected_row.cpu(), atol=1e-4)


@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not have")
def test_a_query_image_is_ranked_whatever_its_name_is(trained, odd, tmp_path, capsys):
    folder, expected = odd
    query = next(path for path in expected if "\n" in path)
    words = ("--mode", "visualize", "--weights", trained / "model.pt", "--output_path", tmp_path, "--top_k", 20)
    assert run(*words, "--query_image", query, "--gallery_path", folder) == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert len(listed) == len(expected) - 1  # without the query itself, a line each
    [page] = tmp_path.rglob("index.html")
    assert "new\\nline.jpg" in page.read_text("utf-8")
    inner = folder / "d.jpg" / "inner"
    assert run(*words, "--query_image", inner / "a.tif", "--gallery_path", inner) == 1
    assert "holds no other image than that of --query_image" in capsys.readouterr().err


def test_images_of_a_folder_are_all_read_before_the_network_computes(trained, data, tmp_path, capsys, monkeypatch):
    import shutil

    import evaluate

    monkeypatch.setattr(evaluate, "extract", lambda *args, **options: pytest.fail("the network has run"))
    folder = tmp_path / "photos"
    shutil.copytree(data / "query", folder)
    (folder / "zz.jpg").write_bytes(b"cut")
    words = ("--weights", trained / "model.pt", "--output_path", tmp_path / "out", "--gallery_path", folder)
    for mode in (("extract",), ("visualize", "--query_image", next((data / "query").iterdir()))):
        assert run("--mode", *mode, *words) == 1
        error = capsys.readouterr().err
        assert "zz.jpg" in error and "--skip_bad_images" in error
    (tmp_path / "file").write_bytes(b"")
    assert run("--mode", "extract", *words, "--output_path", tmp_path / "file") == 1
    assert "name another folder with --output_path" in capsys.readouterr().err


def test_results_of_a_weight_file_get_a_folder_of_its_own(trained, data, tmp_path, monkeypatch):
    """Two files of one name do not write into one place, and nothing is named after a recipe that was not used."""
    import shutil

    monkeypatch.chdir(tmp_path)
    for name in ("model.pt", "last.pt"):
        (tmp_path / name).mkdir()
        shutil.copy(trained / name, tmp_path / name / "model.pt")
        words = ("--weights", f"{name}/model.pt", "--gallery_path", data / "query")
        assert run("--mode", "extract", *words) == 0 == run("--mode", "extract", *words)
    assert len(list(Path("runs").glob("model_*_extract/features.npy"))) == 2 == len(list(Path("runs").iterdir()))


@pytest.mark.parametrize("trained_on", [("market",), ("market", "own")])
def test_train_on_what_is_named_of_two_sets_and_test_on_both(data, tmp_path, trained_on, capsys):
    import torch

    words = ("--recipe", "demo", "--market_path", data, "--own_path", data, "--output_path", tmp_path, "--epochs", 1)
    words = ("--mode", "train", *words, *TINY[2:], "--num_queries", 0)
    assert run(*words) == 1 and not list(tmp_path.iterdir())
    error = capsys.readouterr().err
    assert "--train_dataset market (the others" in error and "--train_dataset market own" in error
    assert run(*words, "--train_dataset", *trained_on) == 0
    assert json.loads((tmp_path / "metrics.json").read_text()).keys() == {"market", "own"}
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert tuple(state["trained_on"]) == trained_on and state["num_pids"] == 12 * len(trained_on)


def test_search_chooses_on_people_held_out_of_training(data, tmp_path, monkeypatch, capsys):
    import tester

    monkeypatch.setattr(tester, "GRID", tester.GRID._replace(k1s=(3, 5), k2s=(1, 2)))
    held = ("--validation_ids", 5)
    assert train_tiny(data, tmp_path, *held, "--num_queries", 0) == 0
    words = ("--market_path", data, "--weights", tmp_path / "model.pt", "--output_path", tmp_path)
    assert run("--mode", "test", *words, *held, "--search_rerank", "--details") == 0
    metrics = json.loads((tmp_path / "metrics_model.json").read_text())
    best = metrics["market_val"]["search"][0]
    assert all(metrics["market"]["reranked"][key] == best[key] for key in ("k1", "k2", "lambda_value"))
    assert "search" not in metrics["market"] and metrics["market"]["verification"]["pairs_of_two"] > 0
    assert (tmp_path / "search_model_market_val.png").stat().st_size > 0
    assert "re-ranked with the best" in capsys.readouterr().out
    assert run("--mode", "test", *words, "--validation_ids", 4, "--search_rerank") == 1
    assert "has seen people" in capsys.readouterr().err


def test_search_on_the_test_set_is_called_unfair(trained, data, monkeypatch, capsys):
    import tester

    monkeypatch.setattr(tester, "GRID", tester.GRID._replace(k1s=(3,), k2s=(1,)))
    words = ("--market_path", data, "--weights", trained / "model.pt", "--output_path", trained)
    assert run("--mode", "test", *words, "--search_rerank", "--query_expansion", 2, 3) == 0
    assert "not a fair result" in capsys.readouterr().out


def test_all_splits_of_a_small_set_in_one_command(data, tmp_path, monkeypatch, capsys):
    """Every split is trained and tested; two of the built-in set's people stand for the splits of a publisher."""
    import dataclasses

    import datasets

    entry = datasets.DATASETS["market"]

    def parse(root, *, split: int = 0):
        splits = entry.parse(root)
        return dataclasses.replace(splits, query=splits.query[split::2])

    monkeypatch.setitem(datasets.DATASETS, "market", dataclasses.replace(entry, parse=parse, num_splits=2))
    words = ("--recipe", "demo", "--market_path", data, "--output_path", tmp_path, "--all_splits", *TINY)
    assert run("--mode", "train", *words, "--epochs", 1, "--num_queries", 0) == 0
    runs = [json.loads((tmp_path / f"split_{k}" / "metrics.json").read_text())["market"] for k in range(2)]
    mean = json.loads((tmp_path / "metrics.json").read_text())["market"]
    assert mean["mAP"] == pytest.approx(sum(each["mAP"] for each in runs) / 2) and mean["num_runs"] == 2
    assert "mean ± std" in capsys.readouterr().out


def test_check_says_whether_a_set_can_be_used(data, tmp_path, capsys):
    assert run("--mode", "check", "--market_path", data) == 0
    assert "usable" in capsys.readouterr().out
    (tmp_path / "query").mkdir()
    assert run("--mode", "check", "--market_path", tmp_path) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Resume
# ---------------------------------------------------------------------------------------------------------------------


def test_a_run_that_died_in_mid_epoch_ends_bit_for_bit_like_one_that_did_not(trained, data, tmp_path, monkeypatch):
    import train

    step, calls = train.backward_and_step, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 9:  # the third iteration of the second epoch
            raise MemoryError("killed by the test")
        return step(*arguments)

    monkeypatch.setattr(train, "backward_and_step", dies)
    assert train_tiny(data, tmp_path) == 1
    monkeypatch.undo()
    assert train_tiny(data, tmp_path) == 0
    assert same(weights_of(tmp_path / "model.pt"), weights_of(trained / "model.pt"))
    ours, theirs = (
        [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "images_per_second", "metrics")} for line in
         (folder / "log.jsonl").read_text().splitlines()]
        for folder in (tmp_path, trained)
    )  # fmt: skip
    assert ours == theirs


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_sigterm_ends_with_a_message_and_the_same_command_goes_on(trained, data, tmp_path):
    command = [sys.executable, "main.py", "--mode", "train", "--recipe", "demo", "--market_path", data]
    command = [str(word) for word in (*command, "--output_path", tmp_path, *TINY, "--num_queries", "0")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": os.environ | {"PYTHONUNBUFFERED": "1"}}
    process = subprocess.Popen([*command, "--epochs", "9999"], cwd=ROOT, text=True, **pipes)
    assert any(line.startswith("epoch ") for line in process.stdout)  # it trains
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "same command goes on" in errors and "Traceback" not in errors
    assert (tmp_path / "last.pt").exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("at", ["work", "error"])
def test_sigterm_says_a_word_wherever_it_arrives(at, monkeypatch, capsys):
    """In a mode that keeps nothing, and between an error and its message, as torchrun sends it."""

    import main

    def work(*_):
        if at == "work":
            signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("Connection closed by peer")

    def message_of(error):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setitem(main.ACTIONS, "check", work)
    monkeypatch.setattr(main, "message_of", message_of)
    handler = signal.getsignal(signal.SIGTERM)
    assert main.main(["--mode", "check", "--market_path", "."]) == 130
    assert "Stopped." in capsys.readouterr().err and signal.getsignal(signal.SIGTERM) is handler


def test_a_folder_of_another_run_is_not_overwritten(trained, data, capsys):
    before = (trained / "last.pt").read_bytes()
    assert train_tiny(data, trained, "--lr", "0.5") == 1
    message = capsys.readouterr().err
    assert "other settings" in message and "lr" in message and "--output_path" in message
    assert (trained / "last.pt").read_bytes() == before


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes: one clear message, a non-zero exit, nothing lost
# ---------------------------------------------------------------------------------------------------------------------


def fails(capsys, *words) -> str:
    """The one message of a command that must fail."""
    status = run(*words)
    message = capsys.readouterr().err
    assert status not in (0, None)
    assert message.count("error:") == 1 and "Traceback" not in message
    return message


def test_wrong_path(capsys, tmp_path):
    message = fails(capsys, "--mode", "train", "--market_path", tmp_path / "nowhere", "--output_path", tmp_path / "o")
    assert "nowhere" in message


def test_empty_folder(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    message = fails(capsys, "--mode", "test", "--market_path", tmp_path / "empty", "--output_path", tmp_path / "o")
    assert "bounding_box_train" in message


def test_unknown_recipe_names_the_nearest(capsys, data):
    assert "osnet_x0_25" in fails(capsys, "--recipe", "osnet_x025", "--market_path", data)


def test_truncated_image_is_named_before_training(capsys, data, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    broken = sorted((copy / "bounding_box_train").iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:400])
    message = fails(
        capsys, "--mode", "train", "--recipe", "demo", "--market_path", copy, "--output_path", tmp_path / "o", *TINY
    )
    assert broken.name in message and "--skip_bad_images" in message
    assert not (tmp_path / "o" / "last.pt").exists()
    words = ("--mode", "train", "--recipe", "demo", "--market_path", copy, "--output_path", tmp_path / "o", *TINY)
    query = sorted((copy / "query").iterdir())[0]
    query.write_bytes(b"no image")
    capsys.readouterr()
    assert run(*words, "--skip_bad_images", "--epochs", 1, "--num_queries", 0) == 0
    said, left_out = (
        capsys.readouterr().out,
        json.loads((tmp_path / "o" / "metrics.json").read_text())["market"]["left_out"],
    )
    assert left_out == {"train": [str(broken)], "query": [str(query)]}
    assert f"left out: {broken}" in said and "query of market: 1 of " in said


def test_queries_without_a_match_are_reported_before_training(capsys, data, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    for image in (copy / "bounding_box_test").iterdir():
        if not image.name.startswith(("-1", "0000")):
            image.unlink()
    message = fails(
        capsys, "--mode", "train", "--recipe", "demo", "--market_path", copy, "--output_path", tmp_path / "o", *TINY
    )
    assert "gallery" in message and not (tmp_path / "o" / "last.pt").exists()


def test_checkpoint_of_another_architecture(capsys, data, tmp_path):
    import torch
    import torchvision

    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), tmp_path / "other.pth")
    words = ("--mode", "test", "--market_path", data, "--recipe", "osnet_x0_25", "--output_path", tmp_path)
    assert "other.pth" in fails(capsys, *words, "--weights", tmp_path / "other.pth")


def test_corrupt_checkpoint(capsys, trained, data, tmp_path):
    whole = (trained / "model.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    words = ("--mode", "test", "--market_path", data, "--output_path", tmp_path)
    message = fails(capsys, *words, "--weights", tmp_path / "half.pt")
    assert message.strip().startswith(f"error: {tmp_path / 'half.pt'} is truncated") and "--debug" not in message


def test_full_disk_while_saving_keeps_the_last_checkpoint(capsys, data, tmp_path, monkeypatch):
    import errno

    import torch

    assert train_tiny(data, tmp_path, "--num_queries", 0, "--eval_every", 0) == 0

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    other = tmp_path / "full"
    message = fails(capsys, "--mode", "train", "--recipe", "demo", "--market_path", data, "--output_path", other, *TINY)
    assert "space" in message.lower()
    monkeypatch.undo()
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 3


def test_out_of_memory_says_what_to_make_smaller(capsys, data, tmp_path, monkeypatch):
    import train

    def no_memory(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(train, "backward_and_step", no_memory)
    message = fails(
        capsys, "--mode", "train", "--recipe", "demo", "--market_path", data, "--output_path", tmp_path, *TINY
    )
    assert "--p" in message and "--image_size" in message and "\n" not in message.strip()


def test_batch_size_that_contradicts_p_and_k(capsys, data, tmp_path):
    words = ("--mode", "train", "--recipe", "bot", "--market_path", data, "--output_path", tmp_path)
    assert "--p 0" in fails(capsys, *words, "--batch_size", 32)


def test_misspelt_flag_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as stopped:
        run("--mode", "train", "--label_smoothin", "0.1")
    assert stopped.value.code == 2 and "--label_smoothing" in capsys.readouterr().err


def test_help_shows_the_defaults_of_the_recipe(capsys):
    for recipe, rate in (("bot", "0.00035"), ("softmax", "0.0003")):
        with pytest.raises(SystemExit):
            run("--recipe", recipe, "--help")
        assert f"({rate})" in capsys.readouterr().out


if __name__ == "__main__":
    workers = str(min(4, os.cpu_count() or 1))  # test processes, one thread each (conftest.py)
    sys.exit(pytest.main(["-q", "-n", workers, "--dist", "worksteal", str(ROOT), *sys.argv[1:]]))
