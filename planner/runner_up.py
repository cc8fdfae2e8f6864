"""For every layer the best other scheme while all other layers stay, and what it would change.

Alternatives are tried in the order of the first objective; the first that keeps every limit and agreement is
the runner-up. Where none does, the one that oversteps least is named with what it would break.
"""

import math
from dataclasses import dataclass

from planner.decide import Pick, Question
from planner.entries import ACTIVATIONS, BOPS, ENERGY, ERROR, LATENCY, WEIGHTS, Entry, ExactTables
from planner.limits import to_float
from planner.plan import RunnerUp
from planner.space import agreement_key, boundary_price, live_steps
from planner.tables import Boundary, LayerOption

_SUMS = {"error": ERROR, "energy": ENERGY, "bops": BOPS, "weight_memory": WEIGHTS}


@dataclass(slots=True)
class _State:
    """Quantities of the plan, or of the plan with one layer changed."""

    sums: list[int]
    loads: list[int]
    live: list[int]

    def value(self, quantity: str, holds: tuple[str, ...] = ()) -> int:
        if quantity == "latency":
            return max(self.loads)
        if quantity == "activation_memory":
            return max(self.live)
        if quantity.startswith("memory:"):
            weights = self.sums[WEIGHTS] if "weights" in holds else 0
            return weights + (max(self.live) if "activations" in holds else 0)
        return self.sums[_SUMS[quantity]]


class Neighbours:
    """All plans that differ from one plan in a single layer."""

    def __init__(self, exact: ExactTables, question: Question, pick: Pick) -> None:
        self.exact, self.question, self.pick = exact, question, pick
        tables = exact.tables
        self.networks = 1 if pick.mode is None else pick.mode.predictors
        self.copies = 1 if pick.mode is None else self.networks + 1
        self.entries = exact.entries(question.legal, pick.mode)
        self.taken = [
            next(entry for entry in row if (entry.option, entry.base) == wanted)
            for row, wanted in zip(self.entries, pick.options, strict=True)
        ]
        self.options = [
            layer.options[entry.option] for layer, entry in zip(tables.layers, self.taken, strict=True)
        ]
        self.position = {layer.name: index for index, layer in enumerate(tables.layers)}
        self.steps = live_steps(tables)
        self.steps_of: list[list[int]] = [[] for _ in tables.layers]
        for step, (layers, _) in enumerate(self.steps):
            for layer in layers:
                self.steps_of[layer].append(step)
        self.holds = {f"memory:{memory.name}": memory.holds for memory in tables.memories}
        self.touching: list[list[Boundary]] = [[] for _ in tables.layers]
        for boundary in tables.boundaries:
            self.touching[self.position[boundary.source]].append(boundary)
            self.touching[self.position[boundary.target]].append(boundary)
        self.paid = {id(boundary): self._price(boundary, {}) for boundary in tables.boundaries}
        self.state = self._state()

    def _state(self) -> _State:
        tables, mode = self.exact.tables, self.pick.mode
        fixed = tables.fixed_cycles if mode is None else mode.fixed_cycles + mode.combine_cycles
        energy = tables.fixed_energy_pj if mode is None else mode.fixed_energy_pj
        sums = [
            self.exact.error_scale.integer(tables.fixed_error),
            0,
            self.exact.energy_scale.integer(energy),
            tables.fixed_bops * self.copies,
            tables.fixed_weight_bytes,
            0,
        ]
        loads = [fixed] * self.networks
        for entry, holders in zip(self.taken, self.pick.holders, strict=True):
            for kind in (ERROR, ENERGY, BOPS, WEIGHTS):
                sums[kind] += entry.costs[kind]
            loads = [load + entry.costs[LATENCY] for load in loads]
            for holder, cycles in zip(holders, entry.later, strict=True):
                loads[holder] += cycles
        for boundary in tables.boundaries:
            cycles, spent = self.paid[id(boundary)]
            loads = [load + cycles for load in loads]
            sums[ENERGY] += spent
        held = 1 if mode is None else mode.activation_copies
        live = [
            held * (fixed_bytes + sum(self.taken[layer].costs[ACTIVATIONS] for layer in layers))
            for layers, fixed_bytes in self.steps
        ]
        return _State(sums, loads, live)

    def _price(self, boundary: Boundary, changed: dict[int, LayerOption]) -> tuple[int, int]:
        source, target = self.position[boundary.source], self.position[boundary.target]
        one, other = changed.get(source, self.options[source]), changed.get(target, self.options[target])
        return boundary_price(self.exact, boundary, one, other, self.pick.mode)

    def changed(self, layer: int, entry: Entry) -> _State:
        """The state with one layer's entry replaced; its later terms go to the least loaded network."""
        old, state = self.taken[layer], self.state
        sums = [total + new - was for total, new, was in zip(state.sums, entry.costs, old.costs, strict=True)]
        loads = [load + entry.costs[LATENCY] - old.costs[LATENCY] for load in state.loads]
        for holder, cycles in zip(self.pick.holders[layer], old.later, strict=True):
            loads[holder] -= cycles
        for cycles in sorted(entry.later, reverse=True):
            loads[loads.index(min(loads))] += cycles
        option = self.exact.tables.layers[layer].options[entry.option]
        for boundary in self.touching[layer]:
            before, spent = self.paid[id(boundary)]
            after, spends = self._price(boundary, {layer: option})
            loads = [load + after - before for load in loads]
            sums[ENERGY] += spends - spent
        held = 1 if self.pick.mode is None else self.pick.mode.activation_copies
        more = held * (entry.costs[ACTIVATIONS] - old.costs[ACTIVATIONS])
        live = state.live
        if more:
            live = live.copy()
            for step in self.steps_of[layer]:
                live[step] += more
        return _State(sums, loads, live)

    def broken(self, layer: int, entry: Entry, state: _State) -> tuple[str, ...]:
        """Limits and agreements that the changed plan breaks."""
        found = [
            limit.name
            for limit in self.question.limits
            if state.value(limit.quantity, self.holds.get(limit.name, ())) > limit.value
        ]
        table = self.exact.tables.layers[layer]
        option = table.options[entry.option]
        for group in self.exact.tables.agreements:
            if table.name in group.layers:
                key = agreement_key(group.on)
                if key(option) != key(self.options[layer]):
                    found.append(f"agreement:{group.name}")
        return tuple(found)

    def runner_up(self, layer: int, quantity: str) -> RunnerUp | None:
        """The best alternative of one layer; if none keeps the limits, the one that oversteps them least."""
        scheme = self.options[layer].scheme
        table = self.exact.tables.layers[layer]
        others = [e for e in self.entries[layer] if table.options[e.option].scheme != scheme]
        if quantity in ("error", "bops", "weight_memory"):
            others.sort(key=lambda entry: (entry.costs[_SUMS[quantity]], entry.costs[LATENCY], entry.option))
            states = ((self.changed(layer, entry), entry) for entry in others)
        else:
            known = [(self.changed(layer, entry), entry) for entry in others]
            states = iter(sorted(known, key=lambda pair: (pair[0].value(quantity), pair[1].option)))
        nearest: tuple[float, _State, Entry, tuple[str, ...]] | None = None
        for state, entry in states:
            broken = self.broken(layer, entry, state)
            if not broken:
                return self._described(layer, state, entry, broken)
            over = self._overstep(state, broken)
            if nearest is None or over < nearest[0]:
                nearest = (over, state, entry, broken)
        return None if nearest is None else self._described(layer, *nearest[1:])

    def _overstep(self, state: _State, broken: tuple[str, ...]) -> float:
        """By what share the worst broken limit is overstepped; an agreement counts as everything."""
        if any(name.startswith("agreement:") for name in broken):
            return math.inf
        return max(
            state.value(limit.quantity, self.holds.get(limit.name, ())) / max(limit.value, 1)
            for limit in self.question.limits
            if limit.name in broken
        )

    def _described(self, layer: int, state: _State, entry: Entry, broken: tuple[str, ...]) -> RunnerUp:
        option = self.exact.tables.layers[layer].options[entry.option]
        now = self.state
        return RunnerUp(
            scheme=option.scheme,
            engine=option.engine,
            way=option.way,
            error_change=to_float(self.exact, "error", state.sums[ERROR] - now.sums[ERROR]),
            cycles_change=max(state.loads) - max(now.loads),
            energy_change_pj=to_float(self.exact, "energy", state.sums[ENERGY] - now.sums[ENERGY]),
            breaks=broken,
        )
