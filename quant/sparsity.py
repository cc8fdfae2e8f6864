"""Which groups (output rows or input columns) a sparse expansion keeps in its later orders.

PIPE/REx keep the output rows with the largest residual; input columns ranked by `|R_j|^2 E[x_j^2]` are better
where second moments of the inputs are known. A group that an order skips keeps its residual and may be taken
by a later order, so masks need not be nested: what counts for the error is how many terms a group received.
Schedules say how a total budget (in dense orders) is spread over the orders 2..K.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quant.errors import QuantError
from quant.scheme import Scheme

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.floating]


def without_idle_axis(scheme: Scheme) -> Scheme:
    """The scheme, by rows where its orders keep every column or none: then no column is ranked.

    So a share of 0 is order 1 to the last bit on either axis.
    """
    if scheme.axis == "rows":
        return scheme
    if scheme.binary_last:
        raise QuantError(f"scheme {scheme}: a binary last term keeps rows, not columns")
    return replace(scheme, axis="rows") if set(scheme.kept) <= {0, 100} else scheme


def kept_count(share: float, groups: int) -> int:
    """Groups that an order keeps: a share of 0 keeps none, any other share at least one."""
    return min(groups, math.ceil(share * groups - 1e-9))


def terms_per_group(energy: FloatArray, shares: Sequence[float]) -> IntArray:
    """Number of terms that every group receives.

    Args:
        energy: `energy[n - 1, i]` is the residual energy of group i after n terms; at least as many rows as
            there are orders minus one.
        shares: fraction of the groups that each order covers; the first is 1.

    Each order takes the groups with the largest residual at that moment; ties go to the lower index.
    """
    return term_counts_by_order(energy, shares)[-1]


def term_counts_by_order(energy: FloatArray, shares: Sequence[float]) -> list[IntArray]:
    """Terms per group after each order; the groups that grew between two entries are those an order keeps."""
    groups = energy.shape[1]
    counts = np.ones(groups, dtype=np.int64)
    history = [counts]
    for share in shares[1:]:
        kept = kept_count(share, groups)
        counts = counts.copy()
        if kept == groups:
            counts += 1
        elif kept:
            counts[largest(energy[counts - 1, np.arange(groups)], kept)] += 1
        history.append(counts)
    return history


def column_counts_by_order(energy: FloatArray, shares: Sequence[float]) -> list[IntArray]:
    """`term_counts_by_order` for input columns, which share the scales of the rows.

    One term has one scale per row, so an order keeps only columns that stand at the same number of terms: it
    takes the level at which its share of columns has the most energy, and may keep fewer than its share.
    """
    groups = energy.shape[1]
    counts = np.ones(groups, dtype=np.int64)
    history = [counts]
    for share in shares[1:]:
        kept = kept_count(share, groups)
        best: IntArray = np.empty(0, dtype=np.int64)
        gain = -1.0
        for level in np.unique(counts):
            members = np.flatnonzero(counts == level)
            taken = members[largest(energy[level - 1, members], kept)]
            if float(energy[level - 1, taken].sum()) > gain:
                best, gain = taken, float(energy[level - 1, taken].sum())
        counts = counts.copy()
        counts[best] += 1
        history.append(counts)
    return history


def largest(score: FloatArray, count: int) -> IntArray:
    """Indices of the `count` largest scores; ties go to the lower index."""
    return np.argsort(-score, kind="stable")[:count]


def constant_schedule(budget: float, order: int) -> tuple[int, ...]:
    """The same percentage in every later order; `budget` counts dense orders beyond the first."""
    return geometric_schedule(budget, order, ratio=1.0)


def geometric_schedule(budget: float, order: int, ratio: float = 0.5) -> tuple[int, ...]:
    """Percentages that fall by `ratio` from order to order, none above 100, their sum `100 * budget`.

    What a saturated order cannot take goes to the following ones in the same proportion.
    """
    later = order - 1
    if later < 0 or not 0 <= budget <= later + 1e-9:
        raise QuantError(
            f"sparsity budget {budget:g}: order {order} can hold 0 to {max(later, 0)} dense orders"
        )
    if not 0 < ratio <= 1:
        raise QuantError(f"sparsity ratio {ratio:g}: use a value in (0, 1]")
    shares: list[float] = []
    left = float(budget)
    for position in range(later):
        weights = [ratio**step for step in range(later - position)]
        shares.append(min(1.0, left / sum(weights)))
        left -= shares[-1]
    return _whole_percents(shares, budget)


def _whole_percents(shares: Sequence[float], budget: float) -> tuple[int, ...]:
    """Round shares to percentages whose sum never exceeds the budget."""
    percents = [math.floor(100 * share + 1e-9) for share in shares]
    spare = math.floor(100 * budget + 1e-9) - sum(percents)
    by_loss = sorted(range(len(shares)), key=lambda k: (percents[k] - 100 * shares[k], k))
    for k in by_loss[: max(spare, 0)]:
        percents[k] = min(100, percents[k] + 1)
    return tuple(percents)


def greedy_schedule(energy: FloatArray, budget: float, order: int) -> tuple[int, ...]:
    """Percentages that spend the budget on the largest gains in error first (methods.md 9.1).

    Buying the (n+1)-th term of group i gains `energy[n - 1, i] - energy[n, i]`. The residual falls
    geometrically, so gains fall with n and picking the largest gains respects the order of the terms.
    The k-th later order must then cover the groups that receive more than k terms.
    """
    groups = energy.shape[1]
    later = order - 1
    if later < 1 or not 0 <= budget <= later + 1e-9:
        raise QuantError(
            f"sparsity budget {budget:g}: order {order} can hold 0 to {max(later, 0)} dense orders"
        )
    gains = np.minimum.accumulate(energy[:later] - energy[1:order], axis=0)
    bought = np.zeros(later * groups, dtype=bool)
    bought[largest(gains.ravel(), math.floor(budget * groups + 1e-9))] = True
    covered = bought.reshape(later, groups).sum(axis=1)
    return tuple(math.floor(100 * count / groups + 1e-9) for count in covered)
