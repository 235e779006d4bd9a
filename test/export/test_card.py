"""The model card's hand-written part."""

from __future__ import annotations

from pathlib import Path

from gridkp_ros.export.card import known_faults, results_section


def test_known_faults_outlive_a_new_card_and_need_not_be_there(tmp_path: Path) -> None:
    card = tmp_path / "MODEL_CARD.md"
    assert known_faults(card) == ""
    card.write_text("# m\n\n## Measured\n1\n")
    assert known_faults(card) == ""
    card.write_text(card.read_text() + "\n## Known faults\nIt blinks.\n")
    card.write_text("# m\n\n## Measured\n2\n" + known_faults(card))
    assert card.read_text() == "# m\n\n## Measured\n2\n\n## Known faults\nIt blinks.\n"


def test_results_say_which_keypoints_move_and_how_far_the_probe_is_off() -> None:
    interval = {"mean": 1.0, "low": None, "high": None, "count": 3}
    metrics = {
        "horizons": {"2": {"coverage50": {"model": interval}}},
        "source": {"name": "a", "width": 4, "height": 3},
        "frames": {"forecasts": 3},
        "model": {"num_samples": 1},
    }
    assert "Of the keypoints" not in results_section(metrics, "gridkp ...")
    metrics |= {
        "keypoint_motion": {"moving_share": 0.75, "alike_share": None},
        "keypoints_with_instrument": {"share": 0.5},
        "probe_error_px": {"tips": {"mean": 4.256}},
    }
    text = results_section(metrics, "gridkp ...")
    assert "Of the keypoints 75% move, 50% move with an instrument" in text and "4.26 px off" in text
    assert "| keypoints in the 50 % ellipse | model | 1.00 |" in text
