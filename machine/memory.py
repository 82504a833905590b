"""How much memory is free: what caches, blocks of distances and re-ranking size themselves by."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch


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
            limit = (group / limit).read_text().strip()
            used = int((group / used).read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        if limit != "max":  # files read before are counted as used and given back when memory is asked for
            free.append(max(0, int(limit) - used + int(stat.get(cached, 0))))
    return min(free, default=2 << 30)


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed for the next batch; returns whether it could be told (Linux with glibc).

    By default every tensor of more than 32 MiB is mapped and unmapped anew, and the kernel clears its pages each time:
    extraction with OSNet x0.25 at 256x128 in batches of 128 then spends most of its time there (222 against 734
    images/s on two cores, benchmarks/README.md).
    """
    if not sys.platform.startswith("linux"):
        return False
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl
        return False
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))
