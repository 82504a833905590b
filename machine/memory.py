"""How much memory is free, how much of it may be taken, and rows that go to a file where it is not enough."""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from machine.ranges import MEMORY

GIB = 2**30


def free_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that can be taken without pushing anybody out: of the device, or of this machine or container."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = []
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo") as file:
            free += [int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable")]
    elif sys.platform == "win32":
        status = (ctypes.c_uint64 * 8)(64)  # MEMORYSTATUSEX: dwLength = 64 in its first field, ullAvailPhys third
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        free.append(status[2])
    elif "SC_PHYS_PAGES" in os.sysconf_names:  # macOS does not report what is free: count on half of what is there
        free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    for folder, limit, used, cached in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        group = Path("/sys/fs/cgroup", folder)  # control groups, version 2 and 1
        try:
            most = (group / limit).read_text().strip()
            taken = int((group / used).read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        if most != "max":  # files read before are counted as used and given back when memory is asked for
            free.append(max(0, int(most) - taken + int(stat.get(cached, 0))))
    return min(free, default=2 << 30)


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed for the next batch, in large pages; returns whether it could be told (Linux with
    glibc).

    By default every tensor of more than 32 MiB is mapped and unmapped anew, and the kernel clears its pages each time:
    extraction with OSNet x0.25 at 256x128 in batches of 128 then spends most of its time there (222 against 734
    images/s on two cores, benchmarks/README.md).
    """
    if not sys.platform.startswith("linux"):
        return False
    mmap_max, trim_threshold, most = -4, -1, 2**31 - 1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h; an int
    try:
        libc = ctypes.CDLL("libc.so.6")
        kept = libc.mallopt(mmap_max, 0) and libc.mallopt(trim_threshold, most)
    except (OSError, AttributeError):  # musl
        return False
    if kept:
        _take_large_pages(libc, min(free_memory() // 2, most - 2**26))
    return bool(kept)


def _take_large_pages(libc: ctypes.CDLL, size: int) -> None:
    """Have the next `size` bytes that glibc hands out come in the kernel's large pages (2 MiB on x86), where it leaves
    that to programs: a processor remembers the places of some thousand pages, and a training step visits eighty
    thousand of 4 KiB (OSNet's takes 1.05 times as long with those, benchmarks/README.md).

    The heap is grown by so much at once, by less than it keeps when that is free. It takes no memory before it is
    used; but nothing is asked for where it could be refused.
    """
    import resource  # not on Windows

    rules = Path("/proc/sys/vm/overcommit_memory")  # 2: no more is promised than there is
    limited = (
        resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    )
    if any(limited) or not rules.is_file() or rules.read_text().strip() == "2":
        return
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes, libc.madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    huge_page = 14  # MADV_HUGEPAGE of sys/mman.h
    block = libc.malloc(size)  # of what is free in the heap, and what it is grown by
    if block:
        begin = math.ceil(block / mmap.PAGESIZE) * mmap.PAGESIZE
        libc.madvise(begin, block + size - begin, huge_page)
        libc.free(block)


def kept_for_backward(model: nn.Module, image_size: tuple[int, int]) -> float:
    """Bytes that a training step of `model` keeps of each image (3, H, W) until its backward pass, in float32.

    Found on the meta device, with no arithmetic and no memory: the tensors that autograd saves, each storage once. 0 of
    a network that cannot be followed there, such as one that asks which images are infrared.
    """
    tensors = (*model.named_parameters(), *model.named_buffers())
    state = {name: torch.empty_like(t, device="meta", requires_grad=t.requires_grad) for name, t in tensors}
    weights = {tensor.untyped_storage()._cdata for tensor in state.values()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    images = torch.empty(2, 3, *image_size, device="meta")  # two, for batch norm
    try:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            kept = torch.func.functional_call(
                model, state, (images,)
            )  # alive, so that no storage takes another's place
    except Exception:  # whatever somebody's network does with numbers that are not there
        return 0
    del kept
    return sum(saved.values()) / len(images)


def check_step(model: nn.Module, image_size: tuple[int, int], num_images: int, half: bool = False) -> None:
    """ValueError if a training step of `model` on so many images takes more than the free memory of this machine.

    Where it is far from that nothing is measured: no network keeps a thousand times its input. half: in 16 bits.
    """
    free, pixels = free_memory(), 12 * num_images * math.prod(image_size)
    if 1000 * pixels <= free:
        return
    needed = max(num_images * kept_for_backward(model, image_size) / (2 if half else 1), pixels)
    if needed > free:
        raise ValueError(
            f"a training step on {num_images:,} images of {image_size[0]}x{image_size[1]} takes at least "
            f"{needed / GIB:,.1f} GiB of memory, and {free / GIB:,.1f} GiB are free: give a smaller --image_size or "
            "batch (--p and --k, or --batch_size; --seq_len of tracklets), or --accumulate"
        )


class Budget:
    """Working memory for whatever grows with the number of queries or gallery images: `--memory_gb`.

    One budget is made from the command line and handed down to everything that allocates so: features, blocks of
    distances and what is computed from them, query expansion, multi-query pooling, re-ranking and its search, the rows
    of the ranked pages. It is what may be held beside the inputs and the result. gb: GiB; None is a share of what is
    free when somebody asks, up to a limit past which nothing gets faster.
    """

    def __init__(self, gb: float | None = None):
        if gb is not None:
            MEMORY.check("memory_gb", gb)
        self.gb = gb

    @classmethod
    def of(cls, memory_gb: float | None | Budget) -> Budget:
        """A budget as it is, or one of so many GiB."""
        return memory_gb if isinstance(memory_gb, Budget) else cls(memory_gb)

    def bytes(self, device: torch.device | str = "cpu", share: float = 0.25, limit: float | None = None) -> int:
        """What may be taken: the GiB asked for, else `share` of what is free on `device`, at most `limit` GiB."""
        if self.gb is not None:
            return int(self.gb * GIB)
        return int(min(free_memory(device) * share, float("inf") if limit is None else limit * GIB))

    def rows(self, row_bytes: float, device: torch.device | str = "cpu") -> int:
        """How many rows of `row_bytes` may be held at a time at least one."""
        return max(1, int(self.bytes(device, limit=0.5 if torch.device(device).type == "cpu" else 8) // row_bytes))


class FeatureRows:
    """(count, ...) float32 rows filled batch by batch, in memory or in a memory-mapped temporary file.

    finish: what is done to each batch of rows, (n, ...) -> the same shape; None: nothing.
    """

    def __init__(self, count: int, budget: Budget, finish: Callable[[Tensor], Tensor] | None = None):
        self.count, self.budget, self.done = count, budget, finish
        self.rows: Tensor | None = None
        self.filled = 0

    def add(self, batch: Tensor, mirrored: Tensor) -> None:
        """Append the mean of the two (the batch itself where both are one tensor)."""
        mean = batch.float() if mirrored is batch else (batch.float() + mirrored.float()) / 2
        mean = mean if self.done is None else self.done(mean)
        if self.rows is None:
            with torch.inference_mode(False):  # what is handed out shall be an ordinary tensor
                self.rows = self._allocate((self.count, *mean.shape[1:]), mean.is_cuda)
        end = self.filled + len(mean)
        if end > self.count:
            raise RuntimeError(f"the loader announced {self.count} images and yields more")
        self.rows[self.filled : end].copy_(mean, non_blocking=True)
        self.filled = end

    def _allocate(self, shape: tuple[int, ...], pinned: bool) -> Tensor:
        size, most = 4 * math.prod(shape), self.budget.bytes(share=0.5)
        if size <= most:
            return torch.empty(shape, pin_memory=pinned)  # pinned: the copy does not wait for the network
        handle, path = tempfile.mkstemp(suffix=".npy", prefix="features-")
        os.close(handle)
        rows = torch.from_numpy(np.lib.format.open_memmap(path, "w+", np.float32, shape))
        print(
            f"features take {size / GIB:.1f} GiB, more than {most / GIB:.1f} GiB: they are in a file in "
            f"{os.path.dirname(path)} while this process lives",
            file=sys.stderr,
        )
        with suppress(OSError):  # the mapping keeps the file alive; Windows refuses, and the file stays
            os.unlink(path)
        return rows

    def finish(self) -> Tensor:
        """All rows (count, ...); RuntimeError if the loader yielded too few."""
        if self.filled != self.count:
            raise RuntimeError(f"the loader announced {self.count} images and yielded {self.filled}")
        if self.rows is None:
            raise ValueError("the loader has no images")
        if self.rows.is_pinned():
            torch.cuda.synchronize()
        return self.rows
