"""What a process asks of the hardware."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch

from tune_resnet.config.sections import ModelSpec, TrainSpec
from tune_resnet.data.types import Split
from tune_resnet.training import device
from tune_resnet.training.device import choose_precision, full_fp32, seeded
from tune_resnet.training.loop import TrainingRun

CPU = torch.device("cpu")

# The second block is a little smaller: glibc looks for some bytes more than an aligned block keeps, so that one of the
# same size fits where the first was only if the memory beside it happens to be free.
FAULTS_OF_A_SECOND_BLOCK = """
import resource, torch
from tune_resnet.training.device import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for prepare in (lambda: None, keep_freed_memory):
    prepare()
    torch.ones(50_000_000)
    before = faults()
    torch.ones(49_900_000)
    print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked to")
def test_freed_memory_is_used_again_without_asking_the_kernel() -> None:
    script = [sys.executable, "-c", FAULTS_OF_A_SECOND_BLOCK]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    without, kept = map(int, done.stdout.split())
    assert without > 1000  # 200 MB, in pages of 4 KiB: 48,730
    assert kept < 100


def test_seeding_the_cpu_seeds_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first use of CUDA would run what is queued for it; a GPU that is in use is seeded at once."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU's generator is seeded"))
    queued = len(torch.cuda._queued_calls)
    with seeded(3, CPU):
        drawn = torch.rand(4)
    assert len(torch.cuda._queued_calls) == queued
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(3)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_seeding_a_gpu_seeds_the_cpu_as_well_and_restores_both() -> None:
    cuda = torch.device("cuda")
    before = torch.get_rng_state(), torch.cuda.get_rng_state(cuda)
    with seeded(3, cuda):
        drawn = torch.rand(4), torch.rand(4, device=cuda)
    assert torch.equal(drawn[0], torch.rand(4, generator=torch.Generator().manual_seed(3)))
    expected = torch.rand(4, generator=torch.Generator(cuda).manual_seed(3), device=cuda)
    assert torch.equal(drawn[1], expected)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(torch.cuda.get_rng_state(cuda), before[1])


@pytest.fixture
def untimed() -> Iterator[None]:
    device._bf16_is_faster.cache_clear()
    yield
    device._bf16_is_faster.cache_clear()


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize(
    ("instructions", "bf16_seconds", "chosen"),
    [((), 1.0, "fp32"), (("avx512_bf16",), 3.0, "fp32"), (("avx512_bf16",), 1.0, "bf16"), (("amx_bf16",), 1.0, "bf16")],
)
def test_a_cpu_trains_in_bf16_where_that_is_faster(
    instructions: tuple[str, ...], bf16_seconds: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {torch.float32: 2.0, torch.bfloat16: bf16_seconds}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True))
    monkeypatch.setattr(device, "_block_seconds", seconds.__getitem__)
    assert choose_precision("auto", CPU) == chosen


@pytest.mark.usefixtures("untimed")
def test_timing_a_precision_leaves_random_numbers_and_threads_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    before = torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():
        assert choose_precision("auto", CPU) in ("fp32", "bf16")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]


def tf32_settings() -> list[object]:
    """As PyTorch has them: the newer ones, then the older, which raises where it is at odds with them."""
    backends: Any = torch.backends  # its parts are not declared
    parts = backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul
    return [*(part.fp32_precision for part in parts), backends.cudnn.allow_tf32]


@pytest.fixture
def allowed(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the process allows TF32 in cuDNN; by default it does."""
    torch.backends.cudnn.allow_tf32 = request.param
    yield request.param
    torch.backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize("allowed", [True, False], indirect=True)
def test_full_fp32_is_for_the_block_alone(allowed: bool) -> None:
    before = tf32_settings()
    assert before[-1] is allowed
    with full_fp32(), torch.backends.cudnn.flags(enabled=False):  # a network may do so; it reads the older setting
        pass
    assert tf32_settings() == before
    with suppress(ZeroDivisionError), full_fp32():
        assert tf32_settings() == ["ieee", "ieee", "ieee", False]
        raise ZeroDivisionError
    assert tf32_settings() == before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_in_fp32_allows_no_tf32(split: Split, precision: str) -> None:
    run = TrainingRun(TrainSpec(epochs=1, batch_size=90, precision=precision), split, model=ModelSpec(width=2))
    seen, before = [], tf32_settings()
    run.model.register_forward_pre_hook(lambda *_: seen.append((run.model.training, tf32_settings())))
    run.run_epoch()
    expected = ["ieee", "ieee", "ieee", False] if precision == "fp32" else before
    assert seen == [(True, expected), (True, expected), (False, expected)]  # two batches, one evaluation
    assert tf32_settings() == before
