"""What a CPU does not compute in bfloat16: convolutions for which oneDNN has no fast kernel, or a wrong one."""

import functools
from typing import Any

import torch
from torch import Tensor, nn


def keep_in_float32(net: nn.Module) -> None:
    """Keep some of `net`'s convolutions out of bfloat16 autocast on a CPU.

    - Depthwise ones with a stride or a kernel above 3x3. oneDNN has no bfloat16 kernel for their gradients: with a
      stride the one for the input takes 26 to 380 times as long as in float32 (torch 2.15, AVX512-BF16), and
      MobileNetV3-Small as a whole three times as long. What pads first, as timm's Conv2dSame in EfficientNet-Lite, is
      one of them.
    - Those with a horizontal stride, where the result is one column wide, as in the last stage of a ResNet on images 32
      wide. With AMX its kernels read memory that nobody wrote: the result, or the gradient of the weights, is NaN or
      any other number (torch 2.14.1, oneDNN 3.12.0; 106 of 2,688 calls with kernels from 1x1 to 7x7, none of them with
      two columns or more). Such layers are too small for their time to count, so it is done on every CPU.
    """
    for conv in net.modules():
        if isinstance(conv, nn.Conv2d):
            depthwise = conv.groups == conv.in_channels > 1
            slow = depthwise and (max(conv.stride) > 1 or max(conv.kernel_size) > 3)
            if slow or conv.stride[1] > 1:
                layer: Any = conv  # its method is replaced, in this one layer
                layer.forward = functools.partial(_in_float32 if slow else _narrow_in_float32, conv)


def _in_float32(conv: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return type(conv).forward(conv, x.float()).to(x.dtype)


def _narrow_in_float32(conv: nn.Conv2d, x: Tensor) -> Tensor:
    width, most = x.shape[-1], conv.stride[1]  # as wide as it may be for one column, where the layer pads as it needs
    if type(conv) is nn.Conv2d and not isinstance(conv.padding, str):
        most += conv.dilation[1] * (conv.kernel_size[1] - 1) - 2 * conv.padding[1]
    return _in_float32(conv, x) if width <= most else type(conv).forward(conv, x)
