"""A contact sheet: what is in a data set, at a glance."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from gridkp_ros.data.clips import Recording

_CELL_PX = 112  # smaller frames are enlarged to this height
_GAP_PX = 4
_TEXT_PX = 20
_BACKGROUND = 24
_COLOURS = np.array(
    [(255, 92, 87), (90, 247, 142), (87, 199, 255), (243, 249, 157), (255, 106, 193), (154, 237, 254)], np.uint8
)


def contact_sheet(recordings: Sequence[Recording], columns: int = 8) -> np.ndarray:
    """Draw recordings, uint8 [H,W,3] RGB: a row for each, frames evenly over its time, named points as circles.

    Above each row stand its name, its label, its length and which numbers it has; hidden points are drawn thin.
    """
    if not recordings:
        raise ValueError("a contact sheet of no recordings")
    rows = [_row(recording, columns) for recording in recordings]
    width = max(row.shape[1] for row in rows)
    rows = [
        cv2.copyMakeBorder(r, 0, 0, 0, width - r.shape[1], cv2.BORDER_CONSTANT, value=[_BACKGROUND] * 3) for r in rows
    ]
    return np.vstack(rows)


def _row(recording: Recording, columns: int) -> np.ndarray:
    picked = np.unique(np.linspace(0, len(recording) - 1, columns).round().astype(int))
    scale = max(1, round(_CELL_PX / recording.frames.shape[1]))
    cells = [_cell(recording, index, scale) for index in picked]
    height, width = cells[0].shape[:2]
    row = np.full((_TEXT_PX + height + _GAP_PX, (width + _GAP_PX) * len(cells), 3), _BACKGROUND, np.uint8)
    for number, cell in enumerate(cells):
        left = number * (width + _GAP_PX)
        row[_TEXT_PX : _TEXT_PX + height, left : left + width] = cell
        if recording.labels:
            _write(row, recording.labels[picked[number]], (left + 3, _TEXT_PX + height - 5))
    numbers = (
        f"{name} {getattr(recording, name).shape[-1]}" for name in ("states", "actions") if _has(recording, name)
    )
    facts = [recording.name, recording.label, f"{len(recording)} frames", *numbers]
    _write(row, "   ".join(fact for fact in facts if fact), (3, _TEXT_PX - 6))
    return row


def _has(recording: Recording, name: str) -> bool:
    return getattr(recording, name) is not None


def _cell(recording: Recording, index: int, scale: int) -> np.ndarray:
    image = recording.frames[int(index)]
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else np.ascontiguousarray(image)
    if recording.points is None:
        return image
    for number, ((x, y), seen) in enumerate(zip(recording.points[index], recording.visible[index], strict=True)):
        if np.isfinite([x, y]).all() and max(abs(x), abs(y)) < 1e6:
            centre = (round((float(x) + 0.5) * scale - 0.5), round((float(y) + 0.5) * scale - 0.5))
            colour = _COLOURS[number % len(_COLOURS)].tolist()
            cv2.circle(image, centre, 4, colour, 2 if seen else 1, cv2.LINE_AA)
    return image


def _write(image: np.ndarray, text: str, origin: tuple[int, int]) -> None:
    ascii_text = text.encode("ascii", "replace").decode()  # OpenCV's fonts have no more
    for colour, thickness in ((_BACKGROUND, 3), (235, 1)):
        cv2.putText(image, ascii_text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.42, [colour] * 3, thickness, cv2.LINE_AA)
