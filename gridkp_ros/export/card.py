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
    stages = "\n".join(
        f"| {n} | {c.get('steps', '?')} | {c.get('batch_clips', '?')} | {training.get(f'stage{n}_hours', 0):.2f} |"
        for n, c in ((n, config.get(f"stage{n}", {})) for n in (1, 2))
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

{training.get("recordings", "?")} recordings, {training.get("frames", "?")} frames, seed {training.get("seed", "?")},
on {training.get("machine", "?")}.

| stage | steps | clips a step | hours |
|---|---|---|---|
{stages}

Commit {training.get("commit", "?")}. The whole configuration is in manifest.json under provenance.
{probe}{results}"""
