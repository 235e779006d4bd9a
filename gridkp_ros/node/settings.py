"""The parameters of predictor_node, each declared once: default, description, range, and what a change restarts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from gridkp_ros.geometry import GeometryError, Region, seen_parts
from gridkp_ros.image_messages import MAX_IMAGE_PIXELS
from gridkp_ros.runtime.predictor import MAX_POSES_PER_FORECAST

# What has to be made anew when a parameter changes while the node runs.
PREDICTOR, SUBSCRIPTION = "predictor", "subscription"
_MOST_FRAMES = 100  # in one message, each as large as the camera's image


class SettingsError(ValueError):
    """A parameter's value cannot be used, alone or beside the others."""


def _parameter(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    restarts: str = "",
    read_only: bool = False,
) -> Any:
    metadata = {
        "description": description, "low": low, "high": high, "choices": choices, "restarts": restarts,
        "read_only": read_only,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """Values of all parameters; every field's metadata holds its description, range and choices."""

    autostart: bool = _parameter(
        False, "Configure and activate at start, without a lifecycle manager.", read_only=True
    )
    model: str = _parameter(
        "", "Folder of the model bundle, or the name of one under models/; empty: dvrk_sim.", restarts=PREDICTOR
    )
    provider: str = _parameter(
        "cpu", "ONNX Runtime execution provider; auto takes CUDA where it works.",
        choices=("cpu", "cuda", "tensorrt", "auto"), restarts=PREDICTOR,
    )
    variant: str = _parameter(
        "", "Reduced variant of the model's graphs, such as int8 (gridkp info says which there are and what they "
        "lose); empty: the graphs as they are.", restarts=PREDICTOR,
    )
    num_threads: int = _parameter(
        0, "Threads of the CPU provider; 0: ONNX Runtime chooses.", low=0, high=256, restarts=PREDICTOR
    )
    horizon_steps: int = _parameter(15, "Steps forecast, of the model's period each.", low=1, high=1000)
    num_samples: int = _parameter(
        0, "Sampled futures in each forecast; 0: as many as fit the model's period on this machine. With 8 or more, "
        "the central one (sample 0) is left out of mean and covariance.", low=0, high=256,
    )
    temperature: float = _parameter(1.0, "Factor on the latent noise of samples.", low=0.01, high=10.0)
    seed: int = _parameter(
        0, "Seed of the latent noise: the same images give the same forecasts.", low=0, high=2**31 - 1
    )
    max_coast_steps: int = _parameter(
        15, "Most steps the state is carried through missing frames; a longer gap starts afresh.",
        low=0, high=1000, restarts=PREDICTOR,
    )
    warmup_frames: int = _parameter(
        5, "Frames absorbed after a fresh start before forecasts are published.", low=1, high=1000, restarts=PREDICTOR
    )
    scene_cut_threshold: float = _parameter(
        0.24, "How unlike two images must be to count as another scene, 0 to 1; 1: never.",
        low=0.01, high=1.0, restarts=PREDICTOR,
    )
    region_of_interest: tuple[int, ...] = _parameter(
        (0, 0, 0, 0), "Part of the image (of the stereo half where one is set) the model sees: x, y, width, height in "
        "pixels; width and height 0: all.", restarts=PREDICTOR,
    )
    stereo_half: str = _parameter(
        "", "Which eye of a side-by-side stereo image the model sees, or both; empty: the whole image.",
        choices=("", "left", "right", "both"), restarts=PREDICTOR,
    )
    images_rectified: bool = _parameter(
        False, "The images are rectified already (image_rect); false: points are rectified by camera_info.",
    )
    marker_depth_m: float = _parameter(
        0.06, "Depth of the plane that ~/markers of a single camera lie on, metres; how deep points are is not known.",
        low=0.001, high=100.0,
    )
    max_image_pixels: int = _parameter(
        MAX_IMAGE_PIXELS, "Images of more pixels are refused; compressed ones before they are decoded.",
        low=1, high=1 << 30,
    )
    transport: str = _parameter(
        "raw", "What to subscribe to: raw is `image`, compressed is `image/compressed`.",
        choices=("raw", "compressed"), restarts=SUBSCRIPTION,
    )
    reliability: str = _parameter(
        "auto", "QoS reliability of the image subscription; auto: reliable if all publishers are, else best_effort.",
        choices=("auto", "reliable", "best_effort"), restarts=SUBSCRIPTION,
    )
    publish_frames: bool = _parameter(True, "Publish predicted frames while somebody subscribes to ~/frames.")
    frame_steps: tuple[int, ...] = _parameter(
        (5, 10, 15),
        "Steps of the forecast whose frames are published, from 1; those beyond horizon_steps are left out.",
    )
    frames_at_source_size: bool = _parameter(
        True, "Put predicted frames back in place in an image of the source's size and encoding; false: model size."
    )
    publish_overlay: bool = _parameter(True, "Publish the drawn image while somebody subscribes to ~/overlay.")
    input_latency: float = _parameter(
        0.0, "Seconds by which header.stamp is later than the exposure, as of a driver that stamps on arrival; "
        "forecasts then count their times from the exposure.", low=-1.0, high=1.0,
    )
    stale_after_s: float = _parameter(
        1.0, "Seconds without an image after which the diagnostics report stale input.", low=0.05, high=3600.0
    )

    def __post_init__(self) -> None:
        for spec in fields(self):
            value, choices = getattr(self, spec.name), spec.metadata["choices"]
            if choices and value not in choices:
                allowed = ", ".join(repr(c) for c in choices)
                raise SettingsError(f"{spec.name} is {value!r}: use one of {allowed}")
            low, high = spec.metadata["low"], spec.metadata["high"]
            if low is not None and not low <= value <= high:
                raise SettingsError(f"{spec.name} is {value}: use {low} to {high}")
        if self.horizon_steps * self.num_samples > MAX_POSES_PER_FORECAST:
            raise SettingsError(
                f"horizon_steps {self.horizon_steps} times num_samples {self.num_samples} is more than "
                f"{MAX_POSES_PER_FORECAST}: lower one of them"
            )
        if len(self.frame_steps) > _MOST_FRAMES:
            raise SettingsError(
                f"frame_steps has {len(self.frame_steps)} numbers: at most {_MOST_FRAMES} frames are drawn"
            )
        wrong = [s for s in self.frame_steps if s < 1]
        if wrong:
            raise SettingsError(f"frame_steps {wrong}: steps count from 1, the first predicted one")
        self.region()

    def region(self) -> Region | None:
        """Return the region of interest, None for the whole image."""
        if len(self.region_of_interest) != 4:
            raise SettingsError(
                f"region_of_interest has {len(self.region_of_interest)} numbers: give x, y, width, height (0, 0, 0, 0: "
                "the whole image)"
            )
        if self.region_of_interest[2:] == (0, 0):
            return None
        try:
            return Region(*self.region_of_interest)
        except GeometryError as error:
            raise SettingsError(f"region_of_interest: {error}") from error

    def check_region(self, image_width: int, image_height: int) -> None:
        """Raise SettingsError if images of this size do not hold the region of interest."""
        try:
            seen_parts(image_width, image_height, self.stereo_half, self.region())
        except GeometryError as error:
            raise SettingsError(f"region_of_interest: {error}") from error

    def changed(self, values: Mapping[str, Any]) -> tuple[Settings, set[str]]:
        """Return the settings with new values, and what a change of them restarts. Raises SettingsError."""
        new = {}
        for name, value in values.items():
            new[name] = tuple(value) if isinstance(getattr(self, name), tuple) else value
        settings = replace(self, **new)
        restarts = {
            spec.metadata["restarts"]
            for spec in fields(self)
            if getattr(self, spec.name) != getattr(settings, spec.name)
        }
        return settings, restarts - {""}
