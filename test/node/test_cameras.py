"""The simulated endoscope and the player, as a subscriber sees them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: node tests need rclpy")
pytest.importorskip("gridkp_ros.msg", reason="the messages are not built: run them by `make test`")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState

from gridkp_ros.data.video_out import VideoWriter
from gridkp_ros.image_messages import message_to_array
from gridkp_ros.msg import GridKeypoints, GridKeypoints3D, KeypointForecast3D
from gridkp_ros.node.conversions import stamp_ns
from gridkp_ros.node.playback import Playback
from gridkp_ros.node.running import Finished
from gridkp_ros.sim import gl_available

NS = 1_000_000_000
MODEL = Path(__file__).parents[2] / "models" / "dvrk_sim"


class Listener:
    def __init__(self) -> None:
        self.domain = random.SystemRandom().randrange(1, 101)
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.node = rclpy.create_node("listener", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.processes: list[subprocess.Popen] = []

    @property
    def process(self) -> subprocess.Popen:
        """The newest one."""
        return self.processes[-1]

    def listen(self, kind: type, topic: str) -> list:
        received: list = []
        self.node.create_subscription(kind, topic, received.append, 50)
        return received

    def run(self, module: str, log: Path, *, remap: dict[str, str] | None = None, **parameters: object) -> None:
        command = [sys.executable, "-m", f"gridkp_ros.node.{module}", "--ros-args"]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
        for name, other in (remap or {}).items():
            command += ["-r", f"{name}:={other}"]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(self.domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        with log.open("w") as output:
            self.processes.append(
                subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=log.parent)
            )

    def spin_until(self, done: object, timeout_s: float = 120.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, "what was expected did not come"
            self.executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    made = Listener()
    yield made
    made.close()


def write_video(path: Path, frames: int = 20, rate_hz: float = 10.0) -> Path:
    with VideoWriter(path, rate_hz) as video:
        for index in range(frames):
            video.write(np.full((48, 64, 3), 10 * index, np.uint8))
    return path


def test_the_simulated_endoscope_speaks_under_dvrk_names(listener: Listener, tmp_path: Path) -> None:
    images = listener.listen(Image, "/davinci/left/image_raw")
    infos = listener.listen(CameraInfo, "/davinci/left/camera_info")
    poses = listener.listen(PoseStamped, "/PSM2/measured_cp")
    jaws = listener.listen(JointState, "/PSM1/jaw/measured_js")
    truths = listener.listen(GridKeypoints, "/camera_sim_node/truth")
    listener.run(
        "camera_sim_node", tmp_path / "log", width=64, height=48, episode_s=0.5, rate_hz=20.0, stereo=False,
        max_frames=15, wait_for_subscribers=1,
    )
    listener.spin_until(lambda: min(map(len, (images, infos, poses, jaws, truths))) >= 12)
    stamps = np.array([stamp_ns(m.header.stamp) for m in images])
    assert np.all(np.abs(np.diff(stamps) - NS / 20) < 2)
    assert {stamp_ns(m.header.stamp) for m in truths} >= set(stamps[2:10].tolist())
    assert images[0].encoding == "rgb8" and images[0].width == infos[0].width
    assert infos[0].k[0] > 0 and list(infos[0].p[:3]) == list(infos[0].k[:3])
    orientation = poses[0].pose.orientation
    norm = np.linalg.norm([orientation.x, orientation.y, orientation.z, orientation.w])
    assert norm == pytest.approx(1.0, abs=1e-6) and poses[0].pose.position.z > 0
    assert len(jaws[0].position) == 1
    assert len(truths[0].named_points) == 2 * len(truths[0].point_names) == 12


@pytest.mark.slow
@pytest.mark.skipif(gl_available() is not None, reason="no GL library")
def test_both_eyes_of_the_simulated_endoscope_give_the_tools_in_space(listener: Listener, tmp_path: Path) -> None:
    """From rendered images to forecasts in metres, through three processes, beside the truth."""
    truths = listener.listen(GridKeypoints3D, "/camera_sim_node/truth_3d")
    seen = listener.listen(GridKeypoints3D, "/predictor_node/keypoints_3d")
    forecasts = listener.listen(KeypointForecast3D, "/predictor_node/forecast_3d")
    listener.run(
        "predictor_node", tmp_path / "predictor", model=MODEL, stereo_half="both", autostart=True, num_samples=1,
        scene_cut_threshold=1.0, remap={"image": "/davinci/image_raw"},
    )
    listener.run(
        "camera_sim_node", tmp_path / "camera", side_by_side=True, episode_s=2.5, rate_hz=15.0, wait_for_subscribers=1,
    )
    listener.spin_until(lambda: len(forecasts) >= 20 and len(seen) >= 20)
    assert seen[-1].header.frame_id == "davinci_left_optical_frame"
    where = {stamp_ns(m.header.stamp): m for m in truths}
    errors_m = []
    for message in seen:
        if (truth := where.get(stamp_ns(message.header.stamp))) is not None:
            assert list(message.point_names) == list(truth.point_names)
            visible = np.array(truth.confidence) > 0.5
            known = visible & (np.array(message.named_status) == GridKeypoints3D.VALID)
            error_m = np.reshape(message.named_points, (-1, 3)) - np.reshape(truth.named_points, (-1, 3))
            errors_m += list(error_m[known])
    errors_mm = 1e3 * np.abs(errors_m)
    assert len(errors_mm) > 40
    # a cell of disparity is some 9 mm of depth; across it is 1 mm
    assert np.median(np.linalg.norm(errors_mm[:, :2], axis=1)) < 3 < 15 > np.median(errors_mm[:, 2])
    assert np.isfinite(forecasts[-1].mean).any()


def test_the_player_keeps_the_recorded_times(listener: Listener, tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mp4")
    images = listener.listen(Image, "/image")
    listener.run("player_node", tmp_path / "log", path=video, wait_for_subscribers=1, rate=2.0, start_offset_s=0.5)
    listener.spin_until(lambda: len(images) >= 15)
    values = [int(message_to_array(m).mean()) for m in images]
    assert abs(values[0] - 50) < 4 and abs(values[-1] - 190) < 4
    intervals = np.diff([stamp_ns(m.header.stamp) for m in images])
    assert np.all(np.abs(intervals - 0.05 * NS) < 2)  # 10 Hz, twice as fast


def test_the_player_with_clock_loops_with_increasing_stamps(listener: Listener, tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mp4", frames=6)
    images = listener.listen(Image, "/image")
    clocks = listener.listen(Clock, "/clock")
    listener.run(
        "player_node", tmp_path / "log", path=video, wait_for_subscribers=1, rate=5.0, publish_clock=True, loop=True
    )
    listener.spin_until(lambda: len(images) >= 15 and len(clocks) >= 15)
    stamps = np.array([stamp_ns(m.header.stamp) for m in images[:15]])
    assert stamps[0] >= NS and np.all(np.abs(np.diff(stamps) - 0.1 * NS) < 2)
    assert {stamp_ns(c.clock) for c in clocks} >= set(stamps[2:10].tolist())


def test_the_player_refuses_what_it_cannot_play(listener: Listener, tmp_path: Path) -> None:
    log = tmp_path / "log"
    listener.run("player_node", log, path=tmp_path / "none.mp4")
    assert listener.process.wait(120) == 1
    assert "no such file or folder" in log.read_text()


def test_a_playback_that_fails_says_so_and_ends_with_an_error(listener: Listener) -> None:
    said = listener.listen(DiagnosticArray, "/diagnostics")

    def frames() -> Iterator[tuple[int, None]]:
        yield 0, None
        raise OSError("frame 1 cannot be read")

    playback = Playback(listener.node, "broken.mp4", counts=lambda: {"unreadable": 4})
    playback.start(frames(), lambda *_: None, ready=lambda: True)
    with pytest.raises(Finished) as ended:
        listener.spin_until(lambda: False)
    assert ended.value.status == 1
    status = said[-1].status[0]
    assert (status.name, status.level) == ("/listener: camera", DiagnosticStatus.ERROR)
    assert status.message == "failed: frame 1 cannot be read"
    values = {v.key: v.value for v in status.values}
    assert values == {"published": "1", "unreadable": "4", "finished": "false", "failed": "true"}


def test_the_player_says_that_it_has_finished_and_ends_when_asked(listener: Listener, tmp_path: Path) -> None:
    said = listener.listen(DiagnosticArray, "/diagnostics")
    listener.listen(Image, "/image")
    video = write_video(tmp_path / "video.mp4", frames=5)
    listener.run("player_node", tmp_path / "log", path=video, wait_for_subscribers=1, exit_when_finished=True)
    listener.spin_until(lambda: any(KeyValue(key="finished", value="true") in m.status[0].values for m in said))
    assert listener.process.wait(120) == 0


@pytest.mark.slow
def test_the_demonstration_from_end_to_end(tiny_bundle_path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gridkp_ros.node.demo", "--model", str(tiny_bundle_path), "--duration", "4",
               "--out", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "frames published by the camera" in result.stdout and "constant velocity" in result.stdout
    for name in ("report.html", "film.mp4", "metrics.json", "summary.json", "bag/metadata.yaml"):
        assert (tmp_path / "out" / name).stat().st_size > 0
