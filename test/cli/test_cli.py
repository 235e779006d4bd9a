"""The command line as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gridkp_ros import __version__
from gridkp_ros.data.video_out import VideoWriter


def gridkp(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "gridkp_ros.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, timeout=120, env={**os.environ, "COLUMNS": "200"}
    )


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    rng = np.random.default_rng(0)
    background = rng.integers(20, 90, (48, 64, 3), np.uint8)
    with VideoWriter(path, 30.0) as writer:
        for index in range(60):
            image = background.copy()
            image[10:18, 5 + index // 2 : 13 + index // 2] = 240
            writer.write(image)
    return path


def test_info_prints_json_alone(tiny_bundle_path: Path, tmp_path: Path) -> None:
    result = gridkp("info", tiny_bundle_path, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["named_points"] == ["left", "right"]


def test_replay_prints_what_it_writes_and_repeats(tiny_bundle_path: Path, video: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        result = gridkp(
            "replay", video, "--model", tiny_bundle_path, "--out", out, "--no-pictures", "--json", cwd=tmp_path
        )
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout) == json.loads((tmp_path / out / "metrics.json").read_text())
    assert (tmp_path / "a" / "metrics.json").read_bytes() == (tmp_path / "b" / "metrics.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("info", "no_such_model"), "no model 'no_such_model'"),
        (("replay", "none.mp4", "--out", "x"), "none.mp4: no such file"),
        (("replay", "video.mp4", "--out", "x", "--region", "1,2"), "region '1,2'"),
        (("replay", "video.mp4", "--out", "x", "--provider", "cuda"), "onnxruntime-gpu"),
    ],
)
def test_errors_are_one_sentence(
    tiny_bundle_path: Path, video: Path, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    model = ("--model", tiny_bundle_path) if arguments[0] == "replay" else ()
    result = gridkp(*arguments, *model, cwd=tmp_path)
    assert result.returncode == 1 and sentence in result.stderr and "Traceback" not in result.stderr
    assert result.stdout == ""


def test_importing_the_command_line_is_light(tmp_path: Path) -> None:
    code = (
        "import sys, gridkp_ros.cli\n"
        "print([m for m in ('torch', 'onnxruntime', 'mujoco', 'rclpy', 'skimage') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.strip() == "[]"


def test_a_model_is_evaluated_on_simulated_episodes(tiny_bundle_path: Path, tmp_path: Path) -> None:
    sim = pytest.importorskip("gridkp_ros.sim")
    problem = sim.gl_available()
    if problem is not None:
        pytest.skip(problem)
    result = gridkp(
        "sim", "evaluate", "--model", tiny_bundle_path, "--out", "out", "--episodes", 2, "--duration", 2, "--width", 64,
        "--height", 48, "--no-pictures", "--json", cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    metrics = json.loads(result.stdout)
    assert metrics["frames"]["read"] == 60 and metrics["frames"]["epochs"] == 2
    assert "the simulator has no" in result.stderr  # this bundle's named points are not the simulator's


def test_the_version_is_the_package_s(tmp_path: Path) -> None:
    assert gridkp("--version", cwd=tmp_path).stdout == f"gridkp {__version__}\n"
    assert f"<version>{__version__}<" in (Path(__file__).parents[2] / "package.xml").read_text()


def test_a_folder_that_cannot_be_made_is_named(video: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = gridkp("replay", video, "--out", tmp_path / "file/out", "--no-pictures", cwd=tmp_path)
    assert done.returncode == 1
    assert str(tmp_path / "file/out") in done.stderr.replace("\n", "") and "Traceback" not in done.stderr
