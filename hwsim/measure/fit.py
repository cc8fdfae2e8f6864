"""Descriptor fields from measured layers: damped Gauss-Newton on logarithms, with the first guess as prior.

    minimise  Σ_layers (ln predicted − ln measured)² / noise²  +  Σ_fields (ln value − ln guess)² / spread²

Predictions are the simulator's own, so what is fitted is what will be used. A layer that takes as long as a timer
tick says little: its noise grows as the tick's share of it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hwsim.target.schema import Target

NOISE = 0.05
TICK = 0.4e-6
SPREAD = 1.0
STEPS = 12
PROBE = 0.02  # relative change of a field for its derivative

Predict = Callable[["Target"], Sequence[float]]


@dataclass(frozen=True)
class Fit:
    """The fitted descriptor, standard deviation of each field's logarithm, ln(measured / predicted) of each layer."""

    target: "Target"
    deviations: dict[str, float]
    misses: NDArray[np.float64]

    @property
    def log_spread(self) -> float:
        """Root mean square of the misses."""
        return float(np.sqrt(np.mean(self.misses**2)))


def fit_fields(
    target: "Target",
    guesses: Mapping[str, float],
    predict: Predict,
    measured: Sequence[float],
    *,
    ceilings: Mapping[str, float] | None = None,
) -> Fit:
    """Adjust the fields named by dotted paths so that ``predict`` meets the measured seconds."""
    names = list(guesses)
    start = np.array([math.log(guesses[name]) for name in names])
    tops = np.array([math.log((ceilings or {}).get(name, math.inf)) for name in names])
    wanted = np.log(np.array(measured))
    noise = np.sqrt(NOISE**2 + (TICK / np.array(measured)) ** 2)

    def changed(logs: NDArray[np.float64]) -> "Target":
        return target.replace({name: math.exp(x) for name, x in zip(names, logs, strict=True)})

    def misses(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        return wanted - np.log(np.maximum(np.array(predict(changed(logs))), 1e-12))

    def loss(logs: NDArray[np.float64], missed: NDArray[np.float64]) -> float:
        return float(np.sum(_bounded(missed / noise)) + np.sum(((logs - start) / SPREAD) ** 2))

    logs, missed = start.copy(), misses(start)
    best, hessian = loss(logs, missed), np.eye(len(names))
    for _ in range(STEPS):
        jacobian = np.array([(misses(_lower(logs, i)) - missed) / PROBE for i in range(len(names))]).T
        weights = 1 / (1 + np.abs(missed / noise) / 3) / noise**2  # a layer far off pulls less
        hessian = jacobian.T @ (jacobian * weights[:, None]) + np.eye(len(names)) / SPREAD**2
        slope = jacobian.T @ (missed * weights) - (logs - start) / SPREAD**2
        step, scale, gained = np.linalg.solve(hessian, slope), 1.0, 0.0
        while scale > 1e-3:
            tried = np.minimum(logs + scale * step, tops)
            found = misses(tried)
            if loss(tried, found) < best:
                gained = best - loss(tried, found)
                logs, missed, best = tried, found, loss(tried, found)
                break
            scale /= 2
        if gained < 1e-3 * best:
            break
    deviations = np.sqrt(np.diag(np.linalg.inv(hessian)))
    return Fit(changed(logs), dict(zip(names, deviations.tolist(), strict=True)), missed)


def _lower(logs: NDArray[np.float64], index: int) -> NDArray[np.float64]:
    """One field made smaller: downwards no ceiling is in the way."""
    moved = logs.copy()
    moved[index] -= PROBE
    return moved


def _bounded(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squares near zero, growing like lines beyond three deviations (Huber-like, smooth)."""
    return 9 * 2 * (np.abs(errors) / 3 - np.log1p(np.abs(errors) / 3))
