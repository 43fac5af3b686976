"""What the hardware is and what it is good at: device, precision, names."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tune_resnet.errors import UserError
from tune_resnet.spec import ResourceSpec

# Of glibc's malloc.h; see mallopt(3).
_M_MMAP_MAX = -4  # mappings for large blocks: none
_M_TRIM_THRESHOLD = -1  # free bytes from which the heap shrinks; -1: never


class DeviceError(UserError):
    """A device that was asked for and is not there."""


def choose_device(name: str) -> torch.device:
    """The device for `auto` (CUDA where there is a GPU), `cpu` or `cuda`."""
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device cuda was asked for, but PyTorch sees no CUDA GPU here (try --device cpu)")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def choose_precision(name: str, device: torch.device) -> str:
    """`auto` as the fastest of fp32, bf16, fp16 that the device computes in hardware; any other name as it is."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    able = torch.cpu.get_capabilities()
    return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers drawn within come from `seed`; the caller's generators are as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def keep_freed_memory() -> None:
    """From now on this process reuses the memory that it frees, instead of returning it to the system.

    A training step frees and takes gigabytes. By default glibc returns them each time, and the kernel clears every page
    anew: a fifth of a step's time at width 64, batch 400.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def gpus_per_trial(resources: ResourceSpec, device: str) -> float:
    """The share of a GPU that one trial uses: as set, or one where the device is cuda; DeviceError where one is set
    and the device is cpu.
    """
    if device == "cpu" and resources.gpus_per_trial:
        share = f"resources.gpus_per_trial = {resources.gpus_per_trial:g}"
        raise DeviceError(f"{share}, but trials run on the CPU: leave --gpus-per-trial out")
    if device == "cpu":
        return 0.0
    return 1.0 if resources.gpus_per_trial is None else resources.gpus_per_trial


def device_name(device: torch.device) -> str:
    """The product name of a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor_name()


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
