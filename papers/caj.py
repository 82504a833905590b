"""Ye, Ruan, Du, Shou. Channel Augmented Joint Learning for Visible-Infrared Recognition. ICCV 2021.

Released code: mangye16/Cross-Modal-Re-ID-baseline at e817a26, ICCV21_CAJ/: model.py, loss.py (TripletLoss_ADP),
train_ext.py, testa.py. The augmentation of channels is in loading/augmentation.py, `CHANNELS`; the images
in colour that a batch holds twice are those of loading/samplers.py, `BothLights`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses import Output as Answer
from losses import full_precision, weighted_distances
from machine import ranges
from machine.ranges import Positive
from models import Output, TwoStreamAGW


class ChannelAugmented(TwoStreamAGW):
    """AGW of two lights whose embedding is of length 1, so that of an image and its mirror image the mean of two
    directions is compared (testa.py)."""

    def answer(self, feature_map: Tensor) -> Output:
        output = super().answer(feature_map)
        return output._replace(embedding=F.normalize(output.embedding, dim=1))


def squared_difference(feats: Tensor, labels: Tensor, alpha: float = 1.0, gamma: float = 1.0) -> Tensor:
    """The enhanced squared difference: feats (B, D), labels (B,) -> scalar.

    With positive and negative distance as AGW weighs them, `losses.weighted_distances`, at `alpha` times the distances
    in the weights, and d their difference: log(1 + exp(gamma d^2)) where the positive is further, else
    log(1 + exp(-gamma d^2)); mean over anchors. gamma d^2 is cut at 88, as there: above, an anchor has no
    gradient.
    """
    with torch.autocast(feats.device.type, enabled=False):
        positive, negative = weighted_distances(feats, labels, alpha=alpha)
        squared = (gamma * (positive - negative).square()).clamp(max=88)
        return F.softplus(torch.where(positive > negative, squared, -squared)).mean()


class SquaredDifference(nn.Module):
    """`squared_difference` of each of output.feats, mean. Its numbers are those of the released command: 1 and 1."""

    needs = ("feats",)

    @ranges.checked
    def __init__(self, squared_alpha: Positive = 1.0, squared_gamma: Positive = 1.0):
        super().__init__()
        self.alpha, self.gamma = squared_alpha, squared_gamma

    def forward(self, output: Answer, labels: Tensor) -> Tensor:
        feats = [full_precision(feat) for feat in output.feats]
        return torch.stack([squared_difference(feat, labels, self.alpha, self.gamma) for feat in feats]).mean()
