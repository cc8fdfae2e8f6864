"""What stands around a plan: what each limit costs, and the next best plans that look different.

Prices are found by solving again, not from duals: exact for the step of 1 % that they name.
"""

from collections.abc import Sequence
from dataclasses import replace

from planner.assemble import totals_of
from planner.control import Control
from planner.decide import Decision, Pick, Question, minimise
from planner.limits import Limit, to_float
from planner.plan import Alternative, LimitUse
from planner.proof import proof_of
from planner.search import Cuts
from planner.space import Space

DIFFERENT_SHARE = 10
"""Alternatives differ from every better plan in one of this many layers, at least one."""


def priced(
    question: Question, quantity: str, decision: Decision, uses: Sequence[LimitUse], control: Control
) -> tuple[LimitUse, ...]:
    """The limits with what 1 % more of each would gain and whether it binds at all."""
    assert decision.value is not None and decision.pick is not None
    found: list[LimitUse] = []
    for use, limit in zip(uses, question.limits, strict=True):
        control.phase = f"price of {limit.name}"
        wider = replace(limit, value=limit.value + max(1, limit.value // 100))
        gain = _gain(question, quantity, decision, _swapped(question, limit, wider), control)
        binding: bool | None = None
        if gain is not None:
            binding = gain > 0
            if not binding:
                freed = _gain(question, quantity, decision, _swapped(question, limit, None), control)
                binding = None if freed is None else freed > 0
        shown = None if gain is None else to_float(question.exact, quantity, gain)
        found.append(use.model_copy(update={"binding": binding, "gain_of_one_percent": shown}))
    return tuple(found)


def _swapped(question: Question, limit: Limit, new: Limit | None) -> Question:
    rest = [new if one is limit else one for one in question.limits]
    return replace(question, limits=tuple(one for one in rest if one is not None))


def _gain(
    question: Question, quantity: str, decision: Decision, wider: Question, control: Control
) -> int | None:
    """By how much the optimum falls under other limits; ``None`` if that could not be proven in time."""
    assert decision.value is not None and decision.pick is not None
    if decision.status != "optimal" or control.stopped:
        return None
    again = minimise(wider, quantity, control, [decision.pick])
    if again.status != "optimal" or again.value is None:
        return None
    return decision.value - again.value


def alternatives(
    question: Question, quantity: str, pick: Pick, count: int, control: Control
) -> tuple[Alternative, ...]:
    """The next ``count`` plans, each the best among those that differ enough from all before it."""
    exact = question.exact
    schemes = [_schemes(question, pick)]
    found: list[Alternative] = []
    for _ in range(count):
        if control.stopped:
            break
        control.phase = f"alternative {len(found) + 1}"
        asked = replace(question, cuts=_different(schemes), distinct_schemes=True)
        decision = minimise(asked, quantity, control)
        if decision.pick is None:
            break
        own = _schemes(question, decision.pick)
        names = [layer.name for layer in exact.tables.layers]
        changed = {
            name: scheme for name, scheme, base in zip(names, own, schemes[0], strict=True) if scheme != base
        }
        proof = proof_of(exact, quantity, decision)
        found.append(Alternative(totals=totals_of(exact, decision.pick), proof=proof, schemes=changed))
        schemes.append(own)
    return tuple(found)


def _schemes(question: Question, pick: Pick) -> list[str]:
    layers = question.exact.tables.layers
    return [layer.options[option].scheme for layer, (option, _) in zip(layers, pick.options, strict=True)]


def _different(plans: Sequence[Sequence[str]]) -> Cuts:
    plans = [list(schemes) for schemes in plans]

    def cuts(space: Space) -> list[tuple[list[int], int]]:
        least = max(1, len(space.x) // DIFFERENT_SHARE)
        found: list[tuple[list[int], int]] = []
        for schemes in plans:
            same = [
                variable
                for layer, (scheme, own) in enumerate(zip(schemes, space.x, strict=True))
                for entry, variable in enumerate(own)
                if space.option(layer, entry).scheme == scheme
            ]
            found.append((same, len(schemes) - least))
        return found

    return cuts
