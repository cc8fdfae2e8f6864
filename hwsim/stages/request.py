"""What the user asked of ``hwsim plan``, as plain data with SI units.

``plan_request`` reads the flags; the command line and ``hwsim.plan`` both come through it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from hwsim.errors import UserError
from hwsim.model.sources import parse_source
from hwsim.units import Dimension, Quantity, quantity

Objective = Literal["error", "latency", "energy"]
_WIDTH = re.compile(r"w(\d+)a(\d+)")


@dataclass(frozen=True)
class Widths:
    """The widths the user allows: pairs like ``w4a8``, or plain bits that hold for both operands."""

    pairs: frozenset[tuple[int, int]] = frozenset()
    bits: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "Widths":
        """Read ``4,8`` or ``w4a8,w8a8``."""
        pairs: set[tuple[int, int]] = set()
        bits: set[int] = set()
        for word in filter(None, (part.strip() for part in text.split(","))):
            pair = _WIDTH.fullmatch(word)
            if pair:
                pairs.add((int(pair.group(1)), int(pair.group(2))))
            elif word.isdigit() and 1 <= int(word) <= 16:
                bits.add(int(word))
            else:
                raise UserError(
                    f"--bits: {word!r} is not a width; write bits like 4,8 or pairs like w4a8,w8a8"
                )
        return cls(frozenset(pairs), frozenset(bits))

    def allow(self, weight_bits: int, act_bits: int) -> bool:
        """Whether this pair may be used; no restriction allows all."""
        if not self.pairs and not self.bits:
            return True
        both = weight_bits in self.bits and act_bits in self.bits
        return both or (weight_bits, act_bits) in self.pairs

    def __str__(self) -> str:
        words = [f"w{w}a{a}" for w, a in sorted(self.pairs)] + [str(bits) for bits in sorted(self.bits)]
        return ",".join(words)


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
        return any(getattr(self, name) is not None for name in self.__dataclass_fields__)


@dataclass(frozen=True)
class PlanRequest:
    """Everything that decides the plan, and how to run."""

    target: str
    model: str
    output_dir: Path
    weights: Path | None = None
    calibration_data: str | None = None
    measured: int = 0
    widths: Widths = field(default_factory=Widths)
    limits: Limits = field(default_factory=Limits)
    objective: tuple[Objective, ...] = ()
    pins: tuple[str, ...] = ()
    forbids: tuple[str, ...] = ()
    batch: int = 1
    sequence: int | None = None
    time_limit: float = 60.0
    seed: int = 0
    workers: int = 1
    pareto: int = 0
    alternatives: int = 0
    explain: bool = False
    warm_start: Path | None = None
    strict: bool = False
    resume: bool = False
    command: str = ""


def plan_request(
    *,
    target: str,
    model: str,
    output_dir: Path | None = None,
    weights: Path | None = None,
    calibration_data: str | None = None,
    measured: int = 0,
    bits: str = "",
    max_latency: Quantity = None,
    max_bops: Quantity = None,
    max_weight_memory: Quantity = None,
    max_activation_memory: Quantity = None,
    max_energy: Quantity = None,
    max_error: float | None = None,
    objective: str | None = None,
    pin: Sequence[str] | None = None,
    forbid: Sequence[str] | None = None,
    batch: int = 1,
    sequence: int | None = None,
    pareto: int = 0,
    alternatives: int = 0,
    explain: bool = False,
    warm_start: Path | None = None,
    time_limit: Quantity = "60s",
    seed: int = 0,
    workers: int = 1,
    strict: bool = False,
    resume: bool = False,
    command: str = "",
) -> PlanRequest:
    """The request behind the flags of ``hwsim plan``; a mistake in one of them is named."""
    for value, flag, example in ((target, "--target", "edge_gpu"), (model, "--model", "vit_b")):
        if not value:
            raise UserError(f"{flag} is missing; for example {flag} {example}")
    parse_source(model)  # a slip in the name shows before anything is loaded
    if max_error is not None and not max_error > 0:
        raise UserError(f"--max-error: {max_error} must be greater than 0")
    if measured and calibration_data is None:
        raise UserError("--measured needs samples: name them with --calibration-data")

    def limit(value: Quantity, dimension: Dimension, flag: str) -> float | None:
        return None if value is None else quantity(value, dimension, flag)

    return PlanRequest(
        target=target,
        model=model,
        output_dir=output_dir or Path("out") / f"{stem(model)}-{stem(target)}",
        weights=weights,
        calibration_data=calibration_data,
        measured=measured,
        widths=Widths.parse(bits),
        limits=Limits(
            latency=limit(max_latency, "time", "--max-latency"),
            bops=limit(max_bops, "count", "--max-bops"),
            weight_memory=limit(max_weight_memory, "bytes", "--max-weight-memory"),
            activation_memory=limit(max_activation_memory, "bytes", "--max-activation-memory"),
            energy=limit(max_energy, "energy", "--max-energy"),
            error=max_error,
        ),
        objective=_objectives(objective),
        pins=tuple(pin or ()),
        forbids=tuple(forbid or ()),
        batch=batch,
        sequence=sequence,
        time_limit=quantity(time_limit, "time", "--time-limit"),
        seed=seed,
        workers=workers,
        pareto=pareto,
        alternatives=alternatives,
        explain=explain,
        warm_start=warm_start,
        strict=strict,
        resume=resume,
        command=command,
    )


def _objectives(text: str | None) -> tuple[Objective, ...]:
    """One quantity, or two of which the second decides among the best plans of the first."""
    if text is None:
        return ()
    known: dict[str, Objective] = {name: name for name in get_args(Objective)}
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in known:
            raise UserError(f"--objective: {word!r} is not one of {', '.join(known)}")
    if len(words) > 2 or len(set(words)) < len(words):
        raise UserError(f"--objective: {text!r} must name one quantity, or two different ones with a comma")
    return tuple(known[word] for word in words)


def stem(text: str) -> str:
    """A model or target as part of a directory's name."""
    name = Path(text.partition(":")[2] or text).name
    for suffix in (".yaml", ".yml", ".py", ".pt2"):
        name = name.removesuffix(suffix)
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name) or "model"
