"""What predictor_node has seen and done, and what that says about its health."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from gridkp_ros.runtime import Observation

OK, WARN, ERROR, STALE = 0, 1, 2, 3  # diagnostic_msgs/DiagnosticStatus
_RECENT = 150
_SKIPPING_PERIODS = 5  # a camera in order has a frame absorbed in each period
_RESTARTS, _OF_ABSORBED = 3, 30
_TOLD_S = 5.0  # for so long an error is told
_STUCK_S = 2.0


@dataclass
class Statistics:
    """Counters since activation. Written by the receiving and the predicting thread, each its own fields.

    received: images that arrived; dropped: replaced in the mailbox before they were taken; malformed: refused;
    absorbed, skipped, coasted: as the frame clock decided; forecasts: published; pictures_put_off: absorbed frames
    whose overlay and predicted frames were not drawn because the next frame was due already; busy_s: of the absorbed
    frames with a forecast, inference_s: what the model took of it, scaling the image included; recent_starts: whether
    each of the last absorbed frames was a fresh start;
    skipping_since_s: when the frames skipped in a row began, -1 after an absorbed one; num_samples: of the newest
    forecast; stamp_age_s: how much later than its exposure the newest image arrived, by the node's clock;
    working_since_s: when the frame in work was taken, -1 without one.
    """

    received: int = 0
    dropped: int = 0
    malformed: int = 0
    absorbed: int = 0
    skipped: int = 0
    coasted: int = 0
    forecasts: int = 0
    pictures_put_off: int = 0
    failures: int = 0
    epoch: int = 0
    frames_since_start: int = 0
    ready: bool = False
    start_reason: str = ""
    skip_reason: str = ""
    skipping_since_s: float = -1.0
    last_skip_s: float = -1.0
    last_error: str = ""
    last_error_s: float = -1.0
    last_image_s: float = -1.0
    last_refusal: str = ""
    last_refusal_s: float = -1.0
    active_since_s: float = 0.0
    working_since_s: float = -1.0
    num_samples: int = 0
    stamp_age_s: float = 0.0
    image_size: str = ""
    recent_starts: deque[bool] = field(default_factory=lambda: deque(maxlen=_OF_ABSORBED))
    arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    forecasts_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    busy_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    inference_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    latency_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def count(self, observation: Observation, now_s: float) -> None:
        """Take in what became of a frame."""
        self.epoch = observation.epoch
        self.frames_since_start = observation.frames_since_start
        self.ready = observation.ready
        if observation.action != "absorbed":
            self.skip_reason, self.last_skip_s = observation.skip_reason, now_s
            if self.skipping_since_s < 0:
                self.skipping_since_s = now_s
            self.skipped += 1
            return
        self.skipping_since_s = -1.0
        self.coasted += observation.coasted_steps
        self.recent_starts.append(observation.started)
        if observation.started:
            self.start_reason = observation.start_reason
        self.absorbed += 1

    def count_forecast(self, num_samples: int, latency_ns: int, now_s: float) -> None:
        """Take in a forecast that was published; a latency below zero is unknown."""
        self.forecasts += 1
        self.num_samples = num_samples
        self.forecasts_s.append(now_s)
        if latency_ns >= 0:
            self.latency_s.append(latency_ns * 1e-9)

    def image_rate_hz(self, now_s: float) -> float:
        """Images a second over the last five seconds."""
        return _rate_hz(self.arrivals_s, now_s)

    def input_values(self, now_s: float) -> dict[str, str]:
        """Return what there is to say of the images that come in."""
        intervals_s = np.diff(_recent(self.arrivals_s, now_s))
        return {
            "image_rate_hz": f"{self.image_rate_hz(now_s):.1f}",
            "image_age_s": self._image_age(now_s),
            "jitter_ms": f"{1e3 * np.std(intervals_s):.1f}" if len(intervals_s) else "",
            "image_size": self.image_size,
            "stamp_age_s": f"{self.stamp_age_s:.3f}" if self.last_image_s >= 0 else "",
            "received": str(self.received),
            "dropped": str(self.dropped),
            "malformed": str(self.malformed),
            "last_refusal": self.last_refusal,
            "last_refusal_age_s": f"{now_s - self.last_refusal_s:.0f}" if self.last_refusal else "",
        }

    def _image_age(self, now_s: float) -> str:
        return f"{now_s - self.last_image_s:.2f}" if self.last_image_s >= 0 else "never"

    def values(self, now_s: float) -> dict[str, str]:
        """Return everything as the key-value pairs of a diagnostic status."""
        pairs: dict[str, str] = {
            "received": str(self.received),
            "absorbed": str(self.absorbed),
            "skipped": str(self.skipped),
            "coasted": str(self.coasted),
            "dropped": str(self.dropped),
            "malformed": str(self.malformed),
            "forecasts": str(self.forecasts),
            "pictures_put_off": str(self.pictures_put_off),
            "failures": str(self.failures),
            "epoch": str(self.epoch),
            "frames_since_start": str(self.frames_since_start),
            "last_start": self.start_reason,
            "last_skip": self.skip_reason,
            "image_rate_hz": f"{self.image_rate_hz(now_s):.1f}",
            "image_age_s": self._image_age(now_s),
            "forecast_rate_hz": f"{_rate_hz(self.forecasts_s, now_s):.1f}",
            "num_samples": str(self.num_samples),
            "last_error": self.last_error,
            "last_error_age_s": f"{now_s - self.last_error_s:.0f}" if self.last_error else "",
        }
        for name, series in (
            ("processing_ms", self.busy_s), ("inference_ms", self.inference_s), ("forecast_latency_ms", self.latency_s)
        ):
            recent = tuple(series)
            for percent in (50, 95):
                value = f"{1e3 * np.percentile(recent, percent):.1f}" if recent else ""
                pairs[f"{name}_p{percent}"] = value
        return pairs

    def period_kept(self, period_s: float) -> str:
        """Return the share of the last frames that took no longer than the model's period."""
        busy = tuple(self.busy_s)
        return f"{np.mean(np.array(busy) <= period_s):.2f}" if busy else ""

    def input_verdict(self, now_s: float, *, stale_after_s: float, topic: str, clocks_apart: bool) -> tuple[int, str]:
        """Return the diagnostic level of the images that come in, and its sentence.

        clocks_apart: the newest image's stamp and the node's time cannot be of one clock.
        """
        if self.last_image_s < 0 or now_s - self.last_image_s > stale_after_s:
            return self._stale(now_s, stale_after_s, topic)
        if self.last_refusal and now_s - self.last_refusal_s < _TOLD_S:
            return ERROR, self.last_refusal
        if clocks_apart:
            side = "behind" if self.stamp_age_s > 0 else "ahead of"
            return WARN, (
                f"the stamps on {topic} are {abs(self.stamp_age_s):.1f} s {side} the node's clock: keep the clocks "
                "together, or for a recording play /clock and set use_sim_time"
            )
        return OK, f"{self.image_rate_hz(now_s):.1f} images a second"

    def _stale(self, now_s: float, stale_after_s: float, topic: str) -> tuple[int, str]:
        """Say for how long no image has come."""
        if self.last_image_s >= 0:
            return STALE, f"stale input: no image on {topic} for {now_s - self.last_image_s:.1f} s"
        if now_s - self.active_since_s > stale_after_s:
            return STALE, f"no image yet on {topic}"
        return OK, f"waiting for images on {topic}"

    def verdict(self, now_s: float, *, period_s: float, stale_after_s: float, topic: str) -> tuple[int, str]:
        """Return the diagnostic level and its sentence.

        now_s: of the clock that the other times were taken with; period_s: of the model.
        """
        if self.last_image_s < 0:
            return self._stale(now_s, stale_after_s, topic)
        working_s = now_s - self.working_since_s if self.working_since_s >= 0 else 0.0
        if working_s > max(_STUCK_S, 10 * period_s):
            return ERROR, f"the model has been at one image for {working_s:.1f} s: look at the load of its processor"
        if self.last_error and now_s - self.last_error_s < _TOLD_S:
            return ERROR, self.last_error
        if now_s - self.last_image_s > stale_after_s:
            return self._stale(now_s, stale_after_s, topic)
        skipping_s = self.last_skip_s - self.skipping_since_s if self.skipping_since_s >= 0 else 0.0
        if skipping_s > _SKIPPING_PERIODS * period_s:
            return WARN, f"no image absorbed for {skipping_s:.1f} s ({self.skip_reason}): check the stamps on {topic}"
        busy, restarts = tuple(self.busy_s)[-30:], sum(self.recent_starts) >= _RESTARTS
        usual_s = float(np.median(busy)) if busy else 0.0
        slow = usual_s > period_s and (len(busy) >= 10 or restarts)
        # A frame that takes longer than the stream can be coasted leaves a gap, which makes the next start afresh.
        if restarts and not (slow and self.start_reason.startswith("gap")):
            return WARN, (
                f"{sum(self.recent_starts)} of the last {len(self.recent_starts)} absorbed images started afresh (last "
                f"reason: {self.start_reason}): check that one camera alone publishes on {topic}, with stamps in order "
                "and no gaps longer than max_coast_steps"
            )
        if slow:
            return WARN, (
                f"too slow: {1e3 * usual_s:.0f} ms for each forecast, the model's period is {1e3 * period_s:.0f} ms; "
                "lower num_samples or horizon_steps, unsubscribe from frames and overlay, or use provider cuda"
            )
        return OK, "forecasting" if self.ready else "warming up"

    def fail(self, message: str, now_s: float) -> None:
        """Remember an error for the diagnostics."""
        self.last_error, self.last_error_s = message, now_s

    def refuse(self, message: str, now_s: float) -> None:
        """Remember an image that was refused."""
        self.malformed += 1
        self.last_refusal, self.last_refusal_s = message, now_s
        self.fail(message, now_s)


def _recent(times_s: deque[float], now_s: float) -> list[float]:
    """Return those of the last five seconds; the other thread may be adding to them."""
    return [t for t in tuple(times_s) if now_s - t <= 5.0]


def _rate_hz(times_s: deque[float], now_s: float) -> float:
    recent = _recent(times_s, now_s)
    if len(recent) < 2:
        return 0.0
    return (len(recent) - 1) / max(recent[-1] - recent[0], 1e-6)
