"""How the fields of a recipe become its criterion: every loss whose weight is not zero.

A loss of one row alone comes from the row's `terms`; `config` builds those and hands them in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

import losses


def id_loss(recipe, num_pids: int, reduction: str) -> nn.Module:
    """The recipe's identity loss; `reduction` over several classifiers, which the margin losses do not have."""
    if recipe.id_loss == "softmax":
        return losses.IDLoss(recipe.label_smoothing, reduction)
    if recipe.id_loss == "focal":
        return losses.FocalLoss(recipe.focal_gamma, reduction)
    face = {"arcface": losses.ArcFace, "cosface": losses.CosFace, "circle": losses.CircleSoftmax}[recipe.id_loss]
    network = recipe.outline(0)
    width, numbers = network.embedding_dim // network.id_parts, (recipe.id_scale, recipe.id_margin)
    faces = [face(width, num_pids, *numbers, recipe.label_smoothing) for _ in range(network.id_parts)]
    return losses.OfParts(faces) if network.id_parts > 1 else faces[0]


def triplet_loss(recipe, reduction: str) -> nn.Module:
    """The recipe's triplet loss, weighted-regularised or batch-hard with its margin; `reduction` over several feats."""
    if recipe.mining != "hard":
        exact = recipe.mining == "weighted_exact"
        return losses.WeightedRegularizedTriplet(recipe.triplet_normalize, reduction, exact)
    return losses.TripletLoss(recipe.margin, recipe.hard_factor, recipe.triplet_normalize, reduction)


class Some(nn.Module):
    """`loss` of the logits and feats that `which` picks."""

    takes_notes = True

    def __init__(self, loss: nn.Module, which: slice):
        super().__init__()
        self.loss, self.which, self.needs = loss, which, loss.needs

    def forward(self, output, labels, notes):
        output = output._replace(logits=output.logits[self.which], feats=output.feats[self.which])
        if not all(getattr(output, field) for field in self.needs):
            raise ValueError(
                "reduction half weighs the first output against the others, but this network has only one; use mean"
            )
        return losses.noted(self.loss, output, labels, notes)

    def collapsed(self, mean: float, notes: dict) -> str | None:
        """The loss's own advice on its epoch mean; None if it has none."""
        return losses.advice_of(self.loss, mean, notes)


def over_outputs(name: str, weight: float, make: Callable[[str], nn.Module], reduction: str) -> dict:
    """Terms of a loss that a network with several outputs has once per output; `make` is called with mean or sum."""
    if reduction != "half":
        return {name: (weight, make(reduction))}
    first, others = Some(make("mean"), slice(0, 1)), Some(make("mean"), slice(1, None))
    return {name: (weight / 2, first), f"{name}_parts": (weight / 2, others)}


def combined(recipe, num_pids: int, own: dict[str, tuple[float, nn.Module]]) -> losses.Criterion:
    """Every loss whose weight is not zero; `own`: (weight, loss) of the row's own terms."""
    r = recipe
    terms: dict[str, tuple[float, nn.Module]] = {}
    if r.balance_sigma:
        if r.id_weight != r.triplet_weight:
            raise ValueError(
                f"--balance_sigma {r.balance_sigma} weighs the ID and the triplet loss itself, but --id_weight is "
                f"{r.id_weight} and --triplet_weight {r.triplet_weight}; give both the same"
            )
        both = id_loss(r, num_pids, r.reduction), triplet_loss(r, r.reduction)
        balance = losses.DynamicBalance(*both, r.balance_alpha, r.balance_gamma, r.balance_sigma, r.balance_rule)
        terms["balance"] = (r.id_weight, balance)
    else:
        if r.id_weight:
            terms |= over_outputs("id", r.id_weight, partial(id_loss, r, num_pids), r.reduction)
        if r.triplet_weight:
            terms |= over_outputs("triplet", r.triplet_weight, partial(triplet_loss, r), r.reduction)
    if r.local_triplet_weight:
        local = losses.AlignedTriplet(r.local_margin, r.triplet_normalize, r.normalize_parts, r.local_mining)
        terms["local"] = (r.local_triplet_weight, local)
    if r.center_weight:
        dim = r.feature_width(num_pids)
        terms["center"] = (r.center_weight, losses.CenterLoss(num_pids, dim, sgd_lr=r.center_lr))
    if r.circle_weight:
        terms["circle"] = (r.circle_weight, losses.CircleLoss(r.circle_margin, r.circle_gamma))
    if r.ring_weight:
        terms["ring"] = (r.ring_weight, losses.RingLoss())
    if r.mutual_kl_weight:
        terms["mutual_kl"] = (r.mutual_kl_weight, losses.MutualKL(r.members))
    if r.mutual_distance_weight:
        distance = losses.MutualDistance(r.members, r.triplet_normalize)
        terms["mutual_distance"] = (r.mutual_distance_weight, distance)
    if r.mutual_local_weight:
        local_distance = losses.MutualLocalDistance(r.members, r.normalize_parts)
        terms["mutual_local"] = (r.mutual_local_weight, local_distance)
    if own.keys() & terms.keys():
        raise ValueError(f"recipe {r.name} names a term of its own {', '.join(own.keys() & terms.keys())}: it has one")
    return losses.Criterion(**terms, **own)
