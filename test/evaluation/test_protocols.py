"""The published protocols, written out again in plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from gridkp_ros.evaluation import metrics, protocols
from gridkp_ros.evaluation.metrics import EvaluationError

OBSERVED = 3


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"ssim": rng.random((6, 10)), "psnr": 20 + 5 * rng.random((6, 10)), "lpips": rng.random((6, 10))}


def order(table: np.ndarray, first: int) -> list[int]:
    """Samples from the highest to the lowest mean from a frame on."""
    means = [sum(row[first:]) / len(row[first:]) for row in table.tolist()]
    return sorted(range(len(means)), key=lambda i: -means[i])


def test_svg_orders_all_metrics_by_ssim_of_the_future(values: dict) -> None:
    by_ssim = order(values["ssim"], OBSERVED)
    for metric, chosen in protocols.select_samples(values, "svg", OBSERVED).items():
        assert (chosen.best, chosen.worst) == (by_ssim[0], by_ssim[-1])
        np.testing.assert_array_equal(chosen.best_curve, values[metric][by_ssim[0], OBSERVED:])
        np.testing.assert_allclose(chosen.mean_curve, sum(values[metric][:, OBSERVED:]) / 6)


@pytest.mark.parametrize(("rule", "first"), [("savp", OBSERVED), ("gridkp", OBSERVED), ("gridkp_code", 0)])
def test_other_rules_choose_for_each_metric(values: dict, rule: str, first: int) -> None:
    chosen = protocols.select_samples(values, rule, OBSERVED)
    for metric in ("ssim", "psnr"):
        by = order(values[metric], first)
        assert (chosen[metric].best, chosen[metric].worst) == (by[0], by[-1])
    by = order(values["lpips"], first)  # lower is better
    assert (chosen["lpips"].best, chosen["lpips"].worst) == (by[-1], by[0])
    assert all(len(c.worst_curve) == 10 - OBSERVED for c in chosen.values())


def test_rules_that_cannot_be_followed_are_refused(values: dict) -> None:
    with pytest.raises(EvaluationError, match=r"'best': use one of svg"):
        protocols.select_samples(values, "best", OBSERVED)
    with pytest.raises(EvaluationError, match="orders samples by ssim"):
        protocols.select_samples({"psnr": values["psnr"]}, "svg", OBSERVED)
    with pytest.raises(EvaluationError, match=r"one \[S,T\]"):
        protocols.select_samples(values, "svg", 10)
    values["psnr"][2, 0] = np.nan  # not known of an observed frame: only the code's rule asks for it
    assert protocols.select_samples(values, "savp", OBSERVED)
    with pytest.raises(EvaluationError, match="psnr is not finite"):
        protocols.select_samples(values, "gridkp_code", OBSERVED)


def test_frame_metrics_are_those_of_each_frame() -> None:
    rng = np.random.default_rng(1)
    true = rng.integers(0, 256, (3, 16, 20, 3), dtype=np.uint8)
    predicted = rng.integers(0, 256, (2, 3, 16, 20, 3), dtype=np.uint8)
    found = protocols.frame_metrics(predicted, true, ("psnr", "psnr_joint", "ssim_gaussian"))
    assert found["psnr"].shape == (2, 3)
    assert found["ssim_gaussian"][1, 2] == metrics.ssim_gaussian(predicted[1, 2], true[2])
    with pytest.raises(EvaluationError, match="lpips"):
        protocols.frame_metrics(predicted, true, ("lpips",))
    with pytest.raises(EvaluationError, match=r"\[S,T,H,W,C\]"):
        protocols.frame_metrics(predicted[0], true)


def test_interval_over_clips() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    interval = protocols.mean_interval(values)
    deviation = np.sqrt(sum((v - 4.0) ** 2 for v in values) / 3)
    assert (interval.mean, interval.count) == (4.0, 4)
    assert interval.high - 4.0 == pytest.approx(1.96 * deviation / 2)
    assert protocols.mean_interval(values[:1]).low is None
    with pytest.raises(EvaluationError, match="finite"):
        protocols.mean_interval(np.array([1.0, np.nan]))


@pytest.mark.parametrize(
    ("reconstructed", "predicted", "higher", "printed"),
    [(0.862, 0.837, True, 2.9), (29.68, 27.11, True, 8.7), (0.076, 0.092, False, 21.0)],
)
def test_degeneration_rates_of_the_paper(reconstructed: float, predicted: float, higher: bool, printed: float) -> None:
    """Table IV's own averages give its own percentages (0.016 / 0.076 is 21.05)."""
    rate = protocols.degeneration_rate(np.array([predicted]), np.array([reconstructed]), higher)
    assert 100 * rate.mean == pytest.approx(printed, abs=0.06)


def test_degeneration_is_a_ratio_of_averages_with_the_spread_of_resampled_clips() -> None:
    rng = np.random.default_rng(2)
    reconstructed = rng.normal(30, 2, 400)
    predicted = 0.9 * reconstructed + rng.normal(0, 1, 400)
    rate = protocols.degeneration_rate(predicted, reconstructed, True)
    assert rate.mean == pytest.approx((reconstructed.sum() - predicted.sum()) / reconstructed.sum())
    rows = rng.integers(0, 400, (3000, 400))
    spread = (1 - predicted[rows].mean(1) / reconstructed[rows].mean(1)).std()
    assert rate.high - rate.mean == pytest.approx(1.96 * spread, rel=0.1)
    with pytest.raises(EvaluationError, match="average to 0"):
        protocols.degeneration_rate(predicted, np.zeros(400), True)


def test_coordinate_error_is_table_v_s() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.uniform(-1, 1, (2, 5, 12, 2))  # normalised coordinates
    wanted = [np.mean([np.hypot(*(a[n, k] - b[n, k])) * 63 / 2 for k in range(12)]) for n in range(5)]
    np.testing.assert_allclose(protocols.coordinate_error_cells(protocols.cells_of(a), protocols.cells_of(b)), wanted)
    np.testing.assert_array_equal(protocols.cells_of(np.array([-1.0, 0.0, 1.0])), [0.0, 31.5, 63.0])
    with pytest.raises(EvaluationError, match=r"\[...,K,2\]"):
        protocols.coordinate_error_cells(a, b[:2])


def test_videos_for_fvd() -> None:
    rng = np.random.default_rng(4)
    observed, future = (rng.integers(0, 256, (2, t, 4, 4, 1), dtype=np.uint8) for t in (3, 5))
    predicted = rng.integers(0, 256, (2, 3, 5, 4, 4, 1), dtype=np.uint8)
    generated, real = protocols.fvd_videos(observed, predicted, future, "srvp")
    assert generated.shape == real.shape == (2, 8, 4, 4, 1)
    np.testing.assert_array_equal(generated[1], np.concatenate([observed[1], predicted[1, 0]]))
    np.testing.assert_array_equal(real[1], np.concatenate([observed[1], future[1]]))
    generated, real = protocols.fvd_videos(observed, predicted, future, "all_samples")
    assert (generated.shape, real.shape) == ((6, 8, 4, 4, 1), (2, 8, 4, 4, 1))
    assert protocols.fvd_videos(observed, predicted, future, "predicted")[0].shape == (2, 5, 4, 4, 1)
    with pytest.raises(EvaluationError, match="'all'"):
        protocols.fvd_videos(observed, predicted, future, "all")
    with pytest.raises(EvaluationError, match="do not fit"):
        protocols.fvd_videos(observed[:1], predicted, future, "srvp")
