"""`gridkp doctor` on this machine, and on machines where something is missing or broken."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from gridkp_ros import doctor
from gridkp_ros.cli import app
from gridkp_ros.doctor import FAIL, OK, WARN, Finding

ROOT = Path(__file__).parents[2]


def find(findings: list[Finding], name: str) -> Finding:
    found = [f for f in findings if f.name == name]
    assert len(found) == 1, [f.name for f in findings]
    return found[0]


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Have these modules look as if they were not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in modules else real(name, *a))


def answer(monkeypatch: pytest.MonkeyPatch, **replies: str) -> None:
    """Answer for processes that the doctor starts: the first reply whose key stands in the code ("" otherwise)."""
    monkeypatch.setattr(
        doctor, "_in_process", lambda code, *_: next((said for key, said in replies.items() if key in code), "")
    )


def without_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave ROS out, which takes processes and seconds."""
    monkeypatch.setattr(doctor, "check_ros", lambda: iter(()))


def test_floors_are_those_of_the_package() -> None:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11 and later
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {"": project["dependencies"], **project["optional-dependencies"]}
    stated = {re.split(r"[>=<;\[ ]", r)[0].lower(): (extra, r) for extra, rs in extras.items() for r in rs}
    for name, (floor, _, extra, _) in doctor.PACKAGES.items():
        assert any(f"{name}>={floor}" in r.lower() for r in extras[extra]), (name, stated.get(name))
    needed = {re.split(r"[>=<;\[ ]", r)[0].lower() for r in project["dependencies"]}
    assert needed == {name for name, (_, _, extra, _) in doctor.PACKAGES.items() if extra == ""}


def test_predicting_works_here_and_pytorch_is_not_imported(tiny_bundle_path: Path) -> None:
    code = (
        "import json, sys; from gridkp_ros.doctor import examine, to_json; "
        "print(json.dumps(to_json(examine(sys.argv[1], quick=True)))); assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_bundle_path)], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    by_name = {(f["area"], f["name"]): f for f in result["findings"]}
    assert result["works"], [f for f in result["findings"] if f["status"] == FAIL]
    assert by_name["providers", "cpu"]["text"] == "a graph runs on it"
    assert by_name["bundles", "a forecast"]["text"].startswith("tiny@")
    assert sum(result["counts"].values()) == len(result["findings"])


def test_a_missing_or_old_package_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "rosbags.image", "mujoco", "torch")
    monkeypatch.setattr(doctor, "_installed_version", lambda name: {"numpy": "1.22.4", "jinja2": "2.0"}.get(name, ""))
    answer(monkeypatch, **{"import ": "VERSION 99.0"})
    findings = list(doctor.check_packages())
    assert find(findings, "rosbags-image") == Finding(
        "packages", "rosbags-image", FAIL, "not installed; it is for reading image messages",
        "pip install 'rosbags-image>=0.9'",
    )
    assert find(findings, "mujoco").status == WARN and "gridkp_ros[sim]" in find(findings, "mujoco").advice
    assert find(findings, "torch").status == WARN
    assert find(findings, "numpy") == Finding(
        "packages", "numpy", FAIL, "1.22.4, 1.23 or newer is needed", "pip install 'numpy>=1.23'"
    )
    assert find(findings, "jinja2").status == WARN
    assert find(findings, "onnxruntime").status == OK


def test_two_onnx_runtimes_in_one_place_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_installed_version", lambda name: "99.0")
    assert find(list(doctor.check_packages()), "onnxruntime twice").status == WARN


@pytest.mark.parametrize(("name", "status"), [("cpu", FAIL), ("cuda", WARN)])
def test_a_provider_that_is_offered_and_does_not_run(monkeypatch: pytest.MonkeyPatch, name: str, status: str) -> None:
    import onnxruntime

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider", "CUDAExecutionProvider"]
    )
    monkeypatch.setattr(
        doctor, "_in_process", lambda code, asked: "libcudnn.so.9: cannot open" if asked == name else ""
    )
    findings = list(doctor.check_providers())
    assert find(findings, name).status == status
    assert "no graph runs on it: libcudnn.so.9: cannot open" in find(findings, name).text
    assert find(findings, "tensorrt").status == OK and "not in this ONNX Runtime" in find(findings, "tensorrt").text


def test_the_trial_of_a_provider_is_a_real_one() -> None:
    """Here without a GPU: asked for CUDA, ONNX Runtime does not run on it, which must not pass for a success."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    assert "fell back to CPUExecutionProvider" in doctor._in_process(doctor._TRY_PROVIDER, "cuda")


def test_a_damaged_bundle_is_a_failure_with_exit_status_1(
    tiny_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ros(monkeypatch)
    broken = shutil.copytree(tiny_bundle_path, tmp_path / "broken")
    with (broken / "update.onnx").open("r+b") as file:
        file.truncate(100)
    done = CliRunner().invoke(app, ["doctor", "--quick", "--json", "--model", str(broken)])
    assert done.exit_code == 1
    result = json.loads(done.stdout)
    assert not result["works"]
    (failed,) = (f for f in result["findings"] if f["status"] == FAIL)
    assert failed["name"] == "a forecast" and "update.onnx has SHA-256" in failed["text"]


def test_sentences_name_status_place_and_advice(tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_ros(monkeypatch)
    hide(monkeypatch, "mujoco")
    done = CliRunner().invoke(app, ["doctor", "--quick", "--model", str(tiny_bundle_path)])
    assert done.exit_code == 0
    line = "warn packages: mujoco: not installed; it is for the simulated endoscope (pip install 'gridkp_ros[sim]')"
    assert line in done.stdout


def test_a_machine_without_ros_predicts_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "rclpy")
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    (finding,) = doctor.check_ros()
    assert finding.status == WARN and "setup.bash" in finding.advice
    assert not list(doctor.check_transport()) and not list(doctor.check_simulated_time())
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/opt/ros/jazzy")
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    (finding,) = doctor.check_ros()
    assert finding.status == FAIL and "though ROS 2 jazzy is sourced" in finding.text


@pytest.mark.parametrize(
    ("environment", "replies", "name", "status", "text"),
    [
        ({}, {"gridkp_ros.msg": "ModuleNotFoundError: x"}, "messages", FAIL, "gridkp_ros.msg does not load"),
        ({}, {"rmw()": "ImportError: librcl.so"}, "rclpy", FAIL, "it does not load: ImportError: librcl.so"),
        ({"ROS_DOMAIN_ID": "232"}, {}, "domain", WARN, "ROS_DOMAIN_ID is '232'"),
        ({"ROS_DOMAIN_ID": "x"}, {}, "domain", WARN, "ROS_DOMAIN_ID is 'x'"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, {}, "discovery", WARN, "OFF: nodes of this machine alone"),
        ({"ROS_LOCALHOST_ONLY": "1"}, {}, "discovery", OK, "LOCALHOST (ROS_LOCALHOST_ONLY)"),
        ({}, {}, "SROS 2", OK, "off: anybody"),
        ({"ROS_SECURITY_ENABLE": "true"}, {}, "SROS 2", FAIL, "is no keystore"),
        ({"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_KEYSTORE": "KEYS"}, {}, "SROS 2", OK, "on, with"),
        (
            {"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_KEYSTORE": "KEYS"}, {"create_node": "RCLError: no plugins"},
            "SROS 2", FAIL, "a node cannot start: RCLError: no plugins",
        ),
    ],
)
def test_faults_of_a_ros_installation(
    environment: dict, replies: dict, name: str, status: str, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: SimpleNamespace() if n == "rclpy" else real(n, *a))
    for variable in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY", "ROS_SECURITY_ENABLE", "ROS_DOMAIN_ID"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "enclaves").mkdir()
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value.replace("KEYS", str(tmp_path)))
    answer(monkeypatch, **{"rmw()": "RMW rmw_fastrtps_cpp", **replies})
    finding = find(list(doctor.check_ros()), name)
    assert (finding.status, text in finding.text) == (status, True), finding


@pytest.mark.parametrize(
    ("trips", "chosen", "problem", "statuses"),
    [
        ([5.0] * 15, "X=LARGE_DATA", None, {"transport": OK, "shared memory": OK, "round trip": OK}),
        ([5.0] * 9, "", "/dev/shm has 3 MiB left", {"transport": WARN, "shared memory": WARN, "round trip": WARN}),
        ([], "X=LARGE_DATA", None, {"round trip": FAIL}),
    ],
)
def test_faults_of_the_transport(
    trips: list, chosen: str, problem: str | None, statuses: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gridkp_ros.node import transport, transport_bench

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: SimpleNamespace() if n == "rclpy" else real(n, *a))
    monkeypatch.setattr(transport, "chosen_transport", lambda: chosen)
    monkeypatch.setattr(transport, "shared_memory_problem", lambda: problem)
    monkeypatch.setattr(transport_bench, "measure", lambda *_: trips)
    findings = list(doctor.check_transport())
    for name, status in statuses.items():
        assert find(findings, name).status == status, find(findings, name)


def test_two_processes_that_cannot_talk_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from gridkp_ros.node import transport_bench

    def broken(*_: object) -> list:
        raise subprocess.CalledProcessError(-11, ["camera"])

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: SimpleNamespace() if n == "rclpy" else real(n, *a))
    monkeypatch.setattr(transport_bench, "measure", broken)
    assert "two processes cannot talk" in find(list(doctor.check_transport()), "round trip").text


def test_a_check_that_fails_itself_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle_path: Path
) -> None:
    def broken() -> None:
        raise OSError("the disk is gone")

    without_ros(monkeypatch)
    monkeypatch.setattr(doctor, "check_machine", broken)
    findings = doctor.examine(str(tiny_bundle_path), quick=True)
    assert find(findings, "check").text == "it could not be looked at: OSError: the disk is gone"
    assert find(findings, "a forecast").status == OK
    assert not doctor.works(findings)


def test_what_a_process_says_or_how_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._in_process("pass") == ""
    assert doctor._in_process("import os; os.abort()") == "it ended with code -6"
    assert doctor._in_process("raise ValueError(sys.argv[1])", "no") == "ValueError: no"
    monkeypatch.setattr(doctor, "_PROCESS_S", 0.2)
    assert doctor._in_process("import time; time.sleep(60)") == "no answer within 0 s"


def test_images_go_round_between_two_real_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rclpy")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    finding = find(list(doctor.check_transport()), "round trip")
    assert finding.status != doctor.FAIL and "images of 640x480 answered, median" in finding.text
