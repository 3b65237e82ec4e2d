"""The soak test in small, and what it would say of an audit that goes wrong."""

import json
import os
import signal
from pathlib import Path

import pytest
import soak


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_an_audit_of_signs_that_is_killed_goes_on_to_the_same_counts(tmp_path: Path) -> None:
    outcome = soak.soak(tmp_path, images=384, piece_size=128, pause=0.05)
    assert outcome.killed.status == -signal.SIGKILL
    assert outcome.whole.status == outcome.resumed.status == 0
    assert 1 <= outcome.kept < 3 and outcome.repeated == 0
    assert outcome.equal
    card = outcome.card
    assert card["complete"] and card["clean"]["total"] == card["data"]["images"] == 384
    assert 0 < card["robust"]["count"] < card["clean"]["count"]
    assert max(memory for _, memory in outcome.whole.memory) > 100
    # One verdict turned round is noticed.
    piece = next((tmp_path / "broken" / "pieces").glob("piece-*1.json"))
    held = json.loads(piece.read_text(encoding="utf-8"))
    held["fooled_by"][5] = -3
    piece.write_text(json.dumps(held), encoding="utf-8")
    assert not soak.agree(tmp_path / "whole", tmp_path / "broken")


def test_growth_is_what_is_added_after_the_beginning() -> None:
    flat = [(0, 10.0), (0, 400.0), *((k, 900.0 + k % 3) for k in range(98))]
    assert abs(soak.growth(flat)) <= 2
    leaking = [(k, memory + 0.9 * k) for k, (_, memory) in enumerate(flat)]
    assert soak.growth(leaking) > soak.GROWTH
    assert soak.growth(flat[:3]) == 0
