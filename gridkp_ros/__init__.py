"""Forecasts of surgical instruments in endoscope video: grid keypoints and predicted frames, online in ROS 2."""

__version__ = "0.1.0"
