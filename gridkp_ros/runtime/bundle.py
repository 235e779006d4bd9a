"""The bundle: a folder of ONNX graphs and the manifest that says what they mean.

Everything is checked before any graph runs: the manifest field by field, every graph by its SHA-256, that no graph
reaches for data outside the folder or uses operators that do more than arithmetic, and that nothing is larger than any
model of this kind needs to be. Nothing in a bundle is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from gridkp_ros.familiarity import Familiarity, FamiliarityError
from gridkp_ros.geometry import GeometryError, InputSpec
from gridkp_ros.runtime.files import read_regular_file
from gridkp_ros.runtime.onnx_file import OnnxFileError, TensorType, read_contents, read_signature
from gridkp_ros.runtime.variants import EQUAL, Variant, VariantError, check_variants, variant_file
from gridkp_ros.track_models import TrackModelError, TrackModels

SCHEMA_VERSION = 1
GRAPHS = ("detect", "update", "forecast", "encode", "render")
MANIFEST_FILE = "manifest.json"
OPTIONAL = ("baselines", "familiarity")  # sections that a manifest may lack

_GRAPH_FILE = re.compile(rf"(?:{'|'.join(GRAPHS)})(?:\.[A-Za-z0-9_-]+)?\.onnx")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PICKLED_SUFFIXES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"})
# Far above what any model here needs, and small enough for a manifest that lies not to exhaust the machine.
_MAX_MANIFEST_BYTES, _MAX_GRAPH_BYTES, _MAX_FILES = 16 << 20, 1 << 30, 256
_MAX_SIDE, _MAX_KEYPOINTS, _MAX_POSE_FIELDS, _MAX_TENSORS = 4096, 1024, 16, 64
_MAX_ELEMENTS = 1 << 24  # of all tensors of one item: 64 MiB
_MAX_STEPS = 10_000
_MIN_PERIOD_S, _MAX_PERIOD_S = 1e-3, 60.0
_MAX_NAME = 128
_RESERVED_TENSORS = frozenset({"image", "pose", "confidence", "spread", "frames"})


class BundleError(ValueError):
    """A bundle cannot be trusted or understood; the message names the file, the field and what to do."""


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 lower-case hex digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@dataclass(frozen=True)
class TensorSpec:
    """A float32 tensor of a graph: its name, and its shape per item (without batch, sample and time)."""

    name: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_tensor("tensor", self.name, self.shape)


@dataclass(frozen=True)
class Condition:
    """A float32 input of `forecast` [B, *shape] with a default, flat values, for who does not set it."""

    name: str
    shape: tuple[int, ...]
    default: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_tensor("condition", self.name, self.shape)
        if len(self.default) != math.prod(self.shape) or not all(_is_finite(v) for v in self.default):
            raise BundleError(
                f"condition {self.name!r}: default {self.default!r} is not {math.prod(self.shape)} finite numbers"
            )


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear map from a pose to named points, fitted on ground truth: point = weight @ pose.ravel() + bias.

    point_names: M names; weight: float64 [2M, K*P], rows x0, y0, x1, ...; bias: float64 [2M], model pixels;
    covariance: float64 [M, 3] (xx, xy, yy), what the fit left over, model px^2.
    """

    point_names: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    covariance: np.ndarray

    def __post_init__(self) -> None:
        names = self.point_names
        if not names or not all(isinstance(n, str) and n for n in names) or len(set(names)) != len(names):
            raise BundleError(f"probe.point_names {names!r}: give at least one name, each once and none empty")
        if len(names) > _MAX_KEYPOINTS or not all(n.isprintable() and len(n) <= _MAX_NAME for n in names):
            raise BundleError(
                f"probe.point_names: at most {_MAX_KEYPOINTS} names, printable and of at most {_MAX_NAME} characters"
            )
        for key, shape in (
            ("weight", (2 * len(names), None)),
            ("bias", (2 * len(names),)),
            ("covariance", (len(names), 3)),
        ):
            value = np.array(getattr(self, key), dtype=np.float64)
            value.setflags(write=False)
            if value.ndim != len(shape) or any(
                want not in (None, got) for want, got in zip(shape, value.shape, strict=True)
            ):
                raise BundleError(f"probe.{key} has shape {value.shape}, expected {shape} for {len(names)} points")
            if not np.isfinite(value).all():
                raise BundleError(f"probe.{key} holds values that are not finite: fit the probe again")
            object.__setattr__(self, key, value)
        xx, xy, yy = self.covariance.T
        if (xx < 0).any() or (yy < 0).any() or (xy * xy > xx * yy * (1 + 1e-9)).any():
            raise BundleError("probe.covariance is not positive semi-definite for every point: fit the probe again")

    def points(self, pose: np.ndarray) -> np.ndarray:
        """Map poses [..., K, P] to named points [..., M, 2], both in model pixels."""
        flat = np.asarray(pose, dtype=np.float64).reshape(*pose.shape[:-2], -1)
        return (flat @ self.weight.T + self.bias).reshape(*pose.shape[:-2], -1, 2)


@dataclass(frozen=True)
class Manifest:
    """What a bundle declares about itself (manifest.json). Every field is checked on construction.

    Attributes:
        name: the bundle's name, used in `model_id`.
        family: the model family, e.g. "gridkp".
        input: size, channels and resize policy of the model's image.
        num_keypoints: K.
        pose_fields: the P numbers of a keypoint, "x" and "y" (model pixels) first.
        grid_width, grid_height: cells of the keypoint grid, one to a model pixel; None without a grid.
        period_s: seconds between two steps.
        state: state tensors, shapes per item.
        update_noise, forecast_noise: noise tensors, shapes per item (forecast's is fed as [B, S, T, *shape]).
        features: appearance tensors from `encode` to `render`.
        conditions: further inputs of `forecast` with defaults.
        clip_length: frames of a training clip.
        trusted_steps: the longest horizon the model was evaluated at, in steps.
        max_steps_per_call: most steps in one `forecast` call; longer horizons call again from that state.
        can_coast: whether `forecast` advances the state through missing frames.
        coast_graph: file that does so where `forecast.onnx` fixes T, else None.
        graphs: SHA-256 of every .onnx file in the folder, by file name.
        probe: map from poses to named points, or None.
        baselines: linear models of keypoint tracks fitted on the training data, for the evaluation alone, or None; the
            field may be absent from the file.
        familiarity: how the detector answers on its training images, or None; the field may be absent from the file.
        variants: reduced variants of graphs by name, with what each loses; the field may be absent from the file.
        provenance: data, seeds, commit, steps, machine, measured results (any JSON).
        licence: licence of the weights.
        schema_version: of this manifest.
    """

    name: str
    family: str
    input: InputSpec
    num_keypoints: int
    pose_fields: tuple[str, ...]
    grid_width: int | None
    grid_height: int | None
    period_s: float
    state: tuple[TensorSpec, ...]
    update_noise: TensorSpec
    forecast_noise: TensorSpec
    features: tuple[TensorSpec, ...]
    clip_length: int
    trusted_steps: int
    max_steps_per_call: int
    graphs: dict[str, str]
    licence: str
    conditions: tuple[Condition, ...] = ()
    can_coast: bool = True
    coast_graph: str | None = None
    probe: Probe | None = None
    baselines: TrackModels | None = None
    familiarity: Familiarity | None = None
    variants: dict[str, Variant] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION or isinstance(self.schema_version, bool):
            raise BundleError(
                f"schema_version is {self.schema_version!r}, this runtime reads {SCHEMA_VERSION}: "
                "export the model again, or install the version of gridkp_ros that made it"
            )
        for key in ("name", "family"):
            _check_identifier(key, getattr(self, key))
        if not isinstance(self.licence, str) or not self.licence.strip() or not self.licence.isprintable():
            raise BundleError("licence is empty or no line of text: name the licence of the weights, e.g. 'Apache-2.0'")
        if not isinstance(self.input, InputSpec):
            raise BundleError(f"input is {self.input!r}: give an InputSpec")
        _check_positive_int("num_keypoints", self.num_keypoints, _MAX_KEYPOINTS)
        for key in ("clip_length", "trusted_steps", "max_steps_per_call"):
            _check_positive_int(key, getattr(self, key), _MAX_STEPS)
        for key in ("width", "height"):
            _check_positive_int(f"input.{key}", getattr(self.input, key), _MAX_SIDE)
        if not (_is_finite(self.period_s) and _MIN_PERIOD_S <= self.period_s <= _MAX_PERIOD_S):
            raise BundleError(
                f"period_s is {self.period_s!r}: give the seconds between two steps, {_MIN_PERIOD_S} to {_MAX_PERIOD_S}"
            )
        if not isinstance(self.can_coast, bool):
            raise BundleError(f"can_coast is {self.can_coast!r}: use true or false")
        if not isinstance(self.provenance, dict):
            raise BundleError(f"provenance is {type(self.provenance).__name__}: use an object")
        self._check_pose_and_grid()
        self._check_tensors()
        self._check_graphs()
        if self.probe is not None:
            width = self.num_keypoints * self.num_fields
            if self.probe.weight.shape[1] != width:
                raise BundleError(
                    f"probe.weight has {self.probe.weight.shape[1]} columns, K * P is {width}: fit it again"
                )

        if self.baselines is not None and self.baselines.num_keypoints != self.num_keypoints:
            raise BundleError(
                f"baselines are of {self.baselines.num_keypoints} keypoints, the model has {self.num_keypoints}: "
                "export the bundle again"
            )
        if self.familiarity is not None and self.familiarity.num_keypoints != self.num_keypoints:
            raise BundleError(
                f"familiarity is of {self.familiarity.num_keypoints} keypoints, the model has {self.num_keypoints}: "
                "export the bundle again"
            )

    def _check_pose_and_grid(self) -> None:
        names = self.pose_fields
        if (
            tuple(names[:2]) != ("x", "y")
            or len(set(names)) != len(names)
            or not all(isinstance(n, str) for n in names)
            or len(names) > _MAX_POSE_FIELDS
        ):
            raise BundleError(
                f"pose_fields is {names!r}: it starts with 'x', 'y' and names each field once, "
                f"{_MAX_POSE_FIELDS} at most"
            )
        for name in names:
            _check_identifier("a name in pose_fields", name)
        grid = (self.grid_width, self.grid_height)
        if grid != (None, None) and grid != (self.input.width, self.input.height):
            raise BundleError(
                f"grid_width, grid_height are {grid}, the input is {self.input.width}x{self.input.height}: "
                "a grid has one cell for a model pixel; use the input's size, or null where there is no grid"
            )

    def _check_tensors(self) -> None:
        groups = (
            ("state", TensorSpec, self.state),
            ("features", TensorSpec, self.features),
            ("conditions", Condition, self.conditions),
            ("update_noise", TensorSpec, (self.update_noise,)),
            ("forecast_noise", TensorSpec, (self.forecast_noise,)),
        )
        for key, kind, specs in groups:
            if not isinstance(specs, tuple) or not all(isinstance(s, kind) for s in specs):
                raise BundleError(f"{key} is {specs!r}: give {kind.__name__} entries")
            if len(specs) > _MAX_TENSORS:
                raise BundleError(f"{key} has {len(specs)} entries: at most {_MAX_TENSORS} are read")
        for key, graph in (("state", "update"), ("features", "encode")):
            if not getattr(self, key):
                raise BundleError(f"{key} is empty, so {graph} would have no outputs: export the bundle again")
        for key, specs in (
            ("state and update_noise", (*self.state, self.update_noise)),
            ("state, forecast_noise and conditions", (*self.state, self.forecast_noise, *self.conditions)),
            ("features", self.features),
        ):
            names = [s.name for s in specs]
            taken = sorted({n for n in names if names.count(n) > 1 or n in _RESERVED_TENSORS})
            if taken:
                raise BundleError(f"{key}: tensor names {', '.join(taken)} are used twice or reserved; rename them")
        numbers = sum(math.prod(spec.shape) for _, _, specs in groups for spec in specs)
        if numbers > _MAX_ELEMENTS:
            raise BundleError(
                f"state, noise, features and conditions hold {numbers} numbers in all: at most {_MAX_ELEMENTS} are "
                "possible"
            )

    def _check_graphs(self) -> None:
        if not isinstance(self.graphs, dict):
            raise BundleError(f"graphs is {type(self.graphs).__name__}: use an object of file name to SHA-256")
        for name, digest in self.graphs.items():
            if not isinstance(name, str) or not _GRAPH_FILE.fullmatch(name):
                raise BundleError(
                    f"graphs: {name!r} is no graph of this folder; names are <graph>.onnx or "
                    f"<graph>.<variant>.onnx with <graph> one of {', '.join(GRAPHS)}"
                )
            if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
                raise BundleError(f"graphs: the checksum of {name} is {digest!r}, expected 64 lower-case hex digits")
        missing = [g for g in GRAPHS if f"{g}.onnx" not in self.graphs]
        if missing:
            raise BundleError(f"graphs lacks {', '.join(f'{g}.onnx' for g in missing)}: export the bundle again")
        if self.coast_graph is not None and (
            not str(self.coast_graph).startswith("forecast.") or self.coast_graph not in self.graphs
        ):
            raise BundleError(f"coast_graph {self.coast_graph!r} is not a forecast.<variant>.onnx listed in graphs")
        if self.coast_graph is not None and not self.can_coast:
            raise BundleError(f"coast_graph is {self.coast_graph!r} though can_coast is false: set one or the other")

        try:
            check_variants(self.variants, self.graphs, self.coast_graph)
        except VariantError as error:
            raise BundleError(f"variants: {error}") from error

    def file_of(self, graph: str, variant: str = "") -> str:
        """File of one of the five graphs: a variant's where it has one, else the graph as it is.

        variant: "" or "equal" for none. Raises BundleError for one that the bundle does not have.
        """
        if variant in ("", EQUAL):
            return f"{graph}.onnx"
        if variant not in self.variants:
            raise BundleError(
                f"{self.name} has no variant {variant!r}: it has {', '.join((EQUAL, *self.variants))}; export it with "
                "--variants for others"
            )
        return variant_file(graph, variant) if graph in self.variants[variant].graphs else f"{graph}.onnx"

    @property
    def num_fields(self) -> int:
        """P, numbers for each keypoint."""
        return len(self.pose_fields)

    @property
    def has_grid(self) -> bool:
        """Whether keypoints sit on the cells of a grid."""
        return self.grid_width is not None

    @property
    def model_id(self) -> str:
        """Name and the first 12 hex digits of a hash over the graphs' hashes."""
        digest = hashlib.sha256("\n".join(sorted(self.graphs.values())).encode()).hexdigest()
        return f"{self.name}@{digest[:12]}"

    def tensors(self, graph: str) -> tuple[dict[str, TensorType], dict[str, TensorType]]:
        """Return the inputs and outputs of one of the five graphs by name.

        Dimensions are numbers, or "B" (batch), "S" (samples), "T" (steps), "N" (frames to render) where free.
        """
        h, w, c = self.input.height, self.input.width, self.input.channels
        k, p = self.num_keypoints, self.num_fields
        image = {"image": TensorType("uint8", ("B", h, w, c))}
        features = {s.name: TensorType("float32", ("B", *s.shape)) for s in self.features}

        def state(lead: tuple[str, ...], suffix: str = "") -> dict[str, TensorType]:
            return {s.name + suffix: TensorType("float32", (*lead, *s.shape)) for s in self.state}

        if graph == "detect":
            return image, {
                "pose": TensorType("float32", ("B", k, p)),
                "confidence": TensorType("float32", ("B", k)),
            }
        if graph == "update":
            pose = {"pose": TensorType("float32", ("B", k, p))}
            noise = {self.update_noise.name: TensorType("float32", ("B", *self.update_noise.shape))}
            return {**state(("B",)), **pose, **noise}, state(("B",), "_out")
        if graph == "forecast":
            lead = ("B", "S", "T")
            noise = {self.forecast_noise.name: TensorType("float32", (*lead, *self.forecast_noise.shape))}
            conditions = {s.name: TensorType("float32", ("B", *s.shape)) for s in self.conditions}
            return {**state(lead[:2]), **noise, **conditions}, {
                "pose": TensorType("float32", (*lead, k, p)),
                "spread": TensorType("float32", (*lead, k, 3)),
                "confidence": TensorType("float32", (*lead, k)),
                **state(lead[:2], "_out"),
            }
        if graph == "encode":
            return {**image, "pose": TensorType("float32", ("B", k, p))}, features
        if graph == "render":
            pose = {"pose": TensorType("float32", ("B", "N", k, p))}
            return {**features, **pose}, {"frames": TensorType("uint8", ("B", "N", h, w, c))}
        raise BundleError(f"{graph!r} is not a graph of a bundle: use one of {', '.join(GRAPHS)}")

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as plain JSON values."""
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        out["input"] = self.input.to_dict()
        out["pose_fields"] = list(self.pose_fields)
        for key in ("state", "features", "conditions"):
            out[key] = [_plain(s) for s in getattr(self, key)]
        for key in ("update_noise", "forecast_noise"):
            out[key] = _plain(getattr(self, key))
        if self.probe is not None:
            out["probe"] = {
                "point_names": list(self.probe.point_names),
                **{key: getattr(self.probe, key).tolist() for key in ("weight", "bias", "covariance")},
            }
        for key in OPTIONAL:
            if out[key] is None:
                del out[key]
            else:
                out[key] = out[key].to_dict()
        out["variants"] = {name: v.to_dict() for name, v in self.variants.items()}
        if not self.variants:
            del out["variants"]
        return {"schema_version": out.pop("schema_version"), **out}

    def to_json(self) -> str:
        """Return manifest.json's text; the same manifest always gives the same bytes."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, folder: str | Path) -> Path:
        """Write manifest.json into a folder and return its path."""
        path = Path(folder) / MANIFEST_FILE
        path.write_text(self.to_json(), encoding="utf-8")
        return path

    @classmethod
    def from_json(cls, text: str, source: str = MANIFEST_FILE) -> Manifest:
        """Read and check a manifest; `source` names it in the BundleError it raises."""
        try:
            data = json.loads(
                text, object_pairs_hook=_no_duplicates, parse_constant=_no_constants, parse_float=_finite_float,
                parse_int=_whole_number,
            )
            if "\\u" in text:  # half of a surrogate pair could be put neither into a log nor into a message
                json.dumps(data, ensure_ascii=False).encode()
        except BundleError as error:
            raise BundleError(f"{source}: {error}") from error
        except (ValueError, RecursionError) as error:  # JSONDecodeError is a ValueError
            raise BundleError(f"{source} is not valid JSON ({error}): copy or export the bundle again") from error
        try:
            return cls._from_dict(data)
        except (BundleError, GeometryError, TrackModelError, FamiliarityError) as error:
            raise BundleError(f"{source}: {error}") from error

    @classmethod
    def _from_dict(cls, data: Any) -> Manifest:
        if isinstance(data, dict) and data.get("schema_version") != SCHEMA_VERSION:
            raise BundleError(
                f"schema_version is {data.get('schema_version')!r}, this runtime reads {SCHEMA_VERSION}: "
                "export the model again, or install the version of gridkp_ros that made it"
            )
        if isinstance(data, dict):
            data = {**dict.fromkeys(OPTIONAL), "variants": {}, **data}
        values = dict(_object("manifest", data, cls))
        spec = _object("input", values["input"], InputSpec)
        for key in ("height", "width", "channels", "fill"):
            if not isinstance(spec[key], int) or isinstance(spec[key], bool):
                raise BundleError(f"input.{key} is {spec[key]!r}: use a whole number")
        values["input"] = InputSpec(**spec)
        values["pose_fields"] = tuple(_list("pose_fields", values["pose_fields"]))
        for key in ("state", "features"):
            values[key] = tuple(_tensor(f"{key}[{i}]", v) for i, v in enumerate(_list(key, values[key])))
        for key in ("update_noise", "forecast_noise"):
            values[key] = _tensor(key, values[key])
        conditions = []
        for i, value in enumerate(_list("conditions", values["conditions"])):
            entry = _object(f"conditions[{i}]", value, Condition)
            shape = tuple(_list(f"conditions[{i}].shape", entry["shape"]))
            default = tuple(_list(f"conditions[{i}].default", entry["default"]))
            conditions.append(Condition(entry["name"], shape, default))
        values["conditions"] = tuple(conditions)
        if values["probe"] is not None:
            probe = _object("probe", values["probe"], Probe)
            arrays = {key: _array(f"probe.{key}", probe[key]) for key in ("weight", "bias", "covariance")}
            values["probe"] = Probe(tuple(_list("probe.point_names", probe["point_names"])), **arrays)
        if values["baselines"] is not None:
            values["baselines"] = TrackModels.from_dict(values["baselines"])
        if values["familiarity"] is not None:
            values["familiarity"] = Familiarity.from_dict(values["familiarity"])
        if not isinstance(values["variants"], dict):
            raise BundleError(f"variants is {type(values['variants']).__name__}: use an object of name to variant")
        try:
            values["variants"] = {name: Variant.from_dict(v) for name, v in values["variants"].items()}
        except VariantError as error:
            raise BundleError(f"variants: {error}") from error
        return cls(**values)


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: `path` is the folder its files really lie in."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Read a bundle and check all of it.

        Raises BundleError with a sentence that names the file and what to do.
        """
        folder = Path(path).expanduser()
        try:
            return cls._load(folder)
        except OSError as error:  # taken away, or forbidden, while it is read
            raise BundleError(f"{folder} cannot be read ({error}): copy or export the bundle again") from error

    @classmethod
    def _load(cls, folder: Path) -> Bundle:
        manifest_path = folder / MANIFEST_FILE
        if not folder.is_dir():
            raise BundleError(f"{folder} is not a folder: give the folder that holds {MANIFEST_FILE}")
        if not manifest_path.is_file():
            raise BundleError(f"{manifest_path} is missing: give the folder of an exported model (gridkp export)")
        # A symlinked install links each file to its source, so the folder that counts is the one the manifest
        # is in: the link means that bundle.
        folder = manifest_path.resolve().parent
        if manifest_path.resolve().name != MANIFEST_FILE:
            raise BundleError(f"{manifest_path} is a link to {manifest_path.resolve()}: put the file itself there")
        manifest_path = folder / MANIFEST_FILE
        try:
            text = read_regular_file(manifest_path, _MAX_MANIFEST_BYTES).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{manifest_path} cannot be read ({error}): copy or export the bundle again") from error
        bundle = cls(folder, Manifest.from_json(text, str(manifest_path)))
        for count, entry in enumerate(folder.iterdir(), start=1):
            if count > _MAX_FILES:
                raise BundleError(f"{folder} holds more than {_MAX_FILES} files: give the folder of one bundle")
            # A name is quoted: it may hold anything, line breaks too.
            if entry.suffix.lower() in _PICKLED_SUFFIXES:
                raise BundleError(
                    f"{folder}: {entry.name!r} is a pickle-based file, which a bundle must not hold: remove it"
                )
            if entry.suffix == ".onnx" and entry.name not in bundle.manifest.graphs:
                raise BundleError(
                    f"{folder}: {entry.name!r} is not listed in {manifest_path.name}: remove it or export the bundle "
                    "again"
                )
        for name in bundle.manifest.graphs:
            bundle.read_graph(name)
        return bundle

    def read_graph(self, file: str) -> bytes:
        """Return the bytes of a graph file after checking its checksum, that it is whole, and its shapes."""
        path = self._file_path(file)
        try:
            content = read_regular_file(path, _MAX_GRAPH_BYTES)
        except FileNotFoundError as error:
            raise BundleError(
                f"{path} is missing though the manifest lists it: copy or export the bundle again"
            ) from error
        except OSError as error:
            raise BundleError(f"{path} cannot be read ({error}): copy or export the bundle again") from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.manifest.graphs[file]:
            raise BundleError(
                f"{path} has SHA-256 {digest[:12]}..., the manifest says {self.manifest.graphs[file][:12]}...: "
                "the file was changed or damaged; copy or export the bundle again"
            )
        try:
            objection = read_contents(content).objection()
            inputs, outputs = read_signature(content)
        except OnnxFileError as error:
            raise BundleError(f"{path} is not an ONNX file ({error}): export the bundle again") from error
        if objection:
            raise BundleError(f"{path} {objection}, which a bundle must not: export the bundle again (gridkp export)")
        promised_inputs, promised_outputs = self.manifest.tensors(file.split(".")[0])
        _check_signature(path, "input", inputs, promised_inputs)
        _check_signature(path, "output", outputs, promised_outputs)
        return content

    def _file_path(self, file: str) -> Path:
        if file not in self.manifest.graphs:
            raise BundleError(f"{self.path} has no graph {file}: it has {', '.join(sorted(self.manifest.graphs))}")
        return self.path / file


def _plain(spec: TensorSpec | Condition) -> dict[str, Any]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(spec).items()}


def _check_signature(
    path: Path, side: str, stated: Mapping[str, TensorType], promised: Mapping[str, TensorType]
) -> None:
    """Compare what a graph file states about itself with what the manifest promises."""
    if set(stated) != set(promised):
        raise BundleError(
            f"{path} has the {side}s {sorted(stated)}, the manifest promises {sorted(promised)}: "
            "export the bundle again"
        )
    for name, want in promised.items():
        got = stated[name]
        fits = len(got.dims) == len(want.dims) and all(
            _dimension_fits(side, g, w) for g, w in zip(got.dims, want.dims, strict=True)
        )
        if got.dtype != want.dtype or not fits:
            raise BundleError(
                f"{path}: {side} {name!r} is {got.dtype} {list(got.dims)}, the manifest promises "
                f"{want.dtype} {list(want.dims)} (letters: free): export the bundle again"
            )


def _dimension_fits(side: str, stated: int | str, promised: int | str) -> bool:
    if isinstance(promised, int):
        # An input states its size; an output may leave it open, what really comes out is checked when it runs.
        return stated == promised or (side == "output" and isinstance(stated, str))
    # B, S and N must be left free; a family may fix T, the length of one call.
    return side == "output" or promised == "T" or isinstance(stated, str)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_positive_int(key: str, value: Any, highest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise BundleError(f"{key} is {value!r}: use a whole number > 0")
    if value > highest:
        raise BundleError(f"{key} is {value}: at most {highest} is possible here")


def _check_identifier(what: str, value: Any) -> None:
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value) or len(value) > _MAX_NAME:
        raise BundleError(
            f"{what} is {value!r}: use letters, digits, '_', '-' and '.', a letter first, {_MAX_NAME} at most"
        )


def _check_tensor(kind: str, name: Any, shape: Any) -> None:
    _check_identifier(f"a {kind}'s name", name)
    if not isinstance(shape, tuple):
        raise BundleError(f"{kind} {name!r}: shape {shape!r} is not a tuple of whole numbers")
    for size in shape:
        _check_positive_int(f"a dimension of {kind} {name!r}", size, _MAX_ELEMENTS)
    if len(shape) > 8 or math.prod(shape) > _MAX_ELEMENTS:
        raise BundleError(
            f"{kind} {name!r} has shape {list(shape)}: at most {_MAX_ELEMENTS} numbers in at most 8 dimensions are "
            "possible"
        )


def _object(where: str, value: Any, kind: type) -> Mapping[str, Any]:
    """Return value if it is an object with exactly the fields of a dataclass."""
    names = {f.name for f in fields(kind)}
    if not isinstance(value, dict):
        raise BundleError(f"{where} is {type(value).__name__}: use an object with {', '.join(sorted(names))}")
    unknown, missing = sorted(set(value) - names), sorted(names - set(value))
    if unknown:
        raise BundleError(f"{where} has unknown fields {', '.join(unknown)}: remove them, or update gridkp_ros")
    if missing:
        raise BundleError(f"{where} lacks {', '.join(missing)}: export the bundle again")
    return value


def _list(where: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise BundleError(f"{where} is {type(value).__name__}: use a list")
    return value


def _tensor(where: str, value: Any) -> TensorSpec:
    entry = _object(where, value, TensorSpec)
    return TensorSpec(entry["name"], tuple(_list(f"{where}.shape", entry["shape"])))


def _array(where: str, value: Any) -> np.ndarray:
    try:
        return np.array(_list(where, value), dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise BundleError(f"{where} is not a regular array of numbers ({error}): fit the probe again") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        names = [key for key, _ in pairs]
        twice = sorted({key for key in names if names.count(key) > 1})
        raise BundleError(f"{', '.join(twice)} is given twice: keep one")
    return out


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BundleError(f"the number {text[:40]} is too large: export the bundle again")
    return value


def _whole_number(text: str) -> int:
    if len(text) > 19:
        raise BundleError(f"the number {text[:40]} is too large: export the bundle again")
    return int(text)


def _no_constants(text: str) -> float:
    raise BundleError(f"the value {text} is not a number that JSON allows: export the bundle again")
