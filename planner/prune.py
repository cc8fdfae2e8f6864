"""Remove options that no optimal plan needs, before the solver sees them.

Three exact rules, repeated until nothing changes:

* an option whose class (the properties its layer must share with others) exists in no partner layer;
* an option that breaks a limit even with the cheapest choice everywhere else;
* an option *dominated* by another of its layer: the other is in the same class (same shared properties, same
  boundary price) and costs no more in every quantity that is limited or minimised. Replacing one by the other
  in any plan keeps it feasible and no worse, so at least one optimal plan survives. In an ensemble the later
  terms compare one by one, largest first, since each may go to any network.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import itemgetter, le

from planner.entries import ACTIVATIONS, BOPS, ENERGY, ERROR, LATENCY, WEIGHTS, Entry, ExactTables
from planner.limits import Limit
from planner.space import agreement_key, boundary_key
from planner.tables import LayerOption

Entries = list[list[Entry]]
_KINDS = {
    "error": (ERROR,),
    "latency": (LATENCY,),
    "energy": (ENERGY,),
    "bops": (BOPS,),
    "weight_memory": (WEIGHTS,),
    "activation_memory": (ACTIVATIONS,),
}


def cost_kinds(exact: ExactTables, quantities: Iterable[str]) -> tuple[int, ...]:
    """Which costs of an entry decide about these quantities."""
    kinds: set[int] = set()
    for quantity in quantities:
        if quantity.startswith("memory:"):
            memory = next(m for m in exact.tables.memories if m.name == quantity.removeprefix("memory:"))
            kinds |= {WEIGHTS if held == "weights" else ACTIVATIONS for held in memory.holds}
        else:
            kinds.update(_KINDS[quantity])
    return tuple(sorted(kinds))


def class_keys(exact: ExactTables, distinct_schemes: bool = False) -> list[Callable[[LayerOption], Hashable]]:
    """For each layer: the properties in which options may not stand for each other."""
    tables = exact.tables
    shared: dict[str, list[Callable[[LayerOption], Hashable]]] = {layer.name: [] for layer in tables.layers}
    for agreement in tables.agreements:
        for name in agreement.layers:
            shared[name].append(agreement_key(agreement.on))
    for boundary in tables.boundaries:
        shared[boundary.source].append(boundary_key)
        shared[boundary.target].append(boundary_key)
    if distinct_schemes:
        for keys in shared.values():
            keys.append(lambda option: option.scheme)
    return [_joined(shared[layer.name]) for layer in tables.layers]


def _joined(keys: Sequence[Callable[[LayerOption], Hashable]]) -> Callable[[LayerOption], Hashable]:
    return lambda option: tuple(key(option) for key in keys)


def agreeing(exact: ExactTables, entries: Entries) -> Entries:
    """Without entries whose shared properties no partner layer can match."""
    tables = exact.tables
    position = {layer.name: index for index, layer in enumerate(tables.layers)}
    rows = [list(row) for row in entries]
    changed = bool(tables.agreements)
    while changed:
        changed = False
        for agreement in tables.agreements:
            key = agreement_key(agreement.on)
            members = [position[name] for name in agreement.layers]
            kinds = [{key(tables.layers[layer].options[e.option]) for e in rows[layer]} for layer in members]
            common = set[Hashable].intersection(*kinds)
            for layer in members:
                options = tables.layers[layer].options
                kept = [entry for entry in rows[layer] if key(options[entry.option]) in common]
                changed = changed or len(kept) < len(rows[layer])
                rows[layer] = kept
    return rows


def fitting(exact: ExactTables, entries: Entries, limits: Sequence[Limit], networks: int) -> Entries:
    """Without entries that break a limit whatever the other layers choose."""
    rows = entries
    for limit in limits:
        if limit.quantity not in ("error", "latency", "energy", "bops", "weight_memory"):
            continue
        kind = _KINDS[limit.quantity][0]
        least = [min((_least(entry, kind, networks) for entry in row), default=0) for row in rows]
        room = limit.value * (networks if kind == LATENCY else 1) - sum(least)
        rows = [
            [entry for entry in row if _least(entry, kind, networks) - low <= room]
            for row, low in zip(rows, least, strict=True)
        ]
    return rows


def _least(entry: Entry, kind: int, networks: int) -> int:
    """An entry's part in a limit; for latency summed over all networks."""
    if kind != LATENCY:
        return entry.costs[kind]
    return networks * entry.costs[LATENCY] + sum(entry.later)


def undominated(
    exact: ExactTables,
    entries: Entries,
    kinds: Sequence[int],
    keys: Sequence[Callable[[LayerOption], Hashable]],
) -> Entries:
    """Without dominated entries; of equal ones the one that is better in all other costs, then the first."""
    kept: Entries = []
    for table, row, key in zip(exact.tables.layers, entries, keys, strict=True):
        classes: dict[Hashable, list[Entry]] = {}
        for entry in row:
            classes.setdefault(key(table.options[entry.option]), []).append(entry)
        survivors = {id(entry) for members in classes.values() for entry in _front(members, kinds)}
        kept.append([entry for entry in row if id(entry) in survivors])
    return kept


def _front(entries: Sequence[Entry], kinds: Sequence[int]) -> list[Entry]:
    """The entries that no earlier one covers, in an order in which only earlier ones can cover later ones."""
    with_later = LATENCY in kinds and any(entry.later for entry in entries)
    costs = itemgetter(*kinds) if len(kinds) > 1 else _single(kinds)
    keyed = [(costs(e.costs), _later(e), e.costs, e.option, e.base, e) for e in entries]
    keyed.sort(key=itemgetter(0, 1, 2, 3, 4))
    front: list[tuple[tuple[int, ...], tuple[int, ...], Entry]] = []
    for own, later, _, _, _, entry in keyed:
        for one, terms, _ in front:
            if all(map(le, one, own)) and (not with_later or _covers(terms, later)):
                break
        else:
            front.append((own, later, entry))
    return [entry for _, _, entry in front]


def _single(kinds: Sequence[int]) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
    return lambda costs: tuple(costs[kind] for kind in kinds)


def _later(entry: Entry) -> tuple[int, ...]:
    return tuple(sorted(entry.later, reverse=True))


def _covers(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether later terms can stand for others, the largest for the largest."""
    return len(one) <= len(other) and all(map(le, one, other))
