"""What the user asked of ``hwsim plan``, as plain data with SI units."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hwsim.errors import UserError

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
    widths: Widths = field(default_factory=Widths)
    limits: Limits = field(default_factory=Limits)
    objective: Objective | None = None
    pins: tuple[str, ...] = ()
    forbids: tuple[str, ...] = ()
    batch: int = 1
    sequence: int | None = None
    time_limit: float = 60.0
    seed: int = 0
    workers: int = 1
    pareto: int = 0
    strict: bool = False
    resume: bool = False
    command: str = ""
