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

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from machine.memory import GIB, Budget
from machine.parts import Part
from machine.ranges import NEIGHBOURS, SHARE, Number, Range

SPARE = 8  # neighbours kept beyond the last one needed, so that near ties can be settled among them


class Neighbours(NamedTuple):
    """The nearest points of every point, itself included, in the order (distance, index)."""

    index: torch.Tensor  # type: ignore[assignment]  # (N, K) int64; hides tuple.index
    dist: torch.Tensor  # (N, K) squared distance
    scale: torch.Tensor  # (N,) largest squared distance of each point, the normaliser of the released code


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
    return _whole(_Features(query, gallery, memory_gb), k1, k2, lambda_value)


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
    return _whole(_Distances(q_g, q_q, g_g, memory_gb), k1, k2, lambda_value)


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
    points = _Features(query, gallery, memory_gb, group)
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
    return _stream(_Measured(measured, memory_gb, group), k1, k2, lambda_value, None)


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
    points = _Features(features[:1], features[1:], memory_gb, group)
    near = _neighbours(points, min(max(k1, k2), points.num_all), {k1, _half(k1) + 1, k2})
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
    return _search(_Features(query, gallery, memory_gb, group), grid)


def iter_search_measured(
    measured: Measured, grid: Grid, memory_gb: float | Budget | None = None, group=None
) -> Iterator[tuple[Parameters, int, int, Tensor]]:
    """`iter_search` of measured distances, held as by `iter_k_reciprocal_measured`."""
    return _search(_Measured(measured, memory_gb, group), grid)


# ---------------------------------------------------------------- the algorithm, in the order of the paper


def _whole(points, k1, k2, lambda_value) -> Tensor:
    """The re-ranked distances (Q, G) in one matrix."""
    final = points.sq.new_empty(points.num_query, points.num_all - points.num_query)
    for _ in _stream(points, k1, k2, lambda_value, final):
        pass
    return final


def _stream(points, k1, k2, lambda_value, final):
    """All steps; yields finished query blocks, which are rows of `final` (Q, G) where that is given."""
    near = _neighbours(points, min(max(k1 + 1, k2), points.num_all), {k1 + 1, _half(k1) + 1, k2}, keep=final)
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
    near = _neighbours(points, min(max(bounds), points.num_all), bounds, keep=kept)
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
    return Sparse(_starts(torch.bincount(row, minlength=num_all)), col, value)


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
    order = _argsort(row * len(row) + torch.arange(len(row), device=row.device))
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
    row = _repeat(torch.arange(num_all, device=index.device), length.sum(1))
    at = _ranges(v.start[index.flatten()], length.flatten())
    key, place = torch.unique(row * num_all + v.col[at], return_inverse=True)
    value = v.value.new_zeros(len(key)).index_add_(0, place, v.value[at] / k2)
    return Sparse(_starts(torch.bincount(key // num_all, minlength=num_all)), key % num_all, value)


def _columns(v, num_query):
    """The gallery rows of V by column: for each j the gallery images i with V[i, j] > 0, i counting from 0."""
    num_all = len(v.start) - 1
    first = v.start[num_query]
    col, value = v.col[first:], v.value[first:]
    row = _repeat(torch.arange(num_all - num_query, device=col.device), v.start[num_query:].diff())
    order = _argsort(col * (num_all - num_query) + row)
    return Sparse(_starts(torch.bincount(col, minlength=num_all)), row[order], value[order])


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
    row = _repeat(torch.arange(stop - start, device=j.device), v.start[start : stop + 1].diff())
    first, length = column.start[j], column.start[j + 1] - column.start[j]
    at = _ranges(first, length)
    low = torch.minimum(_repeat(value, length), column.value[at])
    key = _repeat(row * num_gallery, length).add_(column.col[at])
    return value.new_zeros((stop - start) * num_gallery).index_add_(0, key, low).view(-1, num_gallery)


def _pairs_within(v, within, start, stop):
    """(i, j, distance) of all i < j whose Jaccard distance is at most `within`, start <= i < stop: `_shared` from each
    point to those behind it."""
    column, num_all, found = _columns(v, 0), len(v.start) - 1, []
    row = _repeat(torch.arange(num_all, device=v.col.device), v.start.diff())
    behind = torch.empty_like(row)  # where the column of an entry goes on behind it
    behind[_argsort(v.col * num_all + row)] = torch.arange(1, len(row) + 1, device=row.device)
    least = 2 * (1 - within) / (2 - within) - 1e-4  # shared at least; the distance itself decides
    for lo, hi in _even_blocks(v, column, start, stop):
        entries = slice(v.start[lo], v.start[hi])
        first, value = behind[entries], v.value[entries]
        length = column.start[v.col[entries] + 1] - first
        at = _ranges(first, length)
        low = torch.minimum(_repeat(value, length), column.value[at])
        key = _repeat((row[entries] - lo) * num_all, length).add_(column.col[at])
        shared = value.new_zeros((hi - lo) * num_all).index_add_(0, key, low).view(-1, num_all)
        i, j = _true(shared >= least)
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
    order = _argsort(row * num_all + col)
    value = torch.cat([value, value, value.new_zeros(num_all)])
    return Sparse(_starts(torch.bincount(row, minlength=num_all)), col[order], value[order])


def _jaccard(shared):
    """Eq. (10). Both vectors sum to 1, so the sum of the maxima is 2 - s."""
    return 1 - shared / (2 - shared)


# ---------------------------------------------------------------- ragged arrays


def _starts(count):
    """Exclusive prefix sums with the total at the end: row starts from row lengths."""
    return F.pad(count.cumsum(0), (1, 0))


def _repeat(x, times):
    """x[0] times[0] times, x[1] times[1] times, ... (NumPy is several times faster at it than torch on the CPU)."""
    if x.device.type == "cpu":
        return torch.from_numpy(np.repeat(x.numpy(), times.numpy()))
    return torch.repeat_interleave(x, times)


def _ranges(first, length):
    """first[0], first[0] + 1, ... (length[0] of them), first[1], ..."""
    shift = _repeat(first - _starts(length)[:-1], length)
    return shift.add_(torch.arange(len(shift), device=shift.device))


def _argsort(key):
    """NumPy sorts with vector instructions, several times faster than torch on the CPU."""
    return torch.from_numpy(np.argsort(key.numpy())) if key.device.type == "cpu" else key.argsort()


# ---------------------------------------------------------------- neighbours


def _neighbours(points, k, bounds, keep=None):
    """The k nearest of every point and its largest distance.

    Distances come in square tiles; a tile of block I against block J serves the points of I with its rows and, where
    distances are symmetric, those of J with its columns, so that only the upper half of the matrix is computed.
    `keep` (queries of this process, G) receives the squared distances of queries to gallery on the way.

    Of several processes each computes the tiles of some blocks of rows: those of its own queries, and of the gallery
    what makes the work even; of measured distances, those of its own points. Each then merges, for its own points, what
    all have found.
    """
    num_all, num_query = points.num_all, points.num_query
    width = min(k + SPARE, num_all)
    blocks = points.blocks(width)
    nearest = [_Nearest(stop - start, width) for start, stop in blocks]
    scale = points.sq.new_zeros(num_all)
    for i in points.part.blocks(blocks, points.divided):
        rows = blocks[i]
        distances = points.products(slice(*rows))
        for j in range(i if points.symmetric else 0, len(blocks)):
            cols = blocks[j]
            d = distances(*cols)  # (b, c)
            if keep is not None and rows[0] < num_query < cols[1]:
                skip = max(num_query - cols[0], 0)
                queries = d[: num_query - rows[0], skip:]
                kept = slice(rows[0] - points.first, rows[1] - points.first)
                keep[kept, cols[0] + skip - num_query : cols[1] - num_query] = queries
            nearest[i].add(d, cols[0], by_row=True)
            _raise_to(scale[slice(*rows)], d.amax(1))
            if points.symmetric and i != j:
                nearest[j].add(d, rows[0], by_row=False)
                _raise_to(scale[slice(*cols)], d.amax(0))
        nearest[i].squeeze()
    first, last = points.part.of(num_all)
    index, dist = _merged(points.part, nearest, points.sq)
    index, dist = _settle(points, index, dist, bounds, k, first)
    index, dist = (points.part.all(each[:, :k].contiguous()) for each in (index, dist))
    scale = points.part.largest(scale)
    scale = torch.where(scale > 0, scale, 1)  # of equal points only: distances stay 0, the released code divides 0 / 0
    return Neighbours(index, dist, scale)


def _merged(part, nearest, like):
    """(index, distance) (n, width) of the nearest of this process's n points among what all have found."""
    index, dist = (torch.cat(each) for each in zip(*(n.listed(like) for n in nearest), strict=True))
    if part.world == 1:
        return index.long(), dist
    for rank in range(part.world):
        rows = slice(*part.of(len(index), rank))
        found = [part.beside(each[rows].contiguous()) for each in (index, dist)]  # (n, W * width)
        if rank == part.rank:
            order = found[1].argsort(dim=1, stable=True)[:, : index.shape[1]]
            mine = found[0].gather(1, order).long(), found[1].gather(1, order)
    return mine


def _raise_to(largest, values):
    torch.maximum(largest, values, out=largest)


class _Nearest:
    """The `width` nearest so far for one block of points, sorted, and a pool of what has come below their bound since.

    The first tile is ranked in full. Of later tiles only distances below the bound of their point, that is its
    width-th distance at the last ranking, are looked at: about width * (new / old) of them per point.
    """

    def __init__(self, num_points, width):
        self.num_points, self.width = num_points, width
        self.index = self.dist = self.bound = None  # (b, width), (b, width), (b,)
        self.pool, self.pooled = [], 0

    def add(self, d, first, by_row):
        """Distances d (b, n), or (n, b) when not `by_row`, to the points first, first + 1, ..."""
        if self.bound is None:
            d = d if by_row else d.T.contiguous()
            self.dist, index = d.topk(min(self.width, d.shape[1]), 1, largest=False)
            self.index = index.int() + first
            short = self.width - d.shape[1]
            if short > 0:  # a first tile of few points
                self.dist, self.index = F.pad(self.dist, (0, short), value=torch.inf), F.pad(self.index, (0, short))
        else:
            row, col = _below(d, self.bound[:, None] if by_row else self.bound)
            dist = d[row, col]
            point, other = (row, col) if by_row else (col, row)
            self.pool.append((point, other.int() + first, dist))
            self.pooled += len(dist)
            if self.pooled > 2 * self.dist.numel():
                self.squeeze()
        if self.pooled == 0:
            self.bound = self.dist[:, -1].contiguous()

    def listed(self, like):
        """(index, distance) (b, width); of a block that no tile has come to, infinitely far."""
        if self.bound is None:
            shape = self.num_points, self.width
            return like.new_zeros(shape, dtype=torch.int32), like.new_full(shape, torch.inf)
        self.squeeze()
        return self.index, self.dist

    def squeeze(self):
        """Rank the pool into the lists."""
        if not self.pooled:
            return
        device = self.dist.device
        point, other, dist = (torch.cat(x) for x in zip(*self.pool, strict=True))
        mine = torch.arange(self.num_points, device=device).repeat_interleave(self.width)
        point = torch.cat([mine, point])
        dist = torch.cat([self.dist.flatten(), dist])
        other = torch.cat([self.index.flatten(), other])
        order = _order_by_row(point, dist)
        start = _starts(torch.bincount(point, minlength=self.num_points))[:-1]
        take = order[start[:, None] + torch.arange(self.width, device=device)]
        self.index, self.dist = other[take], dist[take]
        self.pool, self.pooled = [], 0


def _below(d, bound):
    """Row and column of each d < bound."""
    if d.device.type != "cpu":
        return (d < bound).nonzero(as_tuple=True)
    return _true(torch.from_numpy(d.numpy() < bound.numpy()))  # several times faster than torch's comparison


def _true(mask):
    """Row and column of each True of a mask that is mostly False."""
    if mask.device.type != "cpu":
        return mask.nonzero(as_tuple=True)
    flat = mask.numpy().reshape(-1)
    whole = len(flat) // 8 * 8
    word = np.flatnonzero(flat[:whole].view(np.uint64))  # eight at a time
    hit = np.flatnonzero(flat[:whole].reshape(-1, 8)[word])
    at = np.concatenate([word[hit >> 3] * 8 + (hit & 7), whole + np.flatnonzero(flat[whole:])])
    row = at // mask.shape[1]
    return torch.from_numpy(row), torch.from_numpy(at - row * mask.shape[1])


def _order_by_row(row, dist):
    """Permutation that sorts by (row, dist)."""
    if dist.dtype == torch.float32:
        return _argsort((row << 32) | dist.clamp(min=0).abs().view(torch.int32))  # bits of floats >= 0 are in order
    order = dist.argsort()
    return order[row[order].argsort(stable=True)]


def _settle(points, index, dist, bounds, k, start=0):
    """Put lists, those of the points from `start` on, into the order (float64 distance, index) wherever float32 leaves
    open who is inside a bound.

    A list can be wrong at bound b only when its b-th and next distance are closer than twice their rounding error. The
    spare places at its end show whether all who may belong inside are listed; if not, the list is made anew.
    """
    num_all, width = points.num_all, index.shape[1]
    error = 2 * points.error(index, dist)[:, None]  # (N, 1)
    inner = torch.tensor([b - 1 for b in sorted(bounds) if b < width], dtype=torch.int64, device=index.device)
    unsure = (dist.diff(dim=1)[:, inner] <= error).any(1)
    lost = (dist[:, -1:] - dist[:, k - 1 : k] <= error)[:, 0] if width < num_all else torch.zeros_like(unsure)
    for i in _chunks((unsure & ~lost).nonzero()[:, 0], 256):
        near = index[i].sort(1)[0]  # ties stay in this order
        exact = points.pairs((i + start).repeat_interleave(width), near.flatten(), exact=True).view(near.shape)
        exact, order = exact.sort(dim=1, stable=True)
        index[i], dist[i] = near.gather(1, order), exact.to(dist.dtype)
    for i in _chunks(lost.nonzero()[:, 0], 64):
        limit = dist[i, -1:] + error[i]
        index[i], dist[i] = _relist(points, i + start, limit, width)
    return index, dist


def _chunks(x, length):
    return x.split(length) if len(x) else ()


def _relist(points, i, limit, width):
    """The `width` nearest of points i (b,) anew, from all whose distance is at most `limit` (b, 1).

    Only rows with very many near ties come here: copies of one image, features of a collapsed network. Distances
    between copies are computed once.
    """
    num_all = points.num_all
    row, col = _true(points.rows(i) <= limit)
    pair, place = torch.unique(points.twin[i[row]] * num_all + points.twin[col], return_inverse=True)
    exact = points.pairs(pair // num_all, pair % num_all, exact=True)[place]
    order = exact.argsort(stable=True)  # columns ascend inside a row: ties stay in the order of the index
    order = order[row[order].argsort(stable=True)]
    start = _starts(torch.bincount(row, minlength=len(i)))[:-1, None]
    take = order[start + torch.arange(width, device=i.device)]
    return col[take], exact[take].to(limit.dtype)


# ---------------------------------------------------------------- where distances come from


class _Features:
    """Squared euclidean distances between features, in tiles."""

    symmetric = True

    def __init__(self, query, gallery, memory_gb, group=None):
        query, gallery = _check_features(query), _check_features(gallery)
        if query.shape[1] != gallery.shape[1]:
            raise ValueError(f"query has {query.shape[1]} dimensions, gallery {gallery.shape[1]}: they must agree")
        if query.device != gallery.device:
            raise ValueError(f"query is on {query.device}, gallery on {gallery.device}: put both on one device")
        self.query, self.gallery = query, gallery
        self.device = query.device
        self.num_query, self.num_all = len(query), len(query) + len(gallery)
        self.part = Part(group)
        self.first, self.last = self.part.of(self.num_query)  # this process's queries
        self.divided = self.num_query  # so many of the points have their rows computed by whose they are
        self.memory = self.part.least(_memory(memory_gb, self.device), self.device)
        # Distances do not change when the mean is subtracted; their rounding error shrinks with the norms.
        # One process holds the centred features; of several each centres what it needs of those that it was given.
        self.x = torch.cat([query, gallery]) if group is None else None  # (N, D)
        self.mean = (query.sum(0) + gallery.sum(0)) / self.num_all if self.x is None else self.x.mean(0)
        if self.x is not None:
            self.x -= self.mean
        starts = range(0, self.num_all, 4096)
        parts = (self.centred(slice(start, min(start + 4096, self.num_all))) for start in starts)
        self.sq = torch.cat([part.square().sum(1) for part in parts])  # (N,)
        # oneDNN's float32 product is twice as fast as the MKL one behind torch.mm on AMD EPYC (benchmarks/rerank.py).
        self.onednn = (
            self.device.type == "cpu" and self.sq.dtype == torch.float32 and torch.backends.mkldnn.is_available()
        )

    def centred(self, rows):
        """The features of `rows`, a slice or indices (n,), without their mean: (n, D)."""
        if self.x is not None:
            return self.x[rows]
        if not isinstance(rows, slice):
            return self._given(rows) - self.mean
        query, gallery = self.query[rows], self.gallery[max(rows.start - self.num_query, 0) :]
        gallery = gallery[: max(rows.stop - max(rows.start, self.num_query), 0)]
        return torch.cat([query, gallery]) - self.mean

    def blocks(self, width):
        """Borders of the square tiles; 1024 keeps a tile in the cache of a CPU. Where several processes share them, a
        block of the `divided` points is of one process's."""
        most = 1024 if self.device.type == "cpu" else 8192
        step = max(width, min(most, int((self.memory / 64) ** 0.5)))
        ends = {self.num_all}
        if self.part.world > 1:
            ends |= {self.part.of(self.divided, rank)[1] for rank in range(self.part.world)}
        found, start = [], 0
        for end in sorted(ends):
            found += [(s, min(s + step, end)) for s in range(start, end, step)]
            start = end
        return found

    def products(self, rows):
        """Squared distances of some rows to any block of columns: |y|^2 - 2 x y in one product, then |x|^2."""
        left, sq = self.centred(rows) * -2, self.sq[rows, None]
        left = left.to_mkldnn() if self.onednn else left

        def distances(start, stop):
            with _full_precision(self.device):
                d = F.linear(left, self.centred(slice(start, stop)), self.sq[start:stop])  # (b, c)
            return (d.to_dense() if self.onednn else d).add_(sq)

        return distances

    def rows(self, i):
        """Squared distances of images i (b,) to all, (b, N)."""
        distances = self.products(i)
        if self.x is not None:
            return distances(0, self.num_all)
        return torch.cat([distances(s, min(s + 4096, self.num_all)) for s in range(0, self.num_all, 4096)], 1)

    def query_gallery(self, start, stop):
        """Squared distances of queries start to stop - 1 to the gallery, (b, G)."""
        distances, step = self.products(slice(start, stop)), self.num_all if self.x is not None else 4096
        starts = range(self.num_query, self.num_all, step)
        parts = [distances(s, min(s + step, self.num_all)) for s in starts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def room(self):
        """Room for the (Q, G) distances of this process's queries, so that they are computed once; None where it takes
        half of the memory."""
        shape = self.last - self.first, self.num_all - self.num_query
        keep = shape[0] * shape[1] * self.sq.element_size() <= self.memory / 2
        return self.sq.new_empty(shape) if keep else None

    def query_blocks(self):
        """Borders of the blocks of queries that are finished together."""
        row = (self.num_all - self.num_query) * 16  # bytes of a row of (Q, G) with what is made on the way
        step = max(1, int(min(self.memory / 8 / row, 256 if self.device.type == "cpu" else 4096)))
        return [(s, min(s + step, self.last)) for s in range(self.first, self.last, step)]

    def set_rows(self):
        """How many points have their sets expanded together, at 8 N bytes of working memory each."""
        step = self.memory / 8 / (8 * self.num_all)
        return max(1, int(min(step, 256 if self.device.type == "cpu" else 8192, self.num_all)))

    def error(self, index, dist):
        """Bound of the rounding error of the distances in each list, (N,).

        The error of a dot product of D terms grows as sqrt(D) eps / 2 times the product of the norms; the 4 is for
        the subtraction of the mean and the last two sums. The largest of 4 million errors at 2048 dimensions is half
        of this bound.
        """
        largest = self.sq[index].amax(1)  # (N,)
        return (len(self.mean) ** 0.5 + 4) * torch.finfo(self.sq.dtype).eps * largest

    def pairs(self, i, j, exact=False):
        """Squared distances of point pairs (P,); exact: in float64 from the features as given."""
        out = torch.empty(len(i), dtype=torch.float64 if exact else self.sq.dtype, device=self.device)
        step = 256 if self.device.type == "cpu" else 2**14
        for s in range(0, len(i), step):
            at = slice(s, s + step)
            if exact:
                out[at] = (self._original(i[at]) - self._original(j[at])).square_().sum(1)
            elif self.device.type == "cpu":  # NumPy's einsum makes no array of products
                a, b = self.centred(i[at]).numpy(), self.centred(j[at]).numpy()
                out[at] = self.sq[i[at]] + self.sq[j[at]] - 2 * torch.from_numpy(np.einsum("nd,nd->n", a, b))
            else:
                out[at] = (self.centred(i[at]) - self.centred(j[at])).square_().sum(1)
        return out

    @functools.cached_property
    def twin(self):
        """(N,) the first point with exactly the features of each point."""
        everyone = torch.arange(self.num_all, device=self.device)
        rng = torch.Generator().manual_seed(0)
        mix = torch.randn(len(self.mean), dtype=torch.float64, generator=rng).to(self.device)
        mark = torch.cat([(self._original(i) * mix).sum(1) for i in everyone.split(256)])  # the same for copies
        values, group = torch.unique(mark, return_inverse=True)
        first = torch.full_like(values, self.num_all, dtype=torch.int64).scatter_reduce_(0, group, everyone, "amin")
        twin = first[group]
        same = [(self._original(i) == self._original(twin[i])).all(1) for i in everyone.split(256)]
        return torch.where(torch.cat(same), twin, everyone)

    def _given(self, i):
        inside = i < self.num_query
        out = self.gallery[(i - self.num_query).clamp(min=0)]
        out[inside] = self.query[i[inside]]
        return out

    def _original(self, i):
        return self._given(i).double()


class _Distances:
    """Squares of given distances; the released code's matrix is the transpose of what it is given."""

    symmetric = False

    def __init__(self, q_g, q_q, g_g, memory_gb):
        q_g, q_q, g_g = (_check_features(x) for x in (q_g, q_q, g_g))
        q, g = q_g.shape
        if q_q.shape != (q, q) or g_g.shape != (g, g):
            raise ValueError(
                f"distances do not fit: q_g {tuple(q_g.shape)} wants q_q ({q}, {q}) and g_g ({g}, {g}), "
                f"found {tuple(q_q.shape)} and {tuple(g_g.shape)}"
            )
        self.q_g, self.q_q, self.g_g = q_g, q_q, g_g
        self.sq = q_g.new_empty(0)  # gives dtype and device
        self.device, self.num_query, self.num_all = q_g.device, q, q + g
        self.part, self.first, self.last, self.divided = Part(), 0, q, q
        self.memory = _memory(memory_gb, self.device)

    room = _Features.room
    query_blocks = _Features.query_blocks
    set_rows = _Features.set_rows
    blocks = _Features.blocks

    def products(self, rows):
        q, r, e = self.num_query, rows.start, rows.stop
        parts = []
        if r < q:
            parts.append(torch.cat([self.q_q[:, r : min(e, q)].T, self.q_g[r : min(e, q)]], 1))
        if e > q:
            r, e = max(r, q) - q, e - q
            parts.append(torch.cat([self.q_g[:, r:e].T, self.g_g[:, r:e].T], 1))
        strip = torch.cat(parts).square_()
        return lambda start, stop: strip[:, start:stop].contiguous()

    def rows(self, i):
        everyone = torch.arange(self.num_all, device=self.device).repeat(len(i))
        return self.pairs(i.repeat_interleave(self.num_all), everyone).view(len(i), -1)

    @property
    def twin(self):
        return torch.arange(self.num_all, device=self.device)

    def query_gallery(self, start, stop):
        return self.q_g[start:stop].square()

    def error(self, index, dist):
        return torch.finfo(dist.dtype).eps * dist[:, -1]

    def pairs(self, i, j, exact=False):
        q = self.num_query
        d = torch.where(
            i < q,
            torch.where(
                j < q,
                self.q_q[j.clamp(max=q - 1), i.clamp(max=q - 1)],
                self.q_g[i.clamp(max=q - 1), (j - q).clamp(min=0)],
            ),
            torch.where(
                j < q,
                self.q_g[j.clamp(max=q - 1), (i - q).clamp(min=0)],
                self.g_g[(j - q).clamp(min=0), (i - q).clamp(min=0)],
            ),
        )
        return (d.double() if exact else d).square()


class _Measured(_Distances):
    """Squares of measured distances: row i of the released code's matrix is the distances of all points to point i.

    A process holds the rows of its part of the points. What the rounding of a distance depends on, the tile that it is
    measured in, does not depend on the number of processes.
    """

    rows_of_tile, columns_of_tile = 256, 4096

    def __init__(self, measured, memory_gb, group=None):
        self.between, self.num_query, self.num_all = measured
        self.part = Part(group)
        self.start, self.stop = self.part.of(self.num_all)  # this process's points
        self.first, self.last = self.part.of(self.num_query)  # its queries
        self.divided = self.num_all
        self._check_room(Budget.of(memory_gb))
        self.strip = self.measure((self.start, self.stop), (0, self.num_all))  # (n, N)
        if len(self.strip):
            self.strip = _check_features(self.strip)
        self.sq = self.strip.new_empty(0)  # gives dtype and device
        self.device = self.strip.device
        self.memory = self.part.least(_memory(memory_gb, self.device), self.device)

    @property
    def inside(self):
        """Whether the rows of this process's queries are among those of its points."""
        return self.start <= self.first and self.last <= self.stop

    def _check_room(self, budget):
        """ValueError if the distances that the most loaded process holds do not fit into a given budget."""
        world, gallery = self.part.world, self.num_all - self.num_query
        size = 4 * (self.num_all**2 + (self.num_query * gallery if world > 1 else 0)) // world
        if budget.gb is not None and size > budget.bytes():
            raise ValueError(
                f"re-ranking by a distance of parts holds all distances, {size / GIB:.2f} GiB"
                f"{f' in each of {world} processes' if world > 1 else ''}, and --memory_gb is {budget.gb:g}: give more "
                "memory, start more processes (torchrun), compare embeddings (--test_distance global), or do without "
                "re-ranking"
            )

    def tiles(self, points, length):
        """Borders of the tiles that hold any of the points (start, stop)."""
        for begin, end in ((0, self.num_query), (self.num_query, self.num_all)):
            for s in range(begin, end, length):
                e = min(s + length, end)
                if max(s, points[0]) < min(e, points[1]):
                    yield s, e

    def measure(self, rows, columns):
        """Distances of the points `columns` to the points `rows`, both (start, stop): (n, m)."""
        shape = rows[1] - rows[0], columns[1] - columns[0]
        found = None
        for s, e in self.tiles(rows, self.rows_of_tile):
            for c, d in self.tiles(columns, self.columns_of_tile):
                from_query = e <= self.num_query <= c  # these are known in one direction
                tile = self.between((s, e), (c, d)) if from_query else self.between((c, d), (s, e)).T
                found = tile.new_empty(shape) if found is None else found
                a, b = (max(s, rows[0]), min(e, rows[1])), (max(c, columns[0]), min(d, columns[1]))
                part = tile[a[0] - s : a[1] - s, b[0] - c : b[1] - c]
                found[a[0] - rows[0] : a[1] - rows[0], b[0] - columns[0] : b[1] - columns[0]] = part
        return torch.empty(shape) if found is None else found

    @functools.cached_property
    def own(self):
        """Distances of this process's queries to the gallery, (its Q, G)."""
        if self.inside:
            return self.strip[self.first - self.start : self.last - self.start, self.num_query :]
        return self.measure((self.first, self.last), (self.num_query, self.num_all))

    def room(self):
        """None: the distances are held as it is."""

    def products(self, rows):
        strip = self.strip[rows.start - self.start : rows.stop - self.start]
        return lambda start, stop: strip[:, start:stop].square()

    def query_gallery(self, start, stop):
        return self.own[start - self.first : stop - self.first].square()

    def pairs(self, i, j, exact=False):
        """Of points i of this process."""
        d = self.strip[i - self.start, j]
        return (d.double() if exact else d).square()


# ---------------------------------------------------------------- checks


def _check_parameters(k1, k2, lambda_value):
    NEIGHBOURS.check("k1", k1)
    NEIGHBOURS.check("k2", k2)
    Number(float, SHARE).check("lambda_value", lambda_value)


def _check_features(x):
    x = torch.as_tensor(x).detach()
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"expected a matrix with at least one row and column, found shape {tuple(x.shape)}")
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    bad = (~(x.amin(1).isfinite() & x.amax(1).isfinite())).nonzero()[:, 0]  # no (N, D) mask
    if len(bad):
        raise ValueError(f"{len(bad)} rows hold NaN or infinite values, the first is row {int(bad[0])}")
    return x


@contextlib.contextmanager
def _full_precision(device):
    """No autocast and no TF32 or bfloat16 inside float32 products: either would move neighbours."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _memory(memory_gb, device):
    """Bytes of working memory: what is given, or half of what is free, on a CPU at most 4 GiB."""
    return Budget.of(memory_gb).bytes(device, share=0.5, limit=None if device.type == "cuda" else 4)
