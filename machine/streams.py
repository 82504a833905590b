"""Work that a GPU does beside its other work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch", bound=tuple)


def aside(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches, prepared on a stream of their own: a GPU augments the next images while it still computes the
    step of the last ones, whose kernels the processor has started long before. Elsewhere nothing changes.

    Each batch is asked for when it is wanted and not earlier, so what was observed in between decides it as ever.
    """
    if device.type != "cuda":
        yield from batches
        return
    own = torch.cuda.Stream(device)
    own.wait_stream(torch.cuda.current_stream(device))  # what the batches are made of
    while True:
        with torch.cuda.stream(own):
            batch = next(batches, None)
        if batch is None:
            return
        theirs = torch.cuda.current_stream(device)
        theirs.wait_stream(own)
        for tensor in tensors_of(batch):
            tensor.record_stream(theirs)  # its memory is not given to a later batch before `theirs` has read it
        yield batch


def tensors_of(batch: tuple) -> Iterator[Tensor]:
    """Every tensor in nested tuples."""
    for each in batch:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, tuple):
            yield from tensors_of(each)
