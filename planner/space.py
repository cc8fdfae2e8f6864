"""The decision as 0/1 variables, linear equalities and one or more linear rows per quantity.

Solver-independent: the same space feeds CP-SAT, the linear relaxation and the bounds. Variables:

* ``x[l][e]``: layer ``l`` takes entry ``e`` (exactly one per layer);
* ``z[l][e][k][m]``: its ``k``-th later term is held by expanded network ``m`` (sums to ``x[l][e]``);
* ``w``: the classes (activation bits, engine) of the two layers at a priced boundary (sums to the ``x`` of
  either side, the tight form of a product of one-hot choices).

A quantity is the largest of its rows: latency in an ensemble has one row per network, live activations one
per step; all others have one row.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise

from planner.entries import (
    ACTIVATIONS,
    BOPS,
    ENERGY,
    ERROR,
    LATENCY,
    WEIGHTS,
    Entry,
    ExactTables,
)
from planner.tables import Boundary, BoundaryRule, EnsembleChoice, LayerOption, Tables

_SUMS = {"error": ERROR, "energy": ENERGY, "bops": BOPS, "weight_memory": WEIGHTS}


@dataclass(slots=True)
class Row:
    """``constant + Σ coefficient·variable`` over ``choices`` choices; ``reach`` bounds what the sum can be."""

    constant: int = 0
    variables: list[int] = field(default_factory=list[int])
    coefficients: list[int] = field(default_factory=list[int])
    reach: int = 0
    choices: int = 0

    def add(self, variables: Sequence[int], coefficients: Sequence[int]) -> None:
        """Add the terms of one one-hot choice, of which at most one counts."""
        for variable, coefficient in zip(variables, coefficients, strict=True):
            if coefficient:
                self.variables.append(variable)
                self.coefficients.append(coefficient)
        self.reach += max(coefficients, default=0)
        self.choices += 1

    def value(self, chosen: Sequence[int]) -> int:
        """The row's value under a 0/1 assignment."""
        pairs = zip(self.variables, self.coefficients, strict=True)
        return self.constant + sum(coefficient for variable, coefficient in pairs if chosen[variable])


@dataclass(slots=True)
class Equality:
    """``Σ left − Σ right = total`` over 0/1 variables."""

    left: list[int]
    right: list[int]
    total: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan inside one space: the entry of every layer and the network that holds each later term."""

    entries: tuple[int, ...]
    holders: tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class _Pair:
    """A priced boundary: its classes on both sides and the variable of every combination."""

    source: int
    target: int
    classes: tuple[list[Hashable], list[Hashable]]
    variables: list[list[int]]
    cycles: list[list[int]]
    energy: list[list[int]]

    def flat(self) -> list[int]:
        """All variables, row by row."""
        return list(chain.from_iterable(self.variables))


def rule_applies(rule: BoundaryRule, source: LayerOption, target: LayerOption) -> bool:
    """Whether a boundary rule speaks of this pair of options."""
    return (
        rule.source_act_bits in ("any", source.act_bits)
        and rule.target_act_bits in ("any", target.act_bits)
        and rule.source_engine in ("any", source.engine)
        and rule.target_engine in ("any", target.engine)
    )


def boundary_price(
    exact: ExactTables,
    boundary: Boundary,
    source: LayerOption,
    target: LayerOption,
    mode: EnsembleChoice | None,
) -> tuple[int, int]:
    """Cycles of the slowest network and energy of all networks for handing an activation on."""
    paid = [rule for rule in boundary.rules if rule_applies(rule, source, target)]
    energy = sum(exact.energy_scale.integer(rule.energy_pj) for rule in paid)
    if mode is None:
        return sum(rule.cycles for rule in paid), energy
    cycles = sum(rule.cycles if rule.alone_cycles is None else rule.alone_cycles for rule in paid)
    return cycles, (mode.predictors + 1) * energy


class Space:
    """Variables, equalities and rows of one mode over given entries."""

    def __init__(
        self, exact: ExactTables, mode: EnsembleChoice | None, entries: Sequence[Sequence[Entry]]
    ) -> None:
        self.exact = exact
        self.tables: Tables = exact.tables
        self.mode = mode
        self.entries = [list(row) for row in entries]
        self.networks = 1 if mode is None else mode.predictors
        self.count = 0
        self.position = {layer.name: index for index, layer in enumerate(self.tables.layers)}
        self.x = [self._take(len(row)) for row in self.entries]
        self.equalities = [Equality(row, [], 1) for row in self.x]
        self.z: list[list[list[list[int]]]] = [
            [[self._take(self.networks) for _ in entry.later] for entry in row] for row in self.entries
        ]
        for own, spread in zip(self.x, self.z, strict=True):
            for variable, terms in zip(own, spread, strict=True):
                self.equalities += [Equality(term, [variable]) for term in terms]
        self._agree()
        self._pairs = [pair for boundary in self.tables.boundaries if (pair := self._pair(boundary))]
        self._rows: dict[str, list[Row]] = {}

    def _take(self, number: int) -> list[int]:
        first = self.count
        self.count += number
        return list(range(first, self.count))

    def option(self, layer: int, entry: int) -> LayerOption:
        """The option behind an entry."""
        return self.tables.layers[layer].options[self.entries[layer][entry].option]

    def _classes(self, layer: int, key: Callable[[LayerOption], Hashable]) -> dict[Hashable, list[int]]:
        found: dict[Hashable, list[int]] = {}
        for entry, variable in enumerate(self.x[layer]):
            found.setdefault(key(self.option(layer, entry)), []).append(variable)
        return found

    def _agree(self) -> None:
        for agreement in self.tables.agreements:
            layers = [self.position[name] for name in agreement.layers]
            kinds = [self._classes(layer, agreement_key(agreement.on)) for layer in layers]
            for kind in dict.fromkeys(value for classes in kinds for value in classes):
                for one, other in pairwise(kinds):
                    self.equalities.append(Equality(one.get(kind, []), other.get(kind, [])))

    def _pair(self, boundary: Boundary) -> _Pair | None:
        source, target = self.position[boundary.source], self.position[boundary.target]
        sources, targets = self._classes(source, boundary_key), self._classes(target, boundary_key)
        prices = [
            [self._price(boundary, source, one[0], target, other[0]) for other in targets.values()]
            for one in sources.values()
        ]
        if not any(cycles or energy for row in prices for cycles, energy in row):
            return None
        variables = [self._take(len(targets)) for _ in sources]
        for row, own in zip(variables, sources.values(), strict=True):
            self.equalities.append(Equality(row, own))
        for column, own in zip(zip(*variables, strict=True), targets.values(), strict=True):
            self.equalities.append(Equality(list(column), own))
        return _Pair(
            source,
            target,
            (list(sources), list(targets)),
            variables,
            [[cycles for cycles, _ in row] for row in prices],
            [[energy for _, energy in row] for row in prices],
        )

    def _price(self, boundary: Boundary, source: int, one: int, target: int, other: int) -> tuple[int, int]:
        """Cycles and energy of a boundary between two classes, given one ``x`` variable of each."""
        before = self.option(source, one - self.x[source][0])
        after = self.option(target, other - self.x[target][0])
        return boundary_price(self.exact, boundary, before, after, self.mode)

    def rows(self, quantity: str) -> list[Row]:
        """The rows whose largest is ``quantity``: a name of ``QUANTITIES`` or ``memory:NAME``."""
        if quantity not in self._rows:
            self._rows[quantity] = self._make_rows(quantity)
        return self._rows[quantity]

    def _make_rows(self, quantity: str) -> list[Row]:
        if quantity == "latency":
            return [self._latency(network) for network in range(self.networks)]
        if quantity == "activation_memory":
            return self._live(with_weights=False)
        if quantity.startswith("memory:"):
            memory = next(m for m in self.tables.memories if m.name == quantity.removeprefix("memory:"))
            if "activations" not in memory.holds:
                return self._make_rows("weight_memory")
            return self._live(with_weights="weights" in memory.holds)
        return [self._sum(_SUMS[quantity])]

    def _sum(self, kind: int) -> Row:
        tables, exact = self.tables, self.exact
        networks = 1 if self.mode is None else self.networks + 1
        energy = tables.fixed_energy_pj if self.mode is None else self.mode.fixed_energy_pj
        constants = {
            ERROR: exact.error_scale.integer(tables.fixed_error),
            ENERGY: exact.energy_scale.integer(energy),
            BOPS: tables.fixed_bops * networks,
            WEIGHTS: tables.fixed_weight_bytes,
        }
        row = Row(constants[kind])
        for own, entries in zip(self.x, self.entries, strict=True):
            row.add(own, [entry.costs[kind] for entry in entries])
        if kind == ENERGY:
            for pair in self._pairs:
                row.add(pair.flat(), list(chain.from_iterable(pair.energy)))
        return row

    def _latency(self, network: int) -> Row:
        mode = self.mode
        row = Row(self.tables.fixed_cycles if mode is None else mode.fixed_cycles + mode.combine_cycles)
        for own, entries, spread in zip(self.x, self.entries, self.z, strict=True):
            row.add(own, [entry.costs[LATENCY] for entry in entries])
            later = [
                (term[network], cycles)
                for entry, terms in zip(entries, spread, strict=True)
                for term, cycles in zip(terms, entry.later, strict=True)
            ]
            if later:
                row.add([variable for variable, _ in later], [cycles for _, cycles in later])
                most = max(sum(entry.later) for entry in entries)
                row.reach += most - max(cycles for _, cycles in later)
                row.choices += max(len(entry.later) for entry in entries)
        for pair in self._pairs:
            row.add(pair.flat(), list(chain.from_iterable(pair.cycles)))
        return row

    def _live(self, with_weights: bool) -> list[Row]:
        copies = 1 if self.mode is None else self.mode.activation_copies
        rows: list[Row] = []
        for layers, fixed in live_steps(self.tables):
            row = self._sum(WEIGHTS) if with_weights else Row()
            row.constant += copies * fixed
            for layer in layers:
                row.add(self.x[layer], [copies * entry.costs[ACTIVATIONS] for entry in self.entries[layer]])
            rows.append(row)
        return rows

    def assignment(self, choice: Choice) -> list[int]:
        """The 0/1 values of all variables under ``choice``."""
        chosen = [0] * self.count
        for layer, entry in enumerate(choice.entries):
            chosen[self.x[layer][entry]] = 1
            for term, network in zip(self.z[layer][entry], choice.holders[layer], strict=True):
                chosen[term[network]] = 1
        for pair in self._pairs:
            kinds = [
                boundary_key(self.option(layer, choice.entries[layer]))
                for layer in (pair.source, pair.target)
            ]
            one, other = (classes.index(kind) for classes, kind in zip(pair.classes, kinds, strict=True))
            chosen[pair.variables[one][other]] = 1
        return chosen

    def value(self, quantity: str, chosen: Sequence[int]) -> int:
        """The exact value of a quantity under a 0/1 assignment."""
        return max(row.value(chosen) for row in self.rows(quantity))


def agreement_key(on: Sequence[str]) -> Callable[[LayerOption], Hashable]:
    """The properties that an agreement compares."""
    return lambda option: tuple(getattr(option, name) for name in on)


def boundary_key(option: LayerOption) -> Hashable:
    """All that a boundary's price can depend on."""
    return option.act_bits, option.engine


def live_steps(tables: Tables) -> list[tuple[tuple[int, ...], int]]:
    """Layers live together and fixed bytes of each step, without steps that another one covers.

    A layer stands as often as there are tensors of its width and size. Tables without live sets mean that every
    layer's activation is live alone.
    """
    position = {layer.name: index for index, layer in enumerate(tables.layers)}
    if not tables.live_sets:
        return [((index,), 0) for index in position.values()]
    steps = [
        (tuple(sorted(position[name] for name in live.layers)), live.fixed_bytes) for live in tables.live_sets
    ]
    unique = [(Counter(layers), layers, fixed) for layers, fixed in dict.fromkeys(steps)]
    return [
        (layers, fixed)
        for count, layers, fixed in unique
        if not any(
            (other, most) != (layers, fixed) and count <= more and fixed <= most
            for more, other, most in unique
        )
    ]
