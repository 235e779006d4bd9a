"""Reduced variants: declared in the manifest, checked, and used where asked for."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from gridkp_ros.runtime import Bundle, BundleError, Manifest, Predictor, PredictorError
from gridkp_ros.runtime.variants import Variant, VariantError
from support.streams import squares
from support.tiny_bundle import tiny_variant, write_tiny_bundle


@pytest.fixture()
def path(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "model", variant="int8", coast_graph=True)


def changed(path: Path, **changes: object) -> Manifest:
    """The manifest's text with fields of the variant changed, read again."""
    content = json.loads((path / "manifest.json").read_text())
    content["variants"]["int8"] |= changes
    return Manifest.from_json(json.dumps(content), "m.json")


def test_variants_are_optional_and_survive_the_round_trip(path: Path) -> None:
    text = (path / "manifest.json").read_text()
    manifest = Bundle.load(path).manifest
    assert manifest.to_json() == text and manifest.variants == {"int8": tiny_variant()}
    without = write_tiny_bundle(path.parent / "old")
    assert "variants" not in json.loads((without / "manifest.json").read_text())
    assert Bundle.load(without).manifest.variants == {}


def test_a_graph_without_a_variant_of_its_own_is_used_as_it_is(path: Path) -> None:
    manifest = Bundle.load(path).manifest
    assert manifest.file_of("forecast", "int8") == "forecast.int8.onnx"
    assert manifest.file_of("detect", "int8") == "detect.onnx"
    assert manifest.file_of("forecast", "equal") == manifest.file_of("forecast") == "forecast.onnx"
    with pytest.raises(BundleError, match=r"tiny has no variant 'fp16': it has equal, int8"):
        manifest.file_of("forecast", "fp16")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"graphs": ["forecast", "detect"]}, r"'int8' has 'detect', but graphs lists no detect\.int8\.onnx"),
        ({"graphs": []}, "graphs is .*: name at least one"),
        ({"providers": ["tpu"]}, "providers has tpu: use some of cpu, cuda, tensorrt"),
        ({"description": " "}, "description is empty"),
        ({"loss": None}, "loss is not an object with exactly"),
        ({"more": 1}, "variant is not an object with exactly"),
    ],
)
def test_what_does_not_fit_is_refused(path: Path, changes: dict, sentence: str) -> None:
    with pytest.raises(BundleError, match=rf"^m\.json: variants: .*{sentence}"):
        changed(path, **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": [2, 1]}, r"loss\.steps is \[2, 1\]: whole numbers of steps, rising"),
        ({"distance_cells": [0.1]}, r"loss\.distance_cells is \[0\.1\]: one finite number"),
        ({"same_cells": [0.5, -1]}, r"loss\.same_cells is \[0\.5, -1\]"),
        ({"spread_ratio": "much"}, r"loss\.spread_ratio is str: use a list"),
        ({"measured_on": ""}, "say which states"),
    ],
)
def test_a_loss_that_is_none_is_refused(changes: dict, sentence: str) -> None:
    content = tiny_variant().to_dict()
    with pytest.raises(VariantError, match=sentence):
        Variant.from_dict(content | {"loss": content["loss"] | changes})


def test_files_and_declarations_must_agree(path: Path) -> None:
    text = (path / "manifest.json").read_text()
    undeclared = json.loads(text)
    del undeclared["variants"]
    with pytest.raises(BundleError, match=r"graphs lists forecast\.int8\.onnx, which no variant declares"):
        Manifest.from_json(json.dumps(undeclared))
    renamed = json.loads(text)
    renamed["variants"] = {"equal": renamed["variants"]["int8"]}
    with pytest.raises(BundleError, match="'equal' is no name of a variant"):
        Manifest.from_json(json.dumps(renamed))
    (path / "forecast.int8.onnx").unlink()
    with pytest.raises(BundleError, match=r"forecast\.int8\.onnx is missing though the manifest lists it"):
        Bundle.load(path)


def test_a_predictor_forecasts_by_the_variant_and_sees_by_the_equal_graphs(path: Path) -> None:
    forecasts = []
    for variant in ("", "int8"):
        predictor = Predictor(path, variant=variant, warmup_frames=2)
        assert predictor.variant == variant
        for i in range(3):
            seen = predictor.observe(squares(i, speed=1), round(i * 1e9 / 15))
        np.testing.assert_array_equal(seen.pose, seen.pose.round())
        forecasts.append(predictor.forecast(3, 4).pose[1:])
    equal, reduced = forecasts
    np.testing.assert_array_equal(equal, equal.round())
    assert not np.array_equal(reduced, reduced.round()) and np.abs(reduced - equal).max() < 2
    assert Predictor(path, variant="equal").variant == ""


def test_a_variant_that_is_not_there_is_refused_and_one_of_other_providers_told(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(PredictorError, match=r"variant: tiny has no variant 'int4': it has equal, int8"):
        Predictor(path, variant="int4")
    content = json.loads((path / "manifest.json").read_text())
    content["variants"]["int8"]["providers"] = ["cuda"]
    (path / "manifest.json").write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        Predictor(path, variant="int8")
    assert "variant int8 is for cuda; on cpu it may be slower" in caplog.text
