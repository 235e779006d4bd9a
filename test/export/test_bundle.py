"""What `gridkp export` writes of a checkpoint, beside the graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
import onnx  # noqa: E402

from gridkp_ros.export import bundle  # noqa: E402
from gridkp_ros.runtime import Bundle  # noqa: E402
from gridkp_ros.training.checkpoint import WEIGHTS, load_checkpoint  # noqa: E402


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


def test_graphs_of_another_network_are_refused(untrained_bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof must fail when graph and network differ: let the exporter give the graphs of other weights."""
    checkpoint = load_checkpoint(untrained_bundle_path.with_name("checkpoint"))
    monkeypatch.setattr(bundle, "to_onnx", lambda *_: onnx.load(untrained_bundle_path / "detect.onnx"))
    with torch.no_grad():
        for p in checkpoint.model.parameters():
            p.add_(0.05)
    with pytest.raises(bundle.ExportError, match=r"detect: .* differ"):
        bundle.build_graphs(checkpoint)


def test_export_does_not_touch_a_folder_that_is_no_bundle(untrained_bundle_path: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(bundle.ExportError, match="no bundle"):
        bundle.export(untrained_bundle_path.with_name("checkpoint"), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "precious"
