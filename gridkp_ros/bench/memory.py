"""Resident memory of this process, in MB of 10^6 bytes, as Linux's /proc tells it."""

from __future__ import annotations

from pathlib import Path

from gridkp_ros.runtime.memory import give_back

_FORGET_PEAK = "5"  # proc(5), /proc/pid/clear_refs


def resident_mb() -> float:
    """What is resident now."""
    return _status("VmRSS")


def peak_mb() -> float:
    """The most that was resident since the start, or since `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Give freed memory back, and let the peak begin anew from what is resident now."""
    give_back()
    Path("/proc/self/clear_refs").write_text(_FORGET_PEAK)


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6
