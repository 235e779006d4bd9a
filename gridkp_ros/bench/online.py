"""How fast a bundle observes, forecasts and draws, beside the same weights in eager PyTorch, in one run on one machine.

Every work is timed in turns, a block of runs of one side and then of the next, so that what disturbs the machine meets
all sides alike. Before that, all sides see the same frames and the same noise, and their keypoints are compared.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from gridkp_ros.bench.eager import EagerPredictor
from gridkp_ros.bench.memory import forget_peak, peak_mb, resident_mb
from gridkp_ros.bench.onnx_flops import executed_flops
from gridkp_ros.bench.peak import SIZES, matmul_peak
from gridkp_ros.bench.train import BenchError, processor, shipped_clip
from gridkp_ros.data.sources import open_source
from gridkp_ros.runtime import Bundle, Forecast, Predictor, PredictorError
from gridkp_ros.runtime.engine import ORT_NAMES
from gridkp_ros.runtime.variants import EQUAL

log = logging.getLogger(__name__)

WARMUP_FRAMES = 5
FRAMES = 45  # of the shipped episode, there and back again
COMPARED = 15  # frames that all sides see before their keypoints are compared
RENDERED = 10  # frames of "render10"
BLOCK_S = 0.25  # of runs of one side before the next one's turn
LONG_S = 0.5  # a run so long needs no run before its block


@dataclass(frozen=True)
class Work:
    """What is timed. observe: a frame is taken in; samples x steps are forecast; render: frames drawn."""

    name: str
    observe: bool = False
    samples: int = 0
    steps: int = 0
    render: int = 0


WORKS = (
    Work("observe", observe=True),
    Work("observe+1x10", observe=True, samples=1, steps=10),
    Work("observe+2x15", observe=True, samples=2, steps=15),
    Work("observe+4x15", observe=True, samples=4, steps=15),
    Work("10x20", samples=10, steps=20),
    Work("100x40", samples=100, steps=40),
    Work("render10", render=RENDERED),
)


@dataclass(frozen=True)
class Budget:
    """How long is measured.

    seconds: of timing, shared by all works; runs: fewest of each side, whatever they take; peak_s: of each matrix
    product; starts: of predicting processes, the last of which is streamed to for streamed_s.
    """

    seconds: float = 110.0
    runs: int = 3
    peak_s: float = 0.4
    starts: int = 3
    streamed_s: float = 5.0


QUICK = Budget(seconds=2.0, runs=1, peak_s=0.02, starts=1, streamed_s=1.0)


class Side(ABC):
    """One way to do the works: eager PyTorch, or a provider with a variant of the graphs."""

    provider: str
    variant: str
    device: str = "cpu"
    images: Iterator[np.ndarray]  # its own, so that each is the neighbour of the last

    @abstractmethod
    def observe(self, image: np.ndarray) -> np.ndarray:
        """Take in a frame, one period after the last; returns the detected poses [K,P]."""

    @abstractmethod
    def forecast(self, samples: int, steps: int) -> np.ndarray:
        """Forecast with noise of its own; returns poses [S,T,K,P]."""

    @abstractmethod
    def render(self) -> np.ndarray:
        """Compute the newest frame's features, and draw RENDERED frames."""

    @abstractmethod
    def flops(self, work: Work) -> int:
        """Floating-point operations of matrix products and convolutions in a work, as this side computes it."""

    def prepare(self, work: Work) -> Callable[[], Any]:
        """Do what does not belong to a work, and return what does."""
        if work.render:
            self.observe(next(self.images))  # else the features of the newest frame may be there already
            return self.render
        image = next(self.images) if work.observe else None

        def run() -> None:
            if image is not None:
                self.observe(image)
            if work.samples:
                self.forecast(work.samples, work.steps)

        return run


class Eager(Side):
    provider, variant = "eager", EQUAL

    def __init__(self, bundle: Bundle, device: str) -> None:
        self.device = device
        self.predictor = EagerPredictor(bundle, device)
        self.noise: Callable[[int, int], np.ndarray] | None = None  # in place of what it draws itself
        self.drawn: torch.Tensor | None = None

    def observe(self, image: np.ndarray) -> np.ndarray:
        return self.predictor.observe(image)[0]

    def forecast(self, samples: int, steps: int) -> np.ndarray:
        noise = self.noise(samples, steps) if self.noise is not None else None
        return self.predictor.forecast(samples, steps, noise)[0].numpy()

    def render(self) -> np.ndarray:
        if self.drawn is None:
            self.drawn = self.predictor.forecast(1, RENDERED)[0][0]
        return self.predictor.render(self.drawn)

    def flops(self, work: Work) -> int:
        """Counted by PyTorch as they run; of the horizon one step is run, since all are alike."""
        image = np.zeros((self.predictor.manifest.input.height, self.predictor.manifest.input.width, 3), np.uint8)
        self.render()
        total = 0
        if work.observe:
            total += count(lambda: self.observe(image))
        if work.samples:
            total += work.steps * count(lambda: self.forecast(work.samples, 1))
        return total + (count(self.render) if work.render else 0)


class Onnx(Side):
    def __init__(self, bundle: Bundle, provider: str, variant: str, threads: int) -> None:
        self.provider, self.variant = provider, variant
        self.device = "cpu" if provider == "cpu" else "cuda"
        self.predictor = Predictor(
            bundle, provider=provider, variant=variant, num_threads=threads, warmup_frames=WARMUP_FRAMES
        )
        self.bundle = self.predictor.bundle
        self.frames = 0
        self.drawn: Forecast | None = None

    def observe(self, image: np.ndarray) -> np.ndarray:
        observed = self.predictor.observe(image, round(self.frames * self.predictor.manifest.period_s * 1e9))
        self.frames += 1
        return observed.pose

    def forecast(self, samples: int, steps: int) -> np.ndarray:
        return self.predictor.forecast(steps, samples).pose

    def noise(self, samples: int, steps: int) -> np.ndarray:
        """What `forecast` draws, [S,T,...]."""
        return self.predictor.draw_noise(samples, steps, self.predictor.temperature, self.predictor.seed)[0]

    def render(self) -> np.ndarray:
        if self.drawn is None or self.drawn.epoch != self.predictor.epoch:
            self.drawn = self.predictor.forecast(RENDERED, 1)
        return self.predictor.render(self.drawn, range(1, RENDERED + 1))

    def executed(self, graph: str, **free: int) -> int:
        """Operations of a graph of this variant; free: its free dimensions."""
        m = self.bundle.manifest
        return executed_flops(self.bundle.read_graph(m.file_of(graph, self.variant)), m.tensors(graph)[0], free)

    def flops(self, work: Work) -> int:
        """Counted from the shapes that ONNX Runtime reports while it runs the graphs on the CPU."""
        total = 0
        if work.observe:
            total += self.executed("detect", B=1) + self.executed("update", B=1)
        if work.samples:
            once, twice = (self.executed("forecast", B=1, S=work.samples, T=t) for t in (1, 2))
            total += once + (work.steps - 1) * (twice - once)
        if work.render:
            total += self.executed("encode", B=1) + self.executed("render", B=1, N=work.render)
        return total


def count(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@dataclass
class Timing:
    """Milliseconds of all runs of a work on a side."""

    side: Side
    work: Work
    first_ms: float  # of the run when sides were compared
    ms: list[float] = field(default_factory=list)

    def block(self, seconds: float) -> None:
        """Run for some seconds, at least once; an untimed run comes before short ones."""
        if (self.ms or [self.first_ms])[-1] < 1e3 * LONG_S:
            self.side.prepare(self.work)()
        end = time.perf_counter() + seconds
        while True:
            run = self.side.prepare(self.work)
            synchronise(self.side)
            began = time.perf_counter()
            run()
            synchronise(self.side)
            now = time.perf_counter()
            self.ms.append(1e3 * (now - began))
            if now >= end:
                return


def synchronise(side: Side) -> None:
    if side.provider == "eager" and side.device == "cuda":  # ONNX Runtime's calls return when all is done
        torch.cuda.synchronize()


def bench_online(
    model: Path,
    providers: Sequence[str] = (),
    variants: Sequence[str] = (),
    threads: int = 0,
    budget: Budget = Budget(),
    works: Sequence[Work] = WORKS,
) -> list[dict[str, Any]]:
    """Measure all works on all sides; returns the rows that `gridkp bench online --json` prints.

    model: a bundle's folder, with its weights. providers: "cpu", "cuda", "tensorrt"; by default those that ONNX Runtime
    has. variants: of the bundle; by default all, each on the providers that it is for. threads: of both sides; 0: one
    for each core that this process may use.

    Raises BenchError for a provider or a variant that is not there, NoEagerError for a bundle without usable weights.
    """
    threads = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    bundle = Bundle.load(model)
    images = shipped_frames()
    onnx, eager, rows = compare(bundle, choices(bundle, providers, variants), threads, images, works)
    first = {side.provider: side for side in reversed(onnx)}  # of each provider
    processes = [
        {"work": "process", "provider": provider, "variant": side.variant,
         **measure_process(bundle.path, provider, side.variant, budget)}
        for provider, side in reversed(first.items())
    ]  # fmt: skip
    peaks = {side.device: Peak() for side in (*onnx, *eager)}
    for work in works:
        timings = [Timing(side, work, rows[side, work].pop("first_ms")) for side in (*onnx, *eager)]
        take_turns(timings, budget.seconds / len(works), budget.runs)
        for device, peak in peaks.items():
            peak.measure(device, threads, budget.peak_s)
        plain = {t.side.device: statistics.median(t.ms) for t in timings if t.side.provider == "eager"}
        for timing in timings:
            median = statistics.median(timing.ms)
            rows[timing.side, work] |= {
                "median_ms": median,
                "p99_ms": float(np.percentile(timing.ms, 99)),
                "runs": len(timing.ms),
                "speedup_vs_eager": plain.get(timing.side.device, plain["cpu"]) / median,
                "gflop": timing.side.flops(work) / 1e9,
            }
    for (side, _), row in rows.items():
        row["peak_share"] = row["gflop"] / (row["median_ms"] * 1e-3) / peaks[side.device].gflop_per_s
    m = bundle.manifest
    machine = {
        "processor": processor(), "threads": threads, "python": platform.python_version(), "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__, "model": m.model_id, "input": f"{m.input.width}x{m.input.height}",
        "num_keypoints": m.num_keypoints, "image": "{1}x{0}".format(*images[0].shape),
    }  # fmt: skip
    return [
        *rows.values(),
        *({"work": "peak", "provider": device, **peak.row()} for device, peak in peaks.items()),
        *processes,
        {"work": "machine", **machine},
    ]


def shipped_frames() -> list[np.ndarray]:
    """Frames of the episode that comes with the package, uint8 [H,W,3] each."""
    with open_source(shipped_clip()) as source:
        return [frame.image for frame in islice(source, FRAMES)]


def choices(bundle: Bundle, providers: Sequence[str], variants: Sequence[str]) -> Iterator[tuple[str, str, bool]]:
    """Yield provider and variant of what is to be measured, and whether this provider was asked for.

    Raises BenchError where one that was asked for is not there.
    """
    reduced = bundle.manifest.variants
    known = (EQUAL, *reduced)
    missing = [v for v in variants if v not in known]
    if missing:
        raise BenchError(f"{bundle.path} has no variant {', '.join(missing)}: it has {', '.join(known)}")
    unknown = [p for p in providers if p not in ORT_NAMES]
    if unknown:
        raise BenchError(f"provider {', '.join(unknown)}: use {', '.join(ORT_NAMES)}")
    there = onnxruntime.get_available_providers()
    for provider in dict.fromkeys(providers or (p for p, name in ORT_NAMES.items() if name in there)):
        for variant in dict.fromkeys(variants or known):
            if variants or variant == EQUAL or provider in reduced[variant].providers:
                yield provider, variant, bool(providers)


def compare(
    bundle: Bundle,
    chosen: Iterator[tuple[str, str, bool]],
    threads: int,
    images: Sequence[np.ndarray],
    works: Sequence[Work],
) -> tuple[list[Onnx], list[Eager], dict[tuple[Side, Work], dict[str, Any]]]:
    """Open all sides, let them see the same frames and noise, and hold their keypoints against eager PyTorch's.

    Returns the sides and their rows, with `equal_cells`, the share of keypoints in the same cell, `cell_distance`, the
    mean distance in cells, and `memory_mb`, the most resident memory while a side does a work for the first time, above
    what was resident before it was opened (what earlier works keep included).
    """
    onnx: list[Onnx] = []
    eager: list[Eager] = []
    rows: dict[tuple[Side, Work], dict[str, Any]] = {}
    answers: dict[Side, dict[Work, np.ndarray | None]] = {}

    def first_time(side: Side, before: float) -> None:
        side.images = cycle([*images, *images[-2:0:-1]])
        detected = np.stack([side.observe(image) for image in islice(side.images, COMPARED)])
        answers[side] = {}
        for work in works:
            forget_peak()
            began = time.perf_counter()
            if work.render:
                side.render()
                found = None
            else:
                found = side.forecast(work.samples, work.steps) if work.samples else detected
            answers[side][work] = found
            rows[side, work] = {
                "work": work.name, "provider": side.provider, "variant": side.variant, "device": side.device,
                "memory_mb": peak_mb() - before, "first_ms": 1e3 * (time.perf_counter() - began),
            }  # fmt: skip

    for provider, variant, asked in chosen:
        forget_peak()
        before = resident_mb()
        try:
            side = Onnx(bundle, provider, variant, threads)
        except PredictorError as error:
            if asked:
                raise
            log.warning("not measured: %s", error)
            continue
        onnx.append(side)
        first_time(side, before)
    noise = {(w.samples, w.steps): onnx[0].noise(w.samples, w.steps) for w in works if w.samples}
    on_gpu = any(side.device == "cuda" for side in onnx) and torch.cuda.is_available()
    for device in ("cpu", "cuda") if on_gpu else ("cpu",):
        forget_peak()
        before = resident_mb()
        side = Eager(bundle, device)
        side.noise = lambda samples, steps: noise[samples, steps]
        eager.append(side)
        first_time(side, before)
        side.noise = None
    for (side, work), row in rows.items():
        found, true = answers[side][work], answers[eager[0]][work]
        if found is not None:
            apart = np.linalg.norm(found[..., :2] - true[..., :2], axis=-1)
            row |= {"equal_cells": float((apart == 0).mean()), "cell_distance": float(apart.mean())}
    return onnx, eager, rows


def take_turns(timings: Sequence[Timing], seconds: float, runs: int) -> None:
    """Time blocks of runs in turns for some seconds, and until each has so many runs."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(len(t.ms) for t in timings) < runs:
        for timing in timings:
            timing.block(min(BLOCK_S, seconds / 8))


@dataclass
class Peak:
    """The fastest matrix product seen so far: by PyTorch, or by ONNX Runtime on the CPU."""

    gflop_per_s: float = 0.0
    library: str = ""
    dtype: str = ""
    size: int = 0

    def measure(self, device: str, threads: int, seconds: float) -> None:
        found = matmul_peak(torch.device(device), seconds=seconds)
        self.take(found.flops_per_s, "torch", found.dtype, found.size)
        if device == "cpu":
            size = SIZES["cpu"]
            self.take(onnx_matmul_flops(size, threads, seconds), "onnxruntime", "float32", size)

    def take(self, flops_per_s: float, library: str, dtype: str, size: int) -> None:
        if flops_per_s > 1e9 * self.gflop_per_s:
            self.gflop_per_s, self.library, self.dtype, self.size = flops_per_s / 1e9, library, dtype, size

    def row(self) -> dict[str, Any]:
        return asdict(self)


def onnx_matmul_flops(size: int, threads: int, seconds: float) -> float:
    """Operations a second of ONNX Runtime's fastest product of square matrices on the CPU in about `seconds`."""
    shape = [size, size]
    a, b, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "abc")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [a, b], [c])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[ORT_NAMES["cpu"]])
    feeds = {name: np.random.default_rng(0).standard_normal(shape, np.float32) for name in "ab"}
    session.run(None, feeds)
    fastest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or fastest == float("inf"):
        began = time.perf_counter()
        session.run(None, feeds)
        fastest = min(fastest, time.perf_counter() - began)
    return 2 * size**3 / fastest


def measure_process(model: Path, provider: str, variant: str, budget: Budget) -> dict[str, Any]:
    """Start fresh predicting processes; returns `kind`, `active_s` (median) and `rss_mb` of the one streamed to.

    Where ROS 2 and the package's messages are there it is the real node (`kind` "predictor_node"), from the start of
    its process until it answers that it is active; else a process with a Predictor in it ("predictor"), until it could
    take its first frame.
    """
    ros = all(importlib.util.find_spec(name) is not None for name in ("rclpy", "gridkp_ros.msg"))
    module = "gridkp_ros.node.process_bench" if ros else "gridkp_ros.bench.process"
    command = [
        sys.executable, "-m", module, str(model), "--provider", provider, "--variant", variant,
        "--starts", str(budget.starts), "--seconds", str(budget.streamed_s),
    ]  # fmt: skip
    # Not in a checkout, whose gridkp_ros has no messages and would be found first.
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=Path.home())
    if done.returncode != 0:
        raise BenchError(f"{module} could not measure a predicting process; what it said stands above")
    return json.loads(done.stdout)


COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "work": ("work", str),
    "provider": ("provider", str),
    "variant": ("variant", str),
    "median ms": ("median_ms", "{:.2f}".format),
    "p99 ms": ("p99_ms", "{:.2f}".format),
    "times as fast": ("speedup_vs_eager", "{:.2f}".format),
    "GFLOP": ("gflop", "{:.3g}".format),
    "share of peak": ("peak_share", "{:.0%}".format),
    "memory MB": ("memory_mb", "{:.0f}".format),
    "equal cells": ("equal_cells", "{:.2%}".format),
}


def cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The timed rows as texts, in the order of COLUMNS."""
    timed = [row for row in rows if "median_ms" in row]
    return [[text(row[key]) if key in row else "" for key, text in COLUMNS.values()] for row in timed]


def sentences(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The machine, its peak and the predicting processes, a sentence each."""
    said = []
    for row in rows:
        if row["work"] == "machine":
            said.insert(
                0,
                f"{row['model']} ({row['input']}, {row['num_keypoints']} keypoints) on {row['processor']}, "
                f"{row['threads']} threads, torch {row['torch']}, onnxruntime {row['onnxruntime']}; "
                f"images of {row['image']}.",
            )
        elif row["work"] == "peak":
            said.append(
                f"Fastest {row['dtype']} matrix product on {row['provider']}: {row['gflop_per_s']:.0f} GFLOP/s "
                f"({row['library']}, {row['size']}x{row['size']})."
            )
        elif row["work"] == "process":
            said.append(
                f"A fresh process ({row['kind']}, {row['provider']}, {row['variant']}): active after "
                f"{row['active_s']:.2f} s, {row['rss_mb']:.0f} MB resident."
            )
    return said


def tabulate(rows: Sequence[dict[str, Any]]) -> Table:
    """What `bench_online` returns, for people."""
    table = Table(title="\n".join(sentences(rows)), title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("work", "provider", "variant") else "right")
    for row in cells(rows):
        table.add_row(*row)
    return table


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """What `bench_online` returns, as the table of docs/speed.md."""
    lines = [COLUMNS.keys(), ["---"] * 3 + ["---:"] * (len(COLUMNS) - 3), *cells(rows)]
    return "\n".join([*sentences(rows), "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"
