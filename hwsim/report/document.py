"""The report as data: one versioned document from which every rendering is made.

A figure that was not obtained is ``None`` and its reason stands in ``Report.unavailable``.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Literal[1] = 1


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Budget(_Document):
    """One limit of the request and how the plan stands to it."""

    name: str
    unit: Literal["time", "bytes", "energy", "count", "error"]
    limit: float
    value: float
    asked_by: str = Field(description="the flag, the descriptor field or the default that set the limit")

    @property
    def met(self) -> bool:
        """Whether the plan stays inside the limit."""
        return self.value <= self.limit * (1 + 1e-9)

    @property
    def margin(self) -> float:
        """Unused share of the limit; negative when it is broken."""
        return 1 - self.value / self.limit if self.limit else 0.0


class ComparisonRow(_Document):
    """One quantized form of the whole network on this device."""

    name: str
    scheme: str
    weight_bytes: float | None
    bops: float | None
    cycles: float | None
    seconds: float | None
    energy_joules: float | None
    error: float | None
    chosen: bool = False
    note: str = ""


class LayerRow(_Document):
    """One layer of the plan, product or vector work."""

    name: str
    kind: str
    scheme: str
    engine: str
    way: str
    macs: int
    bops: float
    predicted_cycles: float
    simulated_cycles: float | None
    share_of_time: float
    error: float | None
    bound: str
    runner_up: str = ""
    runner_up_cost: str = ""
    faster_than_float: float | None = None
    unit: str = Field(default="", description="the parallel units that the layer runs on")
    memory_bytes: float | None = Field(default=None, description="bytes moved in the memory of the roofline")

    @property
    def is_product(self) -> bool:
        """Whether the layer multiplies, so that it has a scheme and an error."""
        return self.macs > 0

    @property
    def difference(self) -> float | None:
        """Simulated over predicted cycles less one."""
        if self.simulated_cycles is None or not self.predicted_cycles:
            return None
        return self.simulated_cycles / self.predicted_cycles - 1


class ParetoPoint(_Document):
    """One proven point of the latency × error frontier."""

    seconds: float
    error: float
    chosen: bool = False


class TimelineEvent(_Document):
    """One interval on one resource of the device, in cycles."""

    resource: str
    name: str
    start: float
    duration: float
    category: Literal["load", "compute", "store"] = "compute"


class SensitivityMap(_Document):
    """Predicted error of every layer under the options of its profile."""

    schemes: list[str]
    layers: list[str]
    errors: list[list[float | None]] = Field(description="one row a layer, one column a scheme, in nats")


class Ceiling(_Document):
    """Peak rate of the whole device at one pair of widths."""

    name: str
    macs_per_second: float


class Roofline(_Document):
    """The device's ceilings; the layers' points follow from their MACs, cycles and memory traffic."""

    memory: str
    bytes_per_second: float
    ceilings: list[Ceiling]


class AnytimePoint(_Document):
    """All products expanded to one order: what stopping there costs and yields."""

    order: int
    scheme: str
    seconds: float
    error: float | None
    weight_bytes: float


class MemoryPoint(_Document):
    """Live activations while one layer runs."""

    layer: str
    start_cycles: float
    activation_bytes: float


class MemoryUse(_Document):
    """What lies in memory over one inference."""

    weight_bytes: float
    weight_home: str
    activation_home: str
    points: list[MemoryPoint]


class Validation(_Document):
    """What the solver promised against what the cycle simulator found."""

    predicted_cycles: float
    simulated_cycles: float
    bound: float = Field(description="largest relative difference that the run accepts")
    roofline_cycles: float
    serial_cycles: float

    @property
    def difference(self) -> float:
        """Relative difference, positive when the simulation is slower than promised."""
        return self.simulated_cycles / self.predicted_cycles - 1 if self.predicted_cycles else 0.0

    @property
    def held(self) -> bool:
        """Whether the difference is inside the bound and the simulation between roofline and serial sum."""
        ordered = self.roofline_cycles <= self.simulated_cycles * (1 + 1e-9)
        ordered = ordered and self.simulated_cycles <= self.serial_cycles * (1 + 1e-9)
        return ordered and abs(self.difference) <= self.bound


class MeasuredLayer(_Document):
    """One layer on the device, with the vector work that its kernel does along."""

    name: str
    kind: str
    simulated_seconds: float
    measured_seconds: float


class Measurement(_Document):
    """The compiled plan run on a device, beside the simulation of that device's descriptor."""

    device: str
    descriptor: str
    simulated_seconds: float
    measured_seconds: float = Field(description="median over the rounds")
    low: float
    high: float
    layers: list[MeasuredLayer]


class Stage(_Document):
    """Wall time of one stage of the run that made the report."""

    name: str
    seconds: float


class Provenance(_Document):
    """Everything needed to make the plan again."""

    command: str
    model: str
    model_spec: str
    weights: str
    target: str
    target_sha256: str
    graph_sha256: str
    seed: int
    versions: dict[str, str]
    sensitivity: str
    plan_sha256: str


class Report(_Document):
    """The deployment report of one plan."""

    schema_version: Literal[1] = SCHEMA_VERSION
    model: str
    target: str
    target_description: str
    illustrative: bool = Field(description="the weights are random: accuracy-like figures only illustrate")
    error_meaning: str
    headline: str
    solver: str
    budgets: list[Budget]
    not_honoured: list[str]
    warnings: list[str]
    comparison: list[ComparisonRow]
    layers: list[LayerRow]
    pareto: list[ParetoPoint]
    sensitivity: SensitivityMap | None = None
    roofline: Roofline | None = None
    timeline: list[TimelineEvent]
    validation: Validation
    measurement: Measurement | None = Field(default=None, description="what hwsim bench --report added")
    anytime: list[AnytimePoint] = Field(default_factory=list[AnytimePoint])
    memory: MemoryUse | None = None
    energy_by_component: dict[str, float]
    peak_memory_bytes: float | None
    units: int
    clock_hz: float
    stages: list[Stage]
    provenance: Provenance
    unavailable: dict[str, str]
    not_modelled: list[str]
    reproduce: list[str] = Field(
        default_factory=list[str], description="commands that make plan and report again"
    )

    def missing(self, figure: str) -> str:
        """Why a figure is absent."""
        return self.unavailable.get(figure, "this report was made without it")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of ``report.json``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Report.model_json_schema()}
