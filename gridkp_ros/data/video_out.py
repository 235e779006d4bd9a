"""Write H.264 video files that any browser plays."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np

from gridkp_ros.data.sources import DataError


class VideoWriter:
    """An .mp4 file (H.264, yuv420p), written frame by frame; the size is that of the first frame, rounded down to even.

    Use as a context manager. The file is complete only after `close`.
    """

    def __init__(self, path: str | Path, rate_hz: float, *, crf: int = 23) -> None:
        if not rate_hz > 0:
            raise DataError(f"{path}: a video needs a positive frame rate, not {rate_hz}")
        self.path = Path(path)
        self.frames = 0
        self._rate = Fraction(rate_hz).limit_denominator(1001)
        self._crf = crf
        self._container = None
        self._stream = None

    def write(self, image: np.ndarray) -> None:
        """Append a frame, uint8 [H,W,3] RGB. DataError if its size differs from the first frame's."""
        import av

        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DataError(f"{self.path}: a frame must be uint8 [H,W,3], not {image.dtype} {image.shape}")
        height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        if self._container is None:
            self._container = av.open(str(self.path), "w", options={"movflags": "+faststart"})
            self._stream = self._container.add_stream("libx264", rate=self._rate)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = {"crf": str(self._crf), "preset": "veryfast"}
        if (self._stream.width, self._stream.height) != (width, height):
            raise DataError(
                f"{self.path}: a frame of {width}x{height} in a video of {self._stream.width}x{self._stream.height}"
            )
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
        self.frames += 1

    def close(self) -> None:
        """Finish the file. Without a frame written there is none."""
        container, self._container = self._container, None
        if container is None:
            return
        for packet in self._stream.encode():
            container.mux(packet)
        container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def shortened(path: Path, max_bytes: int) -> tuple[bytes, float]:
    """Return a video file's bytes, cut short after `max_bytes` of pictures (never before the first), and its seconds.

    Nothing is encoded again. The file must be one that `VideoWriter` wrote.
    """
    import av

    content = io.BytesIO()
    with av.open(str(path)) as source, av.open(content, "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        size = count = 0
        for packet in source.demux(video=0):
            size += packet.size
            if packet.dts is None or (count and size > max_bytes):
                break
            packet.stream = stream
            target.mux(packet)
            count += 1
        rate = source.streams.video[0].average_rate
    return content.getvalue(), float(count / rate)
