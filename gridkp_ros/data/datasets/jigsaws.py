"""JIGSAWS: three tasks of robotic surgery on a da Vinci, eight users, 640 x 480 at 30 Hz, kinematics and gestures.

Layout, for each task (Suturing, Knot_Tying, Needle_Passing), as its archive unpacks:

    Suturing/meta_file_Suturing.txt                  one line a trial: name, skill, scores
    Suturing/video/Suturing_B001_capture1.avi        and _capture2: the two cameras of the endoscope
    Suturing/kinematics/AllGestures/Suturing_B001.txt    76 columns, a row for each video frame
    Suturing/transcriptions/Suturing_B001.txt        "80 303 G1": first and last frame (from 1), gesture

The letter in a trial's name is its user (B to I). The published evaluation leaves one user out in turn: `held_out`
tests, the others train. Trials that the meta file does not list (Suturing_H002) have no annotation and are not used.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gridkp_ros.data.datasets.base import Item, RawClip, require
from gridkp_ros.data.datasets.published import PublishedDataSet, VideoFrames, count_frames, stamps_at
from gridkp_ros.data.sources import DataError

log = logging.getLogger(__name__)

TASKS = ("Suturing", "Knot_Tying", "Needle_Passing")
USERS = "BCDEFGHI"
RATE_HZ = 30.0
COLUMNS = 76
# Columns of `states` by their meaning, for each of the four arms: position of the tool tip (m, of the arm's base),
# rotation matrix row by row, velocities, and the gripper's angle (rad). As the data's readme lists them.
ARMS = ("master_left", "master_right", "slave_left", "slave_right")
STATE_COLUMNS = {
    f"{arm}_{part}": slice(19 * i + first, 19 * i + last)
    for i, arm in enumerate(ARMS)
    for part, first, last in (
        ("tip", 0, 3),
        ("rotation", 3, 12),
        ("velocity", 12, 15),
        ("angular_velocity", 15, 18),
        ("gripper", 18, 19),
    )
}
_SHORTER = 0.1  # share by which the shorter of video and kinematics may fall behind: they do not end together


class JIGSAWS(PublishedDataSet):
    """JIGSAWS, leaving one user out. States are the 76 kinematic variables, labels each frame's gesture ("" if none).

    The tool tips are known in space, not in the image: `STATE_COLUMNS["slave_left_tip"]` of the states, say.
    """

    name = "jigsaws"
    obtain = (
        "Ask for access at https://cirl.lcsr.jhu.edu/research/hmm/datasets/jigsaws_release/ and unpack the archive of "
        "each task (Suturing.zip, ...) into one folder."
    )

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        task: str = "Suturing",
        held_out: str = "B",
        capture: int = 1,
        partial: bool = False,
    ) -> None:
        """task: which of the three. held_out: the user who tests. capture: camera 1 or 2. partial: take what is there.

        `task` may also be "all".
        """
        super().__init__(root, split, partial=partial, capture=capture)
        if task not in (*TASKS, "all"):
            raise DataError(f"jigsaws has no task {task!r}: use one of {', '.join(TASKS)}, or all")
        if held_out not in tuple(USERS):
            raise DataError(f"jigsaws has no user {held_out!r} to hold out: use one of {', '.join(USERS)}")
        if capture not in (1, 2):
            raise DataError(f"jigsaws has no capture {capture!r}: use 1 or 2")
        self.tasks = TASKS if task == "all" else (task,)
        self.held_out, self.capture = held_out, capture

    def items(self) -> list[Item]:
        items, wanted = [], 0
        for task in self.tasks:
            folder = self.root / task
            meta = folder / f"meta_file_{task}.txt"
            require(meta.is_file(), meta, "the list of trials", self)
            trials = sorted(line.split()[0] for line in meta.read_text().splitlines() if line.strip())
            for trial in trials:
                match = re.fullmatch(rf"{task}_([{USERS}])\d+", trial)
                if match is None:
                    raise DataError(f"{meta}: {trial!r} is no trial such as {task}_B001: copy the file again")
                if (match[1] == self.held_out) != (self.split == "test"):
                    continue
                wanted += 1
                files = (
                    folder / "video" / f"{trial}_capture{self.capture}.avi",
                    folder / "kinematics" / "AllGestures" / f"{trial}.txt",
                    folder / "transcriptions" / f"{trial}.txt",
                )
                what = ("the trial's video", f"the trial's kinematics, {COLUMNS} columns", "the trial's gestures")
                if all([self.require_file(f, w) for f, w in zip(files, what, strict=True)]):
                    items.append(Item(trial, files, {"task": task}))
        self.require_all(len(items), wanted, self.root, f"trials of split {self.split} (user {self.held_out} held out)")
        return items

    def load(self, item: Item) -> Iterator[RawClip]:
        video, kinematics, transcription = item.files
        try:
            states = np.loadtxt(kinematics, dtype=np.float32, ndmin=2)
        except ValueError as error:
            raise DataError(f"{kinematics} is no table of numbers: {error}") from error
        if states.shape[1] != COLUMNS:
            raise DataError(f"{kinematics} has {states.shape[1]} columns, not {COLUMNS}: it is damaged or another file")
        frames = count_frames(video)
        longer, count = max(frames, len(states)), min(frames, len(states))
        if count < (1 - _SHORTER) * longer:
            raise DataError(
                f"{video} holds {frames} frames, but {kinematics} {len(states)} rows, one for each: "
                "one of them is damaged or half copied"
            )
        if frames != len(states):
            log.info(
                "%s: %d frames and %d rows of kinematics; the first %d are used", item.name, frames, len(states), count
            )
        yield RawClip(
            name=item.name,
            images=VideoFrames(video, count),
            stamps_ns=stamps_at(count, RATE_HZ),
            states=states[:count],
            label=item.about["task"],
            labels=_gestures(transcription, longer)[:count],
        )


def _gestures(path: Path, frames: int) -> tuple[str, ...]:
    """Return the gesture of each frame, "" where there is none."""
    labels = [""] * frames
    for line in path.read_text().splitlines():
        if not line.strip():
            continue
        try:
            first, last, gesture = line.split()
            start, end = int(first), int(last)
        except ValueError as error:
            raise DataError(f"{path}: {line!r} is no line such as '80 303 G1'") from error
        if not 1 <= start <= end <= (1 + _SHORTER) * frames:
            raise DataError(f"{path}: {line!r} lies outside the video's {frames} frames: it is of another trial")
        labels[start - 1 : end] = [gesture] * (end - start + 1)
    return tuple(labels[:frames])
