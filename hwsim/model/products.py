"""One spelling for every matrix product: ``aten.linear``, ``aten.conv2d`` or ``aten.matmul``.

``mm``, ``addmm``, ``bmm``, ``baddbmm``, ``einsum`` and friends are rewritten; products with a stored second operand
become ``linear`` (weight of shape outputs x inputs).
"""
# torch types the arguments of an fx node as a union of everything an argument can be; which one it is follows
# from the operator, which the checker cannot know.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportFunctionMemberAccess=false, reportCallIssue=false

import math

import torch
from torch import fx

from hwsim.model import rewrite
from hwsim.model.rewrite import aten

# Calls that hide products; traced through to the operators they are made of.
_HIDING = {
    aten.einsum.default,
    aten.baddbmm.default,
    aten.inner.default,
    aten.tensordot.default,
    aten.bilinear.default,
    aten.lstm.input,
    aten.gru.input,
    aten.rnn_tanh.input,
    aten.rnn_relu.input,
    aten.lstm_cell.default,
    aten.gru_cell.default,
    aten.rnn_tanh_cell.default,
    aten.rnn_relu_cell.default,
}

# Calls that show the same elements in another shape or order.
_VIEWS = {
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.reshape.default,
    aten.clone.default,
    aten.contiguous.default,
}


def normalise_products(module: fx.GraphModule) -> None:
    """Rewrite every product that has another spelling."""
    for node in rewrite.calls(module.graph, *_HIDING):
        rewrite.inline(node)
    for node in rewrite.calls(module.graph, aten.addmm.default):
        _split_addmm(module, node)
    for node in rewrite.calls(module.graph, aten.mm.default, aten.bmm.default, aten.mv.default):
        node.target = aten.matmul.default
    for node in rewrite.calls(module.graph, aten.matmul.default):
        _matmul_to_linear(module, node)
    for node in rewrite.calls(module.graph, aten.linear.default):
        if node.args[1].op != "get_attr":
            _linear_to_matmul(node)
    for node in rewrite.calls(module.graph, aten.conv1d.default, aten.conv1d.padding):
        _conv1d_to_conv2d(module, node)
    for node in rewrite.calls(module.graph, aten.convolution.default):
        _convolution_to_conv2d(node)
    for node in rewrite.calls(module.graph, aten.conv2d.padding):
        _string_padding(node)
    for node in rewrite.calls(module.graph, aten.conv2d.default):
        _fill_defaults(node)
    for target, axes in ((aten.conv2d.default, 4), (aten.linear.default, 2)):
        for node in rewrite.calls(module.graph, target):
            if len(rewrite.shape(node.args[0])) == axes - 1:
                _with_batch(node)
    rewrite.drop_dead(module)


def _split_addmm(module: fx.GraphModule, node: fx.Node) -> None:
    bias, left, right = node.args[:3]
    plain = node.kwargs.get("alpha", 1) == 1 and node.kwargs.get("beta", 1) == 1
    weight = _weight(module, node, right) if plain and _is_row(bias) else None
    if weight is not None:
        rewrite.replace(node, rewrite.emit(node, aten.linear.default, left, weight, bias, like=node))
        return
    product = rewrite.emit(node, aten.matmul.default, left, right, like=node)
    scaled = (
        rewrite.emit(node, aten.mul.Tensor, product, node.kwargs.get("alpha", 1)) if not plain else product
    )
    shift = rewrite.emit(node, aten.mul.Tensor, bias, node.kwargs.get("beta", 1)) if not plain else bias
    rewrite.replace(node, rewrite.emit(node, aten.add.Tensor, scaled, shift, like=node))


def _with_batch(node: fx.Node) -> None:
    """A product over one sample that has no axis of batches, as over a batch of one."""
    lifted = rewrite.emit(node, aten.unsqueeze.default, node.args[0], 0, like=node)
    product = rewrite.emit(node, node.target, lifted, *node.args[1:], like=node, **node.kwargs)
    rewrite.replace(node, rewrite.emit(node, aten.squeeze.dim, product, 0, like=node))


def _matmul_to_linear(module: fx.GraphModule, node: fx.Node) -> None:
    left, right = node.args
    weight = None if left.op == "get_attr" else _weight(module, node, right)
    if weight is None and len(rewrite.shape(left)) >= len(rewrite.shape(right)):
        weight = _folded(module, node, right, turned=True)
    if weight is not None:
        rewrite.replace(node, rewrite.emit(node, aten.linear.default, left, weight, like=node))
        return
    if len(rewrite.shape(right)) >= max(2, len(rewrite.shape(left))):
        weight = _folded(module, node, left, turned=False)
    if weight is not None:  # A x = (xᵀ Aᵀ)ᵀ
        turned = rewrite.emit(node, aten.transpose.int, right, -2, -1, like=node)
        product = rewrite.emit(node, aten.linear.default, turned, weight, like=node)
        rewrite.replace(node, rewrite.emit(node, aten.transpose.int, product, -2, -1, like=node))


def _is_row(node: fx.Node) -> bool:
    return node.op == "get_attr" and len(rewrite.shape(node)) == 1


def _weight(module: fx.GraphModule, before: fx.Node, right: fx.Node) -> fx.Node | None:
    """The stored matrix, outputs x inputs, whose transpose a product multiplies by; None where none is stored."""
    if len(rewrite.shape(right)) != 2:
        return None
    if right.op == "get_attr":
        return _transposed(module, before, right)
    swapped = right.target is aten.transpose.int and right.args[1:] in ((0, 1), (1, 0), (-1, -2), (-2, -1))
    turned = swapped or right.target is aten.t.default
    return right.args[0] if turned and right.args[0].op == "get_attr" else None


def _folded(module: fx.GraphModule, before: fx.Node, operand: fx.Node, *, turned: bool) -> fx.Node | None:
    """A parameter behind views, as einsum leaves it, stored as the matrix it is seen as; None where it is none."""
    views: list[fx.Node] = []
    source = operand
    while source.op == "call_function" and source.target in _VIEWS and len(source.all_input_nodes) == 1:
        views.append(source)
        source = source.args[0]
    *lead, rows, columns = (1, *rewrite.shape(operand))
    if source.op != "get_attr" or len(rewrite.shape(operand)) < 2 or any(size != 1 for size in lead):
        return None
    tensor = rewrite.get_tensor(module, str(source.target))
    if not isinstance(tensor, torch.nn.Parameter):
        return None
    seen = tensor.detach()
    for view in reversed(views):
        seen = view.target(seen, *view.args[1:], **view.kwargs)
    matrix = seen.reshape(rows, columns)
    matrix = (matrix.t() if turned else matrix).contiguous()
    name = rewrite.free_name(module, f"{source.target}_matrix")
    rewrite.set_tensor(module, name, matrix, parameter=True)
    return rewrite.read_node(before, name, matrix)


def _transposed(module: fx.GraphModule, before: fx.Node, stored: fx.Node) -> fx.Node:
    """Read the transpose of a stored matrix; in place where nobody else reads it."""
    name = str(stored.target)
    tensor = rewrite.get_tensor(module, name)
    readers = [
        user
        for node in before.graph.nodes
        if node.op == "get_attr" and node.target == name
        for user in node.users
    ]
    if len(readers) > 1:
        name = rewrite.free_name(module, f"{name}_transposed")
    turned = tensor.detach().t().contiguous()
    rewrite.set_tensor(module, name, turned, parameter=isinstance(tensor, torch.nn.Parameter))
    return rewrite.read_node(before, name, turned)


def _linear_to_matmul(node: fx.Node) -> None:
    """A linear whose weight depends on the input is a product of two activations."""
    left, weight = node.args[:2]
    bias = rewrite.argument(node, 2, "bias")
    turned = rewrite.emit(node, aten.transpose.int, weight, -2, -1, like=node)
    product = rewrite.emit(node, aten.matmul.default, left, turned, like=node)
    if bias is not None:
        product = rewrite.emit(node, aten.add.Tensor, product, bias, like=node)
    rewrite.replace(node, product)


def _conv1d_to_conv2d(module: fx.GraphModule, node: fx.Node) -> None:
    """A 1-d convolution is a 2-d one of height 1."""
    weight = node.args[1]
    padding = rewrite.argument(node, 4, "padding", [0])
    if weight.op != "get_attr":
        return
    stride, dilation = rewrite.argument(node, 3, "stride", [1]), rewrite.argument(node, 5, "dilation", [1])
    target = aten.conv2d.padding if isinstance(padding, str) else aten.conv2d.default
    tensor = rewrite.get_tensor(module, str(weight.target))
    name = rewrite.free_name(module, f"{weight.target}_2d")
    flat = tensor.detach().unsqueeze(2)
    rewrite.set_tensor(module, name, flat, parameter=isinstance(tensor, torch.nn.Parameter))
    stored = rewrite.read_node(node, name, flat)
    image = rewrite.emit(node, aten.unsqueeze.default, node.args[0], -2, like=node)
    result = rewrite.emit(
        node, target, image, stored, rewrite.argument(node, 2, "bias"), [1, *stride],
        padding if isinstance(padding, str) else [0, *padding],
        [1, *dilation], rewrite.argument(node, 6, "groups", 1), like=node,
    )  # fmt: skip
    rewrite.replace(node, rewrite.emit(node, aten.squeeze.dim, result, -2, like=node))


def _convolution_to_conv2d(node: fx.Node) -> None:
    image, weight, bias, stride, padding, dilation, transposed, _, groups = node.args
    if not transposed and len(rewrite.shape(weight)) == 4:
        node.target = aten.conv2d.default
        node.args = (image, weight, bias, stride, padding, dilation, groups)


def _string_padding(node: fx.Node) -> None:
    """``padding="same"`` or ``"valid"`` in numbers, with a pad in front where the two sides differ."""
    image, weight = node.args[:2]
    bias, stride = rewrite.argument(node, 2, "bias"), rewrite.argument(node, 3, "stride", [1, 1])
    padding = rewrite.argument(node, 4, "padding", "valid")
    dilation, groups = rewrite.argument(node, 5, "dilation", [1, 1]), rewrite.argument(node, 6, "groups", 1)
    dilation = dilation if isinstance(dilation, list | tuple) else [dilation, dilation]
    kernel = rewrite.shape(weight)[2:]
    total = [d * (size - 1) if padding == "same" else 0 for d, size in zip(dilation, kernel, strict=True)]
    before = [amount // 2 for amount in total]
    if any(amount % 2 for amount in total):
        height, width = total
        sides = [before[1], width - before[1], before[0], height - before[0]]
        image = rewrite.emit(node, aten.constant_pad_nd.default, image, sides, 0.0, like=node)
        before = [0, 0]
    node.target = aten.conv2d.default
    node.args = (image, weight, bias, stride, before, dilation, groups)
    node.kwargs = {}


def _fill_defaults(node: fx.Node) -> None:
    """All seven arguments in place, pairs written as pairs."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    defaults = (None, None, None, [1, 1], [0, 0], [1, 1], 1)
    values = [rewrite.argument(node, i, name, defaults[i]) for i, name in enumerate(names)]
    for position in (3, 4, 5):
        pair = values[position]
        pair = list(pair) if isinstance(pair, list | tuple) else [pair]
        values[position] = pair * 2 if len(pair) == 1 else pair
    node.args, node.kwargs = tuple(values), {}


def align_batches(module: fx.GraphModule) -> None:
    """Give both operands of every product of activations the same batch, and at least two axes."""
    for node in rewrite.calls(module.graph, aten.matmul.default):
        left, right = node.args
        lead = [rewrite.shape(item)[:-2] for item in (left, right)]
        if 1 in (len(rewrite.shape(left)), len(rewrite.shape(right))):
            _matrix_by_vector(node)
        elif lead[0] != lead[1]:
            _same_batch(node)


def _matrix_by_vector(node: fx.Node) -> None:
    """A vector as a matrix of one row or one column."""
    left, right = node.args
    row, column = (len(rewrite.shape(item)) == 1 for item in (left, right))
    left = rewrite.emit(node, aten.unsqueeze.default, left, 0) if row else left
    right = rewrite.emit(node, aten.unsqueeze.default, right, 1) if column else right
    product = rewrite.emit(node, aten.matmul.default, left, right, like=node)
    if rewrite.shape(left)[:-2] != rewrite.shape(right)[:-2]:
        product = _same_batch(product)
    for squeezed, axis in ((column, -1), (row, -1 if column else -2)):
        product = rewrite.emit(node, aten.squeeze.dim, product, axis) if squeezed else product
    rewrite.replace(node, product)


def _same_batch(node: fx.Node) -> fx.Node:
    """Rows of all batches together where the second operand has none, else repeated to the common batch."""
    left, right = node.args
    shape, (rows, depth) = rewrite.shape(node), rewrite.shape(left)[-2:]
    if len(rewrite.shape(right)) == 2:
        flat = rewrite.emit(node, aten.reshape.default, left, [math.prod(shape[:-1]), depth])
        product = rewrite.emit(node, aten.matmul.default, flat, right, like=node)
        product = rewrite.emit(node, aten.reshape.default, product, list(shape))
    else:
        left = rewrite.emit(node, aten.expand.default, left, [*shape[:-2], rows, depth])
        right = rewrite.emit(node, aten.expand.default, right, [*shape[:-2], depth, shape[-1]])
        product = rewrite.emit(node, aten.matmul.default, left, right, like=node)
    rewrite.replace(node, product)
    return product
