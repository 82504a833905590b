"""What is done to any ResNet, and those of re-ID that no library has.

ResNet-IBN: Pan, Luo, Shi, Tang. Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net. ECCV 2018,
figure 3. Released code and weights: XingangPan/IBN-Net, release v1.0.
Non-local ResNet of AGW and fast-reid: mangye16/ReID-Survey, modeling/backbones/resnet_nl.py at 38f5912.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

# Where torchvision's classification networks stop being convolutional.
HEADS = ("avgpool", "dropout", "fc", "classifier", "head", "heads", "flatten")


def remove_stride(stage: nn.Module | None, name: str) -> None:
    """Stride 2 -> 1 in a residual stage, wherever its first block has it (conv1, conv2, shortcut); None: no stage.

    A ResNeSt's further blocks are dilated then (fast-reid c9bc3ce, fastreid/modeling/backbones/resnest.py, line 170).
    """
    strided = (
        []
        if stage is None
        else [m for m in stage.modules() if isinstance(m, nn.Conv2d | nn.AvgPool2d) and m.stride in (2, (2, 2))]
    )
    if not strided:
        raise ValueError(
            f"Backbone '{name}' has no fourth residual stage with stride 2, so last_stride=1 does not "
            "apply to it. Use a ResNet-like backbone, or last_stride=2."
        )
    for module in strided:
        if isinstance(module, nn.AvgPool2d) and module.kernel_size == module.stride:
            module.kernel_size = module.stride = 1  # ResNet-D: the shortcut averages 2x2 before its 1x1 convolution
        else:
            module.stride = (1, 1)
    for block in list(stage.children())[1:] if stage else ():
        attention: Any = getattr(block, "conv2", None)
        if hasattr(attention, "rsoftmax"):  # ResNeSt
            attention.conv.dilation = attention.conv.padding = (2, 2)


def kaiming_fan_out(net: nn.Module) -> None:
    """Convolutions N(0, 2/fan_out), biases 0: what torchreid and IBN-Net train from scratch with."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class IBN(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the rest (section 3.2, IBN-a)."""

    def __init__(self, channels: int):
        super().__init__()
        self.split = (channels // 2, channels - channels // 2)
        self.IN = nn.InstanceNorm2d(self.split[0], affine=True)
        self.BN = nn.BatchNorm2d(self.split[1])

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w)
        first, second = x.split(self.split, dim=1)
        return torch.cat((self.IN(first), self.BN(second)), dim=1)


class _BottleneckIN(Bottleneck):
    """Bottleneck with instance norm between the addition and the last ReLU (IBN-b)."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.IN = nn.InstanceNorm2d(self.conv3.out_channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.IN(self.bn3(self.conv3(x)) + shortcut))


def resnet_ibn_a(net: Any) -> None:
    """bn1 of every block of the first three stages; the fourth keeps batch norm, which holds the semantics."""
    for stage in (net.layer1, net.layer2, net.layer3):
        for block in stage:
            block.bn1 = IBN(block.bn1.num_features)


def resnet_ibn_b(net: Any) -> None:
    """Instance norm in the stem and at the end of the first two stages."""
    net.bn1 = nn.InstanceNorm2d(64, affine=True)
    for stage in (net.layer1, net.layer2):
        last = stage[-1]
        stage[-1] = _BottleneckIN(last.conv1.in_channels, last.conv1.out_channels)


def create_resnet_ibn(depth: int, change: Callable[[nn.Module], None]) -> nn.Sequential:
    """A ResNet of torchvision without its head, its norms replaced by `change` (`resnet_ibn_a`, `resnet_ibn_b`)."""
    whole = torchvision.models.get_model(f"resnet{depth}", weights=None)
    change(whole)
    kaiming_fan_out(whole)  # the replaced blocks too; as the released code
    return nn.Sequential(OrderedDict((k, m) for k, m in whole.named_children() if k not in HEADS))


class NonLocal(nn.Module):
    """z = W(softmax-free attention over all positions) + x (Wang et al., CVPR 2018, dot product form, Eq. 4 and 6).

    The released code computes its inner width as `reduc_ratio // reduc_ratio`: one channel, where the paper has half.
    Its weights need that, so it is kept. W ends in a batch norm at 0, so that training starts from the plain ResNet.
    """

    def __init__(self, channels: int, inner: int = 1):
        super().__init__()
        self.g = nn.Conv2d(channels, inner, 1)
        norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(norm.weight)
        self.W = nn.Sequential(nn.Conv2d(inner, channels, 1), norm)
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w)
        g, theta, phi = (f(x).flatten(2) for f in (self.g, self.theta, self.phi))  # (B, inner, N)
        attention = theta.transpose(1, 2) @ phi / g.shape[2]  # (B, N, N)
        y = (attention @ g.transpose(1, 2)).transpose(1, 2)  # (B, inner, N)
        return self.W(y.unflatten(2, x.shape[2:])) + x


class NonLocalResNet(nn.Module):
    """A ResNet with non-local blocks after the last counts[i] blocks of stage i + 1; weight names NL_1 to NL_4.

    out_channels: of its last map.
    """

    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module

    def __init__(self, net: nn.Module, out_channels: int, counts: Sequence[int]):
        super().__init__()
        for name, module in net.named_children():
            self.add_module(name, module)
        for i, count in enumerate(counts, start=1):
            stage = getattr(net, f"layer{i}")
            last = [m for m in stage.modules() if isinstance(m, nn.Conv2d)][-1]
            added = nn.ModuleList(NonLocal(last.out_channels) for _ in range(count))
            for unreached in added[: max(0, count - len(stage))]:  # of a ResNet-18: several processes would wait for
                unreached.requires_grad_(False)  # gradients that never come
            self.add_module(f"NL_{i}", added)
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(self.maxpool(self.relu(self.bn1(self.conv1(images)))))

    def stages(self, x: Tensor) -> Tensor:
        """Everything behind the stem: (B, 64, H / 4, W / 4) -> (B, C, h, w)."""
        for i in (1, 2, 3, 4):
            stage, added = getattr(self, f"layer{i}"), getattr(self, f"NL_{i}")
            for j, block in enumerate(stage, start=len(added) - len(stage)):
                x = block(x)
                if j >= 0:
                    x = added[j](x)
        return x
