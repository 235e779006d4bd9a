"""Evaluation over live topics: records camera and predictor, and when the player has finished scores what it recorded.

The same measures as `gridkp replay`, but of what a subscriber received: transport and lost frames included.
"""

from __future__ import annotations

import sys
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray

from gridkp_ros.evaluation.metrics import EvaluationError
from gridkp_ros.geometry import Region
from gridkp_ros.node.recorder_node import RecorderNode
from gridkp_ros.node.recording import evaluate_recording, read_recording
from gridkp_ros.node.running import Finished, run_node

_SETTLE_S = 2.0


class ReplayEvalNode(RecorderNode):
    """A recorder that ends by itself some time after a camera says in /diagnostics that it has finished."""

    def __init__(self) -> None:
        super().__init__("replay_eval_node")
        self.out = Path(self.declare_parameter("out", "out/replay_eval").value)
        numbers = self.declare_parameter("region_of_interest", [0, 0, 0, 0]).value
        self.region = Region(*numbers) if any(numbers[2:]) else None
        self.half = self.declare_parameter("stereo_half", "").value
        self._settling = None
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            done = any(v.key == "finished" and v.value == "true" for v in status.values)
            if done and self._settling is None:
                self._settling = self.create_timer(_SETTLE_S, self._on_settled)

    def _on_settled(self) -> None:
        raise Finished


def _close(node: ReplayEvalNode) -> int:
    """Finish the bag and evaluate it; the exit status is 1 if it cannot be evaluated."""
    node.close()
    try:
        recording = read_recording(node.path)
        title = f"Live evaluation of {recording.info.model_id}"
        result = evaluate_recording(
            node.path, node.out, title=title, region=node.region, half=node.half, recording=recording
        )
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
