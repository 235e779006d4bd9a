"""A machine that has no files and no place for logs left, terminals that close, clocks before all time."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from rosgraph_msgs.msg import Clock

from gridkp_ros.data.sources import open_source
from gridkp_ros.msg import KeypointForecast
from support.waiting import wait_for

from .conftest import MakeTheatre
from .harness import Process, Theatre, executable, ros_arguments

ERROR = DiagnosticStatus.ERROR


@contextmanager
def limited(pid: int, what: int, value: int) -> Iterator[None]:
    """Leave a running process no more of something than this, for a while."""
    soft, hard = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (value, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, what, (soft, hard))


def test_no_file_can_be_opened(theatre: Theatre) -> None:
    """Images go on being forecast, and the diagnostics go on: they are what tells of it."""
    with theatre.fault("not one more file can be opened") as fault:
        with limited(theatre.node.pid, resource.RLIMIT_NOFILE, int(theatre.node.footprint()["files"])):
            assert theatre.play(15) == 15
            taken, reason = theatre.set(max_coast_steps=14)
            assert not taken
            fault.answered(reason, "Too many open files")
            heard = len(theatre.diagnostics)
            wait_for(lambda: theatre.play_one() and len(theatre.diagnostics) > heard + 8, "diagnostics")
        assert not theatre.node.said("Traceback", fault.lines_before)


def test_a_clock_before_all_time(make_theatre: MakeTheatre) -> None:
    """rclpy's own callback fails on it, which ends other nodes."""
    theatre = make_theatre(use_sim_time=True)
    clock = theatre.ros.create_publisher(Clock, "/clock", 10)
    wait_for(lambda: clock.get_subscription_count() > 0, "the node's subscription to /clock")
    with theatre.fault("/clock tells times before 1970") as fault:
        for sec in (-5, -(2**31)):
            clock.publish(Clock(clock=Time(sec=sec, nanosec=2**32 - 1)))
            theatre.play_one()
        clock.publish(Clock(clock=Time(sec=-5)))
        fault.said("unexpected ValueError: .*must not be negative .*clock_callback.*the node goes on", level=ERROR)


def test_the_log_folder_cannot_be_written(make_theatre: MakeTheatre, tmp_path: Path) -> None:
    """As on a read-only file system, where rcl ends the process. The log goes to the terminal and /rosout instead."""
    (tmp_path / "file").write_text("")
    theatre = make_theatre(environment={"ROS_LOG_DIR": str(tmp_path / "file" / "log")})
    with theatre.fault("the log folder cannot be written") as fault:
        said = theatre.node.said("there is no log file, .* cannot be written .*Set ROS_LOG_DIR")
        assert said, "\n".join(theatre.node.lines)
        fault.sentences.append(said.partition("]: ")[2])


def test_the_terminal_closes(make_theatre: MakeTheatre) -> None:
    theatre = make_theatre()
    with theatre.fault("SIGHUP of a terminal that closes, and started again", same_process=False) as fault:
        theatre.node.signal(signal.SIGHUP)
        assert theatre.node.wait() == 0, "\n".join(theatre.node.lines[-20:])
        assert not theatre.node.said("Traceback|terminate called")
        fault.sentences.append("ended with status 0")
        theatre.start()
        theatre.begin()


def test_nobody_reads_what_it_says(theatre: Theatre) -> None:
    """A terminal that is stopped, a pager: the pipe is full, and whoever writes to it would wait for ever."""
    arguments = ros_arguments({"autostart": True, "num_samples": 1}, {"__node": "unread"})
    environment = {**os.environ, "ROS_DOMAIN_ID": str(theatre.domain_id), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    heard: list[KeypointForecast] = []
    subscription = theatre.ros.create_subscription(KeypointForecast, "/unread/forecast", heard.append, 10)
    reader, writer = os.pipe()
    fill = os.open(f"/proc/self/fd/{writer}", os.O_WRONLY | os.O_NONBLOCK)
    command = [executable("predictor_node"), *arguments]
    with subprocess.Popen(command, stdout=writer, stderr=writer, env=environment) as node:
        try:
            wait_for(lambda: theatre.play_one() and bool(heard), "forecasts of the second node", 60.0)
            with theatre.fault("nobody reads what a second predictor says, and its pipe is full") as fault:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        os.write(fill, bytes(4096))
                for number in range(5):
                    theatre.send(theatre.image(encoding=f"nobody reads {'x' * number}"))
                heard.clear()
                wait_for(lambda: theatre.play_one() and len(heard) > 5, "forecasts of a node that cannot say anything")
                fault.sentences.append("forecasts go on")
        finally:
            node.kill()
            for descriptor in (reader, writer, fill):
                os.close(descriptor)
            theatre.ros.destroy_subscription(subscription)


def test_subscribers_come_and_go(theatre: Theatre) -> None:
    def come_and_go(count: int) -> None:
        for _ in range(count):
            theatre.ros.destroy_subscription(theatre.listen(KeypointForecast, "forecast", lambda m: None))

    with theatre.fault("two hundred subscribers come and go") as fault:
        come_and_go(50)
        before = theatre.node.footprint()
        for _ in range(10):
            come_and_go(15)
            assert theatre.play_one()
        after = theatre.node.footprint()
        fault.sentences.append(f"memory {before['rss_mb']:.0f} to {after['rss_mb']:.0f} MB")
        assert after["files"] <= before["files"] + 2 and after["threads"] <= before["threads"] + 1
        assert after["rss_mb"] <= before["rss_mb"] + 10


# -- recordings


@contextmanager
def recorder(theatre: Theatre, bag: Path) -> Iterator[Process]:
    with Process([executable("recorder_node"), *ros_arguments({"bag": str(bag)})], theatre.domain_id) as process:
        wait_for(lambda: process.said("recording to"), "the recorder's start", 60.0)
        wait_for(lambda: theatre.ros.count_subscribers("image") > 1, "the recorder's subscription", 60.0)
        yield process


def images_of(bag: Path) -> int:
    with open_source(bag) as source:
        return sum(1 for _ in source)


def test_a_recording_goes_on_after_an_image_that_is_none_and_ends_whole_with_the_terminal(
    theatre: Theatre, tmp_path: Path
) -> None:
    with theatre.fault("recorder_node hears an image that is none, and its terminal closes") as fault:
        with recorder(theatre, tmp_path / "bag") as process:

            def refused() -> bool:
                theatre.camera.publish(b"\x00\x01\x00\x00" + bytes(range(256)))
                return theatre.play_one() and bool(process.said("not recorded: .* bytes are no sensor_msgs/msg/Image"))

            wait_for(refused, "the recorder's sentence")
            assert theatre.play(15) == 15
            process.signal(signal.SIGHUP)
            assert process.wait() == 0
        images = images_of(tmp_path / "bag")
        assert images >= 15
        fault.sentences.append(f"{images} images stayed readable")


def test_the_folder_of_a_recording_is_taken_away(theatre: Theatre, tmp_path: Path) -> None:
    title = "the folder that recorder_node writes to is deleted"
    with theatre.fault(title) as fault, recorder(theatre, tmp_path / "bag") as process:
        assert theatre.play(5) == 5
        shutil.rmtree(tmp_path / "bag")
        wait_for(lambda: theatre.play_one() and not process.alive, "the recorder's end", 60.0)
        assert process.wait() == 1
        said = process.said("recording to .* stops: .*Its folder was taken away")
        assert said and not process.said("Traceback")
        fault.sentences.append(said.partition("]: ")[2])
