"""Bytes of everything a network keeps in weight memory.

Products keep packed codes, a scale for each row of each order, and of a later order that leaves rows or columns out
the numbers of those it has. Biases, norms and embeddings stay in float32 whatever a plan decides; so does an embedding
that an output layer shares, for the product reads packed codes of its own (`LayerGraph.other_parameters`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwsim.model.graph import FLOAT_BYTES, other_parameters
from hwsim.simulate.machine import Engine, Machine
from hwsim.simulate.pricing import SCALE_BYTES, option_terms, scheme_terms
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.model.graph import Layer

INDEX_BYTES = 4  # int32


def fixed_weight_bytes(layers: "Sequence[Layer]") -> int:
    """Bytes that no plan changes."""
    return FLOAT_BYTES * other_parameters(layers)


def weight_elements(layer: "Layer") -> int:
    """Stored weights of a product; a product of two activations has none."""
    return 0 if layer.kind == "matmul" else layer.groups * layer.n * layer.k


def index_bytes(layer: "Layer", scheme: Scheme) -> int:
    """Bytes of the lists of kept rows or columns."""
    if layer.kind == "matmul" or scheme.is_float:
        return 0
    sizes = scheme_terms(scheme, layer.n, layer.groups, layer.k)
    kept = [k if scheme.axis == "columns" else groups * n for n, groups, k, _ in sizes]
    return INDEX_BYTES * sum(count for count, share in zip(kept, scheme.shares, strict=True) if share < 1)


def layer_weight_bytes(layer: "Layer", scheme: Scheme, machine: Machine, engine: Engine) -> float:
    """Bytes of one product as ``engine`` reads them: codes, scales and index lists of all orders."""
    if layer.kind == "matmul":
        return 0.0
    terms, _ = option_terms(machine, engine, scheme, scheme_terms(scheme, layer.n, layer.groups, layer.k))
    scale = 0.0 if scheme.is_float else SCALE_BYTES
    packed = sum(groups * n * (k * bits / 8 + scale) for n, groups, k, bits, *_ in terms)
    return packed + index_bytes(layer, scheme)


@dataclass(frozen=True, slots=True)
class NetworkWeights:
    """What a network stores: weights of products, their rows, and bytes that no plan changes."""

    elements: int
    rows: int
    fixed_bytes: int

    @classmethod
    def of(cls, layers: "Sequence[Layer]") -> "NetworkWeights":
        """Of all layers of a network."""
        stored = [layer for layer in layers if layer.kind in ("linear", "conv2d")]
        return cls(
            elements=sum(map(weight_elements, stored)),
            rows=sum(layer.groups * layer.n for layer in stored),
            fixed_bytes=fixed_weight_bytes(layers),
        )

    def bytes_in(self, scheme: Scheme, machine: Machine) -> float:
        """Bytes if every product had the same scheme, shares of rows not rounded."""
        if scheme.is_float:
            return self.elements * machine.float_bits / 8 + self.fixed_bytes
        shares = scheme.shares
        bits = sum(
            share * machine.stored_bits(width) for share, width in zip(shares, scheme.term_bits, strict=True)
        )
        return self.elements * bits / 8 + SCALE_BYTES * self.rows * sum(shares) + self.fixed_bytes
