"""What-if: change the clock, the units or the main memory's bandwidth and replay."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwsim.errors import UserError
from hwsim.simulate.simulation import Simulation
from hwsim.units import parse_quantity

if TYPE_CHECKING:
    from hwsim.target.schema import Target

MAX_POINTS = 1000
PARAMETERS = ("clock", "units", "dram_gbps")


@dataclass(frozen=True)
class SweepPoint:
    """One point: the changed values and what the simulation said."""

    changes: dict[str, float]
    simulation: Simulation


def parse_sweep(text: str) -> dict[str, tuple[float, ...]]:
    """Read ``clock=500MHz:1GHz,units=1:2:4,dram_gbps=10:20``: values of a parameter are separated by colons."""
    axes: dict[str, tuple[float, ...]] = {}
    for part in text.split(","):
        name, equals, values = part.partition("=")
        name = name.strip()
        if name not in PARAMETERS or not equals:
            raise UserError(f"--sweep {part!r}: write one of {', '.join(PARAMETERS)} as NAME=VALUE:VALUE:…")
        if name in axes:
            raise UserError(f"--sweep: {name} is given twice; list its values with colons")
        axes[name] = tuple(_value(name, value) for value in values.split(":"))
    points = 1
    for values in axes.values():
        points *= len(values)
    if points > MAX_POINTS:
        raise UserError(f"--sweep: {points} points; ask for at most {MAX_POINTS}")
    return axes


def _value(name: str, text: str) -> float:
    if name == "clock" and not text.strip().replace(".", "", 1).isdigit():
        return parse_quantity(text, "frequency", "--sweep clock")
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"--sweep {name}: {text!r} is not a number") from None
    if not 0 < value < 1e18 or (name == "units" and value != int(value)):
        raise UserError(
            f"--sweep {name}: {text!r} must be a positive {'integer' if name == 'units' else 'number'}"
        )
    return value


def changed_target(target: "Target", changes: dict[str, float]) -> "Target":
    """A copy of the descriptor; bandwidths in bytes a second and times in seconds keep their values."""
    fields: dict[str, object] = {}
    if "clock" in changes:
        fields["clock_hz"] = changes["clock"]
    if "units" in changes:
        fields["units.count"] = int(changes["units"])
    if "dram_gbps" in changes:
        last = len(target.memories) - 1
        fields[f"memories.{last}.bandwidth"] = changes["dram_gbps"] * 1e9
        if target.memories[last].bytes_per_cycle is not None:
            raise UserError(
                f"--sweep dram_gbps: {target.name} gives memories.{last}.bytes_per_cycle, not a bandwidth"
            )
    return target.replace(fields)


def sweep(
    target: "Target", axes: Mapping[str, Sequence[float]], simulate: "Callable[[Target], Simulation]"
) -> list[SweepPoint]:
    """All combinations, the last parameter fastest."""
    points: list[SweepPoint] = []
    for values in itertools.product(*axes.values()):
        changes = dict(zip(axes, values, strict=True))
        points.append(SweepPoint(changes, simulate(changed_target(target, changes))))
    return points
