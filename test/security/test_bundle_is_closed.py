"""Loading and running a bundle opens its own files, and nothing else; a process that predicts needs no network."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.audited import run_audited
from support.small_training import write_frames

TEST_FOLDER = Path(__file__).parents[1]

_STREAM = """
import numpy as np
from pathlib import Path
from gridkp_ros.runtime import Predictor
import cv2
rng = np.random.default_rng(0)
frames = rng.integers(0, 255, (12, 48, 64, 3), dtype=np.uint8)
# Once before, on a bundle of its own: what modules import when first used is not what a bundle makes them do.
def run(folder):
    predictor = Predictor(Path(folder), warmup_frames=2, scene_cut_threshold=1.0)
    for index, frame in enumerate(frames):
        predictor.observe(frame, index * 66_666_667)
    forecast = predictor.forecast(4, 3)
    predictor.what_if({0: (20.0, 20.0)}, 3)
    assert predictor.render(forecast, [1, 2]).size
run(sys.argv[1])
audit.begin()
run(sys.argv[2])
"""


def test_a_bundle_opens_its_own_files_and_nothing_else(tiny_bundle_path: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny_bundle_path, tmp_path / "bundle")
    events = run_audited(_STREAM, tmp_path, tiny_bundle_path, bundle)
    # A path is opened by the system call, then read through its descriptor, a number.
    opened = [values for name, values in events if name == "open" and not values[0].isdigit()]
    assert {Path(path).name for path, *_ in opened} == {"manifest.json", *(p.name for p in bundle.glob("*.onnx"))}
    assert {str(Path(path).parent) for path, *_ in opened} == {str(bundle)}
    # Whatever else is watched: no code is compiled, imported or executed, no process, no socket, nothing unpickled.
    others = {name for name, _ in events} - {"open", "os.listdir", "os.scandir"}
    assert others == set()
    assert {values[0] for name, values in events if name in ("os.listdir", "os.scandir")} <= {str(bundle)}


def test_the_audit_sees_what_it_should(tmp_path: Path) -> None:
    """What the test above relies on: that these things would be written down."""
    code = """
import socket, subprocess, pickle
audit.begin()
open("/etc/hostname").read()
eval("1 + 1")
subprocess.run(["true"])
pickle.loads(pickle.dumps(print))
try:
    socket.create_connection(("127.0.0.1", 9), timeout=1)
except OSError:
    pass
"""
    names = {name for name, _ in run_audited(code, tmp_path)}
    assert {"open", "exec", "compile", "subprocess.Popen", "pickle.find_class", "socket.connect"} <= names


_NO_NETWORK = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from support.no_network import refuse_network
refuse_network()
from gridkp_ros.cli import main
sys.exit(main(sys.argv[1:]))
"""


def _without_network(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `gridkp` where Python refuses every connection, and in a network namespace without one where that is allowed.

    The namespace also holds what is not Python: OpenCV, ONNX Runtime and PyTorch call the system themselves.
    """
    alone = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True).returncode:
        alone = []
    script = folder / "gridkp_without_network.py"
    script.write_text(_NO_NETWORK)
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(folder / "home")}
    command = [*alone, sys.executable, str(script), str(TEST_FOLDER), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, env=environment)


def test_replay_needs_no_network(tiny_bundle_path: Path, tmp_path: Path) -> None:
    write_frames(tmp_path / "frames")
    options = ["--rate", "15", "--model", str(tiny_bundle_path), "--out", "out", "--no-pictures"]
    done = _without_network(["replay", "frames", *options], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "metrics.json").is_file()
    # ONNX Runtime would keep what it is about to send in the home folder.
    assert {path.name for path in tmp_path.iterdir()} <= {"frames", "out", "cache", "gridkp_without_network.py"}


def test_no_test_of_this_suite_reaches_for_the_network() -> None:
    """conftest.py has refused it from the start: training and export, too, are tested without a network."""
    nobody = ("192.0.2.1", 80)  # RFC 5737
    with (
        socket.socket() as plug,
        pytest.raises(PermissionError, match=r"socket\.connect .*192\.0\.2\.1.*though nothing here needs a network"),
    ):
        plug.connect(nobody)
    with pytest.raises(PermissionError, match=r"socket\.getaddrinfo .*example\.org"):
        socket.getaddrinfo("example.org", 80)
    socket.getaddrinfo("localhost", 80)
