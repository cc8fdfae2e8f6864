"""From layers and schemes to the rows of numbers that the kernels price."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from hwsim.simulate import columns as col
from hwsim.simulate.closed_form import price_options
from hwsim.simulate.machine import Engine, Machine
from hwsim.simulate.placement import Placement
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.model.graph import ConvShape, Layer

Way = Literal["single", "rows", "terms"]
WAY_CODES: dict[Way, int] = {"single": col.WAY_SINGLE, "rows": col.WAY_ROWS, "terms": col.WAY_TERMS}
PRODUCT_KINDS = ("linear", "conv2d", "matmul")
SCALE_BYTES = 4.0  # one float32 scale a row and term
GATHERED = 4  # a strided load against a part of a vector one: 0.43 and 0.1 ns an element on a Zen 4 core
TermSize = tuple[int, int, int, int]


def shape_key(layer: "Layer") -> tuple[object, ...]:
    """Layers with equal keys cost the same."""
    window, inputs, outputs = product_shape(layer)
    return (layer.kind, layer.batch, layer.groups, layer.m, layer.n, layer.k, window, inputs, outputs)


def product_shape(layer: "Layer") -> tuple[int, int, int]:
    """Window area (0 for a product of two activations), first operand's elements, output elements."""
    if layer.kind == "matmul":
        return 0, layer.batch * layer.groups * layer.m * layer.k, layer.elements
    if layer.conv is not None:
        return layer.conv.kernel[0] * layer.conv.kernel[1], touched_inputs(layer, layer.conv), layer.elements
    inputs = math.prod(layer.input_shapes[0]) if layer.input_shapes else layer.m * layer.k
    return 1, inputs, layer.elements


def touched_inputs(layer: "Layer", conv: "ConvShape") -> int:
    """Input elements that some window covers: a 1 × 1 convolution of stride 2 reads a quarter of its input."""
    *leading, height, width = layer.input_shapes[0]
    out_height, out_width = layer.output_shape[-2:]
    for axis, (size, outputs) in enumerate(((height, out_height), (width, out_width))):
        kernel = conv.kernel[axis]
        leading.append(min(size, (outputs - 1) * min(kernel, conv.stride[axis]) + kernel))
    return math.prod(leading)


def operator_class(layer: "Layer") -> str:
    """What an engine must serve to run the layer: linear, conv2d, depthwise or matmul."""
    return "depthwise" if layer.kind == "conv2d" and layer.groups > 1 and layer.n == 1 else layer.kind


def scheme_terms(scheme: Scheme, n: int, groups: int, k: int) -> list[TermSize]:
    """Size of each order of the expansion: output rows per group, groups, inner columns, weight bits."""
    if scheme.is_float:
        return [(n, groups, k, 0)]
    terms: list[TermSize] = []
    for share, bits in zip(scheme.shares, scheme.term_bits, strict=True):
        if scheme.axis == "columns":
            terms.append((n, groups, max(1, _kept(share, k)), bits))
        elif n == 1 and groups > 1:
            terms.append((1, max(1, _kept(share, groups)), k, bits))
        else:
            terms.append((max(1, _kept(share, n)), groups, k, bits))
    return terms


def _kept(share: float, size: int) -> int:
    return size if share >= 1.0 else math.ceil(round(share * size, 9))


def executed_width(engine: Engine, weight_bits: int, act_bits: int) -> tuple[int, int] | None:
    """Fastest native width of the engine that contains both operands; None where there is none."""
    fitting = [(w, a) for w, a in engine.rates if w >= weight_bits and a >= act_bits]
    return max(fitting, key=lambda width: (engine.rates[width], -width[0] - width[1]), default=None)


def executed_term(
    machine: Machine, engine: Engine, weight_bits: int, act_bits: int, packable: bool
) -> tuple[int, float, float] | None:
    """Stored bits of a weight, multiply-accumulates a cycle (unpacking included), picojoules of one.

    Weights narrower than the engine multiplies are stored packed only where the engine unpacks them; the
    second operand of a product of two activations never is. None where the engine is too narrow.
    """
    width = executed_width(engine, weight_bits, act_bits)
    if width is None:
        return None
    packed = weight_bits < width[0] and packable and weight_bits in engine.packed_weight_bits
    rate = engine.rates[width] / (1 + engine.unpack_overhead if packed else 1)
    stored = machine.stored_bits(weight_bits if packed else width[0])
    return stored, rate, engine.mac_pj.get(width, 0.0)


def allowed_way(machine: Machine, way: Way, terms: int) -> bool:
    """Rows need several units; terms need several independent units and several terms."""
    if way == "single":
        return True
    return machine.units > 1 and (way == "rows" or (machine.independent and terms > 1))


def option_terms(
    machine: Machine, engine: Engine, scheme: Scheme, sizes: Sequence[TermSize], packable: bool = True
) -> tuple[list[tuple[float, ...]], int]:
    """Rows of the table of terms, and the activation bits; empty where the engine is too narrow."""
    if engine.is_float:
        (width, rate), *_ = engine.rates.items()
        pj = engine.mac_pj.get(width, 0.0)
        rows = [
            (n, g, k, machine.stored_bits(bits) if bits else width[0], rate, pj) for n, g, k, bits in sizes
        ]
        return rows, width[1]
    act_bits = scheme.act_bits or machine.float_bits
    rows = []
    for n, groups, k, bits in sizes:
        executed = executed_term(machine, engine, bits, act_bits, packable)
        if executed is None:
            return [], act_bits
        rows.append((n, groups, k, *executed))
    return rows, act_bits


def point_row(
    machine: Machine,
    layer: "Layer",
    scheme: Scheme,
    act_bits: int,
    terms: int,
    home: Placement,
    start: float = 0.0,
) -> tuple[float, ...]:
    """A row of the table of points, from its fourth column on."""
    stored = machine.stored_bits(act_bits)
    lanes = scheme.predictors + 1 if scheme.predictors > 1 else 1
    scales = SCALE_BYTES if layer.kind != "matmul" and not scheme.is_float else 0.0
    return (terms, stored, stored, home.weights, home.activations, scales, home.resident, lanes, start)


def dims_row(layer: "Layer", prepared: int = 0) -> tuple[int, ...]:
    """One row of the table of shapes; ``prepared`` as `prepared_inputs` counts them."""
    return (layer.batch, layer.groups, layer.m, layer.n, layer.k, *product_shape(layer), prepared)


def prepared_inputs(layers: "Sequence[Layer]") -> dict[str, int]:
    """For each product, input elements that it has to quantize or pack itself.

    A layer whose output only one product reads hands it over as that product wants it. Inputs of the network, tensors
    with several readers (a residual's both paths, the parts of q, k and v) and the results of attention, whose heads
    are put together again, come as they are. An image comes channel by channel, so each of its elements is gathered.
    """
    readers: dict[str, int] = {}
    for layer in layers:
        for name in layer.inputs:
            readers[name] = readers.get(name, 0) + 1
    kinds = {layer.name: layer.kind for layer in layers}
    done: set[tuple[str, str]] = set()
    found: dict[str, int] = {}
    for layer in layers:
        if layer.kind not in PRODUCT_KINDS:
            continue
        found[layer.name] = 0
        for name, shape in zip(layer.inputs, layer.input_shapes, strict=False):
            ready = readers[name] == 1 and kinds.get(name, "matmul") != "matmul"
            if ready or (name, layer.kind) in done:  # the second layer that reads a tensor finds its codes
                continue
            if layer.kind != "matmul":
                done.add((name, layer.kind))
            image = name.startswith("input:") and layer.conv is not None
            found[layer.name] += math.prod(shape) * (GATHERED if image else 1)
    return found


def bound_name(code: float, levels: Sequence[str]) -> str:
    """Name of what bounds a layer: compute, launch, or a memory of the target."""
    return {col.BOUND_COMPUTE: "compute", col.BOUND_LAUNCH: "launch"}.get(int(code)) or levels[int(code)]


def pack_terms(terms: Sequence[Sequence[tuple[float, ...]]]) -> NDArray[np.float64]:
    """Lists of terms of unequal length as one padded table."""
    width = max(len(row) for row in terms)
    table = np.zeros((len(terms), width, col.TERM_COLUMNS))
    filler = (0.0,) * col.TERM_COLUMNS
    table[:] = [list(row) + [filler] * (width - len(row)) for row in terms]
    return table


def price_points(
    machine: Machine, dims: NDArray[np.int64], points: NDArray[np.float64], terms: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One call of the kernel: results (points × columns) and orders (points × terms × columns)."""
    assert dims.shape[1] == col.DIM_COLUMNS
    assert points.shape[1] == col.POINT_COLUMNS
    results = np.zeros((len(points), col.RESULT_COLUMNS))
    orders = np.zeros((*terms.shape[:2], col.ORDER_COLUMNS))
    constants = np.array(
        [
            machine.units,
            machine.sync_cycles,
            machine.vector_rates.get("add", 1.0),
            float(machine.prefetch),
        ]
    )
    price_options(
        dims, points, terms, machine.engine_table(), machine.level_table(), constants, results, orders
    )
    return results, orders
