"""One product in integers: its terms, its bias, the quantizers of its inputs, and the overflow check."""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quant.activation import ActQuantizer
from quant.errors import QuantError
from quant.group_bias import GroupBias
from quant.log_codes import LogQuantizer
from quant.model_pass import Kind
from quant.scheme import Scheme
from quant.terms import Term, weight_of

Holds = tuple[tuple[int, ...], ...]
"""Orders, from 1, that each network of an ensemble holds."""

ACCUMULATOR_LIMIT = 2**31 - 1


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """One product in integers.

    Invariants (`check`): `terms[0]` covers the whole weight, and every term fits `shape` flattened to
    (channels, rest); `bias` is float32, one per channel, and belongs to the layer, not to a term;
    `inputs` names one activation quantizer (two for a matmul, none for weight-only layers).
    """

    name: str
    kind: Kind
    scheme: Scheme
    shape: tuple[int, ...]
    terms: tuple[Term, ...] = ()
    bias: Tensor | None = None
    inputs: tuple[str, ...] = ()
    groups: GroupBias | None = None

    @property
    def matrix(self) -> tuple[int, int]:
        """Shape of the flattened weight."""
        return self.shape[0], int(torch.Size(self.shape[1:]).numel())

    def weight(self) -> Tensor:
        """The float weight that the terms stand for, in the shape of the original."""
        return weight_of(self.terms, self.matrix).reshape(self.shape)

    def check(self, activations: Mapping[str, ActQuantizer | LogQuantizer]) -> None:
        """Raise `QuantError` naming the layer unless the invariants hold and no accumulator overflows."""
        missing = [name for name in self.inputs if name not in activations]
        if missing:
            raise QuantError(f"{self.name}: no activation quantizer {missing[0]}")
        readers = self.inputs[1:] if self.kind == "matmul" else self.inputs
        if any(isinstance(activations[name], LogQuantizer) for name in readers):
            raise QuantError(
                f"{self.name}: log codes multiply only as the left operand of a product of two activations; "
                "drop the step logsoftmax"
            )
        if self.kind == "matmul":
            return
        first = self.terms[0] if self.terms else None
        if first is None or first.rows is not None or first.cols is not None:
            raise QuantError(f"{self.name}: the first term must cover the whole weight")
        for order, term in enumerate(self.terms, 1):
            term.check(f"{self.name}, term {order}", self.matrix)
            if self.inputs:
                span = activations[self.inputs[0]].span
                check_accumulator(self.name, _row_sum(term.codes) * span)
        if self.bias is not None and tuple(self.bias.shape) != self.shape[:1]:
            raise QuantError(f"{self.name}: bias {tuple(self.bias.shape)} for {self.shape[0]} channels")
        if self.groups is not None and self.groups.values.shape[1:] != self.shape[:1]:
            found = tuple(self.groups.values.shape)
            raise QuantError(f"{self.name}: biases {found} of position groups for {self.shape[0]} channels")


def _row_sum(codes: Tensor) -> int:
    """Largest sum of absolute codes of one row."""
    return int(codes.to(torch.int64).abs().sum(1).max()) if codes.numel() else 0


def check_accumulator(name: str, worst: int) -> None:
    """Raise `QuantError` where a sum of products could leave a 32-bit accumulator."""
    if worst > ACCUMULATOR_LIMIT:
        raise QuantError(
            f"{name}: a sum of products can reach {worst}, beyond a 32-bit accumulator; use fewer bits here"
        )
