"""Where weights and activations live: resident in a near memory where they fit, else in main memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from hwsim.simulate.machine import Machine

if TYPE_CHECKING:
    from hwsim.model.graph import Layer


class Placement(NamedTuple):
    """Index of the memory level that is home to the weights and to the activations."""

    weights: int
    activations: int


def place(machine: Machine, weight_bytes: float, activation_bytes: float) -> Placement:
    """Innermost level that holds all activations at their peak, then all weights beside them.

    A private level counts once for each unit only on a one-unit device: tensors that all units read must lie
    in a shared memory. Weights that fit stay there from one inference to the next.
    """
    last = len(machine.levels) - 1
    free = [lv.capacity if lv.shared or machine.units == 1 else 0.0 for lv in machine.levels]
    activations = next(
        (i for i in range(last) if machine.levels[i].holds_activations and activation_bytes <= free[i]), last
    )
    free[activations] -= activation_bytes
    weights = next((i for i in range(last) if machine.levels[i].holds_weights and weight_bytes <= free[i]), last)
    return Placement(weights, activations)


def live_elements(layers: "Sequence[Layer]") -> list[float]:
    """Elements alive while each layer runs: its inputs, its output, and what later layers still need."""
    last_use: dict[str, int] = {}
    for index, layer in enumerate(layers):
        for name in layer.inputs:
            last_use[name] = index
    sizes = {layer.name: float(layer.elements) for layer in layers}
    alive: dict[str, float] = {}
    peaks: list[float] = []
    for index, layer in enumerate(layers):
        for name, shape in zip(layer.inputs, layer.input_shapes, strict=False):
            if name not in alive:
                alive[name] = sizes.get(name, _count(shape))
        alive[layer.name] = sizes[layer.name]
        peaks.append(sum(alive.values()))
        for name in (*layer.inputs, layer.name):
            if last_use.get(name, -1) <= index:
                alive.pop(name, None)
    return peaks


def peak_live_elements(layers: "Sequence[Layer]") -> float:
    """The most elements alive at once."""
    return max(live_elements(layers), default=0.0)


def _count(shape: Sequence[int]) -> float:
    product = 1.0
    for size in shape:
        product *= size
    return product
