"""Distances that losses and tests compare by: euclidean, and AlignedReID's shortest path through local features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """`x` as float32 if it is float16 or bfloat16, else unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def euclidean_distance(x: Tensor, y: Tensor) -> Tensor:
    """All euclidean distances between the rows of x (..., M, D) and y (..., N, D) -> (..., M, N).

    Both are first shifted by the mean of y: distances do not change, but ||x||^2 + ||y||^2 - 2 x.y cancels far less,
    so that a collapsing embedding (all rows alike, far from the origin) still has usable distances.
    The gradient of a distance that is zero is zero.
    """
    with torch.autocast(x.device.type, enabled=False):
        itself, x, y = x is y, full_precision(x), full_precision(y)
        shift = y.detach().mean(-2, keepdim=True)  # (..., 1, D)
        y = y - shift
        x = y if itself else x - shift
        yy = y.square().sum(-1, keepdim=True)  # (..., N, 1)
        xx = yy if itself else x.square().sum(-1, keepdim=True)  # (..., M, 1)
        squared = xx + yy.transpose(-1, -2) - 2 * x @ y.transpose(-1, -2)  # (..., M, N)
        positive = squared > 0
        return torch.where(positive, squared, 1).sqrt() * positive


def element_sigmoid(distances: Tensor) -> Tensor:
    """sigmoid(l) of euclidean distances l, in place of AlignedReID's element distance (Zhang et al. 2017, Eq. (1)).

    d = (exp(l) - 1) / (exp(l) + 1) = tanh(l / 2) = 2 sigmoid(l) - 1. All monotone paths of an S x T grid have
    S + T - 1 cells, so the shortest path may run on sigmoid(l) and be mapped at its end (`path_length`); that is one
    pass instead of the several of the formula as written, and exp(l) cannot overflow.
    """
    return distances.sigmoid()


def path_length(total: Tensor, num_x: int, num_y: int) -> Tensor:
    """Sum of element distances from the sum of sigmoids over a path through num_x x num_y parts; never below zero."""
    return (2 * total - (num_x + num_y - 1)).clamp(min=0)


def shortest_path(cost: Tensor) -> Tensor:
    """Least total cost of a path from cell (0, 0) to (S-1, T-1) that steps right or down: cost (S, T, *) -> (*).

    The dynamic programme of AlignedReID (Zhang et al. 2017, Eq. (2)), all trailing positions at once. Differentiable:
    the gradient reaches the cells of the shortest path; where two paths tie, it is split evenly.
    """
    path = list(cost[0].cumsum(0))  # path[j]: least cost up to cell (i, j)
    for row in cost[1:]:
        path[0] = path[0] + row[0]
        for j in range(1, len(path)):
            path[j] = torch.minimum(path[j], path[j - 1]) + row[j]
    return path[-1]


def aligned_pair_distance(x: Tensor, y: Tensor, normalize: bool = False) -> Tensor:
    """Shortest-path local distance of matched pairs: x (B, S, D), y (B, T, D) -> (B,). See `aligned_distance`."""
    with torch.autocast(x.device.type, enabled=False):
        x, y = full_precision(x), full_precision(y)
        if normalize:
            x, y = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
        length = euclidean_distance(x, y)  # (B, S, T)
        total = shortest_path(element_sigmoid(length).permute(1, 2, 0))  # (B,)
        return path_length(total, x.shape[1], y.shape[1])


def aligned_distance(x: Tensor, y: Tensor, normalize: bool = False, memory: int | None = None) -> Tensor:
    """Local distance of AlignedReID between all pairs of images (Zhang et al. 2017, Sec. 3.1).

    x (M, S, D) and y (N, T, D), the S and T horizontal parts from top to bottom -> (M, N), from 0 to S + T - 1.
    The distance of two parts is tanh(l / 2) with l their euclidean distance; that of two images the shortest path
    from the pair of top parts to the pair of bottom parts.

    normalize: L2-normalise each part first. AlignedReID's reproduction has it as one switch for training and test
    (huanghoujing/AlignedReID-Re-Production-Pytorch @2e2d454, aligned_reid/dataset/TestSet.py; its README results are
    without). AlignedReID++ always normalises (michuanhaohao/AlignedReID @fca9620, models/ResNet.py); its DMLI is
    this same programme on normalised parts. Both add it to the global distance, the latter to the squared one.

    Without a gradient the pairs are computed in blocks that use `memory` bytes beside copies of the inputs and the
    result (default 2 MiB for each CPU thread, so that they stay in its cache; 512 MiB elsewhere). With a gradient all
    pairs are held at once.
    """
    if x.ndim != 3 or y.ndim != 3 or x.shape[2] != y.shape[2]:
        raise ValueError(
            f"aligned_distance got local features of shape {tuple(x.shape)} and {tuple(y.shape)}; expected "
            "(M, S, D) and (N, T, D) with the same D"
        )
    with torch.autocast(x.device.type, enabled=False):
        x, y = full_precision(x), full_precision(y)
        if normalize:
            x, y = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
        if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
            return aligned_distance_dense(x, y)
        if memory is None:
            memory = (2 << 20) * torch.get_num_threads() if x.device.type == "cpu" else 512 << 20
        with torch.no_grad():
            return aligned_distance_blocked(x, y, memory)


def aligned_distance_dense(x: Tensor, y: Tensor) -> Tensor:
    """`aligned_distance` with a gradient: x (M, S, D), y (N, T, D) -> (M, N); holds all S * T * M * N elements."""
    (num_m, num_s, _), (num_n, num_t, _) = x.shape, y.shape
    length = euclidean_distance(x.flatten(0, 1), y.flatten(0, 1)).view(num_m, num_s, num_n, num_t)
    total = shortest_path(element_sigmoid(length).permute(1, 3, 0, 2))  # (S, T, M, N) -> (M, N)
    return path_length(total, num_s, num_t)


def aligned_distance_blocked(x: Tensor, y: Tensor, memory: int) -> Tensor:
    """`aligned_distance` without a gradient: x (M, S, D), y (N, T, D) -> (M, N), in `memory` bytes of buffers.

    On a CPU each thread takes blocks of rows of its own. Spreading every small operation over the threads instead
    costs a barrier each, and on a machine that is busy with other work as well, waiting at them takes far longer than
    the arithmetic.
    """
    (num_m, num_s, _), (num_n, num_t, _) = x.shape, y.shape
    shift = y.mean((0, 1)) if num_n else 0  # distances stay, cancellation shrinks: see euclidean_distance
    x, y = x - shift, y - shift
    xx, yy = x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    # [-2x, xx, 1] . [y, 1, yy] = xx + yy - 2 x.y: the norms ride along in the product
    x = torch.cat((-2 * x, xx, torch.ones_like(xx)), -1).transpose(0, 1).contiguous()  # (S, M, D+2)
    y = torch.cat((y, torch.ones_like(yy), yy), -1).transpose(0, 1).contiguous()  # (T, N, D+2)
    threads = torch.get_num_threads() if x.device.type == "cpu" else 1
    pairs = max(1, memory // (2 * num_s * x.element_size() * threads))  # per thread; two buffers of S planes
    block_n = min(max(num_n, 1), pairs, 512)
    block_m = max(1, pairs // block_n)
    total = x.new_empty(num_m, num_n)

    def fill(m: int) -> None:
        fill_path_totals(x[:, m : m + block_m], y, total[m : m + block_m], block_n)

    starts = range(0, num_m, block_m)
    if threads == 1 or len(starts) < 2:
        for m in starts:
            fill(m)
    else:
        torch.set_num_threads(1)  # inside each of the pool's threads
        try:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(fill, starts))
        finally:
            torch.set_num_threads(threads)
    return total.mul_(2).sub_(num_s + num_t - 1).clamp_(min=0)  # path_length, in place


@torch.inference_mode()  # a pool's thread does not inherit the caller's mode
def fill_path_totals(x: Tensor, y: Tensor, total: Tensor, block_n: int) -> None:
    """Writes the shortest paths' sums of sigmoids into total (m, N): x (S, m, D+2), y (T, N, D+2), block by block of y.

    One part of the block of y at a time: a single product gives its squared distances to all parts of x as S
    contiguous planes (m, n), on which everything after it works in place.
    """
    num_s, num_m, _ = x.shape
    x = x.flatten(0, 1)  # (S m, D+2)
    cost_buffer, path_buffer = x.new_empty(2, num_s * num_m * block_n)
    for n in range(0, y.shape[1], block_n):
        y_block = y[:, n : n + block_n]  # (T, n, D+2)
        planes = num_s, num_m, y_block.shape[1]
        cost = cost_buffer[: math.prod(planes)].view(planes)
        path = path_buffer[: math.prod(planes)].view(planes)
        for t, part in enumerate(y_block):
            torch.mm(x, part.T, out=cost.flatten(0, 1))
            advance_paths(path.unbind(), cost.clamp_(min=0).sqrt_().sigmoid_().unbind(), first=t == 0)
        total[:, n : n + block_n] = path[-1]


def advance_paths(path: Sequence[Tensor], cost: Sequence[Tensor], first: bool) -> None:
    """One row of `shortest_path` in place: path[s] (m, n) is the least cost up to cell s of the row, cost[s] (m, n)."""
    if first:
        path[0].copy_(cost[0])
        for s in range(1, len(path)):
            torch.add(path[s - 1], cost[s], out=path[s])
        return
    path[0].add_(cost[0])
    for s in range(1, len(path)):
        torch.minimum(path[s], path[s - 1], out=path[s])
        path[s].add_(cost[s])
