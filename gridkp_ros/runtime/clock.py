"""The frame clock: which frames of a camera of any rate a model with one fixed time step takes in.

Integer nanoseconds and an exact fraction for the period throughout, so that a rule on the edge (10 Hz into 15
Hz lands on halves) does not depend on rounding, and a stream of days does not drift.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

_INTERVALS = 15
_NS = 1_000_000_000
# Periods are written as decimals; the nearest fraction with a small denominator is the one that was meant
# (1/15 s).
_MAX_DENOMINATOR = 1_000_000


@dataclass(frozen=True)
class Tick:
    """What to do with a frame: "start" afresh, "skip" it, or "absorb" it after `steps` - 1 coasted steps.

    steps: n of the stream's rule, 0 when starting, <= 0 when skipping; reason: why it starts or skips.
    """

    action: str
    steps: int
    reason: str


class FrameClock:
    """Decides for each stamp whether the model starts, skips or absorbs the frame.

    With t0 the stamp of the first frame, m the steps done since and d the median of the last 15 intervals:
    n = floor((s - t0) / period + min(1/2, d / (2 period))) - m. A stamp that repeats or comes late by less
    than one period is a frame out of order and skipped; one further back is a jump and starts afresh.
    """

    def __init__(self, period_s: float, max_coast_steps: int) -> None:
        """Make a clock for a model with a step of period_s seconds that coasts max_coast_steps at most."""
        if not (math.isfinite(period_s) and period_s > 0):
            raise ValueError(f"period_s is {period_s!r}: give seconds > 0")
        if max_coast_steps < 0:
            raise ValueError(f"max_coast_steps is {max_coast_steps}: use 0 or more")
        self.period_s = Fraction(period_s).limit_denominator(_MAX_DENOMINATOR) or Fraction(period_s)
        self.max_coast_steps = max_coast_steps
        self._period_ns = self.period_s * _NS
        self._start_reason = "first frame"
        self._clear()

    def _clear(self) -> None:
        self.start_stamp_ns: int | None = None
        self.steps_done = 0
        self._newest_ns = 0
        self._intervals: deque[int] = deque(maxlen=_INTERVALS)

    @property
    def period_ns(self) -> int:
        """The period rounded to whole nanoseconds (the clock itself counts with the exact fraction)."""
        return round(self._period_ns)

    def reset(self, reason: str = "requested") -> None:
        """Forget the stream; the next tick starts afresh and gives this reason."""
        self._start_reason = reason
        self._clear()

    def time_of_step_ns(self, step: int) -> int:
        """Return the time of a step since the start (0 is the first frame's own) in nanoseconds."""
        if self.start_stamp_ns is None:
            raise ValueError("the clock has not started: tick it with a first stamp")
        return self.start_stamp_ns + round(step * self._period_ns)

    def tick(self, stamp_ns: int) -> Tick:
        """Take the next frame's stamp in and say what to do with the frame."""
        stamp_ns = int(stamp_ns)
        if self.start_stamp_ns is None:
            return self._start(stamp_ns, self._start_reason)
        interval = stamp_ns - self._newest_ns
        if interval <= 0:
            if -interval >= self._period_ns:
                return self._start(stamp_ns, f"stamp jumped back by {-interval / _NS:.3f} s")
            late = f"stamp {-interval / 1e6:.1f} ms older than the newest" if interval else "stamp repeated"
            return Tick("skip", 0, late)
        self._intervals.append(interval)
        self._newest_ns = stamp_ns
        steps = self._steps_at(stamp_ns) - self.steps_done
        if steps - 1 > self.max_coast_steps:
            return self._start(stamp_ns, f"gap of {interval / _NS:.2f} s")
        if steps <= 0:
            return Tick("skip", steps, "camera faster than the model")
        self.steps_done += steps
        return Tick("absorb", steps, "")

    def due(self, stamp_ns: int) -> bool:
        """Return whether `tick` would take the frame in, without taking it."""
        trial = copy.copy(self)
        trial._intervals = self._intervals.copy()
        return trial.tick(stamp_ns).action != "skip"

    def _steps_at(self, stamp_ns: int) -> int:
        ordered = sorted(self._intervals)
        middle = len(ordered) // 2
        median = Fraction(ordered[middle] + ordered[-1 - middle], 2)
        early = min(Fraction(1, 2), median / (2 * self._period_ns))
        return math.floor((stamp_ns - self.start_stamp_ns) / self._period_ns + early)

    def _start(self, stamp_ns: int, reason: str) -> Tick:
        self._clear()
        self.start_stamp_ns = self._newest_ns = stamp_ns
        return Tick("start", 0, reason)
