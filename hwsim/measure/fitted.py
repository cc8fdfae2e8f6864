"""A descriptor made to meet measured latencies of whole networks: ``hwsim target fit``.

A table of measurements has a line a network: its name, its scheme and the latency of one inference. The parameters that
they leave open stay near the descriptor (:mod:`hwsim.simulate.calibration`). Where the table also has other devices of
the same class, the class is learned from all of them (:mod:`hwsim.simulate.class_prior`), and what it expects of the
networks that this device has not run counts as further points, each the less the less certain it is.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from hwsim.errors import UserError
from hwsim.simulate.calibration import (
    FIT_SPREAD,
    FLOOR,
    NORMAL_90,
    Calibration,
    Point,
    Workload,
    calibrate,
    prior,
    workload_of,
)
from hwsim.simulate.class_prior import Measured, Parts, Trust, learn, parts_of
from hwsim.simulate.graph_source import layer_graph
from hwsim.target.parts import VECTOR_KINDS
from hwsim.target.quantities import parse_width_pair
from hwsim.target.schema import Target
from hwsim.units import parse_quantity
from quant.errors import QuantError
from quant.scheme import Scheme

COLUMNS = ("network", "scheme", "latency")
TRUST = Trust(0.5, 0.1)  # of a descriptor of the same class; one measurement is repeatable to a tenth


@dataclass(frozen=True)
class Row:
    """One line of the table: a network's latency on a device, in seconds."""

    device: str
    network: str
    scheme: Scheme
    seconds: float


@dataclass(frozen=True)
class Checked:
    """A measured row beside what was predicted, in seconds.

    ``before`` by the descriptor, ``after`` by the fitted one, ``held_out`` by a fit without any row of this network.
    """

    network: str
    scheme: str
    seconds: float
    before: float
    after: float
    held_out: float | None

    def document(self) -> dict[str, str | float | None]:
        """As plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Fitted:
    """The fitted descriptor, its rows, and how many other devices it learned from."""

    target: Target
    rows: tuple[Checked, ...]
    relatives: int

    def remarks(self) -> list[str]:
        """What the fit rests on and how well it does, in words."""
        others = f" and {self.relatives} other device{'s' * (self.relatives > 1)}" if self.relatives else ""
        said = f"Fitted to {len(self.rows)} measured latenc{'y' if len(self.rows) == 1 else 'ies'}{others}"
        misses = [abs(row.held_out / row.seconds - 1) for row in self.rows if row.held_out is not None]
        if misses:
            said += (
                f": a network left out is predicted with a median difference of {100 * median(misses):.1f} %"
            )
        return [f"{said}.", "Energies are not measured; the descriptor's figures stand."]


def read_rows(path: Path) -> list[Row]:
    """The table; ``latency`` has a unit (``1.8ms``), ``device`` may be left out where there is one device."""
    rows: list[Row] = []
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(
                    f"{path}: no column {missing[0]!r}; the first line must name {', '.join(COLUMNS)}"
                )
            for line in reader:
                where = f"{path}:{reader.line_num}"
                if any(not line[name] for name in COLUMNS):
                    raise UserError(f"{where}: each line needs {', '.join(COLUMNS)}")
                seconds = parse_quantity(line["latency"], "time", f"{where}: latency")
                scheme = _scheme(line["scheme"].strip(), where)
                rows.append(Row((line.get("device") or "").strip(), line["network"].strip(), scheme, seconds))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a table: {error}") from error
    if not rows:
        raise UserError(f"{path}: no measurement in it; add a line for each network")
    return rows


def _scheme(text: str, where: str) -> Scheme:
    try:
        return Scheme.parse(text)
    except QuantError as error:
        raise UserError(f"{where}: {error}") from error


def fit_rows(
    target: Target, rows: Sequence[Row], device: str | None = None, relative: bool = False
) -> Fitted:
    """Fit the descriptor to the rows of ``device``; those of other devices tell of its class.

    ``relative``: the descriptor is of another device of the family, so all its speeds may be off by one factor.
    """
    devices = list(dict.fromkeys(row.device for row in rows))
    if device is None and len(devices) > 1:
        raise UserError(
            f"measured: {len(devices)} devices; say which one is fitted with --device: {', '.join(devices)}"
        )
    name = devices[0] if device is None else device
    if name not in devices:
        raise UserError(f"--device {name}: not in the table; it has {', '.join(devices)}")
    loads = _Loads(target)
    before = prior(target, relative)
    own = [row for row in rows if row.device == name]
    found = _fit(loads, rows, name, relative)
    fitted = scaled(target, found)
    after = _Loads(fitted)
    networks = {row.network for row in own}
    held_out: dict[str, Calibration] = {}
    if len(networks) > 1:
        for network in networks:
            held_out[network] = _fit(loads, [row for row in rows if row.network != network], name, relative)
    checked = [
        Checked(
            row.network,
            str(row.scheme),
            row.seconds,
            before.predict(loads.workload(row)).seconds,
            prior(fitted).predict(after.workload(row)).seconds,
            held_out[row.network].predict(loads.workload(row)).seconds if held_out else None,
        )
        for row in own
    ]
    record = {"machine": name or target.name, "points": len(own), "log_spread": round(found.spread, 4)}
    said = (
        f"{target.description}; fitted to {len(own)} measured latenc{'y' if len(own) == 1 else 'ies'}".lstrip(
            "; "
        )
    )
    changes = {"calibration": record, "description": said}
    return Fitted(fitted.replace(changes), tuple(checked), len(devices) - 1)


class _Loads:
    """What each row's network asks of one descriptor, worked out once."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._found: dict[tuple[str, str], tuple[Workload, Parts]] = {}

    def _both(self, row: Row) -> tuple[Workload, Parts]:
        key = row.network, str(row.scheme)
        if key not in self._found:
            layers = layer_graph(row.network).layers
            load = workload_of(layers, row.scheme, self.target, f"{row.network} {row.scheme}")
            self._found[key] = load, parts_of(layers, row.scheme, self.target, load)
        return self._found[key]

    def workload(self, row: Row) -> Workload:
        return self._both(row)[0]

    def parts(self, row: Row) -> Parts:
        return self._both(row)[1]


def _fit(loads: _Loads, rows: Sequence[Row], device: str, relative: bool) -> Calibration:
    """Own points, and what the class expects of the networks that only others have run."""
    own = [row for row in rows if row.device == device]
    points = [Point(loads.workload(row), row.seconds) for row in own]
    others = {(row.network, str(row.scheme)): row for row in rows if row.device != device}
    for row in own:
        others.pop((row.network, str(row.scheme)), None)
    if others:
        model = learn([Measured(row.device, loads.parts(row), row.seconds) for row in rows], TRUST)
        for row in others.values():
            expected = model.predict(device, loads.parts(row))
            spread = math.log(expected.high / expected.seconds) / NORMAL_90
            points.append(Point(loads.workload(row), expected.seconds, math.hypot(FIT_SPREAD, spread)))
    return calibrate(loads.target, points, relative)


def scaled(target: Target, found: Calibration) -> Target:
    """The descriptor with its rates and fixed costs multiplied as the calibration found.

    Where an engine would have to exceed its peak, the whole device gets a faster clock instead.
    """
    factors = found.parameters()
    speed = factors["speed"]
    compute, memory, vector = (factors[name] * speed for name in ("compute", "memory", "vector"))
    path = target.float_path
    efficiency = [target.engine_efficiency(engine) / compute for engine in target.engines]
    floats = 0.0 if path is None else path.efficiency / (compute * factors["float"])
    faster = max(1.0, floats, *efficiency)
    changes: dict[str, object] = {
        "clock_hz": target.clock_hz * faster,
        "launch.per_inference": {"seconds": factors["start"] * speed},
        "launch.per_layer": {"seconds": factors["launch"] * speed},
        "vector.elements_per_cycle": {
            kind: target.vector_rate(kind) / (vector * faster) for kind in VECTOR_KINDS
        },
    }
    changes |= _scaled_link(target, factors["start"] * speed, factors["launch"] * speed, memory)
    if target.contexts is not None:  # setting operators up counts as so many launches
        slower = factors["launch"] * speed / max(FLOOR, target.layer_launch_cycles / target.clock_hz)
        load = target.contexts.load.at(target.clock_hz) / target.clock_hz
        changes["contexts.load"] = {"seconds": load * slower}
    if path is not None:
        changes["float_fallback"] = {
            "macs_per_cycle": path.macs_per_cycle, "bits": path.bits, "serves": list(path.serves),
            "efficiency": floats / faster,
        }  # fmt: skip
    for kind, cycles in (target.vector.row_cycles if target.vector is not None else {}).items():
        changes[f"vector.row_cycles.{kind}"] = cycles * vector * faster
    for index, (engine, share) in enumerate(zip(target.engines, efficiency, strict=True)):
        changes[f"engines.{index}.efficiency"] = share / faster
        for field in ("startup_cycles", "output_cycles", "input_cycles"):
            if getattr(engine, field):
                changes[f"engines.{index}.{field}"] = getattr(engine, field) * compute * faster
        for field in ("macs_per_cycle", "macs_per_pe"):
            for width, rate in getattr(engine, field, {}).items():
                if parse_width_pair(width)[1] > 8:
                    changes[f"engines.{index}.{field}.{width}"] = rate / factors["wide"]
    for index, level in enumerate(target.memories):
        if level.bandwidth is not None:
            changes[f"memories.{index}.bandwidth"] = level.bandwidth / memory
        elif level.bytes_per_cycle is not None:
            changes[f"memories.{index}.bytes_per_cycle"] = level.bytes_per_cycle / (memory * faster)
    return target.replace(changes)


def _scaled_link(target: Target, start: float, launch: float, memory: float) -> dict[str, object]:
    """The host link ``memory`` times as slow; ``start`` and ``launch`` (seconds) hold its latency and instructions."""
    link = target.host_link
    if link is None:
        return {}
    waiting = 2 * link.latency
    latency = link.latency * start / max(FLOOR, waiting + target.inference_launch_cycles / target.clock_hz)
    bandwidth = link.bandwidth / memory
    instructions = min(target.launch.instructions or 0.0, launch * bandwidth)
    changes: dict[str, object] = {
        "host_link.bandwidth": bandwidth,
        "host_link.latency": latency,
        "launch.per_inference": {"seconds": max(0.0, start - 2 * latency)},
    }
    if target.launch.instructions:
        changes["launch.instructions"] = instructions
        changes["launch.per_layer"] = {"seconds": launch - instructions / bandwidth}
    return changes
