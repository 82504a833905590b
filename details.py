"""What one pass over the distances tells beside the metrics: `--details`.

mAP by pair of cameras, and verification: same person or not, by a threshold on the distance. Each is a collector of
`evaluate`, fed in the pass that ranks, and a function of blocks of distances for those who want it alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluate import Block, Collector, Piece, collect
from protocols import Labels


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


def pairs_needed(rate: float) -> int:
    """How many pairs of two people tell a false positive rate: as many as hold ten errors at that rate."""
    return max(PAIRS_TO_TELL, round(10 / rate))


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

    def result(self) -> Verification:
        """ROC, TPR at the levels, and the equal error rate; ValueError where there are no pairs of one of the kinds."""
        genuine, impostor = self.counts()
        return _roc(genuine, impostor, self.levels)

    def plain(self) -> dict:
        """The result as plain values, with None in place of what too few pairs were compared for."""
        genuine, impostor = self.counts().sum(1).tolist()
        found = self.result() if genuine and impostor else None
        told = found is not None and min(genuine, impostor) >= PAIRS_TO_TELL
        rates = []
        for i, level in enumerate(self.levels.tolist()):
            enough = found is not None and told and impostor >= pairs_needed(level)
            tpr, threshold = (found.tpr[i].item(), found.thresholds[i].item()) if found and enough else (None, None)
            rates.append({"fpr": level, "tpr": tpr, "threshold": threshold, "pairs_needed": pairs_needed(level)})
        return {
            "eer": found.eer if found and told else None,
            "eer_threshold": found.eer_threshold if found and told else None,
            "pairs_of_one": genuine,
            "pairs_of_two": impostor,
            "rates": rates,
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
    if not num_genuine or not num_impostor:
        raise ValueError(
            f"verification needs pairs of both kinds: found {num_genuine} of the same person and {num_impostor} of two"
        )
    used = ((genuine > 0) | (impostor > 0)).nonzero().flatten()
    upper = ((used + 1 << _DROPPED_BITS) - 1).to(torch.int32).view(torch.float32)  # the largest float of each bin
    thresholds = F.pad(upper.double(), (1, 0))  # (T,), the first below every pair of a distance > 0
    fpr, tpr = (F.pad(counts[used].cumsum(0).double() / counts.sum(), (1, 0)) for counts in (impostor, genuine))

    at = torch.searchsorted(fpr, levels, right=True) - 1  # the last with fpr <= level
    gap = (1 - tpr) - fpr  # falls from 1 to -1
    i = int((gap <= 0).nonzero()[0])
    t = gap[i - 1] / (gap[i - 1] - gap[i])
    eer, eer_threshold = (torch.lerp(x[i - 1], x[i], t).item() for x in (fpr, thresholds))
    return Verification(
        levels, tpr[at], thresholds[at], eer, eer_threshold, thresholds, fpr, tpr, num_genuine, num_impostor
    )
