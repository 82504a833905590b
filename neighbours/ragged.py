"""Rows of different lengths in one array."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def row_starts(count):
    """Exclusive prefix sums with the total at the end: row starts from row lengths."""
    return F.pad(count.cumsum(0), (1, 0))


def repeated(x, times):
    """x[0] times[0] times, x[1] times[1] times, ... (NumPy is several times faster at it than torch on the CPU)."""
    if x.device.type == "cpu":
        return torch.from_numpy(np.repeat(x.numpy(), times.numpy()))
    return torch.repeat_interleave(x, times)


def runs_from(first, length):
    """first[0], first[0] + 1, ... (length[0] of them), first[1], ..."""
    shift = repeated(first - row_starts(length)[:-1], length)
    return shift.add_(torch.arange(len(shift), device=shift.device))


def argsort(key):
    """NumPy sorts with vector instructions, several times faster than torch on the CPU."""
    return torch.from_numpy(np.argsort(key.numpy())) if key.device.type == "cpu" else key.argsort()
