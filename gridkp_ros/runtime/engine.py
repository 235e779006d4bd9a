"""One ONNX graph ready to run: its session, its execution provider, and the shapes the manifest promises."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from gridkp_ros.runtime.bundle import Bundle, BundleError
from gridkp_ros.runtime.onnx_file import TensorType

SPIN_US = 50  # longest that a thread waits for more work before it sleeps
SPIN_SINCE = (1, 31)  # the ONNX Runtime with which it was measured; older ones may not know the limit

ORT_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
PROVIDERS = (*ORT_NAMES, "auto")

_LOG = logging.getLogger(__name__)
_INSTALL = {
    "cuda": "install onnxruntime-gpu (in place of onnxruntime) with the CUDA and cuDNN versions it names",
    "tensorrt": "install onnxruntime-gpu (in place of onnxruntime) and TensorRT of the version it names",
}

Value = np.ndarray | onnxruntime.OrtValue  # of a graph: an array, or what lies on the device


def shape_of(value: Value) -> tuple[int, ...]:
    return tuple(value.shape() if isinstance(value, onnxruntime.OrtValue) else value.shape)


def as_array(value: Value) -> np.ndarray:
    """Copy a value from the device, if that is where it lies."""
    return value.numpy() if isinstance(value, onnxruntime.OrtValue) else value


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
        self._session = _open_session(content, self.path, provider, num_threads)
        self.provider = self._session.get_providers()[0]
        self._device = "cpu" if provider == "cpu" else "cuda"
        self._keeps = provider != "cpu"  # on a CPU arrays lie where they are needed
        self._output_names = list(self.outputs)
        self._prepared: set[tuple[tuple[int, ...], ...]] = set()  # shapes that TensorRT has built an engine for

    def input_shape(self, name: str) -> tuple[Any, ...]:
        """Return an input's dimensions as the graph states them: numbers where fixed, else names or None."""
        return tuple(next(i for i in self._session.get_inputs() if i.name == name).shape)

    def run(self, feeds: Mapping[str, Value], keep: Collection[str] = ()) -> dict[str, Value]:
        """Run the graph on arrays, or on what an earlier run has kept.

        keep: outputs that stay on a GPU, as ONNX Runtime's own values, to be fed again; the others are arrays.
        Raises EngineError if a shape going in or coming out is not the manifest's.
        """
        free: dict[str, int] = {}
        self._match("input", feeds, self.inputs, free)
        try:
            with self._telling(feeds):
                if (keep and self._keeps) or any(isinstance(value, onnxruntime.OrtValue) for value in feeds.values()):
                    values = self._run_bound(feeds, keep)
                else:
                    values = self._session.run(self._output_names, dict(feeds))
        except Exception as error:  # ONNX Runtime raises types of its own that share no base class
            raise EngineError(f"{self.path} failed on {self.provider}: {error}") from error
        outputs = dict(zip(self._output_names, values, strict=True))
        self._match("output", outputs, self.outputs, free)
        return outputs

    def shrink_pool(self) -> None:
        """On a CPU let go what the pool of all graphs holds beyond one small run of this one; elsewhere do nothing."""
        if self.provider != ORT_NAMES["cpu"]:
            return
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        shapes = {name: [d if isinstance(d, int) else 1 for d in want.dims] for name, want in self.inputs.items()}
        feeds = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        try:
            self._session.run(self._output_names, feeds, options)
        except Exception as error:  # ONNX Runtime raises types of its own that share no base class
            raise EngineError(f"{self.path} failed on {self.provider}: {error}") from error

    def _run_bound(self, feeds: Mapping[str, Value], keep: Collection[str]) -> list[Value]:
        binding = self._session.io_binding()
        for name, value in feeds.items():
            if isinstance(value, onnxruntime.OrtValue):
                binding.bind_ortvalue_input(name, value)
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name in self._output_names:
            binding.bind_output(name, self._device if name in keep else "cpu")
        self._session.run_with_iobinding(binding)
        values = zip(self._output_names, binding.get_outputs(), strict=True)
        return [value if name in keep else value.numpy() for name, value in values]

    def _telling(self, feeds: Mapping[str, Value]) -> contextlib.AbstractContextManager[None]:
        """TensorRT builds an engine when it first meets a shape: say so while it lasts."""
        shapes = tuple(shape_of(value) for value in feeds.values())
        if self.provider != ORT_NAMES["tensorrt"] or shapes in self._prepared:
            return contextlib.nullcontext()
        self._prepared.add(shapes)
        return telling(f"TensorRT prepares {self.path.name} for inputs of {len(feeds)} shapes not met before")

    def _match(
        self,
        side: str,
        values: Mapping[str, Value],
        expected: Mapping[str, TensorType],
        free: dict[str, int],
    ) -> None:
        for name, want in expected.items():
            if name not in values:
                raise EngineError(f"{self.path} needs the input {name!r}")
            shape = shape_of(values[name])
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
        return "cuda" if ORT_NAMES["cuda"] in available else "cpu"
    if ORT_NAMES[provider] not in available:
        raise EngineError(
            f"provider {provider!r} is not in this ONNX Runtime {onnxruntime.__version__} (it has "
            f"{', '.join(available)}): {_INSTALL[provider]}, or use provider 'cpu'"
        )
    return provider


def cpu_options(num_threads: int, version: str = onnxruntime.__version__) -> dict[str, str]:
    """Session settings for threads, by ONNX Runtime's names.

    Threads that sleep between two operators of a graph wake too slowly for graphs of a hundred small ones: two cores
    were no faster than one. Threads that spin for as long as ONNX Runtime's default, a millisecond, keep a core from
    whoever else wants it, and the graph waits for the loser. So they spin for at most SPIN_US, and only while a graph
    runs: between two frames the cores are for the robot. An ONNX Runtime that cannot limit it does not spin at all.
    """
    limited = tuple(int(part) for part in version.split(".")[:2]) >= SPIN_SINCE
    if num_threads == 1 or not limited:
        return {"session.intra_op.allow_spinning": "0"}
    return {
        "session.intra_op.allow_spinning": "1",
        "session.intra_op.spin_duration_us": str(SPIN_US),
        "session.force_spinning_stop": "1",
    }


def provider_list(provider: str, content: bytes, half: bool) -> list[str | tuple[str, dict[str, str]]]:
    """Execution providers of a session with their options, the wanted one first.

    content: the graph's file, by which TensorRT's cache knows it. half: the graph computes in half precision where it
    says so. The options for CUDA and TensorRT have not been run on a GPU yet.
    """
    cuda = (ORT_NAMES["cuda"], {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"})
    if provider == "cpu":
        return [ORT_NAMES["cpu"]]
    # The CPU takes the few nodes (shape arithmetic) that a GPU provider leaves out.
    if provider == "cuda":
        return [cuda, ORT_NAMES["cpu"]]
    cache = str(engine_cache(hashlib.sha256(content).hexdigest()))
    tensorrt = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": cache,
        "trt_fp16_enable": "1" if half else "0",
    }
    return [(ORT_NAMES["tensorrt"], tensorrt), cuda, ORT_NAMES["cpu"]]


def _open_session(content: bytes, path: Path, provider: str, num_threads: int) -> onnxruntime.InferenceSession:
    name = ORT_NAMES[provider]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    for key, value in cpu_options(num_threads).items():
        options.add_session_config_entry(key, value)
    _share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = 3
    providers = provider_list(provider, content, half="fp16" in path.name.split(".")[1:-1])
    if provider != "cpu" and hasattr(onnxruntime, "preload_dlls"):  # 1.21 and later
        with contextlib.redirect_stdout(sys.stderr):  # it prints, and standard output belongs to --json
            onnxruntime.preload_dlls()  # finds CUDA and cuDNN where pip put them
    what = f"{name} opens {path.name} (TensorRT builds an engine the first time, for minutes)"
    try:
        with telling(what) if provider != "cpu" else contextlib.nullcontext():
            # Without enable_fallback=0 a provider that fails, now or in the middle of a stream, is replaced by the CPU
            # with a line on stdout.
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


@contextlib.contextmanager
def telling(what: str, every_s: float = 5.0) -> Iterator[None]:
    """Log, every few seconds while the body runs, what is going on and for how long it has."""
    done, start_s = threading.Event(), time.monotonic()

    def tell() -> None:
        while not done.wait(every_s):
            _LOG.warning("%s: %.0f s so far", what, time.monotonic() - start_s)

    thread = threading.Thread(target=tell, name="engine-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@functools.cache
def machine_key() -> str:
    """What a compiled engine is good for, as one line: GPU, driver, and the versions of the libraries that made it."""
    versions = [f"onnxruntime {onnxruntime.__version__}"]
    for name in ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # a Jetson has none, but its release names all of them
        release = Path("/etc/nv_tegra_release")
        gpu = release.read_text(errors="replace").splitlines()[0] if release.is_file() else f"GPU of {platform.node()}"
    return "; ".join((*gpu.splitlines(), *versions, platform.machine()))


def engine_cache(graph_sha256: str) -> Path:
    """Make and return the folder of compiled engines of a graph on this machine, as it is now.

    Another graph, GPU, driver or library has another folder: TensorRT itself does not notice all of these.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    machine = hashlib.sha256(machine_key().encode()).hexdigest()[:12]
    folder = Path(root) / "gridkp_ros" / "tensorrt" / f"{graph_sha256[:16]}-{machine}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "machine.txt").write_text(machine_key() + "\n")
    return folder
