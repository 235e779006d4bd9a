"""A self-contained HTML report out of metrics: verdicts in plain words, curves, tables with intervals, pictures.

The page is written from the keys that `metrics.json` has: a metric or a method that is new to it is shown under its own
name, one that is absent is left out. All of its styles, scripts, pictures and films lie in the one file.
"""

from __future__ import annotations

import base64
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from gridkp_ros import __version__
from gridkp_ros.evaluation.metrics import HIGHER_IS_BETTER
from gridkp_ros.evaluation.scoring import STEP_S
from gridkp_ros.evaluation.storyboard import Story
from gridkp_ros.provenance import git_commit

_FAR = 2.0  # times the model's greatest error
_ENOUGH_BLOCKS = 10  # below, percentile intervals cover clearly less than they say

METHOD_NAMES = {
    "model": "model",
    "stays_put": "stays put",
    "last_frame": "last frame",
    "constant_velocity": "constant velocity",
    "kalman": "Kalman filter",
    "linear_ar": "linear autoregression",
}
DOING_NOTHING = ("stays_put", "last_frame")


@dataclass(frozen=True)
class MetricText:
    """How a metric is written: heading, unit, decimals; for the first screen also what it judges, in words."""

    heading: str
    unit: str
    decimals: int
    subject: str = ""
    short: str = ""


METRIC_TEXTS = {
    "keypoint_error_px": MetricText("Keypoint error", "px", 2, "Where the keypoints will be", "Keypoints"),
    "keypoint_error_cells": MetricText("Keypoint error in cells of a 64x64 grid", "cells", 3),
    "tip_error_px": MetricText(
        "Instrument tip error against ground truth", "px", 2, "Where the instrument tips will be", "Instrument tips"
    ),
    "psnr": MetricText("PSNR of predicted frames", "dB", 2, "What the camera will see", "Predicted frames (PSNR)"),
    "ssim": MetricText("SSIM of predicted frames", "", 4, "What the camera will see", "Predicted frames (SSIM)"),
    "ssim_gaussian": MetricText("SSIM, Gaussian window, of predicted frames", "", 4),
    "psnr_joint": MetricText("PSNR, error over all channels, of predicted frames", "dB", 2),
    "lpips": MetricText("LPIPS of predicted frames", "", 4),
    "vgg_cosine": MetricText("VGG cosine similarity of predicted frames", "", 4),
    "fvd": MetricText("FVD of predicted clips", "", 1),
    "energy_score_cells": MetricText("Energy score of the sampled keypoints", "cells", 3),
}
_UNITS = {"_px": "px", "_cells": "cells", "_db": "dB", "_s": "s", "_hz": "Hz", "_ms": "ms"}
_COVERAGE = re.compile(r"^(.*?)_?coverage(\d+)$")
_COVERED = {"": "Keypoints", "tip": "Instrument tips"}

VERDICT_WORDS = {
    "better": "better",
    "worse": "worse",
    "not distinguishable": "no clear difference",
    "too short to say": "too short to say",
}
VERDICT_SYMBOLS = {
    "better": "▲", "worse": "▼", "not distinguishable": "=", "too short to say": "?",
    "consistent": "✓", "too sure": "▼", "too cautious": "△",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, a small line below it, and the verdict that colours it ("" for none)."""

    text: str
    note: str = ""
    verdict: str = ""
    of: str = ""  # "metric/method/step", for whoever looks a figure up in the page

    @property
    def symbol(self) -> str:
        return VERDICT_SYMBOLS.get(self.verdict, "")


@dataclass(frozen=True)
class Table:
    """A table for the report: every cell is shown as it is."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Made:
    """How a page came about: the command, the version of the package and the commit of its source tree."""

    command: str = field(default_factory=lambda: shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    version: str = __version__
    commit: str = field(default_factory=git_commit)


def write_report(
    out_dir: str | Path,
    metrics: Mapping[str, Any],
    *,
    title: str,
    story: Story | None = None,
    notes: Sequence[str] = (),
    tables: Sequence[Table] = (),
    made: Made | None = None,
) -> Path:
    """Write `report.html` into a folder, with everything in the one file.

    Args:
        out_dir: an existing folder.
        metrics: a `ForecastScorer.result()`, with `frames`, `source` and `model` where they are known.
        title: of the page.
        story: what a `Storyboard` made.
        notes: sentences shown below the verdicts.
        tables: further tables, shown before those of the metrics.
        made: command, version and commit; by default those of this process.
    """
    story = story or Story()
    return write_page(
        Path(out_dir) / "report.html",
        title=title,
        lead=_lead(metrics),
        notes=[*metrics.get("source", {}).get("notes", []), *notes, *story.notes, *_few_blocks(metrics)],
        tables=[*tables, *metric_tables(metrics)],
        made=made,
        metrics=metrics,
        scoreboard=scoreboard(metrics),
        sentences=verdict_sentences(metrics),
        charts=charts(metrics),
        calibration=calibration_charts(metrics),
        story=story,
        interval=metrics["definitions"]["interval"],
        unscored=unscored_table(metrics),
        definitions=_definitions(metrics),
    )


def write_page(
    path: Path,
    *,
    title: str,
    lead: Sequence[str] = (),
    notes: Sequence[str] = (),
    tables: Sequence[Table] = (),
    made: Made | None = None,
    **sections: Any,
) -> Path:
    """Write one self-contained page: title, leading sentences, notes, tables and how it was made.

    `sections` are those that only the report of a recording has (see `write_report` and templates/report.html.j2).
    """
    import jinja2

    templates = resources.files("gridkp_ros.evaluation").joinpath("templates")
    environment = jinja2.Environment(
        autoescape=lambda name: name.endswith(".j2"), trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: templates.joinpath(name).read_text(encoding="utf-8")),
    )  # fmt: skip
    environment.filters |= {"data_uri": data_uri, "fact": _fact, "label": _label}
    page = environment.get_template("report.html.j2").render(
        title=title, lead=lead, notes=notes, tables=tables, made=made or Made(), **sections
    )
    path.write_text(page, encoding="utf-8")
    return path


def data_uri(content: bytes, kind: str) -> str:
    """Return a file's bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _label(key: str) -> str:
    """Write a key of metrics.json for people, its unit in brackets."""
    suffix = next((s for s in _UNITS if key.endswith(s)), "")
    return key.removesuffix(suffix).replace("_", " ") + (f" [{_UNITS[suffix]}]" if suffix else "")


def _fact(value: Any) -> str:
    """Write a value out of metrics.json for people."""
    if isinstance(value, Mapping):
        return "; ".join(f"{_label(key)}: {_fact(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return " × ".join(map(_fact, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ---- words


def metric_text(metric: str) -> MetricText:
    """Return how a metric is written; one that is not known, under its own name, with the unit its name ends in."""
    if metric in METRIC_TEXTS:
        return METRIC_TEXTS[metric]
    covered = _COVERAGE.match(metric)
    if covered:
        what, share = covered.groups()
        return MetricText(f"{_COVERED.get(what, _plain(what))} inside their {share} % ellipse, as a share", "", 3)
    suffix = next((s for s in _UNITS if metric.endswith(s)), "")
    return MetricText(_plain(metric.removesuffix(suffix)), _UNITS.get(suffix, ""), 4)


def method_name(method: str) -> str:
    """Return what a method is called in sentences and tables."""
    return METHOD_NAMES.get(method, method.replace("_", " "))


def _plain(name: str) -> str:
    return (name[:1].upper() + name[1:]).replace("_", " ")


def _better(metric: str) -> str:
    return "higher is better" if metric in HIGHER_IS_BETTER else "lower is better"


def _ordered(names: Sequence[str], first: Sequence[str]) -> list[str]:
    return [n for n in first if n in names] + [n for n in names if n not in first]


def _times(steps: Sequence[str]) -> list[str]:
    return [f"{int(step) * STEP_S:.2f} s" for step in steps]


def _header(steps: Sequence[str]) -> tuple[str, ...]:
    return ("method", *(f"{time} ({step} steps)" for step, time in zip(steps, _times(steps), strict=True)))


def _steps(by_step: Mapping[str, Any]) -> list[str]:
    return sorted(by_step, key=int)


def format_interval(interval: Any, decimals: int) -> str:
    """Write a mean with its interval: "1.23 [1.10, 1.40]"; a reason as it is; "not scored" where there is nothing."""
    if isinstance(interval, str):
        return interval
    if not isinstance(interval, Mapping):
        return "not scored" if interval is None else f"{interval:.{decimals}f}"
    if interval.get("mean") is None:
        return next((str(interval[key]) for key in ("reason", "note") if interval.get(key)), "not scored")
    mean = f"{interval['mean']:.{decimals}f}"
    if interval.get("low") is None:
        return mean
    return f"{mean} [{interval['low']:.{decimals}f}, {interval['high']:.{decimals}f}]"


def _difference(compared: Mapping[str, Any], text: MetricText) -> str:
    mean, low, high = (
        None if compared[key] is None else f"{compared[key]:+.{text.decimals}f}" for key in ("mean", "low", "high")
    )
    interval = "" if low is None else f" [{low}, {high}]"
    return f"{mean}{interval} {text.unit}".rstrip().replace("-", "−")


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _lead(metrics: Mapping[str, Any]) -> list[str]:
    model, steps = metrics.get("model", {}), _steps(metrics["horizons"])
    reach = f"up to {_times(steps)[-1]} ahead" if steps else "ahead"
    points = f"{model['num_keypoints']} keypoints" if "num_keypoints" in model else "the keypoints"
    return [
        f"At {metrics['forecasts_scored']} moments of the recording the model {model.get('id', '')} forecast, {reach}, "
        f"where {points} will be and what the camera will see; each forecast was then compared with what came. "
        "It must beat doing nothing: keypoints that stay put, a picture that stays the last frame.",
    ]


def _few_blocks(metrics: Mapping[str, Any]) -> list[str]:
    interval = metrics["definitions"]["interval"]
    if interval["blocks"] >= _ENOUGH_BLOCKS:
        return []
    return [
        f"The recording has only {interval['blocks']} stretches of {interval['block_s']:g} s: "
        "intervals from so few are too narrow, and verdicts a hint."
    ]


# ---- the first screen


@dataclass(frozen=True)
class ScoreRow:
    """A line of the first screen: what is judged, by which measure, and a cell for each reported step."""

    subject: str
    measure: str
    short: str  # in sentences
    cells: tuple[Cell, ...]
    baseline: str = ""


def scoreboard(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first screen's table: `times` of the reported steps, and `rows`.

    A row for each measure with a plain baseline (nothing moves), and one for the 90 % ellipses. A verdict on the model
    is that of the interval of the difference on the same forecasts.
    """
    steps = _steps(metrics["horizons"])
    rows = []
    for metric, text in METRIC_TEXTS.items():
        compared = [metrics["comparisons"].get(step, {}).get(metric, {}) for step in steps]
        baseline = next((b for b in DOING_NOTHING if any(b in c for c in compared)), None)
        if text.subject and baseline:
            cells = tuple(_score(metrics, metric, baseline, step) for step in steps)
            measure = f"{text.heading}{f', {text.unit}' if text.unit else ''}; {_better(metric)}"
            rows.append(ScoreRow(text.subject, measure, text.short, cells, method_name(baseline)))
    for metric in next(iter(metrics["horizons"].values()), {}):
        if _COVERAGE.match(metric) and metric.endswith("coverage90"):
            what = _COVERED.get(_COVERAGE.match(metric)[1], metric)
            intervals = [metrics["horizons"][step][metric]["model"] for step in steps]
            if any(i["mean"] is not None for i in intervals):
                cells = tuple(_covered(i, 0.9) for i in intervals)
                measure = f"{what} inside the forecast's 90 % ellipse; 90 % is right"
                rows.append(ScoreRow("How sure it is", measure, f"90 % ellipses, {what.lower()}", cells))
    return {"times": _times(steps), "rows": rows}


def _score(metrics: Mapping[str, Any], metric: str, baseline: str, step: str) -> Cell:
    compared = metrics["comparisons"].get(step, {}).get(metric, {}).get(baseline)
    if compared is None:
        return Cell("not scored")
    text, values = metric_text(metric), metrics["horizons"][step][metric]
    means = [f"{values[method]['mean']:.{text.decimals}f}" for method in ("model", baseline)]
    note = f"{means[0]} instead of {means[1]} {text.unit}".rstrip() + f"\n{_difference(compared, text)}"
    return Cell(VERDICT_WORDS[compared["verdict"]], note, compared["verdict"])


def _covered(interval: Mapping[str, Any], nominal: float) -> Cell:
    if interval["mean"] is None:
        return Cell("not scored")
    percent = f"{100 * interval['mean']:.0f} %"
    if interval["low"] is None:
        return Cell(percent, "too short for an interval", "too short to say")
    note = f"{percent} [{100 * interval['low']:.0f}, {100 * interval['high']:.0f}]"
    if interval["high"] < nominal:
        return Cell("too sure", note, "too sure")
    if interval["low"] > nominal:
        return Cell("too cautious", note, "too cautious")
    return Cell(f"in line with {100 * nominal:.0f} %", note, "consistent")


def verdict_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Say for each measure at which times the model beats doing nothing."""
    board = scoreboard(metrics)
    joins = {"better": "than", "worse": "than", VERDICT_WORDS["not distinguishable"]: "from"}
    sentences = []
    for row in board["rows"]:
        phrases = []
        for words in dict.fromkeys(cell.text for cell in row.cells):
            times = [time for time, cell in zip(board["times"], row.cells, strict=True) if cell.text == words]
            when = f"at {_join(times)}" if len(times) < len(row.cells) else "at all of these times"
            against = f" {joins[words]} “{row.baseline}”" if words in joins else ""
            phrases.append(f"{words}{against} {when}")
        sentences.append(f"{row.short}: {'; '.join(phrases)}.")
    return sentences or ["The recording is too short: nothing could be scored."]


# ---- curves


def charts(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the page's script draws: a chart for each metric with a curve (cells only where there are no px)."""
    curves = metrics["curves"]
    named = [name for name, by_method in curves.items() if isinstance(by_method, Mapping) and not _COVERAGE.match(name)]
    out = []
    for metric in _ordered(named, list(METRIC_TEXTS)):
        if metric.endswith("_cells") and metric.removesuffix("_cells") + "_px" in named:
            continue
        text = metric_text(metric)
        series = [
            _series(method, method_name(method), curves[metric][method])
            for method in _ordered(list(curves[metric]), list(METHOD_NAMES))
        ]
        out.append(_chart(metric, text.heading, text.unit, text.decimals, curves, series, note=_better(metric)))
        _switch_off_outliers(out[-1])
        if difference := _difference_chart(metrics, metric):
            out.append(difference)
    return [c for c in out if c["series"]]


def _difference_chart(metrics: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    """Return the model minus each baseline on the same forecasts, for what the first screen shows.

    Its bands tell a difference from none, those of the means do not.
    """
    text, by_step = metric_text(metric), metrics["comparisons"]
    steps = [step for step in _steps(by_step) if metric in by_step[step]]
    baselines = list(dict.fromkeys(b for step in steps for b in by_step[step][metric]))
    if not text.subject or not baselines:
        return None
    series = []
    for baseline in _ordered(baselines, list(METHOD_NAMES)):
        found = [by_step[step][metric].get(baseline, {}) for step in steps]
        values = {part: [f.get(part) for f in found] for part in ("mean", "low", "high")}
        series.append(_series(baseline, f"minus {method_name(baseline)}", values))
    side = "above" if metric in HIGHER_IS_BETTER else "below"
    times = {"step_s": metrics["curves"]["step_s"], "steps": [int(step) for step in steps]}
    note = f"on the same forecasts; {side} the dotted line the model is better"
    heading = f"{text.heading}: model minus baseline"
    chart = _chart(f"{metric}_difference", heading, text.unit, text.decimals, times, series, note=note, nominal=[0.0])
    return chart | {"bottom": None}


def _switch_off_outliers(chart: dict[str, Any]) -> None:
    """Leave out of the first view what is so far above the model that its axis would flatten all other curves."""
    highest = {s["key"]: max(v for v in s["mean"] if v is not None) for s in chart["series"]}
    if "error" in chart["key"] and "model" in highest:
        far = [s for s in chart["series"] if highest[s["key"]] > _FAR * highest["model"]]
        for series in far:
            series["off"] = True
        if far:
            names = _join([s["name"] for s in far])
            chart["note"] += f"; far above and so left out until ticked: {names}"


def calibration_charts(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a chart for keypoints and one for tips: observed share inside each ellipse, and what it should be."""
    curves = metrics["curves"]
    found: dict[str, list[tuple[int, str]]] = {}
    for metric in curves:
        if match := _COVERAGE.match(metric):
            found.setdefault(match[1], []).append((int(match[2]), metric))
    out = []
    for what, ellipses in found.items():
        series = [
            _series(f"ellipse{share}", f"{share} % ellipse", curves[metric]["model"])
            for share, metric in sorted(ellipses, reverse=True)
        ]
        nominal = [share / 100 for share, _ in ellipses]
        heading = f"{_COVERED.get(what, _plain(what))} inside the forecast's ellipses"
        note = "dotted: the share that the ellipse promises"
        out.append(_chart(f"{what}coverage", heading, "share", 2, curves, series, note=note, nominal=nominal, top=1.0))
    return [c for c in out if c["series"]]


def _series(key: str, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"key": key, "name": name, "style": _style(key), **{part: values[part] for part in ("mean", "low", "high")}}


def _style(key: str) -> int:
    """Return the number of a series' colour, dashes and mark: the same in every chart of a page."""
    if key in ("model", "ellipse90"):
        return 0
    return {"last_frame": 1, "ellipse50": 2}.get(key) or (list(METHOD_NAMES).index(key) if key in METHOD_NAMES else 6)


def _chart(
    key: str, heading: str, unit: str, decimals: int, curves: Mapping[str, Any], series: list[dict[str, Any]],
    *, note: str, nominal: Sequence[float] = (), top: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    from_zero = bool(nominal) or "error" in key
    return {
        "key": key, "heading": heading, "unit": unit, "decimals": decimals, "note": note,
        "times": [step * curves["step_s"] for step in curves["steps"]],
        "series": [s for s in series if any(v is not None for v in s["mean"])],
        "nominal": list(nominal), "bottom": 0.0 if from_zero else None, "top": top,
    }  # fmt: skip


# ---- tables


def metric_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Return one table for each metric: a row for each method, a column for each reported step.

    A baseline's cell also says how the model compares with it on the same forecasts.
    """
    steps = _steps(metrics["horizons"])
    names = list(dict.fromkeys(metric for step in steps for metric in metrics["horizons"][step]))
    tables = [_metric_table(metrics, metric, steps) for metric in _ordered(names, list(METRIC_TEXTS))]
    if points := metrics.get("named_points", {}):
        steps = _steps(next(iter(points.values())))
        rows = [
            (f"{name}: {method_name(method)}",
             *(Cell(format_interval(by_step[s][method], 2), of=f"{name}/{method}/{s}") for s in steps))
            for name, by_step in points.items()
            for method in _ordered(list(by_step[steps[0]]), list(METHOD_NAMES))
        ]  # fmt: skip
        caption = "How reliable each named point is: distance from its true position, where that is known and visible."
        tables.append(Table("Named points: error [px]", ("point", *_header(steps)[1:]), tuple(rows), caption))
    if probe := metrics.get("probe_error_px", {}):
        rows = [(name, Cell(format_interval(error, 2), of=f"probe_error_px/{name}")) for name, error in probe.items()]
        caption = "How well named points are read off the keypoints, with nothing forecast: in the frame itself."
        tables.append(Table("Probe: error in the frame itself [px]", ("point", "mean"), tuple(rows), caption))
    return tables + _weighted_tables(metrics) + _motion_tables(metrics)


def _weighted_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Return a table of what needs weights that are not shipped: the distance of whole clips, and what is missing."""
    rows = [(metric_text(name).heading, why, why, "") for name, why in metrics.get("not_measured", {}).items()]
    if fvd := metrics.get("fvd", {}):
        values = (Cell(format_interval(fvd[method], 1), of=f"fvd/{method}") for method in ("model", "last_frame"))
        rows.insert(0, (metric_text("fvd").heading, *values, str(fvd["clips"])))
    header = ("figure", method_name("model"), method_name("last_frame"), "clips")
    return [Table("Figures that need weights", header, tuple(rows))] if rows else []


def _motion_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Return a table of how each keypoint moves, and with what."""
    motion, follows = metrics.get("keypoint_motion", {}), metrics.get("keypoints_with_instrument", {})
    if not motion.get("spread_cells"):
        return []
    columns = {
        "spread [cells]": motion["spread_cells"],
        "displacement [cells]": motion["displacement_cells"],
        "motion common to all": motion["common_motion"],
    }
    shares = {"move": motion["moving_share"], "move as all others do": motion["alike_share"]}
    if follows.get("keypoints"):
        columns["explained by an instrument"] = [k["r2"] for k in follows["keypoints"]]
        columns["by which point"] = [k["point"] for k in follows["keypoints"]]
        shares["move with an instrument"] = follows["share"]
    rows = [
        (str(k), *(value if isinstance(value, str) else format_interval(value, 2) for value in values))
        for k, values in enumerate(zip(*columns.values(), strict=True))
    ]
    said = [f"{100 * share:.0f} % {what}" for what, share in shares.items() if share is not None]
    caption = f"Of the keypoints, {'; '.join(said)}. Those that sit still, or all move alike, are easy to forecast."
    return [Table("Motion of the keypoints", ("keypoint", *columns), tuple(rows), caption)]


def _metric_table(metrics: Mapping[str, Any], metric: str, steps: Sequence[str]) -> Table:
    text = metric_text(metric)
    by_step = [metrics["horizons"][step].get(metric, {}) for step in steps]
    methods = _ordered(list(dict.fromkeys(m for values in by_step for m in values)), list(METHOD_NAMES))
    rows = []
    for method in methods:
        cells: list[str | Cell] = [method_name(method)]
        for step, values in zip(steps, by_step, strict=True):
            compared = metrics["comparisons"].get(step, {}).get(metric, {}).get(method)
            note = verdict = ""
            if compared:
                verdict = compared["verdict"]
                note = f"model {VERDICT_WORDS[verdict]}: {_difference(compared, text)}"
            figure = format_interval(values.get(method), text.decimals)
            cells.append(Cell(figure, note, verdict, f"{metric}/{method}/{step}"))
        rows.append(tuple(cells))
    return Table(text.heading + (f" [{text.unit}]" if text.unit else ""), _header(steps), tuple(rows))


def _definitions(metrics: Mapping[str, Any]) -> dict[str, Any]:
    parts = {name: part for name, part in metrics.items() if isinstance(part, Mapping) and "definition" in part}
    return {**metrics["definitions"], **{name: part["definition"] for name, part in parts.items()}}


def unscored_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return how many forecasts could not be scored at each reported step, and why; None if all could."""
    steps = _steps(metrics["horizons"])
    rows = []
    for what, key in (("keypoints", "unscored"), ("frames", "unscored_frames")):
        by_step = metrics.get(key, {})
        for reason in dict.fromkeys(reason for step in steps for reason in by_step.get(step, {})):
            rows.append((f"{what}: {reason}", *(str(by_step.get(step, {}).get(reason, 0)) for step in steps)))
    return Table("Forecasts that could not be scored", ("why", *_header(steps)[1:]), tuple(rows)) if rows else None
