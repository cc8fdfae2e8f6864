"""The device descriptor: one document a person can read, one frozen object the other rooms ask.

The fields are what simulators and predictors need to know of a device, from six numbers (clock, units, rate,
on-chip memory, main-memory bandwidth, power) up to tables by width and level. Left-out fields are derived
(:mod:`hwsim.target.derive`); :meth:`Target.provenance` says for each field whether it was given, derived,
defaulted or measured. See ``docs/targets.md``.
"""

import hashlib
import json
from functools import cached_property
from typing import Any, Self

from pydantic import ValidationError, model_validator
from pydantic_core import PydanticCustomError

from hwsim.errors import UserError
from hwsim.target import derive
from hwsim.target.checks import cross_check
from hwsim.target.derive import EngineChoice, FloatPath, Level, Provenance
from hwsim.target.document import SCHEMA_VERSION, TargetDocument
from hwsim.target.engines import AnyEngine, Product

__all__ = ["SCHEMA_VERSION", "Target", "json_schema", "EngineChoice", "FloatPath", "Level", "Provenance"]


class Target(TargetDocument):
    """A device descriptor, version 1."""

    @model_validator(mode="after")
    def _cross_check(self) -> Self:
        problems = cross_check(self)
        if problems:
            text = "; ".join(f"{path}: {message}" for path, message in problems)
            raise PydanticCustomError("cross_check", "{text}", {"text": text, "problems": problems})
        return self

    # --- units and clock ---------------------------------------------------------------------------------

    @property
    def unit_count(self) -> int:
        """Number of parallel units."""
        return self.units.count

    @cached_property
    def sync_cycles(self) -> float:
        """Cycles of one barrier over all units; 0 where there is one unit."""
        return derive.sync(self).at(self.clock_hz)

    @cached_property
    def layer_launch_cycles(self) -> float:
        """Cycles that starting one operator costs, its instructions over the host link included."""
        return derive.launch_per_layer(self).at(self.clock_hz) + derive.instructions(self) * self.clock_hz

    @cached_property
    def inference_launch_cycles(self) -> float:
        """Cycles that starting one inference costs."""
        return derive.launch_per_inference(self).at(self.clock_hz)

    # --- engines and widths ------------------------------------------------------------------------------

    def engines_for(self, kind: Product) -> tuple[AnyEngine, ...]:
        """Engines that serve this kind of product, in the order of the file."""
        return tuple(engine for engine in self.engines if kind in engine.serves)

    def native_widths(self, kind: Product) -> list[tuple[int, int]]:
        """Pairs (weight bits, activation bits) that some engine multiplies as they are."""
        return sorted({pair for engine in self.engines_for(kind) for pair in engine.rates()})

    def legal_widths(self, kind: Product) -> list[tuple[int, int]]:
        """Pairs worth offering: native ones and, for weights, narrower packed ones.

        The second operand of a ``matmul`` is an activation, so nothing is packed there.
        """
        return derive.legal_widths(self, kind)

    def engine_for(self, kind: Product, weight_bits: int, act_bits: int) -> EngineChoice | None:
        """The fastest engine for this product and these widths, or None where none is wide enough.

        A pair that is not native runs on the fastest native pair that contains it.
        """
        return derive.engine_for(self, kind, weight_bits, act_bits)

    def engine(self, name: str) -> AnyEngine:
        """The engine of this name (KeyError where there is none)."""
        return {engine.name: engine for engine in self.engines}[name]

    def engine_efficiency(self, engine: AnyEngine) -> float:
        """Share of the peak that a large, well-shaped product reaches on this engine."""
        return engine.efficiency if engine.efficiency is not None else derive.software_efficiency(self)

    def peak_macs_per_cycle(self, weight_bits: int = 8, act_bits: int = 8) -> float:
        """Multiply-accumulates a cycle of the whole device at a native width; 0 where it has none."""
        pair = (weight_bits, act_bits)
        return self.unit_count * max((engine.rates().get(pair, 0.0) for engine in self.engines), default=0.0)

    def peak_tops(self, weight_bits: int = 8, act_bits: int = 8) -> float:
        """Dense peak in 10^12 operations a second, two to a multiply-accumulate."""
        return 2e-12 * self.peak_macs_per_cycle(weight_bits, act_bits) * self.clock_hz

    @cached_property
    def float_path(self) -> FloatPath | None:
        """How floats run, given or derived; None where they cannot."""
        return derive.float_path(self)

    def vector_rate(self, kind: str) -> float:
        """Output elements a cycle of one unit for this kind of vector work."""
        return derive.vector_rates(self)[kind]

    # --- memories ----------------------------------------------------------------------------------------

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Memories with everything filled in, from the engines outwards."""
        return derive.levels(self)

    def level(self, name: str) -> Level:
        """The memory of this name (KeyError where there is none)."""
        return {level.name: level for level in self.levels}[name]

    def bytes_per_cycle(self, name: str) -> float:
        """Bytes a cycle of one unit's part of this memory, or of the whole where it is shared."""
        return self.level(name).bytes_per_cycle

    def stored_bits(self, bits: int) -> int:
        """Bits that a value of this width takes in memory."""
        return derive.stored_bits(self.packing, bits)

    # --- energy ------------------------------------------------------------------------------------------

    def mac_pj(self, weight_bits: int, act_bits: int) -> float:
        """Energy of one multiply-accumulate at these widths."""
        return derive.mac_pj(self.energy, weight_bits, act_bits)

    @cached_property
    def float_mac_pj(self) -> float:
        """Energy of one floating-point multiply-accumulate."""
        return derive.float_mac_pj(self)

    @cached_property
    def vector_pj(self) -> float:
        """Energy of one element of vector work."""
        return derive.vector_pj(self)

    def byte_pj(self, name: str) -> float:
        """Energy of one byte moved from or to this memory or over the host link."""
        return derive.byte_pj(self, name)

    @cached_property
    def static_w(self) -> float:
        """Power drawn whether or not anything is computed."""
        return derive.static_w(self)

    # --- the document ------------------------------------------------------------------------------------

    def provenance(self) -> dict[str, Provenance]:
        """For each field, by dotted path: was it given, derived from given ones, defaulted, or measured?"""
        return derive.provenance(self)

    def document(self) -> dict[str, Any]:
        """The given fields as plain data; reading it again yields an equal target."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def to_json(self) -> str:
        """The given fields as canonical JSON: sorted keys, no spaces."""
        return json.dumps(self.document(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @cached_property
    def sha256(self) -> str:
        """Hash of the canonical JSON; comments and layout of the file do not enter it."""
        return hashlib.sha256(self.to_json().encode("utf-8")).hexdigest()

    def replace(self, changes: dict[str, Any]) -> "Target":
        """A validated copy, changed by dotted path: ``{"clock_hz": "1 GHz", "units.count": 4}``."""
        document = self.document()
        for path, value in changes.items():
            try:
                derive.put(document, path, value)
            except (IndexError, TypeError, ValueError) as error:
                raise UserError(
                    f"{path}: {self.name} has no such field; see `hwsim target schema`"
                ) from error
        try:
            return Target.model_validate(document)
        except ValidationError as error:
            found = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in found["loc"]) or "target"
            message = found["msg"].removeprefix("Value error, ")
            raise UserError(f"{self.name} with {', '.join(changes)} changed: {where}: {message}") from error


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a descriptor."""
    schema = Target.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hwsim target descriptor",
        **schema,
    }
