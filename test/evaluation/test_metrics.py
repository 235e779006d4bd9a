"""Metrics against values worked out by hand, and against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from gridkp_ros.evaluation import metrics
from gridkp_ros.evaluation.metrics import EvaluationError


def test_keypoint_errors_in_px_and_cells() -> None:
    predicted = np.array([[[3.0, 4.0], [10.0, 0.0]]])
    true = np.zeros((1, 2, 2))
    assert metrics.keypoint_error_px(predicted, true) == pytest.approx(np.array([[5.0, 10.0]]))
    # A cell of 15 x 8.4375 px: a 960x540 image on a 64x64 grid.
    cells = metrics.keypoint_error_cells(predicted, true, (15.0, 8.4375))
    assert cells == pytest.approx(np.array([[np.hypot(3 / 15, 4 / 8.4375), 10 / 15]]))


@pytest.mark.parametrize("covariance", [(4.0, 0.0, 4.0), (9.0, 4.0, 3.0), (1.0, -0.9, 2.0)])
def test_ninety_percent_of_a_gaussian_lies_in_its_ellipse(covariance: tuple[float, float, float]) -> None:
    xx, xy, yy = covariance
    points = np.random.default_rng(1).multivariate_normal([5.0, -3.0], [[xx, xy], [xy, yy]], size=20_000)
    inside = metrics.inside_ellipse(points, np.array([5.0, -3.0]), np.array(covariance))
    assert inside.mean() == pytest.approx(0.9, abs=0.01)


def test_ellipse_of_unknown_points_is_unknown_and_of_no_gaussian_refused() -> None:
    unknown = metrics.inside_ellipse(np.array([np.nan, 0.0]), np.zeros(2), np.array([1.0, 0.0, 1.0]))
    assert np.isnan(unknown)
    with pytest.raises(EvaluationError, match="not positive definite"):
        metrics.inside_ellipse(np.zeros(2), np.zeros(2), np.array([1.0, 1.0, 1.0]))


def test_psnr_is_skimage_s_for_each_channel_averaged() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    predicted = np.clip(true + rng.normal(0, [2, 10, 30], true.shape), 0, 255).astype(np.uint8)
    wanted = np.mean([peak_signal_noise_ratio(true[..., c], predicted[..., c], data_range=255) for c in range(3)])
    assert metrics.psnr_db(predicted, true) == pytest.approx(wanted)


def test_equal_images_have_the_finite_psnr_of_rounding_and_ssim_one() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 1), dtype=np.uint8)
    assert metrics.psnr_db(image, image) == pytest.approx(58.92, abs=0.01)
    assert metrics.ssim(image, image) == pytest.approx(1.0)


def test_ssim_follows_its_definition() -> None:
    """The formula over all 7x7 windows with sample covariance, written out."""
    rng = np.random.default_rng(2)
    a = rng.integers(0, 256, (12, 14, 1), dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 25, a.shape), 0, 255).astype(np.uint8)
    x, y = (np.lib.stride_tricks.sliding_window_view(i[..., 0] / 255.0, (7, 7)).reshape(-1, 49) for i in (a, b))
    covariance = ((x - x.mean(1, keepdims=True)) * (y - y.mean(1, keepdims=True))).sum(1) / 48
    c1, c2 = 0.01**2, 0.03**2
    wanted = ((2 * x.mean(1) * y.mean(1) + c1) * (2 * covariance + c2)) / (
        (x.mean(1) ** 2 + y.mean(1) ** 2 + c1) * (x.var(1, ddof=1) + y.var(1, ddof=1) + c2)
    )
    assert metrics.ssim(b, a) == pytest.approx(wanted.mean(), abs=1e-9)


def test_images_that_do_not_fit_are_refused() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(EvaluationError, match=r"uint8 \(8, 8, 3\) and uint8 \(8, 9, 3\)"):
        metrics.psnr_db(image, np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(EvaluationError, match="float64"):
        metrics.ssim(image / 255.0, image)


def test_bootstrap_over_blocks_is_wider_than_over_frames_of_a_correlated_series() -> None:
    rng = np.random.default_rng(3)
    levels = rng.normal(0, 1, 40)
    values = np.repeat(levels, 30) + rng.normal(0, 0.1, 1200)
    by_block = metrics.block_bootstrap(values, np.repeat(np.arange(40), 30))
    by_frame = metrics.block_bootstrap(values, np.arange(1200))
    assert by_block.mean == pytest.approx(values.mean())
    assert (by_block.high - by_block.low) > 3 * (by_frame.high - by_frame.low)
    # The standard error of 40 independent levels, times 2 x 1.96.
    assert by_block.high - by_block.low == pytest.approx(2 * 1.96 * levels.std() / np.sqrt(40), rel=0.15)


def test_bootstrap_intervals_cover_the_true_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        values = np.repeat(rng.normal(2.0, 1.0, 30), 5)
        interval = metrics.block_bootstrap(values, np.repeat(np.arange(30), 5), resamples=400)
        covered += interval.low <= 2.0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.98


def test_bootstrap_repeats_leaves_out_nan_and_has_no_interval_in_one_block() -> None:
    values = np.array([1.0, np.nan, 3.0, 5.0])
    blocks = np.array([0, 0, 1, 1])
    assert metrics.block_bootstrap(values, blocks) == metrics.block_bootstrap(values, blocks)
    assert metrics.block_bootstrap(values, blocks).count == 3
    single = metrics.block_bootstrap(values, np.zeros(4, int))
    assert (single.mean, single.low, single.high) == (3.0, None, None)
    with pytest.raises(EvaluationError, match="no value"):
        metrics.block_bootstrap(np.array([np.nan]), np.array([0]))
    with pytest.raises(EvaluationError, match="one length"):
        metrics.block_bootstrap(values, blocks[:2])


def gaussian_ssim_in_loops(a: np.ndarray, b: np.ndarray) -> float:
    """tf.image.ssim's formula, window by window: 11x11 Gaussian, population covariance, no border."""
    at = np.arange(11) - 5
    window = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    x, y, c1, c2, found = a / 255.0, b / 255.0, 0.01**2, 0.03**2, []
    for channel in range(a.shape[2]):
        for top in range(a.shape[0] - 10):
            for left in range(a.shape[1] - 10):
                p, q = (i[top : top + 11, left : left + 11, channel] for i in (x, y))
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2
                vpq = (window * p * q).sum() - mp * mq
                found.append((2 * mp * mq + c1) * (2 * vpq + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(found))


def test_gaussian_ssim_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(6)
    a = rng.integers(0, 256, (19, 23, 3), dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 30, a.shape), 0, 255).astype(np.uint8)
    assert metrics.ssim_gaussian(b, a) == pytest.approx(gaussian_ssim_in_loops(a, b), abs=1e-6)
    assert abs(metrics.ssim_gaussian(b, a) - metrics.ssim(b, a)) > 1e-3  # the two definitions are not one
    assert metrics.ssim_gaussian(a, a) == pytest.approx(1.0)
    with pytest.raises(EvaluationError, match=r"10x19 pixels.*11 or more"):
        metrics.ssim_gaussian(a[:, :10], b[:, :10])


def test_joint_psnr_is_skimage_s_over_all_channels() -> None:
    rng = np.random.default_rng(7)
    true = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    predicted = np.clip(true + rng.normal(0, [2, 10, 30], true.shape), 0, 255).astype(np.uint8)
    wanted = peak_signal_noise_ratio(true, predicted, data_range=255)
    assert metrics.psnr_joint_db(predicted, true) == pytest.approx(wanted)
    assert metrics.psnr_db(predicted, true) > metrics.psnr_joint_db(predicted, true) + 1
    grey = true[..., :1], predicted[..., :1]
    assert metrics.psnr_db(*grey) == metrics.psnr_joint_db(*grey)


@pytest.mark.parametrize("weights", [np.full(5, 0.2), np.array([0.0, 0.25, 0.25, 0.25, 0.25])])
def test_energy_score_is_its_double_sum(weights: np.ndarray) -> None:
    rng = np.random.default_rng(8)
    samples, true = rng.normal(0, 3, (5, 4, 2)), rng.normal(0, 3, (4, 2))
    wanted = []
    for k in range(4):
        near = sum(w * np.hypot(*(x - true[k])) for w, x in zip(weights, samples[:, k], strict=True))
        apart = sum(
            v * w * np.hypot(*(x - y))
            for v, x in zip(weights, samples[:, k], strict=True)
            for w, y in zip(weights, samples[:, k], strict=True)
        )
        wanted.append(near - apart / 2)
    np.testing.assert_allclose(metrics.energy_score(samples, true, weights), wanted)


def test_energy_score_of_one_sample_is_the_distance_and_rewards_the_right_spread() -> None:
    assert metrics.energy_score(np.array([[3.0, 4.0]]), np.zeros(2), np.ones(1)) == 5.0
    rng = np.random.default_rng(9)
    truth = rng.normal(0, 2, (4000, 2))
    scores = [
        metrics.energy_score(rng.normal(0, s, (20, 4000, 2)), truth, np.full(20, 0.05)).mean() for s in (0.5, 2.0, 6.0)
    ]
    assert scores[1] < min(scores[0], scores[2])
    assert np.isnan(metrics.energy_score(np.zeros((1, 2)), np.array([np.nan, 0.0]), np.ones(1)))
    with pytest.raises(EvaluationError, match="sum 1"):
        metrics.energy_score(np.zeros((2, 2)), np.zeros(2), np.ones(2))


def test_half_of_a_gaussian_lies_in_its_fifty_percent_ellipse() -> None:
    points = np.random.default_rng(10).multivariate_normal([0, 0], [[9, 4], [4, 3]], size=20_000)
    inside = metrics.inside_ellipse(points, np.zeros(2), np.array([9.0, 4.0, 3.0]), metrics.CHI2_50)
    assert inside.mean() == pytest.approx(0.5, abs=0.01)
