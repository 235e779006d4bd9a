from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from gridkp_ros.runtime import Bundle
from gridkp_ros.runtime.engine import Engine, EngineError, choose_provider


@pytest.fixture(scope="module")
def detect(tiny_bundle_path: Path) -> Engine:
    return Engine(Bundle.load(tiny_bundle_path), "detect.onnx", num_threads=1)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_runs(detect: Engine, batch: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (batch, 64, 64, 3), dtype=np.uint8)
    out = detect.run({"image": images})
    assert out["pose"].shape == (batch, 4, 2)
    for i in range(batch):
        np.testing.assert_array_equal(detect.run({"image": images[i : i + 1]})["pose"][0], out["pose"][i])


def test_wrong_inputs_are_named(detect: Engine, tiny_bundle_path: Path) -> None:
    with pytest.raises(EngineError, match=r"detect\.onnx needs the input 'image'"):
        detect.run({})
    with pytest.raises(EngineError, match=r"input 'image' has shape \[64, 64, 3\], expected \['B', 64, 64, 3\]"):
        detect.run({"image": np.zeros((64, 64, 3), np.uint8)})
    with pytest.raises(EngineError, match=r"detect\.onnx failed on CPUExecutionProvider"):
        detect.run({"image": np.zeros((1, 64, 64, 3), np.float32)})
    update = Engine(Bundle.load(tiny_bundle_path), "update.onnx")
    feeds = {name: np.zeros((2, *want.dims[1:]), np.float32) for name, want in update.inputs.items()}
    feeds["pose"] = feeds["pose"][:1]
    with pytest.raises(EngineError, match=r"input 'pose' has shape \[1, 4, 2\], expected \['B', 4, 2\] with {'B': 2}"):
        update.run(feeds)


def test_a_provider_that_fails_in_the_middle_is_not_replaced(
    tiny_bundle_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(Bundle.load(tiny_bundle_path), "detect.onnx")
    engine._session._sess = Mock(wraps=engine._session._sess)
    engine._session._sess.run.side_effect = EPFail("CUDA failure 700")
    with pytest.raises(EngineError, match=r"detect\.onnx failed on CPUExecutionProvider: CUDA failure 700"):
        engine.run({"image": np.zeros((1, 64, 64, 3), np.uint8)})
    assert capfd.readouterr().out == ""


def test_free_dimensions_are_told_from_fixed_ones(detect: Engine) -> None:
    assert detect.input_shape("image") == ("B", 64, 64, 3)


def test_auto_is_the_cpu_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert choose_provider("auto") == "cpu"
    assert choose_provider("cpu") == "cpu"
