#!/usr/bin/env python3
"""Warns when a predicted instrument point may enter a keep-out circle: how a planner listens to the forecast.

    ros2 run gridkp_ros keep_out_planner --ros-args -p point:=psm1_tip_left -p x:=320.0 -p y:=240.0 -p radius:=60.0

Publishes std_msgs/Bool on ~/warning, and says in the log when, and how surely.
"""

from __future__ import annotations

import sys

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from std_msgs.msg import Bool

from gridkp_ros.msg import KeypointForecast
from gridkp_ros.node.client import Forecast, ForecastError


class KeepOutPlanner(Node):
    """Watches one named point against one circle, both in pixels of the image as received."""

    def __init__(self) -> None:
        super().__init__("keep_out_planner")
        self.point = self.declare_parameter("point", "psm1_tip_left").value
        self.circle = tuple(self.declare_parameter(name, value).value for name, value in
                            (("x", 320.0), ("y", 240.0), ("radius", 60.0)))
        self.limit = self.declare_parameter("probability", 0.2).value
        self.warning_pub = self.create_publisher(Bool, "~/warning", 10)
        self.create_subscription(KeypointForecast, "predictor_node/forecast", self.on_forecast, 10)

    def on_forecast(self, message: KeypointForecast) -> None:
        """Warn if any trusted step puts the point in the circle with more than the given probability."""
        forecast = Forecast(message)
        try:
            probability = forecast.enters_circle(self.point, *self.circle)[: forecast.trusted_steps]
        except ForecastError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        entering = np.flatnonzero(probability > self.limit)
        self.warning_pub.publish(Bool(data=bool(entering.size)))
        if entering.size:
            first = entering[0]
            self.get_logger().warning(
                f"{self.point} may enter the keep-out circle in {forecast.times_s[first]:.2f} s "
                f"(probability {probability[first]:.2f}, at most {probability.max():.2f})",
                throttle_duration_sec=0.5,
            )


def main() -> int:
    """Run until interrupted."""
    rclpy.init()
    node = KeepOutPlanner()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
