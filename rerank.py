"""Exact k-reciprocal re-ranking in bounded memory, on CPU and GPU from one source.

Zhong, Zheng, Cao, Li: Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017, as released in
zhunzhong07/person-re-ranking@278f2c7, python-version/re_ranking_ranklist.py. The released code holds three to five
dense N x N matrices (N = Q + G). Here nothing of that size exists: distances come in tiles, each used for its rows and
for its columns; neighbourhoods are index lists; the vectors V of Eq. (7) and (11) are sparse.

"Exact" means: the result is that of the released algorithm run on float64 distances, to float32 rounding. Which point
is the k-th neighbour is decided in float32 where float32 can decide it, and by the float64 distance of the original
features where it cannot, so the result does not depend on the tile size, the BLAS or the device. Points at exactly
equal distance are ranked by index (queries first), which is the released algorithm with a stable argsort. A point with
a duplicate of lower index is therefore second in its own list.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from machine.memory import Budget
from machine.ranges import NEIGHBOURS, SHARE, Number, Range
from neighbours.nearest import nearest_of, where_true
from neighbours.points import Distances, Features, MeasuredTiles
from neighbours.ragged import argsort, repeated, row_starts, runs_from


class Sparse(NamedTuple):
    """Rows of a sparse (N, N) matrix, CSR without order inside a row."""

    start: torch.Tensor  # (N + 1,) int64
    col: torch.Tensor  # (nnz,) int64
    value: torch.Tensor  # (nnz,)


class Grid(NamedTuple):
    """The values that a search combines."""

    k1s: Sequence[int] = (10, 15, 20, 25, 30)
    k2s: Sequence[int] = (1, 3, 6, 9, 12)
    lambdas: Sequence[float] = (0.1, 0.3, 0.5, 0.7)


Parameters = tuple[int, int, float]  # k1, k2, lambda


class Measured(NamedTuple):
    """Distances that are measured where they are needed, of points of which the first `num_query` are the queries.

    between(a, b): distances (n, m), not squared, of the points a = (start, stop) to the points b, either of which are
    queries alone or gallery images alone. What it says of a pair may depend, within rounding, on the a and b it is in.
    """

    between: Callable[[tuple[int, int], tuple[int, int]], Tensor]
    num_query: int
    num_all: int


# ---------------------------------------------------------------- public functions


def k_reciprocal(
    query: Tensor,
    gallery: Tensor,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    memory_gb: float | Budget | None = None,
) -> Tensor:
    """Re-ranked distance of every query to every gallery image, from features.

    Args:
        query (Q, D), gallery (G, D): features on one device. float32 is used as given, float16 and bfloat16 are
            computed in float32, float64 in float64. Normalise them first if the recipe compares by cosine.
        k1, k2, lambda_value: paper section 4.1: neighbours of the k-reciprocal sets, neighbours of the query
            expansion, weight of the original distance.
        memory_gb: working memory beyond the features and the result; None takes up to 4, at most half of what is free.

    Returns:
        (Q, G): (1 - lambda) * Jaccard distance + lambda * squared euclidean distance / its row maximum.

    Raises:
        ValueError: shapes or devices that do not fit, values that are not finite, k1 or k2 not in 1 to 1,000,
            lambda not in 0 to 1.
    """
    _check_parameters(k1, k2, lambda_value)
    return _whole(Features(query, gallery, memory_gb), k1, k2, lambda_value)


def k_reciprocal_from_distances(
    q_g: Tensor,
    q_q: Tensor,
    g_g: Tensor,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    memory_gb: float | Budget | None = None,
) -> Tensor:
    """Re-ranked distance from given distances, squared inside as the released code does.

    Args:
        q_g (Q, G), q_q (Q, Q), g_g (G, G): distances, not squared, of any metric (AlignedReID's local distance).
        k1, k2, lambda_value, memory_gb: as in `k_reciprocal`.

    Returns:
        (Q, G)
    """
    _check_parameters(k1, k2, lambda_value)
    return _whole(Distances(q_g, q_q, g_g, memory_gb), k1, k2, lambda_value)


def iter_k_reciprocal(
    query: Tensor,
    gallery: Tensor,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    memory_gb: float | Budget | None = None,
    group=None,
) -> Iterator[tuple[int, int, Tensor]]:
    """`k_reciprocal` in blocks of queries, for when (Q, G) is not to be held: yields (start, stop, (stop - start, G)).

    A yielded block may be written over once the next one is asked for. The (Q, G) distances are computed once and
    kept where half of `memory_gb` has room for them, otherwise computed a second time, block by block.

    group: processes that all hold the features and call this: each yields the blocks of its slice of the queries
    (`Part`), and computes and keeps its part of everything else. The distances are those of one process to rounding.
    """
    _check_parameters(k1, k2, lambda_value)
    points = Features(query, gallery, memory_gb, group)
    return _stream(points, k1, k2, lambda_value, points.room())


def iter_k_reciprocal_measured(
    measured: Measured,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    memory_gb: float | Budget | None = None,
    group=None,
) -> Iterator[tuple[int, int, Tensor]]:
    """What `k_reciprocal_from_distances` computes, in blocks of queries as `iter_k_reciprocal` yields them.

    Distances between all N points are held, (N, N) of them; of several processes in `group` each measures and holds the
    rows of its part of the points. They are measured in the same tiles by any number of processes.
    ValueError where they take more than a given `memory_gb`.
    """
    _check_parameters(k1, k2, lambda_value)
    return _stream(MeasuredTiles(measured, memory_gb, group), k1, k2, lambda_value, None)


def jaccard_neighbours(
    features: Tensor,
    k1: int = 30,
    k2: int = 6,
    within: float = 0.6,
    memory_gb: float | Budget | None = None,
    group=None,
) -> Sparse:
    """The Jaccard distances of Eq. (10) within one set of images, of those that are at most `within` apart: what images
    are clustered by without labels.

    As alibaba/cluster-contrast-reid@57b62e9, clustercontrast/utils/faiss_rerank.py (and SpCL, whose it is), has them,
    which is not quite Zhong's: the k-reciprocal sets are of the k1 nearest, the point itself among them, not of k1
    beside it; those that a candidate brings, of round(k1 / 2) + 1. The weights of Eq. (7) are exp(-d) of the squared
    distance itself, not over its largest. There the (N, N) matrix is dense; here pairs that share no neighbour, whose
    distance is 1, and those further than `within` are nowhere written down.

    Args:
        features (N, D), L2-normalised. k1, k2: neighbours of the sets, and of the query expansion. within: below 1.
        group: processes that all hold the features, share the work and all get the whole.

    Returns:
        Rows of the N images in CSR form, columns ascending: col[start[i] : start[i + 1]] lie at most `within` from i, i
        itself at 0 among them.
    """
    NEIGHBOURS.check("k1", k1)
    NEIGHBOURS.check("k2", k2)
    Number(float, Range(0, 1, below=True)).check("within", within)
    if len(features) < 2:
        raise ValueError(f"{len(features)} image cannot be compared with others: at least 2 are needed")
    points = Features(features[:1], features[1:], memory_gb, group)
    near = nearest_of(points, min(max(k1, k2), points.num_all), {k1, _half(k1) + 1, k2})
    near = near._replace(scale=torch.ones_like(near.scale))
    v = _expand_queries(_encode(points, near, k1, _half(k1) + 1), near, k2)
    pairs = _pairs_within(v, within, *points.part.of(points.num_all))
    return _mirrored(tuple(points.part.all(each) for each in pairs), points.num_all)


def iter_search(
    query: Tensor, gallery: Tensor, grid: Grid, memory_gb: float | Budget | None = None, group=None
) -> Iterator[tuple[Parameters, int, int, Tensor]]:
    """What `iter_k_reciprocal` yields, for every combination of `grid`: (parameters, start, stop, (stop - start, G)).

    Combinations come in the order of k1s, k2s, lambdas, those of one (k1, k2) block by block together. Distances and
    neighbour lists are made once, the sets once per k1, the Jaccard distance of Eq. (10) once per (k1, k2). A yielded
    block may be written over once the next one is asked for. Of several processes in `group` each yields the blocks of
    its slice of the queries.
    """
    return _search(Features(query, gallery, memory_gb, group), grid)


def iter_search_measured(
    measured: Measured, grid: Grid, memory_gb: float | Budget | None = None, group=None
) -> Iterator[tuple[Parameters, int, int, Tensor]]:
    """`iter_search` of measured distances, held as by `iter_k_reciprocal_measured`."""
    return _search(MeasuredTiles(measured, memory_gb, group), grid)


# ---------------------------------------------------------------- the algorithm, in the order of the paper


def _whole(points, k1, k2, lambda_value) -> Tensor:
    """The re-ranked distances (Q, G) in one matrix."""
    final = points.sq.new_empty(points.num_query, points.num_all - points.num_query)
    for _ in _stream(points, k1, k2, lambda_value, final):
        pass
    return final


def _stream(points, k1, k2, lambda_value, final):
    """All steps; yields finished query blocks, which are rows of `final` (Q, G) where that is given."""
    near = nearest_of(points, min(max(k1 + 1, k2), points.num_all), {k1 + 1, _half(k1) + 1, k2}, keep=final)
    v = _expand_queries(_encode(points, near, k1 + 1, _half(k1) + 1), near, k2)
    column = _columns(v, points.num_query)
    for start, stop in points.query_blocks():
        kept = None if final is None else final[start - points.first : stop - points.first]
        block = points.query_gallery(start, stop) if kept is None else kept  # (b, G) squared distance
        for lo, hi in _even_blocks(v, column, start, stop):
            part = block[lo - start : hi - start]
            part.div_(near.scale[lo:hi, None]).clamp_(min=0).mul_(lambda_value)
            part.add_(_jaccard(_shared(v, column, lo, hi, block.shape[1])), alpha=1 - lambda_value)  # Eq. (12)
        yield start, stop, block


def _search(points, grid):
    """`_stream` for every combination; the arithmetic on a block is that of `_stream`, operation by operation."""
    k1s, k2s, lambdas = map(list, grid)
    for k1, k2, lambda_value in itertools.product(k1s, k2s, lambdas):
        _check_parameters(k1, k2, lambda_value)
    if not (k1s and k2s and lambdas):
        raise ValueError("search needs at least one value each of k1, k2 and lambda")
    kept = points.room()
    bounds = {b for k1 in k1s for b in (k1 + 1, _half(k1) + 1)} | set(k2s)
    near = nearest_of(points, min(max(bounds), points.num_all), bounds, keep=kept)
    for k1 in k1s:
        sets = _encode(points, near, k1 + 1, _half(k1) + 1)
        for k2 in k2s:
            v = _expand_queries(sets, near, k2)
            column = _columns(v, points.num_query)
            for start, stop in points.query_blocks():
                held = None if kept is None else kept[start - points.first : stop - points.first]
                original = points.query_gallery(start, stop) if held is None else held.clone()  # (b, G)
                parts = [slice(lo - start, hi - start) for lo, hi in _even_blocks(v, column, start, stop)]
                jaccard, mixed = torch.empty_like(original), torch.empty_like(original)
                for part in parts:
                    lo, hi = start + part.start, start + part.stop
                    original[part].div_(near.scale[lo:hi, None]).clamp_(min=0)
                    jaccard[part] = _jaccard(_shared(v, column, lo, hi, original.shape[1]))
                for lambda_value in lambdas:
                    for part in parts:
                        torch.mul(original[part], lambda_value, out=mixed[part])
                        mixed[part].add_(jaccard[part], alpha=1 - lambda_value)  # Eq. (12)
                    yield (k1, k2, lambda_value), start, stop, mixed


def _half(k1):
    """The smaller neighbourhood of section 3.2 as the released code rounds it: half to even."""
    return round(k1 / 2)


def _encode(points, near, wide, narrow):
    """Sparse V of Eq. (7): exp(-d) on the expanded k-reciprocal set R*(i, k1) of Eq. (4), each row summing to 1.

    wide, narrow: length of the lists behind R(i, k1) and R(c, k1 / 2), the point itself among them.
    """
    num_all, device = points.num_all, points.device
    wide = min(wide, num_all)
    narrow = min(narrow, wide)
    first, last = points.part.of(num_all)
    place = _place_of_self(near.index[:, :wide], first, last)  # (n, wide), of the n points of this process
    mutual = place < wide  # R(i, k1), Eq. (3)
    close = points.part.all(place[:, :narrow] < narrow)  # (N, narrow) R(c, k1 / 2)
    step = points.set_rows()
    rank = torch.full((step, num_all), -1, dtype=torch.int32, device=device)
    claim = torch.empty_like(rank)
    sets = [
        _expanded_sets(near, mutual[start - first :], close, start, min(start + step, last), rank, claim)
        for start in range(first, last, step)
    ]
    row, col, dist = (torch.cat(x) for x in zip(*sets, strict=True))
    far = dist.isnan().nonzero()[:, 0]
    dist[far] = points.pairs(row[far], col[far])
    weight = torch.exp(-dist.clamp(min=0) / near.scale[row])
    total = weight.new_zeros(num_all, dtype=torch.float64).index_add_(0, row, weight.double())
    value = (weight / total[row]).to(weight.dtype)
    row, col, value = (points.part.all(each) for each in (row, col, value))
    return Sparse(row_starts(torch.bincount(row, minlength=num_all)), col, value)


def _place_of_self(index, first, last):
    """place[i - first, a]: at which place of the list of j = index[i, a] point i stands, or K where it does not."""
    k = index.shape[1]
    places = torch.arange(k, device=index.device)
    out = torch.empty_like(index[first:last])
    step = max(1, 2**22 // k**2)
    for start in range(first, last, step):
        i = torch.arange(start, min(start + step, last), device=index.device)
        out[i - first] = torch.where(index[index[i]] == i[:, None, None], places, k).amin(2)  # (b, K, K)
    return out


def _expanded_sets(near, mutual, close, start, stop, rank, claim):
    """R*(i, k1) of Eq. (4) for start <= i < stop, as entries (i, j, squared distance) in row order. `mutual`: from the
    row of `start` on.

    A candidate c of R(i, k1) brings its R(c, k1/2) when more than two thirds of that lie in R(i, k1). The distance is
    NaN where j is not in the list of i. `rank`, `claim` (rows, N) are working memory; `rank` is all -1 between calls.
    """
    lists, num_all, narrow = near.index[start:stop], rank.shape[1], close.shape[1]
    mutual, dist = mutual[: stop - start], near.dist[start:stop]
    places = torch.arange(lists.shape[1], dtype=torch.int32, device=lists.device).expand(len(lists), -1)
    rank[: len(lists)].scatter_(1, lists, places)  # rank[i, j]: place of j in the list of i
    rank, claim = rank.view(-1), claim.view(-1)

    i, a = mutual.nonzero(as_tuple=True)  # (P,) i counts from start
    c = lists[i, a]  # (P,) candidates
    inside = close[c]  # (P, narrow) j in R(c, k1/2)
    key = i[:, None] * num_all + near.index[c, :narrow]  # (P, narrow) pair (i, j)
    r = rank[key].long()
    listed = (r >= 0) & (r < mutual.shape[1])
    shared = inside & listed & mutual[i[:, None], torch.where(listed, r, 0)]  # j in R(i, k1) as well
    accepted = 3 * shared.sum(1) > 2 * inside.sum(1)

    new = inside & ~shared & accepted[:, None]
    key, r = key[new], r[new]
    entry = torch.arange(len(key), dtype=torch.int32, device=key.device)
    claim[key] = entry  # several candidates may bring the same j: one of them keeps the claim
    first = claim[key] == entry
    key, r = key[first], r[first]
    new_row, new_col = key // num_all, key % num_all
    new_dist = dist[new_row, r.clamp(min=0)].masked_fill_(r < 0, float("nan"))
    rank.view(-1, num_all)[: len(lists)].scatter_(1, lists, -1)

    row = torch.cat([i, new_row])
    order = argsort(row * len(row) + torch.arange(len(row), device=row.device))
    return (
        row[order] + start,
        torch.cat([c, new_col])[order],
        torch.cat([dist[i, a], new_dist])[order],
    )


def _expand_queries(v, near, k2):
    """Local query expansion, Eq. (11): V of a point becomes the mean of V over its k2 nearest, itself included."""
    if k2 == 1:
        return v
    index = near.index[:, :k2]  # (N, k2), or (N, N) of fewer points
    return (_mean_rows_scipy if index.device.type == "cpu" else _mean_rows_torch)(v, index)


def _mean_rows_scipy(v, index):
    from scipy.sparse import csr_matrix

    num_all, k2 = index.shape
    start = np.arange(0, num_all * k2 + 1, k2)
    pick = csr_matrix((np.full(num_all * k2, 1 / k2, v.value.numpy().dtype), index.flatten().numpy(), start))
    pick.resize(num_all, num_all)
    mean = pick @ csr_matrix((v.value.numpy(), v.col.numpy(), v.start.numpy()), shape=(num_all, num_all))
    start, col = mean.indptr.astype(np.int64), mean.indices.astype(np.int64)
    return Sparse(torch.from_numpy(start), torch.from_numpy(col), torch.from_numpy(mean.data))


def _mean_rows_torch(v, index):
    num_all, k2 = index.shape
    length = v.start.diff()[index]  # (N, k2)
    row = repeated(torch.arange(num_all, device=index.device), length.sum(1))
    at = runs_from(v.start[index.flatten()], length.flatten())
    key, place = torch.unique(row * num_all + v.col[at], return_inverse=True)
    value = v.value.new_zeros(len(key)).index_add_(0, place, v.value[at] / k2)
    return Sparse(row_starts(torch.bincount(key // num_all, minlength=num_all)), key % num_all, value)


def _columns(v, num_query):
    """The gallery rows of V by column: for each j the gallery images i with V[i, j] > 0, i counting from 0."""
    num_all = len(v.start) - 1
    first = v.start[num_query]
    col, value = v.col[first:], v.value[first:]
    row = repeated(torch.arange(num_all - num_query, device=col.device), v.start[num_query:].diff())
    order = argsort(col * (num_all - num_query) + row)
    return Sparse(row_starts(torch.bincount(col, minlength=num_all)), row[order], value[order])


def _even_blocks(v, column, start, stop):
    """Parts of start:stop small enough that what `_shared` writes down for one stays in cache (CPU) or memory (GPU)."""
    j = v.col[v.start[start] : v.start[stop]]
    work = int((column.start[j + 1] - column.start[j]).sum()) + 1
    limit = 2**16 if j.device.type == "cpu" else 2**25
    step = max(1, (stop - start) * limit // work)
    return [(s, min(s + step, stop)) for s in range(start, stop, step)]


def _shared(v, column, start, stop, num_gallery):
    """s[q, i] = sum over j of min(V[q, j], V[i, j]) for queries start:stop and all gallery images i, (b, G).

    Only where both are above 0 is there anything to add: query by query, down the columns of its entries.
    """
    lo, hi = v.start[start], v.start[stop]
    j, value = v.col[lo:hi], v.value[lo:hi]
    row = repeated(torch.arange(stop - start, device=j.device), v.start[start : stop + 1].diff())
    first, length = column.start[j], column.start[j + 1] - column.start[j]
    at = runs_from(first, length)
    low = torch.minimum(repeated(value, length), column.value[at])
    key = repeated(row * num_gallery, length).add_(column.col[at])
    return value.new_zeros((stop - start) * num_gallery).index_add_(0, key, low).view(-1, num_gallery)


def _pairs_within(v, within, start, stop):
    """(i, j, distance) of all i < j whose Jaccard distance is at most `within`, start <= i < stop: `_shared` from each
    point to those behind it."""
    column, num_all, found = _columns(v, 0), len(v.start) - 1, []
    row = repeated(torch.arange(num_all, device=v.col.device), v.start.diff())
    behind = torch.empty_like(row)  # where the column of an entry goes on behind it
    behind[argsort(v.col * num_all + row)] = torch.arange(1, len(row) + 1, device=row.device)
    least = 2 * (1 - within) / (2 - within) - 1e-4  # shared at least; the distance itself decides
    for lo, hi in _even_blocks(v, column, start, stop):
        entries = slice(v.start[lo], v.start[hi])
        first, value = behind[entries], v.value[entries]
        length = column.start[v.col[entries] + 1] - first
        at = runs_from(first, length)
        low = torch.minimum(repeated(value, length), column.value[at])
        key = repeated((row[entries] - lo) * num_all, length).add_(column.col[at])
        shared = value.new_zeros((hi - lo) * num_all).index_add_(0, key, low).view(-1, num_all)
        i, j = where_true(shared >= least)
        distance = _jaccard(shared[i, j]).clamp_(min=0)
        near = (distance <= within).nonzero()[:, 0]
        found.append((i[near] + lo, j[near], distance[near]))
    none = row[:0], row[:0], v.value[:0]
    return tuple(torch.cat(each) for each in zip(none, *found, strict=True))


def _mirrored(pairs, num_all):
    """The symmetric matrix of entries above its diagonal, with zeros on it; columns ascending."""
    i, j, value = pairs
    itself = torch.arange(num_all, device=i.device)
    row, col = torch.cat([i, j, itself]), torch.cat([j, i, itself])
    order = argsort(row * num_all + col)
    value = torch.cat([value, value, value.new_zeros(num_all)])
    return Sparse(row_starts(torch.bincount(row, minlength=num_all)), col[order], value[order])


def _jaccard(shared):
    """Eq. (10). Both vectors sum to 1, so the sum of the maxima is 2 - s."""
    return 1 - shared / (2 - shared)


# ---------------------------------------------------------------- checks


def _check_parameters(k1, k2, lambda_value):
    NEIGHBOURS.check("k1", k1)
    NEIGHBOURS.check("k2", k2)
    Number(float, SHARE).check("lambda_value", lambda_value)
