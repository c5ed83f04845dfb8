"""Plots of one number over another, drawn into the page as they are: points, lines and bands in the page's own colors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from goodfit.report.markup import THIN, Html, tag

WIDTH, HEIGHT = 480, 290
LEFT, RIGHT, TOP, BOTTOM = 50, 22, 12, 44  # margins, where the numbers and labels of the axes stand
FEWEST, TICKS = 3, 6  # numbers along an axis


@dataclasses.dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, straight or logarithmic; a share is said in percent."""

    label: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    share: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0..1 from low to high."""
        low, high, x = (math.log(y) if self.log else y for y in (self.low, self.high, value))
        return (x - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[float]:
        """Round values on it: of a logarithmic axis the powers of ten, with halves and fifths of them where those are few."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1) if self.log else range(0)
        for factors in ((1,), (1, 2, 5)):
            found = [x for n in powers for factor in factors if self.low <= (x := float(f"{factor}e{n}")) <= self.high]
            if len(found) >= FEWEST:
                return found[:: -(-len(found) // TICKS)]
        rough = (self.high - self.low) / (TICKS - 1) or 1.0
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * (1 - 1e-9))
        return [n * step for n in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]

    def said(self, value: float) -> str:
        return f"{100 * value:.3g}{THIN}%" if self.share else f"{value:.3g}"


class Plot:
    """A plot over two axes; what is added first lies lowest. Every class of an element is a style of the page's style sheet."""

    def __init__(self, x: Scale, y: Scale) -> None:
        self.x, self.y = x, y
        self.layers: list[Html] = []
        for value in x.ticks():
            self._text(self._x(value), HEIGHT - BOTTOM + 16, x.said(value), "middle")
        for value in y.ticks():
            self.layers.append(_shape("line.grid", {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": self._y(value), "y2": self._y(value)}))
            self._text(LEFT - 8, self._y(value) + 4, y.said(value), "end")
        self._text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x.label, "middle")

    def band(self, low: float, high: float, style: str) -> None:
        """A stretch of the x axis, over the whole height."""
        left, right = self._x(low), self._x(high)
        self.layers.append(_shape(f"rect.{style}", {"x": left, "y": TOP, "width": right - left, "height": HEIGHT - TOP - BOTTOM}))

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """A line from point to point."""
        path = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in points)
        self.layers.append(tag(f"polyline.{style}", attrs={"points": path}))

    def dot(self, x: float, y: float, said: str, style: str, radius: float = 4.0) -> None:
        """A point that says what it is when pointed at."""
        self.layers.append(_shape(f"circle.{style}", {"cx": self._x(x), "cy": self._y(y), "r": radius}, tag("title", said)))

    def cross(self, x: float, said: str) -> None:
        """A value of x without one of y, at the lower end."""
        self._text(self._x(x), HEIGHT - BOTTOM - 4, "×", "middle", "cross", said)

    def figure(self, title: str, said: str, caption: str = "", key: Sequence[tuple[str, str]] = ()) -> Html:
        """The plot with its title, what it says to those who cannot see it, a caption, and a key of (style, name)."""
        names = [tag("span", tag(f"i.{style}"), name) for style, name in key]
        svg = tag("svg", *self.layers, attrs={"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": said})
        return tag(
            "figure.plotted",
            tag("h3", title),
            tag("p.axis", self.y.label),
            svg,
            tag("p.key", *names) if names else None,
            tag("figcaption", caption) if caption else None,
        )

    def _x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * self.x.place(value)

    def _y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * self.y.place(value)

    def _text(self, x: float, y: float, text: str, anchor: str, style: str = "", said: str = "") -> None:
        spec = f"text.{style}" if style else "text"
        inner = (text, tag("title", said) if said else None)
        self.layers.append(tag(spec, *inner, attrs={"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}))


def _shape(spec: str, places: Mapping[str, float], *children: Html) -> Html:
    return tag(spec, *children, attrs={name: f"{value:.1f}" for name, value in places.items()})
