"""Person re-ID models, one class per paper, in the order of the papers.

Every model takes images (B, 3, H, W), normalised as its backbone expects, and `loading.views.Views` of them (or None),
and returns an `Output`, in training and in evaluation alike: `maps` makes feature maps of the images, `answer` the
Output of the maps. Trunks come from `backbones.create`; networks with a trunk of their own are in `architectures.py`,
tracklets in `video.py`. What all share is in `Model` and `Headed`; all constructors are keyword-only.
"""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from machine.ranges import Blocks, Dropout, Few, OneOrTwo, Spread, Width, WidthOrNone
from networks import backbones, resnets
from networks.blocks import (
    POOLINGS,
    AddedGeM,
    GeM,
    bn_neck,
    conv_reduction,
    global_average,
    linear_classifier,
    linear_classifiers,
    reduction,
)
from networks.clip_resnet import AttentionPool

if TYPE_CHECKING:
    from loading.views import Views

T = TypeVar("T")


class Output(NamedTuple):
    """What a model gives; the same type in train and eval mode.

    embedding (B, D): what retrieval compares.
    logits: tuple of (B, num_pids), one per identity classifier; () in eval mode and for models without classifiers.
    feats: tuple of (B, D_i), what metric losses read; widths are the model's `feat_dims`.
    parts (B, S, d): part features for a local distance, or None.
    """

    embedding: Tensor
    logits: tuple[Tensor, ...] = ()
    feats: tuple[Tensor, ...] = ()
    parts: Tensor | None = None


class Model(nn.Module):
    """What every network answers: `forward(images, views) -> Output`, which is `answer` of its `maps`, and more.

    num_pids: training identities it has classifiers for; 0: none (testing, or an ID loss that holds its own weights).
    embedding_dim: D of `Output.embedding`. feat_dims: widths of `Output.feats`.
    id_parts: equal parts of the embedding that a margin loss classifies each on its own.
    renames: (their prefix, our prefix) pairs of weight names in released code; a name that neither matches one nor is
        one of ours belongs to the trunk, which released code often keeps at the root: put `base.` in front of it.
    shown: what `feature_map` is, in words for the title of a picture.
    stripes: into how many equal stripes its maps are cut, once for each way of cutting; a picture shows the borders.
    reads_labels: whether it trains on `views.label`, the identities of the batch.

    A network whose neck reads the mean over a clip, and not each frame, parts `answer` in two: `answer(maps)` is
    `head(described(maps))`, and `video.Tracklet` takes the mean between them.
    """

    renames: tuple[tuple[str, str], ...] = ()
    shown: str = "the last map"
    stripes: tuple[int, ...] = ()
    reads_labels: bool = False
    num_pids: int
    embedding_dim: int
    id_parts: int = 1
    feat_dims: tuple[int, ...]
    base: backbones.Backbone
    answer: Callable[..., Output]  # called with `maps`; a network that has none overrides `forward`
    described: Callable[..., Tensor] | None = None  # called with `maps`: (n, D) of n frames
    head: Callable[[Tensor], Output]  # called with the mean of these over the frames of each clip

    def trunk(self) -> Iterator[nn.Parameter]:
        """Parameters that a file of pretrained weights fills. All others are new layers: they begin at random."""
        return self.base.parameters()

    def layers(self, group: str) -> list[nn.Parameter]:
        """Parameters of `group`: "new" (all but the trunk), or the module of that name, such as "classifier".

        ValueError if there are none.
        """
        if group == "new":
            trunk = {id(p) for p in self.trunk()}
            found = [p for p in self.parameters() if id(p) not in trunk]
        else:
            module = dict(self.named_modules()).get(group)
            found = [] if module is None else list(module.parameters())
        if not found:
            names = [name for name, child in self.named_children() if next(child.parameters(), None) is not None]
            raise ValueError(
                f"a training stage opens the {group} layers alone, but this {type(self).__name__} has none; its layers "
                f"are {', '.join(names)}. Name some of these with --open_layers, or set --fixbase_epochs 0"
            )
        return found

    @property
    def soft_parts(self) -> bool:
        """Whether its parts have no borders: each position of the map belongs to every part, with a weight."""
        return False

    def maps(self, images: Tensor, views: Views | None = None) -> tuple[Tensor, ...]:
        """All that `answer` reads of images (B, 3, H, W): the map (B, C, h, w) of each branch whose embedding is pooled
        from it; without a method of its own, the trunk's."""
        return (self.base(images),)

    def forward(self, images: Tensor, views: Views | None = None) -> Output:
        """The Output of images (B, 3, H, W)."""
        return self.answer(*self.maps(images, views))

    def compared(self, embedding: Tensor) -> Tensor:
        """What a test compares of embeddings (N, D), in the same shape; of mirrored images too, of their mean."""
        return embedding

    def feature_map(self, images: Tensor, views: Views | None = None) -> Tensor:
        """What activation maps are drawn from: the channels of all `maps` side by side on the finest grid (B, C, h, w).

        A model whose maps are not all of one place in the image, or no maps, says here which are.
        """
        maps = self.maps(images, views)
        size = max(each.shape[2:] for each in maps)
        return torch.cat([F.interpolate(each, size=size) for each in maps], dim=1)

    def begin_stage(self, stage: int) -> None:
        """Told the index of each training stage as it begins."""

    def unread(self, stage: int) -> Iterable[nn.Parameter]:
        """Parameters that nothing reads yet in that stage, so that weight decay alone would move them."""
        return ()


class Headed(Model):
    """A network of one trunk, `base`, and a head: the arguments that the constructors of most models share.

    num_pids: training identities, see `Model`.
    backbone, pretrained, image_size, the stem and `trunk` (last_stride): see `backbones.create`.
    """

    def __init__(
        self,
        *,
        num_pids: int,
        backbone: str = "resnet50",
        pretrained: bool = False,
        image_size: tuple[int, int] | None = None,
        stem_relu: bool = True,
        stem_ceil: bool = False,
        stem_pool: str = "3x3",
        **trunk: Any,
    ):
        super().__init__()
        self.num_pids = num_pids
        trunk |= {"stem_relu": stem_relu, "stem_ceil": stem_ceil, "stem_pool": stem_pool}
        self.base = backbones.create(backbone, pretrained=pretrained, image_size=image_size, **trunk)


# -- building blocks --------------------------------------------------------------------------------------------------


def choose(option: str, value: str, choices: Mapping[str, T]) -> T:
    """choices[value], or an error that lists them."""
    if value not in choices:
        raise ValueError(f"{option} is '{value}'; expected one of {', '.join(sorted(choices))}.")
    return choices[value]


def check_rows(feature_map: Tensor, parts: int, method: str) -> None:
    """ValueError if a map (B, C, h, w) is too low to be cut into `parts` stripes."""
    rows = feature_map.shape[2]
    if rows < parts:
        raise ValueError(
            f"{method} cuts the feature map into {parts} stripes, but it has {rows} rows. Use a larger "
            "image_size (384 128) or a backbone with a finer last map (last_stride=1)."
        )


def logits_of(model: Model, feature: Tensor) -> tuple[Tensor, ...]:
    """Of a network with one `classifier`: feature (B, D) -> its logits ((B, num_pids),); () in eval mode or without."""
    return logits_of_each(model, (feature,), (model.classifier,))


def logits_of_each(model: Model, features: Iterable[Tensor], classifiers: Iterable[Any]) -> tuple[Tensor, ...]:
    """As `logits_of`, of networks with a classifier for each of several features."""
    if not model.training:
        return ()
    return tuple(fc(x) for fc, x in zip(classifiers, features, strict=False) if fc is not None)  # [] without identities


def resnet_stages(base: nn.Module, method: str) -> dict[str, nn.Module]:
    """The children of a ResNet by name, for methods that read inside its stages; ValueError for another backbone."""
    stages = dict(base.named_children())
    if not isinstance(base, nn.Sequential) or "layer4" not in stages:
        raise ValueError(
            f"{method} reads inside the stages of a ResNet, which this backbone ({type(base).__name__}) does not "
            "have. Use --backbone resnet50, another ResNet or ResNeXt of torchvision, or a resnet*_ibn_*."
        )
    return stages


# -- plain classification baseline ------------------------------------------------------------------------------------


class Softmax(Headed):
    """Backbone, pooling, optional reduction, classifier: the baseline of torchreid and of every OSNet.

    `osnet_x0_25` is backbone="osnet_x0_25", fc_dims=(512,); `resnet50_fc512` the same with last_stride=1.
    embedding = feats[0] (B, D): after the reduction, which ends in a ReLU.
    head_std: of the initial weights of reduction and classifier; 0: as torch draws them.
    """

    renames = ()  # torchreid's names, once the trunk is put under base.

    def __init__(
        self,
        *,
        last_stride: int | None = None,
        fc_dims: Sequence[int] = (),
        pooling: str = "avg",
        head_std: Spread = 0.01,
        **trunk: Any,
    ):
        super().__init__(last_stride=last_stride, **trunk)
        self.global_pool = choose("pooling", pooling, POOLINGS)()
        dims = (self.base.out_channels, *(fc_dims or ()))
        self.fc = reduction(dims, head_std)
        self.classifier = linear_classifier(dims[-1], self.num_pids, bias=True, std=head_std)
        self.embedding_dim = dims[-1]
        self.feat_dims = (dims[-1],)

    def answer(self, feature_map: Tensor) -> Output:
        feature = self.fc(self.global_pool(feature_map))  # (B, D)
        return Output(feature, logits_of(self, feature), (feature,))


# -- Zhang, Luo, Fan, Xiang, Sun, et al. AlignedReID: Surpassing Human-Level Performance in Person Re-Identification. --
# -- arXiv:1711.08184, 2017. Released reproduction: huanghoujing/AlignedReID-Re-Production-Pytorch at 2e2d454. ---------


class AlignedReID(Headed):
    """A global feature and one local feature per row of the map; compared by shortest-path distance.

    embedding = feats[0] (B, C), global average; parts (B, h, 128): each row pooled, 1x1, batch norm, ReLU.
    local_pooling: "max" over the row as the paper has it, or "avg" as the released reproduction.
    The paper supervises parts with a triplet loss and classifies the global feature; num_pids=0 drops the ID loss.
    """

    renames = (("fc.", "classifier."),)

    def __init__(
        self, *, last_stride: int | None = None, local_dim: Width = 128, local_pooling: str = "max", **trunk: Any
    ):
        super().__init__(last_stride=last_stride, **trunk)
        dim = self.base.out_channels
        self.row_max = choose("local_pooling", local_pooling, {"max": True, "avg": False})
        self.local_conv = nn.Conv2d(dim, local_dim, 1)
        self.local_bn = nn.BatchNorm2d(local_dim)
        self.classifier = linear_classifier(dim, self.num_pids, bias=True, std=0.001)
        self.embedding_dim = dim
        self.feat_dims = (dim,)

    def answer(self, feature_map: Tensor) -> Output:
        feature = global_average(feature_map)  # (B, C)
        rows = feature_map.amax(3, keepdim=True) if self.row_max else feature_map.mean(3, keepdim=True)  # (B, C, h, 1)
        local = F.relu(self.local_bn(self.local_conv(rows)))  # (B, d, h, 1)
        return Output(feature, logits_of(self, feature), (feature,), local.squeeze(3).transpose(1, 2))


class AlignedReIDPlusPlus(Headed):
    """AlignedReID++ (Luo et al., Pattern Recognition 2019; michuanhaohao/AlignedReID, models/ResNet.py at fca9620).

    Parts are the L2-normalised maxima of each row (DMLI distance): while training after batch norm, ReLU and a 1x1 to
    128 channels, at test time straight from the map, (B, h, C), as the released code does.
    """

    renames = (
        ("base.0.", "base.conv1."),
        ("base.1.", "base.bn1."),
        *((f"base.{i + 3}.", f"base.layer{i}.") for i in (1, 2, 3, 4)),
    )

    def __init__(self, *, last_stride: int | None = None, local_dim: Width = 128, **trunk: Any):
        super().__init__(last_stride=last_stride, **trunk)
        dim = self.base.out_channels
        self.bn = nn.BatchNorm2d(dim)
        self.conv1 = nn.Conv2d(dim, local_dim, 1)
        self.classifier = linear_classifier(dim, self.num_pids, bias=True, std=0)
        self.embedding_dim = dim
        self.feat_dims = (dim,)

    def answer(self, feature_map: Tensor) -> Output:
        feature = global_average(feature_map)  # (B, C)
        rows = F.relu(self.bn(feature_map)) if self.training else feature_map
        rows = rows.amax(dim=3, keepdim=True)  # (B, C, h, 1)
        if self.training:
            rows = self.conv1(rows)  # (B, d, h, 1)
        parts = F.normalize(rows.squeeze(3), dim=1).transpose(1, 2)  # (B, h, d or C)
        return Output(feature, logits_of(self, feature), (feature,), parts)


class Mutual(Model):
    """Several networks that learn from each other (Zhang et al., Deep Mutual Learning, CVPR 2018), as in AlignedReID.

    While training, logits and feats are those of the first network, then those of the next, and parts are joined along
    S, (B, members * S, d). In eval mode network `answers` (from 1) answers alone, as the paper tests; with 0 all do,
    embeddings (B, members * D) and parts (B, S, members * d) side by side.
    """

    renames = ()

    def __init__(self, members: Iterable[Model], answers: int = 1):
        super().__init__()
        members = list(members)
        self.answers = answers
        self.members: Any = nn.ModuleList(members)
        if len(members) < 2:
            raise ValueError(f"Mutual learning needs at least two networks, got {len(members)}.")
        self.num_pids, self.shown, self.stripes = members[0].num_pids, members[0].shown, members[0].stripes
        self.embedding_dim = members[0].embedding_dim * (1 if answers else len(members))
        self.feat_dims = tuple(dim for member in members for dim in member.feat_dims)

    def trunk(self) -> Iterator[nn.Parameter]:
        """Of every member."""
        return itertools.chain.from_iterable(member.trunk() for member in self.members)

    def layers(self, group: str) -> list[nn.Parameter]:
        """Of every member."""
        return [p for member in self.members for p in member.layers(group)]

    def compared(self, embedding: Tensor) -> Tensor:
        """As the members; with all side by side, of each one's own."""
        parts = embedding.chunk(1 if self.answers else len(self.members), dim=1)
        return torch.cat([member.compared(x) for member, x in zip(self.members, parts, strict=False)], dim=1)

    def feature_map(self, images: Tensor, views: Views | None = None) -> Tensor:
        """Of the network that answers in a test, or the first of all."""
        return self.members[max(self.answers, 1) - 1].feature_map(images, views)

    @property
    def soft_parts(self) -> bool:
        """As those of the first network, which all are like."""
        return self.members[0].soft_parts

    def begin_stage(self, stage: int) -> None:
        """Told to every member."""
        for member in self.members:
            member.begin_stage(stage)

    def unread(self, stage: int) -> Iterable[nn.Parameter]:
        """Of every member."""
        return [p for member in self.members for p in member.unread(stage)]

    def forward(self, images: Tensor, views: Views | None = None) -> Output:
        if not self.training and self.answers:
            return self.members[self.answers - 1](images, views)
        outputs = [member(images, views) for member in self.members]
        if not self.training:
            joined = None if outputs[0].parts is None else torch.cat([o.parts for o in outputs], dim=2)
            return Output(torch.cat([o.embedding for o in outputs], dim=1), (), (), joined)
        parts = None if outputs[0].parts is None else torch.cat([o.parts for o in outputs], dim=1)
        logits, feats = (tuple(x for o in outputs for x in getattr(o, field)) for field in ("logits", "feats"))
        return Output(outputs[0].embedding, logits, feats, parts)


# -- Yu, Chang, Song, Xiang, Hospedales. The Devil is in the Middle: Exploiting Mid-level Representations for ----------
# -- Cross-Domain Instance Matching. arXiv:1711.08106, 2017. Names: torchreid/models/resnetmid.py at f8cd150. ----------


class ResNet50M(Headed):
    """The last block's feature beside a fusion of the two before it: embedding = feats[0] = (1024 + 2048).

    Any ResNet with at least three blocks in its last stage may be the backbone.
    """

    renames = ()
    shown = "the maps of the last three blocks"

    def __init__(self, *, last_stride: int | None = None, fusion_dim: Width = 1024, **trunk: Any):
        super().__init__(last_stride=last_stride, **trunk)
        blocks = list(resnet_stages(self.base, "ResNet50M")["layer4"].children())
        if len(blocks) != 3:
            raise ValueError(f"ResNet50M fuses the three blocks of the last stage; this backbone has {len(blocks)}.")
        dim = self.base.out_channels
        self.fc_fusion = reduction((2 * dim, fusion_dim))
        self.embedding_dim = fusion_dim + dim
        self.feat_dims = (self.embedding_dim,)
        self.classifier = linear_classifier(self.embedding_dim, self.num_pids, bias=True, std=0.01)

    def maps(self, images: Tensor, views: Views | None = None) -> tuple[Tensor, ...]:
        """Of each block of the last stage, (B, C, h, w)."""
        *earlier, layer4 = self.base.children()
        x = images
        for stage in earlier:
            x = stage(x)
        return tuple(itertools.accumulate(layer4.children(), lambda y, block: block(y), initial=x))[1:]

    def answer(self, *maps: Tensor) -> Output:
        pooled = [global_average(each) for each in maps]  # (B, C)
        mid = self.fc_fusion(torch.cat(pooled[:2], dim=1))  # (B, 1024)
        feature = torch.cat((mid, pooled[2]), dim=1)  # (B, 3072)
        return Output(feature, logits_of(self, feature), (feature,))


# -- Sun, Zheng, Yang, Tian, Wang. Beyond Part Models: Person Retrieval with Refined Part Pooling (and a Strong --------
# -- Convolutional Baseline). ECCV 2018. Released code: syfafterzy/PCB_RPP_for_reID at e29cf54. ------------------------


class PCB(Headed):
    """Part-based Convolutional Baseline: the map cut into `parts` stripes g_i, each reduced to h_i and classified.

    embedding: the g_i, L2-normalised each and concatenated (parts * C; order: channel, then part), or with
    test_feature="after" the h_i likewise (parts * reduced_dim); with normalize_each=False normalised as a whole.
    normalize_channels: each channel over the parts instead, as wangguanan's PCB (core/model.py at 6bc07c5).
    feats = (h_1, ..., h_p). logits: one per part.
    shared_reduction: one 1x1 for all stripes (released code, torchreid) or, False, one each, which
        huanghoujing/beyond-part-models found better (README there: 92.9 against 90.9 rank-1 on Market-1501).
    dropout acts on g_i before the reduction (released code: 0.5).
    """

    renames = (
        ("conv5.layers.", "reduction.0."),  # torchreid, torchreid/models/pcb.py at f8cd150
        ("local_conv.", "reduction.0.0."),
        ("feat_bn2d.", "reduction.0.1."),  # syfafterzy
        *((f"instance{i}.", f"classifier.{i}.") for i in range(6)),
        ("local_mask.", "part_classifier."),
        ("local_conv_list.", "reduction."),
        ("fc_list.", "classifier."),
    )  # huanghoujing/beyond-part-models

    def __init__(
        self,
        *,
        last_stride: int | None = 1,
        parts: Few = 6,
        reduced_dim: Width = 256,
        shared_reduction: bool = True,
        dropout: Dropout = 0.5,
        test_feature: str = "before",
        normalize_each: bool = True,
        normalize_channels: bool = False,
        **trunk: Any,
    ):
        super().__init__(last_stride=last_stride, **trunk)
        dim = self.base.out_channels
        self.parts, self.stripes = parts, (parts,)
        self.normalize_each, self.normalize_channels = normalize_each, normalize_channels
        self.reduced = choose("test_feature", test_feature, {"before": False, "after": True})
        count = 1 if shared_reduction else parts
        self.reduction = nn.ModuleList(
            conv_reduction(dim, reduced_dim, bias=not shared_reduction) for _ in range(count)
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = linear_classifiers(parts, reduced_dim, self.num_pids)
        self.embedding_dim = parts * (reduced_dim if self.reduced else dim)
        self.feat_dims = (reduced_dim,) * parts

    def pool(self, feature_map: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, parts, 1): the mean of each stripe."""
        return F.adaptive_avg_pool2d(feature_map, (self.parts, 1))

    def reduce(self, g: Tensor) -> Tensor:
        """(B, C, parts, 1) -> h (B, d, parts, 1)."""
        if len(self.reduction) == 1:
            return self.reduction[0](g)
        return torch.cat([reduce(g[:, :, i : i + 1]) for i, reduce in enumerate(self.reduction)], dim=2)

    def answer(self, feature_map: Tensor) -> Output:
        check_rows(feature_map, self.parts, type(self).__name__)
        g = self.pool(feature_map)  # (B, C, p, 1)
        h = self.reduce(self.dropout(g)).squeeze(3)  # (B, d, p)
        feats = h.unbind(dim=2)
        logits = logits_of_each(self, feats, self.classifier)
        compared = h if self.reduced else g.squeeze(3)  # (B, C or d, p)
        if self.normalize_each or self.normalize_channels:
            return Output(F.normalize(compared, dim=2 if self.normalize_channels else 1).flatten(1), logits, feats)
        return Output(F.normalize(compared.flatten(1), dim=1), logits, feats)


class RPP(PCB):
    """PCB with refined part pooling: a part classifier W assigns every column vector f of the map to the parts.

    Its first stage trains PCB as it is. What follows is everything at once (the released code), or first
    `part_classifier` alone with the rest frozen (the paper's induced training).
    The pooling is the uniform one until `begin_stage(1)` (or later) is called, and the choice is part of the state
    dict.
    mask_dim: W reads f averaged over channel groups to this width and centred over the map, as the released code
        (reid/models/resnet_rpp.py); None: f itself, as in the paper.
    """

    def __init__(self, *, mask_dim: Width | None = 256, **options: Any):
        super().__init__(**options)
        self.mask_dim = mask_dim
        self.part_classifier = nn.Conv2d(mask_dim or self.base.out_channels, self.parts, 1)
        resnets.kaiming_fan_out(self.part_classifier)
        self.refined: Tensor
        self.register_buffer("refined", torch.tensor(False))

    def begin_stage(self, stage: int) -> None:
        """stage: index of the training stage that begins; 0 pools uniformly, all others by the part classifier."""
        self.refined.fill_(stage > 0)

    def unread(self, stage: int) -> Iterable[nn.Parameter]:
        """The part classifier's in the first stage, whose network is without it in the released code (PCB.py there)."""
        return () if stage else self.part_classifier.parameters()

    @property
    def soft_parts(self) -> bool:
        """From the second stage on."""
        return bool(self.refined)

    def assign(self, feature_map: Tensor) -> Tensor:
        """P(P_i | f) at every position, (B, parts, h, w), the paper's softmax of W f over the parts."""
        f = feature_map
        if self.mask_dim:
            f = self.dropout(f).unflatten(1, (self.mask_dim, -1)).mean(dim=2)  # (B, mask_dim, h, w)
            f = f - f.mean(dim=(2, 3), keepdim=True)
        return self.part_classifier(f).softmax(dim=1)

    def pool(self, feature_map: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, parts, 1): stripes, or from the second stage on what the part classifier assigns."""
        uniform = super().pool(feature_map)
        weights = self.assign(feature_map).flatten(2)  # (B, p, h*w)
        # Mean over all positions times the number of parts: the scale of a stripe's mean.
        refined = feature_map.flatten(2) @ weights.transpose(1, 2) * (self.parts / weights.shape[2])  # (B, C, p)
        return torch.where(self.refined, refined.unsqueeze(3), uniform)  # no branch: nothing waits for the device


# -- Wang, Yuan, Chen, Li, Zhou. Learning Discriminative Features with Multiple Granularities for Person --------------
# -- Re-Identification. ACM Multimedia 2018. Layout: fast-reid, fastreid/modeling/meta_arch/mgn.py at c9bc3ce. ---------


class MGN(Headed):
    """Three branches from the first block of stage 3 on: global, global + 2 stripes, global + 3 stripes.

    Each of the 8 features is pooled, reduced to 256-d without bias, batch-normalised without shift and classified;
    embedding is their concatenation, global ones first (8 * 256). The branches with stripes keep stride 1 in stage 4.
    feats are what the triplet loss of fast-reid reads: three global features, then the two and the three stripes of a
    branch concatenated (256, 256, 256, 512, 768). logits: b1, b2, b21, b22, b3, b31, b32, b33.
    metric_neck: "after" if feats are taken behind the batch norm (fast-reid's configuration), "before" otherwise.
    global_stride: stride of the first branch's stage 4, 2 in the paper and 1 in fast-reid.
    pooling: "max" in the paper, "gem" in fast-reid.
    """

    shown = "the last maps of the three branches"
    stripes = (2, 3)
    id_parts = 8

    renames = tuple(
        (f"{name}_head.{theirs}", f"heads.{i}.{ours}")
        for i, name in enumerate(("b1", "b2", "b3", "b21", "b22", "b31", "b32", "b33"))
        for theirs, ours in (
            ("bottleneck.0.", "reduction."),
            ("bottleneck.1.", "neck."),
            ("pool_layer.", "global_pool."),
            ("weight", "classifier.weight"),
        )
    )

    def __init__(
        self,
        *,
        global_stride: OneOrTwo = 2,
        reduced_dim: Width = 256,
        pooling: str = "max",
        metric_neck: str = "after",
        **trunk: Any,
    ):
        super().__init__(**trunk)
        whole, dim = resnet_stages(self.base, "MGN"), self.base.out_channels
        del self.base  # it is divided among the branches
        first, *others = whole.pop("layer3").children()
        branch = nn.Sequential(nn.Sequential(*others), whole.pop("layer4"))
        self.backbone = nn.Sequential(*whole.values(), first)
        fine = copy.deepcopy(branch)
        resnets.remove_stride(fine[1], trunk.get("backbone", "resnet50"))
        self.b1 = fine if global_stride == 1 else branch
        self.b2, self.b3 = copy.deepcopy(fine), copy.deepcopy(fine)
        self.heads = nn.ModuleList(_MGNHead(dim, reduced_dim, self.num_pids, pooling) for _ in range(8))
        self.embedding_dim = 8 * reduced_dim
        self.feats_after = choose("metric_neck", metric_neck, {"after": True, "before": False})
        self.feat_dims = (reduced_dim,) * 3 + (2 * reduced_dim, 3 * reduced_dim)

    def trunk(self) -> Iterator[nn.Parameter]:
        """The shared stages and the three branches, which begin as copies of the same pretrained stages."""
        return itertools.chain.from_iterable(m.parameters() for m in (self.backbone, self.b1, self.b2, self.b3))

    def maps(self, images: Tensor, views: Views | None = None) -> tuple[Tensor, ...]:
        """Of the three branches, (B, C, h, w); the first has half the size with global_stride=2."""
        x = self.backbone(images)
        return self.b1(x), self.b2(x), self.b3(x)

    def answer(self, m1: Tensor, m2: Tensor, m3: Tensor) -> Output:
        check_rows(m3, 3, "MGN")
        maps = (m1, m2, m3, *m2.tensor_split(2, dim=2), *m3.tensor_split(3, dim=2))
        reduced, necks, logits = zip(*(head(m) for head, m in zip(self.heads, maps, strict=True)), strict=True)
        read = necks if self.feats_after else reduced
        feats = (*read[:3], torch.cat(read[3:5], dim=1), torch.cat(read[5:], dim=1))
        classify = self.training and self.num_pids > 0
        order = (0, 1, 3, 4, 2, 5, 6, 7)  # by branch
        return Output(torch.cat(necks, dim=1), tuple(logits[i] for i in order) if classify else (), feats)


class _MGNHead(nn.Module):
    def __init__(self, dim: int, reduced_dim: int, num_pids: int, pooling: str):
        super().__init__()
        self.global_pool = choose("pooling", pooling, POOLINGS)()
        self.reduction = nn.Conv2d(dim, reduced_dim, 1, bias=False)
        resnets.kaiming_fan_out(self.reduction)  # fast-reid's weights_init_kaiming
        self.neck = nn.BatchNorm2d(reduced_dim)
        self.neck.bias.requires_grad_(False)
        self.classifier = linear_classifier(reduced_dim, num_pids, bias=False, std=0.01)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(B, C, h, w) -> the reduced feature (B, d), the same behind the neck, its logits (B, num_pids) or None."""
        reduced = self.reduction(self.global_pool(x)[:, :, None, None])
        neck = self.neck(reduced).flatten(1)
        classify = self.classifier if self.training else None
        return reduced.flatten(1), neck, None if classify is None else classify(neck)


# -- Zheng, Deng, Sun, Jiang, Guo, Yu, Huang, Ji. Pyramidal Person Re-IDentification via Multi-Loss Dynamic Training. --
# -- CVPR 2019. Released code: TencentYoutuResearch/PersonReID-Pyramid at 63ffd64, src/models/. ------------------------


class Pyramid(Headed):
    """Every run of 1, 2, ..., p neighbouring stripes is a branch: p (p + 1) / 2 = 21 for p = 6, from fine to coarse.

    Branch: average + maximum over its rows, 1x1 to 128-d, batch norm, ReLU; classified after dropout.
    feats: the branches; embedding: their concatenation (21 * 128 = 2,688).
    """

    renames = (("pyramid_conv_list0.", "reduction."), ("pyramid_fc_list0.", "classifier."))

    def __init__(
        self,
        *,
        backbone: str = "resnet101",
        last_stride: int | None = 1,
        parts: Few = 6,
        branch_dim: Width = 128,
        dropout: Dropout = 0.2,
        **trunk: Any,
    ):
        super().__init__(backbone=backbone, last_stride=last_stride, **trunk)
        self.parts, self.stripes = parts, (parts,)
        branches = parts * (parts + 1) // 2
        self.reduction = nn.ModuleList(
            conv_reduction(self.base.out_channels, branch_dim, bias=True) for _ in range(branches)
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = linear_classifiers(branches, branch_dim, self.num_pids)
        self.embedding_dim = branches * branch_dim
        self.feat_dims = (branch_dim,) * branches

    def pool(self, feature_map: Tensor) -> list[Tensor]:
        """(B, C, h, w) -> list of (B, C), average + maximum of each branch.

        The sum and maximum of k + 1 stripes come from those of k, so that the map is read once.
        """
        stripes = feature_map.unflatten(2, (self.parts, -1))  # (B, C, p, h/p, w)
        first_mean, first_max = stripes.mean(dim=(3, 4)), stripes.amax(dim=(3, 4))  # (B, C, p)
        total, highest = first_mean, first_max
        pooled = []
        for k in range(1, self.parts + 1):
            pooled += (total / k + highest).unbind(dim=2)
            total = total[:, :, :-1] + first_mean[:, :, k:]
            highest = torch.maximum(highest[:, :, :-1], first_max[:, :, k:])
        return pooled

    def answer(self, feature_map: Tensor) -> Output:
        rows = feature_map.shape[2]
        if rows % self.parts:
            raise ValueError(
                f"Pyramid cuts the feature map into {self.parts} equal stripes, but it has {rows} rows. Use an "
                f"--image_size whose height gives a multiple of {self.parts} rows, such as 384 128 for a ResNet."
            )
        pooled = self.pool(feature_map)
        feats = tuple(reduce(x[:, :, None, None]).flatten(1) for reduce, x in zip(self.reduction, pooled, strict=True))
        return Output(torch.cat(feats, dim=1), logits_of_each(self, map(self.dropout, feats), self.classifier), feats)


# -- Luo, Gu, Liao, Lai, Jiang. Bag of Tricks and a Strong Baseline for Deep Person Re-Identification. CVPRW 2019. ----


class Attended(Headed):
    """A trunk and, with attention_dim, CLIP's attention over its map: a second feature (B, attention_dim).

    With backbone clip_resnet50 the network of CLIP-ReID (Syliz517/CLIP-ReID at eb1898b, model/make_model_clipreid.py).
    """

    def __init__(self, *, attention_dim: WidthOrNone = 0, **trunk: Any):
        super().__init__(**trunk)
        built = (self.base.out_channels, attention_dim, self.base.map_size)
        self.attention = AttentionPool(*built) if attention_dim else None

    def trunk(self) -> Iterator[nn.Parameter]:
        """With the attention, which CLIP has trained."""
        return itertools.chain(super().trunk(), () if self.attention is None else self.attention.parameters())


class BagOfTricks(Attended):
    """Last stride 1 and the BNNeck: the triplet loss reads f_t, the ID loss f_i = BN(f_t) (section 3.5).

    feats = (f_t,) before the neck; embedding = f_i, or f_t with test_neck="before".
    metric_neck="after" makes feats = (f_i,), as fast-reid's SBS has it.
    neck: "bnneck" (classifier without bias) or "none" (one feature for all, torch's default classifier).
    head_std: of the initial weights of the classifier behind a neck, 0.01 in fast-reid.
    reduced: widths of linear layers that f_t goes through, all but the last followed by batch norm and ReLU: the heads
        of layumi/Person_reID_baseline_pytorch (model.py at 82ff40f), Cysu/open-reid (reid/models/resnet.py at 0c89e7d),
        MMTracking (mmtrack/models/reid/linear_reid_head.py at 080b999) and of fast-reid with EMBEDDING_DIM.
    Weight names are those of michuanhaohao/reid-strong-baseline, modeling/baseline.py at 3da7e6f. Its trained plain
    ResNets need stem_relu=False, those of fast-reid stem_ceil=True (see `backbones.create`).
    """

    renames: tuple[tuple[str, str], ...] = (
        ("heads.bottleneck.0.", "bottleneck."),
        ("heads.pool_layer.", "global_pool."),  # fast-reid at c9bc3ce
        ("heads.weight", "classifier.weight"),
        ("backbone.", "base."),
    )

    def __init__(
        self,
        *,
        last_stride: int | None = 1,
        pooling: str = "avg",
        neck: str = "bnneck",
        test_neck: str = "after",
        metric_neck: str = "before",
        reduced: Sequence[Width] = (),
        head_std: Spread = 0.001,
        **trunk: Any,
    ):
        super().__init__(last_stride=last_stride, **trunk)
        dims = (self.base.out_channels, *reduced)
        dim = dims[-1]
        self.global_pool = choose("pooling", pooling, POOLINGS)()
        self.fc = reduction(dims[:-1] or dims)
        self.reduction = nn.Linear(dims[-2], dim) if reduced else nn.Identity()
        has_neck = choose("neck", neck, {"bnneck": True, "none": False})
        self.embed_after = choose("test_neck", test_neck, {"after": True, "before": False})
        self.feats_after = choose("metric_neck", metric_neck, {"after": True, "before": False})
        self.bottleneck = bn_neck(dim) if has_neck else nn.Identity()
        # without a neck the released code leaves the classifier as torch draws it
        std = head_std if has_neck else 0
        self.classifier = linear_classifier(dim, self.num_pids, bias=not has_neck, std=std)
        self.feat_dims = (dim,)
        if self.attention is not None:
            second = self.attention.dim
            self.bottleneck_1 = bn_neck(second) if has_neck else nn.Identity()
            self.classifier_1 = linear_classifier(second, self.num_pids, bias=not has_neck, std=std)
            self.feat_dims = (dim, second)
        self.embedding_dim = sum(self.feat_dims)

    def answer(self, feature_map: Tensor) -> Output:
        f_t = self.reduction(self.fc(self.global_pool(feature_map)))  # (B, D)
        f_i = self.bottleneck(f_t)  # (B, D)
        if self.attention is None:
            return Output(f_i if self.embed_after else f_t, logits_of(self, f_i), (f_i if self.feats_after else f_t,))
        before = (f_t, self.attention(feature_map))
        after = (f_i, self.bottleneck_1(before[1]))
        embedding = torch.cat(after if self.embed_after else before, dim=1)
        logits = logits_of_each(self, after, (self.classifier, self.classifier_1))
        return Output(embedding, logits, after if self.feats_after else before)


# -- Ye, Shen, Lin, Xiang, Shao, Hoi. Deep Learning for Person Re-Identification: A Survey and Outlook. TPAMI 2021. ----


class AGW(BagOfTricks):
    """BagOfTricks with non-local blocks and generalised-mean pooling (code: mangye16/ReID-Survey at 38f5912).

    non_local: blocks after the last n residual blocks of each stage, (0, 2, 3, 0) for ResNet-50.
    fast-reid's SBS is the same network with metric_neck="after" at 384 x 128; (0, 2, 9, 0) for its ResNet-101.
    """

    def __init__(self, *, pooling: str = "gem", non_local: Sequence[Blocks] = (0, 2, 3, 0), **options: Any):
        super().__init__(pooling=pooling, **options)
        resnet_stages(self.base, "AGW")
        self.base: Any = resnets.NonLocalResNet(self.base, self.base.out_channels, non_local)


# -- The same paper, cross-modality. Released code: mangye16/Cross-Modal-Re-ID-baseline at e817a26, model.py. ----------


class TwoStreamAGW(AGW):
    """AGW for colour and infrared images: a stem (7x7 convolution, batch norm) for each light, all else shared.

    `views.infrared` tells the light of each image; without it all are in colour.
    Both stems start alike. As released, the exponent of the pooling stays 3 and the neck's weights begin N(1, 0.01^2).
    """

    base: Any

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.base.infrared = nn.Sequential(
            OrderedDict((name, copy.deepcopy(getattr(self.base, name))) for name in ("conv1", "bn1", "relu", "maxpool"))
        )
        if isinstance(self.global_pool, GeM):
            self.global_pool = AddedGeM(learned=False)
        if isinstance(self.bottleneck, nn.BatchNorm1d):
            nn.init.normal_(self.bottleneck.weight, 1.0, 0.01)

    def maps(self, images: Tensor, views: Views | None = None) -> tuple[Tensor, ...]:
        """The last map (B, C, h, w) of images of either light."""
        base = self.base
        if views is None or views.infrared is None:
            return (base(images),)
        infrared = views.infrared  # (B,)
        rows = torch.cat((infrared.logical_not().nonzero(), infrared.nonzero()))[:, 0]
        colour = int(len(rows) - infrared.sum())
        x = [
            stem(part)
            for stem, part in ((self.colour_stem, images[rows[:colour]]), (base.infrared, images[rows[colour:]]))
            if len(part)
        ]
        return (base.stages(torch.cat(x)[rows.argsort()]),)

    def colour_stem(self, images: Tensor) -> Tensor:
        """The stem of colour images: (n, 3, H, W) -> (n, 64, H / 4, W / 4)."""
        return self.base.maxpool(self.base.relu(self.base.bn1(self.base.conv1(images))))


# -- He, Luo, Wang, Wang, Li, Jiang. TransReID: Transformer-based Object Re-Identification. ICCV 2021. ----------------
# -- Released code: damo-cv/TransReID at dec5504, model/. -------------------------------------------------------------


class SIETransformer(Model):
    """The trunk of TransReID: a vision transformer with overlapping patches and camera embeddings (SIE).

    backbone: a plain vision transformer of timm with a class token. stride: of the patches, 12 overlaps, 16 does not.
    num_cameras: cameras of the training set, `views.camera` 0 to num_cameras - 1; 0 drops SIE. A camera outside that
        range, or views=None, takes the mean of the camera embeddings: what a test set with other cameras should pass.
    sie_weight: lambda, the weight of the camera embeddings, 3.0 for the released person models.
    """

    base: Any  # parts of a network of timm

    sie_on_class = False  # the camera embedding is added to every token

    def __init__(
        self,
        *,
        num_pids: int,
        backbone: str = "vit_base_patch16_224",
        pretrained: bool = False,
        image_size: tuple[int, int] = (256, 128),
        stride: Few = 12,
        num_cameras: int = 0,
        sie_weight: float = 3.0,
        drop_path: Dropout = 0.1,
    ):
        super().__init__()
        self.num_pids = num_pids
        self.base = backbones.vision_transformer(
            backbone, pretrained=pretrained, image_size=image_size, stride=stride, drop_path=drop_path
        )
        self.sie_weight = sie_weight
        if num_cameras:
            embeddings = torch.empty(num_cameras, 1, self.base.embed_dim)
            self.base.sie_embed = nn.Parameter(nn.init.trunc_normal_(embeddings, std=0.02))

    def trunk(self) -> Iterator[nn.Parameter]:
        """All of `base` but the camera embeddings."""
        return (p for name, p in self.base.named_parameters() if name != "sie_embed")

    def feature_map(self, images: Tensor, views: Views | None = None) -> Tensor:
        """The tokens of `maps` without the class token, on the grid of their patches: (B, 3, H, W) -> (B, D, h, w)."""
        (tokens,) = self.maps(images, views)
        return tokens[:, 1:].transpose(1, 2).unflatten(2, self.base.patch_embed.grid_size)

    def tokens(self, images: Tensor, views: Views | None) -> Tensor:
        """(B, 3, H, W), views or None -> tokens (B, 1 + N, D) that the first block reads, SIE added."""
        base = self.base
        patches = base.patch_embed.proj(base.patch_embed.conv(images)).flatten(2).transpose(1, 2)  # (B, N, D)
        x = torch.cat((base.cls_token.expand(images.shape[0], -1, -1), patches), dim=1)
        if x.shape[1] != base.pos_embed.shape[1]:
            raise ValueError(
                f"TransReID was built for {base.pos_embed.shape[1] - 1} patches, images of "
                f"{images.shape[2]}x{images.shape[3]} give {patches.shape[1]}; pass their image_size."
            )
        x = x + base.pos_embed
        if hasattr(base, "sie_embed"):
            camera = self.sie_weight * self.camera_embedding(views)
            x = torch.cat((x[:, :1] + camera, x[:, 1:]), dim=1) if self.sie_on_class else x + camera
        return base.norm_pre(x)

    def camera_embedding(self, views: Views | None) -> Tensor:
        """Views of B images -> (B, 1, D); the mean over the training cameras for None and for unknown cameras."""
        embeddings = self.base.sie_embed  # (cameras, 1, D)
        mean = embeddings.mean(dim=0, keepdim=True)
        if views is None:
            return mean
        camids = views.camera
        known = (camids >= 0) & (camids < len(embeddings))
        own = embeddings[camids.clamp(0, len(embeddings) - 1)]
        return torch.where(known[:, None, None], own, mean)


class TransReID(SIETransformer):
    """The transformer with the jigsaw branch (JPM), a BN neck and a classifier for each feature.

    jpm: four local features beside the global one; embedding = [f_g, f_1/4, ..., f_4/4] (5 D), else f_g (D).
    projection_dim: the network of CLIP-ReID (Syliz517/CLIP-ReID at 4c0eb20, model/make_model_clipreid.py): without jpm,
        embedding = [f_g, W f_g] (D + projection_dim), and the camera embedding is added to the class token alone.
    conv_stem: convolutions in front of the patches, as in TransReID-SSL (`backbones.add_convolutions`).
    test_neck: "before" (released configuration) or "after" the batch norms. feats: before them, one logit each.
    """

    shown = "the patches as the last block reads them"
    groups, shift, parts = 2, 5, 4  # of JPM: shuffle groups, shift, groups of patches (config/defaults.py)

    def __init__(
        self,
        *,
        jpm: bool = True,
        test_neck: str = "before",
        projection_dim: WidthOrNone = 0,
        conv_stem: bool = False,
        head_std: Spread = 0.001,
        **trunk: Any,
    ):
        if conv_stem and trunk.get("pretrained"):
            raise ValueError("there are no ImageNet weights with a convolution stem: use --pretrained FILE or none")
        super().__init__(**trunk)
        if conv_stem:
            backbones.add_convolutions(self.base.patch_embed)
        if jpm and projection_dim:
            raise ValueError("a projection belongs to the network without the jigsaw branch: set jpm to no")
        dim = self.base.embed_dim
        self.jpm, self.sie_on_class = jpm, projection_dim > 0
        if jpm:  # the last block is split into a global and a shared local one; the trunk keeps the others
            last = nn.Sequential(self.base.blocks[-1], self.base.norm)
            self.b1, self.b2 = last, copy.deepcopy(last)
            self.base.blocks, self.base.norm = self.base.blocks[:-1], nn.Identity()
        if projection_dim:
            self.projection = nn.Linear(dim, projection_dim, bias=False)
        dims = (dim, projection_dim) if projection_dim else (dim,) * (1 + self.parts if jpm else 1)
        for i, width in enumerate(dims):
            self.add_module(self._name("bottleneck", i), bn_neck(width))
            self.add_module(
                self._name("classifier", i), linear_classifier(width, self.num_pids, bias=False, std=head_std)
            )
        self.embed_after = choose("test_neck", test_neck, {"after": True, "before": False})
        self.embedding_dim = sum(dims)
        self.feat_dims = dims

    @staticmethod
    def _name(kind: str, i: int) -> str:
        return f"{kind}_{i}" if i else kind

    def trunk(self) -> Iterator[nn.Parameter]:
        """With both last blocks, which begin as copies of the same pretrained one."""
        last = (*self.b1.parameters(), *self.b2.parameters()) if self.jpm else ()
        return itertools.chain(super().trunk(), last)

    def jigsaw(self, x: Tensor) -> list[Tensor]:
        """Jigsaw patch module: tokens (B, 1 + N, D) -> four local features (B, D)."""
        token, patches = x[:, :1], x[:, 1:].roll(1 - self.shift, dims=1)
        if patches.shape[1] % self.groups:
            patches = torch.cat((patches, patches[:, -2:-1]), dim=1)
        shuffled = patches.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        length = (x.shape[1] - 1) // self.parts
        chunks = [shuffled[:, i * length : (i + 1) * length] for i in range(self.parts)]
        return [self.b2(torch.cat((token, chunk), dim=1))[:, 0] for chunk in chunks]

    def maps(self, images: Tensor, views: Views | None = None) -> tuple[Tensor, ...]:
        """The tokens (B, 1 + N, D) that the last block reads, in which the class token draws on the patches.

        Behind it only the class token counts: there the patches are no part of the embedding.
        """
        x = self.tokens(images, views)
        again = self.training and self.base.grad_checkpointing  # --grad_checkpoint; timm's own forward is not called
        for block in list(self.base.blocks)[: None if self.jpm else -1]:
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        return (x,)

    def answer(self, x: Tensor) -> Output:
        if self.jpm:
            feats = [self.b1(x)[:, 0], *self.jigsaw(x)]  # (B, D) each
        else:
            feats = [self.base.norm(self.base.blocks[-1](x))[:, 0]]
            feats += [self.projection(feats[0])] if self.sie_on_class else []
        necks = [getattr(self, self._name("bottleneck", i))(f) for i, f in enumerate(feats)]
        logits = logits_of_each(self, necks, (getattr(self, self._name("classifier", i)) for i in range(len(necks))))
        first, *others = necks if self.embed_after else feats
        share = self.parts if self.jpm else 1
        return Output(torch.cat((first, *(f / share for f in others)), dim=1), logits, tuple(feats))
