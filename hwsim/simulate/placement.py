"""Where weights and activations live: resident in a near memory where they fit, else in main memory."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from hwsim.model.live import live_sizes, value_ranges
from hwsim.simulate.machine import Machine

if TYPE_CHECKING:
    from hwsim.model.graph import Layer


class Placement(NamedTuple):
    """Index of the memory that is home to the weights and to the activations.

    ``resident`` is the share of the weights that stays on the device although a host link is their home. ``swapped``:
    a dataflow device has no room for the whole network, so its contexts take turns and nothing stays.
    """

    weights: int
    activations: int
    resident: float = 0.0
    swapped: bool = False


def place(
    machine: Machine,
    weight_bytes: float,
    activation_bytes: float,
    operators_fit: bool = True,
    instruction_bytes: float = 0.0,
) -> Placement:
    """Innermost memory that holds all activations at their peak, then all weights beside them.

    A unit's private memory is home to nothing: tensors that all units read lie in a shared one, and the answer
    must not change when units are added. Weights that fit stay there from one inference to the next, unless the
    operators that read them do not (`launches.Starts.fit`). The network's instructions lie beside the activations.
    """
    levels = machine.levels
    free = [level.capacity if level.shared or level is levels[-1] else 0.0 for level in levels]
    for_activations = [i for i, level in enumerate(levels) if level.holds_activations]
    for_weights = [i for i, level in enumerate(levels) if level.holds_weights]
    activations = next((i for i in for_activations if activation_bytes <= free[i]), for_activations[-1])
    free[activations] = max(0.0, free[activations] - activation_bytes - instruction_bytes)
    outermost = for_weights[-1]
    weights = next((i for i in for_weights if operators_fit and weight_bytes <= free[i]), outermost)
    if machine.has_contexts:
        return Placement(weights, activations, 0.0, weights == outermost)
    resident = 0.0
    if levels[weights].origin == "host_link":
        resident = max(free[i] for i in for_weights if i != weights) / max(weight_bytes, 1.0)
    return Placement(weights, activations, resident)


def live_bytes(layers: "Sequence[Layer]", bytes_per_element: Sequence[float]) -> list[float]:
    """Activation bytes alive while each layer runs: its inputs, its output, and what later layers still need.

    ``bytes_per_element`` is the width of each layer's output; a graph input has that of its first reader.
    """
    sizes: dict[str, float] = {}
    for layer, width in zip(layers, bytes_per_element, strict=True):
        for name, shape in zip(layer.inputs, layer.input_shapes, strict=False):
            if name.startswith("input:"):
                sizes.setdefault(name, math.prod(shape) * width)
        sizes[layer.name] = layer.elements * width
    ranges = {name: span for name, span in value_ranges(layers).items() if name in sizes}
    return live_sizes(ranges, sizes, len(layers))


def peak_live_elements(layers: "Sequence[Layer]") -> float:
    """The most activation elements alive at once."""
    return max(live_bytes(layers, [1.0] * len(layers)), default=0.0)
