"""One ONNX graph ready to run: its session, its execution provider, and the shapes the manifest promises."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from gridkp_ros.runtime.bundle import Bundle, BundleError
from gridkp_ros.runtime.onnx_file import TensorType

PROVIDERS = ("cpu", "cuda", "tensorrt", "auto")

_LOG = logging.getLogger(__name__)
_ORT_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_INSTALL = {
    "cuda": "install onnxruntime-gpu (in place of onnxruntime) with the CUDA and cuDNN versions it names",
    "tensorrt": "install onnxruntime-gpu (in place of onnxruntime) and TensorRT of the version it names",
}


class EngineError(RuntimeError):
    """A graph cannot be run as asked: no such provider, a wrong shape, or a failure inside it."""


class Engine:
    """A graph of a bundle as an ONNX Runtime session, held to the shapes that the manifest promises."""

    def __init__(self, bundle: Bundle, file: str, *, provider: str = "cpu", num_threads: int = 0) -> None:
        """Open a graph file of a bundle on a provider: "cpu", "cuda" or "tensorrt".

        num_threads: of the CPU for one graph; 0 leaves the choice to ONNX Runtime.
        Raises BundleError if the graph does not fit the manifest, EngineError if the provider cannot be had.
        """
        self.file = file
        self.path = bundle.path / file
        self.inputs, self.outputs = bundle.manifest.tensors(file.split(".")[0])
        content = bundle.read_graph(file)
        self._session = _open_session(content, self.path, bundle.manifest.model_id, provider, num_threads)
        self.provider = self._session.get_providers()[0]
        self._output_names = list(self.outputs)

    def input_shape(self, name: str) -> tuple[Any, ...]:
        """Return an input's dimensions as the graph states them: numbers where fixed, else names or None."""
        return tuple(next(i for i in self._session.get_inputs() if i.name == name).shape)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph. Raises EngineError if a shape going in or coming out is not the manifest's."""
        free: dict[str, int] = {}
        self._match("input", feeds, self.inputs, free)
        try:
            values = self._session.run(self._output_names, dict(feeds))
        except Exception as error:  # ONNX Runtime raises types of its own that share no base class
            raise EngineError(f"{self.path} failed on {self.provider}: {error}") from error
        outputs = dict(zip(self._output_names, values, strict=True))
        self._match("output", outputs, self.outputs, free)
        return outputs

    def _match(
        self,
        side: str,
        values: Mapping[str, np.ndarray],
        expected: Mapping[str, TensorType],
        free: dict[str, int],
    ) -> None:
        for name, want in expected.items():
            if name not in values:
                raise EngineError(f"{self.path} needs the input {name!r}")
            shape = values[name].shape
            known = [d if isinstance(d, int) else free.setdefault(d, n) for d, n in zip(want.dims, shape, strict=False)]
            if len(shape) != len(want.dims) or list(shape) != known:
                raise EngineError(
                    f"{self.path}: {side} {name!r} has shape {list(shape)}, expected {list(want.dims)} with {free}"
                )


def choose_provider(provider: str) -> str:
    """Resolve "auto" to "cuda" where ONNX Runtime offers it, else "cpu"; EngineError if one cannot be had.

    "auto" never takes TensorRT, which builds its engines for minutes before the first result.
    """
    if provider not in PROVIDERS:
        raise EngineError(f"provider {provider!r}: use one of {', '.join(PROVIDERS)}")
    available = onnxruntime.get_available_providers()
    if provider == "auto":
        return "cuda" if _ORT_NAMES["cuda"] in available else "cpu"
    if _ORT_NAMES[provider] not in available:
        raise EngineError(
            f"provider {provider!r} is not in this ONNX Runtime {onnxruntime.__version__} (it has "
            f"{', '.join(available)}): {_INSTALL[provider]}, or use provider 'cpu'"
        )
    return provider


def _open_session(
    content: bytes, path: Path, model_id: str, provider: str, num_threads: int
) -> onnxruntime.InferenceSession:
    name = _ORT_NAMES[provider]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    # Between two frames the cores are for the robot: threads that spin while they wait would keep them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    _share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Products of 8-bit integers must not saturate on x86 without VNNI, where ONNX Runtime prefers faster ones that do.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    providers: list[Any] = [name]
    if provider == "tensorrt":
        cache = _engine_cache(model_id)
        _LOG.warning(
            "building or loading the TensorRT engine of %s (minutes the first time), cache %s",
            path.name,
            cache,
        )
        providers = [
            (name, {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(cache)}),
            _ORT_NAMES["cuda"],
        ]
    if provider != "cpu":
        providers.append(_ORT_NAMES["cpu"])  # for the few nodes (shape arithmetic) that a GPU provider leaves out
    if provider != "cpu" and hasattr(onnxruntime, "preload_dlls"):  # 1.21 and later
        with contextlib.redirect_stdout(sys.stderr):  # it prints, and standard output belongs to --json
            onnxruntime.preload_dlls()  # finds CUDA and cuDNN where pip put them
    try:
        # Else a provider that fails, now or in the middle of a stream, is replaced by the CPU with a line on stdout.
        session = onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises types of its own that share no base class
        if provider != "cpu":
            raise EngineError(f"{path} cannot be opened on {name} ({error}): {_INSTALL[provider]}") from error
        raise BundleError(
            f"{path} is refused by ONNX Runtime {onnxruntime.__version__} ({error}): export it again"
        ) from error
    if session.get_providers()[0] != name:
        raise EngineError(
            f"ONNX Runtime could not start {name} and fell back to {session.get_providers()[0]} "
            f"(its log says why): {_INSTALL[provider]}, or use provider 'cpu'"
        )
    if hasattr(session, "_model_bytes"):
        session._model_bytes = None  # the file once more, kept to open the session again on other providers
    return session


@functools.cache
def _share_arena() -> None:
    """Give all graphs of this process one pool of memory: they run one after the other, each in what the last one had.

    It grows by what is asked for, where a graph's own pool would double.
    """
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    as_requested = onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1})
    onnxruntime.create_and_register_allocator(memory, as_requested)


def _engine_cache(model_id: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "gridkp_ros" / "tensorrt" / model_id
    folder.mkdir(parents=True, exist_ok=True)
    return folder
