"""How a check speaks: a verdict prints itself and never raises."""

from advlib.lessons import Mistake, check


def test_a_verdict_prints_itself_and_never_raises() -> None:
    @check
    def positive(value: int) -> str:
        if value < 0:
            raise Mistake("the sign is lost.")
        return f"{10 // value} is right."

    assert repr(positive(5)) == "Right: 2 is right."
    assert repr(positive(-1)) == "Not yet: the sign is lost."
    assert "ZeroDivisionError" in positive(0).message and not positive(0).ok
