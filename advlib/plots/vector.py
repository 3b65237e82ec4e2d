"""Figures as drawings (SVG) whose letters a page can resize and recolour.

Matplotlib's own SVG fixes each line of text where its own font would put it. Here a text is pinned
where it is aligned, with offsets in units of its own size, so that it stays in place in any font
and in letters of any size. Images of pixels keep their pixels.
"""

import io
import re
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.colors import rgb2hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from numpy.typing import NDArray

LETTERS = 10
"""Size of letters in points. Others are written as multiples of it."""

PIXELS = 1.5
"""Pixels of a page for each point, where nothing else gives a figure its width."""

_OPENING = re.compile(r".*?<svg\b.*?</style>\s*</defs>\s*", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_INDENT = re.compile(r"\n\s+")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_POWER = re.compile(r"\$\\mathdefault\{(.*?)\^\{([-−\d]+)\}\}\$")
_RAISED = str.maketrans("0123456789-−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁻")
_ANCHORS = {"left": "start", "center": "middle", "right": "end"}
_TOP, _MIDDLE, _NEXT = 0.76, 0.36, 1.2
"""From the baseline of a line to its top, to its middle, and to the next line, in letters."""


class _Renderer(RendererSVG):
    """Matplotlib's, without groups, and with text that stays in place."""

    def __init__(self, fig: Figure, out: io.StringIO, texts: dict[str, Text]) -> None:
        width, height = fig.bbox.size
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        super().__init__(width, height, out, image_dpi=144, metadata=nothing)
        self._texts = texts
        self._text: Text | None = None
        self._lines: list[tuple[float, float, str]] = []
        self._images: list[NDArray[np.float64]] = []

    def open_group(self, s: str, gid: str | None = None) -> None:
        """Remember which text begins: `draw_text` is not told when it has several lines."""
        if s == "text":
            self._text = self._texts.get(gid or "")

    def close_group(self, s: str) -> None:
        """Write the text whose lines have all come."""
        if s == "text" and self._lines:
            self._write()
            self._lines = []

    def draw_image(self, gc: Any, x: float, y: float, im: Any, transform: Any = None) -> None:
        """Draw an image, and remember where: letters over it keep their colour."""
        if transform is None:
            corners = np.array([[0, 0], [im.shape[1], im.shape[0]]]) * 72 / self.image_dpi
        else:
            corners = transform.transform([[0, 0], [1, 1]])
        self._images.append(np.sort(corners + (x, y), axis=0))
        if (im[..., 3] == 255).all():
            im = np.ascontiguousarray(im[..., :3])
        super().draw_image(gc, x, y, im, transform)

    def draw_text(
        self,
        gc: Any,
        x: float,
        y: float,
        s: str,
        prop: Any,
        angle: float,
        ismath: Any = False,
        mtext: Text | None = None,
    ) -> None:
        """Keep a line until its text is complete; draw a formula, other than a power, as paths."""
        if ismath:
            s = _POWER.sub(lambda power: power[1] + power[2].translate(_RAISED), s)
            s = s.replace(r"\times", "×")
            if "$" in s:
                with matplotlib.rc_context({"svg.fonttype": "path"}):
                    super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
                return
        self._text = mtext or self._text
        self._lines.append((x, y, s))
        self._look = gc.get_rgb(), prop, angle

    def _write(self) -> None:
        """Write the lines of a text."""
        rgb, prop, angle = self._look
        size = prop.get_size_in_points() / LETTERS
        lines = [line for _, _, line in self._lines]
        anchor, along, across, lift, lead = self._place(size, angle)
        x = f"{along:f}"
        look = {"x": x, "y": f"{across:f}", "text-anchor": anchor, "fill": self._colour(rgb)}
        look["transform"] = f"rotate({-angle:g})" if angle else ""
        look["font-size"] = f"{size:g}em" if size != 1 else ""
        look["font-weight"] = str(prop.get_weight())
        look["font-style"] = prop.get_style()
        look["opacity"] = f"{rgb[3]:g}"
        usual = ("", "start", "normal", "400", "1")
        look = {key: value for key, value in look.items() if value not in usual}
        first = f"{lift - lead * _NEXT:.3g}em"
        if len(lines) == 1:
            self.writer.element("text", lines[0], dy=first if lift else "", attrib=look)
            return
        self.writer.start("text", look)
        for number, line in enumerate(lines):
            self.writer.element("tspan", line, x=x, dy=f"{_NEXT}em" if number else first)
        self.writer.end("text")

    def _place(self, size: float, angle: float) -> tuple[str, float, float, float, float]:
        """Return where a text is pinned.

        That is how it is anchored, its place along its own lines and across them, how far the
        middle or the top of its letters lies above that place, and how many of its lines do.
        """
        turn = np.deg2rad(angle)
        own = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        first, last = (own @ line[:2] for line in (self._lines[0], self._lines[-1]))
        above, letters, text = len(self._lines) - 1, size * LETTERS, self._text
        if text is None:
            return "start", first[0], last[1], 0, above
        anchor = _ANCHORS[text.get_horizontalalignment()]
        x, y = text.get_transform().transform(text.get_unitless_position())
        along = (own @ (x, self.height - y))[0]
        if angle and text.get_rotation_mode() != "anchor":
            # Then Matplotlib aligns the box around the turned text.
            width = self.get_text_width_height_descent(self._lines[0][2], self._look[1], False)[0]
            anchor, along = "middle", first[0] + width / 2
        vertical = text.get_verticalalignment()
        if vertical == "top":
            return anchor, along, first[1] - _TOP * letters, _TOP, 0
        if vertical.startswith("center"):
            middle = (first[1] + last[1]) / 2 - _MIDDLE * letters
            return anchor, along, middle, _MIDDLE, above / 2
        return anchor, along, last[1], 0, above

    def _colour(self, rgb: Any) -> str:
        """Return the colour of a text: none where it is that of the text around the figure."""
        x, y, _ = self._lines[0]
        at, colour = (x, self.height - y), rgb2hex(rgb)
        if any((low <= at).all() and (at <= high).all() for low, high in self._images):
            return {"#000000": "black", "#ffffff": "white"}.get(colour, colour)
        return "" if colour == "#000000" else colour


def _short(tag: re.Match[str]) -> str:
    """Round what no screen can show, and put the tag on one line."""
    text = _NUMBER.sub(lambda number: f"{_rounded(float(number[0])):g}", tag[0])
    return " ".join(text.split()).replace(' "', '"')


def _rounded(value: float) -> float:
    # Factors of a scale are small and need their digits.
    return round(value, 2) if abs(value) >= 1 else float(f"{value:.3g}")


def svg(fig: Figure) -> str:
    """Return a figure as SVG: the same text for the same figure.

    Letters have the font and the colour of the text around the drawing, unless the figure gives
    them one. `AxesImage` objects keep their pixels, which a browser shows as squares.
    """
    resampled = [
        image
        for image in fig.findobj(AxesImage)
        if image.get_interpolation() in ("nearest", "auto", "antialiased")
    ]
    for image in resampled:
        image.set_interpolation("none")  # what Matplotlib calls the image as it is
    texts = {f"text {n}": text for n, text in enumerate(fig.findobj(Text))}
    for name, text in texts.items():
        text.set_gid(name)
    out, dpi, fig.dpi = io.StringIO(), fig.dpi, 72
    with matplotlib.rc_context({"svg.hashsalt": "advlib", "image.composite_image": False}):
        renderer = _Renderer(fig, out, texts)
        fig.draw(renderer)
        renderer.finalize()
    fig.dpi = dpi
    for text in texts.values():
        text.set_gid(None)
    body = _OPENING.sub("", out.getvalue(), count=1).replace("xlink:href", "href")
    body = _TAG.sub(_short, body.replace("base64,\n", "base64,"))
    body = _INDENT.sub("\n", body)
    width, height = fig.get_size_inches() * 72
    return (
        f'<svg class="drawing" xmlns="http://www.w3.org/2000/svg" width="{width * PIXELS:.0f}" '
        f'height="{height * PIXELS:.0f}" viewBox="0 0 {width:g} {height:g}" fill="currentColor" '
        f'font-family="sans-serif" font-size="{LETTERS}" stroke-linejoin="round">\n{body}'
    )
