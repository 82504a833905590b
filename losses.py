"""Losses of the reproduced papers: functions on tensors, then modules that read a model's `Output`, then `Criterion`.

Every loss is called as `loss(output, labels)`, where `output` has the fields
    embedding (B, D)    what retrieval compares
    logits    tuple of (B, N), one per ID classifier
    feats     tuple of (B, D_i), the features of the metric losses
    parts     (B, S, D) or None, the local features
and `labels` (B,) are contiguous identities. No loss remembers a batch: what one notices in it beside its value goes
into the `notes` that the caller hands to it. Letters: B images, N identities, D width, F feats or classifiers, S parts.
What else a loss may say of itself, as attributes that `Criterion` and `train` read:
    needs        the fields of the Output that it reads
    takes_notes  it is called as loss(output, labels, notes)
    takes_views  it gets the batch's `loading.views.Views` (cameras, clothes) as its last argument
    begins       epochs of a run after which it joins; it is no term before
    own_optimizer(weight)  the optimiser of its parameters, which the network's then leaves alone
    ahead(output, labels[, views])  what its own optimiser minimises, in a step of its own, before its term is computed:
                 `output` is detached there
All losses compute in float32 (float64 if given float64), also inside autocast: half precision cannot hold
a squared distance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from functions.distances import aligned_distance, aligned_pair_distance, euclidean_distance, full_precision
from machine import processes, ranges
from machine.ranges import (
    POSITIVE,
    Angle,
    Count,
    Focus,
    Fraction,
    Margin,
    Members,
    Newest,
    Number,
    Positive,
    Share,
    Width,
)

T = TypeVar("T")


class Output(Protocol):
    """The fields that losses read; `models.Output` has them."""

    @property
    def embedding(self) -> Tensor: ...
    @property
    def logits(self) -> tuple[Tensor, ...]: ...
    @property
    def feats(self) -> tuple[Tensor, ...]: ...
    @property
    def parts(self) -> Tensor | None: ...


# ---------------------------------------------------------------------------------------------------------------------
# Functions on tensors
# ---------------------------------------------------------------------------------------------------------------------


def cat(tensors: Sequence[Tensor]) -> Tensor:
    """torch.cat along the first axis, without the copy that it makes of a single tensor."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors))


def same_identity(labels: Tensor) -> Tensor:
    """labels (B,) -> (B, B) bool. ValueError if the batch holds one identity only: no anchor would have a negative.

    Looked at where it costs nothing: on a GPU the answer would have to be waited for in every step.
    """
    same = labels[:, None] == labels[None, :]  # (B, B)
    if labels.device.type == "cpu" and bool(same.all()):
        raise ValueError(
            f"a metric loss got a batch of {len(labels)} images of one identity (label {int(labels[0])}), so no anchor "
            "has a negative; use batches of at least two identities (--p 2 or more)"
        )
    return same


def hard_pairs(distances: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Batch-hard mining (Hermans et al. 2017, L_BH): the furthest positive and the nearest negative of each anchor.

    distances (..., B, B), labels (B,) -> indices p, n, each (..., B).
    The anchor counts as its own positive at distance zero, as in open-reid and all its descendants: an anchor whose
    identity occurs once in the batch has itself as positive.
    An anchor without any negative means a batch of one identity, which is an error (`same_identity`).
    """
    same = same_identity(labels)  # (B, B)
    distances = distances.detach()
    positive = torch.where(same, distances, -1)
    positive.diagonal(dim1=-2, dim2=-1).zero_()
    furthest = positive.argmax(-1)  # (..., B)
    nearest = distances.masked_fill(same, math.inf).argmin(-1)  # (..., B)
    return furthest, nearest


def distances_to(feats: Tensor, *indices: Tensor) -> tuple[Tensor, ...]:
    """Euclidean distances of each row to those that each index names: feats (..., B, D), indices, results (..., B).

    Computed from the difference, so exact for near duplicates; the gradient at distance zero is zero (as the
    authors' clamp(1e-12).sqrt() has it, without its floor of 1e-6).
    """
    feats = feats.unsqueeze(-3)  # (..., 1, B, D)
    index = torch.stack(indices, -2)[..., None]  # (..., I, B, 1)
    shape = *index.shape[:-1], feats.shape[-1]
    other = feats.expand(shape).gather(-2, index.expand(shape))  # (..., I, B, D)
    return torch.linalg.vector_norm(feats - other, dim=-1).unbind(-2)


def ranking_loss(dist_ap: Tensor, dist_an: Tensor, margin: float | None) -> Tensor:
    """(..., B) each -> (...): mean of max(0, ap - an + margin), or of log(1 + exp(ap - an)) if margin is None."""
    gap = dist_ap - dist_an
    return F.softplus(gap).mean(-1) if margin is None else F.relu(gap + margin).mean(-1)


def batch_hard_triplet(
    feats: Tensor, labels: Tensor, margin: float | None = 0.3, hard_factor: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Batch-hard triplet loss of F features at once: feats (F, B, D), labels (B,) -> losses (F,), negatives (F, B).

    Hermans et al. 2017, L_BH; the harder-example factor h replaces ap by (1 + h) ap and an by (1 - h) an
    (lulujianjie/person-reid-tiny-baseline @a13a8a8, loss/triplet_loss.py). The second value is the distance to the
    hardest negative. Pairs are mined without a graph; only the 2B chosen distances are differentiated.
    """
    with torch.autocast(feats.device.type, enabled=False):
        feats = full_precision(feats)
        with torch.no_grad():
            furthest, nearest = hard_pairs(euclidean_distance(feats, feats), labels)  # (F, B) each
        dist_ap, dist_an = distances_to(feats, furthest, nearest)  # (F, B) each
        found = dist_an.detach()
        if hard_factor:
            dist_ap, dist_an = (1 + hard_factor) * dist_ap, (1 - hard_factor) * dist_an
        return ranking_loss(dist_ap, dist_an, margin), found


def center_distance(feats: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch of ||x_i - c_{y_i}||^2: feats (B, D), centers (N, D), labels (B,) -> scalar."""
    with torch.autocast(feats.device.type, enabled=False):
        squared = (full_precision(feats) - full_precision(centers[labels])).square().sum(-1)  # (B,)
        return squared.clamp(1e-12, 1e12).mean()


def arc_margin(cosine: Tensor, margin: float) -> Tensor:
    """ArcFace, Deng et al. 2019, Eq. (3): cos(theta + m) from cos(theta), any shape.

    For theta + m > pi, where cos would rise again, the authors continue with the line cos(theta) - m sin(pi - m).
    sin(theta) is kept off zero so that its gradient stays finite at theta = 0.
    """
    sine = (1 - cosine.square()).clamp(min=torch.finfo(cosine.dtype).eps).sqrt()
    phi = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine > math.cos(math.pi - margin), phi, cosine - margin * math.sin(math.pi - margin))


def weighted_distances(feats: Tensor, labels: Tensor, exact: bool = False, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """The pairs of AGW's triplet loss (Ye et al. 2021): feats (B, D), labels (B,) -> (B,) each.

    sum_p w_p d_p and sum_n w_n d_n with w_p = softmax(alpha d_p), w_n = softmax(-alpha d_n).
    As in mangye16/ReID-Survey @38f5912, modeling/layer/triplet_loss.py, the anchor is one of its positives, at distance
    0, and 1e-6 is added to both sums of exponentials, of which that of -d_n is not shifted first: the weights of the
    negatives vanish once all of them are further than about 15, and so does their pull. `exact`: without the 1e-6, a
    softmax at any distance.
    """
    feats = full_precision(feats)
    same = same_identity(labels)  # (B, B)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    distances = euclidean_distance(feats, feats).masked_fill(itself, 0)  # (B, B)
    scaled = alpha * distances
    d_p, d_n = scaled.masked_fill(~same, -math.inf), (-scaled).masked_fill(same, -math.inf)
    if exact:
        positive, negative = d_p.softmax(-1), d_n.softmax(-1)
    else:
        e_p, e_n = (d_p - d_p.amax(-1, keepdim=True)).exp(), d_n.exp()  # its gradient counts beside 1e-6
        positive, negative = e_p / (e_p.sum(-1, keepdim=True) + 1e-6), e_n / (e_n.sum(-1, keepdim=True) + 1e-6)
    return (positive * distances).sum(-1), (negative * distances).sum(-1)


def weighted_regularized_triplet(feats: Tensor, labels: Tensor, exact: bool = False) -> Tensor:
    """Weighted-regularised triplet loss of AGW (Ye et al. 2021): feats (B, D), labels (B,) -> scalar.

    log(1 + exp(positive - negative)) of its `weighted_distances`, mean over anchors. Finite where the released
    log(1 + exp) overflows, above 88.
    """
    with torch.autocast(feats.device.type, enabled=False):
        positive, negative = weighted_distances(feats, labels, exact)
        return F.softplus(positive - negative).mean()


def pairwise_circle_loss(feats: Tensor, labels: Tensor, margin: float, gamma: float) -> Tensor:
    """Circle loss on pairs (Sun et al. 2020, Sec. 3): feats (B, D), labels (B,) -> scalar.

    log(1 + sum_n exp(gamma a_n (s_n - m)) * sum_p exp(-gamma a_p (s_p - 1 + m))) on cosines s, with the weights
    a_p = [1 + m - s_p]+ and a_n = [s_n + m]+ taken as constants. The anchor is no positive of its own, and an
    anchor without positives contributes 0, as in JDAI-CV/fast-reid @c9bc3ce, modeling/losses/circle_loss.py.
    """
    with torch.autocast(feats.device.type, enabled=False):
        feats = F.normalize(full_precision(feats), dim=-1)
        same = same_identity(labels)  # (B, B)
        positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        s = feats @ feats.T  # (B, B)
        a_p, a_n = (1 + margin - s.detach()).clamp(min=0), (s.detach() + margin).clamp(min=0)
        # -1e6 is exp's zero without the NaN gradient of a row that is all -inf
        logit_p = (-gamma * a_p * (s - 1 + margin)).masked_fill(~positive, -1e6)
        logit_n = (gamma * a_n * (s - margin)).masked_fill(same, -1e6)
        return F.softplus(logit_p.logsumexp(-1) + logit_n.logsumexp(-1)).mean()


def focal_loss(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Focal loss (Lin et al. 2017, Eq. (4)): mean of -(1 - p)^gamma log p: logits (B, N), labels (B,) -> scalar."""
    log_p = full_precision(logits).log_softmax(-1).gather(1, labels[:, None])  # (B, 1)
    # 1 - p = -expm1(log p) does not cancel near p = 1; kept off zero, where x^gamma has no gradient for gamma < 1
    miss = (-log_p.expm1()).clamp(min=torch.finfo(log_p.dtype).tiny)
    return (-(miss**gamma) * log_p).mean()


def mutual_kl(logits: Tensor, others: Tensor) -> Tensor:
    """Mean over the batch of KL(p_other || p): both (B, N) -> scalar. Only `logits` gets a gradient."""
    log_p, log_q = full_precision(logits).log_softmax(-1), full_precision(others).detach().log_softmax(-1)
    return F.kl_div(log_p, log_q, log_target=True, reduction="batchmean")


def focal_measure(before: Tensor, after: Tensor, gamma: float) -> Tensor:
    """Pyramid's performance measure of a running mean that went from `before` to `after` (tensors of any shape).

    FL = -(1 - p)^gamma log p with p = min(after, before) / before (Zheng et al. 2019): 0 for a loss that did not fall.
    Computed from the drop 1 - p, which does not cancel. A mean of 0 cannot fall: FL = 0.
    """
    drop = (before - after).clamp(min=0) / torch.where(before > 0, before, 1)  # 1 - p
    return -(drop**gamma) * torch.log1p(-drop)


# ---------------------------------------------------------------------------------------------------------------------
# Modules that read an Output
# ---------------------------------------------------------------------------------------------------------------------


def reduced(values: Tensor, reduction: str) -> Tensor:
    """values (F,) -> their mean or sum."""
    return values.sum() if reduction == "sum" else values.mean()


def check_reduction(reduction: str) -> str:
    """`reduction` itself; ValueError unless it is 'mean' or 'sum'."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; choose 'mean' or 'sum' (over the model's feats or classifiers)")
    return reduction


class IDLoss(nn.Module):
    """Cross-entropy over each of output.logits, averaged over the batch; `reduction` is over the classifiers.

    Label smoothing as in Szegedy et al. 2016, Sec. 7, torchreid and the BoT code: q = (1 - eps) * onehot + eps / N,
    where the true class gets its eps / N too. That is torch's own `label_smoothing`. fast-reid (@c9bc3ce,
    modeling/losses/cross_entroy_loss.py) spreads eps over the other N - 1 classes instead; its eps is ours with
    label_smoothing = eps * N / (N - 1).
    PCB and Pyramid sum over their classifiers, torchreid's DeepSupervision averages.
    """

    needs = ("logits",)

    @ranges.checked
    def __init__(self, label_smoothing: Fraction = 0.0, reduction: str = "mean"):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.reduction = check_reduction(reduction)

    def forward(self, output: Output, labels: Tensor) -> Tensor:
        count = len(output.logits)
        logits = full_precision(cat(output.logits))  # (F*B, N): one kernel for Pyramid's 21 classifiers
        labels = labels.expand(count, -1).flatten()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return loss * count if self.reduction == "sum" else loss


class TripletLoss(nn.Module):
    """Batch-hard triplet loss over each of output.feats; `reduction` is over the feats.

    margin: 0.3 (BoT, torchreid), 1.4 (Pyramid), or None for the soft margin log(1 + exp(ap - an)).
    hard_factor: makes positives further and negatives nearer by this fraction (tiny-baseline; 0 is off).
    normalize: L2-normalise the features first.
    Feats of equal width are computed as one batched product.
    """

    needs = ("feats",)
    takes_notes = True

    @ranges.checked
    def __init__(
        self,
        margin: Margin | None = 0.3,
        hard_factor: Fraction = 0.0,
        normalize: bool = False,
        reduction: str = "mean",
    ):
        super().__init__()
        self.margin = margin
        self.hard_factor = hard_factor
        self.normalize = normalize
        self.reduction = check_reduction(reduction)

    def forward(self, output: Output, labels: Tensor, notes: dict[str, Any] | None = None) -> Tensor:
        """As every loss. Into `notes`: num_feats, and the mean distance to the hardest negative, a detached scalar."""
        by_width: dict[int, list[Tensor]] = {}
        for feat in output.feats:
            by_width.setdefault(feat.shape[-1], []).append(full_precision(feat))
        losses, negatives = [], []
        for group in by_width.values():
            feats = cat([feat[None] for feat in group])  # (F, B, D)
            if self.normalize:
                feats = F.normalize(feats, dim=-1)
            loss, dist_an = batch_hard_triplet(feats, labels, self.margin, self.hard_factor)
            losses.append(loss)
            negatives.append(dist_an.flatten())
        if notes is not None:
            notes.update(num_feats=len(output.feats), negative_distance=cat(negatives).mean())
        return reduced(cat(losses), self.reduction)

    def collapsed(self, mean: float, notes: Mapping[str, Any]) -> str | None:
        """Advice if the epoch's mean of this loss (unweighted) and the notes of its last batch say that the embedding
        has collapsed, else None.

        When all embeddings shrink to a point, every distance d goes to 0 and the loss comes to rest at the margin
        (soft: ln 2) or a little above it, by what the furthest positive still exceeds the nearest negative (OSNet
        x0.25 on Market-1501 with AMSGrad at 1.5e-3 and no warm-up: 0.33, 0.32, ... for a margin of 0.3). A healthy
        loss also passes the margin once, on its way down, but with distances far larger than the margin; so the
        nearest negatives of the last batch must be closer than half the margin as well
        (without notes the value alone decides).
        """
        level = math.log(2) if self.margin is None else self.margin
        value = mean / notes.get("num_feats", 1) if self.reduction == "sum" else mean
        distance = float(notes.get("negative_distance", 0.0))
        sits = 0.94 * level < value < 1.5 * level + 2 * self.hard_factor * distance and distance <= 0.5 * level
        if not sits:  # also if the mean is not a number
            return None
        return (
            f"the triplet loss sits at {value:.4f}, which is {'ln 2' if self.margin is None else 'its margin'}: the "
            f"embedding has collapsed to a point (nearest negatives are {distance:.2g} away) and will not recover by "
            "itself. Start again with a learning rate 3 to 10 times lower or with warm-up, with pretrained weights, "
            "with an ID loss (and BNNeck) beside the triplet loss, or with normalised features"
        )


class CenterLoss(nn.Module):
    """Center loss (Wen et al. 2016, Eq. (2)) as in the BoT code: mean squared distance to the own identity's centre.

    Reads the concatenation of output.feats, whose width must be `dim` (BoT: the one feature before the BNNeck).
    `centers` (num_pids, dim) are drawn from N(0, 1) (michuanhaohao/reid-strong-baseline @3da7e6f,
    layers/center_loss.py) and wait for their own plain SGD with step `sgd_lr` on the unweighted loss.

    Two differences from the paper. The paper's loss has a factor 1/2 and sums over the batch; this one is the mean.
    The paper moves a centre by alpha * sum(c - x) / (1 + n), n being the images of that identity in the batch; SGD on
    the mean moves it by sgd_lr * 2 * sum(c - x) / B. With P x K = 16 x 4 and 0.5 that is 1/16 of the way to
    the batch's own mean instead of 2/5.
    """

    needs = ("feats",)

    @ranges.checked
    def __init__(self, num_pids: Count, dim: Width, sgd_lr: Positive = 0.5):
        super().__init__()
        self.centers = nn.Parameter(torch.randn(num_pids, dim))
        self.sgd_lr = sgd_lr

    def own_optimizer(self, weight: float) -> torch.optim.Optimizer:
        """Plain SGD at ``sgd_lr / weight``: the authors divide the gradient by the weight before the step
        (reid-strong-baseline 3da7e6f, engine/trainer.py), which for plain SGD is the same step."""
        return torch.optim.SGD(self.parameters(), lr=self.sgd_lr / weight, fused=True)

    def forward(self, output: Output, labels: Tensor) -> Tensor:
        feats = torch.cat(output.feats, dim=1)  # (B, sum of D_i)
        if feats.shape[1] != self.centers.shape[1]:
            raise ValueError(
                f"CenterLoss has centres of width {self.centers.shape[1]}, but the model's feats have width "
                f"{' + '.join(str(feat.shape[1]) for feat in output.feats)}; pass dim={feats.shape[1]}"
            )
        return center_distance(feats, self.centers, labels)


class CosineClassifier(nn.Module):
    """Base of the margin softmax losses: classifies output.embedding by its cosine to one weight vector per identity.

    A subclass turns the cosine to the true class into a harder one; all cosines are multiplied by `scale`.
    The weights are initialised as in tiny-baseline's ArcFace and train with the model's optimizer.
    """

    needs = ("embedding",)

    @ranges.checked
    def __init__(self, dim: Width, num_pids: Count, scale: Positive, margin: Angle, label_smoothing: Fraction = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_pids, dim))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.scale = scale
        self.margin = margin
        self.label_smoothing = label_smoothing

    def forward(self, output: Output, labels: Tensor) -> Tensor:
        embedding = output.embedding
        if embedding.shape[1] != self.weight.shape[1]:
            raise ValueError(
                f"{type(self).__name__} has weights of width {self.weight.shape[1]}, but the model's embedding has "
                f"width {embedding.shape[1]}; pass dim={embedding.shape[1]}"
            )
        with torch.autocast(embedding.device.type, enabled=False):
            embedding, weight = full_precision(embedding), full_precision(self.weight)
            cosine = F.linear(F.normalize(embedding), F.normalize(weight))  # (B, N)
            logits = self.scale * self.with_margin(cosine, labels)
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """cosine (B, N) -> the same with the margin in the true class."""
        raise NotImplementedError


class OfParts(nn.Module):
    """Mean of margin softmax losses, each of its own part of output.embedding (MGN in JDAI-CV/fast-reid @c9bc3ce)."""

    needs = ("embedding",)

    def __init__(self, parts: Iterable[CosineClassifier]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, output: Any, labels: Tensor) -> Tensor:
        embeddings = output.embedding.chunk(len(self.parts), dim=1)
        each = [part(output._replace(embedding=e), labels) for part, e in zip(self.parts, embeddings, strict=True)]
        return torch.stack(each).mean()


class ArcFace(CosineClassifier):
    """ArcFace (Deng et al. 2019, Eq. (3)): cos(theta + m) for the true class.

    Published values: s = 64, m = 0.5 for faces (paper, Sec. 3.1); s = 30, m = 0.5 for re-ID (tiny-baseline @a13a8a8,
    loss/arcface.py), the defaults here.
    """

    def __init__(self, dim: int, num_pids: int, scale: float = 30.0, margin: float = 0.5, label_smoothing: float = 0.0):
        super().__init__(dim, num_pids, scale, margin, label_smoothing)

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        true = cosine.gather(1, labels[:, None])  # (B, 1)
        return cosine.scatter(1, labels[:, None], arc_margin(true, self.margin))


class CosFace(CosineClassifier):
    """CosFace (Wang et al. 2018) and, with s = 30, AM-softmax (Wang et al. 2018b): cos(theta) - m for the true class.

    Published values: s = 64, m = 0.35 (CosFace, the defaults); s = 30, m = 0.35 (AM-softmax); both for faces.
    """

    def __init__(
        self, dim: int, num_pids: int, scale: float = 64.0, margin: float = 0.35, label_smoothing: float = 0.0
    ):
        super().__init__(dim, num_pids, scale, margin, label_smoothing)

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        true = cosine.gather(1, labels[:, None])  # (B, 1)
        return cosine.scatter(1, labels[:, None], true - self.margin)


class CircleSoftmax(CosineClassifier):
    """Circle loss with class labels (Sun et al. 2020, Sec. 3), fast-reid's CircleSoftmax.

    True class: a_p (cos - 1 + m), others: a_n (cos - m), with a_p = [1 + m - cos]+ and a_n = [cos + m]+ as constants.
    Published values: s = 64, m = 0.35 (JDAI-CV/fast-reid @c9bc3ce, configs/Base-SBS.yml), the defaults; its weights
    begin as N(0, 0.01^2) (modeling/heads/embedding_head.py).
    """

    def __init__(
        self, dim: int, num_pids: int, scale: float = 64.0, margin: float = 0.35, label_smoothing: float = 0.0
    ):
        super().__init__(dim, num_pids, scale, margin, label_smoothing)
        nn.init.normal_(self.weight, std=0.01)

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        fixed = cosine.detach()
        positive = (1 + self.margin - fixed).clamp(min=0) * (cosine - 1 + self.margin)  # (B, N)
        negative = (fixed + self.margin).clamp(min=0) * (cosine - self.margin)  # (B, N)
        return negative.scatter(1, labels[:, None], positive.gather(1, labels[:, None]))


class CircleLoss(nn.Module):
    """Circle loss on pairs (Sun et al. 2020) over the L2-normalised output.feats; `reduction` is over the feats.

    Published values: m = 0.25, gamma = 128 for re-ID (paper; also fast-reid @c9bc3ce, config/defaults.py).
    """

    needs = ("feats",)

    @ranges.checked
    def __init__(self, margin: Share = 0.25, gamma: Positive = 128.0, reduction: str = "mean"):
        super().__init__()
        self.margin = margin
        self.gamma = gamma
        self.reduction = check_reduction(reduction)

    def forward(self, output: Output, labels: Tensor) -> Tensor:
        losses = [pairwise_circle_loss(feat, labels, self.margin, self.gamma) for feat in output.feats]
        return reduced(torch.stack(losses), self.reduction)


class RingLoss(nn.Module):
    """Ring loss (Zheng et al. 2018): mean of (||f|| - R)^2 over the batch and output.feats, with R learned.

    R starts at 1 and there is no factor 1/2, as in michuanhaohao/AlignedReID @fca9620, util/losses.py; the paper has
    the factor 1/2 and starts R at the mean norm, which `radius` can do.
    """

    needs = ("feats",)

    @ranges.checked
    def __init__(self, radius: Positive = 1.0):
        super().__init__()
        self.radius = nn.Parameter(torch.tensor(float(radius)))

    def forward(self, output: Output, labels: Tensor) -> Tensor:
        norms = [torch.linalg.vector_norm(full_precision(feat), dim=-1) for feat in output.feats]
        return (torch.cat(norms) - self.radius).square().mean()


class FocalLoss(nn.Module):
    """Focal loss (Lin et al. 2017) over each of output.logits; `reduction` is over the classifiers.

    Published values: gamma = 2 with alpha = 0.25 (paper, Sec. 5.1; fast-reid @c9bc3ce, config/defaults.py). With one
    alpha for all classes it is only a weight; set it as the weight in Criterion.
    """

    needs = ("logits",)

    @ranges.checked
    def __init__(self, gamma: Focus = 2.0, reduction: str = "mean"):
        super().__init__()
        self.gamma = gamma
        self.reduction = check_reduction(reduction)

    def forward(self, output: Output, labels: Tensor) -> Tensor:
        losses = [focal_loss(logits, labels, self.gamma) for logits in output.logits]
        return reduced(torch.stack(losses), self.reduction)


class WeightedRegularizedTriplet(nn.Module):
    """Weighted-regularised triplet loss of AGW (Ye et al. 2021) over output.feats; no margin to choose.

    AGW weighs it 1 beside the ID loss; fast-reid's Base-AGW.yml reaches it as a triplet loss of margin 0.
    exact: see `weighted_regularized_triplet`.
    """

    needs = ("feats",)

    def __init__(self, normalize: bool = False, reduction: str = "mean", exact: bool = False):
        super().__init__()
        self.exact = exact
        self.normalize = normalize
        self.reduction = check_reduction(reduction)

    def forward(self, output: Output, labels: Tensor) -> Tensor:
        feats = [full_precision(feat) for feat in output.feats]
        feats = [F.normalize(feat, dim=-1) if self.normalize else feat for feat in feats]
        return reduced(
            torch.stack([weighted_regularized_triplet(feat, labels, self.exact) for feat in feats]), self.reduction
        )


class AlignedTriplet(nn.Module):
    """Triplet loss on AlignedReID's local distance, with hard samples mined by the global one (Zhang et al. 2017).

    Reads output.parts and, for mining, output.feats; the global triplet loss is a TripletLoss beside it.
    Of a model that joins several networks for mutual learning, feats are their global features and parts their
    parts one network after the other, (B, len(feats) * S, D); the loss is then summed over the networks, as each
    has its own in huanghoujing/AlignedReID-Re-Production-Pytorch @2e2d454, script/experiment/train_ml.py.

    normalize, normalize_parts: L2-normalise the global or the local features. The reproduction above has one switch
    for both and reports results without; AlignedReID++ (michuanhaohao/AlignedReID @fca9620) normalises the parts only.
    mine: "global", or "local" for hard samples by the local distance itself (its local_dist_own_hard_sample).
    """

    needs = ("feats", "parts")

    @ranges.checked
    def __init__(
        self,
        margin: Margin | None = 0.3,
        normalize: bool = False,
        normalize_parts: bool = False,
        mine: str = "global",
    ):
        super().__init__()
        if mine not in ("global", "local"):
            raise ValueError(f"mine is {mine!r}; choose 'global' or 'local'")
        self.margin = margin
        self.normalize = normalize
        self.normalize_parts = normalize_parts
        self.mine = mine

    def forward(self, output: Output, labels: Tensor) -> Tensor:
        assert output.parts is not None  # `needs`, which Criterion checks
        if output.parts.shape[1] % len(output.feats):
            raise ValueError(
                f"AlignedTriplet got {output.parts.shape[1]} parts for {len(output.feats)} global features; each "
                "global feature needs the same number of parts"
            )
        members = zip(output.feats, output.parts.chunk(len(output.feats), dim=1), strict=True)
        first, *others = [self.member_loss(feat, parts, labels) for feat, parts in members]
        return sum(others, first)

    def member_loss(self, feat: Tensor, parts: Tensor, labels: Tensor) -> Tensor:
        """feat (B, D), parts (B, S, D'), labels (B,) -> scalar."""
        with torch.no_grad():
            if self.mine == "local":
                distances = aligned_distance(parts, parts, self.normalize_parts)  # (B, B)
            else:
                feat = full_precision(feat)
                feat = F.normalize(feat, dim=-1) if self.normalize else feat
                distances = euclidean_distance(feat, feat)  # (B, B)
            furthest, nearest = hard_pairs(distances, labels)  # (B,) each
        dist_ap = aligned_pair_distance(parts, parts[furthest], self.normalize_parts)  # (B,)
        dist_an = aligned_pair_distance(parts, parts[nearest], self.normalize_parts)  # (B,)
        return ranking_loss(dist_ap, dist_an, self.margin)


def split_members(values: Sequence[T], members: int, field: str) -> list[Sequence[T]]:
    """`values` of a model that joins `members` networks, cut into one tuple per network; ValueError if uneven."""
    if len(values) % members:
        raise ValueError(
            f"mutual learning of {members} networks got {len(values)} {field}; expected those of the first network, "
            "then as many of the next"
        )
    size = len(values) // members
    return [values[i : i + size] for i in range(0, len(values), size)]


def mutual(members: Sequence[Sequence[Tensor]], term: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Sum over networks i of the mean over the others j of term(i's, j's), averaged over what each network has.

    The sum over i and the mean over j are those of train_ml.py (see AlignedTriplet).
    """
    terms = [term(a, b) for own, other in itertools.permutations(members, 2) for a, b in zip(own, other, strict=True)]
    return torch.stack(terms).sum() / ((len(members) - 1) * len(members[0]))


class MutualKL(nn.Module):
    """Classification mutual loss (Zhang et al. 2018, Deep mutual learning), as AlignedReID has it.

    output.logits hold those of the first network, then those of the next. Each network is drawn to the class
    probabilities of the others, which are constants for it: KL(p_other || p_own), mean over the batch.
    """

    needs = ("logits",)

    @ranges.checked
    def __init__(self, members: Members = 2):
        super().__init__()
        self.members = members

    def forward(self, output: Output, labels: Tensor) -> Tensor:
        return mutual(split_members(output.logits, self.members, "logits"), mutual_kl)


def drawn_together(matrices: Sequence[Tensor], members: int) -> Tensor:
    """Mean squared difference of distance matrices (B, B) of each network from those of the others, `mutual`."""
    return mutual(split_members(matrices, members, "feats"), lambda own, other: (own - other.detach()).square().mean())


class MutualDistance(nn.Module):
    """Metric mutual loss of AlignedReID (Zhang et al. 2017): the distance matrices in the batch are drawn together.

    1 / B^2 sum ([ZG(M1) - M2]^2 + [M1 - ZG(M2)]^2) on the euclidean distances M of output.feats, which hold those of
    the first network, then those of the next; ZG stops the gradient, so each network sees the other as constant.
    """

    needs = ("feats",)

    @ranges.checked
    def __init__(self, members: Members = 2, normalize: bool = False):
        super().__init__()
        self.members = members
        self.normalize = normalize

    def forward(self, output: Output, labels: Tensor) -> Tensor:
        feats = [full_precision(feat) for feat in output.feats]
        feats = [F.normalize(feat, dim=-1) if self.normalize else feat for feat in feats]
        matrices = [euclidean_distance(feat, feat) for feat in feats]  # (B, B) each
        return drawn_together(matrices, self.members)


class MutualLocalDistance(nn.Module):
    """`MutualDistance` on AlignedReID's local distances (2e2d454, script/experiment/train_ml.py:528-537).

    output.parts hold those of the first network, then those of the next, along S. There the term is computed only with
    hard samples found by the local distance, which has the matrices at hand.
    """

    needs = ("parts",)

    @ranges.checked
    def __init__(self, members: Members = 2, normalize_parts: bool = False):
        super().__init__()
        self.members = members
        self.normalize_parts = normalize_parts

    def forward(self, output: Output, labels: Tensor) -> Tensor:
        assert output.parts is not None  # `needs`, which Criterion checks
        parts = output.parts.chunk(self.members, dim=1)
        matrices = [aligned_distance(each, each, self.normalize_parts) for each in parts]  # (B, B) each
        return drawn_together(matrices, self.members)


BALANCE_RULES = ("released", "paper")


class DynamicBalance(nn.Module):
    """Pyramid's multi-loss dynamic training (Zheng et al. 2019) of an ID and a triplet loss.

    Yields the terms `id` and `triplet`; the triplet term is zero in the steps that train the ID loss alone.
    In each training step, with both losses l:
        k' = alpha * l + (1 - alpha) * k,   p = min(k', k) / k,   FL = -(1 - p)^gamma log p
    and the step is ID only if FL_triplet / FL_id < sigma. Numbers as in TencentYoutuResearch/PersonReID-Pyramid
    @63ffd64, src/train.py; k starts at 0 there, uncorrected, and here, so that the first steps train both losses.

    rule: what a step is whose running ID loss did not fall, so that FL_id is zero.
        "released": ID only where the triplet loss fell, as the released code has it: its FL_id is -0.0 there, the ratio
        -inf. About half of all steps are ID only, as noise makes either loss rise often.
        "paper": both losses, FL_triplet < sigma * FL_id being the limit of the paper's ratio.
    Where neither fell, the step is both by either rule (the released ratio is NaN). A running mean that is zero, since
    a loss was exactly zero up to now, is a crash there and FL = 0 here; so it is in the first step, which sets p = 1/2
    for both losses there, with the same decision.
    A loss that is not finite leaves the running means as they were, so that one bad step does not end the rule.

    All of it is computed on the device, without waiting for it. The running means are a buffer, which state_dict
    carries, so a resumed run decides as the uninterrupted one. In eval mode nothing moves and both terms are returned.
    The decision, `id_only` in the notes, is also the paper's switch of sampler: when true, the next batch is to be
    drawn at random, else P x K. The triplet loss of a random batch still enters its running mean; without that it could
    never return.
    """

    names = ("id", "triplet")
    needs = ("logits", "feats")
    takes_notes = True

    @ranges.checked
    def __init__(
        self,
        id_loss: nn.Module,
        triplet_loss: nn.Module,
        alpha: Newest = 0.25,
        gamma: Focus = 2.0,
        sigma: Margin = 0.16,
        rule: str = "released",
    ):
        super().__init__()
        if rule not in BALANCE_RULES:
            raise ValueError(f"rule is {rule!r}; choose one of {', '.join(BALANCE_RULES)}")
        self.id_loss = id_loss
        self.triplet_loss = triplet_loss
        self.alpha, self.gamma, self.sigma, self.rule = alpha, gamma, sigma, rule
        self.means: Tensor
        self.register_buffer("means", torch.zeros(2))  # running means k of the ID and the triplet loss

    def forward(self, output: Output, labels: Tensor, notes: dict[str, Any] | None = None) -> dict[str, Tensor]:
        """Terms `id` and `triplet`. Into `notes`: the triplet loss's and, in training, id_only, a bool scalar."""
        notes = {} if notes is None else notes
        id_term = self.id_loss(output, labels)
        triplet_term = noted(self.triplet_loss, output, labels, notes)
        if self.training:
            id_only = self.update(torch.stack((id_term, triplet_term)).detach())
            triplet_term = torch.where(id_only, 0, triplet_term)
            notes["id_only"] = id_only
        return {"id": id_term, "triplet": triplet_term}

    @torch.no_grad()
    def update(self, losses: Tensor) -> Tensor:
        """Advances the rule by one step: losses (2,) are the ID and the triplet loss -> whether the step is ID only.

        Of several processes, whose losses may differ by rounding, those of the first count: all decide alike.
        """
        losses = processes.from_all(losses)[0]
        after = self.alpha * losses.to(self.means) + (1 - self.alpha) * self.means
        after = torch.where(losses.isfinite().all(), after, self.means)
        fl_id, fl_triplet = focal_measure(self.means, after, self.gamma)
        self.means.copy_(after)
        below = fl_triplet < self.sigma * fl_id
        return below if self.rule == "paper" else torch.where(fl_id > 0, below, fl_triplet > 0)

    def collapsed(self, mean: float, notes: Mapping[str, Any]) -> str | None:
        """The triplet loss's advice, from its running mean: the logged term `mean` is zero in ID-only steps."""
        return advice_of(self.triplet_loss, float(self.means[1]), notes)


# ---------------------------------------------------------------------------------------------------------------------
# Criterion
# ---------------------------------------------------------------------------------------------------------------------


class Terms(dict[str, Tensor]):
    """{name: weight * loss} of a batch, scalars with their graph; what trains is their sum.

    notes: {loss's name: {what it noticed in the batch: value}}, of losses that notice something.
    """

    def __init__(self) -> None:
        super().__init__()
        self.notes: dict[str, dict[str, Any]] = {}

    @property
    def id_only(self) -> bool:
        """True if the next batch may be random rather than P x K (DynamicBalance); waits for the device."""
        return any(bool(notes.get("id_only", False)) for notes in self.notes.values())


def noted(loss: nn.Module, output: Output, labels: Tensor, notes: dict[str, Any], views: Any = None) -> Any:
    """loss(output, labels); a loss that `takes_notes` gets `notes` to write into, one that `takes_views` `views`."""
    more = [*([notes] if getattr(loss, "takes_notes", False) else []), *of_views(loss, views)]
    return loss(output, labels, *more)


def of_views(loss: nn.Module, views: Any) -> tuple:
    """`views` as a further argument of a loss that takes them, or none."""
    return (views,) if getattr(loss, "takes_views", False) else ()


class Criterion(nn.Module):
    """The weighted losses of a recipe: `Criterion(id=(1, IDLoss(0.1)), triplet=(1, TripletLoss(0.3)))`.

    criterion(output, labels) -> `Terms`, in the order given. A loss that yields several terms (DynamicBalance) names
    them itself in `loss.names`. Where one of them takes views, criterion(output, labels, views).
    A weight must be positive and finite: a term that is not wanted is left out, so that what is listed is what trains.
    epoch: from 0, the one that is being trained; a loss that `begins` later is no term yet. Infinite until told: all.
    """

    def __init__(self, **losses: tuple[float, nn.Module]):
        super().__init__()
        if not losses:
            raise ValueError("Criterion has no loss; pass at least one, such as id=(1, IDLoss())")
        self.weights: dict[str, float] = {}
        self.losses = nn.ModuleDict()
        self.epoch: float = math.inf
        for name, (weight, loss) in losses.items():
            Number(float, POSITIVE).check(f"the weight of the {name} loss", weight)
            self.weights[name] = float(weight)
            self.losses[name] = loss
        names = [name for term in self.terms for name in self.names(term[0])]
        if len(set(names)) < len(names):
            raise ValueError(f"two losses have a term of the same name among {', '.join(names)}; rename one")

    @property
    def terms(self) -> tuple[tuple[str, float, nn.Module], ...]:
        """Tuple of (name, weight, loss) in order."""
        return tuple((name, self.weights[name], loss) for name, loss in self.losses.items())

    def names(self, name: str) -> tuple[str, ...]:
        """Names of the terms that the loss called `name` yields."""
        return getattr(self.losses[name], "names", None) or (name,)

    @property
    def takes_views(self) -> bool:
        """Whether a loss reads more of the batch than its Output and labels."""
        return any(getattr(loss, "takes_views", False) for loss in self.losses.values())

    @property
    def joined(self) -> list[tuple[str, float, nn.Module]]:
        """The `terms` of this epoch."""
        return [term for term in self.terms if getattr(term[2], "begins", 0) <= self.epoch]

    def check_begins(self, epochs: int) -> None:
        """ValueError if a loss would join only when a run of `epochs` epochs is over."""
        for name, _, loss in self.terms:
            if getattr(loss, "begins", 0) >= epochs:
                raise ValueError(
                    f"the {name} loss joins after epoch {getattr(loss, 'begins', 0)}, and the run has {epochs} epochs: "
                    f"raise --epochs, let it join sooner (--{name}_from EPOCHS), or leave it out (--{name}_weight 0)"
                )

    def ahead(self, output: Any, labels: Tensor, views: Any = None) -> Tensor | None:
        """The sum of what losses learn by a step of their own optimisers before their terms are computed; None if there
        is none in this epoch."""
        steps = [(name, loss) for name, _, loss in self.joined if hasattr(loss, "ahead")]
        for name, loss in steps:
            check_fields(name, loss, output)
        if not steps:
            return None
        output = output._replace(
            embedding=output.embedding.detach(),
            logits=tuple(x.detach() for x in output.logits),
            feats=tuple(x.detach() for x in output.feats),
            parts=None if output.parts is None else output.parts.detach(),
        )
        values = [loss.ahead(output, labels, *of_views(loss, views)) for _, loss in steps]  # type: ignore[operator]
        return sum(values[1:], values[0])

    def forward(self, output: Output, labels: Tensor, views: Any = None) -> Terms:
        if len(labels) != len(output.embedding):
            raise ValueError(f"{len(output.embedding)} embeddings came with {len(labels)} labels")
        terms = Terms()
        for name, weight, loss in self.joined:
            check_fields(name, loss, output)
            notes: dict[str, Any] = {}
            value = noted(loss, output, labels, notes, views)
            values = value if isinstance(value, dict) else {name: value}
            terms.update({key: term if weight == 1 else weight * term for key, term in values.items()})
            terms.notes |= {name: notes} if notes else {}
        return terms

    def collapsed(self, means: Mapping[str, float], notes: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Advice of every loss that knows how it collapses, given the epoch's mean of each term as floats by name and
        the notes of its last batch."""
        joined = [term for term in self.terms if means.keys() >= {*self.names(term[0])}]
        sums = ((name, loss, sum(means[key] for key in self.names(name)) / weight) for name, weight, loss in joined)
        advice = (advice_of(loss, mean, notes.get(name, {})) for name, loss, mean in sums)
        return [text for text in advice if text is not None]


def advice_of(loss: nn.Module, mean: float, notes: Mapping[str, Any]) -> str | None:
    """loss.collapsed(mean, notes); None of a loss that does not know how it collapses."""
    collapsed: Any = getattr(loss, "collapsed", None)
    return None if collapsed is None else collapsed(mean, notes)


def check_fields(name: str, loss: nn.Module, output: Output) -> None:
    """ValueError if a field that the loss reads is empty in this model's output."""
    for field in getattr(loss, "needs", ()):
        value = getattr(output, field)
        if value is None or len(value) == 0:
            raise ValueError(
                f"the {name} loss ({type(loss).__name__}) reads output.{field}, which this model leaves empty"
                + (" (in eval mode, or built with num_pids=0)" if field == "logits" else "")
                + "; choose another loss for this model or another model for this loss"
            )
