"""Figures of the report as inline SVG: text stays text, axes follow the page's colour in light and dark."""

import io
import re
from typing import TYPE_CHECKING

from hwsim.report.document import Report
from hwsim.units import format_quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACCENT, _SECOND, _QUIET = "#2f6fde", "#d9822b", "#8a94a3"
_INK = "#010203"  # a colour nobody draws with: replaced by currentColor in the page


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({
        "svg.fonttype": "none", "svg.hashsalt": "hwsim", "font.size": 9, "axes.spines.top": False,
        "axes.spines.right": False, "text.color": _INK, "axes.edgecolor": _INK, "axes.labelcolor": _INK,
        "xtick.color": _INK, "ytick.color": _INK,
    })  # fmt: skip
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: "Figure", label: str) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', _open_tag(label), text, count=1)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)


def _open_tag(label: str) -> str:
    return (
        r'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        rf'viewBox="\1" role="img" aria-label="{label}">'
    )


def time_by_layer(report: Report, most: int = 40) -> str:
    """Horizontal bars: where the time of one inference goes, largest layers first."""
    rows = sorted(report.layers, key=lambda row: -row.predicted_cycles)[:most]
    figure, axes = _figure(7.4, 0.6 + 0.19 * len(rows))
    milliseconds = [row.predicted_cycles / report.clock_hz * 1e3 for row in rows]
    colours = [_ACCENT if row.error is not None else _QUIET for row in rows]
    axes.barh([f"{row.name} · {row.scheme}" for row in rows], milliseconds, color=colours)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("time of the layer (ms); grey: work that is no product")
    return _svg(figure, "Time by layer")


def pareto(report: Report) -> str:
    """Latency against predicted error: the frontier, the uniform schemes and the chosen point."""
    figure, axes = _figure(7.4, 3.2)
    points = sorted(report.pareto, key=lambda point: point.seconds)
    if points:
        axes.plot([p.seconds * 1e3 for p in points], [p.error for p in points], "o-", color=_QUIET,
                  label="proven frontier")  # fmt: skip
    for row in report.comparison:
        if row.seconds is None or row.error is None or row.error <= 0:
            continue
        axes.plot(row.seconds * 1e3, row.error, "D" if row.chosen else "s",
                  color=_ACCENT if row.chosen else _SECOND)  # fmt: skip
        axes.annotate(row.name, (row.seconds * 1e3, row.error), xytext=(5, 4), textcoords="offset points",
                      fontsize=8)  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("latency (ms)")
    axes.set_ylabel("predicted error (nats)")
    return _svg(figure, "Latency against predicted error")


def timeline(report: Report) -> str:
    """What each unit and memory port does over one inference."""
    resources = list(dict.fromkeys(event.resource for event in report.timeline))
    figure, axes = _figure(7.4, 0.7 + 0.3 * len(resources))
    scale = 1e3 / report.clock_hz
    for row, resource in enumerate(resources):
        spans = [(e.start * scale, e.duration * scale) for e in report.timeline if e.resource == resource]
        axes.broken_barh(spans, (row - 0.4, 0.8), color=_ACCENT if row % 2 == 0 else _SECOND, linewidth=0)
    axes.set_yticks(range(len(resources)), resources)
    axes.invert_yaxis()
    axes.set_xlabel(f"time in one inference (ms), total {format_quantity(_end(report), 'time')}")
    return _svg(figure, "Timeline of the units")


def _end(report: Report) -> float:
    return report.validation.simulated_cycles / report.clock_hz
