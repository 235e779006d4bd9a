from __future__ import annotations

import pytest

from gridkp_ros.sim import SimConfig, SimError


def test_frames_and_render_size():
    assert SimConfig(rate_hz=15, duration_s=4).n_frames == 60
    assert SimConfig().render_size == (640, 480)
    assert SimConfig(width=64, height=64, supersample=2).render_size == (171, 128)
    wide = SimConfig(width=200, height=64).render_size
    assert wide == (200, 150), "nowhere smaller than the image"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, r"SimConfig\.width=0"),
        ({"height": 48.0}, r"SimConfig\.height=48\.0: must be a whole number"),
        ({"supersample": 20}, "at most 4096"),
        ({"rate_hz": 0}, r"rate_hz=0: must be > 0"),
        ({"duration_s": 0.01}, "has no frame"),
        ({"background": "moon"}, "'moon': use one of tissue, peg_board, random"),
        ({"fov_y_deg": (60.0, 50.0)}, r"fov_y_deg=\(60\.0, 50\.0\)"),
        ({"tremor_m": (0.0, 0.1)}, "tremor_m"),
        ({"activity": 1.5}, "activity=1.5: a fraction"),
        ({"camera_tilt_deg": 80.0}, "camera_tilt_deg=80.0"),
        ({"working_distance_m": (0.1, 0.2)}, r"sees 0\.177 m.*made for 0\.085 m"),
        ({"noise": -1.0}, "noise=-1.0"),
    ],
)
def test_bad_values_are_named(fields, message):
    with pytest.raises(SimError, match=message):
        SimConfig(**fields)
