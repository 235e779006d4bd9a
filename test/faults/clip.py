"""The clip that ships with the package as an endless camera stream whose every image can be told by its header."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from gridkp_ros.node.conversions import image_message, time_message
from gridkp_ros.runtime import Predictor
from gridkp_ros.sim.store import load_prerendered

NS = 1_000_000_000
CAMERA_HZ = 15  # the model's own rate: every good image is absorbed
_FRAMES = 30
HORIZON_STEPS = 15


class Clip:
    """Two seconds of the clip, forth and back without end and without a cut: 640x480, CAMERA_HZ."""

    def __init__(self) -> None:
        self._images = load_prerendered().left[: 2 * _FRAMES : 2]
        self.length = 2 * (_FRAMES - 1)

    def image(self, position: int) -> np.ndarray:
        """Return the picture at a position of the stream, RGB uint8 [480,640,3]."""
        position %= self.length
        return self._images[min(position, self.length - position)]

    def message(self, position: int, stamp_ns: int, encoding: str = "rgb8") -> Image:
        """Return the image of a position; its frame_id says which one it is."""
        header = Header(stamp=time_message(stamp_ns), frame_id=f"clip {position % self.length}")
        return image_message(self.image(position), header, encoding)


def position_of(header: Header) -> int:
    """Return the position in the clip that a message's header tells."""
    return int(header.frame_id.removeprefix("clip "))


@dataclass(frozen=True)
class Undisturbed:
    """What a Predictor that nothing disturbs says at each position of the clip, in pixels.

    keypoints: [N,K,2] as detected; forecasts: [N,T,K,2], means of the steps from there.
    """

    keypoints: np.ndarray
    forecasts: np.ndarray

    @classmethod
    def run(cls, clip: Clip, model: Path) -> Undisturbed:
        """Take the model through the clip once, after a second to warm up, with the node's settings (one sample)."""
        predictor = Predictor(model)
        keypoints, forecasts = [], []
        for count in range(-CAMERA_HZ, clip.length):
            observation = predictor.observe(clip.image(count), (count + 1000) * NS // CAMERA_HZ)
            assert observation.action == "absorbed" and predictor.epoch == 1, "the clip itself must be undisturbed"
            if count >= 0:
                keypoints.append(observation.points)
                forecasts.append(predictor.forecast(HORIZON_STEPS, 1).mean)
        return cls(np.array(keypoints), np.array(forecasts))
