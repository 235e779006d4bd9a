"""The services of predictor_node: forecasts on demand, and a fresh start."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import QoSProfile
from rclpy.task import Future
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from gridkp_ros.msg import KeypointForecast
from gridkp_ros.node.conversions import forecast_message, time_message
from gridkp_ros.node.settings import SettingsError
from gridkp_ros.runtime import PredictorError
from gridkp_ros.srv import GetForecast

if TYPE_CHECKING:
    from gridkp_ros.node.predictor_node import PredictorNode

_MAX_WAITING = 8
_MOST_AT_ONCE = 200


class Requests:
    """~/get_forecast and ~/reset, in every state of the node. The worker does what they ask for between two frames."""

    def __init__(self, node: PredictorNode) -> None:
        self._node = node
        self._waiting = 0  # requests taken in and not answered yet; of the executor's thread alone
        # Requests wait for the worker; in the default group images would wait with them. In a group that takes one at a
        # time DDS would hold the others, and drop the oldest of more than ten without a word.
        group = ReentrantCallbackGroup()
        # As many that come in one moment are each answered, if only by a refusal.
        qos = QoSProfile(depth=_MOST_AT_ONCE)
        for kind, name, callback in (
            (GetForecast, "~/get_forecast", self._on_get_forecast), (Trigger, "~/reset", self._on_reset)
        ):
            node.create_service(kind, name, callback, qos_profile=qos, callback_group=group)

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
            self._node.predictor.reset("requested")
            return True, "the next image starts afresh", None

        response.success, response.message, _ = await self._in_worker(reset)
        return response

    async def _in_worker(self, work: Any) -> tuple[bool, str, Any]:
        """Run work() -> (success, message, result) between two frames; an exception becomes its message."""
        future, node = Future(), self._node
        if self._waiting >= _MAX_WAITING:
            return False, f"{self._waiting} requests are waiting already: ask again when they are answered", None

        def job() -> None:
            try:
                result = work()
            except Exception as error:  # whatever it was, the caller is waiting for an answer
                result = False, str(error) or type(error).__name__, None
                if not isinstance(error, (PredictorError, SettingsError)):
                    node.report_failure(error)
            future.set_result(result)
            if node.executor is not None:
                node.executor.wake()

        if not node.submit(job):
            return False, node.why_not_active(), None
        self._waiting += 1
        try:
            return await future
        finally:
            self._waiting -= 1

    def _answer(self, request: GetForecast.Request) -> tuple[bool, str, KeypointForecast | None]:
        """Answer a GetForecast request. Raises PredictorError or SettingsError for what cannot be."""
        node = self._node
        # The parameters' ranges hold here too: a request holds the stream up for as long as it takes.
        asked = {
            "horizon_steps": request.horizon_steps,
            "num_samples": request.num_samples,
            "temperature": round(request.temperature, 6),  # a float32: 0.01 is in range
        }
        settings, _ = node.settings.changed({name: value for name, value in asked.items() if value})
        predictor = node.predictor
        indices = list(request.moved_keypoints)
        points = np.array(request.moved_points, dtype=np.float64)
        if points.size != 2 * len(indices):
            sentence = f"moved_points holds {points.size} numbers for {len(indices)} moved_keypoints: give x, y each"
            return False, sentence, None
        if twice := [index for index, count in Counter(indices).items() if count > 1]:
            return False, f"moved_keypoints names keypoint {twice[0]} twice", None
        horizon, samples = settings.horizon_steps, settings.num_samples or node.samples_that_fit(settings.horizon_steps)
        takes_s, may_s = node.forecast_s(samples, horizon), settings.max_coast_steps * predictor.manifest.period_s
        if takes_s > may_s:
            return False, (
                f"{samples} samples of {horizon} steps would take about {takes_s:.1f} s here, and without images for "
                f"more than {may_s:.1f} s (max_coast_steps) the stream starts afresh: ask for fewer"
            ), None
        if indices:
            moved = dict(zip(indices, points.reshape(-1, 2).tolist(), strict=True))
            forecast = predictor.what_if(moved, horizon, samples, settings.temperature, request.seed)
            forecast = forecast.views[predictor.view_at(points[:2])]  # of the eye that the first one is moved in
        else:
            forecast = predictor.forecast(horizon, samples, settings.temperature, request.seed)
        header = Header(stamp=time_message(forecast.stamp_ns), frame_id=node.frame_id)
        forecast, latency_ns = node.as_exposed(forecast, settings)
        message = forecast_message(forecast, header, frames_dropped=node.statistics.dropped, latency_ns=latency_ns)
        return True, "", message
