"""What `gridkp export` writes of a checkpoint, beside the graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from gridkp_ros.runtime import Bundle
from gridkp_ros.training.checkpoint import WEIGHTS, load_checkpoint


def test_the_probe_of_a_checkpoint_is_in_manifest_and_card(untrained_bundle_path: Path) -> None:
    fitted = load_checkpoint(untrained_bundle_path.with_name("checkpoint")).probe
    manifest = Bundle.load(untrained_bundle_path).manifest
    assert manifest.probe.point_names == fitted.point_names == ("tip", "wrist")
    for name in ("weight", "bias", "covariance"):
        np.testing.assert_array_equal(getattr(manifest.probe, name), getattr(fitted, name))
    assert manifest.provenance["probe_error_px"] == {"tip": 1.25, "wrist": 2.5}
    card = (untrained_bundle_path / "MODEL_CARD.md").read_text()
    assert "| tip | 1.25 |" in card and "| wrist | 2.50 |" in card


def test_a_training_can_start_from_a_bundle_as_from_its_checkpoint(untrained_bundle_path: Path) -> None:
    checkpoint = untrained_bundle_path.with_name("checkpoint")
    assert (untrained_bundle_path / WEIGHTS).read_bytes() == (checkpoint / WEIGHTS).read_bytes()
