"""Herzog, Ji, Teepe, Hoermann, Gilg, Rigoll. Lightweight Multi-Branch Network for Person Re-Identification. ICIP 2021.

Released code: jixunbo/LightMBN at 1f4ec0d, model/lmbn_n.py, lmbn_r.py, attention.py, bnneck.py and
loss/multi_similarity_loss.py. In the order of the paper: the three branches, the drop block of the global one, the
heads, the multi-similarity loss.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from losses import Output as Answer
from losses import check_reduction, full_precision, reduced, same_identity
from machine import ranges
from machine.ranges import Fraction, Margin, Positive, Share, Width
from models import Headed, Output, check_rows, choose, logits_of_each
from networks import resnets
from networks.blocks import POOLINGS, bn_neck, linear_classifier
from networks.osnet import OSBlock

if TYPE_CHECKING:
    from loading.views import Views

PARTS = 7  # features: global, dropped, part maximum, two stripes, two halves of the channels


def divided(base: nn.Module, name: str) -> tuple[nn.Sequential, nn.Sequential]:
    """The trunk in two: what all branches share, up to the first block of stage 3, and the rest, of which each has one.

    base: an OSNet whose transitions belong to its stages, or a ResNet of torchvision. ValueError for another.
    """
    parts = dict(base.named_children())
    if "conv5" in parts and "pool2" not in parts:
        stage: Any = parts["conv3"]
        shared = nn.Sequential(parts["conv1"], parts["maxpool"], parts["conv2"], stage[0])
        return shared, nn.Sequential(stage[1:], parts["conv4"], parts["conv5"])
    if "layer4" in parts and isinstance(list(parts["layer4"].children())[-1], BasicBlock | Bottleneck):
        first, *others = parts["layer3"].children()
        stem = [parts[each] for each in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2")]
        return nn.Sequential(*stem, first), nn.Sequential(nn.Sequential(*others), parts["layer4"])
    raise ValueError(
        f"LightMBN divides an OSNet or a ResNet behind the first block of its third stage, which '{name}' does not "
        "have. Use --backbone osnet_x1_0, osnet_x0_75, osnet_x0_5, osnet_x0_25, osnet_ibn_x1_0, or a resnet*"
    )


def drop_top(feature_map: Tensor, ratio: float) -> Tensor:
    """(B, C, h, w) with the round(ratio h) rows of each image set to 0 whose strongest place is strongest.

    The strength of a place is the sum of its squared channels (Quispe and Pedrini, Top-DB-Net, ICPR 2020, which the
    released code quotes: attention.py, BatchDropTop).
    """
    rows = feature_map.detach().float().square().sum(1).amax(2)  # (B, h)
    dropped = rows.topk(max(1, round(ratio * rows.shape[1])), dim=1).indices
    kept = torch.ones_like(rows).scatter(1, dropped, 0)
    return feature_map * kept[:, None, :, None].to(feature_map.dtype)


class Head(nn.Module):
    """(B, C, 1, 1) -> 1x1 convolution without bias, batch norm without shift; a classifier behind it."""

    def __init__(self, dim: int, reduced_dim: int, num_pids: int):
        super().__init__()
        self.reduction = nn.Conv2d(dim, reduced_dim, 1, bias=False)
        self.neck = bn_neck(reduced_dim)
        self.classifier = linear_classifier(reduced_dim, num_pids, bias=False, std=0.001)


class LightMBN(Headed):
    """Three branches from the second block of stage 3 on: global, part, channel; seven features of 512.

    Global: average, and maximum of the map without its strongest rows (`drop_top`, while training). Part: maximum, and
    the averages of upper and lower half. Channel: the averages of both halves of its channels, through one shared
    convolution, batch norm and ReLU. The first five go through 1x1 convolutions of their own; each has its BNNeck.

    embedding (B, 7 * 512): all behind their necks, in that order. `compared` brings each to length 1, so that a cosine
    is the mean of seven, as the released test has it. feats, what the metric loss reads: global, dropped and part
    maximum before their necks. logits: seven.
    pooling: "avg" of global and channel branch, with OSNet (LMBN_n); "max" with ResNet-50 (LMBN_r).
    drop: share of the rows that is dropped.
    On a ResNet the global branch keeps stride 2 in stage 4, the others have 1, as LMBN_r.
    """

    shown = "the last maps of the three branches"
    stripes = (2,)
    id_parts = PARTS

    renames = (
        ("backone.", "backbone."),
        ("batch_drop_block.drop_batch_bottleneck.", "enhance."),
        *(
            (f"{theirs}.{layer}.", f"{ours}.{name}.")
            for theirs, ours in (
                *((f"reduction_{their}", f"heads.{i}") for i, their in enumerate((0, 4, 1, 2, 3))),
                ("reduction_drop", "heads.1"),
                *((f"reduction_ch_{i}", f"halves.{i}") for i in (0, 1)),
            )
            for layer, name in (("reduction", "reduction"), ("bn", "neck"), ("classifier", "classifier"))
        ),
    )

    def __init__(
        self,
        *,
        backbone: str = "osnet_x1_0",
        pooling: str = "avg",
        reduced_dim: Width = 512,
        drop: Fraction = 0.33,
        **trunk: Any,
    ):
        super().__init__(backbone=backbone, **trunk)
        dim, base = self.base.out_channels, self.base
        del self.base  # it is divided among the branches
        self.backbone, branch = divided(base, backbone)
        self.global_branch = branch
        fine = copy.deepcopy(branch)
        self.enhance: nn.Module = OSBlock(dim, dim)
        if not hasattr(base, "conv5"):
            resnets.remove_stride(fine[1], backbone)
            kind: Any = type(list(fine[1].children())[-1])
            self.enhance = kind(dim, dim // kind.expansion)
        self.partial_branch, self.channel_branch = fine, copy.deepcopy(fine)
        self.pool = choose("pooling", pooling, POOLINGS)()
        self.drop = drop
        head = Head(dim, reduced_dim, self.num_pids)
        self.heads = nn.ModuleList(copy.deepcopy(head) for _ in range(5))  # they begin alike, as there
        self.shared = nn.Sequential(
            nn.Conv2d(dim // 2, reduced_dim, 1, bias=False), nn.BatchNorm2d(reduced_dim), nn.ReLU(inplace=True)
        )
        self.halves = nn.ModuleList(Half(reduced_dim, self.num_pids) for _ in range(2))
        self.embedding_dim = PARTS * reduced_dim
        self.feat_dims = (reduced_dim,) * 3

    def trunk(self) -> Iterator[nn.Parameter]:
        """The shared stages and the three branches, which begin as copies of the same pretrained stages."""
        branches = (self.backbone, self.global_branch, self.partial_branch, self.channel_branch)
        return itertools.chain.from_iterable(branch.parameters() for branch in branches)

    def maps(self, images: Tensor, views: Views | None = None) -> tuple[Tensor, ...]:
        """Of the three branches, (B, C, h, w); the global one behind the block that its drop acts on."""
        x = self.backbone(images)
        return self.enhance(self.global_branch(x)), self.partial_branch(x), self.channel_branch(x)

    def answer(self, g: Tensor, p: Tensor, c: Tensor) -> Output:
        check_rows(p, 2, "LightMBN")
        dropped = drop_top(g, self.drop) if self.training else g
        upper, lower = F.adaptive_avg_pool2d(p, (2, 1)).unbind(2)  # (B, C, 1) each
        pooled = (self.pool(g), dropped.amax((2, 3)), p.amax((2, 3)), upper[:, :, 0], lower[:, :, 0])  # (B, C) each
        halves = self.pool(c).chunk(2, dim=1)  # (B, C / 2) each
        heads: list[Any] = [*self.heads, *self.halves]
        before = [
            *(head.reduction(x[:, :, None, None]).flatten(1) for head, x in zip(heads[:5], pooled, strict=True)),
            *(self.shared(x[:, :, None, None]).flatten(1) for x in halves),
        ]  # (B, 512) each
        after = [head.neck(x) for head, x in zip(heads, before, strict=True)]
        logits = logits_of_each(self, after, (head.classifier for head in heads))
        return Output(torch.cat(after, dim=1), logits, tuple(before[:3]))

    def compared(self, embedding: Tensor) -> Tensor:
        """Each of the seven features at length 1 (engine_v3.py, extract_feature): (N, 7 * 512) -> the same."""
        return F.normalize(embedding.unflatten(1, (PARTS, -1)), dim=2).flatten(1)


class Half(nn.Module):
    """Batch norm without shift and a classifier, of one half of the channels behind the shared layers."""

    def __init__(self, dim: int, num_pids: int):
        super().__init__()
        self.neck = bn_neck(dim)
        self.classifier = linear_classifier(dim, num_pids, bias=False, std=0.001)


# -- The metric loss: Wang, Han, Huang, Dong, Scott. Multi-Similarity Loss with General Pair Weighting. CVPR 2019. -----


def multi_similarity(
    feats: Tensor, labels: Tensor, margin: float, scales: Sequence[float] = (2.0, 40.0), threshold: float = 0.5
) -> Tensor:
    """feats (B, D), labels (B,) -> scalar; on the similarities S of L2-normalised features.

    Eq. (11), (12) of that paper: a negative counts if it is more similar than the least similar positive less
    `margin`, a positive if it is less similar than the most similar negative plus `margin`. Eq. (15): with
    (alpha, beta) = `scales`, lambda = `threshold`,
    log(1 + sum exp(-alpha (S_ik - lambda))) / alpha + log(1 + sum exp(beta (S_ik - lambda))) / beta, summed over the
    anchors that have both kinds of pair, over B. As there, what is as similar as 1 - 1e-5 is the image itself. (With
    an anchor whose positives are all such copies the released code ends with an error; here it counts as without.)
    """
    x = F.normalize(full_precision(feats), dim=1)
    similarity = x @ x.t()  # (B, B)
    same = same_identity(labels)
    positive, negative = same & (similarity < 1 - 1e-5), ~same
    least = similarity.masked_fill(~positive, torch.inf).amin(1, keepdim=True)  # (B, 1)
    most = similarity.masked_fill(~negative, -torch.inf).amax(1, keepdim=True)
    negative &= similarity + margin > least
    positive &= similarity - margin < most
    alpha, beta = scales
    pull = torch.where(positive, (-alpha * (similarity - threshold)).exp(), 0).sum(1).log1p() / alpha  # (B,)
    push = torch.where(negative, (beta * (similarity - threshold)).exp(), 0).sum(1).log1p() / beta
    both = positive.any(1) & negative.any(1)
    return torch.where(both, pull + push, 0).sum() / len(feats)


class MultiSimilarity(nn.Module):
    """`multi_similarity` of each of output.feats; `reduction` is over the feats.

    similarity_margin: 0.7 in LightMBN's command (README.md), 0.1 in the paper of the loss.
    """

    needs = ("feats",)

    @ranges.checked
    def __init__(
        self,
        similarity_margin: Margin = 0.7,
        similarity_alpha: Positive = 2.0,
        similarity_beta: Positive = 40.0,
        similarity_threshold: Share = 0.5,
        reduction: str = "mean",
    ):
        super().__init__()
        self.margin, self.threshold = similarity_margin, similarity_threshold
        self.scales = (similarity_alpha, similarity_beta)
        self.reduction = check_reduction(reduction)

    def forward(self, output: Answer, labels: Tensor) -> Tensor:
        losses = [multi_similarity(feat, labels, self.margin, self.scales, self.threshold) for feat in output.feats]
        return reduced(torch.stack(losses), self.reduction)
