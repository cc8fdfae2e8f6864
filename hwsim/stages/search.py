"""What ``plan`` and ``solve`` both ask of the planner: limits, objective, pins, and how long to search.

Flags become plain data in SI units here, and plain data the planner's ``Request``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict, cast

from hwsim.errors import UserError
from hwsim.units import Dimension, quantity
from hwsim.units import Quantity as Given

if TYPE_CHECKING:
    from planner.request import Quantity, Request

_PICO = 1e12


class SearchFlags(TypedDict, total=False):
    """Flags as people give them."""

    max_latency: Given
    max_bops: Given
    max_weight_memory: Given
    max_activation_memory: Given
    max_energy: Given
    max_error: float | None
    objective: str | None
    pin: Sequence[str] | None
    forbid: Sequence[str] | None
    alternatives: int
    explain: bool
    time_limit: Given
    seed: int
    workers: int


@dataclass(frozen=True)
class Limits:
    """Upper limits of the plan in seconds, bit operations, bytes, joules and nats; None is no limit."""

    latency: float | None = None
    bops: float | None = None
    weight_memory: float | None = None
    activation_memory: float | None = None
    energy: float | None = None
    error: float | None = None

    @property
    def any(self) -> bool:
        """Whether the user set a limit at all."""
        return any(value is not None for value in asdict(self).values())


@dataclass(frozen=True)
class Search:
    """One question to the planner, in SI units."""

    limits: Limits = field(default_factory=Limits)
    objective: "tuple[Quantity, ...]" = ()
    pins: tuple[str, ...] = ()
    forbids: tuple[str, ...] = ()
    alternatives: int = 0
    explain: bool = False
    time_limit: float = 60.0
    seed: int = 0
    workers: int = 1


def search_flags(values: Mapping[str, Any]) -> SearchFlags:
    """These flags among all the arguments of a verb; a verb that lacks one is a slip of ours (``KeyError``)."""
    return cast("SearchFlags", {name: values[name] for name in SearchFlags.__annotations__})


def read_search(flags: SearchFlags, objectives: "Sequence[Quantity]") -> Search:
    """The question behind the flags; a mistake in one of them is named."""

    def limit(name: str, dimension: Dimension) -> float | None:
        value: Given = flags.get(name)
        return None if value is None else quantity(value, dimension, f"--{name.replace('_', '-')}")

    return Search(
        limits=Limits(
            latency=limit("max_latency", "time"),
            bops=limit("max_bops", "count"),
            weight_memory=limit("max_weight_memory", "bytes"),
            activation_memory=limit("max_activation_memory", "bytes"),
            energy=limit("max_energy", "energy"),
            error=flags.get("max_error"),
        ),
        objective=_objective(flags.get("objective"), objectives),
        pins=tuple(flags.get("pin") or ()),
        forbids=tuple(flags.get("forbid") or ()),
        alternatives=flags.get("alternatives", 0),
        explain=flags.get("explain", False),
        time_limit=quantity(flags.get("time_limit", "60s"), "time", "--time-limit"),
        seed=flags.get("seed", 0),
        workers=flags.get("workers", 1),
    )


def _objective(text: str | None, known: "Sequence[Quantity]") -> "tuple[Quantity, ...]":
    """One quantity, or two of which the second decides among the best plans of the first."""
    if text is None:
        return ()
    by_name: dict[str, Quantity] = {name: name for name in known}
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in by_name:
            raise UserError(f"--objective: {word!r} is not one of {', '.join(known)}")
    if len(words) > 2 or len(set(words)) < len(words):
        raise UserError(f"--objective: {text!r} must name one quantity, or two different ones with a comma")
    return tuple(by_name[word] for word in words)


def planner_request(search: Search, *, ensembles: bool = True) -> "Request":
    """The planner's own document of the question: energies in picojoules."""
    from pydantic import ValidationError

    from hwsim.documents import first_mistake
    from planner.request import Request

    fields = asdict(search)
    energy = search.limits.energy
    fields["limits"]["energy"] = None if energy is None else energy * _PICO
    try:
        return Request.model_validate({**fields, "ensembles": ensembles})
    except ValidationError as error:
        raise UserError(f"request: {first_mistake(error)}") from error
