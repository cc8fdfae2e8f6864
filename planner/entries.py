"""The options of every layer in one mode of using the units, with all costs as exact integers.

A mode is ``None`` (every layer by itself: single, rows, terms) or one telescoped ensemble. In an ensemble a
layer of order K may keep all its terms in every network, or spread the terms after ``base`` over them.
"""

import hashlib
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from planner.exact import DecimalScale
from planner.tables import EnsembleChoice, LayerOption, Tables

ERROR, LATENCY, ENERGY, BOPS, WEIGHTS, ACTIVATIONS = range(6)


@dataclass(frozen=True, slots=True)
class Entry:
    """One choice for one layer: an option, and how many of its terms every network holds."""

    option: int
    base: int
    costs: tuple[int, int, int, int, int, int]
    later: tuple[int, ...] = ()


class ExactTables:
    """Tables beside their integer scales; made once and used by every solve over the same tables."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        options = [option for layer in tables.layers for option in layer.options]
        splits = (split.error for option in options for split in option.splits)
        self.error_scale = DecimalScale.of(
            chain((option.error for option in options), splits, (tables.fixed_error,))
        )
        rules = (rule.energy_pj for boundary in tables.boundaries for rule in boundary.rules)
        terms = chain.from_iterable(option.term_energy_pj for option in options if option.splits)
        fixed = (tables.fixed_energy_pj, *(choice.fixed_energy_pj for choice in tables.ensembles))
        static = (part.static_pj for option in options for part in (option, *option.splits))
        self.energy_scale = DecimalScale.of(
            chain((option.energy_pj for option in options), static, rules, terms, fixed)
        )
        self._entries: dict[int, list[list[list[Entry]]]] = {}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tables' JSON as pydantic writes it."""
        return hashlib.sha256(self.tables.model_dump_json().encode()).hexdigest()

    def with_tables(self, tables: Tables) -> "ExactTables":
        """The same options and scales beside other links between layers."""
        other = copy(self)
        other.tables = tables
        return other

    def entries(self, legal: Sequence[Sequence[int]], mode: EnsembleChoice | None) -> list[list[Entry]]:
        """The entries of every layer in ``mode``, from the options listed in ``legal``."""
        networks = 1 if mode is None else mode.predictors
        if networks not in self._entries:
            self._entries[networks] = [
                [
                    [self._alone(index, option)]
                    if mode is None
                    else self._in_ensemble(index, option, networks)
                    for index, option in enumerate(layer.options)
                ]
                for layer in self.tables.layers
            ]
        pairs = zip(self._entries[networks], legal, strict=True)
        return [[entry for index in indices for entry in row[index]] for row, indices in pairs]

    def _alone(self, index: int, option: LayerOption, copies: int = 1) -> Entry:
        static = self.energy_scale.integer(option.static_pj)  # drawn once by all copies together
        costs = (
            self.error_scale.integer(option.error),
            option.cycles,
            (self.energy_scale.integer(option.energy_pj) - static) * copies + static,
            option.bops * copies,
            option.weight_bytes,
            option.act_bytes,
        )
        return Entry(index, option.order, costs)

    def _in_ensemble(self, index: int, option: LayerOption, predictors: int) -> list[Entry]:
        if option.way != "single":
            return []
        networks = predictors + 1
        whole = self._alone(index, option, networks)
        found = [whole]
        for split in option.splits:
            if split.predictors != predictors:
                continue
            energies = [self.energy_scale.integer(energy) for energy in option.term_energy_pj]
            base = split.base
            costs = (
                whole.costs[ERROR] + self.error_scale.integer(split.error),
                sum(option.term_cycles[:base]),
                networks * sum(energies[:base])
                + sum(energies[base:])
                + self.energy_scale.integer(split.static_pj),
                networks * sum(option.term_bops[:base]) + sum(option.term_bops[base:]),
                option.weight_bytes,
                option.act_bytes,
            )
            found.append(Entry(index, base, costs, option.term_cycles[base:]))
        return found
