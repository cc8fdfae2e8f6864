"""Hailo's processors in Hailo's own model zoo: frames a second at batch 1 and 8, 8-bit weights where it does not say.

All of them start from the shipped descriptor of the Hailo-8. What a chip has room for and what it computes goes with
its TOPS; where its weights come from is its own. Both batches of a network are rows of one device.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache

from benchmarks.simulator.held_out import Row
from hwsim.model.graph import Layer
from hwsim.simulate.calibration import Workload
from hwsim.simulate.class_prior import Parts
from hwsim.target.load import load_target
from hwsim.target.schema import Target

Load = Callable[[str, str, Target, int], tuple[Workload, Parts]]

TOPS = {
    "HAILO8": 26,
    "HAILO8L": 13,
    "HAILO10H": 20,
    "HAILO15H": 20,
    "HAILO15L": 7,
}  # int8; recalled, unverified
# GB/s from where the weights come: four or two lanes of PCIe 3.0, else LPDDR4 of the chip's own (recalled, unverified).
BANDWIDTH = {"HAILO8": 3.94, "HAILO8L": 1.97, "HAILO10H": 17.0, "HAILO15H": 17.0, "HAILO15L": 17.0}
SIZES = {"efficientnet_lite1": 240, "efficientnet_lite3": 280, "efficientnet_m": 240, "efficientnet_l": 300}


def hailo_rows(table: list[dict[str, str]], networks: dict[str, str], load: Load) -> Iterable[Row]:
    """Each network of the table that timm has, at the size it was measured."""
    for row in table:
        network, size = row["model"], SIZES.get(row["model"], 224)
        if network not in networks or not row["input"].startswith(f"{size}x"):
            continue
        target = processor(row["device"])
        for images in (1, 8):
            rate = row[f"fps_batch{images}"]
            if rate:
                workload, parts = load(network, "w8a8", target, images)
                seconds = images / float(rate)
                yield Row(row["device"], "edge_npu", network, workload, target, True, seconds, parts)


@cache
def processor(name: str) -> Target:
    """A relative of the Hailo-8, everything in proportion to its TOPS but the memory outside."""
    target = load_target("hailo8")
    share = TOPS[name] / TOPS["HAILO8"]
    assert target.contexts is not None
    assert target.vector is not None
    array, lanes = target.engines
    changes = {
        "engines.0.macs_per_cycle": array.rates()[8, 8] * share,
        "engines.1.macs_per_cycle": lanes.rates()[8, 8] * share,
        "memories.1.bytes": 26e6 * share,
        "memories.2.bandwidth": BANDWIDTH[name] * 1e9,
        "contexts.operators": int(target.contexts.operators * share),
    }
    rates = target.vector.elements_per_cycle
    changes |= {f"vector.elements_per_cycle.{kind}": rate * share for kind, rate in rates.items()}
    return target.replace(changes)


def batched(layer: Layer, images: int) -> Layer:
    """The same layer on several images."""
    grown = {"batch": layer.batch * images} if layer.kind == "matmul" else {"m": layer.m * images}
    shapes = tuple((images * shape[0], *shape[1:]) if shape else shape for shape in layer.input_shapes)
    return replace(
        layer, **grown, elements=layer.elements * images, macs=layer.macs * images, input_shapes=shapes
    )
