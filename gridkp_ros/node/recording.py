"""A bag of what the nodes said, and its evaluation: forecasts against what then happened. No rclpy is needed here.

Messages are stored as they came (serialised), images as JPEG. The time of a message in the bag is when it arrived, so
a bag also holds how old each forecast was then.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import Reader, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from gridkp_ros.evaluation.metrics import EvaluationError
from gridkp_ros.evaluation.replay import cell_size_px, clear_outputs, view_rect, write_metrics
from gridkp_ros.evaluation.report import Table, write_report
from gridkp_ros.evaluation.scoring import ForecastScorer, PointTruth, point_truth
from gridkp_ros.evaluation.storyboard import Storyboard
from gridkp_ros.evaluation.strips import View
from gridkp_ros.geometry import InputSpec, Placement, Region, seen_parts
from gridkp_ros.image_messages import ImageError, message_to_array
from gridkp_ros.node.resources import find_resource

log = logging.getLogger(__name__)

JPEG_QUALITY = 92
_KEEP_EVERY_S, _KEEP_EVERY_BYTES = 1.0, 8_000_000
MESSAGES = ("GridKeypoints", "KeypointForecast", "ModelInfo", "PredictedFrames")
_BAG_VERSION = 8  # the newest that ROS 2 Humble reads too
_KEYPOINTS, _FORECAST, _FRAMES, _INFO = (
    f"gridkp_ros/msg/{name}" for name in ("GridKeypoints", "KeypointForecast", "PredictedFrames", "ModelInfo")
)
_DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
_COMPRESSED = "sensor_msgs/msg/CompressedImage"
_GROUND_TRUTH = "ground truth"  # the model_id under which camera_sim_node publishes it, on whatever topic


class RecordingError(ValueError):
    """A recording cannot be made; the message says why and what to do."""


def make_typestore() -> Typestore:
    """Return the standard message types with this package's own."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    types: dict[str, Any] = {}
    for name in MESSAGES:
        text = find_resource(f"msg/{name}.msg").read_text(encoding="utf-8")
        types.update(get_types_from_msg(text, f"gridkp_ros/msg/{name}"))
    store.register(types)
    return store


class BagWriter:
    """Writes serialised messages, and images as JPEG, to a new rosbag2. Use from one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Create the bag; path must not exist."""
        self._store = make_typestore()
        self._writer = Writer(path, version=_BAG_VERSION)
        self._writer.open()
        self._path = Path(path)
        self._connections: dict[str, Any] = {}
        self._kept_s, self._unkept_bytes, self._failed = time.monotonic(), 0, False
        self._kept: dict[str, int] = {}  # as `counts`, when they were last made to survive
        self.counts: dict[str, int] = {}

    def write(self, topic: str, msgtype: str, arrival_ns: int, data: bytes) -> None:
        """Append one serialised message."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, msgtype, typestore=self._store)
        try:
            self._writer.write(self._connections[topic], arrival_ns, data)
            self.counts[topic] = self.counts.get(topic, 0) + 1
            self._unkept_bytes += len(data)
            if time.monotonic() - self._kept_s > _KEEP_EVERY_S or self._unkept_bytes > _KEEP_EVERY_BYTES:
                self._keep()
        except Exception:
            self._failed = True
            raise

    def _keep(self) -> None:
        """Make what is written so far survive a full disk or the end of this process."""
        # rosbags leaves all of a recording in one transaction, which an accident takes back as a whole.
        connection = getattr(self._writer.storage, "conn", None)
        if connection is not None:
            connection.commit()
        self._kept_s, self._unkept_bytes, self._kept = time.monotonic(), 0, dict(self.counts)

    def write_image(self, topic: str, arrival_ns: int, data: bytes) -> None:
        """Append a serialised sensor_msgs/Image as a JPEG on topic/compressed. Raises ImageError, cv2.error."""
        try:
            message = self._store.deserialize_cdr(data, "sensor_msgs/msg/Image")
        except Exception as error:  # damaged bytes fail wherever they stop making sense
            raise ImageError(f"{len(data)} bytes are no sensor_msgs/msg/Image ({error})") from error
        image = message_to_array(message)
        if image.ndim == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        kind = self._store.types[_COMPRESSED]
        compressed = kind(header=message.header, format="jpeg", data=jpeg)
        serialised = bytes(self._store.serialize_cdr(compressed, _COMPRESSED))
        self.write(f"{topic}/compressed", _COMPRESSED, arrival_ns, serialised)

    def close(self) -> None:
        """Finish the bag. After a failure, or where this fails, what was kept stays in the .db3 file and is counted."""
        try:
            if not self._failed:
                self._writer.close()
        except Exception:
            self._failed = True
            raise
        finally:
            if self._failed:
                self.counts.clear()
                self.counts.update(self._kept)
                self._give_up()

    def _give_up(self) -> None:
        """Close the file without a metadata.yaml, which would count what is not there."""
        if hasattr(self._writer, "abort"):  # rosbags 0.11
            self._writer.abort()
        for journal in self._path.glob("*.db3-journal"):
            # Left by a full disk. Readers that change nothing would see half of the last second: opened for writing,
            # SQLite takes it back.
            with closing(sqlite3.connect(journal.with_suffix(".db3"))) as database:
                database.execute("SELECT count(*) FROM messages").fetchone()


@dataclass
class Recording:
    """What a bag holds, but for the images. By stamp (ns) of the newest image: keypoints, forecasts, frames.

    ages_ms: of each forecast when it arrived; status: last values of each diagnostic status by name; truth_*: of the
    simulator, empty without one.
    """

    image_topic: str
    num_images: int
    info: Any
    keypoints: dict[int, Any] = field(default_factory=dict)
    forecasts: dict[int, Any] = field(default_factory=dict)
    frames: dict[int, Any] = field(default_factory=dict)
    ages_ms: list[float] = field(default_factory=list)
    status: dict[str, dict[str, str]] = field(default_factory=dict)
    truth: dict[int, Any] = field(default_factory=dict)


def read_recording(bag: Path, image_topic: str | None = None) -> Recording:
    """Read all messages but the images.

    Raises EvaluationError if the bag cannot be read, or lacks what an evaluation needs.
    """
    try:
        with Reader(bag) as reader:
            recording = _read(reader, bag, image_topic)
    except EvaluationError:
        raise
    except Exception as error:  # storage plug-ins and damaged messages raise their own classes: sqlite3, struct, zstd
        raise EvaluationError(f"{bag} cannot be read: {str(error) or type(error).__name__}") from error
    if recording.info is None or not recording.keypoints:
        raise EvaluationError(f"{bag}: no keypoints of a predictor were recorded: did it run, and did it see images?")
    return recording


def _read(reader: Reader, bag: Path, image_topic: str | None) -> Recording:
    store = make_typestore()
    images = {c.topic: c.msgcount for c in reader.connections if c.msgtype == _COMPRESSED}
    if not images:
        raise EvaluationError(f"{bag}: no images were recorded: did the camera run, and on the recorder's image topic?")
    if image_topic is None and len(images) == 1:
        image_topic = next(iter(images))
    if image_topic not in images:
        raise EvaluationError(f"{bag}: images are expected on one topic, {image_topic or 'named'}; it has {images}")
    recording = Recording(image_topic, images[image_topic], None)
    others = [c for c in reader.connections if c.msgtype.startswith("gridkp_ros/") or c.msgtype == _DIAGNOSTICS]
    for connection, arrival_ns, data in reader.messages(connections=others):
        message = store.deserialize_cdr(data, connection.msgtype)
        _sort_in(recording, connection.msgtype, message, arrival_ns)
    return recording


def _sort_in(recording: Recording, msgtype: str, message: Any, arrival_ns: int) -> None:
    if msgtype == _DIAGNOSTICS:
        for status in message.status:
            recording.status[status.name] = {v.key: v.value for v in status.values}
    elif msgtype == _INFO:
        recording.info = message
    elif msgtype == _KEYPOINTS and message.model_id == _GROUND_TRUTH:
        recording.truth[_ns(message.header.stamp)] = message
    elif msgtype == _KEYPOINTS:
        recording.keypoints[_ns(message.header.stamp)] = message
    elif msgtype == _FRAMES:
        recording.frames[_ns(message.header.stamp)] = message
    elif msgtype == _FORECAST:
        stamp_ns = _ns(message.header.stamp)
        recording.forecasts[stamp_ns] = message
        recording.ages_ms.append((arrival_ns - stamp_ns) * 1e-6)


def _ns(time: Any) -> int:
    return int(time.sec) * 1_000_000_000 + int(time.nanosec)


def _images(bag: Path, topic: str) -> Iterator[tuple[int, np.ndarray]]:
    store = make_typestore()
    with Reader(bag) as reader:
        connections = [c for c in reader.connections if c.topic == topic]
        for connection, _, data in reader.messages(connections=connections):
            message = store.deserialize_cdr(data, connection.msgtype)
            yield _ns(message.header.stamp), message_to_array(message)


def evaluate_recording(
    bag: Path,
    out_dir: Path,
    *,
    title: str,
    region: Region | None = None,
    half: str = "",
    tables: tuple[Table, ...] = (),
    recording: Recording | None = None,
) -> dict:
    """Score a recording's forecasts; write metrics.json, film.mp4, film_strip.png and report.html into out_dir.

    region, half: region of interest and stereo half the predictor was given (of both eyes, the left one is scored).
    Returns what metrics.json holds.
    """
    recording = recording or read_recording(bag)
    info = recording.info
    period_s = _ns(info.period) * 1e-9
    spec = InputSpec(
        info.input_height, info.input_width, info.input_channels, info.input_color, info.resize, info.interpolation,
        info.fill,
    )
    names = tuple(info.point_names)
    clear_outputs(out_dir)
    scorer = story = placement = None
    with ExitStack() as stack:
        for stamp_ns, image in _images(bag, recording.image_topic):
            seen = recording.keypoints.get(stamp_ns)
            if seen is None:
                continue
            height, width = image.shape[:2]
            if placement is None or (placement.source_width, placement.source_height) != (width, height):
                placement = Placement.of(spec, width, height, seen_parts(width, height, half, region)[0])
                cell_px, origin_px = cell_size_px(placement), view_rect(placement)[:2]
            if scorer is None:
                scorer = ForecastScorer(
                    period_s=period_s, cell_size_px=cell_px, point_names=names, truth=_truth(recording, names)
                )
                story = stack.enter_context(Storyboard(out_dir, period_s=period_s, view_rect=view_rect(placement)))
            model_image = placement.to_model_image(image)
            view = _view(seen, image, model_image, recording.forecasts.get(stamp_ns), recording.frames.get(stamp_ns))
            scorer.add_observation(
                stamp_ns, view.epoch, view.points, view.confidence, model_image, named_points=view.named_points,
                cell_size_px=cell_px, view_origin_px=origin_px,
            )
            if view.mean is not None:
                scorer.add_forecast(
                    stamp_ns, view.epoch, view.times_ns, view.mean, view.covariance, view.frames, view.named_mean,
                    view.named_covariance, *_samples(recording.forecasts[stamp_ns]),
                )
            story.add(view)
        files = story.close() if story is not None else None
    if scorer is None:
        raise EvaluationError(f"{bag}: none of its {recording.num_images} images belongs to recorded keypoints")
    result = {
        "source": {"name": bag.name, "topic": recording.image_topic, "notes": []},
        "model": {"id": info.model_id, "family": info.family, "period_s": period_s, "provider": info.provider},
        "frames": {"recorded": recording.num_images, "absorbed": len(recording.keypoints),
                   "forecasts": len(recording.forecasts)},
        **scorer.result(),
    }
    write_metrics(out_dir, result)
    write_report(out_dir, result, title=title, story=files, tables=tables)
    return result


def _samples(forecast: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return a forecast message's samples [S,T,K,2] and their weights [S]."""
    shape = (forecast.num_samples, len(forecast.time_from_start), forecast.num_keypoints, 2)
    return forecast.points.reshape(shape), forecast.sample_weights


def _truth(recording: Recording, names: tuple[str, ...]) -> PointTruth | None:
    """Return the simulator's points in the order of the model's named points; None if there are none, or others."""
    if not recording.truth or not names:
        return None
    stamps = sorted(recording.truth)
    known = list(recording.truth[stamps[0]].point_names)
    if not set(names) <= set(known):
        log.warning("the ground truth has no %s: named points are not scored", sorted(set(names) - set(known)))
        return None
    order = [known.index(name) for name in names]
    points = np.stack([recording.truth[s].named_points.reshape(-1, 2)[order] for s in stamps])
    visible = np.stack([recording.truth[s].confidence[order] > 0.5 for s in stamps])
    return point_truth(np.array(stamps, np.int64), points, visible)


def _view(seen: Any, image: np.ndarray, model_image: np.ndarray, forecast: Any, frames: Any) -> View:
    known: dict[str, Any] = {
        "stamp_ns": _ns(seen.header.stamp),
        "epoch": seen.epoch,
        "image": image,
        "points": seen.points.reshape(-1, 2),
        "confidence": seen.confidence,
        "named_points": seen.named_points.reshape(-1, 2),
        "point_names": tuple(seen.point_names),
        "model_image": model_image,
    }
    if forecast is not None:
        steps, keypoints, points = len(forecast.time_from_start), forecast.num_keypoints, len(forecast.point_names)
        times_ns = np.array([_ns(t) for t in forecast.time_from_start], np.int64)
        known |= {
            "times_ns": times_ns,
            "mean": forecast.mean.reshape(steps, keypoints, 2),
            "covariance": forecast.covariance.reshape(steps, keypoints, 3),
            "named_mean": forecast.named_mean.reshape(steps, points, 2),
            "named_covariance": forecast.named_covariance.reshape(steps, points, 3),
        }
        if frames is not None:
            known["frames"] = _frames_by_step(frames, times_ns, model_image.shape)
    return View(**known)


def _frames_by_step(message: Any, times_ns: np.ndarray, shape: tuple[int, ...]) -> Mapping[int, np.ndarray]:
    """Return the predicted frames of model size by step; frames of another size cannot be compared and are left out."""
    steps = {int(t): step for step, t in enumerate(times_ns, start=1)}
    found = {}
    for offset, picture in zip(message.time_from_start, message.frames, strict=True):
        frame = message_to_array(picture)
        frame = frame[:, :, None] if frame.ndim == 2 else frame
        if frame.shape == shape and _ns(offset) in steps:
            found[steps[_ns(offset)]] = frame
    return found


def read_counts(recording: Recording) -> dict[str, Any]:
    """Return the counters for the demo's table: what camera and predictor said last, and the ages of forecasts."""
    camera = next((v for n, v in recording.status.items() if n.endswith(": camera")), {})
    predictor = next((v for n, v in recording.status.items() if n.endswith(": forecast")), {})
    counts: dict[str, Any] = {"published": camera.get("published")}
    for name in ("received", "absorbed", "skipped", "coasted", "dropped", "malformed", "forecasts"):
        counts[name] = predictor.get(name)
    counts["recorded"] = recording.num_images
    for percent in (50, 95, 99):
        ages = recording.ages_ms
        counts[f"forecast_age_ms_p{percent}"] = float(np.percentile(ages, percent)) if ages else None
    return {k: int(v) if isinstance(v, str) else v for k, v in counts.items()}
