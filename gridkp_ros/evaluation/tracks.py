"""Whether keypoints follow anything: how far each moves, whether all move alike, and which move with an instrument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gridkp_ros.evaluation.metrics import significant

LAG_S = 1.0 / 3.0  # displacements are over this time: long against a cell of jitter, short against a gesture
MOVES_CELLS = 1.0
ALIKE = 0.9
FOLLOWS_R2 = 0.5
_MIN_PAIRS = 30  # of frames with a point in sight; a linear map fits fewer too well

MOTION_DEFINITION = (
    "spread_cells is the standard deviation of a keypoint's place within an epoch (x and y together), moving_share the "
    f"share of keypoints whose spread is {MOVES_CELLS:g} cell or more; common_motion is the correlation of a "
    f"keypoint's displacements over {LAG_S:.2f} s with the mean displacement of all others, alike_share the share of "
    f"keypoints at {ALIKE:g} or more"
)
INSTRUMENT_DEFINITION = (
    f"r2 is the share of the variance of a keypoint's displacements over {LAG_S:.2f} s that a linear map of one named "
    f"point's displacements explains, that of the best point; share: keypoints with {FOLLOWS_R2:g} or more"
)


@dataclass
class Track:
    """The keypoints of one epoch: stamps, and places [K,2] in cells of a 64x64 grid over the model's view."""

    stamps_ns: list[int] = field(default_factory=list)
    cells: list[np.ndarray] = field(default_factory=list)


def pairs(stamps_ns: Sequence[int], lag_s: float, tolerance_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Return indices (earlier, later) of frames one lag apart, the nearest to it and no farther off than tolerance."""
    stamps = np.asarray(stamps_ns, np.int64)
    wanted = stamps + round(lag_s * 1e9)
    right = np.clip(np.searchsorted(stamps, wanted), 1, max(1, len(stamps) - 1))
    if len(stamps) < 2:
        return np.zeros(0, int), np.zeros(0, int)
    nearest = np.where(wanted - stamps[right - 1] <= stamps[right] - wanted, right - 1, right)
    earlier = np.arange(len(stamps))
    fits = (np.abs(stamps[nearest] - wanted) <= round(tolerance_s * 1e9)) & (nearest > earlier)
    return earlier[fits], nearest[fits]


def keypoint_motion(tracks: Sequence[Track], period_s: float) -> dict:
    """Say of each keypoint how far it moves and how much as all others do (see MOTION_DEFINITION).

    Numbers that cannot be had (of a keypoint that never moves, say) are None.
    """
    tracks = [t for t in tracks if t.stamps_ns]
    moved = [np.stack(t.cells)[j] - np.stack(t.cells)[i] for t in tracks for i, j in [_pairs_of(t, period_s)]]
    displacement = np.concatenate(moved) if moved else np.zeros((0, 0, 2))
    if not len(displacement):
        return {"definition": MOTION_DEFINITION, "pairs": 0, "moving_share": None, "alike_share": None}
    centred = np.concatenate([np.stack(t.cells) - np.mean(t.cells, axis=0) for t in tracks])
    spread = np.sqrt(np.square(centred).sum(axis=-1).mean(axis=0))
    count = displacement.shape[1]
    total = displacement.sum(axis=1, keepdims=True)
    others = (total - displacement) / max(count - 1, 1)
    alike = [_correlation(displacement[:, k], others[:, k]) if count > 1 else None for k in range(count)]
    known = [v for v in alike if v is not None]
    return {
        "definition": MOTION_DEFINITION,
        "pairs": len(displacement),
        "spread_cells": [significant(float(v)) for v in spread],
        "displacement_cells": [significant(float(v)) for v in np.sqrt(np.square(displacement).sum(-1).mean(0))],
        "common_motion": [None if v is None else significant(v) for v in alike],
        "moving_share": significant(float((spread >= MOVES_CELLS).mean())),
        "alike_share": significant(float(np.mean([v >= ALIKE for v in known]))) if known else None,
    }


def keypoints_with_instrument(
    tracks: Sequence[Track],
    names: Sequence[str],
    truth: Callable[[int], tuple[np.ndarray, np.ndarray]],
    period_s: float,
) -> dict:
    """Say which keypoints move with an instrument (see INSTRUMENT_DEFINITION).

    Args:
        tracks: the keypoints, epoch by epoch.
        names: of M points on instruments. truth: their places [M,2] and visibility [M] at a stamp.
    """
    keypoints, points = [], []  # displacements [K,2]; [M,2], NaN where a point is out of sight at either end
    for track in tracks:
        earlier, later = _pairs_of(track, period_s)
        at = {i: truth(track.stamps_ns[i]) for i in np.unique(np.concatenate([earlier, later])).tolist()}
        for i, j in zip(earlier.tolist(), later.tolist(), strict=True):
            seen = np.asarray(at[i][1], bool) & np.asarray(at[j][1], bool)
            keypoints.append(track.cells[j] - track.cells[i])
            points.append(np.where(seen[:, None], np.asarray(at[j][0], float) - np.asarray(at[i][0], float), np.nan))
    if not keypoints:
        return {"definition": INSTRUMENT_DEFINITION, "pairs": 0, "share": None, "keypoints": []}
    d, p = np.stack(keypoints), np.stack(points)
    found = []
    for k in range(d.shape[1]):
        scores = {}
        for m, name in enumerate(names):
            seen = np.isfinite(p[:, m, 0])
            if seen.sum() >= _MIN_PAIRS:
                scores[name] = _explained(d[seen, k], p[seen, m])
        best = max(scores, key=scores.get) if scores else None
        found.append({"r2": None if best is None else significant(scores[best]), "point": best})
    known = [f["r2"] for f in found if f["r2"] is not None]
    return {
        "definition": INSTRUMENT_DEFINITION,
        "pairs": len(d),
        "share": significant(float(np.mean([r2 >= FOLLOWS_R2 for r2 in known]))) if known else None,
        "keypoints": found,
    }


def _pairs_of(track: Track, period_s: float) -> tuple[np.ndarray, np.ndarray]:
    return pairs(track.stamps_ns, LAG_S, period_s / 2 + 1e-3)


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the correlation of two series of vectors [N,2] about their means; None where one does not vary."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    scale = np.sqrt(np.square(a).sum() * np.square(b).sum())
    return float((a * b).sum() / scale) if scale > 1e-9 else None


def _explained(y: np.ndarray, x: np.ndarray) -> float:
    """Return the share of the variance of y [N,2] that a linear map of x [N,2] explains; 0 where y does not vary."""
    y, x = y - y.mean(axis=0), x - x.mean(axis=0)
    total = np.square(y).sum()
    if total < 1e-9:
        return 0.0
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return float(1 - np.square(left).sum() / total)
