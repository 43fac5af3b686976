"""What a process asks of the hardware."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# The second block is a little smaller: glibc looks for some bytes more than an aligned block keeps, so that one of the
# same size fits where the first was only if the memory beside it happens to be free.
FAULTS_OF_A_SECOND_BLOCK = """
import resource, torch
from tune_resnet.device import keep_freed_memory
{before}
torch.ones(50_000_000)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(49_900_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


def faults(before: str) -> int:
    script = FAULTS_OF_A_SECOND_BLOCK.format(before=before)
    return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked to")
def test_freed_memory_is_used_again_without_asking_the_kernel() -> None:
    assert faults("keep_freed_memory()") < 100
    assert faults("") > 1000  # 200 MB, in pages of 4 KiB: 48,730
