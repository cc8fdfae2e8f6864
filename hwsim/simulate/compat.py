"""Each layer of a network as SCALE-Sim 3.0.0 counts it, beside the corrected figure.

Grouped convolutions and the heads of an attention product are equal layers that run one after the other, as in
SCALE-Sim's topologies; padded inputs are counted where a window touches them.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hwsim.errors import UserError
from hwsim.simulate.systolic import SystolicLayer, systolic_counts
from hwsim.target.engines import SystolicEngine

if TYPE_CHECKING:
    from hwsim.model.graph import Layer, LayerGraph
    from hwsim.target.schema import Target


@dataclass(frozen=True)
class ComparedLayer:
    """Cycles of all instances; utilisation in percent, corrected."""

    name: str
    instances: int
    published_cycles: int
    corrected_cycles: int
    published_utilisation: float
    utilisation: float

    def document(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def compared_layers(target: "Target", graph: "LayerGraph") -> list[ComparedLayer]:
    """Both counts of every product on the target's first systolic engine."""
    arrays = [engine for engine in target.engines if isinstance(engine, SystolicEngine)]
    if not arrays:
        raise UserError(
            f"--compat scalesim: {target.name} has no systolic engine; name a target that has one"
        )
    array = arrays[0]
    found: list[ComparedLayer] = []
    for layer in graph.products():
        one, instances = systolic_layer(layer), layer.batch * layer.groups
        published = systolic_counts(one, array.rows, array.columns, array.dataflow, "scalesim")
        corrected = systolic_counts(one, array.rows, array.columns, array.dataflow)
        found.append(
            ComparedLayer(
                layer.name, instances, published.cycles * instances, corrected.cycles * instances,
                published.overall_utilisation, corrected.overall_utilisation,
            )
        )  # fmt: skip
    return found


def systolic_layer(layer: "Layer") -> SystolicLayer:
    """One instance of a product as SCALE-Sim sees it: the padded extents that the kernel touches."""
    conv = layer.conv
    if conv is None:
        return SystolicLayer.gemm(layer.m, layer.n, layer.k, layer.name)
    touched = [
        (out - 1) * step + kernel
        for out, step, kernel in zip(conv.out_hw, conv.stride, conv.kernel, strict=True)
    ]
    channels = conv.in_channels // layer.groups
    one = SystolicLayer.conv(
        (touched[0], touched[1]), conv.kernel, channels, layer.n, conv.stride, layer.name
    )
    images = layer.m // one.m
    return one if images == 1 else SystolicLayer.gemm(layer.m, layer.n, layer.k, layer.name)
