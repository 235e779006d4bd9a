"""The fastest that this machine multiplies matrices, measured: what a network's speed can be held against."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

SIZES = {"cpu": 2048, "cuda": 8192}  # of square matrices: large enough to be bound by arithmetic alone


@dataclass(frozen=True)
class Peak:
    """flops_per_s: of the fastest product; dtype: what was multiplied, "tf32" for float32 at that precision."""

    flops_per_s: float
    dtype: str
    size: int


def matmul_peak(device: torch.device, dtype: torch.dtype = torch.float32, seconds: float = 0.5) -> Peak:
    """Measure square matrix products for about `seconds`, and return the fastest.

    On a GPU float32 products are rounded as PyTorch lets convolutions be rounded (TF32 by default), since those are
    what is held against it.
    """
    size = SIZES[device.type]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    tf32 = device.type == "cuda" and dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a @ b  # the first product sets up the library
        fastest, end = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < end or fastest == float("inf"):
            synchronise(device)
            began = time.perf_counter()
            a @ b
            synchronise(device)
            fastest = min(fastest, time.perf_counter() - began)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return Peak(2 * size**3 / fastest, "tf32" if tf32 else str(dtype).removeprefix("torch."), size)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
