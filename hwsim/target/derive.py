"""What a descriptor leaves unsaid: derived from what it says, or assumed, and marked as such.

Every rule here is a guess with a reason; each field that is given replaces one. Energies come from the
45 nm table of Horowitz, "Computing's energy problem", ISSCC 2014 (recalled): int8 multiply 0.2 pJ, 32-bit
add 0.1 pJ, fp16 multiply-add 1.5 pJ, fp32 multiply-add 4.6 pJ, 64 bits from 8 KiB SRAM 10 pJ, from 1 MiB
100 pJ, from DRAM 1.3 nJ.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import BaseModel

from hwsim.target.checks import is_dram
from hwsim.target.document import TargetDocument
from hwsim.target.engines import PRODUCTS, AnyEngine, Product
from hwsim.target.parts import VECTOR_KINDS, Energy, Memory, Overhead
from hwsim.target.quantities import parse_width_pair, width_pair

Provenance = Literal["given", "derived", "default", "measured"]
MemoryKind = Literal["register", "sram", "dram", "flash"]

DEFAULT_EFFICIENCY = 0.5  # MLPerf Offline on 15 systems: 0.28 to 0.51 of the peak for the best batch
DEFAULT_SYNC = Overhead(seconds=1e-6)
DEFAULT_LAYER_LAUNCH = Overhead(seconds=2e-6)
DEFAULT_INFERENCE_LAUNCH = Overhead(seconds=1e-5)
LEVEL_STEP = 4.0  # each memory level inwards is assumed at least this much faster
BANDWIDTH_EFFICIENCY: dict[MemoryKind, float] = {"register": 1.0, "sram": 1.0, "dram": 0.8, "flash": 0.9}
VECTOR_SHARE = 1 / 16  # vector lanes for each 8-bit multiplier
SLOW_VECTOR = 1 / 4  # exponentials and divisions against additions
SLOW_KINDS = ("norm", "softmax", "smooth")
FLOAT_SHARE = 1 / 4  # a float lane takes the place of four 8-bit multipliers
STATIC_SHARE = 0.3  # of the power budget


@dataclass(frozen=True)
class EngineChoice:
    """Which engine runs a product, at which native widths, how fast."""

    engine: AnyEngine
    weight_bits: int
    act_bits: int
    macs_per_cycle: float
    """Peak of one unit, unpacking included."""
    efficiency: float
    """Share of the peak that a large, well-shaped product reaches."""
    packed: bool
    """Weights are stored narrower than they are multiplied."""


@dataclass(frozen=True)
class FloatPath:
    """How floats run."""

    macs_per_cycle: float
    bits: int
    serves: tuple[Product, ...]
    efficiency: float


@dataclass(frozen=True)
class Level:
    """One memory with everything filled in.

    Sizes and rates are of one unit's part, or of the whole where it is shared.
    """

    name: str
    kind: MemoryKind
    capacity: float
    """Bytes; infinite where nothing was said."""
    bytes_per_cycle: float
    """Peak."""
    efficiency: float
    """Share of the peak that long streams reach."""
    shared: bool
    holds: frozenset[str]
    burst_bytes: float
    latency_cycles: float
    exposed: float
    byte_pj: float


def sync(target: TargetDocument) -> Overhead:
    """One barrier over all units."""
    if target.units.count == 1:
        return Overhead()
    return DEFAULT_SYNC if target.sync is None else target.sync


def launch_per_layer(target: TargetDocument) -> Overhead:
    """Starting one operator."""
    return DEFAULT_LAYER_LAUNCH if target.launch.per_layer is None else target.launch.per_layer


def instructions(target: TargetDocument) -> float:
    """Seconds that the instructions of one operator take over the host link."""
    size = target.launch.instructions or 0.0
    return 0.0 if target.host_link is None else size / target.host_link.bandwidth


def launch_per_inference(target: TargetDocument) -> Overhead:
    """Starting one inference."""
    return DEFAULT_INFERENCE_LAUNCH if target.launch.per_inference is None else target.launch.per_inference


def software_efficiency(target: TargetDocument) -> float:
    """Share of the peak where an engine says nothing of its own."""
    return DEFAULT_EFFICIENCY if target.software is None else target.software.efficiency


def legal_widths(target: TargetDocument, kind: Product) -> list[tuple[int, int]]:
    """Native pairs, and packed weights beside the activations they can run with."""
    pairs: set[tuple[int, int]] = set()
    for engine in target.engines:
        if kind not in engine.serves:
            continue
        rates = engine.rates()
        pairs |= set(rates)
        if kind != "matmul":
            pairs |= {(bits, a) for bits in engine.packed_weight_bits for w, a in rates if bits < w}
    return sorted(pairs)


def engine_for(target: TargetDocument, kind: Product, weight_bits: int, act_bits: int) -> EngineChoice | None:
    """The fastest (engine, native pair) that contains the asked widths; ties go to the first in the file."""
    best: EngineChoice | None = None
    for engine in target.engines:
        if kind not in engine.serves:
            continue
        own = software_efficiency(target) if engine.efficiency is None else engine.efficiency
        for (w, a), rate in sorted(engine.rates().items()):
            if w < weight_bits or a < act_bits:
                continue
            packed = weight_bits < w and weight_bits in engine.packed_weight_bits and kind != "matmul"
            peak = rate / (1 + engine.unpack_overhead) if packed else rate
            if best is None or peak * own > best.macs_per_cycle * best.efficiency:
                best = EngineChoice(engine, w, a, peak, own, packed)
    return best


def _peak_rate(target: TargetDocument) -> float:
    """Multiply-accumulates a cycle of one unit at 8 bits, or at the widest width there is."""
    tables = [engine.rates() for engine in target.engines]
    eight = max((table.get((8, 8), 0.0) for table in tables), default=0.0)
    if eight > 0:
        return eight
    return max(
        rate / (64 / (w * a)) if w * a < 64 else rate for table in tables for (w, a), rate in table.items()
    )


def vector_rates(target: TargetDocument) -> dict[str, float]:
    """Elements a cycle of one unit for each kind of vector work."""
    given = {} if target.vector is None else target.vector.elements_per_cycle
    base = given.get("default", max(1.0, _peak_rate(target) * VECTOR_SHARE))
    slow = given.get("default", base * SLOW_VECTOR)
    rates = {kind: given.get(kind, slow if kind in SLOW_KINDS else base) for kind in VECTOR_KINDS}
    return rates | {"smooth": given.get("smooth", given.get("activation", rates["smooth"]))}


def float_path(target: TargetDocument) -> FloatPath | None:
    """The given float path, or one of a quarter of the 8-bit rate."""
    given = target.float_fallback
    if given is False:
        return None
    if given is None:
        serves: tuple[Product, ...] = tuple(
            kind for kind in PRODUCTS if any(kind in e.serves for e in target.engines)
        )
        return FloatPath(max(0.25, _peak_rate(target) * FLOAT_SHARE), 32, serves, software_efficiency(target))
    own = software_efficiency(target) if given.efficiency is None else given.efficiency
    return FloatPath(given.macs_per_cycle, given.bits, given.serves, own)


def levels(target: TargetDocument) -> tuple[Level, ...]:
    """Memories from the engines outwards, filled in from the outermost inwards."""
    found: list[Level] = []
    for index in reversed(range(len(target.memories))):
        found.append(_level(target, target.memories[index], index, found[-1] if found else None))
    return tuple(reversed(found))


def _level(target: TargetDocument, memory: Memory, index: int, outer: Level | None) -> Level:
    units = target.units.count
    if memory.bytes_per_cycle is not None:
        rate = memory.bytes_per_cycle
    elif memory.bandwidth is not None:
        rate = memory.bandwidth / target.clock_hz
    else:
        # A square register tile of √R x √R multipliers takes 2√R operand bytes a cycle.
        rate = 2 * math.sqrt(_peak_rate(target)) * (units if memory.shared else 1)
        if outer is not None:
            share = outer.bytes_per_cycle / (units if outer.shared and not memory.shared else 1)
            rate = max(rate, LEVEL_STEP * share)
    kind = memory_kind(target, index)
    return Level(
        name=memory.name,
        kind=kind,
        capacity=math.inf if memory.bytes is None else memory.bytes,
        bytes_per_cycle=rate,
        efficiency=BANDWIDTH_EFFICIENCY[kind] if memory.efficiency is None else memory.efficiency,
        shared=memory.shared,
        holds=frozenset(memory.holds),
        burst_bytes=memory.burst_bytes,
        latency_cycles=memory.latency_cycles,
        exposed=memory.exposed,
        byte_pj=byte_pj(target, memory.name),
    )


def memory_kind(target: TargetDocument, index: int) -> MemoryKind:
    """Said, or by its place: the outermost is dram."""
    memory = target.memories[index]
    if memory.kind is not None:
        return memory.kind
    return "dram" if is_dram(memory, index == len(target.memories) - 1) else "sram"


def stored_bits(packing: str, bits: int) -> int:
    """Bits that a value of this width takes in memory."""
    return bits if packing == "dense" else 1 << max(0, bits - 1).bit_length()


def mac_pj(energy: Energy, weight_bits: int, act_bits: int) -> float:
    """Given, or scaled from the given pair of nearest size: multipliers grow with w·a, adders do not."""

    def horowitz(w: int, a: int) -> float:
        return 0.2 * w * a / 64 + 0.1

    pair = width_pair(weight_bits, act_bits)
    if pair in energy.mac_pj:
        return energy.mac_pj[pair]
    wanted = horowitz(weight_bits, act_bits)
    known = {parse_width_pair(key): value for key, value in energy.mac_pj.items()}
    if not known:
        return wanted
    nearest = min(sorted(known), key=lambda p: abs(p[0] * p[1] - weight_bits * act_bits))
    return known[nearest] * wanted / horowitz(*nearest)


def float_mac_pj(target: TargetDocument) -> float:
    """Given, or scaled from the 8-bit figure by Horowitz's ratio."""
    if target.energy.float_mac_pj is not None:
        return target.energy.float_mac_pj
    path = float_path(target)
    figure = 1.5 if path is not None and path.bits == 16 else 4.6
    return mac_pj(target.energy, 8, 8) * figure / 0.3


def vector_pj(target: TargetDocument) -> float:
    """Given, or that of one float multiply-accumulate."""
    return float_mac_pj(target) if target.energy.vector_pj is None else target.energy.vector_pj


def byte_pj(target: TargetDocument, name: str) -> float:
    """Given, or by technology; SRAM energy grows with the square root of the size (1.25 pJ/byte at 8 KiB)."""
    if name in target.energy.byte_pj:
        return target.energy.byte_pj[name]
    if target.host_link is not None and name == target.host_link.name:
        return 160.0
    index = [memory.name for memory in target.memories].index(name)
    kind = memory_kind(target, index)
    if kind == "sram":
        return 1.25 * math.sqrt((target.memories[index].bytes or 2.0**20) / 8192)
    return {"register": 0.2, "dram": 160.0, "flash": 160.0}[kind]


def static_w(target: TargetDocument) -> float:
    """Given, or a share of the power budget."""
    if target.energy.static_w is not None:
        return target.energy.static_w
    return STATIC_SHARE * (target.power_w or 0.0)


DERIVED_FIELDS = frozenset(
    {
        "efficiency",
        "tile",
        "vector",
        "float_fallback",
        "bytes_per_cycle",
        "bandwidth",
        "mac_pj",
        "float_mac_pj",
    }
    | {"vector_pj", "byte_pj", "static_w", "elements_per_cycle"}
)
"""Fields whose absence is filled from other fields; the rest of the absent ones have constants."""


def provenance(target: TargetDocument) -> dict[str, Provenance]:
    """Dotted path → where the value in use comes from."""
    found: dict[str, Provenance] = {}
    _walk(target, "", True, found)
    if target.calibration is not None:
        found |= dict.fromkeys(target.calibration.measured, cast(Provenance, "measured"))
    return found


def _walk(part: BaseModel, prefix: str, given: bool, found: dict[str, Provenance]) -> None:
    for name, field in type(part).model_fields.items():
        path = f"{prefix}{field.alias or name}"
        value = getattr(part, name)
        said = given and name in part.model_fields_set
        if isinstance(value, BaseModel):
            _walk(value, f"{path}.", said, found)
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for index, item in enumerate(value):
                _walk(item, f"{path}.{index}.", said, found)
        elif isinstance(value, dict) and value and name not in ("target", "host"):
            found |= {f"{path}.{key}": "given" if said else "default" for key in value}
        elif said:
            found[path] = "given"
        else:
            found[path] = "derived" if name in DERIVED_FIELDS else "default"


def put(document: dict[str, Any], path: str, value: Any) -> None:
    """Set a field of plain data by its dotted path (``memories.1.bandwidth``).

    A memory's rate in one spelling replaces that in the other.
    """
    *parents, last = path.split(".")
    place: Any = document
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
        place.pop({"bandwidth": "bytes_per_cycle", "bytes_per_cycle": "bandwidth"}.get(last), None)
