"""Small networks with the weight names of torchreid, in the order of their papers.

ShuffleNet: Zhang, Zhou, Lin, Sun. ShuffleNet: An Extremely Efficient CNN for Mobile Devices. CVPR 2018. Weight names of
    torchreid/models/shufflenet.py at f8cd150 (g = 3 groups).
MobileNetV2: Sandler et al. MobileNetV2: Inverted Residuals and Linear Bottlenecks. CVPR 2018. torchreid's variant
    (torchreid/models/mobilenetv2.py at f8cd150), which its published re-ID weights need: other names than torchvision's
    `mobilenet_v2`, a 1x1 in the first block too, widths truncated instead of rounded to 8.
NASNet-A Mobile (4 @ 1056): Zoph, Vasudevan, Shlens, Le. Learning Transferable Architectures. CVPR 2018. timm has
    NASNet-A Large only. Weight names and paddings of the released port, nasnetamobile-7e03cead.pth, as in
    torchreid/models/nasnet.py at f8cd150.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.blocks import in_place
from networks.osnet import ConvNorm
from networks.resnets import kaiming_fan_out

relu6 = partial(in_place, F.relu6)


class ShuffleUnit(nn.Module):
    """Grouped 1x1, channel shuffle, depthwise 3x3, grouped 1x1 (figure 2b; 2c with stride 2, which concatenates)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int, *, group_first: bool = True):
        super().__init__()
        middle = out_channels // 4
        new_channels = out_channels - in_channels if stride == 2 else out_channels
        self.groups, self.stride = groups, stride
        self.conv1 = nn.Conv2d(in_channels, middle, 1, groups=groups if group_first else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, new_channels, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(new_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = y.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)  # channel shuffle
        y = self.bn3(self.conv3(self.bn2(self.conv2(y))))
        if self.stride == 2:
            return F.relu(torch.cat((F.avg_pool2d(x, 3, stride=2, padding=1), y), dim=1))
        return F.relu(x + y)


class ShuffleNet(nn.Module):
    """Table 1, column g = 3: stages of 4, 8 and 4 units, 240, 480 and 960 channels."""

    stage2: nn.Sequential
    stage3: nn.Sequential
    stage4: nn.Sequential

    def __init__(
        self, groups: int = 3, channels: Sequence[int] = (24, 240, 480, 960), units: Sequence[int] = (4, 8, 4)
    ):
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, channels[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        for stage, count in enumerate(units):
            # 24 channels are too few to group: the first 1x1 of stage 2 is dense (section 3.2)
            blocks = [ShuffleUnit(channels[stage], channels[stage + 1], 2, groups, group_first=stage > 0)]
            blocks += [ShuffleUnit(channels[stage + 1], channels[stage + 1], 1, groups) for _ in range(count - 1)]
            self.add_module(f"stage{stage + 2}", nn.Sequential(*blocks))

    def forward(self, images: Tensor) -> Tensor:
        return self.stage4(self.stage3(self.stage2(self.conv1(images))))  # (B, 960, H/32, W/32)


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the width, depthwise 3x3, linear 1x1; identity shortcut where the shape allows."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int):
        super().__init__()
        middle = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == out_channels
        self.conv1 = ConvNorm(in_channels, middle, act=relu6)
        self.dwconv2 = ConvNorm(middle, middle, 3, stride, groups=middle, act=relu6)
        self.conv3 = nn.Sequential(nn.Conv2d(middle, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.dwconv2(self.conv1(x)))
        return x + y if self.shortcut else y


class MobileNetV2(nn.Sequential):
    """Table 2, all widths times `width` (the last one not below 1280)."""

    def __init__(self, width: float):
        channels = int(32 * width)
        stages: list[nn.Module] = [ConvNorm(3, channels, 3, stride=2, act=relu6)]
        for expansion, c, count, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            out = int(c * width)
            blocks: list[nn.Module] = [InvertedResidual(channels, out, expansion, stride)]
            blocks += [InvertedResidual(out, out, expansion, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = out
        stages.append(ConvNorm(channels, int(1280 * max(width, 1)), act=relu6))
        super().__init__(OrderedDict((f"conv{i}", stage) for i, stage in enumerate(stages, start=1)))
        kaiming_fan_out(self)


# A cell adds pairs. Each entry is ((operation, input), (operation, input)); inputs are "h" (this cell's 1x1 of the
# previous cell), "p" (the one before that) or the index of an earlier pair; operation None passes the input on.
Pairs = tuple[tuple[tuple[str | None, str | int], tuple[str | None, str | int]], ...]

_NORMAL: Pairs = (
    (("sep5", "h"), ("sep3", "p")),
    (("sep5", "p"), ("sep3", "p")),
    (("avg", "h"), (None, "p")),
    (("avg", "p"), ("avg", "p")),
    (("sep3", "h"), (None, "h")),
)


_REDUCTION: Pairs = (
    (("sep5/2", "h"), ("sep7/2", "p")),
    (("max/2", "h"), ("sep7/2", "p")),
    (("avg/2", "h"), ("sep5/2", "p")),
    ((None, 1), ("avg", 0)),
    (("sep3", 0), ("max/2", "h")),
)


class _Shifted(nn.Module):
    """A strided operation that starts one pixel later, as TensorFlow pads even sizes: one more row and column of zeros
    above and left, then the first output row and column dropped."""

    def __init__(self, operation: nn.Module):
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(F.pad(x, (1, 0, 1, 0)))[:, :, 1:, 1:]


class _Separable(nn.Module):
    """ReLU, depthwise, pointwise, batch norm, twice; the stride is in the first."""

    separable_1: nn.Sequential
    separable_2: nn.Sequential
    bn_sep_1: nn.BatchNorm2d
    bn_sep_2: nn.BatchNorm2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        shifted: bool = False,
        middle: int | None = None,
    ):
        super().__init__()
        middle = middle or in_channels
        for i, (c_in, c_out, s) in enumerate(((in_channels, middle, stride), (middle, out_channels, 1)), start=1):
            depthwise = nn.Conv2d(c_in, c_in, kernel_size, s, kernel_size // 2, groups=c_in, bias=False)
            pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)
            self.add_module(
                f"separable_{i}", nn.Sequential(OrderedDict(depthwise_conv2d=depthwise, pointwise_conv2d=pointwise))
            )
            self.add_module(f"bn_sep_{i}", nn.BatchNorm2d(c_out, eps=0.001))
        self.shifted = shifted

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        if self.shifted:  # as in _Shifted, which would change the weight names
            x = self.separable_1(F.pad(x, (1, 0, 1, 0)))[:, :, 1:, 1:]
        else:
            x = self.separable_1(x)
        x = F.relu(self.bn_sep_1(x))
        return self.bn_sep_2(self.separable_2(x))


class NASNetCell(nn.Module):
    """One cell. p: how the input before the last is brought to this cell's size: "same" (the first stem cell reads the
    last one), "halve" (its map is twice as large), "project" (1x1)."""

    path_1: nn.Sequential
    path_2: nn.Sequential

    def __init__(self, pairs: Pairs, h_channels: int, p_channels: int, width: int, *, p: str, shifted: bool = True):
        super().__init__()
        self.pairs, self.p = pairs, p
        self.conv_1x1 = self._project(h_channels, width)
        if p == "project":
            self.conv_prev_1x1 = self._project(p_channels, width)
        elif p == "halve":
            for path in ("path_1", "path_2"):
                conv = nn.Conv2d(p_channels, width // 2, 1, bias=False)
                self.add_module(path, nn.Sequential(OrderedDict(conv=conv)))
            self.final_path_bn = nn.BatchNorm2d(width, eps=0.001)
        for i, pair in enumerate(pairs):
            for side, (operation, source) in zip(("left", "right"), pair, strict=True):
                if operation is not None:
                    raw = source == "p" and p == "same"  # the stem's separables read its input, not a projection
                    module = self._operation(operation, p_channels if raw else width, width, shifted)
                    self.add_module(f"comb_iter_{i}_{side}", module)
        self.out_channels = width * (6 if pairs is _NORMAL else 4)

    @staticmethod
    def _project(in_channels: int, out_channels: int) -> nn.Sequential:
        return nn.Sequential(
            OrderedDict(
                relu=nn.ReLU(),
                conv=nn.Conv2d(in_channels, out_channels, 1, bias=False),
                bn=nn.BatchNorm2d(out_channels, eps=0.001),
            )
        )

    @staticmethod
    def _operation(name: str, in_channels: int, width: int, shifted: bool) -> nn.Module:
        kind, _, strided = name.partition("/")
        shifted = shifted and bool(strided)
        stride = 2 if strided else 1
        if kind.startswith("sep"):
            middle = width if in_channels != width else None
            return _Separable(in_channels, width, int(kind[3:]), stride, shifted=shifted, middle=middle)
        if kind == "max":
            pool: nn.Module = nn.MaxPool2d(3, stride, padding=1)
        else:
            pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
        return _Shifted(pool) if shifted else pool

    def _previous(self, prev: Tensor) -> Tensor:
        if self.p == "same":
            return prev
        if self.p == "project":
            return self.conv_prev_1x1(prev)
        prev = F.relu(prev)
        later = F.pad(prev, (-1, 1, -1, 1))  # starts one pixel later
        return self.final_path_bn(torch.cat((self.path_1(prev[:, :, ::2, ::2]), self.path_2(later[:, :, ::2, ::2])), 1))

    def forward(self, x: Tensor, prev: Tensor) -> Tensor:
        state: dict[str | int, Tensor] = {"h": self.conv_1x1(x), "p": self._previous(prev)}
        for i, pair in enumerate(self.pairs):
            terms = []
            for side, (operation, source) in zip(("left", "right"), pair, strict=True):
                value = state[source]
                terms.append(value if operation is None else getattr(self, f"comb_iter_{i}_{side}")(value))
            state[i] = terms[0] + terms[1]
        kept: tuple[str | int, ...] = ("p", 0, 1, 2, 3, 4) if self.pairs is _NORMAL else (1, 2, 3, 4)
        return torch.cat([state[k] for k in kept], dim=1)


class NASNetMobile(nn.Module):
    """Stem, then three times four normal cells with a reduction cell between (figure 2); 24 * 44 = 1056 channels."""

    def __init__(self, filters: int = 44, stem: int = 32):
        super().__init__()
        self.conv0 = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(3, stem, 3, stride=2, bias=False), bn=nn.BatchNorm2d(stem, eps=0.001))
        )
        self.cell_stem_0 = NASNetCell(_REDUCTION, stem, stem, filters // 4, p="same", shifted=False)
        self.cell_stem_1 = NASNetCell(_REDUCTION, filters, stem, filters // 2, p="halve")
        last, before = self.cell_stem_1.out_channels, self.cell_stem_0.out_channels  # channels
        for group in range(3):
            width = filters * 2**group
            if group > 0:
                cell = NASNetCell(_REDUCTION, last, before, width, p="project")
                self.add_module(f"reduction_cell_{group - 1}", cell)
                last, before = cell.out_channels, last
            for i in range(4):
                cell = NASNetCell(_NORMAL, last, before, width, p="halve" if i == 0 else "project")
                self.add_module(f"cell_{6 * group + i}", cell)  # numbered as in NASNet-A Large, which has six each
                last, before = cell.out_channels, last
        kaiming_fan_out(self)

    def forward(self, images: Tensor) -> Tensor:
        stem = self.conv0(images)
        before = self.cell_stem_0(stem, stem)
        last = self.cell_stem_1(before, stem)
        for name, cell in self.named_children():
            if name.startswith(("cell_", "reduction")) and not name.startswith("cell_stem"):
                last, before = cell(last, before), last
        return F.relu(last)  # (B, 1056, H/32, W/32)
