"""Which operator is a product, which is vector work, and which merely looks at a tensor differently."""

import operator
from typing import Any

from torch import fx

from hwsim.model.graph import PRODUCT_KINDS, Kind
from hwsim.model.rewrite import aten


def words(text: str) -> frozenset[str]:
    """The words of a text as a set."""
    return frozenset(text.split())


_PRODUCTS: dict[Any, Kind] = {
    aten.linear.default: "linear",
    aten.conv2d.default: "conv2d",
    aten.matmul.default: "matmul",
}
_KINDS: dict[Kind, frozenset[str]] = {
    "norm": words("layer_norm native_layer_norm group_norm batch_norm instance_norm rms_norm"),
    "softmax": words("softmax log_softmax _softmax _log_softmax _safe_softmax"),
    "activation": words(
        "gelu relu relu6 hardtanh silu hardswish hardsigmoid sigmoid tanh leaky_relu elu mish prelu softplus "
        "clamp clamp_min clamp_max exp erf rsqrt sqrt pow square log selu celu softsign logsigmoid log_sigmoid "
        "glu threshold abs sin cos reciprocal"
    ),
    "add": words("add sub rsub"),
    "mul": words("mul div neg addcmul"),
    "pool": words(
        "avg_pool2d max_pool2d adaptive_avg_pool2d adaptive_max_pool2d _adaptive_avg_pool2d avg_pool1d max_pool1d "
        "adaptive_avg_pool1d max_pool2d_with_indices"
    ),
    "embedding": frozenset({"embedding"}),
    "reduce": words(
        "mean sum amax amin max min prod var std var_mean norm linalg_vector_norm logsumexp argmax argmin cumsum "
        "all any"
    ),
}
_BY_OP: dict[str, Kind] = {name: kind for kind, names in _KINDS.items() for name in names}
_VIEWS = words(
    "reshape view permute transpose t slice select expand expand_as unsqueeze squeeze flatten unflatten split "
    "split_with_sizes chunk unbind getitem narrow movedim alias detach contiguous clone to _to_copy type_as "
    "swapaxes swapdims unfold view_as reshape_as broadcast_to numpy_T mT tensor_split unsafe_split "
    "lift_fresh_copy"
)


def op_name(node: fx.Node) -> str:
    """The operator in one word: ``layer_norm`` of ``aten.layer_norm.default``."""
    if node.target is operator.getitem:
        return "getitem"
    name = str(node.target)
    return name.split(".")[-2] if name.count(".") else name


def is_view(node: fx.Node) -> bool:
    """Whether a call only rearranges or selects: no layer of its own."""
    return node.op == "call_function" and op_name(node) in _VIEWS


def is_product(node: fx.Node) -> bool:
    """Whether a call is a matrix product."""
    return node.op == "call_function" and node.target in _PRODUCTS


def kind_of(node: fx.Node) -> Kind | None:
    """The kind of layer a node is; None for views, inputs and stored tensors."""
    if node.op != "call_function" or is_view(node):
        return None
    if node.target in _PRODUCTS:
        return _PRODUCTS[node.target]
    return _BY_OP.get(op_name(node), "other")


assert set(_PRODUCTS.values()) == PRODUCT_KINDS
