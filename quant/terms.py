"""One integer term of a quantized weight, and the stack that a product runs on.

A weight (O, I) is stored as a sum of terms W ~ sum_k scale_k[r] * codes_k, the first over all rows and
columns, later ones over all, over some rows or over some input columns (PIPE/REx residual expansion; a plain
quantized layer has one term). Convolution kernels are flattened to (out channels, in/groups * kh * kw).
"""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from quant.errors import QuantError


@dataclass(frozen=True, eq=False)
class Term:
    """Integer codes of one order and their row scales.

    Invariants (`check`): codes are int8 (int16 above 8 bits) of shape (rows kept, columns kept); with b bits
    they lie in -2^(b-1) to 2^(b-1)-1, or are -1/+1 for b = 1; `scale` is float32, finite, of either sign, one per
    row; `rows` / `cols` are int32, strictly increasing, and at most one of them is given.
    """

    codes: Tensor
    scale: Tensor
    bits: int
    rows: Tensor | None = None
    cols: Tensor | None = None

    def check(self, where: str, shape: tuple[int, int]) -> None:
        """Raise `QuantError` naming `where` unless the invariants hold for a weight of `shape`."""
        if self.rows is not None and self.cols is not None:
            raise QuantError(f"{where}: a term is sparse in rows or in columns, not both")
        expected = (
            shape[0] if self.rows is None else len(self.rows),
            shape[1] if self.cols is None else len(self.cols),
        )
        if tuple(self.codes.shape) != expected or tuple(self.scale.shape) != expected[:1]:
            raise QuantError(f"{where}: codes {tuple(self.codes.shape)} do not match the term's {expected}")
        if self.codes.dtype != (torch.int8 if self.bits <= 8 else torch.int16):
            raise QuantError(f"{where}: codes of {self.bits} bits stored as {self.codes.dtype}")
        if self.scale.dtype != torch.float32 or not bool(torch.isfinite(self.scale).all()):
            raise QuantError(f"{where}: scales must be finite float32 values")
        self._check_codes(where)
        for index, size in ((self.rows, shape[0]), (self.cols, shape[1])):
            if index is not None:
                _check_index(index, size, where)

    def _check_codes(self, where: str) -> None:
        low, high = (-1, 1) if self.bits == 1 else (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1)
        outside = bool(((self.codes < low) | (self.codes > high)).any())
        if outside or (self.bits == 1 and bool((self.codes == 0).any())):
            raise QuantError(f"{where}: a code lies outside the {self.bits}-bit range {low} to {high}")

    def dense(self, shape: tuple[int, int]) -> Self:
        """The same term over all rows and columns, zero codes elsewhere (a binary term becomes 2-bit)."""
        if self.rows is None and self.cols is None:
            return self
        codes = torch.zeros(shape, dtype=self.codes.dtype)
        scale = torch.ones(shape[0])
        if self.rows is not None:
            codes[self.rows.long()], scale[self.rows.long()] = self.codes, self.scale
        elif self.cols is not None:
            codes[:, self.cols.long()], scale = self.codes, self.scale
        return replace(self, codes=codes, scale=scale, bits=max(2, self.bits), rows=None, cols=None)

    def value(self, shape: tuple[int, int]) -> Tensor:
        """The float32 weight this term stands for."""
        full = self.dense(shape)
        return full.codes.to(torch.float32) * full.scale[:, None]


@dataclass(frozen=True, eq=False)
class Stack:
    """Terms of one layer stacked for one product: row terms first, then one block for each column term."""

    codes: Tensor
    scale: Tensor
    rows: Tensor | None
    parts: tuple[int, ...]
    columns: tuple[tuple[Tensor, Tensor], ...]
    """(codes, cols) of the terms that read only some input columns; all output rows each."""


def _check_index(index: Tensor, size: int, where: str) -> None:
    values = index.to(torch.int64)
    ordered = len(values) < 2 or bool((values[1:] > values[:-1]).all())
    inside = len(values) == 0 or (int(values[0]) >= 0 and int(values[-1]) < size)
    if index.dtype != torch.int32 or not ordered or not inside:
        raise QuantError(f"{where}: kept rows or columns must be increasing int32 indices below {size}")


def stack_terms(terms: Sequence[Term], shape: tuple[int, int]) -> Stack:
    """Put all terms into one product; `rows` is None where every term covers every row."""
    used = [term for index, term in enumerate(terms) if index == 0 or term.codes.numel()]
    in_rows = [term for term in used if term.cols is None]
    in_columns = [term for term in used if term.cols is not None]
    ordered = [*in_rows, *in_columns]
    rows = None
    if any(term.rows is not None for term in ordered):
        everything = torch.arange(shape[0], dtype=torch.int32)
        rows = torch.cat([everything if term.rows is None else term.rows for term in ordered])
    return Stack(
        codes=torch.cat([term.codes for term in in_rows]).contiguous(),
        scale=torch.cat([term.scale for term in ordered]),
        rows=rows,
        parts=tuple(len(term.scale) for term in ordered),
        columns=tuple((term.codes, term.cols) for term in in_columns if term.cols is not None),
    )


def weight_of(terms: Sequence[Term], shape: tuple[int, int]) -> Tensor:
    """The float32 weight that the terms add up to, in their order."""
    total = torch.zeros(shape)
    for term in terms:
        total += term.value(shape)
    return total
