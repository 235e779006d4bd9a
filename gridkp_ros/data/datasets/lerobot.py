"""LeRobot data sets, v2.0 to v3.0, and trees of them such as Open-H-Embodiment.

Source of the layouts: lerobot's `datasets` module, v2.1 (one parquet and one mp4 for each episode) and v3.0 (files of
many episodes, placed by `meta/episodes`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gridkp_ros.data.datasets.base import DataSet, Item, RawClip, require
from gridkp_ros.data.sources import DataError
from gridkp_ros.image_messages import decode_image

_IMAGES = "observation.images."


class LeRobot(DataSet):
    """Episodes of a LeRobot data set, or of every one below the root; images of one camera, states and actions.

    The splits are those of `meta/info.json`; "all" takes every episode. camera: a feature's name, or its end, after
    "observation.images."; a list is tried in order, for trees whose data sets name their cameras differently; not
    needed where there is one. state, action, reward: the features' names; those a data set does not have are left out.
    The label is the episode's task; where the task changes within it, each frame has its own.
    """

    name = "lerobot"
    obtain = (
        "Download a LeRobot data set from Hugging Face: `hf download --repo-type dataset OWNER/NAME --local-dir ROOT` "
        "(Open-H-Embodiment is nvidia/PhysicalAI-Robotics-Open-H-Embodiment)."
    )
    splits = ()

    def __init__(
        self,
        root: Path,
        split: str = "train",
        camera: str | Sequence[str] | None = None,
        state: str = "observation.state",
        action: str = "action",
        reward: str = "next.reward",
    ) -> None:
        self.cameras = (camera,) if isinstance(camera, str) else tuple(camera or ())
        super().__init__(root, split, columns={"states": state, "actions": action, "rewards": reward})

    def check(self) -> None:
        require(self.root.is_dir(), self.root, "the folder of a LeRobot data set, or of several", self)

    def items(self) -> list[Item]:
        if (self.root / "meta").is_dir():
            roots = [self.root]
        else:
            roots = sorted(path.parent.parent for path in self.root.rglob("meta/info.json"))
        require(bool(roots), self.root / "meta" / "info.json", "the description of the data set", self)
        found, known = [], set()
        for root in roots:
            info = self._read_info(root)
            known |= set(info["splits"])
            wanted = self._wanted(root, info)
            found += [
                self._item(root, info, episode) for episode in self._episodes(root) if wanted(episode["episode_index"])
            ]
        if not found and self.split != "all" and self.split not in known:
            raise DataError(f"{self.root} has no split {self.split!r}: use one of {', '.join(sorted(known | {'all'}))}")
        return found

    def _read_info(self, root: Path) -> dict[str, Any]:
        path = root / "meta" / "info.json"
        require(path.is_file(), path, "the description of the data set", self)
        try:
            info = json.loads(path.read_text())
            facts = {key: info[key] for key in ("codebase_version", "fps", "features", "data_path")}
        except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path} is no description of a LeRobot data set ({type(error).__name__}: {error})"
            ) from error
        return facts | {"video_path": info.get("video_path"), "splits": info.get("splits") or {}} | {
            "chunks_size": info.get("chunks_size") or 1000, "total_episodes": info.get("total_episodes")
        }  # fmt: skip

    def _wanted(self, root: Path, info: dict[str, Any]) -> Any:
        if self.split == "all":
            return lambda index: True
        spans = []
        for part in str(info["splits"].get(self.split, "")).split(","):
            first, colon, last = part.strip().partition(":")
            try:
                if colon:
                    spans.append(range(int(first or 0), int(last or info["total_episodes"])))
            except ValueError as error:
                raise DataError(
                    f"{root}/meta/info.json: split {self.split!r} is {part!r}, no range of episodes"
                ) from error
        return lambda index: any(index in span for span in spans)

    def _episodes(self, root: Path) -> list[dict[str, Any]]:
        """Return what meta/ says of each episode: episode_index, length, tasks, and for v3.0 where it lies."""
        lines, folder = root / "meta" / "episodes.jsonl", root / "meta" / "episodes"
        if lines.is_file():
            try:
                return [json.loads(line) for line in lines.read_text().splitlines() if line.strip()]
            except json.JSONDecodeError as error:
                raise DataError(f"{lines} is damaged: {error}") from error
        files = sorted(folder.glob("chunk-*/file-*.parquet"))
        require(bool(files), lines if not folder.is_dir() else folder, "the list of episodes (jsonl or parquet)", self)
        rows = []
        for file in files:
            table = _read_parquet(file)
            kept = [name for name in table.column_names if not name.startswith(("stats/", "meta/"))]
            rows += table.select(kept).to_pylist()
        return sorted(rows, key=lambda row: row["episode_index"])

    def _item(self, root: Path, info: dict[str, Any], episode: dict[str, Any]) -> Item:
        index, camera = episode["episode_index"], self._camera(root, info)
        place = {"episode_index": index, "episode_chunk": index // info["chunks_size"]}
        place |= {"chunk_index": episode.get("data/chunk_index"), "file_index": episode.get("data/file_index")}
        files = [root / info["data_path"].format(**place)]
        start_s = 0.0
        if info["features"][camera]["dtype"] == "video":
            video = f"videos/{camera}/"
            place |= {
                "chunk_index": episode.get(video + "chunk_index"),
                "file_index": episode.get(video + "file_index"),
            }
            files.append(root / info["video_path"].format(**place, video_key=camera))
            start_s = episode.get(video + "from_timestamp", 0.0)
        for file in files:
            require(file.is_file(), file, f"{file.suffix[1:]} of episode {index}", self)
        tasks = episode.get("tasks") or [""]
        about = {
            "episode": index,
            "length": episode["length"],
            "start_s": start_s,
            "camera": camera,
            "fps": info["fps"],
        }
        relative = root.relative_to(self.root).as_posix()
        name = f"episode_{index:06d}" if relative == "." else f"{relative}/episode_{index:06d}"
        return Item(name, tuple(files), about | {"task": str(tasks[0]), "root": root})

    def _camera(self, root: Path, info: dict[str, Any]) -> str:
        films = {
            name: feature for name, feature in info["features"].items() if feature.get("dtype") in ("video", "image")
        }
        for wanted in self.cameras:
            matches = [name for name in films if name == wanted or name.removeprefix(_IMAGES).endswith(wanted)]
            exact = [name for name in matches if wanted in (name, name.removeprefix(_IMAGES))]
            if len(exact or matches) == 1:
                return (exact or matches)[0]
        colour = [name for name, feature in films.items() if not _is_depth(feature)]
        if not self.cameras and len(colour) == 1:
            return colour[0]
        raise DataError(
            f"{root}: say with the option `camera` which of its images are wanted: {', '.join(films) or 'it has none'}"
            + (f" (none or several of them fit {', '.join(self.cameras)})" if self.cameras else "")
        )

    def load(self, item: Item) -> Iterator[RawClip]:
        about, length, camera = item.about, item.about["length"], item.about["camera"]
        in_table = len(item.files) == 1
        table = _read_parquet(item.files[0], ("episode_index", "=", about["episode"]))
        if table.num_rows != length:
            raise DataError(
                f"{item.files[0]} has {table.num_rows} frames of {item.name}, not {length}: it is incomplete"
            )
        if "frame_index" in table.column_names:
            table = table.sort_by("frame_index")
        arrays = {
            name: _numbers(table, column, item.files[0])
            for name, column in self.options["columns"].items()
            if column in table.column_names
        }
        if "rewards" in arrays:
            arrays["rewards"] = arrays["rewards"][:, 0]
        if in_table:
            images = (_stored_image(entry, about["root"]) for entry in table[camera].to_pylist())
        else:
            images = islice(decode_from(item.files[1], about["start_s"] - 0.5 / about["fps"]), length)
        yield RawClip(
            item.name,
            images,
            self._stamps_ns(table, about),
            label=about["task"],
            labels=self._labels(table, about),
            **arrays,
        )

    def _stamps_ns(self, table: Any, about: dict[str, Any]) -> np.ndarray:
        """Stamps of the table where they increase, else frame number by frame rate."""
        if "timestamp" in table.column_names:
            stamps = np.rint(_numbers(table, "timestamp", about["root"])[:, 0].astype(float) * 1e9).astype(np.int64)
            if np.all(np.diff(stamps) > 0):
                return stamps
        return np.rint(np.arange(about["length"]) / about["fps"] * 1e9).astype(np.int64)

    def _labels(self, table: Any, about: dict[str, Any]) -> tuple[str, ...]:
        if "task_index" not in table.column_names:
            return ()
        indices = table["task_index"].to_pylist()
        if len(set(indices)) < 2:
            return ()
        tasks = self._tasks(about["root"])
        return tuple(tasks[index] for index in indices)

    def _tasks(self, root: Path) -> dict[int, str]:
        """Return the task of each index, from meta/tasks.jsonl (v2) or meta/tasks.parquet (v3)."""
        lines, parquet = root / "meta" / "tasks.jsonl", root / "meta" / "tasks.parquet"
        if lines.is_file():
            rows = [json.loads(line) for line in lines.read_text().splitlines() if line.strip()]
            return {row["task_index"]: row["task"] for row in rows}
        require(parquet.is_file(), parquet, "the list of tasks", self)
        table = _read_parquet(parquet)
        (names,) = (name for name in table.column_names if name != "task_index")
        return dict(zip(table["task_index"].to_pylist(), table[names].to_pylist(), strict=True))


def decode_from(path: Path, start_s: float) -> Iterator[np.ndarray]:
    """Yield a video's frames from a time on, uint8 [H,W,3] RGB, decoded from the key frame before it.

    With PyAV, whose wheels decode AV1, LeRobot's own codec, which OpenCV's do not. Raises DataError if it is damaged.
    """
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if start_s > 0:
                container.seek(int(start_s / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time is None or frame.time >= start_s:
                    yield frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:
        raise DataError(f"{path} cannot be decoded: {error}") from error


def _is_depth(feature: dict[str, Any]) -> bool:
    info = feature.get("info") or feature.get("video_info") or {}
    return bool(info.get("video.is_depth_map") or info.get("is_depth_map"))


def _read_parquet(path: Path, wanted: tuple[str, str, Any] | None = None) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path, filters=None if wanted is None else [wanted], partitioning=None)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable parquet file: {error}") from error


def _numbers(table: Any, column: str, path: Path) -> np.ndarray:
    """Return a column as float32 [N,D]."""
    try:
        values = np.array(table[column].to_pylist(), np.float32)
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: {column} does not hold numbers of one length: {error}") from error
    return values.reshape(len(values), -1)


def _stored_image(entry: dict[str, Any], root: Path) -> np.ndarray:
    """Decode an image kept in the table itself (features of type "image"): its bytes, or the path of its file."""
    content = entry.get("bytes")
    return decode_image(content if content is not None else (root / entry["path"]).read_bytes(), str(entry.get("path")))
