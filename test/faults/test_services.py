"""Services called at the wrong time, with nonsense and all at once; transitions without end."""

from __future__ import annotations

import pytest
from std_srvs.srv import Trigger

from gridkp_ros.srv import GetForecast

from .conftest import MakeTheatre
from .harness import Theatre

STATES = {
    "unconfigured": (), "inactive": ("configure",), "active": ("configure", "activate"), "finalized": ("shutdown",),
}


@pytest.mark.parametrize("state", STATES)
def test_services_in_every_state(make_theatre: MakeTheatre, state: str) -> None:
    theatre = make_theatre(autostart=False, wait_active=False)
    for label in STATES[state]:
        assert theatre.transition(label)
    assert theatre.state() == state
    answers = [theatre.ask(Trigger, "reset", Trigger.Request()) for _ in range(10)]
    answers += [theatre.ask(GetForecast, "get_forecast", GetForecast.Request()) for _ in range(10)]
    for answer in answers:
        response = answer.get()
        assert response.message
        # More than eight at once are refused, in so many words.
        waited = state == "active" and answer.name == "reset" and "requests are waiting" not in response.message
        assert response.success == waited
    assert theatre.set(seed=3) == (True, "")
    for label in ("activate", "deactivate", "configure", "cleanup"):  # those that the state does not have
        if label not in {"unconfigured": ("configure",), "inactive": ("activate", "cleanup"),
                         "active": ("deactivate",), "finalized": ()}[state]:
            assert not theatre.transition(label)
    assert theatre.state() == state
    if state == "finalized":
        assert theatre.node.alive
        return
    for label in ("configure", "activate")[len(STATES[state]) :]:
        assert theatre.transition(label)
    theatre.await_active()
    with theatre.fault(f"services and transitions asked for in the state {state}") as fault:
        fault.sentences.append(response.message)


NONSENSE = {
    "samples beyond the range": ({"num_samples": 257}, "num_samples is 257"),
    "a horizon beyond the range": ({"horizon_steps": 1001}, "horizon_steps is 1001"),
    "more than the stream can wait for": ({"horizon_steps": 1000, "num_samples": 10}, "ask for fewer|more than"),
    "a temperature that is not a number": ({"temperature": float("nan")}, "temperature"),
    "a negative temperature": ({"temperature": -1.0}, "temperature"),
    "a keypoint that is not there": ({"moved_keypoints": [99], "moved_points": [1.0, 1.0]}, "99"),
    "a point for no keypoint": ({"moved_points": [1.0, 1.0]}, "moved_points holds 2 numbers for 0"),
    "a keypoint twice": ({"moved_keypoints": [1, 1], "moved_points": [1.0] * 4}, "twice"),
    "a point that is not a number": ({"moved_keypoints": [1], "moved_points": [float("nan"), 1.0]}, "nan|finite"),
    "a point outside the image": ({"moved_keypoints": [1], "moved_points": [-1e9, 1e9]}, "outside|e\\+09|0000"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_asked_for(theatre: Theatre, name: str) -> None:
    fields, sentence = NONSENSE[name]
    with theatre.fault(f"get_forecast: {name}") as fault:
        response = theatre.call(GetForecast, "get_forecast", GetForecast.Request(**fields))
        assert not response.success
        fault.answered(response.message, sentence)


def test_thirty_requests_at_once(theatre: Theatre) -> None:
    with theatre.fault("thirty forecasts asked for at once, under the stream", new_epochs=(0, 1)):
        request = GetForecast.Request(horizon_steps=15, num_samples=2)
        answers = [theatre.ask(GetForecast, "get_forecast", request) for _ in range(30)]
        assert theatre.play_one()
        responses = [answer.get() for answer in answers]
        assert any(r.success for r in responses)
        assert all(r.success or r.message for r in responses)


def test_a_storm_of_resets(theatre: Theatre) -> None:
    with theatre.fault("fifty resets", new_epochs=(1, 51)) as fault:
        for start in range(0, 50, 5):
            answers = [theatre.ask(Trigger, "reset", Trigger.Request()) for _ in range(5)]
            theatre.play_one()
            assert all(answer.get().success for answer in answers), start
        fault.logged("epoch .* starts: requested")


def test_fifty_activations(make_theatre: MakeTheatre) -> None:
    """Under a stream, with every tenth time a clean-up and a new configuration; nothing may be left behind."""
    theatre = make_theatre()

    def rounds(count: int) -> None:
        for number in range(count):
            theatre.send(theatre.image())
            assert theatre.transition("deactivate")
            if number % 10 == 9:
                assert theatre.transition("cleanup")
                assert theatre.transition("configure")
            theatre.send(theatre.image())
            assert theatre.transition("activate")

    with theatre.fault("fifty times deactivated and activated", new_epochs=(5, 60)) as fault:
        rounds(20)  # memory settles: of the 22 MB that 90 more rounds added to ten, 12 came with the first ten
        before = theatre.node.footprint()
        rounds(30)
        after = theatre.node.footprint()
        fault.sentences.append(
            f"memory {before['rss_mb']:.0f} to {after['rss_mb']:.0f} MB, threads {before['threads']:.0f} to "
            f"{after['threads']:.0f}, files {before['files']:.0f} to {after['files']:.0f}"
        )
        assert after["threads"] <= before["threads"] + 1
        assert after["files"] <= before["files"] + 2
        assert after["rss_mb"] <= before["rss_mb"] + 20
        theatre.begin()


def test_impossible_transitions(theatre: Theatre) -> None:
    with theatre.fault("transitions that an active node does not have") as fault:
        for label in ("configure", "activate", "cleanup", "destroy", "fly", ""):
            assert not theatre.transition(label)
        fault.sentences.append("refused")
