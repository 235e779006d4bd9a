"""The lifecycle node that turns a camera's images into keypoints, forecasts and predicted frames.

Two threads: the executor's receives images and answers requests, the worker's owns the Predictor. Between them lies a
mailbox of one, so a camera faster than the model never builds up delay. This module holds parameters, life cycle and
the worker; `receiving`, `publishing`, `requests` and `health` hold what their names say. Of the package's rooms only
`runtime` (and `geometry`) is used here.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from contextlib import ExitStack
from dataclasses import fields, replace
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Header

from gridkp_ros.image_messages import ImageError, message_to_array
from gridkp_ros.node.conversions import exposure_age_ns, stamp_ns, time_message
from gridkp_ros.node.health import Health
from gridkp_ros.node.images import choose_converter
from gridkp_ros.node.mailbox import Job, Mailbox
from gridkp_ros.node.publishing import Publishing
from gridkp_ros.node.receiving import Received, Receiver
from gridkp_ros.node.requests import Requests
from gridkp_ros.node.resources import ResourceError, find_model
from gridkp_ros.node.ros_logging import forward_logging
from gridkp_ros.node.running import run_node
from gridkp_ros.node.settings import PREDICTOR, SUBSCRIPTION, Settings, SettingsError
from gridkp_ros.node.statistics import Statistics
from gridkp_ros.runtime import BundleError, Forecast, Predictor, PredictorError

_GPU_SAMPLES = 10
_THROTTLE_S = 5.0
_PICTURES_PUT_OFF = 4  # in a row: then somebody who looks sees something again


class PredictorNode(LifecycleNode):
    """Subscribes to `image`; publishes ~/keypoints ~/forecast ~/frames ~/overlay ~/model_info and /diagnostics."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("predictor_node", **kwargs)
        forward_logging(self.get_logger())
        self._settings = self._declare_parameters()
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._predictor: Predictor | None = None
        self._convert = None
        self._mailbox: Mailbox[Received] = Mailbox()
        self._pictures_put_off = 0
        self._pose_s = 0.0  # what one step of one sample took in the newest forecast
        self._worker: threading.Thread | None = None
        self._statistics = Statistics()
        self._receiver = Receiver(self, lambda: self._settings)
        self._publishing: Publishing | None = None
        self._made = ExitStack()  # what on_configure made, to be destroyed again
        self._active = False
        self._image_size: tuple[int, int] | None = None  # width, height of the newest image
        self._frame_id = ""

    # -- what the node's other parts read

    @property
    def settings(self) -> Settings:
        """The parameters' values in use."""
        return self._settings

    @property
    def predictor(self) -> Predictor | None:
        """The Predictor, which belongs to the worker; None before the node is configured."""
        return self._predictor

    @property
    def statistics(self) -> Statistics:
        """Counters since activation."""
        return self._statistics

    @property
    def receiver(self) -> Receiver:
        """The way in."""
        return self._receiver

    @property
    def active(self) -> bool:
        """Whether images are predicted from."""
        return self._active

    @property
    def frame_id(self) -> str:
        """Of the newest image observed."""
        return self._frame_id

    @property
    def pose_s(self) -> float:
        """Seconds that one step of one sample took in the newest forecast; 0 before the first."""
        return self._pose_s

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
        if SUBSCRIPTION in restarts:
            self._receiver.subscribe_again()
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
        self._publishing = Publishing(self)
        self._made.callback(self._publishing.close)
        self._made.callback(Requests(self).close)
        self._made.callback(Health(self).close)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start predicting."""
        result = super().on_activate(state)
        self._statistics = Statistics(active_since_s=time.monotonic())
        self._mailbox = Mailbox()
        self._active = True
        self._publishing.model_info(self._predictor)
        self._worker = threading.Thread(target=self._work, args=(self._mailbox,), name="predictor", daemon=True)
        self._worker.start()
        self._receiver.open(self._mailbox, self._statistics)
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
        self._receiver.close()
        self._mailbox.close()
        if self._worker is not None:
            self._worker.join()
            self._worker = None
        self._image_size = None

    def _release(self) -> None:
        self.stop()
        self._made.close()
        self._predictor = self._publishing = None

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
                self._publishing.model_info(predictor)

        if not self.submit(swap):
            swap()

    # -- predicting (the worker's thread)

    def submit(self, job: Job) -> bool:
        """Let the worker do a job between two frames; False, and nothing done, where the node is not active."""
        return self._active and self._mailbox.submit(job)

    def _work(self, mailbox: Mailbox[Received]) -> None:
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
                self.report_failure(error)

    def _predict(self, received: Received) -> None:
        """Take one image through: keypoints, forecast, and the pictures somebody subscribed to."""
        start_s = time.monotonic()
        message, predictor, statistics, settings = (
            received.message, self._predictor, self._statistics, self._settings
        )
        image = message_to_array(message, self._convert, settings.max_image_pixels)
        self._image_size = image.shape[1::-1]
        header = self._header(received)
        begun_s = time.monotonic()
        observation = predictor.observe(image, stamp_ns(header.stamp))
        observe_s = time.monotonic() - begun_s
        statistics.count(observation, time.monotonic())
        if observation.started:
            self.get_logger().info(f"epoch {observation.epoch} starts: {observation.start_reason}")
        self._frame_id = header.frame_id
        if observation.action != "absorbed":
            return
        self._publishing.keypoints(observation, header, predictor.model_id)
        forecast = None
        if observation.ready:
            samples, begun_s = self.num_samples(settings), time.monotonic()
            forecast = predictor.forecast(settings.horizon_steps, samples, settings.temperature, settings.seed)
            forecast_s = time.monotonic() - begun_s
            self._pose_s = forecast_s / (settings.horizon_steps * samples)
            statistics.inference_s.append(observe_s + forecast_s)
            forecast, latency_ns = self.as_exposed(forecast, settings)
            self._publishing.forecast(forecast, header, frames_dropped=statistics.dropped, latency_ns=latency_ns)
            statistics.forecasts += 1
            if latency_ns >= 0:
                statistics.latency_s.append(latency_ns * 1e-9)
        if self._pictures_may_be_drawn():
            encoding = getattr(message, "encoding", "rgb8")
            self._publishing.pictures(predictor, settings, image, encoding, header, observation, forecast)
        if forecast is not None:
            statistics.busy_s.append(time.monotonic() - start_s)

    def as_exposed(self, forecast: Forecast, settings: Settings) -> tuple[Forecast, int]:
        """Return a forecast whose times count from the exposure, and the time from there to now in ns (-1 s: unknown).

        header.stamp stays the image's own; where it is later than the exposure, the steps are that much nearer to it.
        """
        late_ns = round(settings.input_latency * 1e9)

        def earlier(view: Forecast) -> Forecast:
            others = tuple(earlier(other) for other in view.others)
            return replace(view, time_from_start_ns=view.time_from_start_ns - late_ns, others=others)

        now_ns = self.get_clock().now().nanoseconds
        return earlier(forecast) if late_ns else forecast, exposure_age_ns(now_ns, forecast.stamp_ns - late_ns)

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

    def _header(self, received: Received) -> Header:
        """Return the image's own header; an unset stamp is replaced by the time of arrival."""
        header = received.message.header
        if stamp_ns(header.stamp) != 0:
            return header
        self.get_logger().warning(
            "images carry no stamp (header.stamp is zero): the time of arrival is used", throttle_duration_sec=60.0
        )
        return Header(stamp=time_message(received.arrival_ns), frame_id=header.frame_id)

    def num_samples(self, settings: Settings) -> int:
        """Samples of a forecast with these settings."""
        if settings.num_samples:
            return settings.num_samples
        return 1 if self._predictor.provider == "CPUExecutionProvider" else _GPU_SAMPLES

    # -- saying what went wrong

    def _complain(self, sentence: str) -> None:
        self._statistics.fail(sentence, time.monotonic())
        self.get_logger().error(sentence, throttle_duration_sec=_THROTTLE_S)

    def report_failure(self, error: Exception) -> None:
        """Count and log an exception that nothing in this package raises on purpose."""
        self._statistics.failures += 1
        self._complain(f"unexpected {type(error).__name__}: {error}")
        self.get_logger().error("".join(traceback.format_exception(error)), throttle_duration_sec=60.0)


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
