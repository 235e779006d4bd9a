"""Reading a file that somebody else may have put there: whole, once, and nothing but a file."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Return all bytes of a regular file of at most max_bytes.

    A symbolic link is not followed, a FIFO or device is not waited for, and what was looked at is what is read.
    Raises OSError, whose text says what is in the way.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise OSError(f"it is a link to {os.readlink(path)!r}, the file itself is wanted") from error
        raise
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        if status.st_size > max_bytes:
            raise OSError(f"it has {status.st_size} bytes, at most {max_bytes} are read")
        content = file.read(status.st_size + 1)  # of max_bytes Python would ask the system first
    if len(content) != status.st_size:
        raise OSError("its size changed while it was read")
    return content
