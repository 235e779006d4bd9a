"""Parameters that cannot be, and parameters that do not stand still."""

from __future__ import annotations

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from .harness import Theatre

IMPOSSIBLE = {
    "no step": ({"horizon_steps": 0}, "horizon_steps"),
    "a horizon beyond its range": ({"horizon_steps": 1001}, "horizon_steps"),
    "fewer than no samples": ({"num_samples": -1}, "num_samples"),
    "more poses than one forecast may have": ({"horizon_steps": 1000, "num_samples": 200}, "more than"),
    "a temperature of zero": ({"temperature": 0.0}, "temperature"),
    "a temperature that is not a number": ({"temperature": float("nan")}, "temperature"),
    "a temperature without end": ({"temperature": float("inf")}, "temperature"),
    "text for a number": ({"horizon_steps": "many"}, "horizon_steps|type"),
    "a negative seed": ({"seed": -1}, "seed"),
    "an unknown provider": ({"provider": "npu"}, "provider is 'npu': use one of"),
    "an unknown transport": ({"transport": "theora"}, "transport is 'theora': use one of"),
    "a variant that the model lacks": ({"variant": "int1"}, "variant|int1"),
    "an unknown eye": ({"stereo_half": "middle"}, "stereo_half is 'middle'"),
    "a region outside the images": ({"region_of_interest": [600, 0, 640, 480]}, "region"),
    "a region of three numbers": ({"region_of_interest": [0, 0, 640]}, "region_of_interest has 3 numbers"),
    "a region of negative numbers": ({"region_of_interest": [-5, 0, 640, 480]}, "region"),
    "a frame before the first": ({"frame_steps": [0]}, "steps count from 1"),
    "a good value beside a bad one": ({"seed": 7, "warmup_frames": 0}, "warmup_frames"),
    "what is fixed at start": ({"autostart": False}, "autostart|read.only"),
    "a model that is not there": ({"model": "/nowhere/model"}, "no model '/nowhere/model'.*holds a manifest"),
    "a provider this machine lacks": ({"provider": "tensorrt"}, "tensorrt|TensorRT"),
    "a parameter that does not exist": ({"horizon": 3}, "horizon"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_parameter_is_refused(theatre: Theatre, name: str) -> None:
    values, sentence = IMPOSSIBLE[name]
    with theatre.fault(f"parameter: {name}") as fault:
        taken, reason = theatre.set(**values)
        assert not taken
        fault.answered(reason, sentence)


def test_a_storm_of_parameters(theatre: Theatre) -> None:
    with theatre.fault("three hundred parameters set in a row, ten at a time"):
        for start in range(0, 300, 10):
            answers = [
                theatre.set_later(seed=n % 7, num_samples=1 + n % 3, horizon_steps=10 + n % 5, temperature=1.0)
                for n in range(start, start + 10)
            ]
            assert theatre.play_one()
            for answer in answers:
                assert answer.get() == (True, "")
        assert theatre.set(seed=0, num_samples=1, horizon_steps=15) == (True, "")


def test_a_storm_of_parameters_that_load_the_model_anew(theatre: Theatre) -> None:
    """Models load beside the stream, and one that is overtaken by the next need not be used."""
    with theatre.fault("the model is loaded anew ten times in a row", new_epochs=(0, 10)):
        answers = [theatre.set_later(warmup_frames=5 + n % 3) for n in range(9)]
        answers.append(theatre.set_later(warmup_frames=5))
        for answer in answers:
            assert answer.get(120.0) == (True, "")
        theatre.await_loaded()


def test_both_eyes_and_one_again(theatre: Theatre) -> None:
    """The same images taken for side-by-side stereo, which an odd width cannot be, and for one eye's again."""
    with theatre.fault("stereo_half is both, an image of odd width comes, and it is one eye again",
                       new_epochs=(1, 4)) as fault:
        assert theatre.set(stereo_half="both") == (True, "")
        theatre.await_loaded()
        assert theatre.play(10) == 10
        theatre.send(theatre.image(width=639))
        fault.said("639", level=DiagnosticStatus.ERROR)
        assert theatre.set(stereo_half="") == (True, "")
        theatre.await_loaded()
