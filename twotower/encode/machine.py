"""Facts about this machine that decide how fast a model is."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# Of those that engines use, by Linux's names.
INSTRUCTION_SETS = (
    *("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16"),
    *("amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)


def processor() -> str:
    """Return the name of the processor."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Return those of `INSTRUCTION_SETS` that Linux reports; empty on other systems."""
    flags = next((line for line in _cpuinfo() if line.startswith(("flags", "Features"))), "")
    return [name for name in INSTRUCTION_SETS if name in flags.split()]


def available_threads() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
