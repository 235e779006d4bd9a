"""Coverage-guided fuzzing of what reads files that others made: manifests, ONNX files, rosbags.

    make fuzz                                        # 10 minutes, the time divided among the targets
    python test/fuzz/fuzz.py manifest --seconds 60

Whatever the bytes, only the documented errors (BundleError, OnnxFileError, DataError, EvaluationError) may come out,
each with a sentence. Another exception, an input that takes longer than 10 s or more than 2 GB is a finding: libFuzzer
writes the input beside the corpus (out/fuzz/<target>/), from where the same command repeats it. Seeds are made by code.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
with atheris.instrument_imports(include=["gridkp_ros", "rosbags"]):
    from gridkp_ros.data.sources import DataError, open_source
    from gridkp_ros.evaluation.metrics import EvaluationError
    from gridkp_ros.node.recording import read_recording
    from gridkp_ros.runtime.bundle import MANIFEST_FILE, Bundle, BundleError, Manifest
    from gridkp_ros.runtime.onnx_file import OnnxFileError, read_contents, read_signature

from support.tiny_bundle import still_baselines, write_tiny_bundle

Target = Callable[[bytes], None]
SECONDS_FOR_ONE_INPUT, MEGABYTES = 10, 2048
_LONGEST = {"manifest": 16_384, "onnx": 8_192, "bag": 65_536}
_JUNK = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, 1e-320, "", "x", "../x", "/etc/passwd",
    "detect.onnx", "\x00", [], {}, [[]], [1, 2], [0.5] * 8, {"name": "h", "shape": [1]},
)


def _said(error: Exception) -> None:
    if not str(error).strip():
        raise AssertionError(f"{type(error).__name__} without a sentence") from error


# -- manifests

_VALID: list[bytes] = []  # the seeds

def manifest_target(folder: Path) -> Target:
    """Read a manifest alone and, where it is valid, the bundle that it would belong to."""
    bundle = write_tiny_bundle(folder / "bundle")

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        try:
            manifest = Manifest.from_json(text)
        except BundleError as error:
            return _said(error)
        again = Manifest.from_json(manifest.to_json())
        assert again.to_json() == manifest.to_json(), "a valid manifest does not survive the round trip"
        (bundle / MANIFEST_FILE).write_bytes(data)
        try:
            Bundle.load(bundle)
        except BundleError as error:
            _said(error)

    return run


def manifest_seeds(folder: Path) -> list[bytes]:
    options = ({}, {"conditions": True, "coast_graph": True}, {"grid": False, "probe": False, "can_coast": False},
               {"baselines": still_baselines()}, {"channels": 1, "resize": "letterbox"})
    _VALID[:] = [
        (write_tiny_bundle(folder / f"seed{i}", **chosen) / MANIFEST_FILE).read_bytes()
        for i, chosen in enumerate(options)
    ]
    return _VALID


def mutate_manifest(data: bytes, max_size: int, seed: int) -> bytes:
    """Replace, remove or double a value somewhere in the JSON; every eighth time mutate the bytes instead."""
    provider = atheris.FuzzedDataProvider(random.Random(seed).randbytes(256))
    if provider.ConsumeIntInRange(0, 7) == 0:
        return atheris.Mutate(data, max_size)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # most of what byte mutations leave: no way from there to a valid one
        value = json.loads(_VALID[provider.ConsumeIntInRange(0, len(_VALID) - 1)])

    def place() -> tuple[dict | list, str | int]:
        """Go down some way from the top: a key of ten thousand numbers counts no more than one of a word."""
        parent: dict | list = value
        while True:
            keys = list(parent) if isinstance(parent, dict) else range(len(parent))
            key = keys[provider.ConsumeIntInRange(0, len(keys) - 1)]
            if not (isinstance(parent[key], (dict, list)) and parent[key]) or provider.ConsumeBool():
                return parent, key
            parent = parent[key]

    if not isinstance(value, (dict, list)) or not value:
        return atheris.Mutate(data, max_size)
    parent, key = place()
    action = provider.ConsumeIntInRange(0, 3)
    if action == 0:
        del parent[key]
    elif action == 1 and isinstance(parent, list):
        parent.append(parent[key])
    elif action == 2:
        other, name = place()
        parent[key] = json.loads(json.dumps(other[name]))
    else:
        parent[key] = _JUNK[provider.ConsumeIntInRange(0, len(_JUNK) - 1)]
    return json.dumps(value).encode()[:max_size]


# -- ONNX files


def onnx_target(folder: Path) -> Target:
    """Look into a file that says it is an ONNX graph."""

    def run(data: bytes) -> None:
        for read in (read_contents, read_signature):
            try:
                read(data)
            except OnnxFileError as error:
                _said(error)

    return run


def onnx_seeds(folder: Path) -> list[bytes]:
    bundle = write_tiny_bundle(folder / "seed", coast_graph=True, conditions=True)
    return [content for file in bundle.glob("*.onnx") if len(content := file.read_bytes()) < _LONGEST["onnx"]]


# -- rosbags


def bag_target(folder: Path) -> Target:
    """Read a recording's images, and what a predictor said, from a file's bytes. The name follows the content."""

    def run(data: bytes) -> None:
        suffix = ".db3" if data.startswith(b"SQLite") else ".bag" if data.startswith(b"#ROSBAG") else ".mcap"
        path = folder / f"input{suffix}"
        path.write_bytes(data)
        try:
            with open_source(path) as source:
                for frame in source:
                    assert frame.image.dtype == "uint8" and frame.image.ndim in (2, 3)
        except DataError as error:
            _said(error)
        try:
            read_recording(path)
        except EvaluationError as error:
            _said(error)

    return run


def bag_seeds(folder: Path) -> list[bytes]:
    from rosbags.rosbag2 import StoragePlugin

    from support.bags import image_message, jpeg_message, picture, write_bag

    seeds = []
    for storage, suffix in ((StoragePlugin.MCAP, "mcap"), (StoragePlugin.SQLITE3, "db3")):
        for name, convert in (("raw", image_message), ("jpeg", jpeg_message)):
            messages = [convert(picture(i, 8, 6), i * 10**8) for i in range(3)]
            bag = write_bag(folder / f"{name}_{suffix}", {"/image": messages}, storage)
            seeds += [file.read_bytes() for file in bag.glob(f"*.{suffix}")]
    return seeds


TARGETS = {
    "manifest": (manifest_target, manifest_seeds, mutate_manifest),
    "onnx": (onnx_target, onnx_seeds, None),
    "bag": (bag_target, bag_seeds, None),
}


def main() -> None:
    """Fuzz one target for a while; the exit status is libFuzzer's: 0 where nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"))
    parser.add_argument("input", nargs="?", type=Path, help="an input that was found, to repeat it")
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)  # a damaged bag has a sentence for each message
    make_target, make_seeds, mutate = TARGETS[chosen.target]
    work = Path(tempfile.mkdtemp(prefix="gridkp-fuzz-"))
    corpus = chosen.out / chosen.target / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(make_seeds(work)):
        (corpus / f"seed{index}").write_bytes(seed)
    options = [
        sys.argv[0], f"-max_total_time={chosen.seconds}", f"-max_len={_LONGEST[chosen.target]}", "-print_final_stats=1",
        f"-timeout={SECONDS_FOR_ONE_INPUT}", f"-rss_limit_mb={MEGABYTES}",
        f"-artifact_prefix={chosen.out / chosen.target}/",
        str(chosen.input or corpus),
    ]
    atheris.Setup(options, make_target(work), **({"custom_mutator": mutate} if mutate else {}))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
