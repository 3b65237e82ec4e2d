"""A claim has a rival, and stands only if the rival does worse on the same images."""

import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advlib.errors import InputError
from advlib.lessons.claims import MIME, VERDICTS, Claim, claim

KEYS = ("lesson", "claim", "measurement", "n", "interval", "rival", "rival_measurement", "standing")


def made(values: torch.Tensor, rival_values: torch.Tensor, **changed) -> Claim:
    words = dict(claim="It does.", measure="signs <found>", rival="It is luck.", left="Little.")
    given = dict(lesson=3, values=values, rival_values=rival_values)
    return claim(**{**given, **words, **changed})


MANY, FEW = torch.arange(40) < 30, torch.arange(40) < 5


def test_a_claim_stands_if_its_rival_does_worse() -> None:
    block = made(MANY, FEW)
    assert block.standing and block.verdict == "stands" and block.n == 40
    assert block.measurement.startswith("signs <found>: 75.0 % (30 of 40; 95 % interval 59.8")
    assert block.rival_measurement.startswith("signs <found>: 12.5 % (5 of 40;")
    assert block.interval == [0.598, 0.858]


def test_no_claim_stands_whose_rival_does_better_or_that_points_the_other_way() -> None:
    for block in (made(FEW, MANY), made(MANY, FEW, smaller=True)):
        assert not block.standing and block.verdict == VERDICTS[-1]
    assert made(FEW, MANY, smaller=True).standing


@given(st.lists(st.booleans(), min_size=6, max_size=40), st.integers(0, 5), st.booleans())
def test_a_tie_cannot_stand(drawn: list[bool], differ: int, smaller: bool) -> None:
    """Five images at most on which the two disagree are no evidence, whichever way they point."""
    values = torch.tensor(drawn)
    rival = values.clone()
    rival[:differ] = False
    block = made(values, rival, smaller=smaller)
    assert not block.standing and block.verdict == VERDICTS[0]


@pytest.mark.parametrize("name", ["claim", "measure", "rival", "left"])
def test_a_claim_without_a_part_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"`{name}` is empty"):
        made(MANY, FEW, **{name: " "})


def test_a_rival_on_other_images_is_refused() -> None:
    with pytest.raises(InputError, match="same images"):
        made(MANY, FEW[:-1])
    with pytest.raises(TypeError, match="rival"):
        claim(lesson=3, claim="c", measure="m", values=MANY, left="l")


def test_a_cell_shows_a_box_and_keeps_plain_data() -> None:
    bundle = made(MANY, FEW)._repr_mimebundle_(include=None, exclude=None)
    assert list(bundle) == [MIME, "text/html", "text/plain"]
    data = json.loads(json.dumps(bundle[MIME]))
    assert set(KEYS) <= set(data) and Claim(**data) == made(MANY, FEW)
    box, text = bundle["text/html"], bundle["text/plain"]
    assert "&lt;found&gt;" in box and "<script" not in box and "background" not in box
    shown = re.sub(r"<[^>]*>", " ", box)
    for part in ("It does.", "It is luck.", "Little.", "(30 of 40;", "(5 of 40;", "stands"):
        assert part in shown and part in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 88


def test_a_claim_measured_again_says_where_it_stands_and_where_not() -> None:
    elsewhere = {"another network": (MANY, FEW), "a third": (FEW, MANY), "luck": (FEW, FEW)}
    block = made(MANY, FEW, again=elsewhere)
    assert block.standing and block.again == [
        "another network (n = 40): 75.0 % against 12.5 %, stands",
        "a third (n = 40): 12.5 % against 75.0 %, not shown: the rival does better",
        "luck (n = 40): 12.5 % against 12.5 %, not shown: the rival does as well",
    ]
    assert "a third (n = 40): 12.5 % against 75.0 %" in " ".join(repr(block).split())
    bundle = block._repr_mimebundle_()
    assert Claim(**bundle[MIME]) == block and "a third (n = 40): 12.5 %" in bundle["text/html"]
    assert "again" not in made(MANY, FEW).data() and "Measured again" not in repr(made(MANY, FEW))
    numbers = {"few": (torch.arange(6.0), torch.arange(6.0) + 2)}
    assert made(MANY, FEW, smaller=True, again=numbers).again == [
        "few (n = 6): 2.5 against 4.5, stands"
    ]


def test_numbers_are_compared_by_their_medians_and_seeds_count_like_images() -> None:
    seeds = torch.tensor([4.0, 5, 6, 7, 8, 9])
    block = made(seeds + 1000.4, seeds)
    assert block.standing and block.measurement.endswith(
        "1,010 (median of 6; 95 % interval 1,000 to 1,010)"
    )
    assert block.difference.startswith("1,000 (median of the paired differences)")
    assert "sign test, p = 0.031" in block.difference
    assert made(seeds, seeds + 1000.4).verdict == VERDICTS[-1]
