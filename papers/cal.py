"""CAL: Gu, Chang, Ma, Bai, Shan, Chen. Clothes-Changing Person Re-identification with RGB Modality Only. CVPR 2022.

A classifier of clothes learns on the features; then the network learns features from which it cannot tell the clothes
of one person apart, while it still tells those of different people. Code: guxinqian/Simple-CCReID at f773d01, of which
the numbers here are. Of its video networks (models/vid_resnet.py) the one without convolutions over time is here.

A step of it (train.py, train_cal), with f = network(images):
    1. the clothes classifier learns on f, detached, by Adam of its own          `ClothesAdversary.ahead`
    2. identity loss + adversarial loss, read from the classifier as it is now    `ClothesAdversary.forward`
    3. the network and the identity classifier learn; the clothes classifier stays
Both 1 and the adversarial loss join after 25 epochs (START_EPOCH_CC, START_EPOCH_ADV).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses import full_precision
from machine import ranges
from machine.ranges import Fraction, Number, Positive, Range, Width
from models import Headed, Output, logits_of
from networks.blocks import global_average, linear_classifier

Begins = Annotated[int, Number(int, Range(0, 100_000))]


class CAL(Headed):
    """Global maximum and average of the map side by side, batch norm, a linear classifier (models/img_resnet.py).

    embedding = feats[0] = f, behind the batch norm (B, 2 C): every loss and the test read it.
    """

    renames = (
        ("base.0.", "base.conv1."),
        ("base.1.", "base.bn1."),
        *((f"base.{i + 3}.", f"base.layer{i}.") for i in (1, 2, 3, 4)),
        ("classifier.classifier.", "classifier."),
    )

    pools = 2  # maximum and average

    def __init__(self, *, last_stride: int | None = 1, **trunk: Any):
        super().__init__(last_stride=last_stride, **trunk)
        dim = self.pools * self.base.out_channels
        self.bn = nn.BatchNorm1d(dim)
        nn.init.normal_(self.bn.weight, 1.0, 0.02)
        self.classifier = linear_classifier(dim, self.num_pids, bias=True, std=0.001)
        self.embedding_dim, self.feat_dims = dim, (dim,)

    def answer(self, feature_map: Tensor) -> Output:
        return self.head(torch.cat((feature_map.amax(dim=(2, 3)), global_average(feature_map)), dim=1))  # (B, 2 C)

    def head(self, pooled: Tensor) -> Output:
        """Of what is pooled (B, 2 C)."""
        f = self.bn(pooled)
        return Output(f, logits_of(self, f), (f,))


class CALVideo(CAL):
    """Over clips: the global maximum of each frame's map, the mean of these over the frames, then batch norm and a
    linear classifier (models/vid_resnet.py, C2DResNet50).

    Its ResNet-50 has convolutions over one frame alone: frames go through as images do. An image is a clip of one.
    embedding = feats[0] = f, behind the batch norm (B, C).
    """

    pools = 1  # the maximum

    def described(self, feature_map: Tensor) -> Tensor:
        """Of each frame (n, C)."""
        return feature_map.amax(dim=(2, 3))

    def answer(self, feature_map: Tensor) -> Output:
        return self.head(self.described(feature_map))


def clothes_adversarial_loss(logits: Tensor, clothes: Tensor, own: Tensor, epsilon: float) -> Tensor:
    """Eq. (4) and (5), losses/clothes_based_adversarial_loss.py: logits (B, C) of the clothes, `clothes` (B,) which are
    worn, `own` (B, C) bool: which clothes are of the same person -> scalar.

    -sum_c q_c log(exp(z_c) / (exp(z_c) + sum of exp over the clothes of others)), mean over the batch, where q_c is
    1 - epsilon + epsilon / K for the clothes worn and epsilon / K for the other clothes of that person, who has K: the
    person's clothes do not compete with each other, and those not worn are asked for too.
    """
    others = logits.masked_fill(own, -torch.inf).logsumexp(1, keepdim=True)  # (B, 1)
    log_p = logits - torch.logaddexp(others, logits)  # (B, C)
    asked = (log_p * own).sum(1) / own.sum(1)  # (B,): the mean over the clothes of the person
    worn = log_p.gather(1, clothes[:, None])[:, 0]  # (B,)
    return -((1 - epsilon) * worn + epsilon * asked).mean()


class ClothesAdversary(nn.Module):
    """The classifier of clothes, a cosine times `clothes_scale` without margin, and the loss that the network learns by
    from it.

    wearers (C,): of each of the clothes the label of the identity that wears it. dim: width of all feats together. lr,
    weight_decay: of the classifier's own Adam, which no schedule slows down (main.py there: only the main optimiser has
    one). clothes_from: epochs after which both begin. The weights begin as random directions.
    ValueError where a batch does not say what is worn.
    """

    needs = ("feats",)
    takes_views = True

    @ranges.checked
    def __init__(
        self,
        wearers: Sequence[int],
        dim: Width,
        lr: Positive = 3.5e-4,
        weight_decay: float = 5e-4,
        clothes_scale: Positive = 16.0,
        clothes_epsilon: Fraction = 0.1,
        clothes_from: Begins = 25,
    ):
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.empty(len(wearers), dim).uniform_(-1, 1)))
        self.wearers: Tensor
        self.register_buffer("wearers", torch.tensor(list(wearers)))
        self.lr, self.weight_decay = lr, weight_decay
        self.scale, self.epsilon, self.begins = clothes_scale, clothes_epsilon, clothes_from

    def own_optimizer(self, weight: float) -> torch.optim.Optimizer:
        """Adam with the rate and the decay that the network starts with; the `weight` of the term does not move it."""
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)

    def logits(self, output: Any, weight: Tensor) -> Tensor:
        """Scaled cosines of feats to each of the clothes, (B, C)."""
        f = full_precision(torch.cat(output.feats, dim=1))  # (B, D)
        return self.scale * F.linear(F.normalize(f), F.normalize(full_precision(weight)))

    def worn(self, views: Any) -> Tensor:
        """Labels of the clothes of the batch, (B,)."""
        if views is None or views.clothes is None:
            raise ValueError("the clothes loss reads what is worn in each image, and this batch does not say")
        return views.clothes

    def ahead(self, output: Any, labels: Tensor, views: Any) -> Tensor:
        """What the classifier learns by: cross-entropy of the clothes."""
        with torch.autocast(labels.device.type, enabled=False):
            return F.cross_entropy(self.logits(output, self.weight), self.worn(views))

    def forward(self, output: Any, labels: Tensor, views: Any) -> Tensor:
        """`clothes_adversarial_loss` by the classifier as it is."""
        with torch.autocast(labels.device.type, enabled=False):
            logits = self.logits(output, self.weight.detach())
            own = self.wearers == labels[:, None]  # (B, C)
            return clothes_adversarial_loss(logits, self.worn(views), own, self.epsilon)
