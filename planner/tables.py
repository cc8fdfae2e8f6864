"""The planner's input: for every layer its legal options with their error and costs, and what links layers.

Whoever prices options (a simulator, measured look-up tables, a paper's appendix) writes this document; the
planner needs nothing else. Errors add over layers: a plan's error is the sum of its options' errors. Latency
adds over layers too, since a layer starts when the one before it is done. Energies may contain a static part, what
the device draws as long as it runs: it is paid once, also by an ensemble, whose networks run at the same time.
Numbers mean what their shortest decimal form says (0.1 is one tenth): sums are exact in that sense.

Three ways to use parallel units are told apart:

* ``single``, ``rows``, ``terms``: the option's own ``cycles``, synchronisation included;
* telescoped ensemble (``Tables.ensembles``): P expanded networks and, for P ≥ 2, the base network run on
  separate units and only their outputs are combined, ``F ≈ Σ_m F_(base+G_m) − (P−1)·F_base``. Every layer
  holds its first ``base`` terms in all of them; each later term belongs to one expanded network. Latency is
  the largest over the expanded networks of the summed cycles of the terms they hold on one unit. Products of
  later terms in different networks are lost; ``Split.error`` says what that adds for a layer.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION: Literal[1] = 1
Way = Literal["single", "rows", "terms"]
Cost = Annotated[int, Field(ge=0, lt=2**50)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Property = Literal["act_bits", "weight_bits", "engine"]


class Document(BaseModel):
    """Frozen, and a field that is not known is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Split(Document):
    """How an option may be spread over an ensemble: its first ``base`` terms stay in every network."""

    predictors: int = Field(ge=2, description="expanded networks P for which this holds")
    base: int = Field(ge=1, description="terms held by every network; less than the order")
    error: Amount = Field(description="added to the option's error for the lost cross terms")
    static_pj: Amount = Field(default=0.0, description="as the option's, with the later terms spread evenly")


class LayerOption(Document):
    """One legal form of one layer and what it costs. ``None`` bits are float."""

    scheme: str = Field(min_length=1)
    weight_bits: int | None
    act_bits: int | None
    order: int = Field(default=1, ge=1)
    kept: tuple[int, ...] = ()
    engine: str = "default"
    way: Way = "single"
    recipe: tuple[str, ...] = ()
    error: Amount = Field(description="predicted output error that this choice adds")
    cycles: Cost
    energy_pj: Amount = 0.0
    static_pj: Amount = Field(
        default=0.0,
        description="the part of it that the whole device draws meanwhile: the networks of an ensemble share it",
    )
    bops: Cost = Field(default=0, description="bit operations, every term counted")
    weight_bytes: Cost = 0
    act_bytes: Cost = Field(default=0, description="bytes of this layer's activation while it is live")
    term_cycles: tuple[Cost, ...] = Field(
        default=(), description="each order on one unit, the launch with the first"
    )
    term_energy_pj: tuple[Amount, ...] = Field(default=(), description="of each order, without static_pj")
    term_bops: tuple[Cost, ...] = ()
    splits: tuple[Split, ...] = ()
    bound: str = Field(default="", description="what limits the speed: compute, memory, launch")

    @model_validator(mode="after")
    def _terms_are_complete(self) -> "LayerOption":
        if self.static_pj > self.energy_pj:
            raise ValueError(f"{self.scheme}: static_pj is a part of energy_pj and cannot be more")
        if self.splits:
            lengths = {len(self.term_cycles), len(self.term_energy_pj), len(self.term_bops)}
            if lengths != {self.order}:
                raise ValueError(f"{self.scheme}: splits need {self.order} term cycles, energies and BOPs")
            if len({(split.predictors, split.base) for split in self.splits}) < len(self.splits):
                raise ValueError(f"{self.scheme}: two splits for one number of predictors and one base")
            if any(split.base >= self.order for split in self.splits):
                raise ValueError(f"{self.scheme}: a split must leave one of {self.order} terms to spread")
            if self.way != "single":
                raise ValueError(f"{self.scheme}: splits belong to the option of way 'single'")
        return self


class LayerTable(Document):
    """All legal options of one layer."""

    name: str = Field(min_length=1)
    kind: str
    options: tuple[LayerOption, ...] = Field(min_length=1)
    group: str | None = Field(default=None, description="label of the tensor it reads; for display")
    macs: int = Field(default=0, ge=0)


class BoundaryRule(Document):
    """One case in which a boundary costs something; ``any`` matches all, ``None`` bits are float."""

    source_act_bits: int | Literal["any"] | None = "any"
    target_act_bits: int | Literal["any"] | None = "any"
    source_engine: str = "any"
    target_engine: str = "any"
    cycles: Cost = 0
    alone_cycles: Cost | None = Field(
        default=None, description="in a network of an ensemble, on its one unit; default: like `cycles`"
    )
    energy_pj: Amount = Field(default=0.0, description="of one network")


class Boundary(Document):
    """Price of handing an activation from one layer to another; every matching rule is paid."""

    source: str
    target: str
    rules: tuple[BoundaryRule, ...] = Field(min_length=1)


class Agreement(Document):
    """Layers whose chosen options must have the same properties (q/k/v of one norm, a residual stream)."""

    name: str
    layers: tuple[str, ...] = Field(min_length=2)
    on: tuple[Property, ...] = Field(default=("act_bits",), min_length=1)


class LiveSet(Document):
    """One step of the schedule: whose activations are live, and the bytes that no option changes.

    A layer stands once for every live tensor that has its width and size.
    """

    step: str
    layers: tuple[str, ...]
    fixed_bytes: Cost = 0


class Memory(Document):
    """A memory of the device that cannot spill: what it holds must fit."""

    name: str
    bytes: int = Field(gt=0)
    holds: tuple[Literal["weights", "activations"], ...] = Field(min_length=1)


class EnsembleChoice(Document):
    """A telescoped ensemble that the device can run: P expanded networks, plus the base network."""

    predictors: int = Field(ge=2)
    fixed_cycles: Cost = Field(default=0, description="vector work and launches of one network on one unit")
    fixed_energy_pj: Amount = Field(default=0.0, description="vector work of all networks, static part once")
    combine_cycles: Cost = Field(default=0, description="the one synchronisation at the output")
    activation_copies: int = Field(default=1, ge=1, description="live activations held at once in a memory")


class Tables(Document):
    """Everything the decision depends on."""

    schema_version: Literal[1] = SCHEMA_VERSION
    model: str = ""
    target: str = ""
    units: int = Field(default=1, ge=1)
    clock_hz: float = Field(default=1e9, gt=0, allow_inf_nan=False)
    layers: tuple[LayerTable, ...] = Field(min_length=1)
    fixed_cycles: Cost = Field(default=0, description="vector layers, launches: no option changes them")
    fixed_energy_pj: Amount = 0.0
    fixed_bops: Cost = 0
    fixed_weight_bytes: Cost = 0
    fixed_error: Amount = 0.0
    boundaries: tuple[Boundary, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    live_sets: tuple[LiveSet, ...] = ()
    memories: tuple[Memory, ...] = ()
    ensembles: tuple[EnsembleChoice, ...] = ()
    provenance: dict[str, str] = Field(default_factory=dict, description="hashes of model, weights, target")

    @model_validator(mode="after")
    def _names_are_known(self) -> "Tables":
        names = [layer.name for layer in self.layers]
        known = set(names)
        if len(known) != len(names):
            raise ValueError("two layers have the same name; every layer needs its own")
        links = [(f"boundary {b.source}->{b.target}", (b.source, b.target)) for b in self.boundaries]
        links += [(f"agreement {group.name}", group.layers) for group in self.agreements]
        for where, layers in [*links, *((f"live set {live.step}", live.layers) for live in self.live_sets)]:
            unknown = [name for name in layers if name not in known]
            if unknown:
                raise ValueError(f"{where}: layer {unknown[0]!r} has no table")
        for where, layers in links:
            if len(set(layers)) != len(layers):
                raise ValueError(f"{where}: a layer is listed twice")
        for ensemble in self.ensembles:
            if ensemble.predictors + 1 > self.units:
                raise ValueError(
                    f"ensemble of {ensemble.predictors} expanded networks and the base needs "
                    f"{ensemble.predictors + 1} units, there are {self.units}"
                )
        return self
