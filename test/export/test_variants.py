"""Reduced variants of the forecast: what is reduced, what is not, and what is said about the loss."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

torch = pytest.importorskip("torch")

from gridkp_ros.export import variants  # noqa: E402
from gridkp_ros.export.inference import FastForecastStep  # noqa: E402
from gridkp_ros.runtime import Bundle, Predictor  # noqa: E402
from gridkp_ros.training.checkpoint import Checkpoint  # noqa: E402
from gridkp_ros.training.config import TrainConfig  # noqa: E402
from support.untrained import CONFIG, untrained_checkpoint  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return untrained_checkpoint()


@pytest.fixture(scope="module")
def bundle(untrained_bundle_path: Path) -> Bundle:
    return Bundle.load(untrained_bundle_path)


@pytest.fixture(scope="module")
def step(checkpoint: Checkpoint) -> onnx.ModelProto:
    return variants.direct_step(checkpoint.model.dynamics, 0.1, 1.0)


@pytest.fixture(scope="module")
def state(checkpoint: Checkpoint, bundle: Bundle) -> dict[str, np.ndarray]:
    detect, update = (onnx.load(bundle.path / f"{name}.onnx") for name in ("detect", "update"))
    return variants.occurring_states(detect, update, checkpoint.frames, torch.Generator().manual_seed(0))


def feeds_of(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(1).standard_normal((len(state["h"]), 1, 8, 8)).astype(np.float32)
    return {**state, "noise": noise}


def body(path: Path) -> onnx.GraphProto:
    scan = next(n for n in onnx.load(path).graph.node if n.op_type == "Scan")
    return next(a.g for a in scan.attribute if a.name == "body")


def test_plain_convolutions_compute_what_the_equal_step_computes(
    checkpoint: Checkpoint, step: onnx.ModelProto, state: dict[str, np.ndarray]
) -> None:
    module = FastForecastStep(checkpoint.model.dynamics, 0.1, 1.0)
    feeds = feeds_of(state)
    got = variants.run(variants.open_session(step), feeds)
    with torch.no_grad():
        expected = module(*(torch.from_numpy(feeds[name]) for name in module.inputs))
    for name, value in zip(module.outputs, expected, strict=True):
        np.testing.assert_allclose(got[name], value.numpy(), atol=1e-3, err_msg=name)


def test_states_occur_and_move(state: dict[str, np.ndarray]) -> None:
    assert len(state["h"]) == 4 * len(range(variants.TRACK_FIRST, variants.TRACK_STEPS, variants.TRACK_EVERY))
    assert np.abs(state["momentum"]).max() > 0.01 and np.abs(state["h"]).std() > 0.01
    tracks = variants.moving_tracks(torch.full((6, 3, 2), 15.0), 32, 32, torch.Generator().manual_seed(1))
    assert tracks.min() >= 0 and tracks.max() <= 31 and torch.equal(tracks, tracks.round())
    steps = (tracks[1:] - tracks[:-1]).norm(dim=-1)
    assert 0.2 < steps.mean() < 3 and steps.max() < 16


def test_every_convolution_of_int8_reads_and_gives_bytes(
    step: onnx.ModelProto, bundle: Bundle, state: dict[str, np.ndarray]
) -> None:
    graph = body(bundle.path / "forecast.int8.onnx")
    makers = {out: node for node in graph.node for out in node.output}
    readers = {name: node.op_type for node in graph.node for name in node.input}
    convolutions = [n for n in graph.node if n.op_type == "Conv"]
    assert len(convolutions) == Counter(n.op_type for n in step.graph.node)["Conv"] >= 10
    for node in convolutions:
        assert makers[node.input[0]].op_type == makers[node.input[1]].op_type == "DequantizeLinear", node.name
        assert readers[node.output[0]] == "QuantizeLinear", node.name
    weights = {w.name: w for w in graph.initializer}
    for node in convolutions:
        values = numpy_helper.to_array(weights[makers[node.input[1]].input[0]])
        assert values.dtype == np.int8 and np.abs(values.astype(int)).max() == 127


@pytest.mark.parametrize(("name", "share"), [("int8", 0.1), ("fp16", 0.005)])
def test_a_reduced_step_is_near_the_equal_one(
    name: str, share: float, step: onnx.ModelProto, state: dict[str, np.ndarray]
) -> None:
    draw = torch.Generator().manual_seed(2)
    reduced = (
        variants.quantise(step, variants.StepInputs(step, state, draw)) if name == "int8" else variants.halve(step)
    )
    feeds = feeds_of(state)
    equal, got = (variants.run(variants.open_session(model), feeds) for model in (step, reduced))
    for out in ("h_out", "c_out", "logits"):
        off = np.abs(got[out] - equal[out]).max()
        assert 0 < off < share * np.ptp(equal[out]), out  # reduced, and not by much
    assert all(value.dtype == np.float32 for value in got.values())


def test_half_precision_is_of_the_convolutions_and_the_states_stay_single(bundle: Bundle) -> None:
    graph = body(bundle.path / "forecast.fp16.onnx")
    kinds = {w.name: w.data_type for w in graph.initializer}
    convolutions = [n for n in graph.node if n.op_type == "Conv"]
    assert convolutions
    assert all(kinds[name] == onnx.TensorProto.FLOAT16 for n in convolutions for name in n.input if name in kinds)
    halves = {w.name for w in graph.initializer if w.data_type == onnx.TensorProto.FLOAT16}
    assert not any(n.op_type in ("Softmax", "MatMul", "Gemm") and halves.intersection(n.input) for n in graph.node)
    assert all(v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for v in (*graph.input, *graph.output))


def test_loss_is_the_distance_between_two_forecasts(bundle: Bundle, state: dict[str, np.ndarray]) -> None:
    equal, state = onnx.load(bundle.path / "forecast.onnx"), {name: value[:4] for name, value in state.items()}
    loss = variants.measure_loss(equal, equal, state, torch.Generator(), "the same", 10)
    assert (loss.steps, loss.measured_on) == ((2, 5, 10), "the same")
    assert (loss.distance_cells, loss.same_cells, loss.spread_ratio) == ((0, 0, 0), (1, 1, 1), (1, 1, 1))
    moved = onnx.load(bundle.path / "forecast.onnx")
    maker = next(n for n in moved.graph.node if "pose" in n.output)
    maker.output[[*maker.output].index("pose")] = "there"
    moved.graph.initializer.append(numpy_helper.from_array(np.array([3.0, 4.0], np.float32), "by"))
    moved.graph.node.append(helper.make_node("Add", ["there", "by"], ["pose"]))
    loss = variants.measure_loss(equal, moved, state, torch.Generator(), "moved", 2)
    assert (loss.steps, loss.distance_cells, loss.same_cells, loss.spread_ratio) == ((2,), (5,), (0,), (1,))


def test_manifest_and_card_say_what_the_variants_are(bundle: Bundle) -> None:
    declared = bundle.manifest.variants
    assert [*declared] == ["int8", "fp16"]
    assert declared["int8"].providers == ("cpu",) and declared["fp16"].providers == ("cuda", "tensorrt")
    card = (bundle.path / "MODEL_CARD.md").read_text()
    for name, variant in declared.items():
        assert variant.graphs == ("forecast",) and f"forecast.{name}.onnx" in bundle.manifest.graphs
        assert variant.loss.steps == (2, 5, 10) and f"`{name}`: {variant.description}" in card
        assert f"| 10 | {variant.loss.distance_cells[-1]:.3f} |" in card
    assert declared["fp16"].loss.distance_cells[0] < 0.1


def test_a_variant_forecasts_in_the_stream(bundle: Bundle) -> None:
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(4)]
    forecasts = []
    for variant in ("equal", "int8", "fp16"):
        predictor = Predictor(bundle, variant=variant, warmup_frames=3, scene_cut_threshold=1.0)
        for index, image in enumerate(images):
            predictor.observe(image, round(index * 1e9 / 15))
        forecasts.append(predictor.forecast(5, 9))
    equal, *others = forecasts
    for other in others:
        assert other.pose.shape == equal.pose.shape and not np.array_equal(other.covariance, equal.covariance)
        assert np.isfinite(other.covariance).all()


def test_what_cannot_be_made_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(variants.VariantExportError, match="variants int4: choose from int8, fp16"):
        variants.build_variants(checkpoint, {}, ["int8", "int4"])
    assert variants.build_variants(checkpoint, {}, []) == ({}, {})
    model = CONFIG["model"] | {"propagation": "vector", "motion_width": 0}
    other = Checkpoint(checkpoint.model, TrainConfig.model_validate(CONFIG | {"model": model}), checkpoint.frames)
    with pytest.raises(variants.VariantExportError, match="no variants of propagation 'vector'"):
        variants.build_variants(other, {}, ["int8"])
    assert variants.build_variants(other, {}, None) == ({}, {})  # all that fit: none
