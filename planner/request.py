"""What is asked of the planner: objective, limits, layers pinned or options forbidden, and how to search."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from planner.tables import Document

Quantity = Literal["error", "latency", "energy", "bops", "weight_memory", "activation_memory"]
QUANTITIES: tuple[Quantity, ...] = (
    "error", "latency", "energy", "bops", "weight_memory", "activation_memory",
)  # fmt: skip
Limit = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Limits(Document):
    """Upper limits in the units of the tables; ``None`` is no limit. Latency is in seconds."""

    error: Limit | None = None
    latency: Limit | None = None
    energy: Limit | None = Field(default=None, description="picojoules")
    bops: Limit | None = None
    weight_memory: Limit | None = Field(default=None, description="bytes")
    activation_memory: Limit | None = Field(default=None, description="bytes live at once")


class Request(Document):
    """One question to the planner.

    ``pins`` and ``forbids`` are ``LAYERS=SCHEMES`` with shell wildcards on both sides (``blocks.0.*=w2*``),
    alternatives separated by ``|``. ``kind:depthwise=w8*`` selects layers by kind, and ``head=w>=8`` or
    ``*=a<=4`` bounds bits.
    """

    objective: tuple[Quantity, ...] = Field(default=("error",), min_length=1, max_length=2)
    slack: float = Field(
        default=0.0, ge=0, description="how far the first of two objectives may be given up, relative"
    )
    limits: Limits = Limits()
    pins: tuple[str, ...] = ()
    forbids: tuple[str, ...] = ()
    ensembles: bool = Field(default=True, description="consider the ensembles that the tables offer")
    seed: int = Field(default=0, ge=0, lt=2**31)
    workers: int = Field(default=1, ge=1)
    time_limit: float = Field(
        default=60.0, gt=0, description="seconds for the search; as long again to explain why nothing fits"
    )
    alternatives: int = Field(default=0, ge=0, description="further diverse plans to prove")
    explain: bool = Field(default=False, description="prices of the limits, by solving again")

    @model_validator(mode="after")
    def _objectives_differ(self) -> "Request":
        if len(set(self.objective)) != len(self.objective):
            raise ValueError("objective: the two objectives of a lexicographic pair must differ")
        return self
