"""The charts of the report, each from the report document alone; an empty string where there is no data."""

import math
from collections.abc import Sequence

from hwsim.report.document import Report
from hwsim.report.svg import CHAR_WIDTH, Canvas, Plot, Scale, number, tick_text
from hwsim.units import Dimension, format_quantity, parse_quantity

WIDTH = 760.0
SHOWN_LAYERS = 100  # rows of the sensitivity map; the rest stays in report.json
BUSIEST_LAYERS = 24
SHOWN_RESOURCES = 24


def axis_unit(largest: float, dimension: Dimension) -> tuple[float, str]:
    """What to divide by and the unit to name on an axis that ends at ``largest``."""
    suffix = format_quantity(largest, dimension).partition(" ")[2]
    return parse_quantity(f"1{suffix}", dimension, "axis"), suffix


def _named(text: str, suffix: str) -> str:
    return f"{text} ({suffix})" if suffix else text


def _shorten(text: str, most: int = 34) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most // 2) :]}"


def time_by_layer(report: Report) -> str:
    """Horizontal bars: where the time of one inference goes, slowest layers first."""
    busy = [(row.simulated_cycles or row.predicted_cycles, row) for row in report.layers]
    rows = sorted(busy, key=lambda pair: -pair[0])[:BUSIEST_LAYERS]
    if not rows or rows[0][0] <= 0:
        return ""
    scale, unit = axis_unit(rows[0][0] / report.clock_hz, "time")
    height = 12.0 + 17 * len(rows)
    labels = [_shorten(f"{row.name} · {row.scheme}", 40) for _, row in rows]
    left = 16 + CHAR_WIDTH * max(map(len, labels))
    x = Scale.over([cycles / report.clock_hz / scale for cycles, _ in rows], left, WIDTH - 60, zero=True)
    canvas = Canvas(WIDTH, height + 40)
    for value in x.ticks():
        canvas.line([(x(value), 4), (x(value), height)], "grid")
        canvas.text(x(value), height + 15, tick_text(value), "middle")
    for index, (cycles, row) in enumerate(rows):
        seconds = cycles / report.clock_hz
        top = 8.0 + 17 * index
        style = "fill-a" if row.is_product else "fill-quiet"
        canvas.rect(left, top, x(seconds / scale) - left, 12, style)
        canvas.text(left - 6, top + 10, labels[index], "end")
        canvas.text(x(seconds / scale) + 5, top + 10, f"{100 * row.share_of_time:.1f} %")
    canvas.line([(left, 4), (left, height), (WIDTH - 60, height)], "axis")
    canvas.text(
        (left + WIDTH - 60) / 2,
        height + 33,
        _named("time of the layer and its share of the inference", unit),
        "middle",
        "name",
    )
    text = f"The {len(rows)} slowest layers; the first is {rows[0][1].name}."
    return canvas.render("figure-busiest", "Time by layer", text)


def pareto(report: Report) -> str:
    """Latency against predicted error: the frontier, the uniform schemes and the chosen point."""
    forms = [
        (r.seconds, r.error, r.name, r.chosen) for r in report.comparison if r.seconds and r.error is not None
    ]
    line = sorted((p.seconds, p.error) for p in report.pareto if not p.chosen)
    drawn = [f for f in forms if f[1] > 0]
    if not drawn and not line:
        return ""
    seconds = [f[0] for f in forms] + [p[0] for p in line]
    scale, unit = axis_unit(max(seconds), "time")
    errors = [f[1] for f in drawn] + [p[1] for p in line]
    plot = Plot(
        WIDTH, 330, Scale.over([s / scale for s in seconds], 76, WIDTH - 20),
        Scale.over(errors, 282, 14, log=True), _named("latency of one inference", unit), "predicted error (nats)",
    )  # fmt: skip
    places = [plot.at(s / scale, error) for s, error in line if plot.inside(s / scale, error)]
    plot.line(places, "stroke-quiet")
    plot.marks(places, "circle", "fill-quiet")
    for s, error, name, chosen in drawn:
        place = plot.at(s / scale, error)
        plot.marks([place], "diamond" if chosen else "square", "fill-a" if chosen else "fill-b")
        plot.label(*place, name, "strong" if chosen else "")
    for s, error, name, chosen in forms:
        if error == 0:
            place = (plot.x(s / scale), plot.y.first)
            plot.marks([place], "triangle", "fill-a" if chosen else "fill-b")
            plot.label(place[0], place[1] - 4, f"{name} (no error)", "strong" if chosen else "")
    text = f"{len(line)} proven points of the frontier and {len(drawn)} forms of the network."
    return plot.render("figure-pareto", "Latency against predicted error", text)


def sensitivity(report: Report) -> str:
    """Heat map: layers down, options across; the plan's choice is outlined."""
    found = report.sensitivity
    if found is None or not found.layers or not found.schemes:
        return ""
    worst = [max((e for e in row if e is not None), default=0.0) for row in found.errors]
    kept = sorted(sorted(range(len(worst)), key=lambda index: -worst[index])[:SHOWN_LAYERS])
    names = [_shorten(found.layers[index]) for index in kept]
    shown = {e for index in kept for e in found.errors[index] if e is not None and e > 0}
    chosen = {row.name: row.scheme for row in report.layers}
    left = 16 + CHAR_WIDTH * max(map(len, names))
    top = 16 + CHAR_WIDTH * 0.75 * max(map(len, found.schemes))
    cell = min(34.0, (WIDTH - left - 10) / len(found.schemes))
    canvas = Canvas(WIDTH, top + 14 * len(kept) + 62)
    low, high = (math.log10(min(shown)), math.log10(max(shown))) if shown else (0.0, 1.0)
    steps: list[list[str]] = [[] for _ in range(9)]
    marks: list[str] = []
    for column, scheme in enumerate(found.schemes):
        x = left + cell * (column + 0.6)
        canvas.text(x, top - 6, scheme, turn=-50)
    for line, index in enumerate(kept):
        y = top + 14 * line
        canvas.text(left - 6, y + 11, names[line], "end")
        for column, error in enumerate(found.errors[index]):
            if error is None:
                continue
            share = (math.log10(error) - low) / (high - low) if error > 0 and high > low else 0.0
            box = f"M{number(left + cell * column)} {number(y)}h{number(cell - 1)}v13h-{number(cell - 1)}z"
            steps[min(8, int(9 * share)) if error > 0 else 0].append(box)
            if chosen.get(found.layers[index]) == found.schemes[column]:
                marks.append(box)
    for step, boxes in enumerate(steps):
        canvas.path("".join(boxes), f"heat heat{step}")
    canvas.path("".join(marks), "outline")
    _heat_legend(canvas, left, top + 14 * len(kept) + 12, low, high)
    text = f"Predicted error of {len(kept)} of {len(found.layers)} layers under {len(found.schemes)} options."
    return canvas.render("figure-sensitivity", "Predicted error by layer and option", text)


def _heat_legend(canvas: Canvas, x: float, y: float, low: float, high: float) -> None:
    for step in range(9):
        canvas.rect(x + 34 * step, y, 33, 12, f"heat heat{step}")
    for step in (0, 3, 6, 9):
        value = 10 ** (low + (high - low) * step / 9)
        canvas.text(x + 34 * step, y + 26, tick_text(float(f"{value:.1e}")), "middle")
    canvas.text(x, y + 42, "predicted error of the layer (nats); outlined: the plan's choice", style="name")


def roofline(report: Report) -> str:
    """Layers as points under the device's compute and memory ceilings, both axes logarithmic."""
    roof = report.roofline
    rows = [
        (row.macs / row.memory_bytes, row.macs * report.clock_hz / row.simulated_cycles, row)
        for row in report.layers
        if row.is_product and row.memory_bytes and row.simulated_cycles
    ]
    if roof is None or not rows or not roof.ceilings:
        return ""
    peaks = [ceiling.macs_per_second for ceiling in roof.ceilings]
    knees = [peak / roof.bytes_per_second for peak in peaks]
    scale, unit = axis_unit(max(peaks), "count")
    x = Scale.over([r[0] for r in rows] + knees, 76, WIDTH - 20, log=True)
    x = Scale(x.low / 1.5, x.high * 3, x.first, x.last, log=True)
    y = Scale.over([r[1] / scale for r in rows] + [p / scale for p in peaks], 282, 14, log=True)
    plot = Plot(
        WIDTH,
        330,
        x,
        y,
        f"multiply-accumulates for each byte of {roof.memory} (MAC/B)",
        f"rate ({unit}MAC/s)",
    )
    start = max(x.low, y.low * scale / roof.bytes_per_second)
    for ceiling, knee in zip(roof.ceilings, knees, strict=True):
        peak = ceiling.macs_per_second / scale
        plot.line([plot.at(max(knee, x.low), peak), plot.at(x.high, peak)], "stroke-b")
        plot.label(plot.x(x.high) - 8, plot.y(peak), f"peak {ceiling.name}")
    slope = [(b, b * roof.bytes_per_second / scale) for b in (start, max(knees)) if b > 0]
    plot.line([plot.at(*point) for point in slope], "stroke-b")
    schemes = list(dict.fromkeys(row.scheme for _, _, row in rows))
    for index, scheme in enumerate(schemes):
        points = [plot.at(b, rate / scale) for b, rate, row in rows if row.scheme == scheme]
        plot.marks(points, ("circle", "square", "diamond", "triangle")[index % 4], f"series{index % 6}")
    _legend(plot, schemes)
    text = f"{len(rows)} layers against the bandwidth of {roof.memory} and {len(peaks)} compute ceilings."
    return plot.render("figure-roofline", "Roofline", text)


def _legend(plot: Plot, schemes: Sequence[str], most: int = 12) -> None:
    for index, scheme in enumerate(schemes[:most]):
        y = 26.0 + 15 * index
        plot.marks(
            [(92, y - 4)], ("circle", "square", "diamond", "triangle")[index % 4], f"series{index % 6}"
        )
        more = f" and {len(schemes) - most} more" if index == most - 1 and len(schemes) > most else ""
        plot.text(102, y, scheme + more)


def timeline(report: Report) -> str:
    """Gantt: what each unit does over one inference; loads above, stores below the computation."""
    resources = list(dict.fromkeys(event.resource for event in report.timeline))[:SHOWN_RESOURCES]
    if not resources:
        return ""
    end = max(event.start + event.duration for event in report.timeline)
    end = max(end, report.validation.simulated_cycles)
    if end <= 0:
        return ""
    scale, unit = axis_unit(end / report.clock_hz, "time")
    left = 16 + CHAR_WIDTH * max(map(len, resources))
    bottom = 10.0 + 26 * len(resources)
    x = Scale(0.0, end / report.clock_hz / scale, left, WIDTH - 20)
    canvas = Canvas(WIDTH, bottom + 62)
    for value in x.ticks():
        canvas.line([(x(value), 4), (x(value), bottom)], "grid")
        canvas.text(x(value), bottom + 15, tick_text(value), "middle")
    bands = {"load": (2, 5, "fill-c"), "compute": (7, 10, "fill-a"), "store": (17, 5, "fill-b")}
    spans: dict[tuple[str, str], list[tuple[float, float]]] = {}
    per_cycle = (x.last - x.first) / end
    for event in report.timeline:
        first = left + event.start * per_cycle
        key = (event.resource, event.category)
        spans.setdefault(key, []).append((first, first + event.duration * per_cycle))
    merged = _thinned(spans)
    for row, resource in enumerate(resources):
        top = 8.0 + 26 * row
        canvas.text(left - 6, top + 16, resource, "end")
        for category, (offset, height, style) in bands.items():
            boxes = merged.get((resource, category), [])
            canvas.path("".join(_box(a, b, top + offset, height) for a, b in boxes), style)
    canvas.line([(left, 4), (left, bottom), (WIDTH - 20, bottom)], "axis")
    canvas.text((left + WIDTH - 20) / 2, bottom + 33, _named("time in one inference", unit), "middle", "name")
    for index, (category, (_, _, style)) in enumerate(bands.items()):
        canvas.rect(left + 90 * index, bottom + 43, 12, 10, style)
        canvas.text(left + 90 * index + 17, bottom + 52, category)
    text = f"{len(resources)} units over {format_quantity(end / report.clock_hz, 'time')}."
    return canvas.render("figure-timeline", "Timeline of the units", text)


def _thinned(
    spans: dict[tuple[str, str], list[tuple[float, float]]], most: int = 8000
) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Neighbours closer than a third of a pixel become one; more generously while there are too many."""
    gap, merged = 0.34, spans
    while True:
        merged = {key: _merge(sorted(found), gap) for key, found in merged.items()}
        if sum(map(len, merged.values())) <= most or gap > WIDTH:
            return merged
        gap *= 1.5


def _merge(spans: list[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for first, last in spans:
        if merged and first - merged[-1][1] < gap:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def _box(first: float, last: float, y: float, height: float) -> str:
    width = number(max(0.3, last - first))
    return f"M{number(first)} {number(y)}h{width}v{number(height)}h-{width}z"


def prediction(report: Report) -> str:
    """Predicted against simulated cycles of each layer, with the diagonal and the bound."""
    rows = [
        (row.predicted_cycles, row.simulated_cycles, row.is_product)
        for row in report.layers
        if row.simulated_cycles and row.predicted_cycles > 0
    ]
    if not rows:
        return ""
    both = [value for row in rows for value in row[:2]]
    x = Scale.over(both, 76, WIDTH - 20, log=True)
    y = Scale(x.low, x.high, 322, 14, log=True)
    plot = Plot(WIDTH, 370, x, y, "predicted cycles of the layer (cycles)", "simulated (cycles)")
    bound = 1 + report.validation.bound
    plot.line([plot.at(x.low * bound, y.low * bound), plot.at(x.high, y.high)], "stroke-b")
    plot.line([plot.at(x.low, y.low * bound), plot.at(x.high / bound, y.high)], "stroke-quiet")
    plot.line([plot.at(x.low * bound, y.low), plot.at(x.high, y.high / bound)], "stroke-quiet")
    plot.marks([plot.at(p, s) for p, s, product in rows if not product], "square", "fill-quiet")
    plot.marks([plot.at(p, s) for p, s, product in rows if product], "circle", "fill-a")
    text = f"{len(rows)} layers around the diagonal; the outer lines are the bound of the total."
    return plot.render("figure-prediction", "Predicted against simulated cycles", text)


def anytime(report: Report) -> str:
    """Latency against predicted error, order by order."""
    points = [(p.seconds, p.error, p) for p in report.anytime if p.error is not None and p.error > 0]
    if not points:
        return ""
    scale, unit = axis_unit(max(p[0] for p in points), "time")
    plot = Plot(
        WIDTH, 290, Scale.over([p[0] / scale for p in points], 76, WIDTH - 90),
        Scale.over([p[1] for p in points], 242, 14, log=True), _named("latency of one inference", unit),
        "predicted error (nats)",
    )  # fmt: skip
    places = [plot.at(seconds / scale, error) for seconds, error, _ in points]
    plot.line(places, "stroke-a")
    plot.marks(places, "circle", "fill-a")
    for place, (_, _, point) in zip(places, points, strict=True):
        plot.label(*place, f"order {point.order}")
    text = "Each further order of the expansion costs time and lowers the error."
    return plot.render("figure-anytime", "Anytime curve over expansion order", text)


def memory(report: Report) -> str:
    """Live activations over one inference, layer after layer."""
    use = report.memory
    if use is None or not use.points:
        return ""
    end = max(report.validation.simulated_cycles, max(p.start_cycles for p in use.points)) / report.clock_hz
    largest = max(point.activation_bytes for point in use.points)
    if end <= 0 or largest <= 0:
        return ""
    time_scale, time_unit = axis_unit(end, "time")
    scale, unit = axis_unit(largest, "bytes")
    x = Scale(0.0, end / time_scale, 76, WIDTH - 20)
    y = Scale.over([largest / scale], 222, 14, zero=True)
    plot = Plot(
        WIDTH, 270, x, y, _named("time in one inference", time_unit), _named("live activations", unit)
    )
    points = sorted(
        (p.start_cycles / report.clock_hz / time_scale, p.activation_bytes / scale) for p in use.points
    )
    ends = [point[0] for point in points[1:]] + [x.high]
    steps = [
        plot.at(t, size) for (start, size), stop in zip(points, ends, strict=True) for t in (start, stop)
    ]
    outline = "L".join(f"{number(a)} {number(b)}" for a, b in steps)
    base = number(plot.y(0.0))
    plot.path(f"M{number(steps[0][0])} {base}L{outline}V{base}z", "area")
    plot.line(steps, "stroke-a")
    text = f"Peak {format_quantity(largest, 'bytes')} in {use.activation_home}."
    return plot.render("figure-memory", "Live activations over time", text)


def all_figures(report: Report) -> dict[str, str]:
    """Every chart by name."""
    drawn = (time_by_layer, pareto, sensitivity, roofline, timeline, prediction, anytime, memory)
    return {figure.__name__: figure(report) for figure in drawn}
