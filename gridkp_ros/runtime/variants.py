"""Reduced variants of a bundle's graphs: fewer bits for more speed, with what that loses.

A variant `int8` of `forecast` is the file `forecast.int8.onnx`; graphs that it leaves alone are used as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

EQUAL = "equal"  # what the graphs as they are go by; no variant may be called so
PROVIDERS = ("cpu", "cuda", "tensorrt")
_NAME = re.compile(r"[A-Za-z0-9_-]+")


class VariantError(ValueError):
    """A variant is not declared as it must be, or is not there; the message says which and what to do."""


@dataclass(frozen=True)
class Loss:
    """How far a variant's forecasts are from those of the equal graphs, from the same states with the same noise.

    Attributes:
        measured_on: which states.
        steps: numbers of steps ahead that the other fields are of.
        distance_cells: mean distance between a keypoint in the one forecast and in the other.
        same_cells: share of keypoints in the same cell.
        spread_ratio: mean root of the published covariance's trace, that of the equal graphs being 1.
    """

    measured_on: str
    steps: tuple[int, ...]
    distance_cells: tuple[float, ...]
    same_cells: tuple[float, ...]
    spread_ratio: tuple[float, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.measured_on, str) or not self.measured_on.strip():
            raise VariantError("loss.measured_on is empty: say which states it was measured on")
        for field in fields(self)[1:]:
            values = getattr(self, field.name)
            numbers = all(
                isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) and v >= 0 for v in values
            )
            if not values or len(values) != len(self.steps) or not numbers:
                raise VariantError(
                    f"loss.{field.name} is {list(values)}: one finite number >= 0 for each of loss.steps"
                )
        if any(not isinstance(s, int) or s < 1 for s in self.steps) or sorted(set(self.steps)) != list(self.steps):
            raise VariantError(f"loss.steps is {list(self.steps)}: whole numbers of steps, rising, from 1")


@dataclass(frozen=True)
class Variant:
    """One reduced variant.

    graphs: which it has; providers: which gain by it; description: what is reduced; loss: measured.
    """

    graphs: tuple[str, ...]
    providers: tuple[str, ...]
    description: str
    loss: Loss

    def __post_init__(self) -> None:
        if not isinstance(self.description, str) or not self.description.strip():
            raise VariantError("description is empty: say what is reduced")
        for key in ("graphs", "providers"):
            names = getattr(self, key)
            if not names or len(set(names)) != len(names) or not all(isinstance(n, str) for n in names):
                raise VariantError(f"{key} is {list(names)}: name at least one, each once")
        unknown = [p for p in self.providers if p not in PROVIDERS]
        if unknown:
            raise VariantError(f"providers has {', '.join(unknown)}: use some of {', '.join(PROVIDERS)}")

    def graphs_and_loss(self) -> str:
        """What it has and what it loses, in a line."""
        off = ", ".join(
            f"{d:.3g} cells at {s} steps" for s, d in zip(self.loss.steps, self.loss.distance_cells, strict=True)
        )
        return f"{', '.join(self.graphs)} on {', '.join(self.providers)}; off the equal forecast by {off}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, data: Any) -> Variant:
        """Read what `to_dict` gives. Raises VariantError."""
        values = _fields("variant", data, cls)
        loss = _fields("loss", values["loss"], Loss)
        measured = {key: _list(f"loss.{key}", v) for key, v in loss.items() if key != "measured_on"}
        return cls(
            graphs=_list("graphs", values["graphs"]),
            providers=_list("providers", values["providers"]),
            description=values["description"],
            loss=Loss(measured_on=loss["measured_on"], **measured),
        )


def variant_file(graph: str, variant: str) -> str:
    """File name of a variant of a graph."""
    return f"{graph}.{variant}.onnx"


def check_variants(variants: Mapping[str, Variant], files: Mapping[str, str], other: str | None) -> None:
    """Raise VariantError unless variants and the graph files of a manifest fit; other: a file that is none of them."""
    expected = set() if other is None else {other}
    for name, variant in variants.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == EQUAL:
            raise VariantError(f"{name!r} is no name of a variant: letters, digits, '_', '-', and not {EQUAL!r}")
        for graph in variant.graphs:
            file = variant_file(graph, name)
            if file not in files:
                raise VariantError(f"{name!r} has {graph!r}, but graphs lists no {file}: export the bundle again")
            expected.add(file)
    undeclared = sorted(f for f in files if f.count(".") > 1 and f not in expected)
    if undeclared:
        raise VariantError(f"graphs lists {', '.join(undeclared)}, which no variant declares: export the bundle again")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _fields(where: str, value: Any, kind: type) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    if not isinstance(value, dict) or set(value) != names:
        raise VariantError(f"{where} is not an object with exactly {', '.join(sorted(names))}: export the bundle again")
    return value


def _list(where: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise VariantError(f"{where} is {type(value).__name__}: use a list")
    return tuple(value)
