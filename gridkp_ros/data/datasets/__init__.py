"""Published data sets, each read in the exact layout in which it is published.

    data = open_dataset("kth", Path("/data/kth"), split="train")
    for item in data.items():
        for clip in data.load(item):
            use(clip.images, clip.stamps_ns)

A file for each data set; what a data set is to the rest of the package is in `base`.
"""

from __future__ import annotations

from gridkp_ros.data.datasets.base import DATASETS, DataSet, Item, RawClip, open_dataset, require

__all__ = ["DATASETS", "DataSet", "Item", "RawClip", "open_dataset", "require"]
