"""Arithmetic of the exported graphs against its definition written out."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from gridkp_ros.export.graphs import ForecastStep, state_shapes  # noqa: E402
from gridkp_ros.nets import keypoints as kp  # noqa: E402
from gridkp_ros.nets.gridkp import CONFIDENT_RADIUS, Dynamics, GridKeypointConfig  # noqa: E402

SMALL = GridKeypointConfig(num_keypoints=4, height=32, width=48, base=8, hidden=16)


def test_spread_and_confidence_are_moments_and_nearby_probability() -> None:
    step = ForecastStep(Dynamics(SMALL))
    p = torch.rand(2, 4, 32 * 48) ** 8
    p[0, 0] = 0.0
    p[0, 0, 5] = 1.0  # all in one cell, next to the border
    p = p / p.sum(dim=-1, keepdim=True)
    column, row = torch.randint(0, 48, (2, 4)), torch.randint(0, 32, (2, 4))
    column[0, 0], row[0, 0] = 6, 0
    column[1, 1], row[1, 1] = 47, 31  # a corner: cells beyond it do not count
    pose = torch.stack((column, row), dim=-1).float()
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(48.0), indexing="ij")
    dx, dy = x.flatten() - pose[..., 0:1], y.flatten() - pose[..., 1:2]
    moments = torch.stack([(p * a * b).sum(dim=-1) for a, b in ((dx, dx), (dx, dy), (dy, dy))], dim=-1)
    assert torch.allclose(kp.second_moments(p, pose, 32, 48), moments, rtol=1e-4, atol=1e-3)
    near = (p * (dx * dx + dy * dy <= CONFIDENT_RADIUS**2)).sum(dim=-1)
    assert torch.allclose(step.confidence(p, column, row), near, atol=1e-6)


def test_gathered_covariance_grows_by_the_fitted_share_before_a_step_adds_its_own() -> None:
    dynamics = Dynamics(SMALL)
    state = [torch.zeros(1, *shape) for shape in state_shapes(dynamics).values()]
    noise = torch.zeros(1, 1, 8, 12)
    index = [*state_shapes(dynamics)].index("drift")
    own = ForecastStep(dynamics)(*state, noise)[index]
    state[index] = torch.tensor([8.0, -1.0, 2.0]).expand(1, 4, 3)
    grown = ForecastStep(dynamics, drift_growth=0.25)(*state, noise)[index]
    assert torch.allclose(grown, own + 1.25 * state[index], atol=1e-4)
