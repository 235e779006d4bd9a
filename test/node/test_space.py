"""Both eyes of an endoscope in one node: keypoints and forecasts as points in space, and as markers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: node tests need rclpy")
pytest.importorskip("gridkp_ros.msg", reason="the messages are not built: run them by `make test`")

from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from gridkp_ros.image_messages import message_to_array
from gridkp_ros.msg import GridKeypoints, GridKeypoints3D, KeypointForecast, KeypointForecast3D, PredictedFrames
from gridkp_ros.node.conversions import image_message, time_message
from gridkp_ros.srv import GetForecast
from support.ros_rig import NS, MakeRig, Rig
from support.streams import squares
from support.waiting import wait_for

FOCAL, BASELINE_M, DISPARITY = 60.0, 0.005, 6  # px, m, px: the squares are 5 cm away
START_NS = 1000 * NS
SQUARES = np.array([[10, 14], [42, 14], [10, 46], [42, 46]], float)  # of the right eye at step 0


def camera_info(eye: str, **changes: Any) -> CameraInfo:
    """Return the calibration of an eye of 64x64 pixels."""
    k = np.array([[FOCAL, 0, 31.5], [0, FOCAL, 31.5], [0, 0, 1]])
    p = np.hstack([k, [[-FOCAL * BASELINE_M if eye == "right" else 0], [0], [0]]])
    fields = {
        "width": 64, "height": 64, "distortion_model": "plumb_bob", "d": [0.0] * 5, "k": k.ravel(),
        "r": np.eye(3).ravel(), "p": p.ravel(),
    }
    return CameraInfo(header=Header(frame_id=f"{eye}_optical"), **{**fields, **changes})


def calibrate(rig: Rig, **infos: CameraInfo) -> None:
    """Publish camera_info for the eyes until the node has it."""
    for name, info in infos.items():
        topic = "camera_info" if name == "only" else f"{name}/camera_info"
        publisher = rig.camera.create_publisher(CameraInfo, topic, 10)
        wait_for(lambda p=publisher: p.get_subscription_count() > 0, f"a subscriber to {topic}")
        publisher.publish(info)
        wait_for(lambda t=topic, i=info: rig.node.space._cameras._newest.get(t) == i, f"{topic} taken in")


def watch(rig: Rig, kind: type, topic: str) -> list[Any]:
    """Collect a topic's messages; returns when the node knows of it."""
    found: list[Any] = []
    rig.listen(kind, topic, found.append, 50)
    name = f"/predictor_node/{topic}"
    publisher = next(p for p in rig.node.publishers if p.topic_name == name)
    wait_for(lambda: publisher.get_subscription_count() > 0, f"the subscription to {topic}")
    return found


def show(rig: Rig, count: int = 5, first: int = 0, row_shift: int = 0) -> None:
    """Send side-by-side images of squares that both eyes see move a pixel each step."""
    for i in range(first, first + count):
        right = np.roll(squares(i, speed=1), row_shift, axis=0)
        image = np.concatenate([squares(i + DISPARITY, speed=1), right], axis=1)
        header = Header(stamp=time_message(START_NS + round(i * NS / 15)), frame_id="endoscope")
        rig.send(image_message(image, header))


def expected(step: int) -> np.ndarray:
    """Return where the squares are in space at a step, [4, 3] m."""
    px = SQUARES + np.array([step + DISPARITY, 0])
    depth = FOCAL * BASELINE_M / DISPARITY
    return np.concatenate([(px - 31.5) / FOCAL * depth, np.full((4, 1), depth)], axis=1)


def test_both_eyes_in_one_node_give_points_in_space(make_rig: MakeRig) -> None:
    rig = make_rig(stereo_half="both", horizon_steps=4, num_samples=3)
    calibrate(rig, left=camera_info("left"), right=camera_info("right"))
    keypoints = watch(rig, GridKeypoints3D, "keypoints_3d")
    forecasts = watch(rig, KeypointForecast3D, "forecast_3d")
    right, right_forecasts = (
        watch(rig, kind, f"right/{topic}")
        for kind, topic in ((GridKeypoints, "keypoints"), (KeypointForecast, "forecast"))
    )
    show(rig)
    wait_for(lambda: len(forecasts) == 3 and len(right_forecasts) == 3, "three forecasts")
    seen = keypoints[-1]
    assert (seen.header.frame_id, seen.header.stamp) == ("left_optical", rig.keypoints[-1].header.stamp)
    assert list(seen.status) == [GridKeypoints3D.VALID] * 4
    np.testing.assert_allclose(np.array(seen.points).reshape(4, 3), expected(4), atol=1e-6)
    assert (np.array(seen.covariance).reshape(4, 6)[:, 5] > 0).all()
    assert list(seen.point_names) == ["left", "right"]
    assert list(seen.named_status) == [0, 0]
    np.testing.assert_allclose(
        np.array(seen.named_points).reshape(2, 3), expected(4)[[[0, 2], [1, 3]]].mean(axis=1), atol=1e-6
    )
    foreseen = forecasts[-1]
    assert (foreseen.num_samples, foreseen.num_keypoints, len(foreseen.time_from_start)) == (3, 4, 4)
    samples = np.array(foreseen.points).reshape(3, 4, 4, 3)
    for step in range(4):
        np.testing.assert_allclose(samples[0, step], expected(5 + step), atol=1e-6)
    assert len(foreseen.covariance) == 4 * 4 * 6
    assert foreseen.trust == min(rig.forecasts[-1].trust, right_forecasts[-1].trust)
    assert len(foreseen.named_mean) == 4 * 2 * 3
    # the right eye's own topics, in pixels of the whole image
    x = np.array(right[-1].points).reshape(4, 2)[:, 0]
    np.testing.assert_allclose(x, np.array([10, 42, 10, 42]) + 4 + 64)
    assert right_forecasts[-1].epoch == foreseen.epoch == 1
    values = rig.wait_status("space", 0, "both eyes are followed and put together")
    assert (values["rows_apart_cells"], values["points_refused_percent"]) == ("0.00", "0")


def test_eyes_that_do_not_mean_the_same_place_give_none(make_rig: MakeRig) -> None:
    rig = make_rig(stereo_half="both")
    calibrate(rig, left=camera_info("left"), right=camera_info("right"))
    keypoints = watch(rig, GridKeypoints3D, "keypoints_3d")
    show(rig, row_shift=8)
    wait_for(lambda: len(keypoints) == 5, "five frames")
    assert list(keypoints[-1].status) == [GridKeypoints3D.ROWS_DISAGREE] * 4
    assert np.isnan(keypoints[-1].points).all()
    assert np.isnan(keypoints[-1].covariance).all()
    assert rig.wait_status("space", 0, "put together")["points_refused_percent"] not in ("", "0")


def test_what_is_missing_is_said_and_forecasts_go_on(make_rig: MakeRig) -> None:
    rig = make_rig(stereo_half="both")
    keypoints = watch(rig, GridKeypoints3D, "keypoints_3d")
    show(rig, count=20)
    rig.wait_forecasts(18)
    rig.wait_status("space", 1, "no points in space: nothing has come on /left/camera_info yet")
    calibrate(rig, left=camera_info("left"), right=camera_info("left"))
    show(rig, count=1, first=20)
    rig.wait_status("space", 1, "/right/camera_info has no baseline")
    calibrate(rig, right=camera_info("right"))
    show(rig, count=1, first=21)
    wait_for(lambda: len(keypoints) == 1, "points in space")


def test_a_moved_keypoint_is_answered_for_the_eye_it_is_moved_in(make_rig: MakeRig) -> None:
    rig = make_rig(stereo_half="both")
    show(rig)
    for x in (20.0, 84.0):
        request = GetForecast.Request(horizon_steps=2, num_samples=1, moved_keypoints=[0], moved_points=[x, 20.0])
        answer = rig.call(GetForecast, "get_forecast", request)
        assert answer.success, answer.message
        assert (np.array(answer.forecast.mean).reshape(2, 4, 2)[0, 1, 0] >= 64) == (x > 64)


def of(found: MarkerArray, ns: str) -> list[Marker]:
    return [m for m in found.markers if m.ns == ns and m.action == Marker.ADD]


def test_markers_show_both_eyes_points_and_go_with_the_stream(make_rig: MakeRig) -> None:
    rig = make_rig(stereo_half="both", horizon_steps=4, stale_after_s=2.0)
    calibrate(rig, left=camera_info("left"), right=camera_info("right"))
    arrays = watch(rig, MarkerArray, "markers")
    show(rig)
    wait_for(lambda: len(arrays) == 5, "markers of five frames")
    assert of(arrays[0], "keypoints_futures") == []  # no forecast yet
    newest = arrays[-1]
    (spheres,) = of(newest, "keypoints")
    assert (spheres.type, spheres.header.frame_id) == (Marker.SPHERE_LIST, "left_optical")
    np.testing.assert_allclose([[p.x, p.y, p.z] for p in spheres.points], expected(4), atol=1e-6)
    assert 0 < spheres.scale.x < 0.01
    paths = of(newest, "keypoints_futures")
    assert [len(path.points) for path in paths] == [8] * 4  # four pieces with two ends each
    np.testing.assert_allclose([paths[1].points[-1].x, paths[1].points[-1].z], expected(8)[1, [0, 2]], atol=1e-6)
    assert [m.text for m in of(newest, "names")] == ["left", "right"]
    ellipsoids = of(newest, "ellipsoids")
    assert len(ellipsoids) == 2
    q = ellipsoids[0].pose.orientation
    assert q.x**2 + q.y**2 + q.z**2 + q.w**2 == pytest.approx(1)
    assert ellipsoids[0].scale.z > 3 * ellipsoids[0].scale.x  # depth is what stereo knows least
    assert newest.markers[0].lifetime.sec == 2
    assert rig.node.trigger_deactivate().name == "SUCCESS"
    wait_for(lambda: arrays[-1].markers[0].action == Marker.DELETEALL, "the markers' end")


def test_markers_of_a_point_that_is_lost_are_deleted(make_rig: MakeRig) -> None:
    rig = make_rig(stereo_half="both", horizon_steps=4)
    calibrate(rig, left=camera_info("left"), right=camera_info("right"))
    arrays = watch(rig, MarkerArray, "markers")
    show(rig)
    show(rig, count=1, first=5, row_shift=8)
    wait_for(lambda: len(arrays) == 6, "markers of six frames")
    deleted = {(m.ns, m.id) for m in arrays[-1].markers if m.action == Marker.DELETE}
    assert {("keypoints", 0), ("names", 0), ("names", 1)} <= deleted
    assert of(arrays[-1], "keypoints") == []


def test_one_eye_gives_markers_on_a_plane(make_rig: MakeRig) -> None:
    rig = make_rig(marker_depth_m=0.1, horizon_steps=2)
    calibrate(rig, only=camera_info("left", width=32, height=32, k=[30.0, 0, 15.5, 0, 30, 15.5, 0, 0, 1]))
    arrays = watch(rig, MarkerArray, "markers")
    for i in range(4):
        header = Header(stamp=time_message(START_NS + round(i * NS / 15)), frame_id="endoscope")
        rig.send(image_message(squares(i, speed=1), header))
    wait_for(lambda: len(arrays) == 4, "markers of four frames")
    (spheres,) = of(arrays[-1], "keypoints")
    at = np.array([[p.x, p.y, p.z] for p in spheres.points])
    wanted = (SQUARES + np.array([3, 0]) - 31.5) / FOCAL * 0.1  # the calibration is of 32x32
    np.testing.assert_allclose(at[:, :2], wanted, atol=1e-6)
    np.testing.assert_allclose(at[:, 2], 0.1)
    assert len(of(arrays[-1], "ellipsoids")) == 2


def test_camera_info_is_looked_for_beside_the_images(make_rig: MakeRig) -> None:
    rig = make_rig()
    assert list(rig.node.space._cameras.topics.values()) == ["/left/camera_info", "/right/camera_info", "/camera_info"]


def test_markers_without_a_calibration_say_what_they_wait_for(make_rig: MakeRig) -> None:
    rig = make_rig()
    watch(rig, MarkerArray, "markers")
    assert rig.status("space")[0] == -1
    for i in range(20):
        rig.send(image_message(squares(i), Header(stamp=time_message(START_NS + round(i * NS / 15)))))
    rig.wait_status("space", 1, "no points in space: nothing has come on /camera_info yet")


def test_pictures_show_both_eyes_each_in_its_half(make_rig: MakeRig) -> None:
    rig = make_rig(stereo_half="both", horizon_steps=3, frame_steps=[1])
    overlays, frames = watch(rig, Image, "overlay"), watch(rig, PredictedFrames, "frames")
    show(rig)
    newest = time_message(START_NS + round(4 * NS / 15))

    def of_the_newest(pictures: list[Any]) -> Any:
        return next((m for m in pictures if m.header.stamp == newest), None)

    wait_for(lambda: of_the_newest(overlays) and of_the_newest(frames), "pictures of the newest image")
    drawn = message_to_array(of_the_newest(overlays))
    predicted = message_to_array(of_the_newest(frames).frames[0])
    assert drawn.shape == predicted.shape == (64, 128, 3)
    step = 4
    for offset in (DISPARITY, 64):  # the tiny model draws a white square at each predicted keypoint
        for x, y in SQUARES + np.array([step + 1 + offset, 0]):
            assert (predicted[int(y), int(x)] == 255).all()
        for x, y in SQUARES + np.array([step + offset, 0]):
            assert drawn[int(y), int(x)].std() > 10  # coloured dots on grey squares
