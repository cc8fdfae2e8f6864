"""Latency with an interval: the descriptor's prediction as a prior, a few measurements as evidence.

A network's latency is modelled as

    T = speed · (start + launch · operators + Σ_layers max(compute factor · compute, memory factor · memory))

with compute and memory times of each layer from cost mode. The eight parameters (speed, start, launch, and factors
on compute, memory, float compute, 16-bit compute and vector work) are log-normal around the descriptor's values;
measured points update them (maximum a posteriori, Gauss-Newton), and what they leave open widens the interval
(Laplace). With no point this is the zero-shot prediction. The software stack enters through the descriptor's
``software.efficiency``, which the compute factor corrects. How well it does: ``reports/simulator/silicon.md``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwsim.errors import UserError
from hwsim.simulate.cost import OptionCost, layer_costs, machine_of
from hwsim.simulate.launches import starts_of
from hwsim.simulate.machine import Machine
from hwsim.simulate.placement import peak_live_elements, place
from hwsim.simulate.pricing import PRODUCT_KINDS
from hwsim.simulate.stored_weights import NetworkWeights
from hwsim.simulate.vector import vector_costs
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.model.graph import Layer
    from hwsim.target.schema import Target

PARAMETERS = ("start", "launch", "compute", "memory", "float", "wide", "vector", "speed")
# Standard deviations of the logarithms before any measurement: descriptors know peaks and bandwidths better than the
# start of an inference and the float path.
PRIOR_SPREAD = np.array([1.25, 0.5, 0.3, 0.3, 0.75, 0.3, 0.3, 0.35])
RELATIVE_SPEED = 1.5  # for a relative of the described device
MODEL_SPREAD = 0.42  # what the form of the model misses before a device has shown how well it fits
SPREAD_POINTS = 6  # how many measurements that guess is worth
FIT_SPREAD = 0.1  # how closely the fit follows the points
NORMAL_90 = 1.6449
STEPS = 60
FLOOR = 1e-9


@dataclass(frozen=True)
class Workload:
    """One network in one scheme on one device: seconds of compute and memory of each layer, and launches.

    Setting up the operators of contexts that take turns counts as so many launches.

    ``vector`` marks the layers that are no products.
    """

    name: str
    compute: NDArray[np.float64]
    memory: NDArray[np.float64]
    launches: float
    is_float: bool
    is_wide: bool
    vector: NDArray[np.bool_]


class Point(NamedTuple):
    """A latency that the calibration is to meet, in seconds, and how closely (spread of its logarithm)."""

    workload: Workload
    seconds: float
    spread: float = FIT_SPREAD


@dataclass(frozen=True)
class Prediction:
    """Seconds, and the ends of the 90 % interval."""

    seconds: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """Logarithms of the parameters and their covariance."""

    logs: NDArray[np.float64]
    covariance: NDArray[np.float64]
    points: int
    spread: float = MODEL_SPREAD

    def predict(self, workload: Workload) -> Prediction:
        """Latency of a workload on the calibrated device."""
        gradient = _gradient(self.logs, workload)
        spread = math.sqrt(self.spread**2 + float(gradient @ self.covariance @ gradient))
        seconds = math.exp(_log_latency(self.logs, workload))
        factor = math.exp(NORMAL_90 * spread)
        return Prediction(seconds, seconds / factor, seconds * factor)

    def parameters(self) -> dict[str, float]:
        """Start and launch in seconds, the factors as they are."""
        return {name: math.exp(value) for name, value in zip(PARAMETERS, self.logs, strict=True)}


def workload_of(
    layers: "Sequence[Layer]", scheme: Scheme, target: "Target | Machine", name: str = ""
) -> Workload:
    """Compute and memory time of each layer by cost mode, each product in its fastest engine and way.

    The barrier behind a layer that is split counts as part of the next one's launch, so it decides nothing here: a
    faster clock would choose fewer units for its sake, and the sum would grow.
    """
    machine = replace(machine_of(target), sync_cycles=0.0)
    products = [layer for layer in layers if layer.kind in PRODUCT_KINDS]
    choices = [[scheme, Scheme(None, None)] for _ in products]
    compute: list[float] = []
    memory: list[float] = []
    for choice, options in zip(
        choices, layer_costs(products, choices, machine, graph_layers=layers), strict=True
    ):
        wanted = [option for option in options if option.scheme == choice[0]] or options
        if not wanted:
            raise UserError(
                f"{name or 'network'}: no engine of {machine.name} runs its products in {scheme} or in floats; "
                "take a narrower scheme"
            )
        best = min(wanted, key=_summed)
        compute.append(best.compute_cycles)
        memory.append(best.memory_cycles)
    act_bits, starts = scheme.act_bits or machine.float_bits, starts_of(layers, machine)
    weights = NetworkWeights.of(layers).bytes_in(scheme, machine)
    act_bytes = machine.stored_bits(act_bits) / 8
    live = peak_live_elements(layers) * act_bytes
    placement = place(machine, weights, live, starts.fit, starts.instruction_bytes)
    for cost in vector_costs(layers, machine, act_bits=act_bits, placement=placement):
        compute.append(cost.compute_cycles)
        memory.append(cost.traffic_bytes / machine.levels[cost.home].bytes_per_cycle)
    if (
        machine.link_bytes_per_cycle > 0
    ):  # the input and the output cross the link before and after all layers
        compute.append(0.0)
        memory.append(_ends_elements(layers) * act_bytes / machine.link_bytes_per_cycle)
    starting = sum(starts.cycles(layer, placement.swapped) for layer in layers)
    seconds = 1 / machine.clock_hz
    wide = scheme.act_bits is not None and scheme.act_bits > 8
    return Workload(
        name,
        np.array(compute) * seconds,
        np.array(memory) * seconds,
        starting / max(FLOOR * machine.clock_hz, machine.launch_cycles),
        scheme.is_float,
        wide,
        np.arange(len(compute)) >= len(products),
    )


def _summed(option: OptionCost) -> float:
    """What a way of running a layer adds to the sum: a faster clock never makes the least of them slower."""
    return max(option.compute_cycles, option.memory_cycles)


def _ends_elements(layers: "Sequence[Layer]") -> int:
    """Elements of the network's inputs and of its last layer."""
    inputs = {
        name: math.prod(shape)
        for layer in layers
        for name, shape in zip(layer.inputs, layer.input_shapes, strict=False)
        if name.startswith("input:")
    }
    return sum(inputs.values()) + (layers[-1].elements if layers else 0)


def prior(target: "Target | Machine", relative: bool = False) -> Calibration:
    """What the descriptor alone says; a ``relative`` of the described device may have another speed altogether."""
    machine = machine_of(target)
    start = max(FLOOR, (machine.invocation_cycles + 2 * machine.link_latency_cycles) / machine.clock_hz)
    launch = max(FLOOR, machine.launch_cycles / machine.clock_hz)
    logs = np.array([math.log(start), math.log(launch), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    spread = PRIOR_SPREAD.copy()
    if relative:
        spread[-1] = RELATIVE_SPEED
    return Calibration(logs, np.diag(spread**2), 0)


def calibrate(target: "Target | Machine", measured: Sequence[Point], relative: bool = False) -> Calibration:
    """Update the prior with measured latencies (seconds)."""
    before = prior(target, relative)
    if not measured:
        return before
    workloads = [point.workload for point in measured]
    wanted = np.array([math.log(point.seconds) for point in measured])
    spreads = np.array([point.spread for point in measured])
    found = _fit(before, workloads, wanted, spreads)
    misses = wanted - _log_latencies(found.logs, workloads)
    weights = (FIT_SPREAD / spreads) ** 2  # what is less sure says less of how well the model fits
    seen = SPREAD_POINTS * MODEL_SPREAD**2 + float(weights @ misses**2)
    spread = math.sqrt(seen / (SPREAD_POINTS + float(weights.sum())))
    return Calibration(found.logs, found.covariance, len(measured), spread)


def points_to_measure(
    target: "Target | Machine", workloads: Sequence[Workload], count: int, relative: bool = False
) -> list[int]:
    """Which workloads tell most of a device before any is measured: greedy D-optimal design on the prior.

    Each next one is that whose prediction is least certain given the ones before it (Fedorov, 1972).
    """
    before = prior(target, relative)
    gradients = [_gradient(before.logs, workload) for workload in workloads]
    information = np.linalg.inv(before.covariance)
    chosen: list[int] = []
    for _ in range(min(count, len(workloads))):
        covariance = np.linalg.inv(information)
        left = [index for index in range(len(workloads)) if index not in chosen]
        best = max(left, key=lambda index: float(gradients[index] @ covariance @ gradients[index]))
        chosen.append(best)
        information += np.outer(gradients[best], gradients[best]) / FIT_SPREAD**2
    return chosen


def _fit(
    before: Calibration,
    workloads: Sequence[Workload],
    wanted: NDArray[np.float64],
    spreads: NDArray[np.float64],
) -> Calibration:
    """Maximum a posteriori by damped Gauss-Newton."""
    precision = np.linalg.inv(before.covariance)
    logs = before.logs.copy()

    def objective(at: NDArray[np.float64]) -> float:
        misses = (wanted - _log_latencies(at, workloads)) / spreads
        away = at - before.logs
        return float(misses @ misses + away @ precision @ away)

    best = objective(logs)
    for _ in range(STEPS):
        jacobian = np.array([_gradient(logs, workload) for workload in workloads]) / spreads[:, None]
        misses = (wanted - _log_latencies(logs, workloads)) / spreads
        hessian = jacobian.T @ jacobian + precision
        step = np.linalg.solve(hessian, jacobian.T @ misses - precision @ (logs - before.logs))
        scale = 1.0
        while scale > 1e-4 and objective(logs + scale * step) > best:
            scale /= 2
        if scale <= 1e-4:
            break
        logs = logs + scale * step
        improved = objective(logs)
        if best - improved < 1e-10:
            break
        best = improved
    jacobian = np.array([_gradient(logs, workload) for workload in workloads]) / spreads[:, None]
    covariance = np.linalg.inv(jacobian.T @ jacobian + precision).astype(np.float64)
    return Calibration(logs, covariance, len(workloads))


def _log_latencies(logs: NDArray[np.float64], workloads: Sequence[Workload]) -> NDArray[np.float64]:
    return np.array([_log_latency(logs, workload) for workload in workloads])


def _log_latency(logs: NDArray[np.float64], workload: Workload) -> float:
    start, launch, *_ = np.exp(logs)
    computing, moving = _layer_times(logs, workload)
    return float(logs[-1]) + math.log(
        start + launch * workload.launches + float(np.maximum(computing, moving).sum())
    )


def _layer_times(
    logs: NDArray[np.float64], workload: Workload
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute and memory seconds of each layer with the factors applied."""
    _, _, compute, memory, in_float, wide, vector, _ = np.exp(logs)
    product = compute * (in_float if workload.is_float else 1.0) * (wide if workload.is_wide else 1.0)
    return workload.compute * np.where(workload.vector, vector, product), workload.memory * memory


def _gradient(logs: NDArray[np.float64], workload: Workload) -> NDArray[np.float64]:
    """Derivative of the logarithm of the latency by each logarithm."""
    start, launch, *_ = np.exp(logs)
    computing, moving = _layer_times(logs, workload)
    total = start + launch * workload.launches + float(np.maximum(computing, moving).sum())
    bound = computing >= moving
    products = float(computing[bound & ~workload.vector].sum())
    vectors = float(computing[bound & workload.vector].sum())
    parts = [
        start,
        launch * workload.launches,
        products,
        float(moving[~bound].sum()),
        products * workload.is_float,
        products * workload.is_wide,
        vectors,
        total,
    ]
    return np.array(parts) / total
