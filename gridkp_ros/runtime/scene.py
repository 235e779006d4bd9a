"""Scene cuts, judged from the pixels of two model images in a row.

Blocks of the earlier image are looked for nearby in the later one. Instruments that move, however fast, cover the
lesser part of the picture and leave the median block where it was; a camera that moves takes all blocks along; light
that flickers changes no block's pattern; an image sent twice changes nothing. Only a new scene leaves most blocks
without a match.
"""

from __future__ import annotations

import cv2
import numpy as np

# Measured on SutureBot recordings at 64x64: one model step (1/15 s) apart in the same scene at most 0.18, two 0.31;
# between two recordings of the same rig, the hardest cut to see, at least 0.34 and mostly 0.54.
DEFAULT_THRESHOLD = 0.27
# Two images further apart in time differ more, so the threshold grows by this part of itself with each further step.
GROWTH_PER_STEP = 0.25

_SIZE = 64
_BLOCK, _REACH, _MARGIN = 12, 4, 2  # pixels of the 64x64 image; the blocks cover it but for the margin
_FINE, _COARSE = 0.85, 3.0  # Gaussian sigmas of the band that holds structure: no sensor noise, no vignette
_MIN_CONTRAST = 3.0  # grey levels, standard deviation in the band; a block below is empty and matches nothing
_MIN_BLOCKS = 5


def structure(model_image: np.ndarray) -> np.ndarray | None:
    """Return the picture's structure, float32 [64, 64] band-passed grey, for `cut_score`.

    model_image: uint8 [H, W, C]. None if there is too little to judge by: a dark, blank or blurred picture.
    """
    grey = model_image[:, :, 0] if model_image.shape[2] == 1 else cv2.cvtColor(model_image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIZE, _SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
    band = cv2.GaussianBlur(small, (0, 0), _FINE) - cv2.GaussianBlur(small, (0, 0), _COARSE)
    return band if len(_textured_blocks(band)) >= _MIN_BLOCKS else None


def cut_score(before: np.ndarray, after: np.ndarray) -> float:
    """Return how much of a picture's structure is gone in the next, 0 (all there) to 1 (nothing left).

    The median over textured blocks of 1 - the best normalised cross-correlation within 4 px (of 64).
    before, after: from `structure`.
    """
    padded = cv2.copyMakeBorder(after, _REACH, _REACH, _REACH, _REACH, cv2.BORDER_CONSTANT)
    best = []
    for row, column in _textured_blocks(before):
        block = before[row : row + _BLOCK, column : column + _BLOCK]
        window = padded[row : row + _BLOCK + 2 * _REACH, column : column + _BLOCK + 2 * _REACH]
        correlation = cv2.matchTemplate(window, block, cv2.TM_CCOEFF_NORMED)
        best.append(np.max(correlation, where=np.isfinite(correlation), initial=0.0))  # NaN over an empty window
    return float(1.0 - np.median(best))


def is_cut(before: np.ndarray, after: np.ndarray, steps: int, threshold: float = DEFAULT_THRESHOLD) -> bool:
    """Say whether a new scene began between two pictures that lie `steps` model steps apart."""
    return cut_score(before, after) > threshold * (1.0 + GROWTH_PER_STEP * (steps - 1))


def _textured_blocks(band: np.ndarray) -> list[tuple[int, int]]:
    corners = range(_MARGIN, _SIZE - _BLOCK + 1, _BLOCK)
    return [
        (row, column)
        for row in corners
        for column in corners
        if band[row : row + _BLOCK, column : column + _BLOCK].std() >= _MIN_CONTRAST
    ]
