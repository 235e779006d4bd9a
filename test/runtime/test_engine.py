from __future__ import annotations

import re
import threading
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from gridkp_ros.runtime import Bundle
from gridkp_ros.runtime.engine import (
    Engine,
    EngineError,
    as_array,
    choose_provider,
    cpu_options,
    engine_cache,
    machine_key,
    provider_list,
    shape_of,
    telling,
)


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


def test_threads_spin_for_a_limited_time_and_only_while_a_graph_runs() -> None:
    assert cpu_options(2, "1.31.0") == {
        "session.intra_op.allow_spinning": "1",
        "session.intra_op.spin_duration_us": "50",
        "session.force_spinning_stop": "1",
    }
    asleep = {"session.intra_op.allow_spinning": "0"}
    assert cpu_options(2, "1.23.2") == asleep  # which cannot limit it
    assert cpu_options(1, "1.31.0") == asleep


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi that answers with the content of a file, and an empty cache."""
    answer = tmp_path / "answer"
    answer.write_text("NVIDIA A, 8.9, 570.1\n")
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\nexec cat '{answer}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    machine_key.cache_clear()
    yield answer
    machine_key.cache_clear()


def test_compiled_engines_are_kept_apart_by_graph_gpu_driver_and_libraries(
    gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = engine_cache("a" * 64)
    assert first.is_dir() and first == engine_cache("a" * 64)
    assert "NVIDIA A, 8.9, 570.1; onnxruntime" in (first / "machine.txt").read_text()
    folders = {first, engine_cache("b" * 64)}
    for line in ("NVIDIA B, 8.9, 570.1", "NVIDIA A, 8.9, 580.2"):
        gpu.write_text(line + "\n")
        machine_key.cache_clear()
        folders.add(engine_cache("a" * 64))
    monkeypatch.setattr("onnxruntime.__version__", "9.9.9")
    machine_key.cache_clear()
    folders.add(engine_cache("a" * 64))
    assert len(folders) == 5


def test_a_machine_without_nvidia_smi_has_a_key_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine_key.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "onnxruntime" in machine_key()
    machine_key.cache_clear()


def test_options_of_gpu_providers(gpu: Path) -> None:
    assert provider_list("cpu", b"graph", half=False) == ["CPUExecutionProvider"]
    cuda = provider_list("cuda", b"graph", half=False)
    assert [p if isinstance(p, str) else p[0] for p in cuda] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    (name, options), *rest = provider_list("tensorrt", b"graph", half=True)
    assert name == "TensorrtExecutionProvider" and rest == cuda
    assert options["trt_fp16_enable"] == "1" and Path(options["trt_engine_cache_path"]).is_dir()
    (_, single), *_ = provider_list("tensorrt", b"another graph", half=False)
    assert single["trt_fp16_enable"] == "0"
    assert single["trt_engine_cache_path"] != options["trt_engine_cache_path"]


def test_what_lasts_is_told_until_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    told = threading.Event()
    caplog.handler.addFilter(lambda record: told.set() or True)
    with telling("TensorRT prepares x", every_s=0.01):
        assert told.wait(60)
    assert not any(t.name == "engine-progress" for t in threading.enumerate())
    assert re.fullmatch(r"TensorRT prepares x: \d+ s so far", caplog.messages[0])


def test_what_is_kept_on_the_device_is_fed_again(tiny_bundle_path: Path) -> None:
    update = Engine(Bundle.load(tiny_bundle_path), "update.onnx", num_threads=1)
    draw = np.random.default_rng(0)
    feeds = {
        name: draw.random((2, *want.dims[1:]), np.float32) * 20 // 1
        if name == "pose"
        else np.zeros((2, *want.dims[1:]), np.float32)
        for name, want in update.inputs.items()
    }
    kept_names = [name for name in update.outputs if name != "c_out"]
    arrays = update.run(feeds, keep=kept_names)
    assert all(isinstance(value, np.ndarray) for value in arrays.values())  # a CPU has nothing to gain
    update._keeps = True
    kept = update.run(feeds, keep=kept_names)
    assert {k for k, v in kept.items() if not isinstance(v, np.ndarray)} == set(kept_names)
    for name, value in kept.items():
        assert shape_of(value) == arrays[name].shape
        np.testing.assert_array_equal(as_array(value), arrays[name])

    def again(state: dict) -> dict:
        return update.run({**feeds, **{k.removesuffix("_out"): v for k, v in state.items()}})

    for name, value in again(kept).items():
        np.testing.assert_array_equal(value, again(arrays)[name])
    one = update.run({k: v[:1] for k, v in feeds.items()}, keep=kept_names)
    with pytest.raises(EngineError, match=r"input 'pose' has shape \[2, 4, 2\], expected \['B', 4, 2\] with {'B': 1}"):
        again(one)
