"""`gridkp <verb>`: replay, train, export, info and the simulator. A room is imported when its verb is used.

Sentences and progress go to standard error; with `--json`, standard output is JSON alone.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gridkp_ros import __version__

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Forecasts of surgical instruments in endoscope video: train, export, replay. Not a medical device.",
)
sim_app = typer.Typer(no_args_is_help=True, help="The simulated da Vinci endoscope.")
app.add_typer(sim_app, name="sim")
data_app = typer.Typer(no_args_is_help=True, help="Recordings and published data sets, decoded once.")
app.add_typer(data_app, name="data")
bench_app = typer.Typer(no_args_is_help=True, help="How fast this machine is, beside the straightforward way.")
app.add_typer(bench_app, name="bench")

_EXTRAS = {
    "torch": "train", "lightning": "train", "safetensors": "train", "onnx": "train", "pydantic": "train",
    "mujoco": "sim", "skimage": "report", "jinja2": "report", "av": "report",
    "pyarrow": "data", "scipy": "data", "PIL": "data", "cdflib": "data", "google_crc32c": "data",
    "dm_control": "dm_control",
}
_JSON = typer.Option(False, "--json", help="Print JSON alone on standard output.")
_MODEL = typer.Option("dvrk_sim", "--model", help="Folder of a bundle, or the name of one under models/.")
_PATH = typer.Argument(None, help="A video, bag or folder of images, or a folder of these.")
_CONFIG = typer.Option(None, help="Training configuration: all its sources.")
_DATASET = typer.Option("", help="Name of a data set, see docs/data.md.")
_ROOT = typer.Option(Path(), help="Its folder.")
_SPLIT = typer.Option("train", help="Its split.")
_OPTION = typer.Option([], help="An option of the data set: name=value; may be given several times.")
_SIZE = typer.Option("64x64", help="The model's WIDTHxHEIGHT (with --config: what stands there).")
_GREY = typer.Option(False, "--grey", help="One channel.")
_RESIZE = typer.Option("stretch", help="stretch, letterbox or center_crop.")
_RATE = typer.Option(15.0, "--rate", min=0.01, help="The model's frames per second.")
_WORKERS = typer.Option(0, help="Processes that decode; 0: one for each core.")
_PROVIDER = typer.Option("cpu", help="ONNX Runtime execution provider: cpu, cuda, tensorrt or auto.")


def _console() -> Console:
    return Console(stderr=True)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=_console()
    )


def _print_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"gridkp {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", is_eager=True, callback=_print_version, help="Say which this is."),
) -> None:
    pass


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


@app.command()
def replay(
    recording: Path = typer.Argument(..., help="Video file, rosbag2, or folder of images."),
    model: str = _MODEL,
    out: Path = typer.Option(..., help="Folder for metrics.json, report.html, film.mp4 and film_strip.png."),
    topic: str = typer.Option("", help="Image topic of a bag; not needed if it has only one."),
    rate_hz: float = typer.Option(0.0, "--rate", help="Frames per second; replaces the recorded times if given."),
    horizon_steps: int = typer.Option(15, "--horizon", help="Farthest step of 1/15 s that is evaluated."),
    num_samples: int = typer.Option(1, "--samples", help="Sampled futures in each forecast."),
    temperature: float = typer.Option(1.0, help="Factor on the latent noise."),
    seed: int = typer.Option(0, help="Seed of the latent noise."),
    region: str = typer.Option("", help="Region of interest: x,y,width,height in pixels; empty: the whole image."),
    stereo_half: str = typer.Option("", help="Eye of a side-by-side stereo recording: left or right."),
    provider: str = _PROVIDER,
    variant: str = typer.Option("", help="Reduced variant of the bundle's graphs (gridkp info); empty: none."),
    lpips_weights: str = typer.Option("", help="Folder of LPIPS's weight files, or 'download'; empty: no LPIPS."),
    lpips_net: str = typer.Option("alex", help="LPIPS's network: alex or vgg."),
    vgg_weights: str = typer.Option("", help="VGG-16 file of torchvision, or 'download'; empty: no VGG cosine."),
    fvd_weights: str = typer.Option("", help="TorchScript file of an I3D network; empty: no FVD."),
    pictures: bool = typer.Option(True, help="Draw film, strips and report."),
    as_json: bool = _JSON,
) -> None:
    """Run every frame of a recording through a model, and score its forecasts against what then happened."""
    from gridkp_ros.data.sources import open_source
    from gridkp_ros.evaluation.replay import replay as run

    frame_metrics: dict[str, Any] = {}
    video_distance = None
    if lpips_weights:
        from gridkp_ros.evaluation.learned.lpips import Lpips

        frame_metrics["lpips"] = Lpips(lpips_weights, lpips_net)
    if vgg_weights:
        from gridkp_ros.evaluation.learned.vgg import VggCosine

        frame_metrics["vgg_cosine"] = VggCosine(vgg_weights)
    if fvd_weights:
        from gridkp_ros.evaluation.learned.fvd import Fvd

        video_distance = Fvd(fvd_weights)
    source = open_source(recording, topic or None, rate_hz or None)
    predictor = _predictor(model, provider, seed, temperature, region, stereo_half, variant)
    with _progress() as progress:
        task = progress.add_task(f"replaying {source.name}", total=source.length)
        result = run(
            source, predictor, out, horizon_steps=horizon_steps, num_samples=num_samples, pictures=pictures,
            frame_metrics=frame_metrics, video_distance=video_distance,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    _show_result(result, out, as_json)


@app.command()
def trust(
    recording: Path = typer.Argument(..., help="Video file, rosbag2, or folder of images."),
    model: str = _MODEL,
    topic: str = typer.Option("", help="Image topic of a bag; not needed if it has only one."),
    rate_hz: float = typer.Option(0.0, "--rate", help="Frames per second; replaces the recorded times if given."),
    region: str = typer.Option("", help="Region of interest: x,y,width,height in pixels; empty: the whole image."),
    stereo_half: str = typer.Option("", help="Eye of a side-by-side stereo recording: left or right."),
    provider: str = _PROVIDER,
    as_json: bool = _JSON,
) -> None:
    """Measure what the trust of forecasts is worth: replay a recording as it is, and with its images disturbed."""
    from gridkp_ros.data.sources import open_source
    from gridkp_ros.evaluation.trust import measure_trust

    source = open_source(recording, topic or None, rate_hz or None)
    with _progress() as progress:
        task = progress.add_task(f"replaying {source.name}", total=None)
        result = measure_trust(
            source, lambda: _predictor(model, provider, 0, 1.0, region, stereo_half),
            lambda name: progress.update(task, description=f"replaying {source.name}: {name}"),
        )
    if as_json:
        _print_json(result)
        return
    console = _console()
    for what in ("passes", "bins"):
        first, last = "disturbance" if what == "passes" else "trust", f"within {result['good_cells']:g} cells"
        table = Table(first, "forecasts", "median trust", "median error, cells", last)
        for name, row in result[what].items():
            figures = ("-" if row[key] is None else f"{row[key]:.2f}" for key in ("trust", "error_cells", "good"))
            table.add_row(name, str(row["forecasts"]), *figures)
        console.print(table)
    area = result["auroc"]
    console.print("All forecasts are of one kind." if area is None else f"Area under the ROC: {area:.3f}")


@app.command()
def stereo(
    model: str = _MODEL,
    recordings: int = typer.Option(6, min=1, help="Simulated ones, of 10 s each; rendered once and kept."),
    seed: int = typer.Option(900_001, min=0, help="Of the first one; the next ones follow."),
    num_samples: int = typer.Option(1, "--samples", help="Sampled futures in each forecast."),
    provider: str = _PROVIDER,
    as_json: bool = _JSON,
) -> None:
    """Measure how far named points in space are off: both eyes of a simulated endoscope in one Predictor."""
    from gridkp_ros.evaluation.stereo import evaluate_stereo, tabulate
    from gridkp_ros.node.resources import find_model

    seeds = range(seed, seed + recordings)
    result = evaluate_stereo(find_model(model), seeds, num_samples=num_samples, provider=provider)
    if as_json:
        _print_json(result)
    else:
        Console().print(tabulate(result))


@app.command()
def train(
    config: Path | None = typer.Option(None, help="YAML file under config/train, or one of your own."),
    preset: str = typer.Option("", help="In place of --config: an experiment of the paper, see docs/experiments.md."),
    data: list[str] = typer.Option([], help="Of a preset: kth=/data/kth, or simulator in its place."),
    runs: Path = typer.Option(Path("runs/paper"), help="Of a preset: folder of all presets' runs."),
    changes: list[str] = typer.Option([], "--set", help="Change a field, such as --set stage1.steps=500; repeatable."),
    out: Path | None = typer.Option(None, help="The run's folder; default: runs/<name>."),
    bundle: Path | None = typer.Option(None, help="Where the bundle is exported; default: <out>/bundle."),
    resume: bool = typer.Option(False, "--resume", help="Go on where an interrupted run stopped."),
    from_bundle: Path | None = typer.Option(
        None, "--from", "--from-bundle", help="Bundle or checkpoint whose weights are the start."
    ),
    take: str = typer.Option("all", help="What to take from --from: all weights, vision, or the detector alone."),
    only: str = typer.Option(
        "", help="Stop after one part: stage1, synthesis or stage2; the last two can run side by side."
    ),
) -> None:
    """Train detector, synthesiser and dynamics, fit the probe, and export a bundle."""
    from gridkp_ros.training.presets import parse_changes
    from gridkp_ros.training.run import train as run

    if bool(config) == bool(preset):
        raise typer.BadParameter("give either --config or --preset")
    changed = parse_changes(changes)
    if config is None:
        if only or out or bundle or from_bundle:
            raise typer.BadParameter("--out, --bundle, --from and --only are not for presets, which settle them")
        _train_presets([preset], runs, data, changed)
        return
    checkpoint = run(
        config, out=out, resume=resume, from_bundle=from_bundle, take=take, only=only or None, changes=changed
    )
    _finish_training(checkpoint, None if only else bundle or checkpoint.parent / "bundle")


@app.command()
def export(
    checkpoint: Path = typer.Argument(..., help="Checkpoint folder of a training run."),
    bundle: Path = typer.Argument(..., help="Folder to write the bundle to."),
    variants: str = typer.Option("auto", help="Reduced variants to add, such as int8,fp16; auto: all; empty: none."),
) -> None:
    """Write a checkpoint's bundle; refused unless ONNX Runtime and PyTorch agree."""
    from gridkp_ros.export.bundle import export as run

    run(checkpoint, bundle, variants=None if variants == "auto" else [name for name in variants.split(",") if name])


@app.command()
def card(
    bundle: Path = typer.Argument(..., help="Folder of the bundle whose MODEL_CARD.md is written."),
    metrics: Path = typer.Argument(..., help="metrics.json of an evaluation of that bundle."),
    command: str = typer.Option(..., help="The command that makes these metrics, to stand beside them."),
) -> None:
    """Write a bundle's model card with measured results; what stands under "Known faults" stays."""
    from gridkp_ros.export.card import known_faults, model_card, results_section
    from gridkp_ros.runtime import Bundle

    manifest = Bundle.load(bundle).manifest
    measured = json.loads(metrics.read_text())
    if measured["model"]["id"] != manifest.model_id:
        raise typer.BadParameter(f"{metrics} is of {measured['model']['id']}, the bundle is {manifest.model_id}")
    path = bundle / "MODEL_CARD.md"
    path.write_text(model_card(manifest, bundle, results_section(measured, command)) + known_faults(path))
    _console().print(f"{path}: written", highlight=False)


@app.command()
def info(
    model: str = typer.Argument("dvrk_sim", help="Folder of a bundle, or the name of one under models/."),
    as_json: bool = _JSON,
) -> None:
    """Check a bundle and say what it is."""
    from gridkp_ros.node.resources import find_model
    from gridkp_ros.runtime import Bundle

    bundle = Bundle.load(find_model(model))
    m = bundle.manifest
    facts = {
        "model_id": m.model_id, "family": m.family, "licence": m.licence, "input": m.input.to_dict(),
        "num_keypoints": m.num_keypoints, "pose_fields": list(m.pose_fields), "period_s": m.period_s,
        "trusted_steps": m.trusted_steps, "clip_length": m.clip_length, "can_coast": m.can_coast,
        "named_points": list(m.probe.point_names) if m.probe else [], "graphs": dict(m.graphs),
        "variants": {name: variant.to_dict() for name, variant in m.variants.items()}, "provenance": m.provenance,
    }
    if as_json:
        _print_json(facts)
        return
    table = Table(title=str(bundle.path), show_header=False, title_justify="left")
    for name, value in facts.items():
        if name == "provenance":  # pages of it: --json, and MODEL_CARD.md for people
            value = value.get("description", "")
        elif name == "graphs":
            value = ", ".join(value)
        elif name == "variants":
            value = "\n".join(f"{n}: {v.graphs_and_loss()}" for n, v in m.variants.items()) or "none"
        table.add_row(name, value if isinstance(value, str) else json.dumps(value))
    Console().print(table)


@app.command()
def doctor(
    model: str = _MODEL,
    quick: bool = typer.Option(False, "--quick", help="Leave out what takes seconds: GL, DDS round trip, /clock."),
    as_json: bool = _JSON,
) -> None:
    """Say what works on this machine and what is missing; the exit status is 1 if predicting does not work."""
    from rich.markup import escape

    from gridkp_ros.doctor import examine, to_json, works

    findings = examine(model, quick=quick)
    if as_json:
        _print_json(to_json(findings))
    else:
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        for f in findings:
            line = f"{f.area}: {f.name}: {f.text}" + (f" ({f.advice})" if f.advice else "")
            Console().print(f"[{colours[f.status]}]{f.status:4}[/] {escape(line)}", highlight=False, soft_wrap=True)
    if not works(findings):
        raise typer.Exit(1)


@sim_app.command("render")
def sim_render(
    out: Path = typer.Argument(..., help="Video to write (.mp4); the truth goes beside it (.npz)."),
    seed: int = typer.Option(0, help="Of the scene and the motions."),
    duration_s: float = typer.Option(10.0, "--duration", help="Seconds."),
    rate_hz: float = typer.Option(30.0, "--rate", help="Frames per second."),
    width: int = typer.Option(640, help="Pixels."),
    height: int = typer.Option(480, help="Pixels."),
    background: str = typer.Option("random", help="tissue, peg_board or random."),
) -> None:
    """Render an episode with its ground truth."""
    from gridkp_ros.data.video_out import VideoWriter
    from gridkp_ros.sim import SimConfig, generate_episode, save_episode

    config = SimConfig(width=width, height=height, rate_hz=rate_hz, duration_s=duration_s, background=background)
    with _progress() as progress:
        task = progress.add_task(f"rendering seed {seed}", total=config.n_frames)
        episode = generate_episode(config, seed, progress=lambda done, _: progress.update(task, completed=done))
    out.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(out, rate_hz) as video:
        for frame in episode.left:
            video.write(frame)
    save_episode(out.with_suffix(".npz"), episode, images=False)
    _console().print(f"{out} and {out.with_suffix('.npz').name}: {config.n_frames} frames", highlight=False)


@sim_app.command("evaluate")
def sim_evaluate(
    out: Path = typer.Option(..., help="Folder for metrics.json (and report, film and strips)."),
    model: str = _MODEL,
    first_seed: int = typer.Option(200_000, help="First of the episodes' seeds; choose ones never trained on."),
    episodes: int = typer.Option(6, help="Number of episodes."),
    duration_s: float = typer.Option(8.0, "--duration", help="Seconds of each episode."),
    rate_hz: float = typer.Option(15.0, "--rate", help="Frames per second."),
    width: int = typer.Option(320, help="Pixels."),
    height: int = typer.Option(240, help="Pixels."),
    num_samples: int = typer.Option(1, "--samples", help="Sampled futures in each forecast."),
    seed: int = typer.Option(0, help="Seed of the latent noise."),
    provider: str = _PROVIDER,
    pictures: bool = typer.Option(False, help="Draw film, strips and report too (minutes)."),
    as_json: bool = _JSON,
) -> None:
    """Score a model on simulated episodes, named points against their ground truth."""
    from gridkp_ros.evaluation.episodes import EpisodeSource
    from gridkp_ros.evaluation.replay import replay as run
    from gridkp_ros.sim import POINT_NAMES, SimConfig, generate_episode

    config = SimConfig(width=width, height=height, rate_hz=rate_hz, duration_s=duration_s)
    seeds = range(first_seed, first_seed + episodes)
    source = EpisodeSource(
        f"simulator seeds {seeds[0]} to {seeds[-1]}", seeds, lambda number: generate_episode(config, number)
    )
    predictor = _predictor(model, provider, seed, 1.0, "", "")
    names = predictor.manifest.probe.point_names if predictor.manifest.probe else ()
    unknown = sorted(set(names) - set(POINT_NAMES))
    if unknown:
        logging.getLogger(__name__).warning("the simulator has no %s: named points are not scored", unknown)
    order = [POINT_NAMES.index(name) for name in names if name in POINT_NAMES]

    def truth(stamp_ns: int) -> tuple[Any, Any]:
        points, visible = source.truth(stamp_ns)
        return points[order], visible[order]

    with _progress() as progress:
        task = progress.add_task("rendering and replaying", total=episodes * config.n_frames)
        result = run(
            source, predictor, out, num_samples=num_samples, truth=None if unknown else truth,
            instruments=(POINT_NAMES, source.truth), pictures=pictures,
            progress=lambda done, _: progress.update(task, completed=done),
        )
    _show_result(result, out, as_json)


@app.command()
def evaluate(
    tables: list[str] = typer.Option([], "--table", help="Of the paper: I to VI; repeatable. Default: all."),
    data: list[str] = typer.Option(..., help="kth=/data/kth, human36m=...; or simulator, footage=... in their place."),
    runs: Path = typer.Option(Path("runs/paper"), help="Folder of the presets' runs, see gridkp train --preset."),
    out: Path | None = typer.Option(None, help="Folder for tables, clip lists and figures; default: <runs>/tables."),
    train_missing: bool = typer.Option(False, "--train", help="First train what the tables need and is not there."),
    changes: list[str] = typer.Option([], "--set", help="With --train: change a field of every training; repeatable."),
    num_samples: int = typer.Option(100, "--samples", help="Sampled futures of each clip."),
    clips: int = typer.Option(256, help="Clips, drawn once and the same for all rows."),
    seed: int = typer.Option(0, help="Of the clips and of the latent noise."),
    rule: str = typer.Option("gridkp", help="Which sample is the best: gridkp, gridkp_code, savp or svg."),
    lpips_weights: str = typer.Option("", help="Folder of LPIPS's weight files, or 'download'; empty: no LPIPS."),
    lpips_net: str = typer.Option("alex", help="LPIPS's network: alex or vgg."),
    fvd_weights: str = typer.Option("", help="TorchScript file of an I3D network; empty: no FVD."),
    provider: str = _PROVIDER,
    workers: int = typer.Option(1, help="Processes that compute the figures of frames."),
    as_json: bool = _JSON,
) -> None:
    """Fill the paper's Tables I to VI from trained presets, beside the paper's numbers."""
    from gridkp_ros.data.paper import parse_places
    from gridkp_ros.evaluation.paper import Learned
    from gridkp_ros.evaluation.tables import evaluate as run
    from gridkp_ros.evaluation.tables import read_paper, to_markdown

    places = parse_places(data)
    learned: dict[str, Any] = {"frames": {}, "fvd": None, "weights": ""}
    if lpips_weights:
        from gridkp_ros.evaluation.learned.lpips import Lpips

        learned["frames"] = {"lpips": Lpips(lpips_weights, lpips_net).each}
        learned["weights"] = f"LPIPS v0.1 ({lpips_net}) of {Path(lpips_weights).name}"
    if fvd_weights:
        from gridkp_ros.evaluation.learned.fvd import Fvd

        learned["fvd"] = Fvd(fvd_weights)
        learned["weights"] = f"{learned['weights']} I3D {Path(fvd_weights).name}".strip()
    if train_missing:
        from gridkp_ros.training.presets import parse_changes

        names = [name for table in read_paper().chosen(tables) for name in table.runs]
        _train_presets(names, runs, data, parse_changes(changes))
        from gridkp_ros.training.processes import is_first

        if not is_first():
            return
    elif changes:
        raise typer.BadParameter("--set changes trainings: give --train with it")
    folder = out or runs / "tables"
    with _progress() as progress:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        result = run(
            tables, runs, places, folder, samples=num_samples, count=clips, seed=seed, rule=rule, provider=provider,
            workers=workers, progress=show, learned=Learned(**learned),
        )
    if as_json:
        _print_json(result)
        return
    sys.stdout.write("\n".join(map(to_markdown, result["tables"])))
    _console().print(f"{folder}: tables.md, tables.csv, tables.json and report.html", highlight=False)


def _train_presets(names: Sequence[str], runs: Path, data: Sequence[str], changes: dict[str, Any]) -> None:
    """Train and export presets, and what they start from, as far as it is not done; a killed one goes on."""
    from gridkp_ros.data.paper import parse_places
    from gridkp_ros.node.resources import find_resource
    from gridkp_ros.training.presets import Presets
    from gridkp_ros.training.run import train as run

    presets, places = Presets(find_resource("config/train/paper")), parse_places(data)
    for name in presets.with_starts(names):
        preset, out = presets[name], runs / name
        if presets.trained(name, runs, presets.config(name, places, changes)):
            continue
        _console().print(f"training {name} in {out}", highlight=False)
        checkpoint = run(
            presets.config_path(name), out=out, resume=(out / "config.json").is_file(),
            from_bundle=runs / preset.start / "bundle" if preset.start else None, take=preset.take,
            changes=presets.changes(name, places, changes),
        )
        _finish_training(checkpoint, out / "bundle")


def _finish_training(checkpoint: Path, bundle: Path | None) -> None:
    """Export the bundle, if all parts are trained, and say what the run has come to; one of its processes does."""
    from gridkp_ros.training.processes import is_first
    from gridkp_ros.training.summary import conclude

    if not is_first():
        return
    if bundle is not None:
        from gridkp_ros.export.bundle import export

        export(checkpoint, bundle)
    conclude(checkpoint.parent, bundle, _console())


@data_app.command("prepare")
def data_prepare(
    path: Path | None = _PATH, config: Path | None = _CONFIG, dataset: str = _DATASET, root: Path = _ROOT,
    split: str = _SPLIT, option: list[str] = _OPTION, size: str = _SIZE, grey: bool = _GREY, resize: str = _RESIZE,
    rate_hz: float = _RATE, workers: int = _WORKERS, as_json: bool = _JSON,
) -> None:
    """Decode data once into the cache, and check what is there; killed, it goes on where it was."""
    chosen, spec, period_s = _choose_data(path, config, dataset, root, split, option, size, grey, resize, rate_hz)
    sets = [_prepare(*one, spec, period_s, workers, verify=True) for one in chosen]
    if as_json:
        totals = {key: sum(s.summary()[key] for s in sets) for key in ("items", "decoded", "recordings", "frames")}
        totals["seconds"] = sum(s.seconds for s in sets)
        _print_json({"sets": [s.summary() for s in sets], **totals, "unreadable": sum(len(s.unreadable) for s in sets)})
        return
    columns = ("data set", "items", "decoded", "recordings", "frames", "unreadable", "damaged", "seconds")
    table = Table(*columns, box=None)
    for s in sets:
        counts = (s.items, s.decoded, len(s.recordings), s.frames, len(s.unreadable), len(s.damaged))
        table.add_row(s.name, *map(str, counts), f"{s.seconds:.1f}")
    Console().print(table)


@data_app.command("show")
def data_show(
    path: Path | None = _PATH, config: Path | None = _CONFIG, dataset: str = _DATASET, root: Path = _ROOT,
    split: str = _SPLIT, option: list[str] = _OPTION, size: str = _SIZE, grey: bool = _GREY, resize: str = _RESIZE,
    rate_hz: float = _RATE, workers: int = _WORKERS,
    out: Path = typer.Option(Path("contact_sheet.png"), help="The picture to write (.png)."),
    rows: int = typer.Option(12, min=1, help="Recordings shown, spread over all of them."),
    columns: int = typer.Option(8, min=1, help="Frames shown of each."),
) -> None:
    """Draw a contact sheet: a row for each recording, frames over time, with name, label and known points."""
    import cv2

    from gridkp_ros.data.prepare import spread
    from gridkp_ros.data.sheet import contact_sheet

    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise typer.BadParameter(f"--out {out}: a picture is written as .png or .jpg")
    chosen, spec, period_s = _choose_data(path, config, dataset, root, split, option, size, grey, resize, rate_hz)
    each = max(1, rows // len(chosen))
    sets = [_prepare(data, spread(items, each), part, spec, period_s, workers) for data, items, part in chosen]
    recordings = [recording for s in sets for recording in spread(s.recordings, each)][:rows]
    out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(out), contact_sheet(recordings, columns)[..., ::-1]):
        raise OSError(f"{out} cannot be written")
    _console().print(f"{out}: {len(recordings)} recordings", highlight=False)


@bench_app.command("train")
def bench_train(
    config: Path | None = typer.Option(None, help="Training configuration whose sizes are taken; default: published."),
    batch: int = typer.Option(4, help="Clips in a training step."),
    repetitions: int = typer.Option(3, help="Of the trainer and of the loop, in turns; medians are reported."),
    device: str = typer.Option("auto", help="cpu, cuda, or auto: cuda where there is one."),
    precision: str = typer.Option("", help="Of the trainer: 32, or bf16-mixed (default where native)."),
    as_json: bool = _JSON,
) -> None:
    """Measure training steps of both stages, beside a plain loop over time steps and samples.

    Both compute the same loss from the same weights and batch, which is checked; about two minutes on two CPU cores.
    """
    from gridkp_ros.bench.train import bench_train as run
    from gridkp_ros.bench.train import tabulate

    result = run(
        config, batch=batch, repetitions=repetitions, device=device, trainer_precision=precision or None
    )
    if as_json:
        _print_json(result)
    else:
        Console().print(tabulate(result))


@bench_app.command("online")
def bench_online(
    model: str = _MODEL,
    provider: list[str] = typer.Option([], help="cpu, cuda or tensorrt; repeatable. Default: all that are there."),
    variant: list[str] = typer.Option([], help="Of the bundle; equal is its graphs as they are. Default: all."),
    threads: int = typer.Option(0, min=0, help="Of both sides; 0: one for each core."),
    out: Path | None = typer.Option(None, help="Folder for online.json and online.md."),
    quick: bool = typer.Option(False, "--quick", help="Few runs: to see that it works, not how fast."),
    as_json: bool = _JSON,
) -> None:
    """Measure observing, forecasting and drawing beside eager PyTorch with the same weights, and a fresh process.

    Both see the same frames, and their keypoints are compared; some three minutes on two CPU cores.
    """
    from gridkp_ros.bench.online import QUICK, Budget, tabulate, to_markdown
    from gridkp_ros.bench.online import bench_online as run
    from gridkp_ros.node.resources import find_model

    rows = run(find_model(model), provider, variant, threads, QUICK if quick else Budget())
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "online.json").write_text(json.dumps(rows, indent=1) + "\n")
        (out / "online.md").write_text(to_markdown(rows))
    if as_json:
        _print_json(rows)
    else:
        Console().print(tabulate(rows))


@bench_app.command("node")
def bench_node(
    model: str = _MODEL,
    seconds: float = typer.Option(10.0, min=0.5, help="Of images measured in each case, after two of warm-up."),
    sizes: str = typer.Option("640x480,1920x1080", help="Of the images, WIDTHxHEIGHT."),
    rates: str = typer.Option("30,60", help="Images a second."),
    transports: str = typer.Option("raw,compressed", help="raw, compressed, or both."),
    reliability: str = typer.Option("reliable", help="The camera's: reliable or best_effort."),
    quick: bool = typer.Option(False, "--quick", help="Two seconds of each case."),
    soak: float = typer.Option(0.0, min=0.0, help="Minutes of the first case alone, judged for growth."),
    overload: float = typer.Option(2.0, min=0.0, help="In a soak: a forecast takes so many periods; 0: as it is."),
    recording: Path | None = typer.Option(None, help="What the camera shows; default: a simulated scene."),
    parameter: list[str] = typer.Option([], "--set", help="A parameter of the node: name=value; repeatable."),
    out: Path | None = typer.Option(None, help="Folder for logs, JSON and curves."),
    as_json: bool = _JSON,
) -> None:
    """Put predictor_node under a camera in another process: what arrives, how old forecasts are, what it holds.

    A node that loses images shows in the rows; a soak that finds growth, or an error of the node, ends with status 1.
    """
    import yaml

    from gridkp_ros.node.bench_node import Options, parse_cases, run_cases, tabulate
    from gridkp_ros.node.bench_node import soak as run_soak

    try:
        parameters = {name: yaml.safe_load(value) for name, value in (p.split("=", 1) for p in parameter)}
    except ValueError as error:
        raise typer.BadParameter(f"--set is name=value, not {' '.join(parameter)}") from error
    options = Options(
        model=model, seconds=2.0 if quick else seconds, reliability=reliability, parameters=parameters,
        recording=recording,
    )
    cases = parse_cases(sizes, rates, transports)
    with _console().status("starting") as status:
        if soak:
            result = run_soak(cases[0], soak, options, out, overload=overload, progress=status.update)
            rows = [result]
        else:
            result = rows = run_cases(cases, options, out, progress=status.update)
    if as_json:
        _print_json(result)
    else:
        Console().print(tabulate(rows))
        if soak:
            Console().print(result["verdict"])
    if soak and not result["ok"]:
        raise typer.Exit(1)


def _choose_data(
    path: Path | None, config: Path | None, dataset: str, root: Path, split: str, option: list[str], size: str,
    grey: bool, resize: str, rate_hz: float,
) -> tuple[list[tuple[Any, list[Any], tuple[float, float]]], Any, float]:
    """Return data sets with their wanted items and the part of each, the model's input and its period."""
    import yaml

    from gridkp_ros.data.datasets import open_dataset
    from gridkp_ros.geometry import InputSpec

    if (path is not None) + (config is not None) + bool(dataset) != 1:
        raise typer.BadParameter("give one of a path, --config, or --dataset with its --root")
    if config is not None:
        from gridkp_ros.training.config import load_config
        from gridkp_ros.training.sources import open_source, part_wanted

        training = load_config(config)
        sources = (*training.data.train, *training.data.validation)
        opened = [(*open_source(source, training), part_wanted(source)) for source in sources]
        return opened, training.input_spec, training.data.period_s
    try:
        options = {key: yaml.safe_load(value) for key, value in (o.split("=", 1) for o in option)}
    except ValueError as error:
        raise typer.BadParameter(f"--option is name=value, not {' '.join(option)}") from error
    try:
        width, height = map(int, size.split("x"))
    except ValueError as error:
        raise typer.BadParameter(f"--size is WIDTHxHEIGHT, not {size}") from error
    spec = InputSpec(height, width, 1 if grey else 3, "grey" if grey else "rgb", resize)
    data = open_dataset(dataset or "footage", root if path is None else path, split if dataset else "all", **options)
    return [(data, data.items(), (0.0, 1.0))], spec, 1 / rate_hz


def _prepare(
    data: Any, items: list[Any], part: tuple[float, float], spec: Any, period_s: float, workers: int,
    verify: bool = False,
) -> Any:
    from gridkp_ros.data.prepare import prepare as run
    from gridkp_ros.data.prepare import usable_cores

    with _progress() as progress:
        task = progress.add_task(f"preparing {data.name}", total=len(items))
        return run(
            data, spec, period_s, items=items, part=part, workers=workers or usable_cores(), verify=verify,
            progress=lambda done, _: progress.update(task, completed=done),
        )


def _predictor(
    model: str, provider: str, seed: int, temperature: float, region: str, stereo_half: str, variant: str = ""
) -> Any:
    from gridkp_ros.geometry import GeometryError, Region
    from gridkp_ros.node.resources import find_model
    from gridkp_ros.runtime import Predictor

    rectangle = None
    if region:
        try:
            rectangle = Region(*(int(v) for v in region.split(",")))
        except (TypeError, ValueError) as error:
            raise GeometryError(f"region {region!r}: give x,y,width,height in whole pixels ({error})") from error
    return Predictor(
        find_model(model), provider=provider, variant=variant, seed=seed, temperature=temperature, region=rectangle,
        stereo_half=stereo_half,
    )


def _show_result(result: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        _print_json(result)
        return
    console = Console()
    console.print(", ".join(f"{name} {count}" for name, count in result["frames"].items()), highlight=False)
    table = Table(title="Means at steps of 1/15 s", title_justify="left")
    for name in ("metric", "method", *result["horizons"]):
        table.add_column(name, justify="left" if name in ("metric", "method") else "right")
    first = next(iter(result["horizons"].values()))
    for metric, by_method in first.items():
        for method in by_method:
            means = [by_step[metric][method]["mean"] for by_step in result["horizons"].values()]
            table.add_row(metric, method, *("-" if m is None else f"{m:.3f}" for m in means))
    console.print(table)
    console.print(_keypoint_sentence(result), highlight=False)
    if "fvd" in result:
        console.print("FVD: " + ", ".join(f"{name} {value}" for name, value in result["fvd"].items()), highlight=False)
    made = "metrics.json with intervals and curves" + (", report.html" if (out / "report.html").is_file() else "")
    console.print(f"{out}: {made}", highlight=False)


def _keypoint_sentence(result: dict[str, Any]) -> str:
    """Say what share of the keypoints moves, moves like all others, and moves with an instrument."""
    motion, followed = result["keypoint_motion"], result.get("keypoints_with_instrument", {}).get("share")
    shares = {
        "move": motion["moving_share"], "move like all others": motion["alike_share"],
        "move with an instrument": followed,
    }
    return "Keypoints that " + ", ".join(
        f"{what}: {'not known' if share is None else f'{share:.0%}'}" for what, share in shares.items()
    )


def main(args: list[str] | None = None) -> int:
    """Run the command line; the exit status is 1 after an error, which is said in one sentence."""
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=_console(), show_path=False)]
    )
    for noisy in ("onnx_ir", "onnxscript", "lightning", "torch", "OpenGL", "absl"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It warns at every export that torchvision, which nothing here uses, is not installed.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    try:
        app(args, standalone_mode=True)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        _console().print(f"gridkp: {error.name} is not installed: pip install 'gridkp_ros\\[{extra}]'", highlight=False)
        return 1
    except OSError as error:  # a folder that cannot be made, a full disk: it names the file itself
        _console().print(f"gridkp: {error}", highlight=False, markup=False)
        return 1
    except Exception as error:
        # Each room has a domain error whose message says what, where and what to do; anything else is a bug.
        if not type(error).__module__.startswith("gridkp_ros."):
            raise
        _console().print(f"gridkp: {error}", highlight=False, markup=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
