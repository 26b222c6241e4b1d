"""What machine a figure comes from, and how busy it was."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

import drive_seg
from drive_seg.inference.runtimes import registry
from drive_seg.inference.runtimes.entry import installed

PACKAGES = ("numpy", "opencv-python-headless", "nncf")
_MIB = 2**20
_GPU_STATE = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")


def describe(device: str) -> dict[str, Any]:
    """Processor, GPU, versions, threads and load as plain data; None for what this machine does not tell."""
    about = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_field("model name") or platform.processor() or None,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": _instructions(),
        "memory_gb": _memory_gb(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {"drive_seg": drive_seg.__version__, **{**installed(PACKAGES), **registry.versions()}},
        "gpu": None,
        **state(device),
    }
    if device.startswith("cuda"):
        found = torch.cuda.get_device_properties(device)
        about["gpu"] = {
            "name": found.name,
            "memory_gb": round(found.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": (_nvidia_smi(device, ("driver_version",)) or {}).get("driver_version"),
        }
    return about


def state(device: str = "cpu") -> dict[str, Any]:
    """What changes while it runs.

    Returns:
        ``clock_mhz`` of the first core; ``load`` averages of 1, 5 and 15 minutes; for a GPU ``gpu_state`` in
        nvidia-smi's words and units: clocks, temperature, power.
    """
    clock = _cpu_field("cpu MHz")
    return {
        **({"gpu_state": _gpu_state(device)} if device.startswith("cuda") else {}),
        "clock_mhz": float(clock) if clock else None,
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


class PeakMemory:
    """How far the process's memory grows while something is opened and runs, in MiB.

    On the CPU it is the peak of resident memory above what was resident before; memory that the process had and gave
    back counts again, as it is returned to the system first. On CUDA it is what torch had allocated at the peak, so
    other libraries' memory on the GPU is not in it.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._base = 0.0
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(device)
            self._base = torch.cuda.memory_allocated(device) / _MIB
        elif _return_free_memory() and _reset_peak():
            self._base = _status_mib("VmRSS") or 0.0
        else:
            self._device = ""

    def reset(self) -> None:
        """Forget the peak, keep the base: what opening took for a while is then no part of it."""
        if self._device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._device:
            _reset_peak()

    def mib(self) -> float | None:
        """The peak since the last reset above the base; None where the system does not tell."""
        if not self._device:
            return None
        if self._device.startswith("cuda"):
            return max(0.0, torch.cuda.max_memory_allocated(self._device) / _MIB - self._base)
        peak = _status_mib("VmHWM")
        return None if peak is None else max(0.0, peak - self._base)


def _gpu_state(device: str) -> dict[str, str] | None:
    return _nvidia_smi(device, _GPU_STATE)


def _nvidia_smi(device: str, fields: tuple[str, ...]) -> dict[str, str] | None:
    """What nvidia-smi says of a GPU, with its units; None where it says nothing."""
    # CUDA's numbers are not nvidia-smi's where some GPUs are hidden.
    identity = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", f"--id={identity}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    values = [value.strip() for value in told.splitlines()[0].split(",")] if told.strip() else []
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else None


def _return_free_memory() -> bool:
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return False
    return True


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status_mib(key: str) -> float | None:
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) / 1024 if found else None


def _cpu_field(key: str) -> str | None:
    try:
        found = re.search(rf"^{key}\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return found.group(1).strip() if found else None


def _instructions() -> list[str]:
    """Those of the processor's instruction sets that decide how fast a network can run."""
    flags = set((_cpu_field("flags") or "").split())
    return [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if name in flags]


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None
