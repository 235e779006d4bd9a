"""The message definitions are the public interface: every field is there, in its type, and documented."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FIELDS = {
    "msg/GridKeypoints.msg": """
        std_msgs/Header header; uint32 image_width; uint32 image_height; uint32 epoch; float32[] points;
        uint16[] cells; float32[] confidence; string[] point_names; float32[] named_points; string model_id""",
    "msg/KeypointForecast.msg": """
        std_msgs/Header header; uint32 epoch; builtin_interfaces/Duration period;
        builtin_interfaces/Duration[] time_from_start; uint16 trusted_steps; uint16 num_samples; uint16 num_keypoints;
        uint32 image_width; uint32 image_height; float32[] points; float32[] sample_weights; float32[] mean;
        float32[] covariance; float32[] confidence; string[] point_names; float32[] named_mean;
        float32[] named_covariance; builtin_interfaces/Duration latency; float32 trust;
        float32 recent_error; float32 novelty; uint32 frames_since_start;
        uint32 frames_dropped; string model_id""",
    "msg/PredictedFrames.msg": """
        std_msgs/Header header; builtin_interfaces/Duration[] time_from_start; uint16 sample;
        sensor_msgs/Image[] frames""",
    "msg/StreamStatistics.msg": """
        std_msgs/Header header; float32 latency_ms; float32 processing_ms; float32 forecast_ms; uint16 num_samples;
        uint32 received; uint32 absorbed; uint32 skipped; uint32 coasted; uint32 dropped; uint32 malformed;
        uint32 failures; uint32 forecasts""",
    "srv/GetForecast.srv": """
        uint16 horizon_steps; uint16 num_samples; float32 temperature; uint32 seed; uint16[] moved_keypoints;
        float32[] moved_points; bool success; string message; KeypointForecast forecast""",
}


def read_fields(path: Path) -> list[tuple[str, str]]:
    """Return (type and name, comment) of every field."""
    found = []
    for line in path.read_text().splitlines():
        declaration, _, comment = line.partition("#")
        if declaration.strip() and declaration.strip() != "---":
            found.append((" ".join(declaration.split()), comment.strip()))
    return found


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name: str) -> None:
    assert [field for field, _ in read_fields(ROOT / name)] == [f.strip() for f in FIELDS[name].split(";")]


@pytest.mark.parametrize("path", [*ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv")], ids=lambda p: p.name)
def test_every_field_is_documented_and_every_array_says_its_shape(path: Path) -> None:
    for line in path.read_text().splitlines():
        declaration, _, comment = line.partition("#")
        if declaration.strip() and declaration.strip() != "---":
            self_explaining = path.name == "ModelInfo.msg" or "image_height" in declaration
            assert comment.strip() or self_explaining, f"{path.name}: {declaration.strip()}"
            if "float32[]" in declaration or "uint16[]" in declaration:
                assert "[" in comment, f"{path.name}: {declaration.strip()} states no shape"
