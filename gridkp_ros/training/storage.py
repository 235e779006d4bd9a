"""Files that are there whole or not at all, and a sentence when the disk is full."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from gridkp_ros.training.config import TrainingError


@contextmanager
def named_when_full(folder: Path, what: str, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn "no space left on device" while `what` is written into a TrainingError that says what to do."""
    try:
        yield
    except Exception as error:
        # safetensors and zip writers wrap the system's error in their own.
        full = getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error)
        if not full:
            raise
        free = shutil.disk_usage(folder).free
        needed = f", {needed_bytes / 1e6:.0f} MB are needed" if needed_bytes else ""
        raise TrainingError(
            f"the disk of {folder} is full: {what} could not be written ({free / 1e6:.0f} MB are free{needed}). What "
            "was written before is whole: make room and go on with --resume, or name an --out on another disk"
        ) from error


@contextmanager
def replacing(path: Path, what: str, needed_bytes: int | None = None) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place at the end; what was there before stays until then.

    Raises TrainingError where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with named_when_full(path.parent, what, needed_bytes):
        try:
            yield part
            part.chmod(0o644)
            with part.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(part, path)
        except BaseException:
            with suppress(FileNotFoundError):
                part.unlink()
            raise


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's resume files, of which the newest whole one survives a kill and a full disk."""

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: object = None) -> None:
        content = io.BytesIO()  # PyTorch's own writing to a file does not tell a full disk from other failures
        torch.save(checkpoint, content)
        with replacing(Path(path), "the state that --resume goes on from", content.getbuffer().nbytes) as part:
            part.write_bytes(content.getbuffer())
