"""Clips for the trainer: batch i is always the same, for any number of processes, and a bad clip is replaced."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gridkp_ros.data.clips import ClipDataset
from gridkp_ros.data.sources import DataError
from gridkp_ros.data.waiting import TimedLoader
from gridkp_ros.training.config import TrainingError

log = logging.getLogger(__name__)
UNREADABLE = "unreadable"
TRIES = 10  # clips in a row that cannot be read: then it is not single ones that are bad


class CellClips(Dataset):
    """Clips of detected cells, drawn by the same rule as `ClipDataset` draws frames: items {"classes": int64 [T,K]}.

    frames: with the pictures as well, uint8 [T,C,H,W].
    """

    def __init__(self, clips: ClipDataset, cells: Sequence[np.ndarray], frames: bool = False) -> None:
        self.clips, self.cells = clips, [c for c in cells if len(c) >= clips.clip_length]
        self.frames = frames

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        which, start, _ = self.clips.draw(index)
        item = {"classes": self.cells[which][start : start + self.clips.clip_length].astype(np.int64)}
        return item | ({"frames": self.clips[index]["frames"]} if self.frames else {})


class Readable(Dataset):
    """A data set whose unreadable clips are replaced by later draws; "unreadable" says which, "" where none was.

    Raises TrainingError after `TRIES` clips in a row that cannot be read.
    """

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        failures: list[str] = []
        for attempt in range(TRIES):
            try:
                item = self.data[index + attempt * len(self.data)]  # a draw is made for any number
            except DataError as error:
                log.warning("a clip is left out: %s", error)
                failures.append(str(error))
            else:
                return item | {UNREADABLE: "; ".join(failures)}
        raise TrainingError(
            f"{TRIES} clips in a row cannot be read, the last because of: {failures[-1]}. Check the data with "
            "`gridkp data prepare`, which names every file that is damaged"
        )


class StepBatches(Sampler[list[int]]):
    """The clips of this process, part by part, from step `first` on.

    The batch of step i is clips [i batch, (i + 1) batch). It is cut into `accumulated` times `world` equal parts, of
    which process `rank` takes number `rank` of each `world`.
    """

    def __init__(self, steps: range, batch: int, accumulated: int = 1, rank: int = 0, world: int = 1) -> None:
        self.steps, self.batch, self.accumulated, self.rank, self.world = steps, batch, accumulated, rank, world

    def __len__(self) -> int:
        return len(self.steps) * self.accumulated

    def __iter__(self) -> Iterator[list[int]]:
        size = self.batch // (self.accumulated * self.world)
        for step in self.steps:
            for part in range(self.accumulated):
                begin = step * self.batch + (part * self.world + self.rank) * size
                yield list(range(begin, begin + size))


class StepLoader:
    """Batches of a part from step `first` on; a resumed run sees what it would have seen.

    Lightning counts the batches before `first` as done; it asks a loader that can resume for a state, and this one
    has none but the step. timed: what says how long the training has waited. unreadable: sentences on clips left out.

    Raises TrainingError once more than `most_unreadable` clips could not be read.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch: int,
        first: int = 0,
        workers: int = 0,
        accumulated: int = 1,
        rank: int = 0,
        world: int = 1,
        most_unreadable: float = 0.0,
        pin_memory: bool = False,
    ) -> None:
        self.length = len(dataset) // batch * accumulated
        steps = StepBatches(range(first, len(dataset) // batch), batch, accumulated, rank, world)
        loader = DataLoader(Readable(dataset), batch_sampler=steps, num_workers=workers, pin_memory=pin_memory)
        self.timed, self.unreadable, self.most_unreadable = TimedLoader(loader), [], most_unreadable

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.timed:
            self.unreadable += [sentence for sentence in batch.pop(UNREADABLE) if sentence]
            if len(self.unreadable) > self.most_unreadable:
                raise TrainingError(
                    f"{len(self.unreadable)} clips could not be read, the last because of: {self.unreadable[-1]}. "
                    "Check the data with `gridkp data prepare`, or allow for more (trainer.max_unreadable)"
                )
            yield batch

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass
