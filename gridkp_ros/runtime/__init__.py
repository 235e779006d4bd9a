"""Running a bundle on a stream of frames: NumPy, OpenCV and ONNX Runtime; never PyTorch, never ROS."""

from gridkp_ros.runtime.bundle import (
    GRAPHS,
    SCHEMA_VERSION,
    Bundle,
    BundleError,
    Condition,
    Manifest,
    Probe,
    TensorSpec,
    sha256_of,
)
from gridkp_ros.runtime.clock import FrameClock, Tick
from gridkp_ros.runtime.forecast import Forecast, Observation
from gridkp_ros.runtime.predictor import Predictor, PredictorError

__all__ = [
    "GRAPHS",
    "SCHEMA_VERSION",
    "Bundle",
    "BundleError",
    "Condition",
    "Forecast",
    "FrameClock",
    "Manifest",
    "Observation",
    "Predictor",
    "PredictorError",
    "Probe",
    "TensorSpec",
    "Tick",
    "sha256_of",
]
