"""Human3.6M videos: `S1/Videos/Directions 1.54138969.mp4`, ... about 1000 x 1000 at 50 fps, four cameras.

Protocol of Struct-VRNN, as SRVP's authors had it from them (specs: struct_vrnn, section 9): files that begin with
`_ALL` are passed over; the box (100, 100) - (900, 900) is cut out; every 8th frame (6.25 Hz) is kept; subjects 1, 5,
6, 7, 8 train, 9 and 11 test. The authors then resize with a Lanczos filter; here that is the model's resize policy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from gridkp_ros.data.datasets.base import Item, RawClip, require
from gridkp_ros.data.datasets.published import Box, PublishedDataSet, VideoFrames, declared_frames, stamps_at
from gridkp_ros.data.sources import DataError, natural_key

SUBJECTS = {"train": (1, 5, 6, 7, 8), "test": (9, 11)}
RATE_HZ = 50.0
BOX: Box = (100, 100, 900, 900)
VIDEOS_PER_SUBJECT = 120  # 15 actions, two takes, four cameras


class Human36M(PublishedDataSet):
    """Human3.6M, split by subjects. The label is the action."""

    name = "human36m"
    obtain = (
        "Ask for access at http://vision.imar.ro/human3.6m and unpack each subject's archive of videos, so that "
        "S1/Videos, S5/Videos, ... lie in one folder."
    )

    def __init__(self, root: Path, split: str, *, every: int = 8, partial: bool = False) -> None:
        """every: keep one frame of so many (8 in the papers). partial: take the subjects and videos that are there."""
        super().__init__(root, split, partial=partial, every=every)
        if every < 1:
            raise DataError(f"human36m: every {every}: a positive number of frames is needed")
        self.every = every

    def items(self) -> list[Item]:
        items, subjects = [], SUBJECTS[self.split]
        for subject in subjects:
            folder = self.root / f"S{subject}" / "Videos"
            if not self.partial:
                require(folder.is_dir(), folder, f"the folder of subject {subject}'s videos (*.mp4)", self)
            videos = sorted(
                (f for f in folder.glob("*.mp4") if not f.name.startswith(("_", "."))),
                key=lambda f: natural_key(f.name),
            )
            if not self.partial:
                self.require_all(len(videos), VIDEOS_PER_SUBJECT, folder, f"videos of subject {subject}")
            items += [Item(f"S{subject}/{video.stem}", (video,)) for video in videos]
        self.require_all(len(items), VIDEOS_PER_SUBJECT * len(subjects), self.root, f"videos of split {self.split}")
        return items

    def load(self, item: Item) -> Iterator[RawClip]:
        file = item.files[0]
        count = -(-declared_frames(file) // self.every)
        yield RawClip(
            name=item.name,
            images=VideoFrames(file, count, self.every, BOX),
            stamps_ns=stamps_at(count, RATE_HZ / self.every),
            label=re.sub(r"[ _]\d+$", "", file.name.split(".")[0]),
        )
