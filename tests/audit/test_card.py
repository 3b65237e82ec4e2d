"""The card as a page: whole, from nowhere else, safe whatever things are called, and true."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import reference
import torch
from torch import Tensor

import advlib
from advlib import threats
from advlib.audit import Audit, Stream
from advlib.audit.card import Near

RANDOM_STATE_IS_WATCHED = True

EPS = 0.05
NAMES = [f"<i>{word}</i>" for word in ("stop", "go", "yield", "left", "right")]


def audit(n: int = 24, **settings) -> Audit:
    model = reference.mlp(75, 5, scale=2.0).float()
    x = reference.images(n, 3, 5, 5, seed=1, ends=0.1).float()
    y = model(x).argmax(1)
    y[:2] = (y[:2] + 1) % 5
    source = Stream(lambda start, stop: (x[start:stop], y[start:stop]), n, classes=NAMES)
    given = {"level": "quick", "masking": False, "batch_size": 8, "piece_size": 10, **settings}
    return advlib.audit(model, source, eps=EPS, **given)


class Reader(HTMLParser):
    """The tags that are opened and not closed, all attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "rect", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_says_what_the_audit_found_and_fetches_nothing() -> None:
    result = audit(name="<script>alert(1)</script>")
    page = Reader(result.html())
    assert not page.open
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags and "link" not in tags and "b" in tags and "i" not in tags
    assert not re.search(r"(?:src|href)=\"(?!data:)", result.html()) and "url(" not in result.html()
    assert "@import" not in result.html() and "http" not in result.html()
    for words in (
        "<script>alert(1)</script>",
        *(one.name for one in result.by_class),
        str(result.clean),
        str(result.robust),
        result.threat,
        *(row.name for row in result.rows),
        *result.limits,
        *(finding.message for finding in result.findings),
        result.repeat(),
        result.versions["torch"],
    ):
        assert words in page.text, words
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    regions = [kind["aria-label"] for _, kind in page.tags if kind.get("role") == "region"]
    assert regions == ["by attack", "by class", "by setting"]  # a screen reader tells them apart
    assert "light-dark(" in page.text and "@media print" in page.text
    assert ("html", {"lang": "en", "style": "color-scheme: light dark"}) in page.tags
    assert result._repr_html_() in result.html()
    assert "| <i>" in result.markdown() and result.repeat() in result.markdown()
    assert re.search(r" torch==[\d.]+\n", result.repeat())  # pip knows no 2.15.0+cu132


def test_the_bars_are_as_long_as_the_shares() -> None:
    result = audit()
    bars = [dict(attributes) for tag, attributes in Reader(result.html()).tags if tag == "rect"]
    shares = [result.clean, *(row.accuracy for row in result.rows)]
    assert [float(bar["width"]) for bar in bars] == pytest.approx(
        [230 * share.value for share in shares], abs=0.06
    )
    assert [bar["class"] for bar in bars][:3] == ["clean", "noise", "adversarial"]


def test_the_classes_add_up_to_the_whole() -> None:
    result = audit()
    assert sum(one.clean.total for one in result.by_class) == result.clean.total == 24
    assert sum(one.clean.count for one in result.by_class) == result.clean.count == 22
    assert sum(one.robust.count for one in result.by_class) == result.robust.count
    assert {one.name for one in result.by_class} <= set(NAMES)
    assert Audit.from_json(result.to_json()).by_class == result.by_class


def test_the_nearest_images_are_misclassified_and_no_farther_than_it_says() -> None:
    result = audit()
    model = reference.mlp(75, 5, scale=2.0).float()
    assert len(result.nearest) == 4
    distances = [near.eps for near in result.nearest]
    assert distances == sorted(distances) and distances[0] > 0
    for near in result.nearest:
        assert near.said == NAMES[int(model(near.x[None]).argmax())] != near.then
        assert near.then == NAMES[int(model(near.x_adv[None]).argmax())]
        assert threats.norm((near.x_adv - near.x)[None]).item() <= near.eps
    page = Reader(result.html())
    assert sum(tag == "img" for tag, _ in page.tags) == 8


def test_a_card_read_again_has_no_images_and_an_interrupted_one_says_so() -> None:
    result = replace(Audit.from_json(audit().to_json()), complete=False, findings=())
    page = Reader(result.html())
    assert "img" not in [tag for tag, _ in page.tags] and not page.open
    assert "Interrupted" in page.text


@pytest.mark.parametrize("channels", [1, 3])
def test_the_images_are_shown_as_they_are(channels: int) -> None:
    import base64
    import io

    import numpy as np
    from PIL import Image

    x = reference.images(2, channels, 4, 6).float()
    near = Near(x[0], x[1], 0.1, "one", "two")
    page = Reader(replace(audit(), nearest=(near,)).html())
    shown = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    for wanted, source in zip(x, shown, strict=True):
        pixels = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
        found = torch.from_numpy(np.array(pixels)).view(4, 6, channels).permute(2, 0, 1) / 255
        assert float((found - wanted).abs().max()) <= 0.5 / 255 + 1e-6


def test_where_there_is_no_budget_or_no_gradient_no_image_is_near() -> None:
    model = reference.mlp(75, 5, scale=2.0).float()

    def rounded(x: Tensor) -> Tensor:
        return model(x).detach()

    x = reference.images(8, 3, 5, 5).float()
    y = model(x).argmax(1)
    for given, eps in ((rounded, EPS), (model, 0.0)):
        found = advlib.audit(given, x, y, eps, level="quick", masking=False, batch_size=8)
        assert found.nearest == () and "Nearest" not in found.html()
