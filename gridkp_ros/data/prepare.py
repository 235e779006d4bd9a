"""The cache: each item of a data set is decoded once, at the model's size and period, and then read from files.

    prepared = prepare(open_dataset("kth", root, "train"), spec, period_s, workers=8)
    dataset = ClipDataset(prepared.recordings, ...)

An entry is a folder with the arrays of an item's recordings, joined (.npy; frames are memory-mapped, so a set may be
larger than the memory), and `entry.json` with their checksums. It appears under its name when it is complete, so a
killed run leaves nothing half-written and a later one does only what is missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import multiprocessing
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gridkp_ros.data.clips import Recording
from gridkp_ros.data.datasets.base import DataSet, Item
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec
from gridkp_ros.sim import cache_root

log = logging.getLogger(__name__)
_PACKAGE_LOG = logging.getLogger("gridkp_ros")

FORMAT = 1  # part of every key: raised whenever an entry's files or their meaning change
_ARRAYS = ("points", "visible", "states", "actions", "rewards")
_PART = ".part-"
T = TypeVar("T")


@dataclass(frozen=True)
class StoredFrames:
    """Frames uint8 [N,H,W,C] in a .npy file, of which only what is indexed is read; else it behaves as an array.

    It holds no open file, so any number of recordings can be at hand, and costs nothing to send to another process.
    stored: shape of the array in the file; part: the first of its frames that is meant, and the one
    after the last; by default all are.
    Indexing raises DataError where the file is no longer whole.
    """

    path: Path
    stored: tuple[int, ...]
    part: tuple[int, int | None] = (0, None)

    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(range(self.stored[0])[slice(*self.part)]), *self.stored[1:])

    @property
    def ndim(self) -> int:
        return len(self.stored)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        try:
            header = self.path.stat().st_size - math.prod(self.stored)  # np.load would parse it for every clip
            stored = np.memmap(self.path, np.uint8, "r", header, self.stored)
        except (OSError, ValueError) as error:  # removed or cut short since the run began
            raise DataError(f"{self.path} cannot be read: {error}") from error
        return np.array(stored[slice(*self.part)][index])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


@dataclass
class Prepared:
    """What `prepare` found and did.

    items: of the data set; decoded: how many of them in this call; unreadable: name of an item and why, which are left
    out; damaged: entries that were found damaged, and why, decoded again; notes: what reading an item had to say of it,
    such as frames that cannot be decoded; seconds: the call took.
    """

    name: str
    folder: Path
    items: int = 0
    decoded: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0
    recordings: list[Recording] = field(default_factory=list)

    @property
    def frames(self) -> int:
        return sum(map(len, self.recordings))

    def summary(self) -> dict[str, Any]:
        """Return the figures, for a table or JSON."""
        figures = {"name": self.name, "folder": str(self.folder), "items": self.items, "decoded": self.decoded}
        figures |= {"recordings": len(self.recordings), "frames": self.frames, "seconds": round(self.seconds, 3)}
        return figures | {"unreadable": self.unreadable, "damaged": self.damaged, "notes": self.notes}


def spread(things: Sequence[T], number: int) -> list[T]:
    """Return at most `number` of the things, spread evenly over all of them."""
    if len(things) <= number:
        return list(things)
    return [things[i] for i in np.linspace(0, len(things) - 1, number).round().astype(int)]


def part_of(recordings: Sequence[Recording], part: tuple[float, float]) -> list[Recording]:
    """Return what lies between two shares of recordings that follow one another: (0.8, 1.0) is the last fifth.

    Shares are of all their frames together. A frame belongs to one of two parts that meet, never to both.
    """
    if part == (0.0, 1.0):
        return list(recordings)
    total = sum(map(len, recordings))
    first, last = (round(share * total) for share in part)
    kept, before = [], 0
    for recording in recordings:
        window = slice(max(0, first - before), max(0, min(len(recording), last - before)))
        before += len(recording)
        if window.start < window.stop:
            arrays = {name: getattr(recording, name) for name in _ARRAYS}
            frames = recording.frames
            kept.append(
                replace(
                    recording,
                    frames=replace(frames, part=(window.start, window.stop))
                    if isinstance(frames, StoredFrames)
                    else frames[window],
                    labels=recording.labels[window],
                    **{name: array[window] for name, array in arrays.items() if array is not None},
                )
            )
    return kept


def usable_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0))


def set_folder(data: DataSet, spec: InputSpec, period_s: float, cache: Path | None = None) -> Path:
    """Return the folder of a data set's entries, named by all that changes pixels but the items' own files."""
    key = [FORMAT, data.name, data.version, data.options, spec.to_dict(), period_s]
    return (cache or cache_root() / "recordings") / f"{data.name}-{_digest(key)}"


def entry_name(data: DataSet, item: Item) -> str:
    """Return the name of an item's entry: by its name, its facts, and the size and time of change of its files.

    Raises DataError if one of the files is not there.
    """

    def relative(path: Path) -> str:
        return path.relative_to(data.root).as_posix() if path.is_relative_to(data.root) else str(path)

    files = []
    for path in item.files:
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(
                f"{data.name}: {path} of {item.name} is missing: {error.strerror}. {data.obtain}"
            ) from error
        files.append((relative(path), stat.st_size, stat.st_mtime_ns))
    about = {key: relative(value) if isinstance(value, Path) else value for key, value in item.about.items()}
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", item.name).strip(".")[-80:]
    return f"{readable}-{_digest([item.name, files, about])}"


def _digest(key: Any) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_entry(entry: Path, item: Item, recordings: Sequence[Recording]) -> None:
    """Write an item's recordings as an entry, complete or not at all.

    Raises DataError if the disk is full or may not be written to.
    """
    part = entry.with_name(f"{_PART}{entry.name}-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        facts = ("name", "label", "labels", "point_names")
        listed: list[dict[str, Any]] = [{key: getattr(r, key) for key in facts} | {"arrays": {}} for r in recordings]
        for name in ("frames", *_ARRAYS):
            arrays = {number: getattr(r, name) for number, r in enumerate(recordings)}
            arrays = {number: array for number, array in arrays.items() if array is not None}
            if not arrays:
                continue
            path = part / f"{name}.npy"
            shape = _save_joined(path, list(arrays.values()))
            stored = {"file": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path), "shape": shape}
            end = 0
            for number, array in arrays.items():
                listed[number]["arrays"][name] = stored | {"rows": (end, end := end + len(array))}
        (part / "entry.json").write_text(json.dumps({"format": FORMAT, "item": item.name, "recordings": listed}))
        shutil.rmtree(entry, ignore_errors=True)
        part.rename(entry)
    except DataError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise DataError(_not_written(entry, error)) from error


def _not_written(path: Path, error: OSError) -> str:
    return f"{path} cannot be written ({error.strerror or error}): make room, or name another disk by XDG_CACHE_HOME"


def _save_joined(path: Path, arrays: Sequence[Any]) -> tuple[int, ...]:
    """Write arrays one after the other as one .npy file, none of them copied, and return its shape."""
    first = arrays[0]
    if any(a.shape[1:] != first.shape[1:] or a.dtype != first.dtype for a in arrays):
        kinds = ", ".join(sorted({f"{a.dtype}{list(a.shape[1:])}" for a in arrays}))
        raise DataError(f"{path.stem} of one item differ from recording to recording ({kinds}): make them items")
    shape = (sum(map(len, arrays)), *first.shape[1:])
    header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:  # no memory map: on a full disk that would end the process
        np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            file.write(np.ascontiguousarray(array).data)
    return shape


def read_entry(entry: Path, verify: bool = False) -> list[Recording]:
    """Read an entry. Its small arrays are always checked against their checksums, its frames only if `verify`.

    Raises DataError saying which file is missing or damaged.
    """
    try:
        content = json.loads((entry / "entry.json").read_text())
        recordings = []
        files: dict[Path, Any] = {}  # one for all recordings, or in earlier entries one for each
        for listed in content["recordings"]:
            arrays: dict[str, Any] = {}
            for name, stored in listed["arrays"].items():
                path, rows = entry / stored["file"], tuple(stored.get("rows", (0, None)))
                if path not in files:
                    _check_file(path, stored, checksum=verify or name != "frames")
                    files[path] = None if name == "frames" else np.load(path)
                if name == "frames":
                    arrays[name] = StoredFrames(path, tuple(stored.get("shape") or listed["shape"]), rows)
                else:
                    arrays[name] = files[path][slice(*rows)]
            arrays |= {key: tuple(listed[key]) for key in ("labels", "point_names")}
            recordings.append(Recording(name=listed["name"], label=listed["label"], **arrays))
        return recordings
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{entry} is no whole entry ({type(error).__name__}: {error})") from error


def _check_file(path: Path, stored: dict[str, Any], checksum: bool) -> None:
    """Raise DataError unless a file has the size, and the checksum if wanted, that it was written with."""
    if path.stat().st_size != stored["bytes"]:
        raise DataError(f"{path} has {path.stat().st_size} bytes, not {stored['bytes']}")
    if checksum and _sha256(path) != stored["sha256"]:
        raise DataError(f"{path} does not have the checksum it was written with")


@dataclass(frozen=True)
class _Outcome:
    item: Item
    decoded: bool = False
    unreadable: str = ""
    damaged: str = ""
    notes: tuple[str, ...] = ()


class _Notes(logging.Handler):
    """Keeps the warnings logged while an item is read."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.sentences: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.sentences.append(record.getMessage())

    def __enter__(self) -> _Notes:
        _PACKAGE_LOG.addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        _PACKAGE_LOG.removeHandler(self)


def _ensure(data: DataSet, item: Item, entry: Path, spec: InputSpec, period_s: float, verify: bool) -> _Outcome:
    """Have an item's entry there and whole; decode it if it is not."""
    damaged = ""
    if entry.exists():
        try:
            read_entry(entry, verify)
            return _Outcome(item)
        except DataError as error:
            damaged = str(error)
    with _Notes() as notes:
        try:
            recordings = data.recordings(item, spec, period_s)
            if not sum(map(len, recordings)):
                raise DataError(f"{item.name} holds no images")
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # damaged data fails wherever its bytes stop making sense, in any library's own way
            sentence = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
            return _Outcome(item, False, sentence, damaged, tuple(notes.sentences))
    write_entry(entry, item, recordings)
    return _Outcome(item, True, "", damaged, tuple(notes.sentences))


def _begin_worker() -> None:
    """Have a worker's warnings told by the process that started it, and the worker end when that one is killed."""
    _PACKAGE_LOG.propagate = False
    _PACKAGE_LOG.addHandler(logging.NullHandler())

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder's lock: of several runs that need the same data, one decodes it while the others wait."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # frames of recordings are for their owner alone
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise DataError(_not_written(folder, error)) from error
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s is being prepared by another process: waiting for it", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.glob(f"{_PART}*"):  # of a killed run: whoever holds the lock is the only one who writes
            shutil.rmtree(left, ignore_errors=True)
        yield


def prepare(
    data: DataSet,
    spec: InputSpec,
    period_s: float,
    *,
    items: Sequence[Item] | None = None,
    part: tuple[float, float] = (0.0, 1.0),
    workers: int = 1,
    verify: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
) -> Prepared:
    """Have every item of a data set in the cache, and return its recordings in the order of the items.

    items: those wanted, by default all of the split. part: what of each item is returned (all of it is cached), see
    `part_of`. workers: processes that decode. verify: read every file of the entries that are there and compare
    checksums (without it, sizes and the small arrays alone). progress: called with (items done, items in all). cache:
    the folder of caches, by default `recordings` under `cache_root()`.

    Raises DataError if the data set is incomplete, none of its items can be read, the part holds nothing, or the cache
    cannot be written.
    """
    began = time.monotonic()
    items = list(data.items() if items is None else items)
    if not items:
        raise DataError(f"{data.name}: there is nothing in split {data.split!r} of {data.root}. {data.obtain}")
    folder = set_folder(data, spec, period_s, cache)
    entries = {item.name: folder / entry_name(data, item) for item in items}
    if len(entries) < len(items):
        names = [item.name for item in items]
        raise DataError(f"{data.name}: two items are called {next(n for n in names if names.count(n) > 1)!r}")
    result = Prepared(data.name, folder, len(items))
    read: dict[str, list[Recording]] = {}

    def missing() -> list[Item]:
        found = []
        for item in items:
            try:
                read[item.name] = read_entry(entries[item.name])
            except DataError:
                found.append(item)
        return found

    if missing() or verify:
        with _alone(folder):
            todo = items if verify else missing()  # another run may have done it meanwhile
            done = len(items) - len(todo)
            for outcome in _outcomes(data, todo, entries, spec, period_s, verify, workers):
                name = outcome.item.name
                done += 1
                if outcome.notes:
                    result.notes[name] = list(outcome.notes)
                result.decoded += outcome.decoded
                if outcome.damaged:
                    result.damaged[name] = outcome.damaged
                    log.warning("%s: a damaged entry of the cache is decoded again: %s", name, outcome.damaged)
                if outcome.unreadable:
                    result.unreadable[name] = outcome.unreadable
                    log.warning("%s: %s is left out, it cannot be read: %s", data.name, name, outcome.unreadable)
                if progress is not None:
                    progress(done, len(items))
    elif progress is not None:
        progress(len(items), len(items))
    for item in items:
        if item.name not in result.unreadable:
            if item.name not in read or item.name in result.damaged:
                read[item.name] = read_entry(entries[item.name])
            result.recordings += part_of(read[item.name], part)
    if len(result.unreadable) == len(items):
        first = "; ".join(f"{name}: {why}" for name, why in list(result.unreadable.items())[:3])
        raise DataError(f"{data.name}: not one of its {len(items)} items can be read: {first}")
    if not result.recordings:
        frames = sum(len(recording) for found in read.values() for recording in found)
        raise DataError(
            f"{data.name}: the part from {part[0]:g} to {part[1]:g} of {data.root} holds nothing of its {frames} "
            f"frames (at {1 / period_s:.3g} Hz): take a larger part"
        )
    result.seconds = time.monotonic() - began
    return result


def _outcomes(
    data: DataSet,
    items: Sequence[Item],
    entries: dict[str, Path],
    spec: InputSpec,
    period_s: float,
    verify: bool,
    workers: int,
) -> Iterator[_Outcome]:
    jobs = [(data, item, entries[item.name], spec, period_s, verify) for item in items]
    if min(workers, len(jobs)) <= 1:
        yield from (_ensure(*job) for job in jobs)
        return
    # A forked worker would inherit threads' locks (OpenCV's, PyTorch's) and the lock file.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(min(workers, len(jobs)), context, _begin_worker) as pool:
        try:
            for future in as_completed([pool.submit(_ensure, *job) for job in jobs]):
                outcome = future.result()
                for sentence in outcome.notes:
                    log.warning("%s", sentence)
                yield outcome
        except BrokenProcessPool as error:
            raise DataError(
                f"{data.name}: a process that decoded it was ended, by lack of memory perhaps: use fewer --workers. "
                "What is done is kept."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
