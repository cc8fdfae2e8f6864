"""Which measured kernels belong to which simulated layers.

The compiler fuses elementwise work into the product before it and counts a norm or a softmax to the layer that made
its input; the simulator lists every operator. Both sides are summed over the same groups: a measured layer with the
simulated layers that have no kernel of their own and follow it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwsim.model.graph import Layer
    from hwsim.simulate.simulation import Simulation


@dataclass(frozen=True)
class Group:
    """One measured layer: the simulated layers it stands for, and its seconds."""

    name: str
    kind: str
    layers: tuple[str, ...]
    measured: float


def grouped(layers: "Sequence[Layer]", measured: Mapping[str, float]) -> list[Group]:
    """Groups in the order of the graph; measured names without a layer (copies, fills) join the first group."""
    members: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    head: dict[str, str] = {}
    order = {layer.name: index for index, layer in enumerate(layers)}
    last = ""
    for layer in layers:
        own = layer.name if layer.name in measured else ""
        made = [name for name in layer.inputs if name in head]
        group = own or (head[max(made, key=order.__getitem__)] if made else last)
        if group:
            head[layer.name] = group
            members.setdefault(group, []).append(layer.name)
            last = group
        if own:
            kinds[own] = operator(layer)
    if not members:
        return []
    first = next(iter(members))
    stray = sum(seconds for name, seconds in measured.items() if name not in members)
    return [
        Group(name, kinds[name], tuple(names), measured[name] + (stray if name == first else 0.0))
        for name, names in members.items()
    ]


def operator(layer: "Layer") -> str:
    """The class a reader thinks in: linear, conv2d, pointwise, grouped, depthwise, matmul, or vector work."""
    if layer.conv is None:
        return layer.kind
    if layer.is_depthwise:
        return "depthwise"
    if layer.groups > 1:
        return "grouped"
    return "pointwise" if layer.conv.kernel == (1, 1) else "conv2d"


def predicted(groups: Sequence[Group], simulation: "Simulation") -> list[float]:
    """Simulated seconds of each group."""
    cycles = simulation.layer_cycles()
    return [sum(cycles.get(name, 0.0) for name in group.layers) / simulation.clock_hz for group in groups]
