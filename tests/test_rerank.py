"""rerank.py against the released algorithm, written again as slow dense NumPy in float64."""

import itertools

import numpy as np
import pytest
import torch

import rerank

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
