"""cv_bridge is used where it works, and not where it does not, and the node says which."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gridkp_ros.image_messages import message_to_array
from gridkp_ros.node.images import choose_converter

WORKING = """
import numpy as np
from types import SimpleNamespace

class CvBridge:
    def cv2_to_imgmsg(self, image, encoding):
        return SimpleNamespace(height=image.shape[0], width=image.shape[1], data=image.tobytes(), encoding=encoding)

    def imgmsg_to_cv2(self, message, encoding):
        image = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        return image if message.encoding == encoding else image[:, :, ::-1]
"""


@pytest.fixture
def install_cv_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def install(source: str) -> None:
        (tmp_path / "cv_bridge.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)

    yield install
    sys.modules.pop("cv_bridge", None)  # else every node of later tests tries it


def test_a_working_cv_bridge_is_used(install_cv_bridge) -> None:
    install_cv_bridge(WORKING)
    convert, sentence = choose_converter()
    assert sentence == "images are converted by cv_bridge"
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    message = SimpleNamespace(
        height=2, width=4, step=12, encoding="bgr8", is_bigendian=0, data=pixels.tobytes(), header=None
    )
    np.testing.assert_array_equal(message_to_array(message, convert), pixels[:, :, ::-1])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise AttributeError('_ARRAY_API not found')", "_ARRAY_API not found"),
        ("import os\nos.abort()", "ended with code -6"),
        ("class CvBridge:\n    def cv2_to_imgmsg(self, image, encoding):\n        return image.tostring()", "tostring"),
    ],
)
def test_a_broken_cv_bridge_is_named_and_left_alone(install_cv_bridge, source: str, reason: str) -> None:
    install_cv_bridge(source)
    convert, sentence = choose_converter()
    assert convert is None
    assert "rosbags-image" in sentence and reason in sentence


def test_without_cv_bridge_rosbags_image_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_converter() == (None, "images are converted by rosbags-image (no cv_bridge here)")
