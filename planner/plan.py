"""The planner's answer: the decision for every layer, what it costs, and how far it is proven.

The document holds no wall-clock value, so the same tables, request and seed give the same bytes.
"""

from typing import Literal

from pydantic import Field

from planner.request import Quantity, Request
from planner.tables import Document, Way

Status = Literal["optimal", "feasible"]


class Totals(Document):
    """The plan's quantities, summed over layers, boundaries and fixed work."""

    error: float
    cycles: int
    latency: float = Field(description="seconds: cycles over the clock of the tables")
    energy_pj: float
    bops: int
    weight_bytes: int
    activation_bytes: int = Field(description="largest sum of live activations")


class Proof(Document):
    """How good the plan is known to be in one objective: no plan inside the limits is below ``bound``."""

    quantity: Quantity
    value: float
    bound: float
    gap: float = Field(ge=0, description="(value − bound) / value; 0 is proven optimal in exact arithmetic")


class RunnerUp(Document):
    """The best other scheme for one layer while all other layers stay: what it would have changed."""

    scheme: str
    engine: str
    way: Way
    error_change: float
    cycles_change: int
    energy_change_pj: float
    breaks: tuple[str, ...] = Field(default=(), description="limits it would break; empty if it fits")


class PlanLayer(Document):
    """The decision for one layer. ``None`` bits are float."""

    name: str
    kind: str
    option: int = Field(description="which of the layer's options in the tables")
    scheme: str
    weight_bits: int | None
    act_bits: int | None
    order: int
    kept: tuple[int, ...]
    engine: str
    way: Way
    recipe: tuple[str, ...]
    holds: tuple[tuple[int, ...], ...] = Field(
        default=(), description="in an ensemble: the orders (from 1) that each expanded network holds"
    )
    error: float
    cycles: int
    energy_pj: float
    bops: int
    weight_bytes: int
    act_bytes: int
    bound: str = ""
    runner_up: RunnerUp | None = None


class PlanEnsemble(Document):
    """The telescoped ensemble of the plan: P expanded networks and the base network."""

    predictors: int
    units: int
    predictor_cycles: tuple[int, ...]


class LimitUse(Document):
    """One limit and how the plan stands to it. Latency in seconds, energy in picojoules, memory in bytes."""

    name: str
    limit: float
    used: float
    slack: float
    binding: bool | None = Field(
        default=None, description="whether the plan would be better without it; None: not examined"
    )
    gain_of_one_percent: float | None = Field(
        default=None, description="fall of the first objective when solved again with 1 % more"
    )


class Alternative(Document):
    """Another plan, the best among those that differ from all better ones in enough layers' schemes."""

    totals: Totals
    proof: Proof
    schemes: dict[str, str] = Field(description="layers whose scheme differs from the plan's")


class Plan(Document):
    """The plan of one network on one device."""

    schema_version: Literal[1] = 1
    model: str
    target: str
    tables_sha256: str
    request: Request
    status: Status
    stopped: Literal["time_limit", "interrupted"] | None = None
    proof: tuple[Proof, ...]
    totals: Totals
    ensemble: PlanEnsemble | None = None
    layers: tuple[PlanLayer, ...]
    limits: tuple[LimitUse, ...] = ()
    options_before: int = Field(description="options in the tables")
    options_after: int = Field(description="options left when pins and dominance had removed theirs")
    options_solver: int = Field(description="options the solver decided on, after bounds removed more")
    alternatives: tuple[Alternative, ...] = ()
    remarks: tuple[str, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    provenance: dict[str, str] = Field(default_factory=dict)

    @property
    def assignment(self) -> dict[str, str]:
        """Scheme of every layer by name."""
        return {layer.name: layer.scheme for layer in self.layers}
