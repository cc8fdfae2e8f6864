"""Rows of published tables beside the reference files: NVIDIA processors in MLPerf Inference, and Coral's own page.

Sizes and clocks of the processors for which hwsim ships no descriptor are vendors' figures, recalled and unverified;
each starts from the shipped descriptor of its architecture or the nearest one.
"""

from collections.abc import Callable, Iterable

from benchmarks.simulator.held_out import Row
from hwsim.simulate.calibration import Workload
from hwsim.simulate.class_prior import Parts
from hwsim.target.load import load_target
from hwsim.target.schema import Target

Load = Callable[[str, str, Target], tuple[Workload, Parts]]

OWN = {  # MLPerf Inference accelerators that a shipped descriptor describes
    "NVIDIA A100-PCIe-80GB": "dc_a100", "NVIDIA A100-SXM-80GB": "dc_a100", "NVIDIA H100-PCIe-80GB": "dc_h100",
    "NVIDIA L4": "dc_l4", "NVIDIA Jetson AGX Orin 64G": "orin_agx", "NVIDIA Orin": "orin_agx",
    "NVIDIA Jetson AGX Orin": "orin_agx",
}  # fmt: skip
RELATIVES = {  # descriptor, multiprocessors, gigahertz, gigabytes a second
    "NVIDIA T4": ("dc_l4", 40, 1.59, 320), "NVIDIA A2": ("dc_l4", 10, 1.77, 200),
    "NVIDIA A30": ("dc_a100", 56, 1.44, 933), "NVIDIA A40": ("dc_l4", 84, 1.74, 696),
    "NVIDIA L40": ("dc_l4", 142, 2.49, 864), "NVIDIA GeForce RTX 4090": ("dc_l4", 128, 2.52, 1008),
    "NVIDIA Orin NX 16G": ("orin_agx", 8, 0.918, 102), "NVIDIA Jetson AGX Orin 32G": ("orin_agx", 14, 0.93, 204.8),
}  # fmt: skip
BERT_MS = {  # BERT-large, 384 tokens, SingleStream, v3.0 and v3.1 (hardware_facts.md, section 1)
    "NVIDIA Jetson AGX Orin 64G": 5.64, "NVIDIA Orin NX 16G": 14.4, "NVIDIA L4": 2.53, "NVIDIA T4": 6.09,
    "NVIDIA A100-PCIe-80GB": 1.57,
}  # fmt: skip
CORAL_MS = {  # coral.ai/docs/edgetpu/benchmarks: USB 3.0 behind a desktop, Dev Board (hardware_facts.md, section 6)
    "mobilenet_v1": (2.4, 2.4), "mobilenet_v2": (2.6, 2.6), "googlenet": (3.4, 4.1), "inception_v4": (85, 102),
    "inception_resnet_v2": (57, 69), "resnet50_299": (49, 56), "resnet152_299": (128, 151), "densenet": (20, 25),
    "vgg16": (296, 343), "vgg19": (308, 357), "efficientnet_es": (5.1, 5.5), "efficientnet_em": (8.7, 10.6),
}  # fmt: skip


def nvidia_rows(table: list[dict[str, str]], load: Load) -> Iterable[Row]:
    """MLPerf Inference closed, SingleStream: the best result of each accelerator and network (p90 milliseconds)."""
    best: dict[tuple[str, str], float] = {(name, "bert_large"): ms for name, ms in BERT_MS.items()}
    for row in table:
        name = row["accelerator"]
        if (
            row["scenario"] == "SingleStream"
            and row["accelerators_per_node"] == "1"
            and (name in OWN or name in RELATIVES)
        ):
            key = name, row["model"]
            best[key] = min(best.get(key, 1e9), float(row["result"]))
    for (name, network), milliseconds in best.items():
        target = load_target(OWN[name]) if name in OWN else _relative(*RELATIVES[name])
        kind = "edge_gpu" if "Orin" in name else "datacenter_gpu"
        workload, parts = load(network, "w8a8", target)
        yield Row(
            f"{name}, TensorRT", kind, network, workload, target, name in OWN, milliseconds / 1e3, parts
        )


def _relative(base: str, units: int, gigahertz: float, bandwidth: float) -> Target:
    target = load_target(base)
    last = len(target.memories) - 1
    return target.replace(
        {"units.count": units, "clock_hz": gigahertz * 1e9, f"memories.{last}.bandwidth": bandwidth * 1e9}
    )


def coral_rows(load: Load) -> Iterable[Row]:
    """Coral Edge TPU behind USB 3.0, which is the shipped descriptor's, and on the Dev Board."""
    target = load_target("edge_tpu")
    for network, latencies in CORAL_MS.items():
        workload, parts = load(network, "w8a8", target)
        for host, milliseconds in zip(("USB 3.0", "Dev Board"), latencies, strict=True):
            own = host == "USB 3.0"
            yield Row(
                f"Edge TPU, {host}", "edge_tpu", network, workload, target, own, milliseconds / 1e3, parts
            )
