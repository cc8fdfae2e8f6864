"""How one layer is quantized, in one word: `w4a8.o2.g50.e2`.

The word is written in plans, on the command line, in reports and in tests, and only this file reads and
prints it. Its grammar:

    scheme  = "fp" | "w" BITS [ "a" BITS ] { "." part } { "+" method }
    part    = "o" ORDER                  residual expansion with ORDER terms (methods: PIPE, REx)
            | ("g" | "c") P { "-" P }    percent of rows (g) or input columns (c) kept in order 2, 3, ...
            | "b1"                       the last term is binary: one bit and one scale per row
            | "e" N                      N parallel predictors (telescoped ensemble)

A single percentage holds for every later order; the default is 100. Without `a` the activations stay in
float (weight-only quantization). In a product of two activations (attention) `w` is the width of the second
operand. Parts are printed in the order above, and defaults are not printed, so equal schemes print equally.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

from quant.errors import QuantError

Axis = Literal["rows", "columns"]

WEIGHT_BITS = range(1, 17)
ACT_BITS = range(2, 17)
MAX_ORDER = 8
MAX_PREDICTORS = 16

_HEAD = re.compile(r"w(\d{1,2})(?:a(\d{1,2}))?")
_METHOD = re.compile(r"[a-z][a-z0-9_]*")
_PART = re.compile(
    r"(?:o(?P<order>\d{1,2})|(?P<axis>[gc])(?P<kept>\d{1,3}(?:-\d{1,3})*)|(?P<binary>b1)|e(?P<predictors>\d{1,2}))"
)
_PART_ORDER = ("order", "axis", "binary", "predictors")


@dataclass(frozen=True, slots=False)
class Scheme:
    """The quantized form of one layer.

    Invariants, checked on construction:
    - `weight_bits is None` means float (`fp`): nothing else is set except perhaps `recipe`;
    - `kept` is empty (all groups) or has one percentage for each of the orders 2..`order`;
    - `axis`, `binary_last` and `predictors > 1` only where there is a second order.
    """

    weight_bits: int | None
    act_bits: int | None
    order: int = 1
    kept: tuple[int, ...] = ()
    axis: Axis = "rows"
    binary_last: bool = False
    predictors: int = 1
    recipe: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._normalise()
        self._check_widths()
        self._check_terms()
        for method in self.recipe:
            if not _METHOD.fullmatch(method):
                raise QuantError(f"scheme method {method!r}: use lower-case letters, digits and _")
        if len(set(self.recipe)) != len(self.recipe):
            raise QuantError(f"scheme methods {'+'.join(self.recipe)}: one of them is named twice")

    def _normalise(self) -> None:
        kept = self.kept
        if len(kept) == 1 and self.order > 2:
            kept = kept * (self.order - 1)
        if all(percent == 100 for percent in kept):
            kept = ()
        object.__setattr__(self, "kept", kept)
        if not kept:
            object.__setattr__(self, "axis", "rows")

    def _check_widths(self) -> None:
        if self.weight_bits is None:
            if self.act_bits is not None or self.order != 1 or self.predictors != 1:
                raise QuantError("scheme fp: a layer in float has no activation bits, orders or predictors")
            return
        if self.weight_bits not in WEIGHT_BITS:
            raise QuantError(f"scheme weight bits {self.weight_bits}: use 1 to {WEIGHT_BITS[-1]}")
        if self.act_bits is not None and self.act_bits not in ACT_BITS:
            raise QuantError(f"scheme activation bits {self.act_bits}: use 2 to {ACT_BITS[-1]}")

    def _check_terms(self) -> None:
        if not 1 <= self.order <= MAX_ORDER:
            raise QuantError(f"scheme order {self.order}: use 1 to {MAX_ORDER}")
        if self.kept and len(self.kept) != self.order - 1:
            raise QuantError(
                f"scheme keeps {len(self.kept)} percentages: order {self.order} takes one or {self.order - 1}"
            )
        if any(not 0 <= percent <= 100 for percent in self.kept):
            raise QuantError(f"scheme keeps {self.kept}: percentages go from 0 to 100")
        if self.binary_last and self.order < 2:
            raise QuantError("scheme b1: a binary last term needs order 2 or more")
        if not 1 <= self.predictors <= MAX_PREDICTORS:
            raise QuantError(f"scheme predictors {self.predictors}: use 1 to {MAX_PREDICTORS}")
        if self.predictors > 1 and self.order < 2:
            raise QuantError("scheme e: an ensemble needs order 2 or more")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a scheme; raises `QuantError` that names the part that is wrong."""
        body, *recipe = text.strip().split("+")
        head, *parts = body.split(".")
        if head == "fp":
            if parts:
                raise QuantError(f"scheme {text!r}: fp takes no parts, drop .{'.'.join(parts)}")
            return cls(None, None, recipe=tuple(recipe))
        widths = _HEAD.fullmatch(head)
        if widths is None:
            raise QuantError(f"scheme {text!r}: begin with fp or widths such as w4a8, found {head!r}")
        weight, act = widths.groups()
        fields = _read_parts(text, parts)
        kept = tuple(int(percent) for percent in fields.get("kept", "").split("-") if percent)
        return cls(
            weight_bits=int(weight),
            act_bits=int(act) if act else None,
            order=int(fields.get("order", "1")),
            kept=kept,
            axis="columns" if fields.get("axis") == "c" else "rows",
            binary_last="binary" in fields,
            predictors=int(fields.get("predictors", "1")),
            recipe=tuple(recipe),
        )

    @cached_property
    def text(self) -> str:
        """The canonical spelling."""
        if self.weight_bits is None:
            body = "fp"
        else:
            body = f"w{self.weight_bits}"
            body += f"a{self.act_bits}" if self.act_bits is not None else ""
            body += f".o{self.order}" if self.order > 1 else ""
            body += self._kept_text()
            body += ".b1" if self.binary_last else ""
            body += f".e{self.predictors}" if self.predictors > 1 else ""
        return "+".join((body, *self.recipe))

    def _kept_text(self) -> str:
        if not self.kept:
            return ""
        percents = self.kept[:1] if len(set(self.kept)) == 1 else self.kept
        return f".{'c' if self.axis == 'columns' else 'g'}{'-'.join(map(str, percents))}"

    def __str__(self) -> str:
        return self.text

    @property
    def between_activations(self) -> "Scheme":
        """What is left of it in a product of two activations: their width on both sides, nothing to expand."""
        return Scheme(self.act_bits, self.act_bits)

    @property
    def is_float(self) -> bool:
        """True where the layer stays in float."""
        return self.weight_bits is None

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """Fraction of the groups that each order covers, the first order (1.0) included."""
        return (1.0, *(percent / 100 for percent in self.kept or (100,) * (self.order - 1)))

    @cached_property
    def term_bits(self) -> tuple[int, ...]:
        """Weight bits of each order; a binary last term has one."""
        if self.weight_bits is None:
            return ()
        last = 1 if self.binary_last else self.weight_bits
        return (*(self.weight_bits,) * (self.order - 1), last) if self.order > 1 else (self.weight_bits,)

    @cached_property
    def bits_per_weight(self) -> float:
        """Stored bits per weight without scales and index lists; 32 in float."""
        if self.weight_bits is None:
            return 32.0
        return sum(share * bits for share, bits in zip(self.shares, self.term_bits, strict=True))


FLOAT = Scheme(None, None)


def _read_parts(text: str, parts: list[str]) -> dict[str, str]:
    """The named parts of a scheme, each at most once and in the printed order."""
    fields: dict[str, str] = {}
    last = -1
    for part in parts:
        match = _PART.fullmatch(part)
        if match is None:
            raise QuantError(f"scheme {text!r}: part .{part} is none of .oK .gP .cP .b1 .eN")
        found = {key: value for key, value in match.groupdict().items() if value is not None}
        position = _PART_ORDER.index(next(key for key in _PART_ORDER if key in found))
        if position <= last:
            raise QuantError(
                f"scheme {text!r}: part .{part} is repeated or misplaced; write .o .g .b1 .e in this order"
            )
        last = position
        fields |= found
    return fields
