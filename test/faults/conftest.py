"""Fixtures of the fault harness, and its table of results."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from gridkp_ros.node.resources import find_model

from .clip import Clip, Undisturbed
from .harness import RESULTS, Theatre

MakeTheatre = Callable[..., Theatre]
_ROOT = Path(__file__).resolve().parents[2]


class Domains:
    """Hands out ROS domain ids, so that no two nodes that run at a time hear each other."""

    def __init__(self) -> None:
        self.first = int(os.environ.get("ROS_DOMAIN_ID") or random.SystemRandom().randrange(1, 80))
        self.given = 0

    def next(self) -> int:
        """For a node that ends with its test; the first two belong to those that last."""
        self.given += 1
        return self.first + 2 + self.given % 18


@pytest.fixture(scope="session")
def domains() -> Domains:
    return Domains()


@pytest.fixture(scope="session")
def clip() -> Clip:
    return Clip()


@pytest.fixture(scope="session")
def undisturbed(clip: Clip) -> Undisturbed:
    return Undisturbed.run(clip, find_model(""))


@pytest.fixture(scope="session")
def _shared(clip: Clip, undisturbed: Undisturbed, domains: Domains) -> Iterator[dict[str, Theatre]]:
    theatres: dict[str, Theatre] = {}
    yield theatres
    for theatre in theatres.values():
        theatre.close()


@pytest.fixture
def theatre(_shared: dict[str, Theatre], clip: Clip, undisturbed: Undisturbed, domains: Domains) -> Theatre:
    """The node that one fault after the other is done to: the same process as long as it gets over them."""
    return lasting(_shared, "raw", lambda: Theatre(clip, undisturbed, domains.first))


@pytest.fixture
def compressed_theatre(
    _shared: dict[str, Theatre], clip: Clip, undisturbed: Undisturbed, domains: Domains
) -> Theatre:
    """The same for a node that listens to compressed images."""
    return lasting(
        _shared, "compressed", lambda: Theatre(clip, undisturbed, domains.first + 1, transport="compressed")
    )


def lasting(shared: dict[str, Theatre], name: str, make: Callable[[], Theatre]) -> Theatre:
    """Return the shared theatre of a name; a new one where there is none, or a fault has spoilt it for the others."""
    theatre = shared.get(name)
    if theatre is not None and (theatre.failed or not theatre.node.alive):
        shared.pop(name).close()
        theatre = None
    if theatre is None:
        theatre = shared[name] = make()
    return theatre


@pytest.fixture
def make_theatre(clip: Clip, undisturbed: Undisturbed, domains: Domains) -> Iterator[MakeTheatre]:
    """Nodes of the test's own, which it may end."""
    made: list[Theatre] = []

    def make(**options: object) -> Theatre:
        made.append(Theatre(clip, undisturbed, domains.next(), **options))
        return made[-1]

    yield make
    for theatre in made:
        theatre.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, and write it to out/faults/."""
    if not RESULTS:
        return
    out = _ROOT / "out" / "faults"
    out.mkdir(parents=True, exist_ok=True)
    (out / "faults.json").write_text(json.dumps([asdict(r) for r in RESULTS], indent=1) + "\n")
    lines = ["| fault | good again after | the node said | diagnostics |", "|---|---|---|---|"]
    for r in RESULTS:
        said = "; ".join(s.replace("|", "\\|")[:160] for s in r.said) or "nothing (nothing was wrong)"
        lines.append(
            f"| {r.fault} | {r.frames} images, {r.stream_s:.2f} s | {said} | {', '.join(r.diagnostics) or 'OK'} |"
        )
    (out / "faults.md").write_text("\n".join(lines) + "\n")
    terminalreporter.section("faults")
    for r in RESULTS:
        terminalreporter.write_line(f"{r.frames:3d} images {r.wall_s:5.1f} s  {r.fault}")
    terminalreporter.write_line(f"written to {out}")
