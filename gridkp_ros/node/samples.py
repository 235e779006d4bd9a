"""How many sampled futures fit the model's period: measured before the first image, and again with every forecast."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from gridkp_ros.geometry import Region
from gridkp_ros.runtime import Predictor
from gridkp_ros.runtime.predictor import MAX_POSES_PER_FORECAST

LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_TENSORRT_LADDER = (1, 8, 32, 100)  # an engine is built for each, for minutes
_ROOM = 0.75  # of the period, for a frame and its forecast; the rest is for whatever else the machine does
_LATE = 0.9  # of the period: a frame that takes longer is late
_RECENT, _LATE_FRAMES = 8, 4
_STEADY = 30  # frames that a raise is judged by
_WAIT_S, _LONGEST_WAIT_S = 5.0, 120.0


class SampleBudget:
    """The number of samples for which a frame, with its forecast, takes three quarters of the model's period.

    A machine that others use is noticed by the frames' times: half of the last eight late, and the number falls to what
    fits by these eight. It rises again by one rung of the ladder at a time, after five seconds that left room for it;
    where a raise had to be taken back, the next waits twice as long.
    """

    def __init__(
        self,
        period_s: float,
        horizon_steps: int,
        costs_s: Mapping[int, float],
        rest_s: float,
        ladder: Sequence[int] = LADDER,
    ) -> None:
        """Start from measured times.

        Args:
            period_s: seconds between two frames of the model.
            horizon_steps: of the forecasts measured.
            costs_s: seconds of a forecast, by its number of samples (at least one).
            rest_s: seconds that a frame takes beside its forecast.
            ladder: numbers of samples to choose from, rising.
        """
        self._ladder = tuple(ladder)
        self._period_s, self._horizon_steps = period_s, horizon_steps
        self._counts = np.array(sorted(costs_s), np.float64)
        self._costs_s = np.maximum.accumulate([costs_s[count] for count in sorted(costs_s)])
        self._ratios: deque[float] = deque(maxlen=_STEADY)
        self._rests_s: deque[float] = deque([rest_s], maxlen=_STEADY)
        self._late: deque[bool] = deque(maxlen=_RECENT)
        self._wait_s, self._changed_s, self._raised = _WAIT_S, 0.0, False
        self.samples = self._fitting(horizon_steps, 1.0, rest_s)

    def allowed(self, horizon_steps: int) -> int:
        """Return `samples`, or fewer where a forecast of so many steps may not have as many."""
        return max(1, min(self.samples, MAX_POSES_PER_FORECAST // horizon_steps))

    def forecast_s(self, samples: int, horizon_steps: int) -> float:
        """Estimate the seconds that a forecast takes now."""
        ratio = float(np.median(self._ratios)) if self._ratios else 1.0
        return ratio * self._measured_s(samples, horizon_steps)

    def add(self, busy_s: float, forecast_s: float, samples: int, horizon_steps: int, now_s: float) -> bool:
        """Take in a frame that took busy_s seconds, its forecast forecast_s of them; return whether `samples` changed.

        now_s is the time of any steady clock.
        """
        self._ratios.append(forecast_s / self._measured_s(samples, horizon_steps))
        self._rests_s.append(busy_s - forecast_s)
        self._late.append(busy_s > _LATE * self._period_s)
        if samples != self.allowed(horizon_steps):  # a number that somebody has set
            return False
        before = self.samples
        if sum(self._late) >= _LATE_FRAMES and before > self._ladder[0]:
            ratio = float(np.median(list(self._ratios)[-_RECENT:]))
            rest_s = float(np.median(list(self._rests_s)[-_RECENT:]))
            lower = self._ladder[self._ladder.index(before) - 1]
            self.samples = min(lower, self._fitting(horizon_steps, ratio, rest_s))
            taken_back = self._raised and now_s - self._changed_s < 2 * self._wait_s
            self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S) if taken_back else _WAIT_S
        elif len(self._ratios) == _STEADY and now_s - self._changed_s >= self._wait_s and before < self._ladder[-1]:
            higher = self._ladder[self._ladder.index(before) + 1]
            ratio, rest_s = (float(np.percentile(values, 80)) for values in (self._ratios, self._rests_s))
            if self._fits(higher, horizon_steps, ratio, rest_s):
                self.samples = higher
        if self.samples == before:
            return False
        self._changed_s, self._raised = now_s, self.samples > before
        self._ratios.clear()
        self._late.clear()
        return True

    def _measured_s(self, samples: int, horizon_steps: int) -> float:
        """Seconds of a forecast when it was measured; between and beyond the measured numbers on straight lines."""
        counts, costs_s = self._counts, self._costs_s
        if samples <= counts[-1]:
            value = np.interp(samples, [0.0, *counts], [0.0 if len(counts) == 1 else costs_s[0], *costs_s])
        elif len(counts) == 1:
            value = costs_s[0] * samples / counts[0]
        else:
            slope = (costs_s[-1] - costs_s[-2]) / (counts[-1] - counts[-2])
            value = costs_s[-1] + slope * (samples - counts[-1])
        return max(float(value), 1e-6) * horizon_steps / self._horizon_steps

    def _fits(self, samples: int, horizon_steps: int, ratio: float, rest_s: float) -> bool:
        poses = samples * horizon_steps
        takes_s = rest_s + ratio * self._measured_s(samples, horizon_steps)
        return poses <= MAX_POSES_PER_FORECAST and takes_s <= _ROOM * self._period_s

    def _fitting(self, horizon_steps: int, ratio: float, rest_s: float) -> int:
        fitting = (n for n in self._ladder if self._fits(n, horizon_steps, ratio, rest_s))
        return max(fitting, default=self._ladder[0])


def rehearse(
    predictor: Predictor, *, horizon_steps: int, num_samples: int, region: Region | None, render: bool
) -> SampleBudget:
    """Run everything that the stream will, on made-up frames, so that no graph runs for the first time in it.

    Measures forecasts of num_samples, or with 0 of more and more until they do not fit the period. The Predictor is as
    new afterwards. Raises BundleError or PredictorError if a graph fails.
    """
    period_s, epoch, warmup_frames = predictor.manifest.period_s, predictor.epoch, predictor.warmup_frames
    ladder = _TENSORRT_LADDER if predictor.provider == "TensorrtExecutionProvider" else LADDER
    predictor.reset()
    predictor.warmup_frames = 1  # what the forecasts say is of no interest
    try:
        rest_s = _time_observing(predictor, _made_up_image(predictor, region), period_s)
        costs_s: dict[int, float] = {}
        for count in (1, num_samples) if num_samples else ladder:
            if count * horizon_steps > MAX_POSES_PER_FORECAST:
                break
            times_s = []
            for _ in range(2):  # the first of each number of samples also finds its memory
                start_s = time.monotonic()
                forecast = predictor.forecast(horizon_steps, count)
                times_s.append(time.monotonic() - start_s)
            costs_s[count] = min(times_s)
            if not num_samples and rest_s + costs_s[count] > _ROOM * period_s:
                break
        if render:
            predictor.render(forecast, [1])
    finally:
        predictor.reset("first frame")
        predictor.epoch, predictor.warmup_frames = epoch, warmup_frames
    predictor.give_back()  # some 20 MB
    # A GPU prepares itself for every number of samples: in the stream it meets none for the first time.
    known = LADDER if predictor.provider == "CPUExecutionProvider" else sorted(costs_s)
    return SampleBudget(period_s, horizon_steps, costs_s, rest_s, known)


def _time_observing(predictor: Predictor, image: np.ndarray, period_s: float) -> float:
    """Return the seconds that a frame takes; the first ones also open what is opened late."""
    times_s = []
    for index in range(4):
        start_s = time.monotonic()
        predictor.observe(image, round(index * period_s * 1e9))
        times_s.append(time.monotonic() - start_s)
    return float(np.median(times_s[1:]))


def _made_up_image(predictor: Predictor, region: Region | None) -> np.ndarray:
    """Return a grey ramp that holds the region the model looks at, in both halves of a stereo image."""
    spec = predictor.manifest.input
    width, height = (spec.width, spec.height) if region is None else (region.x + region.width, region.y + region.height)
    ramp = np.linspace(0, 255, 2 * width, dtype=np.float32)
    return np.tile(ramp.astype(np.uint8), (height, 1))
