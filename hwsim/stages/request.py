"""What the user asked of ``hwsim plan``, as plain data with SI units.

``plan_request`` reads the flags; the command line and ``hwsim.plan`` both come through it.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from hwsim.errors import UserError
from hwsim.files import existing_data
from hwsim.model.sources import parse_source
from hwsim.stages.search import Search, SearchFlags, read_search

OBJECTIVES = ("error", "latency", "energy")
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
class PlanRequest:
    """Everything that decides the plan, and how to run."""

    target: str
    model: str
    output_dir: Path
    search: Search = field(default_factory=Search)
    weights: Path | None = None
    calibration_data: str | None = None
    measured: int = 0
    widths: Widths = field(default_factory=Widths)
    batch: int = 1
    sequence: int | None = None
    pareto: int = 0
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
    batch: int = 1,
    sequence: int | None = None,
    pareto: int = 0,
    warm_start: Path | None = None,
    strict: bool = False,
    resume: bool = False,
    command: str = "",
    **flags: Unpack[SearchFlags],
) -> PlanRequest:
    """The request behind the flags of ``hwsim plan``; a mistake in one of them is named."""
    for value, flag, example in ((target, "--target", "edge_gpu"), (model, "--model", "vit_b")):
        if not value:
            raise UserError(f"{flag} is missing; for example {flag} {example}")
    parse_source(model)  # a slip in the name shows before anything is loaded
    search = read_search(flags, OBJECTIVES)
    if search.limits.error is not None and not search.limits.error > 0:
        raise UserError(f"--max-error: {search.limits.error} must be greater than 0")
    if measured and calibration_data is None:
        raise UserError("--measured needs samples: name them with --calibration-data")
    if calibration_data is not None:
        existing_data(calibration_data, "--calibration-data")
    return PlanRequest(
        target=target,
        model=model,
        output_dir=output_dir or Path("out") / f"{stem(model)}-{stem(target)}",
        search=search,
        weights=weights,
        calibration_data=calibration_data,
        measured=measured,
        widths=Widths.parse(bits),
        batch=batch,
        sequence=sequence,
        pareto=pareto,
        warm_start=warm_start,
        strict=strict,
        resume=resume,
        command=command,
    )


def stem(text: str) -> str:
    """A model or target as part of a directory's name."""
    name = Path(text.partition(":")[2] or text).name
    for suffix in (".yaml", ".yml", ".py", ".pt2"):
        name = name.removesuffix(suffix)
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name) or "model"
