"""A small but real bundle: five ONNX graphs whose answers can be worked out by hand, made without PyTorch.

Four keypoints, one for each quadrant of a 64x64 image (top left, top right, bottom left, bottom right):
- detect: the brightness-weighted centroid of each quadrant (weights: grey squared), rounded to a cell;
  confidence is the quadrant's (max - mean) / 255.
- update: state h [4,2] becomes the pose, c [4,2] the step from the last pose (0 for the first) plus the
  noise's mean, n [1] counts steps.
- forecast: constant velocity h + c t plus a random walk from the noise (one px of standard deviation a step
  at temperature 1, the same for all keypoints), rounded to cells and clipped; spread 0.25 px^2; confidence
  0.5.
- encode: the image as float [C,H,W]; render: the reference image with a 3x3 white square at each keypoint.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gridkp_ros.familiarity import Familiarity
from gridkp_ros.geometry import InputSpec
from gridkp_ros.runtime import Condition, Manifest, Probe, TensorSpec, sha256_of
from gridkp_ros.runtime.variants import Loss, Variant
from gridkp_ros.track_models import KalmanModel, LinearAR, TrackModels

K, P, NOISE = 4, 2, (1, 16, 16)
_FLOAT, _UINT8, _INT64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64


class _Graph:
    """Builds a graph node by node: g("Add", a, b) returns the name of the result."""

    def __init__(self, name: str) -> None:
        self.name, self.nodes, self.constants = name, [], []

    def __call__(self, op: str, *inputs: str, out: str | None = None, **attributes: object) -> str:
        out = out or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def constant(self, value: object, dtype: type = np.float32) -> str:
        name = f"k{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def save(self, path: Path, inputs: dict[str, tuple], outputs: dict[str, tuple]) -> None:
        def values(tensors: dict[str, tuple]) -> list[onnx.ValueInfoProto]:
            return [helper.make_tensor_value_info(n, t, list(dims)) for n, (t, *dims) in tensors.items()]

        graph = helper.make_graph(self.nodes, self.name, values(inputs), values(outputs), self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(path))


def write_tiny_bundle(
    path: str | Path,
    *,
    name: str = "tiny",
    size: int = 64,
    channels: int = 3,
    resize: str = "stretch",
    period_s: float = 1 / 15,
    grid: bool = True,
    probe: bool = True,
    can_coast: bool = True,
    coast_graph: bool = False,
    fixed_steps: int | None = None,
    conditions: bool = False,
    max_steps_per_call: int = 30,
    trusted_steps: int = 15,
    baselines: TrackModels | None = None,
    familiarity: Familiarity | None = None,
    variant: str = "",
) -> Path:
    """Write the bundle into a new folder and return its path.

    probe: named points "left" (mean of keypoints 0 and 2) and "right" (1 and 3); coast_graph: adds
        forecast.t1.onnx;
    fixed_steps: forecast.onnx takes exactly that many steps; conditions: forecast takes "drift" [2], default
        (0, 0), added to the velocity; variant: adds forecast.<variant>.onnx, whose poses are not rounded to cells.
    """
    path = Path(path)
    path.mkdir(parents=True)
    spec = InputSpec(size, size, channels, "rgb" if channels == 3 else "grey", resize)
    _detect(path / "detect.onnx", size, channels)
    _update(path / "update.onnx")
    _forecast(path / "forecast.onnx", size, fixed_steps or "T", conditions, grid)
    if coast_graph:
        _forecast(path / "forecast.t1.onnx", size, 1, conditions, grid)
    if variant:
        _forecast(path / f"forecast.{variant}.onnx", size, fixed_steps or "T", conditions, False)
    _encode(path / "encode.onnx", size, channels)
    _render(path / "render.onnx", size, channels)
    manifest = Manifest(
        name=name,
        family="gridkp",
        input=spec,
        num_keypoints=K,
        pose_fields=("x", "y"),
        grid_width=size if grid else None,
        grid_height=size if grid else None,
        period_s=period_s,
        state=(TensorSpec("h", (K, P)), TensorSpec("c", (K, P)), TensorSpec("n", (1,))),
        update_noise=TensorSpec("noise", NOISE),
        forecast_noise=TensorSpec("noise", NOISE),
        features=(TensorSpec("appearance", (channels, size, size)),),
        conditions=(Condition("drift", (2,), (0.0, 0.0)),) if conditions else (),
        clip_length=20,
        trusted_steps=trusted_steps,
        max_steps_per_call=max_steps_per_call,
        can_coast=can_coast,
        coast_graph="forecast.t1.onnx" if coast_graph else None,
        graphs={f.name: sha256_of(f) for f in sorted(path.glob("*.onnx"))},
        probe=_probe() if probe else None,
        baselines=baselines,
        familiarity=familiarity,
        variants={variant: tiny_variant()} if variant else {},
        provenance={"data": "made by hand for tests"},
        licence="Apache-2.0",
    )
    manifest.write(path)
    return path


def tiny_variant() -> Variant:
    """What the manifest says of a variant."""
    loss = Loss("nothing", (1, 2), (0.1, 0.2), (0, 0), (1, 1))
    return Variant(("forecast",), ("cpu",), "Poses are not rounded.", loss)


def still_baselines(k: int = K) -> TrackModels:
    """Baselines whose autoregression stays put, and whose filter follows every detection."""
    still = LinearAR(1, "keypoint", np.full((k, 2), 31.5), np.zeros((k, 2)), np.zeros((k, 2, 4)), 0.1, 1.0)
    return TrackModels(KalmanModel(np.full((k, 2), 1e9), np.full((k, 2), 1e-6)), still)


def _probe() -> Probe:
    weight = np.zeros((4, K * P))
    for point, keypoints in enumerate(((0, 2), (1, 3))):
        for keypoint in keypoints:
            weight[2 * point, 2 * keypoint] = weight[2 * point + 1, 2 * keypoint + 1] = 0.5
    return Probe(("left", "right"), weight, np.zeros(4), np.array([[1.0, 0.0, 1.0], [2.0, 0.5, 2.0]]))


def _detect(path: Path, size: int, channels: int) -> None:
    g = _Graph("detect")
    half = size // 2
    masks = np.zeros((K, size, size), np.float32)
    for k in range(K):
        masks[k, half * (k // 2) : half * (k // 2) + half, half * (k % 2) : half * (k % 2) + half] = 1
    grey = g("ReduceMean", g("Cast", "image", to=_FLOAT), axes=[3], keepdims=0)  # [B, H, W]
    quadrants = g("Mul", g("Unsqueeze", grey, g.ints(1)), g.constant(masks[None]))  # [B, K, H, W]
    weight = g("Add", g("Mul", quadrants, quadrants), g.constant(masks[None] * 1e-3))
    total = g("ReduceSum", weight, g.ints(2, 3), keepdims=0)  # [B, K]
    rows, columns = np.mgrid[0:size, 0:size]
    axes = []
    for coordinate in (columns, rows):
        weighted = g("ReduceSum", g("Mul", weight, g.constant(coordinate)), g.ints(2, 3), keepdims=0)
        axes.append(g("Unsqueeze", g("Round", g("Div", weighted, total)), g.ints(2)))
    g("Concat", *axes, out="pose", axis=2)
    brightest = g("ReduceMax", quadrants, axes=[2, 3], keepdims=0)
    mean = g("Mul", g("ReduceMean", quadrants, axes=[2, 3], keepdims=0), g.constant(4.0))
    g("Div", g("Sub", brightest, mean), g.constant(255.0), out="confidence")
    g.save(
        path,
        {"image": (_UINT8, "B", size, size, channels)},
        {"pose": (_FLOAT, "B", K, P), "confidence": (_FLOAT, "B", K)},
    )


def _update(path: Path) -> None:
    g = _Graph("update")
    seen = g("Unsqueeze", g("Min", "n", g.constant(1.0)), g.ints(2))  # [B, 1, 1]
    step = g("Mul", g("Sub", "pose", "h"), seen)
    mean = g("Reshape", g("ReduceMean", "noise", axes=[1, 2, 3], keepdims=0), g.ints(-1, 1, 1))
    g("Add", step, mean, out="c_out")
    g("Identity", "pose", out="h_out")
    g("Add", "n", g.constant(1.0), out="n_out")
    state = {"h": (_FLOAT, "B", K, P), "c": (_FLOAT, "B", K, P), "n": (_FLOAT, "B", 1)}
    g.save(
        path,
        {**state, "pose": (_FLOAT, "B", K, P), "noise": (_FLOAT, "B", *NOISE)},
        {f"{name}_out": dims for name, dims in state.items()},
    )


def _forecast(path: Path, size: int, steps: int | str, conditions: bool, grid: bool) -> None:
    g = _Graph("forecast")
    velocity = "c"
    if conditions:
        velocity = g("Add", "c", g("Unsqueeze", "drift", g.ints(1, 2)))  # [B, S, K, 2]
    kick = g("Mul", g("ReduceMean", "noise", axes=[3, 4, 5], keepdims=0), g.constant(16.0))  # [B, S, T]
    walk = g("Unsqueeze", g("CumSum", kick, g.constant(2, np.int64)), g.ints(3, 4))  # [B, S, T, 1, 1]
    ones = g("Add", g("Mul", kick, g.constant(0.0)), g.constant(1.0))
    time = g("Unsqueeze", g("CumSum", ones, g.constant(2, np.int64)), g.ints(3, 4))
    motion = g("Add", g("Mul", g("Unsqueeze", velocity, g.ints(2)), time), walk)  # [B, S, T, K, 2]
    path_px = g("Add", g("Unsqueeze", "h", g.ints(2)), motion)
    inside = g("Clip", path_px, g.constant(0.0), g.constant(size - 1.0))
    g("Round" if grid else "Identity", inside, out="pose")
    last = g("Gather", path_px, g.constant(-1, np.int64), axis=2)
    g("Identity", last, out="h_out")
    g("Identity", "c", out="c_out")
    total = g("ReduceSum", ones, g.ints(2), keepdims=1)
    g("Add", "n", total, out="n_out")
    still = g("Mul", g("ReduceSum", path_px, g.ints(4), keepdims=1), g.constant(0.0))  # [B, S, T, K, 1]
    g("Add", still, g.constant([0.25, 0.0, 0.25]), out="spread")
    g("Add", g("Squeeze", still, g.ints(4)), g.constant(0.5), out="confidence")
    state = {"h": (_FLOAT, "B", "S", K, P), "c": (_FLOAT, "B", "S", K, P), "n": (_FLOAT, "B", "S", 1)}
    drift = {"drift": (_FLOAT, "B", 2)} if conditions else {}
    g.save(
        path,
        {**state, "noise": (_FLOAT, "B", "S", steps, *NOISE), **drift},
        {
            "pose": (_FLOAT, "B", "S", steps, K, P),
            "spread": (_FLOAT, "B", "S", steps, K, 3),
            "confidence": (_FLOAT, "B", "S", steps, K),
            **{f"{name}_out": dims for name, dims in state.items()},
        },
    )


def _encode(path: Path, size: int, channels: int) -> None:
    g = _Graph("encode")
    g("Transpose", g("Cast", "image", to=_FLOAT), out="appearance", perm=[0, 3, 1, 2])
    g.save(
        path,
        {"image": (_UINT8, "B", size, size, channels), "pose": (_FLOAT, "B", K, P)},
        {"appearance": (_FLOAT, "B", channels, size, size)},
    )


def _render(path: Path, size: int, channels: int) -> None:
    g = _Graph("render")
    rows, columns = np.mgrid[0:size, 0:size]
    pixels = np.stack([columns, rows], axis=-1).reshape(1, 1, 1, size, size, 2)
    place = g("Unsqueeze", "pose", g.ints(3, 4))  # [B, N, K, 1, 1, 2]
    far = g("ReduceMax", g("Abs", g("Sub", g.constant(pixels), place)), axes=[5], keepdims=0)  # [B, N, K, H, W]
    nearest = g("ReduceMin", far, axes=[2], keepdims=0)  # [B, N, H, W]
    mask = g("Unsqueeze", g("LessOrEqual", nearest, g.constant(1.0)), g.ints(4))
    reference = g("Unsqueeze", g("Transpose", "appearance", perm=[0, 2, 3, 1]), g.ints(1))  # [B, 1, H, W, C]
    g("Cast", g("Where", mask, g.constant(255.0), reference), out="frames", to=_UINT8)
    g.save(
        path,
        {"appearance": (_FLOAT, "B", channels, size, size), "pose": (_FLOAT, "B", "N", K, P)},
        {"frames": (_UINT8, "B", "N", size, size, channels)},
    )
