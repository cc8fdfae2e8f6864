"""How many activations are alive at once while a network runs in order.

A value is alive from the layer that makes it to the last layer that reads it; graph inputs live from the start, graph
outputs to the end. While a layer runs, its inputs and its output are alive together. The maximum over the layers is
what an activation memory must hold when nothing is recomputed and every value is freed after its last use.

One walk serves all: the memory of a model (here), the simulator's placement and the planner's live sets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hwsim.model.graph import Layer, LayerGraph

Ranges = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class LiveRanges:
    """Result of ``live_ranges``.

    Attributes:
        ranges: For every value (layer name or ``input:<name>``) the first and last step at which it is alive.
        live: Size of all values alive at each step, in the unit of ``size``.
        peak: The largest of them.
        peak_layer: The layer at which it occurs.
    """

    ranges: Ranges
    live: tuple[float, ...]
    peak: float
    peak_layer: str


def live_ranges(graph: LayerGraph, size: Callable[[Layer], float] | None = None) -> LiveRanges:
    """Live ranges over the execution order; ``size`` gives a layer's output size (default: its elements)."""
    measure = size or (lambda layer: float(layer.elements))
    sizes = {
        f"input:{name}": _volume(shape) for name, shape in zip(graph.inputs, graph.input_shapes, strict=False)
    }
    sizes |= {layer.name: measure(layer) for layer in graph.layers}
    ranges = value_ranges(graph.layers, graph.outputs)
    for name in graph.inputs:
        ranges[f"input:{name}"] = (0, ranges.get(f"input:{name}", (0, 0))[1])
    ranges = {name: ranges[name] for name in sizes}
    live = live_sizes(ranges, sizes, len(graph.layers))
    peak = max(live, default=0.0)
    where = graph.layers[live.index(peak)].name if live else ""
    return LiveRanges(ranges, tuple(live), peak, where)


def value_ranges(layers: Sequence[Layer], outputs: Sequence[str] = ()) -> Ranges:
    """First and last step of every value; a graph input is there from its first reader on."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for step, layer in enumerate(layers):
        for name in (*layer.inputs, layer.name):
            first.setdefault(name, step)
            last[name] = step
    last.update(dict.fromkeys(outputs, len(layers) - 1))
    return {name: (step, last[name]) for name, step in first.items()}


def live_sizes(ranges: Mapping[str, tuple[int, int]], sizes: Mapping[str, float], steps: int) -> list[float]:
    """Total size of the values alive at each step."""
    change = [0.0] * (steps + 1)
    for name, (first, last) in ranges.items():
        change[first] += sizes[name]
        change[last + 1] -= sizes[name]
    live: list[float] = []
    total = 0.0
    for step in range(steps):
        total += change[step]
        live.append(total)
    return live


def _volume(shape: tuple[int, ...]) -> float:
    volume = 1.0
    for extent in shape:
        volume *= extent
    return volume
