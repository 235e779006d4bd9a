"""What every published data set is: a list of items in a split, each of which is read as clips with their times.

A data set knows its layout, its published split, crop and frame selection. It knows neither the model's size nor its
period: `data.prepare` brings clips to those.
"""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gridkp_ros.data.clips import Recording, to_recording
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec

# Name of a data set -> module.class. Imported when asked for, because some need libraries of their own.
DATASETS: dict[str, str] = {
    "lerobot": "gridkp_ros.data.datasets.lerobot.LeRobot",
    "suturebot": "gridkp_ros.data.datasets.suturebot.SutureBot",
    "dm_control": "gridkp_ros.data.datasets.dm_control.DMControl",
    "footage": "gridkp_ros.data.datasets.footage.Footage",
    "kth": "gridkp_ros.data.datasets.kth.KTH",
    "human36m": "gridkp_ros.data.datasets.human36m.Human36M",
    "jigsaws": "gridkp_ros.data.datasets.jigsaws.JIGSAWS",
    "bair": "gridkp_ros.data.datasets.bair.BAIR",
    "penn_action": "gridkp_ros.data.datasets.penn_action.PennAction",
    "uva_nemo": "gridkp_ros.data.datasets.uva_nemo.UvANemo",
    "mgif": "gridkp_ros.data.datasets.mgif.MGIF",
    "bbc_pose": "gridkp_ros.data.datasets.bbc_pose.BBCPose",
}


@dataclass(frozen=True)
class Item:
    """One entry of a data set that is read by itself: a video, an episode, a record file.

    name: unique in the data set, the same on every machine (it names the cache's file, so no absolute paths).
    files: what it is read from; a changed file is read again. about: facts that only the adapter understands, such as
    the frames of a sequence; JSON values and paths alone, for they are part of the cache's key.
    """

    name: str
    files: tuple[Path, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RawClip:
    """One uninterrupted stretch of images as published, cropped as the data set's protocol says, at its own rate.

    images: uint8 [H,W,3] RGB or [H,W] grey, one after the other, N of them; of a sequence (`published.ImageFiles`, a
    list) only those that are needed are asked for. stamps_ns: int64 [N], increasing.
    points: float32 [N,M,2], named points in pixels of these images, and visible: bool [N,M]; point_names: M names.
    states: float32 [N,S]; actions: float32 [N,A], action i taken between image i and i + 1; rewards: float32 [N].
    label: action class, gesture or task, "" where there is none; labels: one for each image (JIGSAWS gestures).
    """

    name: str
    images: Iterable[np.ndarray]
    stamps_ns: Sequence[int]
    points: np.ndarray | None = None
    visible: np.ndarray | None = None
    point_names: tuple[str, ...] = ()
    states: np.ndarray | None = None
    actions: np.ndarray | None = None
    rewards: np.ndarray | None = None
    label: str = ""
    labels: tuple[str, ...] = ()


class DataSet(ABC):
    """A data set on disk. Subclasses say what is expected where, and where a user obtains it.

    Instances and items are pickled: worker processes read items side by side.
    version: raised whenever the same files and options give other pixels, so that they are read again.
    options: those of the subclass that change what is *read* of an item (a crop, a camera), handed up by its
    constructor; with `version` and `Item.about` they name an item's place in the cache. Options that only choose
    items (a subject held out, say) stay out of it, so that nothing is decoded twice.
    """

    name: ClassVar[str]
    obtain: ClassVar[str]  # one sentence: where a user gets it
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    version: ClassVar[int] = 1

    def __init__(self, root: Path, split: str, **options: Any) -> None:
        """Raises DataError if the split is unknown or `root` is not there. Subclasses add options with defaults."""
        self.root, self.split, self.options = Path(root), split, options
        self.check()

    def check(self) -> None:
        """Raise DataError unless the split exists and the root is a folder (overridden where it need not be one)."""
        if self.split not in self.splits:
            raise DataError(f"{self.name} has no split {self.split!r}: use one of {', '.join(self.splits)}")
        require(self.root.is_dir(), self.root, "the folder of the data set", self)

    @abstractmethod
    def items(self) -> list[Item]:
        """List the split's items in a fixed order, without decoding any.

        Raises DataError naming the first file that is missing, what it should hold and where it is obtained.
        """

    @abstractmethod
    def load(self, item: Item) -> Iterator[RawClip]:
        """Read an item, image after image. Raises DataError naming the file where it is damaged."""

    def recordings(self, item: Item, spec: InputSpec, period_s: float) -> list[Recording]:
        """Read an item at the model's size and period.

        What is prepared and cached; overridden where `load` would have to hold a whole film in memory.
        """
        return [to_recording(clip, spec, period_s) for clip in self.load(item)]


def require(there: bool, path: Path, what: str, data: DataSet) -> None:
    """Raise DataError unless `there`: what was expected at `path`, and where the user obtains it."""
    if not there:
        raise DataError(f"{data.name}: {path} is missing or incomplete: {what} is expected there. {data.obtain}")


def open_dataset(name: str, root: Path, split: str, **options: Any) -> DataSet:
    """Open a data set by its name. Raises DataError if there is none of that name or an option is not its own."""
    if name not in DATASETS:
        raise DataError(f"there is no data set {name!r}: use one of {', '.join(sorted(DATASETS))}")
    module, _, cls = DATASETS[name].rpartition(".")
    kind = getattr(importlib.import_module(module), cls)
    known = set(inspect.signature(kind).parameters) - {"root", "split"}
    if unknown := sorted(set(options) - known):
        raise DataError(f"{name} has no option {', '.join(unknown)}: its own are {', '.join(sorted(known)) or 'none'}")
    try:
        return kind(Path(root), split, **options)
    except TypeError as error:
        raise DataError(f"{name}: options {options} do not fit: {error}") from error
