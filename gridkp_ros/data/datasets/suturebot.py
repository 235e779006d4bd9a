"""SutureBot's own layout: tissue, task and episode folders with images and `ee_csv.csv`.

Haworth et al. 2025, "SutureBot: A Precision Framework & Benchmark for Autonomous End-to-End Suturing", and the data
set's card: tissue_[id]/[number]_[task]/[episode]/{left_img_dir,right_img_dir,endo_psm1,endo_psm2,ee_csv.csv}.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gridkp_ros.data.datasets.base import DataSet, Item, RawClip, require
from gridkp_ros.data.datasets.published import ImageFiles
from gridkp_ros.data.sources import DataError, image_files, natural_key

CAMERAS = ("left_img_dir", "right_img_dir", "endo_psm1", "endo_psm2")
TABLE = "ee_csv.csv"
RATE_HZ = 30.0
_POSE = [f"{part}.{axis}" for part, axes in (("position", "xyz"), ("orientation", "xyzw")) for axis in axes]
STATES = tuple(f"{arm}_{name}" for arm in ("psm1", "psm2") for name in (*(f"pose.{p}" for p in _POSE), "jaw"))
ACTIONS = tuple(f"{arm}_{name}" for arm in ("psm1", "psm2") for name in (*(f"sp.{p}" for p in _POSE), "jaw_sp"))
_STAMPED = 10**15  # file names with a number above carry the time in nanoseconds, below the frame's number


class SutureBot(DataSet):
    """Episodes; states are the measured poses and jaws of both arms, actions their set-points (16 numbers each).

    The data set has no published split: the paper trains on all demonstrations and tests on the robot. Here "test" is
    every episode of `test_tissues`, "train" the rest, "all" both: whole tissues, so that no phantom is in both.
    camera: one of the image folders. tasks: only those whose folder's name ends so ("needle_pickup"); by default all,
    recoveries included.
    """

    name = "suturebot"
    obtain = (
        "Download it from https://huggingface.co/datasets/jchen396/SutureBot and unpack its tissues into one folder."
    )
    splits = ("train", "test", "all")

    def __init__(
        self,
        root: Path,
        split: str = "train",
        camera: str = "left_img_dir",
        tasks: str | Sequence[str] = (),
        test_tissues: Sequence[int] = (),
    ) -> None:
        if camera not in CAMERAS:
            raise DataError(f"suturebot has no images {camera!r}: use one of {', '.join(CAMERAS)}")
        self.tasks = (tasks,) if isinstance(tasks, str) else tuple(tasks)
        self.test_tissues = {int(number) for number in test_tissues}
        super().__init__(root, split, camera=camera)

    def check(self) -> None:
        super().check()
        if self.split == "test" and not self.test_tissues:
            raise DataError("suturebot has no published split: name the tissues to keep with `test_tissues: [6, 10]`")

    def items(self) -> list[Item]:
        tissues = sorted(
            (
                path
                for path in self.root.iterdir()
                if re.fullmatch(r"(tissue|phantom)_\d+", path.name) and path.is_dir()
            ),
            key=lambda path: natural_key(path.name),
        )
        require(bool(tissues), self.root, "folders tissue_1, tissue_2, ...", self)
        found = []
        for tissue in tissues:
            held_out = int(tissue.name.rsplit("_", 1)[1]) in self.test_tissues
            if self.split != "all" and held_out != (self.split == "test"):
                continue
            for task in _folders(tissue):
                if self.tasks and not task.name.endswith(self.tasks):
                    continue
                found += [self._item(tissue, task, episode) for episode in _episodes(task)]
        return found

    def _item(self, tissue: Path, task: Path, episode: Path) -> Item:
        images, table = episode / self.options["camera"], episode / TABLE
        require(images.is_dir(), images, "the folder with the images of an episode", self)
        require(table.is_file(), table, "the kinematics of an episode", self)
        label = re.sub(r"^\d+_", "", task.name)
        return Item(episode.relative_to(self.root).as_posix(), (images, table), {"label": label})

    def load(self, item: Item) -> Iterator[RawClip]:
        folder, table = item.files
        files = image_files(folder)
        if not files:
            raise DataError(f"{folder} holds no images. {self.obtain}")
        times_ns, rows = _read_table(table)
        numbers = [_number(file) for file in files]
        if min(numbers) >= _STAMPED:  # as recorded: images and rows have stamps of one clock
            stamps_ns = np.array(numbers, np.int64)
            if times_ns is None:
                raise DataError(f"{table} has no column `timestamp`, which images named by their time need")
            nearest = np.abs(times_ns[None] - stamps_ns[:, None]).argmin(axis=1)
        else:  # as published: image i belongs to row i
            n = len(rows["states"])
            gap = next((i for i, number in enumerate(numbers) if number != i), None)
            if gap is not None or len(numbers) > n:
                what = (
                    f"image {gap} is missing" if gap is not None else f"{len(numbers)} images for {n} rows of {TABLE}"
                )
                raise DataError(f"{folder}: {what}. {self.obtain}")
            nearest = np.arange(len(numbers))
            recorded = times_ns is not None and np.all(np.diff(times_ns) > 0)
            stamps_ns = times_ns[nearest] if recorded else np.rint(nearest / RATE_HZ * 1e9)
        arrays = {name: values[nearest] for name, values in rows.items()}
        stamps_ns = stamps_ns.astype(np.int64)
        yield RawClip(item.name, ImageFiles(tuple(files)), stamps_ns, label=item.about["label"], **arrays)


def _folders(path: Path) -> list[Path]:
    return sorted((p for p in path.iterdir() if p.is_dir() and p.name[0] != "."), key=lambda p: natural_key(p.name))


def _episodes(task: Path) -> list[Path]:
    """Return the folders of episodes, also those one folder deeper ("Corrections")."""
    found = []
    for path in _folders(task):
        is_episode = (path / TABLE).exists() or any((path / camera).exists() for camera in CAMERAS)
        found += [path] if is_episode else _episodes(path)
    return found


def _number(file: Path) -> int:
    digits = re.search(r"\d+", file.stem)
    if digits is None:
        raise DataError(f"{file}: an image is named frame000000_left.jpg, or by its time in nanoseconds")
    return int(digits.group())


def _read_table(path: Path) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
    """Return the times, int64 [R] ns, and states and actions, float32 [R,16] each, of a table.

    Times stand in nanoseconds as recorded, or in seconds. Raises DataError naming the columns that are missing.
    """
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            missing = [name for name in (*STATES, *ACTIONS) if name not in (reader.fieldnames or ())]
            if missing or not rows:
                raise DataError(f"{path} has {len(rows)} rows and lacks {', '.join(missing[:4]) or 'nothing'}")
            arrays = {
                kind: np.array([[row[name] for name in names] for row in rows], np.float32)
                for kind, names in (("states", STATES), ("actions", ACTIONS))
            }
            if "timestamp" not in reader.fieldnames:
                return None, arrays
            times = [row["timestamp"] for row in rows]
            if all(time.isdigit() for time in times):
                return np.array([int(time) for time in times], np.int64), arrays  # a float would round them
            seconds = np.array(times, float)
            return np.rint(seconds if seconds[-1] > _STAMPED else seconds * 1e9).astype(np.int64), arrays
    except (csv.Error, UnicodeDecodeError, TypeError) as error:
        raise DataError(f"{path} is no readable table: {error}") from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: {error}") from error
