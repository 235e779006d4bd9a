"""The paper's tables from nothing: a tiny KTH, rows trained for two steps, bundles, clips, figures, tables."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lightning")
pytest.importorskip("onnxscript")
import onnxruntime
from typer.testing import CliRunner, Result

from gridkp_ros.cli import app
from gridkp_ros.data.paper import parse_places
from gridkp_ros.evaluation.metrics import EvaluationError
from gridkp_ros.evaluation.paper import ClipList, Learned, Measured, count_parameters
from gridkp_ros.evaluation.tables import Figures, evaluate, fill, read_paper, title_of
from gridkp_ros.export import bundle
from gridkp_ros.nets.gridkp import count_parameters as count_of
from gridkp_ros.runtime import Predictor
from gridkp_ros.training.checkpoint import load_checkpoint
from support.tiny_videos import write_video

pytestmark = pytest.mark.slow

TINY = {
    "model.height": 32, "model.width": 32, "model.base": 4, "model.hidden": 8, "stage1.steps": 2,
    "stage1.batch_clips": 2, "stage1.frames_per_clip": 2, "stage2.steps": 2, "stage2.batch_clips": 2,
    "stage2.best_of": 2,
}  # fmt: skip
CLIPS, SAMPLES, OBSERVED, PREDICTED = 3, 3, 10, 40


def film(number: int, frames: int) -> list[np.ndarray]:
    """A square that walks over a background, each film another one."""
    rng = np.random.default_rng(number)
    background, speed = rng.integers(40, 120, (120, 160, 1), np.uint8).repeat(3, axis=2), rng.uniform(0.5, 2.5)
    images = []
    for i in range(frames):
        image = background.copy()
        x = int(10 + speed * i) % 120
        image[30 + number : 80 + number, x : x + 25] = 230
        images.append(image)
    return images


@pytest.fixture(scope="module")
def kth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kth")
    films = {f"person{p:02d}_walking_d1": 24 for p in range(1, 17)}
    films |= {f"person{p:02d}_boxing_d1": 24 for p in range(1, 5)}  # 20 training films: one is for validation
    films |= {f"person{p}_walking_d1": 56 for p in (17, 18)}
    lines = [f"{stem}\tframes\t1-{frames}" for stem, frames in films.items()]
    (root / "00sequences.txt").write_text("\n".join(lines) + "\n")
    for number, (stem, frames) in enumerate(films.items()):
        write_video(root / f"{stem}_uncomp.avi", film(number, frames))
    return root


def gridkp(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def sharing(export: Callable) -> Callable:
    """An exporter that gives the same graph for the same weights: rows share detectors, and tracing takes seconds."""
    kept: dict[tuple, Any] = {}

    def to_onnx(module: Any, *rest: Any) -> Any:
        weights = b"".join(v.numpy().tobytes() for v in module.state_dict().values())
        key = (type(module), getattr(module, "snap", None), hashlib.sha256(weights).digest())
        if key not in kept:
            kept[key] = export(module, *rest)
        return kept[key]

    return to_onnx


@pytest.fixture(scope="module")
def runs(kth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user calls: train and fill two tables, train one more row, fill all tables.

    The rows left out differ from these by configuration alone (test/training/test_presets.py).
    """
    folder = tmp_path_factory.mktemp("paper")
    data = ("--data", f"kth={kth}", "--runs", folder)
    changes = [a for name, value in TINY.items() for a in ("--set", f"{name}={value}")]
    sizes = ("--samples", SAMPLES, "--clips", CLIPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(bundle, "to_onnx", sharing(bundle.to_onnx))
        gridkp("evaluate", "--train", "--table", "IV", "--table", "V", *data, *sizes, *changes)
        gridkp("train", "--preset", "kth_baseline", *data, *changes)
        gridkp("evaluate", *(a for n in ("I", "III", "IV", "V", "VI") for a in ("--table", n)), *data, *sizes)
        yield folder


@pytest.fixture(scope="module")
def result(runs: Path) -> dict:
    return json.loads((runs / "tables/tables.json").read_text())


def cell(result: dict, number: str, method: str, column: str, samples: str = "best") -> dict:
    (table,) = (t for t in result["tables"] if t["number"] == number and t["samples"] == samples)
    (row,) = (r for r in table["rows"] if r["method"] == method)
    return row["cells"][column]


def arrays(runs: Path, run: str) -> dict[str, np.ndarray]:
    with np.load(runs / f"tables/{run}.npz") as stored:
        return {name: stored[name] for name in stored.files}


def test_every_row_that_is_trained_is_measured_and_every_other_says_why_not(result: dict) -> None:
    trained = {"kth", "kth_baseline", "kth_gaussian", "kth_vector"}
    assert {row["run"] for table in result["tables"] for row in table["rows"]} > trained
    for table in result["tables"]:
        for row in table["rows"]:
            for column, entry in row["cells"].items():
                if row["run"] in trained and column != "fvd" and not column.endswith(".lpips"):
                    assert entry["measured"]["count"] in (CLIPS, 1) and entry["written"], column
                    continue
                assert entry["measured"] is None
                assert entry["written"] == (
                    "no weights" if row["run"] in trained else "not trained" if row["run"] else ""
                ), column


def test_all_rows_are_judged_on_the_same_clips(runs: Path) -> None:
    clips = ClipList.from_json((runs / "tables/clips_kth.json").read_text())
    assert len(clips.clips) == CLIPS and clips.length == OBSERVED + PREDICTED
    assert {name.split("_")[0] for name, _ in clips.clips} == {"person17", "person18"}
    digests = {json.loads(str(np.load(f)["about"]))["clips"] for f in (runs / "tables").glob("*.npz")}
    assert digests == {clips.digest}


def test_reconstruction_entries_are_the_means_of_what_is_stored(runs: Path, result: dict) -> None:
    ssim = arrays(runs, "kth_baseline")["reconstruction.ssim"]
    assert ssim.shape == (CLIPS, OBSERVED + PREDICTED)
    by_clip = [sum(row[OBSERVED:]) / PREDICTED for row in ssim.tolist()]
    got = cell(result, "III", "Baseline", "reconstruction.ssim")
    assert got["measured"]["mean"] == pytest.approx(np.mean(by_clip), rel=1e-6)
    half = 1.96 * np.std(by_clip, ddof=1) / CLIPS**0.5
    assert got["measured"]["high"] - got["measured"]["mean"] == pytest.approx(half, rel=1e-3)
    assert got["written"] == f"{np.mean(by_clip):.3f} ± {half:.3f}"
    assert got["paper"]["value"] == 0.759


def test_a_reconstruction_is_what_the_graphs_draw(runs: Path, kth: Path) -> None:
    """One stored PSNR again, by ONNX Runtime alone and the definition written out."""
    bundle = runs / "kth_baseline/bundle"
    spec = json.loads((bundle / "manifest.json").read_text())["input"]
    clips = ClipList.from_json((runs / "tables/clips_kth.json").read_text())
    from gridkp_ros.geometry import InputSpec

    recordings = parse_places([f"kth={kth}"])["kth"].recordings("test", InputSpec(**spec), clips.period_s, workers=1)
    frames = list(clips.frames(recordings))[1]
    session = {g: onnxruntime.InferenceSession(bundle / f"{g}.onnx") for g in ("detect", "encode", "render")}
    seen, shown = frames[OBSERVED - 1][None], frames[30][None]
    pose_seen, pose_shown = (session["detect"].run(["pose"], {"image": f})[0] for f in (seen, shown))
    names = [o.name for o in session["encode"].get_outputs()]
    features = dict(zip(names, session["encode"].run(names, {"image": seen, "pose": pose_seen}), strict=True))
    (drawn,) = session["render"].run(["frames"], {**features, "pose": pose_shown[:, None]})
    psnr = 10 * np.log10(255**2 / np.mean((drawn[0, 0].astype(float) - shown[0].astype(float)) ** 2))
    # A different batch may round one grey level differently.
    assert arrays(runs, "kth_baseline")["reconstruction.psnr"][1, 30] == pytest.approx(psnr, abs=0.02)


def test_prediction_entries_take_the_best_sample_of_each_metric(runs: Path, result: dict) -> None:
    stored = arrays(runs, "kth")
    assert stored["prediction.psnr"].shape == (CLIPS, SAMPLES, PREDICTED)
    for metric in ("psnr", "ssim"):
        best = np.mean([max(np.mean(sample) for sample in clip) for clip in stored[f"prediction.{metric}"]])
        got = cell(result, "I", "Grid keypoint (ours)", f"prediction.{metric}")["measured"]["mean"]
        assert got == pytest.approx(best, rel=1e-6)
        assert got == cell(result, "VI", "12", f"prediction.{metric}")["measured"]["mean"]
        rec = stored[f"reconstruction.{metric}"][:, OBSERVED:].mean()
        rate = cell(result, "IV", "Binary map (ours)", f"degeneration.{metric}")
        assert rate["measured"]["mean"] == pytest.approx(100 * (rec - best) / rec, rel=1e-4, abs=1e-6)
        assert rate["written"].endswith(" %")
    worst = next(s for s in result["selections"] if (s["run"], s["metric"], s["samples"]) == ("kth", "psnr", "worst"))
    assert worst["measured"]["mean"] <= np.mean(stored["prediction.psnr"])


def test_coordinate_errors_are_those_of_frame_t(runs: Path, result: dict) -> None:
    error = arrays(runs, "kth_vector")["coordinate_error"]  # [N, S, T]
    for t in (20, 50):
        chosen = [clip[np.argmin(clip.mean(axis=1))][t - OBSERVED - 1] for clip in error]
        assert cell(result, "V", "1D vector", f"coordinates.{t}")["measured"]["mean"] == pytest.approx(np.mean(chosen))
        mean = error[:, :, t - OBSERVED - 1].mean()
        assert cell(result, "V", "1D vector", f"coordinates.{t}", "mean")["measured"]["mean"] == pytest.approx(mean)


def test_the_propagation_rows_share_one_detector(runs: Path) -> None:
    rec = [arrays(runs, run)["reconstruction.psnr"] for run in ("kth", "kth_gaussian", "kth_vector")]
    assert np.array_equal(rec[0], rec[1]) and np.array_equal(rec[0], rec[2])
    errors = [arrays(runs, run)["coordinate_error"] for run in ("kth", "kth_gaussian", "kth_vector")]
    assert not np.array_equal(errors[0], errors[1]) and not np.array_equal(errors[1], errors[2])


@pytest.mark.parametrize("run", ["kth_gaussian", "kth_vector", "kth_baseline"])
def test_every_kind_of_bundle_streams_too(runs: Path, run: str) -> None:
    """The Predictor runs the variants, which have no distribution around a sample, and a detector without the grid."""
    predictor = Predictor(runs / run / "bundle", warmup_frames=2, scene_cut_threshold=1.0)
    rng, seen = np.random.default_rng(1), []
    for i in range(3):
        stamp_ns = round(i * predictor.manifest.period_s * 1e9)
        seen.append(predictor.observe(rng.integers(0, 256, (32, 32), np.uint8), stamp_ns))
    forecast = predictor.forecast(horizon_steps=4, num_samples=9)
    assert forecast.points.shape == (9, 4, 12, 2)
    assert np.ptp(forecast.points[1:], axis=0).max() > 0  # the latent moves the samples
    assert (forecast.covariance[..., [0, 2]] >= 1 / 12 - 1e-6).all()
    assert np.isnan(forecast.confidence).all() == (run != "kth_baseline")
    assert predictor.render(forecast, steps=[1, 4]).shape == (2, 32, 32, 1)
    gridded = run != "kth_baseline"
    assert predictor.manifest.has_grid == gridded
    assert np.array_equal(seen[-1].pose, np.round(seen[-1].pose)) == gridded
    assert seen[-1].cells.shape == ((12, 2) if gridded else (0, 2))


def test_parameters_are_counted_from_the_bundle(runs: Path, result: dict) -> None:
    for run in ("kth", "kth_vector"):
        counted = count_parameters(runs / run / "bundle/weights.safetensors")
        assert counted == count_of(load_checkpoint(runs / run / "checkpoint").model)
    got = cell(result, "I", "Grid keypoint (ours)", "parameters")
    assert got["measured"]["mean"] == pytest.approx(count_parameters(runs / "kth/bundle/weights.safetensors") / 1e6)


def test_another_model_changes_its_row_alone(runs: Path, kth: Path, result: dict, tmp_path: Path) -> None:
    """The Gaussian row is given the vector's bundle: its figures become the vector's, the others stay."""
    copy = tmp_path / "runs"
    for run in ("kth", "kth_vector"):
        shutil.copytree(runs / run / "bundle", copy / run / "bundle")
    shutil.copytree(runs / "kth_vector/bundle", copy / "kth_gaussian/bundle")
    shutil.copytree(runs / "tables", copy / "tables")
    again = evaluate(["V"], copy, parse_places([f"kth={kth}"]), copy / "tables", samples=SAMPLES, count=CLIPS)
    for method in ("1D vector", "Binary map (ours)"):
        assert cell(again, "V", method, "coordinates.30") == cell(result, "V", method, "coordinates.30")
    before, after = (cell(r, "V", "Gaussian map", "coordinates.30")["measured"] for r in (result, again))
    assert before != after and after == cell(result, "V", "1D vector", "coordinates.30")["measured"]


def test_kept_figures_are_used_and_other_ones_refused(runs: Path, kth: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(runs / "kth_baseline/bundle", copy / "kth_baseline/bundle")
    shutil.copytree(runs / "tables", copy / "tables")
    places, done = parse_places([f"kth={kth}"]), []
    options = {"samples": SAMPLES, "count": CLIPS, "progress": lambda run, *_: done.append(run)}
    only = evaluate(["III"], copy, places, copy / "tables", **options)
    assert not done
    assert cell(only, "III", "Baseline + gridding", "reconstruction.ssim")["written"] == "not trained"
    with pytest.raises(EvaluationError, match="clips 3 instead of 4"):
        evaluate(["III"], copy, places, copy / "tables", **{**options, "count": 4})
    with pytest.raises(EvaluationError, match="bundle of none of human36m"):
        evaluate(["II"], copy, places, copy / "tables", **options)
    with pytest.raises(EvaluationError, match=r"no table 'VII'"):
        evaluate(["VII"], copy, places, copy / "tables", **options)
    other = tmp_path / "kth"  # films of the same names and lengths, of something else
    shutil.copytree(kth, other)
    for stem in ("person17_walking_d1", "person18_walking_d1"):
        write_video(other / f"{stem}_uncomp.avi", film(40, 56))
    evaluate(["III"], copy, parse_places([f"kth={other}"]), copy / "tables", **options)
    assert done


def test_learned_metrics_fill_their_columns(runs: Path, kth: Path, tmp_path: Path) -> None:
    """Whatever LPIPS and FVD say stands in the table: here two functions whose values are known."""
    calls = []

    def distance(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
        assert predicted.shape == true.shape and predicted.shape[1:] == (32, 32, 1)
        return np.abs(predicted.astype(float) - true).mean(axis=(1, 2, 3)) / 255

    def fvd(generated: np.ndarray, real: np.ndarray) -> float:
        calls.append((generated.shape, real.shape))
        return 123.4

    filled = evaluate(
        ["I"], runs, parse_places([f"kth={kth}"]), tmp_path, samples=2, count=2,
        learned=Learned({"lpips": distance}, fvd, "two functions"),
    )  # fmt: skip
    assert calls == [((2, 50, 32, 32, 1), (2, 50, 32, 32, 1))]
    assert cell(filled, "I", "Grid keypoint (ours)", "fvd")["written"] == "123.4"
    with np.load(tmp_path / "kth.npz") as stored:
        best = stored["prediction.lpips"].mean(axis=2).min(axis=1).mean()
    assert cell(filled, "I", "Grid keypoint (ours)", "prediction.lpips")["measured"]["mean"] == pytest.approx(best)


def test_what_is_written_says_the_same_in_every_form(runs: Path, result: dict) -> None:
    entry = cell(result, "III", "Baseline", "reconstruction.psnr")
    assert (
        f"| Baseline | {cell(result, 'III', 'Baseline', 'reconstruction.ssim')['written']} | 0.759 |"
        in (runs / "tables/tables.md").read_text()
    )
    with (runs / "tables/tables.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if (r["table"], r["method"]) == ("III", "Baseline")]
    (psnr,) = (r for r in rows if r["column"] == "reconstruction.psnr")
    assert float(psnr["measured"]) == entry["measured"]["mean"] and float(psnr["paper"]) == 24.93
    page = (runs / "tables/report.html").read_text()
    assert entry["written"] in page and "paper: 24.93" in page and "Table VI." in page


def test_the_paper_s_numbers_are_read_whole() -> None:
    paper = read_paper()
    assert list(paper.tables) == ["I", "II", "III", "IV", "V", "VI"]
    assert paper.lengths == {"kth": (10, 40), "human36m": (8, 42)}
    (ours,) = (r for r in paper.tables["V"].rows if r.run == "kth")
    assert ours.paper == ((2.43, 0.18), (3.07, 0.33), (3.49, 0.38), (4.6, 0.55))


def test_a_stand_in_for_the_data_is_named_in_the_title() -> None:
    """Figures made up for two clips of the simulator: what stands in, and a rate that rounds to nothing."""
    clips = ClipList("simulator", 0, 0.04, OBSERVED, PREDICTED, (("a", 0), ("b", 3)))
    assert ClipList.from_json(clips.to_json()) == clips
    same = np.full((2, OBSERVED + PREDICTED), 0.5)
    predicted = np.full((2, 1, PREDICTED), 0.50001)
    names = ("ssim", "psnr")
    measured = Measured(
        "m@1", 1_000_000, clips, dict.fromkeys(names, same), dict.fromkeys(names, predicted), np.ones((2, 1, PREDICTED))
    )
    table = fill(read_paper().tables["IV"], {"kth": Figures(measured, "gridkp")})
    assert title_of(table).endswith("on KTH - measured on simulator instead")
    (ours,) = (r for r in table["rows"] if r["run"] == "kth")
    assert ours["cells"]["degeneration.ssim"]["written"] == "0.0 ± 0.0 %"
    assert ours["cells"]["degeneration.lpips"]["written"] == "no weights"
