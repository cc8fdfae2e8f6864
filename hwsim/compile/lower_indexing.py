"""Handlers that pick or place elements: gathers by computed or constant numbers, windows, repeats.

A gather reads rows of the axes behind the indexed ones; its table of row numbers is a constant or computed.
"""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from hwsim.compile.emit import sink_of, source_of
from hwsim.compile.expr import Node, const, leaf, op
from hwsim.compile.lower_part import LoweringPart
from hwsim.compile.program import constant
from hwsim.compile.values import Const, Lazy, Value, View, row_major
from hwsim.compile.vector import Gather

Shape = tuple[int, ...]


class IndexLowering(LoweringPart):
    """Mixin of `Lowering`."""

    _padded: Callable[..., View]
    _tables: int = 0

    def _aten_index_Tensor(self, node: Any) -> View:
        """Indexing by constant tensors that walk in steps is a view; any other is a gather."""
        view, shape = self.stored(node.args[0]), tuple(node.meta["val"].shape)
        given: list[Any] = [None if i is None else self.values[i] for i in node.args[1]]
        given += [None] * (len(view.shape) - len(given))
        if all(isinstance(g, Const) for g in given):
            found = _regular(view, [g.tensor.numpy() for g in given], shape)
            if found is not None:
                return found
        axes = [axis for axis, g in enumerate(given) if g is not None]
        if axes[-1] - axes[0] + 1 != len(axes):  # numpy's rule: separated indices come first
            rest = [a for a in range(len(given)) if a not in axes]
            view, axes = _turned(view, [*axes, *rest]), list(range(len(axes)))
        numbers = [g for g in given if g is not None]
        common = tuple(np.broadcast_shapes(*(tuple(n.shape) for n in numbers)))
        rows = self._row_numbers(numbers, [view.shape[a] for a in axes], common)
        return self._gathered(view, axes, rows, shape)

    def _aten_index_select_default(self, node: Any) -> View:
        view = self.stored(node.args[0])
        axis = int(node.args[1]) % len(view.shape)
        index = self.values[node.args[2]]
        rows = self._row_numbers([index], [view.shape[axis]], tuple(index.shape))
        return self._gathered(view, [axis], rows, tuple(node.meta["val"].shape))

    def _aten_gather_default(self, node: Any) -> View:
        """Every place of the result reads the same place of the other axes."""
        view, shape = self.stored(node.args[0]), tuple(node.meta["val"].shape)
        axis = int(node.args[1]) % len(view.shape)
        index = self.values[node.args[2]]
        numbers: list[Any] = []
        for a in range(len(shape)):
            size = tuple(shape[a] if b == a else 1 for b in range(len(shape)))
            places = torch.arange(shape[a]).reshape(size)
            numbers.append(index if a == axis else self._constant(places))
        rows = self._row_numbers(numbers, view.shape, shape)
        return self._gathered(view, list(range(len(shape))), rows, shape)

    def _constant(self, tensor: torch.Tensor) -> Const:
        self._tables += 1
        return Const(tensor, f"{self.emitter.layer}.table{self._tables}")

    def _row_numbers(self, numbers: Sequence[Any], sizes: Sequence[int], shape: Shape) -> View:
        """One number for all indexed axes together; those below zero count from the end."""
        if all(isinstance(n, Const) for n in numbers):
            total = np.zeros(shape, np.int64)
            for n, size in zip(numbers, sizes, strict=True):
                total = total * size + n.tensor.numpy().astype(np.int64) % size
            self._tables += 1
            return View(
                constant(f"{self.emitter.layer}.table{self._tables}", total), 0, shape, row_major(shape)
            )
        tree, leaves = const(0.0), list[View]()
        for n, size in zip(numbers, sizes, strict=True):
            leaves.append(self.emitter.view(n).broadcast(shape))
            number = leaf(len(leaves))
            if not isinstance(n, Const):
                number = Node("where_ge0", (number, number, op("add", number, float(size))))
            tree = op("add", op("mul", tree, float(size)), number) if len(leaves) > 1 else number
        return self.emitter.dense(Lazy(shape, tree, tuple(leaves)))

    def _gathered(self, view: View, axes: Sequence[int], rows: View, shape: Shape) -> View:
        """``view`` with the neighbouring ``axes`` replaced by what ``rows`` picks of them."""
        view = self.emitter.dense(view)
        first, behind = axes[0], view.shape[axes[-1] + 1 :]
        lead, columns = view.shape[:first], math.prod(behind)
        result = View(self.emitter.work(math.prod(shape)), 0, shape, row_major(shape))
        dims = (*lead, *rows.shape)
        of_lead, of_rows = row_major(view.shape)[:first], row_major(rows.shape)
        kernel = Gather(
            dims, columns, True, math.prod(view.shape[a] for a in axes),
            (source_of(view, (*of_lead, *(0 for _ in rows.shape)), 1),
             source_of(rows, (*(0 for _ in lead), *of_rows), 0)),
            sink_of(result, tuple(s * columns for s in row_major(dims)), 1),
        )  # fmt: skip
        self.emitter.step(kernel, [view.buffer, rows.buffer, result.buffer])
        return result

    def _aten_flip_default(self, node: Any) -> View:
        view = self.stored(node.args[0])
        for axis in node.args[1]:
            view = self._picked(view, int(axis) % len(view.shape), range(view.shape[axis])[::-1])
        return view

    def _picked(self, view: View, axis: int, places: Sequence[int]) -> View:
        """Some places of an axis, in the order given."""
        index = self._constant(torch.tensor(list(places)))
        rows = self._row_numbers([index], [view.shape[axis]], (len(places),))
        shape = (*view.shape[:axis], len(places), *view.shape[axis + 1 :])
        return self._gathered(view, [axis], rows, shape)

    def reflected(self, view: View, widths: Sequence[int], mode: str) -> View:
        """Padding by what is inside: ``reflect``, ``replicate`` or ``circular``."""
        for pair in range(len(widths) // 2):
            axis = len(view.shape) - 1 - pair
            before, after = widths[2 * pair], widths[2 * pair + 1]
            if before or after:
                places = np.arange(view.shape[axis])
                both: Any = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
                view = self._picked(view, axis, np.pad(places, (before, after), both).tolist())
        return view

    def _aten_im2col_default(self, node: Any) -> View:
        """Every window of a picture as a column: a strided view, copied once."""
        source, kernel, dilation, padding, stride = node.args
        view, shape = self._padded(source, tuple(padding)), tuple(node.meta["val"].shape)
        places = _places(view.shape[2:], kernel, dilation, stride)
        image, channel, high, wide = view.strides
        windows = View(
            view.buffer, view.offset, (view.shape[0], view.shape[1], *kernel, *places),
            (image, channel, high * dilation[0], wide * dilation[1], high * stride[0], wide * stride[1]),
        )  # fmt: skip
        copied = self.emitter.stored_in_order(windows, tuple(range(6)))
        return View(copied.buffer, 0, shape, row_major(shape))

    def _aten_col2im_default(self, node: Any) -> View:
        """The inverse: each tap of the windows is added to the places it came from."""
        source, size, kernel, dilation, padding, stride = node.args
        view = self.emitter.dense(self.stored(source))
        images, rows = view.shape[:2]
        channels = rows // math.prod(kernel)
        high, wide = (n + 2 * p for n, p in zip(size, padding, strict=True))
        places = _places((high, wide), kernel, dilation, stride)
        whole = (images, channels, high, wide)
        strides = row_major(whole)
        buffer = self.emitter.work(math.prod(whole))
        self.emitter.elementwise(const(0.0), (), View(buffer, 0, (buffer.elements,), (1,)))
        shape = (images, channels, *places)
        one, two, three, four, five, six = row_major((images, channels, *kernel, *places))
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                offset = i * dilation[0] * strides[2] + j * dilation[1]
                target = View(buffer, offset, shape, (*strides[:2], strides[2] * stride[0], stride[1]))
                tap = View(view.buffer, view.offset + i * three + j * four, shape, (one, two, five, six))
                self.emitter.elementwise(op("add", leaf(1), leaf(2)), (target, tap), target)
        inside = padding[0] * strides[2] + padding[1]
        return View(buffer, inside, tuple(node.meta["val"].shape), strides)

    def _aten_repeat_default(self, node: Any) -> View:
        view, times = self.stored(node.args[0]), [int(n) for n in node.args[1]]
        shape = (1,) * (len(times) - len(view.shape)) + view.shape
        strides = (0,) * (len(times) - len(view.shape)) + view.strides
        pairs = [n for pair in zip(times, shape, strict=True) for n in pair]
        steps = [n for stride in strides for n in (0, stride)]
        return self._spelled(View(view.buffer, view.offset, tuple(pairs), tuple(steps)), node)

    def _aten_repeat_interleave_self_int(self, node: Any) -> View:
        view, times = self.stored(node.args[0]), int(node.args[1])
        axis = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim")
        if axis is None:
            view = self.emitter.dense(view)
            view, axis = View(view.buffer, view.offset, (math.prod(view.shape),), (1,)), 0
        after = int(axis) % len(view.shape) + 1
        shape = (*view.shape[:after], times, *view.shape[after:])
        strides = (*view.strides[:after], 0, *view.strides[after:])
        return self._spelled(View(view.buffer, view.offset, shape, strides), node)

    def _spelled(self, view: View, node: Any) -> View:
        """A view whose axes join to those of the result, copied."""
        copied, shape = (
            self.emitter.stored_in_order(view, tuple(range(len(view.shape)))),
            node.meta["val"].shape,
        )
        return View(copied.buffer, 0, tuple(shape), row_major(tuple(shape)))

    def _aten_slice_scatter_default(self, node: Any) -> View:
        base, source, *rest = node.args
        axis, start, end, step = tuple[Any, ...]((*rest, *(0, None, None, 1)[len(rest) :]))
        shape = tuple(node.meta["val"].shape)
        where = range(shape[axis])[slice(start, end, step)]
        return self._placed(base, source, axis % len(shape), where)

    def _aten_select_scatter_default(self, node: Any) -> View:
        base, source, axis, place = node.args
        shape = tuple(node.meta["val"].shape)
        axis, place = axis % len(shape), place % shape[axis]
        return self._placed(base, source, axis, range(place, place + 1), unsqueeze=True)

    def _placed(self, base: Any, source: Any, axis: int, where: range, unsqueeze: bool = False) -> View:
        """A copy of ``base`` with ``source`` at some places of an axis."""
        value = self.stored(base)
        result = self.emitter.stored_in_order(value, tuple(range(len(value.shape))))
        window = self.stored(source)
        if unsqueeze:
            window = View(
                window.buffer, window.offset, (*window.shape[:axis], 1, *window.shape[axis:]),
                (*window.strides[:axis], 0, *window.strides[axis:]),
            )  # fmt: skip
        strides = list(result.strides)
        shape = (*result.shape[:axis], len(where), *result.shape[axis + 1 :])
        offset = result.offset + where.start * strides[axis]
        strides[axis] *= where.step
        self.emitter.into(window, View(result.buffer, offset, shape, tuple(strides)))
        return result

    def _aten_copy_default(self, node: Any) -> Value:
        """What a call that wrote over a tensor left there."""
        return self.stored(node.args[1]).broadcast(tuple(node.meta["val"].shape))


def _regular(view: View, tables: Sequence[np.ndarray], shape: Shape) -> View | None:
    """The view that constant numbers for all axes describe, if they walk in steps."""
    places: Any = sum(
        np.broadcast_to(t, shape).astype(np.int64) * s for t, s in zip(tables, view.strides, strict=True)
    )
    origin = (0,) * len(shape)
    strides = tuple(
        int(np.take(places, 1, axis)[origin[1:]] - places[origin]) if size > 1 else 0
        for axis, size in enumerate(shape)
    )
    walk: Any = sum(
        np.arange(n).reshape((-1,) + (1,) * (len(shape) - 1 - a)) * strides[a] for a, n in enumerate(shape)
    )
    if not np.array_equal(places - places[origin], np.broadcast_to(walk, shape)):
        return None
    return View(view.buffer, view.offset + int(places[origin]), shape, strides)


def _turned(view: View, axes: Sequence[int]) -> View:
    return View(
        view.buffer, view.offset, *(tuple(old[a] for a in axes) for old in (view.shape, view.strides))
    )


def _places(
    size: Sequence[int], kernel: Sequence[int], dilation: Sequence[int], stride: Sequence[int]
) -> tuple[int, int]:
    """How many windows there are in each direction."""
    found = [
        (n - d * (k - 1) - 1) // s + 1 for n, k, d, s in zip(size, kernel, dilation, stride, strict=True)
    ]
    return (found[0], found[1])
