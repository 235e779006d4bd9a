from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gridkp_ros.evaluation import stereo
from gridkp_ros.evaluation.metrics import EvaluationError
from gridkp_ros.sim import POINT_NAMES, SimConfig, generate_episode, gl_available

MODEL = Path(__file__).parents[2] / "models/dvrk_sim"


def rendered(config: SimConfig, seed: int, progress: object = None):
    return generate_episode(config, seed, progress)


@pytest.mark.skipif(gl_available() is not None, reason="no GL library")
def test_the_shipped_models_points_are_found_in_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stereo, "load_or_render", rendered)
    result = stereo.evaluate_stereo(MODEL, [900_001], seconds=1.0)
    rows = {row["step"]: row for row in result["rows"]}
    assert set(rows) == {0, 1, 2, 5, 10}  # of 15 frames, five are for the warm-up
    assert rows[0]["points"] > 50
    for row in rows.values():
        # a cell of disparity is some 9 mm of depth; across it is 1 mm
        assert 0 < row["across_mm"] < row["depth_mm"] < 15
        assert row["error_mm"]["median"] < row["error_mm"]["p90"]
        assert row["inside_90"] > 0.6
    assert stereo.tabulate(result).row_count == 5


@pytest.mark.skipif(gl_available() is not None, reason="no GL library")
def test_the_rig_of_an_episode_finds_the_tools_where_they_are() -> None:
    episode = generate_episode(SimConfig(width=160, height=120, rate_hz=2.0, duration_s=1.0, stereo=True), 3)
    exact = np.array([1e-6, 0, 1e-6])
    found = stereo.rig_of(episode).triangulate(episode.points_px, episode.points_right_px, exact, exact)

    def of_both(point: str) -> np.ndarray:
        return found.points[:, [POINT_NAMES.index(f"psm{arm}_{point}") for arm in (1, 2)]]

    wrists, tips = of_both("wrist"), [of_both("tip_left"), of_both("tip_right")]
    poses = episode.tool_poses[:, :, :3]  # between the two tips, as the robot states it
    np.testing.assert_allclose(np.mean(tips, axis=0), poses, atol=3e-3)
    assert (np.linalg.norm(wrists - poses, axis=-1) < 0.02).all()


def test_a_model_that_names_other_points_is_refused(tiny_bundle_path: Path) -> None:
    with pytest.raises(EvaluationError, match="does not name the simulator's points"):
        stereo.evaluate_stereo(tiny_bundle_path, [1])
