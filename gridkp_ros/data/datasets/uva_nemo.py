"""UvA-NEMO smiles: 1240 videos of 400 persons, deliberate and spontaneous, 1920 x 1080 at 50 fps.

Two layouts are read:
- As pre-processed by the authors of Monkey-Net (faces cut out, 64 x 64), which the class-conditional paper uses:
  folders `train` (1110) and `test` (124), an entry a video.
- As the database is published: `videos/001_deliberate_smile_1.mp4`, ... and
  `UvA-NEMO_Smile_Database_File_Details.txt` (five lines of head, then file, subject, gender, age and kind of smile,
  separated by tabs). Its evaluation is a ten-fold cross-validation in which no person is in two folds. The lists of
  the folds could not be found in public, so persons are dealt to the folds in the order of their codes: another
  division than the authors'. `fold` tests, the others train. No crop is applied.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from gridkp_ros.data.datasets.base import Item, require
from gridkp_ros.data.datasets.motion_transfer import MotionTransferDataSet
from gridkp_ros.data.sources import DataError

DETAILS = "UvA-NEMO_Smile_Database_File_Details.txt"
FOLDS = 10


class UvANemo(MotionTransferDataSet):
    """UvA-NEMO; the label is `deliberate` or `spontaneous`, "" where the name does not say."""

    name = "uva_nemo"
    obtain = (
        "Ask for the database at https://www.uva-nemo.org, or obtain the pre-processed version through "
        "https://github.com/AliaksandrSiarohin/monkey-net (section Datasets, Nemo)."
    )
    published: ClassVar[dict[str, int]] = {"train": 1110, "test": 124}

    def __init__(self, root: Path, split: str, *, fold: int = 0, rate_hz: float = 50.0, partial: bool = False) -> None:
        """fold: 0 to 9, of the database as published. rate_hz: the database's rate. partial: take what is there."""
        super().__init__(root, split, rate_hz=rate_hz, partial=partial)
        if fold not in range(FOLDS):
            raise DataError(f"uva_nemo has no fold {fold!r}: use 0 to {FOLDS - 1}")
        self.fold = fold

    def items(self) -> list[Item]:
        if (self.root / self.split).is_dir():
            return super().items()
        details = self.root / DETAILS
        require(details.is_file(), details, "the list of videos (or, pre-processed, the folders train and test)", self)
        subjects = {}
        for line in details.read_text(encoding="latin-1").splitlines():
            columns = [column.strip() for column in line.split("\t")]
            if columns[0].endswith(".mp4") and len(columns) >= 5:
                subjects[columns[0]] = columns[1]
        require(bool(subjects), details, "a line of file, subject, gender, age and kind of smile for each video", self)
        codes = sorted(set(subjects.values()))
        tested = set(codes[self.fold :: FOLDS])
        names = sorted(name for name, code in subjects.items() if (code in tested) == (self.split == "test"))
        files = [self.root / "videos" / name for name in names]
        files = [f for f in files if self.require_file(f, "a video that the list of files names")]
        self.require_all(len(files), len(names), self.root / "videos", f"listed videos of split {self.split}")
        return [Item(f.stem, (f,)) for f in files]

    def label(self, entry: Path) -> str:
        found = re.search(r"deliberate|spontaneous", entry.name)
        return found[0] if found else ""
