"""What works on this machine and what is missing: `gridkp doctor`.

Each check looks at one thing and says what to do about it. What may crash or hang (a GPU's libraries, a ROS built for
another NumPy, DDS) runs in a process of its own. PyTorch is looked for and never imported.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

OK, WARN, FAIL = "ok", "warn", "fail"
MAX_DOMAIN_ID = 101  # above, DDS's ports lie among those that Linux hands out by itself
_MIN_PYTHON = (3, 10)
_PROCESS_S = 60.0
_ROUND_TRIPS = 15

# Distribution: lowest version, module, extra of the package ("": needed to predict at all), what for. The versions are
# those of pyproject.toml, which a machine where ROS built the package does not have at hand.
PACKAGES: dict[str, tuple[str, str, str, str]] = {
    "numpy": ("1.23", "numpy", "", "everything"),
    "opencv-python-headless": ("4.6", "cv2", "", "images"),
    "onnxruntime": ("1.18", "onnxruntime", "", "running models"),
    "pyyaml": ("6.0", "yaml", "", "configuration"),
    "rosbags": ("0.10", "rosbags", "", "reading bags"),
    "rosbags-image": ("0.9", "rosbags.image", "", "reading image messages"),
    "typer": ("0.9", "typer", "", "this command"),
    "rich": ("13", "rich", "", "this command"),
    "scikit-image": ("0.20", "skimage", "report", "gridkp replay's report"),
    "jinja2": ("3.1", "jinja2", "report", "gridkp replay's report"),
    "av": ("14", "av", "report", "films"),
    "mujoco": ("3.1", "mujoco", "sim", "the simulated endoscope"),
    "torch": ("2.5", "torch", "train", "training"),
    "lightning": ("2.6", "lightning", "train", "training"),
    "onnx": ("1.15", "onnx", "train", "exporting a bundle"),
    "onnxscript": ("0.1", "onnxscript", "train", "exporting a bundle"),
}
# The same module from another distribution: OpenCV's variants, ONNX Runtime's for GPUs.
_ALSO = {
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "onnxruntime": ("onnxruntime-gpu",),
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: its area and name, "ok", "warn" or "fail", what was found, and what to do about it.

    "fail" means that predicting, or a ROS 2 that is there, does not work; "warn" that something else is missing or
    slow.
    """

    area: str
    name: str
    status: str
    text: str
    advice: str = ""


Check = Callable[[], Iterator[Finding]]


def check_python() -> Iterator[Finding]:
    """Python's version, and the processor's kind."""
    found = f"{platform.python_version()} on {platform.machine()}, {platform.system()}"
    if sys.version_info < _MIN_PYTHON:
        yield Finding("python", "version", FAIL, found, "use Python 3.10 or newer")
    else:
        yield Finding("python", "version", OK, found)


def check_packages() -> Iterator[Finding]:
    """Each package's version against the lowest that will do."""
    for name, (floor, module, extra, purpose) in PACKAGES.items():
        install = f"pip install 'gridkp_ros[{extra}]'" if extra else f"pip install '{name}>={floor}'"
        try:
            there = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            there = False
        if not there:
            yield Finding("packages", name, WARN if extra else FAIL, f"not installed; it is for {purpose}", install)
            continue
        version = _version(name, module)
        if _numbers(version) < _numbers(floor):
            yield Finding("packages", name, WARN if extra else FAIL, f"{version}, {floor} or newer is needed", install)
        else:
            yield Finding("packages", name, OK, version)
    both = [n for n in ("onnxruntime", *_ALSO["onnxruntime"]) if _installed_version(n)]
    if len(both) > 1:
        yield Finding(
            "packages", "onnxruntime twice", WARN, " and ".join(both) + " overwrite each other's files",
            "pip uninstall both, then install the one you want",
        )


def check_providers() -> Iterator[Finding]:
    """ONNX Runtime's execution providers: does a graph really run on each?"""
    import onnxruntime

    from gridkp_ros.runtime.engine import PROVIDERS, EngineError, choose_provider

    for name in (p for p in PROVIDERS if p != "auto"):
        try:
            choose_provider(name)
        except EngineError as error:
            if name == "cpu":
                yield Finding("providers", name, FAIL, str(error), "install onnxruntime again")
            else:
                yield Finding("providers", name, OK, f"not in this ONNX Runtime {onnxruntime.__version__}: CPU it is")
            continue
        problem = _in_process(_TRY_PROVIDER, name)
        if problem:
            yield Finding(
                "providers", name, FAIL if name == "cpu" else WARN, f"offered, but no graph runs on it: {problem}",
                "install the CUDA, cuDNN and TensorRT versions that this ONNX Runtime names, or use provider cpu",
            )
        else:
            yield Finding("providers", name, OK, "a graph runs on it")
    if os.environ.get("ORT_DISABLE_TELEMETRY") == "1":
        yield Finding("providers", "telemetry", OK, "ONNX Runtime reports nothing (ORT_DISABLE_TELEMETRY=1)")
    else:
        yield Finding(
            "providers", "telemetry", WARN, "ONNX Runtime may report its use to its maker",
            "unset ORT_DISABLE_TELEMETRY, or set it to 1",
        )


def check_bundles(model: str) -> Iterator[Finding]:
    """Every bundle that is installed, and a forecast with the one that is asked for."""
    import numpy as np

    from gridkp_ros.node.resources import ResourceError, find_model, share_folders
    from gridkp_ros.runtime import Bundle, BundleError, Predictor, PredictorError

    manifests = {path.resolve() for share in share_folders() for path in (share / "models").glob("*/manifest.json")}
    for folder in sorted(path.parent for path in manifests):
        try:
            bundle = Bundle.load(folder)
            yield Finding("bundles", folder.name, OK, f"{bundle.manifest.model_id} in {bundle.path}: whole and closed")
        except BundleError as error:
            yield Finding("bundles", folder.name, WARN, str(error), "copy or export that bundle again")
    try:
        predictor = Predictor(find_model(model), warmup_frames=1)
        spec, horizon = predictor.manifest.input, min(15, predictor.manifest.trusted_steps)
        image = np.zeros((spec.height, spec.width, 3), np.uint8)
        times = []
        for index in range(5):
            start = time.perf_counter()
            predictor.observe(image, round(index * predictor.manifest.period_s * 1e9))
            predictor.forecast(horizon)
            times.append(1e3 * (time.perf_counter() - start))
    except (ResourceError, BundleError, PredictorError) as error:
        yield Finding("bundles", "a forecast", FAIL, str(error), "this is the main job: nothing else works without it")
        return
    took, period = sorted(times)[len(times) // 2], 1e3 * predictor.manifest.period_s
    text = f"{predictor.model_id}: observe and {horizon} steps take {took:.0f} ms, a step lasts {period:.0f} ms"
    if took > period:
        yield Finding("bundles", "a forecast", WARN, text, "lower horizon_steps, free the cores, or use a GPU")
    else:
        yield Finding("bundles", "a forecast", OK, text)


def check_machine() -> Iterator[Finding]:
    """Cores, instructions and memory."""
    usable = len(os.sched_getaffinity(0))
    yield Finding(
        "machine", "cores", OK if usable > 1 else WARN, f"{usable} of {os.cpu_count()} usable",
        "" if usable > 1 else "camera, DDS and predictor share one core: expect dropped frames",
    )
    flags = _cpu_flags()
    fast = sorted(flags & {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
    int8 = bool(flags & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
    yield Finding(
        "machine", "instructions", OK,
        f"{', '.join(fast) or 'none known'}; {'int8 variants are fast here' if int8 else 'int8 variants gain little'}",
    )
    available = _mem_available_mib()
    status = OK if available >= 1024 else WARN
    yield Finding(
        "machine", "memory", status, f"{available} MiB available",
        "" if status == OK else "a predicting process takes some 200 MiB, the simulator and the trainer more",
    )


def check_gl() -> Iterator[Finding]:
    """Off-screen rendering, which the simulated endoscope needs."""
    if importlib.util.find_spec("mujoco") is None:
        return
    problem = _in_process("from gridkp_ros.sim import gl_available\nsys.exit(gl_available())")
    if problem:
        yield Finding(
            "simulator", "off-screen GL", WARN, problem.splitlines()[-1],
            "apt-get install libosmesa6; until then a pre-rendered clip is played",
        )
    else:
        yield Finding("simulator", "off-screen GL", OK, "scenes can be rendered")


def check_caches() -> Iterator[Finding]:
    """What this package keeps outside of the folders it is given."""
    from gridkp_ros.sim import cache_root

    root = cache_root()
    for folder in sorted(p for p in root.glob("*") if p.is_dir()):
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        yield Finding(
            "caches", folder.name, OK, f"{size / 2**20:.0f} MiB in {folder}",
            "frames of your recordings: see docs/security.md" if folder.name not in ("tensorrt", "sim") else "",
        )
    if not root.is_dir():
        yield Finding("caches", "folder", OK, f"{root} does not exist yet; XDG_CACHE_HOME moves it")


def check_ros() -> Iterator[Finding]:
    """ROS 2: client library, messages, domain, discovery, security."""
    distribution = os.environ.get("ROS_DISTRO", "")
    if importlib.util.find_spec("rclpy") is None:
        sourced = bool(os.environ.get("AMENT_PREFIX_PATH"))
        yield Finding(
            "ros", "rclpy", FAIL if sourced else WARN,
            "not found" + (f" though ROS 2 {distribution} is sourced" if sourced else ": nodes cannot run here"),
            "use the Python that this ROS 2 was made for" if sourced
            else "source /opt/ros/<distribution>/setup.bash, or run make setup and source scripts/env.sh",
        )
        return
    said = _in_process(
        "import rclpy\nfrom rclpy.utilities import get_rmw_implementation_identifier as rmw\nsys.exit('RMW ' + rmw())"
    )
    if not said.startswith("RMW "):
        yield Finding("ros", "rclpy", FAIL, f"it does not load: {said}", "source its setup.bash (here: scripts/env.sh)")
        return
    yield Finding("ros", "rclpy", OK, f"{distribution or 'as wheels'}, {said.removeprefix('RMW ')}")
    problem = _in_process("import gridkp_ros.msg, gridkp_ros.srv")
    if problem:
        yield Finding(
            "ros", "messages", FAIL, f"gridkp_ros.msg does not load: {problem}",
            "colcon build --packages-select gridkp_ros, then source install/setup.bash (here: make setup)",
        )
    else:
        yield Finding("ros", "messages", OK, "built")
    yield from _check_domain()
    from gridkp_ros.node.images import choose_converter

    converter, sentence = choose_converter()
    broken = converter is None and "no cv_bridge" not in sentence
    yield Finding(
        "ros", "image conversion", WARN if broken else OK, sentence, 'pip install "numpy<2" mends it' if broken else ""
    )
    yield from _check_security()


def _check_domain() -> Iterator[Finding]:
    text = os.environ.get("ROS_DOMAIN_ID", "0")
    if not text.isdigit() or int(text) > MAX_DOMAIN_ID:
        yield Finding("ros", "domain", WARN, f"ROS_DOMAIN_ID is {text!r}", f"use 0 to {MAX_DOMAIN_ID}")
    else:
        yield Finding("ros", "domain", OK, f"ROS_DOMAIN_ID is {text}; all nodes must share it")
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "")
    if os.environ.get("ROS_LOCALHOST_ONLY") == "1":
        reach = "LOCALHOST (ROS_LOCALHOST_ONLY)"
    alone = reach.startswith(("LOCALHOST", "OFF"))
    yield Finding(
        "ros", "discovery", WARN if reach == "OFF" else OK,
        f"{reach or 'SUBNET (the default)'}: nodes of " + ("this machine alone" if alone else "the network too"),
        "a camera on another machine is not heard; unset ROS_AUTOMATIC_DISCOVERY_RANGE for that" if alone else "",
    )


def _check_security() -> Iterator[Finding]:
    if os.environ.get("ROS_SECURITY_ENABLE", "").lower() != "true":
        yield Finding("ros", "SROS 2", OK, "off: anybody in this domain may listen and publish; see docs/security.md")
        return
    keystore = Path(os.environ.get("ROS_SECURITY_KEYSTORE", ""))
    if not (keystore / "enclaves").is_dir():
        yield Finding(
            "ros", "SROS 2", FAIL, f"on, but ROS_SECURITY_KEYSTORE={str(keystore)!r} is no keystore",
            "ros2 security create_keystore <folder>",
        )
        return
    problem = _in_process("import rclpy\nrclpy.init()\nrclpy.create_node('gridkp_doctor')")
    if problem:
        yield Finding(
            "ros", "SROS 2", FAIL, f"on, and a node cannot start: {problem}",
            "ROS 2 as wheels has no security; ROS_SECURITY_ENCLAVE_OVERRIDE must name an enclave with keys",
        )
    else:
        yield Finding("ros", "SROS 2", OK, f"on, with {keystore}")


def check_transport() -> Iterator[Finding]:
    """DDS: its profile, its shared memory, and whether images really arrive."""
    if importlib.util.find_spec("rclpy") is None:
        return
    from gridkp_ros.node.transport import chosen_transport, shared_memory_problem
    from gridkp_ros.node.transport_bench import measure

    chosen = chosen_transport()
    if chosen:
        yield Finding("dds", "transport", OK, chosen)
    else:
        yield Finding(
            "dds", "transport", WARN, "no Fast DDS profile is chosen: most images would be lost without a word",
            "launch files choose one; for a camera's terminal: source scripts/env.sh, or see docs/ros.md",
        )
    problem = shared_memory_problem()
    if problem or not Path("/dev/shm").is_dir():
        yield Finding("dds", "shared memory", WARN, problem or "there is no /dev/shm: images travel by UDP")
    else:
        yield Finding("dds", "shared memory", OK, f"{shutil.disk_usage('/dev/shm').free >> 20} MiB free in /dev/shm")
    options = Namespace(
        width=640, height=480, frames=_ROUND_TRIPS, rate=30.0, topic="gridkp_doctor_image", burst=1, readers=1
    )
    try:
        trips = sorted(measure(options, "reliable", dict(os.environ)))
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        yield Finding("dds", "round trip", FAIL, f"two processes cannot talk: {error}", "see the lines above")
        return
    text = f"{len(trips)} of {_ROUND_TRIPS} images of 640x480 answered"
    if not trips:
        yield Finding("dds", "round trip", FAIL, text, "check ROS_DOMAIN_ID, firewall and /dev/shm")
    else:
        whole = len(trips) == _ROUND_TRIPS
        yield Finding(
            "dds", "round trip", OK if whole else WARN, f"{text}, median {trips[len(trips) // 2]:.1f} ms",
            "" if whole else "ros2 run gridkp_ros transport_bench compares transports",
        )


def check_simulated_time() -> Iterator[Finding]:
    """Whether somebody publishes /clock in this domain."""
    if importlib.util.find_spec("rclpy") is None:
        return
    said = _in_process(
        "import rclpy, time\nrclpy.init()\nnode = rclpy.create_node('gridkp_doctor')\ntime.sleep(1.0)\n"
        "sys.exit(f\"CLOCKS {node.count_publishers('/clock')}\")"
    )
    if not said.startswith("CLOCKS "):
        yield Finding("ros", "/clock", FAIL, f"a node cannot start: {said}", "see the lines above")
    elif said == "CLOCKS 0":
        yield Finding("ros", "/clock", OK, "nobody publishes it: with use_sim_time nodes would stand still")
    else:
        yield Finding("ros", "/clock", OK, f"{said.split()[1]} publishers: give every node use_sim_time, or none")


def examine(model: str = "", *, quick: bool = False) -> list[Finding]:
    """Make all checks; quick leaves out those that take seconds (GL, DDS round trip, /clock)."""
    checks: list[tuple[str, Check]] = [
        ("python", check_python), ("packages", check_packages), ("providers", check_providers),
        ("bundles", lambda: check_bundles(model)), ("machine", check_machine), ("caches", check_caches),
        ("ros", check_ros),
    ]
    if not quick:
        checks += [("dds", check_transport), ("ros", check_simulated_time), ("simulator", check_gl)]
    findings: list[Finding] = []
    for area, check in checks:
        try:
            findings += check()
        except Exception as error:  # the next check is made all the same; this one did not find what it is to look at
            text = f"it could not be looked at: {type(error).__name__}: {error}"
            findings.append(Finding(area, "check", FAIL, text, "the lines above may say why"))
    return findings


def works(findings: Sequence[Finding]) -> bool:
    """Return whether the main job can run: nothing fails."""
    return all(f.status != FAIL for f in findings)


def to_json(findings: Sequence[Finding]) -> dict:
    """Return the findings as plain values."""
    counts = {status: sum(f.status == status for f in findings) for status in (OK, WARN, FAIL)}
    return {"works": works(findings), "counts": counts, "findings": [asdict(f) for f in findings]}


# One Add of a number to itself: ONNX, IR 8, operators 13.
_ADD = "CAgSADo1Cg4KAXgKAXgSAXkiA0FkZBIBZ1oPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEA0="
_TRY_PROVIDER = f"""
import base64
import numpy
import onnxruntime
name = {{"cpu": "CPU", "cuda": "CUDA", "tensorrt": "Tensorrt"}}[sys.argv[1]] + "ExecutionProvider"
if hasattr(onnxruntime, "preload_dlls") and name != "CPUExecutionProvider":
    onnxruntime.preload_dlls()
session = onnxruntime.InferenceSession(base64.b64decode({_ADD!r}), providers=[name], enable_fallback=0)
if session.get_providers()[0] != name:
    sys.exit(f"it fell back to {{session.get_providers()[0]}}")
assert session.run(None, {{"x": numpy.ones(1, numpy.float32)}})[0] == 2
"""


def _in_process(code: str, *arguments: str) -> str:
    """Run code in a process of its own; return "" if it ends well, else what it said or how it ended."""
    command = [sys.executable, "-c", f"import sys\n{code}", *arguments]
    try:
        # Not in a checkout, whose package has no messages.
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROCESS_S, cwd=Path.home())
    except subprocess.TimeoutExpired:
        return f"no answer within {_PROCESS_S:.0f} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"it ended with code {done.returncode}"


def _installed_version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _version(name: str, module: str) -> str:
    """Return a distribution's version, or that of its module where the system's packages have no record of it."""
    for distribution in (name, *_ALSO.get(name, ())):
        if version := _installed_version(distribution):
            return version
    code = f"import {module.split('.')[0]} as m\nsys.exit('VERSION ' + str(getattr(m, '__version__', '0')))"
    said = _in_process(code)
    return said.removeprefix("VERSION ") if said.startswith("VERSION ") else f"0 ({said})"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version.split("+")[0])[:3])


def _cpu_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", path.read_text() if path.is_file() else "", re.MULTILINE)
    return set(found[1].split()) if found else set()


def _mem_available_mib() -> int:
    path = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", path.read_text() if path.is_file() else "")
    return int(found[1]) >> 10 if found else 0
