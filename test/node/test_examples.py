from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: node tests need rclpy")
pytest.importorskip("gridkp_ros.msg", reason="the messages are not built: run them by `make test`")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_planner_listens_to_the_predictor_of_its_own_namespace() -> None:
    spec = importlib.util.spec_from_file_location("keep_out_planner", EXAMPLES / "keep_out_planner.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rclpy.init(args=["--ros-args", "-r", "__ns:=/endoscope"])
    try:
        planner = module.KeepOutPlanner()
        assert "/endoscope/predictor_node/forecast" in [s.topic_name for s in planner.subscriptions]
        planner.destroy_node()
    finally:
        rclpy.try_shutdown()
