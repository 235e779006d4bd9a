"""Scene cuts, judged from the pixels of two model images in a row.

Blocks of the earlier image are looked for nearby in the later one. Instruments that move, however fast, leave
enough of the picture as it was; a camera that moves takes all blocks along; light that flickers changes no block's
pattern; an image sent twice changes nothing. Only a new scene leaves most blocks without a match.
"""

from __future__ import annotations

import cv2
import numpy as np

# Measured on two SutureBot recordings at 64x64: one step of 1/15 s apart in the same scene at most 0.13, two 0.29;
# across the two recordings (the same rig, so the hardest cut to see) at least 0.32, in the median 0.50.
DEFAULT_THRESHOLD = 0.24
# Farther apart, pictures differ more: factors of the threshold, up to so many model steps between the two stamps. On
# the same recordings 1.5 steps apart differ by at most 0.18, 2 by 0.29, 2.5 by 0.42 (a machine under load takes frames
# late, and one counted as two steps on may be two and a half), 3 by 0.49, as much as two scenes do.
_FACTOR_UP_TO_STEPS = ((1.6, 1.0), (2.1, 1.3))

_SIZE = 64
_BLOCK, _REACH, _MARGIN = 12, 4, 2  # pixels of the 64x64 image; the blocks cover it but for the margin
_FINE, _COARSE = 0.85, 3.0  # Gaussian sigmas of the band that holds structure: no sensor noise, no vignette
_MIN_CONTRAST = 3.0  # grey levels, standard deviation in the band; a block below is empty and matches nothing
_MIN_BLOCKS = 5
_QUANTILE = 0.4  # of the blocks need a match: instruments that cross the picture may cover more than half of them


def structure(model_image: np.ndarray) -> np.ndarray | None:
    """Return the picture's structure, float32 [64, 64] band-passed grey, for `cut_score`.

    model_image: uint8 [H, W, C]. None if there is too little to judge by: a dark, blank or blurred picture.
    """
    colour = model_image.shape[2] == 3
    grey = cv2.cvtColor(model_image, cv2.COLOR_RGB2GRAY) if colour else model_image[:, :, 0]
    small = cv2.resize(grey, (_SIZE, _SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
    band = cv2.GaussianBlur(small, (0, 0), _FINE) - cv2.GaussianBlur(small, (0, 0), _COARSE)
    return band if len(_textured_blocks(band)) >= _MIN_BLOCKS else None


def cut_score(before: np.ndarray, after: np.ndarray) -> float:
    """Return how much of a picture's structure is gone in the next, 0 (all there) to 1 (nothing left).

    What the best-matched 40 % of the textured blocks lose at most: 1 - normalised cross-correlation, at its best
    within 4 px (of 64).
    before, after: from `structure`.
    """
    padded = cv2.copyMakeBorder(after, _REACH, _REACH, _REACH, _REACH, cv2.BORDER_CONSTANT)
    best = []
    for row, column in _textured_blocks(before):
        block = before[row : row + _BLOCK, column : column + _BLOCK]
        window = padded[row : row + _BLOCK + 2 * _REACH, column : column + _BLOCK + 2 * _REACH]
        correlation = cv2.matchTemplate(window, block, cv2.TM_CCOEFF_NORMED)
        # Over an empty window the correlation is not a number; that is no match.
        best.append(np.max(correlation, where=np.isfinite(correlation), initial=0.0))
    return _lost(np.array(best))


def is_cut(before: np.ndarray, after: np.ndarray, steps: float, threshold: float = DEFAULT_THRESHOLD) -> bool:
    """Say whether a new scene began between two pictures stamped `steps` model steps apart (never beyond 2.1)."""
    factor = next((factor for most, factor in _FACTOR_UP_TO_STEPS if steps <= most), None)
    if factor is None or _score_at_rest(before, after) <= threshold * factor:
        return False
    return cut_score(before, after) > threshold * factor


def _score_at_rest(before: np.ndarray, after: np.ndarray) -> float:
    """As `cut_score`, of blocks that have not moved: never less, and enough for the pictures of a camera at rest."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (_blocks(before), _blocks(after)))
    aa, ab, bb = (np.einsum("np,np->n", x, y) for x, y in ((a, a), (a, b), (b, b)))
    correlation = ab / np.sqrt(np.maximum(aa * bb, 1e-9))
    return _lost(np.maximum(correlation, 0.0)[aa >= _MIN_CONTRAST**2 * _BLOCK**2])


def _lost(correlation: np.ndarray) -> float:
    """What the best-matched blocks lose at most, of the correlation of each."""
    last = len(correlation) - 1
    return 1.0 - float(np.interp((1.0 - _QUANTILE) * last, np.arange(last + 1), np.sort(correlation)))


def _blocks(band: np.ndarray) -> np.ndarray:
    """Return the blocks of a band row by row, each flat: [blocks, pixels]."""
    count = (_SIZE - _MARGIN) // _BLOCK
    end = _MARGIN + count * _BLOCK
    blocks = band[_MARGIN:end, _MARGIN:end].reshape(count, _BLOCK, count, _BLOCK)
    return blocks.swapaxes(1, 2).reshape(count * count, _BLOCK * _BLOCK)


def _textured_blocks(band: np.ndarray) -> list[tuple[int, int]]:
    """Return the top-left pixels (row, column) of the blocks that have something in them."""
    textured = np.flatnonzero(_blocks(band).std(axis=1) >= _MIN_CONTRAST)
    places = [divmod(int(index), (_SIZE - _MARGIN) // _BLOCK) for index in textured]
    return [(_MARGIN + _BLOCK * row, _MARGIN + _BLOCK * column) for row, column in places]
