"""What predictor_node says about itself, and what it does when something about it changes or fails."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: node tests need rclpy")
pytest.importorskip("gridkp_ros.msg", reason="the messages are not built: run them by `make test`")

from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from gridkp_ros.msg import KeypointForecast, ModelInfo, StreamStatistics
from gridkp_ros.node import predictor_node
from gridkp_ros.node.conversions import image_message, stamp_ns, time_message
from gridkp_ros.node.samples import LADDER
from gridkp_ros.runtime import PredictorError
from gridkp_ros.srv import GetForecast
from support.ros_rig import NS, MakeRig, Rig, picture
from support.tiny_bundle import write_tiny_bundle
from support.waiting import held_back, wait_for

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
OK, WARN, ERROR, STALE = range(4)


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "other", name="other", trusted_steps=9)


def set_parameter(rig: Rig, name: str, value: object) -> tuple[bool, str]:
    (result,) = rig.node.set_parameters([Parameter(name, value=value)])
    return result.successful, result.reason


# -- samples


def test_as_many_samples_as_fit_are_made_and_said(make_rig: MakeRig) -> None:
    rig = make_rig(num_samples=0)
    told: list[StreamStatistics] = []
    rig.listen(StreamStatistics, "statistics", told.append, 50)
    wait_for(lambda: rig.camera.count_publishers("/predictor_node/statistics") > 0, "discovery")
    wait_for(lambda: rig.node._publishing._statistics.get_subscription_count() > 0, "the subscription")
    rig.stream(4, 15.0)
    rig.wait_forecasts(2)
    wait_for(lambda: len(told) == 4, "a statistics message for each absorbed image")
    for forecast, message in zip(rig.forecasts, told[2:], strict=True):
        assert forecast.num_samples == message.num_samples in LADDER
        assert len(forecast.points) == forecast.num_samples * 15 * 4 * 2
    assert np.isnan(told[0].forecast_ms) and 0 < told[3].forecast_ms < told[3].processing_ms
    assert np.isnan(told[3].latency_ms)  # the camera's time is 1970
    assert (told[3].received, told[3].absorbed, told[3].forecasts) == (4, 4, 2)
    wait_for(
        lambda: rig.status("forecast")[2].get("num_samples") == str(rig.forecasts[-1].num_samples), "the diagnostics"
    )


def test_a_machine_that_becomes_slow_makes_fewer_samples(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig(num_samples=0)
    assert rig.node.samples_that_fit(15) > 1
    forecast = rig.node.predictor.forecast

    def slow(horizon_steps: int, num_samples: int, *others: object) -> object:
        time.sleep(0.08)
        return forecast(horizon_steps, num_samples, *others)

    monkeypatch.setattr(rig.node.predictor, "forecast", slow)
    rig.stream(12, 15.0)
    rig.wait_forecasts(10)
    numbers = [f.num_samples for f in rig.forecasts]
    assert numbers == sorted(numbers, reverse=True) and numbers[0] > numbers[-1]
    wait_for(lambda: rig.status("forecast")[2].get("num_samples") == str(numbers[-1]), "the diagnostics")


def test_a_number_of_samples_that_is_set_repeats_exactly(make_rig: MakeRig) -> None:
    points = []
    for _ in range(2):
        rig = make_rig(num_samples=9, seed=5)
        rig.stream(4, 15.0)
        rig.wait_forecasts(2)
        points.append([f.points for f in rig.forecasts])
    assert points[0] == points[1]


# -- diagnostics


def test_every_aspect_has_a_status_in_every_state(make_rig: MakeRig) -> None:
    rig = make_rig(activate=False)
    aspects = ("input", "forecast", "model", "node")
    for aspect in aspects:
        rig.wait_status(aspect, OK, "unconfigured")
    assert rig.node.trigger_configure().name == "SUCCESS"
    assert rig.wait_status("model", OK, "tiny@")["period_ms"] == "66.7"
    assert rig.node.trigger_activate().name == "SUCCESS"
    wait_for(lambda: rig.publisher.get_subscription_count() > 0, "the subscription")
    rig.stream(4, 15.0)
    rig.wait_status("forecast", OK, "forecasting")
    values = rig.wait_status("node", OK, "active")
    assert values["executor"] == "SingleThreadedExecutor" and values["rmw"].startswith("rmw_")
    assert float(values["rss_mb"]) > 20 and values["cpu_percent"].isdigit()
    values = rig.status("input")[2]
    assert (values["topic"], values["publishers"], values["image_size"]) == ("/image", "1", "96x64")
    assert float(values["jitter_ms"]) >= 0
    assert rig.status("forecast")[2]["period_kept"] == "1.00"
    assert {s.hardware_id for s in rig.diagnostics if s.name.endswith(": forecast")} >= {rig.node.predictor.model_id}


def test_stamps_of_another_clock_are_said(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.stream(4, 15.0)
    rig.wait_status("input", WARN, "behind the node's clock")
    rig.wait_forecasts(1)
    assert stamp_ns(rig.forecasts[0].latency) == -NS
    rig.stream(4, 15.0, start_ns=rig.node.get_clock().now().nanoseconds - NS)
    rig.wait_forecasts(3)
    assert 0 <= stamp_ns(rig.forecasts[-1].latency) < 20 * NS


def test_a_camera_elsewhere_is_pointed_at(make_rig: MakeRig) -> None:
    rig = make_rig(stale_after_s=0.1)
    rig.camera.destroy_publisher(rig.publisher)
    rig.camera.create_publisher(Image, "/endoscope/image_raw", 10)
    rig.wait_status("input", STALE, "there are images on /endoscope/image_raw")


# -- QoS


def test_a_publisher_that_cannot_be_heard_is_said(make_rig: MakeRig) -> None:
    rig = make_rig(reliability="reliable")
    rig.camera.destroy_publisher(rig.publisher)
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    rig.publisher = rig.camera.create_publisher(Image, "image", best_effort)
    values = rig.wait_status("input", ERROR, "no image comes from /foreign_camera on /image (Best effort publisher")
    assert "set reliability to auto" in values["incompatible_publishers"]
    assert set_parameter(rig, "reliability", "auto") == (True, "")
    wait_for(lambda: rig.publisher.get_subscription_count() > 0, "the subscription")
    rig.stream(4, 15.0)
    rig.wait_forecasts(2)
    wait_for(lambda: not rig.status("input")[2]["incompatible_publishers"], "the end of the complaint")


def test_a_best_effort_camera_is_heard_after_a_reliable_one(make_rig: MakeRig) -> None:
    rig = make_rig(reliability="auto")
    wait_for(lambda: rig.node.receiver.reliability == "reliable", "a reliable subscription")
    wait_for(lambda: rig.publisher.get_subscription_count() > 0, "the subscription")
    end_ns = rig.stream(4, 15.0)
    best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    late = rig.camera.create_publisher(Image, "image", best_effort)
    wait_for(lambda: late.get_subscription_count() > 0, "a subscription that hears best effort")
    wait_for(lambda: rig.publisher.get_subscription_count() > 0, "a subscription that hears both")
    rig.camera.destroy_publisher(rig.publisher)
    rig.publisher = late
    rig.stream(4, 15.0, start_ns=end_ns)
    rig.wait_forecasts(6)


def test_a_publisher_of_another_type_is_said(make_rig: MakeRig) -> None:
    rig = make_rig(stale_after_s=0.1)
    rig.camera.destroy_publisher(rig.publisher)
    with rig.stranger("other_camera") as other:
        other.create_publisher(CompressedImage, "image", 10)
        rig.wait_status("input", ERROR, "/other_camera on /image (sensor_msgs/msg/CompressedImage is not")


def test_a_subscriber_that_asks_for_too_much_is_said(make_rig: MakeRig) -> None:
    rig = make_rig()
    subscription = rig.listen(KeypointForecast, "forecast", lambda m: None, LATCHED)
    values = rig.wait_status("node", WARN, "/foreign_camera hears nothing on /predictor_node/forecast")
    assert "Volatile publisher and transient local subscription" in values["incompatible_subscribers"]
    rig.camera.destroy_subscription(subscription)
    rig.wait_status("node", OK, "active")


def test_a_subscriber_of_another_type_is_said(make_rig: MakeRig) -> None:
    rig = make_rig()
    with rig.stranger("other_planner") as other:
        other.create_subscription(CompressedImage, "/predictor_node/forecast", lambda m: None, 10)
        rig.wait_status("node", WARN, "/other_planner hears nothing on /predictor_node/forecast: gridkp_ros")


def test_a_second_camera_is_said(make_rig: MakeRig) -> None:
    rig = make_rig()
    with rig.stranger("other_camera") as other:
        other.create_publisher(Image, "image", 5)

        def said() -> bool:
            rig.send(image_message(picture(), Header(stamp=time_message(time.time_ns()))))
            level, sentence, _ = rig.status("input")
            return level == WARN and "2 publishers on /image: the images of one camera alone" in sentence

        wait_for(said, "the warning")


def test_model_info_reaches_who_subscribes_late(make_rig: MakeRig) -> None:
    rig = make_rig()
    wait_for(lambda: bool(rig.infos), "model_info")
    late: list[ModelInfo] = []
    rig.listen(ModelInfo, "model_info", late.append, LATCHED)
    wait_for(lambda: bool(late), "model_info for a late subscriber")
    assert late[0].model_id == rig.infos[0].model_id


# -- parameters


def test_a_parameter_that_is_not_there_is_said(make_rig: MakeRig) -> None:
    rig = make_rig(activate=False, horizon_step=7, num_sampels=3)
    values = rig.wait_status("node", WARN, "did you mean 'horizon_steps'?")
    assert "'num_sampels'" in values["unknown_parameters"]
    result = rig.node.set_parameters_atomically([Parameter("horizn_steps", value=3)])
    assert not result.successful and "no parameter 'horizn_steps': did you mean 'horizon_steps'?" in result.reason


def test_images_are_predicted_from_while_another_model_loads(make_rig: MakeRig, other_model: Path) -> None:
    rig = make_rig()
    end_ns = rig.stream(4, 15.0)
    with held_back(predictor_node, "rehearse") as loading:
        assert set_parameter(rig, "model", str(other_model)) == (True, "")
        wait_for(loading.begun.is_set, "the loading")
        end_ns = rig.stream(4, 15.0, start_ns=end_ns)
        rig.wait_forecasts(6)
        assert {f.epoch for f in rig.forecasts} == {1} and rig.statistics.dropped == 0
        rig.wait_status("model", OK, "loading")
    wait_for(lambda: not rig.node.loading, "the change")
    rig.stream(4, 15.0, start_ns=end_ns)
    rig.wait_forecasts(8)
    assert rig.forecasts[-1].epoch == 2 and rig.forecasts[-1].trusted_steps == 9
    assert rig.statistics.start_reason == "parameters changed"
    wait_for(lambda: rig.infos[-1].trusted_steps == 9, "ModelInfo of the other model")


def test_of_several_models_the_last_one_asked_for_stays(
    make_rig: MakeRig, tiny_bundle_path: Path, other_model: Path
) -> None:
    rig = make_rig()
    for model in (other_model, tiny_bundle_path, other_model):
        assert set_parameter(rig, "model", str(model)) == (True, "")
    wait_for(lambda: not rig.node.loading, "the change")
    rig.stream(4, 15.0)
    wait_for(lambda: rig.infos[-1].trusted_steps == 9, "ModelInfo of the other model")
    assert rig.node.predictor.manifest.name == "other"


def test_a_model_that_fails_late_leaves_the_old_one_and_its_parameters(
    make_rig: MakeRig, tiny_bundle_path: Path, other_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    end_ns = rig.stream(4, 15.0)

    def fail(*_: Any, **__: Any) -> None:
        raise PredictorError("forecast.onnx failed on this machine")

    with monkeypatch.context() as patch:
        patch.setattr(predictor_node, "rehearse", fail)
        assert set_parameter(rig, "model", str(other_model)) == (True, "")
        wait_for(lambda: rig.node.load_failure != "", "the failure")
    wait_for(lambda: rig.node.get_parameter("model").value == str(tiny_bundle_path), "the old parameter")
    rig.wait_status("model", WARN, "forecast.onnx failed on this machine")
    rig.stream(4, 15.0, start_ns=end_ns)
    rig.wait_forecasts(6)
    assert {f.epoch for f in rig.forecasts} == {1}
    assert set_parameter(rig, "model", str(other_model)) == (True, "")
    wait_for(lambda: rig.node.load_failure == "" and not rig.node.loading, "the change")


def test_a_model_changed_while_inactive_is_loaded_at_once(make_rig: MakeRig, other_model: Path) -> None:
    rig = make_rig(activate=False)
    assert rig.node.trigger_configure().name == "SUCCESS"
    assert not set_parameter(rig, "model", "nothing")[0]
    assert set_parameter(rig, "model", str(other_model)) == (True, "")
    assert rig.node.predictor.manifest.name == "other"
    assert rig.node.trigger_activate().name == "SUCCESS"
    wait_for(lambda: rig.publisher.get_subscription_count() > 0, "the subscription")
    rig.stream(4, 15.0)
    rig.wait_forecasts(2)


def test_a_model_that_is_loading_when_the_node_is_cleaned_up_is_forgotten(
    make_rig: MakeRig, other_model: Path
) -> None:
    rig = make_rig()
    with held_back(predictor_node, "rehearse") as loading:
        assert set_parameter(rig, "model", str(other_model)) == (True, "")
        wait_for(loading.begun.is_set, "the loading")
        assert rig.node.trigger_deactivate().name == "SUCCESS"
        assert rig.node.trigger_cleanup().name == "SUCCESS"
    wait_for(lambda: rig.node._loader is None, "the loader's end")
    assert rig.node.predictor is None
    assert rig.node.trigger_configure().name == "SUCCESS"
    assert rig.node.predictor.manifest.name == "other"


# -- life cycle


def test_a_failed_activation_says_why_and_can_be_tried_again(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(activate=False)
    assert rig.node.trigger_configure().name == "SUCCESS"

    def fail(*_: Any, **__: Any) -> None:
        raise PredictorError("detect.onnx failed on CUDAExecutionProvider")

    with monkeypatch.context() as patch:
        patch.setattr(predictor_node, "rehearse", fail)
        assert rig.node.trigger_activate().name == "FAILURE"
    rig.wait_status("forecast", ERROR, "cannot activate: detect.onnx failed")
    answer = rig.call(Trigger, "reset", Trigger.Request())
    assert not answer.success and "not active but inactive: activate it first (cannot activate" in answer.message
    assert rig.node.trigger_activate().name == "SUCCESS"
    rig.wait_status("forecast", OK, "waiting for images")


def test_an_exception_in_a_transition_is_said_and_the_node_can_be_configured_again(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(activate=False)
    assert rig.node.trigger_configure().name == "SUCCESS"
    with monkeypatch.context() as patch:
        patch.setattr(predictor_node, "rehearse", lambda *_, **__: 1 / 0)
        assert rig.node.trigger_activate().name == "ERROR"
    rig.wait_status("node", OK, "unconfigured")
    rig.wait_status("forecast", ERROR, "on_activate failed: unexpected ZeroDivisionError")
    assert rig.node.trigger_configure().name == "SUCCESS"
    assert rig.node.trigger_activate().name == "SUCCESS"


@pytest.mark.parametrize(
    ("parameter", "sentence"),
    [
        ("model:=nothing", "autostart failed: cannot configure: no model 'nothing'"),
        ("horizon_steps:=0", "horizon_steps out of range"),
        ("seed:=abc", "seed"),
    ],
)
def test_a_start_that_fails_ends_with_status_1_and_the_reason(
    parameter: str, sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    command = [sys.executable, "-m", "gridkp_ros.node.predictor_node", "--ros-args", "-p", "autostart:=true"]
    ended = subprocess.run(
        [*command, "-p", parameter], capture_output=True, text=True, timeout=180, cwd=tmp_path, check=False
    )
    assert ended.returncode == 1
    assert sentence in ended.stdout + ended.stderr and "Traceback" not in ended.stdout + ended.stderr


def test_a_whole_number_is_a_number(make_rig: MakeRig) -> None:
    rig = make_rig(activate=False, temperature=2)
    assert rig.node.settings.temperature == 2.0
    assert rig.node.set_parameters_atomically([Parameter("temperature", value=3)]).successful
    assert rig.node.get_parameter("temperature").value == 3.0


def test_requests_are_answered_in_every_state(make_rig: MakeRig) -> None:
    rig = make_rig(activate=False)
    for transition, sentence in (
        (None, "unconfigured: configure and activate it first"),
        (rig.node.trigger_configure, "inactive: activate it first"),
        (rig.node.trigger_cleanup, "unconfigured"),
        (rig.node.trigger_shutdown, "shut down"),
    ):
        if transition is not None:
            assert transition().name == "SUCCESS"
        for kind, name in ((GetForecast, "get_forecast"), (Trigger, "reset")):
            answer = rig.call(kind, name, kind.Request())
            assert not answer.success and sentence in answer.message


def test_what_cannot_be_is_said_before_what_is_not_yet(make_rig: MakeRig) -> None:
    rig = make_rig()
    for temperature in (-1.0, float("nan"), 1000.0):
        answer = rig.call(GetForecast, "get_forecast", GetForecast.Request(temperature=temperature))
        assert not answer.success and "temperature" in answer.message
    rig.stream(4, 15.0)
    assert rig.call(GetForecast, "get_forecast", GetForecast.Request(temperature=0.01)).success


# -- time


def test_input_latency_counts_the_steps_from_the_exposure(make_rig: MakeRig) -> None:
    rig = make_rig(input_latency=0.05)
    start_ns = rig.node.get_clock().now().nanoseconds
    rig.stream(4, 15.0, start_ns=start_ns)
    rig.wait_forecasts(2)
    newest = rig.forecasts[-1]
    assert stamp_ns(newest.header.stamp) == start_ns + 3 * NS // 15  # the image's own
    times = np.array([stamp_ns(t) for t in newest.time_from_start])
    np.testing.assert_allclose(times, np.arange(1, 16) * NS / 15 - 0.05 * NS, atol=2)
    asked = rig.call(GetForecast, "get_forecast", GetForecast.Request()).forecast
    assert [stamp_ns(t) for t in asked.time_from_start] == times.tolist()


def test_a_recording_that_loops_under_simulated_time(make_rig: MakeRig) -> None:
    rig = make_rig(use_sim_time=True)
    rig.wait_status("input", WARN, "nothing has come on /clock yet")
    clock = rig.camera.create_publisher(Clock, "/clock", 10)
    wait_for(lambda: clock.get_subscription_count() > 0, "the clock's subscription")

    for loop, index in itertools.product(range(3), range(6)):
        now_ns = 100 * NS + index * NS // 15
        clock.publish(Clock(clock=time_message(now_ns + 5_000_000)))
        wait_for(lambda ns=now_ns: rig.node.get_clock().now().nanoseconds == ns + 5_000_000, "the clock")
        rig.send(image_message(picture(index), Header(stamp=time_message(now_ns))))
        rig.wait_forecasts(4 * loop + max(0, index - 1))  # before the clock goes on
    assert [f.epoch for f in rig.forecasts] == [1] * 4 + [2] * 4 + [3] * 4
    assert {stamp_ns(f.latency) for f in rig.forecasts} == {5_000_000}
    assert "jumped back" in rig.statistics.start_reason
    assert set(rig.statistics.latency_s) == {0.005}


@pytest.mark.parametrize("stamp", [0, 2**31 * NS - NS])
def test_one_image_of_another_time_costs_a_warm_up_and_no_more(make_rig: MakeRig, stamp: int) -> None:
    rig = make_rig()
    end_ns = rig.stream(4, 15.0)
    rig.send(image_message(picture(), Header(stamp=time_message(stamp))))
    rig.stream(3, 15.0, start_ns=end_ns)
    rig.wait_forecasts(3)
    assert rig.statistics.epoch == 3 and rig.forecasts[-1].frames_since_start == 3
    for forecast in rig.forecasts:
        assert stamp_ns(forecast.latency) == -NS
