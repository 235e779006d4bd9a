"""The paper's Tables I to VI out of measured figures, beside the numbers that the paper prints (paper_tables.yaml)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gridkp_ros.data.paper import Place, place_of
from gridkp_ros.evaluation import metrics, protocols
from gridkp_ros.evaluation.metrics import HIGHER_IS_BETTER, EvaluationError, Interval
from gridkp_ros.evaluation.offline import OfflineModel
from gridkp_ros.evaluation.paper import (
    FVD_RULE,
    ClipList,
    Learned,
    Measured,
    draw_clips,
    load_measured,
    measure,
    save_measured,
)
from gridkp_ros.evaluation.report import Cell as PageCell
from gridkp_ros.evaluation.report import Table as PageTable
from gridkp_ros.evaluation.report import write_page
from gridkp_ros.provenance import git_commit

NO_WEIGHTS, NOT_TRAINED = "no weights", "not trained"
CHOICES = ("best", "mean", "worst")  # of a clip's samples
_NAMES = {
    "ssim": ("SSIM", "↑", 3),
    "psnr": ("PSNR", "↑", 2),
    "lpips": ("LPIPS", "↓", 3),
    "fvd": ("FVD", "↓", 1),
    "ssim_gaussian": ("SSIM (11x11 Gaussian)", "↑", 3),
    "psnr_joint": ("PSNR (all channels jointly)", "↑", 2),
}


@dataclass(frozen=True)
class Row:
    """A method: what the paper prints for it, and the run that fills it here ("": none)."""

    method: str
    paper: tuple[tuple[float, float | None], ...]  # value, half width of its interval
    run: str = ""


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables."""

    number: str
    title: str
    data: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def runs(self) -> list[str]:
        return [row.run for row in self.rows if row.run]

    @property
    def predicts(self) -> bool:
        return any(not column.startswith("reconstruction.") for column in self.columns)


@dataclass(frozen=True)
class Paper:
    """The paper's numbers: source, tables by Roman number, and observed and predicted frames of each data set."""

    source: str
    tables: dict[str, PaperTable]
    lengths: dict[str, tuple[int, int]]

    def chosen(self, numbers: Sequence[str]) -> list[PaperTable]:
        """Return tables by number, all of them if none is named. Raises EvaluationError for one there is not."""
        for number in numbers:
            if number not in self.tables:
                raise EvaluationError(f"there is no table {number!r}: use {', '.join(self.tables)}")
        return [table for number, table in self.tables.items() if not numbers or number in numbers]


def read_paper() -> Paper:
    """Read paper_tables.yaml."""
    text = resources.files("gridkp_ros.evaluation").joinpath("paper_tables.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    tables = {}
    for number, table in content["tables"].items():
        rows = []
        for row in table["rows"]:
            pairs = tuple(tuple(v) if isinstance(v, list) else (v, None) for v in row["paper"])
            rows.append(Row(row["method"], pairs, row.get("run", "")))
        tables[number] = PaperTable(number, table["title"], table["data"], tuple(table["columns"]), tuple(rows))
    lengths = {name: (v["observed"], v["predicted"]) for name, v in content["data"].items()}
    return Paper(content["source"], tables, lengths)


def heading(column: str) -> str:
    """Return how a column is headed, as in the paper."""
    kind, _, name = column.partition(".")
    if kind == "coordinates":
        return f"t = {name}"
    if column == "parameters":
        return "#param"
    text, arrow, _ = _NAMES[name or kind]
    if kind == "degeneration":
        return f"{text} [%]"
    where = {"reconstruction": " of reconstructions"}.get(kind, "")
    return f"{text}{arrow}{where}"


class Figures:
    """A model's entries of tables, from its stored figures: selection by a rule, then averages over clips."""

    def __init__(self, measured: Measured, rule: str) -> None:
        """rule: of `protocols.RULES`, for what is the best of a clip's samples."""
        self.measured, self.rule = measured, rule

    @cached_property
    def selected(self) -> dict[str, dict[str, np.ndarray]]:
        """Metric -> "best", "mean", "worst" -> [N, predicted]: each clip's curve over the future frames."""
        m, observed = self.measured, self.measured.clips.observed
        out: dict[str, dict[str, list]] = {}
        for clip in range(len(m.clips.clips)):
            values = {}
            for name, table in m.prediction.items():
                seen = np.repeat(m.reconstruction[name][clip : clip + 1, :observed], m.samples, axis=0)
                values[name] = np.concatenate([seen, table[clip]], axis=1)
            chosen = protocols.select_samples(values, self.rule, observed)
            # Of the paper's Table V it is not said how a sample was chosen: by its own mean over the future.
            blank = np.zeros((m.samples, observed))
            error = {"coordinates": np.concatenate([blank, m.coordinate_error[clip]], axis=1)}
            for name, s in {**chosen, **protocols.select_samples(error, "savp", observed)}.items():
                curves = {"best": s.best_curve, "mean": s.mean_curve, "worst": s.worst_curve}
                for choice, curve in curves.items():
                    out.setdefault(name, {}).setdefault(choice, []).append(curve)
        return {name: {c: np.stack(curves) for c, curves in by.items()} for name, by in out.items()}

    def predicted(self, name: str, choice: str) -> np.ndarray:
        """Each clip's mean over its future frames, [N]."""
        return self.selected[name][choice].mean(axis=1)

    def reconstructed(self, name: str) -> np.ndarray:
        """Each clip's mean over the same frames, drawn from their own detections, [N]."""
        return self.measured.reconstruction[name][:, self.measured.clips.observed :].mean(axis=1)

    def entry(self, column: str, choice: str = "best") -> Interval | str:
        """Return a column's value, or in words why there is none; degeneration in percent, parameters in millions."""
        kind, _, name = column.partition(".")
        m = self.measured
        if column == "parameters":
            return Interval(m.parameters / 1e6, None, None, 1)
        if column == "fvd":
            return NO_WEIGHTS if m.fvd is None else Interval(m.fvd, None, None, 1)
        if kind == "coordinates":
            frame = int(name) - 1 - m.clips.observed  # frames are numbered from 1 and the observed ones count
            return protocols.mean_interval(self.selected["coordinates"][choice][:, frame])
        if name not in m.reconstruction:
            return NO_WEIGHTS
        if kind == "reconstruction":
            return protocols.mean_interval(self.reconstructed(name))
        if kind == "prediction":
            return protocols.mean_interval(self.predicted(name, choice))
        rate = protocols.degeneration_rate(
            self.predicted(name, choice), self.reconstructed(name), name in HIGHER_IS_BETTER
        )
        return Interval(*(None if v is None else 100 * v for v in (rate.mean, rate.low, rate.high)), rate.count)


def write_number(column: str, mean: float, half: float | None = None) -> str:
    """Write a value as the paper does: "0.837", "2.43 ± 0.18", "2.0M", "2.9 %"."""
    kind, _, name = column.partition(".")
    if column == "parameters":
        return f"{mean:.1f}M" if mean >= 0.1 else f"{1000 * mean:.0f}k"
    decimals = {"degeneration": 1, "coordinates": 2}.get(kind, _NAMES.get(name or kind, ("", "", 2))[2])
    unit = " %" if kind == "degeneration" else ""
    mean = round(mean, decimals) + 0.0  # never "-0.0"
    return f"{mean:.{decimals}f}" + ("" if half is None else f" ± {half:.{decimals}f}") + unit


def fill(table: PaperTable, figures: Mapping[str, Figures], choice: str = "best") -> dict[str, Any]:
    """Return a table as plain values: for every row and column what was measured and what the paper prints.

    figures: by run; a row whose run is not among them is "not trained".
    """
    rows = []
    for row in table.rows:
        cells = {}
        for column, (value, half) in zip(table.columns, row.paper, strict=True):
            got: Interval | str = figures[row.run].entry(column, choice) if row.run in figures else ""
            if row.run and row.run not in figures:
                got = NOT_TRAINED
            written, numbers = got, None
            if isinstance(got, Interval):
                half_width = None if got.low is None else (got.high - got.low) / 2
                written, numbers = write_number(column, got.mean, half_width), got.to_dict()
            cells[column] = {
                "measured": numbers,
                "written": written,
                "paper": {"value": value, "half": half, "written": write_number(column, value, half)},
            }
        model = figures[row.run].measured.model_id if row.run in figures else None
        rows.append({"method": row.method, "run": row.run or None, "model": model, "cells": cells})
    measured_on = next((figures[run].measured.clips.data for run in table.runs if run in figures), table.data)
    return {
        "number": table.number,
        "title": table.title,
        "data": table.data,
        "measured_on": measured_on,
        "columns": list(table.columns),
        "samples": choice,
        "rows": rows,
    }


def to_markdown(table: Mapping[str, Any]) -> str:
    """Return a filled table as Markdown: measured and the paper's number side by side."""
    heads = [h for column in table["columns"] for h in (heading(column), "paper")]
    lines = [f"### {title_of(table)}", "", f"| method | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for row in table["rows"]:
        cells = [row["cells"][c] for c in table["columns"]]
        texts = [text for cell in cells for text in (cell["written"] or "-", cell["paper"]["written"])]
        lines.append(f"| {row['method']} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def title_of(table: Mapping[str, Any]) -> str:
    choice = "" if table["samples"] == "best" else f" ({table['samples']} of the samples)"
    stands_in = "" if table["measured_on"] == table["data"] else f" - measured on {table['measured_on']} instead"
    return f"Table {table['number']}. {table['title']}{choice}{stands_in}"


def to_page(table: Mapping[str, Any], caption: str) -> PageTable:
    """Return a filled table for the report's page: the paper's number below each measured one."""
    rows = []
    for row in table["rows"]:
        cells = [row["cells"][c] for c in table["columns"]]
        of = [f"{row['run']}/{column}" if row["run"] else "" for column in table["columns"]]
        rows.append(
            (
                row["method"],
                *(
                    PageCell(c["written"] or "-", f"paper: {c['paper']['written']}", of=o)
                    for c, o in zip(cells, of, strict=True)
                ),
            )
        )
    return PageTable(title_of(table), ("method", *map(heading, table["columns"])), tuple(rows), caption)


def selections(figures: Mapping[str, Figures]) -> list[dict[str, Any]]:
    """Return best, mean and worst of the samples for every run and metric, those of the other definitions too."""
    rows = []
    for run, f in figures.items():
        for name in (*f.measured.prediction, "coordinates") if f.measured.samples else ():
            for choice in CHOICES:
                value = protocols.mean_interval(f.predicted(name, choice))
                rows.append({"run": run, "metric": name, "samples": choice, "measured": value.to_dict()})
    return rows


def clip_list(path: Path, place: Place, recordings: Sequence, count: int, seed: int, **facts: Any) -> ClipList:
    """Read the clip list that earlier rows were judged on, or draw it.

    Raises EvaluationError if the one that is there is not what is asked for.
    """
    if not path.is_file():
        clips = draw_clips(recordings, count, seed, data=place.name, **facts)
        path.write_text(clips.to_json())
        return clips
    clips = ClipList.from_json(path.read_text())
    asked = {"data": place.name, "seed": seed, "clips": count, **facts}
    found = {"data": clips.data, "seed": clips.seed, "clips": len(clips.clips)}
    found |= {name: getattr(clips, name) for name in facts}
    differs = [name for name in asked if not _same(asked[name], found[name])]
    if differs:
        said = ", ".join(f"{name} {found[name]} instead of {asked[name]}" for name in differs)
        raise EvaluationError(f"{path} was made with {said}: name another --out, or ask for the same")
    return clips


def _same(a: Any, b: Any) -> bool:
    return bool(np.isclose(a, b, rtol=1e-6)) if isinstance(a, float) else a == b


def evaluate(
    numbers: Sequence[str],
    runs: Path,
    places: Mapping[str, Place],
    out: Path,
    *,
    samples: int = 100,
    count: int = 256,
    seed: int = 0,
    rule: str = "gridkp",
    learned: Learned | None = None,
    provider: str = "cpu",
    workers: int = 1,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Any]:
    """Fill tables from the bundles `runs/<run>/bundle`, and write them, clip lists and all figures into a folder.

    numbers: of the tables, all if empty. samples, count, seed: futures of a clip, clips, and of what is drawn.
    rule: of `protocols.RULES`. progress: called with a run's name, clips done and clips in all.

    Raises EvaluationError if no row can be filled or what is there does not fit, DataError where data are missing.
    """
    if samples < 1 or count < 1:
        raise EvaluationError(f"samples={samples}, clips={count}: both must be at least 1")
    if rule not in protocols.RULES:
        raise EvaluationError(f"no selection rule is called {rule!r}: use one of {', '.join(protocols.RULES)}")
    paper, learned = read_paper(), learned or Learned({})
    wanted = paper.chosen(numbers)
    needs: dict[str, tuple[str, bool]] = {}  # run -> its data set, and whether futures are needed
    for table in wanted:
        for run in table.runs:
            if (runs / run / "bundle/manifest.json").is_file():
                needs[run] = (table.data, table.predicts or needs.get(run, ("", False))[1])
    if not needs:
        missing = ", ".join(dict.fromkeys(run for table in wanted for run in table.runs))
        raise EvaluationError(f"{runs} has the bundle of none of {missing}: train them first (--train)")
    out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Figures] = {}
    loaded: dict[tuple, list] = {}
    lists: dict[str, ClipList] = {}
    for run, (data, predicts) in needs.items():
        place = place_of(dict(places), data)
        if place is None:
            raise EvaluationError(f"{run} is judged on {data}: say where it is with --data {data}=FOLDER")
        model = OfflineModel(runs / run / "bundle", provider)
        m = model.manifest
        key = (str(place), json.dumps(m.input.to_dict()), m.period_s)
        if key not in loaded:
            loaded[key] = place.recordings("test", m.input, m.period_s)
        observed, predicted = paper.lengths[data]
        clips = clip_list(
            out / f"clips_{data}.json", place, loaded[key], count, seed,
            period_s=m.period_s, observed=observed, predicted=predicted,
        )  # fmt: skip
        lists[data], path = clips, out / f"{run}.npz"
        asked, pixels = samples if predicts else 0, clips.pixels(loaded[key])
        measured = load_measured(path, m.model_id, clips, asked, seed, learned.weights, pixels)
        if measured is None:

            def show(done: int, total: int, run: str = run) -> None:
                progress(run, done, total)

            measured = measure(
                model, loaded[key], clips, samples=asked, seed=seed, learned=learned, workers=workers, progress=show
            )
            save_measured(path, measured, seed, learned.weights, pixels)
        figures[run] = Figures(measured, rule)

    tables = []
    for table in wanted:
        tables.append(fill(table, figures))
        if any(column.startswith("coordinates.") for column in table.columns):
            tables.append(fill(table, figures, "mean"))
    result = {
        "source": paper.source,
        "protocol": {
            "samples": samples,
            "rule": {"name": rule, **asdict(protocols.RULES[rule])},
            "fvd": protocols.FVD_RULES[FVD_RULE],
            "ssim": metrics.SSIM_DEFINITION,
            "psnr": metrics.PSNR_DEFINITION,
            "ssim_gaussian": metrics.SSIM_GAUSSIAN_DEFINITION,
            "psnr_joint": metrics.PSNR_JOINT_DEFINITION,
            "interval": "1.96 standard deviations over clips / sqrt(clips)",
            "learned_weights": learned.weights or NO_WEIGHTS,
            "clips": {
                data: {"data": c.data, "count": len(c.clips), "seed": c.seed, "digest": c.digest,
                       "observed": c.observed, "predicted": c.predicted}
                for data, c in lists.items()
            },
            "commit": git_commit(),
        },
        "tables": tables,
        "selections": selections(figures),
    }  # fmt: skip
    write_tables(out, result)
    return result


def notes_of(result: Mapping[str, Any]) -> list[str]:
    """Return how the numbers came about, a sentence each."""
    p = result["protocol"]
    notes = []
    for name, c in p["clips"].items():
        stands_in = "" if c["data"] == name else f" (in place of {name}: not comparable with the paper's numbers)"
        notes.append(
            f"{c['count']} clips of {c['data']}{stands_in}, {c['observed']} frames observed and {c['predicted']} "
            f"predicted, drawn with seed {c['seed']} (clips_{name}.json, {c['digest']}), the same for all rows."
        )
    return [
        f"Paper: {result['source']}.",
        *notes,
        f"{p['samples']} samples of each clip; best of them: {p['rule']['source']}. The coordinate error's best sample "
        "is the one with the least mean error over the future.",
        f"± is {p['interval']}. SSIM: {p['ssim']}. PSNR: {p['psnr']}.",
        "Reconstructions and predictions are drawn from the last observed frame, and both averaged over the predicted "
        "frames alone.",
        f"LPIPS, FVD: {p['learned_weights']}. FVD on {p['fvd']}.",
        f'"-": a method that is not trained here. "{NOT_TRAINED}": a preset without a bundle yet.',
    ]


def write_tables(out: Path, result: Mapping[str, Any]) -> None:
    """Write tables.json, tables.md, tables.csv and report.html into a folder."""
    (out / "tables.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    notes = notes_of(result)
    lines = ["# The paper's tables", "", *(f"- {note}" for note in notes), ""]
    (out / "tables.md").write_text("\n".join([*lines, *(to_markdown(t) for t in result["tables"])]))
    with (out / "tables.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        head = ("table", "samples", "method", "run", "column", "measured", "low", "high", "clips", "text")
        writer.writerow((*head, "paper", "paper_half"))
        for table in result["tables"]:
            for row in table["rows"]:
                for column, cell in row["cells"].items():
                    got = cell["measured"] or {}
                    numbers = (got.get(k) for k in ("mean", "low", "high", "count"))
                    where = (table["number"], table["samples"], row["method"], row["run"], column)
                    writer.writerow((*where, *numbers, cell["written"], cell["paper"]["value"], cell["paper"]["half"]))
    by_run = [
        (s["run"], s["metric"], s["samples"], f"{s['measured']['mean']:.4f}", str(s["measured"]["count"]))
        for s in result["selections"]
    ]
    others = PageTable(
        "Best, mean and worst of the samples", ("run", "metric", "samples", "mean over clips", "clips"), tuple(by_run)
    )
    pages = [to_page(table, "") for table in result["tables"]]
    write_page(
        out / "report.html", title="The paper's tables", notes=notes, tables=[*pages, *([others] if by_run else [])]
    )
