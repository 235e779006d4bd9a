"""What predictor_node refuses, and what it leaves on the disk."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: node tests need rclpy")
pytest.importorskip("gridkp_ros.msg", reason="the messages are not built: run them by `make test`")

import cv2
import rclpy
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from gridkp_ros.msg import KeypointForecast
from gridkp_ros.node.conversions import image_message, time_message
from gridkp_ros.srv import GetForecast
from support.ros_rig import NS, MakeRig, Rig, picture
from support.waiting import TIMEOUT_S, held_back, wait_for


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig()


def test_images_above_the_limit_are_refused_and_the_limit_can_be_changed(rig: Rig) -> None:
    end_ns = rig.stream(4, 15.0)
    rig.node.set_parameters([Parameter("max_image_pixels", value=96 * 64 - 1)])
    rig.stream(1, 15.0, end_ns)
    assert rig.statistics.malformed == 1
    assert "image of 96x64 has 6144 pixels, at most 6143 are taken" in rig.statistics.last_error
    rig.node.set_parameters([Parameter("max_image_pixels", value=96 * 64)])
    rig.stream(1, 15.0, end_ns + NS // 15)
    assert rig.statistics.absorbed == 5


def test_a_compressed_image_that_unfolds_to_gigabytes_is_refused(make_rig: MakeRig) -> None:
    rig = make_rig(transport="compressed")
    png = bytearray(cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes())
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    publisher = rig.camera.create_publisher(CompressedImage, "image/compressed", 10)
    wait_for(lambda: publisher.get_subscription_count() > 0, "the node's subscription")
    rig.send(CompressedImage(header=Header(stamp=time_message(NS)), format="png", data=bytes(png)), publisher)
    assert "of 60000x60000 has 3600000000 pixels, at most 16777216" in rig.statistics.last_error


def test_more_requests_than_can_wait_are_refused_with_the_reason(rig: Rig) -> None:
    rig.stream(4, 15.0)
    with held_back(rig.node.predictor, "forecast") as forecast:
        client = rig.camera.create_client(GetForecast, "/predictor_node/get_forecast")
        assert client.wait_for_service(TIMEOUT_S)
        futures = [client.call_async(GetForecast.Request())]
        wait_for(forecast.begun.is_set, "the first request")
        for _ in range(9):
            futures.append(client.call_async(GetForecast.Request()))
            time.sleep(0.02)  # DDS's own queue holds ten
        wait_for(lambda: sum(f.done() for f in futures) >= 2, "a refusal")
        refused = [f.result() for f in futures if f.done()]
    wait_for(lambda: all(f.done() for f in futures), "all answers")
    assert len(refused) == 2
    assert all("8 requests are waiting already: ask again" in r.message and not r.success for r in refused)
    assert sum(f.result().success for f in futures) == 8


def _files(root: Path) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _descriptors(pid: int) -> dict[str, str]:
    """What a process has open, by the number of its descriptor."""
    found = {}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found[descriptor.name] = os.readlink(descriptor)
    return found


def _written(pid: int) -> set[Path]:
    """Regular files that a process has open for writing."""
    found = set()
    for number, target in _descriptors(pid).items():
        if not Path(target).is_file():
            continue
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            flags = int(Path(f"/proc/{pid}/fdinfo/{number}").read_text().split("flags:")[1].split()[0], 8)
            if flags & os.O_ACCMODE != os.O_RDONLY:
                found.add(Path(target))
    return found


def _connections(pid: int) -> list[str]:
    """Remote ends of a process's TCP connections, as the kernel writes them; DDS here needs none."""
    remote = {}
    for kind in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            remote[f"socket:[{line.split()[9]}]"] = line.split()[2]
    return [remote[target] for target in _descriptors(pid).values() if target in remote]


@pytest.fixture
def camera() -> Iterator[Callable[..., rclpy.node.Node]]:
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("foreign_camera", context=context, namespace="/leaves_nothing")
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    yield node
    executor.shutdown()
    thread.join()
    node.destroy_node()
    rclpy.try_shutdown(context=context)


def test_the_node_stores_and_logs_no_images_and_connects_to_nothing(
    camera: rclpy.node.Node, tiny_bundle_path: Path, tmp_path: Path
) -> None:
    """Under a camera that also sends broken images, with debug logging; every place it could write to is looked at."""
    for name in ("home", "logs", "tmp", "work"):
        (tmp_path / name).mkdir()
    places = {"HOME": "home", "ROS_LOG_DIR": "logs", "TMPDIR": "tmp"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
    environment |= {key: str(tmp_path / folder) for key, folder in places.items()}
    command = [
        sys.executable, "-m", "gridkp_ros.node.predictor_node", "--ros-args", "--log-level", "debug",
        "-r", "__ns:=/leaves_nothing", "-p", "autostart:=true", "-p", f"model:={tiny_bundle_path}",
        "-p", "warmup_frames:=2", "-p", "reliability:=reliable",
    ]
    with (tmp_path / "logs" / "console.txt").open("wb") as console:
        node = subprocess.Popen(
            command, cwd=tmp_path / "work", env=environment, stdout=console, stderr=subprocess.STDOUT
        )
        try:
            forecasts: list[KeypointForecast] = []
            camera.create_subscription(KeypointForecast, "predictor_node/forecast", forecasts.append, 10)
            publisher = camera.create_publisher(Image, "image", 10)
            wait_for(lambda: publisher.get_subscription_count() > 0, "the node's start", timeout_s=90.0)
            mark = np.frombuffer(b"PATIENT-PIXELS-0123456789-PATIENT-PIXELS", np.uint8)
            stamp_ns, end_s = NS, time.monotonic() + 90
            while len(forecasts) < 5:
                assert time.monotonic() < end_s, "no forecasts"
                stamp_ns += NS // 15
                image = picture(len(forecasts))
                image.reshape(-1)[: 40 * len(mark)] = np.tile(mark, 40)
                publisher.publish(image_message(image, Header(stamp=time_message(stamp_ns))))
                broken = image_message(image, Header(stamp=time_message(stamp_ns)))
                broken.step += 1
                publisher.publish(broken)
                time.sleep(0.05)
            open_files, connections = _written(node.pid), _connections(node.pid)
        finally:
            node.terminate()
            node.wait(60)
    files = _files(tmp_path)
    assert connections == [] or "LARGE_DATA" in os.environ.get("FASTDDS_BUILTIN_TRANSPORTS", "")
    assert all(path.parts[0] == "logs" for path in files), sorted(files)
    assert any(b"image data holds" in text for text in files.values()), "the broken images were to be complained of"
    assert not any(b"PATIENT" in text or b"80, 65, 84, 73" in text for text in files.values())
    assert all(tmp_path / "logs" in path.parents or Path("/dev/shm") in path.parents for path in open_files), open_files
