"""Handlers of vector work that is more than elementwise: norms, softmax, joins, padding, embeddings."""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx.node import map_arg

from hwsim.compile.emit import sink_of, source_of
from hwsim.compile.expr import Node, const, leaf, op, remap
from hwsim.compile.lower_part import LoweringPart
from hwsim.compile.rowwise import LayerNorm, RmsNorm, Softmax
from hwsim.compile.values import Const, Lazy, Pending, Value, View, collapse, row_major
from hwsim.compile.vector import Gather


def _swap_operand0(node: Node, own: int) -> Node:
    """Epilogue over (own operands, leaves): leaf 0 stays, leaf i becomes leaf i + own."""
    return remap(node, lambda index: leaf(index if index == 0 else index + own))


class VectorLowering(LoweringPart):
    """Mixin of `Lowering`."""

    _softmax_along: Callable[..., View]
    reflected: Callable[..., View]

    def _last_dense(self, view: View) -> View:
        """The view, copied unless its last axis is contiguous."""
        if view.shape[-1] == 1 or view.strides[-1] == 1:
            return view
        return self.emitter.stored_in_order(view, tuple(range(len(view.shape))))

    def rowwise(self, shape: tuple[int, ...], own: Sequence[View], make: Callable[..., Any]) -> Pending:
        """A kernel over rows of the last axis: ``make(dims, columns, epilogue, sources, sink)``."""
        emitter, layer = self.emitter, self.emitter.layer
        own = [view.broadcast(shape) for view in own]

        def emit(node: Node, leaves: tuple[View, ...], destination: View) -> None:
            views = [*own, *leaves]
            emitter.layer = layer
            dims = collapse(
                [
                    (shape[a], (destination.strides[a], *(v.strides[a] for v in views)))
                    for a in range(len(shape) - 1)
                ]
            )
            sources = tuple(
                source_of(v, [s[i + 1] for _, s in dims], v.strides[-1]) for i, v in enumerate(views)
            )
            sink = sink_of(destination, [s[0] for _, s in dims], destination.strides[-1])
            epilogue = _swap_operand0(node, len(own))
            kernel = make(tuple(e for e, _ in dims), shape[-1], epilogue, sources, sink)
            emitter.step(kernel, [*(v.buffer for v in views), destination.buffer])

        return Pending(shape, tuple(range(len(shape))), emit, leaf(0))

    def _aten_layer_norm_default(self, node: Any) -> Value:
        given = list(node.args) + [None] * 5
        weight, bias = node.kwargs.get("weight", given[2]), node.kwargs.get("bias", given[3])
        epsilon = given[4] if given[4] is not None else node.kwargs.get("eps", 1e-5)
        return self._normed(node, LayerNorm, (weight, bias), float(epsilon))

    def _aten_native_layer_norm_default(self, node: Any) -> list[Value]:
        return [self._normed(node, LayerNorm, node.args[2:4], float(node.args[4]))]

    def _aten_rms_norm_default(self, node: Any) -> Value:
        weight, epsilon = [*node.args, None, None][2:4]
        least = torch.finfo(torch.float32).eps
        return self._normed(node, RmsNorm, (weight, None), least if epsilon is None else float(epsilon))

    def _normed(
        self, node: Any, norm: type[LayerNorm | RmsNorm], affine: Sequence[Any], epsilon: float
    ) -> Value:
        """A norm over the last axes, then its factors and its shifts."""
        x, axes, parallel = self.stored(node.args[0]), len(node.args[1]), self.emitter.parallel
        shape = x.shape
        parameters = [None if p is None else self.stored(p) for p in affine]
        if axes > 1:  # as one axis
            lead, columns = shape[:-axes], math.prod(shape[-axes:])
            x = self.emitter.dense(x)
            x = View(x.buffer, x.offset, (*lead, columns), row_major((*lead, columns)))
            parameters = [
                None if p is None else View(p.buffer, p.offset, (columns,), (1,)) for p in parameters
            ]
        x = self._last_dense(x)

        def make(dims: Any, columns: int, epilogue: Node, sources: Any, sink: Any) -> LayerNorm | RmsNorm:
            return norm(dims, columns, epilogue, sources, sink, parallel, epsilon)

        base = self.rowwise(x.shape, [x], make)
        tree, leaves = leaf(0), []
        for name, parameter in zip(("mul", "add"), parameters, strict=True):
            if parameter is not None:
                leaves.append(parameter.broadcast(x.shape))
                tree = op(name, tree, leaf(len(leaves)))
        made = Pending(base.shape, base.order, base.emit, tree, tuple(leaves))
        if axes == 1:
            return made
        return View(self.emitter.view(made).buffer, 0, shape, row_major(shape))

    def _aten_softmax_int(self, node: Any) -> Value:
        source, axis = node.args[0], int(node.args[1])
        value = self.values[source]
        shape = tuple(value.shape)
        if axis % len(shape) != len(shape) - 1:
            return self._softmax_along(node, axis % len(shape), lambda view: self._softmax([view], leaf(0)))
        if isinstance(value, Lazy) and value.leaves[0].strides[-1] == 1:
            own, tree = list(value.leaves), remap(value.node, lambda i: leaf(0 if i == 1 else i))
        else:
            own, tree = [self.stored(source)], leaf(0)
        return self._softmax(own, tree)

    def _softmax(self, own: Sequence[View], tree: Node) -> Pending:
        """Softmax over the last axis of ``tree``."""
        parallel = self.emitter.parallel

        def make(dims: Any, columns: int, epilogue: Node, sources: Any, sink: Any) -> Softmax:
            return Softmax(dims, columns, epilogue, sources, sink, parallel, tree)

        return self.rowwise(own[0].shape, [self._last_dense(own[0]), *own[1:]], make)

    def _aten__softmax_default(self, node: Any) -> Value:
        return self._aten_softmax_int(node)

    def _aten_cat_default(self, node: Any) -> Value:
        parts: Any = node.args[0]
        if not isinstance(self.values[parts[0]], View | Lazy | Pending | Const):
            return self._join_accumulators([self.values[p] for p in parts])  # type: ignore[attr-defined]
        axis = int(node.args[1]) if len(node.args) > 1 else 0
        shape = tuple(node.meta["val"].shape)
        result = View(self.emitter.work(math.prod(shape)), 0, shape, row_major(shape))
        start = 0
        for part in parts:
            size = tuple(self.values[part].shape)
            stride = result.strides[axis % len(shape)]
            value = self.values[part]
            if isinstance(value, Pending) and len(part.users) > 1:
                value = self.stored(part)
            self.emitter.into(value, View(result.buffer, start * stride, size, result.strides))
            start += size[axis]
        return result

    def _aten_roll_default(self, node: Any) -> Value:
        """Copies of the blocks on either side of each wrap."""
        view = self.stored(node.args[0])
        shifts, axes = list(node.args[1]), list(node.args[2])
        result = View(self.emitter.work(math.prod(view.shape)), 0, view.shape, row_major(view.shape))
        for source, target in _rolled(view, result, list(zip(axes, shifts, strict=True))):
            self.emitter.into(source, target)
        return result

    def _aten_pad_default(self, node: Any) -> Value:
        widths = [int(w) for w in node.args[1]]
        if not any(widths):
            return self.values[node.args[0]]
        mode = node.args[2] if len(node.args) > 2 else "constant"
        if mode != "constant":
            return self.reflected(self.stored(node.args[0]), widths, mode)
        fill = float(node.args[3]) if len(node.args) > 3 and node.args[3] is not None else 0.0
        shape = tuple(node.meta["val"].shape)
        result = View(self.emitter.work(math.prod(shape)), 0, shape, row_major(shape))
        self.emitter.elementwise(const(fill), (), result)
        source = self.values[node.args[0]]
        if min(widths) < 0:  # cut there
            source = self.stored(node.args[0])
            for i in range(len(widths) // 2):
                before, after = (max(-w, 0) for w in widths[2 * i : 2 * i + 2])
                axis = len(shape) - 1 - i
                source = _window(source, axis, before, source.shape[axis] - before - after)
            widths = [max(w, 0) for w in widths]
        offset = sum(widths[2 * i] * result.strides[len(shape) - 1 - i] for i in range(len(widths) // 2))
        self.emitter.into(source, View(result.buffer, offset, tuple(source.shape), result.strides))
        return result

    def _aten_constant_pad_nd_default(self, node: Any) -> Value:
        proxy = map_arg(node.args, lambda n: n)
        node.args = (proxy[0], proxy[1], "constant", proxy[2] if len(proxy) > 2 else 0.0)
        return self._aten_pad_default(node)

    def _aten_embedding_default(self, node: Any) -> Value:
        table, indices = self.stored(node.args[0]), self.stored(node.args[1])
        indices = indices if indices.dense() else self.emitter.dense(indices)
        shape = tuple(node.meta["val"].shape)
        rows = math.prod(indices.shape)
        result = View(self.emitter.work(math.prod(shape)), 0, shape, row_major(shape))
        kernel = Gather(
            (rows,), shape[-1], True, table.shape[0],
            (source_of(table, (0,), 1), source_of(indices, (1,), 0)),
            sink_of(result, (shape[-1],), 1),
        )  # fmt: skip
        self.emitter.step(kernel, [table.buffer, indices.buffer, result.buffer])
        return result


def _rolled(source: View, target: View, moves: list[tuple[int, int]]) -> list[tuple[View, View]]:
    """Pairs of windows; along each moved axis the last ``shift`` places come first."""
    if not moves:
        return [(source, target)]
    axis, shift = moves[0][0] % len(source.shape), moves[0][1]
    size = source.shape[axis]
    shift %= size
    pairs: list[tuple[View, View]] = []
    for start, count, place in ((0, size - shift, shift), (size - shift, shift, 0)):
        if count:
            pair = (_window(source, axis, start, count), _window(target, axis, place, count))
            pairs.extend(_rolled(*pair, moves[1:]))
    return pairs


def _window(view: View, axis: int, start: int, count: int) -> View:
    shape = (*view.shape[:axis], count, *view.shape[axis + 1 :])
    return View(view.buffer, view.offset + start * view.strides[axis], shape, view.strides)


__all__ = ["VectorLowering"]
