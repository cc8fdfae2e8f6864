"""How many activations are alive at once while a network runs in order.

A value is alive from the layer that makes it to the last layer that reads it; graph inputs live from the start, graph
outputs to the end. While a layer runs, its inputs and its output are alive together. The maximum over the layers is
what an activation memory must hold when nothing is recomputed and every value is freed after its last use.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hwsim.model.graph import Layer, LayerGraph


@dataclass(frozen=True)
class LiveRanges:
    """Result of ``live_ranges``.

    Attributes:
        ranges: For every value (layer name or ``input:<name>``) the first and last step at which it is alive.
        live: Size of all values alive at each step, in the unit of ``size``.
        peak: The largest of them.
        peak_layer: The layer at which it occurs.
    """

    ranges: dict[str, tuple[int, int]]
    live: tuple[float, ...]
    peak: float
    peak_layer: str


def live_ranges(graph: LayerGraph, size: Callable[[Layer], float] | None = None) -> LiveRanges:
    """Live ranges over the execution order; ``size`` gives a layer's output size (default: its elements)."""
    measure = size or (lambda layer: float(layer.elements))
    sizes = {
        f"input:{name}": _volume(shape) for name, shape in zip(graph.inputs, graph.input_shapes, strict=False)
    }
    first = dict.fromkeys(sizes, 0)
    for step, layer in enumerate(graph.layers):
        sizes[layer.name] = measure(layer)
        first[layer.name] = step
    last = dict(first)
    for step, layer in enumerate(graph.layers):
        for source in layer.inputs:
            last[source] = step
    last.update(dict.fromkeys(graph.outputs, len(graph.layers) - 1))
    live = _sweep(sizes, first, last, len(graph.layers))
    peak = max(live, default=0.0)
    where = graph.layers[live.index(peak)].name if live else ""
    return LiveRanges({name: (first[name], last[name]) for name in sizes}, tuple(live), peak, where)


def _sweep(sizes: dict[str, float], first: dict[str, int], last: dict[str, int], steps: int) -> list[float]:
    change = [0.0] * (steps + 1)
    for name, size in sizes.items():
        change[first[name]] += size
        change[last[name] + 1] -= size
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
