"""RMS norms written out as primitives become one ``aten.rms_norm`` (Zhang and Sennrich 2019, equation 4).

y = x * rsqrt(mean(x^2) + eps) * weight
"""
# torch types the arguments of an fx node as a union of everything an argument can be; which one it is follows
# from the operator, which the checker cannot know.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportFunctionMemberAccess=false

from torch import fx

from hwsim.model import rewrite
from hwsim.model.rewrite import aten


def recognise_rms_norms(module: fx.GraphModule) -> None:
    """Replace every written-out RMS norm."""
    for node in rewrite.calls(module.graph, aten.rsqrt.default):
        _recognise(node)
    rewrite.drop_dead(module)


def _recognise(root: fx.Node) -> None:
    shifted = root.args[0]
    if not _is_call(shifted, aten.add.Tensor) or not isinstance(shifted.args[1], float | int):
        return
    mean, eps = shifted.args
    if not _is_call(mean, aten.mean.dim) or list(mean.args[1]) not in ([-1], [len(rewrite.shape(mean)) - 1]):
        return
    source = _squared(mean.args[0])
    if source is None or not rewrite.argument(mean, 2, "keepdim", False) or len(root.users) != 1:
        return
    scaled = next(iter(root.users))
    if not _is_call(scaled, aten.mul.Tensor) or set(scaled.args) != {source, root}:
        return
    last, weight = scaled, None
    if len(scaled.users) == 1:
        last, weight = _gain(scaled, next(iter(scaled.users)))
    size = rewrite.shape(source)[-1:]
    norm = rewrite.emit(last, aten.rms_norm.default, source, list(size), weight, float(eps), like=root)
    rewrite.replace(last, norm)


def _gain(scaled: fx.Node, user: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """The product with the learned gain that follows, if it does."""
    if _is_call(user, aten.mul.Tensor) and len(user.args) == 2:
        for other in user.args:
            if isinstance(other, fx.Node) and other.op == "get_attr" and len(rewrite.shape(other)) == 1:
                return user, other
    return scaled, None


def _squared(node: fx.Node) -> fx.Node | None:
    if _is_call(node, aten.pow.Tensor_Scalar) and node.args[1] == 2:
        return node.args[0]
    if _is_call(node, aten.square.default):
        return node.args[0]
    if _is_call(node, aten.mul.Tensor) and node.args[0] is node.args[1]:
        return node.args[0]
    return None


def _is_call(node: object, target: object) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target == target
