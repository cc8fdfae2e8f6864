"""Which quantized forms of a layer are offered to the planner.

Widths come from the descriptor (``Target.legal_widths``) and the user (``--bits``). On each weight width the
residual expansion of PIPE is offered up to order 4, with a share of the rows or of the input columns in the
later orders, as long as the digits together stay within 12 bits: beyond that the activations decide. The
native wider width, where the device has it, is always among the options, so that expansion must earn its
place. Products of two activations (attention) have no weight to expand.
"""

from typing import TYPE_CHECKING, cast

from hwsim.errors import UserError
from hwsim.simulate.pricing import operator_class
from hwsim.stages.request import Widths
from quant.scheme import Axis, Scheme

if TYPE_CHECKING:
    from hwsim.model.graph import Layer
    from hwsim.target.engines import Product
    from hwsim.target.schema import Target

MAX_DIGIT_BITS = 12
_SPARSE_SHARES = (25, 50, 75)
_THIRD_ORDER = ((100, 100), (100, 50), (50, 50), (50, 25), (25, 25))
_FOURTH_ORDER = ((100, 100, 100), (100, 50, 25), (50, 50, 50), (50, 25, 25))


def product_kind(layer: "Layer") -> "Product":
    """The kind under which a descriptor lists the layer."""
    return cast("Product", operator_class(layer))


def expansions(weight_bits: int, act_bits: int, axes: tuple[Axis, ...]) -> list[Scheme]:
    """Order 1 and every expansion worth offering on this pair of widths."""
    schemes = [Scheme(weight_bits, act_bits)]
    if weight_bits < 2:
        return schemes
    if 2 * weight_bits <= MAX_DIGIT_BITS:
        schemes.append(Scheme(weight_bits, act_bits, order=2))
        for axis in axes:
            schemes += [Scheme(weight_bits, act_bits, 2, (share,), axis) for share in _SPARSE_SHARES]
    if weight_bits + 1 <= MAX_DIGIT_BITS and weight_bits <= 4:
        schemes.append(Scheme(weight_bits, act_bits, order=2, binary_last=True))
    for order, schedules in ((3, _THIRD_ORDER), (4, _FOURTH_ORDER)):
        if order * weight_bits <= MAX_DIGIT_BITS:
            schemes += [Scheme(weight_bits, act_bits, order, kept) for kept in schedules]
    return schemes


def layer_schemes(layer: "Layer", target: "Target", widths: Widths) -> list[Scheme]:
    """All schemes offered for one product layer, cheapest widths first; may be empty."""
    kind = product_kind(layer)
    # the groups of a grouped convolution read different columns: only its rows can be left out
    axes: tuple[Axis, ...] = ("rows", "columns") if layer.groups == 1 else ("rows",)
    schemes: list[Scheme] = []
    for weight_bits, act_bits in target.legal_widths(kind):
        if max(weight_bits, act_bits) > 16 or act_bits < 2 or not widths.allow(weight_bits, act_bits):
            continue
        if kind == "matmul":
            if weight_bits >= 2:  # the second operand is an activation too
                schemes.append(Scheme(weight_bits, act_bits))
        else:
            schemes += expansions(weight_bits, act_bits, axes)
    if target.float_path is not None:
        schemes.append(Scheme.parse("fp"))
    return schemes


def network_schemes(layers: "tuple[Layer, ...]", target: "Target", widths: Widths) -> list[list[Scheme]]:
    """Schemes for each product layer; a layer that the device cannot run at all is the user's to know."""
    offered: list[list[Scheme]] = []
    for layer in layers:
        schemes = layer_schemes(layer, target, widths)
        if not schemes:
            native = ", ".join(f"w{w}a{a}" for w, a in target.legal_widths(product_kind(layer))) or "none"
            asked = f" inside --bits {widths}" if str(widths) else ""
            raise UserError(
                f"layer {layer.name} ({product_kind(layer)}): {target.name} has no width for it{asked}; "
                f"it offers {native}"
            )
        offered.append(schemes)
    return offered
