"""The demonstration: simulated endoscope, predictor and recorder as processes over DDS, then a table, a report, a film.

    ros2 run gridkp_ros demo        or        make demo
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gridkp_ros.evaluation.metrics import EvaluationError
from gridkp_ros.node.processes import NodeProcess, ProcessError
from gridkp_ros.node.resources import ResourceError, find_model
from gridkp_ros.node.transport import isolate
from gridkp_ros.sim import DEMO_SEED

IMAGE_TOPIC = "/davinci/left/image_raw"
RATE_HZ, WIDTH, HEIGHT = 30.0, 640, 480
SEED = DEMO_SEED + 1  # none that models are trained on
FRAME_STEPS = (2, 5, 10, 15)
_START_TIMEOUT_S = 90.0
COUNTERS = {
    "published": "frames published by the camera",
    "received": "frames received by the predictor",
    "absorbed": "absorbed (one for each step of the model)",
    "skipped": "skipped (the camera is faster than the model)",
    "coasted": "coasted (steps carried through missing frames)",
    "dropped": "dropped (not taken in time)",
    "malformed": "malformed",
    "forecasts": "forecasts published",
}


class DemoError(RuntimeError):
    """The demonstration cannot go on; the message says what failed and where to look."""


class _Watcher:
    """Listens to /diagnostics."""

    def __init__(self) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor

        rclpy.init(args=[])
        self.status: dict[str, tuple[str, dict[str, str]]] = {}
        self._rclpy = rclpy
        self._node = rclpy.create_node("demo")
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            self.status[status.name] = (status.message, {v.key: v.value for v in status.values})

    def value(self, name: str, key: str) -> str:
        return self.status.get(name, ("", {}))[1].get(key, "")

    def num_listeners(self, topic: str) -> int:
        return self._node.count_subscribers(topic)

    def spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._rclpy.try_shutdown()


def _prepare_scene(seed: int, duration_s: float, console: Console) -> None:
    """Render the scene into the simulator's cache, so that the camera starts at once."""
    from gridkp_ros.sim import SimConfig, gl_available
    from gridkp_ros.sim.store import load_or_render

    problem = gl_available()
    if problem is not None:
        console.print(f"[bold yellow]No freshly rendered scene:[/] {problem}")
        console.print("The endoscope plays the clip that ships with the package instead.")
        return
    config = SimConfig(width=WIDTH, height=HEIGHT, rate_hz=RATE_HZ, duration_s=duration_s)
    with _progress(console) as progress:
        task = progress.add_task("rendering the scene (once)", total=config.n_frames)
        load_or_render(config, seed, progress=lambda done, total: progress.update(task, completed=done, total=total))
        progress.update(task, completed=config.n_frames)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def _wait(watcher: _Watcher, done: Any, processes: list[NodeProcess], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        watcher.spin(0.2)
        for process in processes:
            process.check()
        if time.monotonic() > deadline:
            raise DemoError(f"{what} within {timeout_s:.0f} s; see {processes[0].log.parent}")


def stream(model: Path, out: Path, *, seed: int, duration_s: float, console: Console) -> Path:
    """Run the processes for duration_s and return the bag."""
    logs = out / "logs"
    shutil.rmtree(out / "bag", ignore_errors=True)
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    frames = round(duration_s * RATE_HZ)
    with ExitStack() as stack:
        watcher = _Watcher()
        stack.callback(watcher.close)
        predictor = NodeProcess(
            "predictor_node", logs / "predictor_node.log", remap=(f"image:={IMAGE_TOPIC}",),
            parameters={
                "autostart": True, "model": str(model), "frame_steps": list(FRAME_STEPS),
                "frames_at_source_size": False, "reliability": "reliable", "num_samples": 1,
            },
        )
        stack.callback(predictor.stop)
        recorder = NodeProcess(
            "recorder_node", logs / "recorder_node.log", remap=(f"image:={IMAGE_TOPIC}",),
            parameters={"bag": str(out / "bag")},
        )
        stack.callback(recorder.stop)
        processes = [predictor, recorder]
        with _progress(console) as progress:
            task = progress.add_task("starting predictor and recorder", total=None)
            _wait(
                watcher,
                lambda: "/predictor_node: forecast" in watcher.status and watcher.num_listeners(IMAGE_TOPIC) >= 2,
                processes, _START_TIMEOUT_S, "predictor and recorder did not start",
            )
            camera = NodeProcess(
                "camera_sim_node", logs / "camera_sim_node.log",
                parameters={
                    "seed": seed, "episode_s": float(duration_s), "rate_hz": RATE_HZ, "width": WIDTH,
                    "height": HEIGHT, "stereo": False, "max_frames": frames, "wait_for_subscribers": 2,
                },
            )
            stack.callback(camera.stop)
            processes.append(camera)

            def finished() -> bool:
                published = watcher.value("/camera_sim_node: camera", "published") or "0"
                absorbed = watcher.value("/predictor_node: forecast", "absorbed") or "0"
                forecasts = watcher.value("/predictor_node: forecast", "forecasts") or "0"
                text = f"streaming: {absorbed} absorbed, {forecasts} forecasts; frames"
                progress.update(task, description=text, completed=int(published), total=frames)
                return watcher.value("/camera_sim_node: camera", "finished") == "true"

            _wait(watcher, finished, processes, _START_TIMEOUT_S + 2 * duration_s, "the camera did not finish")
            # One more round of diagnostics, for the counts after the last frame.
            watcher.spin(2.2)
            finished()
    return out / "bag"


def summarise(counts: dict[str, Any], result: dict) -> tuple[Table, Table]:
    """Return the two tables the demonstration ends with: what happened to frames, and the forecasts' errors."""
    frames = Table(title="Frames and forecasts", title_justify="left", show_header=False)
    frames.add_column()
    frames.add_column(justify="right")
    for name, label in COUNTERS.items():
        frames.add_row(label, _text(counts.get(name)))
    ages = [counts.get(f"forecast_age_ms_p{p}") for p in (50, 95, 99)]
    frames.add_row("age of a forecast when received, p50 / p95 / p99", " / ".join(map(_text, ages)) + " ms")
    errors = Table(title="Error of the forecast against what then happened, pixels", title_justify="left")
    for name in ("", "steps of 1/15 s", "model", "stays put", "constant velocity"):
        errors.add_column(name, justify="left" if not name else "right")
    for metric, label in (("keypoint_error_px", "keypoints"), ("tip_error_px", "tips, against ground truth")):
        for step, by_metric in sorted(result["horizons"].items(), key=lambda item: int(item[0])):
            if metric not in by_metric:
                continue
            cells = [by_metric[metric][m]["mean"] for m in ("model", "stays_put", "constant_velocity")]
            errors.add_row(label, step, *("-" if c is None else f"{c:.2f}" for c in cells))
    return frames, errors


def main(args: list[str] | None = None) -> int:
    """Run the demonstration and return 0, or 1 with a sentence on what failed."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="", help="bundle folder, or a name under models/ (default: dvrk_sim)")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder to write to (default: out/demo)")
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of stream (default: 20)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the simulated scene (default: {SEED})")
    options = parser.parse_args(args)
    console = Console()
    try:
        run(find_model(options.model), options.out.resolve(), options.seed, options.duration, console)
    except (DemoError, ProcessError, ResourceError, EvaluationError) as error:
        console.print(f"[bold red]demo failed:[/] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    return 0


def run(model: Path, out: Path, seed: int, duration_s: float, console: Console) -> dict:
    """Stream, evaluate, and print the tables; return what out/summary.json holds."""
    from gridkp_ros.evaluation.report import Table as ReportTable
    from gridkp_ros.node.recording import evaluate_recording, read_counts, read_recording

    isolate()
    out.mkdir(parents=True, exist_ok=True)
    _prepare_scene(seed, duration_s, console)
    bag = stream(model, out, seed=seed, duration_s=duration_s, console=console)
    with console.status("scoring the forecasts, drawing the film and the report"):
        recording = read_recording(bag)
        counts = read_counts(recording)
        rows = ReportTable("Frames and forecasts", tuple(counts), (tuple(_text(v) for v in counts.values()),))
        title = f"Demonstration: {recording.info.model_id} on the simulated endoscope"
        result = evaluate_recording(bag, out, title=title, tables=(rows,), recording=recording)
    summary = {"model": recording.info.model_id, "provider": recording.info.provider, "counts": counts,
               "horizons": result["horizons"]}
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    console.print(f"\n{recording.info.model_id} on {recording.info.provider}, {duration_s:g} s at {RATE_HZ:g} Hz\n")
    for table in summarise(counts, result):
        console.print(table)
    console.print(f"\n{out}: bag/  report.html  film.mp4  film_strip.png  metrics.json  summary.json", highlight=False)
    return summary


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
