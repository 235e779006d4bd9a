"""BAIR robot pushing, small version: `softmotion30_44k/{train,test}/traj_0_to_255.tfrecords`, ...

A record is a trajectory of 30 frames; feature names begin with the frame's number: `0/image_aux1/encoded` and
`0/image_main/encoded` (in spite of the name 64 x 64 x 3 raw bytes, RGB), `0/action` (4) and `0/endeffector_pos` (3).
The numbers in the file names have gaps, as published: 43,264 trajectories train and 256 test. SVG and SAVP use
`image_aux1`; SAVP keeps training file 256 to 511 for validation (specs: metrics, section 8).

The rate of the frames is not published with the data: `rate_hz` only sets the scale of time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gridkp_ros.data.datasets.base import Item, RawClip, require
from gridkp_ros.data.datasets.published import PublishedDataSet, stamps_at
from gridkp_ros.data.datasets.tfrecord import parse_example, read_records
from gridkp_ros.data.sources import DataError, natural_key

FRAMES = 30
SHAPE = (64, 64, 3)
TRAJECTORIES = {"train": 43264 - 256, "val": 256, "test": 256}
VALIDATION_FILE = "traj_256_to_511.tfrecords"
VIEWS = ("image_aux1", "image_main")

_NAME = re.compile(r"traj_(\d+)_to_(\d+)\.tfrecords")


class BAIR(PublishedDataSet):
    """Robot pushing; states are the end effector's positions, actions the four commands."""

    name = "bair"
    obtain = (
        "Obtain bair_robot_pushing_dataset_v0.tar (30 GB) at http://rail.eecs.berkeley.edu/datasets/ "
        "(project: https://sites.google.com/view/sna-visual-mpc) and unpack it."
    )
    splits = ("train", "val", "test")

    def __init__(
        self, root: Path, split: str, *, view: str = "image_aux1", rate_hz: float = 10.0, partial: bool = False
    ) -> None:
        """view: which camera. rate_hz: nominal frame rate. partial: take the record files that are there."""
        super().__init__(root, split, partial=partial, view=view, rate_hz=rate_hz)
        if view not in VIEWS:
            raise DataError(f"bair has no view {view!r}: use one of {', '.join(VIEWS)}")
        if not rate_hz > 0:
            raise DataError(f"bair: rate {rate_hz} Hz: a positive number is needed")
        self.view, self.rate_hz = view, rate_hz
        if (self.root / "softmotion30_44k").is_dir():
            self.root = self.root / "softmotion30_44k"

    def items(self) -> list[Item]:
        folder = self.root / ("test" if self.split == "test" else "train")
        require(folder.is_dir(), folder, "the folder of traj_0_to_255.tfrecords, ...", self)
        files = [f for f in folder.iterdir() if _NAME.fullmatch(f.name)]
        files += (self.root / "val").glob(VALIDATION_FILE)  # SAVP's script moves it there
        if self.split != "test":
            files = [f for f in files if (f.name == VALIDATION_FILE) == (self.split == "val")]
        else:
            files = [f for f in files if f.parent == folder]
        files.sort(key=lambda f: natural_key(f.name))
        counts = [_count(f) for f in files]
        self.require_all(sum(counts), TRAJECTORIES[self.split], folder, f"trajectories of split {self.split}")
        return [Item(f"{self.split}/{f.stem}", (f,), {"count": n}) for f, n in zip(files, counts, strict=True)]

    def load(self, item: Item) -> Iterator[RawClip]:
        file, count = item.files[0], -1
        for count, record in enumerate(read_records(file)):
            try:
                features = parse_example(record)
                images = [np.frombuffer(features[f"{i}/{self.view}/encoded"][0], np.uint8) for i in range(FRAMES)]
                states = [features[f"{i}/endeffector_pos"] for i in range(FRAMES)]
                actions = [features[f"{i}/action"] for i in range(FRAMES)]
                clip = RawClip(
                    name=f"{item.name}/{count}",
                    images=np.stack(images).reshape(FRAMES, *SHAPE),
                    stamps_ns=stamps_at(FRAMES, self.rate_hz),
                    states=np.array(states, np.float32).reshape(FRAMES, 3),
                    actions=np.array(actions, np.float32).reshape(FRAMES, 4),
                )
            except (KeyError, IndexError, ValueError) as error:
                raise DataError(f"{file}: record {count} is no trajectory of 30 frames: {error!r}") from error
            yield clip
        if count + 1 != item.about["count"]:
            raise DataError(
                f"{file} holds {count + 1} of the {item.about['count']} trajectories its name says: it is half copied"
            )


def _count(file: Path) -> int:
    first, last = map(int, _NAME.fullmatch(file.name).groups())
    return last - first + 1
