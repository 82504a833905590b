"""Two processes against one, through torchrun and gloo on the CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # torchrun starts this file as a script, without conftest.py

import evaluate  # noqa: E402
import losses  # noqa: E402
import models  # noqa: E402
import protocols  # noqa: E402
import rerank  # noqa: E402
import train  # noqa: E402
from loading.views import Views  # noqa: E402
from machine import processes  # noqa: E402
from machine.memory import Budget  # noqa: E402
from networks.blocks import bn_neck  # noqa: E402
from papers import cal, cluster_contrast  # noqa: E402

STEPS, P, K = 20, 4, 2


def torchrun(*words, count: int = 2, **options) -> subprocess.Popen:
    """Two processes, or `count`, on this machine, each with one thread."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}", "--"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *map(str, words)], cwd=ROOT, env=environment, text=True, **options)


# ---------------------------------------------------------------------------------------------------------------------
# The same losses
# ---------------------------------------------------------------------------------------------------------------------


class Plain(models.Model):
    """No batch normalisation, two classifiers, parts: every field of an Output has work to do."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(3 * 32 * 16, 24)
        self.classifier = nn.ModuleList([nn.Linear(24, 6), nn.Linear(24, 6)])

    def forward(self, images, views=None):
        feature = torch.tanh(self.base(images.flatten(1)))
        logits = tuple(classify(feature) for classify in self.classifier)
        return models.Output(feature, logits, (feature,), feature.unflatten(1, (4, 6)))


class Small(models.Model):
    """Two convolutions with batch normalisation and a BN neck."""

    def __init__(self):
        super().__init__()
        layers = ([nn.Conv2d(a, 24, 3, stride=2, bias=False), nn.BatchNorm2d(24), nn.ReLU()] for a in (3, 24))
        self.base = nn.Sequential(*(layer for block in layers for layer in block))
        self.bottleneck = bn_neck(24)
        self.classifier = nn.Linear(24, 6, bias=False)
        self.feat_dims = (24,)

    def forward(self, images, views=None):
        feature = self.base(images).mean((2, 3))
        after = self.bottleneck(feature)
        return models.Output(after, (self.classifier(after),), (feature,))


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "plain":
        return Plain()
    if name == "small":
        return Small()
    return models.BagOfTricks(num_pids=6, backbone="osnet_x0_25", last_stride=None)


def criterion(dim: int) -> losses.Criterion:
    torch.manual_seed(1)
    return losses.Criterion(
        id=(1, losses.IDLoss(0.1)),
        triplet=(1, losses.TripletLoss(0.3)),
        center=(5e-4, losses.CenterLoss(6, dim)),
        arcface=(0.5, losses.ArcFace(dim, 6)),
        clothes=(0.5, cal.ClothesAdversary(tuple(i // 2 for i in range(12)), dim, lr=1e-4)),
        cluster=(0.5, cluster_contrast.ClusterMemory(dim)),
    )


def batches(step: int):
    """The slice of this process of a whole batch that depends on `step` only."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randperm(6, generator=generator)[:P].repeat_interleave(K)
    images = torch.randn(P * K, 3, 32, 16, generator=generator, dtype=torch.float64)
    images += labels[:, None, None, None] / 3
    part = P * K // processes.world_size()
    mine = slice(processes.rank() * part, (processes.rank() + 1) * part)
    worn = 2 * labels + torch.arange(P * K) % 2
    yield images[mine], labels[mine], Views(torch.zeros(part, dtype=torch.int64), clothes=worn[mine])


def losses_over_steps(name: str, chunks: int = 1, dtype=torch.float64) -> dict:
    """Every step's terms and the sums of all parameters."""
    model = network(name).to(dtype)
    if processes.world_size() > 1:
        model = processes.synchronised_batch_norm(model)
    dim = model.feat_dims[0] if name != "plain" else 24
    terms = criterion(dim).to(dtype)
    every = torch.randn(12, dim, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    terms.losses["cluster"].begin_epoch(every, torch.arange(12) // 2)
    recipe = train_recipe(optimizer="adam", lr=1e-4)  # at 1e-3 rounding grows tenfold in each step
    optimizers = train.build_optimizers(model, terms, recipe)
    how = train.Conditions(chunks=chunks)
    forward, log = processes.parallel(model.train()), []
    for step in range(STEPS):
        batch = [(images.to(dtype), labels, views) for images, labels, views in batches(step)]
        log.append(train.train_one_epoch(forward, terms, batch, optimizers, train.Span(step, 1), how))
    sums = {name: float(t.double().sum()) for name, t in (*model.state_dict().items(), *terms.state_dict().items())}
    return {"log": log, "sums": sums}


def train_recipe(**fields):
    from recipes import RECIPES

    return RECIPES["demo"].with_(**fields)


CASES = {  # an untrained OSNet in float64 alone: in float32 it amplifies rounding a hundredfold in one step
    "osnet": ("osnet", 1),
    "plain": ("plain", 1),
    "plain in chunks": ("plain", 2),
    "float32": ("small", 1, torch.float32),
}


def assert_close(ours, theirs, tolerance: float) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert_close(ours[name], theirs[name], tolerance)
    elif isinstance(theirs, list):
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a, b, tolerance)
    else:
        assert ours == pytest.approx(theirs, rel=tolerance, abs=tolerance)


def test_two_processes_give_the_losses_of_one(tmp_path):
    process = torchrun(__file__, tmp_path, stderr=subprocess.PIPE)
    one = {case: losses_over_steps(*arguments) for case, arguments in CASES.items()}
    assert_close(one["plain in chunks"], one["plain"], 1e-9)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second  # to the last bit: weights, statistics, centers and ArcFace
    for case in CASES:
        single = case == "float32"
        assert_close(first[case]["log"][0], one[case]["log"][0], 1e-6 if single else 1e-9)
        assert_close(first[case], one[case], 1e-4 if single else 1e-6)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4, 3)])
def test_batch_norm_of_one_process_is_torchs(shape, affine, monkeypatch):
    torch.manual_seed(0)
    of_torch = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(5, affine=affine).double()
    if affine:
        nn.init.normal_(of_torch.weight)
        nn.init.normal_(of_torch.bias)
    ours = processes.SyncBatchNorm(5, affine=affine).double()
    ours.load_state_dict(of_torch.state_dict())
    monkeypatch.setattr(processes.dist, "all_reduce", lambda tensor, **_: None)
    monkeypatch.setattr(processes.dist, "all_gather_into_tensor", lambda out, tensor: out.copy_(tensor))
    x = torch.randn(shape, dtype=torch.float64) * 3 + 1
    results = []
    for layer in (of_torch, ours):
        mine = x.clone().requires_grad_()
        y = layer(mine)
        (y * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).sum().backward()
        results.append([y, mine.grad, *(p.grad for p in layer.parameters()), *layer.buffers(), layer.eval()(x)])
    for theirs, mine in zip(*results, strict=True):
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=1e-6, atol=1e-6)


def test_an_unknown_kind_of_batch_norm_is_refused():
    class BatchNormAct(nn.BatchNorm2d):
        pass

    with pytest.raises(ValueError, match="BatchNormAct"):
        processes.synchronised_batch_norm(nn.Sequential(BatchNormAct(3)))


def test_one_process_changes_nothing():
    output = network("plain")(torch.randn(2, 3, 32, 16))
    labels = torch.tensor([0, 1])
    assert processes.gathered(output, labels) == (output, labels)
    again = processes.with_fields(output, processes.fields(output))
    assert all(a is b for a, b in zip(processes.fields(again), processes.fields(output), strict=True))
    assert processes.is_main() and processes.world_size() == 1 and processes.any_of(True)


# ---------------------------------------------------------------------------------------------------------------------
# The whole command
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    from synthetic import pictures

    folder = tmp_path_factory.mktemp("data") / "synthetic"
    return pictures.make(
        folder, num_train_pids=12, num_test_pids=10, num_cameras=3, num_distractors=4, num_junk=4, progress=False
    )


def command(data: Path, output: Path) -> list:
    words = ["main.py", "--mode", "train", "--recipe", "demo", "--market_path", data, "--output_path", output]
    words += ["--epochs", 3, "--steps", 8, "--p", 4, "--k", 2, "--image_size", 64, 32, "--warmup_epochs", 0]
    return [*words, "--num_queries", 0, "--amp", "none", "--device", "cpu"]


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the processes under /proc")
def test_a_killed_process_ends_the_other_and_the_run_goes_on(data, tmp_path):
    import main

    whole, died = tmp_path / "whole", tmp_path / "died"
    uninterrupted = torchrun(*command(data, whole), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    output, errors = uninterrupted.communicate(timeout=120)
    assert uninterrupted.returncode == 0, errors
    assert output.count("market2market") == 1  # one process prints

    process = torchrun(*command(data, died), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    wait_for(died / "last.pt", process)
    os.kill(worker_of(process.pid, rank=1), signal.SIGKILL)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 40 and process.returncode != 0
    assert "another process of this run has ended" in errors or "Stopped" in errors

    process = torchrun(*command(data, died), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "Resuming" in output, errors
    a, b = (torch.load(folder / "model.pt", weights_only=True)["model"] for folder in (whole, died))
    assert all(torch.equal(a[name], b[name]) for name in a)

    words = ["--mode", "test", "--market_path", data, "--weights", whole / "model.pt", "--output_path", tmp_path]
    assert main.main([str(word) for word in (*words, "--device", "cpu")]) == 0
    one = json.loads((tmp_path / "metrics_model.json").read_text())["market"]
    two = json.loads((whole / "metrics.json").read_text())["market"]
    for name in ("mAP", "mINP", "rank1", "rank10", "num_query", "num_gallery", "num_valid"):
        assert two[name] == pytest.approx(one[name], abs=1e-6)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def worker_of(parent: int, rank: int) -> int:
    """Process id of the child of torchrun that has this rank."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError(f"no worker of rank {rank}")


# ---------------------------------------------------------------------------------------------------------------------
# Re-ranking and the distances of clusters, shared out
# ---------------------------------------------------------------------------------------------------------------------

RERANK = {"k1": 12, "k2": 4, "lambda_value": 0.3}
GRID = rerank.Grid((12, 5), (4, 1), (0.3, 0.6))
POINTS = {  # name -> query, gallery, tiles; of queries, some processes have none
    "many": (37, 230, 1e-4),
    "copies": (40, 90, None),
    "two queries": (2, 120, 1e-4),
}


class Noted(rerank.MeasuredTiles):
    """In tiles that are smaller than these points, and telling how many distances were measured and held."""

    rows_of_tile, columns_of_tile = 16, 40
    measured: list[int] = []
    held: list[int] = []

    def measure(self, rows, columns):
        between = self.between
        self.between = lambda a, b: self.measured.append((a[1] - a[0]) * (b[1] - b[0])) or between(a, b)
        found = super().measure(rows, columns)
        self.between = between
        self.held.append(found.numel())
        return found


def points(name: str) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Features of queries and gallery, and their pids and cameras."""
    (q, g, _), rng = POINTS[name], torch.Generator().manual_seed(len(name))
    pids = torch.arange(q + g) % 13
    x = torch.randn(13, 24, generator=rng)[pids] + 0.8 * torch.randn(q + g, 24, generator=rng)
    x = torch.nn.functional.normalize(x if name != "copies" else x[torch.arange(q + g) // 3])
    cameras = (torch.arange(q + g) // 13) % 3
    return x[:q], x[q:], [pids[:q], pids[q:], cameras[:q], cameras[q:]]


def shared_out(name: str, group=None) -> dict:
    """Re-ranked distances of this process's queries, also from the local distance of parts; the neighbours of all
    images, metrics, searches, expanded queries; how many distances of parts it has measured and held."""
    query, gallery, labels = points(name)
    memory = POINTS[name][2]
    of_parts = query.unflatten(1, (4, 6)), gallery.unflatten(1, (4, 6))

    def blocks(*given, **options):
        return [(a, b, block.clone()) for a, b, block in evaluate.distance_blocks(*given, rerank=RERANK, **options)]

    Noted.measured, Noted.held = [], []
    found = {
        "parts": blocks(*of_parts, distance=losses.aligned_distance, group=group),
        "work": (sum(Noted.measured), sum(Noted.held)),
        "blocks": blocks(query, gallery, memory_gb=memory, group=group),
        "near": list(rerank.jaccard_neighbours(torch.cat([query, gallery]), 10, 4, 0.7, memory_gb=memory, group=group)),
        "expanded": evaluate.expand_queries(query, gallery, 7, memory_gb=memory, group=group),
    }
    plain = evaluate.Comparison(rerank=RERANK, group=group, budget=Budget(memory))
    local = evaluate.Comparison(distance=losses.aligned_distance, rerank=RERANK, group=group)
    for kind, sides, how in (("features", (query, gallery), plain), ("parts", of_parts, local)):
        known = protocols.Labels(*labels)
        found[f"metrics of {kind}"] = list(evaluate.rank_features(*sides, known, how))
        found[f"search of {kind}"] = torch.tensor(evaluate.search(*sides, known, GRID, how), dtype=torch.float64)
    return found


@pytest.mark.parametrize("count", [3])  # shares that are not equal, and one without queries
def test_what_is_shared_out_is_that_of_one_process(tmp_path, count, monkeypatch):
    monkeypatch.setattr(rerank, "MeasuredTiles", Noted)
    process = torchrun(__file__, tmp_path, "shared", count=count, stderr=subprocess.PIPE)
    one = {name: shared_out(name) for name in POINTS}
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(count)]
    for name, whole in one.items():
        for kind in ("blocks", "parts"):
            blocks = [block for part in parts for block in part[name][kind]]
            assert [start for start, _, _ in blocks] == [0, *(stop for _, stop, _ in blocks[:-1])]
            theirs = torch.cat([block for _, _, block in whole[kind]])
            torch.testing.assert_close(torch.cat([block for _, _, block in blocks]), theirs, rtol=0, atol=1e-6)
        for part in parts:
            for key in whole.keys() - {"blocks", "parts", "work"}:
                torch.testing.assert_close(part[name][key], whole[key], rtol=0, atol=1e-6)
        # one process has all distances; of several each has its rows, and those of its queries to the gallery, which it
        # measures with what else is in their tiles
        num_query, num_gallery, _ = POINTS[name]
        num_all = num_query + num_gallery
        assert whole["work"] == (num_all**2, num_all**2)
        for part in parts:
            measured, held = part[name]["work"]
            rows, queries = num_all // count + 1, num_query // count + 1
            assert held <= rows * num_all + queries * num_gallery < num_all**2
            assert measured <= (rows + 3 * 16) * num_all + (queries + 2 * 16) * num_gallery


if __name__ == "__main__":
    with processes.joined("cpu"):  # left by its end: an exit inside would leave the group's threads behind
        if sys.argv[2:] == ["shared"]:
            rerank.MeasuredTiles = Noted
            shared = {name: shared_out(name, processes.group()) for name in POINTS}
            torch.save(shared, Path(sys.argv[1], f"{processes.rank()}.pt"))
        else:
            results = {case: losses_over_steps(*arguments) for case, arguments in CASES.items()}
            Path(sys.argv[1], f"{processes.rank()}.json").write_text(json.dumps(results))
