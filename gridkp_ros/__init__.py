"""Forecasts of surgical instruments in endoscope video: grid keypoints and predicted frames, online in ROS 2."""

from pkgutil import extend_path

# A built workspace holds the generated messages in a gridkp_ros of its own; both folders are one package.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
