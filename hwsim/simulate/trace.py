"""A simulation as a Chrome trace (chrome://tracing, Perfetto): one row a unit, one more for its memory work."""

import json

from hwsim.simulate.simulation import Simulation


def chrome_trace(simulation: Simulation) -> str:
    """Trace Event Format JSON; microseconds, complete events, activation memory as a counter."""
    scale = 1e6 / simulation.clock_hz
    events: list[dict[str, object]] = [
        {"name": "process_name", "ph": "M", "pid": 0, "args": {"name": f"hwsim {simulation.device}"}}
    ]
    units = sorted({event.unit for event in simulation.timeline})
    for unit in units:
        for offset, what in ((0, "compute"), (1, "load"), (2, "store")):
            name = {"name": f"unit {unit} {what}"}
            events.append(
                {"name": "thread_name", "ph": "M", "pid": 0, "tid": 3 * unit + offset, "args": name}
            )
    rows = {"compute": 0, "load": 1, "store": 2}
    by_name = {layer.name: layer for layer in simulation.layers}
    for event in simulation.timeline:
        if event.end <= event.start:
            continue
        layer = by_name[event.name]
        events.append(
            {
                "name": event.name,
                "cat": event.category,
                "ph": "X",
                "pid": 0,
                "tid": 3 * event.unit + rows[event.category],
                "ts": event.start * scale,
                "dur": (event.end - event.start) * scale,
                "args": {
                    "scheme": layer.scheme,
                    "engine": layer.engine,
                    "way": layer.way,
                    "bound": layer.bound,
                },
            }
        )
    ends = {layer.name: layer.end for layer in simulation.layers}
    for name, live in simulation.memory_over_time:
        counter = {"bytes": live}
        events.append({"name": "activations", "ph": "C", "pid": 0, "ts": ends[name] * scale, "args": counter})
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, separators=(",", ":"))
