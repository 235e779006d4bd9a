"""LeRobot data sets of both layouts, written here as lerobot writes them; trees of them; halves of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridkp_ros.data.datasets import open_dataset
from gridkp_ros.data.prepare import prepare
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec

av = pytest.importorskip("av")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

LEFT, WRIST = "observation.images.endoscope.left", "observation.images.wrist.left"
LENGTHS = (12, 9, 10)
TASKS = ("pick up the needle", "throw the needle")
SPEC = InputSpec(16, 16, 3)


def frame(episode: int, index: int) -> np.ndarray:
    return np.full((32, 48, 3), 60 * episode + 5 * index, np.uint8)


def number_of(image: np.ndarray) -> tuple[int, int]:
    return divmod(round(float(image[4:-4, 4:-4].mean()) / 5), 12)


def write_video(path: Path, images: list[np.ndarray], rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "4", "g": "8", "bf": "2"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def columns(episode: int, rate: int) -> dict[str, Any]:
    n = LENGTHS[episode]
    return {
        "observation.state": [[float(episode), float(i)] for i in range(n)],
        "action": [[10.0 * episode + i] for i in range(n)],
        "next.reward": [float(i == n - 1) for i in range(n)],
        "timestamp": np.arange(n, dtype=np.float32) / np.float32(rate),
        "frame_index": list(range(n)),
        "episode_index": [episode] * n,
        "index": [sum(LENGTHS[:episode]) + i for i in range(n)],
        "task_index": [0] * n if episode != 2 else [0] * 5 + [1] * 5,
    }


def info(version: str, rate: int, splits: dict[str, str], data_path: str, video_path: str | None) -> dict[str, Any]:
    film = {"dtype": "video" if video_path else "image", "shape": [32, 48, 3], "names": ["height", "width", "channels"]}
    depth = film | {"info": {"video.is_depth_map": True}}
    features = {LEFT: film, "observation.images.depth": depth, "observation.state": {"dtype": "float32", "shape": [2]}}
    return {
        "codebase_version": version, "robot_type": "dvrk", "total_episodes": 3, "total_frames": sum(LENGTHS),
        "fps": rate,
        "chunks_size": 1000, "splits": splits, "data_path": data_path, "video_path": video_path,
        "features": features | {"action": {"dtype": "float32", "shape": [1]}},
    }  # fmt: skip


def write_json_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


SPLITS = {"train": "0:1, 2:3", "val": "1:2"}


def write_v21(root: Path, rate: int = 15, splits: dict[str, str] = SPLITS) -> Path:
    meta = root / "meta"
    meta.mkdir(parents=True)
    data_path = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video_path = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    (meta / "info.json").write_text(json.dumps(info("v2.1", rate, splits, data_path, video_path)))
    episodes = [{"episode_index": e, "tasks": [TASKS[0]], "length": n} for e, n in enumerate(LENGTHS)]
    write_json_lines(meta / "episodes.jsonl", episodes)
    write_json_lines(meta / "tasks.jsonl", [{"task_index": i, "task": task} for i, task in enumerate(TASKS)])
    for episode, length in enumerate(LENGTHS):
        path = root / data_path.format(episode_chunk=0, episode_index=episode)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns(episode, rate)), path)
        video = root / video_path.format(episode_chunk=0, episode_index=episode, video_key=LEFT)
        write_video(video, [frame(episode, i) for i in range(length)], rate)
    return root


def write_v30(root: Path, rate: int = 15, images_in_table: bool = False) -> Path:
    """All episodes in one data file; episodes 0 and 1 in one video, episode 2 in the next."""
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    data_path = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    video_path = None if images_in_table else "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (root / "meta/info.json").write_text(json.dumps(info("v3.0", rate, SPLITS, data_path, video_path)))
    pq.write_table(pa.table({"task_index": [0, 1], "__index_level_0__": list(TASKS)}), root / "meta/tasks.parquet")
    starts = [0.0, LENGTHS[0] / rate, 0.0]
    rows = {
        "episode_index": [0, 1, 2], "tasks": [[TASKS[0]]] * 3, "length": list(LENGTHS),
        "data/chunk_index": [0] * 3, "data/file_index": [0] * 3,
        f"videos/{LEFT}/chunk_index": [0] * 3, f"videos/{LEFT}/file_index": [0, 0, 1],
        f"videos/{LEFT}/from_timestamp": starts,
        f"videos/{LEFT}/to_timestamp": [s + n / rate for s, n in zip(starts, LENGTHS, strict=True)],
        "stats/action/mean": [[0.0]] * 3, "meta/episodes/chunk_index": [0] * 3,
    }  # fmt: skip
    pq.write_table(pa.table(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    tables = []
    for episode, length in enumerate(LENGTHS):
        made = columns(episode, rate)
        if images_in_table:
            import cv2

            encoded = [cv2.imencode(".png", frame(episode, i))[1].tobytes() for i in range(length)]
            made[LEFT] = [{"bytes": content, "path": None} for content in encoded]
        tables.append(pa.table(made))
    pq.write_table(pa.concat_tables(tables, promote_options="permissive"), root / "data/chunk-000/file-000.parquet")
    if not images_in_table:
        films = [[frame(e, i) for e in (0, 1) for i in range(LENGTHS[e])], [frame(2, i) for i in range(LENGTHS[2])]]
        for number, film in enumerate(films):
            write_video(root / video_path.format(video_key=LEFT, chunk_index=0, file_index=number), film, rate)
    return root


WRITERS = {
    "v2.1": write_v21,
    "v3.0": write_v30,
    "v3.0, images in the table": lambda root: write_v30(root, images_in_table=True),
}


@pytest.mark.parametrize("layout", WRITERS)
def test_episodes_with_their_numbers(tmp_path: Path, layout: str) -> None:
    root = WRITERS[layout](tmp_path / "set")
    data = open_dataset("lerobot", root, "all")
    assert [item.name for item in data.items()] == ["episode_000000", "episode_000001", "episode_000002"]
    for episode, item in enumerate(data.items()):
        (clip,) = data.load(item)
        images = list(clip.images)
        assert [number_of(image) for image in images] == [(episode, i) for i in range(LENGTHS[episode])]
        assert clip.states.tolist() == [[episode, i] for i in range(LENGTHS[episode])]
        assert clip.actions[:, 0].tolist() == [10 * episode + i for i in range(LENGTHS[episode])]
        assert clip.rewards.tolist() == [0] * (LENGTHS[episode] - 1) + [1]
        np.testing.assert_allclose(np.asarray(clip.stamps_ns) * 1e-9, np.arange(LENGTHS[episode]) / 15, atol=1e-6)
        assert clip.label == TASKS[0]
    assert clip.labels == (TASKS[0],) * 5 + (TASKS[1],) * 5


@pytest.mark.parametrize("layout", ["v2.1", "v3.0"])
def test_splits_are_those_of_the_description(tmp_path: Path, layout: str) -> None:
    root = WRITERS[layout](tmp_path / "set")

    def names(split: str) -> list[str]:
        return [item.name[-1] for item in open_dataset("lerobot", root, split).items()]

    assert names("train") == ["0", "2"]
    assert names("val") == ["1"]
    with pytest.raises(DataError, match="no split 'test': use one of all, train, val"):
        names("test")


def test_a_tree_of_sets_at_other_rates_comes_at_the_models_period(tmp_path: Path) -> None:
    write_v21(tmp_path / "tree/hamlyn/knot", rate=30, splits={"train": "0:3"})
    write_v21(tmp_path / "tree/obuda/peg", rate=10, splits={"train": "0:1", "failure": "1:3"})
    prepared = prepare(open_dataset("lerobot", tmp_path / "tree", "train"), SPEC, 0.1)
    names = [r.name for r in prepared.recordings]
    assert names == [*(f"hamlyn/knot/episode_{e:06d}" for e in range(3)), "obuda/peg/episode_000000"]
    fast, native = prepared.recordings[0], prepared.recordings[3]
    assert fast.actions[:, 0].tolist() == [0, 3, 6, 9]
    assert [number_of(f)[1] for f in fast.frames[:]] == [0, 3, 6, 9]
    assert native.actions[:, 0].tolist() == list(range(12))
    assert len(open_dataset("lerobot", tmp_path / "tree", "failure").items()) == 2


def test_which_camera_must_be_clear(tmp_path: Path) -> None:
    root = write_v21(tmp_path / "set")
    path = root / "meta/info.json"
    content = json.loads(path.read_text())
    content["features"][WRIST] = content["features"][LEFT]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"option `camera`.*endoscope\.left, .*wrist\.left"):
        open_dataset("lerobot", root, "all").items()
    for camera in ("endoscope.left", LEFT, ["endoscope_left", "endoscope.left"]):
        (item, *_) = open_dataset("lerobot", root, "all", camera=camera).items()
        assert LEFT in str(item.files[1])
    with pytest.raises(DataError, match=r"none or several of them fit left"):
        open_dataset("lerobot", root, "all", camera="left").items()
    with pytest.raises(DataError, match=r"videos/chunk-000/observation\.images\.wrist.* is missing .*hf download"):
        open_dataset("lerobot", root, "all", camera="wrist.left").items()


@pytest.mark.parametrize(
    ("layout", "gone"),
    [
        ("v2.1", "meta/info.json"),
        ("v2.1", "meta/episodes.jsonl"),
        ("v2.1", "data/chunk-000/episode_000001.parquet"),
        ("v2.1", f"videos/chunk-000/{LEFT}/episode_000002.mp4"),
        ("v3.0", "meta/episodes/chunk-000/file-000.parquet"),
        ("v3.0", "data/chunk-000/file-000.parquet"),
        ("v3.0", f"videos/{LEFT}/chunk-000/file-001.mp4"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, layout: str, gone: str) -> None:
    root = WRITERS[layout](tmp_path / "set")
    (root / gone).unlink()
    named = "meta/episodes" if gone.startswith("meta/episodes/") else gone
    with pytest.raises(DataError, match=rf"{named} is missing or incomplete: .*Download a LeRobot data set"):
        open_dataset("lerobot", root, "all").items()


def test_what_is_cut_short_is_told(tmp_path: Path) -> None:
    root = write_v21(tmp_path / "set")
    write_video(root / f"videos/chunk-000/{LEFT}/episode_000000.mp4", [frame(0, i) for i in range(7)], 15)
    pq.write_table(pa.table(columns(1, 15)).slice(0, 5), root / "data/chunk-000/episode_000001.parquet")
    prepared = prepare(open_dataset("lerobot", root, "all"), SPEC, 0.1)
    assert "7 images for 12 stamps" in prepared.unreadable["episode_000000"]
    assert "has 5 frames of episode_000001, not 9: it is incomplete" in prepared.unreadable["episode_000001"]
    (root / "meta/info.json").write_text("{")
    with pytest.raises(DataError, match="no description of a LeRobot data set"):
        open_dataset("lerobot", root, "all").items()
