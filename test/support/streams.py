"""Made-up camera streams for the tiny bundle: four bright squares that move, one in each quadrant."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gridkp_ros.data.sources import FrameSource, StampedFrame

PERIOD_NS = 1_000_000_000 // 15


def squares(step: int, width: int = 64, height: int = 64, channels: int = 3, speed: float = 0.5) -> np.ndarray:
    """Return a frame, uint8 [height, width(, channels)], with the squares `speed` * step pixels (of 64) to the right.

    Their centres at step 0 are (10, 14), (42, 14), (10, 46), (42, 46) of a 64x64 picture.
    """
    image = np.zeros((64, 64), np.uint8)
    for x, y in ((10, 14), (42, 14), (10, 46), (42, 46)):
        left = round(x + speed * step)
        image[y - 2 : y + 3, left - 2 : left + 3] = 220
    image = np.repeat(np.repeat(image, height // 64, axis=0), width // 64, axis=1)
    return image if channels == 1 else np.repeat(image[:, :, None], channels, axis=2)


class Made(FrameSource):
    """Frames made on the spot: (time in s, image) pairs."""

    def __init__(self, frames: list[tuple[float, np.ndarray]]) -> None:
        super().__init__(Path("made"))
        self._made, self.length = frames, len(frames)

    def _frames(self):
        for time_s, image in self._made:
            yield StampedFrame(round(time_s * 1e9), image)
