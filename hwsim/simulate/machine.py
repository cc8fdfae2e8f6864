"""The device as the simulator's kernels see it: flat arrays of numbers, each with its provenance.

``Machine`` is made from a target descriptor by :mod:`hwsim.simulate.from_target`; benchmarks make it directly
(a SCALE-Sim array, a ZigZag accelerator). Levels go from the engine outwards; the last is main memory.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

EngineKind = Literal["systolic", "simd", "bit_composable"]
ENGINE_KINDS: tuple[EngineKind, ...] = ("systolic", "simd", "bit_composable")
DATAFLOW_CODES = {"os": 0, "ws": 1, "is": 2}
FLOAT_BITS = 32

# Columns of the engine table.
(E_KIND, E_ROWS, E_COLUMNS, E_DATAFLOW, E_TILE_M, E_TILE_N, E_TILE_K, E_PIPELINED, ENGINE_COLUMNS) = range(9)
# Columns of the level table.
(L_CAPACITY, L_RATE, L_SHARED, L_PJ, LEVEL_COLUMNS) = range(5)


@dataclass(frozen=True)
class Engine:
    """One kind of compute of a unit.

    ``rates`` maps (weight bits, activation bits) to multiply-accumulates a cycle of one unit; float is
    ``(32, 32)`` or ``(16, 16)``. ``pipelined`` arrays start a fold while the last one drains.
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
    mac_pj: dict[tuple[int, int], float] = field(default_factory=lambda: {})


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


@dataclass(frozen=True)
class Machine:
    """A device: units, engines, memories from the engine outwards, fixed costs in cycles."""

    name: str
    clock_hz: float
    units: int
    engines: tuple[Engine, ...]
    levels: tuple[Level, ...]
    vector_rates: dict[str, float]
    launch_cycles: float = 0.0
    sync_cycles: float = 0.0
    static_w: float = 0.0
    invocation_cycles: float = 0.0
    provenance: dict[str, str] = field(default_factory=lambda: {}, compare=False)

    def engine_table(self) -> NDArray[np.float64]:
        """Engines as the kernels read them."""
        table = np.zeros((len(self.engines), ENGINE_COLUMNS))
        for row, engine in zip(table, self.engines, strict=True):
            row[E_KIND] = ENGINE_KINDS.index(engine.kind)
            row[E_ROWS], row[E_COLUMNS] = engine.rows, engine.columns
            row[E_DATAFLOW] = DATAFLOW_CODES[engine.dataflow]
            row[E_TILE_M], row[E_TILE_N], row[E_TILE_K] = engine.tile
            row[E_PIPELINED] = float(engine.pipelined)
        return table

    def level_table(self) -> NDArray[np.float64]:
        """Memories as the kernels read them."""
        return np.array(
            [[lv.capacity, lv.bytes_per_cycle, float(lv.shared), lv.pj_per_byte] for lv in self.levels]
        )
