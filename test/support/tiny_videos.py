"""Small real video files whose frames tell their number."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np


def numbered(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Return a grey RGB image whose brightness is 5 times its number."""
    return np.full((height, width, 3), 5 * index, np.uint8)


def number_of(image: np.ndarray) -> int:
    """Return the number of the frame an image was written as, from its middle."""
    height, width = image.shape[:2]
    middle = image[height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2]
    return round(float(middle.mean()) / 5)


def write_video(path: Path, images: Iterable[np.ndarray], rate: int = 25) -> Path:
    """Write a video: MPEG-4 in .avi, H.264 in .mp4, as the published data sets have them."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    codec, options = (
        ("mpeg4", {"qmin": "1", "qmax": "1", "g": "1"})
        if path.suffix == ".avi"
        else ("libx264", {"preset": "ultrafast", "g": "1"})
    )
    with av.open(str(path), "w") as container:
        stream = None
        for image in images:
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(rate), options=options)
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path
