"""A small writer of SVG charts: text stays text, colours come from the page's style sheet.

Charts are part of the report page, so they follow its light and dark colours, print as vectors and cost
milliseconds. Everything that is drawn carries a class; the classes are in ``templates/style.css.j2``.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

CHAR_WIDTH = 6.0  # of the 11-pixel label font; a little too wide rather than too narrow
LINE_HEIGHT = 13.0
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SHAPES = {
    "circle": "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "square": "m-4-4h8v8h-8z",
    "diamond": "m0-6l6 6l-6 6l-6-6z",
    "triangle": "m0-5l5 9h-10z",
}


def number(value: float) -> str:
    """A coordinate with one decimal and no trailing zero."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def quoted(text: str) -> str:
    """Text for an attribute."""
    return escape(text, {'"': "&quot;"})


@dataclass(frozen=True)
class Scale:
    """From values to pixels, linear or logarithmic."""

    low: float
    high: float
    first: float
    last: float
    log: bool = False

    @classmethod
    def over(
        cls, values: Iterable[float], first: float, last: float, *, log: bool = False, zero: bool = False
    ) -> "Scale":
        """A scale that holds all ``values``; a logarithmic one leaves out what is not positive."""
        kept = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        low, high = (min(kept), max(kept)) if kept else (1.0, 10.0)
        if log:
            return cls(low / 1.35, high * 1.35, first, last, log=True)
        low = min(low, 0.0) if zero else low
        pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        return cls(low if zero else low - pad, high + pad, first, last)

    def __call__(self, value: float) -> float:
        """The pixel of ``value``."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.first + share * (self.last - self.first)

    def ticks(self, most: int = 7) -> list[float]:
        """Round values inside the scale: powers of ten on a long logarithmic one, else 1, 2, 5 steps."""
        if self.log and self.high / self.low >= 30:
            exponents = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            return [10.0**e for e in exponents[:: max(1, math.ceil(len(exponents) / most))]]
        if self.log and self.high / self.low > 4:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            round_values = [digit * 10.0**e for e in decades for digit in (1, 2, 5)]
            return [value for value in round_values if self.low <= value <= self.high]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / most))
        step *= next(digit for digit in (1, 2, 5, 10) if (self.high - self.low) / (step * digit) <= most)
        count = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(count[0], count[1] + 1)]


def tick_text(value: float) -> str:
    """A short label: ``0.25``, ``1500``, ``10⁻⁴``, ``2·10⁻⁴``."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.6g}"
    digits, exponent = f"{value:.3e}".split("e")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPT)
    digits = f"{float(digits):g}"
    return power if digits == "1" else f"{digits}·{power}"


class Canvas:
    """Marks of one chart; ``render`` closes it into an ``svg`` element with a title and a description."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.parts: list[str] = []
        self._taken: list[tuple[float, float, float, float]] = []

    def rect(self, x: float, y: float, width: float, height: float, style: str, hint: str = "") -> None:
        """A filled box; ``hint`` shows under the pointer."""
        box = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
        end = f"><title>{escape(hint)}</title></rect>" if hint else "/>"
        self.parts.append(f'<rect class="{style}" {box}{end}')

    def path(self, commands: str, style: str) -> None:
        """Any outline."""
        if commands:
            self.parts.append(f'<path class="{style}" d="{commands}"/>')

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """A line through pixel positions."""
        self.path("M" + "L".join(f"{number(x)} {number(y)}" for x, y in points) if points else "", style)

    def text(
        self, x: float, y: float, text: str, anchor: str = "start", style: str = "", turn: int = 0
    ) -> None:
        """A label; ``turn`` rotates it about its position."""
        extra = f' class="{style}"' if style else ""
        extra += f' text-anchor="{anchor}"' if anchor != "start" else ""
        extra += f' transform="rotate({turn} {number(x)} {number(y)})"' if turn else ""
        self.parts.append(f'<text x="{number(x)}" y="{number(y)}"{extra}>{escape(text)}</text>')

    def marks(self, points: Sequence[tuple[float, float]], shape: str, style: str) -> None:
        """One symbol at each position, all in one path."""
        self.path("".join(f"M{number(x)} {number(y)}{_SHAPES[shape]}" for x, y in points), style)

    def label(self, x: float, y: float, text: str, style: str = "") -> None:
        """A label beside a mark, where no earlier one stands."""
        width = CHAR_WIDTH * len(text)
        rows = [y - 4 + LINE_HEIGHT * step for step in (0, 1, -1, 2, -2, 3, -3, 4, -4)]
        places = [(left, row) for left in (x + 8, x - 8 - width) for row in rows]
        inside = [(a, b) for a, b in places if a >= 0 and a + width <= self.width and 10 < b < self.height]
        best = next((place for place in inside if self._free(*place, width)), (inside or places)[0])
        self._taken.append((best[0], best[1] - LINE_HEIGHT + 3, best[0] + width, best[1] + 3))
        self.text(*best, text, style=style)

    def _free(self, x: float, y: float, width: float) -> bool:
        top, bottom = y - LINE_HEIGHT + 3, y + 3
        return all(
            x >= right or x + width <= left or top >= low or bottom <= high
            for left, high, right, low in self._taken
        )

    def render(self, name: str, title: str, description: str) -> str:
        """The chart as one element; ``name`` keeps its ids apart from those of other charts."""
        size = f'viewBox="0 0 {number(self.width)} {number(self.height)}" width="{number(self.width)}"'
        label = f'aria-labelledby="{name}-title {name}-text"'
        head = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-text">{escape(description)}</desc>'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" {label}>{head}{"".join(self.parts)}</svg>'


class Plot(Canvas):
    """A chart with two axes; the frame, the ticks and the labels are drawn on construction."""

    def __init__(self, width: float, height: float, x: Scale, y: Scale, x_label: str, y_label: str) -> None:
        super().__init__(width, height)
        self.x, self.y = x, y
        left, right, bottom, top = x.first, x.last, y.first, y.last
        for value in x.ticks():
            self.line([(x(value), top), (x(value), bottom)], "grid")
            self.text(x(value), bottom + 15, tick_text(value), "middle")
        for value in y.ticks():
            self.line([(left, y(value)), (right, y(value))], "grid")
            self.text(left - 6, y(value) + 4, tick_text(value), "end")
        self.line([(left, top), (left, bottom), (right, bottom)], "axis")
        self.text((left + right) / 2, bottom + 32, x_label, "middle", "name")
        self.text(13, (top + bottom) / 2, y_label, "middle", "name", turn=-90)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The pixel position of a pair of values."""
        return self.x(x), self.y(y)

    def inside(self, x: float, y: float) -> bool:
        """Whether a pair of values can be drawn."""
        values = ((x, self.x), (y, self.y))
        return all(math.isfinite(value) and (value > 0 or not scale.log) for value, scale in values)
