"""Training without labels: distances, clusters, memory and batches against slow plain versions; no label is read."""

from __future__ import annotations

import dataclasses
import functools
import json
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import parity
import pytest
import torch
import torch.nn.functional as F

import clustering
import datasets
import main
import rerank
import run
import training
from loading.samplers import AcrossCameras, gallery_batches
from models import Output
from papers.cluster_contrast import ClusterMemory, Clusters
from recipes import RECIPES
from synthetic import pictures

# ============ Jaccard distances ============


def slow_jaccard(x, k1, k2):
    """Dense, image by image, in float64: what the public code (faiss_rerank.py) describes."""
    x = x.double().numpy()
    count = len(x)
    d = np.square(x[:, None] - x).sum(2)
    rank = np.argsort(d, axis=1, kind="stable")

    def reciprocal(i, length):
        return {int(j) for j in rank[i, :length] if i in rank[j, :length]}

    v = np.zeros((count, count))
    for i in range(count):
        near = reciprocal(i, k1)
        members = set(near)
        for candidate in near:
            brought = reciprocal(candidate, min(round(k1 / 2) + 1, k1))
            if len(brought & near) > 2 / 3 * len(brought):
                members |= brought
        weight = {j: np.exp(-d[i, j]) for j in members}
        for j, w in weight.items():
            v[i, j] = w / sum(weight.values())
    v = np.stack([v[rank[i, :k2]].mean(0) for i in range(count)])
    shared = np.minimum(v[:, None], v).sum(2)
    return 1 - shared / (2 - shared)


def people(count, dim, seed, noise=0.4):
    rng = torch.Generator().manual_seed(seed)
    centre = torch.randn(count // 8 + 1, dim, generator=rng)
    who = torch.randint(0, len(centre), (count,), generator=rng)
    return F.normalize(centre[who] + noise * torch.randn(count, dim, generator=rng))


def dense(sparse):
    """(N, N) with 1 where nothing is kept."""
    count = len(sparse.start) - 1
    found = np.ones((count, count))
    found[np.repeat(np.arange(count), sparse.start.diff().numpy()), sparse.col.numpy()] = sparse.value.numpy()
    return found


@pytest.mark.parametrize(("k1", "k2"), [(30, 6), (8, 3), (5, 1), (1, 1), (2, 30), (60, 6)])
@pytest.mark.parametrize("noise", [0.05, 0.4, 1.5])
def test_jaccard_distances_are_those_of_the_plain_loop(k1, k2, noise):
    x = people(60, 12, seed=k1, noise=noise)
    expected = slow_jaccard(x, k1, k2)
    for within in (0.6, 0.95):
        found = dense(rerank.jaccard_neighbours(x, k1, k2, within))
        sure = np.abs(expected - within) > 1e-5
        assert ((found < 1) == (expected <= within))[sure].all()
        assert np.abs(found - expected)[(found < 1) & sure].max() < 2e-6
        assert (found == found.T).all() and not found.diagonal().any()


def test_jaccard_distances_of_copies_and_of_two_images():
    x = people(20, 6, 1).repeat(3, 1)
    found = dense(rerank.jaccard_neighbours(x, 6, 3, 0.9))
    assert np.isfinite(found).all() and found.min() == 0
    two = rerank.jaccard_neighbours(F.normalize(torch.eye(2)), 30, 6, 0.6)
    assert two.start[-1] in (2, 4) and (two.value[two.col == two.col] >= 0).all()
    with pytest.raises(ValueError, match="1 image cannot be compared"):
        rerank.jaccard_neighbours(torch.ones(1, 4))
    with pytest.raises(ValueError, match="within"):
        rerank.jaccard_neighbours(x, within=1.0)


def test_the_blocks_do_not_decide_the_distances():
    x = people(300, 16, 3)
    whole, small = (rerank.jaccard_neighbours(x, 12, 4, 0.7, memory_gb=gb) for gb in (None, 1e-4))
    assert all(torch.equal(a, b) for a, b in zip(whole[:2], small[:2], strict=True))
    torch.testing.assert_close(whole.value, small.value, rtol=0, atol=1e-6)


# ============ DBSCAN ============


def slow_dbscan(near, min_samples):
    """Points in turn, each core point's neighbours visited until there are no more."""
    labels, cluster = np.full(len(near), -1), 0
    for i in range(len(near)):
        if labels[i] >= 0 or near[i].sum() < min_samples:
            continue
        todo = [i]
        while todo:
            j = todo.pop()
            if labels[j] < 0:
                labels[j] = cluster
                todo += [int(k) for k in np.flatnonzero(near[j])] if near[j].sum() >= min_samples else []
        cluster += 1
    return labels


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("min_samples", [1, 2, 4, 7])
def test_clusters_are_those_of_the_plain_search_and_of_scikit_learn(seed, min_samples):
    rng = np.random.default_rng(seed)
    x = rng.random((120, 2))
    d = np.sqrt(np.square(x[:, None] - x).sum(2))
    near = d <= 0.04 + 0.02 * seed
    start = torch.from_numpy(np.concatenate([[0], near.sum(1).cumsum()]))
    sparse = rerank.Sparse(start, torch.from_numpy(np.nonzero(near)[1]), torch.zeros(int(near.sum())))
    found = clustering.dbscan(sparse, min_samples).numpy()
    assert (found == slow_dbscan(near, min_samples)).all()
    cluster = pytest.importorskip("sklearn.cluster")
    theirs = cluster.DBSCAN(eps=0.5, min_samples=min_samples, metric="precomputed").fit_predict(1.0 - near)
    assert (found == theirs).all()


# ============ the memory ============


def output(feature):
    return Output(feature, (), (feature,), None)


def memory_of(features, labels, **options):
    loss = ClusterMemory(features.shape[1], **options).double()
    loss.begin_epoch(features, labels)
    return loss


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("sizes", [{"p": 6, "k": 3}, {}])
def test_loss_gradient_and_update_are_those_of_the_plain_loop(hard, sizes):
    rng = torch.Generator().manual_seed(0)
    every, of = torch.randn(30, 7, generator=rng, dtype=torch.float64), torch.arange(30) % 6 - 1
    loss = memory_of(every, of, memory_hard=hard, memory_momentum=0.3, memory_temperature=0.1, **sizes)
    means = F.normalize(torch.stack([every[of == i].mean(0) for i in range(5)]))
    torch.testing.assert_close(loss.memory, means)

    labels = torch.tensor([3, 3, 3, 0, 0, 0, 3, 1, 1, 4, 4, 4])  # one cluster twice, as with fewer of them than p
    x = torch.randn(12, 7, generator=rng, dtype=torch.float64, requires_grad=True)
    held, before = loss.memory, loss.memory.clone()
    value = loss(output(x), labels)
    (gradient,) = torch.autograd.grad(value, x)
    expected = F.cross_entropy(F.normalize(x) @ means.T / 0.1, labels)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x)[0])
    after, q = means.clone(), F.normalize(x.detach())
    if hard:
        for label in labels.unique():
            mine = (labels == label).nonzero()[:, 0]
            least = mine[(q[mine] @ means[label]).argmin()]
            after[label] = F.normalize(0.3 * means[label] + 0.7 * q[least], dim=0)
    else:
        for one, label in zip(q, labels, strict=True):
            after[label] = F.normalize(0.3 * after[label] + 0.7 * one, dim=0)
    torch.testing.assert_close(loss.memory, after)
    assert torch.equal(held, before), "the gradient is that of the memory before"
    loss.eval()
    after = loss.memory.clone()
    assert loss(output(x), labels) != value and torch.equal(loss.memory, after)


def test_a_memory_of_another_number_of_clusters_is_loaded():
    kept = memory_of(torch.randn(9, 5), torch.arange(9) // 3)
    fresh = ClusterMemory(5)
    fresh.load_state_dict(kept.state_dict())
    assert torch.equal(fresh.memory, kept.memory.float())
    with pytest.raises(RuntimeError, match="size mismatch"):
        ClusterMemory(6).load_state_dict(kept.state_dict())


# ============ batches across cameras ============

# Images and cameras of ten identities, and of 2,000 passes of the public sampler (cluster-contrast-reid 57b62e9,
# clustercontrast/utils/data/sampler.py, RandomMultipleGallerySampler(16)): mean number of different images of the 16,
# share of the other 15 that are of the first one's camera, share that are the first one, number of cameras.
PUBLIC = (
    (20, 1, 16.0, 1.0, 0.0, 1.0), (20, 2, 8.9322, 0.0, 0.0, 2.0), (5, 3, 4.186, 0.0, 0.0, 2.9985),
    (40, 4, 16.0, 0.0, 0.0, 3.9992), (2, 1, 2.0, 1.0, 0.0, 1.0), (17, 2, 8.1962, 0.0, 0.0, 2.0),
    (16, 4, 9.7203, 0.0, 0.0, 3.9925), (3, 3, 3.0, 0.0, 0.0, 3.0), (30, 6, 16.0, 0.0, 0.0, 5.9763),
    (8, 1, 7.3155, 1.0, 0.0, 1.0),
)  # fmt: skip


def test_images_of_an_identity_are_drawn_as_often_as_by_the_public_sampler():
    largest = parity.largest(__file__, "test_images_of_an_identity_are_drawn_as_often_as_by_the_public_sampler")
    labels = torch.arange(10).repeat_interleave(torch.tensor([images for images, *_ in PUBLIC]))
    cameras = torch.cat([torch.arange(images) % count for images, count, *_ in PUBLIC])
    found = torch.cat([gallery_batches(labels, cameras, 5, 16, 0, epoch) for epoch in range(600)]).view(-1, 16)
    assert len(found) == 600 * 10
    for pid, (*_, different, beside, itself, seen) in enumerate(PUBLIC):
        mine = found[labels[found[:, 0]] == pid]
        assert (labels[mine] == pid).all() and len(mine) == 600
        camera = cameras[mine]
        ours = (
            np.mean([len(row.unique()) for row in mine]),
            float((camera[:, 1:] == camera[:, :1]).double().mean()),
            float((mine[:, 1:] == mine[:, :1]).double().mean()),
            np.mean([len(row.unique()) for row in camera]),
        )
        for value, theirs in zip(ours, (different, beside, itself, seen), strict=True):
            assert abs(value - theirs) <= largest * max(1, theirs), (pid, ours)


def test_batches_come_in_passes_of_full_batches_and_are_a_function_of_seed_and_epoch():
    labels, cameras = torch.arange(11).repeat_interleave(6), torch.arange(66) % 3
    plan = functools.partial(AcrossCameras(4, 3, 5).plan, labels, cameras)
    found = plan(7, 2)[:, 0]
    assert found.shape == (5, 12) and torch.equal(found, plan(7, 2)[:, 0]) and not torch.equal(found, plan(7, 3)[:, 0])
    assert (labels[found].view(5, 4, 3) == labels[found].view(5, 4, 3)[:, :, :1]).all()
    for start in (0, 2):  # two batches of four of eleven: eight different ones, then a new order
        assert len(labels[found[start : start + 2]].unique()) == 8
    assert AcrossCameras(4, 3).plan(labels, cameras, 0, 0).shape == (2, 1, 12)
    few = gallery_batches(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), 4, 2, 0, 0, 3)
    assert few.shape == (3, 8) and set(few.flatten().tolist()) == {0, 1, 2}
    with pytest.raises(ValueError, match="no image"):
        gallery_batches(torch.empty(0), torch.empty(0), 4, 2, 0, 0)


@pytest.mark.parametrize("other", ["infrared", "alternate"])
def test_two_rules_for_what_a_batch_holds_are_refused(other):
    """Neither is left out without a word."""
    recipe = RECIPES["cluster_contrast"].with_(**{other: True})
    lights = SimpleNamespace(infrared=frozenset({1}), wearers=(), numbering={"sysu": [1]})
    with pytest.raises(ValueError, match=f"--across_cameras and --{other} both say what a batch holds"):
        training.batches_of(recipe, lights)


# ============ from the command line ============

WORDS = (
    "--mode train --recipe cluster_contrast --backbone resnet18 --pretrained none --image_size 32 16 --pad 2 --p 4 "
    "--k 3 --steps 4 --epochs 2 --amp none --device cpu --num_queries 0 --workers 1 --cluster_k1 6 --cluster_eps 0.4 "
    "--cluster_min 3 --eval_every 0"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("unsupervised") / "synthetic"
    return pictures.make(root, num_train_pids=10, num_test_pids=4, num_cameras=3, num_distractors=2, progress=False)


def test_the_weights_are_the_same_whatever_the_true_labels(folder, tmp_path, monkeypatch):
    """Pids of the training set are dealt out anew among its images; a row with labels learns something else."""
    load = datasets.load_splits

    def shuffled(name, *args, **options):
        splits = load(name, *args, **options)
        pids = [sample.pid for sample in splits.train]
        random.Random(5).shuffle(pids)
        train = tuple(dataclasses.replace(s, pid=pid) for s, pid in zip(splits.train, pids, strict=True))
        return dataclasses.replace(splits, train=train)

    def weights(output, words):
        assert main.main([*words.split(), "--market_path", str(folder), "--output_path", str(output)]) == 0
        return torch.load(output / "model.pt", weights_only=True)["model"]

    labelled = WORDS.replace("cluster_contrast", "bot").split(" --cluster_k1")[0] + " --eval_every 0"
    kept = weights(tmp_path / "true", WORDS), weights(tmp_path / "true_bot", labelled)
    monkeypatch.setattr(run.datasets, "load_splits", shuffled)
    again = weights(tmp_path / "shuffled", WORDS), weights(tmp_path / "shuffled_bot", labelled)
    assert all(torch.equal(kept[0][name], again[0][name]) for name in kept[0])
    assert any(not torch.equal(kept[1][name], again[1][name]) for name in kept[1])
    lines = [json.loads(line) for line in Path(tmp_path / "true" / "log.jsonl").read_text().splitlines()]
    assert all(line["clusters"] >= 2 and line["left_out"] >= 0 for line in lines)


def test_too_few_clusters_are_one_message(folder, tmp_path, capsys):
    words = WORDS.replace("--cluster_min 3", "--cluster_min 900")
    assert main.main([*words.split(), "--market_path", str(folder), "--output_path", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "epoch 1: " in said and "0 cluster(s)" in said and "--cluster_eps 0.4" in said and "Traceback" not in said


def test_numbers_of_the_clusters_are_in_range():
    with pytest.raises(ValueError, match="cluster_eps"):
        Clusters(cluster_eps=1.0)
    with pytest.raises(ValueError, match="cluster_min"):
        Clusters(cluster_min=0)
