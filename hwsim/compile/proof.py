"""Proof of integers: which multiply-accumulates of the compiled program are integer, and which are not.

The proof does not trust the lowering. For every kernel that multiplies stored weights (or the packed right
operand of an attention product) it walks the TensorIR that is compiled and collects every multiplication, or
call of a dot-product instruction, that a load of the weights flows into. A step is integer only if all of
them are. Scales, biases and normalization weights act once on each output: that is vector work, not a product.
"""
# pyright: basic
# TVM ships no type stubs.

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import tvm

from hwsim.compile.build import Kernel, cache_directory, kernel_name
from hwsim.compile.isa import Isa
from hwsim.compile.program import Program
from hwsim.files import write_text


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


def integer_proof(program: Program, isa: Isa) -> IntegerProof:
    """Walk every kernel of the program and add up its products by the types found in the code."""
    integer, floating = 0, 0
    layers: list[str] = []
    for step in program.steps:
        types = weight_multiplications(step.kernel, isa)
        if not types and not step.macs:
            continue
        if types and not any(name.startswith(("float", "bfloat")) for name in types):
            integer += step.macs
        else:
            floating += step.macs
            layers.append(step.layer)
    return IntegerProof(integer, floating, tuple(dict.fromkeys(layers)))


@cache
def weight_multiplications(kernel: Kernel, isa: Isa) -> frozenset[str]:
    """Types of all multiplications, in the compiled code, that a load of the weights flows into.

    The answer is kept beside the compiled object under the same name, which hashes all that decides the code.
    """
    path = cache_directory() / f"{kernel_name(kernel, isa)}.types"
    if not path.is_file():
        write_text(path, " ".join(sorted(_multiplications(kernel, isa))) + "\n")
    return frozenset(path.read_text(encoding="utf-8").split())


def _multiplications(kernel: Kernel, isa: Isa) -> frozenset[str]:
    weights = {name for name, _, _ in kernel.arguments(isa) if name.endswith("weights")}
    if not weights:
        return frozenset()
    function = kernel.build("proof", isa)
    tainted = weights
    types: set[str] = set()
    # Names are unique in a kernel and bound before they are used, so one walk in order sees every flow.
    for node in _walk(function.body):
        kind = type(node).__name__
        if kind == "Bind" and _reads(node.value, tainted):
            tainted.add(node.var.name)
        if (
            kind == "BufferStore"
            and str(node.value.ty.dtype).startswith("int8")
            and _reads(node.value, tainted)
        ):
            tainted.add(node.buffer.name)  # unpacked for tile registers
        multiplies = kind == "Mul" or (kind == "Call" and any(name in str(node.op) for name in _INSTRUCTIONS))
        if multiplies and _reads(node, tainted):
            types.add(str(node.ty.dtype))
    return frozenset(types)


_INSTRUCTIONS = ("call_llvm_pure_intrin", "call_pure_extern", "call_extern", "call_llvm_intrin")
_CHILDREN = (
    "body", "seq", "then_case", "else_case", "value", "source", "indices", "a", "b", "args", "base", "vectors",
    "condition", "true_value", "false_value",
)  # fmt: skip


def _walk(node: Any) -> Iterator[Any]:
    """All statements and expressions, parents before children, in the order of execution."""
    if node is None or isinstance(node, bool | int | float | str):
        return
    if isinstance(node, list | tuple | tvm.ir.Array):
        for item in node:
            yield from _walk(item)
        return
    yield node
    for name in _CHILDREN:
        if hasattr(type(node), name):
            yield from _walk(getattr(node, name))


def _reads(expression: Any, names: set[str]) -> bool:
    return any(type(node).__name__ == "Var" and node.name in names for node in _walk(expression))
