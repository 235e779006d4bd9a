"""What an episode of the simulated endoscope is asked for: sizes, rates and randomised ranges."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Named points of the truth, in the order of every `points_px` array. A wrist is the pivot of the two jaws.
POINT_NAMES = (
    "psm1_tip_left",
    "psm1_tip_right",
    "psm1_wrist",
    "psm2_tip_left",
    "psm2_tip_right",
    "psm2_wrist",
)

#: Gesture labels; the integers in `Episode.gestures` index this tuple.
GESTURES = ("idle", "reach", "grasp", "transfer", "release", "pull")

#: Part of the cache key: raised whenever the same configuration and seed give other pixels or other truth.
SIM_VERSION = 2

VIEW_RADIUS_M = 0.085  # beyond this the surface ends and the instruments no longer reach
BACKGROUNDS = ("tissue", "peg_board", "random")


class SimError(Exception):
    """The simulator cannot do what it was asked; the message says what, where and what to do."""


@dataclass(frozen=True)
class SimConfig:
    """One kind of episode. Equal configuration and seed give equal pixels on one GL library.

    The camera's field of view always has the shape `view_aspect` (4:3 as a da Vinci endoscope's). An image
    of another shape, 64x64 say, is that view stretched, as a model with the resize policy "stretch" would
    see it.

    width, height: size of the images given out, pixels. The motion of a seed is the same at any size and rate,
    but its textures are drawn for their size, so that another size may look different.
    rate_hz, duration_s: frames per second and length of the episode of round(rate_hz * duration_s) frames.
    stereo: render the right eye as well.
    supersample: rendered this many times larger, then averaged over areas (anti-aliasing).
    background: "tissue", "peg_board" or "random" (mostly tissue).
    view_aspect: width / height of the field of view.
    fov_y_deg: range the vertical field of view is drawn from, degrees.
    working_distance_m: range of the distance from the camera to the tissue along the optical axis, metres.
    camera_tilt_deg: largest tilt of the optical axis away from the tissue's normal, degrees.
    baseline_m: distance between the two eyes, metres.
    peak_speed_m_s: range the highest tip speed of a reach is drawn from, metres per second.
    tremor_m: range of the standard deviation of hand tremor (8 to 12 Hz) at the tip, metres.
    activity: how little the hands rest between two tasks, 0 to 1: pauses last 3.2 s on average at 0, 0.2 s at 1.
    vignette_probability: how often an episode has the endoscope's dark rim or falling-off light.
    noise: largest standard deviation of the sensor noise, grey levels of 255 in a 64x64 image.
    out_of_view_probability: how often an instrument leaves the picture for a while during an episode.
    """

    width: int = 640
    height: int = 480
    rate_hz: float = 30.0
    duration_s: float = 10.0
    stereo: bool = False
    supersample: int = 1
    background: str = "random"
    view_aspect: float = 4.0 / 3.0
    fov_y_deg: tuple[float, float] = (42.0, 56.0)
    working_distance_m: tuple[float, float] = (0.042, 0.075)
    camera_tilt_deg: float = 22.0
    baseline_m: float = 0.0052
    peak_speed_m_s: tuple[float, float] = (0.012, 0.034)
    tremor_m: tuple[float, float] = (0.00001, 0.00006)
    activity: float = 0.85
    vignette_probability: float = 0.75
    noise: float = 4.0
    out_of_view_probability: float = 0.12

    def __post_init__(self) -> None:
        for name in ("width", "height", "supersample"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise SimError(f"SimConfig.{name}={value!r}: must be a whole number >= 1")
        if max(self.render_size) > 4096:
            raise SimError(
                f"SimConfig {self.width}x{self.height} with supersample={self.supersample} renders "
                f"{self.render_size[0]}x{self.render_size[1]} pixels: at most 4096 on a side"
            )
        for name in ("rate_hz", "duration_s", "view_aspect", "baseline_m"):
            if not getattr(self, name) > 0:
                raise SimError(f"SimConfig.{name}={getattr(self, name)!r}: must be > 0")
        if self.n_frames < 1:
            raise SimError(f"SimConfig of {self.duration_s} s at {self.rate_hz} Hz has no frame: make it longer")
        if self.background not in BACKGROUNDS:
            raise SimError(f"SimConfig.background={self.background!r}: use one of {', '.join(BACKGROUNDS)}")
        for name, limit in (
            ("fov_y_deg", 120.0),
            ("working_distance_m", 0.3),
            ("peak_speed_m_s", 0.5),
            ("tremor_m", 0.005),
        ):
            low, high = getattr(self, name)
            if not (0 <= low <= high <= limit) or high == 0:
                raise SimError(f"SimConfig.{name}=({low}, {high}): need 0 <= low <= high <= {limit} and high > 0")
        view_m = (
            self.working_distance_m[1] * math.tan(math.radians(self.fov_y_deg[1]) / 2) * math.hypot(1, self.view_aspect)
        )
        if view_m > VIEW_RADIUS_M:
            raise SimError(
                f"SimConfig sees {view_m:.3f} m from the axis to the picture's corner (working_distance_m up to "
                f"{self.working_distance_m[1]}, fov_y_deg up to {self.fov_y_deg[1]}, view_aspect "
                f"{self.view_aspect:.3g}), but the scene is made for {VIEW_RADIUS_M} m: make one of them smaller"
            )
        for name in ("activity", "vignette_probability", "out_of_view_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise SimError(f"SimConfig.{name}={getattr(self, name)!r}: a fraction, 0 to 1")
        if not 0 <= self.camera_tilt_deg <= 45:
            raise SimError(f"SimConfig.camera_tilt_deg={self.camera_tilt_deg!r}: use 0 to 45 degrees")
        if self.noise < 0:
            raise SimError(f"SimConfig.noise={self.noise!r}: must be >= 0")

    @property
    def n_frames(self) -> int:
        """Number of frames of the episode."""
        return round(self.rate_hz * self.duration_s)

    @property
    def render_size(self) -> tuple[int, int]:
        """Rendered (width, height), pixels: of the view's aspect and nowhere smaller than the image."""
        height = max(self.height, round(self.width / self.view_aspect)) * self.supersample
        return round(height * self.view_aspect), height
