"""What a simulation says: times, energy by component, traffic, bounds, memory over time, and where from."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from hwsim.simulate import columns as col
from hwsim.simulate.machine import Machine
from hwsim.simulate.placement import Placement
from hwsim.simulate.pricing import bound_name
from hwsim.simulate.schedule import Schedule, Step
from hwsim.simulate.vector import VectorCost

if TYPE_CHECKING:
    from hwsim.simulate.cycle import Replay


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer of one network: when it ran, what held it up, what cost mode had said."""

    name: str
    kind: str
    network: int
    scheme: str
    engine: str
    way: str
    start: float
    end: float
    compute_cycles: float
    memory_cycles: float
    cost_cycles: float
    bound: str
    energy_pj: float
    bops: int
    dram_bytes: float

    @property
    def cycles(self) -> float:
        """Cycles from the end of the step before to the end of this one."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Event:
    """One box of the timeline: what a unit did, in cycles."""

    unit: int
    name: str
    category: str
    start: float
    end: float


@dataclass(frozen=True)
class Simulation:
    """The replay of a plan on a device.

    ``roofline_cycles`` is the bound that no schedule beats: every unit's compute and every memory's traffic
    perfectly overlapped. ``serial_cycles`` is the sum without any overlap. ``cost_cycles`` is cost mode's sum.
    """

    device: str
    clock_hz: float
    cycles: float
    roofline_cycles: float
    serial_cycles: float
    cost_cycles: float
    layers: tuple[LayerTime, ...]
    energy_pj: dict[str, float]
    traffic_bytes: dict[str, float]
    busy_cycles: dict[str, float]
    peak_memory_bytes: float
    memory_over_time: tuple[tuple[str, float], ...]
    weight_bytes: float
    weight_home: str
    activation_home: str
    placement: Placement
    bops: int
    provenance: dict[str, str]
    schedule: Schedule = field(repr=False, compare=False)
    replay: "Replay" = field(repr=False, compare=False)

    @cached_property
    def timeline(self) -> tuple[Event, ...]:
        """What each unit did; made when first asked for, since most simulations are read for their figures alone."""
        return _timeline(self.schedule, self.replay)

    @property
    def seconds(self) -> float:
        """Latency of one inference."""
        return self.cycles / self.clock_hz

    @property
    def total_energy_pj(self) -> float:
        """All components together."""
        return sum(self.energy_pj.values())

    @property
    def cost_error(self) -> float:
        """(cost mode − cycle mode) / cycle mode."""
        return (self.cost_cycles - self.cycles) / self.cycles

    def layer_cycles(self) -> dict[str, float]:
        """Cycles of each layer; of the slowest network in an ensemble."""
        found: dict[str, float] = {}
        for layer in self.layers:
            found[layer.name] = max(found.get(layer.name, 0.0), layer.cycles)
        return found


def summarise(schedule: Schedule, replay: "Replay", machine: Machine) -> Simulation:
    """Read the engine's tables back into words."""
    layers = tuple(_layer_time(step, schedule, replay, machine) for step in schedule.steps)
    ends = end_cycles(schedule, machine)
    cycles = replay.cycles + ends
    traffic, energy = _traffic_and_energy(schedule, machine)
    energy["static"] = machine.static_pj_per_cycle * cycles
    cost = _lane_cost(layers) + ends
    levels = machine.levels
    return Simulation(
        device=machine.name,
        clock_hz=machine.clock_hz,
        cycles=cycles,
        roofline_cycles=_roofline(schedule, replay, machine),
        serial_cycles=_serial(schedule, machine) + ends,
        cost_cycles=cost,
        layers=layers,
        energy_pj=energy,
        traffic_bytes=traffic,
        busy_cycles={level.name: float(busy) for level, busy in zip(levels, replay.busy, strict=True)},
        peak_memory_bytes=schedule.weight_bytes + max(schedule.live, default=0.0),
        memory_over_time=tuple(zip(schedule.layer_names, schedule.live, strict=True)),
        weight_bytes=schedule.weight_bytes,
        weight_home=levels[schedule.placement.weights].name,
        activation_home=levels[schedule.placement.activations].name,
        placement=schedule.placement,
        bops=sum(step.bops for step in schedule.steps),
        provenance=provenance(machine),
        schedule=schedule,
        replay=replay,
    )


def end_cycles(schedule: Schedule, machine: Machine) -> float:
    """Start of an inference, the host link's share of it, and the joining of an ensemble."""
    cycles = invocation_cycles(machine, sum(schedule.ends_bytes))
    lanes = schedule.jobs_left.shape[0]
    if lanes > 1:
        cycles += machine.sync_cycles
    return cycles


def invocation_cycles(machine: Machine, moved_bytes: float) -> float:
    """Start of an inference, and its inputs and outputs over the host link where there is one."""
    if machine.link_bytes_per_cycle <= 0:
        return machine.invocation_cycles
    link = moved_bytes / machine.link_bytes_per_cycle + 2 * machine.link_latency_cycles
    return machine.invocation_cycles + link


def _layer_time(step: Step, schedule: Schedule, replay: "Replay", machine: Machine) -> LayerTime:
    end = float(replay.step_end[step.lane, step.index])
    start = float(replay.step_end[step.lane, step.index - 1]) if step.index else 0.0
    names = [level.name for level in machine.levels]
    if step.vector is not None:
        vector = step.vector
        return LayerTime(
            step.layer, step.kind, step.lane, "", "vector", step.way, start, end, vector.compute_cycles,
            vector.traffic_bytes / machine.levels[vector.home].bytes_per_cycle, vector.cycles, vector.bound,
            vector.energy_pj, 0, vector.traffic_bytes if vector.home == len(names) - 1 else 0.0,
        )  # fmt: skip
    rows = schedule.results[list(step.rows)]
    slowest = rows[rows[:, col.R_CYCLES].argmax()]
    lanes = schedule.jobs_left.shape[0]  # networks of an ensemble share the memories in equal parts
    cost = max(float(slowest[col.R_RUNNING]), float(slowest[col.R_MEMORY]) * lanes)
    cost += float(slowest[col.R_LAUNCH]) + float(schedule.step_sync[step.lane, step.index])
    energy = float(rows[:, col.R_MAC_PJ].sum() + rows[:, col.R_MEMORY_PJ].sum())
    return LayerTime(
        step.layer, step.kind, step.lane, step.scheme, step.engine, step.way, start, end,
        float(slowest[col.R_COMPUTE]), float(slowest[col.R_MEMORY]), cost,
        bound_name(float(slowest[col.R_BOUND]), names), energy, step.bops,
        float(rows[:, col.R_LEVELS + len(names) - 1].sum()),
    )  # fmt: skip


def _lane_cost(layers: tuple[LayerTime, ...]) -> float:
    lanes: dict[int, float] = {}
    for layer in layers:
        lanes[layer.network] = lanes.get(layer.network, 0.0) + layer.cost_cycles
    return max(lanes.values(), default=0.0)


def _traffic_and_energy(schedule: Schedule, machine: Machine) -> tuple[dict[str, float], dict[str, float]]:
    traffic = {
        level.name: float(schedule.results[:, col.R_LEVELS + index].sum())
        for index, level in enumerate(machine.levels)
    }
    vectors = [step.vector for step in schedule.steps if step.vector is not None]
    for vector in vectors:
        traffic[machine.levels[vector.home].name] += vector.traffic_bytes
    energy = {"mac": float(schedule.results[:, col.R_MAC_PJ].sum())}
    energy["vector"] = sum(_elements(vector, machine) for vector in vectors) + schedule.handover_pj
    for level in machine.levels:
        energy[level.name] = traffic[level.name] * level.pj_per_byte
    return traffic, energy


def _elements(vector: VectorCost, machine: Machine) -> float:
    moved = vector.traffic_bytes * machine.levels[vector.home].pj_per_byte
    return vector.energy_pj - moved


def _roofline(schedule: Schedule, replay: "Replay", machine: Machine) -> float:
    """The busiest unit's compute or the busiest memory, whichever is longer."""
    compute = [
        float(schedule.jobs[first:last, col.J_COMPUTE].sum())
        for first, last in zip(schedule.first_job[:-1], schedule.first_job[1:], strict=True)
    ]
    shared = [float(busy) for busy, level in zip(replay.busy, machine.levels, strict=True) if level.shared]
    return max([*compute, *shared])


def _serial(schedule: Schedule, machine: Machine) -> float:
    """Every job's launch, loads, compute and stores one after the other, and every barrier."""
    jobs, total = schedule.jobs, float(schedule.step_sync.sum())
    total += float(jobs[:, col.J_COMPUTE].sum() + jobs[:, col.J_LAUNCH].sum())
    moved = jobs[:, col.J_INPUT] + jobs[:, col.J_WEIGHT] + jobs[:, col.J_OUTPUT]
    for index, level in enumerate(machine.levels):
        here = jobs[:, col.J_EXTRA + index] + moved * (jobs[:, col.J_HOME] == index)
        requests = 3 * jobs[:, col.J_TILES] * (here > 0)
        total += float((here / level.bytes_per_cycle + requests * level.latency_cycles).sum())
    return total


def _timeline(schedule: Schedule, replay: "Replay") -> tuple[Event, ...]:
    names = {(step.lane, step.index): step for step in schedule.steps}
    events: list[Event] = []
    for job, times in zip(schedule.jobs.tolist(), replay.events.tolist(), strict=True):
        step = names[int(job[col.J_LANE]), int(job[col.J_STEP])]
        unit = int(job[col.J_UNIT])
        events.append(Event(unit, step.layer, "load", times[col.X_REQUEST], times[col.X_START]))
        events.append(Event(unit, step.layer, "compute", times[col.X_START], times[col.X_COMPUTED]))
        events.append(Event(unit, step.layer, "store", times[col.X_COMPUTED], times[col.X_DONE]))
    return tuple(events)


def provenance(machine: Machine) -> dict[str, str]:
    """Where the figures come from: the descriptor's field and whether it was given, derived or defaulted."""
    formulas = {
        "compute": "systolic: folds × fold cycles (SCALE-Sim, corrected); simd: padded tiles ÷ macs_per_cycle; "
        "bit_composable: Bit Fusion",
        "traffic": "tile search: least time, then least bytes, over tile sizes and loop orders",
        "time": "double-buffered tiles in arrival order at each memory",
    }
    fields = {f"field:{path}": said for path, said in sorted(machine.provenance.items())}
    return formulas | fields
