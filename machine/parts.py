"""Which part of a work that several processes share each of them does, and how they put the parts together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class Part:
    """Which part of the work this process of a group does; without a group, all of it.

    Lists of neighbours and the sparse vectors are made in parts and held whole; distances and the centred features
    are held in parts.
    """

    def __init__(self, group=None):
        self.group = group
        self.rank, self.world = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))

    def of(self, count: int, rank: int | None = None) -> tuple[int, int]:
        """This process's slice (start, stop) of `count` items, or that of `rank`; they differ by one at most."""
        rank = self.rank if rank is None else rank
        return count * rank // self.world, count * (rank + 1) // self.world

    def all(self, rows: Tensor) -> Tensor:
        """The rows of all processes, in the order of their ranks; there may be more of one than of another."""
        if self.world == 1:
            return rows
        counts = rows.new_zeros(self.world, dtype=torch.int64)
        counts[self.rank] = len(rows)
        dist.all_reduce(counts, group=self.group)
        padded = rows.new_zeros(int(counts.max()), *rows.shape[1:])
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(found, padded, group=self.group)
        return torch.cat([part[:count] for part, count in zip(found, counts.tolist(), strict=True)])

    def largest(self, values: Tensor) -> Tensor:
        """The largest of all processes at each place."""
        if self.world > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self.group)
        return values

    def least(self, number: int, device: torch.device) -> int:
        """The smallest of all processes' numbers, exchanged on `device`: what they divide by it comes out alike."""
        if self.world > 1:
            found = torch.tensor([number], device=device)
            dist.all_reduce(found, op=dist.ReduceOp.MIN, group=self.group)
            number = int(found)
        return number

    def blocks(self, blocks: Sequence[tuple[int, int]], num_query: int) -> list[int]:
        """Which blocks of rows this process computes, ascending: those that begin within its queries, and of the
        others in turn whichever process has the least tiles."""
        load, mine = [0] * self.world, []
        bounds = [self.of(num_query, rank)[1] for rank in range(self.world)]
        for i, (start, _) in enumerate(blocks):
            own = next((rank for rank, stop in enumerate(bounds) if start < stop), None)
            rank = min(range(self.world), key=load.__getitem__) if own is None else own
            load[rank] += len(blocks) - i
            mine += [i] if rank == self.rank else []
        return mine

    def beside(self, rows: Tensor) -> Tensor:
        """The equally many rows of all processes side by side."""
        found = [torch.empty_like(rows) for _ in range(self.world)]
        dist.all_gather(found, rows, group=self.group)
        return torch.cat(found, dim=1)
