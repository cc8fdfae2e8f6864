"""Which operators pay for being started.

Fused work never does. A stack that starts operators one after the other pays for each of the others; one whose
compiled schedule starts operators together that do not wait for each other (``launch.overlaps``) pays for those on the
longest path alone: the branches of an inception block, or a residual's shortcut, hide behind the longest of them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwsim.simulate.machine import Machine

if TYPE_CHECKING:
    from hwsim.model.graph import Layer


def is_fused(layer: "Layer", machine: Machine) -> bool:
    """Work that the layers before it do on their way out: elementwise, or concatenation by writing into place."""
    kind = "concat" if layer.op == "cat" else layer.kind
    return kind in machine.fused_kinds and any(not name.startswith("input:") for name in layer.inputs)


def launching(layers: "Sequence[Layer]", machine: Machine) -> frozenset[str]:
    """Names of the layers whose start is paid."""
    alone = [layer.name for layer in layers if not is_fused(layer, machine)]
    return frozenset(_longest_path(layers, set(alone)) if machine.overlaps_launches else alone)


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
