"""MGIF: animated drawings of animals, 900 GIFs train and 100 test, in the folders `train` and `test`.

Pre-processed by the authors of Monkey-Net, used with K = 60 by the class-conditional paper. The delays in the GIFs
are of no account: the protocols count frames, and `rate_hz` only sets the scale of time.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from gridkp_ros.data.datasets.motion_transfer import MotionTransferDataSet


class MGIF(MotionTransferDataSet):
    """MGIF."""

    name = "mgif"
    obtain = (
        "Obtain moving-gif.zip through https://github.com/AliaksandrSiarohin/monkey-net (section Datasets, MGif) and "
        "unpack it; the folder with train and test in it is the root."
    )
    published: ClassVar[dict[str, int]] = {"train": 900, "test": 100}

    def __init__(self, root: Path, split: str, *, rate_hz: float = 10.0, partial: bool = False) -> None:
        """rate_hz: nominal frame rate. partial: take what is there."""
        super().__init__(root, split, rate_hz=rate_hz, partial=partial)
