"""A data set of text files, whose reading a test can watch, delay and spoil."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gridkp_ros.data.datasets.base import DataSet, Item, RawClip

log = logging.getLogger("gridkp_ros.test")


class Files(DataSet):
    """A text file for each item: "rate frames", with frames whose grey level is their index. It logs what it reads."""

    name = "files"
    obtain = "Make them."
    splits = ("all",)

    def __init__(self, root: Path, split: str = "all", shade: int = 0, delay_s: float = 0.0) -> None:
        super().__init__(root, split, shade=shade)
        self.delay_s = delay_s

    def items(self) -> list[Item]:
        return [Item(path.stem, (path,)) for path in sorted(self.root.glob("*.txt"))]

    def load(self, item: Item) -> Iterator[RawClip]:
        with (self.root / "read.log").open("a") as file:
            file.write(f"{item.name}\n")
        (self.root / f"{os.getpid()}.pid").touch()
        time.sleep(self.delay_s)
        rate, n, *rest = item.files[0].read_text().split()
        rate, n = int(rate), int(n)
        if rest:
            log.warning("%s: a third word is not understood", item.files[0].name)
        images = (np.full((16, 16, 3), index + self.options["shade"], np.uint8) for index in range(n))
        stamps = [round(i / rate * 1e9) for i in range(n)]
        numbers = np.arange(n, dtype=np.float32)
        points = np.stack([numbers, numbers], axis=-1)[:, None]
        yield RawClip(
            item.name, images, stamps, points, point_names=("tip",), states=numbers[:, None], actions=numbers[:, None],
            rewards=numbers, label="throw", labels=tuple(f"G{i // 2}" for i in range(n)),
        )  # fmt: skip
