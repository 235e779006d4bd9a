"""BBC Pose: 20 videos of sign-language interpreters as JPEGs, seven joints; 10 train, 5 validate, 5 test.

Layout: `1/1.jpg`, ... to folder `20`, and `bbcpose.mat` from the code archive (in `code`, or in
`bbcpose_extbbcpose_code_1.0`, or in the root): a struct for each video with `type` (train, val or test), the numbers
of its annotated frames and their joints [2,7,N]: `train_frames`, `train_joints`, or, for test videos,
`test_frames`, `test_joints`, set by hand. Coordinates are MATLAB's (first pixel 1); here the first pixel is 0.
Later structs belong to Extended BBC Pose and are passed over.

Annotated frames alone are read, cut to the box of +-150 pixels round the middle of the joints' bounding box, clipped
at the border; the protocol then resizes it to 128 x 128 (specs: metrics, section 13; landmarks, section 6). `states`
are that box as left, top, width and height in the whole frame, so that predictions can be mapped back to it.
`crop` "frame" moves the box with each frame, as the 6-pixel accuracy has it; "clip" holds it still at the mean of a
stretch of consecutive frames, for a video that does not shake; "none" leaves the frame whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gridkp_ros.data.datasets.base import Item, RawClip, require
from gridkp_ros.data.datasets.published import Box, ImageFiles, PublishedDataSet, load_mat, read_image, stamps_at
from gridkp_ros.data.sources import DataError

VIDEOS = 20
RATE_HZ = 25.0
HALF_BOX = 150
JOINTS = (
    "head",
    "right_wrist",
    "left_wrist",
    "right_elbow",
    "left_elbow",
    "right_shoulder",
    "left_shoulder",
)
CROPS = ("frame", "clip", "none")
_FOLDERS = ("code", "bbcpose_extbbcpose_code_1.0", ".")


class BBCPose(PublishedDataSet):
    """BBC Pose, split by videos as published. A clip is a stretch of consecutive annotated frames."""

    name = "bbc_pose"
    obtain = (
        "Obtain bbcpose_data_1.0.zip (20 archives of frames) and bbcpose_extbbcpose_code_1.0.tgz at "
        "https://www.robots.ox.ac.uk/~vgg/data/pose/ and unpack all of them into one folder."
    )
    splits = ("train", "val", "test")

    def __init__(self, root: Path, split: str, *, crop: str = "frame", partial: bool = False) -> None:
        """crop: frame, clip or none. partial: take the videos that are there."""
        super().__init__(root, split, partial=partial, crop=crop)
        if crop not in CROPS:
            raise DataError(f"bbc_pose has no crop {crop!r}: use one of {', '.join(CROPS)}")
        self.crop = crop

    def items(self) -> list[Item]:
        candidates = [self.root / folder / "bbcpose.mat" for folder in _FOLDERS]
        annotations = next((f for f in candidates if f.is_file()), candidates[0])
        require(annotations.is_file(), annotations, "the joints of every video", self)
        wanted, items = 0, []
        for number, video in enumerate(self._videos(annotations), start=1):
            if str(video.type) != self.split:
                continue
            wanted += 1
            folder = self.root / str(number)
            frames, _ = _annotated(video, annotations)
            first = folder / f"{int(frames[0])}.jpg"
            if self.require_file(first, f"the first annotated frame of video {number}"):
                items.append(Item(str(number), (annotations, folder), {"video": number}))
        self.require_all(len(items), wanted, self.root, f"videos of split {self.split}")
        return items

    def _videos(self, annotations: Path) -> list[Any]:
        videos = list(np.atleast_1d(load_mat(annotations, ["bbcpose"])["bbcpose"]))[:VIDEOS]
        fields = ("type", "train_frames", "train_joints", "test_frames", "test_joints")
        if not all(hasattr(video, field) for video in videos for field in fields):
            raise DataError(f"{annotations}: its structs lack one of {', '.join(fields)}: it is another file")
        return videos

    def load(self, item: Item) -> Iterator[RawClip]:
        annotations, folder = item.files
        frames, joints = _annotated(self._videos(annotations)[item.about["video"] - 1], annotations)
        order = np.argsort(frames, kind="stable")
        frames, joints = frames[order], joints[order]
        for number, stretch in enumerate(np.split(np.arange(len(frames)), np.flatnonzero(np.diff(frames) != 1) + 1)):
            files = [folder / f"{frame}.jpg" for frame in frames[stretch]]
            for file in files:
                require(file.is_file(), file, "an annotated frame", self)
            height, width = read_image(files[0]).shape[:2]
            boxes = _boxes(joints[stretch], self.crop, width, height)
            yield RawClip(
                name=f"{item.name}#{number}",
                images=ImageFiles(tuple(files), boxes),
                stamps_ns=stamps_at(len(files), RATE_HZ),
                points=joints[stretch] - np.array([box[:2] for box in boxes], np.float32)[:, None],
                visible=np.ones(joints[stretch].shape[:2], bool),
                point_names=JOINTS,
                states=np.array([(a, b, c - a, d - b) for a, b, c, d in boxes], np.float32),
            )


def _annotated(video: Any, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the annotated frames' numbers, int64 [N], and joints in pixels of the whole frame, float32 [N,7,2]."""
    kind = "test" if str(video.type) == "test" else "train"
    frames = np.atleast_1d(np.asarray(getattr(video, f"{kind}_frames"), np.int64))
    joints = np.asarray(getattr(video, f"{kind}_joints"), np.float32)
    joints = joints[..., None] if joints.ndim == 2 else joints  # one frame: MATLAB drops the last axis
    if not len(frames) or joints.shape != (2, len(JOINTS), len(frames)):
        raise DataError(f"{path}: {kind}_joints {joints.shape} are not [2,7,N] with N = {len(frames)} {kind}_frames")
    return frames, joints.transpose(2, 1, 0) - 1.0


def _boxes(joints: np.ndarray, how: str, width: int, height: int) -> tuple[Box, ...]:
    """Return the box of each frame: +-150 pixels round the middle of the joints' bounding box, clipped."""
    if how == "none":
        return ((0, 0, width, height),) * len(joints)
    middles = (joints.min(1) + joints.max(1)) / 2  # [N,2]
    if how == "clip":
        middles = np.broadcast_to(middles.mean(0), middles.shape)
    low = np.clip(np.rint(middles - HALF_BOX), 0, None).astype(int)
    high = np.minimum(np.rint(middles + HALF_BOX), (width, height)).astype(int)
    return tuple((int(a), int(b), int(c), int(d)) for (a, b), (c, d) in zip(low, high, strict=True))
