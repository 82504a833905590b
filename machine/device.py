"""Which device and which precision a run computes with."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from machine import memory, processes, threads


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; under torchrun the GPU of this process. ValueError for one that is missing."""
    if processes.world_size() > 1:
        name = processes.local_device(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the device named meta has no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used here ({reason}); try --device cpu") from None
    return device


def pick_amp(name: str, device: torch.device) -> str:
    """`auto` is bf16 where the hardware multiplies it: CUDA from Ampere on, CPUs with AVX512-BF16 or AMX."""
    if name == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "none"
        return "bf16" if device.type == "cpu" and cpu_has_bf16() else "none"
    if name == "fp16" and device.type == "cpu":
        raise ValueError("--amp fp16 needs a GPU; on a CPU use --amp bf16 or none")
    return name


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware; without it autocast is slower than float32."""
    capabilities = torch.backends.cpu.get_cpu_capability() if hasattr(torch.backends, "cpu") else ""
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return "AVX512" in capabilities and any(check() for check in checks if check)


INSTRUCTIONS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX512", "avx2": "AVX2"}  # best first


def describe(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What computes, as a table of results names it: the GPU, or how many cores of which processor with the widest
    instructions that it has (those decide whether bfloat16 pays)."""
    if device.type != "cpu":
        return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    said = {"model name": platform.processor() or platform.machine(), "flags": ""}
    with contextlib.suppress(OSError):  # only Linux has the file, and only for some processors the fields
        lines = (line.partition(":") for line in cpuinfo.read_text(encoding="utf-8").splitlines())
        said |= {key.strip(): " ".join(value.replace("(R)", "").split()) for key, _, value in lines if value.strip()}
    best = [f" with {INSTRUCTIONS[name]}" for name in INSTRUCTIONS if name in said["flags"].split()]
    count = threads.cores()
    return f"{count} core{'s' * (count > 1)} of {said['model name']}{best[0] if best else ''}"


def tune(device: torch.device, deterministic: bool = False) -> None:
    """Settings of torch that make every batch of one size faster; float32 stays float32.

    deterministic: a GPU gives the same bits every time. What torch has no such way for is an error that names it.
    """
    if device.type == "cpu":
        memory.keep_freed_memory()
    set_arithmetic(flush=True, tf32=False, benchmark=device.type == "cuda" and not deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by the first matrix product
        torch.use_deterministic_algorithms(True)


def set_arithmetic(flush: bool, tf32: bool, benchmark: bool) -> None:
    """flush: CPU arithmetic takes numbers below 1e-38 for 0, on which it is a hundred times slower; tf32: convolutions
    round what they multiply to 10 bits, as is torch's default; benchmark: cuDNN tries its kernels for each new size."""
    torch.set_flush_denormal(flush)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = tf32, benchmark


@contextlib.contextmanager
def tuned(device: torch.device) -> Iterator[None]:
    """The arithmetic of `tune` inside, and that of the program that calls us again afterwards."""
    flushed = not (torch.full((1,), 1e-30) * 1e-10).any().item()
    before = flushed, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    set_arithmetic(flush=True, tf32=False, benchmark=device.type == "cuda")
    try:
        yield
    finally:
        set_arithmetic(*before)
