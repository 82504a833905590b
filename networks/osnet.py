"""OSNet: Zhou, Yang, Cavallaro, Xiang. Omni-Scale Feature Learning for Person Re-Identification. ICCV 2019.

OSNet-AIN: the same authors. Learning Generalisable Omni-Scale Representations. TPAMI 2021.
Weight names of KaiyangZhou/deep-person-reid, torchreid/models/osnet.py and osnet_ain.py at f8cd150.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.blocks import global_average, order_of
from networks.resnets import kaiming_fan_out


class ConvNorm(nn.Module):
    """Convolution, normalisation ("batch", "instance" or None), activation (a function or None)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        norm: str | None = "batch",
        act: Callable[[Tensor], Tensor] | None = torch.relu_,
    ):
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        if norm is not None:
            self.bn = nn.BatchNorm2d(out_channels) if norm == "batch" else _instance_norm(out_channels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if hasattr(self, "bn"):
            x = self.bn(x)
        return x if self.act is None else self.act(x)


class LiteConv3x3(nn.Module):
    """Lite 3x3 (figure 3b): pointwise, then depthwise convolution, batch norm, ReLU."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv2(self.conv1(x))), inplace=True)


# Joining and splitting the streams costs memory traffic: it is 5 % faster with AVX512, 5 % slower with AVX2.
FEWER_CALLS_PAY = "AVX512" in torch.backends.cpu.get_cpu_capability()


def side_by_side(layers: list[LiteConv3x3], x: Tensor) -> Tensor:
    """What k layers make of (B, k C, h, w), layer i of the i-th C channels; or each of the same (B, C, h, w).

    The layers' own numbers in fewer calls: what a CPU does before a call computes anything is a quarter of a training
    step of OSNet x0.25 with a batch of 64 on a CPU with AVX512 (benchmarks/README.md).
    """
    first, norms = layers[0], [layer.bn for layer in layers]
    x = F.conv2d(x, torch.cat([m.conv1.weight for m in layers]), groups=x.shape[1] // first.conv1.in_channels)
    x = F.conv2d(x, torch.cat([m.conv2.weight for m in layers]), padding=1, groups=x.shape[1])
    names = ("weight", "bias", "running_mean", "running_var")
    joint = {name: torch.cat([getattr(bn, name) for bn in norms]) for name in names}
    x = torch.func.functional_call(first.bn, joint, x)  # whatever kind of batch norm it is
    if first.bn.training:
        for name in names[2:]:
            for bn, new in zip(norms, joint[name].chunk(len(norms)), strict=True):
                getattr(bn, name).copy_(new)
        for bn in norms[1:]:
            if bn.num_batches_tracked is not None:
                bn.num_batches_tracked.add_(1)
    return F.relu(x, inplace=True)


class AggregationGate(nn.Module):
    """Channel-wise weights in (0, 1) from globally pooled streams, (B, C, 1, 1); shared by all (section 3.2).

    fc1 and fc2 are convolutions by name alone: a CPU convolves a map of one position three times as long as it
    multiplies a matrix, and casts it to bfloat16 as long again (benchmarks/README.md).
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, pooled: Tensor) -> Tensor:  # (B, C, 1, 1)
        with torch.autocast("cpu", enabled=False):  # a GPU's stays as it is
            x = pooled.flatten(1)
            x = x.to(self.fc1.weight.dtype) if x.device.type == "cpu" else x
            for fc, act in ((self.fc1, torch.relu), (self.fc2, torch.sigmoid)):
                x = act(F.linear(x, fc.weight.flatten(1), fc.bias))
            return x.to(pooled.dtype)[:, :, None, None]


class OSBlock(nn.Module):
    """Omni-scale residual block (figure 4): T = 4 streams, stream t of t Lite 3x3 (receptive field 2t + 1).

    norm: None, "out" (instance norm after the residual sum: IBN) or "in" (inside the residual branch: AIN).
    ain_names: streams are named conv2.t as in OSNet-AIN instead of conv2a to conv2d.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: str | None = None, ain_names: bool = False):
        super().__init__()
        middle = out_channels // 4
        self.conv1 = ConvNorm(in_channels, middle)
        if ain_names:
            self.conv2 = nn.ModuleList(_Stream(middle, t) for t in (1, 2, 3, 4))
        else:
            self.conv2a = LiteConv3x3(middle)
            self.conv2b = nn.Sequential(*(LiteConv3x3(middle) for _ in range(2)))
            self.conv2c = nn.Sequential(*(LiteConv3x3(middle) for _ in range(3)))
            self.conv2d = nn.Sequential(*(LiteConv3x3(middle) for _ in range(4)))
        self.gate = AggregationGate(middle)
        self.conv3 = ConvNorm(middle, out_channels, act=None, norm=None if norm == "in" else "batch")
        if in_channels != out_channels:
            self.downsample = ConvNorm(in_channels, out_channels, act=None)
        if norm is not None:
            self.IN = _instance_norm(out_channels)
        self.norm = norm

    def streams(self, x: Tensor) -> list[Tensor]:
        """x^1 to x^T, each (B, C/4, h, w)."""
        if hasattr(self, "conv2"):
            ain: Any = self.conv2
            layers = [list(stream.layers) for stream in ain]
        else:
            layers = [[self.conv2a], list(self.conv2b), list(self.conv2c), list(self.conv2d)]
        exchanges = type(layers[0][0].bn) is not nn.BatchNorm2d  # --sync_bn: each call waits for the other processes
        if not (self.training and x.device.type == "cpu" and (FEWER_CALLS_PAY or exchanges)):
            return [functools.reduce(lambda y, layer: layer(y), stream, x) for stream in layers]
        done, width, order = [], x.shape[1], order_of(x)
        for depth in range(len(layers) - 1):
            x = side_by_side([stream[depth] for stream in layers[depth:]], x)
            x_t, x = (each.contiguous(memory_format=order) for each in x.split((width, x.shape[1] - width), dim=1))
            done.append(x_t)  # the first of these streams ends here
        return [*done, layers[-1][-1](x)]

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        x = self.conv1(x)
        streams = self.streams(x)
        pooled = torch.cat([global_average(x_t, keepdim=True) for x_t in streams])  # (T B, C/4, 1, 1)
        gates = self.gate(pooled).unflatten(0, (len(streams), -1)).unbind()  # no chunk: an export keeps B free
        x = streams[0] * gates[0]
        for x_t, gate in zip(streams[1:], gates[1:], strict=True):
            x += x_t * gate  # Eq. (3): sum_t G(x^t) * x^t (addcmul would be slower: it broadcasts element by element)
        x = self.conv3(x)
        if self.norm == "in":
            x = self.IN(x)
        x += shortcut  # Eq. (1)
        if self.norm == "out":
            x = self.IN(x)
        return F.relu(x, inplace=True)


class _Stream(nn.Module):
    """`depth` Lite 3x3 in a row, under the weight names of OSNet-AIN."""

    def __init__(self, channels: int, depth: int):
        super().__init__()
        self.layers = nn.Sequential(*(LiteConv3x3(channels) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class OSNet(nn.Module):
    """OSNet up to conv5 (table 1): stride 16, width channels[-1]. The 512-d fc after pooling belongs to the head.

    channels: widths of conv1 to conv4. norms: per stage conv2 to conv4, the `norm` of its two blocks.
    stem: normalisation of conv1. ain_names: layout of the released OSNet-AIN (pool2, pool3, conv2.t).
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        norms: Sequence[tuple[str | None, str | None]] = ((None, None),) * 3,
        stem: str = "batch",
        ain_names: bool = False,
    ):
        super().__init__()
        self.conv1 = ConvNorm(3, channels[0], 7, stride=2, norm=stem)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for stage, pair in enumerate(norms):
            width_in, width = channels[stage], channels[stage + 1]
            blocks: list[nn.Module] = [
                OSBlock(width_in, width, norm=pair[0], ain_names=ain_names),
                OSBlock(width, width, norm=pair[1], ain_names=ain_names),
            ]
            halve = nn.Sequential(ConvNorm(width, width), nn.AvgPool2d(2, stride=2)) if stage < 2 else None
            if halve is not None and not ain_names:  # the transition is part of the stage in the first release
                blocks.append(halve)
            self.add_module(f"conv{stage + 2}", nn.Sequential(*blocks))
            if halve is not None and ain_names:
                self.add_module(f"pool{stage + 2}", halve)
        self.conv5 = ConvNorm(channels[3], channels[3])
        kaiming_fan_out(self)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W)
        x = images
        for stage in self.children():
            x = stage(x)
        return x  # (B, channels[3], H/16, W/16)


def _instance_norm(channels: int) -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(channels, affine=True)


def create_osnet(width: float, **options: Any) -> OSNet:
    """OSNet with `width` times the channels of table 1."""
    return OSNet([int(round(c * width)) for c in (64, 256, 384, 512)], **options)
