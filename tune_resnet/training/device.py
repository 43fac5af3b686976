"""What the hardware is and what it is good at: device, precision, names."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from tune_resnet.config.sections import ResourceSpec
from tune_resnet.config.spec import SearchSpec
from tune_resnet.errors import UserError

# Of glibc's malloc.h; see mallopt(3).
_M_MMAP_MAX = -4  # mappings for large blocks: none
_M_TRIM_THRESHOLD = -1  # free bytes from which the heap shrinks; -1: never

OUT_OF_MEMORY = (
    "the GPU's memory ran out: a smaller --batch-size needs less of it, a larger --gpus-per-trial gives a trial more"
)


class DeviceError(UserError):
    """A device that was asked for and is not there."""


@dataclass(frozen=True, kw_only=True)
class ResolvedSpec(SearchSpec):
    """A spec that leaves nothing open about the machine: device, precision and a trial's share of a GPU are settled."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "auto" in (self.resources.device, self.train.precision) or self.resources.gpus_per_trial is None:
            raise ValueError("device, precision and gpus_per_trial must be settled")


def resolved(spec: SearchSpec, device: str, precision: str) -> ResolvedSpec:
    """The spec with its device (`cpu` or `cuda`), precision and a trial's share of a GPU settled."""
    parts = {part.name: getattr(spec, part.name) for part in fields(spec)}
    share = gpus_per_trial(spec.resources, device)
    parts["resources"] = replace(spec.resources, device=device, gpus_per_trial=share)
    return ResolvedSpec(**{**parts, "train": replace(spec.train, precision=precision)})


def choose_device(name: str) -> torch.device:
    """The device for `auto` (CUDA where there is a GPU), `cpu` or `cuda`."""
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device cuda was asked for, but PyTorch sees no CUDA GPU here (try --device cpu)")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def choose_precision(name: str, device: torch.device) -> str:
    """`auto` as the fastest of fp32, bf16, fp16 on the device; any other name as it is. On a CPU, bf16 is timed."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _bf16_is_faster() else "fp32"


@cache
def _bf16_is_faster() -> bool:
    """Whether the CPU trains faster in bf16. Without instructions for it, it is ten times slower. With them it is not
    always faster: Intel's AVX-512 ones without AMX need 1.4 times the time of fp32.
    """
    able = torch.cpu.get_capabilities()
    if not (able.get("avx512_bf16") or able.get("amx_bf16")):
        return False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a thread that waits for others counts as busy
    try:
        return _block_seconds(torch.bfloat16) < _block_seconds(torch.float32)
    finally:
        torch.set_num_threads(threads)


def _block_seconds(dtype: torch.dtype) -> float:
    """The least processor time of three trainings of one block of a network. Draws no random numbers."""
    images = torch.ones(16, 64, 16, 16).to(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3, requires_grad=True)
    seconds = []
    for _ in range(4):
        started = time.thread_time()
        with torch.enable_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            seen = functional.conv2d(images, weight, padding=1)
            functional.batch_norm(seen, None, None, training=True).relu().sum().backward()
        seconds.append(time.thread_time() - started)
    return min(seconds[1:])  # the first warms up


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers drawn within, on `device` and on the CPU, come from `seed`.

    The caller's generators are as before afterwards; those of other devices are never touched.
    """
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU as well
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def on_stream(stream: torch.cuda.Stream | None) -> AbstractContextManager[None]:
    """Work within is done on this stream of a GPU, after what is under way; None: the device is none."""
    if stream is None:
        return nullcontext()
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    return torch.cuda.stream(stream)


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of everything random in one epoch, in [0, 2**63)."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def full_fp32() -> Iterator[None]:
    """Within, a GPU computes float32 as it is: by default PyTorch's convolutions round it to TF32 there."""
    cudnn: Any = torch.backends.cudnn  # its parts are not declared
    parts = cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul
    before = [part.fp32_precision for part in parts]
    # PyTorch's older setting as well: it raises where a network of the user's own reads one that is at odds with these.
    cudnn.allow_tf32 = False
    for part in parts:
        part.fp32_precision = "ieee"
    try:
        yield
    finally:
        cudnn.allow_tf32 = before[0] == "tf32"
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision


@contextmanager
def timed_kernels() -> Iterator[None]:
    """Within, cuDNN times its kernels for each convolution that it has not met before, and takes the fastest. It pays
    for shapes that come again and again.
    """
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, True
    try:
        yield
    finally:
        cudnn.benchmark = before


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


def ran_out_of_memory(error: Exception) -> bool:
    """Whether a GPU's memory has run out, which its libraries say in several ways."""
    signs = ("CUDA error: out of memory", "STATUS_ALLOC_FAILED")
    said = isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    return said or isinstance(error, torch.OutOfMemoryError)


def limit_to_share(resources: ResourceSpec) -> None:
    """From now on this process takes no more than a trial's share of the machine: threads, and of a GPU its memory. A
    trial that needs more fails itself, and not whichever other asks next. To be called before anything is on the GPU.
    """
    cores = os.cpu_count() or 1  # a trial that is to have more is refused
    torch.set_num_threads(max(1, min(int(resources.cpus_per_trial), cores)))
    share = resources.gpus_per_trial or 1.0
    if resources.device == "cuda" and share < 1:
        torch.cuda.set_per_process_memory_fraction(share)


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
