"""How others choose bits: a one-hot ILP (HiGHS through scipy, CBC through PuLP) and greedy descent.

The ILP is what MCT, ModelOpt and Quark build; greedy descent from the most precise plan is the kind of search
that NNCF and AIMET run. Each gets the same tables without boundaries and returns the chosen options.
"""

import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from planner.request import Limits
from planner.tables import Tables


@dataclass(frozen=True)
class PeerAnswer:
    """What a peer chose, how long it took, and the gap it claims."""

    seconds: float
    choice: list[int] | None
    proven_gap: float | None


def budgets(tables: Tables, limits: Limits) -> list[tuple[str, float]]:
    """Field of an option and how much of it may be used."""
    found = []
    if limits.latency is not None:
        found.append(("cycles", limits.latency * tables.clock_hz - tables.fixed_cycles))
    if limits.weight_memory is not None:
        found.append(("weight_bytes", limits.weight_memory - tables.fixed_weight_bytes))
    if limits.bops is not None:
        found.append(("bops", limits.bops - tables.fixed_bops))
    return found


def highs(tables: Tables, limits: Limits, time_limit: float) -> PeerAnswer:
    """One-hot ILP, gap 0."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    started = time.perf_counter()
    sizes = [len(layer.options) for layer in tables.layers]
    count = sum(sizes)
    options = [option for layer in tables.layers for option in layer.options]
    layer_of = np.repeat(np.arange(len(sizes)), sizes)
    one_hot = csr_array((np.ones(count), (layer_of, np.arange(count))), shape=(len(sizes), count))
    constraints = [LinearConstraint(one_hot, 1, 1)]
    for field, most in budgets(tables, limits):
        row = np.array([getattr(option, field) for option in options], dtype=float)
        constraints.append(LinearConstraint(row[None, :], -np.inf, most))
    result = milp(
        np.array([option.error for option in options]),
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"time_limit": time_limit, "mip_rel_gap": 0.0},
    )
    seconds = time.perf_counter() - started
    if result.x is None:
        return PeerAnswer(seconds, None, None)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    choice = [int(result.x[a:b].argmax()) for a, b in pairwise(starts)]
    return PeerAnswer(seconds, choice, float(result.mip_gap))


def cbc(tables: Tables, limits: Limits, time_limit: float) -> PeerAnswer:
    """The same ILP through PuLP and CBC."""
    import pulp

    started = time.perf_counter()
    problem = pulp.LpProblem("bits", pulp.LpMinimize)
    variables = [
        [pulp.LpVariable(f"x_{i}_{j}", cat="Binary") for j in range(len(layer.options))]
        for i, layer in enumerate(tables.layers)
    ]
    pairs = [(x, o) for row, layer in zip(variables, tables.layers, strict=True)
             for x, o in zip(row, layer.options, strict=True)]  # fmt: skip
    problem += pulp.lpSum(x * o.error for x, o in pairs)
    for row in variables:
        problem += pulp.lpSum(row) == 1
    for field, most in budgets(tables, limits):
        problem += pulp.lpSum(x * getattr(o, field) for x, o in pairs) <= most
    problem.solve(pulp.PULP_CBC_CMD(msg=False, timeLimit=time_limit, gapRel=0.0, threads=2))
    seconds = time.perf_counter() - started
    if problem.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        return PeerAnswer(seconds, None, None)
    choice = [max(range(len(row)), key=lambda j: row[j].value() or 0.0) for row in variables]
    proven = 0.0 if problem.sol_status == pulp.LpSolutionOptimal else None
    return PeerAnswer(seconds, choice, proven)


def greedy(tables: Tables, limits: Limits, time_limit: float) -> PeerAnswer:
    """From the most precise plan, always the change that costs least error per unit of violation removed."""
    started = time.perf_counter()
    limited = budgets(tables, limits)
    sizes = [len(layer.options) for layer in tables.layers]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    layer_of = np.repeat(np.arange(len(sizes)), sizes)
    options = [option for layer in tables.layers for option in layer.options]
    error = np.array([option.error for option in options])
    uses = np.array([[float(getattr(option, field)) for option in options] for field, _ in limited])
    most = np.array([limit for _, limit in limited])
    chosen = np.array([a + int(error[a : a + n].argmin()) for a, n in zip(starts, sizes, strict=True)])
    while True:
        over = uses[:, chosen].sum(axis=1) - most
        if (over <= 0).all() or time.perf_counter() - started > time_limit:
            break
        now = chosen[layer_of]
        saved = np.minimum(over[:, None], uses[:, now] - uses) / most[:, None]
        saved = saved[over > 0].sum(axis=0)
        rate = np.where(saved > 0, (error - error[now]) / np.where(saved > 0, saved, 1.0), np.inf)
        best = int(rate.argmin())
        if not np.isfinite(rate[best]):
            return PeerAnswer(time.perf_counter() - started, None, None)
        chosen[layer_of[best]] = best
    return PeerAnswer(
        time.perf_counter() - started, [int(c - a) for c, a in zip(chosen, starts, strict=True)], None
    )


def error_and_fit(tables: Tables, limits: Limits, choice: list[int]) -> tuple[float, bool]:
    """Error of a choice and whether it meets the budgets exactly."""
    options = [layer.options[j] for layer, j in zip(tables.layers, choice, strict=True)]
    fits = all(sum(getattr(o, f) for o in options) <= most for f, most in budgets(tables, limits))
    return sum(o.error for o in options), fits
