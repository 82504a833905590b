"""rerank.py against the released algorithm, written again as slow dense NumPy in float64."""

import itertools
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
import protocols
import rerank
from machine.memory import Budget
from neighbours import nearest, points, ragged

# ---------------------------------------------------------------- the oracle


def squared_distances(x):
    """(N, N) float64 sum of (x_i - x_j)^2: equal rows are at exactly 0 and at exactly equal distance from others."""
    x = np.asarray(x, np.float64)
    return np.stack([((x - row) ** 2).sum(1) for row in x])


def published(squared, num_query, k1, k2, lambda_value):
    """Dense k-reciprocal re-ranking, step by step as in Zhong et al., CVPR 2017, and their released Python code.

    `squared` (N, N) is D[j, i]; the released code divides columns by their maximum and transposes. np.argsort there
    leaves ties open; here it is stable, so equal distances rank by index.
    """
    num_all = len(squared)
    largest = squared.max(0)
    original = (squared / np.where(largest > 0, largest, 1)).T
    rank = np.argsort(original, axis=1, kind="stable")

    def reciprocal(i, k):
        forward = rank[i, : k + 1]
        return [j for j in forward if i in rank[j, : k + 1]]

    v = np.zeros((num_all, num_all))
    for i in range(num_all):
        near = reciprocal(i, k1)
        expanded = set(near)
        for candidate in near:
            brought = reciprocal(candidate, int(np.around(k1 / 2)))
            if len(set(brought) & set(near)) > 2 / 3 * len(brought):
                expanded |= set(brought)
        expanded = sorted(expanded)
        weight = np.exp(-original[i, expanded])
        v[i, expanded] = weight / weight.sum()
    if k2 != 1:
        v = np.stack([v[rank[i, :k2]].mean(0) for i in range(num_all)])
    final = np.empty((num_query, num_all - num_query))
    for i in range(num_query):
        shared = np.minimum(v[i], v[num_query:]).sum(1)
        jaccard = 1 - shared / (2 - shared)
        final[i] = (1 - lambda_value) * jaccard + lambda_value * original[i, num_query:]
    return final


# ---------------------------------------------------------------- inputs


def random(n, dim, seed):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def clustered(n, dim, seed, noise=0.8):
    rng = torch.Generator().manual_seed(seed)
    centre = torch.randn(max(1, n // 12), dim, generator=rng)
    who = torch.randint(0, len(centre), (n,), generator=rng)
    return centre[who] + noise * torch.randn(n, dim, generator=rng)


def duplicated(n, dim, seed):
    x = clustered(n, dim, seed)
    return x[torch.randint(0, n, (n,), generator=torch.Generator().manual_seed(seed + 1))]


def grid(n, dim, seed):
    """Small integers: very many exact ties between different points."""
    return torch.randint(0, 2, (n, dim), generator=torch.Generator().manual_seed(seed)).float()


def shifted(n, dim, seed):
    """Far from the origin, where |x|^2 + |y|^2 - 2xy loses most of its digits."""
    return clustered(n, dim, seed) + 300


KINDS = (random, clustered, duplicated, grid, shifted)
PARAMETERS = ((20, 6, 0.3), (5, 1, 0.0), (7, 3, 1.0), (3, 2, 0.5), (1, 1, 0.3), (1, 6, 0.3), (2, 30, 0.1))


def assert_equal(found, expected):
    assert found.shape == expected.shape
    assert torch.isfinite(found).all()
    assert np.abs(found.double().numpy() - expected).max() <= 1e-5


# ---------------------------------------------------------------- equality with the oracle


@pytest.mark.parametrize("make", KINDS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("k1, k2, lambda_value", PARAMETERS)
def test_features_equal_published(make, k1, k2, lambda_value):
    for seed, (q, g, dim) in enumerate(((15, 90, 16), (40, 100, 32))):
        x = make(q + g, dim, seed)
        expected = published(squared_distances(x), q, k1, k2, lambda_value)
        assert_equal(rerank.k_reciprocal(x[:q], x[q:], k1, k2, lambda_value), expected)


@pytest.mark.parametrize("q, g", ((1, 1), (1, 30), (30, 1), (5, 6), (2, 2)))
def test_tiny(q, g):
    for make, (k1, k2, lambda_value) in itertools.product(KINDS, PARAMETERS):
        x = make(q + g, 8, q)
        expected = published(squared_distances(x), q, k1, k2, lambda_value)
        assert_equal(rerank.k_reciprocal(x[:q], x[q:], k1, k2, lambda_value), expected)


@pytest.mark.parametrize("make", (clustered, duplicated, grid), ids=lambda f: f.__name__)
@pytest.mark.parametrize("symmetric", (True, False))
def test_distances_equal_published(make, symmetric):
    q, g = 12, 70
    d = np.sqrt(squared_distances(make(q + g, 16, 3)))
    if not symmetric:  # a local distance need not be: the released code reads columns
        d[:q, :q] *= np.random.default_rng(0).uniform(0.9, 1.1, (q, q))
        d[q:, q:] *= np.random.default_rng(1).uniform(0.9, 1.1, (g, g))
    blocks = [torch.from_numpy(x) for x in (d[:q, q:], d[:q, :q], d[q:, q:])]
    before = [x.clone() for x in blocks]
    for k1, k2, lambda_value in PARAMETERS:
        expected = published(d**2, q, k1, k2, lambda_value)
        assert_equal(rerank.k_reciprocal_from_distances(*blocks, k1, k2, lambda_value), expected)
    assert all(torch.equal(a, b) for a, b in zip(blocks, before, strict=True))


def test_all_points_equal():
    x = torch.ones(30, 4)
    for k1, k2 in ((20, 6), (3, 1), (50, 2)):
        assert_equal(rerank.k_reciprocal(x[:10], x[10:], k1, k2), published(squared_distances(x), 10, k1, k2, 0.3))


def test_collapsed_features():
    """Thousands of equal features: neighbours are those of lowest index, and it takes seconds, not hours."""
    x = torch.ones(3000, 64)
    x[-1000:] = random(1000, 64, 0)
    points = rerank.Features(x[:500], x[500:], None)
    near = rerank.nearest_of(points, 21, {21, 11, 6})
    assert torch.equal(near.index[:2000], torch.arange(21).expand(2000, -1))
    assert torch.equal(near.dist[:2000], torch.zeros(2000, 21))
    assert torch.isfinite(rerank.k_reciprocal(x[:500], x[500:])).all()


@pytest.mark.parametrize("dtype", (torch.float64, torch.float16))
def test_dtypes(dtype):
    x = clustered(80, 16, 0).to(dtype)
    found = rerank.k_reciprocal(x[:10], x[10:], 10, 3)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_equal(found, published(squared_distances(x), 10, 10, 3, 0.3))


def test_inputs_are_left_alone():
    x = clustered(60, 8, 0)
    query, gallery = x[:10].clone(), x[10:].clone()
    rerank.k_reciprocal(query, gallery, 5, 2)
    assert torch.equal(query, x[:10]) and torch.equal(gallery, x[10:])


# ---------------------------------------------------------------- streaming


@pytest.mark.parametrize("memory_gb", (None, 1e-4))
def test_stream_is_the_whole(memory_gb):
    x = clustered(400, 16, 5)
    whole = rerank.k_reciprocal(x[:150], x[150:], 8, 3)
    seen = 0
    for start, stop, block in rerank.iter_k_reciprocal(x[:150], x[150:], 8, 3, memory_gb=memory_gb):
        assert start == seen and block.shape == (stop - start, 250)
        assert torch.allclose(block, whole[start:stop], atol=1e-6)
        seen = stop
    assert seen == 150


def test_memory_is_bounded():
    """Peak of a child process: far below one dense (N, N) float32 matrix, of which the released code holds several."""
    code = (
        "import torch, rerank\n"
        "status = lambda: open('/proc/self/status')\n"  # not ru_maxrss, which the child of a large process inherits
        "peak = lambda: next(int(line.split()[1]) * 1024 for line in status() if line.startswith('VmHWM'))\n"
        "x = torch.randn(10000, 16)\n"
        "rerank.k_reciprocal(x[:50], x[50:500])\n"
        "before = peak()\n"
        "for _ in rerank.iter_k_reciprocal(x[:500], x[500:], memory_gb=0.05): pass\n"
        "print(peak() - before)"
    )
    root = Path(rerank.__file__).parent
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert int(found.stdout) < 10000**2 * 4 / 2


# ---------------------------------------------------------------- parameter search


@pytest.mark.parametrize("protocol", [name for name, rule in protocols.PROTOCOLS.items() if not rule.clothes])
@pytest.mark.parametrize("make", (clustered, duplicated, grid), ids=lambda f: f.__name__)
@pytest.mark.parametrize("compared", ("euclidean", "cosine", "distance"))
def test_search_gives_the_number_of_the_metric(make, protocol, compared):
    q, g = 30, 150
    x = make(q + g, 12, 7).double() + (0.1 if compared == "cosine" else 0)
    rng = np.random.default_rng(0)
    pids = rng.integers(0, 12, q + g)
    pids[0] = 99  # a query without a match
    camids = np.ones(q + g, dtype=int) if protocol == "none" else rng.integers(1, 5, q + g)
    labels = (pids[:q], pids[q:], camids[:q], camids[q:])
    items = dict(query_items=range(q), gallery_items=range(5, 5 + g))  # images 5 to 29 would be on both sides
    if protocol != "none" or make is not clustered:
        items = {}
    else:
        pids[q : 2 * q - 5] = pids[5:q]
        labels = (pids[:q], pids[q:], camids[:q], camids[q:])
    values = rerank.Grid((4, 9), (1, 3), (0.0, 0.3, 1.0))
    how = evaluate.Comparison(
        metric="cosine" if compared == "cosine" else "euclidean",
        distance=evaluate.pairwise_distance if compared == "distance" else None,
    )
    trials = evaluate.search(x[:q], x[q:], protocols.Labels(*labels, protocol, **items), values, how)
    assert [t[:3] for t in trials] == list(itertools.product(*values))
    for trial in trials:
        parameters = dict(zip(("k1", "k2", "lambda_value"), trial, strict=False))
        found = evaluate.evaluate_features(
            x[:q], x[q:], *labels, how.metric, protocol, rerank=parameters, distance=how.distance, **items
        )
        assert (trial.mAP, trial.rank1) == pytest.approx((found.mAP, found.cmc[0].item()), abs=1e-9)


@pytest.mark.parametrize("memory_gb", (1e-4, 1e-9))
def test_search_in_little_memory(memory_gb):
    x = clustered(180, 12, 7).double()
    labels = protocols.Labels(*(torch.arange(180) % 12).split((30, 150)), *(torch.arange(180) % 5).split((30, 150)))
    values = rerank.Grid((4,), (1, 3), (0.3, 0.6))
    found = evaluate.search(x[:30], x[30:], labels, values, evaluate.Comparison(budget=Budget(memory_gb)))
    for trial, expected in zip(found, evaluate.search(x[:30], x[30:], labels, values), strict=True):
        assert trial == pytest.approx(expected, abs=1e-9)


def test_search_errors():
    x = clustered(20, 4, 0)
    cameras = [1] * 5, [2] * 15
    with pytest.raises(ValueError, match="pid that is not in the gallery"):
        evaluate.search(x[:5], x[5:], protocols.Labels(range(5), range(5, 20), *cameras), rerank.Grid())
    with pytest.raises(ValueError, match="at least one"):
        evaluate.search(x[:5], x[5:], protocols.Labels(range(5), range(15), *cameras), rerank.Grid(k1s=()))
    with pytest.raises(ValueError, match="--test_distance global"):
        how = evaluate.Comparison(distance=evaluate.pairwise_distance, budget=Budget(1e-9))
        evaluate.search(x[:5], x[5:], protocols.Labels(range(5), range(15), *cameras), rerank.Grid(), how)


# ---------------------------------------------------------------- the steps that differ between CPU and GPU


def test_device_steps_agree():
    x = clustered(300, 16, 1)
    points = rerank.Features(x[:50], x[50:], None)
    near = rerank.nearest_of(points, 16, {16, 9, 5})
    v = rerank._encode(points, near, 15 + 1, rerank._half(15) + 1)
    dense = [torch.zeros(300, 300, dtype=torch.float64) for _ in range(2)]
    for out, mean in zip(dense, (rerank._mean_rows_scipy, rerank._mean_rows_torch), strict=True):
        w = mean(v, near.index[:, :5])
        out[torch.arange(300).repeat_interleave(w.start.diff()), w.col] = w.value.double()
    assert torch.allclose(*dense, atol=1e-6) and torch.allclose(dense[0].sum(1), torch.ones(300).double())
    d, bound = torch.randn(37, 53), torch.full((37, 1), -1.0)
    for b in (bound, torch.full((53,), -1.0)):
        assert torch.equal(torch.stack(nearest._below(d, b)), (d < b).nonzero().T)


def test_gpu_branches_on_the_cpu(monkeypatch):
    """The branches that a GPU takes hold torch operations alone: read the modules so that CPU tensors take them too."""
    branches = 0
    for module in (ragged, nearest, points, rerank):  # each imports from those in front of it
        source = Path(module.__file__).read_text()
        branches += len(re.findall('type [!=]= "cpu"', source))
        for equal in ("==", "!="):
            source = source.replace(f'type {equal} "cpu"', f'type {equal} "?"')
        twin = types.ModuleType(module.__name__)
        monkeypatch.setitem(sys.modules, module.__name__, twin)  # where the next ones import it from
        exec(compile(source, f"{module.__name__} as on a GPU", "exec"), twin.__dict__)
        twin.np = None  # NumPy cannot read a GPU tensor
    assert branches > 5
    for make, (k1, k2, lambda_value) in itertools.product(KINDS, PARAMETERS):
        x = make(120, 16, 1)
        expected = published(squared_distances(x), 20, k1, k2, lambda_value)
        assert_equal(twin.k_reciprocal(x[:20], x[20:], k1, k2, lambda_value), expected)
    x = clustered(400, 16, 1).split((100, 300))
    values = rerank.Grid((5,), (3,), (0.2, 0.6))
    for found, other in zip(twin.iter_search(*x, values), rerank.iter_search(*x, values), strict=True):
        assert found[:3] == other[:3] and torch.allclose(found[3], other[3], atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_equals_cpu():
    for make in (clustered, duplicated, grid):
        x = make(900, 32, 2)
        whole = rerank.k_reciprocal(x[:200], x[200:])
        found = rerank.k_reciprocal(x[:200].cuda(), x[200:].cuda()).cpu()
        assert (found - whole).abs().max() <= 1e-5


def test_many_tiles_equal_one():
    """More points than one tile holds, with near and exact duplicates across tiles."""
    x = clustered(2600, 24, 4)
    x[2000:2300] = x[:300]
    x[1500:1600] = x[100:200] + 1e-5
    found = rerank.k_reciprocal(x[:300], x[300:], 6, 3)
    d = torch.from_numpy(np.sqrt(squared_distances(x)))
    given = rerank.k_reciprocal_from_distances(d[:300, 300:], d[:300, :300], d[300:, 300:], 6, 3)
    assert (found - given).abs().max() <= 1e-5


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "change, message",
    (
        (dict(k1=0), "k1"),
        (dict(k1=2.5), "k1"),
        (dict(k2=0), "k2"),
        (dict(lambda_value=1.1), "lambda"),
        (dict(lambda_value=-0.1), "lambda"),
        (dict(lambda_value=float("nan")), "lambda"),
        (dict(memory_gb=0), "memory_gb"),
        (dict(gallery=torch.zeros(5, 3)), "dimensions"),
        (dict(gallery=torch.zeros(0, 4)), "shape"),
        (dict(query=torch.zeros(4)), "shape"),
        (dict(query=torch.full((3, 4), float("nan"))), "NaN"),
        (dict(gallery=torch.full((3, 4), float("inf"))), "NaN or inf"),
    ),
)
def test_bad_arguments(change, message):
    arguments = dict(query=torch.zeros(3, 4), gallery=torch.zeros(5, 4)) | change
    with pytest.raises(ValueError, match=message):
        rerank.k_reciprocal(**arguments)


def test_bad_distances():
    with pytest.raises(ValueError, match="do not fit"):
        rerank.k_reciprocal_from_distances(torch.zeros(3, 5), torch.zeros(3, 3), torch.zeros(4, 4))
