"""Engines: what multiplies and accumulates, and how fast for each pair of weight and activation bits.

Four kinds cover the field. All answer the same question, ``rates``: multiply-accumulates a cycle of one unit.

- ``simd``: dot-product instructions, SIMD lanes, tensor cores; a table of rates by width.
- ``systolic``: rows x columns of processing elements and a dataflow (Samajdar et al., SCALE-Sim,
  ISPASS 2020).
- ``bit_serial``: bit products a cycle; a product of w and a bits takes w·a of them (Umuroglu et al., BISMO,
  FPL 2018), or w (or a) where only one operand comes serially (Judd et al., Stripes, MICRO 2016).
- ``bit_composable``: fusion units of small bricks, int(8/max(w,2))·int(8/max(a,2)) products of a unit a cycle
  (Sharma et al., Bit Fusion, ISCA 2018).
"""

from abc import ABC, abstractmethod
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, StrictBool, Tag

from hwsim.target.quantities import (
    NUMBER,
    Bits,
    Count,
    Fraction,
    NonNegative,
    Or,
    Positive,
    WidthTable,
    parse_width_pair,
)

Product = Literal["linear", "conv2d", "depthwise", "matmul"]
"""Operator kinds that are products; ``depthwise`` is a conv2d whose groups see one channel each."""

PRODUCTS: tuple[Product, ...] = ("linear", "conv2d", "depthwise", "matmul")
Widths = dict[tuple[int, int], float]


class Document(BaseModel):
    """A frozen part of a descriptor; a field that the schema does not know is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True
    )


class Tile(Document):
    """The smallest block of a product (M x K) · (K x N) that is computed; a partial one costs a whole one."""

    m: Count = 1
    """Rows of the output (pixels, tokens)."""
    n: Count = 1
    """Columns of the output (channels)."""
    k: Count = 1
    """Depth of the sum."""


class EngineBase(Document, ABC):
    """What all engines say."""

    name: Annotated[str, Field(min_length=1, max_length=64)] = "engine"
    """How reports call it."""
    serves: Annotated[tuple[Product, ...], Field(min_length=1)] = PRODUCTS
    """Which products it can run."""
    accumulator_bits: Annotated[int, Field(strict=True, ge=8, le=64)] = 32
    """Width of the running sum."""
    efficiency: Fraction | None = None
    """Share of the peak that a large, well-shaped product reaches; default: software.efficiency."""
    packed_weight_bits: tuple[Bits, ...] = ()
    """Weights stored packed at these widths and widened on the way in: fewer bytes, no higher rate."""
    unpack_overhead: NonNegative = 0.0
    """Extra compute time of a packed layer, as a fraction."""
    startup_cycles: NonNegative = 0.0
    """Cycles before the first result of each invocation (pipeline, descriptors, DMA programming)."""
    output_cycles: NonNegative = 0.0
    """Cycles of one unit for each output element beside its multiply-accumulates: rescaling, rounding, storing."""
    input_cycles: NonNegative = 0.0
    """Cycles of one unit for each input element that no other layer leaves quantized: quantizing, packing."""

    @abstractmethod
    def rates(self) -> Widths:
        """Multiply-accumulates a cycle of one unit for each native (weight bits, activation bits)."""

    @property
    @abstractmethod
    def dimensions(self) -> Tile:
        """The block in which work comes."""


def _scalar_rate(value: object) -> object:
    """``macs_per_cycle: 256`` is short for ``{w8a8: 256}``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"w8a8": value}
    return value


RateTable = Annotated[WidthTable, BeforeValidator(_scalar_rate), Or(NUMBER)]


class SimdEngine(EngineBase):
    """Dot-product instructions, SIMD lanes or tensor cores."""

    kind: Literal["simd"] = "simd"
    macs_per_cycle: RateTable
    """Multiply-accumulates a cycle of one unit, by width; a plain number means w8a8."""
    tile: Tile | None = None
    """Minimal useful block; default: derived from the rate."""
    pads_window: StrictBool = False
    """Channels are padded to the tile's depth at each place of a convolution's window, not the whole sum once."""

    def rates(self) -> Widths:
        """The table as given."""
        return {parse_width_pair(key): rate for key, rate in self.macs_per_cycle.items()}

    @property
    def dimensions(self) -> Tile:
        """The block in which work comes: given, or dot products of four, as many as the rate needs."""
        if self.tile is not None:
            return self.tile
        lanes = max(self.macs_per_cycle.values()) / 4
        return Tile(m=1, n=max(1, min(64, round(lanes))), k=4 if lanes >= 1 else 1)


class SystolicEngine(EngineBase):
    """A rectangle of processing elements through which operands march."""

    kind: Literal["systolic"]
    rows: Count
    """Processing elements down."""
    columns: Count
    """Processing elements across."""
    dataflow: Literal["os", "ws", "is"] = "ws"
    """Which operand stays: output, weight or input stationary."""
    arrays: Count = 1
    """Arrays in each unit."""
    macs_per_pe: RateTable = Field(default_factory=lambda: {"w8a8": 1.0})
    """Multiply-accumulates a cycle of one processing element, by width; a plain number means w8a8."""
    pipelined: StrictBool = True
    """A fold starts while the last one drains."""

    def rates(self) -> Widths:
        """Elements x products of an element."""
        elements = self.rows * self.columns * self.arrays
        return {parse_width_pair(key): rate * elements for key, rate in self.macs_per_pe.items()}

    @property
    def dimensions(self) -> Tile:
        """What one fold of the array covers."""
        if self.dataflow == "os":
            return Tile(m=self.rows, n=self.columns)
        if self.dataflow == "ws":
            return Tile(k=self.rows, n=self.columns)
        return Tile(k=self.rows, m=self.columns)


class _BitEngine(EngineBase):
    """An engine whose speed follows from the bits."""

    weight_bits: Annotated[tuple[Bits, ...], Field(min_length=1)] = (2, 3, 4, 5, 6, 8)
    """Weight widths it takes."""
    act_bits: Annotated[tuple[Bits, ...], Field(min_length=1)] = (2, 3, 4, 5, 6, 8)
    """Activation widths it takes."""

    @abstractmethod
    def rate(self, weight_bits: int, act_bits: int) -> float:
        """Multiply-accumulates a cycle of one unit."""

    def rates(self) -> Widths:
        """All pairs of the two lists."""
        return {
            (w, a): self.rate(w, a) for w in sorted(set(self.weight_bits)) for a in sorted(set(self.act_bits))
        }


class BitSerialEngine(_BitEngine):
    """Bit planes one after the other."""

    kind: Literal["bit_serial"]
    bit_macs_per_cycle: Positive
    """One-bit by one-bit multiply-accumulates a cycle of one unit."""
    serial: Literal["both", "weights", "activations"] = "both"
    """Which operand comes bit by bit; a parallel one always costs its widest width."""
    tile: Tile = Tile()
    """Minimal useful block."""

    def rate(self, weight_bits: int, act_bits: int) -> float:
        """Bit products of the machine over bit products of one multiply-accumulate."""
        weight_planes = max(self.weight_bits) if self.serial == "activations" else weight_bits
        act_planes = max(self.act_bits) if self.serial == "weights" else act_bits
        return self.bit_macs_per_cycle / (weight_planes * act_planes)

    @property
    def dimensions(self) -> Tile:
        """The block in which work comes."""
        return self.tile


class BitComposableEngine(_BitEngine):
    """Bit Fusion: every element splits into narrower multipliers."""

    kind: Literal["bit_composable"]
    rows: Count
    """Fusion units down: input channels (N in the paper's formula)."""
    columns: Count
    """Fusion units across: output channels (M)."""
    widest_bits: Bits = 8
    """Width at which a fusion unit makes one product."""
    brick_bits: Bits = 2
    """Width of the smallest multiplier."""
    weight_bits: Annotated[tuple[Bits, ...], Field(min_length=1)] = (2, 4, 8)
    act_bits: Annotated[tuple[Bits, ...], Field(min_length=1)] = (2, 4, 8)

    def products(self, weight_bits: int, act_bits: int) -> int:
        """Products of one fusion unit a cycle."""
        weights = self.widest_bits // max(weight_bits, self.brick_bits)
        return weights * (self.widest_bits // max(act_bits, self.brick_bits))

    def rate(self, weight_bits: int, act_bits: int) -> float:
        """Fusion units x products of one."""
        return float(self.rows * self.columns * self.products(weight_bits, act_bits))

    def rates(self) -> Widths:
        """All pairs that fit one fusion unit."""
        return {pair: rate for pair, rate in super().rates().items() if rate > 0}

    @property
    def dimensions(self) -> Tile:
        """One pass of the array at the widest width."""
        return Tile(k=self.rows, n=self.columns)


ENGINE_KINDS = ("simd", "systolic", "bit_serial", "bit_composable")


def _kind(value: object) -> object:
    if isinstance(value, dict):
        return value.get("kind", "simd")  # pyright: ignore
    return getattr(value, "kind", None)


Engine = Annotated[
    Annotated[SimdEngine, Tag("simd")]
    | Annotated[SystolicEngine, Tag("systolic")]
    | Annotated[BitSerialEngine, Tag("bit_serial")]
    | Annotated[BitComposableEngine, Tag("bit_composable")],
    Discriminator(_kind),
]
AnyEngine = SimdEngine | SystolicEngine | BitSerialEngine | BitComposableEngine
