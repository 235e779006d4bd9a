"""KTH human actions: 6 actions, 25 persons, 4 scenarios; 160 x 120 grey at 25 fps.

Layout: `person01_boxing_d1_uncomp.avi`, ... in one folder or one for each action (as the six archives unpack), and
`00sequences.txt` beside them, whose lines `person01_boxing_d1  frames  1-95, 96-185, 186-245, 246-360` name the
stretches in which the person is seen: numbers from 1, both ends included. Clips are those stretches, as with the
frame lists that SVG and SAVP use (specs: metrics, section 6).

The list itself says that person13_handclapping_d3 does not exist. person01_boxing_d4 is published cut short, in the
midst of its last stretch, which is left out. Some stretches overlap: kept as published.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gridkp_ros.data.datasets.base import Item, RawClip, require
from gridkp_ros.data.datasets.published import PublishedDataSet, read_video, stamps_at
from gridkp_ros.data.sources import DataError

log = logging.getLogger(__name__)

ACTIONS = ("boxing", "handclapping", "handwaving", "jogging", "running", "walking")
RATE_HZ = 25.0
CUT_SHORT = ("person01_boxing_d4",)  # as published
_SLACK = 25  # frames by which a video may be shorter than its list says: decoders differ at the end

_LINE = re.compile(rf"^\s*(person(\d\d)_({'|'.join(ACTIONS)})_d\d)\s+(frames\s+(.*\S)|\*missing\*)\s*$")


class KTH(PublishedDataSet):
    """KTH actions, split by persons."""

    name = "kth"
    obtain = (
        'Obtain the six zip files and 00sequences.txt of "Recognition of human actions" at '
        "https://www.csc.kth.se/cvap/actions/ and unpack them into one folder."
    )
    splits = ("train", "val", "test")

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        last_train_person: int = 16,
        val_share: float = 0.05,
        sequence_list: bool = True,
        partial: bool = False,
    ) -> None:
        """Open it.

        last_train_person: persons up to it train, the others test (16 in gridkp and SAVP, 20 in SRVP).
        val_share: share of the training videos that make split `val` instead (SAVP: 0.05), evenly spread.
        sequence_list: False takes whole videos, empty frames included, as SRVP does.
        partial: take the listed videos that are there.
        """
        super().__init__(root, split, partial=partial, sequence_list=sequence_list)
        if not (1 <= last_train_person < 25 and 0 <= val_share < 1):
            raise DataError(
                f"kth: last_train_person {last_train_person} (1 to 24) or val_share {val_share} (0 to below 1) is off"
            )
        self.last_train_person, self.val_share, self.sequence_list = last_train_person, val_share, sequence_list

    def items(self) -> list[Item]:
        sequences = self.root / "00sequences.txt"
        require(sequences.is_file(), sequences, "the official list of sequences", self)
        wanted, listed = [], 0
        for line in sequences.read_text(encoding="latin-1").splitlines():
            match = _LINE.match(line)
            if match is None or match[5] is None:
                continue
            listed += 1
            if (int(match[2]) > self.last_train_person) == (self.split == "test"):
                wanted.append((match[1], match[3], _ranges(match[5], sequences)))
        require(listed > 0, sequences, "a line such as 'person01_boxing_d1 frames 1-95, 96-185'", self)
        wanted.sort()
        if self.split != "test":
            wanted = [w for i, w in enumerate(wanted) if self._is_val(i) == (self.split == "val")]
        items = []
        for stem, action, ranges in wanted:
            file = self.root / action / f"{stem}_uncomp.avi"
            if not file.is_file():
                file = self.root / file.name
            if self.require_file(file, f"a video that 00sequences.txt lists, here or in the folder {action}"):
                items.append(Item(stem, (file, sequences), {"action": action, "ranges": ranges}))
        self.require_all(len(items), len(wanted), self.root, f"listed videos of split {self.split}")
        return items

    def _is_val(self, index: int) -> bool:
        return int((index + 1) * self.val_share) > int(index * self.val_share)

    def load(self, item: Item) -> Iterator[RawClip]:
        file = item.files[0]
        frames = [image if image.ndim == 2 else np.ascontiguousarray(image[..., 0]) for image in read_video(file)]
        ranges = item.about["ranges"] if self.sequence_list else [(1, len(frames))]
        for number, (first, last) in enumerate(ranges):
            sentence = f"{file} ends after {len(frames)} frames, but 00sequences.txt lists {first}-{last}"
            if first > len(frames) or last > len(frames) + _SLACK:
                if item.name not in CUT_SHORT:
                    raise DataError(f"{sentence}: it is damaged or half copied. {self.obtain}")
                log.warning("%s; it is published so, and that stretch is left out", sentence)
                continue
            if last > len(frames):
                log.warning("%s; what is there is taken", sentence)
            images = frames[first - 1 : last]
            yield RawClip(
                name=f"{item.name}#{number}",
                images=images,
                stamps_ns=stamps_at(len(images), RATE_HZ),
                label=item.about["action"],
            )


def _ranges(text: str, path: Path) -> list[tuple[int, int]]:
    """Return the stretches of a line, first and last frame, both counted from 1."""
    ranges = [(int(a), int(b)) for a, b in re.findall(r"(\d+)\s*-\s*(\d+)", text)]
    if not ranges or any(not 1 <= first <= last for first, last in ranges):
        raise DataError(f"{path}: {text!r} is no list of frames such as '1-95, 96-185': copy the list again")
    return ranges
