"""Which activations are alive at each step, as the planner needs it: by the product that wrote them.

The width of an activation is the choice of the product that made it; vector work behind a product (a norm, an
activation, a residual addition) hands its width on: the product then stands once for each of the two tensors, and as
often as it fits into a larger one (an upsampled image). What is left of that, smaller tensors, and those that no
product stands behind (the network's inputs) count one byte an element.
"""

import math
from typing import TYPE_CHECKING

from hwsim.model.live import value_ranges
from hwsim.simulate.vector import makers
from planner.tables import LiveSet

if TYPE_CHECKING:
    from hwsim.model.graph import LayerGraph

MOST_COPIES = 64
"""An output that is repeated more often than this is counted so often; the rest is at a byte an element."""


def live_sets(graph: "LayerGraph") -> list[LiveSet]:
    """One live set for each step at which the set of live tensors is not contained in another one."""
    elements = {
        name: math.prod(shape)
        for layer in graph.layers
        for name, shape in zip(layer.inputs, layer.input_shapes, strict=False)
        if name.startswith("input:")
    }
    elements |= {layer.name: layer.elements for layer in graph.layers}
    maker = makers(graph.layers)
    alive: list[set[str]] = [set() for _ in graph.layers]
    for name, (first, last) in value_ranges(graph.layers, graph.outputs).items():
        if name in elements:
            for step in range(first, last + 1):
                alive[step].add(name)
    steps = [(layer.name, frozenset(names)) for layer, names in zip(graph.layers, alive, strict=True)]
    return [_live_set(step, tensors, maker, elements) for step, tensors in _largest(steps)]


def _largest(steps: list[tuple[str, frozenset[str]]]) -> list[tuple[str, frozenset[str]]]:
    """Drop a step whose live tensors are contained in those of a neighbour."""
    kept: list[tuple[str, frozenset[str]]] = []
    for step in steps:
        if kept and step[1] <= kept[-1][1]:
            continue
        while kept and kept[-1][1] <= step[1]:
            kept.pop()
        kept.append(step)
    return kept


def _live_set(
    step: str, tensors: frozenset[str], maker: dict[str, str | None], elements: dict[str, int]
) -> LiveSet:
    products: list[str] = []
    fixed = 0
    for name in sorted(tensors):
        product, left = maker.get(name), elements[name]
        if product is not None:
            copies = min(left // elements[product], MOST_COPIES)
            left -= copies * elements[product]
            products += [product] * copies
        fixed += left
    return LiveSet(step=step, layers=tuple(products), fixed_bytes=fixed)
