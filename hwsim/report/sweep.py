"""A what-if sweep as a chart and as one page.

Latency stands over the parameter with the most values; every setting of the others has a line.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwsim.report.figures import axis_unit
from hwsim.report.svg import CHAR_WIDTH, Plot, Scale
from hwsim.units import format_quantity

WIDTH, HEIGHT = 760.0, 420.0
SHAPES = ("circle", "square", "diamond", "triangle")
COLOURS = 6
STYLE = """
:root { color-scheme: light dark; --ink: #16202c; --dim: #4a5766; --paper: #fff; --grid: #e3e8ee; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf1; --dim: #aab6c3; --paper: #12171e; --grid: #27303b; } }
body { font: 16px system-ui, sans-serif; color: var(--ink); background: var(--paper); }
body { max-width: 60rem; margin: 2rem auto; }
svg { max-width: 100%; height: auto; } table { border-collapse: collapse; } caption { text-align: left; }
th, td { text-align: right; padding: .2rem .8rem .2rem 0; font-variant-numeric: tabular-nums; }
text { font: 11px system-ui, sans-serif; fill: var(--ink); } text.name { fill: var(--dim); }
.axis { stroke: var(--dim); fill: none; } .grid { stroke: var(--grid); fill: none; }
.line { fill: none; stroke-width: 1.5; } .roof { stroke-dasharray: 4 3; opacity: .6; }
.s0 { stroke: #1f6fb4; fill: #1f6fb4; } .s1 { stroke: #b4541f; fill: #b4541f; } .s2 { stroke: #2b8a4b; fill: #2b8a4b; }
.s3 { stroke: #8a2b7f; fill: #8a2b7f; } .s4 { stroke: #6f6f1f; fill: #6f6f1f; } .s5 { stroke: #777; fill: #777; }
"""


@dataclass(frozen=True)
class SweepRow:
    """One point: the changed values, seconds of an inference, the bound that no schedule beats, joules."""

    changes: Mapping[str, float]
    seconds: float
    roofline: float
    joules: float


def value_text(name: str, value: float) -> str:
    """A parameter's value with its unit."""
    if name == "clock":
        return format_quantity(value, "frequency")
    return f"{value:g} GB/s" if name == "dram_gbps" else f"{value:g}"


def sweep_svg(rows: Sequence[SweepRow]) -> str:
    """Latency (solid) and roofline (dashed) over the parameter with the most values."""
    names = list(rows[0].changes)
    across = max(names, key=lambda name: len({row.changes[name] for row in rows}))
    others = [name for name in names if name != across]
    series: dict[tuple[float, ...], list[SweepRow]] = {}
    for row in rows:
        series.setdefault(tuple(row.changes[name] for name in others), []).append(row)
    unit, suffix = axis_unit(max(row.seconds for row in rows), "time")
    divisor, label = _x_unit(across, [row.changes[across] for row in rows])
    legends = [
        ", ".join(f"{n} {value_text(n, v)}" for n, v in zip(others, key, strict=True)) for key in series
    ]
    right = WIDTH - 20 - (CHAR_WIDTH * max(map(len, legends)) + 20 if others else 0)
    x_values = [row.changes[across] / divisor for row in rows]
    wide = max(x_values) > 4 * min(x_values)
    times = [value / unit for row in rows for value in (row.seconds, row.roofline)]
    x = Scale.over(x_values, 62, right, log=wide)
    plot = Plot(
        WIDTH,
        HEIGHT,
        x,
        Scale.over(times, HEIGHT - 46, 12, zero=True),
        label,
        f"time of an inference ({suffix})",
    )
    for index, (found, legend) in enumerate(zip(series.values(), legends, strict=True)):
        style = f"s{index % COLOURS}"
        ordered = sorted(found, key=lambda row: row.changes[across])
        points = [plot.at(row.changes[across] / divisor, row.seconds / unit) for row in ordered]
        plot.line(points, f"line {style}")
        plot.marks(points, SHAPES[index % len(SHAPES)], style)
        bounds = [plot.at(row.changes[across] / divisor, row.roofline / unit) for row in ordered]
        plot.line(bounds, f"line roof {style}")
        if others:
            plot.marks([(right + 18, 24.0 + 16 * index)], SHAPES[index % len(SHAPES)], style)
            plot.text(right + 28, 28.0 + 16 * index, legend)
    text = f"Latency of {len(rows)} points over {across}; dashed: the bound that no schedule beats."
    return plot.render("sweep", "What if", text)


def _x_unit(name: str, values: Sequence[float]) -> tuple[float, str]:
    if name == "clock":
        divisor, suffix = axis_unit(max(values), "frequency")
        return divisor, f"clock ({suffix})"
    return 1.0, "main memory (GB/s)" if name == "dram_gbps" else name


def standalone_svg(rows: Sequence[SweepRow]) -> str:
    """The chart with its own style sheet."""
    drawn = sweep_svg(rows)
    head, _, rest = drawn.partition(">")
    return f"{head}><style>{STYLE}</style>{rest}\n"


def sweep_html(rows: Sequence[SweepRow], title: str) -> str:
    """One page without network: the chart and the table."""
    names = list(rows[0].changes)
    first = rows[0].seconds
    heads = "".join(
        f"<th scope=col>{html.escape(name)}</th>"
        for name in (*names, "latency", "roofline", "energy", "speed-up")
    )
    lines: list[str] = []
    for row in rows:
        cells = [value_text(name, row.changes[name]) for name in names]
        cells += [format_quantity(row.seconds, "time"), format_quantity(row.roofline, "time")]
        cells += [
            format_quantity(row.joules, "energy"),
            f"{first / row.seconds:.2f}×" if row.seconds else "—",
        ]
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    best = min(rows, key=lambda row: row.seconds if math.isfinite(row.seconds) else math.inf)
    settings = ", ".join(f"{name} {value_text(name, value)}" for name, value in best.changes.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><h1>{html.escape(title)}</h1>'
        f"<p>Fastest: {html.escape(settings)}, {format_quantity(best.seconds, 'time')}. Modelled, not measured.</p>"
        f"<figure>{sweep_svg(rows)}</figure><table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        "</html>\n"
    )
