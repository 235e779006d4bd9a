"""What turns camera messages into arrays: cv_bridge where ROS brings a working one, rosbags-image otherwise."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

from gridkp_ros.image_messages import Converter

_PROBE = """
import numpy as np
from cv_bridge import CvBridge
bridge = CvBridge()
message = bridge.cv2_to_imgmsg(np.zeros((4, 4, 3), np.uint8), "bgr8")
assert bridge.imgmsg_to_cv2(message, "rgb8").shape == (4, 4, 3)
"""


def choose_converter() -> tuple[Converter | None, str]:
    """Return cv_bridge's conversion, or None for rosbags-image, and a sentence that says which and why.

    cv_bridge is first tried in a process of its own: built for NumPy 1 and run beside NumPy 2 it may crash
    (https://github.com/ros-perception/vision_opencv/issues/535).
    """
    if importlib.util.find_spec("cv_bridge") is None:
        return None, "images are converted by rosbags-image (no cv_bridge here)"
    try:
        probe = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return None, "images are converted by rosbags-image: cv_bridge did not answer a trial within 30 s"
    if probe.returncode != 0:
        lines = probe.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"it ended with code {probe.returncode}"
        return None, f"images are converted by rosbags-image: this cv_bridge does not work ({reason})"
    from cv_bridge import CvBridge

    return CvBridge().imgmsg_to_cv2, "images are converted by cv_bridge"
