"""What one pass over the distances tells beside the metrics: the ranked lists that pages show, and `--details`.

mAP by pair of cameras, and verification: same person or not, by a threshold on the distance. Each is a collector of
`evaluate`, fed in the pass that ranks; the last two are also functions of blocks of distances.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evaluate import Block, Collector, Piece, collect
from machine import ranges
from machine.ranges import Neighbours, Number, Range
from protocols import INF, Labels


class CameraPairs(NamedTuple):
    """`mAP` (A, B) float64: queries of camera `query_camids[a]` against the gallery images of `gallery_camids[b]`
    alone; NaN where no such query has a match. `num_valid` (A, B): how many have."""

    query_camids: Tensor
    gallery_camids: Tensor
    mAP: Tensor
    num_valid: Tensor


class CameraPairCollector(Collector):
    """`CameraPairs`; under "market1501" a camera against itself has none.

    gallery_cameras: those of the table, if this gallery is one of several that do not show all of them.
    """

    pair_bytes = 12

    def __init__(self, labels: Labels, gallery_cameras: Tensor | None = None):
        super().__init__(labels)
        self.query_cameras, self.row = labels.query_camids.unique(return_inverse=True)
        self.gallery_cameras = labels.gallery_camids.unique() if gallery_cameras is None else gallery_cameras
        self.columns = [(labels.gallery_camids == camera).nonzero().flatten() for camera in self.gallery_cameras]
        self.parts = [labels.only(index) if len(index) else None for index in self.columns]
        sides = len(self.query_cameras), len(self.gallery_cameras)
        self.found = [torch.zeros(2, *sides, dtype=torch.float64)]  # sum of AP, number of queries

    def add(self, piece: Piece) -> None:
        """Rank the queries in the gallery of each camera alone."""
        total = self.found[0]
        for b, (index, part) in enumerate(zip(self.columns, self.parts, strict=True)):
            if part is None:
                continue
            ranks = Piece(piece.distances[:, index.to(piece.distances.device)], piece.start, part).ranks
            total[0, :, b].index_add_(0, self.row[ranks.query], ranks.ap)
            total[1, :, b].index_add_(0, self.row[ranks.query], torch.ones_like(ranks.ap))

    def result(self) -> CameraPairs:
        """Means over the queries of each pair."""
        total, count = torch.stack(self.found).sum(0)
        return CameraPairs(self.query_cameras, self.gallery_cameras, total / count, count.long())


def camera_pairs(blocks: Iterable[Block], labels: Labels) -> CameraPairs:
    """mAP for each pair of query camera and gallery camera."""
    pairs = CameraPairCollector(labels)
    collect(blocks, [pairs])
    return pairs.result()


class Verification(NamedTuple):
    """Same person or not, decided by distance <= threshold, over all pairs of a query and a gallery image it sees.

    `levels` (F,) are the false positive rates asked for; `tpr`, `thresholds` (F,) belong to the largest threshold whose
    rate does not exceed the level. At `eer_threshold` false positive and false negative rate are equal, to `eer`.
    All of these are NaN where the pairs are too few to tell them (`enough`).
    `curve_thresholds`, `curve_fpr`, `curve_tpr` (T,) are the ROC.
    """

    levels: Tensor
    tpr: Tensor
    thresholds: Tensor
    eer: float
    eer_threshold: float
    curve_thresholds: Tensor
    curve_fpr: Tensor
    curve_tpr: Tensor
    num_genuine: int
    num_impostor: int


PAIRS_TO_TELL = 100  # of one person, of two: with fewer an equal error rate or a true positive rate is an anecdote


LEVEL = Number(float, Range(0, 1, above=True))


def pairs_needed(rate: float) -> int:
    """How many pairs of two people tell a false positive rate: as many as hold ten errors at that rate."""
    return max(PAIRS_TO_TELL, round(10 / rate))


def enough(rate: float, num_genuine: int, num_impostor: int) -> bool:
    """Whether so many pairs of one person and of two tell a false positive rate; of 1, the equal error rate."""
    return num_genuine >= PAIRS_TO_TELL and num_impostor >= pairs_needed(rate)


_DROPPED_BITS = 11  # of a float32's 23-bit fraction: thresholds lie on a grid of relative spacing 2^-12 to 2^-13
_NUM_BINS = (0x7F800000 >> _DROPPED_BITS) + 1  # 0x7F800000 is +inf, the bin of what the protocol hides


class VerificationCounts(Collector):
    """`Verification`, without holding the pairs.

    Distances must be finite and not negative: then the bit patterns of float32 are ordered as they are, and pairs are
    counted by their leading bits. Thresholds so lie on a grid 0.02 % apart, and the rates at each are exact. Between
    the two thresholds around the crossing the equal error rate is interpolated.
    """

    pair_bytes = 20

    def __init__(self, labels: Labels, levels: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1)):
        super().__init__(labels)
        for level in levels:
            LEVEL.check("a false positive rate", level)
        self.levels = torch.tensor(levels, dtype=torch.float64)
        self.found = [torch.zeros(2, _NUM_BINS, dtype=torch.int64)]  # of the same person, of two

    def add(self, piece: Piece) -> None:
        """Count the pairs of the piece."""
        if piece.distances.min() < 0:
            raise ValueError(f"a distance is {piece.distances.min().item():g}: expected 0 or more")
        self.found[0][0] += _histogram(piece.own[piece.kept])
        self.found[0][1] += _histogram(piece.seen) - _histogram(piece.own[piece.same])

    def counts(self) -> Tensor:
        """(2, bins) int64: pairs of the same person, and of two, by distance."""
        counts = torch.stack(self.found).sum(0)
        counts[:, -1] = 0  # what the protocol hides
        return counts

    def histogram(self, count: int = 60) -> dict[str, list[float]]:
        """How the distances lie, as plain values: shares of the pairs of one person, `same`, and of two, `other`, each
        (count,), between `edges` (count + 1,) of equal distance from the least to the largest; {} without a pair."""
        counts = self.counts()
        used = counts.sum(0).nonzero().flatten()
        if not len(used):
            return {}
        lower, upper = (
            (bits.to(torch.int32).view(torch.float32).double())
            for bits in (used << _DROPPED_BITS, (used + 1 << _DROPPED_BITS) - 1)
        )
        edges = torch.linspace(float(lower[0]), float(upper[-1]), count + 1, dtype=torch.float64)
        place = torch.bucketize((lower + upper) / 2, edges[1:-1])
        shares = torch.zeros(2, count, dtype=torch.float64).index_add_(1, place, counts[:, used].double())
        same, other = (shares / counts.sum(1, keepdim=True).clamp(min=1)).tolist()
        return {"edges": edges.tolist(), "same": same, "other": other}

    def result(self) -> Verification:
        """ROC, TPR at the levels, and the equal error rate."""
        genuine, impostor = self.counts()
        return _roc(genuine, impostor, self.levels)

    def plain(self) -> dict:
        """The result as plain values, with None in place of what too few pairs were compared for."""
        found = self.result()

        def told(value: Tensor | float) -> float | None:
            return None if math.isnan(value) else float(value)

        return {
            "eer": told(found.eer),
            "eer_threshold": told(found.eer_threshold),
            "pairs_of_one": found.num_genuine,
            "pairs_of_two": found.num_impostor,
            "rates": [
                {"fpr": level, "tpr": told(tpr), "threshold": told(threshold), "pairs_needed": pairs_needed(level)}
                for level, tpr, threshold in zip(found.levels.tolist(), found.tpr, found.thresholds, strict=True)
            ],
        }


def verification(
    blocks: Iterable[Block], labels: Labels, levels: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1)
) -> Verification:
    """ROC, TPR at given false positive rates, and the equal error rate; see `VerificationCounts`."""
    counts = VerificationCounts(labels, levels)
    collect(blocks, [counts])
    return counts.result()


def _histogram(distance: Tensor) -> Tensor:
    """Counts (bins,) by the leading bits of the float32 pattern."""
    bits = distance.float().contiguous().view(torch.int32).flatten() & 0x7FFFFFFF  # -0.0 is 0.0
    return torch.bincount(bits >> _DROPPED_BITS, minlength=_NUM_BINS).cpu()


def _roc(genuine: Tensor, impostor: Tensor, levels: Tensor) -> Verification:
    num_genuine, num_impostor = int(genuine.sum()), int(impostor.sum())
    used = ((genuine > 0) | (impostor > 0)).nonzero().flatten()
    upper = ((used + 1 << _DROPPED_BITS) - 1).to(torch.int32).view(torch.float32)  # the largest float of each bin
    thresholds = F.pad(upper.double(), (1, 0))  # (T,), the first below every pair of a distance > 0
    fpr, tpr = (F.pad(counts[used].cumsum(0).double() / counts.sum(), (1, 0)) for counts in (impostor, genuine))

    at = torch.searchsorted(fpr, levels, right=True) - 1  # the last with fpr <= level
    told = torch.tensor([enough(level, num_genuine, num_impostor) for level in levels.tolist()])
    at_levels = [x[at].where(told, math.nan) for x in (tpr, thresholds)]
    eer = eer_threshold = math.nan
    if enough(1, num_genuine, num_impostor):
        gap = (1 - tpr) - fpr  # falls from 1 to -1
        i = int((gap <= 0).nonzero()[0])
        t = gap[i - 1] / (gap[i - 1] - gap[i])
        eer, eer_threshold = (torch.lerp(x[i - 1], x[i], t).item() for x in (fpr, thresholds))
    return Verification(
        levels, at_levels[0], at_levels[1], eer, eer_threshold, thresholds, fpr, tpr, num_genuine, num_impostor
    )


class Ranking(NamedTuple):
    """A query and the gallery images a person is shown for it, nearest first; at equal distance wrong before right, as
    the metric counts."""

    query: int  # row among the queries
    ap: float  # nan: no match in the gallery
    first_hit: int | None  # rank of the first right image, from 1, removed ones not counted
    num_hits: int  # right images in the whole gallery
    index: tuple[int, ...]  # type: ignore[assignment]  # (n,) rows of the gallery; hides tuple.index
    distance: tuple[float, ...]  # (n,)
    mark: tuple[str | None, ...]  # (n,) "right", "wrong", "junk" (removed by the protocol), None: unlabelled
    rank: tuple[int | None, ...]  # (n,) from 1; None for junk


def alignment(query: Tensor, gallery: Tensor) -> list[str]:
    """The paths behind AlignedReID's local distance (`losses.aligned_distance`) of n pairs of images, whose parts from
    top to bottom are query (n, S, D) and gallery (n, T, D), normalised if the distance normalises them.

    Each path is S + T - 2 steps from the pair of top parts to the pair of bottom parts: "q" goes on to the query's next
    part, "g" to the gallery image's.
    """
    cost = torch.tanh(torch.cdist(query.double(), gallery.double()) / 2)  # (n, S, T)
    (_, rows, columns), total = cost.shape, cost.clone()
    for s in range(rows):
        for t in range(columns):
            before = [total[:, s - 1, t]] * (s > 0) + [total[:, s, t - 1]] * (t > 0)
            if before:
                total[:, s, t] += torch.stack(before).amin(0)
    paths = []
    for each in total.tolist():
        s, t, steps = rows - 1, columns - 1, ""
        while s or t:
            down = t == 0 or (s > 0 and each[s - 1][t] <= each[s][t - 1])
            s, t, steps = (s - 1, t, "q" + steps) if down else (s, t - 1, "g" + steps)
        paths.append(steps)
    return paths


WRONG, JUNK, RIGHT, NOTHING = range(4)  # at equal distance in this order
ORDERS = ("worst", "best", "random", "given")
ONLY = ("all", "right", "wrong")


class RankedLists(Collector):
    """The `top_k` nearest gallery images of every query: what pages of ranked queries are drawn from.

    Kept for all queries, because which are the worst is known only at the end of the pass; that is a few numbers each.
    show_junk: images that the protocol removes stand in the list at their place instead of being left out.
    labelled: False where nothing is known of identities (all pids are equal then).
    """

    pair_bytes = 14

    @ranges.checked
    def __init__(self, labels: Labels, top_k: Neighbours = 10, show_junk: bool = False, labelled: bool = True):
        super().__init__(labels)
        self.top_k, self.show_junk, self.labelled = top_k, show_junk, labelled

    def add(self, piece: Piece) -> None:
        """Take the nearest images of each query, and its nearest right one, which may be farther."""
        right, first = _sorted_candidates(piece, piece.kept, self.top_k)
        kinds = {WRONG: self._wrong(piece), RIGHT: right}
        if self.show_junk:
            kinds[JUNK] = self._junk(piece)
        distance, index = (torch.cat([found[i] for found in kinds.values()], dim=1).cpu().numpy() for i in (0, 1))
        width = min(self.top_k, self.labels.shape[1])
        missing = max(0, width - distance.shape[1])
        distance, index = (np.pad(x, ((0, 0), (0, missing)), constant_values=-1) for x in (distance, index))
        widths = [found[0].shape[1] for found in kinds.values()]
        mark = np.repeat([*kinds, NOTHING], [*widths, missing])[None].repeat(len(index), axis=0)
        mark[index < 0] = NOTHING
        order = np.lexsort((index, mark, distance, mark == NOTHING))[:, :width]
        distance, index, mark = (np.take_along_axis(x, order, axis=1) for x in (distance, index, mark))
        ap = np.full(len(distance), math.nan)
        ap[(piece.ranks.query - piece.start).numpy()] = piece.ranks.ap.numpy()
        rank = 1 + piece.wrong[:, 0].cpu().numpy()
        near, nearest = (x.cpu().numpy() for x in first)
        self.found.append(_Lists(distance, index, mark, near, nearest, ap, rank, piece.num_hits.cpu().numpy()))

    def _wrong(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """Distances and columns (b, k) of the nearest images of other people; column -1: there are no more."""
        others = piece.seen.clone()
        row, place = piece.same.nonzero(as_tuple=True)
        others[row, piece.index[row, place]] = INF
        distance, index = others.topk(min(self.top_k, others.shape[1]), dim=1, largest=False)
        same, removed = self.labels.judge(torch.arange(piece.start, piece.stop), index.cpu())
        return distance, index.masked_fill((same | removed).to(index.device), -1)

    def _junk(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """Distances and columns of the nearest images that the protocol removes."""
        distance, index = _sorted_candidates(piece, piece.same & ~piece.kept, self.top_k, piece.distances)[0]
        if self.labels.protocol.cameras:
            hidden = piece.distances.masked_fill(piece.seen != INF, INF)
            far, column = hidden.topk(min(self.top_k, hidden.shape[1]), dim=1, largest=False)
            same, removed = self.labels.judge(torch.arange(piece.start, piece.stop), column.cpu())
            column = column.masked_fill((same | ~removed).to(column.device), -1)
            distance, index = torch.cat([distance, far], dim=1), torch.cat([index, column], dim=1)
        return distance, index

    def choose(self, order: str = "worst", only: str = "all", num: int = 20, seed: int = 0) -> list[Ranking]:
        """The rows of up to `num` queries. order: "worst" and "best" by AP, without queries that have no match,
        "random" (by `seed`) or "given". only: "right" or "wrong" keeps queries whose first image is so, if any."""
        for name, value, choices in (("order", order, ORDERS), ("only", only, ONLY)):
            if value not in choices:
                raise ValueError(f"{name} is '{value}', expected one of {', '.join(choices)} (--{name})")
        if not self.labelled and only != "all":
            raise ValueError(f"--only {only}: the images have no labels, nothing is known to be right or wrong")
        found = _Lists(*(np.concatenate(field) for field in zip(*self.found, strict=True)))
        rows = np.arange(len(found.ap))
        if order == "random":
            rows = np.random.default_rng(seed).permutation(rows)
        elif order in ("worst", "best") and self.labelled:
            rows = rows[~np.isnan(found.ap)]
            rows = rows[np.argsort(found.ap[rows] * (1 if order == "worst" else -1), kind="stable")]
        if only != "all":
            rows = rows[(found.num_hits[rows] > 0) & ((found.first_hit[rows] == 1) == (only == "right"))]
        return [self._ranking(found, int(row)) for row in rows[:num]]

    def _ranking(self, found: _Lists, row: int) -> Ranking:
        listed = found.mark[row] != NOTHING
        index, distance, mark = (x[row][listed].tolist() for x in (found.index, found.distance, found.mark))
        index = [self.labels.as_given(column) for column in index]
        places = np.cumsum([kind != JUNK for kind in mark]).tolist()
        rank = [None if kind == JUNK else place for kind, place in zip(mark, places, strict=True)]
        if not self.labelled:
            return Ranking(row, math.nan, None, 0, tuple(index), tuple(distance), (None,) * len(index), tuple(rank))
        hits, first = int(found.num_hits[row]), int(found.first_hit[row])
        if hits and RIGHT not in mark:  # what the model should have found
            index.append(self.labels.as_given(int(found.first_index[row])))
            distance.append(float(found.first_distance[row]))
            mark.append(RIGHT)
            rank.append(first)
        words = {WRONG: "wrong", JUNK: "junk", RIGHT: "right"}
        marks = tuple(words[kind] for kind in mark)
        ap = float(found.ap[row])
        return Ranking(row, ap, first if hits else None, hits, tuple(index), tuple(distance), marks, tuple(rank))


class _Lists(NamedTuple):
    """n queries: the first three (n, k), the others (n,)."""

    distance: np.ndarray
    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index
    mark: np.ndarray
    first_distance: np.ndarray
    first_index: np.ndarray
    ap: np.ndarray
    first_hit: np.ndarray
    num_hits: np.ndarray


def _sorted_candidates(piece: Piece, chosen: Tensor, top_k: int, distances: Tensor | None = None):
    """The candidates `chosen` (b, K) of a piece by distance: distances and columns (b, top_k), column -1 past the last
    one; and those of the first (b,)."""
    own = piece.own if distances is None else distances.gather(1, piece.index)
    order = own.masked_fill(~chosen, INF).sort(dim=1, stable=True).indices
    order = order.gather(1, chosen.gather(1, order).logical_not().to(torch.int8).sort(dim=1, stable=True).indices)
    distance, chosen, column = (x.gather(1, order)[:, :top_k] for x in (own, chosen, piece.index))
    index = column.masked_fill(~chosen, -1)
    return (distance, index), (distance[:, 0], index[:, 0])
