"""The layer graph: what a network computes, without the tensors that compute it.

This is the document every later room reads: the planner's tables, the simulator and the report know a
network only through it. It imports neither torch nor networkx, so reading it costs nothing.

Counting. One multiply-accumulate (MAC) is one multiplication and one addition. A product layer is seen as
``batch x groups`` independent matrix products of (m x k) by (k x n); its MACs are their product. Vector work
(norms, softmax, activations, additions, pools) is listed with its elements and has no MACs. Pure views
(reshape, permute, slice, expand) are no layers; those that no strides describe are copies (``hwsim.model.copies``).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from hwsim.errors import UserError

if TYPE_CHECKING:
    import networkx

Kind = Literal[
    "linear",
    "conv2d",
    "matmul",
    "norm",
    "softmax",
    "activation",
    "add",
    "mul",
    "pool",
    "embedding",
    "reduce",
    "other",
]
Shape = tuple[int, ...]

PRODUCT_KINDS: frozenset[str] = frozenset({"linear", "conv2d", "matmul"})
SCHEMA_VERSION = 1
FLOAT_BYTES = 4
UNCOUNTED = ("conv_transpose", "conv3d", "lstm", "gru", "_native_multi_head_attention", "fft", "cdist")
"""Operators that contain products this graph does not open; their work is listed but their MACs are not counted."""


@dataclass(frozen=True)
class ConvShape:
    """Geometry of a 2-d convolution; ``padding`` is symmetric (an asymmetric pad is a layer of its own)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    in_channels: int
    out_channels: int
    in_hw: tuple[int, int]
    out_hw: tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """One product or one piece of vector work.

    Attributes:
        name: Module path, unique in the graph (``blocks.3.attn.qkv``, ``blocks.3.attn.qk``).
        kind: Coarse class; ``linear``, ``conv2d`` and ``matmul`` are the products.
        op: The exact operation (``layer_norm``, ``gelu``, ``max_pool2d``).
        inputs: Names of the layers whose outputs are read, views skipped; ``input:<name>`` for graph inputs.
        input_shapes: Shape of each of ``inputs`` as this layer sees it, after views.
        output_shape: Shape of the (first) output.
        batch: Independent products, for ``matmul`` the broadcast batch dimensions.
        m: Rows of the left operand: tokens, or output pixels times images.
        n: Output columns: features, or output channels per group.
        k: Length of the dot products: features, or input channels per group times kernel area.
        groups: Convolution groups.
        conv: Geometry, for ``conv2d`` only.
        macs: ``batch * groups * m * n * k`` for products, else 0.
        params: Elements of the parameters this layer reads (a tied parameter counts at each reader).
        weight: Name of the weight in the graph module's state dict.
        bias: Name of the bias in the graph module's state dict.
        elements: Elements of all outputs.
        group: Common name of the product layers that read the very same tensor (q, k and v), else None.
    """

    name: str
    kind: Kind
    op: str
    inputs: tuple[str, ...]
    input_shapes: tuple[Shape, ...]
    output_shape: Shape
    batch: int = 1
    m: int = 0
    n: int = 0
    k: int = 0
    groups: int = 1
    conv: ConvShape | None = None
    macs: int = 0
    params: int = 0
    weight: str | None = None
    bias: str | None = None
    elements: int = 0
    group: str | None = None

    @property
    def is_product(self) -> bool:
        """Whether this layer is a matrix product (else it is vector work)."""
        return self.kind in PRODUCT_KINDS

    @property
    def packed_weight(self) -> str | None:
        """Name of the weight of rows; a parameter in a product of kind ``matmul`` is an operand like any other."""
        return None if self.kind == "matmul" else self.weight

    @property
    def is_depthwise(self) -> bool:
        """Whether this is a convolution whose groups have one input channel each."""
        return self.conv is not None and self.groups > 1 and self.groups == self.conv.in_channels

    @property
    def input_elements(self) -> int:
        """Elements of all activations read."""
        return sum(_volume(shape) for shape in self.input_shapes)


@dataclass(frozen=True)
class LayerGraph:
    """All layers of a network in execution order.

    Attributes:
        model: Full resolved name of the model.
        layers: Topologically sorted.
        inputs: Names of the graph inputs.
        outputs: Names of the layers (or ``input:<name>``) whose values the network returns.
        parameters: Distinct parameter elements of the model as published (tied ones once, before folding).
        input_shapes: Shape of each input.
    """

    model: str
    layers: tuple[Layer, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: int = 0
    input_shapes: tuple[Shape, ...] = ()

    def products(self) -> tuple[Layer, ...]:
        """The matrix products, in execution order."""
        return tuple(layer for layer in self.layers if layer.is_product)

    def vector_work(self) -> tuple[Layer, ...]:
        """Everything that is not a product, in execution order."""
        return tuple(layer for layer in self.layers if not layer.is_product)

    @cached_property
    def _index(self) -> Mapping[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    def by_name(self, name: str) -> Layer:
        """The layer called ``name``."""
        try:
            return self._index[name]
        except KeyError:
            raise UserError(f"{self.model}: no layer {name!r}; `hwsim model show` lists the layers") from None

    @property
    def total_macs(self) -> int:
        """Multiply-accumulates of all products, attention products included."""
        return sum(layer.macs for layer in self.layers)

    def uncounted(self) -> tuple[Layer, ...]:
        """Layers whose multiply-accumulates are not counted."""
        return tuple(layer for layer in self.layers if layer.op.startswith(UNCOUNTED))

    @property
    def other_parameters(self) -> int:
        """Parameters that are not packed as the weights of a product, each once."""
        return other_parameters(self.layers)

    def tied_weights(self) -> dict[str, tuple[str, ...]]:
        """Weights that more than one layer reads, with their readers (an embedding and its output layer)."""
        readers: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.weight is not None:
                readers.setdefault(layer.weight, []).append(layer.name)
        return {weight: tuple(names) for weight, names in readers.items() if len(names) > 1}

    def to_networkx(self) -> "networkx.DiGraph[str]":
        """The same graph for networkx: nodes carry the fields of ``Layer`` and float32 bytes."""
        import networkx

        graph: networkx.DiGraph[str] = networkx.DiGraph(model=self.model)
        for name, shape in zip(self.inputs, self.input_shapes, strict=False):
            graph.add_node(f"input:{name}", kind="input", op="input", output_shape=shape, macs=0, params=0)
        for layer in self.layers:
            attributes = {field.name: getattr(layer, field.name) for field in fields(layer)}
            graph.add_node(
                layer.name,
                **attributes,
                weight_bytes=layer.params * FLOAT_BYTES,
                output_bytes=layer.elements * FLOAT_BYTES,
            )
            for source, shape in zip(layer.inputs, layer.input_shapes, strict=True):
                graph.add_edge(source, layer.name, shape=shape, bytes=_volume(shape) * FLOAT_BYTES)
        return graph

    def to_json(self) -> str:
        """One JSON document; ``from_json`` reads it back."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **self.to_dict()}, sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, text: str) -> "LayerGraph":
        """Read what ``to_json`` wrote."""
        document: dict[str, Any] = json.loads(text)
        version = document.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise UserError(f"layer graph: schema_version {version!r} is unknown; this hwsim reads 1")
        layers = tuple(_layer_from_dict(entry) for entry in document.pop("layers"))
        return cls(layers=layers, **{key: _tuples(value) for key, value in document.items()})


def _layer_from_dict(entry: dict[str, Any]) -> Layer:
    conv = entry.pop("conv")
    values = {key: _tuples(value) for key, value in entry.items()}
    shape = None if conv is None else ConvShape(**{key: _tuples(value) for key, value in conv.items()})
    return Layer(**values, conv=shape)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _volume(shape: Shape) -> int:
    volume = 1
    for size in shape:
        volume *= size
    return volume


def other_parameters(layers: Sequence[Layer]) -> int:
    """Parameters that are not packed as the weights of a product, each once: embeddings, norms, biases.

    An embedding whose table is also an output layer's weight counts: that layer packs codes of its own.
    """
    found: dict[str | None, int] = {}
    for layer in layers:
        packed = layer.groups * layer.n * layer.k if layer.kind in ("linear", "conv2d") else 0
        name = layer.bias if packed else layer.weight
        found[name] = max(found.get(name, 0), layer.params - packed)
    return sum(found.values())
