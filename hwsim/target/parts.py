"""The parts of a descriptor that are no engines: units, memories, vector and float work, fixed costs, energy.

A field left out is ``None`` here, visibly unsaid; :mod:`hwsim.target.derive` says what is assumed.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, JsonValue, StrictBool, Tag

from hwsim.target.engines import PRODUCTS, Document, Product
from hwsim.target.quantities import (
    NUMBER,
    TIME,
    Bandwidth,
    Count,
    Fraction,
    NonNegative,
    Or,
    Picojoules,
    Positive,
    Seconds,
    Size,
    StaticPower,
    check_width_keys,
)

VectorKind = Literal[
    "norm", "softmax", "activation", "smooth", "add", "mul", "pool", "embedding", "reduce", "other", "default"
]
VECTOR_KINDS: tuple[VectorKind, ...] = (
    "norm", "softmax", "activation", "smooth", "add", "mul", "pool", "embedding", "reduce", "other"
)  # fmt: skip
FusedKind = Literal["activation", "add", "mul", "concat"]
FUSED_KINDS: tuple[FusedKind, ...] = ("activation", "add", "mul")
Tensor = Literal["weights", "activations", "partial_sums"]
Name = Annotated[str, Field(min_length=1, max_length=64)]


class Units(Document):
    """The parallel units: each can run its own rows, its own term or its own predictor."""

    count: Count
    """How many there are."""
    name: Name = "unit"
    """What they are: core, streaming multiprocessor, array."""
    independent: StrictBool = True
    """Units can run different programs at once (needed for terms and predictors on different units)."""


def _count_alone(value: object) -> object:
    """``units: 4`` is short for ``{count: 4}``."""
    return {"count": value} if isinstance(value, int) and not isinstance(value, bool) else value


UnitsField = Annotated[Units, BeforeValidator(_count_alone), Or({"type": "integer", "minimum": 1})]


class Overhead(Document):
    """A fixed cost: so many cycles, plus a time that does not shrink with the clock."""

    cycles: NonNegative = 0.0
    """Cycles of the unit clock."""
    seconds: Seconds = 0.0
    """Time that another clock decides (host, driver, bus)."""

    def at(self, clock_hz: float) -> float:
        """In cycles of this clock."""
        return self.cycles + self.seconds * clock_hz


def _overhead_alone(value: object) -> object:
    """A plain number is cycles; ``5 us`` is time."""
    if isinstance(value, str):
        return {"seconds": value}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"cycles": value}
    return value


OverheadField = Annotated[
    Overhead, BeforeValidator(_overhead_alone), Or({"type": "number", "minimum": 0}, TIME)
]


class Launch(Document):
    """What starting work costs."""

    per_layer: OverheadField | None = None
    """Each operator of the network (kernel launch, operator dispatch)."""
    per_inference: OverheadField | None = None
    """Each run of the network (graph launch, interrupt, driver)."""
    instructions: Size | None = None
    """Bytes of instructions of one operator. They cross the host link in every inference, beside ``per_layer``, and
    take room from the weights in the memory where activations lie."""
    overlaps: StrictBool = False
    """Operators that do not wait for each other start together: only those on the longest path pay ``per_layer``."""


class Contexts(Document):
    """A dataflow device lays a network's operators side by side; what does not fit is cut in contexts, loaded in turn.

    Weights fit where a memory inside the outermost holds them all.
    """

    operators: Count
    """How many operators fit at once."""
    load: OverheadField
    """Setting up one operator when its context is loaded, beside the transfer of its weights."""
    parts: dict[VectorKind, Count] = Field(default_factory=dict)
    """Kinds that the compiler lays out as several operators: a softmax is a maximum, a difference, an exponential, …"""


class Memory(Document):
    """One memory level; they are listed from the engines outwards."""

    name: Name
    """How reports call it."""
    kind: Literal["register", "sram", "dram", "flash"] | None = None
    """Technology; default: the outermost is dram, the others sram."""
    bytes: Size | None = None
    """Capacity, of one unit's part or of the whole where shared; only the outermost may leave it out."""
    bandwidth: Bandwidth | None = None
    """Bytes a second of one unit's part, or of the whole where it is shared."""
    bytes_per_cycle: Positive | None = None
    """The same in bytes a cycle; give one of the two."""
    shared: StrictBool = True
    """One memory for all units (its bandwidth is arbitrated), or one for each."""
    holds: Annotated[tuple[Tensor, ...], Field(min_length=1)] = ("weights", "activations", "partial_sums")
    """What it can hold."""
    efficiency: Fraction | None = None
    """Share of the bandwidth that long streams reach."""
    burst_bytes: Positive = 1.0
    """Smallest useful transfer."""
    latency_cycles: NonNegative = 0.0
    """Cycles from a request to its first byte."""
    exposed: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of a transfer's time during which the units wait for it; the rest is fetched ahead, behind compute."""


def _default_alone(value: object) -> object:
    """``elements_per_cycle: 16`` is short for ``{default: 16}``."""
    return {"default": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class Vector(Document):
    """The work between products: norms, softmax, activations, additions, pools."""

    elements_per_cycle: Annotated[
        dict[VectorKind, Positive],
        Field(min_length=1),
        BeforeValidator(_default_alone),
        Or(NUMBER),
    ]
    """Output elements a cycle of one unit, by operator kind; ``default`` stands for the kinds not listed.

    ``smooth`` are the activations with an exponential in them (GELU, SiLU, tanh, sigmoid); not listed, they run as
    ``activation`` does."""
    row_cycles: dict[VectorKind, Positive] = Field(default_factory=dict)
    """Cycles of one unit for each row that a norm, a softmax or a reduction runs along, beside its elements."""
    bits: Literal[8, 16, 32] | None = None
    """Width of the values that this work reads and writes; left out, that of the activations."""
    fused: tuple[FusedKind, ...] = FUSED_KINDS
    """Work that the layers before it do on their way out (``concat``: they write into place); the rest are operators
    of their own."""


class FloatFallback(Document):
    """How fast layers left in floating point run."""

    macs_per_cycle: Positive
    """Multiply-accumulates a cycle of one unit."""
    bits: Literal[16, 32] = 32
    """Width of the floats."""
    serves: Annotated[tuple[Product, ...], Field(min_length=1)] = PRODUCTS
    """Which products it can run."""
    efficiency: Fraction | None = None
    """Share of the peak that is reached; default: software.efficiency."""


FloatField = Annotated[
    Annotated[FloatFallback, Tag("floats")] | Annotated[Literal[False], Tag("none")],
    Discriminator(lambda value: "none" if value is False else "floats"),
]


class Software(Document):
    """The stack whose kernels run; the same chip differs by 2.4x between stacks."""

    stack: str = "unspecified"
    """Its name and version."""
    efficiency: Fraction
    """Share of an engine's peak that a large, well-shaped product reaches."""


class HostLink(Document):
    """The bus to a host that holds the network; what it carries crosses it in every inference."""

    name: Name = "host"
    """How reports call it."""
    bandwidth: Bandwidth
    """Bytes a second."""
    latency: Seconds = 0.0
    """Time before the first byte of the inputs, and of the outputs; weights come in one stream, asked for ahead."""
    carries: Annotated[tuple[Literal["inputs", "outputs", "weights"], ...], Field(min_length=1)] = (
        "inputs",
        "outputs",
    )
    """With ``weights``: those that do not stay in the device's memories are sent for each inference."""


class Energy(Document):
    """Energy of an operation and of a byte; what is missing is scaled from Horowitz (ISSCC 2014)."""

    mac_pj: Annotated[dict[str, Picojoules], AfterValidator(check_width_keys)] = Field(default_factory=dict)
    """One multiply-accumulate, by width."""
    float_mac_pj: Picojoules | None = None
    """One floating-point multiply-accumulate."""
    vector_pj: Picojoules | None = None
    """One element of vector work."""
    byte_pj: dict[str, Picojoules] = Field(default_factory=dict)
    """One byte moved, by memory name (or the host link's name)."""
    static_w: StaticPower | None = None
    """Power drawn whether or not anything is computed."""


class Tvm(Document):
    """How TVM compiles for it; left out where TVM has no code generator for the device."""

    target: dict[str, JsonValue]
    """The target dictionary, as ``tvm.target.Target`` takes it."""
    host: dict[str, JsonValue] | None = None
    """The host's dictionary, for devices that a host drives."""
    cross_compiler: str | None = None
    """Compiler that links for another machine than this one."""
    emulator: str | None = None
    """Command prefix that runs the result here."""


class Measurement(Document):
    """One measured figure and its spread."""

    median: float
    """The value that the descriptor holds."""
    low: float
    """Lowest of the rounds."""
    high: float
    """Highest of the rounds."""
    rounds: Count
    """How often it was measured."""


class Calibration(Document):
    """What a calibration on the device found, and how far predictions may be trusted after it."""

    machine: str
    """On what it was measured."""
    points: Annotated[int, Field(strict=True, ge=0)] = 0
    """How many measurements were used."""
    log_spread: NonNegative | None = None
    """Standard deviation of ln(measured / predicted)."""
    measured: dict[str, Measurement] = Field(default_factory=dict)
    """Spread of measured fields, by their dotted path."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Software that was measured."""
