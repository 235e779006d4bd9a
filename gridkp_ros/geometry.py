"""Pixels of the received image <-> model input <-> grid cells: the only place where coordinates change meaning.

Everywhere: x to the right, y down, pixel (0, 0) is the *centre* of the top-left pixel, so an image of width W covers
[-0.5, W - 0.5]. A grid of W cells covers W model pixels one to one: cell c is centred on model pixel c.

The resampling of pixels lives here too, because a mapping of points and the mapping of the picture they were found in
must not be able to drift apart.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import cv2
import numpy as np

RESIZE_POLICIES = ("stretch", "letterbox", "center_crop")
EYES = ("left", "right")  # of a side-by-side stereo image, in this order everywhere
INTERPOLATIONS = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR}
_ROWS_FIRST = 6  # rows of an area from which on summing them first is faster (320x240 to 64x64 has 3.75, 640x480 7.5)
_MANY = 16  # bands from which on NumPy sums rows faster than OpenCV (1280x720 to 64x64 has 16, 1920x1080 has 8)
_LEFT_TO_AVERAGE = 4  # pixels in each direction


class GeometryError(ValueError):
    """An image, region or point set does not fit the geometry it is used with."""


@dataclass(frozen=True)
class Region:
    """A rectangle of whole pixels in the image as received: left column, top row, width, height."""

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.x < 0 or self.y < 0 or self.width <= 0 or self.height <= 0:
            raise GeometryError(
                f"region x={self.x} y={self.y} width={self.width} height={self.height}: "
                "the corner must be >= 0 and the size > 0"
            )

    def check_inside(self, width: int, height: int) -> None:
        """Raise GeometryError unless the region lies inside an image of this size."""
        if self.x + self.width > width or self.y + self.height > height:
            raise GeometryError(
                f"region x={self.x} y={self.y} {self.width}x{self.height} reaches outside the image of "
                f"{width}x{height}: make it smaller or clear it"
            )


def stereo_half(width: int, height: int, half: str) -> Region | None:
    """Return the region of one eye in a side-by-side image: half is "" (whole image, None), "left" or "right"."""
    if half == "":
        return None
    if half not in EYES:
        raise GeometryError(f"stereo half {half!r}: use '', 'left' or 'right'")
    if width < 2:
        raise GeometryError(f"an image {width} pixels wide has no {half} half")
    return Region(0 if half == "left" else width - width // 2, 0, width // 2, height)


def seen_part(width: int, height: int, half: str, region: Region | None) -> Region | None:
    """Return the part of an image that a model sees: a region of the image, or of one eye (see `stereo_half`).

    None stands for the whole image. Raises GeometryError for a region that reaches outside the image or the eye.
    """
    eye = stereo_half(width, height, half)
    if region is None:
        return eye
    if eye is None:
        region.check_inside(width, height)
        return region
    region.check_inside(eye.width, eye.height)
    return Region(eye.x + region.x, eye.y + region.y, region.width, region.height)


def seen_parts(width: int, height: int, half: str, region: Region | None) -> tuple[Region | None, ...]:
    """Return what each view of a model sees: one part, or with half "both" those of the left and of the right eye.

    None stands for the whole image. Raises GeometryError as `seen_part` does, and for two eyes of unlike width.
    """
    if half != "both":
        return (seen_part(width, height, half, region),)
    if width % 2:
        raise GeometryError(
            f"an image {width} pixels wide does not hold two eyes of one width side by side: give an even width, or "
            "choose the left or the right half"
        )
    return tuple(seen_part(width, height, eye, region) for eye in EYES)


@dataclass(frozen=True)
class InputSpec:
    """What a model takes in, as its manifest declares it, so that training and serving cannot differ.

    height, width: model pixels; channels: 1 (grey) or 3; color: "grey" or "rgb" (the channel order of the tensor);
    resize: "stretch" (aspect not kept), "letterbox" (all of the image, the rest filled) or "center_crop" (the largest
    centred part of the model's aspect); interpolation: "area" or "linear" ("area" falls back to linear where OpenCV's
    area filter magnifies, which is OpenCV's own rule); fill: grey level 0..255 of letterbox bars.
    """

    height: int = 64
    width: int = 64
    channels: int = 3
    color: str = "rgb"
    resize: str = "stretch"
    interpolation: str = "area"
    fill: int = 0

    def __post_init__(self) -> None:
        if self.height <= 0 or self.width <= 0:
            raise GeometryError(f"model input {self.width}x{self.height}: both must be positive")
        if (self.channels, self.color) not in ((1, "grey"), (3, "rgb")):
            raise GeometryError(
                f"channels={self.channels} with color={self.color!r}: use 1 with 'grey' or 3 with 'rgb'"
            )
        if self.resize not in RESIZE_POLICIES:
            raise GeometryError(f"resize policy {self.resize!r}: use one of {', '.join(RESIZE_POLICIES)}")
        if self.interpolation not in tuple(INTERPOLATIONS):  # a manifest may hold a list there
            raise GeometryError(f"interpolation {self.interpolation!r}: use one of {', '.join(INTERPOLATIONS)}")
        if not 0 <= self.fill <= 255:
            raise GeometryError(f"fill {self.fill}: use 0 to 255")

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Placement:
    """How one source image size lies in a model's input: an axis-aligned affine map, with the resampling that fits it.

    crop: the part of the source image that is resampled; inner: where in the model image it lands (all of it, but for
    letterbox). Build with `Placement.of`.
    """

    spec: InputSpec
    source_width: int
    source_height: int
    crop: Region
    inner: Region

    @classmethod
    def of(cls, spec: InputSpec, source_width: int, source_height: int, region: Region | None = None) -> Placement:
        """Place images of source_width x source_height pixels, or a region of them, in the model's input.

        Raises GeometryError if the image is empty or the region does not lie inside it.
        """
        if source_width <= 0 or source_height <= 0:
            raise GeometryError(f"an image of {source_width}x{source_height} pixels has no content")
        whole = region or Region(0, 0, source_width, source_height)
        whole.check_inside(source_width, source_height)
        crop, inner = whole, Region(0, 0, spec.width, spec.height)
        if spec.resize == "center_crop":
            scale = min(whole.width / spec.width, whole.height / spec.height)
            w = max(1, min(whole.width, round(spec.width * scale)))
            h = max(1, min(whole.height, round(spec.height * scale)))
            crop = Region(whole.x + (whole.width - w) // 2, whole.y + (whole.height - h) // 2, w, h)
        elif spec.resize == "letterbox":
            scale = min(spec.width / whole.width, spec.height / whole.height)
            w = max(1, min(spec.width, round(whole.width * scale)))
            h = max(1, min(spec.height, round(whole.height * scale)))
            inner = Region((spec.width - w) // 2, (spec.height - h) // 2, w, h)
        return cls(spec, source_width, source_height, crop, inner)

    @property
    def scale(self) -> np.ndarray:
        """Source pixels per model pixel, float64 [2] (x, y)."""
        return np.array([self.crop.width / self.inner.width, self.crop.height / self.inner.height])

    @property
    def _offsets(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array([self.crop.x, self.crop.y], float), np.array([self.inner.x, self.inner.y], float)

    def to_source_points(self, points: np.ndarray) -> np.ndarray:
        """Map model pixels [..., 2] to pixels of the image as received (crop and stereo offsets added)."""
        crop, inner = self._offsets
        return (np.asarray(points) - inner + 0.5) * self.scale - 0.5 + crop

    def to_model_points(self, points: np.ndarray) -> np.ndarray:
        """Map pixels of the image as received [..., 2] to model pixels."""
        crop, inner = self._offsets
        return (np.asarray(points) - crop + 0.5) / self.scale - 0.5 + inner

    def to_source_covariance(self, covariance: np.ndarray) -> np.ndarray:
        """Map covariances [..., 3] (xx, xy, yy) from model px^2 to px^2 of the image as received."""
        sx, sy = self.scale
        return np.asarray(covariance) * np.array([sx * sx, sx * sy, sy * sy])

    @property
    def reduction(self) -> int:
        """By how much images may be reduced while they are decoded: 1, 2, 4 or 8.

        So that areas of 4x4 pixels at least are left to average for each pixel of the model, and only where it sees all
        of the image: a crop may begin within what becomes one pixel.
        """
        if self.crop != Region(0, 0, self.source_width, self.source_height) or self.spec.interpolation != "area":
            return 1
        return next((by for by in (8, 4, 2) if self.scale.min() >= _LEFT_TO_AVERAGE * by), 1)

    def to_model_image(self, image: np.ndarray, reduced_by: int = 1) -> np.ndarray:
        """Resample a received image, uint8 [Hs,Ws] or [Hs,Ws,1|3] (RGB), to the model's uint8 [H,W,C].

        Colour becomes grey and grey is repeated where the model asks for it. reduced_by: what the image has been
        reduced by already, `reduction` at most (its size is that of the source divided by it, rounded up). Raises
        GeometryError if the image has another size or type than this placement was built for.
        """
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
            raise GeometryError(f"image {image.dtype} {image.shape}: expected uint8 [H,W], [H,W,1] or [H,W,3]")
        if not 1 <= reduced_by <= self.reduction:
            raise GeometryError(f"image reduced by {reduced_by}: here by {self.reduction} at most")
        if image.shape[:2] != (-(-self.source_height // reduced_by), -(-self.source_width // reduced_by)):
            raise GeometryError(
                f"image of {image.shape[1]}x{image.shape[0]} pixels in a placement for "
                f"{self.source_width}x{self.source_height}"
            )
        c = self.crop
        part = image[c.y : c.y + c.height, c.x : c.x + c.width] if reduced_by == 1 else image
        if part.ndim == 3 and part.shape[2] == 1:
            part = part[:, :, 0]
        if self.spec.channels == 1 and part.ndim == 3:
            part = cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2GRAY)
        size = (self.inner.width, self.inner.height)
        if part.shape[1::-1] != size:
            part = _resize(part, size, self.spec.interpolation)
        if self.spec.channels == 3 and part.ndim == 2:
            part = cv2.cvtColor(part, cv2.COLOR_GRAY2RGB)
        if part.ndim == 2:
            part = part[:, :, None]
        if size == (self.spec.width, self.spec.height):
            return np.ascontiguousarray(part)
        out = np.full((self.spec.height, self.spec.width, self.spec.channels), self.spec.fill, np.uint8)
        out[self.inner.y : self.inner.y + size[1], self.inner.x : self.inner.x + size[0]] = part
        return out

    def put_back(self, frame: np.ndarray, background: np.ndarray | None = None) -> np.ndarray:
        """Put a model image uint8 [H,W,C] back in its place in an image of the source's size, uint8 [Hs,Ws,C].

        background (same size and channels, copied) fills what the model never saw; black without one.
        """
        if frame.shape != (self.spec.height, self.spec.width, self.spec.channels):
            raise GeometryError(
                f"frame {frame.shape} is not a model image of {(self.spec.height, self.spec.width, self.spec.channels)}"
            )
        shape = (self.source_height, self.source_width, self.spec.channels)
        if background is None:
            out = np.zeros(shape, np.uint8)
        elif background.shape == shape:
            out = background.copy()
        else:
            raise GeometryError(f"background {background.shape} does not match the image as received {shape}")
        i, c = self.inner, self.crop
        part = np.ascontiguousarray(frame[i.y : i.y + i.height, i.x : i.x + i.width])
        part = cv2.resize(part, (c.width, c.height), interpolation=cv2.INTER_LINEAR)
        out[c.y : c.y + c.height, c.x : c.x + c.width] = part.reshape(c.height, c.width, self.spec.channels)
        return out


def _resize(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Resample uint8 [H,W] or [H,W,C] to (width, height); INTERPOLATIONS has the names.

    Large images averaged over areas are first summed over the rows of each area, which OpenCV's own way does not do:
    the same values (but for rounding: one grey level in fewer than 1 of 500), and 1920x1080 eight times as fast.
    """
    width, height = size
    if interpolation != "area" or image.shape[0] < _ROWS_FIRST * height or image.shape[1] < width:
        return cv2.resize(image, size, interpolation=INTERPOLATIONS[interpolation])
    # Bands of `rows` rows make `areas` rows of the result each: of 480 rows 32 bands of 15 make 2 each.
    bands = math.gcd(image.shape[0], height)
    rows, areas = image.shape[0] // bands, height // bands
    parts = image.reshape(bands, rows, *image.shape[1:])
    sums = np.empty((bands, areas, *image.shape[1:]), np.float32)
    for area in range(areas):
        (first, outside), (last, inside) = divmod(area * rows, areas), divmod((area + 1) * rows, areas)
        sums[:, area] = _sum_rows(parts[:, first:last])
        # The first and the last row lie in the area with a part of their height only.
        if outside:
            sums[:, area] -= parts[:, first] * np.float32(outside / areas)
        if inside:
            sums[:, area] += parts[:, last] * np.float32(inside / areas)
    sums = sums.reshape(height, *image.shape[1:])
    means = cv2.resize(sums, size, interpolation=cv2.INTER_AREA) / np.float32(rows / areas)
    return np.rint(means).astype(np.uint8)


def _sum_rows(parts: np.ndarray) -> np.ndarray | list[np.ndarray]:
    """Sum images uint8 [N,rows,...] over their rows: in one call where they are many and low, else one by one."""
    if len(parts) >= _MANY and parts.shape[1] < 256:  # the sum fits 16 bits
        return np.add.reduce(parts, axis=1, dtype=np.uint16)
    return [cv2.reduce(part, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32F)[0] for part in parts]


def points_to_cells(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Snap model pixels [..., 2] to the nearest cell of a width x height grid: uint16 [..., 2], column then row."""
    cells = np.rint(np.asarray(points, dtype=np.float64))
    return np.clip(cells, 0, (width - 1, height - 1)).astype(np.uint16)
