"""Cross-layer equalisation of a whole graph (DFQ; Nagel et al. 2019, section 4.1): no data, same function.

ReLU passes a positive factor on, so channel i between two products may be divided by any factor in the first and
multiplied by it in the second. `quant.first_order.equalize` picks the factor that gives both the same range; the
pairs of a chain disturb each other, so all pairs are swept until the ranges settle. Only plain ReLU qualifies:
behind a clipped one (ReLU6) the function would change.
"""
# pyright: basic
# torch.fx nodes are untyped in torch's stubs.

import torch
from torch import Tensor, fx

from quant.first_order import equalize
from quant.model_pass import Product, attribute, copy_module, find_products, replace_tensor

aten = torch.ops.aten
RELU = {aten.relu.default, aten.relu_.default}
SWEEPS = 10


def equalized(module: fx.GraphModule) -> tuple[fx.GraphModule, int]:
    """A copy of the graph with equalised weights, and the number of pairs of products."""
    made = copy_module(module)
    pairs = equalisable_pairs(made)
    with torch.no_grad():
        for _ in range(SWEEPS if pairs else 0):
            for first, second in pairs:
                _equalize_pair(made, first, second)
    return made, len(pairs)


def equalisable_pairs(module: fx.GraphModule) -> list[tuple[Product, Product]]:
    """Products of one kind with nothing but a ReLU between them, whose tensors nobody else reads."""
    products = find_products(module)
    readers: dict[str, int] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            readers[str(node.target)] = readers.get(str(node.target), 0) + len(node.users)
    found: list[tuple[Product, Product]] = []
    for second in products:
        relu = second.inputs[0]
        first = next((p for p in products if relu.op == "call_function" and p.node in relu.args), None)
        alone = relu.target in RELU and len(relu.users) == 1
        if first is None or not alone or len(first.node.users) != 1 or first.kind != second.kind:
            continue
        tensors = [name for p in (first, second) for name in (p.weight, p.bias) if name is not None]
        if first.weight and second.weight and all(readers[name] == 1 for name in tensors):
            found.append((first, second))
    return [pair for pair in found if _by_input(module, pair[1]) is not None]


def _by_input(module: fx.GraphModule, product: Product) -> Tensor | None:
    """The weight as (outputs, inputs, *kernel); a depthwise kernel stands once for its own channel."""
    weight: Tensor = attribute(module, str(product.weight)).detach()
    groups = 1 if product.conv is None else product.conv.groups
    if groups == 1:
        return weight
    return weight.transpose(0, 1) if weight.shape[1] == 1 and len(weight) == groups else None


def _equalize_pair(module: fx.GraphModule, first: Product, second: Product) -> None:
    weight = attribute(module, str(first.weight)).detach()
    bias = None if first.bias is None else attribute(module, first.bias).detach()
    after = _by_input(module, second)
    assert after is not None
    scaled, scaled_bias, scaled_after = equalize(weight, bias, after)
    depthwise = second.conv is not None and second.conv.groups > 1
    stored = scaled_after.transpose(0, 1).contiguous() if depthwise else scaled_after
    replace_tensor(module, str(first.weight), scaled)
    replace_tensor(module, str(second.weight), stored)
    if first.bias is not None and scaled_bias is not None:
        replace_tensor(module, first.bias, scaled_bias)
    known = first.node.meta.get("batch_norm")
    if known is not None:
        live = weight.reshape(len(weight), -1).abs().amax(1) > 0
        factor = torch.where(live, _row_ratio(scaled, weight), torch.ones(len(weight)))
        first.node.meta["batch_norm"] = (known[0] * factor, known[1] * factor)


def _row_ratio(scaled: Tensor, weight: Tensor) -> Tensor:
    """By what each row was multiplied."""
    largest = weight.reshape(len(weight), -1).abs().amax(1).clamp_min(1e-30)
    return scaled.reshape(len(scaled), -1).abs().amax(1) / largest
