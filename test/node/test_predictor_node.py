"""predictor_node as a foreign camera and a planner see it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: node tests need rclpy")
pytest.importorskip("gridkp_ros.msg", reason="the messages are not built: run them by `make test`")

import cv2
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from gridkp_ros.msg import PredictedFrames
from gridkp_ros.node.conversions import image_message, stamp_ns, time_message
from gridkp_ros.runtime import Predictor
from gridkp_ros.srv import GetForecast
from support.ros_rig import NS, MakeRig, picture
from support.waiting import TIMEOUT_S, held_back, wait_for


def test_a_30_hz_camera_has_every_second_frame_absorbed_and_forecast(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.stream(12, 30.0)
    rig.wait_forecasts(4)
    wait_for(lambda: len(rig.keypoints) == 6, "six keypoint messages")
    assert (rig.statistics.absorbed, rig.statistics.skipped, rig.statistics.coasted) == (6, 6, 0)
    first_ns = 1000 * NS
    assert [stamp_ns(m.header.stamp) - first_ns for m in rig.keypoints] == [round(i * NS / 15) for i in range(6)]
    newest = rig.forecasts[-1]
    assert newest.header.frame_id == "endoscope"
    assert (newest.num_samples, newest.num_keypoints, newest.image_width, newest.image_height) == (1, 4, 96, 64)
    assert len(newest.points) == 15 * 4 * 2 and len(newest.covariance) == 15 * 4 * 3
    assert newest.frames_since_start == 6 and newest.epoch == 1
    times = np.array([stamp_ns(t) for t in newest.time_from_start])
    np.testing.assert_allclose(times, np.arange(1, 16) * NS / 15, atol=2)
    assert np.all(np.array(newest.covariance).reshape(-1, 3)[:, [0, 2]] > 0)


@pytest.mark.parametrize(
    ("rate_hz", "frames", "absorbed", "coasted"), [(10.0, 8, 8, 3), (25.0, 10, 6, 0), (120.0, 33, 5, 0)]
)
def test_cameras_of_other_rates(make_rig: MakeRig, rate_hz: float, frames: int, absorbed: int, coasted: int) -> None:
    rig = make_rig()
    rig.stream(frames, rate_hz)
    assert rig.statistics.absorbed == absorbed
    assert rig.statistics.coasted >= coasted
    assert rig.statistics.dropped == 0
    rig.wait_forecasts(1)


def test_model_info_reaches_a_late_subscriber(make_rig: MakeRig) -> None:
    rig = make_rig()
    wait_for(lambda: bool(rig.infos), "model_info")
    info = rig.infos[0]
    assert info.provider == "CPUExecutionProvider" and info.family == "gridkp"
    assert (info.input_width, info.input_height, info.num_keypoints) == (64, 64, 4)
    assert list(info.point_names) == ["left", "right"]


def test_images_come_in_while_the_executor_is_busy(make_rig: MakeRig) -> None:
    rig = make_rig()
    busy, go_on = threading.Event(), threading.Event()

    def occupy() -> None:
        busy.set()
        go_on.wait(TIMEOUT_S)

    rig.node.executor.create_task(occupy)
    try:
        assert busy.wait(TIMEOUT_S)
        rig.stream(6, 15.0)
        rig.wait_forecasts(4)
    finally:
        go_on.set()


def test_an_image_that_cannot_be_taken_does_not_end_the_receiving(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()

    def fail(frame: object) -> bool:
        monkeypatch.undo()
        raise MemoryError("no room for an image")

    monkeypatch.setattr(rig.node._mailbox, "put", fail)
    rig.send(image_message(picture(), Header(stamp=time_message(1000 * NS))))
    assert "MemoryError: no room for an image" in rig.statistics.last_error
    rig.stream(4, 15.0)
    rig.wait_forecasts(2)


def test_stamps_that_jump_back_start_a_new_epoch(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.stream(8, 15.0)
    rig.stream(8, 15.0, start_ns=500 * NS)
    rig.wait_forecasts(6 + 6)
    assert {m.epoch for m in rig.keypoints} == {1, 2}
    assert "jumped back" in rig.statistics.start_reason
    assert rig.forecasts[-1].frames_since_start == 8


def test_a_camera_that_dies_and_comes_back_is_heard_again(make_rig: MakeRig) -> None:
    rig = make_rig(stale_after_s=0.2)
    end_ns = rig.stream(5, 15.0)
    rig.camera.destroy_publisher(rig.publisher)
    rig.wait_status("forecast", 3, "stale input")
    rig.wait_status("input", 3, "stale input")
    rig.publisher = rig.camera.create_publisher(Image, "image", 10)
    wait_for(lambda: rig.publisher.get_subscription_count() > 0, "rediscovery")
    rig.stream(5, 15.0, start_ns=end_ns + 30 * NS)
    wait_for(lambda: rig.keypoints[-1].epoch == 2, "keypoints of a second epoch")
    assert "gap" in rig.statistics.start_reason


def broken_messages() -> dict[str, tuple[Callable[[Image], None], str]]:
    def set_field(name: str, value: object) -> Callable[[Image], None]:
        return lambda message: setattr(message, name, value)

    return {
        "unknown encoding": (set_field("encoding", "infrared7"), "infrared7"),
        "short step": (set_field("step", 10), "step 10"),
        "cut data": (lambda m: setattr(m, "data", m.data[:100]), "100 bytes"),
        "empty": (lambda m: (setattr(m, "width", 0), setattr(m, "height", 0)), "empty"),
    }


@pytest.mark.parametrize("name", broken_messages())
def test_a_malformed_image_is_named_and_the_node_goes_on(make_rig: MakeRig, name: str) -> None:
    rig = make_rig()
    end_ns = rig.stream(4, 15.0)
    spoil, sentence = broken_messages()[name]
    message = image_message(picture(), Header(stamp=time_message(end_ns)))
    spoil(message)
    rig.send(message)
    assert rig.statistics.malformed == 1
    assert sentence in rig.statistics.last_error
    rig.wait_status("input", 2, sentence)
    rig.stream(4, 15.0, start_ns=end_ns + NS // 15)
    assert rig.statistics.absorbed == 8 and rig.statistics.epoch == 1


@pytest.mark.parametrize("encoding", ["mono8", "mono16", "rgb8", "bgr8", "rgba8", "bgra8"])
def test_encodings_give_the_same_keypoints(make_rig: MakeRig, tiny_bundle_path: Path, encoding: str) -> None:
    rig = make_rig()
    rig.stream(1, 15.0, encoding=encoding)
    wait_for(lambda: bool(rig.keypoints), "keypoints")
    expected = Predictor(tiny_bundle_path).observe(picture(), NS).points
    np.testing.assert_allclose(np.array(rig.keypoints[0].points).reshape(4, 2), expected, atol=1.6)  # one cell


def test_images_without_a_stamp_get_the_time_of_arrival(make_rig: MakeRig) -> None:
    rig = make_rig()
    before = time.time_ns()
    rig.send(image_message(picture(), Header()))
    wait_for(lambda: bool(rig.keypoints), "keypoints")
    assert stamp_ns(rig.keypoints[0].header.stamp) >= before


def test_another_image_size_starts_a_new_epoch(make_rig: MakeRig) -> None:
    rig = make_rig()
    end_ns = rig.stream(4, 15.0)
    rig.stream(4, 15.0, start_ns=end_ns, shape=(120, 90))
    assert rig.statistics.epoch == 2 and "96x64 to 120x90" in rig.statistics.start_reason


def test_parameters_change_while_it_runs(make_rig: MakeRig) -> None:
    rig = make_rig()
    end_ns = rig.stream(4, 15.0)
    assert rig.node.set_parameters([Parameter("horizon_steps", value=7)])[0].successful
    rig.stream(2, 15.0, start_ns=end_ns)
    rig.wait_forecasts(4)
    assert len(rig.forecasts[-1].time_from_start) == 7


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("temperature", -1.0, "temperature"),
        ("num_samples", 100_000, "num_samples"),
        ("stereo_half", "middle", "'left', 'right'"),
        ("provider", "cuda", "onnxruntime-gpu"),
        ("variant", "int3", "no variant 'int3'"),
        ("model", "no_such_model", "manifest.json"),
        ("region_of_interest", [1, 2, 3], "x, y, width, height"),
        ("frame_steps", [0, 5], "count from 1"),
    ],
)
def test_impossible_parameters_are_refused_with_a_reason(
    make_rig: MakeRig, name: str, value: object, sentence: str
) -> None:
    rig = make_rig()
    before = rig.node.get_parameter(name).value
    result = rig.node.set_parameters([Parameter(name, value=value)])[0]
    assert not result.successful and sentence in result.reason
    assert rig.node.get_parameter(name).value == before
    rig.stream(3, 15.0)
    rig.wait_forecasts(1)


def test_a_new_region_counts_as_a_fresh_start_and_points_stay_in_the_image_as_received(make_rig: MakeRig) -> None:
    rig = make_rig()
    end_ns = rig.stream(3, 15.0)
    before = rig.node.predictor
    assert rig.node.set_parameters([Parameter("region_of_interest", value=[48, 0, 48, 64])])[0].successful
    wait_for(lambda: rig.node.predictor is not before, "the change")
    rig.stream(3, 15.0, start_ns=end_ns)
    wait_for(lambda: len(rig.keypoints) == 6, "six keypoint messages")
    assert rig.keypoints[-1].epoch == 2
    assert np.array(rig.keypoints[-1].points).reshape(4, 2)[:, 0].min() >= 47.5


def test_get_forecast_answers_or_says_why_not(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.stream(2, 15.0)
    early = rig.call(GetForecast, "get_forecast", GetForecast.Request())
    assert not early.success and "warm-up" in early.message
    rig.stream(4, 15.0, start_ns=1000 * NS + 2 * NS // 15)
    plain = rig.call(GetForecast, "get_forecast", GetForecast.Request(horizon_steps=4, num_samples=9, seed=3))
    assert plain.success and plain.forecast.num_samples == 9 and len(plain.forecast.time_from_start) == 4
    again = rig.call(GetForecast, "get_forecast", GetForecast.Request(horizon_steps=4, num_samples=9, seed=3))
    assert again.forecast.points == plain.forecast.points
    request = GetForecast.Request(horizon_steps=4, moved_keypoints=[2], moved_points=[30.0, 40.0])
    moved = rig.call(GetForecast, "get_forecast", request)
    assert moved.success
    first = np.array(moved.forecast.mean).reshape(4, 4, 2)[0]
    other = np.array(plain.forecast.points).reshape(9, 4, 4, 2)[0, 0]
    assert abs(first[2] - other[2]).max() > 5 and abs(first[0] - other[0]).max() < 1e-3
    assert rig.statistics.absorbed == 6


def test_get_forecast_refuses_what_would_break_the_stream(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig()
    rig.stream(4, 15.0)
    # A slow machine: the stream can wait for ten steps of a sample.
    monkeypatch.setattr(rig.node, "forecast_s", lambda samples, horizon_steps: 0.1 * samples * horizon_steps)
    answer = rig.call(GetForecast, "get_forecast", GetForecast.Request(horizon_steps=4, num_samples=3))
    assert not answer.success and "3 samples of 4 steps would take about 1.2 s" in answer.message
    assert rig.call(GetForecast, "get_forecast", GetForecast.Request(horizon_steps=4, num_samples=2)).success


@pytest.mark.parametrize(
    ("keypoints", "points", "sentence"),
    [
        ([9], [1.0, 1.0], "keypoint 9"),
        ([1], [1.0], "x, y each"),
        ([1, 1], [1.0] * 4, "twice"),
        ([0], [500.0, 1.0], "500"),
    ],
)
def test_get_forecast_refuses_what_cannot_be(
    make_rig: MakeRig, keypoints: list[int], points: list[float], sentence: str
) -> None:
    rig = make_rig()
    rig.stream(4, 15.0)
    request = GetForecast.Request(moved_keypoints=keypoints, moved_points=points)
    answer = rig.call(GetForecast, "get_forecast", request)
    assert not answer.success and sentence in answer.message


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"horizon_steps": 1001}, "horizon_steps is 1001: use 1 to 1000"),
        ({"num_samples": 257}, "num_samples is 257: use 0 to 256"),
        ({"horizon_steps": 1000, "num_samples": 256}, "lower one of them"),
    ],
)
def test_get_forecast_keeps_to_the_ranges_of_the_parameters(make_rig: MakeRig, asked: dict, sentence: str) -> None:
    rig = make_rig()
    rig.stream(4, 15.0)
    answer = rig.call(GetForecast, "get_forecast", GetForecast.Request(**asked))
    assert not answer.success and sentence in answer.message


def test_images_and_diagnostics_do_not_wait_for_a_request(make_rig: MakeRig) -> None:
    rig = make_rig()
    end_ns = rig.stream(4, 15.0)
    with held_back(rig.node.predictor, "forecast") as forecast:
        client = rig.camera.create_client(GetForecast, "/predictor_node/get_forecast")
        assert client.wait_for_service(TIMEOUT_S)
        future = client.call_async(GetForecast.Request())
        wait_for(forecast.begun.is_set, "the request")
        for index in range(3):
            stamp = time_message(end_ns + index * NS // 15)
            rig.publisher.publish(image_message(picture(index), Header(stamp=stamp)))
            wait_for(lambda count=5 + index: rig.statistics.received == count, "images beside the request")
        said = len(rig.diagnostics)
        wait_for(lambda: len(rig.diagnostics) > said, "diagnostics beside the request")
    wait_for(future.done, "the answer")
    assert future.result().success


def test_a_region_outside_the_images_is_refused(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.stream(3, 15.0)
    (answer,) = rig.node.set_parameters([Parameter("region_of_interest", value=[48, 0, 64, 64])])
    assert not answer.successful and "reaches outside the image of 96x64" in answer.reason
    assert rig.node.get_parameter("region_of_interest").value == [0, 0, 0, 0]


def test_a_stamp_that_stands_still_is_said(make_rig: MakeRig) -> None:
    rig = make_rig()
    end_ns = rig.stream(4, 15.0)

    def again() -> bool:
        rig.stream(1, 15.0, start_ns=end_ns)
        time.sleep(0.05)
        return any("stamp repeated" in s.message for s in rig.diagnostics if s.level == b"\x01")

    wait_for(again, "a warning")


def test_reset_starts_afresh(make_rig: MakeRig) -> None:
    rig = make_rig()
    end_ns = rig.stream(4, 15.0)
    assert rig.call(Trigger, "reset", Trigger.Request()).success
    rig.stream(1, 15.0, start_ns=end_ns)
    assert rig.statistics.epoch == 2 and rig.statistics.start_reason == "requested"


def test_pictures_are_made_only_for_subscribers(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig(frame_steps=[2, 5, 99])
    monkeypatch.setattr("gridkp_ros.runtime.predictor.Engine", None)  # no graph is left to be opened
    rendered: list[int] = []
    render = rig.node._predictor.render
    monkeypatch.setattr(rig.node._predictor, "render", lambda *a, **k: (rendered.append(1), render(*a, **k))[1])
    end_ns = rig.stream(5, 15.0)
    wait_for(lambda: rig.statistics.working_since_s < 0, "the last image's end")
    assert rendered == []
    frames: list[PredictedFrames] = []
    overlays: list[Image] = []
    rig.listen(PredictedFrames, "frames", frames.append, 10)
    rig.listen(Image, "overlay", overlays.append, 10)
    wait_for(lambda: rig.node._publishing._frames.get_subscription_count() > 0, "the frames' subscription")
    wait_for(lambda: rig.node._publishing._overlay.get_subscription_count() > 0, "the overlay's subscription")
    for count in (1, 2):  # one by one: pictures give way to a frame that waits
        end_ns = rig.stream(1, 15.0, start_ns=end_ns, encoding="bgr8")
        wait_for(lambda count=count: len(frames) == count == len(overlays), "pictures")
    assert rendered == [1, 1]
    assert [(f.width, f.height, f.encoding) for f in frames[0].frames] == [(96, 64, "bgr8")] * 2
    assert (overlays[0].width, overlays[0].height, overlays[0].encoding) == (96, 64, "rgb8")
    second = stamp_ns(frames[0].frames[0].header.stamp) - stamp_ns(frames[0].header.stamp)
    assert second == stamp_ns(frames[0].time_from_start[0]) == pytest.approx(2 * NS / 15, abs=3)
    rig.node.set_parameters([Parameter("frames_at_source_size", value=False)])
    rig.stream(1, 15.0, start_ns=end_ns + NS)
    wait_for(lambda: len(frames) == 3, "a frame of model size")
    assert (frames[2].frames[0].width, frames[2].frames[0].encoding) == (64, "rgb8")


def test_pictures_give_way_to_a_frame_that_is_due_but_not_for_ever(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    frames: list[PredictedFrames] = []
    rig.listen(PredictedFrames, "frames", frames.append, 10)
    wait_for(lambda: rig.node._publishing._frames.get_subscription_count() > 0, "the frames' subscription")
    end_ns = rig.stream(2, 15.0)
    forecast, sent = rig.node._predictor.forecast, []

    def too_slow(*args: object) -> object:
        """The next frame is there before the forecast is; after eight it is one that the model will skip."""
        late_ns = NS // 15 if len(sent) < 8 else NS // 60
        sent.append(sent[-1] + late_ns if sent else end_ns + NS // 15)
        rig.publisher.publish(image_message(picture(), Header(stamp=time_message(sent[-1]))))
        wait_for(lambda: rig.node._mailbox.peek() is not None, "the next frame")
        return forecast(*args)

    monkeypatch.setattr(rig.node._predictor, "forecast", too_slow)
    rig.stream(1, 15.0, start_ns=end_ns)
    wait_for(lambda: len(sent) == 9 and rig.statistics.skipped == 1, "nine forecasts")
    wait_for(lambda: len(frames) == 2, "the pictures")
    assert rig.statistics.pictures_put_off == 7  # four, then drawn; three, then nobody waits that matters


def test_compressed_images(make_rig: MakeRig) -> None:
    rig = make_rig(transport="compressed")
    publisher = rig.camera.create_publisher(CompressedImage, "image/compressed", 10)
    wait_for(lambda: publisher.get_subscription_count() > 0, "the compressed subscription")
    for index in range(4):
        _, jpeg = cv2.imencode(".jpg", picture(index)[:, :, ::-1])
        message = CompressedImage(header=Header(stamp=time_message(1000 * NS + index * NS // 15)), format="jpeg")
        message.data = jpeg.tobytes()
        rig.send(message, publisher)
    rig.wait_forecasts(1)
    message.data = jpeg.tobytes()[:200]
    rig.send(message, publisher)
    assert "JPEG" in rig.statistics.last_error


def test_a_large_jpeg_is_reduced_while_nobody_looks_and_its_points_are_those_of_the_whole(
    make_rig: MakeRig, tiny_bundle_path: Path
) -> None:
    rig = make_rig(transport="compressed")
    publisher = rig.camera.create_publisher(CompressedImage, "image/compressed", 10)
    wait_for(lambda: publisher.get_subscription_count() > 0, "the compressed subscription")
    whole = Predictor(tiny_bundle_path, scene_cut_threshold=1.0)
    sizes: list[int] = []
    observe = rig.node._predictor.observe
    rig.node._predictor.observe = lambda image, *rest: (sizes.append(image.shape[1]), observe(image, *rest))[1]
    for index in range(4):
        image = cv2.resize(picture(index), (1024, 768), interpolation=cv2.INTER_LINEAR)
        _, jpeg = cv2.imencode(".jpg", image[:, :, ::-1])
        stamp = 1000 * NS + index * NS // 15
        message = CompressedImage(header=Header(stamp=time_message(stamp)), format="jpeg")
        message.data = jpeg.tobytes()
        rig.send(message, publisher)
        expected = whole.observe(image, stamp)
    wait_for(lambda: len(rig.keypoints) == 4, "keypoints")
    assert sizes == [1024, 512, 512, 512]  # the first of its size is seen as it is
    newest = rig.keypoints[-1]
    assert (newest.image_width, newest.image_height, newest.epoch) == (1024, 768, 1)
    np.testing.assert_allclose(np.array(newest.points).reshape(4, 2), expected.points, atol=17)  # one cell


def test_a_slow_model_takes_the_newest_frame_and_counts_the_rest(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    observe = rig.node._predictor.observe
    seen: list[int] = []

    def slow(image: np.ndarray, stamp: int, *others: object) -> object:
        seen.append(stamp)
        time.sleep(0.3)
        return observe(image, stamp, *others)

    monkeypatch.setattr(rig.node._predictor, "observe", slow)
    stamps = [1000 * NS + i * NS // 15 for i in range(8)]
    for stamp in stamps:
        rig.publisher.publish(image_message(picture(), Header(stamp=time_message(stamp))))
        time.sleep(0.02)
    wait_for(lambda: rig.handled() == rig.statistics.received and bool(seen) and seen[-1] == stamps[-1], "the newest")
    assert len(seen) < 8 and rig.statistics.dropped == rig.statistics.received - len(seen) > 0


def test_an_unexpected_failure_is_said_and_survived(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig()

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(rig.node._predictor, "observe", fail)
        rig.stream(1, 15.0)
    assert "ZeroDivisionError: a bug" in rig.statistics.last_error
    rig.stream(3, 15.0)
    rig.wait_forecasts(1)


def test_life_cycle(make_rig: MakeRig, tiny_bundle_path: Path) -> None:
    rig = make_rig(Path("no_such_model"), activate=False)
    assert rig.node.trigger_configure().name == "FAILURE"
    assert rig.node.set_parameters([Parameter("model", value=str(tiny_bundle_path))])[0].successful
    for _ in range(2):
        assert rig.node.trigger_configure().name == "SUCCESS"
        assert rig.node.trigger_activate().name == "SUCCESS"
        wait_for(lambda: rig.publisher.get_subscription_count() > 0, "the subscription")
        rig.stream(3, 15.0)
        assert rig.node.trigger_deactivate().name == "SUCCESS"
        answer = rig.call(GetForecast, "get_forecast", GetForecast.Request())
        assert not answer.success and "not active" in answer.message
        assert rig.node.trigger_cleanup().name == "SUCCESS"
        wait_for(lambda: rig.publisher.get_subscription_count() == 0, "the end of the subscription")
    assert rig.node.trigger_shutdown().name == "SUCCESS"


def test_a_configuration_that_fails_half_way_leaves_nothing_behind(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(activate=False)
    before = len(list(rig.node.publishers)), len(list(rig.node.services))
    with monkeypatch.context() as patch:
        patch.setattr("gridkp_ros.node.predictor_node.choose_converter", lambda: 1 / 0)
        assert rig.node.trigger_configure().name == "ERROR"
    assert (len(list(rig.node.publishers)), len(list(rig.node.services))) == before
    for _ in range(2):
        assert rig.node.trigger_configure().name == "SUCCESS"
        assert len(rig.node._managed_entities) == 11
        assert rig.node.trigger_cleanup().name == "SUCCESS"
    assert (len(list(rig.node.publishers)), len(list(rig.node.services))) == before


def test_importing_the_node_brings_nothing_that_predicting_does_not_need(tmp_path: Path) -> None:
    heavy = (
        "torch", "onnx", "lightning", "safetensors", "pydantic", "mujoco", "skimage", "scipy", "matplotlib", "PIL",
        "av", "typer", "rich", "gridkp_ros.nets", "gridkp_ros.data", "gridkp_ros.evaluation", "gridkp_ros.sim",
        "gridkp_ros.bench",
    )  # fmt: skip
    code = f"import sys, gridkp_ros.node.predictor_node\nprint([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.strip() == "[]"
