"""Evaluation over live topics: records camera and predictor, and when the player has finished scores what it recorded.

The same measures as `gridkp replay`, but of what a subscriber received: transport and lost frames included.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from rclpy.task import Future

from gridkp_ros.evaluation.metrics import EvaluationError
from gridkp_ros.geometry import Region
from gridkp_ros.node.recorder_node import RecorderNode
from gridkp_ros.node.recording import evaluate_recording, read_recording
from gridkp_ros.node.running import Finished, run_node
from gridkp_ros.node.settings import Settings

_SETTLE_S = 2.0


class ReplayEvalNode(RecorderNode):
    """A recorder that ends by itself some time after a camera says in /diagnostics that it has finished or failed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("replay_eval_node", **kwargs)
        self.out = Path(self.declare_parameter("out", "out/replay_eval").value)
        self.camera_failure = ""
        # Region of interest and stereo half as the predictor has them: what is scored must be what it saw.
        self.view: tuple[Region | None, str] | None = None
        self._settling = None
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._parameters = self.create_client(GetParameters, f"{self.predictor}/get_parameters")
        self._asking = self.create_timer(0.2, self._ask)

    def _ask(self) -> None:
        if self._parameters.service_is_ready():
            self._asking.cancel()
            request = GetParameters.Request(names=["region_of_interest", "stereo_half"])
            self._parameters.call_async(request).add_done_callback(self._on_view)

    def _on_view(self, answer: Future) -> None:
        numbers, half = (parameter_value_to_python(value) for value in answer.result().values)
        self.view = (Settings(region_of_interest=tuple(numbers)).region(), half)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {v.key: v.value for v in status.values}
            if values.get("failed") == "true":
                self.camera_failure = f"{status.name} {status.message}"
                raise Finished
            if values.get("finished") == "true" and self._settling is None:
                self._settling = self.create_timer(_SETTLE_S, self._on_settled)

    def _on_settled(self) -> None:
        raise Finished


def _close(node: ReplayEvalNode) -> int:
    """Finish the bag and evaluate it; the exit status is 1 if that cannot be done."""
    node.close()
    if node.failure is not None:
        return 1
    try:
        if node.camera_failure:
            raise EvaluationError(f"{node.camera_failure}; nothing is scored")
        if node.view is None:
            raise EvaluationError(f"{node.predictor} did not say which part of the image it sees: is it running?")
        recording = read_recording(node.path)
        title = f"Live evaluation of {recording.info.model_id}"
        region, half = node.view
        result = evaluate_recording(node.path, node.out, title=title, region=region, half=half, recording=recording)
    except EvaluationError as error:
        node.get_logger().error(str(error))
        return 1
    node.get_logger().info(f"{result['frames']['forecasts']} forecasts scored; see {node.out / 'report.html'}")
    return 0


def main(args: list[str] | None = None) -> int:
    """Record until the camera has finished (or an interrupt), then write the evaluation into the folder `out`."""
    return run_node("replay_eval_node", ReplayEvalNode, args, close=_close)


if __name__ == "__main__":
    sys.exit(main())
