"""The lifecycle node that turns a camera's images into keypoints, forecasts and predicted frames.

Two threads: the executor's receives images and answers requests, the worker's owns the Predictor. Between them lies a
mailbox of one, so a camera faster than the model never builds up delay. Of the package's rooms only `runtime` (and
`geometry`) is used here.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from gridkp_ros.image_messages import ImageError, message_to_array
from gridkp_ros.msg import GridKeypoints, KeypointForecast, ModelInfo, PredictedFrames
from gridkp_ros.node.conversions import (
    forecast_message,
    frames_message,
    image_message,
    keypoints_message,
    model_info_message,
    stamp_ns,
    time_message,
)
from gridkp_ros.node.images import choose_converter
from gridkp_ros.node.mailbox import Mailbox
from gridkp_ros.node.resources import ResourceError, find_model
from gridkp_ros.node.ros_logging import forward_logging
from gridkp_ros.node.running import run_node
from gridkp_ros.node.settings import PREDICTOR, SUBSCRIPTION, Settings, SettingsError
from gridkp_ros.node.statistics import Statistics
from gridkp_ros.runtime import BundleError, Forecast, Observation, Predictor, PredictorError
from gridkp_ros.runtime.drawing import draw_overlay
from gridkp_ros.srv import GetForecast

_GPU_SAMPLES = 10
_THROTTLE_S = 5.0
_PICTURES_PUT_OFF = 4  # in a row: then somebody who looks sees something again


@dataclass(frozen=True)
class _Received:
    """An image message, and when it arrived on the node's clock."""

    message: Any
    arrival_ns: int


class PredictorNode(LifecycleNode):
    """Subscribes to `image`; publishes ~/keypoints ~/forecast ~/frames ~/overlay ~/model_info and /diagnostics."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("predictor_node", **kwargs)
        forward_logging(self.get_logger())
        self._settings = self._declare_parameters()
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._predictor: Predictor | None = None
        self._convert = None
        self._mailbox: Mailbox[_Received] = Mailbox()
        self._pictures_put_off = 0
        self._pose_s = 0.0  # what one step of one sample took in the newest forecast
        self._worker: threading.Thread | None = None
        self._statistics = Statistics()
        self._subscription = None
        self._reliability = ReliabilityPolicy.BEST_EFFORT
        self._made = ExitStack()  # what on_configure made, to be destroyed again
        # Requests wait for the worker, one after the other; in the default group images would wait with them.
        self._request_group = MutuallyExclusiveCallbackGroup()
        self._active = False
        self._image_size: tuple[int, int] | None = None  # width, height of the newest image
        self._frame_id = ""

    # -- parameters

    def _declare_parameters(self) -> Settings:
        """Declare every field of Settings, with its description and range, and return the values given at start."""
        values = {}
        for spec in fields(Settings):
            meta = spec.metadata
            descriptor = ParameterDescriptor(description=meta["description"], read_only=meta["read_only"])
            if meta["choices"]:
                choices = ", ".join(repr(c) for c in meta["choices"])
                descriptor.additional_constraints = f"one of {choices}"
            if meta["low"] is not None and isinstance(spec.default, float):
                descriptor.floating_point_range = [FloatingPointRange(from_value=meta["low"], to_value=meta["high"])]
            elif meta["low"] is not None:
                descriptor.integer_range = [IntegerRange(from_value=meta["low"], to_value=meta["high"], step=1)]
            default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
            values[spec.name] = self.declare_parameter(spec.name, default, descriptor).value
        return Settings().changed(values)[0]

    def _on_set_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        """Check new values together with the others and put them to use at once, or refuse them with the reason."""
        names = {spec.name for spec in fields(Settings)}
        try:
            settings, restarts = self._settings.changed({p.name: p.value for p in parameters if p.name in names})
            if PREDICTOR in restarts and self._image_size is not None:
                settings.check_region(*self._image_size)
            if PREDICTOR in restarts and self._predictor is not None:
                self._replace_predictor(self._make_predictor(settings))
        except (SettingsError, ResourceError, BundleError, PredictorError) as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._settings = settings
        if SUBSCRIPTION in restarts and self._active:
            self._subscribe()
        return SetParametersResult(successful=True)

    # -- life cycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the bundle and make the publishers and services."""
        try:
            self._predictor = self._make_predictor(self._settings)
        except (ResourceError, BundleError, PredictorError) as error:
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        self._convert, sentence = choose_converter()
        self.get_logger().info(sentence)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._keypoints_pub = self._make_publisher(GridKeypoints, "~/keypoints", 10)
        self._forecast_pub = self._make_publisher(KeypointForecast, "~/forecast", 10)
        self._frames_pub = self._make_publisher(PredictedFrames, "~/frames", 2)
        self._overlay_pub = self._make_publisher(Image, "~/overlay", 2)
        self._model_info_pub = self._make_publisher(ModelInfo, "~/model_info", latched)
        self._diagnostics_pub = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._made.callback(self.destroy_publisher, self._diagnostics_pub)
        for kind, name, callback in (
            (GetForecast, "~/get_forecast", self._on_get_forecast), (Trigger, "~/reset", self._on_reset)
        ):
            service = self.create_service(kind, name, callback, callback_group=self._request_group)
            self._made.callback(self.destroy_service, service)
        # A steady clock: diagnostics go on when simulated time stands still.
        timer = self.create_timer(1.0, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._made.callback(self.destroy_timer, timer)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start predicting."""
        result = super().on_activate(state)
        self._statistics = Statistics(active_since_s=time.monotonic())
        self._mailbox = Mailbox()
        self._active = True
        self._publish_model_info()
        self._worker = threading.Thread(target=self._work, args=(self._mailbox,), name="predictor", daemon=True)
        self._worker.start()
        self._subscribe()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop predicting; the next activation starts afresh."""
        self.stop()
        if self._predictor is not None:
            self._predictor.reset("activated again")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the bundle, publishers and services."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and release everything, from any state."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured after an exception in a transition."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def stop(self) -> None:
        """Unsubscribe, and end the worker's thread."""
        self._active = False
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        self._mailbox.close()
        if self._worker is not None:
            self._worker.join()
            self._worker = None
        self._image_size = None

    def _release(self) -> None:
        self.stop()
        self._made.close()
        self._predictor = None

    def _make_publisher(self, kind: type, topic: str, qos: QoSProfile | int) -> LifecyclePublisher:
        publisher = self.create_lifecycle_publisher(kind, topic, qos)
        self._made.callback(self.destroy_lifecycle_publisher, publisher)
        return publisher

    def _make_predictor(self, settings: Settings) -> Predictor:
        path = find_model(settings.model)
        self.get_logger().info(f"loading {path} (provider {settings.provider}; TensorRT takes minutes the first time)"
                               if settings.provider == "tensorrt" else f"loading {path}")
        predictor = Predictor(
            path,
            provider=settings.provider,
            num_threads=settings.num_threads,
            region=settings.region(),
            stereo_half=settings.stereo_half,
            max_coast_steps=settings.max_coast_steps,
            warmup_frames=settings.warmup_frames,
            seed=settings.seed,
            temperature=settings.temperature,
            scene_cut_threshold=settings.scene_cut_threshold,
        )
        if settings.publish_frames:
            predictor.open_render()
        self.get_logger().info(
            f"{predictor.model_id} on {predictor.provider}, a step every {1e3 * predictor.manifest.period_s:.1f} ms"
        )
        return predictor

    def _replace_predictor(self, predictor: Predictor) -> None:
        """Hand a new Predictor to the worker, or keep it where none is running."""

        def swap() -> None:
            # The epoch goes on counting, so that no receiver takes two streams for one motion.
            predictor.epoch = self._predictor.epoch
            predictor.reset("parameters changed")
            self._predictor = predictor
            if self._active:
                self._publish_model_info()

        if not (self._active and self._mailbox.submit(swap)):
            swap()

    # -- receiving (the executor's thread)

    def _image_topic(self) -> str:
        topic = self.resolve_topic_name("image")
        return f"{topic}/compressed" if self._settings.transport == "compressed" else topic

    def _subscribe(self) -> None:
        """Subscribe to the image topic, in place of the subscription there is."""
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
        self._reliability = self._wanted_reliability()
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=self._reliability)
        kind = CompressedImage if self._settings.transport == "compressed" else Image
        # The topic is resolved already; resolving it again is without effect, unless it is remapped a second time.
        self._subscription = self.create_subscription(kind, self._image_topic(), self._on_image, qos)
        self.get_logger().info(f"subscribed to {self._subscription.topic_name} ({self._reliability.name.lower()})")

    def _wanted_reliability(self) -> ReliabilityPolicy:
        """Reliable where every publisher is, because nothing is lost then; best effort hears all others too.

        Without a publisher it stays as it is.
        """
        if self._settings.reliability != "auto":
            return ReliabilityPolicy[self._settings.reliability.upper()]
        publishers = self.get_publishers_info_by_topic(self._image_topic())
        if not publishers:
            return self._reliability
        if all(p.qos_profile.reliability == ReliabilityPolicy.RELIABLE for p in publishers):
            return ReliabilityPolicy.RELIABLE
        return ReliabilityPolicy.BEST_EFFORT

    def _on_image(self, message: Image | CompressedImage) -> None:
        now_s = time.monotonic()
        statistics = self._statistics
        statistics.received += 1
        statistics.last_image_s = now_s
        statistics.arrivals_s.append(now_s)
        if self._mailbox.put(_Received(message, self.get_clock().now().nanoseconds)):
            statistics.dropped += 1

    async def _on_get_forecast(
        self, request: GetForecast.Request, response: GetForecast.Response
    ) -> GetForecast.Response:
        answer = await self._in_worker(lambda: self._answer(request))
        response.success, response.message, forecast = answer
        if forecast is not None:
            response.forecast = forecast
        return response

    async def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        def reset() -> tuple[bool, str, None]:
            self._predictor.reset("requested")
            return True, "the next image starts afresh", None

        response.success, response.message, _ = await self._in_worker(reset)
        return response

    def _in_worker(self, work: Any) -> Future:
        """Run work() -> (success, message, result) between two frames; an exception becomes its message."""
        future = Future()

        def job() -> None:
            try:
                result = work()
            except Exception as error:  # whatever it was, the caller is waiting for an answer
                result = False, str(error) or type(error).__name__, None
                if not isinstance(error, (PredictorError, SettingsError)):
                    self._report_failure(error)
            future.set_result(result)
            if self.executor is not None:
                self.executor.wake()

        if not (self._active and self._mailbox.submit(job)):
            future.set_result((False, "the node is not active: activate it first", None))
        return future

    # -- predicting (the worker's thread)

    def _work(self, mailbox: Mailbox[_Received]) -> None:
        while (item := mailbox.take()) is not None:
            job, received = item
            try:
                if job is not None:
                    job()
                else:
                    self._predict(received)
            except ImageError as error:
                self._statistics.malformed += 1
                self._complain(f"image refused: {error}")
            except PredictorError as error:
                self._statistics.failures += 1
                self._complain(str(error))
            except Exception as error:  # the node goes on with the next image, and says what happened
                if not self.context.ok():
                    return  # interrupted: the publishers went away in the middle of an image
                self._report_failure(error)

    def _predict(self, received: _Received) -> None:
        """Take one image through: keypoints, forecast, and the pictures somebody subscribed to."""
        start_s = time.monotonic()
        message, predictor, statistics, settings = (
            received.message, self._predictor, self._statistics, self._settings
        )
        image = message_to_array(message, self._convert)
        self._image_size = image.shape[1::-1]
        header = self._header(received)
        observation = predictor.observe(image, stamp_ns(header.stamp))
        statistics.count(observation, time.monotonic())
        if observation.started:
            self.get_logger().info(f"epoch {observation.epoch} starts: {observation.start_reason}")
        self._frame_id = header.frame_id
        if observation.action != "absorbed":
            return
        self._keypoints_pub.publish(keypoints_message(observation, header, predictor.model_id))
        forecast = None
        if observation.ready:
            samples, begun_s = self._num_samples(settings), time.monotonic()
            forecast = predictor.forecast(settings.horizon_steps, samples, settings.temperature, settings.seed)
            self._pose_s = (time.monotonic() - begun_s) / (settings.horizon_steps * samples)
            now_ns = self.get_clock().now().nanoseconds
            self._forecast_pub.publish(
                forecast_message(forecast, header, frames_dropped=statistics.dropped, now_ns=now_ns)
            )
            statistics.forecasts += 1
            statistics.latency_s.append((now_ns - forecast.stamp_ns) * 1e-9)
        if self._pictures_may_be_drawn():
            self._publish_pictures(image, getattr(message, "encoding", "rgb8"), header, observation, forecast)
        if forecast is not None:
            statistics.busy_s.append(time.monotonic() - start_s)

    def _pictures_may_be_drawn(self) -> bool:
        """Pictures are for people and give way to a frame that waits to be absorbed, but not for long."""
        waiting, statistics = self._mailbox.peek(), self._statistics
        late = waiting is not None and self._predictor.wants(stamp_ns(self._header(waiting).stamp))
        if late and self._pictures_put_off < _PICTURES_PUT_OFF:
            self._pictures_put_off += 1
            statistics.pictures_put_off += 1
            return False
        self._pictures_put_off = 0
        return True

    def _header(self, received: _Received) -> Header:
        """Return the image's own header; an unset stamp is replaced by the time of arrival."""
        header = received.message.header
        if stamp_ns(header.stamp) != 0:
            return header
        self.get_logger().warning(
            "images carry no stamp (header.stamp is zero): the time of arrival is used", throttle_duration_sec=60.0
        )
        return Header(stamp=time_message(received.arrival_ns), frame_id=header.frame_id)

    def _num_samples(self, settings: Settings) -> int:
        if settings.num_samples:
            return settings.num_samples
        return 1 if self._predictor.provider == "CPUExecutionProvider" else _GPU_SAMPLES

    def _publish_pictures(
        self, image: np.ndarray, encoding: str, header: Header, observation: Observation, forecast: Forecast | None
    ) -> None:
        settings, predictor = self._settings, self._predictor
        if settings.publish_overlay and self._overlay_pub.get_subscription_count() > 0:
            drawn = draw_overlay(
                image,
                points=observation.points,
                confidence=observation.confidence,
                named_points=observation.named_points,
                point_names=observation.point_names,
                forecast_mean=None if forecast is None else forecast.mean,
                covariance=None if forecast is None else forecast.covariance,
                named_mean=None if forecast is None else forecast.named_mean,
                named_covariance=None if forecast is None else forecast.named_covariance,
            )
            self._overlay_pub.publish(image_message(drawn, header))
        if forecast is None or not settings.publish_frames or self._frames_pub.get_subscription_count() == 0:
            return
        steps = [s for s in settings.frame_steps if s <= forecast.points.shape[1]]
        frames = predictor.render(forecast, steps)
        if settings.frames_at_source_size:
            background = _with_channels(image, frames.shape[-1])
            frames = [predictor.place().put_back(frame, background) for frame in frames]
        else:
            encoding = "rgb8" if frames.shape[-1] == 3 else "mono8"
        times_ns = [int(forecast.time_from_start_ns[s - 1]) for s in steps]
        self._frames_pub.publish(frames_message(frames, header, times_ns, sample=0, encoding=encoding))

    def _answer(self, request: GetForecast.Request) -> tuple[bool, str, KeypointForecast | None]:
        """Answer a GetForecast request. Raises PredictorError or SettingsError for what cannot be."""
        # The parameters' ranges hold here too: a request holds the stream up for as long as it takes.
        asked = {"horizon_steps": request.horizon_steps, "num_samples": request.num_samples}
        settings, _ = self._settings.changed({name: value for name, value in asked.items() if value})
        predictor = self._predictor
        indices = list(request.moved_keypoints)
        points = np.array(request.moved_points, dtype=np.float64)
        if points.size != 2 * len(indices):
            sentence = f"moved_points holds {points.size} numbers for {len(indices)} moved_keypoints: give x, y each"
            return False, sentence, None
        if len(set(indices)) != len(indices):
            return False, f"moved_keypoints {indices} names a keypoint twice", None
        horizon, samples = settings.horizon_steps, self._num_samples(settings)
        takes_s, may_s = self._pose_s * horizon * samples, settings.max_coast_steps * predictor.manifest.period_s
        if takes_s > may_s:
            return False, (
                f"{samples} samples of {horizon} steps would take about {takes_s:.1f} s here, and without images for "
                f"more than {may_s:.1f} s (max_coast_steps) the stream starts afresh: ask for fewer"
            ), None
        temperature = request.temperature or settings.temperature
        if indices:
            moved = dict(zip(indices, points.reshape(-1, 2).tolist(), strict=True))
            forecast = predictor.what_if(moved, horizon, samples, temperature, request.seed)
        else:
            forecast = predictor.forecast(horizon, samples, temperature, request.seed)
        header = Header(stamp=time_message(forecast.stamp_ns), frame_id=self._frame_id)
        now_ns = self.get_clock().now().nanoseconds
        message = forecast_message(forecast, header, frames_dropped=self._statistics.dropped, now_ns=now_ns)
        return True, "", message

    # -- saying how it goes

    def _publish_model_info(self) -> None:
        self._model_info_pub.publish(model_info_message(self._predictor.manifest, self._predictor.provider))

    def _complain(self, sentence: str) -> None:
        self._statistics.fail(sentence, time.monotonic())
        self.get_logger().error(sentence, throttle_duration_sec=_THROTTLE_S)

    def _report_failure(self, error: Exception) -> None:
        self._statistics.failures += 1
        self._complain(f"unexpected {type(error).__name__}: {error}")
        self.get_logger().error("".join(traceback.format_exception(error)), throttle_duration_sec=60.0)

    def _on_timer(self) -> None:
        """Publish diagnostics, and follow the publishers' reliability."""
        if self._active and self._reliability != self._wanted_reliability():
            self._subscribe()
        now_s, statistics, predictor = time.monotonic(), self._statistics, self._predictor
        status = DiagnosticStatus(name=f"{self.get_fully_qualified_name()}: forecast", hardware_id=predictor.model_id)
        if self._active:
            level, status.message = statistics.verdict(
                now_s,
                period_s=predictor.manifest.period_s,
                stale_after_s=self._settings.stale_after_s,
                topic=self._image_topic(),
            )
        else:
            level, status.message = 0, "inactive"
        status.level = bytes([level])
        values = {"provider": predictor.provider, "model": predictor.model_id, **statistics.values(now_s)}
        status.values = [KeyValue(key=k, value=v) for k, v in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics_pub.publish(message)


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Return an image with the channels of the model's frames: grey [H,W,1] or RGB [H,W,3]."""
    if channels == 3:
        return image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return (image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[:, :, None]


def _autostart(node: PredictorNode) -> bool:
    """Configure and activate if the parameter says so; False, after the reason was logged, if that fails."""
    if not node.get_parameter("autostart").value:
        return True
    for transition in (node.trigger_configure, node.trigger_activate):
        if transition() != TransitionCallbackReturn.SUCCESS:
            node.get_logger().error("autostart failed; the reason stands above")
            return False
    return True


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; the exit status is 1 if `autostart` fails."""
    return run_node("predictor_node", PredictorNode, args, start=_autostart, close=PredictorNode.stop)


if __name__ == "__main__":
    sys.exit(main())
