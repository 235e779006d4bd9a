"""The bench of the node under a camera: what it counts adds up, and what it judges would be noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: node tests need rclpy")
pytest.importorskip("gridkp_ros.msg", reason="the messages are not built: run them by `make test`")

from gridkp_ros.node.bench_node import (
    Arrivals,
    BenchError,
    Case,
    Film,
    Sample,
    _judge,
    camera_messages,
    load_film,
    parse_cases,
)
from gridkp_ros.node.processes import Usage


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "gridkp_ros.cli", "bench", "node", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=600)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_rows_of_a_short_run_add_up(tiny_bundle_path: Path, tmp_path: Path) -> None:
    status, text, errors = run(
        tmp_path, "--model", str(tiny_bundle_path), "--seconds", "1", "--sizes", "160x120", "--rates", "30",
        "--transports", "compressed", "--json", "--out", str(tmp_path / "out"), "--set", "num_samples=1",
    )
    assert status == 0, errors
    rows = json.loads(text)
    assert [(r["size"], r["rate_hz"], r["transport"]) for r in rows] == [("160x120", 30.0, "compressed")]
    for row in rows:
        assert row["published"] == 60
        assert row["received"] <= row["published"]
        assert row["received"] == row["absorbed"] + row["skipped"] + row["dropped"]
        assert 0 < row["forecasts"] <= row["absorbed"]
        assert 0 < row["age_ms"]["p50"] <= row["age_ms"]["p95"] <= row["age_ms"]["p99"]
        assert row["roundtrip_ms"] > 0 and row["rss_mb"]["start"] > 10 and row["cpu_share"] > 0
        assert row["age_limit_ms"] == pytest.approx(row["roundtrip_ms"] + row["inference_ms"] + 4.0, abs=0.01)
    assert rows == json.loads((tmp_path / "out" / "bench_node.json").read_text())


@pytest.mark.slow
def test_a_short_soak_is_judged(tiny_bundle_path: Path, tmp_path: Path) -> None:
    status, text, errors = run(
        tmp_path, "--model", str(tiny_bundle_path), "--soak", "0.05", "--overload", "0", "--sizes", "160x120",
        "--rates", "60", "--transports", "raw", "--json", "--out", str(tmp_path / "out"),
    )
    result = json.loads(text)
    assert (status == 0) == result["ok"], errors
    assert result["verdict"] and result["published"] == 270
    curve = np.loadtxt(tmp_path / "out" / "soak_forecasts.csv", delimiter=",", skiprows=1)
    assert len(curve) > 10 and (np.diff(curve[:, 0]) > 0).all()


@pytest.mark.parametrize(
    "arguments", [("--sizes", "big"), ("--sizes", "640x480x3"), ("--rates", "0"), ("--transports", "smoke")]
)
def test_cases_that_cannot_be_are_refused(arguments: tuple[str, str]) -> None:
    given = {"--sizes": "640x480", "--rates": "30", "--transports": "raw", arguments[0]: arguments[1]}
    with pytest.raises(BenchError, match=arguments[1][:3]):
        parse_cases(*given.values())


def test_cases_are_those_of_the_contract() -> None:
    cases = parse_cases("640x480,1920x1080", "30,60", "raw,compressed")
    assert len(set(cases)) == 8
    assert (cases[0].width, cases[0].height, cases[0].rate_hz, cases[0].transport) == (640, 480, 30.0, "raw")


def test_the_film_moves_without_a_cut_and_repeats_in_time() -> None:
    film = load_film(None)
    small = Film(film.pictures[:12], film.rate_hz)
    messages = camera_messages(small, Case(64, 48, 30.0, "raw"))
    assert len(messages) == 22  # there and back again, the ends once
    assert bytes(messages[1].data) == bytes(messages[-1].data) != bytes(messages[2].data)
    assert {(m.encoding, m.width, m.step) for m in messages} == {("bgr8", 64, 192)}
    jpegs = camera_messages(small, Case(64, 48, 30.0, "compressed"))
    assert len(jpegs) == 22 and all(bytes(m.data[:2]) == b"\xff\xd8" for m in jpegs)


def long_run(
    age_growth_ms: float = 0.0, rss_growth_mb: float = 0.0, error: str = "", model_growth_ms: float = 0.0
) -> tuple[Arrivals, list[Sample]]:
    """Return ten minutes of forecasts and looks, with growth over all of it."""
    times_s = np.arange(0.0, 600.0, 0.1)
    ages_ms = 40.0 + (age_growth_ms + model_growth_ms) * times_s / 600.0
    arrivals = Arrivals(list(times_s + ages_ms / 1e3), list(times_s), list(ages_ms), [1] * len(times_s))
    looks = []
    for t in range(600):
        values = {"last_error": error, "inference_ms_p50": f"{30.0 + model_growth_ms * t / 600.0:.1f}"}
        looks.append(Sample(float(t), Usage(t, 150.0 + rss_growth_mb * t / 600.0, 20), 0, "", values))
    return arrivals, looks


@pytest.mark.parametrize(
    ("grows", "sentence"),
    [
        ({}, "neither age nor memory grew"),
        ({"model_growth_ms": 40.0}, "neither age nor memory grew"),  # the machine was busy with something else
        ({"age_growth_ms": 40.0}, "age of forecasts grew"),
        ({"rss_growth_mb": 20.0}, "memory grew"),
        ({"error": "model not found"}, "model not found"),
    ],
)
def test_growth_is_noticed(grows: dict, sentence: str) -> None:
    judged = _judge(*long_run(**grows))
    assert sentence in judged["verdict"]
    assert judged["ok"] == sentence.startswith("neither")


def test_slopes_are_those_of_the_run() -> None:
    judged = _judge(*long_run(age_growth_ms=10.0, rss_growth_mb=2.0))
    assert judged["age_ms_per_hour"] == pytest.approx(60.0, rel=0.01)
    assert judged["rss_mb_per_hour"] == pytest.approx(12.0, rel=0.01)
    assert len(judged["rss_mb_by_minute"]) == 10


def test_jitter_is_of_arrivals_against_stamps() -> None:
    stamps = [0.0, 0.1, 0.2, 0.3]
    assert Arrivals([s + 0.05 for s in stamps], stamps, [50.0] * 4, [1] * 4).jitter_ms() == pytest.approx(0.0, abs=1e-6)
    assert Arrivals([0.05, 0.17, 0.25, 0.35], stamps, [], []).jitter_ms() == pytest.approx(20.0, rel=0.1)
