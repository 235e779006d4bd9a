"""A simulated da Vinci endoscope under dVRK's names: images, camera_info, tool poses and jaws, and where the tips are.

Rendering is slower than playing, so each seed is rendered once and cached; then it plays at its own rate. Without an
off-screen GL library the clip that ships with the package is played instead, and the log says so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Header

from gridkp_ros.msg import GridKeypoints, GridKeypoints3D
from gridkp_ros.node.cameras import camera_model
from gridkp_ros.node.conversions import flat, image_message, time_message
from gridkp_ros.node.playback import Playback, PlaybackError, camera_qos
from gridkp_ros.node.ros_logging import forward_logging
from gridkp_ros.node.running import run_node
from gridkp_ros.runtime.stereo import StereoRig
from gridkp_ros.sim import DEMO_SEED, POINT_NAMES, Episode, SimConfig, gl_available
from gridkp_ros.sim.store import load_or_render, load_prerendered

ARMS = ("PSM1", "PSM2")
JOINT_NAMES = ("yaw", "pitch", "insertion", "roll", "wrist_pitch", "wrist_yaw")
Moment = tuple[Episode, int]  # an episode and the index of a frame in it


class CameraSimNode(Node):
    """Publishes /<rig>/left/image_raw and camera_info (and right), /PSM1/measured_cp, /PSM1/jaw/measured_js, ~/truth.

    With side_by_side both eyes come in one image, /<rig>/image_raw, the left one on the left.
    ~/truth is a GridKeypoints whose keypoints are the named points themselves (pixels of the left image), with
    confidence 1 where a point is visible and 0 where it is hidden or outside; with stereo, ~/truth_3d holds the same
    points in space.
    """

    def __init__(self) -> None:
        super().__init__("camera_sim_node")
        forward_logging(self.get_logger())
        text = self._declare()
        self._rig = text["rig"].strip("/")
        self._header_frames = {eye: f"{self._rig}_{eye}_optical_frame" for eye in ("left", "right")}
        self._episodes = self._load(text)
        stereo = self._episodes[0].right is not None
        qos = camera_qos(text["reliability"])
        eyes = ("left", "right") if stereo else ("left",)
        self._side_by_side = stereo and text["side_by_side"]
        images = {"": ("left", "right")} if self._side_by_side else {f"{e}/": (e,) for e in eyes}
        self._image_pubs = {
            shown: self.create_publisher(Image, f"/{self._rig}/{name}image_raw", qos) for name, shown in images.items()
        }
        self._info_pubs = {e: self.create_publisher(CameraInfo, f"/{self._rig}/{e}/camera_info", qos) for e in eyes}
        self._pose_pubs = [self.create_publisher(PoseStamped, f"/{arm}/measured_cp", 10) for arm in ARMS]
        self._jaw_pubs = [self.create_publisher(JointState, f"/{arm}/jaw/measured_js", 10) for arm in ARMS]
        self._joint_pubs = [self.create_publisher(JointState, f"/{arm}/measured_js", 10) for arm in ARMS]
        self._truth_pub = self.create_publisher(GridKeypoints, "~/truth", 10)
        self._truth_3d_pub = self.create_publisher(GridKeypoints3D, "~/truth_3d", 10) if stereo else None
        self._max_frames = text["max_frames"]
        self._loop = text["loop"] or self._max_frames > 0
        self._wanted_subscribers = text["wait_for_subscribers"]
        self._playback = Playback(self, self._rig, publish_clock=text["publish_clock"], first_stamp_ns=1_000_000_000)
        self._playback.start(self._moments(), self._publish, ready=self._is_awaited)

    def _declare(self) -> dict:
        declared = {
            "rig": "davinci", "seed": DEMO_SEED, "num_episodes": 1, "episode_s": 20.0, "rate_hz": 30.0, "width": 640,
            "height": 480, "stereo": True, "side_by_side": False, "background": "random", "loop": True, "max_frames": 0,
            "wait_for_subscribers": 0, "publish_clock": False, "reliability": "reliable",
        }
        return {name: self.declare_parameter(name, default).value for name, default in declared.items()}

    def _load(self, text: dict) -> list[Episode]:
        """Return the episodes asked for, rendered or from the cache, or the clip that ships with the package."""
        if text["num_episodes"] < 1:
            raise PlaybackError(f"num_episodes is {text['num_episodes']}: use 1 or more")
        log = self.get_logger()
        problem = gl_available()
        if problem is not None:
            log.error(f"scenes cannot be rendered here: {problem}")
            log.error("playing the clip that ships with the package instead, left eye alone")
            return [load_prerendered()]
        config = SimConfig(
            width=text["width"], height=text["height"], rate_hz=text["rate_hz"], duration_s=text["episode_s"],
            stereo=text["stereo"], background=text["background"],
        )

        def progress(done: int, total: int) -> None:
            if not self.context.ok():  # a SIGTERM says so here alone
                raise ExternalShutdownException
            log.info(f"rendering: {done} of {total} frames", throttle_duration_sec=2.0)

        return [load_or_render(config, text["seed"] + i, progress=progress) for i in range(text["num_episodes"])]

    def _moments(self) -> Iterator[tuple[int, Moment]]:
        """Yield (time in nanoseconds, moment) of all episodes, again and again if they loop."""
        count, start_ns = 0, 0
        while True:
            for episode in self._episodes:
                stamps_ns = np.rint(np.asarray(episode.stamps_s) * 1e9).astype(np.int64)
                for index, offset_ns in enumerate(stamps_ns):
                    if self._max_frames and count >= self._max_frames:
                        return
                    yield start_ns + int(offset_ns), (episode, index)
                    count += 1
                start_ns += int(stamps_ns[-1]) + round(1e9 / episode.config.rate_hz)
            if not self._loop:
                return

    def _is_awaited(self) -> bool:
        first = next(iter(self._image_pubs.values()))
        return first.get_subscription_count() >= self._wanted_subscribers

    def _publish(self, stamp_ns: int, moment: Moment) -> None:
        episode, index = moment
        stamp = time_message(stamp_ns)
        # The calibration first: who waits for an image has it then.
        for eye, publisher in self._info_pubs.items():
            header = Header(stamp=stamp, frame_id=self._header_frames[eye])
            publisher.publish(_camera_info(episode, header, eye))
        for eyes, publisher in self._image_pubs.items():
            header = Header(stamp=stamp, frame_id=self._header_frames[eyes[0]])
            shown = [(episode.left if eye == "left" else episode.right)[index] for eye in eyes]
            publisher.publish(image_message(shown[0] if len(shown) == 1 else np.concatenate(shown, axis=1), header))
        header = Header(stamp=stamp, frame_id=self._header_frames["left"])
        for arm, name in enumerate(ARMS):
            self._pose_pubs[arm].publish(_pose(header, episode.tool_poses[index, arm]))
            self._jaw_pubs[arm].publish(
                JointState(header=header, name=[f"{name}_jaw"], position=[float(episode.jaw_rad[index, arm])])
            )
            positions = [float(v) for v in episode.joints[index, arm, : len(JOINT_NAMES)]]
            self._joint_pubs[arm].publish(JointState(header=header, name=list(JOINT_NAMES), position=positions))
        self._truth_pub.publish(_truth(episode, index, header, widths=2 if self._side_by_side else 1))
        if self._truth_3d_pub is not None:
            self._truth_3d_pub.publish(_truth_3d(episode, index, header))

    def close(self) -> None:
        """Stop playing."""
        self._playback.stop()


def _camera_info(episode: Episode, header: Header, eye: str) -> CameraInfo:
    height, width = episode.left.shape[1:3]
    k = np.asarray(episode.camera_matrix, dtype=np.float64)
    p = np.hstack([k, np.zeros((3, 1))])
    if eye == "right":
        p[0, 3] = -k[0, 0] * episode.baseline_m
    return CameraInfo(
        header=header, height=height, width=width, distortion_model="plumb_bob", d=[0.0] * 5, k=k.ravel(),
        r=np.eye(3).ravel(), p=p.ravel(),
    )


def _pose(header: Header, pose: np.ndarray) -> PoseStamped:
    message = PoseStamped(header=header)
    position, orientation = message.pose.position, message.pose.orientation
    position.x, position.y, position.z = (float(v) for v in pose[:3])
    orientation.x, orientation.y, orientation.z, orientation.w = (float(v) for v in pose[3:])
    return message


def _truth(episode: Episode, index: int, header: Header, widths: int) -> GridKeypoints:
    points = flat(episode.points_px[index])
    return GridKeypoints(
        header=header, image_width=widths * episode.left.shape[2], image_height=episode.left.shape[1], points=points,
        confidence=flat(episode.visible[index]), point_names=list(POINT_NAMES), named_points=points,
        model_id="ground truth",
    )


def _truth_3d(episode: Episode, index: int, header: Header) -> GridKeypoints3D:
    """Return where the named points are: with both eyes' exact pixels, triangulation is exact too."""
    models = [
        camera_model(_camera_info(episode, header, eye), rectified=False, name=eye) for eye in ("left", "right")
    ]
    exact = np.array([1e-6, 0.0, 1e-6])
    found = StereoRig.of(*models).triangulate(episode.points_px[index], episode.points_right_px[index], exact, exact)
    points, status = flat(found.points), flat(found.status, "B")
    return GridKeypoints3D(
        header=header, points=points, status=status, confidence=flat(episode.visible[index]),
        point_names=list(POINT_NAMES), named_points=points, named_status=status, model_id="ground truth",
    )


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted."""
    return run_node("camera_sim_node", CameraSimNode, args, close=CameraSimNode.close)


if __name__ == "__main__":
    sys.exit(main())
