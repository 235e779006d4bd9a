"""`gridkp data`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from gridkp_ros.cli import app
from support.tiny_videos import numbered, write_video


@pytest.fixture
def footage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "footage"
    for name in ("a", "b"):
        write_video(folder / f"{name}.mp4", [numbered(i) for i in range(12)], rate=15)
    return folder


def run(*arguments: object):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_prepare_says_what_it_did(footage: Path) -> None:
    (footage / "c.mp4").write_bytes(b"no video")
    result = run("prepare", footage, "--json", "--workers", 1, "--size", "32x16")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert {key: said[key] for key in ("items", "decoded", "recordings", "frames", "unreadable")} == {
        "items": 3, "decoded": 2, "recordings": 2, "frames": 24, "unreadable": 1,
    }  # fmt: skip
    assert "OpenCV cannot open" in said["sets"][0]["unreadable"]["c.mp4"]
    again = run("prepare", "--dataset", "footage", "--root", footage, "--split", "all", "--size", "32x16")
    assert "footage" in again.stdout and " 24 " in again.stdout
    assert json.loads(run("prepare", footage, "--json", "--size", "32x16").stdout)["decoded"] == 0


def test_show_draws_a_row_for_each_recording(footage: Path, tmp_path: Path) -> None:
    result = run("show", footage, "--out", tmp_path / "sheets/x.png", "--columns", 4, "--workers", 1, "--grey")
    assert result.exit_code == 0, result.output
    assert cv2.imread(str(tmp_path / "sheets/x.png")).shape == (2 * (20 + 128 + 4), 4 * 132, 3)


def test_show_says_before_it_decodes_that_it_cannot_write_that(footage: Path, tmp_path: Path) -> None:
    result = run("show", footage, "--out", tmp_path / "sheet")
    assert result.exit_code == 2
    assert "a picture is written as .png or .jpg" in " ".join(result.output.replace("│", "").split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "give one of a path, --config"),
        (("x", "--dataset", "kth"), "give one of a path, --config"),
        (("x", "--size", "64"), "WIDTHxHEIGHT"),
        (("x", "--option", "fold"), "name=value"),
        (("x", "--rate", "0"), "greater than or equal to 0.01"),
    ],
)
def test_what_does_not_add_up_is_told(arguments: tuple[str, ...], sentence: str) -> None:
    result = run("prepare", *arguments)
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.replace("│", "").split())
