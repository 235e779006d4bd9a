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


@dataclass
class Statistics:
    """Counters since activation. Written by the receiving and the predicting thread, each its own fields.

    received: images that arrived; dropped: replaced in the mailbox before they were taken; malformed: refused;
    absorbed, skipped, coasted: as the frame clock decided; forecasts: published; pictures_put_off: absorbed frames
    whose overlay and predicted frames were not drawn because the next frame was due already; busy_s: of the absorbed
    frames with a forecast, inference_s: what the model took of it, scaling the image included; recent_starts: whether
    each of the last absorbed frames was a fresh start;
    skipping_since_s: when the frames skipped in a row began, -1 after an absorbed one.
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
    active_since_s: float = 0.0
    recent_starts: deque[bool] = field(default_factory=lambda: deque(maxlen=_OF_ABSORBED))
    arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
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

    def image_rate_hz(self, now_s: float) -> float:
        """Images a second over the last five seconds."""
        recent = [t for t in tuple(self.arrivals_s) if now_s - t <= 5.0]
        if len(recent) < 2:
            return 0.0
        return (len(recent) - 1) / max(recent[-1] - recent[0], 1e-6)

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
            "image_age_s": f"{now_s - self.last_image_s:.2f}" if self.last_image_s >= 0 else "never",
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

    def verdict(self, now_s: float, *, period_s: float, stale_after_s: float, topic: str) -> tuple[int, str]:
        """Return the diagnostic level and its sentence.

        now_s: of the clock that the other times were taken with; period_s: of the model.
        """
        if self.last_image_s < 0:
            if now_s - self.active_since_s > stale_after_s:
                return STALE, f"no image yet on {topic}"
            return OK, f"waiting for images on {topic}"
        if self.last_error and now_s - self.last_error_s < 5.0:
            return ERROR, self.last_error
        age_s = now_s - self.last_image_s
        if age_s > stale_after_s:
            return STALE, f"stale input: no image on {topic} for {age_s:.1f} s"
        skipping_s = self.last_skip_s - self.skipping_since_s if self.skipping_since_s >= 0 else 0.0
        if skipping_s > _SKIPPING_PERIODS * period_s:
            return WARN, f"no image absorbed for {skipping_s:.1f} s ({self.skip_reason}): check the stamps on {topic}"
        busy, restarts = tuple(self.busy_s)[-30:], sum(self.recent_starts) >= _RESTARTS
        usual_s = float(np.median(busy)) if busy else 0.0
        # A frame that takes longer than the stream can be coasted makes the next one start afresh.
        if usual_s > period_s and (len(busy) >= 10 or restarts):
            return WARN, (
                f"too slow: {1e3 * usual_s:.0f} ms for each forecast, the model's period is {1e3 * period_s:.0f} ms; "
                "lower num_samples or horizon_steps, unsubscribe from frames and overlay, or use provider cuda"
            )
        if restarts:
            return WARN, (
                f"{sum(self.recent_starts)} of the last {len(self.recent_starts)} absorbed images started afresh (last "
                f"reason: {self.start_reason}): check that one camera alone publishes on {topic}, with stamps in order "
                "and no gaps longer than max_coast_steps"
            )
        return OK, "forecasting" if self.ready else "warming up"

    def fail(self, message: str, now_s: float) -> None:
        """Remember an error for the diagnostics."""
        self.last_error, self.last_error_s = message, now_s
