"""A self-contained HTML report out of metrics: verdicts in plain words, curves, tables with intervals, pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from gridkp_ros.evaluation.scoring import STEP_S

FILM_EMBED_BYTES = 12_000_000  # a larger film is linked: browsers are slow with such data URIs

_ENOUGH_BLOCKS = 10  # below, percentile intervals cover clearly less than they say

METHOD_NAMES = {
    "model": "model",
    "stays_put": "stays put",
    "constant_velocity": "constant velocity",
    "last_frame": "last frame",
}
METHOD_COLORS = {
    "model": "#c2410c",
    "stays_put": "#475569",
    "constant_velocity": "#0e7490",
    "last_frame": "#475569",
}


@dataclass(frozen=True)
class MetricText:
    """How a metric is written: heading, unit, decimals, and what the model is called in a verdict on it."""

    heading: str
    unit: str
    decimals: int
    subject: str


METRIC_TEXTS = {
    "keypoint_error_px": MetricText("Keypoint error", "px", 2, "predicted keypoints"),
    "keypoint_error_cells": MetricText("Keypoint error in cells of a 64x64 grid", "cells", 3, "predicted keypoints"),
    "tip_error_px": MetricText("Instrument tip error against ground truth", "px", 2, "predicted instrument tips"),
    "psnr": MetricText("PSNR of predicted frames", "dB", 2, "predicted frames (PSNR)"),
    "ssim": MetricText("SSIM of predicted frames", "", 4, "predicted frames (SSIM)"),
    "coverage90": MetricText("Keypoints inside their 90 % ellipse", "", 3, ""),
    "tip_coverage90": MetricText("Tips inside their 90 % ellipse", "", 3, ""),
}
_SERIES = ("mean", "low", "high")
_VERDICT_METRICS = ("keypoint_error_px", "tip_error_px", "psnr", "ssim")


@dataclass(frozen=True)
class Table:
    """A table for the report: every cell is shown as it is."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_report(
    out_dir: str | Path,
    metrics: dict,
    *,
    title: str,
    film: Path | None = None,
    strip: Path | None = None,
    notes: Sequence[str] = (),
    tables: Sequence[Table] = (),
) -> Path:
    """Write `report.html` into a folder, with everything in the one file (a film over 12 MB is linked instead).

    Args:
        out_dir: an existing folder.
        metrics: a `ForecastScorer.result()`, with `frames`, `source` and `model` where they are known.
        title: of the page.
        film, strip: files a `Storyboard` wrote.
        notes: sentences shown below the verdicts.
        tables: further tables, shown before those of the metrics.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        resources.files("gridkp_ros.evaluation").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    )
    page = template.render(
        title=title,
        metrics=metrics,
        verdicts=verdict_sentences(metrics),
        notes=[*metrics.get("source", {}).get("notes", []), *notes, *_few_blocks(metrics)],
        tables=[*tables, *metric_tables(metrics)],
        curves=[(METRIC_TEXTS[m].heading, curve_svg(metrics["curves"], m)) for m in _plotted(metrics)],
        strip=_data_uri(strip, "image/png") if strip else None,
        film=_film_source(film),
        unscored=_unscored_rows(metrics),
    )
    path = Path(out_dir) / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def verdict_sentences(metrics: dict) -> list[tuple[str, str]]:
    """Say at each reported step whether the model beats the baselines: (verdict, sentence) pairs.

    A sentence for each step and metric; its verdict is that against the plainest baseline ("stays put", "last frame"),
    taken from the interval of the difference on the same forecasts.
    """
    sentences = []
    for step, by_metric in _by_step(metrics["comparisons"]):
        when = f"At {step} steps ({int(step) * STEP_S:.2f} s)"
        if not by_metric:
            sentences.append(("too short to say", f"{when} nothing could be scored."))
        for metric in _VERDICT_METRICS:
            compared = by_metric.get(metric, {})
            ordered = [b for b in METHOD_NAMES if b in compared and b in ("stays_put", "last_frame")]
            ordered += [b for b in METHOD_NAMES if b in compared and b not in ordered]
            if ordered:
                clauses = [_clause(metric, baseline, compared[baseline]) for baseline in ordered]
                text = f"{when} {METRIC_TEXTS[metric].subject} are {', and '.join(clauses)}."
                sentences.append((compared[ordered[0]]["verdict"], text))
    return sentences


def _clause(metric: str, baseline: str, compared: dict) -> str:
    text = METRIC_TEXTS[metric]
    number = f"{compared['mean']:+.{text.decimals}f}"
    if compared["low"] is not None:
        number += f" [{compared['low']:+.{text.decimals}f}, {compared['high']:+.{text.decimals}f}]"
    words = {
        "better": "better than",
        "worse": "worse than",
        "not distinguishable": "neither better nor worse than",
        "too short to say": "not comparable, in so short a recording, with",
    }
    unit = f" {text.unit}" if text.unit else ""
    return f"{words[compared['verdict']]} “{METHOD_NAMES[baseline]}” ({number}{unit})"


def _by_step(by_step: dict) -> list[tuple[str, dict]]:
    return sorted(by_step.items(), key=lambda item: int(item[0]))


def metric_tables(metrics: dict) -> list[Table]:
    """Return one table for each metric: a row for each method, a column for each reported step."""
    horizons = _by_step(metrics["horizons"])
    tables = []
    for metric, text in METRIC_TEXTS.items():
        if not horizons or metric not in horizons[0][1]:
            continue
        heading = text.heading + (f" [{text.unit}]" if text.unit else "")
        header = ("method", *(f"{step} steps, {int(step) * STEP_S:.2f} s" for step, _ in horizons))
        rows = tuple(
            (METHOD_NAMES[method], *(format_interval(values[metric][method], text.decimals) for _, values in horizons))
            for method in METHOD_NAMES
            if method in horizons[0][1][metric]
        )
        tables.append(Table(heading, header, rows))
    for name, by_step in metrics.get("named_points", {}).items():
        steps = sorted(by_step, key=int)
        rows = tuple(
            (METHOD_NAMES[method], *(format_interval(by_step[step][method], 2) for step in steps))
            for method in METHOD_NAMES
            if method in by_step[steps[0]]
        )
        tables.append(
            Table(f"{name}: error [px]", ("method", *(f"{s} steps, {int(s) * STEP_S:.2f} s" for s in steps)), rows)
        )
    return tables


def format_interval(interval: dict, decimals: int) -> str:
    """Write a mean with its interval: "1.23 [1.10, 1.40]"; "-" where nothing was scored."""
    if interval["mean"] is None:
        return "-"
    mean = f"{interval['mean']:.{decimals}f}"
    if interval["low"] is None:
        return mean
    return f"{mean} [{interval['low']:.{decimals}f}, {interval['high']:.{decimals}f}]"


def curve_svg(curves: dict, metric: str) -> str:
    """Plot a metric over the forecast's time as SVG: a line for each method, its 95 % interval shaded."""
    import matplotlib
    from matplotlib.figure import Figure

    text = METRIC_TEXTS[metric]
    style = {"svg.fonttype": "none", "svg.hashsalt": metric, "font.family": "sans-serif", "font.size": 10}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        axes = figure.subplots()
        times_s = [step * curves["step_s"] for step in curves["steps"]]
        for method in [m for m in METHOD_NAMES if m in curves[metric]]:
            series, color = curves[metric][method], METHOD_COLORS[method]
            known = [i for i, mean in enumerate(series["mean"]) if mean is not None]  # frames: at some steps only
            t, mean, low, high = ([_number(v[i]) for i in known] for v in (times_s, *map(series.get, _SERIES)))
            marker = "o" if len(known) < 8 else None
            axes.plot(t, mean, color=color, lw=1.8, marker=marker, ms=4, label=METHOD_NAMES[method])
            axes.fill_between(t, low, high, color=color, alpha=0.15, lw=0)
        if metric.endswith("coverage90"):
            axes.axhline(0.9, color="#94a3b8", lw=1, ls="--", label="wanted: 0.9")
            axes.set_ylim(0, 1.02)
        elif metric.endswith("_px") or metric.endswith("_cells"):
            axes.set_ylim(bottom=0)
        axes.set_xlabel("time ahead [s]")
        axes.set_ylabel(f"[{text.unit}]" if text.unit else "")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, lw=0.6)
        axes.legend(frameon=False, fontsize=9)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _plotted(metrics: dict) -> list[str]:
    curves = metrics["curves"]
    order = ("keypoint_error_px", "tip_error_px", "psnr", "ssim", "coverage90", "tip_coverage90")
    return [m for m in order if m in curves and any(v is not None for v in curves[m]["model"]["mean"])]


def _few_blocks(metrics: dict) -> list[str]:
    interval = metrics["definitions"]["interval"]
    if interval["blocks"] >= _ENOUGH_BLOCKS:
        return []
    return [
        f"The recording has only {interval['blocks']} stretches of {interval['block_s']:g} s: "
        "intervals from so few are too narrow, and verdicts a hint."
    ]


def _unscored_rows(metrics: dict) -> list[tuple[str, str, str, int]]:
    rows = []
    for what, key in (("keypoints", "unscored"), ("frames", "unscored_frames")):
        for step, reasons in _by_step(metrics.get(key, {})):
            rows.extend((step, what, reason, count) for reason, count in reasons.items())
    return rows


def _data_uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _film_source(film: Path | None) -> str | None:
    if film is None:
        return None
    return _data_uri(film, "video/mp4") if film.stat().st_size <= FILM_EMBED_BYTES else film.name
