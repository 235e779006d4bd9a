"""Arithmetic of the exported graphs against its definition written out."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from gridkp_ros.export.graphs import ForecastStep  # noqa: E402
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
    assert torch.allclose(step.spread(p, pose), moments, rtol=1e-4, atol=1e-3)
    near = (p * (dx * dx + dy * dy <= CONFIDENT_RADIUS**2)).sum(dim=-1)
    assert torch.allclose(step.confidence(p, column, row), near, atol=1e-6)
