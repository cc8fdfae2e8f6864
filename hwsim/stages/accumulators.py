"""Drop offered schemes whose sums could leave the accumulators of the engines that would run them.

Quantized models sum in 32 bits, so a wider accumulator is used up to those; a narrower one narrows the choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwsim.errors import UserError
from hwsim.stages.options import product_kind
from quant.scheme import Scheme

if TYPE_CHECKING:
    from torch import Tensor

    from hwsim.model.graph import Layer
    from hwsim.target.schema import Target

INTEGER_BITS = 32


def accumulator_bits(layer: "Layer", target: "Target") -> int:
    """Of the widest accumulator among the engines that serve the layer; at most what quantized models use."""
    kind = product_kind(layer)
    found = [engine.accumulator_bits for engine in target.engines if kind in engine.serves]
    return min(INTEGER_BITS, max(found, default=INTEGER_BITS))


@dataclass(frozen=True)
class Fitting:
    """Schemes of each layer that stay inside, and by the layer's name those that do not."""

    offered: list[list[Scheme]]
    overflowing: dict[str, list[Scheme]]

    def remark(self, target: str) -> str | None:
        """What is told of the widths that the person asked for and that some layers cannot have."""
        pairs: dict[str, int] = {}
        for schemes in self.overflowing.values():
            for pair in {
                f"w{scheme.weight_bits}a{scheme.act_bits}" for scheme in schemes if scheme.order == 1
            }:
                pairs[pair] = pairs.get(pair, 0) + 1
        if not pairs:
            return None
        told = ", ".join(f"{pair} to {count} of {len(self.offered)}" for pair, count in sorted(pairs.items()))
        return f"not offered, as sums could leave the accumulators of {target}: {told} layers"


def fitting_schemes(
    layers: "Sequence[Layer]",
    offered: Sequence[Sequence[Scheme]],
    target: "Target",
    weights: "Mapping[str, Tensor] | None",
) -> Fitting:
    """Check every layer's schemes; ``weights`` by name, None where only shapes are known."""
    found = Fitting([], {})
    for layer, schemes in zip(layers, offered, strict=True):
        bits = accumulator_bits(layer, target)
        weight = None if weights is None or layer.packed_weight is None else weights.get(layer.packed_weight)
        fitting = [scheme for scheme in schemes if _worst(layer, scheme, weight) < 2 ** (bits - 1)]
        if not fitting:
            raise UserError(
                f"layer {layer.name}: its sums over {layer.k} products can leave the {bits}-bit accumulators of "
                f"{target.name} in {', '.join(map(str, schemes))}; allow narrower widths with --bits"
            )
        found.offered.append(fitting)
        if len(fitting) < len(schemes):
            found.overflowing[layer.name] = [scheme for scheme in schemes if scheme not in fitting]
    return found


def _worst(layer: "Layer", scheme: Scheme, weight: "Tensor | None") -> float:
    from quant.accumulator import worst_matmul_sum, worst_sum

    return worst_matmul_sum(scheme, layer.k) if layer.kind == "matmul" else worst_sum(scheme, layer.k, weight)
