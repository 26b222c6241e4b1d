"""What this machine can do: its processor, and its C++ compiler."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor_key() -> dict[str, str]:
    """All that machine code for this processor depends on."""
    about = _processor()
    flags = about.get("flags", about.get("Features", ""))
    return {
        "machine": platform.machine(),
        "processor": about.get("model name", about.get("CPU part", platform.processor())),
        "processor_flags": hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest(),
    }


def processor_can(flag: str) -> bool:
    """Whether Linux names an instruction set, as "avx512_vnni", among the processor's."""
    return flag in _processor().get("flags", "").split()


def multiplies_bf16() -> bool:
    """Whether the processor multiplies bfloat16, and does not emulate it."""
    if platform.machine() in ("x86_64", "AMD64"):
        return processor_can("avx512_bf16") or processor_can("amx_bf16")
    import torch

    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def compiler() -> list[str]:
    """The C++ compiler with its arguments: $CXX, or g++."""
    return os.environ.get("CXX", "").split() or ["g++"]


def can_compile() -> bool:
    """Whether the C++ compiler is installed."""
    return shutil.which(compiler()[0]) is not None


def missing_compiler(what: str) -> str:
    """The sentence for something that needs the C++ compiler where there is none."""
    return (
        f"{what} a C++ compiler, and '{compiler()[0]}' is not found: install g++ (Debian, Ubuntu: apt install g++), "
        "or name another one in the environment variable CXX"
    )


@cache
def _processor() -> dict[str, str]:
    """What Linux says of the first processor; empty elsewhere."""
    try:
        lines = _CPUINFO.read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
