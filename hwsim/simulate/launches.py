"""Which operators pay for being started, and for being set up anew.

Fused work never does. A stack that starts operators one after the other pays for each of the others; one whose
compiled schedule starts operators together that do not wait for each other (``launch.overlaps``) pays for those on the
longest path alone: the branches of an inception block, or a residual's shortcut, hide behind the longest of them.

A dataflow device (``contexts``) lays all operators side by side once. A network that does not fit is cut in contexts
that take turns, and in each inference every operator is set up again; a batch passes a context before the next one
comes, so it pays once.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwsim.simulate.machine import Machine

if TYPE_CHECKING:
    from hwsim.model.graph import Layer


@dataclass(frozen=True)
class Starts:
    """Names of the layers that others do on their way out, and of those whose start is paid.

    ``laid_out`` counts the operators that a dataflow device needs room for.
    """

    fused: frozenset[str]
    paid: frozenset[str]
    machine: Machine
    laid_out: int = 0

    @property
    def instruction_bytes(self) -> float:
        """Room that the instructions of the whole network take."""
        return self.machine.instruction_bytes * len(self.paid)

    @property
    def fit(self) -> bool:
        """Whether a dataflow device has room for all operators at once."""
        return self.laid_out <= self.machine.context_operators

    def cycles(self, layer: "Layer", swapped: bool) -> float:
        """What the start of a layer costs; ``swapped``: the contexts of the network take turns."""
        own = self.machine.launch_cycles if layer.name in self.paid else 0.0
        if swapped and layer.name not in self.fused:
            own += self.machine.context_load_cycles * operators(layer, self.machine)
        return own


def operators(layer: "Layer", machine: Machine) -> int:
    """As how many operators a dataflow compiler lays out a layer."""
    return machine.operator_parts.get(layer.kind, 1)


def starts_of(layers: "Sequence[Layer]", machine: Machine) -> Starts:
    """What of a network is fused, and what is paid for being started."""
    fused = _fused(layers, machine)
    alone = {layer.name for layer in layers} - fused
    paid = frozenset(_longest_path(layers, alone) if machine.overlaps_launches else alone)
    return Starts(
        fused, paid, machine, sum(operators(layer, machine) for layer in layers if layer.name in alone)
    )


def _fused(layers: "Sequence[Layer]", machine: Machine) -> frozenset[str]:
    """Elementwise work, and parts written into place.

    What only moves data (a concatenation, a shift, a copy, a look-up) has no way out on which it could add or clamp
    anything; beside such an operand the work joins the layer that made the other, if nobody else reads that.
    """
    readers = Counter(name for layer in layers for name in layer.inputs)
    movers = {layer.name for layer in layers if layer.kind in ("other", "embedding")}
    found: set[str] = set()
    for layer in layers:
        kind = "concat" if layer.op == "cat" else layer.kind
        made = [name for name in layer.inputs if not name.startswith("input:")]
        hosts = [name for name in made if name not in movers]
        if kind == "concat":
            waits = bool(made)
        else:
            waits = bool(hosts) and (hosts == made or any(readers[name] == 1 for name in hosts))
        if waits and kind in machine.fused_kinds:
            found.add(layer.name)
    return frozenset(found)


def _longest_path(layers: "Sequence[Layer]", counted: set[str]) -> set[str]:
    """The counted layers on a path through the network that has the most of them; of equal ones the first."""
    longest: dict[str, int] = {}
    before: dict[str, str | None] = {}
    for layer in layers:
        known = [name for name in layer.inputs if name in longest]
        before[layer.name] = max(known, key=longest.__getitem__, default=None)
        above = before[layer.name]
        longest[layer.name] = (longest[above] if above is not None else 0) + (layer.name in counted)
    name = max(longest, key=longest.__getitem__, default=None)
    found: set[str] = set()
    while name is not None:
        if name in counted:
            found.add(name)
        name = before[name]
    return found
