"""Times that no camera should tell, and images that do not come when they should."""

from __future__ import annotations

import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from rosgraph_msgs.msg import Clock

from gridkp_ros.node.conversions import time_message
from support.waiting import wait_for

from .clip import CAMERA_HZ, NS
from .conftest import MakeTheatre
from .harness import Theatre


def stamped(theatre: Theatre, stamp: Time) -> object:
    """Return the stream's next image with another stamp; the stream's own time goes on."""
    message = theatre.image()
    message.header.stamp = stamp
    return message


def test_stamps_of_zero(theatre: Theatre) -> None:
    with theatre.fault("images without a stamp", new_epochs=(0, 2)) as fault:
        for _ in range(5):
            theatre.send(stamped(theatre, Time()))
        fault.said("images carry no stamp", diagnosed=None)


def test_a_stamp_that_stands_still(theatre: Theatre) -> None:
    with theatre.fault("images with one and the same stamp", new_epochs=(0, 1)) as fault:
        stuck, sentence = time_message(theatre.stamp_ns), "no image absorbed for .*stamp repeated.*check the stamps"
        while not theatre.node.said(sentence, fault.lines_before) and theatre.stamp_ns < stuck.sec * NS + 20 * NS:
            theatre.send(stamped(theatre, stuck))
        fault.said(sentence, level=DiagnosticStatus.WARN)
        theatre.begin()


def test_stamps_in_reverse(theatre: Theatre) -> None:
    """Each a little older than the last: out of order at first, a jump back once they are older than a step."""
    with theatre.fault("stamps that run backwards", new_epochs=(1, 8)) as fault:
        for back in range(1, 8):
            theatre.send(stamped(theatre, time_message(theatre.stamp_ns - 2 * back * NS // CAMERA_HZ)))
        fault.said("stamp jumped back by", diagnosed="last_start: ")


@pytest.mark.parametrize(
    ("name", "stamp"),
    [
        ("a stamp of the year 2038", Time(sec=2**31 - 1, nanosec=999_999_999)),
        ("a stamp before 1970", Time(sec=-5, nanosec=1)),
        ("a stamp of the most negative seconds", Time(sec=-(2**31), nanosec=0)),
        ("nanoseconds beyond a second", Time(sec=5, nanosec=2**32 - 1)),
        ("a stamp of a clock that began at zero", Time(sec=3, nanosec=0)),
    ],
)
def test_one_impossible_stamp(theatre: Theatre, name: str, stamp: Time) -> None:
    with theatre.fault(name, new_epochs=(0, 2)) as fault:
        theatre.send(stamped(theatre, stamp))
        fault.said("gap of|stamp jumped back by|stamp .* refused")


@pytest.mark.parametrize("seconds", [3600.0, -3600.0], ids=["forward", "back"])
def test_the_camera_computers_clock_is_set(theatre: Theatre, seconds: float) -> None:
    with theatre.fault(f"the clock of the stamps is set by {seconds:+.0f} s", new_epochs=1) as fault:
        theatre.stamp_ns += round(seconds * NS)
        theatre.play(5)
        fault.said(r"epoch \d+ starts: (gap of 3600|stamp jumped back by 3599)", diagnosed="gap of 3600|back by 3599")


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.9, 1.5, 3.0, 10.0])
def test_a_gap(theatre: Theatre, seconds: float) -> None:
    """The model coasts through a second (max_coast_steps); what is longer starts afresh."""
    afresh = seconds > 1.0
    with theatre.fault(f"a gap of {seconds} s", new_epochs=int(afresh)) as fault:
        theatre.drop(seconds)
        if afresh:
            theatre.play_one()
            fault.said("epoch .* starts: gap of", diagnosed="last_start: gap of")


def test_a_camera_that_pauses(theatre: Theatre) -> None:
    with theatre.fault("no image for two seconds", new_epochs=1) as fault:
        fault.said(r"no image on /image for \d\.\d s", level=DiagnosticStatus.STALE)
        theatre.drop(2.0)


def test_a_burst(theatre: Theatre) -> None:
    """Images that were held up come all at once: the newest is taken, the others are counted."""
    with theatre.fault("thirty images in one moment", new_epochs=(0, 1)) as fault:
        for _ in range(30):
            theatre.camera.publish(theatre.image())
        fault.diagnosed(r"dropped: [1-9]\d*")


def test_a_camera_of_240_hz(theatre: Theatre) -> None:
    with theatre.fault("a second of 240 images a second"):
        begun_ns = theatre.stamp_ns
        for index in range(1, 241):
            message = stamped(theatre, time_message(begun_ns + index * NS // 240))
            theatre._due_s -= 1 / CAMERA_HZ - 1 / 240
            theatre.send(message)
        theatre.stamp_ns = begun_ns + NS


def test_simulated_time_jumps_back(make_theatre: MakeTheatre) -> None:
    """A bag that is played in a loop: /clock and the stamps jump back together."""
    theatre = make_theatre(use_sim_time=True)
    clock = theatre.ros.create_publisher(Clock, "/clock", 10)
    wait_for(lambda: clock.get_subscription_count() > 0, "the node's subscription to /clock")
    send = theatre.send

    def send_with_clock(message: object, publisher: object = None) -> None:
        clock.publish(Clock(clock=message.header.stamp))
        send(message, publisher)

    theatre.send = send_with_clock
    with theatre.fault("/clock jumps back by 100 s", new_epochs=1) as fault:
        theatre.stamp_ns -= 100 * NS
        theatre.play(5)
        fault.said("epoch .* starts: .*(back|clock)", diagnosed="last_start: .*(back|clock)")


def test_simulated_time_without_a_clock(make_theatre: MakeTheatre) -> None:
    theatre = make_theatre(use_sim_time=True)
    with theatre.fault("use_sim_time is set and nobody publishes /clock") as fault:
        fault.diagnosed("nothing has come on /clock", DiagnosticStatus.WARN)
        assert theatre.node.said("nothing has come on /clock")
