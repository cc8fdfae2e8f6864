"""The report's figures as data: where each layer ran, sensitivity map, roofline, timeline, memory over time."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hwsim.report.document import (
    Ceiling,
    MemoryPoint,
    MemoryUse,
    Roofline,
    SensitivityMap,
    TimelineEvent,
)
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.simulate.cost import OptionCost
    from hwsim.simulate.simulation import Simulation
    from hwsim.stages.error_profile import ErrorProfile
    from hwsim.target.schema import Target
    from planner.plan import Plan

RESOLUTION = 1000  # intervals of one unit that are closer than this part of the inference become one
SHOWN_SCHEMES = 28


def layer_units(simulation: "Simulation", target: "Target", priced: Mapping[str, int]) -> dict[str, str]:
    """The units that each layer ran on, in words; ``priced`` is how many cost mode gave it.

    The replay runs many equal units as a few representatives, so their number comes from cost mode.
    """
    name, every = target.units.name, target.unit_count
    if every == 1:
        return {event.name: f"{name} 0" for event in simulation.timeline}
    used: dict[str, set[int]] = {}
    for event in simulation.timeline:
        used.setdefault(event.name, set()).add(event.unit)
    words: dict[str, str] = {}
    for layer, units in used.items():
        count = max(len(units), priced.get(layer, 1)) if len(units) > 1 else 1
        if count == every:
            words[layer] = f"all {every}"
        else:
            words[layer] = f"{count} of {every}" if count > len(units) else _unit_list(name, sorted(units))
    return words


def _unit_list(name: str, units: list[int]) -> str:
    whole = units == list(range(units[0], units[-1] + 1)) and len(units) > 2
    return f"{name} {units[0]}–{units[-1]}" if whole else f"{name} {', '.join(map(str, units))}"


def sensitivity_map(
    profile: "ErrorProfile", costs: "Mapping[str, Sequence[OptionCost]]", plan: "Plan"
) -> SensitivityMap:
    """Predicted error of each layer under the options most layers have, and under those of the plan."""
    counts: dict[Scheme, int] = {}
    for layer in plan.layers:
        for scheme in dict.fromkeys(option.scheme for option in costs[layer.name]):
            counts[scheme] = counts.get(scheme, 0) + 1
    chosen = [Scheme.parse(layer.scheme) for layer in plan.layers]
    plain = [scheme for scheme in counts if scheme.predictors == 1 and not scheme.is_float]
    common = sorted(plain, key=lambda scheme: (-counts[scheme], str(scheme)))
    kept = list(dict.fromkeys([*(s for s in chosen if not s.is_float), *common]))[:SHOWN_SCHEMES]
    kept.sort(key=lambda s: (s.weight_bits or 99, s.act_bits or 99, s.order, s.bits_per_weight, str(s)))
    return SensitivityMap(
        schemes=[str(scheme) for scheme in kept],
        layers=[layer.name for layer in plan.layers],
        errors=[[_known_error(profile, layer.name, scheme) for scheme in kept] for layer in plan.layers],
    )


def _known_error(profile: "ErrorProfile", layer: str, scheme: Scheme) -> float | None:
    try:
        return profile.layers[layer].error(scheme)
    except KeyError:
        return None


def roofline(
    target: "Target", plan: "Plan", options: "Mapping[str, OptionCost]"
) -> tuple[Roofline, dict[str, float]]:
    """The outermost memory that the layers use, the compute peaks they use, and each layer's bytes there."""
    own = len(target.levels)  # a host link that brings weights is priced as one more level behind these
    used = [level for o in options.values() for level, size in enumerate(o.traffic_bytes[:own]) if size > 0]
    place = max(used, default=own - 1)
    memory = target.levels[place]
    copies = 1 if memory.shared else target.unit_count
    peaks: dict[str, float] = {}
    for layer in plan.layers:
        name, macs = _peak(target, layer.weight_bits, layer.act_bits, layer.kind)
        if macs > 0:
            peaks[name] = max(macs, peaks.get(name, 0.0))
    ceilings = [
        Ceiling(name=name, macs_per_second=macs * target.clock_hz) for name, macs in sorted(peaks.items())
    ]
    rate = memory.bytes_per_cycle * memory.efficiency * copies * target.clock_hz
    moved = {name: option.traffic_bytes[place] for name, option in options.items()}
    return Roofline(memory=memory.name, bytes_per_second=rate, ceilings=ceilings), moved


def _peak(target: "Target", weight_bits: int | None, act_bits: int | None, kind: str) -> tuple[str, float]:
    """The ceiling over a layer of these widths; narrower weights run on the native width that holds them."""
    if weight_bits is None or act_bits is None:
        path = target.float_path
        return ("float", 0.0 if path is None else path.macs_per_cycle * target.unit_count)
    product = kind if kind in ("linear", "conv2d", "matmul") else "linear"
    choice = target.engine_for(product, weight_bits, act_bits)  # pyright: ignore[reportArgumentType]
    if choice is None:
        return "", 0.0
    native = f"w{choice.weight_bits}a{choice.act_bits}"
    return native, target.peak_macs_per_cycle(choice.weight_bits, choice.act_bits) or (
        choice.macs_per_cycle * target.unit_count
    )


def timeline(simulation: "Simulation", target: "Target") -> list[TimelineEvent]:
    """What each unit did; intervals too short to be seen are joined with their neighbours."""
    gap = simulation.cycles / RESOLUTION
    joined: dict[tuple[int, str], list[tuple[float, float, list[str]]]] = {}
    for event in sorted(simulation.timeline, key=lambda event: (event.unit, event.start)):
        if event.end <= event.start:
            continue
        row = joined.setdefault((event.unit, event.category), [])
        if row and event.start - row[-1][1] < gap and event.end - row[-1][0] < 4 * gap:
            first, last, names = row[-1]
            row[-1] = (first, max(last, event.end), [*names, event.name])
        else:
            row.append((event.start, event.end, [event.name]))
    return [
        TimelineEvent(
            resource=f"{target.units.name} {unit}",
            name=names[0] if len(set(names)) == 1 else f"{names[0]} … {names[-1]}",
            start=start,
            duration=end - start,
            category=category,  # pyright: ignore[reportArgumentType]  # load, compute or store
        )
        for (unit, category), row in joined.items()
        for start, end, names in row
    ]


def memory_use(simulation: "Simulation") -> MemoryUse:
    """Live activations at the start of each layer."""
    starts: dict[str, float] = {}
    for layer in simulation.layers:
        starts[layer.name] = min(starts.get(layer.name, layer.start), layer.start)
    points = [
        MemoryPoint(layer=name, start_cycles=starts[name], activation_bytes=size)
        for name, size in simulation.memory_over_time
        if name in starts
    ]
    return MemoryUse(
        weight_bytes=simulation.weight_bytes,
        weight_home=simulation.weight_home,
        activation_home=simulation.activation_home,
        points=points,
    )
