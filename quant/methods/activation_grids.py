"""Grid of one activation tensor from its sampled values, and which tensors are attention weights."""
# pyright: basic
# torch.fx nodes are untyped in torch's stubs.

from typing import Literal

import torch
from torch import Tensor, fx

from quant.activation import ActQuantizer, quantizer_of
from quant.ranges import minmax_range, mse_affine_range, percentile_range

RangeRule = Literal["minmax", "percentile", "mse"]
PERCENTILES = (0.999, 0.9999, 0.99999)
_aten = torch.ops.aten
_SOFTMAX = {_aten.softmax.int, _aten._softmax.default}


def is_softmax(node: fx.Node) -> bool:
    """Whether a tensor is a softmax output, views between included."""
    while node.op == "call_function" and node.target not in _SOFTMAX:
        if node.target not in {
            _aten.reshape.default,
            _aten.expand.default,
            _aten.to.dtype,
            _aten.clone.default,
        }:
            return False
        node = node.all_input_nodes[0]
    return node.op == "call_function"


def fit_grid(values: Tensor, bits: int, rule: RangeRule) -> ActQuantizer:
    """Asymmetric grid of one tensor; ``percentile`` tries three and keeps the best in squared error."""
    if rule == "percentile":
        options = [percentile_range(values, bits, fraction) for fraction in PERCENTILES]
        found = min(options, key=lambda option: float(option.error(values).square().mean()))
    else:
        found = mse_affine_range(values, bits) if rule == "mse" else minmax_range(values, bits)
    return quantizer_of(found.low, found.high, bits)
