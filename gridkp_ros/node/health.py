"""How it goes: once a second on /diagnostics, a status for each aspect, in every state of the node."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType

from gridkp_ros.node.statistics import ERROR, OK, WARN
from gridkp_ros.node.transport import chosen_transport
from gridkp_ros.runtime.memory import PAGE_MB

if TYPE_CHECKING:
    from gridkp_ros.node.predictor_node import PredictorNode

PERIOD_S = 1.0


class Health:
    """Publishes a status each of input, forecast, model and node, and of space where both eyes are followed."""

    def __init__(self, node: PredictorNode) -> None:
        self._node = node
        self._memory = _Memory()
        self._cpu_s, self._looked_s = time.process_time(), time.monotonic()
        self._told: dict[str, tuple[int, str]] = {}  # the last verdict of each aspect
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # A steady clock: diagnostics go on when simulated time stands still.
        node.create_timer(PERIOD_S, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_timer(self) -> None:
        try:
            self._node.receiver.follow_publishers()
            statuses = [self._input(), self._forecast(), *self._space(), self._model(), self._process()]
            message = DiagnosticArray(status=statuses)
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._publisher.publish(message)
        except Exception as error:  # which would end the executor, and with it the forecasts
            if self._node.context.ok():
                self._node.report_failure(error)

    def _status(
        self, aspect: str, hardware_id: str, verdict: tuple[int, str], values: dict[str, str]
    ) -> DiagnosticStatus:
        level, sentence = verdict
        self._tell(aspect, level, sentence)
        return DiagnosticStatus(
            level=bytes([level]), name=f"{self._node.get_fully_qualified_name()}: {aspect}", message=sentence,
            hardware_id=hardware_id, values=[KeyValue(key=k, value=v) for k, v in values.items()],
        )

    def _tell(self, aspect: str, level: int, sentence: str) -> None:
        """Log a verdict when it changes: who reads the log alone learns of what lasts, and of its end."""
        # Numbers change every second, and are no news.
        now = level, "" if level == OK else re.sub(r"[0-9]+", "#", sentence)
        before, self._told[aspect] = self._told.get(aspect, (OK, "")), now
        if now == before:
            return
        if level == OK:
            self._node.log.info(f"{aspect} is well again: {sentence}")
        else:
            (self._node.log.error if level == ERROR else self._node.log.warning)(sentence)

    def _resting(self) -> tuple[int, str]:
        """Say that the node is not active, and why it is not if it was refused."""
        return (ERROR, self._node.refusal) if self._node.refusal else (OK, self._node.state)

    def _input(self) -> DiagnosticStatus:
        node, now_s = self._node, time.monotonic()
        receiver, statistics = node.receiver, node.statistics
        count, unheard = receiver.publishers()
        verdict = self._resting()
        if node.active:
            verdict = statistics.input_verdict(
                now_s, stale_after_s=node.settings.stale_after_s, topic=receiver.topic, clocks_apart=node.clocks_apart
            )
            level, sentence = verdict
            if unheard:
                verdict = (ERROR if len(unheard) == count else WARN), f"no image comes from {unheard[0]}"
            elif node.clock_stands_still:
                verdict = WARN, "use_sim_time is set, and nothing has come on /clock yet"
            elif statistics.last_image_s < 0 and count == 0 and (others := receiver.elsewhere()):
                verdict = level, f"{sentence}, which nobody publishes; there are images on {', '.join(others)}"
            elif count > 1 and level == OK:
                verdict = WARN, (
                    f"{count} publishers on {receiver.topic}: the images of one camera alone can be followed; end the "
                    "others, or remap image. One that was killed counts for 20 s more"
                )
        values = {
            "topic": receiver.topic,
            "reliability": receiver.reliability,
            "publishers": str(count),
            "incompatible_publishers": "; ".join(unheard),
            **statistics.input_values(now_s),
        }
        return self._status("input", node.frame_id, verdict, values)

    def _forecast(self) -> DiagnosticStatus:
        node, now_s = self._node, time.monotonic()
        statistics, predictor = node.statistics, node.predictor
        verdict = self._resting()
        values = statistics.values(now_s)
        if predictor is not None:
            period_s = predictor.manifest.period_s
            if node.active:
                verdict = statistics.verdict(
                    now_s, period_s=period_s, stale_after_s=node.settings.stale_after_s, topic=node.receiver.topic
                )
            values = {
                "provider": predictor.provider, "model": predictor.model_id, **values,
                "period_kept": statistics.period_kept(period_s),
            }
        return self._status("forecast", "" if predictor is None else predictor.model_id, verdict, values)

    def _space(self) -> list[DiagnosticStatus]:
        """Return a status where both eyes are followed, or somebody wants points in space in vain."""
        node = self._node
        if node.space is None or not (node.predictor.num_views == 2 or node.space.problem):
            return []
        *verdict, values = node.space.health()
        return [self._status("space", node.frame_id, tuple(verdict) if node.active else self._resting(), values)]

    def _model(self) -> DiagnosticStatus:
        node = self._node
        statistics, predictor = node.statistics, node.predictor
        if predictor is None:
            return self._status("model", "", self._resting(), {"parameter": node.settings.model})
        verdict = OK, f"{predictor.model_id} on {predictor.provider}"
        if node.loading:
            verdict = OK, f"{verdict[1]}; loading {node.loading}"
        elif node.load_failure:
            verdict = WARN, f"{verdict[1]} goes on: {node.load_failure}"
        trust = min(predictor.trust, key=lambda t: t.value)  # of two eyes, the worse one
        if statistics.ready and not node.loading and verdict[0] == OK and trust.doubt:
            verdict = WARN, trust.doubt
        manifest = predictor.manifest
        values = {
            "model": predictor.model_id,
            "family": manifest.family,
            "provider": predictor.provider,
            "variant": predictor.variant or "equal",
            "period_ms": f"{1e3 * manifest.period_s:.1f}",
            "trusted_steps": str(manifest.trusted_steps),
            "ready": str(statistics.ready).lower(),
            "epoch": str(statistics.epoch),
            "frames_since_start": str(statistics.frames_since_start),
            "trust": f"{trust.value:.2f}" if statistics.ready else "",
            "recent_error": f"{trust.recent_error:.2f}",
            "novelty": f"{trust.novelty:.2f}",
            "image_unchanged_s": f"{trust.unchanged_s:.1f}",
            "coasted": str(statistics.coasted),
            "last_start": statistics.start_reason,
            "loading": node.loading,
            "load_failure": node.load_failure,
        }
        return self._status("model", predictor.model_id, verdict, values)

    def _process(self) -> DiagnosticStatus:
        node = self._node
        cpu_s, now_s = time.process_time(), time.monotonic()
        cpu = 100 * (cpu_s - self._cpu_s) / max(now_s - self._looked_s, 1e-6)
        self._cpu_s, self._looked_s = cpu_s, now_s
        verdict = OK, node.state
        unheard = node.unheard_subscribers()
        if unheard:
            verdict = WARN, "; ".join(unheard)
        if node.unknown_parameters:
            verdict = WARN, "; ".join(node.unknown_parameters)
        namesakes = _namesakes(node)
        if namesakes > 1:
            verdict = WARN, (
                f"{namesakes} nodes are called {node.get_fully_qualified_name()}: what is asked of one may reach "
                "another; end one or rename it (-r __node:=...). One that was killed counts for 20 s more"
            )
        values = {
            "state": node.state,
            "cpu_percent": f"{cpu:.0f}",
            "rss_mb": f"{self._memory.resident_mb():.1f}",
            "executor": type(node.executor).__name__,
            "rmw": rclpy.get_rmw_implementation_identifier(),
            "dds_transport": chosen_transport() or "default",
            "unknown_parameters": "; ".join(node.unknown_parameters),
            "incompatible_subscribers": "; ".join(unheard),
        }
        return self._status("node", socket.gethostname(), verdict, values)


def _namesakes(node: PredictorNode) -> int:
    """Return how many nodes have this one's name, itself among them."""
    own = node.get_name(), node.get_namespace()
    return sum(other == own for other in node.get_node_names_and_namespaces())


class _Memory:
    """Memory of this process (Linux's /proc). Its file stays open: it is of use when no other can be opened."""

    def __init__(self) -> None:
        self._file = Path("/proc/self/statm").open("rb", buffering=0)  # noqa: SIM115

    def resident_mb(self) -> float:
        """Return the resident memory, 10^6 bytes."""
        self._file.seek(0)
        return int(self._file.read(200).split()[1]) * PAGE_MB
