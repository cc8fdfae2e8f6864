"""The tools for large networks, forced upon small ones where every plan can be tried."""

import numpy as np
import pytest

from planner import decide
from planner.bounds import SUMS, Relaxation
from planner.decide import reduced
from planner.entries import ExactTables
from planner.labels import guided
from planner.multipliers import best_bound, refined
from planner.request import Request
from planner.solve import question_of
from planner.space import Space
from tests.planner.random_tables import assert_optimum_of_brute_force, random_request, random_tables


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_same_optimum_with_refined_bounds_and_labels(first, monkeypatch):
    used = []

    def watched(*arguments):
        used.append(guided(*arguments) is not None)
        return guided(*arguments)

    monkeypatch.setattr(decide, "enumerated", lambda *_: None)
    monkeypatch.setattr(decide, "_too_many", lambda *_: True)
    monkeypatch.setattr(decide, "bounds_pay", lambda _, quantity: quantity in SUMS)
    monkeypatch.setattr(decide, "guided", watched)
    for seed in range(first, first + 50):
        assert_optimum_of_brute_force(seed)
    assert sum(used) > 10


def relaxed(seed, layers=6):
    """A space under the limits of a random request, its relaxation and bound; None where there is none."""
    tables = random_tables(seed, layers=layers, ensembles=False)
    request = random_request(seed, tables)
    exact = ExactTables(tables)
    question = question_of(exact, Request(objective=("error",), limits=request.limits))
    entries = reduced(question, "error", None)
    if not all(entries):
        return None
    space = Space(exact, None, entries)
    relaxation = Relaxation(space, "error", question.limits)
    bound = best_bound(relaxation)
    return (relaxation, bound) if np.isfinite(bound.value) else None


def test_a_refined_bound_is_sharper_and_never_above_a_plan():
    """Every plan that labels find uses entries whose bounds are not above its objective."""
    sharper = checked = 0
    for seed in range(200):
        made = relaxed(seed)
        if made is None:
            continue
        relaxation, bound = made
        better = refined(relaxation, bound)
        pairs = [
            pair
            for old, new in zip(bound.with_entry, better.with_entry, strict=True)
            for pair in zip(old, new, strict=True)
        ]
        assert all(new >= old for old, new in pairs)
        sharper += any(new > old for old, new in pairs)
        plan = guided(relaxation, bound, np.inf)
        if plan is None:
            continue
        checked += 1
        assert (relaxation.slope(plan) <= 0).all()
        value = relaxation.objective(plan) + relaxation.constant
        lows = [better.with_entry[layer][entry] for layer, entry in enumerate(relaxation.entries_of(plan))]
        assert max(lows) <= value * (1 + 1e-9)
    assert sharper > 10
    assert checked > 10


def test_labels_find_the_optimum_of_the_relaxed_problem_when_none_is_thinned():
    """With few layers no label is dropped but by the bound: no plan of the forest is better."""
    checked = 0
    for seed in range(120):
        made = relaxed(seed, layers=4)
        if made is None:
            continue
        relaxation, bound = made
        plan = guided(relaxation, bound, np.inf)
        starts, ends = relaxation.first_entry, relaxation.first_class
        rows = [
            range(starts[ends[layer]], starts[ends[layer + 1]])
            for layer in range(len(relaxation.first_class) - 1)
        ]
        best = min(
            (
                relaxation.objective(np.array(chosen))
                for chosen in np.array(np.meshgrid(*rows)).T.reshape(-1, len(rows))
                if (relaxation.slope(np.array(chosen)) <= 0).all()
            ),
            default=np.inf,
        )
        assert (plan is None) == (not np.isfinite(best)), seed
        if plan is not None:
            assert relaxation.objective(plan) == pytest.approx(best, rel=1e-9, abs=1e-9), seed
            checked += 1
    assert checked > 10
