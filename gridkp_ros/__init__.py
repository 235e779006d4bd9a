"""Forecasts of surgical instruments in endoscope video: grid keypoints and predicted frames, online in ROS 2."""

import os
from pkgutil import extend_path

# ONNX Runtime's Linux wheels of 1.31 report their use to their maker, over the network and from a store under ~/.cache,
# unless this stands in the environment before the library is loaded. Who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A built workspace holds the generated messages in a gridkp_ros of its own; both folders are one package.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
