"""The passages: forty of three sentences, each with a topic and a query of its own."""

import re

from advlib.data import passages


def test_there_are_forty_of_three_sentences() -> None:
    library = passages()
    assert len(library) == 40 == len({one.topic for one in library})
    for one in library:
        assert len(re.split(r"(?<=\.) ", one.text)) == 3 and one.text.endswith(".")
        assert one.query.endswith("?") and one.query not in one.text
