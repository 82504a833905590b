"""The nearest points of every point, exactly, from tiles of distances."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from neighbours.ragged import argsort, row_starts

SPARE = 8  # neighbours kept beyond the last one needed, so that near ties can be settled among them


class Neighbours(NamedTuple):
    """The nearest points of every point, itself included, in the order (distance, index)."""

    index: torch.Tensor  # type: ignore[assignment]  # (N, K) int64; hides tuple.index
    dist: torch.Tensor  # (N, K) squared distance
    scale: torch.Tensor  # (N,) largest squared distance of each point, the normaliser of the released code


def nearest_of(points, k, bounds, keep=None):
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
        start = row_starts(torch.bincount(point, minlength=self.num_points))[:-1]
        take = order[start[:, None] + torch.arange(self.width, device=device)]
        self.index, self.dist = other[take], dist[take]
        self.pool, self.pooled = [], 0


def _below(d, bound):
    """Row and column of each d < bound."""
    if d.device.type != "cpu":
        return (d < bound).nonzero(as_tuple=True)
    return where_true(torch.from_numpy(d.numpy() < bound.numpy()))  # several times faster than torch's comparison


def where_true(mask):
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
        return argsort((row << 32) | dist.clamp(min=0).abs().view(torch.int32))  # bits of floats >= 0 are in order
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
    row, col = where_true(points.rows(i) <= limit)
    pair, place = torch.unique(points.twin[i[row]] * num_all + points.twin[col], return_inverse=True)
    exact = points.pairs(pair // num_all, pair % num_all, exact=True)[place]
    order = exact.argsort(stable=True)  # columns ascend inside a row: ties stay in the order of the index
    order = order[row[order].argsort(stable=True)]
    start = row_starts(torch.bincount(row, minlength=len(i)))[:-1, None]
    take = order[start + torch.arange(width, device=i.device)]
    return col[take], exact[take].to(limit.dtype)
