"""What a run has come to: summary.json in its folder, and a table for people."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gridkp_ros.training.storage import replacing

SUMMARY, DATA = "summary.json", "data.json"
ORDER = ("stage1", "synthesis", "motion", "stage2")


def keep_data(run: Path, facts: Mapping[str, Any]) -> None:
    """Keep how much a run learns from, and what of its data cannot be read."""
    with replacing(run / DATA, "facts on the data") as part:
        part.write_text(json.dumps(facts, indent=1) + "\n")


def read_parts(run: Path) -> dict[str, dict[str, Any]]:
    """Summaries of the parts that are finished, in the order in which they are trained."""
    found = {}
    for name in ORDER:
        path = run / f"{name}.json"
        if path.is_file() and (summary := json.loads(path.read_text()).get("summary")) is not None:
            found[name] = summary
    return found


def next_command(run: Path, parts: Mapping[str, Any], bundle: Path | None) -> str:
    """The command that a user is likely to need next."""
    if bundle is not None:
        return f"gridkp replay YOUR_VIDEO --model {shlex.quote(str(bundle))} --out out/replay"
    if "stage2" in parts and (run / "checkpoint").is_dir():
        return shlex.join(["gridkp", "export", str(run / "checkpoint"), str(run / "bundle")])
    return f"the same gridkp train command with --resume, without --only (out: {run})"


def conclude(run: Path, bundle: Path | None = None, console: Console | None = None) -> dict[str, Any]:
    """Write summary.json into a run's folder, and show it on `console` where one is given; returns it.

    bundle: the folder it was exported to, None where it was not yet.
    """
    parts = read_parts(run)
    minutes = sum(p["minutes"] for p in parts.values())
    summary = {
        "run": str(run),
        "data": json.loads((run / DATA).read_text()) if (run / DATA).is_file() else None,
        "parts": parts,
        "minutes": minutes,
        "checkpoint": str(run / "checkpoint") if (run / "checkpoint").is_dir() else None,
        "bundle": str(bundle) if bundle else None,
        "tensorboard": shlex.join(["tensorboard", "--logdir", str(run / "tensorboard")]),
        "next": next_command(run, parts, bundle),
    }
    with replacing(run / SUMMARY, "the summary") as part:
        part.write_text(json.dumps(summary, indent=1) + "\n")
    if console is not None:
        show(summary, console)
    return summary


def show(summary: Mapping[str, Any], console: Console) -> None:
    """Print a table with a column for each part, and what a user has to know beside it."""
    table = Table(title=f"{summary['run']}: {summary['minutes']:.1f} minutes of training", title_justify="left")
    parts, notes = summary["parts"], []
    table.add_column("")
    for name in parts:
        table.add_column(name, justify="right")
    rows = {
        "steps": lambda p: str(p["steps"]),
        "minutes": lambda p: f"{p['minutes']:.1f}",
        "clips a second": lambda p: _number(p["clips_per_s"]),
        "waiting for data": lambda p: f"{p['data_wait_share']:.0%}",
        "peak memory": lambda p: f"{p['peak_memory_gib']:.1f} GiB",
        "best": lambda p: f"{p['monitor']} {_number(p['best']['figures'][p['monitor']])}" if p["best"] else "-",
        "at step": lambda p: str(p["best"]["step"]) if p["best"] else "-",
        "last": lambda p: f"{p['monitor']} {_number(p['last'].get(p['monitor']))}",
        "weights kept": lambda p: p["kept"],
    }
    for title, cell in rows.items():
        table.add_row(title, *map(cell, parts.values()))
    for name, part in parts.items():
        others = ", ".join(f"{key} {_number(value)}" for key, value in part["last"].items() if key != part["monitor"])
        if others:
            notes.append(f"{name}, last validation: {others}")
        if part["stopped"]:
            notes.append(f"{name} stopped early: {part['stopped']}")
        if part["data_wait_share"] > 0.1:
            notes.append(f"{name} waits for data: raise data.workers, or prepare the data first (gridkp data prepare)")
        if part["unreadable_clips"]:
            named = "; ".join(part["unreadable"][:3])
            notes.append(f"{name}: {part['unreadable_clips']} clips were unreadable and replaced: {named}")
    for what, why in list(((summary["data"] or {}).get("unreadable") or {}).items())[:10]:
        notes.append(f"unreadable and left out: {what}: {why}")
    console.print(table)
    if summary["bundle"]:
        notes.append(f"bundle: {summary['bundle']}")
    notes += [f"curves and film strips: {summary['tensorboard']}", f"next: {summary['next']}"]
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
