"""The lifecycle node that turns a camera's images into keypoints, forecasts and predicted frames.

Three threads: one receives images, the worker's owns the Predictor, the executor's does all else. Between the first two
lies a mailbox of one, so a camera faster than the model never builds up delay. A fourth comes and goes: it loads
another model beside the stream when a parameter asks for one, and the worker changes over between two frames. This
module holds parameters, life cycle and the worker; `receiving`, `publishing`, `requests`, `samples` and `health` hold
what their names say. Of the package's rooms only `runtime` (and `geometry`) is used here.
"""

from __future__ import annotations

import difflib
import functools
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
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

from gridkp_ros.image_messages import (
    ImageError,
    check_image_message,
    is_compressed,
    jpeg_size,
    message_to_array,
)
from gridkp_ros.node.conversions import exposure_age_ns, stamp_ns, statistics_message
from gridkp_ros.node.health import Health
from gridkp_ros.node.images import choose_converter
from gridkp_ros.node.mailbox import Job, Mailbox
from gridkp_ros.node.publishing import Publishing
from gridkp_ros.node.receiving import Received, Receiver
from gridkp_ros.node.requests import Requests
from gridkp_ros.node.resources import ResourceError, find_model
from gridkp_ros.node.ros_logging import Sparing, forward_logging
from gridkp_ros.node.running import run_node, say_without_waiting
from gridkp_ros.node.samples import SampleBudget, rehearse
from gridkp_ros.node.settings import PREDICTOR, SUBSCRIPTION, Settings, SettingsError
from gridkp_ros.node.space import Space
from gridkp_ros.node.statistics import Statistics
from gridkp_ros.node.transport import receive_mostly
from gridkp_ros.runtime import Bundle, BundleError, Forecast, Predictor, PredictorError
from gridkp_ros.runtime.engine import EngineError, choose_provider, telling

_FRAMES_NAMED, _SHOWN = 3, 300  # of an exception: calls, characters
_PICTURES_PUT_OFF = 4  # in a row: then somebody who looks sees something again


_REFUSALS = (SettingsError, ResourceError, BundleError, PredictorError)

Transition = Callable[["PredictorNode", LifecycleState], TransitionCallbackReturn]


@dataclass(frozen=True)
class _Model:
    """A Predictor, the settings it was made with, and how many samples it manages."""

    predictor: Predictor
    settings: Settings
    budget: SampleBudget


def _told(transition: Transition) -> Transition:
    """Log an exception in a transition, which rclpy would turn into an error state without a word."""

    @functools.wraps(transition)
    def run(node: PredictorNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            node.refuse(f"{transition.__name__} failed: unexpected {type(error).__name__}: {error}")
            node.get_logger().error("".join(traceback.format_exception(error)))
            return TransitionCallbackReturn.ERROR

    return run


class PredictorNode(LifecycleNode):
    """Subscribes to `image`; publishes ~/keypoints ~/forecast ~/frames ~/overlay ~/model_info and /diagnostics."""

    _closable = False  # before all that `stop` needs is there

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("predictor_node", **kwargs)
        forward_logging(self.get_logger())
        self.log = Sparing(self.get_logger())  # for what may happen with every image
        self._settings = Settings()
        self._predictor: Predictor | None = None
        self._predictor_settings = self._settings  # that the Predictor was made with
        self._budget: SampleBudget | None = None
        self._start_reason = ""  # of the next activation's first frame
        self._epochs = 0  # counted by Predictors that were released
        self._convert = None
        self._mailbox: Mailbox[Received] = Mailbox()
        self._pictures_put_off = 0
        self._worker: threading.Thread | None = None
        self._loader: threading.Thread | None = None
        self._wanted: Settings | None = None  # what the loader is to load, or is loading
        self._loader_lock = threading.Lock()  # for a loader that ends while something else becomes wanted
        self._statistics = Statistics()
        self._receiver = Receiver(self, lambda: self._settings, self.report_failure)
        self._publishing: Publishing | None = None
        self._made = ExitStack()  # what on_configure made, to be destroyed again
        self._active = False
        self._image_size: tuple[int, int] | None = None  # width, height of the newest image
        self.state = "unconfigured"
        self.refusal = ""  # why the last transition failed
        self.load_failure = ""  # why the model that parameters asked for last is not in use
        self.frame_id = ""  # of the newest image observed
        self._closable = True
        # Last, because a parameter that is refused ends a node that must be able to close.
        self._settings = self._declare_parameters()
        self.unknown_parameters = self._find_unknown_parameters()
        self.add_on_set_parameters_callback(self._on_set_parameters)
        # In every state there is an answer, and a word on how it goes.
        Requests(self)
        Health(self)

    # -- what the node's other parts read

    @property
    def settings(self) -> Settings:
        """The parameters' values."""
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
    def loading(self) -> str:
        """The model that is being loaded beside the stream; empty without one."""
        wanted = self._wanted
        return "" if wanted is None else f"{wanted.model or 'the default model'} on {wanted.provider}"

    def samples_that_fit(self, horizon_steps: int) -> int:
        """Return how many samples of a forecast fit the period, as the newest frames went."""
        return self._budget.allowed(horizon_steps)

    def forecast_s(self, samples: int, horizon_steps: int) -> float:
        """Return how many seconds a forecast is likely to take."""
        return self._budget.forecast_s(samples, horizon_steps)

    @property
    def clock_stands_still(self) -> bool:
        """Whether the node waits for the first /clock."""
        return self.get_clock().now().nanoseconds == 0

    @property
    def clocks_apart(self) -> bool:
        """Whether the newest image's stamp and the node's time cannot be of one clock."""
        return exposure_age_ns(round(self._statistics.stamp_age_s * 1e9), 0) < 0

    @property
    def space(self) -> Space | None:
        """What puts points in space; None before the node is configured."""
        return None if self._publishing is None else self._publishing.space

    def unheard_subscribers(self) -> list[str]:
        """Return a sentence for each subscriber whose QoS does not fit."""
        return [] if self._publishing is None else self._publishing.unheard_subscribers()

    def why_not_active(self) -> str:
        """Say what stands between a request and its answer."""
        if self.state == "finalized":
            return "the node is shut down: start it again"
        steps = "configure and activate it first" if self.state == "unconfigured" else "activate it first"
        return f"the node is not active but {self.state}: {steps}" + (f" ({self.refusal})" if self.refusal else "")

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
            if spec.name in self._parameter_overrides:
                self._parameter_overrides[spec.name] = _as_declared(self._parameter_overrides[spec.name])
            values[spec.name] = self.declare_parameter(spec.name, default, descriptor).value
        return Settings().changed(values)[0]

    def _find_unknown_parameters(self) -> list[str]:
        """Return a sentence, which is also logged, for each value given at start for a parameter that there is not."""
        names = [name for name in self._parameter_overrides if not self.has_parameter(name)]
        sentences = [_unknown(name) for name in sorted(names) if not name.startswith("qos_overrides.")]
        for sentence in sentences:
            self.get_logger().warning(f"{sentence} It is without effect")
        return sentences

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """Set parameters, all or none; the refusal of one that there is not names it, which rclpy's own does not."""
        unknown = [_unknown(p.name) for p in parameter_list if not self.has_parameter(p.name)]
        if unknown:
            return SetParametersResult(successful=False, reason=" ".join(unknown))
        return super().set_parameters_atomically([_as_declared(p) for p in parameter_list])

    def _on_set_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        """Check new values together with the others and put them to use, or refuse them with the reason.

        What makes another Predictor necessary is loaded at once where no images come in. While they do it is loaded
        beside them, after all that can be checked quickly: this thread answers all requests.
        """
        names = {spec.name for spec in fields(Settings)}
        try:
            settings, restarts = self._settings.changed({p.name: p.value for p in parameters if p.name in names})
            if PREDICTOR in restarts:
                if self._image_size is not None:
                    settings.check_region(*self._image_size)
                if self._active:
                    self._load_beside(settings)
                elif self._predictor is not None:
                    predictor = self._make_predictor(settings)
                    predictor.epoch = self._predictor.epoch
                    self._predictor, self._predictor_settings = predictor, settings
                    self._start_reason = "parameters changed"
        except _REFUSALS as error:
            return SetParametersResult(successful=False, reason=str(error))
        except Exception as error:  # which would end the executor, and with it the forecasts
            self.report_failure(error)
            return SetParametersResult(successful=False, reason=f"unexpected {type(error).__name__}: {error}")
        self._settings = settings
        if SUBSCRIPTION in restarts:
            self._receiver.subscribe_again()
        return SetParametersResult(successful=True)

    # -- life cycle

    def refuse(self, sentence: str) -> TransitionCallbackReturn:
        """Log why a transition fails, keep it for the diagnostics and for requests, and return its failure."""
        self.refusal = sentence
        self.get_logger().error(sentence)
        return TransitionCallbackReturn.FAILURE

    @_told
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the bundle and make the publishers."""
        try:
            self._predictor, self._predictor_settings = self._make_predictor(self._settings), self._settings
        except _REFUSALS as error:
            return self.refuse(f"cannot configure: {error}")
        self._predictor.epoch = self._epochs  # goes on counting: no receiver takes two streams for one motion
        self._convert, sentence = choose_converter()
        self.get_logger().info(sentence)
        self._publishing = Publishing(self)
        self._made.callback(self._publishing.close)
        self._start_reason = "first frame"
        self.state, self.refusal, self.load_failure = "inactive", "", ""
        return TransitionCallbackReturn.SUCCESS

    @_told
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Run every graph once, on made-up images, and start predicting."""
        try:
            self._budget = self._warm_up(self._predictor, self._settings)
            self._predictor.reset(self._start_reason)
        except _REFUSALS as error:
            return self.refuse(f"cannot activate: {error}")
        result = super().on_activate(state)
        self._statistics = Statistics(active_since_s=time.monotonic())
        self._mailbox = Mailbox()
        self._active = True
        self._publishing.model_info(self._predictor)
        self._worker = threading.Thread(target=self._work, args=(self._mailbox,), name="predictor", daemon=True)
        self._worker.start()
        self._receiver.open(self._mailbox, self._statistics)
        self.state, self.refusal = "active", ""
        return result

    @_told
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop predicting; the next activation starts afresh."""
        self.stop()
        self._publishing.space.clear()
        self._start_reason = "activated again"
        self.state = "inactive"
        return super().on_deactivate(state)

    @_told
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the bundle and the publishers."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    @_told
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and release everything, from any state."""
        self._release()
        self.state = "finalized"
        return TransitionCallbackReturn.SUCCESS

    @_told
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured after an exception in a transition; from there it can be configured again."""
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

    def destroy_node(self) -> None:
        """Stop, wait for what is being loaded, and destroy the node, though it be interrupted while it is made."""
        if self._closable:
            self.stop()
            self._wanted = None
            if (loader := self._loader) is not None:
                loader.join()
        super().destroy_node()

    def _release(self) -> None:
        self.stop()
        self._wanted = None
        self._made.close()
        if self._predictor is not None:
            self._epochs = self._predictor.epoch
        self._predictor = self._publishing = self._budget = None
        self.state = "unconfigured"

    # -- models

    def _make_predictor(self, settings: Settings) -> Predictor:
        path = find_model(settings.model)
        self.get_logger().info(f"loading {path}")
        predictor = Predictor(
            path,
            provider=settings.provider,
            variant=settings.variant,
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

    def _warm_up(self, predictor: Predictor, settings: Settings) -> SampleBudget:
        """Run every graph once and measure; the log shows what the time goes into where a GPU's engines are built."""
        start_s = time.monotonic()
        slow = settings.provider != "cpu"
        with telling("getting the graphs ready on the GPU") if slow else nullcontext():
            budget = rehearse(
                predictor, horizon_steps=settings.horizon_steps, num_samples=settings.num_samples,
                region=settings.region(), render=settings.publish_frames,
            )
        said = f"ready after {time.monotonic() - start_s:.2f} s of warm-up"
        if not settings.num_samples:
            said += f"; {self._samples_sentence(budget.samples, settings)}"
        self.get_logger().info(said)
        return budget

    def _samples_sentence(self, samples: int, settings: Settings) -> str:
        return f"samples of {settings.horizon_steps} steps that fit the period: {samples} (num_samples is 0)"

    def _load_beside(self, settings: Settings) -> None:
        """Let the loader make a Predictor of these settings while the stream goes on with the old one.

        Raises what can be found out without opening graphs: ResourceError, BundleError, PredictorError.
        """
        if _same_model(settings, self._predictor_settings):
            self._wanted = None
            return
        Bundle.load(find_model(settings.model)).manifest.file_of("forecast", settings.variant)
        try:
            choose_provider(settings.provider)
        except EngineError as error:
            raise PredictorError(str(error)) from error
        with self._loader_lock:
            self._wanted = settings
            if self._loader is None:
                self._loader = threading.Thread(target=self._load, name="loader", daemon=True)
                self._loader.start()

    def _load(self) -> None:
        """Load what is wanted until nothing else is (the loader's thread)."""
        while True:
            with self._loader_lock:
                settings = self._wanted
                if settings is None or not self.context.ok():
                    self._loader = None
                    return
            try:
                predictor = self._make_predictor(settings)
                found = _Model(predictor, settings, self._warm_up(predictor, settings))
            except Exception as error:  # whatever it was, the old model goes on and the reason is said
                found = error
            done = threading.Event()
            if self.executor is None:  # nobody spins the node
                self._on_loaded(settings, found, done)
            else:
                self.executor.create_task(self._on_loaded, settings, found, done)
            while not done.wait(0.2) and self.context.ok() and self._wanted is settings:
                pass

    def _on_loaded(self, settings: Settings, found: _Model | Exception, done: threading.Event) -> None:
        """Take what was loaded, if it is still wanted (the executor's thread)."""
        try:
            if self._wanted is settings:
                self._wanted = None
                self._take(settings, found)
        except Exception as error:  # which would end the executor, and with it the forecasts
            self.report_failure(error)
        finally:
            done.set()

    def _take(self, settings: Settings, found: _Model | Exception) -> None:
        """Change over to a model that was loaded, or return to the parameters of the old one."""
        if isinstance(found, _Model):
            self.load_failure = ""
            self._change_over(found)
            return
        unexpected = "" if isinstance(found, _REFUSALS) else f"unexpected {type(found).__name__}: "
        self.load_failure = f"{settings.model or 'the default model'} cannot be used: {unexpected}{found}"
        self._complain(f"{self.load_failure}. The old one goes on, and its parameters are back")
        self.set_parameters_atomically(_model_parameters(self._predictor_settings))

    def _change_over(self, model: _Model) -> None:
        """Hand a new Predictor to the worker, or keep it where none is running."""

        def swap() -> None:
            # The epoch goes on counting, so that no receiver takes two streams for one motion.
            model.predictor.epoch = self._predictor.epoch
            model.predictor.reset("parameters changed")
            self._predictor, self._budget = model.predictor, model.budget
            if self._active:
                self._publishing.model_info(model.predictor)

        self._predictor_settings = model.settings
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
                self._statistics.refuse(f"image refused: {error}", time.monotonic())
                self.log.error(f"image refused: {error}")
            except (PredictorError, BundleError) as error:  # a graph may be opened when it is first needed
                self._statistics.failures += 1
                self._complain(str(error))
            except Exception as error:  # the node goes on with the next image, and says what happened
                if not self.context.ok():
                    return  # interrupted: the publishers went away in the middle of an image
                self.report_failure(error)
            finally:
                self._statistics.working_since_s = -1.0

    def _predict(self, received: Received) -> None:
        """Take one image through: keypoints, forecast, and the pictures somebody subscribed to."""
        start_s = time.monotonic()
        message, predictor, budget, statistics, settings = (
            received.message, self._predictor, self._budget, self._statistics, self._settings
        )
        statistics.working_since_s = start_s
        header = self._header(received)
        statistics.stamp_age_s = (received.arrival_ns - stamp_ns(header.stamp)) * 1e-9
        if (observation := predictor.pass_over(stamp_ns(header.stamp))) is not None:
            check_image_message(message, settings.max_image_pixels)  # a camera at fault is named, whichever frame it is
            statistics.count(observation, time.monotonic())
            return
        size, reduced_by = self._reduction(message, settings)
        image = message_to_array(message, self._convert, settings.max_image_pixels, reduced_by)
        self._image_size = size or image.shape[1::-1]
        statistics.image_size = "{}x{}".format(*self._image_size)
        begun_s = time.monotonic()
        observation = predictor.observe(image, stamp_ns(header.stamp), reduced_by)
        observe_s = time.monotonic() - begun_s
        statistics.count(observation, time.monotonic())
        if observation.started:
            self.get_logger().info(f"epoch {observation.epoch} starts: {observation.start_reason}")
        self.frame_id = header.frame_id
        if observation.action != "absorbed":
            return
        self._publishing.keypoints(observation, header, predictor.model_id)
        forecast, forecast_s, samples, latency_ns = None, math.nan, 0, 0
        if observation.ready:
            horizon_steps = settings.horizon_steps
            samples, begun_s = settings.num_samples or budget.allowed(horizon_steps), time.monotonic()
            forecast = predictor.forecast(horizon_steps, samples, settings.temperature, settings.seed)
            forecast_s = time.monotonic() - begun_s
            statistics.inference_s.append(observe_s + forecast_s)
            forecast, latency_ns = self.as_exposed(forecast, settings)
            self._publishing.forecast(forecast, header, frames_dropped=statistics.dropped, latency_ns=latency_ns)
            statistics.count_forecast(samples, latency_ns, time.monotonic())
        self._publishing.space.publish(predictor, settings, header, observation, forecast, latency_ns)
        if reduced_by == 1 and self._pictures_may_be_drawn():
            encoding = getattr(message, "encoding", "rgb8")
            self._publishing.pictures(predictor, settings, image, encoding, header, observation, forecast)
        now_s = time.monotonic()
        if forecast is not None:
            statistics.busy_s.append(now_s - start_s)
            changed = budget.add(now_s - start_s, forecast_s, samples, settings.horizon_steps, now_s)
            if changed and not settings.num_samples:
                self.get_logger().info(self._samples_sentence(budget.samples, settings))
        self._publishing.statistics(statistics_message(
            statistics, header, self._latency_ns(stamp_ns(header.stamp), settings), now_s - start_s, forecast_s, samples
        ))

    def _reduction(self, message: Any, settings: Settings) -> tuple[tuple[int, int] | None, int]:
        """Return a large JPEG's size and by how much it is reduced while it is decoded, if nobody looks at pictures."""
        size = jpeg_size(message) if is_compressed(message) else None
        if size is None or self._publishing.somebody_looks(settings):
            return None, 1
        by = self._predictor.reduction(*size)
        return (size, by) if by > 1 else (None, 1)

    def as_exposed(self, forecast: Forecast, settings: Settings) -> tuple[Forecast, int]:
        """Return a forecast whose times count from the exposure, and the time from there to now in ns (-1 s: unknown).

        header.stamp stays the image's own; where it is later than the exposure, the steps are that much nearer to it.
        """
        late_ns = round(settings.input_latency * 1e9)

        def earlier(view: Forecast) -> Forecast:
            others = tuple(earlier(other) for other in view.others)
            return replace(view, time_from_start_ns=view.time_from_start_ns - late_ns, others=others)

        latency_ns = self._latency_ns(forecast.stamp_ns, settings)
        return earlier(forecast) if late_ns else forecast, latency_ns

    def _latency_ns(self, image_ns: int, settings: Settings) -> int:
        exposed_ns = image_ns - round(settings.input_latency * 1e9)
        return exposure_age_ns(self.get_clock().now().nanoseconds, exposed_ns)

    def _pictures_may_be_drawn(self) -> bool:
        """Pictures are for people and give way to a frame that waits to be absorbed, but not for long."""
        waiting, statistics = self._mailbox.peek(), self._statistics
        try:
            late = waiting is not None and self._predictor.wants(stamp_ns(self._header(waiting).stamp))
        except ImageError:  # it will be refused when its turn comes
            late = False
        if late and self._pictures_put_off < _PICTURES_PUT_OFF:
            self._pictures_put_off += 1
            statistics.pictures_put_off += 1
            return False
        self._pictures_put_off = 0
        return True

    def _header(self, received: Received) -> Header:
        """Return the image's header, and say so where its stamp is the time of arrival."""
        if not received.stamped:
            self.get_logger().warning(
                "images carry no stamp (header.stamp is zero): the time of arrival is used",
                throttle_duration_sec=60.0,
            )
        return received.header

    # -- saying what went wrong

    def _complain(self, sentence: str) -> None:
        self._statistics.fail(sentence, time.monotonic())
        self.log.error(sentence)

    def report_failure(self, error: Exception) -> None:
        """Count and log an exception that nothing in this package raises on purpose."""
        self._statistics.failures += 1
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES_NAMED:]
        where = " > ".join(f"{Path(frame.filename).stem}.{frame.name}" for frame in frames)
        self._complain(f"unexpected {type(error).__name__}: {str(error)[:_SHOWN]} (in {where}); the node goes on")
        self.get_logger().error("".join(traceback.format_exception(error)), throttle_duration_sec=60.0)


def _as_declared(parameter: Parameter) -> Parameter:
    """Return a whole number given for one that may be broken as such: `temperature 2`, which rclpy would refuse."""
    floats = {spec.name for spec in fields(Settings) if isinstance(spec.default, float)}
    if parameter.name in floats and parameter.type_ == Parameter.Type.INTEGER:
        return Parameter(parameter.name, value=float(parameter.value))
    return parameter


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, [spec.name for spec in fields(Settings)], n=1)
    hint = f": did you mean {near[0]!r}?" if near else "; docs/ros.md lists all there are."
    return f"There is no parameter {name!r}{hint}"


def _model_parameters(settings: Settings) -> list[Parameter]:
    """Return the parameters that a Predictor is made of."""
    names = [spec.name for spec in fields(Settings) if spec.metadata["restarts"] == PREDICTOR]
    values = {name: getattr(settings, name) for name in names}
    return [Parameter(n, value=list(v) if isinstance(v, tuple) else v) for n, v in values.items()]


def _same_model(one: Settings, other: Settings) -> bool:
    return PREDICTOR not in one.changed({p.name: p.value for p in _model_parameters(other)})[1]


def _autostart(node: PredictorNode) -> bool:
    """Configure and activate if the parameter says so; False, after the reason was logged, if that fails."""
    if not node.get_parameter("autostart").value:
        return True
    for transition in (node.trigger_configure, node.trigger_activate):
        if transition() != TransitionCallbackReturn.SUCCESS:
            node.get_logger().error(f"autostart failed: {node.refusal}")
            return False
    return True


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; the exit status is 1 if `autostart` fails."""
    receive_mostly()
    say_without_waiting()
    return run_node(
        "predictor_node", PredictorNode, args, start=_autostart, close=PredictorNode.stop,
        go_on=PredictorNode.report_failure,
    )


if __name__ == "__main__":
    sys.exit(main())
