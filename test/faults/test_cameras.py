"""Publishers that cannot be heard, that die, or that are one too many."""

from __future__ import annotations

import signal
import time

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from gridkp_ros.node.conversions import stamp_ns
from support.waiting import wait_for

from .actors import start_actor
from .conftest import MakeTheatre
from .harness import ONE_SECOND, Theatre

WARN, STALE = DiagnosticStatus.WARN, DiagnosticStatus.STALE


def test_a_publisher_of_incompatible_quality_of_service(theatre: Theatre) -> None:
    """The user asked for reliable, and a second camera offers best effort: it is not heard, and that is said."""
    with theatre.fault("a best-effort camera where reliable is asked for") as fault:
        assert theatre.set(reliability="reliable") == (True, "")
        best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        other = theatre.ros.create_publisher(Image, "image", best_effort)
        fault.said("no image comes from /.* on /image .*Best effort.*: set reliability to auto", level=WARN)
        theatre.ros.destroy_publisher(other)
        assert theatre.set(reliability="auto")[0]


def test_a_publisher_of_another_type(theatre: Theatre) -> None:
    with theatre.fault("somebody publishes CompressedImage on the image topic") as fault, theatre.stranger() as other:
        publisher = other.create_publisher(CompressedImage, "image", 5)
        fault.said("no image comes from /stranger on /image .*CompressedImage.*: set transport, or remap image")
        publisher.publish(CompressedImage(format="jpeg"))


def test_a_topic_of_another_type(make_theatre: MakeTheatre) -> None:
    """The image topic is remapped to one of strings; then images come on it, too."""
    theatre = make_theatre(wait_active=False, remap={"image": "/chatter"})
    with theatre.stranger() as other:
        publisher = other.create_publisher(String, "/chatter", 5)
        said = "no image comes from /stranger on /chatter .*String"
        wait_for(lambda: theatre.node.said(said), "the sentence")
        publisher.publish(String(data="no image"))
    theatre.camera = theatre.ros.create_publisher(Image, "/chatter", 10)
    theatre.await_active()
    with theatre.fault("the image topic was remapped to a topic of strings") as fault:
        theatre.play(2)
        fault.sentences.append(theatre.node.said(said).partition("]: ")[2])


def test_nobody_publishes_compressed_images(theatre: Theatre) -> None:
    with theatre.fault("transport is set to compressed, and there are raw images alone", new_epochs=(0, 1)) as fault:
        assert theatre.set(transport="compressed")[0]
        fault.diagnosed("/image/compressed")
        assert theatre.set(transport="raw")[0]
        wait_for(lambda: theatre.camera.get_subscription_count() > 0, "the subscription to raw images")
        theatre.begin()


def first_good(theatre: Theatre, after: int) -> tuple[int, int]:
    """Return the first epoch after another with a good forecast, and how many images it took; (0, 0) without one."""
    images: dict[int, int] = {}
    for stamp, keypoints in tuple(theatre.keypoints.items()):
        images[keypoints.epoch] = images.get(keypoints.epoch, 0) + 1
        if keypoints.epoch > after and theatre.good(stamp):
            return keypoints.epoch, images[keypoints.epoch]
    return 0, 0


def test_a_camera_killed_and_started_again(make_theatre: MakeTheatre) -> None:
    """A camera of another process keeps its own time: where the processor is busy, gaps start more epochs than two."""
    theatre = make_theatre()
    with theatre.fault("the camera's process is killed and started again", new_epochs=(2, 60)) as fault:
        for _ in range(2):
            # One that is quick to start would be taken for the last one, which had a short gap.
            fault.forget_diagnostics()
            fault.diagnosed("no image on /image for", STALE)
            before = theatre.epoch()
            with start_actor("camera", theatre.domain_id) as camera:
                wait_for(lambda last=before: first_good(theatre, last)[0], "good forecasts from the camera's process")
                epoch, images = first_good(theatre, before)
                assert images <= ONE_SECOND
                camera.signal(signal.SIGKILL)
                camera.wait()
        fault.logged(f"epoch {epoch} starts: gap of")
        theatre.begin()


def test_two_cameras_on_one_topic(theatre: Theatre) -> None:
    """Their images differ and their stamps interleave. Both are heard; that there are two is in the diagnostics."""
    with theatre.fault("a second camera on the topic", new_epochs=(0, 200)) as fault:
        with start_actor("camera", theatre.domain_id):
            wait_for(lambda: theatre.ros.count_publishers("image") > 1, "the second camera")
            theatre.begin()
            end_s = time.monotonic() + 3.0
            while time.monotonic() < end_s:
                theatre.send(theatre.image())
            fault.diagnosed("publishers: 2")
        wait_for(lambda: theatre.ros.count_publishers("image") == 1, "the second camera's end")
        theatre.begin()


def test_a_best_effort_camera(make_theatre: MakeTheatre) -> None:
    """`reliability: auto` follows a camera that offers best effort and comes after the node."""
    theatre = make_theatre()
    with theatre.fault("the camera is replaced by one of best effort", new_epochs=(1, 3)):
        theatre.drop(2.0)
        reliable, theatre.camera = theatre.camera, theatre.ros.create_publisher(
            Image, "image", QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        )
        theatre.ros.destroy_publisher(reliable)
        before = len(theatre.keypoints)

        def heard() -> bool:
            theatre.send(theatre.image())
            return len(theatre.keypoints) > before

        wait_for(heard, "images of the best-effort camera")
        assert stamp_ns(next(reversed(theatre.keypoints.values())).header.stamp) > 0
