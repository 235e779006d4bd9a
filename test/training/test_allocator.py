"""Freed memory stays in the process, where the C library can be told so."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A tensor's memory is freed and asked for again; pages that the kernel has to clear count as minor faults.
SCRIPT = """
import resource, sys
from gridkp_ros.training.allocator import keep_freed_memory
if "keep" in sys.argv and not keep_freed_memory():
    sys.exit(3)
def use():
    return sum(bytearray(64 << 20)[:1])
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*arguments: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("no glibc here")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_page_is_cleared_by_the_kernel_only_once() -> None:
    assert faults("keep") * 10 < faults()
