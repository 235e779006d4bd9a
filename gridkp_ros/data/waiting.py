"""How long a loop waits for its data: decoding must not be what training waits for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any


class TimedLoader:
    """An iterable that measures how long its consumer waits for the next item; all else is the iterable's own.

    wait_s: seconds waited in all iterations so far, the loader's start-up included. batches: items handed out.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self.wait_s = 0.0
        self.batches = 0

    def __iter__(self) -> Iterator[Any]:
        began = time.perf_counter()
        items = iter(self.loader)
        while True:
            try:
                item = next(items)
            except StopIteration:
                self.wait_s += time.perf_counter() - began
                return
            self.wait_s += time.perf_counter() - began
            self.batches += 1
            yield item
            began = time.perf_counter()

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not yet there while being unpickled
            raise AttributeError(name)
        return getattr(self.loader, name)

    def share(self, total_s: float) -> float:
        """Return the share, 0 to 1, of `total_s` seconds of a loop that it waited for data.

        Raises ValueError unless total_s is positive.
        """
        if not total_s > 0:
            raise ValueError(f"a share of {total_s} seconds: give the positive duration of the loop")
        return min(1.0, self.wait_s / total_s)
