"""How it goes, once a second on /diagnostics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType

if TYPE_CHECKING:
    from gridkp_ros.node.predictor_node import PredictorNode


class Health:
    """Publishes the node's diagnostics."""

    def __init__(self, node: PredictorNode) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # A steady clock: diagnostics go on when simulated time stands still.
        self._timer = node.create_timer(1.0, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        """Take the timer and the publisher away."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)

    def _on_timer(self) -> None:
        node = self._node
        node.receiver.follow_publishers()
        now_s, statistics, predictor = time.monotonic(), node.statistics, node.predictor
        status = DiagnosticStatus(name=f"{node.get_fully_qualified_name()}: forecast", hardware_id=predictor.model_id)
        if node.active:
            level, status.message = statistics.verdict(
                now_s,
                period_s=predictor.manifest.period_s,
                stale_after_s=node.settings.stale_after_s,
                topic=node.receiver.topic,
            )
        else:
            level, status.message = 0, "inactive"
        status.level = bytes([level])
        values = {"provider": predictor.provider, "model": predictor.model_id, **statistics.values(now_s)}
        status.values = [KeyValue(key=k, value=v) for k, v in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = node.get_clock().now().to_msg()
        self._publisher.publish(message)
