"""Networks with a trunk of their own, one class per paper, in paper order: MuDeep, HACNN, MLFN, SOLIDER.

`NETWORKS` has the first three and everything else under torchreid's keys.

Interface and shared arguments are those of `models`. None has ImageNet weights in this layout, so `pretrained=True` is
an error; weight names are torchreid's (KaiyangZhou/deep-person-reid at f8cd150) and SOLIDER's, whose published weights
load as they are. OSNet is in `networks/osnet.py`, since any head may follow it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from machine.ranges import Few, Share, Width
from models import PCB, BagOfTricks, Model, Output, ResNet50M, Softmax, logits_of, logits_of_each
from networks.blocks import global_average, linear_classifier
from networks.resnets import kaiming_fan_out
from networks.swin import SWINS, Swin

if TYPE_CHECKING:
    from loading.views import Views


class ConvBlock(nn.Module):
    """Convolution with bias, batch norm, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Streams(nn.Module):
    """Parallel paths stream1, stream2, ...; their outputs concatenated, or as a list with `concatenate=False`."""

    def __init__(self, *streams: nn.Module, concatenate: bool = True):
        super().__init__()
        for i, stream in enumerate(streams, start=1):
            self.add_module(f"stream{i}", stream)
        self.concatenate = concatenate

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        outputs = [stream(x) for stream in self.children()]
        return torch.cat(outputs, dim=1) if self.concatenate else outputs


class WholeNetwork(Model):
    """A network drawn in one piece: only its identity classifiers are no part of the trunk.

    That is what torchreid's two-stage training of such networks opens first (`open_layers` of its configurations), and
    what a file of its ImageNet weights does not fill.
    """

    def trunk(self) -> Iterator[nn.Parameter]:
        """Everything in front of the classifiers."""
        return (p for name, p in self.named_parameters() if not name.startswith("classifier"))


def no_imagenet(name: str, pretrained: bool) -> None:
    """RuntimeError for pretrained=True."""
    if pretrained:
        raise RuntimeError(
            f"{name} has no ImageNet weights to download; train it from scratch (--pretrained none) or "
            "name a weight file (--pretrained FILE)."
        )


# -- Qian, Fu, Jiang, Xiang, Xue. Multi-scale Deep Learning Architectures for Person Re-identification. ICCV 2017. -----
# -- torchreid/models/mudeep.py ---------------------------------------------------------------------------------------


class MuDeep(WholeNetwork):
    """Two multi-scale stages, a saliency-weighted fusion of four streams, one fully connected layer.

    embedding = feats[0] (B, 4096). The map is averaged 4 x 4 before the layer, as in torchreid and not in the paper,
    which keeps it at 134 million weights; its size follows image_size.
    """

    renames = ()
    shown = "the map of the fused streams"

    def __init__(self, *, num_pids: int, pretrained: bool = False, image_size: tuple[int, int] = (256, 128)):
        super().__init__()
        no_imagenet("MuDeep", pretrained)
        self.block1 = nn.Sequential()
        self.block1.add_module("conv1", ConvBlock(3, 48, 3, padding=1))
        self.block1.add_module("conv2", ConvBlock(48, 96, 3, padding=1))
        self.block1.add_module("maxpool", nn.MaxPool2d(3, stride=2, padding=1))
        self.block2 = Streams(  # multi-scale A, section 3.1
            nn.Sequential(ConvBlock(96, 96), ConvBlock(96, 24, 3, padding=1)),
            nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), ConvBlock(96, 24)),
            ConvBlock(96, 24),
            nn.Sequential(ConvBlock(96, 16), ConvBlock(16, 24, 3, padding=1), ConvBlock(24, 24, 3, padding=1)),
        )
        self.block3 = Streams(  # reduction
            nn.MaxPool2d(3, stride=2, padding=1),
            ConvBlock(96, 96, 3, stride=2, padding=1),
            nn.Sequential(ConvBlock(96, 48), ConvBlock(48, 56, 3, padding=1), ConvBlock(56, 64, 3, 2, padding=1)),
        )
        self.block4 = Streams(  # multi-scale B; a 3x3 as 1x3 and 3x1
            nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), ConvBlock(256, 256)),
            nn.Sequential(ConvBlock(256, 64), *_split3x3(64, 128, 256)),
            ConvBlock(256, 256),
            nn.Sequential(ConvBlock(256, 64), *_split3x3(64, 64, 128), *_split3x3(128, 128, 256)),
            concatenate=False,
        )
        self.block5 = Fusion(streams=4, channels=256)
        rows, columns = (-(-size // 4) // 4 for size in image_size)  # two halvings that round up, then 4 x 4
        if rows < 1 or columns < 1:
            raise ValueError(f"MuDeep needs images of at least 16x16, got {image_size[0]}x{image_size[1]}.")
        self.image_size = tuple(image_size)
        self.fc = nn.Sequential(nn.Linear(256 * rows * columns, 4096), nn.BatchNorm1d(4096), nn.ReLU(inplace=True))
        self.classifier = linear_classifier(4096, num_pids, bias=True, std=0)
        self.num_pids = num_pids
        self.embedding_dim = 4096
        self.feat_dims = (4096,)

    def maps(self, images: Tensor, views: Views | None = None) -> tuple[Tensor, ...]:
        """The fused streams (B, 256, h, w)."""
        if tuple(images.shape[2:]) != self.image_size:
            raise ValueError(
                f"This MuDeep was built for images of {self.image_size[0]}x{self.image_size[1]}, got "
                f"{images.shape[2]}x{images.shape[3]}. Its fully connected layer fixes the size."
            )
        return (self.block5(self.block4(self.block3(self.block2(self.block1(images))))),)

    def answer(self, feature_map: Tensor) -> Output:
        feature = self.fc(F.avg_pool2d(feature_map, 4).flatten(1))  # (B, 4096), from h / 4 x w / 4 positions
        return Output(feature, logits_of(self, feature), (feature,))


def _split3x3(channels_in: int, middle: int, channels_out: int) -> tuple[ConvBlock, ConvBlock]:
    return (
        ConvBlock(channels_in, middle, (1, 3), padding=(0, 1)),
        ConvBlock(middle, channels_out, (3, 1), padding=(1, 0)),
    )


class Fusion(nn.Module):
    """Saliency-based fusion (section 3.2): a weighted sum of the streams, each weight in (0, 1) at first."""

    def __init__(self, streams: int, channels: int):
        super().__init__()
        for i in range(1, streams + 1):
            self.register_parameter(f"a{i}", nn.Parameter(torch.rand(1, channels, 1, 1)))

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, h, w) -> one of that shape."""
        first, *others = [a * x for a, x in zip(self.parameters(), streams, strict=True)]
        return sum(others, first)


# -- Li, Zhu, Gong. Harmonious Attention Network for Person Re-Identification. CVPR 2018. -----------------------------
# -- torchreid/models/hacnn.py ----------------------------------------------------------------------------------------


def inception_a(in_channels: int, out_channels: int) -> Streams:
    """Four streams of a quarter of the channels at the same size (Inception-A)."""
    quarter = out_channels // 4
    return Streams(
        *(nn.Sequential(ConvBlock(in_channels, quarter), ConvBlock(quarter, quarter, 3, padding=1)) for _ in range(3)),
        nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), ConvBlock(in_channels, quarter)),
    )


def inception_b(in_channels: int, out_channels: int) -> Streams:
    """Streams of a quarter, a quarter and half of the channels at half the size (Inception-B)."""
    quarter = out_channels // 4
    return Streams(
        nn.Sequential(ConvBlock(in_channels, quarter), ConvBlock(quarter, quarter, 3, stride=2, padding=1)),
        nn.Sequential(
            ConvBlock(in_channels, quarter),
            ConvBlock(quarter, quarter, 3, padding=1),
            ConvBlock(quarter, quarter, 3, stride=2, padding=1),
        ),
        nn.Sequential(nn.MaxPool2d(3, stride=2, padding=1), ConvBlock(in_channels, 2 * quarter)),
    )


class SpatialAttention(nn.Module):
    """One map (B, 1, h, w) from the mean over channels (section 3.1, I.1)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvBlock(1, 1, 3, stride=2, padding=1)
        self.conv2 = ConvBlock(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x.mean(dim=1, keepdim=True))
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)
        return self.conv2(y[:, :, : x.shape[2], : x.shape[3]])  # odd sizes come back one larger


class ChannelAttention(nn.Module):
    """One weight per channel (B, C, 1, 1) from the mean over positions (section 3.1, I.2)."""

    def __init__(self, channels: int, reduction_rate: int = 16):
        super().__init__()
        self.conv1 = ConvBlock(channels, channels // reduction_rate)
        self.conv2 = ConvBlock(channels // reduction_rate, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(global_average(x, keepdim=True)))


class SoftAttention(nn.Module):
    """Spatial times channel attention, mixed by a 1x1, in (0, 1) (section 3.1, I)."""

    def __init__(self, channels: int):
        super().__init__()
        self.spatial_attn = SpatialAttention()
        self.channel_attn = ChannelAttention(channels)
        self.conv = ConvBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.spatial_attn(x) * self.channel_attn(x)).sigmoid()


class HardAttention(nn.Module):
    """Translations (t_x, t_y) in (-1, 1) of the regions, (B, regions, 2); at first regions from top to bottom."""

    def __init__(self, channels: int, regions: int = 4):
        super().__init__()
        self.fc = nn.Linear(channels, 2 * regions)
        nn.init.zeros_(self.fc.weight)
        with torch.no_grad():
            self.fc.bias.copy_(torch.tensor([0, -0.75, 0, -0.25, 0, 0.25, 0, 0.75]))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(global_average(x)).tanh().unflatten(1, (-1, 2))


class HarmoniousAttention(nn.Module):
    """Soft attention of the map and the hard attention of the regions, both from the same map."""

    def __init__(self, channels: int):
        super().__init__()
        self.soft_attn = SoftAttention(channels)
        self.hard_attn = HardAttention(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.soft_attn(x), self.hard_attn(x)


def crop_region(x: Tensor, translation: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """A full-width quarter-height window of x (B, C, h, w), moved by `translation` (B, 2), resized to `size`.

    The affine transform of hard attention (section 3.1, II) as torchreid runs today: `grid_sample` with
    align_corners=False on the window at the map's own size, then bilinear resizing with align_corners=True. Before
    torch 1.3 `grid_sample` knew `align_corners` only as True.
    """
    theta = x.new_zeros(x.shape[0], 2, 3)  # not len(x): an export keeps B free
    theta[:, 0, 0], theta[:, 1, 1] = 1.0, 0.25
    theta[:, :, 2] = translation
    grid = F.affine_grid(theta, list(x.shape), align_corners=align_corners)
    window = F.grid_sample(x, grid, align_corners=align_corners)
    return F.interpolate(window, size=size, mode="bilinear", align_corners=True)


class HACNN(WholeNetwork):
    """Three inception stages with harmonious attention, and a local branch of four regions moved by hard attention.

    For images of 160 x 64. feats = (global, local), 512-d each; logits likewise; embedding: both L2-normalised and
    concatenated (B, 1024). The regions share the local branch's weights but not its batch statistics while training,
    as in torchreid. align_corners: of `crop_region`; True for weights that were trained with torch before 1.3.
    """

    renames = ()
    shown = "the last map of the global branch, not those of the regions"

    def __init__(
        self,
        *,
        num_pids: int,
        pretrained: bool = False,
        channels: Sequence[Width] = (128, 256, 384),
        dim: Width = 512,
        align_corners: bool = False,
    ):
        super().__init__()
        no_imagenet("HACNN", pretrained)
        self.align_corners = align_corners
        self.conv = ConvBlock(3, 32, 3, stride=2, padding=1)
        widths = (32, *channels)
        for i in (1, 2, 3):
            stage = nn.Sequential(inception_a(widths[i - 1], widths[i]), inception_b(widths[i], widths[i]))
            self.add_module(f"inception{i}", stage)
            self.add_module(f"ha{i}", HarmoniousAttention(widths[i]))
            self.add_module(f"local_conv{i}", inception_b(widths[i - 1], widths[i]))
        self.fc_global = nn.Sequential(nn.Linear(channels[-1], dim), nn.BatchNorm1d(dim), nn.ReLU())
        self.fc_local = nn.Sequential(nn.Linear(4 * channels[-1], dim), nn.BatchNorm1d(dim), nn.ReLU())
        self.classifier_global = linear_classifier(dim, num_pids, bias=True, std=0)
        self.classifier_local = linear_classifier(dim, num_pids, bias=True, std=0)
        self.num_pids = num_pids
        self.embedding_dim = 2 * dim
        self.feat_dims = (dim, dim)

    def maps(self, images: Tensor, views: Views | None = None) -> tuple[Tensor, ...]:
        """The last map of the global branch (B, C, h, w) and of each of the four regions."""
        x = self.conv(images)
        regions: list[Tensor] = []
        for i, size in ((1, (24, 28)), (2, (12, 14)), (3, (6, 7))):
            y = getattr(self, f"inception{i}")(x)
            attention, translations = getattr(self, f"ha{i}")(y)
            local_conv = getattr(self, f"local_conv{i}")
            crops = [crop_region(x, translations[:, r], size, self.align_corners) for r in range(4)]
            if regions:
                crops = [crop + region for crop, region in zip(crops, regions, strict=True)]  # cross-attention
            regions = [local_conv(crop) for crop in crops]
            x = y * attention
        return x, *regions

    def feature_map(self, images: Tensor, views: Views | None = None) -> Tensor:
        """Of the global branch; a region moves from stage to stage, so that its map is of no one place."""
        return self.maps(images)[0]

    def answer(self, x: Tensor, *regions: Tensor) -> Output:
        overall = self.fc_global(global_average(x))  # (B, 512)
        local = self.fc_local(torch.cat([global_average(region) for region in regions], dim=1))  # (B, 512)
        logits = logits_of_each(self, (overall, local), (self.classifier_global, self.classifier_local))
        embedding = torch.cat((F.normalize(overall, dim=1), F.normalize(local, dim=1)), dim=1)
        return Output(embedding, logits, (overall, local))


# -- Chang, Hospedales, Xiang. Multi-Level Factorisation Net for Person Re-Identification. CVPR 2018. ------------------
# -- torchreid/models/mlfn.py -----------------------------------------------------------------------------------------


class MLFNBlock(nn.Module):
    """`groups` factor modules (one grouped 3x3) whose outputs a factor selection vector s in (0, 1) weighs; returns
    the block's map and s (B, groups, 1, 1)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, selection: tuple[int, int], groups: int):
        super().__init__()
        middle = out_channels // 2
        self.groups = groups
        self.fm_conv1 = nn.Conv2d(in_channels, middle, 1, bias=False)
        self.fm_bn1 = nn.BatchNorm2d(middle)
        self.fm_conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, groups=groups, bias=False)
        self.fm_bn2 = nn.BatchNorm2d(middle)
        self.fm_conv3 = nn.Conv2d(middle, out_channels, 1, bias=False)
        self.fm_bn3 = nn.BatchNorm2d(out_channels)
        first, second = selection
        self.fsm = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, first, 1),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 1),
            nn.BatchNorm2d(second),
            nn.ReLU(inplace=True),
            nn.Conv2d(second, groups, 1),
            nn.BatchNorm2d(groups),
            nn.Sigmoid(),
        )
        self.downsample: nn.Module = nn.Identity()
        if in_channels != out_channels or stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s = self.fsm(x)  # (B, g, 1, 1)
        y = F.relu(self.fm_bn1(self.fm_conv1(x)))
        y = F.relu(self.fm_bn2(self.fm_conv2(y)))
        y = y * s.repeat_interleave(y.shape[1] // self.groups, dim=1)  # each factor module by its s
        y = F.relu(self.fm_bn3(self.fm_conv3(y)))
        return F.relu(self.downsample(x) + y), s


class MLFN(WholeNetwork):
    """16 blocks of 32 factor modules; the selection vectors of all blocks join the last map's feature.

    embedding = feats[0] = (projected feature + projected selections) / 2 (B, 1024).
    """

    renames = ()
    shown = "the last map, not the selection vectors"

    def __init__(self, *, num_pids: int, pretrained: bool = False, groups: Few = 32, dim: Width = 1024):
        super().__init__()
        no_imagenet("MLFN", pretrained)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(64)
        blocks: list[nn.Module] = []
        width = 64
        for stage, (count, out, selection) in enumerate(
            ((3, 256, (128, 64)), (4, 512, (256, 128)), (6, 1024, (512, 128)), (3, 2048, (512, 128)))
        ):
            for i in range(count):
                blocks.append(MLFNBlock(width, out, 2 if stage > 0 and i == 0 else 1, selection, groups))
                width = out
        self.feature = nn.ModuleList(blocks)
        self.fc_x = self._projection(width, dim)
        self.fc_s = self._projection(groups * len(blocks), dim)
        kaiming_fan_out(self)
        self.classifier = linear_classifier(dim, num_pids, bias=True, std=0.01)
        self.num_pids = num_pids
        self.embedding_dim = dim
        self.feat_dims = (dim,)

    @staticmethod
    def _projection(in_channels: int, out_channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
        )

    def maps(self, images: Tensor, views: Views | None = None) -> tuple[Tensor, ...]:
        """The last map (B, C, h, w) and the selection vectors (B, groups, 1, 1) of all blocks."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, stride=2, padding=1)
        selections = []
        for block in self.feature:
            x, s = block(x)
            selections.append(s)
        return x, *selections

    def feature_map(self, images: Tensor, views: Views | None = None) -> Tensor:
        """Of the last block: the selection vectors have no place in the image."""
        return self.maps(images)[0]

    def answer(self, x: Tensor, *selections: Tensor) -> Output:
        projected = self.fc_x(global_average(x, keepdim=True)) + self.fc_s(torch.cat(selections, dim=1))
        feature = (projected / 2).flatten(1)  # (B, 1024)
        return Output(feature, logits_of(self, feature), (feature,))


# -- Chen, Xu, Jia, Luo, Wang, Wang, Jin, Sun. Beyond Appearance: a Semantic Controllable Self-Supervised Learning -----
# -- Framework for Human-Centric Visual Tasks. CVPR 2023. Released code: tinyvision/SOLIDER-REID at 8c08e1c. -----------


class SOLIDER(BagOfTricks):
    """The BN neck on the average of a Swin transformer that is told how much semantics its features shall hold.

    backbone: solider_swin_tiny, solider_swin_small or solider_swin_base (`networks.swin`).
    semantic_weight: 0 to 1, 0.2 for re-ID. embedding = feats[0], before the neck as released.
    """

    def __init__(
        self,
        *,
        backbone: str = "solider_swin_tiny",
        last_stride: int | None = None,
        test_neck: str = "before",
        semantic_weight: Share = 0.2,
        **options: Any,
    ):
        super().__init__(backbone=backbone, last_stride=last_stride, test_neck=test_neck, **options)
        if not isinstance(self.base, Swin):
            raise ValueError(f"SOLIDER weighs the stages of a Swin transformer: --backbone {', '.join(SWINS)}.")
        self.base.semantic_weight = semantic_weight


# -- torchreid's keys -------------------------------------------------------------------------------------------------

_PLAIN = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "se_resnet50",
    "se_resnet101",
    "se_resnext50_32x4d",
    "se_resnext101_32x4d",
    "densenet121",
    "densenet169",
    "densenet201",
    "densenet161",
    "inceptionresnetv2",
    "inceptionv4",
    "xception",
    "resnet50_ibn_a",
    "resnet50_ibn_b",
    "nasnsetmobile",
    "mobilenetv2_x1_0",
    "mobilenetv2_x1_4",
    "shufflenet",
    "squeezenet1_0",
    "squeezenet1_1",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "dpn92",
    "resnext101_32x4d",
)  # the last two only in torchreid's v0.5.0
_OSNET = (
    "osnet_x1_0",
    "osnet_x0_75",
    "osnet_x0_5",
    "osnet_x0_25",
    "osnet_ibn_x1_0",
    "osnet_ain_x1_0",
    "osnet_ain_x0_75",
    "osnet_ain_x0_5",
    "osnet_ain_x0_25",
)

# Every key of torchreid/models/__init__.py at f8cd150 -> constructor, called with num_pids and pretrained.
NETWORKS = {
    **{key: partial(Softmax, backbone=key) for key in _PLAIN},
    **{key: partial(Softmax, backbone=key, fc_dims=(512,)) for key in _OSNET},
    "resnet50_fc512": partial(Softmax, backbone="resnet50", fc_dims=(512,), last_stride=1),
    "se_resnet50_fc512": partial(Softmax, backbone="se_resnet50", fc_dims=(512,), last_stride=1),
    "densenet121_fc512": partial(Softmax, backbone="densenet121", fc_dims=(512,)),
    "squeezenet1_0_fc512": partial(Softmax, backbone="squeezenet1_0", fc_dims=(512,)),
    "mudeep": MuDeep,
    "resnet50mid": ResNet50M,
    "pcb_p6": PCB,
    "pcb_p4": partial(PCB, parts=4),
    "hacnn": HACNN,
    "mlfn": MLFN,
}
