"""predictor_node under a camera: what it receives, how old its forecasts are, and what it holds, measured from outside.

The node runs in a process of its own, as a user starts it. This process is the camera and the planner: it publishes a
moving scene and notes when each forecast arrives. A third process, which answers each image with its header and does
nothing else, gives the bare DDS round trip of the same images, before and after the node's turn.

Order of one case: node and echo start; the echo answers for a while; the node is activated and warmed up by
`WARM_UP_S` of images; `seconds` of images are measured; the node is given time to finish; the echo answers once more.
"""

from __future__ import annotations

import array
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import SetParameters
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy
from rich.table import Table
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from gridkp_ros.msg import KeypointForecast
from gridkp_ros.node.conversions import image_message, stamp_ns
from gridkp_ros.node.processes import NodeProcess, Usage
from gridkp_ros.node.running import make_executor, spin
from gridkp_ros.node.transport import isolate
from gridkp_ros.node.transport_bench import RoundTrips, publish_at_rate

SIZES, TRANSPORTS = ((640, 480), (1920, 1080)), ("raw", "compressed")
WARM_UP_S = 2.0
MARGIN_MS = 4.0  # what the node may add to the round trip and the model's own time
# Growth that counts: medians of the last third of a long run against the first.
AGE_GROWTH_MS, RSS_GROWTH_MB = 10.0, 8.0
_NAMESPACE = "gridkp_bench"
_IMAGE, _ECHO = f"/{_NAMESPACE}/image", f"/{_NAMESPACE}/echo"
_NODE = f"/{_NAMESPACE}/predictor_node"
_JPEG_QUALITY = 95  # compressed_image_transport's own
_PICTURES_MB = 100.0  # of a film held in memory as messages
_TIMEOUT_S = 60.0
_SETTLED_S = 2.5  # of diagnostics without a change of the counts


class BenchError(RuntimeError):
    """The bench cannot be run as asked, or the node did not do what it was told."""


@dataclass(frozen=True)
class Case:
    """A camera: its image size in pixels, its rate, and "raw" or "compressed" images."""

    width: int
    height: int
    rate_hz: float
    transport: str

    def __post_init__(self) -> None:
        if self.transport not in TRANSPORTS:
            raise BenchError(f"transport {self.transport!r}: use {' or '.join(TRANSPORTS)}")
        if not (1 <= self.width <= 8192 and 1 <= self.height <= 8192):
            raise BenchError(f"size {self.width}x{self.height}: use 1x1 to 8192x8192 pixels")
        if not 0 < self.rate_hz <= 1000:
            raise BenchError(f"rate {self.rate_hz:g} Hz: use a number above 0, up to 1000")

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.rate_hz:g} Hz {self.transport}"


@dataclass(frozen=True)
class Film:
    """A moving scene: pictures, uint8 [N, H, W, 3] RGB, and how many a second make it move naturally."""

    pictures: np.ndarray
    rate_hz: float


@dataclass(frozen=True)
class Sample:
    """One look at the node: when (seconds of the steady clock), what its process holds, and its diagnostics."""

    time_s: float
    usage: Usage
    level: int
    message: str
    values: Mapping[str, str]

    def count(self, name: str) -> int:
        return int(self.values[name])


@dataclass
class Arrivals:
    """Forecasts as they reached a planner: when, of which image, how old, and in which epoch."""

    arrival_s: list[float] = field(default_factory=list)
    stamp_s: list[float] = field(default_factory=list)
    age_ms: list[float] = field(default_factory=list)
    epoch: list[int] = field(default_factory=list)

    def since(self, start_s: float) -> Arrivals:
        """Return those of images stamped at start_s (seconds since 1970) or later."""
        first = int(np.searchsorted(self.stamp_s, start_s))
        return Arrivals(self.arrival_s[first:], self.stamp_s[first:], self.age_ms[first:], self.epoch[first:])

    def jitter_ms(self) -> float | None:
        """Return by how much intervals of arrival differ from those of the images: 95 % differ by less."""
        if len(self.arrival_s) < 2:
            return None
        difference_s = np.diff(self.arrival_s) - np.diff(self.stamp_s)
        return float(1e3 * np.percentile(np.abs(difference_s), 95))


class Driver(Node):
    """The camera, the planner and the life-cycle manager of the node under test."""

    def __init__(self) -> None:
        super().__init__("bench", namespace=_NAMESPACE)
        self.process: NodeProcess | None = None
        self.samples: list[Sample] = []
        self.arrivals = Arrivals()
        self.period_s = 0.0  # of the model, as its forecasts say
        self._status = f"{_NODE}: forecast"
        self.create_subscription(KeypointForecast, f"{_NODE}/forecast", self._on_forecast, 50)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self._change_state = self.create_client(ChangeState, f"{_NODE}/change_state")
        self._set_parameters = self.create_client(SetParameters, f"{_NODE}/set_parameters")

    def _on_forecast(self, message: KeypointForecast) -> None:
        now_ns, image_ns = self.get_clock().now().nanoseconds, stamp_ns(message.header.stamp)
        self.period_s = message.period.sec + message.period.nanosec * 1e-9
        a = self.arrivals
        a.arrival_s.append(now_ns * 1e-9)
        a.stamp_s.append(image_ns * 1e-9)
        a.age_ms.append((now_ns - image_ns) * 1e-6)
        a.epoch.append(message.epoch)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == self._status and self.process is not None:
                values = {v.key: v.value for v in status.values}
                usage = self.process.usage()
                self.samples.append(Sample(time.monotonic(), usage, status.level[0], status.message, values))

    def now_s(self) -> float:
        """Return the time images are stamped with, seconds."""
        return self.get_clock().now().nanoseconds * 1e-9

    def wait(self, done: Callable[[], bool], what: str, timeout_s: float = _TIMEOUT_S) -> None:
        """Wait until done(); ProcessError if the node ends meanwhile, BenchError if it takes too long."""
        deadline = time.monotonic() + timeout_s
        while not done():
            self.process.check()
            if time.monotonic() > deadline:
                raise BenchError(f"{what} within {timeout_s:.0f} s; see {self.process.log}")
            time.sleep(0.02)

    def transition(self, transition_id: int, name: str) -> None:
        """Take the node through a transition; BenchError if it refuses."""
        answer = self._call(self._change_state, ChangeState.Request(transition=Transition(id=transition_id)))
        if not answer.success:
            raise BenchError(f"the node refused to {name}: {self.process.log} says why")

    def set_parameter(self, name: str, value: Any) -> None:
        """Change a parameter of the node; BenchError if it refuses."""
        message: ParameterMessage = Parameter(name, value=value).to_parameter_msg()
        result = self._call(self._set_parameters, SetParameters.Request(parameters=[message])).results[0]
        if not result.successful:
            raise BenchError(f"the node refused {name} = {value}: {result.reason}")

    def _call(self, client: Any, request: Any) -> Any:
        self.wait(client.service_is_ready, f"{client.srv_name} did not come up")
        future = client.call_async(request)
        self.wait(future.done, f"{client.srv_name} did not answer")
        return future.result()

    def settle(self, published: int, since_s: float) -> Sample:
        """Wait until the node has dealt with all images, or its counts rest; return the last look at it."""

        def settled() -> bool:
            recent = [s for s in self.samples if s.time_s > since_s]
            if len(recent) < 2:
                return False
            last = recent[-1]
            if published <= last.count("received") <= dealt_with(last):
                return True
            counts = [(s.count("received"), dealt_with(s)) for s in recent]
            return last.time_s - recent[counts.index(counts[-1])].time_s >= _SETTLED_S

        self.wait(settled, "the node did not come to rest")
        return self.samples[-1]


def dealt_with(sample: Sample) -> int:
    """Return the number of images of which the node has said what became of them."""
    return sum(sample.count(name) for name in ("absorbed", "skipped", "dropped", "malformed", "failures"))


def load_film(recording: Path | None, seconds: float = 8.0) -> Film:
    """Return the clip that ships with the package, or the first seconds of a recording."""
    if recording is None:
        from gridkp_ros.sim.store import PRERENDERED_CONFIG, load_prerendered

        return Film(load_prerendered().left, PRERENDERED_CONFIG.rate_hz)
    from gridkp_ros.data.sources import open_source

    pictures: list[np.ndarray] = []
    first_ns = last_ns = 0
    with open_source(recording) as source:
        for frame in source:
            first_ns = first_ns if pictures else frame.stamp_ns
            if (frame.stamp_ns - first_ns) * 1e-9 > seconds:
                break
            last_ns = frame.stamp_ns
            pictures.append(frame.image if frame.image.ndim == 3 else cv2.cvtColor(frame.image, cv2.COLOR_GRAY2RGB))
    if len(pictures) < 2 or last_ns <= first_ns:
        raise BenchError(f"{recording} holds fewer than two frames: give one that moves")
    return Film(np.stack(pictures), (len(pictures) - 1) / ((last_ns - first_ns) * 1e-9))


def camera_messages(film: Film, case: Case) -> list[Image | CompressedImage]:
    """Return the film as messages of a camera: scaled, bgr8 or JPEG, forth and back again so that no cut is in it."""
    count = int(min(len(film.pictures), max(8, _PICTURES_MB * 1e6 / (3 * case.width * case.height))))
    header = Header(frame_id="camera")
    forth = []
    for picture in film.pictures[:count]:
        scaled = cv2.resize(picture, (case.width, case.height), interpolation=cv2.INTER_CUBIC)
        if case.transport == "raw":
            forth.append(image_message(scaled, Header(frame_id="camera"), "bgr8"))
            continue
        _, data = cv2.imencode(".jpg", scaled[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        forth.append(CompressedImage(header=header, format="bgr8; jpeg compressed bgr8", data=array.array("B", data)))
    return forth + forth[-2:0:-1]


@contextmanager
def _spinning() -> Iterator[Driver]:
    """Yield a Driver whose callbacks run on a thread of their own."""
    rclpy.init(args=[])
    executor = make_executor()
    driver = Driver()
    executor.add_node(driver)

    def run() -> None:
        with suppress(ExternalShutdownException):
            spin(executor)

    thread = threading.Thread(target=run, name="driver", daemon=True)
    thread.start()
    try:
        yield driver
    finally:
        executor.shutdown()
        rclpy.try_shutdown()  # what an EventsExecutor is spun until
        thread.join()
        driver.destroy_node()


@dataclass(frozen=True)
class Options:
    """How to measure: the model, seconds of images in each case, the camera's reliability, the node's parameters."""

    model: str = ""
    seconds: float = 10.0
    reliability: str = "reliable"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    recording: Path | None = None


def run_cases(
    cases: Sequence[Case],
    options: Options,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> list[dict]:
    """Measure each case in turn; return its row. Logs and curves go to `out`, where one is given.

    Raises BenchError or ProcessError where the node does not do what it should.
    """
    film = load_film(options.recording)
    rows = []
    with _workplace(out) as folder:
        for case in cases:
            progress(str(case))
            with _stream(case, options, film, folder) as stream:
                rows.append(stream.measure())
        if out is not None:
            (out / "bench_node.json").write_text(json.dumps(rows, indent=1) + "\n")
    return rows


@contextmanager
def _workplace(out: Path | None) -> Iterator[Path]:
    isolate()
    if out is None:
        with tempfile.TemporaryDirectory(prefix="gridkp_bench_") as folder:
            yield Path(folder)
    else:
        out.mkdir(parents=True, exist_ok=True)
        yield out


class _Stream:
    """One camera, its node, and the echo beside it."""

    def __init__(self, case: Case, options: Options, driver: Driver, trips: RoundTrips, film: Film) -> None:
        self.case, self.options, self.driver, self._trips = case, options, driver, trips
        self._film_hz = film.rate_hz
        self._messages = camera_messages(film, case)
        self._topic = _IMAGE if case.transport == "raw" else f"{_IMAGE}/compressed"
        reliability = ReliabilityPolicy[options.reliability.upper()]
        self._camera = driver.create_publisher(type(self._messages[0]), self._topic, trips.publisher.qos_profile)
        self._wanted = reliability
        self.published = 0
        self.latest_s = 0.0

    def start(self) -> None:
        """Activate the node, and wait until camera and node know each other."""
        driver = self.driver
        driver.transition(Transition.TRANSITION_CONFIGURE, "configure")
        driver.transition(Transition.TRANSITION_ACTIVATE, "activate")

        def matched() -> bool:
            known = driver.get_subscriptions_info_by_topic(self._topic)
            return self._camera.get_subscription_count() > 0 and any(
                s.qos_profile.reliability == self._wanted for s in known
            )

        driver.wait(matched, f"the node did not subscribe to {self._topic} ({self.options.reliability})")
        driver.wait(lambda: driver.count_publishers(f"{_NODE}/forecast") > 0, "the node's forecasts were not found")
        time.sleep(1.0)  # each learns of the other a moment later

    def play(self, seconds: float) -> None:
        """Publish images for so long."""
        rate_hz = self.case.rate_hz
        frames = max(1, round(seconds * rate_hz))
        # In the film's own time, so that things move as fast at 60 Hz as at 30.
        first = int(self.published * self._film_hz / rate_hz) % len(self._messages)
        messages = self._messages[first:] + self._messages[:first]
        late_s = publish_at_rate(self.driver, self._camera, messages, rate_hz, frames, pictures_hz=self._film_hz)
        self.published += frames
        self.latest_s = max(self.latest_s, late_s)

    def round_trips(self, seconds: float) -> None:
        """Send images to the echo for so long."""
        self._trips.send(self._messages, self.case.rate_hz, max(1, round(seconds * self.case.rate_hz)))

    def measure(self) -> dict:
        """Go through the case and return its row."""
        turn_s = min(max(0.2 * self.options.seconds, 1.0), 3.0)
        self.round_trips(turn_s)
        self.start()
        self.play(min(WARM_UP_S, self.options.seconds))
        start_s, steady_s, before = self.driver.now_s(), time.monotonic(), self.driver.process.usage()
        self.play(self.options.seconds)
        wall_s, after = time.monotonic() - steady_s, self.driver.process.usage()
        last = self.driver.settle(self.published, time.monotonic())
        self.driver.transition(Transition.TRANSITION_DEACTIVATE, "deactivate")
        self.round_trips(turn_s)
        return _row(self, last, self.driver.arrivals.since(start_s), before, after, wall_s)

    def median_round_trip_ms(self) -> float | None:
        """Return the bare round trip of the images."""
        trips = self._trips.round_trips_ms
        return float(np.median(trips)) if trips else None


@contextmanager
def _stream(case: Case, options: Options, film: Film, folder: Path) -> Iterator[_Stream]:
    """Start the node and the echo, not yet active."""
    name = str(case).replace(" ", "_")
    with ExitStack() as stack:
        driver = stack.enter_context(_spinning())
        node = NodeProcess(
            "predictor_node", folder / f"{name}_predictor_node.log", remap=(f"__ns:=/{_NAMESPACE}",),
            parameters={"model": options.model, "transport": case.transport, **options.parameters},
        )
        stack.callback(node.stop)
        echo = NodeProcess(
            "transport_bench", folder / f"{name}_echo.log",
            arguments=(
                "--role=echo", f"--topic={_ECHO}", f"--transport={case.transport}",
                f"--reliability={options.reliability}",
            ),
        )
        stack.callback(echo.stop)
        driver.process = node
        trips = RoundTrips(driver, _ECHO, case.transport, options.reliability)
        if not trips.wait_for_echo():
            echo.check()
            raise BenchError(f"the process that answers images was not found; see {echo.log}")
        yield _Stream(case, options, driver, trips, film)


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    return {f"p{p}": round(float(np.percentile(values, p)), 3) if len(values) else None for p in (50, 95, 99)}


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)


def _row(stream: _Stream, last: Sample, arrivals: Arrivals, before: Usage, after: Usage, wall_s: float) -> dict:
    case = stream.case
    age_ms, trip_ms = _percentiles(arrivals.age_ms), stream.median_round_trip_ms()
    inference_ms = float(last.values["inference_ms_p50"] or "nan")
    limit_ms = None if trip_ms is None or np.isnan(inference_ms) else trip_ms + inference_ms + MARGIN_MS
    return {
        "size": f"{case.width}x{case.height}",
        "rate_hz": case.rate_hz,
        "transport": case.transport,
        "published": stream.published,
        **{name: last.count(name) for name in ("received", "absorbed", "skipped", "dropped", "forecasts", "epoch")},
        "age_ms": age_ms,
        "roundtrip_ms": _rounded(trip_ms),
        "inference_ms": None if np.isnan(inference_ms) else inference_ms,
        "age_limit_ms": _rounded(limit_ms),
        "age_within_limit": None if limit_ms is None or age_ms["p50"] is None else age_ms["p50"] <= limit_ms,
        "all_received": last.count("received") == stream.published,
        "jitter_ms": _rounded(arrivals.jitter_ms()),
        "cpu_share": round((after.cpu_s - before.cpu_s) / wall_s, 3),
        "rss_mb": {"start": round(before.rss_mb, 1), "end": round(after.rss_mb, 1)},
        "threads": after.threads,
        "camera_late_ms": round(1e3 * stream.latest_s, 1),
        "node_says": last.message,
    }


# -- long runs


def soak(
    case: Case,
    minutes: float,
    options: Options,
    out: Path | None = None,
    *,
    overload: float = 2.0,
    progress: Callable[[str], None] = lambda text: None,
) -> dict:
    """Stream for minutes and say whether ages or memory grow; return figures, curves and verdict.

    overload: samples are chosen such that a forecast takes this many periods of the model; 0 leaves them.
    Raises BenchError or ProcessError where the node does not do what it should.
    """
    film = load_film(options.recording)
    with _workplace(out) as folder, _stream(case, options, film, folder) as stream:
        stream.round_trips(min(2.0, 60.0 * minutes))
        stream.start()
        samples = _overload(stream, overload) if overload else None
        stream.play(min(30.0, 30.0 * minutes))  # buffers and allocators reach their size
        start_s, steady_s, before = stream.driver.now_s(), time.monotonic(), stream.driver.process.usage()
        for minute in range(max(1, round(minutes))):
            progress(f"{case}: minute {minute + 1} of {minutes:g}")
            stream.play(60.0 * minutes / max(1, round(minutes)))
        wall_s, after = time.monotonic() - steady_s, stream.driver.process.usage()
        last = stream.driver.settle(stream.published, time.monotonic())
        looks = [s for s in stream.driver.samples if s.time_s > steady_s]
        arrivals = stream.driver.arrivals.since(start_s)
        result = _row(stream, last, arrivals, before, after, wall_s)
        result |= {"minutes": minutes, "num_samples": samples, **_judge(arrivals, looks)}
        if out is not None:
            (out / "soak.json").write_text(json.dumps(result, indent=1) + "\n")
            np.savetxt(
                out / "soak_looks.csv",
                [
                    (s.time_s - steady_s, s.usage.rss_mb, s.usage.cpu_s, s.usage.threads, s.count("epoch"))
                    for s in looks
                ],
                delimiter=",", header="time_s,rss_mb,cpu_s,threads,epoch", comments="", fmt="%.3f",
            )
            np.savetxt(
                out / "soak_forecasts.csv", np.column_stack([arrivals.stamp_s, arrivals.age_ms, arrivals.epoch]),
                delimiter=",", header="stamp_s,age_ms,epoch", comments="", fmt="%.4f",
            )
    return result


def _overload(stream: _Stream, periods: float) -> int:
    """Set num_samples such that a forecast takes so many periods of the model here and now; return it."""
    stream.play(4.0)
    wanted_ms = 1e3 * periods * stream.driver.period_s
    took: dict[int, float] = {}
    for samples in (1, 8, 32):
        stream.driver.set_parameter("num_samples", samples)
        stream.play(12.0)  # diagnostics look at the last 150 forecasts
        took[samples] = float(stream.driver.samples[-1].values["processing_ms_p50"])
        if took[samples] > wanted_ms:
            break
    most = max(took)
    slope = (took[most] - took[1]) / (most - 1) if most > 1 else 0.0
    chosen = most if slope <= 0 else int(np.clip(1 + round((wanted_ms - took[1]) / slope), 1, 256))
    stream.driver.set_parameter("num_samples", chosen)
    return chosen


def _thirds(values: Sequence[float]) -> tuple[float, float]:
    """Return the medians of the first and of the last third."""
    third = max(1, len(values) // 3)
    return float(np.median(values[:third])), float(np.median(values[-third:]))


def _per_minute(times_s: np.ndarray, values: np.ndarray, percent: float) -> list[float]:
    minutes = ((times_s - times_s[0]) // 60).astype(int)
    return [round(float(np.percentile(values[minutes == m], percent)), 2) for m in np.unique(minutes)]


def _judge(arrivals: Arrivals, looks: Sequence[Sample]) -> dict:
    """Compare the first and the last third of a long run, and say in words what grew.

    Ages count without the model's own time, which follows the load of the machine.
    """
    if len(arrivals.age_ms) < 3 or len(looks) < 3:
        raise BenchError(f"{len(arrivals.age_ms)} forecasts and {len(looks)} looks are too few to judge: stream longer")
    age_first, age_last = _thirds(arrivals.age_ms)
    model_ms = [float(text) for s in looks if (text := s.values["inference_ms_p50"])]
    model_first, model_last = _thirds(model_ms)
    rss = [s.usage.rss_mb for s in looks]
    rss_first, rss_last = _thirds(rss)
    stamps, times = np.array(arrivals.stamp_s), np.array([s.time_s for s in looks])
    troubles = []
    # What other processes do to the model's own time is no backlog.
    if (age_last - model_last) - (age_first - model_first) > AGE_GROWTH_MS:
        troubles.append(
            f"the age of forecasts grew from {age_first:.1f} to {age_last:.1f} ms, of which the model took "
            f"{model_first:.1f} and {model_last:.1f} ms"
        )
    if rss_last - rss_first > RSS_GROWTH_MB:
        troubles.append(f"memory grew from {rss_first:.1f} to {rss_last:.1f} MB")
    errors = [s.values["last_error"] for s in looks if s.values.get("last_error")]
    if errors:
        troubles.append(f"the node reported: {errors[-1]}")
    return {
        "age_ms_thirds": [round(age_first, 2), round(age_last, 2)],
        "inference_ms_thirds": [round(model_first, 2), round(model_last, 2)],
        "rss_mb_thirds": [round(rss_first, 1), round(rss_last, 1)],
        "age_ms_per_hour": round(float(np.polyfit(stamps - stamps[0], arrivals.age_ms, 1)[0]) * 3600, 3),
        "rss_mb_per_hour": round(float(np.polyfit(times - times[0], rss, 1)[0]) * 3600, 3),
        "age_ms_p50_by_minute": _per_minute(stamps, np.array(arrivals.age_ms), 50),
        "age_ms_p99_by_minute": _per_minute(stamps, np.array(arrivals.age_ms), 99),
        "rss_mb_by_minute": _per_minute(times, np.array(rss), 50),
        "threads_most": max(s.usage.threads for s in looks),
        "epochs": sorted(set(arrivals.epoch)),
        "last_start": looks[-1].values.get("last_start", ""),
        "verdict": "; ".join(troubles) or "neither age nor memory grew",
        "ok": not troubles,
    }


# -- saying it


def tabulate(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the rows as a table."""
    table = Table(
        title="predictor_node under a camera: times in ms, memory in MB (docs/camera.md)",
        title_justify="left", box=None, pad_edge=False,
    )
    for name in ("camera", "pub", "rec", "abs", "drop", "age", "p95", "limit", "trip", "model", "MB"):
        table.add_column(name, justify="left" if name == "camera" else "right", no_wrap=True)
    for row in rows:
        age, rss = row["age_ms"], row["rss_mb"]
        table.add_row(
            f"{row['size']} {row['rate_hz']:g} {row['transport'][:4]}",
            *(str(row[name]) for name in ("published", "received", "absorbed", "dropped")),
            _text(age["p50"]), _text(age["p95"]),
            *(_text(row[name]) for name in ("age_limit_ms", "roundtrip_ms", "inference_ms")),
            f"{rss['start']:.0f}-{rss['end']:.0f}",
        )
    return table


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def parse_cases(sizes: str, rates: str, transports: str) -> list[Case]:
    """Read "640x480,1920x1080", "30,60" and "raw,compressed" into cases, in that order of nesting.

    Raises BenchError for what cannot be read.
    """
    try:
        pairs = [tuple(map(int, size.split("x"))) for size in sizes.split(",")]
        rates_hz = [float(rate) for rate in rates.split(",")]
    except ValueError as error:
        raise BenchError(f"sizes {sizes!r}, rates {rates!r}: give them as 640x480,1920x1080 and 30,60") from error
    if any(len(pair) != 2 for pair in pairs):
        raise BenchError(f"sizes {sizes!r}: give them as 640x480,1920x1080")
    return [
        Case(w, h, rate, transport) for w, h in pairs for rate in rates_hz for transport in transports.split(",")
    ]
