"""Lowering: the integer graph of a quantized model to a flat program of kernels.

One walk over the graph. Each operator has a handler; handlers give `Value`s, and a value becomes a kernel only
when something needs it in memory. So a bias, a GELU, a residual addition and the quantization of the next
input end up in the epilogue of the product before them, and reshapes and transposes cost nothing.
"""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.fx.node import map_arg

from hwsim.compile.emit import Emitter, join
from hwsim.compile.expr import Node, const, gelu, leaf, op, sigmoid
from hwsim.compile.isa import Isa
from hwsim.compile.lower_composed import ComposedLowering
from hwsim.compile.lower_float import FloatLowering
from hwsim.compile.lower_products import ProductLowering
from hwsim.compile.lower_vector import VectorLowering
from hwsim.compile.program import Buffer, Port, Program
from hwsim.compile.values import Const, Lazy, Pending, Value, View, row_major
from hwsim.errors import UserError

_IDENTITY = {"aten.clone.default", "aten.contiguous.default", "aten.dropout.default", "aten.detach.default",
             "aten.alias.default", "aten.lift_fresh_copy.default"}  # fmt: skip
_VIEWS = {"aten.permute.default", "aten.transpose.int", "aten.reshape.default", "aten.view.default",
          "aten.flatten.using_ints", "aten.unsqueeze.default", "aten.squeeze.dim", "aten.squeeze.default",
          "aten.squeeze.dims", "aten.expand.default", "aten.select.int", "aten.slice.Tensor", "aten.unbind.int",
          "aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default", "aten._unsafe_view.default",
          "aten.narrow.default", "aten.t.default", "aten.movedim.int", "aten.unflatten.int",
          "aten.swapaxes.default", "aten.expand_as.default", "aten.reshape_as.default",
          "aten.view_as.default"}  # fmt: skip
_BINARY = {"aten.add.Tensor": "add", "aten.mul.Tensor": "mul", "aten.sub.Tensor": "sub", "aten.div.Tensor": "div",
           "aten.__and__.Tensor": "mul", "aten.bitwise_and.Tensor": "mul", "aten.logical_and.default": "mul",
           "aten.maximum.default": "max", "aten.minimum.default": "min", "aten.add.Scalar": "add",
           "aten.mul.Scalar": "mul", "aten.sub.Scalar": "sub", "aten.div.Scalar": "div",
           "aten.add_.Tensor": "add", "aten.mul_.Tensor": "mul"}  # fmt: skip


def _clamp(x: Node, low: float | None = None, high: float | None = None) -> Node:
    if low is not None:
        x = op("max", x, low)
    return x if high is None else op("min", x, high)


def _gate(x: Node) -> Node:
    """relu6(x + 3) / 6."""
    return op("div", _clamp(op("add", x, 3.0), 0.0, 6.0), 6.0)


_UNARY: dict[str, Callable[..., Node]] = {
    "aten.relu.default": lambda x: op("max", x, 0.0),
    "aten.relu_.default": lambda x: op("max", x, 0.0),
    "aten.gelu.default": lambda x, approximate="none": gelu(x, approximate),
    "aten.hardtanh.default": lambda x, low=-1.0, high=1.0: _clamp(x, low, high),
    "aten.hardtanh_.default": lambda x, low=-1.0, high=1.0: _clamp(x, low, high),
    "aten.relu6.default": lambda x: _clamp(x, 0.0, 6.0),
    "aten.clamp.default": _clamp,
    "aten.clamp_min.default": _clamp,
    "aten.clamp_max.default": lambda x, high: _clamp(x, None, high),
    "aten.silu.default": lambda x: op("mul", x, sigmoid(x)),
    "aten.silu_.default": lambda x: op("mul", x, sigmoid(x)),
    "aten.sigmoid.default": sigmoid,
    "aten.hardsigmoid.default": _gate,
    "aten.hardswish.default": lambda x: op("mul", x, _gate(x)),
    "aten.hardswish_.default": lambda x: op("mul", x, _gate(x)),
    "aten.tanh.default": lambda x: op("tanh", x),
    "aten.exp.default": lambda x: op("exp", x),
    "aten.erf.default": lambda x: op("erf", x),
    "aten.sqrt.default": lambda x: op("sqrt", x),
    "aten.rsqrt.default": lambda x: op("div", 1.0, op("sqrt", x)),
    "aten.neg.default": lambda x: op("mul", x, -1.0),
    "aten.abs.default": lambda x: op("abs", x),
}


class Lowering(ProductLowering, FloatLowering, VectorLowering, ComposedLowering):
    """One walk over one graph."""

    def __init__(
        self, module: fx.GraphModule, isa: Isa, units: int = 1, ways: Mapping[str, str] | None = None
    ) -> None:
        self.module = module
        self.emitter = Emitter(isa, units, ways)
        self.values: dict[fx.Node, Any] = {}

    def run(self) -> Program:
        """The program."""
        for node in self.module.graph.nodes:
            self.emitter.layer = str(node.meta.get("layer", node.name))
            self.values[node] = self._node(node)
        return self.emitter.program

    def _node(self, node: Any) -> Any:
        if node.op == "placeholder":
            return self._input(node)
        if node.op == "get_attr":
            tensor = operator.attrgetter(str(node.target))(self.module)
            return Const(tensor, str(node.target))
        if node.op == "output":
            return self._outputs(node)
        return self._call(node)

    def _input(self, node: Any) -> View:
        meta = node.meta["val"]
        shape, dtype = tuple(meta.shape), str(meta.dtype).removeprefix("torch.")
        buffer = Buffer(str(node.target), math.prod(shape), dtype, "input")
        self.emitter.program.inputs.append(Port(str(node.target), shape, dtype, buffer))
        return View(buffer, 0, shape, row_major(shape))

    def _outputs(self, node: Any) -> None:
        results = node.args[0] if isinstance(node.args[0], list | tuple) else [node.args[0]]
        for index, result in enumerate(r for r in results if isinstance(r, fx.Node)):
            self.emitter.layer = f"output{index}"
            view = self.emitter.dense(self.values[result])
            if view.offset or view.buffer.kind != "work":
                view = self.emitter.stored_in_order(view, tuple(range(len(view.shape))))
            port = Port(f"output{index}", view.shape, view.buffer.dtype, view.buffer)
            self.emitter.program.outputs.append(port)

    def _call(self, node: Any) -> Any:
        name = _name(node)
        folded = self._fold(node)
        if folded is not None:
            return folded
        if node.target is operator.getitem:
            return self.values[node.args[0]][node.args[1]]
        if name in _IDENTITY:
            return self.values[node.args[0]]
        if name in _VIEWS:
            return self._views(node)
        if name in _BINARY:
            return self._binary(node, _BINARY[name])
        if name in _UNARY:
            settings = [a for a in node.args[1:] if not isinstance(a, fx.Node)]
            function = _UNARY[name]
            return self.compose(node, lambda x: function(x, *settings, **node.kwargs), [node.args[0]])
        handler = getattr(self, "_" + name.replace(".", "_"), None)
        if handler is None:
            raise UserError(
                f"layer {self.emitter.layer}: operator {name} has no kernel; "
                "keep this model in torch or write the operator from simpler ones"
            )
        return handler(node)

    def _fold(self, node: Any) -> Const | None:
        """Compute what depends on constants only."""
        arguments = list(node.all_input_nodes)
        if not arguments or not all(isinstance(self.values[a], Const) for a in arguments):
            return None
        if str(node.target).startswith("hwsim."):
            return None
        values = map_arg((node.args, node.kwargs), lambda n: self.values[n].tensor)
        with torch.no_grad():
            result = node.target(*values[0], **values[1])
        return Const(result, f"folded.{node.name}") if isinstance(result, torch.Tensor) else None

    def stored(self, node: Any) -> View:
        """The node's value in memory; remembered, so that a second reader does not compute it again."""
        self.values[node] = self.emitter.view(self.values[node])
        return self.values[node]

    def _views(self, node: Any) -> Any:
        """Let torch compute strides; copy first only where a reshape cannot be a view."""
        source = node.args[0]
        value = self.values[source]
        if isinstance(value, Pending):
            hint = self._wanted_order(node, value)
            self.values[source] = value = self.emitter.stored_in_order(value, hint or value.order)
        view = self.stored(source)
        for attempt in (view, None):
            current = attempt or self.emitter.stored_in_order(view, tuple(range(len(view.shape))))
            meta = current.meta()
            others = map_arg(node.args[1:], lambda n: n.meta["val"])
            results = node.target(meta, *others, **node.kwargs)
            many = isinstance(results, list | tuple)
            listed = list(results) if many else [results]
            if all(_same_storage(r, meta) for r in listed):
                views = [
                    View(current.buffer, r.storage_offset(), tuple(r.shape), tuple(r.stride()))
                    for r in listed
                ]
                return views if many else views[0]
        raise AssertionError(f"{node}: not a view of a dense tensor")

    def _wanted_order(self, node: Any, value: Pending) -> tuple[int, ...] | None:
        """Memory order in which this view, and the reshape after it, are free: heads beside tokens."""
        axes = list(range(len(value.shape)))
        if _name(node) == "aten.transpose.int":
            a, b = (int(x) % len(axes) for x in node.args[1:3])
            axes[a], axes[b] = axes[b], axes[a]
        elif _name(node) == "aten.permute.default":
            axes = [int(a) % len(axes) for a in node.args[1]]
        else:
            return None
        # The kernel writes its fastest axis in vectors; that one must stay last.
        return tuple(axes) if axes[-1] == value.order[-1] else None

    def _binary(self, node: Any, name: str) -> Any:
        alpha = node.kwargs.get("alpha", 1)
        rounding = node.kwargs.get("rounding_mode")
        if rounding is not None:
            raise UserError(f"layer {self.emitter.layer}: division with rounding has no kernel")

        def build(a: Node, b: Node) -> Node:
            return op(name, a, b if alpha == 1 else op("mul", b, float(alpha)))

        return self.compose(node, build, node.args[:2])

    def _aten_addcmul_default(self, node: Any) -> Value:
        value = float(node.kwargs.get("value", 1))

        def build(x: Node, a: Node, b: Node) -> Node:
            return op("add", x, op("mul", op("mul", a, b), value) if value != 1 else op("mul", a, b))

        return self.compose(node, build, node.args[:3])

    def compose(self, node: Any, build: Callable[..., Node], arguments: Sequence[Any]) -> Value:
        """An elementwise operator: joins the kernel that makes one operand, or stays lazy."""
        shape = tuple(node.meta["val"].shape)
        host = self._host(arguments, shape)
        base: Any = None if host is None else self.values[host]
        leaves: list[View] = []
        nodes: list[Node] = []
        if base is not None:
            leaves.extend(base.leaves)
        for argument in arguments:
            if isinstance(argument, View):
                leaves.append(argument)
                nodes.append(leaf(len(leaves)))
            elif not isinstance(argument, fx.Node):
                nodes.append(const(float(argument)))
            elif argument is host and base is not None:
                nodes.append(base.node)
            else:
                nodes.append(self._operand(argument, shape, leaves))
        made = build(*nodes)
        if base is None:
            return self._settle(node, Lazy(shape, made, tuple(leaves)))
        return self._settle(node, Pending(shape, base.order, base.emit, made, tuple(leaves)))

    def _host(self, arguments: Sequence[Any], shape: tuple[int, ...]) -> fx.Node | None:
        """The operand whose kernel can take this operator in."""
        for argument in reversed([a for a in arguments if isinstance(a, fx.Node)]):
            value = self.values[argument]
            if isinstance(value, Pending) and len(argument.users) == 1 and tuple(value.shape) == shape:
                return argument
        return None

    def _operand(self, argument: fx.Node, shape: tuple[int, ...], leaves: list[View]) -> Node:
        """Add the argument's views to ``leaves``; returns its tree over them."""
        value = self.values[argument]
        if isinstance(value, Const) and value.tensor.numel() == 1:
            return const(float(value.tensor))
        if isinstance(value, Lazy) and len(argument.users) == 1:
            offset = len(leaves)
            leaves.extend(view.broadcast(shape) for view in value.leaves)
            return join(value.node, offset)
        leaves.append(self.stored(argument).broadcast(shape))
        return leaf(len(leaves))

    def _settle(self, node: Any, value: Value) -> Value:
        """A tree with several readers is computed once."""
        if isinstance(value, Lazy) and len(node.users) > 1:
            return self.emitter.view(value)
        return value

    def _aten_to_device(self, node: Any) -> Value:
        return self._cast(node)

    def _aten_to_dtype(self, node: Any) -> Value:
        return self._cast(node)

    def _aten__to_copy_default(self, node: Any) -> Value:
        return self._cast(node)

    def _cast(self, node: Any) -> Value:
        """Everything is float32 in vector work; a cast to bool makes 0 and 1."""
        if node.meta["val"].dtype == torch.bool:
            return self.compose(node, lambda x: op("min", op("abs", x), 1.0), [node.args[0]])
        return self.values[node.args[0]]

    def _aten_where_Scalar(self, node: Any) -> Value:
        return self.compose(node, _select, node.args)

    def _aten_where_self(self, node: Any) -> Value:
        return self.compose(node, _select, node.args)

    def _aten_where_ScalarOther(self, node: Any) -> Value:
        return self.compose(node, _select, node.args)

    def _aten_index_Tensor(self, node: Any) -> View:
        """Indexing by constant tensors that walk in steps is a view."""
        view = self.stored(node.args[0])
        tables = [self.values[i].tensor.numpy() for i in node.args[1]]
        shape = tuple(node.meta["val"].shape)
        if len(tables) != len(view.shape):
            raise UserError(f"layer {self.emitter.layer}: partial indexing has no kernel")
        places: Any = sum(
            np.broadcast_to(t, shape).astype(np.int64) * s for t, s in zip(tables, view.strides, strict=True)
        )
        origin = (0,) * len(shape)
        strides = tuple(
            int(np.take(places, 1, axis)[origin[1:]] - places[origin]) if size > 1 else 0
            for axis, size in enumerate(shape)
        )
        walk: Any = sum(
            np.arange(n).reshape((-1,) + (1,) * (len(shape) - 1 - a)) * strides[a]
            for a, n in enumerate(shape)
        )
        if not np.array_equal(places - places[origin], np.broadcast_to(walk, shape)):
            raise UserError(f"layer {self.emitter.layer}: irregular indexing has no kernel")
        return View(view.buffer, view.offset + int(places[origin]), shape, strides)


def _select(condition: Node, yes: Node, no: Node) -> Node:
    return Node("where_ge0", (op("sub", condition, 0.5), yes, no))


def _name(node: Any) -> str:
    return str(node.target)


def _same_storage(result: Any, base: Any) -> bool:
    return result.untyped_storage()._cdata == base.untyped_storage()._cdata


def lower(
    module: fx.GraphModule, isa: Isa, *, units: int = 1, ways: Mapping[str, str] | None = None
) -> Program:
    """Lower an integer graph module (`QuantizedModel.integer()`) for one machine.

    With several units every layer is spread over them; ``ways`` says otherwise for single layers: "single", or
    "terms" for the terms of an expansion on different units.
    """
    return Lowering(module, isa, units, ways).run()


__all__ = ["Lowering", "lower"]
