"""Human3.6M videos: `S1/Videos/Directions 1.54138969.mp4`, ... about 1000 x 1000 at 50 fps, four cameras.

Protocol of Struct-VRNN, as SRVP's authors had it from them (specs: struct_vrnn, section 9): files that begin with
`_ALL` are passed over; the box (100, 100) - (900, 900) is cut out and resized to 64 x 64 with Pillow's Lanczos filter;
every 8th frame (6.25 Hz) is kept; subjects 1, 5, 6, 7, 8 train, 9 and 11 test.

The joints, where wanted, are `S1/MyPoseFeatures/D2_Positions/Directions 1.54138969.cdf`: a row for each frame of x and
y of 32 joints, in pixels of the whole frame.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gridkp_ros.data.datasets.base import Item, RawClip, require
from gridkp_ros.data.datasets.published import Box, PublishedDataSet, VideoFrames, count_frames, stamps_at
from gridkp_ros.data.sources import DataError, natural_key

SUBJECTS = {"train": (1, 5, 6, 7, 8), "test": (9, 11)}
RATE_HZ = 50.0
BOX: Box = (100, 100, 900, 900)
VIDEOS_PER_SUBJECT = 120  # 15 actions, two takes, four cameras
JOINTS = tuple(f"joint_{i}" for i in range(32))
_SLACK = 8  # frames by which a video may be longer than its joints, or shorter


class Human36M(PublishedDataSet):
    """Human3.6M, split by subjects. The label is the action; the points are 32 joints, if `poses` asks for them."""

    name = "human36m"
    obtain = (
        "Ask for access at http://vision.imar.ro/human3.6m and unpack each subject's archive of videos, so that "
        "S1/Videos, S5/Videos, ... lie in one folder."
    )

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        every: int = 8,
        size: int | None = 64,
        poses: bool = False,
        partial: bool = False,
    ) -> None:
        """Open it.

        every: keep one frame of so many (8 in the papers). size: what the box is resized to; None leaves its 800 x 800
        pixels. poses: read the joints, too. partial: take the subjects and videos that are there.
        """
        super().__init__(root, split, partial=partial, every=every, size=size, poses=poses)
        if every < 1 or (size is not None and size < 1):
            raise DataError(f"human36m: every {every} and size {size}: positive numbers are needed")
        self.every, self.size, self.poses = every, size, poses

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
            for video in videos:
                files = (video,)
                if self.poses:
                    joints = folder.parent / "MyPoseFeatures" / "D2_Positions" / f"{video.stem}.cdf"
                    if not self.require_file(joints, f"the joints of {video.name}"):
                        continue
                    files = (video, joints)
                items.append(Item(f"S{subject}/{video.stem}", files))
        self.require_all(len(items), VIDEOS_PER_SUBJECT * len(subjects), self.root, f"videos of split {self.split}")
        return items

    def load(self, item: Item) -> Iterator[RawClip]:
        file = item.files[0]
        frames, points = count_frames(file), None
        if self.poses:
            joints = read_joints(item.files[1])
            if abs(frames - len(joints)) > _SLACK:
                raise DataError(
                    f"{file} holds {frames} frames, but {item.files[1]} joints for {len(joints)}: "
                    "one of them is damaged or half copied"
                )
            frames = min(frames, len(joints))
            points = joints[: frames : self.every] - np.float32(BOX[:2])
            if self.size is not None:
                points = (points + 0.5) * (self.size / (BOX[2] - BOX[0])) - 0.5  # pixel 0 is centred on 0
        count = -(-frames // self.every)
        images = VideoFrames(file, count, self.every, BOX)
        yield RawClip(
            name=item.name,
            images=images if self.size is None else _Resized(images, self.size),
            stamps_ns=stamps_at(count, RATE_HZ / self.every),
            points=points,
            point_names=JOINTS if self.poses else (),
            label=re.sub(r"[ _]\d+$", "", file.name.split(".")[0]),
        )


@dataclass(frozen=True)
class _Resized:
    """Images resized as the papers do it."""

    images: VideoFrames
    size: int

    def __iter__(self) -> Iterator[np.ndarray]:
        from PIL import Image

        for image in self.images:
            yield np.asarray(Image.fromarray(image).resize((self.size, self.size), Image.Resampling.LANCZOS))


def read_joints(path: Path) -> np.ndarray:
    """Return the joints of every frame, float32 [N,32,2], in pixels of the whole frame. Raises DataError if damaged."""
    import cdflib

    try:
        pose = np.asarray(cdflib.CDF(str(path)).varget("Pose"), np.float32)
        return pose.reshape(-1, len(JOINTS), 2)
    except Exception as error:  # cdflib raises what its parser stumbles over
        raise DataError(f"{path} is no file of 32 joints for each frame: {error}: it is damaged") from error
