"""The Swin transformer of SOLIDER (Chen et al., CVPR 2023), by the names of its released weights.

Written here because timm's and torchvision's are other networks wherever a map is no multiple of the window: they roll,
then pad, and do not shift within a single window (384 x 128 images end in a map of 12 x 4 under windows of 7 x 7).
Here, as in tinyvision/SOLIDER-REID (model/backbones/swin_transformer.py at 8c08e1c), each block pads, then rolls, and
shifts on every map. Maps are (B, h, w, C) inside.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

WINDOW = 7
SHIFT = WINDOW // 2


def padded(x: Tensor, multiple: int) -> Tensor:
    """A map (B, h, w, C) with zeros below and to the right, so that both sides are multiples."""
    height, width = x.shape[1:3]
    return F.pad(x, (0, 0, 0, -width % multiple, 0, -height % multiple))


def windows_of(x: Tensor) -> Tensor:
    """(B, h, w, C), both sides multiples of the window -> (B, windows, positions, C), in reading order."""
    tiles = x.unflatten(1, (-1, WINDOW)).unflatten(3, (-1, WINDOW))  # (B, rows, 7, columns, 7, C)
    return tiles.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def map_of(windows: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `windows_of`, of a map of that size."""
    tiles = windows.unflatten(1, (height // WINDOW, width // WINDOW)).unflatten(3, (WINDOW, WINDOW))
    return tiles.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def rolled_mask(height: int, width: int, device: torch.device) -> Tensor:
    """What is added to the attention within the windows of a rolled map: (windows, 1, positions, positions).

    -100 between positions that rolling brought together from the map's opposite ends, 0 elsewhere.
    """
    sides = (torch.arange(size, device=device) for size in (height, width))
    rows, columns = ((side >= len(side) - WINDOW).long() + (side >= len(side) - SHIFT).long() for side in sides)
    region = windows_of((3 * rows[:, None] + columns)[None, :, :, None]).squeeze(0)  # (windows, positions, 1)
    return torch.where(region == region.transpose(1, 2), 0.0, -100.0)[:, None]


class WindowAttention(nn.Module):
    """Self-attention within each window, with a learned bias for each offset between two positions."""

    index: Tensor

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        at = torch.cartesian_prod(torch.arange(WINDOW), torch.arange(WINDOW))  # (positions, 2)
        offset = at[:, None] - at[None] + WINDOW - 1
        self.register_buffer("index", (2 * WINDOW - 1) * offset[..., 0] + offset[..., 1], persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, windows, positions, C) and a mask as `rolled_mask` makes it -> the same shape."""
        q, k, v = self.qkv(x).unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.index].permute(2, 0, 1)  # (heads, positions, positions)
        bias = (bias if mask is None else bias + mask).to(q.dtype)
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(2, 3).flatten(3))


class ShiftedWindows(nn.Module):
    """Attention within windows; with `shift`, within those that begin half a window further down and right."""

    def __init__(self, dim: int, heads: int, shift: bool):
        super().__init__()
        self.shift = SHIFT if shift else 0
        self.w_msa = WindowAttention(dim, heads)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> the same shape."""
        height, width = x.shape[1:3]
        x = padded(x, WINDOW)
        rows, columns = x.shape[1:3]
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
            mask = rolled_mask(rows, columns, x.device)
        x = map_of(self.w_msa(windows_of(x), mask), rows, columns)
        return x.roll((self.shift, self.shift), dims=(1, 2))[:, :height, :width]


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU()), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class SwinBlock(nn.Module):
    """Attention and feed-forward, each behind its norm and beside the identity."""

    def __init__(self, dim: int, heads: int, shift: bool, drop_path: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = ShiftedWindows(dim, heads, shift)
        self.ffn = FeedForward(dim)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Images (B, 3, H, W) -> (B, H / 4, W / 4, C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.projection = nn.Conv2d(3, dim, 4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        images = F.pad(images, (0, -width % 4, 0, -height % 4))
        return self.norm(self.projection(images).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """(B, h, w, C) -> (B, h / 2, w / 2, 2 C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_unshuffle(padded(x, 2).permute(0, 3, 1, 2), 2)  # channel by channel, each 2 x 2 in reading order
        return self.reduction(self.norm(x.permute(0, 2, 3, 1)))


class SwinStage(nn.Module):
    """Blocks, every second shifted."""

    def __init__(self, dim: int, heads: int, drop_paths: Sequence[float], last: bool):
        super().__init__()
        self.blocks = nn.Sequential(*(SwinBlock(dim, heads, i % 2 == 1, p) for i, p in enumerate(drop_paths)))
        self.downsample = nn.Identity() if last else PatchMerging(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.blocks(x))


class Swin(nn.Module):
    """SOLIDER's trunk: images (B, 3, H, W) -> (B, 8 dim, H / 32, W / 32), sides rounded up.

    Behind each stage but the last x becomes x softplus(W(w, 1 - w)) + B(w, 1 - w): with w = `semantic_weight` near 1
    features tell the parts of a body apart, near 0 the people. W and B are learned in pre-training and never again.
    (The released network weighs behind its last stage too, where nothing reads the result, and has a norm behind each
    stage, of which only the last is used: `weights.formats.UNUSED`.)
    drop_path: probability that the last block is left out while training, falling to 0 at the first.
    """

    def __init__(
        self,
        dim: int,
        depths: Sequence[int],
        heads: Sequence[int],
        semantic_weight: float = 0.2,
        drop_path: float = 0.1,
    ):
        super().__init__()
        self.patch_embed = PatchEmbed(dim)
        probabilities = torch.linspace(0, drop_path, sum(depths), device="cpu").split(tuple(depths))
        widths = [dim * 2**i for i in range(len(depths))]
        self.stages = nn.ModuleList(
            SwinStage(width, n, p.tolist(), width == widths[-1])
            for width, n, p in zip(widths, heads, probabilities, strict=True)
        )
        self.add_module(f"norm{len(depths) - 1}", nn.LayerNorm(widths[-1]))
        self.semantic_embed_w = nn.ModuleList(nn.Linear(2, width) for width in widths[1:])
        self.semantic_embed_b = nn.ModuleList(nn.Linear(2, width) for width in widths[1:])
        self.semantic_weight = semantic_weight
        for module in self.modules():
            if isinstance(module, nn.Linear):  # swin_transformer.py, init_weights
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in (self.semantic_embed_w, self.semantic_embed_b):
            module.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)
        weights = x.new_tensor([self.semantic_weight, 1 - self.semantic_weight])
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i < len(self.semantic_embed_w):
                x = x * F.softplus(self.semantic_embed_w[i](weights)) + self.semantic_embed_b[i](weights)
        return getattr(self, f"norm{len(self.stages) - 1}")(x).permute(0, 3, 1, 2)


# name -> constructor; swin_transformer.py at 8c08e1c, its last lines
SWINS = {
    "solider_swin_tiny": partial(Swin, 96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "solider_swin_small": partial(Swin, 96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "solider_swin_base": partial(Swin, 128, (2, 2, 18, 2), (4, 8, 16, 32)),
}
