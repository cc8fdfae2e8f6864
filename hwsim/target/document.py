"""The fields of a descriptor, as they stand in the file.

What follows from them is in :mod:`hwsim.target.derive`.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from hwsim.target.engines import Document, Engine
from hwsim.target.parts import (
    Calibration,
    Contexts,
    Energy,
    FloatField,
    HostLink,
    Launch,
    Memory,
    OverheadField,
    Software,
    Tvm,
    UnitsField,
    Vector,
)
from hwsim.target.quantities import Frequency, Power, describe

SCHEMA_VERSION = 1

DeviceClass = Literal[
    "edge_gpu", "datacenter_gpu", "mobile_cpu", "server_cpu", "riscv_cpu", "mcu", "mcu_npu",
    "edge_tpu", "edge_npu", "dsp_npu", "fpga", "asic", "other",
]  # fmt: skip


def _integer(value: object) -> object:
    """``true`` equals 1 in Python but is no version."""
    if type(value) is not int:
        raise ValueError(f"must be the number {SCHEMA_VERSION}, not {describe(value)}")
    return value


class TargetDocument(Document):
    """A device descriptor, version 1."""

    schema_version: Annotated[Literal[1], BeforeValidator(_integer)]
    """Version of this schema."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    """Short name: letters, digits, ``_ . -``."""
    description: str = ""
    """One sentence for people."""
    device_class: DeviceClass = Field(default="other", alias="class")
    """What sort of device it is (``class`` in the file)."""
    clock_hz: Frequency
    """Clock of the units."""
    units: UnitsField
    """The parallel units; a plain number is their count."""
    engines: Annotated[tuple[Engine, ...], Field(min_length=1, max_length=16)]
    """What multiplies and accumulates; each unit has one of each."""
    vector: Vector | None = None
    """Throughput of the work between products."""
    float_fallback: FloatField | None = None
    """How floats run; ``false`` where they cannot."""
    memories: Annotated[tuple[Memory, ...], Field(min_length=1, max_length=8)]
    """Memory levels, from the engines outwards; the last one holds the whole network."""
    packing: Literal["dense", "power_of_two"] = "power_of_two"
    """Bits a stored value takes: exactly its width, or the next of 1, 2, 4, 8, 16."""
    host_link: HostLink | None = None
    """The bus to a host, where there is one."""
    sync: OverheadField | None = None
    """One barrier over all units: cycles, or a time like ``2 us``."""
    launch: Launch = Launch()
    """What starting a layer and an inference costs."""
    contexts: Contexts | None = None
    """What fits on a dataflow device at once; left out, operators run one after the other."""
    software: Software | None = None
    """The kernel library, and what share of the peak it reaches."""
    energy: Energy = Energy()
    """Energy of operations and bytes."""
    power_w: Power | None = None
    """Power budget of the whole device."""
    tvm: Tvm | None = None
    """How TVM compiles for it."""
    calibration: Calibration | None = None
    """What was measured on the device."""
