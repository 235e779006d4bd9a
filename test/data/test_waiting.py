"""The time a loop waits for its data."""

from __future__ import annotations

import pickle

import pytest

from gridkp_ros.data import waiting
from gridkp_ros.data.waiting import TimedLoader


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(waiting, "time", made)
    return made


def test_only_the_loaders_time_counts(clock: Clock) -> None:
    def slow():
        for item in range(3):
            clock.now += 2.0
            yield item
        clock.now += 1.0  # what a loader does at its end is waited for, too

    loader = TimedLoader(slow())
    items = []
    for item in loader:
        items.append(item)
        clock.now += 10.0
    assert items == [0, 1, 2]
    assert loader.wait_s == pytest.approx(7.0)
    assert loader.batches == 3
    assert loader.share(clock.now) == pytest.approx(7 / 37)


def test_it_is_otherwise_the_loader_itself() -> None:
    class Loader(list):
        batch_size = 4

    loader = TimedLoader(Loader([1, 2]))
    assert len(loader) == 2
    assert loader.batch_size == 4
    with pytest.raises(AttributeError):
        _ = loader.nothing
    assert list(pickle.loads(pickle.dumps(TimedLoader([1, 2])))) == [1, 2]


def test_a_share_needs_a_duration() -> None:
    with pytest.raises(ValueError, match="positive duration"):
        TimedLoader([]).share(0.0)
