"""Which device and which precision a run computes with."""

from __future__ import annotations

import torch

from machine import processes


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
