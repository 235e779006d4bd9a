"""Clips: what is drawn, and that it depends on seed and index alone."""

from __future__ import annotations

import numpy as np
import pytest

from gridkp_ros.data.clips import Augmentation, ClipDataset, Recording, nearest_at_period, split_at_gaps


def recording(n: int, value: int = 0, truth: bool = False) -> Recording:
    frames = np.full((n, 8, 8, 3), value, np.uint8)
    frames[:, 0, 0, 0] = np.arange(n)
    if not truth:
        return Recording(f"r{value}", frames)
    points = np.repeat(np.arange(n, dtype=np.float32), 4).reshape(n, 2, 2)
    return Recording(f"r{value}", frames, points, np.ones((n, 2), bool))


def stamps(rate: float, n: int) -> list[int]:
    return [round(i * 1e9 / rate) for i in range(n)]


def test_resampling_takes_every_second_frame_of_twice_the_rate() -> None:
    assert nearest_at_period(stamps(30, 9), 1 / 15).tolist() == [0, 2, 4, 6, 8]


def test_resampling_repeats_the_frames_of_a_slower_camera() -> None:
    picked = nearest_at_period(stamps(10, 5), 1 / 20).tolist()
    assert picked == sorted(picked) and set(picked) == {0, 1, 2, 3, 4} and len(picked) == 9


def test_resampling_keeps_the_average_rate() -> None:
    assert len(nearest_at_period(stamps(25, 251), 1 / 15)) == 151


def test_stamps_that_do_not_increase_are_refused() -> None:
    with pytest.raises(ValueError, match="frame 2 does not"):
        nearest_at_period([0, 5, 5], 0.1)


def test_no_clip_spans_a_gap() -> None:
    assert split_at_gaps([0, 10, 20, 2_000_000_000, 2_000_000_010], 0.5) == [slice(0, 3), slice(3, 5)]
    assert split_at_gaps([0, 10, 20, 5, 15], 0.5) == [slice(0, 3), slice(3, 5)]


def test_an_item_depends_on_seed_and_index_alone() -> None:
    a = ClipDataset([recording(30), recording(50, 9)], 5, 100, seed=3, augmentation=Augmentation(gain=1.3, noise=3))
    b = ClipDataset([recording(30), recording(50, 9)], 5, 7, seed=3, augmentation=Augmentation(gain=1.3, noise=3))
    for index in (6, 0, 3):
        assert np.array_equal(a[index]["frames"], b[index]["frames"])
    assert not np.array_equal(a[1]["frames"], ClipDataset([recording(30), recording(50, 9)], 5, 7, seed=4)[1]["frames"])


def test_clips_are_consecutive_and_carry_their_truth() -> None:
    data = ClipDataset([recording(40, truth=True)], 6, 20, seed=1, num_points=2)
    for i in range(len(data)):
        item = data[i]
        times = item["frames"][:, 0, 0, 0]
        assert np.array_equal(np.diff(times), np.ones(5))
        assert np.array_equal(item["points"][:, 0, 0], times) and item["known"].all()


def test_a_recording_without_truth_is_marked_unknown() -> None:
    item = ClipDataset([recording(10)], 4, 1, seed=0, num_points=2)[0]
    assert not item["known"].any() and item["points"].shape == (4, 2, 2)


def test_a_mirrored_clip_has_no_named_points() -> None:
    data = ClipDataset([recording(10, truth=True)], 4, 40, seed=0, augmentation=Augmentation(flip=True), num_points=2)
    mirrored = [bool(data[i]["frames"][:, 0, 0, -1].any()) for i in range(40)]
    assert 5 < sum(mirrored) < 35
    assert [not data[i]["known"].any() for i in range(40)] == mirrored


def test_too_short_recordings_are_refused() -> None:
    with pytest.raises(ValueError, match="20 frames of one clip"):
        ClipDataset([recording(10)], 20, 1, seed=0)


def test_photometric_changes_are_the_same_for_all_frames_of_a_clip() -> None:
    still = Recording("still", np.full((10, 8, 8, 3), 100, np.uint8))
    item = ClipDataset([still], 10, 1, seed=5, augmentation=Augmentation(gain=1.5, color=1.2, offset=20))[0]
    assert (item["frames"] == item["frames"][0]).all() and item["frames"][0, 0, 0, 0] != 100


def test_another_view_moves_the_points_with_the_picture_and_hides_what_leaves_it() -> None:
    size, at = 64, np.array([40.0, 22.0])
    y, x = np.mgrid[:size, :size]
    blob = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 18)
    frames = np.repeat((255 * blob).astype(np.uint8)[None, :, :, None], 6, axis=0)
    points = np.broadcast_to(np.array([at, [1.0, 1.0]]), (6, 2, 2)).astype(np.float32)
    still = Recording("blob", frames, points, np.ones((6, 2), bool), point_names=("blob", "corner"))
    data = ClipDataset([still], 4, 30, seed=2, augmentation=Augmentation(zoom=1.4, rotation_deg=25), num_points=2)
    moved, hidden = 0, 0
    for item in (data[i] for i in range(30)):
        weight = item["frames"][0, 0].astype(float)
        assert (item["frames"] == item["frames"][:1]).all()  # one view for the whole clip
        inside = item["visible"][0, 0]
        if inside and (item["points"][0, 0] > 6).all() and (item["points"][0, 0] < size - 7).all():
            seen = np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()
            assert np.abs(seen - item["points"][0, 0]).max() < 0.8
            moved += np.abs(seen - at).max() > 2
        hidden += not item["visible"][0, 1]
        assert item["known"].all()
    assert moved > 10
    assert hidden > 10
