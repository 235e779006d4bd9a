"""Any folder of videos, frames or rosbags: what a user has recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gridkp_ros.data.clips import Recording
from gridkp_ros.data.datasets.base import DataSet, Item, RawClip, require
from gridkp_ros.data.load import find_sources, footage_recordings, read_stretches
from gridkp_ros.data.sources import DataError, image_topics, is_bag
from gridkp_ros.geometry import InputSpec

ALL_TOPICS = "*"


class Footage(DataSet):
    """A video, bag or frame folder, or every one of them below a folder; an item for each, in a bag for each topic.

    topic: image topics of bags: one, several, or "*" for all; not needed where a bag has only one. rate_hz: of frames
    that have no stamps of their own (elsewhere it replaces them). max_gap_s: a longer gap ends a recording.
    """

    name = "footage"
    obtain = "Record a video, a rosbag2 or numbered images with your own camera."
    splits = ("all",)

    def __init__(
        self,
        root: Path,
        split: str = "all",
        topic: str | Sequence[str] | None = None,
        rate_hz: float | None = None,
        max_gap_s: float = 0.5,
    ) -> None:
        self.topics = (topic,) if isinstance(topic, str) else tuple(topic or ())
        super().__init__(root, split, rate_hz=rate_hz, max_gap_s=max_gap_s)

    def check(self) -> None:
        require(self.root.exists(), self.root, "a video, a bag, or a folder of them or of images", self)

    def items(self) -> list[Item]:
        sources = find_sources(self.root)
        bags = [path for path in sources if is_bag(path)]
        if sources and all(path.is_dir() and path not in bags for path in sources) and not self.options["rate_hz"]:
            raise DataError(
                f"{sources[0]}: images carry no times: say how many a second there are (rate_hz: 15 in a "
                "configuration, --option rate_hz=15 on the command line)"
            )
        if self.topics and not bags:
            raise DataError(f"{self.root}: topic {', '.join(self.topics)} was given, but this is no rosbag")
        found = []
        for path in sources:
            files = tuple(sorted(f for f in path.iterdir() if f.is_file())) if path.is_dir() else (path,)
            for topic in self._topics(path) if path in bags else (None,):
                name = path.name if path == self.root else path.relative_to(self.root).as_posix()
                found.append(Item(name + (topic or ""), files, {"path": path, "topic": topic}))
        return found

    def _topics(self, bag: Path) -> Sequence[str | None]:
        if self.topics != (ALL_TOPICS,):
            return self.topics or (None,)
        try:
            return sorted(image_topics(bag)) or (None,)
        except DataError:
            return (None,)  # is told, and counted, when it is read

    def load(self, item: Item) -> Iterator[RawClip]:
        stretches = read_stretches(item.about["path"], item.about["topic"], **self.options)
        for number, (stamps, images) in enumerate(stretches):
            yield RawClip(f"{item.name}#{number}", images, stamps)

    def recordings(self, item: Item, spec: InputSpec, period_s: float) -> list[Recording]:
        """Each image is reduced as soon as it is decoded: of an hour of film, memory holds small frames alone."""
        made = footage_recordings(item.about["path"], spec, period_s, item.about["topic"], **self.options)
        return [replace(recording, name=f"{item.name}#{number}") for number, recording in enumerate(made)]
