"""Makes the clip that ships with the package: `python -m gridkp_ros.sim.prerender` (needs PyAV and a GL library)."""

from __future__ import annotations

import os
from pathlib import Path

import av

from .episode import save_episode
from .rendering import generate_episode
from .store import ASSETS, PRERENDERED_CONFIG, PRERENDERED_SEED


def write_prerendered(folder: str | os.PathLike[str] = ASSETS, crf: int = 20) -> None:
    """Render the clip that ships with the package; write its video and truth (needs PyAV and GL)."""
    folder = Path(folder)
    episode = generate_episode(PRERENDERED_CONFIG, PRERENDERED_SEED)
    folder.mkdir(parents=True, exist_ok=True)
    config = episode.config
    with av.open(str(folder / "prerendered.mp4"), "w") as container:
        stream = container.add_stream(
            "libx264", rate=round(config.rate_hz), options={"crf": str(crf), "preset": "slow"}
        )
        stream.width, stream.height, stream.pix_fmt = config.width, config.height, "yuv420p"
        for image in episode.left:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    save_episode(folder / "prerendered.npz", episode, images=False)


if __name__ == "__main__":
    write_prerendered()
