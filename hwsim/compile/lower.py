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

import torch
from torch import fx
from torch.fx.node import map_arg

from hwsim.compile.decompose import opened
from hwsim.compile.elementwise import BINARY, SELECTIONS, UNARY, Builder, select, truncated
from hwsim.compile.emit import Emitter, join
from hwsim.compile.expr import Node, const, leaf, op
from hwsim.compile.in_place import reuse_operands
from hwsim.compile.isa import Isa
from hwsim.compile.lower_composed import ComposedLowering
from hwsim.compile.lower_float import FloatLowering
from hwsim.compile.lower_indexing import IndexLowering
from hwsim.compile.lower_pool import PoolLowering
from hwsim.compile.lower_products import ProductLowering
from hwsim.compile.lower_reduce import ReduceLowering
from hwsim.compile.lower_resize import RESIZING, ResizeLowering
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
          "aten.view_as.default", "aten.unfold.default", "aten.swapdims.default",
          "aten.broadcast_to.default"}  # fmt: skip


_ELEMENTWISE = BINARY.keys() | UNARY.keys() | SELECTIONS
_ROUNDING: dict[str | None, Callable[[Node], Node]] = {
    None: lambda x: x,
    "floor": lambda x: op("floor", x),
    "trunc": truncated,
}


class Lowering(
    ProductLowering, FloatLowering, VectorLowering, PoolLowering, ResizeLowering, IndexLowering, ReduceLowering,
    ComposedLowering,
):  # fmt: skip
    """One walk over one graph."""

    def __init__(
        self, module: fx.GraphModule, isa: Isa, units: int = 1, ways: Mapping[str, str] | None = None
    ) -> None:
        self.module = opened(module, self._has_kernel)
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
            if view.buffer.kind != "work" or view.buffer.elements != math.prod(view.shape):
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
        if name in BINARY:
            return self._binary(node, BINARY[name])
        if name in SELECTIONS:
            return self.compose(node, select, node.args)
        if name in RESIZING:
            return self.resized(node)
        if name in UNARY:
            settings = [a for a in node.args[1:] if not isinstance(a, fx.Node)]
            function = UNARY[name]
            return self.compose(node, lambda x: function(x, *settings, **node.kwargs), [node.args[0]])
        handler = self._handler(name)
        if handler is None:
            raise UserError(
                f"layer {self.emitter.layer}: operator {name} has no kernel; "
                "keep this model in torch or write the operator from simpler ones"
            )
        return handler(node)

    def _handler(self, name: str) -> Callable[[Any], Any] | None:
        return getattr(self, "_" + name.replace(".", "_"), None)

    def _has_kernel(self, node: fx.Node) -> bool:
        name = _name(node)
        simple = name in _IDENTITY or name in _VIEWS or name in _ELEMENTWISE or name in RESIZING
        return node.op != "call_function" or simple or self._handler(name) is not None

    def _fold(self, node: Any) -> Const | None:
        """Compute what depends on constants only."""
        arguments = list(node.all_input_nodes)
        if not all(isinstance(self.values[a], Const) for a in arguments):
            return None
        if str(node.target).startswith("hwsim."):
            return None
        values = map_arg((node.args, node.kwargs), lambda n: self.values[n].tensor)
        with torch.no_grad():
            named = {key: "cpu" if key == "device" else value for key, value in values[1].items()}
            result = node.target(*values[0], **named)
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

    def _binary(self, node: Any, builder: Builder) -> Any:
        alpha = node.kwargs.get("alpha", 1)
        rounding = _ROUNDING[node.kwargs.get("rounding_mode")]

        def build(a: Node, b: Node) -> Node:
            return rounding(builder(a, b if alpha == 1 else op("mul", b, float(alpha))))

        return self.compose(node, build, node.args[:2])

    def _aten_div_Tensor_mode(self, node: Any) -> Any:
        return self._binary(node, BINARY["aten.div.Tensor"])

    def _aten_pow_Scalar(self, node: Any) -> Value:
        """A constant to the power of a tensor."""
        exponent = math.log(float(node.args[0]))
        return self.compose(node, lambda x: op("exp", op("mul", x, exponent)), [node.args[1]])

    def _aten_bitwise_not_default(self, node: Any) -> Value:
        if node.meta["val"].dtype != torch.bool:
            return self.compose(node, lambda x: op("sub", -1.0, x), [node.args[0]])
        return self.compose(node, UNARY["aten.logical_not.default"], [node.args[0]])

    def _aten_clamp_Tensor(self, node: Any) -> Value:
        low, high = [*node.args, None, None][1:3]
        limits = [(name, limit) for name, limit in (("max", low), ("min", high)) if limit is not None]

        def build(x: Node, *bounds: Node) -> Node:
            for (name, _), bound in zip(limits, bounds, strict=True):
                x = op(name, x, bound)
            return x

        return self.compose(node, build, [node.args[0], *(limit for _, limit in limits)])

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

    def _aten_type_as_default(self, node: Any) -> Value:
        return self._cast(node)

    def _aten__to_copy_default(self, node: Any) -> Value:
        return self._cast(node)

    def _cast(self, node: Any) -> Value:
        """Everything is float32 in vector work; a cast to bool makes 0 and 1, one to integers cuts the fraction."""
        source, dtype = node.args[0].meta["val"].dtype, node.meta["val"].dtype
        if dtype == torch.bool:
            unequal = UNARY["aten.ne.Scalar"]
            return self.compose(
                node, lambda x: unequal(x, 0.0) if source.is_floating_point else _is_set(x), [node.args[0]]
            )
        if source.is_floating_point and not dtype.is_floating_point:
            return self.compose(node, truncated, [node.args[0]])
        return self.values[node.args[0]]


def _is_set(x: Node) -> Node:
    """1 where a whole number is not 0."""
    return op("min", op("abs", x), 1.0)


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
    program = Lowering(module, isa, units, ways).run()
    if not isa.device:  # there, threads beyond the last row compute that row once more
        reuse_operands(program)
    return program


__all__ = ["Lowering", "lower"]
