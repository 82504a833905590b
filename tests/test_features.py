"""Features in files: written by ``--mode extract``, measured by ``--mode test --features``, from here or anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from nets import own_checkpoint

import evaluate
from embedder import Embedder
from test_smoke import run, small_set


@pytest.fixture(scope="module")
def extracted(tmp_path_factory) -> Path:
    """A folder with the weights net.pt, the set `set`, and what --mode extract makes of both in `out`."""
    folder = tmp_path_factory.mktemp("extracted")
    small_set(folder / "set", 2, 6)
    torch.manual_seed(0)
    own_checkpoint(folder / "net.pt")
    words = ("--weights", folder / "net.pt", "--market_path", folder / "set", "--output_path", folder / "out")
    assert run("--mode", "extract", *words) == 0
    return folder


def both(folder: Path) -> list[Path]:
    return [folder / "out" / f"market_{side}.npz" for side in ("query", "gallery")]


def sides(folder: Path) -> tuple[dict, dict]:
    query, gallery = (dict(np.load(path)) for path in both(folder))
    return query, gallery


def metrics(folder: Path) -> dict:
    [path] = folder.glob("metrics*.json")
    [found] = json.loads(path.read_text()).values()
    return found


def numbers(found: dict) -> dict:
    """Without what says how they were measured, and how fast."""
    return {key: value for key, value in found.items() if key not in ("measured", "images_per_second")}


def test_extract_writes_rows_labels_and_what_they_are_of(extracted):
    query, gallery = sides(extracted)
    embed = Embedder(extracted / "net.pt")
    assert query["features"].dtype == np.float32 and query["features"].shape == (len(query["paths"]), embed.dim)
    assert np.allclose(embed(list(query["paths"])), query["features"], atol=1e-5)
    name = Path(query["paths"][0]).name  # 0001_c1s1_...
    assert query["pids"][0] == int(name[:4]) and f"_c{query['camids'][0]}" in name
    assert (gallery["pids"] == 0).any() and not (gallery["pids"] == -1).any()
    told = {key: query[key].item() for key in ("recipe", "metric", "protocol", "data", "side")}
    assert told == {
        "recipe": "osnet_x0_25",
        "metric": "euclidean",
        "protocol": "market1501",
        "data": "market",
        "side": "query",
    }
    assert len(query["weights_sha256"].item()) == 64 == len(gallery["weights_sha256"].item())


def test_extract_of_a_folder_writes_one_file_too(extracted, tmp_path):
    words = (
        "--weights",
        extracted / "net.pt",
        "--gallery_path",
        extracted / "set" / "query",
        "--output_path",
        tmp_path,
    )
    assert run("--mode", "extract", *words) == 0
    found = np.load(tmp_path / "features.npz")
    assert (found["features"] == np.load(tmp_path / "features.npy")).all()
    assert found["paths"].tolist() == (tmp_path / "paths.txt").read_text().splitlines()
    assert "pids" not in found and found["metric"] == "euclidean"


RERANKED = ["--rerank", "--rerank_k1", 4, "--rerank_k2", 2]


@pytest.mark.parametrize(
    "more",
    [
        [],
        [*RERANKED, "--metric", "cosine", "--details"],
        ["--query_expansion", 2, 3, "--protocol", "none", "--ap", "trapezoid"],
    ],
)
def test_features_are_measured_as_the_weights_are(extracted, tmp_path, more):
    words = ("--weights", extracted / "net.pt", "--market_path", extracted / "set")
    assert run("--mode", "test", *words, *more, "--output_path", tmp_path / "weights") == 0
    assert run("--mode", "test", "--features", *both(extracted), *more, "--output_path", tmp_path / "features") == 0
    found = metrics(tmp_path / "features")
    assert numbers(found) == numbers(metrics(tmp_path / "weights"))
    by_cosine = "cosine" in more or "--query_expansion" in more  # of length 1
    assert found["measured"]["metric"] == ("cosine" if by_cosine else "euclidean")
    assert len(found["measured"]["data"]) == 2


def as_layumi(query: dict, gallery: dict) -> dict:
    """What test.py of layumi/Person_reID_baseline_pytorch (62fd06c) hands to scipy.io.savemat, in its types."""
    found = {}
    for name, side in (("gallery", gallery), ("query", query)):
        labels = {"label": side["pids"].tolist(), "cam": side["camids"].tolist()}
        found |= {f"{name}_f": side["features"]} | {f"{name}_{key}": value for key, value in labels.items()}
    return found


@pytest.mark.parametrize("kind", ["mat", "npz", "pt", "npy", "distmat", "distmat.npy"])
def test_features_and_distances_from_anywhere(extracted, tmp_path, kind):
    query, gallery = sides(extracted)
    labels = {f"{name}_{key}": side[key] for name, side in (("query", query), ("gallery", gallery))
              for key in ("pids", "camids")}  # fmt: skip
    distances = evaluate.pairwise_distance(query["features"], gallery["features"], "cosine").numpy()
    data, metric = ("--market_path", extracted / "set"), ("--metric", "cosine")
    if kind == "mat":
        scipy.io.savemat(tmp_path / "pytorch_result.mat", as_layumi(query, gallery))
        words = (tmp_path / "pytorch_result.mat", *metric)
    elif kind == "npz":
        np.savez(tmp_path / "a.npz", query_features=query["features"], gallery_features=gallery["features"], **labels)
        words = (tmp_path / "a.npz", *metric)
    elif kind == "pt":
        state = {key: torch.as_tensor(value) for key, value in as_layumi(query, gallery).items()}
        torch.save(state, tmp_path / "a.pt")
        words = (tmp_path / "a.pt", *metric)
    elif kind == "npy":
        np.save(tmp_path / "q.npy", query["features"])
        np.save(tmp_path / "g.npy", gallery["features"])
        words = (tmp_path / "q.npy", tmp_path / "g.npy", *data, *metric)
    elif kind == "distmat":
        np.savez(tmp_path / "d.npz", distmat=distances, **labels)
        words = (tmp_path / "d.npz",)
    else:
        np.save(tmp_path / "d.npy", distances)
        words = (tmp_path / "d.npy", *data)
    assert run("--mode", "test", "--features", *words, "--output_path", tmp_path / "out") == 0
    expected = evaluate.rank_metrics(distances, query["pids"], gallery["pids"], query["camids"], gallery["camids"])
    found = metrics(tmp_path / "out")
    assert found["mAP"] == pytest.approx(expected.mAP, abs=1e-9) and found["num_valid"] == expected.num_valid
    assert found["cmc"] == pytest.approx(expected.cmc.tolist(), abs=1e-9)


def test_distances_are_re_ranked_where_all_of_them_are_given(extracted, tmp_path, capsys):
    query, gallery = sides(extracted)
    rows = {"query": query["features"], "gallery": gallery["features"]}
    among = {f"{name}_distmat": evaluate.pairwise_distance(x, x).numpy() for name, x in rows.items()}
    labels = {f"{name}_{key}": side[key] for name, side in (("query", query), ("gallery", gallery))
              for key in ("pids", "camids")}  # fmt: skip
    distances = evaluate.pairwise_distance(*rows.values()).numpy()
    np.savez(tmp_path / "d.npz", distmat=distances, **among, **labels)
    more = RERANKED
    assert run("--mode", "test", "--features", tmp_path / "d.npz", *more, "--output_path", tmp_path / "d") == 0
    assert run("--mode", "test", "--features", *both(extracted), *more, "--output_path", tmp_path / "f") == 0
    assert metrics(tmp_path / "d")["reranked"]["mAP"] == pytest.approx(
        metrics(tmp_path / "f")["reranked"]["mAP"], abs=1e-3
    )
    np.savez(tmp_path / "d.npz", distmat=distances, **labels)
    assert run("--mode", "test", "--features", tmp_path / "d.npz", *more, "--output_path", tmp_path / "e") == 1
    assert "query_distmat (12, 12)" in capsys.readouterr().err


def test_features_that_are_named_as_weights_are_told_apart(extracted, tmp_path, capsys):
    rows = dict(np.load(both(extracted)[0]))["features"]
    np.save(tmp_path / "a.npy", rows)
    scipy.io.savemat(tmp_path / "a.mat", {"query_f": rows})
    for path in (both(extracted)[0], tmp_path / "a.npy", tmp_path / "a.mat"):
        assert run("--mode", "test", "--weights", path, "--market_path", extracted / "set") == 1
        assert f"{path} holds arrays, not weights: features and distances" in capsys.readouterr().err


def refused(capsys, *words) -> str:
    """The one line that `--mode test --features` ends with."""
    capsys.readouterr()
    assert run("--mode", "test", "--features", *words) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    return line


def test_what_is_no_features_is_one_line(extracted, tmp_path, capsys):
    query, gallery = both(extracted)
    features, labels = np.ones((4, 3), np.float32), {"pids": [1, 1, 2, 2], "camids": [1, 2, 1, 2]}
    wrong = {
        "no labels": dict(features=features),
        "no cameras": dict(features=features, pids=[1, 1, 2, 2]),
        "short": dict(features=features, pids=[1], camids=[1]),
        "names": dict(features=features, pids=list("abcd"), camids=[1, 2, 1, 2]),
        "objects": dict(features=np.array([None, {}]), **labels),
        "vector": dict(features=features[0], **labels),
        "nan": dict(features=features * np.nan, **labels),
        "nothing": {},
    }
    for name, arrays in wrong.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    four = {f"{side}_{key}": value for side in ("query", "gallery") for key, value in labels.items()}
    np.savez(tmp_path / "infinite.npz", distmat=np.full((4, 4), np.inf), **four)
    np.savez(tmp_path / "similar.npz", distmat=-np.ones((4, 4)), **four)
    (tmp_path / "cut.npz").write_bytes(query.read_bytes()[:2000])
    (tmp_path / "cut.mat").write_bytes(b"no matlab")
    (tmp_path / "text.csv").write_text("1,2")
    for words, message in (
        ((query,), "holds the features of one side"),
        ((gallery, query), "is of the gallery: give the query's file first"),
        ((query, gallery, query), "found 3"),
        ((tmp_path / "nowhere.npz", gallery), "no feature file at"),
        *(((tmp_path / f"{name}.npz", tmp_path / f"{name}.npz"), message) for name, message in (
            ("no labels", "who is on it: add query_pids"), ("no cameras", "or use --protocol none"),
            ("short", "holds 4 features, 1 pids, 1 camids"), ("names", "expected a whole number"),
            ("objects", "cannot be read as features"), ("vector", "expected a row of numbers"),
            ("nan", "NaN"), ("nothing", "expected features or f"))),
        ((tmp_path / "similar.npz",), "a similarity?"),
        ((tmp_path / "infinite.npz",), "not all finite"),
        ((tmp_path / "cut.npz", gallery), "cannot be read as features"),
        ((tmp_path / "cut.mat",), "cannot be read as"),
        ((tmp_path / "text.csv",), "is none of .npz"),
        ((query, gallery, "--weights", extracted / "net.pt"), "--weights is of images"),
        ((query, gallery, "--flip_test"), "--flip_test is of images"),
        ((query, gallery, "--market_path", extracted / "set"), "holds its own labels"),
    ):  # fmt: skip
        assert message in refused(capsys, *words, "--output_path", tmp_path / "out"), words
