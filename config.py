"""What a recipe is, and how its fields become a network, a criterion and a distance. The rows are in ``recipes.py``.

A field is declared once, in `Recipe`: type, default, help, unit, choices, range. Its flag, its line of the help, the
check of what applies to a network and what a checkpoint keeps of it are read from there. A number of one network or
one loss alone is no field: it is an argument of that constructor, set in the row's `options`, and a flag all the same.

``Recipe.model(num_pids)`` builds the network, ``Recipe.losses(num_pids)`` the criterion, ``Recipe.distance`` is what a
test compares with; neither the training loop nor the evaluation reads a method's name.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

import criteria
import evaluate
import loaders
import losses
import models
import train
import video
from epochs import Hook
from loading.augmentation import CHANNELS, FILLS
from loading.samplers import EPOCH_LENGTHS, SAMPLE_METHODS
from loading.store import FILTERS
from machine import fingerprint, ranges
from machine.ranges import (
    ANGLE,
    EPOCHS,
    FINITE,
    FOCUS,
    FRACTION,
    MARGIN,
    NEWEST,
    POSITIVE,
    SHARE,
    WEIGHT,
    Number,
    Range,
)
from networks.blocks import POOLINGS
from published import Published, Variant

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Stage(NamedTuple):
    """`epochs` epochs in which only the groups `trainable` of the model's layers move (empty: all).

    A group is "new", all that no pretrained weights fill, or a module of the network, such as "classifier": see
    `models.Model.layers`.
    What is frozen keeps its BatchNorm in eval mode. `restart`: the learning rate schedule starts again with the stage;
    otherwise it runs on over all stages (torchreid's ``fixbase_epoch``, PCB+RPP). `lr`: the rate all through the stage,
    in place of the schedule's.
    `changes`: fields of the recipe in which the stage differs, of `STAGED`. Such a stage has its own criterion, loader
    and optimisers, made of the changed recipe, and its schedule starts with it (CLIP-ReID's prompts, then images).
    Flags change the recipe, and not what a stage sets itself.
    """

    epochs: int
    trainable: tuple[str, ...] = ()
    restart: bool = False
    lr: float = 0.0
    changes: dict[str, Any] = {}  # noqa: RUF012 (a tuple's default, which nobody changes)


class Term(NamedTuple):
    """A loss of one row alone: its weight, and the class that makes it.

    Its constructor gets what it names of: `num_pids`; `wearers`, see `Recipe.losses`; `dim`, the width of all
    `Output.feats` together; fields of the recipe; `options`. Option `<name of the term>_weight` replaces the weight.
    """

    weight: float
    loss: Callable[..., nn.Module]


@dataclass(frozen=True)
class About:
    """What a field of `Recipe` says of itself beside its type and its default."""

    help: str = ""
    group: str = ""  # of flags in the help; "": the field has no flag
    choices: tuple[str, ...] = ()
    within: Range = FINITE  # of a number, or of each of several
    also: str = ""  # another spelling of its flag
    unit: str | tuple[str, ...] = ""  # what the help shows in place of the value
    network: bool = False  # applies only to networks whose constructor names it
    none: str = ""  # the word for None on the command line
    empty: bool = False  # of a list: the bare flag means an empty one
    result: bool = False  # decides what is measured of the weights, and not the weights


def field(default: Any, text: str = "", group: str = "", **about: Any) -> Any:
    """A field of `Recipe` with its help `text` and the `group` of its flag; `about` as in `About`."""
    metadata = {"about": About(text, group, **about)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def plain(value: Any) -> Any:
    """`value` of a field in plain types, which can be kept and compared; a class or function by its name."""
    if isinstance(value, Stage) and not value.changes:
        value = value[:-1]  # as it was kept before stages could change anything
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.astuple(value))
    known = value is None or type(value) in (str, int, float, bool)
    return value if known else getattr(value, "__qualname__", repr(value))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One published method. Field names are flag names; the groups are those of the help."""

    name: str
    title: str
    paper: str  # citation
    source: str  # where the numbers of this row were read
    published: dict[str, Published] = field({})  # data set -> result of this very row, see `published.pair`
    variants: tuple[Variant, ...] = ()  # published runs that are this row but for a few flags
    differs: str = ""  # where paper, authors' code and this suite differ, and which was followed
    place: str = dataclasses.field(default="", compare=False, repr=False)  # file and line of the row

    # a class of `models` or `architectures`: its constructor gets num_pids, pretrained and the fields that it names
    network: Callable[..., models.Model]
    options: dict[str, Any] = field({})  # arguments of the network's and of the terms' constructors that are no fields
    terms: dict[str, Term] = field({})  # losses of this row alone
    hook: Callable[..., Hook] | None = None  # called before each epoch; gets what its constructor names
    backbone: str = field(
        "resnet50",
        "torchvision or timm name, or one of ours (osnet_x1_0, resnet50_ibn_a, ...)",
        "network",
        also="cnnbackbone",
        network=True,
    )
    pretrained: str = field("imagenet", "imagenet, none, or a weight file to start from", "network")
    stem_relu: bool = field(
        True, "ReLU after the stem of a ResNet; no: as in released BoT weights", "network", network=True
    )
    stem_ceil: bool = field(
        False, "stem of a ResNet pooled without padding: as in fast-reid's weights", "network", network=True
    )
    stem_pool: str = field(
        "3x3",
        "max pool of the stem of a ResNet; 2x2: as in person-reid-tiny-baseline's weights",
        "network",
        choices=("3x3", "2x2"),
        network=True,
    )
    last_stride: int | None = field(
        None,
        "stride of the last ResNet stage; None: as the backbone has it",
        "network",
        network=True,
        within=Range(1, 2),
    )
    pooling: str = field("avg", "of the last map to a feature", "network", choices=tuple(POOLINGS), network=True)
    neck: str = field("bnneck", "batch norm before the classifier", "network", choices=("bnneck", "none"), network=True)
    test_neck: str = field(
        "after",
        "compare features after or before the neck",
        "network",
        choices=("after", "before"),
        network=True,
        result=True,
    )
    metric_neck: str = field(
        "before",
        "metric losses read features after or before the neck",
        "network",
        choices=("after", "before"),
        network=True,
    )
    fc_dims: tuple[int, ...] = field(
        (),
        "widths of Linear-BN-ReLU reductions; the bare flag for none",
        "network",
        empty=True,
        network=True,
        within=Range(1, 65_536),
    )
    sie_weight: float = field(
        0.0, "weight of TransReID's camera embedding, 0 for none", "network", network=True, within=WEIGHT
    )
    members: int = field(1, "networks that learn from each other", "network", within=Range(1, 8))

    image_size: tuple[int, int] = field(
        (256, 128), "height and width in pixels", "images", unit=("H", "W"), within=Range(8, 4_096)
    )
    interpolation: str = field("bilinear", "filter that resizes images", "images", choices=tuple(FILTERS))
    test_interpolation: str = field(
        "same", "filter that resizes images in a test", "images", choices=("same", *FILTERS), result=True
    )
    mean: tuple[float, float, float] = field(
        IMAGENET_MEAN,
        "of the channels, that images are normalised with, of 0 to 1",
        "images",
        unit=("R", "G", "B"),
        within=SHARE,
    )
    std: tuple[float, float, float] = field(
        IMAGENET_STD, "their standard deviation, likewise", "images", unit=("R", "G", "B"), within=Range(0.001, 10)
    )
    auto_augment: float = field(0.0, "probability of AutoAugment's ImageNet policy", "images", within=SHARE)
    flip: float = field(0.5, "probability of a horizontal flip", "images", within=SHARE)
    pad: int = field(0, "black border before the random crop", "images", unit="PIXELS", within=Range(0, 1_024))
    translate: float = field(0.0, "probability of torchreid's enlarge-and-crop", "images", within=SHARE)
    enlarge: float = field(1.125, "by how much --translate enlarges", "images", within=Range(1, 2))
    erase: float = field(0.0, "probability of random erasing", "images", within=SHARE)
    erase_fill: str = field("mean_raw", "what is erased to", "images", choices=FILLS)
    erase_area: tuple[float, float] = field(
        (0.02, 0.4), "share of the image that is erased", "images", unit=("LEAST", "MOST"), within=Range(0.0001, 1)
    )
    erase_log_aspect: bool = field(False, "draw the shape of what is erased log-uniformly, as timm", "images")
    erase_value: tuple[float, float, float] = field(
        (0.0, 0.0, 0.0),
        "colour of --erase_fill value, value_raw, of 0 to 1",
        "images",
        unit=("R", "G", "B"),
        within=SHARE,
    )
    color_jitter: float = field(0.0, "probability of colour jitter", "images", within=SHARE)
    colour_channels: str = field("keep", "of images in colour, as CAJ", "images", choices=tuple(CHANNELS))
    extra_channels: str = field("keep", "of those of --extra_colour", "images", choices=tuple(CHANNELS))
    infrared_channels: str = field("keep", "of infrared images", "images", choices=tuple(CHANNELS))
    random_patch: float = field(0.0, "probability of torchreid's random patch", "images", within=SHARE)

    # P identities x K images, or `batch_size` shuffled images where p is 0; of a video set all three count tracklets
    p: int = field(0, "identities in a batch; 0: shuffled images", "batches", within=Range(0, 4_096))
    k: int = field(0, "images of each identity", "batches", within=Range(0, 256))
    batch_size: int = field(64, "images in a shuffled batch (with --p 0)", "batches", within=Range(2, 4_096))
    steps: int | None = field(
        None,
        "iterations per epoch, which published results depend on; None: as many as --epoch_length or a shuffle makes",
        "batches",
        within=Range(1, 1_000_000),
    )
    epoch_length: str = field(
        "groups",
        "of p x k batches: until fewer than p identities have k images left; each identity once in full batches; each "
        "once, the last batch filled up; images / (p k); all groups of k, an identity perhaps twice in a batch",
        "batches",
        choices=EPOCH_LENGTHS,
    )
    alternate: bool = field(False, "with --balance_sigma: shuffled batches where the ID loss trains alone", "batches")
    infrared: bool = field(False, "p x k images of each light, for two-stream networks", "batches")
    across_cameras: bool = field(
        False, "p x k batches: of an identity one image at random, the others from other cameras than that", "batches"
    )
    extra_colour: bool = field(False, "with --infrared: images in colour twice, augmented in two ways", "batches")

    seq_len: int = field(15, "length of a tracklet", "tracklets", unit="FRAMES", within=Range(1, 1_024))
    sample_method: str = field(
        "evenly", "which frames of it in training; frames: each an image", "tracklets", choices=SAMPLE_METHODS
    )
    frame_stride: int = field(
        4, "from frame to frame of --sample_method stride", "tracklets", unit="FRAMES", within=Range(1, 1_024)
    )
    cut_tracklets: int = field(
        0,
        "train on tracklets cut into parts of so many; 0: whole",
        "tracklets",
        unit="FRAMES",
        within=Range(0, 100_000),
    )
    frame_by_frame: bool = field(False, "train on each frame alone, as torchreid; pooled in the test only", "tracklets")
    same_augmentation: bool = field(False, "one augmentation for all frames of a tracklet", "tracklets")
    temporal_pooling: str = field("avg", "of the frames' features", "tracklets", choices=("avg", "max", "attention"))
    test_frames: str = field(
        "all",
        "in a test: all; seq_len of them evenly; dense: all, in clips of seq_len",
        "tracklets",
        choices=loaders.TEST_FRAMES,
        result=True,
    )

    optimizer: str = field("adam", "how parameters are updated", "optimisation", choices=train.OPTIMIZERS)
    lr: float = field(3.5e-4, "learning rate of new layers", "optimisation", also="base_learning_rate", within=POSITIVE)
    base_lr_mult: float = field(1.0, "learning rate of the backbone over --lr", "optimisation", within=Range(0, 1_000))
    bias_lr_mult: float = field(
        1.0, "learning rate of biases over that of their layer", "optimisation", within=Range(0, 1_000)
    )
    weight_decay: float = field(5e-4, "L2 penalty", "optimisation", within=Range(0, 10))
    norm_decay: float | None = field(
        None, "L2 penalty of norm layers and biases", "optimisation", none="same", within=Range(0, 10)
    )
    momentum: float = field(0.9, "of SGD", "optimisation", within=FRACTION)
    nesterov: bool = field(False, "SGD with Nesterov momentum", "optimisation")
    clip_grad: float = field(0.0, "largest gradient norm, 0 for no clipping", "optimisation", within=WEIGHT)
    clip_by: str = field(
        "whole",
        "norm of the whole gradient, or of each group of parameters with a rate and a decay of its own",
        "optimisation",
        choices=("whole", "group"),
    )
    epochs: int = field(60, "epochs in all", "optimisation", also="total_train_epochs", within=EPOCHS)
    fixbase_epochs: int = field(
        0, "epochs at the start that train --open_layers only", "optimisation", within=Range(0, 100_000)
    )
    fixbase_iterations: int = field(
        0, "iterations of that, in place of --fixbase_epochs", "optimisation", within=Range(0, 10_000_000)
    )
    open_layers: tuple[str, ...] = field(
        ("new",),
        "what trains then: new, all that no pretrained weights fill, or modules of the network",
        "optimisation",
    )
    fixbase_learns: bool = field(
        True, "no: in --fixbase_iterations nothing learns, --open_layers only gather their statistics", "optimisation"
    )
    fixbase_lr: float = field(
        0.0, "learning rate of these epochs; 0: as --lr and the schedule say", "optimisation", within=WEIGHT
    )
    stages: tuple[Stage, ...] = ()  # staged training; empty: `fixbase_epochs`, then everything
    schedule: str = field("multistep", "how the learning rate falls", "optimisation", choices=train.SCHEDULES)
    milestones: tuple[int, ...] = field(
        (),
        "epochs done when the rate drops; cosine and exponential: begins to fall",
        "optimisation",
        unit="EPOCHS",
        within=Range(0, 100_000),
    )
    gamma: float = field(
        0.1, "factor of a drop, or of the whole exponential fall", "optimisation", within=Range(0, 1, above=True)
    )
    lr_floor: float = field(0.0, "end of a cosine over --lr", "optimisation", within=SHARE)
    same_ends: bool = field(False, "all begin the warm-up and end the cosine at shares of --lr itself", "optimisation")
    warmup_epochs: int = field(0, "epochs of linear warm-up", "optimisation", within=Range(0, 100_000))
    warmup_iterations: int = field(
        0, "iterations of linear warm-up, in place of --warmup_epochs", "optimisation", within=Range(0, 10_000_000)
    )
    first_epoch: int = field(
        0, "number of the first epoch in warm-up, cosine and exponential fall", "optimisation", within=Range(0, 1)
    )
    warmup_method: str = field(
        "linear", "of the warm-up: a rise to --lr, or constant", "optimisation", choices=("linear", "constant")
    )
    warmup_factor: float = field(0.01, "where the warm-up starts, over --lr", "optimisation", within=SHARE)
    optimizer_reset: str = field(
        "never",
        "behind which start the optimiser forgets what it has gathered of gradients: that of --open_layers alone, or "
        "the warm-up",
        "optimisation",
        choices=("never", "fixbase", "warmup"),
    )
    eval_every: int = field(
        0, "epochs between evaluations, 0 for only the last", "optimisation", within=Range(0, 100_000)
    )
    start_eval: int = field(0, "epoch of the first of them", "optimisation", within=Range(0, 100_000))

    # a term is there where its weight is not zero
    reduction: str = field(
        "mean",
        "over a network's several logits or feats; half: the first, and the mean of the others",
        "losses",
        choices=("mean", "sum", "half"),
    )
    id_weight: float = field(1.0, "weight of the identity loss", "losses", within=WEIGHT)
    id_loss: str = field(
        "softmax", "the identity loss", "losses", choices=("softmax", "focal", "arcface", "cosface", "circle")
    )
    label_smoothing: float = field(0.1, "of the identity loss", "losses", within=FRACTION)
    id_scale: float = field(30.0, "s of arcface, cosface and circle", "losses", within=POSITIVE)
    id_margin: float = field(0.5, "m of arcface (radians), cosface and circle", "losses", within=ANGLE)
    focal_gamma: float = field(2.0, "gamma of the focal loss", "losses", within=FOCUS)
    triplet_weight: float = field(0.0, "weight of the triplet loss", "losses", within=WEIGHT)
    mining: str = field(
        "hard",
        "hard: batch-hard; weighted: over all pairs, as AGW; weighted_exact: likewise, with weights that do not vanish "
        "where all negatives are far, as the released ones do",
        "losses",
        choices=("hard", "weighted", "weighted_exact"),
    )
    margin: float | None = field(0.3, "of the triplet loss, or soft", "losses", none="soft", within=MARGIN)
    hard_factor: float = field(0.0, "makes hard triplets harder", "losses", within=FRACTION)
    triplet_normalize: bool = field(False, "L2-normalise features in the triplet loss", "losses")
    local_triplet_weight: float = field(0.0, "weight of AlignedReID's triplet loss on parts", "losses", within=WEIGHT)
    local_margin: float | None = field(0.3, "its margin, or soft", "losses", none="soft", within=Range(0, 1_000))
    local_mining: str = field(
        "global", "the distance that finds its hard samples", "losses", choices=("global", "local")
    )
    normalize_parts: bool = field(False, "L2-normalise parts, in the loss and at test", "losses")
    balance_sigma: float = field(0.0, "threshold of Pyramid's dynamic training, 0 for none", "losses", within=MARGIN)
    balance_alpha: float = field(0.25, "its share of the newest loss in the running mean", "losses", within=NEWEST)
    balance_gamma: float = field(2.0, "its focusing exponent", "losses", within=FOCUS)
    balance_rule: str = field(
        "released",
        "where the ID loss did not fall; released: it trains alone if the triplet loss fell, as in the released code; "
        "paper: both train",
        "losses",
        choices=losses.BALANCE_RULES,
    )
    center_weight: float = field(0.0, "weight of the center loss", "losses", within=WEIGHT)
    center_lr: float = field(0.5, "learning rate of the centers", "losses", within=POSITIVE)
    circle_weight: float = field(0.0, "weight of the circle loss on pairs", "losses", within=WEIGHT)
    circle_margin: float = field(0.25, "its m", "losses", within=SHARE)
    circle_gamma: float = field(128.0, "its gamma", "losses", within=POSITIVE)
    ring_weight: float = field(0.0, "weight of the ring loss", "losses", within=WEIGHT)
    mutual_kl_weight: float = field(0.0, "weight of the members' classification mutual loss", "losses", within=WEIGHT)
    mutual_distance_weight: float = field(0.0, "weight of the members' distance mutual loss", "losses", within=WEIGHT)
    mutual_local_weight: float = field(0.0, "weight of the same on AlignedReID's parts", "losses", within=WEIGHT)

    metric: str = field(
        "euclidean", "what embeddings are compared with", "testing", choices=("euclidean", "cosine"), result=True
    )
    test_distance: str = field(
        "global",
        "global: embeddings; local: aligned parts; both: their sum",
        "testing",
        choices=("global", "local", "both"),
        result=True,
    )
    local_weight: float = field(1.0, "weight of the local distance in the sum", "testing", within=WEIGHT, result=True)
    test_member: int = field(
        1, "which of the --members answers; 0: all, side by side", "testing", within=Range(0, 8), result=True
    )

    @classmethod
    def deciding(cls) -> list[dataclasses.Field]:
        """The fields that decide weights."""
        words = {"name", "title", "paper", "source", "published", "variants", "differs", "place", *RESULT_FIELDS}
        return [each for each in dataclasses.fields(cls) if each.name not in words]

    def settings(self) -> dict[str, Any]:
        """Every field that decides weights, as plain values."""
        return {each.name: plain(getattr(self, each.name)) for each in self.deciding()}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The settings of a recipe that says nothing of them; what a run trained with that is older than a field."""
        made = {each.name: each.default_factory() for each in cls.deciding() if callable(each.default_factory)}
        given = {each.name: each.default for each in cls.deciding() if each.default is not dataclasses.MISSING}
        return {name: plain(value) for name, value in (given | made).items()}

    def digest(self) -> str:
        """Of what a training by this recipe is: the settings that are not their fields' defaults, the rates, the open
        layers. A field that comes later leaves it as it is."""
        defaults = self.defaults()
        own = {name: value for name, value in self.settings().items() if value not in (defaults.get(name, {}), {})}
        rates = train.rates(self, sum(stage.epochs for stage in self.plan()))
        return fingerprint.of_settings(own | {"rates": [(opened, f"{rate:.6g}") for opened, rate in rates]})[:8]

    def model(self, num_pids: int, pretrained: bool = False, num_cameras: int = 0) -> models.Model:
        """The network with classifiers for `num_pids` identities (0: none, for testing).

        `pretrained` asks torchvision or timm for ImageNet weights; weight *files* are loaded by ``checkpoints``.
        `num_cameras` counts the cameras of the training set, for networks that learn an embedding of each.
        Networks whose ID loss holds its own weights get no classifiers.
        """
        if self.test_member > self.members:
            raise ValueError(f"--test_member {self.test_member} is none of the {self.members} of --members")
        names = arguments(self.network)
        given = self.arguments_of(self.network) | {"pretrained": pretrained}
        given["num_pids"] = num_pids if self.reads_logits else 0
        if "num_cameras" in names:
            given["num_cameras"] = num_cameras if self.sie_weight else 0
        make = partial(self.network, **given)
        try:  # a constructor knows what is wrong with an option, but not whose it is
            model: models.Model = make()
            if self.members > 1:
                model = models.Mutual([model, *(make() for _ in range(self.members - 1))], self.test_member)
        except ValueError as error:
            raise ValueError(f"recipe {self.name} ({self.place}): {error}") from error
        if not isinstance(model, models.Model):
            raise ValueError(f"recipe {self.name} ({self.place}): {called(self.network)} is no models.Model")
        missing = [name for name in ("num_pids", "embedding_dim", "feat_dims") if not hasattr(model, name)]
        if missing:
            raise ValueError(
                f"recipe {self.name} ({self.place}): the constructor of {called(self.network)} sets no "
                f"{', '.join(missing)}; models.py says what every network has"
            )
        return video.Tracklet(model, "attention") if self.temporal_pooling == "attention" else model

    def arguments_of(self, made: Callable) -> dict[str, Any]:
        """The fields and options of this row that the constructor of a network or a loss names."""
        names = arguments(made)
        fields = {name: getattr(self, name) for name in FIELDS if name in names}
        return fields | {name: value for name, value in self.options.items() if name in names}

    def losses(self, num_pids: int, wearers: Sequence[int] | None = None) -> losses.Criterion:
        """The criterion: called with (Output, labels, views), answers {name: weighted term}.

        wearers: of each of the clothes of the training set the label of who wears it (`datasets.TrainingSet`), for
            losses that tell clothes apart; None: one set of clothes for each identity.
        """
        return criteria.combined(self, num_pids, own_terms(self, num_pids, wearers))

    @property
    def uses_clothes(self) -> bool:
        """Whether a loss reads what is worn in an image."""
        terms = ((self.options.get(f"{name}_weight", term.weight), term.loss) for name, term in self.terms.items())
        return any(weight and "wearers" in arguments(loss) for weight, loss in terms)

    def before_epochs(self) -> Hook | None:
        """What is called before each epoch, if anything is."""
        return None if self.hook is None else self.hook(**self.arguments_of(self.hook))

    def of_stage(self, index: int) -> Recipe:
        """What stage `index` of the `plan` trains by: this recipe, with what the stage changes."""
        changes = self.plan()[index].changes
        return self.with_(**changes) if changes else self

    @property
    def reads_logits(self) -> bool:
        """Whether a loss reads the network's own identity classifiers."""
        return bool(self.id_weight and self.id_loss in ("softmax", "focal")) or bool(self.mutual_kl_weight)

    @property
    def weighs_a_loss(self) -> bool:
        """Whether any loss is there: with `balance_sigma` those that it balances, which need a weight too."""
        fields = (name for name, about in FIELDS.items() if about.group == "losses" and name.endswith("_weight"))
        own = (self.options.get(f"{name}_weight", term.weight) for name, term in self.terms.items())
        return any(getattr(self, name) for name in fields) or any(own)

    @property
    def uses_cameras(self) -> bool:
        """Whether the network reads the camera of an image."""
        return bool(self.sie_weight) and "num_cameras" in arguments(self.network)

    @property
    def test_filter(self) -> str:
        """The filter that resizes images in a test."""
        return self.interpolation if self.test_interpolation == "same" else self.test_interpolation

    @property
    def distance(self) -> Callable[[tuple, tuple], torch.Tensor] | None:
        """(query, gallery) -> distances (Q, G), both (embeddings, parts); None where `metric` on embeddings is all."""
        return None if self.test_distance == "global" else partial(part_distance, self)

    def outline(self, num_pids: int) -> models.Model:
        """The network without memory or arithmetic, for its `embedding_dim` and `feat_dims`."""
        with torch.device("meta"):
            return self.model(num_pids)

    def feature_width(self, num_pids: int) -> int:
        """Of all `Output.feats` side by side."""
        return sum(self.outline(num_pids).feat_dims)

    def with_(self, **overrides) -> Recipe:
        """This recipe with fields replaced; an unknown name is a TypeError of ``dataclasses.replace``."""
        return dataclasses.replace(self, **overrides)

    def plan(self) -> tuple[Stage, ...]:
        """The stages of a run: `stages`, scaled to `epochs`, or `fixbase_epochs` of open layers, then everything."""
        if self.stages:
            return scaled(self.stages, self.epochs)
        frozen = min(self.fixbase_epochs, self.epochs)
        first = (Stage(frozen, self.open_layers, lr=self.fixbase_lr),) if frozen else ()
        return (*first, Stage(self.epochs - frozen))


# ---------------------------------------------------------------------------------------------------------------------
# What is read from the declarations
# ---------------------------------------------------------------------------------------------------------------------

HINTS = typing.get_type_hints(Recipe)  # field -> its type


class Value(NamedTuple):
    """What a flag reads: `length` values of type `kind`; None: one value, 0: any number of them."""

    kind: type
    length: int | None = None


def value_of(hint: Any) -> Value:
    """The `Value` of a type: ``int``, ``float | None``, ``tuple[int, int]``, ``tuple[int, ...]``."""
    first = next((each for each in typing.get_args(hint) if each is not types.NoneType), hint)
    if typing.get_origin(hint) is tuple:
        parts = typing.get_args(hint)
        return Value(first, 0 if Ellipsis in parts else len(parts))
    return Value(first)


def number_of(name: str) -> Number | None:
    """What the field `name`, or each of its values, is as a number; None where it is none."""
    kind = value_of(HINTS[name]).kind
    return Number(kind, ABOUT[name].within, ABOUT[name].none) if kind in (int, float) else None


ABOUT: dict[str, About] = {each.name: each.metadata.get("about", About()) for each in dataclasses.fields(Recipe)}
RESULT_FIELDS = tuple(name for name, about in ABOUT.items() if about.result)
FIELDS: dict[str, About] = {name: about for name, about in ABOUT.items() if about.group}  # those that have a flag
SUPPLIED = ("num_pids", "pretrained", "num_cameras", "wearers", "dim")  # arguments that a run fills in itself


STAGED = (  # fields that a stage may change
    *(name for name, about in FIELDS.items() if about.group == "losses"),
    *("flip", "pad", "translate", "erase", "erase_fill", "erase_area", "erase_log_aspect", "erase_value"),
    *("auto_augment", "color_jitter", "random_patch", "p", "k", "batch_size", "steps", "epoch_length", "alternate"),
    "across_cameras",
    *("optimizer", "lr", "base_lr_mult", "bias_lr_mult", "weight_decay", "norm_decay", "momentum", "nesterov"),
    *("clip_grad", "clip_by", "schedule", "milestones", "gamma", "lr_floor", "warmup_epochs", "warmup_iterations"),
    *("first_epoch", "warmup_method", "warmup_factor", "optimizer_reset", "same_ends", "terms"),
)


def all_terms(recipe: Recipe) -> dict[str, Term]:
    """The losses of the row and of its stages alone."""
    return {k: term for each in recipe.stages for k, term in each.changes.get("terms", {}).items()} | recipe.terms


def makers(recipe: Recipe) -> list[Callable]:
    """What the options of a row are handed to: the network, what makes its own losses, the hook."""
    hook = [] if recipe.hook is None else [recipe.hook]
    return [recipe.network, *(term.loss for term in all_terms(recipe).values()), *hook]


def option_defaults(recipe: Recipe) -> dict[str, Any]:
    """Every argument of the constructors of `makers` that is no field, with its value in this row."""
    found = {f"{name}_weight": term.weight for name, term in all_terms(recipe).items()}
    for made in makers(recipe):
        own = {name: p.default for name, p in arguments(made).items() if name not in ABOUT}
        supplied = SUPPLIED if made is not recipe.network else SUPPLIED[:-1]
        found |= {name: default for name, default in own.items() if name not in supplied}
    return found | recipe.options


def option_numbers(recipe: Recipe) -> dict[str, Number]:
    """Those of the options that are numbers whose range is declared, in the annotations of the constructors."""
    found = {f"{name}_weight": Number(float, WEIGHT) for name in all_terms(recipe)}
    for made in makers(recipe):
        for base in reversed(constructors(made)):
            found |= ranges.of(base)
    return {name: number for name, number in found.items() if name not in ABOUT}


def value_in(recipe: Recipe, name: str) -> Any:
    """The value of a field or an option in this row."""
    return getattr(recipe, name) if name in ABOUT else option_defaults(recipe)[name]


def with_values(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """`recipe` with fields and options replaced, as flags name them."""
    options = {name: value for name, value in given.items() if name not in ABOUT}
    fields = {name: value for name, value in given.items() if name in ABOUT}
    return recipe.with_(**fields, options=recipe.options | options) if options else recipe.with_(**fields)


# ---------------------------------------------------------------------------------------------------------------------
# What is wrong with a row
# ---------------------------------------------------------------------------------------------------------------------


def checked(base: Recipe | None, fields: dict[str, Any]) -> Recipe:
    """The row of `fields` over `base`, whose results it does not take over; ValueError for an unknown field or option,
    a wrong type or choice, a gap."""
    for name in fields:
        if name not in ABOUT:
            raise ValueError(
                f"there is no field {name}{nearest(name, ABOUT)}. A number of one network or loss alone is an argument "
                "of its constructor, and is set in options={...}"
            )
    needed = [f.name for f in dataclasses.fields(Recipe) if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in needed if base is None and name not in fields]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given, or taken from another row: row(BOT, name=...)")
    for name, value in fields.items():
        check_value(name, value)
    if base is not None:
        fields = {"published": {}, "variants": ()} | fields
    recipe = Recipe(**fields) if base is None else dataclasses.replace(base, **fields)
    for name in fields.keys() & FIELDS.keys():
        if not applies(recipe, name) and fields[name] != getattr(Recipe, name):
            raise ValueError(f"{name} is {fields[name]!r}, but {called(recipe.network)} has no argument {name}")
    for stage in recipe.stages:
        check_changes(stage)
    check_constructors(recipe)
    check_options(recipe)
    check_lengths(recipe)
    return recipe


def check_changes(stage: Stage) -> None:
    """ValueError if a stage changes what holds for a whole run, or to a value that its field cannot have."""
    for name, value in stage.changes.items():
        if name not in STAGED:
            what = "which holds for a whole run" if name in ABOUT else f"which is no field{nearest(name, STAGED)}"
            raise ValueError(f"a stage of {stage.epochs} epochs changes {name}, {what}; it can change those of STAGED")
        check_value(name, value)


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, or nothing where no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def check_value(name: str, value: Any) -> None:
    """ValueError if `value` has not the type of the field `name`, or is none of its choices."""
    if not ranges.fits(value, HINTS[name]):
        kind = next(each.type for each in dataclasses.fields(Recipe) if each.name == name)
        raise ValueError(f"{name} is {value!r} ({type(value).__name__}), expected {kind}")
    check_numbers(name, value, number_of(name))
    choices = ABOUT[name].choices
    if choices and value not in choices:
        raise ValueError(f"{name} is {value!r}, expected {', '.join(choices)}{nearest(str(value), choices)}")


def check_numbers(name: str, value: Any, number: Number | None) -> None:
    """ValueError if `value`, or one of a tuple of values, is not in the range of `number`."""
    for each in value if isinstance(value, tuple) else (value,):
        if number is not None and each is not None:
            number.check(name, each)


def check_constructors(recipe: Recipe) -> None:
    """ValueError if the network or a term needs an argument that nothing fills in, or a term has a name in use."""
    for name in all_terms(recipe):
        if f"{name}_weight" in ABOUT:
            raise ValueError(f"a term cannot be called {name}: --{name}_weight is the weight of another loss")
    filled = {*ABOUT, *recipe.options}
    for made in makers(recipe):
        own = () if made is recipe.hook else ("num_pids", "wearers", "dim")
        supplied = SUPPLIED[:-1] if made is recipe.network else own
        gaps = [n for n, p in arguments(made).items() if p.default is p.empty and n not in filled | {*supplied}]
        if gaps:
            raise ValueError(
                f"{called(made)} needs {', '.join(gaps)}: give it a default in the constructor, or set it in "
                "options={...}"
            )
    for name in ("num_pids", "pretrained"):
        if name not in arguments(recipe.network):
            raise ValueError(f"the constructor of {called(recipe.network)} has no argument {name}; every network has")


def check_options(recipe: Recipe) -> None:
    """ValueError if `options` has a name that no constructor takes, or a value of another type than its default."""
    known = option_defaults(recipe.with_(options={}))
    numbers = option_numbers(recipe)
    for name, value in recipe.options.items():
        if name in ABOUT:
            raise ValueError(f"{name} is a field: set {name}={value!r} itself, not within options")
        if name not in known:
            raise ValueError(
                f"options has {name}, which is no argument of {' or '.join(map(called, makers(recipe)))}"
                f"{nearest(name, known)}. Known: {', '.join(known) or 'none'}"
            )
        kind = type(known[name])
        if known[name] not in (None, inspect.Parameter.empty) and not ranges.fits(value, kind):
            raise ValueError(f"option {name} is {value!r} ({type(value).__name__}), expected {kind.__name__}")
        check_numbers(f"option {name}", value, numbers.get(name))


def check_lengths(recipe: Recipe) -> None:
    """ValueError if a warm-up or frozen start is counted both in epochs and in iterations."""
    for part in ("warmup", "fixbase"):
        epochs, iterations = (getattr(recipe, f"{part}_{unit}") for unit in ("epochs", "iterations"))
        if epochs and iterations:
            raise ValueError(
                f"--{part}_epochs {epochs} and --{part}_iterations {iterations} are both set: set one of them to 0"
            )


def check_given(recipe: Recipe, given: Mapping[str, Any]) -> None:
    """ValueError if a value of a flag, or one that a checkpoint keeps, is none that its field or option can have."""
    try:
        for name in given.keys() & ABOUT.keys():
            check_value(name, given[name])
    except ValueError as error:
        raise ValueError(f"--{error}") from None
    check_options(with_values(recipe, given))
    check_lengths(with_values(recipe, given))


def called(made: Callable[..., nn.Module]) -> str:
    """The name of a class or function."""
    return getattr(made, "__name__", repr(made))


# ---------------------------------------------------------------------------------------------------------------------
# How a row becomes a network, a criterion, a distance
# ---------------------------------------------------------------------------------------------------------------------


@functools.cache
def arguments(made: Callable[..., nn.Module]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a constructor by name, with those that a class hands on to its base class as ``**options``."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found: dict[str, inspect.Parameter] = {}
    for function in reversed(constructors(made)):
        parameters = inspect.signature(function).parameters.items()
        found |= {name: p for name, p in parameters if p.kind in named and name != "self"}
    return types.MappingProxyType(found)


def constructors(made: Callable[..., nn.Module]) -> list[Callable]:
    """The constructor of a class, and those of the base classes that it hands ``**options`` on to; or the function."""
    found = []
    for base in inspect.getmro(made) if inspect.isclass(made) else (made,):
        found.append(vars(base).get("__init__", base))
        if all(p.kind is not p.VAR_KEYWORD for p in inspect.signature(found[-1]).parameters.values()):
            break
    return found


def applies(recipe: Recipe, name: str) -> bool:
    """Whether the recipe's network has a use for the field `name`; fields that are not the network's always apply."""
    return not FIELDS[name].network or name in arguments(recipe.network)


def check_network_fields(recipe: Recipe, given: dict) -> None:
    """ValueError if `given` sets a field that the recipe's network has no use for."""
    for name in given:
        if name in FIELDS and not applies(recipe, name):
            reason = "is a network of its own, without a choice of" if name == "backbone" else "has no"
            raise ValueError(
                f"--{name} does not apply to recipe {recipe.name}: {called(recipe.network)} {reason} {name}. Leave it "
                "out, or choose another recipe"
            )


def check_trunk(recipe: Recipe, given: dict) -> None:
    """ValueError if `given` treats pretrained layers apart and there are none, or if a stage opens layers that the
    network does not have. For a training: a test of the same recipe never asks."""
    offs = (("base_lr_mult", 1), ("fixbase_epochs", 0), ("fixbase_iterations", 0))
    asked = [name for name, off in offs if given.get(name, off) != off]
    if asked and recipe.pretrained == "none":
        raise ValueError(
            f"--{asked[0]} {given[asked[0]]} treats the pretrained layers apart, but recipe {recipe.name} starts with "
            f"--pretrained none; leave --{asked[0]} out, or name weights with --pretrained imagenet or FILE"
        )
    opened = {group for stage in recipe.plan() for group in stage.trainable}
    opened |= {*recipe.open_layers} if recipe.fixbase_iterations else set()
    if opened:
        outline = recipe.outline(1)
        for group in sorted(opened):
            outline.layers(group)


def check_test_distance(recipe: Recipe) -> None:
    """ValueError if the recipe's test compares parts and its network has none."""
    if recipe.distance is None:
        return
    with torch.inference_mode():
        output = recipe.outline(0).eval()(torch.empty(2, 3, *recipe.image_size, device="meta"))
    if output.parts is None:
        raise ValueError(
            f"--test_distance {recipe.test_distance} compares local features, and {called(recipe.network)} of recipe "
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


def own_terms(
    recipe: Recipe, num_pids: int, wearers: Sequence[int] | None = None
) -> dict[str, tuple[float, nn.Module]]:
    """The losses that a row brings itself; those whose weight is zero are left out."""
    terms = {}
    for name, (weight, loss) in recipe.terms.items():
        weight = recipe.options.get(f"{name}_weight", weight)
        given = recipe.arguments_of(loss) | {"num_pids": num_pids}
        given["wearers"] = range(num_pids) if wearers is None else wearers
        if "dim" in arguments(loss):
            given["dim"] = recipe.feature_width(num_pids)
        if weight:
            terms[name] = (weight, loss(**{key: value for key, value in given.items() if key in arguments(loss)}))
    return terms
