"""The model card: what a bundle is, where it comes from and how good it is, out of its own manifest."""

from __future__ import annotations

from pathlib import Path

from gridkp_ros.runtime.bundle import Manifest

METRICS = {
    "keypoint_error_cells": "keypoint error, cells",
    "tip_error_px": "tips, px",
    "psnr": "PSNR, dB",
    "ssim": "SSIM (7x7 uniform)",
    "ssim_gaussian": "SSIM (11x11 Gaussian)",
    "coverage50": "keypoints in the 50 % ellipse",
    "coverage90": "keypoints in the 90 % ellipse",
    "tip_coverage50": "tips in the 50 % ellipse",
    "tip_coverage90": "tips in the 90 % ellipse",
}
FAULTS = "\n## Known faults\n"


def results_section(metrics: dict, command: str) -> str:
    """Return the card's measured part out of a metrics.json, with the command that makes it."""
    horizons = {h: metrics["horizons"][h] for h in sorted(metrics["horizons"], key=int)}
    head = f"| | method | {' | '.join(f'{h} steps' for h in horizons)} |\n|---|---|{'---|' * len(horizons)}\n"
    rows = []
    for metric, text in METRICS.items():
        for method in next(iter(horizons.values())).get(metric, {}):
            cells = []
            for by_metric in horizons.values():
                v = by_metric[metric][method]
                digits = 3 if metric.startswith("ssim") else 2
                interval = "" if v["low"] is None else f" ({v['low']:.{digits}f} to {v['high']:.{digits}f})"
                cells.append("-" if v["mean"] is None else f"{v['mean']:.{digits}f}{interval}")
            rows.append(f"| {text} | {method.replace('_', ' ')} | {' | '.join(cells)} |")
    return (
        f"\n## Measured\n`{command}`\n\n{metrics['source']['name']}, {metrics['source']['width']} x "
        f"{metrics['source']['height']} pixels, {metrics['frames']['forecasts']} forecasts of "
        f"{metrics['model']['num_samples']} sample(s). Means with 95 % intervals at steps of 1/15 s.\n\n"
        + head
        + "\n".join(rows)
        + "\n"
        + _keypoint_notes(metrics)
    )


def _keypoint_notes(metrics: dict) -> str:
    """Say which keypoints move, and how far the probe is off, where metrics.json tells."""
    motion, followed = metrics.get("keypoint_motion", {}), metrics.get("keypoints_with_instrument", {})
    shares = {
        "move": motion.get("moving_share"),
        "move as all others do": motion.get("alike_share"),
        "move with an instrument": followed.get("share"),
    }
    said = [f"{share:.0%} {what}" for what, share in shares.items() if share is not None]
    notes = f"\nOf the keypoints {', '.join(said)} (docs/evaluation.md).\n" if said else ""
    tips = metrics.get("probe_error_px", {}).get("tips", {}).get("mean")
    return notes + (f"\nTips through the probe, in the frame itself: {tips:.2f} px off.\n" if tips is not None else "")


def known_faults(card: Path) -> str:
    """Return the section that a person wrote at the end of a card, "" without one: it outlives a new card."""
    text = card.read_text() if card.is_file() else ""
    return text[text.index(FAULTS) :] if FAULTS in text else ""


def variants_section(manifest: Manifest) -> str:
    """Return what the card says of reduced variants, "" without one."""
    parts = []
    for name, v in manifest.variants.items():
        loss = v.loss
        rows = "\n".join(
            f"| {step} | {off:.3f} | {same:.1%} | {ratio:.3f} |"
            for step, off, same, ratio in zip(
                loss.steps, loss.distance_cells, loss.same_cells, loss.spread_ratio, strict=True
            )
        )
        parts.append(
            f"\n`{name}`: {v.description} For {', '.join(v.providers)}. Against the equal graphs, with the same noise, "
            f"on {loss.measured_on}:\n\n"
            f"| steps | distance, cells | same cell | spread, ratio |\n|---|---|---|---|\n{rows}\n"
        )
    return "\n## Reduced variants\n" + "".join(parts) if parts else ""


def model_card(manifest: Manifest, folder: Path, results: str = "") -> str:
    """Return MODEL_CARD.md; results: the measured part, Markdown, with the command that measures it."""
    p = manifest.provenance
    training, config = p.get("training", {}), p.get("configuration", {})
    i = manifest.input
    size = sum(f.stat().st_size for f in folder.iterdir()) / 2**20
    sources = "\n".join(
        f"- {s['kind']}: " + ", ".join(f"{k} {v}" for k, v in s.items() if k != "kind" and v is not None)
        for s in config.get("data", {}).get("train", [])
    )
    stages = "\n".join(
        f"| {part} | {config[part]['steps']} | {config[part]['batch_clips']} | {training[f'{part}_hours']:.2f} |"
        for part in ("stage1", "synthesis", "motion", "stage2")
        if f"{part}_hours" in training
    )
    points = "\n".join(f"| {n} | {e:.2f} |" for n, e in p.get("probe_error_px", {}).items())
    probe = (
        "\n## Probe\nA linear map from the keypoints to named points, fitted on training recordings; mean distance in "
        f"model pixels on recordings kept out of the fit:\n\n| point | px |\n|---|---|\n{points}\n"
        if points
        else ""
    )
    start = f"Started from {training['started_from']}" if training.get("started_from") else ""
    if start:
        share = config.get("start_share")
        start += f", whose weights keep a share of {share:g}. " if share else ". "
    return f"""# {manifest.name}

{p.get("description", "")}

Not a medical device; not for diagnosis, treatment or unsupervised motion.

| | |
|---|---|
| family | {manifest.family} |
| input | {i.width} x {i.height}, {i.channels} channels ({i.color}), {i.resize} |
| keypoints | {manifest.num_keypoints} |
| period | 1/{1 / manifest.period_s:.6g} s |
| clips trained on | {manifest.clip_length} frames |
| trusted horizon | {manifest.trusted_steps} steps |
| size | {size:.1f} MiB with trainable weights |
| licence | {manifest.licence} |

## Training
{sources}

{training.get("recordings", "?")} recordings, {training.get("frames", "?")} frames, seed {training.get("seed", "?")},
on {training.get("machine", "?")}.

| part | steps | clips a step | hours |
|---|---|---|---|
{stages}

{start}Commit {training.get("commit", "?")}. The whole configuration is in manifest.json under provenance.

## Limits
One cell of the {i.width} x {i.height} grid is the finest position it knows. Beyond {manifest.trusted_steps} steps it
has not been evaluated. Run `gridkp replay` on a recording of your own before relying on a forecast. Unsupervised
keypoints have no fixed meaning; named points come through the probe and are as good as its error below.
{variants_section(manifest)}{probe}{results}"""
