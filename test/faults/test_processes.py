"""Signals, other processes, and a machine that has nothing left to give."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy

from gridkp_ros.data.sources import open_source
from gridkp_ros.msg import KeypointForecast
from support.waiting import wait_for

from .actors import start_actor
from .conftest import Domains, MakeTheatre
from .harness import RESULTS, Process, Result, Theatre, executable, ros_arguments


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_told_to_end_under_a_stream(make_theatre: MakeTheatre, number: int) -> None:
    """It ends cleanly: in time, with status 0, and without a traceback; a new one takes its place."""
    theatre = make_theatre()
    with theatre.fault(f"{signal.Signals(number).name}, and started again", same_process=False) as fault:
        theatre.send(theatre.image())
        theatre.node.signal(number)
        status = theatre.node.wait()
        assert status == 0, "\n".join(theatre.node.lines[-20:])
        assert not theatre.node.said("Traceback|Exception|core dumped|terminate called")
        fault.sentences.append(f"ended with status {status}")
        theatre.start()
        theatre.begin()


def test_two_interrupts(make_theatre: MakeTheatre) -> None:
    """A launch process passes on the terminal's Ctrl-C, which then comes twice."""
    theatre = make_theatre()
    with theatre.fault("SIGINT twice, and started again", same_process=False) as fault:
        theatre.node.signal(signal.SIGINT)
        time.sleep(0.05)  # it shall come while the node closes
        if theatre.node.alive:
            theatre.node.signal(signal.SIGINT)
        assert theatre.node.wait() == 0
        assert not theatre.node.said("Traceback|terminate called")
        fault.sentences.append("ended with status 0")
        theatre.start()
        theatre.begin()


@pytest.mark.parametrize("moment", ["loading ", " on CPUExecutionProvider", "ready after"])
def test_interrupted_while_it_starts(make_theatre: MakeTheatre, moment: str) -> None:
    theatre = make_theatre(wait_active=False)
    wait_for(lambda: theatre.node.said(moment), f"{moment!r}")
    theatre.node.signal(signal.SIGINT)
    assert theatre.node.wait() in (0, 130)
    assert not theatre.node.said("AttributeError|terminate called|core dumped"), "\n".join(theatre.node.lines)
    theatre.start()
    with theatre.fault(f"SIGINT at the word {moment.strip()!r}, and started again") as fault:
        fault.sentences.append("ended with status 0 or 130")


def test_killed_and_respawned(make_theatre: MakeTheatre) -> None:
    """What `respawn:=true` of the launch file does: a supervisor starts the node again whenever it ends."""
    theatre = make_theatre()
    with theatre.fault("SIGKILL, respawned by a supervisor", same_process=False) as fault:
        for _ in range(2):
            theatre.node.signal(signal.SIGKILL)
            assert theatre.node.wait() == -signal.SIGKILL
            theatre.start()
        fault.sentences.append("active again")
        theatre.begin()


def test_stopped_for_three_seconds(theatre: Theatre) -> None:
    """A debugger, or a machine that swaps: the camera goes on.

    Images that DDS still has of the three seconds come first; each gap of more than a second between them is a start.
    """
    with theatre.fault("stopped (SIGSTOP) for three seconds", new_epochs=(0, 3)) as fault:
        theatre.node.signal(signal.SIGSTOP)
        end_s = time.monotonic() + 3.0
        while time.monotonic() < end_s:
            theatre.send(theatre.image())
        theatre.node.signal(signal.SIGCONT)
        fault.diagnosed("received: ")


def test_no_processor_left(theatre: Theatre) -> None:
    """Four busy processes for each core, for five seconds of images."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * (os.cpu_count() or 1))]
    try:
        with theatre.fault(f"{len(busy)} busy processes on {os.cpu_count()} cores", new_epochs=(0, 60)):
            before, begun_s = len(theatre.forecasts), time.monotonic()

            def forecast() -> bool:
                theatre.send(theatre.image())
                return time.monotonic() > begun_s + 5.0 and len(theatre.forecasts) > before

            wait_for(forecast, "a forecast while the processor was busy")
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_twenty_subscribers_of_which_one_is_stopped(theatre: Theatre) -> None:
    """Reliable ones: what the stopped one does not take must hold up neither the node nor the other nineteen."""
    with start_actor("listener", theatre.domain_id) as slow, theatre.stranger() as other:
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        for _ in range(19):
            other.create_subscription(KeypointForecast, "/predictor_node/forecast", lambda m: None, qos)
        wait_for(lambda: theatre.ros.count_subscribers("/predictor_node/forecast") >= 21, "twenty subscribers")
        with theatre.fault("twenty subscribers, one of them stopped") as fault:
            wait_for(lambda: theatre.play_one() and slow.said("heard"), "the listener's first forecast")
            slow.signal(signal.SIGSTOP)
            before = theatre.node.footprint()["rss_mb"]
            assert theatre.play(60) == 60
            after = theatre.node.footprint()["rss_mb"]
            assert after < before + 20
            fault.sentences.append(f"60 of 60 images forecast; memory {before:.0f} to {after:.0f} MB")


def test_a_subscriber_dies(theatre: Theatre) -> None:
    with theatre.fault("a subscriber is killed while it receives") as fault:
        with start_actor("listener", theatre.domain_id) as listener:
            wait_for(lambda: theatre.play_one() and listener.said("heard"), "the listener's first forecast")
            listener.signal(signal.SIGKILL)
            listener.wait()
        assert theatre.play(15) == 15
        fault.sentences.append("15 of 15 images forecast")


def test_two_nodes_of_one_name(make_theatre: MakeTheatre) -> None:
    """A second predictor of the same name on the same topic: the first is not disturbed, and says that it is there."""
    theatre = make_theatre()
    with theatre.fault("a second predictor_node of the same name") as fault:
        command = [executable("predictor_node"), *ros_arguments({"autostart": False})]
        with Process(command, theatre.domain_id):
            fault.said("2 nodes are called /predictor_node")
            assert theatre.play(5) == 5


def test_two_nodes_on_one_topic(theatre: Theatre) -> None:
    with theatre.fault("a second predictor on the topic, under another name"):
        command = [executable("predictor_node"), *ros_arguments({"autostart": True}, {"__node": "second"})]
        with Process(command, theatre.domain_id) as second:
            wait_for(lambda: second.said("subscribed to"), "the second predictor's activation")
            assert theatre.play(15) == 15
            wait_for(lambda: theatre.play_one() and second.said("epoch 1 starts"), "the second predictor's first image")


# -- disks and shared memory that are full: in a mount namespace of their own

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def small_disk(folder: Path, megabytes: int) -> tuple[str, ...]:
    """Return what runs a command with a small file system of its own on a folder, kept while the shell lives."""
    return (*NAMESPACE, "sh", "-c", f'mount -t tmpfs -o size={megabytes}m tmpfs "{folder}" && "$@"; '
            'echo "status $?"; while true; do sleep 0.1; done', "sh")


def need_namespaces() -> None:
    trial = subprocess.run([*NAMESPACE, "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True, text=True)
    if trial.returncode != 0:
        pytest.skip(f"this machine allows no mount namespace, which a full disk is made with ({trial.stderr.strip()})")


def test_the_disk_is_full_while_recording(theatre: Theatre, tmp_path: Path) -> None:
    need_namespaces()
    disk = tmp_path / "disk"
    disk.mkdir()
    with theatre.fault("the disk is full while recorder_node records") as fault:
        recorder = Process(
            [*small_disk(disk, 32), executable("recorder_node"), *ros_arguments({"bag": str(disk / "bag")})],
            theatre.domain_id,
        )
        try:
            wait_for(lambda: recorder.said("recording to"), "the recorder's start")
            wait_for(lambda: theatre.ros.count_subscribers("image") > 1, "the recorder's subscription")
            wait_for(lambda: theatre.play_one() and recorder.said("^status"), "the recorder's end")
            assert recorder.said("^status 1$")
            said = recorder.said("recording to .* stops: .*(full|space)")
            assert said and not recorder.said("Traceback")
            fault.sentences.append(said.partition("]: ")[2])
            recorded = shutil.copytree(f"/proc/{recorder.pid}/root{disk}/bag", tmp_path / "copied")
            with open_source(next(recorded.glob("*.db3"))) as source:
                images = sum(1 for _ in source)
            assert images > 0 and source.unreadable == 0, (source.notes, sorted(p.name for p in recorded.iterdir()))
            fault.sentences.append(f"{images} images stayed readable")
        finally:
            recorder.signal(signal.SIGKILL)
            recorder.wait()


@pytest.mark.parametrize("when", ["before the node starts", "while it runs"])
def test_shared_memory_is_full(domains: Domains, when: str) -> None:
    """DDS passes images through /dev/shm. Camera and node share a small one here, so both are in another process."""
    need_namespaces()
    command = [*NAMESPACE, "sh", "-c", 'mount -t tmpfs -o size=40m tmpfs /dev/shm && exec "$@"', "sh"]
    inside = start_actor("full_shared_memory", domains.next(), f"--when={when}", wrapper=tuple(command))
    status = inside.wait(240.0)
    assert status == 0, "\n".join(inside.lines[-30:])
    RESULTS.append(Result(**json.loads(inside.said("^{"))))


def test_recording_is_killed(theatre: Theatre, tmp_path: Path) -> None:
    with theatre.fault("recorder_node is killed") as fault:
        command = [executable("recorder_node"), *ros_arguments({"bag": str(tmp_path / "bag")})]
        with Process(command, theatre.domain_id) as recorder:
            wait_for(lambda: theatre.ros.count_subscribers("image") > 1, "the recorder's subscription")
            assert theatre.play(45) == 45
            recorder.signal(signal.SIGKILL)
            recorder.wait()
        with open_source(next((tmp_path / "bag").glob("*.db3"))) as source:
            images = sum(1 for _ in source)
        assert images >= 15
        fault.sentences.append(f"{images} of 45 images stayed readable")
