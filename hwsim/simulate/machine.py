"""The device as the simulator's kernels see it: flat arrays of numbers, each with its provenance.

``Machine`` is made from a target descriptor by :mod:`hwsim.simulate.from_target`; benchmarks make it directly
(a SCALE-Sim array, a ZigZag accelerator). Levels go from the engine outwards; the last is main memory.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwsim.simulate import columns as col

EngineKind = Literal["systolic", "simd", "bit_composable"]
ENGINE_KINDS: tuple[EngineKind, ...] = ("systolic", "simd", "bit_composable")
DATAFLOW_CODES = {"os": 0, "ws": 1, "is": 2}
FLOAT_BITS = 32


@dataclass(frozen=True)
class Engine:
    """One kind of compute of a unit.

    ``rates`` maps (weight bits, activation bits) to multiply-accumulates a cycle of one unit; float is
    ``(32, 32)`` or ``(16, 16)``. ``pipelined`` arrays start a fold while the last one drains; an array that
    ``unrolls_window`` lays the kernel window on its rows where there are too few channels to fill them.
    """

    name: str
    kind: EngineKind
    serves: frozenset[str]
    rates: dict[tuple[int, int], float]
    rows: int = 1
    columns: int = 1
    dataflow: str = "ws"
    tile: tuple[int, int, int] = (1, 1, 1)
    pipelined: bool = False
    arrays: int = 1
    efficiency: float = 1.0
    startup_cycles: float = 0.0
    output_cycles: float = 0.0
    input_cycles: float = 0.0
    unrolls_window: bool = True
    pads_window: bool = False
    packed_weight_bits: frozenset[int] = frozenset()
    unpack_overhead: float = 0.0
    mac_pj: dict[tuple[int, int], float] = field(default_factory=dict)
    is_float: bool = False
    origin: str = ""


@dataclass(frozen=True)
class Level:
    """One memory: bytes and bytes a cycle of one unit's part, or of the whole where it is shared."""

    name: str
    capacity: float
    bytes_per_cycle: float
    shared: bool
    pj_per_byte: float = 0.0
    holds_weights: bool = True
    holds_activations: bool = True
    latency_cycles: float = 0.0
    burst_bytes: float = 1.0
    exposed: float = 0.0
    origin: str = ""


@dataclass(frozen=True)
class Machine:
    """A device: units, engines, memories from the engine outwards, fixed costs in cycles."""

    name: str
    clock_hz: float
    units: int
    engines: tuple[Engine, ...]
    levels: tuple[Level, ...]
    vector_rates: dict[str, float]
    vector_bits: int | None = None
    vector_row_cycles: dict[str, float] = field(default_factory=dict[str, float])
    fused_kinds: frozenset[str] = frozenset({"activation", "add", "mul"})
    vector_pj: float = 0.0
    launch_cycles: float = 0.0
    instruction_bytes: float = 0.0
    overlaps_launches: bool = False
    context_operators: float = float("inf")
    context_load_cycles: float = 0.0
    operator_parts: dict[str, int] = field(default_factory=dict[str, int])
    sync_cycles: float = 0.0
    static_w: float = 0.0
    invocation_cycles: float = 0.0
    link_bytes_per_cycle: float = 0.0
    link_latency_cycles: float = 0.0
    independent: bool = True
    prefetch: bool = True
    dense_packing: bool = True
    float_bits: int = FLOAT_BITS
    provenance: dict[str, str] = field(default_factory=dict, compare=False)

    def engine_table(self) -> NDArray[np.float64]:
        """Engines as the kernels read them."""
        table = np.zeros((len(self.engines), col.ENGINE_COLUMNS))
        for row, engine in zip(table, self.engines, strict=True):
            row[col.E_KIND] = ENGINE_KINDS.index(engine.kind)
            row[col.E_ROWS], row[col.E_COLUMNS] = engine.rows, engine.columns
            row[col.E_DATAFLOW] = DATAFLOW_CODES[engine.dataflow]
            row[col.E_TILE_M], row[col.E_TILE_N], row[col.E_TILE_K] = engine.tile
            row[col.E_PIPELINED], row[col.E_ARRAYS] = float(engine.pipelined), engine.arrays
            row[col.E_EFFICIENCY], row[col.E_STARTUP] = engine.efficiency, engine.startup_cycles
            row[col.E_UNROLLS_WINDOW] = float(engine.unrolls_window)
            row[col.E_PADS_WINDOW] = float(engine.pads_window)
            row[col.E_PER_OUTPUT], row[col.E_PER_INPUT] = engine.output_cycles, engine.input_cycles
        return table

    @property
    def has_contexts(self) -> bool:
        """Whether networks that do not fit are cut in contexts that take turns."""
        return math.isfinite(self.context_operators)

    @property
    def static_pj_per_cycle(self) -> float:
        """What the device draws in a cycle whatever it does."""
        return self.static_w * 1e12 / self.clock_hz

    @property
    def prepares_inputs(self) -> bool:
        """Whether some engine's products pay for quantizing or packing their inputs."""
        return any(engine.input_cycles > 0 for engine in self.engines)

    def stored_bits(self, bits: int) -> int:
        """Bits that a value of this width takes in memory."""
        return bits if self.dense_packing else 1 << max(0, bits - 1).bit_length()

    def level_table(self) -> NDArray[np.float64]:
        """Memories as the kernels read them, each with the buffer that its traffic is tiled for."""
        table = np.zeros((len(self.levels), col.LEVEL_COLUMNS))
        for index, (row, level) in enumerate(zip(table, self.levels, strict=True)):
            row[col.L_CAPACITY], row[col.L_RATE] = level.capacity, level.bytes_per_cycle
            row[col.L_SHARED], row[col.L_PJ] = float(level.shared), level.pj_per_byte
            row[col.L_LATENCY], row[col.L_BURST] = level.latency_cycles, level.burst_bytes
            row[col.L_EXPOSED] = level.exposed
            row[col.L_WEIGHTS], row[col.L_ACTIVATIONS] = level.holds_weights, level.holds_activations
            row[col.L_BUFFER], row[col.L_BUFFER_SHARED], row[col.L_WEIGHT_BUFFER] = self._buffer(index)
        return table

    def buffer_shared(self, outer: int) -> bool:
        """Whether what lies inside level ``outer`` is shared by the units."""
        return bool(self._buffer(outer)[1])

    def _buffer(self, outer: int) -> tuple[float, float, float]:
        """Bytes and sharing of what lies inside level ``outer``, and of its weight buffer where that is apart."""
        inner = range(outer - 1, -1, -1)
        weights = next((i for i in inner if self.levels[i].holds_weights), None)
        activations = next((i for i in inner if self.levels[i].holds_activations), None)
        found = {index for index in (weights, activations) if index is not None}
        if not found:
            return float("inf"), 1.0, 0.0
        shared = all(self.levels[index].shared for index in found)
        apart = weights is not None and activations is not None and weights != activations
        own = self.levels[weights].capacity if apart and weights is not None else 0.0
        return sum(self.levels[index].capacity for index in found), float(shared), own
