"""The model card: what a bundle is, where it comes from and how good it is, out of its own manifest."""

from __future__ import annotations

from pathlib import Path

from gridkp_ros.runtime.bundle import Manifest


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
    points = "\n".join(f"| {n} | {e:.2f} |" for n, e in p.get("probe_error_px", {}).items())
    probe = (
        "\n## Probe\nA linear map from the keypoints to named points, fitted on training recordings; mean distance in "
        f"model pixels on recordings kept out of the fit:\n\n| point | px |\n|---|---|\n{points}\n"
        if points
        else ""
    )
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

{training.get("recordings", "?")} recordings, {training.get("frames", "?")} frames. Seed {training.get("seed", "?")}, stage 1
{config.get("stage1", {}).get("steps", "?")} steps of {config.get("stage1", {}).get("batch_clips", "?")} clips
({training.get("stage1_hours", 0):.2f} h), stage 2 {config.get("stage2", {}).get("steps", "?")} steps of
{config.get("stage2", {}).get("batch_clips", "?")} clips ({training.get("stage2_hours", 0):.2f} h), on {training.get("machine", "?")}.
Commit {training.get("commit", "?")}. The configuration is in manifest.json under provenance.
{probe}{results}"""
