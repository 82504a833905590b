"""Where the distances of a re-ranking come from: features, given distances, or a measure of pairs of images."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import torch
import torch.nn.functional as F

from machine.memory import GIB, Budget
from machine.parts import Part


class Features:
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
            with full_precision(self.device):
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


class Distances:
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

    room = Features.room
    query_blocks = Features.query_blocks
    set_rows = Features.set_rows
    blocks = Features.blocks

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


class MeasuredTiles(Distances):
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
def full_precision(device):
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
