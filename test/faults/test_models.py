"""Bundles that are damaged, that lie, or that vanish while they are in use."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from onnx.external_data_helper import set_external_data

from gridkp_ros.node.resources import find_model

from .conftest import MakeTheatre
from .harness import Theatre

WARN, ERROR = DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def edit(folder: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def sign(folder: Path) -> None:
    """Put the graphs' true checksums into the manifest, as one who tampers would."""
    edit(folder, lambda m: m["graphs"].update({
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in m["graphs"]
    }))


def truncated(folder: Path) -> None:
    path = folder / "update.onnx"
    path.write_bytes(path.read_bytes()[:1000])


def truncated_and_signed(folder: Path) -> None:
    truncated(folder)
    sign(folder)


def flipped(folder: Path) -> None:
    content = bytearray((folder / "detect.onnx").read_bytes())
    content[len(content) // 2] ^= 0x10
    (folder / "detect.onnx").write_bytes(content)


def lying_shapes(folder: Path) -> None:
    edit(folder, lambda m: m["state"][0].update(shape=[2 * n for n in m["state"][0]["shape"]]))


def lying_keypoints(folder: Path) -> None:
    def change(manifest: dict) -> None:
        manifest.update(num_keypoints=manifest["num_keypoints"] + 1, probe=None)
        for fitted in ("baselines", "familiarity"):
            manifest.pop(fitted, None)

    edit(folder, change)


def lying_size(folder: Path) -> None:
    edit(folder, lambda m: m["input"].update(height=2**31, width=2**31))


def external(folder: Path) -> None:
    path = folder / "detect.onnx"
    model = onnx.load(path)
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    set_external_data(tensor, "../../../../etc/passwd", offset=0, length=len(tensor.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    path.write_bytes(model.SerializeToString())
    sign(folder)


def link_outside(folder: Path) -> None:
    (folder / "render.onnx").rename(folder.parent / f"{folder.name}_render.onnx")
    (folder / "render.onnx").symlink_to(folder.parent / f"{folder.name}_render.onnx")


def pickle_inside(folder: Path) -> None:
    (folder / "weights.pkl").write_bytes(b"\x80\x04.")


def half_a_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:500])


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def other_schema(folder: Path) -> None:
    edit(folder, lambda m: m.update(schema_version=99))


def no_graph(folder: Path) -> None:
    (folder / "forecast.onnx").unlink()


BROKEN = {
    "a graph cut short": (truncated, r"update\.onnx has SHA-256"),
    "a graph cut short, with a checksum to match": (truncated_and_signed, r"update\.onnx"),
    "a flipped bit": (flipped, r"detect\.onnx has SHA-256"),
    "a manifest that lies about a state's shape": (lying_shapes, r"(update|forecast)\.onnx: input"),
    "a manifest that lies about the number of keypoints": (lying_keypoints, r"detect\.onnx: output 'pose'"),
    "a manifest of images of 2^31 x 2^31": (lying_size, r"manifest\.json"),
    "a graph with weights in a file outside": (external, r"detect\.onnx keeps the weights of .* in another file"),
    "a graph that is a link to outside": (link_outside, r"render\.onnx cannot be read \(it is a link to"),
    "a pickle": (pickle_inside, r"'weights\.pkl' is a pickle"),
    "half a manifest": (half_a_manifest, r"manifest\.json is not valid JSON"),
    "no manifest": (no_manifest, r"no model .* holds a manifest\.json"),
    "another schema": (other_schema, "schema_version is 99"),
    "a graph missing": (no_graph, r"forecast\.onnx is missing"),
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the model in use, on a path that is not easy."""
    return Path(shutil.copytree(find_model(""), tmp_path / "a modèl, with spaces & ünicode"))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_is_refused_and_the_old_one_goes_on(theatre: Theatre, copy: Path, name: str) -> None:
    spoil, sentence = BROKEN[name]
    spoil(copy)
    with theatre.fault(f"model set to one with {name}") as fault:
        taken, reason = theatre.set(model=str(copy))
        if not taken:  # refused at once
            fault.answered(reason, sentence)
        else:  # taken to be loaded beside the stream
            fault.said(sentence, diagnosed="goes on: ", level=WARN)


@pytest.mark.parametrize("name", ["a flipped bit", "a manifest that lies about a state's shape", "no manifest",
                                  "a graph with weights in a file outside"])
def test_a_broken_model_is_not_configured_and_a_whole_one_is(
    make_theatre: MakeTheatre, copy: Path, name: str
) -> None:
    spoil, sentence = BROKEN[name]
    spoil(copy)
    theatre = make_theatre(autostart=False, wait_active=False, model=str(copy))
    assert not theatre.transition("configure")
    assert theatre.state() == "unconfigured"
    assert theatre.node.said(sentence)
    said = theatre.node.said(sentence).partition("]: ")[2]
    shutil.rmtree(copy)
    shutil.copytree(find_model(""), copy)
    assert theatre.transition("configure") and theatre.transition("activate")
    theatre.await_active()
    with theatre.fault(f"configured with {name}, then with a whole model") as fault:
        fault.sentences.append(said)


def test_the_model_is_deleted_while_in_use(make_theatre: MakeTheatre, copy: Path) -> None:
    theatre = make_theatre(model=str(copy))
    with theatre.fault("the model's folder is deleted while in use") as fault:
        shutil.rmtree(copy)
        assert theatre.play(5) == 5
        taken, reason = theatre.set(max_coast_steps=14)  # this would load it anew
        if taken:
            fault.said("no model|cannot be read|missing", diagnosed="goes on: ", level=WARN)
        else:
            fault.answered(reason, "no model")


@pytest.mark.parametrize("graph", ["detect.onnx", "forecast.onnx", "manifest.json"])
def test_a_file_of_the_model_is_overwritten_while_in_use(
    make_theatre: MakeTheatre, copy: Path, graph: str
) -> None:
    theatre = make_theatre(model=str(copy))
    with theatre.fault(f"{graph} is overwritten while in use"):
        (copy / graph).write_bytes(b"\x00" * 100)
        assert theatre.play(5) == 5


def test_pictures_are_asked_for_after_the_model_was_deleted(make_theatre: MakeTheatre, copy: Path) -> None:
    """The graphs that draw are open too: a subscriber may come at any time."""
    from gridkp_ros.msg import PredictedFrames
    from support.waiting import wait_for

    theatre = make_theatre(model=str(copy))
    with theatre.fault("pictures are asked for after the model's folder was deleted"):
        shutil.rmtree(copy)
        frames: list[PredictedFrames] = []
        subscription = theatre.listen(PredictedFrames, "frames", frames.append, 2)
        wait_for(lambda: theatre.ros.count_publishers("/predictor_node/frames") > 0, "the publisher of frames")

        def drawn() -> bool:
            assert theatre.play_one()
            return bool(frames)

        wait_for(drawn, "predicted frames")
        theatre.ros.destroy_subscription(subscription)
