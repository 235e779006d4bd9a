"""A fresh predicting process where there is no ROS 2: how soon it can take its first frame, and what it holds.

    python -m gridkp_ros.bench.process MODEL --provider cpu

With ROS 2 `gridkp_ros.node.process_bench` measures the real node.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from gridkp_ros.bench.memory import peak_mb, resident_mb

HORIZON_STEPS, NUM_SAMPLES = 15, 1  # as the node forecasts by default on a CPU
WIDTH, HEIGHT = 640, 480


def predict(options: argparse.Namespace) -> dict[str, Any]:
    """Be a predicting process; `--began` is when it was started on the system's monotonic clock."""
    from gridkp_ros.runtime import Predictor

    predictor = Predictor(options.model, provider=options.provider, variant=options.variant)
    predictor.open_render()
    active_s = time.monotonic() - options.began
    frames = max(predictor.warmup_frames, round(options.seconds / predictor.manifest.period_s))
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    for index in range(frames):
        if predictor.observe(image, round(index * predictor.manifest.period_s * 1e9)).ready:
            predictor.forecast(HORIZON_STEPS, NUM_SAMPLES)
        time.sleep(max(0.0, options.began + active_s + index * predictor.manifest.period_s - time.monotonic()))
    return {"active_s": active_s, "rss_mb": resident_mb(), "peak_rss_mb": peak_mb()}


def main(args: list[str] | None = None) -> int:
    """Start processes one after the other and print what was measured as JSON."""
    parser = argparse.ArgumentParser(prog="gridkp_ros.bench.process", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a bundle's folder")
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--variant", default="equal")
    parser.add_argument("--starts", type=int, default=1, help="processes, one after the other")
    parser.add_argument("--seconds", type=float, default=5.0, help="of forecasts in each")
    parser.add_argument("--began", type=float, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    if options.began is not None:
        print(json.dumps(predict(options)))
        return 0
    found = []
    for _ in range(options.starts):
        command = [sys.executable, "-m", "gridkp_ros.bench.process", *(sys.argv[1:] if args is None else args)]
        done = subprocess.run(
            [*command, "--began", str(time.monotonic())], stdout=subprocess.PIPE, text=True, check=True
        )
        found.append(json.loads(done.stdout))
    result = {"kind": "predictor", "starts": options.starts, **found[-1]}
    result["active_s"] = statistics.median(one["active_s"] for one in found)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
