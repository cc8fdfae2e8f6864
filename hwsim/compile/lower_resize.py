"""Handlers of resizing and adaptive pooling: constant shares of neighbours along each axis (`resample`).

Both are linear and separable, so what torch's operator does along an axis is a matrix: its answer to unit vectors.
"""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hwsim.compile.emit import sink_of, source_of
from hwsim.compile.expr import leaf
from hwsim.compile.lower_part import LoweringPart
from hwsim.compile.program import constant
from hwsim.compile.resample import Resample
from hwsim.compile.values import Value, View, ordered_strides

_aten = torch.ops.aten
_NEAREST = {"upsample_nearest1d": _aten.upsample_nearest2d.default,
            "upsample_nearest2d": _aten.upsample_nearest2d.default,
            "_upsample_nearest_exact1d": _aten._upsample_nearest_exact2d.default,
            "_upsample_nearest_exact2d": _aten._upsample_nearest_exact2d.default}  # fmt: skip
_SMOOTH = {"upsample_linear1d": _aten.upsample_bilinear2d.default,
           "upsample_bilinear2d": _aten.upsample_bilinear2d.default,
           "upsample_bicubic2d": _aten.upsample_bicubic2d.default,
           "_upsample_bilinear2d_aa": _aten._upsample_bilinear2d_aa.default,
           "_upsample_bicubic2d_aa": _aten._upsample_bicubic2d_aa.default}  # fmt: skip
RESIZING = frozenset(f"aten.{name}.{kind}" for name in (*_NEAREST, *_SMOOTH) for kind in ("vec", "default"))


class ResizeLowering(LoweringPart):
    """Mixin of `Lowering`."""

    _resized_axes: int = 0

    def resized(self, node: Any) -> Value:
        """Any of the operators of `RESIZING`."""
        _, name, kind = str(node.target).split(".")
        view, shape = _as_pictures(self.stored(node.args[0])), tuple(node.meta["val"].shape)
        size = (1, *shape[2:])[-2:]
        given = list(node.args[1:]) + [None] * 4
        smooth = name in _SMOOTH
        corners = (bool(given[1]),) if smooth else ()
        scales = given[1 + smooth] if kind == "vec" else given[1 + smooth : 1 + smooth + len(shape) - 2]
        scales = [None, *(scales or [None, None])][-2:]
        factors = [out / there for out, there in zip(size, view.shape[2:], strict=True)]
        whole = all(f % 1 == 0 and scale in (None, f) for f, scale in zip(factors, scales, strict=True))
        if name.startswith("upsample_nearest") and whole:
            return _in_shape(self._repeated(view, size), shape)
        operator = _SMOOTH.get(name) or _NEAREST[name]

        def along(axis: int) -> np.ndarray:
            return _matrix(
                view.shape[axis + 2],
                lambda x: operator(x, (size[axis], x.shape[3]), *corners, scales[axis], None),
            )

        return _in_shape(self._resampled(view, along(0), along(1)), shape)

    def adaptive_means(self, view: View, size: tuple[int, int]) -> View:
        """Adaptive pooling whose windows differ in length."""

        def along(axis: int) -> np.ndarray:
            return _matrix(
                view.shape[axis + 2], lambda x: _aten.adaptive_avg_pool2d(x, (size[axis], x.shape[3]))
            )

        return self._resampled(view, along(0), along(1))

    def _aten_adaptive_avg_pool1d_default(self, node: Any) -> Value:
        view, shape = _as_pictures(self.stored(node.args[0])), tuple(node.meta["val"].shape)
        return _in_shape(self.adaptive_means(view, (1, shape[2])), shape)

    def _resampled(self, view: View, *matrices: np.ndarray) -> View:
        """Height, then width, each by its matrix (places out, places in)."""
        for axis, matrix in enumerate(matrices):
            if not np.array_equal(matrix, np.eye(*matrix.shape)):
                view = self._along(view, axis + 2, matrix)
        return view

    def _along(self, view: View, axis: int, matrix: np.ndarray) -> View:
        shape = tuple(len(matrix) if a == axis else n for a, n in enumerate(view.shape))
        result = View(self.emitter.work(math.prod(shape)), 0, shape, ordered_strides(shape, (0, 2, 3, 1)))
        first, shares = _taps(matrix)
        self._resized_axes += 1
        name = f"{self.emitter.layer}.resized{self._resized_axes}"
        loops = (0, 2, 3)
        kernel = Resample(
            tuple(shape[a] for a in loops), shape[1], loops.index(axis), shares.shape[1], view.strides[axis],
            (source_of(view, [0 if a == axis else view.strides[a] for a in loops], view.strides[1]),),
            sink_of(result, [result.strides[a] for a in loops], 1),
        )  # fmt: skip
        tables = [constant(f"{name}.first", first), constant(f"{name}.shares", shares)]
        self.emitter.step(kernel, [view.buffer, *tables, result.buffer])
        return result

    def _repeated(self, view: View, size: tuple[int, ...]) -> View:
        """Whole factors: every place is written as often as it is repeated."""
        images, channels, high, wide = view.shape
        shape, factors = (images, channels, *size), (size[0] // high, size[1] // wide)
        result = View(self.emitter.work(math.prod(shape)), 0, shape, ordered_strides(shape, (0, 2, 3, 1)))
        one, two, three, four = result.strides
        each = (images, channels, high, factors[0], wide, factors[1])
        target = View(result.buffer, 0, each, (one, two, three * factors[0], three, four * factors[1], four))
        a, b, c, d = view.strides
        self.emitter.elementwise(leaf(1), (View(view.buffer, view.offset, each, (a, b, c, 0, d, 0)),), target)
        return result


def _matrix(size: int, operator: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
    """What an operator does along the height: (places out, places in)."""
    units = torch.eye(size, dtype=torch.float64).reshape(1, 1, size, size)  # a unit vector in each column
    with torch.no_grad():
        matrix = operator(units)[0, 0].numpy()
    return np.where(np.abs(matrix) < 1e-12, 0.0, matrix)


def _taps(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the first column with a share, and as many shares from there as the widest row has."""
    columns = matrix.shape[1]
    low = np.argmax(matrix != 0, 1)
    high = columns - np.argmax(matrix[:, ::-1] != 0, 1)
    taps = int((high - low).max())
    first = np.minimum(low, columns - taps)
    shares = np.take_along_axis(matrix, first[:, None] + np.arange(taps), 1)
    return first.astype(np.int32), shares.astype(np.float32)


def _as_pictures(view: View) -> View:
    """A row of places as a picture of height 1."""
    if len(view.shape) == 4:
        return view
    (one, two, wide), (a, b, d) = view.shape, view.strides
    return View(view.buffer, view.offset, (one, two, 1, wide), (a, b, 0, d))


def _in_shape(view: View, shape: tuple[int, ...]) -> View:
    """Without the height of 1 where the result has none."""
    if len(shape) == 4:
        return view
    return View(view.buffer, view.offset, shape, (view.strides[0], view.strides[1], view.strides[3]))
