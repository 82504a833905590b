"""The table: one row per published method, with its numbers, its result and where each was read.

A row sets everything a run needs; flags of ``main.py`` carry the same names as the fields and override them.
``Recipe.model(num_pids)`` builds the network, ``Recipe.losses(num_pids)`` the criterion; neither the training loop nor
the evaluation reads a method's name.

Sources named in short below:
    BoT        Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", CVPRW 2019, and
               github.com/michuanhaohao/reid-strong-baseline at 3da7e6f, configs/softmax_triplet_with_center.yml
    torchreid  github.com/KaiyangZhou/deep-person-reid at f8cd150, configs/,
               scripts/default_config.py, docs/MODEL_ZOO.md
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

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

    What is frozen keeps its BatchNorm in eval mode. `restart`: the learning rate schedule starts again with the stage
    (staged training such as PCB+RPP); otherwise it runs on over all stages (torchreid's ``fixbase_epoch``).
    """

    epochs: int
    trainable: tuple[str, ...] = ()
    restart: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One published method. Field names are flag names; see the groups for units."""

    name: str
    title: str
    paper: str  # citation
    source: str  # where the numbers of this row were read
    published: dict[str, Published] = dataclasses.field(default_factory=dict)  # data set -> result
    differs: str = ""  # where paper, authors' code and this suite differ, and which was followed

    # network
    network: Callable[[Recipe, int, bool], nn.Module]
    backbone: str
    pretrained: str = "imagenet"  # imagenet | none | a weight file
    stem_relu: bool = True  # False: as in networks of the released BoT code, which leaves the stem's ReLU out
    last_stride: int | None = None  # stride of the last ResNet stage; None: as the backbone has it
    neck: str = "bnneck"  # bnneck | none
    test_neck: str = "after"  # which side of the neck is compared
    fc_dims: int = 0  # width of a Linear-BN-ReLU reduction; 0: none

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

    # optimisation
    optimizer: str = "adam"
    lr: float = 3.5e-4
    base_lr_mult: float = 1.0  # learning rate of the backbone over that of new layers
    weight_decay: float = 5e-4
    momentum: float = 0.9  # SGD
    nesterov: bool = False  # SGD
    clip_grad: float = 0.0  # largest gradient norm; 0: no clipping
    epochs: int = 60
    fixbase_epochs: int = 0  # epochs at the start in which only new layers are trained
    stages: tuple[Stage, ...] = ()  # staged training; empty: `fixbase_epochs`, then everything
    schedule: str = "multistep"  # multistep | cosine | exponential | constant
    milestones: tuple[int, ...] = ()  # epochs done when the rate is multiplied by gamma (exponential: first = start)
    gamma: float = 0.1
    warmup_epochs: int = 0
    warmup_factor: float = 0.01
    eval_every: int = 0  # epochs between evaluations; 0: only after the last

    # losses
    criterion: Callable[[Recipe, int], losses.Criterion]
    id_weight: float = 1.0
    label_smoothing: float = 0.1
    triplet_weight: float = 0.0
    margin: float | None = 0.3  # None: soft margin
    hard_factor: float = 0.0
    triplet_normalize: bool = False
    center_weight: float = 0.0
    center_lr: float = 0.5
    arcface_scale: float = 30.0
    arcface_margin: float = 0.5

    # test
    metric: str = "euclidean"  # euclidean | cosine
    distance: Callable | None = None  # (query, gallery) -> distmat, where a method compares more than embeddings

    def model(self, num_pids: int, pretrained: bool = False) -> nn.Module:
        """The network with classifiers for `num_pids` identities (0: none, for testing).

        `pretrained` asks torchvision or timm for ImageNet weights; weight *files* are loaded by ``checkpoints``.
        """
        return self.network(self, num_pids, pretrained)

    def losses(self, num_pids: int) -> losses.Criterion:
        """The criterion: called with (Output, labels), answers {name: weighted term}."""
        return self.criterion(self, num_pids)

    def feat_dims(self, num_pids: int) -> tuple[int, ...]:
        """Widths of ``Output.feats``, found without allocating the network."""
        with torch.device("meta"):
            return tuple(self.model(num_pids).feat_dims)

    def with_(self, **overrides) -> Recipe:
        """This recipe with fields replaced; an unknown name is a TypeError of ``dataclasses.replace``."""
        return dataclasses.replace(self, **overrides)

    def plan(self) -> tuple[Stage, ...]:
        """The stages of a run: `stages` if given, else `fixbase_epochs` of new layers alone and then everything."""
        if self.stages:
            return self.stages
        frozen = min(self.fixbase_epochs, self.epochs)
        first = (Stage(frozen, ("classifier", "bottleneck", "fc")),) if frozen else ()
        return (*first, Stage(self.epochs - frozen))


# ---------------------------------------------------------------------------------------------------------------------
# How a row becomes a network and a criterion
# ---------------------------------------------------------------------------------------------------------------------


def bag_of_tricks(recipe: Recipe, num_pids: int, pretrained: bool) -> nn.Module:
    return models.BagOfTricks(
        num_pids=num_pids,
        backbone=recipe.backbone,
        last_stride=recipe.last_stride,
        stem_relu=recipe.stem_relu,
        neck=recipe.neck,
        test_neck=recipe.test_neck,
        pretrained=pretrained,
    )


def softmax(recipe: Recipe, num_pids: int, pretrained: bool) -> nn.Module:
    return models.Softmax(
        num_pids=num_pids,
        backbone=recipe.backbone,
        last_stride=recipe.last_stride,
        fc_dims=(recipe.fc_dims,) if recipe.fc_dims else (),
        pretrained=pretrained,
    )


def weighted_sum(recipe: Recipe, num_pids: int) -> losses.Criterion:
    """ID + triplet + center, each where its weight is not zero (BoT, eq. (5))."""
    terms: dict[str, tuple[float, nn.Module]] = {}
    if recipe.id_weight:
        terms["id"] = (recipe.id_weight, losses.IDLoss(recipe.label_smoothing))
    if recipe.triplet_weight:
        triplet = losses.TripletLoss(recipe.margin, recipe.hard_factor, recipe.triplet_normalize)
        terms["triplet"] = (recipe.triplet_weight, triplet)
    if recipe.center_weight:
        dim = recipe.feat_dims(num_pids)[0]
        terms["center"] = (recipe.center_weight, losses.CenterLoss(num_pids, dim, sgd_lr=recipe.center_lr))
    return losses.Criterion(**terms)


def arcface(recipe: Recipe, num_pids: int) -> losses.Criterion:
    """ArcFace in place of the linear ID classifier, with a triplet term where its weight is not zero."""
    with torch.device("meta"):
        dim = recipe.model(num_pids).embedding_dim
    face = losses.ArcFace(dim, num_pids, scale=recipe.arcface_scale, margin=recipe.arcface_margin)
    terms = {"arcface": (recipe.id_weight, face)}
    if recipe.triplet_weight:
        triplet = losses.TripletLoss(recipe.margin, recipe.hard_factor, recipe.triplet_normalize)
        terms["triplet"] = (recipe.triplet_weight, triplet)
    return losses.Criterion(**terms)


# ---------------------------------------------------------------------------------------------------------------------
# The rows
# ---------------------------------------------------------------------------------------------------------------------

RECIPES: dict[str, Recipe] = {}


def row(base: Recipe | None = None, **fields) -> Recipe:
    """Add a row to the table; `base` is the row it differs from in `fields` only."""
    recipe = dataclasses.replace(base, **fields) if base else Recipe(**fields)
    if recipe.name in RECIPES:
        raise ValueError(f"two recipes are called {recipe.name}")
    RECIPES[recipe.name] = recipe
    return recipe


BOT = row(
    name="bot",
    title="Bag of Tricks, ResNet-50",
    paper="Luo et al., Bag of Tricks and a Strong Baseline for Deep Person Re-identification, CVPRW 2019",
    source="reid-strong-baseline 3da7e6f, configs/softmax_triplet_with_center.yml, solver/lr_scheduler.py",
    published={
        "market": Published(94.5, 85.9, "BoT, Table 7 (all tricks with center loss); reid-strong-baseline README"),
        "duke": Published(86.4, 76.4, "BoT, Table 7 (all tricks with center loss); reid-strong-baseline README"),
    },
    differs=(
        "The rate drops after epochs 40 and 70, as in the paper's equation for lr(t); the released scheduler drops it "
        "one epoch sooner. The paper's warm-up starts at a tenth (t/10), the code's at 0.01 + 0.99 t/10: the code's. "
        "The released ResNet leaves out the ReLU after the stem (modeling/backbones/resnet.py); here it is in, as in "
        "the network that the ImageNet weights come from (--stem_relu no for the other)."
    ),
    network=bag_of_tricks,
    criterion=weighted_sum,
    backbone="resnet50",
    last_stride=1,
    image_size=(256, 128),
    pad=10,
    erase=0.5,
    p=16,
    k=4,
    optimizer="adam",
    lr=3.5e-4,
    epochs=120,
    milestones=(40, 70),
    warmup_epochs=10,
    warmup_factor=0.01,
    eval_every=40,
    triplet_weight=1.0,
    center_weight=5e-4,
    metric="cosine",
)

row(
    BOT,
    name="bot_no_center",
    title="Bag of Tricks without center loss, ResNet-50",
    published={"market": Published(94.1, 85.7, "BoT paper; reid-strong-baseline README, without center loss")},
    center_weight=0.0,
)

row(
    BOT,
    name="bot_ibn",
    title="Bag of Tricks, ResNet-50-IBN-a",
    backbone="resnet50_ibn_a",
    center_weight=0.0,
    published={
        "market": Published(95.0, 88.2, "reid-strong-baseline 3da7e6f README, backbone table"),
        "duke": Published(90.1, 79.1, "reid-strong-baseline 3da7e6f README, backbone table"),
    },
)

row(
    BOT,
    name="bot_arcface",
    title="Bag of Tricks with ArcFace in place of the ID classifier",
    source="BoT row; Deng et al., ArcFace, CVPR 2019, for the loss",
    published={},
    criterion=arcface,
    center_weight=0.0,
)

SOFTMAX = row(
    name="softmax",
    title="Plain softmax baseline, ResNet-50",
    paper="Zheng et al., Person Re-identification: Past, Present and Future, arXiv 2016 (IDE)",
    source="torchreid f8cd150, configs/im_r50_softmax_256x128_amsgrad.yaml",
    published={
        "market": Published(87.9, 70.4, "torchreid f8cd150, docs/MODEL_ZOO.md, resnet50"),
        "duke": Published(78.3, 58.9, "torchreid f8cd150, docs/MODEL_ZOO.md, resnet50"),
        "msmt17": Published(63.2, 33.9, "torchreid f8cd150, docs/MODEL_ZOO.md, resnet50"),
    },
    differs="The zoo's table names random_flip and random_crop, its config file only random_flip: the table's.",
    network=softmax,
    criterion=weighted_sum,
    backbone="resnet50",
    neck="none",
    translate=0.5,
    batch_size=32,
    optimizer="amsgrad",
    lr=3e-4,
    epochs=60,
    fixbase_epochs=5,
    milestones=(20,),
)

row(
    SOFTMAX,
    name="softmax_fc512",
    title="Softmax baseline, ResNet-50 with a 512-d reduction",
    source="torchreid f8cd150, configs/im_r50fc512_softmax_256x128_amsgrad.yaml",
    published={
        "market": Published(90.8, 75.3, "torchreid f8cd150, docs/MODEL_ZOO.md, resnet50_fc512"),
        "duke": Published(81.0, 64.0, "torchreid f8cd150, docs/MODEL_ZOO.md, resnet50_fc512"),
        "msmt17": Published(69.6, 38.4, "torchreid f8cd150, docs/MODEL_ZOO.md, resnet50_fc512"),
    },
    last_stride=1,
    fc_dims=512,
)

row(
    SOFTMAX,
    name="softmax_triplet",
    title="Softmax + hard triplet baseline, ResNet-50",
    paper="Hermans et al., In Defense of the Triplet Loss for Person Re-Identification, arXiv 2017",
    source="torchreid f8cd150, scripts/default_config.py (margin 0.3, 4 instances) on the softmax row",
    published={},
    differs="torchreid's default weights the ID term 0 (weight_x); here both terms weigh 1, as its README trains them.",
    triplet_weight=1.0,
    p=16,
    k=4,
)

OSNET = row(
    name="osnet_x1_0",
    title="OSNet x1.0",
    paper="Zhou et al., Omni-Scale Feature Learning for Person Re-Identification, ICCV 2019",
    source="torchreid f8cd150, configs/im_osnet_x1_0_softmax_256x128_amsgrad_cosine.yaml",
    published={
        "market": Published(94.2, 82.6, "torchreid f8cd150, docs/MODEL_ZOO.md"),
        "duke": Published(87.0, 70.2, "torchreid f8cd150, docs/MODEL_ZOO.md"),
        "msmt17": Published(74.9, 43.8, "torchreid f8cd150, docs/MODEL_ZOO.md"),
    },
    network=softmax,
    criterion=weighted_sum,
    backbone="osnet_x1_0",
    neck="none",
    fc_dims=512,
    batch_size=64,
    optimizer="amsgrad",
    lr=1.5e-3,
    epochs=250,
    fixbase_epochs=10,
    schedule="cosine",
)

OSNET_STEP = row(
    OSNET,
    name="osnet_x0_25",
    title="OSNet x0.25",
    backbone="osnet_x0_25",
    source="torchreid f8cd150, configs/im_osnet_x0_25_softmax_256x128_amsgrad.yaml",
    published={
        "market": Published(91.2, 75.0, "torchreid f8cd150, docs/MODEL_ZOO.md"),
        "duke": Published(82.0, 61.4, "torchreid f8cd150, docs/MODEL_ZOO.md"),
        "msmt17": Published(61.4, 29.5, "torchreid f8cd150, docs/MODEL_ZOO.md"),
    },
    batch_size=128,
    lr=3e-3,
    epochs=180,
    schedule="multistep",
    milestones=(80,),
)

row(
    OSNET_STEP,
    name="osnet_x0_5",
    title="OSNet x0.5",
    backbone="osnet_x0_5",
    source="torchreid f8cd150, configs/im_osnet_x0_5_softmax_256x128_amsgrad.yaml",
    published={
        "market": Published(92.5, 79.8, "torchreid f8cd150, docs/MODEL_ZOO.md"),
        "duke": Published(85.1, 67.4, "torchreid f8cd150, docs/MODEL_ZOO.md"),
        "msmt17": Published(69.7, 37.5, "torchreid f8cd150, docs/MODEL_ZOO.md"),
    },
)

row(
    OSNET_STEP,
    name="osnet_x0_75",
    title="OSNet x0.75",
    backbone="osnet_x0_75",
    source="torchreid f8cd150, configs/im_osnet_x0_75_softmax_256x128_amsgrad.yaml",
    published={
        "market": Published(93.7, 81.2, "torchreid f8cd150, docs/MODEL_ZOO.md"),
        "duke": Published(85.8, 69.8, "torchreid f8cd150, docs/MODEL_ZOO.md"),
        "msmt17": Published(72.8, 41.4, "torchreid f8cd150, docs/MODEL_ZOO.md"),
    },
    batch_size=64,
    lr=1.5e-3,
    epochs=150,
    milestones=(60,),
)

row(
    OSNET,
    name="osnet_ibn_x1_0",
    title="OSNet-IBN x1.0, for other cameras than it was trained on",
    backbone="osnet_ibn_x1_0",
    source="torchreid f8cd150, configs/im_osnet_ibn_x1_0_softmax_256x128_amsgrad.yaml",
    published={
        "market2duke": Published(48.5, 26.7, "torchreid f8cd150, docs/MODEL_ZOO.md, cross-domain"),
        "duke2market": Published(57.7, 26.1, "torchreid f8cd150, docs/MODEL_ZOO.md, cross-domain"),
    },
    color_jitter=1.0,
    epochs=150,
    schedule="multistep",
    milestones=(60,),
)

OSNET_AIN = row(
    OSNET,
    name="osnet_ain_x1_0",
    title="OSNet-AIN x1.0, for other cameras than it was trained on",
    paper="Zhou et al., Learning Generalisable Omni-Scale Representations for Person Re-Identification, TPAMI 2021",
    backbone="osnet_ain_x1_0",
    source="torchreid f8cd150, configs/im_osnet_ain_x1_0_softmax_256x128_amsgrad_cosine.yaml",
    published={
        "market2duke": Published(52.4, 30.5, "torchreid f8cd150, docs/MODEL_ZOO.md, cross-domain"),
        "duke2market": Published(61.0, 30.6, "torchreid f8cd150, docs/MODEL_ZOO.md, cross-domain"),
    },
    color_jitter=1.0,
    epochs=100,
    metric="cosine",
)

for width in ("x0_75", "x0_5", "x0_25"):
    row(
        OSNET_AIN,
        name=f"osnet_ain_{width}",
        title=f"OSNet-AIN {width.replace('_', '.')}",
        backbone=f"osnet_ain_{width}",
        published={},
    )

row(
    BOT,
    name="demo",
    title="Bag of Tricks on OSNet x0.25 at 128x64: minutes on two CPU cores",
    paper="Luo et al., CVPRW 2019; Zhou et al., ICCV 2019",
    source="this suite: the bot row at a size for the built-in data set",
    published={},
    differs="Not a published recipe: a demonstration.",
    backbone="osnet_x0_25",
    last_stride=None,
    pretrained="none",
    image_size=(128, 64),
    pad=5,
    lr=2e-3,
    schedule="cosine",
    milestones=(),
    epochs=16,
    warmup_epochs=2,
    warmup_factor=0.1,
    steps=40,
    eval_every=0,
    center_weight=0.0,
)
