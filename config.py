"""What a recipe is, and how its fields become a network, a criterion and a distance. The rows are in ``recipes.py``.

``Recipe.model(num_pids)`` builds the network, ``Recipe.losses(num_pids)`` the criterion, ``Recipe.distance`` is what a
test compares with; neither the training loop nor the evaluation reads a method's name.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

import evaluate
import losses
import models

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Published(NamedTuple):
    """A result somebody else printed: rank-1 and mAP in percent, and where it stands."""

    rank1: float
    mAP: float
    source: str


class Stage(NamedTuple):
    """`epochs` epochs in which only parameters whose names start with a prefix of `trainable` move (empty: all).

    What is frozen keeps its BatchNorm in eval mode. `restart`: the learning rate schedule starts again with the stage;
    otherwise it runs on over all stages (torchreid's ``fixbase_epoch``, PCB+RPP).
    """

    epochs: int
    trainable: tuple[str, ...] = ()
    restart: bool = False


# Parameters outside the backbone, by the first part of their names: what `fixbase_epochs` trains.
NEW_LAYERS = ("bottleneck", "classifier", "conv1", "fc", "global_pool", "heads", "local_", "part_classifier",
              "reduction")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One published method. Field names are flag names; see the groups for units."""

    name: str
    title: str
    paper: str  # citation
    source: str  # where the numbers of this row were read
    published: dict[str, Published] = dataclasses.field(default_factory=dict)  # data set -> result
    differs: str = ""  # where paper, authors' code and this suite differ, and which was followed

    # network: a class of `models` or `architectures`; it gets those of NETWORK_FIELDS that its constructor names
    network: Callable[..., nn.Module]
    options: dict = dataclasses.field(default_factory=dict)  # further arguments of its constructor
    backbone: str = "resnet50"
    pretrained: str = "imagenet"  # imagenet | none | a weight file
    stem_relu: bool = True  # False: as in networks of the released BoT code, which leaves the stem's ReLU out
    stem_ceil: bool = False  # True: the stem of fast-reid's ResNets, pooled without padding
    last_stride: int | None = None  # stride of the last ResNet stage; None: as the backbone has it
    pooling: str = "avg"  # avg | max | avg+max | gem
    neck: str = "bnneck"  # bnneck | none
    test_neck: str = "after"  # which side of the neck is compared
    metric_neck: str = "before"  # which side of the neck metric losses read
    fc_dims: tuple[int, ...] = ()  # widths of Linear-BN-ReLU reductions
    sie_weight: float = 0.0  # of the camera embedding; 0: none
    members: int = 1  # networks that learn from each other

    # images
    image_size: tuple[int, int] = (256, 128)  # H, W in pixels
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    flip: float = 0.5  # probability
    pad: int = 0  # pixels of black border before the random crop
    translate: float = 0.0  # probability of torchreid's enlarge-by-1/8-and-crop
    erase: float = 0.0  # probability of random erasing
    erase_fill: str = "mean_raw"
    color_jitter: float = 0.0  # probability
    random_patch: float = 0.0  # probability

    # batches: P identities x K images, or `batch_size` shuffled images where p is 0
    p: int = 0
    k: int = 0
    batch_size: int = 64
    steps: int | None = None  # iterations per epoch; None: once through the data as the sampler goes
    alternate: bool = False  # shuffled batches where the dynamic balance asks for the ID loss alone
    infrared: bool = False  # k images of each light per identity; the network is told which cameras see infrared

    # tracklets: of a video set `batch_size`, p and k count tracklets
    seq_len: int = 15  # frames of a tracklet
    sample_method: str = "evenly"  # evenly | random | all | frames (each an image), in training
    frame_by_frame: bool = False  # the losses see frames, not tracklets
    same_augmentation: bool = False  # one augmentation for all frames of a tracklet
    temporal_pooling: str = "avg"  # avg | max | attention
    test_frames: str = "all"  # all | evenly | dense, in a test

    # optimisation
    optimizer: str = "adam"
    lr: float = 3.5e-4
    base_lr_mult: float = 1.0  # learning rate of the backbone over that of new layers
    bias_lr_mult: float = 1.0  # learning rate of biases over that of weights
    weight_decay: float = 5e-4
    momentum: float = 0.9  # SGD
    nesterov: bool = False  # SGD
    clip_grad: float = 0.0  # largest gradient norm; 0: no clipping
    epochs: int = 60
    fixbase_epochs: int = 0  # epochs at the start in which only new layers are trained
    stages: tuple[Stage, ...] = ()  # staged training; empty: `fixbase_epochs`, then everything
    schedule: str = "multistep"  # multistep | cosine | exponential | constant
    milestones: tuple[int, ...] = ()  # epochs done when the rate drops (multistep) or begins to fall (the first)
    gamma: float = 0.1  # factor of a drop; of the whole fall in an exponential schedule
    lr_floor: float = 0.0  # the end of a cosine, over lr
    warmup_epochs: int = 0
    warmup_factor: float = 0.01
    eval_every: int = 0  # epochs between evaluations; 0: only after the last

    # losses: a term is there where its weight is not zero
    reduction: str = "mean"  # over the model's logits or feats: mean | sum | half (the first; the mean of the others)
    id_weight: float = 1.0
    id_loss: str = "softmax"  # softmax | focal | arcface | cosface | circle
    label_smoothing: float = 0.1
    id_scale: float = 30.0  # s of arcface, cosface, circle
    id_margin: float = 0.5  # m of arcface (radians), cosface, circle
    focal_gamma: float = 2.0
    triplet_weight: float = 0.0
    mining: str = "hard"  # hard | weighted (softmax weights over all pairs, AGW)
    margin: float | None = 0.3  # None: soft margin
    hard_factor: float = 0.0
    triplet_normalize: bool = False
    local_triplet_weight: float = 0.0  # triplet loss on the shortest-path distance of parts
    local_mining: str = "global"  # the distance that finds its hard samples: global | local
    normalize_parts: bool = False  # parts to unit length, in the loss and at test
    balance_sigma: float = 0.0  # Pyramid's threshold below which the ID loss trains alone; 0: no dynamic balance
    balance_alpha: float = 0.25
    balance_gamma: float = 2.0
    center_weight: float = 0.0
    center_lr: float = 0.5
    circle_weight: float = 0.0  # circle loss on pairs
    circle_margin: float = 0.25
    circle_gamma: float = 128.0
    ring_weight: float = 0.0
    mutual_kl_weight: float = 0.0
    mutual_distance_weight: float = 0.0

    # test
    metric: str = "euclidean"  # euclidean | cosine
    test_distance: str = "global"  # global (embeddings) | local (parts) | both (their sum)
    local_weight: float = 1.0  # of the local distance in the sum

    def model(self, num_pids: int, pretrained: bool = False, num_cameras: int = 0) -> nn.Module:
        """The network with classifiers for `num_pids` identities (0: none, for testing).

        `pretrained` asks torchvision or timm for ImageNet weights; weight *files* are loaded by ``checkpoints``.
        `num_cameras` counts the cameras of the training set, for networks that learn an embedding of each.
        Networks whose ID loss holds its own weights get no classifiers.
        """
        names = arguments(self.network)
        fields = {name: getattr(self, name) for name in NETWORK_FIELDS if name in names}
        if "num_cameras" in names:
            fields["num_cameras"] = num_cameras if self.sie_weight else 0
        classes = num_pids if self.reads_logits else 0
        make = partial(self.network, num_pids=classes, pretrained=pretrained, **fields, **self.options)
        model = make() if self.members == 1 else models.Mutual([make() for _ in range(self.members)])
        return models.Tracklet(model, "attention") if self.temporal_pooling == "attention" else model

    def losses(self, num_pids: int) -> losses.Criterion:
        """The criterion: called with (Output, labels), answers {name: weighted term}."""
        return combined(self, num_pids)

    @property
    def reads_logits(self) -> bool:
        """Whether a loss reads the network's own identity classifiers."""
        return bool(self.id_weight and self.id_loss in ("softmax", "focal")) or bool(self.mutual_kl_weight)

    @property
    def uses_cameras(self) -> bool:
        """Whether the network reads the camera of an image."""
        return bool(self.sie_weight) and "num_cameras" in arguments(self.network)

    @property
    def distance(self) -> Callable[[tuple, tuple], torch.Tensor] | None:
        """(query, gallery) -> distances (Q, G), both (embeddings, parts); None where `metric` on embeddings is all."""
        return None if self.test_distance == "global" else partial(part_distance, self)

    def outline(self, num_pids: int) -> nn.Module:
        """The network without memory or arithmetic, for its `embedding_dim` and `feat_dims`."""
        with torch.device("meta"):
            return self.model(num_pids)

    def with_(self, **overrides) -> Recipe:
        """This recipe with fields replaced; an unknown name is a TypeError of ``dataclasses.replace``."""
        return dataclasses.replace(self, **overrides)

    def plan(self) -> tuple[Stage, ...]:
        """The stages of a run: `stages`, scaled to `epochs`, or `fixbase_epochs` of new layers and then everything."""
        if self.stages:
            return scaled(self.stages, self.epochs)
        frozen = min(self.fixbase_epochs, self.epochs)
        first = (Stage(frozen, NEW_LAYERS),) if frozen else ()
        return (*first, Stage(self.epochs - frozen))


# ---------------------------------------------------------------------------------------------------------------------
# How a row becomes a network, a criterion, a distance
# ---------------------------------------------------------------------------------------------------------------------

NETWORK_FIELDS = ("backbone", "stem_relu", "stem_ceil", "last_stride", "pooling", "neck", "test_neck", "metric_neck",
                  "fc_dims", "sie_weight", "image_size")  # fmt: skip


def arguments(network: Callable[..., nn.Module]) -> set[str]:
    """Names of the constructor's arguments, with those that a class hands on to its base class as ``**options``."""
    names: set[str] = set()
    for base in inspect.getmro(network):
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return names


def applies(recipe: Recipe, field: str) -> bool:
    """Whether the recipe's network has a use for `field`; fields that are not the network's always apply."""
    return field not in NETWORK_FIELDS or field == "image_size" or field in arguments(recipe.network)


def check_network_fields(recipe: Recipe, given: dict) -> None:
    """ValueError if `given` sets a field that the recipe's network has no use for."""
    for name in given:
        if not applies(recipe, name):
            reason = "is a network of its own, without a choice of" if name == "backbone" else "has no"
            raise ValueError(
                f"--{name} does not apply to recipe {recipe.name}: {recipe.network.__name__} {reason} {name}. Leave it "
                "out, or choose another recipe"
            )


def check_test_distance(recipe: Recipe) -> None:
    """ValueError if the recipe's test compares parts and its network has none."""
    if recipe.distance is None:
        return
    with torch.inference_mode():
        output = recipe.outline(0).eval()(torch.empty(2, 3, *recipe.image_size, device="meta"))
    if output.parts is None:
        raise ValueError(
            f"--test_distance {recipe.test_distance} compares local features, and {recipe.network.__name__} of recipe "
            f"{recipe.name} has none; use --test_distance global, or recipe aligned"
        )


def scaled(stages: tuple[Stage, ...], epochs: int) -> tuple[Stage, ...]:
    """`stages` in the same proportions over `epochs` epochs, each at least one."""
    if epochs < len(stages):
        raise ValueError(f"--epochs {epochs} is too few for {len(stages)} training stages")
    done, total, bounds = 0, sum(stage.epochs for stage in stages), [0]
    for left, stage in zip(reversed(range(len(stages))), stages, strict=True):
        done += stage.epochs
        bounds.append(min(max(round(done * epochs / total), bounds[-1] + 1), epochs - left))
    return tuple(s._replace(epochs=b - a) for s, a, b in zip(stages, bounds[:-1], bounds[1:], strict=True))


def part_distance(recipe: Recipe, query: tuple, gallery: tuple) -> torch.Tensor:
    """Shortest-path distance of parts, alone or added to the distance of embeddings (AlignedReID, section 3.1)."""
    local = losses.aligned_distance(query[1], gallery[1], recipe.normalize_parts)  # (Q, G)
    if recipe.test_distance == "local":
        return local
    return evaluate.pairwise_distance(query[0], gallery[0], recipe.metric) + recipe.local_weight * local


def id_loss(recipe: Recipe, num_pids: int, reduction: str) -> nn.Module:
    """The recipe's identity loss; `reduction` over several classifiers, which the margin losses do not have."""
    if recipe.id_loss == "softmax":
        return losses.IDLoss(recipe.label_smoothing, reduction)
    if recipe.id_loss == "focal":
        return losses.FocalLoss(recipe.focal_gamma, reduction)
    face = {"arcface": losses.ArcFace, "cosface": losses.CosFace, "circle": losses.CircleSoftmax}[recipe.id_loss]
    dim = recipe.outline(0).embedding_dim
    return face(dim, num_pids, recipe.id_scale, recipe.id_margin, recipe.label_smoothing)


def triplet_loss(recipe: Recipe, reduction: str) -> nn.Module:
    """The recipe's triplet loss, weighted-regularised or batch-hard with its margin; `reduction` over several feats."""
    if recipe.mining == "weighted":
        return losses.WeightedRegularizedTriplet(recipe.triplet_normalize, reduction)
    return losses.TripletLoss(recipe.margin, recipe.hard_factor, recipe.triplet_normalize, reduction)


class Some(nn.Module):
    """`loss` of the logits and feats that `which` picks."""

    def __init__(self, loss: nn.Module, which: slice):
        super().__init__()
        self.loss, self.which, self.needs = loss, which, loss.needs

    def forward(self, output, labels):
        output = output._replace(logits=output.logits[self.which], feats=output.feats[self.which])
        if not all(getattr(output, field) for field in self.needs):
            raise ValueError(
                "reduction half weighs the first output against the others, but this network has only one; use mean"
            )
        return self.loss(output, labels)

    def collapsed(self, mean: float) -> str | None:
        """The loss's own advice on its epoch mean; None if it has none."""
        return self.loss.collapsed(mean) if hasattr(self.loss, "collapsed") else None


def over_outputs(name: str, weight: float, make: Callable[[str], nn.Module], reduction: str) -> dict:
    """Terms of a loss that a network with several outputs has once per output; `make` is called with mean or sum."""
    if reduction != "half":
        return {name: (weight, make(reduction))}
    first, others = Some(make("mean"), slice(0, 1)), Some(make("mean"), slice(1, None))
    return {name: (weight / 2, first), f"{name}_parts": (weight / 2, others)}


def combined(recipe: Recipe, num_pids: int) -> losses.Criterion:
    """Every loss whose weight is not zero."""
    r, terms = recipe, {}
    if r.balance_sigma:
        if r.id_weight != r.triplet_weight:
            raise ValueError(
                f"--balance_sigma {r.balance_sigma} weighs the ID and the triplet loss itself, but --id_weight is "
                f"{r.id_weight} and --triplet_weight {r.triplet_weight}; give both the same"
            )
        both = id_loss(r, num_pids, r.reduction), triplet_loss(r, r.reduction)
        balance = losses.DynamicBalance(*both, r.balance_alpha, r.balance_gamma, r.balance_sigma)
        terms["balance"] = (r.id_weight, balance)
    else:
        if r.id_weight:
            terms |= over_outputs("id", r.id_weight, partial(id_loss, r, num_pids), r.reduction)
        if r.triplet_weight:
            terms |= over_outputs("triplet", r.triplet_weight, partial(triplet_loss, r), r.reduction)
    if r.local_triplet_weight:
        local = losses.AlignedTriplet(r.margin, r.triplet_normalize, r.normalize_parts, r.local_mining)
        terms["local"] = (r.local_triplet_weight, local)
    if r.center_weight:
        dim = sum(r.outline(num_pids).feat_dims)
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
    return losses.Criterion(**terms)
