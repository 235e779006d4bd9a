"""Reduced variants of `forecast`: int8 convolutions for CPUs, half precision for GPUs, and what they lose.

Both start from one step in which every convolution is one (`DirectDynamics`): Winograd's sums and differences of tiles,
which the equal graph multiplies, need more digits than either variant has. States go in and come out in single
precision, and what is read from a distribution over cells (its maximum, its moments) is computed in single precision.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from torch import Tensor

from gridkp_ros.export.inference import TILE, FastDynamics, FastForecastStep, Tiles, fast_state_shapes, leaky
from gridkp_ros.export.onnx_graphs import drop_unused, scan_over_steps, to_onnx
from gridkp_ros.nets.gridkp import Dynamics
from gridkp_ros.runtime.forecast import keypoint_covariance, sample_weights
from gridkp_ros.runtime.variants import Loss, Variant, variant_file
from gridkp_ros.training.checkpoint import Checkpoint

log = logging.getLogger(__name__)
Arrays = dict[str, np.ndarray]
LOSS_STEPS = (2, 5, 10, 15)  # those of the evaluation
LOSS_SAMPLES = 4
CALIBRATION_STATES, LOSS_STATES = 64, 32
TRACK_STEPS, TRACK_FIRST, TRACK_EVERY = 24, 4, 5  # frames of a made-up track, of which states are taken
FLOAT = TensorProto.FLOAT
# What hands results of convolutions on to others, and is computed in half precision where it reads such.
HANDED_ON = frozenset({"LeakyRelu", "MaxPool", "Concat", "DepthToSpace", "Reshape", "Transpose", "Unsqueeze"})
NOISY = ("root", "onnxruntime.quantization")  # which advise preprocessing that is done


@dataclass(frozen=True)
class Recipe:
    """How a variant comes about; description and providers as in the manifest, caveat: of its measured loss."""

    description: str
    providers: tuple[str, ...]
    caveat: str = ""


RECIPES = {
    "int8": Recipe(
        "The convolutions of forecast multiply 8-bit integers: weights -127 to 127, scaled for each output channel; "
        "activations 0 to 255, scaled for each tensor by what occurs. All else is float32. Detection, update and "
        "frames are those of the equal graphs.",
        ("cpu",),
    ),
    "fp16": Recipe(
        "The convolutions of forecast compute in half precision; states, distributions over cells and all sums over "
        "them are float32. Detection, update and frames are those of the equal graphs.",
        ("cuda", "tensorrt"),
        "; by the CPU provider, which rounds weights to half precision and computes in single, so a GPU may lose more",
    ),
}


class VariantExportError(Exception):
    """A variant cannot be made; the message says why."""


class WholeMaps(Tiles):
    """Maps [N,h,w,C] stay whole when they are split, as [N,C,h,w]."""

    def split(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)

    def apart_last(self, x: Tensor) -> Tensor:
        """As `apart`, of maps [N,h,w,C]."""
        (th, tw), (h, w) = self.tiles, self.size
        if (th * TILE, tw * TILE) != (h, w):
            x = F.pad(x, (0, 0, 0, tw * TILE - w, 0, th * TILE - h))
        x = x.reshape(-1, th, TILE, tw, TILE, x.shape[-1]).permute(0, 2, 4, 5, 1, 3)
        return x.reshape(-1, TILE * TILE, x.shape[3], th * tw)


class DirectDynamics(FastDynamics):
    """`FastDynamics` with plain convolutions, and the latent as one more of their channels.

    The latent is scaled to the hidden state's range, so that 8 bits do for both.
    """

    LATENT_SCALE = 0.25

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__(dynamics)
        self.tiles = WholeMaps(*dynamics.config.latent_size)
        n = dynamics.config.hidden
        lstm, first = dynamics.lstm.weight.detach(), dynamics.dec[0][0].weight.detach()
        self.prior = dynamics.prior_conv[0].weight.detach()
        self.decoder = torch.cat((first[:, :n], first[:, n:] / self.LATENT_SCALE), dim=1)
        self.gates = torch.cat((lstm[:, n + 1 :], lstm[:, n : n + 1] / self.LATENT_SCALE, lstm[:, :n]), dim=1)

    def with_latent(self, state: Tensor, z: Tensor) -> Tensor:
        return torch.cat((state, z * self.LATENT_SCALE), dim=1)

    def read(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The prior's part, and the hidden state as it is for `logits`."""
        return F.conv2d(state, self.prior, padding=1), state

    def logits(self, of_state: Tensor, z: Tensor) -> Tensor:
        x = F.conv2d(self.with_latent(of_state, z), self.decoder, self.dynamics.dec[0][0].bias, padding=1)
        return self.cell_logits(leaky(x))

    def step(self, state: Tensor, c: Tensor, encoded: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        gates = F.conv2d(torch.cat((self.with_latent(state, z), encoded), dim=1), self.gates, padding=1)
        # Channels last, as integer convolutions give them, and only c changes places: it is a quarter of the gates.
        i, f, o, g = gates.permute(0, 2, 3, 1).chunk(4, dim=-1)
        c = f.sigmoid() * self.tiles.whole(c, channels_last=True) + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), self.tiles.apart_last(c)


def direct_step(dynamics: Dynamics, drift_growth: float, spread_share: float) -> onnx.ModelProto:
    """One step of `forecast` in plain convolutions, constants folded and paddings taken into convolutions."""
    module = FastForecastStep(dynamics, drift_growth, spread_share)
    module.fast = DirectDynamics(dynamics)
    example = [torch.zeros(2, *shape) for shape in (*fast_state_shapes(dynamics).values(), dynamics.latent_shape)]
    with torch.no_grad():
        step = to_onnx(module, example, {name: {0: "B"} for name in module.inputs})
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "step.onnx")
        onnxruntime.InferenceSession(step.SerializeToString(), options, providers=["CPUExecutionProvider"])
        folded = onnx.load(options.optimized_model_filepath)
    del folded.opset_import[:]  # it names every domain that ONNX Runtime knows
    folded.opset_import.extend(step.opset_import)
    onnx.checker.check_model(folded)
    return folded


def moving_tracks(pose: Tensor, width: int, height: int, draw: torch.Generator) -> Tensor:
    """Let keypoints [N,K,2] (cells) move as instruments do: [TRACK_STEPS,N,K,2], up to some 3 cells a step.

    A checkpoint's frames are stills; what the dynamics see when deployed moves.
    """
    last = torch.tensor([width - 1.0, height - 1.0])
    speed = torch.rand(len(pose), 1, 1, generator=draw) * 2  # some scenes rest, some are quick
    place, velocity, track = pose.clone(), torch.randn(pose.shape, generator=draw) * speed, []
    for _ in range(TRACK_STEPS):
        velocity = 0.9 * velocity + 0.4 * speed * torch.randn(pose.shape, generator=draw)
        place = place + velocity
        outside = (place < 0) | (place > last)
        velocity = torch.where(outside, -velocity, velocity)
        place = torch.minimum(place.clamp(min=0.0), last)
        track.append(place.round())
    return torch.stack(track)


def run(session: onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray]) -> Arrays:
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(feeds)), strict=True))


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def occurring_states(
    detect: onnx.ModelProto, update: onnx.ModelProto, frames: np.ndarray, draw: torch.Generator
) -> Arrays:
    """States [n,...] by name after keypoints found in frames [N,H,W,C] have moved for a while, in random order."""
    pose = run(open_session(detect), {"image": frames})["pose"]
    tracks = moving_tracks(torch.from_numpy(pose), frames.shape[2], frames.shape[1], draw).numpy()
    session, n = open_session(update), len(frames)
    shapes = {i.name: (n, *i.shape[1:]) for i in session.get_inputs()}
    noise = np.zeros(shapes.pop("noise"), np.float32)
    state = {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if name != "pose"}
    seen = []
    for t, now in enumerate(tracks):
        out = run(session, {**state, "pose": now, "noise": noise})
        state = {name: out[f"{name}_out"] for name in state}
        if t >= TRACK_FIRST and (t - TRACK_FIRST) % TRACK_EVERY == 0:
            seen.append(state)
    order = torch.randperm(n * len(seen), generator=draw).numpy()
    return {name: np.concatenate([s[name] for s in seen])[order] for name in state}


class StepInputs(CalibrationDataReader):
    """Inputs of one step as they occur: a few steps of forecasts from states [n,...], in batches."""

    def __init__(self, step: onnx.ModelProto, state: Arrays, draw: torch.Generator) -> None:
        session, n = open_session(step), len(next(iter(state.values())))
        latent = next(i.shape[1:] for i in session.get_inputs() if i.name == "noise")
        self.batches: list[Arrays] = []
        for t in range(9):
            feeds = {**state, "noise": torch.randn(n, *latent, generator=draw).numpy()}
            if t % 4 == 0:  # the first step and some later ones
                self.batches += [{k: v[i : i + 16] for k, v in feeds.items()} for i in range(0, n, 16)]
            out = run(session, feeds)
            state = {name: out[f"{name}_out"] for name in state}
        self.rest = iter(self.batches)

    def get_next(self) -> Arrays | None:
        return next(self.rest, None)


def quantise(step: onnx.ModelProto, inputs: StepInputs) -> onnx.ModelProto:
    """Write QuantizeLinear and DequantizeLinear around every convolution; ONNX Runtime makes integer ones of them.

    Quantising what stands between them as well would save little and lose much: 1 cell after 15 steps instead of
    hundredths.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            copied(step),
            path,
            inputs,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"WeightSymmetric": True},
        )
        return onnx.load(path)


def halve(step: onnx.ModelProto) -> onnx.ModelProto:
    """Compute convolutions, and what only hands their results on, in half precision; all else in single."""
    model = copied(step)
    graph = model.graph
    weights = {w.name: w for w in graph.initializer}
    halves: set[str] = set()  # names of tensors that are there in half precision, as `<name>_half`
    singles = {v.name for v in graph.input} | set(weights)
    nodes: list[onnx.NodeProto] = []

    def cast(name: str, to_half: bool) -> None:
        ends, kind = ([name, f"{name}_half"], TensorProto.FLOAT16) if to_half else ([f"{name}_half", name], FLOAT)
        nodes.append(helper.make_node("Cast", ends[:1], ends[1:], name=f"cast_{ends[1]}", to=kind))
        (halves if to_half else singles).add(name)

    def in_half(name: str) -> str:
        if name in weights and name not in halves:
            half = numpy_helper.to_array(weights[name]).astype(np.float16)
            graph.initializer.append(numpy_helper.from_array(half, f"{name}_half"))
            halves.add(name)
        elif name not in halves:
            cast(name, to_half=True)
        return f"{name}_half"

    for node in graph.node:
        data = list(node.input) if node.op_type in ("Conv", "Concat") else list(node.input[:1])
        if node.op_type == "Conv" or (node.op_type in HANDED_ON and halves.intersection(data)):
            inputs = [in_half(name) if name in data else name for name in node.input]
            outputs = [f"{name}_half" for name in node.output]
            halves.update(node.output)
        else:
            for name in node.input:
                if name in halves and name not in singles:
                    cast(name, to_half=False)
            inputs, outputs = list(node.input), list(node.output)
            singles.update(outputs)
        del node.input[:], node.output[:]
        node.input.extend(inputs)
        node.output.extend(outputs)
        nodes.append(node)
    for output in graph.output:
        if output.name not in singles:
            cast(output.name, to_half=False)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    drop_unused(graph)
    onnx.checker.check_model(model)
    return model


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for tools that write into what they are given."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let the loggers of ONNX Runtime's tools say nothing below an error."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def measure_loss(
    equal: onnx.ModelProto, variant: onnx.ModelProto, state: Arrays, draw: torch.Generator, measured_on: str, last: int
) -> Loss:
    """Compare both graphs' forecasts from states [n,...], LOSS_SAMPLES each, up to `last` steps."""
    steps = tuple(s for s in LOSS_STEPS if s <= last) or (last,)
    sessions = [open_session(model) for model in (equal, variant)]
    latent = next(i.shape[3:] for i in sessions[0].get_inputs() if i.name == "noise")
    noise = torch.randn(len(next(iter(state.values()))), LOSS_SAMPLES, steps[-1], *latent, generator=draw).numpy()
    noise[:, 0] = 0.0  # sample 0 is the central future
    feeds = {name: np.repeat(v[:, None], LOSS_SAMPLES, axis=1) for name, v in state.items()} | {"noise": noise}
    index, weights = [s - 1 for s in steps], sample_weights(LOSS_SAMPLES)
    poses, sizes = [], []
    for session in sessions:
        out = run(session, feeds)
        pose = out["pose"][..., :2].astype(np.float64)
        covariance = np.stack(
            [keypoint_covariance(p, s, weights) for p, s in zip(pose, out["spread"], strict=True)]
        )  # [n, T, K, 3]
        poses.append(pose[:, :, index])
        sizes.append(np.sqrt(covariance[..., 0] + covariance[..., 2])[:, index].mean(axis=(0, 2)))
    off = np.linalg.norm(poses[1] - poses[0], axis=-1)  # [n, S, steps, K]
    return Loss(
        measured_on=measured_on,
        steps=steps,
        distance_cells=rounded(off.mean(axis=(0, 1, 3))),
        same_cells=rounded((off == 0).mean(axis=(0, 1, 3))),
        spread_ratio=rounded(sizes[1] / sizes[0]),
    )


def rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(v), 4) for v in values)


def build_variants(
    checkpoint: Checkpoint, built: Mapping[str, onnx.ModelProto], names: Sequence[str] | None
) -> tuple[dict[str, onnx.ModelProto], dict[str, Variant]]:
    """Make variants of a bundle's graphs; returns files' graphs by file name, and what the manifest says of each.

    built: the equal graphs by name; names: None for all that fit the network. Raises VariantExportError for a name
    that is not known, or for a network whose graphs these recipes do not fit.
    """
    config = checkpoint.config
    if names is None:
        names = tuple(RECIPES) if config.model.propagation == "binary" else ()
    unknown = [n for n in names if n not in RECIPES]
    if unknown:
        raise VariantExportError(f"variants {', '.join(unknown)}: choose from {', '.join(RECIPES)}")
    if not names:
        return {}, {}
    if config.model.propagation != "binary":
        raise VariantExportError(
            f"there are no variants of propagation {config.model.propagation!r}: export with --variants ''"
        )
    dynamics, draw = checkpoint.model.eval().dynamics, torch.Generator().manual_seed(0)
    state = occurring_states(built["detect"], built["update"], checkpoint.frames, draw)
    seen, kept = (
        {k: v[part] for k, v in state.items()} for part in (slice(0, CALIBRATION_STATES), slice(-LOSS_STATES, None))
    )
    step = direct_step(dynamics, checkpoint.record.get("drift_growth", 0.0), config.stage2.spread_share)
    shapes = {name: v.shape[1:] for name, v in state.items()}
    k = config.model.num_keypoints
    outputs = {"pose": (k, 2), "spread": (k, 3), "confidence": (k,)}
    count = len(next(iter(kept.values())))
    measured_on = (
        f"{count} states, {LOSS_SAMPLES} samples each: keypoints of the checkpoint's frames, moved along random tracks"
    )
    files, variants = {}, {}
    for name in names:
        reduced = quantise(step, StepInputs(step, seen, draw)) if name == "int8" else halve(step)
        forecast = scan_over_steps(reduced, shapes, dynamics.latent_shape, outputs)
        last = config.trusted_steps or config.data.clip_length // 2
        loss = measure_loss(built["forecast"], forecast, kept, draw, measured_on + RECIPES[name].caveat, last)
        files[variant_file("forecast", name)] = forecast
        variants[name] = Variant(("forecast",), RECIPES[name].providers, RECIPES[name].description, loss)
        log.info("%s: %s cells from the equal forecast at %s steps", name, loss.distance_cells, loss.steps)
    return files, variants
