"""A running predictor_node under a camera stream, what a fault may not change, and how soon forecasts are good again.

    with theatre.fault("an encoding nobody knows") as fault:
        theatre.send(theatre.image(encoding="hsv8"))
        fault.said("hsv8.* not supported")

The node runs in a process of its own, started as a user starts it. Before a fault the camera plays until forecasts are
good; after it they must be good again within one second of good images. The second is counted in the stream's own
time, 15 images of 1/15 s, because a loaded machine stretches the clock on the wall, not what the model needs: each
image is waited for (ANSWER_S at most, so a node that hangs fails all the same). A good forecast is one published for
the newest image, finite, its keypoints those of an undisturbed run at the same image (see `Undisturbed`) and its mean
no farther from that run's than FORECAST_PX; a fresh start alone was seen to move it by up to 9 px, another moment of
the same clip by 29 px on average.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Log
from rcl_interfaces.srv import GetParameters, ListParameters, SetParametersAtomically
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from gridkp_ros.msg import GridKeypoints, KeypointForecast
from gridkp_ros.node.conversions import stamp_ns
from support.strangers import stranger
from support.waiting import TIMEOUT_S, wait_for

from .clip import CAMERA_HZ, HORIZON_STEPS, NS, Clip, Undisturbed, position_of

ONE_SECOND = CAMERA_HZ  # images
ANSWER_S = 15.0  # for one image, on a machine that is slow, and busy besides
FORECAST_PX = 12.0  # mean over steps and keypoints
WARMUP_FRAMES = 5  # the parameter's default
CELL_PX = 10.0  # of the model's grid, in the clip's images
LEVEL = {DiagnosticStatus.OK: "OK", DiagnosticStatus.WARN: "WARN", DiagnosticStatus.ERROR: "ERROR",
         DiagnosticStatus.STALE: "STALE"}


def executable(name: str) -> str:
    """Return the path that `ros2 run gridkp_ros NAME` would run."""
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        path = Path(prefix) / "lib" / "gridkp_ros" / name
        if path.exists():
            return str(path)
    raise FileNotFoundError(f"{name} is not installed: run `make setup` and `source scripts/env.sh`")


def ros_arguments(parameters: dict[str, Any], remap: dict[str, str] | None = None) -> list[str]:
    """Return parameters and remappings as command-line arguments."""
    def text(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        return f"'{value}'" if isinstance(value, str) else str(value)

    pairs = [f"-p {name}:={text(value)}" for name, value in parameters.items()]
    pairs += [f"-r {name}:={other}" for name, other in (remap or {}).items()]
    return ["--ros-args", *(word for pair in pairs for word in pair.split(" ", 1))]


def _die_with_parent() -> None:
    """Let no node be left behind where the tests themselves are killed (Linux: prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Process:
    """A process whose output is kept line by line; ended with the test, whatever happened."""

    def __init__(self, command: Sequence[str], domain_id: int, **environment: str) -> None:
        env = {**os.environ, "ROS_DOMAIN_ID": str(domain_id), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
               "PYTHONUNBUFFERED": "1", "RCUTILS_COLORIZED_OUTPUT": "0", **environment}
        self.started_s = time.monotonic()
        self.lines: list[str] = []
        self._popen = subprocess.Popen(
            list(command), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            preexec_fn=_die_with_parent,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._popen.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """Wait for the end and return the exit status (negative: the signal that ended it)."""
        status = self._popen.wait(timeout_s)
        self._reader.join(5.0)
        return status

    def close(self) -> None:
        if self.alive:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGINT)
            try:
                self.wait(30.0)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        self.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def footprint(self) -> dict[str, float]:
        """Return resident megabytes, threads and open files."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        values = dict(line.split(":", 1) for line in status.splitlines())
        return {
            "rss_mb": int(values["VmRSS"].split()[0]) / 1024,
            "threads": int(values["Threads"]),
            "files": len(os.listdir(f"/proc/{self.pid}/fd")),
        }

    def said(self, pattern: str, since: int = 0) -> str:
        """Return the first line of the output that the pattern is found in, "" without one."""
        return next((line for line in tuple(self.lines[since:]) if re.search(pattern, line)), "")


@dataclass
class Fault:
    """One fault that is being done to the node, and what the node said about it."""

    title: str
    theatre: Theatre
    lines_before: int
    logs_before: int
    diagnostics_before: int
    sentences: list[str] = field(default_factory=list)
    levels: list[str] = field(default_factory=list)

    def said(
        self,
        pattern: str,
        *,
        level: bytes | None = None,
        diagnosed: str | None = "",
        again: Callable[[], None] | None = None,
    ) -> None:
        """Wait until the log (stderr and /rosout) and the diagnostics hold the pattern.

        diagnosed: another pattern for the diagnostics, None if nothing is expected there; level: of that status; again:
        does the fault once more, each half a second: the like of what was said a moment ago is not said anew.
        """
        theatre = self.theatre
        end_s = time.monotonic() + TIMEOUT_S
        while again is not None and not self.came(pattern, 0.5) and time.monotonic() < end_s:
            again()
        self.logged(pattern)
        self._wait(
            lambda: any(re.search(pattern, m.msg) for m in theatre.logs[self.logs_before :]), f"{pattern!r} on /rosout"
        )
        if diagnosed is not None:
            self.diagnosed(diagnosed or pattern, level)

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        node = self.theatre.node
        try:
            wait_for(done, what)
        except AssertionError as error:
            said = "\n".join(node.lines[self.lines_before :][-12:]) or "nothing"
            status = self.theatre.diagnostics[-1].message if self.theatre.diagnostics else "no diagnostics"
            raise AssertionError(f"{error}; the node said:\n{said}\nand its diagnostics: {status}") from None

    def answered(self, sentence: str, pattern: str) -> None:
        """Take in what a service answered to the one who did this; it must hold the pattern."""
        assert re.search(pattern, sentence), f"{self.title}: answered {sentence!r}, {pattern!r} was expected"
        self.sentences.append(sentence)

    def came(self, pattern: str, seconds: float) -> bool:
        """Return whether a line of the process's output holds the pattern within so many seconds."""
        deadline = time.monotonic() + seconds
        while not self.theatre.node.said(pattern, self.lines_before) and time.monotonic() < deadline:
            time.sleep(0.01)
        return bool(self.theatre.node.said(pattern, self.lines_before))

    def logged(self, pattern: str) -> None:
        """Wait for a line of the process's output."""
        node = self.theatre.node
        self._wait(lambda: node.said(pattern, self.lines_before), f"{pattern!r} in the node's output")
        line = node.said(pattern, self.lines_before)
        self.sentences.append(re.sub(r"^\[\w+\] \[[\d.]+\] \[[\w.]+\]: ", "", line))

    def diagnosed(self, pattern: str, level: bytes | None = None) -> None:
        """Wait for a diagnostic status that holds the pattern, in its sentence or its values."""
        self._wait(lambda: self.has_diagnosed(pattern, level) is not None, f"{pattern!r} in the diagnostics")
        status = self.has_diagnosed(pattern, level)
        if LEVEL[status.level] not in self.levels:
            self.levels.append(LEVEL[status.level])
        if re.search(pattern, status.message) and not any(status.message in s for s in self.sentences):
            self.sentences.append(status.message)

    def forget_diagnostics(self) -> None:
        """Let only what is diagnosed from now on count."""
        self.diagnostics_before = len(self.theatre.diagnostics)

    def has_diagnosed(self, pattern: str, level: bytes | None = None) -> DiagnosticStatus | None:
        """Return the first status since the fault began that holds the pattern."""
        for status in self.theatre.diagnostics[self.diagnostics_before :]:
            texts = [status.message, *(f"{v.key}: {v.value}" for v in status.values)]
            if (level is None or status.level == level) and any(re.search(pattern, t) for t in texts):
                return status
        return None


@dataclass(frozen=True)
class Result:
    """A row of the table: what was done, what the node said, and after how much good input forecasts were good."""

    fault: str
    said: tuple[str, ...]
    diagnostics: tuple[str, ...]
    frames: int
    stream_s: float
    wall_s: float


RESULTS: list[Result] = []


class Theatre:
    """predictor_node in its own process, the harness's camera on `image`, and all that the node publishes."""

    def __init__(
        self,
        clip: Clip,
        undisturbed: Undisturbed,
        domain_id: int,
        *,
        transport: str = "raw",
        wrapper: Sequence[str] = (),
        remap: dict[str, str] | None = None,
        wait_active: bool = True,
        environment: dict[str, str] | None = None,
        **parameters: Any,
    ) -> None:
        self.clip, self.undisturbed, self.domain_id, self.transport = clip, undisturbed, domain_id, transport
        self.position, self.stamp_ns, self._due_s = 0, 0, 0.0
        self.keypoints: dict[int, GridKeypoints] = {}
        self.forecasts: dict[int, KeypointForecast] = {}
        self.logs: list[Log] = []
        self.diagnostics: list[DiagnosticStatus] = []
        self.failed = False  # a fault it did not get over: the next one deserves a node that is well
        self._not_loading_ns = 0  # when the diagnostics last told of no model that is being loaded
        self._clients: dict[str, Any] = {}
        chosen = {"autostart": True, "num_samples": 1, "horizon_steps": HORIZON_STEPS, "transport": transport}
        self.command = [*wrapper, executable("predictor_node"), *ros_arguments({**chosen, **parameters}, remap)]
        self.environment = environment or {}
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain_id)
        self.ros = rclpy.create_node("harness", context=self.context)
        kind, topic = (Image, "image") if transport == "raw" else (CompressedImage, "image/compressed")
        self.camera = self.ros.create_publisher(kind, topic, 10)
        self.listen(GridKeypoints, "keypoints", lambda m: self.keypoints.update({stamp_ns(m.header.stamp): m}))
        self.listen(KeypointForecast, "forecast", lambda m: self.forecasts.update({stamp_ns(m.header.stamp): m}))
        log_qos = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.ros.create_subscription(Log, "/rosout", self._on_log, log_qos)
        self.ros.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.ros)
        self._thread = threading.Thread(target=self.executor.spin, daemon=True)
        self._thread.start()
        self.node = self.start(wait_active)

    def listen(self, kind: type, topic: str, callback: Callable[[Any], None], depth: Any = 50) -> Any:
        """Subscribe to one of the node's own topics."""
        return self.ros.create_subscription(kind, f"/predictor_node/{topic}", callback, depth)

    def _on_log(self, message: Log) -> None:
        if message.name.endswith("predictor_node"):
            self.logs.append(message)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics.extend(message.status)
        values = {v.key: v.value for status in message.status for v in status.values}
        if not values.get("loading", ""):
            self._not_loading_ns = stamp_ns(message.header.stamp)

    def stranger(self) -> AbstractContextManager[Node]:
        """A node that is no part of the harness's participant."""
        return stranger(self.domain_id)

    # -- the node

    def start(self, wait_active: bool = True) -> Process:
        """Start the node's process, in place of one that ended."""
        self.node = Process(self.command, self.domain_id, **self.environment)
        self.keypoints.clear()  # a new process counts epochs from the beginning
        self.forecasts.clear()
        if wait_active:
            self.await_active()
        return self.node

    def await_active(self) -> None:
        """Wait until the node is active and the camera is matched with it."""
        def active() -> bool:
            assert self.node.alive, "the node ended:\n" + "\n".join(self.node.lines[-20:])
            return bool(self.node.said("subscribed to"))

        wait_for(active, "the node's activation")
        wait_for(lambda: self.state() == "active", "the active state")
        wait_for(lambda: self.camera.get_subscription_count() > 0, "the node's subscription to the camera")
        for topic in ("keypoints", "forecast"):
            wait_for(lambda t=topic: self.ros.count_publishers(f"/predictor_node/{t}") > 0, f"discovery of {topic}")

    def call(self, kind: type, name: str, request: Any, timeout_s: float = TIMEOUT_S) -> Any:
        """Call one of the node's services and return the answer."""
        return self.ask(kind, name, request).get(timeout_s)

    def ask(self, kind: type, name: str, request: Any) -> Answer:
        """Call one of the node's services without waiting for the answer."""
        if name not in self._clients:
            # Of the default depth, ten, the answers to more requests at once would be lost on the way back.
            qos = QoSProfile(depth=200)
            self._clients[name] = self.ros.create_client(kind, f"/predictor_node/{name}", qos_profile=qos)
        client = self._clients[name]
        wait_for(client.service_is_ready, f"service {name}")
        return Answer(name, client.call_async(request))

    def read(self, kind: type, name: str, request: Any) -> Any:
        """Call a service that only reads; ask again where DDS lost the answer to a client it had not yet discovered."""
        for _ in range(5):
            answer = self.ask(kind, name, request)
            deadline = time.monotonic() + 6.0
            while not answer.future.done() and time.monotonic() < deadline:
                time.sleep(0.005)
            if answer.future.done():
                return answer.get()
        raise AssertionError(f"{name} was asked five times and did not answer")

    def state(self) -> str:
        """Return the life-cycle state's label."""
        return self.read(GetState, "get_state", GetState.Request()).current_state.label

    def transition(self, label: str) -> bool:
        """Ask for a life-cycle transition; return whether it succeeded."""
        request = ChangeState.Request()
        request.transition.label = label
        return self.call(ChangeState, "change_state", request).success

    def parameters(self) -> dict[str, Any]:
        """Return all parameters of the node."""
        names = self.read(ListParameters, "list_parameters", ListParameters.Request()).result.names
        values = self.read(GetParameters, "get_parameters", GetParameters.Request(names=names)).values
        return dict(zip(names, map(parameter_value_to_python, values), strict=True))

    def set(self, **values: Any) -> tuple[bool, str]:
        """Set parameters together; return whether they were taken, and the reason if not."""
        return self.set_later(**values).get()

    def set_later(self, **values: Any) -> Answer:
        """Set parameters without waiting."""
        parameters = [Parameter(n, value=v).to_parameter_msg() for n, v in values.items()]
        request = SetParametersAtomically.Request(parameters=parameters)
        answer = self.ask(SetParametersAtomically, "set_parameters_atomically", request)
        answer.read = lambda response: (response.result.successful, response.result.reason)
        return answer

    def await_loaded(self) -> None:
        """Wait until no model is being loaded: the parameters that were set last are in force with the next image."""
        asked_ns = time.time_ns()
        wait_for(lambda: self._not_loading_ns > asked_ns, "the end of loading", 120.0)

    # -- the camera

    def begin(self) -> None:
        """Let the camera's time be now."""
        self.stamp_ns = time.time_ns()
        self._due_s = time.monotonic()

    def image(self, pixels_as: str = "rgb8", **fields: Any) -> Any:
        """Return the stream's next image in an encoding, then with fields changed; the stream's time goes on."""
        self.position += 1
        self.stamp_ns += NS // CAMERA_HZ
        message = self.clip.message(self.position, self.stamp_ns, pixels_as)
        if self.transport == "compressed":
            pixels = self.clip.image(self.position)[..., ::-1]
            jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
            message = CompressedImage(header=message.header, format="jpeg", data=jpeg)
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    def send(self, message: Any, publisher: Any = None) -> None:
        """Publish an image when it is due, at the camera's own rate."""
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        self._due_s = max(self._due_s + 1 / CAMERA_HZ, time.monotonic())
        (publisher or self.camera).publish(message)

    def play(self, count: int = ONE_SECOND) -> int:
        """Play good images, each waited for; return how many were answered with keypoints."""
        return sum(self.play_one() for _ in range(count))

    def play_one(self) -> bool:
        """Play a good image and return whether keypoints came for it."""
        message = self.image()
        self.send(message)
        return self.answered(stamp_ns(message.header.stamp))

    def answered(self, stamp: int, timeout_s: float = ANSWER_S) -> bool:
        """Wait for the keypoints of an image, and for its forecast if the epoch is old enough to have one."""
        deadline = time.monotonic() + timeout_s

        def came(messages: dict[int, Any]) -> bool:
            while stamp not in messages and self.node.alive and time.monotonic() < deadline:
                time.sleep(0.002)
            return stamp in messages

        if not came(self.keypoints):
            return False
        epoch = self.keypoints[stamp].epoch
        if sum(m.epoch == epoch for m in tuple(self.keypoints.values())) >= WARMUP_FRAMES:
            came(self.forecasts)
        return True

    def drop(self, seconds: float) -> None:
        """Let stream time pass without images."""
        self.stamp_ns += round(seconds * NS)
        self.position += round(seconds * CAMERA_HZ)

    # -- what is good

    def good(self, stamp: int) -> bool:
        """Return whether the forecast of an image is there and good."""
        keypoints, forecast = self.keypoints.get(stamp), self.forecasts.get(stamp)
        return keypoints is not None and forecast is not None and not self.faulty(keypoints, forecast)

    def faulty(self, keypoints: GridKeypoints, forecast: KeypointForecast) -> str:
        """Return what is wrong with an image's keypoints and forecast, "" if they are good."""
        position = position_of(keypoints.header)
        points = np.array(keypoints.points).reshape(-1, 2)
        mean = np.array(forecast.mean).reshape(-1, forecast.num_keypoints, 2)
        if not all(np.isfinite(v).all() for v in (points, mean, forecast.covariance, forecast.points)):
            return "values that are not finite"
        wanted = self.undisturbed.keypoints[position]
        off = np.linalg.norm(points - wanted, axis=-1)
        # JPEG changes pixels, and with them the cell of a keypoint that is in doubt between two.
        if (self.transport == "raw" and off.max() > 0.01) or np.median(off) > CELL_PX:
            return f"keypoints up to {off.max():.1f} px from those of an undisturbed run"
        distance = np.linalg.norm(mean - self.undisturbed.forecasts[position], axis=-1).mean()
        if distance > FORECAST_PX:
            return f"a forecast {distance:.1f} px from that of an undisturbed run"
        return ""

    def recover(self, limit: int = ONE_SECOND) -> int:
        """Play good images until the forecast is good; return how many it took. Fails after `limit`."""
        for count in range(1, limit + 1):
            self.play_one()
            if self.good(self.stamp_ns):
                return count
        keypoints, forecast = self.keypoints.get(self.stamp_ns), self.forecasts.get(self.stamp_ns)
        why = "no keypoints" if keypoints is None else "no forecast" if forecast is None else self.faulty(
            keypoints, forecast)
        raise AssertionError(
            f"after {limit} good images there is still no good forecast ({why}); the node said last:\n"
            + "\n".join(self.node.lines[-12:])
        )

    @contextmanager
    def fault(
        self,
        title: str,
        *,
        new_epochs: int | tuple[int, int] = 0,
        same_process: bool = True,
        changes: Sequence[str] = (),
    ) -> Iterator[Fault]:
        """Do something to the node: before and after it forecasts are good, and what it should keep is the same.

        new_epochs: how many fresh starts are right (or from, to); changes: parameters that may be others afterwards.
        """
        self.failed = True  # until it is over
        self.begin()
        self.recover()
        self.play(3)
        before, pid, epoch = self.parameters(), self.node.pid, self.epoch()
        fault = Fault(title, self, len(self.node.lines), len(self.logs), len(self.diagnostics))
        yield fault
        assert self.node.alive, "the node ended:\n" + "\n".join(self.node.lines[-20:])
        begun_s = time.monotonic()
        frames = self.recover()
        wall_s = time.monotonic() - begun_s
        assert self.play(3) == 3, "good images after the recovery were not absorbed"
        assert self.state() == "active"
        after = self.parameters()
        for name in changes:
            before.pop(name), after.pop(name)
        assert after == before, "parameters changed"
        if same_process:
            assert self.node.pid == pid
            low, high = (new_epochs, new_epochs) if isinstance(new_epochs, int) else new_epochs
            assert low <= self.epoch() - epoch <= high, f"{self.epoch() - epoch} fresh starts, {new_epochs} are right"
        RESULTS.append(
            Result(title, tuple(fault.sentences), tuple(fault.levels), frames, frames / CAMERA_HZ, wall_s)
        )
        self.failed = False

    def epoch(self) -> int:
        """Return the epoch of the newest keypoints."""
        return next(reversed(self.keypoints.values())).epoch

    def close(self) -> None:
        self.node.close()
        self.executor.shutdown()
        self._thread.join(10.0)
        self.ros.destroy_node()
        rclpy.try_shutdown(context=self.context)


@dataclass
class Answer:
    """An answer that a service owes."""

    name: str
    future: Any
    read: Callable[[Any], Any] = lambda response: response

    def get(self, timeout_s: float = TIMEOUT_S) -> Any:
        """Wait for the answer; fail the test if there is none."""
        wait_for(self.future.done, f"the answer of {self.name}", timeout_s)
        return self.read(self.future.result())
