"""Penn Action: 2326 videos of 15 actions as JPEGs, with 13 joints in every frame.

Layout: `frames/0001/000001.jpg`, ... and `labels/0001.mat`, ... with `action`, `x`, `y` and `visibility` [N,13],
`train` (1, otherwise test), `nframes`. Coordinates are MATLAB's (the first pixel is 1; joints out of the frame are
stored as 1, invisible); here the first pixel is 0. The class-conditional paper trains on nine of the actions with lists
of its own: put its `train_set.txt` and `test_set.txt` (lines `frames/2289 0`) into a folder and give that as
`split_list`. There the shorter side is scaled to 128 and the middle cut out, which is the model's resize policy.

The frame rate is not published: `rate_hz` only sets the scale of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gridkp_ros.data.datasets.base import Item, RawClip, require
from gridkp_ros.data.datasets.published import ImageFiles, PublishedDataSet, load_mat, stamps_at
from gridkp_ros.data.sources import DataError

SEQUENCES = 2326
JOINTS = (
    "head",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
_FIELDS = ("action", "x", "y", "visibility", "train")


class PennAction(PublishedDataSet):
    """Penn Action, split by the flag in each label file or by the class-conditional paper's lists."""

    name = "penn_action"
    obtain = "Obtain Penn_Action.tar.gz at http://dreamdragon.github.io/PennAction/ and unpack it."

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        split_list: str | None = None,
        rate_hz: float = 30.0,
        partial: bool = False,
    ) -> None:
        """split_list: folder of train_set.txt and test_set.txt. rate_hz: nominal rate. partial: take what is there."""
        super().__init__(root, split, partial=partial, rate_hz=rate_hz)
        if not rate_hz > 0:
            raise DataError(f"penn_action: rate {rate_hz} Hz: a positive number is needed")
        self.split_list, self.rate_hz = split_list, rate_hz
        if (self.root / "Penn_Action").is_dir():
            self.root = self.root / "Penn_Action"

    def items(self) -> list[Item]:
        labels = self.root / "labels"
        if self.split_list is None:
            require(labels.is_dir(), labels, "the folder of 0001.mat, ...", self)
            names = sorted(f.stem for f in labels.glob("*.mat"))
            self.require_all(len(names), SEQUENCES, labels, "label files")
        else:
            names = self._listed(Path(self.split_list) / f"{self.split}_set.txt")
        items = []
        for name in names:
            label, folder = labels / f"{name}.mat", self.root / "frames" / name
            if not self.require_file(label, f"the joints of sequence {name}"):
                continue
            if self.split_list is None:
                is_train = int(load_mat(label, _FIELDS)["train"]) == 1
                if is_train != (self.split == "train"):
                    continue
            if self.require_file(folder / "000001.jpg", f"the first frame of sequence {name}"):
                items.append(Item(name, (label, folder)))
        require(bool(items), self.root / "frames", f"a folder of frames for a sequence of split {self.split}", self)
        return items

    def _listed(self, path: Path) -> list[str]:
        require(path.is_file(), path, "the list of the split, lines such as 'frames/2289 0',", self)
        return sorted(Path(line.split()[0]).name for line in path.read_text().splitlines() if line.strip())

    def load(self, item: Item) -> Iterator[RawClip]:
        label, folder = item.files
        mat = load_mat(label, _FIELDS)
        x, y, visible = (np.atleast_2d(np.asarray(mat[k], np.float32)) for k in ("x", "y", "visibility"))
        if not (x.shape == y.shape == visible.shape and x.shape[1] == len(JOINTS)):
            raise DataError(f"{label}: x {x.shape}, y {y.shape} and visibility {visible.shape} are not all [N,13]")
        files = tuple(folder / f"{i + 1:06d}.jpg" for i in range(len(x)))
        for file in files:
            require(file.is_file(), file, f"one of the {len(x)} frames of the sequence", self)
        yield RawClip(
            name=item.name,
            images=ImageFiles(files),
            stamps_ns=stamps_at(len(files), self.rate_hz),
            points=np.stack([x, y], -1) - 1.0,
            visible=visible > 0,
            point_names=JOINTS,
            label=str(mat["action"]),
        )
