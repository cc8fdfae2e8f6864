"""From a bare machine to a descriptor: best rates by dedicated kernels, everything else fitted to synthetic networks.

Measured directly: peak, rate of each width, bandwidth of each memory, and what of main memory's transfers does not hide
behind compute. Fitted by `hwsim.measure.fit` so that the
simulator meets the layers of the synthetic networks, each in its fastest round (what other programs take from the
machine is not its property): efficiency, cost of an output and of an input element of each
engine, throughput of each kind of vector work, launch. Energies are not measured; what the schema assumes stands.
"""

import math
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwsim.measure.device import ArtifactTimes, Device, Local, Sample, caches, clock_hz
from hwsim.measure.fit import Fit, fit_fields
from hwsim.measure.layers import Group, grouped, predicted

if TYPE_CHECKING:
    from hwsim.model.graph import LayerGraph
    from hwsim.target.schema import Target

NETWORKS = Path(__file__).with_name("networks.py")
FACTORIES = ("conv_net", "token_net")
ASSUMED_CACHES = [("l1", 32 << 10, False), ("l2", 512 << 10, False)]
MAIN_BYTES = 96 << 20
SCHEME = "w8a8"
NETWORK_ROUNDS = 12
UNFITTED = frozenset({"add", "mul", "activation"})  # alone they tell nothing of their cost when fused
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """What the dedicated kernels found, by the descriptor's dotted path, and the fields they make."""

    document: dict[str, Any]
    samples: dict[str, tuple[float, Sample]]


@dataclass(frozen=True)
class Calibrated:
    """The descriptor, and how the simulator on it meets the synthetic layers."""

    target: "Target"
    groups: dict[str, list[Group]]
    predictions: dict[str, list[float]]
    fit: Fit

    def remarks(self) -> list[str]:
        """How far the synthetic layers are met, a line each."""
        errors = [
            abs(seconds / group.measured - 1)
            for name, groups in self.groups.items()
            for group, seconds in zip(groups, self.predictions[name], strict=True)
        ]
        inside = sum(error <= 0.25 for error in errors) / len(errors)
        return [
            f"Fitted to {len(errors)} synthetic layers: median difference {100 * statistics.median(errors):.1f} %, "
            f"{100 * inside:.0f} % within 25 %.",
            "Energies are not measured; the schema's assumptions stand.",
        ]


def calibrate_machine(
    device: Device, name: str, threads: int = 1, progress: Progress | None = None
) -> Calibrated:
    """Measure, fit, and return the descriptor."""
    say = progress or (lambda text: None)
    say("peak rates and bandwidths")
    measured = measure_machine(device, name, threads)
    times: dict[str, ArtifactTimes] = {}
    graphs: dict[str, LayerGraph] = {}
    for factory in FACTORIES:
        say(f"compiling {factory}")
        with tempfile.TemporaryDirectory() as scratch:
            graphs[factory] = compile_network(f"{NETWORKS}:{factory}", Path(scratch), device, threads)
            say(f"timing {factory}")
            times[factory] = device.artifact(Path(scratch), NETWORK_ROUNDS)
    say("fitting")
    return fit_descriptor(measured, graphs, times, device.name)


def compile_network(model: str, directory: Path, device: Device, threads: int) -> "LayerGraph":
    """An artifact of the model in 8 bits; returns its layer graph."""
    import logging

    from hwsim.stages.compile import CompileRequest, run_compile

    logging.getLogger("hwsim").setLevel(logging.ERROR)  # random weights are what is wanted here
    isa = "host" if isinstance(device, Local) and threads > 1 else device.isa.name
    run_compile(CompileRequest(directory, isa=isa, threads=threads, scheme=SCHEME, model=model, samples=2))
    from hwsim.model.load import load_model

    return load_model(model, device="meta").graph


def measure_machine(device: Device, name: str, threads: int = 1) -> Measured:
    """Rates and bandwidths, and a descriptor whose other fields are first guesses."""
    from hwsim.compile.tiles import TILE_BYTES, TILE_ROWS
    from hwsim.measure.machine import Peak, TilePeak, exposed_share, peak_rate, product_rate, read_bandwidth

    samples: dict[str, tuple[float, Sample]] = {}
    isa = device.isa
    peak, sample = peak_rate(device)
    clock = _clock(peak, isa.lanes * isa.depth, clock_hz() if isinstance(device, Local) else 1e9)
    depth, rows = isa.depth, 1
    if isa.tiles:
        peak, sample = peak_rate(device, TilePeak())
        depth, rows = TILE_BYTES, TILE_ROWS
    best, _ = product_rate(device, 8, 8)
    narrow = {bits: product_rate(device, bits, 8)[0] for bits in (4, 2)}
    rates = {"w8a8": peak / clock}
    samples["engines.0.macs_per_cycle.w8a8"] = (peak / clock, _scaled(sample, peak / clock))
    for width, weight_bits, act_bits in (("w8a16", 8, 16),):
        rate, sample = product_rate(device, weight_bits, act_bits)
        # Widths of one engine share its efficiency, so the peak of this one is what a product would reach without it.
        rates[width] = rate / clock / (best / peak)
        samples[f"engines.0.macs_per_cycle.{width}"] = (rates[width], _scaled(sample, rates[width]))
    floats, _ = product_rate(device, None, 32)
    float_peak, sample = peak_rate(device, Peak(floating=True))
    samples["float_fallback.macs_per_cycle"] = (float_peak / clock, _scaled(sample, float_peak / clock))
    memories: list[dict[str, Any]] = []
    levels = (caches() if isinstance(device, Local) else []) or ASSUMED_CACHES
    for index, (level, size, shared) in enumerate([*levels, ("main", MAIN_BYTES * 2, True)]):
        bandwidth, sample = read_bandwidth(device, size // 2)
        samples[f"memories.{index}.bandwidth"] = (bandwidth, _scaled(sample, bandwidth))
        entry = {"name": level, "bandwidth": bandwidth, "shared": shared, "efficiency": 1.0}
        memories.append(entry | ({"bytes": size} if level != "main" else {"kind": "dram"}))
    for inner, outer in pairwise(memories):  # a cache is never slower than what is behind it
        inner["bandwidth"] = max(inner["bandwidth"], outer["bandwidth"])
    share, _ = exposed_share(device, MAIN_BYTES, memories[-1]["bandwidth"], best)
    memories[-1]["exposed"] = round(share, 3)
    packed = {"packed_weight_bits": [2, 4], "unpack_overhead": max(0.0, best / max(narrow.values()) - 1)}
    tile = {"m": rows, "n": isa.lanes, "k": depth}
    linear = _engine("linear", ["linear"], rates, tile, best / peak) | packed
    convolution = _engine("convolution", ["conv2d"], rates, tile, best / peak) | packed
    attention = _engine("attention", ["matmul"], {"w8a8": rates["w8a8"]}, tile, best / peak)
    alone = {"m": 1, "n": isa.lanes, "k": 1}
    depthwise = _engine("depthwise", ["depthwise"], {"w8a8": isa.lanes * 1.0}, alone, 0.5)
    vector = {
        "norm": 1,
        "softmax": 0.5,
        "activation": 8,
        "smooth": 1,
        "add": 8,
        "mul": 8,
        "pool": 2,
        "other": 2,
        "default": 2,
    }
    document = {
        "schema_version": 1, "name": name, "class": "server_cpu" if "x86" in isa.name else "mobile_cpu",
        "description": f"{device.name}, {threads} thread{'s' * (threads > 1)}, this program's own kernels; calibrated",
        "clock_hz": clock, "units": {"count": threads, "name": "core"},
        "engines": [linear, convolution, attention, depthwise],
        "vector": {"bits": 32, "elements_per_cycle": vector, "row_cycles": {"norm": 60, "softmax": 60}},
        "float_fallback": {
            "macs_per_cycle": float_peak / clock, "bits": 32, "efficiency": min(1.0, floats / float_peak)
        },
        "memories": memories, "launch": {"per_layer": {"seconds": 1e-6}, "per_inference": {"seconds": 5e-6}},
        "software": {"stack": "hwsim kernels", "efficiency": min(1.0, best / peak)},
        "tvm": {"target": isa.target_dict()},
    }  # fmt: skip
    return Measured(document, samples)


def _engine(
    name: str, serves: list[str], rates: dict[str, float], tile: dict[str, int], efficiency: float
) -> dict[str, Any]:
    return {
        "name": name, "kind": "simd", "serves": serves, "macs_per_cycle": rates,
        "tile": tile, "pads_window": True, "efficiency": min(1.0, efficiency),
        "output_cycles": 0.3, "input_cycles": 0.3,
    }  # fmt: skip


def _clock(peak: float, macs: int, nominal: float) -> float:
    """The clock at which the peak is a whole number of instructions a cycle, not below the nominal one."""
    issued = max(1, math.floor(peak / macs / nominal))
    return float(round(peak / macs / issued, -6))


def _scaled(sample: Sample, value: float) -> Sample:
    """Seconds of a kernel turned into the field that was computed from their median."""
    return Sample(
        value, value * sample.median / sample.high, value * sample.median / sample.low, sample.rounds
    )


def fit_descriptor(
    measured: Measured, graphs: "Mapping[str, LayerGraph]", times: Mapping[str, ArtifactTimes], machine: str
) -> Calibrated:
    """Fit the fields that no dedicated kernel measures, and write the calibration's own record."""
    from hwsim.simulate.cycle import simulate_scheme
    from hwsim.target.schema import Target
    from quant.scheme import Scheme

    target = Target.model_validate(measured.document)
    groups = {
        name: grouped(graph.layers, {layer: sample.low for layer, sample in times[name].layers.items()})
        for name, graph in graphs.items()
    }
    scheme = Scheme.parse(SCHEME)

    def predict(candidate: "Target") -> list[float]:
        return [
            seconds
            for name, graph in graphs.items()
            for group, seconds in zip(
                groups[name], predicted(groups[name], simulate_scheme(graph, scheme, candidate)), strict=True
            )
            if group.kind not in UNFITTED
        ]

    seconds = [g.measured for found in groups.values() for g in found if g.kind not in UNFITTED]
    fit = fit_fields(target, guesses(target, graphs), predict, seconds, ceilings=CEILINGS)
    target = fit.target.replace({"launch.per_inference.seconds": _whole_minus_parts(times)})
    predictions = {
        name: predicted(groups[name], simulate_scheme(graph, scheme, target))
        for name, graph in graphs.items()
    }
    record = {
        "machine": machine,
        "points": len(seconds),
        "log_spread": round(fit.log_spread, 4),
        "measured": {
            path: {"median": value, "low": sample.low, "high": sample.high, "rounds": sample.rounds}
            for path, (value, sample) in measured.samples.items()
        }
        | {path: _fitted(target, path, deviation) for path, deviation in fit.deviations.items()},
        "versions": _versions(),
    }
    return Calibrated(target.replace({"calibration": record}), groups, predictions, fit)


CEILINGS = {f"engines.{index}.efficiency": 1.0 for index in range(4)}


def guesses(target: "Target", graphs: "Mapping[str, LayerGraph]") -> dict[str, float]:
    """The fields to fit, with their first guesses: only what the networks exercise."""
    document = target.document()
    found: dict[str, float] = {"launch.per_layer.seconds": 1e-6}
    for index, engine in enumerate(document["engines"]):
        for name in ("efficiency", "output_cycles", "input_cycles"):
            found[f"engines.{index}.{name}"] = float(engine[name])
    kinds = {layer.kind for graph in graphs.values() for layer in graph.layers}
    for kind, rate in document["vector"]["elements_per_cycle"].items():
        if kind in kinds or (kind == "smooth" and "activation" in kinds):
            found[f"vector.elements_per_cycle.{kind}"] = float(rate)
    found |= {f"vector.row_cycles.{kind}": float(n) for kind, n in document["vector"]["row_cycles"].items()}
    last = len(document["memories"]) - 2  # the cache that holds the networks: a stream through it, found cold
    if last >= 0:
        found[f"memories.{last}.bandwidth"] = float(document["memories"][last]["bandwidth"])
    return found


def _whole_minus_parts(times: Mapping[str, ArtifactTimes]) -> float:
    """What an inference takes beside its layers."""
    left = [t.total.median - sum(s.median for s in t.layers.values()) for t in times.values()]
    return max(1e-7, float(np.mean(left)))


def _fitted(target: "Target", path: str, deviation: float) -> dict[str, float | int]:
    """A fitted field with the interval of one standard deviation."""
    place: Any = target.document()
    for part in path.split("."):
        place = place[int(part)] if isinstance(place, list) else place[part]
    value = float(place)
    spread = math.exp(min(deviation, 3.0))
    return {"median": value, "low": value / spread, "high": value * spread, "rounds": 1}


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("hwsim", "apache-tvm", "apache-tvm-ffi", "numpy")}
