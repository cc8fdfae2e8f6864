"""Proof of integers: which multiply-accumulates of the compiled program are integer, and which are not.

The proof does not trust the lowering. It walks the TensorIR of every kernel that the program calls: each
multiplication of two loaded operands that feeds an addition (a multiply-accumulate) over a constant buffer
of weights is looked at, and its type decides. Elementwise arithmetic on one value per output (scales, biases,
normalization weights) is vector work, not a product, and is counted apart.
"""
# pyright: basic

from dataclasses import dataclass
from typing import Any

from hwsim.compile.program import Program, kernel_macs


@dataclass(frozen=True)
class IntegerProof:
    """Multiply-accumulates by kind, and the layers whose products are in float."""

    integer_macs: int
    float_macs: int
    float_layers: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of multiply-accumulates in integer; 1 where there is none at all."""
        total = self.integer_macs + self.float_macs
        return self.integer_macs / total if total else 1.0

    def document(self) -> dict[str, Any]:
        """Plain data for the manifest and the report."""
        return {
            "integer_macs": self.integer_macs,
            "float_macs": self.float_macs,
            "integer_share": self.share,
            "float_layers": list(self.float_layers),
        }


def integer_proof(program: Program) -> IntegerProof:
    """Count the products of a program by the type of their operands."""
    integer, floating = 0, 0
    layers: list[str] = []
    for step in program.steps:
        macs = kernel_macs(step.kernel)
        if not macs:
            continue
        if all(buffer.dtype in ("uint8", "int8", "int32") for buffer in step.buffers[:2]):
            integer += macs
        else:
            floating += macs
            layers.append(step.layer)
    return IntegerProof(integer, floating, tuple(dict.fromkeys(layers)))
