"""What measured devices of a class say of a new one: a hierarchy over the parts of a latency.

A latency is modelled as a sum of parts that the descriptor prices,

    T = speed · wide · Σ_k factor_k · part_k

with a start, launches, dense, depthwise and few-row products, vector work, memory traffic of the products and one
crossing of all activations, each with a factor of its own with 8-bit and with wider activations, float among them
(``wide``: 16-bit integers, which run in the lanes of 16-bit floats).
The logarithm of a factor is the class's, about which the descriptor is the prior, plus the device's deviation from its
class; and each workload misses the model by an amount that all devices of the class share, since they run the same
converted network (a random effect; Gelman and Hill, 2007, chapters 12 and 14). All are Gaussian and, linearised, found
together by generalised least squares; a measurement far from all others counts less (Student's t, four degrees).

A new device needs a few measurements of its own; the rest comes from the others. ``reports/simulator/silicon.md``
says how well it does on networks that nobody of the class has measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwsim.simulate.calibration import FLOOR, NORMAL_90, Prediction, Workload
from hwsim.simulate.cost import machine_of
from hwsim.simulate.machine import Machine
from hwsim.simulate.pricing import PRODUCT_KINDS, operator_class
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.model.graph import Layer
    from hwsim.target.schema import Target

PARTS = ("start", "launch", "dense", "depthwise", "few_rows", "vector", "memory", "activations")
ENGINE_PARTS = slice(2, 6)  # these share what the descriptor says wrongly of the device's compute
COUNT = 2 * len(PARTS)  # 8-bit activations, then wider ones
OWN_SPREAD = 0.3  # of a class's factor about the descriptor's, in logarithms
WIDE_SPREAD, DEVICE_WIDE_SPREAD = 0.5, 0.2
DEVICE_SPREAD, SPEED_SPREAD = 0.25, 1.5  # of a device about its class
WORKLOAD_SPREAD = 0.1  # of a workload about the model, shared by the class
UNSEEN_SPREAD = 0.2  # the same for a network that nobody has measured: the model cannot have adapted to it
DEGREES = 4.0
ROUNDS, LONGEST_STEP, SMALL_STEP, LIMIT = 50, 0.7, 5e-3, 8.0

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Trust:
    """How far a class's descriptor may be off (spread of the logarithm of a part), and the noise of one row.

    ``speed`` is how far a device may be off as a whole: little where its peak and bandwidths are known. ``workload`` is
    how far a workload may be off the model on all devices of the class alike.
    """

    scale: float
    noise: float
    speed: float = SPEED_SPREAD
    workload: float = WORKLOAD_SPREAD


@dataclass(frozen=True)
class Parts:
    """Seconds of each part of one workload as the descriptor prices them: 8-bit, then wider activations."""

    name: str
    seconds: Vector
    is_wide: bool


@dataclass(frozen=True)
class Measured:
    """One row: a device's latency of a workload, in seconds."""

    device: str
    parts: Parts
    seconds: float


def parts_of(
    layers: "Sequence[Layer]", scheme: Scheme, target: "Target | Machine", workload: Workload
) -> Parts:
    """Split a priced workload into its parts."""
    machine = machine_of(target)
    products = [layer for layer in layers if layer.kind in PRODUCT_KINDS]
    few = np.array([layer.m == 1 and layer.kind == "linear" for layer in products])
    depthwise = np.array([operator_class(layer) == "depthwise" for layer in products])
    compute = workload.compute[: len(products)]
    bits = machine.stored_bits(scheme.act_bits) if scheme.act_bits is not None else machine.float_bits
    moved = sum(math.prod(layer.input_shapes[0]) + layer.elements for layer in products) * bits / 8
    main = [level for level in machine.levels if level.holds_activations][-1]
    seconds = np.array(
        [
            max(FLOOR, machine.invocation_cycles / machine.clock_hz),
            max(FLOOR, machine.launch_cycles / machine.clock_hz) * workload.launches,
            compute[~few & ~depthwise].sum(),
            compute[depthwise].sum(),
            compute[few].sum(),
            workload.compute[len(products) :].sum(),
            workload.memory[: len(products)].sum(),
            moved / main.bytes_per_cycle / machine.clock_hz,
        ]
    )
    both = np.zeros(COUNT)
    half = slice(len(PARTS), COUNT) if scheme.is_float or workload.is_wide else slice(0, len(PARTS))
    both[half] = seconds
    return Parts(workload.name, both, workload.is_wide)


@dataclass(frozen=True)
class ClassModel:
    """A class and its devices: logarithms of the factors, and what predictions need beside them.

    ``misses`` are what each row misses the model by, weighed by the inverse covariance of all rows.
    """

    common: Vector
    devices: dict[str, Vector]
    rows: tuple[Measured, ...]
    slopes: NDArray[np.float64]
    covariance: NDArray[np.float64]
    misses: Vector
    trust: Trust

    def predict(self, device: str, parts: Parts) -> Prediction:
        """Latency of a workload on a device that has at least one row, with its 90 % interval.

        By how much a workload misses the model is known in part where other devices have run it.
        """
        logarithm, slope = _latency(self.common + self.devices[device], parts)
        between, within = _common_prior(self.trust), _device_prior(self.trust)
        own = np.array([row.device == device for row in self.rows])
        effect = self.trust.workload**2 * np.array([row.parts.name == parts.name for row in self.rows])
        known = self.slopes @ (between @ slope) + own * (self.slopes @ (within @ slope)) + effect
        unknown = self.trust.workload if effect.any() else max(UNSEEN_SPREAD, self.trust.workload)
        left = (
            slope @ (between + within) @ slope + unknown**2 - known @ np.linalg.solve(self.covariance, known)
        )
        factor = math.exp(NORMAL_90 * math.sqrt(max(0.0, float(left))))
        seconds = math.exp(logarithm + float(effect @ self.misses))
        return Prediction(seconds, seconds / factor, seconds * factor)


def learn(rows: Sequence[Measured], trust: Trust) -> ClassModel:
    """Factors of a class and of each of its devices from all their measurements."""
    names = list(dict.fromkeys(row.device for row in rows))
    position = np.array([names.index(row.device) for row in rows])
    same_device = (position[:, None] == position).astype(float)
    loads = [row.parts.name for row in rows]
    same_load = np.array([[a == b for a in loads] for b in loads], float)
    wanted = np.log([row.seconds for row in rows])
    between, within = _common_prior(trust), _device_prior(trust)
    common, own = np.zeros(COUNT + 2), np.zeros((len(names), COUNT + 2))
    for index, name in enumerate(names):
        mine = [row for row in rows if row.device == name]
        own[index, -1] = np.median([math.log(row.seconds) - _latency(common, row.parts)[0] for row in mine])
    weights = np.ones(len(rows))
    slopes, covariance = np.zeros((len(rows), COUNT + 2)), np.eye(len(rows))
    solved = np.zeros(len(rows))
    for _ in range(ROUNDS):
        found = [_latency(common + own[i], row.parts) for i, row in zip(position, rows, strict=True)]
        logarithms, slopes = np.array([f for f, _ in found]), np.array([s for _, s in found])
        covariance = slopes @ between @ slopes.T + same_device * (slopes @ within @ slopes.T)
        covariance += trust.workload**2 * same_load + np.diag(trust.noise**2 * weights)
        linear = wanted - logarithms + slopes @ common + (slopes * own[position]).sum(1)
        solved = np.linalg.solve(covariance, linear)
        step = between @ (slopes.T @ solved) - common
        own_step = np.array(
            [within @ (slopes[position == i].T @ solved[position == i]) for i in range(len(names))]
        )
        own_step -= own
        misses = trust.noise**2 * weights * solved  # what is left for the noise of each row
        weights = 1 + (misses / trust.noise) ** 2 / DEGREES
        largest = max(float(np.abs(step).max()), float(np.abs(own_step).max()))
        damping = min(1.0, LONGEST_STEP / max(largest, FLOOR))
        common, own = common + damping * step, own + damping * own_step
        if largest < SMALL_STEP:
            break
    devices = dict(zip(names, own, strict=True))
    return ClassModel(common, devices, tuple(rows), slopes, covariance, solved, trust)


def _latency(logs: Vector, parts: Parts) -> tuple[float, Vector]:
    """Logarithm of the latency, and its derivative by each logarithm."""
    terms = np.exp(np.clip(logs[:COUNT], -LIMIT, LIMIT)) * parts.seconds
    total = float(terms.sum())
    wide = float(parts.is_wide)
    slope = np.concatenate([terms / total, [wide, 1.0]])
    return math.log(total) + wide * float(logs[-2]) + float(logs[-1]), slope


def _common_prior(trust: Trust) -> NDArray[np.float64]:
    """Covariance of the class's logarithms about the descriptor: engines err together; the speed is the device's."""
    diagonal = np.full(COUNT + 2, OWN_SPREAD**2 + trust.scale**2)
    diagonal[-2:] = WIDE_SPREAD**2, 0.0
    covariance = np.diag(diagonal)
    for first in (0, len(PARTS)):
        engines = slice(first + ENGINE_PARTS.start, first + ENGINE_PARTS.stop)
        covariance[engines, engines] = trust.scale**2 + np.diag(np.full(4, OWN_SPREAD**2))
    return covariance


def _device_prior(trust: Trust) -> NDArray[np.float64]:
    """Covariance of a device's logarithms about its class."""
    diagonal = np.full(COUNT + 2, DEVICE_SPREAD**2)
    diagonal[-2:] = DEVICE_WIDE_SPREAD**2, trust.speed**2
    return np.diag(diagonal)
