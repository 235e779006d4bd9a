from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from gridkp_ros.geometry import InputSpec, Placement
from gridkp_ros.runtime import scene
from gridkp_ros.runtime.scene import cut_score, is_cut, structure

RNG = np.random.default_rng(3)
SUTUREBOT = Path(__file__).parents[2] / ".." / "shared" / "data" / "suturebot"


def scenery(seed: int) -> np.ndarray:
    """A made-up scene, uint8 [96, 96, 3]: soft blotches under a vignette, so that it can be panned."""
    rng = np.random.default_rng(seed)
    blotches = cv2.GaussianBlur(rng.normal(size=(96, 96, 3)), (0, 0), 2.0)
    rows, columns = np.mgrid[-1:1:96j, -1:1:96j]
    vignette = 1 - 0.5 * (rows**2 + columns**2)
    return np.clip((128 + 350 * blotches) * vignette[..., None], 0, 255).astype(np.uint8)


def view(seed: int, x: int = 16, y: int = 16) -> np.ndarray:
    return scenery(seed)[y : y + 64, x : x + 64]


def cut(before: np.ndarray, after: np.ndarray, steps: float = 1) -> bool:
    return is_cut(structure(before), structure(after), steps)


def test_other_scenes_are_cuts() -> None:
    assert all(cut(view(i), view(i + 1)) for i in range(20))
    assert all(cut(view(i), view(i + 1), steps=2) for i in range(20))


def test_the_same_frame_again_is_not_a_cut() -> None:
    assert cut_score(structure(view(0)), structure(view(0))) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    "change", [lambda v: v * 0.4, lambda v: v * 1.6, lambda v: v + 40.0, lambda v: 255 * (v / 255) ** 0.6]
)
def test_light_that_flickers_is_not_a_cut(change) -> None:
    for seed in range(5):
        after = np.clip(change(view(seed).astype(float)), 0, 255).astype(np.uint8)
        assert not cut(view(seed), after)
        assert not cut(after, view(seed))


@pytest.mark.parametrize("sigma", [2, 6])
def test_sensor_noise_is_not_a_cut(sigma: float) -> None:
    for seed in range(5):
        before, after = (
            np.clip(view(seed) + RNG.normal(0, sigma, (64, 64, 3)), 0, 255).astype(np.uint8) for _ in range(2)
        )
        assert not cut(before, after)


def test_instruments_that_jump_across_the_picture_are_not_a_cut() -> None:
    for seed in range(5):
        before, after = view(seed).copy(), view(seed).copy()
        cv2.line(before, (0, 10), (28, 30), (200, 200, 210), 7)
        cv2.line(after, (0, 40), (32, 20), (200, 200, 210), 7)
        cv2.line(before, (63, 60), (44, 40), (200, 200, 210), 7)
        cv2.line(after, (63, 30), (40, 50), (200, 200, 210), 7)
        assert not cut(before, after)


def test_a_camera_that_pans_is_not_a_cut() -> None:
    for shift in range(5):
        assert not cut(view(1), view(1, 16 + shift, 16 - shift))


def test_a_search_that_would_find_no_cut_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    """What blocks lose that stay where they were bounds what is left after a search: no decision changes."""
    pictures = [structure(view(seed, 16 + shift, 16 - shift)) for seed in range(4) for shift in range(-5, 6)]
    pairs = [(a, b) for a in pictures for b in pictures]
    assert all(scene._score_at_rest(a, b) >= cut_score(a, b) - 1e-5 for a, b in pairs)
    searched = [cut_score(a, b) > scene.DEFAULT_THRESHOLD for a, b in pairs]
    assert [is_cut(a, b, 1) for a, b in pairs] == searched and 0 < sum(searched) < len(pairs)
    monkeypatch.setattr(scene, "cut_score", lambda *pair: pytest.fail("searched although nothing moved"))
    assert not cut(view(0), view(0))


def test_a_picture_with_nothing_in_it_has_no_structure() -> None:
    assert structure(np.zeros((64, 64, 3), np.uint8)) is None
    assert structure(np.full((64, 64, 1), 200, np.uint8)) is None
    noise = np.clip(60 + RNG.normal(0, 4, (64, 64, 1)), 0, 255).astype(np.uint8)
    assert structure(noise) is None


def test_grey_and_other_sizes_are_judged_alike() -> None:
    before, after = (cv2.resize(view(i), (200, 120))[:, :, 1:2] for i in (4, 5))
    assert cut(before, after)
    assert not cut(before, before)


def test_pictures_far_apart_in_time_are_not_judged() -> None:
    assert not cut(view(0), view(1), steps=3)


def read_structures(name: str, count: int = 200) -> list[np.ndarray]:
    path = (SUTUREBOT / name).resolve()
    if not path.is_file():
        pytest.skip(f"no recording at {path}")
    video, structures = cv2.VideoCapture(str(path)), []
    for _ in range(count):
        frame = video.read()[1]
        placement = Placement.of(InputSpec(), frame.shape[1], frame.shape[0])
        structures.append(structure(placement.to_model_image(frame[:, :, ::-1])))
    return structures


def test_frames_two_and_a_half_steps_apart_are_not_judged() -> None:
    assert not any(cut(view(i), view(i + 1), steps=2.5) for i in range(20))
    pickup = read_structures("suturebot_needle_pickup.mp4", 300)
    apart = list(zip(pickup, pickup[5:], strict=False))  # 30 frames a second, 15 steps a second
    assert any(is_cut(a, b, 2) for a, b in apart)  # what a machine under load would have taken for a cut
    assert not any(is_cut(a, b, 2.5) for a, b in apart)
    assert not any(is_cut(a, b, 1.5) for a, b in zip(pickup, pickup[3:], strict=False))


def test_real_recordings_have_no_cut_within_and_one_where_they_are_spliced() -> None:
    pickup, throw = (read_structures(f"suturebot_needle_{name}.mp4") for name in ("pickup", "throw"))
    for steps, apart in ((1, 2), (2, 4)):  # 30 frames a second, 15 steps a second
        for frames in (pickup, throw):
            assert not any(is_cut(a, b, steps) for a, b in zip(frames, frames[apart:], strict=False))
        pairs = [(a, b) for a in pickup[::30] for b in throw[::30]]
        found = [is_cut(a, b, steps) for a, b in pairs] + [is_cut(b, a, steps) for a, b in pairs]
        assert np.mean(found) > 0.95
