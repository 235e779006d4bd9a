"""Losses against their published form, and that they do not change meaning with batch or clip length."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from gridkp_ros.nets import keypoints as kp  # noqa: E402
from gridkp_ros.nets.fast import UnrolledDynamics  # noqa: E402
from gridkp_ros.nets.gridkp import Dynamics, GridKeypointConfig, Vision  # noqa: E402
from gridkp_ros.training import losses  # noqa: E402
from gridkp_ros.training.config import Stage1Config, Stage2Config  # noqa: E402
from gridkp_ros.training.stages import DetectionStage, DynamicsStage, observe  # noqa: E402


def test_reconstruction_is_half_the_squared_error_of_a_frame() -> None:
    a, b = torch.rand(6, 3, 8, 8), torch.rand(6, 3, 8, 8)
    published = 0.5 * (a - b).square().sum() / 6  # 0.5 ||.||^2 / (T * B), T * B = 6
    assert losses.reconstruction(a, b).item() == pytest.approx(published.item(), rel=1e-5)
    assert losses.reconstruction(torch.cat((a, a)), torch.cat((b, b))).item() == pytest.approx(
        published.item(), rel=1e-5
    )


def test_condensation_default_weight_is_the_published_one() -> None:
    t, b = 20, 32
    heatmaps = torch.rand(t * b, 12, 16, 16)
    contrast = heatmaps.amax(dim=(2, 3)) - heatmaps.mean(dim=(2, 3))
    published = -0.01 * contrast.amin(dim=1).sum()
    assert 6.4 * losses.condensation(heatmaps).item() == pytest.approx(published.item(), rel=1e-4)


def test_condensation_over_all_channels_is_equation_3() -> None:
    heatmaps = torch.rand(4, 3, 8, 8)
    contrast = heatmaps.amax(dim=(2, 3)) - heatmaps.mean(dim=(2, 3))
    assert losses.condensation(heatmaps, "all").item() == pytest.approx(-contrast.sum().item() / 4, rel=1e-5)
    with pytest.raises(ValueError, match="some"):
        losses.condensation(heatmaps, "some")


def test_kl_matches_torch_in_both_directions() -> None:
    q = (torch.randn(3, 1, 4, 4), torch.rand(3, 1, 4, 4) + 0.1)
    p = (torch.randn(3, 1, 4, 4), torch.rand(3, 1, 4, 4) + 0.1)
    normal = torch.distributions.Normal
    for first, second in ((q, p), (p, q)):
        expected = torch.distributions.kl_divergence(normal(*first), normal(*second)).sum() / 3
        assert losses.gaussian_kl(first, second).item() == pytest.approx(expected.item(), rel=1e-4)


def test_anchor_ignores_unknown_points_and_falls_when_the_heatmap_is_right() -> None:
    points, known = torch.tensor([[[20.0, 40.0]]]), torch.ones(1, 1, dtype=torch.bool)
    right = kp.gaussian_maps(kp.from_pixels(points, 64, 64), 16, 16, 1.5).clamp(min=1e-6).log()
    wrong = right.roll(5, dims=-1)
    size = (64, 64)
    assert losses.anchor(right, points, known, known, size) < losses.anchor(wrong, points, known, known, size)
    assert losses.anchor(wrong, points, ~known, known, size) == 0


def test_anchor_distance_is_in_cells_and_counts_hidden_points_a_quarter() -> None:
    points = torch.tensor([[[3.0, 4.0], [10.0, 12.0]], [[40.0, 5.0], [31.0, 31.0]]])  # [N, M, 2]; one is outside
    off = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[-9.0 - 3.0, 4.0], [8.0, 8.0]]])  # 5 cells from the border, too
    xy = kp.from_pixels(torch.cat((points + off, points), dim=1), 32, 32)  # the last two of four do not count
    known = torch.tensor([[True, True], [True, False]])
    visible = torch.tensor([[True, True], [False, True]])
    loss = losses.anchor_distance(xy, points, known, visible, (32, 32))
    assert loss.item() == pytest.approx((5 + 0.1 + 5 / 4) / 2.25, abs=0.01)  # 0.1: the root is smoothed at zero
    assert losses.anchor_distance(xy, points, ~known & known, visible, (32, 32)).item() == 0.0


def test_mode_distance_is_that_of_the_best_cell_and_pulls_it_towards_the_truth() -> None:
    logits = torch.full((1, 2, 16 * 16), -20.0)
    logits[0, 0, 5 * 16 + 4] = logits[0, 1, 8 * 16 + 8] = 0.0  # modes at (4, 5) and (8, 8)
    logits[0, 0, 12 * 16 + 12] = -1.0  # a second peak far away does not count
    truth = torch.tensor([[5 * 16 + 7, 8 * 16 + 8]])  # (7, 5): three cells to the right; and exact
    logits.requires_grad_(True)
    loss = losses.mode_distance(logits, truth, width=16)
    assert loss.item() == pytest.approx(1.5, abs=0.01)
    loss.backward()
    assert logits.grad[0, 0, 5 * 16 + 5] < 0 < logits.grad[0, 0, 5 * 16 + 3]


def test_separation_is_one_for_keypoints_that_move_alike_and_less_for_others() -> None:
    path = torch.rand(2, 6, 1, 2)
    offsets = torch.rand(2, 1, 3, 2)
    assert losses.separation(path + offsets).item() == pytest.approx(1.0, abs=1e-3)
    assert losses.separation(torch.rand(2, 6, 3, 2)).item() < 0.1


SMALL = GridKeypointConfig(channels=1, num_keypoints=3, height=32, width=32, base=8, hidden=16)


def test_stage_2_equals_the_plain_recursion_of_the_paper() -> None:
    """One decoder call over all times and shared gates must give what a loop over equations 6 to 9 gives."""
    torch.manual_seed(0)
    stage = DynamicsStage(Dynamics(SMALL), Stage2Config(best_of=1), seed=1)
    d = stage.dynamics
    classes = torch.randint(0, 32 * 32, (2, 5, 3))
    values = stage.losses(classes, torch.Generator().manual_seed(7))

    draw = torch.Generator().manual_seed(7)
    h, c = d.initial_state(2, torch.zeros(1))
    cross_entropy, kl = [], []
    for t in range(5):
        maps = kp.binary_maps(classes[:, t], 32, 32)
        p, q = d.prior(h), d.posterior(h, d.posterior_maps(maps))
        z = q[0] + q[1] * torch.randn(1, *q[0].shape, generator=draw)[0]
        logp = d.logits(h, z).log_softmax(dim=-1)
        cross_entropy.append(-logp.gather(-1, classes[:, t].unsqueeze(-1)).mean())
        if t >= 1:
            kl.append(losses.gaussian_kl(q, p))
        h, c = d.step(h, c, d.encode_maps(maps), z)
    assert values["cross_entropy"].item() == pytest.approx(torch.stack(cross_entropy).mean().item(), rel=1e-4)
    assert values["kl"].item() == pytest.approx(torch.stack(kl).mean().item(), rel=1e-4)


def test_a_clip_is_warmed_up_by_its_last_frames_before_it_begins() -> None:
    torch.manual_seed(0)
    stage = DynamicsStage(Dynamics(SMALL), Stage2Config(best_of=1, warmup_frames=4), seed=1)
    classes = torch.randint(0, 32 * 32, (6, 9, 3))
    state = stage.warm_up(classes[:, :4], torch.Generator().manual_seed(5))
    seen = 4 - torch.randint(0, 5, (6,), generator=torch.Generator().manual_seed(5))
    assert len(seen.unique()) > 2
    with torch.no_grad():
        for clip, frames in enumerate(seen.tolist()):
            expected = stage.dynamics.initial_state(1, torch.zeros(1))
            for pixels in kp.classes_to_pixels(classes[clip, 4 - frames : 4], 32):
                expected = observe(stage.dynamics, expected, pixels.unsqueeze(0))
            for got, wanted in zip(state, expected, strict=True):
                torch.testing.assert_close(got[clip], wanted[0], atol=1e-5, rtol=1e-4)
    assert set(stage.horizon_errors(classes)) == {"cells_2", "cells_2_stays_put"}  # three frames are foretold


def test_the_codes_direction_of_the_kl_is_the_other_one() -> None:
    classes = torch.randint(0, 32 * 32, (2, 5, 3))
    kl = {}
    for direction in ("posterior_prior", "prior_posterior"):
        torch.manual_seed(0)
        stage = DynamicsStage(Dynamics(SMALL), Stage2Config(best_of=1, kl_direction=direction), seed=1)
        kl[direction] = stage.losses(classes, torch.Generator().manual_seed(7))["kl"].item()
    assert min(kl.values()) > 0
    assert kl["posterior_prior"] != pytest.approx(kl["prior_posterior"], rel=1e-3)


@pytest.mark.parametrize("reference", ["random", "first"])
def test_frames_of_a_clip_are_drawn_without_repeating_one(reference: str) -> None:
    stage = DetectionStage(Vision(SMALL), Stage1Config(frames_per_clip=7, reference=reference), seed=1)
    frames = torch.arange(8.0).view(1, 8, 1, 1, 1).expand(20, -1, -1, -1, -1)
    chosen, order = stage.choose(frames, torch.Generator().manual_seed(0))
    assert torch.equal(chosen.flatten(1).long(), order)
    assert torch.equal(order.sort(dim=1).values, torch.arange(8).expand(20, -1))
    assert (order[:, 0] == 0).all() == (reference == "first")


def test_a_decoder_that_spoils_the_motion_priors_forecasts_is_scaled_down() -> None:
    torch.manual_seed(0)
    dynamics = Dynamics(replace(SMALL, motion_width=8))
    torch.nn.init.normal_(dynamics.to_logits.weight, std=30.0)
    noisy = dynamics.to_logits.weight.detach().clone()
    rest = torch.tensor([300, 500, 700]).expand(1, 12, 3)  # untrained, the prior says that all stay put: right here
    slow = rest + torch.arange(12).view(1, 12, 1) // 4
    stage = DynamicsStage(dynamics, Stage2Config(prior_tolerance=1e6), seed=1)
    assert stage.shrink_decoder([slow]) == 1.0
    stage = DynamicsStage(dynamics, Stage2Config(prior_tolerance=0.0), seed=1)
    assert stage.horizon_errors(rest)["cells_5"] > 0
    gain = stage.shrink_decoder([rest])
    assert gain < 1.0 and stage.horizon_errors(rest)["cells_5"] == 0
    torch.testing.assert_close(dynamics.to_logits.weight, gain * noisy)


def test_gathered_covariance_is_let_grow_until_the_last_ellipses_hold_their_aim() -> None:
    prior = replace(SMALL, motion_width=8)
    torch.manual_seed(3)
    dynamics = Dynamics(prior)
    steps = torch.randint(-1, 2, (24, 14, SMALL.num_keypoints, 2)).float()
    steps[:, 6:] = steps[:, 6:7]  # what begins to move goes on: a sum of variances falls short of that
    pixels = (torch.tensor([SMALL.width / 2, SMALL.height / 2]) + steps.cumsum(dim=1)).round()
    clips = [kp.to_classes(pixels, SMALL.height, SMALL.width)]
    growth = [DynamicsStage(dynamics, Stage2Config(ellipse_aim=aim), 1).fit_drift(clips, 8) for aim in (0.5, 0.98)]
    shrunk = DynamicsStage(dynamics, Stage2Config(ellipse_aim=0.98, spread_share=0.5), 1).fit_drift(clips, 8)
    assert 0 <= growth[0] < growth[1] <= 0.4
    assert shrunk > growth[1]


def test_best_of_many_keeps_the_latent_with_the_lowest_cross_entropy() -> None:
    stage = DynamicsStage(Dynamics(SMALL), Stage2Config(best_of=6), seed=1)
    d = stage.dynamics
    h, classes = torch.randn(2, 16, 8, 8), torch.randint(0, 1024, (2, 3))
    mean, std = d.posterior(h, d.posterior_maps(kp.binary_maps(classes, 32, 32)))
    unrolled = UnrolledDynamics(d)
    _, _, decoder, _ = unrolled.read_state(h)
    z = stage.best_latent(unrolled, decoder, mean, std, classes, torch.Generator().manual_seed(3))
    eps = torch.randn(6, *mean.shape, generator=torch.Generator().manual_seed(3))
    costs = torch.stack(
        [
            torch.stack(
                [
                    -d.logits(h[b : b + 1], mean[b : b + 1] + std[b : b + 1] * e[b : b + 1])
                    .log_softmax(-1)
                    .gather(-1, classes[b : b + 1].unsqueeze(-1))
                    .sum()
                    for b in range(2)
                ]
            )
            for e in eps
        ]
    )
    best = costs.argmin(dim=0)
    for b in range(2):
        assert torch.allclose(z[b], (mean + std * eps[best[b]])[b], atol=1e-5)


def test_the_mean_over_known_points_of_several_processes_is_that_over_all_of_them() -> None:
    stage = DetectionStage(Vision(SMALL), Stage1Config(), seed=1)
    loss = torch.rand(8, 3)
    known, visible = torch.rand(8, 3) < 0.6, torch.rand(8, 3) < 0.5
    known[4:6] = False  # one process knows little
    whole = losses._mean_of_known(loss, known, visible)
    parts = [slice(0, 4), slice(4, 8)]
    total = losses.weight_of_known(known, visible).sum()
    stage._trainer = SimpleNamespace(
        world_size=2, strategy=SimpleNamespace(reduce=lambda tensor, reduce_op: total), _results=None
    )
    shares = [
        stage.share_of_known(known[p], visible[p]) * losses._mean_of_known(loss[p], known[p], visible[p]) for p in parts
    ]
    assert (sum(shares) / 2).item() == pytest.approx(whole.item(), rel=1e-6)
    plain = sum(losses._mean_of_known(loss[p], known[p], visible[p]) for p in parts) / 2
    assert plain.item() != pytest.approx(whole.item(), rel=1e-3)
