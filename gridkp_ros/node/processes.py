"""Nodes as processes: started as a user starts them, watched from outside, and stopped in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gridkp_ros.runtime.memory import PAGE_MB

_STOP_TIMEOUT_S = 60.0
_LOG_LINES = 15
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ProcessError(RuntimeError):
    """A process ended, or did not do what it was started for; the message says where its log is."""


@dataclass(frozen=True)
class Usage:
    """What a process holds: cpu_s seconds of all cores since its start, rss_mb resident (10^6 bytes), threads."""

    cpu_s: float
    rss_mb: float
    threads: int


class NodeProcess:
    """A module of gridkp_ros.node in a process of its own, with its output in a file."""

    def __init__(
        self,
        module: str,
        log: Path,
        *,
        parameters: Mapping[str, Any] | None = None,
        remap: Sequence[str] = (),
        arguments: Sequence[str] = (),
    ) -> None:
        """Start it with ROS parameters and remappings, or with arguments of its own where it is no node."""
        command = [sys.executable, "-m", f"gridkp_ros.node.{module}", *arguments]
        if parameters or remap:
            command.append("--ros-args")
        for name, value in (parameters or {}).items():
            command += ["-p", f"{name}:={json.dumps(value)}"]
        for rule in remap:
            command += ["-r", rule]
        self.name, self.log = module, log
        self._file = log.open("w")
        # A session of its own: Ctrl-C reaches the process that started it alone, which then stops the others in order.
        # Not in a checkout, whose gridkp_ros has no messages.
        self._child = subprocess.Popen(
            command, stdout=self._file, stderr=subprocess.STDOUT, start_new_session=True, cwd=log.parent
        )

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._child.pid

    def check(self) -> None:
        """Raise ProcessError if it has ended."""
        code = self._child.poll()
        if code is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
            raise ProcessError(f"{self.name} ended with code {code}; {self.log} says:\n{tail}")

    def usage(self) -> Usage:
        """Return what it holds now (Linux's /proc); ProcessError if it has ended."""
        self.check()
        # The second field, a name in brackets, may hold spaces.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return Usage(
            cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S, rss_mb=int(fields[21]) * PAGE_MB,
            threads=int(fields[17]),
        )

    def stop(self) -> None:
        """Interrupt it as Ctrl-C would, and wait."""
        try:
            if self._child.poll() is None:
                self._child.send_signal(signal.SIGINT)
                self._child.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
            raise ProcessError(f"{self.name} did not stop within {_STOP_TIMEOUT_S:.0f} s; see {self.log}") from None
        finally:
            self._file.close()
