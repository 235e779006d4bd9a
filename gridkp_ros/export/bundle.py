"""Write a bundle from a checkpoint, and refuse to finish unless its graphs compute what the network computes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from gridkp_ros.export import graphs
from gridkp_ros.export.card import model_card
from gridkp_ros.export.inference import (
    FastDetect,
    FastForecastStep,
    FastRender,
    FastUpdate,
    fast_state_shapes,
    to_fast,
    to_plain,
    toom_cook,
)
from gridkp_ros.export.onnx_graphs import factor_weights, scan_over_steps, to_onnx
from gridkp_ros.export.propagation import ForecastPoints, UpdatePoints
from gridkp_ros.export.variants import build_variants
from gridkp_ros.familiarity import Familiarity
from gridkp_ros.nets import keypoints as kp
from gridkp_ros.nets.gridkp import FAMILY, Dynamics, GridKeypointConfig
from gridkp_ros.runtime.bundle import Bundle, Manifest, Probe, TensorSpec, sha256_of
from gridkp_ros.runtime.variants import Variant
from gridkp_ros.track_models import TrackModels
from gridkp_ros.training.checkpoint import WEIGHTS, Checkpoint, load_checkpoint, save_weights

log = logging.getLogger(__name__)
LOGIT_TOLERANCE = 1e-4
WINOGRAD = np.kron(toom_cook()[1], toom_cook()[1])  # [36, 9]: what `inference.Tiles.kernel` makes of a kernel's taps
SPREAD_TOLERANCE = 2e-2  # px^2, of moments about a cell, which sum squares of up to a thousand
POSE_TOLERANCE = 2e-3  # px, of positions that are not on the grid
MAX_STEPS_PER_CALL = 60


class ExportError(Exception):
    """A bundle cannot be written, or its graphs and the network disagree; the message says which and by how much."""


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, **inputs: Tensor) -> dict[str, Tensor]:
    """Run a graph on tensors; returns its outputs by name."""
    engine = session(model)
    values = engine.run(None, {k: v.numpy() for k, v in inputs.items()})
    return {o.name: torch.from_numpy(v) for o, v in zip(engine.get_outputs(), values, strict=True)}


def require_close(what: str, got: Tensor, expected: Tensor, tolerance: float) -> None:
    difference = (got.double() - expected.double()).abs().max().item() if got.numel() else 0.0
    if got.shape != expected.shape or not difference <= tolerance:
        raise ExportError(
            f"{what}: ONNX Runtime and PyTorch differ by {difference:.3g} (allowed {tolerance:.3g}; shapes "
            f"{tuple(got.shape)} and {tuple(expected.shape)}); the bundle was not written"
        )
    log.info("%s: agree within %.2g (allowed %.2g)", what, difference, tolerance)


def require_same_cells(what: str, got: Tensor, logits: Tensor, width: int) -> None:
    """Cells must be equal wherever the two best logits are farther apart than the tolerance."""
    best = logits.topk(2, dim=-1)
    clear = best.values[..., 0] - best.values[..., 1] > LOGIT_TOLERANCE
    wrong = (kp.classes_to_pixels(best.indices[..., 0], width) != got).any(dim=-1) & clear
    if wrong.any():
        raise ExportError(
            f"{what}: {int(wrong.sum())} of {wrong.numel()} predicted cells differ; the bundle was not written"
        )


def state_shapes(dynamics: Dynamics) -> dict[str, tuple[int, ...]]:
    """Name and shape of each state tensor as the bundle's graphs hold them."""
    binary = dynamics.config.propagation == "binary"
    return fast_state_shapes(dynamics) if binary else graphs.state_shapes(dynamics)


@torch.no_grad()
def build_graphs(checkpoint: Checkpoint) -> dict[str, onnx.ModelProto]:
    """Export the five graphs and prove each on random states and on the checkpoint's frames.

    Raises ExportError where a graph does not agree with the network.
    """
    model, config = checkpoint.model.eval(), checkpoint.config.model.build()
    vision, dynamics = model.vision, model.dynamics
    draw = torch.Generator().manual_seed(0)
    frames = torch.from_numpy(checkpoint.frames)
    noise_frames = torch.randint(0, 256, (2, *frames.shape[1:]), dtype=torch.uint8, generator=draw)
    images = torch.cat((frames, noise_frames))
    n = len(images)
    binary = config.propagation == "binary"
    latent = dynamics.latent_shape
    plain_shapes, shapes = graphs.state_shapes(dynamics), state_shapes(dynamics)

    def free(names: tuple[str, ...]) -> dict[str, dict[int, str]]:
        return {name: {0: "B"} for name in names}

    snap = checkpoint.config.stage1.gridding
    detect_module = FastDetect(vision, snap)
    detect = factor_weights(to_onnx(detect_module, [images[:2]], free(detect_module.inputs)), WINOGRAD)
    found = run(detect, image=images)
    pose, confidence = graphs.Detect(vision, snap)(images)
    require_close("detect: confidence", found["confidence"], confidence, LOGIT_TOLERANCE)
    exact = kp.to_pixels(
        vision.locate(vision.heatmap_logits(graphs.image_to_float(images)), snap=False), config.height, config.width
    )
    clear = ((exact - exact.floor()) - 0.5).abs() > 1e-3  # not on the border between two cells
    differs = found["pose"] != pose if snap else (found["pose"] - pose).abs() > POSE_TOLERANCE
    if (differs & (clear | (not snap))).any():
        raise ExportError("detect: keypoints differ between ONNX Runtime and PyTorch; the bundle was not written")

    # States that occur (after the frames) and states that do not (random): the graph must agree with the network as it
    # is trained, whose plain form is not what is exported (`export.inference`).
    def stored(state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(map(to_fast, shapes, state)) if binary else tuple(state)

    def plainly(got: dict[str, Tensor]) -> dict[str, Tensor]:
        states = {f"{k}_out": to_plain(k, got[f"{k}_out"], dynamics) for k in shapes} if binary else {}
        return {**got, **states}

    zero = tuple(torch.zeros(n, *shape) for shape in plain_shapes.values())
    random = tuple(torch.randn(n, *shape, generator=draw).tanh() for shape in plain_shapes.values())
    noise = torch.randn(n, *latent, generator=draw)
    plain_update = graphs.Update(dynamics) if binary else UpdatePoints(dynamics)
    update_module = FastUpdate(dynamics) if binary else plain_update
    update = to_onnx(update_module, [*(s[:2] for s in stored(random)), pose[:2], noise[:2]], free(update_module.inputs))
    update = factor_weights(update, WINOGRAD)
    seen = plain_update(*plain_update(*zero, pose, noise * 0), pose, noise)
    for what, state in (("zero", zero), ("random", random), ("observed", seen)):
        got = plainly(run(update, **dict(zip(update_module.inputs, (*stored(state), pose, noise), strict=True))))
        expected = plain_update(*state, pose, noise)
        for name, value in zip(update_module.outputs, expected, strict=True):
            require_close(f"update: {name} from {what} states", got[name], value, LOGIT_TOLERANCE)

    growth = checkpoint.record.get("drift_growth", 0.0)  # of checkpoints made before it was fitted: none
    share = checkpoint.config.stage2.spread_share
    plain_step = graphs.ForecastStep(dynamics, growth, share) if binary else ForecastPoints(dynamics)
    step_module = FastForecastStep(dynamics, growth, share) if binary else plain_step
    step = to_onnx(step_module, [*(s[:2] for s in stored(random)), noise[:2]], free(step_module.inputs))
    step = factor_weights(step, WINOGRAD)
    for what, state in (("random", random), ("observed", seen)):
        got = plainly(run(step, **dict(zip(step_module.inputs, (*stored(state), noise), strict=True))))
        expected = dict(zip(step_module.outputs, plain_step(*state, noise), strict=True))
        if not binary:
            size = max(1.0, float(expected["predicted"].abs().max()))
            require_close(f"forecast: {what} states", got["predicted"], expected["predicted"], LOGIT_TOLERANCE * size)
            pose_of = dynamics.locate(got["predicted"])
            require_close(f"forecast: positions from {what} states", got["pose"], pose_of, POSE_TOLERANCE)
            continue
        require_close(f"forecast: logits from {what} states", got["logits"], expected["logits"], LOGIT_TOLERANCE)
        require_same_cells(f"forecast: cells from {what} states", got["pose"], expected["logits"], config.width)
        same = (got["pose"] == expected["pose"]).all(dim=-1)  # else the cells are within the tolerance of each other
        for name, tolerance in (("confidence", LOGIT_TOLERANCE), ("spread", SPREAD_TOLERANCE)):
            require_close(f"forecast: {name} from {what} states", got[name][same], expected[name][same], tolerance)
        alike = same.all(dim=-1)
        for name in (f"{name}_out" for name in shapes if name != "drift"):
            require_close(
                f"forecast: {name} from {what} states", got[name][alike], expected[name][alike], LOGIT_TOLERANCE
            )
    k = config.num_keypoints
    forecast = scan_over_steps(step, shapes, latent, {"pose": (k, 2), "spread": (k, 3), "confidence": (k,)})
    exactness = 0.0 if binary else POSE_TOLERANCE
    prove_scan(forecast, step, dict(zip(shapes, stored(seen), strict=True)), latent, draw, exactness)

    encode_module, render_module, plain_render = graphs.Encode(vision), FastRender(vision), graphs.Render(vision)
    encode = to_onnx(encode_module, [images[:2], pose[:2]], free(encode_module.inputs))
    features = dict(zip(encode_module.outputs, encode_module(images, pose), strict=True))
    for name, value in run(encode, image=images, pose=pose).items():
        require_close(f"encode: {name}", value, features[name], 1e-3 * max(1.0, float(features[name].abs().max())))
    moved = torch.stack((pose, pose.roll(1, dims=0), pose.roll(2, dims=0)), dim=1)  # [B, 3, K, 2]
    dynamic = free(render_module.inputs)
    dynamic["pose"] = {0: "B", 1: "N"}
    render = to_onnx(render_module, [*(f[:2] for f in features.values()), moved[:2]], dynamic)
    drawn = run(render, **features, pose=moved)["frames"]
    require_close("render: frames", drawn, plain_render(*features.values(), moved), 1.0)  # of 255
    return {"detect": detect, "update": update, "forecast": forecast, "encode": encode, "render": render}


def prove_scan(
    forecast: onnx.ModelProto,
    step: onnx.ModelProto,
    state: dict[str, Tensor],
    latent: tuple[int, ...],
    draw: torch.Generator,
    tolerance: float,
) -> None:
    """The horizon in one graph must repeat its own single steps, sample by sample, within a tolerance in px."""
    samples, steps, b = 2, 4, min(3, len(next(iter(state.values()))))
    state = {k: v[:b].unsqueeze(1).repeat_interleave(samples, dim=1) for k, v in state.items()}  # [b, samples, ...]
    noise = torch.randn(b, samples, steps, *latent, generator=draw)
    whole = run(forecast, **state, noise=noise)
    now = {k: v.flatten(0, 1) for k, v in state.items()}
    for t in range(steps):
        one = run(step, **now, noise=noise[:, :, t].flatten(0, 1).contiguous())
        now = {k: one[f"{k}_out"] for k in state}
        pose = whole["pose"][:, :, t].flatten(0, 1)
        require_close(f"forecast: step {t + 1} of the horizon", pose, one["pose"], tolerance)
    for name, value in now.items():
        require_close(f"forecast: {name} after the horizon", whole[f"{name}_out"].flatten(0, 1), value, LOGIT_TOLERANCE)


def manifest_of(
    checkpoint: Checkpoint, hashes: dict[str, str], variants: Mapping[str, Variant] | None = None
) -> Manifest:
    """Declare what a checkpoint's graphs mean."""
    config, model = checkpoint.config, checkpoint.config.model.build()
    probe = None
    if checkpoint.probe is not None:
        p = checkpoint.probe
        probe = Probe(p.point_names, p.weight, p.bias, p.covariance)
    training = dict(checkpoint.record)
    baselines, familiarity = training.pop("baselines", None), training.pop("familiarity", None)
    noise = TensorSpec("noise", checkpoint.model.dynamics.latent_shape)
    gridded = config.stage1.gridding
    shapes = state_shapes(checkpoint.model.dynamics)
    return Manifest(
        name=config.name,
        family=FAMILY,
        input=config.input_spec,
        num_keypoints=model.num_keypoints,
        pose_fields=("x", "y"),
        grid_width=model.width if gridded else None,
        grid_height=model.height if gridded else None,
        period_s=config.data.period_s,
        state=tuple(TensorSpec(name, shape) for name, shape in shapes.items()),
        update_noise=noise,
        forecast_noise=noise,
        features=features_of(model),
        clip_length=config.data.clip_length,
        trusted_steps=config.trusted_steps or config.data.clip_length // 2,
        max_steps_per_call=MAX_STEPS_PER_CALL,
        graphs=hashes,
        licence=config.licence,
        probe=probe,
        baselines=TrackModels.from_dict(baselines) if baselines else None,
        variants=dict(variants or {}),
        familiarity=Familiarity.from_dict(familiarity) if familiarity else None,
        provenance={
            "description": config.description,
            "training": training,
            "configuration": config.model_dump(mode="json"),
            "probe_error_px": dict(zip(probe.point_names, checkpoint.probe.error_px.tolist(), strict=True))
            if probe
            else {},
        },
    )


def features_of(m: GridKeypointConfig) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("h1", (m.base, m.height, m.width)),
        TensorSpec("h2", (2 * m.base, m.height // 2, m.width // 2)),
        TensorSpec("h3", (4 * m.base, m.height // 4, m.width // 4)),
        TensorSpec("reference", (m.channels, m.height, m.width)),
        TensorSpec("reference_pose", (m.num_keypoints, 2)),
    )


def export(
    checkpoint_dir: Path,
    bundle_dir: Path,
    say: Callable[[str], None] = log.info,
    *,
    variants: Sequence[str] | None = (),
) -> Manifest:
    """Write the bundle of a checkpoint folder: five graphs, reduced variants, manifest, weights and model card.

    An earlier bundle of the same place is replaced only when the new one has been proven. variants: names of reduced
    variants to add, None for all that there are for the network.

    Raises ExportError if graphs and network disagree, VariantExportError for variants that cannot be made,
    TrainingError if the checkpoint is not whole.
    """
    bundle_dir = Path(bundle_dir)
    if bundle_dir.exists() and any(bundle_dir.iterdir()) and not (bundle_dir / "manifest.json").is_file():
        raise ExportError(f"{bundle_dir} holds files and is no bundle: name an empty folder")
    checkpoint = load_checkpoint(Path(checkpoint_dir))
    built = build_graphs(checkpoint)
    part = bundle_dir.with_name(bundle_dir.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    reduced, declared = build_variants(checkpoint, built, variants)
    files = {f"{name}.onnx": graph for name, graph in built.items()} | reduced
    for file, graph in files.items():
        onnx.save(graph, part / file)
    manifest = manifest_of(checkpoint, {file: sha256_of(part / file) for file in files}, declared)
    manifest.write(part)
    save_weights(checkpoint.model, part / WEIGHTS)
    (part / "MODEL_CARD.md").write_text(model_card(manifest, part))
    Bundle.load(part)
    shutil.rmtree(bundle_dir, ignore_errors=True)
    part.rename(bundle_dir)
    say(f"{bundle_dir}: {manifest.model_id}, graphs and network agree on {len(checkpoint.frames)} frames")
    return manifest


__all__ = ["ExportError", "build_graphs", "export"]
