"""The model card's hand-written part."""

from __future__ import annotations

from pathlib import Path

from gridkp_ros.export.card import known_faults


def test_known_faults_outlive_a_new_card_and_need_not_be_there(tmp_path: Path) -> None:
    card = tmp_path / "MODEL_CARD.md"
    assert known_faults(card) == ""
    card.write_text("# m\n\n## Measured\n1\n")
    assert known_faults(card) == ""
    card.write_text(card.read_text() + "\n## Known faults\nIt blinks.\n")
    card.write_text("# m\n\n## Measured\n2\n" + known_faults(card))
    assert card.read_text() == "# m\n\n## Measured\n2\n\n## Known faults\nIt blinks.\n"
