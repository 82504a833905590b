"""What heads, and trunks, are made of: averages, activations, pooling, BN neck, classifiers, reductions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import resnets


def order_of(x: Tensor) -> torch.memory_format:
    """Channels-last or NCHW: the order of a map (B, C, h, w), or of the one that it is a slice of."""
    return torch.channels_last if x.stride(1) == 1 else torch.contiguous_format


class _AverageOnCPU(torch.autograd.Function):
    """`global_average` where a CPU learns.

    torch's mean of a bfloat16 map is that of a float32 copy, and the gradient that it hands back is in NCHW order: ten
    times as long to add to one in channels-last order (benchmarks/README.md).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # (B, C, h, w) -> (B, C, 1, 1)
        ctx.shape, ctx.order = x.shape, order_of(x)
        return x.sum(dim=(2, 3), keepdim=True) / x.shape[2:].numel()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return (grads[0] / ctx.shape[2:].numel()).expand(ctx.shape).contiguous(memory_format=ctx.order)


def global_average(x: Tensor, keepdim: bool = False) -> Tensor:
    """(B, C, h, w) -> (B, C), or (B, C, 1, 1) with `keepdim`: the mean over all positions."""
    if x.device.type == "cpu" and x.requires_grad and x.dtype != torch.float16:  # whose largest sum is 65,504
        mean: Tensor = _AverageOnCPU.apply(x)
        return mean if keepdim else mean.flatten(1)
    return x.mean(dim=(2, 3), keepdim=keepdim)


class AvgPool(nn.Module):
    """Global average."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C); so are the other three."""
        return global_average(x)


class MaxPool(nn.Module):
    """Global maximum."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3))


class AvgMaxPool(nn.Module):
    """Sum of global average and maximum."""

    def forward(self, x: Tensor) -> Tensor:
        return global_average(x) + x.amax(dim=(2, 3))


class GeM(nn.Module):
    """Generalised mean (mean x^p)^(1/p), p learned or not (Radenovic et al., TPAMI 2019, Eq. (3)); p = 1 averages."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6, learned: bool = True):
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), p), requires_grad=learned)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return global_average(x.clamp(min=self.eps).pow(self.p)).pow(1 / self.p)


class AddedGeM(GeM):
    """GeM of mangye16/Cross-Modal-Re-ID-baseline (model.py at e817a26): 1e-12 is added to the mean, nothing is cut."""

    def forward(self, x: Tensor) -> Tensor:
        return (global_average(x.pow(self.p)) + 1e-12).pow(1 / self.p)


IN_PLACE = {
    nn.ReLU6: F.relu6,
    nn.Hardswish: F.hardswish,
    nn.Hardsigmoid: F.hardsigmoid,
    nn.SiLU: F.silu,
    nn.Mish: F.mish,
}


def in_place(act: Callable[..., Tensor], x: Tensor) -> Tensor:
    """act(x), in place unless x learns: the gradient of `IN_PLACE` needs the input, which autograd would copy first."""
    return act(x, inplace=not x.requires_grad)


def without_copies(net: nn.Module) -> None:
    """Has the activations of `net` that ask to be computed `in_place` do so where it saves something."""
    for module in net.modules():
        act = IN_PLACE.get(type(module))
        if act is not None and module.inplace:
            layer: Any = module  # its method is replaced, in this one layer
            layer.forward = partial(in_place, act)


POOLINGS: dict[str, Callable[[], nn.Module]] = {
    "avg": AvgPool,
    "max": MaxPool,
    "avg+max": AvgMaxPool,
    "gem": GeM,
    "gem_fixed": partial(GeM, learned=False),
}


def bn_neck(dim: int) -> nn.BatchNorm1d:
    """BNNeck (Luo et al. 2019, section 3.5): batch norm without shift, so that the ID loss sees a centred feature."""
    neck = nn.BatchNorm1d(dim)
    neck.bias.requires_grad_(False)
    return neck


def drawn(linear: nn.Linear, std: float) -> nn.Linear:
    """`linear` with weights N(0, std^2) and bias 0; std 0: as torch draws both, uniform within 1 / sqrt(inputs)."""
    if std:
        nn.init.normal_(linear.weight, std=std)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
    return linear


def linear_classifier(dim: int, num_pids: int, *, bias: bool, std: float) -> nn.Linear | None:
    """Identity classifier, its weights as `drawn` with `std`; None for num_pids = 0."""
    if num_pids < 0:
        raise ValueError(f"num_pids is {num_pids}; expected the number of training identities, or 0 for none.")
    if num_pids == 0:
        return None
    return drawn(nn.Linear(dim, num_pids, bias=bias), std)


def linear_classifiers(count: int, dim: int, num_pids: int, *, bias: bool = True, std: float = 0.001) -> nn.ModuleList:
    """`count` identity classifiers, or an empty list for num_pids = 0."""
    made = (linear_classifier(dim, num_pids, bias=bias, std=std) for _ in range(count))
    return nn.ModuleList(c for c in made if c is not None)


def reduction(dims: Sequence[int], std: float = 0.01) -> nn.Sequential:
    """Linear, batch norm, ReLU per step of `dims`, (B, dims[0]) -> (B, dims[-1]): torchreid's `fc`.

    See torchreid/models/osnet.py at f8cd150.
    """
    layers: list[nn.Module] = []
    for dim_in, dim_out in zip(dims[:-1], dims[1:], strict=True):
        layers += [drawn(nn.Linear(dim_in, dim_out), std), nn.BatchNorm1d(dim_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def conv_reduction(dim_in: int, dim_out: int, *, bias: bool) -> nn.Sequential:
    """(B, dim_in, h, w) -> (B, dim_out, h, w): 1x1 convolution, batch norm, ReLU.

    The convolution with a bias begins as torch draws it (beyond-part-models, bpm/model/PCBModel.py at 1686e88; Pyramid,
    src/models/pcb_plus_dropout_pyramid.py at 63ffd64), the one without with Kaiming's fan-out (PCB_RPP_for_reID,
    reid/models/resnet.py at e29cf54): for 2,048 -> 256 a std of 0.013 and of 0.088.
    """
    conv = nn.Conv2d(dim_in, dim_out, 1, bias=bias)
    if not bias:
        resnets.kaiming_fan_out(conv)
    return nn.Sequential(conv, nn.BatchNorm2d(dim_out), nn.ReLU(inplace=True))
