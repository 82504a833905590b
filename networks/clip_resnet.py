"""The ResNet of CLIP: Radford et al. Learning Transferable Visual Models From Natural Language Supervision. ICML 2021.

Section 2.4: ResNet-D with anti-aliased strides and, in place of the average over the map, attention. Weight names of
openai/CLIP, clip/model.py, as in Syliz517/CLIP-ReID at eb1898b, model/clip/model.py.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.resnets import kaiming_fan_out


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to four times the width, none with a stride: with stride 2 the map is averaged in front of the
    last convolution, and in front of the shortcut's."""

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(in_channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(stride)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        shortcut = {
            "-1": nn.AvgPool2d(stride),
            "0": nn.Conv2d(in_channels, 4 * width, 1, bias=False),
            "1": nn.BatchNorm2d(4 * width),
        }
        same = stride == 1 and in_channels == 4 * width
        self.downsample = nn.Identity() if same else nn.Sequential(OrderedDict(shortcut))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(self.avgpool(y)))
        return F.relu(y + self.downsample(x))


class ClipResNet(nn.Sequential):
    """Images (B, 3, H, W) -> the map (B, 2048, H / 32, W / 32) that the attention pools; of 16 in place of 32 without
    the stride of `layer4`, as in CLIP-ReID."""

    def __init__(self, blocks: Sequence[int] = (3, 4, 6, 3), width: int = 64):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = (3, width // 2, width // 2, width)
        for i in range(3):  # the stem
            stride = 2 if i == 0 else 1
            layers[f"conv{i + 1}"] = nn.Conv2d(channels[i], channels[i + 1], 3, stride, padding=1, bias=False)
            layers[f"bn{i + 1}"] = nn.BatchNorm2d(channels[i + 1])
            layers[f"relu{i + 1}"] = nn.ReLU(inplace=True)
        layers["avgpool"] = nn.AvgPool2d(2)
        last = width
        for stage, count in enumerate(blocks):
            wide = width * 2**stage
            units = [Bottleneck(last, wide, 1 if stage == 0 else 2)]
            units += [Bottleneck(4 * wide, wide, 1) for _ in range(count - 1)]
            layers[f"layer{stage + 1}"], last = nn.Sequential(*units), 4 * wide
        super().__init__(layers)
        kaiming_fan_out(self)


class AttentionPool(nn.Module):
    """Attention of the mean over all places of a map: (B, C, h, w) -> (B, dim), heads of 64 channels.

    grid_size: (h, w), for a position embedding of each place. The source lets every place ask and keeps the mean's
    answer; here only the mean asks.
    """

    def __init__(self, channels: int, dim: int, grid_size: tuple[int, int]):
        super().__init__()
        self.grid_size, self.heads, self.dim = grid_size, channels // 64, dim
        tokens = 1 + grid_size[0] * grid_size[1]
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, channels) / channels**0.5)
        self.q_proj, self.k_proj = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.v_proj, self.c_proj = nn.Linear(channels, channels), nn.Linear(channels, dim)
        for linear in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(linear.weight, std=channels**-0.5)

    def forward(self, feature_map: Tensor) -> Tensor:
        if tuple(feature_map.shape[2:]) != self.grid_size:
            raise ValueError(
                f"the attention over the map was built for {self.grid_size[0]}x{self.grid_size[1]} places, these "
                f"images give {feature_map.shape[2]}x{feature_map.shape[3]}; pass their image_size."
            )
        x = feature_map.flatten(2).transpose(1, 2)  # (B, h*w, C)
        x = torch.cat((x.mean(dim=1, keepdim=True), x), dim=1) + self.pos_embed
        parts = (self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x))
        query, key, value = (part.unflatten(2, (self.heads, 64)).transpose(1, 2) for part in parts)
        answer = F.scaled_dot_product_attention(query, key, value)  # (B, heads, 1, 64)
        return self.c_proj(answer.transpose(1, 2).flatten(1))
