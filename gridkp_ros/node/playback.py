"""Publishing recorded or rendered frames at their own pace, as a camera would."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from gridkp_ros.node.conversions import time_message
from gridkp_ros.node.running import Finished

Frame = TypeVar("Frame")
_LATE_S = 0.5
_MATCH_S = 0.5


class PlaybackError(ValueError):
    """A parameter of a node that publishes images cannot be used."""


def reliability_policy(reliability: str) -> ReliabilityPolicy:
    """Return what "reliable" or "best_effort" name. Raises PlaybackError for anything else."""
    if reliability not in ("reliable", "best_effort"):
        raise PlaybackError(f"reliability is {reliability[:40]!r}: use 'reliable' or 'best_effort'")
    return ReliabilityPolicy[reliability.upper()]


def camera_qos(reliability: str) -> QoSProfile:
    """Return the quality of service images are published with: "reliable" or "best_effort", a few kept."""
    return QoSProfile(depth=5, reliability=reliability_policy(reliability))


class Playback:
    """Publishes frames on a thread of its own, each when its time has come, until they end or `stop` is called.

    Without a clock topic frames are stamped with the time they are due by the node's clock, with it by their own times
    (shifted by first_stamp_ns), which `/clock` then carries. `/diagnostics` say how it goes; a playback that fails ends
    the process with status 1.
    """

    def __init__(
        self,
        node: Node,
        source: str,
        *,
        rate: float = 1.0,
        publish_clock: bool = False,
        first_stamp_ns: int = 0,
        exit_when_finished: bool = False,
        counts: Callable[[], dict[str, int]] = dict,
    ) -> None:
        """Prepare to play at rate times the recorded speed.

        source: what is played, for the diagnostics; counts: more numbers for them, asked for each time.
        """
        self.published = 0
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._node, self._source, self._counts = node, source, counts
        self._rate, self._first_stamp_ns, self._exit_when_finished = rate, first_stamp_ns, exit_when_finished
        self._diagnostics_pub = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._said_ended, self._ticks = False, 0
        node.create_timer(0.2, self._on_timer)
        self._clock_pub = node.create_publisher(Clock, "/clock", 10) if publish_clock else None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(
        self, frames: Iterable[tuple[int, Frame]], publish: Callable[[int, Frame], None], *, ready: Callable[[], bool]
    ) -> None:
        """Play (offset_ns, frame) pairs once ready() says so; publish(stamp_ns, frame) is called for each."""
        self._thread = threading.Thread(target=self._run, args=(frames, publish, ready), name="playback", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop playing and wait for the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(
        self, frames: Iterable[tuple[int, Frame]], publish: Callable[[int, Frame], None], ready: Callable[[], bool]
    ) -> None:
        try:
            while not ready():
                if self._stop.wait(0.05):
                    return
            # A subscriber knows of us a moment after we know of it; what is sent before is lost.
            if self._stop.wait(_MATCH_S):
                return
            self._play(frames, publish)
        except Exception as error:  # of the recording or the renderer: the executor's thread says it, and ends
            if self._node.context.ok():  # else interrupted: the publishers went away in the middle of a frame
                self._failure = error
        finally:
            self._ended.set()

    def _play(self, frames: Iterable[tuple[int, Frame]], publish: Callable[[int, Frame], None]) -> None:
        start_s, start_ns, first_ns, last_ns = 0.0, 0, 0, 0
        for offset_ns, frame in frames:
            if not self.published or offset_ns < last_ns:
                if self.published:
                    self._node.get_logger().warning(
                        f"{self._source}: the stamps jump back by {(last_ns - offset_ns) * 1e-9:.3f} s, and it goes on "
                        "from there", throttle_duration_sec=5.0,
                    )  # fmt: skip
                start_s, first_ns = time.monotonic(), offset_ns
                start_ns = self._node.get_clock().now().nanoseconds
            last_ns = offset_ns
            elapsed_ns = round((offset_ns - first_ns) / self._rate)
            late_s = time.monotonic() - start_s - elapsed_ns * 1e-9
            if self._stop.wait(max(0.0, -late_s)):
                return
            if late_s > _LATE_S:
                self._node.get_logger().warning(
                    f"{late_s:.1f} s behind: this machine is too slow for the rate", throttle_duration_sec=5.0
                )
            stamp_ns = start_ns + elapsed_ns
            if self._clock_pub is not None:
                stamp_ns = self._first_stamp_ns + offset_ns
                self._clock_pub.publish(Clock(clock=time_message(stamp_ns)))
            publish(stamp_ns, frame)
            self.published += 1

    def _on_timer(self) -> None:
        """Publish diagnostics once a second, and at once when the last frame is out."""
        self._ticks += 1
        ended = self._ended.is_set()
        if ended and not self._said_ended:
            self._log_end()
        elif self._ticks % 5:
            return
        failed = ended and self._failure is not None
        finished = ended and not failed
        status = DiagnosticStatus(name=f"{self._node.get_fully_qualified_name()}: camera", hardware_id=self._source)
        status.level = DiagnosticStatus.ERROR if failed else DiagnosticStatus.OK
        state = "finished" if finished else "playing" if self.published else "waiting"
        status.message = f"failed: {self._failure}" if failed else state
        values = {"published": self.published, **self._counts(), "finished": finished, "failed": failed}
        status.values = [KeyValue(key=name, value=str(value).lower()) for name, value in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._diagnostics_pub.publish(message)
        if self._said_ended and (failed or self._exit_when_finished):
            raise Finished(1 if failed else 0)
        self._said_ended = ended

    def _log_end(self) -> None:
        counts = "".join(f", {count} {name}" for name, count in self._counts().items())
        log = self._node.get_logger()
        if self._failure is None:
            log.info(f"finished after {self.published} frames{counts}")
        else:
            log.error(f"playing stops after {self.published} frames{counts}: {self._failure}")
