"""`gridkp bench online`: eager PyTorch computes what the graphs compute, operations are counted, all rows are there."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

import onnx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from gridkp_ros.bench import eager, online, peak  # noqa: E402
from gridkp_ros.bench.onnx_flops import executed_flops, flops_of  # noqa: E402
from gridkp_ros.cli import app  # noqa: E402
from gridkp_ros.runtime import Bundle, Predictor  # noqa: E402
from gridkp_ros.runtime.onnx_file import TensorType  # noqa: E402


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A bench sets the number of PyTorch's threads for its whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peak.SIZES, "cpu", 64)


def test_eager_computes_what_the_graphs_compute(untrained_bundle_path: Path) -> None:
    model = Bundle.load(untrained_bundle_path)
    ours, theirs = Predictor(model, warmup_frames=3, scene_cut_threshold=1.0), eager.EagerPredictor(model)
    rng = np.random.default_rng(1)
    for index in range(5):
        image = rng.integers(0, 256, (48, 64, 3), np.uint8)
        observed = ours.observe(image, round(index * 1e9 / 15))
        pose, confidence = theirs.observe(image)
        np.testing.assert_array_equal(observed.pose, pose)
        np.testing.assert_allclose(observed.confidence, confidence, atol=1e-4)
    forecast = ours.forecast(4, 3)
    poses, spread, near = theirs.forecast(3, 4, ours.draw_noise(3, 4, 1.0, 0)[0])
    np.testing.assert_array_equal(forecast.pose, poses.numpy())
    np.testing.assert_allclose(forecast.confidence, near.mean(dim=0).numpy(), atol=1e-4)
    mean = poses.double().mean(dim=0)
    between = (poses.double() - mean).square().mean(dim=0)
    covariance = spread.double().mean(dim=0)[..., [0, 2]] + between + 1 / 12
    scale = np.array([64 / 32, 48 / 32]) ** 2
    np.testing.assert_allclose(forecast.covariance[..., [0, 2]], covariance.numpy() * scale, rtol=1e-3)
    drawn = theirs.render(poses[0])
    assert np.abs(ours.render(forecast, [1, 2, 3, 4]).astype(int) - drawn).max() <= 1


def test_operations_are_those_that_are_executed() -> None:
    weights = {
        "conv": np.ones((6, 4, 3, 3), np.float32), "up": np.ones((6, 5, 2, 2), np.float32),
        "right": np.ones((8, 7), np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["a", "up"], ["b"], strides=[2, 2]),
        helper.make_node("MatMul", ["b", "right"], ["y"]),
        helper.make_node("MatMul", ["left", "right"], ["z"]),
    ]

    def value(name: str, *shape: object) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes, "g", [value("x", "B", 4, 4, 4), value("left", 3, 8)], [value("y", "B", 5, 8, 7), value("z", 3, 7)],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    inputs = {"x": TensorType("float32", ("B", 4, 4, 4)), "left": TensorType("float32", (3, 8))}
    each = 2 * (6 * 16) * (4 * 9) + 2 * (6 * 16) * (5 * 4) + 2 * (5 * 8 * 7) * 8
    # ONNX Runtime may fill channels up to a block of 8 or 16; here it does not have to.
    assert executed_flops(model.SerializeToString(), inputs, {"B": 2}) >= 2 * each + 2 * 3 * 8 * 7
    assert executed_flops(model.SerializeToString(), inputs, {"B": 2}) <= 10 * (2 * each + 2 * 3 * 8 * 7)


@pytest.mark.parametrize(
    ("op", "inputs", "output", "flops"),
    [
        ("Conv", [[2, 8, 4, 4], [16, 8, 3, 3], [16]], [2, 16, 4, 4], 2 * 512 * 72),
        ("QLinearConv", [[1, 4, 4, 8], [], [], [16, 8, 3, 3], [], []], [1, 4, 4, 16], 2 * 256 * 72),
        ("ConvTranspose", [[1, 8, 4, 4], [8, 6, 2, 2]], [1, 6, 8, 8], 2 * 128 * 24),
        ("FusedMatMul", [[2, 12, 2, 64], [2, 12, 2, 64]], [2, 12, 64, 64], 2 * 2 * 12 * 64 * 64 * 2),
        ("MatMul", [[3, 64], [2, 12, 64, 5]], [2, 12, 3, 5], 2 * 360 * 64),
        ("QGemm", [[2, 128], [], [], [128, 60]], [2, 60], 2 * 120 * 128),
        ("Add", [[2, 8], [2, 8]], [2, 8], 0),
    ],
)
def test_operations_of_a_node(op: str, inputs: list[list[int]], output: list[int], flops: int) -> None:
    shapes = [{"float": shape} for shape in inputs]
    assert flops_of({"op_name": op, "input_type_shape": shapes, "output_type_shape": [{"float": output}]}) == flops


def test_json_has_every_row_and_the_keypoints_are_equal(
    untrained_bundle_path: Path, tmp_path: Path, small_peak: None
) -> None:
    out = tmp_path / "speed"
    options = ["--model", str(untrained_bundle_path), "--quick", "--threads", "1", "--out", str(out), "--json"]
    done = CliRunner().invoke(app, ["bench", "online", *options])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    timed = {(row["work"], row["provider"], row["variant"]): row for row in rows if "median_ms" in row}
    names = ["observe", "observe+1x10", "observe+2x15", "observe+4x15", "10x20", "100x40", "render10"]
    sides = {("eager", "equal"), ("cpu", "equal"), ("cpu", "int8")}
    assert set(timed) >= {(name, *side) for name in names for side in sides}
    for (work, provider, _), row in timed.items():
        for key in ("median_ms", "p99_ms", "speedup_vs_eager", "peak_share", "gflop", "memory_mb"):
            assert math.isfinite(row[key]), (work, provider, key)
        assert row["p99_ms"] >= row["median_ms"] > 0 and row["gflop"] > 0 and row["runs"] >= 1
        if provider == "eager":
            assert row["speedup_vs_eager"] == 1
        elif work != "render10" and row["variant"] == "equal":
            assert row["equal_cells"] > 0.99, work  # a rounding may decide between two cells that are as likely
        elif work != "render10":
            assert 0 < row["equal_cells"] <= 1 and math.isfinite(row["cell_distance"])
    (process,) = (r for r in rows if r["work"] == "process" and r["provider"] == "cpu" and r["variant"] == "equal")
    ros = importlib.util.find_spec("rclpy") and importlib.util.find_spec("gridkp_ros.msg")
    assert process["kind"] == ("predictor_node" if ros else "predictor") and process["active_s"] > 0
    assert 20 < process["rss_mb"] < 300  # PyTorch alone would be more
    (found,) = (row for row in rows if row["work"] == "peak")
    assert found["gflop_per_s"] > 0
    assert json.loads((out / "online.json").read_text()) == rows
    assert "| observe+1x10 | cpu | equal |" in (out / "online.md").read_text()
    online.tabulate(rows)


def test_what_is_not_there_is_refused_in_a_sentence(untrained_bundle_path: Path, tiny_bundle_path: Path) -> None:
    with pytest.raises(online.BenchError, match="has no variant int3: it has equal, int8"):
        online.bench_online(untrained_bundle_path, variants=["int3"])
    with pytest.raises(online.BenchError, match="provider gpu: use cpu, cuda, tensorrt"):
        online.bench_online(untrained_bundle_path, providers=["gpu"])
    with pytest.raises(eager.NoEagerError, match=r"tiny cannot be run in PyTorch: that takes .*weights\.safetensors"):
        online.bench_online(tiny_bundle_path, works=online.WORKS[:1])


def test_a_provider_that_was_asked_for_and_is_not_there_is_not_replaced(untrained_bundle_path: Path) -> None:
    if "TensorrtExecutionProvider" in online.onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has TensorRT")
    with pytest.raises(online.PredictorError, match="provider 'tensorrt' is not in this ONNX Runtime"):
        online.bench_online(untrained_bundle_path, providers=["tensorrt"])
