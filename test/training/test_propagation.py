"""Stage 2 of the propagation ablation."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from gridkp_ros.nets.gridkp import GridKeypointConfig  # noqa: E402
from gridkp_ros.nets.propagation import PROPAGATIONS  # noqa: E402
from gridkp_ros.training.config import Stage2Config, TrainConfig  # noqa: E402
from gridkp_ros.training.propagation import PropagationStage, stage2_of  # noqa: E402
from gridkp_ros.training.stages import DynamicsStage  # noqa: E402

SMALL = GridKeypointConfig(channels=1, num_keypoints=2, height=32, width=32, base=4, hidden=8)


def stage(propagation: str, **options) -> PropagationStage:
    torch.manual_seed(0)
    return stage2_of(PROPAGATIONS[propagation](SMALL), Stage2Config(**options), seed=1)


def walk() -> torch.Tensor:
    """Two keypoints that go on by a cell a frame: cells [4,8,2]."""
    t = torch.arange(8)
    x = torch.stack([torch.stack((4 + t + i, 20 - t + i), dim=-1) for i in range(4)])  # [4, 8, 2]
    return 10 * 32 + x


def test_each_propagation_has_its_stage() -> None:
    assert isinstance(stage("binary"), DynamicsStage)
    assert all(isinstance(stage(p), PropagationStage) for p in ("gaussian", "vector"))


@pytest.mark.parametrize("propagation", ["gaussian", "vector"])
def test_it_learns_to_foretell_a_walk(propagation: str) -> None:
    s, cells = stage(propagation, best_of=3), walk()
    optimiser = torch.optim.Adam(s.parameters(), lr=1e-2)
    before = s.check({"classes": cells}, torch.Generator().manual_seed(0))
    for step in range(60):
        loss = s.learn({"classes": cells}, torch.Generator().manual_seed(step))["loss"]
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in s.parameters())
        optimiser.step()
    after = s.check({"classes": cells}, torch.Generator().manual_seed(0))
    assert after["squared_error"] < 0.5 * before["squared_error"]
    assert after["cells_2"] < 0.5 * before["cells_2"]
    assert after["cells_2_stays_put"] == before["cells_2_stays_put"] == 2


@pytest.mark.parametrize("propagation", ["gaussian", "vector"])
def test_of_many_latents_the_one_that_explains_best_is_kept(propagation: str) -> None:
    s = stage(propagation, best_of=16)
    d, pixels = s.dynamics, s.pixels(walk()[:, 0])
    h, _ = d.initial_state(4, pixels)
    h = torch.randn(h.shape, generator=torch.Generator().manual_seed(3))
    true = d.represent(pixels)
    mean, std = d.prior(h)
    z = s.best_latent(h, mean, std, true, torch.Generator().manual_seed(1))
    eps = torch.randn(16, *mean.shape, generator=torch.Generator().manual_seed(1))
    costs = torch.stack([d.error(d.predict(h, mean + std * e), true).sum(dim=-1) for e in eps])  # [16, 4]
    assert torch.allclose(d.error(d.predict(h, z), true).sum(dim=-1), costs.amin(dim=0), rtol=1e-5)
    assert (costs.amax(dim=0) > costs.amin(dim=0)).all()


def test_options_of_binary_maps_are_refused_with_the_others() -> None:
    source = [{"kind": "footage", "path": "nowhere"}]
    content = {"name": "x", "model": {"propagation": "vector"}, "data": {"train": source, "validation": source}}
    TrainConfig.model_validate(content)
    for options in ({"warmup_frames": 3}, {"free_running_weight": 1.0}):
        with pytest.raises(ValueError, match="of binary maps alone"):
            TrainConfig.model_validate({**content, "stage2": options})
